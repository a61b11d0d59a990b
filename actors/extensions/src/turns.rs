//! Whose run is next: places on the threads that runs are carried out on, shared fairly between
//! tenants.
//!
//! There are so many places for whoever comes first, and as many again that only a tenant can take
//! that has no run at all. So a tenant with nothing under way begins at once beside one that has
//! taken all the places; and of those that wait, the tenants take turns, whatever each has queued.
//!
//! Invariants
//! - A run begins when one of the first places is free, or when it is its tenant's only one and one
//!   of the others is.
//! - Tenants that wait are served in turn, each in the order in which its own runs came.
//!
//! Deliberate limit: how long a run takes does not count; a run's own limits bound that.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use types::TenantId;

/// The places, and who waits for one.
pub struct Turns {
    places: usize,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    running: usize,
    /// Of each tenant that runs or waits.
    tenants: HashMap<TenantId, Standing>,
    /// The tenants with somebody waiting, in the order of their turns.
    next: VecDeque<TenantId>,
}

#[derive(Default)]
struct Standing {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A place, given on when it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    tenant: TenantId,
    is_given: bool,
}

impl Turns {
    /// With so many places, at least one.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: places.max(1), line: Mutex::default() })
    }

    fn turn(self: &Arc<Self>, tenant: TenantId) -> Turn {
        Turn { turns: self.clone(), tenant, is_given: true }
    }

    fn has_place(&self, running: usize, of_tenant: usize) -> bool {
        running < self.places || of_tenant == 0 && running < 2 * self.places
    }

    /// A place for a run of `tenant`, when it is its turn. Who stops waiting loses nothing.
    pub async fn take(self: &Arc<Self>, tenant: TenantId) -> Turn {
        let waiting = {
            let mut line = self.line.lock();
            let running = line.running;
            let standing = line.tenants.entry(tenant).or_default();
            let is_first = standing.waiting.is_empty();
            if is_first && self.has_place(running, standing.running) {
                standing.running += 1;
                line.running += 1;
                None
            } else {
                let (sender, turn) = oneshot::channel();
                standing.waiting.push_back(sender);
                if is_first {
                    line.next.push_back(tenant);
                }
                Some(turn)
            }
        };
        match waiting {
            None => self.turn(tenant),
            Some(waiting) => match waiting.await {
                Ok(turn) => turn,
                // The line is dropped with the turns alone, and `self` holds them.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Gives free places to those who wait.
    fn give(self: &Arc<Self>) {
        loop {
            let Some((tenant, sender)) = self.line.lock().take_next(self) else { return };
            if let Err(mut turn) = sender.send(self.turn(tenant)) {
                // Nobody waits there any more.
                turn.is_given = false;
                self.line.lock().leave(tenant);
            }
        }
    }
}

impl Line {
    /// The next who may begin: the first tenant in turn that has a place, and its first run.
    fn take_next(&mut self, turns: &Turns) -> Option<(TenantId, oneshot::Sender<Turn>)> {
        let running = self.running;
        let may_begin = |tenant: &TenantId| {
            let of_tenant = self.tenants.get(tenant).map_or(0, |standing| standing.running);
            turns.has_place(running, of_tenant)
        };
        let index = self.next.iter().position(may_begin)?;
        let tenant = self.next.remove(index)?;
        let standing = self.tenants.get_mut(&tenant)?;
        let sender = standing.waiting.pop_front()?;
        standing.running += 1;
        self.running += 1;
        if !standing.waiting.is_empty() {
            self.next.push_back(tenant);
        }
        Some((tenant, sender))
    }

    fn leave(&mut self, tenant: TenantId) {
        self.running -= 1;
        if let Some(standing) = self.tenants.get_mut(&tenant) {
            standing.running -= 1;
            if standing.running == 0 && standing.waiting.is_empty() {
                self.tenants.remove(&tenant);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_given {
            self.turns.line.lock().leave(self.tenant);
            self.turns.give();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use futures::FutureExt as _;

    use super::*;

    const FLOOD: TenantId = TenantId(1);
    const QUIET: TenantId = TenantId(2);
    const THIRD: TenantId = TenantId(3);

    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("it is not its turn")
    }

    #[test]
    fn a_tenant_without_a_run_begins_beside_one_that_has_taken_all_places() {
        let turns = Turns::new(2);
        let _held = [now(turns.take(FLOOD)), now(turns.take(FLOOD))];
        assert!(turns.take(FLOOD).now_or_never().is_none());
        let _quiet = now(turns.take(QUIET));
        assert!(turns.take(QUIET).now_or_never().is_none(), "its second waits as others do");
        let _third = now(turns.take(THIRD));
        assert!(turns.take(TenantId(4)).now_or_never().is_none(), "no places without end");
    }

    #[test]
    fn those_who_wait_are_served_in_turn_by_tenant() {
        let turns = Turns::new(1);
        let first = now(turns.take(FLOOD));
        let only = now(turns.take(QUIET));
        let mut flood: Vec<_> = (0..3).map(|_| Box::pin(turns.take(FLOOD))).collect();
        let mut third = Box::pin(turns.take(THIRD));
        assert!(flood.iter_mut().all(|it| it.now_or_never().is_none()));
        assert!((&mut third).now_or_never().is_none());
        drop(only);
        let third = now(third);
        drop((first, third));
        let one = now(&mut flood[0]);
        assert!((&mut flood[1]).now_or_never().is_none());
        drop(one);
        // Whoever has gone is passed over.
        drop(flood.remove(1));
        assert!((&mut flood[1]).now_or_never().is_some());
        drop(flood);
        assert!(turns.line.lock().tenants.is_empty() && turns.line.lock().running == 0);
        assert!(turns.line.lock().next.is_empty());
    }
}
