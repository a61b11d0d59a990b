//! Finding cards, and ending many at once.
//!
//! A card's id is made from what it is bound to and from a number, its round: so whoever asks for
//! the same finds the same card without anybody keeping an index that could lag behind. Rows say
//! which round is the last; should they be late, the card itself says that its round is over, and
//! the next one is tried.

use std::sync::Arc;

use billing::wallet::Ended;
use persistence::record::sha256;
use persistence::{RowRange, Shard, codec};
use supervision::{Address, Entity as _, Origin, Refusal, System};
use types::{ConfirmationId, TenantId, UserId, owner_of_tenant};

use crate::confirmation::{
    Card, Confirmation, Digest, OPEN_FAMILY, OpenRow, ROUND_FAMILY, RoundRow, open_prefix,
    round_key,
};
use crate::deciding::{Void, release};

/// How many cards of one user in one tenant may wait: more or less, as those that are opened at the
/// same time do not see each other.
pub const OPEN_MAX: usize = 100;
/// How many cards of one tenant are ended at once.
const OF_TENANT_MAX: usize = 1_000_000;
/// How many rounds beyond the last known one are tried.
pub const ROUNDS_TRIED_MAX: u64 = 8;
/// How many rows one step of reading all of them takes.
const ROWS_STEP: usize = 200;

/// The id of a round.
pub fn id_of(tenant: TenantId, digest: &Digest, round: u64) -> ConfirmationId {
    let parts: [&[u8]; 4] =
        [b"bailiwick confirmation id", &tenant.0.to_be_bytes(), &digest.0, &round.to_be_bytes()];
    let whole = sha256(&parts);
    ConfirmationId(u128::from_be_bytes(whole[..16].try_into().unwrap_or_default()))
}

/// The last round of a digest, if there was one.
pub fn last_round(system: &System, tenant: TenantId, digest: &Digest) -> Option<RoundRow> {
    let key = round_key(tenant, digest);
    let row = system.row(owner_of_tenant(tenant).shard(), ROUND_FAMILY, &key)?;
    codec::decode(&row).ok()
}

/// Where a card lives, if there is one.
pub fn locate(system: &System, id: ConfirmationId) -> Option<Address<Confirmation>> {
    system.locate(Confirmation::KIND, &id.to_string()).and_then(Address::from_place)
}

/// A card of a tenant's; 404 for another one's, as for none.
pub async fn card(
    system: &Arc<System>,
    tenant: TenantId,
    id: ConfirmationId,
    origin: Origin,
) -> Result<(Address<Confirmation>, Card), Refusal> {
    let missing = || Refusal::not_found("confirmation");
    let address = locate(system, id).ok_or_else(missing)?;
    let cards = system.directory::<Confirmation>();
    let found = cards.look(&address, origin, |it| it.card().cloned()).await?;
    let found = found.filter(|card| card.opened.tenant == tenant).ok_or_else(missing)?;
    Ok((address, found))
}

/// What waits in a tenant, for one user or for all, the oldest first: at most `limit`.
pub fn open_cards(
    system: &System,
    tenant: TenantId,
    user: Option<UserId>,
    limit: usize,
) -> Vec<OpenRow> {
    let range = RowRange {
        shard: owner_of_tenant(tenant).shard(),
        family: OPEN_FAMILY,
        prefix: open_prefix(tenant, user),
        after: None,
        newest_first: false,
        limit,
    };
    let rows = system.rows(&range);
    let mut rows: Vec<OpenRow> =
        rows.iter().filter_map(|(_, value)| codec::decode(value).ok()).collect();
    rows.sort_by_key(|row| row.opened_at);
    rows
}

/// Where a page of all that waits goes on.
pub type After = (u8, Vec<u8>);

/// What waits in all tenants, shard by shard: at most `limit` after one, and where to go on. Reads
/// rows: for a thread that may block.
pub fn all_open(
    system: &System,
    after: Option<After>,
    limit: usize,
) -> (Vec<OpenRow>, Option<After>) {
    let (mut found, mut at) = (Vec::new(), after.unwrap_or((0, Vec::new())));
    loop {
        let left = limit.saturating_sub(found.len());
        if left == 0 {
            return (found, Some(at));
        }
        let rows = system.rows(&RowRange {
            shard: Shard(at.0),
            family: OPEN_FAMILY,
            prefix: Vec::new(),
            after: Some(at.1.clone()).filter(|key| !key.is_empty()),
            newest_first: false,
            limit: left,
        });
        found.extend(rows.iter().filter_map(|(_, value)| codec::decode::<OpenRow>(value).ok()));
        match (rows.last(), at.0.checked_add(1)) {
            (Some((key, _)), _) if rows.len() == left => at.1 = key.clone(),
            (_, Some(next)) => at = (next, Vec::new()),
            (_, None) => return (found, None),
        }
    }
}

/// A card that was ended, and what was held for it.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// The card.
    pub id: ConfirmationId,
    /// What was given back, if something was held.
    pub released: Option<Ended>,
}

/// Ends everything that waits and is `meant`, and gives back what was held for it. `tenant` says
/// whose, if only one tenant's is meant; otherwise all are looked through.
pub async fn void_open(
    system: &Arc<System>,
    tenant: Option<TenantId>,
    meant: impl Fn(&OpenRow) -> bool,
    why: &str,
    origin: &Origin,
) -> Result<Vec<Stopped>, Refusal> {
    let mut stopped = Vec::new();
    for row in waiting(system, tenant).await?.into_iter().filter(|row| meant(row)) {
        let Some(address) = locate(system, row.id) else { continue };
        let void = Void { why: why.to_owned() };
        let cards = system.directory::<Confirmation>();
        match cards.ask(&address, void, origin.clone()).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(refusal) if refusal.is_erased() => continue,
            Err(refusal) => return Err(refusal),
        }
        let held = cards.look(&address, origin.clone(), |it| it.card()?.opened.held).await?;
        // The card asks for the same by itself; whichever comes first, the answer is one.
        let released = match held {
            Some(held) => release(system, row.tenant, held, origin.clone()).await.ok(),
            None => None,
        };
        stopped.push(Stopped { id: row.id, released });
    }
    Ok(stopped)
}

async fn waiting(system: &Arc<System>, tenant: Option<TenantId>) -> Result<Vec<OpenRow>, Refusal> {
    let system = Arc::clone(system);
    let read = move || match tenant {
        Some(tenant) => open_cards(&system, tenant, None, OF_TENANT_MAX),
        None => {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let (rows, next) = all_open(&system, after, ROWS_STEP);
                all.extend(rows);
                after = next;
                if after.is_none() {
                    return all;
                }
            }
        }
    };
    tokio::task::spawn_blocking(read).await.map_err(|_| Refusal::crashed())
}
