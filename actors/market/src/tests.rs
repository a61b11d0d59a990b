//! From registration to the first call, on a whole system.

use std::sync::Arc;

use billing::wallet::{
    Account, Grant, HoldDrawn, Kind, Posting, Reason, Wallet, WalletEvent, wallet_address,
};
use control::app::Status;
use extensions::{Apps, Call, CallAnswer, Extensions, Request, Settings};
use identity::claim::{Claim, ClaimKey};
use identity::tenant::{OWNER_ROLE, Tenant};
use persistence::{EngineKind, Journal, MasterKey, Options};
use serde_json::{Value, json};
use supervision::system::{System, SystemOptions};
use supervision::transplant::Retold;
use supervision::{Class, Event as _, IdempotencyKey, Origin, Refusal, RowDraft};
use types::{
    Amount, AppId, Caller, CallerKind, GrantId, HoldId, JsonBytes, Page, Scopes, TenantId, UserId,
};

use crate::bookkeeper::Bookkeeper;
use crate::developer_app::DeveloperApp;
use crate::earnings::{CURSOR_FAMILY, Earnings};
use crate::policy::MarketSettings;
use crate::service::{AppCreate, AppUpdate, DeveloperRegister, Market, Principal};

struct World {
    system: Arc<System>,
    market: Arc<Market>,
    extensions: Arc<Extensions>,
}

fn world() -> World {
    let master = MasterKey::from_bytes([7; 32]);
    let options = Options { engine: EngineKind::Memory, ..Options::new("") };
    let journal = Journal::open(options, &master).unwrap();
    let builder = System::builder(SystemOptions::new(journal)).kind::<Claim>();
    let builder = builder.port(Arc::new(ClaimKey::of(&master).unwrap()));
    let builder = builder.kind::<Tenant>();
    let builder = extensions::register(control::register(billing::register(builder)));
    let system = crate::register(builder).start();
    let apps = Apps::new();
    // Three apps are enough to see that there are no more.
    let settings = MarketSettings { explorer_apps_max: 3, ..MarketSettings::default() };
    let market = Market::with(apps.clone(), settings, None);
    let developer_app = DeveloperApp::new(apps.clone());
    let extensions = Extensions::new(Settings::default(), apps, vec![developer_app]);
    World { system, market, extensions }
}

fn principal(user: u128) -> Principal {
    let origin = Origin { caller: "user/test".into(), request: 1.into(), cause: None };
    Principal { user: UserId(user), tenant: TenantId(user), origin }
}

fn app(id: &str) -> AppCreate {
    let request = json!({"app_id": id, "display_name": "Shelf",
        "git_url": format!("https://example.test/{id}"), "pricing_model": "per_action",
        "pricing_config": {"default": 1, "functions": {"add_book": 2}}});
    serde_json::from_value(request).unwrap()
}

fn shelf(version: &str) -> Value {
    let put = json!({"kind": "declarative", "steps": [{"id": "put", "op": "store.create",
        "args": {"kind": "book", "data": {"title": "{{args.title}}"}}}]});
    let all = json!({"kind": "declarative", "steps": [{"id": "all", "op": "store.list",
        "args": {"kind": "book"}}]});
    json!({"ir_version": "1.0", "app": {"id": "shelf", "version": version, "title": "Shelf",
        "functions": [
            {"name": "add_book", "action_type": "write", "description": "Adds a book",
                "params_schema": {"title": {"type": "string"}}, "impl": put},
            {"name": "books", "action_type": "read", "params_schema": {}, "impl": all}]}})
}

impl World {
    async fn register(&self, user: u128, nickname: &str) -> Result<Value, Refusal> {
        let (name, owner_role) = ("Own".to_owned(), OWNER_ROLE.to_owned());
        let (id, owner) = (TenantId(user), UserId(user));
        let create = identity::tenant::Create { id, name, owner, owner_role, direct: true };
        let (tenants, origin) = (self.system.directory::<Tenant>(), principal(user).origin);
        tenants.ask(&Tenant::address(id), create, origin).await?;
        let (tier, nickname) = ("explorer".to_owned(), nickname.to_owned());
        let request = DeveloperRegister { tier, nickname };
        self.market.register_developer(&self.system, &principal(user), request, None).await
    }

    async fn create(&self, user: u128, id: &str) -> Result<Value, Refusal> {
        self.market.create_app(&self.system, &principal(user), app(id), None).await
    }

