//! Tenants: made, joined by invitation, chosen at login, left and switched off.

use hyper::Method;
use identity::mail_link::{LinkKey, Purpose};
use journeys::{Api, PASSWORD, Server, User, text};
use serde_json::{Value, json};
use types::InvitationId;

/// Logs a user in to a tenant.
async fn log_in(api: &Api, user: &User, tenant: &str) -> Value {
    let login = json!({"email": user.email, "password": PASSWORD, "tenant_id": tenant});
    api.post("/v1/auth/login", &login).send().await.ok(200)
}

/// Whom the access token of a pair stands for; `None` when it is refused.
async fn me(api: &Api, tokens: &Value) -> Option<Value> {
    let token = text(&tokens["access_token"]);
    let me = api.get("/v1/auth/me").bearer(&token).send().await;
    (me.status != 401).then(|| me.ok(200))
}

async fn refresh(api: &Api, tokens: &Value) -> journeys::Answer {
    let body = json!({"refresh_token": tokens["refresh_token"]});
    api.post("/v1/auth/refresh", &body).send().await
}

/// The token behind an invitation's link, as the mail has it.
pub(super) fn link(server: &Server, invitation: &Value) -> String {
    let id: InvitationId = text(&invitation["id"]).parse().unwrap();
    let keys = server.running.app.system.port::<LinkKey>();
    keys.token(Purpose::Invitation, id.0).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_made_once_and_belongs_to_whoever_made_it() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let new = json!({"tenant_id": "acme", "name": "Acme", "features": {"beta": true},
        "db_config": {"host": "h", "database": "d", "username": "u", "password": "hush"}});
    let create = || api.post("/v1/tenants", &new).as_user(&ada).key("k1");
    let made = create().send().await;
    let (acme, again) = (made.ok(201), create().send().await.ok(201));
    assert_eq!(acme, again, "the same key and body, the same tenant");
    assert!(text(&acme["id"]).starts_with("imp_t_") && !made.text().contains("hush"));
    let shown = ["tenant_id", "name", "db_backend", "is_active", "max_connections", "features"];
    let shown = shown.map(|key| acme[key].clone());
    let expected = json!(["acme", "Acme", "mariadb", true, 10, {"beta": true}]);
    assert_eq!(json!(shown), expected);
    let taken = api.post("/v1/tenants", &new).as_user(&bob).send().await;
    taken.problem(409, "tenant_exists");
    for wrong in [json!({"name": ""}), json!({"name": "A", "tenant_id": "A b"}), json!({})] {
        let refused = api.post("/v1/tenants", &wrong).as_user(&ada).send().await;
        refused.problem(422, "validation_error");
    }

    let list = |user: &User| api.get("/v1/tenants").as_user(user);
    let tenants = list(&ada).send().await.ok(200);
    assert_eq!((tenants.as_array().unwrap().len(), &tenants[1]), (2, &acme));
    assert_eq!(tenants[0]["tenant_id"], ada.id, "a direct user's tenant has the user's id");
    assert_eq!(list(&bob).send().await.ok(200).as_array().unwrap().len(), 1);
    let all = api.get("/v1/tenants").service().send().await.ok(200);
    assert!(all.as_array().unwrap().len() >= 4, "two users', one more, and the installation's");
    for path in ["/v1/tenants/acme".to_owned(), format!("/v1/tenants/{}", text(&acme["id"]))] {
        assert_eq!(api.get(&path).as_user(&ada).send().await.ok(200), acme);
        api.get(&path).as_user(&bob).send().await.problem(404, "not_found");
    }

    // To see it is enough to belong; to change it, one logs in to it.
    let rename = json!({"name": "Acme & Co", "max_connections": 20});
    let patch = || api.request(Method::PATCH, "/v1/tenants/acme").json(rename.to_string());
    patch().as_user(&ada).send().await.problem(403, "forbidden");
    let tokens = log_in(api, &ada, "acme").await;
    let token = text(&tokens["access_token"]);
    let renamed = patch().bearer(&token).send().await.ok(200);
    assert_eq!((&renamed["name"], &renamed["max_connections"]), (&json!("Acme & Co"), &json!(20)));
    assert_eq!(renamed["features"], acme["features"], "what is not named stays");
    let me = me(api, &tokens).await.unwrap();
    assert_eq!((&me["tenant_id"], &me["role"]), (&acme["id"], &json!("owner")));
    let balance = api.get("/v1/billing/balance").bearer(&token).send().await.ok(200);
    assert_eq!(balance["balance"], 0, "welcome credits are given once a person");
    let health = api.get("/v1/tenants/acme/health").bearer(&token).send().await.ok(200);
    assert_eq!((&health["healthy"], &health["tenant_id"]), (&json!(true), &json!("acme")));

    // Switched off, nobody is in it; what it has stays.
    let delete = |tenant: &str| api.request(Method::DELETE, &format!("/v1/tenants/{tenant}"));
    delete(&ada.id).as_user(&ada).send().await.problem(409, "own_tenant");
    delete("acme").bearer(&token).send().await.ok(200);
    assert_eq!(api.get("/v1/auth/me").bearer(&token).send().await.status, 401);
    let login = json!({"email": ada.email, "password": PASSWORD, "tenant_id": "acme"});
    let refused = api.post("/v1/auth/login", &login).send().await;
    refused.problem(403, "tenant_inactive");
    let operator = api.operator().await;
    let on = api.request(Method::PATCH, "/v1/tenants/acme").json(r#"{"is_active": true}"#);
    assert_eq!(on.as_user(&operator).send().await.ok(200)["is_active"], true);
    log_in(api, &ada, "acme").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_invited_joins_changes_and_goes() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob, eve] = [api.user("ada").await, api.user("bob").await, api.user("eve").await];
    let new = json!({"tenant_id": "acme", "name": "Acme"});
    let acme = api.post("/v1/tenants", &new).as_user(&ada).send().await.ok(201);
    let owner = text(&log_in(api, &ada, "acme").await["access_token"]);
    let path = "/v1/tenants/acme/invitations";
    let invite = json!({"email": "Bob@Example.com", "role": "developer"});
    api.post(path, &invite).as_user(&eve).send().await.problem(404, "not_found");
    let first = api.post(path, &invite).bearer(&owner).key("i").send().await.ok(201);
    assert_eq!(first["email"], "bob@example.com");
    assert_eq!(api.post(path, &invite).bearer(&owner).key("i").send().await.ok(201), first);
    let twice = api.post(path, &invite).bearer(&owner).send().await;
    twice.problem(409, "already_invited");
    let unknown = json!({"email": "new@example.com", "role": "pilot"});
    let unknown = api.post(path, &unknown).bearer(&owner).send().await;
    unknown.problem(422, "validation_error");
    // One that is taken back is no use; the address can be invited again.
    let revoke = format!("{path}/{}", text(&first["id"]));
    let revoke = || api.request(Method::DELETE, &revoke).bearer(&owner);
    assert_eq!(revoke().send().await.status, 204);
    revoke().send().await.problem(410, "invitation_revoked");
    let accept = |token: String, user: &User| {
        api.post("/v1/invitations/accept", &json!({"token": token})).as_user(user)
    };
    let gone = accept(link(&server, &first), &bob).send().await;
    gone.problem(410, "invitation_revoked");
    let second = api.post(path, &invite).bearer(&owner).send().await.ok(201);
    let listed = api.get(path).bearer(&owner).send().await.ok(200);
    assert_eq!(listed, json!({"items": [second]}));

    let token = link(&server, &second);
    accept("x".repeat(64), &bob).send().await.problem(404, "not_found");
    accept(token.clone(), &eve).send().await.problem(403, "other_address");
    let joined = accept(token.clone(), &bob).key("j").send().await.ok(200);
    assert_eq!((&joined["tenant_id"], &joined["role"]), (&acme["id"], &json!("developer")));
    assert_eq!(accept(token.clone(), &bob).key("j").send().await.ok(200), joined);
    accept(token, &bob).send().await.problem(410, "invitation_used");
    let member = api.post(path, &invite).bearer(&owner).send().await;
    member.problem(409, "already_member");
    let listed = api.get(path).bearer(&owner).send().await.ok(200);
    assert_eq!(listed, json!({"items": []}));

    // A refresh keeps the tenant; another role ends the tokens for this tenant alone.
    let tokens = log_in(api, &bob, "acme").await;
    let tokens = refresh(api, &tokens).await.ok(200);
    assert_eq!(me(api, &tokens).await.unwrap()["role"], "developer");
    let at_bob = format!("/v1/tenants/acme/members/{}", bob.id);
    let viewer = json!({"role": "viewer"}).to_string();
    let change = api.request(Method::PATCH, &at_bob).json(viewer.clone());
    change.clone().bearer(&text(&tokens["access_token"])).send().await.problem(403, "forbidden");
    assert_eq!(change.bearer(&owner).send().await.ok(200)["role"], "viewer");
    assert!(me(api, &tokens).await.is_none(), "it says the old role");
    api.get("/v1/auth/me").as_user(&bob).send().await.ok(200);
    let tokens = refresh(api, &tokens).await.ok(200);
    assert_eq!(me(api, &tokens).await.unwrap()["role"], "viewer");
    let spend = json!({"amount": 1, "reason": "tea"});
    let spend = api.post("/v1/billing/debits", &spend).bearer(&text(&tokens["access_token"]));
    spend.send().await.problem(403, "forbidden");

    let server = server.restart().await;
    assert_eq!(me(&server.api, &tokens).await.unwrap()["tenant_id"], acme["id"]);
    goes(&server.api, (&ada, &owner), &bob, &tokens).await;
    let server = server.restart().await;
    assert!(me(&server.api, &tokens).await.is_none(), "who was removed stays so");
    server.stop().await;
}

