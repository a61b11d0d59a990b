//! Who owns an entity, as the journal names owners: a class and a number. Everything of one owner
//! is in one shard.

use supervision::{Home, OwnerKey};

use crate::id::{AppId, TenantId, UserId};

/// What kind of owner. The numbers are stored: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OwnerClass {
    /// The installation itself.
    Platform = 0,
    /// A tenant.
    Tenant = 1,
    /// A user.
    User = 2,
    /// An app.
    App = 3,
}

fn owner(class: OwnerClass, id: u128) -> OwnerKey {
    OwnerKey { class: class as u8, id }
}

/// The installation, as an owner.
pub fn platform() -> OwnerKey {
    owner(OwnerClass::Platform, 0)
}

/// A tenant, as an owner.
pub fn owner_of_tenant(tenant: TenantId) -> OwnerKey {
    owner(OwnerClass::Tenant, tenant.0)
}

/// A user, as an owner.
pub fn owner_of_user(user: UserId) -> OwnerKey {
    owner(OwnerClass::User, user.0)
}

/// An app, as an owner.
pub fn owner_of_app(app: &AppId) -> OwnerKey {
    owner(OwnerClass::App, app.owner_number())
}

/// The home of what belongs to a tenant: its chain, its key.
pub fn home_of(tenant: TenantId) -> Home {
    Home(tenant.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_different_classes_differ_and_the_system_tenant_is_the_platforms_home() {
        let app = AppId::new("notes").unwrap();
        let owners = [
            platform(),
            owner_of_tenant(TenantId(5)),
            owner_of_user(UserId(5)),
            owner_of_app(&app),
        ];
        let classes: Vec<_> = owners.iter().map(|owner| owner.class).collect();
        assert_eq!(classes, [0, 1, 2, 3]);
        assert_eq!(home_of(TenantId::SYSTEM), Home(0));
    }
}
