//! What an agent's turn does about tokens: issues one, or notes that none was.

use supervision::{Class, Command, Handle, Refusal, Timestamp, Turn};
use types::{Scopes, TokenId};

use super::{Agent, AgentEvent, AgentStanding, Status, TokenDenied, TokenIssued, no_agent};
use crate::token::{Claims, Grant};
use crate::unix_ms;

/// A token that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it is to cover.
    pub scopes: Scopes,
    /// The one service that it is for.
    pub target: Option<String>,
    /// How many credits may be spent with it.
    pub allowance: Option<u64>,
    /// What it is for, in words.
    pub intent: String,
}

/// Why an agent is given no token now: 403 `agent_paused`, `agent_revoked` and `scope_not_held`.
pub fn denial(standing: &AgentStanding, wanted: &Wanted) -> Option<Refusal> {
    let denied = |code, message| Some(Refusal::new(Class::Forbidden, code, message));
    match standing.status {
        Status::Active => {}
        Status::Paused => return denied("agent_paused", "this agent is paused".to_owned()),
        Status::Revoked => return denied("agent_revoked", "this agent is revoked".to_owned()),
    }
    let mut scopes = wanted.scopes.as_slice().iter();
    let wider = scopes.find(|scope| !standing.scopes.covers(scope))?;
    denied("scope_not_held", format!("the agent was not made for the scope {wider}"))
}

/// Issues a token: answers what it says. Refused as [`denial`] says, and with 404.
pub struct IssueToken {
    /// Its number.
    pub token: TokenId,
    /// What is wanted.
    pub wanted: Wanted,
    /// From when on it is good.
    pub issued_at: Timestamp,
    /// For how long (s).
    pub ttl_s: u64,
}

impl Command for IssueToken {
    const NAME: &'static str = "issue_token";
}

impl Handle<IssueToken> for Agent {
    type Reply = Claims;

    fn handle(turn: &mut Turn<'_, Self>, command: IssueToken) -> Result<Claims, Refusal> {
        let standing = turn.state().standing().ok_or_else(no_agent)?;
        let IssueToken { token, wanted, issued_at, ttl_s } = command;
        if let Some(refusal) = denial(&standing, &wanted) {
            return Err(refusal);
        }
        let profile = turn.state().existing()?;
        let (agent, tenant) = (profile.id, profile.tenant);
        let issued_at_s = unix_ms(issued_at) / 1_000;
        let expires_at_s = issued_at_s + ttl_s.clamp(1, crate::token::LIFE_SECONDS_MAX);
        let Wanted { scopes, target, allowance, intent } = wanted;
        turn.record(AgentEvent::TokenIssued(TokenIssued {
            token,
            scopes: scopes.clone(),
            expires_at: Timestamp(expires_at_s as i64 * 1_000),
            target: target.clone(),
            allowance,
            intent: intent.clone(),
        }));
        let grant = Grant { scopes, expires_at_s, target, allowance, actors: Vec::new() };
        Ok(Claims { token, agent, tenant, epoch: standing.epoch, issued_at_s, intent, grant })
    }
}

/// Notes that a token was refused.
pub struct DenyToken(pub TokenDenied);

impl Command for DenyToken {
    const NAME: &'static str = "deny_token";
}

impl Handle<DenyToken> for Agent {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, DenyToken(denied): DenyToken) -> Result<(), Refusal> {
        turn.state().existing()?;
        turn.record(AgentEvent::TokenDenied(denied));
        Ok(())
    }
}
