//! C7 and C8: every single call fails once, with EIO, and from every single call on the disk is
//! full. Nothing is acknowledged after a failure by the same writer, and when the cause is gone all
//! that was acknowledged is there, after a power cut too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use persistence::engine::{Direction, Engine, EngineError, Pair, WriteBatch};
use persistence::{Journal, KeyRing, Outcome};

use crate::disk::{Disk, Fault, Random};
use crate::story::{Built, Simulated, Story};
use crate::{append, each_store, master, name, setting_or, settle};

const COMMITS: u64 = 24;

/// What became of a run with a fault in it.
struct Met {
    operations: u64,
    /// The operation that met it.
    met: Option<&'static str>,
    /// Whether somebody was told.
    told: bool,
}

/// One run until somebody is told of the fault. Fails if the store is not right then.
fn meets(built: Built, fault: Fault, seed: u64) -> Result<Met, String> {
    let mut random = Random(seed);
    let disk = Disk::new(random.next());
    let text = |error: EngineError| error.to_string();
    drop(Simulated::open(built, &disk).map_err(text)?);
    let story = Mutex::new(Story::default());
    disk.plan(fault);
    // What a store still writes when it is closed is nobody's: its errors have nobody to tell.
    let (told, (operations, met)) = match Simulated::open(built, &disk) {
        Ok(engine) => (works_until_it_fails(&engine, &story, &mut random)?, disk.met()),
        Err(_) => (true, disk.met()),
    };
    disk.plan(Fault::None);
    for cut in [false, true] {
        if cut {
            disk.cut_power();
        }
        let engine = Simulated::open(built, &disk)
            .map_err(|error| format!("it does not open again (power cut: {cut}): {error}"))?;
        let checked = story.lock().check(engine.engine());
        checked.map_err(|error| format!("power cut: {cut}: {error}"))?;
        Story::commit(&story, engine.engine(), &mut random).map_err(text)?;
    }
    Ok(Met { operations, met, told })
}

fn works_until_it_fails(
    engine: &Simulated,
    story: &Mutex<Story>,
    random: &mut Random,
) -> Result<bool, String> {
    for _ in 0..COMMITS {
        if Story::commit(story, engine.engine(), random).is_err() {
            // Whole or not at all is decided: what comes after it must not be acknowledged.
            let mut other = WriteBatch::default();
            other.put(b"later".to_vec(), Vec::new());
            let later = engine.engine().commit(other);
            return later.map_or(Ok(true), |()| Err("it acknowledged after a failure".to_owned()));
        }
        if engine.move_frozen().is_err() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn every_call(built: Built, fault: fn(u64) -> Fault) {
    let step = setting_or("CONFORMANCE_FAULT_STEP", 3);
    let (mut told, mut untold) = (0, BTreeMap::new());
    for at in (1..).step_by(step as usize) {
        let met = meets(built, fault(at), at);
        let met = met.unwrap_or_else(|error| panic!("{built:?}, {:?}: {error}", fault(at)));
        if met.told {
            told += 1;
        } else if let Some(operation) = met.met {
            *untold.entry(operation).or_insert(0) += 1;
        }
        if met.operations < at {
            break;
        }
    }
    println!("{built:?}: {told} failures, one in {step} calls; nobody was told of {untold:?}");
    assert!(told > 10);
    // redb writes some pages early to make room, keeps those that fail, and writes them again.
    assert!(untold.keys().all(|operation| *operation == "write"), "{untold:?}");
}

#[test]
fn c8_whichever_call_fails_nothing_is_lost_and_nothing_more_is_acknowledged() {
    every_call(Built::Logged, Fault::Error);
}

#[test]
fn c8_the_same_of_redb_alone() {
    every_call(Built::Alone, Fault::Error);
}

#[test]
fn c7_wherever_the_disk_fills_up_nothing_is_lost_and_with_room_it_goes_on() {
    every_call(Built::Logged, Fault::Full);
}

#[test]
fn c7_the_same_of_redb_alone() {
    every_call(Built::Alone, Fault::Full);
}

/// An engine whose n-th call fails, with that error for good or once.
struct Failing {
    inner: Arc<dyn Engine>,
    left: AtomicU64,
}

impl Failing {
    fn call(&self) -> Result<(), EngineError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return Ok(());
        }
        let reason = std::io::Error::from_raw_os_error(5).to_string();
        Err(EngineError { engine: "failing", operation: "call", reason })
    }
}

impl Engine for Failing {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.call()?;
        self.inner.commit(batch)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.call()?;
        self.inner.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        self.call()?;
        self.inner.scan(start, end, direction, limit)
    }

    fn syncs_per_commit(&self) -> u32 {
        self.inner.syncs_per_commit()
    }
}

#[test]
fn c8_a_journal_whose_engine_fails_answers_nobody_after_it() {
    each_store(|open| {
        let inner = open();
        let mut seq = 0;
        for n in 1..=12 {
            let left = AtomicU64::new(n);
            let failing = Arc::new(Failing { inner: inner.clone(), left });
            let keys = Arc::new(KeyRing::in_memory(&master()).unwrap());
            let on_fatal = Box::new(|_: &str| {});
            let Ok(journal) = Journal::start(failing, keys, None, None, on_fatal) else { continue };
            let mut over = false;
            for _ in 0..16 {
                match settle(&journal, append("s/1", n, seq, &[b"x"])) {
                    Some(Outcome::Durable(_)) => {
                        assert!(!over, "acknowledged after a failure");
                        seq += 1;
                    }
                    Some(refused) => panic!("{refused:?}"),
                    None => over = true,
                }
            }
            assert!(over, "call {n} never came");
            drop(journal);
            let keys = Arc::new(KeyRing::in_memory(&master()).unwrap());
            let journal =
                Journal::start(inner.clone(), keys, None, None, Box::new(|_| {})).unwrap();
            assert_eq!(journal.read(&name("s/1"), 0, usize::MAX).unwrap().len() as u64, seq);
        }
        assert!(seq > 0);
    });
}
