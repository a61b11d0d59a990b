//! What sessions stored before: read for ever, written no more.

use serde::{Deserialize, Serialize};
use types::{CallId, HoldId, SharePercent};

use super::{DocumentWrite, Ran, RanItem, Scope};

/// A call or batch ran, from before anything was confirmed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RanV1 {
    id: CallId,
    scope: Scope,
    app_version: String,
    items: Vec<RanItem>,
    writes: Vec<DocumentWrite>,
    hold: Option<HoldId>,
    share: SharePercent,
}

impl From<RanV1> for Ran {
    fn from(old: RanV1) -> Self {
        let RanV1 { id, scope, app_version, items, writes, hold, share } = old;
        Self { id, scope, app_version, items, writes, hold, share, confirmation: None }
    }
}
