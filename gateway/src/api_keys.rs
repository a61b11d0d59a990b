//! Where an API key may be used: which routes take it as `x-api-key`, and what it must have been
//! made for to be let in at all.
//!
//! Every route that takes a user's credential takes an API key. What the route itself asks for is
//! held against what the key's owner may do, cut down to the key's scopes; but most routes of one's
//! own ask for nothing. So a key must also have been made for the family of routes:
//! `FAMILY:read` for looking, `FAMILY:write` for the rest, where the family is the first part of
//! the path behind the version. [`FAMILIES`] lists the exceptions. A route that is added later is
//! covered without being listed.

use axum::http::Method;
use supervision::{Class, Refusal};
use types::Scopes;

/// The routes that take an API key as `x-api-key` too, by what their paths begin with: the
/// registry and the developers' portal.
const HEADER_ROUTES: &[&str] = &[
    "/extensions",
    "/user-extensions",
    "/v1/apps",
    "/v1/catalog",
    "/v1/developer",
    "/v1/hub",
    "/v1/users/{user_id}/automations",
];
/// Families whose scopes are not called by the first part of the path: for looking, for the rest.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("/api/v1/auth/api-keys", "keys:read", "keys:write"),
    ("/v1/api-keys", "keys:read", "keys:write"),
    ("/v1/auth/sessions", "sessions:read", "sessions:write"),
    ("/v1/apps", "developer:read", "developer:write"),
    ("/v1/billing", "wallet:read", "wallet:spend"),
    ("/v1/catalog", "developer:read", "developer:write"),
    ("/v1/confirmations", "extensions:read", "extensions:write"),
    ("/extensions", "developer:read", "developer:write"),
];
/// Routes that a key needs no scope of their family for: the function that is called says what it
/// needs.
const BY_FUNCTION: &[&str] = &[
    "/v1/extensions/{app_id}/batch",
    "/v1/extensions/{app_id}/call",
    "/v1/extensions/{app_id}/operate",
    "/v1/extensions/{app_id}/quote",
];

/// Whether a route begins with the parts of `start`; a parameter stands for any other.
pub(crate) fn begins(route: &str, start: &str) -> bool {
    let mut parts = route.split('/');
    start.split('/').all(|wanted| {
        let is_same =
            |part: &str| part == wanted || part.starts_with('{') && wanted.starts_with('{');
        parts.next().is_some_and(is_same)
    })
}

/// Whether a route takes an API key as `x-api-key`.
pub fn takes_header(route: &str) -> bool {
    HEADER_ROUTES.iter().any(|start| begins(route, start))
}

/// What a key must have been made for to be used on a route; `None` where the function says.
fn scope_of(route: &str, method: &Method) -> Option<String> {
    if BY_FUNCTION.iter().any(|start| begins(route, start)) {
        return None;
    }
    let is_look = matches!(*method, Method::GET | Method::HEAD);
    if let Some((_, read, write)) = FAMILIES.iter().find(|(start, ..)| begins(route, start)) {
        return Some((if is_look { *read } else { *write }).to_owned());
    }
    let path = route.strip_prefix("/api").unwrap_or(route);
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let family = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    Some(format!("{family}:{}", if is_look { "read" } else { "write" }))
}

/// 403 `scope_missing` unless a key that was made for `made_for` may be used on a route.
pub fn check(route: &str, method: &Method, made_for: &Scopes) -> Result<(), Refusal> {
    let Some(wanted) = scope_of(route, method) else { return Ok(()) };
    if made_for.covers(&wanted) {
        return Ok(());
    }
    let message = format!("this key was not made for this: it needs the scope {wanted}");
    let refusal = Refusal::new(Class::Forbidden, "scope_missing", message);
    Err(refusal.with_facts(&serde_json::json!({"scope": wanted})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_takes_the_header_by_whole_parts_of_its_path() {
        for route in ["/v1/apps", "/v1/apps/{app_id}/keys", "/extensions", "/v1/developer/apps"] {
            assert!(takes_header(route), "{route}");
        }
        assert!(takes_header("/v1/users/{id}/automations"));
        for route in ["/v1/applications", "/v1/extensions/{app_id}/call", "/v1/users/{id}", "/v1"] {
            assert!(!takes_header(route), "{route}");
        }
    }

    #[test]
    fn every_route_has_a_scope_of_its_family() {
        let cases = [
            (Method::GET, "/v1/auth/me", "auth:read"),
            (Method::GET, "/api/v1/auth/me", "auth:read"),
            (Method::POST, "/v1/auth/me/change-password", "auth:write"),
            (Method::POST, "/v1/auth/sessions/{id}/revoke", "sessions:write"),
            (Method::DELETE, "/v1/keys/{key_id}", "keys:write"),
            (Method::GET, "/api/v1/auth/api-keys", "keys:read"),
            (Method::DELETE, "/v1/api-keys/{id}", "keys:write"),
            (Method::POST, "/v1/billing/debits", "wallet:spend"),
            (Method::HEAD, "/v1/billing/holds", "wallet:read"),
            (Method::PUT, "/v1/developer/apps/{app_id}", "developer:write"),
            (Method::GET, "/v1/extensions/{app_id}/webhooks", "extensions:read"),
            (Method::GET, "/user-extensions/{user_id}", "user-extensions:read"),
            (Method::PATCH, "/v1/a-family-of-later/{x}", "a-family-of-later:write"),
        ];
        for (method, route, scope) in cases {
            assert_eq!(scope_of(route, &method).as_deref(), Some(scope), "{method} {route}");
            let only = |scope: &str| Scopes::from_iter([scope]);
            assert!(check(route, &method, &only(scope)).is_ok());
            assert!(check(route, &method, &Scopes::all()).is_ok());
            let refused = check(route, &method, &only("another:read")).unwrap_err();
            assert!(refused.message.contains(scope), "{}", refused.message);
        }
        assert_eq!(scope_of("/v1/extensions/{app_id}/call", &Method::POST), None);
    }
}
