//! A till's chain, read as actions: the JSON shape, filters, pages, one request, and what a
//! changed byte does.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::sync::Arc;

use activity::{
    ActionItem, ActionPage, ActionStatus, ActionType, Activity, AuditFilter, AuditNote, Between,
    Describers, EXPORTS_MAX, Export, ExportFormat, Filter, LIST_RECORDS_MAX, PER_PAGE_MAX,
    PIECE_BYTES, Whose,
};
use persistence::engine::{Direction, Engine, MemoryEngine, WriteBatch};
use persistence::{Journal, KeyRing, MasterKey};
use serde::{Deserialize, Serialize};
use supervision::*;
use types::{TenantId, UserId, home_of, owner_of_tenant};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Till {
    sales: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sold {
    tools: Vec<String>,
    error: Option<String>,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Closed {}

supervision::events! {
    /// What happens to a till.
    enum TillEvent {
        /// Something was sold.
        Sold(Sold) = "sold", 1;
        /// It was closed.
        Closed(Closed) = "closed", 1;
    }
}

impl Entity for Till {
    const KIND: &'static str = "till";
    const MAILBOX_MAX: usize = 256;
    type Event = TillEvent;
    type Effect = NoEffect;

    fn apply(&mut self, _: &TillEvent, _: Timestamp) {
        self.sales += 1;
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({ "sales": self.sales })
    }
}

struct Sell(&'static [&'static str], Option<&'static str>);
impl Command for Sell {
    const NAME: &'static str = "sell";
}
impl Handle<Sell> for Till {
    type Reply = ();
    fn handle(turn: &mut Turn<'_, Self>, Sell(tools, error): Sell) -> Result<(), Refusal> {
        let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
        turn.record(TillEvent::Sold(Sold { tools, error: error.map(str::to_owned) }));
        Ok(())
    }
}

struct Close;
impl Command for Close {
    const NAME: &'static str = "close";
}
impl Handle<Close> for Till {
    type Reply = ();
    fn handle(turn: &mut Turn<'_, Self>, _: Close) -> Result<(), Refusal> {
        turn.record(TillEvent::Closed(Closed {}));
        Ok(())
    }
}

fn describe(event: &str, version: u16, payload: &[u8]) -> Vec<ActionItem> {
    let Ok(TillEvent::Sold(sold)) = TillEvent::decode(event, version, payload) else {
        return Vec::new();
    };
    let status = if sold.error.is_some() { ActionStatus::Error } else { ActionStatus::Success };
    let item = |(index, tool_name)| ActionItem {
        app_id: Some("notes".into()),
        tool_name,
        action_type: ActionType::Write,
        status,
        price: 3,
        error: sold.error.clone(),
        index,
        confirmation: None,
    };
    (0..).zip(sold.tools).map(item).collect()
}

const ANN: UserId = UserId(0xa11);
const BOB: UserId = UserId(0xb0b);
const SHOP: TenantId = TenantId(7);
const OTHER: TenantId = TenantId(8);
const START_MS: i64 = 1_767_225_600_000;

struct World {
    engine: Arc<MemoryEngine>,
    system: Arc<System>,
    activity: Activity,
    clock: Arc<SimulatedClock>,
}

impl World {
    fn new() -> Self {
        let engine = Arc::new(MemoryEngine::default());
        let keys = Arc::new(KeyRing::in_memory(&MasterKey::from_bytes([7; 32])).unwrap());
        let on_fatal = Box::new(|reason: &str| panic!("{reason}"));
        let journal = Journal::start(engine.clone(), keys, None, None, on_fatal).unwrap();
        let clock = SimulatedClock::at(Timestamp(START_MS));
        let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
        let system = System::builder(options).kind::<Till>().start();
        let activity = Activity::new(Describers::default().with("till", describe));
        Self { engine, system, activity, clock }
    }

    /// Asks the tenant's till, as a user, within a request that was made now.
    async fn ask<C: Command>(&self, tenant: TenantId, user: UserId, number: u128, command: C)
    where
        Till: Handle<C, Reply = ()>,
    {
        let till = Address::new(&tenant.to_string(), owner_of_tenant(tenant), home_of(tenant));
        let caller = format!("user/{user}").into();
        let origin = Origin { caller, request: self.request(number).into(), cause: None };
        self.system.directory::<Till>().ask(&till.unwrap(), command, origin).await.unwrap();
    }

    fn request(&self, number: u128) -> u128 {
        (self.system.clock().now().0 as u128) << 80 | number
    }

    fn list(&self, filter: Filter) -> ActionPage {
        self.activity.list(&self.system, SHOP, None, &filter).unwrap()
    }
}

fn tools(page: &ActionPage) -> Vec<&str> {
    page.items.iter().map(|action| &*action.tool_name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_has_exactly_these_keys() {
    let world = World::new();
    world.ask(SHOP, ANN, 1, Sell(&["tea", "cake"], Some("no cake"))).await;
    let page = world.list(Filter::default());
    let link = page.items[0].link.clone();
    assert_eq!(link.len(), 64);
    let text = serde_json::to_string_pretty(&page).unwrap().replace(&link, "LINK");
    assert_eq!(text, include_str!("../testdata/page.json").trim());

    let trace = &page.items[1].trace_id;
    let detail = world.activity.get(&world.system, SHOP, None, trace).unwrap();
    let detail = serde_json::to_value(&detail).unwrap();
    assert_eq!(detail["tool_name"], "cake");
    assert_eq!(detail["steps"].as_array().unwrap().len(), 2);
    assert_eq!(detail["truncated"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_found_with_all_its_steps_and_by_nobody_else() {
    let world = World::new();
    world.ask(SHOP, BOB, 1, Sell(&["tea"], None)).await;
    world.clock.advance_ms(60_000);
    world.ask(SHOP, ANN, 2, Sell(&["tea", "cake"], None)).await;
    world.ask(SHOP, ANN, 2, Close).await;
    let trace = types::RequestId(world.request(2)).to_string();
    let (activity, system) = (&world.activity, &world.system);
    let ann = format!("user/{ANN}");
    let detail = activity.get(system, SHOP, Some(&*ann), &trace).unwrap();
    let steps: Vec<_> = detail.steps.iter().map(|step| &*step.tool_name).collect();
    assert_eq!(steps, ["tea", "cake", "close"]);
    assert_eq!(detail.action, detail.steps[0]);
    let found = activity.get(system, SHOP, None, &format!("{trace}.1")).unwrap();
    assert_eq!(found.action.tool_name, "cake");

    let bob = format!("user/{BOB}");
    let part_of_ann = &ann[..ann.len() - 1];
    for (tenant, caller, trace) in [
        (OTHER, None, &*trace),
        (SHOP, Some(&*bob), &trace),
        (SHOP, Some(part_of_ann), &trace),
        (SHOP, None, "req_00000000000000000000000000"),
        (SHOP, None, "tea"),
    ] {
        let refusal = activity.get(system, tenant, caller, trace).unwrap_err();
        assert_eq!(refusal.class, Class::NotFound, "{tenant} {caller:?} {trace}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_take_what_they_name() {
    let world = World::new();
    world.ask(SHOP, ANN, 1, Sell(&["tea"], None)).await;
    world.ask(SHOP, BOB, 2, Sell(&["cake"], Some("Sold out"))).await;
    world.ask(SHOP, ANN, 3, Close).await;
    world.ask(OTHER, ANN, 4, Sell(&["wine"], None)).await;
    let all = Filter::default;
    assert_eq!(tools(&world.list(all())), ["close", "cake", "tea"]);
    let app_id = Some("notes".into());
    assert_eq!(tools(&world.list(Filter { app_id, ..all() })), ["cake", "tea"]);
    let action_type = Some(ActionType::System);
    assert_eq!(tools(&world.list(Filter { action_type, ..all() })), ["close"]);
    let status = Some(ActionStatus::Error);
    assert_eq!(tools(&world.list(Filter { status, ..all() })), ["cake"]);
    for (search, found) in [("sold OUT", vec!["cake"]), ("wine", vec![]), ("cLo", vec!["close"])] {
        let search = Some(search.to_owned());
        assert_eq!(tools(&world.list(Filter { search, ..all() })), found);
    }
    let bob = format!("user/{BOB}");
    for (caller, found) in [(&*bob, vec!["cake"]), ("user", vec!["close", "cake", "tea"])] {
        let page = world.activity.list(&world.system, SHOP, Some(caller), &all()).unwrap();
        assert_eq!((tools(&page), page.total), (found.clone(), Some(found.len() as u64)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_cursors_give_every_action_once() {
    let world = World::new();
    for number in 0..10 {
        world.ask(SHOP, ANN, number, Sell(&["a", "b", "c"], None)).await;
    }
    let everything = world.list(Filter { per_page: Some(PER_PAGE_MAX), ..Filter::default() });
    assert_eq!((everything.items.len(), everything.total), (30, Some(30)));
    assert_eq!(everything.next_cursor, None);
    let (mut by_page, mut by_cursor, mut cursor) = (Vec::new(), Vec::new(), None);
    for page in 1..=5 {
        let part = Filter { per_page: Some(7), page: Some(page), ..Filter::default() };
        let answer = world.list(part.clone());
        assert_eq!((answer.page, answer.total), (page, Some(30)));
        by_page.extend(answer.items);
        let answer = world.list(Filter { cursor, ..part });
        by_cursor.extend(answer.items);
        cursor = answer.next_cursor.map(|text| text.parse().unwrap());
    }
    assert_eq!(cursor, None);
    assert_eq!(by_page, everything.items);
    assert_eq!(by_cursor, everything.items);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_looks_at_so_many_records_and_says_where_to_go_on() {
    let world = World::new();
    world.ask(SHOP, BOB, 0, Sell(&["first"], None)).await;
    for number in 0..LIST_RECORDS_MAX as u128 {
        world.ask(SHOP, ANN, number, Close).await;
    }
    let search = || Some("first".to_owned());
    let page = world.list(Filter { search: search(), ..Filter::default() });
    assert_eq!((page.items.len(), page.total), (0, None));
    let cursor = page.next_cursor.map(|text| text.parse().unwrap());
    assert!(cursor.is_some());
    let page = world.list(Filter { search: search(), cursor, ..Filter::default() });
    assert_eq!((tools(&page), page.next_cursor.clone()), (vec!["first"], None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_is_noticed() {
    let world = World::new();
    for number in 0..5 {
        world.ask(SHOP, ANN, number, Sell(&["tea"], None)).await;
    }
    let verify = || world.activity.verify(&world.system, SHOP).unwrap();
    let whole = verify();
    assert_eq!((whole.verified, whole.records, whole.error), (true, 5, None));
    assert_eq!(whole.head, world.list(Filter::default()).items[0].link);
    assert_eq!((whole.head.len(), whole.root.len()), (64, 64));

    let (start, end) = (b"r".as_slice(), b"s".as_slice());
    let values = world.engine.scan(start, end, Direction::Forward, 10).unwrap();
    let (key, value) = &values[2];
    for at in [value.len() - 1, value.len() / 2, 8] {
        let mut changed = value.clone();
        changed[at] ^= 1;
        let mut batch = WriteBatch::default();
        batch.put(key.clone(), changed);
        world.engine.commit(batch).unwrap();
        let found = verify();
        assert!(!found.verified && found.error.is_some(), "byte {at}: {found:?}");
        assert_eq!((found.records, found.head), (5, whole.head.clone()));
    }
    let mut batch = WriteBatch::default();
    batch.put(key.clone(), value.clone());
    world.engine.commit(batch).unwrap();
    assert!(verify().verified);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_those_of_the_list() {
    let world = World::new();
    world.ask(SHOP, ANN, 1, Sell(&["tea", "cake"], None)).await;
    world.ask(SHOP, BOB, 2, Sell(&["tea"], Some("sold out"))).await;
    world.clock.advance_ms(24 * 60 * 60 * 1_000);
    let second_day = world.system.clock().now();
    world.ask(SHOP, ANN, 3, Close).await;
    let stats = |whose: Option<&str>, filter: Filter| {
        let counted = world.activity.stats(&world.system, SHOP, whose, &filter).unwrap();
        serde_json::to_value(counted).unwrap()
    };
    let all = stats(None, Filter::default());
    assert_eq!(
        (&all["actions"], &all["errors"], &all["credits"]),
        (&4.into(), &1.into(), &9.into())
    );
    assert_eq!(all["by_status"], serde_json::json!({"error": 1, "success": 3}));
    assert_eq!(all["by_action_type"]["write"], 3);
    assert_eq!(all["by_extension"][0]["name"], "notes");
    assert_eq!(all["by_function"][0]["name"], "notes.tea");
    assert_eq!(all["by_function"][0]["actions"], 2);
    assert_eq!(all["by_day"][0]["actions"], 1);
    assert_eq!((&all["complete"], &all["next_cursor"]), (&true.into(), &serde_json::Value::Null));
    let bob = format!("user/{BOB}");
    assert_eq!(stats(Some(&bob), Filter::default())["actions"], 1);
    let between = Between { from: Some(second_day), to: None };
    assert_eq!(stats(None, Filter { between, ..Filter::default() })["actions"], 1);
    let between = Between { from: None, to: Some(second_day) };
    let tool_name = Some("tea".to_owned());
    assert_eq!(stats(None, Filter { between, tool_name, ..Filter::default() })["actions"], 2);
    assert_eq!(stats(None, Filter { user: Some(BOB), ..Filter::default() })["actions"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_log_has_an_entry_a_record_and_its_filters_take_what_they_name() {
    let world = World::new();
    world.ask(SHOP, ANN, 1, Sell(&["tea", "cake"], Some("no cake"))).await;
    world.ask(SHOP, BOB, 2, Close).await;
    world.ask(OTHER, ANN, 3, Close).await;
    let seqs = |filter: AuditFilter| -> Vec<u64> {
        let page = world.activity.audit(&world.system, SHOP, &filter).unwrap();
        page.items.iter().map(|entry| entry.chain_seq).collect()
    };
    let all = AuditFilter::default;
    assert_eq!(seqs(all()), [2, 1]);
    let text = |text: &str| Some(text.to_owned());
    let ann = ANN.to_string();
    for (filter, found) in [
        (AuditFilter { actor: text(&ann), ..all() }, vec![1]),
        (AuditFilter { actor: text(&ANN.uuid()), ..all() }, vec![1]),
        (AuditFilter { actor: text("user"), ..all() }, vec![2, 1]),
        (AuditFilter { action: text("till.closed"), ..all() }, vec![2]),
        (AuditFilter { action: text("till.*"), ..all() }, vec![2, 1]),
        (AuditFilter { action: text("till*"), ..all() }, vec![]),
        (AuditFilter { action: text("close"), ..all() }, vec![2]),
        (AuditFilter { target_type: text("till"), ..all() }, vec![2, 1]),
        (AuditFilter { target_type: text("wallet"), ..all() }, vec![]),
        (AuditFilter { target_id: text(&SHOP.to_string()), ..all() }, vec![2, 1]),
        (AuditFilter { target_id: text(&OTHER.to_string()), ..all() }, vec![]),
        (AuditFilter { status: Some(ActionStatus::Error), ..all() }, vec![1]),
        (AuditFilter { source: text("system"), ..all() }, vec![]),
        (AuditFilter { offset: 1, ..all() }, vec![1]),
    ] {
        assert_eq!(seqs(filter.clone()), found, "{filter:?}");
    }
    let page = AuditFilter { per_page: Some(1), ..all() };
    let first = world.activity.audit(&world.system, SHOP, &page).unwrap();
    let entry = &first.items[0];
    assert_eq!((entry.leaf_index, entry.hash.len(), &*entry.action), (1, 64, "till.closed"));
    let cursor = first.next_cursor.map(|text| text.parse().unwrap());
    assert_eq!(seqs(AuditFilter { cursor, ..page }), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_of_a_service_is_shown_as_what_it_notes() {
    let world = World::new();
    world.ask(SHOP, ANN, 1, Close).await;
    let note = |_: &str, _: u16, _: &[u8]| {
        let text = |text: &str| text.to_owned();
        let (action, target_type) = (text("mail.sent"), text("mail"));
        Some(AuditNote { actor_id: BOB.to_string(), action, target_type, ..AuditNote::default() })
    };
    let activity = Activity::new(Describers::default().with_note("till", note));
    let filter = AuditFilter { action: Some("mail.sent".to_owned()), ..AuditFilter::default() };
    let page = activity.audit(&world.system, SHOP, &filter).unwrap();
    assert_eq!(
        (&*page.items[0].target_type, &page.items[0].user_id),
        ("mail", &Some(BOB.to_string()))
    );
}

/// The whole export, and its largest piece.
fn taken(mut export: Export) -> (String, usize) {
    let (mut whole, mut largest) = (Vec::new(), 0);
    while let Some(piece) = export.next_piece().unwrap() {
        largest = largest.max(piece.len());
        whole.extend(piece);
    }
    (String::from_utf8(whole).unwrap(), largest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_every_action_oldest_first_and_ends_with_the_head() {
    let world = World::new();
    for number in 0..300 {
        world.ask(SHOP, ANN, number, Sell(&["=1+1", "cake"], None)).await;
    }
    let export = |format| {
        let (system, filter) = (&world.system, Filter::default());
        world.activity.export_actions(system, SHOP, Whose::All, filter, format).unwrap()
    };
    let began = export(ExportFormat::Json);
    world.ask(SHOP, ANN, 999, Close).await;
    let head = world.activity.verify(&world.system, SHOP).unwrap();
    let (json, largest) = taken(began);
    assert!(largest < 2 * PIECE_BYTES && json.len() > 2 * PIECE_BYTES, "{largest}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let items = json["items"].as_array().unwrap();
    assert_eq!((items.len(), &json["head"]["records"]), (600, &300.into()), "what came later");
    assert_eq!((&items[0]["chain_seq"], &items[599]["leaf_index"]), (&1.into(), &299.into()));
    assert_eq!(items[599]["hash"], json["head"]["link"]);

    let (lines, _) = taken(export(ExportFormat::Ndjson));
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((lines.lines().count(), &last["head"]["root"]), (602, &head.root.into()));

    let (table, _) = taken(export(ExportFormat::Csv));
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let mut column = |name: &str| reader.headers().unwrap().iter().position(|it| it == name);
    let (tool, root) = (column("tool_name").unwrap(), column("root").unwrap());
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), &rows[0][tool], &rows[1][tool]), (602, "'=1+1", "cake"));
    assert_eq!((&rows[601][0], rows[601][root].len()), ("head", 64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_exports_are_under_way_at_once_and_their_places_come_back() {
    let world = World::new();
    let export = || {
        let filter = AuditFilter::default();
        world.activity.export_audit(&world.system, SHOP, filter, ExportFormat::Json)
    };
    let mut all: Vec<_> = (0..EXPORTS_MAX).map(|_| export().unwrap()).collect();
    assert_eq!(export().err().map(|refusal| refusal.class), Some(Class::Busy));
    drop(all.pop());
    let (empty, _) = taken(export().unwrap());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&empty).unwrap()["items"],
        serde_json::json!([])
    );
}
