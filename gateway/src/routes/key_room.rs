//! How many API keys a tenant has, and whether its plan lets it have one more.
//!
//! A plan limits the keys of all members together; keys are kept by member, so they are counted
//! where they are. Limits: a member who has never made a key costs one look into the journal; two
//! keys made at the same moment may go beyond the limit by one.

use billing::plan_limits::{Meter, Plans};
use identity::api_key::ApiKeys;
use identity::tenant::Tenant;
use supervision::{Entity as _, Origin, Refusal};
use types::{TenantId, UserId};

use crate::app::App;

/// The API keys of a tenant's members; no more than `enough` are counted.
pub(super) async fn keys_in(
    app: &App,
    tenant: TenantId,
    enough: u64,
    origin: &Origin,
) -> Result<u64, Refusal> {
    let members = |tenant: &Tenant| -> Vec<UserId> {
        tenant.details.iter().flat_map(|it| it.members.keys().copied()).collect()
    };
    let members = app.identity.look_tenant(tenant, members).await?.unwrap_or_default();
    let (directory, mut count) = (app.system.directory::<ApiKeys>(), 0);
    for member in members {
        if count >= enough {
            break;
        }
        let address = ApiKeys::address(member, tenant);
        if app.system.locate(ApiKeys::KIND, address.id()).is_none() {
            continue;
        }
        let look = |keys: &ApiKeys| keys.newest_first().count() as u64;
        match directory.look(&address, origin.clone(), look).await {
            Err(refusal) if refusal.is_erased() => {}
            counted => count += counted?,
        }
    }
    Ok(count)
}

/// 402 `plan_limit_reached` when the tenant's plan has no room for one more key.
pub(super) async fn check(app: &App, tenant: TenantId, origin: &Origin) -> Result<(), Refusal> {
    let limit = Plans(&app.system).limit(tenant, Meter::ApiKeys, origin.clone()).await?;
    let Some(most) = limit.limit else { return Ok(()) };
    let enough = u64::try_from(most).unwrap_or_default();
    limit.check(keys_in(app, tenant, enough, origin).await?)
}
