//! What a payment has done outside itself: its provider ordered or looked at, its wallet given what
//! it is owed, whoever charged it told. Every step may be repeated.

use supervision::{Address, Origin, Refusal, System};
use types::{Amount, GrantId, TransactionId};

use super::Payments;
use super::collect::charged;
use super::payment::{
    Fail, NoteSettled, NoteTold, Payment, PaymentEffect, PaymentView, Purpose, Step, Tell,
};
use super::provider::{Order, Placed, ProviderError};
use super::standing::Status;
use crate::wallet::{Grant, Kind, Reason, Reverse, Wallet, wallet_address};

pub(super) async fn perform(
    payments: &Payments,
    system: &System,
    address: &Address<Payment>,
    effect: PaymentEffect,
    origin: Origin,
) -> Result<(), Refusal> {
    let look = system.directory::<Payment>().look(address, origin.clone(), Payment::view).await?;
    let Some(view) = look else { return Ok(()) };
    match effect {
        PaymentEffect::Order if view.is_placed || !view.status.is_open() => Ok(()),
        PaymentEffect::Order => order(payments, system, address, view, &origin).await,
        PaymentEffect::Settle => settle(system, address, view, &origin).await.map(drop),
        PaymentEffect::Look => {
            let Some(intent) = view.intent else { return Ok(()) };
            payments.take_in(system, &intent, (None, None), &origin).await.map(drop)
        }
        PaymentEffect::Verdict => verdict(payments, system, address, view, &origin).await,
    }
}

/// Orders it: the payment's id is the key, so the provider does it once.
async fn order(
    payments: &Payments,
    system: &System,
    address: &Address<Payment>,
    view: PaymentView,
    origin: &Origin,
) -> Result<(), Refusal> {
    let asked = view.asked;
    let customer = payments.customer(system, asked.tenant, origin).await?;
    let order = Order {
        payment: asked.id,
        tenant: asked.tenant,
        amount_cents: asked.amount_cents,
        currency: asked.currency,
        description: asked.description,
        way: asked.way,
        customer,
        return_url: payments.return_url(),
    };
    let directory = system.directory::<Payment>();
    match payments.provider.place(order).await {
        Ok(Placed { intent, page }) => {
            let page_url = page.map(|(_, url)| url);
            let tell = Tell { intent, order: Some(page_url), news: None };
            let view = directory.ask(address, tell, origin.clone()).await?;
            settle(system, address, view, origin).await.map(drop)
        }
        // Nothing is known: it is ordered again, under the same key.
        Err(ProviderError::Unknown(why)) => {
            tracing::warn!(payment = %asked.id, why, "a payment is ordered again later");
            Ok(())
        }
        Err(error) => {
            let code = match error {
                ProviderError::Refused(code) => code,
                _ => "not_found".to_owned(),
            };
            let fail = Fail { status: Status::Failed, code, news: None };
            directory.ask(address, fail, origin.clone()).await
        }
    }
}

/// Has the wallet take what it is owed, one step after the other. Answers the payment as it is
/// then.
pub(super) async fn settle(
    system: &System,
    address: &Address<Payment>,
    view: PaymentView,
    origin: &Origin,
) -> Result<PaymentView, Refusal> {
    let directory = system.directory::<Payment>();
    for step in &view.owed {
        post(system, &view, *step, origin).await?;
        directory.ask(address, NoteSettled(*step), origin.clone()).await?;
    }
    Ok(PaymentView { owed: Vec::new(), ..view })
}

/// One step: the wallet knows its id, and takes it once.
async fn post(
    system: &System,
    view: &PaymentView,
    step: Step,
    origin: &Origin,
) -> Result<(), Refusal> {
    let asked = &view.asked;
    let (wallets, wallet) = (system.directory::<Wallet>(), wallet_address(asked.tenant));
    let amount = Amount::new(step.credits.abs());
    let credits = amount.map_err(|error| Refusal::invalid("tokens", error.to_string()))?;
    let is_first = step.id == asked.id.0;
    let description = Some(match (is_first, step.credits > 0) {
        (true, _) => asked.description.clone(),
        (false, true) => format!("Given back: {}", asked.description),
        (false, false) => format!("Taken back: {}", asked.description),
    });
    if step.credits < 0 {
        let id = TransactionId(step.id);
        let reverse = Reverse { id, credits, reason: Reason::Refund, description };
        return wallets.ask(&wallet, reverse, origin.clone()).await.map(drop);
    }
    let reason = if is_first { Reason::Topup } else { Reason::Adjustment };
    let grant = Grant {
        description,
        ..Grant::new(GrantId(step.id), asked.tenant, credits, Kind::Paid, reason)
    };
    wallets.ask(&wallet, grant, origin.clone()).await.map(drop)
}

/// Tells whoever charged it how it ended.
async fn verdict(
    payments: &Payments,
    system: &System,
    address: &Address<Payment>,
    view: PaymentView,
    origin: &Origin,
) -> Result<(), Refusal> {
    if !view.verdict_due || !matches!(view.asked.purpose, Purpose::Charge(_)) {
        return Ok(());
    }
    let (tenant, charge) = (view.asked.tenant, view.asked.id.0);
    let verdict = charged(&view, system.journal().keys());
    let told =
        payments.verdicts.settled(payments.system()?, (tenant, charge), verdict, origin.clone());
    told.await?;
    system.directory::<Payment>().ask(address, NoteTold, origin.clone()).await
}
