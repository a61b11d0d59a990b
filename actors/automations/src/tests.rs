//! Rules on a whole system: what sets them off, how often, and what is left of it after a crash.

use std::sync::Arc;
use std::time::Duration;

use activity::feed::{Feed, Tellers};
use billing::wallet::{Balance, Grant, Kind, Reason, Wallet, wallet_address};
use confirmations::Executors;
use control::app::{App, Create, Deploy, Listing};
use control::pricing::PricingModel;
use extensions::session::ExtensionSession;
use extensions::{Apps, Call, CallAnswer, Extensions, Request, Settings};
use identity::frozen::Frozen;
use persistence::{EngineKind, Journal, MasterKey, Options};
use serde_json::{Value, json};
use supervision::clock::SimulatedClock;
use supervision::system::{System, SystemOptions};
use supervision::{Origin, Timestamp};
use types::{
    Amount, AppId, Caller, CallerKind, GrantId, JsonBytes, Scopes, SharePercent, TenantId, UserId,
    parse_rfc3339,
};

use crate::app::AutomationsApp;
use crate::automations::Automations;
use crate::automator::Automator;
use crate::commands::CreateRule;
use crate::execution::ExecutionView;
use crate::rule::{ActionStep, Limits, Maker, NotifyMode, Rule, RuleView};
use crate::service::{Draft, Whose};
use crate::trigger::Trigger;

mod entity;

const ADA: UserId = UserId(7);
const BOB: UserId = UserId(8);
const HOME: TenantId = TenantId(7);
/// What a call costs: the platform's fee.
const CALL: i64 = 1;
/// How long anything may take to come about.
const LIMIT: Duration = Duration::from_secs(30);

struct World {
    system: Arc<System>,
    extensions: Arc<Extensions>,
    automator: Arc<Automator>,
}

fn origin() -> Origin {
    Origin { caller: "user/test".into(), request: 1.into(), cause: None }
}

fn journal() -> Arc<Journal> {
    let options = Options { engine: EngineKind::Memory, ..Options::new("") };
    Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap()
}

fn shelf() -> Value {
    let put = |kind: &str| {
        json!({"kind": "declarative", "steps": [{"id": "put", "op": "store.create",
            "args": {"kind": kind, "data": {"title": "{{args.title}}"}}}]})
    };
    let list = |kind: &str| {
        json!({"kind": "declarative", "steps": [{"id": "all", "op": "store.list",
            "args": {"kind": kind, "limit": 1000}}]})
    };
    let write = |name: &str, event: &str, kind: &str| {
        json!({"name": name, "action_type": "write", "event": event, "impl": put(kind),
            "params_schema": {"title": {"type": "string"}}})
    };
    let read = |name: &str, kind: &str| {
        let imp = list(kind);
        json!({"name": name, "action_type": "read", "params_schema": {}, "impl": imp})
    };
    json!({"ir_version": "1.0", "app": {"id": "shelf", "version": "1.0.0", "title": "Shelf",
        "capabilities": ["store"], "functions": [
            write("add_book", "added", "book"), write("mark", "marked", "mark"),
            write("file", "", "card"), read("books", "book"), read("marks", "mark"),
            read("cards", "card")]}})
}

/// A system on a journal; one that carries nothing out is what is left of a process that dies.
fn system_on(journal: Arc<Journal>, options: Option<SystemOptions>, carries: bool) -> World {
    let apps = Apps::new();
    let extensions = Extensions::new(Settings::default(), apps, vec![Arc::new(AutomationsApp)]);
    let tellers = Tellers::default().with("extension_session", extensions::tell);
    let feed = Feed::new(tellers.with("automations", crate::tell));
    let automator = Automator::new(feed.clone(), Arc::new(Frozen::default()));
    let options = options.unwrap_or_else(|| SystemOptions::new(journal));
    let builder = System::builder(options).kind::<identity::tenant::Tenant>();
    let builder = builder.port(Executors::new(vec![extensions.clone()])).port(feed);
    let builder = builder.port(extensions.clone());
    let builder = if carries { builder.port(automator.clone()) } else { builder };
    let builder = confirmations::register(control::register(billing::register(builder)));
    let builder = crate::register(extensions::register(broker::register(builder)));
    let system = builder.start();
    automator.attach(system.journal());
    automator.load(&system);
    World { system, extensions, automator }
}

