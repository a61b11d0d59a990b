//! The scenario `flood`: what one tenant that sends as much as it can does to another.
//!
//! A quiet tenant asks at a fixed pace who it is, debits its wallet and calls an app: first alone,
//! then beside a tenant whose connections send the same, and batches, without pause (or, with
//! `--rate`, so many requests a second). Told are the quiet tenant's medians and 99th percentiles,
//! and how many times as long the second ones are; and what became of the flood.
//!
//! Deliberate limits: both tenants come from one address. The generator shares the machine with the
//! server unless it runs elsewhere: what it costs itself is in the ratio. What the flood was
//! answered is counted by its status and not judged: to be refused is what it is for.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until, timeout_at};

use super::client::{Connection, Prepared, Target};
use super::probe::{self, Pair, probed, wire};
use super::runner::Profile;
use super::setup::Setup;
use super::{LoadError, progress, scenario};

/// The scenario's name.
pub(crate) const NAME: &str = "flood";

/// The time between two requests of one probe, in milliseconds.
const PROBE_PERIOD_MILLIS: u64 = 20;

/// How long a connection that could not be opened again rests, in milliseconds.
const RECONNECT_MILLIS: u64 = 50;

/// What became of the flood's requests: how many were answered with which status; 0 for none.
type Answers = BTreeMap<u16, u64>;

/// When a connection of the flood sends: `offset` after its beginning first, then each `period`.
#[derive(Clone, Copy)]
struct Beat {
    offset: Duration,
    period: Duration,
}

impl Beat {
    /// That of connection `number` of `connections` which send `rate` requests a second together,
    /// evenly: what came in bursts would be a load of another kind.
    fn of(number: usize, connections: usize, rate: u64) -> Self {
        let apart = Duration::from_secs(1) / rate.max(1) as u32;
        Self { offset: apart * number as u32, period: apart * connections as u32 }
    }
}

/// One connection of the flood, until `end`: its requests in turn, each once the last is answered,
/// or by its beat.
async fn pour(
    target: &Target,
    requests: &[Prepared],
    (number, beat): (usize, Option<Beat>),
    end: Instant,
) -> Answers {
    let (mut answers, begin) = (Answers::new(), Instant::now());
    let mut connection = None;
    for (sent, request) in (0..).zip(requests.iter().cycle().skip(number % requests.len())) {
        if let Some(Beat { offset, period }) = beat {
            sleep_until((begin + offset + period * sent).into()).await;
        }
        if Instant::now() >= end {
            break;
        }
        let Some(open) = &mut connection else {
            connection = Connection::open(target).await.ok();
            if connection.is_none() {
                sleep(Duration::from_millis(RECONNECT_MILLIS)).await;
            }
            continue;
        };
        let Ok(answer) = timeout_at(end.into(), open.exchange(request.clone(), false)).await else {
            break;
        };
        let status = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        *answers.entry(status).or_default() += 1;
        if answer.is_err() {
            connection = None;
        }
    }
    answers
}

/// Runs the scenario and prints what it found.
pub(crate) async fn run(
    setup: &Setup,
    target: &Target,
    profile: &Profile,
    json: Option<&Path>,
) -> Result<(), LoadError> {
    let quiet = scenario::neighbour(setup).await?;
    let flood = scenario::neighbour(setup).await?;
    let probes = [("me", quiet.me), ("debit", quiet.debit), ("call", quiet.call)];
    let requests = [flood.me, flood.debit, flood.call, flood.batch];
    let Profile { connections, duration, rate, .. } = *profile;
    progress::say(&format!("measuring {duration:?} of quiet, then {duration:?} of flood"));
    let period = Duration::from_millis(PROBE_PERIOD_MILLIS);
    // What is done for the first time takes longer: not counted.
    probed(target, &probes, period, sleep(profile.warm_up)).await?;
    let (alone, ()) = probed(target, &probes, period, sleep(duration)).await?;
    let beat = |number| rate.map(|rate| Beat::of(number, connections, rate));
    let end = Instant::now() + profile.warm_up + duration;
    let pours = (0..connections).map(|number| pour(target, &requests, (number, beat(number)), end));
    let (beside, answers) = {
        let flooding = join_all(pours);
        // The flood's first second is not counted either.
        let measured = async {
            sleep(profile.warm_up).await;
            probed(target, &probes, period, sleep(duration)).await
        };
        let (answers, beside) = tokio::join!(flooding, measured);
        (beside?.0, answers)
    };
    let mut all = Answers::new();
    for (status, count) in answers.into_iter().flatten() {
        *all.entry(status).or_default() += count;
    }
    let span = profile.span();
    let found = Found { pairs: probe::pairs(&probes, alone, beside), answers: all, span };
    write!(std::io::stdout(), "{}", found.table()).map_err(LoadError::Print)?;
    if let Some(path) = json {
        let text = format!("{:#}\n", found.json());
        let written = tokio::fs::write(path, text).await;
        written.map_err(|source| LoadError::File { path: path.to_owned(), source })?;
    }
    match found.answers.is_empty() {
        true => Err(wire("the flood", "not one request of it was answered")),
        false => Ok(()),
    }
}

struct Found {
    pairs: Vec<Pair>,
    answers: Answers,
    span: Duration,
}

impl Found {
    fn table(&self) -> String {
        let seconds = self.span.as_secs_f64();
        let answers = self.answers.iter();
        let answers: Vec<_> = answers
            .map(|(status, count)| format!("{status}: {:.0}/s", *count as f64 / seconds))
            .collect();
        let head = format!("{NAME}: the flood was answered {}\n", answers.join(", "));
        head + &probe::table("flood", &self.pairs)
    }

    fn json(&self) -> Value {
        let pair = |pair: &Pair| {
            let (quiet, flood) = (pair.quiet.json(), pair.loaded.json());
            let found = json!({"quiet": quiet, "flood": flood, "ratio": pair.ratio()});
            (pair.name.to_owned(), found)
        };
        let answers = self.answers.iter().map(|(status, count)| (status.to_string(), json!(count)));
        json!({
            "scenario": NAME, "seconds": self.span.as_secs_f64(),
            "flood_answers": serde_json::Map::from_iter(answers),
            "p99": serde_json::Map::from_iter(self.pairs.iter().map(pair)),
        })
    }
}
