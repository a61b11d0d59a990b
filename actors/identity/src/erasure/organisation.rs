//! A tenant's parting: it is switched off, its members' keys and its invitations end, nobody
//! belongs to it any more, and its name is given up for good.
//!
//! Invariant: every step may be repeated, and finds what is left of it.

use std::sync::Arc;

use supervision::{Origin, Refusal, System};
use types::{TenantId, UserId};

use super::person::{count_keys, end_invitations, end_keys, open_sessions};
use super::shredding::invitations;
use super::{Erasure, Found, NoteFound, Subject};
use crate::claim::{Claim, Retire, claim_address};
use crate::membership::TENANT_NAMES;
use crate::service::Identity;
use crate::tenant::{Details, Dissolve, SetActive, Tenant};

/// Ends everything of a tenant but its key. `found` is what was noted before a restart.
pub(super) async fn part(
    system: &Arc<System>,
    tenant: TenantId,
    found: Option<Box<Found>>,
    origin: &Origin,
) -> Result<(), Refusal> {
    let (identity, subject) = (system.port::<Identity>(), Subject::Tenant(tenant));
    let details = identity.look_tenant(tenant, |it| it.details.clone()).await?.flatten();
    let Some(details) = details else {
        let is_noted = found.is_some();
        return is_noted.then_some(()).ok_or_else(|| Refusal::not_found("tenant"));
    };
    if found.is_none() {
        let found = count(system, &details).await?;
        let erasures = system.directory::<Erasure>();
        erasures.ask(&Erasure::address(subject), NoteFound(found), origin.clone()).await?;
    }
    identity.change_tenant(tenant, SetActive { active: false }, origin.clone()).await?;
    for user in details.members.keys() {
        end_keys(system, *user, tenant, origin).await?;
    }
    let asked = invitations(system, subject, None).await?;
    end_invitations(&identity, system, &asked, origin).await?;
    let tenants = system.directory::<Tenant>();
    loop {
        let left = tenants.ask(&Tenant::address(tenant), Dissolve {}, origin.clone()).await?;
        identity.tell_members(tenant, origin.clone()).await?;
        if left == 0 {
            break;
        }
    }
    system.port::<super::Farewells>().part(system, subject, origin).await?;
    give_name_up(&identity, system, &details, origin).await
}

async fn count(system: &Arc<System>, details: &Details) -> Result<Found, Refusal> {
    let (tenant, subject) = (details.id, Subject::Tenant(details.id));
    let (mut api_keys, mut sessions) = (0, 0);
    for user in details.members.keys() {
        api_keys += count_keys(system, *user, tenant).await?;
        sessions += open_sessions(system, *user, Some(tenant));
    }
    let asked = invitations(system, subject, None).await?;
    let number = system.journal().keys().number_of(subject.key());
    Ok(Found {
        sessions: sessions as u64,
        api_keys: api_keys as u64,
        memberships: details.members.len() as u64,
        invitations: asked.iter().filter(|asked| asked.is_open).count() as u64,
        key_numbers: number.into_iter().collect(),
        ..Found::default()
    })
}

/// The name that it was addressed by leads nowhere, for ever.
async fn give_name_up(
    identity: &Identity,
    system: &System,
    details: &Details,
    origin: &Origin,
) -> Result<(), Refusal> {
    let settings = details.settings.value();
    let Some(name) = settings.get("tenant_id").and_then(serde_json::Value::as_str) else {
        return Ok(());
    };
    let claim = claim_address(TENANT_NAMES, name, identity.claim_key());
    let retire = Retire { holder: details.id.0 };
    system.directory::<Claim>().ask(&claim, retire, origin.clone()).await
}

/// Under whose key a mail stands whose recipient was invited and had no account.
pub(super) fn stranger(invitation: types::InvitationId) -> UserId {
    UserId(invitation.0)
}
