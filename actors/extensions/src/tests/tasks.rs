//! Tasks on a whole system: what they answer, cost and leave behind, whoever stops them and
//! whenever the process ends.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use activity::feed::Feed;
use billing::wallet::ledger_sum;
use futures::future::join_all;
use types::{CallId, TaskId};

use super::outside::{Elsewhere, outside, pressed, pressed_carried};
use super::*;
use crate::session::{Action, ApplyRun, Ran, RanItem, StartRun, Started, StartedCall};
use crate::task::Tasks;
use crate::task_run::key_of;
use crate::tasks::{Signed, TaskView};
use crate::watch::Progress;

/// What a task of `print_all` may cost: the app's price and the platform's fee.
const PRINT_ALL: i64 = 1;
/// And one of `stock`.
const STOCK: i64 = 1;
/// Tasks of the storm, and its users, each with as many as the built-in roles allow.
const STORM_USERS: u128 = 34;
const STORM_EACH: usize = 3;

impl World {
    fn as_user(&self, user: u128, app: &str) -> Request {
        let user = Some(UserId(user));
        let caller = Caller { user, ..self.request().caller };
        Request { caller, user, app: app.to_owned(), ..self.request() }
    }

    async fn begin(&self, user: u128, app: &str, function: &str, params: Value) -> TaskId {
        let (request, call) = (self.as_user(user, app), call(function, params));
        let answer = self.extensions.call(&self.system, request, call).await.unwrap();
        assert!(answer.is_success(), "{answer:?}");
        answer.data["task_id"].as_str().unwrap().parse().unwrap()
    }

    fn task(&self, user: u128, id: TaskId) -> TaskView {
        self.extensions.task(&self.system, (HOME, Some(UserId(user))), id).unwrap()
    }

