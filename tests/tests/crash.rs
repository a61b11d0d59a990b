//! Crash rounds: a server in a process of its own is killed under load, at any moment, and started
//! again; what it acknowledged is there, nothing was done twice, and the books balance.
//!
//! A round: several clients send debits, holds and batches, each with an idempotency key of its
//! own. The process is killed (SIGKILL) after a random number of answers. After the restart every
//! acknowledged request is sent again and must answer the same bytes; every request in doubt is
//! sent again too, and so is done exactly once. So the balance is known to the credit, each round.
//! At the end the whole ledger is compared, and the stopped folder is verified offline.
//!
//! `CRASH_ROUNDS` (default 3) is how many; a long run needs `cargo test`, since nextest ends slow
//! tests. `CRASH_SEED` repeats the choices of a run that printed its seed, though not the timing.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "the seed and the summary are what a long run is for")]

#[path = "crash/deciding.rs"]
mod deciding;
#[path = "crash/paying.rs"]
mod paying;
#[path = "crash/race.rs"]
mod race;
#[path = "crash/tasks.rs"]
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use journeys::child::{self, ServerProcess};
use journeys::{Answer, Api, User, WELCOME, text};
use serde_json::{Value, json};
use tokio::sync::Notify;

const ROUNDS_DEFAULT: usize = 3;
/// What the wallet is filled with: more than any run spends.
const GRANTED: i64 = 1_000_000_000;
/// The answers after which a round's kill comes, at least and at most.
const ANSWERS_BEFORE_KILL: (u64, u64) = (5, 150);
/// The longest life of a process that is killed while it starts.
const START_KILL_MS_MAX: u64 = 60;
/// How long after a restart the payments of acknowledged batches may take.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// Clients of each sort.
const CLIENTS: u64 = 2;

/// Not a check by itself: the server that the check below starts, and kills.
#[test]
fn child() {
    // Hosts of apps are on loopback here.
    child::serve_with(|settings| settings.dev = true, |_| {});
}

/// xorshift64* (Vigna, 2016): choices that a printed seed repeats.
struct Random(u64);

impl Random {
    fn from_environment() -> Self {
        let given = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let time = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        let seed = given.unwrap_or_else(time);
        println!("CRASH_SEED={seed}");
        Self(seed)
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        least + (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % (most - least + 1)
    }
}

/// A request that changes something.
#[derive(Clone, Debug)]
struct Change {
    path: String,
    key: String,
    body: Value,
}

impl Change {
    async fn send(&self, api: &Api, user: &User) -> Result<Answer, String> {
        api.post(&self.path, &self.body).as_user(user).key(&self.key).try_send().await
    }

    /// What it cost, by its answer.
    fn cost(&self, answer: &Value) -> i64 {
        match self.path.rsplit('/').next().unwrap() {
            "debits" => -answer["amount"].as_i64().unwrap(),
            "capture" => answer["captured"].as_i64().unwrap(),
            "batch" => {
                let statuses: Vec<_> =
                    answer.as_array().unwrap().iter().map(|one| text(&one["status"])).collect();
                assert_eq!(statuses, ["success", "error", "success"], "{answer}");
                3 + 2
            }
            _ => 0,
        }
    }
}

/// What was sent in this round: what was answered, and what is in doubt.
#[derive(Default)]
struct Log {
    answered: Mutex<Vec<(Change, Answer)>>,
    in_doubt: Mutex<Vec<Change>>,
    arrived: Notify,
}

impl Log {
    /// Sends; `None` once the server is gone.
    async fn attempt(&self, api: &Api, user: &User, change: Change) -> Option<Value> {
        match change.send(api, user).await {
            Ok(answer) => {
                assert!((200..300).contains(&answer.status), "{change:?}: {}", answer.text());
                let value = answer.value();
                self.answered.lock().unwrap().push((change, answer));
                self.arrived.notify_one();
                Some(value)
            }
            Err(_) => {
                self.in_doubt.lock().unwrap().push(change);
                None
            }
        }
    }

