//! Logging in a program without a browser (RFC 8628): the codes, who lets it in, and how often it
//! asks.

use data_encoding::BASE64URL_NOPAD;
use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, text};
use persistence::record::sha256;
use serde_json::{Value, json};

const VERIFIER: &str = "a-verifier-that-is-long-enough-to-be-one-of-them";
const AUTHORIZE: &str = "/v1/auth/cli/device/authorize";
const TOKEN: &str = "/v1/auth/cli/device/token";
const DECIDE: &str = "/v1/auth/cli/device/decide";

async fn begin(api: &Api) -> Value {
    let challenge = BASE64URL_NOPAD.encode(&sha256(&[VERIFIER.as_bytes()]));
    let body = json!({"code_challenge": challenge, "code_challenge_method": "S256"});
    api.post(AUTHORIZE, &body).send().await.ok(200)
}

async fn ask_with(api: &Api, begun: &Value, verifier: &str) -> Answer {
    let body = json!({"device_code": begun["device_code"], "code_verifier": verifier});
    api.post(TOKEN, &body).send().await
}

async fn ask(api: &Api, begun: &Value) -> Answer {
    ask_with(api, begun, VERIFIER).await
}

async fn decide(api: &Api, user: &User, code: &str, approve: bool) -> Answer {
    let body = json!({"user_code": code, "approve": approve});
    api.post(DECIDE, &body).as_user(user).send().await
}

async fn is_good(api: &Api, tokens: &Value) -> bool {
    let me = api.get("/v1/auth/me").bearer(&text(&tokens["access_token"])).send().await;
    me.status == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_let_in_once_by_somebody_who_is_logged_in() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    for wrong in [
        json!({"code_challenge": "short"}),
        json!({"code_challenge": VERIFIER, "code_challenge_method": "plain"}),
        json!({}),
    ] {
        api.post(AUTHORIZE, &wrong).send().await.problem(422, "validation_error");
    }
    let begun = begin(api).await;
    assert_eq!((&begun["interval"], &begun["expires_in"]), (&json!(5), &json!(600)));
    let code = text(&begun["user_code"]);
    let uri = text(&begun["verification_uri"]);
    assert!(uri.ends_with("/device") && code.len() == 9, "{begun}");
    assert_eq!(text(&begun["verification_uri_complete"]), format!("{uri}?user_code={code}"));
    ask_with(api, &begun, &VERIFIER.replace('a', "b")).await.problem(400, "invalid_grant");
    let strange = json!({"device_code": "bw_device_code_x"});
    ask(api, &strange).await.problem(400, "invalid_grant");
    assert_eq!(ask(api, &begun).await.ok(200), json!({"error": "authorization_pending"}));
    assert_eq!(ask(api, &begun).await.ok(200), json!({"error": "slow_down"}));

    decide(api, &user, "BBBB-BBBB", true).await.problem(404, "not_found");
    let key = json!({"name": "k", "scopes": "*"});
    let key = api.post("/v1/keys", &key).as_user(&user).send().await.ok(201);
    let body = json!({"user_code": code});
    let by_key = api.post(DECIDE, &body).bearer(&text(&key["key"])).send().await;
    by_key.problem(403, "forbidden");
    let typed = code.to_lowercase().replace('-', " ");
    decide(api, &user, &typed, true).await.ok(200);
    decide(api, &user, &code, false).await.problem(410, "code_used");
    // Whoever asked too often waits; another process has forgotten that, and nothing else.
    let server = server.restart().await;
    let api = &server.api;
    let answer = ask(api, &begun).await;
    let tokens = answer.ok(200);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(tokens.as_object().unwrap().len(), 4, "{tokens}");
    assert!(is_good(api, &tokens).await);
    let sessions = api.get("/v1/auth/sessions").as_user(&user).send().await.ok(200);
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 2, "its own and the device's");
    let server = server.restart().await;
    ask(&server.api, &begun).await.problem(400, "expired_token");
    decide(&server.api, &user, &code, true).await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_and_a_sign_out_keep_the_device_out() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let denied = begin(api).await;
    decide(api, &user, &text(&denied["user_code"]), false).await.ok(200);
    ask(api, &denied).await.problem(400, "access_denied");

    let begun = begin(api).await;
    let login = json!({"email": user.email, "password": PASSWORD});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    let body = json!({"user_code": begun["user_code"]});
    let approve = api.post(DECIDE, &body).bearer(&text(&tokens["access_token"]));
    approve.send().await.ok(200);
    let logout = json!({"refresh_token": tokens["refresh_token"]});
    api.post("/v1/auth/logout", &logout).send().await.ok(200);
    ask(api, &begun).await.problem(400, "access_denied");
    let sessions = api.get("/v1/auth/sessions").as_user(&user).send().await.ok(200);
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1, "none was opened");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_lets_it_in_on_the_page() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let begun = begin(api).await;
    let code = text(&begun["user_code"]);
    let page = api.get(&format!("/device?user_code={code}")).send().await;
    assert!(page.status == 200 && page.text().contains(&code), "{}", page.text());
    let headers = ["cache-control", "referrer-policy"];
    let headers = headers.map(|name| page.headers[name].to_str().unwrap());
    assert_eq!(headers, ["no-store", "no-referrer"]);
    let hostile = api.get("/device?user_code=%22%3E%3Cb%3E").send().await;
    assert!(!hostile.text().contains("<b>"), "{}", hostile.text());
    let send = async |code: &str, password: &str, decision: &str| {
        let form = format!(
            "user_code={code}&email={}&password={password}&decision={decision}",
            user.email
        );
        let post = api.request(Method::POST, "/device");
        post.body("application/x-www-form-urlencoded", form).send().await
    };
    let wrong = send(&code, "not-the-password", "approve").await;
    assert!(wrong.status == 401 && wrong.text().contains(&code), "the form is there again");
    assert_eq!(send("BBBB-BBBB", PASSWORD, "approve").await.status, 404);
    assert_eq!(ask(api, &begun).await.ok(200), json!({"error": "authorization_pending"}));
    let done = send(&code, PASSWORD, "approve").await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(send(&code, PASSWORD, "approve").await.status, 410);
    let other = begin(api).await;
    let no = send(&text(&other["user_code"]), PASSWORD, "deny").await;
    assert!(no.status == 200 && no.text().contains("not let in"), "{}", no.text());
    ask(api, &other).await.problem(400, "access_denied");

    let server = server.restart().await;
    let api = &server.api;
    let tokens = ask(api, &begun).await.ok(200);
    assert!(is_good(api, &tokens).await);
    let sessions = api.get("/v1/auth/sessions").as_user(&user).send().await.ok(200);
    let open = sessions["sessions"].as_array().unwrap().len();
    assert_eq!(open, 2, "the page's session ended with it: {sessions}");
    server.stop().await;
}
