//! How many durable commands a second the journal takes, in the shape that the server writes:
//! a sealed payload, the full header, chain, index, one row, on the default engine or another.
//!
//! `cargo run --release -p benches --bin record_shape [seconds] [redb|sled|sled-alone]`

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use persistence::engine::SledEngine;
use persistence::head_file::HeadFile;
use persistence::{
    Append, EngineKind, Home, Journal, KeyId, KeyRing, MasterKey, NewRecord, Options, OwnerKey,
    RowKey, StreamName,
};

const CALLERS: u64 = 256;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let folder = tempfile::tempdir_in(".")?;
    let journal = open(folder.path(), std::env::args().nth(2).as_deref().unwrap_or("redb"))?;
    say("engine", journal.engine_name());
    for (name, callers, streams, row) in [
        ("one caller", 1, 1, false),
        ("256 callers, one stream", CALLERS, 1, false),
        ("256 callers, one stream, a row each", CALLERS, 1, true),
        ("256 callers, 256 streams", CALLERS, CALLERS, false),
    ] {
        let before = journal.statistics();
        let started = Instant::now();
        let done = drive(&journal, callers, streams, row, Duration::from_secs(seconds)).await?;
        let took = started.elapsed().as_secs_f64();
        let commits = journal.statistics().commits - before.commits;
        let rate = done as f64 / took;
        let (per, ms) = (done as f64 / commits as f64, took * 1e3 / commits as f64);
        say(name, &format!("{rate:.0} durable commands/s, {per:.0} a commit, {ms:.2} ms a commit"));
    }
    Ok(())
}

/// The journal as the server has it; `sled-alone` is without the log before the store.
fn open(folder: &Path, engine: &str) -> Result<Arc<Journal>, Box<dyn std::error::Error>> {
    let (master, usual) = (MasterKey::generate()?, Options::new(folder));
    if engine == "sled-alone" {
        let engine = Arc::new(SledEngine::open(folder, usual.cache_bytes)?);
        let keys = Arc::new(KeyRing::in_memory(&master)?);
        let head = HeadFile::open(&folder.join("head"))?;
        return Ok(Journal::start(engine, keys, Some(head), None, usual.on_fatal)?);
    }
    let engine = EngineKind::named(engine).ok_or("redb, sled or sled-alone")?;
    Ok(Journal::open(Options { engine, ..usual }, &master)?)
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn say(name: &str, figure: &str) {
    println!("{name:40} {figure}");
}

/// One stream's writer: like an actor, it appends in order and does not wait.
struct Stream {
    name: StreamName,
    id: u128,
    seq: parking_lot::Mutex<u64>,
}

async fn drive(
    journal: &Arc<Journal>,
    callers: u64,
    streams: u64,
    row: bool,
    limit: Duration,
) -> Result<u64, Box<dyn std::error::Error>> {
    static RUN: AtomicU64 = AtomicU64::new(1);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let streams: Vec<Arc<Stream>> = (0..streams)
        .map(|n| {
            let id = (u128::from(run) << 64) | u128::from(n);
            let name = StreamName::new(&format!("wallet/{id:026x}")).ok_or("name")?;
            Ok::<_, &str>(Arc::new(Stream { name, id, seq: parking_lot::Mutex::new(0) }))
        })
        .collect::<Result<_, _>>()?;
    let mut tasks = Vec::new();
    let deadline = Instant::now() + limit;
    for caller in 0..callers {
        let (journal, stream) = (journal.clone(), streams[caller as usize % streams.len()].clone());
        tasks.push(tokio::spawn(async move {
            let mut done = 0_u64;
            while Instant::now() < deadline {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                command(&journal, &stream, run, row, sender);
                if receiver.await.is_err() {
                    break;
                }
                done += 1;
            }
            done
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += task.await?;
    }
    Ok(done)
}

fn command(
    journal: &Journal,
    stream: &Stream,
    incarnation: u64,
    row: bool,
    answer: tokio::sync::oneshot::Sender<()>,
) {
    let mut seq = stream.seq.lock();
    let owner = OwnerKey { class: 1, id: stream.id };
    let key = KeyId { class: 1, id: stream.id };
    let aad = [stream.name.as_str().as_bytes(), &seq.to_be_bytes()].concat();
    // As large as a debit: entry id, amount, reason, the split, what is left.
    let payload = journal.keys().seal(key, &aad, &[7; 72]).unwrap_or_default();
    let rows = if row {
        let key = RowKey::new(owner.shard(), "ledger", seq.to_be_bytes());
        vec![(key, Some(payload.clone()))]
    } else {
        Vec::new()
    };
    journal.append(Append {
        stream: stream.name.clone(),
        owner,
        home: Home(stream.id),
        incarnation,
        expected_seq: *seq,
        records: vec![NewRecord { event: "debited".into(), event_version: 1, payload }],
        caller: "service/01arz3ndektsv4rrffq69g5fav".into(),
        request: (u128::from(*seq) << 64).into(),
        cause: None,
        command: "debit".into(),
        time_ms: 1_700_000_000_000,
        rows,
        rider: Box::new(move |_| {
            let _ = answer.send(());
        }),
    });
    *seq += 1;
}
