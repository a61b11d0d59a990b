//! Calls that wait for a person, on a whole system: with a guard of the test's own, and a built-in
//! app whose functions take the panel.

use std::sync::atomic::{AtomicUsize, Ordering};

use confirmations::confirmation::CONTENT_BYTES_MAX;
use confirmations::deciding::{Cancel, Decide};
use confirmations::{Card, Confirmation, Decider, Execution, Executor, Order, State, desk};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use identity::confirmation_policy::{ConfirmationPolicy, RolePolicy};
use parking_lot::Mutex;
use supervision::{Refusal, Timestamp};
use types::CallId;

use super::*;
use crate::built_in::BuiltInCall;
use crate::guard::{Guard, Operated, RELEASE_DENIED, RELEASE_OVER};
use crate::ir::ActionType;
use crate::session::{STARTED_MS_MAX, StartRun, Started};

/// What waits, as the test has set it.
struct Rules(Mutex<(RolePolicy, Value)>);

impl Guard for Rules {
    fn policy<'a>(
        &'a self,
        _: TenantId,
        _: UserId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<ConfirmationPolicy, Refusal>> {
        let (role, settings) = self.0.lock().clone();
        let policy = ConfirmationPolicy::new(role, &JsonBytes::from(settings));
        std::future::ready(Ok(policy)).boxed()
    }

    fn restore(&self, caller: Caller) -> BoxFuture<'_, Result<Caller, Refusal>> {
        std::future::ready(Ok(caller)).boxed()
    }
}

/// An app whose function moves money, and counts how often.
#[derive(Default)]
struct Money(AtomicUsize);

impl BuiltIn for Money {
    fn id(&self) -> &'static str {
        "billing"
    }

    fn action_type(&self, function: &str) -> Option<ActionType> {
        (function == "buy_tokens").then_some(ActionType::Write)
    }

    fn needs_panel(&self, function: &str) -> bool {
        function == "buy_tokens"
    }

    fn call<'a>(&'a self, call: BuiltInCall<'a>) -> BoxFuture<'a, Result<CallAnswer, Refusal>> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = CallAnswer::success(json!({"bought": call.params["amount"], "count": count}));
        std::future::ready(Ok(answer)).boxed()
    }
}

async fn guarded(role: RolePolicy) -> (World, Arc<Rules>, Arc<Money>) {
    let rules = Arc::new(Rules(Mutex::new((role, json!({})))));
    let money = Arc::new(Money::default());
    let settings = Settings { guard: Some(rules.clone()), ..Settings::default() };
    let world = world_with_apps(settings, vec![money.clone()]).await;
    world.fill(100).await;
    (world, rules, money)
}

impl World {
    async fn operate(
        &self,
        app: &str,
        call: Call,
        is_claimed: bool,
        kind: CallerKind,
    ) -> Result<Operated, Refusal> {
        let mut request = self.request();
        request.app = app.to_owned();
        request.caller.kind = kind;
        request.caller.scopes = Scopes::all();
        self.extensions.operate(&self.system, request, call, is_claimed).await
    }

    async fn decide(&self, card: &Card, in_panel: bool) -> Result<Card, Refusal> {
        let by = Decider { user: ADA, role: String::new() };
        let decide = Decide { by, approves: true, reason: None, in_panel };
        let address = desk::locate(&self.system, card.opened.id).unwrap();
        let cards = self.system.directory::<Confirmation>();
        cards.ask(&address, decide, origin()).await?;
        cards.wait(&address, origin()).await
    }

    fn order(&self, card: &Card) -> Order {
        let opened = card.opened.clone();
        Order {
            id: opened.id,
            tenant: HOME,
            user: ADA,
            run: opened.run,
            kind: opened.subject.kind,
            facts: opened.subject.facts,
            data: opened.subject.data,
            content: card.content(self.system.journal().keys()),
            held: opened.held,
        }
    }

    async fn cancel_card(&self, card: &Card) {
        let address = desk::locate(&self.system, card.opened.id).unwrap();
        let cards = self.system.directory::<Confirmation>();
        cards.ask(&address, Cancel { reason: None }, origin()).await.unwrap();
    }
}

#[track_caller]
fn waits(operated: Result<Operated, Refusal>) -> Card {
    match operated {
        Ok(Operated::Waits(card)) => *card,
        other => panic!("it does not wait: {other:?}"),
    }
}

