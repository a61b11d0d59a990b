//! A process to be ended: it appends to a data folder's journal and notes what was acknowledged,
//! or it compares a folder with such notes.
//!
//! The fault scripts in `tests/external` start it on file systems that they cut, fill and freeze.
//! It uses the journal as the server does: lock, master key, key file, engine, head file, sealed
//! records and rows, some clients at once, now and then a new tenant with a new key.
//!
//! Everything that is written can be computed from the number of the client and of its append. So
//! nothing but the notes is needed to tell what must be there: each client's appends without a gap
//! up to at least the last acknowledged one, whole, readable, in verified chains, with the rows
//! that belong to them, and no head file that knows more than the journal has.
//!
//! `journal_writer write ENGINE FOLDER NOTES [NAME=NUMBER ...]`: `events` in all and by each client
//! (without it: until it is ended), `clients`, `payload_bytes`, `table_bytes`. Ends with 74 when
//! the journal fails, 3 when it does not open.
//! `journal_writer verify ENGINE FOLDER NOTES`: ends with 0, with 1 when something is wrong, with 3
//! when the journal does not open.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the scripts read what it says")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use persistence::record::{SHARDS, sha256};
use persistence::{
    Append, EngineKind, FolderLock, Home, Journal, KeyId, MasterKey, NewRecord, Opened, Options,
    Outcome, OwnerKey, Record, RowKey, RowRange, StreamName,
};

/// A client begins a new stream, of a new tenant, after so many appends.
const APPENDS_PER_STREAM: u64 = 500;
/// Records of one append: a half of them would be a batch in part.
const RECORDS_PER_APPEND: u64 = 2;
/// How many of its newest appends a stream keeps in its list of rows.
const LISTED_MAX: u64 = 100;
/// A snapshot comes with each so many appends.
const APPENDS_PER_SNAPSHOT: u64 = 100;
/// Where the head file's slots are and what they hold, as `head_file.rs` has it.
const HEAD_SLOT_BYTES: usize = 4096;
const HEAD_POSITIONS_AT: usize = 8 + 16 + 8 + 32;
const HEAD_BODY_BYTES: usize = HEAD_POSITIONS_AT + 8 * SHARDS;

const CODE_WRONG: u8 = 1;
const CODE_USAGE: u8 = 2;
const CODE_DOES_NOT_OPEN: u8 = 3;
const CODE_JOURNAL_FAILED: i32 = 74;

struct Settings {
    engine: EngineKind,
    folder: PathBuf,
    notes: PathBuf,
    numbers: BTreeMap<String, u64>,
}

impl Settings {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let engine = EngineKind::named(&arguments.next()?)?;
        let (folder, notes) = (arguments.next()?.into(), arguments.next()?.into());
        let mut numbers = BTreeMap::new();
        for argument in arguments {
            let (name, number) = argument.split_once('=')?;
            numbers.insert(name.to_owned(), number.parse().ok()?);
        }
        Some(Self { engine, folder, notes, numbers })
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.numbers.get(name).copied().unwrap_or(default)
    }

    fn open(&self) -> Result<(FolderLock, Arc<Journal>), String> {
        let lock = FolderLock::take(&self.folder).map_err(|error| described(&error))?;
        let master = MasterKey::load_or_create(&self.folder.join("master.key"));
        let master = master.map_err(|error| described(&error))?;
        let defaults = Options::new(&self.folder);
        let options = Options {
            engine: self.engine,
            table_bytes: self.number("table_bytes", defaults.table_bytes as u64) as usize,
            on_fatal: Box::new(|reason| {
                eprintln!("the journal failed: {reason}");
                std::process::exit(CODE_JOURNAL_FAILED);
            }),
            ..defaults
        };
        let journal = Journal::open(options, &master).map_err(|error| described(&error))?;
        Ok((lock, journal))
    }
}

fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let Some(settings) = Settings::parse(arguments) else {
        eprintln!("usage: journal_writer write|verify ENGINE FOLDER NOTES [NAME=NUMBER ...]");
        return ExitCode::from(CODE_USAGE);
    };
    match mode.as_str() {
        "write" => write(&settings),
        "verify" => verify(&settings),
        _ => ExitCode::from(CODE_USAGE),
    }
}

/// One stream of one client: of a tenant of its own.
struct Stream {
    name: StreamName,
    owner: OwnerKey,
}

impl Stream {
    fn new(client: u64, index: u64) -> Self {
        let id = u128::from(client) << 64 | u128::from(index + 1);
        let name = StreamName::new(&format!("wallet/{client}-{index}")).unwrap();
        Self { name, owner: OwnerKey { class: 1, id } }
    }

