//! Logging in, staying in and logging out: the flows that hand out and take back tokens.
//!
//! Invariants
//! - An unknown address, a user without a password and a wrong password are one answer at the same
//!   cost: each looks at a claim and a user, and computes one hash.
//! - An access token is signed only for an open session of an active user in an active tenant,
//!   with the epochs as they stand.
//! - No session outlives its password by being opened while that is changed.
//! - 401 means that a login is over or was none; whatever else goes wrong is another status.
//!
//! Deliberate limits
//! - Whether the address was verified does not matter here.
//! - Logging out answers the same whatever was presented.

use std::fmt;
use std::sync::Arc;

use persistence::{RowRange, codec};
use supervision::{Class, Entity, Origin, Refusal, RequestRef, System};
use types::{Caller, SessionId, TenantId, UserId, owner_of_user};
use zeroize::Zeroizing;

use crate::claim::{Claim, EmailAddress, Namespace, claim_address};
use crate::factor_login::{Shown, Step};
use crate::password::{Password, Verdict};
use crate::refresh::FamilySecret;
use crate::service::{Identity, hash_refusal};
use crate::session::{
    ENDED_EPOCH, Located, Logout, Open, Present, Presented, SESSIONS_FAMILY, Session, SessionRow,
    Successor, client_token,
};
use crate::tenant::Tenant;
use crate::throttle::{Pair, Visitor};
use crate::token::{self, CarriedEpochs, Claims};
use crate::token_cache::OwnerClass;
use crate::user::{Account, EMAIL_LABEL, Membership, RenewHash, ReplacePassword, User};
use crate::{internal, invalid_token, unix_ms, unless_erased};

/// How many sessions [`Identity::open_sessions`] shows, and one step of ending them takes.
pub const SESSIONS_SHOWN_MAX: usize = 100;
/// Looked at when there is nobody to look at. No UUIDv7 is this number.
const NOBODY: UserId = UserId(u128::MAX);

/// Which setting an access token's life comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenLife {
    /// The usual one.
    #[default]
    Standard,
    /// The account API's.
    Account,
}

/// Somebody who wants to log in. It holds a password: no `Debug`.
pub struct LoginAttempt {
    /// The e-mail address, as it was typed.
    pub email: String,
    /// The password.
    pub password: String,
    /// The tenant to log in to; `None` is the user's home.
    pub tenant: Option<TenantId>,
    /// The network address that attempts are counted by: a single IPv4 address, an IPv6 /64.
    pub address: String,
    /// What to call the device in the list of sessions.
    pub device: Option<String>,
    /// How long the access token lives.
    pub life: TokenLife,
    /// The request's id.
    pub request: RequestRef,
}

/// A session for a user who has shown in another way who they are.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Who.
    pub user: UserId,
    /// In which tenant; `None` is the user's home.
    pub tenant: Option<TenantId>,
    /// The session's id, for who may repeat this; `None` makes one.
    pub session: Option<SessionId>,
    /// What to call the device in the list of sessions.
    pub device: Option<String>,
    /// How long the access token lives.
    pub life: TokenLife,
    /// The request's id.
    pub request: RequestRef,
}

/// What a client gets. It prints no token.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The access token, a JWT.
    pub access_token: String,
    /// The refresh token.
    pub refresh_token: String,
    /// The life of the access token (s).
    pub expires_in: u64,
    /// The session.
    pub session: SessionId,
    /// Who.
    pub user: UserId,
    /// In which tenant.
    pub tenant: TenantId,
    /// What tells the device the next time it logs in, for who has just logged in.
    pub device_token: Option<String>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tokens({:?} of {:?} in {:?})", self.session, self.user, self.tenant)
    }
}

fn invalid_credentials() -> Refusal {
    let message = "the e-mail address or the password is wrong";
    Refusal::new(Class::Unauthenticated, "invalid_credentials", message)
}

fn tenant_inactive() -> Refusal {
    Refusal::new(Class::Forbidden, "tenant_inactive", "this tenant is switched off")
}

