//! The scenario `readers`: how long an event takes to many readers, and what a reader costs.
//!
//! So many readers of the event feed are opened, spread over some tenants; then each tenant's
//! wallet changes once a second. Told are the delays from the change to each reader, from the time
//! that the event bears (its turn's, in milliseconds) to when its bytes were read, and the memory
//! of the server, as its `/metrics` tell, by reader. One reader in a hundred stops reading after
//! the first bytes, and must cost the others nothing.
//!
//! Deliberate limits: one connection a reader, HTTP/1.1; both clocks must agree, so it measures a
//! server on the same machine; the server must take so many connections (`--connections-max`), and
//! the system so many files (`ulimit -n`), here and there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream;
use hdrhistogram::Histogram;
use hyper::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval_at, sleep, timeout};

use super::client::{Connection, Prepared, Target};
use super::setup::Setup;
use super::told::tell;
use super::{LoadError, progress};

/// The scenario's name.
pub(crate) const NAME: &str = "readers";

/// One reader in so many stops reading.
const STALLED_EVERY: usize = 100;
/// Readers that are opened at the same time.
const OPENING_AT_ONCE: usize = 64;
/// How long a reader may take to be let in, in seconds.
const OPEN_SECONDS_MAX: u64 = 30;
/// How long events are awaited after the last change, in seconds.
const DRAIN_SECONDS: u64 = 3;
/// The time between two changes of one wallet.
const CHANGE_PERIOD: Duration = Duration::from_secs(1);
/// The longest delay that is told apart from longer ones, in milliseconds.
const DELAY_MILLIS_MAX: u64 = 120_000;
/// Shares of the counts, so that readers on different cores do not wait for one lock.
const SHARES: usize = 16;
/// What is read at once, in bytes.
const PART_BYTES: usize = 4_096;
/// The event that is measured.
const MEASURED: &[u8] = b"event: wallet.changed";
/// What stands before the time in its data.
const AT: &[u8] = b"\"at\":\"";
/// How long a time is, in characters.
const AT_LENGTH: usize = 24;

fn wire(path: &str, reason: impl ToString) -> LoadError {
    LoadError::Wire { path: path.to_owned(), reason: reason.to_string() }
}

/// What all readers have seen.
struct Tally {
    shares: Vec<Mutex<Histogram<u64>>>,
    ended: AtomicU64,
}

impl Tally {
    fn new() -> Result<Arc<Self>, LoadError> {
        let share = |_| Histogram::new_with_bounds(1, DELAY_MILLIS_MAX, 3).map(Mutex::new);
        let shares: Result<Vec<_>, _> = (0..SHARES).map(share).collect();
        let shares = shares.map_err(LoadError::Histogram)?;
        Ok(Arc::new(Self { shares, ended: AtomicU64::new(0) }))
    }

