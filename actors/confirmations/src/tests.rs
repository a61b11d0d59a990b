//! One card, alone: who decides what, when, and how often.

use proptest::prelude::*;
use serde_json::json;
use supervision::testkit::Given;
use supervision::{Class, Retrying as _, Timestamp};
use types::{AppId, CallId, ConfirmationId, HoldId, JsonBytes, TenantId, UserId};

use crate::confirmation::*;
use crate::deciding::{Cancel, Collect, Decide, Draft, Open, Void, over};
use crate::desk::id_of;
use crate::executor::{Changed, changed};
use crate::rules::{Decider, Group, Rules, Stage, Who};

const ADA: UserId = UserId(8);
const TENANT: TenantId = TenantId(7);
const TTL: i64 = 900_000;
const HELD: Held = Held { hold: HoldId(10), call: CallId(9) };

fn draft(rules: Rules) -> Draft {
    Draft {
        tenant: TENANT,
        user: ADA,
        principal: "user/ada".to_owned(),
        kind: "call".to_owned(),
        facts: vec![Fact::new("app", "shelf"), Fact::new("price", "3")],
        title: "shelf: drop".to_owned(),
        app: Some(AppId::new("shelf").unwrap()),
        function: "drop".to_owned(),
        action: "destructive".to_owned(),
        price: 3,
        data: JsonBytes::from(json!({})),
        content: r#"{"id":"x"}"#.to_owned(),
        rules,
        ttl_ms: TTL,
    }
}

fn open(rules: Rules) -> Open {
    Open { id: ConfirmationId(1), round: 0, draft: draft(rules), run: CallId(9), held: Some(HELD) }
}

fn opened() -> Given<Confirmation> {
    Given::nothing().when(open(Rules::own(ADA))).then()
}

fn decide(user: UserId, approves: bool) -> Decide {
    let by = Decider { user, role: "user".to_owned() };
    Decide { by, approves, reason: None, in_panel: false }
}

fn cancel() -> Cancel {
    Cancel { reason: None }
}

fn state(given: &Given<Confirmation>) -> State {
    given.state().card().unwrap().state
}

fn executed() -> ConfirmationEvent {
    let (id, user) = (ConfirmationId(1), ADA);
    ConfirmationEvent::Executed(Done { id, user, answer: None, error_code: None, settles: true })
}

#[test]
fn what_waits_is_the_same_card_and_what_is_over_is_another() {
    let then = Given::<Confirmation>::nothing().when(open(Rules::own(ADA)));
    let families: Vec<_> = then.rows.iter().map(|row| row.family).collect();
    assert_eq!(families, [OPEN_FAMILY, ROUND_FAMILY]);
    let again = then.then().when(open(Rules::own(ADA)));
    assert!(again.events.is_empty());
    let (card, given) = again.reply();
    assert_eq!(card.content(given.keys()).as_deref(), Some(r#"{"id":"x"}"#));
    let given = given.when(decide(ADA, true)).then();
    let again = given.when(open(Rules::own(ADA)));
    assert!(again.events.is_empty(), "what is being carried out is asked for already");
    let given = opened().when(cancel()).then();
    assert_eq!(given.when(open(Rules::own(ADA))).refused().0, "round_over");
    let (one, other) = (draft(Rules::own(ADA)).digest(), Digest::of("call", &[]));
    let ids = [id_of(TENANT, &one, 0), id_of(TENANT, &one, 1), id_of(TENANT, &other, 0)];
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[0] != id_of(TenantId(1), &one, 0));
}

#[test]
fn it_is_carried_out_once_and_whoever_agreed_is_answered_alike() {
    let then = opened().when(decide(ADA, true));
    assert!(matches!(then.effects[..], [ConfirmationEffect::Execute(_)]));
    assert_eq!(then.rows[0].value, None, "it waits no more");
    let then = then.then().when(decide(ADA, true));
    assert!(then.events.is_empty() && then.effects.is_empty());
    let given = then.then();
    let (code, given) = given.when(cancel()).refused();
    assert_eq!((code.as_str(), state(&given)), ("confirmation_decided", State::Confirmed));
    // Nobody noted what came of it: it is asked for again, later each time.
    let then = given.later_ms(BACKOFF.first_ms).when_due();
    assert!(matches!(then.effects[..], [ConfirmationEffect::Execute(_)]));
    assert_eq!(then.given.state().retry().attempts(), 2);
    assert!(supervision::Entity::is_pending(then.given.state()));
}

#[test]
fn what_is_asked_for_too_often_is_given_up_and_gives_its_money_back() {
    let mut given = opened().when(decide(ADA, true)).then();
    for attempt in 1..ATTEMPTS_MAX {
        assert_eq!(state(&given), State::Confirmed, "{attempt}");
        given = given.later_ms(BACKOFF.max_ms).when_due().then();
    }
    let then = given.later_ms(BACKOFF.max_ms).when_due();
    assert!(matches!(then.effects[..], [ConfirmationEffect::EndHold(TENANT, HELD)]));
    let given = then.then();
    let card = given.state().card().unwrap();
    let done = card.done.as_ref().unwrap();
    assert_eq!((card.state, done.error_code.as_deref()), (State::Failed, Some("outcome_unknown")));
}

#[test]
fn nobody_else_decides_and_nobody_decides_late() {
    assert_eq!(opened().when(decide(UserId(9), true)).refused().0, "not_found");
    let late = || opened().later_ms(TTL);
    let then = late().when(decide(ADA, true));
    assert_eq!(then.outcome.as_ref().unwrap_err().class, Class::Gone);
    assert_eq!(late().when(cancel()).refused().0, "confirmation_expired");
    let then = opened().later_ms(TTL - 1).when_due();
    assert!(then.events.is_empty());
    let then = then.then().later_ms(1).when_due();
    assert!(matches!(then.effects[..], [ConfirmationEffect::EndHold(TENANT, HELD)]));
    let given = then.then();
    assert_eq!(state(&given), State::Expired);
    let refusal = given.when(decide(ADA, true)).outcome.unwrap_err();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::Gone, "confirmation_expired"));
    let empty = Given::<Confirmation>::nothing().when(decide(ADA, true));
    assert_eq!(empty.refused().0, "not_found");
}

