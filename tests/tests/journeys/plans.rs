//! Plans: what operators arrange, what a tenant orders by itself, and what a plan lets it have.
//!
//! Nobody here has a payment method; in a sandbox every payment succeeds, and time is moved.

use gateway::verify::{self, VerifyArgs};
use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, text};
use serde_json::{Value, json};

const DAY_SECONDS: i64 = 24 * 60 * 60;

async fn get(api: &Api, user: &User, path: &str) -> Value {
    api.get(path).as_user(user).send().await.ok(200)
}

/// The wallet, once it shows this plan: it is told of a change right after the answer.
async fn wallet_on(api: &Api, user: &User, plan: &str) -> Value {
    loop {
        let wallet = get(api, user, "/v1/billing/wallet").await;
        if wallet["plan"] == plan {
            return wallet;
        }
        tokio::task::yield_now().await;
    }
}

async fn arrange(api: &Api, operator: &User, tenant: &str, body: Value) -> Answer {
    let path = format!("/v1/operator/tenants/{tenant}/plan");
    api.request(Method::PUT, &path).json(body.to_string()).as_user(operator).send().await
}

async fn post(api: &Api, user: &User, path: &str, body: Value) -> Answer {
    api.post(&format!("/v1/billing/{path}"), &body).as_user(user).send().await
}

fn names_of(answer: &Value) -> Vec<String> {
    answer.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_is_arranged_is_shown_everywhere_and_limits_what_there_may_be() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, operator) = (api.user("ada").await, api.operator().await);
    let free = get(api, &ada, "/v1/billing/subscription").await;
    let shown = ["plan", "status", "started_at", "expires_at", "billing_mode", "card_required"];
    let shown = shown.map(|key| free[key].clone());
    assert_eq!(json!(shown), json!(["free", "active", null, null, "free", false]));
    let mut events = api.get("/v1/events/stream").as_user(&ada).events().await;

    let key = |name: &str| {
        let body = json!({"name": name, "scopes": "wallet:read"});
        api.post("/v1/keys", &body).as_user(&ada).key(name).send()
    };
    for number in 0..10 {
        key(&format!("k{number}")).await.ok(201);
    }
    let refused = key("k10").await.problem(402, "plan_limit_reached");
    let named = ["plan", "meter", "limit", "used"].map(|key| refused[key].clone());
    assert_eq!(json!(named), json!(["free", "api_keys", 10, 10]));
    key("k9").await.ok(201);
    let body = json!({"name": "one more"});
    for path in ["/v1/api-keys", "/api/v1/auth/api-keys"] {
        let refused = api.post(path, &body).as_user(&ada).send().await;
        refused.problem(402, "plan_limit_reached");
    }
    let usage = get(api, &ada, "/v1/billing/usage").await;
    let counted = (&usage["plan"], &usage["usage"]["api_keys"], &usage["limits"]["api_keys"]);
    assert_eq!(counted, (&json!("free"), &json!(10), &json!(10)));
    assert!(usage["exceeded"].as_array().unwrap().contains(&json!("api_keys")));

    let agreed = json!({"plan_id": "starter", "period": "yearly", "contract_amount_cents": 15_000,
        "note": "by contract"});
    let view = arrange(api, &operator, &ada.id, agreed.clone()).await.ok(200);
    assert_eq!((&view["billing_mode"], &view["card_required"]), (&json!("manual"), &json!(false)));
    let noted = (&view["contract_amount_cents"], &view["billing_note"]);
    assert_eq!(noted, (&json!(15_000), &json!("by contract")));
    let wallet = wallet_on(api, &ada, "starter").await;
    assert_eq!((&wallet["included_tokens"], &wallet["status"]), (&json!(15_000), &json!("active")));
    assert_eq!(api.balance(&ada).await, 5_000 + 15_000);
    assert_eq!(api.ledger(&ada).await[0]["reason"], "plan_credit");
    assert_eq!(arrange(api, &operator, &ada.id, agreed).await.ok(200), view, "a repetition");
    assert_eq!(api.balance(&ada).await, 5_000 + 15_000);
    let told = events.until("subscription.begun").await;
    assert_eq!(told.last().unwrap().data["plan"], "starter");
    key("k10").await.ok(201);
    let usage = get(api, &ada, "/v1/billing/usage").await;
    assert_eq!((&usage["plan"], &usage["limits"]["api_keys"]), (&json!("starter"), &json!(25)));
    for (path, body) in [("subscribe", json!({"plan_id": "pro"})), ("cancel", json!({}))] {
        post(api, &ada, path, body).await.problem(409, "plan_is_managed");
    }
    as_services_see_it(api, &ada, &view).await;

    for (body, field) in [
        (json!({"plan_id": "gold"}), "plan_id"),
        (json!({"plan_id": "pro", "period": "daily"}), "period"),
        (json!({"plan_id": "pro", "contract_amount_cents": -1}), "contract_amount_cents"),
    ] {
        let refused = arrange(api, &operator, &ada.id, body).await;
        let refused = refused.problem(422, "validation_error");
        assert_eq!(refused["details"][0]["field"], field, "{refused}");
    }
    let nobody = arrange(api, &operator, "imp_t_x", json!({"plan_id": "pro"})).await;
    nobody.problem(404, "not_found");
    arrange(api, &operator, &ada.id, json!({"plan_id": "free"})).await.ok(200);
    assert_eq!(wallet_on(api, &ada, "free").await["balance"], 20_000, "nothing is taken back");
    api.get("/v1/actions/verify").as_user(&ada).send().await.ok(200);
    server.stop().await;
}

