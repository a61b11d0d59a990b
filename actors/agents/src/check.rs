//! Whether a token is good now, and whom it stands for.
//!
//! Invariants
//! - A signature is checked once; after that the SHA-256 of the whole token finds what it says. The
//!   revocations, the epochs and what is frozen are looked at every time. So whatever ends a token
//!   is seen by every check that starts after its acknowledgement.
//! - A token that was not checked before is held against its agent, the user who stands for it and
//!   their tenant, as they stand: a restart forgets no revocation.
//! - A token covers what it says, cut down to what the user who stands for its agent may do.
//! - What is remembered is bounded by the cache, whatever number of tokens there is.
//!
//! Deliberate limits
//! - What a token's allowance leaves is not counted here: who takes the token counts what they
//!   take. As a credential of this server a token with an allowance is refused.
//! - Refusals are not cached: what is not good costs a check of a signature each time.

use std::sync::Arc;

use identity::Identity;
use identity::claim::Claim;
use identity::sponsor::Sponsor;
use identity::token_cache::{CarriedEpoch, CredentialDigest, OwnerClass, OwnerKey, Verified};
use supervision::{Class, Entity as _, Refusal, Timestamp};
use types::{AgentId, Caller, CallerKind, Scopes, TenantId};

use crate::agent::{Agent, AgentStanding, Status};
use crate::secret::SecretHash;
use crate::service::{Agents, Seen};
use crate::token::{self, Token, TokenError};
use crate::{unix_ms, unless_erased};

/// How often a check begins again when what it looked at changed under it.
const CHECKS_MAX: u32 = 3;

/// A token that was found good.
#[derive(Debug)]
pub struct LiveToken {
    /// What it says.
    pub token: Token,
    /// What it covers now.
    pub scopes: Scopes,
    caller: Caller,
    seen: Arc<Seen>,
}

/// A secret that was found good.
#[derive(Debug)]
pub struct LiveSecret {
    caller: Caller,
    seen: Arc<Seen>,
}

/// Why a token is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is not genuine, or it is not its time.
    Token(TokenError),
    /// It was, and is over.
    Over(&'static str),
    /// What it needs is frozen, or this server could not find out.
    Refused(Refusal),
}

impl Unfit {
    /// The stable code of the reason.
    pub fn code(&self) -> &str {
        match self {
            Self::Token(error) => error.code(),
            Self::Over(code) => code,
            Self::Refused(refusal) => &refusal.code,
        }
    }

    /// The reason, unless it says nothing about the token: then this server could not find out.
    pub fn reason(self) -> Result<String, Refusal> {
        match self {
            Self::Refused(refusal) if refusal.class.may_pass() => Err(refusal),
            unfit => Ok(unfit.code().to_owned()),
        }
    }
}

impl From<TokenError> for Unfit {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl From<Refusal> for Unfit {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// 401: the one answer to every agent's token or secret that is not good.
pub fn invalid_credential() -> Refusal {
    let message = "this agent's credential is not valid, has expired or was revoked";
    Refusal::new(Class::Unauthenticated, "invalid_agent_credential", message)
}

/// What else a check is to find out.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// What the token must cover.
    pub scopes: Vec<String>,
    /// The service that asks.
    pub service: Option<String>,
}

impl Demand {
    fn check(&self, live: &LiveToken) -> Result<(), Unfit> {
        if !self.scopes.iter().all(|scope| live.scopes.covers(scope)) {
            return Err(Unfit::Over("scope_missing"));
        }
        let target = live.token.claims.grant.target.as_ref();
        let is_meant = match (target, &self.service) {
            (Some(target), Some(service)) => target == service,
            _ => true,
        };
        is_meant.then_some(()).ok_or(Unfit::Over("target_mismatch"))
    }
}

/// What was found out of a token's agent.
struct Behind {
    agent: AgentStanding,
    sponsor: Sponsor,
}

impl Behind {
    fn caller(&self, agent: AgentId, tenant: TenantId, scopes: Scopes) -> Caller {
        Caller {
            kind: CallerKind::Agent,
            credential: Some(agent.0),
            user: Some(self.agent.user),
            tenant,
            session: None,
            role: self.sponsor.role.clone(),
            scopes,
            app: None,
        }
    }

