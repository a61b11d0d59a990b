//! The identity of the installation, as the gateway and the other crates use it: who a token
//! stands for, who a user is, and the end of either. A port; logging in is in [`crate::login`].
//!
//! Invariants
//! - [`Identity::authenticate`] checks a signature once; after that, a digest and the revocation
//!   epochs. A token that is not in the cache is also held against its user, session and tenant as
//!   they stand, so that a restart forgets no revocation.
//! - Every method here that revokes raises the epoch before it answers. Who asks an entity by
//!   itself to revoke must do the same, or leave it to the entity's effect, which comes a moment
//!   later.
//!
//! Deliberate limits
//! - Refusals for reasons of this server (a full mailbox, no room) are 503, never 401: a client
//!   takes 401 for the end of its login.
//! - The time of the last login is kept in memory, for the latest [`LOGINS_KEPT`] users.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use futures::future::join_all;
use parking_lot::Mutex;
use persistence::{Generations, KeyRing};
use serde_json::Value;
use supervision::{Address, Class, Command, Entity, Handle, Origin, Refusal, System, Timestamp};
use types::{Caller, CallerKind, JsonBytes, Scopes, SessionId, TenantId, UserId};

use crate::agency::agency_of;
use crate::claim::{ClaimKey, EmailAddress};
use crate::device_sign_in::{PACES_KEPT, Pace};
use crate::frozen::Frozen;
use crate::key_check::KeyDesk;
use crate::passkey::Site;
use crate::password::{HashError, Hasher, Password, PasswordError, PasswordHash};
use crate::password_rules;
use crate::session::{ENDED_EPOCH, Revoke, Session};
use crate::sign_in_token::StageKey;
use crate::signing::{Install, Rotate, SigningKeyRing, SigningKeys};
use crate::signing_keys::{KeyError, KeySet, SigningAlgorithm};
use crate::tenant::Tenant;
use crate::throttle::{ADDRESS_ATTEMPTS_MAX, ATTEMPTS_MAX, Pair, Throttle};
use crate::token::{self, CarriedEpochs, TOKEN_BYTES_MAX};
use crate::token_cache::{
    self, CACHE_CAPACITY, CredentialDigest, Epochs, OwnerClass, OwnerKey, TokenCache,
};
use crate::user::{Account, AuthMethod, EMAIL_LABEL, NAME_LABEL, Profile, User};
use crate::{internal, invalid_token, unix_ms, unless_erased};

/// How many users' last logins are remembered, at most twice over.
pub const LOGINS_KEPT: usize = 65_536;
/// How many users' places are remembered, at most twice over.
const HOMES_KEPT: usize = 16_384;
/// How many mails a minute are free, by network address and by recipient.
pub const MAILS_MAX: u32 = 10;
/// How long a signing key signs by default, in milliseconds: 90 days.
pub const KEY_PERIOD_MS: u64 = 90 * 24 * 3_600_000;
/// How many of a user's tenants [`Identity::tenants`] shows.
pub const TENANTS_SHOWN_MAX: usize = 100;

/// What an installation may choose.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// The `iss` of every token.
    pub issuer: String,
    /// The `aud` of every token.
    pub audience: String,
    /// The life of an access token (s).
    pub token_life_s: u64,
    /// The life of an access token that the account API issues (s).
    pub account_token_life_s: u64,
    /// The algorithm of new signing keys.
    pub algorithm: SigningAlgorithm,
    /// How long a signing key signs (ms).
    pub key_period_ms: u64,
    /// How many login attempts a minute are free, by address and account.
    pub login_attempts_max: u32,
    /// How many mails a minute strangers may ask for, by network address and by recipient.
    pub mails_max: u32,
    /// How many failed login attempts a minute are free, by address.
    pub login_address_attempts_max: u32,
    /// Whom passkeys are for.
    pub site: Site,
    /// How many verified tokens are held.
    pub cache_capacity: usize,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            issuer: "bailiwick".to_owned(),
            audience: "bailiwick".to_owned(),
            token_life_s: 900,
            account_token_life_s: 3_600,
            algorithm: SigningAlgorithm::default(),
            key_period_ms: KEY_PERIOD_MS,
            login_attempts_max: ATTEMPTS_MAX,
            mails_max: MAILS_MAX,
            login_address_attempts_max: ADDRESS_ATTEMPTS_MAX,
            site: Site::default(),
            cache_capacity: CACHE_CAPACITY,
        }
    }
}

