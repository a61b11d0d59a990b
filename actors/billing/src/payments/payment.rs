//! A payment: money that is to come in once, and what it is worth.
//!
//! It is durable before its provider is asked; its id is the key it is ordered under, and stands at
//! the provider beside the tenant's. What the provider says of it is taken in as it comes, twice,
//! late or early; what that is worth is owed to the wallet as steps, each with an id of its own,
//! which the wallet takes once.
//!
//! Invariants
//! - The steps sum to what the payment is worth ([`super::standing`]); the first is the payment's
//!   own id. What was recorded is owed until the wallet has it, a crash or not.
//! - It belongs to one intent. What came in otherwise than asked for is worth nothing.
//! - Whoever charged it is told how it ended, where that was not known at once.
//!
//! Rows: family [`PAYMENT_FAMILY`], a tenant's payments by when they were begun.
//!
//! Deliberate limits: its provider is looked at for [`LOOKED_AFTER_MS`] where news stay out; of the
//! news it knows the last [`NEWS_KEPT`].

mod commands;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use persistence::codec;
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Backoff, EffectContext, Entity, Process, Retried, RowDraft, Timestamp, Turn,
};
use types::{PaymentId, Sealed, TenantId, UserId, base32, home_of, owner_of_tenant, rfc3339};

use super::provider::{Intent, Way};
use super::standing::{Status, status_of, worth};
use super::{Payments, drive};

pub use commands::{Begin, Conclude, Fail, Tell};
pub(super) use commands::{NoteSettled, NoteTold};
#[cfg(test)]
pub(super) use tests::asked as sample;

/// The family of the payments' rows: keys are the tenant, when it was begun, and the payment.
pub const PAYMENT_FAMILY: &str = "payment";
/// How long the provider is looked at where no news come, in milliseconds: 7 days.
pub const LOOKED_AFTER_MS: i64 = 7 * 24 * 60 * 60 * 1_000;
/// How long it is tried to order it, in milliseconds: less than a provider remembers the key.
pub const ORDERED_WITHIN_MS: i64 = 20 * 60 * 60 * 1_000;
/// How many of the news that changed it are known again.
pub const NEWS_KEPT: usize = 16;
/// How often its worth may change.
pub const STEPS_MAX: usize = 64;
/// How the pauses grow between looks at what nobody has paid yet.
const LOOKING: Backoff = Backoff { first_ms: 60_000, max_ms: 6 * 60 * 60 * 1_000 };
/// How they grow while something is owed, to the provider or to the wallet.
const OWING: Backoff = Backoff { first_ms: 5_000, max_ms: 10 * 60 * 1_000 };
/// Under which label the client secret is sealed.
const SECRET_LABEL: &str = "payment.client_secret";

/// What a payment is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Somebody buys credits.
    TopUp,
    /// The wallet was low.
    AutoTopUp,
    /// Something that was asked for over the port [`crate::charging`], by its name.
    Charge(String),
}

impl Purpose {
    /// The name in lists.
    pub fn name(&self) -> &str {
        match self {
            Self::TopUp => "topup",
            Self::AutoTopUp => "auto_topup",
            Self::Charge(purpose) => purpose,
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The payment.
    pub id: PaymentId,
    /// Who pays.
    pub tenant: TenantId,
    /// Who asked, where it was a person.
    pub user: Option<UserId>,
    /// The credits that it buys; 0 where it buys something else.
    pub tokens: i64,
    /// In the currency's smallest unit, above 0.
    pub amount_cents: i64,
    /// ISO 4217, in lower case.
    pub currency: String,
    /// What for.
    pub purpose: Purpose,
    /// For the payer.
    pub description: String,
    /// How it is paid.
    pub way: Way,
}

impl Asked {
    /// Whether it is the same thing, whichever method pays it.
    fn is_same(&self, other: &Self) -> bool {
        let what = |it: &Self| (it.id, it.tenant, it.tokens, it.amount_cents);
        what(self) == what(other) && self.purpose == other.purpose
    }
}

/// A change of the wallet that the payment owes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Under which the wallet takes it once.
    pub id: u128,
    /// Signed, never 0.
    pub credits: i64,
}

/// A payment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Payment {
    asked: Option<Asked>,
    begun_at: Timestamp,
    intent: Option<String>,
    page_url: Option<String>,
    secret: Option<Sealed>,
    is_placed: bool,
    status: Status,
    code: Option<String>,
    receipt_url: Option<String>,
    completed_at: Option<Timestamp>,
    steps: Vec<Step>,
    settled: usize,
    verdict_due: bool,
    news: VecDeque<String>,
    attempts: u32,
    next_at: Timestamp,
}

