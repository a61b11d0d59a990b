//! `/v1/auth/cli/device`: logging in a program that has no browser (RFC 8628), by somebody who is
//! logged in elsewhere.
//!
//! What a device is answered while nobody has decided is HTTP 200 with `error`, because the
//! platform's clients end at anything else.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use identity::device_login::LIFE_MS;
use identity::device_sign_in::{DeviceAnswer, DeviceCodes, INTERVAL_S};
use identity::mail::PostOffice;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{MessageResponse, TokenResponse, private};
use crate::app::App;
use crate::authenticate::{Anyone, Member};
use crate::extract::JsonBody;
use crate::openapi::tag;
use crate::problem::Problem;

/// The page on which somebody types the short code.
pub(super) const PAGE: &str = "/device";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(device_authorize))
        .routes(routes!(device_token))
        .routes(routes!(device_decide))
}

/// What the program will prove to know the origin of (RFC 7636).
#[derive(Deserialize, ToSchema)]
struct AuthorizeRequest {
    /// The base64url of the SHA-256 of the verifier, without padding
    code_challenge: String,
    /// Only `S256`
    #[serde(default = "default_method")]
    code_challenge_method: String,
}

fn default_method() -> String {
    "S256".to_owned()
}

/// What a device keeps and what it shows (RFC 8628, section 3.2).
#[derive(Serialize, ToSchema)]
struct AuthorizeResponse {
    /// For the device alone
    device_code: String,
    /// To be shown: `XXXX-XXXX`
    user_code: String,
    /// Where it is typed in
    verification_uri: String,
    /// The same with the code
    verification_uri_complete: String,
    /// Seconds to wait between two questions
    interval: u64,
    /// Seconds
    expires_in: i64,
}

/// Begin to log a device in: it shows the code, and asks `/v1/auth/cli/device/token`
///
/// Somebody who is logged in lets it in at `verification_uri`, within ten minutes.
#[utoipa::path(post, path = "/v1/auth/cli/device/authorize", tag = tag::GATEWAY, security(()),
    request_body = AuthorizeRequest,
    responses((status = 200, body = AuthorizeResponse), (status = 422), (status = 429)))]
async fn device_authorize(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<AuthorizeRequest>,
) -> Result<Response, Problem> {
    let AuthorizeRequest { code_challenge, code_challenge_method: method } = body.value;
    let begun =
        app.identity.begin_device_login(&code_challenge, &method, &who.address, who.request);
    let DeviceCodes { device_code, user_code } = begun.await?;
    let uri = format!("{}{PAGE}", app.system.port::<PostOffice>().public_url());
    let response = AuthorizeResponse {
        device_code: String::clone(&device_code),
        verification_uri_complete: format!("{uri}?user_code={user_code}"),
        verification_uri: uri,
        user_code,
        interval: INTERVAL_S,
        expires_in: LIFE_MS / 1_000,
    };
    Ok(private(StatusCode::OK, response))
}

/// The device's question.
#[derive(Deserialize, ToSchema)]
struct DeviceTokenRequest {
    /// What it was given
    device_code: String,
    /// What the challenge was made from: 43 to 128 characters
    code_verifier: String,
}

/// Ask whether the device is let in; answers tokens once
///
/// Until then HTTP 200 with `{"error": "authorization_pending"}`, or `slow_down` for a device that
/// asks more often than its interval, which is five seconds longer from then on. 400
/// `access_denied` when the answer was no or whoever approved has signed out, 400 `expired_token`
/// for a code that was used or is ten minutes old, 400 `invalid_grant` for what is no such code.
#[utoipa::path(post, path = "/v1/auth/cli/device/token", tag = tag::GATEWAY, security(()),
    request_body = DeviceTokenRequest,
    responses((status = 200, body = TokenResponse), (status = 400), (status = 422)))]
async fn device_token(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<DeviceTokenRequest>,
) -> Result<Response, Problem> {
    let DeviceTokenRequest { device_code, code_verifier } = body.value;
    let (device, request) = (who.device, who.request);
    let answer = app.identity.redeem_device_code(&device_code, &code_verifier, device, request);
    Ok(match answer.await? {
        DeviceAnswer::Tokens(tokens) => private(StatusCode::OK, TokenResponse::from(*tokens)),
        DeviceAnswer::Pending => private(StatusCode::OK, json!({"error": "authorization_pending"})),
        DeviceAnswer::SlowDown => private(StatusCode::OK, json!({"error": "slow_down"})),
    })
}

/// Whether a device is let in.
#[derive(Deserialize, ToSchema)]
struct DecideRequest {
    /// What the device shows
    user_code: String,
    /// Whether it is
    #[serde(default = "default_approve")]
    approve: bool,
}

const fn default_approve() -> bool {
    true
}

/// Let a device in as oneself, or not; for a user who is logged in
///
/// The device gets a session of its own in the same tenant, if the session that let it in is still
/// open by then. 404 for a code that there is not, 410 for one that was decided or has expired.
#[utoipa::path(post, path = "/v1/auth/cli/device/decide", tag = tag::GATEWAY,
    request_body = DecideRequest,
    responses((status = 200, body = MessageResponse), (status = 401), (status = 403),
        (status = 404), (status = 410), (status = 422), (status = 429)))]
async fn device_decide(
    State(app): State<App>,
    Member(entered): Member,
    body: JsonBody<DecideRequest>,
) -> Result<Json<MessageResponse>, Problem> {
    let DecideRequest { user_code, approve } = body.value;
    let origin = app.origin(&entered.caller, entered.request);
    let decide =
        app.identity.decide_device_login(&entered.caller, &user_code, approve, false, origin);
    decide.await?;
    let message = if approve { "the device is let in" } else { "the device is not let in" };
    Ok(Json(MessageResponse { message }))
}
