//! Errors as clients see them: `application/problem+json` (RFC 9457) in one shape that every API
//! of this server's clients can read.
//!
//! A handler answers a [`Problem`]; the body is written by [`render`], which knows the request's
//! path and id.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use supervision::{Class, Refusal};
use types::RequestId;

/// A refusal on its way out.
#[derive(Clone, Debug)]
pub struct Problem(pub Refusal);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// The status of a class of refusals.
pub fn status_of(class: Class) -> StatusCode {
    match class {
        Class::Unauthenticated => StatusCode::UNAUTHORIZED,
        Class::Payment => StatusCode::PAYMENT_REQUIRED,
        Class::Forbidden => StatusCode::FORBIDDEN,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::Conflict => StatusCode::CONFLICT,
        Class::Gone => StatusCode::GONE,
        Class::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Class::BadRequest => StatusCode::BAD_REQUEST,
        Class::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Class::Crashed => StatusCode::INTERNAL_SERVER_ERROR,
        Class::Busy | Class::InDoubt => StatusCode::SERVICE_UNAVAILABLE,
        Class::LowSpace => StatusCode::INSUFFICIENT_STORAGE,
    }
}

impl Problem {
    /// 401: no credential, or one that does not hold.
    pub fn unauthenticated(message: &str) -> Self {
        Self(Refusal::new(Class::Unauthenticated, "unauthorized", message))
    }

    /// 404 for a path that is not served.
    pub fn no_route() -> Self {
        Self(Refusal::new(Class::NotFound, "not_found", "there is no such route"))
    }

    /// The problem with a status of its own.
    pub fn with_status(self, status: StatusCode) -> Response<Body> {
        let mut response = self.into_response();
        *response.status_mut() = status;
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status_of(self.0.class);
        response.extensions_mut().insert(self);
        response
    }
}

fn is_plain_error(response: &Response<Body>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_plain = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    response.status().is_client_error() && is_plain
}

/// Writes the body of a response that carries a [`Problem`].
pub fn render(response: &mut Response<Body>, path: &str, request: RequestId) {
    let status = response.status();
    let refusal = match response.extensions_mut().remove::<Problem>() {
        Some(Problem(refusal)) => refusal,
        // What a library has refused, in words of its own, gets our shape.
        None if is_plain_error(response) => {
            let message = "this part of the request is not valid";
            Refusal::new(Class::BadRequest, "bad_request", message)
        }
        None => return,
    };
    let body = body_of(&refusal, status, path, request);
    let headers = response.headers_mut();
    // The router has counted the empty body already.
    headers.remove(header::CONTENT_LENGTH);
    let json = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, json);
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(ms) = refusal.retry_after_ms {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
    }
    *response.body_mut() = Body::from(body.to_string());
}

fn body_of(refusal: &Refusal, status: StatusCode, path: &str, request: RequestId) -> Value {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
    put("type", json!(format!("urn:bailiwick:problem:{}", refusal.code)));
    put("title", json!(status.canonical_reason().unwrap_or("Error")));
    put("status", json!(status.as_u16()));
    put("detail", json!(refusal.message));
    put("instance", json!(path));
    put("error", json!(refusal.code));
    put("message", json!(refusal.message));
    put("trace_id", json!(request));
    let facts = refusal.facts.as_deref().map(serde_json::from_str::<Map<String, Value>>);
    if let Some(Ok(facts)) = facts {
        for (name, value) in facts {
            // Some clients read an object where others read a text.
            if name == "detail" {
                body.insert(name, value);
            } else {
                body.entry(name).or_insert(value);
            }
        }
    }
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn one_body_serves_every_reader() {
        let refusal = Refusal::invalid("email", "is no address").retry_after(1_500);
        let mut response = Problem(refusal).into_response();
        render(&mut response, "/v1/auth/login", RequestId(7));
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["retry-after"], "2");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(body["detail"], body["message"]);
        assert_eq!(body["error"], "validation_error");
        assert_eq!(body["instance"], "/v1/auth/login");
        assert_eq!(body["details"][0]["field"], "email");
        assert_eq!(body["details"][0]["loc"], json!(["body", "email"]));
    }
}
