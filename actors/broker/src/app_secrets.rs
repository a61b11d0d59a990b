//! The values of an app's secrets: those of one user in one tenant, or the app's own.
//!
//! Invariants
//! - A value is sealed before it is sent here, under the key of whose it is (the user's own, and
//!   that of the tenant they gave it in; or that of the developer's tenant), for its place and name
//!   alone. Erasing a key erases it.
//! - Nothing here shows a value: not a record, a row, a snapshot or the operator's look.
//! - A version is never given to two values of one name.
//!
//! Deliberate limits
//! - Which names an app declares is for whoever asks: a value stays when a version of the app no
//!   longer declares it, until it is removed.
//! - A value that was replaced or removed stays in the journal, sealed, until its key is erased.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Class, Command, Entity, Handle, NoEffect, Refusal, Timestamp, Turn};
use types::{AppId, Sealed, TenantId, UserId, home_of, owner_of_app, owner_of_user, rfc3339};

use crate::declaration::SECRETS_MAX;

/// Whose values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The tenant; for an app's own values that of its developer.
    pub tenant: TenantId,
    /// The user; `None` for the app's own values.
    pub user: Option<UserId>,
    /// The app.
    pub app: AppId,
}

impl Holder {
    /// Where they live.
    pub fn address(&self) -> Address<AppSecrets> {
        let Self { tenant, user, app } = self;
        let (id, owner) = match user {
            Some(user) => (format!("{tenant}.{user}.{app}"), owner_of_user(*user)),
            None => (app.to_string(), owner_of_app(app)),
        };
        let address = Address::new(&id, owner, home_of(*tenant));
        // Ids are neither empty nor unprintable, and three of them are not too long.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// What a value is sealed for.
    pub fn label(&self, name: &str) -> String {
        format!("app_secrets/{}/{name}", self.address().id())
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The value.
    pub sealed: Sealed,
    /// From 1 up, for each name.
    pub version: u64,
    /// Since when.
    pub set_at: Timestamp,
}

/// The values of an app's secrets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AppSecrets {
    values: BTreeMap<String, Stored>,
    /// The last version of each name that has no value any more.
    removed: BTreeMap<String, u64>,
}

/// A value was set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretSet {
    /// The name.
    pub name: String,
    /// The value.
    pub sealed: Sealed,
    /// Its version.
    pub version: u64,
}

/// A value was removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretRemoved {
    /// The name.
    pub name: String,
}

supervision::events! {
    /// What happens to an app's secrets.
    pub enum AppSecretsEvent {
        /// A value was set.
        Set(SecretSet) = "set", 1;
        /// A value was replaced by another.
        Rotated(SecretSet) = "rotated", 1;
        /// A value was removed.
        Removed(SecretRemoved) = "removed", 1;
    }
}

impl AppSecrets {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.values.get(name)
    }

    /// All of them, by name.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Stored)> {
        self.values.iter().map(|(name, stored)| (name.as_str(), stored))
    }

    fn next_version(&self, name: &str) -> u64 {
        let last = self.values.get(name).map(|stored| stored.version);
        last.or(self.removed.get(name).copied()).unwrap_or_default() + 1
    }
}

impl Entity for AppSecrets {
    const KIND: &'static str = "app_secrets";
    type Event = AppSecretsEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &AppSecretsEvent, at: Timestamp) {
        match event {
            AppSecretsEvent::Set(set) | AppSecretsEvent::Rotated(set) => {
                let SecretSet { name, sealed, version } = set.clone();
                self.removed.remove(&name);
                self.values.insert(name, Stored { sealed, version, set_at: at });
            }
            AppSecretsEvent::Removed(SecretRemoved { name }) => {
                if let Some(stored) = self.values.remove(name) {
                    self.removed.insert(name.clone(), stored.version);
                }
            }
        }
    }

    fn observe(&self) -> serde_json::Value {
        let shown = |(name, stored): (&String, &Stored)| {
            let (version, set_at) = (stored.version, rfc3339(stored.set_at));
            json!({"name": name, "version": version, "set_at": set_at})
        };
        json!({"set": self.values.iter().map(shown).collect::<Vec<_>>()})
    }
}

