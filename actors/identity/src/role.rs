//! Roles and scopes: what a member of a tenant may do, and by which name.
//!
//! A role is a name for scopes. Some are built in and the same everywhere; a tenant makes others of
//! its own ([`crate::tenant`]). What a member may do is the role's scopes and the grants beside it,
//! and is checked in one place, [`Scopes::covers`].
//!
//! Invariants
//! - A scope that a role or a grant holds is one of [`SCOPES`], an app's (`APP:read`), one that its
//!   tenant has named ([`crate::tenant::OwnScope`]), or a pattern over such (`wallet:*`, `*`). The
//!   operators' scope is none of them.
//! - No role is made or given by somebody whose own rights do not cover all of it.
//!
//! Deliberate limits
//! - A role's name never changes: members and invitations refer to it.
//! - Whether an app of that id exists is not asked; a scope for none covers nothing.

use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal, Timestamp};
use types::{AppId, JsonBytes, RoleIdentifier, Scopes, TenantId};

use crate::confirmation_policy::RolePolicy;

/// The role of whoever owns a tenant.
pub const OWNER_ROLE: &str = "owner";
/// The role of an operator, in the system tenant alone.
pub const OPERATOR_ROLE: &str = "operator";
/// The most bytes of a role's scopes together, so that they fit into a token.
pub const ROLE_SCOPES_BYTES_MAX: usize = 2_048;
/// The most bytes of one member's grants together.
pub const GRANTS_BYTES_MAX: usize = 1_024;
/// The longest name of a role, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// The longest text of any other kind in a role, in characters.
pub const TEXT_CHARS_MAX: usize = 255;
/// The most extensions that a role may name.
pub const EXTENSIONS_MAX: usize = 100;
/// The longest attributes of a role, in bytes of their JSON text.
pub const ATTRIBUTES_BYTES_MAX: usize = 8_192;
/// The largest of a role's numbers.
pub const NUMBER_MAX: u64 = 1_000_000_000;
/// How many tasks somebody with a built-in role may have that have not ended.
pub const CONCURRENT_TASKS_DEFAULT: u64 = 3;
/// What a function of an app may do, behind the app's id in a scope.
const APP_ACTIONS: &[&str] = &["read", "write", "destructive", "*"];

/// A scope that this server asks for somewhere.
#[derive(Debug)]
pub struct KnownScope {
    /// The scope, `resource:action`.
    pub name: &'static str,
    /// What it allows.
    pub description: &'static str,
}

const fn scope(name: &'static str, description: &'static str) -> KnownScope {
    KnownScope { name, description }
}

/// The scopes there are, beside those of apps.
pub const SCOPES: &[KnownScope] = &[
    scope("agents:read", "See the agents and look into their tokens"),
    scope("agents:write", "Make, change and revoke agents, and ask for their tokens"),
    scope("audit:read", "Read the tenant's audit log, and every member's actions"),
    scope("extensions:read", "Call functions of every app that only read"),
    scope("extensions:write", "Call functions of every app that write"),
    scope("extensions:destructive", "Call functions of every app that remove"),
    scope("extensions:install", "Make and revoke install keys of apps"),
    scope("keys:read", "See the API keys"),
    scope("keys:write", "Make and delete API keys"),
    scope("members:read", "See the members of the tenant and its invitations"),
    scope("members:write", "Invite and remove members, and give roles and grants"),
    scope("roles:write", "Make, change and delete the tenant's roles"),
    scope("sessions:read", "See where one is signed in"),
    scope("sessions:write", "End sessions"),
    scope("tenants:write", "Change the tenant's name and settings"),
    scope("tenants:delete", "Switch the tenant off"),
    scope("wallet:limits", "Set what may be spent, by whom and on what"),
    scope("wallet:pay", "Buy credits, and keep payment methods"),
    scope("wallet:plan", "Choose the plan, change it and end it"),
    scope("wallet:read", "See the wallet, its holds and its ledger"),
    scope("wallet:spend", "Spend and hold credits"),
];

/// A role that every tenant has.
#[derive(Debug)]
pub struct BuiltIn {
    /// The name, which is its id too.
    pub name: &'static str,
    /// What people read.
    pub display_name: &'static str,
    /// What it covers.
    pub scopes: &'static [&'static str],
}

const MEMBER: &[&str] = &["extensions:*", "members:read", "wallet:read", "wallet:spend"];

