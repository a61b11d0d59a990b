//! Spending limits: set, hit, warned of, raced and removed; what is used; and what a role allows.

use futures::{StreamExt as _, stream};
use hyper::Method;
use journeys::{Answer, Api, Server, User, text};
use serde_json::{Value, json};

use super::roles::{bearer, join};

/// How many calls race, and how many of them are paid for. The full size is the load scenario
/// `race`.
const RACE: (usize, usize) = (400, 40);
/// How many of them are under way at once.
const AT_ONCE: usize = 64;
/// What a call of `books` costs: the app's price and the platform's fee.
const BOOKS: i64 = 2;

async fn set(api: &Api, token: &str, limit: &str, amount: i64) -> Answer {
    let path = format!("/v1/billing/limits/{limit}");
    let put = api.request(Method::PUT, &path).json(json!({"amount": amount}).to_string());
    put.bearer(token).send().await
}

async fn remove(api: &Api, token: &str, limit: &str) -> Answer {
    let path = format!("/v1/billing/limits/{limit}");
    api.request(Method::DELETE, &path).bearer(token).send().await
}

async fn debit(api: &Api, token: &str, body: Value) -> Answer {
    api.post("/v1/billing/debits", &body).bearer(token).send().await
}

async fn call(api: &Api, token: &str, app: &str) -> Answer {
    let path = format!("/v1/extensions/{app}/call");
    api.post(&path, &json!({"function": "books"})).bearer(token).send().await
}

async fn usage(api: &Api, token: &str) -> Value {
    api.get("/v1/billing/usage").bearer(token).send().await.ok(200)
}

/// Limits by user, key, app and tenant, and who may set them.
async fn each_is_kept_by_whom_it_is_on(api: &Api, ada: &User) {
    let token = &ada.token;
    let user = format!("user:{}/day", ada.id);
    let limit = set(api, token, &user, 100).await.ok(200);
    assert_eq!((&limit["amount"], &limit["remaining"]), (&json!(100), &json!(100)));
    assert_eq!((&limit["action"], &limit["window"]), (&json!("refuse"), &json!("day")));
    assert!(text(&limit["resets_at"]).ends_with("T00:00:00.000Z"));
    assert_eq!(set(api, token, &user, 100).await.ok(200), limit, "a repetition");

    let mut events = api.get("/v1/events/stream").as_user(ada).events().await;
    debit(api, token, json!({"amount": 79, "reason": "r"})).await.ok(201);
    debit(api, token, json!({"amount": 2, "reason": "r"})).await.ok(201);
    let told = events.until("wallet.limit_warning").await;
    let warning = &told.last().unwrap().data;
    assert_eq!((&warning["percent"], &warning["used"]), (&json!(80), &json!(81)));
    assert_eq!(warning["limit"], user);
    let refused = debit(api, token, json!({"amount": 20, "reason": "r"})).await;
    let refused = refused.problem(402, "limit_reached");
    assert_eq!((&refused["limit"], &refused["price"]), (&json!(user), &json!(20)));
    assert_eq!(refused["spending_limit"]["spent"], 81);
    let held = json!({"amount": 20, "ttl_seconds": 60, "reason": "r"});
    let hold = api.post("/v1/billing/holds", &held).bearer(token).send().await;
    hold.problem(402, "limit_reached");
    let quote = json!({"calls": vec![json!({"function": "books"}); 10]});
    let quote = api.post("/v1/extensions/shelf/quote", &quote).bearer(token).send().await.ok(200);
    assert_eq!((&quote["total"], &quote["limit"]), (&json!(10 * BOOKS), &json!(user)));
    remove(api, token, &user).await.ok(200);
    remove(api, token, &user).await.problem(404, "not_found");

    let key = json!({"name": "narrow", "scopes": "wallet:spend wallet:read"});
    let key = api.post("/v1/keys", &key).bearer(token).send().await.ok(201);
    let (id, key) = (text(&key["id"]), text(&key["key"]));
    let limit = format!("key:{id}/total");
    set(api, &key, &limit, 1_000).await.problem(403, "forbidden");
    remove(api, &key, &limit).await.problem(403, "forbidden");
    set(api, token, &limit, 5).await.ok(200);
    debit(api, &key, json!({"amount": 5, "reason": "r"})).await.ok(201);
    let refused = debit(api, &key, json!({"amount": 1, "reason": "r"})).await;
    assert_eq!(refused.problem(402, "limit_reached")["limit"], limit);
    debit(api, token, json!({"amount": 1, "reason": "r"})).await.ok(201);
    let seen = api.get("/v1/billing/limits").bearer(&key).send().await.ok(200);
    assert_eq!(seen.as_array().unwrap().len(), 1);

    set(api, token, "app:shelf/month", 10).await.ok(200);
    let on_app = json!({"amount": 11, "reason": "r", "app_id": "shelf"});
    let refused = debit(api, token, on_app).await.problem(402, "limit_reached");
    assert_eq!(refused["limit"], "app:shelf/month");
    remove(api, token, "app:shelf/month").await.ok(200);
    remove(api, token, &limit).await.ok(200);
}

