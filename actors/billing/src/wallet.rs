//! A tenant's wallet: what it has, what it holds back, what it owes.
//!
//! What holds at every record: the postings of an event sum to zero; the balance is the sum of the
//! ledger's lines; nothing available, locked or held is below zero; while something is owed,
//! nothing is available; a hold ends once, and no more is captured than it held.
//!
//! Repetitions are recognised by the ids that callers give: the last [`SPENT_MAX`] debits and ended
//! holds for 24 h, and the last [`FILLED_MAX`] grants and reversals for 30 days. A process that
//! must spend exactly once, however late and however busy the wallet, places a hold and settles
//! it: an ended hold cannot be drawn from.
//!
//! Whatever spends names who does, and on what: that is what its [`limits`] and the month's
//! [`figures`] count.
//!
//! Deliberate limits: no credit line, one currency.

mod account;
mod figures;
mod fill;
mod holds;
mod ledger;
mod limiting;
mod limits;
mod older;
mod plan;
mod recent;
mod release_open;
mod spend;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use supervision::{Address, Class, Entity, NoEffect, Refusal, RowDraft, Timestamp, Turn, events};
use types::{
    AppId, CallId, GrantId, HoldId, TenantId, TransactionId, base32, home_of, owner_of_tenant,
};

pub use account::{Account, Bucket, Expiry, Kind, Posting};
use account::{Slices, sum_of, take, total};
use figures::Figures;
pub use figures::{
    Actions, ActionsCounted, CountActions, METER_CHARACTERS_MAX, METERED_AT_ONCE_MAX, METERS_MAX,
    Month, TrackUsage, USERS_COUNTED_MAX, UsageTracked,
};
pub use fill::{Grant, Reverse, UnlockWelcome, WELCOME_CREDITS, WELCOME_SPENDABLE};
pub use holds::{
    Capture, DRAWN_MAX, Ended, HOLD_TTL_MS_MAX, HOLD_TTL_MS_MIN, HoldView, PlaceHold, Placed,
    Release, SETTLE_ITEMS_MAX, Settle, SettleItem, Settlement,
};
pub use ledger::{
    LEDGER_FAMILY, LedgerEntry, LedgerLine, NumberLedger, NumberRange, Reason, history, ledger_sum,
};
use ledger::{line_count, line_rows};
pub use limiting::{EnsureLimit, LimitAction, LimitView, RemoveLimit, SetLimit, no_limit};
use limits::Limits;
pub use limits::{
    LIMITS_MAX, LimitRemoved, LimitSet, LimitWarned, Spender, Subject, WARNED_PERCENT, Window,
};
pub use older::{DebitedFirst, HoldPlacedFirst};
pub use plan::{NotePlan, PlanNoted};
use recent::Recent;
pub use release_open::{OpenReleased, ReleaseOpen};
pub use spend::{Debit, Receipt};

/// The most a wallet may have, and owe, in credits: well below 2^53.
pub const BALANCE_MAX: i64 = 1_000_000_000_000_000;
/// How many buckets a wallet may have; equal grants share one.
pub const BUCKETS_MAX: usize = 64;
/// How many holds may be open.
pub const HOLDS_OPEN_MAX: usize = 16_384;
/// How many debits and ended holds are remembered, at most.
pub const SPENT_MAX: usize = 65_536;
/// How long debits and ended holds are remembered, in milliseconds.
pub const SPENT_KEPT_MS: i64 = 24 * 60 * 60 * 1_000;
/// How many grants and reversals are remembered, at most.
pub const FILLED_MAX: usize = 4_096;
/// How long grants and reversals are remembered, in milliseconds.
pub const FILLED_KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// How many holds one turn lets expire; the next turn follows at once.
pub const EXPIRED_PER_TURN: usize = 500;
/// Characters of a description.
pub const DESCRIPTION_CHARACTERS_MAX: usize = 500;

