//! `/v1/developer/apps/{app_id}/host`: where an app's own code runs, and the keys that requests to
//! it are signed with.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use control::app::{
    App as Entity, Details, Host, HostReply, KEY_OVERLAP_MS, RotateHostKey, SetHost,
};
use data_encoding::HEXLOWER;
use extensions::Outside;
use market::Principal;
use serde::{Deserialize, Serialize};
use supervision::{Address, Refusal};
use types::{AppId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::not_kept;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered};
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(host, set_host)).routes(routes!(rotate))
}

/// A host to be set.
#[derive(Deserialize, ToSchema)]
struct SetHostRequest {
    /// An https:// URL without user, password or fragment, up to 500 bytes; null for no host
    host_url: Option<String>,
}

/// A key to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct RotateKeyRequest {
    /// How long the present key stays valid beside it: 0 to 604,800, default 86,400
    overlap_seconds: Option<i64>,
}

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
struct HostKeyResponse {
    /// As in the header `bailiwick-key`
    number: u32,
    /// RFC 3339
    made_at: String,
    /// RFC 3339; null for the newest
    ends_at: Option<String>,
}

/// An app's host.
#[derive(Serialize, ToSchema)]
struct HostResponse {
    host_url: Option<String>,
    /// SHA-256 of the version that was current when the host was set, in hexadecimal digits
    manifest_digest: Option<String>,
    /// The newest first
    keys: Vec<HostKeyResponse>,
    /// The newest key itself, only in the answer that made it: `whsec_` and Base64
    secret: Option<String>,
}

impl HostResponse {
    fn of(host: &Host, secret: Option<String>) -> Self {
        let key = |key: &control::app::HostKey| HostKeyResponse {
            number: key.number,
            made_at: rfc3339(key.made_at),
            ends_at: key.ends_at.map(rfc3339),
        };
        Self {
            host_url: host.url.clone(),
            manifest_digest: host.digest.map(|digest| HEXLOWER.encode(&digest)),
            keys: host.keys.iter().map(key).collect(),
            secret,
        }
    }
}

async fn owned(
    app: &App,
    entered: &Entered,
    app_id: &str,
) -> Result<(Address<Entity>, Details), Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    let principal = Principal { user: entered.user()?, tenant: entered.caller.tenant, origin };
    app.market.own_app(&app.system, &principal, app_id).await
}

fn outside(app: &App) -> Result<std::sync::Arc<Outside>, Refusal> {
    let missing = || Refusal::conflict("no_hosts", "this server calls no hosts of apps");
    app.extensions.outside().cloned().ok_or_else(missing)
}

/// What is answered to a change; the secret of a key that it made is shown here only.
fn view(outside: std::sync::Arc<Outside>, id: AppId) -> impl FnOnce(HostReply) -> HostResponse {
    move |HostReply { host, made }| {
        let secret = made.map(|number| outside.hosts.keys().secret(&id, number).to_string());
        HostResponse::of(&host, secret)
    }
}

/// The app's own host, and the keys of requests to it, without their secrets
#[utoipa::path(get, path = "/v1/developer/apps/{app_id}/host", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = HostResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn host(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<HostResponse>, Problem> {
    let (_, details) = owned(&app, &entered, &app_id).await?;
    Ok(Json(HostResponse::of(&details.host, None)))
}

/// Set where the app's functions and panels of the kind `code` are carried out
///
/// Each call of one is a POST of JSON to this URL: `{call_id, trace_id, function, module, entry,
/// params, user, tenant, app, app_version, deadline_ms}`, and `secrets`, an object of those that
/// are set. The answer is status 200,
/// `application/json`, `{"result": …}` with `"directives": [{"action": "send", …}]` if wished, or
/// `{"error": "…"}`; a result is checked against the function's `return_schema`. Redirects are not
/// followed, and addresses of private networks not reached.
///
/// Requests are signed after the Standard Webhooks specification: `webhook-id` (the call's id),
/// `webhook-timestamp` (seconds) and `webhook-signature`, which is `v1,` and the Base64 of
/// HMAC-SHA256 over `ID.TIMESTAMP.BODY` under the bytes that the secret holds as Base64 after
/// `whsec_`; one signature for each valid key, between spaces, the newest first, their numbers in
/// `bailiwick-key`. With the secret `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`, the id
/// `msg_p5jXN8AQM9LWM0D4loKWxJek`, the timestamp 1614265330 and the body `{"test": 2432232314}` the
/// signature is `v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=`. The first host brings the first
/// key, whose secret is in this answer and nowhere else.
///
/// A call's price is held before it is sent and drawn when it succeeds. What the host fails costs
/// nothing. What may have reached it without a whole answer in time is recorded as
/// `outcome_unknown` and costs nothing. Only functions that read are sent again, with the same id.
#[utoipa::path(put, path = "/v1/developer/apps/{app_id}/host", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = SetHostRequest,
    responses((status = 200, body = HostResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn set_host(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<SetHostRequest>,
) -> Result<Response<Body>, Problem> {
    let (address, details) = owned(&app, &entered, &app_id).await?;
    let (outside, url) = (outside(&app)?, body.value.host_url);
    let unfit = |why| Refusal::invalid("host_url", why);
    url.as_ref().map_or(Ok(()), |url| outside.hosts.check(url)).map_err(unfit)?;
    let view = view(outside, details.id.clone());
    let operation = format!("set_host {app_id}");
    let response: Result<_, Problem> = ask_once!(
        app,
        key.shown_once(),
        entered,
        &operation,
        body.bytes,
        address,
        SetHost { url },
        StatusCode::OK,
        view
    );
    app.extensions.apps().forget(&details.id);
    response.map(not_kept)
}

/// Make another key for requests to the app's host; its secret is shown once
///
/// Until the present key's time is over requests carry a signature by each.
#[utoipa::path(post, path = "/v1/developer/apps/{app_id}/host/keys", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = RotateKeyRequest,
    responses((status = 201, body = HostResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn rotate(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<RotateKeyRequest>,
) -> Result<Response<Body>, Problem> {
    let (address, details) = owned(&app, &entered, &app_id).await?;
    let outside = outside(&app)?;
    let overlap = body.value.overlap_seconds.map(|seconds| seconds.saturating_mul(1_000));
    let view = view(outside, details.id.clone());
    let operation = format!("rotate_host_key {app_id}");
    let response: Result<_, Problem> = ask_once!(
        app,
        key.shown_once(),
        entered,
        &operation,
        body.bytes,
        address,
        RotateHostKey { overlap_ms: overlap.unwrap_or(KEY_OVERLAP_MS) },
        StatusCode::CREATED,
        view
    );
    app.extensions.apps().forget(&details.id);
    response.map(not_kept)
}
