//! What a customer of the sandbox provider does with each card.

use supervision::testkit::Given;

use super::commands::*;
use super::*;

const TENANT: TenantId = TenantId(7);
const ID: PaymentId = PaymentId(9);

fn make(way: Way) -> MakeIntent {
    MakeIntent {
        payment: ID,
        tenant: TENANT,
        amount_cents: 500,
        currency: "usd".to_owned(),
        description: "5000 credits".to_owned(),
        way,
    }
}

/// One of each event.
pub(in crate::payments) fn samples() -> Vec<SandboxEvent> {
    let intent = SandboxIntent {
        payment: ID,
        tenant: TENANT,
        secret: "secret".to_owned(),
        amount_cents: 500,
        currency: "usd".to_owned(),
        description: "5000 credits".to_owned(),
        way: Way::Client { save: true },
        status: IntentStatus::RequiresAction,
        card: Some(Card::Action),
        received_cents: 500,
        refunded_cents: 100,
        disputed_cents: 200,
        code: Some("card_declined".to_owned()),
        refunds: [5].into(),
    };
    let news = SandboxNews { id: 4, tenant: TENANT, payment: ID };
    let door = Door { number: 3, secret: "secret".to_owned(), is_portal: true };
    vec![
        SandboxEvent::Intent(IntentSet { intent, news }),
        SandboxEvent::Cards(CardsSet { cards: Card::ALL.to_vec(), default: Some(Card::Visa) }),
        SandboxEvent::Door(DoorMade { door }),
        SandboxEvent::Heard(NewsHeard { id: 4 }),
        SandboxEvent::Retried(Retried {}),
    ]
}

fn act(card: Option<Card>) -> Act {
    Act { payment: ID, secret: None, card }
}

#[test]
fn each_card_does_what_it_is_for_and_an_intent_is_paid_once() {
    let given = Given::<SandboxCustomer>::nothing();
    let (intent, given) = given.when(make(Way::Client { save: true })).reply();
    assert_eq!(intent.status, IntentStatus::RequiresMethod);
    let (again, given) = given.when(make(Way::Client { save: true })).reply();
    assert_eq!((again, given.state().intents.len()), (intent.clone(), 1));
    let (code, given) = given.when(act(None)).refused();
    assert_eq!(code, "nothing_to_confirm");
    let guessed = Act { secret: Some("x".to_owned()), ..act(Some(Card::Visa)) };
    let (code, given) = given.when(guessed).refused();
    assert_eq!(code, "not_found");
    let (declined, given) = given.when(act(Some(Card::Declined))).reply();
    assert_eq!(declined.code.as_deref(), Some("card_declined"));
    let (asked, given) = given.when(act(Some(Card::Action))).reply();
    assert_eq!((asked.status, asked.received_cents), (IntentStatus::RequiresAction, 0));
    let (paid, given) = given.when(act(None)).reply();
    assert_eq!((paid.status, paid.received_cents), (IntentStatus::Succeeded, 500));
    assert_eq!(given.state().cards, [Card::Action], "it is kept");
    assert!(given.when(act(Some(Card::Visa))).events.is_empty());
}

#[test]
fn every_change_is_told_until_it_was_heard() {
    let then = Given::<SandboxCustomer>::nothing().when(make(Way::Checkout));
    assert_eq!((then.effects.len(), then.given.state().news.len()), (1, 1));
    let given = then.given.when(act(Some(Card::Visa))).then();
    assert_eq!(given.state().resume().len(), 2);
    let then = given.later_ms(60_000).when_due();
    assert_eq!(then.effects.len(), 2);
    let mut given = then.given;
    for news in given.state().news.clone() {
        given = given.when(NoteHeard { id: news.id }).then();
    }
    assert!(!given.state().is_pending() && given.state().next_deadline().is_none());
}

#[test]
fn a_card_that_is_not_kept_is_not_charged() {
    let way = || Way::OffSession { method: "pm_sandbox_visa".to_owned() };
    let (code, given) = Given::<SandboxCustomer>::nothing().when(make(way())).refused();
    assert_eq!(code, "resource_missing");
    let given = given.when(Attach { set_up: None, card: Card::Visa }).then();
    let (paid, given) = given.when(make(way())).reply();
    assert_eq!(paid.status, IntentStatus::Succeeded);
    let refund = |key| Refund { payment: ID, amount_cents: 300, key };
    let given = given.when(refund(1)).then();
    assert!(given.state().intents[&ID].refunded_cents == 300);
    let then = given.when(refund(1));
    assert!(then.events.is_empty(), "the same key is the same refund");
    let (code, _) = then.given.when(refund(2)).refused();
    assert_eq!(code, "charge_already_refunded");
}

#[test]
fn one_of_the_cards_is_the_default_while_there_are_any() {
    let add = |card| Attach { set_up: None, card };
    let given = Given::<SandboxCustomer>::nothing().when(add(Card::Visa)).then();
    let given = given.when(add(Card::Action)).then().when(MakeDefault { card: Card::Action });
    let given = given.then().when(Detach { card: Card::Action }).then();
    let (methods, given) = given.when(List).reply();
    assert_eq!((methods.len(), methods[0].is_default), (1, true));
    let (code, given) = given.when(MakeDefault { card: Card::Action }).refused();
    assert_eq!(code, "not_found");
    let wrong = Attach { set_up: Some((1, "x".to_owned())), card: Card::Declined };
    assert_eq!(given.when(wrong).refused().0, "not_found");
}
