//! `/v1/tokens`: tokens of agents, issued, checked, looked into and revoked.

use agents::agent::{Agent, Changed, EndTokens, Wanted};
use agents::check::{Demand, LiveToken};
use agents::token::{Claims, Token};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use supervision::{Refusal, Timestamp};
use types::{AgentId, CallerKind, Scopes, TenantId, TokenId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::agents::{READ, WRITE, id};
use super::not_kept;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Anyone, Entered, Member};
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

/// The most tokens of one batch.
const BATCH_MAX: usize = 100;
/// The most scopes that a check may demand.
const REQUIRED_MAX: usize = 64;
/// The target of a token that is for any service.
const ANY: &str = "any";
/// How long a token lives when not told (s).
const TTL_SECONDS_DEFAULT: u64 = 300;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(issue_token))
        .routes(routes!(verify_token))
        .routes(routes!(verify_tokens))
        .routes(routes!(introspect_token))
        .routes(routes!(revoke_token))
}

fn time(seconds: u64) -> String {
    let ms = i64::try_from(seconds.saturating_mul(1_000));
    rfc3339(Timestamp(ms.unwrap_or(i64::MAX)))
}

fn target(target: Option<String>) -> String {
    target.unwrap_or_else(|| ANY.to_owned())
}

/// A token that is wanted.
#[derive(Deserialize, ToSchema)]
struct IssueTokenRequest {
    /// Whose it is to be
    agent_id: String,
    /// What it is to cover: 1 to 32 scopes, within the caller's own and the agent's
    scope: Vec<String>,
    /// How long it lives, in seconds: 300 to 86,400
    #[serde(default)]
    #[schema(default = 300, minimum = 300, maximum = 86_400)]
    ttl: Option<u64>,
    /// The one service that it is for; `any` by default
    #[serde(default)]
    target_service: Option<String>,
    /// What the agent wants with it, in words: at most 512 bytes
    #[serde(default)]
    intent: Option<String>,
    /// How many credits may be spent with it, for the service that takes it to count
    #[serde(default)]
    allowance: Option<u64>,
}

/// A token.
#[derive(Serialize, ToSchema)]
struct AgentTokenResponse {
    /// The token itself; it is never shown again
    token: String,
    token_id: TokenId,
    agent_id: AgentId,
    tenant_id: TenantId,
    #[schema(value_type = Vec<String>)]
    scope: Scopes,
    issued_at: String,
    expires_at: String,
    target_service: String,
    intent: String,
    allowance: Option<u64>,
}

