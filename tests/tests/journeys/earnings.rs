//! What a developer earns: traced to the calls, paid out once, and adding up.

use journeys::{Server, User, text};
use market::Bookkeeper;
use serde_json::{Value, json};

/// Waits until everything that was settled is credited.
async fn credited(server: &Server, user: &User) {
    server.api.settled_balance(user).await;
    let system = &server.running.app.system;
    let books = system.port::<Bookkeeper>();
    system.settle().await;
    while books.run(system).await {}
    system.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_earned_and_paid_out_to_the_last_credit() {
    let server = Server::start_with(|settings| settings.payout_minimum = 10).await;
    let api = &server.api;
    let (ada, bob, operator) = (api.user("ada").await, api.user("bob").await, api.operator().await);
    api.shelf(&ada, "shelf").await;
    let approve = "/v1/admin/apps/shelf/approve";
    api.post(approve, &json!({})).as_user(&operator).send().await.ok(200);
    let earnings = async || api.get("/v1/developer/earnings").as_user(&ada).send().await.ok(200);
    assert_eq!(earnings().await["total_earned"], 0);

    // Welcome credits pay no developer; paid ones do, by the tier's share of 70 %, rounded down.
    let add = json!({"function": "add_book", "params": {"title": "Emma"}});
    let calls = json!({"calls": vec![add.clone(); 20]});
    let batch = || api.post("/v1/extensions/shelf/batch", &calls).as_user(&bob);
    batch().send().await.ok(200);
    credited(&server, &bob).await;
    let promotional = earnings().await;
    assert_eq!(
        (&promotional["total_earned"], &promotional["total_platform_share"]),
        (&json!(0), &json!(60))
    );
    let spend = json!({"amount": 440, "reason": "the rest of the welcome credits"});
    api.post("/v1/billing/debits", &spend).as_user(&bob).send().await.ok(201);
    api.grant(&operator, &bob.id, 10_000).await;
    batch().send().await.ok(200);
    let wrong = json!({"function": "no_such_function"});
    api.post("/v1/extensions/shelf/call", &wrong).as_user(&bob).send().await.ok(200);
    credited(&server, &bob).await;
    // 20 calls at 2 credits each: floor(2 x 70 %) = 1 each.
    let earned = earnings().await;
    assert_eq!((&earned["total_earned"], &earned["available"]), (&json!(20), &json!(20)));
    let by_app = api.get("/v1/developer/earnings/shelf").as_user(&ada).send().await.ok(200);
    assert_eq!((&by_app["total_earnings"], &by_app["action_count"]), (&json!(20), &json!(41)));
    assert_eq!(by_app["by_period"][0]["users"], 1);
    let analytics = "/v1/developer/apps/shelf/analytics";
    let week = api.get(&format!("{analytics}?days=7")).as_user(&ada).send().await.ok(200);
    assert_eq!((&week["total_calls"], &week["total_errors"]), (&json!(41), &json!(1)));
    assert_eq!((&week["total_credits"], &week["total_earnings"]), (&json!(120), &json!(20)));
    let month = api.get(&format!("{analytics}?days=30")).as_user(&ada).send().await;
    month.problem(400, "analytics_window");

    // Only a tier that is paid for has payouts.
    let ask =
        |amount: i64| api.post("/v1/developer/payouts", &json!({"amount": amount})).as_user(&ada);
    ask(10).send().await.problem(403, "tier_has_no_payouts");
    let indie = json!({"tier": "indie"});
    let tier = || {
        api.request(hyper::Method::PUT, "/v1/developer/tier").json(indie.to_string()).as_user(&ada)
    };
    tier().send().await.problem(402, "insufficient_credits");
    api.grant(&operator, &ada.id, 9_000).await;
    let balance = api.balance(&ada).await;
    assert_eq!(tier().send().await.ok(200)["tier"], "indie");
    assert_eq!(tier().send().await.ok(200)["tier"], "indie", "paid once");
    assert_eq!(api.balance(&ada).await, balance - 9_000);

    ask(9).send().await.problem(422, "validation_error");
    ask(21).send().await.problem(409, "insufficient_earnings");
    let payout = ask(12).key("p1").send().await.ok(200);
    assert_eq!(ask(12).key("p1").send().await.ok(200), payout);
    assert_eq!((&payout["status"], &payout["amount_usd"]), (&json!("pending"), &json!("0.01")));
    let pending = api.get("/v1/admin/payouts/pending").service().send().await.ok(200);
    let waiting = &pending["items"][0];
    assert_eq!((&waiting["email"], &waiting["tokens"]), (&json!(ada.email), &json!(12)));
    let decide = |what: &str, id: &Value| {
        let path = format!("/v1/admin/payouts/{id}/{what}");
        api.post(&path, &json!({"note": "seen"})).service()
    };
    decide("paid", &payout["id"]).send().await.problem(409, "wrong_status");
    decide("approve", &payout["id"]).send().await.ok(200);
    assert_eq!(decide("paid", &payout["id"]).send().await.ok(200)["status"], "paid");
    decide("reject", &payout["id"]).send().await.problem(409, "payout_ended");
    decide("approve", &json!(999_999)).send().await.problem(404, "not_found");

    it_all_adds_up(server, &ada, &bob).await;
}

/// After a restart nothing is credited again, and all adds up.
async fn it_all_adds_up(server: Server, ada: &User, bob: &User) {
    let server = server.restart().await;
    let api = &server.api;
    credited(&server, bob).await;
    let all = api.get("/v1/developer/earnings").as_user(ada).send().await.ok(200);
    let credits = |name: &str| all[name].as_i64().unwrap();
    assert_eq!((credits("total_earned"), credits("paid_out"), credits("available")), (20, 12, 8));
    let payouts = api.get("/v1/developer/payouts").as_user(ada).send().await.ok(200);
    assert_eq!(text(&payouts[0]["status"]), "paid");
    server.stop().await;
}
