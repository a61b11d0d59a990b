//! The bookkeeper: follows the journal and credits developers with what wallets have settled, and
//! their apps with how they were called. A port, which is asked twice a second.
//!
//! It reads each shard from where it has come, adds up what it finds by developer, app and day, and
//! tells each developer's account once, naming the positions. Then it notes how far it has come.
//!
//! Invariants
//! - Nothing is credited twice: an account refuses positions that it has had ([`crate::earnings`]),
//!   so what is noted here may be lost at any moment.
//! - Nothing is passed over: the place is moved on only after every account has answered.
//!
//! Deliberate limits
//! - What a sandbox settles is nobody's earning, and neither is what was settled elsewhere before
//!   its tenant came here: it is older than the first record of the tenant's chain.
//! - What a tenant's wallet settled before the tenant was erased, and was not read by then, cannot
//!   be read any more. What is earned for a developer who was erased stays with the platform.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use billing::wallet::{Account as WalletAccount, AppDraw, Wallet, WalletEvent};
use control::app::App;
use extensions::session::{ExtensionSession, RanItem, Scope, SessionEvent};
use parking_lot::Mutex;
use persistence::record::SHARDS;
use persistence::{Generations, Home, Journal, Record, RowRange, Shard, codec};
use supervision::{Address, Entity as _, Event as _, Refusal, RowDraft, System};
use types::{AppId, TenantId, UserId};

use crate::earnings::{
    CREDIT_LINES_MAX, CREDIT_USERS_MAX, CREDITED_PARTLY, CURSOR_FAMILY, Credit, CreditLine, DAY_MS,
    Earnings, Range,
};
use crate::listing::mark;
use crate::storefront::Storefront;

/// How often it looks for what was settled.
pub const PERIOD: Duration = Duration::from_millis(500);
/// How many records of a shard one look reads.
const RECORDS_STEP: usize = 1_024;
/// How far it may have come without noting it, in records.
const UNNOTED_MAX: u64 = 4_096;
/// How many homes it remembers the beginnings of.
const HOMES_KEPT: usize = 4_096;

/// A developer and their tenant.
type Developer = (UserId, TenantId);

/// What one record says of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sale {
    pos: u64,
    app: AppId,
    day: i32,
    calls: u64,
    errors: u64,
    charged: i64,
    earned: i64,
    user: Option<u64>,
}

/// What one look at a shard has found.
struct Looked {
    shard: u8,
    from: u64,
    upto: u64,
    sales: Vec<Sale>,
    is_more: bool,
}

/// See the module's head.
pub struct Bookkeeper {
    /// Which shards have grown.
    grown: Vec<AtomicBool>,
    /// How far each shard was read, and how far that is noted.
    cursors: Mutex<HashMap<u8, (u64, u64)>>,
    /// What each account has had.
    seen: Mutex<HashMap<Developer, BTreeMap<u8, u64>>>,
    /// When the chain of a home begins.
    begins: Mutex<Generations<Home, i64>>,
    /// Held by who is at it: one at a time.
    at_work: tokio::sync::Mutex<()>,
}

impl Bookkeeper {
    /// One that has read nothing yet.
    pub fn new() -> Arc<Self> {
        let grown = (0..SHARDS).map(|_| AtomicBool::new(true)).collect();
        let begins = Mutex::new(Generations::new(HOMES_KEPT));
        Arc::new(Self {
            grown,
            cursors: Mutex::default(),
            seen: Mutex::default(),
            begins,
            at_work: tokio::sync::Mutex::default(),
        })
    }

    /// Hears from now on which shards grow.
    pub fn attach(self: &Arc<Self>, journal: &Journal) {
        let me = Arc::downgrade(self);
        journal.on_commit(Box::new(move |positions| {
            let Some(me) = me.upgrade() else { return };
            for position in positions {
                if let Some(grown) = me.grown.get(usize::from(position.shard.0)) {
                    grown.store(true, Ordering::Release);
                }
            }
        }));
    }

