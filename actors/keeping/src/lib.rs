//! What the apps' own runtimes keep and tell, as they reach it from outside with the service token.
//!
//! Reading order: [`skeleton`] is what an app keeps at hand about a user, section by section;
//! [`files`] are a tenant's files; [`configuration`] is what is set for a platform, a tenant, an
//! app, a role and a user, and what comes of it; [`notices`] are told to users; [`report`] is what
//! was done outside and is to stand in the chain; [`completion`] is what a model was asked for.
//!
//! The crate knows no app: whether one may act for a tenant and a user was asked before.

pub mod completion;
pub mod configuration;
pub mod files;
pub mod notices;
pub mod report;
pub mod skeleton;

mod describe;
mod tell;
mod words;

#[cfg(test)]
mod golden;

use supervision::system::SystemBuilder;
use supervision::{Address, Entity, Home, OwnerKey};

pub use describe::{describe_completion, describe_report, note_report};
pub use tell::tell_notices;
pub use words::Words;

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    let builder = builder.kind::<skeleton::Skeleton>().kind::<files::Files>();
    let builder = builder.kind::<configuration::Configuration>().kind::<notices::Notices>();
    builder.kind::<report::Report>().kind::<completion::AiCompletion>()
}

/// An address of ids whose lengths and letters are known to fit.
fn address<E: Entity>(id: &str, owner: OwnerKey, home: Home) -> Address<E> {
    Address::new(id, owner, home).unwrap_or_else(|| panic!("{id:?} is no id of a {}", E::KIND))
}
