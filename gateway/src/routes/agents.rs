//! `/v1/agents`: a tenant's agents.
//!
//! Limit: a secret and a private key are in the answer to their creation and nowhere else; a
//! repetition with the same idempotency key is answered from the outcome that was recorded, sealed,
//! with the creation.

use agents::agent::{AgentView, Changed, Details, DetailsPatch, SetStatus, Status};
use agents::service::{AgentFilter, NewAgent, SeenAgent};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::{AgentId, CallerKind, Scopes, UserId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::not_kept;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Entered, Member};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::paging::PageQuery;
use crate::problem::Problem;

/// How many agents a page has when not told, and at most.
const PAGE: (usize, usize) = (20, 200);
/// What looking at agents needs.
pub(super) const READ: &str = "agents:read";
/// What changing them, and asking for their tokens, needs.
pub(super) const WRITE: &str = "agents:write";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_agent, list_agents))
        .routes(routes!(agents_jwks))
        .routes(routes!(get_agent, change_agent, delete_agent))
        .routes(routes!(pause_agent))
        .routes(routes!(resume_agent))
        .routes(routes!(revoke_agent))
        .routes(routes!(agent_heartbeat))
}

/// An agent to be made.
#[derive(Deserialize, ToSchema)]
struct CreateAgentRequest {
    /// What to call it: 1 to 256 characters
    name: String,
    /// Who answers for it, in words: a person, a team
    owner: String,
    /// What it is for
    #[serde(default)]
    description: Option<String>,
    /// Whose model it runs
    #[serde(default)]
    model_provider: Option<String>,
    /// Which
    #[serde(default)]
    model_name: Option<String>,
    /// What it is built with
    #[serde(default)]
    framework: Option<String>,
    /// What its tokens may cover at most; all that the caller's own credential covers when left out
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// Its own Ed25519 public key, 32 bytes as base64url; made up when left out
    #[serde(default)]
    public_key: Option<String>,
}

/// An agent.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct AgentResponse {
    id: AgentId,
    name: String,
    owner: String,
    description: Option<String>,
    model_provider: Option<String>,
    model_name: Option<String>,
    framework: Option<String>,
    /// What its tokens may cover at most
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// Its own Ed25519 key, as base64url
    public_key: String,
    /// `active`, `paused` or `revoked`
    status: &'static str,
    /// The user who stands for it: it may never do more than they
    user_id: UserId,
    created_at: String,
    updated_at: String,
    /// When a credential of it was used last, to the minute
    last_used_at: Option<String>,
    /// When it said last that it is there, to the minute
    last_heartbeat_at: Option<String>,
}

impl From<SeenAgent> for AgentResponse {
    fn from(SeenAgent { agent, seen }: SeenAgent) -> Self {
        Self {
            last_used_at: seen.used_at.map(rfc3339),
            last_heartbeat_at: seen.heartbeat_at.map(rfc3339),
            ..agent.into()
        }
    }
}

impl From<AgentView> for AgentResponse {
    fn from(agent: AgentView) -> Self {
        let Details { name, owner, description, model_provider, model_name, framework } =
            agent.details;
        Self {
            id: agent.id,
            name,
            owner,
            description,
            model_provider,
            model_name,
            framework,
            scopes: agent.scopes,
            public_key: BASE64URL_NOPAD.encode(&agent.public_key),
            status: agent.status.name(),
            user_id: agent.user,
            created_at: rfc3339(agent.created_at),
            updated_at: rfc3339(agent.updated_at),
            last_used_at: None,
            last_heartbeat_at: None,
        }
    }
}

/// An agent, once with its secrets.
#[derive(Serialize, ToSchema)]
struct CreatedAgentResponse {
    #[serde(flatten)]
    agent: AgentResponse,
    /// What it asks for tokens with; it is never shown again
    secret_key: String,
    /// The private half of `public_key`, an Ed25519 seed as base64url, when it was made up here; it
    /// is never shown again and not kept
    private_key: Option<String>,
}

