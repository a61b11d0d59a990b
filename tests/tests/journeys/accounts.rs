//! The account API: signing up, both logins of the one path, the account, a new pair of tokens.

use journeys::{PASSWORD, Server, WELCOME, text};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_made_and_used() {
    let server = Server::start().await;
    let api = &server.api;
    let email = "ada@example.com";
    let new = json!({"email": email, "password": PASSWORD, "full_name": "Ada", "company": "Works"});
    let account = api.post("/api/v1/auth/register", &new).send().await.ok(201);
    assert!(text(&account["id"]).starts_with("usr_"), "{account}");
    assert!(text(&account["tenant_id"]).starts_with("tenant_"), "{account}");
    assert_eq!(account["credits"], WELCOME.0);
    let again = api.post("/api/v1/auth/register", &new).send().await;
    assert_eq!(again.status, 409, "{}", again.text());

    let form = api.request(hyper::Method::POST, "/api/v1/auth/login").body(
        "application/x-www-form-urlencoded",
        format!("username=ada%40example.com&password={PASSWORD}"),
    );
    let by_form = form.send().await.ok(200);
    assert_eq!((&by_form["token_type"], &by_form["expires_in"]), (&json!("bearer"), &json!(3_600)));
    let login = json!({"email": email, "password": PASSWORD});
    let answer = api.post("/api/v1/auth/login", &login).send().await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let by_json = answer.ok(200);
    assert_eq!(by_json["user"]["email"], email);
    assert_eq!(text(&by_json["user"]["id"]).len(), 36, "{by_json}");

    for token in [&by_form["access_token"], &by_json["token"]] {
        let me = api.get("/api/v1/auth/me").bearer(&text(token)).send().await.ok(200);
        assert_eq!((&me["id"], &me["full_name"]), (&account["id"], &json!("Ada")));
        assert_eq!(me["tenants"][0]["id"], account["tenant_id"]);
        assert_eq!(me["tenants"][0]["name"], "Works");
    }
    let refresh = json!({"refresh_token": by_form["refresh_token"]});
    let pair = api.post("/api/v1/auth/refresh", &refresh).send().await.ok(200);
    assert_eq!(pair["expires_in"], 3_600);
    assert_ne!(pair["refresh_token"], by_form["refresh_token"]);
    let me = api.get("/api/v1/auth/me").bearer(&text(&pair["access_token"])).send().await;
    assert_eq!(me.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_an_unknown_address_are_one_answer() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("known").await;
    let mut answers = Vec::new();
    for email in [user.email.as_str(), "unknown@example.com"] {
        let login = json!({"email": email, "password": "not-the-password"});
        let answer = api.post("/v1/auth/login", &login).send().await;
        let mut problem = answer.problem(401, "invalid_credentials");
        problem["trace_id"] = json!(null);
        answers.push(problem);
    }
    assert_eq!(answers[0], answers[1]);
    let mut last = 0;
    for _ in 0..5 {
        let login = json!({"email": user.email, "password": "not-the-password"});
        let answer = api.post("/v1/auth/login", &login).send().await;
        last = answer.status;
        if last == 429 {
            answer.problem(429, "too_many_attempts");
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert_eq!(last, 429, "five wrong passwords in a minute are enough");
    server.stop().await;
}