async fn world() -> World {
    world_of(system_on(journal(), None, true)).await
}

async fn world_of(world: World) -> World {
    let id = AppId::new("shelf").unwrap();
    let listing = Listing {
        display_name: "Shelf".to_owned(),
        description: String::new(),
        category: "general".to_owned(),
        icon: String::new(),
        git_url: "https://example.test/shelf".to_owned(),
        pricing_model: PricingModel::Free,
        pricing_config: None,
        revenue_split_dev: SharePercent::new(70).unwrap(),
    };
    let (apps, address) = (world.system.directory::<App>(), App::address(&id, HOME));
    let create = Create { id, developer: ADA, tenant: HOME, listing };
    apps.ask(&address, create, origin()).await.unwrap();
    let ir = JsonBytes::from(shelf());
    let deploy = Deploy { version: "1.0.0".to_owned(), ir, digest: [1; 32], dev_mode: false };
    apps.ask(&address, deploy, origin()).await.unwrap();
    let amount = Amount::new(10_000).unwrap();
    let grant = Grant::new(GrantId(1), HOME, amount, Kind::Paid, Reason::Topup);
    let wallets = world.system.directory::<Wallet>();
    wallets.ask(&wallet_address(HOME), grant, origin()).await.unwrap();
    world
}

fn step(tool: &str, args: Value) -> ActionStep {
    let (app_id, tool) = (Some("shelf".to_owned()), Some(tool.to_owned()));
    ActionStep { message: None, app_id, tool, args: Some(args) }
}

fn on(event_type: &str) -> Trigger {
    Trigger { event_type: event_type.to_owned(), ..Trigger::manual() }
}

fn draft(trigger: Trigger, actions: Vec<ActionStep>) -> Draft {
    let limits = Limits { cooldown_seconds: 0, max_per_hour: 1_000, max_iterations: 0 };
    let words = ("Do it".to_owned(), String::new());
    Draft::new(words, Some(trigger), actions, limits, NotifyMode::All).unwrap()
}

fn whose(user: UserId) -> Whose {
    Whose { tenant: HOME, user: Some(user), origin: origin() }
}

impl World {
    async fn call_as(&self, user: UserId, app: &str, function: &str, params: Value) -> CallAnswer {
        let caller = Caller {
            kind: CallerKind::User,
            user: Some(user),
            scopes: Scopes::all(),
            ..Caller::system(HOME)
        };
        let request = Request {
            caller,
            tenant: HOME,
            user: Some(user),
            app: app.to_owned(),
            idempotency: None,
            origin: Origin { request: self.system.new_id().into(), ..origin() },
        };
        let call = Call { function: function.to_owned(), params };
        self.extensions.call(&self.system, request, call).await.unwrap()
    }

    async fn call(&self, function: &str, params: Value) -> CallAnswer {
        let answer = self.call_as(ADA, "shelf", function, params).await;
        assert!(answer.is_success(), "{answer:?}");
        answer
    }

    async fn count(&self, function: &str) -> usize {
        let answer = self.call(function, json!({})).await;
        answer.data["docs"]
            .as_array()
            .or(answer.data.as_array())
            .map_or_else(|| panic!("{:?}", answer.data), Vec::len)
    }

    async fn rule_of(&self, user: UserId, draft: Draft) -> u64 {
        let made_by = self.system.new_id();
        let whose = whose(user);
        let create = self.automator.creation(&self.system, &whose, Maker::user(), draft, made_by);
        // The plan of the tests allows as many as there are.
        let create = CreateRule { cap: (None, "test"), ..create.await.unwrap() };
        let all = self.system.directory::<Automations>();
        let rule = all.ask(&Automations::address(HOME), create, origin()).await.unwrap();
        self.automator.took(HOME, &rule);
        rule.id
    }

    async fn rule(&self, event_type: &str, actions: Vec<ActionStep>) -> u64 {
        self.rule_of(ADA, draft(on(event_type), actions)).await
    }

