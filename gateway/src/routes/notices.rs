//! `/v1/internal/notify` and `/v1/me/notices`: what apps tell users.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use keeping::notices::{KEPT_MAX, Notice, Notices, Notify};
use serde::{Deserialize, Serialize};
use supervision::{Entity as _, Refusal};
use types::{UserId, base32, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::standing::{Named, standing};
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Member, Service};
use crate::extract::{JsonBody, Query};
use crate::once::{self, Key};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// Notices that are listed unless told.
const LISTED_DEFAULT: usize = 50;
/// What notifying is called in keys.
const NOTIFY: &str = "notify";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(notify)).routes(routes!(my_notices))
}

/// What a user is told.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"user_id": "imp_u_00000000000000000000000001",
    "message": "Your report is ready", "extension_id": "shelf"}))]
struct NotifyRequest {
    /// Whom
    user_id: String,
    /// Plain text, 1 to 2,000 characters
    message: String,
    /// Which of the app's sorts of notices it is
    #[serde(default = "default_channel")]
    channel: String,
    /// Which app tells it: the one in `X-Extension-ID` when empty, or none
    #[serde(default)]
    extension_id: String,
}

fn default_channel() -> String {
    "default".to_owned()
}

/// A notice that was told.
#[derive(Serialize, ToSchema)]
struct NotifyView {
    notice_id: String,
    user_id: UserId,
    channel: String,
    /// RFC 3339
    created_at: String,
}

/// A notice.
#[derive(Serialize, ToSchema)]
struct NoticeView {
    notice_id: String,
    /// The app that told it; null when none did
    app_id: Option<String>,
    channel: String,
    message: String,
    /// RFC 3339
    created_at: String,
}

impl NoticeView {
    fn of(notice: &Notice) -> Self {
        Self {
            notice_id: base32(notice.id),
            app_id: notice.app.as_ref().map(ToString::to_string),
            channel: notice.channel.clone(),
            message: notice.message.as_str().to_owned(),
            created_at: rfc3339(notice.at),
        }
    }
}

/// The last notices.
#[derive(Serialize, ToSchema)]
struct NoticesView {
    notices: Vec<NoticeView>,
}

/// How many.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct NoticesQuery {
    /// 1 to 100, default 50
    limit: Option<usize>,
}

/// Tell a user something
///
/// It stands on the user's event feed as `notification`, in `GET /v1/me/notices`, and goes by mail
/// when the user's setting `notify_by_mail` is true and their address is confirmed. The tenant is
/// the one in `X-Tenant-ID`, or the user's own. One app tells one user at most 60 things an hour:
/// 429 `too_many_notices`.
#[utoipa::path(post, path = "/v1/internal/notify", tag = tag::GATEWAY,
    security(("service_token" = [])), request_body = NotifyRequest,
    responses((status = 200, body = NotifyView), (status = 401), (status = 403), (status = 404),
        (status = 422), (status = 429)))]
async fn notify(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<NotifyRequest>,
) -> Result<Response<Body>, Problem> {
    let NotifyRequest { user_id, message, channel, extension_id } = body.value;
    let named =
        Named { place: "body", extension_id: &extension_id, user_id: &user_id, ..Named::default() };
    let of = standing(&app, entered, named).await?;
    let (tenant, user) = (of.tenant, of.user()?);
    let id = once::id_for(&app, of.key(&key, NOTIFY, &body.bytes).as_ref());
    let by_mail = app.identity.wants_mail(tenant, user).await?;
    let notify = Notify { tenant, user, id, app: of.app.clone(), channel, message, by_mail };
    let address = Notices::address(tenant, user);
    let view = move |it: Notice| NotifyView {
        notice_id: base32(it.id),
        user_id: user,
        channel: it.channel,
        created_at: rfc3339(it.at),
    };
    ask_once!(app, key, of.entered, NOTIFY, body.bytes, address, notify, StatusCode::OK, view)
}

/// What apps have told the caller, the newest first: at most the last 100
#[utoipa::path(get, path = "/v1/me/notices", tag = tag::GATEWAY, params(NoticesQuery),
    responses((status = 200, body = NoticesView), (status = 401), (status = 403), (status = 422)))]
async fn my_notices(
    State(app): State<App>,
    Member(entered): Member,
    Query(query): Query<NoticesQuery>,
) -> Result<Json<NoticesView>, Problem> {
    entered.require("extensions:read")?;
    paging::within("limit", query.limit, KEPT_MAX)?;
    let limit = query.limit.unwrap_or(LISTED_DEFAULT);
    let address = Notices::address(entered.caller.tenant, entered.user()?);
    // Who was told nothing wakes no actor.
    if app.system.locate(Notices::KIND, address.id()).is_none() {
        return Ok(Json(NoticesView { notices: Vec::new() }));
    }
    let origin = app.origin(&entered.caller, entered.request);
    let newest = move |it: &Notices| it.newest(limit);
    let found = app.system.directory().look(&address, origin, newest).await;
    let found = found.map_err(|refusal: Refusal| Problem(refusal))?;
    Ok(Json(NoticesView { notices: found.iter().map(NoticeView::of).collect() }))
}
