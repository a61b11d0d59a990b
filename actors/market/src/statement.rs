//! A developer's statement: every change of what they have earned, with what there was after it,
//! and the calls that a line of it is made of.
//!
//! It is read from the records: a line is a record of the developer's account
//! ([`crate::earnings`]), and a line of sales names, through the positions that it is of, the
//! wallets' records in which the calls were paid for. So nothing is kept for it, and a statement
//! cannot differ from the books.
//!
//! Invariants
//! - Newest first, each line's balances are those after it; without its own change they are those
//!   of the line before it, on every page.
//! - A developer is told which call it was, when, and what it brought: never who called.
//!
//! Deliberate limits: a line shows at most [`CALLS_SHOWN_MAX`] of its calls and looks at
//! [`RECORDS_READ_MAX`] records for them. The calls of a tenant that was erased cannot be read any
//! more; the line still counts them. What the platform keeps is told a line, not as a balance.

use std::collections::BTreeSet;
use std::sync::Arc;

use billing::wallet::{Wallet, WalletEvent};
use persistence::{Record, Shard, codec};
use serde::{Deserialize, Serialize};
use supervision::{Address, Entity as _, Event as _, Origin, Refusal, System, Timestamp};
use types::{AppId, Cursor, RequestId, rfc3339};

use crate::bookkeeper::Bookkeeper;
use crate::developer::Profile;
use crate::earnings::{Account, Balances, Credited, Earnings, EarningsEvent, Posting, Range};
use crate::payout::{Payout, PayoutStatus};
use crate::portal::blocking;
use crate::service::{Market, Principal, developer};

/// How many lines a page has when not told, and at most.
pub const LINES_DEFAULT: usize = 50;
/// See [`LINES_DEFAULT`].
pub const LINES_MAX: usize = 200;
/// How many calls of a line are shown.
pub const CALLS_SHOWN_MAX: usize = 1_000;
/// How many records are read to find them.
pub const RECORDS_READ_MAX: usize = 65_536;
/// How many records one step of that reads.
const RECORDS_STEP: usize = 1_024;
/// How often a look is repeated while the account grows under it.
const LOOKS_MAX: usize = 8;

/// What one app brought, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SalesOfApp {
    /// The app.
    pub app_id: String,
    /// YYYY-MM-DD, UTC.
    pub period: String,
    /// Calls, failed ones too.
    pub calls: u64,
    /// Calls that failed; they cost nothing.
    pub errors: u64,
    /// What callers paid, in credits.
    pub credits: i64,
    /// What the platform keeps of it.
    pub platform_share: i64,
    /// What was earned.
    pub earnings: i64,
}

/// A change of what a developer has earned, in credits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StatementLine {
    /// Its number, from 1.
    pub number: u64,
    /// RFC 3339.
    pub at: String,
    /// sales, payout_pending, payout_approved, payout_paid or payout_rejected.
    pub kind: String,
    /// What may be asked for became so much more; negative when it became less.
    pub amount: i64,
    /// What may be asked for after it.
    pub available_after: i64,
    /// What was asked for and is not paid, after it.
    pub pending_payout_after: i64,
    /// What has left, after it.
    pub paid_out_after: i64,
    /// What was sold, by app; empty for payouts.
    pub sales: Vec<SalesOfApp>,
    /// The payout; null for sales.
    pub payout_id: Option<u64>,
    /// How much the payout is of; null for sales.
    pub payout_amount: Option<i64>,
}

/// A part of a statement, the newest line first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StatementPage {
    /// The lines.
    pub lines: Vec<StatementLine>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// A call that was paid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct CallSold {
    /// The request that it was part of, as the caller's own records have it.
    pub trace_id: String,
    /// Its place in its batch, from 0.
    pub index: u64,
    /// The app.
    pub app_id: String,
    /// RFC 3339: when it was paid for.
    pub at: String,
    /// What the caller paid.
    pub credits: i64,
    /// What of it was earned: nothing of promotional credits.
    pub earnings: i64,
}

/// The calls that a line is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct CallsSold {
    /// The line.
    pub number: u64,
    /// The calls that were paid for, in the order of the books.
    pub calls: Vec<CallSold>,
    /// Whether there are more than are shown.
    pub truncated: bool,
}

/// Where a page ends: the number of its last line, and the balances before that line.
#[derive(Serialize, Deserialize)]
struct Mark {
    number: u64,
    available: i64,
    pending: i64,
    paid: i64,
}

impl Mark {
    fn of(number: u64, balances: &Balances) -> Self {
        let Balances { earned, pending, paid, .. } = *balances;
        Self { number, available: earned, pending, paid }
    }

    fn read(text: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::invalid_at("query", "cursor", "is not one of ours");
        let cursor: Cursor = text.parse().map_err(|_| unknown())?;
        codec::decode(&cursor.0).map_err(|_| unknown())
    }

    fn balances(&self) -> Balances {
        let Self { available, pending, paid, .. } = *self;
        Balances { earned: available, pending, paid, ..Balances::default() }
    }
}

