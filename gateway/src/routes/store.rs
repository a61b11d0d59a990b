//! `/v1/internal/store`: an app's documents, for its own runtime, by the service token.
//!
//! A document's version is its `ETag`; `If-Match`, or `if_match` in a body, makes a change depend
//! on it.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use extensions::ir::{Document, Filter};
use extensions::store::{Change, Changed, Entry, Recorded, Search, Shelf};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::Refusal;
use types::{AppId, Caller};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::acting::acting;
use crate::app::App;
use crate::authenticate::{Entered, Service};
use crate::extract::{JsonBody, Query};
use crate::once::{self, Key};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// Documents of one answer.
const DOCUMENTS_MAX: usize = 1_000;
/// Documents that a list over all users has unless told.
const ALL_DEFAULT: usize = 500;
/// Documents that a query answers unless told.
const QUERY_DEFAULT: usize = 100;
/// The longest name of a collection.
const KIND_CHARACTERS_MAX: usize = 128;
/// The furthest that a cursor reaches.
const OFFSET_MAX: usize = 10_000;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(all))
        .routes(routes!(query))
        .routes(routes!(count))
        .routes(routes!(get, update, remove))
}

/// A document.
#[derive(Serialize, ToSchema)]
struct DocumentResponse {
    id: String,
    collection: String,
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// RFC 3339
    created_at: String,
    /// RFC 3339
    updated_at: String,
}

impl DocumentResponse {
    fn of(document: Document, collection: &str) -> Self {
        let Document { id, data, created_at, updated_at } = document;
        Self { id, collection: collection.to_owned(), data, created_at, updated_at }
    }
}

/// Documents, and where the next ones are.
#[derive(Serialize, ToSchema)]
struct DocumentsResponse {
    items: Vec<DocumentResponse>,
    /// Null when there are no more
    next_cursor: Option<String>,
}

/// How many documents there are.
#[derive(Serialize, ToSchema)]
struct CountResponse {
    count: usize,
}

/// Whether a document was removed.
#[derive(Serialize, ToSchema)]
struct RemovedResponse {
    deleted: bool,
    id: String,
}

/// A document that is to be made.
#[derive(Deserialize, ToSchema)]
struct StoreCreateRequest {
    collection: String,
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// Whose it is; the user in `X-Acting-User` when empty
    #[serde(default)]
    user_id: String,
    extension_id: String,
    /// The tenant in `X-Tenant-ID` when empty or `default`
    #[serde(default)]
    tenant_id: String,
}

/// Fields that are to be set.
#[derive(Deserialize, ToSchema)]
struct StoreUpdateRequest {
    /// Fields that are not named stay
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    extension_id: String,
    #[serde(default)]
    tenant_id: String,
    /// The version that it must be in, as its `ETag` says
    if_match: Option<String>,
}

/// Which documents.
#[derive(Deserialize, ToSchema)]
struct StoreQueryRequest {
    /// Fields and what they must be, as in a `where` of an app's step
    #[serde(default, rename = "where")]
    #[schema(value_type = Object)]
    filter: Map<String, Value>,
    /// A field, `created_at` or `updated_at`; `-` before it for the largest first
    order_by: Option<String>,
    /// 1 to 1,000, default 100
    limit: Option<usize>,
    /// What the answer before named as `next_cursor`
    cursor: Option<String>,
    extension_id: String,
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    tenant_id: String,
}

/// Which documents are counted.
#[derive(Deserialize, ToSchema)]
struct StoreCountRequest {
    #[serde(default, rename = "where")]
    #[schema(value_type = Object)]
    filter: Map<String, Value>,
    extension_id: String,
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    tenant_id: String,
}

/// Where a document is.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StorePlace {
    extension_id: String,
    #[serde(default)]
    tenant_id: String,
    /// Whose it is; whoever's when left out
    #[serde(default)]
    user_id: String,
}

/// Which documents of all users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StoreAll {
    extension_id: String,
    #[serde(default)]
    tenant_id: String,
    /// 1 to 1,000, default 500
    limit: Option<usize>,
}