#[test]
fn what_was_refused_says_how() {
    let given = opened().when(decide(ADA, false)).then();
    assert_eq!(state(&given), State::Rejected);
    let refusal = given.when(decide(ADA, true)).outcome.unwrap_err();
    assert!(refusal.facts.unwrap().contains("rejected"));
    let given = opened().when(cancel()).then();
    let then = given.when(cancel());
    assert!(then.events.is_empty() && then.outcome.is_ok(), "a repetition is answered alike");
    let given = opened().when(Void { why: "frozen".to_owned() }).then();
    let (again, given) = given.when(Void { why: "frozen".to_owned() }).reply();
    assert!(!again);
    assert_eq!(given.when(decide(ADA, true)).refused().0, "confirmation_void");
}

#[test]
fn several_decide_together_each_once() {
    let people = Who::Users(vec![ADA, UserId(9), UserId(10)]);
    let stages = vec![Stage { any_of: vec![Group { who: people, quorum: 2 }] }];
    let rules = Rules { stages, allow_self: false, in_panel: false };
    let given = Given::<Confirmation>::nothing().when(open(rules.clone())).then();
    assert_eq!(given.when(decide(ADA, true)).refused().0, "self_approval");
    let given = Given::<Confirmation>::nothing()
        .when(open(rules))
        .then()
        .when(decide(UserId(9), true))
        .then();
    assert_eq!(state(&given), State::Pending);
    let (code, given) = given.when(decide(UserId(9), true)).refused();
    assert_eq!(code, "already_voted");
    let given = given.when(decide(UserId(10), true)).then();
    assert_eq!(state(&given), State::Confirmed);
}

#[test]
fn what_takes_the_page_is_not_confirmed_elsewhere() {
    let rules = Rules { in_panel: true, ..Rules::own(ADA) };
    let given = Given::<Confirmation>::nothing().when(open(rules)).then();
    let (code, given) = given.when(decide(ADA, true)).refused();
    assert_eq!(code, "panel_required");
    let given = given.when(Decide { in_panel: true, ..decide(ADA, true) }).then();
    assert_eq!(state(&given), State::Confirmed);
}

#[test]
fn what_came_of_it_is_collected_once() {
    let given = opened().when(decide(ADA, true)).then();
    let (code, given) = given.when(Collect {}).refused();
    assert_eq!(code, "already_collected");
    let mut card = given.state().clone();
    supervision::Entity::apply(&mut card, &executed(), given.now());
    assert!(!card.card().unwrap().holds, "whoever carried it out ends what was held");
    let opened = ConfirmationEvent::Opened(Box::new(card.card().unwrap().opened.clone()));
    let given = Given::<Confirmation>::events([opened, executed()]);
    let given = given.when(Collect {}).then();
    assert!(given.state().card().unwrap().collected);
    assert_eq!(given.when(Collect {}).refused().0, "already_collected");
}

