//! What an app declares about a secret that it needs.

use serde::{Deserialize, Serialize};

/// The most secrets that one app declares.
pub const SECRETS_MAX: usize = 64;
/// The longest value unless it is declared longer, in bytes.
pub const VALUE_BYTES: usize = 4_096;
/// The longest value that may be declared, in bytes.
pub const VALUE_BYTES_MAX: usize = 65_536;
/// The longest name, in characters.
pub const NAME_CHARACTERS_MAX: usize = 63;

/// Who writes the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Whoever uses the app; for an app's own secret its developer.
    #[default]
    User,
    /// The app itself, with the service token and its id.
    Extension,
    /// Either.
    Both,
}

/// Whose value it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// Each user's own, in each tenant.
    #[default]
    User,
    /// The app's: one value for everybody, which only the developer writes.
    App,
}

/// A secret as an app declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Unique within the app: see [`is_name`].
    pub name: String,
    /// What it is for; people read it.
    pub description: String,
    /// Whether the app does not work without it.
    pub required: bool,
    /// Who writes it.
    pub write_mode: WriteMode,
    /// Whose it is.
    pub scope: Whose,
    /// The longest value, in bytes: 1 to [`VALUE_BYTES_MAX`].
    pub bytes_max: usize,
    /// After how many days it should be replaced.
    pub rotation_hint_days: Option<u32>,
    /// The variable of its own environment that the host falls back to. This server reads none.
    pub env_fallback: Option<String>,
}

impl Declaration {
    /// Whether a user, or the app itself, may write it.
    pub fn may_be_written_by(&self, by_app: bool) -> bool {
        match self.write_mode {
            WriteMode::Both => true,
            WriteMode::Extension => by_app,
            WriteMode::User => !by_app,
        }
    }
}

/// Whether a text is a secret's name: a small letter, then small letters, digits and underscores.
pub fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=NAME_CHARACTERS_MAX).contains(&text.len())
        && text.as_bytes()[0].is_ascii_lowercase()
        && text.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_small_identifier() {
        let long = "a".repeat(NAME_CHARACTERS_MAX);
        for name in ["a", "api_key", "k2", long.as_str()] {
            assert!(is_name(name), "{name}");
        }
        let longer = format!("{long}a");
        for name in ["", "2k", "_k", "Key", "api-key", "ä", longer.as_str()] {
            assert!(!is_name(name), "{name}");
        }
    }
}
