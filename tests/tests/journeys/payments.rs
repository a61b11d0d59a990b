//! Money coming in: by the sandbox provider as a person uses it, and by a stand-in for Stripe, told
//! twice, late, early, out of order, and at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use hyper::Method;
use journeys::stripe::{PUBLISHABLE_KEY, StripeStandIn};
use journeys::{Answer, Api, Server, User, WELCOME, text};
use serde_json::{Value, json};

/// The first tier.
const TIER: (i64, i64) = (5_000, 500);

fn order(off_session: bool) -> Value {
    json!({"tokens": TIER.0, "price_cents": TIER.1, "off_session": off_session})
}

async fn top_up(api: &Api, user: &User, off_session: bool, key: &str) -> Answer {
    api.post("/v1/billing/topup", &order(off_session)).as_user(user).key(key).send().await
}

async fn get(api: &Api, user: &User, path: &str) -> Value {
    api.get(path).as_user(user).send().await.ok(200)
}

async fn put(api: &Api, user: &User, path: &str, body: &Value) -> Answer {
    api.request(Method::PUT, path).json(body.to_string()).as_user(user).send().await
}

/// Chooses a card on a page of the sandbox; none to confirm.
async fn choose(api: &Api, client_secret: &str, card: &str) -> String {
    act(api, &format!("/sandbox/checkout/{client_secret}"), &format!("method={card}")).await
}

