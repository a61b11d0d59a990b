//! What a tenant has subscribed to, and the arithmetic of it: calendar months, prices and shares.
//!
//! Time is counted in calendar months from an anchor, the moment when a run of periods began: month
//! k begins k months after it, on the same day and time or on the month's last day, so that the
//! 31st comes back after February. A period is 1 or 12 such months: it is what is paid for. Credits
//! come with each month.
//!
//! Rules of money, all in whole cents and rounded down, which is never against who pays
//! - A month costs the plan's price; a year costs twelve.
//! - What is left of a time is counted in whole seconds: a share of an amount is
//!   floor(amount × seconds left ÷ seconds in all).
//! - To a dearer plan in the same period: the share that is left of the difference.
//! - To the longer period: its price less the share that is left of what the present one cost; it
//!   begins at once.
//! - Credits follow the same rule within their month, and none are taken back.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use supervision::Timestamp;
use types::{IdError, plus_months};

use crate::plans::{FREE, Plan, plan};

/// Cents of a US dollar.
const CENTS: i64 = 100;

/// How long what is paid for once lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// One calendar month.
    #[default]
    Monthly,
    /// Twelve.
    Yearly,
}

impl Period {
    /// In calendar months.
    pub fn months(self) -> u32 {
        match self {
            Self::Monthly => 1,
            Self::Yearly => 12,
        }
    }

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// What it costs under a plan, in cents.
    pub fn price_cents(self, plan: &Plan) -> i64 {
        plan.price * CENTS * i64::from(self.months())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Period {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let all = [Self::Monthly, Self::Yearly];
        all.into_iter().find(|period| period.name() == text).ok_or(IdError::Malformed)
    }
}

/// How a plan is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By the tenant's payment method.
    Card,
    /// As an operator has agreed with the tenant: nothing is collected here.
    Manual,
}

impl Mode {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Manual => "manual",
        }
    }
}

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SubscriptionStatus)]
pub enum Status {
    /// The plan is in effect.
    Active,
    /// The plan is in effect, and what the next period costs could not be collected yet.
    PastDue,
    /// It is over, as the tenant or an operator wanted.
    Cancelled,
    /// It is over, because it was not paid for.
    Expired,
}

impl Status {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// What the next period will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The plan's id.
    pub plan: String,
    /// How long.
    pub period: Period,
}

impl Choice {
    /// The plan as the catalogue has it; one that is gone from it gives what the free one gives.
    pub fn catalogued(&self) -> &'static Plan {
        plan(&self.plan).unwrap_or(&FREE)
    }

    /// What a period of it costs, in cents.
    pub fn price_cents(&self) -> i64 {
        self.period.price_cents(self.catalogued())
    }
}

/// A time from one moment up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Span {
    /// The share of an amount, 0 or more, that is left at `now`: see the head.
    pub(super) fn share_left(self, amount: i64, now: Timestamp) -> i64 {
        let seconds = |from: Timestamp, until: Timestamp| (until.0 - from.0).max(0) / 1_000;
        let length = seconds(self.from, self.until);
        if length == 0 {
            return 0;
        }
        let left = seconds(now, self.until).min(length);
        let share = i128::from(amount.max(0)) * i128::from(left) / i128::from(length);
        i64::try_from(share).unwrap_or(i64::MAX)
    }
}

/// What a tenant has subscribed to, now or last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// The plan and the length of its periods.
    pub choice: Choice,
    /// How it is paid for.
    pub mode: Mode,
    /// What was agreed for a period, in cents, where an operator has said so.
    pub contract_amount_cents: Option<i64>,
    /// What the operator has noted.
    pub note: Option<String>,
    /// Since when there is one without a break.
    pub started_at: Timestamp,
    /// The number of its run of periods, from 1.
    pub run: u32,
    /// From when the run's months count.
    pub anchor: Timestamp,
    /// The present period: from this month of the run …
    pub from_month: u32,
    /// … up to this one, without it.
    pub until_month: u32,
    /// Up to which month credits have come.
    pub credited_until: u32,
    /// Where it stands.
    pub status: Status,
    /// Whether it ends with the present period.
    pub cancel_at_period_end: bool,
    /// What the next period will be, where it is another.
    pub scheduled: Option<Choice>,
    /// When it is tried again to collect what is due.
    pub retry_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl Term {
    /// Whether the plan is in effect.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Active | Status::PastDue)
    }

    /// When a month of the run begins.
    pub fn month_start(&self, month: u32) -> Timestamp {
        plus_months(self.anchor, month)
    }

    /// When the present period ends, or has ended.
    pub fn period_end(&self) -> Timestamp {
        self.month_start(self.until_month)
    }

    /// What the next period will be.
    pub fn next(&self) -> &Choice {
        self.scheduled.as_ref().unwrap_or(&self.choice)
    }

    pub(super) fn period(&self) -> Span {
        Span { from: self.month_start(self.from_month), until: self.period_end() }
    }

    pub(super) fn month(&self, month: u32) -> Span {
        Span { from: self.month_start(month), until: self.month_start(month + 1) }
    }

    /// The latest month from `first` up to `until`, without it, that has begun at `now`: the first
    /// if none has.
    pub(super) fn latest_month(&self, first: u32, until: u32, now: Timestamp) -> u32 {
        let begun = |month: &u32| self.month_start(*month) <= now;
        (first..until).take_while(begun).last().unwrap_or(first)
    }

    /// When the next month's credits come, while the plan is in effect and has any.
    pub(super) fn credits_at(&self) -> Option<Timestamp> {
        let comes = self.is_running()
            && self.credited_until < self.until_month
            && self.choice.catalogued().included_tokens > 0;
        comes.then(|| self.month_start(self.credited_until))
    }
}

