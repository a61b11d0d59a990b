//! The wallet: spending, holding back, grants, and a ledger that adds up to the balance.

use futures::future::join_all;
use journeys::{Api, Server, User, WELCOME, text};
use serde_json::{Value, json};

async fn debit(api: &Api, user: &User, amount: i64) -> journeys::Answer {
    let body = json!({"amount": amount, "reason": "for the test"});
    api.post("/v1/billing/debits", &body).as_user(user).send().await
}

async fn hold(api: &Api, user: &User, amount: i64, ttl_seconds: i64) -> String {
    let body = json!({"amount": amount, "ttl_seconds": ttl_seconds, "reason": "for the test"});
    let placed = api.post("/v1/billing/holds", &body).as_user(user).send().await.ok(201);
    assert_eq!(placed["amount"], amount);
    text(&placed["id"])
}

async fn holds(api: &Api, user: &User) -> Value {
    api.get("/v1/billing/holds").as_user(user).send().await.ok(200)
}

fn amounts(ledger: &[Value]) -> Vec<i64> {
    ledger.iter().map(|line| line["amount"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_are_spent_and_granted_and_the_ledger_adds_up() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let (welcome, spendable) = WELCOME;
    let receipt = debit(api, &user, 40).await.ok(201);
    assert_eq!((&receipt["amount"], &receipt["balance"]), (&json!(-40), &json!(welcome - 40)));
    let refused = debit(api, &user, spendable).await.problem(402, "insufficient_credits");
    assert_eq!(refused["limit"], "email_unverified");
    assert_eq!((&refused["price"], &refused["balance"]), (&json!(spendable), &json!(welcome - 40)));
    let refused = debit(api, &user, 1_000_000).await.problem(402, "insufficient_credits");
    assert_eq!(refused["limit"], "balance");

    let path = format!("/v1/operator/tenants/{}/grants", user.id);
    let grant = json!({"credits": 1_000, "kind": "paid", "reason": "bought"});
    let plain = api.post(&path, &grant).as_user(&user).send().await;
    plain.problem(403, "forbidden");
    api.grant(&operator, &user.id, 1_000).await;
    debit(api, &user, spendable).await.ok(201);
    let debits = (0..20).map(|number| debit(api, &user, 1 + number % 3));
    for answer in join_all(debits).await {
        answer.ok(201);
    }
    let (balance, ledger) = (api.balance(&user).await, api.ledger(&user).await);
    assert_eq!(ledger.len(), 1 + 1 + 1 + 1 + 20);
    assert_eq!(amounts(&ledger).iter().sum::<i64>(), balance);
    assert_eq!(amounts(&ledger)[22..], [-40, welcome]);
    let ids: Vec<_> = ledger.iter().map(|line| line["id"].as_u64().unwrap()).collect();
    assert!(ids.iter().all(|id| *id < 1 << 53) && ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    let server = server.restart().await;
    assert_eq!(server.api.balance(&user).await, balance);
    assert_eq!(server.api.ledger(&user).await, ledger);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_once() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let balance = api.balance(&user).await;
    let (part, whole, back) =
        (hold(api, &user, 100, 60).await, hold(api, &user, 50, 60).await, hold(api, &user, 30, 60));
    let back = back.await;
    assert_eq!(holds(api, &user).await.as_array().unwrap().len(), 3);
    let refused = debit(api, &user, 400).await.problem(402, "insufficient_credits");
    assert_eq!(refused["available"], WELCOME.1 - 180);

    let end = async |id: &str, how: &str, body: Value| {
        let path = format!("/v1/billing/holds/{id}/{how}");
        api.post(&path, &body).as_user(&user).send().await
    };
    end(&part, "capture", json!({"amount": 101})).await.problem(409, "hold_exceeded");
    let captured = end(&part, "capture", json!({"amount": 60})).await.ok(200);
    assert_eq!((&captured["captured"], &captured["amount"]), (&json!(60), &json!(100)));
    let captured = end(&whole, "capture", json!({})).await.ok(200);
    assert_eq!(captured["captured"], 50);
    let released = end(&back, "release", json!({})).await.ok(200);
    assert_eq!((&released["captured"], &released["status"]), (&json!(0), &json!("released")));
    end(&back, "capture", json!({})).await.problem(409, "hold_ended");
    end(&part, "release", json!({})).await.problem(409, "hold_ended");
    assert_eq!(holds(api, &user).await, json!([]));
    assert_eq!(api.balance(&user).await, balance - 110);
    assert_eq!(amounts(&api.ledger(&user).await).iter().sum::<i64>(), balance - 110);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_nobody_ends_expires() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let id = hold(api, &user, 500, 1).await;
    debit(api, &user, 1).await.problem(402, "insufficient_credits");
    while holds(api, &user).await != json!([]) {
        tokio::task::yield_now().await;
    }
    let path = format!("/v1/billing/holds/{id}/capture");
    let late = api.post(&path, &json!({})).as_user(&user).send().await;
    late.problem(410, "hold_expired");
    debit(api, &user, 500).await.ok(201);
    assert_eq!(api.balance(&user).await, WELCOME.0 - WELCOME.1);
    server.stop().await;
}