/// The address of a tenant's wallet.
pub fn wallet_address(tenant: TenantId) -> Address<Wallet> {
    let address = Address::new(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant));
    // 26 characters of base32 are neither empty, nor too long, nor unprintable.
    address.unwrap_or_else(|| panic!("{tenant} has no address"))
}

/// A tenant's wallet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wallet {
    /// Whose; known from the first grant on.
    tenant: Option<TenantId>,
    available: Slices,
    locked: Slices,
    /// The sum over the open holds.
    held: i64,
    /// What is owed, not below 0.
    owed: i64,
    /// Whether locked grants come unlocked.
    unlocked: bool,
    holds: BTreeMap<HoldId, Hold>,
    deadlines: BTreeSet<(Timestamp, HoldId)>,
    spent: Recent<Done>,
    filled: Recent<Done>,
    /// How many lines the ledger has.
    lines: u64,
    /// The integer ids of the ledger's lines, in order, without gaps.
    numbers: Vec<NumberRange>,
    limits: Limits,
    figures: Figures,
    /// The plan in effect, once there is one.
    noted: Option<PlanNoted>,
}

/// An open hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hold {
    amount: i64,
    /// What is left of it.
    slices: Slices,
    /// What was drawn or captured.
    captured: i64,
    /// The items that were drawn.
    drawn: BTreeSet<u128>,
    reason: String,
    call: Option<CallId>,
    spender: Spender,
    /// How many actions it was counted as.
    actions: u32,
    placed_at: Timestamp,
    expires_at: Timestamp,
}

/// What became of an id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Done {
    Filled {
        amount: i64,
        balance: i64,
    },
    Reversed {
        amount: i64,
        balance: i64,
    },
    Debited {
        amount: i64,
        balance: i64,
    },
    /// `last` is what the end itself captured. `spender` is who spends what may yet come late.
    Ended {
        end: End,
        amount: i64,
        captured: i64,
        last: i64,
        spender: Option<Box<Spender>>,
    },
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was captured, in whole or in part.
    Captured,
    /// It was given up.
    Released,
    /// Its time was over.
    Expired,
    /// What was done for it was settled.
    Settled,
}

/// What a wallet has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Balance {
    /// The sum of the ledger: available, locked and held, less what is owed.
    pub balance: i64,
    /// What may be spent now.
    pub available: i64,
    /// The promotional part of what may be spent now.
    pub promotional: i64,
    /// Promotional credits that wait for the e-mail address to be verified.
    pub locked: i64,
    /// What open holds hold back.
    pub held: i64,
    /// What is owed.
    pub owed: i64,
}

events! {
    /// What happens to a wallet.
    pub enum WalletEvent {
        /// Credits came in.
        Granted(Granted) = "granted", 1;
        /// Locked credits may be spent from now on.
        Unlocked(Unlocked) = "unlocked", 1;
        /// A payment was taken back.
        Reversed(Reversed) = "reversed", 1;
        /// Credits were spent at once.
        Debited(Debited) = "debited", 2, was 1 as DebitedFirst;
        /// Credits were reserved.
        HoldPlaced(HoldPlaced) = "hold_placed", 2, was 1 as HoldPlacedFirst;
        /// What was done for a hold was drawn from it.
        HoldDrawn(HoldDrawn) = "hold_drawn", 1;
        /// What was done for a hold was charged after the hold had expired.
        LateDrawn(LateDrawn) = "late_drawn", 1;
        /// A hold was captured, released or expired.
        HoldEnded(HoldEnded) = "hold_ended", 1;
        /// Credits lapsed.
        Lapsed(Lapsed) = "lapsed", 1;
        /// Lines of the ledger got their integer ids.
        LedgerNumbered(LedgerNumbered) = "ledger_numbered", 1;
        /// A limit was set.
        LimitSet(LimitSet) = "limit_set", 1;
        /// A limit was removed.
        LimitRemoved(LimitRemoved) = "limit_removed", 1;
        /// A limit is nearly, or all, used.
        LimitWarned(LimitWarned) = "limit_warned", 1;
        /// Actions that cost nothing were let through.
        ActionsCounted(ActionsCounted) = "actions_counted", 1;
        /// A service has metered something.
        UsageTracked(UsageTracked) = "usage_tracked", 1;
        /// Another plan is in effect.
        PlanNoted(PlanNoted) = "plan_noted", 1;
    }
}