/// A user token that is good: what of it is needed again. Not its claims, so that no address in
/// clear is kept for longer than it is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedToken {
    /// Whom it stands for.
    pub caller: Caller,
    /// The epochs it was issued under.
    pub epochs: CarriedEpochs,
    /// From when on it is refused.
    pub expires_at: Timestamp,
}

/// A user as the user may be shown. The address and the name are in clear: not for logs.
#[derive(Clone)]
pub struct UserView {
    /// The id.
    pub id: UserId,
    /// The e-mail address; empty once erased.
    pub email: String,
    /// The full name.
    pub name: Option<String>,
    /// The tenant it is shown in.
    pub tenant: TenantId,
    /// The role in that tenant; empty when the user is no member.
    pub role: String,
    /// What the membership covers.
    pub scopes: Scopes,
    /// Free attributes, a JSON object.
    pub attributes: JsonBytes,
    /// How the user logs in.
    pub auth_method: AuthMethod,
    /// Whether the address is known to be the user's.
    pub email_verified: bool,
    /// Whether the user may do anything.
    pub active: bool,
    /// Since when.
    pub created_at: Timestamp,
    /// The last login that this process saw.
    pub last_login: Option<Timestamp>,
    /// The agency that the user belongs to.
    pub agency: Option<String>,
}

/// One of a user's tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantView {
    /// The tenant.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// The user's role in it.
    pub role: String,
}

/// See the module's head.
pub struct Identity {
    pub(crate) settings: IdentitySettings,
    pub(crate) hasher: Hasher,
    pub(crate) throttle: Throttle,
    /// Mails that strangers ask for.
    pub(crate) mails: Throttle,
    pub(crate) stages: StageKey,
    claim_key: Arc<ClaimKey>,
    keys: Arc<SigningKeys>,
    epochs: Arc<Epochs>,
    frozen: Arc<Frozen>,
    tokens: TokenCache<VerifiedToken>,
    pub(crate) api_keys: KeyDesk,
    logins: Mutex<Generations<UserId, Timestamp>>,
    /// How often devices ask whether they are let in.
    pub(crate) device_paces: Mutex<Generations<String, Pace>>,
    /// Where users live. A user never moves, so this is never wrong.
    homes: Mutex<Generations<UserId, Address<User>>>,
    system: OnceLock<Weak<System>>,
}

/// A user as the state has it, in one of the user's tenants.
fn user_view(profile: &Profile, tenant: TenantId, keys: &KeyRing) -> UserView {
    let membership = profile.memberships.get(&tenant).cloned();
    let (role, scopes) = membership.map(|it| (it.role, it.scopes)).unwrap_or_default();
    UserView {
        id: profile.id,
        email: profile.email.open(keys, EMAIL_LABEL).unwrap_or_default(),
        name: profile.name.as_ref().and_then(|name| name.open(keys, NAME_LABEL)),
        tenant,
        role,
        scopes,
        attributes: profile.attributes.clone(),
        auth_method: profile.auth_method,
        email_verified: profile.email_verified,
        active: profile.active,
        created_at: profile.created_at,
        last_login: None,
        agency: None,
    }
}

impl Identity {
    /// An identity without a system: register it ([`crate::register`]), then [`Identity::start`].
    pub fn new(settings: IdentitySettings, hasher: Hasher, claim_key: ClaimKey) -> Arc<Self> {
        let epochs = Arc::new(Epochs::default());
        Arc::new(Self {
            hasher,
            throttle: Throttle::with_addresses(
                settings.login_attempts_max,
                settings.login_address_attempts_max,
            ),
            mails: Throttle::new(settings.mails_max),
            stages: StageKey::of(&claim_key),
            claim_key: Arc::new(claim_key),
            keys: Arc::default(),
            tokens: TokenCache::new(settings.cache_capacity, epochs.clone()),
            api_keys: KeyDesk::new(settings.cache_capacity, epochs.clone()),
            epochs,
            frozen: Arc::default(),
            logins: Mutex::new(Generations::new(LOGINS_KEPT)),
            device_paces: Mutex::new(Generations::new(PACES_KEPT)),
            homes: Mutex::new(Generations::new(HOMES_KEPT)),
            system: OnceLock::new(),
            settings,
        })
    }