/// Issue a token to an agent: by the agent with its secret, or by whoever stands for it
///
/// The secret is sent as `Authorization: Bearer sk_live_…` or as `X-Agent-Secret`; others need the
/// scope `agents:write`. The token covers no more than the caller and the agent do: 403
/// `scope_not_held`, which is recorded as denied, as is 403 `agent_paused` and `agent_revoked`.
///
/// A token is `rai_live_` and base64url of blocks. The first is signed with an Ed25519 key of
/// `/v1/agents/.well-known/jwks.json`; whoever holds the token may add narrower blocks without
/// asking (fewer scopes, an earlier end, one service, a smaller allowance), and seal it. No token
/// that was made of another allows more. The bytes are described in the product's decisions, with
/// test vectors.
#[utoipa::path(post, path = "/v1/tokens", tag = tag::AGENTS, request_body = IssueTokenRequest,
    responses((status = 201, body = AgentTokenResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn issue_token(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<IssueTokenRequest>,
) -> Result<Response<Body>, Problem> {
    let caller = &entered.caller;
    if caller.kind != CallerKind::Agent {
        entered.require(WRITE)?;
    }
    let it = body.value;
    let wanted = Wanted {
        scopes: it.scope.into_iter().collect(),
        target: it.target_service.filter(|target| target != ANY),
        allowance: it.allowance,
        intent: it.intent.unwrap_or_default(),
    };
    let ttl_s = it.ttl.unwrap_or(TTL_SECONDS_DEFAULT);
    let draft = app.agents.draft_token(caller, id(&it.agent_id)?, wanted, ttl_s)?;
    let (address, mint) = (draft.address.clone(), draft.mint.clone());
    let origin = app.origin(caller, entered.request);
    let view = move |claims: Claims| {
        // What was checked has a form; should signing fail, the turn is undone with it.
        let token = mint.token(&claims);
        let token = token.unwrap_or_else(|error| panic!("a token could not be made: {error}"));
        token_response(token, claims)
    };
    let response: Result<_, Problem> = ask_once!(
        app,
        key.shown_once(),
        entered,
        "issue_token",
        body.bytes,
        address,
        app.agents.check_wanted(caller, draft, origin).await?,
        StatusCode::CREATED,
        view
    );
    response.map(not_kept)
}

fn token_response(token: String, claims: Claims) -> AgentTokenResponse {
    AgentTokenResponse {
        token,
        token_id: claims.token,
        agent_id: claims.agent,
        tenant_id: claims.tenant,
        scope: claims.grant.scopes,
        issued_at: time(claims.issued_at_s),
        expires_at: time(claims.grant.expires_at_s),
        target_service: target(claims.grant.target),
        intent: claims.intent,
        allowance: claims.grant.allowance,
    }
}

/// What a token says: all of it, or nothing.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct TokenClaims {
    #[schema(required = false)]
    token_id: TokenId,
    #[schema(required = false)]
    agent_id: AgentId,
    #[schema(required = false)]
    tenant_id: TenantId,
    /// What it covers now: what it says, within what the user who stands for the agent may do
    #[schema(required = false, value_type = Vec<String>)]
    scope: Scopes,
    #[schema(required = false)]
    issued_at: String,
    #[schema(required = false)]
    expires_at: String,
    #[schema(required = false)]
    remaining_seconds: u64,
    /// The one service that it is for, or `any`
    #[schema(required = false)]
    target_service: String,
    #[schema(required = false)]
    intent: String,
    /// How many credits may be spent with it; null without a limit of its own
    #[schema(required = false)]
    allowance: Option<u64>,
    /// Who acts for the agent, each for the one before
    #[schema(required = false)]
    act: Vec<String>,
    /// How many blocks its holders have added
    #[schema(required = false)]
    blocks: usize,
}

impl TokenClaims {
    fn of(token: &Token, scopes: &Scopes, now: Timestamp) -> Self {
        let Claims { token: token_id, agent, tenant, issued_at_s, intent, grant, .. } =
            token.claims.clone();
        let now_s = u64::try_from(now.0 / 1_000).unwrap_or_default();
        Self {
            token_id,
            agent_id: agent,
            tenant_id: tenant,
            scope: scopes.clone(),
            issued_at: time(issued_at_s),
            expires_at: time(grant.expires_at_s),
            remaining_seconds: grant.expires_at_s.saturating_sub(now_s),
            target_service: target(grant.target),
            intent,
            allowance: grant.allowance,
            act: grant.actors,
            blocks: token.revocation_ids.len() - 1,
        }
    }
}

/// A token to be checked.
#[derive(Deserialize, ToSchema)]
struct VerifyTokenRequest {
    token: String,
    /// What it must cover: at most 64 scopes
    #[serde(default)]
    required_scope: Vec<String>,
    /// Who asks: a token for another service is not valid
    #[serde(default)]
    target_service: Option<String>,
}

/// Whether a token is good.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct VerifyTokenResponse {
    valid: bool,
    /// Why not: `token_malformed`, `token_too_long`, `token_version`, `token_key_unknown`,
    /// `token_signature`, `token_block_signature`, `token_proof`, `token_block_widens`,
    /// `token_expired`, `token_not_yet_valid`, `token_revoked`, `token_superseded`,
    /// `agent_paused`, `agent_revoked`, `owner_gone`, `scope_missing`, `target_mismatch` or
    /// `frozen`; null when it is
    reason: Option<String>,
    /// What it says, when it is good
    #[serde(flatten)]
    #[schema(value_type = TokenClaims)]
    claims: Option<TokenClaims>,
}

fn demand(scopes: Vec<String>, service: Option<String>) -> Result<Demand, Refusal> {
    let message = format!("must be at most {REQUIRED_MAX} scopes");
    let fits = scopes.len() <= REQUIRED_MAX;
    fits.then_some(()).ok_or_else(|| Refusal::invalid("required_scope", message))?;
    Ok(Demand { scopes, service: service.filter(|service| service != ANY) })
}

