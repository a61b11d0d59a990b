//! The scenario `login-storm`: what many logins at once do to those who are logged in.
//!
//! Two probes ask at a fixed pace, who they are and whether the server is ready: first while
//! nothing else happens, then while all users log in at the same time. Told are the 99th
//! percentiles of both, and how many times as long the second ones are.
//!
//! A latency counts from when the request was due, so that a stall is paid by every request that it
//! held back. A login that is told to come back (429, 503) does so after a second; that is what a
//! client does, and keeps the server from being asked the same at once.
//!
//! Deliberate limits: all logins come from one address, so the server has to allow that
//! (`--anonymous-rate`, `--login-address-rate`). Users are registered beforehand, one hash each.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::client::{Connection, Prepared, Target};
use super::setup::Setup;
use super::{LoadError, progress};

/// The scenario's name.
pub(crate) const NAME: &str = "login-storm";

/// The time between two requests of one probe, in milliseconds.
const PROBE_PERIOD_MILLIS: u64 = 5;

/// How long a login that was told to come back waits, in milliseconds.
const COME_BACK_MILLIS: u64 = 1_000;

/// How often a login comes back before it gives up.
const ATTEMPTS_MAX: u32 = 120;

/// The longest latency that is told apart from longer ones, in microseconds.
const LATENCY_MICROS_MAX: u64 = 120_000_000;

/// What one probe found.
struct Probe {
    latency: Histogram<u64>,
    failures: u64,
}

impl Probe {
    fn p99_millis(&self) -> f64 {
        self.latency.value_at_quantile(0.99) as f64 / 1_000.0
    }

    fn json(&self) -> Value {
        json!({
            "requests": self.latency.len(), "failures": self.failures,
            "p50_micros": self.latency.value_at_quantile(0.5),
            "p99_micros": self.latency.value_at_quantile(0.99),
            "max_micros": self.latency.max(),
        })
    }
}

fn wire(path: &str, reason: impl ToString) -> LoadError {
    LoadError::Wire { path: path.to_owned(), reason: reason.to_string() }
}

/// Asks at its pace until it is told to stop.
async fn probe(
    target: &Target,
    request: &Prepared,
    stop: watch::Receiver<bool>,
) -> Result<Probe, LoadError> {
    let path = request.uri().path().to_owned();
    let opened = Connection::open(target).await;
    let mut connection = opened.map_err(|error| wire(&path, error))?;
    let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3);
    let mut probe = Probe { latency: latency.map_err(LoadError::Histogram)?, failures: 0 };
    let (begin, period) = (Instant::now(), Duration::from_millis(PROBE_PERIOD_MILLIS));
    for number in 0.. {
        let due = begin + period * number;
        sleep_until(due.into()).await;
        if *stop.borrow() {
            break;
        }
        let answer = connection.exchange(request.clone(), false).await;
        match answer {
            Ok(answer) if answer.status.is_success() => {
                let micros = due.elapsed().as_micros();
                probe.latency.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
            }
            Ok(_) => probe.failures += 1,
            Err(_) => {
                probe.failures += 1;
                let opened = Connection::open(target).await;
                connection = opened.map_err(|error| wire(&path, error))?;
            }
        }
    }
    Ok(probe)
}

/// What became of one login.
#[derive(Default)]
struct Login {
    succeeded: bool,
    came_back: u32,
    problem: Option<String>,
}

async fn log_in(target: &Target, mut connection: Connection, request: Prepared) -> Login {
    let mut login = Login::default();
    while login.came_back < ATTEMPTS_MAX {
        match connection.exchange(request.clone(), false).await {
            Ok(answer) if answer.status.is_success() => {
                return Login { succeeded: true, problem: None, ..login };
            }
            Ok(answer) => {
                let problem = String::from_utf8_lossy(&answer.body).into_owned();
                login.problem = Some(problem);
                let comes_back = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
                if !comes_back.contains(&answer.status) {
                    return login;
                }
            }
            Err(_) => match Connection::open(target).await {
                Ok(opened) => connection = opened,
                Err(error) => {
                    login.problem = Some(error.to_string());
                    return login;
                }
            },
        }
        login.came_back += 1;
        sleep(Duration::from_millis(COME_BACK_MILLIS)).await;
    }
    login
}

