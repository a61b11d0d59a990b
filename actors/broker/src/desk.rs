//! Where secrets are given in and handed out. A port.
//!
//! Invariants
//! - A value is opened here alone, for [`Desk::read`] and [`Desk::for_host`], and wiped when
//!   whoever got it drops it.
//! - What an app does not declare is neither taken nor given.
//!
//! Deliberate limit: when a value was last given out is kept in memory, for the latest
//! `READS_KEPT`, and is not known after a restart.

use std::sync::Arc;

use parking_lot::Mutex;
use persistence::Generations;
use supervision::{Class, Origin, Refusal, System, Timestamp};
use types::{AppId, TenantId, UserId};
use zeroize::Zeroizing;

use crate::app_secrets::{AppSecrets, Holder, RemoveSecret, SetSecret, Stored, not_set};
use crate::declaration::{Declaration, Whose};
use crate::sealing;

/// How many values' last reads are remembered, at most twice over.
const READS_KEPT: usize = 16_384;

/// Who uses an app's secrets.
#[derive(Clone, Debug)]
pub struct Subject {
    /// In which tenant.
    pub tenant: TenantId,
    /// Which user.
    pub user: UserId,
    /// The app.
    pub app: AppId,
    /// The tenant of the app's developer.
    pub home: TenantId,
}

impl Subject {
    /// Where a secret's value is kept.
    pub fn holder(&self, whose: Whose) -> Holder {
        let app = self.app.clone();
        match whose {
            Whose::User => Holder { tenant: self.tenant, user: Some(self.user), app },
            Whose::App => Holder { tenant: self.home, user: None, app },
        }
    }
}

/// What is known of a secret beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretView {
    /// From 1 up; `None` when it has no value.
    pub version: Option<u64>,
    /// Since when it has this value.
    pub set_at: Option<Timestamp>,
    /// When it was last given out, as far as this process knows.
    pub last_accessed_at: Option<Timestamp>,
}

/// The desk.
pub struct Desk {
    reads: Mutex<Generations<(u128, u128, String), Timestamp>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { reads: Mutex::new(Generations::new(READS_KEPT)) }
    }
}

fn read_key(holder: &Holder, name: &str) -> (u128, u128, String) {
    let user = holder.user.map_or(0, |user| user.0);
    (holder.tenant.0, user, format!("{}/{name}", holder.app))
}

async fn stored(
    system: &Arc<System>,
    holder: &Holder,
    origin: &Origin,
) -> Result<Vec<(String, Stored)>, Refusal> {
    let address = holder.address();
    // Most have set nothing: what does not exist is not woken.
    if system.locate("app_secrets", address.id()).is_none() {
        return Ok(Vec::new());
    }
    let all = |secrets: &AppSecrets| -> Vec<_> {
        secrets.values().map(|(name, stored)| (name.to_owned(), stored.clone())).collect()
    };
    system.directory::<AppSecrets>().look(&address, origin.clone(), all).await
}

impl Desk {
    /// Nothing was read yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What is known of declared secrets, in their order.
    pub async fn list(
        &self,
        system: &Arc<System>,
        subject: &Subject,
        declared: &[Declaration],
        origin: &Origin,
    ) -> Result<Vec<SecretView>, Refusal> {
        let values = self.values(system, subject, declared, origin).await?;
        let views = declared.iter().zip(values).map(|(secret, stored)| {
            let key = read_key(&subject.holder(secret.scope), &secret.name);
            SecretView {
                version: stored.as_ref().map(|stored| stored.version),
                set_at: stored.map(|stored| stored.set_at),
                last_accessed_at: self.reads.lock().get_mut(&key).copied(),
            }
        });
        Ok(views.collect())
    }

    async fn values(
        &self,
        system: &Arc<System>,
        subject: &Subject,
        declared: &[Declaration],
        origin: &Origin,
    ) -> Result<Vec<Option<Stored>>, Refusal> {
        let mut values = vec![None; declared.len()];
        for whose in [Whose::User, Whose::App] {
            if !declared.iter().any(|secret| secret.scope == whose) {
                continue;
            }
            let known = stored(system, &subject.holder(whose), origin).await?;
            for (secret, value) in declared.iter().zip(&mut values) {
                if secret.scope == whose {
                    let found = known.iter().find(|(name, _)| *name == secret.name);
                    *value = found.map(|(_, stored)| stored.clone());
                }
            }
        }
        Ok(values)
    }

