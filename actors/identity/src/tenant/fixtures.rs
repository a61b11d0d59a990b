//! What the tests of a tenant's commands begin with.

use serde_json::json;
use supervision::testkit::Given;
use types::{JsonBytes, Scopes, TenantId, UserId};

use super::{AddMember, Create, OWNER_ROLE, Tenant};
use crate::role::Terms;

/// The tenant.
pub(super) const ACME: TenantId = TenantId(50);
/// Its owner.
pub(super) const ADA: UserId = UserId(5);
/// Its other member.
pub(super) const BOB: UserId = UserId(6);

/// A tenant of Ada's, with Bob as a `user`.
pub(super) fn acme() -> Given<Tenant> {
    acme_with("user")
}

/// A tenant of Ada's, with Bob in a role.
pub(super) fn acme_with(role: &str) -> Given<Tenant> {
    with_bob(tenant(ACME, ADA), role)
}

/// A tenant of somebody's: their own, if it has their number.
pub(super) fn tenant(id: TenantId, owner: UserId) -> Given<Tenant> {
    let (name, owner_role) = ("Acme".to_owned(), OWNER_ROLE.to_owned());
    let direct = id == owner.direct_tenant();
    Given::nothing().when(Create { id, name, owner, owner_role, direct }).then()
}

/// The same tenant, with Bob in a role.
pub(super) fn with_bob(given: Given<Tenant>, role: &str) -> Given<Tenant> {
    let (role, rights) = (role.to_owned(), Scopes::all());
    given.when(AddMember { user: BOB, role, rights, is_new: true }).then()
}

/// The terms of a role with these scopes.
pub(super) fn terms(scopes: &[&str]) -> Terms {
    Terms {
        display_name: "Clerk".to_owned(),
        scopes: scopes.iter().copied().collect(),
        attributes: JsonBytes::from(json!({})),
        extensions: Vec::new(),
        confirmation_policy: "default_off".to_owned(),
        max_concurrent_tasks: 3,
        monthly_action_limit: 500,
        context_window: 20,
    }
}
