//! A person's parting: out of their tenants, their sessions, their keys; nobody writes to them any
//! more, and their address is free.
//!
//! Invariant: every step may be repeated, and finds what is left of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use persistence::{RowRange, codec};
use serde_json::json;
use supervision::address::Place;
use supervision::reminders::PENDING_FAMILY;
use supervision::{Address, Entity as _, Origin, Refusal, System};
use types::{TenantId, UserId, owner_of_user};

use super::shredding::{Asked, invitations};
use super::{Erasure, Found, NoteFound, Subject};
use crate::api_key::{ApiKeys, DeleteKey};
use crate::claim::{Claim, EmailAddress, Retire, Vacate};
use crate::login::session_rows;
use crate::mail::{self, Mail};
use crate::service::Identity;
use crate::tenant::{Depart, Departure, Tenant};
use crate::token_cache::OwnerClass;
use crate::unless_erased;
use crate::user::{EMAIL_LABEL, Profile, SetActive, User};

/// How many rows one step reads.
const STEP_ROWS: usize = 256;

/// What is known of the person, and where they have been.
struct Known {
    profile: Profile,
    tenants: BTreeSet<TenantId>,
    email: Option<EmailAddress>,
}

/// Ends everything of a person but their key. `found` is what was noted before a restart.
pub(super) async fn part(
    system: &Arc<System>,
    user: UserId,
    found: Option<Box<Found>>,
    origin: &Origin,
) -> Result<(), Refusal> {
    let identity = system.port::<Identity>();
    let Some(known) = known(&identity, system, user).await? else {
        let is_noted = found.is_some();
        return is_noted.then_some(()).ok_or_else(|| Refusal::not_found("user"));
    };
    if found.is_none() {
        let found = count(&identity, system, &known).await?;
        let (erasures, address) = (system.directory(), Erasure::address(Subject::User(user)));
        erasures.ask(&address, NoteFound(found), origin.clone()).await?;
    }
    let has_own = leave(&identity, &known, origin).await?;
    identity.change_user(user, SetActive { active: false }, origin.clone()).await?;
    identity.revoke_other_sessions(user, None, None, origin.clone()).await?;
    for tenant in &known.tenants {
        end_keys(system, user, *tenant, origin).await?;
    }
    let asked = invitations(system, Subject::User(user), known.tag(&identity)).await?;
    end_invitations(&identity, system, &asked, origin).await?;
    for address in waiting_mails(system, user) {
        mail::cancel(system, &address, origin.clone()).await?;
    }
    crate::agency::leave(system, user, origin).await?;
    system.port::<super::Farewells>().part(system, Subject::User(user), origin).await?;
    if let Some(email) = &known.email {
        let claim = email.claim(identity.claim_key());
        let claims = system.directory::<Claim>();
        claims.ask(&claim, Vacate { holder: user.0 }, origin.clone()).await?;
    }
    let own = Subject::Tenant(user.direct_tenant());
    // Begun before a restart, it is found without a member.
    if has_own || identity.is_begun(own).await? {
        let reason = "its owner is erased, and nobody else was in it".to_owned();
        // The process of the tenant never waits for this one.
        Box::pin(identity.erase(own, reason, origin.clone())).await?;
    }
    Ok(())
}

async fn known(
    identity: &Identity,
    system: &System,
    user: UserId,
) -> Result<Option<Known>, Refusal> {
    let Some(address) = identity.user_address(user)? else { return Ok(None) };
    let look = |user: &User| {
        let told: Vec<TenantId> = user.told.keys().copied().collect();
        user.profile.clone().map(|profile| (profile, told))
    };
    let users = system.directory::<User>();
    let found = users.look(&address, system.system_origin(), look).await;
    let Some((profile, told)) = unless_erased(found)? else { return Ok(None) };
    let mut tenants: BTreeSet<TenantId> = told.into_iter().collect();
    tenants.extend(profile.memberships.keys().copied());
    tenants.insert(profile.home);
    let email = profile.email.open(system.journal().keys(), EMAIL_LABEL);
    let email = email.and_then(|email| EmailAddress::new(&email).ok());
    Ok(Some(Known { profile, tenants, email }))
}

impl Known {
    fn tag(&self, identity: &Identity) -> Option<String> {
        let email = self.email.as_ref()?;
        Some(email.claim(identity.claim_key()).id().to_owned())
    }
}

async fn count(identity: &Identity, system: &Arc<System>, known: &Known) -> Result<Found, Refusal> {
    let user = known.profile.id;
    let mut api_keys = 0;
    for tenant in &known.tenants {
        api_keys += keys_of(system, user, *tenant).await?.len();
    }
    let (email_tag, subject) = (known.tag(identity), Subject::User(user));
    let asked = invitations(system, subject, email_tag.clone()).await?;
    let numbers = system.journal().keys().number_of(subject.key());
    Ok(Found {
        sessions: open_sessions(system, user, None) as u64,
        api_keys: api_keys as u64,
        second_factors: identity.factors(user).await?.0.len() as u64,
        memberships: known.profile.memberships.len() as u64,
        invitations: asked.iter().filter(|asked| asked.is_open).count() as u64,
        mails: waiting_mails(system, user).len() as u64,
        key_numbers: numbers.into_iter().collect(),
        email_tag,
    })
}

/// How many sessions of a user are open, in one tenant or in all.
pub(super) fn open_sessions(system: &System, user: UserId, tenant: Option<TenantId>) -> usize {
    let (mut after, mut count) = (None, 0);
    loop {
        let rows = session_rows(system, user, after, false);
        let Some((last, _)) = rows.last() else { return count };
        after = Some(last.clone());
        let is_in = |tenant_of: TenantId| tenant.is_none_or(|tenant| tenant_of == tenant);
        count += rows.iter().filter(|(_, row)| is_in(row.tenant)).count();
    }
}

