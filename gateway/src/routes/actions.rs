//! `/v1/actions`: what was done, as the tenant's chain has it: lists, counts, files and proofs.

use activity::{
    Action, ActionDetail, ActionPage, ActionStats, ActionStatus, ActionType, Between, ChainCursor,
    ExportHead, Filter, PER_PAGE_MAX, Verification, Whose,
};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use market::figures::AppFigures;
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::UserId;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audit::{FormatQuery, READ, time};
use crate::app::App;
use crate::authenticate::{Entered, Member, Service};
use crate::exporting;
use crate::extract::Query;
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(export_actions))
        .routes(routes!(action_stats))
        .routes(routes!(action_stats_of_app))
        .routes(routes!(action_stats_of_listing))
        .routes(routes!(verify))
        .routes(routes!(one))
}

/// Which actions.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct ActionsQuery {
    /// Only this app's
    app_id: Option<String>,
    /// `read`, `write`, `destructive` or `system`
    action_type: Option<String>,
    /// `success` or `error`
    status: Option<String>,
    /// Of this function, or command
    function: Option<String>,
    /// Another member's actions, with the scope `audit:read`; otherwise the caller's own
    user_id: Option<String>,
    /// Not before: RFC 3339, or a day
    from: Option<String>,
    /// Before: RFC 3339; of a day, until its end
    to: Option<String>,
    /// Text in names and errors
    search: Option<String>,
}

/// Which part of them.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct ActionPageQuery {
    /// From 1
    #[param(minimum = 1)]
    page: Option<usize>,
    /// 1 to 200, default 50
    #[param(minimum = 1, maximum = 200)]
    per_page: Option<usize>,
    /// Where the page before ended
    cursor: Option<String>,
}

/// Where a count goes on.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct CursorQuery {
    /// Where the count before ended
    cursor: Option<String>,
}

impl ActionsQuery {
    fn filter(self) -> Result<Filter, Refusal> {
        let unfit =
            |field: &'static str| move |_| Refusal::invalid_at("query", field, "is not known");
        let user = self.user_id.filter(|text| !text.is_empty());
        let user = user.map(|text| text.parse::<UserId>());
        let no_id = |_| Refusal::invalid_at("query", "user_id", "is not an id");
        let from = time("from", self.from.as_deref(), false)?;
        let to = time("to", self.to.as_deref(), true)?;
        let action_type = self.action_type.map(named::<ActionType>);
        let status = self.status.map(named::<ActionStatus>);
        Ok(Filter {
            app_id: self.app_id,
            action_type: action_type.transpose().map_err(unfit("action_type"))?,
            status: status.transpose().map_err(unfit("status"))?,
            tool_name: self.function,
            user: user.transpose().map_err(no_id)?,
            between: Between { from, to },
            search: self.search,
            ..Filter::default()
        })
    }
}

/// What a name of a query says.
pub(super) fn named<T: serde::de::DeserializeOwned>(text: String) -> Result<T, serde_json::Error> {
    serde_json::from_value(serde_json::Value::String(text))
}

/// Where a list goes on.
pub(super) fn cursor_of(text: Option<String>) -> Result<Option<ChainCursor>, Refusal> {
    let no_cursor = |_| Refusal::invalid_at("query", "cursor", "is not one of ours");
    text.map(|text| text.parse()).transpose().map_err(no_cursor)
}

/// The caller's own actions, and those that were done for the caller; what services did for nobody
/// in particular is shown to the tenant's owner and admins. Another member's are for who may read
/// the audit log.
fn whose<'a>(entered: &Entered, label: &'a str, user: Option<UserId>) -> Whose<'a> {
    let is_others = user.is_some() && user != entered.caller.user;
    match entered.caller.answers_for_tenant() {
        _ if is_others && entered.require(READ).is_ok() => Whose::All,
        true => Whose::CallerAndServices(label),
        false => Whose::Caller(label),
    }
}

/// 403 for another member's actions without the scope.
fn may_see(entered: &Entered, user: Option<UserId>) -> Result<(), Refusal> {
    match user {
        Some(user) if entered.caller.user != Some(user) => entered.require(READ),
        _ => Ok(()),
    }
}

/// The caller's actions, newest first
///
/// One answer looks at 5,000 records at most; `next_cursor` says where to go on.
#[utoipa::path(get, path = "/v1/actions", tag = tag::GATEWAY,
    params(ActionsQuery, ActionPageQuery),
    responses((status = 200, body = ActionPage), (status = 401), (status = 403), (status = 422)))]
