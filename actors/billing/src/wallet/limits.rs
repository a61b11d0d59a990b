//! Spending limits: how much a tenant, a user, an API key, an agent or an app may spend within an
//! hour, a day, a month, or at all. The wallet checks them in the turn that spends, so they cannot
//! be raced.
//!
//! What counts for a limit is what was spent in its present window, and what open holds hold back,
//! whenever they were placed: all of that may still be drawn in this window. So a hold that passes
//! into the next window is taken along, what is released counts no more, and what was admitted
//! under a limit is never more than it. Windows are those of the UTC calendar; a window that is
//! over begins anew with the next spending.
//!
//! Deliberate limits: what was spent before a limit was set does not count for it, what is held
//! then does. What was done must be paid for: a late settlement counts and is not refused. A hold
//! that was recorded before holds named who placed them counts for the tenant alone.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use supervision::{Timestamp, Turn};
use types::{AgentId, AppId, Caller, CallerKind, IdError, KeyIdentifier, UserId, next_month};

use super::{Wallet, WalletEvent};

/// How many limits a wallet may have.
pub const LIMITS_MAX: usize = 4_096;
/// From how many percent of a limit on one is warned, once a window each.
pub const WARNED_PERCENT: [u8; 2] = [80, 100];

const HOUR_MS: i64 = 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Who spends, and on what. What is not known is `None`, and counts for no limit but the tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spender {
    /// The user: the credential's own, or the one whom a service acts for.
    pub user: Option<UserId>,
    /// The API key that was shown.
    pub key: Option<KeyIdentifier>,
    /// The agent whose credential was shown.
    pub agent: Option<AgentId>,
    /// The app that it is spent on.
    pub app: Option<AppId>,
}

impl Spender {
    /// Whoever calls; the app is the one that a service acts as.
    pub fn of(caller: &Caller) -> Self {
        let shown = |kind| caller.credential.filter(|_| caller.kind == kind);
        Self {
            user: caller.user,
            key: shown(CallerKind::ApiKey).map(KeyIdentifier),
            agent: shown(CallerKind::Agent).map(AgentId),
            app: caller.app.clone(),
        }
    }

    /// The same, spending on this app.
    #[must_use]
    pub fn on(self, app: AppId) -> Self {
        Self { app: Some(app), ..self }
    }

    /// What limits may be on that count here, the narrowest first.
    pub(super) fn subjects(&self) -> impl Iterator<Item = Subject> {
        let is_nobody = self.key.is_none() && self.agent.is_none() && self.user.is_none();
        let each = [
            self.key.map(Subject::Key),
            self.agent.map(Subject::Agent),
            self.user.map(Subject::User),
            self.app.clone().filter(|_| is_nobody).map(Subject::Webhook),
            self.app.clone().map(Subject::App),
            Some(Subject::Tenant),
        ];
        each.into_iter().flatten()
    }
}

/// What a limit is on. As text: `tenant`, `user:ID`, `key:ID`, `agent:ID`, `app:ID`, `webhook:ID`.
/// Stored: a subject keeps its place for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// All that is spent from the wallet.
    Tenant,
    /// What one user spends.
    User(UserId),
    /// What is spent with one API key.
    Key(KeyIdentifier),
    /// What one agent spends.
    Agent(AgentId),
    /// What is spent on one app.
    App(AppId),
    /// What is spent on one app by no user: its webhooks, and services that name none.
    Webhook(AppId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant => f.write_str("tenant"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Agent(id) => write!(f, "agent:{id}"),
            Self::App(id) => write!(f, "app:{id}"),
            Self::Webhook(id) => write!(f, "webhook:{id}"),
        }
    }
}

impl FromStr for Subject {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.split_once(':') {
            None if text == "tenant" => Ok(Self::Tenant),
            Some(("user", id)) => id.parse().map(Self::User),
            Some(("key", id)) => id.parse().map(Self::Key),
            Some(("agent", id)) => id.parse().map(Self::Agent),
            Some(("app", id)) => id.parse().map(Self::App),
            Some(("webhook", id)) => id.parse().map(Self::Webhook),
            _ => Err(IdError::Malformed),
        }
    }
}

