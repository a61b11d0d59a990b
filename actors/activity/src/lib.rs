//! The action chain's views and proofs.
//!
//! A tenant's actions are its chain of journal records, read as actions: nothing is stored twice,
//! and what a list shows is what [`Activity::verify`] verifies. What a record of some kind means
//! is told by the crate that owns the kind, through [`Describers`]. The [`feed`] tells the same
//! records to whoever reads along.

mod activity;
mod audit;
mod cursor;
mod describe;
mod export;
pub mod feed;
pub mod operator_act;
mod stats;
mod view;
mod walk;

use supervision::system::SystemBuilder;

pub use activity::{
    Activity, COUNTED_RECORDS_MAX, Filter, GET_RECORDS_MAX, GET_STEPS_MAX, LIST_RECORDS_MAX,
    PER_PAGE_DEFAULT, PER_PAGE_MAX, Whose,
};
pub use audit::{AuditEntry, AuditFilter, AuditNote, AuditPage, DescribeNote};
pub use cursor::{ChainCursor, CursorError};
pub use describe::{ActionItem, ActionStatus, ActionType, Describe, Describers};
pub use export::{EXPORTS_MAX, Export, ExportFormat, ExportHead, PIECE_BYTES};
pub use stats::{ActionStats, Group, STATS_GROUPS_MAX, STATS_RECORDS_MAX, Tally};
pub use view::{Action, ActionDetail, ActionPage, Verification};
pub use walk::Between;

/// Registers this crate's kinds.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<operator_act::OperatorAct>()
}
