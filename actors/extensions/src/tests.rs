//! Calls and batches on a whole system: what they change, what they cost, and what neither.

use std::sync::Arc;

use billing::wallet::{Balance, Grant, Kind, Reason, Wallet, wallet_address};
use confirmations::Executors;
use control::app::{App, Create, Deploy, Listing, SetStatus, Status};
use control::pricing::PricingModel;
use identity::frozen::{FROZEN, ReasonClass, Target};
use persistence::{EngineKind, Journal, MasterKey, Options, codec};
use serde_json::{Value, json};
use supervision::system::{System, SystemOptions};
use supervision::{Class, Home, IdempotencyKey, Origin};
use types::{
    Amount, AppId, Caller, CallerKind, GrantId, JsonBytes, Scopes, SharePercent, TenantId, UserId,
};

use crate::answer::CallAnswer;
use crate::built_in::BuiltIn;
use crate::catalogue::Apps;
use crate::flights::Stopped;
use crate::runtime::{Call, Extensions, Request, Settings};
use crate::session::{BATCH_ITEMS_MAX, ExtensionSession, Scope, StoredDocument};
use crate::view::{Rows, SystemRows};

mod guard;
mod indexes;
mod limits;
mod outside;
mod tasks;

const ADA: UserId = UserId(7);
const HOME: TenantId = TenantId(7);
/// What a call of `add_book` costs: the app's price and the platform's fee.
const BOOK: i64 = 3;

struct World {
    system: Arc<System>,
    extensions: Arc<Extensions>,
}

fn origin() -> Origin {
    Origin { caller: "user/test".into(), request: 1.into(), cause: None }
}

fn shelf() -> Value {
    let store = |op: &str, args: Value| {
        let step = json!({"id": "only", "op": op, "args": args});
        json!({"kind": "declarative", "steps": [step]})
    };
    let one = json!({"id": {"type": "string"}});
    let put = store("store.create", json!({"kind": "book", "data": {"title": "{{args.title}}"}}));
    let all = store("store.list", json!({"kind": "book", "limit": 1000}));
    let rename = store(
        "store.update",
        json!({"kind": "book", "id": "{{args.id}}", "set": {"title": "{{args.title}}"}}),
    );
    let wipe = store("store.delete", json!({"kind": "book", "id": "{{args.id}}"}));
    let code = json!({"kind": "code", "module": "shelf", "entry": "print"});
    let functions = json!([
        {"name": "add_book", "action_type": "write",
            "params_schema": {"title": {"type": "string"}}, "impl": put},
        {"name": "books", "action_type": "read", "params_schema": {}, "impl": all},
        {"name": "rename", "action_type": "write", "params_schema": {}, "impl": rename},
        {"name": "drop", "action_type": "destructive", "params_schema": one, "impl": wipe},
        {"name": "print", "action_type": "write", "params_schema": {}, "impl": code},
        {"name": "stock", "action_type": "write", "background": true,
            "params_schema": {"title": {"type": "string"}}, "impl": put},
    ]);
    json!({"ir_version": "1.0", "app": {"id": "shelf", "version": "1.0.0", "title": "Shelf",
        "capabilities": ["store"], "functions": functions,
        "ui": {"panels": [{"panel_id": "main", "slot": "center", "title": "Shelf",
            "render": {"kind": "static", "tree": {"type": "Text", "props": {"text": "hello"}}}}]}}})
}

async fn world() -> World {
    world_with(Settings::default()).await
}

/// A system in which tasks are carried on, or are left as a process leaves them that dies.
fn system_on(
    journal: Arc<Journal>,
    settings: Settings,
    is_carried: bool,
) -> (Arc<System>, Arc<Extensions>) {
    system_with(journal, Extensions::new(settings, Apps::new(), Vec::new()), is_carried)
}

fn system_with(
    journal: Arc<Journal>,
    extensions: Arc<Extensions>,
    is_carried: bool,
) -> (Arc<System>, Arc<Extensions>) {
    let builder = System::builder(SystemOptions::new(journal));
    let builder = builder.kind::<identity::tenant::Tenant>();
    let builder = builder.port(Executors::new(vec![extensions.clone()]));
    let builder = if is_carried { builder.port(extensions.clone()) } else { builder };
    let builder = confirmations::register(control::register(billing::register(builder)));
    (crate::register(broker::register(builder)).start(), extensions)
}

