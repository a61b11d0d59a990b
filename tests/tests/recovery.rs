//! Process recovery: a server is killed between any two commits of work that spans several
//! entities, and the next start brings that work to its end without a client asking.
//!
//! A world is made once: a user with a deployed app, another who wants to be a developer. For each
//! flow and each n from 1 on, a copy of its folder is served by a process of its own that kills
//! itself (SIGKILL) right after the n-th commit of the flow is durable and before anybody has heard
//! of it: neither the caller nor an effect. The kill is a listener that this test hangs into its
//! own process; the product knows nothing of it. Then the folder is started again, nobody asks for
//! anything, and once no entity has pending work left, what must be is read: all of it or nothing.
//! At last the request is sent again under its idempotency key and must be done exactly once.
//!
//! Flows that end without the kill are over: then n is beyond their last commit.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "the child tells where it listens, and the sum is told")]

#[path = "recovery/arranging.rs"]
mod arranging;
#[path = "recovery/automating.rs"]
mod automating;
#[path = "recovery/background.rs"]
mod background;
#[path = "recovery/confirming.rs"]
mod confirming;
#[path = "recovery/indexing.rs"]
mod indexing;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gateway::start::Running;
use identity::mail_link::{LinkKey, Purpose};
use journeys::child::{self, ServerProcess};
use journeys::{Answer, Api, PASSWORD, User, WELCOME, settings, shelf_document, text};
use persistence::{RowRange, Shard};
use serde_json::{Value, json};
use supervision::reminders::PENDING_FAMILY;
use tokio::sync::Notify;

const KILL_AFTER: &str = "BAILIWICK_RECOVERY_KILL_AFTER";
/// No flow here has more commits; one that has never ends by itself.
const COMMITS_MAX: u64 = 80;
/// How long what was pending may take after a start.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// How long a call's hold lives when nobody ends it, and some room for clocks.
const HOLD_TTL: Duration = Duration::from_secs(125);

