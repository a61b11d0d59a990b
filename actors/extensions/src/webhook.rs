//! Inbound webhooks: somebody without a credential calls an address that an app declares, and a
//! function of the app is handed the request.
//!
//! The function's params are `{method, path, headers, query, query_string, body, is_base64}`:
//! header names are in small letters, values of one name stand in one text between commas; `query`
//! has the last value of each name, `query_string` the text as it was sent; `body` is text where
//! it is UTF-8 and Base64 (RFC 4648, section 4) with `is_base64` true where it is not. The function
//! verifies the sender by itself, over `body` and `headers`.
//!
//! What it answers is sent back when it is an object with a `status_code` (200 to 299, or 400 to
//! 599), with `headers` of [`HEADERS_PASSED`] and a `body`: a text (Base64 with `is_base64`), or
//! other JSON. Any other answer is 200 `{"status": "ok"}` and nothing of it is told, for a
//! stranger reads it. A function that failed is 502 and says no more.
//!
//! Invariants
//! - A delivery runs as nobody (the user `~app`) with scopes for its own app alone, in the
//!   developer's tenant, or in the one that an install key names; that tenant pays.
//! - With an idempotency key a delivery that succeeded is carried out once; one that failed is not
//!   recorded, so that the sender's next try is a new one.
//!
//! Deliberate limits: no redirects, no cookies; nothing is streamed.

use std::collections::BTreeMap;
use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use supervision::{Class, IdempotencyKey, Origin, Refusal, System};
use types::{AppId, Caller, CallerKind, Scopes, TenantId};

use crate::answer::{CallAnswer, Shape};
use crate::catalogue::CompiledApp;
use crate::ir::Webhook;
use crate::outside::Nesting;
use crate::runtime::{Call, Extensions, Request};

/// Bytes of a delivery's body.
pub const WEBHOOK_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the body that is sent back.
pub const REPLY_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one header's value that is sent back.
pub const REPLY_HEADER_BYTES_MAX: usize = 1024;
/// The headers that a function may set, in small letters.
pub const HEADERS_PASSED: [&str; 8] = [
    "cache-control",
    "content-language",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "retry-after",
    "vary",
];

/// An app that is called from outside, and where.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The app.
    pub app: Arc<CompiledApp>,
    /// What is called.
    pub webhook: Webhook,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The method, in capitals.
    pub method: String,
    /// Names in small letters, in the order of their sending. Credentials of this server's are not
    /// among them.
    pub headers: Vec<(String, String)>,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// The query as it was sent.
    pub query_string: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Delivery {
    fn params(self, path: &str) -> Value {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in self.headers {
            let joined = headers.entry(name).or_default();
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(&value);
        }
        let query: BTreeMap<String, String> = self.query.into_iter().collect();
        let (body, is_base64) = match String::from_utf8(self.body) {
            Ok(text) => (text, false),
            Err(error) => (BASE64.encode(error.as_bytes()), true),
        };
        json!({"method": self.method, "path": path, "headers": headers, "query": query,
            "query_string": self.query_string, "body": body, "is_base64": is_base64})
    }
}

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookReply {
    /// The status.
    pub status: u16,
    /// Of [`HEADERS_PASSED`].
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What a function's answer is to the sender.
pub fn reply_of(answer: &CallAnswer) -> HookReply {
    if !answer.is_success() {
        return plain(502, "failed");
    }
    let Some(data) = answer.data.as_object().filter(|data| data.contains_key("status_code")) else {
        return plain(200, "ok");
    };
    // An answer of another form is the app's mistake, and what it meant cannot be guessed.
    told(data).unwrap_or_else(|| plain(502, "failed"))
}

fn plain(status: u16, word: &str) -> HookReply {
    let headers = vec![("content-type", "application/json".to_owned())];
    HookReply { status, headers, body: json!({"status": word}).to_string().into_bytes() }
}

fn told(data: &Map<String, Value>) -> Option<HookReply> {
    let status = data.get("status_code")?.as_u64().and_then(|code| u16::try_from(code).ok())?;
    if !matches!(status, 200..=299 | 400..=599) {
        return None;
    }
    let is_base64 = data.get("is_base64").and_then(Value::as_bool).unwrap_or_default();
    let (body, kind) = match data.get("body") {
        None | Some(Value::Null) => (Vec::new(), None),
        Some(Value::String(text)) if is_base64 => {
            (BASE64.decode(text.as_bytes()).ok()?, Some("application/octet-stream"))
        }
        Some(Value::String(text)) => (text.clone().into_bytes(), Some("text/plain; charset=utf-8")),
        Some(other) => (other.to_string().into_bytes(), Some("application/json")),
    };
    if body.len() > REPLY_BODY_BYTES_MAX {
        return None;
    }
    let mut headers: Vec<(&'static str, String)> = Vec::new();
    for (name, value) in data.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let name = name.to_ascii_lowercase();
        let passed = HEADERS_PASSED.into_iter().find(|passed| *passed == name);
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => continue,
        };
        let is_text = value.len() <= REPLY_HEADER_BYTES_MAX
            && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if let (Some(passed), true) = (passed, is_text)
            && !headers.iter().any(|(known, _)| *known == passed)
        {
            headers.push((passed, value));
        }
    }
    if let Some(kind) = kind
        && !headers.iter().any(|(name, _)| *name == "content-type")
    {
        headers.push(("content-type", kind.to_owned()));
    }
    Some(HookReply { status, headers, body })
}