async fn verdict(app: &App, token: &str, demand: &Demand) -> Result<VerifyTokenResponse, Refusal> {
    let now = app.system.clock().now();
    let good = |live: &LiveToken| VerifyTokenResponse {
        valid: true,
        reason: None,
        claims: Some(TokenClaims::of(&live.token, &live.scopes, now)),
    };
    match app.agents.check(token, demand, now).await {
        Ok(live) => Ok(good(&live)),
        Err(unfit) => {
            let reason = Some(unfit.reason()?);
            Ok(VerifyTokenResponse { valid: false, reason, claims: None })
        }
    }
}

/// Check a token: whoever was shown one
///
/// No credential is needed; requests are counted by address. A revocation, a pause and a freeze are
/// seen by every check that starts after they were acknowledged.
#[utoipa::path(post, path = "/v1/tokens/verify", tag = tag::AGENTS, security(()),
    request_body = VerifyTokenRequest,
    responses((status = 200, body = VerifyTokenResponse), (status = 422), (status = 429)))]
async fn verify_token(
    State(app): State<App>,
    _: Anyone,
    body: JsonBody<VerifyTokenRequest>,
) -> Result<Response<Body>, Problem> {
    let VerifyTokenRequest { token, required_scope, target_service } = body.value;
    let demand = demand(required_scope, target_service)?;
    let verdict = verdict(&app, &token, &demand).await?;
    Ok(not_kept(axum::response::IntoResponse::into_response(Json(verdict))))
}

/// Tokens to be checked.
#[derive(Deserialize, ToSchema)]
struct VerifyTokensRequest {
    /// At most 100
    tokens: Vec<String>,
    /// What each must cover: at most 64 scopes
    #[serde(default)]
    required_scope: Vec<String>,
    /// Who asks: a token for another service is not valid
    #[serde(default)]
    target_service: Option<String>,
}

/// Whether tokens are good.
#[derive(Serialize, ToSchema)]
struct VerifyTokensResponse {
    /// In the order of the tokens
    results: Vec<VerifyTokenResponse>,
}

/// Check up to 100 tokens
#[utoipa::path(post, path = "/v1/tokens/verify/batch", tag = tag::AGENTS, security(()),
    request_body = VerifyTokensRequest,
    responses((status = 200, body = VerifyTokensResponse), (status = 422), (status = 429)))]
async fn verify_tokens(
    State(app): State<App>,
    _: Anyone,
    body: JsonBody<VerifyTokensRequest>,
) -> Result<Response<Body>, Problem> {
    let VerifyTokensRequest { tokens, required_scope, target_service } = body.value;
    if tokens.len() > BATCH_MAX {
        let message = format!("must be at most {BATCH_MAX} tokens");
        return Err(Refusal::invalid("tokens", message).into());
    }
    let demand = demand(required_scope, target_service)?;
    let mut results = Vec::with_capacity(tokens.len());
    for token in &tokens {
        results.push(verdict(&app, token, &demand).await?);
        // Each may cost checks of signatures: others have their turn between them.
        tokio::task::yield_now().await;
    }
    let answer = Json(VerifyTokensResponse { results });
    Ok(not_kept(axum::response::IntoResponse::into_response(answer)))
}

/// A token to be looked into.
#[derive(Deserialize, ToSchema)]
struct IntrospectTokenRequest {
    token: String,
}

/// What is known of a token.
#[derive(Serialize, ToSchema)]
struct IntrospectTokenResponse {
    /// Whether it is good now
    active: bool,
    /// Why not, as `/v1/tokens/verify` tells it; null when it is
    reason: Option<String>,
    /// What it says, of a genuine token of the caller's tenant, good or not
    #[serde(flatten)]
    #[schema(value_type = TokenClaims)]
    claims: Option<TokenClaims>,
}

/// Look into a token of one's tenant, good or not
///
/// By the agent itself, or with the scope `agents:read`. Any other token is only told to be
/// inactive, as a text is that is none.
#[utoipa::path(post, path = "/v1/tokens/introspect", tag = tag::AGENTS,
    request_body = IntrospectTokenRequest,
    responses((status = 200, body = IntrospectTokenResponse), (status = 401), (status = 403),
        (status = 422)))]
