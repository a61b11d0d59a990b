//! Who calls, as the credential says, and what the credential covers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, SessionId, TenantId, UserId, base32};

/// The scope that operators have.
const OPERATOR_SCOPE: &str = "operator";
/// The roles of those who answer for a tenant.
const TENANT_ROLES: [&str; 2] = ["owner", "admin"];

/// What kind of credential was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CallerKind {
    /// A user's token.
    User,
    /// A service token.
    Service,
    /// An agent's token or secret.
    Agent,
    /// An API key.
    ApiKey,
    /// The server itself.
    System,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// What was shown.
    pub kind: CallerKind,
    /// The agent's or API key's own id, where one was shown.
    pub credential: Option<u128>,
    /// The user: the token's, the key's or agent's owner, or the one a service acts for.
    pub user: Option<UserId>,
    /// The tenant that the credential is for, or that a service acts in.
    pub tenant: TenantId,
    /// The login session of a user's token.
    pub session: Option<SessionId>,
    /// The role in the tenant; empty for services and the system.
    pub role: String,
    /// What the role and the credential cover together.
    pub scopes: Scopes,
    /// The app that a service acts as.
    pub app: Option<AppId>,
}

impl Caller {
    /// The server itself, acting in a tenant.
    pub fn system(tenant: TenantId) -> Self {
        Self {
            kind: CallerKind::System,
            credential: None,
            user: None,
            tenant,
            session: None,
            role: String::new(),
            scopes: Scopes::all(),
            app: None,
        }
    }

    /// The caller as records show it: `user/imp_u_…`, `agent/agt_…`, `api_key/key_…`,
    /// `service/APP`, `service`, `system`; a service that acts for a user names both:
    /// `service/APP for user/imp_u_…`.
    pub fn label(&self) -> Arc<str> {
        let credential = self.credential.map(base32).unwrap_or_default();
        let label = match (self.kind, self.user, &self.app) {
            (CallerKind::User, Some(user), _) => format!("user/{user}"),
            (CallerKind::User, None, _) => "user".to_owned(),
            (CallerKind::Agent, _, _) => format!("agent/agt_{credential}"),
            (CallerKind::ApiKey, _, _) => format!("api_key/key_{credential}"),
            (CallerKind::Service, None, Some(app)) => format!("service/{app}"),
            (CallerKind::Service, None, None) => "service".to_owned(),
            (CallerKind::Service, Some(user), Some(app)) => {
                format!("service/{app} for user/{user}")
            }
            (CallerKind::Service, Some(user), None) => format!("service for user/{user}"),
            (CallerKind::System, _, _) => "system".to_owned(),
        };
        label.into()
    }

    /// Whether this is a user who answers for the tenant: its owner, or an admin of it.
    pub fn answers_for_tenant(&self) -> bool {
        let is_own = self.user.is_some_and(|user| user.direct_tenant() == self.tenant);
        self.kind == CallerKind::User && (is_own || TENANT_ROLES.contains(&self.role.as_str()))
    }

    /// Whether this is an operator: a user of the system tenant with the scope `operator`.
    pub fn is_operator(&self) -> bool {
        self.kind == CallerKind::User
            && self.tenant == TenantId::SYSTEM
            && self.scopes.covers(OPERATOR_SCOPE)
    }
}

/// What a credential covers: scopes such as `wallet:spend`. `a:b` and `a.b` are the same; `*`
/// covers everything, `a:*` and `a.*` everything that begins with `a:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(Arc<[String]>);

impl Default for Scopes {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl<S: Into<String>> FromIterator<S> for Scopes {
    fn from_iter<I: IntoIterator<Item = S>>(scopes: I) -> Self {
        Self(scopes.into_iter().map(Into::into).collect())
    }
}

impl Scopes {
    /// Everything.
    pub fn all() -> Self {
        Self::from_iter(["*"])
    }

    /// The scopes as they were given.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Whether `wanted` is covered. A pattern (`a:*`) is covered only by one as wide.
    pub fn covers(&self, wanted: &str) -> bool {
        self.0.iter().any(|held| covers(held, wanted))
    }

