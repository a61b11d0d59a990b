//! What others may call a user: unique over the installation by a claim, as developers' nicknames
//! are, and sealed.
//!
//! Deliberate limit: a process that ends between the claim and the change leaves the new nickname
//! to its user, who takes it by asking again.

use serde::{Deserialize, Serialize};
use supervision::{Address, Command, Handle, Origin, Refusal, Turn};
use types::{Personal, UserId};

use super::{User, UserEvent};
use crate::claim::{
    Claim, ClaimTarget, Confirm, Namespace, Release, Reservation, Reserve, claim_address,
};
use crate::service::Identity;

/// Nicknames, unique over the installation.
pub const NICKNAME: Namespace = Namespace::new("nickname");
/// What [`NicknameSet::nickname`] is sealed as.
const LABEL: &str = "user.nickname";
/// The fewest and the most characters.
const CHARS: std::ops::RangeInclusive<usize> = 3..=30;

/// The user is called otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NicknameSet {
    /// How, sealed.
    pub nickname: Personal,
}

/// 422 unless somebody can be called so.
pub fn check_nickname(text: &str) -> Result<(), Refusal> {
    let is_alphanumeric = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit();
    let fits = CHARS.contains(&text.len())
        && text.bytes().all(|it| is_alphanumeric(it) || matches!(it, b'_' | b'-'))
        && text.bytes().next().is_some_and(is_alphanumeric)
        && text.bytes().last().is_some_and(is_alphanumeric);
    let message = "must be 3 to 30 of a-z, 0-9, - and _, with a letter or digit at either end";
    fits.then_some(()).ok_or_else(|| Refusal::invalid("nickname", message))
}

/// Sets the nickname, which the caller has claimed for the user. Answers the one before, which is
/// the caller's to give back.
pub struct SetNickname {
    /// In clear; it is sealed here.
    pub nickname: String,
}

impl Command for SetNickname {
    const NAME: &'static str = "set_nickname";
}

impl Handle<SetNickname> for User {
    type Reply = Option<String>;

    fn handle(turn: &mut Turn<'_, Self>, command: SetNickname) -> Result<Option<String>, Refusal> {
        let profile = turn.state().existing()?;
        let known = profile.nickname.as_ref().and_then(|it| it.open(turn.keys(), LABEL));
        if known.as_ref() == Some(&command.nickname) {
            return Ok(None);
        }
        let nickname = Personal::seal(turn.keys(), profile.id, LABEL, &command.nickname)?;
        turn.record(UserEvent::NicknameSet(NicknameSet { nickname }));
        Ok(known)
    }
}

impl Identity {
    /// What a user is called, if they are.
    pub async fn nickname(&self, user: UserId) -> Result<Option<String>, Refusal> {
        let system = self.system()?;
        let Some(address) = self.user_address(user)? else { return Ok(None) };
        let look = |user: &User| user.profile.as_ref().and_then(|it| it.nickname.clone());
        let users = system.directory::<User>();
        let sealed = users.look(&address, system.system_origin(), look).await?;
        Ok(sealed.and_then(|it| it.open(system.journal().keys(), LABEL)))
    }

    /// Claims a nickname for a user, before [`SetNickname`] is asked. 422 for what is none, 409
    /// `nickname_taken`.
    pub async fn claim_nickname(
        &self,
        address: &Address<User>,
        user: UserId,
        nickname: &str,
        origin: Origin,
    ) -> Result<(), Refusal> {
        check_nickname(nickname)?;
        let system = self.system()?;
        let (claims, holder) = (system.directory::<Claim>(), user.0);
        let claim = claim_address(NICKNAME, nickname, self.claim_key());
        let reserved = claims.ask(&claim, Reserve { holder }, origin.clone()).await;
        let reserved = reserved.map_err(|refusal| match refusal.code.as_str() {
            "already_claimed" => {
                Refusal::conflict("nickname_taken", "somebody else is called so already")
            }
            _ => refusal,
        })?;
        if matches!(reserved, Reservation::Confirmed(_)) {
            return Ok(());
        }
        let tenant = types::TenantId(address.place().home.0);
        let target = ClaimTarget { user, tenant };
        claims.ask(&claim, Confirm { holder, target }, origin).await
    }

    /// Gives a nickname back that is a user's no more.
    pub async fn release_nickname(
        &self,
        user: UserId,
        nickname: &str,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let system = self.system()?;
        let claim = claim_address(NICKNAME, nickname, self.claim_key());
        system.directory::<Claim>().ask(&claim, Release { holder: user.0 }, origin).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nickname_is_short_and_plain() {
        for good in ["ada", "a_1", "x-y-z", "0ab", &"a".repeat(30)] {
            assert!(check_nickname(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", "Ada", "_ada", "ada-", "a b", "ad\u{e4}", &"a".repeat(31)] {
            assert!(check_nickname(bad).is_err(), "{bad}");
        }
    }
}
