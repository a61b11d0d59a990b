//! What a tenant keeps of its members beside their roles: grants, roles of its own, and whom it has
//! not told yet.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use supervision::{Backoff, Retry, Timestamp};
use types::{Personal, RoleIdentifier, Scopes, TenantId, UserId};

use super::{Details, OwnScope, TenantEvent};
use crate::role::{self, Role};
use crate::user::Membership;

/// See the module's head.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Staff {
    /// The roles of its own, by name.
    pub roles: BTreeMap<String, Role>,
    /// What members were granted beside their roles; nobody with nothing.
    pub grants: BTreeMap<UserId, Scopes>,
    /// The number of the latest change of a member.
    pub version: u64,
    /// Whose user does not know of the change of this number yet.
    pub untold: BTreeMap<UserId, u64>,
    /// When they are told again.
    pub retry: Retry,
    /// The number of the change that made each member one; nobody who was from the beginning.
    pub joined: BTreeMap<UserId, u64>,
    /// Who is switched off.
    pub inactive: BTreeSet<UserId>,
    /// What is kept of members; see [`super::MemberAttributesSet`].
    pub attributes: BTreeMap<UserId, Personal>,
    /// The scopes that it has named, by name.
    pub scopes: BTreeMap<String, OwnScope>,
}

/// What a member is, switched on or off.
#[derive(Clone, Debug)]
pub struct MemberTerms {
    /// The role and what it covers with the grants.
    pub membership: Membership,
    /// Whether they may do anything here.
    pub active: bool,
    /// See [`super::MemberAttributesSet`].
    pub attributes: Option<Personal>,
}

impl Staff {
    /// What a role covers; `None` when there is none of this name.
    pub fn covers(&self, tenant: TenantId, role: &str) -> Option<Scopes> {
        let own = || self.roles.get(role).map(|role| role.terms.scopes.clone());
        role::built_in(role, tenant).or_else(own)
    }

    /// The id of a role of its own; `None` for a built-in one, and where there is none.
    pub fn role_id(&self, tenant: TenantId, role: &str) -> Option<RoleIdentifier> {
        let own = self.roles.get(role).filter(|_| role::built_in(role, tenant).is_none());
        own.map(|role| role.id)
    }

    /// What somebody with this role and these grants is.
    pub fn membership(&self, tenant: TenantId, role: &str, grants: Option<&Scopes>) -> Membership {
        let covered = self.covers(tenant, role).unwrap_or_default();
        let beside = grants.map(Scopes::as_slice).unwrap_or_default().iter();
        let beside = beside.filter(|scope| !covered.as_slice().contains(scope));
        let scopes = covered.as_slice().iter().chain(beside).cloned().collect();
        Membership { role: role.to_owned(), scopes }
    }

    fn changed(&mut self, user: UserId, at: Timestamp) {
        self.version += 1;
        self.untold.insert(user, self.version);
        self.retry = Retry::begin(at, Backoff::USUAL);
    }

    /// Takes an event in. `details` are those before it.
    pub(super) fn apply(&mut self, details: Option<&Details>, event: &TenantEvent, at: Timestamp) {
        match event {
            TenantEvent::MemberSet(it) => {
                self.changed(it.user, at);
                if details.is_none_or(|details| !details.members.contains_key(&it.user)) {
                    self.joined.insert(it.user, self.version);
                }
            }
            TenantEvent::MemberRemoved(it) => {
                self.grants.remove(&it.user);
                self.joined.remove(&it.user);
                self.inactive.remove(&it.user);
                self.attributes.remove(&it.user);
                self.changed(it.user, at);
            }
            TenantEvent::MemberActiveSet(it) => {
                self.changed(it.user, at);
                if it.active {
                    self.inactive.remove(&it.user);
                    self.joined.insert(it.user, self.version);
                } else {
                    self.inactive.insert(it.user);
                }
            }
            TenantEvent::MemberAttributesSet(it) => {
                self.attributes.insert(it.user, it.attributes.clone());
            }
            TenantEvent::GrantsSet(it) => {
                self.grants.insert(it.user, it.scopes.clone());
                if it.scopes.as_slice().is_empty() {
                    self.grants.remove(&it.user);
                }
                self.changed(it.user, at);
            }
            TenantEvent::RoleSet(it) => {
                self.roles.insert(it.role.name.clone(), it.role.clone());
            }
            TenantEvent::RoleRemoved(it) => {
                self.roles.remove(&it.name);
            }
            TenantEvent::ScopeSet(it) => {
                self.scopes.insert(it.scope.name(), it.scope.clone());
            }
            TenantEvent::ScopeRemoved(it) => {
                self.scopes.remove(&it.name);
            }
            TenantEvent::RoleCascaded(it) => {
                let members = details.into_iter().flat_map(|details| &details.members);
                for (user, _) in members.filter(|(_, role)| **role == it.name) {
                    self.changed(*user, at);
                }
            }
            TenantEvent::MembersTold(it) => {
                let is_known = |user: &UserId, version: &u64| {
                    it.told.iter().any(|told| told.user == *user && told.version == *version)
                };
                self.untold.retain(|user, version| !is_known(user, version));
            }
            TenantEvent::TellingRetried(_) => self.retry.again(at, Backoff::USUAL),
            TenantEvent::Created(_)
            | TenantEvent::Updated(_)
            | TenantEvent::ActiveSet(_)
            | TenantEvent::TokensRevoked(_) => {}
        }
    }
}
