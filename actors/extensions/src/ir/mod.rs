//! Declarative apps: an envelope is read strictly into an [`App`], whose functions and panels run
//! here, in process, over documents that the caller lends.
//!
//! Everything is pure: no I/O, no clock, no randomness, no async. Bindings, conditions, filters
//! and schemas are compiled when the app is read, so a run only walks. Every bound has a named
//! limit beside what it bounds, and every refusal a stable code.
//!
//! Reading order: what an app is (`envelope`, `step`, `panel`, `schema`), what they are made
//! of (`template`, `condition`, `meter`, `issue`), how it runs (`run`, `perform`, `memory`).

mod condition;
mod envelope;
mod fill;
mod issue;
mod memory;
mod meter;
mod oauth;
mod panel;
mod perform;
mod run;
mod schema;
mod secrets;
mod step;
mod template;
mod webhook;

#[cfg(test)]
mod tests;

pub use condition::{Comparator, FILTER_TESTS_MAX, Filter, Test, field_of};
pub use envelope::{
    ActionType, App, Callable, DocumentKind, ENVELOPE_BYTES_MAX, ENVELOPE_DEPTH_MAX, Entry,
    FUNCTIONS_MAX, Function, IR_VERSION, Implementation, PANEL_PREFIX, PANELS_MAX, Panel,
    PanelTemplate, Render, SkeletonSection, parse,
};
pub use fill::{Bound, FILLED_BYTES_MAX, RESULTS_MAX, fill};
pub use issue::{ISSUES_MAX, Issue, join};
pub use memory::{MEMORY_DOCUMENTS_MAX, MemoryDocuments, NoHost, Smoke, smoke};
pub use meter::VALUE_DEPTH_MAX;
pub(crate) use meter::weigh;
pub use oauth::{PROVIDERS_MAX, Provider};
pub use perform::{DOCUMENT_BYTES_MAX, Document, Documents, Query, Reason, Request};
pub use run::{
    CALL_DEPTH_MAX, Host, Input, Limits, Outcome, Progress, RUN_STEPS_MAX, Run, RunError,
    TraceEntry, Waiting, run, scopes_cover,
};
pub use step::{DOCUMENTS_LISTED_MAX, Program, STEPS_MAX};
pub use template::PATH_PARTS_MAX;
pub use webhook::{
    INSTALL_KEY_PREFIX, WEBHOOK_METHODS, WEBHOOK_PATH_CHARS_MAX, WEBHOOKS_MAX, Webhook,
};

pub(crate) use envelope::require_object;

/// Whether a value is nested deeper than a run takes.
pub(crate) fn is_too_deep(value: &serde_json::Value) -> bool {
    meter::weigh(value, VALUE_DEPTH_MAX).is_none()
}
