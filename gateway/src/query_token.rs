//! The token in the query of the event stream: a browser's `EventSource` cannot send headers.
//!
//! It is taken out of the address before anything else sees it, and stands in the header from then
//! on, marked so that nothing prints it. What is logged, traced or answered has the address
//! without it, and the stream is answered with `Referrer-Policy: no-referrer`.

use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Request, Uri, header};

/// The one route that takes it.
const STREAM_PATH: &str = "/v1/events/stream";
/// The parameter's name.
const TOKEN: &str = "token";

/// Moves the query's token into the `Authorization` header. Beside another credential it stays a
/// second one, which is refused; an empty one is none.
pub(crate) fn take(request: &mut Request<Body>) {
    if request.uri().path() != STREAM_PATH {
        return;
    }
    let query = request.uri().query().unwrap_or_default();
    let is_token = |(name, _): &(_, _)| *name == *TOKEN;
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    if !pairs.iter().any(|(name, _)| name == TOKEN) {
        return;
    }
    let (tokens, rest): (Vec<_>, Vec<_>) = pairs.into_iter().partition(is_token);
    let rest = form_urlencoded::Serializer::new(String::new()).extend_pairs(rest).finish();
    let path =
        if rest.is_empty() { STREAM_PATH.to_owned() } else { format!("{STREAM_PATH}?{rest}") };
    let mut parts = request.uri().clone().into_parts();
    // What was just written out is well-formed; if not, nothing of the old address may stay.
    parts.path_and_query =
        path.parse().ok().or_else(|| Some(PathAndQuery::from_static(STREAM_PATH)));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static(STREAM_PATH));
    for (_, token) in tokens.into_iter().filter(|(_, token)| !token.is_empty()) {
        // What no header can carry is no token either: it is refused as one that does not hold.
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.unwrap_or_else(|_| HeaderValue::from_static("Bearer -"));
        value.set_sensitive(true);
        request.headers_mut().append(header::AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(uri: &str) -> (String, Vec<String>) {
        let mut request = Request::builder().uri(uri).body(Body::empty()).unwrap();
        take(&mut request);
        let headers: Vec<_> = request.headers().get_all(header::AUTHORIZATION).iter().collect();
        assert!(headers.iter().all(|it| it.is_sensitive()));
        let tokens = headers.iter().map(|it| it.to_str().unwrap().to_owned()).collect();
        (request.uri().to_string(), tokens)
    }

    #[test]
    fn the_token_leaves_the_address() {
        let token = vec!["Bearer a.b-c".to_owned()];
        for (uri, left, tokens) in [
            ("/v1/events/stream?token=a.b-c", "/v1/events/stream", token.clone()),
            (
                "/v1/events/stream?tenant_id=default&token=a.b-c",
                "/v1/events/stream?tenant_id=default",
                token.clone(),
            ),
            ("http://x/v1/events/stream?%74oken=a.b-c", "http://x/v1/events/stream", token),
            ("/v1/events/stream?token=", "/v1/events/stream", vec![]),
            ("/v1/events/stream?token=%0Ax", "/v1/events/stream", vec!["Bearer -".to_owned()]),
            ("/v1/events/stream?tenant_id=a%20b", "/v1/events/stream?tenant_id=a%20b", vec![]),
            ("/verify-email?token=x", "/verify-email?token=x", vec![]),
        ] {
            assert_eq!(taken(uri), (left.to_owned(), tokens), "{uri}");
        }
        assert_eq!(taken("/v1/events/stream?token=a&token=b").1.len(), 2);
    }
}
