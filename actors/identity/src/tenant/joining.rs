//! Joining by invitation: whether what was offered may still be given, in the turn that gives it.
//!
//! A member's invitation is as good as what that member may do when it is accepted. An operator's
//! and a service's stand on the installation's word, as long as the operator is one.

use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Refusal, Turn};
use types::{RoleIdentifier, UserId};

use super::{MemberSet, Tenant, TenantEvent, record_telling};
use crate::role::check_within;

/// What somebody must cover who invites.
const INVITES: &str = "members:write";

/// On whose word somebody is invited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inviter {
    /// A member's, by their own rights.
    Member(UserId),
    /// An operator's.
    Operator(UserId),
    /// A service's.
    Service,
}

/// 410: nobody stands for this invitation any more.
pub(crate) fn void() -> Refusal {
    let message = "whoever invited may not give this role any more; ask for another invitation";
    Refusal::new(Class::Gone, "invitation_void", message)
}

/// Takes in a member who was invited. Who is one already stays as they are. 409 `role_gone` when
/// the role is no more or another one of the same name, 410 `invitation_void` when the inviting
/// member may not give it now, 409 `too_many_members`, 403 `tenant_inactive`.
pub struct Admit {
    /// Who.
    pub user: UserId,
    /// The role's name.
    pub role: String,
    /// The role's id, where it is one of the tenant's own.
    pub role_id: Option<RoleIdentifier>,
    /// On whose word. That an operator is one, the caller has checked.
    pub inviter: Inviter,
}

impl Command for Admit {
    const NAME: &'static str = "admit_member";
}

impl Handle<Admit> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Admit) -> Result<(), Refusal> {
        let Admit { user, role, role_id, inviter } = command;
        let state = turn.state();
        let details = state.existing()?;
        if !details.active {
            let message = "this tenant is switched off";
            return Err(Refusal::new(Class::Forbidden, "tenant_inactive", message));
        }
        if details.member(user).is_ok() {
            return Ok(());
        }
        details.check_room()?;
        let covered = state.staff.covers(details.id, &role);
        let is_same = state.staff.role_id(details.id, &role) == role_id;
        let covered = covered.filter(|_| is_same).ok_or_else(|| {
            let message = "the role of this invitation is no more; ask for another invitation";
            Refusal::conflict("role_gone", message)
        })?;
        if let Inviter::Member(by) = inviter {
            let rights = state.membership(by).ok_or_else(void)?.scopes;
            let may_invite = rights.covers(INVITES) && check_within(&covered, &rights).is_ok();
            may_invite.then_some(()).ok_or_else(void)?;
        }
        let id = details.id;
        record_telling(turn, id, TenantEvent::MemberSet(MemberSet { user, role }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;
    use types::Scopes;

    use super::super::fixtures::{ADA, BOB, acme_with, terms};
    use super::*;
    use crate::tenant::{self, ChangeMember, MemberChange, RemoveMember};

    const EVE: UserId = UserId(7);

    fn acme() -> Given<Tenant> {
        acme_with("admin")
    }

    fn by(inviter: Inviter, role: &str) -> Admit {
        Admit { user: EVE, role: role.to_owned(), role_id: None, inviter }
    }

    fn change(user: UserId, change: MemberChange) -> ChangeMember {
        ChangeMember { user, change, rights: Scopes::all() }
    }

    #[test]
    fn what_an_inviter_may_not_give_any_more_is_not_given() {
        let bobs = || by(Inviter::Member(BOB), "developer");
        assert_eq!(acme().when(bobs()).events.len(), 1);
        assert_eq!(acme().when(by(Inviter::Member(BOB), "owner")).refused().0, "invitation_void");
        let demoted = MemberChange { role: Some("user".to_owned()), ..MemberChange::default() };
        let off = MemberChange { active: Some(false), ..MemberChange::default() };
        for less in [demoted, off] {
            let given = acme().when(change(BOB, less)).then();
            let (code, given) = given.when(bobs()).refused();
            assert_eq!(code, "invitation_void");
            for inviter in [Inviter::Member(ADA), Inviter::Operator(BOB), Inviter::Service] {
                assert_eq!(given_again(&given).when(by(inviter, "developer")).events.len(), 1);
            }
        }
        let given = acme().when(RemoveMember { user: BOB, rights: Scopes::all() }).then();
        assert_eq!(given.when(bobs()).refused().0, "invitation_void");
    }

    /// The same state, to be asked something else.
    fn given_again(given: &Given<Tenant>) -> Given<Tenant> {
        let off = given.state().staff.inactive.contains(&BOB);
        let less = match off {
            true => MemberChange { active: Some(false), ..MemberChange::default() },
            false => MemberChange { role: Some("user".to_owned()), ..MemberChange::default() },
        };
        acme().when(change(BOB, less)).then()
    }

    #[test]
    fn a_role_of_the_same_name_is_another_role() {
        let clerk = |list: &[&str]| tenant::CreateRole {
            name: "clerk".to_owned(),
            terms: terms(list),
            rights: Scopes::all(),
        };
        let (role, given) = acme().when(clerk(&["wallet:read"])).reply();
        let as_clerk = |id| Admit { role_id: id, ..by(Inviter::Member(ADA), "clerk") };
        let end = tenant::RemoveRole { id: role.id, rights: Scopes::all() };
        let given = given.when(end).then();
        let (code, given) = given.when(as_clerk(Some(role.id))).refused();
        assert_eq!(code, "role_gone");
        let (wider, given) = given.when(clerk(&["wallet:*"])).reply();
        let (code, given) = given.when(as_clerk(Some(role.id))).refused();
        assert_eq!(code, "role_gone");
        let (code, given) = given.when(as_clerk(None)).refused();
        assert_eq!(code, "role_gone");
        assert_eq!(given.when(as_clerk(Some(wider.id))).events.len(), 1);
    }
}
