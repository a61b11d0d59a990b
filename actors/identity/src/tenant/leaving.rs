//! Leaving for good: a member who is erased, and all members of a tenant that is erased.
//!
//! Unlike [`RemoveMember`](super::RemoveMember) these need no rights: whoever erases has been
//! checked. What stays true is that a tenant with members has an owner.

use supervision::{Command, Handle, Refusal, Turn};
use types::{TenantId, UserId};

use super::{ActiveSet, MemberRemoved, Tenant, TenantEvent, record_revoking, record_telling, role};

/// How many members one turn takes off the list.
const DISSOLVED_PER_TURN: usize = 256;

/// How somebody leaves who is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// They are no member, or the tenant is none.
    Elsewhere,
    /// Others stay, with an owner.
    OthersStay,
    /// Nobody stays: the tenant is switched off.
    NobodyStays,
    /// It is their own, with nobody else in it: it is erased too.
    Own,
    /// Others would stay without an owner.
    OwnerNeeded,
    /// It is their own, and others are in it: those have to go first.
    OwnWithOthers,
}

impl Departure {
    /// Why somebody cannot go, if they cannot.
    pub fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::OwnerNeeded => Some("make somebody else an owner first"),
            Self::OwnWithOthers => Some("remove its other members first"),
            _ => None,
        }
    }
}

impl Tenant {
    /// How a user would leave now.
    pub fn departure(&self, user: UserId) -> Departure {
        let Some(details) = &self.details else { return Departure::Elsewhere };
        let Some(own_role) = details.members.get(&user) else { return Departure::Elsewhere };
        let others = || details.members.iter().filter(|(member, _)| **member != user);
        let is_own = details.direct && user.direct_tenant() == details.id;
        let has_others = others().next().is_some();
        let is_needed = role::is_owner(own_role) && !others().any(|(_, it)| role::is_owner(it));
        match (is_own, has_others) {
            (true, true) => Departure::OwnWithOthers,
            (true, false) => Departure::Own,
            // There is always an operator.
            (false, false) if details.id == TenantId::SYSTEM => Departure::OwnerNeeded,
            (false, false) => Departure::NobodyStays,
            (false, true) if is_needed => Departure::OwnerNeeded,
            (false, true) => Departure::OthersStay,
        }
    }
}

/// Takes a member off the list who is erased, unless the tenant is their own: that goes as a whole.
/// 409 `last_owner` when others would stay without an owner. Answers how it was, and the epoch.
pub struct Depart {
    /// Who.
    pub user: UserId,
}

impl Command for Depart {
    const NAME: &'static str = "depart";
    const ESSENTIAL: bool = true;
}

impl Handle<Depart> for Tenant {
    type Reply = (Departure, u64);

    fn handle(turn: &mut Turn<'_, Self>, command: Depart) -> Result<(Departure, u64), Refusal> {
        let user = command.user;
        let departure = turn.state().departure(user);
        if let Some(obstacle) = departure.obstacle() {
            return Err(Refusal::conflict("last_owner", obstacle));
        }
        let (Departure::OthersStay | Departure::NobodyStays, Ok(details)) =
            (departure, turn.state().existing())
        else {
            return Ok((departure, turn.state().epoch));
        };
        let (id, active) = (details.id, details.active);
        if departure == Departure::NobodyStays && active {
            record_revoking(turn, id, TenantEvent::ActiveSet(ActiveSet { active: false }));
        }
        record_telling(turn, id, TenantEvent::MemberRemoved(MemberRemoved { user }));
        Ok((departure, turn.state().epoch))
    }
}

/// Takes members of a tenant that is switched off from the list, the first ones, whoever they are.
/// 409 `active` while it is on. Answers how many are left.
pub struct Dissolve {}

impl Command for Dissolve {
    const NAME: &'static str = "dissolve";
    const ESSENTIAL: bool = true;
}

impl Handle<Dissolve> for Tenant {
    type Reply = usize;

    fn handle(turn: &mut Turn<'_, Self>, _: Dissolve) -> Result<usize, Refusal> {
        let details = turn.state().existing()?;
        if details.active {
            return Err(Refusal::conflict("active", "switch the tenant off first"));
        }
        let id = details.id;
        let members: Vec<UserId> =
            details.members.keys().take(DISSOLVED_PER_TURN).copied().collect();
        let left = details.members.len() - members.len();
        for user in members {
            record_telling(turn, id, TenantEvent::MemberRemoved(MemberRemoved { user }));
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::super::fixtures::{ACME, ADA, acme_with, tenant, with_bob};
    use super::super::{SetActive, TenantEffect};
    use super::*;

    #[test]
    fn whoever_is_erased_leaves_unless_others_would_stay_without_an_owner() {
        let depart = |given: Given<Tenant>| given.when(Depart { user: ADA });
        assert_eq!(depart(acme_with("viewer")).refused().0, "last_owner");
        let own = with_bob(tenant(ADA.direct_tenant(), ADA), "owner");
        assert_eq!(depart(own).refused().0, "last_owner");
        let then = depart(acme_with("owner"));
        assert_eq!(then.outcome, Ok((Departure::OthersStay, 0)));
        let then = depart(then.given);
        assert_eq!(then.outcome, Ok((Departure::Elsewhere, 0)));
        assert!(then.events.is_empty());
        let then = depart(tenant(ADA.direct_tenant(), ADA));
        assert_eq!((then.outcome, then.events.len()), (Ok((Departure::Own, 0)), 0));
        let then = depart(tenant(ACME, ADA));
        assert_eq!(then.outcome, Ok((Departure::NobodyStays, 1)));
        assert!(then.effects.contains(&TenantEffect::RaiseEpoch { tenant: ACME, epoch: 1 }));
        assert!(!then.given.state().is_active(), "nobody is left to switch it on");
        assert_eq!(depart(tenant(TenantId::SYSTEM, ADA)).refused().0, "last_owner");
    }

    #[test]
    fn a_tenant_is_dissolved_once_it_is_off() {
        let given = acme_with("viewer");
        let (code, given) = given.when(Dissolve {}).refused();
        assert_eq!(code, "active");
        let given = given.when(SetActive { active: false }).then();
        let then = given.when(Dissolve {});
        assert_eq!((then.outcome, then.events.len()), (Ok(0), 2));
        assert_eq!(then.given.state().untold(None).len(), 2, "both are told");
        assert!(then.given.when(Dissolve {}).events.is_empty());
    }
}
