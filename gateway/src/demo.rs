//! `bailiwick demo`: the whole story, told step by step with a server's real answers.
//!
//! Against a running server (`--url`), or against one of its own in a folder that is thrown away.
//! Every step is an HTTP request as a stranger would send it.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::config::{Hidden, ServeArgs};
use crate::start::{Running, StartError, start};

/// The longest answer that is printed, in characters.
const SHOWN_CHARS_MAX: usize = 400;
const PASSWORD: &str = "a-long-enough-password";

/// The options of `bailiwick demo`.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// The server; without it the demo starts one of its own
    #[arg(long)]
    pub url: Option<String>,
}

/// The story could not be told to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The demo's own server did not start.
    #[error("the demo's own server did not start: {0}")]
    Start(#[from] StartError),
    /// The folder for it could not be made or removed.
    #[error("a folder for the demo's own server: {0}")]
    Folder(#[from] std::io::Error),
    /// The server could not be reached.
    #[error("{0} could not be reached: {1}")]
    Unreachable(String, String),
    /// A step was answered otherwise than it should be.
    #[error("`{step}` was answered {status}: {answer}")]
    Unexpected {
        /// The step.
        step: &'static str,
        /// The status.
        status: u16,
        /// The answer.
        answer: String,
    },
}

/// Tells the story.
pub async fn run(args: DemoArgs) -> Result<(), DemoError> {
    if let Some(url) = args.url {
        return Story::new(url).tell().await;
    }
    let folder = std::env::temp_dir().join(format!("bailiwick-demo-{}", std::process::id()));
    let running = own_server(&folder).await?;
    let told = Story::new(format!("http://{}", running.address)).tell().await;
    running.stop().await;
    std::fs::remove_dir_all(&folder)?;
    told
}

async fn own_server(folder: &std::path::Path) -> Result<Running, StartError> {
    let args = ServeArgs {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: folder.to_owned(),
        operator_password: Some(Hidden(PASSWORD.to_owned())),
        ..ServeArgs::default()
    };
    start(&args).await
}

#[expect(clippy::print_stdout, reason = "the story is what the command prints")]
fn say(line: &str) {
    println!("{line}");
}

/// A request of the story, and what must come back.
struct Step {
    name: &'static str,
    method: Method,
    path: String,
    body: Option<Value>,
    key: Option<&'static str>,
    status: u16,
}

fn get(name: &'static str, path: &str) -> Step {
    let (method, path) = (Method::GET, path.to_owned());
    Step { name, method, path, body: None, key: None, status: 200 }
}

fn post(name: &'static str, path: &str, status: u16, body: Value) -> Step {
    let (method, path) = (Method::POST, path.to_owned());
    Step { name, method, path, body: Some(body), key: None, status }
}

struct Story {
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
    token: Option<String>,
    number: u32,
}

impl Story {
    fn new(url: String) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { url: url.trim_end_matches('/').to_owned(), client, token: None, number: 0 }
    }

    async fn tell(mut self) -> Result<(), DemoError> {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let (email, app) = (format!("demo-{unique}@example.com"), format!("shelf-{unique}"));
        let nickname = format!("demo{}", &unique[unique.len() - 12..]);
        self.account(&email).await?;
        self.deploy(&app, &nickname).await?;
        self.call(&app).await?;
        self.account_for_it(&app).await
    }

    async fn account(&mut self, email: &str) -> Result<(), DemoError> {
        let body = json!({"email": email, "password": PASSWORD, "full_name": "Ada Demo",
            "company": "Demo Works"});
        self.step(post("Sign up", "/api/v1/auth/register", 201, body)).await?;
        let body = json!({"email": email, "password": PASSWORD});
        let tokens = self.step(post("Log in", "/v1/auth/login", 200, body)).await?;
        self.token = tokens["access_token"].as_str().map(str::to_owned);
        self.step(get("Who am I", "/v1/auth/me")).await?;
        self.step(get("What do I have", "/v1/billing/balance")).await?;
        Ok(())
    }

    async fn deploy(&mut self, app: &str, nickname: &str) -> Result<(), DemoError> {
        let body = json!({"tier": "explorer", "nickname": nickname});
        self.step(post("Become a developer", "/v1/developer/register", 200, body)).await?;
        let body = json!({"app_id": app, "display_name": "Reading shelf",
            "git_url": "https://example.com/shelf.git", "pricing_model": "per_action",
            "pricing_config": {"default": 1, "functions": {"add_book": 2}}});
        self.step(post("Create an app", "/v1/developer/apps", 200, body)).await?;
        let ir = shelf(app);
        let body = json!({"function": "smoke_ir", "params": {"ir_dict": ir,
            "function": "add_book", "args": {"title": "Ficciones", "pages": 174}}});
        let path = "/v1/extensions/developer/call";
        self.step(post("Try a function without deploying", path, 200, body)).await?;
        let body = json!({"function": "deploy_ir", "params": {"app_id": app, "ir_dict": ir}});
        self.step(post("Deploy the app", path, 200, body)).await?;
        Ok(())
    }

    async fn call(&mut self, app: &str) -> Result<(), DemoError> {
        let path = format!("/v1/extensions/{app}/call");
        let add = |title: &str, pages: u32| {
            let params = json!({"title": title, "pages": pages});
            json!({"function": "add_book", "params": params})
        };
        let mut step = post("Add a book", &path, 200, add("The Trial", 255));
        step.key = Some("demo-add-1");
        let first = self.step(step).await?;
        let mut step =
            post("The same key again: the same answer", &path, 200, add("The Trial", 255));
        step.key = Some("demo-add-1");
        let again = self.step(step).await?;
        let name = "The same key again: the same answer";
        self.check(name, first == again, &again)?;
        let path = format!("/v1/extensions/{app}/batch");
        let calls = json!([add("Molloy", 241), {"function": "books", "params": {}},
            {"function": "no_such_function", "params": {}}]);
        let batch =
            post("Three calls at once, one of them wrong", &path, 200, json!({"calls": calls}));
        self.step(batch).await?;
        Ok(())
    }

    async fn account_for_it(&mut self, app: &str) -> Result<(), DemoError> {
        self.step(get("What is left", "/v1/billing/balance")).await?;
        self.step(get("The ledger", "/v1/billing/wallet/history?limit=3")).await?;
        let path = format!("/v1/actions?per_page=3&app_id={app}");
        self.step(get("What was done", &path)).await?;
        let body = json!({"amount": 1_000_000, "reason": "more than there is"});
        self.step(post("Spend too much", "/v1/billing/debits", 402, body)).await?;
        let verified = self.step(get("Verify the chain", "/v1/actions/verify")).await?;
        self.check("Verify the chain", verified["verified"] == true, &verified)
    }

    fn check(&self, step: &'static str, holds: bool, answer: &Value) -> Result<(), DemoError> {
        let answer = answer.to_string();
        if holds { Ok(()) } else { Err(DemoError::Unexpected { step, status: 200, answer }) }
    }

    async fn step(&mut self, step: Step) -> Result<Value, DemoError> {
        self.number += 1;
        say(&format!("\n{:2}. {}", self.number, step.name));
        say(&format!("    {} {}", step.method, step.path));
        if let Some(body) = &step.body {
            say(&format!("    {}", shown(&redacted(body.clone()))));
        }
        let unreachable = |error: &dyn std::fmt::Display| {
            DemoError::Unreachable(self.url.clone(), error.to_string())
        };
        let mut request = Request::builder()
            .method(step.method)
            .uri(format!("{}{}", self.url, step.path))
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = step.key {
            request = request.header("idempotency-key", key);
        }
        let body = step.body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Full::from(body)).map_err(|error| unreachable(&error))?;
        let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|error| unreachable(&error))?;
        let answer: Value = serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default();
        say(&format!("    -> {status} {}", shown(&redacted(answer.clone()))));
        if status != step.status {
            let (step, answer) = (step.name, answer.to_string());
            return Err(DemoError::Unexpected { step, status, answer });
        }
        Ok(answer)
    }
}

/// Tokens and passwords are not for the screen.
fn redacted(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        for name in ["access_token", "refresh_token", "password"] {
            if let Some(secret) = object.get_mut(name) {
                *secret = json!("…");
            }
        }
    }
    value
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text;
    }
    let start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{start}…")
}

/// The app of the story.
fn shelf(app: &str) -> Value {
    json!({"ir_version": "1.0", "app": {"id": app, "version": "1.0.0", "title": "Reading shelf",
        "capabilities": ["store"], "functions": [
        {"name": "add_book", "action_type": "write",
         "params_schema": {"title": {"type": "string"}, "pages": {"type": "integer"}},
         "impl": {"kind": "declarative", "steps": [
            {"id": "put", "op": "store.create", "args": {"kind": "book", "data": {
                "title": "{{args.title}}", "pages": "{{args.pages}}",
                "label": "{{args.title}} ({{args.pages}} p.)"}}}]}},
        {"name": "books", "action_type": "read", "params_schema": {},
         "impl": {"kind": "declarative", "steps": [
            {"id": "all", "op": "store.list", "args": {"kind": "book", "limit": 50}}]}}]}})
}
