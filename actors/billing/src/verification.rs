//! What a verified e-mail address brings: all welcome credits can be spent.
//!
//! Invariants
//! - The wallet is unlocked before the address counts as verified, so nobody is verified and still
//!   limited. Every step may be repeated; the link is what can be used once, and it is used last.

use identity::Identity;
use identity::mail_link::{OpenLink, Purpose};
use identity::password::PasswordHash;
use identity::user::{User, VerifyEmail};
use supervision::{Origin, Refusal, System};
use types::{TenantId, UserId};

use crate::wallet::{UnlockWelcome, Wallet, wallet_address};

/// Uses the link of an open token: the address is verified, the welcome credits are unlocked, and
/// the password is this one if one is given. Refused as [`Identity::use_link`].
pub async fn use_link(
    system: &System,
    link: &OpenLink,
    password: Option<PasswordHash>,
    origin: Origin,
) -> Result<(), Refusal> {
    unlock(system, link.issued.user, link.issued.home, &origin).await?;
    system.port::<Identity>().use_link(link, password, origin).await
}

/// Opens a link, and uses it to verify an address. Answers whose it is.
pub async fn verify(
    system: &System,
    token: &str,
    by: u128,
    origin: Origin,
) -> Result<UserId, Refusal> {
    let identity = system.port::<Identity>();
    let link = identity.open_link(Purpose::VerifyEmail, token, by).await?;
    use_link(system, &link, None, origin).await?;
    Ok(link.issued.user)
}

/// Takes an address as verified on somebody else's word, an operator's.
pub async fn vouch(system: &System, user: UserId, origin: Origin) -> Result<(), Refusal> {
    let home = user.direct_tenant();
    unlock(system, user, home, &origin).await?;
    let users = system.directory::<User>();
    users.ask(&User::address(user, home), VerifyEmail {}, origin).await
}

/// Only the tenant that came with the user was given credits for the address.
async fn unlock(
    system: &System,
    user: UserId,
    home: TenantId,
    origin: &Origin,
) -> Result<(), Refusal> {
    if home != user.direct_tenant() {
        return Ok(());
    }
    let wallets = system.directory::<Wallet>();
    wallets.ask(&wallet_address(home), UnlockWelcome, origin.clone()).await
}