    /// Credits what was settled since the last time. Says whether there is more.
    pub async fn run(self: &Arc<Self>, system: &Arc<System>) -> bool {
        let _at_work = self.at_work.lock().await;
        let (me, reading) = (Arc::clone(self), Arc::clone(system));
        let looked = tokio::task::spawn_blocking(move || me.look(&reading)).await;
        let Ok(looked) = looked else { return false };
        match self.credit(system, &looked).await {
            Ok(()) => {
                self.advance(system, &looked);
                looked.iter().any(|it| it.is_more)
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "earnings are credited later");
                self.seen.lock().clear();
                looked.iter().for_each(|it| self.mark(it.shard));
                false
            }
        }
    }

    fn mark(&self, shard: u8) {
        if let Some(grown) = self.grown.get(usize::from(shard)) {
            grown.store(true, Ordering::Release);
        }
    }

    /// Reads what has grown. Blocks.
    fn look(&self, system: &System) -> Vec<Looked> {
        let mut looked = Vec::new();
        for (shard, grown) in self.grown.iter().enumerate() {
            if !grown.swap(false, Ordering::AcqRel) {
                continue;
            }
            let shard = shard as u8;
            let cursor = self.cursor(system, shard);
            match system.journal().read_shard(Shard(shard), cursor + 1, RECORDS_STEP) {
                Ok(records) => looked.extend(self.looked(system, shard, cursor, &records)),
                Err(error) => {
                    tracing::error!(shard, %error, "earnings cannot be read");
                    self.mark(shard);
                }
            }
        }
        looked
    }

    fn looked(
        &self,
        system: &System,
        shard: u8,
        cursor: u64,
        records: &[Record],
    ) -> Option<Looked> {
        let new = records.iter().filter(|record| record.header.position.pos > cursor);
        // A batch that was written at once is read at once, however large.
        let new: Vec<&Record> = new.take(RECORDS_STEP).collect();
        let upto = new.last()?.header.position.pos;
        let sales = new.iter().flat_map(|record| self.sales(system, record)).collect();
        let is_more = new.len() >= RECORDS_STEP;
        Some(Looked { shard, from: cursor + 1, upto, sales, is_more })
    }

    fn cursor(&self, system: &System, shard: u8) -> u64 {
        if let Some((cursor, _)) = self.cursors.lock().get(&shard) {
            return *cursor;
        }
        let place = Earnings::cursors();
        let row = system.row(place.place().shard(), CURSOR_FAMILY, &[shard]);
        let cursor = row.and_then(|row| codec::decode(&row).ok()).unwrap_or(0);
        self.cursors.lock().insert(shard, (cursor, cursor));
        cursor
    }

    /// What a record says of sales and calls.
    fn sales(&self, system: &System, record: &Record) -> Vec<Sale> {
        let header = &record.header;
        let kind = header.stream.as_str().split_once('/').map_or("", |(kind, _)| kind);
        let is_wanted = match kind {
            Wallet::KIND => matches!(&*header.event, "hold_drawn" | "late_drawn"),
            ExtensionSession::KIND => matches!(&*header.event, "ran" | "lost"),
            _ => false,
        };
        if !is_wanted || !self.is_ours(system, record) {
            return Vec::new();
        }
        let Some(payload) = system.open_record(record) else { return Vec::new() };
        let (event, version) = (&*header.event, header.event_version);
        let day = (header.time_ms / DAY_MS) as i32;
        let empty = |app: &AppId| Sale {
            pos: header.position.pos,
            app: app.clone(),
            day,
            calls: 0,
            errors: 0,
            charged: 0,
            earned: 0,
            user: None,
        };
        match kind {
            Wallet::KIND => match WalletEvent::decode(event, version, &payload) {
                Ok(event) => drawn(&event, empty),
                Err(_) => Vec::new(),
            },
            _ => match SessionEvent::decode(event, version, &payload) {
                Ok(SessionEvent::Ran(ran)) => vec![called(&ran.scope, &ran.items, empty)],
                Ok(SessionEvent::Lost(lost)) => vec![called(&lost.scope, &lost.items, empty)],
                _ => Vec::new(),
            },
        }
    }

    /// Whether a record was made here, by real time.
    pub(crate) fn is_ours(&self, system: &System, record: &Record) -> bool {
        let home = record.header.home;
        if system.own_time(home).is_some() {
            return false;
        }
        if let Some(begins) = self.begins.lock().get_mut(&home) {
            return record.header.time_ms >= *begins;
        }
        let first = system.journal().read_chain(home, 1, false, 1).unwrap_or_default();
        let begins = first.first().map_or(i64::MIN, |first| first.header.time_ms);
        self.begins.lock().insert(home, begins);
        record.header.time_ms >= begins
    }

    /// Tells every account what it has not had.
    async fn credit(&self, system: &Arc<System>, looked: &[Looked]) -> Result<(), Refusal> {
        let mut developers: HashMap<AppId, Option<Developer>> = HashMap::new();
        let mut accounts: BTreeMap<Developer, Vec<(&Looked, Vec<&Sale>)>> = BTreeMap::new();
        for it in looked {
            let mut of_shard: BTreeMap<Developer, Vec<&Sale>> = BTreeMap::new();
            for sale in &it.sales {
                let developer = match developers.get(&sale.app) {
                    Some(known) => *known,
                    None => {
                        let found = developer_of(system, &sale.app).await?;
                        developers.insert(sale.app.clone(), found);
                        found
                    }
                };
                if let Some(developer) = developer {
                    of_shard.entry(developer).or_default().push(sale);
                }
            }
            for (developer, sales) in of_shard {
                accounts.entry(developer).or_default().push((it, sales));
            }
        }
        for (developer, parts) in accounts {
            self.credit_one(system, developer, &parts).await?;
        }
        Ok(())
    }

    async fn credit_one(
        &self,
        system: &Arc<System>,
        developer: Developer,
        parts: &[(&Looked, Vec<&Sale>)],
    ) -> Result<(), Refusal> {
        let address = Earnings::address(developer.0, developer.1);
        let accounts = system.directory::<Earnings>();
        let known = self.seen.lock().get(&developer).cloned();
        let mut seen = match known {
            Some(seen) => seen,
            None => {
                let look = |account: &Earnings| account.seen().clone();
                match accounts.look(&address, system.system_origin(), look).await {
                    Err(refusal) if refusal.is_erased() => return Ok(()),
                    seen => seen?,
                }
            }
        };
        for (ranges, lines) in credits(&seen, parts) {
            let command = Credit { developer: developer.0, ranges: ranges.clone(), lines };
            match accounts.ask(&address, command, system.system_origin()).await {
                Ok(totals) => {
                    let window = system.find_port::<Storefront>();
                    for total in totals {
                        window.iter().for_each(|it| it.set_actions(&total.app, total.calls));
                    }
                }
                Err(refusal) if refusal.is_erased() => return Ok(()),
                Err(refusal) if refusal.code == CREDITED_PARTLY => return Err(Refusal::busy()),
                Err(refusal) => return Err(refusal),
            }
            for range in ranges {
                seen.insert(range.shard, range.upto);
            }
        }
        self.seen.lock().insert(developer, seen);
        Ok(())
    }

    /// Goes on from there the next time.
    fn advance(&self, system: &System, looked: &[Looked]) {
        let mut rows = Vec::new();
        let mut cursors = self.cursors.lock();
        for it in looked {
            if it.is_more {
                self.mark(it.shard);
            }
            let (cursor, noted) = cursors.entry(it.shard).or_default();
            *cursor = it.upto;
            if !it.sales.is_empty() || *cursor - *noted >= UNNOTED_MAX {
                *noted = it.upto;
                let value = codec::encode(&it.upto).ok();
                rows.push(RowDraft { family: CURSOR_FAMILY, key: vec![it.shard], value });
            }
        }
        if !rows.is_empty() {
            system.note_rows(Earnings::cursors().place(), &rows);
        }
    }

    /// How far each shard was read.
    pub fn cursors(&self) -> BTreeMap<u8, u64> {
        self.cursors.lock().iter().map(|(shard, (cursor, _))| (*shard, *cursor)).collect()
    }

    /// Whether everything that is durable now was credited.
    pub fn is_done(&self) -> bool {
        !self.grown.iter().any(|grown| grown.load(Ordering::Acquire))
    }
}

