//! Payments, their news and their confirmations at once, and a kill among them: whatever the
//! provider was paid is credited, once, whether its answer, its news or the credit was on the way.
//!
//! The provider is the test's own and lives on. After the restart nobody asks for anything again
//! that was acknowledged, and only news that were not are told once more; what was ordered and
//! never answered the server orders again by itself, under the same key.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use hyper::Method;
use journeys::child::ServerProcess;
use journeys::stripe::StripeStandIn;
use journeys::{Api, User, WELCOME, text};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Random;

const ROUNDS: u64 = 3;
/// What is bought in each round, half of it with nobody there.
const ORDERS: u64 = 16;
const AT_ONCE: usize = 8;
/// What each costs, and brings.
const TIER: (i64, i64) = (5_000, 500);
/// The answers after which the kill comes, at least and at most.
const ANSWERS_BEFORE_KILL: (u64, u64) = (1, 30);
/// How long what was pending may take after a restart.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Told {
    answers: Mutex<u64>,
    arrived: Notify,
    /// The news that were acknowledged.
    heard: Mutex<BTreeSet<String>>,
}

impl Told {
    fn answered(&self) {
        *self.answers.lock() += 1;
        self.arrived.notify_one();
    }

    async fn wait_for(&self, count: u64) {
        while *self.answers.lock() < count {
            self.arrived.notified().await;
        }
    }
}

struct World {
    folder: tempfile::TempDir,
    stripe: Arc<StripeStandIn>,
    user: User,
    events: Mutex<Vec<Value>>,
}

impl World {
    async fn new() -> Self {
        let (folder, stripe) = (tempfile::tempdir().unwrap(), StripeStandIn::start().await);
        let (process, api) = ServerProcess::start(folder.path(), &stripe.variables()).await;
        let user = api.user("ada").await;
        let setup = api.post("/v1/billing/payment-methods/setup", &json!({})).as_user(&user);
        setup.send().await.ok(200);
        stripe.attach(&stripe.customer_of(&user.id).unwrap(), "pm_card");
        assert!(process.stop(), "the server did not stop in order");
        Self { folder, stripe, user, events: Mutex::default() }
    }

    async fn start(&self) -> (ServerProcess, Api) {
        ServerProcess::start(self.folder.path(), &self.stripe.variables()).await
    }

    /// Delivers what is there and was not heard yet, each twice.
    async fn deliver(&self, api: &Api, told: &Told) {
        self.events.lock().extend(self.stripe.events());
        let events = self.events.lock().clone();
        for event in events.iter().rev().chain(&events) {
            let id = text(&event["id"]);
            if told.heard.lock().contains(&id) {
                continue;
            }
            if self.stripe.deliver(api, event).await.is_ok_and(|answer| answer.status == 200) {
                told.heard.lock().insert(id);
                told.answered();
            }
        }
    }

    /// One purchase: ordered, paid, told and confirmed.
    async fn buy(&self, api: &Api, told: &Told, (round, number): (u64, u64)) {
        let off_session = number.is_multiple_of(2);
        let body = json!({"tokens": TIER.0, "price_cents": TIER.1, "off_session": off_session});
        let key = format!("{round}-{number}");
        let call = api.post("/v1/billing/topup", &body).as_user(&self.user).key(&key);
        let Ok(answer) = call.try_send().await else { return };
        let intent = text(&answer.ok(200)["payment_intent_id"]);
        told.answered();
        if !off_session {
            self.stripe.pay(&intent, "pm_card");
        }
        let body = json!({"payment_intent_id": intent});
        let confirm = api.post("/v1/billing/topup/confirm", &body).service();
        let (confirmed, ()) = tokio::join!(confirm.try_send(), self.deliver(api, told));
        if let Ok(answer) = confirmed {
            answer.ok(200);
            told.answered();
        }
    }