    fn carried(&self, agent: AgentId, epoch: u64) -> Box<[CarriedEpoch]> {
        let owner = OwnerKey { class: OwnerClass::Agent, id: agent.0 };
        let own = std::iter::once(CarriedEpoch { owner, epoch });
        own.chain(self.sponsor.carried).collect()
    }
}

impl Agents {
    /// Whether a token is good now, and for what is demanded.
    pub async fn check(
        &self,
        text: &str,
        demand: &Demand,
        now: Timestamp,
    ) -> Result<Arc<LiveToken>, Unfit> {
        if text.len() > token::TEXT_BYTES_MAX {
            return Err(TokenError::TooLong.into());
        }
        let digest = CredentialDigest::of(text);
        let live = match self.tokens.get(&digest, unix_ms(now)) {
            Some(live) => live,
            None => self.check_anew(text, digest, now).await?,
        };
        self.check_standing(&live.token, &live.caller)?;
        demand.check(&live)?;
        live.seen.used(now);
        Ok(live)
    }

    /// What is looked at every time.
    fn check_standing(&self, token: &Token, caller: &Caller) -> Result<(), Unfit> {
        if self.revoked.has(&token.revocation_ids) {
            return Err(Unfit::Over("token_revoked"));
        }
        Ok(self.check_frozen(caller)?)
    }

    /// 403 `frozen` while an agent, its user or their tenant is.
    pub fn check_frozen(&self, caller: &Caller) -> Result<(), Refusal> {
        let frozen = self.identity.frozen();
        frozen.check(caller.tenant, caller.user)?;
        match (caller.kind, caller.credential) {
            (CallerKind::Agent, Some(agent)) => frozen.check_agent(AgentId(agent)),
            _ => Ok(()),
        }
    }

    /// What a genuine token says, whether it is good or not.
    pub fn read(&self, text: &str, now: Timestamp) -> Result<Token, Unfit> {
        let keys = self.keys.get()?;
        Ok(token::verify(text, |key_id| keys.find(key_id, unix_ms(now)))?)
    }

    async fn check_anew(
        &self,
        text: &str,
        digest: CredentialDigest,
        now: Timestamp,
    ) -> Result<Arc<LiveToken>, Unfit> {
        let token = self.read(text, now)?;
        token.check_time(unix_ms(now) / 1_000)?;
        for _ in 0..CHECKS_MAX {
            let claims = &token.claims;
            let (agent, tenant, epoch) = (claims.agent, claims.tenant, claims.epoch);
            let behind = self.behind(agent, tenant).await?;
            match behind.agent.status {
                _ if behind.agent.epoch <= epoch => {}
                Status::Active => return Err(Unfit::Over("token_superseded")),
                Status::Paused => return Err(Unfit::Over("agent_paused")),
                Status::Revoked => return Err(Unfit::Over("agent_revoked")),
            }
            let scopes = claims.grant.scopes.cut_to(&behind.sponsor.scopes);
            let caller = behind.caller(agent, tenant, scopes.clone());
            let seen = self.seen_of(tenant, agent);
            let value = Arc::new(LiveToken { token: token.clone(), scopes, caller, seen });
            let carried = behind.carried(agent, epoch);
            let until_ms = claims.grant.expires_at_s.saturating_mul(1_000);
            let verified = Verified { value, carried, until_ms };
            // What stood a moment ago may have changed: then its epoch has risen, and it is asked
            // again how it stands.
            if let Some(live) = self.tokens.admit(digest, verified, unix_ms(now)) {
                return Ok(live);
            }
        }
        Err(Refusal::busy().into())
    }

    /// How an agent and the user who stands for it stand.
    async fn behind(&self, agent: AgentId, tenant: TenantId) -> Result<Behind, Unfit> {
        let (system, address) = (self.system()?, Agent::address(tenant, agent));
        let (agents, origin) = (system.directory::<Agent>(), system.system_origin());
        let agent = unless_erased(agents.look(&address, origin, Agent::standing).await)?;
        let agent = agent.ok_or(Unfit::Over("agent_revoked"))?;
        let sponsor = self.identity.sponsor(agent.user, tenant).await?;
        let sponsor = sponsor.filter(|it| agent.made_under.counts(it.counts_from));
        let sponsor = sponsor.ok_or(Unfit::Over("owner_gone"))?;
        Ok(Behind { agent, sponsor })
    }