pub(crate) fn too_many_attempts(retry_after_ms: u64) -> Refusal {
    let message = "too many login attempts for this account from here";
    Refusal::new(Class::TooMany, "too_many_attempts", message).retry_after(retry_after_ms)
}

pub(crate) fn origin_of(user: UserId, request: RequestRef) -> Origin {
    Origin { caller: format!("user/{user}").into(), request, cause: None }
}

/// Whom a login was found to be, and where.
pub(crate) struct Entry {
    pub(crate) account: Account,
    pub(crate) tenant: TenantId,
    membership: Membership,
    tenant_epoch: u64,
}

impl Identity {
    /// Checks a password and opens a session. 401 `invalid_credentials`, `second_factor_required`
    /// or `invalid_second_factor`, 429 `too_many_attempts`, 403 `account_disabled`, `not_a_member`,
    /// `tenant_inactive`, `frozen` or `second_factor_enrolment_required`.
    pub async fn login(&self, attempt: LoginAttempt) -> Result<Tokens, Refusal> {
        self.login_showing(attempt, Shown::default()).await
    }

    /// [`Identity::login`] with what else the client shows.
    pub async fn login_showing(
        &self,
        attempt: LoginAttempt,
        shown: Shown,
    ) -> Result<Tokens, Refusal> {
        let system = self.system()?;
        let (now, request) = (system.clock().now(), attempt.request);
        let email = EmailAddress::new(&attempt.email).ok();
        let name = email.as_ref().map_or("", EmailAddress::as_str).to_owned();
        let device = self.device_for(shown.device_token.as_deref(), &name, now);
        let visitor = Visitor::new(&attempt.address, &name, device);
        let begun = self.throttle.begin_login(&visitor, now).map_err(too_many_attempts)?;
        let found = self.find(&system, email, attempt.tenant).await?;
        let password = Zeroizing::new(attempt.password);
        let account = match self.check_password(found, &password).await {
            Ok(account) => account,
            Err(refusal) => {
                if refusal.class == Class::Busy {
                    self.throttle.login_not_tried(&visitor, begun);
                }
                return Err(refusal);
            }
        };
        self.throttle.login_was_right(&visitor, begun);
        let (user, session) = (account.user, SessionId(system.new_id()));
        let password_changes = account.password_changes;
        let entry = self.admit(&system, account).await?;
        let step = Step { address: &attempt.address, device, request };
        self.second_step(&system, &entry, shown.otp.as_deref(), attempt.life, step).await?;
        let opened = self.open(&system, entry, session, attempt.device, attempt.life, request);
        let mut tokens = opened.await?;
        // Whoever changes the password meanwhile ends the sessions that there are, not this one.
        let present = self.account(user, None).await?;
        if present.is_none_or(|account| account.password_changes != password_changes) {
            self.revoke_session(user, session, origin_of(user, request)).await?;
            return Err(invalid_credentials());
        }
        tokens.device_token = self.logged_in(&system, user, &name, step);
        Ok(tokens)
    }

    /// The user whom an address belongs to.
    async fn find(
        &self,
        system: &Arc<System>,
        email: Option<EmailAddress>,
        tenant: Option<TenantId>,
    ) -> Result<Option<Account>, Refusal> {
        let key = self.claim_key();
        // The claim on no address at all stands in for those that were never made, so that
        // strangers wake no actors, and are answered no later than users.
        let nobody = claim_address(Namespace::EMAIL, "", key);
        let claim = email.map_or_else(|| nobody.clone(), |email| email.claim(key));
        let is_made = system.locate(Claim::KIND, claim.id()).is_some();
        let claim = if is_made { claim } else { nobody };
        let claims = system.directory::<Claim>();
        let confirmed = claims.look(&claim, system.system_origin(), Claim::confirmed).await?;
        let address = match confirmed {
            Some((_, target)) => User::address(target.user, target.tenant),
            None => User::address(NOBODY, TenantId::SYSTEM),
        };
        let look = move |user: &User| user.account(tenant);
        system.directory::<User>().look(&address, system.system_origin(), look).await
    }