fn new_journal() -> Arc<Journal> {
    let options = Options { engine: EngineKind::Memory, ..Options::new("") };
    Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap()
}

async fn world_with(settings: Settings) -> World {
    world_with_apps(settings, Vec::new()).await
}

async fn world_with_apps(settings: Settings, built_in: Vec<Arc<dyn BuiltIn>>) -> World {
    let extensions = Extensions::new(settings, Apps::new(), built_in);
    world_of(system_with(new_journal(), extensions, true)).await
}

async fn world_of((system, extensions): (Arc<System>, Arc<Extensions>)) -> World {
    let id = AppId::new("shelf").unwrap();
    let listing = Listing {
        display_name: "Shelf".to_owned(),
        description: String::new(),
        category: "general".to_owned(),
        icon: String::new(),
        git_url: "https://example.test/shelf".to_owned(),
        pricing_model: PricingModel::PerAction,
        pricing_config: Some(JsonBytes::from(json!({"functions": {"add_book": 2}}))),
        revenue_split_dev: SharePercent::new(70).unwrap(),
    };
    let (apps, address) = (system.directory::<App>(), App::address(&id, HOME));
    let create = Create { id, developer: ADA, tenant: HOME, listing };
    apps.ask(&address, create, origin()).await.unwrap();
    let world = World { system, extensions };
    let refused = world.call("books", json!({})).await.unwrap_err();
    assert_eq!(refused.code, "not_deployed");
    let ir = JsonBytes::from(shelf());
    let deploy = Deploy { version: "1.0.0".to_owned(), ir, digest: [1; 32], dev_mode: false };
    apps.ask(&address, deploy, origin()).await.unwrap();
    world.extensions.apps().forget(&AppId::new("shelf").unwrap());
    world
}

impl World {
    fn request(&self) -> Request {
        let caller = Caller {
            kind: CallerKind::User,
            user: Some(ADA),
            scopes: Scopes::from_iter(["extensions:*"]),
            ..Caller::system(HOME)
        };
        Request {
            caller,
            tenant: HOME,
            user: Some(ADA),
            app: "shelf".to_owned(),
            idempotency: None,
            origin: origin(),
        }
    }

    async fn call(
        &self,
        function: &str,
        params: Value,
    ) -> Result<CallAnswer, supervision::Refusal> {
        self.extensions.call(&self.system, self.request(), call(function, params)).await
    }

    async fn balance(&self) -> Balance {
        let now = self.system.clock().now();
        let wallets = self.system.directory::<Wallet>();
        let look = move |wallet: &Wallet| wallet.balance(now);
        wallets.look(&wallet_address(HOME), origin(), look).await.unwrap()
    }

