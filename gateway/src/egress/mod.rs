//! What this server sends to others: one client for every outgoing URL, which reaches no address
//! that only this machine or its network can reach.
//!
//! Invariants
//! - A name is looked up once a connection; every address it has is checked; what is connected to
//!   is one of those addresses, so a second answer of the name server changes nothing.
//! - No redirect is followed, no proxy is asked, no compressed answer is accepted.
//! - An exchange ends by its deadline and an answer at its limit, however slowly it comes.
//!
//! Deliberate limits: HTTP/1.1 only; TLS against the machine's own certificates (and those that
//! `SSL_CERT_FILE` names); connections are kept for [`IDLE_MAX`], [`IDLE_CONNECTIONS_MAX`] a host.

mod connector;
mod guard;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderName, HeaderValue, Method, Request};
use extensions::outgoing::{Answered, Outgoing, Post, PostError};
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub use connector::{LookUp, Refused, SystemLookUp};
pub use guard::{Rules, forbidden};

use connector::Connector;

/// How long a connection that nobody uses is kept.
pub const IDLE_MAX: Duration = Duration::from_secs(30);
/// How many of them are kept for one host.
pub const IDLE_CONNECTIONS_MAX: usize = 16;
/// Bytes of an answer's headers.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// What this server calls itself.
const NAME: &str = concat!("bailiwick/", env!("CARGO_PKG_VERSION"));

/// The client.
#[derive(Clone)]
pub struct Egress {
    rules: Arc<Rules>,
    client: Client<Connector, Full<Bytes>>,
}

impl Egress {
    /// A client that keeps to these rules and looks names up as the machine does.
    pub fn new(rules: Rules) -> Self {
        Self::looking_up(rules, Arc::new(SystemLookUp))
    }

    /// A client that looks names up in its own way.
    pub fn looking_up(rules: Rules, names: Arc<dyn LookUp>) -> Self {
        let rules = Arc::new(rules);
        let connector = Connector::new(Arc::clone(&rules), names);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(HEADERS_BYTES_MAX)
            .build(connector);
        Self { rules, client }
    }
}

impl Outgoing for Egress {
    fn check(&self, url: &str) -> Result<(), String> {
        self.rules.target_of(url).map(|_| ())
    }

    fn post(&self, post: Post) -> BoxFuture<'static, Result<Answered, PostError>> {
        self.send(Method::POST, post)
    }
}

impl Egress {
    /// [`Outgoing::post`] by any method.
    fn send(&self, method: Method, post: Post) -> BoxFuture<'static, Result<Answered, PostError>> {
        let (rules, client) = (Arc::clone(&self.rules), self.client.clone());
        Box::pin(async move {
            rules.target_of(&post.url).map_err(PostError::Forbidden)?;
            let ends = post.ends.into();
            match tokio::time::timeout_at(ends, exchange(client, method, post)).await {
                Ok(answered) => answered,
                Err(_) => Err(PostError::Unanswered("no whole answer came in time".to_owned())),
            }
        })
    }
}

async fn exchange(
    client: Client<Connector, Full<Bytes>>,
    method: Method,
    post: Post,
) -> Result<Answered, PostError> {
    let Post { url, headers, body, answer_bytes_max, .. } = post;
    let unfit = || PostError::Forbidden("the request cannot be put into words".to_owned());
    let request = Request::builder().method(method).uri(url);
    let mut request = request.body(Full::from(body)).map_err(|_| unfit())?;
    let json = HeaderValue::from_static("application/json");
    let own = [
        (CONTENT_TYPE, json.clone()),
        (ACCEPT, json),
        (USER_AGENT, HeaderValue::from_static(NAME)),
    ];
    request.headers_mut().extend(own.map(|(name, value)| (Some(name), value)));
    for (name, value) in headers {
        let mut value = HeaderValue::try_from(value).map_err(|_| unfit())?;
        value.set_sensitive(true);
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    let response = client.request(request).await.map_err(not_answered)?;
    let (parts, body) = response.into_parts();
    let broken = || PostError::Unanswered("the connection broke within the answer".to_owned());
    if parts.headers.contains_key(CONTENT_ENCODING) {
        let message = "the answer is compressed, which was not asked for";
        return Err(PostError::Unanswered(message.to_owned()));
    }
    let body = Limited::new(body, answer_bytes_max).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            PostError::AnswerTooLong(answer_bytes_max)
        } else {
            broken()
        }
    })?;
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok(Answered {
        status: parts.status.as_u16(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.to_bytes().to_vec(),
    })
}

/// What is told of a failure: never an address, which could say what a name leads to in here.
fn not_answered(error: Error) -> PostError {
    if !error.is_connect() {
        return PostError::Unanswered("the connection broke before the answer".to_owned());
    }
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        match inner.downcast_ref::<Refused>() {
            Some(Refused::Forbidden(why)) => return PostError::Forbidden(why.clone()),
            Some(Refused::Unreachable(why)) => return PostError::Unreachable(why.clone()),
            None => source = inner.source(),
        }
    }
    PostError::Unreachable("it cannot be connected to".to_owned())
}
