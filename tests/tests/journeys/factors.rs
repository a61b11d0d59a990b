//! Second factors: authenticator apps, passkeys, recovery codes, tenants that ask for them; and the
//! keys that tokens are signed with.

use std::path::Path;

use identity::claim::ClaimKey;
use identity::password::{Hasher, PasswordPolicy};
use identity::soft_passkey::SoftPasskey;
use identity::totp::{STEP_SECONDS, Secret};
use identity::{Identity, IdentitySettings};
use journeys::{Answer, Api, PASSWORD, Server, User, settings, text};
use persistence::{FolderLock, Journal, Options};
use serde_json::{Value, json};
use supervision::{Clock as _, SimulatedClock, System, SystemClock, SystemOptions};

const FACTORS: &str = "/v1/auth/me/factors";
/// The servers here were told to listen on any port.
const ORIGIN: &str = "http://localhost:0";

/// An authenticator app: its codes in the order of their steps, from the present one on. The one
/// after the present is taken too, so a test may use two at once.
pub(super) struct AuthenticatorApp {
    secret: Secret,
    step: u64,
}

impl AuthenticatorApp {
    fn new(enrolled: &Value) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let secret = Secret::parse(&text(&enrolled["secret"])).unwrap();
        Self { secret, step: now.as_secs() / STEP_SECONDS }
    }

    fn code(&mut self) -> String {
        self.step += 1;
        self.secret.code(self.step - 1)
    }
}

async fn login(api: &Api, user: &User, more: &Value) -> Answer {
    let mut body = json!({"email": user.email, "password": PASSWORD});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    api.post("/v1/auth/login", &body).send().await
}

/// The refusal of a login that needs a second factor.
async fn half_logged_in(api: &Api, user: &User) -> Value {
    login(api, user, &json!({})).await.problem(401, "second_factor_required")
}

pub(super) async fn enrol_app(api: &Api, token: &str) -> (AuthenticatorApp, Value) {
    let path = format!("{FACTORS}/totp");
    let enrolled = api.post(&path, &json!({"label": "phone"})).bearer(token).send().await.ok(201);
    let mut app = AuthenticatorApp::new(&enrolled);
    let path = format!("{FACTORS}/{}/confirm", text(&enrolled["factor_id"]));
    let wrong = api.post(&path, &json!({"code": "12345"})).bearer(token).send().await;
    wrong.problem(422, "validation_error");
    let confirm = api.post(&path, &json!({"code": app.code()})).bearer(token).key("confirm");
    let confirmed = confirm.clone().send().await.ok(200);
    (app, confirmed)
}