#[test]
fn drafts_that_do_not_fit_are_refused() {
    let refused = |change: &dyn Fn(&mut Draft)| {
        let mut open = open(Rules::own(ADA));
        change(&mut open.draft);
        assert_eq!(Given::<Confirmation>::nothing().when(open).refused().0, "validation_error");
    };
    refused(&|it| it.content = "x".repeat(CONTENT_BYTES_MAX + 1));
    refused(&|it| it.ttl_ms = TTL_MS.0 - 1);
    refused(&|it| it.ttl_ms = TTL_MS.1 + 1);
    refused(&|it| it.rules = Rules::default());
    refused(&|it| it.title = "x".repeat(5_000));
}

#[test]
fn a_digest_is_over_all_facts_and_what_changed_is_named() {
    let facts = |price: &str| vec![Fact::new("price", price), Fact::new("app", "shelf")];
    let back: Vec<_> = facts("3").into_iter().rev().collect();
    assert_eq!(Digest::of("call", &facts("3")), Digest::of("call", &back));
    assert_ne!(Digest::of("call", &facts("3")), Digest::of("call", &facts("4")));
    assert_ne!(Digest::of("call", &facts("3")), Digest::of("request", &facts("3")));
    let differs = changed(&facts("3"), &facts("4"));
    let price = Changed { name: "price".to_owned(), was: "3".to_owned(), is: "4".to_owned() };
    assert_eq!(differs, [price]);
    assert!(changed(&facts("3"), &back).is_empty());
    let mut card = Confirmation::default();
    let opened = opened().state().card().unwrap().opened.clone();
    supervision::Entity::apply(
        &mut card,
        &ConfirmationEvent::Opened(Box::new(opened)),
        Timestamp(1),
    );
    let void = Voided { id: ConfirmationId(1), user: ADA, why: "changed".into(), changed: differs };
    supervision::Entity::apply(&mut card, &ConfirmationEvent::Voided(void), Timestamp(2));
    let refusal = over(card.card().unwrap());
    assert!(refusal.message.contains("price") && refusal.facts.unwrap().contains("\"is\":\"4\""));
}

/// What may happen to a card, in any order.
#[derive(Clone, Debug)]
enum Act {
    Confirm(u128),
    Reject(u128),
    Cancel,
    Void,
    Late,
    Due,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (8_u128..10).prop_map(Act::Confirm),
        1 => (8_u128..10).prop_map(Act::Reject),
        1 => Just(Act::Cancel),
        1 => Just(Act::Void),
        1 => Just(Act::Late),
        2 => Just(Act::Due),
    ];
    proptest::collection::vec(act, 0..24)
}

proptest! {
    /// Whatever the order: it is carried out or comes to nothing, never both, and says so once.
    #[test]
    fn a_card_ends_in_one_way_alone(acts in acts()) {
        let mut given = opened();
        let (mut decisions, mut orders) = (Vec::new(), 0);
        for act in acts {
            let (events, effects, next) = match act {
                Act::Confirm(user) => parts(given.when(decide(UserId(user), true))),
                Act::Reject(user) => parts(given.when(decide(UserId(user), false))),
                Act::Cancel => parts(given.when(cancel())),
                Act::Void => parts(given.when(Void { why: "frozen".to_owned() })),
                Act::Late => parts(given.later_ms(TTL).when_due()),
                Act::Due => parts(given.later_ms(BACKOFF.first_ms).when_due()),
            };
            given = next;
            let names = events.iter().map(supervision::Event::name);
            let is_decision = |name: &&str| !["approved", "retried", "hold_over"].contains(name);
            decisions.extend(names.filter(is_decision));
            let is_order = |it: &&ConfirmationEffect| matches!(it, ConfirmationEffect::Execute(_));
            orders += effects.iter().filter(is_order).count();
            prop_assert_eq!(orders > 0, decisions.contains(&"confirmed"));
        }
        let allowed = match decisions.as_slice() {
            [] | ["confirmed"] | ["confirmed", "failed"] => true,
            [one] => ["cancelled", "rejected", "expired", "voided"].contains(one),
            _ => false,
        };
        prop_assert!(allowed, "{decisions:?}");
        let card = given.state().card().unwrap();
        prop_assert_eq!(decisions.is_empty(), card.state == State::Pending);
        let is_over = card.state.is_over();
        prop_assert_eq!(card.holds, is_over, "what was held is ended when it is over");
    }
}

type Parts = (Vec<ConfirmationEvent>, Vec<ConfirmationEffect>, Given<Confirmation>);

fn parts<R>(then: supervision::testkit::Then<Confirmation, R>) -> Parts {
    (then.events, then.effects, then.given)
}
