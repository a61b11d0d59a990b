//! Runs one workload: opens all connections, starts one task a connection, waits for the end.
//!
//! A latency begins when the request may be sent (see [`super::schedule`]) and ends when the whole
//! answer has been read. A request belongs to the measured part if it begins there. There is no
//! timer a request: one cut-off after the end turns what is still open into faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout_at};

use super::client::{Answer, Connection, Failure, Prepared, Target};
use super::report::{Fault, Recorder, Report};
use super::scenario::Workload;
use super::schedule::{Arrival, Pace};
use super::{LoadError, progress};

/// One answer in so many has its items checked. From the first bad one on, every answer has.
const CHECK_EVERY: u64 = 64;

/// The pause after a connection could not be opened, so that a dead server is not hammered.
const RECONNECT_PAUSE_MILLIS: u64 = 50;

/// How a workload is run.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) connections: usize,
    /// Sent, but not counted.
    pub(crate) warm_up: Duration,
    /// The measured part.
    pub(crate) duration: Duration,
    /// How long answers are awaited after the end.
    pub(crate) drain: Duration,
    /// Requests a second, for the open loop.
    pub(crate) rate: Option<u64>,
}

impl Profile {
    /// How long requests are sent.
    pub(crate) fn span(&self) -> Duration {
        self.warm_up + self.duration
    }
}

/// Runs `workload` and reports on its measured part.
pub(crate) async fn run(
    scenario: &'static str,
    workload: Workload,
    profile: &Profile,
    target: &Target,
) -> Result<Report, LoadError> {
    let mut connections = Vec::with_capacity(profile.connections);
    for _ in 0..profile.connections {
        let failed = |error: std::io::Error| LoadError::Wire {
            path: "the first connections".to_owned(),
            reason: error.to_string(),
        };
        connections.push(Connection::open(target).await.map_err(failed)?);
    }
    let shares = thread::available_parallelism().map_or(1, usize::from);
    let recorder = Recorder::new(shares)?;
    let pace = Pace::start(profile.span(), profile.rate, profile.connections);
    let from = pace.begin() + profile.warm_up;
    let cut_off = pace.begin() + profile.span() + profile.drain;
    let target = target.clone();
    let suspicious = AtomicBool::new(false);
    let run = Arc::new(Run { target, workload, pace, recorder, from, suspicious });
    let mut workers = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let connection = Some(connection);
        let worker = Worker { number, run: Arc::clone(&run), connection, pending: None };
        workers.spawn(worker.work_until(cut_off));
    }
    watch(scenario, &run, profile, workers).await?;

    let unsent = run.pace.untaken(profile.warm_up);
    if unsent > 0 {
        let problem = "no connection was free: raise --connections or lower --rate";
        run.recorder.record(0, |tally| tally.failed(Fault::Unsent, unsent, problem));
    }
    let mut report = run.recorder.report(scenario, from, profile.duration)?;
    report.notes = run.notes();
    Ok(report)
}

/// Waits for the workers and shows every second how far they are.
async fn watch(
    scenario: &str,
    run: &Run,
    profile: &Profile,
    mut workers: JoinSet<()>,
) -> Result<(), LoadError> {
    let mut ticks = interval(Duration::from_secs(1));
    let mut before = 0;
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(ended) => ended.map_err(LoadError::Worker)?,
                None => break,
            },
            _ = ticks.tick() => {
                let (successes, faults) = run.recorder.counts();
                progress::show(&format!(
                    "{scenario}: {} of {} s, {}/s, {faults} errors",
                    run.pace.begin().elapsed().as_secs(),
                    profile.span().as_secs(),
                    successes - before,
                ));
                before = successes;
            }
        }
    }
    progress::show("");
    Ok(())
}

/// What all workers of a run share.
struct Run {
    target: Target,
    workload: Workload,
    pace: Arc<Pace>,
    recorder: Recorder,
    /// The begin of the measured part.
    from: Instant,
    /// An answer with an accepted status had a bad item.
    suspicious: AtomicBool,
}

