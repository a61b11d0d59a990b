//! `/v1/events`: the tenant's events as server-sent events, who reads them, and what services
//! tell beside them.

use std::collections::BTreeMap;

use activity::feed::{Audience, DATA_BYTES_MAX, Feed, NAME_BYTES_MAX, Telling};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::Refusal;
use types::{AppId, TenantId, UserId};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Service;
use crate::extract::JsonBody;
use crate::openapi::tag;
use crate::problem::Problem;
use crate::streaming::{self, Reading};

/// The names that the stream itself uses.
const RESERVED: [&str; 2] = ["closed", "resync"];
/// The event that tells which panels are to be drawn anew.
const PANEL_REFRESH: &str = "panel_refresh";
/// Tenants and apps whose events are counted one by one.
const COUNTED_MAX: usize = 10_000;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(stream))
        .routes(routes!(stats))
        .routes(routes!(publish_event))
}

/// What the stream is asked for. The token is taken out before anything is routed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "what the document says; it is read before and beside the route")]
struct StreamQuery {
    /// The credential's own tenant, or the one that a service reads; `default` is the own
    tenant_id: Option<String>,
    /// A user's token or API key, for clients that cannot send headers
    token: Option<String>,
}

/// The tenant's events as they become durable, as server-sent events
#[utoipa::path(get, path = "/v1/events/stream", tag = tag::GATEWAY,
    params(StreamQuery, ("Last-Event-ID" = Option<String>, Header,
        description = "The last id that the client had: what came since is told again, at most \
            10,000 records or an hour; beyond that there is one `resync`")),
    responses((status = 200, content_type = "text/event-stream",
        description = "Each reader is told what it may see. `retry:` and ids are set; a comment \
            comes every 15 s; the last event is `closed` with the reason"),
        (status = 401), (status = 403), (status = 422), (status = 429)))]
async fn stream(State(app): State<App>, reading: Reading) -> Result<Response, Problem> {
    let Reading { tenant, opening } = reading;
    let reader = app.system.port::<Feed>().subscribe(&app.system, tenant, opening)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // A proxy that gathers answers would hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, streaming::body(reader)).into_response())
}

/// Who reads.
#[derive(Serialize, ToSchema)]
struct StatsView {
    /// Tenants that somebody reads
    channels: usize,
    /// Readers
    clients: usize,
    /// Readers that the server has ended since its start, by reason
    #[schema(value_type = Object)]
    dropped: Value,
    /// Events that services have published since the server's start
    published: u64,
    /// Those of the tenant in `X-Tenant-ID`, by app; under an empty name those of no app
    #[schema(value_type = Object)]
    published_by_app: BTreeMap<String, u64>,
}

/// How many read
#[utoipa::path(get, path = "/v1/events/stats", tag = tag::GATEWAY,
    security(("service_token" = [])),
    responses((status = 200, body = StatsView), (status = 401), (status = 403)))]
async fn stats(State(app): State<App>, Service(entered): Service) -> Json<StatsView> {
    let figures = app.system.port::<Feed>().figures();
    let dropped = json!(figures.dropped);
    let (published, published_by_app) = app.system.port::<Published>().of(entered.caller.tenant);
    let (channels, clients) = (figures.channels, figures.readers);
    Json(StatsView { channels, clients, dropped, published, published_by_app })
}

fn default_tenant() -> String {
    "default".to_owned()
}

fn system_actor() -> String {
    "system".to_owned()
}

/// Something that happens, for who reads now.
#[derive(Deserialize, ToSchema)]
struct PublishEventRequest {
    /// `default` is the one in `X-Tenant-ID`
    #[serde(default = "default_tenant")]
    tenant_id: String,
    /// The first part of the event's name
    #[serde(default)]
    scope: String,
    /// The rest of it
    #[serde(default)]
    action: String,
    /// What it is about
    #[serde(default)]
    id: String,
    /// Who did it
    #[serde(default = "system_actor")]
    actor: String,
    /// Whom alone it is told; empty for everybody in the tenant
    #[serde(default)]
    user_id: String,
    /// More, an object
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    data: Option<Map<String, Value>>,
}

impl PublishEventRequest {
    /// `SCOPE.ACTION`, or the one that there is; an app's begins with the app's id.
    fn name(&self, app: Option<&AppId>) -> Result<String, Refusal> {
        let parts = [self.scope.as_str(), self.action.as_str()];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let name = app_name(app, parts.join("."));
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_fit) {
            let message = format!(
                "scope and action make a name of letters, digits and ._-: of at most \
                 {NAME_BYTES_MAX} characters"
            );
            return Err(Refusal::invalid("action", message));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Refusal::invalid("action", "this name is the stream's own"));
        }
        Ok(name)
    }

    fn telling(self, app: Option<&AppId>) -> Result<Telling, Refusal> {
        let name = self.name(app)?;
        let unfit = |_| Refusal::invalid("user_id", "is not an id");
        let user = Some(&self.user_id).filter(|text| !text.is_empty());
        let user = user.map(|text| text.parse::<UserId>().map_err(unfit)).transpose()?;
        let Self { scope, action, id, actor, data, .. } = self;
        let mut whole = data.unwrap_or_default();
        let frame = [("scope", scope), ("action", action), ("id", id), ("actor", actor)];
        let frame = frame.into_iter().filter(|(_, value)| !value.is_empty());
        whole.extend(frame.map(|(name, value)| (name.to_owned(), Value::String(value))));
        let whole = Value::Object(whole);
        if whole.to_string().len() > DATA_BYTES_MAX / 2 {
            let message = format!("all of it has at most {} bytes", DATA_BYTES_MAX / 2);
            return Err(Refusal::invalid("data", message));
        }
        let audience = user.map_or(Audience::Tenant, Audience::User);
        Ok(Telling::new(name, audience, whole).of_family("events:read"))
    }
}

