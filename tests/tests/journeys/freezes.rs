//! Freezing over HTTP: nothing of a frozen tenant, user or app gets in, the receipt says what was
//! stopped, it stands after a restart, and all is as it was once it goes on.

use journeys::{Answer, Api, OPERATOR, PASSWORD, Server, User, WELCOME, text};
use serde_json::{Value, json};
use types::{UserId, home_of};

async fn act(api: &Api, operator: &User, path: &str, body: &Value) -> Answer {
    api.post(&format!("/v1/operator/{path}"), body).as_user(operator).send().await
}

fn why(class: &str) -> Value {
    json!({"reason": "for the test", "reason_class": class})
}

/// The refusal of whoever is frozen: what and which class, and not a word of the operator's.
#[track_caller]
fn is_frozen(answer: &Answer, what: &str, class: &str) {
    let problem = answer.problem(403, "frozen");
    assert_eq!((&problem["frozen"], &problem["reason_class"]), (&json!(what), &json!(class)));
    assert!(!problem.to_string().contains("for the test"), "{problem}");
}

async fn debit(api: &Api, user: &User) -> Answer {
    let body = json!({"amount": 1, "reason": "r"});
    api.post("/v1/billing/debits", &body).as_user(user).send().await
}

async fn log_in(api: &Api, email: &str) -> Answer {
    let body = json!({"email": email, "password": PASSWORD});
    api.post("/v1/auth/login", &body).send().await
}

/// How many of an operator's acts stand in the chain of a user's tenant.
fn acts_in_chain(server: &Server, user: &User) -> usize {
    let home = home_of(user.id.parse::<UserId>().unwrap().direct_tenant());
    let journal = server.running.app.system.journal();
    let records = journal.read_chain(home, 0, false, 10_000).unwrap();
    let is_act = |stream: &str| stream.starts_with("operator_act/");
    records.iter().filter(|record| is_act(record.header.stream.as_str())).count()
}

