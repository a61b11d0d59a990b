//! `/v1/auth`: registering, logging in, staying in, logging out, and the public keys.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use billing::sign_up::{self, SignedUp};
use identity::factor_login::Shown;
use identity::login::{LoginAttempt, NewSession, TokenLife, Tokens};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervision::{Refusal, RequestRef};
use types::{AppId, Caller, SessionId, TenantId, UserId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::not_kept;
use crate::app::App;
use crate::authenticate::{Anyone, Member, Service};
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

/// Stands for the tenant of a name that is nobody's. No tenant has this number.
const NOWHERE: TenantId = TenantId(u128::MAX);
/// What tells a device that has logged in before.
const DEVICE_TOKEN: HeaderName = HeaderName::from_static("x-device-token");

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(me))
        .routes(routes!(register))
        .routes(routes!(jwks))
}

/// E-mail address and password.
#[derive(Deserialize, ToSchema)]
pub(super) struct LoginRequest {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
    /// The password
    password: String,
    /// The tenant to log in to, by its id or its name; `default` is the user's own
    #[serde(default)]
    tenant_id: String,
    /// For users with a second factor: the authenticator app's code, or a recovery code
    #[serde(default)]
    otp: Option<String>,
}

/// What a client keeps.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenResponse {
    /// The access token, a JWT
    access_token: String,
    /// The refresh token; single use
    refresh_token: String,
    /// Always `bearer`
    token_type: &'static str,
    /// The access token's life, in seconds
    expires_in: u64,
}

impl From<Tokens> for TokenResponse {
    fn from(tokens: Tokens) -> Self {
        let Tokens { access_token, refresh_token, expires_in, .. } = tokens;
        Self { access_token, refresh_token, token_type: "bearer", expires_in }
    }
}

/// Tokens are for the client alone: no cache keeps them.
pub(super) fn private<T: Serialize>(status: StatusCode, body: T) -> Response {
    not_kept((status, Json(body)).into_response())
}

/// The tenant that a login names by its id or its name, if it names one.
pub(super) async fn tenant_named(app: &App, text: &str) -> Result<Option<TenantId>, Refusal> {
    match (text, text.parse()) {
        ("" | "default", _) => Ok(None),
        (_, Ok(tenant)) => Ok(Some(tenant)),
        (name, Err(_)) => {
            let unfit = |_| Refusal::invalid("tenant_id", "is no tenant's id or name");
            AppId::new(name).map_err(unfit)?;
            // An unknown name is answered as a tenant that one does not belong to.
            Ok(Some(app.identity.tenant_named(name).await?.unwrap_or(NOWHERE)))
        }
    }
}

/// What tells the device the next time, as a header: bodies have exactly the documented fields.
pub(super) fn with_device_token(mut response: Response, token: Option<&str>) -> Response {
    if let Some(Ok(token)) = token.map(HeaderValue::from_str) {
        response.headers_mut().insert(DEVICE_TOKEN, token);
    }
    response
}

/// Log in with e-mail address and password
///
/// A user with second factors is refused with 401 `second_factor_required` and a `login_token` for
/// `/v1/auth/login/factor`, unless a code comes along in `otp`. The answer's header
/// `X-Device-Token`, sent along with the next login, gives the device attempts of its own.
#[utoipa::path(post, path = "/v1/auth/login", tag = tag::GATEWAY, request_body = LoginRequest,
    responses((status = 200, body = TokenResponse), (status = 401), (status = 403), (status = 422),
        (status = 429)), security(()))]
async fn login(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<LoginRequest>,
) -> Result<Response, Problem> {
    let LoginRequest { email, password, tenant_id, otp } = body.value;
    let tenant = tenant_named(&app, &tenant_id).await?;
    let life = TokenLife::Standard;
    let tokens = log_in(&app, who, Credentials { email, password, otp, tenant, life }).await?;
    let device_token = tokens.device_token.clone();
    let response = private(StatusCode::OK, TokenResponse::from(tokens));
    Ok(with_device_token(response, device_token.as_deref()))
}

/// What somebody logs in with.
pub(super) struct Credentials {
    pub(super) email: String,
    pub(super) password: String,
    pub(super) otp: Option<String>,
    pub(super) tenant: Option<TenantId>,
    pub(super) life: TokenLife,
}

pub(super) async fn log_in(
    app: &App,
    who: Anyone,
    credentials: Credentials,
) -> Result<Tokens, Refusal> {
    let Anyone { request, address, device, device_token } = who;
    let Credentials { email, password, otp, tenant, life } = credentials;
    let attempt = LoginAttempt { email, password, tenant, address, device, life, request };
    app.identity.login_showing(attempt, Shown { otp, device_token }).await
}

/// A refresh token.
#[derive(Deserialize, ToSchema)]
pub(super) struct RefreshRequest {
    /// The refresh token
    pub(super) refresh_token: String,
}

/// Exchange a refresh token for a new pair; 401 is the only "logged out" answer
#[utoipa::path(post, path = "/v1/auth/refresh", tag = tag::GATEWAY,
    request_body = RefreshRequest, security(()),
    responses((status = 200, body = TokenResponse), (status = 401), (status = 422)))]
async fn refresh(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<RefreshRequest>,
) -> Result<Response, Problem> {
    let (token, life) = (&body.value.refresh_token, TokenLife::Standard);
    let tokens = app.identity.refresh_from(token, life, who.device, who.request).await?;
    Ok(private(StatusCode::OK, TokenResponse::from(tokens)))
}

/// A sentence.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageResponse {
    /// For people
    pub(super) message: &'static str,
}

