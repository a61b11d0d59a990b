//! An agent: a program that acts in a tenant, for the user who stands for it.
//!
//! Invariants
//! - A token is issued in the agent's own turn, under its present epoch, while it is active and for
//!   no more than its scopes.
//! - Pausing, revoking, and taking scopes away raise the epoch: whatever was issued before is
//!   refused from the acknowledgement on. Resuming brings no token back.
//! - What is revoked stays so.
//! - The tenant's roster ([`crate::roster`]) is told of every agent that came or went, again and
//!   again until it has heard.
//!
//! Rows: family [`AGENTS_FAMILY`] in the tenant's shard, by tenant and agent (16 bytes each), so
//! the newest is last; they hold an [`AgentView`]. Family [`SEEN_FAMILY`], the same keys, holds
//! when an agent was seen last: an observation.
//!
//! Deliberate limits
//! - What an agent may do is cut down to what its user may when a token is used
//!   ([`crate::check`]); nothing changes here when a role does.
//! - What is said of an agent (`owner`, `description`, the model) is said by whoever made it, and
//!   nothing is concluded from it.

use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Command, EffectContext, Entity, Handle, Refusal, Retried, Retry, Retrying,
    RowDraft, Timestamp, Turn,
};
use types::{
    AgentId, Scopes, TenantId, TokenId, UserId, base32, home_of, owner_of_tenant, rfc3339,
};

use identity::claim::{Claim, ClaimKey, Retire};
use identity::token_cache::{Epochs, OwnerClass, OwnerKey};
use identity::user::MadeUnder;

use crate::roster::{Roster, Seat, SetSeat};
use crate::secret::SecretHash;
use crate::unix_ms;

#[cfg(test)]
mod tests;
mod tokens;

pub use tokens::{DenyToken, IssueToken, Wanted, denial};

/// The family of the rows of agents.
pub const AGENTS_FAMILY: &str = "agent";
/// The family of the rows of when they were seen.
pub const SEEN_FAMILY: &str = "agent_seen";
/// The shortest and the longest life of a token that is asked for (s).
pub const TTL_SECONDS: std::ops::RangeInclusive<u64> = 300..=crate::token::LIFE_SECONDS_MAX;

/// Where an agent stands. Stored: a status keeps its place for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It may act.
    #[default]
    Active,
    /// It may act again once it is resumed.
    Paused,
    /// It never acts again.
    Revoked,
}

impl Status {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Revoked => "revoked",
        }
    }
}

/// What is said of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// What it is called.
    pub name: String,
    /// Who answers for it, in words: a person, a team.
    pub owner: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whose model it runs.
    pub model_provider: Option<String>,
    /// Which.
    pub model_name: Option<String>,
    /// What it is built with.
    pub framework: Option<String>,
}

/// An agent as its tenant may see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// The id.
    pub id: AgentId,
    /// In which tenant.
    pub tenant: TenantId,
    /// The user who stands for it.
    pub user: UserId,
    /// What is said of it.
    pub details: Details,
    /// What its tokens may cover at most.
    pub scopes: Scopes,
    /// Its own Ed25519 key.
    pub public_key: [u8; 32],
    /// Where it stands.
    pub status: Status,
    /// Since when it is.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// An agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Agent {
    profile: Option<Profile>,
    status: Status,
    /// What its tokens carry.
    epoch: u64,
    updated_at: Timestamp,
    /// Whether the roster knows where it stands.
    is_told: bool,
    retry: Retry,
    issued: u64,
    denied: u64,
}

/// What is known of an agent from the beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The id.
    pub id: AgentId,
    /// In which tenant.
    pub tenant: TenantId,
    /// The user who stands for it.
    pub user: UserId,
    /// Under which standing of that user it counts.
    pub made_under: MadeUnder,
    /// What is said of it.
    pub details: Details,
    /// What its tokens may cover at most.
    pub scopes: Scopes,
    /// Its own Ed25519 key.
    pub public_key: [u8; 32],
    /// The SHA-256 of its secret, claimed for `id`.
    pub secret: SecretHash,
    /// Since when.
    pub created_at: Timestamp,
}

