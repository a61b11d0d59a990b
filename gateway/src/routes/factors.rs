//! `/v1/auth/me/factors` and the second step of logging in: authenticator apps, passkeys, recovery
//! codes, and whether a tenant asks for them.

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use identity::Identity;
use identity::factor_login::{FactorLogin, FactorView, FreshProof, ShownFactor};
use identity::passkey::{Assertion, Enrolee, Registration, creation_options, new_challenge};
use identity::second_factor::{
    BeginPasskey, BeginTotp, ConfirmTotp, Confirmed, FactorId, FinishPasskey, RecoveryCodes,
    RegenerateCodes, Remove, SecondFactors,
};
use identity::sign_in_policy::{SetPolicy, SignInPolicy};
use identity::tenant::OWNER_ROLE;
use identity::totp::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervision::{Class, Command, Handle, Refusal};
use types::{CallerKind, UserId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{TokenResponse, private, with_device_token};
use super::not_kept;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Anyone, Entered, Member, bearer, enter};
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

/// Who an authenticator app says the account is with.
const ISSUER: &str = "Bailiwick";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(login_factor_begin))
        .routes(routes!(login_factor))
        .routes(routes!(list_factors))
        .routes(routes!(begin_totp))
        .routes(routes!(confirm_factor))
        .routes(routes!(begin_passkey))
        .routes(routes!(finish_passkey))
        .routes(routes!(regenerate_recovery_codes))
        .routes(routes!(remove_factor))
        .routes(routes!(sign_in_policy, set_sign_in_policy))
}

fn no_random_numbers() -> Refusal {
    Refusal::new(Class::Crashed, "internal_error", "the system's random source failed")
}

/// A user who is logged in, and no key or agent of theirs.
pub(super) fn person(entered: &Entered) -> Result<UserId, Refusal> {
    let is_person = entered.caller.kind == CallerKind::User;
    let message = "second factors are managed by their user, not by a key";
    let user = entered.user()?;
    is_person.then_some(user).ok_or_else(|| Refusal::forbidden(message))
}

/// 403 unless this user owns the credential's tenant.
pub(super) async fn owner(app: &App, entered: &Entered, user: UserId) -> Result<(), Refusal> {
    let is_owner = entered.caller.role == OWNER_ROLE
        || app.identity.is_owner(user, entered.caller.tenant).await?;
    is_owner.then_some(()).ok_or_else(|| Refusal::forbidden("this is for the tenant's owner"))
}

/// A user who is logged in, or who may enrol a second factor and nothing else.
struct Enroller(Entered);

impl FromRequestParts<App> for Enroller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let token = bearer(parts)?.filter(|token| Identity::is_enrolment_token(token));
        let Some(token) = token else {
            let Member(entered) = Member::from_request_parts(parts, app).await?;
            return Ok(Self(entered));
        };
        let caller = app.identity.enroller(token).await?;
        enter(parts, app, Some(caller)).await.map(Self)
    }
}

/// A login token.
#[derive(Deserialize, ToSchema)]
struct LoginTokenRequest {
    /// What the login was refused with
    login_token: String,
}

/// What a browser passes to `navigator.credentials.get`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PasskeyRequest {
    /// `PublicKeyCredentialRequestOptionsJSON` (WebAuthn)
    #[schema(value_type = Object)]
    public_key: Value,
}

/// Ask for the passkey that completes a login
#[utoipa::path(post, path = "/v1/auth/login/factor/begin", tag = tag::GATEWAY, security(()),
    request_body = LoginTokenRequest,
    responses((status = 200, body = PasskeyRequest), (status = 401), (status = 409),
        (status = 422)))]
async fn login_factor_begin(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<LoginTokenRequest>,
) -> Result<Response, Problem> {
    let token = &body.value.login_token;
    let public_key = app.identity.begin_factor_login(token, &who.address).await?;
    Ok(private(StatusCode::OK, PasskeyRequest { public_key }))
}

