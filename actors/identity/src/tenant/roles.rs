//! The roles that a tenant makes of its own.

use supervision::{Command, Handle, Refusal, Turn};
use types::{JsonBytes, RoleIdentifier, Scopes};

use super::{ROLES_MAX, RoleCascaded, RoleRemoved, RoleSet, Tenant, TenantEvent, record_telling};
use crate::role::{self, Role, Terms, check_name, check_within};

/// Makes a role. 409 `role_exists` for a name that is taken, 422 for a name, a scope or a text that
/// does not fit, 403 `beyond_own_rights`, 409 `too_many_roles`. Answers the role.
pub struct CreateRole {
    /// Its name.
    pub name: String,
    /// What it says.
    pub terms: Terms,
    /// What whoever asks may do; nobody makes a wider role.
    pub rights: Scopes,
}

impl Command for CreateRole {
    const NAME: &'static str = "create_role";
}

impl Handle<CreateRole> for Tenant {
    type Reply = Role;

    fn handle(turn: &mut Turn<'_, Self>, command: CreateRole) -> Result<Role, Refusal> {
        let CreateRole { name, terms, rights } = command;
        check_name(&name)?;
        terms.check(|scope| turn.state().has_named(scope))?;
        check_within(&terms.scopes, &rights)?;
        let tenant = turn.state().existing()?.id;
        let roles = &turn.state().staff.roles;
        if name == role::OPERATOR_ROLE || turn.state().staff.covers(tenant, &name).is_some() {
            let message = "there is a role of this name already";
            return Err(Refusal::conflict("role_exists", message));
        }
        if roles.len() >= ROLES_MAX {
            let message = format!("a tenant has at most {ROLES_MAX} roles of its own");
            return Err(Refusal::conflict("too_many_roles", message));
        }
        let (id, created_at) = (RoleIdentifier(turn.new_id()), turn.now());
        let role = Role { id, name, created_at, terms };
        turn.record(TenantEvent::RoleSet(RoleSet { role: role.clone() }));
        Ok(role)
    }
}

impl Tenant {
    /// The role of its own with this id.
    pub fn role(&self, id: RoleIdentifier) -> Option<&Role> {
        self.staff.roles.values().find(|role| role.id == id)
    }

    fn existing_role(&self, id: RoleIdentifier) -> Result<&Role, Refusal> {
        self.existing()?;
        self.role(id).ok_or_else(|| Refusal::not_found("role"))
    }

    fn members_with(&self, role: &str) -> usize {
        let members = self.details.iter().flat_map(|details| details.members.values());
        members.filter(|known| *known == role).count()
    }
}

/// What of a role changes; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct RoleChange {
    /// What people read.
    pub display_name: Option<String>,
    /// What it covers.
    pub scopes: Option<Scopes>,
    /// Free attributes, a JSON object.
    pub attributes: Option<JsonBytes>,
    /// Extensions that its members begin with.
    pub extensions: Option<Vec<String>>,
    /// The confirmation policy that its members begin with.
    pub confirmation_policy: Option<String>,
    /// How many tasks a member may have running.
    pub max_concurrent_tasks: Option<u64>,
    /// How many actions a member may do a month.
    pub monthly_action_limit: Option<u64>,
    /// How many messages a conversation remembers.
    pub context_window: Option<u64>,
}

impl RoleChange {
    fn on(self, terms: &Terms) -> Terms {
        let terms = terms.clone();
        Terms {
            display_name: self.display_name.unwrap_or(terms.display_name),
            scopes: self.scopes.unwrap_or(terms.scopes),
            attributes: self.attributes.unwrap_or(terms.attributes),
            extensions: self.extensions.unwrap_or(terms.extensions),
            confirmation_policy: self.confirmation_policy.unwrap_or(terms.confirmation_policy),
            max_concurrent_tasks: self.max_concurrent_tasks.unwrap_or(terms.max_concurrent_tasks),
            monthly_action_limit: self.monthly_action_limit.unwrap_or(terms.monthly_action_limit),
            context_window: self.context_window.unwrap_or(terms.context_window),
        }
    }
}

/// Changes a role; with `cascade` it counts for its members at once, otherwise from each one's next
/// change on. 404 for none of the tenant's own, 422 and 403 as for [`CreateRole`], where a role
/// that is wider than the asker's own rights is not changed either.
pub struct UpdateRole {
    /// Which.
    pub id: RoleIdentifier,
    /// What changes.
    pub change: RoleChange,
    /// Whether it counts for its members at once.
    pub cascade: bool,
    /// What whoever asks may do.
    pub rights: Scopes,
}

/// A role as it is after a change.
#[derive(Clone, Debug, PartialEq)]
pub struct CascadedRole {
    /// The role.
    pub role: Role,
    /// For how many members it counts at once.
    pub cascaded_count: usize,
}

impl Command for UpdateRole {
    const NAME: &'static str = "update_role";
}

impl Handle<UpdateRole> for Tenant {
    type Reply = CascadedRole;

    fn handle(turn: &mut Turn<'_, Self>, command: UpdateRole) -> Result<CascadedRole, Refusal> {
        let UpdateRole { id, change, cascade, rights } = command;
        let known = turn.state().existing_role(id)?.clone();
        let terms = change.on(&known.terms);
        terms.check(|scope| turn.state().has_named(scope))?;
        check_within(&known.terms.scopes, &rights)?;
        check_within(&terms.scopes, &rights)?;
        let tenant = turn.state().existing()?.id;
        let role = Role { terms, ..known.clone() };
        let cascaded_count = if cascade { turn.state().members_with(&role.name) } else { 0 };
        if role != known {
            turn.record(TenantEvent::RoleSet(RoleSet { role: role.clone() }));
        }
        if cascaded_count > 0 {
            let name = role.name.clone();
            record_telling(turn, tenant, TenantEvent::RoleCascaded(RoleCascaded { name }));
        }
        Ok(CascadedRole { role, cascaded_count })
    }
}

/// Ends a role. 404 for none of the tenant's own, 409 `role_in_use` while members have it, 403
/// `beyond_own_rights`.
pub struct RemoveRole {
    /// Which.
    pub id: RoleIdentifier,
    /// What whoever asks may do.
    pub rights: Scopes,
}

impl Command for RemoveRole {
    const NAME: &'static str = "remove_role";
}

impl Handle<RemoveRole> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: RemoveRole) -> Result<(), Refusal> {
        let RemoveRole { id, rights } = command;
        let role = turn.state().existing_role(id)?;
        check_within(&role.terms.scopes, &rights)?;
        let members = turn.state().members_with(&role.name);
        if members > 0 {
            let message = format!("{members} members have this role; give them another first");
            let facts = serde_json::json!({"members": members});
            return Err(Refusal::conflict("role_in_use", message).with_facts(&facts));
        }
        let name = role.name.clone();
        turn.record(TenantEvent::RoleRemoved(RoleRemoved { name }));
        Ok(())
    }
}
