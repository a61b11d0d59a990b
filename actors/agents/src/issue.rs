//! Issuing tokens, and revoking them.
//!
//! Invariants
//! - A token is durable in its agent's records before anybody has it.
//! - A revocation is remembered by every check before it is acknowledged, by a repetition of the
//!   request too.
//! - Nobody gets a token for more than their own credential covers, nor for more than the agent.
//!
//! Deliberate limits
//! - A token that is denied for what the agent may not, or because it is paused or revoked, is
//!   recorded as denied; what is wrong in form is not.
//! - Whoever holds the secret of a token can narrow what they hold again and again: revoking what
//!   was made of it does not keep them from making another. Revoke what they hold, or the tree.

use std::sync::Arc;

use supervision::{Address, Origin, Refusal, Timestamp};
use types::{AgentId, Caller, CallerKind, TokenId};

use crate::agent::{
    Agent, DenyToken, IssueToken, TTL_SECONDS, TokenDenied, Wanted, denial, no_agent,
};
use crate::internal;
use crate::issuing::Published;
use crate::revocations::{RevokeToken, RevokedTokens, TokenRevoked};
use crate::service::{Agents, check_held, check_scopes};
use crate::token::{self, Claims, INTENT_BYTES_MAX, Seed, TARGET_BYTES_MAX, Token, TokenError};

/// What makes the bytes of a token of what it says, once that is durable.
#[derive(Clone)]
pub struct Mint {
    keys: Arc<Published>,
    key_id: [u8; 32],
    next: Seed,
}

impl Mint {
    /// The token.
    pub fn token(&self, claims: &Claims) -> Result<String, TokenError> {
        token::mint(claims, &self.key_id, &self.next, |message| self.keys.sign(message))
    }
}

/// A token that is about to be issued.
pub struct TokenDraft {
    /// Where to ask.
    pub address: Address<Agent>,
    /// What to ask, once it is checked ([`Agents::check_wanted`]).
    pub issue: IssueToken,
    /// What makes its bytes.
    pub mint: Mint,
}

/// What of a token is revoked.
pub struct RevocationDraft {
    /// Where to ask.
    pub address: Address<RevokedTokens>,
    /// What to ask.
    pub revoke: RevokeToken,
    /// Its number.
    pub id: u128,
    /// When it ends by itself.
    pub until: Timestamp,
}

/// 404: this is no token that the caller may know of.
fn no_token() -> Refusal {
    Refusal::not_found("token")
}