/// The roles that every tenant has, the widest first.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn { name: OWNER_ROLE, display_name: "Owner", scopes: &["*"] },
    BuiltIn {
        name: "admin",
        display_name: "Administrator",
        scopes: &[
            "agents:*",
            "audit:read",
            "developer:*",
            "extensions:*",
            "keys:*",
            "members:*",
            "roles:*",
            "tenants:write",
            "wallet:*",
        ],
    },
    BuiltIn {
        name: "developer",
        display_name: "Developer",
        scopes: &[
            "developer:*",
            "extensions:*",
            "keys:*",
            "members:read",
            "wallet:read",
            "wallet:spend",
        ],
    },
    BuiltIn { name: "user", display_name: "Member", scopes: MEMBER },
    BuiltIn {
        name: "viewer",
        display_name: "Viewer",
        scopes: &["extensions:read", "members:read", "wallet:read"],
    },
];

/// What a built-in role covers in a tenant; `None` for no such role.
pub fn built_in(name: &str, tenant: TenantId) -> Option<Scopes> {
    if name == OPERATOR_ROLE {
        let is_system = tenant == TenantId::SYSTEM;
        return is_system.then(|| Scopes::from_iter([OPERATOR_ROLE]));
    }
    let role = BUILT_IN.iter().find(|role| role.name == name)?;
    Some(role.scopes.iter().copied().collect())
}

/// Whether somebody with this role can do everything in a tenant.
pub fn is_owner(role: &str) -> bool {
    role == OWNER_ROLE || role == OPERATOR_ROLE
}

/// A tenant's own role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// The id.
    pub id: RoleIdentifier,
    /// The name, which members refer to.
    pub name: String,
    /// Since when.
    pub created_at: Timestamp,
    /// All that may change.
    pub terms: Terms,
}

/// What a role says. What is no scope is kept for the platform's clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// What people read.
    pub display_name: String,
    /// What it covers.
    pub scopes: Scopes,
    /// Free attributes, a JSON object.
    pub attributes: JsonBytes,
    /// Extensions that its members begin with.
    pub extensions: Vec<String>,
    /// When its members' calls wait for them: see [`RolePolicy`].
    pub confirmation_policy: String,
    /// How many tasks a member may have running.
    pub max_concurrent_tasks: u64,
    /// How many actions a member may do a month.
    pub monthly_action_limit: u64,
    /// How many messages a conversation remembers.
    pub context_window: u64,
}

impl Terms {
    /// 422, naming what is wrong. `is_own` tells the scopes that the tenant has named.
    pub fn check(&self, is_own: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        check_scopes("default_scopes", &self.scopes, ROLE_SCOPES_BYTES_MAX, is_own)?;
        RolePolicy::check(&self.confirmation_policy)?;
        let texts = [("display_name", &self.display_name)].into_iter();
        let texts = texts.chain(self.extensions.iter().map(|it| ("extensions", it)));
        for (field, text) in texts {
            if text.chars().take(TEXT_CHARS_MAX + 1).count() > TEXT_CHARS_MAX {
                let message = format!("has more than {TEXT_CHARS_MAX} characters");
                return Err(Refusal::invalid(field, message));
            }
        }
        if self.extensions.len() > EXTENSIONS_MAX {
            let message = format!("names more than {EXTENSIONS_MAX}");
            return Err(Refusal::invalid("default_extensions", message));
        }
        let attributes = self.attributes.as_str();
        if !attributes.starts_with('{') || attributes.len() > ATTRIBUTES_BYTES_MAX {
            let message = format!("must be an object of at most {ATTRIBUTES_BYTES_MAX} bytes");
            return Err(Refusal::invalid("default_attributes", message));
        }
        let numbers = [
            ("max_concurrent_tasks", self.max_concurrent_tasks),
            ("monthly_action_limit", self.monthly_action_limit),
            ("context_window", self.context_window),
        ];
        match numbers.iter().find(|(_, number)| *number > NUMBER_MAX) {
            Some((field, _)) => Err(Refusal::invalid(field, format!("is more than {NUMBER_MAX}"))),
            None => Ok(()),
        }
    }
}

/// 422 unless `name` can be a role's.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    let message = format!("must be 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _, a letter first");
    fits.then_some(()).ok_or_else(|| Refusal::invalid("name", message))
}

/// 422 unless every scope is known, or the tenant's own as `is_own` tells, and they are short
/// enough together. `field` is what the client called them.
pub fn check_scopes(
    field: &str,
    scopes: &Scopes,
    bytes_max: usize,
    is_own: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let scopes = scopes.as_slice();
    if scopes.iter().map(|scope| scope.len() + 1).sum::<usize>() > bytes_max {
        return Err(Refusal::invalid(field, format!("has more than {bytes_max} bytes together")));
    }
    match scopes.iter().find(|scope| !is_known(scope) && !is_own(scope)) {
        Some(scope) => Err(Refusal::invalid(field, format!("{scope:?} is no known scope"))),
        None => Ok(()),
    }
}

