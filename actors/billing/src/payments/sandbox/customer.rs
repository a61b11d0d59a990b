//! A customer of the sandbox provider: its cards, its intents, and the news of them that are still
//! to be told.
//!
//! Invariants
//! - An intent is made once for a payment, and paid once.
//! - Each change of one is told, again after a restart, until it was heard.
//!
//! Deliberate limits: [`INTENTS_KEPT`] intents are kept; beyond that the oldest that is no longer
//! open goes, and is then not known.

mod commands;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use supervision::{
    Address, Backoff, EffectContext, Entity, Refusal, Retried, Retry, Retrying, Timestamp, Turn,
};
use types::{PaymentId, TenantId, base32, home_of, owner_of_tenant};

use super::{INTENT, name};
use crate::payments::Payments;
use crate::payments::provider::{About, IntentStatus, Method, News, Way};

use commands::NoteHeard;
pub use commands::Opened;
pub(super) use commands::{
    Act, Attach, Detach, Dispute, Fetch, List, MakeDefault, MakeIntent, MakePortal, MakeSetUp,
    Open, OpenPortal, Refund,
};
#[cfg(test)]
pub(in crate::payments) use tests::samples;

/// How many intents of a customer are kept.
pub const INTENTS_KEPT: usize = 1_000;
/// How many setups and portals of a customer are open, at most; the oldest goes.
const DOORS_KEPT: usize = 20;
/// How many refunds of one intent are known again.
const REFUNDS_KEPT: usize = 50;

/// A card of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Card {
    /// Its charges are paid.
    Visa,
    /// They are declined.
    Declined,
    /// The payer must confirm them first.
    Action,
}

impl Card {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Visa, Self::Declined, Self::Action];

    /// The id of its method.
    pub fn method(self) -> &'static str {
        match self {
            Self::Visa => "pm_sandbox_visa",
            Self::Declined => "pm_sandbox_declined",
            Self::Action => "pm_sandbox_action",
        }
    }

    /// The card of a method's id.
    pub fn of_method(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|card| card.method() == id)
    }

    fn shown(self, is_default: bool) -> Method {
        let last4 = match self {
            Self::Visa => "4242",
            Self::Declined => "0002",
            Self::Action => "3155",
        };
        Method {
            id: self.method().to_owned(),
            r#type: "card".to_owned(),
            brand: "visa".to_owned(),
            last4: last4.to_owned(),
            exp_month: 12,
            exp_year: 2_099,
            is_default,
        }
    }
}

/// An intent of the sandbox.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxIntent {
    /// The payment that it is for.
    pub payment: PaymentId,
    /// Who pays.
    pub tenant: TenantId,
    /// With which its payer goes on.
    pub(super) secret: String,
    /// Cents.
    pub amount_cents: i64,
    /// ISO 4217, in lower case.
    pub currency: String,
    /// For the payer.
    pub description: String,
    /// How it is paid.
    pub way: Way,
    /// Where it stands.
    pub status: IntentStatus,
    /// The card that waits to be confirmed.
    pub card: Option<Card>,
    /// What came in.
    pub received_cents: i64,
    /// What went back.
    pub refunded_cents: i64,
    /// What is disputed.
    pub disputed_cents: i64,
    /// Why the last attempt failed.
    pub code: Option<String>,
    refunds: VecDeque<u128>,
}

impl std::fmt::Debug for SandboxIntent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SandboxIntent({}, {:?})", self.payment, self.status)
    }
}

impl SandboxIntent {
    /// Charges a card.
    fn charge(&mut self, card: Card, is_confirmed: bool) {
        (self.card, self.code) = (Some(card), None);
        match (card, is_confirmed) {
            (Card::Visa, _) | (Card::Action, true) => {
                self.status = IntentStatus::Succeeded;
                self.received_cents = self.amount_cents;
            }
            (Card::Action, false) => self.status = IntentStatus::RequiresAction,
            (Card::Declined, _) => {
                self.status = IntentStatus::RequiresMethod;
                self.code = Some("card_declined".to_owned());
            }
        }
    }
}

/// A customer of the sandbox provider.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxCustomer {
    cards: Vec<Card>,
    default: Option<Card>,
    intents: BTreeMap<PaymentId, SandboxIntent>,
    /// The payments of the intents, the oldest first.
    order: VecDeque<PaymentId>,
    doors: VecDeque<Door>,
    news: VecDeque<SandboxNews>,
    retry: Retry,
}

/// What may be opened with a secret: a setup or a portal.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Door {
    number: u128,
    secret: String,
    is_portal: bool,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Door({}, [redacted])", base32(self.number))
    }
}

/// News that are to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxNews {
    /// Which.
    pub id: u128,
    /// Whose customer.
    pub tenant: TenantId,
    /// About which payment's intent.
    pub payment: PaymentId,
}

