//! What every request passes, on its way in and out: its id, the trace context, the figures, and
//! the body of a problem.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use supervision::{Class, Refusal, RequestRef, TraceParent};
use tower_service::Service as _;
use types::RequestId;

use crate::app::App;
use crate::problem::{self, Problem};
use crate::query_token;
use crate::server::Serve;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Where the router notes which route it took.
#[derive(Clone, Default)]
struct RouteSlot(Arc<OnceLock<MatchedPath>>);

/// Notes the route of a request that has been routed.
pub fn note_route(request: Request<Body>) -> Request<Body> {
    let found = request.extensions().get::<MatchedPath>().cloned();
    if let (Some(route), Some(slot)) = (found, request.extensions().get::<RouteSlot>()) {
        let _ = slot.0.set(route);
    }
    request
}

/// The router with everything around it.
#[derive(Clone)]
pub struct Front {
    app: App,
    router: Router,
    policy: HeaderValue,
}

impl Front {
    /// The front of an application.
    pub fn new(app: App, router: Router) -> Self {
        let policy = HeaderValue::from_str(&app.admission.policy());
        let policy = policy.unwrap_or_else(|_| HeaderValue::from_static(""));
        Self { app, router, policy }
    }
}

/// What a `traceparent` header says, if it is one (W3C Trace Context, section 3.2.2).
fn trace_parent(value: &HeaderValue) -> Option<TraceParent> {
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !(is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16)) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let parent = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
    Some(TraceParent { trace, parent })
}

impl Serve for Front {
    async fn serve(&self, mut request: Request<Body>, peer: SocketAddr) -> Response<Body> {
        let started = Instant::now();
        let sent = request.headers().get(TRACEPARENT).cloned();
        let trace = sent.as_ref().and_then(trace_parent);
        let request_ref = RequestRef { id: self.app.system.new_id(), trace };
        let id = RequestId(request_ref.id);
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        request.extensions_mut().insert(request_ref);
        request.extensions_mut().insert(Peer(peer));
        let headers = request.headers();
        // Two lengths: whoever stands in front may have believed the other one (RFC 9112, 6.1).
        let two_lengths = headers.contains_key(header::TRANSFER_ENCODING)
            && headers.contains_key(header::CONTENT_LENGTH);
        let route = RouteSlot::default();
        request.extensions_mut().insert(route.clone());
        query_token::take(&mut request);
        let mut response = if two_lengths {
            let message = "send Content-Length or Transfer-Encoding, not both";
            Problem(Refusal::new(Class::BadRequest, "two_lengths", message)).into_response()
        } else {
            let Ok(response) = self.router.clone().call(request).await;
            response
        };
        problem::render(&mut response, &path, id);
        let status = response.status();
        let route = route.0.get().map_or("unmatched", MatchedPath::as_str);
        self.app.metrics.count(&method, route, status, started.elapsed());
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
            headers.insert(REQUEST_ID, value);
        }
        if let (Some(_), Some(sent)) = (trace, sent) {
            headers.insert(TRACEPARENT, sent);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status.is_client_error() {
            headers.entry(POLICY).or_insert_with(|| self.policy.clone());
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            let none_left = HeaderValue::from_static("\"default\";r=0");
            headers.entry(LIMIT).or_insert(none_left);
        }
        if status.is_server_error() {
            tracing::warn!(%method, route, %status, %id, "a request was not carried out");
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_trace_context_counts() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = |text| trace_parent(&HeaderValue::from_static(text));
        let parsed = TraceParent {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            parent: 0xf0_67aa_0ba9_02b7,
        };
        assert_eq!(trace(good), Some(parsed));
        assert_eq!(trace("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), None);
        assert_eq!(trace("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"), None);
        assert_eq!(trace("nonsense"), None);
    }
}
