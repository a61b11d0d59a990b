//! When requests start: at once after the last answer (closed loop), or at fixed times that no
//! slow answer can move (open loop).
//!
//! In the open loop, arrival `n` is due at `n / rate` after the start, computed from the index and
//! never from the arrival before it, so nothing drifts. A latency is counted from the due time:
//! a stalled server pays for every request that it kept from being sent (no coordinated omission).
//!
//! Deliberate limit: the pacing thread wakes at most every [`STEP_MICROS`], which is the
//! generator's own share of an open-loop latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The shortest sleep of the pacing thread, in microseconds: arrivals that fall into one step are
/// released together.
const STEP_MICROS: u64 = 200;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A fixed arrival schedule: pure arithmetic, no clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Arrivals a second, at least 1.
    rate: u64,
    /// The number of arrivals in all.
    total: u64,
}

impl Schedule {
    /// The arrivals at `rate` a second that are due before `span` has passed.
    pub(crate) fn new(rate: u64, span: Duration) -> Self {
        let rate = rate.max(1);
        let total = (span.as_nanos() * u128::from(rate)).div_ceil(NANOS_PER_SECOND);
        Self { rate, total: u64::try_from(total).unwrap_or(u64::MAX) }
    }

    /// When arrival `index` is due, counted from the start.
    pub(crate) fn due_at(&self, index: u64) -> Duration {
        let nanos = u128::from(index) * NANOS_PER_SECOND / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many arrivals are due once `elapsed` has passed.
    pub(crate) fn due_after(&self, elapsed: Duration) -> u64 {
        let due = elapsed.as_nanos() * u128::from(self.rate) / NANOS_PER_SECOND + 1;
        u64::try_from(due).unwrap_or(u64::MAX).min(self.total)
    }

    /// How many of the arrivals from `index` on are due at or after `from`.
    pub(crate) fn remaining(&self, index: u64, from: Duration) -> u64 {
        let before = (from.as_nanos() * u128::from(self.rate)).div_ceil(NANOS_PER_SECOND);
        let first = u64::try_from(before).unwrap_or(u64::MAX).max(index);
        self.total.saturating_sub(first)
    }
}

/// One request that may be sent now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Counts all requests of the run, from 0.
    pub(crate) index: u64,
    /// What its latency is counted from.
    pub(crate) since: Instant,
}

/// Hands out arrivals to all workers of a run.
#[derive(Debug)]
pub(crate) struct Pace {
    begin: Instant,
    span: Duration,
    next: AtomicU64,
    open: Option<(Schedule, Semaphore)>,
}

impl Pace {
    /// A run of `span` from now; with a `rate` it is an open loop, paced by a thread that ends
    /// with the schedule.
    pub(crate) fn start(span: Duration, rate: Option<u64>, workers: usize) -> Arc<Self> {
        let open = rate.map(|rate| (Schedule::new(rate, span), Semaphore::new(0)));
        let begin = Instant::now();
        let pace = Arc::new(Self { begin, span, next: AtomicU64::new(0), open });
        if pace.open.is_some() {
            let paced = Arc::clone(&pace);
            thread::spawn(move || paced.release(workers));
        }
        pace
    }

    /// When the run began.
    pub(crate) fn begin(&self) -> Instant {
        self.begin
    }

    /// The next request to send, as soon as it may be sent; none when the run is over.
    pub(crate) async fn next(&self) -> Option<Arrival> {
        let Some((schedule, permits)) = &self.open else {
            let since = Instant::now();
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            return (since < self.begin + self.span).then_some(Arrival { index, since });
        };
        permits.acquire().await.ok()?.forget();
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let since = self.begin + schedule.due_at(index);
        (index < schedule.total).then_some(Arrival { index, since })
    }

    /// How many arrivals were handed out.
    pub(crate) fn taken(&self) -> u64 {
        let taken = self.next.load(Ordering::Relaxed);
        self.open.as_ref().map_or(taken, |(schedule, _)| taken.min(schedule.total))
    }

    /// How many arrivals due at or after `from` no worker ever took.
    pub(crate) fn untaken(&self, from: Duration) -> u64 {
        let taken = self.next.load(Ordering::Relaxed);
        self.open.as_ref().map_or(0, |(schedule, _)| schedule.remaining(taken, from))
    }

    /// Releases each arrival when it is due, then one permit a worker, which ends it.
    fn release(&self, workers: usize) {
        let Some((schedule, permits)) = &self.open else { return };
        let mut released = 0;
        while released < schedule.total {
            let elapsed = self.begin.elapsed();
            let due = schedule.due_after(elapsed);
            permits.add_permits(usize::try_from(due - released).unwrap_or(usize::MAX));
            released = due;
            let next = schedule.due_at(released).saturating_sub(elapsed);
            thread::sleep(next.max(Duration::from_micros(STEP_MICROS)));
        }
        permits.add_permits(workers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_spread_evenly_and_do_not_drift() {
        let schedule = Schedule::new(3, Duration::from_secs(2));
        assert_eq!(schedule.total, 6);
        assert_eq!(schedule.due_at(0), Duration::ZERO);
        assert_eq!(schedule.due_at(1), Duration::from_nanos(333_333_333));
        assert_eq!(schedule.due_at(3), Duration::from_secs(1));
        assert_eq!(schedule.due_at(3_000_000), Duration::from_secs(1_000_000));
    }

    #[test]
    fn an_arrival_is_released_when_it_is_due_and_never_before() {
        for rate in [1, 7, 999, 50_000] {
            let schedule = Schedule::new(rate, Duration::from_secs(10));
            for index in [0, 1, 2, 500, schedule.total - 1] {
                let index = index.min(schedule.total - 1);
                // Due times are rounded down to a nanosecond, so the release may lag by one.
                let due = schedule.due_at(index) + Duration::from_nanos(1);
                assert!(schedule.due_after(due) > index, "rate {rate}, arrival {index}");
                let early = schedule.due_at(index).saturating_sub(Duration::from_nanos(1));
                assert!(index == 0 || schedule.due_after(early) <= index);
            }
            assert_eq!(schedule.due_after(Duration::from_secs(99)), schedule.total);
        }
    }

    #[test]
    fn what_was_never_sent_is_counted_from_the_measured_part_on() {
        let schedule = Schedule::new(100, Duration::from_secs(3));
        let warm_up = Duration::from_secs(1);
        assert_eq!(schedule.remaining(300, warm_up), 0);
        assert_eq!(schedule.remaining(250, warm_up), 50);
        assert_eq!(schedule.remaining(20, warm_up), 200);
    }

    #[tokio::test]
    async fn a_closed_loop_ends_with_its_time_and_an_open_one_with_its_schedule() {
        let over = Pace::start(Duration::ZERO, None, 1);
        assert!(over.next().await.is_none());

        let open = Pace::start(Duration::from_millis(20), Some(500), 1);
        let mut taken = Vec::new();
        while let Some(arrival) = open.next().await {
            assert!(Instant::now() >= arrival.since);
            taken.push(arrival.since - open.begin());
        }
        let due: Vec<_> = (0..10).map(|index| Duration::from_millis(2 * index)).collect();
        assert_eq!(taken, due);
        assert_eq!(open.untaken(Duration::ZERO), 0);
    }
}
