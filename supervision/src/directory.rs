//! Where a kind's live actors are: one slot an id, whatever races.
//!
//! The first message to an id activates it, once; others wait for that. A slot leaves only when
//! its actor has really ended and everything it appended is durable, so there are never two
//! incarnations at once and the next one reads all that the last one wrote.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use persistence::{KeyId, codec};
use ractor::{Actor, ActorRef, MessagingErr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::address::{Address, Place};
use crate::command::{Command, Handle, Origin};
use crate::crashes::Crashes;
use crate::entity::{Entity, RowDraft};
use crate::envelope::{Answer, Envelope};
use crate::event::Event;
use crate::host::{Boarding, Host, Published, ReplayError, replay};
use crate::idempotency::Ticketed;
use crate::monitor::{ActorMonitor, ActorView, CommandView, KindMonitor, KindView};
use crate::process::Process;
use crate::rebuild::{self, Derived};
use crate::refusal::Refusal;
use crate::reminders::AGAIN_MS;
use crate::renaming::Renaming;
use crate::system::{Core, Registered};
use crate::transplant;

pub(crate) mod erasure;
mod sweep;

pub use sweep::{LIVE_MAX, NEWBORN_IDLE};

/// How many times a caller waits again for a process whose actor ended meanwhile.
const WAIT_ATTEMPTS_MAX: usize = 100;
/// How long it pauses before that: it may be that too many wait already.
const WAIT_PAUSE: Duration = Duration::from_millis(50);
/// How long a look at the state for the console may take.
const OBSERVE_LIMIT: Duration = Duration::from_millis(250);
/// How many essential commands may wait for one entity beyond its mailbox: whoever floods it cannot
/// keep it from being released, settled or stopped.
pub const ESSENTIAL_RESERVE: usize = 64;

enum Phase<E: Entity> {
    Starting,
    Active(ActorRef<Envelope<E>>),
    /// It cannot start: the refusal that says why.
    Failed(Refusal),
    Gone,
}

struct Slot<E: Entity> {
    phase: watch::Sender<Phase<E>>,
    room: Arc<Semaphore>,
    /// For essential commands, once there is no room.
    reserve: Arc<Semaphore>,
    monitor: Arc<ActorMonitor>,
    published: Published<E>,
    address: Address<E>,
}

impl<E: Entity> Slot<E> {
    /// How many commands wait or are in work.
    fn waiting(&self) -> usize {
        let room = E::MAILBOX_MAX - self.room.available_permits();
        room + ESSENTIAL_RESERVE - self.reserve.available_permits()
    }
}

/// A kind's directory.
pub struct Directory<E: Entity> {
    pub(crate) core: Arc<Core>,
    pub(crate) kind_monitor: KindMonitor,
    slots: Mutex<HashMap<Arc<str>, Arc<Slot<E>>>>,
    crashes: Crashes,
    /// Event and command names as the journal wants them, made once.
    names: HashMap<&'static str, Arc<str>>,
    commands: Mutex<HashMap<&'static str, Arc<str>>>,
}

impl<E: Entity> Directory<E> {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        let names = E::Event::catalogue().iter().map(|(name, _)| (*name, (*name).into())).collect();
        Arc::new(Self {
            core,
            kind_monitor: KindMonitor::default(),
            slots: Mutex::default(),
            crashes: Crashes::default(),
            names,
            commands: Mutex::default(),
        })
    }

    pub(crate) fn event_name(&self, name: &'static str) -> Arc<str> {
        self.names.get(name).cloned().unwrap_or_else(|| name.into())
    }

    pub(crate) fn command_name(&self, name: &'static str) -> Arc<str> {
        self.commands.lock().entry(name).or_insert_with(|| name.into()).clone()
    }

    /// Sends a command and waits for its answer, which comes once it is durable.
    pub async fn ask<C>(
        self: &Arc<Self>,
        address: &Address<E>,
        command: C,
        origin: Origin,
    ) -> Result<<E as Handle<C>>::Reply, Refusal>
    where
        C: Command,
        E: Handle<C>,
    {
        let permit = self.admit_command::<C>(address, &origin)?;
        let (envelope, answer) =
            Envelope::command(command, origin, permit, |reply| (reply, Vec::new()));
        self.deliver(address, envelope).await?;
        receive(answer).await
    }

    /// As [`Directory::ask`], for a command with an idempotency key: `render` makes the bytes that
    /// are recorded with the command's events and answered to every repetition.
    pub async fn ask_once<C>(
        self: &Arc<Self>,
        address: &Address<E>,
        command: C,
        origin: Origin,
        ticketed: Ticketed,
        render: impl FnOnce(<E as Handle<C>>::Reply) -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, Refusal>
    where
        C: Command,
        E: Handle<C>,
    {
        let permit = self.admit_command::<C>(address, &origin)?;
        let now = self.core.clock.now();
        let finish = move |reply: <E as Handle<C>>::Reply| {
            let bytes = render(reply);
            let rows: Vec<RowDraft> = ticketed.outcome_rows(&bytes, now);
            // Duplicates wait until the rows are durable, not only until the turn is over.
            ((bytes, ticketed), rows)
        };
        let (envelope, answer) = Envelope::command(command, origin, permit, finish);
        self.deliver(address, envelope).await?;
        receive(answer).await.map(|(bytes, _ticketed)| bytes)
    }

    /// Reads the state; answers once what was seen is durable.
    pub async fn look<R: Send + 'static>(
        self: &Arc<Self>,
        address: &Address<E>,
        origin: Origin,
        look: impl FnOnce(&E) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        if let Some(state) = self.published(address) {
            return Ok(look(&state));
        }
        let permit = self.admit(address, "look", false)?;
        let (envelope, answer) = Envelope::look("look", origin, Some(permit), look);
        self.deliver(address, envelope).await?;
        receive(answer).await
    }

    /// The last durable state, of a live entity that publishes it.
    fn published(&self, address: &Address<E>) -> Option<Arc<E>> {
        if !E::PUBLISHED {
            return None;
        }
        let slots = self.slots.lock();
        let slot = slots.get(address.id())?;
        let state = slot.published.read().clone()?;
        slot.monitor.last_used_ms.store(self.core.monotonic_ms(), Relaxed);
        Some(state)
    }

    /// Waits for a process to end.
    pub async fn wait(
        self: &Arc<Self>,
        address: &Address<E>,
        origin: Origin,
    ) -> Result<E::Outcome, Refusal>
    where
        E: Process,
    {
        for attempt in 0..WAIT_ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(WAIT_PAUSE).await;
            }
            let (envelope, answer) = Envelope::park(origin.clone(), E::outcome);
            self.deliver(address, envelope).await?;
            // An error means that the actor ended first: its next incarnation knows as much.
            if let Ok(Ok(outcome)) = answer.await {
                return Ok(outcome);
            }
        }
        Err(Refusal::in_doubt())
    }

    fn admit_command<C: Command>(
        self: &Arc<Self>,
        address: &Address<E>,
        origin: &Origin,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let begins = !C::ESSENTIAL && !origin.continues();
        if begins && self.core.journal.is_low_on_space() {
            return Err(Refusal::low_space());
        }
        self.admit(address, C::NAME, C::ESSENTIAL)
    }

    fn admit(
        self: &Arc<Self>,
        address: &Address<E>,
        command: &'static str,
        is_essential: bool,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let journal = &self.core.journal;
        let is_full =
            if is_essential { journal.is_full_for_essentials() } else { journal.is_full() };
        if is_full {
            return Err(Refusal::busy());
        }
        self.crashes.check(address.id(), command, Instant::now())?;
        let slot = self.slot(address);
        let place = slot.room.clone().try_acquire_owned();
        let place = place.or_else(|full| match is_essential {
            true => slot.reserve.clone().try_acquire_owned(),
            false => Err(full),
        });
        place.map_err(|_| {
            self.kind_monitor.busy.fetch_add(1, Relaxed);
            Refusal::busy()
        })
    }

    async fn deliver(
        self: &Arc<Self>,
        address: &Address<E>,
        mut envelope: Envelope<E>,
    ) -> Result<(), Refusal> {
        loop {
            let slot = self.slot(address);
            let mut phase = slot.phase.subscribe();
            let actor = {
                let settled = phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await;
                match settled.as_deref() {
                    Ok(Phase::Active(actor)) => Some(actor.clone()),
                    Ok(Phase::Failed(refusal)) => return Err(refusal.clone()),
                    _ => None,
                }
            };
            let Some(actor) = actor else { continue };
            match actor.cast(envelope) {
                Ok(()) => return Ok(()),
                // Draining or dead: the message comes back and goes to the next incarnation.
                Err(MessagingErr::SendErr(back)) => {
                    envelope = back;
                    let _ = phase.wait_for(|phase| matches!(phase, Phase::Gone)).await;
                }
                Err(_) => return Err(Refusal::restarting()),
            }
        }
    }

    fn slot(self: &Arc<Self>, address: &Address<E>) -> Arc<Slot<E>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(address.id()) {
            return slot.clone();
        }
        let slot = Arc::new(Slot {
            phase: watch::Sender::new(Phase::Starting),
            room: Arc::new(Semaphore::new(E::MAILBOX_MAX)),
            reserve: Arc::new(Semaphore::new(ESSENTIAL_RESERVE)),
            monitor: Arc::default(),
            published: Arc::default(),
            address: address.clone(),
        });
        slot.monitor.last_used_ms.store(self.core.monotonic_ms(), Relaxed);
        slots.insert(address.id().into(), slot.clone());
        drop(slots);
        self.kind_monitor.activations.fetch_add(1, Relaxed);
        let (directory, live) = (self.clone(), slot.clone());
        self.core.runtime.spawn(async move { directory.live(live).await });
        slot
    }

    /// One incarnation, from its start until nothing of it is left.
    async fn live(self: Arc<Self>, slot: Arc<Slot<E>>) {
        let id = slot.address.id().to_owned();
        let backoff = self.crashes.backoff(&id, Instant::now());
        if !backoff.is_zero() {
            tokio::time::sleep(backoff).await;
        }
        let boarding = Boarding {
            directory: self.clone(),
            address: slot.address.clone(),
            monitor: slot.monitor.clone(),
            published: slot.published.clone(),
            incarnation: self.core.next_incarnation(),
        };
        let replay = self.core.replays.acquire().await;
        // Boxed: what a start needs is not kept for as long as the actor lives.
        let started = Box::pin(Host::<E>::spawn(None, Host(PhantomData), boarding)).await;
        drop(replay);
        match started {
            Ok((actor, ended)) => {
                slot.phase.send_replace(Phase::Active(actor));
                let _ = ended.await;
                // What it appended must be readable before anybody replays it.
                let (sender, durable) = oneshot::channel();
                self.core.journal.ride(Box::new(move |_| {
                    let _ = sender.send(());
                }));
                let _ = durable.await;
            }
            Err(error) if is_erasure(&error) => {
                slot.phase.send_replace(Phase::Failed(Refusal::erased()));
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(kind = E::KIND, id, reason, "an entity does not start");
                self.crashes.quarantine(&id, &reason);
                slot.phase.send_replace(Phase::Failed(Refusal::quarantined(&reason)));
            }
        }
        self.slots.lock().remove(id.as_str());
        if !matches!(*slot.phase.borrow(), Phase::Failed(_)) {
            slot.phase.send_replace(Phase::Gone);
        }
    }

    pub(crate) fn note_crash(&self, id: &str, command: &'static str, message: &str) {
        self.kind_monitor.crashes.fetch_add(1, Relaxed);
        tracing::error!(kind = E::KIND, id, command, message, "a turn crashed; it was undone");
        self.crashes.note(id, command, message, Instant::now());
    }

    fn actor(&self, id: &str) -> Option<ActorRef<Envelope<E>>> {
        let slot = self.slots.lock().get(id).cloned()?;
        match &*slot.phase.borrow() {
            Phase::Active(actor) => Some(actor.clone()),
            _ => None,
        }
    }

    /// Lets the actor finish what it has and leave memory. Says whether it was live.
    pub fn passivate(&self, id: &str) -> bool {
        let Some(actor) = self.actor(id) else { return false };
        self.kind_monitor.passivations.fetch_add(1, Relaxed);
        actor.drain().is_ok()
    }

    /// Ends the actor at once; what it has not handled is refused. Says whether it was live.
    pub fn kill(&self, id: &str) -> bool {
        let Some(actor) = self.actor(id) else { return false };
        actor.kill();
        true
    }

    /// The entity as its durable records give it, without activating it.
    pub fn replay(&self, place: &Place) -> Result<E, Refusal> {
        let replayed = replay(self, place, None);
        replayed.map(|(entity, _)| entity).map_err(Refusal::from)
    }

    /// How many are live.
    pub fn live_count(&self) -> usize {
        self.slots.lock().len()
    }

    /// Activations since the start.
    pub fn activations(&self) -> u64 {
        self.kind_monitor.activations.load(Relaxed)
    }

    fn view(&self, slot: &Slot<E>) -> ActorView {
        let monitor = &slot.monitor;
        let current = *monitor.current.lock();
        let status = match &*slot.phase.borrow() {
            Phase::Starting => "starting",
            Phase::Active(_) => "active",
            Phase::Failed(_) => "failed",
            Phase::Gone => "stopping",
        };
        ActorView {
            kind: E::KIND.to_owned(),
            id: slot.address.id().to_owned(),
            home: slot.address.place().home.0,
            status,
            mailbox: slot.waiting(),
            mailbox_max: E::MAILBOX_MAX,
            processed: monitor.processed.load(Relaxed),
            refused: monitor.refused.load(Relaxed),
            events: monitor.events.load(Relaxed),
            seq: monitor.seq.load(Relaxed),
            live_ms: monitor.started.elapsed().as_millis() as u64,
            idle_ms: (self.core.monotonic_ms() - monitor.last_used_ms.load(Relaxed)).max(0) as u64,
            command: current.map(|(command, _)| command),
            command_ms: current.map_or(0, |(_, since)| since.elapsed().as_millis() as u64),
            turn_p50_us: monitor.turns.quantile_us(0.5),
            turn_p99_us: monitor.turns.quantile_us(0.99),
            pinned: monitor.pinned.load(Relaxed),
            last_error: monitor.last_error.lock().clone(),
            crashes: self.crashes.view(slot.address.id(), Instant::now()),
        }
    }
}

