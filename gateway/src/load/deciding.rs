//! The scenario `confirmations`: many calls that wait for their user, each with racing approvals.
//!
//! A user's writing calls wait. Each lane asks for one, and then confirms it on several connections
//! at once; then it asks for the next. Told are how long asking and confirming take, and what
//! matters: how many cards there were, and how many executions were paid for. The scenario fails
//! when those differ.
//!
//! Deliberate limits: all cards are one user's, who has at most as many at once as the server lets
//! wait; what was paid is read from the balance, so nobody else may spend from that wallet.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::client::{Connection, Target};
use super::probe::wire;
use super::runner::Profile;
use super::scenario::{Shelf, add_book};
use super::setup::Setup;
use super::told::tell;
use super::{LoadError, progress};

/// The scenario's name.
pub(crate) const NAME: &str = "confirmations";

/// How many approvals one card gets at once.
const RACERS: usize = 8;

/// How many cards wait at once, at most: fewer than one user may have.
const CARDS_MAX: usize = 64;

/// How long the last payments may take, and how often it is looked whether they are made.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
const SETTLED_PERIOD: Duration = Duration::from_millis(50);

/// What one lane has seen.
#[derive(Default)]
struct Seen {
    asked: Vec<Duration>,
    confirmed: Vec<Duration>,
    /// How many approvals were answered with which status; 0 for none.
    answers: BTreeMap<u16, u64>,
    price: i64,
}

/// Who asks, and where.
struct Ground<'a> {
    setup: &'a Setup,
    target: &'a Target,
    shelf: &'a Shelf,
}

impl Ground<'_> {
    async fn open(&self) -> Result<Connection, LoadError> {
        Connection::open(self.target).await.map_err(|error| wire(NAME, error))
    }

    /// A GET as the shelf's owner.
    async fn get(&self, path: &str) -> Result<Value, LoadError> {
        let token = &self.shelf.owner.token;
        let request = self.setup.member_request(Method::GET, path, token, None)?;
        let answer = self.open().await?.exchange(request, true).await;
        let answer = answer.map_err(|error| wire(path, format!("{error:?}")))?;
        serde_json::from_slice(&answer.body).map_err(|error| wire(path, error))
    }

    async fn balance(&self) -> Result<i64, LoadError> {
        let path = "/v1/billing/balance";
        let balance = self.get(path).await?["balance"].as_i64();
        balance.ok_or(LoadError::Answer { path: path.to_owned(), field: "balance" })
    }

    /// The balance once nothing is held any more.
    async fn settled(&self) -> Result<i64, LoadError> {
        let begun = Instant::now();
        while begun.elapsed() < SETTLED_WITHIN {
            let holds = self.get("/v1/billing/holds?limit=1").await?;
            if holds.as_array().is_some_and(Vec::is_empty) {
                break;
            }
            sleep(SETTLED_PERIOD).await;
        }
        self.balance().await
    }

    /// Asks and confirms, one card after the other, until `end`.
    async fn lane(&self, number: usize, end: Instant) -> Result<Seen, LoadError> {
        let mut seen = Seen::default();
        let mut asking = self.open().await?;
        let mut racers = try_join_all((0..RACERS).map(|_| self.open())).await?;
        let mut round = 0;
        while Instant::now() < end {
            round += 1;
            // No two calls are the same.
            let call = self.shelf.call_request(self.setup, add_book(number + round * CARDS_MAX))?;
            let begun = Instant::now();
            let answer = asking.exchange(call, true).await;
            let answer = answer.map_err(|error| wire("…/call", format!("{error:?}")))?;
            seen.asked.push(begun.elapsed());
            let card: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let Some(id) = card["data"]["confirmation_id"].as_str() else {
                return Err(wire("…/call", format!("no card: {card}")));
            };
            seen.price = card["ui"]["calls"][0]["price"].as_i64().unwrap_or_default();
            let path = format!("/v1/confirmations/{id}/confirm");
            let begun = Instant::now();
            let token = &self.shelf.owner.token;
            let racing = racers.iter_mut().map(|racer| async {
                let body = Some(Bytes::from_static(b"{}"));
                let request = self.setup.member_request(Method::POST, &path, token, body)?;
                let answer = racer.exchange(request, false).await;
                Ok::<_, LoadError>(answer.map_or(0, |answer| answer.status.as_u16()))
            });
            for status in try_join_all(racing).await? {
                *seen.answers.entry(status).or_default() += 1;
            }
            seen.confirmed.push(begun.elapsed());
        }
        Ok(seen)
    }
}

