//! `/v1/admin/apps` and `/v1/admin/developer`: whoever keeps the marketplace reviews apps, shows
//! them first, and takes them back. Only the service token and operators may.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use control::app::Status;
use market::desk::{AppUnderReview, DEVELOPERS_DEFAULT, DEVELOPERS_MAX, DevelopersPage};
use market::view::AppResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervision::Refusal;
use types::{AppId, PlainText, UserId};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Entered;
use crate::extract::{JsonBody, Query};
use crate::openapi::tag;
use crate::paging::{self, PageQuery};
use crate::problem::Problem;
use crate::visitor::Steward;

/// Characters of why something is rejected or taken back.
const REASON_CHARACTERS_MAX: usize = 500;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(pending_apps))
        .routes(routes!(approve_app))
        .routes(routes!(reject_app))
        .routes(routes!(sync_app_pricing))
        .routes(routes!(sync_all_pricing))
        .routes(routes!(all_apps))
        .routes(routes!(set_app_status))
        .routes(routes!(feature_app))
        .routes(routes!(withdraw_app))
        .routes(routes!(developers))
        .routes(routes!(developer_config))
}

/// Some apps.
#[derive(Serialize, ToSchema)]
struct AppItems {
    items: Vec<AppResponse>,
    /// How many there are in all
    total: usize,
}

/// Some apps that wait for a review.
#[derive(Serialize, ToSchema)]
struct ReviewItems {
    items: Vec<AppUnderReview>,
    /// How many there are in all
    total: usize,
}

/// Why an app is rejected.
#[derive(Deserialize, ToSchema)]
struct AdminRejectRequest {
    /// For the developer
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: PlainText<REASON_CHARACTERS_MAX, 1>,
}

/// What an app becomes.
#[derive(Deserialize, ToSchema)]
struct AppStatusRequest {
    /// draft, active or suspended
    status: String,
    /// For the developer
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 500)]
    reason: Option<PlainText<REASON_CHARACTERS_MAX>>,
}

/// Whether an app is shown first.
#[derive(Deserialize, ToSchema)]
struct FeatureRequest {
    /// Whether it is
    featured: bool,
}

/// How many apps' prices were read anew.
#[derive(Serialize, ToSchema)]
struct SyncedResponse {
    synced: usize,
}

async fn become_status(
    app: &App,
    entered: &Entered,
    app_id: &str,
    status: Status,
    reason: Option<String>,
) -> Result<Json<AppResponse>, Problem> {
    let id = AppId::new(app_id).map_err(|_| Refusal::not_found("app"))?;
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Json(app.market.set_status(&app.system, &id, status, reason, &origin).await?))
}

async fn listed(
    app: &App,
    entered: &Entered,
    status: Option<Status>,
    query: PageQuery,
) -> Result<Json<AppItems>, Problem> {
    let (page, origin) = (query.page()?, app.origin(&entered.caller, entered.request));
    let (items, total) = app.market.apps_in_state(&app.system, status, page, &origin).await?;
    Ok(Json(AppItems { items, total }))
}

/// The apps that wait for review, by id, each with its checks; an operator may ask too
#[utoipa::path(get, path = "/v1/admin/apps/pending", tag = tag::GATEWAY,
    security(("service_token" = [])), params(PageQuery),
    responses((status = 200, body = ReviewItems), (status = 401), (status = 403), (status = 422)))]
async fn pending_apps(
    State(app): State<App>,
    Steward(entered): Steward,
    Query(query): Query<PageQuery>,
) -> Result<Json<ReviewItems>, Problem> {
    let (page, origin) = (query.page()?, app.origin(&entered.caller, entered.request));
    let (items, total) = app.market.apps_under_review(&app.system, page, &origin).await?;
    Ok(Json(ReviewItems { items, total }))
}

/// Let an app go live; repeated it changes nothing
#[utoipa::path(post, path = "/v1/admin/apps/{app_id}/approve", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = AppResponse), (status = 401), (status = 403), (status = 404),
        (status = 409)))]
async fn approve_app(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(app_id): Path<String>,
) -> Result<Json<AppResponse>, Problem> {
    become_status(&app, &entered, &app_id, Status::Active, None).await
}

/// Send an app back to its developer, with the reason
#[utoipa::path(post, path = "/v1/admin/apps/{app_id}/reject", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    request_body = AdminRejectRequest,
    responses((status = 200, body = AppResponse), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn reject_app(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(app_id): Path<String>,
    body: JsonBody<AdminRejectRequest>,
) -> Result<Json<AppResponse>, Problem> {
    let reason = Some(body.value.reason.into_string());
    become_status(&app, &entered, &app_id, Status::Draft, reason).await
}

/// Read an app's prices anew before it is called again
///
/// Prices are read with every change of an app, so there is nothing to wait for.
#[utoipa::path(post, path = "/v1/admin/apps/{app_id}/sync-pricing", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = SyncedResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn sync_app_pricing(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(app_id): Path<String>,
) -> Result<Json<SyncedResponse>, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let synced = app.market.sync_pricing(&app.system, Some(&app_id), &origin).await?;
    Ok(Json(SyncedResponse { synced }))
}

