//! `/v1/billing/limits`: how much a tenant, a user, a key, an agent or an app may spend in an hour,
//! a day, a month or at all; and the same for operators, for any tenant.
//!
//! A limit is named by its subject and window. Deliberate limit: of subjects only a user must be
//! there, as a member; a limit on a key, an agent or an app that is not there limits nothing.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use billing::wallet::{
    LimitAction, LimitView, RemoveLimit, SetLimit, Subject, Wallet, Window, no_limit,
    wallet_address,
};
use serde::Deserialize;
use supervision::Refusal;
use types::{Page, TenantId, home_of};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered, Operator};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::paging::PageQuery;
use crate::problem::Problem;

const READ: &str = "wallet:read";
const SET: &str = "wallet:limits";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(limits))
        .routes(routes!(set_limit, remove_limit))
        .routes(routes!(limits_of_tenant))
        .routes(routes!(set_limit_of_tenant, remove_limit_of_tenant))
}

/// How much may be spent.
#[derive(Deserialize, ToSchema)]
struct LimitRequest {
    /// Credits in each window; 0 for nothing at all
    #[schema(minimum = 0)]
    amount: i64,
    /// What is done beyond it: `refuse`
    #[serde(default)]
    #[schema(value_type = String, default = "refuse")]
    action: LimitAction,
}

/// A limit as a path names it.
fn named(subject: &str, window: &str) -> Result<(Subject, Window), Refusal> {
    let subject = subject.parse().map_err(|_| {
        let message = "must be tenant, user:ID, key:ID, agent:ID, app:ID or webhook:ID";
        Refusal::invalid_at("path", "subject", message)
    })?;
    let window = window
        .parse()
        .map_err(|_| Refusal::invalid_at("path", "window", "must be hour, day, month or total"))?;
    Ok((subject, window))
}

async fn list(
    app: &App,
    entered: &Entered,
    (tenant, page): (TenantId, Page),
) -> Result<Json<Vec<LimitView>>, Problem> {
    let now = app.system.now_in(home_of(tenant));
    let origin = app.origin(&entered.caller, entered.request);
    let look = move |wallet: &Wallet| wallet.limits(page, now);
    let wallets = app.system.directory::<Wallet>();
    Ok(Json(wallets.look(&wallet_address(tenant), origin, look).await?))
}

async fn set(
    app: App,
    entered: Entered,
    tenant: TenantId,
    (subject, window): (&str, &str),
    key: Key,
    body: JsonBody<LimitRequest>,
) -> Result<Response, Problem> {
    let (subject, window) = named(subject, window)?;
    let LimitRequest { amount, action: LimitAction::Refuse } = body.value;
    if let Subject::User(user) = subject {
        app.identity.member(tenant, user).await?;
    }
    let operation = format!("set_limit {tenant} {subject}/{window}");
    let view = |limit: LimitView| limit;
    ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        wallet_address(tenant),
        SetLimit { subject, window, amount },
        StatusCode::OK,
        view
    )
}

async fn remove(
    app: &App,
    entered: &Entered,
    tenant: TenantId,
    (subject, window): (&str, &str),
) -> Result<Json<LimitView>, Problem> {
    let (subject, window) = named(subject, window).map_err(|_| no_limit())?;
    let origin = app.origin(&entered.caller, entered.request);
    let wallets = app.system.directory::<Wallet>();
    let remove = RemoveLimit { subject, window };
    Ok(Json(wallets.ask(&wallet_address(tenant), remove, origin).await?))
}

/// The spending limits of the tenant, and how much of each is used
#[utoipa::path(get, path = "/v1/billing/limits", tag = tag::GATEWAY, params(PageQuery),
    responses((status = 200, body = Vec<LimitView>), (status = 401), (status = 403),
        (status = 422)))]
