//! What a developer has earned: one account a developer, credited from what wallets have settled.
//!
//! Money moves between four accounts: it comes from `sales`, is `earned`, waits as `payout_pending`
//! and is `paid`. The postings of every event sum to zero.
//!
//! Invariants
//! - Each settlement is credited once: a credit names, for each shard of the journal, the positions
//!   that it is of, and what was credited before is not credited again, whatever the bookkeeper
//!   remembers.
//! - What was earned by app and day sums to what is earned, waits and was paid.
//!
//! Rows, in the shard and under the key of the developer's tenant:
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | [`DAY_FAMILY`] | developer, app, day | [`DayTotal`] |
//! | [`DAY_USER_FAMILY`] | developer, app, day, user's mark | nothing |
//! | [`APP_TOTAL_FAMILY`] | developer, app | [`AppTotal`] |
//!
//! and those of [`crate::payout`]. Deliberate limits: days are UTC, of when a call was settled;
//! users are counted by day and not over several days.

use std::collections::{BTreeMap, BTreeSet};

use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, Entity, Handle, Home, Need, NoEffect, Refusal, RowDraft, Timestamp, Turn,
};
use types::{AppId, TenantId, UserId, home_of, owner_of_tenant, platform, rfc3339};

use crate::listing::put;
use crate::payout::{Payout, PayoutDecided, PayoutRequested, payout_rows};

/// What an app earned in a day.
pub const DAY_FAMILY: &str = "earning_day";
/// Who called it that day.
pub const DAY_USER_FAMILY: &str = "earning_user";
/// What an app earned in all.
pub const APP_TOTAL_FAMILY: &str = "earning_app";
/// How far the bookkeeper has read each shard.
pub const CURSOR_FAMILY: &str = "bookkeeper";

/// How many apps and days one credit has.
pub const CREDIT_LINES_MAX: usize = 4_096;
/// How many users one credit names.
pub const CREDIT_USERS_MAX: usize = 4_096;
/// Milliseconds of a day.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Where a developer's credits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// The far side: what the payers' wallets have posted as payable.
    Sales,
    /// May be asked for.
    Earned,
    /// Was asked for.
    PayoutPending,
    /// Has left.
    Paid,
}

/// One side of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// The account.
    pub account: Account,
    /// Signed, in credits.
    pub amount: i64,
}

/// Both sides of a move.
pub(crate) fn moved(from: Account, to: Account, amount: i64) -> Vec<Posting> {
    vec![Posting { account: from, amount: -amount }, Posting { account: to, amount }]
}

/// What an app earned in a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayTotal {
    /// Days since 1970.
    pub day: i32,
    /// Calls, failed ones too.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// What callers paid, in credits: the app's price and the platform's fee.
    pub charged: i64,
    /// The developer's share, in credits.
    pub earned: i64,
    /// How many users called.
    pub users: u64,
}

/// What an app earned in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppTotal {
    /// The app.
    pub app: AppId,
    /// Calls, failed ones too.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// What callers paid, in credits.
    pub charged: i64,
    /// The developer's share, in credits.
    pub earned: i64,
}

/// Positions of a shard, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The shard.
    pub shard: u8,
    /// The first.
    pub from: u64,
    /// The last.
    pub upto: u64,
}

/// What an app earned in a day, more than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditLine {
    /// The app.
    pub app: AppId,
    /// Days since 1970.
    pub day: i32,
    /// Calls more.
    pub calls: u64,
    /// Failed ones more.
    pub errors: u64,
    /// Credits that callers paid more.
    pub charged: i64,
    /// Credits that were earned more; less after something was given back.
    pub earned: i64,
    /// Who called, by mark; in a record only those who had not called that day.
    pub users: BTreeSet<u64>,
}

/// Settlements were credited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credited {
    /// Whose account it is.
    pub developer: UserId,
    /// What it is of.
    pub ranges: Vec<Range>,
    /// What was earned more.
    pub lines: Vec<CreditLine>,
    /// The days as they are then, one a line.
    pub days: Vec<DayTotal>,
    /// The apps as they are then.
    pub apps: Vec<AppTotal>,
    /// The change.
    pub postings: Vec<Posting>,
}

supervision::events! {
    /// What happens to a developer's account.
    pub enum EarningsEvent {
        /// Settlements were credited.
        Credited(Credited) = "earnings_credited", 1;
        /// A payout was asked for.
        PayoutRequested(PayoutRequested) = "payout_requested", 1;
        /// A payout was approved, paid or rejected.
        PayoutDecided(PayoutDecided) = "payout_decided", 1;
    }
}

impl EarningsEvent {
    /// The change; it sums to zero.
    pub fn postings(&self) -> &[Posting] {
        match self {
            Self::Credited(it) => &it.postings,
            Self::PayoutRequested(it) => &it.postings,
            Self::PayoutDecided(it) => &it.postings,
        }
    }
}

