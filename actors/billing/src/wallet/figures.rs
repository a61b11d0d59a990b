//! What was done in the present calendar month (UTC): credits spent, actions, and what services
//! have metered. An action is a call of an app's function that somebody was let do; one that did
//! not succeed, and so was not paid for, is taken back when its hold ends.
//!
//! A role may limit how many actions a month its members do: what is beyond is refused here, in the
//! wallet's turn, so that it cannot be raced over several apps.
//!
//! Deliberate limits: a call that costs nothing is counted only where a role limits actions, and
//! stays counted if it fails. At most [`USERS_COUNTED_MAX`] users are told apart a month, and
//! [`METERS_MAX`] meters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Refusal, Timestamp, Turn};
use types::{AppId, UserId, next_month, rfc3339};

use super::{Wallet, WalletEvent};

/// How many users' actions are told apart in a month: twice the members that a tenant may have.
pub const USERS_COUNTED_MAX: usize = 20_000;
/// How many meters a month may have.
pub const METERS_MAX: usize = 64;
/// The longest name of a meter, in characters `a-z`, `0-9` and `_`.
pub const METER_CHARACTERS_MAX: usize = 64;
/// The most that is metered at once.
pub const METERED_AT_ONCE_MAX: u64 = 1_000_000_000_000;

/// Actions that somebody wants to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// How many.
    pub count: u32,
    /// How many their role lets them do in a month.
    pub month_max: Option<u64>,
}

/// Actions that cost nothing were let through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionsCounted {
    /// Whose.
    pub user: UserId,
    /// How many.
    pub actions: u32,
}

/// A service has metered something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageTracked {
    /// What.
    pub meter: String,
    /// How much, in the meter's own unit.
    pub quantity: u64,
    /// Whose use it was.
    pub user: UserId,
    /// The app that it was used by.
    pub app: Option<AppId>,
}

/// The figures of one month.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    ends: Timestamp,
    spent: i64,
    actions: u64,
    by_user: BTreeMap<UserId, u64>,
    meters: BTreeMap<String, u64>,
}

/// What was done this month, as one user sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Month {
    /// When it ends.
    pub ends: Timestamp,
    /// Credits spent.
    pub spent: i64,
    /// Actions done by all.
    pub actions: u64,
    /// Actions done by the user.
    pub own_actions: u64,
    /// What was metered, by name.
    pub meters: BTreeMap<String, u64>,
}

impl Figures {
    fn is_over(&self, now: Timestamp) -> bool {
        self.ends <= now
    }

    fn roll(&mut self, at: Timestamp) {
        if self.is_over(at) {
            *self = Self { ends: next_month(at), ..Self::default() };
        }
    }

    pub(super) fn spend(&mut self, credits: i64, at: Timestamp) {
        self.roll(at);
        self.spent = self.spent.saturating_add(credits);
    }

    /// Counts actions of somebody.
    pub(super) fn act(&mut self, user: Option<UserId>, count: u64, at: Timestamp) {
        if count == 0 {
            return;
        }
        self.roll(at);
        self.actions = self.actions.saturating_add(count);
        let Some(user) = user else { return };
        if self.by_user.len() < USERS_COUNTED_MAX || self.by_user.contains_key(&user) {
            let done = self.by_user.entry(user).or_default();
            *done = done.saturating_add(count);
        }
    }

    /// Takes back actions that were counted at `then` and came to nothing, in the same month.
    pub(super) fn take_back(
        &mut self,
        user: Option<UserId>,
        count: u64,
        (then, at): (Timestamp, Timestamp),
    ) {
        self.roll(at);
        if count == 0 || next_month(then) != self.ends {
            return;
        }
        self.actions = self.actions.saturating_sub(count);
        if let Some(done) = user.and_then(|user| self.by_user.get_mut(&user)) {
            *done = done.saturating_sub(count);
        }
    }

    pub(super) fn meter(&mut self, tracked: &UsageTracked, at: Timestamp) {
        self.roll(at);
        let metered = self.meters.entry(tracked.meter.clone()).or_default();
        *metered = metered.saturating_add(tracked.quantity);
    }

