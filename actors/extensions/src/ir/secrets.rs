//! `app.secrets`: what an app declares that it needs, `[{name, description, required, write_mode,
//! scope, max_bytes, rotation_hint_days, env_fallback}]`, of which only `name` must be there.

use std::collections::HashSet;

use broker::declaration::{
    Declaration, NAME_CHARACTERS_MAX, SECRETS_MAX, VALUE_BYTES, VALUE_BYTES_MAX, Whose, WriteMode,
    is_name,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::issue::{At, Chars, Fields, Issues};

/// Characters of a description.
const DESCRIPTION_CHARS_MAX: usize = 500;
/// The longest period after which a secret should be replaced, in days.
const ROTATION_DAYS_MAX: u64 = 3_650;

const KEYS: [&str; 8] = [
    "name",
    "description",
    "required",
    "write_mode",
    "scope",
    "max_bytes",
    "rotation_hint_days",
    "env_fallback",
];

/// The declared secrets, in their order.
pub(super) fn parse(app: &Fields<'_, '_>, issues: &mut Issues) -> Vec<Declaration> {
    let at = app.at.key("secrets");
    let (mut declared, mut names) = (Vec::new(), HashSet::new());
    for (position, value) in app.list("secrets", SECRETS_MAX, issues).iter().enumerate() {
        let at = at.index(position);
        let Some(secret) = parse_one(value, &at, issues) else { continue };
        if !names.insert(secret.name.clone()) {
            issues.add(&at.key("name"), "is the name of another secret, too");
        }
        declared.push(secret);
    }
    declared
}

fn parse_one(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<Declaration> {
    let fields = Fields::read(value, at, &KEYS, issues)?;
    let name = fields.text("name", &Chars::some_up_to(NAME_CHARACTERS_MAX), issues);
    if !name.is_empty() && !is_name(&name) {
        let message = "must be a small letter, then small letters, digits and underscores";
        issues.add(&at.key("name"), message);
    }
    let bytes_max = number(&fields, "max_bytes", 1, VALUE_BYTES_MAX as u64, issues);
    let days = number(&fields, "rotation_hint_days", 1, ROTATION_DAYS_MAX, issues);
    let env_fallback = fields.text_or("env_fallback", "", &Chars::up_to(128), issues);
    Some(Declaration {
        name,
        description: fields.text_or(
            "description",
            "",
            &Chars::up_to(DESCRIPTION_CHARS_MAX),
            issues,
        ),
        required: choice(&fields, "required", "true or false", issues),
        write_mode: choice::<WriteMode>(&fields, "write_mode", "user, extension or both", issues),
        scope: choice::<Whose>(&fields, "scope", "user or app", issues),
        bytes_max: bytes_max.and_then(|bytes| bytes.try_into().ok()).unwrap_or(VALUE_BYTES),
        rotation_hint_days: days.and_then(|days| days.try_into().ok()),
        env_fallback: Some(env_fallback).filter(|name| !name.is_empty()),
    })
}

fn choice<T: DeserializeOwned + Default>(
    fields: &Fields<'_, '_>,
    name: &str,
    choices: &str,
    issues: &mut Issues,
) -> T {
    let Some(value) = fields.optional(name) else { return T::default() };
    T::deserialize(value).unwrap_or_else(|_| {
        issues.add(&fields.at.key(name), format!("must be {choices}"));
        T::default()
    })
}

fn number(
    fields: &Fields<'_, '_>,
    name: &str,
    min: u64,
    max: u64,
    issues: &mut Issues,
) -> Option<u64> {
    let value = fields.optional(name)?;
    let number = value.as_u64().filter(|number| (min..=max).contains(number));
    if number.is_none() {
        issues.add(&fields.at.key(name), format!("must be a whole number from {min} to {max}"));
    }
    number
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ir;

    fn read(secrets: Value) -> Result<ir::App, Vec<ir::Issue>> {
        let app = json!({"id": "shelf", "version": "1", "title": "Shelf", "functions": [],
            "secrets": secrets});
        ir::parse(&json!({"ir_version": "1.0", "app": app}))
    }

    #[test]
    fn what_is_left_out_has_the_narrowest_meaning() {
        let app = read(json!([
            {"name": "token"},
            {"name": "client", "scope": "app", "write_mode": "both", "max_bytes": 65536,
             "required": true, "rotation_hint_days": 90, "env_fallback": "CLIENT"},
        ]))
        .unwrap();
        let [token, client] = app.secrets.as_slice() else { panic!("{:?}", app.secrets) };
        assert_eq!((token.scope, token.write_mode), (Whose::User, WriteMode::User));
        assert_eq!((token.bytes_max, token.required), (VALUE_BYTES, false));
        assert_eq!((client.scope, client.bytes_max), (Whose::App, VALUE_BYTES_MAX));
        assert_eq!(client.rotation_hint_days, Some(90));
        assert!(!token.may_be_written_by(true) && client.may_be_written_by(true));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (secrets, place) in [
            (json!({"name": "token"}), "app.secrets"),
            (json!([{}]), "app.secrets[0].name"),
            (json!([{"name": "Token"}]), "app.secrets[0].name"),
            (json!([{"name": "a"}, {"name": "a"}]), "app.secrets[1].name"),
            (json!([{"name": "a", "value": "x"}]), "app.secrets[0].value"),
            (json!([{"name": "a", "scope": "world"}]), "app.secrets[0].scope"),
            (json!([{"name": "a", "write_mode": 1}]), "app.secrets[0].write_mode"),
            (json!([{"name": "a", "required": "yes"}]), "app.secrets[0].required"),
            (json!([{"name": "a", "max_bytes": 65537}]), "app.secrets[0].max_bytes"),
            (json!([{"name": "a", "max_bytes": -1}]), "app.secrets[0].max_bytes"),
        ] {
            let issues = read(secrets.clone()).unwrap_err();
            let told = ir::join(&issues);
            assert!(told.contains(place), "{secrets}: {told}");
        }
    }
}
