//! `/v1/agencies`: who looks after users of several tenants.
//!
//! Operators, and services that act for the installation, make agencies and see all of them.
//! Everybody else sees the one that they belong to, and any other as one that does not exist.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::agency::{self, Agency, AgencyRow, CreateAgency, SetAgencySettings};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::Refusal;
use types::{CallerKind, Page, PlainText, TenantId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Entered, Member, Someone};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 500;
/// The longest address of a picture, in characters.
const URL_CHARS_MAX: usize = 1_024;
/// The longest name of a tier, in characters.
const TIER_CHARS_MAX: usize = 32;
/// The most days that anything is kept: ten years.
const RETENTION_DAYS_MAX: u32 = 3_650;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(mine))
        .routes(routes!(one))
        .routes(routes!(change_settings))
}

/// An agency, with exactly the documented keys.
#[derive(Serialize, ToSchema)]
struct AgencyResponse {
    agency_id: String,
    display_name: String,
    domain: Option<String>,
    #[schema(value_type = Option<Object>)]
    settings: Option<Value>,
    created_at: String,
}

impl From<AgencyRow> for AgencyResponse {
    fn from(agency: AgencyRow) -> Self {
        Self {
            agency_id: agency.id,
            display_name: agency.display_name,
            domain: agency.domain,
            settings: agency.settings.map(|settings| settings.value()),
            created_at: rfc3339(agency.created_at),
        }
    }
}

/// Whether the caller acts for the installation: an operator, or a service that named no tenant and
/// no user.
fn is_installation(entered: &Entered) -> bool {
    let caller = &entered.caller;
    let is_service = caller.kind == CallerKind::Service && caller.tenant == TenantId::SYSTEM;
    caller.is_operator() || is_service && caller.user.is_none()
}

fn require_installation(entered: &Entered) -> Result<(), Refusal> {
    let refusal = || Refusal::forbidden("operators and services make agencies and change them");
    is_installation(entered).then_some(()).ok_or_else(refusal)
}

/// The agency that the caller belongs to.
fn own(app: &App, entered: &Entered) -> Option<AgencyRow> {
    let id = agency::agency_of(&app.system, entered.caller.user?)?;
    agency::agency(&app.system, &id)
}

/// Which part of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AgenciesQuery {
    /// How many at most: 1 to 500
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<usize>,
    /// How many to leave out before them
    offset: Option<usize>,
}

/// The agencies, by id: all of them to operators and services, to others the one they belong to
#[utoipa::path(get, path = "/v1/agencies", tag = tag::GATEWAY, params(AgenciesQuery),
    responses((status = 200, body = Vec<AgencyResponse>), (status = 401), (status = 422)))]
async fn list(
    State(app): State<App>,
    Someone(entered): Someone,
    Query(query): Query<AgenciesQuery>,
) -> Result<Json<Vec<AgencyResponse>>, Problem> {
    paging::within("limit", query.limit, PAGE_MAX)?;
    let page = Page::by_offset(query.limit, query.offset, PAGE_DEFAULT, PAGE_MAX);
    let all = match is_installation(&entered) {
        true => agency::agencies(&app.system),
        false => own(&app, &entered).into_iter().collect(),
    };
    Ok(Json(page.of(all).into_iter().map(AgencyResponse::from).collect()))
}

/// A new agency.
#[derive(Deserialize, ToSchema)]
struct CreateAgencyRequest {
    /// Its id for ever: 3 to 50 of a-z, 0-9, - and _, a letter first
    #[schema(min_length = 3, max_length = 50)]
    agency_id: String,
    /// What people call it: 1 to 255 characters
    #[schema(min_length = 1, max_length = 255)]
    display_name: String,
    /// Where it is at home
    #[serde(default)]
    domain: Option<String>,
    /// Settings that its users' clients read: at most 16 KiB
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
}

