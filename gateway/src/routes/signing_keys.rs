//! `/v1/operator/signing-keys`: the keys that user tokens are signed with, and replacing them.

use activity::operator_act::{self, Noted};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use identity::signing::SigningKeyRing;
use identity::signing_keys::{KeySet, Standing};
use serde::{Deserialize, Serialize};
use supervision::{Entity as _, Timestamp};
use types::rfc3339;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Operator;
use crate::extract::JsonBody;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(signing_keys)).routes(routes!(rotate_signing_keys))
}

/// One key.
#[derive(Serialize, ToSchema)]
struct SigningKeyView {
    /// Its name in tokens and in the JWKS
    kid: String,
    /// `RS256` or `EdDSA`
    algorithm: &'static str,
    /// `next`, `current` or `previous`
    standing: &'static str,
    /// Since when it is public
    published_at: String,
    /// From when on no token of it can be valid; null while it signs or will
    kept_until: Option<String>,
}

/// The keys in use.
#[derive(Serialize, ToSchema)]
pub(super) struct SigningKeysView {
    /// Next, current, then the previous ones, the latest first
    keys: Vec<SigningKeyView>,
    /// When the current key is replaced by itself
    next_rotation_at: String,
}

fn time(ms: u64) -> String {
    rfc3339(Timestamp(i64::try_from(ms).unwrap_or(i64::MAX)))
}

pub(super) fn view(set: &KeySet, next_rotation_ms: u64) -> SigningKeysView {
    let keys = set.standings().map(|(key, standing)| {
        let (standing, kept_until) = match standing {
            Standing::Next => ("next", None),
            Standing::Current => ("current", None),
            Standing::Previous { kept_until_ms } => ("previous", Some(time(kept_until_ms))),
        };
        SigningKeyView {
            kid: key.kid().to_owned(),
            algorithm: key.algorithm().name(),
            standing,
            published_at: time(key.created_at_ms()),
            kept_until,
        }
    });
    SigningKeysView { keys: keys.collect(), next_rotation_at: time(next_rotation_ms) }
}

/// The signing keys: next, current and previous
#[utoipa::path(get, path = "/v1/operator/signing-keys", tag = tag::OPERATOR,
    responses((status = 200, body = SigningKeysView), (status = 401), (status = 403)))]
async fn signing_keys(
    State(app): State<App>,
    Operator(_entered): Operator,
) -> Result<Json<SigningKeysView>, Problem> {
    let published = app.identity.signing_keys().get()?;
    Ok(Json(view(&published.set, app.identity.next_rotation_ms()?)))
}

/// Why to rotate.
#[derive(Deserialize, ToSchema)]
pub(super) struct RotateRequest {
    /// For people; it stands in the platform's chain
    pub(super) reason: String,
}

/// Replace the signing key: the next one signs, a fresh one follows it
///
/// Tokens that were signed before stay good until they expire. Refused with 409
/// `signing_key_rotation_too_soon` until the next key has been public for an hour.
#[utoipa::path(post, path = "/v1/operator/signing-keys/rotate", tag = tag::OPERATOR,
    request_body = RotateRequest,
    responses((status = 200, body = SigningKeysView), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn rotate_signing_keys(
    State(app): State<App>,
    Operator(entered): Operator,
    key: Key,
    body: JsonBody<RotateRequest>,
) -> Result<Response, Problem> {
    let address = SigningKeyRing::address();
    let (operation, place) = ("rotate_signing_keys", address.place());
    let once = once::begin(&app, key, &entered.caller, place, operation, &body.bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let (rotate, set) = app.identity.rotation().await?;
    let origin = app.origin(&entered.caller, entered.request);
    let act = Noted {
        kind: SigningKeyRing::KIND.to_owned(),
        id: address.id().to_owned(),
        action: "rotate".to_owned(),
        reason: body.value.reason,
    };
    operator_act::note(&app.system, place.home, act, origin.clone()).await?;
    let now_ms = u64::try_from(app.system.clock().now().0).unwrap_or_default();
    let answer = view(&set, now_ms.saturating_add(app.identity.key_period_ms()));
    let rings = app.system.directory::<SigningKeyRing>();
    let recorded = once::record(StatusCode::OK, &answer);
    if let Once::Ticketed(ticketed) = once {
        let render = {
            let recorded = recorded.clone();
            move |()| recorded
        };
        rings.ask_once(&address, rotate, origin, ticketed, render).await?;
    } else {
        rings.ask(&address, rotate, origin).await?;
    }
    app.identity.rotated().await?;
    once::response(&recorded)
}
