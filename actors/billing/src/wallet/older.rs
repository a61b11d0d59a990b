//! What wallets have stored in earlier versions, and what it is now. Debits and holds did not say
//! who spends: what they tell counts for the tenant alone.

use serde::{Deserialize, Serialize};
use supervision::Timestamp;
use types::{AppId, CallId, HoldId, TransactionId};

use super::{Debited, HoldPlaced, Posting, Reason, Spender};

/// [`Debited`] as it was first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DebitedFirst {
    /// The transaction.
    pub id: TransactionId,
    /// How the ledger names it.
    pub reason: Reason,
    /// The app it was spent on.
    pub app: Option<AppId>,
    /// For people.
    pub description: Option<String>,
    /// The change.
    pub postings: Vec<Posting>,
}

impl From<DebitedFirst> for Debited {
    fn from(first: DebitedFirst) -> Self {
        let DebitedFirst { id, reason, app, description, postings } = first;
        Self { id, reason, spender: Spender { app, ..Spender::default() }, description, postings }
    }
}

/// [`HoldPlaced`] as it was first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldPlacedFirst {
    /// The hold.
    pub id: HoldId,
    /// When it expires by itself.
    pub expires_at: Timestamp,
    /// For people.
    pub reason: String,
    /// The call or batch it is for.
    pub call: Option<CallId>,
    /// The change.
    pub postings: Vec<Posting>,
}

impl From<HoldPlacedFirst> for HoldPlaced {
    fn from(first: HoldPlacedFirst) -> Self {
        let HoldPlacedFirst { id, expires_at, reason, call, postings } = first;
        Self { id, expires_at, reason, call, spender: Spender::default(), actions: 0, postings }
    }
}
