//! What secrets have to do when a tenant is erased: the values that its members gave in it are
//! removed, which are their records and not the tenant's. Whatever of them is left in the journal
//! opens no more, for the tenant's key goes ([`crate::app_secrets`]).
//!
//! Deliberate limit: the headers of all holders' first records are looked through.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use identity::erasure::{Farewell, Subject};
use supervision::{Address, Entity as _, Origin, Refusal, System};
use types::{TenantId, home_of};

use crate::app_secrets::{AppSecrets, RemoveSecret};

/// The part of secrets.
pub struct BrokerFarewell;

impl Farewell for BrokerFarewell {
    fn part<'a>(
        &'a self,
        system: &'a Arc<System>,
        subject: Subject,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            let Subject::Tenant(tenant) = subject else { return Ok(()) };
            let reading = Arc::clone(system);
            let found = tokio::task::spawn_blocking(move || given_in(&reading, tenant));
            for address in found.await.map_err(|_| Refusal::crashed())?? {
                match remove_all(system, &address, origin).await {
                    // What its user's erasure has taken is gone already.
                    Err(refusal) if refusal.is_erased() => {}
                    done => done?,
                }
            }
            Ok(())
        }
        .boxed()
    }
}

async fn remove_all(
    system: &Arc<System>,
    address: &Address<AppSecrets>,
    origin: &Origin,
) -> Result<(), Refusal> {
    let secrets = system.directory::<AppSecrets>();
    let names = |secrets: &AppSecrets| -> Vec<String> {
        secrets.values().map(|(name, _)| name.to_owned()).collect()
    };
    for name in secrets.look(address, origin.clone(), names).await? {
        secrets.ask(address, RemoveSecret { name }, origin.clone()).await?;
    }
    Ok(())
}

/// The holders whose tenant it is. Blocks.
fn given_in(system: &System, tenant: TenantId) -> Result<Vec<Address<AppSecrets>>, Refusal> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let next = system.journal().next_stream(AppSecrets::KIND, after.as_ref());
        let Some(stream) = next.map_err(|_| Refusal::crashed())? else { return Ok(found) };
        let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
        let place = system.locate(AppSecrets::KIND, id);
        let place = place.filter(|place| place.home == home_of(tenant));
        found.extend(place.and_then(Address::from_place));
        after = Some(stream);
    }
}