async fn as_services_see_it(api: &Api, user: &User, view: &Value) {
    let path = format!("/v1/billing/internal/subscription/{}", user.id);
    let seen = api.get(&path).service().send().await.ok(200);
    assert_eq!(seen, *view);
    let path = format!("/v1/billing/internal/balance/{}", user.id);
    assert_eq!(api.get(&path).service().send().await.ok(200)["plan"], "starter");
    let path = format!("/v1/billing/internal/user-limits/{}", user.id);
    assert_eq!(api.get(&path).service().send().await.ok(200)["plan"], "starter");
    api.get(&path).as_user(user).send().await.problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_payment_method_nothing_is_ordered_and_few_may_order() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = api.user("ada").await;
    let refused = post(api, &ada, "subscribe", json!({"plan_id": "pro"})).await;
    let refused = refused.problem(402, "payment_method_required");
    assert_eq!((&refused["amount_cents"], &refused["plan"]), (&json!(4_500), &json!("pro")));
    for (plan, status, code) in [
        ("starter", 403, "plan_not_self_service"),
        ("free", 403, "plan_not_self_service"),
        ("gold", 422, "validation_error"),
    ] {
        post(api, &ada, "subscribe", json!({"plan_id": plan})).await.problem(status, code);
    }
    post(api, &ada, "subscribe", json!({})).await.problem(422, "validation_error");
    for path in ["cancel", "resume", "renew"] {
        post(api, &ada, path, json!({})).await.problem(409, "no_subscription");
    }
    let change = post(api, &ada, "change-plan", json!({"plan_id": "pro"})).await;
    change.problem(409, "no_subscription");
    assert_eq!(get(api, &ada, "/v1/billing/subscription").await["plan"], "free");

    let key = json!({"name": "spender", "scopes": "wallet:spend wallet:read"});
    let key = text(&api.post("/v1/keys", &key).as_user(&ada).send().await.ok(201)["key"]);
    for path in ["subscribe", "change-plan", "cancel", "resume", "renew"] {
        let body = json!({"plan_id": "pro"});
        let refused = api.post(&format!("/v1/billing/{path}"), &body).bearer(&key).send().await;
        refused.problem(403, "forbidden");
    }
    api.get("/v1/billing/subscription").bearer(&key).send().await.ok(200);
    server.stop().await;
}

/// A user in another of their tenants.
async fn log_in(api: &Api, user: &User, tenant: &str) -> User {
    let login = json!({"email": user.email, "password": PASSWORD, "tenant_id": tenant});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    User { token: text(&tokens["access_token"]), ..user.clone() }
}

/// A sandbox of a user's tenant, and its owner in it.
async fn sandbox(api: &Api, user: &User) -> (String, User) {
    let path = format!("/v1/tenants/{}/sandbox", user.id);
    let made = api.post(&path, &json!({})).as_user(user).send().await.ok(201);
    let tenant = text(&made["tenant_id"]);
    let there = log_in(api, user, &tenant).await;
    (tenant, there)
}