/// What a check of one of its credentials needs to know.
#[derive(Clone, Debug)]
pub struct AgentStanding {
    /// Where it stands.
    pub status: Status,
    /// What tokens must carry.
    pub epoch: u64,
    /// The user who stands for it.
    pub user: UserId,
    /// Under which standing of that user it counts.
    pub made_under: MadeUnder,
    /// What its tokens may cover at most.
    pub scopes: Scopes,
    /// The SHA-256 of its secret.
    pub secret: SecretHash,
}

impl Agent {
    /// Where it lives.
    pub fn address(tenant: TenantId, agent: AgentId) -> Address<Self> {
        crate::address(&base32(agent.0), owner_of_tenant(tenant), home_of(tenant))
    }

    /// As its tenant may see it; `None` when there is no such agent.
    pub fn view(&self) -> Option<AgentView> {
        let it = self.profile.as_ref()?;
        Some(AgentView {
            id: it.id,
            tenant: it.tenant,
            user: it.user,
            details: it.details.clone(),
            scopes: it.scopes.clone(),
            public_key: it.public_key,
            status: self.status,
            created_at: it.created_at,
            updated_at: self.updated_at,
        })
    }

    /// What a check needs; `None` when there is no such agent.
    pub fn standing(&self) -> Option<AgentStanding> {
        let it = self.profile.as_ref()?;
        Some(AgentStanding {
            status: self.status,
            epoch: self.epoch,
            user: it.user,
            made_under: it.made_under,
            scopes: it.scopes.clone(),
            secret: it.secret,
        })
    }

    fn existing(&self) -> Result<&Profile, Refusal> {
        self.profile.as_ref().ok_or_else(no_agent)
    }

    fn seat(&self) -> Option<AgentEffect> {
        let it = self.profile.as_ref().filter(|_| !self.is_told)?;
        let is_taken = self.status != Status::Revoked;
        Some(AgentEffect::Seat { tenant: it.tenant, agent: it.id, is_taken })
    }
}

/// The key of an agent's rows.
pub fn row_key(tenant: TenantId, agent: AgentId) -> Vec<u8> {
    [tenant.0.to_be_bytes(), agent.0.to_be_bytes()].concat()
}

/// 404: there is no such agent, or it is another tenant's.
pub fn no_agent() -> Refusal {
    Refusal::not_found("agent")
}

/// An agent was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentCreated {
    /// What is known of it.
    pub profile: Profile,
}

/// What is said of an agent, or what it may do, is another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentChanged {
    /// What is said of it.
    pub details: Details,
    /// What its tokens may cover at most.
    pub scopes: Scopes,
    /// The user who stands for it.
    pub user: UserId,
    /// Under which standing of that user it counts.
    pub made_under: MadeUnder,
    /// Whether the tokens from before are over.
    pub ends_tokens: bool,
}

/// An agent stands otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusSet {}

/// The roster has heard where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeatTold {}

/// A token was issued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenIssued {
    /// Its number.
    pub token: TokenId,
    /// What it covers.
    pub scopes: Scopes,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// The one service that it is for.
    pub target: Option<String>,
    /// How many credits may be spent with it.
    pub allowance: Option<u64>,
    /// What it is for, in words.
    pub intent: String,
}

/// A token was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenDenied {
    /// The stable code of the reason.
    pub code: String,
    /// What was asked for.
    pub scopes: Scopes,
}

supervision::events! {
    /// What happens to an agent.
    pub enum AgentEvent {
        /// It was made.
        Created(AgentCreated) = "agent_created", 1;
        /// It was changed.
        Changed(AgentChanged) = "agent_changed", 1;
        /// It stands still.
        Paused(StatusSet) = "agent_paused", 1;
        /// It goes on.
        Resumed(StatusSet) = "agent_resumed", 1;
        /// It is over.
        Revoked(StatusSet) = "agent_revoked", 1;
        /// Its tokens are over, and it goes on.
        TokensEnded(StatusSet) = "agent_tokens_revoked", 1;
        /// The roster has heard.
        SeatTold(SeatTold) = "agent_seat_told", 1;
        /// The roster is told once more.
        TellingRetried(Retried) = "agent_telling_retried", 1;
        /// It was given a token.
        TokenIssued(TokenIssued) = "token_issued", 1;
        /// It was given none.
        TokenDenied(TokenDenied) = "token_denied", 1;
    }
}