    fn own(&self, user: Option<UserId>, now: Timestamp) -> u64 {
        let own = user.filter(|_| !self.is_over(now)).and_then(|user| self.by_user.get(&user));
        own.copied().unwrap_or_default()
    }

    /// 429 when these actions are beyond what the role lets the user do.
    pub(super) fn check(
        &self,
        user: Option<UserId>,
        Actions { count, month_max }: Actions,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(limit) = month_max else { return Ok(()) };
        let used = self.own(user, now);
        if used.saturating_add(count.into()) <= limit {
            return Ok(());
        }
        let ends = next_month(now);
        let message = format!(
            "your role allows {limit} actions a month: {used} are done, and {count} are asked for"
        );
        let facts = serde_json::json!({"limit": limit, "used": used, "asked": count,
            "resets_at": rfc3339(ends)});
        let refusal = Refusal::new(Class::TooMany, "monthly_action_limit", message);
        let wait_ms = u64::try_from(ends.0.saturating_sub(now.0)).unwrap_or_default();
        Err(refusal.with_facts(&facts).retry_after(wait_ms))
    }

    fn month(&self, user: Option<UserId>, now: Timestamp) -> Month {
        if self.is_over(now) {
            return Month { ends: next_month(now), ..Month::default() };
        }
        Month {
            ends: self.ends,
            spent: self.spent,
            actions: self.actions,
            own_actions: self.own(user, now),
            meters: self.meters.clone(),
        }
    }
}

impl Wallet {
    /// What was done this month.
    pub fn month(&self, user: Option<UserId>, now: Timestamp) -> Month {
        self.figures.month(user, now)
    }
}

/// Counts actions that cost nothing; 429 `monthly_action_limit` beyond the role's limit.
#[derive(Clone, Copy, Debug)]
pub struct CountActions {
    /// Whose.
    pub user: UserId,
    /// How many, and what the role allows.
    pub actions: Actions,
}

impl Command for CountActions {
    const NAME: &'static str = "count_actions";
}

impl Handle<CountActions> for Wallet {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: CountActions) -> Result<(), Refusal> {
        let CountActions { user, actions } = command;
        turn.state().figures.check(Some(user), actions, turn.now())?;
        let counted = ActionsCounted { user, actions: actions.count };
        turn.record(WalletEvent::ActionsCounted(counted));
        Ok(())
    }
}

/// Meters something that a service knows of.
#[derive(Clone, Debug)]
pub struct TrackUsage {
    /// What: 1 to [`METER_CHARACTERS_MAX`] of `a-z`, `0-9` and `_`, a letter first.
    pub meter: String,
    /// How much: 1 to [`METERED_AT_ONCE_MAX`].
    pub quantity: u64,
    /// Whose use it was.
    pub user: UserId,
    /// The app that it was used by.
    pub app: Option<AppId>,
}

impl Command for TrackUsage {
    const NAME: &'static str = "track_usage";
}

impl Handle<TrackUsage> for Wallet {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: TrackUsage) -> Result<(), Refusal> {
        let TrackUsage { meter, quantity, user, app } = command;
        let is_name = meter.len() <= METER_CHARACTERS_MAX
            && meter.starts_with(|first: char| first.is_ascii_lowercase())
            && meter.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if !is_name {
            let message = format!("1 to {METER_CHARACTERS_MAX} of a-z, 0-9 and _, a letter first");
            return Err(Refusal::invalid("meter", message));
        }
        if !(1..=METERED_AT_ONCE_MAX).contains(&quantity) {
            return Err(Refusal::invalid("quantity", format!("from 1 to {METERED_AT_ONCE_MAX}")));
        }
        let meters = turn.state().month(None, turn.now()).meters;
        if !meters.contains_key(&meter) && meters.len() >= METERS_MAX {
            let message = format!("a month has at most {METERS_MAX} meters");
            return Err(Refusal::conflict("too_many_meters", message));
        }
        turn.record(WalletEvent::UsageTracked(UsageTracked { meter, quantity, user, app }));
        Ok(())
    }
}
