//! What the payment provider tells of its own accord: `/v1/webhooks/stripe`.
//!
//! Nobody's credential is asked for: the signature over the body is one. What cannot be taken in
//! now is 503, so that it is told again; what does not matter here is 200.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use billing::payments::provider::NewsError;
use serde::Serialize;
use supervision::{Class, Origin, Refusal};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::topups::port;
use crate::app::App;
use crate::authenticate::Anyone;
use crate::extract::read_body;
use crate::openapi::tag;
use crate::problem::Problem;

/// The most bytes of an event.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stripe_news))
}

/// That it was taken.
#[derive(Serialize, ToSchema)]
struct Received {
    received: bool,
}

fn refused(error: NewsError) -> Refusal {
    let code = match error {
        NewsError::NotSetUp => "stripe_not_set_up",
        NewsError::Signature(_) => "signature_invalid",
        NewsError::Malformed => "malformed_json",
    };
    Refusal::new(Class::BadRequest, code, error.to_string())
}

/// Take what Stripe tells: the raw body, with `Stripe-Signature`
#[utoipa::path(post, path = "/v1/webhooks/stripe", tag = tag::GATEWAY, security(()),
    responses((status = 200, body = Received), (status = 400), (status = 413), (status = 503)))]
async fn stripe_news(State(app): State<App>, who: Anyone, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let signature = parts.headers.get("stripe-signature");
    let signature = signature.and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    let body = match read_body(body, EVENT_BYTES_MAX).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let origin = Origin { caller: "stripe".into(), request: who.request, cause: None };
    match take(&app, &body, &signature, &origin).await {
        Ok(()) => Json(Received { received: true }).into_response(),
        Err(refusal) => Problem(refusal).into_response(),
    }
}

async fn take(app: &App, body: &[u8], signature: &str, origin: &Origin) -> Result<(), Refusal> {
    let (payments, now_s) = (port(app), app.system.clock().now().0 / 1_000);
    let news = payments.provider().read_news(body, signature, now_s).map_err(refused)?;
    let id = news.id.clone();
    match payments.hear(&app.system, news, origin).await {
        Err(refusal) if refusal.class.may_pass() => Err(refusal),
        // To be told again would change nothing.
        Err(refusal) => {
            tracing::warn!(id, %refusal, "news of a payment were not taken in");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}