/// What an agent asks of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEffect {
    /// The roster hears whether the agent takes a seat.
    Seat {
        /// Whose roster.
        tenant: TenantId,
        /// Who.
        agent: AgentId,
        /// Whether it does.
        is_taken: bool,
    },
    /// What was issued before is refused from now on.
    Raise {
        /// Whose tokens.
        agent: AgentId,
        /// The epoch from now on.
        epoch: u64,
    },
    /// The secret is never given again.
    Retire {
        /// Whose.
        agent: AgentId,
        /// Its hash.
        secret: SecretHash,
    },
}

impl Entity for Agent {
    const KIND: &'static str = "agent";
    const OBSERVED_FAMILIES: &'static [&'static str] = &[SEEN_FAMILY];
    const PUBLISHED: bool = true;
    type Event = AgentEvent;
    type Effect = AgentEffect;

    fn apply(&mut self, event: &AgentEvent, at: Timestamp) {
        let (is_seated, before) = (self.profile.is_some(), self.status);
        match event {
            AgentEvent::Created(it) => {
                self.profile = Some(it.profile.clone());
                self.epoch = 1;
            }
            AgentEvent::Changed(it) => {
                if let Some(profile) = &mut self.profile {
                    profile.details = it.details.clone();
                    profile.scopes = it.scopes.clone();
                    (profile.user, profile.made_under) = (it.user, it.made_under);
                }
                self.epoch += u64::from(it.ends_tokens);
            }
            AgentEvent::Paused(_) => {
                self.status = Status::Paused;
                self.epoch += 1;
            }
            AgentEvent::Resumed(_) => self.status = Status::Active,
            AgentEvent::Revoked(_) => {
                self.status = Status::Revoked;
                self.epoch += 1;
            }
            AgentEvent::TokensEnded(_) => return self.epoch += 1,
            AgentEvent::SeatTold(_) => return self.is_told = true,
            AgentEvent::TellingRetried(_) => return self.retry.again(at, Backoff::USUAL),
            AgentEvent::TokenIssued(_) => return self.issued += 1,
            AgentEvent::TokenDenied(_) => return self.denied += 1,
        }
        self.updated_at = at;
        if !is_seated || (self.status == Status::Revoked && before != Status::Revoked) {
            self.is_told = false;
            self.retry = Retry::begin(at, Backoff::USUAL);
        }
    }

    fn rows(&self, event: &AgentEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let is_seen = matches!(
            event,
            AgentEvent::Created(_)
                | AgentEvent::Changed(_)
                | AgentEvent::Paused(_)
                | AgentEvent::Resumed(_)
                | AgentEvent::Revoked(_)
        );
        let mut after = self.clone();
        after.apply(event, at);
        if let Some(view) = after.view().filter(|_| is_seen) {
            let key = row_key(view.tenant, view.id);
            let value = codec::encode(&view).ok();
            rows.push(RowDraft { family: AGENTS_FAMILY, key, value });
        }
    }

    fn is_pending(&self) -> bool {
        self.seat().is_some()
    }

    fn resume(&self) -> Vec<AgentEffect> {
        self.seat().into_iter().collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: AgentEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        match effect {
            AgentEffect::Raise { agent, epoch } => {
                let owner = OwnerKey { class: OwnerClass::Agent, id: agent.0 };
                let now_ms = unix_ms(system.clock().now());
                system.port::<Epochs>().raise(owner, epoch, now_ms);
            }
            AgentEffect::Retire { agent, secret } => {
                let claim = secret.claim(&system.port::<ClaimKey>());
                let retire = Retire { holder: agent.0 };
                // Should this fail, the claim leads to an agent that is revoked.
                if let Err(refusal) = system.directory::<Claim>().ask(&claim, retire, origin).await
                {
                    tracing::debug!(%refusal, %agent, "the claim of a revoked agent stays");
                }
            }
            AgentEffect::Seat { tenant, agent, is_taken } => {
                let seat = if is_taken { Seat::Taken } else { Seat::Left };
                let (rosters, set) = (system.directory::<Roster>(), SetSeat { agent, seat });
                let told = rosters.ask(&Roster::address(tenant), set, origin.clone()).await;
                let mark = MarkTold { is_taken };
                let marked = match told {
                    Ok(()) => system.directory::<Self>().ask(&address, mark, origin).await,
                    Err(refusal) => Err(refusal),
                };
                if let Err(refusal) = marked {
                    tracing::debug!(%refusal, %agent, "the roster is told again");
                }
            }
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(it) = &self.profile else { return json!({"exists": false}) };
        json!({
            "id": it.id, "tenant": it.tenant, "user": it.user, "name": it.details.name,
            "status": self.status.name(), "epoch": self.epoch, "scopes": it.scopes,
            "tokens_issued": self.issued, "tokens_denied": self.denied,
            "created_at": rfc3339(it.created_at), "updated_at": rfc3339(self.updated_at),
        })
    }
}

