//! Who belongs to a tenant: adding, changing, granting, removing, and noting who has been told.

use std::ops::Bound;

use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Origin, Refusal, System, Turn};
use types::{Scopes, TenantId, UserId};

use super::{
    Details, GrantsSet, MEMBERS_MAX, MemberRemoved, MemberSet, MemberTerms, Tenant, TenantEvent,
    record_telling,
};
use crate::role::{self, CONCURRENT_TASKS_DEFAULT, GRANTS_BYTES_MAX, check_scopes, check_within};
use crate::user::Membership;

/// How many members are told in one step.
pub(crate) const TELL_STEP: usize = 256;

/// A user who knows what they are since a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Who.
    pub user: UserId,
    /// The change's number.
    pub version: u64,
}

/// These users know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MembersTold {
    /// Which, since when.
    pub told: Vec<Told>,
}

/// What a user is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Untold {
    pub told: Told,
    /// The number of the change that made the user a member.
    pub since: u64,
    /// What the user is; `None` for no member.
    pub membership: Option<Membership>,
}

/// Whether somebody belongs to a tenant and is not switched off in it. To one that is not there, or
/// was erased, nobody does.
pub async fn is_member(
    system: &System,
    tenant: TenantId,
    user: UserId,
    origin: Origin,
) -> Result<bool, Refusal> {
    let look = move |tenant: &Tenant| Some(tenant.membership(user).is_some());
    let tenants = system.directory::<Tenant>();
    let found = tenants.look(&Tenant::address(tenant), origin, look).await;
    Ok(crate::unless_erased(found)?.unwrap_or_default())
}

impl Tenant {
    /// What a member is; `None` for no member, and for one who is switched off.
    pub fn membership(&self, user: UserId) -> Option<Membership> {
        self.member_terms(user).filter(|terms| terms.active).map(|terms| terms.membership)
    }

    /// What a member is, switched on or off; `None` for no member.
    pub fn member_terms(&self, user: UserId) -> Option<MemberTerms> {
        let details = self.details.as_ref()?;
        let (role, grants) = (details.members.get(&user)?, self.staff.grants.get(&user));
        Some(MemberTerms {
            membership: self.staff.membership(details.id, role, grants),
            active: !self.staff.inactive.contains(&user),
            attributes: self.staff.attributes.get(&user).cloned(),
        })
    }

    /// How many tasks a user may have that have not ended: who is no member none, and where there
    /// is no such tenant as many as a built-in role allows.
    pub fn concurrent_tasks_max(&self, user: UserId) -> u64 {
        let Some(details) = &self.details else { return CONCURRENT_TASKS_DEFAULT };
        let Some(role) = details.members.get(&user) else { return 0 };
        let own = self.staff.roles.get(role).map(|role| role.terms.max_concurrent_tasks);
        own.unwrap_or(CONCURRENT_TASKS_DEFAULT)
    }

    /// Those who are to be told, behind one of them: at most [`TELL_STEP`].
    pub(crate) fn untold(&self, after: Option<UserId>) -> Vec<Untold> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.staff.untold.range((from, Bound::Unbounded)).take(TELL_STEP);
        let untold = |(user, version): (&UserId, &u64)| Untold {
            told: Told { user: *user, version: *version },
            since: self.staff.joined.get(user).copied().unwrap_or_default(),
            membership: self.membership(*user),
        };
        next.map(untold).collect()
    }

    /// 403 unless `rights` cover what a member may do now.
    pub(super) fn check_over(&self, user: UserId, rights: &Scopes) -> Result<(), Refusal> {
        let present = self.member_terms(user);
        present.map_or(Ok(()), |present| check_within(&present.membership.scopes, rights))
    }

    /// 409 when a member cannot cease to be what they are.
    pub(super) fn check_movable(&self, user: UserId) -> Result<(), Refusal> {
        let details = self.existing()?;
        if details.direct && user.direct_tenant() == details.id {
            let message = "a user stays the owner of their own tenant";
            return Err(Refusal::conflict("own_tenant", message));
        }
        let is_other = |other: &UserId| *other != user && !self.staff.inactive.contains(other);
        let mut others = details.members.iter().filter(|(other, _)| is_other(other));
        let is_owner = details.members.get(&user).is_some_and(|role| role::is_owner(role));
        if is_owner && !others.any(|(_, role)| role::is_owner(role)) {
            let message = "the last owner stays; make somebody else an owner first";
            return Err(Refusal::conflict("last_owner", message));
        }
        Ok(())
    }
}

impl Details {
    pub(super) fn member(&self, user: UserId) -> Result<&str, Refusal> {
        let role = self.members.get(&user).map(String::as_str);
        role.ok_or_else(|| Refusal::not_found("member"))
    }

    /// 409 when there is no room for one more.
    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        let message = format!("a tenant has at most {MEMBERS_MAX} members");
        let has_room = self.members.len() < MEMBERS_MAX;
        has_room.then_some(()).ok_or_else(|| Refusal::conflict("too_many_members", message))
    }
}

/// Makes somebody a member (`is_new`), or gives a member another role. 404 without such a member,
/// 422 without such a role, 403 `beyond_own_rights`, 409 `last_owner`, `own_tenant` or
/// `too_many_members`.
pub struct AddMember {
    /// Who.
    pub user: UserId,
    /// The role.
    pub role: String,
    /// What whoever asks may do; nobody gives or takes more.
    pub rights: Scopes,
    /// Whether this makes a member. Who is one already stays as they are.
    pub is_new: bool,
}

