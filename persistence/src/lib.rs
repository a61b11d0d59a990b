//! The journal: what is acknowledged is here, and nowhere else first.
//!
//! A [`Journal`] takes appends from any thread, gathers them into one atomic engine batch with one
//! sync, and only then runs their riders (the replies and effects that waited for them). It knows
//! bytes: no JSON, no actors, no tenants. What it calls an owner and a home are opaque ids.
//!
//! The pieces, in the order the data passes through them: [`codec`] turns values into bytes,
//! [`sealing`] encrypts them, [`record`] frames them, [`chain`] links them, the writer batches them
//! and an [`engine`] makes them durable; [`head_file`] remembers, outside the engine, how far it
//! got.

pub mod archive;
pub mod backup;
pub mod chain;
pub mod codec;
pub mod engine;
pub mod head_file;
pub mod journal;
pub mod record;
pub mod restore;
pub mod sealing;
pub mod tenant_file;

mod blocks;
mod generations;
mod layout;
mod marker;
mod open;
mod space;
mod tidy;
mod verify;
mod writer;

pub use blocks::{BlockError, remove_unfinished};
pub use codec::CodecError;
pub use engine::{Engine, EngineError};
pub use generations::Generations;
pub use journal::{
    Append, ChainListener, Conflict, Journal, Outcome, Rider, RowChange, Statistics, Ticket,
};
pub use layout::{RowKey, RowRange};
pub use marker::EngineKind;
pub use open::{FolderLock, OpenError, Options, check_store};
pub use record::{
    Header, Home, NewRecord, OwnerKey, Position, Record, RequestRef, Shard, StreamName, TraceParent,
};
pub use sealing::{
    KeyId, KeyRing, MasterKey, Opened, SealError, load_master_key, rewrap, with_root,
};
pub use space::{LOW_SPACE_BYTES, LOW_SPACE_PERCENT};
pub use tidy::tidy;
pub use verify::{ChainReport, Standing, VerifyError};

/// What went wrong while reading the journal.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The engine could not answer.
    #[error("the engine could not read")]
    Engine(#[from] EngineError),
    /// Stored bytes are not what this version, or any version, writes.
    #[error("a stored value does not decode at {at}")]
    Damaged {
        /// Where the value stands, in words.
        at: String,
        /// What the decoder said.
        #[source]
        source: CodecError,
    },
    /// The record is archived, and its file cannot be read or is damaged.
    #[error("an archived record cannot be read: {0}")]
    Archive(#[from] BlockError),
}
