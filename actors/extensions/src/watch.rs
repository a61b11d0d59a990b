//! What is seen of a running task from outside: how far it says it is, and what it has sent.
//!
//! Observations: they live in this process, are told on the event feed to whoever reads then, and
//! are gone after a restart. What a task had sent is recorded when it ends ([`Done`]).
//!
//! Deliberate limits: progress is told at most every [`TELL_PERIOD`]; [`SENT_MAX`] things that a
//! task has sent are named, the rest are counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use activity::feed::Feed;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::System;
use types::TaskId;

use crate::session::Scope;
use crate::tell::telling;

/// How often progress of one task is told, at most.
pub const TELL_PERIOD: Duration = Duration::from_millis(250);
/// Things that a task has sent and that are named.
pub const SENT_MAX: usize = 64;
/// Characters of a progress message; what is longer is cut.
pub const MESSAGE_CHARACTERS_MAX: usize = 200;
/// How far steps alone bring a task: the last of them is done when it ends.
const STEPS_FRACTION_MAX: f64 = 0.99;

/// How far a task is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// From 0 to 1; null until something is known.
    pub fraction: Option<f64>,
    /// For people; empty until something is said.
    pub message: String,
}

/// What was sent. Stored: a kind keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sort {
    /// A call of the app's own host.
    Host,
    /// A call of another app.
    Call,
    /// A prompt to be completed.
    Completion,
}

impl Sort {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Call => "call",
            Self::Completion => "completion",
        }
    }
}

/// What came back. Stored: a kind keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returned {
    /// Nothing: what came of it is not known.
    Unknown,
    /// An answer.
    Answered,
    /// A failure.
    Failed,
}

impl Returned {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Answered => "answered",
            Self::Failed => "failed",
        }
    }
}

/// One thing that a task has sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// What.
    pub sort: Sort,
    /// To which app; empty for a completion.
    pub app: String,
    /// Which function; the model of a completion, if one was named.
    pub function: String,
    /// What came back.
    pub returned: Returned,
}

/// What a task had done when it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Documents that were written: all that it wrote, or none of it. `None` when a restart came
    /// between: its documents are as its record says.
    pub documents: Option<u64>,
    /// What it had sent, in order, at most [`SENT_MAX`].
    pub sent: Vec<Sent>,
    /// How many more there were.
    pub sent_omitted: u64,
}

#[derive(Default)]
struct Seen {
    progress: Progress,
    told_at: Option<Instant>,
    is_running: bool,
    cancelled_by: Option<String>,
    done: Done,
}

/// What is seen of one task.
pub struct Watch {
    /// The task.
    pub id: TaskId,
    /// Whose it is.
    pub scope: Scope,
    seen: Mutex<Seen>,
}

impl Watch {
    pub(crate) fn new(id: TaskId, scope: Scope) -> Arc<Self> {
        Arc::new(Self { id, scope, seen: Mutex::default() })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.seen.lock().progress.clone()
    }

    /// Whether it runs, and does not wait for its turn.
    pub fn is_running(&self) -> bool {
        self.seen.lock().is_running
    }

    pub(crate) fn run(&self) {
        self.seen.lock().is_running = true;
    }

    /// Somebody stops it now. The first who does is remembered.
    pub(crate) fn cancel(&self, by: &str) {
        self.seen.lock().cancelled_by.get_or_insert_with(|| by.to_owned());
    }

    /// Who has stopped it.
    pub(crate) fn cancelled_by(&self) -> Option<String> {
        self.seen.lock().cancelled_by.clone()
    }

    pub(crate) fn done(&self) -> Done {
        self.seen.lock().done.clone()
    }

    pub(crate) fn wrote(&self, documents: usize) {
        self.seen.lock().done.documents = Some(documents as u64);
    }

    /// Something leaves. The answer names it for [`Watch::returned`].
    pub(crate) fn sent(&self, sort: Sort, app: &str, function: &str) -> usize {
        let done = &mut self.seen.lock().done;
        if done.sent.len() >= SENT_MAX {
            done.sent_omitted += 1;
            return usize::MAX;
        }
        let (app, returned) = (app.to_owned(), Returned::Unknown);
        let function = crate::execute::shortened(function);
        done.sent.push(Sent { sort, app, function, returned });
        done.sent.len() - 1
    }

    pub(crate) fn returned(&self, sent: usize, returned: Returned) {
        if let Some(sent) = self.seen.lock().done.sent.get_mut(sent) {
            sent.returned = returned;
        }
    }

    /// So many of its steps are done. Says nothing more once the app itself reports.
    pub(crate) fn steps(&self, system: &System, done: usize, all: usize) {
        let fraction = (done as f64 / all.max(1) as f64).min(STEPS_FRACTION_MAX);
        let message = String::new();
        if self.seen.lock().progress.message.is_empty() {
            self.report(system, Progress { fraction: Some(fraction), message });
        }
    }

    /// It is so far now.
    pub(crate) fn report(&self, system: &System, mut progress: Progress) {
        progress.fraction = progress.fraction.map(|it| it.clamp(0.0, 1.0));
        progress.message = progress.message.chars().take(MESSAGE_CHARACTERS_MAX).collect();
        let now = Instant::now();
        let is_told = {
            let mut seen = self.seen.lock();
            let is_due = seen.told_at.is_none_or(|at| now >= at + TELL_PERIOD);
            seen.told_at = if is_due { Some(now) } else { seen.told_at };
            seen.progress = progress.clone();
            is_due
        };
        let feed = system.find_port::<Feed>().filter(|it| it.has_readers(self.scope.tenant));
        if let Some(feed) = feed.filter(|_| is_told) {
            let data = json!({"task_id": self.id, "app_id": self.scope.app,
                "fraction": progress.fraction, "message": progress.message});
            let telling = telling("task_progress".to_owned(), &self.scope, data);
            let telling = telling.of_family("tasks:read");
            feed.publish(self.scope.tenant, telling, system.clock().now());
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{AppId, TenantId, UserId};

    use super::*;

    #[test]
    fn what_was_sent_is_named_up_to_a_number_and_counted_beyond() {
        let app = AppId::new("shelf").unwrap();
        let scope = Scope { tenant: TenantId(1), user: UserId(2), app };
        let watch = Watch::new(TaskId(3), scope);
        assert!(watch.done().sent.is_empty());
        for _ in 0..SENT_MAX + 2 {
            let sent = watch.sent(Sort::Host, "shelf", "print");
            watch.returned(sent, Returned::Answered);
        }
        let open = watch.sent(Sort::Call, "press", "look");
        watch.returned(open, Returned::Failed);
        let done = watch.done();
        assert_eq!((done.sent.len(), done.sent_omitted), (SENT_MAX, 3));
        assert!(done.sent.iter().all(|sent| sent.returned == Returned::Answered));
    }
}