    fn key(&self) -> KeyId {
        KeyId { class: self.owner.class, id: self.owner.id }
    }

    fn home(&self) -> Home {
        Home(self.owner.id)
    }

    /// How many appends it has.
    fn appends(&self, journal: &Journal) -> u64 {
        journal.stream_head(&self.name).unwrap() / RECORDS_PER_APPEND
    }

    fn bound_to(&self, seq: u64) -> Vec<u8> {
        [self.name.as_str().as_bytes(), &seq.to_be_bytes()].concat()
    }

    fn balance_row(&self) -> RowKey {
        RowKey::new(self.owner.shard(), "balance", self.name.as_str().as_bytes())
    }

    fn list_prefix(&self) -> Vec<u8> {
        [self.name.as_str().as_bytes(), b"/"].concat()
    }

    fn list_row(&self, number: u64) -> RowKey {
        let key = [self.list_prefix().as_slice(), &number.to_be_bytes()].concat();
        RowKey::new(self.owner.shard(), "list", key)
    }
}

/// What a record says: who and where it is, and a filling that nothing compresses.
fn content(stream: &Stream, seq: u64, bytes: usize) -> Vec<u8> {
    let mut content = stream.bound_to(seq);
    let mut block = sha256(&[&content]);
    while content.len() < bytes {
        content.extend_from_slice(&block);
        block = sha256(&[&block]);
    }
    content
}

/// The append with this number (from 0) to a stream.
fn append(journal: &Journal, stream: &Stream, number: u64, payload_bytes: usize) -> Append {
    let keys = journal.keys();
    let first_seq = number * RECORDS_PER_APPEND + 1;
    let record = |seq: u64| {
        let plain = content(stream, seq, payload_bytes);
        let payload = keys.seal(stream.key(), &stream.bound_to(seq), &plain).unwrap();
        NewRecord { event: "debited".into(), event_version: 1, payload }
    };
    let row = |key: RowKey| {
        let value = keys.seal(stream.key(), &key.bytes(), &(number + 1).to_be_bytes()).unwrap();
        (key, Some(value))
    };
    let mut rows = vec![row(stream.balance_row()), row(stream.list_row(number))];
    if let Some(outdated) = number.checked_sub(LISTED_MAX) {
        rows.push((stream.list_row(outdated), None));
    }
    Append {
        stream: stream.name.clone(),
        owner: stream.owner,
        home: stream.home(),
        incarnation: u64::from(std::process::id()),
        expected_seq: first_seq - 1,
        records: (first_seq..first_seq + RECORDS_PER_APPEND).map(record).collect(),
        caller: "user/writer".into(),
        request: u128::from(number).into(),
        cause: None,
        command: "debit".into(),
        time_ms: 1_000_000 + number as i64,
        rows,
        rider: Box::new(|_| {}),
    }
}

/// Appends and waits; `None` when it is in doubt.
fn settle(journal: &Journal, mut work: Append) -> Option<Outcome> {
    let (sender, receiver) = mpsc::channel();
    work.rider = Box::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    journal.append(work);
    receiver.recv().ok()
}

