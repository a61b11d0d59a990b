//! `/v1/developer`: becoming a developer, and one's apps.

use axum::Json;
use axum::extract::{Path, State};
use market::view::{
    AppDetailResponse, AppResponse, AppSubmitResponse, DeployResponse, DeveloperProfileResponse,
};
use market::{AppCreate, AppUpdate, DeveloperRegister, Principal};
use serde_json::Value;
use supervision::Refusal;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Either, Entered};
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(profile))
        .routes(routes!(list_apps, create_app))
        .routes(routes!(get_app, update_app))
        .routes(routes!(submit))
        .routes(routes!(deploys))
}

fn principal(app: &App, entered: &Entered) -> Result<Principal, Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Principal { user: entered.user()?, tenant: entered.caller.tenant, origin })
}

/// Become a developer
#[utoipa::path(post, path = "/v1/developer/register", tag = tag::GATEWAY,
    request_body = DeveloperRegister,
    responses((status = 200, body = DeveloperProfileResponse), (status = 400), (status = 401),
        (status = 403), (status = 422)))]
async fn register(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<DeveloperRegister>,
) -> Result<Json<Value>, Problem> {
    // The first tier is free; the others are paid by the tenant.
    if body.value.tier != "explorer" {
        entered.require("wallet:spend")?;
    }
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, "register_developer", &body.bytes);
    let market = &app.market;
    let registered = market.register_developer(&app.system, &principal, body.value, key.as_ref());
    Ok(Json(registered.await?))
}

/// The caller as a developer
#[utoipa::path(get, path = "/v1/developer/profile", tag = tag::GATEWAY,
    responses((status = 200, body = DeveloperProfileResponse), (status = 401), (status = 403)))]
async fn profile(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<DeveloperProfileResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.profile(&app.system, &principal).await?))
}

/// The caller's apps
#[utoipa::path(get, path = "/v1/developer/apps", tag = tag::GATEWAY,
    responses((status = 200, body = Vec<AppResponse>), (status = 401), (status = 403)))]
async fn list_apps(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<Vec<AppResponse>>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.list_apps(&app.system, &principal).await?))
}

/// Create an app, as a draft without a version
#[utoipa::path(post, path = "/v1/developer/apps", tag = tag::GATEWAY, request_body = AppCreate,
    responses((status = 200, body = AppResponse), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn create_app(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<AppCreate>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, "create_app", &body.bytes);
    let created = app.market.create_app(&app.system, &principal, body.value, key.as_ref());
    Ok(Json(created.await?))
}

/// One of the caller's apps, with the functions of its current version
#[utoipa::path(get, path = "/v1/developer/apps/{app_id}", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = AppDetailResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn get_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<AppDetailResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.get_app(&app.system, &principal, &app_id).await?))
}

/// Change an app's listing or prices
#[utoipa::path(put, path = "/v1/developer/apps/{app_id}", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = AppUpdate,
    responses((status = 200, body = AppResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn update_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<AppUpdate>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let operation = format!("update_app {app_id}");
    let key = key.of(&entered.caller, &operation, &body.bytes);
    let market = &app.market;
    let updated = market.update_app(&app.system, &principal, &app_id, body.value, key.as_ref());
    Ok(Json(updated.await?))
}

/// Hand an app in for review; failed checks answer 200 with `status: "failed"`
#[utoipa::path(post, path = "/v1/developer/apps/{app_id}/submit", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = AppSubmitResponse), (status = 401), (status = 403),
        (status = 404), (status = 409)))]
async fn submit(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<AppSubmitResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.submit_app(&app.system, &principal, &app_id).await?))
}

/// An app's versions, newest first
#[utoipa::path(get, path = "/v1/developer/apps/{app_id}/deploys", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = Vec<DeployResponse>), (status = 401), (status = 403),
        (status = 404)))]
async fn deploys(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<Vec<DeployResponse>>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.deploys(&app.system, &principal, &app_id).await?))
}