/// Not a check by itself: the server that kills itself.
#[test]
fn child() {
    child::serve(|running| {
        let kill_after: u64 = std::env::var(KILL_AFTER).unwrap().parse().unwrap();
        let commits = AtomicU64::new(0);
        running.app.system.journal().on_commit(Box::new(move |_| {
            if commits.fetch_add(1, Ordering::Relaxed) + 1 == kill_after {
                let own = rustix::process::getpid();
                let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
                // The signal ends every thread; this one must not let the riders go before.
                std::thread::park();
            }
        }));
    });
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn pending(running: &Running) -> usize {
    let mut found = 0;
    for shard in 0..=u8::MAX {
        let range = RowRange {
            shard: Shard(shard),
            family: PENDING_FAMILY,
            prefix: Vec::new(),
            after: None,
            newest_first: false,
            limit: 100,
        };
        found += running.app.system.journal().row_range(&range).unwrap().len();
    }
    found
}

/// Starts a folder and waits, without a request, until no entity has work pending.
async fn recover(folder: &Path) -> (Running, usize) {
    let running = gateway::start::start(&settings(folder)).await.unwrap();
    let committed = Arc::new(Notify::new());
    let notify = committed.clone();
    running.app.system.journal().on_commit(Box::new(move |_| notify.notify_one()));
    let was_pending = running.app.recovered.pending;
    let settled = async {
        while pending(&running) > 0 {
            committed.notified().await;
        }
    };
    let settled = tokio::time::timeout(RECOVERED_WITHIN, settled).await;
    assert!(settled.is_ok(), "work is still pending after {RECOVERED_WITHIN:?}");
    (running, was_pending)
}

/// The people and things that every flow finds.
struct World {
    template: tempfile::TempDir,
    ada: User,
    bob: User,
    /// In Bob's tenant as well as in their own.
    gil: User,
    operator: User,
}

impl World {
    async fn new() -> Self {
        let template = tempfile::tempdir().unwrap();
        let running = gateway::start::start(&settings(template.path())).await.unwrap();
        let api = Api::new(running.address);
        let (ada, bob) = (api.user("ada").await, api.user("bob").await);
        let (gil, operator) = (api.user("gil").await, api.operator().await);
        join(&running, &bob, &gil).await;
        api.shelf(&ada, "shelf").await;
        api.deploy(&ada, "press", &background::document()).await;
        api.settled_balance(&ada).await;
        running.stop().await;
        Self { template, ada, bob, gil, operator }
    }
}

/// Lets a flow put into the template what it finds there.
async fn serve_template(world: &World, prepare: impl AsyncFnOnce(&Api)) {
    let running = gateway::start::start(&settings(world.template.path())).await.unwrap();
    prepare(&Api::new(running.address)).await;
    running.stop().await;
}

/// Makes somebody a member of another's tenant.
async fn join(running: &Running, owner: &User, user: &User) {
    let api = Api::new(running.address);
    let path = format!("/v1/tenants/{}/invitations", owner.id);
    let invited = api.post(&path, &json!({"email": user.email})).as_user(owner).send().await;
    let id: types::InvitationId = text(&invited.ok(201)["id"]).parse().unwrap();
    let token = running.app.system.port::<LinkKey>().token(Purpose::Invitation, id.0);
    let accept = json!({"token": token.as_str()});
    api.post("/v1/invitations/accept", &accept).as_user(user).send().await.ok(200);
}

/// Work over several entities, begun by one request.
trait Flow {
    /// What it is called in messages.
    const NAME: &'static str;

    /// Sends the request; the same one each time it is called.
    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String>;

    /// Nothing of it goes on any more, as a client can see who reads. A server that is gone says
    /// so by an error.
    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String>;

    /// Reads what is there after a restart, before any request that changes something: all of it
    /// or nothing. Says whether it is there.
    async fn inspect(&self, api: &Api, world: &World) -> bool;

    /// Reads what is there after the request was sent again: it was done once.
    async fn inspect_done(&self, api: &Api, world: &World);
}

/// Runs a flow for n = 1.. until it ends without a kill.
async fn run<F: Flow>(flow: F) {
    run_on(World::new().await, flow).await;
}

async fn run_on<F: Flow>(world: World, flow: F) {
    let mut tally = Tally::default();
    for kill_after in 1..=COMMITS_MAX {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(world.template.path(), folder.path());
        let Some(was_answered) = killed(&flow, &world, folder.path(), kill_after).await else {
            assert!(tally.kills > 0, "{}: no commit was seen", F::NAME);
            return println!("{}: {tally:?}", F::NAME);
        };
        let (running, pending) = recover(folder.path()).await;
        let api = Api::new(running.address);
        let is_there = flow.inspect(&api, &world).await;
        assert!(is_there || !was_answered, "kill {kill_after}: it was answered and is not there");
        tally.kills += 1;
        tally.pending_at_start += u32::from(pending > 0);
        tally.there_unasked += u32::from(is_there);
        let again = flow.send(&api, &world).await.unwrap();
        let is_done = (200..300).contains(&again.status);
        assert!(is_done, "kill {kill_after}, {}: {}", again.asked, again.text());
        flow.inspect_done(&api, &world).await;
        running.stop().await;
    }
    panic!("{} has more than {COMMITS_MAX} commits", F::NAME);
}

/// What the kills of one flow came to.
#[derive(Debug, Default)]
struct Tally {
    /// One after each commit.
    kills: u32,
    /// Starts that found work pending, and brought it to an end.
    pending_at_start: u32,
    /// Starts after which all of it was there before anybody asked again.
    there_unasked: u32,
}

/// Serves the folder until it is killed: whether the request had been answered. `None` when the
/// flow ended without a kill.
async fn killed<F: Flow>(flow: &F, world: &World, folder: &Path, kill_after: u64) -> Option<bool> {
    let variables = [(KILL_AFTER, kill_after.to_string())];
    let (mut process, api) = ServerProcess::start(folder, &variables).await;
    let answer = flow.send(&api, world).await;
    if let Ok(answer) = &answer {
        assert!((200..300).contains(&answer.status), "{}: {}", answer.asked, answer.text());
    }
    // After the answer some of it goes on, and the kill may still come.
    // Only its own kill can end it.
    while !process.is_gone() {
        if answer.is_ok() && flow.is_over(&api, world).await == Ok(true) {
            let ended_in_order = process.stop();
            return if ended_in_order { None } else { Some(true) };
        }
        tokio::task::yield_now().await;
    }
    Some(answer.is_ok())
}

/// Somebody signs up: an address, a tenant, a user, a wallet.
struct SignUp;

const NEW_EMAIL: &str = "cyd@example.com";

impl Flow for SignUp {
    const NAME: &'static str = "a sign-up";

    async fn send(&self, api: &Api, _: &World) -> Result<Answer, String> {
        let body = json!({"email": NEW_EMAIL, "password": PASSWORD});
        api.post("/api/v1/auth/register", &body).key("sign-up").try_send().await
    }

    async fn is_over(&self, _: &Api, _: &World) -> Result<bool, String> {
        Ok(true)
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        // Its first commit is the process itself, so from there on it must end well.
        self.inspect_done(api, world).await;
        true
    }

    async fn inspect_done(&self, api: &Api, _: &World) {
        let body = json!({"email": NEW_EMAIL, "password": PASSWORD});
        let tokens = api.post("/v1/auth/login", &body).send().await.ok(200);
        let token = text(&tokens["access_token"]);
        let path = "/v1/billing/wallet/history?limit=200";
        let ledger = api.get(path).bearer(&token).send().await.ok(200);
        let amounts: Vec<_> = amounts(ledger.as_array().unwrap()).collect();
        assert_eq!(amounts, [WELCOME.0], "the welcome credits come once");
    }
}

fn amounts(ledger: &[Value]) -> impl Iterator<Item = i64> {
    ledger.iter().map(|line| line["amount"].as_i64().unwrap())
}

/// Calls of a deployed app: a hold, the run's record with documents and answer, the settlement.
struct Calls {
    path: &'static str,
    body: Value,
    cost: i64,
    books: u64,
}

impl Calls {
    /// How often it was paid for.
    async fn payments(&self, api: &Api, world: &World) -> usize {
        let ledger = api.ledger(&world.ada).await;
        amounts(&ledger).filter(|amount| *amount == -self.cost).count()
    }

    async fn holds(api: &Api, world: &World) -> Result<Vec<Value>, String> {
        let path = "/v1/billing/holds?limit=200";
        let answer = api.get(path).as_user(&world.ada).try_send().await?;
        Ok(answer.ok(200).as_array().unwrap().clone())
    }
}

impl Flow for Calls {
    const NAME: &'static str = "calls of an app";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        api.post(self.path, &self.body).as_user(&world.ada).key("calls").try_send().await
    }

    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String> {
        Ok(Self::holds(api, world).await?.is_empty())
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        let (payments, holds) =
            (self.payments(api, world).await, Self::holds(api, world).await.unwrap());
        assert!(payments + holds.len() <= 1, "{payments} payments, open holds: {holds:?}");
        // Killed between the hold and the record: nothing ran, and the hold lapses by itself.
        for hold in &holds {
            let expires_at = types::parse_rfc3339(&text(&hold["expires_at"])).unwrap();
            let expires_at = std::time::UNIX_EPOCH + Duration::from_millis(expires_at.0 as u64);
            let left = expires_at.duration_since(std::time::SystemTime::now()).unwrap_or_default();
            assert!(left <= HOLD_TTL, "{hold}");
        }
        payments == 1
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        let begun = std::time::Instant::now();
        while self.payments(api, world).await == 0 && begun.elapsed() < RECOVERED_WITHIN {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.payments(api, world).await, 1, "it is paid for once");
        let list = json!({"function": "books"});
        let call = api.post("/v1/extensions/shelf/call", &list).as_user(&world.ada);
        let listed = call.send().await.ok(200);
        assert_eq!(listed["data"]["count"], self.books, "{listed}");
        let chain = api.get("/v1/actions/verify").as_user(&world.ada).send().await.ok(200);
        assert_eq!(chain["verified"], true, "{chain}");
    }
}