    async fn wait_for(&self, answers: u64) {
        while (self.answered.lock().unwrap().len() as u64) < answers {
            self.arrived.notified().await;
        }
    }
}

/// The keys of one client, each used once.
struct Keys {
    prefix: String,
    next: u64,
}

impl Keys {
    fn change(&mut self, path: &str, body: Value) -> Change {
        self.next += 1;
        let key = format!("{}-{}", self.prefix, self.next);
        Change { path: path.to_owned(), key, body }
    }
}

async fn debits(api: &Api, user: &User, log: &Log, mut keys: Keys) {
    for number in 0.. {
        let body = json!({"amount": 1 + number % 7, "reason": "crash"});
        let change = keys.change("/v1/billing/debits", body);
        if log.attempt(api, user, change).await.is_none() {
            return;
        }
    }
}

/// Places holds; of three, one is captured in part, one released, one left to expire.
async fn holds(api: &Api, user: &User, log: &Log, mut keys: Keys) {
    for number in 0_u64.. {
        let ttl = if number % 3 == 2 { 1 } else { 600 };
        let body = json!({"amount": 5, "ttl_seconds": ttl, "reason": "crash"});
        let place = keys.change("/v1/billing/holds", body);
        let Some(placed) = log.attempt(api, user, place).await else { return };
        let id = text(&placed["id"]);
        let end = match number % 3 {
            0 => keys.change(&format!("/v1/billing/holds/{id}/capture"), json!({"amount": 3})),
            1 => keys.change(&format!("/v1/billing/holds/{id}/release"), json!({})),
            _ => continue,
        };
        if log.attempt(api, user, end).await.is_none() {
            return;
        }
    }
}

async fn batches(api: &Api, user: &User, log: &Log, mut keys: Keys) {
    for number in 0.. {
        let title = format!("{} {number}", keys.prefix);
        let calls = json!({"calls": [
            {"function": "add_book", "params": {"title": title}},
            {"function": "no_such_function"},
            {"function": "books"}]});
        let change = keys.change("/v1/extensions/shelf/batch", calls);
        if log.attempt(api, user, change).await.is_none() {
            return;
        }
    }
}

/// For how long a hold should have been over.
fn overdue(hold: &Value) -> Duration {
    let expires_at = types::parse_rfc3339(&text(&hold["expires_at"])).unwrap();
    let expires_at = std::time::UNIX_EPOCH + Duration::from_millis(expires_at.0 as u64);
    expires_at.elapsed().unwrap_or_default()
}

/// All that is known of the one tenant.
struct World {
    folder: tempfile::TempDir,
    user: User,
    random: Random,
    balance: i64,
    /// What the ledger must hold: transaction and amount where the answer names them.
    debits: BTreeMap<String, i64>,
    captures: usize,
    batches: usize,
    repeated: usize,
    doubts: usize,
    start_kills: usize,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        let (user, operator) = (api.user("ada").await, api.operator().await);
        api.grant(&operator, &user.id, GRANTED).await;
        api.shelf(&user, "shelf").await;
        let balance = api.balance(&user).await;
        assert_eq!(balance, GRANTED + WELCOME.0);
        assert!(process.stop(), "the server did not stop in order");
        let random = Random::from_environment();
        let (debits, captures, batches) = (BTreeMap::new(), 0, 0);
        let (repeated, doubts, start_kills) = (0, 0, 0);
        Self {
            folder,
            user,
            random,
            balance,
            debits,
            captures,
            batches,
            repeated,
            doubts,
            start_kills,
        }
    }