async fn act(api: &Api, path: &str, form: &str) -> String {
    let form = form.to_owned();
    let call = api.request(Method::POST, path).body("application/x-www-form-urlencoded", form);
    let answer = call.send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Adds a card of the sandbox.
async fn add_card(api: &Api, user: &User, card: &str) {
    let setup = api.post("/v1/billing/payment-methods/setup", &json!({})).as_user(user);
    let secret = text(&setup.send().await.ok(200)["client_secret"]);
    assert!(choose(api, &secret, card).await.contains("no money moves"));
}

/// Waits for news to arrive that nobody waits for otherwise.
async fn balance_becomes(api: &Api, user: &User, wanted: i64) {
    while api.balance(user).await != wanted {
        tokio::task::yield_now().await;
    }
}

async fn confirm(api: &Api, intent: &str) -> Answer {
    let body = json!({"payment_intent_id": intent});
    api.post("/v1/billing/topup/confirm", &body).service().send().await
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_are_bought_in_the_sandbox_with_each_of_its_cards() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let terms = get(api, &user, "/v1/billing/topup-config").await;
    assert!(text(&terms["publishable_key"]).starts_with("pk_sandbox_"));
    assert_eq!(terms["tiers"][0], json!({"tokens": TIER.0, "price_cents": TIER.1}));
    let none = top_up(api, &user, true, "none").await;
    let none = none.problem(402, "payment_method_required");
    assert_eq!(none["detail"], "add a payment method first");
    for (tokens, price) in [(TIER.0, TIER.1 - 1), (7, 700), (0, 500), (-5, 500)] {
        let body = json!({"tokens": tokens, "price_cents": price});
        let wrong = api.post("/v1/billing/topup", &body).as_user(&user).send().await;
        wrong.problem(422, "validation_error");
    }
    add_card(api, &user, "pm_sandbox_visa").await;
    let methods = get(api, &user, "/v1/billing/payment-methods").await;
    let wanted = ["id", "type", "brand", "last4", "exp_month", "exp_year", "is_default"];
    assert_eq!(keys(&methods[0]), BTreeSet::from(wanted));
    assert_eq!(methods[0]["is_default"], true);
    let paid = top_up(api, &user, true, "once").await;
    let answer = paid.ok(200);
    assert_eq!((&answer["succeeded"], &answer["client_secret"]), (&json!(true), &json!("")));
    assert_eq!(api.balance(&user).await, WELCOME.0 + TIER.0);
    let again = top_up(api, &user, true, "once").await;
    assert_eq!((again.status, again.bytes), (200, paid.bytes), "the same key, the same answer");
    assert_eq!(api.balance(&user).await, WELCOME.0 + TIER.0);
    let line = api.ledger(&user).await.into_iter().next().unwrap();
    assert_eq!((&line["reason"], &line["amount"]), (&json!("topup"), &json!(TIER.0)));
    add_card(api, &user, "pm_sandbox_declined").await;
    let path = "/v1/billing/payment-methods/pm_sandbox_declined/default";
    put(api, &user, path, &json!({})).await.ok(200);
    let declined = top_up(api, &user, true, "declined").await.problem(402, "payment_declined");
    assert_eq!(declined["provider_code"], "card_declined", "{declined}");
    add_card(api, &user, "pm_sandbox_action").await;
    let path = "/v1/billing/payment-methods/pm_sandbox_action/default";
    put(api, &user, path, &json!({})).await.ok(200);
    let asked = top_up(api, &user, true, "action").await.ok(200);
    assert_eq!((&asked["succeeded"], &asked["requires_action"]), (&json!(false), &json!(true)));
    let page = choose(api, &text(&asked["client_secret"]), "").await;
    assert!(page.contains("It is paid"), "{page}");
    balance_becomes(api, &user, WELCOME.0 + 2 * TIER.0).await;
    let payments = get(api, &user, "/v1/billing/payments").await;
    let wanted = "payment_intent_id amount_cents currency tokens status type created_at \
        completed_at receipt_url";
    assert_eq!(keys(&payments[0]), wanted.split_whitespace().collect());
    let statuses: Vec<_> =
        payments.as_array().unwrap().iter().map(|it| text(&it["status"])).collect();
    assert_eq!(statuses, ["succeeded", "failed", "succeeded"]);
    let page = get(api, &user, "/v1/billing/payments?limit=1&offset=1").await;
    assert_eq!(page[0], payments[1]);
    let path = format!("/v1/billing/internal/payments/{}", user.id);
    assert_eq!(api.get(&path).service().send().await.ok(200), payments);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_sandbox_pay_and_keep_cards_and_open_for_nobody_else() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let checkout = api.post("/v1/billing/checkout", &json!({"tokens": 20_000})).as_user(&user);
    let url = text(&checkout.send().await.ok(200)["url"]);
    let path = url.split_once("/sandbox/").map(|(_, rest)| format!("/sandbox/{rest}")).unwrap();
    let page = api.get(&path).send().await;
    assert!(page.status == 200 && page.text().contains("20.00 USD"), "{}", page.text());
    let wrong = format!("{path}0");
    assert_eq!(api.get(&wrong).send().await.status, 404);
    let declined = act(api, &path, "method=pm_sandbox_declined").await;
    assert!(declined.contains("card_declined"), "{declined}");
    act(api, &path, "method=pm_sandbox_visa").await;
    balance_becomes(api, &user, WELCOME.0 + 20_000).await;
    act(api, &path, "method=pm_sandbox_visa").await;
    let portal = api.post("/v1/billing/portal", &json!({})).as_user(&user);
    let url = text(&portal.send().await.ok(200)["url"]);
    let path = url.split_once("/sandbox/").map(|(_, rest)| format!("/sandbox/{rest}")).unwrap();
    act(api, &path, "method=pm_sandbox_visa&action=add").await;
    act(api, &path, "method=pm_sandbox_action&action=add").await;
    act(api, &path, "method=pm_sandbox_action&action=default").await;
    let methods = get(api, &user, "/v1/billing/payment-methods").await;
    assert_eq!(methods[1]["is_default"], true);
    let path = "/v1/billing/payment-methods/pm_sandbox_visa";
    let delete = || api.request(Method::DELETE, path).as_user(&user);
    delete().send().await.ok(200);
    delete().send().await.problem(404, "not_found");
    let body = json!({"name": "Ada Lovelace", "country": "gb"});
    let profile = put(api, &user, "/v1/billing/profile", &body).await.ok(200);
    assert_eq!((&profile["country"], &profile["vat"]), (&json!("GB"), &json!("")));
    put(api, &user, "/v1/billing/profile", &json!({"name": "A", "country": "xyz"})).await.ok(422);
    let events = api.request(Method::POST, "/v1/webhooks/stripe").json("{}").send().await;
    events.problem(400, "stripe_not_set_up");
    assert_eq!(api.balance(&user).await, WELCOME.0 + 20_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_are_bought_by_themselves_until_a_card_is_declined() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let path = "/v1/billing/auto-topup";
    let auto = json!({"enabled": true, "threshold_pct": 20, "recharge_tokens": 20_000});
    put(api, &user, path, &auto).await.problem(402, "payment_method_required");
    let defaults = get(api, &user, path).await;
    assert_eq!(
        defaults,
        json!({"enabled": false, "threshold_pct": 10, "recharge_tokens": 20_000,
        "recharge_cents": 2_000, "payment_method_id": ""})
    );
    add_card(api, &user, "pm_sandbox_visa").await;
    let named = json!({"enabled": true, "threshold_pct": 20, "recharge_tokens": 20_000,
        "payment_method_id": "pm_sandbox_action"});
    put(api, &user, path, &named).await.problem(404, "not_found");
    let odd = json!({"enabled": true, "threshold_pct": 20, "recharge_tokens": 7});
    put(api, &user, path, &odd).await.problem(422, "validation_error");
    assert_eq!(put(api, &user, path, &auto).await.ok(200)["recharge_cents"], 2_000);
    // A fifth of 20,000 is not reached yet.
    let debit = json!({"amount": 501, "reason": "to be low"});
    api.grant(&api.operator().await, &user.id, 1).await;
    api.post("/v1/billing/debits", &debit).as_user(&user).send().await.ok(201);
    let low = WELCOME.0 - 500;
    assert_eq!(api.balance(&user).await, low, "that is not low yet");
    add_card(api, &user, "pm_sandbox_declined").await;
    let grant = json!({"credits": 20, "kind": "paid", "reason": "for the test"});
    let path_of_grants = format!("/v1/operator/tenants/{}/grants", user.id);
    let operator = api.operator().await;
    api.post(&path_of_grants, &grant).as_user(&operator).send().await.ok(201);
    let auto = json!({"enabled": true, "threshold_pct": 30, "recharge_tokens": 20_000});
    put(api, &user, path, &auto).await.ok(200);
    balance_becomes(api, &user, low + 20 + 20_000).await;
    let payments = get(api, &user, "/v1/billing/payments").await;
    assert_eq!(
        (&payments[0]["type"], &payments[0]["tokens"]),
        (&json!("auto_topup"), &json!(20_000))
    );
    let declined = "/v1/billing/payment-methods/pm_sandbox_declined/default";
    put(api, &user, declined, &json!({})).await.ok(200);
    let debit = json!({"amount": 19_000, "reason": "to be low again"});
    api.post("/v1/billing/debits", &debit).as_user(&user).send().await.ok(201);
    while get(api, &user, path).await["enabled"] == true {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.balance(&user).await, low + 20 + 1_000);
    server.stop().await;
}

/// A server whose payments go to a stand-in, and a user with a card there.
async fn with_stripe(method: &str) -> (Server, Arc<StripeStandIn>, User) {
    let stripe = StripeStandIn::start().await;
    let server = Server::start_with(|settings| stripe.set_up(settings)).await;
    let user = server.api.user("ada").await;
    let setup = server.api.post("/v1/billing/payment-methods/setup", &json!({})).as_user(&user);
    setup.send().await.ok(200);
    stripe.attach(&stripe.customer_of(&user.id).unwrap(), method);
    (server, stripe, user)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stripe_tells_is_credited_once_however_it_comes() {
    let (server, stripe, user) = with_stripe("pm_card").await;
    let api = &server.api;
    let terms = get(api, &user, "/v1/billing/topup-config").await;
    assert_eq!(terms["publishable_key"], PUBLISHABLE_KEY);
    let paid = top_up(api, &user, true, "off").await.ok(200);
    assert_eq!(paid["succeeded"], true);
    let mut expected = WELCOME.0 + TIER.0;
    assert_eq!(api.balance(&user).await, expected);
    // The news come after the answer, twice; and those of another, before anybody has confirmed.
    let mut events = stripe.events();
    let open = top_up(api, &user, false, "on").await.ok(200);
    let intent = text(&open["payment_intent_id"]);
    assert!(text(&open["client_secret"]).starts_with(&intent));
    stripe.pay(&intent, "pm_card");
    events.extend(stripe.events());
    for event in events.iter().chain(&events) {
        assert_eq!(stripe.deliver(api, event).await.unwrap().ok(200)["received"], true);
    }
    expected += TIER.0;
    assert_eq!(api.balance(&user).await, expected);
    assert_eq!(confirm(api, &intent).await.ok(200)["balance"], expected);
    // A page of Stripe's has its intent only once it is paid.
    let checkout = api.post("/v1/billing/checkout", &json!({})).as_user(&user).send().await;
    let intent = stripe.pay_session(&text(&checkout.ok(200)["url"]));
    let answer = confirm(api, &intent).await.ok(200);
    expected += TIER.0;
    assert_eq!((&answer["credited"], &answer["balance"]), (&json!(true), &json!(expected)));
    for event in stripe.events().iter().rev() {
        stripe.deliver(api, event).await.unwrap().ok(200);
    }
    // What is not ours, not known or not signed changes nothing.
    let others = json!({"id": "evt_1", "type": "invoice.paid", "data": {"object": {}}});
    stripe.deliver(api, &others).await.unwrap().ok(200);
    let foreign = json!({"id": "evt_2", "type": "payment_intent.succeeded",
        "data": {"object": {"id": "pi_of_nobody"}}});
    stripe.deliver(api, &foreign).await.unwrap().ok(200);
    stripe.deliver_at(api, &others, 1_000).await.unwrap().problem(400, "signature_invalid");
    let unsigned = api.request(Method::POST, "/v1/webhooks/stripe").json(foreign.to_string());
    unsigned.send().await.problem(400, "signature_invalid");
    confirm(api, "pi_of_nobody").await.problem(404, "not_found");
    let body = json!({"payment_intent_id": intent});
    let call = api.post("/v1/billing/topup/confirm", &body);
    call.as_user(&user).send().await.problem(403, "forbidden");
    assert_eq!(api.balance(&user).await, expected);
    let payments = get(api, &user, "/v1/billing/payments").await;
    assert_eq!(payments.as_array().unwrap().len(), 3);
    assert!(payments[0]["receipt_url"].is_string(), "{payments}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_charges_nobody_twice_and_a_wrong_amount_credits_nobody() {
    let (server, stripe, user) = with_stripe("pm_card").await;
    let api = &server.api;
    stripe.lose_answers(1);
    let paid = top_up(api, &user, true, "lost").await.ok(200);
    assert_eq!((&paid["succeeded"], stripe.intents()), (&json!(true), 1));
    assert_eq!(api.balance(&user).await, WELCOME.0 + TIER.0);
    let open = top_up(api, &user, false, "wrong").await.ok(200);
    let intent = text(&open["payment_intent_id"]);
    stripe.pay(&intent, "pm_card");
    stripe.change(&intent, |it| it["amount_received"] = json!(TIER.1 - 1));
    let answer = confirm(api, &intent).await.ok(200);
    assert_eq!((&answer["status"], &answer["credited"]), (&json!("mismatched"), &json!(false)));
    stripe.change(&intent, |it| it["amount_received"] = json!(TIER.1));
    assert_eq!(confirm(api, &intent).await.ok(200)["status"], "mismatched", "it stays parked");
    assert_eq!(api.balance(&user).await, WELCOME.0 + TIER.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_back_is_taken_and_what_is_not_there_is_owed_until_it_is_paid() {
    let (server, stripe, user) = with_stripe("pm_card").await;
    let api = &server.api;
    let paid = top_up(api, &user, true, "one").await.ok(200);
    let first = text(&paid["payment_intent_id"]);
    let debit = |amount: i64| json!({"amount": amount, "reason": "a walk"});
    let spend = async |amount: i64| {
        api.post("/v1/billing/debits", &debit(amount)).as_user(&user).send().await
    };
    stripe.refund(&first, 100);
    for event in stripe.events() {
        stripe.deliver(api, &event).await.unwrap().ok(200);
    }
    assert_eq!(api.balance(&user).await, WELCOME.0 + 4_000);
    spend(4_400).await.ok(201);
    stripe.dispute(&first);
    for event in stripe.events() {
        stripe.deliver(api, &event).await.unwrap().ok(200);
    }
    // 500 welcome credits were spendable: of the 4,000 that go, 100 are there.
    let wallet = get(api, &user, "/v1/billing/wallet").await;
    assert_eq!(wallet["status"], "past_due");
    let refused = spend(1).await.problem(402, "insufficient_credits");
    assert_eq!(refused["limit"], "arrears", "{refused}");
    top_up(api, &user, true, "two").await.ok(200);
    spend(1).await.ok(201);
    assert_eq!(get(api, &user, "/v1/billing/wallet").await["status"], "active");
    assert_eq!(api.balance(&user).await, WELCOME.0 - 4_400 + TIER.0 - 1);
    let payments = get(api, &user, "/v1/billing/payments").await;
    assert_eq!(payments[1]["status"], "disputed");
    server.stop().await;
}

/// Everything at once, on both providers: credits come once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_news_and_confirmations_credits_each_payment_once() {
    let (server, stripe, user) = with_stripe("pm_card").await;
    let api = &server.api;
    let opened = (0..8).map(|number| {
        let user = &user;
        async move {
            let answer = top_up(api, user, number % 2 == 0, &format!("storm-{number}")).await;
            text(&answer.ok(200)["payment_intent_id"])
        }
    });
    let intents = join_all(opened).await;
    for intent in intents.iter().skip(1).step_by(2) {
        stripe.pay(intent, "pm_card");
    }
    let events = stripe.events();
    let told = (0..3).flat_map(|_| &events).map(|event| stripe.deliver(api, event));
    let confirmed = (0..3).flat_map(|_| &intents).map(|intent| confirm(api, intent));
    let (told, confirmed) = tokio::join!(join_all(told), join_all(confirmed));
    for answer in told.into_iter().map(Result::unwrap).chain(confirmed) {
        answer.ok(200);
    }
    assert_eq!(api.balance(&user).await, WELCOME.0 + 8 * TIER.0);
    let ledger = api.ledger(&user).await;
    assert_eq!(ledger.iter().filter(|line| line["reason"] == "topup").count(), 8);
    server.stop().await;

    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("bob").await);
    let opened = (0..6).map(|number| {
        let user = &user;
        async move { top_up(api, user, false, &format!("storm-{number}")).await.ok(200) }
    });
    let opened = join_all(opened).await;
    let paid = (0..3).flat_map(|_| &opened).map(async |open| {
        choose(api, &text(&open["client_secret"]), "pm_sandbox_visa").await;
        confirm(api, &text(&open["payment_intent_id"])).await.ok(200);
    });
    join_all(paid).await;
    assert_eq!(api.balance(&user).await, WELCOME.0 + 6 * TIER.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_provider_nothing_can_be_bought_and_every_route_says_so() {
    let server = Server::start_with(|settings| settings.sandbox_payments = false).await;
    let ada = server.api.user("ada").await;
    let order = json!({"tokens": 5_000, "price_cents": 500});
    for path in ["topup", "checkout", "portal", "payment-methods/setup"] {
        let path = format!("/v1/billing/{path}");
        let refused = server.api.post(&path, &order).as_user(&ada).send().await.ok(409);
        assert_eq!(refused["error"], "payments_not_configured", "{path}");
    }
    let subscribe = json!({"plan_id": "pro"});
    let refused = server.api.post("/v1/billing/subscribe", &subscribe).as_user(&ada);
    assert_eq!(refused.send().await.ok(402)["error"], "payment_method_required");
    let methods = server.api.get("/v1/billing/payment-methods").as_user(&ada).send().await.ok(200);
    assert_eq!(methods, json!([]));
    server.stop().await;
}
