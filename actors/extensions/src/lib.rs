//! Extensions: apps that users call, and what a call is made of.
//!
//! Reading order, which is the way of a call: [`runtime`] authorises and pays, [`catalogue`] knows
//! the app, [`execute`] runs it over a [`view`] of the documents, [`session`] takes in what came of
//! it, [`answer`] is what the caller gets. [`flights`] knows what is under way, [`turns`] whose run
//! is next, [`share`] how much one session may have under way. A call that goes on in the
//! background is a [`task`]; [`tasks`] is what is asked of them, [`watch`] what is seen of one.
//! What leaves the server goes through [`outside`]: to the apps' own [`hosts`] ([`signing`],
//! [`places`], [`breaker`]) and for a [`completion`], all of it over the port [`outgoing`].
//! [`built_in`] is for apps that are part of the server; [`ir`] is the format that all others are
//! written in.

pub mod answer;
pub mod breaker;
pub mod built_in;
pub mod catalogue;
pub mod completion;
pub mod execute;
pub mod flights;
pub mod hosts;
pub mod ir;
pub mod outgoing;
pub mod outside;
pub mod places;
pub mod runtime;
pub mod session;
pub mod share;
pub mod signing;
pub mod task;
pub mod tasks;
pub mod turns;
pub mod view;
pub mod watch;

mod announce;
mod describe;
mod farewell;
mod hold;
mod task_run;
mod tell;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use supervision::system::SystemBuilder;

pub use answer::CallAnswer;
pub use built_in::{BuiltIn, BuiltInCall};
pub use catalogue::{Apps, CompiledApp};
pub use describe::{describe, describe_tasks};
pub use farewell::ExtensionsFarewell;
pub use flights::{Flights, Flying, Stopped};
pub use outside::Outside;
pub use runtime::{Call, Extensions, Quote, Request, Settings};
pub use tell::{tell, tell_tasks};

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<session::ExtensionSession>().kind::<task::Tasks>()
}