    fn whole(&self) -> Result<Histogram<u64>, LoadError> {
        let whole = Histogram::new_with_bounds(1, DELAY_MILLIS_MAX, 3);
        let mut whole = whole.map_err(LoadError::Histogram)?;
        for share in &self.shares {
            whole.add(&*share.lock()).map_err(|_| LoadError::Merge)?;
        }
        Ok(whole)
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

/// How old the event is whose data this line is.
fn delay_of(line: &[u8]) -> Option<u64> {
    let start = line.windows(AT.len()).position(|part| part == AT)? + AT.len();
    let text = std::str::from_utf8(line.get(start..start + AT_LENGTH)?).ok()?;
    let at = types::parse_rfc3339(text)?;
    Some((now_millis() - at.0).max(0) as u64)
}

/// A reader's connection.
struct Reading {
    stream: TcpStream,
    number: usize,
}

impl Reading {
    /// Opens it, until the server has let it in.
    async fn open(target: &Target, head: &[u8], number: usize) -> Result<Self, LoadError> {
        let path = "/v1/events/stream";
        let opening = async {
            let mut stream = target.connect().await.map_err(|error| wire(path, error))?;
            stream.write_all(head).await.map_err(|error| wire(path, error))?;
            let mut begun = Vec::new();
            while !begun.windows(4).any(|part| part == b"\r\n\r\n") {
                let read = stream.read_buf(&mut begun).await.map_err(|error| wire(path, error))?;
                if read == 0 {
                    return Err(wire(path, "the connection was closed"));
                }
            }
            let text = String::from_utf8_lossy(&begun).into_owned();
            let status = text.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
            if status != 200 {
                return Err(LoadError::Refused { path: path.to_owned(), status, problem: text });
            }
            Ok(Self { stream, number })
        };
        let opened = timeout(Duration::from_secs(OPEN_SECONDS_MAX), opening).await;
        opened.map_err(|_| wire(path, "nothing came"))?
    }

    /// Reads until the end, and counts the delays.
    async fn follow(mut self, tally: Arc<Tally>) {
        let (mut line, mut part) = (Vec::new(), vec![0; PART_BYTES]);
        let mut is_measured = false;
        while let Ok(read @ 1..) = self.stream.read(&mut part).await {
            for byte in &part[..read] {
                if *byte != b'\n' {
                    line.push(*byte);
                    continue;
                }
                is_measured |= line.starts_with(MEASURED);
                if line.starts_with(b"data: ") {
                    if let Some(delay) = delay_of(&line).filter(|_| is_measured) {
                        let share = &tally.shares[self.number % SHARES];
                        share.lock().saturating_record(delay.max(1));
                    }
                    is_measured = false;
                }
                line.clear();
            }
        }
        tally.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// The server's memory in bytes, if it tells.
pub(crate) async fn memory(target: &Target) -> Result<Option<u64>, LoadError> {
    let path = "/metrics";
    let request = target.prepare(Method::GET, path, &[], None)?;
    let mut connection = Connection::open(target).await.map_err(|error| wire(path, error))?;
    let answer = connection.exchange(request, true).await;
    let answer = answer.map_err(|failure| wire(path, format!("{failure:?}")))?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let name = "bailiwick_process_resident_memory_bytes ";
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.and_then(|value| value.trim().parse().ok()))
}

/// Changes a tenant's wallet once a second; says how often that succeeded.
async fn change(target: Target, request: Prepared, first: Duration, count: u64) -> u64 {
    let mut ticks = interval_at((Instant::now() + first).into(), CHANGE_PERIOD);
    let (mut connection, mut changed) = (None, 0);
    for _ in 0..count {
        ticks.tick().await;
        if connection.is_none() {
            connection = Connection::open(&target).await.ok();
        }
        let Some(open) = &mut connection else { continue };
        match open.exchange(request.clone(), false).await {
            Ok(answer) => changed += u64::from(answer.status.is_success()),
            Err(_) => connection = None,
        }
    }
    changed
}

/// Opens all readers; the last ones of each hundred are given back apart, to read nothing.
async fn open_all(
    target: &Target,
    heads: &[Vec<u8>],
    count: usize,
) -> Result<Vec<Reading>, LoadError> {
    let opening = (0..count).map(|number| async move {
        let head = &heads[number % heads.len()];
        let opened = Reading::open(target, head, number).await?;
        progress::show(&format!("opened {} of {count} readers", number + 1));
        Ok::<_, LoadError>(opened)
    });
    let mut opening = stream::iter(opening).buffer_unordered(OPENING_AT_ONCE);
    let mut readers = Vec::with_capacity(count);
    while let Some(opened) = opening.next().await {
        readers.push(opened?);
    }
    Ok(readers)
}

/// A request as HTTP/1.1 writes it.
fn head_of(request: &Prepared) -> Vec<u8> {
    let mut head = format!("GET {} HTTP/1.1\r\n", request.uri()).into_bytes();
    for (name, value) in request.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Runs the scenario and prints what it found.
pub(crate) async fn run(
    setup: &Setup,
    target: &Target,
    duration: Duration,
    json: Option<&Path>,
) -> Result<(), LoadError> {
    let (count, tenants) = setup.readers();
    progress::say(&format!("registering {tenants} tenants"));
    let members = setup.register_members(tenants).await?;
    let stream = "/v1/events/stream";
    let heads = members.iter().map(|member| {
        Ok(head_of(&setup.member_request(Method::GET, stream, &member.token, None)?))
    });
    let heads: Vec<_> = heads.collect::<Result<_, LoadError>>()?;
    let before = memory(target).await?;
    let readers = open_all(target, &heads, count).await?;
    let opened = memory(target).await?;

    let tally = Tally::new()?;
    let (mut following, mut stalled) = (JoinSet::new(), Vec::new());
    let mut lively = vec![0_u64; tenants];
    for reader in readers {
        if reader.number % STALLED_EVERY == STALLED_EVERY - 1 {
            stalled.push(reader);
        } else {
            lively[reader.number % tenants] += 1;
            following.spawn(reader.follow(Arc::clone(&tally)));
        }
    }
    progress::say(&format!("{count} readers, {} of them stalled; {duration:?}", stalled.len()));
    let seconds = duration.as_secs();
    let changes = members.iter().enumerate().map(|(index, member)| {
        let body = json!({ "amount": 1, "reason": "load" });
        let request = setup.service_request("/v1/billing/debits", &member.tenant_id, &body)?;
        let first = CHANGE_PERIOD.mul_f64(index as f64 / tenants as f64);
        Ok(tokio::spawn(change(target.clone(), request, first, seconds)))
    });
    let changes: Vec<_> = changes.collect::<Result<_, LoadError>>()?;
    let changed = try_join_all(changes).await.map_err(LoadError::Worker)?;
    sleep(Duration::from_secs(DRAIN_SECONDS)).await;
    let expected = changed.iter().zip(&lively).map(|(changed, readers)| changed * readers).sum();
    let found = Found {
        readers: count,
        tenants,
        stalled: stalled.len(),
        changes: changed.iter().sum(),
        expected,
        ended: tally.ended.load(Ordering::Relaxed),
        delays: tally.whole()?,
        memory: [before, opened, memory(target).await?],
    };
    following.abort_all();
    drop(stalled);
    tell(&found.table(), &found.json(), json).await?;
    match found.delays.len() {
        0 => Err(LoadError::NoSuccess { scenario: NAME }),
        _ => Ok(()),
    }
}

struct Found {
    readers: usize,
    tenants: usize,
    stalled: usize,
    changes: u64,
    /// Events that the lively readers should have seen.
    expected: u64,
    /// Lively readers whose stream ended.
    ended: u64,
    delays: Histogram<u64>,
    /// Before the readers, with them, and at the end.
    memory: [Option<u64>; 3],
}

impl Found {
    /// Bytes by reader, with all of them open, and at the end.
    fn bytes_per_reader(&self) -> [Option<u64>; 2] {
        let [before, opened, end] = self.memory;
        let by_reader = |after: Option<u64>| {
            let more = after?.saturating_sub(before?);
            Some(more / self.readers.max(1) as u64)
        };
        [by_reader(opened), by_reader(end)]
    }

    fn table(&self) -> String {
        let quantile = |quantile| self.delays.value_at_quantile(quantile);
        let bytes = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |it| it.to_string());
        let [opened, end] = self.bytes_per_reader();
        format!(
            "{NAME}: {} readers of {} tenants, {} of them stalled\n\
             changes {:>10}   events expected {:>10}   seen {:>10}   streams ended {}\n\
             delay    p50 {} ms   p99 {} ms   max {} ms\n\
             memory   {} bytes a reader when open, {} at the end\n",
            self.readers,
            self.tenants,
            self.stalled,
            self.changes,
            self.expected,
            self.delays.len(),
            self.ended,
            quantile(0.5),
            quantile(0.99),
            self.delays.max(),
            bytes(opened),
            bytes(end),
        )
    }

    fn json(&self) -> Value {
        let [opened, end] = self.bytes_per_reader();
        json!({
            "scenario": NAME, "readers": self.readers, "tenants": self.tenants,
            "stalled": self.stalled, "changes": self.changes, "expected": self.expected,
            "seen": self.delays.len(), "ended": self.ended,
            "p50_millis": self.delays.value_at_quantile(0.5),
            "p99_millis": self.delays.value_at_quantile(0.99), "max_millis": self.delays.max(),
            "bytes_per_reader": opened, "bytes_per_reader_at_end": end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_read_from_the_time_that_an_event_bears() {
        let at = types::rfc3339(supervision::Timestamp(now_millis() - 1_500));
        let line = format!("data: {{\"balance\":3,\"at\":\"{at}\",\"x\":1}}");
        let delay = delay_of(line.as_bytes()).unwrap();
        assert!((1_500..3_000).contains(&delay), "{delay}");
        assert_eq!(delay_of(b"data: {\"at\":\"soon\"}"), None);
        assert_eq!(delay_of(b"data: {}"), None);
    }
}
