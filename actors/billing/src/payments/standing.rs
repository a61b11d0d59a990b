//! Where a payment stands, and how many credits it is worth then: pure functions of what was asked
//! and of what the provider says.
//!
//! Invariants
//! - What was paid is never unpaid again: snapshots that are older say nothing.
//! - Only what came in whole and in the right currency is worth anything.
//! - The credits of a payment follow what of its money is still here: refunds and disputes take
//!   their share, rounded in the payer's favour; what comes back is given back.

use serde::{Deserialize, Serialize};

use super::provider::{Intent, IntentStatus, Way};

/// The code of a charge that needs its payer.
const AUTHENTICATION: &str = "authentication_required";

/// Where a payment stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PaymentStatus)]
pub enum Status {
    /// It is to be ordered.
    #[default]
    Created,
    /// Nobody has paid yet.
    Pending,
    /// The payer must do something.
    RequiresAction,
    /// It is paid.
    Succeeded,
    /// The last attempt failed; it may yet be paid.
    Failed,
    /// It will not be paid.
    Cancelled,
    /// A part went back.
    PartiallyRefunded,
    /// All of it went back.
    Refunded,
    /// The payer disputes it, or has won.
    Disputed,
    /// Something else came in than was asked for: parked, and worth nothing until it is cleared up.
    Mismatched,
}

impl Status {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created | Self::Pending => "pending",
            Self::RequiresAction => "requires_action",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::PartiallyRefunded => "partially_refunded",
            Self::Refunded => "refunded",
            Self::Disputed => "disputed",
            Self::Mismatched => "mismatched",
        }
    }

    /// Whether money came in, whatever became of it.
    pub fn is_paid(self) -> bool {
        matches!(self, Self::Succeeded | Self::PartiallyRefunded | Self::Refunded | Self::Disputed)
            || self == Self::Mismatched
    }

    /// Whether nobody knows yet how it ends.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Created | Self::Pending | Self::RequiresAction)
    }
}

/// Where a payment of `amount_cents` of `currency` stands by what its provider says.
pub(crate) fn status_of(
    (amount_cents, currency): (i64, &str),
    way: &Way,
    intent: &Intent,
) -> Status {
    let failed = match (way, intent.code.as_deref()) {
        (_, None) => Status::Pending,
        (Way::OffSession { .. }, Some(AUTHENTICATION)) => Status::RequiresAction,
        (_, Some(_)) => Status::Failed,
    };
    match intent.status {
        IntentStatus::RequiresMethod => failed,
        IntentStatus::RequiresAction => Status::RequiresAction,
        IntentStatus::Processing => Status::Pending,
        IntentStatus::Cancelled => Status::Cancelled,
        IntentStatus::Succeeded => {
            let is_what_was_asked =
                intent.received_cents == amount_cents && intent.currency == currency;
            match (intent.disputed_cents, intent.refunded_cents) {
                _ if !is_what_was_asked => Status::Mismatched,
                (1.., _) => Status::Disputed,
                (_, refunded) if refunded >= amount_cents => Status::Refunded,
                (_, 1..) => Status::PartiallyRefunded,
                _ => Status::Succeeded,
            }
        }
    }
}

/// How many of `tokens` a payment of `amount_cents` is worth, of which `lost_cents` are not here.
pub(crate) fn worth(tokens: i64, amount_cents: i64, lost_cents: i64) -> i64 {
    let lost = i128::from(lost_cents.clamp(0, amount_cents));
    let taken = i128::from(tokens) * lost / i128::from(amount_cents.max(1));
    // At most `tokens`, since no more than the amount is lost.
    tokens - taken as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(status: IntentStatus) -> Intent {
        Intent {
            id: "pi_1".to_owned(),
            payment: None,
            status,
            received_cents: if status == IntentStatus::Succeeded { 500 } else { 0 },
            currency: "usd".to_owned(),
            refunded_cents: 0,
            disputed_cents: 0,
            client_secret: None,
            code: None,
            receipt_url: None,
        }
    }

    fn stands(intent: &Intent) -> Status {
        status_of((500, "usd"), &Way::Checkout, intent)
    }

    #[test]
    fn only_the_right_amount_in_the_right_currency_is_a_success() {
        let paid = intent(IntentStatus::Succeeded);
        assert_eq!(stands(&paid), Status::Succeeded);
        for received_cents in [0, 499, 501] {
            assert_eq!(stands(&Intent { received_cents, ..paid.clone() }), Status::Mismatched);
        }
        let foreign = Intent { currency: "jpy".to_owned(), ..paid.clone() };
        assert_eq!(stands(&foreign), Status::Mismatched);
        let part = Intent { refunded_cents: 1, ..paid.clone() };
        assert_eq!(stands(&part), Status::PartiallyRefunded);
        let all = Intent { refunded_cents: 500, ..paid.clone() };
        assert_eq!(stands(&all), Status::Refunded);
        assert_eq!(stands(&Intent { disputed_cents: 500, ..paid }), Status::Disputed);
    }

    #[test]
    fn a_bank_that_wants_its_payer_is_no_failure_of_a_charge_with_nobody_there() {
        let code = Some("authentication_required".to_owned());
        let wanted = Intent { code, ..intent(IntentStatus::RequiresMethod) };
        let off_session = Way::OffSession { method: "pm_1".to_owned() };
        assert_eq!(status_of((500, "usd"), &off_session, &wanted), Status::RequiresAction);
        let declined = Intent { code: Some("card_declined".to_owned()), ..wanted };
        assert_eq!(status_of((500, "usd"), &off_session, &declined), Status::Failed);
        let fresh = Intent { code: None, ..declined };
        assert_eq!(stands(&fresh), Status::Pending);
    }

    #[test]
    fn what_went_back_is_worth_nothing_and_no_rounding_takes_from_the_payer() {
        assert_eq!(worth(1_000, 500, 0), 1_000);
        assert_eq!(worth(1_000, 500, 500), 0);
        assert_eq!(worth(1_000, 500, 900), 0, "no more than all of it");
        assert_eq!(worth(10, 3, 1), 7);
        assert_eq!(worth(i64::MAX, i64::MAX, i64::MAX), 0);
    }
}
