//! What a run measured: latencies, counts, faults by kind; as a table and as JSON.
//!
//! Invariant: only an answer with an accepted status whose checked items all succeeded is counted
//! in the latencies, the requests and the items; everything else is a fault.
//! Deliberate limits: latencies have three significant digits and end at two minutes (a longer one
//! counts as two minutes); of each kind of fault only the first problem is kept.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use super::LoadError;

/// The longest latency that is told apart from longer ones, in microseconds.
const LATENCY_MICROS_MAX: u64 = 120_000_000;

/// The significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// The characters kept of a problem.
const PROBLEM_CHARS_MAX: usize = 400;

/// Why a request did not succeed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fault {
    /// An HTTP status that the scenario does not accept.
    Status(u16),
    /// An accepted status, but a checked item has not succeeded or is missing.
    Item,
    /// No connection could be opened.
    Connect,
    /// The connection broke before the whole answer was there.
    Connection,
    /// No answer until long after the end of the run.
    Unanswered,
    /// Due by the schedule, but no connection was free until long after the end of the run.
    Unsent,
}

impl Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Status(status) => return write!(formatter, "status {status}"),
            Self::Item => "item",
            Self::Connect => "connect",
            Self::Connection => "connection",
            Self::Unanswered => "unanswered",
            Self::Unsent => "unsent",
        })
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How often one kind of fault happened, and the first problem that was told.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Seen {
    pub(crate) count: u64,
    pub(crate) first: String,
}

/// The counts of one share of the workers.
#[derive(Debug)]
pub(crate) struct Tally {
    latency: Histogram<u64>,
    items: u64,
    faults: BTreeMap<Fault, Seen>,
    reconnects: u64,
    last: Option<Instant>,
}

impl Tally {
    fn new() -> Result<Self, LoadError> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, LATENCY_DIGITS)
            .map_err(LoadError::Histogram)?;
        Ok(Self { latency, items: 0, faults: BTreeMap::new(), reconnects: 0, last: None })
    }

    /// Counts a success that began at `since` and ended at `until`.
    pub(crate) fn succeeded(&mut self, since: Instant, until: Instant, items: u64) {
        let micros = until.saturating_duration_since(since).as_micros();
        self.latency.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        self.items += items;
        self.last = self.last.max(Some(until));
    }

    /// Counts `count` faults of one kind.
    pub(crate) fn failed(&mut self, fault: Fault, count: u64, problem: &str) {
        let first = || Seen { count: 0, first: problem.chars().take(PROBLEM_CHARS_MAX).collect() };
        self.faults.entry(fault).or_insert_with(first).count += count;
    }

    /// Counts a connection that was opened again.
    pub(crate) fn reconnected(&mut self) {
        self.reconnects += 1;
    }

    fn merge(&mut self, other: &Self) -> Result<(), LoadError> {
        self.latency.add(&other.latency).map_err(|_| LoadError::Merge)?;
        self.items += other.items;
        self.reconnects += other.reconnects;
        self.last = self.last.max(other.last);
        for (fault, seen) in &other.faults {
            self.failed(*fault, seen.count, &seen.first);
        }
        Ok(())
    }
}

/// The tallies of a run: a few shares, so that workers on different cores do not wait for one lock
/// and the histograms stay in the cache.
pub(crate) struct Recorder {
    shares: Vec<Mutex<Tally>>,
}

impl Recorder {
    /// A recorder with `shares` tallies, at least one.
    pub(crate) fn new(shares: usize) -> Result<Self, LoadError> {
        let tallies = (0..shares.max(1)).map(|_| Tally::new().map(Mutex::new));
        Ok(Self { shares: tallies.collect::<Result<_, _>>()? })
    }

    /// Lets `worker` write to its share.
    pub(crate) fn record(&self, worker: usize, write: impl FnOnce(&mut Tally)) {
        write(&mut self.shares[worker % self.shares.len()].lock());
    }

