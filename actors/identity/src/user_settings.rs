//! What a user has set for themselves in a tenant: free members of a JSON object, which the APIs
//! that know them read.
//!
//! Invariant: a change takes the place of members of the same names and leaves the others.

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Command, Entity, Handle, NoEffect, Refusal, Timestamp, Turn};
use types::{JsonBytes, TenantId, UserId, home_of, owner_of_user};

use crate::service::Identity;

/// The longest settings of one user in one tenant, in bytes of their JSON text.
pub const SETTINGS_BYTES_MAX: usize = 16 * 1024;

/// A user's settings in one tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UserSettings {
    settings: JsonBytes,
}

impl UserSettings {
    /// Where they live.
    pub fn address(user: UserId, tenant: TenantId) -> Address<Self> {
        crate::address(&format!("{user}.{tenant}"), owner_of_user(user), home_of(tenant))
    }

    /// All of them, a JSON object.
    pub fn settings(&self) -> JsonBytes {
        if self.settings == JsonBytes::default() { json!({}).into() } else { self.settings.clone() }
    }
}

/// Other settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// All of them, a JSON object.
    pub settings: JsonBytes,
}

supervision::events! {
    /// What happens to a user's settings.
    pub enum UserSettingsEvent {
        /// Others.
        Changed(Changed) = "changed", 1;
    }
}

impl Entity for UserSettings {
    const KIND: &'static str = "user_settings";
    const PUBLISHED: bool = true;
    type Event = UserSettingsEvent;
    type Effect = NoEffect;

    fn apply(&mut self, UserSettingsEvent::Changed(it): &UserSettingsEvent, _: Timestamp) {
        self.settings = it.settings.clone();
    }

    fn observe(&self) -> serde_json::Value {
        let settings = self.settings().value();
        let names: Vec<_> = settings.as_object().into_iter().flat_map(|it| it.keys()).collect();
        json!({"set": names})
    }
}

/// Changes some of them. Answers all. 422 for what is no object or makes them too long.
pub struct Change {
    /// What takes the place of members of the same names, a JSON object.
    pub changed: JsonBytes,
}

impl Command for Change {
    const NAME: &'static str = "change_settings";
}

impl Handle<Change> for UserSettings {
    type Reply = JsonBytes;

    fn handle(turn: &mut Turn<'_, Self>, Change { changed }: Change) -> Result<JsonBytes, Refusal> {
        let known = turn.state().settings();
        let (mut all, changed) = (known.value(), changed.value());
        let (Some(members), Some(changed)) = (all.as_object_mut(), changed.as_object()) else {
            return Err(Refusal::invalid("settings", "must be an object"));
        };
        members.extend(changed.clone());
        let settings = JsonBytes::from(all);
        if settings.as_str().len() > SETTINGS_BYTES_MAX {
            let message = format!("settings have more than {SETTINGS_BYTES_MAX} bytes");
            return Err(Refusal::invalid("settings", message));
        }
        if settings != known {
            let settings = settings.clone();
            turn.record(UserSettingsEvent::Changed(Changed { settings }));
        }
        Ok(settings)
    }
}

impl Identity {
    /// What a user has set in a tenant, a JSON object.
    pub async fn user_settings(
        &self,
        user: UserId,
        tenant: TenantId,
    ) -> Result<JsonBytes, Refusal> {
        let (system, address) = (self.system()?, UserSettings::address(user, tenant));
        // Most users have set nothing: what does not exist is not woken.
        if system.locate(UserSettings::KIND, address.id()).is_none() {
            return Ok(json!({}).into());
        }
        let settings = system.directory::<UserSettings>();
        settings.look(&address, system.system_origin(), UserSettings::settings).await
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_has_its_limit() {
        let change = |value: serde_json::Value| Change { changed: value.into() };
        let given = Given::<UserSettings>::nothing().when(change(json!({"a": 1, "b": {}}))).then();
        let (all, given) = given.when(change(json!({"a": 2}))).reply();
        assert_eq!(all.value(), json!({"a": 2, "b": {}}));
        let then = given.when(change(json!({"b": {}})));
        assert!(then.events.is_empty());
        let long = change(json!({"c": "x".repeat(SETTINGS_BYTES_MAX)}));
        let (code, given) = then.given.when(long).refused();
        assert_eq!(code, "validation_error");
        assert_eq!(given.when(change(json!([1]))).refused().0, "validation_error");
    }
}
