//! What the console sees without sending a message: atomics that each actor shares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

pub use crate::crashes::CrashView;

/// The buckets of a [`Histogram`]: bucket `n` counts durations below `2^n` microseconds.
const BUCKETS: usize = 26;

/// Durations in buckets of doubling width, from 1 microsecond to half a minute.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Upper bounds in seconds with the count of each bucket, and the sum in seconds.
    pub fn snapshot(&self) -> (Vec<(f64, u64)>, f64) {
        let bucket =
            |(n, count): (usize, &AtomicU64)| ((1_u64 << n) as f64 / 1e6, count.load(Relaxed));
        let buckets = self.buckets.iter().enumerate().map(bucket).collect();
        (buckets, self.sum_us.load(Relaxed) as f64 / 1e6)
    }

    /// The upper bound of the bucket in which the quantile lies, in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let rank = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (n, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= rank && total > 0 {
                return 1 << n;
            }
        }
        0
    }
}

/// The figures of one live actor.
pub struct ActorMonitor {
    /// When it was activated.
    pub started: Instant,
    /// Commands accepted.
    pub processed: AtomicU64,
    /// Commands refused.
    pub refused: AtomicU64,
    /// Events recorded.
    pub events: AtomicU64,
    /// The number of the last record.
    pub seq: AtomicU64,
    /// Whether it must not be passivated now.
    pub pinned: AtomicBool,
    /// Whether its entity began with this incarnation.
    pub newborn: AtomicBool,
    /// Whether it has done all that it was begun for.
    pub over: AtomicBool,
    /// When it was last used, by the system's monotonic milliseconds.
    pub last_used_ms: AtomicI64,
    /// How long its turns take.
    pub turns: Histogram,
    /// The command it is in, and since when.
    pub current: Mutex<Option<(&'static str, Instant)>>,
    /// The last refusal's or crash's text.
    pub last_error: Mutex<Option<String>>,
}

impl Default for ActorMonitor {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            processed: AtomicU64::default(),
            refused: AtomicU64::default(),
            events: AtomicU64::default(),
            seq: AtomicU64::default(),
            pinned: AtomicBool::default(),
            newborn: AtomicBool::default(),
            over: AtomicBool::default(),
            last_used_ms: AtomicI64::default(),
            turns: Histogram::default(),
            current: Mutex::default(),
            last_error: Mutex::default(),
        }
    }
}

/// The figures of one kind, over all its actors since the start.
#[derive(Default)]
pub struct KindMonitor {
    /// Activations.
    pub activations: AtomicU64,
    /// Passivations asked for.
    pub passivations: AtomicU64,
    /// Turns that crashed.
    pub crashes: AtomicU64,
    /// Commands refused for a full mailbox.
    pub busy: AtomicU64,
    commands: RwLock<BTreeMap<&'static str, Arc<CommandMonitor>>>,
}

/// The figures of one command of one kind.
#[derive(Default)]
pub struct CommandMonitor {
    /// Turns that accepted.
    pub accepted: AtomicU64,
    /// Turns that refused.
    pub refused: AtomicU64,
    /// How long the turns took.
    pub turns: Histogram,
}

impl KindMonitor {
    /// The figures of a command, made on first use.
    pub fn command(&self, name: &'static str) -> Arc<CommandMonitor> {
        if let Some(found) = self.commands.read().get(name) {
            return found.clone();
        }
        self.commands.write().entry(name).or_default().clone()
    }

    /// All commands seen so far.
    pub fn commands(&self) -> Vec<(&'static str, Arc<CommandMonitor>)> {
        self.commands.read().iter().map(|(name, figures)| (*name, figures.clone())).collect()
    }
}

/// One live actor, as the console shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ActorView {
    /// The kind.
    pub kind: String,
    /// The id.
    pub id: String,
    /// The home tenant's id as a number in hexadecimal; the gateway shows it as a tenant id.
    pub home: u128,
    /// `starting`, `active` or `stopping`.
    pub status: &'static str,
    /// Commands waiting or in work.
    pub mailbox: usize,
    /// How many may.
    pub mailbox_max: usize,
    /// Commands accepted since activation.
    pub processed: u64,
    /// Commands refused since activation.
    pub refused: u64,
    /// Events recorded since activation.
    pub events: u64,
    /// The number of the last record.
    pub seq: u64,
    /// How long it has been live, in milliseconds.
    pub live_ms: u64,
    /// How long it has not been used, in milliseconds.
    pub idle_ms: u64,
    /// The command it is in, if any.
    pub command: Option<&'static str>,
    /// How long it has been in that, in milliseconds.
    pub command_ms: u64,
    /// A turn's 50th percentile, in microseconds.
    pub turn_p50_us: u64,
    /// A turn's 99th percentile, in microseconds.
    pub turn_p99_us: u64,
    /// Whether work is pending.
    pub pinned: bool,
    /// The last refusal's or crash's text.
    pub last_error: Option<String>,
    /// Its crashes.
    pub crashes: CrashView,
}

/// One kind, as the console shows it.
#[derive(Clone, Debug, Serialize)]
pub struct KindView {
    /// The kind.
    pub kind: &'static str,
    /// Live actors.
    pub live: usize,
    /// Activations since the start.
    pub activations: u64,
    /// Passivations since the start.
    pub passivations: u64,
    /// Crashed turns since the start.
    pub crashes: u64,
    /// Refusals for a full mailbox since the start.
    pub busy: u64,
    /// The entities in quarantine, with the reason.
    pub quarantined: Vec<(String, String)>,
    /// The commands.
    pub commands: Vec<CommandView>,
}

/// One command of a kind, as the console shows it.
#[derive(Clone, Debug, Serialize)]
pub struct CommandView {
    /// The command.
    pub command: &'static str,
    /// Turns that accepted.
    pub accepted: u64,
    /// Turns that refused.
    pub refused: u64,
    /// A turn's 50th percentile, in microseconds.
    pub p50_us: u64,
    /// A turn's 99th percentile, in microseconds.
    pub p99_us: u64,
}

impl CommandView {
    /// The view of a command's figures.
    pub fn of(command: &'static str, monitor: &CommandMonitor) -> Self {
        Self {
            command,
            accepted: monitor.accepted.load(Relaxed),
            refused: monitor.refused.load(Relaxed),
            p50_us: monitor.turns.quantile_us(0.5),
            p99_us: monitor.turns.quantile_us(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.99), 0);
        for us in [0, 3, 3, 100] {
            histogram.record(Duration::from_micros(us));
        }
        assert_eq!(histogram.quantile_us(0.25), 1);
        assert_eq!(histogram.quantile_us(0.5), 4);
        assert_eq!(histogram.quantile_us(1.0), 128);
    }
}