    async fn call(&self, user: u128, app: &str, function: &str, params: Value) -> CallAnswer {
        let Principal { user, tenant, origin } = principal(user);
        let caller = Caller {
            kind: CallerKind::User,
            user: Some(user),
            scopes: Scopes::all(),
            ..Caller::system(tenant)
        };
        let app = app.to_owned();
        let request = Request { caller, tenant, user: Some(user), app, idempotency: None, origin };
        let call = Call { function: function.to_owned(), params };
        self.extensions.call(&self.system, request, call).await.unwrap()
    }

    async fn deploy(&self, user: u128, app_id: &str, ir: Value) -> CallAnswer {
        let params = json!({"app_id": app_id, "ir_dict": ir});
        self.call(user, "developer", "deploy_ir", params).await
    }

    async fn fill(&self, tenant: TenantId) {
        let (id, amount) = (GrantId(1), Amount::new(100).unwrap());
        let grant = Grant::new(id, tenant, amount, Kind::Paid, Reason::Topup);
        let wallets = self.system.directory::<Wallet>();
        wallets.ask(&wallet_address(tenant), grant, principal(1).origin).await.unwrap();
    }
}

/// Registration, and what is refused of it.
async fn users_become_developers(world: &World) {
    let nobody = world.market.list_apps(&world.system, &principal(1)).await.unwrap_err();
    assert_eq!((nobody.class, nobody.code.as_str()), (Class::Forbidden, "not_a_developer"));
    assert_eq!(world.create(1, "shelf").await.unwrap_err().code, "not_a_developer");
    let profile = world.register(1, "ada").await.unwrap();
    assert_eq!((&profile["nickname"], &profile["tier"]), (&json!("ada"), &json!("explorer")));
    for (user, nickname, words) in [
        (1, "ada2", "already registered"),
        (2, "ada", "taken"),
        (2, "admin", "reserved"),
        (2, "A", "invalid nickname"),
        (2, "-ab", "invalid nickname"),
    ] {
        let refused = world.register(user, nickname).await.unwrap_err();
        assert_eq!(refused.class, Class::BadRequest);
        assert!(refused.message.contains(words), "{refused}");
    }
    world.register(2, "bob").await.unwrap();
    let profile = world.market.profile(&world.system, &principal(2)).await.unwrap();
    assert_eq!((profile.nickname.as_deref(), profile.apps_count), (Some("bob"), 0));
}

/// Apps, and what is refused of them.
async fn developers_create_apps(world: &World) {
    let missing = world.market.get_app(&world.system, &principal(1), "shelf").await;
    assert_eq!(missing.unwrap_err().class, Class::NotFound);
    let key = || IdempotencyKey::new(1, "user/test", "create_app", "k1", b"body");
    let create = || async {
        let (system, one) = (&world.system, principal(1));
        world.market.create_app(system, &one, app("shelf"), Some(&key())).await
    };
    let created = create().await.unwrap();
    assert_eq!(created, create().await.unwrap());
    let expected = [
        "app_id",
        "developer_id",
        "display_name",
        "description",
        "category",
        "icon",
        "git_url",
        "status",
        "reject_reason",
        "pricing_model",
        "pricing_config",
        "revenue_split_dev",
        "created_at",
        "updated_at",
    ];
    assert!(created.as_object().unwrap().keys().eq(expected), "{created}");
    assert_eq!((&created["status"], &created["revenue_split_dev"]), (&json!("draft"), &json!(70)));
    for user in [1, 2] {
        let taken = world.create(user, "shelf").await.unwrap_err();
        assert!(taken.class == Class::Conflict && taken.message.contains("already in use"));
    }
    assert_eq!(world.create(2, "developer").await.unwrap_err().class, Class::Conflict);
    let wrong = AppCreate { pricing_config: Some(JsonBytes::from(json!([1]))), ..app("wrong") };
    let wrong = world.market.create_app(&world.system, &principal(1), wrong, None).await;
    assert_eq!(wrong.unwrap_err().class, Class::Invalid);
    world.create(1, "shelf-2").await.unwrap();
    world.create(1, "shelf-3").await.unwrap();
    assert_eq!(world.create(1, "shelf-4").await.unwrap_err().code, "app_limit");
    let apps = world.market.list_apps(&world.system, &principal(1)).await.unwrap();
    let ids: Vec<_> = apps.iter().map(|app| app.app_id.as_str()).collect();
    assert_eq!(ids, ["shelf", "shelf-2", "shelf-3"]);
    let foreign = world.market.get_app(&world.system, &principal(2), "shelf").await;
    assert_eq!(foreign.unwrap_err().class, Class::NotFound);
}

