//! A user: who may log in, where, and as what.
//!
//! Invariants
//! - The e-mail address and the name are sealed under the user's own key; erasing that key erases
//!   them. The password is here only as its hash.
//! - What makes tokens wrong (a change of password or standing) raises the epoch; tokens of an
//!   older epoch are refused. What ends logins too also moves `sessions_from` up.
//! - Role and scopes belong to a membership: what one tenant grants counts in no other. A change of
//!   one makes the tokens for that tenant wrong, and no others.
//! - Of what a tenant tells of a membership the latest counts, in whichever order it arrives.
//! - What was made before the user left a tenant, or before the address's owner took an account
//!   over that was never verified, counts no more, though the user comes back ([`MadeUnder`]).
//!
//! Deliberate limits
//! - The tenant decides who its members are and tells them ([`crate::tenant`]); a token says what
//!   is here. After a tenant's own creation nobody else writes memberships.
//! - The last login is an observation and is not kept here.

mod nickname;
mod passwords;
mod standing;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Command, EffectContext, Entity, Handle, Refusal, Timestamp, Turn};
use types::{JsonBytes, Personal, Scopes, TenantId, UserId, home_of, owner_of_user};

use crate::password::PasswordHash;
use crate::token_cache::{Epochs, OwnerClass, OwnerKey};
use crate::unix_ms;

pub use nickname::{NICKNAME, NicknameSet, SetNickname, check_nickname};
pub use passwords::{
    AwaitVerification, Conclude, PasswordReplaced, Reclaimed, ReplacePassword, ResetPassword,
    VerificationAwaited,
};
pub use standing::{EndSessions, HearMembership, MadeUnder};

/// How many tenants one user may belong, or have belonged, to.
pub const MEMBERSHIPS_MAX: usize = 1_000;
/// What [`Profile::email`] is sealed as.
pub const EMAIL_LABEL: &str = "user.email";
/// What [`Profile::name`] is sealed as.
pub const NAME_LABEL: &str = "user.name";

/// What a user is in one tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// The role, as the tenant calls it.
    pub role: String,
    /// What the role and further grants cover.
    pub scopes: Scopes,
}

/// How a user proves who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthMethod {
    /// By e-mail address and password.
    Password,
    /// Somebody else vouches for the user: there is no password.
    External,
}

impl AuthMethod {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::External => "external",
        }
    }
}

/// What is known of a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// The id.
    pub id: UserId,
    /// The tenant whose chain this user's records are in: the first.
    pub home: TenantId,
    /// The e-mail address, sealed as [`EMAIL_LABEL`].
    pub email: Personal,
    /// The full name, sealed as [`NAME_LABEL`].
    pub name: Option<Personal>,
    /// The password's hash.
    pub password: Option<PasswordHash>,
    /// How the user logs in.
    pub auth_method: AuthMethod,
    /// Whether the user has shown that the address is their own.
    pub email_verified: bool,
    /// Whether the user may do anything.
    pub active: bool,
    /// Free attributes, a JSON object.
    pub attributes: JsonBytes,
    /// The tenants.
    pub memberships: BTreeMap<TenantId, Membership>,
    /// Since when.
    pub created_at: Timestamp,
    /// What others may call the user, sealed; it is claimed.
    pub nickname: Option<Personal>,
}

/// A user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct User {
    /// What is known; `None` until created.
    pub profile: Option<Profile>,
    /// The epoch of the user's tokens.
    pub epoch: u64,
    /// Sessions that were opened under an older epoch than this are over.
    pub sessions_from: u64,
    /// The number of the latest change that each tenant has told of.
    pub told: BTreeMap<TenantId, u64>,
    /// Whether nobody gets in by password before the address is verified.
    pub awaits_verification: bool,
    /// How often another password was set.
    pub password_changes: u64,
    /// API keys that were made under an older epoch than this are over.
    pub keys_from: u64,
    /// The number of each tenant's change since which the user was last no member there.
    pub left: BTreeMap<TenantId, u64>,
}