/// The time that a limit is for: of the UTC calendar, or for ever.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// From each full hour on.
    Hour,
    /// From midnight on.
    Day,
    /// From the first of the month on.
    Month,
    /// From when the limit was set on.
    Total,
}

impl Window {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// The first moment after the window that `at` lies in; `None` for the one without end.
    pub fn ends(self, at: Timestamp) -> Option<Timestamp> {
        let after = |ms: i64| at.plus_ms(ms - at.0.rem_euclid(ms));
        match self {
            Self::Hour => Some(after(HOUR_MS)),
            Self::Day => Some(after(DAY_MS)),
            Self::Month => Some(next_month(at)),
            Self::Total => None,
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Window {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let all = [Self::Hour, Self::Day, Self::Month, Self::Total];
        all.into_iter().find(|window| window.name() == text).ok_or(IdError::Malformed)
    }
}

/// A limit was set, or is another from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitSet {
    /// On what.
    pub subject: Subject,
    /// For which time.
    pub window: Window,
    /// How much may be spent in it, in credits; 0 for nothing at all.
    pub amount: i64,
}

/// There is no such limit any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitRemoved {
    /// On what it was.
    pub subject: Subject,
    /// For which time.
    pub window: Window,
}

/// So much of a limit is used for the first time in its window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitWarned {
    /// On what it is.
    pub subject: Subject,
    /// For which time.
    pub window: Window,
    /// The one of [`WARNED_PERCENT`] that was reached.
    pub percent: u8,
    /// What is spent and held, in credits.
    pub used: i64,
    /// The limit, in credits.
    pub amount: i64,
    /// When its window ends.
    pub ends: Option<Timestamp>,
}

/// One limit, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Counter {
    amount: i64,
    /// In the window that ends with `ends`.
    spent: i64,
    ends: Option<Timestamp>,
    /// The percentage that was warned of in it.
    warned: u8,
}

impl Counter {
    fn is_over(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    fn spent(&self, now: Timestamp) -> i64 {
        if self.is_over(now) { 0 } else { self.spent }
    }

    /// Begins the window of `at`, unless it is the present one.
    fn roll(&mut self, window: Window, at: Timestamp) {
        if self.is_over(at) {
            (self.spent, self.warned, self.ends) = (0, 0, window.ends(at));
        }
    }
}

/// The greatest of [`WARNED_PERCENT`] that is reached; 0 for none.
fn reached(used: i64, amount: i64) -> u8 {
    let is_reached =
        |percent: &u8| i128::from(used) * 100 >= i128::from(amount) * i128::from(*percent);
    WARNED_PERCENT.into_iter().filter(is_reached).max().unwrap_or_default()
}

/// The limits on one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counted {
    /// What its open holds hold, in credits.
    held: i64,
    counters: BTreeMap<Window, Counter>,
}

/// A wallet's limits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Limits {
    subjects: BTreeMap<Subject, Counted>,
}

/// A limit as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) subject: Subject,
    pub(super) window: Window,
    pub(super) amount: i64,
    pub(super) spent: i64,
    pub(super) held: i64,
    /// When its window ends, or ended if nothing was spent since.
    pub(super) ends: Option<Timestamp>,
}

impl Standing {
    pub(super) fn used(&self) -> i64 {
        self.spent.saturating_add(self.held)
    }

    /// What may still be spent.
    pub(super) fn left(&self) -> i64 {
        self.amount.saturating_sub(self.used()).max(0)
    }

    /// The limit's name: its subject and window.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.subject, self.window)
    }
}

