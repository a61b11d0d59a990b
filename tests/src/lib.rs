//! What the black-box tests share: a server of one's own, and a client that speaks plain HTTP.
//!
//! A [`Server`] listens on a free port of 127.0.0.1, keeps its data in a temporary folder, and is
//! stopped by [`Server::stop`]. An [`Api`] knows nothing but an address, so it serves for servers
//! in other processes as well. Whatever is not as a test needs it panics, with the whole answer in
//! the message.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

pub mod child;
mod events;
pub mod stripe;

pub use events::{Event, EventStream};

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use gateway::config::{Hidden, ServeArgs};
use gateway::start::{Running, start};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// The password of every user, the operator too.
pub const PASSWORD: &str = "a-long-enough-password";
/// The service token of every server.
pub const SERVICE_TOKEN: &str = "the-service-token-of-the-tests";
/// The operator's e-mail address.
pub const OPERATOR: &str = "operator@localhost.localdomain";
/// The credits that everybody starts with, and how many of them can be spent at once.
pub const WELCOME: (i64, i64) = (5_000, 500);
/// How long a request may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The settings of a server in a folder: on a free port, without a limit that a test would meet.
pub fn settings(folder: &Path) -> ServeArgs {
    ServeArgs {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: folder.to_owned(),
        anonymous_rate: 1_000_000,
        explorer_apps: 100,
        sandbox_payments: true,
        operator_email: OPERATOR.to_owned(),
        operator_password: Some(Hidden(PASSWORD.to_owned())),
        service_token: Some(Hidden(SERVICE_TOKEN.to_owned())),
        ..ServeArgs::default()
    }
}

/// A server in this process, in a folder that goes with it.
pub struct Server {
    /// Its client.
    pub api: Api,
    /// The server itself.
    pub running: Running,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one in a new folder.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts one in a new folder with settings of its own.
    pub async fn start_with(change: impl FnOnce(&mut ServeArgs)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        let running = start(&settings).await.unwrap();
        Self { api: Api::new(running.address), running, folder }
    }

    /// Where its data is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops it and starts another in the same folder.
    pub async fn restart(self) -> Self {
        let Self { running, folder, .. } = self;
        running.stop().await;
        let running = start(&settings(folder.path())).await.unwrap();
        Self { api: Api::new(running.address), running, folder }
    }

    /// Stops it and leaves its folder.
    pub async fn halt(self) -> tempfile::TempDir {
        let Self { api, running, folder } = self;
        drop(api);
        running.stop().await;
        folder
    }

    /// Stops it and takes the folder away.
    pub async fn stop(self) {
        drop(self.api);
        self.running.stop().await;
        self.folder.close().unwrap();
    }
}

/// A client of one server.
#[derive(Clone)]
pub struct Api {
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A registered user, logged in.
#[derive(Clone, Debug)]
pub struct User {
    /// The e-mail address.
    pub email: String,
    /// The user's id, which names the tenant too.
    pub id: String,
    /// The access token.
    pub token: String,
    /// The refresh token.
    pub refresh: String,
}

impl Api {
    /// A client of the server at an address.
    pub fn new(address: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { url: format!("http://{address}"), client }
    }

    /// A request that is not sent yet.
    pub fn request(&self, method: Method, path: &str) -> Call {
        let uri = format!("{}{path}", self.url);
        let request = Request::new(Bytes::new());
        let mut call = Call { client: self.client.clone(), request };
        *call.request.method_mut() = method;
        *call.request.uri_mut() = uri.parse().unwrap();
        call
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Call {
        self.request(Method::GET, path)
    }

    /// A POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Call {
        self.request(Method::POST, path).json(body.to_string())
    }

    /// Registers a user by the service token: one password hash.
    pub async fn user(&self, name: &str) -> User {
        let email = format!("{name}@example.com");
        let body = json!({"email": email, "password": PASSWORD});
        let register = self.post("/v1/auth/register", &body).service();
        let tokens = register.send().await.ok(201);
        self.logged_in(email, &tokens).await
    }