/// What a login or a token check needs of a user.
#[derive(Clone, Debug)]
pub struct Account {
    /// The id.
    pub user: UserId,
    /// The e-mail address, sealed as [`EMAIL_LABEL`].
    pub email: Personal,
    /// The password's hash.
    pub password: Option<PasswordHash>,
    /// Whether the user may do anything.
    pub active: bool,
    /// The tenant that was asked for, else the home, else the first; `None` for no member.
    pub membership: Option<(TenantId, Membership)>,
    /// The epoch of the user's tokens.
    pub epoch: u64,
    /// See [`User::sessions_from`].
    pub sessions_from: u64,
    /// The epoch of the user's tokens for that tenant.
    pub membership_epoch: u64,
    /// See [`User::password_changes`].
    pub password_changes: u64,
    /// What was made under less than this for that tenant is over.
    pub keys_from: MadeUnder,
}

impl User {
    /// Where a user lives whose first tenant is `home`.
    pub fn address(user: UserId, home: TenantId) -> Address<Self> {
        crate::address(&user.to_string(), owner_of_user(user), home_of(home))
    }

    /// The user as seen by a login to `tenant`; `None` when there is no such user.
    pub fn account(&self, tenant: Option<TenantId>) -> Option<Account> {
        let profile = self.profile.as_ref()?;
        let own = |tenant: &TenantId| profile.memberships.get_key_value(tenant);
        let membership = match tenant {
            Some(tenant) => own(&tenant),
            None => own(&profile.home).or_else(|| profile.memberships.first_key_value()),
        };
        let told = |(tenant, _): (&TenantId, _)| self.told.get(tenant).copied();
        let left = tenant.or(membership.map(|(tenant, _)| *tenant));
        let left = left.and_then(|tenant| self.left.get(&tenant)).copied().unwrap_or_default();
        Some(Account {
            membership_epoch: membership.and_then(told).unwrap_or_default(),
            keys_from: MadeUnder { user_epoch: self.keys_from, membership: left },
            user: profile.id,
            email: profile.email.clone(),
            password: profile.password.clone().filter(|_| !self.awaits_verification),
            active: profile.active,
            membership: membership.map(|(tenant, membership)| (*tenant, membership.clone())),
            epoch: self.epoch,
            sessions_from: self.sessions_from,
            password_changes: self.password_changes,
        })
    }

    fn existing(&self) -> Result<&Profile, Refusal> {
        self.profile.as_ref().ok_or_else(|| Refusal::not_found("user"))
    }

    fn raise_epoch(&mut self, ends_sessions: bool) {
        self.epoch += 1;
        if ends_sessions {
            self.sessions_from = self.epoch;
        }
    }
}

/// The user was created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// The id.
    pub id: UserId,
    /// The first tenant.
    pub home: TenantId,
    /// What the user is there.
    pub membership: Membership,
    /// The e-mail address.
    pub email: Personal,
    /// The full name.
    pub name: Option<Personal>,
    /// The password's hash.
    pub password: Option<PasswordHash>,
    /// How the user logs in.
    pub auth_method: AuthMethod,
    /// Whether the address is known to be the user's.
    pub email_verified: bool,
    /// Free attributes.
    pub attributes: JsonBytes,
}

/// The user showed that the address is their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmailVerified {}

/// Another password: every token and session before it is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasswordChanged {
    /// The new password's hash.
    pub password: PasswordHash,
}

/// The same password, hashed under the present policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasswordRehashed {
    /// The new hash.
    pub password: PasswordHash,
}

/// The user belongs to a tenant, or is something else there now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MembershipSet {
    /// The tenant.
    pub tenant: TenantId,
    /// What the user is there.
    pub membership: Membership,
    /// The number of the tenant's change.
    pub version: u64,
}

