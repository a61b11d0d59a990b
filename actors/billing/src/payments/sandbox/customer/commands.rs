//! What is asked of a customer of the sandbox provider.

use supervision::{Command, Handle, Refusal, Turn};
use types::{PaymentId, TenantId, base32};

use super::{
    Card, CardsSet, Door, DoorMade, IntentSet, NewsHeard, REFUNDS_KEPT, SandboxCustomer,
    SandboxEffect, SandboxEvent, SandboxIntent, SandboxNews,
};
use crate::payments::provider::{IntentStatus, Method, Way};

/// Sets an intent, and tells of it.
fn set(turn: &mut Turn<'_, SandboxCustomer>, intent: SandboxIntent) {
    let news = SandboxNews { id: turn.new_id(), tenant: intent.tenant, payment: intent.payment };
    turn.record(SandboxEvent::Intent(IntentSet { intent, news }));
    turn.effect(SandboxEffect::Tell(news));
}

fn set_cards(turn: &mut Turn<'_, SandboxCustomer>, cards: Vec<Card>, default: Option<Card>) {
    let default = default.filter(|card| cards.contains(card)).or(cards.first().copied());
    if (&cards, default) != (&turn.state().cards, turn.state().default) {
        turn.record(SandboxEvent::Cards(CardsSet { cards, default }));
    }
}

fn add_card(turn: &mut Turn<'_, SandboxCustomer>, card: Card) {
    let mut cards = turn.state().cards.clone();
    if !cards.contains(&card) {
        cards.push(card);
    }
    let default = turn.state().default;
    set_cards(turn, cards, default);
}

fn make_door(turn: &mut Turn<'_, SandboxCustomer>, number: u128, is_portal: bool) -> String {
    let secret = base32(turn.new_id());
    let door = Door { number, secret: secret.clone(), is_portal };
    turn.record(SandboxEvent::Door(DoorMade { door }));
    secret
}

/// Makes an intent, or finds it made; charges at once what needs nobody there.
pub(in crate::payments::sandbox) struct MakeIntent {
    pub(in crate::payments::sandbox) payment: PaymentId,
    pub(in crate::payments::sandbox) tenant: TenantId,
    pub(in crate::payments::sandbox) amount_cents: i64,
    pub(in crate::payments::sandbox) currency: String,
    pub(in crate::payments::sandbox) description: String,
    pub(in crate::payments::sandbox) way: Way,
}

impl Command for MakeIntent {
    const NAME: &'static str = "make_sandbox_intent";
}

impl Handle<MakeIntent> for SandboxCustomer {
    type Reply = SandboxIntent;

    fn handle(turn: &mut Turn<'_, Self>, command: MakeIntent) -> Result<SandboxIntent, Refusal> {
        let MakeIntent { payment, tenant, amount_cents, currency, description, way } = command;
        if let Some(known) = turn.state().intents.get(&payment) {
            return Ok(known.clone());
        }
        let card = match &way {
            Way::OffSession { method } => {
                let kept = Card::of_method(method).filter(|it| turn.state().cards.contains(it));
                let missing = || Refusal::conflict("resource_missing", "no such card is kept");
                Some(kept.ok_or_else(missing)?)
            }
            Way::Client { .. } | Way::Checkout => None,
        };
        let mut intent = SandboxIntent {
            payment,
            tenant,
            secret: base32(turn.new_id()),
            amount_cents,
            currency,
            description,
            way,
            status: IntentStatus::RequiresMethod,
            card: None,
            received_cents: 0,
            refunded_cents: 0,
            disputed_cents: 0,
            code: None,
            refunds: Default::default(),
        };
        if let Some(card) = card {
            intent.charge(card, false);
        }
        set(turn, intent.clone());
        Ok(intent)
    }
}

/// What an intent is now.
pub(in crate::payments::sandbox) struct Fetch {
    pub(in crate::payments::sandbox) payment: PaymentId,
}

impl Command for Fetch {
    const NAME: &'static str = "fetch_sandbox_intent";
    const ESSENTIAL: bool = true;
}

impl Handle<Fetch> for SandboxCustomer {
    type Reply = SandboxIntent;

    fn handle(turn: &mut Turn<'_, Self>, command: Fetch) -> Result<SandboxIntent, Refusal> {
        turn.state().intent(command.payment).cloned()
    }
}

/// Pays an intent with a card; without one, confirms what its bank has asked.
pub(in crate::payments::sandbox) struct Act {
    /// Whose intent it is.
    pub(in crate::payments::sandbox) payment: PaymentId,
    /// What shows that one may; none for the provider itself.
    pub(in crate::payments::sandbox) secret: Option<String>,
    /// With which card.
    pub(in crate::payments::sandbox) card: Option<Card>,
}