fn write(settings: &Settings) -> ExitCode {
    let begun = Instant::now();
    let (_lock, journal) = match settings.open() {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("does not open: {error}");
            return ExitCode::from(CODE_DOES_NOT_OPEN);
        }
    };
    println!("opened_ms {}", begun.elapsed().as_millis());
    let notes = OpenOptions::new().create(true).append(true).open(&settings.notes).unwrap();
    let events = settings.number("events", u64::MAX);
    let payload_bytes = settings.number("payload_bytes", 200) as usize;
    let queue_depth_max = AtomicU64::new(0);
    let mut latencies_us: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..settings.number("clients", 4))
            .map(|client| {
                let (journal, notes, depth) = (&journal, &notes, &queue_depth_max);
                scope
                    .spawn(move || run_client(journal, client, events, payload_bytes, notes, depth))
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    latencies_us.sort_unstable();
    let at = |percent: usize| {
        let last = latencies_us.len().saturating_sub(1);
        latencies_us.get(last * percent / 100).copied().unwrap_or_default()
    };
    let depth = queue_depth_max.into_inner();
    println!(
        "appends {} p50_us {} p99_us {} max_us {} queue_depth_max {depth}",
        latencies_us.len(),
        at(50),
        at(99),
        at(100),
    );
    ExitCode::SUCCESS
}

/// Goes on where the journal says this client was; answers how long each append took.
fn run_client(
    journal: &Journal,
    client: u64,
    events: u64,
    payload_bytes: usize,
    mut notes: &File,
    queue_depth_max: &AtomicU64,
) -> Vec<u64> {
    let mut latencies_us = Vec::new();
    let mut index = 0;
    while Stream::new(client, index).appends(journal) == APPENDS_PER_STREAM {
        index += 1;
    }
    let mut number = Stream::new(client, index).appends(journal);
    while (latencies_us.len() as u64) < events {
        let stream = Stream::new(client, index);
        let work = append(journal, &stream, number, payload_bytes);
        let begun = Instant::now();
        match settle(journal, work) {
            Some(Outcome::Durable(_)) => {}
            // In doubt: the process is about to end.
            None => return latencies_us,
            Some(Outcome::Refused(conflict)) => panic!("{}: {conflict:?}", stream.name),
        }
        latencies_us.push(begun.elapsed().as_micros() as u64);
        queue_depth_max.fetch_max(journal.statistics().queue_depth, Ordering::Relaxed);
        // One write a line: whatever ends this process leaves whole lines, but for the last one.
        let line = format!("{client} {}\n", index * APPENDS_PER_STREAM + number);
        notes.write_all(line.as_bytes()).unwrap();
        number += 1;
        if number.is_multiple_of(APPENDS_PER_SNAPSHOT) {
            let sealed = journal.keys().seal(stream.key(), b"snapshot", &number.to_be_bytes());
            journal.snapshot(stream.name.clone(), number * RECORDS_PER_APPEND, sealed.unwrap());
        }
        if number == APPENDS_PER_STREAM {
            (index, number) = (index + 1, 0);
        }
    }
    latencies_us
}

/// By client: how many appends were acknowledged.
fn acknowledged(notes: &Path) -> BTreeMap<u64, u64> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    let mut acknowledged = BTreeMap::new();
    // What follows the last line feed was cut short.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let (client, number) = line.split_once(' ').unwrap();
        let count = acknowledged.entry(client.parse().unwrap()).or_insert(0);
        *count = (*count).max(number.parse::<u64>().unwrap() + 1);
    }
    acknowledged
}

/// How many records the head file knows of, by its newest slot, and how many slots check.
fn head_file(folder: &Path) -> (u64, usize) {
    let bytes = std::fs::read(folder.join("head")).unwrap_or_default();
    let mut newest = (0, 0);
    let mut whole = 0;
    for slot in bytes.chunks_exact(HEAD_SLOT_BYTES) {
        let (body, rest) = slot.split_at(HEAD_BODY_BYTES);
        if rest.first_chunk() != Some(&crc32fast::hash(body).to_be_bytes()) {
            continue;
        }
        whole += 1;
        let number = |bytes: &[u8]| u64::from_be_bytes(*bytes.first_chunk().unwrap());
        let records = body[HEAD_POSITIONS_AT..].chunks_exact(8).map(number).sum();
        newest = newest.max((number(&body[24..]), records));
    }
    (newest.1, whole)
}

fn verify(settings: &Settings) -> ExitCode {
    let (head_records, head_slots) = head_file(&settings.folder);
    let acknowledged = acknowledged(&settings.notes);
    let acknowledged_total: u64 = acknowledged.values().sum();
    let begun = Instant::now();
    let (_lock, journal) = match settings.open() {
        Ok(opened) => opened,
        Err(error) => {
            println!("does not open, {acknowledged_total} acknowledged: {error}");
            return ExitCode::from(CODE_DOES_NOT_OPEN);
        }
    };
    let opened_ms = begun.elapsed().as_millis();
    let mut found = Found::default();
    // Clients that were never acknowledged may have left something too.
    for client in 0..acknowledged.keys().max().map_or(0, |most| most + 1).max(16) {
        let count = acknowledged.get(&client).copied().unwrap_or_default();
        found.client(&journal, client, count);
    }
    found.chains_and_shards(&journal);
    if head_records > found.records {
        let records = found.records;
        found.wrong(format!("the head file knows {head_records} records, {records} are there"));
    }
    println!(
        "acknowledged {acknowledged_total} found {} streams {} head_slots {head_slots} \
         head_behind_records {} opened_ms {opened_ms} wrong {}",
        found.records / RECORDS_PER_APPEND,
        found.streams,
        found.records.saturating_sub(head_records),
        found.wrong.len(),
    );
    for wrong in found.wrong.iter().take(5) {
        println!("  {wrong}");
    }
    if found.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CODE_WRONG) }
}