    /// Loads the signing keys, or makes and stores the first ones. Once, before the first request.
    pub async fn start(&self, system: &Arc<System>) -> Result<(), Refusal> {
        let _ = self.system.set(Arc::downgrade(system));
        if self.keys.load(system).await? {
            return Ok(());
        }
        let (algorithm, now_ms) = (self.settings.algorithm, unix_ms(system.clock().now()));
        let set = in_background(move || KeySet::generate(algorithm, now_ms)).await?;
        let set = set.map_err(|error| internal(error.code()))?.to_stored();
        let directory = system.directory::<SigningKeyRing>();
        let address = SigningKeyRing::address();
        directory.ask(&address, Install { set }, system.system_origin()).await?;
        self.keys.load(system).await.map(drop)
    }

    /// The key that claims are named with.
    pub fn claim_key(&self) -> &Arc<ClaimKey> {
        &self.claim_key
    }

    /// The revocation epochs, for every kind of credential.
    pub fn epochs(&self) -> &Arc<Epochs> {
        &self.epochs
    }

    /// What is frozen.
    pub fn frozen(&self) -> &Arc<Frozen> {
        &self.frozen
    }

    /// The keys that tokens are signed with.
    pub fn signing_keys(&self) -> &Arc<SigningKeys> {
        &self.keys
    }

    /// The public keys as a JWK set.
    pub fn jwks(&self) -> Result<Value, Refusal> {
        Ok(self.keys.get()?.set.jwks())
    }

    pub(crate) fn system(&self) -> Result<Arc<System>, Refusal> {
        self.system.get().and_then(Weak::upgrade).ok_or_else(Refusal::busy)
    }

    /// Whom a bearer token stands for. 401 `invalid_token` for whatever is no good token; 403
    /// `frozen` for a good one whose tenant or user is frozen.
    pub async fn authenticate(
        &self,
        bearer: &str,
        now: Timestamp,
    ) -> Result<Arc<VerifiedToken>, Refusal> {
        if bearer.len() > TOKEN_BYTES_MAX {
            return Err(invalid_token());
        }
        let digest = CredentialDigest::of(bearer);
        let verified = match self.tokens.get(&digest, unix_ms(now)) {
            Some(verified) => verified,
            None => self.verify(bearer, digest, now).await?,
        };
        self.frozen.check(verified.caller.tenant, verified.caller.user)?;
        Ok(verified)
    }

    async fn verify(
        &self,
        bearer: &str,
        digest: CredentialDigest,
        now: Timestamp,
    ) -> Result<Arc<VerifiedToken>, Refusal> {
        let (keys, now_ms) = (self.keys.get()?.set, unix_ms(now));
        let IdentitySettings { issuer, audience, .. } = &self.settings;
        let claims = token::verify(&keys, bearer, now_ms, issuer, audience).map_err(|error| {
            tracing::debug!(code = error.code(), "a token was refused");
            invalid_token()
        })?;
        let ids = (claims.sub.parse(), claims.sid.parse(), claims.tenant_id.parse());
        let (Ok(user), Ok(session), Ok(tenant)) = ids else { return Err(invalid_token()) };
        let is_current = self.is_current(user, session, tenant, claims.epochs).await;
        if unless_erased(is_current.map(Some))? != Some(true) {
            return Err(invalid_token());
        }
        let carried = Box::new(claims.epochs.of_owners(tenant.0, user.0, session.0));
        let until_ms = claims.expires_at_ms();
        let caller = Caller {
            kind: CallerKind::User,
            credential: None,
            user: Some(user),
            tenant,
            session: Some(session),
            role: claims.role,
            scopes: claims.scopes.into_iter().collect(),
            app: None,
        };
        let expires_at = Timestamp(i64::try_from(until_ms).unwrap_or(i64::MAX));
        let value = Arc::new(VerifiedToken { caller, epochs: claims.epochs, expires_at });
        let verified = token_cache::Verified { carried, until_ms, value };
        self.tokens.admit(digest, verified, now_ms).ok_or_else(invalid_token)
    }