/// What a change to another plan or period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turnover {
    /// No change.
    Same,
    /// From the next period on.
    Later,
    /// At once, within the period.
    Within {
        /// What it costs, in cents.
        amount_cents: i64,
        /// The credits that come with it.
        credits: i64,
    },
    /// At once, with a period that begins now.
    Anew {
        /// What it costs, in cents.
        amount_cents: i64,
        /// The credits that come with its first month.
        credits: i64,
    },
}

impl Turnover {
    /// What it is for a term to become `wanted` at `now`.
    pub(super) fn of(term: &Term, wanted: &Choice, now: Timestamp) -> Self {
        let (present, plan) = (term.choice.catalogued(), wanted.catalogued());
        let month = term.latest_month(term.from_month, term.until_month, now);
        let (period, month) = (term.period(), term.month(month));
        let (old, new) = (term.choice.period.months(), wanted.period.months());
        if *wanted == term.choice {
            return Self::Same;
        }
        if new < old || plan.price < present.price {
            return Self::Later;
        }
        if new > old {
            let unused = period.share_left(term.choice.price_cents(), now);
            let had = month.share_left(present.included_tokens, now);
            return Self::Anew {
                amount_cents: (wanted.price_cents() - unused).max(0),
                credits: (plan.included_tokens - had).max(0),
            };
        }
        let dearer = wanted.price_cents() - term.choice.price_cents();
        let more = plan.included_tokens - present.included_tokens;
        Self::Within {
            amount_cents: period.share_left(dearer, now),
            credits: month.share_left(more, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{parse_rfc3339, rfc3339};

    use super::*;

    fn at(text: &str) -> Timestamp {
        parse_rfc3339(text).unwrap()
    }

    fn choice(plan: &str, period: Period) -> Choice {
        Choice { plan: plan.to_owned(), period }
    }

    fn term(plan: &str, period: Period, anchor: &str) -> Term {
        Term {
            choice: choice(plan, period),
            mode: Mode::Card,
            contract_amount_cents: None,
            note: None,
            started_at: at(anchor),
            run: 1,
            anchor: at(anchor),
            from_month: 0,
            until_month: period.months(),
            credited_until: 1,
            status: Status::Active,
            cancel_at_period_end: false,
            scheduled: None,
            retry_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn a_share_is_rounded_down_to_the_cent_and_counted_to_the_second() {
        let span = Span { from: Timestamp(0), until: Timestamp(3_000) };
        assert_eq!(span.share_left(100, Timestamp(0)), 100);
        assert_eq!(span.share_left(100, Timestamp(1)), 66, "a second that has begun is over");
        assert_eq!(span.share_left(100, Timestamp(1_000)), 66);
        assert_eq!(span.share_left(100, Timestamp(2_001)), 0);
        assert_eq!(span.share_left(100, Timestamp(9_000)), 0);
        assert_eq!(span.share_left(100, Timestamp(-9_000)), 100);
        assert_eq!(span.share_left(i64::MAX, Timestamp(0)), i64::MAX);
        assert_eq!(Span { from: span.until, ..span }.share_left(100, Timestamp(0)), 0);
    }

    #[test]
    fn months_of_a_run_come_back_to_their_day() {
        let term = term("pro", Period::Yearly, "2026-01-31T12:00:00Z");
        let starts = [1, 2, 12].map(|month| rfc3339(term.month_start(month)));
        let expected =
            ["2026-02-28T12:00:00.000Z", "2026-03-31T12:00:00.000Z", "2027-01-31T12:00:00.000Z"];
        assert_eq!(starts, expected);
        assert_eq!(term.latest_month(0, 12, at("2026-03-31T11:59:59Z")), 1);
        assert_eq!(term.latest_month(0, 12, at("2029-01-01T00:00:00Z")), 11);
    }

    #[test]
    fn a_dearer_plan_costs_what_is_left_of_the_difference() {
        let term = term("pro", Period::Monthly, "2026-04-01T00:00:00Z");
        let wanted = choice("business", Period::Monthly);
        // 115 dollars and 150,000 credits more, of which ten thirtieths are left.
        let change = Turnover::of(&term, &wanted, at("2026-04-21T00:00:00Z"));
        assert_eq!(change, Turnover::Within { amount_cents: 3_833, credits: 50_000 });
        let last = Turnover::of(&term, &wanted, at("2026-04-30T23:59:59.500Z"));
        assert_eq!(last, Turnover::Within { amount_cents: 0, credits: 0 });
    }

    #[test]
    fn a_longer_period_begins_at_once_and_a_shorter_one_or_a_cheaper_plan_later() {
        let monthly = term("pro", Period::Monthly, "2026-04-01T00:00:00Z");
        let now = at("2026-04-16T00:00:00Z");
        let yearly = choice("pro", Period::Yearly);
        let anew = Turnover::Anew { amount_cents: 12 * 4_500 - 2_250, credits: 25_000 };
        assert_eq!(Turnover::of(&monthly, &yearly, now), anew);
        let same = Turnover::of(&monthly, &choice("pro", Period::Monthly), now);
        assert_eq!(same, Turnover::Same);
        let later = Turnover::of(&monthly, &choice("micro", Period::Yearly), now);
        assert_eq!(later, Turnover::Later);
        let long = term("pro", Period::Yearly, "2026-04-01T00:00:00Z");
        let shorter = Turnover::of(&long, &choice("business", Period::Monthly), now);
        assert_eq!(shorter, Turnover::Later);
    }
}
