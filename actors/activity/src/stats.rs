//! Counts over a part of a tenant's chain: how many actions, how they ended, of which apps, on
//! which days and for how many credits.
//!
//! Deliberate limit: one answer looks at [`STATS_RECORDS_MAX`] records and says where it stopped;
//! whoever wants more goes on from there and adds up.

use std::collections::BTreeMap;

use serde::Serialize;
use supervision::{Refusal, System, Timestamp};
use types::{TenantId, rfc3339};
use utoipa::ToSchema;

use crate::activity::{Activity, Filter, Whose};
use crate::describe::{ActionStatus, ActionType};
use crate::view::Action;
use crate::walk::Down;

/// How many records one count looks at.
pub const STATS_RECORDS_MAX: usize = 20_000;
/// The most apps, functions and days that are counted one by one; the rest are in the totals only.
pub const STATS_GROUPS_MAX: usize = 400;

/// How many actions there were, and what they came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tally {
    /// How many actions.
    pub actions: u64,
    /// How many of them failed.
    pub errors: u64,
    /// What they cost together, in credits.
    pub credits: i64,
}

impl Tally {
    fn add(&mut self, action: &Action) {
        self.actions += 1;
        self.errors += u64::from(action.status == ActionStatus::Error);
        self.credits = self.credits.saturating_add(action.price);
    }
}

/// A tally of one app, function or day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Group {
    /// The app's id, the function, or the day as YYYY-MM-DD in UTC.
    pub name: String,
    /// What it came to.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Counts of actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ActionStats {
    /// All of them together.
    #[serde(flatten)]
    pub total: Tally,
    /// By how they ended: `success`, `error`.
    pub by_status: BTreeMap<String, u64>,
    /// By what they do to data: `read`, `write`, `destructive`, `system`.
    pub by_action_type: BTreeMap<String, u64>,
    /// By app, the most called first.
    pub by_extension: Vec<Group>,
    /// By function of an app, `APP.FUNCTION`, the most called first.
    pub by_function: Vec<Group>,
    /// By day, the newest first; days without actions are left out.
    pub by_day: Vec<Group>,
    /// RFC 3339: from when on it was counted; `null` for the chain's beginning.
    pub from: Option<String>,
    /// RFC 3339: until when; `null` for now.
    pub to: Option<String>,
    /// How many records were looked at.
    pub examined: u64,
    /// Whether that was all of them.
    pub complete: bool,
    /// Where to go on counting; `null` when it is complete.
    pub next_cursor: Option<String>,
}

#[derive(Default)]
struct Groups(BTreeMap<String, Tally>);

impl Groups {
    fn add(&mut self, name: String, action: &Action) {
        if self.0.len() < STATS_GROUPS_MAX || self.0.contains_key(&name) {
            self.0.entry(name).or_default().add(action);
        }
    }

    fn by_name_down(self) -> Vec<Group> {
        self.0.into_iter().rev().map(|(name, tally)| Group { name, tally }).collect()
    }

    fn by_actions(self) -> Vec<Group> {
        let mut all = self.by_name_down();
        all.sort_by(|one, other| {
            let actions = other.tally.actions.cmp(&one.tally.actions);
            actions.then_with(|| one.name.cmp(&other.name))
        });
        all
    }
}

#[derive(Default)]
struct Counting {
    total: Tally,
    types: [u64; 4],
    apps: Groups,
    functions: Groups,
    days: Groups,
}

const TYPES: [(ActionType, &str); 4] = [
    (ActionType::Read, "read"),
    (ActionType::Write, "write"),
    (ActionType::Destructive, "destructive"),
    (ActionType::System, "system"),
];

impl Counting {
    fn add(&mut self, action: &Action) {
        self.total.add(action);
        for ((kind, _), count) in TYPES.iter().zip(&mut self.types) {
            *count += u64::from(action.action_type == *kind);
        }
        if let Some(app) = &action.app_id {
            self.apps.add(app.clone(), action);
            self.functions.add(format!("{app}.{}", action.tool_name), action);
        }
        let day = action.created_at.get(..10).unwrap_or_default();
        self.days.add(day.to_owned(), action);
    }
}

impl Activity {
    /// Counts the actions of `tenant` that a filter takes, newest first; its pages say nothing.
    /// Looks at [`STATS_RECORDS_MAX`] records. `journal_unreadable` when the engine fails.
    pub fn stats<'a>(
        &self,
        system: &System,
        tenant: TenantId,
        whose: impl Into<Whose<'a>>,
        filter: &Filter,
    ) -> Result<ActionStats, Refusal> {
        let (whose, needle) = (whose.into(), filter.needle());
        let (mut counting, mut examined) = (Counting::default(), 0);
        let mut down = Down::begin(system, tenant, filter.between, filter.cursor)?;
        down.walk(system, |record| {
            examined += 1;
            let header = &record.header;
            if whose.takes(&header.caller) && filter.takes_record(header) {
                for action in self.actions(system, record) {
                    if filter.takes(&action, needle.as_deref()) {
                        counting.add(&action);
                    }
                }
            }
            examined < STATS_RECORDS_MAX
        })?;
        let rest = down.rest();
        let Counting { total, types, apps, functions, days } = counting;
        let succeeded = total.actions - total.errors;
        let text = |at: Option<Timestamp>| at.map(rfc3339);
        let named = |((_, name), count): (&(ActionType, &str), u64)| ((*name).to_owned(), count);
        Ok(ActionStats {
            by_status: [("success", succeeded), ("error", total.errors)]
                .map(|(name, count)| (name.to_owned(), count))
                .into(),
            by_action_type: TYPES.iter().zip(types).map(named).collect(),
            by_extension: apps.by_actions(),
            by_function: functions.by_actions(),
            by_day: days.by_name_down(),
            from: text(filter.between.from),
            to: text(filter.between.to),
            examined: examined as u64,
            complete: rest.is_none(),
            next_cursor: rest.map(|cursor| cursor.to_string()),
            total,
        })
    }
}
