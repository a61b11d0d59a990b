//! How what a tenant owes in money is collected: the port between plans and payments.
//!
//! A plan knows what is due and when; payments know cards, providers and their webhooks. Neither
//! knows the other: a plan asks for a [`Charge`] under an id of its own, and is told the verdict by
//! the answer, or later, where somebody must first act.

use futures::future::BoxFuture;
use supervision::{Origin, Refusal};
use types::TenantId;

/// An amount that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Chosen by who charges: the same id is the same charge, however often it is asked for.
    pub id: u128,
    /// Who pays.
    pub tenant: TenantId,
    /// In cents of US dollars, above 0.
    pub amount_cents: i64,
    /// What it is for, as lists of payments show it (`subscription`).
    pub purpose: String,
    /// What it is for, as a person reads it.
    pub description: String,
}

/// What became of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charged {
    /// It is paid.
    Succeeded {
        /// The payment's id, as lists show it.
        payment: String,
    },
    /// The payer's bank wants the payer to act; the verdict comes later.
    RequiresAction {
        /// The payment's id.
        payment: String,
        /// With which the payer's page goes on. Shown to the payer alone.
        client_secret: String,
    },
    /// It was refused, with the provider's stable code (`card_declined`, `expired_card` …).
    Declined {
        /// The provider's code.
        code: String,
    },
    /// The tenant has no payment method.
    NoMethod,
}

/// Collects charges from a tenant's default payment method.
pub trait Charging: Send + Sync + 'static {
    /// Collects a charge, or says what became of it before.
    ///
    /// # Errors
    /// The provider cannot be reached, or it is unknown what became of it: to be asked for again
    /// under the same id.
    fn charge(
        &self,
        charge: Charge,
        origin: Origin,
    ) -> BoxFuture<'static, Result<Charged, Refusal>>;
}
