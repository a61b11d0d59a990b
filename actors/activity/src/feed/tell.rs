//! What a record tells to whom: the crates that own the kinds register how to tell theirs.
//!
//! A new event is one arm in its crate's teller; a new kind is one line in [`Tellers`]. A record
//! whose kind has no teller, or whose payload does not open, tells nothing. What is told holds no
//! personal fields and no secrets: a teller names ids, amounts and states.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;

use persistence::{Header, Record};
use serde_json::{Map, Value};
use supervision::System;
use types::{Caller, CallerKind, Scopes, UserId};

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody in the tenant.
    Tenant,
    /// One user.
    User(UserId),
    /// Whose role this is.
    Role(Cow<'static, str>),
    /// The tenant's owner and its admins.
    Admins,
    /// One user, the tenant's owner and its admins.
    UserAndAdmins(UserId),
}

/// One event, as it is told to whoever may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    pub(crate) name: Cow<'static, str>,
    pub(crate) audience: Audience,
    pub(crate) needs: Option<Cow<'static, str>>,
    pub(crate) family: Vec<Cow<'static, str>>,
    pub(crate) latest_only: bool,
    pub(crate) data: Map<String, Value>,
}

impl Telling {
    /// An event with the members of `data`, which is an object.
    pub fn new(name: impl Into<Cow<'static, str>>, audience: Audience, data: Value) -> Self {
        let data = match data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        let (needs, family, latest_only) = (None, Vec::new(), false);
        Self { name: name.into(), audience, needs, family, latest_only, data }
    }

    /// Only for readers whose credential covers this scope.
    #[must_use]
    pub fn needs(mut self, scope: impl Into<Cow<'static, str>>) -> Self {
        self.needs = Some(scope.into());
        self
    }

    /// An API key must have been made for this scope, or for another that is named so, to see it.
    /// What has neither this nor [`Telling::needs`] is seen by keys for everything only.
    #[must_use]
    pub fn of_family(mut self, scope: impl Into<Cow<'static, str>>) -> Self {
        self.family.push(scope.into());
        self
    }

    /// Each one of this name says all that those before it said: a reader that lags behind gets
    /// the last one alone.
    #[must_use]
    pub fn latest_only(mut self) -> Self {
        self.latest_only = true;
        self
    }
}

/// Who reads.
#[derive(Clone, Debug)]
pub struct View {
    user: Option<UserId>,
    role: String,
    scopes: Scopes,
    is_admin: bool,
    /// A service that acts for nobody in particular sees what everybody in the tenant sees.
    sees_all: bool,
    is_key: bool,
}

impl View {
    /// What a caller sees.
    pub fn of(caller: &Caller) -> Self {
        Self {
            user: caller.user,
            role: caller.role.clone(),
            scopes: caller.scopes.clone(),
            is_admin: caller.answers_for_tenant(),
            sees_all: caller.kind == CallerKind::Service && caller.user.is_none(),
            is_key: caller.kind == CallerKind::ApiKey,
        }
    }

    /// Whose view it is.
    pub fn user(&self) -> Option<UserId> {
        self.user
    }

    pub(crate) fn sees(&self, telling: &Telling) -> bool {
        if self.sees_all {
            return true;
        }
        let is_user = |user: &UserId| self.user.as_ref() == Some(user);
        let is_meant = match &telling.audience {
            Audience::Tenant => true,
            Audience::User(user) => is_user(user),
            Audience::Role(role) => self.role == *role,
            Audience::Admins => self.is_admin,
            Audience::UserAndAdmins(user) => self.is_admin || is_user(user),
        };
        is_meant && self.covers(telling)
    }

    fn covers(&self, telling: &Telling) -> bool {
        let Telling { needs, family, .. } = telling;
        if needs.as_ref().is_some_and(|scope| !self.scopes.covers(scope)) {
            return false;
        }
        if !self.is_key {
            return true;
        }
        match (needs, family.as_slice()) {
            (Some(_), []) => true,
            (None, []) => self.scopes.covers("*"),
            (_, family) => family.iter().any(|scope| self.scopes.covers(scope)),
        }
    }
}

/// What a teller has put by for the next record of its kind in the same chain.
pub(crate) type Memory = HashMap<&'static str, Box<dyn Any + Send>>;

/// A record on its way to being told.
pub struct Source<'a> {
    /// The system, for what a record says only together with the state before it.
    pub system: &'a System,
    /// What the record says in the clear.
    pub header: &'a Header,
    /// Its payload.
    pub payload: &'a [u8],
    kind: &'static str,
    memory: &'a mut Memory,
}

