//! The ledger: a line for each change of the balance, as a row, numbered 1, 2, 3 within the wallet.
//!
//! A line's public id must be an integer below 2^53 that is unique over the installation. A turn
//! could not draw one from a shared counter without waiting for another actor, so lines get their
//! ids in ranges, the first time somebody reads them: [`Numbers`] hands a range out and the wallet
//! records it. Ranges double, so there are few. What was never read has no id, and no cost.

use persistence::{RowRange, codec};
use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Origin, Refusal, RowDraft, System, Timestamp, Turn};
use types::{AppId, Page, TenantId, TransactionId};

use super::{
    Account, AppDraw, Hold, HoldId, LedgerNumbered, Posting, Wallet, WalletEvent, earned, issued,
    sum_of, wallet_address,
};
use crate::numbers::{Numbers, TakeNumbers, numbers_address};

/// The family of the ledger's rows: keys are the tenant's id and the line's number, big endian.
pub const LEDGER_FAMILY: &str = "ledger";

/// The series that the ledger's ids come from.
const SERIES: &str = "ledger";
/// How many numbers a wallet takes at least.
const NUMBERS_MIN: u64 = 256;
/// How often a reader tries again whose wallet grows, or is numbered by another, meanwhile.
const NUMBERING_ATTEMPTS_MAX: usize = 8;

/// How the ledger names a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Something was done and paid for.
    Action,
    /// Credits were bought.
    Topup,
    /// A developer was paid.
    Commission,
    /// It was put right, or credits lapsed.
    Adjustment,
    /// A payment was taken back.
    Refund,
    /// A plan's credits.
    PlanCredit,
    /// A present.
    Bonus,
}

/// A line of the ledger as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerLine {
    /// The transaction. The lines of a hold share one.
    pub transaction: u128,
    /// Signed, in credits; never 0.
    pub amount: i64,
    /// How it is named.
    pub reason: Reason,
    /// The app it was spent on.
    pub app: Option<AppId>,
    /// For people.
    pub description: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A line of the ledger as callers see it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct LedgerEntry {
    /// Unique over the installation, below 2^53.
    pub id: u64,
    /// The transaction. The lines of a hold share one.
    pub transaction_id: TransactionId,
    /// Signed, in credits.
    pub amount: i64,
    /// How it is named.
    pub reason: Reason,
    /// The app it was spent on.
    pub app_id: Option<AppId>,
    /// For people.
    pub description: Option<String>,
    /// RFC 3339.
    pub created_at: Option<String>,
}

/// Lines from `first_line` on have the ids from `first_id` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberRange {
    first_line: u64,
    first_id: u64,
    count: u64,
}

impl From<&LedgerNumbered> for NumberRange {
    fn from(numbered: &LedgerNumbered) -> Self {
        let LedgerNumbered { first_line, first_id, count } = *numbered;
        Self { first_line, first_id, count }
    }
}

/// The first line without an id.
fn unnumbered(ranges: &[NumberRange]) -> u64 {
    ranges.last().map_or(1, |range| range.first_line + range.count)
}

fn id_of(ranges: &[NumberRange], line: u64) -> Option<u64> {
    let after = ranges.partition_point(|range| range.first_line <= line);
    let range = ranges.get(after.checked_sub(1)?)?;
    let place = line - range.first_line;
    (place < range.count).then_some(range.first_id + place)
}

fn line_key(tenant: TenantId, line: u64) -> Vec<u8> {
    [tenant.0.to_be_bytes().as_slice(), &line.to_be_bytes()].concat()
}

/// What an event spent, by app where it says so: positive amounts.
fn spent(event: &WalletEvent) -> impl Iterator<Item = (Option<&AppId>, i64)> {
    let (draws, whole): (&[AppDraw], _) = match event {
        WalletEvent::HoldDrawn(drawn) => (&drawn.draws, None),
        WalletEvent::LateDrawn(late) => (&late.draws, None),
        WalletEvent::Debited(debited) => {
            (&[], Some((debited.spender.app.as_ref(), earned(&debited.postings))))
        }
        other => (&[], Some((None, earned(other.postings())))),
    };
    let by_app = draws.iter().map(|draw| {
        let charged = draw.items.iter().map(|item| item.charged).sum();
        (Some(&draw.app), charged)
    });
    by_app.chain(whole).filter(|(_, amount)| *amount != 0)
}

