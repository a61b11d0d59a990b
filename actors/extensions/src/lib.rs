//! Extensions: apps that users call, and what a call is made of.
//!
//! Reading order, which is the way of a call: [`runtime`] authorises and pays, [`catalogue`] knows
//! the app, [`execute`] runs it over a [`view`] of the documents, [`session`] takes in what came of
//! it, [`answer`] is what the caller gets. [`flights`] knows what is under way, [`turns`] whose run
//! is next, [`share`] how much one session may have under way, [`guard`] what waits for a person. A
//! call that goes on in the background is a [`task`]; [`tasks`] is what is asked of them, [`watch`]
//! what is seen of one. What leaves the server goes through [`outside`]: to the apps' own [`hosts`]
//! ([`signing`], [`places`], [`breaker`], [`host_secrets`]) and for a [`completion`], all of it
//! over the port [`outgoing`]. Who calls an app from outside comes by a [`webhook`], for the tenant
//! that one of its [`install_keys`] names; users connect accounts elsewhere by [`oauth`].
//! [`store`] is the documents as an app's runtime reaches them.
//! What the server calls for users who are not there is [`numbered`].
//! [`built_in`] is for apps that are part of the server; [`ir`] is the format that all others are
//! written in.

pub mod answer;
pub mod breaker;
pub mod built_in;
pub mod catalogue;
pub mod completion;
pub mod consent;
pub mod delivery_cap;
pub mod execute;
pub mod flights;
pub mod guard;
pub mod health;
pub mod host_secrets;
pub mod hosts;
pub mod install_keys;
pub mod ir;
pub mod numbered;
pub mod oauth;
pub mod outgoing;
pub mod outside;
pub mod places;
pub mod prompting;
pub mod runtime;
pub mod session;
pub mod share;
pub mod signing;
pub mod store;
pub mod task;
pub mod tasks;
pub mod turns;
pub mod view;
pub mod watch;
pub mod webhook;

mod allowance;
mod announce;
mod describe;
mod farewell;
mod hold;
mod indexing;
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
pub use guard::{Guard, Operated};
pub use outside::Outside;
pub use runtime::{Call, Extensions, Quote, Request, Settings};
pub use tell::{tell, tell_tasks};

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    let builder = builder.kind::<session::ExtensionSession>().kind::<install_keys::InstallKeys>();
    builder.kind::<oauth::OAuthFlow>().kind::<task::Tasks>()
}
