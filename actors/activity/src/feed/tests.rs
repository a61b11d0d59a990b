//! The feed over a whole system: what is recorded is told once, in order, to whom it concerns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use persistence::{EngineKind, Journal, MasterKey, Options};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::{
    Address, Command, Entity, Event as _, Handle, NoEffect, Refusal, SimulatedClock, System,
    SystemOptions, Timestamp, Turn,
};
use types::{Caller, CallerKind, TenantId, UserId, home_of, owner_of_tenant};

use super::*;

const TENANT: TenantId = TenantId(1);
const ADA: UserId = UserId(2);
const BOB: UserId = UserId(3);

#[derive(Clone, Default, Serialize, Deserialize)]
struct Till {
    sales: u64,
}

/// To whom, how often, and with how much data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sold {
    user: Option<u128>,
    times: u32,
    bytes: u32,
}

supervision::events! {
    /// What happens to a till.
    enum TillEvent {
        /// Something was sold.
        Sold(Sold) = "sold", 1;
    }
}

impl Entity for Till {
    const KIND: &'static str = "till";
    type Event = TillEvent;
    type Effect = NoEffect;

    fn apply(&mut self, _: &TillEvent, _: Timestamp) {
        self.sales += 1;
    }

    fn observe(&self) -> Value {
        json!({"sales": self.sales})
    }
}

#[derive(Clone)]
struct Sell(Sold);

impl Command for Sell {
    const NAME: &'static str = "sell";
}

impl Handle<Sell> for Till {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Sell(sold): Sell) -> Result<(), Refusal> {
        turn.record(TillEvent::Sold(sold));
        Ok(())
    }
}

fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let seq = source.header.seq;
    *source.kept::<u64>().entry("till".to_owned()).or_default() += 1;
    let event = TillEvent::decode("sold", 1, source.payload);
    let Ok(TillEvent::Sold(sold)) = event else { return Vec::new() };
    let audience = sold.user.map_or(Audience::Tenant, |user| Audience::User(UserId(user)));
    let text = "x".repeat(sold.bytes as usize);
    let telling = |index| {
        let data = json!({"seq": seq, "index": index, "text": text});
        Telling::new("till.sold", audience.clone(), data)
    };
    let mut tellings: Vec<_> = (0..sold.times).map(telling).collect();
    let last = Telling::new("till.sales", Audience::Tenant, json!({"sales": seq}));
    tellings.extend((sold.times == 0).then(|| last.latest_only()));
    tellings
}

/// A credential that a test ends.
#[derive(Clone, Default)]
struct Pass(Arc<AtomicBool>);

impl Standing for Pass {
    fn ended(&self, _: Timestamp) -> Option<&'static str> {
        self.0.load(Ordering::SeqCst).then_some("token_revoked")
    }

    fn until(&self) -> Option<Timestamp> {
        None
    }
}

/// A credential that ends by itself.
struct Lasting(Timestamp);

impl Standing for Lasting {
    fn ended(&self, now: Timestamp) -> Option<&'static str> {
        (self.0 <= now).then_some("token_expired")
    }

    fn until(&self) -> Option<Timestamp> {
        Some(self.0)
    }
}

struct World {
    system: Arc<System>,
    feed: Arc<Feed>,
    pulse: Arc<AtomicU64>,
}

impl World {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut SystemOptions)) -> Self {
        let options = Options { engine: EngineKind::Memory, ..Options::new("") };
        let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
        let feed = Feed::new(Tellers::default().with("till", tell));
        let pulse = Arc::new(AtomicU64::new(0));
        let beat = pulse.clone();
        feed.attach(&journal, move || beat.load(Ordering::SeqCst));
        let mut options = SystemOptions::new(journal);
        change(&mut options);
        let builder = System::builder(options).kind::<Till>();
        Self { system: builder.start(), feed, pulse }
    }

    fn channel(&self) -> Arc<Channel> {
        self.feed.channels.read().get(&TENANT).unwrap().clone()
    }

    async fn sell(&self, tenant: TenantId, user: Option<UserId>, times: u32, bytes: u32) {
        let id = format!("of-{tenant}");
        let address = Address::new(&id, owner_of_tenant(tenant), home_of(tenant)).unwrap();
        let sell = Sell(Sold { user: user.map(|user| user.0), times, bytes });
        let origin = self.system.system_origin();
        self.system.directory::<Till>().ask(&address, sell, origin).await.unwrap();
    }

    fn read(&self, user: UserId, last_id: Option<&str>) -> Reader {
        self.read_with(user, last_id, Pass::default())
    }

    fn read_with(&self, user: UserId, last_id: Option<&str>, pass: Pass) -> Reader {
        self.try_read(user, last_id, pass).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    fn try_read(
        &self,
        user: UserId,
        last_id: Option<&str>,
        standing: impl Standing + 'static,
    ) -> Result<Reader, Refusal> {
        let caller = Caller {
            kind: CallerKind::User,
            user: Some(user),
            role: "user".to_owned(),
            ..Caller::system(TENANT)
        };
        let (view, last_id) = (View::of(&caller), last_id.map(str::to_owned));
        let opening = Opening { view, last_id, standing: Box::new(standing) };
        self.feed.subscribe(&self.system, TENANT, opening)
    }
}