    /// Whom a token stands for on this server. 401 for whatever is no good token, 403 `frozen`, and
    /// 403 `token_for_another_service` and `allowance_not_supported` for good ones that are not for
    /// here.
    pub async fn authenticate(&self, text: &str, now: Timestamp) -> Result<Caller, Refusal> {
        let checked = self.check(text, &Demand::default(), now).await;
        let live = match checked {
            Ok(live) => live,
            Err(Unfit::Refused(refusal)) => return Err(refusal),
            Err(unfit) => {
                tracing::debug!(code = unfit.code(), "an agent's token was refused");
                return Err(invalid_credential());
            }
        };
        let grant = &live.token.claims.grant;
        let refused = |code, message| Err(Refusal::new(Class::Forbidden, code, message));
        if grant.target.as_ref().is_some_and(|target| target != self.service_name()) {
            return refused("token_for_another_service", "this token is for another service");
        }
        if grant.allowance.is_some() {
            let message = "a token with an allowance cannot be used on this server's own routes";
            return refused("allowance_not_supported", message);
        }
        Ok(live.caller.clone())
    }

    /// Whom an agent's secret stands for: the agent, with all that it and the user who stands for
    /// it may. 401 for whatever is no good secret, 403 `frozen`.
    pub async fn authenticate_secret(
        &self,
        shown: &str,
        now: Timestamp,
    ) -> Result<Caller, Refusal> {
        let hash = SecretHash::of(shown).ok_or_else(invalid_credential)?;
        let digest = CredentialDigest::of(shown);
        let live = match self.secrets.get(&digest, unix_ms(now)) {
            Some(live) => live,
            None => self.check_secret(hash, digest, now).await.map_err(|unfit| match unfit {
                Unfit::Refused(refusal) => refusal,
                _ => invalid_credential(),
            })?,
        };
        self.check_frozen(&live.caller)?;
        live.seen.used(now);
        Ok(live.caller.clone())
    }

    async fn check_secret(
        &self,
        hash: SecretHash,
        digest: CredentialDigest,
        now: Timestamp,
    ) -> Result<Arc<LiveSecret>, Unfit> {
        let (system, unknown) = (self.system()?, Unfit::Over("secret_unknown"));
        let claim = hash.claim(self.identity.claim_key());
        // What nobody has claimed wakes no actor.
        if system.locate(Claim::KIND, claim.id()).is_none() {
            return Err(unknown);
        }
        for _ in 0..CHECKS_MAX {
            let (claims, origin) = (system.directory::<Claim>(), system.system_origin());
            let found = claims.look(&claim, origin, Claim::confirmed).await?;
            let (holder, target) = found.ok_or_else(|| unknown.clone())?;
            let (agent, tenant) = (AgentId(holder), target.tenant);
            let behind = self.behind(agent, tenant).await?;
            if behind.agent.secret != hash || behind.agent.status == Status::Revoked {
                return Err(unknown);
            }
            let scopes = behind.agent.scopes.cut_to(&behind.sponsor.scopes);
            let caller = behind.caller(agent, tenant, scopes);
            let value = Arc::new(LiveSecret { caller, seen: self.seen_of(tenant, agent) });
            let carried = behind.carried(agent, behind.agent.epoch);
            let verified = Verified { value, carried, until_ms: u64::MAX };
            if let Some(live) = self.secrets.admit(digest, verified, unix_ms(now)) {
                return Ok(live);
            }
        }
        Err(Refusal::busy().into())
    }

    /// A caller who was let in before, with what is left of their rights: as
    /// [`Identity::as_of_now`], and for an agent 403 `agent_paused` and `agent_revoked`, and
    /// `frozen`.
    pub async fn as_of_now(&self, caller: Caller) -> Result<Caller, Refusal> {
        let caller = self.identity.as_of_now(caller).await?;
        let (CallerKind::Agent, Some(agent)) = (caller.kind, caller.credential) else {
            return Ok(caller);
        };
        self.check_frozen(&caller)?;
        let refused = |code: &str| {
            Refusal::new(Class::Forbidden, code, "the agent that asked for this may not act")
        };
        let behind = self.behind(AgentId(agent), caller.tenant).await;
        let behind = behind.map_err(|unfit| match unfit {
            Unfit::Refused(refusal) => refusal,
            unfit => refused(unfit.code()),
        })?;
        match behind.agent.status {
            Status::Active => {}
            Status::Paused => return Err(refused("agent_paused")),
            Status::Revoked => return Err(refused("agent_revoked")),
        }
        let scopes = caller.scopes.cut_to(&behind.agent.scopes);
        Ok(Caller { scopes, ..caller })
    }

    /// Forgets what is remembered of an owner who is erased.
    pub(crate) fn forget(&self, owner: &OwnerKey) {
        self.tokens.forget(owner);
        self.secrets.forget(owner);
    }

    /// Who is who.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
}
