//! `Idempotency-Key`: the same key and body get the answer that was recorded with the change.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use serde::{Deserialize, Serialize};
use supervision::address::Place;
use supervision::idempotency::Ticketed;
use supervision::{Address, Begin, Command, Handle, IdempotencyKey, Origin, Refusal};
use types::{Caller, TenantId};

use crate::app::App;
use crate::problem::Problem;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// The client's key, if it sent one.
#[derive(Default)]
pub struct Key(pub Option<String>, IsShownOnce);

type IsShownOnce = bool;

impl Key {
    /// Says that the answer holds a value that is shown only once: a repetition is answered alike
    /// for ten minutes, and with 410 after that.
    pub fn shown_once(self) -> Self {
        Self(self.0, true)
    }

    /// The key of this operation of this caller's, bound to the body. Whose key it is follows from
    /// the credential: the same text of another caller is another key.
    pub fn of(&self, caller: &Caller, operation: &str, body: &[u8]) -> Option<IdempotencyKey> {
        self.of_principal(caller.tenant, &caller.label(), operation, body)
    }

    /// As [`Key::of`], of somebody without a credential: the key is the address's that asks.
    pub fn of_stranger(
        &self,
        address: &str,
        operation: &str,
        body: &[u8],
    ) -> Option<IdempotencyKey> {
        self.of_principal(TenantId::SYSTEM, address, operation, body)
    }

    fn of_principal(
        &self,
        tenant: TenantId,
        principal: &str,
        operation: &str,
        body: &[u8],
    ) -> Option<IdempotencyKey> {
        let text = self.0.as_deref()?;
        let key = IdempotencyKey::new(tenant.0, principal, operation, text, body);
        Some(if self.1 { key.shown_once() } else { key })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(Self::default()) };
        if values.next().is_some() {
            return Err(Refusal::invalid("Idempotency-Key", "was sent more than once").into());
        }
        let text = value.to_str().unwrap_or_default();
        if text.is_empty() || text.len() > KEY_BYTES_MAX {
            let message = format!("must be 1 to {KEY_BYTES_MAX} visible ASCII characters");
            return Err(Refusal::invalid("Idempotency-Key", message).into());
        }
        Ok(Self(Some(text.to_owned()), false))
    }
}

/// An answer as it is recorded: its status and its body.
#[derive(Serialize, Deserialize)]
struct Recorded {
    status: u16,
    body: String,
}

/// The bytes that are recorded for an answer of this status and body.
pub fn record(status: StatusCode, body: &impl Serialize) -> Vec<u8> {
    // A body of ours always encodes: it has string keys and finite numbers only.
    let body = serde_json::to_string(body).unwrap_or_default();
    let recorded = Recorded { status: status.as_u16(), body };
    serde_json::to_vec(&recorded).unwrap_or_default()
}

/// The response that recorded bytes stand for: the same bytes each time.
pub fn response(recorded: &[u8]) -> Result<Response<Body>, Problem> {
    let recorded: Recorded = serde_json::from_slice(recorded).map_err(|_| Refusal::in_doubt())?;
    let mut response = Response::new(Body::from(recorded.body));
    *response.status_mut() = StatusCode::from_u16(recorded.status).unwrap_or(StatusCode::OK);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// What to do about a request that may be a repetition.
pub enum Once {
    /// It was done before: answer this.
    Answered(Response<Body>),
    /// Do it, and record the answer with this.
    Ticketed(Ticketed),
    /// It has no key: just do it.
    Plain,
}

impl Once {
    /// Answers what was done by more than one command, or by a process: `view` of what `command`,
    /// which changes nothing, replies. With a key that answer is recorded.
    pub async fn conclude<E, C, V>(
        self,
        app: &App,
        address: &Address<E>,
        command: C,
        origin: Origin,
        (status, view): (StatusCode, impl FnOnce(E::Reply) -> V + Send + 'static),
    ) -> Result<Response<Body>, Problem>
    where
        C: Command,
        E: Handle<C>,
        V: Serialize,
    {
        let directory = app.system.directory::<E>();
        match self {
            Self::Answered(response) => Ok(response),
            Self::Ticketed(ticketed) => {
                let render = move |reply| record(status, &view(reply));
                response(&directory.ask_once(address, command, origin, ticketed, render).await?)
            }
            Self::Plain => {
                let reply = directory.ask(address, command, origin).await?;
                Ok((status, axum::Json(view(reply))).into_response())
            }
        }
    }
}

/// The id of what a request makes: with a key the key's own, so that a repetition finds it,
/// whatever came between.
pub fn id_for(app: &App, key: Option<&IdempotencyKey>) -> u128 {
    key.map_or_else(|| app.system.new_id(), IdempotencyKey::process_id)
}

/// Finds out. `place` is the entity whose command will record the answer.
pub async fn begin(
    app: &App,
    key: Key,
    caller: &Caller,
    place: &Place,
    operation: &str,
    body: &[u8],
) -> Result<Once, Problem> {
    begin_as(app, key.of(caller, operation, body), place).await
}

/// [`begin`] by a key that was made already.
pub async fn begin_as(
    app: &App,
    key: Option<IdempotencyKey>,
    place: &Place,
) -> Result<Once, Problem> {
    let Some(key) = key else { return Ok(Once::Plain) };
    match app.system.begin(place, key).await? {
        Begin::Recorded(bytes) => response(&bytes).map(Once::Answered),
        Begin::Fresh(ticketed) => Ok(Once::Ticketed(ticketed)),
    }
}

/// Asks `$address` once for `$command`, and answers `$status` with the view of its reply.
#[macro_export]
macro_rules! ask_once {
    ($app:expr, $key:expr, $entered:expr, $operation:expr, $bytes:expr, $address:expr,
     $command:expr, $status:expr, $view:expr) => {{
        let (address, origin) = ($address, $app.origin(&$entered.caller, $entered.request));
        let caller = &$entered.caller;
        let once =
            $crate::once::begin(&$app, $key, caller, address.place(), $operation, &$bytes).await?;
        match once {
            $crate::once::Once::Answered(response) => Ok(response),
            $crate::once::Once::Ticketed(ticketed) => {
                let directory = $app.system.directory();
                let render = move |reply| $crate::once::record($status, &$view(reply));
                let ask = directory.ask_once(&address, $command, origin, ticketed, render);
                $crate::once::response(&ask.await?)
            }
            $crate::once::Once::Plain => {
                let reply = $app.system.directory().ask(&address, $command, origin).await?;
                let body = axum::Json($view(reply));
                Ok(axum::response::IntoResponse::into_response(($status, body)))
            }
        }
    }};
}