/// Versions: checked, deployed, tried, called.
async fn versions_are_deployed_and_called(world: &World) {
    for (user, app_id, ir, begins) in [
        (1, "not an id", json!({}), "Invalid app_id"),
        (1, "no-such", json!({}), "App \"no-such\" was not found"),
        (2, "shelf", shelf("1.0.0"), "App \"shelf\" was not found"),
        (1, "shelf", json!({"app": 1}), "Invalid IR: "),
        (1, "shelf-2", shelf("1.0.0"), "Invalid IR: app.id: must be \"shelf-2\""),
    ] {
        let error = world.deploy(user, app_id, ir).await.error.unwrap();
        assert!(error.starts_with(begins), "{error}");
    }
    let deployed = world.deploy(1, "shelf", shelf("1.0.0")).await;
    let expected = json!({"app_id": "shelf", "commit": "1.0.0", "status": "deployed",
        "validation": "ok", "tools_synced": true, "panels_synced": false, "icon_synced": false,
        "manifest_synced": true, "migrations_applied": null});
    assert_eq!(deployed.data, expected);
    assert_eq!(deployed.ui, json!({"refresh_panels": ["sidebar", "dashboard"]}));
    assert!(world.deploy(1, "shelf", shelf("1.0.0")).await.is_success());
    let mut changed = shelf("1.0.0");
    changed["app"]["title"] = json!("Another");
    let refused = world.deploy(1, "shelf", changed).await;
    assert_eq!(refused.error_code.as_deref(), Some("version_exists"));
    let detail = world.market.get_app(&world.system, &principal(1), "shelf").await.unwrap();
    let detail = serde_json::to_value(detail).unwrap();
    assert_eq!(detail["status"], "pending_review");
    let tool = json!({"name": "add_book", "action_type": "write", "description": "Adds a book"});
    assert_eq!(detail["tools_json"][0], tool);
    world.fill(TenantId(1)).await;
    assert!(world.call(1, "shelf", "add_book", json!({"title": "Emma"})).await.is_success());
    // The next version runs from its answer on.
    let mut next = shelf("1.1.0");
    next["app"]["functions"][1]["name"] = json!("list_books");
    assert!(world.deploy(1, "shelf", next).await.is_success());
    let listed = world.call(1, "shelf", "list_books", json!({})).await;
    assert_eq!(listed.data["count"], 1);
    let deploys = world.market.deploys(&world.system, &principal(1), "shelf").await.unwrap();
    let versions: Vec<_> = deploys.iter().map(|deploy| deploy.commit_sha.as_str()).collect();
    assert_eq!(versions, ["1.1.0", "1.0.0"]);
}

/// A try-out leaves nothing behind, and a function that fails is told, not refused.
async fn functions_are_tried(world: &World) {
    let smoke = |ir: Value, function: &'static str, args: Value| {
        let params = json!({"ir_dict": ir, "function": function, "args": args});
        world.call(2, "developer", "smoke_ir", params)
    };
    let tried = smoke(shelf("1.0.0"), "add_book", json!({"title": "Emma"})).await;
    assert_eq!((&tried.data["ok"], &tried.data["result"]["id"]), (&json!(true), &json!("doc_1")));
    let failed = smoke(shelf("1.0.0"), "no_such", json!({})).await;
    assert!(failed.is_success() && failed.data["ok"] == false, "{failed:?}");
    let invalid = smoke(json!({}), "add_book", json!({})).await;
    assert!(invalid.error.unwrap().starts_with("Invalid IR: "));
    let unknown = world.call(2, "developer", "no_such", json!({})).await;
    assert_eq!(unknown.error_code.as_deref(), Some("function_not_found"));
}

