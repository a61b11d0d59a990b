//! The calls and batches that are under way in this process, so that an operator can stop them and
//! be told what became of each.
//!
//! Invariants
//! - A flight is stopped or recorded, never both: it asks for leave to be recorded, and once it was
//!   stopped it does not get it; once it has leave it is not stopped any more.
//! - Whoever enters a flight looks after that whether it may fly, and who stops flights closes the
//!   way in before: so none slips through between.
//!
//! Deliberate limit: what a built-in app has done is done. A batch of one ends before its next
//! call, and what it did until then is recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use identity::frozen::Frozen;
use parking_lot::Mutex;
use supervision::{Refusal, System, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use types::{AgentId, AppId, CallId, Caller, CallerKind, TenantId, UserId};

use crate::answer::Shape;
use crate::execute::shortened;
use crate::runtime::{Call, Request};
use crate::session::{NOBODY, Scope};
use crate::share::{SessionLimits, Share, Shares};

/// What kind of work is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// One call.
    Call,
    /// A batch of calls.
    Batch,
    /// A task.
    Task,
}

impl Sort {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Batch => "batch",
            Self::Task => "task",
        }
    }
}

impl Flying {
    fn key(&self) -> (CallId, CallId) {
        (self.root, self.id)
    }

    fn scope(&self) -> Scope {
        let Self { tenant, user, app, .. } = self;
        Scope { tenant: *tenant, user: user.unwrap_or(NOBODY), app: app.clone() }
    }

    /// A request's calls. `root` is the call from outside, unless they are that.
    pub(crate) fn new(
        system: &System,
        request: &Request,
        (id, root): (CallId, Option<CallId>),
        app: &AppId,
        (shape, calls): (Shape, &[Call]),
    ) -> Self {
        Self {
            id,
            sort: if matches!(shape, Shape::Single) { Sort::Call } else { Sort::Batch },
            root: root.unwrap_or(id),
            function: calls.first().map(|call| shortened(&call.function)).unwrap_or_default(),
            since: system.clock().now(),
            tenant: request.tenant,
            user: request.user,
            agent: agent_of(&request.caller),
            app: app.clone(),
        }
    }
}

/// The agent that calls, if it is one.
pub(crate) fn agent_of(caller: &Caller) -> Option<AgentId> {
    caller.credential.filter(|_| caller.kind == CallerKind::Agent).map(AgentId)
}

/// What is under way: who calls what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flying {
    /// The call or batch; a task's run has the task's number.
    pub id: CallId,
    /// What it is.
    pub sort: Sort,
    /// What the call from outside was that led to this one; it itself, for that.
    pub root: CallId,
    /// The function; of a batch the first one.
    pub function: String,
    /// Since when.
    pub since: Timestamp,
    /// In which tenant.
    pub tenant: TenantId,
    /// For which user.
    pub user: Option<UserId>,
    /// By which agent.
    pub agent: Option<AgentId>,
    /// Which app.
    pub app: AppId,
}

#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    Flying,
    /// Nothing of it will be recorded.
    Stopped(Refusal),
    /// It is being recorded.
    Landing,
    /// It was recorded.
    Landed,
}

/// What became of a flight that was to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It ended, and nothing of it was recorded.
    Cancelled,
    /// It was recorded before it could be stopped.
    Completed,
    /// It was too late to stop it, and it was not recorded after all.
    Refused,
    /// It has not ended yet. If it was stopped in time, nothing of it will be recorded.
    StillRunning,
}

struct Slot {
    flying: Flying,
    phase: watch::Sender<Phase>,
    /// Who wanted it stopped while it could not be.
    wish: Mutex<Option<Refusal>>,
}

impl Slot {
    fn stop(&self, refusal: &Refusal) {
        self.phase.send_if_modified(|phase| {
            let is_flying = matches!(phase, Phase::Flying);
            if matches!(phase, Phase::Landing) {
                *self.wish.lock() = Some(refusal.clone());
            }
            if is_flying {
                *phase = Phase::Stopped(refusal.clone());
            }
            is_flying
        });
    }
}

/// All of them.
pub struct Flights {
    /// By what the call from outside was, and their own number: so what one has led to is found
    /// without looking at all.
    slots: Mutex<BTreeMap<(CallId, CallId), Arc<Slot>>>,
    shares: Arc<Shares>,
}

/// One of them, until it is dropped.
pub struct Flight {
    flights: Arc<Flights>,
    slot: Arc<Slot>,
    /// Its place in its session, if it has one.
    share: Option<Share>,
}

