//! `/v1/me` and `/v1/internal/users/{user_id}/settings`: what users set for themselves.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use identity::confirmation_policy::check_settings;
use identity::user::{SetNickname, check_nickname};
use identity::user_settings::{Change, UserSettings};
use market::Principal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::{Class, Refusal};
use types::{CallerKind, JsonBytes, TenantId, UserId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Either, Entered, Service};
use crate::extract::JsonBody;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

/// The largest of the numbers that a user may set.
const NUMBER_MAX: u64 = 1_000_000;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(nickname, set_nickname))
        .routes(routes!(settings, change_settings))
        .routes(routes!(settings_of_user, change_settings_of_user))
}

/// What others may call the caller's user.
#[derive(Serialize, ToSchema)]
struct NicknameResponse {
    nickname: Option<String>,
}

/// The nickname that the user registered with as a developer, if they did.
async fn of_developer(app: &App, entered: &Entered) -> Result<Option<String>, Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    let principal = Principal { user: entered.user()?, tenant: entered.caller.tenant, origin };
    match app.market.profile(&app.system, &principal).await {
        Ok(profile) => Ok(profile.nickname),
        Err(refusal) if refusal.class == Class::Forbidden => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// The caller's nickname; null if there is none
#[utoipa::path(get, path = "/v1/me/nickname", tag = tag::GATEWAY,
    responses((status = 200, body = NicknameResponse), (status = 401), (status = 403)))]
async fn nickname(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<NicknameResponse>, Problem> {
    let nickname = match of_developer(&app, &entered).await? {
        Some(nickname) => Some(nickname),
        None => app.identity.nickname(entered.user()?).await?,
    };
    Ok(Json(NicknameResponse { nickname }))
}

/// A nickname.
#[derive(Deserialize, ToSchema)]
struct NicknameBody {
    /// 3 to 30 of a-z, 0-9, - and _, with a letter or digit at either end
    nickname: String,
}

/// Take a nickname, which is unique; the one before is free again
///
/// 409 `nickname_taken` when it is somebody else's. A developer keeps the nickname that they
/// registered with: 409 `nickname_of_developer`.
#[utoipa::path(put, path = "/v1/me/nickname", tag = tag::GATEWAY, request_body = NicknameBody,
    responses((status = 200, body = NicknameResponse), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn set_nickname(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<NicknameBody>,
) -> Result<Response, Problem> {
    let (user, nickname) = (entered.user()?, body.value.nickname);
    check_nickname(&nickname)?;
    if of_developer(&app, &entered).await?.is_some_and(|known| known != nickname) {
        let message = "a developer keeps the nickname that they registered with";
        return Err(Refusal::conflict("nickname_of_developer", message).into());
    }
    let address = app.identity.user_address(user)?.ok_or_else(|| Refusal::not_found("user"))?;
    let (caller, place) = (&entered.caller, address.place());
    let once = once::begin(&app, key, caller, place, "set_nickname", &body.bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    app.identity.claim_nickname(&address, user, &nickname, origin.clone()).await?;
    let (users, answer) = (app.system.directory(), NicknameResponse { nickname: Some(nickname) });
    let set = SetNickname { nickname: answer.nickname.clone().unwrap_or_default() };
    let released = users.ask(&address, set, origin.clone()).await?;
    if let Some(before) = released {
        app.identity.release_nickname(user, &before, origin.clone()).await?;
    }
    let Once::Ticketed(ticketed) = once else { return Ok(Json(answer).into_response()) };
    let render = move |()| once::record(StatusCode::OK, &answer);
    let recorded = users.ask_once(&address, identity::user::Conclude {}, origin, ticketed, render);
    once::response(&recorded.await?)
}

/// What a user may set; null when it is not.
#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
struct Settings {
    /// Whether what is chosen below waits for the user; a role may enforce it or switch it off
    confirmation_enabled: Option<bool>,
    /// Which sorts of functions: `{"destructive": true, "write": true, "all": false}`, which is
    /// what counts for those that are left out
    #[schema(value_type = Option<Object>)]
    confirmation_actions: Option<Map<String, Value>>,
    /// By `app.function` or `app`: true or `"always"`, false or `"never"`; at most 200
    #[schema(value_type = Option<Object>)]
    confirmation_overrides: Option<Map<String, Value>>,
    /// For the platform's clients
    kav_max_retries: Option<u64>,
    /// How long something waits, in seconds: 60 to 86,400; 900 if it is not set
    confirmation_ttl: Option<u64>,
    /// For the platform's clients
    routing_context: Option<u64>,
    /// For the platform's clients
    max_tool_rounds: Option<u64>,
    /// For the platform's clients
    max_response_tokens: Option<u64>,
    /// Whether what apps tell the user goes by mail, too
    notify_by_mail: Option<bool>,
}

impl Settings {
    fn check(&self) -> Result<(), Refusal> {
        let set = self.given()?.value();
        check_settings(set.as_object().ok_or_else(Refusal::crashed)?)?;
        let numbers = [
            ("kav_max_retries", self.kav_max_retries),
            ("routing_context", self.routing_context),
            ("max_tool_rounds", self.max_tool_rounds),
            ("max_response_tokens", self.max_response_tokens),
        ];
        match numbers.iter().find(|(_, number)| number.is_some_and(|it| it > NUMBER_MAX)) {
            Some((field, _)) => Err(Refusal::invalid(field, format!("is more than {NUMBER_MAX}"))),
            None => Ok(()),
        }
    }

    /// Whether it changes what waits for a person.
    fn is_about_confirmations(&self) -> bool {
        self.confirmation_enabled.is_some()
            || self.confirmation_actions.is_some()
            || self.confirmation_overrides.is_some()
            || self.confirmation_ttl.is_some()
    }

    /// What of it is set.
    fn given(&self) -> Result<JsonBytes, Refusal> {
        let all = serde_json::to_value(self).map_err(|_| Refusal::crashed())?;
        let given = all.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let given: Map<_, _> = given.map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Value::from(given).into())
    }
}

/// A user's settings in a tenant.
#[derive(Serialize, ToSchema)]
struct SettingsResponse {
    settings: Settings,
}

impl SettingsResponse {
    fn of(settings: &JsonBytes) -> Self {
        Self { settings: settings.read().unwrap_or_default() }
    }
}

async fn read(app: &App, user: UserId, tenant: TenantId) -> Result<SettingsResponse, Refusal> {
    Ok(SettingsResponse::of(&app.identity.user_settings(user, tenant).await?))
}

async fn change(
    app: &App,
    entered: &Entered,
    user: UserId,
    changed: Settings,
) -> Result<Json<SettingsResponse>, Problem> {
    changed.check()?;
    let is_machine = matches!(entered.caller.kind, CallerKind::ApiKey | CallerKind::Agent);
    if is_machine && changed.is_about_confirmations() {
        let message = "what waits for a person is set by a person, not by a key";
        return Err(Refusal::forbidden(message).into());
    }
    let address = UserSettings::address(user, entered.caller.tenant);
    let origin = app.origin(&entered.caller, entered.request);
    let change = Change { changed: changed.given()? };
    let settings = app.system.directory().ask(&address, change, origin).await?;
    Ok(Json(SettingsResponse::of(&settings)))
}

/// What the caller's user has set in the caller's tenant
#[utoipa::path(get, path = "/v1/me/settings", tag = tag::GATEWAY,
    responses((status = 200, body = SettingsResponse), (status = 401), (status = 403)))]