fn lapsed(postings: &[Posting]) -> i64 {
    sum_of(postings, |account| matches!(account, Account::Lapsed))
}

/// How many lines an event adds.
pub(super) fn line_count(event: &WalletEvent) -> u64 {
    let postings = event.postings();
    let others = u64::from(issued(postings) != 0) + u64::from(lapsed(postings) != 0);
    spent(event).count() as u64 + others
}

/// The lines that an event adds, as rows. `wallet` is as it was before.
pub(super) fn line_rows(
    wallet: &Wallet,
    event: &WalletEvent,
    at: Timestamp,
    rows: &mut Vec<RowDraft>,
) {
    let tenant = match event {
        WalletEvent::Granted(granted) => Some(granted.tenant),
        _ => wallet.tenant,
    };
    let Some(tenant) = tenant else { return };
    for (place, line) in lines(wallet, event, at).into_iter().enumerate() {
        let key = line_key(tenant, wallet.lines + 1 + place as u64);
        // Numbers and texts of bounded length always encode; if not, the turn crashes unrecorded.
        let value = codec::encode(&line).unwrap_or_else(|error| panic!("a ledger line: {error}"));
        rows.push(RowDraft { family: LEDGER_FAMILY, key, value: Some(value) });
    }
}

fn lines(wallet: &Wallet, event: &WalletEvent, at: Timestamp) -> Vec<LedgerLine> {
    let hold_reason = |id: &HoldId| wallet.holds.get(id).map(|hold: &Hold| hold.reason.clone());
    let (transaction, reason, description) = match event {
        WalletEvent::Granted(it) => (it.id.0, it.reason, it.description.clone()),
        WalletEvent::Reversed(it) => (it.id.0, it.reason, it.description.clone()),
        WalletEvent::Debited(it) => (it.id.0, it.reason, it.description.clone()),
        WalletEvent::HoldPlaced(it) => (it.id.0, Reason::Action, Some(it.reason.clone())),
        WalletEvent::HoldDrawn(it) => (it.hold.0, Reason::Action, hold_reason(&it.hold)),
        WalletEvent::LateDrawn(it) => (it.hold.0, Reason::Action, hold_reason(&it.hold)),
        WalletEvent::HoldEnded(it) => (it.hold.0, Reason::Action, hold_reason(&it.hold)),
        _ => (0, Reason::Adjustment, None),
    };
    let line = |amount, reason, app: Option<&AppId>, description| LedgerLine {
        transaction,
        amount,
        reason,
        app: app.cloned(),
        description,
        at,
    };
    let (issued, lapsed) = (issued(event.postings()), lapsed(event.postings()));
    let mut lines = Vec::new();
    if issued != 0 {
        lines.push(line(-issued, reason, None, description.clone()));
    }
    for (app, amount) in spent(event) {
        lines.push(line(-amount, reason, app, description.clone()));
    }
    if lapsed != 0 {
        let description = Some("Credits lapsed".to_owned());
        lines.push(line(-lapsed, Reason::Adjustment, None, description));
    }
    lines
}

/// Gives lines their ids: those from `first_line` on. Ignored when they have some by now; answers
/// all ranges.
#[derive(Clone, Copy, Debug)]
pub struct NumberLedger {
    first_line: u64,
    first_id: u64,
    count: u64,
}

impl Command for NumberLedger {
    const NAME: &'static str = "number_ledger";
    const ESSENTIAL: bool = true;
}

impl Handle<NumberLedger> for Wallet {
    type Reply = Vec<NumberRange>;

