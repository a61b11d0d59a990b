//! Writing a tenant's file: the chain from its first record to the head as it was at the beginning,
//! a bounded page at a time, while the tenant goes on.
//!
//! The chain is the one order of everything of the tenant's, so a beginning of it is a consistent
//! state: a call that ran is in it with its hold, or neither is.
//!
//! Limit: a payload that does not open any more (its key was erased) ends the export.

use std::path::Path;

use identity::tenant::Tenant;
use identity::user::{EMAIL_LABEL, NAME_LABEL, User};
use persistence::chain::ChainHead;
use persistence::record::{Digest, sha256};
use persistence::tenant_file::{ExportKey, Manifest, TenantFileWriter};
use persistence::{ReadError, Record, codec};
use supervision::address::USER_KEY_CLASS;
use supervision::{Class, Entity, Refusal, System, Timestamp};
use types::{TenantId, UserId, home_of};

use crate::carried::is_carried;
use crate::parts::{self, CarriedRecord, MEMBERS, Member, PART_BYTES, PART_MEMBERS, RECORDS};
use crate::problems;

/// How many records one step reads: each may be as large as a batch of documents.
const STEP_RECORDS: usize = 32;

/// What is to be exported.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The tenant.
    pub tenant: TenantId,
    /// Only what was recorded until then; `None` for everything.
    pub at: Option<Timestamp>,
    /// Whether it goes to another installation: apps, developers and members' addresses go along.
    pub leaves: bool,
}

/// What an export holds.
#[derive(Clone, Debug)]
pub struct Exported {
    /// What the file says of itself.
    pub manifest: Manifest,
    /// How many records went along with their payloads.
    pub carried: u64,
    /// How many members' addresses went along.
    pub members: u64,
    /// The file's length in bytes.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Digest,
}

fn unreadable(error: &ReadError) -> Refusal {
    problems::failed("reading a chain", error)
}

/// Writes a tenant's file to `path`, which must not exist, and makes it durable. `progress` is told
/// how many records were written. Blocks. 404 without such a tenant.
pub fn export(
    system: &System,
    order: Order,
    path: &Path,
    key: &ExportKey,
    progress: &mut dyn FnMut(u64),
) -> Result<Exported, Refusal> {
    let Order { tenant, leaves, .. } = order;
    let members = if leaves { members(system, tenant)? } else { existing(system, tenant)? };
    let head = head(system, order)?;
    let standing = system.journal().standing().map_err(|error| unreadable(&error))?;
    let manifest = Manifest {
        product: env!("CARGO_PKG_VERSION").to_owned(),
        tenant: tenant.0,
        installation: standing.generation,
        exported_ms: system.clock().now().0,
        records: head.chain_seq,
        link: head.link,
        root: head.root(),
    };
    let writer = TenantFileWriter::create(path, manifest.clone(), key);
    let mut writer = writer.map_err(problems::of_file)?;
    for page in members.chunks(PART_MEMBERS) {
        writer.write(MEMBERS, &parts::encode(&page)?).map_err(problems::of_file)?;
    }
    // An export on the disk of the journal must not be what fills it.
    let shares_disk = system.journal().folder().is_some_and(|folder| path.starts_with(folder));
    let mut progress = |done| {
        progress(done);
        let is_full = shares_disk && system.journal().is_low_on_space();
        (!is_full).then_some(()).ok_or_else(Refusal::low_space)
    };
    let carried = records(system, order, &head, &mut writer, &mut progress)?;
    let (bytes, sha256) = writer.finish().map_err(problems::of_file)?;
    Ok(Exported { manifest, carried, members: members.len() as u64, bytes, sha256 })
}

/// The tenant as its durable records give it.
pub(crate) fn tenant_state(system: &System, tenant: TenantId) -> Result<Tenant, Refusal> {
    let missing = || Refusal::not_found("tenant");
    let place = system.locate(Tenant::KIND, Tenant::address(tenant).id()).ok_or_else(missing)?;
    let state = system.directory::<Tenant>().replay(&place)?;
    state.details.is_some().then_some(state).ok_or_else(missing)
}

fn existing(system: &System, tenant: TenantId) -> Result<Vec<Member>, Refusal> {
    tenant_state(system, tenant).map(|_| Vec::new())
}

