//! What a mail is made of. Stands in for the kind that sends it: a draft is noted in the log only.

use supervision::{Origin, Refusal, System};
use types::{TenantId, UserId};

use crate::claim::EmailAddress;

/// What a mail says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// Join a tenant.
    Invitation {
        /// The invitation, which the link is made of.
        invitation: u128,
        /// What the tenant is called.
        tenant_name: String,
        /// As what one would join.
        role: String,
    },
}

/// A mail to be sent.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The mail's id. The same id again is the same mail.
    pub id: u128,
    /// Under whose key the address is sealed.
    pub user: UserId,
    /// In whose chain it stands.
    pub home: TenantId,
    /// To whom.
    pub to: EmailAddress,
    /// What it says.
    pub letter: Letter,
}

/// Asks for a mail.
pub async fn send(_: &System, draft: Draft, _: Origin) -> Result<(), Refusal> {
    tracing::info!(?draft, "a mail");
    Ok(())
}
