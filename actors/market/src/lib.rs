//! Developers and their apps.
//!
//! [`developer`] is the kind of actor; [`service::Market`] is what the gateway calls;
//! [`developer_app::DeveloperApp`] is the app `developer`, through which versions are deployed and
//! tried. [`view`] is what callers see. [`freeze`] is the kind of actor that stops a tenant, a user
//! or an app; [`freezer::Freezer`] is what the gateway calls for that.

pub mod developer;
pub mod developer_app;
pub mod farewell;
pub mod freeze;
pub mod freezer;
pub mod service;
pub mod view;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use supervision::system::SystemBuilder;

pub use developer_app::DeveloperApp;
pub use freezer::{Freezer, Traffic};
pub use service::{AppCreate, AppUpdate, DeveloperRegister, Market, Principal};

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<developer::Developer>().kind::<freeze::Freeze>()
}
