//! What was paid: `/v1/billing/payments`, and the same for services that ask for a user.

use axum::Json;
use axum::extract::{Path, State};
use billing::payments::PaymentItem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::topups::port;
use super::usage::member;
use crate::app::App;
use crate::authenticate::{Either, Service};
use crate::extract::Query;
use crate::openapi::tag;
use crate::paging::PageQuery;
use crate::problem::Problem;

const READ: &str = "wallet:read";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(payments)).routes(routes!(payments_of_user))
}

/// The payments, newest first
#[utoipa::path(get, path = "/v1/billing/payments", tag = tag::GATEWAY, params(PageQuery),
    responses((status = 200, body = Vec<PaymentItem>), (status = 401), (status = 403),
        (status = 422)))]
async fn payments(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<PaymentItem>>, Problem> {
    entered.require(READ)?;
    Ok(Json(port(&app).list(&app.system, entered.caller.tenant, query.page()?)?))
}

/// The payments of the tenant that a user spends from, the service's or their own
#[utoipa::path(get, path = "/v1/billing/internal/payments/{uid}", tag = tag::GATEWAY,
    params(("uid" = String, Path), PageQuery), security(("service_token" = [])),
    responses((status = 200, body = Vec<PaymentItem>), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn payments_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Path(uid): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<PaymentItem>>, Problem> {
    let (tenant, _) = member(&app, &entered, &uid).await?;
    Ok(Json(port(&app).list(&app.system, tenant, query.page()?)?))
}