impl Flights {
    /// None yet; each session may have so many.
    pub fn new(limits: SessionLimits) -> Self {
        Self { slots: Mutex::default(), shares: Shares::new(limits) }
    }

    /// Enters one.
    pub fn enter(self: &Arc<Self>, flying: Flying) -> Flight {
        let key = flying.key();
        let phase = watch::Sender::new(Phase::default());
        let slot = Arc::new(Slot { flying, phase, wish: Mutex::default() });
        self.slots.lock().insert(key, slot.clone());
        Flight { flights: self.clone(), slot, share: None }
    }

    /// Enters one, unless its tenant, user or app is frozen. Looked at only then, so that whoever
    /// freezes one of them finds this run.
    ///
    /// What comes from outside first has to have a place in its session: 429 `session_busy`.
    pub(crate) async fn take_off(
        self: &Arc<Self>,
        frozen: &Frozen,
        flying: Flying,
    ) -> Result<Flight, Refusal> {
        let has_share = flying.root == flying.id && flying.sort != Sort::Task;
        let share = match has_share {
            true => Some(self.shares.enter(&flying.scope()).await?),
            false => None,
        };
        let mut flight = self.enter(flying);
        flight.share = share;
        let Flying { tenant, user, app, .. } = &flight.slot.flying;
        frozen.check(*tenant, *user)?;
        frozen.check_app(app)?;
        Ok(flight)
    }

    /// All that is under way now, the oldest first.
    pub fn all(&self) -> Vec<Flying> {
        let slots = self.slots.lock();
        let mut all: Vec<_> = slots.values().map(|slot| slot.flying.clone()).collect();
        drop(slots);
        all.sort_by_key(|flying| flying.id);
        all
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        self.slots.lock().len()
    }

    /// Stops those that are `meant`, and waits for them to end, at most for `limit`. Each is
    /// answered with `refusal`.
    pub async fn stop(
        &self,
        meant: impl Fn(&Flying) -> bool,
        refusal: &Refusal,
        limit: Duration,
    ) -> Vec<(Flying, Stopped)> {
        let slots: Vec<_> = {
            let slots = self.slots.lock();
            slots.values().filter(|slot| meant(&slot.flying)).map(Arc::downgrade).collect()
        };
        stop_all(slots, refusal, limit).await
    }

    /// Stops what came from outside under a number, and all that it has led to; as
    /// [`Flights::stop`]. It is stopped before this is first awaited.
    pub fn stop_from(
        &self,
        root: CallId,
        refusal: &Refusal,
        limit: Duration,
    ) -> impl Future<Output = Vec<(Flying, Stopped)>> + use<> {
        let slots: Vec<_> = {
            let slots = self.slots.lock();
            let of_root = slots.range((root, CallId(0))..=(root, CallId(u128::MAX)));
            of_root.map(|(_, slot)| Arc::downgrade(slot)).collect()
        };
        stop_all(slots, refusal, limit)
    }
}

/// Stops them at once. What is answered waits for their end.
fn stop_all(
    slots: Vec<Weak<Slot>>,
    refusal: &Refusal,
    limit: Duration,
) -> impl Future<Output = Vec<(Flying, Stopped)>> + use<> {
    let deadline = Instant::now() + limit;
    // Held weakly: that a flight is gone is how its end is seen.
    let stopping = slots.into_iter().filter_map(|weak| {
        let slot = weak.upgrade()?;
        slot.stop(refusal);
        let (flying, phase) = (slot.flying.clone(), slot.phase.subscribe());
        Some(ended(flying, phase, deadline))
    });
    join_all(stopping.collect::<Vec<_>>())
}

async fn ended(
    flying: Flying,
    mut phase: watch::Receiver<Phase>,
    deadline: Instant,
) -> (Flying, Stopped) {
    let gone = async { while phase.changed().await.is_ok() {} };
    let has_ended = timeout_at(deadline, gone).await.is_ok();
    let became = match (&*phase.borrow(), has_ended) {
        (Phase::Landed, _) => Stopped::Completed,
        (_, false) => Stopped::StillRunning,
        (Phase::Stopped(_), true) => Stopped::Cancelled,
        (Phase::Flying | Phase::Landing, true) => Stopped::Refused,
    };
    (flying, became)
}

impl Flight {
    /// Its call or batch.
    pub fn id(&self) -> CallId {
        self.slot.flying.id
    }

    /// Its app.
    pub fn app(&self) -> &AppId {
        &self.slot.flying.app
    }

    /// What tells whether it was stopped, from any thread.
    pub fn watch(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let phase = self.slot.phase.subscribe();
        move || matches!(*phase.borrow(), Phase::Stopped(_))
    }

