//! Roles and grants: made, given, changed for all who have them, and never wider than one's own
//! rights.

use hyper::Method;
use identity::mail_link::{LinkKey, Purpose};
use journeys::{Api, PASSWORD, Server, User, text};
use serde_json::{Value, json};
use types::InvitationId;

/// Makes a user a member of another's own tenant, and logs them in there.
pub(super) async fn join(server: &Server, owner: &User, user: &User, role: &str) -> Value {
    let api = &server.api;
    let path = format!("/v1/tenants/{}/invitations", owner.id);
    let invite = json!({"email": user.email, "role": role});
    let invited = api.post(&path, &invite).as_user(owner).send().await.ok(201);
    let id: InvitationId = text(&invited["id"]).parse().unwrap();
    let keys = server.running.app.system.port::<LinkKey>();
    let token = keys.token(Purpose::Invitation, id.0).to_string();
    let accept = api.post("/v1/invitations/accept", &json!({"token": token}));
    accept.as_user(user).send().await.ok(200);
    let login = json!({"email": user.email, "password": PASSWORD, "tenant_id": owner.id});
    api.post("/v1/auth/login", &login).send().await.ok(200)
}

pub(super) fn bearer(tokens: &Value) -> String {
    text(&tokens["access_token"])
}

async fn refreshed(api: &Api, tokens: &Value) -> Value {
    let body = json!({"refresh_token": tokens["refresh_token"]});
    api.post("/v1/auth/refresh", &body).send().await.ok(200)
}

