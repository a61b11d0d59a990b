//! What a member's role allows beside what it covers.

use types::UserId;

use super::Tenant;
use crate::role;

impl Tenant {
    /// How many actions a month a member may do, by the role of the tenant's own that they have;
    /// `None`, without limit, for the roles that every tenant has and for who is no member.
    pub fn monthly_actions_max(&self, user: UserId) -> Option<u64> {
        let details = self.details.as_ref()?;
        let name = details.members.get(&user)?;
        let own = self.staff.roles.get(name);
        let own = own.filter(|_| role::built_in(name, details.id).is_none());
        own.map(|role| role.terms.monthly_action_limit)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use supervision::Timestamp;
    use types::{JsonBytes, RoleIdentifier, Scopes, TenantId};

    use super::super::Details;
    use super::*;
    use crate::role::{Role, Terms};

    #[test]
    fn only_a_role_of_the_tenants_own_has_a_limit() {
        let terms = Terms {
            display_name: String::new(),
            scopes: Scopes::default(),
            attributes: JsonBytes::from(serde_json::json!({})),
            extensions: Vec::new(),
            confirmation_policy: String::new(),
            max_concurrent_tasks: 1,
            monthly_action_limit: 40,
            context_window: 1,
        };
        let at = Timestamp(0);
        let (id, name) = (RoleIdentifier(1), "clerk".to_owned());
        let role = Role { id, name: name.clone(), created_at: at, terms };
        let (ada, bob) = (UserId(1), UserId(2));
        let members = [(ada, "owner".to_owned()), (bob, name.clone())];
        let details = Details {
            id: TenantId(9),
            name: String::new(),
            owner: ada,
            direct: false,
            active: true,
            members: BTreeMap::from(members),
            settings: JsonBytes::from(serde_json::json!({})),
            created_at: at,
            updated_at: at,
        };
        let mut tenant = Tenant { details: Some(details), ..Tenant::default() };
        tenant.staff.roles.insert(name, role);
        let allowed = [ada, bob, UserId(3)].map(|user| tenant.monthly_actions_max(user));
        assert_eq!(allowed, [None, Some(40), None]);
    }
}