    /// It surely was not recorded: whoever wanted it stopped meanwhile has it so.
    pub(crate) fn give_in(&self) -> Result<(), Refusal> {
        let wish = self.slot.wish.lock().take();
        wish.iter().for_each(|refusal| self.slot.stop(refusal));
        self.check()
    }

    /// Resolves with the refusal once it was stopped.
    pub async fn stopped(&self) -> Refusal {
        let mut phase = self.slot.phase.subscribe();
        loop {
            if let Phase::Stopped(refusal) = &*phase.borrow_and_update() {
                return refusal.clone();
            }
            if phase.changed().await.is_err() {
                // Never: this flight holds the sender.
                return Refusal::crashed();
            }
        }
    }

    /// The refusal, if it was stopped.
    pub fn check(&self) -> Result<(), Refusal> {
        match &*self.slot.phase.borrow() {
            Phase::Stopped(refusal) => Err(refusal.clone()),
            _ => Ok(()),
        }
    }

    /// Stops it, unless it is recorded.
    pub fn stop(&self, refusal: &Refusal) {
        self.slot.stop(refusal);
    }

    /// Asks for leave to be recorded: the refusal, if it was stopped.
    pub fn land(&self) -> Result<(), Refusal> {
        let mut leave = Ok(());
        self.slot.phase.send_if_modified(|phase| match phase {
            Phase::Stopped(refusal) => {
                leave = Err(refusal.clone());
                false
            }
            _ => {
                *phase = Phase::Landing;
                true
            }
        });
        leave
    }

    /// It was recorded, or, if it was not, flies on.
    pub fn landed(&self, is_recorded: bool) {
        self.slot.phase.send_replace(if is_recorded { Phase::Landed } else { Phase::Flying });
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.slots.lock().remove(&self.slot.flying.key());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn flying(id: u128, tenant: u128) -> Flying {
        Flying {
            id: CallId(id),
            sort: Sort::Call,
            root: CallId(id),
            function: "books".to_owned(),
            since: Timestamp(0),
            tenant: TenantId(tenant),
            user: None,
            agent: None,
            app: AppId::new("shelf").unwrap(),
        }
    }

    fn refusal() -> Refusal {
        Refusal::forbidden("stopped")
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_is_stopped_or_recorded_and_the_stop_says_which() {
        let flights = Arc::new(Flights::new(SessionLimits::default()));
        let cancelled = flights.enter(flying(1, 1));
        let completed = flights.enter(flying(2, 1));
        let refused = flights.enter(flying(3, 1));
        let stuck = flights.enter(flying(4, 1));
        let other = flights.enter(flying(5, 2));
        assert!(completed.land().is_ok() && refused.land().is_ok());
        let is_stopped = cancelled.watch();
        let ends = async {
            assert_eq!(cancelled.stopped().await, refusal());
            assert!(is_stopped() && cancelled.land().is_err() && cancelled.check().is_err());
            drop(cancelled);
            completed.landed(true);
            drop((completed, refused));
        };
        let why = refusal();
        let stop = flights.stop(|it| it.tenant == TenantId(1), &why, LIMIT);
        let (mut stopped, ()) = tokio::join!(stop, ends);
        stopped.sort_by_key(|(flying, _)| flying.id);
        let became: Vec<_> = stopped.into_iter().map(|(_, became)| became).collect();
        let wanted =
            [Stopped::Cancelled, Stopped::Completed, Stopped::Refused, Stopped::StillRunning];
        assert_eq!(became, wanted);
        assert!(stuck.land().is_err(), "it was stopped, however late it comes");
        assert!(other.land().is_ok());
        drop((stuck, other));
        assert_eq!(flights.count(), 0);
    }

    #[test]
    fn what_came_of_one_call_is_stopped_with_it_before_anybody_waits() {
        let flights = Arc::new(Flights::new(SessionLimits::default()));
        let root = flights.enter(flying(2, 1));
        let inner = flights.enter(Flying { root: CallId(2), ..flying(9, 1) });
        let others = [1, 3].map(|id| flights.enter(flying(id, 1)));
        // Its number names what is called by it, and is none of what others have led to.
        let foreign = flights.enter(Flying { root: CallId(1), ..flying(4, 1) });
        let waiting = flights.stop_from(CallId(2), &refusal(), LIMIT);
        assert!(root.check().is_err() && inner.check().is_err());
        assert!(foreign.check().is_ok() && others.iter().all(|it| it.check().is_ok()));
        drop(waiting);
        assert!(flights.stop_from(CallId(4), &refusal(), LIMIT).now_or_never().is_some());
        assert!(foreign.check().is_ok());
    }
}
