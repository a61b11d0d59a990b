//! `/v1/auth`, as far as it is done by mail or is about passwords: signing up, verifying the
//! address, and changing or replacing a password.
//!
//! Whether an address has an account is not told here: such answers are the same, and leave at
//! even times. It is told by the routes whose API says so (409 on registering).

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use billing::{sign_up, verification};
use data_encoding::HEXLOWER;
use identity::claim::EmailAddress;
use identity::login::{NewSession, TokenLife};
use identity::mail_link::Purpose;
use identity::user::{Conclude, User};
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use supervision::{Origin, Refusal, RequestRef};
use tokio::time::Instant;
use types::{SessionId, UserId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{MessageResponse, Newcomer, TokenResponse, private, start_of, tenant_named};
use crate::app::App;
use crate::authenticate::{Anyone, Member};
use crate::extract::JsonBody;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

/// Answers that must not tell whether an address has an account leave at multiples of this.
const ANSWER_STEP: Duration = Duration::from_millis(250);
/// The longest first or last name, in characters.
const NAME_CHARS_MAX: usize = 100;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(signup))
        .routes(routes!(verify_email))
        .routes(routes!(resend))
        .routes(routes!(forgot))
        .routes(routes!(reset))
        .routes(routes!(change_password))
}

/// The origin of what a stranger asks for.
pub(super) fn anonymous(request: RequestRef) -> Origin {
    Origin { caller: "anonymous".into(), request, cause: None }
}

/// What a repetition is known by: an id that the client's key makes, or a new one.
fn known_by(app: &App, who: &Anyone, key: Key, operation: &str, body: &[u8]) -> u128 {
    // The id stands for the body too: what one address asks for under one key for two people must
    // not meet in one link or one mail.
    let operation = format!("{operation} {}", HEXLOWER.encode(&sha256(&[body])));
    once::id_for(app, key.of_stranger(&who.address, &operation, body).as_ref())
}

/// Waits until an even time since `begun`, so that the time that work took tells nothing.
async fn at_even_time(begun: Instant) {
    let steps = begun.elapsed().as_millis() / ANSWER_STEP.as_millis() + 1;
    tokio::time::sleep_until(begun + ANSWER_STEP * u32::try_from(steps).unwrap_or(1)).await;
}

/// A new user, who is sent a mail.
#[derive(Deserialize, ToSchema)]
struct SignupRequest {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
    /// 8 to 128 characters, none of the common ones
    password: String,
    /// Only `default`: the new user gets a tenant of their own
    #[serde(default)]
    tenant_id: String,
    /// The first name
    #[serde(default)]
    first_name: Option<String>,
    /// The last name
    #[serde(default)]
    last_name: Option<String>,
}

/// What happens next.
#[derive(Serialize, ToSchema)]
struct SignupResponse {
    /// For people
    message: &'static str,
    /// The new user, if the address had no account; else nobody's id
    user_id: UserId,
}

/// Sign up with an e-mail address; a mail tells how to go on
///
/// Answers the same whether or not the address has an account: its owner is told by mail. Nobody
/// can log in with the new password before the link in the mail was used.
#[utoipa::path(post, path = "/v1/auth/signup", tag = tag::GATEWAY, request_body = SignupRequest,
    security(()), responses((status = 201, body = SignupResponse), (status = 422),
        (status = 429)))]
