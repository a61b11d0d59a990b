//! The weight of JSON values: what bounds the memory and the nesting of a run.
//!
//! Bindings copy values into values, so a short program could double its data at every step. Each
//! copy is therefore weighed first, against one allowance for the whole run. The weight of a value
//! is the bytes of its texts and keys plus [`NODE_BYTES`] a node, so it bounds memory too.
//! No value that a run makes is nested deeper than [`VALUE_DEPTH_MAX`], which is what makes the
//! recursive walks here safe.

use serde_json::Value;

/// Levels of lists and objects in a value that a run makes or is given.
pub const VALUE_DEPTH_MAX: usize = 64;

/// What a node weighs beside its text: about what it occupies in memory.
const NODE_BYTES: usize = 16;

/// A value that is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    /// Heavier than what is left of the allowance.
    Bytes,
    /// Nested deeper than allowed.
    Depth,
}

/// The weight of a value in bytes, or `None` if it is nested deeper than `depth_max`.
pub(crate) fn weigh(value: &Value, depth_max: usize) -> Option<usize> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(NODE_BYTES),
        Value::String(text) => Some(NODE_BYTES + text.len()),
        Value::Array(items) => {
            let depth_max = depth_max.checked_sub(1)?;
            items.iter().try_fold(NODE_BYTES, |sum, item| Some(sum + weigh(item, depth_max)?))
        }
        Value::Object(members) => {
            let depth_max = depth_max.checked_sub(1)?;
            members.iter().try_fold(NODE_BYTES, |sum, (key, member)| {
                Some(sum + key.len() + weigh(member, depth_max)?)
            })
        }
    }
}

/// What a run may still build, in bytes.
#[derive(Debug)]
pub(crate) struct Meter {
    left_bytes: usize,
}

impl Meter {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { left_bytes: bytes_max }
    }

    /// Takes a known weight from the allowance.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Excess> {
        self.left_bytes = self.left_bytes.checked_sub(bytes).ok_or(Excess::Bytes)?;
        Ok(())
    }

    /// Takes the weight of a node and of its own text.
    pub(crate) fn take_node(&mut self, text: &str) -> Result<(), Excess> {
        self.take(NODE_BYTES + text.len())
    }

    /// Takes a value that is about to stand `depth` levels below the root of what is built.
    pub(crate) fn take_value(&mut self, value: &Value, depth: usize) -> Result<(), Excess> {
        let allowed = VALUE_DEPTH_MAX.checked_sub(depth).ok_or(Excess::Depth)?;
        self.take(weigh(value, allowed).ok_or(Excess::Depth)?)
    }
}
