//! A whole system: the journal, the clock, every kind's directory, and the ports that effects use.
//!
//! There is no process-wide state: a test starts as many systems as it likes.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use persistence::{Journal, KeyId, Opened, Record, RowChange, RowKey, RowRange, Shard};
use tokio::sync::{Semaphore, oneshot};

use crate::address::Place;
use crate::clock::{Clock, SystemClock};
use crate::command::{Origin, SYSTEM_CALLER};
use crate::directory::Directory;
use crate::entity::{Entity, RowDraft};
use crate::host::seal_context;
use crate::idempotency::{Begin, IdempotencyKey, KeysInFlight, is_over};
use crate::monitor::{ActorView, KindView};
use crate::rebuild::Derived;
use crate::refusal::Refusal;
use crate::reminders::Reminders;
use crate::renaming::Renaming;

/// How many entities replay at once.
const REPLAYS_MAX: usize = 64;
/// How long a stop waits for actors to finish what they have.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// How many outcome rows one housekeeping step looks at.
const HOUSEKEEPING_STEP: usize = 500;

/// Makes new ids.
pub type NewId = Arc<dyn Fn() -> u128 + Send + Sync>;

/// What every directory shares.
pub(crate) struct Core {
    pub(crate) journal: Arc<Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) new_id: NewId,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) replays: Semaphore,
    pub(crate) reminders: Reminders,
    pub(crate) in_flight: KeysInFlight,
    incarnations: AtomicU64,
    started: Instant,
    system: OnceLock<Weak<System>>,
}

impl Core {
    pub(crate) fn monotonic_ms(&self) -> i64 {
        self.started.elapsed().as_millis() as i64
    }

