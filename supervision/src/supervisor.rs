//! An OTP supervisor for the system's own actors: child specs, strategies, restart intensity, and
//! a stop in reverse order with a deadline each.
//!
//! Entities are not under it: they restart on their next message, and no number of their crashes
//! takes the system down. What is here is few and must run.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::RwLock;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use serde::Serialize;

/// Which children restart when one goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// That one.
    OneForOne,
    /// That one and all that were started after it.
    RestForOne,
    /// All.
    OneForAll,
}

/// When a child is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Whenever it ends.
    Permanent,
    /// When it fails.
    Transient,
    /// Never.
    Temporary,
}

/// Starts a child, linked to the supervisor it is given.
pub type Start =
    Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync>;

/// What a supervisor knows of a child.
#[derive(Clone)]
pub struct ChildSpec {
    /// Its name in the tree.
    pub name: &'static str,
    /// When it is started again.
    pub restart: Restart,
    /// How long it may take to stop before it is killed.
    pub shutdown: Duration,
    /// How it starts.
    pub start: Start,
}

/// One child, as the console shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ChildView {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs.
    pub running: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it last went down.
    pub last_reason: Option<String>,
}

/// What the console sees of a supervisor.
pub type Board = Arc<RwLock<Vec<ChildView>>>;

/// A supervisor.
pub struct Supervisor {
    /// Which children restart together.
    pub strategy: Strategy,
    /// More restarts than this within `period` and the supervisor itself fails.
    pub intensity: usize,
    /// The period of `intensity`.
    pub period: Duration,
    /// The children, in the order they start.
    pub children: Vec<ChildSpec>,
    /// Where the console looks.
    pub board: Board,
}

/// A supervisor's running children.
pub struct Running {
    cells: Vec<Option<ActorCell>>,
    restarts: VecDeque<Instant>,
}

impl Actor for Supervisor {
    type Msg = ();
    type State = Running;
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<()>, (): ()) -> Result<Running, ActorProcessingErr> {
        let count = self.children.len();
        *self.board.write() = self.children.iter().map(ChildView::of).collect();
        let mut running = Running { cells: vec![None; count], restarts: VecDeque::new() };
        self.start(0..count, &me, &mut running).await?;
        Ok(running)
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<()>,
        event: SupervisionEvent,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let (who, failed, reason) = match &event {
            SupervisionEvent::ActorFailed(who, error) => (who, true, error.to_string()),
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                let reason = reason.clone().unwrap_or_else(|| "ended".to_owned());
                (who, reason == "killed", reason)
            }
            _ => return Ok(()),
        };
        // A late notice about an incarnation that was replaced already is none of ours.
        let Some(index) = running.cells.iter().position(|cell| cell.as_ref() == Some(who)) else {
            return Ok(());
        };
        running.cells[index] = None;
        let child = &self.children[index];
        tracing::warn!(child = child.name, reason, "a system actor went down");
        {
            let view = &mut self.board.write()[index];
            (view.running, view.last_reason) = (false, Some(reason));
        }
        let again = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => failed,
            Restart::Temporary => false,
        };
        if !again {
            return Ok(());
        }
        self.count_restart(running)?;
        let affected = match self.strategy {
            Strategy::OneForOne => index..index + 1,
            Strategy::RestForOne => index..self.children.len(),
            Strategy::OneForAll => 0..self.children.len(),
        };
        self.stop(affected.clone(), running).await;
        for index in affected.clone() {
            self.board.write()[index].restarts += 1;
        }
        self.start(affected, &me, running).await
    }

    /// ractor kills whatever is still linked when this returns: the orderly part happens here.
    async fn post_stop(
        &self,
        _: ActorRef<()>,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        self.stop(0..self.children.len(), running).await;
        Ok(())
    }
}

impl Supervisor {
    fn count_restart(&self, running: &mut Running) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        running.restarts.push_back(now);
        while running.restarts.front().is_some_and(|at| now - *at > self.period) {
            running.restarts.pop_front();
        }
        let count = running.restarts.len();
        if count > self.intensity {
            return Err(format!("{count} restarts within {:?}", self.period).into());
        }
        Ok(())
    }

    async fn start(
        &self,
        range: Range<usize>,
        me: &ActorRef<()>,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        for index in range {
            let cell = (self.children[index].start)(me.get_cell()).await?;
            running.cells[index] = Some(cell);
            self.board.write()[index].running = true;
        }
        Ok(())
    }

    /// Last started, first stopped; each has its own deadline, and then it is killed.
    async fn stop(&self, range: Range<usize>, running: &mut Running) {
        for index in range.rev() {
            let Some(cell) = running.cells[index].take() else { continue };
            let _ = cell.drain();
            if cell.wait(Some(self.children[index].shutdown)).await.is_err() {
                tracing::warn!(
                    child = self.children[index].name,
                    "killed: it did not stop in time"
                );
                cell.kill();
                let _ = cell.wait(None).await;
            }
            self.board.write()[index].running = false;
        }
    }
}