/// Make an agency
///
/// For operators, and services that name no tenant. Users are put into it by `agency_id` in
/// `POST` and `PATCH /v1/users`.
#[utoipa::path(post, path = "/v1/agencies", tag = tag::GATEWAY, request_body = CreateAgencyRequest,
    responses((status = 201, body = AgencyResponse), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn create(
    State(app): State<App>,
    Someone(entered): Someone,
    key: Key,
    body: JsonBody<CreateAgencyRequest>,
) -> Result<Response, Problem> {
    require_installation(&entered)?;
    let CreateAgencyRequest { agency_id: id, display_name, domain, settings } = body.value;
    let settings = settings.map(|settings| Value::from(settings).into());
    let address = Agency::address(&id)?;
    let command = CreateAgency { id, display_name, domain, settings };
    ask_once!(
        app,
        key,
        entered,
        "create_agency",
        body.bytes,
        address,
        command,
        StatusCode::CREATED,
        AgencyResponse::from
    )
}

/// The agency that the caller belongs to
#[utoipa::path(get, path = "/v1/agencies/me", tag = tag::GATEWAY,
    responses((status = 200, body = AgencyResponse), (status = 401), (status = 404)))]
async fn mine(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<AgencyResponse>, Problem> {
    let agency = own(&app, &entered).ok_or_else(|| Refusal::not_found("agency"))?;
    Ok(Json(agency.into()))
}

/// An agency: one's own; any to operators and services
#[utoipa::path(get, path = "/v1/agencies/{agency_id}", tag = tag::GATEWAY,
    params(("agency_id" = String, Path)),
    responses((status = 200, body = AgencyResponse), (status = 401), (status = 404)))]
async fn one(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(agency_id): Path<String>,
) -> Result<Json<AgencyResponse>, Problem> {
    let found = match is_installation(&entered) {
        true => agency::agency(&app.system, &agency_id),
        false => own(&app, &entered).filter(|agency| agency.id == agency_id),
    };
    Ok(Json(found.ok_or_else(|| Refusal::not_found("agency"))?.into()))
}

/// What changes; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
struct AgencySettingsUpdate {
    /// The address of a picture
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 1024)]
    logo_url: Option<PlainText<URL_CHARS_MAX>>,
    /// The same for dark pages
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 1024)]
    logo_dark_url: Option<PlainText<URL_CHARS_MAX>>,
    /// For its clients
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 32)]
    compliance_tier: Option<PlainText<TIER_CHARS_MAX>>,
    /// For its clients: this server keeps what it keeps
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3650)]
    retention_days: Option<u32>,
    /// Whatever else, an object
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    extra: Option<Map<String, Value>>,
}

impl AgencySettingsUpdate {
    fn settings(self) -> Result<Map<String, Value>, Refusal> {
        if self.retention_days.is_some_and(|days| !(1..=RETENTION_DAYS_MAX).contains(&days)) {
            let message = format!("must be 1 to {RETENTION_DAYS_MAX}");
            return Err(Refusal::invalid("retention_days", message));
        }
        let named = [
            ("logo_url", self.logo_url.map(|it| Value::String(it.into_string()))),
            ("logo_dark_url", self.logo_dark_url.map(|it| Value::String(it.into_string()))),
            ("compliance_tier", self.compliance_tier.map(|it| Value::String(it.into_string()))),
            ("retention_days", self.retention_days.map(Value::from)),
            ("extra", self.extra.map(Value::Object)),
        ];
        let given = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Ok(given.collect())
    }
}

/// Change an agency's settings
///
/// For operators, and services that name no tenant.
#[utoipa::path(put, path = "/v1/agencies/{agency_id}/settings", tag = tag::GATEWAY,
    params(("agency_id" = String, Path)), request_body = AgencySettingsUpdate,
    responses((status = 200, body = AgencyResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn change_settings(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(agency_id): Path<String>,
    body: JsonBody<AgencySettingsUpdate>,
) -> Result<Json<AgencyResponse>, Problem> {
    require_installation(&entered)?;
    let known = agency::agency(&app.system, &agency_id);
    let known = known.ok_or_else(|| Refusal::not_found("agency"))?;
    let settings = Value::from(body.value.settings()?).into();
    let (agencies, origin) =
        (app.system.directory::<Agency>(), app.origin(&entered.caller, entered.request));
    let address = Agency::address(&known.id)?;
    let changed = agencies.ask(&address, SetAgencySettings { settings }, origin).await?;
    Ok(Json(changed.into()))
}
