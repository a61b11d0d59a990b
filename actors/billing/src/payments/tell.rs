//! What payments tell: how each stands, what the wallet got for it, and what is bought by itself.
//! Ids, amounts and states; never a secret, never a card.

use activity::feed::{Audience, Source, Telling};
use activity::{ActionItem, ActionStatus, ActionType};
use serde_json::{Value, json};
use supervision::Event as _;

use super::account::BillingAccountEvent;
use super::payment::{PaymentEvent, PaymentStood};
use super::standing::Status;

/// What a reader of payments needs.
const PAY: &str = "wallet:pay";
/// What a reader of the wallet needs.
const READ: &str = "wallet:read";

fn telling(name: &'static str, needs: &'static str, data: Value) -> Telling {
    Telling::new(name, Audience::Tenant, data).needs(needs)
}

fn name_of(status: Status) -> &'static str {
    match status {
        Status::Created | Status::Pending => "payment.pending",
        Status::RequiresAction => "payment.requires_action",
        Status::Succeeded => "payment.succeeded",
        Status::Failed => "payment.failed",
        Status::Cancelled => "payment.cancelled",
        Status::PartiallyRefunded | Status::Refunded => "payment.refunded",
        Status::Disputed => "payment.disputed",
        Status::Mismatched => "payment.mismatched",
    }
}

fn of_stood(id: &str, stood: &PaymentStood) -> Telling {
    let data = json!({"payment_id": format!("pay_{id}"), "payment_intent_id": stood.intent,
        "status": stood.status.name(), "code": stood.code,
        "credits": stood.step.map(|step| step.credits)});
    telling(name_of(stood.status), PAY, data)
}

/// Tells what a payment's event means.
pub fn tell_payment(source: &mut Source<'_>) -> Vec<Telling> {
    let (header, id) = (source.header, source.id().to_owned());
    match PaymentEvent::decode(&header.event, header.event_version, source.payload) {
        Ok(PaymentEvent::Begun(begun)) => {
            let asked = begun.asked;
            let data = json!({"payment_id": asked.id, "amount_cents": asked.amount_cents,
                "currency": asked.currency, "tokens": asked.tokens,
                "type": asked.purpose.name()});
            vec![telling("payment.begun", PAY, data)]
        }
        Ok(PaymentEvent::Stood(stood)) => vec![of_stood(&id, &stood)],
        Ok(PaymentEvent::Settled(settled)) if settled.step.credits > 0 => {
            let data = json!({"payment_id": format!("pay_{id}"), "credits": settled.step.credits});
            vec![telling("wallet.topped_up", READ, data)]
        }
        Ok(PaymentEvent::Settled(settled)) => {
            let data = json!({"payment_id": format!("pay_{id}"), "credits": -settled.step.credits});
            vec![telling("wallet.taken_back", READ, data)]
        }
        _ => Vec::new(),
    }
}

/// Tells what an account's event means.
pub fn tell_account(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    match BillingAccountEvent::decode(&header.event, header.event_version, source.payload) {
        Ok(BillingAccountEvent::MethodsTold(told)) => {
            let data = json!({"count": told.methods.len()});
            vec![telling("payment_methods.changed", PAY, data)]
        }
        Ok(BillingAccountEvent::AutoBegun(begun)) => {
            let data = json!({"payment_id": begun.payment, "available": begun.available});
            vec![telling("auto_topup.begun", PAY, data)]
        }
        Ok(BillingAccountEvent::AutoEnded(ended)) => {
            let Some(reason) = ended.disabled else { return Vec::new() };
            let data = json!({"payment_id": ended.payment, "reason": reason});
            vec![telling("auto_topup.disabled", PAY, data)]
        }
        _ => Vec::new(),
    }
}

/// The action that a payment's record stands for.
pub fn describe_payment(event: &str, version: u16, payload: &[u8]) -> Vec<ActionItem> {
    let (tool, error) = match PaymentEvent::decode(event, version, payload) {
        Ok(PaymentEvent::Begun(_)) => ("begin_payment", None),
        Ok(PaymentEvent::Stood(stood)) => {
            let is_failed =
                matches!(stood.status, Status::Failed | Status::Cancelled | Status::Mismatched);
            let code = stood.code.unwrap_or_else(|| stood.status.name().to_owned());
            (name_of(stood.status), is_failed.then_some(code))
        }
        _ => return Vec::new(),
    };
    let status = if error.is_some() { ActionStatus::Error } else { ActionStatus::Success };
    vec![ActionItem {
        app_id: None,
        tool_name: tool.to_owned(),
        action_type: ActionType::System,
        status,
        price: 0,
        error,
        index: 0,
        confirmation: None,
    }]
}
