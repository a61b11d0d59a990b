//! For whom the portal is asked: services name the user in `user_id`, in the query or in a JSON
//! body, as well as in `X-Acting-User`.
//!
//! Identity comes from the credential. What `user_id` says in a query must be the credential's own
//! user, or is refused (403) when the caller is let in; only the service token, which has none of
//! its own, acts for whom it names. A body is looked into for the service token alone, and within
//! the limits of every body; whether the token holds is found out where the caller is let in.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use supervision::Refusal;
use types::UserId;

use crate::extract::{BODY_BYTES_MAX, read_body};
use crate::problem::Problem;

const ACTING_USER: &str = "x-acting-user";
/// Where it is so, by what paths begin with.
const FAMILIES: [&str; 2] = ["/v1/developer/", "/v1/marketplace/"];

/// The user whom a request names in its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedUser(pub UserId);

/// Where a body names a user; whatever else it holds is for the route.
#[derive(Deserialize)]
struct Naming {
    #[serde(default)]
    user_id: Option<String>,
}

fn parsed(place: &str, text: &str) -> Result<UserId, Refusal> {
    text.parse().map_err(|_| Refusal::invalid_at(place, "user_id", "is not an id"))
}

/// The user in a query; an empty one is none.
fn in_query(query: &str) -> Result<Option<UserId>, Refusal> {
    let pairs = form_urlencoded::parse(query.as_bytes());
    let mut named = pairs.filter(|(name, text)| name == "user_id" && !text.is_empty());
    let first = named.next();
    if named.next().is_some() {
        return Err(Refusal::invalid_at("query", "user_id", "is there more than once"));
    }
    first.map(|(_, text)| parsed("query", &text)).transpose()
}

/// The user in a body; what is no JSON object is for the route to refuse.
fn in_body(bytes: &[u8]) -> Result<Option<UserId>, Refusal> {
    let naming = serde_json::from_slice::<Naming>(bytes).ok();
    let named = naming.and_then(|it| it.user_id).filter(|text| !text.is_empty());
    named.map(|text| parsed("body", &text)).transpose()
}

/// Lets the service token act for the user that the query or the body names.
pub async fn named_user(mut request: Request, next: Next) -> Response<Body> {
    if !FAMILIES.iter().any(|start| request.uri().path().starts_with(start)) {
        return next.run(request).await;
    }
    let has = |request: &Request, name: &str| {
        request.headers().get(name).is_some_and(|value| !value.is_empty())
    };
    let mut named = match in_query(request.uri().query().unwrap_or_default()) {
        Ok(named) => named,
        Err(refusal) => return Problem(refusal).into_response(),
    };
    if let Some(user) = named {
        request.extensions_mut().insert(NamedUser(user));
    }
    let is_open = has(&request, "x-service-token") && !has(&request, ACTING_USER);
    let has_body = !matches!(*request.method(), Method::GET | Method::HEAD);
    if is_open && named.is_none() && has_body {
        let (parts, body) = request.into_parts();
        let bytes = match read_body(body, BODY_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(response) => return response,
        };
        named = match in_body(&bytes) {
            Ok(named) => named,
            Err(refusal) => return Problem(refusal).into_response(),
        };
        request = Request::from_parts(parts, Body::from(bytes));
    }
    if is_open && let Some(Ok(user)) = named.map(|user| HeaderValue::from_str(&user.to_string())) {
        request.headers_mut().insert(ACTING_USER, user);
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_read_of_a_query_and_of_a_body() {
        let user = UserId(7);
        assert_eq!(in_query(&format!("days=7&user_id={user}")), Ok(Some(user)));
        assert_eq!(in_query("days=7&user_id="), Ok(None));
        assert!(in_query("user_id=somebody").is_err());
        assert!(in_query(&format!("user_id={user}&user_id={user}")).is_err());
        let body = serde_json::json!({"amount": 5, "user_id": user.to_string()}).to_string();
        assert_eq!(in_body(body.as_bytes()), Ok(Some(user)));
        for other in ["", "[]", "{\"user_id\": 7}", "{}"] {
            assert_eq!(in_body(other.as_bytes()), Ok(None), "{other}");
        }
    }
}
