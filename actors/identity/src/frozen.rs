//! What is frozen now: tenants, users, apps and agents that an operator has stopped, for every
//! check of a credential and every call to see.
//!
//! Invariants
//! - After [`Frozen::freeze`] has returned, no check that starts later, on any thread, lets the
//!   target pass; after [`Frozen::lift`] every one does.
//! - A freeze has a number, one more than the target's last. What is told late, of a freeze that
//!   was lifted since, changes nothing.
//! - What is a copy of a tenant (a sandbox) is refused while the tenant is.
//! - Whoever is refused learns the class of the reason and nothing else: the operator's words are
//!   for operators.
//!
//! Deliberate limits
//! - This is the memory of one process. The journal knows what is frozen; it is read into this
//!   before the first request.
//! - Nothing is forgotten until the process ends: as many as operators have ever frozen in it.
//! - There is no way in for owners of what is frozen, not even to read: whose credential was stolen
//!   is a reason to freeze, and a thief's looks like the owner's.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal};
use types::{AgentId, AppId, TenantId, UserId};

/// The code of every refusal here.
pub const FROZEN: &str = "frozen";

/// What can be frozen. Stored: a kind keeps its place for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// A tenant: every credential for it, its calls, its reminders, its mails.
    Tenant(TenantId),
    /// A user, in every tenant.
    User(UserId),
    /// An app, for everybody who calls it.
    App(AppId),
    /// An agent: its tokens and its secret.
    Agent(AgentId),
}

impl Target {
    /// `tenant`, `user`, `app` or `agent`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::User(_) => "user",
            Self::App(_) => "app",
            Self::Agent(_) => "agent",
        }
    }

    /// The id as it is shown.
    pub fn id(&self) -> String {
        match self {
            Self::Tenant(tenant) => tenant.to_string(),
            Self::User(user) => user.to_string(),
            Self::App(app) => app.to_string(),
            Self::Agent(agent) => agent.to_string(),
        }
    }
}

/// Why, as far as whoever is refused may know. Stored: a class keeps its place for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonClass {
    /// A credential may be in the wrong hands, or something behaves as if it were.
    Security,
    /// It harms others.
    Abuse,
    /// Something is not paid.
    Payment,
    /// Somebody with the right to has ordered it.
    Legal,
    /// Work is done on it.
    Maintenance,
    /// None of these.
    #[default]
    Other,
}

impl ReasonClass {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Security => "security",
            Self::Abuse => "abuse",
            Self::Payment => "payment",
            Self::Legal => "legal",
            Self::Maintenance => "maintenance",
            Self::Other => "other",
        }
    }
}

impl FromStr for ReasonClass {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [
            Self::Security,
            Self::Abuse,
            Self::Payment,
            Self::Legal,
            Self::Maintenance,
            Self::Other,
        ];
        all.into_iter().find(|class| class.name() == text).ok_or(())
    }
}

/// 403 `frozen`: what is frozen and the class of the reason.
pub fn refusal(kind: &str, class: ReasonClass) -> Refusal {
    let message = format!("this {kind} is frozen by an operator ({})", class.name());
    let facts = serde_json::json!({ "frozen": kind, "reason_class": class.name() });
    Refusal::new(Class::Forbidden, FROZEN, message).with_facts(&facts)
}

/// The latest that is known of a target.
struct Entry {
    number: u64,
    /// `None` once it was lifted.
    class: Option<ReasonClass>,
}

/// See the module's head. A port.
#[derive(Default)]
pub struct Frozen {
    /// How many are frozen: mostly none, which costs a check one load.
    count: AtomicUsize,
    known: RwLock<HashMap<Target, Entry>>,
    /// By copy: the tenant that it is a copy of.
    copies: RwLock<HashMap<TenantId, TenantId>>,
}

impl Frozen {
    /// From now on the target is refused, by its freeze of this number.
    pub fn freeze(&self, target: Target, number: u64, class: ReasonClass) {
        self.note(target, Entry { number, class: Some(class) });
    }

    /// From now on it passes, if it was not frozen again by a greater number.
    pub fn lift(&self, target: Target, number: u64) {
        self.note(target, Entry { number, class: None });
    }

    fn note(&self, target: Target, news: Entry) {
        let mut known = self.known.write();
        let is_late = |entry: &Entry| match news.class {
            Some(_) => entry.number >= news.number,
            None => entry.number > news.number,
        };
        if known.get(&target).is_some_and(is_late) {
            return;
        }
        known.insert(target, news);
        let count = known.values().filter(|entry| entry.class.is_some()).count();
        self.count.store(count, Ordering::SeqCst);
    }