    pub(crate) fn next_incarnation(&self) -> u64 {
        self.incarnations.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn system_origin(&self) -> Origin {
        Origin { caller: SYSTEM_CALLER.into(), request: (self.new_id)().into(), cause: None }
    }

    /// The system. Directories live in it, so it is there whenever one of them runs.
    pub(crate) fn system(&self) -> Arc<System> {
        let system = self.system.get().and_then(Weak::upgrade);
        system.unwrap_or_else(|| panic!("an actor outlived its system"))
    }

    pub(crate) fn seal_row(&self, place: &Place, row: &RowDraft) -> RowChange {
        let key = RowKey::new(place.shard(), row.family, row.key.clone());
        let sealed = row.value.as_ref().map(|value| {
            let sealed = self.journal.keys().seal(place.key(), &key.bytes(), value);
            // Nothing was appended yet: the turn crashes, and its caller is told so.
            sealed.unwrap_or_else(|error| panic!("a row could not be sealed: {error}"))
        });
        (key, sealed)
    }

    pub(crate) fn open_rows(&self, rows: Vec<(RowKey, Vec<u8>)>) -> Vec<(RowKey, Vec<u8>)> {
        let open = |(key, sealed): (RowKey, Vec<u8>)| match self
            .journal
            .keys()
            .open_blob(&key.bytes(), &sealed)
        {
            Ok(Opened::Plain(value)) => Some((key, value)),
            Ok(Opened::Erased) => None,
            Err(error) => {
                tracing::error!(family = %key.family, %error, "a row does not open");
                None
            }
        };
        rows.into_iter().filter_map(open).collect()
    }

    /// One row in clear. A row that cannot be read is an error, never "no such row".
    pub(crate) fn read_row(&self, key: &RowKey) -> Result<Option<Vec<u8>>, String> {
        let Some(sealed) = self.journal.row(key).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        match self.journal.keys().open_blob(&key.bytes(), &sealed) {
            Ok(Opened::Plain(value)) => Ok(Some(value)),
            Ok(Opened::Erased) => Ok(None),
            Err(error) => Err(format!("{}: {error}", key.family)),
        }
    }

    pub(crate) fn read_rows(&self, range: &RowRange) -> Vec<(RowKey, Vec<u8>)> {
        match self.journal.row_range(range) {
            Ok(rows) => self.open_rows(rows),
            Err(error) => panic!("rows could not be read: {error}"),
        }
    }
}

/// A directory without its kind's type: what the console and the workers use.
pub trait Registered: Send + Sync {
    /// The kind.
    fn kind(&self) -> &'static str;
    /// The directory itself.
    fn as_any(&self) -> &(dyn Any + Send + Sync);
    /// The kind's figures.
    fn kind_view(&self) -> KindView;
    /// Up to `limit` live actors.
    fn actors(&self, limit: usize) -> Vec<ActorView>;
    /// One live actor.
    fn actor_view(&self, id: &str) -> Option<ActorView>;
    /// An entity's state now, redacted.
    fn observe(&self, place: Place) -> BoxFuture<'static, Result<serde_json::Value, Refusal>>;
    /// An entity's state after its record `seq`, redacted.
    fn observe_at(&self, place: &Place, seq: u64) -> Result<serde_json::Value, Refusal>;
    /// An entity's last durable state, redacted, and the number of the record that it is after.
    /// Blocks; wakes nobody.
    fn observe_last(&self, place: &Place) -> Result<(serde_json::Value, u64), Refusal>;
    /// Whether snapshot and later records give what all records give.
    fn verify(&self, place: &Place) -> Result<bool, Refusal>;
    /// What an entity's records give beside its state.
    fn derive(&self, place: &Place) -> Result<Derived, Refusal>;
    /// An event's payload with other ids, in the version that is written now.
    fn retold(
        &self,
        event: &str,
        version: u16,
        payload: &[u8],
        renaming: &Renaming,
    ) -> Result<(u16, Vec<u8>), persistence::CodecError>;
    /// Writes what an entity's records give beside its state, sets its reminder and lets its
    /// pending work begin; says how many rows there were. Blocks until they are durable.
    fn plant(&self, place: &Place) -> Result<u64, Refusal>;
    /// Families of rows that follow from no record.
    fn observed_families(&self) -> &'static [&'static str];
    /// Queues a snapshot of an entity's durable state; says whether it could be made.
    fn snapshot(&self, place: &Place) -> bool;
    /// Lets an actor finish and leave memory.
    fn passivate(&self, id: &str) -> bool;
    /// Ends an actor at once.
    fn kill(&self, id: &str) -> bool;
    /// Ends an entity's quarantine.
    fn release(&self, id: &str) -> bool;
    /// Puts an entity into quarantine.
    fn quarantine(&self, id: &str, reason: &str);
    /// Activates an entity and lets it handle what is due.
    fn wake(&self, place: Place, due: Option<i64>);
    /// How many are live.
    fn live(&self) -> usize;
    /// Passivates what is idle, and the `excess` least recently used.
    fn sweep(&self, excess: usize);
    /// Ends every actor whose entity is sealed under one of these keys, at once and without a
    /// snapshot, and waits until nothing of them is left in memory; says how many there were.
    fn forget(&self, keys: Arc<HashSet<KeyId>>) -> BoxFuture<'static, usize>;
    /// Lets every actor finish; says how many there were.
    fn drain_all(&self) -> usize;
}

/// What a system is made of.
pub struct SystemOptions {
    /// The journal.
    pub journal: Arc<Journal>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub new_id: NewId,
}

impl SystemOptions {
    /// A journal, the machine's clock, UUIDv7 ids.
    pub fn new(journal: Arc<Journal>) -> Self {
        let new_id = Arc::new(|| uuid::Uuid::now_v7().as_u128());
        Self { journal, clock: Arc::new(SystemClock::default()), new_id }
    }
}

