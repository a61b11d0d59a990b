//! Connecting accounts at OAuth providers to apps: where it begins, where the provider sends the
//! browser back to, and the developer's client secret.
//!
//! The page that the browser comes back to has no script and tells nothing of what went wrong but
//! that it did: whoever opens it need not be who began. Where no browser is bound to what was
//! begun, it asks who they are first: see [`super::oauth_page`].

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use broker::Desk;
use broker::app_secrets::Holder;
use broker::declaration::VALUE_BYTES;
use extensions::oauth::{Bound, CODE_BYTES_MAX, LIFE_MS, Shown, Start, random_text};
use identity::mail::PostOffice;
use market::Principal;
use serde::{Deserialize, Serialize};
use supervision::{Class, Origin, Refusal};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{mail_pages, oauth_page};
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Anyone, Either, Member};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(start_oauth))
        .routes(routes!(callback))
        .routes(routes!(set_client_secret))
}

/// The cookie that binds a state to the browser that began it.
const COOKIE: &str = "bailiwick_oauth";

fn callback_path(app: &str, provider: &str) -> String {
    format!("/v1/ext/{app}/oauth/{provider}/callback")
}

fn redirect_uri(app: &App, path: &str) -> String {
    format!("{}{path}", app.system.port::<PostOffice>().public_url())
}

/// Where the browser goes.
#[derive(Serialize, ToSchema)]
struct StartResponse {
    /// To be opened in the user's browser
    authorization_url: String,
    /// Seconds until it is good no more
    expires_in: i64,
}

/// Begin to connect an account at a provider that the app declares
///
/// The browser is sent to `authorization_url`; the provider sends it back to
/// `/v1/ext/{app_id}/oauth/{provider}/callback`, where the code is exchanged and the app's handler
/// is handed `{provider, tokens}` as this user, a call that is paid as any other. The state in the
/// address is good once, for ten minutes, for this user, app and provider, and where a page of this
/// server's asks (`Sec-Fetch-Site: same-origin`) for that browser alone, which keeps a cookie.
/// Where a program asks, the user logs in on the page that the browser comes back to, and agrees.
#[utoipa::path(post, path = "/v1/extensions/{app_id}/oauth/{provider}/start", tag = tag::GATEWAY,
    params(("app_id" = String, Path), ("provider" = String, Path)),
    responses((status = 200, body = StartResponse), (status = 401), (status = 403),
        (status = 404), (status = 409)))]
async fn start_oauth(
    State(app): State<App>,
    Member(entered): Member,
    Path((app_id, provider)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let path = callback_path(&app_id, &provider);
    let redirect_uri = redirect_uri(&app, &path);
    let is_browser = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
    let kept = if is_browser { Some(random_text()?) } else { None };
    let start = Start {
        caller: &entered.caller,
        app: &app_id,
        provider: &provider,
        redirect_uri: &redirect_uri,
        browser: kept.as_ref().map(|kept| kept.as_str()),
        origin: app.origin(&entered.caller, entered.request),
    };
    let authorization_url = app.extensions.start_oauth(&app.system, start).await?;
    let expires_in = LIFE_MS / 1_000;
    let response = StartResponse { authorization_url, expires_in };
    let mut response = super::auth::private(StatusCode::OK, response);
    if let Some(kept) = kept {
        let secure = if redirect_uri.starts_with("https://") { "; Secure" } else { "" };
        let cookie = format!(
            "{COOKIE}={}; Path={path}; Max-Age={expires_in}; HttpOnly; SameSite=Lax{secure}",
            kept.as_str()
        );
        // A path of a known app and provider and base64url are fit for a header.
        let mut cookie = HeaderValue::from_str(&cookie).map_err(|_| Refusal::crashed())?;
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// What a provider sends back (RFC 6749, section 4.1.2).
#[derive(Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct CallbackQuery {
    /// To be exchanged
    code: String,
    /// As it was given along
    state: String,
    /// Why there is no code
    error: String,
}

/// Where a provider sends the browser back to: a page that says whether it went well
///
/// Where a program began it, the page asks for a login first, and whether to connect. A state that
/// is wrong, used or over is 400, and nothing more is said.
#[utoipa::path(get, path = "/v1/ext/{app_id}/oauth/{provider}/callback", tag = tag::EXTENSIONS,
    security(()), params(("app_id" = String, Path), ("provider" = String, Path), CallbackQuery),
    responses((status = 200, body = String, content_type = "text/html"),
        (status = 400, body = String, content_type = "text/html"),
        (status = 502, body = String, content_type = "text/html")))]
async fn callback(
    State(app): State<App>,
    who: Anyone,
    Path((app_id, provider)): Path<(String, String)>,
    headers: HeaderMap,
    Query(query): Query<CallbackQuery>,
) -> Response {
    let origin = Origin { caller: "oauth".into(), request: who.request, cause: None };
    let CallbackQuery { code, state, error } = &query;
    let back = Back { app_id: &app_id, provider: &provider, code, state };
    let bound = match look(&app, &back, &origin).await {
        Ok(bound) => bound,
        Err(refused) => return refused,
    };
    let is_wanted = error.is_empty() && back.has_code();
    let shown = match (bound.browser, is_wanted) {
        (Some(_), _) => Shown::kept(cookie(&headers)),
        (None, true) => return oauth_page::login(&back, None),
        (None, false) => Shown::Denial,
    };
    finish(&app, &back, (shown, is_wanted), &origin).await
}

