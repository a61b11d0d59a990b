//! OAuth providers that an app declares: `"oauth": [{"provider", "authorize_url", "token_url",
//! "client_id", "scopes", "secret", "handler"}]`, an optional key of `app`.
//!
//! A user's browser is sent to `authorize_url`; the code that comes back is exchanged at
//! `token_url`, with the client secret called `secret` (none for a client that has none), and
//! `handler`, a function of the app, is handed `{provider, tokens}` as that user. Whether the
//! addresses may be reached is for whoever reaches them.

use std::collections::HashMap;

use super::issue::{At, Chars, Fields, Issues};

/// Providers of one app.
pub const PROVIDERS_MAX: usize = 16;
/// Characters of a provider's name and of a secret's.
const NAME_CHARS_MAX: usize = 64;
/// Characters of an address.
const URL_CHARS_MAX: usize = 500;
/// Characters of a client's id, of a scope, of a function's name.
const TEXT_CHARS_MAX: usize = 256;
/// Scopes that are asked for.
const SCOPES_MAX: usize = 64;

/// Where users of an app connect an account of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its name, a part of addresses.
    pub name: String,
    /// Where the browser is sent.
    pub authorize_url: String,
    /// Where the code is exchanged.
    pub token_url: String,
    /// How the provider knows the app.
    pub client_id: String,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// What the client secret is called; `None` for a client without one.
    pub secret: Option<String>,
    /// The function that is handed the tokens.
    pub handler: String,
}

pub(crate) fn parse_providers(
    app: &Fields<'_, '_>,
    functions: &HashMap<String, usize>,
    issues: &mut Issues,
) -> Vec<Provider> {
    let at = app.at.key("oauth");
    let mut providers: Vec<Provider> = Vec::new();
    for (position, value) in app.list("oauth", PROVIDERS_MAX, issues).iter().enumerate() {
        let at = at.index(position);
        let known =
            ["provider", "authorize_url", "token_url", "client_id", "scopes", "secret", "handler"];
        let Some(fields) = Fields::read(value, &at, &known, issues) else { continue };
        let text = Chars::some_up_to(TEXT_CHARS_MAX);
        let name = name_of(&fields, "provider", issues);
        if providers.iter().any(|known| known.name == name) {
            issues.add(&at.key("provider"), "is also the name of another provider");
        }
        let handler = fields.text("handler", &text, issues);
        if !functions.contains_key(&handler) {
            issues.add(&at.key("handler"), "is no function of this app");
        }
        let has_secret = fields.optional("secret").is_some();
        let scopes = fields.texts("scopes", SCOPES_MAX, &text, issues);
        for (position, scope) in scopes.iter().enumerate() {
            // RFC 6749, section 3.3: no space, quotation mark or backslash within one.
            if !scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte)) {
                issues.add(&at.key("scopes").index(position), "holds what no scope does");
            }
        }
        providers.push(Provider {
            name,
            authorize_url: url_of(&fields, "authorize_url", issues),
            token_url: url_of(&fields, "token_url", issues),
            client_id: fields.text("client_id", &text, issues),
            scopes,
            secret: has_secret.then(|| name_of(&fields, "secret", issues)),
            handler,
        });
    }
    providers
}

fn name_of(provider: &Fields<'_, '_>, field: &str, issues: &mut Issues) -> String {
    let name = provider.text(field, &Chars::some_up_to(NAME_CHARS_MAX), issues);
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let starts = name.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
    if !starts || !name.bytes().all(fits) {
        issues.add(&provider.at.key(field), "must be a-z, then a-z, 0-9, - and _");
    }
    name
}

fn url_of(provider: &Fields<'_, '_>, field: &str, issues: &mut Issues) -> String {
    let url = provider.text(field, &Chars::some_up_to(URL_CHARS_MAX), issues);
    let at: At<'_> = provider.at.key(field);
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_url = rest.is_some_and(|rest| !rest.is_empty())
        && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !is_url {
        issues.add(&at, "must be an https:// address without a fragment");
    }
    url
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{App, join, parse};

    fn read(change: impl FnOnce(&mut Value)) -> Result<App, String> {
        let mut provider = json!({"provider": "git-hub", "client_id": "abc",
            "authorize_url": "https://id.example/authorize?x=1",
            "token_url": "https://id.example/token", "scopes": ["repo", "user:email"],
            "secret": "client_secret", "handler": "connected"});
        change(&mut provider);
        let envelope = json!({"ir_version": "1.0", "app": {"id": "shop", "version": "1",
            "title": "Shop", "oauth": [provider], "functions": [
            {"name": "connected", "impl": {"kind": "declarative", "steps": []}}]}});
        parse(&envelope).map_err(|issues| join(&issues))
    }

    #[test]
    fn a_provider_is_read_with_or_without_a_secret() {
        let app = read(|_| {}).unwrap();
        let provider = app.provider("git-hub").unwrap();
        assert_eq!(provider.secret.as_deref(), Some("client_secret"));
        assert_eq!(provider.scopes, ["repo", "user:email"]);
        assert!(app.provider("other").is_none());
        let public = read(|provider| provider["secret"] = Value::Null).unwrap();
        assert_eq!(public.provider("git-hub").unwrap().secret, None);
    }

    #[test]
    fn what_cannot_be_a_provider_is_refused_with_its_place() {
        let cases: [(&str, Value); 8] = [
            ("provider", json!("Git Hub")),
            ("provider", json!("a/b")),
            ("authorize_url", json!("javascript:alert(1)")),
            ("token_url", json!("https://a b/")),
            ("token_url", json!("https://id.example/#x")),
            ("handler", json!("other")),
            ("scopes", json!(["a b"])),
            ("surprise", json!(1)),
        ];
        for (field, wrong) in cases {
            let issues = read(|provider| provider[field] = wrong).unwrap_err();
            assert!(issues.contains(&format!("app.oauth[0].{field}")), "{issues}");
        }
    }
}
