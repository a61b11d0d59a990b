//! Bodies and queries as handlers want them: typed, bounded in size and time, and refused with
//! the place of the mistake.
//!
//! JSON passes [`strict`](crate::strict) first; what does not fit its type is told in the words
//! of [`wording`](crate::wording). A key that is twice in a query or form is refused.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::{Request, Response, StatusCode, header, request::Parts};
use axum::response::IntoResponse as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use supervision::{Class, Refusal};

use crate::connection::BodyStalled;
use crate::problem::Problem;
use crate::strict;
use crate::wording::{Mistake, mistake};

/// The most bytes of a body.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of an extension call's body.
pub const CALL_BODY_BYTES_MAX: usize = 40 * 1024 * 1024;
/// The most pairs of a query or form.
pub const PAIRS_MAX: usize = 100;
/// How long a client may take to send a body.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// A JSON body, with its bytes, of at most `MAX` bytes.
#[derive(Debug)]
pub struct JsonBody<T, const MAX: usize = BODY_BYTES_MAX> {
    /// The value.
    pub value: T,
    /// The bytes it was read from.
    pub bytes: Bytes,
}

/// A JSON body that may be left out: no bytes at all are `{}`.
#[derive(Debug)]
pub struct OptionalBody<T> {
    /// The value.
    pub value: T,
    /// The bytes it was read from.
    pub bytes: Bytes,
}

/// Reads a body of at most `max` bytes.
pub async fn read_body(body: Body, max: usize) -> Result<Bytes, Response<Body>> {
    let collected = tokio::time::timeout(BODY_LIMIT, Limited::new(body, max).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body has more than {max} bytes");
            let refusal = Refusal::new(Class::BadRequest, "body_too_large", message);
            Err(Problem(refusal).with_status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Ok(Err(error)) if BodyStalled::caused(&*error) => {
            let message = "the server stops and the body did not arrive; nothing was changed";
            let refusal = Refusal::new(Class::Busy, "busy", message).retry_after(1_000);
            Err(Problem(refusal).into_response())
        }
        Ok(Err(_)) => {
            let message = "the body ended before its announced length";
            let refusal = Refusal::new(Class::BadRequest, "body_incomplete", message);
            Err(Problem(refusal).into_response())
        }
        Err(_) => {
            let message = format!("the body did not arrive within {BODY_LIMIT:?}");
            let refusal = Refusal::new(Class::BadRequest, "body_too_slow", message);
            Err(Problem(refusal).with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// Reads JSON, and says where a mistake is.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // Serde would take a list for a structure, field by field in its order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Refusal::invalid("body", "must be an object"));
    }
    strict::check(bytes)?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        if !inner.is_data() {
            return strict::malformed(inner);
        }
        let Mistake { field, message } = mistake("body", &path, &inner.to_string());
        Refusal::invalid(&field, message)
    })
}

/// Reads `name=value` pairs: a query string, or a form. `place` is `query` or `body`.
pub fn parse_pairs<T: DeserializeOwned>(place: &str, bytes: &[u8]) -> Result<T, Refusal> {
    let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        form_urlencoded::parse(bytes).take(PAIRS_MAX + 1).collect();
    if pairs.len() > PAIRS_MAX {
        let message = format!("has more than {PAIRS_MAX} parameters");
        return Err(Refusal::invalid_at(place, place, message));
    }
    for (index, (name, _)) in pairs.iter().enumerate() {
        if pairs[..index].iter().any(|(known, _)| known == name) {
            return Err(Refusal::invalid_at(place, name, "is there more than once"));
        }
    }
    let reader = serde_urlencoded::Deserializer::new(form_urlencoded::parse(bytes));
    serde_path_to_error::deserialize(reader).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner().to_string());
        let Mistake { field, message } = mistake(place, &path, &inner);
        Refusal::invalid_at(place, &field, message)
    })
}

fn is_json(request: &Request<Body>) -> bool {
    let Some(kind) = request.headers().get(header::CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")
}

fn no_json() -> Response<Body> {
    let message = "send the body as application/json";
    let refusal = Refusal::new(Class::BadRequest, "unsupported_media_type", message);
    Problem(refusal).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

impl<S, T, const MAX: usize> FromRequest<S> for JsonBody<T, MAX>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Response<Body>;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Self::Rejection> {
        if !is_json(&request) {
            return Err(no_json());
        }
        let bytes = read_body(request.into_body(), MAX).await?;
        let value = parse_json(&bytes).map_err(|refusal| Problem(refusal).into_response())?;
        Ok(Self { value, bytes })
    }
}

impl<S, T> FromRequest<S> for OptionalBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Response<Body>;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Self::Rejection> {
        let is_json = is_json(&request);
        let mut bytes = read_body(request.into_body(), BODY_BYTES_MAX).await?;
        if bytes.is_empty() {
            bytes = Bytes::from_static(b"{}");
        } else if !is_json {
            return Err(no_json());
        }
        let value = parse_json(&bytes).map_err(|refusal| Problem(refusal).into_response())?;
        Ok(Self { value, bytes })
    }
}

/// A query string.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(parse_pairs("query", query.as_bytes())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Sample {
        #[expect(dead_code, reason = "only read by serde")]
        calls: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Inner {
        #[expect(dead_code, reason = "only read by serde")]
        amount: i64,
    }

    #[test]
    fn a_mistake_is_named_with_its_path() {
        let refused = |text: &str| parse_json::<Sample>(text.as_bytes()).unwrap_err();
        let wrong = refused(r#"{"calls": [{"amount": 1}, {"amount": "2"}]}"#);
        assert_eq!(wrong.class, Class::Invalid);
        assert_eq!(wrong.message, "calls[1].amount: must be an integer");
        assert_eq!(refused("{}").message, "calls: is required");
        assert_eq!(refused(r#"{"calls": [{}]}"#).message, "calls[0].amount: is required");
        assert_eq!(refused("null").message, "body: must be an object");
        assert_eq!(refused(r#"{"calls": ["#).code, "malformed_json");
        assert_eq!(refused(r#"{"calls": []} x"#).code, "malformed_json");
        assert_eq!(
            refused(r#"{"calls": [], "x": 1, "x": 2}"#).message,
            "x: is there more than once"
        );
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Listed {
        limit: Option<usize>,
        search: Option<String>,
    }

    #[test]
    fn a_query_is_read_as_strictly() {
        let read = |text: &str| parse_pairs::<Listed>("query", text.as_bytes());
        let found = read("limit=3&search=a%20b&other=").unwrap();
        assert_eq!(found, Listed { limit: Some(3), search: Some("a b".to_owned()) });
        let refused = |text: &str| read(text).unwrap_err().message;
        assert_eq!(refused("limit=many"), "limit: must be an integer");
        assert_eq!(refused("limit="), "limit: must be an integer");
        assert_eq!(refused("limit=-1"), "limit: must be an integer");
        let huge = refused("limit=99999999999999999999999");
        assert_eq!(huge, "limit: must be an integer within its range");
        assert_eq!(refused("search=a&limit=1&search=b"), "search: is there more than once");
        assert!(refused(&"a=1&".repeat(PAIRS_MAX + 1)).contains("more than 100"));
    }
}
