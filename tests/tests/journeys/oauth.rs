//! Connecting an account at an OAuth provider to an app, against a provider that keeps to RFC 6749
//! and RFC 7636: its codes are good once, for one client, address and verifier.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use hyper::Method;
use journeys::{Answer, PASSWORD, Server, User, text};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "the-client-secret-of-the-app";
const TOKEN: &str = "an-access-token-that-nobody-may-see";

/// Reads `name=value` pairs with their escapes.
fn pairs(text: &str) -> HashMap<String, String> {
    let decoded = |text: &str| {
        let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match first {
                b'+' => bytes.push(b' '),
                b'%' => {
                    let hex = std::str::from_utf8(&rest[..2]).unwrap();
                    bytes.push(u8::from_str_radix(hex, 16).unwrap());
                    rest = &rest[2..];
                }
                other => bytes.push(*other),
            }
        }
        String::from_utf8(bytes).unwrap()
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap();
        (decoded(name), decoded(value))
    };
    text.split('&').map(pair).collect()
}

/// A provider: it gives codes to whoever is sent to it, and exchanges each once.
struct Provider {
    url: String,
    /// What was asked for when a code was given, by the code.
    codes: Mutex<HashMap<String, HashMap<String, String>>>,
    exchanges: Mutex<u32>,
}

impl Provider {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (codes, exchanges) = (Mutex::default(), Mutex::default());
        let provider = Arc::new(Self { url, codes, exchanges });
        let serving = Arc::clone(&provider);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let provider = Arc::clone(&serving);
                tokio::spawn(async move { provider.serve(stream).await });
            }
        });
        provider
    }

    async fn serve(&self, mut stream: TcpStream) {
        let (mut bytes, mut part) = (Vec::new(), [0; 8_192]);
        loop {
            let count = stream.read(&mut part).await.unwrap_or_default();
            if count == 0 {
                return;
            }
            bytes.extend_from_slice(&part[..count]);
            let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if bytes.len() < end + 4 + length {
                continue;
            }
            assert!(head.contains("content-type: application/x-www-form-urlencoded"), "{head}");
            let form = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
            let (status, body) = self.exchange(&pairs(&form));
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n\
                 {body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            bytes.clear();
        }
    }

    /// What a browser does that is sent here: it comes back with a code.
    fn authorize(&self, url: &str) -> (String, String) {
        let (base, query) = url.split_once('?').unwrap();
        assert_eq!(base, format!("{}/authorize", self.url));
        let asked = pairs(query);
        assert_eq!((&*asked["response_type"], &*asked["client_id"]), ("code", "app client"));
        assert_eq!((&*asked["scope"], &*asked["code_challenge_method"]), ("repo user", "S256"));
        let state = asked["state"].clone();
        let code = format!("code {}", self.codes.lock().len());
        self.codes.lock().insert(code.clone(), asked);
        (code, state)
    }

    fn exchange(&self, form: &HashMap<String, String>) -> (&'static str, Value) {
        *self.exchanges.lock() += 1;
        let refused = |error: &str| ("400 Bad Request", json!({"error": error}));
        let Some(asked) = self.codes.lock().remove(&form["code"]) else {
            return refused("invalid_grant");
        };
        let verifier = digest(&SHA256, form["code_verifier"].as_bytes());
        let is_well = form["grant_type"] == "authorization_code"
            && form["redirect_uri"] == asked["redirect_uri"]
            && form["client_id"] == asked["client_id"]
            && BASE64URL_NOPAD.encode(verifier.as_ref()) == asked["code_challenge"];
        if !is_well {
            return refused("invalid_grant");
        }
        if form.get("client_secret").map(String::as_str) != Some(SECRET) {
            return refused("invalid_client");
        }
        ("200 OK", json!({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}))
    }
}

