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
use maud::{Markup, html};
use serde::Deserialize;
use supervision::Refusal;

use super::login_form::{Typed, Visit, credential_fields, problem_line};
use super::mail_pages::{self, refused, said, token_field};
use crate::app::App;
use crate::authenticate::Anyone;
use crate::extract::Query;
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
            (credential_fields())
            (problem_line(problem))
            button.primary type="submit" { "Join" }
        }
    }
}

async fn accept(State(app): State<App>, who: Anyone, request: Request<Body>) -> Response {
    let fields = match mail_pages::form::<Fields>(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
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
        Err(refusal) => refused(&refusal),
    }
}

/// Logs in, joins, logs out. Answers the role.
async fn join(app: &App, who: Anyone, fields: Fields) -> Result<String, Refusal> {
    let Fields { token, email, password, otp } = fields;
    let address = app.identity.invitation_of(&token)?;
    let visit = Visit::enter(app, who, Typed { email, password, otp, tenant: None }).await?;
    let (caller, origin) = (&visit.verified.caller, visit.origin.clone());
    let joined = app.identity.accept_invitation(address, caller, true, origin).await;
    visit.leave(app).await?;
    joined.map(|Joining { role, .. }| role)
}

fn page(status: StatusCode, content: &Markup) -> Response {
    mail_pages::page(status, "Accept the invitation", content)
}