/// What is in the accounts, in credits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balances {
    /// All that was ever earned.
    pub total: i64,
    /// What the platform has kept of what callers paid.
    pub platform: i64,
    /// May be asked for.
    pub earned: i64,
    /// Was asked for.
    pub pending: i64,
    /// Has left.
    pub paid: i64,
}

/// A developer's account.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Earnings {
    pub(crate) balances: Balances,
    /// The last position of each shard that was credited.
    seen: BTreeMap<u8, u64>,
    /// The payouts that are neither paid nor rejected.
    pub(crate) open: BTreeMap<u64, Payout>,
}

fn app_key(developer: UserId, app: &AppId, more: &[u8]) -> Vec<u8> {
    [&developer.0.to_be_bytes()[..], &app.owner_number().to_be_bytes(), more].concat()
}

/// The key of an app's day; days before 1970 there are none.
pub(crate) fn day_key(developer: UserId, app: &AppId, day: i32) -> Vec<u8> {
    app_key(developer, app, &day.unsigned_abs().to_be_bytes())
}

/// What the keys of an app's days begin with.
pub(crate) fn day_prefix(developer: UserId, app: &AppId) -> Vec<u8> {
    app_key(developer, app, &[])
}

/// A day as answers have it: YYYY-MM-DD, UTC.
pub(crate) fn date_of(day: i32) -> String {
    let at = rfc3339(Timestamp(i64::from(day) * DAY_MS));
    at.get(..10).unwrap_or_default().to_owned()
}

fn user_key(developer: UserId, app: &AppId, day: i32, user: u64) -> Vec<u8> {
    let day = day.unsigned_abs().to_be_bytes();
    app_key(developer, app, &[&day[..], &user.to_be_bytes()].concat())
}

fn total_key(developer: UserId, app: &AppId) -> Vec<u8> {
    [&developer.0.to_be_bytes()[..], app.as_str().as_bytes()].concat()
}

impl Earnings {
    /// Where a developer's account lives: with the tenant whose developer they are.
    pub fn address(developer: UserId, tenant: TenantId) -> Address<Self> {
        let id = developer.to_string();
        let address = Address::new(&id, owner_of_tenant(tenant), home_of(tenant));
        // An id's text is neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// Where the rows stand that say how far the bookkeeper has read.
    pub(crate) fn cursors() -> Address<Self> {
        let address = Address::new("bookkeeper", platform(), Home(0));
        address.unwrap_or_else(|| panic!("the bookkeeper has no address"))
    }

    /// What is in the accounts.
    pub fn balances(&self) -> Balances {
        self.balances
    }

    /// The last position of each shard that was credited.
    pub fn seen(&self) -> &BTreeMap<u8, u64> {
        &self.seen
    }
}

impl Entity for Earnings {
    const KIND: &'static str = "earnings";
    const OBSERVED_FAMILIES: &'static [&'static str] = &[CURSOR_FAMILY];
    type Event = EarningsEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &EarningsEvent, _: Timestamp) {
        for Posting { account, amount } in event.postings() {
            let balances = &mut self.balances;
            match account {
                Account::Sales => balances.total -= amount,
                Account::Earned => balances.earned += amount,
                Account::PayoutPending => balances.pending += amount,
                Account::Paid => balances.paid += amount,
            }
        }
        match event {
            EarningsEvent::Credited(it) => {
                for range in &it.ranges {
                    let seen = self.seen.entry(range.shard).or_default();
                    *seen = range.upto.max(*seen);
                }
                let kept = it.lines.iter().map(|line| line.charged - line.earned);
                self.balances.platform += kept.sum::<i64>();
            }
            EarningsEvent::PayoutRequested(it) => {
                self.open.insert(it.payout.id, it.payout.clone());
            }
            EarningsEvent::PayoutDecided(it) if it.payout.status.is_open() => {
                self.open.insert(it.payout.id, it.payout.clone());
            }
            EarningsEvent::PayoutDecided(it) => drop(self.open.remove(&it.payout.id)),
        }
    }

    fn rows(&self, event: &EarningsEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        match event {
            EarningsEvent::Credited(it) => {
                for (line, day) in it.lines.iter().zip(&it.days) {
                    put(rows, DAY_FAMILY, day_key(it.developer, &line.app, line.day), day);
                    for user in &line.users {
                        let key = user_key(it.developer, &line.app, line.day, *user);
                        put(rows, DAY_USER_FAMILY, key, &());
                    }
                }
                for total in &it.apps {
                    put(rows, APP_TOTAL_FAMILY, total_key(it.developer, &total.app), total);
                }
            }
            EarningsEvent::PayoutRequested(it) => payout_rows(&it.payout, rows),
            EarningsEvent::PayoutDecided(it) => payout_rows(&it.payout, rows),
        }
    }

    fn observe(&self) -> serde_json::Value {
        json!({"total": self.balances.total, "earned": self.balances.earned,
            "payout_pending": self.balances.pending, "paid": self.balances.paid,
            "platform": self.balances.platform, "shards_credited": self.seen.len(),
            "open_payouts": self.open.len()})
    }
}

