//! `ai.complete`: prompts completed by an endpoint with the chat completions interface that many
//! model servers offer (`POST {url}/chat/completions`).
//!
//! Invariants
//! - One app has [`PLACES_EACH`] completions under way, all together [`PLACES_MAX`].
//! - A completion is over by its deadline.
//! - The key leaves in one header and is never shown, logged or stored.
//!
//! Deliberate limits: one endpoint and key for the whole server; no streaming, no tools, no
//! repetition; the tokens used are recorded and not charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use types::AppId;
use zeroize::Zeroizing;

use crate::ir::Reason;
use crate::outgoing::{Answered, Outgoing, Post, PostError};
use crate::places::Bulkheads;

/// How long a completion may take.
pub const COMPLETION_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Completions of one app that are under way at once.
pub const PLACES_EACH: usize = 4;
/// Completions of all apps that are under way at once.
pub const PLACES_MAX: usize = 32;
/// Completions of one app that wait for a place.
const WAITING_EACH_MAX: usize = 256;
/// Tokens that a step may ask for.
pub const TOKENS_MAX: u64 = 32_768;

/// What was said before a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Who said it: `system`, `user` or `assistant`.
    pub role: String,
    /// What.
    pub content: String,
}

/// A prompt to complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// What was said before it, the oldest first.
    pub before: Vec<Said>,
    /// The prompt.
    pub prompt: String,
    /// The model; the server's default without one.
    pub model: Option<String>,
    /// The temperature.
    pub temperature: Option<f64>,
    /// The most tokens to answer.
    pub tokens_max: Option<u64>,
}

/// A completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The text.
    pub text: String,
    /// The model that was asked.
    pub model: String,
    /// Tokens read, as the endpoint counts them.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
}

/// Where prompts are completed.
pub struct Completions {
    outgoing: Arc<dyn Outgoing>,
    url: String,
    key: Option<Zeroizing<String>>,
    model: String,
    bulkheads: Bulkheads,
    places: Semaphore,
    tokens: [AtomicU64; 2],
}

impl Completions {
    /// An endpoint, its key and the model that is asked unless a step names one. The URL is the
    /// interface's base, such as `https://api.example.com/v1`.
    pub fn new(
        outgoing: Arc<dyn Outgoing>,
        url: &str,
        key: Option<Zeroizing<String>>,
        model: String,
    ) -> Self {
        let url = format!("{}/chat/completions", url.trim_end_matches('/'));
        let bulkheads = Bulkheads::new(PLACES_EACH, WAITING_EACH_MAX);
        let places = Semaphore::new(PLACES_MAX);
        Self { outgoing, url, key, model, bulkheads, places, tokens: Default::default() }
    }

    /// Tokens read and written since the start.
    pub fn tokens(&self) -> [u64; 2] {
        [0, 1].map(|at| self.tokens[at].load(Ordering::Relaxed))
    }

    /// Completes a prompt for an app.
    pub async fn complete(
        &self,
        app: &AppId,
        prompt: Prompt,
        ends: Instant,
    ) -> Result<Completion, Reason> {
        if prompt.tokens_max.is_some_and(|tokens| tokens > TOKENS_MAX) {
            let message = format!("max_tokens must be at most {TOKENS_MAX}");
            return Err(Reason::new("argument_invalid", message));
        }
        let busy = || Reason::new("ai_busy", "too many completions are under way");
        let bulkhead = self.bulkheads.of(app, Instant::now()).ok_or_else(busy)?;
        let _own = bulkhead.enter(ends).await.ok_or_else(busy)?;
        let place = tokio::time::timeout_at(ends.into(), self.places.acquire()).await;
        let _place = place.map_err(|_| busy())?.map_err(|_| busy())?;
        let ends = ends.min(Instant::now() + COMPLETION_TIME_MAX);
        let model = prompt.model.clone().unwrap_or_else(|| self.model.clone());
        let answered = self.outgoing.post(self.post(&prompt, &model, ends)).await;
        let completion = answered.map_err(failure).and_then(|it| read(&it, model))?;
        let counted = [completion.prompt_tokens, completion.completion_tokens];
        for (total, count) in self.tokens.iter().zip(counted) {
            total.fetch_add(count, Ordering::Relaxed);
        }
        Ok(completion)
    }

    fn post(&self, prompt: &Prompt, model: &str, ends: Instant) -> Post {
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(model));
        let before = prompt.before.iter();
        let mut messages: Vec<Value> =
            before.map(|it| json!({"role": it.role, "content": it.content})).collect();
        messages.push(json!({"role": "user", "content": prompt.prompt}));
        body.insert("messages".to_owned(), Value::Array(messages));
        if let Some(temperature) = prompt.temperature {
            body.insert("temperature".to_owned(), json!(temperature));
        }
        if let Some(tokens) = prompt.tokens_max {
            body.insert("max_tokens".to_owned(), json!(tokens));
        }
        let key = self.key.as_ref().map(|key| format!("Bearer {}", key.as_str()));
        Post {
            url: self.url.clone(),
            headers: key.map(|key| ("authorization", key)).into_iter().collect(),
            body: Value::Object(body).to_string().into_bytes(),
            answer_bytes_max: ANSWER_BYTES_MAX,
            ends,
        }
    }
}