fn check_form(wanted: &Wanted, ttl_s: u64) -> Result<(), Refusal> {
    check_scopes("scope", &wanted.scopes)?;
    if !TTL_SECONDS.contains(&ttl_s) {
        let (from, to) = (TTL_SECONDS.start(), TTL_SECONDS.end());
        return Err(Refusal::invalid("ttl", format!("must be from {from} to {to} seconds")));
    }
    let is_target = |target: &String| {
        (1..=TARGET_BYTES_MAX).contains(&target.len())
            && target.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !wanted.target.as_ref().is_none_or(is_target) {
        let message = format!("must be 1 to {TARGET_BYTES_MAX} visible ASCII characters");
        return Err(Refusal::invalid("target_service", message));
    }
    let is_line = types::check_line(&wanted.intent).is_ok();
    let message = || format!("must be a line of at most {INTENT_BYTES_MAX} bytes");
    let fits = is_line && wanted.intent.len() <= INTENT_BYTES_MAX;
    fits.then_some(()).ok_or_else(|| Refusal::invalid("intent", message()))
}

impl Agents {
    /// Makes up a token for an agent of the caller's tenant. Nothing is checked or kept yet.
    pub fn draft_token(
        &self,
        caller: &Caller,
        agent: AgentId,
        wanted: Wanted,
        ttl_s: u64,
    ) -> Result<TokenDraft, Refusal> {
        let (system, keys) = (self.system()?, self.keys.get()?);
        let address = Agent::address(caller.tenant, agent);
        let (token, issued_at) = (TokenId(system.new_id()), system.clock().now());
        let issue = IssueToken { token, wanted, issued_at, ttl_s };
        let key_id = keys.current_key_id().ok_or_else(|| internal("an issuing key has no id"))?;
        let next = Seed::generate().ok_or_else(|| internal("no random numbers"))?;
        Ok(TokenDraft { address, issue, mint: Mint { keys, key_id, next } })
    }

    /// Checks what is wanted: 404 for an agent that is not the caller's to know of, 403 for another
    /// member's, `scope_not_held`, `agent_paused`, `agent_revoked`, and 422. What is denied is
    /// recorded.
    pub async fn check_wanted(
        &self,
        caller: &Caller,
        draft: TokenDraft,
        origin: Origin,
    ) -> Result<IssueToken, Refusal> {
        let TokenDraft { address, issue, .. } = draft;
        let agent = address.id().parse().map_err(|_| no_agent())?;
        match (caller.kind, caller.credential) {
            (CallerKind::Agent, Some(own)) if AgentId(own) == agent => {}
            (CallerKind::Agent, _) => {
                self.find(caller.tenant, agent)?;
                return Err(Refusal::forbidden("an agent asks for its own tokens only"));
            }
            _ => drop(self.managed(caller, agent).await?),
        }
        check_form(&issue.wanted, issue.ttl_s)?;
        let (system, agents) = (self.system()?, self.system()?.directory::<Agent>());
        let standing = agents.look(&address, system.system_origin(), Agent::standing).await?;
        let standing = standing.ok_or_else(no_agent)?;
        let held = check_held(caller, &issue.wanted.scopes);
        let denied = denial(&standing, &issue.wanted).or(held.err());
        let Some(refusal) = denied else { return Ok(issue) };
        let code = refusal.code.clone();
        let deny = DenyToken(TokenDenied { code, scopes: issue.wanted.scopes.clone() });
        agents.ask(&address, deny, origin).await?;
        Err(refusal)
    }

    /// What revokes a token that somebody shows: this one and what was made of it, or with
    /// `is_tree` all that share its number. 404 for what is no token of the caller's tenant, 403
    /// for another member's agent.
    pub async fn draft_revocation(
        &self,
        caller: &Caller,
        text: &str,
        is_tree: bool,
    ) -> Result<RevocationDraft, Refusal> {
        let token = self.own_token(caller, text)?;
        let (agent, tenant) = (token.claims.agent, token.claims.tenant);
        let is_itself = caller.kind == CallerKind::Agent && caller.credential == Some(agent.0);
        if !is_itself {
            self.managed(caller, agent).await?;
        }
        let last = token.revocation_ids.last().copied().filter(|_| !is_tree);
        let id = last.unwrap_or(token.claims.token.0);
        // All that was made of a token ends no later than it; all that share a number end no later
        // than the first.
        let is_first = id == token.claims.token.0;
        let own = token.claims.grant.expires_at_s;
        let until_s = if is_first { token.tree_expires_at_s } else { own };
        let until = Timestamp(i64::try_from(until_s.saturating_mul(1_000)).unwrap_or(i64::MAX));
        let revoked = TokenRevoked { id, agent, is_tree: is_first, until };
        let address = RevokedTokens::address(tenant, agent, until);
        Ok(RevocationDraft { address, revoke: RevokeToken(revoked), id, until })
    }

    /// A genuine token of the caller's tenant. 404 for any other.
    pub fn own_token(&self, caller: &Caller, text: &str) -> Result<Token, Refusal> {
        let now = self.system()?.clock().now();
        match self.read(text, now) {
            Ok(token) if token.claims.tenant == caller.tenant => Ok(token),
            Err(crate::check::Unfit::Refused(refusal)) => Err(refusal),
            _ => Err(no_token()),
        }
    }

    /// From now on every check knows that it is revoked. After it is durable, before that is told.
    pub fn remember_revoked(&self, id: u128, until: Timestamp) {
        self.revoked.insert(id, until);
    }
}