impl Limits {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.subjects.values().map(|counted| counted.counters.len()).sum()
    }

    /// All, as they stand at `now`; as they were left by the last spending without it.
    pub(super) fn all(&self, now: Option<Timestamp>) -> impl Iterator<Item = Standing> {
        let subjects = self.subjects.iter();
        subjects.flat_map(move |(subject, counted)| {
            let windows = counted.counters.iter();
            windows.map(move |(window, counter)| standing(subject, counted, *window, counter, now))
        })
    }

    /// One, as it stands at `now`.
    pub(super) fn get(
        &self,
        subject: &Subject,
        window: Window,
        now: Timestamp,
    ) -> Option<Standing> {
        let counted = self.subjects.get(subject)?;
        let counter = counted.counters.get(&window)?;
        Some(standing(subject, counted, window, counter, Some(now)))
    }

    /// The first limit that spending so much more would go beyond.
    pub(super) fn hit(&self, spender: &Spender, price: i64, now: Timestamp) -> Option<Standing> {
        if self.is_empty() {
            return None;
        }
        spender.subjects().find_map(|subject| {
            let counted = self.subjects.get(&subject)?;
            let mut standings = counted
                .counters
                .iter()
                .map(|(window, counter)| standing(&subject, counted, *window, counter, Some(now)));
            standings.find(|standing| standing.used().saturating_add(price) > standing.amount)
        })
    }

    /// Takes in what was spent, and how much more (or less) is held.
    pub(super) fn count(&mut self, spender: &Spender, spent: i64, held: i64, at: Timestamp) {
        if self.is_empty() {
            return;
        }
        for subject in spender.subjects() {
            let Some(counted) = self.subjects.get_mut(&subject) else { continue };
            counted.held = counted.held.saturating_add(held);
            for (window, counter) in &mut counted.counters {
                counter.roll(*window, at);
                counter.spent = counter.spent.saturating_add(spent);
            }
        }
    }

    /// `held` is what open holds of the subject hold, for when it had no limit yet.
    pub(super) fn set(&mut self, set: &LimitSet, held: i64, at: Timestamp) {
        let LimitSet { subject, window, amount } = set;
        let new = || Counted { held, counters: BTreeMap::new() };
        let counted = self.subjects.entry(subject.clone()).or_insert_with(new);
        let held = counted.held;
        let new = || Counter { amount: *amount, spent: 0, ends: window.ends(at), warned: 0 };
        let counter = counted.counters.entry(*window).or_insert_with(new);
        counter.roll(*window, at);
        counter.amount = *amount;
        // What no longer holds under the new amount is warned of again.
        counter.warned = counter.warned.min(reached(counter.spent.saturating_add(held), *amount));
    }

    pub(super) fn remove(&mut self, removed: &LimitRemoved) {
        let Some(counted) = self.subjects.get_mut(&removed.subject) else { return };
        counted.counters.remove(&removed.window);
        if counted.counters.is_empty() {
            self.subjects.remove(&removed.subject);
        }
    }

    pub(super) fn warned(&mut self, warned: &LimitWarned, at: Timestamp) {
        let counted = self.subjects.get_mut(&warned.subject);
        let counter = counted.and_then(|it| it.counters.get_mut(&warned.window));
        if let Some(counter) = counter {
            counter.roll(warned.window, at);
            counter.warned = warned.percent;
        }
    }

    /// What is to be warned of, now that somebody has spent.
    fn warnings(&self, spender: &Spender, now: Timestamp) -> Vec<LimitWarned> {
        let mut warnings = Vec::new();
        for subject in spender.subjects() {
            let Some(counted) = self.subjects.get(&subject) else { continue };
            for (window, counter) in &counted.counters {
                let standing = standing(&subject, counted, *window, counter, Some(now));
                let percent = reached(standing.used(), standing.amount);
                if percent > counter.warned {
                    warnings.push(LimitWarned {
                        subject: subject.clone(),
                        window: *window,
                        percent,
                        used: standing.used(),
                        amount: standing.amount,
                        ends: standing.ends,
                    });
                }
            }
        }
        warnings
    }

    /// What each subject with a limit holds, for the check of the books.
    pub(super) fn held(&self) -> impl Iterator<Item = (&Subject, i64)> {
        self.subjects.iter().map(|(subject, counted)| (subject, counted.held))
    }
}

fn standing(
    subject: &Subject,
    counted: &Counted,
    window: Window,
    counter: &Counter,
    now: Option<Timestamp>,
) -> Standing {
    let is_over = now.is_some_and(|now| counter.is_over(now));
    Standing {
        subject: subject.clone(),
        window,
        amount: counter.amount,
        spent: now.map_or(counter.spent, |now| counter.spent(now)),
        held: counted.held,
        ends: if is_over { now.and_then(|now| window.ends(now)) } else { counter.ends },
    }
}

