//! The platform's sessions: registering, refreshing, the family that dies of reuse, logging out.

use journeys::{Api, PASSWORD, Server, text};
use serde_json::{Value, json};

async fn refresh(api: &Api, token: &str) -> journeys::Answer {
    api.post("/v1/auth/refresh", &json!({"refresh_token": token})).send().await
}

fn refresh_token(tokens: &Value) -> String {
    text(&tokens["refresh_token"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_of_refresh_tokens_lives_and_dies() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let plain = json!({"email": "other@example.com", "password": PASSWORD});
    let stranger = api.post("/v1/auth/register", &plain).send().await;
    stranger.problem(401, "unauthorized");
    assert_eq!(stranger.headers["www-authenticate"], "Bearer");
    let member = api.post("/v1/auth/register", &plain).as_user(&user).send().await;
    assert_eq!(member.status, 403, "{}", member.text());

    // A lost answer, two tabs: the token just used answers the same successor.
    let second = refresh(api, &user.refresh).await.ok(200);
    let again = refresh(api, &user.refresh).await.ok(200);
    assert_eq!(refresh_token(&second), refresh_token(&again));
    let third = refresh(api, &refresh_token(&second)).await.ok(200);
    let me = api.get("/v1/auth/me").bearer(&text(&third["access_token"]));
    me.clone().send().await.ok(200);
    // An older one is a thief's, or tells of one: nothing of the family is good any more.
    refresh(api, &user.refresh).await.ok(401);
    refresh(api, &refresh_token(&third)).await.ok(401);
    me.clone().send().await.ok(401);
    let server = server.restart().await;
    refresh(&server.api, &refresh_token(&third)).await.ok(401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_out_ends_the_session_and_no_other() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let login = json!({"email": user.email, "password": PASSWORD, "tenant_id": "default"});
    let other = api.post("/v1/auth/login", &login).send().await.ok(200);
    assert_eq!(other["token_type"], "bearer");
    let logout = json!({"refresh_token": user.refresh});
    api.post("/v1/auth/logout", &logout).send().await.ok(200);
    api.post("/v1/auth/logout", &logout).send().await.ok(200);
    api.get("/v1/auth/me").as_user(&user).send().await.ok(401);
    refresh(api, &user.refresh).await.ok(401);
    let token = text(&other["access_token"]);
    let me = api.get("/v1/auth/me").bearer(&token).send().await.ok(200);
    let mut keys: Vec<_> = me.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let documented = [
        "agency_id",
        "attributes",
        "auth_method",
        "cases_user_id",
        "created_at",
        "email",
        "imperal_id",
        "last_login",
        "org_id",
        "role",
        "scopes",
        "tenant_id",
    ];
    assert_eq!(keys, documented);
    assert_eq!(me["tenant_id"], me["imperal_id"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_keys_are_there_for_everyone_and_stay() {
    let server = Server::start().await;
    let path = "/v1/auth/.well-known/jwks.json";
    let answer = server.api.get(path).send().await;
    let keys = answer.ok(200);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let first = &keys["keys"][0];
    assert_eq!((&first["kty"], &first["alg"]), (&json!("RSA"), &json!("RS256")), "{keys}");
    for private in ["d", "p", "q", "dp", "dq", "qi"] {
        assert!(first.get(private).is_none(), "{private} is nobody's business");
    }
    let user = server.api.user("ada").await;
    let server = server.restart().await;
    assert_eq!(server.api.get(path).send().await.ok(200), keys);
    server.api.get("/v1/auth/me").as_user(&user).send().await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_refreshes_at_once_get_one_successor() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    let answers =
        futures::future::join_all((0..40).map(|_| refresh(&server.api, &user.refresh))).await;
    let successors: Vec<_> = answers.iter().map(|it| refresh_token(&it.ok(200))).collect();
    assert!(successors.iter().all(|it| *it == successors[0] && *it != user.refresh));
    let server = server.restart().await;
    let third = refresh_token(&refresh(&server.api, &successors[0]).await.ok(200));
    refresh(&server.api, &user.refresh).await.problem(401, "invalid_token");
    let server = server.restart().await;
    refresh(&server.api, &third).await.problem(401, "invalid_token");
    server.stop().await;
}