fn failure(error: PostError) -> Reason {
    let code = match error {
        PostError::Forbidden(_) => "ai_forbidden",
        PostError::Unreachable(_) => "ai_unreachable",
        PostError::AnswerTooLong(_) => "ai_answer_invalid",
        PostError::Unanswered(_) => "ai_unanswered",
    };
    Reason::new(code, format!("the model's endpoint: {error}"))
}

fn read(answered: &Answered, model: String) -> Result<Completion, Reason> {
    // What it says of the failure may name the account or the key, so it is not passed on.
    if answered.status != 200 {
        let message = format!("the model's endpoint answered with status {}", answered.status);
        return Err(Reason::new("ai_refused", message));
    }
    let invalid =
        || Reason::new("ai_answer_invalid", "the model's endpoint answered no completion");
    let body: Value = serde_json::from_slice(&answered.body).map_err(|_| invalid())?;
    let text = body.pointer("/choices/0/message/content").and_then(Value::as_str);
    let tokens = |name: &str| {
        let count = body.get("usage").and_then(|usage| usage.get(name));
        count.and_then(Value::as_u64).unwrap_or(0)
    };
    Ok(Completion {
        text: text.ok_or_else(invalid)?.to_owned(),
        model,
        prompt_tokens: tokens("prompt_tokens"),
        completion_tokens: tokens("completion_tokens"),
    })
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use parking_lot::Mutex;

    use super::*;

    struct Model {
        asked: Mutex<Vec<Post>>,
        status: u16,
        body: &'static str,
    }

    impl Outgoing for Model {
        fn check(&self, _: &str) -> Result<(), String> {
            Ok(())
        }

        fn post(&self, post: Post) -> BoxFuture<'static, Result<Answered, PostError>> {
            self.asked.lock().push(post);
            let body = self.body.as_bytes().to_vec();
            let content_type = "application/json".to_owned();
            let answered = Answered { status: self.status, content_type, body };
            Box::pin(async move { Ok(answered) })
        }
    }

    async fn complete(status: u16, body: &'static str) -> (Result<Completion, Reason>, Post) {
        let model = Arc::new(Model { asked: Mutex::default(), status, body });
        let key = Some(Zeroizing::new("sesame".to_owned()));
        let url = "https://model.example/v1/";
        let completions = Completions::new(model.clone(), url, key, "small".to_owned());
        let prompt = Prompt {
            before: vec![Said { role: "system".to_owned(), content: "Be brief".to_owned() }],
            prompt: "Say hello".to_owned(),
            model: None,
            temperature: Some(0.5),
            tokens_max: Some(9),
        };
        let app = AppId::new("shelf").unwrap();
        let ends = Instant::now() + Duration::from_secs(60);
        let completion = completions.complete(&app, prompt, ends).await;
        let post = model.asked.lock().pop().unwrap();
        (completion, post)
    }

    #[tokio::test]
    async fn a_prompt_is_completed_and_its_tokens_are_counted() {
        let body = r#"{"choices": [{"message": {"role": "assistant", "content": "hello"}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2}}"#;
        let (completion, post) = complete(200, body).await;
        let (text, model) = ("hello".to_owned(), "small".to_owned());
        let expected = Completion { text, model, prompt_tokens: 5, completion_tokens: 2 };
        assert_eq!(completion, Ok(expected));
        assert_eq!(post.url, "https://model.example/v1/chat/completions");
        assert_eq!(post.headers, [("authorization", "Bearer sesame".to_owned())]);
        let sent: Value = serde_json::from_slice(&post.body).unwrap();
        let expected = json!({"model": "small", "temperature": 0.5, "max_tokens": 9,
            "messages": [{"role": "system", "content": "Be brief"},
                {"role": "user", "content": "Say hello"}]});
        assert_eq!(sent, expected);
    }

    #[tokio::test]
    async fn what_is_no_completion_is_an_error_that_tells_no_secret() {
        let (refused, _) = complete(401, r#"{"error": "key sesame is unknown"}"#).await;
        let reason = refused.unwrap_err();
        assert!(reason.code == "ai_refused" && !reason.message.contains("sesame"), "{reason}");
        for body in ["", "{}", r#"{"choices": []}"#, r#"{"choices": [{"message": {}}]}"#] {
            assert_eq!(complete(200, body).await.0.unwrap_err().code, "ai_answer_invalid");
        }
    }
}