impl Retrying for Agent {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> AgentEvent {
        AgentEvent::TellingRetried(Retried {})
    }
}

/// Makes an agent that has a seat reserved. 409 `already_exists` for an id that was given.
pub struct CreateAgent {
    /// What is known of it; `created_at` is the turn's.
    pub profile: Profile,
}

impl Command for CreateAgent {
    const NAME: &'static str = "create_agent";
}

impl Handle<CreateAgent> for Agent {
    type Reply = AgentView;

    fn handle(turn: &mut Turn<'_, Self>, command: CreateAgent) -> Result<AgentView, Refusal> {
        if turn.state().profile.is_some() {
            return Err(Refusal::conflict("already_exists", "there is such an agent already"));
        }
        let profile = Profile { created_at: turn.now(), ..command.profile };
        turn.record(AgentEvent::Created(AgentCreated { profile }));
        let seat = turn.state().seat();
        seat.into_iter().for_each(|effect| turn.effect(effect));
        turn.state().view().ok_or_else(no_agent)
    }
}

/// The roster has heard that it takes a seat, or takes none any more.
struct MarkTold {
    is_taken: bool,
}

impl Command for MarkTold {
    const NAME: &'static str = "mark_seat_told";
    const ESSENTIAL: bool = true;
}

impl Handle<MarkTold> for Agent {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: MarkTold) -> Result<(), Refusal> {
        let is_taken = turn.state().status != Status::Revoked;
        if command.is_taken != is_taken {
            // Old news came to the roster after the latest, or may have.
            let existing = turn.state().existing()?;
            let (tenant, agent) = (existing.tenant, existing.id);
            turn.effect(AgentEffect::Seat { tenant, agent, is_taken });
        } else if !turn.state().is_told {
            turn.record(AgentEvent::SeatTold(SeatTold {}));
        }
        Ok(())
    }
}

/// Changes what is said of an agent, what it may do, or who stands for it. 404, and 409
/// `agent_revoked`. What is as it was is no change.
pub struct ChangeAgent {
    /// What changes of what is said.
    pub details: DetailsPatch,
    /// What its tokens may cover from now on.
    pub scopes: Option<Scopes>,
    /// Who stands for it from now on, and under which standing.
    pub user: Option<(UserId, MadeUnder)>,
}

/// What changes of [`Details`]: `Some(None)` takes a text away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DetailsPatch {
    /// See [`Details::name`].
    pub name: Option<String>,
    /// See [`Details::owner`].
    pub owner: Option<String>,
    /// See [`Details::description`].
    pub description: Option<Option<String>>,
    /// See [`Details::model_provider`].
    pub model_provider: Option<Option<String>>,
    /// See [`Details::model_name`].
    pub model_name: Option<Option<String>>,
    /// See [`Details::framework`].
    pub framework: Option<Option<String>>,
}

