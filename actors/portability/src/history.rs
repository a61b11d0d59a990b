//! Verifying where a tenant came from: that the records of its old chain, as they are noted here,
//! link from the first to the head and the Merkle root that the import's first record states, and
//! that each that was told again stands in the new chain, in the same order, as the same event of
//! the same kind, command, request and time.
//!
//! Limits: the states of a copied sandbox's origin are in the origin's own chain, so nothing is
//! noted of it and nothing verified here. Payloads are compared by nobody: see
//! [`crate::tenant_import`].

use std::collections::VecDeque;

use persistence::chain::ChainHead;
use persistence::record::{link_of, sha256};
use persistence::{Header, Home, Record, codec};
use supervision::address::Place;
use supervision::{Event as _, System};

use crate::carried::may_be_carried;
use crate::examine::kind_of;
use crate::tenant_import::{Begun, Noted, Original, TenantImportEvent};

/// How many records of an import one step reads: each notes about a part of a file.
const STEP_NOTES: usize = 4;
/// How many records of the chain one step reads.
const STEP_RECORDS: usize = 64;

/// What was verified of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many records of the old chain link.
    pub originals: u64,
    /// How many of them stand in the new chain.
    pub carried: u64,
}

/// The records of a chain that may be told again ones, in order.
struct Retold<'a> {
    system: &'a System,
    home: Home,
    next: u64,
    page: VecDeque<Record>,
}

impl Retold<'_> {
    fn next(&mut self) -> Result<Option<Header>, String> {
        loop {
            while let Some(record) = self.page.pop_front() {
                if may_be_carried(&record.header) {
                    return Ok(Some(record.header));
                }
            }
            let page = self.system.journal().read_chain(self.home, self.next, false, STEP_RECORDS);
            self.page = page.map_err(|error| error.to_string())?.into();
            let Some(last) = self.page.back() else { return Ok(None) };
            self.next = last.header.chain_seq + 1;
        }
    }
}

#[derive(Default)]
struct Walk {
    begun: Option<Begun>,
    head: ChainHead,
    is_planted: bool,
    verified: Verified,
}

impl Walk {
    fn original(&mut self, it: &Original, retold: &mut Retold<'_>) -> Result<(), String> {
        let number = self.head.chain_seq + 1;
        let header: Header =
            codec::decode(&it.header).map_err(|error| format!("old record {number}: {error}"))?;
        let link = link_of(&self.head.link, &sha256(&[&it.header]), &it.payload_digest);
        if header.chain_seq != number || link != it.link {
            return Err(format!("old record {number} does not link to the one before it"));
        }
        self.head.push(link);
        self.verified.originals += 1;
        if !it.carried {
            return Ok(());
        }
        self.verified.carried += 1;
        let told = retold.next()?.filter(|told| is_same(&header, told));
        told.map(drop).ok_or_else(|| format!("old record {number} is not in the new chain"))
    }

    fn noted(&mut self, noted: &Noted, retold: &mut Retold<'_>) -> Result<(), String> {
        noted.originals.iter().try_for_each(|original| self.original(original, retold))
    }
}

fn is_same(old: &Header, new: &Header) -> bool {
    let told = |it: &Header| {
        (it.event.clone(), it.command.clone(), it.request, it.time_ms, kind_of(it).to_owned())
    };
    told(old) == told(new)
}

/// Verifies an import; `None` for one of a sandbox, or one that has not come to its end. Blocks.
pub fn verify_import(system: &System, place: &Place) -> Result<Option<Verified>, String> {
    let (home, next, page) = (place.home, 1, VecDeque::new());
    let mut retold = Retold { system, home, next, page };
    let (mut walk, mut seq) = (Walk::default(), 0);
    loop {
        let records = system.journal().read(&place.stream, seq, STEP_NOTES);
        let records = records.map_err(|error| error.to_string())?;
        let Some(last) = records.last() else { break };
        seq = last.header.seq;
        for record in &records {
            let payload = system.open_record(record).ok_or("a record of it does not open")?;
            let Header { event, event_version, .. } = &record.header;
            let event = TenantImportEvent::decode(event, *event_version, &payload);
            match event.map_err(|error| error.to_string())? {
                TenantImportEvent::Begun(begun) => walk.begun = Some(begun),
                TenantImportEvent::Noted(noted) => walk.noted(&noted, &mut retold)?,
                TenantImportEvent::Planted(_) => walk.is_planted = true,
                TenantImportEvent::Retried(_) | TenantImportEvent::Ended(_) => {}
            }
        }
    }
    let Walk { begun, head, is_planted, verified } = walk;
    let begun = begun.ok_or("it has no beginning")?;
    if begun.sandbox.is_some() || !is_planted {
        return Ok(None);
    }
    let stated = (begun.source.records, begun.source.link, begun.source.root);
    if (head.chain_seq, head.link, head.root()) != stated {
        return Err("the old chain does not end as the import's first record says".to_owned());
    }
    Ok(Some(verified))
}
