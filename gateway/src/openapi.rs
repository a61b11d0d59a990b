//! The OpenAPI documents: derived from the declarations that route, one for all and one an API.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

pub mod answers;

/// The names of the APIs, as operations are tagged.
pub mod tag {
    /// The platform's gateway.
    pub const GATEWAY: &str = "auth-gateway";
    /// The account API.
    pub const ACCOUNTS: &str = "accounts";
    /// Extension calls.
    pub const EXTENSIONS: &str = "extensions";
    /// The registry.
    pub const REGISTRY: &str = "registry";
    /// Agents.
    pub const AGENTS: &str = "agents";
    /// Operators.
    pub const OPERATOR: &str = "operator";
}

/// The documents by name, and which tags each has. `broker` holds no operation of this version; its
/// document is there so that tools find it.
const DOCUMENTS: &[(&str, &[&str])] = &[
    (
        "all",
        &[tag::GATEWAY, tag::ACCOUNTS, tag::EXTENSIONS, tag::REGISTRY, tag::AGENTS, tag::OPERATOR],
    ),
    ("auth-gateway", &[tag::GATEWAY, tag::EXTENSIONS]),
    ("registry", &[tag::REGISTRY]),
    ("agents", &[tag::AGENTS]),
    ("broker", &[]),
    ("accounts", &[tag::ACCOUNTS]),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Bailiwick",
        description = "The control plane for platforms that run extensions and agents for many \
            tenants: identity, credits, metered calls, the action chain. Errors are \
            `application/problem+json` (RFC 9457) with a stable code in `error`. Every POST that \
            changes something takes `Idempotency-Key`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security(("bearer" = []), ("service_token" = []))
)]
struct Base;

/// Says on every POST and PUT that changes something that it takes `Idempotency-Key`. Logging in
/// and out and asking what something would cost are no such changes.
pub fn declare_keys(document: &mut utoipa::openapi::OpenApi) {
    const WITHOUT: &[&str] = &[
        "login",
        "login_factor",
        "login_factor_begin",
        "login_factor_lost",
        "device_authorize",
        "device_token",
        "device_decide",
        "start_oauth",
        "refresh",
        "logout",
        "quote",
        "submit",
        "act",
        "freeze_tenant",
        "freeze_user",
        "freeze_app",
        "freeze_agent",
        "resume_tenant",
        "resume_user",
        "resume_app",
        "resume_frozen_agent",
        "agent_heartbeat",
        "verify_token",
        "verify_tokens",
        "introspect_token",
        "take_backup",
        "import_tenant",
        "publish_event",
        "set_tier",
        "suspend_app",
        "disable_extension",
        "disable_extension_of_user",
        "automation_check_timeout",
        "approve_app",
        "reject_app",
        "sync_app_pricing",
        "sync_all_pricing",
        "set_app_status",
        "feature_app",
        "confirm_top_up",
        "billing_portal",
        "stripe_news",
        "cancel_task",
        "report_progress",
        "hub_message",
        "change_registry_app",
        "put_tools",
        "put_settings",
        "put_extension",
        "cancel_flight",
        "cancel_task_of_tenant",
    ];
    for path in document.paths.paths.values_mut() {
        for operation in path.post.iter_mut().chain(path.put.iter_mut()) {
            let name = operation.operation_id.as_deref().unwrap_or_default();
            if !WITHOUT.contains(&name) {
                let text = "The same key and body answer the recorded outcome for 24 h; the same \
                    key with another body is 422";
                let key = ParameterBuilder::new()
                    .name("Idempotency-Key")
                    .parameter_in(ParameterIn::Header)
                    .description(Some(text))
                    .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
                    .build();
                operation.parameters.get_or_insert_default().push(key.into());
            }
        }
    }
}

/// Adds, to what the portal is asked for, that services may name the user in the query.
pub fn declare_acting(document: &mut utoipa::openapi::OpenApi) {
    let text = "The credential's own user; the service token acts for the user that it names here, \
        in a body's `user_id` or in X-Acting-User";
    for (path, item) in &mut document.paths.paths {
        let Some(operation) = item.get.as_mut().filter(|_| path.starts_with("/v1/developer/"))
        else {
            continue;
        };
        let user = ParameterBuilder::new()
            .name("user_id")
            .parameter_in(ParameterIn::Query)
            .description(Some(text))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
            .build();
        operation.parameters.get_or_insert_default().push(user.into());
    }
}

/// The document that operations are added to.
pub fn base() -> utoipa::openapi::OpenApi {
    let mut document = Base::openapi();
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let api_key = ApiKey::Header(ApiKeyValue::with_description(
        "x-api-key",
        "An API key, on the routes of the registry and of developers; everywhere it may be the \
         bearer token",
    ));
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(api_key));
    let service = ApiKey::Header(ApiKeyValue::new("X-Service-Token"));
    components.add_security_scheme("service_token", SecurityScheme::ApiKey(service));
    document
}

/// The documents as they are served.
#[derive(Clone)]
pub struct Documents(Arc<HashMap<&'static str, Arc<str>>>);

impl Documents {
    /// Makes every document from the one that the routes have filled.
    pub fn new(whole: &utoipa::openapi::OpenApi) -> Self {
        let whole = serde_json::to_value(whole).unwrap_or_default();
        let document = |(name, tags): &(&'static str, &[&str])| {
            (*name, Arc::from(with_tags(whole.clone(), tags).to_string()))
        };
        Self(Arc::new(DOCUMENTS.iter().map(document).collect()))
    }

    /// A document's JSON text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref)
    }
}

fn with_tags(mut document: Value, tags: &[&str]) -> Value {
    let Some(paths) = document["paths"].as_object_mut() else { return document };
    let has_tag = |operation: &Value| {
        let of = operation["tags"].as_array().into_iter().flatten();
        of.filter_map(Value::as_str).any(|tag| tags.contains(&tag))
    };
    for path in paths.values_mut() {
        if let Some(operations) = path.as_object_mut() {
            operations.retain(|_, operation| has_tag(operation));
        }
    }
    paths.retain(|_, path| path.as_object().is_some_and(|operations| !operations.is_empty()));
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_keeps_its_own_operations_only() {
        let whole = json!({ "paths": {
            "/a": { "get": { "tags": ["accounts"] }, "post": { "tags": ["operator"] } },
            "/b": { "get": { "tags": ["operator"] } },
        }});
        let kept = with_tags(whole, &["accounts"]);
        assert_eq!(kept["paths"], json!({ "/a": { "get": { "tags": ["accounts"] } } }));
    }
}
