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
    let (name, owner_role) = ("Acme".to_owned(), OWNER_ROLE.to_owned());
    let create = Create { id: ACME, name, owner: ADA, owner_role, direct: false };
    let (role, rights) = (role.to_owned(), Scopes::all());
    let add = AddMember { user: BOB, role, rights, is_new: true };
    Given::nothing().when(create).then().when(add).then()
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