/// The user belongs to a tenant no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MembershipRemoved {
    /// The tenant.
    pub tenant: TenantId,
    /// The number of the tenant's change.
    pub version: u64,
}

/// Other attributes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttributesSet {
    /// All of them.
    pub attributes: JsonBytes,
}

/// The user was switched off or on again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSet {
    /// Whether the user may do anything.
    pub active: bool,
}

/// Every token and session of the user was revoked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokensRevoked {}

supervision::events! {
    /// What happens to a user.
    pub enum UserEvent {
        /// Created.
        Created(Created) = "created", 1;
        /// The address is the user's.
        EmailVerified(EmailVerified) = "email_verified", 1;
        /// Another password.
        PasswordChanged(PasswordChanged) = "password_changed", 1;
        /// Another hash.
        PasswordRehashed(PasswordRehashed) = "password_rehashed", 1;
        /// A tenant, or another role there.
        MembershipSet(MembershipSet) = "membership_set", 1;
        /// A tenant less.
        MembershipRemoved(MembershipRemoved) = "membership_removed", 1;
        /// Other attributes.
        AttributesSet(AttributesSet) = "attributes_set", 1;
        /// Off or on.
        ActiveSet(ActiveSet) = "active_set", 1;
        /// Tokens and sessions revoked.
        TokensRevoked(TokensRevoked) = "tokens_revoked", 1;
        /// No password counts before the address is verified.
        VerificationAwaited(VerificationAwaited) = "verification_awaited", 1;
        /// Another password, while sessions go on.
        PasswordReplaced(PasswordReplaced) = "password_replaced", 1;
        /// The owner of the address took over an account that was never verified.
        Reclaimed(Reclaimed) = "reclaimed", 1;
        /// Another nickname.
        NicknameSet(NicknameSet) = "nickname_set", 1;
    }
}

/// What a user asks of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserEffect {
    /// The tokens before this epoch are refused from now on.
    RaiseEpoch {
        /// Whose.
        user: UserId,
        /// The new epoch.
        epoch: u64,
    },
}

impl Entity for User {
    const KIND: &'static str = "user";
    const PUBLISHED: bool = true;
    const SNAPSHOT_VERSION: u16 = 3;
    type Event = UserEvent;
    type Effect = UserEffect;

    fn apply(&mut self, event: &UserEvent, at: Timestamp) {
        if let UserEvent::Created(created) = event {
            self.profile = Some(new_profile(created, at));
        }
        let Some(profile) = &mut self.profile else { return };
        match event {
            UserEvent::Created(_) => {}
            UserEvent::EmailVerified(_) => {
                profile.email_verified = true;
                self.awaits_verification = false;
            }
            UserEvent::PasswordRehashed(it) => profile.password = Some(it.password.clone()),
            UserEvent::NicknameSet(it) => profile.nickname = Some(it.nickname.clone()),
            UserEvent::AttributesSet(it) => profile.attributes = it.attributes.clone(),
            UserEvent::PasswordChanged(it) => {
                profile.password = Some(it.password.clone());
                self.password_changes += 1;
                self.raise_epoch(true);
            }
            UserEvent::VerificationAwaited(_) => self.awaits_verification = true,
            UserEvent::PasswordReplaced(it) => {
                profile.password = Some(it.password.clone());
                self.password_changes += 1;
            }
            UserEvent::MembershipSet(it) => {
                profile.memberships.insert(it.tenant, it.membership.clone());
                self.told.insert(it.tenant, it.version);
            }
            UserEvent::MembershipRemoved(it) => {
                profile.memberships.remove(&it.tenant);
                self.told.insert(it.tenant, it.version);
                self.left.insert(it.tenant, it.version);
            }
            UserEvent::Reclaimed(_) => {
                profile.email_verified = true;
                self.awaits_verification = false;
                self.raise_epoch(true);
                self.keys_from = self.epoch;
            }
            UserEvent::ActiveSet(it) => {
                profile.active = it.active;
                self.raise_epoch(true);
            }
            UserEvent::TokensRevoked(_) => self.raise_epoch(true),
        }
    }

