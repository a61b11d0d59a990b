//! What crashes teach: how long to wait before the next start, which command is the suspect, and
//! when an entity is better left alone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::refusal::{Class, Refusal};

/// The window in which crashes count.
const WINDOW: Duration = Duration::from_secs(60);
/// This many crashes in the window put the entity into quarantine.
pub(crate) const QUARANTINE_CRASHES: usize = 5;
/// This many crashes of one command in the window, and that command is refused meanwhile.
const POISON_CRASHES: usize = 2;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How many entities' crashes are remembered; beyond it the oldest memories go.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Default)]
struct Memory {
    crashes: Vec<(Instant, &'static str, String)>,
    quarantine: Option<String>,
}

/// What is remembered of one entity, for the console.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct CrashView {
    /// Crashes within the window.
    pub recent: usize,
    /// The suspect command and its message, newest first.
    pub suspects: Vec<(String, String)>,
    /// Why it is in quarantine, if it is.
    pub quarantine: Option<String>,
}

#[derive(Default)]
pub(crate) struct Crashes {
    by_id: Mutex<HashMap<String, Memory>>,
}

impl Crashes {
    /// Notes a crash and says whether it led to quarantine.
    pub(crate) fn note(&self, id: &str, command: &'static str, message: &str, now: Instant) {
        let mut by_id = self.by_id.lock();
        if by_id.len() >= REMEMBERED_MAX {
            by_id.retain(|_, memory| {
                memory.quarantine.is_some()
                    || memory.crashes.last().is_some_and(|crash| now - crash.0 < WINDOW)
            });
        }
        let memory = by_id.entry(id.to_owned()).or_default();
        memory.crashes.retain(|crash| now - crash.0 < WINDOW);
        memory.crashes.push((now, command, message.to_owned()));
        if memory.crashes.len() >= QUARANTINE_CRASHES {
            let count = memory.crashes.len();
            memory.quarantine =
                Some(format!("{count} crashes in {WINDOW:?}, the last in {command}: {message}"));
        }
    }

    pub(crate) fn quarantine(&self, id: &str, reason: &str) {
        self.by_id.lock().entry(id.to_owned()).or_default().quarantine = Some(reason.to_owned());
    }

    /// Forgets everything about the entity: the operator releases it.
    pub(crate) fn release(&self, id: &str) -> bool {
        self.by_id.lock().remove(id).is_some()
    }

    /// Refuses what had better not be tried now.
    pub(crate) fn check(&self, id: &str, command: &str, now: Instant) -> Result<(), Refusal> {
        let by_id = self.by_id.lock();
        let Some(memory) = by_id.get(id) else { return Ok(()) };
        if let Some(reason) = &memory.quarantine {
            return Err(Refusal::quarantined(reason));
        }
        let recent = memory.crashes.iter().filter(|crash| now - crash.0 < WINDOW);
        if recent.filter(|crash| crash.1 == command).count() >= POISON_CRASHES {
            let message = format!("{command} crashed this repeatedly; it is refused for a while");
            let refusal = Refusal::new(Class::Busy, "poison_command", message);
            return Err(refusal.retry_after(WINDOW.as_millis() as u64));
        }
        Ok(())
    }

    /// How long the next start waits.
    pub(crate) fn backoff(&self, id: &str, now: Instant) -> Duration {
        let by_id = self.by_id.lock();
        let recent = by_id.get(id).map_or(0, |memory| {
            memory.crashes.iter().filter(|crash| now - crash.0 < WINDOW).count()
        });
        match recent {
            0 => Duration::ZERO,
            count => (BACKOFF_FIRST * 2_u32.pow(count.min(9) as u32 - 1)).min(BACKOFF_MAX),
        }
    }

    pub(crate) fn view(&self, id: &str, now: Instant) -> CrashView {
        let by_id = self.by_id.lock();
        let Some(memory) = by_id.get(id) else { return CrashView::default() };
        let suspects = memory.crashes.iter().rev();
        CrashView {
            recent: memory.crashes.iter().filter(|crash| now - crash.0 < WINDOW).count(),
            suspects: suspects.map(|crash| (crash.1.to_owned(), crash.2.clone())).collect(),
            quarantine: memory.quarantine.clone(),
        }
    }

    /// The ids in quarantine, with the reason.
    pub(crate) fn quarantined(&self) -> Vec<(String, String)> {
        let by_id = self.by_id.lock();
        let reason = |(id, memory): (&String, &Memory)| {
            memory.quarantine.clone().map(|reason| (id.clone(), reason))
        };
        by_id.iter().filter_map(reason).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poison_command_is_refused_alone_and_five_crashes_quarantine() {
        let (crashes, now) = (Crashes::default(), Instant::now());
        assert_eq!(crashes.backoff("w", now), Duration::ZERO);
        crashes.note("w", "boom", "x", now);
        assert!(crashes.check("w", "boom", now).is_ok());
        crashes.note("w", "boom", "x", now);
        assert_eq!(crashes.check("w", "boom", now).unwrap_err().code, "poison_command");
        assert!(crashes.check("w", "debit", now).is_ok());
        assert_eq!(crashes.backoff("w", now), Duration::from_millis(200));
        let later = now + WINDOW;
        assert!(crashes.check("w", "boom", later).is_ok());
        for _ in 0..QUARANTINE_CRASHES {
            crashes.note("w", "other", "x", later);
        }
        assert_eq!(crashes.check("w", "debit", later).unwrap_err().code, "quarantined");
        assert!(crashes.release("w"));
        assert!(crashes.check("w", "boom", later).is_ok());
    }
}