supervision::events! {
    /// What happens to a payment.
    pub enum PaymentEvent {
        /// It is to be ordered.
        Begun(PaymentBegun) = "payment_begun", 1;
        /// The provider has it.
        Placed(PaymentPlaced) = "payment_placed", 1;
        /// It stands otherwise than before.
        Stood(PaymentStood) = "payment_stood", 1;
        /// The wallet has taken a step of it.
        Settled(PaymentSettled) = "payment_settled", 1;
        /// Whoever charged it knows how it ended.
        VerdictTold(VerdictTold) = "payment_verdict_told", 1;
        /// It is looked after once more.
        Retried(Retried) = "payment_retried", 1;
    }
}

/// It is to be ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentBegun {
    /// What is asked for.
    pub asked: Asked,
}

/// The provider has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentPlaced {
    /// The provider's intent, where it is known yet.
    pub intent: Option<String>,
    /// Where the payer pays.
    pub page_url: Option<String>,
    /// With which the payer's program goes on.
    pub secret: Option<Sealed>,
}

/// It stands otherwise than before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentStood {
    /// The provider's intent.
    pub intent: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Why it failed, the provider's code.
    pub code: Option<String>,
    /// What came in, in cents, and in which currency: for what was asked otherwise.
    pub received: Option<(i64, String)>,
    /// Where the receipt is.
    pub receipt_url: Option<String>,
    /// What the wallet is owed for it.
    pub step: Option<Step>,
    /// The news that said so.
    pub news: Option<String>,
    /// Whether it answers the order, so that whoever waits for that is told by it.
    pub is_answer: bool,
}

/// The wallet has taken a step of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentSettled {
    /// The step.
    pub step: Step,
}

/// Whoever charged it knows how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictTold {}

/// What a payment has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentEffect {
    /// Ordered at the provider.
    Order,
    /// The wallet given what it is owed.
    Settle,
    /// The provider looked at.
    Look,
    /// Whoever charged it told.
    Verdict,
}

/// What callers see of a payment.
#[derive(Clone, Debug, PartialEq)]
pub struct PaymentView {
    /// What was asked for.
    pub asked: Asked,
    /// Where it stands.
    pub status: Status,
    /// Why it failed.
    pub code: Option<String>,
    /// The provider's intent.
    pub intent: Option<String>,
    /// Where the payer pays.
    pub page_url: Option<String>,
    /// With which the payer's program goes on.
    pub secret: Option<Sealed>,
    /// Whether the provider has it.
    pub is_placed: bool,
    /// What the wallet is owed still.
    pub owed: Vec<Step>,
    /// Whether somebody is to be told how it ended.
    pub verdict_due: bool,
    /// When it was begun.
    pub begun_at: Timestamp,
}

impl PaymentView {
    /// How lists name it: the provider's intent, or the payment itself before there is one.
    pub fn name(&self) -> String {
        self.intent.clone().unwrap_or_else(|| self.asked.id.to_string())
    }

    /// The client secret, for the payer alone.
    pub fn client_secret(&self, keys: &persistence::KeyRing) -> Option<String> {
        let plain = self.secret.as_ref()?.open(keys, SECRET_LABEL)?;
        String::from_utf8(plain.to_vec()).ok()
    }
}

/// A payment in its tenant's list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentLine {
    /// How it is named.
    pub name: String,
    /// In the currency's smallest unit.
    pub amount_cents: i64,
    /// ISO 4217, in lower case.
    pub currency: String,
    /// The credits that it buys.
    pub tokens: i64,
    /// Where it stands.
    pub status: Status,
    /// What it is for.
    pub purpose: String,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// When it was paid.
    pub completed_at: Option<Timestamp>,
    /// Where the receipt is.
    pub receipt_url: Option<String>,
}

impl Payment {
    /// Where a tenant's payment lives.
    pub fn address(tenant: TenantId, id: PaymentId) -> Address<Self> {
        let address = Address::new(&base32(id.0), owner_of_tenant(tenant), home_of(tenant));
        address.unwrap_or_else(|| panic!("an id's digits are always a stream name"))
    }

    /// What callers see of it; `None` for one that was never begun.
    pub fn view(&self) -> Option<PaymentView> {
        Some(PaymentView {
            asked: self.asked.clone()?,
            status: self.status,
            code: self.code.clone(),
            intent: self.intent.clone(),
            page_url: self.page_url.clone(),
            secret: self.secret.clone(),
            is_placed: self.is_placed,
            owed: self.steps.get(self.settled..).unwrap_or_default().to_vec(),
            verdict_due: self.verdict_due,
            begun_at: self.begun_at,
        })
    }

    /// Whether these news have changed it before.
    pub fn knows(&self, news: &str) -> bool {
        self.news.iter().any(|known| known == news)
    }

