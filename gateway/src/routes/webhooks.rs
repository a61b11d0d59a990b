//! `/v1/ext/{app_id}`: what apps are called from outside by, without a credential: their webhooks,
//! and how they do.
//!
//! What is refused here is read by a stranger: a wallet that does not cover a call, a freeze, a
//! tenant that is off are all the same 503.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, RequestPartsExt as _};
use data_encoding::HEXLOWER;
use extensions::breaker::Circuit;
use extensions::health::Health;
use extensions::install_keys;
use extensions::webhook::{Delivery, HookReply, Payer, WEBHOOK_BODY_BYTES_MAX, caller_label};
use identity::api_key::is_api_key;
use persistence::record::sha256;
use serde::Serialize;
use supervision::{Class, IdempotencyKey, Origin, Refusal};
use types::{AppId, home_of, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Anyone, request_of};
use crate::extract::{PAIRS_MAX, read_body};
use crate::front::Peer;
use crate::once::KEY_BYTES_MAX;
use crate::openapi::tag;
use crate::places;
use crate::problem::Problem;
use crate::webhook_limits;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_webhook, post_webhook, put_webhook, delete_webhook))
        .routes(routes!(get_installed, post_installed, put_installed, delete_installed))
        .routes(routes!(health))
}

/// After how long a sender should come back whose delivery cannot be taken now, in milliseconds.
const UNAVAILABLE_MS: u64 = 60_000;
/// Headers that hold credentials of this server's, or what browsers keep for it.
const STRIPPED: [&str; 5] =
    ["cookie", "x-agent-secret", "x-api-key", "x-device-token", "x-service-token"];

/// Call an app's webhook with GET
#[utoipa::path(get, path = "/v1/ext/{app_id}/webhook/{path}", tag = tag::EXTENSIONS, security(()),
    params(("app_id" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 429), (status = 502),
        (status = 503)))]
async fn get_webhook(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Call an app's webhook: no credential
///
/// The app declares its webhooks: path, methods, and the function that is handed `{method, path,
/// headers, query, query_string, body, is_base64}`. It runs as nobody in particular of the
/// developer's tenant, which pays. A function whose answer has a `status_code` decides what is
/// sent back: that status (200 to 299, 400 to 599), a few headers, and `body`; after any other
/// answer it is 200 `{"status": "ok"}`. One that failed is 502, and costs nothing.
///
/// A `webhook-id` (Standard Webhooks) or an Idempotency-Key makes a repetition of what succeeded
/// answer the same for 24 hours without being carried out again. Bodies have 1 MiB. Two limits are
/// told in `RateLimit`: `webhook-address` and `webhook-app`. 404 for an app, a version or a path
/// that there is not; 405 with `Allow` for a method that is not declared; 429
/// `webhook_limit_reached` once deliveries have cost what they may in a day, by the spending limit
/// `webhook:APP/day` of whoever pays; 503 when whoever pays cannot take it now.
#[utoipa::path(post, path = "/v1/ext/{app_id}/webhook/{path}", tag = tag::EXTENSIONS,
    security(()), params(("app_id" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 413), (status = 422),
        (status = 429), (status = 502), (status = 503)))]
async fn post_webhook(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Call an app's webhook with PUT
#[utoipa::path(put, path = "/v1/ext/{app_id}/webhook/{path}", tag = tag::EXTENSIONS, security(()),
    params(("app_id" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 413), (status = 422),
        (status = 429), (status = 502), (status = 503)))]
async fn put_webhook(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Call an app's webhook with DELETE
#[utoipa::path(delete, path = "/v1/ext/{app_id}/webhook/{path}", tag = tag::EXTENSIONS,
    security(()), params(("app_id" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 413), (status = 422),
        (status = 429), (status = 502), (status = 503)))]
async fn delete_webhook(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Call an app's webhook with GET, for the tenant that the install key names
#[utoipa::path(get, path = "/v1/ext/{app_id}/webhook/{install_key}/{path}",
    tag = tag::EXTENSIONS, security(()),
    params(("app_id" = String, Path), ("install_key" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 429), (status = 502),
        (status = 503)))]
async fn get_installed(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Call an app's webhook for the tenant that the install key names: it runs there, and pays
///
/// The key is a secret: whoever knows it can call this app's webhooks in its tenant. It is made at
/// `/v1/extensions/{app_id}/install-keys`. 404 for one that is not good.
#[utoipa::path(post, path = "/v1/ext/{app_id}/webhook/{install_key}/{path}",
    tag = tag::EXTENSIONS, security(()),
    params(("app_id" = String, Path), ("install_key" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 413), (status = 422),
        (status = 429), (status = 502), (status = 503)))]
async fn post_installed(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Call an app's webhook with PUT, for the tenant that the install key names
#[utoipa::path(put, path = "/v1/ext/{app_id}/webhook/{install_key}/{path}",
    tag = tag::EXTENSIONS, security(()),
    params(("app_id" = String, Path), ("install_key" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 413), (status = 422),
        (status = 429), (status = 502), (status = 503)))]