/// What a change comes to in one account.
fn posted(postings: &[Posting], of: Account) -> i64 {
    postings.iter().filter(|it| it.account == of).map(|it| it.amount).sum()
}

/// The balances before a change.
fn before(after: &Balances, postings: &[Posting]) -> Balances {
    Balances {
        earned: after.earned - posted(postings, Account::Earned),
        pending: after.pending - posted(postings, Account::PayoutPending),
        paid: after.paid - posted(postings, Account::Paid),
        ..*after
    }
}

fn sales_of(credited: &Credited) -> Vec<SalesOfApp> {
    let one = |line: &crate::earnings::CreditLine| SalesOfApp {
        app_id: line.app.to_string(),
        period: crate::earnings::date_of(line.day),
        calls: line.calls,
        errors: line.errors,
        credits: line.charged,
        platform_share: line.charged - line.earned,
        earnings: line.earned,
    };
    credited.lines.iter().map(one).collect()
}

/// The line of a record, whose balances after it are known.
fn line(record: &Record, event: &EarningsEvent, after: &Balances) -> StatementLine {
    let payout = |payout: &Payout| (payout.status, payout.id, payout.amount);
    let (sales, payout) = match event {
        EarningsEvent::Credited(it) => (sales_of(it), None),
        EarningsEvent::PayoutRequested(it) => (Vec::new(), Some(payout(&it.payout))),
        EarningsEvent::PayoutDecided(it) => (Vec::new(), Some(payout(&it.payout))),
    };
    let status = |(status, ..): (PayoutStatus, u64, i64)| format!("payout_{}", status.name());
    StatementLine {
        number: record.header.seq,
        at: rfc3339(Timestamp(record.header.time_ms)),
        kind: payout.map_or_else(|| "sales".to_owned(), status),
        amount: posted(event.postings(), Account::Earned),
        available_after: after.earned,
        pending_payout_after: after.pending,
        paid_out_after: after.paid,
        sales,
        payout_id: payout.map(|(_, id, _)| id),
        payout_amount: payout.map(|(.., amount)| amount),
    }
}

fn event_of(system: &System, record: &Record) -> Result<EarningsEvent, Refusal> {
    let header = &record.header;
    let payload = system.open_record(record).ok_or_else(Refusal::crashed)?;
    EarningsEvent::decode(&header.event, header.event_version, &payload)
        .map_err(|_| Refusal::crashed())
}

fn records_of(
    system: &System,
    account: &Address<Earnings>,
    after: u64,
    upto: u64,
) -> Result<Vec<Record>, Refusal> {
    let limit = usize::try_from(upto.saturating_sub(after)).unwrap_or(usize::MAX);
    let records = system.journal().read(&account.place().stream, after, limit);
    records.map_err(|error| {
        tracing::error!(%error, "a developer's account cannot be read");
        Refusal::crashed()
    })
}

/// The lines up to a mark, the newest first. Blocks.
fn page(
    system: &System,
    account: &Address<Earnings>,
    mark: &Mark,
    limit: usize,
) -> Result<StatementPage, Refusal> {
    let after = mark.number.saturating_sub(limit as u64);
    let mut balances = mark.balances();
    let mut lines = Vec::new();
    for record in records_of(system, account, after, mark.number)?.iter().rev() {
        let event = event_of(system, record)?;
        lines.push(line(record, &event, &balances));
        balances = before(&balances, event.postings());
    }
    let next = codec::encode(&Mark::of(after, &balances)).map_err(|_| Refusal::crashed())?;
    let next_cursor = (after > 0).then(|| Cursor(next).to_string());
    Ok(StatementPage { lines, next_cursor })
}

/// The calls in a range of a shard that are of one of these apps; how many records may still be
/// read comes down. Says whether there are more.
fn calls_in(
    (system, books): (&System, &Bookkeeper),
    range: &Range,
    apps: &BTreeSet<AppId>,
    left: &mut usize,
    calls: &mut Vec<CallSold>,
) -> Result<bool, Refusal> {
    let mut from = range.from;
    while from <= range.upto {
        let records = system.journal().read_shard(Shard(range.shard), from, RECORDS_STEP);
        let records = records.map_err(|error| {
            tracing::error!(shard = range.shard, %error, "sales cannot be read");
            Refusal::crashed()
        })?;
        let Some(last) = records.last().map(|record| record.header.position.pos) else { break };
        let wanted = from..=range.upto;
        for record in records.iter().filter(|it| wanted.contains(&it.header.position.pos)) {
            if *left == 0 || calls.len() >= CALLS_SHOWN_MAX {
                return Ok(true);
            }
            *left -= 1;
            calls.extend(calls_of(system, books, record, apps));
        }
        from = last + 1;
    }
    Ok(false)
}