fn public_key(text: Option<String>) -> Result<Option<[u8; 32]>, Refusal> {
    let read = |text: String| {
        let message = "must be an Ed25519 public key: 32 bytes as base64url";
        let unfit = || Refusal::invalid("public_key", message);
        let bytes = BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes());
        bytes.ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(unfit)
    };
    text.map(read).transpose()
}

pub(super) fn id(text: &str) -> Result<AgentId, Refusal> {
    text.parse().map_err(|_| agents::agent::no_agent())
}

/// Make an agent; its secret and its private key are shown once
///
/// The caller stands for it: whatever it does, it may do no more than the caller, and its tokens
/// cover no more than `scopes`. It needs the scope `agents:write`. 402 `plan_limit_reached` when
/// the plan has no further agent; what is revoked does not count.
#[utoipa::path(post, path = "/v1/agents", tag = tag::AGENTS, request_body = CreateAgentRequest,
    responses((status = 201, body = CreatedAgentResponse), (status = 401), (status = 402),
        (status = 403), (status = 409), (status = 422)))]
async fn create_agent(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<CreateAgentRequest>,
) -> Result<Response<Body>, Problem> {
    entered.require(WRITE)?;
    let it = body.value;
    let details = Details {
        name: it.name,
        owner: it.owner,
        description: it.description,
        model_provider: it.model_provider,
        model_name: it.model_name,
        framework: it.framework,
    };
    let scopes = it.scopes.map(Scopes::from_iter);
    let new = NewAgent { details, scopes, public_key: public_key(it.public_key)? };
    let draft = app.agents.draft(&entered.caller, new)?;
    let secret_key = draft.secret.expose().to_owned();
    let private_key = draft.private_key.as_ref().map(|it| BASE64URL_NOPAD.encode(it.expose()));
    let origin = app.origin(&entered.caller, entered.request);
    let view =
        move |made: AgentView| CreatedAgentResponse { agent: made.into(), secret_key, private_key };
    let response: Result<_, Problem> = ask_once!(
        app,
        key.shown_once(),
        entered,
        "create_agent",
        body.bytes,
        draft.address.clone(),
        app.agents.prepare(&entered.caller, &draft, origin).await?,
        StatusCode::CREATED,
        view
    );
    response.map(not_kept)
}

/// Which agents.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AgentsQuery {
    /// How many at most: 1 to 200, default 20
    limit: Option<usize>,
    /// How many to leave out first
    offset: Option<usize>,
    /// `active`, `paused` or `revoked`
    status: Option<String>,
    /// Those of this owner, as it was given
    owner: Option<String>,
}

/// A page of agents.
#[derive(Serialize, ToSchema)]
struct AgentsResponse {
    /// The newest first
    items: Vec<AgentResponse>,
    /// How many there are in all, among the 10,000 newest of the tenant
    total: usize,
    limit: usize,
    offset: usize,
}

fn status(text: &str) -> Result<Status, Refusal> {
    let all = [Status::Active, Status::Paused, Status::Revoked];
    let unfit = || Refusal::invalid_at("query", "status", "must be active, paused or revoked");
    all.into_iter().find(|status| status.name() == text).ok_or_else(unfit)
}

/// The tenant's agents, the newest first
///
/// It needs the scope `agents:read`. Revoked agents stay in the list.
#[utoipa::path(get, path = "/v1/agents", tag = tag::AGENTS, params(AgentsQuery),
    responses((status = 200, body = AgentsResponse), (status = 401), (status = 403),
        (status = 422)))]