    /// Successes and faults so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.shares.iter().fold((0, 0), |(successes, faults), share| {
            let share = share.lock();
            let failed: u64 = share.faults.values().map(|seen| seen.count).sum();
            (successes + share.latency.len(), faults + failed)
        })
    }

    /// The report of a scenario whose measured part began at `from` and was to last `span`. Work
    /// that was finished later makes the time longer, never the rate higher.
    pub(crate) fn report(
        &self,
        scenario: &'static str,
        from: Instant,
        span: Duration,
    ) -> Result<Report, LoadError> {
        let mut all = Tally::new()?;
        for share in &self.shares {
            all.merge(&share.lock())?;
        }
        let last = all.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(from));
        let seconds = span.max(last).as_secs_f64();
        let requests = all.latency.len();
        let quantile = |quantile| all.latency.value_at_quantile(quantile);
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let rate = |count: u64| count as f64 / seconds;
        Ok(Report {
            scenario,
            seconds,
            requests,
            requests_per_second: rate(requests),
            items: all.items,
            items_per_second: rate(all.items),
            latency_micros: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p99_9: quantile(0.999),
                max: all.latency.max(),
            },
            error_count: all.faults.values().map(|seen| seen.count).sum(),
            errors: all.faults.into_iter().map(|(kind, seen)| Error { kind, seen }).collect(),
            reconnects: all.reconnects,
            notes: Vec::new(),
        })
    }
}

/// The latencies of the successes, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

/// One kind of fault in a report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Error {
    pub(crate) kind: Fault,
    #[serde(flatten)]
    pub(crate) seen: Seen,
}

/// What one scenario measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) seconds: f64,
    /// Successes only, as is `items`; `items` is 0 for scenarios without batches.
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) items: u64,
    pub(crate) items_per_second: f64,
    pub(crate) latency_micros: Latency,
    pub(crate) error_count: u64,
    pub(crate) errors: Vec<Error>,
    /// Connections that were opened again, after a fault or because the server had closed them.
    pub(crate) reconnects: u64,
    pub(crate) notes: Vec<String>,
}

/// The reports as a table, with each report's faults and notes below it.
pub(crate) fn table(reports: &[Report]) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "{:<12} {:>10} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "scenario", "requests", "req/s", "items/s", "p50", "p90", "p99", "p99.9", "max", "errors"
    );
    for report in reports {
        let latency = &report.latency_micros;
        let items = match report.items {
            0 => "-".to_owned(),
            _ => format!("{:.0}", report.items_per_second),
        };
        let _ = writeln!(
            text,
            "{:<12} {:>10} {:>10.0} {items:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
            report.scenario,
            report.requests,
            report.requests_per_second,
            millis(latency.p50),
            millis(latency.p90),
            millis(latency.p99),
            millis(latency.p99_9),
            millis(latency.max),
            report.error_count,
        );
        for Error { kind, seen } in &report.errors {
            let _ = writeln!(text, "  {kind}: {} times, first: {}", seen.count, seen.first);
        }
        if report.reconnects > 0 {
            let _ = writeln!(text, "  connections opened again: {}", report.reconnects);
        }
        for note in &report.notes {
            let _ = writeln!(text, "  {note}");
        }
    }
    text
}

fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_all_shares_and_faults_from_none_of_them() {
        let recorder = Recorder::new(3).unwrap();
        let from = Instant::now();
        for micros in 1..=1_000_u64 {
            let until = from + Duration::from_micros(micros);
            let worker = usize::try_from(micros).unwrap();
            recorder.record(worker, |tally| tally.succeeded(from, until, 10));
        }
        recorder.record(0, |tally| tally.failed(Fault::Status(503), 1, "busy"));
        recorder.record(1, |tally| tally.failed(Fault::Status(503), 2, "later"));
        recorder.record(2, |tally| tally.failed(Fault::Unsent, 4, "no connection was free"));
        assert_eq!(recorder.counts(), (1_000, 7));

        let report = recorder.report("debit", from, Duration::from_secs(2)).unwrap();
        assert_eq!((report.requests, report.items, report.error_count), (1_000, 10_000, 7));
        assert!((report.requests_per_second - 500.0).abs() < 1e-9);
        let latency = &report.latency_micros;
        let found = (latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max);
        assert_eq!(found, (500, 900, 990, 999, 1_000));
        assert_eq!(report.errors[0].seen.count, 3);

        let table = table(std::slice::from_ref(&report));
        assert!(table.contains("status 503: 3 times, first: busy"), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["errors"][1]["kind"], "unsent");
        assert_eq!(json["errors"][1]["count"], 4);
    }

    #[test]
    fn work_finished_after_the_end_lowers_the_rate_and_a_huge_latency_is_kept() {
        let recorder = Recorder::new(1).unwrap();
        let from = Instant::now();
        let until = from + Duration::from_secs(200);
        recorder.record(0, |tally| tally.succeeded(from, until, 0));
        let report = recorder.report("me", from, Duration::from_secs(1)).unwrap();
        assert!((report.seconds - 200.0).abs() < 1e-9);
        // The top of the range, to three digits.
        assert!(report.latency_micros.max >= LATENCY_MICROS_MAX);
        assert!(report.latency_micros.max < LATENCY_MICROS_MAX / 1_000 * 1_002);
    }
}
