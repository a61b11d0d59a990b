//! `/v1/extensions/{app_id}`: calling an app's functions, one or many at once.

use axum::Json;
use axum::extract::{Path, State};
use extensions::{Call, CallAnswer, Quote, Request};
use serde::Deserialize;
use serde_json::Value;
use supervision::Refusal;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::acting::acting;
use crate::app::App;
use crate::authenticate::{Either, Entered};
use crate::extract::{CALL_BODY_BYTES_MAX, JsonBody};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(call)).routes(routes!(batch)).routes(routes!(quote))
}

/// One function and its parameters.
#[derive(Deserialize, ToSchema)]
struct BatchCallItem {
    /// The function's name
    function: String,
    /// Its parameters, an object
    #[serde(default)]
    #[schema(value_type = Object)]
    params: Value,
}

impl From<BatchCallItem> for Call {
    fn from(item: BatchCallItem) -> Self {
        let BatchCallItem { function, params } = item;
        let params = if params.is_null() { Value::Object(serde_json::Map::new()) } else { params };
        Self { function, params }
    }
}

/// A call.
#[derive(Deserialize, ToSchema)]
struct CallRequest {
    /// The caller's own user id; a service names the user it acts for
    #[serde(default)]
    user_id: String,
    /// The caller's own tenant id, or `default`
    #[serde(default)]
    tenant_id: String,
    #[serde(flatten)]
    item: BatchCallItem,
}

/// Many calls at once.
#[derive(Deserialize, ToSchema)]
struct BatchCallRequest {
    /// The caller's own user id; a service names the user it acts for
    #[serde(default)]
    user_id: String,
    /// The caller's own tenant id, or `default`
    #[serde(default)]
    tenant_id: String,
    /// Up to 1,000 calls
    calls: Vec<BatchCallItem>,
}

/// What a call answers.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of extensions::CallAnswer")]
struct CallResponse {
    /// `success` or `error`
    status: String,
    /// What the function answers: any JSON
    data: Value,
    summary: Option<String>,
    error: Option<String>,
    /// A panel's tree, directives, panels to refresh, or null
    ui: Value,
}

pub(super) async fn request(
    app: &App,
    entered: &Entered,
    app_id: String,
    (user_id, tenant_id): (&str, &str),
    key: Key,
    operation: &str,
    body: &[u8],
) -> Result<Request, Refusal> {
    let caller = acting(app, entered, (tenant_id, user_id)).await?;
    let (tenant, user) = (caller.tenant, caller.user);
    let idempotency = key.of(&caller, &format!("{operation} {app_id}"), body);
    let origin = app.origin(&caller, entered.request);
    Ok(Request { caller, tenant, user, app: app_id, idempotency, origin })
}

/// Call a function of an app; a function that failed is 200 with `status: "error"`
///
/// The price is held before the function runs, drawn when it succeeds and given back otherwise.
/// What goes beyond the balance or a spending limit is 402, what goes beyond the actions that the
/// role allows in a month 429.
///
/// A function of the kind `code` runs on the app's own host, which has 30 seconds. That the call is
/// sent is on record before its first byte leaves. What the host fails costs nothing; what may
/// have reached it without a whole answer in time is recorded as `outcome_unknown`, costs nothing,
/// and is not sent again unless it only reads; so is a call that the server's end cut off, after
/// 180 seconds. Such a call goes on when its caller goes away; the same Idempotency-Key then finds
/// its answer.
///
/// What its user's settings or role hold waits for them: it has not run, costs nothing yet, and
/// is answered with `status: "success"` and `data: {"RESULT": "INTERCEPTED", message, function,
/// params, action_type, confirmation_id, expires_at}`, its card in `ui`; in a batch each such call
/// by itself, while the others run. A service's calls wait for nobody.
///
/// A step that calls another app's function makes a call of its own: its price is held when it is
/// made, and paid if it succeeds, whatever becomes of the function that made it.
///
/// A function that its app declares as `background` or `long_running` is answered at once with
/// `data: {"task_id": …, "status": …}` and goes on as a task (`/v1/tasks`), for up to 15 minutes;
/// beyond what the caller's role allows at once, 429 `too_many_tasks`. More than 64 calls of a user
/// to an app wait for each other; beyond 256 that wait, 429 `session_busy`.
#[utoipa::path(post, path = "/v1/extensions/{app_id}/call", tag = tag::EXTENSIONS,
    params(("app_id" = String, Path)), request_body = CallRequest,
    responses((status = 200, body = CallResponse), (status = 401), (status = 402),
        (status = 403), (status = 404), (status = 422), (status = 429)))]
async fn call(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<CallRequest, CALL_BODY_BYTES_MAX>,
) -> Result<Json<CallAnswer>, Problem> {
    let CallRequest { user_id, tenant_id, item } = body.value;
    let named = (user_id.as_str(), tenant_id.as_str());
    let request = request(&app, &entered, app_id, named, key, "call", &body.bytes).await?;
    Ok(Json(app.extensions.call(&app.system, request, item.into()).await?))
}

/// Call many functions of an app at once; answers in their order, each with its own status
///
/// A function that goes on in the background is called by itself; in a batch it is 422.
#[utoipa::path(post, path = "/v1/extensions/{app_id}/batch", tag = tag::EXTENSIONS,
    params(("app_id" = String, Path)), request_body = BatchCallRequest,
    responses((status = 200, body = Vec<CallResponse>), (status = 401), (status = 402),
        (status = 403), (status = 404), (status = 422), (status = 429)))]
async fn batch(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<BatchCallRequest, CALL_BODY_BYTES_MAX>,
) -> Result<Json<Vec<CallAnswer>>, Problem> {
    let BatchCallRequest { user_id, tenant_id, calls } = body.value;
    let named = (user_id.as_str(), tenant_id.as_str());
    let request = request(&app, &entered, app_id, named, key, "batch", &body.bytes).await?;
    let calls = calls.into_iter().map(Call::from).collect();
    Ok(Json(app.extensions.batch(&app.system, request, calls).await?))
}

/// What calls would cost, at most; nothing is held and nothing runs
///
/// Calls that the functions in turn make to other apps are not in it: which of them will be made is
/// not known before. `limit` names what the calls would be refused for now: the balance, a spending
/// limit by its subject and window, or the role's actions a month.
#[utoipa::path(post, path = "/v1/extensions/{app_id}/quote", tag = tag::EXTENSIONS,
    params(("app_id" = String, Path)), request_body = BatchCallRequest,
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn quote(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    body: JsonBody<BatchCallRequest, CALL_BODY_BYTES_MAX>,
) -> Result<Json<Quote>, Problem> {
    let BatchCallRequest { user_id, tenant_id, calls } = body.value;
    let named = (user_id.as_str(), tenant_id.as_str());
    let key = Key::default();
    let request = request(&app, &entered, app_id, named, key, "quote", &body.bytes).await?;
    let calls: Vec<Call> = calls.into_iter().map(Call::from).collect();
    Ok(Json(app.extensions.quote(&app.system, &request, &calls).await?))
}
