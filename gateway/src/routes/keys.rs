//! API keys, in the shapes of the three APIs that make them: `/v1/keys`, `/v1/api-keys` and
//! `/api/v1/auth/api-keys`. A key that one of them made is seen and deleted by all.
//!
//! Limit: the secret is in the answer to its creation and nowhere else; a repetition with the same
//! idempotency key is answered from the outcome that was recorded, sealed, with the creation.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use identity::api_key::{ApiKey, KEYS_MAX, Maker, no_key};
use identity::key_check::{KeyView, NewKey};
use serde::{Deserialize, Serialize};
use supervision::{Refusal, Timestamp};
use types::{KeyIdentifier, Page, Scopes, parse_rfc3339, rfc3339};
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
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(delete))
        .routes(routes!(create_for_account, list_of_account))
        .routes(routes!(delete_of_account))
        .routes(routes!(create_for_agents, list_for_agents))
        .routes(routes!(delete_for_agents))
}

/// Makes a key and answers it, with its secret, in the view of one API.
async fn make<V: Serialize>(
    app: &App,
    entered: &Entered,
    key: Key,
    bytes: &[u8],
    new: NewKey,
    view: impl FnOnce(ApiKey, &str) -> V + Send + 'static,
) -> Result<Response<Body>, Problem> {
    let operation = format!("create_key {}", new.maker.prefix());
    let draft = app.identity.draft_key(&entered.caller, new)?;
    let (secret, create) = (draft.secret, draft.create);
    let origin = app.origin(&entered.caller, entered.request);
    let view = move |made: ApiKey| view(made, secret.expose());
    let response: Result<_, Problem> = ask_once!(
        app,
        key.shown_once(),
        entered,
        &operation,
        bytes,
        draft.address,
        {
            super::key_room::check(app, entered.caller.tenant, &origin).await?;
            app.identity.claim_api_key(&entered.caller, create, origin).await?
        },
        StatusCode::CREATED,
        view
    );
    response.map(not_kept)
}

fn expiry(text: Option<String>) -> Result<Option<Timestamp>, Refusal> {
    let read = |text: String| {
        let unfit = || Refusal::invalid("expires_at", "must be an RFC 3339 time to come");
        parse_rfc3339(&text).ok_or_else(unfit)
    };
    text.map(read).transpose()
}

/// The scopes in a text, between commas or spaces; `None` for `*`, all that one has.
fn scopes_of(text: &str) -> Option<Scopes> {
    let scopes = text.split([',', ' ']).filter(|scope| !scope.is_empty());
    (text.trim() != "*").then(|| scopes.collect())
}

fn id(text: &str) -> Result<KeyIdentifier, Refusal> {
    text.parse().map_err(|_| no_key())
}

/// A page of the keys.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct KeysQuery {
    /// How many at most: 1 to 100, default 100
    limit: Option<usize>,
    /// How many to leave out first
    offset: Option<usize>,
}

async fn keys(app: &App, entered: &Entered, query: &KeysQuery) -> Result<Vec<KeyView>, Refusal> {
    if !query.limit.is_none_or(|limit| (1..=KEYS_MAX).contains(&limit)) {
        return Err(Refusal::invalid("limit", format!("must be from 1 to {KEYS_MAX}")));
    }
    let page = Page::by_offset(query.limit, query.offset, KEYS_MAX, KEYS_MAX);
    app.identity.list_keys(&entered.caller, page).await
}

async fn remove(app: &App, entered: &Entered, key: &str) -> Result<(), Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.delete_key(&entered.caller, id(key)?, origin).await
}

/// A key to be made.
#[derive(Deserialize, ToSchema)]
struct CreateKeyRequest {
    /// What to call it: 1 to 255 characters
    name: String,
    /// What it is for, between commas: `wallet:read,keys:*`. `*`, the default, is all that the
    /// caller's own credential covers
    #[serde(default)]
    scopes: Option<String>,
    /// RFC 3339; when it ends by itself
    #[serde(default)]
    expires_at: Option<String>,
}

/// A key, once with its secret.
#[derive(Serialize, ToSchema)]
struct KeyResponse {
    id: KeyIdentifier,
    /// The key itself; it is never shown again
    key: String,
    /// What it begins with
    key_prefix: String,
    name: String,
    /// Between commas
    scopes: String,
    created_at: String,
    expires_at: Option<String>,
}

