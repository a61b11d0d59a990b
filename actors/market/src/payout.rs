//! Payouts: a developer asks for what was earned, somebody approves it, and it is paid; or it is
//! rejected and may be asked for again.
//!
//! States: `pending`, then `approved`, then `paid`; or `rejected`, from `pending` or `approved`.
//! The rate at which credits become money is locked when the payout is asked for.
//!
//! Invariants
//! - What is asked for leaves `earned` in the same turn, so it is asked for once.
//! - A payout ends once; to decide as it was decided changes nothing.
//!
//! Rows: family [`PAYOUT_BY_FAMILY`], by developer and number, and while it is open
//! [`PAYOUT_OPEN_FAMILY`], by number, hold the [`Payout`]; [`PAYOUT_FAMILY`], by number, whose it
//! is.
//!
//! Deliberate limit: money leaves by hand or by another system; here it is noted that it did.

use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Refusal, RowDraft, Timestamp, Turn};
use types::{TenantId, UserId};

use crate::earnings::{Account, Earnings, EarningsEvent, Posting, moved};
use crate::listing::{put, remove};

/// Whose payout has which number.
pub const PAYOUT_FAMILY: &str = "payout";
/// The payouts of a developer.
pub const PAYOUT_BY_FAMILY: &str = "payout_by";
/// The payouts that are neither paid nor rejected.
pub const PAYOUT_OPEN_FAMILY: &str = "payout_open";
/// The series that payouts' numbers come from.
pub const PAYOUT_SERIES: &str = "payouts";
/// How many payouts of a developer may be open.
pub const PAYOUTS_OPEN_MAX: usize = 20;
/// Characters of a note.
pub const NOTE_CHARACTERS_MAX: usize = 500;

/// Where a payout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayoutStatus {
    /// It was asked for.
    Pending,
    /// It will be paid.
    Approved,
    /// It was paid.
    Paid,
    /// It will not be.
    Rejected,
}

impl PayoutStatus {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Paid => "paid",
            Self::Rejected => "rejected",
        }
    }

    /// Whether it may still become something else.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Approved)
    }

    fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Pending, Self::Approved | Self::Rejected)
                | (Self::Approved, Self::Paid | Self::Rejected)
        )
    }
}

/// A payout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payout {
    /// Its number, unique over the installation.
    pub id: u64,
    /// Who asked.
    pub developer: UserId,
    /// Their tenant.
    pub tenant: TenantId,
    /// How much, in credits.
    pub amount: i64,
    /// Millionths of a US dollar a credit, locked when it was asked for.
    pub rate_microdollars: i64,
    /// How it is paid.
    pub method: String,
    /// Where it stands.
    pub status: PayoutStatus,
    /// What was said when it was decided.
    pub note: Option<String>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it was last decided on.
    pub processed_at: Option<Timestamp>,
}

impl Payout {
    /// How much it is in US cents, rounded down.
    pub fn cents(&self) -> i64 {
        let microdollars = i128::from(self.amount) * i128::from(self.rate_microdollars);
        i64::try_from(microdollars / 10_000).unwrap_or(i64::MAX)
    }
}

/// A payout was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PayoutRequested {
    /// The payout.
    pub payout: Payout,
    /// The change.
    pub postings: Vec<Posting>,
}

/// A payout was approved, paid or rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PayoutDecided {
    /// The payout as it is then.
    pub payout: Payout,
    /// The change.
    pub postings: Vec<Posting>,
}

/// What the keys of a developer's payouts begin with.
pub(crate) fn payouts_prefix(developer: UserId) -> Vec<u8> {
    developer.0.to_be_bytes().to_vec()
}

pub(crate) fn payout_rows(payout: &Payout, rows: &mut Vec<RowDraft>) {
    let number = payout.id.to_be_bytes();
    let by = [payouts_prefix(payout.developer), number.to_vec()].concat();
    put(rows, PAYOUT_BY_FAMILY, by, payout);
    put(rows, PAYOUT_FAMILY, number.to_vec(), &(payout.developer, payout.tenant));
    match payout.status.is_open() {
        true => put(rows, PAYOUT_OPEN_FAMILY, number.to_vec(), payout),
        false => remove(rows, PAYOUT_OPEN_FAMILY, number.to_vec()),
    }
}