/// The second step of a login: one of `code`, `recovery_code` and `passkey`.
#[derive(Deserialize, ToSchema)]
struct LoginFactorRequest {
    /// What the login was refused with
    login_token: String,
    /// What the authenticator app shows
    #[serde(default)]
    code: Option<String>,
    /// A recovery code
    #[serde(default)]
    recovery_code: Option<String>,
    /// `AuthenticationResponseJSON` (WebAuthn)
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    passkey: Option<Assertion>,
}

/// Complete a login with a second factor
///
/// A login of a user with second factors is refused with 401 `second_factor_required`, which tells
/// in `factors` what is accepted, and a `login_token` that is good for five minutes, once, from the
/// same address.
#[utoipa::path(post, path = "/v1/auth/login/factor", tag = tag::GATEWAY, security(()),
    request_body = LoginFactorRequest,
    responses((status = 200, body = TokenResponse), (status = 401), (status = 403), (status = 422),
        (status = 429)))]
async fn login_factor(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<LoginFactorRequest>,
) -> Result<Response, Problem> {
    let LoginFactorRequest { login_token, code, recovery_code, passkey } = body.value;
    let factor = match (code, recovery_code, passkey) {
        (Some(code), None, None) => ShownFactor::Code(code),
        (None, Some(code), None) => ShownFactor::Recovery(code),
        (None, None, Some(assertion)) => ShownFactor::Passkey(Box::new(assertion)),
        _ => {
            let message = "send one of code, recovery_code and passkey";
            return Err(Refusal::invalid("code", message).into());
        }
    };
    let Anyone { request, address, device, device_token } = who;
    let login = FactorLogin { login_token, factor, address, device, device_token, request };
    let tokens = app.identity.login_with_factor(login).await?;
    let device_token = tokens.device_token.clone();
    let response = private(StatusCode::OK, TokenResponse::from(tokens));
    Ok(with_device_token(response, device_token.as_deref()))
}

/// A second factor.
#[derive(Serialize, ToSchema)]
struct FactorResponse {
    /// The id
    id: String,
    /// `totp` or `passkey`
    kind: &'static str,
    /// What the user calls it
    label: Option<String>,
    created_at: String,
    last_used_at: Option<String>,
}

impl From<FactorView> for FactorResponse {
    fn from(view: FactorView) -> Self {
        Self {
            id: view.id.to_string(),
            kind: view.kind.name(),
            label: view.label,
            created_at: rfc3339(view.created_at),
            last_used_at: view.last_used_at.map(rfc3339),
        }
    }
}

/// The caller's second factors.
#[derive(Serialize, ToSchema)]
struct FactorsResponse {
    factors: Vec<FactorResponse>,
    /// How many recovery codes are unused
    recovery_codes_left: usize,
}

/// The caller's second factors
#[utoipa::path(get, path = "/v1/auth/me/factors", tag = tag::GATEWAY,
    responses((status = 200, body = FactorsResponse), (status = 401), (status = 403)))]
async fn list_factors(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<FactorsResponse>, Problem> {
    let (factors, recovery_codes_left) = app.identity.factors(person(&entered)?).await?;
    let factors = factors.into_iter().map(FactorResponse::from).collect();
    Ok(Json(FactorsResponse { factors, recovery_codes_left }))
}

/// A factor to be.
#[derive(Deserialize, ToSchema)]
struct EnrolRequest {
    /// What to call it, at most 64 characters
    #[serde(default)]
    label: Option<String>,
}

/// What an authenticator app needs, shown once.
#[derive(Serialize, ToSchema)]
struct TotpResponse {
    /// The factor, which counts once it is confirmed
    factor_id: String,
    /// The secret in base32, to be typed in
    secret: String,
    /// The same as a URI, to be shown as a QR code
    otpauth_uri: String,
}

/// Enrol an authenticator app (RFC 6238: SHA-1, 6 digits, 30 seconds)
#[utoipa::path(post, path = "/v1/auth/me/factors/totp", tag = tag::GATEWAY,
    request_body = EnrolRequest,
    responses((status = 201, body = TotpResponse), (status = 401), (status = 403), (status = 409),
        (status = 422)))]
