//! Where a user stands in a tenant, as the tenant tells it, and what is over because of that.

use serde::{Deserialize, Serialize};
use supervision::{Command, Handle, Refusal, Turn};
use types::TenantId;

use super::{
    Account, MEMBERSHIPS_MAX, Membership, MembershipRemoved, MembershipSet, TokensRevoked, User,
    UserEvent, record,
};

/// Under which standing of its user something was made that outlives sessions, an API key: it
/// counts as long as neither number has been left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeUnder {
    /// The user's epoch.
    pub user_epoch: u64,
    /// The number of the tenant's change that the user knew of.
    pub membership: u64,
}

impl MadeUnder {
    /// Whether what was made under this counts where nothing from before `from` does.
    pub fn counts(self, from: Self) -> bool {
        self.user_epoch >= from.user_epoch && self.membership >= from.membership
    }
}

impl Account {
    /// What is made now is made under this.
    pub fn made_under(&self) -> MadeUnder {
        MadeUnder { user_epoch: self.epoch, membership: self.membership_epoch }
    }
}

/// What the user is in a tenant from its change of this number on. Older news than what is known is
/// no change; `too_many_memberships` refuses one tenant too many. Answers whether what was made for
/// the tenant before is over: the user is no member, or was none in between.
pub struct HearMembership {
    /// The tenant.
    pub tenant: TenantId,
    /// What the user is there; `None` for no member.
    pub membership: Option<Membership>,
    /// The number of the change with which the user became a member this time; 0 for who was one
    /// from the beginning.
    pub since: u64,
    /// The number of the tenant's change.
    pub version: u64,
}

impl Command for HearMembership {
    const NAME: &'static str = "hear_membership";
    const ESSENTIAL: bool = true;
}

impl Handle<HearMembership> for User {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: HearMembership) -> Result<bool, Refusal> {
        let HearMembership { tenant, membership, since, version } = command;
        let memberships = &turn.state().existing()?.memberships;
        let (told, left) = (&turn.state().told, turn.state().left.get(&tenant));
        let is_member = memberships.contains_key(&tenant);
        match told.get(&tenant) {
            Some(known) if version <= *known => {
                return Ok(membership.is_none() || left == Some(&since));
            }
            None if membership.is_some()
                && memberships.len().max(told.len()) >= MEMBERSHIPS_MAX =>
            {
                let message = format!("a user belongs to at most {MEMBERSHIPS_MAX} tenants");
                return Err(Refusal::conflict("too_many_memberships", message));
            }
            None if membership.is_none() && !is_member => return Ok(true),
            _ => {}
        }
        // News that came late: the user was removed and is back, and was told of neither.
        let known = told.get(&tenant).copied().unwrap_or_default();
        let came_back = membership.is_some() && is_member && known < since;
        if came_back {
            let removed = MembershipRemoved { tenant, version: since };
            turn.record(UserEvent::MembershipRemoved(removed));
        }
        let Some(membership) = membership else {
            turn.record(UserEvent::MembershipRemoved(MembershipRemoved { tenant, version }));
            return Ok(true);
        };
        turn.record(UserEvent::MembershipSet(MembershipSet { tenant, membership, version }));
        Ok(came_back)
    }
}

/// Ends every session that was opened under this [`User::sessions_from`]: repeated, it ends no
/// later one. Answers the epoch.
pub struct EndSessions {
    /// What it was.
    pub sessions_from: u64,
}

impl Command for EndSessions {
    const NAME: &'static str = "end_sessions";
    const ESSENTIAL: bool = true;
}

impl Handle<EndSessions> for User {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: EndSessions) -> Result<u64, Refusal> {
        turn.state().existing()?;
        if turn.state().sessions_from != command.sessions_from {
            return Ok(turn.state().epoch);
        }
        Ok(record(turn, UserEvent::TokensRevoked(TokensRevoked {})))
    }
}