/// Asks for a payout. Refused: 409 `insufficient_earnings` beyond what is earned, 409
/// `too_many_payouts`. The same number again answers alike.
#[derive(Clone, Debug)]
pub struct RequestPayout {
    /// Its number.
    pub id: u64,
    /// Who asks.
    pub developer: UserId,
    /// Their tenant.
    pub tenant: TenantId,
    /// How much, in credits: 1 or more.
    pub amount: i64,
    /// Millionths of a US dollar a credit.
    pub rate_microdollars: i64,
    /// How it is paid.
    pub method: String,
}

impl Command for RequestPayout {
    const NAME: &'static str = "request_payout";
}

impl Handle<RequestPayout> for Earnings {
    type Reply = Payout;

    fn handle(turn: &mut Turn<'_, Self>, command: RequestPayout) -> Result<Payout, Refusal> {
        let RequestPayout { id, developer, tenant, amount, rate_microdollars, method } = command;
        let account = turn.state();
        if let Some(known) = account.open.get(&id) {
            return Ok(known.clone());
        }
        if amount < 1 {
            return Err(Refusal::invalid("amount_tokens", "must be 1 or more"));
        }
        let available = account.balances.earned;
        if amount > available {
            let message = format!("{available} credits are earned and not asked for yet");
            let facts = serde_json::json!({"available": available, "amount": amount});
            let refusal = Refusal::new(Class::Conflict, "insufficient_earnings", message);
            return Err(refusal.with_facts(&facts));
        }
        if account.open.len() >= PAYOUTS_OPEN_MAX {
            let message = format!("at most {PAYOUTS_OPEN_MAX} payouts are open at once");
            return Err(Refusal::conflict("too_many_payouts", message));
        }
        let payout = Payout {
            id,
            developer,
            tenant,
            amount,
            rate_microdollars,
            method,
            status: PayoutStatus::Pending,
            note: None,
            requested_at: turn.now(),
            processed_at: None,
        };
        let postings = moved(Account::Earned, Account::PayoutPending, amount);
        let requested = PayoutRequested { payout: payout.clone(), postings };
        turn.record(EarningsEvent::PayoutRequested(requested));
        Ok(payout)
    }
}

/// Decides on a payout. Refused: 404 `not_found` when it is not open, 409 `wrong_status` when its
/// state does not lead there.
#[derive(Clone, Debug)]
pub struct DecidePayout {
    /// Its number.
    pub id: u64,
    /// What it becomes.
    pub status: PayoutStatus,
    /// What is said to it.
    pub note: Option<String>,
}

impl Command for DecidePayout {
    const NAME: &'static str = "decide_payout";
}

impl Handle<DecidePayout> for Earnings {
    type Reply = Payout;

