//! Input that is wrong: each mistake has its status, its code, and its place where there is one.

use data_encoding::BASE64URL_NOPAD;
use hyper::Method;
use identity::signing_keys::{KeySet, SigningAlgorithm};
use identity::token::{CarriedEpochs, Claims, sign};
use journeys::{Server, User, text};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_has_its_answer() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let path = "/v1/billing/debits";
    let post = |body: &str| api.request(Method::POST, path).as_user(&user).json(body.to_owned());
    post("{\"amount\": ").send().await.problem(400, "malformed_json");
    post("").send().await.problem(400, "malformed_json");
    post("\u{feff}{}").send().await.problem(400, "malformed_json");
    let wrong = post(r#"{"amount": "7", "reason": "r"}"#).send().await;
    let wrong = wrong.problem(422, "validation_error");
    assert_eq!(wrong["details"][0]["field"], "amount", "{wrong}");
    let calls = r#"{"calls": [{"function": "a"}, {"function": 7}]}"#;
    let call = api.request(Method::POST, "/v1/extensions/developer/batch").as_user(&user);
    let wrong = call.json(calls).send().await.problem(422, "validation_error");
    assert!(text(&wrong["details"][0]["field"]).starts_with("calls[1]"), "{wrong}");
    let list = post(r#"[7, "r"]"#).send().await.problem(422, "validation_error");
    assert_eq!(list["details"][0]["field"], "body", "{list}");
    let missing = post(r#"{"amount": 7}"#).send().await.problem(422, "validation_error");
    assert!(text(&missing["detail"]).contains("reason"), "{missing}");
    for amount in ["0", "-1", "1.5", "9223372036854775808", "1e3", "null"] {
        let body = format!("{{\"amount\": {amount}, \"reason\": \"r\"}}");
        post(&body).send().await.problem(422, "validation_error");
    }
    let kind = api.request(Method::POST, path).as_user(&user).body("text/plain", "{}");
    kind.send().await.problem(415, "unsupported_media_type");
    let long = format!("{{\"amount\": 1, \"reason\": \"{}\"}}", "r".repeat(1024 * 1024));
    post(&long).send().await.problem(413, "body_too_large");
    let deep = format!("{{\"x\": {}", "[".repeat(100_000));
    post(&deep).send().await.problem(400, "malformed_json");
    let key = post("{\"amount\": 1, \"reason\": \"r\"}").key(&"k".repeat(256)).send().await;
    key.problem(422, "validation_error");

    let get = |path: &str| api.get(path).as_user(&user);
    get("/v1/billing/holds?limit=0").send().await.problem(422, "validation_error");
    get("/v1/billing/holds?limit=many").send().await.problem(422, "validation_error");
    get("/v1/actions?status=maybe").send().await.problem(422, "validation_error");
    get("/v1/actions?cursor=nonsense").send().await.problem(422, "validation_error");
    get("/v1/no/such/route").send().await.problem(404, "not_found");
    api.get("/v1/no/such/route").send().await.problem(404, "not_found");
    let method = api.request(Method::DELETE, path).as_user(&user).send().await;
    method.problem(405, "method_not_allowed");
    assert!(method.headers.contains_key("allow"), "{:?}", method.headers);
    get("/v1/billing/holds/%ff/capture").send().await.ok(405);
    assert_eq!(api.balance(&user).await, journeys::WELCOME.0, "nothing of it cost anything");
    server.stop().await;
}

/// The claims of a user's token, to be signed anew.
fn claims(user: &User) -> Claims {
    let payload = user.token.split('.').nth(1).unwrap();
    let payload: Value =
        serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let epochs = &payload["epochs"];
    Claims {
        iss: text(&payload["iss"]),
        aud: text(&payload["aud"]),
        sub: text(&payload["sub"]),
        sid: text(&payload["sid"]),
        email: text(&payload["email"]),
        tenant_id: text(&payload["tenant_id"]),
        role: text(&payload["role"]),
        scopes: payload["scopes"].as_array().unwrap().iter().map(text).collect(),
        iat: number(&payload["iat"]),
        exp: number(&payload["exp"]),
        jti: None,
        epochs: CarriedEpochs {
            tenant: number(&epochs["t"]),
            user: number(&epochs["u"]),
            session: number(&epochs["s"]),
            membership: 0,
        },
    }
}

fn with_part(token: &str, part: usize, bytes: &[u8]) -> String {
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts[part] = BASE64URL_NOPAD.encode(bytes);
    parts.join(".")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_does_not_hold_is_401() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let own = claims(&user);
    let keys = server.running.app.identity.signing_keys().get().unwrap();
    let keys = &keys.set;
    let same = sign(keys, &own).unwrap();
    api.get("/v1/auth/me").bearer(&same).send().await.ok(200);

    let past = Claims { iat: own.iat - 2_000, exp: own.iat - 1_000, ..own.clone() };
    let now_ms = own.iat * 1_000;
    let foreign = KeySet::generate(SigningAlgorithm::Rs256, now_ms).unwrap();
    let ed25519 = KeySet::generate(SigningAlgorithm::EdDsa, now_ms).unwrap();
    let other_audience = Claims { aud: "elsewhere".to_owned(), ..own.clone() };
    let payload = user.token.split('.').nth(1).unwrap();
    let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
    let payload = String::from_utf8(payload).unwrap();
    let raised = payload.replacen("\"role\":\"owner\"", "\"role\":\"admin\"", 1);
    assert_ne!(payload, raised);
    let tokens = [
        ("expired", sign(keys, &past).unwrap()),
        ("another installation's", sign(&foreign, &own).unwrap()),
        ("another installation's, EdDSA", sign(&ed25519, &own).unwrap()),
        ("for another audience", sign(keys, &other_audience).unwrap()),
        ("raised role", with_part(&user.token, 1, raised.as_bytes())),
        ("no algorithm", with_part(&user.token, 0, br#"{"alg":"none","typ":"at+jwt"}"#)),
        ("no signature", with_part(&user.token, 2, b"")),
        ("the refresh token", user.refresh.clone()),
        ("nonsense", "nonsense".to_owned()),
    ];
    for (what, token) in tokens {
        for path in ["/v1/auth/me", "/v1/billing/balance", "/v1/operator/tree"] {
            let answer = api.get(path).bearer(&token).send().await;
            assert_eq!(answer.status, 401, "{what}: {path}: {}", answer.text());
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            assert!(!answer.text().contains(&token), "{what} is shown");
        }
    }
    for value in ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", ""] {
        let answer = api.get("/v1/auth/me").header("authorization", value).send().await;
        answer.problem(401, "unauthorized");
    }
    let service = api.get("/v1/billing/balance").header("x-service-token", "wrong").send().await;
    service.problem(401, "unauthorized");
    server.stop().await;
}
