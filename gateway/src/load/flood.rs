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

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until, timeout_at};

use super::client::{Connection, Prepared, Target};
use super::contrast::{self, Ends, contrast, sum};
use super::probe::{self, Pair, wire};
use super::runner::Profile;
use super::setup::Setup;
use super::told::tell;
use super::{LoadError, scenario};

/// The scenario's name.
pub(crate) const NAME: &str = "flood";

/// What the load is called.
const LOAD: &str = "flood";

/// How long a connection that could not be opened again rests, in milliseconds.
const RECONNECT_MILLIS: u64 = 50;

/// What became of the flood's requests: how many were answered with which status; 0 for none.
type Answers = Ends<u16>;

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
    let Profile { connections, rate, .. } = *profile;
    let beat = |number| rate.map(|rate| Beat::of(number, connections, rate));
    let flooding = async |end| {
        let pours =
            (0..connections).map(|number| pour(target, &requests, (number, beat(number)), end));
        sum(join_all(pours).await)
    };
    let (pairs, answers) = contrast(target, &probes, profile, flooding).await?;
    let found = Found { pairs, answers, span: profile.span() };
    tell(&found.table(), &found.json(), json).await?;
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
        head + &probe::table(LOAD, &self.pairs)
    }

    fn json(&self) -> Value {
        let answers = self.answers.iter().map(|(status, count)| (status.to_string(), json!(count)));
        json!({
            "scenario": NAME, "seconds": self.span.as_secs_f64(),
            "flood_answers": serde_json::Map::from_iter(answers),
            "p99": contrast::json(LOAD, &self.pairs),
        })
    }
}