    fn handle(turn: &mut Turn<'_, Self>, command: DecidePayout) -> Result<Payout, Refusal> {
        let DecidePayout { id, status, note } = command;
        let known = turn.state().open.get(&id).cloned();
        let known = known.ok_or_else(|| Refusal::not_found("open payout"))?;
        if known.status == status {
            return Ok(known);
        }
        if !known.status.may_become(status) {
            let message = format!(
                "a payout that is {} does not become {}",
                known.status.name(),
                status.name()
            );
            let facts = serde_json::json!({"status": known.status});
            return Err(Refusal::conflict("wrong_status", message).with_facts(&facts));
        }
        let postings = match status {
            PayoutStatus::Paid => moved(Account::PayoutPending, Account::Paid, known.amount),
            PayoutStatus::Rejected => moved(Account::PayoutPending, Account::Earned, known.amount),
            PayoutStatus::Pending | PayoutStatus::Approved => Vec::new(),
        };
        let processed_at = Some(turn.now());
        let payout = Payout { status, note: note.or(known.note.clone()), processed_at, ..known };
        let decided = PayoutDecided { payout: payout.clone(), postings };
        turn.record(EarningsEvent::PayoutDecided(decided));
        Ok(payout)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use persistence::codec;
    use proptest::prelude::*;
    use supervision::Need;
    use supervision::testkit::Given;
    use types::AppId;

    use super::*;
    use crate::earnings::{
        APP_TOTAL_FAMILY, AppTotal, Balances, Credit, CreditLine, DAY_FAMILY, DAY_USER_FAMILY,
        DayTotal, Range,
    };

    const ADA: UserId = UserId(7);
    const HOME: TenantId = TenantId(8);

    /// An account with the rows that it has written, and the sum of all postings by account.
    struct Kept {
        given: Given<Earnings>,
        rows: BTreeMap<(&'static str, Vec<u8>), Vec<u8>>,
        posted: BTreeMap<Account, i64>,
    }

    impl Kept {
        fn new() -> Self {
            Self { given: Given::nothing(), rows: BTreeMap::new(), posted: BTreeMap::new() }
        }

        fn ask<C>(&mut self, command: C) -> Result<<Earnings as Handle<C>>::Reply, Refusal>
        where
            C: Command,
            Earnings: Handle<C>,
        {
            let mut given = std::mem::take(&mut self.given);
            for need in Earnings::needs(&command) {
                let Need::Row(family, key) = need else { continue };
                if let Some(value) = self.rows.get(&(family, key.clone())) {
                    given = given.row(family, &key, value);
                }
            }
            let then = given.when(command);
            self.given = then.given;
            for event in &then.events {
                assert_eq!(event.postings().iter().map(|it| it.amount).sum::<i64>(), 0);
                for posting in event.postings() {
                    *self.posted.entry(posting.account).or_default() += posting.amount;
                }
            }
            for RowDraft { family, key, value } in then.rows {
                match value {
                    Some(value) => self.rows.insert((family, key), value),
                    None => self.rows.remove(&(family, key)),
                };
            }
            then.outcome
        }

        fn sale(
            &mut self,
            shard: u8,
            from: u64,
            upto: u64,
            app: &str,
            earned: i64,
        ) -> Result<Vec<AppTotal>, Refusal> {
            let line = CreditLine {
                app: AppId::new(app).unwrap(),
                day: 20_000 + (from % 3) as i32,
                calls: 1,
                errors: 0,
                charged: earned + 1,
                earned,
                users: BTreeSet::from([from % 2]),
            };
            let ranges = vec![Range { shard, from, upto }];
            self.ask(Credit { developer: ADA, ranges, lines: vec![line] })
        }

        fn request(&mut self, id: u64, amount: i64) -> Result<Payout, Refusal> {
            self.ask(RequestPayout {
                id,
                developer: ADA,
                tenant: HOME,
                amount,
                rate_microdollars: 1_000,
                method: "stripe".to_owned(),
            })
        }

        fn decide(&mut self, id: u64, status: PayoutStatus) -> Result<Payout, Refusal> {
            self.ask(DecidePayout { id, status, note: None })
        }

        fn balances(&self) -> Balances {
            self.given.state().balances()
        }

        fn all<T: serde::de::DeserializeOwned>(&self, family: &str) -> Vec<T> {
            let rows = self.rows.iter().filter(|((known, _), _)| *known == family);
            rows.map(|(_, value)| codec::decode(value).unwrap()).collect()
        }

        /// Everything adds up, whichever way it is added.
        fn check(&self) {
            let Balances { total, platform, earned, pending, paid } = self.balances();
            assert_eq!(earned + pending + paid, total);
            let posted = |account| self.posted.get(&account).copied().unwrap_or(0);
            let accounts = [Account::Earned, Account::PayoutPending, Account::Paid].map(posted);
            assert_eq!(accounts, [earned, pending, paid]);
            assert_eq!(posted(Account::Sales), -total);
            let days: Vec<DayTotal> = self.all(DAY_FAMILY);
            let apps: Vec<AppTotal> = self.all(APP_TOTAL_FAMILY);
            assert_eq!(days.iter().map(|day| day.earned).sum::<i64>(), total);
            assert_eq!(apps.iter().map(|app| app.earned).sum::<i64>(), total);
            let kept = |charged: i64, earned: i64| charged - earned;
            assert_eq!(apps.iter().map(|it| kept(it.charged, it.earned)).sum::<i64>(), platform);
            let users: u64 = days.iter().map(|day| day.users).sum();
            assert_eq!(users as usize, self.all::<()>(DAY_USER_FAMILY).len());
            let payouts: Vec<Payout> = self.all(PAYOUT_BY_FAMILY);
            let sum = |wanted: fn(PayoutStatus) -> bool| -> i64 {
                payouts.iter().filter(|it| wanted(it.status)).map(|it| it.amount).sum()
            };
            assert_eq!(sum(PayoutStatus::is_open), pending);
            assert_eq!(sum(|status| status == PayoutStatus::Paid), paid);
            let open: Vec<Payout> = self.all(PAYOUT_OPEN_FAMILY);
            assert_eq!(open.iter().map(|it| it.amount).sum::<i64>(), pending);
        }
    }

    fn code<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> String {
        outcome.unwrap_err().code
    }

    #[test]
    fn a_payout_goes_its_way_once() {
        let mut kept = Kept::new();
        kept.sale(3, 1, 5, "shelf", 100).unwrap();
        assert_eq!(code(kept.request(1, 101)), "insufficient_earnings");
        assert_eq!(code(kept.request(1, 0)), "validation_error");
        let asked = kept.request(1, 60).unwrap();
        assert_eq!((asked.status, asked.cents()), (PayoutStatus::Pending, 6));
        assert_eq!(code(kept.request(2, 41)), "insufficient_earnings");
        assert_eq!(code(kept.decide(1, PayoutStatus::Paid)), "wrong_status");
        kept.decide(1, PayoutStatus::Approved).unwrap();
        assert_eq!(kept.balances().pending, 60);
        let paid = kept.decide(1, PayoutStatus::Paid).unwrap();
        assert!(paid.processed_at.is_some());
        assert_eq!(code(kept.decide(1, PayoutStatus::Rejected)), "not_found", "it has ended");
        kept.request(2, 40).unwrap();
        kept.decide(2, PayoutStatus::Rejected).unwrap();
        let balances = kept.balances();
        assert_eq!((balances.earned, balances.pending, balances.paid), (40, 0, 60));
        kept.check();
    }

    #[test]
    fn what_was_credited_is_not_credited_again() {
        let mut kept = Kept::new();
        assert_eq!(kept.sale(3, 1, 5, "shelf", 10).unwrap()[0].earned, 10);
        assert!(kept.sale(3, 1, 5, "shelf", 10).unwrap().is_empty());
        assert!(kept.sale(3, 4, 5, "shelf", 10).unwrap().is_empty());
        assert_eq!(code(kept.sale(3, 4, 9, "shelf", 10)), "credited_partly");
        assert_eq!(kept.sale(3, 6, 9, "shelf", -4).unwrap()[0].earned, 6, "given back");
        assert_eq!(kept.sale(4, 1, 5, "shelf", 1).unwrap()[0].calls, 3, "another shard");
        kept.check();
    }

    proptest! {
        /// Sales, refunds and payouts in any order: every line adds up to what was paid.
        #[test]
        fn every_history_adds_up(
            acts in prop::collection::vec((0..8_u8, 0..4_u8, 1..500_i64), 1..80),
        ) {
            let mut kept = Kept::new();
            let (mut position, mut payouts) = (1, 0);
            for (act, which, amount) in acts {
                let app = ["shelf", "notes", "atlas", "sky"][usize::from(which)];
                let _ = match act {
                    0..=2 => {
                        position += 2;
                        kept.sale(which, position, position + 1, app, amount).map(drop)
                    }
                    3 => {
                        position += 2;
                        let available = kept.balances().earned;
                        let back = -amount.min(available.max(0));
                        kept.sale(which, position, position + 1, app, back).map(drop)
                    }
                    4 => kept.sale(which, position, position + 1, app, amount).map(drop),
                    5 => {
                        payouts += 1;
                        kept.request(payouts, amount).map(drop)
                    }
                    6 => kept.decide(u64::from(which) + 1, PayoutStatus::Approved).map(drop),
                    _ => {
                        let ends = [PayoutStatus::Paid, PayoutStatus::Rejected];
                        let status = ends[(amount % 2) as usize];
                        kept.decide(u64::from(which) + 1, status).map(drop)
                    }
                };
                kept.check();
                prop_assert!(kept.balances().earned >= 0);
            }
        }
    }
}