async fn begin_totp(
    State(app): State<App>,
    Enroller(entered): Enroller,
    key: Key,
    body: JsonBody<EnrolRequest>,
) -> Result<Response, Problem> {
    let user = person(&entered)?;
    let id = FactorId(app.system.new_id());
    let email = app.identity.me(&entered.caller).await?.email;
    let secret = Secret::generate().ok_or_else(no_random_numbers)?;
    let shown = TotpResponse {
        factor_id: id.to_string(),
        secret: secret.text().to_string(),
        otpauth_uri: secret.otpauth_uri(ISSUER, &email).to_string(),
    };
    let command = BeginTotp { id, user, secret, label: body.value.label };
    let view = move |()| shown;
    let asking =
        Asking { app: &app, entered: &entered, key, operation: "begin_totp", bytes: &body.bytes };
    asking.once(command, StatusCode::CREATED, view).await
}

/// A request about the caller's second factors, which may be a repetition.
struct Asking<'a> {
    app: &'a App,
    entered: &'a Entered,
    key: Key,
    operation: &'a str,
    bytes: &'a [u8],
}

impl Asking<'_> {
    /// Asks them, and answers what is shown once: no cache keeps it.
    async fn once<C, V>(
        self,
        command: C,
        status: StatusCode,
        view: impl FnOnce(<SecondFactors as Handle<C>>::Reply) -> V + Send + 'static,
    ) -> Result<Response, Problem>
    where
        C: Command,
        SecondFactors: Handle<C>,
        V: Serialize,
    {
        let Self { app, entered, key, operation, bytes } = self;
        let address = app.identity.factors_address(entered.user()?)?;
        let response: Result<Response, Problem> = ask_once!(
            app,
            key.shown_once(),
            entered,
            operation,
            bytes,
            address,
            command,
            status,
            view
        );
        response.map(not_kept)
    }
}

/// A code.
#[derive(Deserialize, ToSchema)]
struct CodeRequest {
    /// What the authenticator app shows
    code: String,
}

/// A factor that counts from now on.
#[derive(Serialize, ToSchema)]
struct ConfirmedResponse {
    factor_id: String,
    /// Ten codes for when the factors are lost, each good once; shown with the first factor only
    recovery_codes: Option<Vec<String>>,
}

impl From<Confirmed> for ConfirmedResponse {
    fn from(confirmed: Confirmed) -> Self {
        let texts = |codes: RecoveryCodes| codes.texts().map(str::to_owned).collect();
        let recovery_codes = confirmed.recovery_codes.map(texts);
        Self { factor_id: confirmed.id.to_string(), recovery_codes }
    }
}

fn factor_id(text: &str) -> Result<FactorId, Refusal> {
    text.parse().map_err(|_| Refusal::not_found("second factor"))
}

fn fresh_codes() -> Result<RecoveryCodes, Refusal> {
    RecoveryCodes::generate().ok_or_else(no_random_numbers)
}

/// Confirm an authenticator app with a code that it shows
#[utoipa::path(post, path = "/v1/auth/me/factors/{id}/confirm", tag = tag::GATEWAY,
    params(("id" = String, Path)), request_body = CodeRequest,
    responses((status = 200, body = ConfirmedResponse), (status = 401), (status = 403),
        (status = 404), (status = 410), (status = 422)))]
async fn confirm_factor(
    State(app): State<App>,
    Enroller(entered): Enroller,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<CodeRequest>,
) -> Result<Response, Problem> {
    person(&entered)?;
    let id = factor_id(&id)?;
    let command = ConfirmTotp { id, code: body.value.code, codes: fresh_codes()? };
    let operation = format!("confirm_factor {id}");
    let view = ConfirmedResponse::from;
    let asking =
        Asking { app: &app, entered: &entered, key, operation: &operation, bytes: &body.bytes };
    asking.once(command, StatusCode::OK, view).await
}

