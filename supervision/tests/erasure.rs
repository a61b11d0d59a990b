//! What was erased: it does not start any more, says so, and reminds nobody of itself, while what
//! was not erased goes on beside it.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::collections::HashSet;
use std::sync::Arc;

use persistence::{EngineKind, Journal, KeyId, MasterKey, Options, RowRange, Shard};
use serde::{Deserialize, Serialize};
use supervision::address::{Place, TENANT_KEY_CLASS, USER_KEY_CLASS};
use supervision::reminders::{DUE_FAMILY, PENDING_FAMILY};
use supervision::*;

/// A note that shall be read out at a time, and is pending until it was.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Note {
    text: Option<String>,
    lines: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Written {
    text: String,
}

supervision::events! {
    /// What happens to a note.
    enum NoteEvent {
        /// It was written.
        Written(Written) = "written", 1;
    }
}

const TEXTS: &str = "texts";

impl Entity for Note {
    const KIND: &'static str = "note";
    const PUBLISHED: bool = true;
    type Event = NoteEvent;
    type Effect = NoEffect;

    fn apply(&mut self, NoteEvent::Written(written): &NoteEvent, _: Timestamp) {
        self.text = Some(written.text.clone());
        self.lines += 1;
    }

    fn rows(
        &self,
        NoteEvent::Written(written): &NoteEvent,
        _: Timestamp,
        rows: &mut Vec<RowDraft>,
    ) {
        let (key, value) = (b"text".to_vec(), Some(written.text.clone().into_bytes()));
        rows.push(RowDraft { family: TEXTS, key, value });
    }

    fn is_pending(&self) -> bool {
        self.text.is_some()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.text.as_ref().map(|_| Timestamp(2_000_000))
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({"lines": self.lines})
    }
}

struct Write(&'static str);

impl Command for Write {
    const NAME: &'static str = "write";
}

impl Handle<Write> for Note {
    type Reply = u32;

    fn handle(turn: &mut Turn<'_, Self>, Write(text): Write) -> Result<u32, Refusal> {
        turn.record(NoteEvent::Written(Written { text: text.to_owned() }));
        Ok(turn.state().lines)
    }
}

const ADA: OwnerKey = OwnerKey { class: USER_KEY_CLASS, id: 7 };
const ACME: Home = Home(5);

fn adas() -> Address<Note> {
    Address::new("adas", ADA, ACME).unwrap()
}

fn acmes() -> Address<Note> {
    Address::new("acmes", OwnerKey { class: TENANT_KEY_CLASS, id: ACME.0 }, ACME).unwrap()
}

fn start(journal: Arc<Journal>) -> (Arc<System>, Arc<SimulatedClock>) {
    let clock = SimulatedClock::at(Timestamp(1_000_000));
    let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
    (System::builder(options).kind::<Note>().start(), clock)
}

fn journal() -> Arc<Journal> {
    let options = Options { engine: EngineKind::Memory, ..Options::new("") };
    Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap()
}

async fn write(system: &System, address: &Address<Note>) -> Result<u32, Refusal> {
    system.directory::<Note>().ask(address, Write("hush"), system.system_origin()).await
}

fn rows(system: &System, shard: Shard, family: &'static str) -> usize {
    let (prefix, after) = (Vec::new(), None);
    let range = RowRange { shard, family, prefix, after, newest_first: false, limit: 10 };
    system.journal().row_range(&range).unwrap().len()
}

fn adas_key() -> KeyId {
    KeyId { class: USER_KEY_CLASS, id: 7 }
}

#[test]
fn what_a_user_owns_is_sealed_under_the_users_key_and_the_rest_under_the_homes() {
    assert_eq!(adas().place().key(), adas_key());
    assert_eq!(acmes().place().key(), KeyId { class: TENANT_KEY_CLASS, id: ACME.0 });
    let of_app = Place { owner: OwnerKey { class: 3, id: 9 }, ..acmes().place().clone() };
    assert_eq!(of_app.key(), acmes().place().key());
}

#[tokio::test]
async fn what_was_erased_says_so_without_a_crash_and_leaves_nothing_to_be_done() {
    let (system, clock) = start(journal());
    for address in [adas(), acmes()] {
        assert_eq!(write(&system, &address).await, Ok(1));
    }
    let keys = system.journal().keys().clone();
    assert_eq!(keys.erase_all(&[adas_key()]).unwrap().len(), 1);
    assert_eq!(system.forget(HashSet::from([adas_key()])).await, 1);
    assert_eq!(write(&system, &acmes()).await, Ok(2), "nobody else was let go");
    for _ in 0..3 {
        let refusal = write(&system, &adas()).await.unwrap_err();
        assert!(refusal.is_erased() && refusal.class == Class::Gone, "{refusal}");
    }
    let origin = system.system_origin();
    let looked = system.directory::<Note>().look(&adas(), origin, |it| it.lines).await;
    assert!(looked.unwrap_err().is_erased());
    assert_eq!(keys.number_of(adas_key()), None, "asking makes no new key");
    let view = system.kind("note").unwrap().kind_view();
    assert_eq!((view.crashes, view.quarantined.len()), (0, 0));
    let view = system.kind("note").unwrap();
    assert!(view.verify(adas().place()).unwrap_err().is_erased());
    assert!(view.observe_at(adas().place(), 1).unwrap_err().is_erased());

    // Its reminder fires in vain, once, and its marks go.
    clock.advance_ms(1_000_000);
    assert_eq!(system.fire_reminders(), 2);
    let shard = adas().place().shard();
    while rows(&system, shard, DUE_FAMILY) + rows(&system, shard, PENDING_FAMILY) > 0 {
        tokio::task::yield_now().await;
    }
    let next = system.reminders().next(10);
    assert!(next.iter().all(|(_, stream)| *stream == acmes().place().stream), "{next:?}");
    system.journal().verify_chain(ACME).unwrap();
    let report = system.reindex_shard(shard, false).unwrap();
    assert_eq!((report.wrong(), report.unreadable.len()), (0, 0), "{report:?}");
}

#[tokio::test]
async fn a_start_finds_nothing_of_what_was_erased_before_it_was_cleaned_up() {
    let journal = journal();
    let (system, _) = start(journal.clone());
    write(&system, &adas()).await.unwrap();
    write(&system, &acmes()).await.unwrap();
    journal.keys().erase(adas_key()).unwrap();
    system.forget(HashSet::from([adas_key()])).await;
    let (system, _) = start(journal);
    let recovered = system.recover().unwrap();
    assert_eq!((recovered.pending, recovered.reminders), (1, 1), "the tenant's");
    system.clean_erased().unwrap();
    system.settle().await;
    let shard = adas().place().shard();
    assert_eq!(rows(&system, shard, PENDING_FAMILY) + rows(&system, shard, DUE_FAMILY), 0);
    // So that its records can be archived there is a snapshot, which opens as nothing.
    let record = system.journal().read(&adas().place().stream, 0, 1).unwrap().remove(0);
    assert!(system.snapshot(&record.header));
    system.settle().await;
    assert!(write(&system, &adas()).await.unwrap_err().is_erased());
    assert_eq!(system.journal().keys().number_of(adas_key()), None);
}