async fn what_makes_no_sense_is_refused(api: &Api, ada: &User, bob: &User) {
    let token = &ada.token;
    for limit in ["nobody/day", "user:x/day", "tenant/year", "app:A/day"] {
        set(api, token, limit, 1).await.problem(422, "validation_error");
        remove(api, token, limit).await.problem(404, "not_found");
    }
    set(api, token, "tenant/day", -1).await.problem(422, "validation_error");
    set(api, token, &format!("user:{}/day", bob.id), 1).await.problem(404, "not_found");
}

/// An operator limits any tenant; nobody else does.
async fn an_operator_limits_a_tenant(api: &Api, ada: &User) {
    let operator = api.operator().await;
    let path = format!("/v1/operator/tenants/{}/limits", ada.id);
    let month = format!("{path}/tenant/month");
    let put = |by: &User| {
        let put = api.request(Method::PUT, &month).json(json!({"amount": 0}).to_string());
        put.as_user(by).send()
    };
    put(ada).await.problem(403, "forbidden");
    put(&operator).await.ok(200);
    let refused = debit(api, &ada.token, json!({"amount": 1, "reason": "r"})).await;
    assert_eq!(refused.problem(402, "limit_reached")["limit"], "tenant/month");
    let used = usage(api, &ada.token).await;
    assert_eq!(used["limits"]["credits_month"], 0);
    assert_eq!(used["exceeded"], json!(["credits_month"]));
    let all = api.get(&path).as_user(&operator).send().await.ok(200);
    assert_eq!(all[0]["subject"], "tenant");
    let shown = api.get(&format!("/v1/operator/actors/wallet/{}", ada.id)).as_user(&operator);
    assert_eq!(shown.send().await.ok(200)["state"]["limits"][0]["window"], "month");
    let gone = api.request(Method::DELETE, &month).as_user(&operator).send().await;
    gone.ok(200);
    debit(api, &ada.token, json!({"amount": 1, "reason": "r"})).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_set_hit_warned_of_and_removed() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    api.shelf(&ada, "shelf").await;
    each_is_kept_by_whom_it_is_on(api, &ada).await;
    what_makes_no_sense_is_refused(api, &ada, &bob).await;
    an_operator_limits_a_tenant(api, &ada).await;
    // What was counted is counted after a restart, too.
    set(api, &ada.token, "tenant/total", 50).await.ok(200);
    debit(api, &ada.token, json!({"amount": 30, "reason": "r"})).await.ok(201);
    let limits = api.get("/v1/billing/limits").as_user(&ada).send().await.ok(200);
    assert_eq!((&limits[0]["spent"], &limits[0]["resets_at"]), (&json!(30), &Value::Null));
    let server = server.restart().await;
    let again = server.api.get("/v1/billing/limits").as_user(&ada).send().await.ok(200);
    assert_eq!(again, limits);
    debit(&server.api, &ada.token, json!({"amount": 21, "reason": "r"})).await.ok(402);
    server.stop().await;
}

