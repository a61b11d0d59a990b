//! The scenario `race`: [`CALLS`] calls at once for as many credits as pay [`PAID`] of them.
//!
//! Three rounds on one tenant: what is in the way is a user's spending limit, an app's, and last
//! the balance itself. After each the figures must add up: exactly so many calls were done, each
//! was paid for once, all others were refused with 402, and the ledger sums to the balance. Figures
//! that do not are told, and the run fails.
//!
//! Deliberate limits: the tenant's wallet is filled by the operator if their login is given;
//! otherwise the welcome credits must do, of which few can be spent. What a server answers that is
//! overloaded (429, 503) is asked again at once, without counting it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use types::AMOUNT_MAX;

use super::client::{Connection, Prepared, Target};
use super::probe::wire;
use super::runner::Profile;
use super::scenario::Shelf;
use super::setup::Setup;
use super::told::tell;
use super::{LoadError, progress};

/// The scenario's name.
pub(crate) const NAME: &str = "race";
/// How many calls race.
const CALLS: usize = 2_000;
/// How many of them there are credits for.
const PAID: usize = 100;
/// How long the calls' payments may take once all are answered.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// The lines of one page of the ledger.
const LEDGER_PAGE: usize = 200;

/// What one round came to.
#[derive(Debug, Serialize)]
struct Round {
    /// What was in the way.
    bound: &'static str,
    /// How many calls were answered with which status; 0 for none.
    answers: BTreeMap<u16, usize>,
    seconds: f64,
    /// What one call cost, in credits.
    price: i64,
    /// What all have cost, in credits.
    spent: i64,
    /// What does not add up; empty when all does.
    wrong: Vec<String>,
}

/// Sends `calls` requests over all connections.
async fn storm(
    target: &Target,
    connections: usize,
    request: &Prepared,
) -> Result<BTreeMap<u16, usize>, LoadError> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections.min(CALLS) {
        let opened = Connection::open(target).await;
        open.push(opened.map_err(|error| wire(NAME, error))?);
    }
    let taken = Arc::new(AtomicUsize::new(0));
    let clients = open.into_iter().map(|mut connection| {
        let (target, request, taken) = (target.clone(), request.clone(), Arc::clone(&taken));
        tokio::spawn(async move {
            let mut answers = BTreeMap::<u16, usize>::new();
            while taken.fetch_add(1, Ordering::Relaxed) < CALLS {
                let status = loop {
                    match connection.exchange(request.clone(), false).await {
                        Ok(answer) if matches!(answer.status.as_u16(), 429 | 503) => {}
                        Ok(answer) => break answer.status.as_u16(),
                        Err(_) => break 0,
                    }
                };
                *answers.entry(status).or_default() += 1;
                if status == 0 {
                    match Connection::open(&target).await {
                        Ok(opened) => connection = opened,
                        Err(_) => break,
                    }
                }
            }
            answers
        })
    });
    let mut all = BTreeMap::new();
    for answers in join_all(clients).await {
        for (status, count) in answers.map_err(LoadError::Worker)? {
            *all.entry(status).or_default() += count;
        }
    }
    Ok(all)
}

/// One tenant and its app.
struct World<'a> {
    setup: &'a Setup,
    target: &'a Target,
    connections: usize,
    shelf: Shelf,
    price: i64,
}