    fn line(&self) -> Option<PaymentLine> {
        let asked = self.asked.as_ref()?;
        Some(PaymentLine {
            name: self.intent.clone().unwrap_or_else(|| asked.id.to_string()),
            amount_cents: asked.amount_cents,
            currency: asked.currency.clone(),
            tokens: asked.tokens,
            status: self.status,
            purpose: asked.purpose.name().to_owned(),
            begun_at: self.begun_at,
            completed_at: self.completed_at,
            receipt_url: self.receipt_url.clone(),
        })
    }

    /// Whether the order was answered. News that come before the answer do not stand for it, unless
    /// they say how it ended: only the answer has what the payer needs.
    fn is_ordered(&self) -> bool {
        self.is_placed || !self.status.is_open()
    }

    fn is_owing(&self) -> bool {
        !self.is_ordered() || self.settled < self.steps.len() || self.verdict_due
    }

    /// Whether it may yet be paid, so that it is worth a look.
    fn is_watched(&self, at: Timestamp) -> bool {
        let is_young = at < self.begun_at.plus_ms(LOOKED_AFTER_MS);
        let another_card = |asked: &Asked| !matches!(asked.way, Way::OffSession { .. });
        let is_retried =
            self.status == Status::Failed && self.asked.as_ref().is_some_and(another_card);
        self.intent.is_some() && (self.status.is_open() || is_retried) && is_young
    }

    /// What is to be done now.
    fn due_now(&self) -> Vec<PaymentEffect> {
        let effects = [
            (!self.is_ordered(), PaymentEffect::Order),
            (self.settled < self.steps.len(), PaymentEffect::Settle),
            (self.verdict_due, PaymentEffect::Verdict),
        ];
        let due = |(is_due, effect): (bool, PaymentEffect)| is_due.then_some(effect);
        if self.asked.is_none() {
            Vec::new()
        } else {
            effects.into_iter().filter_map(due).collect()
        }
    }

    fn schedule(&mut self, at: Timestamp) {
        let backoff = if self.is_owing() { OWING } else { LOOKING };
        self.attempts = self.attempts.saturating_add(1);
        self.next_at = at.plus_ms(backoff.pause_ms(self.attempts));
    }

    fn stand(&mut self, stood: &PaymentStood, at: Timestamp) {
        let was = std::mem::replace(&mut self.status, stood.status);
        self.code.clone_from(&stood.code);
        if stood.intent.is_some() {
            self.intent.clone_from(&stood.intent);
        }
        if stood.receipt_url.is_some() {
            self.receipt_url.clone_from(&stood.receipt_url);
        }
        if stood.status.is_paid() && self.completed_at.is_none() {
            self.completed_at = Some(at);
        }
        self.steps.extend(stood.step);
        if let Some(news) = &stood.news {
            self.news.push_back(news.clone());
            if self.news.len() > NEWS_KEPT {
                self.news.pop_front();
            }
        }
        // How an order went is answered to whoever waits for it; what comes later is told.
        let is_charge =
            self.asked.as_ref().is_some_and(|it| matches!(it.purpose, Purpose::Charge(_)));
        let is_later = !stood.is_answer && self.is_placed && was != stood.status && !was.is_paid();
        self.verdict_due |= is_charge && is_later && !stood.status.is_open();
    }

    /// What the provider's word changes; `None` for what is known, or older than what is known.
    fn judge(&self, asked: &Asked, intent: &Intent, new_id: u128) -> Option<PaymentStood> {
        let amount = (asked.amount_cents, asked.currency.as_str());
        let status = status_of(amount, &asked.way, intent);
        if self.status.is_paid() && (!status.is_paid() || status == Status::Mismatched)
            || self.status == Status::Mismatched
        {
            return None;
        }
        let is_worth = status.is_paid() && status != Status::Mismatched;
        let lost = intent.refunded_cents.saturating_add(intent.disputed_cents);
        let target = if is_worth { worth(asked.tokens, asked.amount_cents, lost) } else { 0 };
        let owed = self.steps.iter().map(|step| step.credits).sum::<i64>();
        let credits = if self.steps.len() < STEPS_MAX { target - owed } else { 0 };
        let id = if self.steps.is_empty() { asked.id.0 } else { new_id };
        let step = (credits != 0).then_some(Step { id, credits });
        let is_known = self.status == status && self.code == intent.code && step.is_none();
        if is_known && self.intent.is_some() {
            return None;
        }
        let received = (status == Status::Mismatched)
            .then(|| (intent.received_cents, intent.currency.clone()));
        Some(PaymentStood {
            intent: Some(intent.id.clone()),
            status,
            code: intent.code.clone(),
            received,
            receipt_url: intent.receipt_url.clone(),
            step,
            news: None,
            is_answer: false,
        })
    }
}

