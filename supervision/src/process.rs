//! Entities that are work in progress: they end with an outcome that callers may wait for.

use crate::entity::Entity;

/// An entity that ends. [`crate::Directory::wait`] answers with the outcome, once it is durable,
/// whether it ends before or after the question.
pub trait Process: Entity {
    /// How it ended.
    type Outcome: Send + 'static;

    /// The outcome, once there is one. It never changes again.
    fn outcome(&self) -> Option<Self::Outcome>;
}
