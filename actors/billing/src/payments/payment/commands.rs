//! What is asked of a payment, in the order of its life.

use persistence::KeyId;
use supervision::address::TENANT_KEY_CLASS;
use supervision::{Command, Handle, Refusal, Turn};
use types::Sealed;

use super::{
    Asked, Payment, PaymentBegun, PaymentEffect, PaymentEvent, PaymentPlaced, PaymentSettled,
    PaymentStood, PaymentView, SECRET_LABEL, Step, VerdictTold, failed,
};
use crate::payments::provider::Intent;
use crate::payments::standing::Status;

/// Begins a payment. The same again is no change; another under its id is 409 `id_reused`.
pub struct Begin(pub Asked);

impl Command for Begin {
    const NAME: &'static str = "begin_payment";
}

impl Handle<Begin> for Payment {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Begin(asked): Begin) -> Result<(), Refusal> {
        match &turn.state().asked {
            Some(known) if known.is_same(&asked) => return Ok(()),
            Some(_) => {
                let message = "this payment's id was used for another; use a new one";
                return Err(Refusal::conflict("id_reused", message));
            }
            None => {}
        }
        if asked.amount_cents <= 0 || asked.tokens < 0 {
            return Err(Refusal::invalid("amount_cents", "must be above 0"));
        }
        turn.record(PaymentEvent::Begun(PaymentBegun { asked }));
        turn.effect(PaymentEffect::Order);
        Ok(())
    }
}

/// Takes in what the provider says: of an order that it was given, or by news, or by a look.
pub struct Tell {
    /// The intent now.
    pub intent: Option<Intent>,
    /// Set when this answers the order: where the payer pays, if there is a page.
    pub order: Option<Option<String>>,
    /// Which news say so.
    pub news: Option<String>,
}

impl Command for Tell {
    const NAME: &'static str = "tell_payment";
    const ESSENTIAL: bool = true;
}

impl Handle<Tell> for Payment {
    type Reply = PaymentView;

    fn handle(turn: &mut Turn<'_, Self>, command: Tell) -> Result<PaymentView, Refusal> {
        let Tell { intent, order, news } = command;
        let asked = turn.state().asked.clone().ok_or_else(|| Refusal::not_found("payment"))?;
        let known = turn.state().intent.as_ref();
        let is_other = |it: &Intent| known.is_some_and(|known| *known != it.id);
        if intent.as_ref().is_some_and(is_other) {
            let message = "this payment belongs to another intent";
            return Err(Refusal::conflict("another_intent", message));
        }
        let secret = intent.as_ref().and_then(|it| it.client_secret.clone());
        let key = KeyId { class: TENANT_KEY_CLASS, id: asked.tenant.0 };
        let seal = |plain: String| Sealed::seal(turn.keys(), key, SECRET_LABEL, plain.as_bytes());
        let secret = secret.map(|secret| seal(secret.0)).transpose()?;
        let new_id = turn.new_id();
        // News may have come before the answer to the order: then they know more than it does.
        let (is_answer, is_stale) = (order.is_some(), order.is_some() && turn.state().is_ordered());
        if let Some(page_url) = order
            && !turn.state().is_placed
        {
            let intent = intent.as_ref().map(|it| it.id.clone());
            turn.record(PaymentEvent::Placed(PaymentPlaced { intent, page_url, secret }));
        }
        let stood = intent.as_ref().and_then(|it| turn.state().judge(&asked, it, new_id));
        if let Some(stood) = stood.filter(|_| !is_stale) {
            alarm(&asked, &stood);
            turn.record(PaymentEvent::Stood(PaymentStood { news, is_answer, ..stood }));
            let due = turn.state().due_now();
            due.into_iter().for_each(|effect| turn.effect(effect));
        }
        turn.state().view().ok_or_else(|| Refusal::not_found("payment"))
    }
}

/// What an operator must look at.
fn alarm(asked: &Asked, stood: &PaymentStood) {
    let (payment, tenant) = (asked.id, asked.tenant);
    match stood.status {
        Status::Mismatched => {
            let received = stood.received.as_ref();
            tracing::error!(%payment, %tenant, expected = asked.amount_cents, ?received,
                "a payment came in otherwise than asked for: it is parked and not credited");
        }
        Status::Disputed => tracing::warn!(%payment, %tenant, "a payment is disputed"),
        _ => {}
    }
}

/// Says that the provider will not have it, or that its page is closed.
pub struct Fail {
    /// What it comes to: [`Status::Failed`] or [`Status::Cancelled`].
    pub status: Status,
    /// The stable code.
    pub code: String,
    /// Which news say so.
    pub news: Option<String>,
}

impl Command for Fail {
    const NAME: &'static str = "fail_payment";
    const ESSENTIAL: bool = true;
}

impl Handle<Fail> for Payment {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Fail) -> Result<(), Refusal> {
        let Fail { status, code, news } = command;
        if turn.state().asked.is_none() {
            return Err(Refusal::not_found("payment"));
        }
        if turn.state().status.is_open() {
            let stood = PaymentStood { status, news, ..failed(&code) };
            turn.record(PaymentEvent::Stood(stood));
            let due = turn.state().due_now();
            due.into_iter().for_each(|effect| turn.effect(effect));
        }
        Ok(())
    }
}

/// Notes that the wallet has taken a step. A repetition is no change.
pub(in crate::payments) struct NoteSettled(pub(in crate::payments) Step);

impl Command for NoteSettled {
    const NAME: &'static str = "note_payment_settled";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteSettled> for Payment {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, NoteSettled(step): NoteSettled) -> Result<(), Refusal> {
        let state = turn.state();
        if state.steps.get(state.settled) == Some(&step) {
            turn.record(PaymentEvent::Settled(PaymentSettled { step }));
        }
        Ok(())
    }
}

/// Notes that whoever charged it was told.
pub(in crate::payments) struct NoteTold;

impl Command for NoteTold {
    const NAME: &'static str = "note_verdict_told";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteTold> for Payment {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: NoteTold) -> Result<(), Refusal> {
        if turn.state().verdict_due {
            turn.record(PaymentEvent::VerdictTold(VerdictTold {}));
        }
        Ok(())
    }
}

/// Answers where it stands: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude_payment";
    const ESSENTIAL: bool = true;
}

impl Handle<Conclude> for Payment {
    type Reply = PaymentView;

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<PaymentView, Refusal> {
        turn.state().view().ok_or_else(|| Refusal::not_found("payment"))
    }
}