/// The calls that a wallet's record was of.
fn calls_of(
    system: &System,
    books: &Bookkeeper,
    record: &Record,
    apps: &BTreeSet<AppId>,
) -> Vec<CallSold> {
    let header = &record.header;
    let is_wallet = header.stream.as_str().split('/').next() == Some(Wallet::KIND);
    let is_sale = is_wallet && matches!(&*header.event, "hold_drawn" | "late_drawn");
    if !is_sale || !books.is_ours(system, record) {
        return Vec::new();
    }
    let Some(payload) = system.open_record(record) else { return Vec::new() };
    let event = WalletEvent::decode(&header.event, header.event_version, &payload);
    let draws = match event {
        Ok(WalletEvent::HoldDrawn(it)) => it.draws,
        Ok(WalletEvent::LateDrawn(it)) => it.draws,
        _ => Vec::new(),
    };
    let (trace_id, at) = (RequestId(header.request.id), rfc3339(Timestamp(header.time_ms)));
    let ours = draws.into_iter().filter(|draw| apps.contains(&draw.app));
    let calls = ours.flat_map(|draw| {
        let app = draw.app;
        draw.items.into_iter().map(move |item| (app.clone(), item))
    });
    let call = |(app, item): (AppId, billing::wallet::DrawnItem)| CallSold {
        trace_id: trace_id.to_string(),
        index: u64::try_from(item.id).unwrap_or(u64::MAX),
        app_id: app.to_string(),
        at: at.clone(),
        credits: item.charged,
        earnings: item.earned,
    };
    calls.map(call).collect()
}

/// The calls of a line. Blocks.
fn calls_sold(
    system: &System,
    account: &Address<Earnings>,
    number: u64,
) -> Result<CallsSold, Refusal> {
    let missing = || Refusal::not_found("statement line");
    let after = number.checked_sub(1).ok_or_else(missing)?;
    let record = records_of(system, account, after, number)?.pop().ok_or_else(missing)?;
    let EarningsEvent::Credited(credited) = event_of(system, &record)? else {
        return Ok(CallsSold { number, calls: Vec::new(), truncated: false });
    };
    let apps = credited.lines.iter().map(|line| line.app.clone()).collect();
    let books = system.find_port::<Bookkeeper>().ok_or_else(Refusal::crashed)?;
    let (mut calls, mut left) = (Vec::new(), RECORDS_READ_MAX);
    let mut truncated = false;
    for range in &credited.ranges {
        truncated |= calls_in((system, &books), range, &apps, &mut left, &mut calls)?;
    }
    truncated |= calls.len() > CALLS_SHOWN_MAX;
    calls.truncate(CALLS_SHOWN_MAX);
    Ok(CallsSold { number, calls, truncated })
}

/// The last line's number with the balances after it.
async fn newest(
    system: &Arc<System>,
    account: &Address<Earnings>,
    origin: &Origin,
) -> Result<Mark, Refusal> {
    let accounts = system.directory::<Earnings>();
    for _ in 0..LOOKS_MAX {
        let head = || system.journal().stream_head(&account.place().stream);
        let number = head().map_err(|_| Refusal::crashed())?;
        let balances = accounts.look(account, origin.clone(), Earnings::balances).await?;
        if head().is_ok_and(|head| head == number) {
            return Ok(Mark::of(number, &balances));
        }
    }
    Err(Refusal::busy())
}

fn account_of(profile: &Profile) -> Address<Earnings> {
    Earnings::address(profile.user, profile.tenant)
}

impl Market {
    /// A part of a developer's statement: the newest lines, or those before the cursor of another
    /// part (422 for what is no cursor). 403 for users who are no developer.
    pub async fn statement(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<StatementPage, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        let account = account_of(&profile);
        let mark = match cursor {
            Some(text) => Mark::read(text)?,
            None => newest(system, &account, &principal.origin).await?,
        };
        let reading = Arc::clone(system);
        blocking(move || page(&reading, &account, &mark, limit.min(LINES_MAX))).await?
    }

    /// The calls that a line of a developer's statement is made of; none for payouts. 404 for a
    /// number that no line has.
    pub async fn calls_sold(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        number: u64,
    ) -> Result<CallsSold, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        let (account, reading) = (account_of(&profile), Arc::clone(system));
        blocking(move || calls_sold(&reading, &account, number)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::earnings::moved;

    #[test]
    fn without_its_change_a_balance_is_the_one_before() {
        let after = Balances { total: 9, platform: 3, earned: 5, pending: 3, paid: 1 };
        let asked = before(&after, &moved(Account::Earned, Account::PayoutPending, 3));
        assert_eq!((asked.earned, asked.pending, asked.paid), (8, 0, 1));
        let sold = before(&after, &moved(Account::Sales, Account::Earned, 5));
        assert_eq!((sold.earned, sold.pending), (0, 3));
    }

    #[test]
    fn a_mark_is_read_back_and_anything_else_is_refused() {
        let balances = Balances { earned: -5, pending: 7, paid: 1 << 40, ..Balances::default() };
        let text = Cursor(codec::encode(&Mark::of(300, &balances)).unwrap()).to_string();
        let read = Mark::read(&text).unwrap();
        assert_eq!((read.number, read.balances()), (300, balances));
        for wrong in ["", "zzzz", "AAAA"] {
            assert!(Mark::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
