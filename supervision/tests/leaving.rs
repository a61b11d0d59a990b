//! Who leaves memory when: what has just begun, what is over, what nobody uses.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::sync::Arc;
use std::time::Duration;

use persistence::{EngineKind, Journal, MasterKey, Options, RowRange, Shard};
use serde::{Deserialize, Serialize};
use supervision::reminders::DUE_FAMILY;
use supervision::*;

/// A piece of work that is reminded of until it is done.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Task {
    until: Option<Timestamp>,
    is_done: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Begun {
    until: Timestamp,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Done {}

supervision::events! {
    /// What happens to a task.
    enum TaskEvent {
        /// It began.
        Begun(Begun) = "begun", 1;
        /// It is done.
        Done(Done) = "done", 1;
    }
}

impl Entity for Task {
    const KIND: &'static str = "task";
    const IDLE: Duration = Duration::from_secs(3_600);
    type Event = TaskEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &TaskEvent, _: Timestamp) {
        match event {
            TaskEvent::Begun(begun) => self.until = Some(begun.until),
            TaskEvent::Done(_) => self.is_done = true,
        }
    }

    fn is_over(&self) -> bool {
        self.is_done
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.until.filter(|_| !self.is_done)
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({ "done": self.is_done })
    }
}

struct Begin(Timestamp);
impl Command for Begin {
    const NAME: &'static str = "begin";
}
impl Handle<Begin> for Task {
    type Reply = ();
    fn handle(turn: &mut Turn<'_, Self>, Begin(until): Begin) -> Result<(), Refusal> {
        turn.record(TaskEvent::Begun(Begun { until }));
        Ok(())
    }
}

struct Finish;
impl Command for Finish {
    const NAME: &'static str = "finish";
}
impl Handle<Finish> for Task {
    type Reply = ();
    fn handle(turn: &mut Turn<'_, Self>, _: Finish) -> Result<(), Refusal> {
        turn.record(TaskEvent::Done(Done {}));
        Ok(())
    }
}

const DUE: Timestamp = Timestamp(5_000);
const OWNER: OwnerKey = OwnerKey { class: 1, id: 1 };

struct World {
    system: Arc<System>,
    tasks: Arc<Directory<Task>>,
}

impl World {
    fn new() -> Self {
        let options = Options { engine: EngineKind::Memory, ..Options::new("") };
        let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
        let clock = SimulatedClock::at(Timestamp(1_000));
        let options = SystemOptions { clock, ..SystemOptions::new(journal) };
        let system = System::builder(options).kind::<Task>().start();
        let tasks = system.directory::<Task>();
        Self { system, tasks }
    }

    async fn ask<C: Command>(&self, id: &str, command: C)
    where
        Task: Handle<C>,
    {
        self.tasks.ask(&address(id), command, origin()).await.unwrap();
    }

    async fn is_done(&self, id: &str) -> bool {
        self.tasks.look(&address(id), origin(), |task| task.is_done).await.unwrap()
    }

    fn reminder_rows(&self) -> usize {
        let (shard, family): (Shard, _) = (OWNER.shard(), DUE_FAMILY);
        let (prefix, after, limit) = (Vec::new(), None, 100);
        let range = RowRange { shard, family, prefix, after, newest_first: false, limit };
        self.system.journal().row_range(&range).unwrap().len()
    }

    /// Sweeps until no more than `live` are left.
    async fn sweep_until(&self, live: usize) {
        while self.tasks.live_count() > live {
            self.system.sweep();
            tokio::task::yield_now().await;
        }
    }
}

fn address(id: &str) -> Address<Task> {
    Address::new(id, OWNER, Home(1)).unwrap()
}

fn origin() -> Origin {
    Origin { caller: "user/test".into(), request: 1.into(), cause: None }
}

#[tokio::test]
async fn what_is_over_leaves_at_once_and_nothing_reminds_of_it() {
    let world = World::new();
    world.ask("a", Begin(DUE)).await;
    assert_eq!((world.reminder_rows(), world.system.reminders().waiting()), (1, 1));
    world.system.sweep();
    assert_eq!(world.tasks.live_count(), 1, "it has work to do");
    world.ask("a", Finish).await;
    assert_eq!((world.reminder_rows(), world.system.reminders().waiting()), (0, 0));
    world.sweep_until(0).await;
    // Whoever asks later is answered, and once more it is an entity like any other.
    assert!(world.is_done("a").await);
    world.system.sweep();
    assert_eq!(world.tasks.live_count(), 1);
    world.system.stop().await;
}

#[tokio::test]
async fn a_newborn_leaves_soon_and_comes_back_to_stay() {
    let world = World::new();
    world.ask("a", Begin(DUE)).await;
    world.sweep_until(0).await;
    assert!(!world.is_done("a").await);
    assert_eq!((world.reminder_rows(), world.system.reminders().waiting()), (1, 1));
    tokio::time::sleep(supervision::directory::NEWBORN_IDLE).await; // sleep: what is measured
    world.system.sweep();
    assert_eq!(world.tasks.live_count(), 1, "it is no newborn any more");
    world.system.stop().await;
}

#[tokio::test]
async fn beyond_the_bound_whoever_was_not_used_for_longest_goes() {
    let world = World::new();
    for id in ["a", "b", "c"] {
        world.ask(id, Begin(DUE)).await;
        tokio::time::sleep(Duration::from_millis(5)).await; // sleep: who came before whom
    }
    assert!(!world.is_done("a").await);
    world.system.sweep_beyond(3);
    assert_eq!(world.tasks.live_count(), 3);
    world.system.sweep_beyond(2);
    while world.tasks.live_count() > 2 {
        tokio::task::yield_now().await;
    }
    let mut live: Vec<_> =
        world.system.kinds()[0].actors(3).into_iter().map(|actor| actor.id).collect();
    live.sort();
    assert_eq!(live, ["a", "c"]);
    world.system.stop().await;
}
