//! What a subscription's records tell to the tenant's readers, and what actions they stand for.
//!
//! What is told needs the scope that reading the wallet needs, and holds no secret: with what a
//! payer goes on is in the answer to who ordered alone.

use activity::feed::{Audience, Source, Telling};
use activity::{ActionItem, ActionStatus, ActionType};
use serde_json::{Value, json};
use supervision::Event as _;
use types::rfc3339;

use super::SubscriptionEvent;
use super::terms::Status;

/// What a reader needs.
const READ: &str = "wallet:read";

/// Tells what a subscription's event means.
pub fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = SubscriptionEvent::decode(&header.event, header.event_version, source.payload);
    let told = event.ok().and_then(|event| told(&event));
    let telling = |(name, data)| Telling::new(name, Audience::Tenant, data).needs(READ);
    told.map(telling).into_iter().collect()
}

/// The name of an event of the feed, and its data.
fn told(event: &SubscriptionEvent) -> Option<(&'static str, Value)> {
    Some(match event {
        SubscriptionEvent::PeriodBegun(it) => {
            let ends = types::plus_months(it.anchor, it.until_month);
            let name = match it.from_month {
                0 => "subscription.begun",
                _ => "subscription.renewed",
            };
            let data = json!({"plan": it.choice.plan, "period": it.choice.period,
                "billing_mode": it.mode, "expires_at": rfc3339(ends)});
            (name, data)
        }
        SubscriptionEvent::PlanChanged(it) => {
            ("subscription.changed", json!({"plan": it.plan, "from": it.from}))
        }
        SubscriptionEvent::ChangeScheduled(it) => {
            let next = it.next.as_ref();
            let data = json!({"plan": next.map(|next| next.plan.as_str()),
                "period": next.map(|next| next.period)});
            ("subscription.change_scheduled", data)
        }
        SubscriptionEvent::CancellationSet(it) => {
            ("subscription.cancellation", json!({"cancel_at_period_end": it.at_period_end}))
        }
        SubscriptionEvent::FellDue(it) => {
            ("subscription.past_due", json!({"retry_at": rfc3339(it.retry_at)}))
        }
        SubscriptionEvent::Ended(it) => {
            let name = match it.status {
                Status::Expired => "subscription.expired",
                _ => "subscription.cancelled",
            };
            (name, json!({"status": it.status}))
        }
        SubscriptionEvent::ChargePaid(it) => {
            let data = json!({"plan": it.what.choice().plan, "amount_cents": it.amount_cents,
                "payment": it.payment});
            ("subscription.paid", data)
        }
        SubscriptionEvent::ChargeDeclined(it) => {
            let data = json!({"plan": it.what.choice().plan, "amount_cents": it.amount_cents,
                "code": it.code});
            ("subscription.payment_failed", data)
        }
        SubscriptionEvent::ChargeUndecided(it) => {
            ("subscription.payment_action_required", json!({"payment": it.payment}))
        }
        SubscriptionEvent::PaymentUnplaced(it) => {
            let data = json!({"payment": it.payment, "amount_cents": it.amount_cents});
            ("subscription.payment_unplaced", data)
        }
        SubscriptionEvent::PlanCredits(_)
        | SubscriptionEvent::ChargeBegun(_)
        | SubscriptionEvent::ChargeAskedAgain(_)
        | SubscriptionEvent::ChargeGivenUp(_)
        | SubscriptionEvent::WalletTold(_)
        | SubscriptionEvent::Retried(_) => return None,
    })
}

/// The action that a subscription's record stands for: what happened, under its own name; a charge
/// that was refused is an error.
pub fn describe(event: &str, version: u16, payload: &[u8]) -> Vec<ActionItem> {
    let Ok(decoded) = SubscriptionEvent::decode(event, version, payload) else { return Vec::new() };
    let error = match decoded {
        SubscriptionEvent::ChargeDeclined(it) => Some(it.code),
        _ => None,
    };
    vec![ActionItem {
        app_id: None,
        tool_name: event.to_owned(),
        action_type: ActionType::System,
        status: if error.is_some() { ActionStatus::Error } else { ActionStatus::Success },
        price: 0,
        error,
        index: 0,
        confirmation: None,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::charges::{ChargeDeclined, ChargeUndecided, What};
    use crate::subscription::terms::{Choice, Period};

    #[test]
    fn a_refused_payment_is_an_error_and_what_is_told_names_its_code() {
        let what = What::Begin(Choice { plan: "pro".to_owned(), period: Period::Monthly });
        let (charge, amount_cents, code) = (5, 4_500, "expired_card".to_owned());
        let declined = ChargeDeclined { charge, what, amount_cents, code };
        let declined = SubscriptionEvent::ChargeDeclined(declined);
        let items = describe(declined.name(), declined.version(), &declined.encode().unwrap());
        assert_eq!(items[0].tool_name, "charge_declined");
        assert_eq!(items[0].error.as_deref(), Some("expired_card"));
        let (name, data) = told(&declined).unwrap();
        assert_eq!((name, &data["code"]), ("subscription.payment_failed", &json!("expired_card")));
        let undecided = ChargeUndecided { charge, payment: "pi_1".to_owned() };
        let (_, data) = told(&SubscriptionEvent::ChargeUndecided(undecided)).unwrap();
        assert_eq!(data, json!({"payment": "pi_1"}), "and no more");
        assert!(describe("charge_declined", 1, &[9]).is_empty());
    }
}