/// Who is to be warned after they have spent: nobody, at no cost, in a wallet without limits.
pub(super) fn watched(wallet: &Wallet, spender: &Spender) -> Option<Spender> {
    (!wallet.limits.is_empty()).then(|| spender.clone())
}

/// Warns of the limits that somebody who has spent has come close to.
pub(super) fn warn(turn: &mut Turn<'_, Wallet>, spender: Option<Spender>) {
    let Some(spender) = spender else { return };
    for warned in turn.state().limits.warnings(&spender, turn.now()) {
        turn.record(WalletEvent::LimitWarned(warned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_and_a_window_are_read_back_from_their_names() {
        let subjects = [
            Subject::Tenant,
            Subject::User(UserId(7)),
            Subject::Key(KeyIdentifier(8)),
            Subject::Agent(AgentId(9)),
            Subject::App(AppId::new("tenant").unwrap()),
            Subject::Webhook(AppId::new("tenant").unwrap()),
        ];
        for subject in subjects {
            assert_eq!(subject.to_string().parse(), Ok(subject));
        }
        for text in ["", "user", "user:", "tenant:1", "app:A", "notes"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
        for window in [Window::Hour, Window::Day, Window::Month, Window::Total] {
            assert_eq!(window.to_string().parse(), Ok(window));
            assert_eq!(serde_json::to_value(window).unwrap(), window.name());
        }
        assert!("year".parse::<Window>().is_err());
    }

    #[test]
    fn windows_are_those_of_the_calendar_in_utc() {
        let at = types::parse_rfc3339("2026-02-28T23:59:59.500Z").unwrap();
        let ends = |window: Window| window.ends(at).map(types::rfc3339);
        for window in [Window::Hour, Window::Day, Window::Month] {
            assert_eq!(ends(window).as_deref(), Some("2026-03-01T00:00:00.000Z"));
            assert!(window.ends(window.ends(at).unwrap()) > window.ends(at));
        }
        assert_eq!(ends(Window::Total), None);
        // Before 1970, too.
        assert_eq!(Window::Hour.ends(Timestamp(-1)), Some(Timestamp(0)));
    }

    #[test]
    fn a_user_who_has_another_id_elsewhere_keeps_the_limit_there() {
        use supervision::Event as _;

        let mut renaming = supervision::renaming::Renaming::default();
        renaming.add("UserId", 7, 70);
        let set = |user| {
            let (subject, window) = (Subject::User(UserId(user)), Window::Day);
            WalletEvent::LimitSet(LimitSet { subject, window, amount: 5 })
        };
        assert_eq!(set(7).renamed(&renaming).unwrap(), set(70));
        assert_eq!(set(8).renamed(&renaming).unwrap(), set(8));
    }

    #[test]
    fn a_caller_spends_as_whoever_the_credential_names() {
        let caller = Caller { user: Some(UserId(1)), ..Caller::system(types::TenantId(1)) };
        let with = |kind| Caller { kind, credential: Some(5), ..caller.clone() };
        let by_key = Spender::of(&with(CallerKind::ApiKey));
        let user = Some(UserId(1));
        assert_eq!(by_key, Spender { user, key: Some(KeyIdentifier(5)), ..Spender::default() });
        let by_agent = Spender::of(&with(CallerKind::Agent));
        assert_eq!(by_agent, Spender { user, agent: Some(AgentId(5)), ..Spender::default() });
        let app = AppId::new("notes").unwrap();
        let subjects: Vec<_> = by_key.on(app.clone()).subjects().collect();
        let user = Subject::User(UserId(1));
        let of_app = Subject::App(app.clone());
        let expected = [Subject::Key(KeyIdentifier(5)), user, of_app.clone(), Subject::Tenant];
        assert_eq!(subjects, expected);
        // What nobody spends is what comes from outside.
        let subjects: Vec<_> = Spender::default().on(app.clone()).subjects().collect();
        assert_eq!(subjects, [Subject::Webhook(app), of_app, Subject::Tenant]);
    }
}
