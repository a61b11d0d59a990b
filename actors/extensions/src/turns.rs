//! Whose run is next: places on the threads that runs are carried out on, shared fairly between
//! tenants.
//!
//! There are so many places for whoever comes first, and as many again that only a tenant can take
//! that has no run at all. So a tenant with nothing under way begins at once beside one that has
//! taken all the places; and of those that wait, the tenants take turns, whatever each has queued.
//! Within a tenant its sessions take turns in the same way: one user's storm does not keep another
//! waiting longer than it takes to go once around.
//!
//! Invariants
//! - A run begins when one of the first places is free, or when it is its tenant's only one and one
//!   of the others is.
//! - Tenants that wait are served in turn, within each its sessions in turn, and each session's
//!   runs in the order in which they came.
//!
//! Deliberate limit: how long a run takes does not count; a run's own limits bound that.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use types::TenantId;

use crate::session::Scope;

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
    /// Of each session that waits.
    waiting: HashMap<SessionNumber, VecDeque<oneshot::Sender<Turn>>>,
    /// They, in the order of their turns.
    next: VecDeque<SessionNumber>,
}

/// A user's number and an app's: a session, within its tenant.
pub type SessionNumber = (u128, u128);

/// The number of a session.
pub fn number_of(scope: &Scope) -> SessionNumber {
    (scope.user.0, scope.app.owner_number())
}

impl Standing {
    fn push(&mut self, session: SessionNumber, sender: oneshot::Sender<Turn>) {
        let waiting = self.waiting.entry(session).or_default();
        if waiting.is_empty() {
            self.next.push_back(session);
        }
        waiting.push_back(sender);
    }

    /// The first run of the session whose turn it is.
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let session = self.next.pop_front()?;
        let waiting = self.waiting.get_mut(&session)?;
        let sender = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&session);
        } else {
            self.next.push_back(session);
        }
        sender
    }
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

    /// A place for a run of a session of `tenant`, when it is its turn. Who stops waiting loses
    /// nothing.
    pub async fn take(self: &Arc<Self>, tenant: TenantId, session: SessionNumber) -> Turn {
        let waiting = {
            let mut line = self.line.lock();
            let running = line.running;
            let standing = line.tenants.entry(tenant).or_default();
            let is_first = standing.next.is_empty();
            if is_first && self.has_place(running, standing.running) {
                standing.running += 1;
                line.running += 1;
                None
            } else {
                let (sender, turn) = oneshot::channel();
                standing.push(session, sender);
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

    /// A place for a run of a session of `tenant`, if there is one now.
    pub fn try_take(self: &Arc<Self>, tenant: TenantId, session: SessionNumber) -> Option<Turn> {
        self.take(tenant, session).now_or_never()
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
        let sender = standing.pop()?;
        standing.running += 1;
        self.running += 1;
        if !standing.next.is_empty() {
            self.next.push_back(tenant);
        }
        Some((tenant, sender))
    }

    fn leave(&mut self, tenant: TenantId) {
        self.running -= 1;
        if let Some(standing) = self.tenants.get_mut(&tenant) {
            standing.running -= 1;
            if standing.running == 0 && standing.next.is_empty() {
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

    use super::*;

    const FLOOD: TenantId = TenantId(1);
    const QUIET: TenantId = TenantId(2);
    const THIRD: TenantId = TenantId(3);
    const ONE: SessionNumber = (1, 1);

    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("it is not its turn")
    }

    #[test]
    fn a_tenant_without_a_run_begins_beside_one_that_has_taken_all_places() {
        let turns = Turns::new(2);
        let _held = [now(turns.take(FLOOD, ONE)), now(turns.take(FLOOD, ONE))];
        assert!(turns.take(FLOOD, ONE).now_or_never().is_none());
        let _quiet = now(turns.take(QUIET, ONE));
        assert!(turns.take(QUIET, ONE).now_or_never().is_none(), "its second waits as others do");
        let _third = now(turns.take(THIRD, ONE));
        assert!(turns.take(TenantId(4), ONE).now_or_never().is_none(), "no places without end");
    }

    #[test]
    fn those_who_wait_are_served_in_turn_by_tenant() {
        let turns = Turns::new(1);
        let first = now(turns.take(FLOOD, ONE));
        let only = now(turns.take(QUIET, ONE));
        let mut flood: Vec<_> = (0..3).map(|_| Box::pin(turns.take(FLOOD, ONE))).collect();
        let mut third = Box::pin(turns.take(THIRD, ONE));
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

    #[test]
    fn within_a_tenant_a_session_with_hundreds_waiting_lets_another_go_between() {
        let turns = Turns::new(1);
        let first = now(turns.take(FLOOD, ONE));
        let storm: Vec<_> = (0..500).map(|_| Box::pin(turns.take(FLOOD, ONE))).collect();
        let mut storm: VecDeque<_> = storm.into();
        assert!(storm.iter_mut().all(|it| it.now_or_never().is_none()));
        let mut other = Box::pin(turns.take(FLOOD, (2, 1)));
        assert!((&mut other).now_or_never().is_none());
        drop(first);
        let mut turns_before = 0;
        let other = loop {
            if let Some(turn) = (&mut other).now_or_never() {
                break turn;
            }
            let mut next = storm.pop_front().unwrap();
            drop(now(&mut next));
            turns_before += 1;
        };
        assert!(turns_before <= 1, "{turns_before} runs of the storm went before");
        drop(other);
        for mut waiting in storm {
            drop(now(&mut waiting));
        }
        assert!(turns.line.lock().tenants.is_empty() && turns.line.lock().next.is_empty());
    }
}