/// A new version of an app: the app, and the session of the built-in app it is deployed through.
struct Deploy;

impl Deploy {
    async fn versions(api: &Api, world: &World) -> usize {
        let path = "/v1/developer/apps/shelf/deploys";
        let deploys = api.get(path).as_user(&world.ada).send().await.ok(200);
        deploys.as_array().unwrap().len()
    }
}

impl Flow for Deploy {
    const NAME: &'static str = "a deploy";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let mut document = shelf_document("shelf");
        document["app"]["version"] = json!("1.0.1");
        let params = json!({"app_id": "shelf", "ir_dict": document});
        let body = json!({"function": "deploy_ir", "params": params});
        let call = api.post("/v1/extensions/developer/call", &body).as_user(&world.ada);
        let answer = call.key("deploy").try_send().await?;
        assert_eq!(answer.value()["status"], "success", "{}", answer.text());
        Ok(answer)
    }

    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String> {
        Ok(Calls::holds(api, world).await?.is_empty())
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        Self::versions(api, world).await == 2
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        assert_eq!(Self::versions(api, world).await, 2, "it is deployed once");
    }
}

/// Somebody becomes a developer: a profile, and a nickname that is theirs alone.
struct Register;

const NICKNAME: &str = "bobs-books";

impl Register {
    async fn nickname(api: &Api, world: &World) -> Option<String> {
        let profile = api.get("/v1/developer/profile").as_user(&world.bob).send().await;
        (profile.status == 200).then(|| text(&profile.value()["nickname"]))
    }
}