impl Command for Act {
    const NAME: &'static str = "act_on_sandbox_intent";
}

impl Handle<Act> for SandboxCustomer {
    type Reply = SandboxIntent;

    fn handle(turn: &mut Turn<'_, Self>, command: Act) -> Result<SandboxIntent, Refusal> {
        let Act { payment, secret, card } = command;
        let mut intent = turn.state().intent(payment)?.clone();
        if secret.is_some_and(|secret| secret != intent.secret) {
            return Err(Refusal::not_found("intent"));
        }
        if matches!(intent.status, IntentStatus::Succeeded | IntentStatus::Cancelled) {
            return Ok(intent);
        }
        match (card, intent.card) {
            (Some(card), _) => intent.charge(card, false),
            (None, Some(card)) if intent.status == IntentStatus::RequiresAction => {
                intent.charge(card, true);
            }
            (None, _) => {
                let message = "there is nothing to confirm: choose a card";
                return Err(Refusal::conflict("nothing_to_confirm", message));
            }
        }
        let is_kept = intent.way == Way::Client { save: true };
        let paid = intent.card.filter(|_| intent.status == IntentStatus::Succeeded && is_kept);
        set(turn, intent.clone());
        if let Some(card) = paid {
            add_card(turn, card);
        }
        Ok(intent)
    }
}

/// Gives money back. The same key again is no change.
pub(in crate::payments::sandbox) struct Refund {
    pub(in crate::payments::sandbox) payment: PaymentId,
    pub(in crate::payments::sandbox) amount_cents: i64,
    pub(in crate::payments::sandbox) key: u128,
}

impl Command for Refund {
    const NAME: &'static str = "refund_sandbox_intent";
}

impl Handle<Refund> for SandboxCustomer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Refund) -> Result<(), Refusal> {
        let Refund { payment, amount_cents, key } = command;
        let mut intent = turn.state().intent(payment)?.clone();
        if intent.refunds.contains(&key) {
            return Ok(());
        }
        let left = intent.received_cents - intent.refunded_cents;
        if !(1..=left).contains(&amount_cents) || intent.refunds.len() >= REFUNDS_KEPT {
            let message = format!("from 1 to {left} cents can go back");
            return Err(Refusal::conflict("charge_already_refunded", message));
        }
        intent.refunded_cents += amount_cents;
        intent.refunds.push_back(key);
        set(turn, intent);
        Ok(())
    }
}

/// Disputes what came in, or ends the dispute in the platform's favour.
pub(in crate::payments::sandbox) struct Dispute {
    pub(in crate::payments::sandbox) payment: PaymentId,
    pub(in crate::payments::sandbox) is_open: bool,
}

impl Command for Dispute {
    const NAME: &'static str = "dispute_sandbox_intent";
}

impl Handle<Dispute> for SandboxCustomer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Dispute) -> Result<(), Refusal> {
        let Dispute { payment, is_open } = command;
        let mut intent = turn.state().intent(payment)?.clone();
        let left = intent.received_cents - intent.refunded_cents;
        intent.disputed_cents = if is_open { left } else { 0 };
        set(turn, intent);
        Ok(())
    }
}

/// The cards.
pub(in crate::payments::sandbox) struct List;

impl Command for List {
    const NAME: &'static str = "list_sandbox_cards";
    const ESSENTIAL: bool = true;
}

impl Handle<List> for SandboxCustomer {
    type Reply = Vec<Method>;

    fn handle(turn: &mut Turn<'_, Self>, _: List) -> Result<Vec<Method>, Refusal> {
        Ok(turn.state().methods())
    }
}

/// Lets a card be added by a page. The same number again has the same secret.
pub(in crate::payments::sandbox) struct MakeSetUp {
    pub(in crate::payments::sandbox) number: u128,
}

impl Command for MakeSetUp {
    const NAME: &'static str = "make_sandbox_setup";
}

impl Handle<MakeSetUp> for SandboxCustomer {
    type Reply = String;

    fn handle(turn: &mut Turn<'_, Self>, command: MakeSetUp) -> Result<String, Refusal> {
        let is_it = |door: &&Door| door.number == command.number && !door.is_portal;
        match turn.state().doors.iter().find(is_it) {
            Some(known) => Ok(known.secret.clone()),
            None => Ok(make_door(turn, command.number, false)),
        }
    }
}