/// An app's events begin with its id; what redraws a panel is nobody's event.
fn app_name(app: Option<&AppId>, name: String) -> String {
    let Some(app) = app.filter(|_| !name.is_empty() && name != PANEL_REFRESH) else { return name };
    let rest = name.strip_prefix(app.as_str());
    match rest.is_some_and(|rest| rest.starts_with('.')) {
        true => name,
        false => format!("{app}.{name}"),
    }
}

/// Who has published how much since the start, by tenant and app. A port.
#[derive(Default)]
pub(crate) struct Published(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    total: u64,
    of: BTreeMap<(TenantId, String), u64>,
}

impl Published {
    /// Beyond [`COUNTED_MAX`] tenants and apps only the sum goes on.
    fn count(&self, tenant: TenantId, app: Option<&AppId>) {
        let mut counts = self.0.lock();
        counts.total += 1;
        let key = (tenant, app.map(ToString::to_string).unwrap_or_default());
        if counts.of.len() < COUNTED_MAX || counts.of.contains_key(&key) {
            *counts.of.entry(key).or_default() += 1;
        }
    }

    /// All, and those of a tenant by app.
    fn of(&self, tenant: TenantId) -> (u64, BTreeMap<String, u64>) {
        let counts = self.0.lock();
        let own = counts.of.range((tenant, String::new())..);
        let own = own.take_while(|((of, _), _)| *of == tenant);
        (counts.total, own.map(|((_, app), count)| (app.clone(), *count)).collect())
    }
}

/// Who was told.
#[derive(Serialize, ToSchema)]
struct PublishView {
    /// Always true: nobody need be there to be told
    published: bool,
    /// The tenant's readers
    clients: usize,
}

/// Tell a tenant's readers something; who is not there is not told later
#[utoipa::path(post, path = "/v1/internal/events/publish", tag = tag::GATEWAY,
    security(("service_token" = [])), request_body = PublishEventRequest,
    responses((status = 200, body = PublishView), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn publish_event(
    State(app): State<App>,
    Service(entered): Service,
    body: JsonBody<PublishEventRequest>,
) -> Result<Json<PublishView>, Problem> {
    let request = body.value;
    let tenant: TenantId = streaming::service_tenant(&entered, "body", &request.tenant_id)?;
    let own = entered.caller.app.as_ref();
    let telling = request.telling(own)?;
    app.identity.admit_service(tenant, None).await?;
    if let Some(own) = own {
        let (origin, user) = (app.origin(&entered.caller, entered.request), entered.caller.user);
        app.extensions.admit_runtime(&app.system, (own, tenant, user), &origin).await?;
    }
    let clients = app.system.port::<Feed>().publish(tenant, telling, app.system.clock().now());
    app.system.port::<Published>().count(tenant, own);
    Ok(Json(PublishView { published: true, clients }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Value) -> Result<Telling, Refusal> {
        serde_json::from_value::<PublishEventRequest>(body).unwrap().telling(None)
    }

    #[test]
    fn an_apps_event_begins_with_its_id() {
        let app = AppId::new("shelf").ok();
        let name = |name: &str| app_name(app.as_ref(), name.to_owned());
        assert_eq!(name("added"), "shelf.added");
        assert_eq!(name("shelf.added"), "shelf.added");
        assert_eq!(name("shelfish.added"), "shelf.shelfish.added");
        assert_eq!(name(PANEL_REFRESH), PANEL_REFRESH);
        let published = Published::default();
        published.count(TenantId(7), app.as_ref());
        published.count(TenantId(7), None);
        published.count(TenantId(8), None);
        let (total, own) = published.of(TenantId(7));
        assert_eq!((total, own), (3, BTreeMap::from([(String::new(), 1), ("shelf".into(), 1)])));
    }

    #[test]
    fn a_name_is_one_word_and_not_one_of_the_streams_own() {
        for fit in [json!({"action": "panel_refresh"}), json!({"scope": "a-b", "action": "c.d"})] {
            assert!(request(fit.clone()).is_ok(), "{fit}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for unfit in ["", "a\nb", "a b", "closed", "resync", &long] {
            let refused = request(json!({"action": unfit})).unwrap_err();
            assert_eq!(refused.code, "validation_error", "{unfit}");
        }
        let large = json!({"action": "a", "data": {"x": "x".repeat(DATA_BYTES_MAX)}});
        assert!(request(large).unwrap_err().message.starts_with("data: "));
        assert!(request(json!({"action": "a", "user_id": "x"})).is_err());
    }
}