/// A member is removed, and the last owner is not.
async fn goes(api: &Api, (ada, owner): (&User, &str), bob: &User, tokens: &Value) {
    let at = |user: &User| format!("/v1/tenants/acme/members/{}", user.id);
    let members = api.get("/v1/tenants/acme/members").bearer(owner).send().await.ok(200);
    assert_eq!((&members["total"], &members["items"][1]["role"]), (&json!(2), &json!("viewer")));
    let remove = api.request(Method::DELETE, &at(bob)).bearer(owner);
    assert_eq!(remove.clone().send().await.status, 204);
    assert!(me(api, tokens).await.is_none());
    assert_eq!(refresh(api, tokens).await.status, 401);
    api.get("/v1/auth/me").as_user(bob).send().await.ok(200);
    api.get("/v1/tenants/acme").as_user(bob).send().await.problem(404, "not_found");
    remove.send().await.problem(404, "not_found");
    let leave = api.request(Method::DELETE, &at(ada)).bearer(owner);
    leave.send().await.problem(409, "last_owner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_a_link_joins_whoever_logs_in_on_it() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let path = format!("/v1/tenants/{}/invitations", ada.id);
    let invite = json!({"email": bob.email, "role": "viewer"});
    let invited = api.post(&path, &invite).as_user(&ada).send().await.ok(201);
    let token = link(&server, &invited);
    let page = api.get(&format!("/accept-invitation?token={token}")).send().await;
    assert!(page.status == 200 && page.text().contains(&token), "{}", page.text());
    let headers = ["cache-control", "referrer-policy"];
    let headers = headers.map(|name| page.headers[name].to_str().unwrap());
    assert_eq!(headers, ["no-store", "no-referrer"]);
    let send = |email: &str, password: &str| {
        let form = format!("token={token}&email={email}&password={password}");
        let post = api.request(Method::POST, "/accept-invitation");
        post.body("application/x-www-form-urlencoded", form)
    };
    let wrong = send(&bob.email, "not-the-password").send().await;
    assert!(wrong.status == 401 && wrong.text().contains(&token), "the form is there again");
    let other = send(&ada.email, PASSWORD).send().await;
    assert!(other.status == 403 && !other.text().contains(&bob.email), "{}", other.text());
    let joined = send(&bob.email, PASSWORD).send().await;
    assert!(joined.status == 200 && joined.text().contains("viewer"), "{}", joined.text());
    let tenants = api.get("/v1/tenants").as_user(&bob).send().await.ok(200);
    assert_eq!(tenants.as_array().unwrap().len(), 2);
    let nobodys = api.get("/accept-invitation?token=%3Cb%3E").send().await;
    assert!(!nobodys.text().contains("<b>"), "{}", nobodys.text());
    server.stop().await;
}
