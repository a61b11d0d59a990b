//! The secrets that go with a call to the app's own host, and their removal from what it answers.
//!
//! Invariant: what a host answers is looked through before it is checked, recorded, told or sent:
//! the values that it was given do not stand in it.
//!
//! Deliberate limits
//! - A value is found as it is, not in another encoding, and not in pieces.
//! - A value shorter than [`SCRUBBED_BYTES_MIN`] is left: it stands in other words by chance, and
//!   taking it out would tell more than it hides.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// The shortest value that is taken out of answers, in bytes.
pub const SCRUBBED_BYTES_MIN: usize = 8;

/// Secrets by name. They show nothing of themselves.
#[derive(Default)]
pub struct HostSecrets(Vec<(String, Zeroizing<String>)>);

impl std::fmt::Debug for HostSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl HostSecrets {
    /// With values; a longer one that holds a shorter one is taken out first.
    pub fn new(mut values: Vec<(String, Zeroizing<String>)>) -> Self {
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        Self(values)
    }

    /// As the host is told them.
    pub(crate) fn as_json(&self) -> Value {
        let member = |(name, value): &(String, Zeroizing<String>)| {
            (name.clone(), Value::String(value.as_str().to_owned()))
        };
        Value::Object(self.0.iter().map(member).collect())
    }

    /// A text without their values.
    pub(crate) fn scrub_text(&self, text: String) -> String {
        let mut text = text;
        for (name, value) in &self.0 {
            if value.len() >= SCRUBBED_BYTES_MIN && text.contains(value.as_str()) {
                text = text.replace(value.as_str(), &format!("[secret {name}]"));
            }
        }
        text
    }

    /// A value without their values, in keys neither.
    pub(crate) fn scrub(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.scrub_text(text)),
            Value::Array(items) => items.into_iter().map(|item| self.scrub(item)).collect(),
            Value::Object(members) => {
                let scrubbed =
                    members.into_iter().map(|(key, it)| (self.scrub_text(key), self.scrub(it)));
                Value::Object(scrubbed.collect::<Map<_, _>>())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secrets() -> HostSecrets {
        let value = |text: &str| Zeroizing::new(text.to_owned());
        HostSecrets::new(vec![
            ("short".to_owned(), value("no")),
            ("token".to_owned(), value("hunter2hunter2")),
            ("url".to_owned(), value("https://x/hunter2hunter2")),
        ])
    }

    #[test]
    fn values_stand_nowhere_in_an_answer() {
        let answer = json!({"note": "it is hunter2hunter2!", "list": ["hunter2hunter2", 3],
            "hunter2hunter2": "https://x/hunter2hunter2"});
        let scrubbed = secrets().scrub(answer);
        assert_eq!(
            scrubbed,
            json!({"note": "it is [secret token]!", "list": ["[secret token]", 3],
                "[secret token]": "[secret url]"})
        );
    }

    #[test]
    fn they_are_told_to_the_host_and_shown_nowhere_else() {
        assert_eq!(secrets().as_json()["token"], "hunter2hunter2");
        assert!(!format!("{:?}", secrets()).contains("hunter2"));
    }
}