async fn put_installed(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Call an app's webhook with DELETE, for the tenant that the install key names
#[utoipa::path(delete, path = "/v1/ext/{app_id}/webhook/{install_key}/{path}",
    tag = tag::EXTENSIONS, security(()),
    params(("app_id" = String, Path), ("install_key" = String, Path), ("path" = String, Path)),
    responses((status = 200), (status = 404), (status = 405), (status = 413), (status = 422),
        (status = 429), (status = 502), (status = 503)))]
async fn delete_installed(State(app): State<App>, request: Request<Body>) -> Response {
    receive(&app, request).await
}

/// Where a delivery goes.
struct Target {
    app: String,
    install_key: Option<String>,
    path: String,
}

async fn target(parts: &mut Parts) -> Result<Target, Refusal> {
    let missing = || Refusal::not_found("webhook");
    let path = parts.extract::<Path<BTreeMap<String, String>>>().await;
    let Path(mut named) = path.map_err(|_| missing())?;
    let mut take = |name: &str| named.remove(name);
    let (app, path) = (take("app_id").ok_or_else(missing)?, take("path").ok_or_else(missing)?);
    Ok(Target { app, install_key: take("install_key"), path })
}

async fn receive(app: &App, request: Request<Body>) -> Response {
    let (mut parts, body) = request.into_parts();
    match take_in(app, &mut parts, body).await {
        Ok(response) => response,
        Err(refused) => refused,
    }
}

/// What a stranger is told of a refusal.
fn told(refusal: Refusal) -> Response {
    let refusal = match refusal.class {
        Class::NotFound | Class::TooMany | Class::Busy | Class::InDoubt | Class::Crashed => refusal,
        Class::Invalid if refusal.code == "idempotency_key_reused" => refusal,
        Class::Invalid if refusal.code == "validation_error" => refusal,
        _ => {
            let message = "this webhook cannot take a delivery now";
            let unavailable = Refusal::new(Class::Busy, "webhook_unavailable", message);
            unavailable.retry_after(UNAVAILABLE_MS)
        }
    };
    Problem(refusal).into_response()
}

async fn take_in(app: &App, parts: &mut Parts, body: Body) -> Result<Response, Response> {
    let address = parts.extensions.get::<Peer>().map(|peer| places::client(peer.0.ip()));
    if let Some(address) = address {
        app.admission.enter_anonymous(address).await.map_err(told)?;
    }
    let target = target(parts).await.map_err(told)?;
    let (system, request) = (&app.system, request_of(parts));
    let mut origin = Origin { caller: "webhook".into(), request, cause: None };
    let payer = match &target.install_key {
        None => Payer::Developer,
        Some(key) => {
            let tenant = install_keys::tenant_of(system, &target.app, key).await.map_err(told)?;
            Payer::Tenant(tenant.ok_or_else(|| told(Refusal::not_found("webhook")))?)
        }
    };
    let place = (target.app.as_str(), target.path.as_str());
    let hook = app.extensions.webhook(system, place, payer, &origin).await.map_err(told)?;
    origin.caller = caller_label(&hook.app.id);
    let (tenant, user) = match payer {
        Payer::Developer => (hook.app.tenant, Some(hook.app.developer)),
        Payer::Tenant(tenant) => (tenant, None),
    };
    let left = match app.webhook_limits.enter(address, &hook.app.id, tenant) {
        Ok(left) => left,
        Err((refusal, left)) => {
            let mut response = told(refusal);
            app.webhook_limits.tell(left, response.headers_mut());
            return Err(response);
        }
    };
    if !hook.webhook.methods.contains(&parts.method.as_str()) {
        return Err(not_allowed(&hook.webhook.methods));
    }
    let key = key_of(parts, &target, &hook.app.id).map_err(told)?;
    let body = read_body(body, WEBHOOK_BODY_BYTES_MAX).await?;
    let key = key.map(|key| key.with_body(tenant.0, &body));
    app.identity.admit_service(tenant, user).await.map_err(|_| unavailable())?;
    let _place = app.admission.turnstile().enter(tenant).await.map_err(told)?;
    let delivery = Delivery {
        method: parts.method.to_string(),
        headers: headers(app, &parts.headers).await,
        query: pairs(parts.uri.query().unwrap_or_default()).map_err(told)?,
        query_string: parts.uri.query().unwrap_or_default().to_owned(),
        body: body.into(),
    };
    let delivered = app.extensions.deliver(system, &hook, payer, delivery, (key, origin)).await;
    let now = system.now_in(home_of(tenant));
    let delivered = delivered.map_err(|it| webhook_limits::spent(&it, now).unwrap_or(it));
    let mut response = delivered.map_or_else(told, answer);
    app.webhook_limits.tell(left, response.headers_mut());
    Ok(response)
}

fn unavailable() -> Response {
    told(Refusal::forbidden("whoever pays is off"))
}

