//! A rule: what sets it off, what is done then, within which limits, and what came of it so far.
//!
//! Its words (the prompt, the steps, the interpretation) are sealed under its user's own key. The
//! counts are what its user sees; the times at which it was set off are those of what set it off,
//! so that whoever looks at an event a second time decides alike.

use std::collections::VecDeque;

use persistence::KeyRing;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervision::{Refusal, Timestamp};
use types::{AppId, Caller, CallerKind, ExecutionId, Personal, Scopes, TenantId, UserId, rfc3339};

use crate::trigger::Trigger;

/// Characters of a prompt, of an interpretation and of a message.
pub const TEXT_CHARACTERS_MAX: usize = 4_000;
/// Steps of a rule.
pub const STEPS_MAX: usize = 10;
/// Bytes of all steps together, as JSON.
pub const STEPS_BYTES_MAX: usize = 32 * 1024;
/// Characters of a function's name.
pub const TOOL_CHARACTERS_MAX: usize = 128;
/// The longest pause between two executions, in seconds.
pub const COOLDOWN_S_MAX: i64 = 30 * 24 * 3_600;
/// The most executions within an hour.
pub const PER_HOUR_MAX: i64 = 1_000;
/// The most executions until a rule pauses.
pub const ITERATIONS_MAX: i64 = 1_000_000;
/// Executions of a rule that are shown.
pub const EXECUTIONS_KEPT_MAX: usize = 50;
/// How often in a row it fails before it is set off no more.
pub const FAILURES_IN_ROW_MAX: u32 = 5;
/// An hour, in milliseconds.
const HOUR_MS: i64 = 60 * 60 * 1_000;
/// What the words are sealed as.
const TEXT_LABEL: &str = "automation.text";
/// What the words of failures are sealed as.
pub(crate) const NOTE_LABEL: &str = "automation.note";

/// How a rule is. Stored: a state keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It is set off.
    Active,
    /// It waits until it is resumed.
    Paused,
    /// It failed too often, and waits until it is resumed.
    Error,
}

impl Status {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Error => "error",
        }
    }
}

/// Which executions their user is told of. Stored: a mode keeps its place for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotifyMode {
    /// All.
    #[default]
    All,
    /// Those that failed.
    Failures,
    /// None.
    Off,
}

impl NotifyMode {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Failures => "failures",
            Self::Off => "off",
        }
    }

    /// Whether it tells of an execution that went so.
    pub fn tells(self, is_success: bool) -> bool {
        match self {
            Self::All => true,
            Self::Failures => !is_success,
            Self::Off => false,
        }
    }
}

/// How often a rule may be set off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The pause after each time, in seconds.
    pub cooldown_seconds: i64,
    /// The most times within an hour.
    pub max_per_hour: i64,
    /// After so many times it pauses; 0 for never.
    pub max_iterations: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cooldown_seconds: 60, max_per_hour: 10, max_iterations: 0 }
    }
}

impl Limits {
    /// 422 unless each is one.
    pub fn check(&self) -> Result<(), Refusal> {
        let within = |field: &str, value: i64, range: std::ops::RangeInclusive<i64>| {
            if range.contains(&value) {
                return Ok(());
            }
            let message = format!("must be {} to {}", range.start(), range.end());
            Err(Refusal::invalid(field, message))
        };
        within("cooldown_seconds", self.cooldown_seconds, 0..=COOLDOWN_S_MAX)?;
        within("max_per_hour", self.max_per_hour, 1..=PER_HOUR_MAX)?;
        within("max_iterations", self.max_iterations, 0..=ITERATIONS_MAX)
    }
}

/// One step: a function of an app, or a message. Bindings such as `{{event.data.id}}` are
/// resolved in what is handed over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ActionStep {
    /// A prompt for the model, or without one a notice to the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The app whose function is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// The function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Its params, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub args: Option<Value>,
}

impl ActionStep {
    /// A message.
    pub fn message(text: impl Into<String>) -> Self {
        Self { message: Some(text.into()), ..Self::default() }
    }

    fn check(&self) -> Result<(), String> {
        let most = TEXT_CHARACTERS_MAX;
        match (&self.message, &self.app_id, &self.tool) {
            (Some(message), None, None) if self.args.is_none() => {
                let fits = (1..=most).contains(&message.chars().count());
                fits.then_some(()).ok_or_else(|| format!("a message has 1 to {most} characters"))
            }
            (None, Some(app), Some(tool)) => {
                AppId::new(app).map_err(|error| error.to_string())?;
                let is_tool = (1..=TOOL_CHARACTERS_MAX).contains(&tool.chars().count());
                let is_object = self.args.as_ref().is_none_or(|args| args.is_object());
                match (is_tool, is_object) {
                    (false, _) => Err(format!("tool: 1 to {TOOL_CHARACTERS_MAX} characters")),
                    (_, false) => Err("args: an object".to_owned()),
                    _ => Ok(()),
                }
            }
            _ => Err("a step has a message, or app_id and tool".to_owned()),
        }
    }
}