/// Whether an actor did not start because what it replays was erased.
fn is_erasure(error: &ractor::SpawnErr) -> bool {
    let ractor::SpawnErr::StartupFailed(error) = error else { return false };
    matches!(error.downcast_ref(), Some(ReplayError::Erased))
}

async fn receive<R>(answer: Answer<R>) -> Result<R, Refusal> {
    answer.await.unwrap_or_else(|_| Err(Refusal::in_doubt()))
}

impl<E: Entity> Registered for Arc<Directory<E>> {
    fn kind(&self) -> &'static str {
        E::KIND
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }

    fn kind_view(&self) -> KindView {
        let monitor = &self.kind_monitor;
        let commands = monitor.commands();
        KindView {
            kind: E::KIND,
            live: self.live_count(),
            activations: monitor.activations.load(Relaxed),
            passivations: monitor.passivations.load(Relaxed),
            crashes: monitor.crashes.load(Relaxed),
            busy: monitor.busy.load(Relaxed),
            quarantined: self.crashes.quarantined(),
            commands: commands.iter().map(|(name, it)| CommandView::of(name, it)).collect(),
        }
    }

    fn actors(&self, limit: usize) -> Vec<ActorView> {
        let slots: Vec<_> = self.slots.lock().values().take(limit).cloned().collect();
        slots.iter().map(|slot| self.view(slot)).collect()
    }

    fn actor_view(&self, id: &str) -> Option<ActorView> {
        let slot = self.slots.lock().get(id).cloned()?;
        Some(self.view(&slot))
    }

    fn observe(
        &self,
        place: Place,
    ) -> futures::future::BoxFuture<'static, Result<serde_json::Value, Refusal>> {
        let directory = self.clone();
        Box::pin(async move {
            // Not by `look`: who only looks brings nothing into memory.
            let Some(actor) = directory.actor(place.id()) else {
                return directory.replay(&place).map(|entity| entity.observe());
            };
            let origin = directory.core.system_origin();
            let (envelope, answer) = Envelope::look("look", origin, None, E::observe);
            actor.cast(envelope).map_err(|_| Refusal::restarting())?;
            let seen = tokio::time::timeout(OBSERVE_LIMIT, receive(answer)).await;
            seen.unwrap_or_else(|_| Err(Refusal::busy()))
        })
    }

    fn observe_at(&self, place: &Place, seq: u64) -> Result<serde_json::Value, Refusal> {
        match replay(self, place, Some(seq)) {
            Ok((entity, at)) if at == seq => Ok(entity.observe()),
            Ok(_) => Err(Refusal::not_found("record of this entity")),
            Err(error) => Err(error.into()),
        }
    }

    fn observe_last(&self, place: &Place) -> Result<(serde_json::Value, u64), Refusal> {
        let failed = |error: ReplayError| Refusal::quarantined(&error.to_string());
        let (entity, seq) = replay(self, place, None).map_err(failed)?;
        Ok((entity.observe(), seq))
    }

    fn verify(&self, place: &Place) -> Result<bool, Refusal> {
        let (fast, seq) = replay(self, place, None)?;
        let (slow, _) = replay(self, place, Some(seq))?;
        let bytes = |entity: &E| codec::encode(entity).ok();
        Ok(bytes(&fast) == bytes(&slow))
    }

    fn derive(&self, place: &Place) -> Result<Derived, Refusal> {
        rebuild::derive(self, place).map_err(Refusal::from)
    }

    fn retold(
        &self,
        event: &str,
        version: u16,
        payload: &[u8],
        renaming: &Renaming,
    ) -> Result<(u16, Vec<u8>), codec::CodecError> {
        transplant::retold::<E>(event, version, payload, renaming)
    }

    fn plant(&self, place: &Place) -> Result<u64, Refusal> {
        transplant::plant(self, place)
    }

    fn observed_families(&self) -> &'static [&'static str] {
        E::OBSERVED_FAMILIES
    }

    fn snapshot(&self, place: &Place) -> bool {
        rebuild::snapshot(self, place)
    }

    fn passivate(&self, id: &str) -> bool {
        Directory::passivate(self, id)
    }

    fn kill(&self, id: &str) -> bool {
        Directory::kill(self, id)
    }

    fn release(&self, id: &str) -> bool {
        self.crashes.release(id)
    }

    fn quarantine(&self, id: &str, reason: &str) {
        self.crashes.quarantine(id, reason);
        Directory::kill(self, id);
    }

    fn wake(&self, place: Place, due: Option<i64>) {
        let Some(address) = Address::from_place(place) else { return };
        let (directory, origin) = (self.clone(), self.core.system_origin());
        self.core.runtime.spawn(async move {
            let (envelope, handled) = Envelope::due(origin, due);
            let delivered = directory.deliver(&address, envelope).await;
            if delivered.as_ref().is_err_and(Refusal::is_erased) {
                // Nothing is due there any more, and never will be.
                return directory.core.let_sleep(address.place(), due);
            }
            if delivered.is_err() || handled.await.is_err() {
                // Its actor ended before it came to this: what is due stays due.
                let again = directory.core.now_in(address.place().home).plus_ms(AGAIN_MS);
                directory.core.reminders.add(again, address.place().clone());
            }
        });
    }

    fn live(&self) -> usize {
        self.live_count()
    }

    fn sweep(&self, excess: usize) {
        self.sweep_idle(excess);
    }

    fn forget(&self, keys: Arc<HashSet<KeyId>>) -> futures::future::BoxFuture<'static, usize> {
        Box::pin(erasure::forget(self.clone(), keys))
    }

    fn drain_all(&self) -> usize {
        let ids: Vec<Arc<str>> = self.slots.lock().keys().cloned().collect();
        for id in &ids {
            if let Some(actor) = self.actor(id) {
                let _ = actor.drain();
            }
        }
        ids.len()
    }
}