    fn handle(
        turn: &mut Turn<'_, Self>,
        command: NumberLedger,
    ) -> Result<Vec<NumberRange>, Refusal> {
        let NumberLedger { first_line, first_id, count } = command;
        if first_line == unnumbered(&turn.state().numbers) {
            let numbered = LedgerNumbered { first_line, first_id, count };
            turn.record(WalletEvent::LedgerNumbered(numbered));
        }
        Ok(turn.state().numbers.clone())
    }
}

/// How many lines one step of [`ledger_sum`] reads.
const SUM_STEP: usize = 10_000;

/// The sum of all lines of a tenant's ledger.
pub fn ledger_sum(system: &System, tenant: TenantId) -> Result<i64, String> {
    let (mut after, mut sum) = (None, 0);
    loop {
        let range = RowRange {
            shard: wallet_address(tenant).place().shard(),
            family: LEDGER_FAMILY,
            prefix: tenant.0.to_be_bytes().to_vec(),
            after,
            newest_first: false,
            limit: SUM_STEP,
        };
        let rows = system.rows(&range);
        for (_, value) in &rows {
            let line: LedgerLine = codec::decode(value).map_err(|error| error.to_string())?;
            sum += line.amount;
        }
        after = rows.last().map(|(key, _)| key.clone());
        if rows.len() < SUM_STEP {
            return Ok(sum);
        }
    }
}

/// A page of a tenant's ledger, the newest line first.
pub async fn history(
    system: &System,
    tenant: TenantId,
    page: Page,
    origin: Origin,
) -> Result<Vec<LedgerEntry>, Refusal> {
    let address = wallet_address(tenant);
    let wallets = system.directory::<Wallet>();
    let see = |wallet: &Wallet| (wallet.lines, wallet.numbers.clone());
    let (lines, ranges) = wallets.look(&address, origin.clone(), see).await?;
    let Some(newest) = lines.checked_sub(page.offset as u64).filter(|newest| *newest > 0) else {
        return Ok(Vec::new());
    };
    let ranges = numbered(system, tenant, newest, ranges, origin).await?;
    let range = RowRange {
        shard: address.place().shard(),
        family: LEDGER_FAMILY,
        prefix: tenant.0.to_be_bytes().to_vec(),
        after: Some(line_key(tenant, newest + 1)),
        newest_first: true,
        limit: page.limit,
    };
    system.rows(&range).iter().map(|(key, value)| entry(&ranges, key, value)).collect()
}

/// The ranges, once they reach up to the line `newest`.
async fn numbered(
    system: &System,
    tenant: TenantId,
    newest: u64,
    mut ranges: Vec<NumberRange>,
    origin: Origin,
) -> Result<Vec<NumberRange>, Refusal> {
    let (address, wallets) = (wallet_address(tenant), system.directory::<Wallet>());
    for _ in 0..NUMBERING_ATTEMPTS_MAX {
        let first_line = unnumbered(&ranges);
        if first_line > newest {
            return Ok(ranges);
        }
        let (count, series) = (newest.max(NUMBERS_MIN), numbers_address(SERIES));
        let numbers = system.directory::<Numbers>();
        let first_id = numbers.ask(&series, TakeNumbers { count }, origin.clone()).await?;
        let number = NumberLedger { first_line, first_id, count };
        ranges = wallets.ask(&address, number, origin.clone()).await?;
    }
    Err(Refusal::busy())
}

fn entry(ranges: &[NumberRange], key: &[u8], value: &[u8]) -> Result<LedgerEntry, Refusal> {
    let damaged = || Refusal::new(Class::Crashed, "internal_error", "a ledger line is damaged");
    let line = key.last_chunk::<8>().map(|line| u64::from_be_bytes(*line));
    let id = line.and_then(|line| id_of(ranges, line)).ok_or_else(damaged)?;
    let line: LedgerLine = codec::decode(value).map_err(|_| damaged())?;
    Ok(LedgerEntry {
        id,
        transaction_id: TransactionId(line.transaction),
        amount: line.amount,
        reason: line.reason,
        app_id: line.app,
        description: line.description,
        created_at: Some(types::rfc3339(line.at)),
    })
}