/// A key without its secret.
#[derive(Serialize, ToSchema)]
struct KeyListItem {
    id: KeyIdentifier,
    /// What it begins with
    key_prefix: String,
    name: String,
    /// Between commas
    scopes: String,
    /// To the minute
    last_used_at: Option<String>,
    created_at: String,
    expires_at: Option<String>,
}

/// Make an API key; its secret is shown once
///
/// It is sent as `Authorization: Bearer`, on the routes of the registry and of developers also as
/// `x-api-key`. It covers what its owner may do, cut down to its scopes, whenever it is used; a
/// route needs `FAMILY:read` or `FAMILY:write` (`keys:write` here), where the family is the first
/// part of its path, `wallet:read` and `wallet:spend` under `/v1/billing`, and what a function asks
/// for when it is called. At most 100 keys a user and tenant, and as many a tenant as its plan
/// says: 402 `plan_limit_reached` beyond.
#[utoipa::path(post, path = "/v1/keys", tag = tag::GATEWAY, request_body = CreateKeyRequest,
    responses((status = 201, body = KeyResponse), (status = 401), (status = 402), (status = 403),
        (status = 409), (status = 422)))]
async fn create(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<CreateKeyRequest>,
) -> Result<Response<Body>, Problem> {
    let CreateKeyRequest { name, scopes, expires_at } = body.value;
    let new = NewKey {
        maker: Maker::Platform,
        name,
        scopes: scopes.as_deref().and_then(scopes_of),
        expires_at: expiry(expires_at)?,
    };
    let view = |key: ApiKey, secret: &str| KeyResponse {
        id: key.id,
        key: secret.to_owned(),
        key_prefix: key.shown,
        name: key.name,
        scopes: key.scopes.as_slice().join(","),
        created_at: rfc3339(key.created_at),
        expires_at: key.expires_at.map(rfc3339),
    };
    make(&app, &entered, key, &body.bytes, new, view).await
}

/// The caller's API keys, newest first
#[utoipa::path(get, path = "/v1/keys", tag = tag::GATEWAY, params(KeysQuery),
    responses((status = 200, body = Vec<KeyListItem>), (status = 401), (status = 403),
        (status = 422)))]
async fn list(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<KeysQuery>,
) -> Result<Json<Vec<KeyListItem>>, Problem> {
    let item = |KeyView { key, last_used_at }: KeyView| KeyListItem {
        id: key.id,
        key_prefix: key.shown,
        name: key.name,
        scopes: key.scopes.as_slice().join(","),
        last_used_at: last_used_at.map(rfc3339),
        created_at: rfc3339(key.created_at),
        expires_at: key.expires_at.map(rfc3339),
    };
    Ok(Json(keys(&app, &entered, &query).await?.into_iter().map(item).collect()))
}

/// That a key is gone.
#[derive(Serialize, ToSchema)]
struct KeyDeleted {
    success: bool,
    /// For people
    message: &'static str,
}

const DELETED: KeyDeleted = KeyDeleted { success: true, message: "the API key is deleted" };

/// Delete an API key; nothing accepts it from the answer on
#[utoipa::path(delete, path = "/v1/keys/{key_id}", tag = tag::GATEWAY,
    params(("key_id" = String, Path)),
    responses((status = 200, body = KeyDeleted), (status = 401), (status = 403), (status = 404)))]
async fn delete(
    State(app): State<App>,
    Member(entered): Member,
    Path(key): Path<String>,
) -> Result<Json<KeyDeleted>, Problem> {
    remove(&app, &entered, &key).await?;
    Ok(Json(DELETED))
}

/// A key of the account API to be made.
#[derive(Deserialize, ToSchema)]
struct AccountKeyRequest {
    /// What to call it: 1 to 255 characters
    name: String,
    /// What it is for; all that the caller's own credential covers when left out
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// RFC 3339; when it ends by itself
    #[serde(default)]
    expires_at: Option<String>,
}

/// A key, once with its secret.
#[derive(Serialize, ToSchema)]
struct AccountKeyResponse {
    id: KeyIdentifier,
    name: String,
    /// The key itself; it is never shown again
    key: String,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    created_at: String,
    expires_at: Option<String>,
}

/// A key without its secret.
#[derive(Serialize, ToSchema)]
struct AccountKeyItem {
    id: KeyIdentifier,
    name: String,
    /// What it begins with, `eng_live_sk_abc...`
    key_prefix: String,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// To the minute
    last_used_at: Option<String>,
    created_at: String,
    expires_at: Option<String>,
}