/// Collects kinds and ports. Must be used within a tokio runtime.
pub struct SystemBuilder {
    core: Arc<Core>,
    kinds: Vec<Box<dyn Registered>>,
    types: HashMap<TypeId, usize>,
    ports: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl SystemBuilder {
    /// Registers a kind.
    #[must_use]
    pub fn kind<E: Entity>(mut self) -> Self {
        self.types.insert(TypeId::of::<E>(), self.kinds.len());
        self.kinds.push(Box::new(Directory::<E>::new(self.core.clone())));
        self
    }

    /// Puts a port in: something effects use to reach the outside.
    #[must_use]
    pub fn port<T: Any + Send + Sync>(mut self, port: Arc<T>) -> Self {
        self.ports.insert(TypeId::of::<T>(), port);
        self
    }

    /// The system.
    pub fn start(self) -> Arc<System> {
        let Self { core, kinds, types, ports } = self;
        let system = Arc::new(System { core, kinds, types, ports });
        let _ = system.core.system.set(Arc::downgrade(&system));
        system
    }
}

/// A running system.
pub struct System {
    pub(crate) core: Arc<Core>,
    kinds: Vec<Box<dyn Registered>>,
    types: HashMap<TypeId, usize>,
    ports: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl System {
    /// Begins to build a system.
    pub fn builder(options: SystemOptions) -> SystemBuilder {
        let core = Arc::new(Core {
            journal: options.journal,
            clock: options.clock,
            new_id: options.new_id,
            runtime: tokio::runtime::Handle::current(),
            replays: Semaphore::new(REPLAYS_MAX),
            reminders: Reminders::default(),
            in_flight: KeysInFlight::default(),
            incarnations: AtomicU64::new(1),
            started: Instant::now(),
            system: OnceLock::new(),
        });
        SystemBuilder { core, kinds: Vec::new(), types: HashMap::new(), ports: HashMap::new() }
    }

    /// The directory of a kind. Panics if the kind was not registered: a mistake in the start.
    pub fn directory<E: Entity>(&self) -> Arc<Directory<E>> {
        let found = self.types.get(&TypeId::of::<E>()).and_then(|index| {
            self.kinds[*index].as_any().downcast_ref::<Arc<Directory<E>>>().cloned()
        });
        found.unwrap_or_else(|| panic!("the kind {} is not registered", E::KIND))
    }

    /// A port. Panics if it was not put in: a mistake in the start.
    pub fn port<T: Any + Send + Sync>(&self) -> Arc<T> {
        let port = self.find_port::<T>();
        port.unwrap_or_else(|| panic!("no {} was put in", std::any::type_name::<T>()))
    }

    /// A port that need not be there.
    pub fn find_port<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let found = self.ports.get(&TypeId::of::<T>()).cloned();
        found.and_then(|port| port.downcast::<T>().ok())
    }

    /// Every kind.
    pub fn kinds(&self) -> &[Box<dyn Registered>] {
        &self.kinds
    }

    /// A kind by its name.
    pub fn kind(&self, name: &str) -> Option<&dyn Registered> {
        self.kinds.iter().find(|kind| kind.kind() == name).map(AsRef::as_ref)
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.core.journal
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.core.clock
    }

    /// A new id.
    pub fn new_id(&self) -> u128 {
        (self.core.new_id)()
    }

    /// The reminders' schedule.
    pub fn reminders(&self) -> &Reminders {
        &self.core.reminders
    }

    /// The origin of what the system does by itself.
    pub fn system_origin(&self) -> Origin {
        self.core.system_origin()
    }

    /// Looks an idempotency key up, and takes it if it is new. `place` is the entity whose
    /// command will record the outcome.
    pub async fn begin(&self, place: &Place, key: IdempotencyKey) -> Result<Begin, Refusal> {
        self.core.begin(place, key).await
    }

    /// A durable row's value in clear. Panics when the row cannot be read.
    pub fn row(&self, shard: Shard, family: &'static str, key: &[u8]) -> Option<Vec<u8>> {
        let row = self.core.read_row(&RowKey::new(shard, family, key));
        row.unwrap_or_else(|error| panic!("a row could not be read: {error}"))
    }

    /// The durable rows of a range in clear: keys and values.
    pub fn rows(&self, range: &RowRange) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.core.read_rows(range).into_iter().map(|(key, value)| (key.key, value)).collect()
    }

