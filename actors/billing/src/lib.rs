//! Wallets: ledger, holds, grants, plans.
//!
//! A tenant has one [`wallet`]. Whatever spends goes through it and through nothing else, so that
//! its books balance by themselves. [`numbers`] hands out integer ids, [`plans`] is the catalogue,
//! [`charging`] the port over which what a plan costs is collected, [`payments`] how money comes
//! in, [`subscription`] which plan a tenant is on, and [`plan_limits`] where everybody asks for it;
//! [`sign_up`] makes a person a user with a tenant and a wallet, [`new_member`] one whom another
//! tenant has asked for; [`verification`] is what the e-mail address is good for once it is
//! verified.

pub mod charging;
pub mod farewell;
pub mod new_member;
pub mod numbers;
pub mod payments;
pub mod plan_limits;
pub mod plans;
pub mod sign_up;
pub mod subscription;
pub mod tell;
pub mod verification;
pub mod wallet;

use supervision::system::SystemBuilder;

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    payments::register(builder)
        .kind::<wallet::Wallet>()
        .kind::<subscription::Subscription>()
        .kind::<numbers::Numbers>()
        .kind::<sign_up::SignUp>()
        .kind::<new_member::NewMember>()
}