/// Sets a value. Answers its version. Refused: 404 `secret_not_set` for what shall be replaced and
/// is not there, 409 `too_many_secrets`.
#[derive(Clone, Debug)]
pub struct SetSecret {
    /// The name.
    pub name: String,
    /// The value, sealed for its place ([`Holder::label`]).
    pub sealed: Sealed,
    /// Whether there must be a value already.
    pub replaces: bool,
}

impl Command for SetSecret {
    const NAME: &'static str = "set_secret";
}

impl Handle<SetSecret> for AppSecrets {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: SetSecret) -> Result<u64, Refusal> {
        let SetSecret { name, sealed, replaces } = command;
        let state = turn.state();
        let is_set = state.values.contains_key(&name);
        if replaces && !is_set {
            return Err(not_set(&name));
        }
        let known = state.values.len() + state.removed.len();
        if !is_set && !state.removed.contains_key(&name) && known >= SECRETS_MAX * 2 {
            let message = "too many secrets were set for this app under other names";
            return Err(Refusal::conflict("too_many_secrets", message));
        }
        let version = state.next_version(&name);
        let set = SecretSet { name, sealed, version };
        turn.record(match replaces {
            true => AppSecretsEvent::Rotated(set),
            false => AppSecretsEvent::Set(set),
        });
        Ok(version)
    }
}

/// Removes a value. Answers whether there was one.
#[derive(Clone, Debug)]
pub struct RemoveSecret {
    /// The name.
    pub name: String,
}

impl Command for RemoveSecret {
    const NAME: &'static str = "remove_secret";
}

impl Handle<RemoveSecret> for AppSecrets {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: RemoveSecret) -> Result<bool, Refusal> {
        let RemoveSecret { name } = command;
        let was_set = turn.state().values.contains_key(&name);
        if was_set {
            turn.record(AppSecretsEvent::Removed(SecretRemoved { name }));
        }
        Ok(was_set)
    }
}

/// 404 for a secret without a value.
pub fn not_set(name: &str) -> Refusal {
    Refusal::new(Class::NotFound, "secret_not_set", format!("the secret {name} has no value"))
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn set(given: &Given<AppSecrets>, name: &str, replaces: bool) -> SetSecret {
        let holder = Holder {
            tenant: TenantId(1),
            user: Some(UserId(2)),
            app: AppId::new("shelf").unwrap(),
        };
        let key = holder.address().place().key();
        let label = holder.label(name);
        let sealed = Sealed::seal(given.keys(), key, &label, b"canary-value").unwrap();
        SetSecret { name: name.to_owned(), sealed, replaces }
    }

    #[test]
    fn a_value_is_replaced_removed_and_never_shown() {
        let given = Given::<AppSecrets>::nothing();
        let command = set(&given, "token", true);
        let (code, given) = given.when(command).refused();
        assert_eq!(code, "secret_not_set");
        let command = set(&given, "token", false);
        let (version, given) = given.when(command).reply();
        assert_eq!(version, 1);
        let command = set(&given, "token", true);
        let (version, given) = given.when(command).reply();
        assert_eq!(version, 2);
        let shown = format!("{:?} {}", given.state(), given.state().observe());
        assert!(!shown.contains("canary") && shown.contains("token"), "{shown}");
        let remove = || RemoveSecret { name: "token".to_owned() };
        let (was_set, given) = given.when(remove()).reply();
        assert!(was_set && given.state().get("token").is_none());
        let then = given.when(remove());
        assert!(then.events.is_empty());
        let command = set(&then.given, "token", false);
        let (version, _) = then.given.when(command).reply();
        assert_eq!(version, 3, "no version is given twice");
    }

    #[test]
    fn names_are_bounded() {
        let mut given = Given::<AppSecrets>::nothing();
        for number in 0..SECRETS_MAX * 2 {
            let command = set(&given, &format!("s{number}"), false);
            given = given.when(command).then();
        }
        let command = set(&given, "one_more", false);
        let (code, given) = given.when(command).refused();
        assert_eq!(code, "too_many_secrets");
        let command = set(&given, "s0", false);
        given.when(command).reply();
    }
}
