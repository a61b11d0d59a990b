//! What is taken back stays so: accounts that somebody else made first, members who come back,
//! invitations of who may not invite any more, tenants that were off, second factors that are lost.

use hyper::Method;
use identity::mail_link::{LinkKey, Purpose};
use journeys::{Api, PASSWORD, Server, User, text};
use serde_json::{Value, json};
use types::InvitationId;

use super::factors::enrol_app;
use super::mail::{mail, token};
use super::roles::{bearer, join};

const NEW_PASSWORD: &str = "quite another long one";

async fn make_key(api: &Api, token: &str) -> String {
    let body = json!({"name": "a key", "scopes": "*"});
    let made = api.post("/v1/keys", &body).bearer(token).send().await.ok(201);
    text(&made["key"])
}

async fn is_good(api: &Api, credential: &str) -> bool {
    let me = api.get("/v1/auth/me").bearer(credential).send().await;
    // A key that was not made for this is known all the same.
    assert!(matches!(me.status, 200 | 401 | 403), "{}", me.text());
    me.status != 401
}

async fn reset_password(server: &Server, email: &str) {
    let api = &server.api;
    api.post("/v1/auth/password/forgot", &json!({"email": email})).send().await.ok(202);
    let letter = mail(server.folder(), email, "Choose a new password").await;
    let body = json!({"token": token(&letter), "new_password": NEW_PASSWORD});
    api.post("/v1/auth/password/reset", &body).send().await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_made_before_the_address_was_shown_outlives_its_owner() {
    let server = Server::start().await;
    let api = &server.api;
    // Somebody who does not read that mail was there first, and made everything there is.
    let intruder = api.user("victim").await;
    let key = make_key(api, &intruder.token).await;
    let child = make_key(api, &key).await;
    enrol_app(api, &intruder.token).await;
    for credential in [&intruder.token, &key, &child] {
        assert!(is_good(api, credential).await);
    }
    reset_password(&server, &intruder.email).await;
    let login = json!({"email": intruder.email, "password": NEW_PASSWORD});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    for credential in [&intruder.token, &key, &child] {
        assert!(!is_good(api, credential).await);
    }
    let refresh = json!({"refresh_token": intruder.refresh});
    api.post("/v1/auth/refresh", &refresh).send().await.problem(401, "invalid_token");
    let keys = api.get("/v1/keys").bearer(&bearer(&tokens)).send().await.ok(200);
    assert_eq!(keys, json!([]));
    // From now on it is their own: a lost password ends no key.
    let own = make_key(api, &bearer(&tokens)).await;
    let server = server.restart().await;
    let api = &server.api;
    assert!(is_good(api, &own).await && !is_good(api, &key).await);
    let address = server.folder().to_owned();
    std::fs::remove_dir_all(address.join(gateway::mail::OUTBOX)).unwrap();
    std::fs::create_dir_all(address.join(gateway::mail::OUTBOX)).unwrap();
    reset_password(&server, &intruder.email).await;
    assert!(is_good(api, &own).await && !is_good(api, &bearer(&tokens)).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_and_comes_back_begins_anew() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob] = [api.user("ada").await, api.user("bob").await];
    let tokens = join(&server, &ada, &bob, "admin").await;
    let key = make_key(api, &bearer(&tokens)).await;
    let at_home = make_key(api, &bob.token).await;
    let path = format!("/v1/tenants/{}/members/{}", ada.id, bob.id);
    let remove = api.request(Method::DELETE, &path).as_user(&ada).send().await;
    assert_eq!(remove.status, 204);
    assert!(!is_good(api, &key).await && is_good(api, &at_home).await);
    let again = join(&server, &ada, &bob, "admin").await;
    for dead in [&key, &bearer(&tokens)] {
        assert!(!is_good(api, dead).await, "it was for the membership before");
    }
    let keys = api.get("/v1/keys").bearer(&bearer(&again)).send().await.ok(200);
    assert_eq!(keys, json!([]));
    let fresh = make_key(api, &bearer(&again)).await;
    let server = server.restart().await;
    let api = &server.api;
    assert!(is_good(api, &fresh).await && !is_good(api, &key).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_worth_what_its_inviter_may_give() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob] = [api.user("ada").await, api.user("bob").await];
    let operator = api.operator().await;
    let admin = bearer(&join(&server, &ada, &bob, "admin").await);
    let path = format!("/v1/tenants/{}/invitations", ada.id);
    let role = json!({"name": "clerk", "default_scopes": ["wallet:read"]});
    let made = api.post("/v1/roles", &role).as_user(&ada).send().await.ok(201);
    let guests = ["one", "two", "three", "four"]
        .map(async |name| (api.user(name).await, format!("{name}@example.com")));
    let guests: Vec<(User, String)> = futures::future::join_all(guests).await;
    let invite = async |token: &str, guest: usize, role: &str| -> String {
        let body = json!({"email": guests[guest].1, "role": role});
        let invited = api.post(&path, &body).bearer(token).send().await.ok(201);
        let id: InvitationId = text(&invited["id"]).parse().unwrap();
        let keys = server.running.app.system.port::<LinkKey>();
        keys.token(Purpose::Invitation, id.0).to_string()
    };
    let accept = async |guest: usize, token: &str| {
        let accept = api.post("/v1/invitations/accept", &json!({"token": token}));
        accept.as_user(&guests[guest].0).send().await
    };
    let by_admin = invite(&admin, 0, "developer").await;
    let to_clerk = invite(&ada.token, 1, "clerk").await;
    let by_operator = invite(&operator.token, 2, "developer").await;
    let by_owner = invite(&ada.token, 3, "developer").await;
    // The administrator is one no more; the role of that name is another one.
    let demote = format!("/v1/users/{}", bob.id);
    let demote = api.request(Method::PATCH, &demote).json(r#"{"role": "viewer"}"#);
    demote.as_user(&ada).send().await.ok(200);
    let end = format!("/v1/roles/{}", text(&made["id"]));
    api.request(Method::DELETE, &end).as_user(&ada).send().await.ok(200);
    let wider = json!({"name": "clerk", "default_scopes": ["*"]});
    api.post("/v1/roles", &wider).as_user(&ada).send().await.ok(201);
    accept(0, &by_admin).await.problem(410, "invitation_void");
    accept(0, &by_admin).await.problem(410, "invitation_used");
    accept(1, &to_clerk).await.problem(409, "role_gone");
    accept(2, &by_operator).await.ok(200);
    accept(3, &by_owner).await.ok(200);
    let users = api.get("/v1/users?role=developer").as_user(&ada).send().await.ok(200);
    assert_eq!(users["total"], 2, "{users}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_off_uses_no_refresh_token_up() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, operator] = [api.user("ada").await, api.operator().await];
    let new = json!({"tenant_id": "acme", "name": "Acme"});
    api.post("/v1/tenants", &new).as_user(&ada).send().await.ok(201);
    let login = json!({"email": ada.email, "password": PASSWORD, "tenant_id": "acme"});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    let set = async |is_active: bool| {
        let body = json!({"is_active": is_active}).to_string();
        let patch = api.request(Method::PATCH, "/v1/tenants/acme").json(body);
        patch.as_user(&operator).send().await.ok(200)
    };
    let refresh = async || {
        let body = json!({"refresh_token": tokens["refresh_token"]});
        api.post("/v1/auth/refresh", &body).send().await
    };
    set(false).await;
    let path = format!("/v1/operator/actors/session/{}", session_of(&tokens));
    let records = async || {
        let page = api.get(&path).as_user(&operator).send().await.ok(200);
        page["head"].as_u64().unwrap()
    };
    let before = records().await;
    for _ in 0..3 {
        refresh().await.problem(403, "tenant_inactive");
    }
    assert_eq!(records().await, before, "nothing was recorded of the token");
    set(true).await;
    let next = refresh().await.ok(200);
    assert!(is_good(api, &bearer(&next)).await);
    server.stop().await;
}

/// The session that an access token is of.
fn session_of(tokens: &Value) -> String {
    let claims = bearer(tokens).split('.').nth(1).unwrap().to_owned();
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    text(&claims["sid"])
}

async fn lost(api: &Api, user: &User, tenant: &str) -> journeys::Answer {
    let body = json!({"email": user.email, "password": PASSWORD, "tenant_id": tenant});
    let half = api.post("/v1/auth/login", &body).send().await;
    let half = half.problem(401, "second_factor_required");
    let body = json!({"login_token": half["login_token"]});
    api.post("/v1/auth/login/factor/lost", &body).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_second_factors_are_removed_by_whom_the_member_asks_or_by_an_operator() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob] = [api.user("ada").await, api.user("bob").await];
    let operator = api.operator().await;
    let tokens = join(&server, &ada, &bob, "viewer").await;
    enrol_app(api, &bob.token).await;
    let policy = json!({"require_second_factor": true}).to_string();
    let policy = api.request(Method::PUT, "/v1/auth/sign-in-policy").json(policy);
    policy.as_user(&ada).send().await.ok(200);
    let remove = |user: &User, by: &str| {
        let path = format!("/v1/users/{}/factors", user.id);
        let body = json!({"reason": "the phone is at the bottom of the lake"}).to_string();
        api.request(Method::DELETE, &path).json(body).bearer(by)
    };
    remove(&bob, &ada.token).send().await.problem(409, "removal_not_asked");
    lost(api, &bob, &ada.id).await.ok(202);
    let asked = "Your second factors are to be removed";
    mail(server.folder(), &bob.email, asked).await;
    remove(&bob, &bearer(&tokens)).send().await.problem(403, "forbidden");
    remove(&ada, &ada.token).send().await.problem(403, "forbidden");
    let removed = remove(&bob, &ada.token).send().await.ok(200);
    assert_eq!(removed, json!({"user_id": bob.id, "removed": 1}));
    assert!(!is_good(api, &bearer(&tokens)).await && !is_good(api, &bob.token).await);
    mail(server.folder(), &bob.email, "Your second factors were removed").await;
    let body = json!({"email": bob.email, "password": PASSWORD, "tenant_id": ada.id});
    let again = api.post("/v1/auth/login", &body).send().await;
    let again = again.problem(403, "second_factor_enrolment_required");
    let (_, confirmed) = enrol_app(api, &text(&again["enrolment_token"])).await;
    remove(&bob, &ada.token).send().await.problem(409, "removal_not_asked");

    // Who belongs to more tenants than this is an operator's matter.
    let eve = api.user("eve").await;
    remove(&bob, &eve.token).send().await.problem(404, "not_found");
    let path = format!("/v1/tenants/{}/invitations", eve.id);
    let invite = json!({"email": bob.email, "role": "viewer"});
    let invited = api.post(&path, &invite).as_user(&eve).send().await.ok(201);
    let id: InvitationId = text(&invited["id"]).parse().unwrap();
    let keys = server.running.app.system.port::<LinkKey>();
    let link = keys.token(Purpose::Invitation, id.0).to_string();
    let otp = &confirmed["recovery_codes"][0];
    let body = json!({"email": bob.email, "password": PASSWORD, "otp": otp});
    let tokens = api.post("/v1/auth/login", &body).send().await.ok(200);
    let accept = api.post("/v1/invitations/accept", &json!({"token": link}));
    accept.bearer(&bearer(&tokens)).send().await.ok(200);
    lost(api, &bob, &ada.id).await.ok(202);
    remove(&bob, &ada.token).send().await.problem(409, "other_tenants");
    let path = format!("/v1/operator/users/{}/factors", bob.id);
    let by_operator = |reason: &str| {
        let body = json!({"reason": reason}).to_string();
        api.request(Method::DELETE, &path).json(body).as_user(&operator)
    };
    by_operator("").send().await.problem(422, "validation_error");
    assert_eq!(by_operator("shown a passport").send().await.ok(200)["removed"], 1);
    by_operator("once more").send().await.problem(409, "no_second_factor");
    let server = server.restart().await;
    let api = &server.api;
    let acted = format!("/v1/operator/actors/second_factors/{}", bob.id);
    let acted = api.get(&acted).as_user(&operator).send().await.ok(200);
    let events: Vec<_> =
        acted["history"].as_array().unwrap().iter().map(|it| text(&it["event"])).collect();
    assert!(events.contains(&"cleared".to_owned()), "{events:?}");
    assert_eq!(acted["state"]["factors"], json!([]));
    server.stop().await;
}