fn not_allowed(methods: &[&str]) -> Response {
    let message = format!("this webhook takes {}", methods.join(", "));
    let refusal = Refusal::new(Class::BadRequest, "method_not_allowed", message);
    let mut response = Problem(refusal).with_status(StatusCode::METHOD_NOT_ALLOWED);
    if let Ok(allow) = HeaderValue::from_str(&methods.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// What a sender says a delivery is known by.
struct DeliveryKey {
    /// What is called, and how.
    operation: String,
    principal: String,
    text: String,
    /// Whether another body makes it another delivery: ids of webhooks are given by senders who
    /// know nothing of this server's rule for keys, and whoever guesses one shall not block it.
    is_webhook_id: bool,
}

impl DeliveryKey {
    fn with_body(self, tenant: u128, body: &[u8]) -> IdempotencyKey {
        let Self { mut operation, principal, text, is_webhook_id } = self;
        if is_webhook_id {
            operation = format!("{operation} {}", HEXLOWER.encode(&sha256(&[body])));
        }
        IdempotencyKey::new(tenant, &principal, &operation, &text, body)
    }
}

fn key_of(parts: &Parts, target: &Target, app: &AppId) -> Result<Option<DeliveryKey>, Refusal> {
    let given = |name: &'static str| {
        let mut values = parts.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        if values.next().is_some() || text.is_empty() || text.len() > KEY_BYTES_MAX {
            let message = format!("must be 1 to {KEY_BYTES_MAX} visible ASCII characters, once");
            return Err(Refusal::invalid_at("header", name, message));
        }
        Ok(Some(text.to_owned()))
    };
    let (text, is_webhook_id) = match (given("idempotency-key")?, given("webhook-id")?) {
        (Some(key), _) => (key, false),
        (None, Some(id)) => (id, true),
        (None, None) => return Ok(None),
    };
    let query = parts.uri.query().unwrap_or_default();
    let operation = format!("{} {}?{query}", parts.method, target.path);
    let principal = caller_label(app).to_string();
    Ok(Some(DeliveryKey { operation, principal, text, is_webhook_id }))
}

/// The headers that an app sees: not what is meant for this server.
async fn headers(app: &App, sent: &HeaderMap) -> Vec<(String, String)> {
    let mut seen = Vec::with_capacity(sent.len());
    for (name, value) in sent {
        let Ok(text) = value.to_str() else { continue };
        let is_ours = STRIPPED.contains(&name.as_str())
            || *name == header::AUTHORIZATION && is_own_credential(app, text).await;
        if !is_ours {
            seen.push((name.as_str().to_owned(), text.to_owned()));
        }
    }
    seen
}

/// Whether an `Authorization` is one of this server's: senders have some of their own.
async fn is_own_credential(app: &App, value: &str) -> bool {
    let token = value.split_once(' ').map_or(value, |(_, token)| token).trim();
    let now = app.system.clock().now();
    is_api_key(token)
        || app.service_token.is(token)
        || app.identity.authenticate(token, now).await.is_ok()
}

fn pairs(query: &str) -> Result<Vec<(String, String)>, Refusal> {
    let pairs = form_urlencoded::parse(query.as_bytes()).take(PAIRS_MAX + 1);
    let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into(), value.into());
    let pairs: Vec<(String, String)> = pairs.map(owned).collect();
    if pairs.len() > PAIRS_MAX {
        let message = format!("has more than {PAIRS_MAX} parameters");
        return Err(Refusal::invalid_at("query", "query", message));
    }
    Ok(pairs)
}

/// What the function answered. Whatever it is, it is no page of this server's.
fn answer(reply: HookReply) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    for (name, value) in reply.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let sandbox = HeaderValue::from_static("default-src 'none'; sandbox");
    headers.insert(header::CONTENT_SECURITY_POLICY, sandbox);
    response
}

/// How an app does.
#[derive(Serialize, ToSchema)]
struct HealthResponse {
    app_id: String,
    /// `healthy`, `degraded`, `unavailable`, or `unknown` before its host was called
    status: &'static str,
    version: String,
    /// `closed`, `open` or `half_open`; null for an app that runs inside the server
    circuit: Option<&'static str>,
    /// When its host last answered a call, RFC 3339
    last_success_at: Option<String>,
    /// When its host last failed a call, RFC 3339
    last_failure_at: Option<String>,
}

/// How an app that is active does; asked for, its host is not called
///
/// What is told of a host is what calls of it have met since the server started.
#[utoipa::path(get, path = "/v1/ext/{app_id}/health", tag = tag::EXTENSIONS, security(()),
    params(("app_id" = String, Path)),
    responses((status = 200, body = HealthResponse), (status = 404), (status = 429)))]
async fn health(
    State(app): State<App>,
    who: Anyone,
    Path(app_id): Path<String>,
) -> Result<Json<HealthResponse>, Problem> {
    let origin = Origin { request: who.request, ..app.system.system_origin() };
    let health = app.extensions.health(&app.system, &app_id, &origin).await?;
    let Health { status, version, circuit, last_success, last_failure } = health;
    let circuit = circuit.map(|circuit| match circuit {
        Circuit::Closed => "closed",
        Circuit::Open => "open",
        Circuit::HalfOpen => "half_open",
    });
    Ok(Json(HealthResponse {
        app_id,
        status: status.name(),
        version,
        circuit,
        last_success_at: last_success.map(rfc3339),
        last_failure_at: last_failure.map(rfc3339),
    }))
}