    /// Looks at all that has happened and waits until nothing is under way.
    async fn settle(&self) {
        let settled = async {
            loop {
                self.system.settle().await;
                while self.automator.run(&self.system).await {}
                if self.automator.is_done() && self.running().await == 0 {
                    self.system.settle().await;
                    if self.automator.is_done() {
                        return;
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, settled).await.unwrap();
    }

    async fn running(&self) -> usize {
        let all = self.system.directory::<Automations>();
        let look = |all: &Automations| all.running.len();
        all.look(&Automations::address(HOME), origin(), look).await.unwrap()
    }

    async fn rules(&self) -> Vec<Arc<Rule>> {
        let anybody = Whose { user: None, ..whose(ADA) };
        self.automator.list(&self.system, &anybody).await.unwrap()
    }

    async fn seen(&self, id: u64) -> RuleView {
        let rule = self.automator.rule(&self.system, &whose(ADA), id).await.unwrap();
        rule.view(self.system.journal().keys())
    }

    async fn executions(&self, id: u64) -> Vec<ExecutionView> {
        let page = (None, 50);
        self.automator.executions(&self.system, &whose(ADA), id, page).await.unwrap().0
    }

    async fn balance(&self) -> Balance {
        let now = self.system.clock().now();
        let look = move |wallet: &Wallet| wallet.balance(now);
        let wallets = self.system.directory::<Wallet>();
        wallets.look(&wallet_address(HOME), origin(), look).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_sets_a_rule_off_with_what_it_says() {
    let world = world().await;
    world.call("add_book", json!({"title": "before"})).await;
    let title = json!({"title": "{{event.data.function}} by {{user.id}}: {{steps.0.text}}"});
    let steps = vec![ActionStep::message("{{event.type}}"), step("file", title)];
    let id = world.rule("shelf.*", steps).await;
    world.settle().await;
    assert!(world.executions(id).await.is_empty(), "what was before the rule set it off");
    world.call("add_book", json!({"title": "after"})).await;
    world.settle().await;
    let done = world.executions(id).await;
    let [execution] = done.as_slice() else { panic!("{done:?}") };
    assert_eq!((execution.status, execution.source), ("success", "event"));
    assert_eq!(execution.charged, CALL);
    assert_eq!(execution.steps[0].note.as_deref(), Some("shelf.added"));
    assert_eq!(execution.event["type"], "shelf.added");
    let cards = world.call("cards", json!({})).await;
    let text = cards.data.to_string();
    assert!(text.contains(&format!("add_book by {ADA}: shelf.added")), "{text}");
    let rule = world.seen(id).await;
    assert_eq!((rule.trigger_count, rule.success_count, rule.fail_count), (1, 1, 0));
    // The records of its calls name it and are found by its execution.
    let call = execution.steps[1].call_id.unwrap();
    let chain = world.system.journal().read_chain(types::home_of(HOME), 1, false, 500).unwrap();
    let ran = chain
        .iter()
        .find(|it| *it.header.caller == *format!("automation/{id} for user/{ADA}"))
        .unwrap();
    assert_eq!(ran.header.request.id, execution.id.0);
    let session =
        extensions::session::Scope { tenant: HOME, user: ADA, app: AppId::new("shelf").unwrap() };
    let sessions = world.system.directory::<ExtensionSession>();
    let fate = sessions.look(&session.address(), origin(), move |it| it.fate(call)).await.unwrap();
    assert_eq!(fate, extensions::session::Fate::Ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobodys_rule_hears_of_what_its_user_may_not_see() {
    let world = world().await;
    let mine = world.rule("*", vec![ActionStep::message("{{event.type}}")]).await;
    let bobs = draft(on("*"), vec![ActionStep::message("{{event.type}}")]);
    world.rule_of(BOB, bobs).await;
    world.call("add_book", json!({"title": "mine"})).await;
    world.settle().await;
    let counts: Vec<_> =
        world.rules().await.iter().map(|rule| (rule.user, rule.trigger_count)).collect();
    // The call and the event that it declares.
    assert_eq!(counts, [(ADA, 2), (BOB, 0)]);
    let not_bobs = Whose { user: Some(BOB), ..whose(BOB) };
    let foreign = world.automator.rule(&world.system, &not_bobs, mine).await;
    assert_eq!(foreign.unwrap_err().code, "not_found");
    assert_eq!(world.automator.list(&world.system, &not_bobs).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_rules_stops_where_it_would_begin_again() {
    let world = world().await;
    let title = json!({"title": "again"});
    let first = world.rule("shelf.added", vec![step("mark", title.clone())]).await;
    let second = world.rule("shelf.marked", vec![step("add_book", title.clone())]).await;
    world.call("add_book", title).await;
    world.settle().await;
    assert_eq!((world.count("books").await, world.count("marks").await), (2, 1));
    assert_eq!(world.seen(first).await.trigger_count, 1);
    let last = &world.executions(second).await[0];
    assert_eq!(last.chain, [first]);
    // One that hears of everything, its own calls among it, is set off by others alone.
    let all = world.rule("*", vec![step("file", json!({"title": "x"}))]).await;
    world.call("file", json!({"title": "y"})).await;
    world.settle().await;
    assert_eq!(world.seen(all).await.trigger_count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_again_and_again_stops_its_rule() {
    let world = world().await;
    let id = world.rule("shelf.added", vec![step("gone", json!({}))]).await;
    for n in 0..7 {
        world.call("add_book", json!({"title": n.to_string()})).await;
        world.settle().await;
    }
    let rule = world.seen(id).await;
    assert_eq!((rule.status, rule.fail_count, rule.trigger_count), ("error", 5, 5));
    assert!(rule.last_error.unwrap().starts_with("function_not_found"));
    let reset = world.automator.resume(&world.system, &whose(ADA), id).await.unwrap();
    assert!(!reset);
    world.call("add_book", json!({"title": "again"})).await;
    world.settle().await;
    assert_eq!(world.seen(id).await.fail_count, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_is_carried_out_once_however_often_the_server_ends() {
    const RULES: usize = 200;
    let journal = journal();
    // Nobody carries anything out here: it dies once the rules were set off.
    let first = world_of(system_on(journal.clone(), None, false)).await;
    for n in 0..RULES {
        first.rule("shelf.added", vec![step("file", json!({"title": n.to_string()}))]).await;
    }
    first.call("add_book", json!({"title": "the event"})).await;
    first.system.settle().await;
    while first.automator.run(&first.system).await {}
    assert_eq!(first.running().await, RULES);
    drop(first);
    // The next one dies in the midst of it, and so does another.
    for part in [RULES / 4, RULES / 2] {
        let world = system_on(journal.clone(), None, true);
        world.system.recover().unwrap();
        let some = async {
            while world.running().await > RULES - part {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, some).await.unwrap();
        world.automator.close();
    }
    let world = system_on(journal, None, true);
    world.system.recover().unwrap();
    world.settle().await;
    let rules = world.rules().await;
    let is_once = |rule: &&Arc<Rule>| (rule.trigger_count, rule.success_count) == (1, 1);
    assert_eq!(rules.iter().filter(is_once).count(), RULES);
    assert_eq!(world.count("cards").await, RULES);
    // The event's call, the executions', and the look at the cards.
    let spent = async {
        while world.balance().await.balance != 10_000 - (RULES as i64 + 2) * CALL {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, spent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_come_round_by_the_clock_and_are_caught_up_with() {
    let at = |text: &str| parse_rfc3339(text).unwrap();
    let start = at("2026-03-28T00:00:00Z");
    let clock = SimulatedClock::at(start);
    let journal = journal();
    let options = |clock: &Arc<SimulatedClock>| {
        Some(SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal.clone()) })
    };
    let world = world_of(system_on(journal.clone(), options(&clock), true)).await;
    let schedule = |text: &str| Trigger {
        schedule: Some(text.to_owned()),
        timezone: "Europe/Berlin".to_owned(),
        ..on("schedule")
    };
    // 29 March is the day on which the clock shows no 02:30.
    let title = json!({"title": "{{event.at}}"});
    let id = world.rule_of(ADA, draft(schedule("30 2 * * *"), vec![step("file", title)])).await;
    let forward = |world: &World, to: Timestamp| {
        clock.advance_ms(to.0 - clock_now(world).0);
        world.system.fire_reminders();
    };
    for (day, missed) in [("28", 1), ("29", 2)] {
        forward(&world, at(&format!("2026-03-{day}T06:00:00Z")));
        until(&world, id, missed).await;
    }
    // Late by more than an hour, each was missed; the count says so.
    let rule = world.automator.rule(&world.system, &whose(ADA), id).await.unwrap();
    assert_eq!((rule.trigger_count, rule.missed_count), (0, 2));
    forward(&world, at("2026-03-30T01:00:00Z"));
    done(&world, id, 1).await;
    let texts = world.call("cards", json!({})).await.data.to_string();
    assert!(texts.contains("2026-03-30T00:30:00.000Z"), "{texts}");
    // Down for three days: the last slot is half an hour ago.
    drop(world);
    clock.advance_ms(at("2026-04-02T01:00:00Z").0 - at("2026-03-30T01:00:00Z").0);
    let world = system_on(journal.clone(), options(&clock), true);
    world.system.recover().unwrap();
    world.system.fire_reminders();
    done(&world, id, 2).await;
    let rule = world.automator.rule(&world.system, &whose(ADA), id).await.unwrap();
    assert_eq!((rule.trigger_count, rule.missed_count), (2, 4));
    assert_eq!(rule.next_slot, Some(at("2026-04-03T00:30:00Z")));
}

fn clock_now(world: &World) -> Timestamp {
    world.system.clock().now()
}

/// Waits until so many slots were missed.
async fn until(world: &World, id: u64, missed: u64) {
    let all = async {
        while world.automator.rule(&world.system, &whose(ADA), id).await.unwrap().missed_count
            < missed
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap();
}

/// Waits until so many executions went well.
async fn done(world: &World, id: u64, count: u64) {
    let all = async {
        while world.seen(id).await.success_count < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_app_makes_and_manages_rules() {
    let world = world().await;
    let params = json!({"event_type": "shelf.added", "action_description": "File it",
        "cooldown_seconds": 0, "max_iterations": 1,
        "action": {"app_id": "shelf", "tool": "file", "args": {"title": "x"}}});
    let made = world.call_as(ADA, "automations", "create_automation", params).await;
    let id = made.data["rule_id"].as_u64().unwrap();
    assert_eq!(made.data["rule"]["status"], "active", "{made:?}");
    let rule = json!({"rule_id": id});
    let managed =
        |function: &'static str| world.call_as(ADA, "automations", function, rule.clone());
    assert_eq!(managed("pause_automation").await.data["status"], "paused");
    world.call("add_book", json!({"title": "while it was paused"})).await;
    let resumed = managed("resume").await;
    assert_eq!(resumed.data["trigger_count_reset"], false);
    world.call("add_book", json!({"title": "the only one"})).await;
    world.settle().await;
    world.call("add_book", json!({"title": "one too many"})).await;
    world.settle().await;
    assert_eq!(world.count("cards").await, 1);
    let all = world.call_as(ADA, "automations", "list_automations", json!({})).await;
    assert_eq!(
        (&all.data["total"], &all.data["items"][0]["status"]),
        (&json!(1), &json!("paused"))
    );
    assert_eq!(managed("resume_automation").await.data["trigger_count_reset"], true);
    let run = managed("run_automation").await;
    assert!(run.is_success(), "{run:?}");
    world.settle().await;
    assert_eq!(world.count("cards").await, 2);
    assert_eq!(managed("delete_automation").await.data["deleted"], true);
    let gone = managed("delete_automation").await;
    assert_eq!(gone.error_code.as_deref(), Some("not_found"));
    // The plan without a subscription allows five.
    let make = || {
        let params = json!({"action_description": "Say hello"});
        world.call_as(ADA, "automations", "create", params)
    };
    for _ in 0..5 {
        assert!(make().await.is_success());
    }
    let over = make().await;
    assert_eq!(over.error_code.as_deref(), Some("automation_quota_exceeded"));
    assert_eq!(over.data["detail"]["quota"]["cap"], 5);
    let foreign = world.call_as(BOB, "automations", "list", json!({})).await;
    assert_eq!(foreign.data["total"], 0);
}
