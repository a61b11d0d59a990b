//! The second step of logging in, and what users do with their second factors.
//!
//! Invariants
//! - Whoever has a second factor gets no session by password alone; whoever has none and logs in to
//!   a tenant that asks for one gets no session at all, but a token with which to enrol.
//! - A login token completes one login: of its user, from its address, within
//!   [`LOGIN_TOKEN_MS`], and not after the user's tokens were revoked.
//! - Codes are counted like passwords, and by account as well: see [`crate::throttle`].
//! - A login of a user who has no factor, to a tenant that asks for none, sends no message more.
//!
//! Deliberate limits
//! - [`Identity::open_session`] asks for no second factor: who calls it vouches for the user.
//! - Who has lost all of them, recovery codes included, needs somebody else's help:
//!   [`crate::factor_removal`].

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};
use supervision::{Address, Class, Entity, Origin, Refusal, RequestRef, System, Timestamp};
use types::{Caller, CallerKind, Scopes, TenantId, UserId};
use zeroize::Zeroizing;

use crate::login::{Entry, TokenLife, Tokens, origin_of, too_many_attempts};
use crate::passkey::{Assertion, Site, request_options};
use crate::second_factor::{
    CompletedLogin, FactorId, FactorKind, NAME_LABEL, Proof, SecondFactors, Verify,
};
use crate::service::Identity;
use crate::sign_in_policy::SignInPolicy;
use crate::sign_in_token::{Device, Purpose, Stage, StageKey, random_number};
use crate::throttle::{KNOWN_MS, Pair, Visitor};
use crate::{internal, invalid_token};

/// How long the second step of a login may take, in milliseconds.
pub const LOGIN_TOKEN_MS: i64 = 5 * 60_000;
/// How long enrolling for a tenant that asks for a second factor may take, in milliseconds.
pub const ENROLMENT_TOKEN_MS: i64 = 15 * 60_000;

/// What a login shows besides a password. It holds a code: no `Debug`.
#[derive(Default)]
pub struct Shown {
    /// A code of an authenticator app, or a recovery code.
    pub otp: Option<String>,
    /// The token of an earlier login from this device.
    pub device_token: Option<String>,
}

/// The second factor of a login.
pub enum ShownFactor {
    /// A code of an authenticator app.
    Code(String),
    /// A recovery code.
    Recovery(String),
    /// A passkey's answer to [`Identity::begin_factor_login`].
    Passkey(Box<Assertion>),
}

/// The second step of a login.
pub struct FactorLogin {
    /// What the first step was refused with.
    pub login_token: String,
    /// The factor.
    pub factor: ShownFactor,
    /// The network address, as for the first step.
    pub address: String,
    /// What to call the device in the list of sessions.
    pub device: Option<String>,
    /// The token of an earlier login from this device.
    pub device_token: Option<String>,
    /// The request's id.
    pub request: RequestRef,
}

/// What shows that it is really the user who changes the second factors. No `Debug`.
pub enum FreshProof {
    /// The password.
    Password(String),
    /// A code of an authenticator app, or a recovery code.
    Code(String),
}

/// A second factor, as its user may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactorView {
    /// The id.
    pub id: FactorId,
    /// Its sort.
    pub kind: FactorKind,
    /// What the user calls it.
    pub label: Option<String>,
    /// Since when.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
}

/// From where the second step is tried.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) address: &'a str,
    pub(crate) device: Option<u128>,
    pub(crate) request: RequestRef,
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Step")
    }
}

fn invalid_login_token() -> Refusal {
    let message = "this login token is over or not of this login; log in again";
    Refusal::new(Class::Unauthenticated, "invalid_login_token", message)
}

fn required(factors: &[&str], login_token: &str) -> Refusal {
    let message = "the password is right; now show a second factor at /v1/auth/login/factor";
    let facts = json!({
        "factors": factors, "login_token": login_token, "expires_in": LOGIN_TOKEN_MS / 1_000,
    });
    Refusal::new(Class::Unauthenticated, "second_factor_required", message).with_facts(&facts)
}