/// What a wallet's event says: what callers paid by app, and what is payable to it.
fn drawn(event: &WalletEvent, empty: impl Fn(&AppId) -> Sale) -> Vec<Sale> {
    let draws: &[AppDraw] = match event {
        WalletEvent::HoldDrawn(it) => &it.draws,
        WalletEvent::LateDrawn(it) => &it.draws,
        _ => &[],
    };
    let mut sales: BTreeMap<AppId, Sale> = BTreeMap::new();
    for draw in draws {
        let sale = sales.entry(draw.app.clone()).or_insert_with(|| empty(&draw.app));
        sale.charged += draw.items.iter().map(|item| item.charged).sum::<i64>();
    }
    for posting in event.postings() {
        if let WalletAccount::Payable(app) = &posting.account {
            sales.entry(app.clone()).or_insert_with(|| empty(app)).earned += posting.amount;
        }
    }
    sales.into_values().collect()
}

/// What a session's event says: how often the app was called, and by whom.
fn called(scope: &Scope, items: &[RanItem], empty: impl Fn(&AppId) -> Sale) -> Sale {
    let errors = items.iter().filter(|item| !item.succeeded).count() as u64;
    let user = mark(&scope.app, &[scope.tenant.0, scope.user.0]) as u64;
    Sale { calls: items.len() as u64, errors, user: Some(user), ..empty(&scope.app) }
}

