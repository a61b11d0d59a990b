//! Sends what the story is made of, and prints it with its answer.
//!
//! Deliberate limit: tokens and passwords are not printed, and long answers are cut.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::DemoError;

/// The longest answer that is printed, in characters.
const SHOWN_CHARS_MAX: usize = 400;

#[expect(clippy::print_stdout, reason = "the story is what the command prints")]
fn say(line: &str) {
    println!("{line}");
}

/// Somebody who asks, with their token.
pub(super) struct Asker {
    pub(super) name: &'static str,
    pub(super) token: String,
}

/// A request of the story, and what must come back.
pub(super) struct Step {
    name: String,
    method: Method,
    path: String,
    body: Option<Value>,
    key: Option<&'static str>,
    status: u16,
}

/// A GET that is answered 200.
pub(super) fn get(name: &str, path: &str) -> Step {
    let (name, path) = (name.to_owned(), path.to_owned());
    Step { name, method: Method::GET, path, body: None, key: None, status: 200 }
}

/// A POST that is answered 200.
pub(super) fn post(name: &str, path: &str, body: Value) -> Step {
    let (name, path, body) = (name.to_owned(), path.to_owned(), Some(body));
    Step { name, method: Method::POST, path, body, key: None, status: 200 }
}

impl Step {
    /// With an idempotency key.
    pub(super) fn key(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Answered with another status.
    pub(super) fn answered(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

/// Sends steps one after the other, and numbers them.
pub(super) struct Teller {
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
    number: u32,
}

impl Teller {
    /// Of the server at an address.
    pub(super) fn new(url: String) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { url: url.trim_end_matches('/').to_owned(), client, number: 0 }
    }

    /// A heading.
    pub(super) fn chapter(&self, title: &str) {
        say(&format!("\n== {title}"));
    }

    /// Something that is not asked for.
    pub(super) fn remark(&self, text: &str) {
        say(&format!("\n    {text}"));
    }

    /// Sends a step and prints it with its answer, which must be as the step says.
    pub(super) async fn step(
        &mut self,
        who: Option<&Asker>,
        step: Step,
    ) -> Result<Value, DemoError> {
        self.number += 1;
        let name = who.map(|asker| format!("{}: ", asker.name)).unwrap_or_default();
        say(&format!("\n{:2}. {name}{}", self.number, step.name));
        say(&format!("    {} {}", step.method, step.path));
        if let Some(body) = &step.body {
            say(&format!("    {}", shown(&redacted(body.clone()))));
        }
        let wanted = step.status;
        let name = step.name.clone();
        let (status, answer) = self.sent(who, step).await?;
        say(&format!("    -> {status} {}", shown(&redacted(answer.clone()))));
        if status != wanted {
            return Err(unexpected(name, status, &answer));
        }
        Ok(answer)
    }

    /// Sends a step without a word about it.
    pub(super) async fn silently(
        &self,
        who: Option<&Asker>,
        step: Step,
    ) -> Result<Value, DemoError> {
        let (name, wanted) = (step.name.clone(), step.status);
        let (status, answer) = self.sent(who, step).await?;
        if status == wanted { Ok(answer) } else { Err(unexpected(name, status, &answer)) }
    }

    /// What must hold of an answer.
    pub(super) fn check(&self, what: &str, holds: bool, answer: &Value) -> Result<(), DemoError> {
        if holds { Ok(()) } else { Err(unexpected(what.to_owned(), 200, answer)) }
    }

    async fn sent(&self, who: Option<&Asker>, step: Step) -> Result<(u16, Value), DemoError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            DemoError::Unreachable(self.url.clone(), error.to_string())
        };
        let mut request = Request::builder()
            .method(step.method)
            .uri(format!("{}{}", self.url, step.path))
            .header("content-type", "application/json");
        if let Some(asker) = who {
            request = request.header("authorization", format!("Bearer {}", asker.token));
        }
        if let Some(key) = step.key {
            request = request.header("idempotency-key", key);
        }
        let body = step.body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Full::from(body)).map_err(|error| unreachable(&error))?;
        let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|error| unreachable(&error))?;
        Ok((status, serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default()))
    }
}

fn unexpected(step: String, status: u16, answer: &Value) -> DemoError {
    let answer = redacted(answer.clone()).to_string();
    DemoError::Unexpected { step, status, answer }
}

/// Tokens and passwords are not for the screen.
fn redacted(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        for name in ["access_token", "refresh_token", "password", "token"] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_long_answers_are_not_shown_whole() {
        let answer = redacted(json!({"access_token": "secret", "expires_in": 900}));
        assert_eq!(answer, json!({"access_token": "…", "expires_in": 900}));
        let long = shown(&json!("a".repeat(2 * SHOWN_CHARS_MAX)));
        assert_eq!(long.chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
