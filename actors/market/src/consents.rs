//! What users have agreed to, as calls ask: one row a call, and one question to the install when
//! the app asks for something else than it did.
//!
//! A user who has not installed an app has agreed to nothing and has switched nothing off: their
//! scopes decide alone. An app of the user's own tenant changes without asking.

use std::sync::Arc;

use extensions::consent::{Consent, Consenting};
use extensions::{Apps, CompiledApp};
use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use persistence::{Generations, codec};
use serde_json::json;
use supervision::{Class, Origin, Refusal, System};
use types::{AppId, TenantId, UserId, owner_of_tenant};

use crate::install::{Grant, Holder, INSTALL_FAMILY, Install, InstallRow};
use crate::terms::{Terms, TermsDiff};

/// How many apps' terms are kept ready.
const TERMS_KEPT: usize = extensions::catalogue::APPS_KEPT;

/// What an app asks for, of the version that it was read from.
type Read = (Arc<CompiledApp>, Arc<Terms>, [u8; 32]);

/// See the module's head.
pub struct Consents {
    terms: Mutex<Generations<AppId, Read>>,
}

impl Consents {
    /// The port that calls ask.
    pub fn port() -> Arc<Consenting> {
        Arc::new(Consenting(Self::new()))
    }

    /// As the port has it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { terms: Mutex::new(Generations::new(TERMS_KEPT)) })
    }

    fn terms(&self, app: &Arc<CompiledApp>) -> (Arc<Terms>, [u8; 32]) {
        let mut kept = self.terms.lock();
        if let Some((of, terms, digest)) = kept.get_mut(&app.id)
            && Arc::ptr_eq(of, app)
        {
            return (Arc::clone(terms), *digest);
        }
        let terms = Arc::new(Terms::of(app));
        let digest = terms.digest();
        kept.insert(app.id.clone(), (Arc::clone(app), Arc::clone(&terms), digest));
        (terms, digest)
    }

    async fn agreed(
        &self,
        system: &Arc<System>,
        holder: Holder,
        app: &Arc<CompiledApp>,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let Some(row) = row_of(system, &holder) else { return Ok(()) };
        if row.disabled.is_some() {
            let message = "this app is switched off for you";
            return Err(Refusal::new(Class::Forbidden, "app_disabled", message));
        }
        let Some(agreed) = row.terms.filter(|_| app.tenant != holder.tenant) else {
            return Ok(());
        };
        let (terms, digest) = self.terms(app);
        if agreed == digest {
            return Ok(());
        }
        let granted = |install: &Install| install.granted().cloned();
        let installs = system.directory::<Install>();
        let granted = installs.look(&holder.address(), origin.clone(), granted).await?;
        match granted.map(|grant| grant.terms.widened_by(&terms)) {
            Some(diff) if !diff.is_empty() => Err(consent_needed(app, &diff, digest)),
            _ => Ok(()),
        }
    }
}

impl Consent for Consents {
    fn check<'a>(
        &'a self,
        system: &'a Arc<System>,
        (tenant, user): (TenantId, UserId),
        app: &'a Arc<CompiledApp>,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        self.agreed(system, Holder { tenant, user, app: app.id.clone() }, app, origin).boxed()
    }
}

/// The row of somebody who has an app installed or switched off.
pub(crate) fn row_of(system: &System, holder: &Holder) -> Option<InstallRow> {
    let shard = owner_of_tenant(holder.tenant).shard();
    let row = system.row(shard, INSTALL_FAMILY, &holder.key())?;
    codec::decode(&row).ok()
}

/// What installing an app agrees to now.
pub(crate) async fn grant_of(
    system: &Arc<System>,
    app: &CompiledApp,
    origin: &Origin,
) -> Result<Grant, Refusal> {
    let address = Apps::locate(system, &app.id).ok_or_else(|| Refusal::not_found("app"))?;
    let digest = |app: &control::app::App| {
        app.details().and_then(|details| details.current()).map(|version| version.digest)
    };
    let apps = system.directory::<control::app::App>();
    let digest = apps.look(&address, origin.clone(), digest).await?.unwrap_or_default();
    Ok(Grant { version: app.version.clone(), digest, terms: Terms::of(app) })
}

/// 409: the app asks for more than was agreed to.
fn consent_needed(app: &CompiledApp, diff: &TermsDiff, digest: [u8; 32]) -> Refusal {
    let message = "this app asks for more than you agreed to: install it again to accept";
    let facts = json!({"app_id": app.id, "version": app.version, "diff": diff,
        "terms": hex(&digest)});
    Refusal::conflict("consent_needed", message).with_facts(&facts)
}

/// A digest as callers see it.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