async fn settings(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<SettingsResponse>, Problem> {
    Ok(Json(read(&app, entered.user()?, entered.caller.tenant).await?))
}

/// Change settings of one's own in the caller's tenant; what is left out or null stays
///
/// What waits for a person (`confirmation_…`) is not changed by an API key: 403.
#[utoipa::path(patch, path = "/v1/me/settings", tag = tag::GATEWAY, request_body = Settings,
    responses((status = 200, body = SettingsResponse), (status = 401), (status = 403),
        (status = 422)))]
async fn change_settings(
    State(app): State<App>,
    Either(entered): Either,
    body: JsonBody<Settings>,
) -> Result<Json<SettingsResponse>, Problem> {
    let user = entered.user()?;
    change(&app, &entered, user, body.value).await
}

/// A member of the tenant that the service acts in. 404 for anybody else.
async fn member(app: &App, entered: &Entered, text: &str) -> Result<UserId, Refusal> {
    let user = text.parse().map_err(|_| Refusal::not_found("user"))?;
    app.identity.member(entered.caller.tenant, user).await.map(|_| user)
}

/// What a member of the service's tenant has set
#[utoipa::path(get, path = "/v1/internal/users/{user_id}/settings", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), security(("service_token" = [])),
    responses((status = 200, body = SettingsResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn settings_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Path(user_id): Path<String>,
) -> Result<Json<SettingsResponse>, Problem> {
    let user = member(&app, &entered, &user_id).await?;
    Ok(Json(read(&app, user, entered.caller.tenant).await?))
}

/// Change settings of a member of the service's tenant; what is left out or null stays
#[utoipa::path(patch, path = "/v1/internal/users/{user_id}/settings", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), security(("service_token" = [])),
    request_body = Settings,
    responses((status = 200, body = SettingsResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn change_settings_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Path(user_id): Path<String>,
    body: JsonBody<Settings>,
) -> Result<Json<SettingsResponse>, Problem> {
    let user = member(&app, &entered, &user_id).await?;
    change(&app, &entered, user, body.value).await
}
