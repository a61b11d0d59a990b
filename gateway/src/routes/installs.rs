//! `/v1/me/extensions` and its like for others: what users have installed, and what is switched off
//! for them.

use axum::Json;
use axum::extract::{Path, State};
use market::install::DisabledBy;
use market::marketplace::{ExtensionEntry, ExtensionUser};
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::UserId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Either, Entered};
use crate::extract::{JsonBody, Query};
use crate::openapi::tag;
use crate::paging::PageQuery;
use crate::problem::Problem;

/// What seeing others' extensions needs, and changing them.
const READ: &str = "members:read";
const WRITE: &str = "members:write";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(my_extensions))
        .routes(routes!(disable_extension))
        .routes(routes!(enable_extension))
        .routes(routes!(extensions_of_user))
        .routes(routes!(disable_extension_of_user))
        .routes(routes!(enable_extension_of_user))
        .routes(routes!(extension_users))
}

/// What a user has installed or switched off.
#[derive(Serialize, ToSchema)]
struct ExtensionsResponse {
    extensions: Vec<ExtensionEntry>,
}

/// An app.
#[derive(Deserialize, ToSchema)]
struct DisableBody {
    app_id: String,
}

/// Whether an app is switched off.
#[derive(Serialize, ToSchema)]
struct DisabledResponse {
    app_id: String,
    disabled: bool,
}

async fn listed(app: &App, entered: &Entered, user: UserId) -> Result<ExtensionsResponse, Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    let tenant = entered.caller.tenant;
    let extensions = app.market.extensions_of(&app.system, tenant, user, &origin).await?;
    Ok(ExtensionsResponse { extensions })
}

async fn switched(
    app: &App,
    entered: &Entered,
    user: UserId,
    app_id: &str,
    (on, by): (bool, DisabledBy),
) -> Result<(), Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    let who = (entered.caller.tenant, user);
    app.market.switch(&app.system, who, app_id, (on, by), &origin).await
}

/// A member of the caller's tenant: one's own self, or with the scope another. 404 for others.
async fn member(app: &App, entered: &Entered, text: &str, scope: &str) -> Result<UserId, Refusal> {
    let user = super::users::member_at(entered, text, scope)?;
    app.identity.member(entered.caller.tenant, user).await.map(|_| user)
}

/// The caller's extensions: what is installed or switched off
#[utoipa::path(get, path = "/v1/me/extensions", tag = tag::GATEWAY,
    responses((status = 200, body = ExtensionsResponse), (status = 401), (status = 403)))]
async fn my_extensions(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<ExtensionsResponse>, Problem> {
    let user = entered.user()?;
    Ok(Json(listed(&app, &entered, user).await?))
}

/// Switch an app off: calls of it answer 403 `app_disabled`; repeated it changes nothing
#[utoipa::path(post, path = "/v1/me/extensions/disable", tag = tag::GATEWAY,
    request_body = DisableBody,
    responses((status = 200, body = DisabledResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn disable_extension(
    State(app): State<App>,
    Either(entered): Either,
    body: JsonBody<DisableBody>,
) -> Result<Json<DisabledResponse>, Problem> {
    let (user, app_id) = (entered.user()?, body.value.app_id);
    switched(&app, &entered, user, &app_id, (false, DisabledBy::User)).await?;
    Ok(Json(DisabledResponse { app_id, disabled: true }))
}

/// Switch an app on again; 403 `disabled_by_admin` when somebody else switched it off
#[utoipa::path(delete, path = "/v1/me/extensions/disable/{app_id}", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = DisabledResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn enable_extension(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<DisabledResponse>, Problem> {
    let user = entered.user()?;
    switched(&app, &entered, user, &app_id, (true, DisabledBy::User)).await?;
    Ok(Json(DisabledResponse { app_id, disabled: false }))
}

/// The extensions of a member of the caller's tenant
#[utoipa::path(get, path = "/v1/users/{user_id}/extensions", tag = tag::GATEWAY,
    params(("user_id" = String, Path)),
    responses((status = 200, body = ExtensionsResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn extensions_of_user(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
) -> Result<Json<ExtensionsResponse>, Problem> {
    let user = member(&app, &entered, &user_id, READ).await?;
    Ok(Json(listed(&app, &entered, user).await?))
}

/// Switch an app off for a member of the caller's tenant, who does not switch it on again
#[utoipa::path(post, path = "/v1/users/{user_id}/extensions/disable", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), request_body = DisableBody,
    responses((status = 200, body = DisabledResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn disable_extension_of_user(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
    body: JsonBody<DisableBody>,
) -> Result<Json<DisabledResponse>, Problem> {
    entered.require(WRITE)?;
    let (user, app_id) = (member(&app, &entered, &user_id, WRITE).await?, body.value.app_id);
    switched(&app, &entered, user, &app_id, (false, DisabledBy::Admin)).await?;
    Ok(Json(DisabledResponse { app_id, disabled: true }))
}

/// Switch an app on again for a member of the caller's tenant
#[utoipa::path(delete, path = "/v1/users/{user_id}/extensions/disable/{app_id}",
    tag = tag::GATEWAY, params(("user_id" = String, Path), ("app_id" = String, Path)),
    responses((status = 200, body = DisabledResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn enable_extension_of_user(
    State(app): State<App>,
    Either(entered): Either,
    Path((user_id, app_id)): Path<(String, String)>,
) -> Result<Json<DisabledResponse>, Problem> {
    entered.require(WRITE)?;
    let user = member(&app, &entered, &user_id, WRITE).await?;
    switched(&app, &entered, user, &app_id, (true, DisabledBy::Admin)).await?;
    Ok(Json(DisabledResponse { app_id, disabled: false }))
}

/// Who of a tenant has an app installed.
#[derive(Serialize, ToSchema)]
struct ExtensionUsersResponse {
    users: Vec<ExtensionUser>,
}

/// Who of the caller's tenant has an app installed
#[utoipa::path(get, path = "/v1/extensions/{app_id}/users", tag = tag::GATEWAY,
    params(("app_id" = String, Path), PageQuery),
    responses((status = 200, body = ExtensionUsersResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn extension_users(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<ExtensionUsersResponse>, Problem> {
    entered.require(READ)?;
    let (page, origin) = (query.page()?, app.origin(&entered.caller, entered.request));
    let tenant = entered.caller.tenant;
    let users = app.market.users_of(&app.system, tenant, &app_id, page, &origin).await?;
    Ok(Json(ExtensionUsersResponse { users }))
}
