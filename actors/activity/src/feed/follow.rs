//! Following a chain without reading a stream: what its records tell, with who may see it, for a
//! part of the server that acts on it. It reads what is durable, from where it likes.
//!
//! Deliberate limit: events that follow from no record are not among them.

use persistence::ReadError;
use serde_json::{Map, Value};
use supervision::{System, Timestamp};
use types::{TenantId, home_of};

use super::Feed;
use super::entry::EntryId;
use super::tell::{Memory, Telling, View};

/// One event, and where it comes from.
#[derive(Debug)]
pub struct Told {
    /// Where it stands in its tenant's chain.
    pub id: EntryId,
    /// When it was recorded.
    pub at: Timestamp,
    /// The request that led to it.
    pub request: u128,
    /// The kind of the entity that recorded it.
    pub kind: String,
    telling: Telling,
}

impl Told {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.telling.name
    }

    /// What it tells.
    pub fn data(&self) -> &Map<String, Value> {
        &self.telling.data
    }

    /// Whether somebody may see it.
    pub fn is_seen_by(&self, view: &View) -> bool {
        view.sees(&self.telling)
    }
}

/// What some records of a chain tell.
#[derive(Debug)]
pub struct Heard {
    /// Their events, in their order.
    pub told: Vec<Told>,
    /// The last record that was read; the one before the first when there was none.
    pub upto: u64,
    /// How many records were read.
    pub records: usize,
}

/// Who follows one tenant's chain.
#[derive(Default)]
pub struct Follower {
    memory: Memory,
}

impl Follower {
    /// What about `limit` records from number `from` on tell. Blocks.
    pub fn read(
        &mut self,
        system: &System,
        feed: &Feed,
        (tenant, from): (TenantId, u64),
        limit: usize,
    ) -> Result<Heard, ReadError> {
        let records = system.journal().read_chain(home_of(tenant), from, false, limit)?;
        let upto = records.last().map_or(from.saturating_sub(1), |last| last.header.chain_seq);
        let mut told = Vec::new();
        for record in &records {
            let header = &record.header;
            let tellings = feed.tellers().tell(system, record, &mut self.memory);
            let last = tellings.len().saturating_sub(1);
            for (index, telling) in tellings.into_iter().enumerate() {
                let place = if index == last { EntryId::LAST } else { index as u32 };
                let kind = header.stream.as_str().split_once('/').map_or("", |(kind, _)| kind);
                told.push(Told {
                    id: EntryId { chain_seq: header.chain_seq, place },
                    at: Timestamp(header.time_ms),
                    request: header.request.id,
                    kind: kind.to_owned(),
                    telling,
                });
            }
        }
        Ok(Heard { told, upto, records: records.len() })
    }
}
