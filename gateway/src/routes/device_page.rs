//! The page on which somebody lets a device in: they type the code that it shows, and log in.
//!
//! Server-rendered, without a script. Opening it changes nothing. The session that the form opens
//! stays until the device is logged in or the code has expired, because the device is let in only
//! while it is open; it is nobody else's, and nothing stays in the browser.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use serde::Deserialize;
use supervision::Refusal;

use super::auth::tenant_named;
use super::login_form::{Typed, Visit, credential_fields, problem_line};
use super::mail_pages::{self, refused, said};
use crate::app::App;
use crate::authenticate::Anyone;
use crate::extract::Query;
use crate::problem::status_of;

const TITLE: &str = "Log in a device";

pub(super) fn router() -> Router<App> {
    Router::new().route("/device", get(form).post(decide))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    user_code: String,
    email: String,
    password: String,
    otp: String,
    tenant: String,
    /// Which button: `approve` or `deny`.
    decision: String,
}

async fn form(Query(Fields { user_code, .. }): Query<Fields>) -> Response {
    page(StatusCode::OK, &fields(&user_code, None))
}

fn fields(user_code: &str, problem: Option<&str>) -> Markup {
    html! {
        form.card method="post" action="/device" {
            h1 { (TITLE) }
            p.quiet {
                "A program on another device asks to act as you. Go on only if you have started \
                 it yourself just now, and if it shows this code. Nobody who calls or writes to \
                 you has a reason to give you one."
            }
            label for="user_code" { "The code that the device shows" }
            input #user_code name="user_code" type="text" value=(user_code) autocomplete="off"
                spellcheck="false" required;
            (credential_fields())
            label for="tenant" { "Tenant, if it is not your own: its name or id" }
            input #tenant name="tenant" type="text" autocomplete="off" spellcheck="false";
            (problem_line(problem))
            button.primary type="submit" name="decision" value="approve" { "Let it in" }
            button type="submit" name="decision" value="deny" { "Do not let it in" }
        }
    }
}

async fn decide(State(app): State<App>, who: Anyone, request: Request<Body>) -> Response {
    let fields = match mail_pages::form::<Fields>(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    let user_code = fields.user_code.clone();
    match settle(&app, who, fields).await {
        Ok(true) => said(StatusCode::OK, "The device is let in", "It goes on by itself now."),
        Ok(false) => said(StatusCode::OK, "The device is not let in", "It learns that now."),
        // Another account, or the code typed anew, may do.
        Err(refusal) if matches!(status_of(refusal.class).as_u16(), 401 | 403 | 404 | 422) => {
            page(status_of(refusal.class), &self::fields(&user_code, Some(&refusal.message)))
        }
        Err(refusal) => refused(&refusal),
    }
}

/// Logs in and decides. Answers whether the device is let in.
async fn settle(app: &App, who: Anyone, fields: Fields) -> Result<bool, Refusal> {
    let Fields { user_code, email, password, otp, tenant, decision } = fields;
    let approves = match decision.as_str() {
        "approve" => true,
        "deny" => false,
        _ => return Err(Refusal::invalid("decision", "must be approve or deny")),
    };
    let tenant = tenant_named(app, tenant.trim()).await?;
    let visit = Visit::enter(app, who, Typed { email, password, otp, tenant }).await?;
    let (caller, origin) = (&visit.verified.caller, visit.origin.clone());
    let decided =
        app.identity.decide_device_login(caller, &user_code, approves, true, origin).await;
    if !approves || decided.is_err() {
        visit.leave(app).await?;
    }
    decided.map(|()| approves)
}

fn page(status: StatusCode, content: &Markup) -> Response {
    mail_pages::page(status, TITLE, content)
}