/// Credits came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// The grant.
    pub id: GrantId,
    /// Whose wallet it is.
    pub tenant: TenantId,
    /// How the ledger names it.
    pub reason: Reason,
    /// For people.
    pub description: Option<String>,
    /// The change.
    pub postings: Vec<Posting>,
}

/// Locked credits may be spent from now on, and grants are no longer locked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unlocked {
    /// The change.
    pub postings: Vec<Posting>,
}

/// A payment was taken back: what was available went, the rest is owed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reversed {
    /// The transaction.
    pub id: TransactionId,
    /// How the ledger names it.
    pub reason: Reason,
    /// For people.
    pub description: Option<String>,
    /// The change.
    pub postings: Vec<Posting>,
}

/// Credits were spent at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Debited {
    /// The transaction.
    pub id: TransactionId,
    /// How the ledger names it.
    pub reason: Reason,
    /// Who spent them, and on what.
    pub spender: Spender,
    /// For people.
    pub description: Option<String>,
    /// The change.
    pub postings: Vec<Posting>,
}

/// Credits were reserved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldPlaced {
    /// The hold.
    pub id: HoldId,
    /// When it expires by itself.
    pub expires_at: Timestamp,
    /// For people.
    pub reason: String,
    /// The call or batch it is for.
    pub call: Option<CallId>,
    /// Who is to spend them, and on what.
    pub spender: Spender,
    /// How many actions it counts as.
    pub actions: u32,
    /// The change.
    pub postings: Vec<Posting>,
}

/// What was done for a hold was drawn from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldDrawn {
    /// The hold.
    pub hold: HoldId,
    /// What was drawn, by app.
    pub draws: Vec<AppDraw>,
    /// Whether the hold ended with it; the rest was released.
    pub ended: bool,
    /// The change.
    pub postings: Vec<Posting>,
}

/// What was done for a hold was charged after the hold had expired: from what was available then,
/// and the rest is owed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LateDrawn {
    /// The hold.
    pub hold: HoldId,
    /// What was charged, by app.
    pub draws: Vec<AppDraw>,
    /// The change.
    pub postings: Vec<Posting>,
}

/// What was drawn for one app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppDraw {
    /// The app.
    pub app: AppId,
    /// The items, in the order they were given.
    pub items: Vec<DrawnItem>,
}

/// An item that was drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrawnItem {
    /// The item.
    pub id: u128,
    /// What it cost, in credits.
    pub charged: i64,
    /// What of it the developer has earned, in credits.
    pub earned: i64,
}

/// A hold was captured, released or expired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldEnded {
    /// The hold.
    pub hold: HoldId,
    /// How.
    pub end: End,
    /// The change.
    pub postings: Vec<Posting>,
}

/// Credits lapsed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lapsed {
    /// The change.
    pub postings: Vec<Posting>,
}

/// The ledger's lines from `first_line` on got the integer ids from `first_id` on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerNumbered {
    /// The first line.
    pub first_line: u64,
    /// Its id.
    pub first_id: u64,
    /// How many.
    pub count: u64,
}

