//! A refusal is a value: the command changed nothing (or, for [`Class::InDoubt`], may have), and
//! the caller is told why with a stable code.

use serde::{Deserialize, Serialize};

/// What kind of answer a refusal is; the gateway turns each into an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// The caller is not known (401).
    Unauthenticated,
    /// The wallet does not cover it (402).
    Payment,
    /// The caller may not (403).
    Forbidden,
    /// There is no such thing, or not for this caller (404).
    NotFound,
    /// It does not fit the present state (409).
    Conflict,
    /// It was there and is over (410).
    Gone,
    /// The input is wrong (422).
    Invalid,
    /// A client of an older API expects 400 here.
    BadRequest,
    /// The caller's own limit (429).
    TooMany,
    /// It crashed; nothing was changed (500).
    Crashed,
    /// No room or no time now; nothing was changed (503).
    Busy,
    /// It may or may not have happened: repeat with the same key (503).
    InDoubt,
    /// The disk is nearly full (507).
    LowSpace,
}

impl Class {
    /// Whether the refusal says nothing about the command itself: what must happen is tried again.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Busy | Self::InDoubt | Self::LowSpace | Self::Crashed)
    }
}

/// The code of what was erased.
const ERASED: &str = "erased";

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// What kind of answer it is.
    pub class: Class,
    /// The stable code, snake_case.
    pub code: String,
    /// What is wrong and what to do, for the caller. Never a secret.
    pub message: String,
    /// Further facts by name, as JSON text: `{"balance": 3}`.
    pub facts: Option<String>,
    /// When to come back, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal of a class, with its code and message.
    pub fn new(class: Class, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        Self { class, code, message, facts: None, retry_after_ms: None }
    }

    /// Adds facts; a value that is no JSON object adds none.
    #[must_use]
    pub fn with_facts(mut self, facts: &impl Serialize) -> Self {
        self.facts = serde_json::to_string(facts).ok();
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// 404: there is no such thing, or it is another tenant's.
    pub fn not_found(what: &str) -> Self {
        Self::new(Class::NotFound, "not_found", format!("there is no such {what}"))
    }

    /// 410: its key was erased, and with it everything that was recorded.
    pub fn erased() -> Self {
        let message = "this was erased; nothing of it can be read any more";
        Self::new(Class::Gone, ERASED, message)
    }

    /// Whether this is [`Refusal::erased`].
    pub fn is_erased(&self) -> bool {
        self.class == Class::Gone && self.code == ERASED
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Class::Forbidden, "forbidden", message)
    }

    /// 409.
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(Class::Conflict, code, message)
    }

    /// 422, naming the field of the body.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::invalid_at("body", field, message)
    }

    /// 422, naming the field and where it is: `body`, `query`, `path` or `header`.
    pub fn invalid_at(place: &str, field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let item = serde_json::json!({
            "details": [{"field": field, "message": message, "loc": [place, field],
                "msg": message, "type": "value_error"}]
        });
        let text = format!("{field}: {message}");
        Self::new(Class::Invalid, "validation_error", text).with_facts(&item)
    }

    /// The mailbox, or the journal's queue, is full.
    pub fn busy() -> Self {
        Self::new(Class::Busy, "busy", "too much is waiting here; nothing was changed, try again")
            .retry_after(1_000)
    }

    /// The disk is nearly full.
    pub fn low_space() -> Self {
        let message = "the server's disk is nearly full: what was begun can be finished, and \
            nothing new is taken; nothing was changed";
        Self::new(Class::LowSpace, "low_space", message).retry_after(30_000)
    }

    /// The actor ended before it came to this command.
    pub fn restarting() -> Self {
        let message = "the actor restarted before it came to this; nothing was changed, try again";
        Self::new(Class::Busy, "busy", message).retry_after(200)
    }

    /// The answer was lost.
    pub fn in_doubt() -> Self {
        let message = "the outcome is not known: repeat it with the same Idempotency-Key";
        Self::new(Class::InDoubt, "outcome_unknown", message).retry_after(1_000)
    }

    /// The command crashed; the turn was undone.
    pub fn crashed() -> Self {
        let message = "this command crashed; nothing was changed, and it was noted";
        Self::new(Class::Crashed, "internal_error", message)
    }

    /// The entity does not take commands until an operator releases it.
    pub fn quarantined(reason: &str) -> Self {
        let message = format!("this is quarantined until an operator releases it: {reason}");
        Self::new(Class::Busy, "quarantined", message).retry_after(30_000)
    }
}
