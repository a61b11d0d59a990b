//! What the records of agents tell to readers of the feed, and what actions they stand for. Ids,
//! names and codes only: no token, and nothing that one could be made of.

use activity::feed::{Audience, Source, Telling};
use activity::{ActionItem, ActionStatus, ActionType};
use serde_json::{Value, json};
use supervision::Event as _;
use types::{AgentId, TokenId, rfc3339};

use crate::agent::AgentEvent;
use crate::revocations::RevokedTokensEvent;

/// What reading agents needs.
const READ: &str = "agents:read";

fn telling(name: &'static str, data: Value) -> Vec<Telling> {
    vec![Telling::new(name, Audience::Tenant, data).needs(READ).of_family(READ)]
}

/// Tells what an agent's event means.
pub fn tell_agent(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = AgentEvent::decode(&header.event, header.event_version, source.payload);
    let (Ok(event), Ok(agent)) = (event, source.id().parse::<AgentId>()) else { return Vec::new() };
    let status = |name, status: &str| telling(name, json!({"agent_id": agent, "status": status}));
    match event {
        AgentEvent::Created(it) => {
            let name = &it.profile.details.name;
            telling("agent.created", json!({"agent_id": agent, "name": name}))
        }
        AgentEvent::Changed(_) => telling("agent.changed", json!({"agent_id": agent})),
        AgentEvent::Paused(_) => status("agent.paused", "paused"),
        AgentEvent::Resumed(_) => status("agent.resumed", "active"),
        AgentEvent::Revoked(_) => status("agent.revoked", "revoked"),
        AgentEvent::TokensEnded(_) => {
            telling("token.revoked", json!({"agent_id": agent, "all": true}))
        }
        AgentEvent::TokenIssued(it) => {
            let expires_at = rfc3339(it.expires_at);
            let data = json!({"agent_id": agent, "token_id": it.token, "scope": it.scopes,
                "expires_at": expires_at, "target_service": it.target});
            telling("token.issued", data)
        }
        AgentEvent::TokenDenied(it) => {
            let data = json!({"agent_id": agent, "reason": it.code, "scope": it.scopes});
            telling("token.denied", data)
        }
        AgentEvent::SeatTold(_) | AgentEvent::TellingRetried(_) => Vec::new(),
    }
}

/// Tells what a revocation means.
pub fn tell_revoked(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = RevokedTokensEvent::decode(&header.event, header.event_version, source.payload);
    let Ok(RevokedTokensEvent::Revoked(it)) = event else { return Vec::new() };
    let token = it.is_tree.then_some(TokenId(it.id));
    telling("token.revoked", json!({"agent_id": it.agent, "token_id": token, "all": false}))
}

fn item(tool: &str, status: ActionStatus, error: Option<String>) -> Vec<ActionItem> {
    vec![ActionItem {
        app_id: None,
        tool_name: tool.to_owned(),
        action_type: ActionType::System,
        status,
        price: 0,
        error,
        index: 0,
        confirmation: None,
    }]
}

/// The action that an agent's record stands for.
pub fn describe_agent(event: &str, version: u16, payload: &[u8]) -> Vec<ActionItem> {
    let done = |tool| item(tool, ActionStatus::Success, None);
    match AgentEvent::decode(event, version, payload) {
        Ok(AgentEvent::Created(_)) => done("create_agent"),
        Ok(AgentEvent::Changed(_)) => done("change_agent"),
        Ok(AgentEvent::Paused(_)) => done("pause_agent"),
        Ok(AgentEvent::Resumed(_)) => done("resume_agent"),
        Ok(AgentEvent::Revoked(_)) => done("revoke_agent"),
        Ok(AgentEvent::TokensEnded(_)) => done("revoke_agent_tokens"),
        Ok(AgentEvent::TokenIssued(_)) => done("issue_token"),
        Ok(AgentEvent::TokenDenied(it)) => item("issue_token", ActionStatus::Error, Some(it.code)),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use types::Scopes;

    use super::*;
    use crate::agent::{StatusSet, TokenDenied};

    #[test]
    fn a_denied_token_is_an_action_that_failed() {
        let denied = TokenDenied { code: "agent_paused".to_owned(), scopes: Scopes::all() };
        let event = AgentEvent::TokenDenied(denied);
        let items = describe_agent(event.name(), event.version(), &event.encode().unwrap());
        assert_eq!(items[0].error.as_deref(), Some("agent_paused"));
        let event = AgentEvent::Revoked(StatusSet {});
        let items = describe_agent(event.name(), event.version(), &event.encode().unwrap());
        assert_eq!(items[0].tool_name, "revoke_agent");
    }
}