impl WalletEvent {
    /// The change; it sums to zero.
    pub fn postings(&self) -> &[Posting] {
        match self {
            Self::Granted(Granted { postings, .. })
            | Self::Unlocked(Unlocked { postings })
            | Self::Reversed(Reversed { postings, .. })
            | Self::Debited(Debited { postings, .. })
            | Self::HoldPlaced(HoldPlaced { postings, .. })
            | Self::HoldDrawn(HoldDrawn { postings, .. })
            | Self::LateDrawn(LateDrawn { postings, .. })
            | Self::HoldEnded(HoldEnded { postings, .. })
            | Self::Lapsed(Lapsed { postings }) => postings,
            Self::LedgerNumbered(_)
            | Self::LimitSet(_)
            | Self::LimitRemoved(_)
            | Self::LimitWarned(_)
            | Self::ActionsCounted(_)
            | Self::UsageTracked(_)
            | Self::PlanNoted(_) => &[],
        }
    }
}

impl Entity for Wallet {
    const KIND: &'static str = "wallet";
    const SNAPSHOT_VERSION: u16 = 3;
    type Event = WalletEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &WalletEvent, at: Timestamp) {
        if let WalletEvent::HoldPlaced(placed) = event {
            self.open(placed, at);
        }
        let hold = match event {
            WalletEvent::HoldPlaced(placed) => Some(placed.id),
            WalletEvent::HoldDrawn(drawn) => Some(drawn.hold),
            WalletEvent::HoldEnded(ended) => Some(ended.hold),
            _ => None,
        };
        for posting in event.postings() {
            self.post(posting, hold);
        }
        self.lines += line_count(event);
        self.count(event, at);
        self.note(event, at);
    }

    fn rows(&self, event: &WalletEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        line_rows(self, event, at, rows);
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let hold = self.deadlines.first().map(|(at, _)| *at);
        let buckets = self.available.keys().chain(self.locked.keys());
        let lapse = buckets.filter_map(|bucket| match bucket.expiry {
            Expiry::At(at) => Some(at),
            Expiry::Never => None,
        });
        hold.into_iter().chain(lapse).min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        holds::expire(turn);
        fill::lapse(turn);
    }

    fn observe(&self) -> serde_json::Value {
        let credits = |slices: &Slices| -> Vec<_> {
            let view = |(bucket, amount): (&Bucket, &i64)| {
                let expires_at = match bucket.expiry {
                    Expiry::At(at) => Some(types::rfc3339(at)),
                    Expiry::Never => None,
                };
                serde_json::json!({"kind": bucket.kind, "priority": bucket.priority,
                    "expires_at": expires_at, "credits": amount})
            };
            slices.iter().map(view).collect()
        };
        serde_json::json!({
            "tenant": self.tenant,
            "plan": self.plan().id,
            "balance": self.sum(),
            "available": credits(&self.available),
            "locked": credits(&self.locked),
            "held": self.held,
            "owed": self.owed,
            "open_holds": self.holds.len(),
            "next_hold_expires_at": self.deadlines.first().map(|(at, _)| types::rfc3339(*at)),
            "remembered": self.spent.len() + self.filled.len(),
            "ledger_lines": self.lines,
            "limits_set": self.limits.len(),
            "limits": self.observed_limits(),
        })
    }
}

impl Wallet {
    fn open(&mut self, placed: &HoldPlaced, at: Timestamp) {
        let hold = Hold {
            amount: sum_of(&placed.postings, |account| matches!(account, Account::Held(_))),
            slices: Slices::new(),
            captured: 0,
            drawn: BTreeSet::new(),
            reason: placed.reason.clone(),
            call: placed.call,
            spender: placed.spender.clone(),
            actions: placed.actions,
            placed_at: at,
            expires_at: placed.expires_at,
        };
        self.deadlines.insert((hold.expires_at, placed.id));
        self.holds.insert(placed.id, hold);
    }

