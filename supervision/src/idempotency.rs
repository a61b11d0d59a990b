//! The same key, the same outcome: what a caller repeats is answered, not done again.
//!
//! Before a command is dispatched, [`System::begin`](crate::System::begin) asks two places: the
//! keys in flight, where a duplicate waits for the first, and the row that an accepted command
//! wrote together with its events. The recorded outcome is sealed twice: under the tenant's key
//! like every row, and under a key made from the client's own key, which is never stored.
//!
//! An outcome that holds a value shown only once (a new key's secret) is kept beside its row, and
//! goes after [`SHOWN_ONCE_MS`]; the row stays, so the key is then answered with 410.
//!
//! Deliberate limit: how many keys a tenant has used is counted in memory, so a restart begins
//! anew; the count bounds what is stored, it is not a quota.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use persistence::record::sha256;
use persistence::{Generations, MasterKey, RowKey, codec, sealing};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::address::Place;
use crate::clock::Timestamp;
use crate::entity::RowDraft;
use crate::refusal::{Class, Refusal};
use crate::system::Core;

/// The family of the outcomes' rows.
pub const OUTCOME_FAMILY: &str = "idempotency";
/// The family of the outcomes that hold a value shown only once.
pub const SHOWN_ONCE_FAMILY: &str = "idempotency_shown_once";
/// How long an outcome is kept, in milliseconds.
pub const KEPT_MS: i64 = 24 * 60 * 60 * 1_000;
/// How long an outcome with a value shown only once is kept, in milliseconds.
pub const SHOWN_ONCE_MS: i64 = 10 * 60 * 1_000;
/// How many keys a tenant may have on record.
pub const TENANT_KEYS_MAX: u32 = 1_000_000;
/// How many tenants' counts are in memory, at most twice over.
const TENANTS_COUNTED_MAX: usize = 16_384;
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
    /// Who has the key on record.
    tenant: u128,
    /// Whether the outcome holds a value that is shown only once.
    is_shown_once: bool,
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
        let (seal, body) = (MasterKey::from_bytes(seal), sha256(&[body]));
        Self { scope, seal, body, tenant, is_shown_once: false }
    }

    /// The same for an outcome with a value that is shown only once.
    pub fn shown_once(self) -> Self {
        Self { is_shown_once: true, ..self }
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
    /// `None` for an outcome that is kept in [`SHOWN_ONCE_FAMILY`].
    sealed: Option<Vec<u8>>,
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
    counts: Arc<Mutex<Counts>>,
    _guard: InFlightGuard,
}

impl Ticketed {
    /// The rows that record the outcome, to be written with the command's events.
    pub(crate) fn outcome_rows(&self, bytes: &[u8], at: Timestamp) -> Vec<RowDraft> {
        self.counts.lock().add(self.key.tenant, at);
        // Neither sealing nor encoding these few bytes can fail; without a row the command would
        // only lose its memory.
        self.encode_rows(bytes, at).unwrap_or_default()
    }

    fn encode_rows(&self, bytes: &[u8], at: Timestamp) -> Option<Vec<RowDraft>> {
        let key = &self.key;
        let draft = |family, value| RowDraft { family, key: key.scope.to_vec(), value };
        let sealed = sealing::seal_with(&key.seal, &key.scope, bytes).ok()?;
        let outcome = |sealed| codec::encode(&Outcome { body: key.body, at, sealed }).ok();
        if !key.is_shown_once {
            return Some(vec![draft(OUTCOME_FAMILY, Some(outcome(Some(sealed))?))]);
        }
        let marker = draft(OUTCOME_FAMILY, Some(outcome(None)?));
        Some(vec![marker, draft(SHOWN_ONCE_FAMILY, Some(outcome(Some(sealed))?))])
    }
}

/// How many keys the tenants have used in the last [`KEPT_MS`], nearly: the present span of that
/// length, and of the one before the share that has not passed yet.
pub(crate) struct Counts(Generations<u128, Count>);

#[derive(Clone, Copy, Default)]
struct Count {
    span: i64,
    present: u32,
    previous: u32,
}

impl Default for Counts {
    fn default() -> Self {
        Self(Generations::new(TENANTS_COUNTED_MAX))
    }
}

impl Counts {
    fn at(&mut self, tenant: u128, now: Timestamp) -> &mut Count {
        let span = now.0.div_euclid(KEPT_MS);
        let known = self.0.get_mut(&tenant).map(|count| *count).unwrap_or_default();
        let count = match span - known.span {
            0 => known,
            1 => Count { span, present: 0, previous: known.present },
            _ => Count { span, ..Count::default() },
        };
        self.0.insert(tenant, count)
    }