/// A member's scopes with their sources, as texts.
async fn effective(api: &Api, token: &str, user: &User) -> Vec<String> {
    let path = format!("/v1/scopes/effective/{}", user.id);
    let answer = api.get(&path).bearer(token).send().await.ok(200);
    let items = answer["scopes"].as_array().unwrap().iter();
    items.map(|it| format!("{} {}", text(&it["scope"]), text(&it["source"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_made_given_widened_and_ended() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let roles = api.get("/v1/roles").as_user(&ada).send().await.ok(200);
    let names: Vec<_> = roles.as_array().unwrap().iter().map(|it| text(&it["name"])).collect();
    assert_eq!(names, ["owner", "admin", "developer", "user", "viewer"]);
    assert!(roles.as_array().unwrap().iter().all(|role| role["is_system"] == true));
    let known = api.get("/v1/scopes?resource=wallet").as_user(&ada).send().await.ok(200);
    assert_eq!(known.as_array().unwrap().len(), 5);

    let clerk = json!({"name": "clerk", "default_scopes": ["wallet:read", "notes:read"]});
    let create = |body: &Value| api.post("/v1/roles", body).as_user(&ada);
    let role = create(&clerk).key("r").send().await.ok(201);
    assert_eq!(create(&clerk).key("r").send().await.ok(201), role);
    assert!(text(&role["id"]).starts_with("role_") && role["is_system"] == false);
    assert_eq!(role["max_concurrent_tasks"], 3);
    create(&clerk).send().await.problem(409, "role_exists");
    let refused = [
        json!({"name": "Clerk"}),
        json!({"name": "other", "default_scopes": ["moon:walk"]}),
        json!({"name": "other", "default_scopes": ["operator"]}),
        json!({"name": "other", "max_concurrent_tasks": -1}),
    ];
    for body in refused {
        create(&body).send().await.problem(422, "validation_error");
    }
    let tokens = join(&server, &ada, &bob, "clerk").await;
    let debit = json!({"amount": 1, "reason": "tea"});
    let debit = |token: &str| api.post("/v1/billing/debits", &debit).bearer(token);
    debit(&bearer(&tokens)).send().await.problem(403, "forbidden");
    let sources = effective(api, &bearer(&tokens), &bob).await;
    assert_eq!(sources, ["wallet:read role:clerk", "notes:read role:clerk"]);

    // Without cascade those who have it keep what they have; with it they have it at once.
    let path = format!("/v1/roles/{}", text(&role["id"]));
    let wider = json!({"default_scopes": ["wallet:*"], "display_name": "Clerk"}).to_string();
    let change =
        |query: &str| api.request(Method::PATCH, &format!("{path}{query}")).json(wider.clone());
    let changed = change("").as_user(&ada).send().await.ok(200);
    assert_eq!((&changed["cascaded_count"], &changed["name"]), (&json!(0), &json!("clerk")));
    debit(&bearer(&tokens)).send().await.problem(403, "forbidden");
    change("").bearer(&bearer(&tokens)).send().await.problem(403, "forbidden");
    let changed = change("?cascade=true").as_user(&ada).send().await.ok(200);
    assert_eq!(changed["cascaded_count"], 1);
    assert_eq!(debit(&bearer(&tokens)).send().await.status, 401, "it says the old scopes");
    let tokens = refreshed(api, &tokens).await;
    debit(&bearer(&tokens)).send().await.ok(201);

    let delete = |path: &str| api.request(Method::DELETE, path).as_user(&ada);
    let in_use = delete(&path).send().await.problem(409, "role_in_use");
    assert_eq!(in_use["members"], 1);
    delete("/v1/roles/admin").send().await.problem(409, "system_role");
    let viewer = json!({"role": "viewer"}).to_string();
    let at_bob = format!("/v1/users/{}", bob.id);
    let update = api.request(Method::PATCH, &at_bob).json(viewer).as_user(&ada);
    assert_eq!(update.send().await.ok(200)["role"], "viewer");
    delete(&path).send().await.ok(200);
    delete(&path).send().await.problem(404, "not_found");
    let server = server.restart().await;
    let roles = server.api.get("/v1/roles").as_user(&ada).send().await.ok(200);
    assert_eq!(roles.as_array().unwrap().len(), 5);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_more_than_they_have_and_grants_add_to_the_role() {
    let server = Server::start().await;
    let api = &server.api;
    let [ada, bob, eve] = [api.user("ada").await, api.user("bob").await, api.user("eve").await];
    let admin = bearer(&join(&server, &ada, &bob, "admin").await);
    let tokens = join(&server, &ada, &eve, "viewer").await;
    let beyond = [
        (Method::POST, "/v1/roles".to_owned(), json!({"name": "boss", "default_scopes": ["*"]})),
        (Method::PATCH, format!("/v1/users/{}", eve.id), json!({"role": "owner"})),
        (Method::PATCH, format!("/v1/users/{}", ada.id), json!({"role": "user"})),
        (
            Method::POST,
            format!("/v1/users/{}/scopes", bob.id),
            json!({"scopes": ["tenants:delete"]}),
        ),
        (
            Method::POST,
            format!("/v1/tenants/{}/invitations", ada.id),
            json!({"email": "new@example.com", "role": "owner"}),
        ),
    ];
    for (method, path, body) in beyond {
        let request = api.request(method, &path).json(body.to_string()).bearer(&admin);
        request.send().await.problem(403, "beyond_own_rights");
    }
    let remove = format!("/v1/tenants/{}/members/{}", ada.id, ada.id);
    let remove = api.request(Method::DELETE, &remove);
    remove.clone().bearer(&admin).send().await.problem(403, "beyond_own_rights");
    remove.as_user(&ada).send().await.problem(409, "own_tenant");

    let path = format!("/v1/users/{}/scopes", eve.id);
    let grant = json!({"scopes": ["wallet:spend", "notes:write"]});
    let granted = api.post(&path, &grant).bearer(&admin).key("g");
    let granted = granted.send().await.ok(200);
    assert_eq!(granted["scopes"], grant["scopes"]);
    assert_eq!(api.get("/v1/auth/me").bearer(&bearer(&tokens)).send().await.status, 401);
    let tokens = refreshed(api, &tokens).await;
    let sources = effective(api, &bearer(&tokens), &eve).await;
    let role =
        ["extensions:read", "members:read", "wallet:read"].map(|it| format!("{it} role:viewer"));
    assert_eq!(sources[..3], role);
    assert_eq!(sources[3..], ["wallet:spend grant", "notes:write grant"]);
    let take = api.request(Method::DELETE, &path).json(r#"{"scopes": ["wallet:spend"]}"#);
    take.clone().bearer(&bearer(&tokens)).send().await.problem(403, "forbidden");
    let left = take.bearer(&admin).send().await.ok(200);
    assert_eq!(left["scopes"], json!(["notes:write"]));

    // A viewer sees the members; leaving needs no right at all.
    let tokens = refreshed(api, &tokens).await;
    let users = api.get("/v1/users?role=viewer").bearer(&bearer(&tokens)).send().await.ok(200);
    assert_eq!((&users["total"], &users["items"][0]["email"]), (&json!(1), &json!(eve.email)));
    let leave = format!("/v1/tenants/{}/members/{}", ada.id, eve.id);
    let leave = api.request(Method::DELETE, &leave).bearer(&bearer(&tokens));
    assert_eq!(leave.send().await.status, 204);
    let me = api.get("/v1/auth/me").bearer(&bearer(&tokens)).send().await;
    assert_eq!(me.status, 401);
    server.stop().await;
}
