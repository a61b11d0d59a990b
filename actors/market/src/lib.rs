//! Developers and their apps.
//!
//! [`developer`] is the kind of actor; [`service::Market`] is what the gateway calls;
//! [`developer_app::DeveloperApp`] is the app `developer`, through which versions are deployed and
//! tried. [`view`] is what callers see.

pub mod developer;
pub mod developer_app;
pub mod farewell;
pub mod service;
pub mod view;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use supervision::system::SystemBuilder;

pub use developer_app::DeveloperApp;
pub use service::{AppCreate, AppUpdate, DeveloperRegister, Market, Principal};

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<developer::Developer>()
}