supervision::events! {
    /// What happens to a customer of the sandbox provider.
    pub enum SandboxEvent {
        /// An intent is as it is now.
        Intent(IntentSet) = "sandbox_provider_intent_set", 1;
        /// The cards are these.
        Cards(CardsSet) = "sandbox_provider_cards_set", 1;
        /// Something may be opened.
        Door(DoorMade) = "sandbox_provider_door_made", 1;
        /// News were heard.
        Heard(NewsHeard) = "sandbox_provider_news_heard", 1;
        /// News are told again.
        Retried(Retried) = "sandbox_provider_retried", 1;
    }
}

/// An intent is as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentSet {
    /// The intent.
    pub intent: SandboxIntent,
    /// The news of it.
    pub news: SandboxNews,
}

/// The cards are these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardsSet {
    /// All of them.
    pub cards: Vec<Card>,
    /// The default one.
    pub default: Option<Card>,
}

/// Something may be opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoorMade {
    /// What.
    pub door: Door,
}

/// News were heard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewsHeard {
    /// Which.
    pub id: u128,
}

/// What a customer has done.
#[derive(Clone, Copy, Debug)]
pub enum SandboxEffect {
    /// News told.
    Tell(SandboxNews),
}

impl SandboxCustomer {
    /// Where a tenant's lives.
    pub fn address(tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant));
        address.unwrap_or_else(|| panic!("an id's digits are always a stream name"))
    }

    fn methods(&self) -> Vec<Method> {
        self.cards.iter().map(|card| card.shown(self.default == Some(*card))).collect()
    }

    fn intent(&self, payment: PaymentId) -> Result<&SandboxIntent, Refusal> {
        self.intents.get(&payment).ok_or_else(|| Refusal::not_found("intent"))
    }

    fn door(&self, number: u128, secret: &str, is_portal: bool) -> Result<(), Refusal> {
        let fits = |door: &Door| {
            (door.number, door.is_portal) == (number, is_portal) && door.secret == secret
        };
        self.doors.iter().any(fits).then_some(()).ok_or_else(|| Refusal::not_found("page"))
    }

    /// The oldest intent that may go.
    fn oldest_over(&self) -> Option<usize> {
        let is_over = |payment: &PaymentId| {
            let intent = self.intents.get(payment);
            intent.is_none_or(|it| {
                matches!(it.status, IntentStatus::Succeeded | IntentStatus::Cancelled)
            })
        };
        self.order.iter().position(is_over)
    }

    fn take(&mut self, intent: &SandboxIntent) {
        if self.intents.insert(intent.payment, intent.clone()).is_some() {
            return;
        }
        self.order.push_back(intent.payment);
        if self.order.len() > INTENTS_KEPT {
            let place = self.oldest_over().unwrap_or(0);
            if let Some(gone) = self.order.remove(place) {
                self.intents.remove(&gone);
            }
        }
    }
}

impl Entity for SandboxCustomer {
    const KIND: &'static str = "sandbox_customer";
    type Event = SandboxEvent;
    type Effect = SandboxEffect;

    fn apply(&mut self, event: &SandboxEvent, at: Timestamp) {
        match event {
            SandboxEvent::Intent(set) => {
                self.take(&set.intent);
                if self.news.is_empty() {
                    self.retry = Retry::begin(at, Backoff::USUAL);
                }
                self.news.push_back(set.news);
            }
            SandboxEvent::Cards(set) => {
                self.cards.clone_from(&set.cards);
                self.default = set.default;
            }
            SandboxEvent::Door(made) => {
                self.doors.push_back(made.door.clone());
                if self.doors.len() > DOORS_KEPT {
                    self.doors.pop_front();
                }
            }
            SandboxEvent::Heard(heard) => self.news.retain(|news| news.id != heard.id),
            SandboxEvent::Retried(_) => self.retry.again(at, Backoff::USUAL),
        }
    }

    fn is_pending(&self) -> bool {
        !self.news.is_empty()
    }

    fn resume(&self) -> Vec<SandboxEffect> {
        self.news.iter().map(|news| SandboxEffect::Tell(*news)).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(SandboxEffect::Tell(told): SandboxEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let Some(payments) = system.find_port::<Payments>() else { return };
        let about = About::Intent(name(INTENT, told.tenant, told.payment.0));
        let news = News { id: format!("evt_sandbox_{}", base32(told.id)), about };
        match payments.hear(&system, news, &origin).await {
            // What may pass is told again by the reminder.
            Err(refusal) if refusal.class.may_pass() => {
                tracing::debug!(%refusal, "news of the sandbox provider are told later");
                return;
            }
            Err(refusal) => tracing::warn!(%refusal, "news of the sandbox provider were refused"),
            Ok(_) => {}
        }
        let customers = system.directory::<Self>();
        if let Err(refusal) = customers.ask(&address, NoteHeard { id: told.id }, origin).await {
            tracing::debug!(%refusal, "news of the sandbox provider are told again");
        }
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({
            "cards": self.cards.iter().map(|card| card.method()).collect::<Vec<_>>(),
            "default": self.default.map(Card::method),
            "intents": self.intents.len(),
            "untold_news": self.news.len(),
        })
    }
}

impl Retrying for SandboxCustomer {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> SandboxEvent {
        SandboxEvent::Retried(Retried {})
    }
}