    /// Logs the operator in.
    pub async fn operator(&self) -> User {
        let body = json!({"email": OPERATOR, "password": PASSWORD});
        let tokens = self.post("/v1/auth/login", &body).send().await.ok(200);
        self.logged_in(OPERATOR.to_owned(), &tokens).await
    }

    async fn logged_in(&self, email: String, tokens: &Value) -> User {
        let token = text(&tokens["access_token"]);
        let me = self.get("/v1/auth/me").bearer(&token).send().await.ok(200);
        User { email, id: text(&me["imperal_id"]), token, refresh: text(&tokens["refresh_token"]) }
    }

    /// Gives a user's tenant paid credits.
    pub async fn grant(&self, operator: &User, tenant: &str, credits: i64) -> Value {
        let path = format!("/v1/operator/tenants/{tenant}/grants");
        let body = json!({"credits": credits, "kind": "paid", "reason": "for the test"});
        self.post(&path, &body).as_user(operator).send().await.ok(201)
    }

    /// The balance.
    pub async fn balance(&self, user: &User) -> i64 {
        let answer = self.get("/v1/billing/balance").as_user(user).send().await.ok(200);
        answer["balance"].as_i64().unwrap()
    }

    /// The balance once no call's hold is open: a call is answered when it is recorded, and paid
    /// for right after.
    pub async fn settled_balance(&self, user: &User) -> i64 {
        loop {
            let holds = self.get("/v1/billing/holds?limit=200").as_user(user).send().await.ok(200);
            let mut holds = holds.as_array().unwrap().iter();
            if holds.all(|hold| hold["call_id"].is_null()) {
                return self.balance(user).await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The whole ledger, newest first, page by page.
    pub async fn ledger(&self, user: &User) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let path = format!("/v1/billing/wallet/history?limit=200&offset={}", lines.len());
            let page = self.get(&path).as_user(user).send().await.ok(200);
            let page = page.as_array().unwrap().clone();
            let is_last = page.len() < 200;
            lines.extend(page);
            if is_last {
                return lines;
            }
        }
    }

    /// Makes a user a developer with one deployed app, `shelf`: `add_book` costs 2 and the fee of
    /// 1, everything else 1 and the fee.
    pub async fn shelf(&self, user: &User, app: &str) {
        let body = json!({"nickname": format!("n-{app}")});
        self.post("/v1/developer/register", &body).as_user(user).send().await.ok(200);
        let body = json!({"app_id": app, "display_name": "Reading shelf",
            "git_url": "https://example.com/shelf.git", "pricing_model": "per_action",
            "pricing_config": {"default": 1, "functions": {"add_book": 2}}});
        self.post("/v1/developer/apps", &body).as_user(user).send().await.ok(200);
        let params = json!({"app_id": app, "ir_dict": shelf_document(app)});
        let answer = self.built_in(user, "deploy_ir", &params).await;
        assert_eq!(answer["status"], "success", "{answer}");
    }

    /// Makes an app of somebody's who is a developer already, with this document: a call costs 4
    /// and the fee of 1.
    pub async fn deploy(&self, user: &User, app: &str, document: &Value) {
        let body = json!({"app_id": app, "display_name": "An app", "pricing_model": "per_action",
            "git_url": "https://example.com/app.git", "pricing_config": {"default": 4}});
        self.post("/v1/developer/apps", &body).as_user(user).send().await.ok(200);
        let params = json!({"app_id": app, "ir_dict": document});
        let answer = self.built_in(user, "deploy_ir", &params).await;
        assert_eq!(answer["status"], "success", "{answer}");
    }

    /// Calls a function of the app `developer`.
    pub async fn built_in(&self, user: &User, function: &str, params: &Value) -> Value {
        let body = json!({"function": function, "params": params});
        self.post("/v1/extensions/developer/call", &body).as_user(user).send().await.ok(200)
    }
}

/// A request on its way.
#[derive(Clone)]
pub struct Call {
    client: Client<HttpConnector, Full<Bytes>>,
    request: Request<Bytes>,
}

impl Call {
    /// With a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().insert(name, value.parse().unwrap());
        self
    }

