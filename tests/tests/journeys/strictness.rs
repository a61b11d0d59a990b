//! What is nearly right is not taken: text that cannot be seen, members and parameters that are
//! there twice, numbers out of range, and no word about the server's own types.

use hyper::Method;
use journeys::{PASSWORD, Server, text};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_for_people_is_plain_and_names_its_field() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let unseen = [
        "nul \u{0}",
        "bell \u{7}",
        "\u{1b}[31mred",
        "two\nlines",
        "turned \u{202e}around",
        "\u{2066}isolated",
        "line\u{2028}end",
    ];
    let grants = format!("/v1/operator/tenants/{}/grants", user.id);
    let acts = format!("/v1/operator/actors/wallet/{}", user.id);
    for unseen in unseen {
        let account =
            |field: &str| json!({"email": "eve@example.com", "password": PASSWORD, field: unseen});
        let cases = [
            ("/v1/billing/debits", json!({"amount": 1, "reason": unseen}), "reason", &user),
            (
                "/v1/billing/holds",
                json!({"amount": 1, "ttl_seconds": 9, "reason": unseen}),
                "reason",
                &user,
            ),
            (&grants, json!({"credits": 1, "kind": "paid", "reason": unseen}), "reason", &operator),
            (&acts, json!({"action": "verify", "reason": unseen}), "reason", &operator),
            ("/api/v1/auth/register", account("full_name"), "full_name", &user),
            ("/api/v1/auth/register", account("company"), "company", &user),
        ];
        for (path, body, field, who) in cases {
            let refused = api.post(path, &body).as_user(who).send().await;
            let refused = refused.problem(422, "validation_error");
            assert_eq!(refused["details"][0]["field"], field, "{path} {unseen:?}: {refused}");
        }
    }
    let half = r#"{"amount": 1, "reason": "\ud800"}"#;
    let half = api.request(Method::POST, "/v1/billing/debits").as_user(&user).json(half);
    let half = half.send().await.problem(422, "validation_error");
    assert_eq!(half["details"][0]["field"], "reason", "{half}");
    let long = json!({"amount": 1, "reason": "r".repeat(501)});
    let long = api.post("/v1/billing/debits", &long).as_user(&user).send().await;
    assert!(text(&long.problem(422, "validation_error")["detail"]).contains("500 characters"));
    assert_eq!(api.balance(&user).await, journeys::WELCOME.0);
    let seen = json!({"amount": 1, "reason": "für Zoë – שלום 👩\u{200d}🔧"});
    api.post("/v1/billing/debits", &seen).as_user(&user).send().await.ok(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_twice_too_deep_or_out_of_range() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let debit = |body: String| {
        api.request(Method::POST, "/v1/billing/debits").as_user(&user).json(body).send()
    };
    let twice = debit(r#"{"amount": 1, "amount": 100, "reason": "r"}"#.to_owned()).await;
    let twice = twice.problem(422, "validation_error");
    assert_eq!(twice["details"][0]["field"], "amount", "{twice}");
    let twice = debit(r#"{"amount": 1, "reason": "r", "x": {"y": 1, "y": 2}}"#.to_owned()).await;
    let twice = twice.problem(422, "validation_error");
    assert_eq!(twice["details"][0]["field"], "x.y", "{twice}");
    let deep = format!(
        "{{\"amount\": 1, \"reason\": \"r\", \"x\": {}{}}}",
        "[".repeat(70),
        "]".repeat(70)
    );
    debit(deep).await.problem(400, "malformed_json");

    let lists = [
        ("/v1/billing/holds", "limit", "201"),
        ("/v1/billing/wallet/history", "limit", "201"),
        ("/v1/actions", "per_page", "201"),
        ("/v1/actions", "page", "0"),
    ];
    for (path, name, beyond) in lists {
        for value in ["abc", "-1", "1.5", "", "99999999999999999999999999", beyond, "0"] {
            let wrong = api.get(&format!("{path}?{name}={value}")).as_user(&user).send().await;
            let wrong = wrong.problem(422, "validation_error");
            assert_eq!(wrong["details"][0]["field"], name, "{path} {value:?}: {wrong}");
            assert_eq!(wrong["details"][0]["loc"], json!(["query", name]), "{wrong}");
        }
        let twice = api.get(&format!("{path}?{name}=1&{name}=2")).as_user(&user).send().await;
        let twice = twice.problem(422, "validation_error");
        assert!(text(&twice["detail"]).contains("more than once"), "{twice}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_is_told_in_the_words_of_json() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let wrong: [Value; 6] =
        [json!(null), json!([]), json!(7), json!("x"), json!({}), json!({"email": {"a": []}})];
    let paths = [
        "/v1/auth/login",
        "/api/v1/auth/login",
        "/v1/auth/refresh",
        "/api/v1/auth/register",
        "/v1/billing/debits",
        "/v1/billing/holds",
        "/v1/developer/register",
        "/v1/developer/apps",
        "/v1/extensions/developer/call",
        "/v1/extensions/developer/batch",
    ];
    for path in paths {
        for body in &wrong {
            let call = api.request(Method::POST, path).json(body.to_string());
            let call = if path.contains("auth") { call } else { call.as_user(&user) };
            let refused = call.send().await.problem(422, "validation_error");
            let detail = text(&refused["detail"]);
            for word in ["struct", "Request", "expected", "i64", "u32", "serde", "variant", "::"] {
                assert!(!detail.contains(word), "{path} {body}: {detail}");
            }
        }
    }
    let form = api.request(Method::POST, "/api/v1/auth/login");
    let form = form.body("application/x-www-form-urlencoded", "username=a&username=b&password=c");
    let form = form.send().await.problem(422, "validation_error");
    assert_eq!(form["details"][0]["field"], "username", "{form}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_may_be_left_out_may_be_left_out() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    for end in ["capture", "release"] {
        let hold = json!({"amount": 5, "ttl_seconds": 60, "reason": "r"});
        let hold = api.post("/v1/billing/holds", &hold).as_user(&user).send().await.ok(201);
        let path = format!("/v1/billing/holds/{}/{end}", text(&hold["id"]));
        let end = || api.request(Method::POST, &path).as_user(&user).key("the end");
        end().json("[]").send().await.problem(422, "validation_error");
        end().json("{").send().await.problem(400, "malformed_json");
        let first = end().send().await.ok(200);
        // Nothing and an empty object are the same body, so the key is good for both.
        assert_eq!(end().json("{}").send().await.ok(200), first);
        assert_eq!(end().body("text/plain", "").send().await.ok(200), first);
    }
    server.stop().await;
}