/// So many calls at once, for as many credits as pay a few of them: how many were answered.
async fn race(api: &Api, user: &User, app: &str, code: &str) -> usize {
    let calls = (0..RACE.0).map(|_| call(api, &user.token, app));
    let answers: Vec<Answer> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    let (paid, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 200);
    for answer in &paid {
        assert_eq!(answer.ok(200)["status"], "success");
    }
    for answer in refused {
        answer.problem(402, code);
    }
    paid.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_calls_at_once_exactly_those_are_done_that_are_paid_for() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, operator) = (api.user("ada").await, api.operator().await);
    api.grant(&operator, &ada.id, 1_000).await;
    api.shelf(&ada, "shelf").await;
    let enough = BOOKS * RACE.1 as i64;
    let mut balance = api.balance(&ada).await;
    let limits = ["app:shelf/month".to_owned(), format!("user:{}/day", ada.id)];
    for limit in limits {
        set(api, &ada.token, &limit, enough).await.ok(200);
        assert_eq!(race(api, &ada, "shelf", "limit_reached").await, RACE.1, "{limit}");
        balance -= enough;
        assert_eq!(api.settled_balance(&ada).await, balance, "{limit}");
        let stands = remove(api, &ada.token, &limit).await.ok(200);
        let figures = ["spent", "held", "remaining"].map(|name| stands[name].as_i64().unwrap());
        assert_eq!(figures, [enough, 0, 0], "{limit}");
    }
    let hold = json!({"amount": 1, "ttl_seconds": 60, "reason": "how much is there?"});
    let hold = api.post("/v1/billing/holds", &hold).as_user(&ada).send().await.ok(201);
    let path = format!("/v1/billing/holds/{}/release", text(&hold["id"]));
    api.post(&path, &json!({})).as_user(&ada).send().await.ok(200);
    let rest = hold["available"].as_i64().unwrap() + 1 - enough;
    debit(api, &ada.token, json!({"amount": rest, "reason": "the rest"})).await.ok(201);
    assert_eq!(race(api, &ada, "shelf", "insufficient_credits").await, RACE.1);
    balance -= rest + enough;
    assert_eq!(api.settled_balance(&ada).await, balance);
    let ledger = api.ledger(&ada).await;
    let sum: i64 = ledger.iter().map(|line| line["amount"].as_i64().unwrap()).sum();
    assert_eq!(sum, balance);
    let calls = ledger.iter().filter(|line| line["amount"] == -BOOKS);
    assert_eq!(calls.count(), 3 * RACE.1);
    let used = usage(api, &ada.token).await;
    assert_eq!(used["usage"]["own_actions"], 3 * RACE.1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_lets_its_members_do_so_many_actions_a_month() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    api.shelf(&ada, "shelf").await;
    let role = json!({"name": "clerk", "default_scopes": ["extensions:*", "wallet:read"],
        "monthly_action_limit": 5});
    api.post("/v1/roles", &role).as_user(&ada).send().await.ok(201);
    let token = bearer(&join(&server, &ada, &bob, "clerk").await);
    let calls = (0..20).map(|_| call(api, &token, "shelf"));
    let answers: Vec<Answer> = stream::iter(calls).buffer_unordered(20).collect().await;
    let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 200);
    assert_eq!((done.len(), refused.len()), (5, 15));
    let refused = refused[0].problem(429, "monthly_action_limit");
    assert_eq!((&refused["limit"], &refused["used"]), (&json!(5), &json!(5)));
    let used = usage(api, &token).await;
    assert_eq!(
        (&used["usage"]["own_actions"], &used["limits"]["own_actions"]),
        (&5.into(), &5.into())
    );
    assert_eq!(used["exceeded"], json!(["own_actions"]));
    assert_eq!(used["usage"]["members"], 2);
    // The owner's role has no such limit.
    call(api, &ada.token, "shelf").await.ok(200);

    // What a service asks for a member is the same, and so is what it has metered.
    let path = format!("/v1/billing/internal/user-limits/{}", bob.id);
    let of_bob = || api.get(&path).service().header("x-tenant-id", &ada.id);
    let seen = of_bob().send().await.ok(200);
    assert_eq!(seen["usage"]["own_actions"], 5);
    let meter = json!({"user_id": bob.id, "tenant_id": "default", "meter": "pages", "quantity": 4});
    let track = || api.post("/v1/billing/internal/usage/track", &meter).service().key("m");
    for _ in 0..2 {
        let tracked = track().header("x-tenant-id", &ada.id).send().await.ok(200);
        assert_eq!(tracked, json!({"meter": "pages", "quantity": 4}));
    }
    assert_eq!(of_bob().send().await.ok(200)["usage"]["pages"], 4);
    let path = format!("/v1/billing/internal/balance/{}", ada.id);
    let balance = api.get(&path).service().send().await.ok(200);
    assert_eq!(balance["balance"], api.settled_balance(&ada).await);
    api.get(&path).as_user(&ada).send().await.problem(403, "forbidden");
    let path = format!("/v1/billing/internal/subscription/{}", ada.id);
    let plan = api.get(&path).service().send().await.ok(200);
    assert_eq!((&plan["plan"], &plan["status"]), (&json!("free"), &json!("active")));
    let stranger = format!("/v1/billing/internal/balance/{}", bob.id);
    let other = api.get(&stranger).service().header("x-tenant-id", &ada.id).send().await;
    other.ok(200);
    server.stop().await;
}
