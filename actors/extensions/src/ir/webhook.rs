//! Webhooks that an app declares: `"webhooks": [{"path", "methods", "function"}]`, an optional key
//! of `app`. A request to one of these paths is handed to the function as its params.
//!
//! A path is one part of an address, so it holds no slash; it never begins as an install key does,
//! which may stand before it. `methods` is a list of GET, POST, PUT and DELETE; POST alone when it
//! is left out. Two webhooks of an app have two paths.

use std::collections::HashMap;

use super::issue::{At, Chars, Fields, Issues};

/// Webhooks of one app.
pub const WEBHOOKS_MAX: usize = 64;
/// Characters of a webhook's path.
pub const WEBHOOK_PATH_CHARS_MAX: usize = 64;
/// What an install key begins with; no path does.
pub const INSTALL_KEY_PREFIX: &str = "bw_hook_";
/// The methods that a webhook may take.
pub const WEBHOOK_METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
/// Characters of a function's name.
const NAME_CHARS_MAX: usize = 128;

/// A path at which an app is called from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The last part of the address.
    pub path: String,
    /// Of [`WEBHOOK_METHODS`].
    pub methods: Vec<&'static str>,
    /// Who is called: a function of the app.
    pub function: String,
}

pub(crate) fn parse_webhooks(
    app: &Fields<'_, '_>,
    functions: &HashMap<String, usize>,
    issues: &mut Issues,
) -> Vec<Webhook> {
    let at = app.at.key("webhooks");
    let mut webhooks: Vec<Webhook> = Vec::new();
    for (position, value) in app.list("webhooks", WEBHOOKS_MAX, issues).iter().enumerate() {
        let at = at.index(position);
        let known = ["path", "methods", "function"];
        let Some(fields) = Fields::read(value, &at, &known, issues) else { continue };
        let path = fields.text("path", &Chars::some_up_to(WEBHOOK_PATH_CHARS_MAX), issues);
        if !is_path(&path) {
            let message = format!(
                "must be letters, digits, and - _ . ~ after a letter or digit, and not begin with \
                 {INSTALL_KEY_PREFIX}"
            );
            issues.add(&at.key("path"), message);
        }
        if webhooks.iter().any(|known| known.path == path) {
            issues.add(&at.key("path"), "is also the path of another webhook");
        }
        let methods = parse_methods(&fields, issues);
        let function = fields.text("function", &Chars::some_up_to(NAME_CHARS_MAX), issues);
        if !functions.contains_key(&function) {
            issues.add(&at.key("function"), "is no function of this app");
        }
        webhooks.push(Webhook { path, methods, function });
    }
    webhooks
}

fn is_path(path: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    path.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && path.bytes().all(fits)
        && !path.starts_with(INSTALL_KEY_PREFIX)
}

fn parse_methods(webhook: &Fields<'_, '_>, issues: &mut Issues) -> Vec<&'static str> {
    if webhook.optional("methods").is_none() {
        return vec!["POST"];
    }
    let at: At<'_> = webhook.at.key("methods");
    let written = webhook.texts("methods", WEBHOOK_METHODS.len(), &Chars::some_up_to(8), issues);
    if written.is_empty() {
        issues.add(&at, format!("must name at least one of {}", WEBHOOK_METHODS.join(", ")));
    }
    let mut methods = Vec::with_capacity(written.len());
    for (position, method) in written.iter().enumerate() {
        match WEBHOOK_METHODS.into_iter().find(|known| known == method) {
            Some(known) => methods.push(known),
            None => {
                let message = format!("must be one of {}", WEBHOOK_METHODS.join(", "));
                issues.add(&at.index(position), message);
            }
        }
    }
    methods
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::parse;

    fn read(webhooks: Value) -> Result<super::super::App, String> {
        let envelope = json!({"ir_version": "1.0", "app": {"id": "shop", "version": "1",
            "title": "Shop", "webhooks": webhooks, "functions": [
            {"name": "paid", "impl": {"kind": "declarative", "steps": []}}]}});
        parse(&envelope).map_err(|issues| super::super::join(&issues))
    }

    #[test]
    fn a_webhook_names_a_path_its_methods_and_a_function() {
        let app = read(json!([{"path": "payments", "function": "paid"},
            {"path": "probe.v1", "methods": ["GET", "PUT"], "function": "paid"}]))
        .unwrap();
        let payments = app.webhook("payments").unwrap();
        assert_eq!(
            (payments.methods.as_slice(), payments.function.as_str()),
            (&["POST"][..], "paid")
        );
        assert_eq!(app.webhook("probe.v1").unwrap().methods, ["GET", "PUT"]);
        assert!(app.webhook("probe").is_none());
    }

    #[test]
    fn what_cannot_be_called_is_refused_with_its_place() {
        let hook = |path: &str| json!([{"path": path, "function": "paid"}]);
        let cases = [
            (hook("a/b"), "app.webhooks[0].path"),
            (hook(""), "app.webhooks[0].path"),
            (hook(".."), "app.webhooks[0].path"),
            (hook("bw_hook_x"), "app.webhooks[0].path"),
            (json!([{"path": "a", "function": "other"}]), "app.webhooks[0].function"),
            (
                json!([{"path": "a", "function": "paid", "methods": ["PATCH"]}]),
                "app.webhooks[0].methods[0]",
            ),
            (json!([{"path": "a", "function": "paid", "methods": []}]), "app.webhooks[0].methods"),
            (
                json!([{"path": "a", "function": "paid"}, {"path": "a", "function": "paid"}]),
                "app.webhooks[1].path",
            ),
            (json!([{"path": "a", "function": "paid", "secret": "x"}]), "app.webhooks[0].secret"),
        ];
        for (webhooks, place) in cases {
            let issues = read(webhooks).unwrap_err();
            assert!(issues.contains(place), "{issues}");
        }
    }
}