/// One event as a client reads it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    id: Option<String>,
    name: String,
    data: Value,
}

async fn text(reader: &mut Reader) -> String {
    let bytes = tokio::time::timeout(Duration::from_secs(60), reader.next()).await;
    String::from_utf8(bytes.unwrap().unwrap().to_vec()).unwrap()
}

/// The next events; comments and bare ids are none.
async fn events(reader: &mut Reader) -> Vec<Seen> {
    loop {
        let text = text(reader).await;
        let blocks = text.split_terminator("\n\n").filter(|block| block.contains("data:"));
        let seen: Vec<_> = blocks.map(one).collect();
        if !seen.is_empty() {
            return seen;
        }
    }
}

fn one(block: &str) -> Seen {
    let field = |name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
    };
    let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
    Seen { id: field("id: "), name: field("event: ").unwrap(), data }
}

async fn ids(reader: &mut Reader, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.extend(events(reader).await.into_iter().map(|seen| seen.id.unwrap()));
    }
    ids
}

#[tokio::test]
async fn readers_are_told_in_order_what_concerns_them_and_nothing_of_others() {
    let world = World::start();
    world.sell(TENANT, None, 1, 0).await;
    let (mut ada, mut bob) = (world.read(ADA, None), world.read(BOB, None));
    assert_eq!(text(&mut ada).await, "retry: 3000\nid: 1\n\n");
    world.sell(TENANT, Some(ADA), 2, 0).await;
    world.sell(TenantId(9), None, 1, 0).await;
    world.sell(TENANT, Some(BOB), 1, 0).await;
    world.sell(TENANT, None, 1, 0).await;
    assert_eq!(ids(&mut ada, 3).await, ["2.0", "2", "4"]);
    assert_eq!(ids(&mut bob, 2).await, ["3", "4"]);
    let telling = Telling::new("panel_refresh", Audience::User(BOB), json!({"panels": ["a"]}));
    assert_eq!(world.feed.publish(TENANT, telling.clone(), Timestamp(5)), 2);
    let seen = events(&mut bob).await;
    assert_eq!((seen[0].id.clone(), seen[0].name.as_str()), (None, "panel_refresh"));
    assert_eq!(seen[0].data["panels"], json!(["a"]));
    world.sell(TENANT, Some(ADA), 1, 0).await;
    assert_eq!(ids(&mut ada, 1).await, ["5"]);
    drop((ada, bob));
    assert_eq!(world.feed.figures().channels, 0);
    assert_eq!(world.feed.publish(TENANT, telling, Timestamp(5)), 0);
}

#[tokio::test]
async fn who_comes_back_misses_nothing_and_is_told_nothing_twice() {
    let world = World::start();
    for times in 1..=3 {
        world.sell(TENANT, None, times, 0).await;
    }
    // From within a record, while nobody read, out of the journal.
    let mut reader = world.read(ADA, Some("2.0"));
    assert_eq!(ids(&mut reader, 4).await, ["2", "3.0", "3.1", "3"]);
    for _ in 0..200 {
        world.sell(TENANT, None, 1, 0).await;
    }
    assert_eq!(ids(&mut reader, 200).await.last().unwrap(), "203");
    // Over the border between journal and ring, and within the ring.
    for (from, expected) in [("1", 205), ("100", 104), ("203", 2)] {
        let mut again = world.read(ADA, Some(from));
        let seen = ids(&mut again, expected).await;
        let parsed: Vec<EntryId> = seen.iter().map(|id| id.parse().unwrap()).collect();
        assert!(parsed.is_sorted_by(|a, b| a < b), "{seen:?}");
        assert_eq!(seen.len(), expected);
        world.sell(TENANT, None, 0, 0).await;
        let next = events(&mut again).await;
        assert_eq!(next[0].name, "till.sales", "{next:?}");
    }
}