fn document(app: &str, provider: &str) -> Value {
    let keep = json!({"kind": "declarative", "steps": [{"id": "put", "op": "store.create",
        "args": {"kind": "account", "data": {"provider": "{{args.provider}}",
            "kind": "{{args.tokens.token_type}}", "user": "{{user.id}}"}}}]});
    let list = json!({"kind": "declarative", "steps": [{"id": "all", "op": "store.list",
        "args": {"kind": "account"}}]});
    json!({"ir_version": "1.0", "app": {"id": app, "version": "1.0.0", "title": "Connected",
        "oauth": [{"provider": "hub", "authorize_url": format!("{provider}/authorize"),
            "token_url": format!("{provider}/token"), "client_id": "app client",
            "scopes": ["repo", "user"], "secret": "hub_secret", "handler": "connected"}],
        "functions": [
            {"name": "connected", "action_type": "write", "params_schema": {}, "impl": keep},
            {"name": "accounts", "action_type": "read", "params_schema": {}, "impl": list}]}})
}

struct World {
    server: Server,
    provider: Arc<Provider>,
    ada: User,
}

const START: &str = "/v1/extensions/linked/oauth/hub/start";
const CALLBACK: &str = "/v1/ext/linked/oauth/hub/callback";

impl World {
    async fn start() -> Self {
        let server = Server::start_with(|settings| settings.dev = true).await;
        let (provider, ada) = (Provider::start().await, server.api.user("ada").await);
        let api = &server.api;
        let body = json!({"nickname": "n-linked"});
        api.post("/v1/developer/register", &body).as_user(&ada).send().await.ok(200);
        let body = json!({"app_id": "linked", "display_name": "Linked",
            "git_url": "https://example.com/linked.git"});
        api.post("/v1/developer/apps", &body).as_user(&ada).send().await.ok(200);
        let params = json!({"app_id": "linked", "ir_dict": document("linked", &provider.url)});
        let answer = api.built_in(&ada, "deploy_ir", &params).await;
        assert_eq!(answer["status"], "success", "{answer}");
        Self { server, provider, ada }
    }

    async fn set_secret(&self, user: &User, provider: &str, secret: &str) -> Answer {
        let path = format!("/v1/developer/apps/linked/oauth/{provider}");
        let body = json!({"client_secret": secret}).to_string();
        let put = self.server.api.request(Method::PUT, &path).json(body);
        put.as_user(user).send().await
    }

    /// Begins, and comes back from the provider with a code and the state.
    async fn been_there(&self) -> (String, String) {
        let begun = self.server.api.post(START, &json!({})).as_user(&self.ada).send().await;
        let begun = begun.ok(200);
        self.provider.authorize(&text(&begun["authorization_url"]))
    }

    /// Comes back with a code and the state. Whoever is asked logs in as Ada, and agrees.
    async fn back(&self, path: &str, code: &str, state: &str) -> Answer {
        let page = self.opened(path, code, state).await;
        match page.text().contains("name=\"password\"") {
            true => self.agreed(code, state).await,
            false => page,
        }
    }

    async fn opened(&self, path: &str, code: &str, state: &str) -> Answer {
        let code = code.replace(' ', "%20");
        self.server.api.get(&format!("{path}?code={code}&state={state}")).send().await
    }

    /// Sends the form of the page, with these fields beside what it carries.
    async fn form(&self, code: &str, state: &str, fields: &str) -> Answer {
        let code = code.replace(' ', "%20");
        let carried = format!("app_id=linked&provider=hub&code={code}&state={state}");
        let post = self.server.api.request(Method::POST, "/oauth/connect");
        let body = format!("{carried}&{fields}");
        post.body("application/x-www-form-urlencoded", body).send().await
    }

    /// The ticket that somebody gets who logs in.
    async fn ticket(&self, code: &str, state: &str) -> String {
        let login = format!("email={}&password={PASSWORD}", self.ada.email);
        let shown = self.form(code, state, &login).await;
        assert_eq!(shown.status, 200, "{}", shown.text());
        let (page, email) = (shown.text(), &self.ada.email);
        for told in ["of hub?", email, "Connected", "<code>linked</code>"] {
            assert!(page.contains(told), "{told}: {page}");
        }
        let ticket = page.split_once("name=\"ticket\" value=\"").unwrap().1;
        ticket.split_once('"').unwrap().0.to_owned()
    }

