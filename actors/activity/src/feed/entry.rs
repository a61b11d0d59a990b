//! An event as it goes out: its id, who sees it, and its bytes in the format of server-sent events
//! (WHATWG HTML, section 9.2), made once for all readers.
//!
//! An id is the number of the event's record in the tenant's chain. A record that tells several
//! events numbers all but the last: `812.0`, `812.1`, `812`; so a plain number says that all of
//! its record was given. Ids sort as events follow each other.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use persistence::Header;
use serde_json::{Map, Value};
use supervision::Timestamp;
use types::{RequestId, TenantId, rfc3339};

use super::tell::Telling;

/// The most bytes of an event's data; of what is larger only the frame is told.
pub const DATA_BYTES_MAX: usize = 8 * 1024;
/// The most bytes of an event's name.
pub const NAME_BYTES_MAX: usize = 200;

/// Where an event stands in its tenant's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The number of its record.
    pub chain_seq: u64,
    /// Its place among those that the record tells; [`EntryId::LAST`] for the last one.
    pub place: u32,
}

impl EntryId {
    /// The place of the last event of a record.
    pub const LAST: u32 = u32::MAX;

    /// All of the record.
    pub fn whole(chain_seq: u64) -> Self {
        Self { chain_seq, place: Self::LAST }
    }

    /// The first record that may hold what comes after this.
    pub(crate) fn next_seq(self) -> u64 {
        if self.place == Self::LAST { self.chain_seq.saturating_add(1) } else { self.chain_seq }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Self::LAST => write!(f, "{}", self.chain_seq),
            place => write!(f, "{}.{place}", self.chain_seq),
        }
    }
}

/// A text is no id that an event was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an id that an event has had")]
pub struct EntryIdError;

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, EntryIdError> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| EntryIdError);
        match text.split_once('.') {
            None => Ok(Self::whole(number(text)?)),
            Some((chain_seq, place)) => {
                let place = u32::try_from(number(place)?).map_err(|_| EntryIdError)?;
                Ok(Self { chain_seq: number(chain_seq)?, place })
            }
        }
    }
}

/// An event, ready to be sent.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its id; `None` for what is not told again.
    pub(crate) id: Option<EntryId>,
    /// What it stands behind: its own id, or that of the last one before it that has one.
    pub(crate) after: EntryId,
    /// What it tells, without its data.
    pub(crate) telling: Telling,
    /// When it was published or recorded.
    pub(crate) at: Timestamp,
    /// It as text.
    pub(crate) bytes: Bytes,
}

impl Entry {
    /// An event that follows from a record.
    pub(crate) fn of_record(header: &Header, place: u32, telling: Telling) -> Self {
        let id = EntryId { chain_seq: header.chain_seq, place };
        let request = Some(RequestId(header.request.id));
        let at = Timestamp(header.time_ms);
        Self::new(Some(id), id, TenantId(header.home.0), at, request, telling)
    }

    /// An event that is told once, behind `after`.
    pub(crate) fn ephemeral(
        after: EntryId,
        tenant: TenantId,
        at: Timestamp,
        telling: Telling,
    ) -> Self {
        Self::new(None, after, tenant, at, None, telling)
    }

    fn new(
        id: Option<EntryId>,
        after: EntryId,
        tenant: TenantId,
        at: Timestamp,
        request: Option<RequestId>,
        mut telling: Telling,
    ) -> Self {
        telling.name = line_of(telling.name);
        let data = std::mem::take(&mut telling.data);
        let mut whole = framed(tenant, at, request, data);
        if whole.len() > DATA_BYTES_MAX {
            let omitted = Map::from_iter([("omitted".to_owned(), Value::Bool(true))]);
            whole = framed(tenant, at, request, omitted);
        }
        let bytes = frame(id, &telling.name, &whole);
        Self { id, after, telling, at, bytes }
    }
}

/// The data with what every event says. What the frame says, the data cannot say otherwise.
fn framed(
    tenant: TenantId,
    at: Timestamp,
    request: Option<RequestId>,
    mut data: Map<String, Value>,
) -> String {
    data.insert("tenant_id".to_owned(), tenant.to_string().into());
    data.insert("at".to_owned(), rfc3339(at).into());
    if let Some(request) = request {
        data.insert("trace_id".to_owned(), request.to_string().into());
    }
    Value::Object(data).to_string()
}

/// A name on one line, and not too long: apps give names too.
fn line_of(name: Cow<'static, str>) -> Cow<'static, str> {
    if name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control) {
        return name;
    }
    let mut fit: String = name.chars().filter(|it| !it.is_control()).collect();
    let mut end = fit.len().min(NAME_BYTES_MAX);
    while !fit.is_char_boundary(end) {
        end -= 1;
    }
    fit.truncate(end);
    fit.into()
}

/// One event's text. `data` is JSON, so it is one line.
pub(crate) fn frame(id: Option<EntryId>, name: &str, data: &str) -> Bytes {
    match id {
        Some(id) => format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into(),
        None => format!("event: {name}\ndata: {data}\n\n").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::tell::Audience;
    use serde_json::json;

    #[test]
    fn ids_are_read_back_and_sort_as_events_follow_each_other() {
        let at = |chain_seq, place| EntryId { chain_seq, place };
        let ids = [at(811, EntryId::LAST), at(812, 0), at(812, 1), EntryId::whole(812), at(813, 0)];
        assert!(ids.is_sorted());
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(ids.map(|id| id.to_string()), ["811", "812.0", "812.1", "812", "813.0"]);
        for text in ["", "x", "1.", ".1", "-1", "1.2.3", "1.99999999999", " 1"] {
            assert_eq!(text.parse::<EntryId>(), Err(EntryIdError), "{text}");
        }
    }

    #[test]
    fn no_name_and_no_data_breaks_out_of_its_line() {
        let data = json!({"text": "a\nid: 7\r\n\ndata: x", "tenant_id": "another"});
        let telling = Telling::new("x\n\nevent: y", Audience::Tenant, data);
        let entry = Entry::ephemeral(EntryId::whole(3), TenantId(1), Timestamp(0), telling);
        let text = String::from_utf8(entry.bytes.to_vec()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("event: xevent: y\ndata: {") && text.ends_with("}\n\n"), "{text}");
        assert!(!text.contains("another"), "{text}");
    }

    #[test]
    fn what_is_too_large_is_told_without_its_data() {
        let data = json!({"text": "x".repeat(DATA_BYTES_MAX)});
        let telling = Telling::new("x.y", Audience::Tenant, data);
        let entry = Entry::ephemeral(EntryId::whole(3), TenantId(1), Timestamp(0), telling);
        assert!(entry.bytes.len() < 200);
        assert!(String::from_utf8_lossy(&entry.bytes).contains("\"omitted\":true"));
    }
}