impl Command for AddMember {
    const NAME: &'static str = "set_member";
}

impl Handle<AddMember> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: AddMember) -> Result<(), Refusal> {
        let AddMember { user, role, rights, is_new } = command;
        let state = turn.state();
        let details = state.existing()?;
        if is_new && !details.active {
            let message = "this tenant is switched off";
            return Err(Refusal::new(Class::Forbidden, "tenant_inactive", message));
        }
        match details.member(user) {
            Ok(known) if is_new || known == role => return Ok(()),
            Ok(_) => {}
            Err(missing) if !is_new => return Err(missing),
            Err(_) => details.check_room()?,
        }
        let covered = state.staff.covers(details.id, &role);
        let covered = covered.ok_or_else(|| Refusal::invalid("role", "there is no such role"))?;
        check_within(&covered, &rights)?;
        state.check_over(user, &rights)?;
        if !role::is_owner(&role) {
            state.check_movable(user)?;
        }
        let id = details.id;
        record_telling(turn, id, TenantEvent::MemberSet(MemberSet { user, role }));
        Ok(())
    }
}

/// Takes a member off the list. 404 for no member, 403 `beyond_own_rights`, 409 `last_owner` or
/// `own_tenant`.
pub struct RemoveMember {
    /// Who.
    pub user: UserId,
    /// What whoever asks may do; all for a member who leaves.
    pub rights: Scopes,
}

impl Command for RemoveMember {
    const NAME: &'static str = "remove_member";
    const ESSENTIAL: bool = true;
}

impl Handle<RemoveMember> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: RemoveMember) -> Result<(), Refusal> {
        let RemoveMember { user, rights } = command;
        let details = turn.state().existing()?;
        details.member(user)?;
        turn.state().check_over(user, &rights)?;
        turn.state().check_movable(user)?;
        let id = details.id;
        record_telling(turn, id, TenantEvent::MemberRemoved(MemberRemoved { user }));
        Ok(())
    }
}

/// Grants a member scopes beside the role, or takes grants back; answers the grants that there are
/// then. 404 for no member, 422 for an unknown scope, 403 `beyond_own_rights`.
pub struct SetGrants {
    /// Who.
    pub user: UserId,
    /// What to do.
    pub change: GrantChange,
    /// What whoever asks may do; nobody gives or takes more.
    pub rights: Scopes,
}

/// How grants change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantChange {
    /// These as well.
    Add(Scopes),
    /// Not these any more.
    Take(Scopes),
    /// These and no others.
    Set(Scopes),
}

impl Command for SetGrants {
    const NAME: &'static str = "set_grants";
}

impl Handle<SetGrants> for Tenant {
    type Reply = Scopes;

    fn handle(turn: &mut Turn<'_, Self>, command: SetGrants) -> Result<Scopes, Refusal> {
        let SetGrants { user, change, rights } = command;
        let details = turn.state().existing()?;
        details.member(user)?;
        let known = turn.state().staff.grants.get(&user).cloned().unwrap_or_default();
        let scopes = changed(&known, change);
        if scopes == known {
            return Ok(known);
        }
        check_grants(turn.state(), &known, &scopes, &rights)?;
        let id = details.id;
        let event = TenantEvent::GrantsSet(GrantsSet { user, scopes: scopes.clone() });
        record_telling(turn, id, event);
        Ok(scopes)
    }
}

/// Whether somebody with these rights may put one list of grants in the place of another.
pub(super) fn check_grants(
    tenant: &Tenant,
    known: &Scopes,
    new: &Scopes,
    rights: &Scopes,
) -> Result<(), Refusal> {
    check_scopes("scopes", new, GRANTS_BYTES_MAX, |scope| tenant.has_named(scope))?;
    let differs = |a: &Scopes, b: &Scopes| -> Scopes {
        a.as_slice().iter().filter(|scope| !b.as_slice().contains(scope)).cloned().collect()
    };
    check_within(&differs(new, known), rights)?;
    check_within(&differs(known, new), rights)
}

/// The grants after a change, each once.
pub(super) fn changed(known: &Scopes, change: GrantChange) -> Scopes {
    let (kept, added) = match change {
        GrantChange::Add(added) => (known.clone(), added),
        GrantChange::Take(taken) => {
            let is_kept = |scope: &&String| !taken.as_slice().contains(scope);
            (known.as_slice().iter().filter(is_kept).cloned().collect(), Scopes::default())
        }
        GrantChange::Set(all) => (Scopes::default(), all),
    };
    let mut scopes: Vec<String> = kept.as_slice().to_vec();
    for scope in added.as_slice() {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    scopes.into_iter().collect()
}

/// Notes who has been told.
pub(crate) struct NoteTold {
    pub told: Vec<Told>,
}

impl Command for NoteTold {
    const NAME: &'static str = "note_told";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteTold> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NoteTold) -> Result<(), Refusal> {
        let untold = &turn.state().staff.untold;
        let is_news = |told: &Told| untold.get(&told.user) == Some(&told.version);
        let told: Vec<_> = command.told.into_iter().filter(is_news).collect();
        if !told.is_empty() {
            turn.record(TenantEvent::MembersTold(MembersTold { told }));
        }
        Ok(())
    }
}
