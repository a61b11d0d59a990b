//! What one extension session may have under way: so many calls and batches at once, so many that
//! wait for that, and no more, so that one user's storm on one app costs memory and holds that are
//! bounded, and is told to its sender alone.
//!
//! Calls that other apps make are within the call from outside that led to them, and are not
//! counted: two sessions that call each other cannot wait for each other here. What goes on as a
//! task has a limit of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use supervision::{Class, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::session::Scope;

/// How long a call waits for its session before it is refused.
pub const SHARE_WAIT_MAX: Duration = Duration::from_secs(10);
/// When to come back to a session that is full.
const RETRY_MS: u64 = 1_000;

/// What every session may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Calls and batches under way.
    pub in_flight_max: usize,
    /// Calls and batches that wait for one of those to end.
    pub waiting_max: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { in_flight_max: 64, waiting_max: 256 }
    }
}

struct Session {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The sessions that have something under way.
pub(crate) struct Shares {
    limits: SessionLimits,
    sessions: Mutex<HashMap<Scope, Arc<Session>>>,
}

/// A place in a session, until it is dropped: the place first, then what is known of the session.
pub(crate) struct Share {
    _place: OwnedSemaphorePermit,
    _entered: Entered,
}

/// Keeps a session known while somebody is in it or waits for it.
struct Entered {
    shares: Arc<Shares>,
    scope: Scope,
    session: Arc<Session>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut sessions = self.shares.sessions.lock();
        // The map's and this one: who comes next takes theirs under the lock.
        if Arc::strong_count(&self.session) <= 2 {
            sessions.remove(&self.scope);
        }
    }
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shares {
    pub(crate) fn new(limits: SessionLimits) -> Arc<Self> {
        Arc::new(Self { limits, sessions: Mutex::default() })
    }

    /// A place in a session, first come, first served. 429 `session_busy` when too many wait, or
    /// for too long.
    pub(crate) async fn enter(self: &Arc<Self>, scope: &Scope) -> Result<Share, Refusal> {
        let new = || {
            let places = Arc::new(Semaphore::new(self.limits.in_flight_max));
            Arc::new(Session { places, waiting: AtomicUsize::new(0) })
        };
        let session = self.sessions.lock().entry(scope.clone()).or_insert_with(new).clone();
        let entered = Entered { shares: self.clone(), scope: scope.clone(), session };
        let session = &entered.session;
        if let Ok(place) = session.places.clone().try_acquire_owned() {
            return Ok(Share { _place: place, _entered: entered });
        }
        let waiting = Waiting(&session.waiting);
        if session.waiting.fetch_add(1, Ordering::Relaxed) >= self.limits.waiting_max {
            return Err(self.full());
        }
        let place = timeout(SHARE_WAIT_MAX, session.places.clone().acquire_owned()).await;
        drop(waiting);
        let place = place.ok().and_then(Result::ok).ok_or_else(|| self.full())?;
        Ok(Share { _place: place, _entered: entered })
    }

    fn full(&self) -> Refusal {
        let SessionLimits { in_flight_max, waiting_max } = self.limits;
        let message = format!(
            "{in_flight_max} calls of this user to this app are under way and up to {waiting_max} \
             wait; nothing was changed"
        );
        let facts = json!({"limit": "session", "in_flight_max": in_flight_max,
            "waiting_max": waiting_max});
        let refusal = Refusal::new(Class::TooMany, "session_busy", message);
        refusal.with_facts(&facts).retry_after(RETRY_MS)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.sessions.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use types::{AppId, TenantId, UserId};

    use super::*;

    fn scope(user: u128) -> Scope {
        Scope { tenant: TenantId(1), user: UserId(user), app: AppId::new("shelf").unwrap() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_full_refuses_its_own_and_leaves_others_alone() {
        let shares = Shares::new(SessionLimits { in_flight_max: 2, waiting_max: 1 });
        let (ada, bob) = (scope(1), scope(2));
        let first = shares.enter(&ada).await.unwrap();
        let second = shares.enter(&ada).await.unwrap();
        let mut third = Box::pin(shares.enter(&ada));
        assert!((&mut third).now_or_never().is_none());
        let refused = shares.enter(&ada).await.err().unwrap();
        assert_eq!((refused.class, refused.code.as_str()), (Class::TooMany, "session_busy"));
        assert!(refused.retry_after_ms.is_some() && refused.facts.is_some());
        drop(shares.enter(&bob).await.unwrap());
        assert_eq!(shares.count(), 1, "nothing is kept of who has gone");
        drop(first);
        let third = third.await.unwrap();
        let late = shares.enter(&ada).await.err().unwrap();
        assert_eq!(late.code, "session_busy", "it waited too long");
        drop((second, third));
        assert_eq!(shares.count(), 0);
    }
}