/// Keys.
#[derive(Serialize, ToSchema)]
struct AccountKeys {
    items: Vec<AccountKeyItem>,
}

/// Make an API key; its secret is shown once
#[utoipa::path(post, path = "/api/v1/auth/api-keys", tag = tag::ACCOUNTS,
    request_body = AccountKeyRequest,
    responses((status = 201, body = AccountKeyResponse), (status = 401), (status = 402),
        (status = 403),
        (status = 409), (status = 422)))]
async fn create_for_account(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<AccountKeyRequest>,
) -> Result<Response<Body>, Problem> {
    make_listed(&app, &entered, key, body, Maker::Accounts).await
}

/// Makes a key in the shape that two of the APIs share.
async fn make_listed(
    app: &App,
    entered: &Entered,
    key: Key,
    body: JsonBody<AccountKeyRequest>,
    maker: Maker,
) -> Result<Response<Body>, Problem> {
    let AccountKeyRequest { name, scopes, expires_at } = body.value;
    let scopes = scopes.map(Scopes::from_iter);
    let new = NewKey { maker, name, scopes, expires_at: expiry(expires_at)? };
    make(app, entered, key, &body.bytes, new, listed_view).await
}

fn listed_view(key: ApiKey, secret: &str) -> AccountKeyResponse {
    AccountKeyResponse {
        id: key.id,
        name: key.name,
        key: secret.to_owned(),
        scopes: key.scopes,
        created_at: rfc3339(key.created_at),
        expires_at: key.expires_at.map(rfc3339),
    }
}

/// The caller's API keys, newest first
#[utoipa::path(get, path = "/api/v1/auth/api-keys", tag = tag::ACCOUNTS, params(KeysQuery),
    responses((status = 200, body = AccountKeys), (status = 401), (status = 403),
        (status = 422)))]
async fn list_of_account(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<KeysQuery>,
) -> Result<Json<AccountKeys>, Problem> {
    Ok(Json(account_keys(keys(&app, &entered, &query).await?)))
}

fn account_keys(keys: Vec<KeyView>) -> AccountKeys {
    let item = |KeyView { key, last_used_at }: KeyView| AccountKeyItem {
        id: key.id,
        name: key.name,
        key_prefix: format!("{}...", key.shown),
        scopes: key.scopes,
        last_used_at: last_used_at.map(rfc3339),
        created_at: rfc3339(key.created_at),
        expires_at: key.expires_at.map(rfc3339),
    };
    AccountKeys { items: keys.into_iter().map(item).collect() }
}

/// Delete an API key; nothing accepts it from the answer on
#[utoipa::path(delete, path = "/api/v1/auth/api-keys/{key_id}", tag = tag::ACCOUNTS,
    params(("key_id" = String, Path)),
    responses((status = 200, body = KeyDeleted), (status = 401), (status = 403), (status = 404)))]
async fn delete_of_account(
    State(app): State<App>,
    Member(entered): Member,
    Path(key): Path<String>,
) -> Result<Json<KeyDeleted>, Problem> {
    remove(&app, &entered, &key).await?;
    Ok(Json(DELETED))
}

/// Make an API key of the agents' API; its secret is shown once
#[utoipa::path(post, path = "/v1/api-keys", tag = tag::AGENTS, request_body = AccountKeyRequest,
    responses((status = 201, body = AccountKeyResponse), (status = 401), (status = 402),
        (status = 403),
        (status = 409), (status = 422)))]
async fn create_for_agents(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<AccountKeyRequest>,
) -> Result<Response<Body>, Problem> {
    make_listed(&app, &entered, key, body, Maker::Agents).await
}

/// The caller's API keys, newest first, without their secrets
#[utoipa::path(get, path = "/v1/api-keys", tag = tag::AGENTS, params(KeysQuery),
    responses((status = 200, body = AccountKeys), (status = 401), (status = 403),
        (status = 422)))]
async fn list_for_agents(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<KeysQuery>,
) -> Result<Json<AccountKeys>, Problem> {
    Ok(Json(account_keys(keys(&app, &entered, &query).await?)))
}

/// Delete an API key for good; nothing accepts it from the answer on
#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = tag::AGENTS,
    params(("id" = String, Path)),
    responses((status = 204), (status = 401), (status = 403), (status = 404)))]
async fn delete_for_agents(
    State(app): State<App>,
    Member(entered): Member,
    Path(key): Path<String>,
) -> Result<Response<Body>, Problem> {
    remove(&app, &entered, &key).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