impl Entity for Payment {
    const KIND: &'static str = "payment";
    type Event = PaymentEvent;
    type Effect = PaymentEffect;

    fn apply(&mut self, event: &PaymentEvent, at: Timestamp) {
        let was_owing = self.is_owing();
        match event {
            PaymentEvent::Begun(begun) => {
                self.asked = Some(begun.asked.clone());
                self.begun_at = at;
            }
            PaymentEvent::Placed(placed) => {
                self.is_placed = true;
                if placed.intent.is_some() {
                    self.intent.clone_from(&placed.intent);
                }
                self.page_url.clone_from(&placed.page_url);
                self.secret.clone_from(&placed.secret);
                if self.status == Status::Created {
                    self.status = Status::Pending;
                }
            }
            PaymentEvent::Stood(stood) => self.stand(stood, at),
            PaymentEvent::Settled(_) => self.settled += 1,
            PaymentEvent::VerdictTold(_) => self.verdict_due = false,
            PaymentEvent::Retried(_) => return self.schedule(at),
        }
        // What is new is tried as if it were the first time.
        if self.attempts == 0 || self.is_owing() != was_owing {
            self.attempts = 0;
            self.schedule(at);
        }
    }

    fn rows(&self, event: &PaymentEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let shown = matches!(
            event,
            PaymentEvent::Begun(_) | PaymentEvent::Placed(_) | PaymentEvent::Stood(_)
        );
        let mut after = self.clone();
        after.apply(event, at);
        let (Some(asked), Some(line), true) = (&after.asked, after.line(), shown) else { return };
        let key = row_key(asked.tenant, after.begun_at, asked.id);
        // Numbers and texts of bounded length always encode; if not, the turn crashes unrecorded.
        let value =
            codec::encode(&line).unwrap_or_else(|error| panic!("a payment's line: {error}"));
        rows.push(RowDraft { family: PAYMENT_FAMILY, key, value: Some(value) });
    }

    fn is_pending(&self) -> bool {
        self.asked.is_some() && self.is_owing()
    }

    fn resume(&self) -> Vec<PaymentEffect> {
        self.due_now()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let waits = self.is_pending() || self.is_watched(self.next_at);
        (self.asked.is_some() && waits).then_some(self.next_at)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let (state, now) = (turn.state(), turn.now());
        if state.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        let mut effects = state.due_now();
        let is_hopeless = !state.is_ordered() && now >= state.begun_at.plus_ms(ORDERED_WITHIN_MS);
        if effects.is_empty() && state.is_watched(now) {
            effects.push(PaymentEffect::Look);
        }
        if is_hopeless {
            let stood = failed("provider_unreachable");
            return turn.record(PaymentEvent::Stood(stood));
        }
        turn.record(PaymentEvent::Retried(Retried {}));
        effects.into_iter().for_each(|effect| turn.effect(effect));
    }

    async fn perform(effect: PaymentEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let Some(payments) = system.find_port::<Payments>() else { return };
        if let Err(refusal) = drive::perform(&payments, &system, &address, effect, origin).await {
            tracing::debug!(%refusal, ?effect, "a payment is looked after later");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let asked = self.asked.as_ref();
        serde_json::json!({
            "tenant": asked.map(|it| it.tenant),
            "amount_cents": asked.map(|it| it.amount_cents),
            "currency": asked.map(|it| it.currency.clone()),
            "tokens": asked.map(|it| it.tokens),
            "type": asked.map(|it| it.purpose.name().to_owned()),
            "intent": self.intent,
            "status": self.status,
            "code": self.code,
            "credits_owed": self.steps.get(self.settled..).unwrap_or_default().iter()
                .map(|step| step.credits).collect::<Vec<_>>(),
            "attempts": self.attempts,
            "next_at": self.next_deadline().map(rfc3339),
        })
    }
}

impl Process for Payment {
    /// That the provider has answered to the order.
    type Outcome = ();

    fn outcome(&self) -> Option<()> {
        (self.asked.is_some() && self.is_ordered()).then_some(())
    }
}

/// What the keys of a tenant's payments begin with.
pub(super) fn row_prefix(tenant: TenantId) -> Vec<u8> {
    tenant.0.to_be_bytes().to_vec()
}

fn row_key(tenant: TenantId, begun_at: Timestamp, id: PaymentId) -> Vec<u8> {
    [row_prefix(tenant), begun_at.0.to_be_bytes().to_vec(), id.0.to_be_bytes().to_vec()].concat()
}

fn failed(code: &str) -> PaymentStood {
    PaymentStood {
        intent: None,
        status: Status::Failed,
        code: Some(code.to_owned()),
        received: None,
        receipt_url: None,
        step: None,
        news: None,
        is_answer: false,
    }
}