/// Where the service means.
async fn shelf(
    app: &App,
    entered: &Entered,
    (extension_id, tenant_id, user_id): (&str, &str, &str),
    kind: &str,
) -> Result<Shelf, Refusal> {
    let caller = &entered.caller;
    let is_name =
        kind.chars().count() <= KIND_CHARACTERS_MAX && !kind.chars().any(char::is_control);
    if kind.is_empty() || !is_name {
        let message = format!("1 to {KIND_CHARACTERS_MAX} characters, none of them a control one");
        return Err(Refusal::invalid("collection", message));
    }
    let id = AppId::new(extension_id)
        .map_err(|error| Refusal::invalid("extension_id", error.to_string()))?;
    if caller.app.as_ref().is_some_and(|named| *named != id) {
        let message = "extension_id is not the extension that the headers name";
        return Err(Refusal::forbidden(message));
    }
    let Caller { tenant, user, .. } = acting(app, entered, (tenant_id, user_id)).await?;
    Ok(Shelf { tenant, user, app: id, kind: kind.to_owned() })
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// The version that a request insists on; 422 for what is no version.
pub(super) fn insisted(headers: &HeaderMap, body: Option<&str>) -> Result<Option<u64>, Refusal> {
    let of_header = headers.get(header::IF_MATCH).map(|value| value.to_str().unwrap_or_default());
    let Some(text) = of_header.or(body).filter(|text| *text != "*") else { return Ok(None) };
    let number = text.trim().trim_start_matches("W/").trim_matches('"').parse();
    let unread = |_| Refusal::invalid("if_match", "is no ETag of a document");
    number.map(Some).map_err(unread)
}

fn filter(fields: Map<String, Value>) -> Result<Option<Filter>, Refusal> {
    if fields.is_empty() {
        return Ok(None);
    }
    let parsed = Filter::parse(&Value::Object(fields));
    parsed.map(Some).map_err(|message| Refusal::invalid("where", message))
}

pub(super) fn with_etag(mut response: Response<Body>, version: u64) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&etag(version)) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// What is answered to a change, as it is recorded.
fn answer_of(status: StatusCode, kind: &str, changed: &Changed) -> Vec<u8> {
    match &changed.entry {
        Some(entry) => once::record(status, &DocumentResponse::of(entry.document.clone(), kind)),
        None => once::record(status, &RemovedResponse { deleted: true, id: changed.id.clone() }),
    }
}

async fn change(
    app: &App,
    entered: &Entered,
    shelf: Shelf,
    (status, change): (StatusCode, Change),
    if_match: Option<u64>,
    (key, operation, body): (Key, &str, &[u8]),
) -> Result<Response<Body>, Problem> {
    let kind = shelf.kind.clone();
    let operation = format!("{operation} {} {kind}", shelf.app);
    let key = key.of(&entered.caller, &operation, body);
    let origin = app.origin(&entered.caller, entered.request);
    let render = |changed: &Changed| answer_of(status, &kind, changed);
    let (system, extensions) = (&app.system, &app.extensions);
    let asked = extensions.change_store(system, shelf, change, if_match, (key, origin), render);
    match asked.await? {
        Recorded::Before(bytes) => once::response(&bytes),
        Recorded::Now(changed) => {
            let response = once::response(&answer_of(status, &kind, &changed))?;
            Ok(match changed.entry {
                Some(entry) => with_etag(response, entry.version),
                None => response,
            })
        }
    }
}

