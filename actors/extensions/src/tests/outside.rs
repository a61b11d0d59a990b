//! Calls that act outside: what goes out, what it costs, and what is on record, whatever the other
//! side does.

use std::sync::atomic::{AtomicUsize, Ordering};

use control::app::{HostKey, SetHost};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::completion::Completions;
use crate::hosts::{HOST_TIME_MAX, Hosts, OUTCOME_UNKNOWN};
use crate::outgoing::{Answered, Outgoing, Post, PostError};
use crate::outside::Outside;
use crate::signing::HostKeys;

/// What a call of `print` costs: the app's price and the platform's fee.
const PRINT: i64 = 6;

/// A host and a model that do as each request's params say.
#[derive(Default)]
pub(super) struct Elsewhere {
    posts: Mutex<Vec<Post>>,
    pub(super) world: std::sync::OnceLock<Arc<System>>,
    /// Done before a completion is answered.
    meanwhile: Mutex<Option<BoxFuture<'static, ()>>>,
    /// Requests that hang until whoever sent them lets go.
    pub(super) open: Arc<AtomicUsize>,
}

/// One of them.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn json_answer(status: u16, body: &Value) -> Result<Answered, PostError> {
    let content_type = "application/json".to_owned();
    Ok(Answered { status, content_type, body: body.to_string().into_bytes() })
}