impl ChildView {
    fn of(spec: &ChildSpec) -> Self {
        Self { name: spec.name, running: false, restarts: 0, last_reason: None }
    }
}

/// A system actor that does the same thing again and again.
struct Periodic<F> {
    period: Duration,
    work: F,
}

impl<F, T> Actor for Periodic<F>
where
    F: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = ()> + Send,
{
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        me.cast(())?;
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<()>,
        (): (),
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        (self.work)().await;
        // The next round is a message after this one's end: rounds never pile up.
        drop(me.send_after(self.period, || ()));
        Ok(())
    }
}

/// A child that runs `work`, then again `period` after it has ended, for ever.
pub fn periodic<F, T>(name: &'static str, period: Duration, work: F) -> ChildSpec
where
    F: Fn() -> T + Send + Sync + Clone + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let start: Start = Arc::new(move |supervisor| {
        let actor = Periodic { period, work: work.clone() };
        Box::pin(async move {
            let (actor, _) = Actor::spawn_linked(None, actor, (), supervisor).await?;
            Ok(actor.get_cell())
        })
    });
    ChildSpec { name, restart: Restart::Permanent, shutdown: Duration::from_secs(5), start }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::{mpsc, watch};

    type Log = mpsc::UnboundedSender<&'static str>;

    /// A child that says when it starts, and panics when it is told to.
    fn child(name: &'static str, log: Log, panic: watch::Receiver<usize>) -> ChildSpec {
        let start: Start = Arc::new(move |supervisor| {
            let (log, mut panic) = (log.clone(), panic.clone());
            Box::pin(async move {
                let _ = log.send(name);
                panic.mark_unchanged();
                let work = move || {
                    let mut panic = panic.clone();
                    async move {
                        let _ = panic.changed().await;
                        panic!("told to");
                    }
                };
                let actor = Periodic { period: Duration::ZERO, work };
                let (actor, _) = Actor::spawn_linked(None, actor, (), supervisor).await?;
                Ok(actor.get_cell())
            })
        });
        let shutdown = Duration::from_millis(10);
        ChildSpec { name, restart: Restart::Permanent, shutdown, start }
    }

    async fn after_one_crash(strategy: Strategy) -> Vec<&'static str> {
        let (log, mut started) = mpsc::unbounded_channel();
        let (crash, _) = watch::channel(0);
        let (calm, _) = watch::channel(0);
        let children = vec![
            child("first", log.clone(), calm.subscribe()),
            child("second", log.clone(), crash.subscribe()),
            child("third", log.clone(), calm.subscribe()),
        ];
        let (intensity, period, board) = (3, Duration::from_secs(5), Board::default());
        let supervisor = Supervisor { strategy, intensity, period, children, board };
        let expected = match strategy {
            Strategy::OneForOne => 4,
            Strategy::RestForOne => 5,
            Strategy::OneForAll => 6,
        };
        let (supervisor, ended) = Actor::spawn(None, supervisor, ()).await.unwrap();
        crash.send_replace(1);
        let mut names = Vec::new();
        for _ in 0..expected {
            names.push(started.recv().await.unwrap());
        }
        supervisor.stop(None);
        ended.await.unwrap();
        assert!(started.try_recv().is_err());
        names.split_off(3)
    }

    #[tokio::test]
    async fn each_strategy_restarts_what_it_says() {
        assert_eq!(after_one_crash(Strategy::OneForOne).await, ["second"]);
        assert_eq!(after_one_crash(Strategy::RestForOne).await, ["second", "third"]);
        assert_eq!(after_one_crash(Strategy::OneForAll).await, ["first", "second", "third"]);
    }

    #[tokio::test]
    async fn too_many_restarts_take_the_supervisor_down() {
        let starts = Arc::new(AtomicUsize::new(0));
        let counter = starts.clone();
        let work = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            async { panic!("always") }
        };
        let children = vec![periodic("flaky", Duration::ZERO, work)];
        let (strategy, intensity, period) = (Strategy::OneForOne, 3, Duration::from_secs(5));
        let board = Board::default();
        let supervisor = Supervisor { strategy, intensity, period, children, board: board.clone() };
        let (_, ended) = Actor::spawn(None, supervisor, ()).await.unwrap();
        ended.await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 4);
        assert_eq!(board.read()[0].restarts, 3);
    }
}