async fn signup(
    State(app): State<App>,
    who: Anyone,
    key: Key,
    body: JsonBody<SignupRequest>,
) -> Result<Response, Problem> {
    let begun = Instant::now();
    let user = UserId(known_by(&app, &who, key, "signup", &body.bytes));
    let SignupRequest { email, password, tenant_id, first_name, last_name } = body.value;
    if tenant_named(&app, &tenant_id).await?.is_some() {
        let message = "a new user gets a tenant of their own; leave it out";
        return Err(Refusal::invalid("tenant_id", message).into());
    }
    let name = full_name(first_name, last_name)?;
    app.identity.admit_mail(&who.address)?;
    let newcomer = Newcomer { user, email, password, name, company: None, verify: true };
    let start = start_of(&app, newcomer).await?;
    sign_up::sign_up_by_mail(&app.system, start, anonymous(who.request)).await?;
    at_even_time(begun).await;
    let message = "a mail is on its way; open the link in it to go on";
    let answer = SignupResponse { message, user_id: user };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

fn full_name(first: Option<String>, last: Option<String>) -> Result<Option<String>, Refusal> {
    let mut names = Vec::new();
    for (field, name) in [("first_name", first), ("last_name", last)] {
        let name = name.unwrap_or_default().trim().to_owned();
        if name.chars().count() > NAME_CHARS_MAX {
            let message = format!("must have at most {NAME_CHARS_MAX} characters");
            return Err(Refusal::invalid(field, message));
        }
        names.extend((!name.is_empty()).then_some(name));
    }
    Ok((!names.is_empty()).then(|| names.join(" ")))
}

/// The token from a mail's link.
#[derive(Deserialize, ToSchema)]
struct TokenRequest {
    /// The token in the mail's link
    token: String,
}

/// Verify an e-mail address with the token from the mail, and log in
///
/// All welcome credits can be spent from then on. 404 for what is no such token, 410 when it was
/// used or has expired.
#[utoipa::path(post, path = "/v1/auth/verify-email", tag = tag::GATEWAY,
    request_body = TokenRequest, security(()), responses((status = 200, body = TokenResponse),
        (status = 404), (status = 410), (status = 422)))]
async fn verify_email(
    State(app): State<App>,
    who: Anyone,
    key: Key,
    body: JsonBody<TokenRequest>,
) -> Result<Response, Problem> {
    // With a key the session has the key's own id: a repetition finds link and session.
    let by = known_by(&app, &who, key, "verify_email", &body.bytes);
    let origin = anonymous(who.request);
    let user = verification::verify(&app.system, &body.value.token, by, origin).await?;
    let session = NewSession {
        user,
        tenant: None,
        session: Some(SessionId(by)),
        device: who.device,
        life: TokenLife::Standard,
        request: who.request,
    };
    let tokens = app.identity.open_session(session).await?;
    Ok(private(StatusCode::OK, TokenResponse::from(tokens)))
}

/// An e-mail address.
#[derive(Deserialize, ToSchema)]
struct EmailRequest {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
}

/// Sends a link to whoever has an account with an address. Answers nothing of it.
pub(super) async fn mail_link(
    app: &App,
    purpose: Purpose,
    who: &Anyone,
    email: &str,
    id: u128,
) -> Result<(), Refusal> {
    let begun = Instant::now();
    let email = EmailAddress::new(email)?;
    app.identity.admit_mail(&who.address)?;
    if app.identity.may_mail(&email)? {
        let origin = anonymous(who.request);
        app.identity.send_link_to(purpose, &email, id, origin).await?;
    }
    at_even_time(begun).await;
    Ok(())
}

fn on_its_way() -> Response {
    let message = "if there is an account for this, a mail is on its way";
    (StatusCode::ACCEPTED, Json(MessageResponse { message })).into_response()
}

/// Mail another link to verify an e-mail address
///
/// Answers the same whether or not there is an account that waits for it.
#[utoipa::path(post, path = "/v1/auth/verify-email/resend", tag = tag::GATEWAY,
    request_body = EmailRequest, security(()), responses((status = 202, body = MessageResponse),
        (status = 422), (status = 429)))]
async fn resend(
    State(app): State<App>,
    who: Anyone,
    key: Key,
    body: JsonBody<EmailRequest>,
) -> Result<Response, Problem> {
    let id = known_by(&app, &who, key, "resend", &body.bytes);
    mail_link(&app, Purpose::VerifyEmail, &who, &body.value.email, id).await?;
    Ok(on_its_way())
}