fn enrolment_required(enrolment_token: &str) -> Refusal {
    let message = "this tenant asks for a second factor; enrol one at /v1/auth/me/factors with \
        the enrolment token as bearer, then log in with it";
    let facts = json!({
        "factors": ["totp", "passkey"], "enrolment_token": enrolment_token,
        "expires_in": ENROLMENT_TOKEN_MS / 1_000,
    });
    let code = "second_factor_enrolment_required";
    Refusal::new(Class::Forbidden, code, message).with_facts(&facts)
}

impl Identity {
    /// Where the second factors of a user live.
    pub fn factors_address(&self, user: UserId) -> Result<Address<SecondFactors>, Refusal> {
        let place = self.user_address(user)?.ok_or_else(|| Refusal::not_found("user"))?;
        Ok(SecondFactors::address(user, TenantId(place.place().home.0)))
    }

    /// Looks at a user's second factors; `None` when none was ever enrolled.
    pub(crate) async fn look_at_factors<R: Send + 'static>(
        &self,
        system: &System,
        user: UserId,
        look: impl FnOnce(&SecondFactors) -> R + Send + 'static,
    ) -> Result<Option<R>, Refusal> {
        let address = self.factors_address(user)?;
        // Most users have none: what does not exist is not woken.
        if system.locate(SecondFactors::KIND, address.id()).is_none() {
            return Ok(None);
        }
        let factors = system.directory::<SecondFactors>();
        factors.look(&address, system.system_origin(), look).await.map(Some)
    }

    /// Whether a tenant asks its members for a second factor.
    pub async fn requires_second_factor(&self, tenant: TenantId) -> Result<bool, Refusal> {
        let system = self.system()?;
        let address = SignInPolicy::address(tenant);
        if system.locate(SignInPolicy::KIND, address.id()).is_none() {
            return Ok(false);
        }
        let policies = system.directory::<SignInPolicy>();
        let look = |policy: &SignInPolicy| policy.require_second_factor;
        policies.look(&address, system.system_origin(), look).await
    }

    /// Lets only those go on who log in without a second factor.
    pub(crate) async fn check_no_factor(
        &self,
        system: &System,
        entry: &Entry,
    ) -> Result<(), Refusal> {
        let user = entry.account.user;
        let accepted = self.look_at_factors(system, user, SecondFactors::accepted).await?;
        let has_factor = accepted.is_some_and(|accepted| !accepted.is_empty());
        if !has_factor && !self.requires_second_factor(entry.tenant).await? {
            return Ok(());
        }
        let message = "this is done; now log in, with the password and the second factor";
        Err(Refusal::new(Class::Unauthenticated, "second_factor_required", message))
    }

    /// Lets a login whose password was right go on, or says what is missing.
    pub(crate) async fn second_step(
        &self,
        system: &Arc<System>,
        entry: &Entry,
        otp: Option<&str>,
        life: TokenLife,
        step: Step<'_>,
    ) -> Result<(), Refusal> {
        let user = entry.account.user;
        let accepted = self.look_at_factors(system, user, SecondFactors::accepted).await?;
        let accepted = accepted.unwrap_or_default();
        if accepted.is_empty() {
            if !self.requires_second_factor(entry.tenant).await? {
                return Ok(());
            }
            let token =
                self.stage(entry, life, step, Purpose::Enrolment, ENROLMENT_TOKEN_MS, system)?;
            return Err(enrolment_required(&token));
        }
        match otp.filter(|otp| !otp.trim().is_empty()) {
            Some(otp) => self.use_factor(system, user, Proof::typed(otp), None, step).await,
            None => {
                let token =
                    self.stage(entry, life, step, Purpose::Login, LOGIN_TOKEN_MS, system)?;
                Err(required(&accepted, &token))
            }
        }
    }

    fn stage(
        &self,
        entry: &Entry,
        life: TokenLife,
        step: Step<'_>,
        purpose: Purpose,
        life_ms: i64,
        system: &System,
    ) -> Result<String, Refusal> {
        let stage = Stage {
            user: entry.account.user,
            tenant: entry.tenant,
            epoch: entry.account.epoch,
            password_changes: entry.account.password_changes,
            nonce: random_number().ok_or_else(|| internal("no random numbers"))?,
            address: self.stages.digest("address", step.address),
            is_account: life == TokenLife::Account,
        };
        let until = system.clock().now().plus_ms(life_ms);
        let token = self.stages.seal(purpose, stage, until);
        token.ok_or_else(|| internal("a login token was not made"))
    }

    async fn use_factor(
        &self,
        system: &System,
        user: UserId,
        proof: Proof,
        login: Option<CompletedLogin>,
        step: Step<'_>,
    ) -> Result<(), Refusal> {
        let visitor = Visitor::with_code(step.address, &user.to_string(), step.device);
        let begun = self.throttle.begin_login(&visitor, system.clock().now());
        let begun = begun.map_err(too_many_attempts)?;
        let factors = system.directory::<SecondFactors>();
        let (address, origin) = (self.factors_address(user)?, origin_of(user, step.request));
        factors.ask(&address, Verify { proof, login }, origin).await?;
        self.throttle.login_was_right(&visitor, begun);
        Ok(())
    }

    fn open_login_token(
        &self,
        system: &System,
        login_token: &str,
        address: &str,
    ) -> Result<(Stage, Timestamp), Refusal> {
        let opened = self.stages.open::<Stage>(Purpose::Login, login_token, system.clock().now());
        let here = self.stages.digest("address", address);
        opened.filter(|(stage, _)| stage.address == here).ok_or_else(invalid_login_token)
    }

    /// Who has shown the password, and to which tenant they log in. 401 `invalid_login_token`.
    pub(crate) async fn half_logged_in(
        &self,
        system: &System,
        login_token: &str,
        address: &str,
    ) -> Result<(UserId, TenantId), Refusal> {
        let (stage, _) = self.open_login_token(system, login_token, address)?;
        let account = self.account(stage.user, Some(stage.tenant)).await?;
        let stands = account.is_some_and(|account| account.active && stage.stands_for(&account));
        stands.then_some((stage.user, stage.tenant)).ok_or_else(invalid_login_token)
    }

    /// What a passkey has to answer to complete a login (`PublicKeyCredentialRequestOptionsJSON`).
    /// 401 `invalid_login_token`, 409 `no_passkey`.
    pub async fn begin_factor_login(
        &self,
        login_token: &str,
        address: &str,
    ) -> Result<Value, Refusal> {
        let system = self.system()?;
        let (stage, _) = self.open_login_token(&system, login_token, address)?;
        let journal = system.journal().clone();
        let look = move |factors: &SecondFactors| factors.credentials(journal.keys());
        let known = self.look_at_factors(&system, stage.user, look).await?.unwrap_or_default();
        if known.is_empty() {
            return Err(Refusal::conflict("no_passkey", "this user has no passkey"));
        }
        let challenge = self.stages.challenge(stage.nonce);
        Ok(request_options(&self.settings.site, &challenge, &known))
    }

    /// Completes a login. 401 `invalid_login_token`, `login_token_used`, `invalid_second_factor`;
    /// 429 `too_many_attempts`; else refused as [`Identity::login`].
    pub async fn login_with_factor(&self, login: FactorLogin) -> Result<Tokens, Refusal> {
        let system = self.system()?;
        let FactorLogin { login_token, factor, address, device, device_token, request } = login;
        let (stage, until) = self.open_login_token(&system, &login_token, &address)?;
        let account = self.account(stage.user, Some(stage.tenant)).await?;
        let account = account.filter(|account| stage.stands_for(account));
        let entry = self.admit(&system, account.ok_or_else(invalid_login_token)?).await?;
        let known = self.device_of(device_token.as_deref(), system.clock().now());
        let known = known.filter(|known| known.user == stage.user);
        let step = Step { address: &address, device: known.map(|known| known.id), request };
        let proof = match factor {
            ShownFactor::Code(code) => Proof::typed(&code),
            ShownFactor::Recovery(code) => Proof::Recovery(code),
            ShownFactor::Passkey(assertion) => {
                let challenge = self.stages.challenge(stage.nonce);
                Proof::Passkey { assertion, challenge, site: self.settings.site.clone() }
            }
        };
        let completed = CompletedLogin { nonce: stage.nonce, until };
        self.use_factor(&system, stage.user, proof, Some(completed), step).await?;
        let life = if stage.is_account { TokenLife::Account } else { TokenLife::Standard };
        let name = self.email_of(&system, &entry.account).unwrap_or_default();
        let session = types::SessionId(system.new_id());
        let mut tokens = self.open(&system, entry, session, device, life, request).await?;
        // As after a password: whoever changes it meanwhile ends the sessions that there are.
        let present = self.account(stage.user, None).await?;
        if present.is_none_or(|account| !stage.stands_for(&account)) {
            self.revoke_session(stage.user, session, origin_of(stage.user, request)).await?;
            return Err(invalid_login_token());
        }
        tokens.device_token = self.logged_in(&system, tokens.user, &name, step);
        Ok(tokens)
    }

    /// The device that a token tells.
    pub(crate) fn device_of(&self, token: Option<&str>, now: Timestamp) -> Option<Device> {
        self.stages.open::<Device>(Purpose::Device, token?, now).map(|(device, _)| device)
    }

    /// The device, if it has logged in to this account before.
    pub(crate) fn device_for(
        &self,
        token: Option<&str>,
        account: &str,
        now: Timestamp,
    ) -> Option<u128> {
        let device = self.device_of(token, now)?;
        (device.account == self.stages.digest("account", account)).then_some(device.id)
    }

    /// Notes a login that is complete. Answers the token that tells the device next time.
    pub(crate) fn logged_in(
        &self,
        system: &System,
        user: UserId,
        account: &str,
        step: Step<'_>,
    ) -> Option<String> {
        let now = system.clock().now();
        self.note_login(user, now);
        self.throttle.logged_in(&Visitor::new(step.address, account, None), now);
        let with_code = Visitor::with_code(step.address, &user.to_string(), None);
        self.throttle.logged_in(&with_code, now);
        let id = step.device.or_else(random_number)?;
        let device = Device { id, account: self.stages.digest("account", account), user };
        self.stages.seal(Purpose::Device, device, now.plus_ms(KNOWN_MS))
    }

    /// Whether a bearer token is one for enrolling; see [`Identity::enroller`].
    pub fn is_enrolment_token(token: &str) -> bool {
        StageKey::is_of(Purpose::Enrolment, token)
    }

    /// Whom a token for enrolling stands for: it covers nothing else. 401 `invalid_token`, also
    /// once its user has a second factor.
    pub async fn enroller(&self, token: &str) -> Result<Caller, Refusal> {
        let system = self.system()?;
        let opened = self.stages.open::<Stage>(Purpose::Enrolment, token, system.clock().now());
        let (stage, _) = opened.ok_or_else(invalid_token)?;
        let Stage { user, tenant, .. } = stage;
        let account = self.account(user, Some(tenant)).await?;
        let stands = account.is_some_and(|account| account.active && stage.stands_for(&account));
        let accepted = self.look_at_factors(&system, user, SecondFactors::accepted).await?;
        if !stands || accepted.is_some_and(|accepted| !accepted.is_empty()) {
            return Err(invalid_token());
        }
        Ok(Caller {
            kind: CallerKind::User,
            credential: None,
            user: Some(user),
            tenant,
            session: None,
            role: String::new(),
            scopes: Scopes::default(),
            app: None,
        })
    }

    /// A user's second factors, and how many recovery codes are left.
    pub async fn factors(&self, user: UserId) -> Result<(Vec<FactorView>, usize), Refusal> {
        let system = self.system()?;
        let journal = system.journal().clone();
        let look = move |factors: &SecondFactors| {
            let keys = journal.keys();
            let view = |factor: &crate::second_factor::Factor| FactorView {
                id: factor.id,
                kind: factor.kind(),
                label: factor.label.as_ref().and_then(|label| label.open(keys, NAME_LABEL)),
                created_at: factor.created_at,
                last_used_at: factor.last_used_at,
            };
            (factors.factors().iter().map(view).collect(), factors.recovery_codes_left())
        };
        Ok(self.look_at_factors(&system, user, look).await?.unwrap_or_default())
    }

    /// The ids of a user's passkeys' credentials.
    pub async fn credentials(&self, user: UserId) -> Result<Vec<String>, Refusal> {
        let system = self.system()?;
        let journal = system.journal().clone();
        let look = move |factors: &SecondFactors| factors.credentials(journal.keys());
        Ok(self.look_at_factors(&system, user, look).await?.unwrap_or_default())
    }

    /// Begins to check that it is really the user: counts the attempt, and checks a password. A
    /// code is left to the command that it goes with. 403 `wrong_password`, 429
    /// `too_many_attempts`.
    pub async fn prove(&self, user: UserId, proof: FreshProof) -> Result<Option<Proof>, Refusal> {
        let now = self.system()?.clock().now();
        self.throttle.begin(proof_pair(user), now).map_err(too_many_attempts)?;
        match proof {
            FreshProof::Code(code) => Ok(Some(Proof::typed(&code))),
            FreshProof::Password(password) => {
                let account = self.account(user, None).await?;
                self.check_own_password(account, &Zeroizing::new(password)).await?;
                Ok(None)
            }
        }
    }

    /// Checks everything that a user has to show who they are: the password of whoever has one,
    /// and a code of whoever has a second factor. 403 `wrong_password` and
    /// `invalid_second_factor`, 429 `too_many_attempts`; 403 `no_proof` for whoever has neither.
    pub async fn prove_fully(
        &self,
        user: UserId,
        password: Option<String>,
        code: Option<String>,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let (system, account) = (self.system()?, self.account(user, None).await?);
        let has_password = account.is_some_and(|account| account.password.is_some());
        let has_factor = !self.factors(user).await?.0.is_empty();
        if !has_password && !has_factor {
            let message = "there is neither a password nor a second factor to show who you are";
            return Err(Refusal::new(Class::Forbidden, "no_proof", message));
        }
        let missing = |field| Refusal::invalid(field, "is needed to show who you are");
        if has_password {
            let password = password.ok_or_else(|| missing("password"))?;
            self.prove(user, FreshProof::Password(password)).await?;
        }
        if has_factor {
            let code = code.ok_or_else(|| missing("code"))?;
            if let Some(proof) = self.prove(user, FreshProof::Code(code)).await? {
                let (factors, address) = (system.directory(), self.factors_address(user)?);
                let verify = Verify { proof, login: None };
                let verified = factors.ask(&address, verify, origin).await;
                // 401 would tell the client that its login is over.
                verified.map_err(|it| match it.class {
                    Class::Unauthenticated => Refusal { class: Class::Forbidden, ..it },
                    _ => it,
                })?;
            }
        }
        self.proved(user);
        Ok(())
    }

    /// The proof was right: the attempts begin anew.
    pub fn proved(&self, user: UserId) {
        self.throttle.succeeded(proof_pair(user));
    }

    /// Whom passkeys are for.
    pub fn site(&self) -> &Site {
        &self.settings.site
    }

    /// Whether a user owns a tenant.
    pub async fn is_owner(&self, user: UserId, tenant: TenantId) -> Result<bool, Refusal> {
        let system = self.system()?;
        let look = move |tenant: &crate::tenant::Tenant| {
            tenant.details.as_ref().is_some_and(|details| details.owner == user)
        };
        let tenants = system.directory::<crate::tenant::Tenant>();
        let address = crate::tenant::Tenant::address(tenant);
        tenants.look(&address, system.system_origin(), look).await
    }

    fn email_of(&self, system: &System, account: &crate::user::Account) -> Option<String> {
        account.email.open(system.journal().keys(), crate::user::EMAIL_LABEL)
    }
}

fn proof_pair(user: UserId) -> Pair {
    Pair::new("second factor", &user.to_string())
}