fn codes(confirmed: &Value) -> Vec<String> {
    confirmed["recovery_codes"].as_array().unwrap().iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authenticator_app_is_enrolled_asked_for_and_removed() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    let api = &server.api;
    let path = format!("{FACTORS}/totp");
    let key = api.post(&path, &json!({})).as_user(&user).key("enrol").send().await;
    let enrolled = key.ok(201);
    assert_eq!(key.headers["cache-control"], "no-store");
    let uri = text(&enrolled["otpauth_uri"]);
    assert!(uri.starts_with("otpauth://totp/Bailiwick:ada%40example.com?secret="), "{uri}");
    let again = api.post(&path, &json!({})).as_user(&user).key("enrol").send().await.ok(201);
    assert_eq!(again, enrolled, "a repetition is shown the same");
    let (mut app, confirmed) = enrol_app(api, &user.token).await;
    let codes = codes(&confirmed);
    assert_eq!(codes.len(), 10);

    let listed = api.get(FACTORS).as_user(&user).send().await.ok(200);
    assert_eq!(listed["recovery_codes_left"], 10);
    assert_eq!(listed["factors"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["factors"][0]["kind"], "totp");
    assert_eq!(listed["factors"][0]["label"], "phone");

    let half = half_logged_in(api, &user).await;
    assert_eq!(half["factors"], json!(["totp", "recovery_code"]));
    let token = text(&half["login_token"]);
    api.get("/v1/auth/me").bearer(&token).send().await.problem(401, "invalid_token");
    let second = |factor: Value| {
        let mut body = json!({"login_token": token});
        body.as_object_mut().unwrap().extend(factor.as_object().unwrap().clone());
        api.post("/v1/auth/login/factor", &body)
    };
    second(json!({"code": "000000"})).send().await.problem(401, "invalid_second_factor");
    second(json!({})).send().await.problem(422, "validation_error");
    let good = second(json!({"code": app.code()})).send().await;
    let tokens = good.ok(200);
    assert!(good.headers["x-device-token"].to_str().unwrap().starts_with("bw_device_"));
    assert_eq!(tokens["token_type"], "bearer");
    api.get("/v1/auth/me").bearer(&text(&tokens["access_token"])).send().await.ok(200);
    let again = second(json!({"recovery_code": codes[0]})).send().await;
    again.problem(401, "login_token_used");

    // What was used stays used, in another process too.
    let server = server.restart().await;
    let api = &server.api;
    let otp = json!({"otp": codes[1]});
    login(api, &user, &otp).await.ok(200);
    login(api, &user, &otp).await.problem(401, "invalid_second_factor");

    let id = text(&listed["factors"][0]["id"]);
    let remove = |proof: Value| {
        let path = format!("{FACTORS}/{id}");
        api.request(hyper::Method::DELETE, &path).json(proof.to_string()).as_user(&user)
    };
    remove(json!({"password": "not it at all"})).send().await.problem(403, "wrong_password");
    remove(json!({"code": "000000"})).send().await.problem(403, "invalid_second_factor");
    let removed = remove(json!({"password": PASSWORD})).send().await;
    assert_eq!(removed.status, 204, "{}", removed.text());
    remove(json!({"password": PASSWORD})).send().await.problem(404, "not_found");
    login(api, &user, &json!({})).await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_know_passwords_only_send_a_code_along() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let (_, confirmed) = enrol_app(api, &user.token).await;
    let codes = codes(&confirmed);
    let path = "/api/v1/auth/login";
    let form = |more: &str| {
        let form = format!("username=ada%40example.com&password={PASSWORD}{more}");
        api.request(hyper::Method::POST, path).body("application/x-www-form-urlencoded", form)
    };
    form("").send().await.problem(401, "second_factor_required");
    form("&otp=000000").send().await.problem(401, "invalid_second_factor");
    let tokens = form(&format!("&otp={}", codes[0])).send().await.ok(200);
    assert_eq!(tokens["expires_in"], 3_600);
    let body = json!({"email": user.email, "password": PASSWORD, "otp": codes[1]});
    let broker = api.post(path, &body).send().await.ok(200);
    api.get("/api/v1/auth/me").bearer(&text(&broker["token"])).send().await.ok(200);
    let half = form("").send().await.problem(401, "second_factor_required");
    let body = json!({"login_token": half["login_token"], "recovery_code": codes[2]});
    let tokens = api.post("/v1/auth/login/factor", &body).send().await.ok(200);
    assert_eq!(tokens["expires_in"], 3_600, "as the first step would have given");
    // Lost, and asked for anew.
    let path = format!("{FACTORS}/recovery-codes");
    let proof = json!({"recovery_code": codes[3]});
    let renewed = api.post(&path, &proof).as_user(&user).send().await.ok(200);
    assert_eq!(renewed["recovery_codes"].as_array().unwrap().len(), 10);
    let old = json!({"otp": codes[4]});
    login(api, &user, &old).await.problem(401, "invalid_second_factor");
    login(api, &user, &json!({"otp": renewed["recovery_codes"][0]})).await.ok(200);
    server.stop().await;
}

/// Enrols a passkey; answers what confirmed it.
async fn enrol_passkey(api: &Api, token: &str, passkey: &mut SoftPasskey) -> Value {
    let path = format!("{FACTORS}/passkeys/begin");
    let begun = api.post(&path, &json!({"label": "laptop"})).bearer(token).send().await.ok(200);
    let options = &begun["publicKey"];
    assert_eq!(options["rp"]["id"], "localhost");
    let path = format!("{FACTORS}/passkeys/finish");
    let finish = |answer: &Value| api.post(&path, answer).bearer(token);
    let phished = passkey.create(options, "http://localhost.evil.test").unwrap();
    finish(&phished).send().await.problem(422, "validation_error");
    let answer = passkey.create(options, ORIGIN).unwrap();
    let confirmed = finish(&answer).send().await.ok(201);
    assert_eq!(confirmed["factor_id"], begun["factor_id"]);
    finish(&answer).send().await.problem(410, "enrolment_expired");
    confirmed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_completes_a_login_and_only_the_one_it_was_asked_for() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let mut passkey = SoftPasskey::new();
    let confirmed = enrol_passkey(api, &user.token, &mut passkey).await;
    assert_eq!(codes(&confirmed).len(), 10);
    let begin = |half: &Value| {
        let body = json!({"login_token": half["login_token"]});
        api.post("/v1/auth/login/factor/begin", &body)
    };
    let finish = |half: &Value, answer: &Value| {
        let body = json!({"login_token": half["login_token"], "passkey": answer});
        api.post("/v1/auth/login/factor", &body)
    };
    let (here, there) = (half_logged_in(api, &user).await, half_logged_in(api, &user).await);
    assert_eq!(here["factors"], json!(["passkey", "recovery_code"]));
    let asked = begin(&here).send().await.ok(200);
    let answer = passkey.get(&asked["publicKey"], ORIGIN).unwrap();
    finish(&there, &answer).send().await.problem(401, "invalid_second_factor");
    let tokens = finish(&here, &answer).send().await.ok(200);
    api.get("/v1/auth/me").bearer(&text(&tokens["access_token"])).send().await.ok(200);
    finish(&here, &answer).send().await.problem(401, "login_token_used");
    let asked = begin(&there).send().await.ok(200);
    let phished = passkey.get(&asked["publicKey"], "http://localhost").unwrap();
    finish(&there, &phished).send().await.problem(401, "invalid_second_factor");
    let nonsense = json!({"login_token": "bw_login_nonsense"});
    begin(&nonsense).send().await.problem(401, "invalid_login_token");
    // A second passkey is enrolled beside the first, without codes.
    let mut other = SoftPasskey::new();
    let confirmed = enrol_passkey(api, &user.token, &mut other).await;
    assert!(confirmed["recovery_codes"].is_null());
    let asked = begin(&there).send().await.ok(200);
    let answer = other.get(&asked["publicKey"], ORIGIN).unwrap();
    let server = server.restart().await;
    let body = json!({"login_token": there["login_token"], "passkey": answer});
    server.api.post("/v1/auth/login/factor", &body).send().await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_asks_for_a_second_factor() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let path = "/v1/auth/sign-in-policy";
    let policy = api.get(path).as_user(&user).send().await.ok(200);
    assert_eq!(policy, json!({"require_second_factor": false}));
    let put = |value: bool| {
        let body = json!({"require_second_factor": value});
        api.request(hyper::Method::PUT, path).json(body.to_string()).as_user(&user)
    };
    put(true).send().await.ok(200);
    let refused = login(api, &user, &json!({})).await;
    let refused = refused.problem(403, "second_factor_enrolment_required");
    let enrol = text(&refused["enrolment_token"]);
    for path in ["/v1/auth/me", FACTORS, path] {
        api.get(path).bearer(&enrol).send().await.problem(401, "invalid_token");
    }
    let debit = json!({"amount": 1, "reason": "no"});
    api.post("/v1/billing/debits", &debit).bearer(&enrol).send().await.ok(401);
    let (mut app, confirmed) = enrol_app(api, &enrol).await;
    assert_eq!(codes(&confirmed).len(), 10);
    let more = api.post(&format!("{FACTORS}/totp"), &json!({})).bearer(&enrol).send().await;
    more.problem(401, "invalid_token");
    login(api, &user, &json!({"otp": app.code()})).await.ok(200);
    let server = server.restart().await;
    half_logged_in(&server.api, &user).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_keys_are_shown_and_not_rotated_too_soon() {
    let server = Server::start().await;
    let api = &server.api;
    let operator = api.operator().await;
    let path = "/v1/operator/signing-keys";
    let shown = api.get(path).as_user(&operator).send().await.ok(200);
    let standings: Vec<_> =
        shown["keys"].as_array().unwrap().iter().map(|key| text(&key["standing"])).collect();
    assert_eq!(standings, ["next", "current"]);
    let jwks = api.get("/v1/auth/.well-known/jwks.json").send().await.ok(200);
    assert_eq!(shown["keys"][0]["kid"], jwks["keys"][0]["kid"]);
    let rotate = format!("{path}/rotate");
    let soon = api.post(&rotate, &json!({"reason": "leak"})).as_user(&operator).send().await;
    soon.problem(409, "signing_key_rotation_too_soon");
    assert_eq!(api.get(path).as_user(&operator).send().await.ok(200), shown);
    server.stop().await;
}

/// A folder whose signing keys were made two hours ago, as the server's clock has it.
async fn with_old_keys(folder: &Path) {
    let _lock = FolderLock::take(folder).unwrap();
    let master = persistence::load_master_key(folder).unwrap();
    let journal = Journal::open(Options::new(folder), &master).unwrap();
    let clock = SimulatedClock::at(SystemClock::default().now().plus_ms(-2 * 3_600_000));
    let hasher = Hasher::start_with(PasswordPolicy::default(), 1, 1).unwrap();
    let claim_key = ClaimKey::of(&master).unwrap();
    let identity = Identity::new(IdentitySettings::default(), hasher, claim_key);
    let options = SystemOptions { clock, ..SystemOptions::new(journal) };
    let system = identity::register(System::builder(options), &identity).start();
    identity.start(&system).await.unwrap();
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_rotates_the_signing_key_once_and_old_tokens_stay_good() {
    let folder = tempfile::tempdir().unwrap();
    with_old_keys(folder.path()).await;
    let running = gateway::start::start(&settings(folder.path())).await.unwrap();
    let api = Api::new(running.address);
    let operator = api.operator().await;
    let user = api.user("ada").await;
    let path = "/v1/operator/signing-keys";
    let before = api.get(path).as_user(&operator).send().await.ok(200);
    let rotate = |key: &str| {
        let body = json!({"reason": "the quarter is over"});
        api.post(&format!("{path}/rotate"), &body).as_user(&operator).key(key)
    };
    let after = rotate("first").send().await.ok(200);
    assert_eq!(rotate("first").send().await.ok(200), after, "a repetition rotates nothing");
    rotate("second").send().await.problem(409, "signing_key_rotation_too_soon");
    assert_eq!(after["keys"][1]["kid"], before["keys"][0]["kid"]);
    assert_eq!(after["keys"][2]["kid"], before["keys"][1]["kid"]);
    assert_eq!(after["keys"][2]["standing"], "previous");
    let shown = api.get(path).as_user(&operator).send().await.ok(200);
    assert_eq!(shown["keys"], after["keys"]);
    let jwks = api.get("/v1/auth/.well-known/jwks.json").send().await.ok(200);
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 3);
    api.get("/v1/auth/me").as_user(&user).send().await.ok(200);
    let fresh = login(&api, &user, &json!({})).await.ok(200);
    let head = |token: &str| text(&json!(token.split('.').next().unwrap()));
    assert_ne!(head(&user.token), head(&text(&fresh["access_token"])));
    running.stop().await;
    let running = gateway::start::start(&settings(folder.path())).await.unwrap();
    let api = Api::new(running.address);
    api.get("/v1/auth/me").as_user(&user).send().await.ok(200);
    api.get("/v1/auth/me").bearer(&text(&fresh["access_token"])).send().await.ok(200);
    running.stop().await;
}