    /// Whether user, session and tenant still stand as they did when a token was signed for them.
    async fn is_current(
        &self,
        user: UserId,
        session: SessionId,
        tenant: TenantId,
        carried: CarriedEpochs,
    ) -> Result<bool, Refusal> {
        let system = self.system()?;
        let origin = system.system_origin();
        let (sessions, tenants) = (system.directory::<Session>(), system.directory::<Tenant>());
        let (session_address, tenant_address) =
            (Session::address(session, user, tenant), Tenant::address(tenant));
        let session_stands = move |it: &Session| {
            let login = it.login.as_ref();
            let is_this = login.is_some_and(|it| (it.user, it.tenant) == (user, tenant));
            is_this && it.epoch() <= carried.session
        };
        let tenant_stands = move |it: &Tenant| it.is_active() && it.epoch <= carried.tenant;
        let (account, session_stands, tenant_stands) = tokio::try_join!(
            self.account(user, Some(tenant)),
            sessions.look(&session_address, origin.clone(), session_stands),
            tenants.look(&tenant_address, origin.clone(), tenant_stands),
        )?;
        let user_stands = account.is_some_and(|account| {
            let is_member = account.membership.is_some();
            let is_known = account.membership_epoch <= carried.membership;
            account.active && is_member && is_known && account.epoch <= carried.user
        });
        Ok(user_stands && session_stands && tenant_stands)
    }

    /// Where a user lives, whichever tenant is the home; `None` when there is no such user.
    pub fn user_address(&self, user: UserId) -> Result<Option<Address<User>>, Refusal> {
        if let Some(known) = self.homes.lock().get_mut(&user) {
            return Ok(Some(known.clone()));
        }
        // The home in this address does not count: only its text is used.
        let id = User::address(user, TenantId::SYSTEM).id().to_owned();
        let found = self.system()?.locate(User::KIND, &id).and_then(Address::from_place);
        if let Some(address) = &found {
            self.homes.lock().insert(user, address.clone());
        }
        Ok(found)
    }

    pub(crate) async fn account(
        &self,
        user: UserId,
        tenant: Option<TenantId>,
    ) -> Result<Option<Account>, Refusal> {
        let Some(address) = self.user_address(user)? else { return Ok(None) };
        let system = self.system()?;
        let look = move |user: &User| user.account(tenant);
        let found = system.directory::<User>().look(&address, system.system_origin(), look).await;
        unless_erased(found)
    }

    /// The caller's own user, in the caller's tenant. 403 for callers that are no user.
    pub async fn me(&self, caller: &Caller) -> Result<UserView, Refusal> {
        let nobody = || Refusal::forbidden("this credential belongs to no user");
        self.user(caller.user.ok_or_else(nobody)?, caller.tenant).await
    }

    /// A user, shown in a tenant. That the caller may see it, the caller checks.
    pub async fn user(&self, user: UserId, tenant: TenantId) -> Result<UserView, Refusal> {
        let missing = || Refusal::not_found("user");
        let address = self.user_address(user)?.ok_or_else(missing)?;
        let system = self.system()?;
        let keys = system.clone();
        let look = move |user: &User| {
            let profile = user.profile.as_ref();
            profile.map(|profile| user_view(profile, tenant, keys.journal().keys()))
        };
        let (users, origin) = (system.directory::<User>(), system.system_origin());
        let view = unless_erased(users.look(&address, origin, look).await)?;
        let view = view.ok_or_else(missing)?;
        let last_login = self.logins.lock().get_mut(&user).copied();
        Ok(UserView { last_login, agency: agency_of(&system, user), ..view })
    }

