//! `/v1/audit`: a tenant's audit log, for its members with the scope `audit:read`, for services
//! that act in it, and for operators. One route for the platform's and the agents' clients: the
//! union of their filters.

use activity::{AuditEntry, AuditFilter, AuditPage, Between, ExportHead, PER_PAGE_MAX};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use supervision::{Refusal, Timestamp};
use types::{Page, TenantId, parse_rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::actions::{blocking, cursor_of, named};
use crate::app::App;
use crate::authenticate::{Either, Entered};
use crate::exporting;
use crate::extract::Query;
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// What reading the log needs.
pub(super) const READ: &str = "audit:read";
/// A day, in milliseconds.
const DAY_MS: i64 = 86_400_000;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_audit)).routes(routes!(export_audit))
}

/// A time of a query: RFC 3339, or a day alone, `YYYY-MM-DD` in UTC, of which the end is meant
/// where `is_end`.
pub(super) fn time(
    name: &str,
    text: Option<&str>,
    is_end: bool,
) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let of_day = || {
        let day = parse_rfc3339(&format!("{text}T00:00:00Z"))?;
        Some(if is_end { day.plus_ms(DAY_MS) } else { day })
    };
    let found = parse_rfc3339(text).or_else(of_day);
    let unfit = || Refusal::invalid_at("query", name, "must be an RFC 3339 time or a day");
    found.map(Some).ok_or_else(unfit)
}

/// Which entries.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct AuditQuery {
    /// Who did it, or for whom: an id, or a label such as `service/notes`
    actor_id: Option<String>,
    /// The same
    actor: Option<String>,
    /// What was done: `wallet.debited`, `wallet.*`, a command, or a function
    action: Option<String>,
    /// The sort of thing that it was done to
    target_type: Option<String>,
    /// The thing that it was done to
    target_id: Option<String>,
    /// `api`, `service` or `system`
    source: Option<String>,
    /// `success` or `error`
    status: Option<String>,
    /// Of this app
    app_id: Option<String>,
    /// Of this request
    trace_id: Option<String>,
    /// Not before: RFC 3339, or a day
    from: Option<String>,
    /// The same
    since: Option<String>,
    /// Before: RFC 3339; of a day, until its end
    to: Option<String>,
    /// The same
    until: Option<String>,
    /// The tenant, for operators; everybody else's is the credential's own
    tenant_id: Option<String>,
}

/// Which part of them.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct AuditPageQuery {
    /// From 1
    #[param(minimum = 1)]
    page: Option<usize>,
    /// 1 to 200, default 50
    #[param(minimum = 1, maximum = 200)]
    per_page: Option<usize>,
    /// The same
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// How many to leave out first
    offset: Option<usize>,
    /// Where the page before ended
    cursor: Option<String>,
}

impl AuditQuery {
    fn filter(&self) -> Result<AuditFilter, Refusal> {
        let unfit = |_| Refusal::invalid_at("query", "status", "is not known");
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let from = time("from", self.from.as_deref(), false)?;
        let since = time("since", self.since.as_deref(), false)?;
        let to = time("to", self.to.as_deref(), true)?;
        let until = time("until", self.until.as_deref(), true)?;
        Ok(AuditFilter {
            actor: filled(&self.actor_id).or_else(|| filled(&self.actor)),
            action: filled(&self.action),
            target_type: filled(&self.target_type),
            target_id: filled(&self.target_id),
            source: filled(&self.source),
            status: self.status.clone().map(named).transpose().map_err(unfit)?,
            app_id: filled(&self.app_id),
            trace_id: filled(&self.trace_id),
            between: Between { from: from.max(since), to: [to, until].into_iter().flatten().min() },
            ..AuditFilter::default()
        })
    }