/// Prices and states, and the review between them.
async fn apps_are_reviewed(world: &World) {
    let (system, one) = (&world.system, principal(1));
    let priced = AppUpdate { pricing_model: Some("free".to_owned()), ..AppUpdate::default() };
    let locked = world.market.update_app(system, &one, "shelf", priced.clone(), None).await;
    assert_eq!(locked.unwrap_err().code, "pricing_locked");
    let submitted = world.market.submit_app(system, &one, "shelf-2").await.unwrap();
    assert_eq!(submitted.status, "failed");
    let id = AppId::new("shelf").unwrap();
    let set = |status| world.market.set_status(system, &id, status, None, &one.origin);
    assert_eq!(set(Status::Active).await.unwrap().status, "active");
    set(Status::Suspended).await.unwrap();
    let updated = world.market.update_app(system, &one, "shelf", priced, None).await.unwrap();
    assert_eq!(updated["pricing_model"], "free");
    let greedy = AppUpdate { revenue_split_dev: Some(90), ..AppUpdate::default() };
    let greedy = world.market.update_app(system, &one, "shelf", greedy, None).await;
    assert_eq!(greedy.unwrap_err().class, Class::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_becomes_a_developer_and_deploys_an_app_that_is_called() {
    let world = world();
    users_become_developers(&world).await;
    developers_create_apps(&world).await;
    versions_are_deployed_and_called(&world).await;
    functions_are_tried(&world).await;
    apps_are_reviewed(&world).await;
    world.system.stop().await;
}

/// What a developer has earned, in credits.
async fn earned(world: &World, user: u128) -> i64 {
    let address = Earnings::address(UserId(user), TenantId(user));
    let accounts = world.system.directory::<Earnings>();
    let balances = accounts.look(&address, principal(user).origin, Earnings::balances).await;
    balances.unwrap().earned
}

impl World {
    /// Calls a function that costs 2 credits, and waits until it is paid for.
    async fn buy(&self, user: u128) {
        self.fill(TenantId(user)).await;
        assert!(self.call(user, "shelf", "add_book", json!({"title": "Emma"})).await.is_success());
        let (wallets, at) = (self.system.directory::<Wallet>(), wallet_address(TenantId(user)));
        let page = Page { limit: 1, offset: 0 };
        let open = async || {
            let look = move |wallet: &Wallet| wallet.holds(page).len();
            wallets.look(&at, principal(user).origin, look).await.unwrap()
        };
        while open().await > 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn keep(&self, books: &Arc<Bookkeeper>) {
        while books.run(&self.system).await {}
        self.system.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_settled_here_is_credited_once() {
    let world = world();
    let books = Bookkeeper::new();
    books.attach(world.system.journal());
    world.register(1, "ada").await.unwrap();
    world.create(1, "shelf").await.unwrap();
    assert!(world.deploy(1, "shelf", shelf("1.0.0")).await.is_success());
    let (id, origin) = (AppId::new("shelf").unwrap(), principal(1).origin);
    let active = world.market.set_status(&world.system, &id, Status::Active, None, &origin);
    active.await.unwrap();
    world.buy(2).await;
    world.keep(&books).await;
    // 70 % of 2 credits, rounded down.
    assert_eq!(earned(&world, 1).await, 1);

    // Who has forgotten how far the books have come begins anew, and credits nothing twice.
    let forget = |shard: u8| RowDraft { family: CURSOR_FAMILY, key: vec![shard], value: None };
    let rows: Vec<_> = (0..=u8::MAX).map(forget).collect();
    world.system.note_rows(Earnings::cursors().place(), &rows);
    world.system.settle().await;
    let again = Bookkeeper::new();
    world.keep(&again).await;
    assert_eq!(earned(&world, 1).await, 1);

    // A sandbox earns nobody anything.
    world.system.set_own_time(types::home_of(TenantId(3)), 0);
    world.buy(3).await;
    // What was settled before its tenant came here was earned elsewhere.
    world.fill(TenantId(4)).await;
    let postings = vec![Posting { account: Account::Payable(id), amount: 50 }];
    let drawn = HoldDrawn { hold: HoldId(1), draws: Vec::new(), ended: true, postings };
    let event = WalletEvent::HoldDrawn(drawn);
    let retold = Retold {
        seq: 2,
        caller: "user/elsewhere".into(),
        request: 1.into(),
        command: "settle".into(),
        event: event.name().into(),
        event_version: event.version(),
        payload: event.encode().unwrap(),
        time_ms: 1,
    };
    let place = wallet_address(TenantId(4)).place().clone();
    world.system.retell(&place, retold, Box::new(|_| {})).unwrap();
    world.system.settle().await;
    world.keep(&books).await;
    assert_eq!(earned(&world, 1).await, 1);
    world.buy(5).await;
    world.keep(&books).await;
    assert_eq!(earned(&world, 1).await, 2, "and the books go on");
    world.system.stop().await;
}
