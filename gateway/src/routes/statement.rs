//! `/v1/developer/statement`: every change of what a developer has earned, and the calls behind it.

use axum::Json;
use axum::extract::{Path, State};
use market::statement::{CallsSold, LINES_DEFAULT, LINES_MAX, StatementPage};
use serde::Deserialize;
use supervision::Refusal;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Either;
use crate::extract::Query;
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;
use crate::routes::marketplace::principal;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(statement)).routes(routes!(calls_of_line))
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StatementQuery {
    /// How many at most: 1 to 200
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// Where the part before ended
    cursor: Option<String>,
}

/// The caller's statement: sales and payouts, the newest first, each with the balances after it
///
/// A line's `available_after` is its `amount` more than that of the line after it in the list. What
/// its `sales` have earned sums to `amount`. Sales are booked a moment after the calls.
#[utoipa::path(get, path = "/v1/developer/statement", tag = tag::GATEWAY, params(StatementQuery),
    responses((status = 200, body = StatementPage), (status = 401), (status = 403),
        (status = 422)))]
async fn statement(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<StatementQuery>,
) -> Result<Json<StatementPage>, Problem> {
    paging::within("limit", query.limit, LINES_MAX)?;
    let principal = principal(&app, &entered)?;
    let limit = query.limit.unwrap_or(LINES_DEFAULT);
    let cursor = query.cursor.as_deref();
    Ok(Json(app.market.statement(&app.system, &principal, cursor, limit).await?))
}

/// The calls that a line of sales is made of, by the callers' trace ids
///
/// Who called is not told. What the calls have earned sums to the line's `amount`.
#[utoipa::path(get, path = "/v1/developer/statement/{number}/calls", tag = tag::GATEWAY,
    params(("number" = u64, Path)),
    responses((status = 200, body = CallsSold), (status = 401), (status = 403), (status = 404)))]
async fn calls_of_line(
    State(app): State<App>,
    Either(entered): Either,
    Path(number): Path<String>,
) -> Result<Json<CallsSold>, Problem> {
    let principal = principal(&app, &entered)?;
    let number = number.parse().map_err(|_| Refusal::not_found("statement line"))?;
    Ok(Json(app.market.calls_sold(&app.system, &principal, number).await?))
}