/// Wherever an operator looks for it.
async fn is_shown(api: &Api, operator: &User, user: &User, receipt: &Value) {
    let list = api.get("/v1/operator/frozen").as_user(operator).send().await.ok(200);
    assert_eq!(list["items"][0]["id"], receipt["id"], "{list}");
    let tenant = format!("/v1/tenants/{}", user.id);
    let shown = api.get(&tenant).as_user(operator).send().await.ok(200);
    assert_eq!(&shown["frozen"], receipt);
    let page = format!("/v1/operator/actors/tenant/{}", user.id);
    let page = api.get(&page).as_user(operator).send().await.ok(200);
    assert_eq!(&page["freeze"], receipt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_tenant_stands_still_with_a_receipt_through_a_restart_until_it_goes_on() {
    let mut server = Server::start().await;
    let api = server.api.clone();
    let (user, other, operator) =
        (api.user("ada").await, api.user("bob").await, api.operator().await);
    let key = json!({"name": "k", "scopes": "*"});
    let key = api.post("/v1/keys", &key).as_user(&user).send().await.ok(201);
    let key = text(&key["key"]);
    let hold = json!({"amount": 5, "ttl_seconds": 600, "reason": "mine"});
    let hold = api.post("/v1/billing/holds", &hold).as_user(&user).send().await.ok(201);
    debit(&api, &user).await.ok(201);
    let acts_before = acts_in_chain(&server, &user);

    let path = format!("tenants/{}/freeze", user.id);
    let receipt = act(&api, &operator, &path, &why("security")).await.ok(200);
    assert_eq!((&receipt["kind"], &receipt["status"]), (&json!("tenant"), &json!("frozen")));
    let stopped = &receipt["receipt"];
    let item = json!({"kind": "hold", "id": hold["id"], "outcome": "released"});
    assert_eq!(stopped["items"], json!([item]), "{receipt}");
    assert_eq!((&stopped["credits_released"], &stopped["requests_left"]), (&json!(5), &json!(0)));
    assert!(stopped["took_ms"].as_i64() >= Some(0), "{receipt}");

    let refresh = json!({"refresh_token": user.refresh});
    let me = || api.get("/v1/auth/me");
    let service = || api.get("/v1/billing/balance").service().header("x-tenant-id", &user.id);
    let everywhere = async |api: &Api| {
        is_frozen(&me().as_user(&user).send().await, "tenant", "security");
        is_frozen(&me().bearer(&key).send().await, "tenant", "security");
        is_frozen(&debit(api, &user).await, "tenant", "security");
        is_frozen(&service().send().await, "tenant", "security");
        is_frozen(&log_in(api, &user.email).await, "tenant", "security");
        let refreshed = api.post("/v1/auth/refresh", &refresh).send().await;
        is_frozen(&refreshed, "tenant", "security");
    };
    everywhere(&api).await;
    // Who does not know the password learns nothing.
    let wrong = json!({"email": user.email, "password": "not-the-password"});
    let wrong = api.post("/v1/auth/login", &wrong).send().await;
    wrong.problem(401, "invalid_credentials");
    debit(&api, &other).await.ok(201);

    // Once more is the same freeze, whatever is said.
    let again = act(&api, &operator, &path, &why("abuse")).await.ok(200);
    assert_eq!(again, receipt);
    is_shown(&api, &operator, &user, &receipt).await;

    server = server.restart().await;
    let api = server.api.clone();
    let me = || api.get("/v1/auth/me");
    let operator = api.operator().await;
    is_frozen(&me().as_user(&user).send().await, "tenant", "security");
    let again = act(&api, &operator, &path, &why("other")).await.ok(200);
    assert_eq!(again, receipt);

    let resume = format!("tenants/{}/resume", user.id);
    let go_on = json!({"reason": "all is well"});
    let resumed = act(&api, &operator, &resume, &go_on).await.ok(200);
    assert_eq!((&resumed["status"], &resumed["receipt"]), (&json!("resumed"), stopped));
    assert_eq!(act(&api, &operator, &resume, &go_on).await.ok(200), resumed);
    me().as_user(&user).send().await.ok(200);
    me().bearer(&key).send().await.ok(200);
    api.post("/v1/auth/refresh", &refresh).send().await.ok(200);
    log_in(&api, &user.email).await.ok(200);
    debit(&api, &user).await.ok(201);
    let balance = api.get("/v1/billing/balance").as_user(&user).send().await.ok(200);
    assert_eq!(balance["balance"], WELCOME.0 - 2);
    let path = format!("/v1/billing/holds/{}/capture", text(&hold["id"]));
    let ended = api.post(&path, &json!({})).as_user(&user).send().await;
    ended.problem(409, "hold_ended");
    let tenant = format!("/v1/tenants/{}", user.id);
    let shown = api.get(&tenant).as_user(&operator).send().await.ok(200);
    assert!(shown.get("frozen").is_none(), "{shown}");
    // The freeze, its receipt and the end of it, in the tenant's own chain, which verifies.
    assert_eq!(acts_in_chain(&server, &user) - acts_before, 3);
    let verified = api.get("/v1/actions/verify").as_user(&user).send().await.ok(200);
    assert_eq!(verified["verified"], true, "{verified}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_user_and_a_frozen_app_leave_others_alone() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, other, operator) =
        (api.user("ada").await, api.user("bob").await, api.operator().await);
    api.shelf(&user, "shelf").await;
    let call = json!({"function": "books"});
    let call =
        async |user: &User| api.post("/v1/extensions/shelf/call", &call).as_user(user).send().await;
    call(&user).await.ok(200);
    act(api, &operator, "apps/shelf/freeze", &why("abuse")).await.ok(200);
    is_frozen(&call(&user).await, "app", "abuse");
    call(&other).await.problem(404, "not_found");
    debit(api, &user).await.ok(201);
    act(api, &operator, "apps/shelf/resume", &json!({"reason": "r"})).await.ok(200);
    call(&user).await.ok(200);

    let path = format!("users/{}/freeze", user.id);
    act(api, &operator, &path, &why("other")).await.ok(200);
    is_frozen(&debit(api, &user).await, "user", "other");
    is_frozen(&log_in(api, &user.email).await, "user", "other");
    let service = api.get("/v1/billing/balance").service();
    service.clone().header("x-tenant-id", &user.id).send().await.ok(200);
    let acting = service.header("x-tenant-id", &user.id).header("x-acting-user", &user.id);
    is_frozen(&acting.send().await, "user", "other");
    let path = format!("users/{}/resume", user.id);
    act(api, &operator, &path, &json!({"reason": "r"})).await.ok(200);
    debit(api, &user).await.ok(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_freeze_what() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let nobody = format!("tenants/imp_t_{}/freeze", "7".repeat(26));
    act(api, &operator, &nobody, &why("other")).await.problem(404, "not_found");
    act(api, &operator, "apps/nothing/freeze", &why("other")).await.problem(404, "not_found");
    let own = format!("users/{}/freeze", operator.id);
    act(api, &operator, &own, &why("other")).await.problem(409, "own_user");
    let me = api.get("/v1/auth/me").as_user(&operator).send().await.ok(200);
    let system = format!("tenants/{}/freeze", text(&me["tenant_id"]));
    act(api, &operator, &system, &why("other")).await.problem(409, "own_tenant");
    let path = format!("tenants/{}/freeze", user.id);
    act(api, &user, &path, &why("other")).await.problem(403, "forbidden");
    act(api, &operator, &path, &json!({"reason": ""})).await.problem(422, "validation_error");
    act(api, &operator, &path, &why("no such class")).await.problem(422, "validation_error");
    let resume = format!("tenants/{}/resume", user.id);
    let resumed = act(api, &operator, &resume, &json!({"reason": "r"})).await;
    resumed.problem(409, "not_frozen");
    let one = format!("/v1/operator/frozen/tenant/{}", user.id);
    api.get(&one).as_user(&operator).send().await.problem(404, "not_found");
    log_in(api, OPERATOR).await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_floods_is_frozen_all_the_same_and_nothing_of_it_happens_after() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let flood = (0..128).map(|_| {
        let (api, user) = (api.clone(), user.clone());
        tokio::spawn(async move {
            let mut paid = 0;
            loop {
                match debit(&api, &user).await.status {
                    201 => paid += 1,
                    402 | 503 => {}
                    403 => return paid,
                    status => panic!("{status}"),
                }
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    while api.balance(&user).await == WELCOME.0 {
        tokio::task::yield_now().await;
    }
    let path = format!("tenants/{}/freeze", user.id);
    let receipt = act(api, &operator, &path, &why("abuse")).await.ok(200);
    assert_eq!(receipt["receipt"]["requests_left"], 0, "{receipt}");
    is_frozen(&debit(api, &user).await, "tenant", "abuse");
    let head = async || {
        let page = format!("/v1/operator/actors/wallet/{}", user.id);
        api.get(&page).as_user(&operator).send().await.ok(200)["head"].clone()
    };
    let after = head().await;
    let mut paid = 0;
    for client in flood {
        paid += client.await.unwrap();
    }
    assert_eq!(head().await, after, "nothing came after the receipt");
    let resume = format!("tenants/{}/resume", user.id);
    act(api, &operator, &resume, &json!({"reason": "r"})).await.ok(200);
    assert_eq!(api.balance(&user).await, WELCOME.0 - paid);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freezing_and_resuming_by_a_key_is_done_and_answered_once() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let freeze = |class: &str| {
        let path = format!("/v1/operator/tenants/{}/freeze", user.id);
        api.post(&path, &why(class)).as_user(&operator).key("f")
    };
    let path = format!("/v1/operator/tenants/{}/resume", user.id);
    let resume = || api.post(&path, &json!({"reason": "well"})).as_user(&operator).key("r");
    resume().send().await.problem(409, "not_frozen");
    let frozen = freeze("abuse").send().await.ok(200);
    let resumed = resume().send().await.ok(200);
    // A repetition that comes late freezes nothing anew.
    assert_eq!(freeze("abuse").send().await.ok(200), frozen);
    debit(api, &user).await.ok(201);
    assert_eq!(resume().send().await.ok(200), resumed);
    freeze("legal").send().await.problem(422, "idempotency_key_reused");
    debit(api, &user).await.ok(201);
    server.stop().await;
}