    /// Sends until the process is killed.
    async fn storm(&mut self, round: usize) -> Log {
        let (process, api) = ServerProcess::start(self.folder.path(), &[]).await;
        let log = Arc::new(Log::default());
        let answers = self.random.between(ANSWERS_BEFORE_KILL);
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let keys = |sort: &str| Keys { prefix: format!("{round}-{sort}-{client}"), next: 0 };
            let (d, h, b) = (keys("debit"), keys("hold"), keys("batch"));
            let (api, user, log) = (api.clone(), self.user.clone(), log.clone());
            clients.push(tokio::spawn(async move {
                let (api, user, log) = (&api, &user, log.as_ref());
                let all = (debits(api, user, log, d), holds(api, user, log, h));
                tokio::join!(all.0, all.1, batches(api, user, log, b));
            }));
        }
        tokio::select! {
            () = log.wait_for(answers) => {}
            _ = join_all(&mut clients) => panic!("the server went away before it was killed"),
        }
        drop(process);
        for client in clients {
            client.await.unwrap();
        }
        Arc::into_inner(log).unwrap()
    }

    /// Another process dies while it starts, or just after.
    async fn die_while_starting(&mut self) {
        let mut process = ServerProcess::spawn(self.folder.path(), &[]);
        let patience = Duration::from_millis(self.random.between((1, START_KILL_MS_MAX)));
        let listens = process.listens();
        let _ = tokio::time::timeout(patience, listens).await;
        self.start_kills += 1;
    }

    /// Everything that the round acknowledged is there, once; what was in doubt is settled.
    async fn settle(&mut self, api: &Api, log: Log) {
        let refresh = json!({"refresh_token": self.user.refresh});
        let tokens = api.post("/v1/auth/refresh", &refresh).send().await.ok(200);
        self.user.token = text(&tokens["access_token"]);
        self.user.refresh = text(&tokens["refresh_token"]);
        let mut answered = log.answered.into_inner().unwrap();
        for (change, answer) in &answered {
            let again = change.send(api, &self.user).await.unwrap();
            let same = (again.status, &again.bytes) == (answer.status, &answer.bytes);
            assert!(same, "{change:?}\nwas {}\nis {}", answer.text(), again.text());
        }
        self.repeated += answered.len();
        let in_doubt = log.in_doubt.into_inner().unwrap();
        self.doubts += in_doubt.len();
        for change in in_doubt {
            let answer = change.send(api, &self.user).await.unwrap();
            assert!((200..300).contains(&answer.status), "{change:?}: {}", answer.text());
            answered.push((change, answer));
        }
        self.end_open_holds(api, &answered).await;
        for (change, answer) in &answered {
            self.count(change, &answer.value());
        }
        self.wait_for_the_balance(api).await;
    }

    /// A batch is acknowledged when it is recorded, and paid for right after, kill or no kill.
    async fn wait_for_the_balance(&self, api: &Api) {
        let (begin, mut balance) = (Instant::now(), api.balance(&self.user).await);
        while balance != self.balance && begin.elapsed() < SETTLED_WITHIN {
            tokio::task::yield_now().await;
            balance = api.balance(&self.user).await;
        }
        assert_eq!(balance, self.balance, "a credit is lost or spent twice");
    }

    fn count(&mut self, change: &Change, answer: &Value) {
        let cost = change.cost(answer);
        self.balance -= cost;
        match change.path.rsplit('/').next().unwrap() {
            "debits" => {
                let new = self.debits.insert(text(&answer["transaction_id"]), -cost);
                assert_eq!(new, None, "two debits have one transaction");
            }
            "capture" => self.captures += 1,
            "batch" => self.batches += 1,
            _ => {}
        }
    }

    /// Releases the holds whose client died before it ended them.
    async fn end_open_holds(&self, api: &Api, answered: &[(Change, Answer)]) {
        let ended = |(change, _): &(Change, Answer)| {
            let rest = change.path.strip_prefix("/v1/billing/holds/")?;
            Some(rest.split_once('/')?.0.to_owned())
        };
        let ended: BTreeSet<String> = answered.iter().filter_map(ended).collect();
        for (change, answer) in answered {
            let id = answer.value()["id"].as_str().unwrap_or_default().to_owned();
            let is_open = change.path == "/v1/billing/holds" && change.body["ttl_seconds"] == 600;
            if is_open && !ended.contains(&id) {
                let path = format!("/v1/billing/holds/{id}/release");
                api.post(&path, &json!({})).as_user(&self.user).send().await.ok(200);
            }
        }
    }

    /// No hold outlives its time, neither ours nor one of a call that died; the chain verifies.
    async fn inspect(&self, api: &Api) {
        loop {
            let path = "/v1/billing/holds?limit=200";
            let open = api.get(path).as_user(&self.user).send().await.ok(200);
            let open = open.as_array().unwrap();
            assert!(open.iter().all(|hold| overdue(hold) < SETTLED_WITHIN), "{open:?}");
            if open.iter().all(|hold| hold["call_id"].is_string()) {
                break;
            }
            tokio::task::yield_now().await;
        }
        let chain = api.get("/v1/actions/verify").as_user(&self.user).send().await.ok(200);
        assert_eq!(chain["verified"], true, "{chain}");
    }

    /// The ledger holds what was acknowledged, line by line, and nothing else.
    async fn compare_ledger(&self, api: &Api) {
        let ledger = api.ledger(&self.user).await;
        let (mut sum, mut others) = (0, BTreeMap::<i64, usize>::new());
        let mut debits = self.debits.clone();
        for line in &ledger {
            let amount = line["amount"].as_i64().unwrap();
            sum += amount;
            match debits.remove(line["transaction_id"].as_str().unwrap()) {
                Some(debited) => assert_eq!(debited, amount, "{line}"),
                None => *others.entry(amount).or_default() += 1,
            }
        }
        assert!(debits.is_empty(), "acknowledged and not in the ledger: {debits:?}");
        let expected = [(WELCOME.0, 1), (GRANTED, 1), (-3, self.captures), (-5, self.batches)];
        let expected = expected.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(others, expected, "the ledger has other lines than were acknowledged");
        assert_eq!(sum, self.balance);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_nothing_and_does_nothing_twice() {
    let rounds = std::env::var("CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS_DEFAULT);
    let mut world = World::new().await;
    for round in 0..rounds {
        let log = world.storm(round).await;
        world.die_while_starting().await;
        let (process, api) = ServerProcess::start(world.folder.path(), &[]).await;
        world.settle(&api, log).await;
        world.inspect(&api).await;
        if round + 1 == rounds {
            world.compare_ledger(&api).await;
        }
        assert!(process.stop(), "the server did not stop in order");
    }
    let data_dir = world.folder.path().to_owned();
    gateway::verify::run(&gateway::verify::VerifyArgs::folder(data_dir)).await.unwrap();
    println!(
        "{rounds} kills under load and {} while starting: {} debits, {} captures and {} batches \
         in the ledger; {} acknowledged requests repeated alike, {} in doubt settled once; \
         balance {} as computed",
        world.start_kills,
        world.debits.len(),
        world.captures,
        world.batches,
        world.repeated,
        world.doubts,
        world.balance,
    );
}
