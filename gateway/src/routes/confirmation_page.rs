//! The page on which somebody sees what waits for them, and confirms or cancels it: what moves
//! money is released nowhere else.
//!
//! Server-rendered, without a script and without cookies. Opening it shows and changes nothing but
//! a login form. Who logs in on it sees what will be done, and the form that they get then holds a
//! ticket for this card ([`super::tickets`]). So a token that some program holds releases nothing
//! here, and no other site's form does. The session of the login is ended at once; nothing stays in
//! the browser.

use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::get;
use confirmations::deciding::{Cancel, Decide, over};
use confirmations::{Card, Confirmation, Decider, State as CardState, desk};
use extensions::guard::answer_of;
use maud::{Markup, html};
use serde::Deserialize;
use supervision::{Address, Refusal, RequestRef};
use types::{ConfirmationId, UserId};

use super::confirmations::{CardView, outcome};
use super::login_form::{Typed, Visit, credential_fields, problem_line};
use super::mail_pages;
use super::tickets::Tickets;
use crate::app::App;
use crate::authenticate::Anyone;
use crate::problem::status_of;

const TITLE: &str = "Confirm";
pub(super) fn router() -> Router<App> {
    Router::new().route("/confirmations/{confirmation_id}", get(form).post(act))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    email: String,
    password: String,
    otp: String,
    /// What the page has given to who has logged in.
    ticket: String,
    /// Which button: `confirm` or `cancel`.
    decision: String,
}

async fn form(Path(id): Path<String>) -> Response {
    page(StatusCode::OK, &login(&id, None))
}

fn login(id: &str, problem: Option<&str>) -> Markup {
    html! {
        form.card method="post" action={ "/confirmations/" (id) } {
            h1 { "Something waits for you" }
            p.quiet { "Log in to see what it is. Nothing is done before you confirm it." }
            (credential_fields())
            (problem_line(problem))
            button.primary type="submit" { "Show it" }
        }
    }
}

fn shown(view: &CardView, card: &Card, ticket: &str) -> Markup {
    let subject = &card.opened.subject;
    let params = serde_json::to_string_pretty(view.params()).unwrap_or_default();
    html! {
        form.card method="post" action={ "/confirmations/" (card.opened.id) } {
            h1 { (subject.title) }
            p { "Asked for by " code { (card.opened.principal) } "." }
            dl {
                dt { "What it does" } dd { (subject.action) }
                dt { "What it costs at most" } dd { (subject.price) " credits" }
                dt { "Until" } dd { (types::rfc3339(card.opened.expires_at)) }
            }
            h2 { "With" }
            pre { (params) }
            input type="hidden" name="ticket" value=(ticket);
            button.primary type="submit" name="decision" value="confirm" { "Confirm" }
            button type="submit" name="decision" value="cancel" { "Cancel" }
        }
    }
}

async fn act(
    State(app): State<App>,
    who: Anyone,
    Path(text): Path<String>,
    request: Request<Body>,
) -> Response {
    let fields: Fields = match mail_pages::form(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    let done = match fields.ticket.is_empty() {
        true => look(&app, who, &text, fields).await,
        false => decide(&app, who.request, &text, fields).await,
    };
    match done {
        Ok(response) => response,
        // Another account, or the code typed anew, may do.
        Err(refusal) if matches!(status_of(refusal.class).as_u16(), 401 | 403 | 422) => {
            page(status_of(refusal.class), &login(&text, Some(&refusal.message)))
        }
        Err(refusal) => said(status_of(refusal.class), "This did not work", &refusal.message),
    }
}

fn missing() -> Refusal {
    Refusal::not_found("confirmation")
}

/// The card of a person. 404 for anybody else's.
async fn card_of(
    app: &App,
    text: &str,
    user: Option<UserId>,
) -> Result<(Address<Confirmation>, Card), Refusal> {
    let id = text.parse().map_err(|_| missing())?;
    let address = desk::locate(&app.system, id).ok_or_else(missing)?;
    let (cards, origin) = (app.system.directory::<Confirmation>(), app.system.system_origin());
    let card = cards.look(&address, origin, |it| it.card().cloned()).await?;
    let card = card.filter(|card| user.is_none_or(|user| card.opened.user == user));
    Ok((address, card.ok_or_else(missing)?))
}

/// Logs in, and shows what waits, with a ticket to decide it.
async fn look(app: &App, who: Anyone, text: &str, fields: Fields) -> Result<Response, Refusal> {
    let Fields { email, password, otp, .. } = fields;
    // In the card's tenant, whose rules for logging in count.
    let tenant = card_of(app, text, None).await.ok().map(|(_, card)| card.opened.tenant);
    let visit = Visit::enter(app, who, Typed { email, password, otp, tenant }).await?;
    let (caller, now) = (visit.verified.caller.clone(), app.system.clock().now());
    visit.leave(app).await?;
    let (_, card) = card_of(app, text, caller.user).await?;
    if card.state != CardState::Pending || card.is_late(now) {
        return Err(over(&card));
    }
    let tickets = app.system.port::<Tickets>();
    let ticket = tickets.give(card.opened.id.0, caller, Instant::now());
    let ticket = ticket.ok_or_else(Refusal::crashed)?;
    let view = CardView::of(&app.system, &card);
    Ok(page(StatusCode::OK, &shown(&view, &card, &ticket)))
}

/// Decides what was shown.
async fn decide(
    app: &App,
    request: RequestRef,
    text: &str,
    fields: Fields,
) -> Result<Response, Refusal> {
    let id: ConfirmationId = text.parse().map_err(|_| missing())?;
    let tickets = app.system.port::<Tickets>();
    let caller = tickets.take(&fields.ticket, id.0, Instant::now());
    let Some(caller) = caller else {
        let message = "this page was open for too long, or was used; log in again";
        return Err(Refusal::forbidden(message));
    };
    let user = caller.user.ok_or_else(missing)?;
    // What was so when they logged in may have changed.
    app.identity.admit_service(caller.tenant, Some(user)).await?;
    let (address, card) = card_of(app, text, Some(user)).await?;
    let (cards, origin) = (app.system.directory(), app.origin(&caller, request));
    match fields.decision.as_str() {
        "confirm" => {
            let by = Decider { user, role: caller.role };
            let decide = Decide { by, approves: true, reason: None, in_panel: true };
            let card = cards.ask(&address, decide, origin).await?;
            let card = outcome(app, &address, card).await?;
            let answer = answer_of(&app.system, &card);
            let (title, text) = match answer.error {
                None => ("It is done", answer.summary.unwrap_or_else(|| TOLD.to_owned())),
                Some(error) => ("It was tried, and did not work", error),
            };
            Ok(said(StatusCode::OK, title, &text))
        }
        "cancel" => {
            cards.ask(&address, Cancel { reason: None }, origin).await?;
            Ok(said(StatusCode::OK, "It is cancelled", "Nothing was done."))
        }
        _ => {
            drop(card);
            Err(Refusal::invalid("decision", "must be confirm or cancel"))
        }
    }
}

const TOLD: &str = "Whoever asked for it learns that now. You can close this page.";

fn said(status: StatusCode, title: &str, text: &str) -> Response {
    page(
        status,
        &html! {
            section.card { h1 { (title) } p { (text) } }
        },
    )
}

fn page(status: StatusCode, content: &Markup) -> Response {
    mail_pages::page(status, TITLE, content)
}
