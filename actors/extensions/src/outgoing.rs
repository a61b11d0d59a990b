//! What leaves the server: one POST of JSON to somebody else's endpoint. A port; who carries it out
//! guards which addresses may be reached.
//!
//! Invariant: an answer or a failure is there by the time that the request names, whatever the
//! other side does.
//!
//! Deliberate limits: no redirects, no compressed answers, no streams, no other method than POST.

use std::time::Instant;

use futures::future::BoxFuture;

/// A request that is to leave.
#[derive(Clone)]
pub struct Post {
    /// To where; what may not be reached is refused.
    pub url: String,
    /// Headers beside the content's type and length. Their values are never logged.
    pub headers: Vec<(&'static str, String)>,
    /// The body, JSON.
    pub body: Vec<u8>,
    /// How many bytes the answer's body may have.
    pub answer_bytes_max: usize,
    /// When the whole exchange is over, from the look-up of the name to the answer's last byte.
    pub ends: Instant,
}

/// What came back, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The content's type as it was sent; empty without one.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why nothing came back that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The address may not be reached: nothing was sent.
    #[error("{0}")]
    Forbidden(String),
    /// There is no connection: nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// The answer is longer than allowed.
    #[error("the answer has more than {0} bytes")]
    AnswerTooLong(usize),
    /// The connection broke, or time ran out, after something may have been sent: what the other
    /// side did with it is not known.
    #[error("{0}")]
    Unanswered(String),
}

/// Who sends it.
pub trait Outgoing: Send + Sync + 'static {
    /// Whether a URL is of a form that may be called; the reason when it is not. The addresses
    /// behind its name are checked whenever it is connected to.
    fn check(&self, url: &str) -> Result<(), String>;

    /// Sends a request and waits for the whole answer.
    fn post(&self, post: Post) -> BoxFuture<'static, Result<Answered, PostError>>;
}
