//! Changing what a member is: role, grants, on or off, and what the tenant keeps of them, all of it
//! or nothing.

use supervision::{Command, Handle, Refusal, Turn};
use types::{JsonBytes, Personal, Scopes, UserId};

use super::members::check_grants;
use super::{
    ATTRIBUTES_LABEL, GrantsSet, MemberActiveSet, MemberAttributesSet, MemberSet, Tenant,
    TenantEffect, TenantEvent,
};
use crate::role::{self, check_within};

/// The longest attributes of one member, in bytes of their JSON text.
pub const MEMBER_ATTRIBUTES_BYTES_MAX: usize = 1_024;

/// What of a member changes; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct MemberChange {
    /// The name of the role.
    pub role: Option<String>,
    /// The grants beside the role, all of them.
    pub grants: Option<Scopes>,
    /// Whether they may do anything here. Who is switched off is signed out, and their keys end.
    pub active: Option<bool>,
    /// What the tenant keeps of them, a JSON object.
    pub attributes: Option<JsonBytes>,
}

/// Changes a member. 404 for none, 422 for a role, a scope or attributes that will not do, 403
/// `beyond_own_rights`, 409 `last_owner` or `own_tenant`.
pub struct ChangeMember {
    /// Who.
    pub user: UserId,
    /// What changes.
    pub change: MemberChange,
    /// What whoever asks may do; nobody gives or takes more, nor changes who may do more.
    pub rights: Scopes,
}

impl Command for ChangeMember {
    const NAME: &'static str = "change_member";
}

impl ChangeMember {
    /// What it comes to, if it may be.
    fn events(self, turn: &Turn<'_, Tenant>) -> Result<Vec<TenantEvent>, Refusal> {
        let Self { user, change, rights } = self;
        let MemberChange { role, grants, active, attributes } = change;
        let (state, mut events) = (turn.state(), Vec::new());
        let details = state.existing()?;
        let present = details.member(user)?;
        state.check_over(user, &rights)?;
        if let Some(role) = role.filter(|role| role != present) {
            let covered = state.staff.covers(details.id, &role);
            let missing = || Refusal::invalid("role", "there is no such role");
            check_within(&covered.ok_or_else(missing)?, &rights)?;
            if !role::is_owner(&role) {
                state.check_movable(user)?;
            }
            events.push(TenantEvent::MemberSet(MemberSet { user, role }));
        }
        let known = state.staff.grants.get(&user).cloned().unwrap_or_default();
        if let Some(scopes) = grants.filter(|grants| *grants != known) {
            check_grants(turn.state(), &known, &scopes, &rights)?;
            events.push(TenantEvent::GrantsSet(GrantsSet { user, scopes }));
        }
        let is_active = !state.staff.inactive.contains(&user);
        if let Some(active) = active.filter(|active| *active != is_active) {
            if !active {
                state.check_movable(user)?;
            }
            events.push(TenantEvent::MemberActiveSet(MemberActiveSet { user, active }));
        }
        if let Some(attributes) = attributes {
            let attributes = sealed(turn, user, &attributes)?;
            events.extend(attributes.map(|attributes| {
                TenantEvent::MemberAttributesSet(MemberAttributesSet { user, attributes })
            }));
        }
        Ok(events)
    }
}

/// The attributes as they are kept; `None` when they are known.
fn sealed(
    turn: &Turn<'_, Tenant>,
    user: UserId,
    attributes: &JsonBytes,
) -> Result<Option<Personal>, Refusal> {
    let text = attributes.as_str();
    if !text.starts_with('{') || text.len() > MEMBER_ATTRIBUTES_BYTES_MAX {
        let message = format!("must be an object of at most {MEMBER_ATTRIBUTES_BYTES_MAX} bytes");
        return Err(Refusal::invalid("attributes", message));
    }
    let known = turn.state().staff.attributes.get(&user);
    let known = known.and_then(|known| known.open(turn.keys(), ATTRIBUTES_LABEL));
    if known.as_deref().unwrap_or("{}") == text {
        return Ok(None);
    }
    Personal::seal(turn.keys(), user, ATTRIBUTES_LABEL, text).map(Some)
}

impl Handle<ChangeMember> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: ChangeMember) -> Result<(), Refusal> {
        let tenant = turn.state().existing()?.id;
        let events = command.events(turn)?;
        let is_news = |event: &TenantEvent| !matches!(event, TenantEvent::MemberAttributesSet(_));
        let tells = events.iter().any(is_news);
        events.into_iter().for_each(|event| turn.record(event));
        if tells {
            turn.effect(TenantEffect::TellMembers { tenant });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{ADA, BOB, acme};
    use super::*;

    fn change(user: UserId, change: MemberChange) -> ChangeMember {
        ChangeMember { user, change, rights: Scopes::all() }
    }

    #[test]
    fn who_is_switched_off_is_no_member_until_they_are_on_again() {
        let set = |active| MemberChange { active: Some(active), ..MemberChange::default() };
        let given = acme().when(change(BOB, set(false))).then();
        assert!(given.state().membership(BOB).is_none());
        assert!(!given.state().member_terms(BOB).unwrap().active);
        let untold = given.state().untold(None);
        let bob = untold.iter().find(|untold| untold.told.user == BOB).unwrap();
        assert!(bob.membership.is_none(), "the user is told as of one who has left");
        let then = given.when(change(BOB, set(false)));
        assert!(then.events.is_empty());
        let given = then.given.when(change(BOB, set(true))).then();
        let untold = given.state().untold(None);
        let bob = untold.iter().find(|untold| untold.told.user == BOB).unwrap();
        assert_eq!(bob.since, bob.told.version, "and as of one who has joined");
        assert_eq!(given.when(change(ADA, set(false))).refused().0, "last_owner");
    }

    #[test]
    fn all_of_a_change_or_nothing_of_it() {
        let whole = MemberChange {
            role: Some("viewer".to_owned()),
            grants: Some(Scopes::from_iter(["wallet:spend"])),
            active: None,
            attributes: Some(JsonBytes::from(json!({"team": "red"}))),
        };
        let unfit = MemberChange { attributes: Some(JsonBytes::from(json!([1]))), ..whole.clone() };
        let (code, given) = acme().when(change(BOB, unfit)).refused();
        assert_eq!(code, "validation_error");
        assert_eq!(given.state().membership(BOB).unwrap().role, "user");
        let then = given.when(change(BOB, whole.clone()));
        assert_eq!((then.events.len(), then.effects.len()), (3, 1));
        let shown = format!("{:?}", then.events);
        assert!(!shown.contains("red"), "{shown}");
        let then = then.given.when(change(BOB, whole));
        assert!(then.events.is_empty() && then.effects.is_empty(), "it is so already");
        let weak = ChangeMember {
            rights: Scopes::from_iter(["members:*"]),
            ..change(BOB, MemberChange { active: Some(false), ..MemberChange::default() })
        };
        assert_eq!(then.given.when(weak).refused().0, "beyond_own_rights");
    }
}