/// What a browser passes to `navigator.credentials.create`.
#[derive(Serialize, ToSchema)]
struct PasskeyOptions {
    /// The factor, which counts once the passkey has answered
    factor_id: String,
    /// `PublicKeyCredentialCreationOptionsJSON` (WebAuthn)
    #[serde(rename = "publicKey")]
    #[schema(value_type = Object)]
    public_key: Value,
}

/// Begin to enrol a passkey
#[utoipa::path(post, path = "/v1/auth/me/factors/passkeys/begin", tag = tag::GATEWAY,
    request_body = EnrolRequest,
    responses((status = 200, body = PasskeyOptions), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn begin_passkey(
    State(app): State<App>,
    Enroller(entered): Enroller,
    key: Key,
    body: JsonBody<EnrolRequest>,
) -> Result<Response, Problem> {
    let user = person(&entered)?;
    let id = FactorId(app.system.new_id());
    let me = app.identity.me(&entered.caller).await?;
    let known = app.identity.credentials(user).await?;
    let challenge = new_challenge().ok_or_else(no_random_numbers)?;
    let display_name = me.name.as_deref().unwrap_or(&me.email);
    let enrolee = Enrolee { handle: user.0, name: &me.email, display_name };
    let public_key = creation_options(app.identity.site(), &challenge, &enrolee, &known);
    let shown = PasskeyOptions { factor_id: id.to_string(), public_key };
    let command = BeginPasskey { id, user, challenge, label: body.value.label };
    let view = move |()| shown;
    let asking = Asking {
        app: &app,
        entered: &entered,
        key,
        operation: "begin_passkey",
        bytes: &body.bytes,
    };
    asking.once(command, StatusCode::OK, view).await
}

/// What a browser got from `navigator.credentials.create` (`RegistrationResponseJSON`).
#[derive(Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct PasskeyAnswer(Registration);

/// Finish enrolling a passkey
#[utoipa::path(post, path = "/v1/auth/me/factors/passkeys/finish", tag = tag::GATEWAY,
    request_body = PasskeyAnswer,
    responses((status = 201, body = ConfirmedResponse), (status = 401), (status = 403),
        (status = 409), (status = 410), (status = 422)))]
async fn finish_passkey(
    State(app): State<App>,
    Enroller(entered): Enroller,
    key: Key,
    body: JsonBody<PasskeyAnswer>,
) -> Result<Response, Problem> {
    let user = person(&entered)?;
    let PasskeyAnswer(answer) = body.value;
    let site = app.identity.site().clone();
    let command = FinishPasskey { user, answer, site, codes: fresh_codes()? };
    let view = ConfirmedResponse::from;
    let asking = Asking {
        app: &app,
        entered: &entered,
        key,
        operation: "finish_passkey",
        bytes: &body.bytes,
    };
    asking.once(command, StatusCode::CREATED, view).await
}

/// That it is really the user: one of `password`, `code` and `recovery_code`.
#[derive(Deserialize, ToSchema)]
struct ProofRequest {
    /// The password
    #[serde(default)]
    password: Option<String>,
    /// What an authenticator app shows
    #[serde(default)]
    code: Option<String>,
    /// A recovery code
    #[serde(default)]
    recovery_code: Option<String>,
}

impl ProofRequest {
    fn proof(self) -> Result<FreshProof, Refusal> {
        match (self.password, self.code.or(self.recovery_code)) {
            (Some(password), None) => Ok(FreshProof::Password(password)),
            (None, Some(code)) => Ok(FreshProof::Code(code)),
            _ => {
                let message = "send one of password, code and recovery_code";
                Err(Refusal::invalid("password", message))
            }
        }
    }
}