/// End the session that a refresh token belongs to
#[utoipa::path(post, path = "/v1/auth/logout", tag = tag::GATEWAY,
    request_body = RefreshRequest, security(()),
    responses((status = 200, body = MessageResponse), (status = 422)))]
async fn logout(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<RefreshRequest>,
) -> Result<Json<MessageResponse>, Problem> {
    app.identity.logout(&body.value.refresh_token, who.request).await?;
    Ok(Json(MessageResponse { message: "logged out" }))
}

/// A user, with exactly the documented keys.
#[derive(Serialize, ToSchema)]
pub(super) struct UserResponse {
    imperal_id: UserId,
    email: String,
    tenant_id: String,
    agency_id: Option<String>,
    role: String,
    org_id: Option<String>,
    auth_method: String,
    scopes: Vec<String>,
    #[schema(value_type = Object)]
    attributes: Value,
    created_at: String,
    last_login: Option<String>,
    cases_user_id: Option<i64>,
}

/// The caller's own user
#[utoipa::path(get, path = "/v1/auth/me", tag = tag::GATEWAY,
    responses((status = 200, body = UserResponse), (status = 401)))]
async fn me(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<UserResponse>, Problem> {
    user_response(&app, &entered.caller).await.map(Json)
}

async fn user_response(app: &App, caller: &Caller) -> Result<UserResponse, Problem> {
    let user = app.identity.me(caller).await?;
    Ok(UserResponse {
        imperal_id: user.id,
        tenant_id: user.id.tenant_label(user.tenant),
        email: user.email,
        agency_id: user.agency,
        role: user.role,
        org_id: None,
        auth_method: user.auth_method.name().to_owned(),
        // What this credential covers: a key mostly less than its owner.
        scopes: caller.scopes.as_slice().to_vec(),
        attributes: user.attributes.value(),
        created_at: rfc3339(user.created_at),
        last_login: user.last_login.map(rfc3339),
        cases_user_id: None,
    })
}

/// E-mail address and password of a new user.
#[derive(Deserialize, ToSchema)]
pub(super) struct RegisterRequest {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
    /// 8 to 128 characters
    password: String,
    /// Only `default`: the new user gets a tenant of their own
    #[serde(default)]
    tenant_id: String,
}

/// Somebody new.
pub(super) struct Newcomer {
    pub(super) user: UserId,
    pub(super) email: String,
    pub(super) password: String,
    pub(super) name: Option<String>,
    pub(super) company: Option<String>,
    /// Whether a link to verify the address is mailed.
    pub(super) verify: bool,
}

/// How a sign-up begins: with the hash of a password that is accepted.
pub(super) async fn start_of(app: &App, newcomer: Newcomer) -> Result<sign_up::Start, Refusal> {
    let Newcomer { user, email, password, name, company, .. } = newcomer;
    let email = identity::claim::EmailAddress::new(&email)?.as_str().to_owned();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let own = [email.clone(), text(&name), text(&company)];
    let own = [own[0].as_str(), own[1].as_str(), own[2].as_str()];
    let password = app.identity.hash_new_password("password", password, &own).await?;
    Ok(sign_up::Start {
        user,
        email,
        name,
        company,
        password,
        role: identity::tenant::OWNER_ROLE.to_owned(),
    })
}

/// Signs somebody up: the password is hashed before anything is begun.
pub(super) async fn sign_up_newcomer(
    app: &App,
    newcomer: Newcomer,
    caller: &str,
    request: RequestRef,
) -> Result<SignedUp, Refusal> {
    let verify = newcomer.verify;
    let start = start_of(app, newcomer).await?;
    let origin = supervision::Origin { caller: caller.into(), request, cause: None };
    sign_up::sign_up_with(&app.system, start, verify, origin).await
}

/// Register a user by service token, without an e-mail; answers tokens at once
#[utoipa::path(post, path = "/v1/auth/register", tag = tag::GATEWAY,
    request_body = RegisterRequest, security(("service_token" = [])),
    responses((status = 201, body = TokenResponse), (status = 401), (status = 409),
        (status = 422)))]
async fn register(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<RegisterRequest>,
) -> Result<Response, Problem> {
    let RegisterRequest { email, password, tenant_id } = body.value;
    if tenant_named(&app, &tenant_id).await?.is_some() {
        let message = "a new user gets a tenant of their own; leave it out";
        return Err(Refusal::invalid("tenant_id", message).into());
    }
    // With a key the user and the session have the key's own id: a repetition finds both.
    let label = entered.caller.label();
    let service = Caller { tenant: TenantId::SYSTEM, ..entered.caller };
    let key = key.of(&service, "register", &body.bytes);
    let id = key.map_or_else(|| app.system.new_id(), |key| key.process_id());
    let (name, company, user) = (None, None, UserId(id));
    let newcomer = Newcomer { user, email, password, name, company, verify: false };
    let request = entered.request;
    let signed_up = sign_up_newcomer(&app, newcomer, &label, request).await?;
    let session = NewSession {
        user: signed_up.user,
        tenant: Some(signed_up.tenant),
        session: Some(SessionId(id)),
        device: None,
        life: TokenLife::Standard,
        request,
    };
    let tokens = app.identity.open_session(session).await?;
    Ok(private(StatusCode::CREATED, TokenResponse::from(tokens)))
}

/// The public keys that user tokens are signed with: next, current and previous (RFC 7517)
#[utoipa::path(get, path = "/v1/auth/.well-known/jwks.json", tag = tag::GATEWAY, security(()),
    responses((status = 200, body = Object)))]
async fn jwks(State(app): State<App>) -> Result<Response, Problem> {
    let mut response = Json(app.identity.jwks()?).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}