    /// Writes rows in the shard of `place` that no record speaks of: observations, such as when
    /// something was used last. They are durable a moment later; nobody waits for that.
    pub fn note_rows(&self, place: &Place, rows: &[RowDraft]) {
        let changes = rows.iter().map(|row| self.core.seal_row(place, row)).collect();
        self.core.journal.change_rows(changes, Box::new(|_| {}));
    }

    /// Activates an entity and lets it handle what is due.
    pub fn wake(&self, place: Place, due: Option<i64>) {
        if let Some(kind) = self.kind(place.kind()) {
            kind.wake(place, due);
        }
    }

    /// Where an entity lives, by its stream: from its live actor or its first record.
    pub fn locate(&self, kind: &str, id: &str) -> Option<Place> {
        let stream = persistence::StreamName::new(&format!("{kind}/{id}"))?;
        let record = self.core.journal.read(&stream, 0, 1).ok()?.into_iter().next()?;
        let (owner, home) = (record.header.owner, record.header.home);
        Some(Place { stream, owner, home })
    }

    /// A record's payload in clear; `None` when its key was erased or it does not open.
    pub fn open_record(&self, record: &Record) -> Option<Vec<u8>> {
        let header = &record.header;
        let context = seal_context(&header.stream, header.seq);
        match self.core.journal.keys().open_blob(&context, &record.payload) {
            Ok(Opened::Plain(payload)) => Some(payload),
            Ok(Opened::Erased) => None,
            Err(error) => {
                tracing::error!(position = %header.position, %error, "a record does not open");
                None
            }
        }
    }

    /// Deletes a shard's outcomes that are over, of one of the two families.
    pub fn clean_outcomes(&self, shard: Shard, family: &'static str) {
        let mut after = None;
        loop {
            after = self.clean_outcomes_after(shard, family, after);
            if after.is_none() {
                return;
            }
        }
    }

    /// One step of it: from `after` on, answering where to go on.
    fn clean_outcomes_after(
        &self,
        shard: Shard,
        family: &'static str,
        after: Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let (limit, prefix) = (HOUSEKEEPING_STEP, Vec::new());
        let range = RowRange { shard, family, prefix, after, newest_first: false, limit };
        let sealed = self.core.journal.row_range(&range).unwrap_or_default();
        let now = self.core.clock.now();
        let last = sealed.last().map(|(key, _)| key.key.clone());
        let full = sealed.len() == limit;
        let rows = self.core.open_rows(sealed);
        let over = rows.into_iter().filter(|(_, value)| is_over(family, value, now));
        // A key that is used again just now keeps its row.
        let over = over.filter_map(|(key, _)| {
            let guard = self.core.in_flight.close(&key.key)?;
            // It may have been used anew since it was read: only from here on it stays as it is.
            let value = self.core.read_row(&key).ok().flatten()?;
            is_over(family, &value, now).then_some((guard, key))
        });
        let (guards, changes): (Vec<_>, Vec<_>) = over.map(|(it, key)| (it, (key, None))).unzip();
        if !changes.is_empty() {
            self.core.journal.change_rows(changes, Box::new(move |_| drop(guards)));
        }
        last.filter(|_| full)
    }

    /// Waits until everything appended so far is durable.
    pub async fn settle(&self) {
        let (sender, durable) = oneshot::channel();
        self.core.journal.ride(Box::new(move |_| {
            let _ = sender.send(());
        }));
        let _ = durable.await;
    }

    /// Lets every actor finish what it has, then closes the journal.
    pub async fn stop(&self) {
        let deadline = Instant::now() + DRAIN_LIMIT;
        while Instant::now() < deadline {
            let live: usize = self.kinds.iter().map(|kind| kind.drain_all()).sum();
            if live == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let journal = self.core.journal.clone();
        let _ = tokio::task::spawn_blocking(move || journal.close()).await;
    }
}
