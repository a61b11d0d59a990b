//! Bulkheads: each app has so many requests under way outside, and no more, so that a partner who
//! hangs costs its own app and nobody else.
//!
//! Limits: [`APPS_MAX`] apps at once; those that nobody uses make room for others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::AppId;

use crate::breaker::{Breaker, Circuit};

/// Apps that have requests under way, or a circuit that is not closed.
pub const APPS_MAX: usize = 4_096;

/// One app's places and its circuit.
pub struct Bulkhead {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
    /// The circuit.
    pub breaker: Mutex<Breaker>,
}

impl Bulkhead {
    /// Waits for a place; none when too many wait already or the time comes first.
    pub async fn enter(&self, until: Instant) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            return None;
        }
        let place = tokio::time::timeout_at(until.into(), self.places.clone().acquire_owned());
        let place = place.await.ok()?.ok();
        drop(waiting);
        place
    }
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every app's bulkhead.
pub struct Bulkheads {
    places_each: usize,
    waiting_max: usize,
    apps: Mutex<HashMap<AppId, Arc<Bulkhead>>>,
}

impl Bulkheads {
    /// So many places for each app, and so many that wait for them.
    pub fn new(places_each: usize, waiting_max: usize) -> Self {
        Self { places_each, waiting_max, apps: Mutex::default() }
    }

    /// An app's; none while there are [`APPS_MAX`] others in use.
    pub fn of(&self, app: &AppId, now: Instant) -> Option<Arc<Bulkhead>> {
        let mut apps = self.apps.lock();
        if let Some(known) = apps.get(app) {
            return Some(Arc::clone(known));
        }
        if apps.len() >= APPS_MAX {
            apps.retain(|_, it| {
                let circuit = it.breaker.lock().circuit(now);
                Arc::strong_count(it) > 1 || circuit != Circuit::Closed
            });
        }
        if apps.len() >= APPS_MAX {
            return None;
        }
        let bulkhead = Arc::new(Bulkhead {
            places: Arc::new(Semaphore::new(self.places_each)),
            waiting: AtomicUsize::new(0),
            waiting_max: self.waiting_max,
            breaker: Mutex::default(),
        });
        apps.insert(app.clone(), Arc::clone(&bulkhead));
        Some(bulkhead)
    }

    /// An app's, if it has called its host of late.
    pub fn known(&self, app: &AppId) -> Option<Arc<Bulkhead>> {
        self.apps.lock().get(app).cloned()
    }

    /// Apps whose circuit is open or half open.
    pub fn broken(&self, now: Instant) -> usize {
        let broken = |it: &&Arc<Bulkhead>| it.breaker.lock().circuit(now) != Circuit::Closed;
        self.apps.lock().values().filter(broken).count()
    }

    /// Requests that are under way.
    pub fn under_way(&self) -> usize {
        let taken = |it: &Arc<Bulkhead>| self.places_each - it.places.available_permits();
        self.apps.lock().values().map(taken).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_app_that_is_full_leaves_the_others_alone() {
        let (bulkheads, now) = (Bulkheads::new(1, 1), Instant::now());
        let app = |name: &str| bulkheads.of(&AppId::new(name).unwrap(), now).unwrap();
        let (slow, other) = (app("slow"), app("other"));
        let place = slow.enter(now).await.unwrap();
        assert!(slow.enter(now).await.is_none(), "its time is over");
        assert!(other.enter(now).await.is_some());
        let waits = slow.enter(now + Duration::from_secs(60));
        let mut waits = std::pin::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        assert!(slow.enter(now + Duration::from_secs(60)).await.is_none(), "too many wait");
        assert_eq!(bulkheads.under_way(), 1);
        drop(place);
        assert!(waits.await.is_some());
    }
}