    async fn perform(effect: UserEffect, context: EffectContext<Self>) {
        let UserEffect::RaiseEpoch { user, epoch } = effect;
        let owner = OwnerKey { class: OwnerClass::User, id: user.0 };
        let now = unix_ms(context.system.clock().now());
        context.system.port::<Epochs>().raise(owner, epoch, now);
    }

    fn observe(&self) -> serde_json::Value {
        let Some(profile) = &self.profile else { return json!({"exists": false}) };
        let role = |(tenant, membership): (&TenantId, &Membership)| {
            (tenant.to_string(), json!(membership.role))
        };
        json!({
            "id": profile.id, "home": profile.home, "active": profile.active,
            "has_password": profile.password.is_some(), "auth_method": profile.auth_method.name(),
            "email_verified": profile.email_verified,
            "awaits_verification": self.awaits_verification,
            "memberships": serde_json::Map::from_iter(profile.memberships.iter().map(role)),
            "created_at": types::rfc3339(profile.created_at),
            "epoch": self.epoch, "sessions_from": self.sessions_from,
        })
    }
}

fn new_profile(created: &Created, at: Timestamp) -> Profile {
    Profile {
        id: created.id,
        home: created.home,
        email: created.email.clone(),
        name: created.name.clone(),
        password: created.password.clone(),
        auth_method: created.auth_method,
        email_verified: created.email_verified,
        active: true,
        attributes: created.attributes.clone(),
        memberships: BTreeMap::from([(created.home, created.membership.clone())]),
        created_at: at,
        nickname: None,
    }
}

/// Records `event`, and asks for the epoch to be raised if it rose. Answers the epoch.
fn record(turn: &mut Turn<'_, User>, event: UserEvent) -> u64 {
    let before = turn.state().epoch;
    turn.record(event);
    let epoch = turn.state().epoch;
    if epoch > before
        && let Some(profile) = &turn.state().profile
    {
        let user = profile.id;
        turn.effect(UserEffect::RaiseEpoch { user, epoch });
    }
    epoch
}

/// Creates the user, with the first membership. A repetition with the same id and address is no
/// change; with another address it is refused with `already_exists`.
pub struct Create {
    /// The id.
    pub id: UserId,
    /// The first tenant.
    pub home: TenantId,
    /// What the user is there.
    pub membership: Membership,
    /// The e-mail address, normalised, in clear; it is sealed here.
    pub email: String,
    /// The full name in clear; it is sealed here.
    pub name: Option<String>,
    /// The password's hash.
    pub password: Option<PasswordHash>,
    /// How the user logs in.
    pub auth_method: AuthMethod,
    /// Whether the address is known to be the user's.
    pub email_verified: bool,
    /// Free attributes, a JSON object; null is an empty one.
    pub attributes: JsonBytes,
}

impl Command for Create {
    const NAME: &'static str = "create";
}

impl Handle<Create> for User {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Create) -> Result<(), Refusal> {
        if let Some(profile) = &turn.state().profile {
            let known = profile.email.open(turn.keys(), EMAIL_LABEL);
            let is_same = profile.home == command.home && known.as_ref() == Some(&command.email);
            let message = "there is a user with this id already";
            return is_same
                .then_some(())
                .ok_or_else(|| Refusal::conflict("already_exists", message));
        }
        let id = command.id;
        let attributes = match command.attributes == JsonBytes::default() {
            true => json!({}).into(),
            false => command.attributes,
        };
        let seal = |label, plain: &str| Personal::seal(turn.keys(), id, label, plain);
        let created = Created {
            id,
            home: command.home,
            membership: command.membership,
            email: seal(EMAIL_LABEL, &command.email)?,
            name: command.name.map(|name| seal(NAME_LABEL, &name)).transpose()?,
            password: command.password,
            auth_method: command.auth_method,
            email_verified: command.email_verified,
            attributes,
        };
        turn.record(UserEvent::Created(created));
        Ok(())
    }
}

