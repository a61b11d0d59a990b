//! Apps: who develops them, what they cost, and the immutable versions that were deployed.
//!
//! An [`app::App`] is one entity, owned by the app itself, so that what every tenant reads of it is
//! in one place; its records are in its developer's chain. [`pricing`] says what a call costs,
//! [`registration`] is what the registry knows of an app besides.

pub mod app;
pub mod pricing;
pub mod registration;
pub mod tell;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use supervision::system::SystemBuilder;

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<app::App>().kind::<registration::Registration>()
}
