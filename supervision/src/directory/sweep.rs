//! Who leaves memory, and when.
//!
//! An entity is idle once nobody has used it for its kind's [`Entity::IDLE`]. Most that begin are
//! used in the same moment and then not for long: a sign-up makes half a dozen of them. So that a
//! thousand sign-ups a second do not fill the memory, a newborn stays for [`NEWBORN_IDLE`] only;
//! whoever comes back to it later finds it as any other. What has done all that it was begun for
//! ([`Entity::is_over`]) goes with the next sweep.
//!
//! Deliberate limit: beyond [`LIVE_MAX`] each kind gives up its part of the excess, the least
//! recently used first; that is not the order over all kinds.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::directory::Directory;
use crate::entity::Entity;
use crate::monitor::ActorMonitor;
use crate::system::System;

/// How many entities may be live, of all kinds together; beyond it the least recently used are
/// passivated.
pub const LIVE_MAX: usize = 20_000;
/// How long an entity that has just begun stays in memory without being used again.
pub const NEWBORN_IDLE: Duration = Duration::from_secs(1);

/// How long an entity stays that nobody uses, in milliseconds.
fn idle_ms_max<E: Entity>(monitor: &ActorMonitor) -> i64 {
    let idle = match (monitor.over.load(Relaxed), monitor.newborn.load(Relaxed)) {
        (true, _) => Duration::ZERO,
        (false, true) => NEWBORN_IDLE.min(E::IDLE),
        (false, false) => E::IDLE,
    };
    idle.as_millis() as i64
}

impl<E: Entity> Directory<E> {
    /// Passivates what is idle, and the `excess` least recently used.
    pub(super) fn sweep_idle(&self, excess: usize) {
        let now = self.core.monotonic_ms();
        let (mut idle, mut others) = (Vec::<Arc<str>>::new(), Vec::new());
        for (id, slot) in self.slots.lock().iter() {
            if slot.waiting() > 0 || slot.monitor.pinned.load(Relaxed) {
                continue;
            }
            let last_used = slot.monitor.last_used_ms.load(Relaxed);
            if now - last_used >= idle_ms_max::<E>(&slot.monitor) {
                idle.push(id.clone());
            } else if excess > 0 {
                others.push((last_used, id.clone()));
            }
        }
        others.sort_unstable();
        let excess = excess.saturating_sub(idle.len());
        let others = others.into_iter().take(excess).map(|(_, id)| id);
        for id in idle.into_iter().chain(others) {
            self.passivate(&id);
        }
    }
}

impl System {
    /// Passivates what is idle, and the least recently used beyond [`LIVE_MAX`].
    pub fn sweep(&self) {
        self.sweep_beyond(LIVE_MAX);
    }

    /// As [`System::sweep`], with another bound.
    pub fn sweep_beyond(&self, live_max: usize) {
        let live: Vec<usize> = self.kinds().iter().map(|kind| kind.live()).collect();
        let total: usize = live.iter().sum();
        let excess = total.saturating_sub(live_max);
        for (kind, live) in self.kinds().iter().zip(live) {
            // Rounded up, so that the parts are no less than the whole.
            kind.sweep((excess * live).div_ceil(total.max(1)));
        }
    }
}