#[tokio::test]
async fn a_gap_is_told_with_its_reason() {
    let world = World::start();
    world.sell(TENANT, None, 1, 0).await;
    for unknown in ["nonsense", "77", "1.x"] {
        let mut reader = world.read(ADA, Some(unknown));
        let seen = events(&mut reader).await;
        assert_eq!((seen[0].name.as_str(), seen[0].id.as_deref()), ("resync", Some("1")));
        assert_eq!(seen[0].data, json!({"reason": "unknown_id"}));
        let telling = Telling::new("x.y", Audience::Tenant, json!({}));
        world.feed.publish(TENANT, telling, Timestamp(0));
        assert_eq!(events(&mut reader).await[0].name, "x.y");
    }
    let mut far = world.read(ADA, Some("0"));
    let many = REPLAY_RECORDS_MAX + 1;
    world.channel().ring.write().take(Vec::new(), many, Timestamp(0));
    assert_eq!(events(&mut far).await[0].data, json!({"reason": "too_many"}));
}

#[tokio::test]
async fn what_is_older_than_the_limit_is_not_told_again() {
    let options = Options { engine: EngineKind::Memory, ..Options::new("") };
    let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
    let feed = Feed::new(Tellers::default().with("till", tell));
    feed.attach(&journal, || 0);
    let clock = supervision::SimulatedClock::at(Timestamp(1_000_000));
    let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
    let system = System::builder(options).kind::<Till>().start();
    let world = World { system, feed, pulse: Arc::default() };
    world.sell(TENANT, None, 1, 0).await;
    clock.advance_ms(REPLAY_MS_MAX);
    world.sell(TENANT, None, 1, 0).await;
    let mut reader = world.read(ADA, Some("0"));
    assert_eq!(events(&mut reader).await[0].data, json!({"reason": "too_old"}));
    let mut reader = world.read(ADA, Some("1"));
    assert_eq!(ids(&mut reader, 1).await, ["2"]);
}

#[tokio::test]
async fn who_takes_nothing_is_dropped_with_a_reason_while_others_go_on() {
    let world = World::start();
    let (mut stalled, mut lively) = (world.read(ADA, None), world.read(BOB, None));
    text(&mut stalled).await;
    let large = (UNSENT_BYTES_MAX / 3) as u32;
    for _ in 0..4 {
        world.sell(TENANT, None, 1, large).await;
    }
    assert_eq!(ids(&mut lively, 4).await.len(), 4);
    let channel = world.channel();
    assert_eq!(channel.drop_stalled(), 0, "it has had no time yet");
    for reader in channel.readers.lock().values() {
        reader.moved_ms.fetch_sub(STALL_MS_MAX, Ordering::SeqCst);
    }
    assert_eq!(channel.drop_stalled(), 1);
    assert_eq!(world.feed.figures().readers, 1);
    let last = events(&mut stalled).await;
    assert_eq!((last[0].name.as_str(), &last[0].data["reason"]), ("closed", &json!("lagging")));
    assert!(stalled.next().await.is_none());
    world.sell(TENANT, None, 1, 0).await;
    assert_eq!(ids(&mut lively, 1).await, ["5"]);
    assert_eq!(world.feed.figures().tenants[0].dropped, 1);
}

#[tokio::test]
async fn who_lags_gets_the_last_of_what_says_all_and_everything_else() {
    let world = World::start();
    let (mut slow, mut quick) = (world.read(ADA, None), world.read(BOB, None));
    text(&mut slow).await;
    text(&mut quick).await;
    for _ in 0..60 {
        world.sell(TENANT, None, 0, 0).await;
        assert_eq!(events(&mut quick).await.len(), 1, "who keeps up gets each");
    }
    world.sell(TENANT, None, 1, 0).await;
    assert_eq!(events(&mut quick).await.len(), 1);
    let seen = events(&mut slow).await;
    let names: Vec<_> = seen.iter().map(|it| (it.name.as_str(), it.id.as_deref())).collect();
    assert_eq!(names, [("till.sales", Some("60")), ("till.sold", Some("61"))]);
}

