//! `bailiwick load`: a load generator for a running server of this kind.
//!
//! Without `--rate` every connection sends its next request when the last answer is there (closed
//! loop). With `--rate` requests start by a fixed schedule and their latency is counted from the
//! scheduled time (open loop), so a slow server cannot hide by slowing the generator down.
//!
//! Invariants: an error is never counted as a success, and every request that the measured part
//! should have sent is in the report, as a success or as a fault. The first second is not counted.
//! Deliberate limits: one process, plain `http`, HTTP/1.1, one request at a time a connection. The
//! generator shares the machine with the server unless it runs elsewhere: figures include its cost.

mod client;
mod contrast;
mod deciding;
mod flood;
mod hostile;
mod probe;
pub(crate) mod progress;
mod race;
mod readers;
mod report;
mod runner;
mod scenario;
mod schedule;
mod search;
mod setup;
mod storm;
mod tasks;
#[cfg(test)]
mod tests;
mod told;
mod verifying;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde::Serialize;

use client::Target;
use report::Report;
use runner::Profile;
use scenario::Scenario;
use setup::{Secret, Setup};

/// What is sent before anything is counted, in seconds.
const WARM_UP_SECONDS: u64 = 1;

/// How long answers are awaited after the end, in seconds; what is still open then is a fault.
const DRAIN_SECONDS_MAX: u64 = 10;

/// Scenarios that are more than one sort of request.
const OWN: &[&str] = &[
    storm::NAME,
    flood::NAME,
    readers::NAME,
    race::NAME,
    hostile::NAME,
    deciding::NAME,
    tasks::NAME,
];

/// What `--scenario` takes.
fn names() -> impl Iterator<Item = &'static str> {
    scenario::names().chain(OWN.iter().copied())
}

/// The options of `bailiwick load`.
#[derive(clap::Args, Debug)]
pub struct LoadArgs {
    /// The server to load: http://host:port
    #[arg(long, default_value = "http://127.0.0.1:8787")]
    url: String,