    async fn agreed(&self, code: &str, state: &str) -> Answer {
        let ticket = self.ticket(code, state).await;
        self.form(code, state, &format!("ticket={ticket}&decision=connect")).await
    }

    async fn accounts(&self) -> Value {
        let body = json!({"function": "accounts"});
        let call = self.server.api.post("/v1/extensions/linked/call", &body).as_user(&self.ada);
        call.send().await.ok(200)["data"]["docs"].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_connected_and_its_tokens_stand_nowhere() {
    let world = World::start().await;
    let api = &world.server.api;
    let early = api.post(START, &json!({})).as_user(&world.ada).send().await;
    early.problem(409, "oauth_secret_missing");
    let set = world.set_secret(&world.ada, "hub", SECRET).await;
    assert!(!set.text().contains(SECRET) && set.ok(200)["client_secret_set"] == true);
    world.set_secret(&world.ada, "other", SECRET).await.problem(404, "not_found");
    let (code, state) = world.been_there().await;
    let page = world.back(CALLBACK, &code, &state).await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.text().contains("You may close this page"), "{}", page.text());
    assert!(!page.text().contains(TOKEN));
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
    let accounts = world.accounts().await;
    assert_eq!(accounts[0]["data"]["kind"], "Bearer");
    assert_eq!(accounts[0]["data"]["user"], world.ada.id.as_str());
    // Once: neither the state nor the code is good again.
    let again = world.back(CALLBACK, &code, &state).await;
    assert_eq!(again.status, 400, "{}", again.text());
    assert_eq!(*world.provider.exchanges.lock(), 1);
    assert_eq!(world.accounts().await.as_array().unwrap().len(), 1);
    let actions = api.get("/v1/actions?per_page=100").as_user(&world.ada).send().await.text();
    for secret in [SECRET, TOKEN, &state] {
        assert!(!actions.contains(secret));
    }
    let folder = world.server.halt().await;
    for secret in [SECRET, TOKEN, &state] {
        assert!(!stands_in(folder.path(), secret.as_bytes()), "{secret} is on the disk");
    }
}

/// Whether some file below a folder holds these bytes.
fn stands_in(folder: &std::path::Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return stands_in(&path, wanted);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(wanted.len()).any(|part| part == wanted)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_not_good_is_one_and_the_same_page() {
    let world = World::start().await;
    world.set_secret(&world.ada, "hub", SECRET).await.ok(200);
    let bob = world.server.api.user("bob").await;
    let hidden = world.server.api.post(START, &json!({})).as_user(&bob).send().await;
    hidden.problem(404, "not_found");
    world.set_secret(&bob, "hub", SECRET).await.problem(403, "not_a_developer");
    let (code, state) = world.been_there().await;
    let other_app = "/v1/ext/other/oauth/hub/callback";
    let mut pages = Vec::new();
    for (path, state) in
        [(CALLBACK, "A".repeat(43)), (CALLBACK, String::new()), (other_app, state.clone())]
    {
        let page = world.back(path, &code, &state).await;
        assert_eq!(page.status, 400, "{}", page.text());
        pages.push(page.text());
    }
    assert!(pages.iter().all(|page| *page == pages[0]));
    assert_eq!(*world.provider.exchanges.lock(), 0);
    // What came with a wrong address took nothing.
    assert_eq!(world.back(CALLBACK, &code, &state).await.status, 200);
    // A user who refuses, and a code that is not good, end it too, and nothing is called.
    let (_, state) = world.been_there().await;
    let refused = format!("{CALLBACK}?error=access_denied&state={state}");
    assert_eq!(world.server.api.get(&refused).send().await.status, 502);
    assert_eq!(world.back(CALLBACK, &code, &state).await.status, 400);
    let (_, state) = world.been_there().await;
    assert_eq!(world.back(CALLBACK, "made-up", &state).await.status, 502);
    assert_eq!(world.accounts().await.as_array().unwrap().len(), 1);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_began_it_is_the_one_that_ends_it() {
    let world = World::start().await;
    world.set_secret(&world.ada, "hub", SECRET).await.ok(200);
    let api = &world.server.api;
    let begun = api.post(START, &json!({})).header("sec-fetch-site", "same-origin");
    let begun = begun.as_user(&world.ada).send().await;
    let cookie = begun.headers["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Lax", "Max-Age=600", &format!("Path={CALLBACK}")] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let url = text(&begun.ok(200)["authorization_url"]);
    let (code, state) = world.provider.authorize(&url);
    let path = format!("{CALLBACK}?code={}&state={state}", code.replace(' ', "%20"));
    assert_eq!(api.get(&path).send().await.status, 400);
    let wrong = api.get(&path).header("cookie", "bailiwick_oauth=wrong").send().await;
    assert_eq!(wrong.status, 400);
    // No login does instead.
    let login = format!("email={}&password={PASSWORD}", world.ada.email);
    assert_eq!(world.form(&code, &state, &login).await.status, 400);
    let kept = cookie.split(';').next().unwrap();
    let right = api.get(&path).header("cookie", &format!("a=b; {kept}")).send().await;
    assert_eq!(right.status, 200, "{}", right.text());
    world.server.stop().await;
}

/// Where no browser is bound to what was begun, whoever opens the address says who they are first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_began_its_user_agrees_to_on_the_page() {
    let world = World::start().await;
    world.set_secret(&world.ada, "hub", SECRET).await.ok(200);
    let bob = world.server.api.user("bob").await;
    let (code, state) = world.been_there().await;
    let page = world.opened(CALLBACK, &code, &state).await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(!page.text().contains(&world.ada.email), "whose it is stands on no open page");
    let headers = ["cache-control", "referrer-policy"];
    let headers = headers.map(|name| page.headers[name].to_str().unwrap());
    assert_eq!(headers, ["no-store", "no-referrer"]);
    // Neither a wrong password, nor another user, nor a ticket of nobody's.
    let login = |email: &str, password: &str| format!("email={email}&password={password}");
    let wrong = world.form(&code, &state, &login(&world.ada.email, "not-the-password")).await;
    assert_eq!(wrong.status, 401, "{}", wrong.text());
    let other = world.form(&code, &state, &login(&bob.email, PASSWORD)).await;
    assert!(other.status == 401 || other.status == 403, "{}", other.text());
    assert!(!other.text().contains("name=\"ticket\""), "{}", other.text());
    let made_up = world.form(&code, &state, "ticket=made-up&decision=connect").await;
    assert_eq!(made_up.status, 403, "{}", made_up.text());
    assert_eq!(*world.provider.exchanges.lock(), 0);
    // A ticket is for what it was given for, and good once.
    let ticket = world.ticket(&code, &state).await;
    let (second_code, second_state) = world.been_there().await;
    let fields = format!("ticket={ticket}&decision=connect");
    let elsewhere = world.form(&second_code, &second_state, &fields).await;
    assert_eq!(elsewhere.status, 403, "{}", elsewhere.text());
    let used = world.form(&code, &state, &fields).await;
    assert_eq!(used.status, 403, "{}", used.text());
    assert_eq!(world.agreed(&code, &state).await.status, 200);
    assert_eq!(world.accounts().await.as_array().unwrap().len(), 1);
    // Who does not want it ends it.
    let ticket = world.ticket(&second_code, &second_state).await;
    let fields = format!("ticket={ticket}&decision=cancel");
    let ended = world.form(&second_code, &second_state, &fields).await;
    assert_eq!(ended.status, 502, "{}", ended.text());
    assert_eq!(world.opened(CALLBACK, &second_code, &second_state).await.status, 400);
    assert_eq!(*world.provider.exchanges.lock(), 1);
    world.server.stop().await;
}