    /// Why a target is frozen, if it is.
    pub fn class_of(&self, target: &Target) -> Option<ReasonClass> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.known.read().get(target).and_then(|entry| entry.class)
    }

    /// From now on `copy` is refused while `of` is: before anybody can enter it.
    pub fn note_copy(&self, copy: TenantId, of: TenantId) {
        self.copies.write().insert(copy, of);
    }

    /// A tenant and the copies of it that are known.
    pub fn with_copies(&self, tenant: TenantId) -> Vec<TenantId> {
        let copies = self.copies.read();
        let own = copies.iter().filter(|(_, of)| **of == tenant).map(|(copy, _)| *copy);
        std::iter::once(tenant).chain(own).collect()
    }

    /// Why nobody may act for a tenant, if nobody may: it is frozen, or what it is a copy of is.
    pub fn class_of_tenant(&self, tenant: TenantId) -> Option<ReasonClass> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let of = self.copies.read().get(&tenant).copied();
        let class = |tenant| self.class_of(&Target::Tenant(tenant));
        class(tenant).or_else(|| of.and_then(class))
    }

    fn check_one(&self, target: &Target) -> Result<(), Refusal> {
        self.class_of(target).map_or(Ok(()), |class| Err(refusal(target.kind(), class)))
    }

    /// Whether somebody may act for a tenant: 403 [`FROZEN`] while the tenant, what it is a copy
    /// of, or the user is.
    pub fn check(&self, tenant: TenantId, user: Option<UserId>) -> Result<(), Refusal> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        if let Some(class) = self.class_of_tenant(tenant) {
            return Err(refusal(Target::Tenant(tenant).kind(), class));
        }
        user.map_or(Ok(()), |user| self.check_one(&Target::User(user)))
    }

    /// Whether an app may be called: 403 [`FROZEN`] while it is.
    pub fn check_app(&self, app: &AppId) -> Result<(), Refusal> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        self.check_one(&Target::App(app.clone()))
    }

    /// Whether an agent may act: 403 [`FROZEN`] while it may not.
    pub fn check_agent(&self, agent: AgentId) -> Result<(), Refusal> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        self.check_one(&Target::Agent(agent))
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Frozen({} targets)", self.count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(1);
    const USER: UserId = UserId(2);

    #[test]
    fn what_is_frozen_is_refused_until_it_is_lifted_and_others_pass() {
        let frozen = Frozen::default();
        frozen.freeze(Target::Tenant(TENANT), 1, ReasonClass::Security);
        let refused = frozen.check(TENANT, Some(USER)).unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Forbidden, FROZEN));
        let facts = refused.facts.unwrap();
        assert_eq!(facts, r#"{"frozen":"tenant","reason_class":"security"}"#);
        assert!(frozen.check(TenantId(9), Some(USER)).is_ok());
        frozen.freeze(Target::User(USER), 1, ReasonClass::Abuse);
        assert!(frozen.check(TenantId(9), Some(USER)).is_err());
        assert!(frozen.check(TenantId(9), None).is_ok());
        let app = AppId::new("shelf").unwrap();
        assert!(frozen.check_app(&app).is_ok());
        frozen.freeze(Target::App(app.clone()), 1, ReasonClass::Other);
        assert!(frozen.check_app(&app).is_err());
        frozen.lift(Target::App(app.clone()), 1);
        frozen.lift(Target::Tenant(TENANT), 1);
        frozen.lift(Target::User(USER), 1);
        assert!(frozen.check(TENANT, Some(USER)).is_ok() && frozen.check_app(&app).is_ok());
    }

    #[test]
    fn a_copy_is_refused_while_what_it_is_a_copy_of_is_and_not_the_other_way_round() {
        let (frozen, copy) = (Frozen::default(), TenantId(5));
        frozen.freeze(Target::Tenant(TENANT), 1, ReasonClass::Legal);
        assert!(frozen.check(copy, None).is_ok());
        frozen.note_copy(copy, TENANT);
        assert!(frozen.check(copy, Some(USER)).is_err());
        assert_eq!(frozen.class_of_tenant(copy), Some(ReasonClass::Legal));
        assert_eq!(frozen.with_copies(TENANT), [TENANT, copy]);
        frozen.lift(Target::Tenant(TENANT), 1);
        frozen.freeze(Target::Tenant(copy), 1, ReasonClass::Abuse);
        assert!(frozen.check(copy, None).is_err() && frozen.check(TENANT, None).is_ok());
        assert_eq!(frozen.with_copies(copy), [copy]);
    }

    #[test]
    fn news_of_a_freeze_that_is_over_changes_nothing() {
        let (frozen, target) = (Frozen::default(), Target::Tenant(TENANT));
        frozen.lift(target.clone(), 1);
        frozen.freeze(target.clone(), 1, ReasonClass::Other);
        assert!(frozen.check(TENANT, None).is_ok(), "lifted before it was told of");
        frozen.freeze(target.clone(), 2, ReasonClass::Other);
        frozen.lift(target, 1);
        assert!(frozen.check(TENANT, None).is_err(), "the second one stands");
    }
}