    fn add(&mut self, tenant: u128, now: Timestamp) {
        self.at(tenant, now).present += 1;
    }

    fn is_full(&mut self, tenant: u128, now: Timestamp) -> bool {
        let left_ms = KEPT_MS - now.0.rem_euclid(KEPT_MS);
        let count = self.at(tenant, now);
        let previous = i64::from(count.previous) * left_ms / KEPT_MS;
        i64::from(count.present) + previous >= i64::from(TENANT_KEYS_MAX)
    }
}

type InFlight = Arc<Mutex<HashMap<[u8; 32], watch::Receiver<()>>>>;

/// The keys whose commands are running.
#[derive(Default, Clone)]
pub(crate) struct KeysInFlight {
    keys: InFlight,
    counts: Arc<Mutex<Counts>>,
}

pub(crate) struct InFlightGuard {
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

    /// Keeps everybody off a key whose row is over, for as long as it takes to delete it.
    pub(crate) fn close(&self, scope: &[u8]) -> Option<InFlightGuard> {
        self.enter(scope.try_into().ok()?).ok()
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
        let now = self.clock.now();
        let found = self.read_outcome(place, OUTCOME_FAMILY, &key)?;
        let Some(outcome) = found.filter(|outcome| now.0 - outcome.at.0 < KEPT_MS) else {
            let counts = self.in_flight.counts.clone();
            if counts.lock().is_full(key.tenant, now) {
                let message = "this tenant has too many Idempotency-Keys on record; try tomorrow";
                return Err(Refusal::new(Class::TooMany, "too_many_keys", message));
            }
            return Ok(Begin::Fresh(Ticketed { key, counts, _guard: guard }));
        };
        if outcome.body != key.body {
            let message = "this Idempotency-Key was used with another body; use a new key";
            return Err(Refusal::new(Class::Invalid, "idempotency_key_reused", message));
        }
        let sealed = match outcome.sealed {
            Some(sealed) => sealed,
            None => self.shown_once(place, &key, now)?,
        };
        let opened = sealing::open_with(&key.seal, &key.scope, &sealed);
        opened.map(Begin::Recorded).map_err(|_| damaged())
    }

    fn shown_once(
        &self,
        place: &Place,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> Result<Vec<u8>, Refusal> {
        let found = self.read_outcome(place, SHOWN_ONCE_FAMILY, key)?;
        let fresh = found.filter(|outcome| now.0 - outcome.at.0 < SHOWN_ONCE_MS);
        fresh.and_then(|outcome| outcome.sealed).ok_or_else(|| {
            let message = "this was done, and its answer held a value that is no longer shown";
            Refusal::new(Class::Gone, "outcome_gone", message)
        })
    }

    fn read_outcome(
        &self,
        place: &Place,
        family: &'static str,
        key: &IdempotencyKey,
    ) -> Result<Option<Outcome>, Refusal> {
        let row = self.read_row(&RowKey::new(place.shard(), family, key.scope));
        let bytes = row.map_err(|error| {
            tracing::error!(error, "a recorded outcome could not be read");
            Refusal::busy()
        })?;
        bytes.map(|bytes| codec::decode(&bytes).map_err(|_| damaged())).transpose()
    }
}

fn damaged() -> Refusal {
    Refusal::new(Class::Crashed, "internal_error", "the outcome is damaged")
}

/// Says whether an outcome's row is older than its family's rows are kept.
pub(crate) fn is_over(family: &str, value: &[u8], now: Timestamp) -> bool {
    let kept_ms = if family == SHOWN_ONCE_FAMILY { SHOWN_ONCE_MS } else { KEPT_MS };
    codec::decode::<Outcome>(value).is_ok_and(|outcome| now.0 - outcome.at.0 >= kept_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_full_at_its_limit_and_has_room_again_as_the_day_passes() {
        let mut counts = Counts::default();
        let at = |hours: i64| Timestamp(KEPT_MS * 20_000 + hours * 60 * 60 * 1_000);
        for _ in 0..TENANT_KEYS_MAX {
            assert!(!counts.is_full(7, at(0)));
            counts.add(7, at(0));
        }
        assert!(counts.is_full(7, at(23)), "all of them are of this day");
        assert!(!counts.is_full(8, at(23)), "another tenant has its own");
        assert!(counts.is_full(7, at(24)));
        assert!(!counts.is_full(7, at(25)), "an hour's share is over");
        for _ in 0..=TENANT_KEYS_MAX / 24 {
            counts.add(7, at(25));
        }
        assert!(counts.is_full(7, at(25)) && !counts.is_full(7, at(26)));
        assert!(!counts.is_full(7, at(24 * 9)), "long over");
    }
}
