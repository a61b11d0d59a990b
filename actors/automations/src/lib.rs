//! Automations: what users have done when something happens, or at set times.
//!
//! A [`rule`] says what sets it off ([`trigger`], [`schedule`]) and what is done then.
//! [`automations::Automations`] is the entity that holds a tenant's, [`commands`] what is asked of
//! it. Each time that a rule is set off is an [`execution`]. [`watch`] looks at what happens,
//! [`carry`] carries executions out as ordinary calls, and the [`automator::Automator`] is what
//! they share. [`service`] is what the gateway calls, [`app`] the same as a built-in app.

pub mod app;
pub mod automations;
pub mod automator;
pub mod carry;
pub mod commands;
pub mod execution;
pub mod farewell;
pub mod rule;
pub mod schedule;
pub mod service;
pub mod tell;
pub mod trigger;
pub mod watch;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use supervision::system::SystemBuilder;

pub use app::AutomationsApp;
pub use automations::Automations;
pub use automator::Automator;
pub use farewell::AutomationsFarewell;
pub use service::{Draft, TriggerFilter, Whose};
pub use tell::{describe, tell};

/// Registers this crate's kind.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<Automations>()
}
