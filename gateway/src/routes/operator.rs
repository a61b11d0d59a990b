//! `/v1/operator`: what the console shows and does.

use std::time::Duration;

use activity::feed::Feed;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::response::sse::{Event, KeepAlive, Sse};
use billing::wallet::{Grant, Kind, Reason, Receipt, wallet_address};
use futures::Stream;
use serde::Deserialize;
use supervision::{Refusal, Timestamp};
use types::{Amount, GrantId, TenantId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::Operator;
use crate::console::TreeView;
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;
use crate::routes::billing::ReasonText;

/// How many live actors a tree shows.
const ACTORS_SHOWN_MAX: usize = 500;
/// How often the stream sends the tree.
const STREAM_PERIOD: Duration = Duration::from_secs(1);

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(grant)).routes(routes!(tree)).routes(routes!(stream))
}

/// What to put into a wallet.
#[derive(Deserialize, ToSchema)]
struct GrantRequest {
    /// Credits, a positive integer
    credits: i64,
    /// `paid` or `promotional`
    kind: GrantKind,
    /// For people; in the ledger
    #[schema(value_type = String, max_length = 500)]
    reason: ReasonText,
    /// RFC 3339; when they lapse
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum GrantKind {
    Paid,
    Promotional,
}

/// Fill a tenant's wallet
#[utoipa::path(post, path = "/v1/operator/tenants/{id}/grants", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = GrantRequest,
    responses((status = 201, body = Receipt), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn grant(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<GrantRequest>,
) -> Result<Response, Problem> {
    let GrantRequest { credits, kind, reason, expires_at } = body.value;
    let tenant = existing_tenant(&app, &id).await?;
    let unfit = |error: types::MoneyError| Refusal::invalid("credits", error.to_string());
    let credits = Amount::new(credits).map_err(unfit)?;
    let (kind, named) = match kind {
        GrantKind::Paid => (Kind::Paid, Reason::Topup),
        GrantKind::Promotional => (Kind::Promotional, Reason::Bonus),
    };
    let expires_at = expires_at.map(|text| expiry(&app, &text)).transpose()?;
    let command = Grant {
        description: Some(reason.into_string()),
        expires_at,
        ..Grant::new(GrantId(app.system.new_id()), tenant, credits, kind, named)
    };
    let operation = format!("grant {tenant}");
    let view = |receipt: Receipt| receipt;
    ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        wallet_address(tenant),
        command,
        StatusCode::CREATED,
        view
    )
}

fn expiry(app: &App, text: &str) -> Result<Timestamp, Refusal> {
    let at = types::parse_rfc3339(text).filter(|at| *at > app.system.clock().now());
    at.ok_or_else(|| Refusal::invalid("expires_at", "must be an RFC 3339 time to come"))
}

async fn existing_tenant(app: &App, text: &str) -> Result<TenantId, Refusal> {
    let missing = || Refusal::not_found("tenant");
    let tenant: TenantId = text.parse().map_err(|_| missing())?;
    app.identity.look_tenant(tenant, move |_| tenant).await?.ok_or_else(missing)
}

/// The tree as it is now.
pub(super) fn tree_view(app: &App) -> TreeView {
    let mut actors = Vec::new();
    for kind in app.system.kinds() {
        actors.extend(kind.actors(ACTORS_SHOWN_MAX.saturating_sub(actors.len())));
    }
    TreeView {
        uptime_ms: app.started.elapsed().as_millis() as u64,
        engine: app.system.journal().engine_name(),
        statistics: app.system.journal().statistics(),
        requests: app.metrics.requests(),
        system: app.board.read().clone(),
        feed: app.system.port::<Feed>().figures(),
        kinds: app.system.kinds().iter().map(|kind| kind.kind_view()).collect(),
        actors,
        reminders_waiting: app.system.reminders().waiting(),
        reminders_recovered: app.recovered.reminders,
        pending_recovered: app.recovered.pending,
    }
}

/// The supervision tree with every figure of the console's overview
#[utoipa::path(get, path = "/v1/operator/tree", tag = tag::OPERATOR,
    responses((status = 200, body = Object), (status = 401), (status = 403)))]
async fn tree(State(app): State<App>, Operator(_entered): Operator) -> Json<TreeView> {
    Json(tree_view(&app))
}

/// The tree each second, as server-sent events named `tree`
#[utoipa::path(get, path = "/v1/operator/stream", tag = tag::OPERATOR,
    responses((status = 200, content_type = "text/event-stream"), (status = 401), (status = 403)))]
async fn stream(
    State(app): State<App>,
    Operator(_entered): Operator,
) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    let events = futures::stream::unfold((app, true), |(app, first)| async move {
        let mut stopping = app.stopping.clone();
        if !first {
            let stopped = stopping.wait_for(|stopping| *stopping);
            if tokio::time::timeout(STREAM_PERIOD, stopped).await.is_ok() {
                return None;
            }
        }
        let event = Event::default().event("tree").json_data(tree_view(&app));
        Some((event, (app, false)))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