    /// The tenants a user belongs to, at most [`TENANTS_SHOWN_MAX`], the oldest first.
    pub async fn tenants(&self, user: UserId) -> Result<Vec<TenantView>, Refusal> {
        let Some(address) = self.user_address(user)? else { return Ok(Vec::new()) };
        let system = self.system()?;
        let roles = |user: &User| -> Vec<(TenantId, String)> {
            let memberships = user.profile.iter().flat_map(|profile| &profile.memberships);
            let role = memberships.map(|(tenant, it)| (*tenant, it.role.clone()));
            role.take(TENANTS_SHOWN_MAX).collect()
        };
        let (users, origin) = (system.directory::<User>(), system.system_origin());
        let roles = users.look(&address, origin, roles).await?;
        let views = roles.into_iter().map(|(id, role)| {
            let (tenants, origin) = (system.directory::<Tenant>(), system.system_origin());
            async move {
                let name = |tenant: &Tenant| tenant.details.as_ref().map(|it| it.name.clone());
                let name = unless_erased(tenants.look(&Tenant::address(id), origin, name).await)?;
                Ok(TenantView { id, name: name.unwrap_or_default(), role })
            }
        });
        join_all(views).await.into_iter().collect()
    }

    /// Counts a mail that a stranger at this network address asks for: 429 `too_many_mails`.
    pub fn admit_mail(&self, address: &str) -> Result<(), Refusal> {
        let now = self.system()?.clock().now();
        self.mails.begin(Pair::new(address, "mail"), now).map_err(|retry_after_ms| {
            let message = "too many mails were asked for from here";
            Refusal::new(Class::TooMany, "too_many_mails", message).retry_after(retry_after_ms)
        })
    }

    /// Counts a mail to somebody who may not have asked for it. Says whether it may be sent.
    pub fn may_mail(&self, to: &EmailAddress) -> Result<bool, Refusal> {
        let now = self.system()?.clock().now();
        Ok(self.mails.begin(Pair::new("mail to", to.as_str()), now).is_ok())
    }

    /// Forgets what is remembered of a user or a tenant that is erased.
    pub(crate) fn forget(&self, owner: &OwnerKey) {
        self.tokens.forget(owner);
        self.api_keys.forget(owner);
        if owner.class == OwnerClass::User {
            self.logins.lock().remove(&UserId(owner.id));
            self.homes.lock().remove(&UserId(owner.id));
        }
    }

    pub(crate) fn note_login(&self, user: UserId, at: Timestamp) {
        self.logins.lock().insert(user, at);
    }

    /// The hash of a password that somebody wants to have: 422 when [`password_rules`] refuses it.
    pub async fn hash_password(&self, password: String) -> Result<PasswordHash, Refusal> {
        self.hash_new_password("password", password, &[]).await
    }

    /// The hash of a password that nobody knows: its user chooses one by a mailed link.
    pub async fn hash_of_nothing(&self) -> Result<PasswordHash, Refusal> {
        self.hash_password(String::clone(&*crate::operator::make_up_password()?)).await
    }

    /// As [`Identity::hash_password`], for the request's `field`; `own` are words about the user,
    /// which make no password.
    pub async fn hash_new_password(
        &self,
        field: &str,
        password: String,
        own: &[&str],
    ) -> Result<PasswordHash, Refusal> {
        let refused = |error: PasswordError| Refusal::invalid(field, error.to_string());
        let password = Password::new(password).map_err(refused)?;
        let own: Vec<String> = own.iter().map(|word| (*word).to_owned()).collect();
        let checked =
            in_background(move || password_rules::check(&password, &own).map(|()| password));
        self.hasher.hash(checked.await?.map_err(refused)?).await.map_err(hash_refusal)
    }

    /// Asks a user for a change that answers the epoch, and raises it. Every such command revokes.
    pub async fn change_user<C>(
        &self,
        user: UserId,
        command: C,
        origin: Origin,
    ) -> Result<u64, Refusal>
    where
        C: Command,
        User: Handle<C, Reply = u64>,
    {
        let address = self.user_address(user)?.ok_or_else(|| Refusal::not_found("user"))?;
        let system = self.system()?;
        let epoch = system.directory::<User>().ask(&address, command, origin).await?;
        self.raise(OwnerClass::User, user.0, epoch, &system);
        Ok(epoch)
    }