impl Run {
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let prepared = self.workload.requests.len() as u64;
        let passes = self.pace.taken().div_ceil(prepared);
        if self.workload.once && passes > 1 {
            notes.push(format!("each of {prepared} tokens was used up to {passes} times"));
        }
        if self.workload.accept.has_items() && !self.suspicious.load(Ordering::Relaxed) {
            notes.push(format!("items were checked in one answer of {CHECK_EVERY}"));
        }
        notes
    }
}

/// A kind of fault and the problem that was told.
type Problem = (Fault, String);

/// One connection and the request that is under way on it.
struct Worker {
    number: usize,
    run: Arc<Run>,
    connection: Option<Connection>,
    pending: Option<Arrival>,
}

impl Worker {
    /// Sends until the run is over or the cut-off has come.
    async fn work_until(mut self, cut_off: Instant) {
        let finished = timeout_at(cut_off.into(), self.work()).await.is_ok();
        if let (false, Some(arrival)) = (finished, self.pending) {
            let problem = "still open when the run was cut off".to_owned();
            self.settle(arrival, Err((Fault::Unanswered, problem)));
        }
    }

    async fn work(&mut self) {
        while let Some(arrival) = self.run.pace.next().await {
            self.pending = Some(arrival);
            let outcome = self.attempt(arrival).await;
            self.pending = None;
            let unreachable = matches!(outcome, Err((Fault::Connect, _)));
            self.settle(arrival, outcome);
            if unreachable {
                sleep(Duration::from_millis(RECONNECT_PAUSE_MILLIS)).await;
            }
        }
    }

    /// Sends one request and judges its answer; answers the items it counts for.
    async fn attempt(&mut self, arrival: Arrival) -> Result<u64, Problem> {
        let run = Arc::clone(&self.run);
        let Workload { requests, accept, .. } = &run.workload;
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is an index")]
        let request = &requests[(arrival.index % requests.len() as u64) as usize];
        let due = || arrival.index.is_multiple_of(CHECK_EVERY);
        let check = accept.has_items() && (due() || run.suspicious.load(Ordering::Relaxed));
        let answer = self.ask(request, check).await?;
        let status = answer.status.as_u16();
        if !accept.status(status) {
            return Err((Fault::Status(status), accept.problem(&answer)));
        }
        if check && !accept.body(&answer.body) {
            run.suspicious.store(true, Ordering::Relaxed);
            return Err((Fault::Item, accept.problem(&answer)));
        }
        Ok(accept.items())
    }

    /// Exchanges one request on the kept connection, or on a new one if that has been closed
    /// while it was idle.
    async fn ask(&mut self, request: &Prepared, keep: bool) -> Result<Answer, Problem> {
        loop {
            let fresh = self.connection.is_none();
            let connection = match &mut self.connection {
                Some(connection) => connection,
                none => {
                    let opened = Connection::open(&self.run.target).await;
                    let opened = opened.map_err(|error| (Fault::Connect, error.to_string()))?;
                    self.run.recorder.record(self.number, |tally| tally.reconnected());
                    none.insert(opened)
                }
            };
            let problem = match connection.exchange(request.clone(), keep).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Broken(error)) => Some(error.to_string()),
                Err(Failure::Unsent) if fresh => Some("closed before it was used".to_owned()),
                Err(Failure::Unsent) => None,
            };
            self.connection = None;
            if let Some(problem) = problem {
                return Err((Fault::Connection, problem));
            }
        }
    }

    /// Counts the outcome, if the request belongs to the measured part.
    fn settle(&self, arrival: Arrival, outcome: Result<u64, Problem>) {
        if arrival.since < self.run.from {
            return;
        }
        let until = Instant::now();
        self.run.recorder.record(self.number, |tally| match outcome {
            Ok(items) => tally.succeeded(arrival.since, until, items),
            Err((fault, problem)) => tally.failed(fault, 1, &problem),
        });
    }
}
