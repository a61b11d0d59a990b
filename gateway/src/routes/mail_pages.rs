//! The pages that links in mails open: a person confirms an address or chooses a password.
//!
//! Server-rendered, without a script. Opening a page changes nothing, since programs that scan
//! mails open links too: only the form on it does. The token in the address is kept out of caches
//! and referrers.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use billing::verification;
use identity::mail_link::Purpose;
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use supervision::Refusal;

use super::password::{anonymous, mail_link, set_password};
use crate::app::App;
use crate::authenticate::Anyone;
use crate::extract::{Query, read_body};
use crate::problem::status_of;

/// The most bytes of a form.
const FORM_BYTES_MAX: usize = 16 * 1024;
/// What a page may load and where its form may go: nowhere but here.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/verify-email", get(verify_page).post(verify))
        .route("/reset-password", get(reset_page).post(reset))
}

#[derive(Default, Deserialize)]
struct Fields {
    #[serde(default)]
    token: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    new_password: String,
}

async fn verify_page(Query(Fields { token, .. }): Query<Fields>) -> Response {
    page(
        StatusCode::OK,
        "Confirm your e-mail address",
        &html! {
            form.card method="post" action="/verify-email" {
                h1 { "Confirm your e-mail address" }
                (token_field(&token))
                button.primary type="submit" { "Confirm" }
            }
        },
    )
}

async fn verify(State(app): State<App>, who: Anyone, request: Request<Body>) -> Response {
    let Fields { token, .. } = match form(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    let (by, origin) = (app.system.new_id(), anonymous(who.request));
    match verification::verify(&app.system, &token, by, origin).await {
        Ok(_) => said(StatusCode::OK, "Your e-mail address is confirmed", "You can log in now."),
        Err(refusal) => refused(&refusal),
    }
}

async fn reset_page(Query(Fields { token, .. }): Query<Fields>) -> Response {
    page(StatusCode::OK, "Choose a new password", &reset_form(&token, None))
}

/// With a token: a new password. Without: whom to send a link to.
fn reset_form(token: &str, problem: Option<&str>) -> Markup {
    html! {
        form.card method="post" action="/reset-password" {
            h1 { "Choose a new password" }
            @if token.is_empty() {
                p.quiet { "A link to choose it is sent to your e-mail address." }
                label for="email" { "E-mail address" }
                input #email name="email" type="email" autocomplete="username" required;
            } @else {
                input type="hidden" name="token" value=(token);
                label for="password" { "New password, at least 8 characters" }
                input #password name="new_password" type="password" minlength="8"
                    autocomplete="new-password" required;
            }
            @if let Some(problem) = problem { p.error role="alert" { (problem) } }
            button.primary type="submit" {
                @if token.is_empty() { "Send the link" } @else { "Set the password" }
            }
        }
    }
}

async fn reset(State(app): State<App>, who: Anyone, request: Request<Body>) -> Response {
    let Fields { token, email, new_password } = match form(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    let (id, title) = (app.system.new_id(), "Choose a new password");
    if token.is_empty() {
        return match mail_link(&app, Purpose::ResetPassword, &who, &email, id).await {
            Ok(()) => {
                let text = "If there is an account with this address, a mail is on its way.";
                said(StatusCode::OK, "Look into your mail", text)
            }
            Err(refusal) => {
                let form = reset_form("", Some(&refusal.message));
                page(status_of(refusal.class), title, &form)
            }
        };
    }
    match set_password(&app, &token, new_password, id, who.request).await {
        Ok(()) => said(StatusCode::OK, "Your password was changed", "You can log in with it now."),
        // The link is as good as before: another password may do.
        Err(refusal) if refusal.class == supervision::Class::Invalid => {
            let form = reset_form(&token, Some(&refusal.message));
            page(status_of(refusal.class), title, &form)
        }
        Err(refusal) => refused(&refusal),
    }
}

/// The token of the link, or where to type it in.
pub(super) fn token_field(token: &str) -> Markup {
    html! {
        @if token.is_empty() {
            label for="token" { "The code at the end of the link in the mail" }
            input #token name="token" type="text" autocomplete="off" spellcheck="false" required;
        } @else {
            input type="hidden" name="token" value=(token);
        }
    }
}

/// Says why it did not work.
pub(super) fn refused(refusal: &Refusal) -> Response {
    said(status_of(refusal.class), "This did not work", &refusal.message)
}

/// A page that says one thing.
pub(super) fn said(status: StatusCode, title: &str, text: &str) -> Response {
    page(
        status,
        title,
        &html! {
            section.card { h1 { (title) } p { (text) } }
        },
    )
}

/// The fields of a form that was sent, or the page that says that it is none.
pub(super) async fn form<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Response> {
    let bytes = read_body(request.into_body(), FORM_BYTES_MAX).await?;
    let wrong = |_| said(StatusCode::BAD_REQUEST, "This did not work", "The form is not whole.");
    serde_urlencoded::from_bytes(&bytes).map_err(wrong)
}

/// A page with its headers: nothing keeps it, and nothing learns its address.
pub(super) fn page(status: StatusCode, title: &str, content: &Markup) -> Response {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " - Bailiwick" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/assets/palette.css";
                link rel="stylesheet" href="/console/style.css";
            }
            body {
                header.top { p.brand { span.mark aria-hidden="true" {} "Bailiwick" } }
                main { (content) }
            }
        }
    };
    let mut response = (status, document.into_string()).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