impl Source<'_> {
    /// The id of the record's entity: its stream's part behind the slash.
    pub fn id(&self) -> &str {
        self.header.stream.as_str().split_once('/').map_or("", |(_, id)| id)
    }

    /// What the teller of this kind has put by while it told the records before this one. It is
    /// made anew for each chain and each start, so it must follow from the records alone.
    pub fn kept<T: Any + Send + Default>(&mut self) -> &mut HashMap<String, T> {
        let empty = || Box::new(HashMap::<String, T>::new());
        let kept = self.memory.entry(self.kind).or_insert_with(|| empty());
        if !kept.is::<HashMap<String, T>>() {
            *kept = empty();
        }
        let kept = kept.downcast_mut();
        // What is there was just made of this type.
        kept.unwrap_or_else(|| panic!("a teller keeps one type"))
    }
}

/// Tells what a record means to the tenant's readers; nothing for most.
pub type Tell = fn(&mut Source<'_>) -> Vec<Telling>;

/// How to tell the records of each kind.
#[derive(Clone, Default)]
pub struct Tellers(HashMap<&'static str, Tell>);

impl Tellers {
    /// Says how to tell the records of a kind. Of two for one kind the later counts.
    #[must_use]
    pub fn with(mut self, kind: &'static str, tell: Tell) -> Self {
        self.0.insert(kind, tell);
        self
    }

    /// What a record tells.
    pub(crate) fn tell(
        &self,
        system: &System,
        record: &Record,
        memory: &mut Memory,
    ) -> Vec<Telling> {
        let header = &record.header;
        let kind = header.stream.as_str().split_once('/').map_or("", |(kind, _)| kind);
        let Some((kind, tell)) = self.0.get_key_value(kind) else { return Vec::new() };
        let Some(payload) = system.open_record(record) else { return Vec::new() };
        tell(&mut Source { system, header, payload: &payload, kind, memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use types::TenantId;

    fn caller(kind: CallerKind, user: u128, role: &str, scopes: &[&str]) -> Caller {
        let user = (user != 0).then_some(UserId(user));
        let scopes = scopes.iter().copied().collect();
        Caller { kind, user, role: role.to_owned(), scopes, ..Caller::system(TenantId(1)) }
    }

    fn sees(caller: &Caller, telling: &Telling) -> bool {
        View::of(caller).sees(telling)
    }

    #[test]
    fn each_reader_sees_only_its_own() {
        let telling = |audience| Telling::new("x.y", audience, json!({}));
        let ada = caller(CallerKind::User, 2, "user", &[]);
        let bob = caller(CallerKind::User, 3, "user", &[]);
        let admin = caller(CallerKind::User, 4, "admin", &[]);
        let service = caller(CallerKind::Service, 0, "", &["*"]);
        let for_bob = caller(CallerKind::Service, 3, "", &["*"]);
        let cases = [
            (Audience::Tenant, [true, true, true, true, true]),
            (Audience::User(UserId(2)), [true, false, false, true, false]),
            (Audience::Admins, [false, false, true, true, false]),
            (Audience::UserAndAdmins(UserId(3)), [false, true, true, true, true]),
            (Audience::Role("user".into()), [true, true, false, true, false]),
        ];
        for (audience, expected) in cases {
            let telling = telling(audience);
            let seen = [&ada, &bob, &admin, &service, &for_bob].map(|it| sees(it, &telling));
            assert_eq!(seen, expected, "{:?}", telling.audience);
        }
    }

    #[test]
    fn scopes_cut_what_is_seen_and_keys_see_what_they_were_made_for() {
        let wallet = Telling::new("wallet.changed", Audience::Tenant, json!({}));
        let wallet = wallet.needs("wallet:read");
        let call = Telling::new("call.finished", Audience::User(UserId(2)), json!({}));
        let call = call.of_family("actions:read").of_family("shelf:read");
        let plain = Telling::new("x.y", Audience::Tenant, json!({}));
        let user = |scopes| caller(CallerKind::User, 2, "user", scopes);
        assert!(!sees(&user(&["apps:read"]), &wallet) && sees(&user(&["wallet:*"]), &wallet));
        assert!(sees(&user(&[]), &call) && sees(&user(&[]), &plain));
        let key = |scopes| caller(CallerKind::ApiKey, 2, "user", scopes);
        assert!(sees(&key(&["wallet:read"]), &wallet) && !sees(&key(&["wallet:read"]), &call));
        assert!(sees(&key(&["shelf:read"]), &call) && sees(&key(&["actions:read"]), &call));
        assert!(!sees(&key(&["wallet:read"]), &plain) && sees(&key(&["*"]), &plain));
    }
}
