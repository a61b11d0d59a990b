//! `/v1/internal/skeleton`: what an app's runtime keeps at hand about a user, section by section.
//!
//! A section's version is its `ETag`; `If-Match` makes a change depend on it.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use keeping::skeleton::{Section, SetSection, Skeleton};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::{Entity as _, Refusal};
use types::{JsonBytes, UserId, home_of, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::standing::{Named, Standing, standing};
use super::store::{insisted, with_etag};
use crate::app::App;
use crate::ask_once;
use crate::authenticate::Service;
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(section, set_section))
}

/// A section.
#[derive(Serialize, ToSchema)]
struct SectionView {
    user_id: UserId,
    section: String,
    /// What the app's runtime has put there
    #[schema(value_type = Object)]
    data: JsonBytes,
    /// One more with each change
    version: u64,
    /// RFC 3339
    updated_at: String,
    /// Until when it is there; null for good
    expires_at: Option<String>,
}

impl SectionView {
    fn of(user_id: UserId, section: &str, it: &Section) -> Self {
        Self {
            user_id,
            section: section.to_owned(),
            data: it.data.clone(),
            version: it.version,
            updated_at: rfc3339(it.updated_at),
            expires_at: it.until.map(rfc3339),
        }
    }
}

/// Of which app.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SectionQuery {
    /// The app in `X-Extension-ID` when left out
    #[serde(default)]
    extension_id: String,
}

/// What a section is to hold.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"extension_id": "shelf", "data": {"unread": 3}, "ttl_seconds": 3600}))]
struct UpdateSkeletonRequest {
    /// The app in `X-Extension-ID` when empty
    #[serde(default)]
    extension_id: String,
    /// All of it: at most 64 KiB
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// For how long it is there, 1 to 2,592,000; for good when left out
    #[serde(default)]
    ttl_seconds: Option<u64>,
}

fn address(of: &Standing) -> Result<supervision::Address<Skeleton>, Refusal> {
    Ok(Skeleton::address(of.tenant, of.user()?, of.app()?))
}

/// A section that an app's runtime keeps about a user
///
/// The tenant is the one in `X-Tenant-ID`, or the user's own. 404 once its time is over.
#[utoipa::path(get, path = "/v1/internal/skeleton/{user_id}/{section}", tag = tag::GATEWAY,
    operation_id = "skeleton_section",
    security(("service_token" = [])),
    params(("user_id" = String, Path), ("section" = String, Path), SectionQuery),
    responses((status = 200, body = SectionView), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn section(
    State(app): State<App>,
    Service(entered): Service,
    Path((user_id, section)): Path<(String, String)>,
    Query(query): Query<SectionQuery>,
) -> Result<Response<Body>, Problem> {
    let named = Named {
        place: "query",
        extension_id: &query.extension_id,
        user_id: &user_id,
        ..Named::default()
    };
    let of = standing(&app, entered, named).await?;
    let (address, missing) = (address(&of)?, || Refusal::not_found("section"));
    if app.system.locate(Skeleton::KIND, address.id()).is_none() {
        return Err(missing().into());
    }
    let (now, name) = (app.system.now_in(home_of(of.tenant)), section.clone());
    let look = move |it: &Skeleton| it.section(&name, now).cloned();
    let found = app.system.directory().look(&address, of.origin(&app), look).await?;
    let found = found.ok_or_else(missing)?;
    let view = SectionView::of(of.user()?, &section, &found);
    Ok(with_etag(Json(view).into_response(), found.version))
}

/// Set what a section holds, whole
///
/// 409 `version_conflict`, with the present `version`, when it is not the one that `If-Match`
/// names; `"0"` is that of a section that is not there.
#[utoipa::path(put, path = "/v1/internal/skeleton/{user_id}/{section}", tag = tag::GATEWAY,
    operation_id = "set_skeleton_section",
    security(("service_token" = [])),
    params(("user_id" = String, Path), ("section" = String, Path)),
    request_body = UpdateSkeletonRequest,
    responses((status = 200, body = SectionView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn set_section(
    State(app): State<App>,
    Service(entered): Service,
    Path((user_id, section)): Path<(String, String)>,
    headers: HeaderMap,
    key: Key,
    body: JsonBody<UpdateSkeletonRequest>,
) -> Result<Response<Body>, Problem> {
    let UpdateSkeletonRequest { extension_id, data, ttl_seconds } = body.value;
    let if_match = insisted(&headers, None)?;
    let named =
        Named { place: "body", extension_id: &extension_id, user_id: &user_id, ..Named::default() };
    let of = standing(&app, entered, named).await?;
    let (user, address) = (of.user()?, address(&of)?);
    let operation = format!("set section {user} {section}");
    let data = JsonBytes::from(Value::Object(data));
    let set = SetSection { name: section.clone(), data, ttl_seconds, if_match };
    let view = move |it: Section| SectionView::of(user, &section, &it);
    ask_once!(app, key, of.entered, &operation, body.bytes, address, set, StatusCode::OK, view)
}