    /// With a bearer token.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With a user's token.
    pub fn as_user(self, user: &User) -> Self {
        self.bearer(&user.token)
    }

    /// With the service token.
    pub fn service(self) -> Self {
        self.header("x-service-token", SERVICE_TOKEN)
    }

    /// With an idempotency key.
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// With a body of some kind.
    pub fn body(mut self, kind: &str, bytes: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = bytes.into();
        self.header("content-type", kind)
    }

    /// With a JSON text, which need not be one.
    pub fn json(self, text: impl Into<Bytes>) -> Self {
        self.body("application/json", text)
    }

    /// Sends it; the answer must come.
    pub async fn send(self) -> Answer {
        let asked = format!("{} {}", self.request.method(), self.request.uri());
        match self.try_send().await {
            Ok(answer) => answer,
            Err(error) => panic!("{asked} was not answered: {error}"),
        }
    }

    /// Sends it; the server may be gone.
    pub async fn try_send(self) -> Result<Answer, String> {
        let asked = format!("{} {}", self.request.method(), self.request.uri().path());
        let exchange = async {
            let response = self.client.request(self.request.map(Full::new)).await;
            let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let (status, headers) = (head.status.as_u16(), head.headers);
            Ok(Answer { asked, status, headers, bytes })
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, exchange).await;
        answer.map_err(|_| format!("nothing within {ANSWER_LIMIT:?}"))?
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked, for messages.
    pub asked: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// The body, which must be JSON with this status.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.text());
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("{}: not JSON: {}", self.asked, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body of a refusal, which must be whole: `application/problem+json` (RFC 9457) with
    /// the members that every API of this server promises, and this code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let body = self.ok(status);
        let asked = &self.asked;
        let kind = self.headers.get("content-type").map(|kind| kind.to_str().unwrap());
        assert_eq!(kind, Some("application/problem+json"), "{asked}: {body}");
        assert_eq!(body["error"], code, "{asked}: {body}");
        assert_eq!(body["status"], status, "{asked}: {body}");
        assert_eq!(body["detail"], body["message"], "{asked}: {body}");
        assert!(body["detail"].as_str().is_some_and(|text| !text.is_empty()), "{asked}: {body}");
        let trace = self.headers["x-request-id"].to_str().unwrap();
        assert_eq!(body["trace_id"], trace, "{asked}: {body}");
        body
    }
}

/// The text in a JSON value, which must be one.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

/// An app whose functions go on in the background: `copy` and `scan` on its own host, `stock` in
/// the server.
pub fn background_document(app: &str) -> Value {
    let code = |name: &str, key: &str| {
        json!({"name": name, "action_type": "write", "params_schema": {}, key: true,
            "impl": {"kind": "code", "module": "main", "entry": name}})
    };
    json!({"ir_version": "1.0", "app": {"id": app, "version": "1.0.0", "title": "Press",
        "capabilities": ["store"], "functions": [
        code("copy", "background"), code("scan", "long_running"),
        {"name": "stock", "action_type": "write", "background": true,
         "params_schema": {"title": {"type": "string"}},
         "impl": {"kind": "declarative", "steps": [
            {"id": "put", "op": "store.create", "args": {"kind": "book", "data": {
                "title": "{{args.title}}"}}}]}}]}})
}

/// The app of the tests: a shelf that books are put on.
pub fn shelf_document(app: &str) -> Value {
    json!({"ir_version": "1.0", "app": {"id": app, "version": "1.0.0", "title": "Reading shelf",
        "capabilities": ["store"], "functions": [
        {"name": "add_book", "action_type": "write",
         "params_schema": {"title": {"type": "string"}},
         "impl": {"kind": "declarative", "steps": [
            {"id": "put", "op": "store.create", "args": {"kind": "book", "data": {
                "title": "{{args.title}}"}}}]}},
        {"name": "books", "action_type": "read", "params_schema": {},
         "impl": {"kind": "declarative", "steps": [
            {"id": "all", "op": "store.list", "args": {"kind": "book", "limit": 20}}]}}]}})
}