/// The keys of a user in a tenant.
async fn keys_of(
    system: &System,
    user: UserId,
    tenant: TenantId,
) -> Result<Vec<crate::api_key::ApiKey>, Refusal> {
    let address = ApiKeys::address(user, tenant);
    if system.locate(ApiKeys::KIND, address.id()).is_none() {
        return Ok(Vec::new());
    }
    let all = |keys: &ApiKeys| Some(keys.newest_first().cloned().collect());
    let found = system.directory::<ApiKeys>().look(&address, system.system_origin(), all).await;
    Ok(unless_erased(found)?.unwrap_or_default())
}

/// How many keys a user has in a tenant.
pub(super) async fn count_keys(
    system: &System,
    user: UserId,
    tenant: TenantId,
) -> Result<usize, Refusal> {
    Ok(keys_of(system, user, tenant).await?.len())
}

/// Deletes the keys of a user in a tenant, and gives up for good what finds them.
pub(super) async fn end_keys(
    system: &System,
    user: UserId,
    tenant: TenantId,
    origin: &Origin,
) -> Result<(), Refusal> {
    let identity = system.port::<Identity>();
    let (keys, claims) = (system.directory::<ApiKeys>(), system.directory::<Claim>());
    let address = ApiKeys::address(user, tenant);
    for key in keys_of(system, user, tenant).await? {
        let claim = key.hash.claim(identity.claim_key());
        claims.ask(&claim, Retire { holder: key.id.0 }, origin.clone()).await?;
        match keys.ask(&address, DeleteKey { key: key.id }, origin.clone()).await {
            // It expired meanwhile.
            Err(refusal) if refusal.class == supervision::Class::NotFound => {}
            deleted => deleted?,
        }
        let epoch = crate::api_key::ENDED_EPOCH;
        identity.raise(OwnerClass::ApiKey, key.id.0, epoch, system);
    }
    Ok(())
}

/// Takes open invitations back, and gives up what waits to be mailed of any.
pub(super) async fn end_invitations(
    identity: &Identity,
    system: &System,
    asked: &[Asked],
    origin: &Origin,
) -> Result<(), Refusal> {
    for it in asked {
        if it.is_open {
            match identity.revoke_invitation(it.tenant, it.id, origin.clone()).await {
                // It was accepted or has expired meanwhile.
                Err(refusal) if refusal.class == supervision::Class::Gone => {}
                revoked => revoked?,
            }
        }
        let address = Mail::address(it.id.0, UserId(it.id.0), it.tenant);
        mail::cancel(system, &address, origin.clone()).await?;
    }
    Ok(())
}

/// The mails to a user that wait to be taken.
fn waiting_mails(system: &System, user: UserId) -> Vec<Address<Mail>> {
    let (owner, mut found, mut after) = (owner_of_user(user), Vec::new(), None);
    loop {
        let range = RowRange {
            shard: owner.shard(),
            family: PENDING_FAMILY,
            prefix: format!("{}/", Mail::KIND).into_bytes(),
            after,
            newest_first: false,
            limit: STEP_ROWS,
        };
        let rows = system.rows(&range);
        after = rows.last().map(|(key, _)| key.clone());
        if after.is_none() {
            return found;
        }
        let places = rows.iter().filter_map(|(_, row)| codec::decode::<Place>(row).ok());
        found.extend(places.filter(|it| it.owner == owner).filter_map(Address::from_place));
    }
}

/// Leaves every tenant. Answers whether there is an own one that goes too.
async fn leave(identity: &Identity, known: &Known, origin: &Origin) -> Result<bool, Refusal> {
    let (system, user) = (identity.system()?, known.profile.id);
    let tenants = system.directory::<Tenant>();
    let mut has_own = false;
    for tenant in &known.tenants {
        if system.locate(Tenant::KIND, Tenant::address(*tenant).id()).is_none() {
            continue;
        }
        let depart = tenants.ask(&Tenant::address(*tenant), Depart { user }, origin.clone()).await;
        let Some((departure, epoch)) = unless_erased(depart.map(Some))? else { continue };
        has_own |= departure == Departure::Own;
        if matches!(departure, Departure::OthersStay | Departure::NobodyStays) {
            identity.raise(OwnerClass::Tenant, tenant.0, epoch, &system);
            identity.tell_members(*tenant, origin.clone()).await?;
        }
    }
    Ok(has_own)
}

impl Identity {
    /// 409 `last_owner` when a user cannot be erased, naming every tenant that stands against it.
    pub(super) async fn check_departure(&self, user: UserId) -> Result<(), Refusal> {
        let mut obstacles = Vec::new();
        for tenant in self.tenants_of(user).await? {
            let departure = self.look_tenant(tenant, move |it| it.departure(user)).await?;
            if let Some(obstacle) = departure.and_then(Departure::obstacle) {
                obstacles.push((user.tenant_label(tenant), obstacle));
            }
        }
        if obstacles.is_empty() {
            return Ok(());
        }
        let each: Vec<String> = obstacles.iter().map(|(id, why)| format!("{id}: {why}")).collect();
        let message = format!("tenants would be left without an owner: {}", each.join("; "));
        let tenants: Vec<&String> = obstacles.iter().map(|(id, _)| id).collect();
        Err(Refusal::conflict("last_owner", message).with_facts(&json!({"tenants": tenants})))
    }
}