    /// Asks a tenant for a change that answers the epoch, and raises it.
    pub async fn change_tenant<C>(
        &self,
        tenant: TenantId,
        command: C,
        origin: Origin,
    ) -> Result<u64, Refusal>
    where
        C: Command,
        Tenant: Handle<C, Reply = u64>,
    {
        let system = self.system()?;
        let directory = system.directory::<Tenant>();
        let epoch = directory.ask(&Tenant::address(tenant), command, origin).await?;
        self.raise(OwnerClass::Tenant, tenant.0, epoch, &system);
        Ok(epoch)
    }

    /// Ends one of a user's sessions. 404 when it is not that user's. Says whether it was open.
    pub async fn revoke_session(
        &self,
        user: UserId,
        session: SessionId,
        origin: Origin,
    ) -> Result<bool, Refusal> {
        let (system, address) = (self.system()?, self.own_session(user, session)?);
        let was_open = system.directory::<Session>().ask(&address, Revoke {}, origin).await?;
        self.raise(OwnerClass::Session, session.0, ENDED_EPOCH, &system);
        Ok(was_open)
    }

    pub(crate) fn raise(&self, class: OwnerClass, id: u128, epoch: u64, system: &System) {
        if epoch > 0 {
            self.epochs.raise(OwnerKey { class, id }, epoch, unix_ms(system.clock().now()));
        }
    }

    /// The command that replaces the signing key: the next one signs, a fresh one follows it.
    /// Refused with `signing_key_rotation_too_soon` while the next one is not public for long
    /// enough. Once it is done, [`Identity::rotated`].
    pub async fn rotation(&self) -> Result<(Rotate, KeySet), Refusal> {
        let (system, present) = (self.system()?, self.keys.get()?);
        let (algorithm, now_ms) = (self.settings.algorithm, unix_ms(system.clock().now()));
        let replaces = present.generation;
        let set = in_background(move || present.set.rotate_to(algorithm, now_ms)).await?;
        let set = set.map_err(|error| match error {
            KeyError::TooSoon { .. } => Refusal::conflict(error.code(), error.to_string()),
            _ => internal(error.code()),
        })?;
        Ok((Rotate { set: set.to_stored(), replaces }, set))
    }

    /// Takes a rotation into use at once, before the entity's effect does.
    pub async fn rotated(&self) -> Result<(), Refusal> {
        let system = self.system()?;
        self.keys.load(&system).await.map(drop)
    }

    /// Replaces the signing key; see [`Identity::rotation`].
    pub async fn rotate_keys(&self) -> Result<(), Refusal> {
        let (rotate, _) = self.rotation().await?;
        let system = self.system()?;
        let directory = system.directory::<SigningKeyRing>();
        directory.ask(&SigningKeyRing::address(), rotate, system.system_origin()).await?;
        self.rotated().await
    }

    /// How long a signing key signs (ms).
    pub fn key_period_ms(&self) -> u64 {
        self.settings.key_period_ms
    }

    /// When the signing key is replaced by itself (ms since 1970).
    pub fn next_rotation_ms(&self) -> Result<u64, Refusal> {
        Ok(self.keys.get()?.since_ms.saturating_add(self.settings.key_period_ms))
    }

    /// What is due once in a while, a minute or an hour: forgets old epochs, writes down which
    /// keys were used, and rotates the signing key when it has signed for long enough.
    pub async fn housekeep(&self) -> Result<(), Refusal> {
        let now_ms = unix_ms(self.system()?.clock().now());
        self.epochs.prune(now_ms);
        self.tokens.forget_unused(now_ms);
        self.api_keys.forget_unused(now_ms);
        self.write_key_uses()?;
        if now_ms < self.next_rotation_ms()? {
            return Ok(());
        }
        self.rotate_keys().await
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// 503 when too many passwords wait, else 500.
pub(crate) fn hash_refusal(error: HashError) -> Refusal {
    match error {
        HashError::Busy => Refusal::busy(),
        error => internal(error.code()),
    }
}

/// Runs what takes long on a thread of its own.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|_| internal("a background thread ended"))
}
