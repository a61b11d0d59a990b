//! How many requests of one tenant are worked on at once, so that what waits of one waits in its
//! own line and not in front of the others'.
//!
//! While a tenant is alone, all its requests are let in at once. While others are there, too, so
//! many of each are worked on ([`crate::pace`]), and the rest wait in their tenant's line. A
//! request of a tenant with nothing in work therefore finds at most a share of each other tenant's
//! before it, on the threads and in the journal's queue, however many more of those there are.
//!
//! Invariants
//! - What a tenant has in work and in its line is at most [`IN_FLIGHT_MAX`]; the next one is
//!   refused.
//! - A line is served in the order in which it formed. Nobody waits while a place of their own
//!   tenant is free, but for one that is free because the share grew: until the next one leaves.
//!
//! Deliberate limit: a place is a place, whatever is done on it; how long that takes is bounded by
//! the requests' own limits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use market::Traffic;
use parking_lot::Mutex;
use supervision::Refusal;
use tokio::sync::oneshot;
use types::TenantId;

use crate::pace::{Pace, SHARE};

/// How many requests of one tenant may be in flight: in work and in its line.
pub const IN_FLIGHT_MAX: usize = 4_096;
/// For how long after its last request a tenant counts as being there, in milliseconds.
const THERE_MS: u64 = 1_000;
/// How long a request may wait for its turn.
const WAIT_LIMIT: Duration = Duration::from_secs(10);
/// How many shards the lines have, against contention.
const SHARDS: usize = 16;

/// The lines of all tenants.
pub struct Turnstile {
    lines: [Mutex<HashMap<u128, Line>>; SHARDS],
    crowd: Crowd,
    pace: Pace,
}

