//! Probes: requests at a fixed pace, whose latencies tell what somebody who is not the load sees of
//! the load.
//!
//! A latency counts from when the request was due, so that a stall is paid by every request that it
//! held back.

use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::LoadError;
use super::client::{Connection, Prepared, Target};

/// The longest latency that is told apart from longer ones, in microseconds.
const LATENCY_MICROS_MAX: u64 = 120_000_000;

/// What one probe found.
pub(crate) struct Probe {
    latency: Histogram<u64>,
    failures: u64,
    problem: Option<String>,
}

impl Probe {
    pub(crate) fn p99_millis(&self) -> f64 {
        self.millis(0.99)
    }

    fn millis(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "requests": self.latency.len(), "failures": self.failures,
            "p50_micros": self.latency.value_at_quantile(0.5),
            "p99_micros": self.latency.value_at_quantile(0.99),
            "max_micros": self.latency.max(),
        })
    }
}

/// What one probe found without the load and with it.
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    pub(crate) quiet: Probe,
    pub(crate) loaded: Probe,
}

impl Pair {
    /// How many times as long the 99th percentile is with the load.
    pub(crate) fn ratio(&self) -> f64 {
        self.loaded.p99_millis() / self.quiet.p99_millis().max(0.001)
    }
}

/// A line for each probe: medians and 99th percentiles without and with the load.
pub(crate) fn table(load: &str, pairs: &[Pair]) -> String {
    let mut table = format!(
        "{:<8} {:>10} {:>10} {:>10} {:>10} {:>7} {:>9} {:>9}\n",
        "ms",
        "quiet p50",
        "p99",
        format!("{load} p50"),
        "p99",
        "ratio",
        "requests",
        "failures"
    );
    for pair in pairs {
        let Pair { name, quiet, loaded } = pair;
        table.push_str(&format!(
            "{name:<8} {:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>7.2} {:>9} {:>9}\n",
            quiet.millis(0.5),
            quiet.p99_millis(),
            loaded.millis(0.5),
            loaded.p99_millis(),
            pair.ratio(),
            loaded.latency.len(),
            loaded.failures,
        ));
    }
    let problems = pairs.iter().filter_map(|pair| pair.loaded.problem.as_ref());
    problems.take(1).for_each(|problem| table.push_str(&format!("a probe failed: {problem}\n")));
    table
}

pub(crate) fn wire(path: &str, reason: impl ToString) -> LoadError {
    LoadError::Wire { path: path.to_owned(), reason: reason.to_string() }
}

/// Asks each `period` until it is told to stop.
async fn probe(
    target: &Target,
    request: &Prepared,
    period: Duration,
    stop: watch::Receiver<bool>,
) -> Result<Probe, LoadError> {
    let path = request.uri().path().to_owned();
    let opened = Connection::open(target).await;
    let mut connection = opened.map_err(|error| wire(&path, error))?;
    let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3);
    let latency = latency.map_err(LoadError::Histogram)?;
    let mut probe = Probe { latency, failures: 0, problem: None };
    let begin = Instant::now();
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
            Ok(answer) => {
                probe.failures += 1;
                probe.problem = Some(String::from_utf8_lossy(&answer.body).into_owned());
            }
            Err(_) => {
                probe.failures += 1;
                let opened = Connection::open(target).await;
                connection = opened.map_err(|error| wire(&path, error))?;
            }
        }
    }
    Ok(probe)
}

/// All probes until `work` is done; and what that answers.
pub(crate) async fn probed<R>(
    target: &Target,
    requests: &[(&'static str, Prepared)],
    period: Duration,
    work: impl Future<Output = R>,
) -> Result<(Vec<Probe>, R), LoadError> {
    let (stop, stopped) = watch::channel(false);
    let work = async {
        let done = work.await;
        stop.send_replace(true);
        done
    };
    let probes = requests.iter();
    let probes = probes.map(|(_, request)| probe(target, request, period, stopped.clone()));
    let (probes, done) = tokio::join!(join_all(probes), work);
    Ok((probes.into_iter().collect::<Result<_, _>>()?, done))
}

/// What probes found without and with the load, by their names.
pub(crate) fn pairs(
    requests: &[(&'static str, Prepared)],
    quiet: Vec<Probe>,
    loaded: Vec<Probe>,
) -> Vec<Pair> {
    let both = quiet.into_iter().zip(loaded);
    let pair =
        |(&(name, _), (quiet, loaded)): (&(&'static str, _), _)| Pair { name, quiet, loaded };
    requests.iter().zip(both).map(pair).collect()
}
