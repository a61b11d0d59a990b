//! The vocabulary of every other crate: ids, owners, money, callers, JSON bytes, personal fields,
//! times and pages. Values only; nothing here does anything.

mod caller;
mod id;
mod json;
mod money;
mod owner;
mod page;
mod personal;
mod plain;
mod sealed;
mod time;

pub use caller::{Caller, CallerKind, Scopes};
pub use id::{
    ActionId, AppId, BatchId, CallId, ExecutionId, GrantId, HoldId, IdError, KeyIdentifier,
    RequestId, SessionId, TaskId, TenantId, TransactionId, UserId, base32, spellings,
};
pub use id::{AgentId, ConfirmationId, InvitationId, PaymentId, RoleIdentifier, TokenId};
pub use json::{JsonBytes, JsonError};
pub use money::{AMOUNT_MAX, Amount, Credits, MoneyError, SharePercent};
pub use owner::{OwnerClass, home_of, owner_of_app, owner_of_tenant, owner_of_user, platform};
pub use page::{CURSOR_BYTES_MAX, Cursor, CursorError, Page};
pub use personal::Personal;
pub use plain::{PlainError, PlainText, check_line, check_lines};
pub use sealed::Sealed;
pub use time::{next_month, parse_rfc3339, plus_months, rfc3339};
