//! The page that a provider's browser comes back to where no browser of this server's pages has
//! begun to connect an account: a program did, by the API, and whoever opens the address need not
//! be whom it did so for. So they log in first, are shown what would be connected to whom, and
//! agree, before the state is taken.
//!
//! Server-rendered, without a script and without cookies. What came back with the browser is in the
//! form, and nowhere else. The session of the login is ended at once; nothing stays in the browser.

use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::get;
use extensions::oauth::{Bound, Shown};
use maud::{Markup, html};
use serde::Deserialize;
use supervision::{Origin, Refusal};

use super::login_form::{Typed, Visit, credential_fields, problem_line};
use super::oauth::{Back, NOT_GOOD, finish};
use super::tickets::Tickets;
use super::{mail_pages, oauth};
use crate::app::App;
use crate::authenticate::Anyone;
use crate::problem::status_of;

const TITLE: &str = "Connect an account";
/// Where its forms go.
const PATH: &str = "/oauth/connect";

pub(super) fn router() -> Router<App> {
    Router::new().route("/oauth/connect", get(nothing).post(act))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    app_id: String,
    provider: String,
    code: String,
    state: String,
    email: String,
    password: String,
    otp: String,
    /// What the page has given to who has logged in.
    ticket: String,
    /// Which button: `connect` or `cancel`.
    decision: String,
}

impl Fields {
    fn back(&self) -> Back<'_> {
        let Self { app_id, provider, code, state, .. } = self;
        Back { app_id, provider, code, state }
    }
}

/// What somebody sees who opens the address by itself, or once more.
async fn nothing() -> Response {
    let text = "There is nothing to connect here. Begin in the app.";
    mail_pages::said(StatusCode::OK, TITLE, text)
}

/// What came back, on its way through the form.
fn carried(back: &Back<'_>) -> Markup {
    html! {
        input type="hidden" name="app_id" value=(back.app_id);
        input type="hidden" name="provider" value=(back.provider);
        input type="hidden" name="code" value=(back.code);
        input type="hidden" name="state" value=(back.state);
    }
}

/// The page that asks who it is.
pub(super) fn login(back: &Back<'_>, problem: Option<&Refusal>) -> Response {
    let form = html! {
        form.card method="post" action=(PATH) {
            h1 { (TITLE) }
            p.quiet {
                "An app has begun to connect an account of yours elsewhere. Log in as who began \
                 it to see what would be connected. Nothing is before you agree."
            }
            (carried(back))
            (credential_fields())
            (problem_line(problem.map(|it| it.message.as_str())))
            button.primary type="submit" { "Show it" }
        }
    };
    let status = problem.map_or(StatusCode::OK, |it| status_of(it.class));
    mail_pages::page(status, TITLE, &form)
}

async fn act(State(app): State<App>, who: Anyone, request: Request<Body>) -> Response {
    let fields: Fields = match mail_pages::form(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    let origin = Origin { caller: "oauth".into(), request: who.request, cause: None };
    let back = fields.back();
    let found = oauth::look(&app, &back, &origin).await;
    let bound = match found {
        Ok(bound) if bound.browser.is_none() => bound,
        // Where a browser began it, that browser ends it.
        Ok(_) => return mail_pages::said(StatusCode::BAD_REQUEST, "This did not work", NOT_GOOD),
        Err(refused) => return refused,
    };
    if fields.ticket.is_empty() {
        return match show(&app, who, &bound, &fields).await {
            Ok(page) => page,
            // Another account, or the code typed anew, may do.
            Err(refusal) if matches!(status_of(refusal.class).as_u16(), 401 | 403 | 422) => {
                login(&back, Some(&refusal))
            }
            Err(refusal) => mail_pages::refused(&refusal),
        };
    }
    decide(&app, &bound, &fields, &origin).await
}

/// Logs in, and shows what would be connected, with a ticket to agree to it.
async fn show(app: &App, who: Anyone, bound: &Bound, fields: &Fields) -> Result<Response, Refusal> {
    let Fields { email, password, otp, .. } = fields;
    let (email, password, otp) = (email.clone(), password.clone(), otp.clone());
    // In the tenant that it is for, whose rules for logging in count.
    let tenant = Some(bound.tenant);
    let visit = Visit::enter(app, who, Typed { email, password, otp, tenant }).await?;
    let (caller, origin) = (visit.verified.caller.clone(), visit.origin.clone());
    visit.leave(app).await?;
    if caller.user != Some(bound.user) {
        return Err(Refusal::forbidden("this was begun for another user; log in as that one"));
    }
    let tenant = app.identity.look_tenant(bound.tenant, |it| it.details.clone()).await?.flatten();
    let tenant = tenant.map(|details| details.name).unwrap_or_default();
    let found = app.extensions.apps().find(&app.system, &bound.app, &origin).await?;
    let title = found.ir.as_ref().map_or_else(String::new, |ir| ir.title.clone());
    let ticket = app.system.port::<Tickets>().give(bound.id, caller, Instant::now());
    let ticket = ticket.ok_or_else(Refusal::crashed)?;
    let question = html! {
        form.card method="post" action=(PATH) {
            h1 { "Connect this account of " (bound.provider) "?" }
            p {
                "The account with which you have agreed there is connected to " b { (fields.email) }
                " in the tenant " b { (tenant) } ", for the app " b { (title) } " ("
                code { (bound.app) } "). The app gets access to it."
            }
            p.quiet { "Go on only if you have begun this yourself just now." }
            (carried(&fields.back()))
            input type="hidden" name="ticket" value=(ticket);
            button.primary type="submit" name="decision" value="connect" { "Connect" }
            button type="submit" name="decision" value="cancel" { "Do not connect" }
        }
    };
    Ok(mail_pages::page(StatusCode::OK, TITLE, &question))
}

/// Takes the state for whoever has agreed.
async fn decide(app: &App, bound: &Bound, fields: &Fields, origin: &Origin) -> Response {
    let ticket = app.system.port::<Tickets>().take(&fields.ticket, bound.id, Instant::now());
    let user = ticket.and_then(|caller| caller.user).filter(|user| *user == bound.user);
    let Some(user) = user else {
        let message = "this page was open for too long, or was used; log in again";
        return login(&fields.back(), Some(&Refusal::forbidden(message)));
    };
    let (shown, is_wanted) = (Shown::User(user), fields.decision == "connect");
    finish(app, &fields.back(), (shown, is_wanted), origin).await
}