async fn list(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<ActionsQuery>,
    Query(part): Query<ActionPageQuery>,
) -> Result<Json<ActionPage>, Problem> {
    paging::within("per_page", part.per_page, PER_PAGE_MAX)?;
    paging::from_one("page", part.page)?;
    let ActionPageQuery { page, per_page, cursor } = part;
    let filter = Filter { page, per_page, cursor: cursor_of(cursor)?, ..query.filter()? };
    may_see(&entered, filter.user)?;
    let label = entered.caller.label();
    blocking(app, entered, move |app, entered| {
        let whose = whose(entered, &label, filter.user);
        app.activity.list(&app.system, entered.caller.tenant, whose, &filter)
    })
    .await
}

/// Actions as a file.
#[derive(Serialize, ToSchema)]
struct ActionExport {
    /// The actions, oldest first, each with `leaf_index`, `hash` and its `position` in the journal
    /// besides
    items: Vec<Action>,
    /// The head of the chain when the export began
    head: ExportHead,
}

/// The caller's actions as a file, oldest first
///
/// The same filters as the list. The file is written while it is sent, and ends with the head of
/// the tenant's chain as it was at the beginning, so that each item can be held against the chain
/// later. In CSV that is the row whose first cell is `head`; a text that a spreadsheet would take
/// for a formula has a `'` before it. A body that breaks off is no export.
#[utoipa::path(get, path = "/v1/actions/export", tag = tag::GATEWAY,
    params(ActionsQuery, FormatQuery),
    responses((status = 200, content((ActionExport = "application/json"),
            (String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 401), (status = 403), (status = 422), (status = 503)))]
async fn export_actions(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<ActionsQuery>,
    Query(format): Query<FormatQuery>,
) -> Result<Response, Problem> {
    let filter = query.filter()?;
    may_see(&entered, filter.user)?;
    let format = exporting::format(format.format.as_deref())?;
    let (tenant, label) = (entered.caller.tenant, entered.caller.label());
    let whose = whose(&entered, &label, filter.user);
    let export = app.activity.export_actions(&app.system, tenant, whose, filter, format)?;
    exporting::answer(&app, &entered, export, format, &format!("actions-{tenant}"))
}

async fn counted(app: App, entered: Entered, filter: Filter) -> Result<Json<ActionStats>, Problem> {
    may_see(&entered, filter.user)?;
    let label = entered.caller.label();
    blocking(app, entered, move |app, entered| {
        let whose = whose(entered, &label, filter.user);
        app.activity.stats(&app.system, entered.caller.tenant, whose, &filter)
    })
    .await
}

/// How many actions the caller has done: by how they ended, app, function and day, and for how many
/// credits
///
/// The same filters as the list. One answer looks at 20,000 records at most, the newest first;
/// unless it is `complete`, `next_cursor` says where to go on, and the counts add up.
#[utoipa::path(get, path = "/v1/actions/stats", tag = tag::GATEWAY,
    params(ActionsQuery, CursorQuery),
    responses((status = 200, body = ActionStats), (status = 401), (status = 403), (status = 422)))]
async fn action_stats(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<ActionsQuery>,
    Query(part): Query<CursorQuery>,
) -> Result<Json<ActionStats>, Problem> {
    let filter = Filter { cursor: cursor_of(part.cursor)?, ..query.filter()? };
    counted(app, entered, filter).await
}

/// The same of one app
#[utoipa::path(get, path = "/v1/actions/stats/extension/{app_id}", tag = tag::GATEWAY,
    params(("app_id" = String, Path), ActionsQuery, CursorQuery),
    responses((status = 200, body = ActionStats), (status = 401), (status = 403), (status = 422)))]
async fn action_stats_of_app(
    State(app): State<App>,
    Member(entered): Member,
    Path(app_id): Path<String>,
    Query(query): Query<ActionsQuery>,
    Query(part): Query<CursorQuery>,
) -> Result<Json<ActionStats>, Problem> {
    let filter = Filter { cursor: cursor_of(part.cursor)?, ..query.filter()? };
    counted(app, entered, Filter { app_id: Some(app_id), ..filter }).await
}

/// What an active app of the marketplace has done for everybody
#[utoipa::path(get, path = "/v1/actions/stats/marketplace/{app_id}", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = AppFigures), (status = 401), (status = 403), (status = 404)))]
async fn action_stats_of_listing(
    State(app): State<App>,
    Service(_entered): Service,
    Path(app_id): Path<String>,
) -> Result<Json<AppFigures>, Problem> {
    Ok(Json(app.market.figures(&app.system, &app_id).await?))
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
        app.activity.get(
            &app.system,
            entered.caller.tenant,
            whose(entered, &label, None),
            &trace_id,
        )
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
pub(super) async fn blocking<T: Send + 'static>(
    app: App,
    entered: Entered,
    read: impl FnOnce(&App, &Entered) -> Result<T, Refusal> + Send + 'static,
) -> Result<Json<T>, Problem> {
    let read = tokio::task::spawn_blocking(move || read(&app, &entered));
    Ok(Json(read.await.map_err(|_| Refusal::crashed())??))
}