/// Runs the scenario and prints what it found.
pub(crate) async fn run(
    setup: &Setup,
    target: &Target,
    profile: &Profile,
    json: Option<&Path>,
) -> Result<(), LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    let ground = Ground { setup, target, shelf: &shelf };
    let settings = Bytes::from(json!({"confirmation_enabled": true}).to_string());
    let path = "/v1/me/settings";
    let patch = setup.member_request(Method::PATCH, path, &shelf.owner.token, Some(settings))?;
    let set = ground.open().await?.exchange(patch, false).await;
    set.map_err(|error| wire(path, format!("{error:?}")))?;
    let before = ground.settled().await?;
    let lanes = (profile.connections / RACERS).clamp(1, CARDS_MAX);
    let (begin, duration) = (Instant::now(), profile.duration);
    progress::say(&format!("{lanes} cards at once with {RACERS} approvals each, {duration:?}"));
    let end = begin + duration;
    let seen = join_all((0..lanes).map(|number| ground.lane(number, end))).await;
    let took = begin.elapsed();
    let mut all = Seen::default();
    for seen in seen {
        let Seen { asked, confirmed, answers, price } = seen?;
        all.asked.extend(asked);
        all.confirmed.extend(confirmed);
        for (status, count) in answers {
            *all.answers.entry(status).or_default() += count;
        }
        all.price = price;
    }
    let paid = before - ground.settled().await?;
    let found = Found { seen: all, paid, took };
    tell(&found.table(), &found.json(), json).await?;
    match (found.cards(), found.executions()) {
        (0, _) => Err(LoadError::NoSuccess { scenario: NAME }),
        (cards, Some(executions)) if cards != executions => {
            let message = format!("{cards} cards were confirmed and {executions} executed");
            Err(wire(NAME, message))
        }
        _ => Ok(()),
    }
}

struct Found {
    seen: Seen,
    /// What left the wallet, in credits.
    paid: i64,
    took: Duration,
}

/// The duration that so many in a hundred do not exceed, in milliseconds.
fn percentile(durations: &[Duration], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1).min(last);
    sorted.get(at).map_or(0.0, |duration| duration.as_secs_f64() * 1_000.0)
}

impl Found {
    fn cards(&self) -> u64 {
        self.seen.confirmed.len() as u64
    }

    /// How many were paid for; `None` where calls cost nothing.
    fn executions(&self) -> Option<u64> {
        u64::try_from(self.paid.checked_div(self.seen.price)?).ok()
    }

    fn table(&self) -> String {
        let (cards, seconds) = (self.cards(), self.took.as_secs_f64());
        let executions = self.executions().map_or("unpaid".to_owned(), |it| it.to_string());
        let rate = cards as f64 / seconds;
        let answers: Vec<_> =
            self.seen.answers.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        let mut table = format!(
            "{NAME}: {cards} cards, {executions} executions, {rate:.0} cards/s; approvals {}\n",
            answers.join(", ")
        );
        for (name, durations) in [("ask", &self.seen.asked), ("confirm", &self.seen.confirmed)] {
            let [p50, p99] = [50, 99].map(|percent| percentile(durations, percent));
            table.push_str(&format!("  {name:<8} p50 {p50:.1} ms  p99 {p99:.1} ms\n"));
        }
        table
    }

    fn json(&self) -> Value {
        let answers =
            self.seen.answers.iter().map(|(status, count)| (status.to_string(), json!(count)));
        let of = |durations: &[Duration]| {
            let [p50, p99] = [50, 99].map(|percent| percentile(durations, percent));
            json!({"p50_ms": p50, "p99_ms": p99})
        };
        json!({
            "scenario": NAME, "cards": self.cards(), "executions": self.executions(),
            "seconds": self.took.as_secs_f64(),
            "approvals": serde_json::Map::from_iter(answers),
            "ask": of(&self.seen.asked), "confirm": of(&self.seen.confirmed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let millis: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!((percentile(&millis, 50), percentile(&millis, 99)), (50.0, 99.0));
        assert_eq!((percentile(&millis[..1], 99), percentile(&[], 50)), (100.0, 0.0));
    }

    #[test]
    fn executions_are_what_was_paid_for() {
        let found = |paid, price| {
            let seen = Seen { price, ..Seen::default() };
            Found { seen, paid, took: Duration::from_secs(1) }.executions()
        };
        assert_eq!((found(12, 3), found(0, 3), found(5, 0)), (Some(4), Some(0), None));
    }
}