async fn limits(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<LimitView>>, Problem> {
    entered.require(READ)?;
    let page = query.page()?;
    list(&app, &entered, (entered.caller.tenant, page)).await
}

/// Limit what may be spent, or change a limit
///
/// The subject is `tenant`, `user:ID`, `key:ID`, `agent:ID`, `app:ID` or `webhook:APP`, and the
/// window `hour`, `day`, `month` (of the UTC calendar) or `total`, from the limit's setting on.
/// What was spent counts from then on, and what open holds hold counts at once. Beyond a limit a
/// debit, hold, call or batch is refused with 402 `limit_reached`, which names it in `limit`. At 80
/// and 100 percent the event `wallet.limit_warning` is told, once a window each.
///
/// `webhook:APP` is for what no user spends on an app: deliveries of its webhooks. The first one
/// sets `webhook:APP/day` to the server's default; another amount stays as it is set.
#[utoipa::path(put, path = "/v1/billing/limits/{subject}/{window}", tag = tag::GATEWAY,
    params(("subject" = String, Path), ("window" = Window, Path)), request_body = LimitRequest,
    responses((status = 200, body = LimitView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn set_limit(
    State(app): State<App>,
    Either(entered): Either,
    Path((subject, window)): Path<(String, String)>,
    key: Key,
    body: JsonBody<LimitRequest>,
) -> Result<Response, Problem> {
    entered.require(SET)?;
    let tenant = entered.caller.tenant;
    set(app, entered, tenant, (&subject, &window), key, body).await
}

/// Remove a limit; answers it as it stood
#[utoipa::path(delete, path = "/v1/billing/limits/{subject}/{window}", tag = tag::GATEWAY,
    params(("subject" = String, Path), ("window" = Window, Path)),
    responses((status = 200, body = LimitView), (status = 401), (status = 403), (status = 404)))]
async fn remove_limit(
    State(app): State<App>,
    Either(entered): Either,
    Path((subject, window)): Path<(String, String)>,
) -> Result<Json<LimitView>, Problem> {
    entered.require(SET)?;
    remove(&app, &entered, entered.caller.tenant, (&subject, &window)).await
}

async fn existing(app: &App, id: &str) -> Result<TenantId, Refusal> {
    let tenant = app.identity.tenant_named(id).await?;
    tenant.ok_or_else(|| Refusal::not_found("tenant"))
}

/// The spending limits of a tenant, and how much of each is used
#[utoipa::path(get, path = "/v1/operator/tenants/{id}/limits", tag = tag::OPERATOR,
    params(("id" = String, Path), PageQuery),
    responses((status = 200, body = Vec<LimitView>), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn limits_of_tenant(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<LimitView>>, Problem> {
    let tenant = existing(&app, &id).await?;
    list(&app, &entered, (tenant, query.page()?)).await
}

/// Limit what a tenant may spend, or change a limit
#[utoipa::path(put, path = "/v1/operator/tenants/{id}/limits/{subject}/{window}",
    tag = tag::OPERATOR,
    params(("id" = String, Path), ("subject" = String, Path), ("window" = Window, Path)),
    request_body = LimitRequest,
    responses((status = 200, body = LimitView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn set_limit_of_tenant(
    State(app): State<App>,
    Operator(entered): Operator,
    Path((id, subject, window)): Path<(String, String, String)>,
    key: Key,
    body: JsonBody<LimitRequest>,
) -> Result<Response, Problem> {
    let tenant = existing(&app, &id).await?;
    set(app, entered, tenant, (&subject, &window), key, body).await
}

/// Remove a limit of a tenant; answers it as it stood
#[utoipa::path(delete, path = "/v1/operator/tenants/{id}/limits/{subject}/{window}",
    tag = tag::OPERATOR,
    params(("id" = String, Path), ("subject" = String, Path), ("window" = Window, Path)),
    responses((status = 200, body = LimitView), (status = 401), (status = 403), (status = 404)))]
async fn remove_limit_of_tenant(
    State(app): State<App>,
    Operator(entered): Operator,
    Path((id, subject, window)): Path<(String, String, String)>,
) -> Result<Json<LimitView>, Problem> {
    let tenant = existing(&app, &id).await?;
    remove(&app, &entered, tenant, (&subject, &window)).await
}