/// Opens a page on which cards are kept.
pub(in crate::payments::sandbox) struct MakePortal;

impl Command for MakePortal {
    const NAME: &'static str = "make_sandbox_portal";
}

impl Handle<MakePortal> for SandboxCustomer {
    type Reply = (u128, String);

    fn handle(turn: &mut Turn<'_, Self>, _: MakePortal) -> Result<(u128, String), Refusal> {
        let number = turn.new_id();
        let secret = make_door(turn, number, true);
        Ok((number, secret))
    }
}

/// What such a page shows.
pub(in crate::payments::sandbox) struct OpenPortal {
    pub(in crate::payments::sandbox) number: u128,
    pub(in crate::payments::sandbox) secret: String,
}

impl Command for OpenPortal {
    const NAME: &'static str = "open_sandbox_portal";
}

impl Handle<OpenPortal> for SandboxCustomer {
    type Reply = Vec<Method>;

    fn handle(turn: &mut Turn<'_, Self>, command: OpenPortal) -> Result<Vec<Method>, Refusal> {
        turn.state().door(command.number, &command.secret, true)?;
        Ok(turn.state().methods())
    }
}

/// What the page of an intent or a setup shows.
pub(in crate::payments::sandbox) struct Open {
    /// Of which.
    pub(in crate::payments::sandbox) number: u128,
    /// What shows that one may.
    pub(in crate::payments::sandbox) secret: String,
    /// For an intent, rather than for a setup.
    pub(in crate::payments::sandbox) is_intent: bool,
}

/// What a page shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    /// Something to pay.
    Intent(Box<SandboxIntent>),
    /// A card to be added.
    SetUp,
}

impl Command for Open {
    const NAME: &'static str = "open_sandbox_page";
    const ESSENTIAL: bool = true;
}

impl Handle<Open> for SandboxCustomer {
    type Reply = Opened;

    fn handle(turn: &mut Turn<'_, Self>, command: Open) -> Result<Opened, Refusal> {
        let Open { number, secret, is_intent } = command;
        if !is_intent {
            return turn.state().door(number, &secret, false).map(|()| Opened::SetUp);
        }
        let intent = turn.state().intent(PaymentId(number))?;
        if intent.secret != secret {
            return Err(Refusal::not_found("page"));
        }
        Ok(Opened::Intent(Box::new(intent.clone())))
    }
}

/// Adds a card: by a setup's page, or by the customer's own.
pub(in crate::payments::sandbox) struct Attach {
    pub(in crate::payments::sandbox) set_up: Option<(u128, String)>,
    pub(in crate::payments::sandbox) card: Card,
}

impl Command for Attach {
    const NAME: &'static str = "attach_sandbox_card";
}

impl Handle<Attach> for SandboxCustomer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Attach) -> Result<(), Refusal> {
        if let Some((number, secret)) = &command.set_up {
            turn.state().door(*number, secret, false)?;
        }
        add_card(turn, command.card);
        Ok(())
    }
}

/// Takes a card away.
pub(in crate::payments::sandbox) struct Detach {
    pub(in crate::payments::sandbox) card: Card,
}

impl Command for Detach {
    const NAME: &'static str = "detach_sandbox_card";
}

impl Handle<Detach> for SandboxCustomer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Detach) -> Result<(), Refusal> {
        let (mut cards, default) = (turn.state().cards.clone(), turn.state().default);
        cards.retain(|card| *card != command.card);
        set_cards(turn, cards, default);
        Ok(())
    }
}

/// Makes a card the default.
pub(in crate::payments::sandbox) struct MakeDefault {
    pub(in crate::payments::sandbox) card: Card,
}

impl Command for MakeDefault {
    const NAME: &'static str = "set_default_sandbox_card";
}

impl Handle<MakeDefault> for SandboxCustomer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: MakeDefault) -> Result<(), Refusal> {
        let cards = turn.state().cards.clone();
        if !cards.contains(&command.card) {
            return Err(Refusal::not_found("payment method"));
        }
        set_cards(turn, cards, Some(command.card));
        Ok(())
    }
}

/// Notes that news were heard.
pub(super) struct NoteHeard {
    pub(super) id: u128,
}

impl Command for NoteHeard {
    const NAME: &'static str = "note_sandbox_news_heard";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteHeard> for SandboxCustomer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NoteHeard) -> Result<(), Refusal> {
        if turn.state().news.iter().any(|news| news.id == command.id) {
            turn.record(SandboxEvent::Heard(NewsHeard { id: command.id }));
        }
        Ok(())
    }
}