    /// The balance once nothing is held any more.
    async fn settled(&self) -> i64 {
        let settled = async {
            loop {
                let balance = self.balance().await;
                let sessions = self.system.directory::<ExtensionSession>();
                let pending = |session: &ExtensionSession| {
                    use supervision::Entity;
                    session.is_pending()
                };
                let address = scope().address();
                let pending = sessions.look(&address, origin(), pending).await.unwrap();
                if balance.held == 0 && !pending {
                    return balance.balance;
                }
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, settled).await.expect("it is settled")
    }

    async fn fill(&self, credits: i64) {
        let id = GrantId(self.system.new_id());
        let amount = Amount::new(credits).unwrap();
        let grant = Grant::new(id, HOME, amount, Kind::Paid, Reason::Topup);
        let wallets = self.system.directory::<Wallet>();
        wallets.ask(&wallet_address(HOME), grant, origin()).await.unwrap();
    }

    async fn count(&self) -> Value {
        self.call("books", json!({})).await.unwrap().data["count"].clone()
    }

    fn records(&self) -> usize {
        self.system.journal().read_chain(Home(HOME.0), 0, false, 10_000).unwrap().len()
    }
}

fn call(function: &str, params: Value) -> Call {
    Call { function: function.to_owned(), params }
}

fn scope() -> Scope {
    Scope { tenant: HOME, user: ADA, app: AppId::new("shelf").unwrap() }
}

/// What a request without enough money, rights or sense changes: nothing.
async fn what_is_refused_changes_nothing(world: &World) {
    let before = world.records();
    let refused = world.call("add_book", json!({"title": "Emma"})).await.unwrap_err();
    assert_eq!((refused.class, refused.code.as_str()), (Class::Payment, "insufficient_credits"));
    let facts: Value = serde_json::from_str(refused.facts.as_deref().unwrap()).unwrap();
    assert_eq!((&facts["balance"], &facts["price"]), (&json!(0), &json!(BOOK)));
    assert_eq!(facts["limit"], "balance");
    let mut narrow = world.request();
    narrow.caller.scopes = Scopes::from_iter(["shelf:read"]);
    let refused = world.extensions.call(&world.system, narrow, call("drop", json!({}))).await;
    assert_eq!(refused.unwrap_err().code, "scope_missing");
    let many = vec![call("books", json!({})); BATCH_ITEMS_MAX + 1];
    let refused = world.extensions.batch(&world.system, world.request(), many).await.unwrap_err();
    assert!(refused.class == Class::Invalid && refused.message.contains("1000"), "{refused}");
    let other = |tenant| Request { tenant, user: Some(UserId(9)), ..world.request() };
    let foreign =
        world.extensions.call(&world.system, other(TenantId(9)), call("books", json!({})));
    assert_eq!(foreign.await.unwrap_err().code, "not_found");
    let unknown = Request { app: "no-such".to_owned(), ..world.request() };
    let unknown = world.extensions.call(&world.system, unknown, call("books", json!({}))).await;
    assert_eq!(unknown.unwrap_err().code, "not_found");
    assert_eq!(world.records(), before);
}

/// A call and a batch do what they say and cost what they cost; what fails costs nothing.
async fn what_succeeds_is_paid_for_and_nothing_else(world: &World) {
    let answer = world.call("add_book", json!({"title": "Emma"})).await.unwrap();
    assert!(answer.is_success(), "{answer:?}");
    assert!(answer.data["id"].as_str().unwrap().starts_with("doc_"));
    assert_eq!(answer.trace.unwrap().item.price + 1, BOOK);
    assert_eq!(world.settled().await, 10_000 - BOOK);
    for (function, code) in [("no_such", "function_not_found"), ("print", "not_available")] {
        let answer = world.call(function, json!({})).await.unwrap();
        assert!(!answer.is_success() && answer.error.is_some(), "{answer:?}");
        assert_eq!(answer.error_code.as_deref(), Some(code));
    }
    assert_eq!(world.settled().await, 10_000 - BOOK);
    let mut calls: Vec<_> =
        (0..100).map(|n| call("add_book", json!({"title": format!("Book {n}")}))).collect();
    calls[40] = call("add_book", json!({"title": 40}));
    calls.push(call("books", json!({})));
    calls.push(call("__panel__main", json!({})));
    let quote = world.extensions.quote(&world.system, &world.request(), &calls).await.unwrap();
    assert_eq!(quote.total, 100 * BOOK + 2);
    let answers = world.extensions.batch(&world.system, world.request(), calls).await.unwrap();
    let failed: Vec<_> = (0..answers.len()).filter(|&n| !answers[n].is_success()).collect();
    assert_eq!(failed, [40]);
    assert_eq!(answers[40].error_code.as_deref(), Some("params_invalid"));
    assert_eq!(answers[100].data["count"], 100);
    assert_eq!(answers[101].ui["props"]["text"], "hello");
    assert_eq!(world.settled().await, 10_000 - BOOK - 99 * BOOK - 2);
    assert_eq!(world.count().await, 100);
}

/// Calls that change one document at once all take effect, one after the other.
async fn what_conflicts_runs_again(world: &Arc<World>) {
    let books = world.call("books", json!({})).await.unwrap();
    let id = books.data["ids"][0].clone();
    let renames = (0..24).map(|n| {
        let (world, params) = (world.clone(), json!({"id": id, "title": format!("Title {n}")}));
        tokio::spawn(async move { world.call("rename", params).await })
    });
    for rename in futures::future::join_all(renames).await {
        let answer = rename.unwrap().unwrap();
        assert_eq!(answer.data["count"], 1);
    }
    let number: types::CallId = id.as_str().unwrap()[4..].parse().unwrap();
    let rows = SystemRows::new(&world.system, &scope());
    let row = rows.row(&scope().document_key("book", number.0)).unwrap();
    assert_eq!(codec::decode::<StoredDocument>(&row).unwrap().version, 25);
}

/// The same key, the same answer, once.
async fn what_is_repeated_happens_once(world: &World) {
    let before = (world.count().await, world.settled().await);
    let key = || IdempotencyKey::new(HOME.0, "user/test", "call", "k1", b"body");
    let keyed = || Request { idempotency: Some(key()), ..world.request() };
    let add = || call("add_book", json!({"title": "Twice"}));
    let first = world.extensions.call(&world.system, keyed(), add()).await.unwrap();
    let again = world.extensions.call(&world.system, keyed(), add()).await.unwrap();
    assert_eq!(serde_json::to_value(&first).unwrap(), serde_json::to_value(&again).unwrap());
    assert_eq!(world.count().await, before.0.as_u64().unwrap() + 1);
    assert_eq!(world.settled().await, before.1 - BOOK - 1);
    let batch = || vec![add(), call("books", json!({}))];
    let key = || IdempotencyKey::new(HOME.0, "user/test", "batch", "k1", b"body");
    let keyed = || Request { idempotency: Some(key()), ..world.request() };
    let first = world.extensions.batch(&world.system, keyed(), batch()).await.unwrap();
    let again = world.extensions.batch(&world.system, keyed(), batch()).await.unwrap();
    assert_eq!(json!(first), json!(again));
}

/// What is active can be called by everybody, over documents of their own.
async fn what_is_active_is_everybodys(world: &World) {
    let id = AppId::new("shelf").unwrap();
    let address = Apps::locate(&world.system, &id).unwrap();
    let active = SetStatus { status: Status::Active, reason: None };
    world.system.directory::<App>().ask(&address, active, origin()).await.unwrap();
    world.extensions.apps().forget(&id);
    let other = Request { user: Some(UserId(9)), ..world.request() };
    let books =
        world.extensions.call(&world.system, other, call("books", json!({}))).await.unwrap();
    assert_eq!(books.data["count"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_batches_are_done_recorded_and_paid_once() {
    let world = Arc::new(world().await);
    what_is_refused_changes_nothing(&world).await;
    world.fill(10_000).await;
    what_succeeds_is_paid_for_and_nothing_else(&world).await;
    what_conflicts_runs_again(&world).await;
    what_is_repeated_happens_once(&world).await;
    what_is_active_is_everybodys(&world).await;
    world.settled().await;
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_frozen_begins_nothing_and_what_waited_is_stopped_and_releases_its_hold() {
    let world = Arc::new(world().await);
    world.fill(100).await;
    // All places are taken: the call waits for its turn, with its hold.
    let mut held = Vec::new();
    for number in 0..2 * world.extensions.settings().runs_at_once as u128 {
        held.push(world.extensions.turns().take(TenantId(1_000 + number), (1, 1)).await);
    }
    let waiting = tokio::spawn({
        let world = world.clone();
        async move { world.call("add_book", json!({"title": "Emma"})).await }
    });
    while world.balance().await.held == 0 {
        tokio::task::yield_now().await;
    }
    let frozen = &world.extensions.settings().frozen;
    let target = Target::App(AppId::new("shelf").unwrap());
    frozen.freeze(target.clone(), 1, ReasonClass::Abuse);
    let refused = world.call("books", json!({})).await.unwrap_err();
    assert_eq!(refused.code, FROZEN);
    let why = identity::frozen::refusal("app", ReasonClass::Abuse);
    let limit = std::time::Duration::from_secs(10);
    let stopped = world.extensions.flights().stop(|it| it.tenant == HOME, &why, limit).await;
    assert_eq!(stopped.iter().map(|(_, became)| *became).collect::<Vec<_>>(), [Stopped::Cancelled]);
    assert_eq!(waiting.await.unwrap().unwrap_err().code, FROZEN);
    assert_eq!(world.settled().await, 100, "what was held is back");
    frozen.lift(target, 1);
    drop(held);
    world.call("books", json!({})).await.unwrap();
    assert_eq!(world.count().await, 0, "nothing of it was recorded");
}