impl DetailsPatch {
    fn on(self, before: &Details) -> Details {
        let before = before.clone();
        Details {
            name: self.name.unwrap_or(before.name),
            owner: self.owner.unwrap_or(before.owner),
            description: self.description.unwrap_or(before.description),
            model_provider: self.model_provider.unwrap_or(before.model_provider),
            model_name: self.model_name.unwrap_or(before.model_name),
            framework: self.framework.unwrap_or(before.framework),
        }
    }
}

/// Raises the epoch that checks know to the present one.
fn raise(turn: &mut Turn<'_, Agent>, agent: AgentId) {
    let epoch = turn.state().epoch;
    turn.effect(AgentEffect::Raise { agent, epoch });
}

/// What a change answers: the agent, and the epoch that its tokens must carry from now on.
pub type Changed = (AgentView, u64);

fn changed(turn: &Turn<'_, Agent>) -> Result<Changed, Refusal> {
    let view = turn.state().view().ok_or_else(no_agent)?;
    Ok((view, turn.state().epoch))
}

fn revoked() -> Refusal {
    Refusal::conflict("agent_revoked", "this agent is revoked, for good")
}

impl Command for ChangeAgent {
    const NAME: &'static str = "change_agent";
}

impl Handle<ChangeAgent> for Agent {
    type Reply = Changed;

    fn handle(turn: &mut Turn<'_, Self>, command: ChangeAgent) -> Result<Changed, Refusal> {
        let before = turn.state().existing()?.clone();
        if turn.state().status == Status::Revoked {
            return Err(revoked());
        }
        let details = command.details.on(&before.details);
        let scopes = command.scopes.unwrap_or_else(|| before.scopes.clone());
        let (user, made_under) = command.user.unwrap_or((before.user, before.made_under));
        let is_narrower = before.scopes.as_slice().iter().any(|it| !scopes.covers(it));
        let is_others = (user, made_under) != (before.user, before.made_under);
        let ends_tokens = is_narrower || is_others;
        if details != before.details || scopes != before.scopes || is_others {
            let change = AgentChanged { details, scopes, user, made_under, ends_tokens };
            turn.record(AgentEvent::Changed(change));
            if ends_tokens {
                raise(turn, before.id);
            }
        }
        changed(turn)
    }
}

/// Pauses, resumes or revokes an agent. 404; 409 `agent_revoked` for one that is to be otherwise.
/// What stands so already is no change.
pub struct SetStatus(pub Status);

impl Command for SetStatus {
    const NAME: &'static str = "set_agent_status";
    const ESSENTIAL: bool = true;
}

impl Handle<SetStatus> for Agent {
    type Reply = Changed;

    fn handle(turn: &mut Turn<'_, Self>, SetStatus(status): SetStatus) -> Result<Changed, Refusal> {
        let (agent, secret) = turn.state().existing().map(|it| (it.id, it.secret))?;
        match (turn.state().status, status) {
            (before, after) if before == after => return changed(turn),
            (Status::Revoked, _) => return Err(revoked()),
            (_, Status::Active) => turn.record(AgentEvent::Resumed(StatusSet {})),
            (_, Status::Paused) => turn.record(AgentEvent::Paused(StatusSet {})),
            (_, Status::Revoked) => {
                turn.record(AgentEvent::Revoked(StatusSet {}));
                let seat = turn.state().seat();
                seat.into_iter().for_each(|effect| turn.effect(effect));
                turn.effect(AgentEffect::Retire { agent, secret });
            }
        }
        if status != Status::Active {
            raise(turn, agent);
        }
        changed(turn)
    }
}

/// Ends every token that was issued so far. 404.
pub struct EndTokens {}

impl Command for EndTokens {
    const NAME: &'static str = "end_agent_tokens";
    const ESSENTIAL: bool = true;
}

impl Handle<EndTokens> for Agent {
    type Reply = Changed;

    fn handle(turn: &mut Turn<'_, Self>, _: EndTokens) -> Result<Changed, Refusal> {
        let agent = turn.state().existing()?.id;
        turn.record(AgentEvent::TokensEnded(StatusSet {}));
        raise(turn, agent);
        changed(turn)
    }
}