/// Both probes until `work` is done; and what it answers.
async fn probed<R>(
    target: &Target,
    requests: [&Prepared; 2],
    work: impl Future<Output = R>,
) -> Result<([Probe; 2], R), LoadError> {
    let (stop, stopped) = watch::channel(false);
    let work = async {
        let done = work.await;
        stop.send_replace(true);
        done
    };
    let [me, ready] = requests;
    let both = (probe(target, me, stopped.clone()), probe(target, ready, stopped));
    let (me, ready, done) = tokio::join!(both.0, both.1, work);
    Ok(([me?, ready?], done))
}

/// Runs the scenario and prints what it found.
pub(crate) async fn run(
    setup: &Setup,
    target: &Target,
    quiet: Duration,
    json: Option<&Path>,
) -> Result<(), LoadError> {
    let member = setup.register_member().await?;
    let me = setup.me_request(&member.token)?;
    let ready = target.prepare(Method::GET, "/readyz", &[], None)?;
    let logins = setup.register_logins().await?;
    let count = logins.len();
    progress::say(&format!("measuring {quiet:?} of quiet, then {count} logins at once"));
    let (before, ()) = probed(target, [&me, &ready], sleep(quiet)).await?;
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let opened = Connection::open(target).await;
        connections.push(opened.map_err(|error| wire("/v1/auth/login", error))?);
    }
    let begin = Instant::now();
    let storm = connections.into_iter().zip(logins);
    let storm = join_all(storm.map(|(connection, login)| log_in(target, connection, login)));
    let (during, outcomes) = probed(target, [&me, &ready], storm).await?;
    let found = Found { before, during, outcomes, took: begin.elapsed() };
    write!(std::io::stdout(), "{}", found.table()).map_err(LoadError::Print)?;
    if let Some(path) = json {
        let text = format!("{:#}\n", found.json());
        let written = tokio::fs::write(path, text).await;
        written.map_err(|source| LoadError::File { path: path.to_owned(), source })?;
    }
    match found.succeeded() {
        0 => Err(LoadError::NoSuccess { scenario: NAME }),
        _ => Ok(()),
    }
}

struct Found {
    before: [Probe; 2],
    during: [Probe; 2],
    outcomes: Vec<Login>,
    took: Duration,
}

impl Found {
    fn succeeded(&self) -> usize {
        self.outcomes.iter().filter(|login| login.succeeded).count()
    }

    fn came_back(&self) -> u32 {
        self.outcomes.iter().map(|login| login.came_back).sum()
    }

    fn probes(&self) -> impl Iterator<Item = (&'static str, &Probe, &Probe, f64)> {
        let pairs = self.before.iter().zip(&self.during);
        ["me", "readyz"].into_iter().zip(pairs).map(|(name, (before, during))| {
            let ratio = during.p99_millis() / before.p99_millis().max(0.001);
            (name, before, during, ratio)
        })
    }

    fn table(&self) -> String {
        let (all, succeeded, came_back) = (self.outcomes.len(), self.succeeded(), self.came_back());
        let seconds = self.took.as_secs_f64();
        let mut table = format!(
            "{NAME}: {succeeded} of {all} logins in {seconds:.1} s; told to come back {came_back} \
             times\n{:<8} {:>12} {:>12} {:>7} {:>9} {:>9}\n",
            "", "quiet p99", "storm p99", "ratio", "requests", "failures"
        );
        for (name, before, during, ratio) in self.probes() {
            table.push_str(&format!(
                "{name:<8} {:>9.2} ms {:>9.2} ms {ratio:>7.2} {:>9} {:>9}\n",
                before.p99_millis(),
                during.p99_millis(),
                during.latency.len(),
                during.failures,
            ));
        }
        let problem = self.outcomes.iter().filter(|login| !login.succeeded);
        if let Some(problem) = problem.filter_map(|login| login.problem.as_ref()).next() {
            table.push_str(&format!("a login that failed: {problem}\n"));
        }
        table
    }

    fn json(&self) -> Value {
        let probe = |(name, before, during, ratio): (&'static str, &Probe, &Probe, f64)| {
            let found = json!({"quiet": before.json(), "storm": during.json(), "ratio": ratio});
            (name.to_owned(), found)
        };
        json!({
            "scenario": NAME, "logins": self.outcomes.len(), "succeeded": self.succeeded(),
            "came_back": self.came_back(), "seconds": self.took.as_secs_f64(),
            "p99": serde_json::Map::from_iter(self.probes().map(probe)),
        })
    }
}
