//! `/v1/operator/issuing-keys`: the keys that agent tokens are signed with, and replacing them.

use activity::operator_act::{self, Noted};
use agents::issuing::{IssuingKeyRing, Rotate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use identity::signing_keys::KeyError;
use supervision::{Entity as _, Refusal};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::signing_keys::{RotateRequest, SigningKeysView, view};
use crate::app::App;
use crate::authenticate::Operator;
use crate::extract::JsonBody;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(issuing_keys)).routes(routes!(rotate_issuing_keys))
}

/// The keys that agent tokens are signed with: next, current and previous
#[utoipa::path(get, path = "/v1/operator/issuing-keys", tag = tag::OPERATOR,
    responses((status = 200, body = SigningKeysView), (status = 401), (status = 403)))]
async fn issuing_keys(
    State(app): State<App>,
    Operator(_entered): Operator,
) -> Result<Json<SigningKeysView>, Problem> {
    let published = app.agents.issuing_keys().get()?;
    let next_ms = published.since_ms.saturating_add(app.identity.key_period_ms());
    Ok(Json(view(&published.set, next_ms)))
}

/// Replace the key that agent tokens are signed with: the next one signs, a fresh one follows it
///
/// Tokens that were signed before stay good until they expire. Refused with 409
/// `signing_key_rotation_too_soon` until the next key has been public for an hour.
#[utoipa::path(post, path = "/v1/operator/issuing-keys/rotate", tag = tag::OPERATOR,
    request_body = RotateRequest,
    responses((status = 200, body = SigningKeysView), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn rotate_issuing_keys(
    State(app): State<App>,
    Operator(entered): Operator,
    key: Key,
    body: JsonBody<RotateRequest>,
) -> Result<Response, Problem> {
    let address = IssuingKeyRing::address();
    let (operation, place) = ("rotate_issuing_keys", address.place());
    let once = once::begin(&app, key, &entered.caller, place, operation, &body.bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let present = app.agents.issuing_keys().get()?;
    let now_ms = u64::try_from(app.system.clock().now().0).unwrap_or_default();
    let set = present.set.rotate(now_ms).map_err(|error| match error {
        KeyError::TooSoon { .. } => Refusal::conflict(error.code(), error.to_string()),
        _ => Refusal::crashed(),
    })?;
    let rotate = Rotate { set: set.to_stored(), replaces: present.generation };
    let origin = app.origin(&entered.caller, entered.request);
    let act = Noted {
        kind: IssuingKeyRing::KIND.to_owned(),
        id: address.id().to_owned(),
        action: "rotate".to_owned(),
        reason: body.value.reason,
    };
    operator_act::note(&app.system, place.home, act, origin.clone()).await?;
    let answer = view(&set, now_ms.saturating_add(app.identity.key_period_ms()));
    let response =
        once.conclude(&app, &address, rotate, origin, (StatusCode::OK, |()| answer)).await?;
    // Before it is acknowledged.
    app.agents.issuing_keys().load(&app.system).await?;
    Ok(response)
}
