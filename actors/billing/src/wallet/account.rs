//! The accounts that a wallet's events post to, and how credits are drawn and returned.
//!
//! A posting is the whole change: applying an event adds its postings to the accounts and decides
//! nothing, so a rule that changes later cannot change what has happened. The postings of an
//! event sum to zero. Credits lie in buckets, and buckets that cannot be told apart are one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use supervision::Timestamp;
use types::AppId;

/// How credits came in. Promotional ones are spent first and never paid out to developers.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Given.
    Promotional,
    /// Paid for.
    Paid,
}

/// When credits lapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Expiry {
    /// At this time.
    At(Timestamp),
    /// Not at all.
    Never,
}

impl From<Option<Timestamp>> for Expiry {
    fn from(at: Option<Timestamp>) -> Self {
        at.map_or(Self::Never, Self::At)
    }
}

/// Credits that cannot be told apart. The order is the order of spending: promotional before paid,
/// then by priority, and what lapses sooner before what lapses later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bucket {
    /// How they came in.
    pub kind: Kind,
    /// The lower, the sooner spent.
    pub priority: u8,
    /// When they lapse.
    pub expiry: Expiry,
}

impl Bucket {
    /// Whether its credits have lapsed.
    pub fn is_over(&self, now: Timestamp) -> bool {
        matches!(self.expiry, Expiry::At(at) if at <= now)
    }
}

/// Where credits are. The first four are the wallet's own and sum to its balance; the others are
/// the far sides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Account {
    /// May be spent.
    Available(Bucket),
    /// Shown, but not spendable until the tenant's e-mail address is verified.
    Locked(Bucket),
    /// Reserved by the event's hold.
    Held(Bucket),
    /// What the tenant owes: never above zero.
    Arrears,
    /// Where grants come from and reversals go.
    Issued(Kind),
    /// What has lapsed.
    Lapsed,
    /// What a developer has earned with an app.
    Payable(AppId),
    /// What the platform has earned.
    Platform,
}

/// One side of a change: so many credits more in an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// The account.
    pub account: Account,
    /// Signed, in credits; never 0.
    pub amount: i64,
}

/// Credits by bucket, none of them 0.
pub(crate) type Slices = BTreeMap<Bucket, i64>;

/// Adds to a bucket; an empty one is removed.
pub(crate) fn add(slices: &mut Slices, bucket: Bucket, amount: i64) {
    let now = slices.entry(bucket).or_default();
    *now = now.saturating_add(amount);
    if *now == 0 {
        slices.remove(&bucket);
    }
}

/// How many credits there are.
pub(crate) fn total(slices: &Slices) -> i64 {
    slices.values().sum()
}

/// The postings of one event while they are being put together.
#[derive(Default)]
pub(crate) struct Postings(Vec<Posting>);

impl Postings {
    /// Posts; nothing is not posted.
    pub(crate) fn post(&mut self, account: Account, amount: i64) {
        if amount != 0 {
            self.0.push(Posting { account, amount });
        }
    }

    /// Returns credits to the wallet: lapsed ones lapse, what is owed is paid first, and the rest
    /// may be spent. `owed` is what is still owed, and gets less.
    pub(crate) fn give_back(
        &mut self,
        bucket: Bucket,
        amount: i64,
        now: Timestamp,
        owed: &mut i64,
    ) {
        if bucket.is_over(now) {
            return self.post(Account::Lapsed, amount);
        }
        let paid = amount.min(*owed);
        *owed -= paid;
        self.post(Account::Arrears, paid);
        self.post(Account::Available(bucket), amount - paid);
    }

    /// The postings, which sum to zero: anything else is a mistake in this crate, and the turn
    /// crashes before it is recorded.
    pub(crate) fn balanced(self) -> Vec<Posting> {
        let sum: i64 = self.0.iter().map(|posting| posting.amount).sum();
        assert!(sum == 0, "postings sum to {sum}");
        self.0
    }
}

/// Takes up to `amount` from the front of `slices`, which may be used as `usable` says: what was
/// taken from where, and how much is missing.
pub(crate) fn take(
    slices: &Slices,
    amount: i64,
    usable: impl Fn(&Bucket) -> bool,
) -> (Vec<(Bucket, i64)>, i64) {
    let (mut taken, mut missing) = (Vec::new(), amount);
    for (bucket, there) in slices.iter().filter(|(bucket, _)| usable(bucket)) {
        if missing == 0 {
            break;
        }
        let part = missing.min(*there);
        taken.push((*bucket, part));
        missing -= part;
    }
    (taken, missing)
}

/// The sum of the postings to accounts that `which` selects.
pub(crate) fn sum_of(postings: &[Posting], which: impl Fn(&Account) -> bool) -> i64 {
    postings.iter().filter(|posting| which(&posting.account)).map(|posting| posting.amount).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(kind: Kind, priority: u8, expiry: Option<i64>) -> Bucket {
        Bucket { kind, priority, expiry: expiry.map(Timestamp).into() }
    }

    #[test]
    fn credits_are_taken_in_the_order_of_spending() {
        let soon = bucket(Kind::Promotional, 1, Some(10));
        let later = bucket(Kind::Promotional, 1, Some(20));
        let never = bucket(Kind::Promotional, 1, None);
        let paid = bucket(Kind::Paid, 0, Some(5));
        let slices: Slices = [(paid, 7), (never, 3), (later, 2), (soon, 1)].into();
        let (taken, missing) = take(&slices, 9, |_| true);
        assert_eq!(taken, [(soon, 1), (later, 2), (never, 3), (paid, 3)]);
        assert_eq!(missing, 0);
        let (taken, missing) = take(&slices, 9, |bucket| !bucket.is_over(Timestamp(10)));
        assert_eq!(taken, [(later, 2), (never, 3)]);
        assert_eq!(missing, 4);
    }

    #[test]
    fn what_is_given_back_lapses_or_pays_what_is_owed_or_may_be_spent() {
        let (now, mut owed) = (Timestamp(10), 4);
        let (over, live) = (bucket(Kind::Paid, 0, Some(10)), bucket(Kind::Paid, 0, None));
        let mut postings = Postings::default();
        postings.give_back(over, 5, now, &mut owed);
        postings.give_back(live, 6, now, &mut owed);
        let expected = [(Account::Lapsed, 5), (Account::Arrears, 4), (Account::Available(live), 2)];
        let expected = expected.map(|(account, amount)| Posting { account, amount });
        assert_eq!(postings.0, expected);
        assert_eq!(owed, 0);
    }
}
