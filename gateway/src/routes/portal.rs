//! The rest of `/v1/developer`: the tier, giving an app up or taking it back, deploys elsewhere,
//! and figures.

use axum::Json;
use axum::extract::{Path, State};
use market::listing::DeployNote;
use market::portal::{AnalyticsResponse, TierResponse};
use market::view::{AppResponse, DeployResponse};
use serde::Deserialize;
use serde_json::Value;
use supervision::{Refusal, Timestamp};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Either;
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;
use crate::routes::marketplace::principal;

/// The most days of figures.
const DAYS_MAX: u32 = 365;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(set_tier))
        .routes(routes!(delete_app))
        .routes(routes!(suspend_app))
        .routes(routes!(note_deploy))
        .routes(routes!(analytics))
}

/// A tier.
#[derive(Deserialize, ToSchema)]
struct TierUpdateRequest {
    /// explorer, indie, studio or partner
    tier: String,
}

/// Order a tier
///
/// A higher one is debited from the developer's wallet now, for a year (402 when it is not
/// covered), and each year again. A lower one comes at the end of the year. Ordering the present
/// one keeps it. What the wallet does not cover at the end of a year falls back to `explorer`.
#[utoipa::path(put, path = "/v1/developer/tier", tag = tag::GATEWAY,
    request_body = TierUpdateRequest,
    responses((status = 200, body = TierResponse), (status = 401), (status = 402),
        (status = 403), (status = 409), (status = 422)))]
async fn set_tier(
    State(app): State<App>,
    Either(entered): Either,
    body: JsonBody<TierUpdateRequest>,
) -> Result<Json<TierResponse>, Problem> {
    entered.require("wallet:spend")?;
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.set_tier(&app.system, &principal, &body.value.tier).await?))
}

/// Which app is really meant.
#[derive(Deserialize, ToSchema)]
struct AppDeleteConfirm {
    /// The app's id, or the name that it shows
    confirm_name: String,
}

/// Give an app up for good; its id is never given again
#[utoipa::path(delete, path = "/v1/developer/apps/{app_id}", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = AppDeleteConfirm,
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn delete_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    body: JsonBody<AppDeleteConfirm>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let confirm_name = &body.value.confirm_name;
    Ok(Json(app.market.delete_app(&app.system, &principal, &app_id, confirm_name).await?))
}

/// Take an active app back: nobody but its developer calls it, until it is submitted and approved
#[utoipa::path(post, path = "/v1/developer/apps/{app_id}/suspend", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = AppResponse), (status = 401), (status = 403),
        (status = 404), (status = 409)))]
async fn suspend_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<AppResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.suspend_app(&app.system, &principal, &app_id).await?))
}

fn success() -> String {
    "success".to_owned()
}

/// A deploy elsewhere.
#[derive(Deserialize, ToSchema)]
struct DeployRecordRequest {
    /// What was deployed, up to 128 characters
    #[schema(max_length = 128)]
    commit_sha: String,
    /// success, warning or failed
    #[serde(default = "success")]
    status: String,
    /// Why it failed, up to 2,000 characters
    #[serde(default)]
    #[schema(max_length = 2_000)]
    error_message: String,
}

/// Note a deploy that was made elsewhere; it changes nothing that is called here
#[utoipa::path(post, path = "/v1/developer/apps/{app_id}/deploys", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = DeployRecordRequest,
    responses((status = 200, body = DeployResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn note_deploy(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<DeployRecordRequest>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, &format!("note_deploy {app_id}"), &body.bytes);
    let DeployRecordRequest { commit_sha, status, error_message } = body.value;
    let note = DeployNote { commit_sha, status, error_message, at: Timestamp(0) };
    let noted = app.market.note_deploy(&app.system, &principal, &app_id, note, key.as_ref());
    Ok(Json(noted.await?))
}

/// How far back.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AnalyticsQuery {
    /// How many days, today among them: 1 to 365, and no more than the tier shows; when not told
    /// 30, or what the tier shows
    #[param(minimum = 1, maximum = 365)]
    days: Option<u32>,
}

/// An app's calls, users, errors and credits by day; 400 `analytics_window` beyond the tier's days
#[utoipa::path(get, path = "/v1/developer/apps/{app_id}/analytics", tag = tag::GATEWAY,
    params(("app_id" = String, Path), AnalyticsQuery),
    responses((status = 200, body = AnalyticsResponse), (status = 400), (status = 401),
        (status = 403), (status = 404), (status = 422)))]
async fn analytics(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    Query(query): Query<AnalyticsQuery>,
) -> Result<Json<AnalyticsResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    if query.days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
        let message = format!("must be from 1 to {DAYS_MAX}");
        return Err(Refusal::invalid_at("query", "days", message).into());
    }
    Ok(Json(app.market.analytics(&app.system, &principal, &app_id, query.days).await?))
}