fn members(system: &System, tenant: TenantId) -> Result<Vec<Member>, Refusal> {
    let state = tenant_state(system, tenant)?;
    let users = state.details.iter().flat_map(|details| details.members.keys());
    let members: Result<Vec<_>, Refusal> =
        users.map(|user| member(system, *user).map(|found| found.into_iter())).collect();
    Ok(members?.into_iter().flatten().collect())
}

/// A member's address; `None` for a user who was erased or never made.
fn member(system: &System, user: UserId) -> Result<Option<Member>, Refusal> {
    let Some(place) = system.locate(User::KIND, &user.to_string()) else { return Ok(None) };
    let Some(profile) = system.directory::<User>().replay(&place)?.profile else {
        return Ok(None);
    };
    let keys = system.journal().keys();
    let email = profile.email.open(keys, EMAIL_LABEL);
    let name = profile.name.and_then(|name| name.open(keys, NAME_LABEL));
    Ok(email.map(|email| Member { user, email, name }))
}

/// The chain's head: the present one, or as it was then.
fn head(system: &System, order: Order) -> Result<ChainHead, Refusal> {
    let (journal, home) = (system.journal(), home_of(order.tenant));
    let present = journal.chain_head(home).map_err(|error| unreadable(&error))?;
    let Some(at) = order.at else { return Ok(present) };
    let mut head = ChainHead::default();
    loop {
        let records = journal.read_chain(home, head.chain_seq + 1, false, STEP_RECORDS);
        let records = records.map_err(|error| unreadable(&error))?;
        let is_last = records.is_empty();
        for record in records {
            if record.header.time_ms > at.0 {
                return nonempty(head);
            }
            head.push(record.link);
        }
        if is_last || head.chain_seq >= present.chain_seq {
            return nonempty(head);
        }
    }
}

fn nonempty(head: ChainHead) -> Result<ChainHead, Refusal> {
    let message = "the tenant did not exist then";
    let refusal = || Refusal::new(Class::Invalid, "before_the_tenant", message);
    (head.chain_seq > 0).then_some(head).ok_or_else(refusal)
}

fn records(
    system: &System,
    order: Order,
    head: &ChainHead,
    writer: &mut TenantFileWriter,
    progress: &mut dyn FnMut(u64) -> Result<(), Refusal>,
) -> Result<u64, Refusal> {
    let home = home_of(order.tenant);
    let (mut part, mut part_bytes, mut done, mut carried) = (Vec::new(), 0, 0, 0);
    while done < head.chain_seq {
        let page = system.journal().read_chain(home, done + 1, false, STEP_RECORDS);
        let page = page.map_err(|error| unreadable(&error))?;
        if page.is_empty() {
            return Err(problems::failed("reading a chain", &"it is shorter than its head says"));
        }
        for record in page.into_iter().filter(|it| it.header.chain_seq <= head.chain_seq) {
            done = record.header.chain_seq;
            let record = record_for(system, record, order.leaves)?;
            carried += u64::from(record.payload.is_some());
            // A part is below its limit with any one record, and so it is flushed before one that
            // would not fit.
            if part_bytes + record.bytes() > PART_BYTES && !part.is_empty() {
                writer.write(RECORDS, &parts::encode(&part)?).map_err(problems::of_file)?;
                (part, part_bytes) = (Vec::new(), 0);
            }
            part_bytes += record.bytes();
            part.push(record);
        }
        progress(done)?;
    }
    if !part.is_empty() {
        writer.write(RECORDS, &parts::encode(&part)?).map_err(problems::of_file)?;
    }
    Ok(carried)
}

fn record_for(system: &System, record: Record, leaves: bool) -> Result<CarriedRecord, Refusal> {
    let header = codec::encode(&record.header);
    let header = header.map_err(|error| problems::failed("encoding a header", &error))?;
    let payload = match is_carried(&record.header, leaves) {
        false => None,
        true => match system.open_record(&record) {
            // A person's own, who was erased: it goes along as what stays behind does.
            None if record.header.owner.class == USER_KEY_CLASS => None,
            None => {
                let message = "the tenant's records cannot be opened: its key is gone";
                return Err(Refusal::conflict("tenant_erased", message));
            }
            payload => payload,
        },
    };
    let payload_digest = sha256(&[&record.payload]);
    Ok(CarriedRecord { header, payload_digest, link: record.link, payload })
}
