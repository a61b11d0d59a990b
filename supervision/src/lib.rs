//! The actor kernel: entities that own their state, decide in synchronous turns, and answer only
//! once what they decided is durable.
//!
//! A command travels: [`Directory::ask`] takes a place in the mailbox, an [`envelope`] carries the
//! command and its reply port to the actor, a [`Turn`] decides, the journal makes the events
//! durable, and only then do the reply and the effects leave. ractor schedules and links; the
//! mailbox bound, the directory, the supervision and the durability are here.
//!
//! What holds: one incarnation of an entity at a time; an acknowledged command is in the journal;
//! a refused one changed nothing; a crash costs the entity its memory, never its state.

pub mod address;
pub mod clock;
pub mod command;
pub mod directory;
pub mod entity;
pub mod envelope;
pub mod event;
pub mod idempotency;
pub mod monitor;
pub mod own_time;
pub mod process;
pub mod rebuild;
pub mod refusal;
pub mod reminders;
pub mod renaming;
pub mod retry;
pub mod supervisor;
pub mod system;
pub mod testkit;
pub mod transplant;

mod crashes;
mod golden;
mod host;

pub use address::{Address, Home, OwnerKey};
pub use clock::{Clock, SimulatedClock, SystemClock, Timestamp};
pub use command::{Command, Found, Handle, Need, Origin, Turn};
pub use directory::Directory;
pub use entity::{EffectContext, Entity, NoEffect, RowDraft};
pub use event::Event;
pub use idempotency::{Begin, IdempotencyKey};
pub use persistence::{RequestRef, TraceParent};
pub use process::Process;
pub use refusal::{Class, Refusal};
pub use retry::{Backoff, Retried, Retry, Retrying};
pub use system::{System, SystemOptions};
