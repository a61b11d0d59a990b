//! What is looked at before an app is reviewed: each by name, so that a developer knows what to
//! mend.
//!
//! Deliberate limit: whether a host answers is not tried; that it is set where it is needed, and
//! may be called by this server's rules, is.

use std::collections::BTreeSet;

use control::app::Details;
use extensions::ir::{self, Implementation, PANEL_PREFIX, Render};
use extensions::{CompiledApp, Outside};
use serde_json::Value;

use crate::view::SubmitCheck;

/// What credentials begin with: none of them belongs into an envelope.
const SECRETS: [&str; 9] = [
    "-----BEGIN",
    "bw_live_",
    "bw_svc_",
    "eng_live_sk_",
    "imp_live_",
    "rai_live_",
    "rai_pk_live_",
    "sk_live_",
    "whsec_",
];

/// Everything that is looked at, in this order.
pub fn checks(
    app: &Details,
    compiled: Option<&CompiledApp>,
    outside: Option<&Outside>,
) -> Vec<SubmitCheck> {
    let (listing, ir) = (&app.listing, compiled.and_then(|compiled| compiled.ir.as_deref()));
    let is_given = |text: &str| !text.trim().is_empty();
    let check = |check, ok| SubmitCheck { check, ok };
    vec![
        check("version_deployed", app.current().is_some()),
        check("title_given", is_given(&listing.display_name)),
        check("description_given", is_given(&listing.description)),
        check("icon_given", is_given(&listing.icon) || ir.is_some_and(|ir| is_given(&ir.icon))),
        check("category_given", is_given(&listing.category)),
        check("functions_present", ir.is_some_and(|ir| !ir.functions.is_empty())),
        check("function_names_unique", ir.is_none_or(are_unique)),
        check("prices_valid", prices_are_valid(app, ir)),
        check("host_callable", ir.is_none_or(|ir| host_is_callable(app, ir, outside))),
        check("no_secrets_in_envelope", !app.ir.as_ref().is_some_and(|ir| has_secret(ir.as_str()))),
    ]
}

fn are_unique(ir: &ir::App) -> bool {
    let mut names = BTreeSet::new();
    ir.functions.iter().all(|function| names.insert(function.name.as_str()))
}

/// Every function that has a price is there.
fn prices_are_valid(app: &Details, ir: Option<&ir::App>) -> bool {
    let config = app.listing.pricing_config.as_ref().map(|config| config.value());
    let Some(config) = config else { return true };
    let named = config.get("functions").or_else(|| config.get("tool_prices"));
    let named = named.and_then(Value::as_object);
    let is_there = |name: &String| {
        let panel = name.strip_prefix(PANEL_PREFIX);
        ir.is_some_and(|ir| match panel {
            Some(id) => ir.panels.iter().any(|panel| panel.id == id),
            None => ir.functions.iter().any(|function| function.name == *name),
        })
    };
    named.is_none_or(|named| named.keys().all(is_there))
}

/// What runs on the app's own host has one that may be called.
fn host_is_callable(app: &Details, ir: &ir::App, outside: Option<&Outside>) -> bool {
    let is_code = |it: &Implementation| matches!(it, Implementation::Code(_));
    let needs_host = ir.functions.iter().any(|function| is_code(&function.implementation))
        || ir.panels.iter().any(|panel| matches!(panel.render, Render::Code(_)));
    match (&app.host.url, outside) {
        (Some(url), Some(outside)) => outside.hosts.check(url).is_ok(),
        (Some(_), None) | (None, _) => !needs_host,
    }
}

fn has_secret(envelope: &str) -> bool {
    SECRETS.iter().any(|start| envelope.contains(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_an_envelope_are_seen() {
        assert!(has_secret(r#"{"args": {"key": "sk_live_abc"}}"#));
        assert!(has_secret("-----BEGIN PRIVATE KEY-----"));
        assert!(!has_secret(r#"{"args": {"title": "A shelf that lives"}}"#));
    }
}