async fn list_agents(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<AgentsQuery>,
) -> Result<Json<AgentsResponse>, Problem> {
    entered.require(READ)?;
    let page = PageQuery::new(query.limit, query.offset).page_within(PAGE.0, PAGE.1)?;
    let status = query.status.as_deref().map(status).transpose()?;
    let filter = AgentFilter { status, owner: query.owner };
    let (items, total) = app.agents.list(entered.caller.tenant, filter, page).await?;
    let items = items.into_iter().map(AgentResponse::from).collect();
    Ok(Json(AgentsResponse { items, total, limit: page.limit, offset: page.offset }))
}

/// One agent of the tenant
#[utoipa::path(get, path = "/v1/agents/{agent_id}", tag = tag::AGENTS,
    params(("agent_id" = String, Path)),
    responses((status = 200, body = AgentResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn get_agent(
    State(app): State<App>,
    Member(entered): Member,
    Path(agent): Path<String>,
) -> Result<Json<AgentResponse>, Problem> {
    entered.require(READ)?;
    Ok(Json(app.agents.get(entered.caller.tenant, id(&agent)?).await?.into()))
}

/// What changes of an agent; what is left out stays.
#[derive(Deserialize, ToSchema)]
struct ChangeAgentRequest {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    owner: Option<String>,
    /// An empty text takes it away; so for the three after it
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    model_provider: Option<String>,
    #[serde(default)]
    model_name: Option<String>,
    #[serde(default)]
    framework: Option<String>,
    /// What its tokens may cover from now on; less than before ends the tokens that there are
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// Whether the caller stands for it from now on; that ends the tokens that there are
    #[serde(default)]
    adopt: bool,
}

/// Change what is said of an agent, what it may do, or who stands for it
#[utoipa::path(patch, path = "/v1/agents/{agent_id}", tag = tag::AGENTS,
    params(("agent_id" = String, Path)), request_body = ChangeAgentRequest,
    responses((status = 200, body = AgentResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn change_agent(
    State(app): State<App>,
    Member(entered): Member,
    Path(agent): Path<String>,
    body: JsonBody<ChangeAgentRequest>,
) -> Result<Json<AgentResponse>, Problem> {
    entered.require(WRITE)?;
    let (caller, it) = (&entered.caller, body.value);
    let address = app.agents.managed(caller, id(&agent)?).await?;
    let text = |text: Option<String>| text.map(|text| Some(text).filter(|it| !it.is_empty()));
    let details = DetailsPatch {
        name: it.name,
        owner: it.owner,
        description: text(it.description),
        model_provider: text(it.model_provider),
        model_name: text(it.model_name),
        framework: text(it.framework),
    };
    let scopes = it.scopes.map(Scopes::from_iter);
    let change = app.agents.prepare_change(caller, details, scopes, it.adopt).await?;
    let origin = app.origin(caller, entered.request);
    Ok(Json(app.agents.change(&address, change, origin).await?.into()))
}

/// Revoke an agent for good, and every token of it at once
///
/// It stays in the list, as `revoked`.
#[utoipa::path(delete, path = "/v1/agents/{agent_id}", tag = tag::AGENTS,
    params(("agent_id" = String, Path)),
    responses((status = 200, body = AgentResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn delete_agent(
    State(app): State<App>,
    Member(entered): Member,
    Path(agent): Path<String>,
) -> Result<Json<AgentResponse>, Problem> {
    entered.require(WRITE)?;
    let address = app.agents.managed(&entered.caller, id(&agent)?).await?;
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Json(app.agents.change(&address, SetStatus(Status::Revoked), origin).await?.into()))
}

async fn set_status(
    app: &App,
    entered: &Entered,
    agent: &str,
    key: Key,
    status: Status,
) -> Result<Response<Body>, Problem> {
    entered.require(WRITE)?;
    let address = app.agents.managed(&entered.caller, id(agent)?).await?;
    let operation = format!("set_agent_status {} {agent}", status.name());
    let view = |(agent, _): Changed| AgentResponse::from(agent);
    let response: Result<_, Problem> = ask_once!(
        app,
        key,
        entered,
        &operation,
        [],
        address.clone(),
        SetStatus(status),
        StatusCode::OK,
        view
    );
    let response = response?;
    // Before it is acknowledged, a repetition included.
    app.agents.settle(&address).await?;
    Ok(response)
}

/// Pause an agent: its tokens are over at once, and it gets none until it is resumed
#[utoipa::path(post, path = "/v1/agents/{agent_id}/pause", tag = tag::AGENTS,
    params(("agent_id" = String, Path)),
    responses((status = 200, body = AgentResponse), (status = 401), (status = 403),
        (status = 404), (status = 409)))]
async fn pause_agent(
    State(app): State<App>,
    Member(entered): Member,
    Path(agent): Path<String>,
    key: Key,
) -> Result<Response<Body>, Problem> {
    set_status(&app, &entered, &agent, key, Status::Paused).await
}

/// Let a paused agent go on; it asks for new tokens
#[utoipa::path(post, path = "/v1/agents/{agent_id}/resume", tag = tag::AGENTS,
    params(("agent_id" = String, Path)),
    responses((status = 200, body = AgentResponse), (status = 401), (status = 403),
        (status = 404), (status = 409)))]
async fn resume_agent(
    State(app): State<App>,
    Member(entered): Member,
    Path(agent): Path<String>,
    key: Key,
) -> Result<Response<Body>, Problem> {
    set_status(&app, &entered, &agent, key, Status::Active).await
}

/// Revoke an agent for good, and every token of it at once
#[utoipa::path(post, path = "/v1/agents/{agent_id}/revoke", tag = tag::AGENTS,
    params(("agent_id" = String, Path)),
    responses((status = 200, body = AgentResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn revoke_agent(
    State(app): State<App>,
    Member(entered): Member,
    Path(agent): Path<String>,
    key: Key,
) -> Result<Response<Body>, Problem> {
    set_status(&app, &entered, &agent, key, Status::Revoked).await
}

/// That it is known that an agent is there.
#[derive(Serialize, ToSchema)]
struct HeartbeatResponse {
    agent_id: AgentId,
    last_heartbeat_at: String,
}

/// Say that an agent is there: by itself, or whoever may change it
///
/// An observation: kept in memory and written once a minute, without a record.
#[utoipa::path(post, path = "/v1/agents/{agent_id}/heartbeat", tag = tag::AGENTS,
    params(("agent_id" = String, Path)),
    responses((status = 200, body = HeartbeatResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn agent_heartbeat(
    State(app): State<App>,
    Member(entered): Member,
    Path(agent): Path<String>,
) -> Result<Json<HeartbeatResponse>, Problem> {
    let (caller, agent) = (&entered.caller, id(&agent)?);
    match caller.kind {
        CallerKind::Agent if caller.credential == Some(agent.0) => {}
        CallerKind::Agent => return Err(agents::agent::no_agent().into()),
        _ => {
            entered.require(WRITE)?;
            app.agents.managed(caller, agent).await?;
        }
    }
    let at = app.agents.heartbeat(caller.tenant, agent)?;
    Ok(Json(HeartbeatResponse { agent_id: agent, last_heartbeat_at: rfc3339(at) }))
}

/// The public keys that agent tokens are signed with: next, current and previous (RFC 7517, RFC
/// 8037)
///
/// The first block of a token names its key by the thumbprint (RFC 7638) that is the `kid` here.
/// Who checks a token with these keys alone does not see revocations: then a token is good until it
/// expires, at most a day after it was issued. Ask `/v1/tokens/verify` where that is too long.
#[utoipa::path(get, path = "/v1/agents/.well-known/jwks.json", tag = tag::AGENTS, security(()),
    responses((status = 200, body = Object)))]
async fn agents_jwks(State(app): State<App>) -> Result<Response<Body>, Problem> {
    let mut response = Json(app.agents.issuing_keys().get()?.set.jwks()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}