    /// The account, if the password is its own.
    async fn check_password(
        &self,
        found: Option<Account>,
        password: &Zeroizing<String>,
    ) -> Result<Account, Refusal> {
        let plain = || Password::for_login(String::clone(password)).ok();
        let presented = plain().ok_or_else(invalid_credentials)?;
        let stored = found.as_ref().and_then(|account| account.password.clone());
        let verdict = self.hasher.verify(presented, stored.clone()).await.map_err(hash_refusal)?;
        let (Some(account), Some(stored)) = (found, stored) else {
            return Err(invalid_credentials());
        };
        if verdict == Verdict::NoMatch {
            return Err(invalid_credentials());
        }
        if verdict == Verdict::MatchNeedsRehash
            && let Some(password) = plain()
            && let Ok(password) = self.hasher.hash(password).await
            && let Some(address) = self.user_address(account.user)?
        {
            // The login is right whether or not this succeeds; the next one tries again.
            let (system, replaces) = (self.system()?, stored);
            let renew = RenewHash { replaces, password };
            let origin = system.system_origin();
            if let Err(refusal) = system.directory::<User>().ask(&address, renew, origin).await {
                tracing::warn!(%refusal, "a password hash was not renewed");
            }
        }
        Ok(account)
    }

    /// Whether an account may get tokens for the tenant it was looked up for.
    pub(crate) async fn admit(
        &self,
        system: &Arc<System>,
        account: Account,
    ) -> Result<Entry, Refusal> {
        let forbidden = |code, message| Err(Refusal::new(Class::Forbidden, code, message));
        if !account.active {
            return forbidden("account_disabled", "this account is switched off");
        }
        let Some((tenant, membership)) = account.membership.clone() else {
            return forbidden("not_a_member", "you do not belong to this tenant");
        };
        self.frozen().check(tenant, Some(account.user))?;
        let look = |tenant: &Tenant| tenant.is_active().then_some(tenant.epoch);
        let tenants = system.directory::<Tenant>();
        let epoch = tenants.look(&Tenant::address(tenant), system.system_origin(), look).await?;
        match epoch {
            Some(tenant_epoch) => Ok(Entry { account, tenant, membership, tenant_epoch }),
            None => Err(tenant_inactive()),
        }
    }

    pub(crate) async fn open(
        &self,
        system: &Arc<System>,
        entry: Entry,
        session: SessionId,
        device: Option<String>,
        life: TokenLife,
        request: RequestRef,
    ) -> Result<Tokens, Refusal> {
        let (user, tenant) = (entry.account.user, entry.tenant);
        let secret = FamilySecret::generate().ok_or_else(|| internal("no random numbers"))?;
        let user_epoch = entry.account.epoch;
        let open = Open { session, user, tenant, user_epoch, device, secret };
        let address = Session::address(session, user, tenant);
        let sessions = system.directory::<Session>();
        let first = sessions.ask(&address, open, origin_of(user, request)).await?;
        // A repetition finds the session that it opened then: it may have been ended since.
        if first.user_epoch < entry.account.sessions_from {
            return Err(invalid_token());
        }
        self.sign(system, &entry, session, first, life)
    }

