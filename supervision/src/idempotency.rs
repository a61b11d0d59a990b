//! The same key, the same outcome: what a caller repeats is answered, not done again.
//!
//! Before a command is dispatched, [`System::begin`](crate::System::begin) asks two places: the
//! keys in flight, where a duplicate waits for the first, and the row that an accepted command
//! wrote together with its events. The recorded outcome is sealed twice: under the tenant's key
//! like every row, and under a key made from the client's own key, which is never stored.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use persistence::record::sha256;
use persistence::{MasterKey, RowKey, codec, sealing};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::address::Place;
use crate::clock::Timestamp;
use crate::entity::RowDraft;
use crate::refusal::{Class, Refusal};
use crate::system::Core;

/// The family of the outcomes' rows.
pub const OUTCOME_FAMILY: &str = "idempotency";
/// How long an outcome is kept, in milliseconds.
pub const KEPT_MS: i64 = 24 * 60 * 60 * 1_000;
/// How many keys may be in flight; beyond it new ones are refused as busy.
const IN_FLIGHT_MAX: usize = 65_536;

/// A client's key, bound to who uses it and for what.
#[derive(Clone)]
pub struct IdempotencyKey {
    /// SHA-256 of tenant, principal, operation and key: what the row is found by.
    scope: [u8; 32],
    /// Made from the client's key itself: what the outcome is sealed with.
    seal: MasterKey,
    /// SHA-256 of the request's body.
    body: [u8; 32],
}

impl IdempotencyKey {
    /// The key that `principal` of `tenant` sent with `body` to `operation`.
    pub fn new(tenant: u128, principal: &str, operation: &str, key: &str, body: &[u8]) -> Self {
        let principal_digest = sha256(&[principal.as_bytes()]);
        let operation_digest = sha256(&[operation.as_bytes()]);
        let parts: [&[u8]; 4] =
            [&tenant.to_be_bytes(), &principal_digest, &operation_digest, key.as_bytes()];
        let scope = sha256(&parts);
        let seal = sha256(&[b"bailiwick outcome seal", parts[0], parts[1], parts[3]]);
        Self { scope, seal: MasterKey::from_bytes(seal), body: sha256(&[body]) }
    }

    /// 16 bytes of the scope: an id for a process that a repetition should find again.
    pub fn process_id(&self) -> u128 {
        u128::from_be_bytes(self.scope[..16].try_into().unwrap_or_default())
    }
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    body: [u8; 32],
    at: Timestamp,
    sealed: Vec<u8>,
}

/// What [`System::begin`](crate::System::begin) found.
pub enum Begin {
    /// It was done before: the recorded outcome.
    Recorded(Vec<u8>),
    /// It is new: go on, with this in hand until the outcome is known.
    Fresh(Ticketed),
}

/// The right to run the command of a key. While it lives, duplicates wait.
pub struct Ticketed {
    key: IdempotencyKey,
    _guard: InFlightGuard,
}

impl Ticketed {
    /// The row that records the outcome, to be written with the command's events.
    pub(crate) fn outcome_row(&self, bytes: &[u8], at: Timestamp) -> Option<RowDraft> {
        let sealed = sealing::seal_with(&self.key.seal, &self.key.scope, bytes).ok()?;
        let outcome = Outcome { body: self.key.body, at, sealed };
        let value = codec::encode(&outcome).ok()?;
        Some(RowDraft { family: OUTCOME_FAMILY, key: self.key.scope.to_vec(), value: Some(value) })
    }
}

type InFlight = Arc<Mutex<HashMap<[u8; 32], watch::Receiver<()>>>>;

/// The keys whose commands are running.
#[derive(Default, Clone)]
pub(crate) struct KeysInFlight {
    keys: InFlight,
}

struct InFlightGuard {
    scope: [u8; 32],
    keys: InFlight,
    // Dropped with the guard: the receivers then see the channel closed.
    _running: watch::Sender<()>,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.scope);
    }
}

impl KeysInFlight {
    fn enter(&self, scope: [u8; 32]) -> Result<InFlightGuard, Option<watch::Receiver<()>>> {
        let mut keys = self.keys.lock();
        if let Some(running) = keys.get(&scope) {
            return Err(Some(running.clone()));
        }
        if keys.len() >= IN_FLIGHT_MAX {
            return Err(None);
        }
        let (sender, receiver) = watch::channel(());
        keys.insert(scope, receiver);
        Ok(InFlightGuard { scope, keys: self.keys.clone(), _running: sender })
    }
}

impl Core {
    /// Looks the key up, and takes it if it is new. `place` is the entity that will write the
    /// outcome: the row is in its shard.
    pub(crate) async fn begin(&self, place: &Place, key: IdempotencyKey) -> Result<Begin, Refusal> {
        let guard = loop {
            match self.in_flight.enter(key.scope) {
                Ok(guard) => break guard,
                // It changes only by ending.
                Err(Some(mut running)) => while running.changed().await.is_ok() {},
                Err(None) => return Err(Refusal::busy()),
            }
        };
        let row = RowKey::new(place.shard(), OUTCOME_FAMILY, key.scope);
        let found = self.read_row(&row).map_err(|error| {
            tracing::error!(error, "a recorded outcome could not be read");
            Refusal::busy()
        })?;
        let Some(bytes) = found else {
            return Ok(Begin::Fresh(Ticketed { key, _guard: guard }));
        };
        let damaged = || Refusal::new(Class::Crashed, "internal_error", "the outcome is damaged");
        let outcome: Outcome = codec::decode(&bytes).map_err(|_| damaged())?;
        if self.clock.now().0 - outcome.at.0 >= KEPT_MS {
            return Ok(Begin::Fresh(Ticketed { key, _guard: guard }));
        }
        if outcome.body != key.body {
            let message = "this Idempotency-Key was used with another body; use a new key";
            return Err(Refusal::new(Class::Invalid, "idempotency_key_reused", message));
        }
        let opened = sealing::open_with(&key.seal, &key.scope, &outcome.sealed);
        opened.map(Begin::Recorded).map_err(|_| damaged())
    }
}

/// Says whether an outcome's row is older than [`KEPT_MS`].
pub(crate) fn is_over(value: &[u8], now: Timestamp) -> bool {
    codec::decode::<Outcome>(value).is_ok_and(|outcome| now.0 - outcome.at.0 >= KEPT_MS)
}