    async fn ended(&self, user: u128, id: TaskId) -> TaskView {
        let ended = async {
            loop {
                let view = self.task(user, id);
                if view.ended_at.is_some() {
                    return view;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the task ends")
    }

    async fn cancel(&self, user: u128, id: TaskId) -> Result<TaskView, supervision::Refusal> {
        let whose = (HOME, Some(UserId(user)));
        self.extensions.cancel_task(&self.system, whose, id, origin()).await
    }

    /// Every hold has ended, and the ledger says what the wallet has.
    async fn balances(&self) -> i64 {
        let settled = async {
            while self.balance().await.held != 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), settled).await.expect("every hold ends");
        let balance = self.balance().await.balance;
        assert_eq!(ledger_sum(&self.system, HOME), Ok(balance));
        balance
    }
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it comes about");
}

fn open(elsewhere: &Elsewhere) -> usize {
    elsewhere.open.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_background_call_is_answered_at_once_and_ends_paid_with_its_answer() {
    let world = world().await;
    world.fill(100).await;
    let key = || IdempotencyKey::new(HOME.0, "user/test", "call", "k1", b"body");
    let request = || Request { idempotency: Some(key()), ..world.request() };
    let add = || call("stock", json!({"title": "Emma"}));
    let answer = world.extensions.call(&world.system, request(), add()).await.unwrap();
    assert!(answer.is_success() && answer.summary.is_some() && answer.ui.is_null());
    let id: TaskId = answer.data["task_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(answer.data["status"], "running");
    let again = world.extensions.call(&world.system, request(), add()).await.unwrap();
    assert_eq!(again.data, answer.data, "the same key, the same task");
    let view = world.ended(ADA.0, id).await;
    assert_eq!((view.status, view.attempts, view.cost.held), ("succeeded", 1, STOCK));
    assert_eq!((view.cost.charged, view.cost.released), (STOCK, 0));
    assert_eq!(view.done.as_ref().unwrap().documents_written, Some(1));
    let told = view.answer.unwrap().value();
    assert!(told["status"] == "success" && told["data"]["id"].is_string(), "{told}");
    assert_eq!(world.balances().await, 100 - STOCK);
    assert_eq!(world.count().await, 1);
    let refused = world.cancel(ADA.0, id).await.unwrap_err();
    assert_eq!((refused.class, refused.code.as_str()), (Class::Conflict, "task_ended"));
    assert!(refused.facts.unwrap().contains("succeeded"));
    let foreign = world.extensions.task(&world.system, (HOME, Some(UserId(99))), id);
    assert_eq!(foreign.unwrap_err().code, "not_found");
    let (recent, _) = world.extensions.recent_tasks(&world.system, (HOME, Some(ADA)), None, 10);
    assert_eq!(recent.iter().map(|it| it.task_id).collect::<Vec<_>>(), [id]);
    let wrong = world.call("stock", json!({"title": 7})).await.unwrap();
    assert_eq!(wrong.error_code.as_deref(), Some("params_invalid"));
    let calls = vec![add(), call("books", json!({}))];
    let batch = world.extensions.batch(&world.system, world.request(), calls).await;
    assert_eq!(batch.unwrap_err().class, Class::Invalid);
    assert_eq!(world.balances().await, 100 - STOCK - 1, "one call of books");
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_begun_at_once_are_never_more_than_the_limit_and_a_stopped_one_says_what_it_did() {
    let (world, elsewhere) = pressed().await;
    world.set_host().await;
    let begin = |_| {
        let (request, params) = (world.as_user(7, "press"), json!({"mood": "waits"}));
        world.extensions.call(&world.system, request, call("print_all", params))
    };
    let answers = join_all((0..20).map(begin)).await;
    let (begun, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(begun.len(), 3);
    assert!(refused.iter().all(|it| it.as_ref().unwrap_err().code == "too_many_tasks"));
    until(|| open(&elsewhere) == 3).await;
    let whose = (HOME, Some(ADA));
    let active = world.extensions.active_tasks(&world.system, whose, origin()).await.unwrap();
    assert!(active.len() == 3 && active.iter().all(|it| it.status == "running"));
    let limit = world.extensions.task_limit(&world.system, whose, origin()).await.unwrap();
    assert_eq!((limit.allowed, limit.active, limit.limit), (false, 3, 3));
    for task in &active {
        let view = world.cancel(7, task.task_id).await.unwrap();
        assert_eq!((view.status, view.cost.released), ("cancelled", PRINT_ALL));
        let sent = &view.done.as_ref().unwrap().sent;
        assert_eq!((sent[0].kind, sent[0].outcome), ("host", "unknown"));
        assert_eq!(world.cancel(7, task.task_id).await.unwrap(), view, "once more is the same");
    }
    assert_eq!(open(&elsewhere), 0, "their connections are closed");
    assert_eq!(world.balances().await, 10_000);
    let id = world.begin(7, "press", "print_all", json!({})).await;
    assert_eq!(world.ended(7, id).await.status, "succeeded");
    world.system.stop().await;
}

/// The stop does not wait for the disk: whoever asks for it and is gone has stopped it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_reaches_the_run_before_it_is_on_record_and_its_end_says_who_asked() {
    let (world, elsewhere) = pressed().await;
    world.set_host().await;
    let id = world.begin(7, "press", "print_all", json!({"mood": "waits"})).await;
    until(|| open(&elsewhere) == 1).await;
    // Begun, and given up: on a busy machine it may be that it is done by then.
    let mut cancel = Box::pin(world.cancel(7, id));
    let _ = futures::poll!(&mut cancel);
    drop(cancel);
    let view = world.ended(7, id).await;
    assert_eq!((view.status, view.cancel_requested), ("cancelled", true), "{view:?}");
    assert_eq!(open(&elsewhere), 0, "its connection is closed");
    assert_eq!(world.cancel(7, id).await.unwrap(), view);
    assert_eq!(world.balances().await, 10_000);
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_stopped_takes_along_what_it_called_and_keeps_what_that_did() {
    let (world, elsewhere) = pressed().await;
    let id = world.begin(7, "press", "study", json!({"title": "waits"})).await;
    until(|| open(&elsewhere) == 1).await;
    let progress = world.task(7, id).progress.unwrap();
    assert_eq!(progress.fraction, Some(0.75), "three of its four steps are done, or under way");
    let view = world.cancel(7, id).await.unwrap();
    let done = view.done.unwrap();
    let sent: Vec<_> = done.sent.iter().map(|it| (it.kind, it.outcome)).collect();
    assert_eq!(sent, [("call", "answered"), ("completion", "unknown")]);
    assert_eq!((view.status, done.documents_written), ("cancelled", None));
    assert_eq!((open(&elsewhere), world.extensions.flights().count()), (0, 0));
    assert_eq!(world.count().await, 1, "what it had called is done, and paid by itself");
    assert_eq!(world.balances().await, 10_000 - BOOK - 1);
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_says_how_far_it_is_if_it_signs_and_nobody_else_does() {
    let (world, elsewhere) = pressed().await;
    world.set_host().await;
    let id = world.begin(7, "press", "print_all", json!({"mood": "waits"})).await;
    until(|| open(&elsewhere) == 1).await;
    let half = Progress { fraction: Some(0.5), message: "page 2 of 4".to_owned() };
    let body = b"{}";
    let seconds = world.system.clock().now().0 / 1_000;
    let keys = crate::signing::HostKeys::new(&[1; 32]);
    let sign = |app: &str, seconds| {
        keys.signatures(&AppId::new(app).unwrap(), &[1], ("p1", seconds), body)
    };
    let report = async |signature: String, seconds: i64| {
        let timestamp = seconds.to_string();
        let signed =
            Signed { id: "p1", timestamp: &timestamp, signature: &signature, body: &body[..] };
        let (extensions, system) = (&world.extensions, &world.system);
        extensions.report_progress(system, id, signed, half.clone(), origin()).await
    };
    assert!(report(sign("shelf", seconds), seconds).await.is_err());
    assert!(report(sign("press", seconds - 900), seconds - 900).await.is_err());
    assert_eq!(world.task(7, id).progress, Some(Progress::default()));
    report(sign("press", seconds), seconds).await.unwrap();
    assert_eq!(world.task(7, id).progress, Some(half.clone()));
    world.cancel(7, id).await.unwrap();
    assert!(report(sign("press", seconds), seconds).await.is_err(), "it has ended");
    assert!(world.system.find_port::<Feed>().is_none(), "and a system without a feed is no harm");
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_frozen_has_no_tasks_left_and_begins_none() {
    let (world, elsewhere) = pressed().await;
    world.set_host().await;
    let id = world.begin(7, "press", "print_all", json!({"mood": "waits"})).await;
    until(|| open(&elsewhere) == 1).await;
    let frozen = &world.extensions.settings().frozen;
    let target = Target::User(ADA);
    frozen.freeze(target.clone(), 1, ReasonClass::Abuse);
    let why = identity::frozen::refusal("user", ReasonClass::Abuse);
    let limit = Duration::from_secs(10);
    let stopped = world.extensions.flights().stop(|it| it.user == Some(ADA), &why, limit).await;
    assert_eq!((stopped.len(), stopped[0].1), (1, Stopped::Cancelled));
    // The stop was over once the end was durable.
    let view = world.task(7, id);
    assert_eq!((view.status, view.error_code.as_deref()), ("cancelled", Some(FROZEN)));
    let refused = world.cancel(7, id).await.unwrap_err();
    assert_eq!(refused.code, "task_ended", "nobody has asked for that end");
    let refused = world.press_refused("print_all").await;
    assert_eq!(refused.code, FROZEN);
    assert_eq!(world.balances().await, 10_000);
    world.system.stop().await;
}

impl World {
    async fn press_refused(&self, function: &str) -> supervision::Refusal {
        let request = self.as_user(7, "press");
        self.extensions.call(&self.system, request, call(function, json!({}))).await.unwrap_err()
    }
}

/// What a process leaves that dies: a task that did nothing yet, one whose run is recorded, one
/// that acts outside, and one that is to be stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_what_ran_here_is_done_once_and_what_acted_outside_is_lost() {
    let (world, elsewhere) = pressed_carried(false).await;
    world.set_host().await;
    let fresh = world.begin(7, "shelf", "stock", json!({"title": "Emma"})).await;
    let recorded = world.begin(7, "shelf", "stock", json!({"title": "Molloy"})).await;
    let outside_id = world.begin(8, "press", "print_all", json!({})).await;
    let unwanted = world.begin(8, "shelf", "stock", json!({"title": "Watt"})).await;
    let tasks = world.system.directory::<Tasks>();
    let find = async |user: u128, id| {
        let look = move |tasks: &Tasks| tasks.active(id).cloned().unwrap().task;
        tasks.look(&Tasks::address(HOME, UserId(user)), origin(), look).await.unwrap()
    };
    apply_by_hand(&world, &find(7, recorded).await).await;
    let task = find(8, outside_id).await;
    let started = Started {
        id: task.run(),
        scope: task.scope.clone(),
        app_version: "2.0.0".to_owned(),
        calls: vec![StartedCall { index: 0, function: task.function, action: Action::Write }],
        hold: task.hold,
        share: SharePercent::new(70).unwrap(),
        until: supervision::Timestamp(0),
    };
    let (address, start) = (task.scope.address(), StartRun { started, ms_max: 180_000 });
    let sessions = world.system.directory::<ExtensionSession>();
    sessions.ask(&address, start, origin()).await.unwrap();
    let cancel = crate::task::AskCancel { id: unwanted, by: "user/test".to_owned() };
    tasks.ask(&Tasks::address(HOME, UserId(8)), cancel, origin()).await.unwrap();
    let held = world.balance().await.held;
    assert_eq!(held, STOCK + PRINT_ALL + STOCK, "the recorded one was settled");
    while world.system.kinds().iter().map(|kind| kind.drain_all()).sum::<usize>() > 0 {
        tokio::task::yield_now().await;
    }
    world.system.settle().await;

    let (journal, settings) = (world.system.journal().clone(), outside(&elsewhere));
    let (system, extensions) = system_on(journal, settings, true);
    let world = World { system, extensions };
    world.system.recover().unwrap();
    let first = world.ended(7, fresh).await;
    assert_eq!((first.status, first.attempts, first.cost.charged), ("succeeded", 2, STOCK));
    let second = world.ended(7, recorded).await;
    assert_eq!((second.status, second.attempts, second.cost.charged), ("succeeded", 1, STOCK));
    assert_eq!(second.answer.unwrap().value()["data"], "by hand");
    let third = world.ended(8, outside_id).await;
    assert_eq!((third.status, third.cost.released), ("lost", 1));
    let last = world.ended(8, unwanted).await;
    assert_eq!((last.status, last.cost.released), ("cancelled", STOCK));
    assert_eq!(world.balances().await, 10_000 - 2 * STOCK);
    assert_eq!(world.count().await, 1, "what was recorded by hand wrote nothing, and never again");
    world.system.stop().await;
}

/// Records a task's run as a process does that dies right after.
async fn apply_by_hand(world: &World, task: &crate::task::Task) {
    let item = RanItem {
        index: 0,
        function: task.function.clone(),
        action: Action::Write,
        succeeded: true,
        price: 0,
        fee: STOCK,
        error_code: None,
        duration_us: 1,
    };
    let ran = Ran {
        id: CallId(task.id.0),
        scope: task.scope.clone(),
        app_version: "1.0.0".to_owned(),
        items: vec![item],
        writes: Vec::new(),
        hold: task.hold,
        share: SharePercent::new(70).unwrap(),
        confirmation: None,
    };
    let (reads, usage, events) = (Vec::new(), Vec::new(), Vec::new());
    let command = ApplyRun { ran, reads, usage, is_started: false, events };
    let (address, sessions) = (task.scope.address(), world.system.directory::<ExtensionSession>());
    let supervision::Begin::Fresh(ticket) =
        world.system.begin(address.place(), key_of(task)).await.unwrap()
    else {
        panic!("it was recorded before")
    };
    let body = serde_json::to_vec(&CallAnswer::success(json!("by hand"))).unwrap();
    sessions.ask_once(&address, command, origin(), ticket, move |_| body).await.unwrap();
    while sessions.look(&address, origin(), supervision::Entity::is_pending).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

/// A storm of stops over running tasks, some of which end by themselves at that moment: each is
/// stopped or done, every hold ends once, and the ledger says what the wallet has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_stops_ends_every_task_and_every_hold_once() {
    let (world, elsewhere) = pressed().await;
    world.set_host().await;
    let kinds = [("print_all", json!({"mood": "waits"})), ("study", json!({"title": "waits"}))];
    let mut begun = Vec::new();
    for number in 0..STORM_USERS as usize * STORM_EACH {
        let user = 1_000 + number as u128 % STORM_USERS;
        // Every tenth does not wait, and ends whenever it likes.
        let (function, params) = match number % 10 {
            0 => ("print_all", json!({})),
            _ => kinds[number % 2].clone(),
        };
        begun.push((user, world.begin(user, "press", function, params).await));
    }
    until(|| open(&elsewhere) > 16).await;
    let stops = begun.iter().map(|&(user, id)| {
        let world = world.clone();
        tokio::spawn(async move {
            let asked = Instant::now();
            let stopped = world.cancel(user, id).await;
            (stopped, asked.elapsed())
        })
    });
    let mut took = Vec::new();
    for (stop, (user, id)) in join_all(stops).await.into_iter().zip(&begun) {
        let (stopped, time) = stop.unwrap();
        let view = world.task(*user, *id);
        match stopped {
            Ok(_) => {
                assert_eq!((view.status, view.cost.charged), ("cancelled", 0), "{view:?}");
                took.push(time);
            }
            Err(refusal) => {
                assert_eq!((refusal.code.as_str(), view.status), ("task_ended", "succeeded"));
            }
        }
        assert_eq!(view.cost.charged + view.cost.released, view.cost.held);
    }
    took.sort();
    let p99 = took[(took.len() - 1) * 99 / 100];
    eprintln!("{} tasks stopped; 99 % within {p99:?}", took.len());
    assert!(took.len() > begun.len() / 2);
    assert_eq!((open(&elsewhere), world.extensions.flights().count()), (0, 0));
    let charged: i64 = begun.iter().map(|(user, id)| world.task(*user, *id).cost.charged).sum();
    let lent = world.lent().await;
    assert_eq!(world.balances().await, 10_000 - charged - lent * BOOK);
    world.system.stop().await;
}

impl World {
    /// How many books the tasks of the storm have put on shelves by other calls.
    async fn lent(&self) -> i64 {
        let mut lent = 0;
        for user in 1_000..1_000 + STORM_USERS {
            let app = AppId::new("shelf").unwrap();
            let scope = Scope { tenant: HOME, user: UserId(user), app };
            let seen = self.system.directory::<ExtensionSession>();
            let look = |session: &ExtensionSession| supervision::Entity::observe(session);
            let seen = seen.look(&scope.address(), origin(), look).await.unwrap();
            lent += seen["items"].as_i64().unwrap() - seen["failed"].as_i64().unwrap();
        }
        lent
    }
}
