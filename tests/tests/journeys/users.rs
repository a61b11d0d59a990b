//! The users of a tenant: made by an administrator, found, changed, switched off, taken out; what
//! they set for themselves; and what an operator sees of them.

use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, text};
use serde_json::{Value, json};

use super::mail::{mail, token};
use super::roles::{bearer, join};

async fn patch(api: &Api, user: &User, id: &str, body: Value) -> Answer {
    let path = format!("/v1/users/{id}");
    api.request(Method::PATCH, &path).json(body.to_string()).as_user(user).send().await
}

async fn list(api: &Api, user: &User, query: &str) -> Vec<String> {
    let users = api.get(&format!("/v1/users{query}")).as_user(user).send().await.ok(200);
    let items = users["items"].as_array().unwrap();
    assert_eq!(users["total"], items.len(), "{users}");
    items.iter().map(|item| text(&item["email"])).collect()
}

async fn login(api: &Api, email: &str, password: &str, tenant: &str) -> Answer {
    let body = json!({"email": email, "password": password, "tenant_id": tenant});
    api.post("/v1/auth/login", &body).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_makes_an_account_that_only_its_owner_gets_into() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = api.user("ada").await;
    let new = json!({"email": "Bob@Example.com", "password": "chosen-by-somebody-else",
        "role": "viewer", "scopes": ["wallet:spend"], "attributes": {"team": "red"}});
    let create = |body: &Value| api.post("/v1/users", body).as_user(&ada);
    let made = create(&new).key("bob").send().await.ok(201);
    assert_eq!(create(&new).key("bob").send().await.ok(201), made, "the same key, one account");
    assert_eq!((&made["email"], &made["role"]), (&json!("bob@example.com"), &json!("viewer")));
    assert_eq!((&made["attributes"], &made["is_active"]), (&json!({"team": "red"}), &json!(true)));
    assert!(text(&made["tenant_id"]).starts_with("imp_t_"), "{made}");
    let id = text(&made["id"]);
    create(&new).send().await.problem(409, "email_taken");
    for wrong in [
        json!({"email": "no address"}),
        json!({"email": "c@example.com", "role": "pilot"}),
        json!({"email": "c@example.com", "scopes": ["moon:walk"]}),
    ] {
        create(&wrong).send().await.problem(422, "validation_error");
    }
    for guess in ["chosen-by-somebody-else", PASSWORD] {
        login(api, "bob@example.com", guess, "").await.problem(401, "invalid_credentials");
    }
    let letter = mail(server.folder(), "bob@example.com", "An account was made for you").await;
    assert!(letter.contains("/reset-password?token="), "{letter}");
    let own = "a password of my own";
    let reset = json!({"token": token(&letter), "new_password": own});
    api.post("/v1/auth/password/reset", &reset).send().await.ok(200);
    let tokens = login(api, "bob@example.com", own, &ada.id).await.ok(200);
    let me = api.get("/v1/auth/me").bearer(&bearer(&tokens)).send().await.ok(200);
    assert_eq!((&me["imperal_id"], &me["role"]), (&json!(id), &json!("viewer")));
    assert!(me["scopes"].as_array().unwrap().contains(&json!("wallet:spend")), "{me}");
    // And it is an account as any other: with a tenant of its own.
    login(api, "bob@example.com", own, "").await.ok(200);
    let narrow = json!({"email": "c@example.com", "role": "owner"});
    let refused = api.post("/v1/users", &narrow).bearer(&bearer(&tokens)).send().await;
    refused.problem(403, "forbidden");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_found_changed_switched_off_and_taken_out() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob, eve] = [api.user("ada").await, api.user("bob").await, api.user("eve").await];
    let bobs = join(&server, &ada, &bob, "viewer").await;
    join(&server, &ada, &eve, "developer").await;
    let everybody = [&ada.email, &bob.email, &eve.email];
    assert_eq!(list(api, &ada, "").await, everybody.map(String::clone));
    assert_eq!(list(api, &ada, "?role=viewer").await, [bob.email.as_str()]);
    let spenders = list(api, &ada, "?scope=wallet:spend").await;
    assert_eq!(spenders, [ada.email.clone(), eve.email.clone()]);
    assert_eq!(list(api, &ada, "?search=EVE@example.com").await, [eve.email.as_str()]);
    assert_eq!(list(api, &ada, &format!("?search={}", bob.id)).await, [bob.email.as_str()]);
    for nobody in ["?search=eve", "?search=eve@example", "?search=operator@localhost.localdomain"] {
        assert!(list(api, &ada, nobody).await.is_empty(), "{nobody}");
    }
    let paged = api.get("/v1/users?limit=1&offset=1").as_user(&ada).send().await.ok(200);
    assert_eq!((&paged["total"], &paged["items"][0]["email"]), (&json!(3), &json!(bob.email)));
    let wide = api.get("/v1/users?limit=201").as_user(&ada).send().await;
    wide.problem(422, "validation_error");

    let whole = json!({"role": "user", "scopes": ["notes:read"], "attributes": {"desk": 4}});
    let changed = patch(api, &ada, &bob.id, whole).await.ok(200);
    assert_eq!((&changed["role"], &changed["attributes"]), (&json!("user"), &json!({"desk": 4})));
    let at_home = api.get(&format!("/v1/users/{}", bob.id)).as_user(&bob).send().await.ok(200);
    assert_eq!(at_home["attributes"], json!({}), "what a tenant keeps is that tenant's");
    let unfit = json!({"role": "admin", "attributes": {"long": "x".repeat(2_000)}});
    patch(api, &ada, &bob.id, unfit).await.problem(422, "validation_error");
    let unchanged = api.get(&format!("/v1/users/{}", bob.id)).as_user(&ada).send().await.ok(200);
    assert_eq!(unchanged["role"], "user", "all or nothing");

    let key = json!({"name": "k", "scopes": "wallet:read"});
    let tokens = login(api, &bob.email, PASSWORD, &ada.id).await.ok(200);
    let key = api.post("/v1/keys", &key).bearer(&bearer(&tokens)).send().await.ok(201);
    let key = text(&key["key"]);
    let mine = "/v1/billing/balance";
    api.get(mine).bearer(&key).send().await.ok(200);
    let off = patch(api, &ada, &bob.id, json!({"is_active": false})).await.ok(200);
    assert_eq!((&off["is_active"], &off["role"]), (&json!(false), &json!("user")));
    for credential in [bearer(&bobs), bearer(&tokens), key.clone()] {
        assert_eq!(api.get(mine).bearer(&credential).send().await.status, 401);
    }
    api.get("/v1/auth/me").as_user(&bob).send().await.ok(200);
    login(api, &bob.email, PASSWORD, &ada.id).await.problem(403, "not_a_member");
    assert_eq!(list(api, &ada, "").await, [ada.email.clone(), eve.email.clone()]);
    assert_eq!(list(api, &ada, "?is_active=false").await, [bob.email.as_str()]);
    assert_eq!(list(api, &ada, "?include_inactive=true").await.len(), 3);
    patch(api, &ada, &bob.id, json!({"is_active": true})).await.ok(200);
    login(api, &bob.email, PASSWORD, &ada.id).await.ok(200);
    assert_eq!(api.get(mine).bearer(&key).send().await.status, 401, "the key stays dead");
    let own = patch(api, &ada, &ada.id, json!({"is_active": false})).await;
    own.problem(409, "own_tenant");

    let delete = |id: &str, query: &str| {
        api.request(Method::DELETE, &format!("/v1/users/{id}{query}")).as_user(&ada)
    };
    delete(&bob.id, "?permanent=true").send().await.problem(403, "forbidden");
    delete(&bob.id, "").send().await.ok(200);
    delete(&bob.id, "").send().await.problem(404, "not_found");
    delete(&ada.id, "").send().await.problem(409, "own_tenant");
    login(api, &bob.email, PASSWORD, &ada.id).await.problem(403, "not_a_member");
    api.get("/v1/auth/me").as_user(&bob).send().await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_set_what_is_their_own() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob] = [api.user("ada").await, api.user("bob").await];
    let settings = api.get("/v1/me/settings").as_user(&ada).send().await.ok(200);
    assert!(settings["settings"]["confirmation_enabled"].is_null(), "{settings}");
    let change = |body: Value| {
        api.request(Method::PATCH, "/v1/me/settings").json(body.to_string()).as_user(&ada)
    };
    let actions = json!({"destructive": true});
    change(json!({"confirmation_enabled": true, "confirmation_actions": actions, "other": 1}))
        .send()
        .await
        .ok(200);
    let all = change(json!({"confirmation_ttl": 60})).send().await.ok(200);
    let shown = ["confirmation_enabled", "confirmation_ttl", "confirmation_actions", "other"];
    let shown = shown.map(|name| all["settings"][name].clone());
    assert_eq!(json!(shown), json!([true, 60, {"destructive": true}, null]));
    change(json!({"confirmation_ttl": 1e9})).send().await.problem(422, "validation_error");
    let of_bob = api.get("/v1/me/settings").as_user(&bob).send().await.ok(200);
    assert!(of_bob["settings"]["confirmation_ttl"].is_null());
    let path = format!("/v1/internal/users/{}/settings", ada.id);
    let by_service = |tenant: &str| api.get(&path).service().header("x-tenant-id", tenant);
    assert_eq!(by_service(&ada.id).send().await.ok(200), all);
    by_service(&bob.id).send().await.problem(404, "not_found");

    let nickname = |user: &User| api.get("/v1/me/nickname").as_user(user);
    assert_eq!(nickname(&ada).send().await.ok(200), json!({"nickname": null}));
    let set = |user: &User, nickname: &str| {
        let body = json!({"nickname": nickname}).to_string();
        api.request(Method::PUT, "/v1/me/nickname").json(body).as_user(user)
    };
    set(&ada, "Ada!").send().await.problem(422, "validation_error");
    set(&ada, "countess").key("n").send().await.ok(200);
    set(&ada, "countess").key("n").send().await.ok(200);
    set(&bob, "countess").send().await.problem(409, "nickname_taken");
    set(&ada, "lovelace").send().await.ok(200);
    set(&bob, "countess").send().await.ok(200);
    let server = server.restart().await;
    let api = &server.api;
    let ada_is = api.get("/v1/me/nickname").as_user(&ada).send().await.ok(200);
    assert_eq!(ada_is, json!({"nickname": "lovelace"}));
    // A developer is called as they registered.
    let register = json!({"nickname": "lovelace"});
    api.post("/v1/developer/register", &register).as_user(&ada).send().await.ok(200);
    let body = json!({"nickname": "another"}).to_string();
    let put = api.request(Method::PUT, "/v1/me/nickname").json(body).as_user(&ada);
    put.send().await.problem(409, "nickname_of_developer");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_standing_and_no_addresses() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob] = [api.user("ada").await, api.user("bob").await];
    join(&server, &ada, &bob, "viewer").await;
    patch(api, &ada, &bob.id, json!({"is_active": false})).await.ok(200);
    let operator = api.operator().await;
    let path = format!("/v1/operator/tenants/{}/users", ada.id);
    let users = api.get(&path).as_user(&operator).send().await;
    assert!(!users.text().contains('@'), "{}", users.text());
    let users = users.ok(200);
    assert_eq!((&users["total"], &users["require_second_factor"]), (&json!(2), &json!(false)));
    let shown = ["role", "is_active", "email_verified", "factors"];
    let shown = shown.map(|name| users["items"][1][name].clone());
    assert_eq!(json!(shown), json!(["viewer", false, false, 0]));
    let nobodys = api.get("/v1/operator/tenants/none/users").as_user(&operator).send().await;
    nobodys.problem(404, "not_found");
    server.stop().await;
}