#[track_caller]
fn runs(operated: Result<Operated, Refusal>) -> CallAnswer {
    match operated {
        Ok(Operated::Answer(answer)) => *answer,
        other => panic!("it does not run: {other:?}"),
    }
}

fn buy(amount: i64) -> Call {
    call("buy_tokens", json!({"amount": amount}))
}

fn book(title: &str) -> Call {
    call("add_book", json!({"title": title}))
}

#[tokio::test]
async fn a_claim_is_believed_of_a_person_and_not_where_the_role_enforces() {
    let (world, rules, _) = guarded(RolePolicy::DefaultOn).await;
    let user = CallerKind::User;
    waits(world.operate("shelf", book("a"), false, user).await);
    assert!(runs(world.operate("shelf", book("b"), true, user).await).is_success());
    for machine in [CallerKind::ApiKey, CallerKind::Agent] {
        waits(world.operate("shelf", book("c"), true, machine).await);
    }
    for other in [CallerKind::Service, CallerKind::System] {
        runs(world.operate("shelf", book("d"), false, other).await);
    }
    runs(world.operate("shelf", call("books", json!({})), false, user).await);
    rules.0.lock().0 = RolePolicy::Enforced;
    waits(world.operate("shelf", book("e"), true, user).await);
    rules.0.lock().0 = RolePolicy::Disabled;
    runs(world.operate("shelf", book("e"), false, user).await);
}