impl World<'_> {
    async fn get(&self, path: &str) -> Result<Value, LoadError> {
        self.setup.ask(Method::GET, &self.shelf.owner, path, None).await
    }

    async fn number(&self, path: &str, field: &'static str) -> Result<i64, LoadError> {
        integer(&self.get(path).await?, path, field)
    }

    /// The balance once nothing is held any more.
    async fn settled(&self) -> Result<i64, LoadError> {
        let begin = Instant::now();
        loop {
            let path = "/v1/billing/holds?limit=200";
            let holds = self.get(path).await?;
            if holds.as_array().is_some_and(Vec::is_empty) || begin.elapsed() > SETTLED_WITHIN {
                return self.number("/v1/billing/balance", "balance").await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// What may be spent.
    async fn available(&self) -> Result<i64, LoadError> {
        let path = "/v1/billing/holds";
        let hold = json!({ "amount": 1, "ttl_seconds": 60, "reason": "how much is there?" });
        let hold = self.setup.post(&self.shelf.owner, path, &hold).await?;
        let missing = || LoadError::Answer { path: path.to_owned(), field: "id" };
        let id = hold["id"].as_str().ok_or_else(missing)?;
        let release = format!("{path}/{id}/release");
        self.setup.post(&self.shelf.owner, &release, &json!({})).await?;
        Ok(integer(&hold, path, "available")? + 1)
    }

    /// How much the ledger sums to.
    async fn ledger(&self) -> Result<i64, LoadError> {
        let (mut sum, mut read) = (0, 0);
        loop {
            let path = format!("/v1/billing/wallet/history?limit={LEDGER_PAGE}&offset={read}");
            let page = self.get(&path).await?;
            let lines = page.as_array().map_or(&[][..], Vec::as_slice);
            for line in lines {
                sum += integer(line, &path, "amount")?;
            }
            read += lines.len();
            if lines.len() < LEDGER_PAGE {
                return Ok(sum);
            }
        }
    }

    async fn round(&self, bound: &'static str) -> Result<Round, LoadError> {
        progress::say(&format!("{CALLS} calls, {bound} lets {PAID} of them be paid for"));
        let before = self.settled().await?;
        let request = self.shelf.list_request(self.setup)?;
        let begin = Instant::now();
        let answers = storm(self.target, self.connections, &request).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let (balance, ledger) = (self.settled().await?, self.ledger().await?);
        let mut wrong = Vec::new();
        let mut must = |what: &str, found: i64, expected: i64| {
            if found != expected {
                wrong.push(format!("{what}: {found} instead of {expected}"));
            }
        };
        let of = |status: u16| answers.get(&status).map_or(0, |count| *count as i64);
        let spent = before - balance;
        must("calls that were done", of(200), PAID as i64);
        must("calls that were refused with 402", of(402), (CALLS - PAID) as i64);
        must("credits spent", spent, self.price * PAID as i64);
        must("the sum of the ledger", ledger, balance);
        Ok(Round { bound, answers, seconds, price: self.price, spent, wrong })
    }

    /// A round with a spending limit in the way.
    async fn limited(&self, bound: &'static str, subject: &str) -> Result<Round, LoadError> {
        let path = format!("/v1/billing/limits/{subject}/total");
        let limit = json!({ "amount": self.price * PAID as i64 });
        self.setup.ask(Method::PUT, &self.shelf.owner, &path, Some(&limit)).await?;
        let mut round = self.round(bound).await?;
        let stood = self.setup.ask(Method::DELETE, &self.shelf.owner, &path, None).await?;
        for (name, expected) in [("spent", round.spent), ("held", 0), ("remaining", 0)] {
            if stood[name] != expected {
                round.wrong.push(format!("the limit's {name}: {} is not {expected}", stood[name]));
            }
        }
        Ok(round)
    }
}

fn integer(answer: &Value, path: &str, field: &'static str) -> Result<i64, LoadError> {
    let missing = || LoadError::Answer { path: path.to_owned(), field };
    answer[field].as_i64().ok_or_else(missing)
}

/// Runs the scenario and prints what it found.
pub(crate) async fn run(
    setup: &Setup,
    target: &Target,
    profile: &Profile,
    file: Option<&Path>,
) -> Result<(), LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    let path = format!("/v1/extensions/{}/quote", shelf.app_id);
    let calls = json!({ "calls": [{ "function": "books", "params": {} }] });
    let quote = setup.post(&shelf.owner, &path, &calls).await?;
    let price = integer(&quote, &path, "total")?;
    if price == 0 {
        return Err(LoadError::Answer { path, field: "total: above 0" });
    }
    let subjects = [format!("user:{}", shelf.owner.user_id), format!("app:{}", shelf.app_id)];
    let world = World { setup, target, connections: profile.connections, shelf, price };
    let mut rounds = Vec::new();
    for (bound, subject) in ["a user's limit", "an app's limit"].into_iter().zip(subjects) {
        rounds.push(world.limited(bound, &subject).await?);
    }
    let mut rest = world.available().await? - price * PAID as i64;
    while rest > 0 {
        let amount = rest.min(AMOUNT_MAX);
        let debit = json!({ "amount": amount, "reason": "load" });
        setup.post(&world.shelf.owner, "/v1/billing/debits", &debit).await?;
        rest -= amount;
    }
    rounds.push(world.round("the balance").await?);
    let found = json!({ "scenario": NAME, "calls": CALLS, "paid": PAID, "rounds": rounds });
    tell(&table(&rounds), &found, file).await?;
    match rounds.iter().all(|round| round.wrong.is_empty()) {
        true => Ok(()),
        false => Err(LoadError::Wrong { scenario: NAME }),
    }
}

fn table(rounds: &[Round]) -> String {
    let mut table = format!("{NAME}: {CALLS} calls for as many credits as pay {PAID}\n");
    for Round { bound, answers, seconds, price, spent, wrong } in rounds {
        let answers = answers.iter().map(|(status, count)| format!("{count} x {status}"));
        let answers = answers.collect::<Vec<_>>().join(", ");
        table.push_str(&format!(
            "{bound:<16} {answers} in {seconds:.2} s; {spent} credits spent, {price} a call\n"
        ));
        for wrong in wrong {
            table.push_str(&format!("  WRONG {wrong}\n"));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_add_up_is_told() {
        let answers = BTreeMap::from([(200, 101), (402, 1_899)]);
        let wrong = vec!["calls that were done: 101 instead of 100".to_owned()];
        let bound = "the balance";
        let round = Round { bound, answers, seconds: 1.5, price: 1, spent: 101, wrong };
        let table = table(&[round]);
        assert!(table.contains("101 x 200, 1899 x 402 in 1.50 s; 101 credits spent"), "{table}");
        assert!(table.contains("WRONG calls that were done"), "{table}");
    }
}