    fn post(&mut self, posting: &Posting, hold: Option<HoldId>) {
        let amount = posting.amount;
        match &posting.account {
            Account::Available(bucket) => account::add(&mut self.available, *bucket, amount),
            Account::Locked(bucket) => account::add(&mut self.locked, *bucket, amount),
            Account::Held(bucket) => {
                self.held = self.held.saturating_add(amount);
                if let Some(hold) = hold.and_then(|hold| self.holds.get_mut(&hold)) {
                    account::add(&mut hold.slices, *bucket, amount);
                }
            }
            Account::Arrears => self.owed = self.owed.saturating_sub(amount),
            Account::Payable(_) | Account::Platform => {
                if let Some(hold) = hold.and_then(|hold| self.holds.get_mut(&hold)) {
                    hold.captured = hold.captured.saturating_add(amount);
                }
            }
            Account::Issued(_) | Account::Lapsed => {}
        }
    }

    /// Takes in what an event says beside its postings.
    fn note(&mut self, event: &WalletEvent, at: Timestamp) {
        let balance = self.sum();
        match event {
            WalletEvent::Granted(granted) => {
                self.tenant = Some(granted.tenant);
                let amount = -issued(&granted.postings);
                self.note_filled(granted.id.0, at, Done::Filled { amount, balance });
            }
            WalletEvent::Unlocked(_) => self.unlocked = true,
            WalletEvent::Reversed(reversed) => {
                let amount = issued(&reversed.postings);
                self.note_filled(reversed.id.0, at, Done::Reversed { amount, balance });
            }
            WalletEvent::Debited(debited) => {
                let amount = earned(&debited.postings);
                self.note_spent(debited.id.0, at, Done::Debited { amount, balance });
            }
            WalletEvent::HoldPlaced(_) | WalletEvent::Lapsed(_) => {}
            WalletEvent::HoldDrawn(drawn) => {
                if let Some(hold) = self.holds.get_mut(&drawn.hold) {
                    let items = drawn.draws.iter().flat_map(|draw| &draw.items);
                    hold.drawn.extend(items.map(|item| item.id));
                }
                if drawn.ended {
                    self.close(drawn.hold, End::Settled, earned(&drawn.postings), at);
                }
            }
            WalletEvent::LateDrawn(late) => {
                let Some(Ended { amount, captured, .. }) = self.ended(late.hold) else { return };
                let last = earned(&late.postings);
                let (end, captured) = (End::Settled, captured + last);
                let done = Done::Ended { end, amount, captured, last, spender: None };
                self.note_spent(late.hold.0, at, done);
            }
            WalletEvent::HoldEnded(ended) => {
                self.close(ended.hold, ended.end, earned(&ended.postings), at);
            }
            WalletEvent::LedgerNumbered(numbered) => self.numbers.push(numbered.into()),
            WalletEvent::LimitSet(set) => {
                let held = self.held_for(&set.subject);
                self.limits.set(set, held, at);
            }
            WalletEvent::LimitRemoved(removed) => self.limits.remove(removed),
            WalletEvent::LimitWarned(warned) => self.limits.warned(warned, at),
            WalletEvent::ActionsCounted(it) => {
                self.figures.act(Some(it.user), it.actions.into(), at);
            }
            WalletEvent::UsageTracked(tracked) => self.figures.meter(tracked, at),
            WalletEvent::PlanNoted(noted) => self.noted = Some(noted.clone()),
        }
    }

    fn close(&mut self, id: HoldId, end: End, last: i64, at: Timestamp) {
        let Some(hold) = self.holds.remove(&id) else { return };
        self.deadlines.remove(&(hold.expires_at, id));
        let Hold { amount, captured, spender, placed_at, .. } = hold;
        let idle = u64::from(hold.actions).saturating_sub(hold.drawn.len() as u64);
        self.figures.take_back(spender.user, idle, (placed_at, at));
        // Only of a hold that expired, and that nothing was drawn from, may something come late.
        let is_late = end == End::Expired && captured == 0;
        let spender = is_late.then(|| Box::new(spender));
        let done = Done::Ended { end, amount, captured, last, spender };
        self.note_spent(id.0, at, done);
    }

