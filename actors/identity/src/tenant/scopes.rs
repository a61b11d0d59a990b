//! The scopes that a tenant names of its own, for its roles and grants: what this server asks for
//! nowhere, and the tenant's other services read in tokens.
//!
//! Invariants
//! - A scope's name is its resource and its action, and never changes; it is its id too.
//! - It is none that this server asks for, or may come to, and none that apps have by themselves.
//! - While a role or a grant names it, it stays.
//!
//! Deliberate limit: a pattern (`reports:*`) covers a scope that is named later, too.

use serde::{Deserialize, Serialize};
use supervision::{Command, Handle, Refusal, Timestamp, Turn};
use types::Scopes;

use super::{Tenant, TenantEvent};
use crate::role::{self, TEXT_CHARS_MAX, check_within};

/// How many scopes of its own a tenant may have.
pub const OWN_SCOPES_MAX: usize = 200;
/// The longest action of a scope, in bytes.
const ACTION_BYTES_MAX: usize = 32;

/// A scope that a tenant has named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnScope {
    /// The part before the colon.
    pub resource: String,
    /// The part behind it.
    pub action: String,
    /// What people call it.
    pub display_name: String,
    /// What it allows.
    pub description: String,
    /// Since when.
    pub created_at: Timestamp,
}

impl OwnScope {
    /// `resource:action`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.resource, self.action)
    }
}

/// A scope of the tenant's own is new, or is told otherwise now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScopeSet {
    /// The scope.
    pub scope: OwnScope,
}

/// A scope of the tenant's own is no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScopeRemoved {
    /// Its name.
    pub name: String,
}

fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    let fits = text.chars().take(TEXT_CHARS_MAX + 1).count() <= TEXT_CHARS_MAX;
    let message = || format!("has more than {TEXT_CHARS_MAX} characters");
    fits.then_some(()).ok_or_else(|| Refusal::invalid(field, message()))
}

fn check_action(action: &str) -> Result<(), Refusal> {
    let fits = action.len() <= ACTION_BYTES_MAX
        && action.starts_with(|first: char| first.is_ascii_lowercase())
        && action.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    let message = format!("must be 1 to {ACTION_BYTES_MAX} of a-z, 0-9, - and _, a letter first");
    fits.then_some(()).ok_or_else(|| Refusal::invalid("action", message))
}

impl Tenant {
    /// Whether a scope is one that this tenant has named.
    pub fn has_named(&self, scope: &str) -> bool {
        self.staff.scopes.contains_key(&scope.replacen('.', ":", 1))
    }

    fn existing_scope(&self, name: &str) -> Result<&OwnScope, Refusal> {
        self.existing()?;
        self.staff.scopes.get(name).ok_or_else(|| Refusal::not_found("scope"))
    }

    /// How many roles and members have a scope.
    fn uses_of(&self, name: &str) -> usize {
        let names = |scopes: &&Scopes| {
            scopes.as_slice().iter().any(|scope| scope.replacen('.', ":", 1) == name)
        };
        let of_roles = self.staff.roles.values().map(|role| &role.terms.scopes);
        of_roles.chain(self.staff.grants.values()).filter(names).count()
    }
}

/// Names a scope. 422 for what cannot be one, 409 `scope_exists` where there is one of the name,
/// this server's or an app's too, 403 `beyond_own_rights`, 409 `too_many_scopes`. Answers it.
pub struct CreateScope {
    /// The part before the colon.
    pub resource: String,
    /// The part behind it.
    pub action: String,
    /// What people call it.
    pub display_name: String,
    /// What it allows.
    pub description: String,
    /// What whoever asks may do.
    pub rights: Scopes,
}

impl Command for CreateScope {
    const NAME: &'static str = "create_scope";
}

impl Handle<CreateScope> for Tenant {
    type Reply = OwnScope;

    fn handle(turn: &mut Turn<'_, Self>, command: CreateScope) -> Result<OwnScope, Refusal> {
        let CreateScope { resource, action, display_name, description, rights } = command;
        if !role::is_free_resource(&resource) {
            let message = "must be 2 to 63 of a-z, 0-9 and -, and none that this server uses";
            return Err(Refusal::invalid("resource", message));
        }
        check_action(&action)?;
        check_text("display_name", &display_name)?;
        check_text("description", &description)?;
        let created_at = turn.now();
        let scope = OwnScope { resource, action, display_name, description, created_at };
        let name = scope.name();
        turn.state().existing()?;
        if role::is_known(&name) || turn.state().has_named(&name) {
            let message = "there is a scope of this name already";
            return Err(Refusal::conflict("scope_exists", message));
        }
        check_within(&Scopes::from_iter([name.as_str()]), &rights)?;
        if turn.state().staff.scopes.len() >= OWN_SCOPES_MAX {
            let message = format!("a tenant has at most {OWN_SCOPES_MAX} scopes of its own");
            return Err(Refusal::conflict("too_many_scopes", message));
        }
        turn.record(TenantEvent::ScopeSet(ScopeSet { scope: scope.clone() }));
        Ok(scope)
    }
}

