//! The end of keys: they leave the key file, and what they sealed leaves memory and the outbox.
//!
//! Repeatable: what was shredded before is found to be gone. Between the first and the second pass
//! over the key file nothing that was live can have sealed anything under a key of the same owner
//! that is left behind: it has ended.

use std::collections::HashSet;
use std::sync::Arc;

use persistence::{KeyId, KeyRing};
use supervision::address::USER_KEY_CLASS;
use supervision::{Entity as _, Refusal, System};
use types::{InvitationId, TenantId};

use super::organisation::stranger;
use super::{Farewells, Found, Subject};
use crate::invitation::{Invitation, Standing};
use crate::mail::{PostOffice, Recipients};
use crate::service::Identity;
use crate::{internal, service};

/// An invitation, open or over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Which.
    pub id: InvitationId,
    /// Of which tenant.
    pub tenant: TenantId,
    /// Whether it can be accepted.
    pub is_open: bool,
}

/// Every invitation of a tenant, or to the address whose keyed hash is `tag`.
pub(super) async fn invitations(
    system: &Arc<System>,
    subject: Subject,
    tag: Option<String>,
) -> Result<Vec<Asked>, Refusal> {
    let system = system.clone();
    service::in_background(move || walk(&system, subject, tag.as_deref())).await?
}

fn walk(system: &System, subject: Subject, tag: Option<&str>) -> Result<Vec<Asked>, Refusal> {
    let directory = system.directory::<Invitation>();
    let (mut asked, mut after) = (Vec::new(), None);
    loop {
        let next = system.journal().next_stream(Invitation::KIND, after.as_ref());
        let Some(stream) = next.map_err(|_| internal("the list of invitations"))? else {
            return Ok(asked);
        };
        let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
        let (place, number) = (system.locate(Invitation::KIND, id), id.parse());
        after = Some(stream.clone());
        let (Some(place), Ok(id)) = (place, number) else { continue };
        let tenant = TenantId(place.home.0);
        if matches!(subject, Subject::Tenant(wanted) if wanted != tenant) {
            continue;
        }
        // One of a tenant that was erased tells nothing more; its id is all that is needed.
        let state = directory.replay(&place).ok();
        let terms = state.as_ref().and_then(|state| state.terms.as_ref());
        let is_open = state.as_ref().is_some_and(|it| it.standing == Standing::Open);
        let is_meant = match subject {
            Subject::Tenant(_) => true,
            Subject::User(_) => terms.is_some_and(|it| Some(it.email_tag.as_str()) == tag),
        };
        if is_meant {
            asked.push(Asked { id, tenant, is_open: is_open && terms.is_some() });
        }
    }
}

/// Shreds the keys. Answers their numbers.
pub(super) async fn shred(
    system: &Arc<System>,
    subject: Subject,
    found: &Found,
) -> Result<Vec<u32>, Refusal> {
    let identity = system.port::<Identity>();
    let is_theirs = recipients(&identity, found.email_tag.clone());
    let keys = keys(system, subject, found, &is_theirs).await?;
    let mut numbers = erase(system, &keys).await?;
    // In this order: who is live knows what the key sealed, and may seal something yet.
    system.forget(keys.iter().copied().collect()).await;
    system.settle().await;
    numbers.extend(erase(system, &keys).await?);
    identity.forget(&subject.owner());
    system.port::<Farewells>().forget(subject);
    let cleaned = {
        let system = system.clone();
        service::in_background(move || system.clean_erased()).await?
    };
    cleaned.map_err(|_| internal("the rows of what was erased"))?;
    if found.email_tag.is_some() {
        let deleted = system.port::<PostOffice>().forget(is_theirs).await;
        deleted.map_err(|_| internal("mails that were written for somebody erased"))?;
    }
    // What was changed above is durable before anybody is told.
    system.settle().await;
    Ok(numbers)
}

/// Tells the address whose keyed hash this is.
fn recipients(identity: &Identity, tag: Option<String>) -> Recipients {
    let key = identity.claim_key().clone();
    Arc::new(move |address| tag.as_deref().is_some_and(|tag| address.claim(&key).id() == tag))
}

/// All that go: the subject's, and those under which nobody's address stood that it was.
async fn keys(
    system: &Arc<System>,
    subject: Subject,
    found: &Found,
    is_theirs: &Recipients,
) -> Result<Vec<KeyId>, Refusal> {
    let asked = invitations(system, subject, found.email_tag.clone()).await?;
    let of = |it: Asked| KeyId { class: USER_KEY_CLASS, id: stranger(it.id).0 };
    let mut keys: HashSet<KeyId> = asked.into_iter().map(of).collect();
    keys.insert(subject.key());
    if let Subject::User(_) = subject {
        let (system, is_theirs) = (system.clone(), is_theirs.clone());
        let more =
            service::in_background(move || system.port::<Farewells>().keys(&system, &is_theirs));
        keys.extend(more.await??);
    }
    Ok(keys.into_iter().collect())
}

/// Shreds those that there are. The key file is rewritten and synced.
async fn erase(system: &Arc<System>, keys: &[KeyId]) -> Result<Vec<u32>, Refusal> {
    let (ring, keys): (Arc<KeyRing>, Vec<KeyId>) = (system.journal().keys().clone(), keys.to_vec());
    let erased = service::in_background(move || ring.erase_all(&keys)).await?;
    erased.map_err(|error| {
        tracing::error!(%error, "keys were not erased");
        internal("the key file")
    })
}
