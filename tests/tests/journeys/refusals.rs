//! What is refused to whom: cards after their time, what a role enforces, what a viewer and a
//! sandbox may not have paid or published.

use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, shelf_document, text};
use serde_json::{Value, json};

use super::roles::{bearer, join};

/// How long a card waits unless somebody says otherwise, in seconds.
const CARD_SECONDS: i64 = 15 * 60;

async fn ask(api: &Api, user: &User, title: &str) -> String {
    let body = json!({"function": "add_book", "params": {"title": title}});
    let answer = api.post("/v1/extensions/shelf/call", &body).as_user(user).send().await.ok(200);
    assert_eq!(answer["data"]["RESULT"], "INTERCEPTED", "{answer}");
    text(&answer["data"]["confirmation_id"])
}

async fn decide(api: &Api, user: &User, id: &str, how: &str) -> Answer {
    let path = format!("/v1/confirmations/{id}/{how}");
    api.post(&path, &json!({})).as_user(user).send().await
}

async fn set(api: &Api, user: &User, settings: &Value) -> Answer {
    let patch = api.request(Method::PATCH, "/v1/me/settings").json(settings.to_string());
    patch.as_user(user).send().await
}

/// A copy of a user's tenant, and the user in it.
async fn sandbox(api: &Api, user: &User) -> (String, User) {
    let path = format!("/v1/tenants/{}/sandbox", user.id);
    let made = api.post(&path, &json!({})).as_user(user).send().await.ok(201);
    let id = text(&made["tenant_id"]);
    let login = json!({"email": user.email, "password": PASSWORD, "tenant_id": id});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    (id, User { token: bearer(&tokens), ..user.clone() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_after_its_time_is_gone_one_decided_stays_and_a_foreign_one_is_not_there() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    api.shelf(&ada, "shelf").await;
    let member = join(&server, &ada, &bob, "admin").await;
    let member = User { token: bearer(&member), ..bob.clone() };
    let (id, inside) = sandbox(api, &ada).await;
    set(api, &inside, &json!({"confirmation_enabled": true})).await.ok(200);
    let [late, decided] = [ask(api, &inside, "Emma").await, ask(api, &inside, "Persuasion").await];
    // Of another tenant, of another member of the same one, and of nobody.
    for (user, card) in [(&bob, &late), (&member, &late), (&inside, &"cnf_x".to_owned())] {
        let path = format!("/v1/confirmations/{card}");
        api.get(&path).as_user(user).send().await.problem(404, "not_found");
        for how in ["confirm", "accept", "cancel"] {
            decide(api, user, card, how).await.problem(404, "not_found");
        }
    }
    decide(api, &inside, &decided, "cancel").await.ok(200);
    let clock = |seconds: i64| {
        let body = json!({"advance_seconds": seconds});
        api.post(&format!("/v1/tenants/{id}/clock"), &body).as_user(&inside)
    };
    clock(CARD_SECONDS - 30).send().await.ok(200);
    let path = format!("/v1/confirmations/{late}");
    let shown = || api.get(&path).as_user(&inside);
    assert_eq!(shown().send().await.ok(200)["state"], "pending");
    clock(31).send().await.ok(200);
    for how in ["confirm", "accept", "cancel"] {
        decide(api, &inside, &late, how).await.problem(410, "confirmation_expired");
        let refused = decide(api, &inside, &decided, how).await;
        match how {
            "cancel" => assert_eq!(refused.ok(200)["state"], "cancelled"),
            _ => assert_eq!(refused.problem(409, "confirmation_decided")["state"], "cancelled"),
        }
    }
    while shown().send().await.ok(200)["state"] != "expired" {
        tokio::task::yield_now().await;
    }
    let open = api.get("/v1/confirmations/active").as_user(&inside).send().await.ok(200);
    assert_eq!(open["confirmations"], json!([]));
    let held = || api.get("/v1/billing/holds?limit=200").as_user(&inside);
    while held().send().await.ok(200) != json!([]) {
        tokio::task::yield_now().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_enforces_neither_its_holder_nor_a_client_talks_away() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    api.shelf(&ada, "shelf").await;
    let role = json!({"name": "careful", "confirmation_policy": "enforced",
        "default_scopes": ["extensions:*", "shelf:*", "wallet:read"]});
    api.post("/v1/roles", &role).as_user(&ada).send().await.ok(201);
    let unfit = json!({"name": "other", "confirmation_policy": "sometimes"});
    let unfit = api.post("/v1/roles", &unfit).as_user(&ada).send().await;
    unfit.problem(422, "validation_error");
    let tokens = join(&server, &ada, &bob, "careful").await;
    let member = User { token: bearer(&tokens), ..bob };
    // It waits although they have not asked for it, and although they do not want it.
    let first = ask(api, &member, "Emma").await;
    assert_eq!(decide(api, &member, &first, "confirm").await.ok(200)["state"], "executed");
    let off = json!({"confirmation_enabled": false, "confirmation_overrides": {"shelf": "never"},
        "confirmation_actions": {"write": false}});
    set(api, &member, &off).await;
    ask(api, &member, "Persuasion").await;
    let operate = |user: &User| {
        let body = json!({"function": "add_book", "params": {"title": "Sanditon"},
            "confirmation_bypassed": true});
        api.post("/v1/extensions/shelf/operate", &body).as_user(user)
    };
    let claimed = operate(&member).send().await.ok(200);
    assert_eq!(claimed["kind"], "confirmation", "the claim is not believed: {claimed}");
    // Where it is their own choice, it is.
    set(api, &ada, &json!({"confirmation_enabled": true})).await.ok(200);
    let believed = operate(&ada).send().await.ok(200);
    assert_eq!(believed["kind"], "tool_result", "{believed}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_orders_no_tier_of_the_tenants_money() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    api.grant(&api.operator().await, &ada.id, 1_000_000).await;
    let before = api.balance(&ada).await;
    let tokens = join(&server, &ada, &bob, "viewer").await;
    let viewer = User { token: bearer(&tokens), ..bob.clone() };
    let register = |tier: &str| {
        let body = json!({"nickname": "bob", "tier": tier});
        api.post("/v1/developer/register", &body).as_user(&viewer)
    };
    register("indie").send().await.problem(403, "forbidden");
    register("explorer").send().await.ok(200);
    let order = |user: &User| {
        let body = json!({"tier": "indie"}).to_string();
        api.request(Method::PUT, "/v1/developer/tier").json(body).as_user(user)
    };
    order(&viewer).send().await.problem(403, "forbidden");
    assert_eq!(api.balance(&ada).await, before);
    let profile = api.get("/v1/developer/profile").as_user(&viewer).send().await.ok(200);
    assert_eq!(profile["tier"], "explorer");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_publishes_and_orders_nothing() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = api.user("ada").await;
    api.shelf(&ada, "shelf").await;
    let (_, inside) = sandbox(api, &ada).await;
    let register = json!({"nickname": "from-inside"});
    let register = api.post("/v1/developer/register", &register).as_user(&inside);
    register.send().await.problem(403, "sandbox");
    let put = |path: &str, body: Value| {
        api.request(Method::PUT, path).json(body.to_string()).as_user(&inside)
    };
    let tier = put("/v1/developer/tier", json!({"tier": "indie"})).send().await;
    tier.problem(403, "sandbox");
    let changed = put("/v1/developer/apps/shelf", json!({"display_name": "Mine"})).send().await;
    changed.problem(403, "sandbox");
    let host = json!({"host_url": "https://example.com/call"});
    put("/v1/developer/apps/shelf/host", host).send().await.problem(403, "sandbox");
    let new = json!({"app_id": "another", "display_name": "Another",
        "git_url": "https://example.com/another.git"});
    let new = api.post("/v1/developer/apps", &new).as_user(&inside).send().await;
    new.problem(403, "sandbox");
    let mut document = shelf_document("shelf");
    document["app"]["version"] = json!("6.6.6");
    let params = json!({"app_id": "shelf", "ir_dict": document});
    let deployed = api.built_in(&inside, "deploy_ir", &params).await;
    assert!(text(&deployed["error"]).contains("not found among your apps"), "{deployed}");
    let app = api.get("/v1/developer/apps/shelf").as_user(&ada).send().await.ok(200);
    assert_eq!(app["display_name"], "Reading shelf", "{app}");
    let deploys = api.get("/v1/developer/apps/shelf/deploys").as_user(&ada).send().await;
    assert_eq!(deploys.ok(200).as_array().unwrap().len(), 1);
    server.stop().await;
}
