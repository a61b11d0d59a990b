//! Giving memory back while nothing happens.
//!
//! An allocator that serves each thread from pages of its own learns of what other threads have
//! freed there when the thread itself allocates again: mimalloc looks after it once in a thousand
//! allocations that are not small. A thread that was busy and then sleeps keeps all of that. So
//! whoever is about to sleep calls [`tidy`], which allocates that often. With another allocator
//! that is some microseconds for nothing.
//!
//! Deliberate limit: it asks the allocator for nothing by name, because that would be unsafe code.

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How many allocations make the allocator look after a thread's pages.
const ALLOCATIONS: usize = 1_000;
/// How large each is, in bytes: more than what it calls small.
const ALLOCATION_BYTES: usize = 2_048;
/// How often a thread does it at most.
const PERIOD: Duration = Duration::from_secs(1);

thread_local! {
    /// When this thread did it last.
    static TIDIED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets the allocator give back what this thread does not need any more, at most once a second and
/// for some 50 microseconds; says whether it was time. For threads that have nothing to do.
pub fn tidy() -> bool {
    let now = Instant::now();
    let is_time = TIDIED.get().is_none_or(|last| now - last >= PERIOD);
    if is_time {
        TIDIED.set(Some(now));
        for _ in 0..ALLOCATIONS {
            drop(black_box(Vec::<u8>::with_capacity(black_box(ALLOCATION_BYTES))));
        }
    }
    is_time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_does_it_once_in_a_while() {
        assert!(tidy());
        let first = TIDIED.get();
        assert!(!tidy() || first.is_some_and(|first| first.elapsed() >= PERIOD));
        assert!(std::thread::spawn(tidy).join().unwrap());
    }
}
