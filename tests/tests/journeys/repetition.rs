//! The same key again: the same answer to the byte, and nothing done twice.

use futures::future::join_all;
use journeys::{Call, Server, WELCOME};
use serde_json::json;

/// Sends a request with a key several times at once and once more: one answer, byte for byte.
async fn repeats_alike(call: Call, status: u16) {
    let answers = join_all((0..8).map(|_| call.clone().send())).await;
    let late = call.send().await;
    for answer in &answers {
        answer.ok(status);
        assert_eq!((answer.status, &answer.bytes), (late.status, &late.bytes), "{}", answer.asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_does_it_once() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let post = |path: &str, body, key| api.post(path, &body).as_user(&user).key(key);
    let debit = json!({"amount": 7, "reason": "once"});
    repeats_alike(post("/v1/billing/debits", debit.clone(), "debit"), 201).await;
    assert_eq!(api.balance(&user).await, WELCOME.0 - 7);
    let hold = json!({"amount": 9, "reason": "once", "ttl_seconds": 60});
    repeats_alike(post("/v1/billing/holds", hold, "hold"), 201).await;
    let holds = api.get("/v1/billing/holds").as_user(&user).send().await.ok(200);
    assert_eq!(holds.as_array().unwrap().len(), 1, "{holds}");
    let path = format!("/v1/billing/holds/{}/capture", holds[0]["id"].as_str().unwrap());
    repeats_alike(post(&path, json!({"amount": 4}), "capture"), 200).await;
    let add = json!({"function": "add_book", "params": {"title": "Emma"}});
    repeats_alike(post("/v1/extensions/shelf/call", add.clone(), "call"), 200).await;
    let list = json!({"function": "books"});
    let calls = json!({"calls": [add, list]});
    repeats_alike(post("/v1/extensions/shelf/batch", calls.clone(), "batch"), 200).await;
    let spent = 7 + 4 + 3 + (3 + 2);
    assert_eq!(api.settled_balance(&user).await, WELCOME.0 - spent);

    let other = json!({"amount": 8, "reason": "once"});
    let reused = post("/v1/billing/debits", other.clone(), "debit").send().await;
    reused.problem(422, "idempotency_key_reused");
    let call = post("/v1/extensions/shelf/batch", json!({"calls": [list]}), "batch").send().await;
    call.problem(422, "idempotency_key_reused");
    // A key is its principal's: another user's request with it is another request.
    let stranger = api.user("bob").await;
    let theirs = api.post("/v1/billing/debits", &other).as_user(&stranger).key("debit");
    theirs.send().await.ok(201);
    // What was refused is not recorded: the same key may be used once it can succeed.
    let too_much = json!({"amount": 1_000, "reason": "later"});
    let later = post("/v1/billing/debits", too_much, "later");
    later.clone().send().await.problem(402, "insufficient_credits");
    let operator = api.operator().await;
    api.grant(&operator, &user.id, 1_000).await;
    later.clone().send().await.ok(201);

    let before = (api.balance(&user).await, api.ledger(&user).await);
    let recorded = later.send().await.bytes;
    let server = server.restart().await;
    let api = &server.api;
    let body = json!({"amount": 1_000, "reason": "later"});
    let again = api.post("/v1/billing/debits", &body).as_user(&user).key("later").send().await;
    assert_eq!(again.bytes, recorded, "a restart changes no recorded answer");
    let batch = api.post("/v1/extensions/shelf/batch", &calls).as_user(&user).key("batch");
    batch.send().await.ok(200);
    assert_eq!((api.balance(&user).await, api.ledger(&user).await), before);
    server.stop().await;
}
