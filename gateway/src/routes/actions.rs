//! `/v1/actions`: what was done, as the tenant's chain has it.

use activity::{
    ActionDetail, ActionPage, ActionStatus, ActionType, Filter, PER_PAGE_MAX, Verification, Whose,
};
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use supervision::Refusal;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Entered, Member};
use crate::extract::Query;
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(verify)).routes(routes!(one))
}

/// What to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only this app's
    app_id: Option<String>,
    /// `read`, `write`, `destructive` or `system`
    action_type: Option<String>,
    /// `success` or `error`
    status: Option<String>,
    /// Text in names and errors
    search: Option<String>,
    /// From 1
    page: Option<usize>,
    /// 1 to 200, default 50
    per_page: Option<usize>,
    /// Where the page before ended
    cursor: Option<String>,
}

fn named<T: serde::de::DeserializeOwned>(text: String) -> Result<T, serde_json::Error> {
    serde_json::from_value(serde_json::Value::String(text))
}

/// The caller's own actions, and those that were done for the caller; what services did for nobody
/// in particular is shown to the tenant's owner and admins.
fn whose<'a>(entered: &Entered, label: &'a str) -> Whose<'a> {
    match entered.caller.answers_for_tenant() {
        true => Whose::CallerAndServices(label),
        false => Whose::Caller(label),
    }
}

/// The caller's actions, newest first
#[utoipa::path(get, path = "/v1/actions", tag = tag::GATEWAY, params(ListQuery),
    responses((status = 200, body = ActionPage), (status = 401), (status = 422)))]
async fn list(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<ActionPage>, Problem> {
    let unfit = |field: &'static str| move |_| Refusal::invalid_at("query", field, "is not known");
    let no_cursor = |_| Refusal::invalid_at("query", "cursor", "is not one of ours");
    paging::within("per_page", query.per_page, PER_PAGE_MAX)?;
    paging::from_one("page", query.page)?;
    let action_type = query.action_type.map(named::<ActionType>);
    let status = query.status.map(named::<ActionStatus>);
    let cursor = query.cursor.map(|text| text.parse());
    let filter = Filter {
        app_id: query.app_id,
        action_type: action_type.transpose().map_err(unfit("action_type"))?,
        status: status.transpose().map_err(unfit("status"))?,
        search: query.search,
        page: query.page,
        per_page: query.per_page,
        cursor: cursor.transpose().map_err(no_cursor)?,
    };
    let label = entered.caller.label();
    blocking(app, entered, move |app, entered| {
        app.activity.list(&app.system, entered.caller.tenant, whose(entered, &label), &filter)
    })
    .await
}

/// One action with everything that its request did
#[utoipa::path(get, path = "/v1/actions/{trace_id}", tag = tag::GATEWAY,
    params(("trace_id" = String, Path)),
    responses((status = 200, body = ActionDetail), (status = 401), (status = 404)))]
async fn one(
    State(app): State<App>,
    Member(entered): Member,
    Path(trace_id): Path<String>,
) -> Result<Json<ActionDetail>, Problem> {
    let label = entered.caller.label();
    blocking(app, entered, move |app, entered| {
        app.activity.get(&app.system, entered.caller.tenant, whose(entered, &label), &trace_id)
    })
    .await
}

/// Verify the tenant's chain: every record there, every link right, the Merkle root
#[utoipa::path(get, path = "/v1/actions/verify", tag = tag::GATEWAY,
    responses((status = 200, body = Verification), (status = 401)))]
async fn verify(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<Verification>, Problem> {
    blocking(app, entered, move |app, entered| {
        app.activity.verify(&app.system, entered.caller.tenant)
    })
    .await
}

/// Reads of the journal block: they run beside the requests.
async fn blocking<T: Send + 'static>(
    app: App,
    entered: Entered,
    read: impl FnOnce(&App, &Entered) -> Result<T, Refusal> + Send + 'static,
) -> Result<Json<T>, Problem> {
    let read = tokio::task::spawn_blocking(move || read(&app, &entered));
    Ok(Json(read.await.map_err(|_| Refusal::crashed())??))
}
