//! The three storms, and what the kernel promises beside them, on a counter that can do everything.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use persistence::{EngineKind, Journal, MasterKey, Options, RowRange};
use serde::{Deserialize, Serialize};
use supervision::idempotency::Begin;
use supervision::*;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Counter {
    total: i64,
    alarm: Option<Timestamp>,
    rung: u32,
    owed: Option<String>,
    paid: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Added {
    amount: i64,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct AlarmSet {
    at: Timestamp,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rang {}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ordered {
    to: String,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Paid {}

supervision::events! {
    /// What happens to a counter.
    enum CounterEvent {
        /// It grew.
        Added(Added) = "added", 1;
        /// It shall ring.
        AlarmSet(AlarmSet) = "alarm_set", 1;
        /// It rang.
        Rang(Rang) = "rang", 1;
        /// It owes another counter one.
        Ordered(Ordered) = "ordered", 1;
        /// The other has it.
        Paid(Paid) = "paid", 1;
    }
}

#[derive(Clone, Debug)]
enum CounterEffect {
    Pay { to: String },
}

/// Effects go nowhere while this is off.
struct Postman(AtomicBool);

const NOTES: &str = "notes";

impl Entity for Counter {
    const KIND: &'static str = "counter";
    const MAILBOX_MAX: usize = 256;
    const IDLE: Duration = Duration::ZERO;
    type Event = CounterEvent;
    type Effect = CounterEffect;

    fn apply(&mut self, event: &CounterEvent, _: Timestamp) {
        match event {
            CounterEvent::Added(added) => self.total += added.amount,
            CounterEvent::AlarmSet(set) => self.alarm = Some(set.at),
            CounterEvent::Rang(_) => (self.alarm, self.rung) = (None, self.rung + 1),
            CounterEvent::Ordered(ordered) => self.owed = Some(ordered.to.clone()),
            CounterEvent::Paid(_) => (self.owed, self.paid) = (None, self.paid + 1),
        }
    }

    fn rows(&self, event: &CounterEvent, _: Timestamp, rows: &mut Vec<entity::RowDraft>) {
        if let CounterEvent::Added(added) = event {
            let total = self.total + added.amount;
            let (key, value) = (b"total".to_vec(), Some(total.to_be_bytes().to_vec()));
            rows.push(entity::RowDraft { family: NOTES, key, value });
        }
    }

    fn is_pending(&self) -> bool {
        self.owed.is_some()
    }

    fn resume(&self) -> Vec<CounterEffect> {
        self.owed.iter().map(|to| CounterEffect::Pay { to: to.clone() }).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.alarm
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().alarm.is_some_and(|at| at <= turn.now()) {
            turn.record(CounterEvent::Rang(Rang {}));
        }
    }

    async fn perform(effect: CounterEffect, context: EffectContext<Self>) {
        let CounterEffect::Pay { to } = effect;
        if !context.system.port::<Postman>().0.load(Ordering::SeqCst) {
            return;
        }
        let counters = context.system.directory::<Counter>();
        if counters.ask(&address(&to), Add(1), context.origin.clone()).await.is_ok() {
            let _ = counters.ask(&context.address, Settle, context.origin).await;
        }
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({ "total": self.total })
    }
}

macro_rules! command {
    ($command:ident, $name:literal, $reply:ty, |$turn:ident, $it:ident| $body:expr) => {
        impl Command for $command {
            const NAME: &'static str = $name;
        }
        impl Handle<$command> for Counter {
            type Reply = $reply;
            fn handle($turn: &mut Turn<'_, Self>, $it: $command) -> Result<$reply, Refusal> {
                $body
            }
        }
    };
}

struct Add(i64);
command!(Add, "add", i64, |turn, add| {
    if add.0 < 0 {
        return Err(Refusal::invalid("amount", "must not be negative"));
    }
    turn.record(CounterEvent::Added(Added { amount: add.0 }));
    Ok(turn.state().total)
});
struct Boom;
command!(Boom, "boom", (), |turn, _boom| {
    turn.record(CounterEvent::Added(Added { amount: 1_000_000 }));
    panic!("after recording")
});
struct SetAlarm(Timestamp);
command!(SetAlarm, "set_alarm", (), |turn, set| {
    turn.record(CounterEvent::AlarmSet(AlarmSet { at: set.0 }));
    Ok(())
});
struct Order(&'static str);
command!(Order, "order", (), |turn, order| {
    turn.record(CounterEvent::Ordered(Ordered { to: order.0.to_owned() }));
    turn.effect(CounterEffect::Pay { to: order.0.to_owned() });
    Ok(())
});
struct Settle;
command!(Settle, "settle", (), |turn, _settle| {
    if turn.state().owed.is_some() {
        turn.record(CounterEvent::Paid(Paid {}));
    }
    Ok(())
});

/// What the row says that the state says too: the row is needed, so it must be overlaid.
struct Compare;
impl Command for Compare {
    const NAME: &'static str = "compare";
}
impl Handle<Compare> for Counter {
    type Reply = bool;
    fn needs(_: &Compare) -> Vec<Need> {
        vec![Need::Row(NOTES, b"total".to_vec())]
    }
    fn handle(turn: &mut Turn<'_, Self>, _: Compare) -> Result<bool, Refusal> {
        let total = turn.state().total.to_be_bytes();
        Ok(turn.found_row(NOTES, b"total") == Some(&total))
    }
}

impl process::Process for Counter {
    type Outcome = i64;
    fn outcome(&self) -> Option<i64> {
        (self.total >= 10).then_some(self.total)
    }
}

fn address(id: &str) -> Address<Counter> {
    Address::new(id, OwnerKey { class: 1, id: 1 }, Home(1)).unwrap()
}

fn origin() -> Origin {
    Origin { caller: "user/test".into(), request: 1.into(), cause: None }
}

#[derive(Clone)]
struct World {
    system: Arc<System>,
    counters: Arc<Directory<Counter>>,
    clock: Arc<SimulatedClock>,
}

/// On a folder: the default engine. Without: memory.
fn world(folder: Option<&Path>, postman: bool) -> World {
    let options = match folder {
        Some(folder) => Options::new(folder),
        None => Options { engine: EngineKind::Memory, ..Options::new("") },
    };
    let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
    let clock = SimulatedClock::at(Timestamp(1_000_000));
    let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
    let builder = System::builder(options).kind::<Counter>();
    let system = builder.port(Arc::new(Postman(AtomicBool::new(postman)))).start();
    let counters = system.directory::<Counter>();
    World { system, counters, clock }
}

/// Stops, and lets the folder go.
async fn stop(world: World) {
    world.system.stop().await;
    drop(world);
}

async fn total(world: &World, id: &str) -> i64 {
    world.counters.look(&address(id), origin(), |counter| counter.total).await.unwrap()
}

/// Asks until the actor comes to it: a refusal as busy changed nothing.
async fn ask_until_handled<C>(
    world: &World,
    id: &str,
    command: impl Fn() -> C,
) -> Result<<Counter as Handle<C>>::Reply, Refusal>
where
    C: Command,
    Counter: Handle<C>,
{
    loop {
        match world.counters.ask(&address(id), command(), origin()).await {
            Err(refusal) if refusal.code == "busy" => tokio::task::yield_now().await,
            outcome => return outcome,
        }
    }
}

/// `callers` tasks add one `each` times; answers how many were acknowledged, and how many not.
async fn add_from_many(world: &World, callers: usize, each: usize) -> (i64, Vec<Refusal>) {
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let counters = world.counters.clone();
        tasks.push(tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for _ in 0..each {
                outcomes.push(counters.ask(&address("hot"), Add(1), origin()).await);
            }
            outcomes
        }));
    }
    let (mut acknowledged, mut refused) = (0, Vec::new());
    for task in tasks {
        for outcome in task.await.unwrap() {
            match outcome {
                Ok(_) => acknowledged += 1,
                Err(refusal) => refused.push(refusal),
            }
        }
    }
    (acknowledged, refused)
}

/// Does something to the hot counter every `period` until the returned flag is set.
fn harass(
    world: &World,
    period: Duration,
    harm: fn(&Directory<Counter>) -> bool,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<usize>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, counters) = (stop.clone(), world.counters.clone());
    let task = tokio::spawn(async move {
        let mut times = 0;
        while !stopped.load(Ordering::Relaxed) {
            times += usize::from(harm(&counters));
            tokio::time::sleep(period).await; // sleep: the storm's rhythm, nothing waits on it
        }
        times
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passivation_storm_loses_nothing() {
    let world = world(None, true);
    let period = Duration::from_micros(500);
    let (stop, storm) = harass(&world, period, |counters| counters.passivate("hot"));
    let (acknowledged, refused) = add_from_many(&world, 64, 100).await;
    stop.store(true, Ordering::Relaxed);
    assert!(storm.await.unwrap() > 0);
    assert_eq!((acknowledged, refused.len()), (6_400, 0), "{:?}", refused.first());
    assert_eq!(total(&world, "hot").await, 6_400);
    assert!(world.counters.activations() > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_storm_keeps_every_acknowledgement() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(Some(folder.path()), true);
    let period = Duration::from_millis(2);
    let (stop, storm) = harass(&world, period, |counters| counters.kill("hot"));
    let (acknowledged, refused) = add_from_many(&world, 64, 100).await;
    stop.store(true, Ordering::Relaxed);
    assert!(storm.await.unwrap() > 0);
    let doubtful = refused.iter().filter(|refusal| refusal.class == Class::InDoubt).count() as i64;
    let safe = refused.iter().all(|it| matches!(it.class, Class::InDoubt | Class::Busy));
    assert!(safe, "{refused:?}");
    let grew = total(&world, "hot").await;
    assert!((acknowledged..=acknowledged + doubtful).contains(&grew), "{grew}");
    world.system.journal().verify_chain(Home(1)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_refused_at_once_and_nothing_is_lost() {
    let world = world(None, true);
    let (acknowledged, refused) = add_from_many(&world, 5_000, 1).await;
    assert_eq!(acknowledged + refused.len() as i64, 5_000);
    assert!(refused.iter().all(|refusal| refusal.code == "busy"));
    assert_eq!(total(&world, "hot").await, acknowledged);
    assert_eq!(world.system.kinds()[0].actors(9)[0].mailbox, 0, "a place was not given back");
}

struct Stop;
impl Command for Stop {
    const NAME: &'static str = "stop";
    const ESSENTIAL: bool = true;
}
impl Handle<Stop> for Counter {
    type Reply = ();
    fn handle(_: &mut Turn<'_, Self>, _: Stop) -> Result<(), Refusal> {
        Ok(())
    }
}

/// On one thread: nothing is handled until this waits.
#[tokio::test]
async fn a_full_mailbox_takes_what_stops_it() {
    let world = world(None, true);
    let (counters, address) = (world.counters.clone(), address("full"));
    let mut added = Vec::new();
    for _ in 0..Counter::MAILBOX_MAX {
        let mut add = Box::pin(counters.ask(&address, Add(1), origin()));
        assert!(futures::poll!(&mut add).is_pending());
        added.push(add);
    }
    let refused = counters.ask(&address, Add(1), origin()).await.unwrap_err();
    assert_eq!(refused.code, "busy");
    counters.ask(&address, Stop, origin()).await.unwrap();
    for add in added {
        add.await.unwrap();
    }
    assert_eq!(total(&world, "full").await, Counter::MAILBOX_MAX as i64);
    assert_eq!(world.system.kinds()[0].actors(9)[0].mailbox, 0, "a place was not given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_undoes_its_turn_and_repeated_ones_quarantine() {
    let world = world(None, true);
    world.counters.ask(&address("c"), Add(5), origin()).await.unwrap();
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(ask_until_handled(&world, "c", || Boom).await.unwrap_err().code);
    }
    assert_eq!(codes, ["internal_error", "internal_error", "poison_command"]);
    assert_eq!(ask_until_handled(&world, "c", || Add(0)).await.unwrap(), 5);
    world.system.kinds()[0].quarantine("c", "an operator looks into it");
    let refused = world.counters.ask(&address("c"), Add(1), origin()).await.unwrap_err();
    assert_eq!(refused.code, "quarantined");
    assert!(world.system.kinds()[0].release("c"));
    assert_eq!(ask_until_handled(&world, "c", || Add(1)).await.unwrap(), 6);
    let refused = world.counters.ask(&address("c"), Add(-1), origin()).await.unwrap_err();
    assert_eq!((refused.code.as_str(), total(&world, "c").await), ("validation_error", 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn needed_rows_show_what_is_not_durable_yet() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(Some(folder.path()), true);
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let counters = world.counters.clone();
        tasks.push(tokio::spawn(async move {
            counters.ask(&address("r"), Add(1), origin()).await.unwrap();
            counters.ask(&address("r"), Compare, origin()).await.unwrap()
        }));
    }
    for task in tasks {
        assert!(task.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reminders_fire_by_the_clock_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = world(Some(folder.path()), true);
    first.counters.ask(&address("a"), SetAlarm(Timestamp(1_060_000)), origin()).await.unwrap();
    assert_eq!(first.system.fire_reminders(), 0);
    stop(first).await;
    let world = world(Some(folder.path()), true);
    assert_eq!(world.system.recover().unwrap().reminders, 1);
    world.clock.advance_ms(59_999);
    assert_eq!(world.system.fire_reminders(), 0);
    world.clock.advance_ms(1);
    assert_eq!(world.system.fire_reminders(), 1);
    let rung = |counter: &Counter| (counter.rung == 1).then_some(());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let counters = world.counters.clone();
    tokio::spawn(async move {
        while counters.look(&address("a"), origin(), rung).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        let _ = sender.send(());
    });
    receiver.await.unwrap();
    world.system.settle().await;
    assert_eq!(world.system.recover().unwrap().reminders, 0, "its row is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_work_goes_on_after_a_restart_without_a_client() {
    let folder = tempfile::tempdir().unwrap();
    let first = world(Some(folder.path()), false);
    first.counters.ask(&address("debtor"), Order("creditor"), origin()).await.unwrap();
    assert_eq!(total(&first, "creditor").await, 0);
    stop(first).await;
    let world = world(Some(folder.path()), true);
    assert_eq!(world.system.recover().unwrap().pending, 1);
    while world.counters.look(&address("debtor"), origin(), |it| it.paid).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(total(&world, "creditor").await, 1);
    world.system.settle().await;
    assert_eq!(world.system.recover().unwrap().pending, 0, "its row is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_waited_for_across_kills() {
    let world = world(None, true);
    let counters = world.counters.clone();
    let waiting =
        tokio::spawn(async move { counters.wait(&address("p"), origin()).await.unwrap() });
    for _ in 0..10 {
        ask_until_handled(&world, "p", || Add(1)).await.unwrap();
        world.counters.kill("p");
    }
    assert_eq!(waiting.await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_that_have_gone_make_room_for_others() {
    let world = world(None, true);
    ask_until_handled(&world, "p", || Add(1)).await.unwrap();
    // Far more than may wait at once; each gives up before the process ends.
    let waited_for = address("p");
    for _ in 0..5_000 {
        let mut waiting = Box::pin(world.counters.wait(&waited_for, origin()));
        assert!(futures::poll!(&mut waiting).is_pending());
    }
    let counters = world.counters.clone();
    let waiting = tokio::spawn(async move { counters.wait(&address("p"), origin()).await });
    for _ in 0..9 {
        ask_until_handled(&world, "p", || Add(1)).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap().unwrap(), 10);
}

static RENDERED: AtomicUsize = AtomicUsize::new(0);

async fn add_once(world: &World, key: &str, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    add_by(world, IdempotencyKey::new(1, "user/test", "add", key, body)).await
}

async fn add_by(world: &World, key: IdempotencyKey) -> Result<Vec<u8>, Refusal> {
    match world.system.begin(address("once").place(), key).await? {
        Begin::Recorded(bytes) => Ok(bytes),
        Begin::Fresh(ticketed) => {
            let render = |total: i64| {
                let nth = RENDERED.fetch_add(1, Ordering::SeqCst);
                format!("total {total}, answer {nth}").into_bytes()
            };
            world.counters.ask_once(&address("once"), Add(1), origin(), ticketed, render).await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_one_change_and_one_answer_after_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let first = world(Some(folder.path()), true);
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let world = first.clone();
        tasks.push(tokio::spawn(async move { add_once(&world, "k", b"body").await.unwrap() }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    assert_eq!(total(&first, "once").await, 1);
    assert_eq!(add_once(&first, "k", b"other").await.unwrap_err().code, "idempotency_key_reused");
    stop(first).await;
    let world = world(Some(folder.path()), true);
    assert_eq!(add_once(&world, "k", b"body").await.unwrap(), answers[0]);
    assert_ne!(add_once(&world, "another", b"body").await.unwrap(), answers[0]);
    assert_eq!(total(&world, "once").await, 2);
    world.clock.advance_ms(idempotency::KEPT_MS);
    assert_ne!(add_once(&world, "k", b"body").await.unwrap(), answers[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_shown_once_goes_after_ten_minutes_and_its_key_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = world(Some(folder.path()), true);
    let key = || IdempotencyKey::new(1, "user/test", "add", "secret", b"body").shown_once();
    let answer = add_by(&first, key()).await.unwrap();
    stop(first).await;
    let world = world(Some(folder.path()), true);
    world.clock.advance_ms(idempotency::SHOWN_ONCE_MS - 1);
    assert_eq!(add_by(&world, key()).await.unwrap(), answer);
    world.clock.advance_ms(1);
    assert_eq!(add_by(&world, key()).await.unwrap_err().code, "outcome_gone");
    let shard = address("once").place().shard();
    let rows = |family| {
        let (prefix, after, limit) = (Vec::new(), None, 9);
        let range = RowRange { shard, family, prefix, after, newest_first: false, limit };
        world.system.journal().row_range(&range).unwrap().len()
    };
    let (marker, shown) = (idempotency::OUTCOME_FAMILY, idempotency::SHOWN_ONCE_FAMILY);
    assert_eq!((rows(marker), rows(shown)), (1, 1));
    for family in [marker, shown] {
        world.system.clean_outcomes(shard, family);
    }
    world.system.settle().await;
    assert_eq!((rows(marker), rows(shown)), (1, 0), "only what was shown has gone");
    assert_eq!(add_by(&world, key()).await.unwrap_err().code, "outcome_gone");
    assert_eq!(total(&world, "once").await, 1);
    world.clock.advance_ms(idempotency::KEPT_MS);
    world.system.clean_outcomes(shard, marker);
    world.system.settle().await;
    assert_eq!(rows(marker), 0);
    stop(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_change_nothing_and_an_idle_actor_leaves_memory() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(Some(folder.path()), true);
    let (acknowledged, _) = add_from_many(&world, 10, 60).await;
    while world.counters.live_count() > 0 {
        world.system.sweep();
        tokio::task::yield_now().await;
    }
    world.system.settle().await;
    let place = address("hot").place().clone();
    assert!(world.system.journal().read_snapshot(&place.stream).unwrap().is_some());
    assert_eq!(total(&world, "hot").await, acknowledged);
    let kind = &world.system.kinds()[0];
    assert!(kind.verify(&place).unwrap());
    assert_eq!(kind.observe_at(&place, 7).unwrap()["total"], 7);
    assert_eq!(kind.observe(place).await.unwrap()["total"], acknowledged);
}

/// A counter whose looks read what it has published.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Board {
    total: i64,
}

impl Entity for Board {
    const KIND: &'static str = "board";
    const PUBLISHED: bool = true;
    type Event = CounterEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &CounterEvent, _: Timestamp) {
        if let CounterEvent::Added(added) = event {
            self.total += added.amount;
        }
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({ "total": self.total })
    }
}

impl Handle<Add> for Board {
    type Reply = i64;
    fn handle(turn: &mut Turn<'_, Self>, add: Add) -> Result<i64, Refusal> {
        turn.record(CounterEvent::Added(Added { amount: add.0 }));
        Ok(turn.state().total)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_never_behind_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(Options::new(folder.path()), &MasterKey::from_bytes([7; 32]));
    let system = System::builder(SystemOptions::new(journal.unwrap())).kind::<Board>().start();
    let boards = system.directory::<Board>();
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let boards = boards.clone();
        tasks.push(tokio::spawn(async move {
            let address = Address::new("b", OwnerKey { class: 1, id: 1 }, Home(1)).unwrap();
            for round in 0..50 {
                let answered = boards.ask(&address, Add(1), origin()).await;
                let seen = boards.look(&address, origin(), |board| board.total).await.unwrap();
                assert!(answered.is_err() || seen >= answered.unwrap());
                if round % 10 == 9 {
                    boards.passivate("b");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
