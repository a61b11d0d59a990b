//! What waits for a person before it is done.
//!
//! Reading order: [`confirmation`] is the entity, one a card; [`rules`] says who decides,
//! [`deciding`] holds its commands; [`executor`] is the port over which it is carried out; [`desk`]
//! finds cards, makes their ids and ends many at once; [`canonical`] is the form of JSON that
//! digests are over; [`farewell`] ends what an erased user waits for.
//!
//! The crate knows nothing of what is decided: a card has a kind, named facts and their digest, and
//! bytes that its kind's executor understands.

pub mod canonical;
pub mod confirmation;
pub mod deciding;
pub mod desk;
pub mod executor;
pub mod farewell;
pub mod rules;

mod describe;
mod tell;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use supervision::system::SystemBuilder;

pub use confirmation::{Card, Confirmation, Digest, Fact, Held, State};
pub use describe::describe;
pub use executor::{Execution, Executor, Executors, Order};
pub use rules::{Decider, Group, Rules, Stage, Who};
pub use tell::tell;

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<Confirmation>()
}