impl Elsewhere {
    fn answer(&self, post: &Post) -> Result<Answered, PostError> {
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        if post.url.ends_with("/chat/completions") {
            let text = body["messages"][0]["content"].as_str().unwrap().to_uppercase();
            return json_answer(
                200,
                &json!({"choices": [{"message": {"content": text}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
            );
        }
        let system = self.world.get().unwrap();
        let records = system.journal().read_chain(Home(HOME.0), 0, false, 10_000).unwrap();
        let last_but_ends = records.iter().rev().find(|it| &*it.header.event == "started");
        assert!(last_but_ends.is_some(), "nothing leaves before the run is on record");
        match body["params"]["mood"].as_str().unwrap_or_default() {
            "hangs" => Err(PostError::Unanswered("no answer".to_owned())),
            "gone" => Err(PostError::Unreachable("nobody".to_owned())),
            "broken" => json_answer(500, &json!({})),
            "sorry" => json_answer(200, &json!({"error": "sold out"})),
            "wrong" => json_answer(200, &json!({"result": {"pages": "many"}})),
            _ => json_answer(
                200,
                &json!({"result": {"pages": 3, "of": body["function"]},
                "directives": [{"action": "send", "message": "printed"}]}),
            ),
        }
    }
}

struct Port(Arc<Elsewhere>);

impl Outgoing for Port {
    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn post(&self, post: Post) -> BoxFuture<'static, Result<Answered, PostError>> {
        let elsewhere = Arc::clone(&self.0);
        Box::pin(async move {
            let meanwhile = elsewhere.meanwhile.lock().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile.await;
            }
            let waits = post.body.windows(5).any(|it| it == b"waits");
            if waits {
                let _open = Open::new(&elsewhere.open);
                std::future::pending::<()>().await;
            }
            let answer = elsewhere.answer(&post);
            elsewhere.posts.lock().push(post);
            answer
        })
    }
}

fn press() -> Value {
    let steps = |steps: Value| json!({"kind": "declarative", "steps": steps});
    let code = |entry: &str| json!({"kind": "code", "module": "press", "entry": entry});
    let pages = json!({"type": "object", "properties": {"pages": {"type": "integer"}}});
    let call = |function: &str| {
        json!({"id": "call", "op": "call", "args": {"app_id": "shelf", "function": function,
            "params": {"title": "{{args.title}}"}}})
    };
    let put = json!({"id": "put", "op": "store.create",
        "args": {"kind": "note", "data": {"text": "{{prev.text}}"}}});
    let ask = json!({"id": "ask", "op": "ai.complete", "args": {"prompt": "{{args.title}}"}});
    let count = json!({"id": "all", "op": "store.list", "args": {"kind": "note"}});
    let mark = json!({"id": "mark", "op": "store.update",
        "args": {"kind": "note", "ids": "{{steps.all.ids}}", "set": {"text": "marked"}}});
    let inner = json!({"id": "inner", "op": "call", "args": {"function": "print"}});
    let fail = json!({"id": "fail", "op": "store.get", "args": {"kind": "{{args.no}}", "id": ""}});
    json!({"ir_version": "1.0", "app": {"id": "press", "version": "2.0.0", "title": "Press",
        "functions": [
            {"name": "print", "action_type": "write", "params_schema": {},
                "return_schema": pages, "impl": code("print")},
            {"name": "look", "action_type": "read", "params_schema": {}, "impl": code("look")},
            {"name": "ask", "action_type": "write", "impl": steps(json!([ask, put]))},
            {"name": "mark", "action_type": "write", "impl": steps(json!([count, ask, mark]))},
            {"name": "remark", "action_type": "write", "impl": steps(json!([count, mark]))},
            {"name": "lend", "action_type": "write", "impl": steps(json!([call("add_book")]))},
            {"name": "lend_and_fail", "action_type": "write",
                "impl": steps(json!([call("add_book"), fail]))},
            {"name": "drop", "action_type": "write", "impl": steps(json!([call("drop")]))},
            {"name": "reprint", "action_type": "write", "impl": steps(json!([inner]))},
            {"name": "print_all", "action_type": "write", "background": true,
                "params_schema": {}, "impl": code("print")},
            {"name": "study", "action_type": "write", "long_running": true,
                "impl": steps(json!([count, call("add_book"), ask, put]))},
        ],
        "ui": {"panels": [{"panel_id": "desk", "slot": "center", "title": "Desk",
            "render": code("desk")}]}}})
}

pub(super) async fn pressed() -> (Arc<World>, Arc<Elsewhere>) {
    pressed_carried(true).await
}

pub(super) fn outside(elsewhere: &Arc<Elsewhere>) -> Settings {
    let port: Arc<dyn Outgoing> = Arc::new(Port(elsewhere.clone()));
    let hosts = Hosts::new(port.clone(), HostKeys::new(&[1; 32]), HOST_TIME_MAX);
    let url = "https://model.example";
    let completions = Some(Completions::new(port, url, None, "small".to_owned()));
    let outside = Some(Arc::new(Outside { hosts, completions }));
    Settings { outside, ..Settings::default() }
}

pub(super) async fn pressed_carried(is_carried: bool) -> (Arc<World>, Arc<Elsewhere>) {
    let elsewhere = Arc::new(Elsewhere::default());
    let world = world_of(system_on(new_journal(), outside(&elsewhere), is_carried)).await;
    assert!(elsewhere.world.set(world.system.clone()).is_ok());
    let id = AppId::new("press").unwrap();
    let prices = json!({"functions": {"print": PRINT - 1}});
    let listing = Listing {
        display_name: "Press".to_owned(),
        description: String::new(),
        category: "general".to_owned(),
        icon: String::new(),
        git_url: "https://example.test/press".to_owned(),
        pricing_model: PricingModel::PerAction,
        pricing_config: Some(JsonBytes::from(prices)),
        revenue_split_dev: SharePercent::new(70).unwrap(),
    };
    let (apps, address) = (world.system.directory::<App>(), App::address(&id, HOME));
    let create = Create { id: id.clone(), developer: ADA, tenant: HOME, listing };
    apps.ask(&address, create, origin()).await.unwrap();
    let ir = JsonBytes::from(press());
    let deploy = Deploy { version: "2.0.0".to_owned(), ir, digest: [2; 32], dev_mode: true };
    apps.ask(&address, deploy, origin()).await.unwrap();
    world.fill(10_000).await;
    (Arc::new(world), elsewhere)
}

impl World {
    pub(super) async fn press(&self, function: &str, params: Value) -> CallAnswer {
        self.try_press(function, params).await.unwrap()
    }

    async fn try_press(
        &self,
        function: &str,
        params: Value,
    ) -> Result<CallAnswer, supervision::Refusal> {
        let request = Request { app: "press".to_owned(), ..self.request() };
        self.extensions.call(&self.system, request, call(function, params)).await
    }

    pub(super) async fn set_host(&self) -> HostKey {
        let id = AppId::new("press").unwrap();
        let set = SetHost { url: Some("https://press.example/call".to_owned()) };
        let apps = self.system.directory::<App>();
        let address = App::address(&id, HOME);
        let host = apps.ask(&address, set, origin()).await.unwrap().host;
        self.extensions.apps().forget(&id);
        host.keys[0]
    }

    pub(super) async fn pressed_settled(&self) -> i64 {
        let address = Scope { app: AppId::new("press").unwrap(), ..scope() }.address();
        let sessions = self.system.directory::<ExtensionSession>();
        let settled = async {
            loop {
                use supervision::Entity;
                let look = |session: &ExtensionSession| session.is_pending();
                if !sessions.look(&address, origin(), look).await.unwrap() {
                    return self.settled().await;
                }
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, settled).await.expect("every hold ends")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_paid_for_what_it_does_and_for_nothing_else() {
    let (world, elsewhere) = pressed().await;
    let none = world.press("print", json!({})).await;
    assert_eq!(none.error_code.as_deref(), Some("host_not_set"));
    assert_eq!(world.set_host().await.number, 1);
    let printed = world.press("print", json!({"title": "Emma"})).await;
    assert_eq!((&printed.data["pages"], &printed.data["of"]), (&json!(3), &json!("print")));
    assert_eq!(printed.ui["directives"][0]["action"], "send");
    let post = elsewhere.posts.lock().pop().unwrap();
    let header = |name: &str| post.headers.iter().find(|it| it.0 == name).unwrap().1.clone();
    let body: Value = serde_json::from_slice(&post.body).unwrap();
    let sent: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let documented = "call_id trace_id function module entry params user tenant app app_version \
                      deadline_ms";
    assert_eq!(sent, documented.split_whitespace().collect::<Vec<_>>());
    assert_eq!((&body["module"], &body["params"]), (&json!("press"), &json!({"title": "Emma"})));
    assert!(body["deadline_ms"].as_u64().unwrap() <= HOST_TIME_MAX.as_millis() as u64);
    let (id, seconds) = (header("webhook-id"), header("webhook-timestamp").parse().unwrap());
    assert_eq!(body["call_id"], id);
    let press = AppId::new("press").unwrap();
    let signed = HostKeys::new(&[1; 32]).signatures(&press, &[1], (&id, seconds), &post.body);
    assert_eq!((header("webhook-signature"), header("bailiwick-key")), (signed, "1".to_owned()));
    assert!((world.system.clock().now().0 / 1_000 - seconds).abs() < 60);
    assert_eq!(world.pressed_settled().await, 10_000 - PRINT);
    for (mood, code) in [
        ("hangs", OUTCOME_UNKNOWN),
        ("sorry", "function_failed"),
        ("wrong", "host_answer_invalid"),
        ("broken", "host_answer_invalid"),
        ("gone", "host_unreachable"),
    ] {
        let before = elsewhere.posts.lock().len();
        let failed = world.press("print", json!({"mood": mood})).await;
        assert_eq!(failed.error_code.as_deref(), Some(code), "{mood}");
        assert_eq!(elsewhere.posts.lock().len(), before + 1, "{mood} is sent once");
        let of_step = world.press("reprint", json!({})).await;
        assert!(of_step.is_success(), "{of_step:?}");
    }
    assert_eq!(world.pressed_settled().await, 10_000 - PRINT - 5, "5 calls of reprint");
    let looked = world.press("look", json!({"mood": "broken"})).await;
    assert!(!looked.is_success());
    let posts = elsewhere.posts.lock().split_off(0);
    let [.., first, again] = posts.as_slice() else { panic!("what reads is sent again") };
    assert_eq!(first.headers[0], again.headers[0], "with the same id");
    let desk = world.press("__panel__desk", json!({})).await;
    assert_eq!(desk.ui["of"], "__panel__desk");
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_calls_of_a_host_that_fails_half_leave_the_ledger_right() {
    let (world, _) = pressed().await;
    world.set_host().await;
    let moods = ["", "hangs", "", "sorry"];
    let calls = (0..100).map(|n| {
        let (world, params) = (world.clone(), json!({"mood": moods[n % 4]}));
        tokio::spawn(async move { world.try_press("print", params).await })
    });
    let answers = futures::future::join_all(calls).await;
    // A row of failures may open the circuit, which refuses.
    let is_success = |it: &CallAnswer| it.is_success();
    let answers = answers.into_iter().map(Result::unwrap);
    let succeeded = answers.filter(|it| it.as_ref().is_ok_and(is_success)).count() as i64;
    assert!((1..=50).contains(&succeeded), "{succeeded}");
    assert_eq!(world.pressed_settled().await, 10_000 - PRINT * succeeded);
    let batch: Vec<_> =
        (0..40).map(|n| call("look", json!({"mood": if n == 7 { "sorry" } else { "" }}))).collect();
    let request = Request { app: "press".to_owned(), ..world.request() };
    let answers = world.extensions.batch(&world.system, request, batch).await.unwrap();
    let failed: Vec<_> = (0..40).filter(|&n| !answers[n].is_success()).collect();
    assert_eq!(failed, [7], "answers come in the calls' order");
    assert_eq!(world.pressed_settled().await, 10_000 - PRINT * succeeded - 39);
    let figures = world.extensions.outside().unwrap().figures().0;
    assert_eq!((figures.under_way, figures.unknown + figures.refused > 0), (0, true));
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_circuit_is_open_nothing_is_held_or_recorded() {
    let (world, elsewhere) = pressed().await;
    world.set_host().await;
    for _ in 0..crate::breaker::FAILURES_MAX {
        let failed = world.press("print", json!({"mood": "gone"})).await;
        assert_eq!(failed.error_code.as_deref(), Some("host_unreachable"));
    }
    assert_eq!(world.pressed_settled().await, 10_000);
    let (records, posts) = (world.records(), elsewhere.posts.lock().len());
    for function in ["print", "look", "print_all", "__panel__desk"] {
        let refused = world.try_press(function, json!({})).await.unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Busy, "app_unavailable"));
        let open_for = crate::breaker::OPEN_FOR.as_millis() as u64;
        assert!(refused.retry_after_ms.is_some_and(|wait| wait > 0 && wait <= open_for));
    }
    assert_eq!((world.records(), elsewhere.posts.lock().len()), (records, posts));
    let figures = world.extensions.outside().unwrap().figures().0;
    assert_eq!((figures.refused, figures.circuits_open), (4, 1));
    // What runs in the server runs on, and its step says what is the matter.
    let refused = world.press("remark", json!({})).await;
    assert!(refused.is_success(), "{refused:?}");
    let step = world.press("reprint", json!({})).await;
    assert!(step.error.unwrap().contains("keeps failing"));
    world.pressed_settled().await;
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_apps_function_is_a_call_of_its_own() {
    let (world, _) = pressed().await;
    let lent = world.press("lend", json!({"title": "Emma"})).await;
    assert!(lent.data["id"].as_str().unwrap().starts_with("doc_"), "{lent:?}");
    assert_eq!(world.pressed_settled().await, 10_000 - 1 - BOOK);
    assert_eq!(world.count().await, 1, "it is in the callee's store");
    let failed = world.press("lend_and_fail", json!({"title": "Molloy"})).await;
    assert_eq!(failed.error_code.as_deref(), Some("step_failed"));
    assert_eq!(world.count().await, 2, "what the callee did stays");
    assert_eq!(world.pressed_settled().await, 10_000 - 1 - BOOK - BOOK - 2);
    let mut narrow = Request { app: "press".to_owned(), ..world.request() };
    narrow.caller.scopes = Scopes::from_iter(["press:*", "shelf:write"]);
    let dropped = world.extensions.call(&world.system, narrow, call("drop", json!({}))).await;
    let why = dropped.unwrap().error.unwrap();
    assert!(why.contains("scope_missing"), "{why}");
    world.pressed_settled().await;
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_is_asked_for_once_whatever_happens_to_the_documents() {
    let (world, elsewhere) = pressed().await;
    let asked = world.press("ask", json!({"title": "hello"})).await;
    assert!(asked.is_success(), "{asked:?}");
    // While the model thinks, the documents that the run has read are changed.
    let other = world.clone();
    let change = async move { drop(other.press("remark", json!({})).await) };
    *elsewhere.meanwhile.lock() = Some(Box::pin(change));
    let before = elsewhere.posts.lock().len();
    let marked = world.press("mark", json!({"title": "again"})).await;
    assert_eq!(marked.data["count"], 1, "{marked:?}");
    assert_eq!(elsewhere.posts.lock().len(), before + 1);
    let address = Scope { app: AppId::new("press").unwrap(), ..scope() }.address();
    let sessions = world.system.directory::<ExtensionSession>();
    let observe = |session: &ExtensionSession| supervision::Entity::observe(session);
    let seen = sessions.look(&address, origin(), observe).await.unwrap();
    assert_eq!((&seen["tokens_read"], &seen["tokens_written"]), (&json!(6), &json!(8)));
    world.pressed_settled().await;
    world.system.stop().await;
}