/// The code of a credit of which a part was credited before.
pub(crate) const CREDITED_PARTLY: &str = "credited_partly";

/// Credits settlements. What was credited before changes nothing; refused (409,
/// `credited_partly`) when a part of it was.
#[derive(Clone, Debug)]
pub struct Credit {
    /// Whose account it is.
    pub developer: UserId,
    /// What it is of, one a shard.
    pub ranges: Vec<Range>,
    /// What was earned, one an app and day: at most [`CREDIT_LINES_MAX`].
    pub lines: Vec<CreditLine>,
}

impl Command for Credit {
    const NAME: &'static str = "credit_earnings";
    const ESSENTIAL: bool = true;
}

impl Handle<Credit> for Earnings {
    /// The apps as they are then; empty when nothing changed.
    type Reply = Vec<AppTotal>;

    fn needs(command: &Credit) -> Vec<Need> {
        let developer = command.developer;
        let mut needs = Vec::new();
        for line in &command.lines {
            needs.push(Need::Row(DAY_FAMILY, day_key(developer, &line.app, line.day)));
            needs.push(Need::Row(APP_TOTAL_FAMILY, total_key(developer, &line.app)));
            let user = |user: &u64| user_key(developer, &line.app, line.day, *user);
            let users = line.users.iter().map(user);
            needs.extend(users.map(|key| Need::Row(DAY_USER_FAMILY, key)));
        }
        needs
    }

    fn handle(turn: &mut Turn<'_, Self>, command: Credit) -> Result<Vec<AppTotal>, Refusal> {
        let Credit { developer, ranges, mut lines } = command;
        let users: usize = lines.iter().map(|line| line.users.len()).sum();
        if lines.len() > CREDIT_LINES_MAX || users > CREDIT_USERS_MAX {
            return Err(Refusal::invalid("lines", "are too many for one credit"));
        }
        let seen = |range: &Range| turn.state().seen.get(&range.shard).copied().unwrap_or(0);
        if ranges.iter().all(|range| range.upto <= seen(range)) {
            return Ok(Vec::new());
        }
        if ranges.iter().any(|range| range.from <= seen(range)) {
            let message = "a part of this was credited before";
            return Err(Refusal::conflict(CREDITED_PARTLY, message));
        }
        let known: BTreeSet<&[u8]> = turn
            .found()
            .iter()
            .filter(|row| row.family == DAY_USER_FAMILY)
            .map(|row| row.key.as_slice())
            .collect();
        let (mut days, mut apps) = (Vec::new(), BTreeMap::new());
        for line in &mut lines {
            let (app, day) = (line.app.clone(), line.day);
            let is_new =
                |user: &u64| !known.contains(user_key(developer, &app, day, *user).as_slice());
            line.users.retain(is_new);
            days.push(day_after(turn, developer, line)?);
            let total = apps.entry(line.app.clone());
            let total = match total {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    new.insert(total_before(turn, developer, &line.app)?)
                }
            };
            total.calls += line.calls;
            total.errors += line.errors;
            total.charged += line.charged;
            total.earned += line.earned;
        }
        let apps: Vec<AppTotal> = apps.into_values().collect();
        let earned = lines.iter().map(|line| line.earned).sum();
        let postings = moved(Account::Sales, Account::Earned, earned);
        let credited = Credited { developer, ranges, lines, days, apps: apps.clone(), postings };
        turn.record(EarningsEvent::Credited(credited));
        Ok(apps)
    }
}

fn decoded<T: serde::de::DeserializeOwned>(row: Option<&[u8]>) -> Result<Option<T>, Refusal> {
    row.map(codec::decode).transpose().map_err(|_| Refusal::crashed())
}

fn day_after(
    turn: &Turn<'_, Earnings>,
    developer: UserId,
    line: &CreditLine,
) -> Result<DayTotal, Refusal> {
    let row = turn.found_row(DAY_FAMILY, &day_key(developer, &line.app, line.day));
    let mut day: DayTotal = decoded(row)?.unwrap_or_default();
    day.day = line.day;
    day.calls += line.calls;
    day.errors += line.errors;
    day.charged += line.charged;
    day.earned += line.earned;
    day.users += line.users.len() as u64;
    Ok(day)
}

fn total_before(
    turn: &Turn<'_, Earnings>,
    developer: UserId,
    app: &AppId,
) -> Result<AppTotal, Refusal> {
    let row = turn.found_row(APP_TOTAL_FAMILY, &total_key(developer, app));
    let none = || AppTotal { app: app.clone(), calls: 0, errors: 0, charged: 0, earned: 0 };
    Ok(decoded(row)?.unwrap_or_else(none))
}

/// What the keys of a developer's apps begin with.
pub(crate) fn totals_prefix(developer: UserId) -> Vec<u8> {
    developer.0.to_be_bytes().to_vec()
}