async fn introspect_token(
    State(app): State<App>,
    Member(entered): Member,
    body: JsonBody<IntrospectTokenRequest>,
) -> Result<Response<Body>, Problem> {
    let (caller, text) = (&entered.caller, body.value.token);
    if caller.kind != CallerKind::Agent {
        entered.require(READ)?;
    }
    let is_own = |token: &Token| {
        caller.kind != CallerKind::Agent || caller.credential == Some(token.claims.agent.0)
    };
    let answer = match app.agents.own_token(caller, &text) {
        Ok(token) if is_own(&token) => {
            let now = app.system.clock().now();
            let checked = app.agents.check(&text, &Demand::default(), now).await;
            let (scopes, reason) = match checked {
                Ok(live) => (live.scopes.clone(), None),
                Err(unfit) => (token.claims.grant.scopes.clone(), Some(unfit.reason()?)),
            };
            let claims = Some(TokenClaims::of(&token, &scopes, now));
            IntrospectTokenResponse { active: reason.is_none(), reason, claims }
        }
        Err(refusal) if refusal.class.may_pass() => return Err(refusal.into()),
        _ => {
            let reason = Some("unknown".to_owned());
            IntrospectTokenResponse { active: false, reason, claims: None }
        }
    };
    Ok(not_kept(axum::response::IntoResponse::into_response(Json(answer))))
}

/// What is to be revoked: a token, or all of an agent's.
#[derive(Deserialize, ToSchema)]
struct RevokeTokenRequest {
    /// This token and whatever was made of it
    #[serde(default)]
    token: Option<String>,
    /// With `token`: whatever shares its number too, what it was made of included
    #[serde(default)]
    tree: bool,
    /// Every token of this agent, which goes on
    #[serde(default)]
    agent_id: Option<String>,
}

/// That it is revoked.
#[derive(Serialize, ToSchema)]
struct RevokeTokenResponse {
    revoked: bool,
    /// `token`, `tree` or `agent`
    what: &'static str,
    agent_id: AgentId,
}

/// Revoke a token, all that shares its number, or all of an agent's tokens, at once
///
/// By whoever stands for the agent, with the scope `agents:write`, or by the agent itself. Every
/// check that starts after the answer refuses what was revoked. What was revoked before is answered
/// alike.
#[utoipa::path(post, path = "/v1/tokens/revoke", tag = tag::AGENTS,
    request_body = RevokeTokenRequest,
    responses((status = 200, body = RevokeTokenResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn revoke_token(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<RevokeTokenRequest>,
) -> Result<Response<Body>, Problem> {
    if entered.caller.kind != CallerKind::Agent {
        entered.require(WRITE)?;
    }
    let RevokeTokenRequest { token, tree, agent_id } = body.value;
    match (token, agent_id) {
        (Some(token), None) => revoke_one(&app, &entered, key, &body.bytes, (&token, tree)).await,
        (None, Some(agent)) => revoke_all(&app, &entered, key, &body.bytes, id(&agent)?).await,
        _ => Err(Refusal::invalid("token", "name a token or an agent, one of them").into()),
    }
}

async fn revoke_one(
    app: &App,
    entered: &Entered,
    key: Key,
    bytes: &[u8],
    (text, is_tree): (&str, bool),
) -> Result<Response<Body>, Problem> {
    let draft = app.agents.draft_revocation(&entered.caller, text, is_tree).await?;
    let agent_id = draft.revoke.0.agent;
    let what = if is_tree { "tree" } else { "token" };
    let view = move |_: bool| RevokeTokenResponse { revoked: true, what, agent_id };
    let response: Result<_, Problem> = ask_once!(
        app,
        key,
        entered,
        "revoke_token",
        bytes,
        draft.address,
        draft.revoke,
        StatusCode::OK,
        view
    );
    let response = response?;
    // Before it is acknowledged, a repetition included.
    app.agents.remember_revoked(draft.id, draft.until);
    Ok(response)
}

async fn revoke_all(
    app: &App,
    entered: &Entered,
    key: Key,
    bytes: &[u8],
    agent_id: AgentId,
) -> Result<Response<Body>, Problem> {
    let caller = &entered.caller;
    let is_itself = caller.kind == CallerKind::Agent && caller.credential == Some(agent_id.0);
    let address = match is_itself {
        true => Agent::address(caller.tenant, agent_id),
        false => app.agents.managed(caller, agent_id).await?,
    };
    let what = "agent";
    let view = move |_: Changed| RevokeTokenResponse { revoked: true, what, agent_id };
    let response: Result<_, Problem> = ask_once!(
        app,
        key,
        entered,
        "revoke_token",
        bytes,
        address.clone(),
        EndTokens {},
        StatusCode::OK,
        view
    );
    let response = response?;
    // Before it is acknowledged, a repetition included.
    app.agents.settle(&address).await?;
    Ok(response)
}
