//! What the market has to do when a tenant is erased: its apps leave the catalogue and the shop
//! window, and what its members have installed is taken off, so that it counts no more. When a
//! person is erased, what they have installed is; their reviews keep the rating, and their words go
//! with the person's key.
//!
//! Invariant: an install of a tenant that is erased was uncounted before its records cannot be read
//! any more, for nobody could say afterwards what is still counted.
//!
//! An app that is offered is suspended while its records can still be read, so that its history
//! says how it ended; then its records go with its tenant's key, and whoever asks for it is told
//! that there is none. Its id stays claimed and is never given again.
//!
//! Deliberate limits
//! - Every app is looked through, by the headers of their first records.
//! - A person's profile as a developer goes with the person's own key; the apps that they made for
//!   a tenant are that tenant's.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use control::app::{App, SetStatus, Status};
use extensions::Apps;
use futures::future::{BoxFuture, FutureExt as _};
use identity::Identity;
use identity::erasure::{Farewell, Subject};
use supervision::{Address, Class, Entity as _, Origin, Refusal, System};
use types::{AppId, TenantId, UserId, home_of};

use crate::install::{Holder, Install, UninstallApp};
use crate::marketplace::{installed_in, installed_of};
use crate::portal::blocking;
use crate::storefront::Storefront;

/// How long uncounting what a tenant has installed may take.
const COUNT_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether it is done.
const COUNT_PERIOD: Duration = Duration::from_millis(5);

/// The market's part.
pub struct MarketFarewell {
    apps: Arc<Apps>,
    /// Known from the first farewell on.
    window: OnceLock<Arc<Storefront>>,
}

impl MarketFarewell {
    /// With the apps that are kept ready.
    pub fn new(apps: Arc<Apps>) -> Arc<Self> {
        Arc::new(Self { apps, window: OnceLock::new() })
    }

    async fn suspend(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        system.find_port::<Storefront>().into_iter().for_each(|it| drop(self.window.set(it)));
        let listed = system.clone();
        let found = tokio::task::spawn_blocking(move || apps_of(&listed, tenant));
        let apps = system.directory::<App>();
        for address in found.await.map_err(|_| Refusal::crashed())?? {
            let set = SetStatus { status: Status::Suspended, reason: None };
            match apps.ask(&address, set, origin.clone()).await {
                // What is not offered is left as it is, and so is what went already.
                Err(refusal)
                    if matches!(refusal.class, Class::Conflict | Class::NotFound)
                        || refusal.is_erased() => {}
                done => drop(done?),
            }
            if let Ok(id) = AppId::new(address.id()) {
                Storefront::refresh(system, &id, origin).await?;
            }
        }
        Ok(())
    }
}

/// Takes off what a person has installed, in every tenant that they belong to.
async fn take_off(system: &Arc<System>, user: UserId, origin: &Origin) -> Result<(), Refusal> {
    let Some(identity) = system.find_port::<Identity>() else { return Ok(()) };
    let installs = system.directory::<Install>();
    // They have left them by now.
    for tenant in identity.tenants_ever(user).await? {
        let reading = Arc::clone(system);
        let held = blocking(move || installed_of(&reading, tenant, user));
        for holder in held.await? {
            match installs.ask(&holder.address(), UninstallApp {}, origin.clone()).await {
                Err(refusal) if refusal.is_erased() => {}
                done => drop(done?),
            }
        }
    }
    Ok(())
}

/// Takes off what the members of a tenant have installed, those too who have left it, and waits
/// until it counts no more. Refused as busy when that takes too long: an erasure tries again.
async fn take_off_all(
    system: &Arc<System>,
    tenant: TenantId,
    origin: &Origin,
) -> Result<(), Refusal> {
    let reading = Arc::clone(system);
    let held = blocking(move || installed_in(&reading, tenant)).await?;
    let installs = system.directory::<Install>();
    for holder in &held {
        match installs.ask(&holder.address(), UninstallApp {}, origin.clone()).await {
            Err(refusal) if refusal.is_erased() => {}
            done => drop(done?),
        }
    }
    let counted = async {
        for address in held.iter().map(Holder::address) {
            loop {
                match installs.look(&address, origin.clone(), Install::is_pending).await {
                    Ok(true) => tokio::time::sleep(COUNT_PERIOD).await,
                    Ok(false) => break,
                    Err(refusal) if refusal.is_erased() => break,
                    Err(refusal) => return Err(refusal),
                }
            }
        }
        Ok(())
    };
    let counted = tokio::time::timeout(COUNT_WAIT_MAX, counted).await;
    counted.unwrap_or_else(|_| Err(Refusal::busy()))
}

/// The apps whose records are a tenant's. Blocks.
fn apps_of(system: &System, tenant: TenantId) -> Result<Vec<Address<App>>, Refusal> {
    let (mut apps, mut after) = (Vec::new(), None);
    loop {
        let next = system.journal().next_stream(App::KIND, after.as_ref());
        let Some(stream) = next.map_err(|_| Refusal::crashed())? else { return Ok(apps) };
        let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
        let place = system.locate(App::KIND, id).filter(|place| place.home == home_of(tenant));
        apps.extend(place.and_then(Address::from_place));
        after = Some(stream);
    }
}

impl Farewell for MarketFarewell {
    fn part<'a>(
        &'a self,
        system: &'a Arc<System>,
        subject: Subject,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        match subject {
            Subject::Tenant(tenant) => async move {
                take_off_all(system, tenant, origin).await?;
                self.suspend(system, tenant, origin).await
            }
            .boxed(),
            Subject::User(user) => take_off(system, user, origin).boxed(),
        }
    }

    fn forget(&self, subject: Subject) {
        self.apps.forget_all();
        if let (Subject::Tenant(tenant), Some(window)) = (subject, self.window.get()) {
            window.forget(tenant);
        }
    }
}