/// Mail a link to choose another password
///
/// Answers the same whether or not the address has an account.
#[utoipa::path(post, path = "/v1/auth/password/forgot", tag = tag::GATEWAY,
    request_body = EmailRequest, security(()), responses((status = 202, body = MessageResponse),
        (status = 422), (status = 429)))]
async fn forgot(
    State(app): State<App>,
    who: Anyone,
    key: Key,
    body: JsonBody<EmailRequest>,
) -> Result<Response, Problem> {
    let id = known_by(&app, &who, key, "forgot", &body.bytes);
    mail_link(&app, Purpose::ResetPassword, &who, &body.value.email, id).await?;
    Ok(on_its_way())
}

/// A new password, with the token from a mail's link.
#[derive(Deserialize, ToSchema)]
struct ResetRequest {
    /// The token in the mail's link
    token: String,
    /// 8 to 128 characters, none of the common ones
    new_password: String,
}

/// Uses a link to set another password, and tells its owner. A password that is not accepted does
/// not use the link up.
pub(super) async fn set_password(
    app: &App,
    token: &str,
    new: String,
    by: u128,
    request: RequestRef,
) -> Result<(), Refusal> {
    let link = app.identity.open_link(Purpose::ResetPassword, token, by).await?;
    let own = [link.email.as_str()];
    let password = app.identity.hash_new_password("new_password", new, &own).await?;
    let user = link.issued.user;
    verification::use_link(&app.system, &link, Some(password), anonymous(request)).await?;
    // The notice has an id of its own that a repetition has as well.
    let told = app.identity.tell_password_changed(user, !by, anonymous(request)).await;
    if let Err(refusal) = told {
        tracing::warn!(%refusal, "a user is not told that the password was changed");
    }
    Ok(())
}

/// Choose another password with the token from the mail, which ends every session
///
/// 404 for what is no such token, 410 when it was used or has expired.
#[utoipa::path(post, path = "/v1/auth/password/reset", tag = tag::GATEWAY,
    request_body = ResetRequest, security(()), responses((status = 200, body = MessageResponse),
        (status = 404), (status = 410), (status = 422)))]
async fn reset(
    State(app): State<App>,
    who: Anyone,
    key: Key,
    body: JsonBody<ResetRequest>,
) -> Result<Json<MessageResponse>, Problem> {
    let by = known_by(&app, &who, key, "reset", &body.bytes);
    let ResetRequest { token, new_password } = body.value;
    set_password(&app, &token, new_password, by, who.request).await?;
    Ok(Json(MessageResponse { message: "the password was changed; log in with it" }))
}

/// The old password and a new one.
#[derive(Deserialize, ToSchema)]
struct ChangePasswordRequest {
    /// The present password
    #[serde(alias = "old_password")]
    current_password: String,
    /// 8 to 128 characters, none of the common ones
    new_password: String,
}

/// Change the caller's password; every other session of theirs ends
#[utoipa::path(post, path = "/v1/auth/me/change-password", tag = tag::GATEWAY,
    request_body = ChangePasswordRequest, responses((status = 200, body = MessageResponse),
        (status = 401), (status = 403), (status = 422), (status = 429)))]
async fn change_password(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<ChangePasswordRequest>,
) -> Result<Response, Problem> {
    let ChangePasswordRequest { current_password, new_password } = body.value;
    let missing = || Refusal::not_found("user");
    let address = app.identity.user_address(entered.user()?)?.ok_or_else(missing)?;
    let (place, caller) = (address.place(), &entered.caller);
    let once = once::begin(&app, key, caller, place, "change_password", &body.bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    let (identity, change) = (&app.identity, origin.clone());
    identity.change_password(caller, current_password, new_password, change).await?;
    let answer = MessageResponse { message: "the password was changed; other sessions have ended" };
    let Once::Ticketed(ticketed) = once else { return Ok(Json(answer).into_response()) };
    let render = move |()| once::record(StatusCode::OK, &answer);
    let users = app.system.directory::<User>();
    once::response(&users.ask_once(&address, Conclude {}, origin, ticketed, render).await?)
}
