//! Sandboxes end with what they are copies of, and stand still while it does.

use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, text};
use persistence::KeyId;
use serde_json::{Value, json};
use supervision::address::TENANT_KEY_CLASS;
use types::TenantId;

async fn log_in(api: &Api, email: &str, tenant: &str) -> Answer {
    let login = json!({"email": email, "password": PASSWORD, "tenant_id": tenant});
    api.post("/v1/auth/login", &login).send().await
}

async fn logged_in(api: &Api, user: &User, tenant: &str) -> User {
    let tokens = log_in(api, &user.email, tenant).await.ok(200);
    let (token, refresh) = (text(&tokens["access_token"]), text(&tokens["refresh_token"]));
    User { token, refresh, ..user.clone() }
}

async fn sandbox(api: &Api, user: &User) -> String {
    let path = format!("/v1/tenants/{}/sandbox", user.id);
    text(&api.post(&path, &json!({})).as_user(user).send().await.ok(201)["tenant_id"])
}

async fn debit(api: &Api, user: &User) -> Answer {
    let body = json!({"amount": 1, "reason": "r"});
    api.post("/v1/billing/debits", &body).as_user(user).send().await
}

/// Whether the key of a tenant is there.
fn has_key(server: &Server, tenant: &str) -> bool {
    let id = tenant.parse::<TenantId>().unwrap().0;
    let keys = server.running.app.system.journal().keys().clone();
    keys.number_of(KeyId { class: TENANT_KEY_CLASS, id }).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_are_erased_with_their_tenant_and_so_with_its_owner() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob, operator) = (api.user("ada").await, api.user("bob").await, api.operator().await);
    let (on, off, others) =
        (sandbox(api, &ada).await, sandbox(api, &ada).await, sandbox(api, &bob).await);
    let inside = logged_in(api, &ada, &off).await;
    let end = api.request(Method::DELETE, &format!("/v1/tenants/{off}")).as_user(&inside);
    end.send().await.ok(200);
    // It counts no more by the next one, and is not forgotten.
    let next = sandbox(api, &ada).await;
    let inside = logged_in(api, &ada, &on).await;
    debit(api, &inside).await.ok(201);

    let path = format!("/v1/users/{}/erase", ada.id);
    let body = json!({"confirm": ada.email, "reason": "asked for"});
    api.post(&path, &body).as_user(&operator).send().await.ok(200);
    for tenant in [&on, &off, &next] {
        assert!(!has_key(&server, tenant), "{tenant}");
        let seen = api.get(&format!("/v1/tenants/{tenant}")).as_user(&operator).send().await;
        seen.problem(404, "not_found");
    }
    assert_eq!(debit(api, &inside).await.status, 401);
    assert!(has_key(&server, &others));
    let server = server.restart().await;
    let bob = logged_in(&server.api, &bob, &others).await;
    debit(&server.api, &bob).await.ok(201);
    server.stop().await;
}

#[track_caller]
fn is_frozen(answer: &Answer) {
    let problem = answer.problem(403, "frozen");
    assert_eq!((&problem["frozen"], &problem["reason_class"]), (&json!("tenant"), &json!("legal")));
}

async fn act(api: &Api, operator: &User, tenant: &str, act: &str, body: &Value) {
    let path = format!("/v1/operator/tenants/{tenant}/{act}");
    api.post(&path, body).as_user(operator).send().await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_tenants_sandboxes_stand_still_through_a_restart_until_it_goes_on() {
    let mut server = Server::start().await;
    let api = server.api.clone();
    let (ada, operator) = (api.user("ada").await, api.operator().await);
    let copy = sandbox(&api, &ada).await;
    let inside = logged_in(&api, &ada, &copy).await;
    let hold = json!({"amount": 5, "ttl_seconds": 60, "reason": "mine"});
    api.post("/v1/billing/holds", &hold).as_user(&inside).send().await.ok(201);
    let clock = format!("/v1/tenants/{copy}/clock");
    let why = json!({"reason": "ordered", "reason_class": "legal"});
    act(&api, &operator, &ada.id, "freeze", &why).await;
    is_frozen(&debit(&api, &inside).await);
    is_frozen(&log_in(&api, &ada.email, &copy).await);
    server = server.restart().await;
    let api = server.api.clone();
    is_frozen(&debit(&api, &inside).await);
    let go_on = json!({"reason": "all is well"});
    let operator = api.operator().await;
    act(&api, &operator, &ada.id, "resume", &go_on).await;
    debit(&api, &inside).await.ok(201);
    // What falls due comes again.
    let ahead = json!({"advance_seconds": 120});
    api.post(&clock, &ahead).as_user(&inside).send().await.ok(200);
    let holds = async || {
        let holds = api.get("/v1/billing/holds").as_user(&inside).send().await.ok(200);
        holds.as_array().unwrap().len()
    };
    while holds().await > 0 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
}