#[tokio::test]
async fn what_moves_money_is_released_in_the_panel_and_answered_once() {
    let (world, _, money) = guarded(RolePolicy::Disabled).await;
    let ask = async |amount| world.operate("billing", buy(amount), true, CallerKind::User).await;
    let card = waits(ask(5).await);
    assert_eq!(waits(ask(5).await).opened.id, card.opened.id);
    assert_eq!(world.decide(&card, false).await.unwrap_err().code, "panel_required");
    assert_eq!(money.0.load(Ordering::Relaxed), 0);
    let ended = world.decide(&card, true).await.unwrap();
    assert_eq!((ended.state, money.0.load(Ordering::Relaxed)), (State::Executed, 1));
    // Of those who ask again one gets it, and it is not bought again.
    let again = join_all((0..8).map(|_| ask(5))).await;
    let (told, over): (Vec<_>, Vec<_>) = again.into_iter().partition(Result::is_ok);
    assert_eq!((told.len(), over.len()), (1, 7));
    assert_eq!(runs(told.into_iter().next().unwrap()).data, json!({"bought": 5, "count": 1}));
    for refused in over {
        assert_eq!(refused.unwrap_err().code, RELEASE_OVER);
    }
    let denied = waits(ask(6).await);
    world.cancel_card(&denied).await;
    for _ in 0..2 {
        assert_eq!(ask(6).await.unwrap_err().code, RELEASE_DENIED);
    }
    assert_eq!(money.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_order_is_carried_out_once_however_often_it_comes() {
    let (world, _, _) = guarded(RolePolicy::DefaultOn).await;
    let card = waits(world.operate("shelf", book("a"), false, CallerKind::User).await);
    assert_eq!(world.balance().await.held, BOOK);
    let order = || world.order(&card);
    let orders = (0..20).map(|_| world.extensions.execute(&world.system, order(), origin()));
    let outcomes = join_all(orders).await;
    // While it is carried out, whoever asks again is told to come back.
    let is_busy = |outcome: &Result<Execution, Refusal>| {
        outcome.as_ref().is_err_and(|refusal| refusal.code == "busy")
    };
    let later = world.extensions.execute(&world.system, order(), origin()).await;
    let told = outcomes.into_iter().filter(|it| !is_busy(it)).chain([later]);
    let done: Vec<Execution> = told.map(Result::unwrap).collect();
    assert!(done.len() >= 2);
    assert!(matches!(done[0], Execution::Done { succeeded: true, settles: true, .. }));
    let answers: Vec<_> = done
        .iter()
        .map(|it| match it {
            Execution::Done { answer, .. } => answer.clone(),
            Execution::Changed(_) => panic!("nothing changed"),
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(world.settled().await, 100 - BOOK);
    assert_eq!(world.count().await, 1);
    let erased = Order { content: None, ..order() };
    let refused = world.extensions.execute(&world.system, erased, origin()).await.unwrap_err();
    assert!(refused.is_erased());
}

#[tokio::test]
async fn what_is_no_longer_what_was_confirmed_is_not_begun() {
    let (world, _, _) = guarded(RolePolicy::DefaultOn).await;
    let card = waits(world.operate("shelf", book("a"), false, CallerKind::User).await);
    for name in ["price", "app_version", "policy"] {
        let mut order = world.order(&card);
        let fact = order.facts.iter_mut().find(|fact| fact.name == name).unwrap();
        fact.value = "another".to_owned();
        let outcome = world.extensions.execute(&world.system, order, origin()).await.unwrap();
        let Execution::Changed(changed) = outcome else { panic!("{outcome:?}") };
        assert_eq!((changed.len(), changed[0].name.as_str()), (1, name));
    }
    // Before the count, which is a call that holds its own price for a moment.
    assert_eq!(world.balance().await.held, BOOK, "the card ends it");
    assert_eq!(world.count().await, 0);
}

#[tokio::test]
async fn what_may_have_acted_outside_before_the_end_is_not_done_again() {
    let (world, _, _) = guarded(RolePolicy::DefaultOn).await;
    let card = waits(world.operate("shelf", book("a"), false, CallerKind::User).await);
    // As if the server had ended behind this.
    let started = Started {
        id: card.opened.run,
        scope: scope(),
        app_version: "1.0.0".to_owned(),
        calls: Vec::new(),
        hold: card.opened.held.map(|held| held.hold),
        share: SharePercent::new(70).unwrap(),
        until: Timestamp::default(),
    };
    let sessions = world.system.directory::<ExtensionSession>();
    sessions
        .ask(&scope().address(), StartRun { started, ms_max: STARTED_MS_MAX }, origin())
        .await
        .unwrap();
    let ended = world.decide(&card, false).await.unwrap();
    let done = ended.done.unwrap();
    assert_eq!((ended.state, done.error_code.as_deref()), (State::Failed, Some("outcome_unknown")));
    assert_eq!(world.settled().await, 100);
    assert_eq!(world.count().await, 0);
}

#[tokio::test]
async fn what_waits_is_bounded_and_paid_for_before_it_does() {
    let (world, rules, _) = guarded(RolePolicy::DefaultOn).await;
    let large = "x".repeat(CONTENT_BYTES_MAX);
    let refused = world.operate("shelf", book(&large), false, CallerKind::User).await;
    assert_eq!(refused.unwrap_err().code, "validation_error");
    for number in 0..33 {
        waits(world.operate("shelf", book(&number.to_string()), false, CallerKind::User).await);
    }
    let poor = world.operate("shelf", book("one more"), false, CallerKind::User).await;
    assert_eq!(poor.unwrap_err().class, Class::Payment);
    world.fill(1_000).await;
    for number in 33..desk::OPEN_MAX {
        waits(world.operate("shelf", book(&number.to_string()), false, CallerKind::User).await);
    }
    let full = world.operate("shelf", book("one more"), false, CallerKind::User).await;
    assert_eq!(full.unwrap_err().code, "too_many_confirmations");
    waits(world.operate("shelf", book("7"), false, CallerKind::User).await);
    assert_eq!(world.balance().await.held, BOOK * desk::OPEN_MAX as i64);
    // What is stopped waits no more, and gives everything back.
    let voided = desk::void_open(&world.system, None, |_| true, "frozen", &origin()).await.unwrap();
    assert_eq!((voided.len(), world.balance().await.held), (desk::OPEN_MAX, 0));
    rules.0.lock().0 = RolePolicy::Disabled;
    assert_eq!(world.count().await, 0);
}

#[tokio::test]
async fn racing_callers_share_one_card_and_one_hold() {
    let (world, _, _) = guarded(RolePolicy::DefaultOn).await;
    let asked = (0..20).map(|_| world.operate("shelf", book("a"), false, CallerKind::User));
    let cards: Vec<_> = join_all(asked).await.into_iter().map(waits).collect();
    assert!(cards.iter().all(|card| card.opened.id == cards[0].opened.id));
    while world.balance().await.held != BOOK {
        tokio::task::yield_now().await;
    }
    assert_ne!(cards[0].opened.run, CallId(0));
}