    fn open(
        &self,
        system: &Arc<System>,
        holder: &Holder,
        name: &str,
        stored: &Stored,
    ) -> Result<Zeroizing<String>, Refusal> {
        let opened = sealing::open(system.journal().keys(), holder, name, &stored.sealed);
        let text = opened.and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).ok()?;
            Some(Zeroizing::new(text.to_owned()))
        });
        let Some(text) = text else {
            let message = format!("the secret {name} cannot be opened");
            return Err(Refusal::new(Class::Busy, "vault_unavailable", message));
        };
        self.reads.lock().insert(read_key(holder, name), system.clock().now());
        Ok(text)
    }

    /// The value of a declared secret; 404 `secret_not_set`, 503 `vault_unavailable`.
    pub async fn read(
        &self,
        system: &Arc<System>,
        subject: &Subject,
        secret: &Declaration,
        origin: &Origin,
    ) -> Result<Zeroizing<String>, Refusal> {
        let declared = std::slice::from_ref(secret);
        let values = self.values(system, subject, declared, origin).await?;
        let stored = values.into_iter().next().flatten().ok_or_else(|| not_set(&secret.name))?;
        self.open(system, &subject.holder(secret.scope), &secret.name, &stored)
    }

    /// The values of all declared secrets that have one, for the app's own host.
    pub async fn for_host(
        &self,
        system: &Arc<System>,
        subject: &Subject,
        declared: &[Declaration],
        origin: &Origin,
    ) -> Result<Vec<(String, Zeroizing<String>)>, Refusal> {
        let values = self.values(system, subject, declared, origin).await?;
        let mut opened = Vec::new();
        for (secret, stored) in declared.iter().zip(values) {
            if let Some(stored) = stored {
                let holder = subject.holder(secret.scope);
                let value = self.open(system, &holder, &secret.name, &stored)?;
                opened.push((secret.name.clone(), value));
            }
        }
        Ok(opened)
    }

    /// What sets a secret, and where. 422 for a value that is empty or longer than declared.
    pub fn sealed(
        &self,
        system: &System,
        subject: &Subject,
        secret: &Declaration,
        value: &str,
        replaces: bool,
    ) -> Result<(Holder, SetSecret), Refusal> {
        let holder = subject.holder(secret.scope);
        let of = (secret.name.as_str(), secret.bytes_max);
        let set = self.sealed_for(system, &holder, of, ("value", value))?;
        Ok((holder, SetSecret { replaces, ..set }))
    }

    /// What sets a value of a holder's by its name. `given` is the field that it came in and the
    /// value: 422 for one that is empty or longer than `bytes_max`.
    pub fn sealed_for(
        &self,
        system: &System,
        holder: &Holder,
        (name, bytes_max): (&str, usize),
        (field, value): (&str, &str),
    ) -> Result<SetSecret, Refusal> {
        if value.is_empty() || value.len() > bytes_max {
            return Err(Refusal::invalid(field, format!("1 to {bytes_max} bytes")));
        }
        let sealed = sealing::seal(system.journal().keys(), holder, name, value.as_bytes())?;
        Ok(SetSecret { name: name.to_owned(), sealed, replaces: false })
    }

    /// A value of a holder's by its name; `None` when it has none. 503 `vault_unavailable`.
    pub async fn held(
        &self,
        system: &Arc<System>,
        holder: &Holder,
        name: &str,
        origin: &Origin,
    ) -> Result<Option<Zeroizing<String>>, Refusal> {
        let known = stored(system, holder, origin).await?;
        let found = known.iter().find(|(known, _)| known == name);
        found.map(|(_, stored)| self.open(system, holder, name, stored)).transpose()
    }

    /// Removes a secret. Answers whether it had a value.
    pub async fn remove(
        &self,
        system: &Arc<System>,
        subject: &Subject,
        secret: &Declaration,
        origin: Origin,
    ) -> Result<bool, Refusal> {
        let address = subject.holder(secret.scope).address();
        if system.locate("app_secrets", address.id()).is_none() {
            return Ok(false);
        }
        let remove = RemoveSecret { name: secret.name.clone() };
        system.directory::<AppSecrets>().ask(&address, remove, origin).await
    }
}