/// The user has shown that the address is their own.
pub struct VerifyEmail {}

impl Command for VerifyEmail {
    const NAME: &'static str = "verify_email";
}

impl Handle<VerifyEmail> for User {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: VerifyEmail) -> Result<(), Refusal> {
        if !turn.state().existing()?.email_verified {
            turn.record(UserEvent::EmailVerified(EmailVerified {}));
        }
        Ok(())
    }
}

/// Sets another password, which ends every session. Answers the new epoch.
pub struct ChangePassword {
    /// The new password's hash.
    pub password: PasswordHash,
    /// The hash that the old password was compared with: if it is not the present one any more,
    /// the change is refused with `password_changed`. `None` where no old password is needed.
    pub replaces: Option<PasswordHash>,
}

impl Command for ChangePassword {
    const NAME: &'static str = "change_password";
}

fn check_replaced(user: &User, replaces: Option<&PasswordHash>) -> Result<(), Refusal> {
    let present = user.existing()?.password.as_ref();
    let message = "the password was changed meanwhile";
    let is_present = replaces.is_none() || replaces == present;
    is_present.then_some(()).ok_or_else(|| Refusal::conflict("password_changed", message))
}

impl Handle<ChangePassword> for User {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: ChangePassword) -> Result<u64, Refusal> {
        check_replaced(turn.state(), command.replaces.as_ref())?;
        let password = command.password;
        Ok(record(turn, UserEvent::PasswordChanged(PasswordChanged { password })))
    }
}

/// Keeps the same password under the present policy's hash. It ends nothing.
pub struct RenewHash {
    /// The hash that the password was just found to match.
    pub replaces: PasswordHash,
    /// The new one.
    pub password: PasswordHash,
}

impl Command for RenewHash {
    const NAME: &'static str = "renew_hash";
}

impl Handle<RenewHash> for User {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: RenewHash) -> Result<(), Refusal> {
        check_replaced(turn.state(), Some(&command.replaces))?;
        let password = command.password;
        turn.record(UserEvent::PasswordRehashed(PasswordRehashed { password }));
        Ok(())
    }
}

/// Sets the free attributes.
pub struct SetAttributes {
    /// All of them, a JSON object.
    pub attributes: JsonBytes,
}

impl Command for SetAttributes {
    const NAME: &'static str = "set_attributes";
}

impl Handle<SetAttributes> for User {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: SetAttributes) -> Result<(), Refusal> {
        let attributes = command.attributes;
        if turn.state().existing()?.attributes != attributes {
            turn.record(UserEvent::AttributesSet(AttributesSet { attributes }));
        }
        Ok(())
    }
}

/// Switches the user off, which ends every token and session, or on again. Answers the epoch.
pub struct SetActive {
    /// Whether the user may do anything.
    pub active: bool,
}

impl Command for SetActive {
    const NAME: &'static str = "set_active";
    const ESSENTIAL: bool = true;
}

impl Handle<SetActive> for User {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: SetActive) -> Result<u64, Refusal> {
        let active = command.active;
        if turn.state().existing()?.active == active {
            return Ok(turn.state().epoch);
        }
        Ok(record(turn, UserEvent::ActiveSet(ActiveSet { active })))
    }
}

/// Ends every token and session of the user. Answers the new epoch.
pub struct BumpEpoch {}

impl Command for BumpEpoch {
    const NAME: &'static str = "bump_epoch";
    const ESSENTIAL: bool = true;
}

impl Handle<BumpEpoch> for User {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, _: BumpEpoch) -> Result<u64, Refusal> {
        turn.state().existing()?;
        Ok(record(turn, UserEvent::TokensRevoked(TokensRevoked {})))
    }
}

#[cfg(test)]
mod tests;