/// The credits that parts come to, each within its limits, without what was seen.
fn credits(
    seen: &BTreeMap<u8, u64>,
    parts: &[(&Looked, Vec<&Sale>)],
) -> Vec<(Vec<Range>, Vec<CreditLine>)> {
    let mut all = Vec::new();
    let (mut ranges, mut lines) = (Vec::new(), BTreeMap::new());
    let mut users = 0;
    for (looked, sales) in parts {
        let after = seen.get(&looked.shard).copied().unwrap_or(0);
        if after >= looked.upto {
            continue;
        }
        if !ranges.is_empty()
            && (lines.len() + sales.len() > CREDIT_LINES_MAX || users > CREDIT_USERS_MAX / 2)
        {
            all.push((std::mem::take(&mut ranges), whole(std::mem::take(&mut lines))));
            users = 0;
        }
        let from = looked.from.max(after + 1);
        ranges.push(Range { shard: looked.shard, from, upto: looked.upto });
        for sale in sales.iter().filter(|sale| sale.pos >= from) {
            let line: &mut CreditLine =
                lines.entry((sale.app.clone(), sale.day)).or_insert_with(|| CreditLine {
                    app: sale.app.clone(),
                    day: sale.day,
                    calls: 0,
                    errors: 0,
                    charged: 0,
                    earned: 0,
                    users: BTreeSet::new(),
                });
            line.calls += sale.calls;
            line.errors += sale.errors;
            line.charged += sale.charged;
            line.earned += sale.earned;
            users += usize::from(sale.user.is_some_and(|user| line.users.insert(user)));
        }
    }
    if !ranges.is_empty() {
        all.push((ranges, whole(lines)));
    }
    all
}

fn whole(lines: BTreeMap<(AppId, i32), CreditLine>) -> Vec<CreditLine> {
    lines.into_values().collect()
}

/// Who develops an app, whatever its state; `None` when there is none, or no more.
async fn developer_of(system: &Arc<System>, app: &AppId) -> Result<Option<Developer>, Refusal> {
    let place = system.locate(App::KIND, app.as_str());
    let Some(address) = place.and_then(Address::<App>::from_place) else { return Ok(None) };
    let apps = system.directory::<App>();
    let found = apps.look(&address, system.system_origin(), App::developer).await;
    found.or_else(|refusal| if refusal.is_erased() { Ok(None) } else { Err(refusal) })
}

/// The rows of a range of one family, newest or oldest first.
pub(crate) fn range(
    shard: Shard,
    family: &'static str,
    prefix: Vec<u8>,
    newest_first: bool,
    limit: usize,
) -> RowRange {
    RowRange { shard, family, prefix, after: None, newest_first, limit }
}