#[tokio::test]
async fn a_frame_is_bounded_whatever_waits() {
    let world = World::start();
    let mut reader = world.read(ADA, None);
    let mut quick = world.read(BOB, None);
    text(&mut reader).await;
    for _ in 0..20 {
        world.sell(TENANT, None, 1, 5_000).await;
    }
    ids(&mut quick, 20).await;
    let mut seen = 0;
    while seen < 20 {
        let frame = text(&mut reader).await;
        assert!(frame.len() <= FRAME_BYTES_MAX, "{}", frame.len());
        seen += frame.matches("event: till.sold").count();
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_has_a_heart_that_says_how_far_it_is() {
    let world = World::start();
    let mut reader = world.read(ADA, None);
    assert_eq!(text(&mut reader).await, "retry: 3000\nid: 0\n\n");
    assert_eq!(text(&mut reader).await, ":\n\n");
    world.sell(TENANT, Some(BOB), 1, 0).await;
    let begun = tokio::time::Instant::now();
    while text(&mut reader).await != ":\nid: 1\n\n" {
        assert!(begun.elapsed() < 4 * HEARTBEAT_PERIOD);
    }
}

#[tokio::test]
async fn a_credential_that_ends_ends_the_stream_before_anything_else_is_told() {
    let world = World::start();
    let pass = Pass::default();
    let mut reader = world.read_with(ADA, None, pass.clone());
    text(&mut reader).await;
    world.sell(TENANT, None, 1, 0).await;
    pass.0.store(true, Ordering::SeqCst);
    let last = events(&mut reader).await;
    assert_eq!((last.len(), last[0].name.as_str()), (1, "closed"));
    assert_eq!(last[0].data["reason"], "token_revoked");
    assert!(reader.next().await.is_none());
    // A quiet one is woken by the pulse.
    let pass = Pass::default();
    let mut quiet = world.read_with(ADA, None, pass.clone());
    text(&mut quiet).await;
    pass.0.store(true, Ordering::SeqCst);
    world.pulse.fetch_add(1, Ordering::SeqCst);
    assert_eq!(events(&mut quiet).await[0].data["reason"], "token_revoked");
    let dropped = world.feed.figures().dropped;
    assert_eq!(dropped.get("token_revoked"), Some(&2), "{dropped:?}");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does_and_tells_nothing_after() {
    let clock = SimulatedClock::at(Timestamp(1_000));
    let world = World::start_with(|options| options.clock = clock.clone());
    let until = Timestamp(61_000);
    let mut quiet = world.try_read(ADA, None, Lasting(until)).unwrap();
    let mut busy = world.try_read(BOB, None, Lasting(until)).unwrap();
    let mut longer = world.try_read(BOB, None, Lasting(until.plus_ms(1))).unwrap();
    for reader in [&mut quiet, &mut busy, &mut longer] {
        text(reader).await;
    }
    clock.advance_ms(59_999);
    world.sell(TENANT, Some(BOB), 1, 0).await;
    assert_eq!(events(&mut busy).await[0].name, "till.sold", "a moment is left");
    // One waits for news while its time ends; of the other there is news at that time.
    let ending = tokio::spawn(async move { (events(&mut quiet).await, quiet.next().await) });
    tokio::task::yield_now().await;
    world.sell(TENANT, Some(BOB), 1, 0).await;
    clock.advance_ms(1);
    let (last, after) = ending.await.unwrap();
    assert_eq!(
        (last[0].name.as_str(), &last[0].data["reason"]),
        ("closed", &json!("token_expired"))
    );
    assert!(last.len() == 1 && after.is_none());
    let last = events(&mut busy).await;
    assert_eq!((last.len(), &last[0].data["reason"]), (1, &json!("token_expired")));
    assert_eq!(events(&mut longer).await[0].name, "till.sold", "its time is not over");
    let dropped = world.feed.figures().dropped;
    assert_eq!(dropped.get("token_expired"), Some(&2), "{dropped:?}");
}

#[tokio::test]
async fn readers_are_counted_and_a_server_that_stops_says_so() {
    let world = World::start();
    let mut readers: Vec<_> = (0..READERS_PER_USER_MAX).map(|_| world.read(ADA, None)).collect();
    let refused = world.try_read(ADA, None, Pass::default()).err().unwrap();
    assert_eq!((refused.code.as_str(), refused.class), ("too_many_readers", Class::TooMany));
    let other = world.read(BOB, None);
    readers.truncate(1);
    readers.push(world.read(ADA, None));
    assert_eq!(world.feed.figures().readers, 3);
    world.feed.close();
    for mut reader in readers.into_iter().chain([other]) {
        assert_eq!(events(&mut reader).await[0].data["reason"], "server_stopping");
    }
    assert_eq!(world.try_read(ADA, None, Pass::default()).err().unwrap().code, "busy");
}
