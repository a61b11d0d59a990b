//! Calls that race for too few credits, with a kill in the middle: whatever was in the way, the
//! balance, a user's limit or an app's, no credit of it is spent twice and none is lost.
//!
//! Every call has a key of its own. After the restart all are sent again, those that were answered
//! and those that were not, and again until none is done any more. Then all that there was is
//! either spent, a call's price each, or held by a call that died before it was recorded: its hold
//! ends by its time, which no test waits for.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, stream};
use hyper::Method;
use journeys::child::ServerProcess;
use journeys::{Answer, Api, User, text};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Random;

/// How many calls race, and how many of them are paid for.
const RACE: (usize, i64) = (120, 15);
/// How many of them are under way at once.
const AT_ONCE: usize = 32;
/// What a call of `books` costs: the app's price and the platform's fee.
const BOOKS: i64 = 2;
/// The answers after which the kill comes, at least and at most.
const ANSWERS_BEFORE_KILL: (u64, u64) = (1, 60);

/// What is in the way.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Balance,
    User,
    App,
}

impl Bound {
    fn limit(self, user: &User) -> Option<String> {
        match self {
            Self::Balance => None,
            Self::User => Some(format!("user:{}/total", user.id)),
            Self::App => Some("app:shelf/total".to_owned()),
        }
    }
}

/// How many calls were answered.
#[derive(Default)]
struct Answered {
    count: AtomicU64,
    arrived: Notify,
}

impl Answered {
    fn one_more(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.arrived.notify_one();
    }

    async fn wait_for(&self, count: u64) {
        while self.count.load(Ordering::SeqCst) < count {
            self.arrived.notified().await;
        }
    }
}

struct World {
    folder: tempfile::TempDir,
    user: User,
    bound: Bound,
    /// What the wallet had when the race began.
    balance: i64,
}

/// What may be spent.
async fn available(api: &Api, user: &User) -> i64 {
    let hold = json!({"amount": 1, "ttl_seconds": 60, "reason": "how much is there?"});
    let hold = api.post("/v1/billing/holds", &hold).as_user(user).send().await.ok(201);
    let path = format!("/v1/billing/holds/{}/release", text(&hold["id"]));
    api.post(&path, &json!({})).as_user(user).send().await.ok(200);
    hold["available"].as_i64().unwrap() + 1
}

impl World {
    /// A wallet from which exactly so many calls can be paid.
    async fn new(bound: Bound) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        let user = api.user("ada").await;
        api.shelf(&user, "shelf").await;
        let enough = BOOKS * RACE.1;
        match bound.limit(&user) {
            Some(limit) => {
                let put = api.request(Method::PUT, &format!("/v1/billing/limits/{limit}"));
                let put = put.json(json!({"amount": enough}).to_string()).as_user(&user);
                put.send().await.ok(200);
            }
            None => {
                let rest = available(&api, &user).await - enough;
                let debit = json!({"amount": rest, "reason": "the rest"});
                api.post("/v1/billing/debits", &debit).as_user(&user).send().await.ok(201);
            }
        }
        let balance = api.balance(&user).await;
        assert!(process.stop(), "the server did not stop in order");
        Self { folder, user, bound, balance }
    }

    async fn call(&self, api: &Api, number: usize) -> Result<Answer, String> {
        let call = api.post("/v1/extensions/shelf/call", &json!({"function": "books"}));
        call.as_user(&self.user).key(&format!("race-{number}")).try_send().await
    }

    /// Sends all calls; those that were done by their number, and how many were not answered.
    async fn send_all(&self, api: &Api, answered: &Answered) -> (BTreeSet<usize>, usize) {
        let calls = (0..RACE.0).map(|number| async move {
            let answer = self.call(api, number).await;
            answered.one_more();
            (number, answer)
        });
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
        let (mut done, mut lost) = (BTreeSet::new(), 0);
        for (number, answer) in answers {
            match answer {
                Err(_) => lost += 1,
                Ok(answer) if answer.status == 402 => {}
                Ok(answer) => {
                    assert_eq!(answer.ok(200)["status"], "success");
                    done.insert(number);
                }
            }
        }
        (done, lost)
    }

    /// All of it is spent, or held by calls that died.
    async fn audit(&self, api: &Api, done: i64) {
        let held = |holds: &Value| -> i64 {
            let holds = holds.as_array().unwrap().iter();
            holds.map(|hold| hold["amount"].as_i64().unwrap()).sum()
        };
        // What was recorded is settled right after, and what died is not.
        let spent = loop {
            let spent = self.balance - api.balance(&self.user).await;
            assert!(spent <= done * BOOKS, "{spent} credits were spent by {done} calls");
            if spent == done * BOOKS {
                break spent;
            }
            tokio::task::yield_now().await;
        };
        let path = "/v1/billing/holds?limit=200";
        let dead = held(&api.get(path).as_user(&self.user).send().await.ok(200));
        assert_eq!(spent + dead, BOOKS * RACE.1, "{:?}: {spent} spent, {dead} held", self.bound);
        let limits = api.get("/v1/billing/limits").as_user(&self.user).send().await.ok(200);
        for limit in limits.as_array().unwrap() {
            let figures = ["spent", "held", "remaining"].map(|name| limit[name].as_i64().unwrap());
            assert_eq!(figures, [spent, dead, 0], "{limit}");
        }
        let ledger = api.ledger(&self.user).await;
        let calls = ledger.iter().filter(|line| line["amount"] == -BOOKS).count();
        assert_eq!(calls as i64, done);
    }
}

async fn round(bound: Bound, random: &mut Random) {
    let world = World::new(bound).await;
    let (process, api) = ServerProcess::start(world.folder.path(), &[]).await;
    let (answered, answers) = (Answered::default(), random.between(ANSWERS_BEFORE_KILL));
    let kill = async {
        answered.wait_for(answers).await;
        drop(process);
    };
    let ((acknowledged, lost), ()) = tokio::join!(world.send_all(&api, &answered), kill);
    let (process, api) = ServerProcess::start(world.folder.path(), &[]).await;
    let mut done = acknowledged.clone();
    loop {
        let (again, unanswered) = world.send_all(&api, &Answered::default()).await;
        assert_eq!(unanswered, 0);
        assert!(again.is_superset(&done), "{bound:?}: what was done is answered again");
        if again == done {
            break;
        }
        done = again;
    }
    let (before, all) = (acknowledged.len(), done.len());
    println!("{bound:?}: {before} done before the kill, {lost} not answered, {all} done in all");
    world.audit(&api, done.len() as i64).await;
    assert!(process.stop(), "the server did not stop in order");
    let folder = world.folder.path().to_owned();
    gateway::verify::run(&gateway::verify::VerifyArgs::folder(folder)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_amid_a_race_for_too_few_credits_spends_none_of_them_twice() {
    let mut random = Random::from_environment();
    for bound in [Bound::Balance, Bound::User, Bound::App] {
        round(bound, &mut random).await;
    }
}
