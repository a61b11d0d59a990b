//! The pages of the sandbox payment provider: a person chooses how a payment goes, or keeps cards.
//! No money moves, and each page says so.
//!
//! Whoever has a page's address may use it: it ends in a secret. Opening one changes nothing. Where
//! another provider is set up there are none.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::get;
use billing::payments::provider::{IntentStatus, PaymentProvider as _, ProviderError};
use billing::payments::sandbox::{Card, Opened, PageId, Sandbox, SandboxIntent};
use maud::{Markup, html};
use serde::Deserialize;
use supervision::Refusal;

use super::mail_pages::{form, page, refused, said};
use crate::app::App;
use crate::authenticate::Anyone;

/// What every page says.
const NO_MONEY: &str = "This is the sandbox payment provider: no money moves.";

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/sandbox/checkout/{page_id}", get(checkout_page).post(checkout))
        .route("/sandbox/portal/{page_id}", get(portal_page).post(portal))
}

#[derive(Default, Deserialize)]
struct Fields {
    /// The id of a card's method; none to confirm what its bank asks.
    #[serde(default)]
    method: String,
    /// On the page of cards: `add`, `default` or `remove`.
    #[serde(default)]
    action: String,
}

fn sandbox(app: &App) -> Result<Arc<Sandbox>, Refusal> {
    app.system.find_port::<Sandbox>().ok_or_else(|| Refusal::not_found("page"))
}

fn not_there() -> Refusal {
    Refusal::not_found("page")
}

fn words(card: Card) -> &'static str {
    match card {
        Card::Visa => "pays",
        Card::Declined => "is declined",
        Card::Action => "must confirm first",
    }
}

/// A button for each card.
fn cards(action: &str) -> Markup {
    html! {
        @for card in Card::ALL {
            form method="post" {
                input type="hidden" name="method" value=(card.method());
                input type="hidden" name="action" value=(action);
                button type="submit" { code { (card.method()) } ": " (words(card)) }
            }
        }
    }
}

fn of_intent(intent: &SandboxIntent) -> Markup {
    let (dollars, cents) = (intent.amount_cents / 100, intent.amount_cents % 100);
    html! {
        section.card {
            h1 { (intent.description) }
            p { (format!("{dollars}.{cents:02}")) " " (intent.currency.to_uppercase()) }
            p.quiet { (NO_MONEY) }
            @match intent.status {
                IntentStatus::Succeeded => p role="status" { "It is paid." },
                IntentStatus::Cancelled => p role="status" { "It was cancelled." },
                IntentStatus::RequiresAction => {
                    p { "The bank asks its customer to confirm." }
                    form method="post" {
                        button.primary type="submit" { "Confirm" }
                    }
                    (cards("pay"))
                }
                IntentStatus::RequiresMethod | IntentStatus::Processing => {
                    @if let Some(code) = &intent.code {
                        p.error role="alert" { "The last card did not do: " (code) }
                    }
                    (cards("pay"))
                }
            }
        }
    }
}

async fn opened(app: &App, text: &str) -> Result<Response, Refusal> {
    let sandbox = sandbox(app)?;
    let id = PageId::read(text).ok_or_else(not_there)?;
    let content = match sandbox.open(&id).await? {
        Opened::Intent(intent) => of_intent(&intent),
        Opened::SetUp => html! {
            section.card {
                h1 { "Add a card" }
                p.quiet { (NO_MONEY) }
                (cards("add"))
            }
        },
    };
    Ok(page(StatusCode::OK, "Sandbox payment", &content))
}

async fn checkout_page(
    State(app): State<App>,
    _who: Anyone,
    Path(page_id): Path<String>,
) -> Response {
    opened(&app, &page_id).await.unwrap_or_else(|refusal| refused(&refusal))
}

async fn checkout(
    State(app): State<App>,
    _who: Anyone,
    Path(page_id): Path<String>,
    request: Request<Body>,
) -> Response {
    let fields = match form::<Fields>(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    acted(&app, &page_id, &fields).await.unwrap_or_else(|refusal| refused(&refusal))
}

fn card(method: &str) -> Result<Card, Refusal> {
    Card::of_method(method).ok_or_else(|| Refusal::invalid("method", "is no card of the sandbox"))
}

async fn acted(app: &App, text: &str, fields: &Fields) -> Result<Response, Refusal> {
    let sandbox = sandbox(app)?;
    let id = PageId::read(text).ok_or_else(not_there)?;
    if !id.is_intent {
        sandbox.attach_card(&id, card(&fields.method)?).await?;
        return Ok(said(StatusCode::OK, "The card was added", NO_MONEY));
    }
    let chosen = Some(fields.method.as_str()).filter(|method| !method.is_empty());
    sandbox.act(&id, chosen.map(card).transpose()?).await?;
    opened(app, text).await
}

async fn shown(app: &App, id: &PageId) -> Result<Response, Refusal> {
    let (_, methods) = sandbox(app)?.open_portal(id).await?;
    let content = html! {
        section.card {
            h1 { "Cards" }
            p.quiet { (NO_MONEY) }
            @if methods.is_empty() { p { "There are none." } }
            @for method in &methods {
                p {
                    code { (method.id) } " … " (method.last4)
                    @if method.is_default { " (default)" }
                }
                @for (action, label) in [("default", "Make it the default"), ("remove", "Remove")] {
                    form method="post" {
                        input type="hidden" name="method" value=(method.id);
                        input type="hidden" name="action" value=(action);
                        button type="submit" { (label) }
                    }
                }
            }
            h2 { "Add" }
            (cards("add"))
        }
    };
    Ok(page(StatusCode::OK, "Sandbox cards", &content))
}

async fn portal_page(
    State(app): State<App>,
    _who: Anyone,
    Path(page_id): Path<String>,
) -> Response {
    let shown = async {
        let id = PageId::read_portal(&page_id).ok_or_else(not_there)?;
        shown(&app, &id).await
    };
    shown.await.unwrap_or_else(|refusal| refused(&refusal))
}

async fn portal(
    State(app): State<App>,
    _who: Anyone,
    Path(page_id): Path<String>,
    request: Request<Body>,
) -> Response {
    let fields = match form::<Fields>(request).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    kept(&app, &page_id, &fields).await.unwrap_or_else(|refusal| refused(&refusal))
}

async fn kept(app: &App, text: &str, fields: &Fields) -> Result<Response, Refusal> {
    let sandbox = sandbox(app)?;
    let id = PageId::read_portal(text).ok_or_else(not_there)?;
    let (customer, _) = sandbox.open_portal(&id).await?;
    let chosen = card(&fields.method)?;
    let method = chosen.method().to_owned();
    let done: Result<(), ProviderError> = match fields.action.as_str() {
        "add" => sandbox.add_card(&customer, chosen).await,
        "default" => sandbox.set_default(customer, method).await,
        "remove" => sandbox.detach(customer, method).await,
        _ => return Err(Refusal::invalid("action", "must be add, default or remove")),
    };
    done?;
    shown(app, &id).await
}