/// Changes what is told of a scope; `None` leaves it. 404 for none of the tenant's own, 422.
pub struct UpdateScope {
    /// Which.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// What it allows.
    pub description: Option<String>,
}

impl Command for UpdateScope {
    const NAME: &'static str = "update_scope";
}

impl Handle<UpdateScope> for Tenant {
    type Reply = OwnScope;

    fn handle(turn: &mut Turn<'_, Self>, command: UpdateScope) -> Result<OwnScope, Refusal> {
        let known = turn.state().existing_scope(&command.name)?.clone();
        let scope = OwnScope {
            display_name: command.display_name.unwrap_or_else(|| known.display_name.clone()),
            description: command.description.unwrap_or_else(|| known.description.clone()),
            ..known.clone()
        };
        check_text("display_name", &scope.display_name)?;
        check_text("description", &scope.description)?;
        if scope != known {
            turn.record(TenantEvent::ScopeSet(ScopeSet { scope: scope.clone() }));
        }
        Ok(scope)
    }
}

/// Ends a scope. 404 for none of the tenant's own, 409 `scope_in_use` while roles or grants name
/// it.
pub struct RemoveScope {
    /// Which.
    pub name: String,
}

impl Command for RemoveScope {
    const NAME: &'static str = "remove_scope";
}

impl Handle<RemoveScope> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, RemoveScope { name }: RemoveScope) -> Result<(), Refusal> {
        turn.state().existing_scope(&name)?;
        let uses = turn.state().uses_of(&name);
        if uses > 0 {
            let message = format!("{uses} roles and members have this scope; take it from them");
            let facts = serde_json::json!({"uses": uses});
            return Err(Refusal::conflict("scope_in_use", message).with_facts(&facts));
        }
        turn.record(TenantEvent::ScopeRemoved(ScopeRemoved { name }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;
    use types::UserId;

    use super::super::fixtures::{acme, terms};
    use super::super::{CreateRole, GrantChange, SetGrants};
    use super::*;

    fn named(resource: &str, action: &str) -> CreateScope {
        CreateScope {
            resource: resource.to_owned(),
            action: action.to_owned(),
            display_name: "Export".to_owned(),
            description: String::new(),
            rights: Scopes::all(),
        }
    }

    fn clerk(scopes: &[&str]) -> CreateRole {
        let terms = terms(scopes);
        CreateRole { name: "clerk".to_owned(), terms, rights: Scopes::all() }
    }

    fn remove() -> RemoveScope {
        RemoveScope { name: "reports:export".to_owned() }
    }

    #[test]
    fn roles_and_grants_may_hold_what_the_tenant_has_named_and_it_stays_while_they_do() {
        let (code, given) = acme().when(clerk(&["reports:export"])).refused();
        assert_eq!(code, "validation_error");
        let (scope, given) = given.when(named("reports", "export")).reply();
        assert_eq!(scope.name(), "reports:export");
        let (code, given) = given.when(named("reports", "export")).refused();
        assert_eq!(code, "scope_exists");
        let (role, given) = given.when(clerk(&["reports:export"])).reply();
        let user = UserId(6);
        let change = GrantChange::Set(Scopes::from_iter(["reports.export"]));
        let grant = SetGrants { user, change, rights: Scopes::all() };
        let given = given.when(grant).then();
        let (code, given) = given.when(remove()).refused();
        assert_eq!(code, "scope_in_use");
        let change = GrantChange::Set(Scopes::default());
        let given = given.when(SetGrants { user, change, rights: Scopes::all() }).then();
        let (code, given) = given.when(remove()).refused();
        assert_eq!(code, "scope_in_use", "the role has it still");
        let end = super::super::RemoveRole { id: role.id, rights: Scopes::all() };
        let given = given.when(end).then().when(remove()).then();
        assert_eq!(given.when(remove()).refused().0, "not_found");
    }

    #[test]
    fn what_this_server_or_an_app_has_is_not_named_anew_and_nobody_names_beyond_their_rights() {
        let mut given: Given<Tenant> = acme();
        let unfit = [
            ("wallet", "export", "validation_error"),
            ("developer", "fly", "validation_error"),
            ("Reports", "export", "validation_error"),
            ("", "export", "validation_error"),
            ("reports", "", "validation_error"),
            ("reports", "*", "validation_error"),
            ("reports", "a:b", "validation_error"),
            ("notes", "read", "scope_exists"),
        ];
        for (resource, action, wanted) in unfit {
            let (code, next) = given.when(named(resource, action)).refused();
            assert_eq!(code, wanted, "{resource}:{action}");
            given = next;
        }
        let rights = Scopes::from_iter(["roles:write", "wallet:*"]);
        let beyond = CreateScope { rights, ..named("reports", "export") };
        let (code, given) = given.when(beyond).refused();
        assert_eq!(code, "beyond_own_rights");
        let given = given.when(named("reports", "export")).then();
        let told = |text: Option<&str>| UpdateScope {
            name: "reports:export".to_owned(),
            display_name: text.map(str::to_owned),
            description: None,
        };
        let (scope, given) = given.when(told(Some("Take out"))).reply();
        assert_eq!(scope.display_name, "Take out");
        assert!(given.when(told(None)).events.is_empty());
    }
}