/// Whether `text` is a scope that a role, a grant or a key may hold.
pub fn is_known(text: &str) -> bool {
    let text = text.replacen('.', ":", 1);
    let Some((resource, action)) = text.split_once(':') else { return text == "*" };
    if SCOPES.iter().any(|known| known.name == text) {
        return true;
    }
    if AppId::new(resource).is_err() {
        return false;
    }
    if is_of_an_app(resource) { APP_ACTIONS.contains(&action) } else { action == "*" }
}

/// Whether a scope's resource is an app's id: none that this server asks for, or may come to.
fn is_of_an_app(resource: &str) -> bool {
    let families = SCOPES.iter().map(|known| known.name);
    let of_roles = BUILT_IN.iter().flat_map(|role| role.scopes.iter().copied());
    let is_it = |known: &str| known.split_once(':').is_some_and(|(family, _)| family == resource);
    AppId::new(resource).is_ok() && !families.chain(of_roles).any(is_it)
}

/// Whether scopes of this resource are for tenants to name.
pub fn is_free_resource(resource: &str) -> bool {
    is_of_an_app(resource)
}

/// Whether `rights` cover `scope`: an app's is covered by the same of every app too.
fn is_within(scope: &str, rights: &Scopes) -> bool {
    let of_every_app = || {
        let scope = scope.replacen('.', ":", 1);
        let (resource, action) = scope.split_once(':')?;
        is_of_an_app(resource).then(|| rights.covers(&format!("extensions:{action}")))
    };
    rights.covers(scope) || of_every_app().unwrap_or_default()
}

/// 403 unless `rights` cover all of `scopes`.
pub fn check_within(scopes: &Scopes, rights: &Scopes) -> Result<(), Refusal> {
    let Some(beyond) = scopes.as_slice().iter().find(|scope| !is_within(scope, rights)) else {
        return Ok(());
    };
    let message = format!("this needs {beyond}, which your own rights do not cover");
    let facts = serde_json::json!({"scope": beyond});
    Err(Refusal::new(Class::Forbidden, "beyond_own_rights", message).with_facts(&facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_known_or_an_apps() {
        for known in ["*", "wallet:spend", "wallet.spend", "wallet:*", "notes:read", "my-app:*"] {
            assert!(is_known(known), "{known}");
        }
        for unknown in ["", "operator", "wallet", "wallet:steal", "x:read", "notes:fly", "a:b:c"] {
            assert!(!is_known(unknown), "{unknown}");
        }
        for role in BUILT_IN {
            assert!(role.scopes.iter().all(|scope| is_known(scope)), "{}", role.name);
        }
    }

    #[test]
    fn a_built_in_role_is_within_those_before_it_and_operators_are_of_the_system_alone() {
        let scopes = |name| built_in(name, TenantId(1));
        let [owner, admin, user] = ["owner", "admin", "user"].map(|name| scopes(name).unwrap());
        assert!(check_within(&admin, &owner).is_ok() && check_within(&user, &admin).is_ok());
        assert_eq!(check_within(&owner, &admin).unwrap_err().code, "beyond_own_rights");
        let one_app = Scopes::from_iter(["notes:read", "notes.write"]);
        assert!(check_within(&one_app, &admin).is_ok(), "every app is more than one");
        let viewer = scopes("viewer").unwrap();
        assert!(check_within(&one_app, &viewer).is_err() && check_within(&user, &viewer).is_err());
        assert!(scopes(OPERATOR_ROLE).is_none() && scopes("nobody").is_none());
        assert!(built_in(OPERATOR_ROLE, TenantId::SYSTEM).is_some());
    }

    #[test]
    fn a_name_and_the_terms_have_their_limits() {
        for name in ["", "Owner", "1st", "-a", "a b", &"a".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("night-shift_2").is_ok());
        let many = Scopes::from_iter(vec!["wallet:read"; 1_000]);
        let none = |_: &str| false;
        assert!(check_scopes("default_scopes", &many, ROLE_SCOPES_BYTES_MAX, none).is_err());
        let own = Scopes::from_iter(["reports:export"]);
        assert!(check_scopes("scopes", &own, GRANTS_BYTES_MAX, none).is_err());
        assert!(
            check_scopes("scopes", &own, GRANTS_BYTES_MAX, |it| it == "reports:export").is_ok()
        );
    }
}
