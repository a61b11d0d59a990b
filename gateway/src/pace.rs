//! How many requests of one tenant are worked on at once while others are there: as many as the
//! threads keep up with.
//!
//! What a request of a quiet tenant waits for, at each step of its way, is the work of others that
//! stands before it on the threads. How long that takes is felt: by going to the end of the line
//! once, at a fixed pace. While it takes long, the share shrinks by a quarter each time, down to
//! [`SHARE_LEAST`]; while it does not, it grows by one, up to [`SHARE`]. What waits for a disk or
//! for somebody outside is in nobody's way, and so does not make it shrink.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many requests of a tenant are worked on at once, at most, while other tenants are there.
pub const SHARE: usize = 64;
/// How many however long the line is.
pub const SHARE_LEAST: usize = 8;
/// How long the end of the line may take to come, before the share shrinks.
pub const LAG_MAX: Duration = Duration::from_micros(500);

/// The share now.
#[derive(Debug)]
pub(crate) struct Pace {
    share: AtomicUsize,
    most: usize,
}

impl Pace {
    /// Begins with the greatest share.
    pub(crate) fn new(most: usize) -> Self {
        Self { share: AtomicUsize::new(most), most }
    }

    pub(crate) fn share(&self) -> usize {
        self.share.load(Ordering::Relaxed)
    }

    /// Nobody needs it to be small.
    pub(crate) fn rest(&self) {
        self.share.store(self.most, Ordering::Relaxed);
    }

    /// Goes to the end of the line of what the threads have to do, once.
    pub(crate) async fn feel(&self) {
        let begun = Instant::now();
        tokio::task::yield_now().await;
        self.note(begun.elapsed());
    }

    /// One caller at a time.
    fn note(&self, lag: Duration) {
        let share = self.share();
        let next = match lag > LAG_MAX {
            true => (share - share / 4).max(SHARE_LEAST.min(self.most)),
            false => (share + 1).min(self.most),
        };
        self.share.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_shrinks_fast_while_the_line_is_long_and_grows_back_slowly() {
        let pace = Pace::new(SHARE);
        let shares = |lag: Duration, times: usize| -> Vec<usize> {
            let noted = (0..times).map(|_| {
                pace.note(lag);
                pace.share()
            });
            noted.collect()
        };
        assert_eq!(shares(LAG_MAX, 2), [SHARE, SHARE]);
        assert_eq!(shares(LAG_MAX * 2, 3), [48, 36, 27]);
        assert_eq!(shares(LAG_MAX * 2, 20).last(), Some(&SHARE_LEAST));
        assert_eq!(shares(Duration::ZERO, 2), [SHARE_LEAST + 1, SHARE_LEAST + 2]);
        pace.rest();
        assert_eq!(pace.share(), SHARE);
    }

    #[tokio::test]
    async fn an_idle_thread_has_no_line() {
        let pace = Pace::new(SHARE);
        let begun = Instant::now();
        pace.feel().await;
        // However slow this machine is: what was felt was no longer than what it took.
        assert!(pace.share() == SHARE || begun.elapsed() > LAG_MAX);
    }
}