/// New recovery codes.
#[derive(Serialize, ToSchema)]
struct RecoveryCodesResponse {
    /// Ten codes, each good once; those before them are void
    recovery_codes: Vec<String>,
}

/// Replace the recovery codes; needs the password or a second factor
#[utoipa::path(post, path = "/v1/auth/me/factors/recovery-codes", tag = tag::GATEWAY,
    request_body = ProofRequest,
    responses((status = 200, body = RecoveryCodesResponse), (status = 401), (status = 403),
        (status = 409), (status = 422), (status = 429)))]
async fn regenerate_recovery_codes(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<ProofRequest>,
) -> Result<Response, Problem> {
    let user = person(&entered)?;
    let proof = app.identity.prove(user, body.value.proof()?).await?;
    let command = RegenerateCodes { proof, codes: fresh_codes()? };
    let view = |codes: RecoveryCodes| RecoveryCodesResponse {
        recovery_codes: codes.texts().map(str::to_owned).collect(),
    };
    let asking = Asking {
        app: &app,
        entered: &entered,
        key,
        operation: "regenerate_recovery_codes",
        bytes: &body.bytes,
    };
    let response = asking.once(command, StatusCode::OK, view).await?;
    app.identity.proved(user);
    Ok(response)
}

/// Remove a second factor; needs the password or a second factor
///
/// With the last factor go the recovery codes.
#[utoipa::path(delete, path = "/v1/auth/me/factors/{id}", tag = tag::GATEWAY,
    params(("id" = String, Path)), request_body = ProofRequest,
    responses((status = 204), (status = 401), (status = 403), (status = 404), (status = 422),
        (status = 429)))]
async fn remove_factor(
    State(app): State<App>,
    Member(entered): Member,
    Path(id): Path<String>,
    body: JsonBody<ProofRequest>,
) -> Result<StatusCode, Problem> {
    let user = person(&entered)?;
    let id = factor_id(&id)?;
    let proof = app.identity.prove(user, body.value.proof()?).await?;
    let address = app.identity.factors_address(user)?;
    let origin = app.origin(&entered.caller, entered.request);
    app.system.directory().ask(&address, Remove { id, proof }, origin).await?;
    app.identity.proved(user);
    Ok(StatusCode::NO_CONTENT)
}

/// What a tenant asks of those who log in to it.
#[derive(Deserialize, Serialize, ToSchema)]
struct SignInPolicyBody {
    /// Whether members need a second factor
    require_second_factor: bool,
}

/// What the caller's tenant asks of those who log in
#[utoipa::path(get, path = "/v1/auth/sign-in-policy", tag = tag::GATEWAY,
    responses((status = 200, body = SignInPolicyBody), (status = 401)))]
async fn sign_in_policy(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<SignInPolicyBody>, Problem> {
    let require_second_factor = app.identity.requires_second_factor(entered.caller.tenant).await?;
    Ok(Json(SignInPolicyBody { require_second_factor }))
}

/// Ask the tenant's members for a second factor, or no longer; for its owner
///
/// A member without one then gets 403 `second_factor_enrolment_required` at the next login, with an
/// `enrolment_token` that allows enrolling and nothing else.
#[utoipa::path(put, path = "/v1/auth/sign-in-policy", tag = tag::GATEWAY,
    request_body = SignInPolicyBody,
    responses((status = 200, body = SignInPolicyBody), (status = 401), (status = 403),
        (status = 422)))]
async fn set_sign_in_policy(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<SignInPolicyBody>,
) -> Result<Response, Problem> {
    let (user, tenant) = (person(&entered)?, entered.caller.tenant);
    owner(&app, &entered, user).await?;
    let SignInPolicyBody { require_second_factor } = body.value;
    let command = SetPolicy { require_second_factor };
    let view = move |()| SignInPolicyBody { require_second_factor };
    ask_once!(
        app,
        key,
        entered,
        "set_sign_in_policy",
        body.bytes,
        SignInPolicy::address(tenant),
        command,
        StatusCode::OK,
        view
    )
}