/// What a walk over the journal has come across.
#[derive(Default)]
struct Found {
    records: u64,
    streams: u64,
    wrong: Vec<String>,
}

impl Found {
    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn client(&mut self, journal: &Journal, client: u64, acknowledged: u64) {
        let mut total = 0;
        for index in 0.. {
            let stream = Stream::new(client, index);
            let appends = self.stream(journal, &stream);
            total += appends;
            if appends < APPENDS_PER_STREAM {
                break;
            }
        }
        if total < acknowledged {
            self.wrong(format!("client {client}: {acknowledged} acknowledged, {total} there"));
        }
    }

    /// Reads one stream with all that belongs to it; answers how many appends it has.
    fn stream(&mut self, journal: &Journal, stream: &Stream) -> u64 {
        let name = &stream.name;
        let records = journal.read(name, 0, usize::MAX).unwrap();
        let count = records.len() as u64;
        if count == 0 {
            return 0;
        }
        self.records += count;
        self.streams += 1;
        if count != journal.stream_head(name).unwrap() || !count.is_multiple_of(RECORDS_PER_APPEND)
        {
            self.wrong(format!("{name}: {count} records, which is no whole number of appends"));
        }
        for (expected, record) in (1..).zip(&records) {
            if record.header.seq != expected || !is_content(journal, stream, record) {
                self.wrong(format!("{name}: record {expected} is not what was written"));
            }
        }
        let appends = count / RECORDS_PER_APPEND;
        self.rows(journal, stream, appends);
        if let Some((seq, _)) = journal.read_snapshot(name).unwrap()
            && seq > count
        {
            self.wrong(format!("{name}: a snapshot of {seq} records, and there are {count}"));
        }
        appends
    }

    fn rows(&mut self, journal: &Journal, stream: &Stream, appends: u64) {
        let opened =
            |key: &RowKey, sealed: &[u8]| match journal.keys().open_blob(&key.bytes(), sealed) {
                Ok(Opened::Plain(plain)) => Some(u64::from_be_bytes(plain.try_into().ok()?)),
                _ => None,
            };
        let balance = journal.row(&stream.balance_row()).unwrap();
        let balance = balance.and_then(|sealed| opened(&stream.balance_row(), &sealed));
        if balance != Some(appends) {
            self.wrong(format!("{}: its row says {balance:?} of {appends}", stream.name));
        }
        let range = RowRange {
            shard: stream.owner.shard(),
            family: "list",
            prefix: stream.list_prefix(),
            after: None,
            newest_first: false,
            limit: usize::MAX,
        };
        let listed = journal.row_range(&range).unwrap();
        let listed: Vec<_> = listed.iter().map(|(key, sealed)| opened(key, sealed)).collect();
        let first = appends.saturating_sub(LISTED_MAX);
        let expected: Vec<_> = (first..appends).map(|number| Some(number + 1)).collect();
        if listed != expected {
            let (listed, expected) = (listed.len(), expected.len());
            self.wrong(format!("{}: {listed} rows listed, not {expected}", stream.name));
        }
    }

    /// Every chain verifies, every shard is without a gap, and both hold what the streams hold.
    fn chains_and_shards(&mut self, journal: &Journal) {
        let mut in_chains = 0;
        for home in journal.homes(None, usize::MAX).unwrap() {
            match journal.verify_chain(home) {
                Ok(report) => in_chains += report.records,
                Err(error) => self.wrong(format!("the chain of {}: {}", home.0, described(&error))),
            }
        }
        let mut in_shards = 0;
        for shard in 0..=u8::MAX {
            let records = journal.read_shard(persistence::Shard(shard), 1, usize::MAX).unwrap();
            let is_dense = (1..).zip(&records).all(|(pos, found)| found.header.position.pos == pos);
            if !is_dense {
                self.wrong(format!("shard {shard} has a gap"));
            }
            in_shards += records.len() as u64;
        }
        if in_chains != self.records || in_shards != self.records {
            let records = self.records;
            self.wrong(format!(
                "{records} in streams, {in_chains} in chains, {in_shards} in shards"
            ));
        }
    }
}

fn is_content(journal: &Journal, stream: &Stream, record: &Record) -> bool {
    let bound_to = stream.bound_to(record.header.seq);
    match journal.keys().open_blob(&bound_to, &record.payload) {
        Ok(Opened::Plain(plain)) => plain == content(stream, record.header.seq, plain.len()),
        _ => false,
    }
}
