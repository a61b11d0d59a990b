//! The apps that are called, read once and kept ready to run.
//!
//! Invariant: whoever changes an app calls [`Apps::forget`] after the change is durable and before
//! answering; a call that starts after that answer sees the change. A look-up that began before it
//! is used once and not kept.
//!
//! Deliberate limit: between [`APPS_KEPT`] and twice as many are kept.

use std::sync::Arc;

use control::app::{App, Host, Status};
use control::pricing::Prices;
use identity::tenant::is_member;
use parking_lot::Mutex;
use persistence::Generations;
use supervision::{Address, Class, Origin, Refusal, System};
use types::{AppId, SharePercent, TenantId, UserId};

use crate::ir;

/// How many apps are kept ready.
pub const APPS_KEPT: usize = 256;

/// An app, ready to run.
#[derive(Debug)]
pub struct CompiledApp {
    /// The id.
    pub id: AppId,
    /// The current version; `None` until one is deployed.
    pub ir: Option<Arc<ir::App>>,
    /// Its name; empty until one is deployed.
    pub version: String,
    /// Who develops it.
    pub developer: UserId,
    /// The developer's tenant.
    pub tenant: TenantId,
    /// Its state.
    pub status: Status,
    /// What its functions cost.
    pub prices: Prices,
    /// The developer's share of the price.
    pub share: SharePercent,
    /// Its own host.
    pub host: Host,
}

impl CompiledApp {
    /// Whether somebody may know of it: it is active, of their own tenant, or they develop it.
    pub async fn is_visible_to(
        &self,
        system: &System,
        tenant: TenantId,
        user: Option<UserId>,
        origin: &Origin,
    ) -> Result<bool, Refusal> {
        if self.status == Status::Active || self.tenant == tenant {
            return Ok(true);
        }
        match user {
            Some(user) => self.is_developed_by(system, user, origin).await,
            None => Ok(false),
        }
    }

    /// Whether a user develops it: who made it does, for as long as they belong to its tenant.
    pub async fn is_developed_by(
        &self,
        system: &System,
        user: UserId,
        origin: &Origin,
    ) -> Result<bool, Refusal> {
        if user != self.developer {
            return Ok(false);
        }
        is_member(system, self.tenant, user, origin.clone()).await
    }
}

struct Kept {
    apps: Generations<AppId, Arc<CompiledApp>>,
    /// How often something was forgotten.
    changes: u64,
}

/// The apps. A port.
pub struct Apps {
    kept: Mutex<Kept>,
}

impl Default for Apps {
    fn default() -> Self {
        let kept = Kept { apps: Generations::new(APPS_KEPT), changes: 0 };
        Self { kept: Mutex::new(kept) }
    }
}

impl Apps {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Where an app lives; `None` when there is none.
    pub fn locate(system: &System, id: &AppId) -> Option<Address<App>> {
        Address::from_place(system.locate("app", id.as_str())?)
    }

    /// The app as it stands; 404 when there is none.
    pub async fn find(
        &self,
        system: &Arc<System>,
        id: &AppId,
        origin: &Origin,
    ) -> Result<Arc<CompiledApp>, Refusal> {
        let changes = {
            let mut kept = self.kept.lock();
            if let Some(app) = kept.apps.get_mut(id) {
                return Ok(Arc::clone(app));
            }
            kept.changes
        };
        let missing = || Refusal::not_found("app");
        let address = Self::locate(system, id).ok_or_else(missing)?;
        let apps = system.directory::<App>();
        let details = apps.look(&address, origin.clone(), |app| app.details().cloned()).await;
        // What was erased is not there.
        let details = details.or_else(|it| if it.is_erased() { Ok(None) } else { Err(it) })?;
        let details = details.ok_or_else(missing)?;
        // A large envelope takes milliseconds to read.
        let compiled = tokio::task::spawn_blocking(move || compile(details)).await;
        let app = Arc::new(compiled.map_err(|_| Refusal::crashed())??);
        let mut kept = self.kept.lock();
        if kept.changes == changes {
            kept.apps.insert(id.clone(), Arc::clone(&app));
        }
        Ok(app)
    }

    /// Reads every app anew when it is called next.
    pub fn forget_all(&self) {
        let mut kept = self.kept.lock();
        kept.apps = Generations::new(APPS_KEPT);
        kept.changes += 1;
    }

    /// Reads the app anew when it is called next.
    pub fn forget(&self, id: &AppId) {
        let mut kept = self.kept.lock();
        kept.apps.remove(id);
        kept.changes += 1;
    }
}

fn compile(details: control::app::Details) -> Result<CompiledApp, Refusal> {
    let damaged = |what: &str| {
        tracing::error!(app = %details.id, what, "a deployed app does not load");
        let message = "the deployed version cannot be loaded by this server; deploy it again";
        Refusal::new(Class::Conflict, "app_damaged", message)
    };
    let version = details.current().map(|current| current.version.clone()).unwrap_or_default();
    let parsed = details.ir.as_ref().map(|envelope| ir::parse(&envelope.value())).transpose();
    let parsed = parsed.map_err(|issues| damaged(&ir::join(&issues)))?;
    let listing = &details.listing;
    let prices = Prices::read(listing.pricing_model, listing.pricing_config.as_ref());
    let prices = prices.map_err(|refusal| damaged(&refusal.message))?;
    Ok(CompiledApp {
        ir: parsed.map(Arc::new),
        version,
        developer: details.developer,
        tenant: details.tenant,
        status: details.status,
        prices,
        share: details.listing.revenue_split_dev,
        host: details.host,
        id: details.id,
    })
}
