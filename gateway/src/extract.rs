//! Bodies and queries as handlers want them: typed, bounded in size and time, and refused with
//! the place of the mistake.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query as AxumQuery};
use axum::http::{Request, Response, StatusCode, header, request::Parts};
use axum::response::IntoResponse as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use supervision::{Class, Refusal};

use crate::problem::Problem;

/// The most bytes of a body.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of an extension call's body.
pub const CALL_BODY_BYTES_MAX: usize = 40 * 1024 * 1024;
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
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        if inner.is_data() {
            // What serde says of the place in the text adds nothing to the path.
            let text = inner.to_string();
            let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
            Refusal::invalid(if path == "." { "body" } else { &path }, message)
        } else {
            malformed(inner)
        }
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Refusal {
    let message = format!("the body is not JSON: {error}");
    Refusal::new(Class::BadRequest, "malformed_json", message)
}

fn is_json(request: &Request<Body>) -> bool {
    let Some(kind) = request.headers().get(header::CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")
}

impl<S, T, const MAX: usize> FromRequest<S> for JsonBody<T, MAX>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Response<Body>;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Self::Rejection> {
        if !is_json(&request) {
            let message = "send the body as application/json";
            let refusal = Refusal::new(Class::BadRequest, "unsupported_media_type", message);
            return Err(Problem(refusal).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes = read_body(request.into_body(), MAX).await?;
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

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = AxumQuery::from_request_parts(parts, state).await;
        let AxumQuery(value) =
            query.map_err(|error| Problem(Refusal::invalid("query", error.body_text())))?;
        Ok(Self(value))
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
        assert!(wrong.message.starts_with("calls[1].amount: invalid type"), "{}", wrong.message);
        assert!(refused(r#"{}"#).message.contains("missing field `calls`"));
        assert_eq!(refused(r#"{"calls": ["#).code, "malformed_json");
        assert_eq!(refused(r#"{"calls": []} x"#).code, "malformed_json");
    }
}