/// What came back with a browser.
pub(super) struct Back<'a> {
    pub(super) app_id: &'a str,
    pub(super) provider: &'a str,
    pub(super) code: &'a str,
    pub(super) state: &'a str,
}

impl Back<'_> {
    fn names(&self) -> (&str, &str) {
        (self.app_id, self.provider)
    }

    fn has_code(&self) -> bool {
        !self.code.is_empty() && self.code.len() <= CODE_BYTES_MAX
    }
}

/// What a page says of every state that is not good.
pub(super) const NOT_GOOD: &str = "This link is not good any more. Begin again in the app.";

/// What the page says of a state that was not taken.
fn not_taken(refusal: &Refusal) -> Response {
    tracing::debug!(%refusal, "a state was not taken");
    let (status, text) = match refusal.class {
        Class::Busy | Class::InDoubt | Class::Crashed => {
            (StatusCode::SERVICE_UNAVAILABLE, "The server is busy. Try again in a moment.")
        }
        _ => (StatusCode::BAD_REQUEST, NOT_GOOD),
    };
    mail_pages::said(status, "This did not work", text)
}

/// What a state is bound to, or the page that says that it is not good.
pub(super) async fn look(app: &App, back: &Back<'_>, origin: &Origin) -> Result<Bound, Response> {
    let found = app.extensions.look_oauth(&app.system, back.names(), back.state, origin).await;
    found.map_err(|refusal| not_taken(&refusal))
}

/// Takes the state, connects the account if it is to be, and says how it went.
pub(super) async fn finish(
    app: &App,
    back: &Back<'_>,
    (shown, is_wanted): (Shown, bool),
    origin: &Origin,
) -> Response {
    let (extensions, system) = (&app.extensions, &app.system);
    let taken = extensions.take_oauth(system, back.names(), (back.state, shown), origin).await;
    let bound = match taken {
        Ok(bound) => bound,
        Err(refusal) => return not_taken(&refusal),
    };
    match connect(app, &bound, (back, is_wanted), origin).await {
        Ok(()) => mail_pages::said(StatusCode::OK, "Connected", "You may close this page."),
        Err(refusal) => {
            tracing::debug!(%refusal, "an account was not connected");
            let text = "The account was not connected. Begin again in the app.";
            mail_pages::said(StatusCode::BAD_GATEWAY, "This did not work", text)
        }
    }
}

async fn connect(
    app: &App,
    bound: &Bound,
    (back, is_wanted): (&Back<'_>, bool),
    origin: &Origin,
) -> Result<(), Refusal> {
    let extensions = &app.extensions;
    if !is_wanted || !back.has_code() {
        extensions.end_oauth(&app.system, bound, "oauth_denied", origin).await;
        return Err(Refusal::conflict("oauth_denied", "there is no code, or nobody wants it"));
    }
    // Ten minutes are long: whoever began may be off by now.
    if let Err(refusal) = app.identity.admit_service(bound.tenant, Some(bound.user)).await {
        extensions.end_oauth(&app.system, bound, &refusal.code, origin).await;
        return Err(refusal);
    }
    let _place = app.admission.turnstile().enter(bound.tenant).await?;
    let redirect_uri = redirect_uri(app, &callback_path(back.app_id, back.provider));
    let sent = (back.code, back.state, redirect_uri.as_str());
    extensions.connect_oauth(&app.system, bound, sent, origin).await
}

/// What the browser kept.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).map(str::trim);
    pairs.find_map(|pair| pair.strip_prefix(COOKIE)?.strip_prefix('='))
}

/// A client secret.
#[derive(Deserialize, ToSchema)]
struct SecretRequest {
    /// 1 to 4,096 bytes; never shown again
    client_secret: String,
}

/// That a client secret is set.
#[derive(Serialize, ToSchema)]
struct SecretResponse {
    provider: String,
    client_secret_set: bool,
}

/// Set the client secret of a provider that the app's current version declares; it is never shown
#[utoipa::path(put, path = "/v1/developer/apps/{app_id}/oauth/{provider}", tag = tag::GATEWAY,
    params(("app_id" = String, Path), ("provider" = String, Path)), request_body = SecretRequest,
    responses((status = 200, body = SecretResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn set_client_secret(
    State(app): State<App>,
    Either(entered): Either,
    Path((app_id, provider)): Path<(String, String)>,
    key: Key,
    body: JsonBody<SecretRequest>,
) -> Result<Response, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let (user, tenant) = (entered.user()?, entered.caller.tenant);
    let principal = Principal { user, tenant, origin: origin.clone() };
    let (_, details) = app.market.own_app(&app.system, &principal, &app_id).await?;
    let found = app.extensions.apps().find(&app.system, &details.id, &origin).await?;
    let declared = found.ir.as_ref().and_then(|ir| ir.provider(&provider));
    let declared = declared.ok_or_else(|| Refusal::not_found("provider"))?;
    let message = "this provider is declared without a secret";
    let name = declared.secret.as_ref();
    let name = name.ok_or_else(|| Refusal::conflict("oauth_without_secret", message))?;
    let holder = Holder { tenant: details.tenant, user: None, app: details.id.clone() };
    let given = ("client_secret", body.value.client_secret.as_str());
    let desk = app.system.port::<Desk>();
    let set = desk.sealed_for(&app.system, &holder, (name, VALUE_BYTES), given)?;
    let address = holder.address();
    let operation = format!("set_client_secret {app_id} {provider}");
    let view = move |_| SecretResponse { provider, client_secret_set: true };
    ask_once!(app, key, entered, &operation, body.bytes, address, set, StatusCode::OK, view)
}
