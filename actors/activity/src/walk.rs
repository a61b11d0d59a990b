//! A walk down a tenant's chain, newest first, between two times and in bounded steps.
//!
//! Times bound which part of the chain is read at all. Turns read their clocks before their records
//! are given numbers, so a bound reaches [`OUT_OF_ORDER_MS`] further than it says, and whoever
//! walks asks each record for its time.

use persistence::Record;
use supervision::{Refusal, System, Timestamp};
use types::{TenantId, home_of};

use crate::activity::unreadable;
use crate::cursor::ChainCursor;

/// How many records one step reads.
const STEP_RECORDS: usize = 256;
/// By how much the times of a chain's records may be out of order, in milliseconds.
const OUT_OF_ORDER_MS: i64 = 5_000;

/// The part of a chain between two times: from the first, before the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between {
    /// Nothing before this.
    pub from: Option<Timestamp>,
    /// Nothing at or after this.
    pub to: Option<Timestamp>,
}

impl Between {
    /// Whether something of that time, in milliseconds, is in it.
    pub fn holds(&self, time_ms: i64) -> bool {
        self.from.is_none_or(|from| time_ms >= from.0) && self.to.is_none_or(|to| time_ms < to.0)
    }

    /// The least and the greatest number of the chain that may be in it.
    pub(crate) fn numbers(&self, system: &System, tenant: TenantId) -> Result<(u64, u64), Refusal> {
        let (journal, home) = (system.journal(), home_of(tenant));
        let head = journal.chain_head(home).map_err(unreadable)?.chain_seq;
        let lowest = match self.from {
            None => 1,
            Some(from) => {
                let near = journal.chain_seq_near(home, from.0.saturating_sub(OUT_OF_ORDER_MS));
                near.map_err(unreadable)?
            }
        };
        let highest = match self.to {
            None => head,
            Some(to) => {
                let after = journal.chain_seq_from(home, to.0.saturating_add(OUT_OF_ORDER_MS));
                after.map_err(unreadable)?.min(head)
            }
        };
        Ok((lowest, highest))
    }
}

/// A walk, and how far it has come.
pub(crate) struct Down {
    tenant: TenantId,
    lowest: u64,
    /// The newest record that was not looked at.
    next: u64,
}

impl Down {
    /// From the newest record of that part on, or from where a list ended.
    pub(crate) fn begin(
        system: &System,
        tenant: TenantId,
        between: Between,
        cursor: Option<ChainCursor>,
    ) -> Result<Self, Refusal> {
        let (lowest, highest) = between.numbers(system, tenant)?;
        let next = cursor.map_or(highest, |cursor| cursor.chain_seq.min(highest));
        Ok(Self { tenant, lowest, next })
    }

    /// Calls `take` with each record until it says to stop or the part has ended.
    pub(crate) fn walk(
        &mut self,
        system: &System,
        mut take: impl FnMut(&Record) -> bool,
    ) -> Result<(), Refusal> {
        while self.next >= self.lowest && self.next > 0 {
            let (journal, home) = (system.journal(), home_of(self.tenant));
            let read = journal.read_chain(home, self.next, true, STEP_RECORDS);
            let records = read.map_err(unreadable)?;
            if records.is_empty() {
                self.next = 0;
            }
            for record in records.iter().take_while(|it| it.header.chain_seq >= self.lowest) {
                self.next = record.header.chain_seq - 1;
                if !take(record) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Where the walk goes on; `None` at the end.
    pub(crate) fn rest(&self) -> Option<ChainCursor> {
        let is_over = self.next < self.lowest || self.next == 0;
        (!is_over).then_some(ChainCursor { chain_seq: self.next, given: 0 })
    }
}
