//! Records that were made elsewhere, told again in this system's journal: of another installation,
//! or of another tenant whose copy is made.
//!
//! Whoever tells them again appends each record of a stream in its order under the place that the
//! stream has here ([`System::retell`]), with the time, caller, command and request that it had and
//! a payload whose ids are those of here ([`Registered::retold`]). When all are there, each entity
//! is planted ([`Registered::plant`]): its rows, its reminder and its mark of pending work are
//! written as its records give them. Both may be repeated: a record that is there already is
//! refused by its number, and rows are written as they are.
//!
//! Limits: nobody else may write to these entities meanwhile. Links and positions are of here; what
//! they were is for who tells them to keep.

use std::sync::{Arc, mpsc};

use persistence::{Append, CodecError, NewRecord, RequestRef, Rider, codec};

use crate::address::Place;
use crate::clock::Timestamp;
use crate::directory::Directory;
use crate::entity::{Entity, RowDraft};
use crate::event::Event as _;
use crate::host::seal_context;
use crate::rebuild::each_event;
use crate::refusal::{Class, Refusal};
use crate::reminders::{DUE_FAMILY, PENDING_FAMILY, due_key};
use crate::renaming::Renaming;
use crate::system::{Core, System};

/// How many rows one commit writes.
const BATCH_ROWS: usize = 512;

/// A record to be told again.
#[derive(Clone, Debug)]
pub struct Retold {
    /// The number that it gets in its stream.
    pub seq: u64,
    /// Who asked for it.
    pub caller: Arc<str>,
    /// The request it was part of.
    pub request: RequestRef,
    /// The command that recorded it.
    pub command: Arc<str>,
    /// The event's stable name.
    pub event: Arc<str>,
    /// The version of the payload.
    pub event_version: u16,
    /// The payload in clear.
    pub payload: Vec<u8>,
    /// When it was recorded, in milliseconds since 1970.
    pub time_ms: i64,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, what, "records could not be told again");
    Refusal::new(Class::Crashed, "internal_error", "this could not be done; it was noted")
}

impl System {
    /// Appends a record to the stream of `place`. The rider hears whether it is there: one that had
    /// been before is refused, and changes nothing.
    pub fn retell(&self, place: &Place, record: Retold, rider: Rider) -> Result<(), Refusal> {
        let core = &self.core;
        let context = seal_context(&place.stream, record.seq);
        let payload = core.journal.keys().seal(place.key(), &context, &record.payload);
        let payload = payload.map_err(|error| failed("sealing", &error))?;
        let (event, event_version) = (record.event, record.event_version);
        core.journal.append(Append {
            stream: place.stream.clone(),
            owner: place.owner,
            home: place.home,
            incarnation: core.next_incarnation(),
            expected_seq: record.seq.saturating_sub(1),
            records: vec![NewRecord { event, event_version, payload }],
            caller: record.caller,
            request: record.request,
            cause: None,
            command: record.command,
            time_ms: record.time_ms,
            rows: Vec::new(),
            rider,
        });
        Ok(())
    }
}

/// An event's payload with other ids, in the version that is written now.
pub(crate) fn retold<E: Entity>(
    event: &str,
    version: u16,
    payload: &[u8],
    renaming: &Renaming,
) -> Result<(u16, Vec<u8>), CodecError> {
    let event = E::Event::decode(event, version, payload)?.renamed(renaming)?;
    Ok((event.version(), event.encode()?))
}

/// Rows on their way into the journal, a batch at a time.
struct Planter<'a> {
    core: &'a Core,
    place: &'a Place,
    rows: Vec<RowDraft>,
    written: u64,
}

impl Planter<'_> {
    fn flush(&mut self) {
        let changes = self.rows.iter().map(|row| self.core.seal_row(self.place, row)).collect();
        self.written += self.rows.len() as u64;
        self.rows.clear();
        let (sender, done) = mpsc::channel();
        let rider = Box::new(move |_| {
            let _ = sender.send(());
        });
        self.core.journal.change_rows(changes, rider);
        // Dropped unsent when the journal is closed: then the whole is repeated at the next start.
        let _ = done.recv();
    }
}

/// See [`Registered::plant`](crate::system::Registered::plant).
pub(crate) fn plant<E: Entity>(directory: &Directory<E>, place: &Place) -> Result<u64, Refusal> {
    let core = &*directory.core;
    let mut planter = Planter { core, place, rows: Vec::new(), written: 0 };
    let replayed = each_event(directory, place, |entity: &E, event, header| {
        entity.rows(event, Timestamp(header.time_ms), &mut planter.rows);
        if planter.rows.len() >= BATCH_ROWS {
            planter.flush();
        }
    });
    let entity = replayed.map_err(|error| failed("replaying", &error))?;
    let value = Some(codec::encode(place).map_err(|error| failed("encoding", &error))?);
    if entity.is_pending() {
        let (family, key) = (PENDING_FAMILY, place.stream.as_str().as_bytes().to_vec());
        planter.rows.push(RowDraft { family, key, value: value.clone() });
    }
    if let Some(due) = entity.next_deadline() {
        let key = due_key(due, &place.stream);
        planter.rows.push(RowDraft { family: DUE_FAMILY, key, value });
    }
    planter.flush();
    // Whoever looked at it meanwhile has an older state in memory.
    directory.kill(place.id());
    if let Some(due) = entity.next_deadline() {
        core.reminders.add(due, place.clone());
    }
    if entity.is_pending() {
        core.system().wake(place.clone(), None);
    }
    Ok(planter.written)
}