    /// What both cover: rights, cut down by what a key or token was made for.
    #[must_use]
    pub fn cut_to(&self, other: &Self) -> Self {
        let mine = self.0.iter().filter(|scope| other.covers(scope));
        let theirs = other.0.iter().filter(|scope| self.covers(scope) && !self.0.contains(scope));
        mine.chain(theirs).cloned().collect()
    }
}

fn covers(held: &str, wanted: &str) -> bool {
    let same = |a: u8, b: u8| a == b || matches!((a, b), (b':', b'.') | (b'.', b':'));
    let begins = |prefix: &str| {
        wanted.len() >= prefix.len() && prefix.bytes().zip(wanted.bytes()).all(|(a, b)| same(a, b))
    };
    if held == "*" {
        return true;
    }
    match held.strip_suffix('*') {
        Some(prefix) if prefix.ends_with([':', '.']) => {
            wanted.len() > prefix.len() && begins(prefix)
        }
        _ => held.len() == wanted.len() && begins(held),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(list: &[&str]) -> Scopes {
        list.iter().copied().collect()
    }

    #[test]
    fn scopes_cover_what_they_say_and_no_more() {
        let covered = [
            ("*", "anything:at:all"),
            ("a:b", "a.b"),
            ("a.b", "a:b"),
            ("a:*", "a.b"),
            ("a.*", "a:b:c"),
            ("a:*", "a:*"),
            ("a.*", "a:*"),
        ];
        for (held, wanted) in covered {
            assert!(scopes(&[held]).covers(wanted), "{held} {wanted}");
        }
        let not_covered = [
            ("a:b", "a:bc"),
            ("a:b", "a"),
            ("a:*", "ab:c"),
            ("a:*", "a"),
            ("a:*", "a:"),
            ("a*", "ab"),
            ("a:*", "*"),
            ("a:b", "a:*"),
            ("", "a"),
        ];
        for (held, wanted) in not_covered {
            assert!(!scopes(&[held]).covers(wanted), "{held} {wanted}");
        }
        assert!(!Scopes::default().covers("a"));
    }

    #[test]
    fn rights_are_cut_down_by_the_credential() {
        let rights = scopes(&["wallet:*", "apps:read"]);
        let cut = rights.cut_to(&scopes(&["wallet.spend", "apps:*", "users:read"]));
        assert!(cut.covers("wallet:spend") && cut.covers("apps:read"));
        assert!(!cut.covers("wallet:read") && !cut.covers("apps:write"));
        assert!(!cut.covers("users:read"));
        assert_eq!(Scopes::all().cut_to(&rights), rights);
    }

    #[test]
    fn a_label_names_the_caller() {
        let mut caller = Caller::system(TenantId(1));
        assert_eq!(&*caller.label(), "system");
        caller.kind = CallerKind::User;
        caller.user = Some(UserId(1));
        assert_eq!(&*caller.label(), "user/imp_u_00000000000000000000000001");
        caller.kind = CallerKind::Agent;
        caller.credential = Some(2);
        assert_eq!(&*caller.label(), "agent/agt_00000000000000000000000002");
        caller.kind = CallerKind::Service;
        assert_eq!(&*caller.label(), "service for user/imp_u_00000000000000000000000001");
        caller.app = AppId::new("notes").ok();
        assert_eq!(&*caller.label(), "service/notes for user/imp_u_00000000000000000000000001");
        caller.user = None;
        assert_eq!(&*caller.label(), "service/notes");
        caller.app = None;
        assert_eq!(&*caller.label(), "service");
    }

    #[test]
    fn owners_and_admins_answer_for_their_tenant() {
        let mut caller = Caller { kind: CallerKind::User, ..Caller::system(TenantId(1)) };
        (caller.user, caller.role) = (Some(UserId(2)), "user".to_owned());
        assert!(!caller.answers_for_tenant());
        caller.role = "admin".to_owned();
        assert!(caller.answers_for_tenant());
        (caller.user, caller.role) = (Some(UserId(1)), "user".to_owned());
        assert!(caller.answers_for_tenant(), "a direct user's own tenant");
        caller.kind = CallerKind::Service;
        assert!(!caller.answers_for_tenant());
    }

    #[test]
    fn only_a_user_of_the_system_tenant_is_an_operator() {
        let mut caller = Caller::system(TenantId::SYSTEM);
        assert!(!caller.is_operator());
        caller.kind = CallerKind::User;
        assert!(caller.is_operator());
        caller.tenant = TenantId(1);
        assert!(!caller.is_operator());
        caller.tenant = TenantId::SYSTEM;
        caller.scopes = scopes(&["wallet:*"]);
        assert!(!caller.is_operator());
    }
}