    fn note_spent(&mut self, id: u128, at: Timestamp, done: Done) {
        self.spent.insert(id, at, done, SPENT_KEPT_MS, SPENT_MAX);
    }

    fn note_filled(&mut self, id: u128, at: Timestamp, done: Done) {
        self.filled.insert(id, at, done, FILLED_KEPT_MS, FILLED_MAX);
    }

    /// The sum of the ledger.
    fn sum(&self) -> i64 {
        total(&self.available) + total(&self.locked) + self.held - self.owed
    }

    /// Checks the books against `ledger_sum`, the sum of the ledger's lines; says what is wrong.
    pub fn check_books(&self, ledger_sum: i64) -> Result<(), String> {
        let held: i64 = self.holds.values().map(|hold| total(&hold.slices)).sum();
        let amounts = self.available.values().chain(self.locked.values());
        let lowest = amounts.copied().chain([self.held, self.owed]).min().unwrap_or(0);
        if held != self.held {
            return Err(format!("the open holds hold {held}, the books say {}", self.held));
        }
        for (subject, counted) in self.limits.held() {
            let held = self.held_for(subject);
            if held != counted {
                return Err(format!("{subject} holds {held}, its limits count {counted}"));
            }
        }
        if lowest < 0 {
            return Err(format!("an account stands at {lowest}"));
        }
        if ledger_sum != self.sum() {
            return Err(format!("the ledger sums to {ledger_sum}, the balance is {}", self.sum()));
        }
        Ok(())
    }

    /// What the wallet has at `now`.
    pub fn balance(&self, now: Timestamp) -> Balance {
        let live = || self.available.iter().filter(|(bucket, _)| !bucket.is_over(now));
        let promotional = live().filter(|(bucket, _)| bucket.kind == Kind::Promotional);
        Balance {
            balance: self.sum(),
            available: live().map(|(_, amount)| amount).sum(),
            promotional: promotional.map(|(_, amount)| amount).sum(),
            locked: total(&self.locked),
            held: self.held,
            owed: self.owed,
        }
    }

    /// Which buckets `price` is paid from; refused with 402 when they do not cover it.
    fn cover(&self, price: i64, now: Timestamp) -> Result<Vec<(Bucket, i64)>, Refusal> {
        let (taken, missing) = take(&self.available, price, |bucket| !bucket.is_over(now));
        if missing == 0 && self.owed == 0 {
            return Ok(taken);
        }
        let Balance { balance, available, locked, held, owed, .. } = self.balance(now);
        let limit = match available {
            _ if owed > 0 => "arrears",
            _ if price - available <= locked => "email_unverified",
            _ if price - available <= locked + held => "open_holds",
            _ => "balance",
        };
        let message = format!("this costs {price} credits and {available} can be spent");
        let facts = serde_json::json!({"balance": balance, "available": available,
            "price": price, "limit": limit});
        Err(Refusal::new(Class::Payment, "insufficient_credits", message).with_facts(&facts))
    }
}

/// What came in from (below 0) or went back to where grants come from.
fn issued(postings: &[Posting]) -> i64 {
    sum_of(postings, |account| matches!(account, Account::Issued(_)))
}

/// What the platform and developers earned.
fn earned(postings: &[Posting]) -> i64 {
    sum_of(postings, |account| matches!(account, Account::Payable(_) | Account::Platform))
}

fn check_description(field: &str, text: &str) -> Result<(), Refusal> {
    if text.chars().count() <= DESCRIPTION_CHARACTERS_MAX {
        return Ok(());
    }
    let message = format!("at most {DESCRIPTION_CHARACTERS_MAX} characters");
    Err(Refusal::invalid(field, message))
}

/// The id was used for something else: a caller's mistake, and nothing is done.
fn reused(id: impl std::fmt::Display) -> Refusal {
    let message = format!("{id} was used for something else; use a new id");
    Refusal::conflict("id_reused", message)
}
