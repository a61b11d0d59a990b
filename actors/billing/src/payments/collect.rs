//! How what a plan costs is collected: a charge is a payment under the charge's own id, with the
//! default method, and with nobody there.

use futures::future::{BoxFuture, FutureExt as _};
use persistence::KeyRing;
use supervision::{Origin, Refusal};
use types::PaymentId;

use super::Payments;
use super::payment::{Asked, PaymentView, Purpose};
use super::provider::Way;
use super::standing::Status;
use super::top_up::CURRENCY;
use crate::charging::{Charge, Charged, Charging};

/// What a payment says of the charge that it is for.
pub(super) fn charged(view: &PaymentView, keys: &KeyRing) -> Charged {
    let payment = view.name();
    match view.status {
        Status::Succeeded | Status::PartiallyRefunded | Status::Refunded | Status::Disputed => {
            Charged::Succeeded { payment }
        }
        Status::Created | Status::Pending | Status::RequiresAction => {
            let client_secret = view.client_secret(keys).unwrap_or_default();
            Charged::RequiresAction { payment, client_secret }
        }
        Status::Failed | Status::Cancelled | Status::Mismatched => {
            let code = view.code.clone();
            Charged::Declined { code: code.unwrap_or_else(|| view.status.name().to_owned()) }
        }
    }
}

impl Charging for Payments {
    fn charge(
        &self,
        charge: Charge,
        origin: Origin,
    ) -> BoxFuture<'static, Result<Charged, Refusal>> {
        let system = self.system();
        async move {
            let system = system?;
            // It is a port of that system.
            let payments = system.port::<Payments>();
            let (id, tenant) = (PaymentId(charge.id), charge.tenant);
            let known = payments.look(&system, tenant, id, &origin).await?;
            let way = match known {
                Some(known) => known.asked.way,
                None => match payments.default_method(&system, tenant, &origin).await? {
                    Some(method) => Way::OffSession { method },
                    None => return Ok(Charged::NoMethod),
                },
            };
            let asked = Asked {
                id,
                tenant,
                user: None,
                tokens: 0,
                amount_cents: charge.amount_cents,
                currency: CURRENCY.to_owned(),
                purpose: Purpose::Charge(charge.purpose),
                description: charge.description,
                way,
            };
            let view = payments.begin(&system, asked, &origin).await?;
            Ok(charged(&view, system.journal().keys()))
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
