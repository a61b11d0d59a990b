//! A text that somebody wrote: stored as it is, and shown nowhere by accident.

use serde::{Deserialize, Serialize};

/// A text. `Debug` shows its length alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words(String);

impl Words {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Words {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a text of {} bytes", self.0.len())
    }
}