#[derive(Default)]
struct Line {
    in_work: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// A tenant's place, given on when it is dropped.
pub struct Place {
    turnstile: Arc<Turnstile>,
    tenant: u128,
    is_given: bool,
}

/// Whether more than one tenant is there: who came last, and when that last was another one than
/// before.
struct Crowd {
    origin: Instant,
    last: AtomicU64,
    mixed_ms: AtomicU64,
    there_ms: u64,
}

impl Crowd {
    fn new(there_ms: u64) -> Self {
        let (last, mixed_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { origin: Instant::now(), last, mixed_ms, there_ms }
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Notes that somebody came. The low bits of an id are random; zero is nobody.
    fn came(&self, tenant: u128) {
        let tenant = tenant as u64 | 1;
        let last = self.last.load(Ordering::Relaxed);
        if last != tenant {
            self.last.store(tenant, Ordering::Relaxed);
            if last != 0 {
                self.mixed_ms.store(self.now_ms() + 1, Ordering::Relaxed);
            }
        }
    }

    fn is_there(&self) -> bool {
        let mixed_ms = self.mixed_ms.load(Ordering::Relaxed);
        mixed_ms > 0 && self.now_ms().saturating_sub(mixed_ms) < self.there_ms
    }
}

impl Turnstile {
    /// With nobody there.
    pub fn new() -> Arc<Self> {
        Self::with(SHARE, THERE_MS)
    }

    fn with(share: usize, there_ms: u64) -> Arc<Self> {
        let lines = std::array::from_fn(|_| Mutex::default());
        Arc::new(Self { lines, crowd: Crowd::new(there_ms), pace: Pace::new(share) })
    }

    fn line(&self, tenant: u128) -> &Mutex<HashMap<u128, Line>> {
        &self.lines[tenant as usize % SHARDS]
    }

    /// How many of one tenant are worked on at once now.
    fn share_now(&self) -> usize {
        if self.crowd.is_there() { self.pace.share() } else { IN_FLIGHT_MAX }
    }

    /// Sets how many of one tenant are worked on at once by what the threads keep up with now.
    pub async fn keep_pace(&self) {
        match self.crowd.is_there() {
            true => self.pace.feel().await,
            false => self.pace.rest(),
        }
    }

    fn place(self: &Arc<Self>, tenant: u128) -> Place {
        Place { turnstile: self.clone(), tenant, is_given: true }
    }

    /// Lets a request of `tenant` in when it is its turn: 503 `busy` for one too many, and for one
    /// whose turn does not come.
    pub async fn enter(self: &Arc<Self>, tenant: TenantId) -> Result<Place, Refusal> {
        match self.come(tenant.0)? {
            Ok(place) => Ok(place),
            Err(turn) => match tokio::time::timeout(WAIT_LIMIT, turn).await {
                Ok(Ok(place)) => Ok(place),
                _ => Err(Refusal::busy()),
            },
        }
    }

    /// A place, or where to wait for one.
    fn come(
        self: &Arc<Self>,
        tenant: u128,
    ) -> Result<Result<Place, oneshot::Receiver<Place>>, Refusal> {
        self.crowd.came(tenant);
        let mut lines = self.line(tenant).lock();
        let line = lines.entry(tenant).or_default();
        if line.waiting.is_empty() && line.in_work < self.share_now() {
            line.in_work += 1;
            return Ok(Ok(self.place(tenant)));
        }
        if line.in_work + line.waiting.len() >= IN_FLIGHT_MAX {
            return Err(Refusal::busy());
        }
        let (sender, turn) = oneshot::channel();
        line.waiting.push_back(sender);
        Ok(Err(turn))
    }

    /// A place of a tenant's is free: whoever is first in its line gets it, and more if more may be
    /// worked on now.
    fn leave(self: &Arc<Self>, tenant: u128) {
        let mut is_left = true;
        loop {
            let next = {
                let mut lines = self.line(tenant).lock();
                let Some(line) = lines.get_mut(&tenant) else { return };
                if std::mem::take(&mut is_left) {
                    line.in_work -= 1;
                }
                let has_place = line.in_work < self.share_now();
                let next = if has_place { line.waiting.pop_front() } else { None };
                match &next {
                    Some(_) => line.in_work += 1,
                    None if line.in_work == 0 => drop(lines.remove(&tenant)),
                    None => {}
                }
                next
            };
            let Some(sender) = next else { return };
            if let Err(mut place) = sender.send(self.place(tenant)) {
                // Nobody waits there any more.
                place.is_given = false;
                is_left = true;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_given {
            self.turnstile.leave(self.tenant);
        }
    }
}

impl Traffic for Turnstile {
    fn in_flight(&self, tenant: TenantId) -> u64 {
        let lines = self.line(tenant.0).lock();
        lines.get(&tenant.0).map_or(0, |line| (line.in_work + line.waiting.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const FLOOD: TenantId = TenantId(1);
    const QUIET: TenantId = TenantId(2);

    fn enter(turnstile: &Arc<Turnstile>, tenant: TenantId) -> Option<Place> {
        turnstile.enter(tenant).now_or_never().map(|place| place.unwrap())
    }

    /// Two tenants are there for as long as the test runs.
    fn crowded(share: usize) -> Arc<Turnstile> {
        let turnstile = Turnstile::with(share, u64::MAX);
        assert!([FLOOD, QUIET].iter().all(|tenant| enter(&turnstile, *tenant).is_some()));
        turnstile
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_a_long_line_stands_in_it_and_others_pass() {
        let turnstile = crowded(2);
        let mut held = [enter(&turnstile, FLOOD).unwrap(), enter(&turnstile, FLOOD).unwrap()];
        let mut line: Vec<_> = (0..3).map(|_| Box::pin(turnstile.enter(FLOOD))).collect();
        assert!(line.iter_mut().all(|it| it.now_or_never().is_none()));
        assert_eq!(turnstile.in_flight(FLOOD), 5);
        let _quiet = enter(&turnstile, QUIET).unwrap();
        // In order, one for one; whoever has gone is passed over.
        held[0] = enter(&turnstile, QUIET).unwrap();
        let first = (&mut line[0]).now_or_never().unwrap().unwrap();
        assert!((&mut line[1]).now_or_never().is_none());
        drop(line.remove(1));
        drop(first);
        let last = (&mut line[1]).now_or_never().unwrap().unwrap();
        assert!(enter(&turnstile, FLOOD).is_none(), "two are worked on");
        drop((last, held, line));
        drop(_quiet);
        assert_eq!((turnstile.in_flight(FLOOD), turnstile.in_flight(QUIET)), (0, 0));
        assert!(turnstile.lines.iter().all(|lines| lines.lock().is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_alone_is_let_in_up_to_its_limit() {
        let turnstile = Turnstile::with(2, u64::MAX);
        let held: Vec<_> = (0..IN_FLIGHT_MAX).map(|_| enter(&turnstile, FLOOD).unwrap()).collect();
        let waiting: Vec<_> =
            (0..2).map(|_| turnstile.come(FLOOD.0).map(|it| it.is_ok())).collect();
        let refused: Vec<_> = waiting.iter().filter_map(|it| it.as_ref().err()).collect();
        assert_eq!(refused.len(), 2);
        assert_eq!(refused[0].code, "busy");
        drop(held);
        assert!(enter(&turnstile, FLOOD).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_is_a_refusal() {
        let turnstile = crowded(1);
        let _held = enter(&turnstile, FLOOD).unwrap();
        let refused = turnstile.enter(FLOOD).await.err().unwrap();
        assert_eq!(refused.code, "busy");
    }
}
