//! Where an agent may be who a request is from: by its token (`rai_live_…`, as a bearer token), or
//! by its secret (`sk_live_…`, as a bearer token or in `X-Agent-Secret`).
//!
//! An agent acts for the user who stands for it, and outlives no decision about it. So it may not
//! make what would go on without it (keys, sessions, members, other agents), nor change who may do
//! what: a route takes an agent's token if it is listed here, and then asks for the same scopes as
//! of an API key. A secret is for asking for tokens and for what an agent says of itself.
//!
//! Deliberate limit: a route that is added later takes no agents until it is listed.

use agents::secret::is_secret;
use agents::token::is_token;
use axum::http::Method;
use axum::http::request::Parts;
use supervision::{Class, Refusal};
use types::Caller;

use crate::api_keys::{self, begins};
use crate::app::App;
use crate::authenticate::{bearer, header, route};
use crate::problem::Problem;

/// Routes that an agent uses about itself, with either of its credentials; they ask for no scope.
const OWN_ROUTES: &[&str] =
    &["/v1/agents/{agent_id}/heartbeat", "/v1/tokens/introspect", "/v1/tokens/revoke"];
/// The route where a secret becomes a token.
const ISSUING_ROUTE: &str = "/v1/tokens";
/// Routes that take tokens for the scopes that they cover, by what their paths begin with.
const TOKEN_ROUTES: &[&str] = &[
    "/v1/actions",
    "/v1/billing/balance",
    "/v1/billing/debits",
    "/v1/billing/holds",
    "/v1/billing/usage",
    "/v1/billing/wallet",
    "/v1/events/stream",
    "/v1/extensions/{app_id}/batch",
    "/v1/extensions/{app_id}/call",
    "/v1/extensions/{app_id}/operate",
    "/v1/extensions/{app_id}/quote",
    "/v1/tasks",
];
/// Who one is.
const ME_ROUTE: &str = "/v1/auth/me";

/// 403 `not_for_agents` unless the route takes this credential of an agent's.
fn check_route(
    route: &str,
    method: &Method,
    caller: &Caller,
    is_token: bool,
) -> Result<(), Refusal> {
    if OWN_ROUTES.contains(&route) || (!is_token && route == ISSUING_ROUTE) {
        return Ok(());
    }
    let is_me = route == ME_ROUTE && *method == Method::GET;
    if is_token && (is_me || TOKEN_ROUTES.iter().any(|start| begins(route, start))) {
        return api_keys::check(route, method, &caller.scopes);
    }
    let message = "this route takes no such credential of an agent";
    Err(Refusal::new(Class::Forbidden, "not_for_agents", message))
}

/// The agent that a request is from, if it is from one. A credential that does not hold is 401.
pub(crate) async fn caller(parts: &Parts, app: &App) -> Result<Option<Caller>, Problem> {
    let now = app.system.clock().now();
    let shown = match header(parts, "x-agent-secret")? {
        Some(_)
            if ["authorization", "x-api-key"].iter().any(|it| parts.headers.contains_key(*it)) =>
        {
            let message = "send the agent's secret or another credential, not both";
            return Err(Problem::unauthenticated(message));
        }
        Some(secret) if !is_secret(secret.trim()) => {
            return Err(Problem::unauthenticated("X-Agent-Secret takes an agent's secret"));
        }
        Some(secret) => secret.trim(),
        None if parts.headers.contains_key("x-api-key") => return Ok(None),
        None => match bearer(parts)? {
            Some(shown) if is_token(shown) || is_secret(shown) => shown,
            _ => return Ok(None),
        },
    };
    let is_token = is_token(shown);
    let caller = match is_token {
        true => app.agents.authenticate(shown, now).await?,
        false => app.agents.authenticate_secret(shown, now).await?,
    };
    check_route(route(parts), &parts.method, &caller, is_token)?;
    Ok(Some(caller))
}

#[cfg(test)]
mod tests {
    use types::{Scopes, TenantId};

    use super::*;

    fn with(scopes: &[&str]) -> Caller {
        let scopes: Scopes = scopes.iter().copied().collect();
        Caller { scopes, ..Caller::system(TenantId(1)) }
    }

    fn code(route: &str, method: Method, scopes: &[&str], is_token: bool) -> String {
        let checked = check_route(route, &method, &with(scopes), is_token);
        checked.err().map(|refusal| refusal.code).unwrap_or_default()
    }

    #[test]
    fn a_token_is_taken_where_its_scopes_cover_it_and_nowhere_else() {
        let code = |route, method, scopes: &[&str]| code(route, method, scopes, true);
        assert_eq!(code("/v1/billing/balance", Method::GET, &["wallet:read"]), "");
        assert_eq!(code("/v1/billing/debits", Method::POST, &["wallet:read"]), "scope_missing");
        assert_eq!(code("/v1/extensions/{app_id}/call", Method::POST, &["a:b"]), "");
        assert_eq!(code("/v1/auth/me", Method::GET, &["auth:read"]), "");
        for (method, route) in [
            (Method::DELETE, "/v1/auth/me"),
            (Method::POST, "/v1/keys"),
            (Method::POST, "/v1/agents"),
            (Method::POST, "/v1/tokens"),
            (Method::PUT, "/v1/billing/limits/{subject}/{window}"),
            (Method::POST, "/v1/extensions/{app_id}/install-keys"),
            (Method::GET, "/v1/operator/tree"),
        ] {
            assert_eq!(code(route, method, &["*"]), "not_for_agents", "{route}");
        }
    }

    #[test]
    fn a_secret_asks_for_tokens_and_does_nothing_else() {
        let code = |route, method| code(route, method, &["*"], false);
        assert_eq!(code("/v1/tokens", Method::POST), "");
        assert_eq!(code("/v1/tokens/revoke", Method::POST), "");
        assert_eq!(code("/v1/billing/balance", Method::GET), "not_for_agents");
        assert_eq!(code("/v1/auth/me", Method::GET), "not_for_agents");
    }
}