    fn sign(
        &self,
        system: &System,
        entry: &Entry,
        session: SessionId,
        successor: Successor,
        life: TokenLife,
    ) -> Result<Tokens, Refusal> {
        let Entry { account, tenant, membership, tenant_epoch } = entry;
        let (user, tenant) = (account.user, *tenant);
        let expires_in = match life {
            TokenLife::Standard => self.settings.token_life_s,
            TokenLife::Account => self.settings.account_token_life_s,
        };
        // Once the address is erased there is nobody to log in.
        let email = account.email.open(system.journal().keys(), EMAIL_LABEL);
        let email = email.ok_or_else(invalid_token)?;
        let iat = unix_ms(system.clock().now()) / 1_000;
        let claims = Claims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: user.to_string(),
            sid: session.to_string(),
            email,
            tenant_id: user.tenant_label(tenant),
            role: membership.role.clone(),
            scopes: membership.scopes.as_slice().to_vec(),
            iat,
            exp: iat + expires_in,
            jti: None,
            epochs: CarriedEpochs {
                tenant: *tenant_epoch,
                user: account.epoch,
                session: 0,
                membership: account.membership_epoch,
            },
        };
        let signed = token::sign(&self.signing_keys().get()?.set, &claims);
        let access_token = signed.map_err(|error| internal(error.code()))?;
        let refresh_token = client_token(&successor.token, session, user, tenant).to_string();
        let device_token = None;
        Ok(Tokens { access_token, refresh_token, expires_in, session, user, tenant, device_token })
    }

    /// Opens a session for a user who needs no password here: after a sign-up, a mailed link, a
    /// device code. 404 when there is no such user; 401 `second_factor_required` for one who has a
    /// second factor, and is to log in with it; else refused as [`Identity::login`].
    pub async fn open_session(&self, new: NewSession) -> Result<Tokens, Refusal> {
        let system = self.system()?;
        let account = self.account(new.user, new.tenant).await?;
        let account = account.ok_or_else(|| Refusal::not_found("user"))?;
        let entry = self.admit(&system, account).await?;
        self.check_no_factor(&system, &entry).await?;
        let session = new.session.unwrap_or_else(|| SessionId(system.new_id()));
        let tokens = self.open(&system, entry, session, new.device, new.life, new.request).await?;
        self.note_login(new.user, system.clock().now());
        Ok(tokens)
    }

    /// Uses a refresh token. 401 `invalid_token` when it is not good, or was used before; 403
    /// `tenant_inactive` while the tenant is off, and `frozen` while it or the user is frozen: the
    /// token is not used by that, and good once they go on.
    pub async fn refresh(
        &self,
        presented: &str,
        life: TokenLife,
        request: RequestRef,
    ) -> Result<Tokens, Refusal> {
        let system = self.system()?;
        let located = self.locate(&system, presented).ok_or_else(invalid_token)?;
        let Located { token, session, user, tenant } = located;
        self.frozen().check(tenant, Some(user))?;
        let address = Session::address(session, user, tenant);
        let origin = origin_of(user, request);
        // Before the token is used: it shall be good still when the tenant is on again.
        let tenants = system.directory::<Tenant>();
        let home = Tenant::address(tenant);
        let is_on = tenants.look(&home, origin.clone(), Tenant::is_active).await;
        match unless_erased(is_on.map(Some))? {
            Some(true) => {}
            Some(false) => return Err(tenant_inactive()),
            None => return Err(invalid_token()),
        }
        let present = Present { token };
        let sessions = system.directory::<Session>();
        let presented = sessions.ask(&address, present, origin.clone()).await;
        let successor = match unless_erased(presented.map(Some))?.unwrap_or(Presented::Refused) {
            Presented::Successor(successor) => successor,
            Presented::Refused => return Err(invalid_token()),
            Presented::Killed => {
                self.raise(OwnerClass::Session, session.0, ENDED_EPOCH, &system);
                tracing::warn!(%session, "a refresh token was used twice; its session is over");
                return Err(invalid_token());
            }
        };
        let account = self.account(user, Some(tenant)).await?.filter(|account| {
            let is_member = account.membership.is_some();
            account.active && is_member && account.sessions_from <= successor.user_epoch
        });
        let Some(account) = account else {
            self.revoke_session(user, session, origin).await?;
            return Err(invalid_token());
        };
        let entry = self.admit(&system, account).await?;
        self.sign(&system, &entry, session, successor, life)
    }

    /// Takes a presented token apart, if there is such a session of that user in that tenant. No
    /// actor is woken for what does not exist, nor under an address that a stranger made up.
    fn locate(&self, system: &System, presented: &str) -> Option<Located> {
        let located = Located::parse(presented)?;
        let address = Session::address(located.session, located.user, located.tenant);
        let place = system.locate(Session::KIND, address.id())?;
        (place == *address.place()).then_some(located)
    }

    /// Ends the session that a refresh token belongs to, whether used or not. For anything else it
    /// does nothing.
    pub async fn logout(&self, presented: &str, request: RequestRef) -> Result<(), Refusal> {
        let system = self.system()?;
        let Some(located) = self.locate(&system, presented) else { return Ok(()) };
        let Located { token, session, user, tenant } = located;
        let address = Session::address(session, user, tenant);
        let origin = origin_of(user, request);
        let ended = system.directory::<Session>().ask(&address, Logout { token }, origin).await;
        if unless_erased(ended.map(Some))? == Some(true) {
            self.raise(OwnerClass::Session, session.0, ENDED_EPOCH, &system);
        }
        Ok(())
    }

    /// Changes the caller's password, which ends all of the user's sessions but the caller's own,
    /// and tells the user by mail. 403 `wrong_password`, 422 for a new one that is not accepted,
    /// 429 as for logins.
    pub async fn change_password(
        &self,
        caller: &Caller,
        current: String,
        new: String,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let nobody = || Refusal::forbidden("this credential belongs to no user");
        let user = caller.user.ok_or_else(nobody)?;
        let pair = Pair::new("password change", &user.to_string());
        let now = self.system()?.clock().now();
        self.throttle.begin(pair, now).map_err(too_many_attempts)?;
        let account = self.account(user, None).await?;
        let account = self.check_own_password(account, &Zeroizing::new(current)).await?;
        self.throttle.succeeded(pair);
        let email = account.email.open(self.system()?.journal().keys(), EMAIL_LABEL);
        let own = [email.as_deref().unwrap_or_default()];
        let password = self.hash_new_password("new_password", new, &own).await?;
        let replace = ReplacePassword { password, replaces: account.password };
        let address = self.user_address(user)?.ok_or_else(|| Refusal::not_found("user"))?;
        let system = self.system()?;
        system.directory::<User>().ask(&address, replace, origin.clone()).await?;
        self.revoke_other_sessions(user, None, caller.session, origin.clone()).await?;
        self.tell_password_changed(user, system.new_id(), origin).await
    }

    /// The password of one who is logged in: a wrong one is 403 `wrong_password`.
    pub(crate) async fn check_own_password(
        &self,
        account: Option<Account>,
        password: &Zeroizing<String>,
    ) -> Result<Account, Refusal> {
        let checked = self.check_password(account, password).await;
        checked.map_err(|refusal| match refusal.class {
            // 401 would tell the client that its login is over.
            Class::Unauthenticated => {
                let message = "the current password is wrong";
                Refusal::new(Class::Forbidden, "wrong_password", message)
            }
            _ => refusal,
        })
    }

    /// Ends every session of a user but the one to keep, in one tenant or in all. Answers how
    /// many it ended.
    pub async fn revoke_other_sessions(
        &self,
        user: UserId,
        tenant: Option<TenantId>,
        keep: Option<SessionId>,
        origin: Origin,
    ) -> Result<usize, Refusal> {
        let system = self.system()?;
        let (mut after, mut ended) = (None, 0);
        loop {
            let rows = session_rows(&system, user, after, false);
            let Some((last, _)) = rows.last() else { return Ok(ended) };
            after = Some(last.clone());
            let goes = |row: &SessionRow| {
                Some(row.session) != keep && tenant.is_none_or(|tenant| row.tenant == tenant)
            };
            for (_, row) in rows.into_iter().filter(|(_, row)| goes(row)) {
                let was_open = self.revoke_session(user, row.session, origin.clone()).await?;
                ended += usize::from(was_open);
            }
        }
    }
}

pub(crate) fn session_rows(
    system: &System,
    user: UserId,
    after: Option<Vec<u8>>,
    newest_first: bool,
) -> Vec<(Vec<u8>, SessionRow)> {
    let rows = system.rows(&RowRange {
        shard: owner_of_user(user).shard(),
        family: SESSIONS_FAMILY,
        prefix: user.0.to_be_bytes().to_vec(),
        after,
        newest_first,
        limit: SESSIONS_SHOWN_MAX,
    });
    let read = |(key, value): (Vec<u8>, Vec<u8>)| Some((key, codec::decode(&value).ok()?));
    rows.into_iter().filter_map(read).collect()
}
