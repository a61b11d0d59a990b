//! The client secrets of an app: sealed, never shown again.
//!
//! Invariants
//! - What is recorded is sealed under a key made from the master key for this purpose, bound to the
//!   app and the secret's name; the value is in no event, log or answer in clear.
//!
//! Deliberate limits: at most [`SECRETS_MAX`] an app, [`SECRET_BYTES_MAX`] bytes each. Whoever
//! reads one does so through [`SecretReader`], so that another place to keep them can follow.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use persistence::MasterKey;
use persistence::sealing::{open_with, seal_with};
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, Entity, Handle, NoEffect, Origin, Refusal, System, Timestamp, Turn,
};
use types::{AppId, TenantId, home_of, owner_of_app};
use zeroize::Zeroizing;

/// Secrets of one app.
pub const SECRETS_MAX: usize = 32;
/// Bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 4_096;

/// Who reads an app's secrets.
pub trait SecretReader: Send + Sync + 'static {
    /// The secret of this name; `None` when it was not set.
    fn read(
        &self,
        system: Arc<System>,
        app: (AppId, TenantId),
        name: String,
        origin: Origin,
    ) -> BoxFuture<'static, Result<Option<Zeroizing<String>>, Refusal>>;
}

/// A secret as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sealed(…)")
    }
}

/// The secrets of one app.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AppSecrets {
    secrets: BTreeMap<String, Sealed>,
}

impl AppSecrets {
    /// Where they live: beside the app of a developer's tenant.
    pub fn address(app: &AppId, tenant: TenantId) -> Address<Self> {
        let address = Address::new(app.as_str(), owner_of_app(app), home_of(tenant));
        // A slug is neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{app} has no address"))
    }

    /// Whether one of this name was set.
    pub fn has(&self, name: &str) -> bool {
        self.secrets.contains_key(name)
    }
}

/// A secret was set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppSecretSet {
    /// What it is called.
    pub name: String,
    /// Its value, sealed.
    pub sealed: Sealed,
}

supervision::events! {
    /// What happens to an app's secrets.
    pub enum AppSecretEvent {
        /// One was set.
        Set(AppSecretSet) = "app_secret_set", 1;
    }
}

impl Entity for AppSecrets {
    const KIND: &'static str = "app_secrets";
    type Event = AppSecretEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &AppSecretEvent, _: Timestamp) {
        let AppSecretEvent::Set(AppSecretSet { name, sealed }) = event;
        self.secrets.insert(name.clone(), sealed.clone());
    }

    fn observe(&self) -> serde_json::Value {
        json!({"secrets": self.secrets.keys().collect::<Vec<_>>()})
    }
}

/// Sets a secret. 409 `too_many_secrets`.
#[derive(Clone, Debug)]
pub struct SetAppSecret {
    name: String,
    sealed: Sealed,
}

impl Command for SetAppSecret {
    const NAME: &'static str = "set_app_secret";
}

impl Handle<SetAppSecret> for AppSecrets {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: SetAppSecret) -> Result<(), Refusal> {
        let SetAppSecret { name, sealed } = command;
        let secrets = &turn.state().secrets;
        if !secrets.contains_key(&name) && secrets.len() >= SECRETS_MAX {
            let message = format!("an app has at most {SECRETS_MAX} secrets");
            return Err(Refusal::conflict("too_many_secrets", message));
        }
        turn.record(AppSecretEvent::Set(AppSecretSet { name, sealed }));
        Ok(())
    }
}

/// Seals and opens secrets of apps. A reader of them.
pub struct Vault(MasterKey);

impl Vault {
    /// With a key that the master key gave for this purpose.
    pub fn new(root: [u8; 32]) -> Self {
        Self(MasterKey::from_bytes(root))
    }

    /// The command that sets a secret. 422 for one that is empty or too long.
    pub fn set(&self, app: &AppId, name: &str, value: &str) -> Result<SetAppSecret, Refusal> {
        if value.is_empty() || value.len() > SECRET_BYTES_MAX {
            let message = format!("1 to {SECRET_BYTES_MAX} bytes");
            return Err(Refusal::invalid("client_secret", message));
        }
        let sealed = seal_with(&self.0, &bound(app, name), value.as_bytes());
        let sealed = Sealed(sealed.map_err(|_| Refusal::crashed())?);
        Ok(SetAppSecret { name: name.to_owned(), sealed })
    }

    fn open(&self, app: &AppId, name: &str, sealed: &Sealed) -> Result<Zeroizing<String>, Refusal> {
        let opened = open_with(&self.0, &bound(app, name), &sealed.0);
        let text = opened.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        text.map(Zeroizing::new).ok_or_else(Refusal::crashed)
    }
}

fn bound(app: &AppId, name: &str) -> Vec<u8> {
    [app.as_str().as_bytes(), &[0], name.as_bytes()].concat()
}

impl SecretReader for Arc<Vault> {
    fn read(
        &self,
        system: Arc<System>,
        (app, tenant): (AppId, TenantId),
        name: String,
        origin: Origin,
    ) -> BoxFuture<'static, Result<Option<Zeroizing<String>>, Refusal>> {
        let vault = Self::clone(self);
        Box::pin(async move {
            let secrets = system.directory::<AppSecrets>();
            let wanted = name.clone();
            let look = move |secrets: &AppSecrets| secrets.secrets.get(&wanted).cloned();
            let sealed = secrets.look(&AppSecrets::address(&app, tenant), origin, look).await?;
            sealed.map(|sealed| vault.open(&app, &name, &sealed)).transpose()
        })
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    #[test]
    fn a_secret_is_opened_for_its_app_and_name_alone_and_never_printed() {
        let vault = Vault::new([7; 32]);
        let (shop, other) = (AppId::new("shop").unwrap(), AppId::new("other").unwrap());
        let set = vault.set(&shop, "hub", "very secret").unwrap();
        assert!(!format!("{set:?}").contains("very"));
        let then = Given::<AppSecrets>::nothing().when(set);
        let AppSecretEvent::Set(AppSecretSet { sealed, .. }) = &then.events[0];
        assert!(!sealed.0.windows(4).any(|part| part == b"very"));
        assert_eq!(vault.open(&shop, "hub", sealed).unwrap().as_str(), "very secret");
        assert!(vault.open(&other, "hub", sealed).is_err());
        assert!(vault.open(&shop, "other", sealed).is_err());
        assert!(Vault::new([8; 32]).open(&shop, "hub", sealed).is_err());
        assert!(then.then().state().has("hub"));
        assert_eq!(vault.set(&shop, "hub", "").unwrap_err().code, "validation_error");
    }

    #[test]
    fn an_app_has_only_so_many() {
        let (vault, shop) = (Vault::new([7; 32]), AppId::new("shop").unwrap());
        let set = |n: usize| vault.set(&shop, &format!("s{n}"), "x").unwrap();
        let given = (0..SECRETS_MAX)
            .fold(Given::<AppSecrets>::nothing(), |given, n| given.when(set(n)).then());
        assert_eq!(given.when(set(SECRETS_MAX)).refused().0, "too_many_secrets");
    }
}
