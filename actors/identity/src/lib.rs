//! Who somebody is: claims on what must be unique, users, tenants, sessions, and the tokens that
//! stand for them.
//!
//! [`claim`], [`user`], [`tenant`], [`session`], [`api_key`], [`signing`], [`mail`] and
//! [`mail_link`] are the kinds of actors, and so are [`invitation`] and the processes
//! [`new_tenant`] and [`erasure`], and [`agency`];
//! [`role`] is what roles and scopes there are. [`service::Identity`] is what the gateway and the
//! other crates call. Below them are the pure parts: [`password`], [`refresh`], [`signing_keys`],
//! [`token`] and [`token_cache`].

mod acting;
pub mod agency;
pub mod api_key;
pub mod claim;
pub mod confirmation_policy;
pub mod device_login;
pub mod device_sign_in;
pub mod erasure;
pub mod factor_login;
pub mod factor_removal;
pub mod frozen;
pub mod invitation;
mod inviting;
pub mod key_check;
pub mod login;
pub mod mail;
pub mod mail_link;
mod mail_text;
pub mod membership;
pub mod new_tenant;
pub mod notice_mail;
pub mod operator;
pub mod passkey;
pub mod password;
pub mod password_import;
pub mod password_rules;
pub mod refresh;
pub mod role;
pub mod second_factor;
pub mod service;
pub mod session;
pub mod sessions;
pub mod sign_in_policy;
mod sign_in_token;
pub mod signing;
pub mod signing_keys;
pub mod soft_passkey;
pub mod sponsor;
pub mod tell;
pub mod tenant;
pub mod throttle;
pub mod token;
pub mod token_cache;
pub mod totp;
pub mod user;
pub mod user_settings;

use std::sync::Arc;

use supervision::system::SystemBuilder;
use supervision::{Address, Class, Entity, Home, OwnerKey, Refusal, Timestamp};

pub use inviting::{InvitationView, Inviting, Joining};
pub use service::{Identity, IdentitySettings};

/// Registers the kinds, and the ports that this crate and those to its right use: [`Identity`],
/// [`claim::ClaimKey`], [`token_cache::Epochs`], [`signing::SigningKeys`] and
/// [`mail_link::LinkKey`]. Who sends mail puts in a [`mail::PostOffice`]; whoever has a part in an
/// erasure puts in [`erasure::Farewells`] behind this.
pub fn register(builder: SystemBuilder, identity: &Arc<Identity>) -> SystemBuilder {
    builder
        .kind::<claim::Claim>()
        .kind::<user::User>()
        .kind::<tenant::Tenant>()
        .kind::<session::Session>()
        .kind::<api_key::ApiKeys>()
        .kind::<signing::SigningKeyRing>()
        .kind::<invitation::Invitation>()
        .kind::<new_tenant::NewTenant>()
        .kind::<mail::Mail>()
        .kind::<mail_link::MailLink>()
        .kind::<second_factor::SecondFactors>()
        .kind::<sign_in_policy::SignInPolicy>()
        .kind::<device_login::DeviceLogin>()
        .kind::<user_settings::UserSettings>()
        .kind::<erasure::Erasure>()
        .kind::<agency::Agency>()
        .kind::<agency::AgencyMember>()
        .port(Arc::new(erasure::Farewells::default()))
        .port(identity.clone())
        .port(identity.claim_key().clone())
        .port(identity.epochs().clone())
        .port(identity.frozen().clone())
        .port(identity.signing_keys().clone())
        .port(Arc::new(mail_link::LinkKey::of(identity.claim_key())))
}

/// The address of an entity whose id is made of an id's text or of digits, so that it always fits.
fn address<E: Entity>(id: &str, owner: OwnerKey, home: Home) -> Address<E> {
    Address::new(id, owner, home).unwrap_or_else(|| panic!("{id:?} is no id of a {}", E::KIND))
}

/// The time as tokens and families count it: ms since 1970, none before.
fn unix_ms(at: Timestamp) -> u64 {
    at.0.max(0) as u64
}

/// 500: what must work did not. `what` is for the log; the caller learns nothing of it.
fn internal(what: &str) -> Refusal {
    tracing::error!(what, "identity failed");
    Refusal::new(Class::Crashed, "internal_error", "this could not be done; it was noted")
}

/// What was erased is not there.
fn unless_erased<T>(found: Result<Option<T>, Refusal>) -> Result<Option<T>, Refusal> {
    found.or_else(|refusal| if refusal.is_erased() { Ok(None) } else { Err(refusal) })
}

/// 401: the one answer to every token that is not good.
fn invalid_token() -> Refusal {
    Refusal::new(Class::Unauthenticated, "invalid_token", "this token is not valid; log in again")
}