    /// Whose log, if the caller may read it.
    fn tenant(&self, entered: &Entered) -> Result<TenantId, Refusal> {
        let named = self.tenant_id.as_deref().unwrap_or_default();
        if entered.caller.is_operator() {
            if matches!(named, "" | "default") {
                return Ok(entered.caller.tenant);
            }
            return named.parse().map_err(|_| Refusal::not_found("tenant"));
        }
        entered.require(READ)?;
        entered.tenant_named(named)
    }
}

/// The tenant's audit log, newest first
///
/// Takes the scope `audit:read`. Every record of the tenant's chain is an entry, with its link and
/// its place among the leaves of the chain's Merkle tree: the log is tamper-evident, and
/// `/v1/actions/verify` verifies it. One answer looks at 5,000 records at most; `next_cursor` says
/// where to go on.
#[utoipa::path(get, path = "/v1/audit", tag = tag::GATEWAY, params(AuditQuery, AuditPageQuery),
    responses((status = 200, body = AuditPage), (status = 401), (status = 403), (status = 422)))]
async fn list_audit(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<AuditQuery>,
    Query(part): Query<AuditPageQuery>,
) -> Result<Json<AuditPage>, Problem> {
    let (tenant, filter) = (query.tenant(&entered)?, query.filter()?);
    paging::within("per_page", part.per_page, PER_PAGE_MAX)?;
    paging::within("limit", part.limit, PER_PAGE_MAX)?;
    paging::from_one("page", part.page)?;
    let per_page = part.per_page.or(part.limit);
    let page = Page::by_number(part.page, per_page, paging::PAGE_DEFAULT, PER_PAGE_MAX);
    let filter = AuditFilter {
        per_page: Some(page.limit),
        offset: page.offset.saturating_add(part.offset.unwrap_or(0)),
        cursor: cursor_of(part.cursor)?,
        ..filter
    };
    blocking(app, entered, move |app, _| app.activity.audit(&app.system, tenant, &filter)).await
}

/// What an export is written as.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct FormatQuery {
    /// `json` (the default), `csv` or `ndjson`
    pub(super) format: Option<String>,
}

/// An audit log as a file.
#[derive(Serialize, ToSchema)]
struct AuditExport {
    /// The entries, oldest first, each with its `position` in the journal besides
    items: Vec<AuditEntry>,
    /// The head of the chain when the export began
    head: ExportHead,
}

/// The tenant's audit log as a file, oldest first
///
/// Takes the scope `audit:read` and the same filters. The file is written while it is sent, and
/// ends with the head of the chain as it was at the beginning: its last link and its Merkle root.
/// In CSV that is the row whose first cell is `head`; a text that a spreadsheet would take for a
/// formula has a `'` before it. A body that breaks off is no export.
#[utoipa::path(get, path = "/v1/audit/export", tag = tag::GATEWAY,
    params(AuditQuery, FormatQuery),
    responses((status = 200, content((AuditExport = "application/json"),
            (String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 401), (status = 403), (status = 422), (status = 503)))]
async fn export_audit(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<AuditQuery>,
    Query(format): Query<FormatQuery>,
) -> Result<Response, Problem> {
    let (tenant, filter) = (query.tenant(&entered)?, query.filter()?);
    let format = exporting::format(format.format.as_deref())?;
    let export = app.activity.export_audit(&app.system, tenant, filter, format)?;
    exporting::answer(&app, &entered, export, format, &format!("audit-{tenant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_a_day_of_which_the_end_is_meant_at_the_end() {
        let at = |text: &str| parse_rfc3339(text);
        let day = Some("2026-01-31");
        assert_eq!(time("from", day, false).unwrap(), at("2026-01-31T00:00:00Z"));
        assert_eq!(time("to", day, true).unwrap(), at("2026-02-01T00:00:00Z"));
        let exact = Some("2026-01-31T10:00:00+01:00");
        assert_eq!(time("to", exact, true).unwrap(), at("2026-01-31T09:00:00Z"));
        assert_eq!(time("to", Some(""), true).unwrap(), None);
        assert!(time("to", Some("soon"), true).unwrap_err().message.starts_with("to: "));
    }
}