/// Make a document of a user's
#[utoipa::path(post, path = "/v1/internal/store", tag = tag::GATEWAY,
    security(("service_token" = [])), request_body = StoreCreateRequest,
    responses((status = 201, body = DocumentResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn create(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<StoreCreateRequest>,
) -> Result<Response<Body>, Problem> {
    let StoreCreateRequest { collection, data, user_id, extension_id, tenant_id } = body.value;
    let named = (extension_id.as_str(), tenant_id.as_str(), user_id.as_str());
    let shelf = shelf(&app, &entered, named, &collection).await?;
    if shelf.user.is_none() {
        return Err(Refusal::invalid("user_id", "is required: whose document it is").into());
    }
    let made = (StatusCode::CREATED, Change::Create { data });
    change(&app, &entered, shelf, made, None, (key, "store create", &body.bytes)).await
}

/// Documents of all users of an app, user by user, as they were made
#[utoipa::path(get, path = "/v1/internal/store/{collection}/all", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("collection" = String, Path), StoreAll),
    responses((status = 200, body = DocumentsResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn all(
    State(app): State<App>,
    Service(entered): Service,
    Path(collection): Path<String>,
    Query(asked): Query<StoreAll>,
) -> Result<Json<DocumentsResponse>, Problem> {
    paging::within("limit", asked.limit, DOCUMENTS_MAX)?;
    let named = (asked.extension_id.as_str(), asked.tenant_id.as_str(), "");
    let mut shelf = shelf(&app, &entered, named, &collection).await?;
    shelf.user = None;
    let search = Search { limit: asked.limit.unwrap_or(ALL_DEFAULT), ..Search::default() };
    let origin = app.origin(&entered.caller, entered.request);
    let found = app.extensions.search_store(&app.system, shelf, search, &origin).await?;
    let items = found.into_iter().map(|it| DocumentResponse::of(it, &collection)).collect();
    Ok(Json(DocumentsResponse { items, next_cursor: None }))
}

/// Documents of a user's that match
///
/// A cursor counts documents: what comes into being or goes meanwhile shifts the pages.
#[utoipa::path(post, path = "/v1/internal/store/{collection}/query", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("collection" = String, Path)),
    request_body = StoreQueryRequest,
    responses((status = 200, body = DocumentsResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn query(
    State(app): State<App>,
    Service(entered): Service,
    Path(collection): Path<String>,
    body: JsonBody<StoreQueryRequest>,
) -> Result<Json<DocumentsResponse>, Problem> {
    let asked = body.value;
    let fits = asked.limit.is_none_or(|limit| (1..=DOCUMENTS_MAX).contains(&limit));
    if !fits {
        let message = format!("must be from 1 to {DOCUMENTS_MAX}");
        return Err(Refusal::invalid("limit", message).into());
    }
    let offset = match asked.cursor.as_deref() {
        None | Some("") => Some(0),
        Some(cursor) => cursor.parse().ok().filter(|offset| *offset <= OFFSET_MAX),
    };
    let offset = offset.ok_or_else(|| Refusal::invalid("cursor", "is no cursor of this list"))?;
    let named = (asked.extension_id.as_str(), asked.tenant_id.as_str(), asked.user_id.as_str());
    let shelf = shelf(&app, &entered, named, &collection).await?;
    let limit = asked.limit.unwrap_or(QUERY_DEFAULT);
    let order_by = asked.order_by.unwrap_or_default();
    let search = Search { filter: filter(asked.filter)?, order_by, offset, limit: limit + 1 };
    let origin = app.origin(&entered.caller, entered.request);
    let mut found = app.extensions.search_store(&app.system, shelf, search, &origin).await?;
    let next_cursor = (found.len() > limit).then(|| (offset + limit).to_string());
    found.truncate(limit);
    let items = found.into_iter().map(|it| DocumentResponse::of(it, &collection)).collect();
    Ok(Json(DocumentsResponse { items, next_cursor }))
}

/// How many documents of a user's match, at most 10,000
#[utoipa::path(post, path = "/v1/internal/store/{collection}/count", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("collection" = String, Path)),
    request_body = StoreCountRequest,
    responses((status = 200, body = CountResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn count(
    State(app): State<App>,
    Service(entered): Service,
    Path(collection): Path<String>,
    body: JsonBody<StoreCountRequest>,
) -> Result<Json<CountResponse>, Problem> {
    let asked = body.value;
    let named = (asked.extension_id.as_str(), asked.tenant_id.as_str(), asked.user_id.as_str());
    let shelf = shelf(&app, &entered, named, &collection).await?;
    let search = Search { filter: filter(asked.filter)?, limit: OFFSET_MAX, ..Search::default() };
    let origin = app.origin(&entered.caller, entered.request);
    let found = app.extensions.search_store(&app.system, shelf, search, &origin).await?;
    Ok(Json(CountResponse { count: found.len() }))
}

/// A document; its version is the `ETag`
#[utoipa::path(get, path = "/v1/internal/store/{collection}/{doc_id}", tag = tag::GATEWAY,
    security(("service_token" = [])),
    params(("collection" = String, Path), ("doc_id" = String, Path), StorePlace),
    responses((status = 200, body = DocumentResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn get(
    State(app): State<App>,
    Service(entered): Service,
    Path((collection, doc_id)): Path<(String, String)>,
    Query(place): Query<StorePlace>,
) -> Result<Response<Body>, Problem> {
    let named = (place.extension_id.as_str(), place.tenant_id.as_str(), place.user_id.as_str());
    let shelf = shelf(&app, &entered, named, &collection).await?;
    let origin = app.origin(&entered.caller, entered.request);
    let Entry { document, version } =
        app.extensions.stored(&app.system, shelf, doc_id, &origin).await?;
    let body = Json(DocumentResponse::of(document, &collection));
    Ok(with_etag(body.into_response(), version))
}

/// Set fields of a document
///
/// 409 `version_conflict`, with the present `version`, when it is not the one that `If-Match` or
/// `if_match` names.
#[utoipa::path(patch, path = "/v1/internal/store/{collection}/{doc_id}", tag = tag::GATEWAY,
    security(("service_token" = [])),
    params(("collection" = String, Path), ("doc_id" = String, Path),
        ("user_id" = Option<String>, Query)),
    request_body = StoreUpdateRequest,
    responses((status = 200, body = DocumentResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn update(
    State(app): State<App>,
    Service(entered): Service,
    Path((collection, doc_id)): Path<(String, String)>,
    Query(of): Query<OfUser>,
    headers: HeaderMap,
    key: Key,
    body: JsonBody<StoreUpdateRequest>,
) -> Result<Response<Body>, Problem> {
    let StoreUpdateRequest { data, extension_id, tenant_id, if_match } = body.value;
    let if_match = insisted(&headers, if_match.as_deref())?;
    let named = (extension_id.as_str(), tenant_id.as_str(), of.user_id.as_str());
    let shelf = shelf(&app, &entered, named, &collection).await?;
    let operation = format!("store update {doc_id}");
    let made = (StatusCode::OK, Change::Update { id: doc_id, data });
    change(&app, &entered, shelf, made, if_match, (key, &operation, &body.bytes)).await
}

/// Whose document.
#[derive(Deserialize)]
struct OfUser {
    #[serde(default)]
    user_id: String,
}

/// Remove a document
#[utoipa::path(delete, path = "/v1/internal/store/{collection}/{doc_id}", tag = tag::GATEWAY,
    security(("service_token" = [])),
    params(("collection" = String, Path), ("doc_id" = String, Path), StorePlace),
    responses((status = 200, body = RemovedResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn remove(
    State(app): State<App>,
    Service(entered): Service,
    Path((collection, doc_id)): Path<(String, String)>,
    Query(place): Query<StorePlace>,
    headers: HeaderMap,
    key: Key,
) -> Result<Response<Body>, Problem> {
    let if_match = insisted(&headers, None)?;
    let named = (place.extension_id.as_str(), place.tenant_id.as_str(), place.user_id.as_str());
    let shelf = shelf(&app, &entered, named, &collection).await?;
    let operation = format!("store delete {doc_id}");
    let made = (StatusCode::OK, Change::Delete { id: doc_id });
    change(&app, &entered, shelf, made, if_match, (key, &operation, &[])).await
}