/// Read all apps' prices anew before they are called again
#[utoipa::path(post, path = "/v1/admin/apps/sync-pricing", tag = tag::GATEWAY,
    security(("service_token" = [])),
    responses((status = 200, body = SyncedResponse), (status = 401), (status = 403)))]
async fn sync_all_pricing(
    State(app): State<App>,
    Steward(entered): Steward,
) -> Result<Json<SyncedResponse>, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let synced = app.market.sync_pricing(&app.system, None, &origin).await?;
    Ok(Json(SyncedResponse { synced }))
}

/// Which apps.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AdminAppsQuery {
    /// draft, pending_review, active or suspended
    status: Option<String>,
    /// How many at most: 1 to 200, default 50
    limit: Option<usize>,
    /// How many to leave out first
    offset: Option<usize>,
}

/// All apps, by id
#[utoipa::path(get, path = "/v1/admin/apps", tag = tag::GATEWAY,
    security(("service_token" = [])), params(AdminAppsQuery),
    responses((status = 200, body = AppItems), (status = 401), (status = 403), (status = 422)))]
async fn all_apps(
    State(app): State<App>,
    Steward(entered): Steward,
    Query(query): Query<AdminAppsQuery>,
) -> Result<Json<AppItems>, Problem> {
    let AdminAppsQuery { status, limit, offset } = query;
    let named = |name: String| {
        let message = "draft, pending_review, active or suspended";
        Status::named(&name).ok_or_else(|| Refusal::invalid_at("query", "status", message))
    };
    let status = status.map(named).transpose()?;
    listed(&app, &entered, status, PageQuery::new(limit, offset)).await
}

/// Move an app to another state
#[utoipa::path(post, path = "/v1/admin/apps/{app_id}/status", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    request_body = AppStatusRequest,
    responses((status = 200, body = AppResponse), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn set_app_status(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(app_id): Path<String>,
    body: JsonBody<AppStatusRequest>,
) -> Result<Json<AppResponse>, Problem> {
    let AppStatusRequest { status, reason } = body.value;
    let status = Status::named(&status).filter(|status| *status != Status::Deleted);
    let wrong = || Refusal::invalid("status", "draft, pending_review, active or suspended");
    let reason = reason.map(PlainText::into_string);
    become_status(&app, &entered, &app_id, status.ok_or_else(wrong)?, reason).await
}

/// Show an app first, or no more; repeated it changes nothing
#[utoipa::path(post, path = "/v1/admin/apps/{app_id}/feature", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    request_body = FeatureRequest,
    responses((status = 204), (status = 401), (status = 403), (status = 404)))]
async fn feature_app(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(app_id): Path<String>,
    body: JsonBody<FeatureRequest>,
) -> Result<StatusCode, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    app.market.feature_app(&app.system, &app_id, body.value.featured, &origin).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take an app out of the marketplace: it is suspended
#[utoipa::path(delete, path = "/v1/admin/apps/{app_id}", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = AppResponse), (status = 401), (status = 403), (status = 404),
        (status = 409)))]
async fn withdraw_app(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(app_id): Path<String>,
) -> Result<Json<AppResponse>, Problem> {
    become_status(&app, &entered, &app_id, Status::Suspended, None).await
}

/// Which developers.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DevelopersQuery {
    /// How many at most: 1 to 200
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// Where the part before ended
    cursor: Option<String>,
}

/// The developers with their tiers and what they have earned, in the order of their ids
#[utoipa::path(get, path = "/v1/admin/developers", tag = tag::GATEWAY,
    security(("service_token" = [])), params(DevelopersQuery),
    responses((status = 200, body = DevelopersPage), (status = 401), (status = 403),
        (status = 422)))]
async fn developers(
    State(app): State<App>,
    Steward(entered): Steward,
    Query(query): Query<DevelopersQuery>,
) -> Result<Json<DevelopersPage>, Problem> {
    paging::within("limit", query.limit, DEVELOPERS_MAX)?;
    let unknown = |_| Refusal::invalid_at("query", "cursor", "is not one of ours");
    let after = query.cursor.map(|text| text.parse::<UserId>()).transpose().map_err(unknown)?;
    let (after, limit) =
        (after.map(|id| id.to_string()), query.limit.unwrap_or(DEVELOPERS_DEFAULT));
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Json(app.market.developers(&app.system, after.as_deref(), limit, &origin).await?))
}

/// The tiers, and what an operator has set for developers
#[utoipa::path(get, path = "/v1/admin/developer/config", tag = tag::GATEWAY,
    security(("service_token" = [])),
    responses((status = 200, body = Object), (status = 401), (status = 403)))]
async fn developer_config(State(app): State<App>, _: Steward) -> Json<Value> {
    Json(app.market.config())
}