/// Who a delivery is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payer {
    /// The app's developer.
    Developer,
    /// A tenant that uses the app, and has made an install key.
    Tenant(TenantId),
}

impl Extensions {
    /// The webhook of an app at a path; 404 where there is none for whoever pays. An app that is
    /// not active is there for its developer's tenant alone.
    pub async fn webhook(
        &self,
        system: &Arc<System>,
        (app, path): (&str, &str),
        payer: Payer,
        origin: &Origin,
    ) -> Result<Hook, Refusal> {
        let missing = || Refusal::not_found("webhook");
        let id = AppId::new(app).map_err(|_| missing())?;
        let found = self.apps().find(system, &id, origin).await;
        let app = found.map_err(|it| if it.class == Class::NotFound { missing() } else { it })?;
        if let Payer::Tenant(tenant) = payer
            && !app.is_visible_to(system, tenant, None, origin).await?
        {
            return Err(missing());
        }
        let webhook = app.ir.as_ref().and_then(|ir| ir.webhook(path)).cloned();
        let webhook = webhook.ok_or_else(missing)?;
        Ok(Hook { app, webhook })
    }

    /// Hands a delivery to the app's function. Refused as [`Extensions::call`].
    pub async fn deliver(
        &self,
        system: &Arc<System>,
        hook: &Hook,
        payer: Payer,
        delivery: Delivery,
        (idempotency, origin): (Option<IdempotencyKey>, Origin),
    ) -> Result<HookReply, Refusal> {
        let Hook { app, webhook } = hook;
        let tenant = match payer {
            Payer::Developer => app.tenant,
            Payer::Tenant(tenant) => tenant,
        };
        let caller = Caller {
            kind: CallerKind::Service,
            credential: None,
            user: None,
            tenant,
            session: None,
            role: String::new(),
            scopes: Scopes::from_iter([format!("{}:*", app.id)]),
            app: Some(app.id.clone()),
        };
        let app_id = app.id.to_string();
        let request = Request { caller, tenant, user: None, app: app_id, idempotency, origin };
        let call =
            Call { function: webhook.function.clone(), params: delivery.params(&webhook.path) };
        let how = (Shape::Delivery, Nesting::of_delivery());
        let answers = self.run(system, request, vec![call], how).await?;
        answers.first().map(reply_of).ok_or_else(Refusal::crashed)
    }
}

/// Who asked for a delivery, as records show it.
pub fn caller_label(app: &AppId) -> Arc<str> {
    format!("service/webhook/{app}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(data: Value) -> HookReply {
        reply_of(&CallAnswer::success(data))
    }

    #[test]
    fn only_an_answer_with_a_status_is_told() {
        assert_eq!(reply(json!({"docs": ["secret"]})), plain(200, "ok"));
        assert_eq!(reply(Value::Null), plain(200, "ok"));
        assert_eq!(reply_of(&CallAnswer::error("x", "why")), plain(502, "failed"));
        let told = reply(json!({"status_code": 201, "body": {"a": 1}}));
        assert_eq!((told.status, told.body.as_slice()), (201, &br#"{"a":1}"#[..]));
        assert_eq!(told.headers, [("content-type", "application/json".to_owned())]);
        let bytes = reply(json!({"status_code": 200, "body": "AP8=", "is_base64": true}));
        assert_eq!(bytes.body, [0, 255]);
        for wrong in [json!(302), json!(100), json!("200"), json!(700), json!(-1)] {
            let reply = reply(json!({"status_code": wrong}));
            assert_eq!(reply, plain(502, "failed"), "{wrong}");
        }
        assert_eq!(reply(json!({"status_code": 200, "body": "!", "is_base64": true})).status, 502);
    }

    #[test]
    fn only_listed_headers_are_sent_back() {
        let reply = reply(json!({"status_code": 401, "headers": {"Content-Type": "text/csv",
            "content-type": "text/html", "Set-Cookie": "a=b", "Location": "/", "ETag": "a\r\nb: c",
            "Retry-After": 5, "Vary": ["a"]}}));
        let expected = [("content-type", "text/csv".to_owned()), ("retry-after", "5".to_owned())];
        assert_eq!((reply.status, reply.headers.as_slice()), (401, &expected[..]));
    }

    #[test]
    fn a_function_is_handed_the_whole_request() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let delivery = Delivery {
            method: "POST".to_owned(),
            headers: vec![pair("x-a", "1"), pair("x-a", "2")],
            query: vec![pair("q", "1"), pair("q", "2")],
            query_string: "q=1&q=2".to_owned(),
            body: vec![0xff],
        };
        let expected = json!({"method": "POST", "path": "paid", "headers": {"x-a": "1, 2"},
            "query": {"q": "2"}, "query_string": "q=1&q=2", "body": "/w==", "is_base64": true});
        assert_eq!(delivery.params("paid"), expected);
    }
}