    /// What to measure; `all` runs every scenario that needs no file, one after another
    #[arg(long, default_value = scenario::ALL,
          value_parser = PossibleValuesParser::new(names()))]
    scenario: String,

    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,

    /// How long to measure each scenario, in seconds, after one second of warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,

    /// Open loop: start this many requests a second, whatever the server does
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    rate: Option<u64>,

    /// The wallets that the scenario `debits` is spread over
    #[arg(long, default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    wallets: u32,

    /// The users who log in at once in the scenario `login-storm`
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=4096))]
    logins: u16,

    /// The tasks that run at once in the scenario `tasks`; the server runs here, with --dev
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=4096))]
    tasks: u16,

    /// The readers of the event feed in the scenario `readers`
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    readers: u32,

    /// The tenants that they are spread over; a user has at most 100 readers
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tenants: u32,

    /// The apps that the scenario `search` puts into the marketplace
    #[arg(long, default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    apps: u32,

    /// The calls of one batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch_size: u16,

    /// The server's service token, with which users are registered and wallets debited
    #[arg(long, env = "BAILIWICK_SERVICE_TOKEN", hide_env_values = true)]
    service_token: Option<Secret>,

    /// The operator, who fills the wallets
    #[arg(long, env = "BAILIWICK_OPERATOR_EMAIL")]
    operator_email: Option<String>,

    /// The operator's password
    #[arg(long, env = "BAILIWICK_OPERATOR_PASSWORD", hide_env_values = true)]
    operator_password: Option<Secret>,

    /// The user token of the scenario `me`; without it a user is registered
    #[arg(long)]
    token: Option<Secret>,

    /// The user tokens of the scenario `me-cold`, one a line; each is used once a pass
    #[arg(long)]
    token_file: Option<PathBuf>,

    /// Write the results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Why a scenario could not be measured, or its result not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The address is not one that this client can speak to.
    #[error("{url:?} is not an address of the form http://host:port")]
    Url {
        /// What was given.
        url: String,
    },
    /// No connection could be opened.
    #[error("cannot connect to {url}")]
    Connect {
        /// The server's address.
        url: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An option is missing that this scenario needs.
    #[error("this scenario needs {options}")]
    Missing {
        /// The options.
        options: &'static str,
    },
    /// A value cannot be sent in an HTTP header.
    #[error("{what} holds characters that no HTTP header can carry")]
    Header {
        /// What kind of value it is; never the value itself.
        what: &'static str,
    },
    /// The user token would expire during the run.
    #[error("the user token lives {life:?}, but the run takes {needed:?}: lower --duration")]
    TokenLife {
        /// How long the token lives.
        life: Duration,
        /// How long it is needed.
        needed: Duration,
    },
    /// The server refused a request while the scenario was being prepared.
    #[error("{path} answered {status}: {problem}")]
    Refused {
        /// The path that was asked.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The body of the answer.
        problem: String,
    },
    /// The server's answer while the scenario was being prepared lacks a field.
    #[error("the answer of {path} has no usable {field}")]
    Answer {
        /// The path that was asked.
        path: String,
        /// The field that is missing.
        field: &'static str,
    },
    /// A request failed on the wire, or took too long, while the scenario was being prepared.
    #[error("{path} was not answered: {reason}")]
    Wire {
        /// The path that was asked.
        path: String,
        /// What happened.
        reason: String,
    },
    /// A file could not be read or written, or holds nothing of use.
    #[error("cannot use the file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The results could not be printed.
    #[error("cannot print the results")]
    Print(#[source] io::Error),
    /// The password of the users could not be hashed.
    #[error("cannot hash a password")]
    Hash(#[source] identity::password::HashError),
    /// The system gave no random bytes.
    #[error("the system's random source failed")]
    Random,
    /// A histogram with these bounds cannot be made.
    #[error("cannot make a latency histogram")]
    Histogram(#[source] hdrhistogram::CreationError),
    /// Histograms of different bounds were to be added.
    #[error("cannot add latency histograms")]
    Merge,
    /// A worker of the generator itself failed.
    #[error("a worker of the generator failed")]
    Worker(#[source] tokio::task::JoinError),
    /// Not one request of the scenario succeeded; the report holds the errors.
    #[error("no request of the scenario {scenario} succeeded")]
    NoSuccess {
        /// The scenario's name.
        scenario: &'static str,
    },
    /// What was measured does not add up; the report says what.
    #[error("the figures of the scenario {scenario} do not add up")]
    Wrong {
        /// The scenario's name.
        scenario: &'static str,
    },
    /// Some scenarios could not be measured; the reasons were told on stderr.
    #[error("{failed} of {chosen} scenarios could not be measured")]
    Partly {
        /// How many could not.
        failed: usize,
        /// How many were asked for.
        chosen: usize,
    },
}

/// Measures the chosen scenarios one after another and prints a table on stdout. A scenario that
/// cannot be prepared does not keep the others from being measured.
///
/// # Errors
/// When the server cannot be reached, when a scenario could not be measured or had no success at
/// all, and when the results could not be written. Requests that failed among others that did not
/// are in the report and no error here.
pub async fn run(args: LoadArgs) -> Result<(), LoadError> {
    let target = Target::resolve(&args.url).await?;
    let profile = Profile {
        connections: usize::from(args.connections),
        warm_up: Duration::from_secs(WARM_UP_SECONDS),
        duration: Duration::from_secs(args.duration),
        drain: Duration::from_secs(DRAIN_SECONDS_MAX),
        rate: args.rate,
    };
    let (url, name, json) = (args.url.clone(), args.scenario.clone(), args.json.clone());
    let setup = Setup::new(args, target.clone(), profile.span())?;
    let file = json.as_deref();
    match name.as_str() {
        storm::NAME => return storm::run(&setup, &target, profile.duration, file).await,
        readers::NAME => return readers::run(&setup, &target, profile.duration, file).await,
        race::NAME => return race::run(&setup, &target, &profile, file).await,
        hostile::NAME => return hostile::run(&setup, &target, &profile, file).await,
        deciding::NAME => return deciding::run(&setup, &target, &profile, file).await,
        tasks::NAME => return tasks::run(&setup, &target, file).await,
        flood::NAME => return flood::run(&setup, &target, &profile, file).await,
        _ => {}
    }
    let chosen: Vec<_> = scenario::named(&name).collect();
    let mut reports = Vec::new();
    let mut failures = Vec::new();
    for scenario in &chosen {
        match measure(scenario, &setup, &profile, &target).await {
            Ok(report) => reports.push(report),
            Err(error) if chosen.len() == 1 => return Err(error),
            Err(error) => {
                let failure = Failure { scenario: scenario.name, reason: whole(&error) };
                progress::say(&format!("{}: {}", failure.scenario, failure.reason));
                failures.push(failure);
            }
        }
    }
    if !reports.is_empty() {
        write!(io::stdout(), "{}", report::table(&reports)).map_err(LoadError::Print)?;
    }
    if let Some(path) = json {
        write_json(&path, &url, &profile, &reports, &failures).await?;
    }
    if !failures.is_empty() {
        return Err(LoadError::Partly { failed: failures.len(), chosen: chosen.len() });
    }
    match reports.iter().find(|report| report.requests == 0) {
        Some(report) => Err(LoadError::NoSuccess { scenario: report.scenario }),
        None => Ok(()),
    }
}

/// A scenario that could not be measured.
#[derive(Serialize)]
struct Failure {
    scenario: &'static str,
    reason: String,
}

async fn measure(
    scenario: &Scenario,
    setup: &Setup,
    profile: &Profile,
    target: &Target,
) -> Result<Report, LoadError> {
    let workload = (scenario.prepare)(setup).await?;
    let before = readers::memory(target).await?;
    let mut report = runner::run(scenario.name, workload, profile, target).await?;
    if let (Some(before), Some(after)) = (before, readers::memory(target).await?) {
        let [before, after] = [before, after].map(|bytes| bytes >> 20);
        report.notes.push(format!("the server's memory: {before} MiB before, {after} MiB after"));
    }
    Ok(report)
}

async fn write_json(
    path: &Path,
    url: &str,
    profile: &Profile,
    reports: &[Report],
    failures: &[Failure],
) -> Result<(), LoadError> {
    let document = serde_json::json!({
        "url": url,
        "loop": if profile.rate.is_some() { "open" } else { "closed" },
        "rate": profile.rate,
        "connections": profile.connections,
        "warm_up_seconds": profile.warm_up.as_secs(),
        "duration_seconds": profile.duration.as_secs(),
        "scenarios": reports,
        "not_measured": failures,
    });
    told::save(path, &document).await
}

/// An error with its causes in one line.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
