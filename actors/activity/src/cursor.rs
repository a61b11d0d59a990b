//! Where a list of actions goes on: at a record of the chain, and behind how many of its items.
//!
//! As a text it is the record's number, `812`, or `812.50` when fifty items of a batch were
//! given. It grants nothing: a list reads its own tenant's chain whatever the cursor says.

use std::fmt;
use std::str::FromStr;

/// Where a list of actions goes on, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainCursor {
    /// The newest record that is still to be looked at.
    pub chain_seq: u64,
    /// How many of that record's wanted actions were given already.
    pub given: u32,
}

/// A text is no cursor of a list of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor that a list of actions has given")]
pub struct CursorError;

impl fmt::Display for ChainCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.given {
            0 => write!(f, "{}", self.chain_seq),
            given => write!(f, "{}.{given}", self.chain_seq),
        }
    }
}

impl FromStr for ChainCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (chain_seq, given) = text.split_once('.').unwrap_or((text, "0"));
        let chain_seq = chain_seq.parse().map_err(|_| CursorError)?;
        Ok(Self { chain_seq, given: given.parse().map_err(|_| CursorError)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_anything_else_is_refused() {
        for (chain_seq, given, text) in [(812, 0, "812"), (812, 50, "812.50"), (0, 0, "0")] {
            let cursor = ChainCursor { chain_seq, given };
            assert_eq!(cursor.to_string(), text);
            assert_eq!(text.parse(), Ok(cursor));
        }
        for text in ["", "x", "1.x", "1.", "-1", "1.2.3", "99999999999999999999"] {
            assert_eq!(text.parse::<ChainCursor>(), Err(CursorError), "{text}");
        }
    }
}