/// The words of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Words {
    /// What its user has asked for.
    pub prompt: String,
    /// What is done.
    pub actions: Vec<ActionStep>,
    /// How the prompt was understood.
    pub interpretation: String,
}

impl Words {
    /// 422 unless they fit.
    pub fn check(&self) -> Result<(), Refusal> {
        let most = TEXT_CHARACTERS_MAX;
        for (field, text) in [("prompt", &self.prompt), ("interpretation", &self.interpretation)] {
            if text.chars().count() > most {
                return Err(Refusal::invalid(field, format!("must be at most {most} characters")));
            }
        }
        if self.prompt.trim().is_empty() {
            return Err(Refusal::invalid("prompt", "must not be empty"));
        }
        if !(1..=STEPS_MAX).contains(&self.actions.len()) {
            return Err(Refusal::invalid("actions", format!("must be 1 to {STEPS_MAX} steps")));
        }
        for (place, step) in self.actions.iter().enumerate() {
            step.check().map_err(|why| Refusal::invalid(&format!("actions[{place}]"), why))?;
        }
        let bytes = serde_json::to_vec(&self.actions).map_or(usize::MAX, |bytes| bytes.len());
        if bytes > STEPS_BYTES_MAX {
            let message = format!("must be at most {STEPS_BYTES_MAX} bytes in all");
            return Err(Refusal::invalid("actions", message));
        }
        Ok(())
    }

    /// Sealed under their user's key.
    pub fn seal(&self, keys: &KeyRing, user: UserId) -> Result<Personal, Refusal> {
        let text = serde_json::to_string(self).map_err(|_| Refusal::crashed())?;
        Personal::seal(keys, user, TEXT_LABEL, &text)
    }

    /// Opened; nothing once the key was erased.
    pub fn open(sealed: &Personal, keys: &KeyRing) -> Self {
        let text = sealed.open(keys, TEXT_LABEL);
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The stable code.
    pub code: String,
    /// In words, which may be an app's.
    pub note: Option<Personal>,
}

/// With which credential a rule was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// A user's own, an API key or an agent; what a service makes for a user is the user's.
    pub kind: CallerKind,
    /// The key's or agent's id: without it a rule does nothing any more.
    pub credential: Option<u128>,
    /// What it covered.
    pub scopes: Scopes,
}

impl Maker {
    /// A user, with all that they may do at any time.
    pub fn user() -> Self {
        Self { kind: CallerKind::User, credential: None, scopes: Scopes::all() }
    }