    async fn audit(&self, api: &Api) {
        let began = Instant::now();
        loop {
            let expected = WELCOME.0 + TIER.0 * self.stripe.paid() as i64;
            let balance = api.balance(&self.user).await;
            assert!(balance <= expected, "{balance} credits, of {expected} at most");
            if balance == expected {
                break;
            }
            assert!(began.elapsed() < RECOVERED_WITHIN, "{balance} credits, not {expected}");
            tokio::task::yield_now().await;
        }
        let ledger = api.ledger(&self.user).await;
        let bought = ledger.iter().filter(|line| line["reason"] == "topup").count();
        assert_eq!(bought, self.stripe.paid());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_among_payments_loses_none_and_credits_none_twice() {
    let (mut random, world) = (Random::from_environment(), World::new().await);
    for round in 0..ROUNDS {
        let (process, api) = world.start().await;
        let (told, answers) = (Told::default(), random.between(ANSWERS_BEFORE_KILL));
        let kill = async {
            told.wait_for(answers).await;
            drop(process);
        };
        let orders = stream::iter(0..ORDERS);
        let orders = orders.map(|number| world.buy(&api, &told, (round, number)));
        let orders = orders.buffer_unordered(AT_ONCE).collect::<Vec<()>>();
        tokio::join!(orders, kill);
        let (process, api) = world.start().await;
        world.deliver(&api, &told).await;
        world.audit(&api).await;
        println!("round {round}: killed after {answers}, {} are paid", world.stripe.paid());
        assert!(process.stop(), "the server did not stop in order");
    }
    let folder = world.folder.path().to_owned();
    gateway::verify::run(&gateway::verify::VerifyArgs::folder(folder)).await.unwrap();
}

/// One purchase at the sandbox: ordered, paid on its page and confirmed. Answers its intent once
/// the page has said that it is paid.
async fn buy_in_sandbox(
    api: &Api,
    (user, told): (&User, &Told),
    (round, number): (u64, u64),
) -> Option<String> {
    let body = json!({"tokens": TIER.0, "price_cents": TIER.1});
    let key = format!("{round}-{number}");
    let call = api.post("/v1/billing/topup", &body).as_user(user).key(&key);
    let begun = call.try_send().await.ok()?.ok(200);
    told.answered();
    let path = format!("/sandbox/checkout/{}", text(&begun["client_secret"]));
    let page = api.request(Method::POST, &path);
    let page = page.body("application/x-www-form-urlencoded", "method=pm_sandbox_visa");
    let paid = page.try_send().await.ok()?;
    assert!(paid.status == 200 && paid.text().contains("It is paid"), "{}", paid.text());
    told.answered();
    let intent = text(&begun["payment_intent_id"]);
    let body = json!({"payment_intent_id": intent});
    let confirm = api.post("/v1/billing/topup/confirm", &body).service();
    if let Ok(answer) = confirm.try_send().await {
        assert_eq!(answer.ok(200)["credited"], true);
        told.answered();
    }
    Some(intent)
}

/// The intents of a user that are paid.
async fn paid(api: &Api, user: &User) -> BTreeSet<String> {
    let list = api.get("/v1/billing/payments?limit=200").as_user(user).send().await.ok(200);
    let paid = list.as_array().unwrap().iter().filter(|it| it["status"] == "succeeded");
    paid.map(|it| text(&it["payment_intent_id"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_among_payments_at_the_sandbox_loses_none_that_was_said_to_be_paid() {
    let (mut random, folder) = (Random::from_environment(), tempfile::tempdir().unwrap());
    let (process, api) = ServerProcess::start(folder.path(), &[]).await;
    let user = api.user("ada").await;
    assert!(process.stop(), "the server did not stop in order");
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        let (told, answers) = (Told::default(), random.between(ANSWERS_BEFORE_KILL));
        let kill = async {
            told.wait_for(answers).await;
            drop(process);
        };
        let orders = stream::iter(0..ORDERS);
        let orders = orders.map(|number| buy_in_sandbox(&api, (&user, &told), (round, number)));
        let orders = orders.buffer_unordered(AT_ONCE).collect::<Vec<_>>();
        let (bought, ()) = tokio::join!(orders, kill);
        acknowledged.extend(bought.into_iter().flatten());
        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        let began = Instant::now();
        loop {
            let paid = paid(&api, &user).await;
            let expected = WELCOME.0 + TIER.0 * paid.len() as i64;
            let balance = api.balance(&user).await;
            if paid.is_superset(&acknowledged) && balance == expected {
                break;
            }
            assert!(began.elapsed() < RECOVERED_WITHIN, "{balance}, not {expected}");
            tokio::task::yield_now().await;
        }
        println!("round {round}: killed after {answers}, {} acknowledged", acknowledged.len());
        assert!(process.stop(), "the server did not stop in order");
    }
    let folder = folder.path().to_owned();
    gateway::verify::run(&gateway::verify::VerifyArgs::folder(folder)).await.unwrap();
}