/// Days pass in a sandbox, which sessions do not outlive.
async fn pass(api: &Api, there: &User, tenant: &str, days: i64) -> User {
    let clock = json!({"advance_seconds": days * DAY_SECONDS});
    let path = format!("/v1/tenants/{tenant}/clock");
    api.post(&path, &clock).as_user(there).send().await.ok(200);
    log_in(api, there, tenant).await
}

async fn order(api: &Api, user: &User, (key, path): (&str, &str), body: Value) -> Answer {
    api.post(&format!("/v1/billing/{path}"), &body).as_user(user).key(key).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_sandbox_a_subscription_lives_through_its_periods_and_nothing_is_collected() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, operator) = (api.user("ada").await, api.operator().await);
    let agreed = json!({"plan_id": "starter"});
    arrange(api, &operator, &ada.id, agreed).await.ok(200);
    wallet_on(api, &ada, "starter").await;
    let (tenant, mine) = sandbox(api, &ada).await;
    assert_eq!(wallet_on(api, &mine, "starter").await["balance"], 20_000, "it goes along");
    arrange(api, &operator, &tenant, json!({"plan_id": "free"})).await.ok(200);

    let done = order(api, &mine, ("s", "subscribe"), json!({"plan_id": "pro"})).await;
    assert_eq!(done.headers["cache-control"], "no-store");
    let done = done.ok(200);
    let keys = names_of(&done);
    let expected = [
        "action",
        "plan",
        "succeeded",
        "requires_action",
        "client_secret",
        "effective_at",
        "pending",
    ];
    assert_eq!(keys, expected);
    assert_eq!((&done["action"], &done["succeeded"]), (&json!("subscribe"), &json!(true)));
    assert_eq!(
        order(api, &mine, ("s", "subscribe"), json!({"plan_id": "pro"})).await.ok(200),
        done
    );
    let other = order(api, &mine, ("s", "subscribe"), json!({"plan_id": "business"})).await;
    other.problem(422, "idempotency_key_reused");
    assert_eq!(wallet_on(api, &mine, "pro").await["balance"], 70_000);
    let again = order(api, &mine, ("t", "subscribe"), json!({"plan_id": "pro"})).await;
    again.problem(409, "already_subscribed");
    let up = order(api, &mine, ("u", "change-plan"), json!({"plan_id": "business"})).await.ok(200);
    assert_eq!((&up["action"], &up["pending"]), (&json!("upgrade"), &json!(false)));
    let wallet = wallet_on(api, &mine, "business").await;
    assert_eq!(wallet["cap"].as_i64().unwrap(), wallet["balance"].as_i64().unwrap().max(200_000));
    let down = order(api, &mine, ("d", "change-plan"), json!({"plan_id": "pro"})).await.ok(200);
    assert_eq!((&down["action"], &down["pending"]), (&json!("downgrade"), &json!(true)));
    let stands = get(api, &mine, "/v1/billing/subscription").await;
    assert_eq!(down["effective_at"], stands["expires_at"]);
    assert_eq!((&stands["plan"], &stands["billing_mode"]), (&json!("business"), &json!("card")));

    let mine = pass(api, &mine, &tenant, 32).await;
    wallet_on(api, &mine, "pro").await;
    let ended = order(api, &mine, ("c", "cancel"), json!({})).await.ok(200);
    let keys = names_of(&ended);
    assert_eq!(keys, ["status", "plan", "expires_at", "cancel_at_period_end"]);
    assert_eq!(ended["cancel_at_period_end"], true);
    let resumed = order(api, &mine, ("r", "resume"), json!({})).await.ok(200);
    assert_eq!(resumed["cancel_at_period_end"], false);
    order(api, &mine, ("n", "renew"), json!({})).await.problem(409, "not_expired");
    order(api, &mine, ("e", "cancel"), json!({})).await.ok(200);
    let mine = pass(api, &mine, &tenant, 32).await;
    wallet_on(api, &mine, "free").await;
    let stands = get(api, &mine, "/v1/billing/subscription").await;
    assert_eq!((&stands["plan"], &stands["status"]), (&json!("pro"), &json!("cancelled")));
    assert_eq!(get(api, &ada, "/v1/billing/subscription").await["plan"], "starter");
    let verified = get(api, &mine, "/v1/actions/verify").await;
    assert_eq!(verified["verified"], true);
    let folder = server.halt().await;
    verify::run(&VerifyArgs::folder(folder.path().to_owned())).await.unwrap();
}
