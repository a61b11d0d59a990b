//! The scenario `login-storm`: what many logins at once do to those who are logged in.
//!
//! Two probes ask at a fixed pace, who they are and whether the server is ready: first while
//! nothing else happens, then while all users log in at the same time. Told are the 99th
//! percentiles of both, and how many times as long the second ones are.
//!
//! A login that is told to come back (429, 503) does so after a second; that is what a client does,
//! and keeps the server from being asked the same at once.
//!
//! Deliberate limits: all logins come from one address, so the server has to allow that
//! (`--anonymous-rate`, `--login-address-rate`). Users are brought in beforehand: by the operator
//! with one known hash, which takes seconds, or else registered, which hashes for each.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::client::{Connection, Prepared, Target};
use super::probe::{self, Pair, probed, wire};
use super::setup::Setup;
use super::told::tell;
use super::{LoadError, progress};

/// The scenario's name.
pub(crate) const NAME: &str = "login-storm";

/// The time between two requests of one probe, in milliseconds.
const PROBE_PERIOD_MILLIS: u64 = 5;

/// How long a login that was told to come back waits, in milliseconds.
const COME_BACK_MILLIS: u64 = 1_000;

/// How often a login comes back before it gives up.
const ATTEMPTS_MAX: u32 = 120;

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
    let probes = [("me", me), ("readyz", ready)];
    let period = Duration::from_millis(PROBE_PERIOD_MILLIS);
    let (before, ()) = probed(target, &probes, period, sleep(quiet)).await?;
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let opened = Connection::open(target).await;
        connections.push(opened.map_err(|error| wire("/v1/auth/login", error))?);
    }
    let begin = Instant::now();
    let storm = connections.into_iter().zip(logins);
    let storm = join_all(storm.map(|(connection, login)| log_in(target, connection, login)));
    let (during, outcomes) = probed(target, &probes, period, storm).await?;
    let pairs = probe::pairs(&probes, before, during);
    let found = Found { pairs, outcomes, took: begin.elapsed() };
    tell(&found.table(), &found.json(), json).await?;
    match found.succeeded() {
        0 => Err(LoadError::NoSuccess { scenario: NAME }),
        _ => Ok(()),
    }
}

struct Found {
    pairs: Vec<Pair>,
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

    fn table(&self) -> String {
        let (all, succeeded, came_back) = (self.outcomes.len(), self.succeeded(), self.came_back());
        let seconds = self.took.as_secs_f64();
        let mut table = format!(
            "{NAME}: {succeeded} of {all} logins in {seconds:.1} s; told to come back {came_back} \
             times\n"
        );
        table.push_str(&probe::table("storm", &self.pairs));
        let problem = self.outcomes.iter().filter(|login| !login.succeeded);
        if let Some(problem) = problem.filter_map(|login| login.problem.as_ref()).next() {
            table.push_str(&format!("a login that failed: {problem}\n"));
        }
        table
    }

    fn json(&self) -> Value {
        let pair = |pair: &Pair| {
            let (quiet, storm) = (pair.quiet.json(), pair.loaded.json());
            let found = json!({"quiet": quiet, "storm": storm, "ratio": pair.ratio()});
            (pair.name.to_owned(), found)
        };
        json!({
            "scenario": NAME, "logins": self.outcomes.len(), "succeeded": self.succeeded(),
            "came_back": self.came_back(), "seconds": self.took.as_secs_f64(),
            "p99": serde_json::Map::from_iter(self.pairs.iter().map(pair)),
        })
    }
}