impl Flow for Register {
    const NAME: &'static str = "a developer's registration";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let body = json!({"nickname": NICKNAME});
        let call = api.post("/v1/developer/register", &body).as_user(&world.bob);
        call.key("register").try_send().await
    }

    async fn is_over(&self, _: &Api, _: &World) -> Result<bool, String> {
        Ok(true)
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        match Self::nickname(api, world).await {
            Some(nickname) => {
                assert_eq!(nickname, NICKNAME);
                true
            }
            None => false,
        }
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        assert_eq!(Self::nickname(api, world).await.as_deref(), Some(NICKNAME));
        let eve = api.user("eve").await;
        let body = json!({"nickname": NICKNAME});
        let taken = api.post("/v1/developer/register", &body).as_user(&eve).send().await;
        assert!((400..500).contains(&taken.status), "two have one nickname: {}", taken.text());
    }
}

/// A new app: its id, which is its developer's alone, the app, and the developer's list.
struct CreateApp;

impl CreateApp {
    /// Whether it is in the list, and whether it is found by its id.
    async fn found(api: &Api, world: &World) -> (usize, bool) {
        let apps = api.get("/v1/developer/apps").as_user(&world.ada).send().await.ok(200);
        let listed = apps.as_array().unwrap().iter().filter(|app| app["app_id"] == "second");
        let one = api.get("/v1/developer/apps/second").as_user(&world.ada).send().await;
        (listed.count(), one.status == 200)
    }
}

impl Flow for CreateApp {
    const NAME: &'static str = "a new app";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let body = json!({"app_id": "second", "display_name": "Second",
            "git_url": "https://example.com/second.git", "pricing_model": "per_action",
            "pricing_config": {"default": 1}});
        let call = api.post("/v1/developer/apps", &body).as_user(&world.ada);
        call.key("app").try_send().await
    }

    async fn is_over(&self, _: &Api, _: &World) -> Result<bool, String> {
        Ok(true)
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        let found = Self::found(api, world).await;
        assert!(matches!(found, (0, false) | (1, true)), "listed, and found by its id: {found:?}");
        found == (1, true)
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        assert_eq!(Self::found(api, world).await, (1, true), "it is there once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_up_ends_whatever_commit_it_is_killed_after() {
    run(SignUp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_run_and_paid_for_once_whatever_commit_it_is_killed_after() {
    let body = json!({"function": "add_book", "params": {"title": "Emma"}});
    run(Calls { path: "/v1/extensions/shelf/call", body, cost: 3, books: 1 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_run_and_paid_for_once_whatever_commit_it_is_killed_after() {
    let add = |title: &str| json!({"function": "add_book", "params": {"title": title}});
    let body = json!({"calls": [add("Emma"), add("Ada"), add("Molloy")]});
    run(Calls { path: "/v1/extensions/shelf/batch", body, cost: 9, books: 3 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_is_there_once_whatever_commit_it_is_killed_after() {
    run(Deploy).await;
}

/// Somebody is erased: out of two tenants, their sessions, their own tenant, their keys.
struct Erase;

impl Flow for Erase {
    const NAME: &'static str = "an erasure";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let path = format!("/v1/users/{}/erase", world.gil.id);
        let body = json!({"reason": "asked for"});
        api.post(&path, &body).as_user(&world.operator).key("erase").try_send().await
    }

    async fn is_over(&self, _: &Api, _: &World) -> Result<bool, String> {
        Ok(true)
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        // Its first commit is the process itself, so from there on it must end well.
        self.inspect_done(api, world).await;
        true
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        let (gil, bob) = (&world.gil, &world.bob);
        assert_eq!(api.get("/v1/auth/me").as_user(gil).send().await.status, 401);
        let body = json!({"email": gil.email, "password": PASSWORD});
        let login = api.post("/v1/auth/login", &body).send().await;
        login.problem(401, "invalid_credentials");
        let users = api.get("/v1/users").as_user(bob).send().await.ok(200);
        assert_eq!((&users["total"], &users["items"][0]["id"]), (&json!(1), &json!(bob.id)));
        for kind in ["user", "tenant", "wallet"] {
            let path = format!("/v1/operator/actors/{kind}/{}", gil.id);
            let page = api.get(&path).as_user(&world.operator).send().await.ok(200);
            assert_eq!(page["is_erased"], true, "{page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_erased_whole_whatever_commit_it_is_killed_after() {
    run(Erase).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_developer_has_the_nickname_whatever_commit_it_is_killed_after() {
    run(Register).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_app_is_there_once_whatever_commit_it_is_killed_after() {
    run(CreateApp).await;
}
