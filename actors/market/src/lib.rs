//! Developers, their apps, and the marketplace where others find them.
//!
//! [`service::Market`] is what the gateway calls; [`portal`] and [`marketplace`] are further parts
//! of it, for developers and for everybody. [`developer`] is a developer, with a [`tier`] that
//! the apps' [`shares`] follow;
//! [`listing`] what is counted of an app, with its [`review`]s; [`install`] that a user has an app,
//! on [`terms`] that calls ask [`consents`] about. [`storefront`] is what is shown, in memory, with
//! its [`search`]. The [`bookkeeper`] credits [`earnings`] with what wallets settle; a [`payout`]
//! is how they leave; a [`statement`] tells both. [`checks`] are made before a review; [`desk`] is
//! what whoever reviews looks at.
//!
//! [`developer_app::DeveloperApp`] is the app `developer`, through which versions are deployed and
//! tried. [`view`] is what callers see. [`freeze`] is the kind of actor that stops a tenant, a user
//! or an app; [`freezer::Freezer`] is what the gateway calls for that.

pub mod bookkeeper;
pub mod checks;
pub mod consents;
pub mod desk;
pub mod developer;
pub mod developer_app;
pub mod earnings;
pub mod farewell;
pub mod figures;
pub mod freeze;
pub mod freezer;
pub mod install;
pub mod listing;
pub mod marketplace;
mod ownership;
pub mod payout;
pub mod policy;
pub mod portal;
pub mod registry;
pub mod review;
pub mod search;
pub mod service;
pub mod shares;
pub mod statement;
pub mod storefront;
pub mod tell;
pub mod terms;
pub mod tier;
pub mod view;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use supervision::system::SystemBuilder;

pub use bookkeeper::Bookkeeper;
pub use developer_app::DeveloperApp;
pub use freezer::{Freezer, Traffic};
pub use policy::MarketSettings;
pub use service::{AppCreate, AppUpdate, DeveloperRegister, Market, Principal};

pub use storefront::Storefront;

/// Registers this crate's kinds, and the ports that they ask.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder
        .kind::<developer::Developer>()
        .kind::<freeze::Freeze>()
        .kind::<listing::Listing>()
        .kind::<install::Install>()
        .kind::<earnings::Earnings>()
        .port(Storefront::new())
        .port(consents::Consents::port())
        .port(policy::Rates::new())
}