    /// Whoever makes a rule.
    pub fn of(caller: &Caller) -> Self {
        match caller.kind {
            kind @ (CallerKind::ApiKey | CallerKind::Agent) => {
                Self { kind, credential: caller.credential, scopes: caller.scopes.clone() }
            }
            _ => Self { scopes: caller.scopes.clone(), ..Self::user() },
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub user: UserId,
    /// The words.
    pub words: Personal,
    /// What sets it off.
    pub trigger: Trigger,
    /// How often at most.
    pub limits: Limits,
    /// What is told.
    pub notify: NotifyMode,
    /// With what it was made: it never has more rights.
    pub maker: Maker,
    /// The request or call that made it.
    pub made_by: u128,
    /// How it is.
    pub status: Status,
    /// Events that stand behind this record of the chain set it off.
    pub from_seq: u64,
    /// When its schedule comes round next.
    pub next_slot: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// How often it was set off since it was made or its count was set back.
    pub trigger_count: u64,
    /// How often that went well.
    pub success_count: u64,
    /// How often it did not.
    pub fail_count: u64,
    /// Slots of its schedule that nobody carried out.
    pub missed_count: u64,
    /// How often it failed since it last went well.
    pub failures_in_row: u32,
    /// Why it failed last.
    pub last_error: Option<Failure>,
    /// When it was set off last.
    pub last_triggered: Option<Timestamp>,
    /// When it was set off within the last hour.
    pub recent: VecDeque<Timestamp>,
    /// How often it was ever set off: the number of its last execution.
    pub executions: u64,
    /// The executions that are shown, the oldest first.
    pub kept: VecDeque<ExecutionId>,
}

impl Rule {
    /// Who its calls are by, before it is looked what is left of their rights.
    pub fn caller(&self, tenant: TenantId) -> Caller {
        let Maker { kind, credential, scopes } = self.maker.clone();
        Caller { kind, credential, scopes, user: Some(self.user), ..Caller::system(tenant) }
    }

    /// Whether it may be set off by what happens at `at`: its state and its limits.
    pub fn takes_at(&self, at: Timestamp, is_asked: bool) -> Result<(), Pass> {
        if self.status != Status::Active {
            return Err(Pass::NotActive);
        }
        let pause_ms = self.limits.cooldown_seconds.saturating_mul(1_000);
        let is_early = |last: Timestamp| at < last.plus_ms(pause_ms);
        if !is_asked && self.last_triggered.is_some_and(is_early) {
            return Err(Pass::Cooldown);
        }
        if self.within_hour(at) >= self.limits.max_per_hour {
            return Err(Pass::Hour);
        }
        Ok(())
    }

    /// How often it was set off in the hour before `at`.
    pub fn within_hour(&self, at: Timestamp) -> i64 {
        self.recent.iter().filter(|time| at < time.plus_ms(HOUR_MS)).count() as i64
    }

    /// Whether it has been set off as often as it may.
    pub fn is_worn_out(&self) -> bool {
        let most = self.limits.max_iterations;
        most > 0 && self.trigger_count >= most as u64
    }

    /// Takes in that it was set off.
    pub(crate) fn set_off(&mut self, at: Timestamp, execution: ExecutionId) {
        self.trigger_count += 1;
        self.executions += 1;
        self.last_triggered = self.last_triggered.max(Some(at));
        while self.recent.front().is_some_and(|time| at >= time.plus_ms(HOUR_MS)) {
            self.recent.pop_front();
        }
        self.recent.push_back(at);
        self.kept.push_back(execution);
        while self.kept.len() > EXECUTIONS_KEPT_MAX {
            self.kept.pop_front();
        }
    }

    /// As its user sees it.
    pub fn view(&self, keys: &KeyRing) -> RuleView {
        let Words { prompt, actions, interpretation } = Words::open(&self.words, keys);
        let Trigger { event_type, schedule, timezone } = self.trigger.clone();
        let note = |failure: &Failure| {
            let note = failure.note.as_ref().and_then(|note| note.open(keys, NOTE_LABEL));
            note.map_or_else(|| failure.code.clone(), |note| format!("{}: {note}", failure.code))
        };
        RuleView {
            id: self.id,
            user_id: self.user,
            prompt,
            status: self.status.name(),
            trigger_filter: TriggerView { event_type, schedule, timezone },
            actions,
            interpretation,
            trigger_count: self.trigger_count,
            success_count: self.success_count,
            fail_count: self.fail_count,
            last_error: self.last_error.as_ref().map(note),
            cooldown_seconds: self.limits.cooldown_seconds,
            max_per_hour: self.limits.max_per_hour,
            max_iterations: self.limits.max_iterations,
            last_triggered: self.last_triggered.map(rfc3339),
            created_at: rfc3339(self.created_at),
            notify_mode: self.notify.name(),
        }
    }
}

/// Why something did not set a rule off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It is paused, or failed.
    NotActive,
    /// It was set off just before.
    Cooldown,
    /// As often within an hour as it may be.
    Hour,
}

impl Pass {
    /// For whoever asked for it.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::NotActive => {
                Refusal::conflict("automation_not_active", "it is paused: resume it first")
            }
            Self::Cooldown | Self::Hour => {
                let message = "it was set off as often as it may be for now";
                let code = "automation_rate_limited";
                Refusal::new(supervision::Class::TooMany, code, message).retry_after(60_000)
            }
        }
    }
}

/// A rule as its user sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RuleView {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub user_id: UserId,
    /// What was asked for.
    pub prompt: String,
    /// active, paused or error.
    pub status: &'static str,
    /// What sets it off.
    pub trigger_filter: TriggerView,
    /// What is done.
    pub actions: Vec<ActionStep>,
    /// How the prompt was understood.
    pub interpretation: String,
    /// How often it was set off.
    pub trigger_count: u64,
    /// How often that went well.
    pub success_count: u64,
    /// How often it did not.
    pub fail_count: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// The pause after each time, in seconds.
    pub cooldown_seconds: i64,
    /// The most times within an hour.
    pub max_per_hour: i64,
    /// After so many times it pauses; 0 for never.
    pub max_iterations: i64,
    /// RFC 3339.
    pub last_triggered: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// all, failures or off.
    pub notify_mode: &'static str,
}

/// What sets a rule off, as its user sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TriggerView {
    /// The events, by name or pattern.
    pub event_type: String,
    /// Instead of events: five fields of a crontab.
    pub schedule: Option<String>,
    /// On whose clock.
    pub timezone: String,
}
