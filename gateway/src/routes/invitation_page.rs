//! The page that an invitation's link opens: whoever was invited logs in on it and joins.
//!
//! Server-rendered, without a script. Opening it changes nothing, since programs that scan mails
//! open links too: only the form does. The token is kept out of caches and referrers. The session
//! that the form opens is ended with it; nothing stays in the browser.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::get;
use identity::Joining;
use identity::login::TokenLife;
use maud::{Markup, html};
use serde::Deserialize;
use supervision::Refusal;

use super::auth::{Credentials, log_in};
use super::mail_pages::{self, FORM_BYTES_MAX, token_field};
use crate::app::App;
use crate::authenticate::Anyone;
use crate::extract::{Query, read_body};
use crate::problem::status_of;

pub(super) fn router() -> Router<App> {
    Router::new().route("/accept-invitation", get(form).post(accept))
}

#[derive(Default, Deserialize)]
struct Fields {
    #[serde(default)]
    token: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    otp: String,
}

async fn form(Query(Fields { token, .. }): Query<Fields>) -> Response {
    page(StatusCode::OK, &fields(&token, None))
}

fn fields(token: &str, problem: Option<&str>) -> Markup {
    html! {
        form.card method="post" action="/accept-invitation" {
            h1 { "Accept the invitation" }
            p.quiet {
                "Log in with the account of the address that was invited. If there is none yet, \
                 make one with that address first, and open the link again."
            }
            (token_field(token))
            label for="email" { "E-mail address" }
            input #email name="email" type="email" autocomplete="username" required;
            label for="password" { "Password" }
            input #password name="password" type="password" autocomplete="current-password"
                required;
            label for="otp" { "Code of your authenticator app, if you have one" }
            input #otp name="otp" type="text" autocomplete="one-time-code" spellcheck="false";
            @if let Some(problem) = problem { p.error role="alert" { (problem) } }
            button.primary type="submit" { "Join" }
        }
    }
}

async fn accept(State(app): State<App>, who: Anyone, request: Request<Body>) -> Response {
    let bytes = match read_body(request.into_body(), FORM_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(refused) => return refused,
    };
    let Ok(fields) = serde_urlencoded::from_bytes::<Fields>(&bytes) else {
        return said(StatusCode::BAD_REQUEST, "This did not work", "The form is not whole.");
    };
    let token = fields.token.clone();
    match join(&app, who, fields).await {
        Ok(role) => {
            let text = format!("You belong to the tenant now, as {role}.");
            said(StatusCode::OK, "You have joined", &text)
        }
        // The link is as good as before: another account may do.
        Err(refusal) if matches!(status_of(refusal.class).as_u16(), 401 | 403 | 422) => {
            page(status_of(refusal.class), &self::fields(&token, Some(&refusal.message)))
        }
        Err(refusal) => said(status_of(refusal.class), "This did not work", &refusal.message),
    }
}

/// Logs in, joins, logs out. Answers the role.
async fn join(app: &App, who: Anyone, fields: Fields) -> Result<String, Refusal> {
    let Fields { token, email, password, otp } = fields;
    let otp = Some(otp).filter(|otp| !otp.is_empty());
    let (request, identity) = (who.request, &app.identity);
    let address = identity.invitation_of(&token)?;
    let life = TokenLife::Standard;
    let credentials = Credentials { email, password, otp, tenant: None, life };
    let tokens = log_in(app, who, credentials).await?;
    let now = app.system.clock().now();
    let verified = identity.authenticate(&tokens.access_token, now).await?;
    let origin = app.origin(&verified.caller, request);
    let joined = identity.accept_invitation(address, &verified.caller, true, origin).await;
    identity.logout(&tokens.refresh_token, request).await?;
    joined.map(|Joining { role, .. }| role)
}

fn said(status: StatusCode, title: &str, text: &str) -> Response {
    page(
        status,
        &html! {
            section.card { h1 { (title) } p { (text) } }
        },
    )
}

fn page(status: StatusCode, content: &Markup) -> Response {
    mail_pages::page(status, "Accept the invitation", content)
}
