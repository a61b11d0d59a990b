//! An execution: one time that a rule was set off, what was done, and what came of it.
//!
//! Its id is made of the rule and of what set it off: a place in the tenant's chain, a slot of the
//! schedule, or the request of whoever asked. So whoever looks again finds that it was begun.
//!
//! Rows, in the tenant's shard: [`EXECUTION_FAMILY`] by tenant, rule and number, holding
//! [`Shown`]; [`CAUSE_FAMILY`] by tenant and execution, holding a [`Cause`]: what its calls lead to
//! is known by their request, which has the execution's number.

use persistence::record::sha256;
use persistence::{KeyRing, codec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::{RowDraft, Timestamp};
use types::{AppId, CallId, ConfirmationId, ExecutionId, Personal, TenantId, UserId, rfc3339};

use crate::rule::{Failure, NOTE_LABEL};

/// The family of the rows of executions.
pub const EXECUTION_FAMILY: &str = "automation_execution";
/// The family of the rows by which an execution is found.
pub const CAUSE_FAMILY: &str = "automation_cause";
/// How long an execution may take, in milliseconds: what waits for a person waits no longer here.
pub const EXECUTION_MS_MAX: i64 = 60 * 60 * 1_000;
/// Rules that may have led to one another. What a further one would do is not done.
pub const CHAIN_MAX: usize = 5;
/// Bytes of what set a rule off, as JSON.
pub const EVENT_BYTES_MAX: usize = 16 * 1024;
/// Characters of the words that are kept of a step.
pub const NOTE_CHARACTERS_MAX: usize = 1_000;
/// What events are sealed as.
const EVENT_LABEL: &str = "automation.event";

/// What set a rule off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// An event: its record's number in the chain, and its place among what that tells.
    Event(u64, u32),
    /// A slot of its schedule.
    Schedule(Timestamp),
    /// Its user.
    Manual,
    /// A service that carries it out by itself, and says so here.
    Reported,
}

impl Source {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event(..) => "event",
            Self::Schedule(_) => "schedule",
            Self::Manual => "manual",
            Self::Reported => "service",
        }
    }
}

/// The id of what `source` sets off; `asked` tells those apart that somebody asks for.
pub fn id_of(tenant: TenantId, rule: u64, source: Source, asked: &str) -> ExecutionId {
    let what = match source {
        Source::Event(seq, place) => format!("event/{seq}.{place}"),
        Source::Schedule(slot) => format!("slot/{}", slot.0),
        Source::Manual | Source::Reported => format!("{}/{asked}", source.name()),
    };
    let parts: [&[u8]; 4] =
        [b"bailiwick execution id", &tenant.0.to_be_bytes(), &rule.to_be_bytes(), what.as_bytes()];
    let mut number = [0; 16];
    number.copy_from_slice(&sha256(&parts)[..16]);
    ExecutionId(u128::from_be_bytes(number))
}

/// The run of a step: whoever takes an execution up again calls it by the same number.
pub fn run_of(execution: ExecutionId, step: usize) -> CallId {
    let parts: [&[u8]; 3] =
        [b"bailiwick step", &execution.0.to_be_bytes(), &(step as u64).to_be_bytes()];
    let mut number = [0; 16];
    number.copy_from_slice(&sha256(&parts)[..16]);
    CallId(u128::from_be_bytes(number))
}

/// An execution as it was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// The rule.
    pub rule: u64,
    /// Whose it is.
    pub user: UserId,
    /// The rule's executions are numbered from 1.
    pub number: u64,
    /// What set it off.
    pub source: Source,
    /// When that was.
    pub at: Timestamp,
    /// What bindings call `event`, a JSON text.
    pub event: Personal,
    /// The rules whose calls led to this one, the first first.
    pub ancestors: Vec<u64>,
    /// When it is over at the latest.
    pub until: Timestamp,
}

impl Execution {
    /// Whether this server carries it out.
    pub fn is_ours(&self) -> bool {
        self.source != Source::Reported
    }
}

/// What set a rule off, sealed; what is too large is left out.
pub fn seal_event(
    keys: &KeyRing,
    user: UserId,
    event: &Value,
) -> Result<Personal, supervision::Refusal> {
    let text = event.to_string();
    let text = if text.len() > EVENT_BYTES_MAX {
        json!({"type": event["type"], "id": event["id"], "at": event["at"], "omitted": true})
            .to_string()
    } else {
        text
    };
    Personal::seal(keys, user, EVENT_LABEL, &text)
}

/// What set a rule off; null once it is erased.
pub fn open_event(keys: &KeyRing, event: &Personal) -> Value {
    let text = event.open(keys, EVENT_LABEL);
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// The words that are kept of something, sealed.
pub fn seal_note(keys: &KeyRing, user: UserId, note: &str) -> Option<Personal> {
    let note: String = note.chars().take(NOTE_CHARACTERS_MAX).collect();
    Personal::seal(keys, user, NOTE_LABEL, &note).ok()
}

/// How an execution ended. Stored: a state keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every step did what was asked.
    Success,
    /// One did not; those behind it were not begun.
    Failed,
    /// Its rule is gone.
    Cancelled,
    /// Its time was over.
    TimedOut,
}

impl Outcome {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// The app that was called; `None` for a message.
    pub app: Option<AppId>,
    /// The function, or `message`.
    pub tool: String,
    /// The call, for those that were made.
    pub call: Option<CallId>,
    /// The card that it waited for.
    pub confirmation: Option<ConfirmationId>,
    /// What it cost, in credits.
    pub charged: i64,
    /// Why it failed; `None` if it went well.
    pub code: Option<String>,
    /// In words: a summary, a notice, or why it failed.
    pub note: Option<Personal>,
}

/// The end of an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// The steps that were begun.
    pub steps: Vec<StepOutcome>,
    /// Why it did not go well.
    pub error: Option<Failure>,
}

impl End {
    /// An end without a step that tells why.
    pub fn because(outcome: Outcome, code: &str, steps: Vec<StepOutcome>) -> Self {
        let error = Failure { code: code.to_owned(), note: None };
        Self { outcome, steps, error: Some(error) }
    }

    /// What it cost, in credits.
    pub fn charged(&self) -> i64 {
        self.steps.iter().map(|step| step.charged).sum()
    }
}

/// An execution as its row has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// As it was begun.
    pub execution: Execution,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it ended, and how.
    pub ended: Option<(Timestamp, End)>,
}

/// What finds an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// The rule.
    pub rule: u64,
    /// Its number among the rule's.
    pub number: u64,
    /// The rules that led to it.
    pub ancestors: Vec<u64>,
}

/// What the keys of a rule's executions begin with.
pub fn executions_prefix(tenant: TenantId, rule: u64) -> Vec<u8> {
    [tenant.0.to_be_bytes().as_slice(), &rule.to_be_bytes()].concat()
}

/// The key of an execution's row.
pub fn execution_key(tenant: TenantId, rule: u64, number: u64) -> Vec<u8> {
    [executions_prefix(tenant, rule).as_slice(), &number.to_be_bytes()].concat()
}

/// The key of the row that finds it.
pub fn cause_key(tenant: TenantId, id: u128) -> Vec<u8> {
    [tenant.0.to_be_bytes(), id.to_be_bytes()].concat()
}

/// A row to write.
pub(crate) fn put<T: Serialize>(family: &'static str, key: Vec<u8>, value: &T) -> RowDraft {
    // What cannot be encoded has no row; the codec writes all that there is here.
    RowDraft { family, key, value: codec::encode(value).ok() }
}

/// An execution as its user sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ExecutionView {
    /// Its id; what its calls lead to is recorded under its number.
    pub id: ExecutionId,
    /// The rule.
    pub rule_id: u64,
    /// The rule's executions are numbered from 1.
    pub number: u64,
    /// event, schedule, manual or service.
    pub source: &'static str,
    /// running, success, failed, cancelled or timed_out.
    pub status: &'static str,
    /// What set it off; null once it is erased.
    #[schema(value_type = Object)]
    pub event: Value,
    /// The rules whose calls led to it, the first first.
    pub chain: Vec<u64>,
    /// What was done.
    pub steps: Vec<StepView>,
    /// What it cost, in credits.
    pub charged: i64,
    /// Why it did not go well.
    pub error: Option<String>,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; null while it runs.
    pub ended_at: Option<String>,
}

/// What came of a step, as its user sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct StepView {
    /// The app; null for a message.
    pub app_id: Option<AppId>,
    /// The function, or `message`.
    pub tool: String,
    /// success or failed.
    pub status: &'static str,
    /// The call, as the actions name it.
    pub call_id: Option<CallId>,
    /// The card that it waited for.
    pub confirmation_id: Option<ConfirmationId>,
    /// In credits.
    pub charged: i64,
    /// Why it failed.
    pub error_code: Option<String>,
    /// In words.
    pub note: Option<String>,
}

impl Shown {
    /// As its user sees it.
    pub fn view(&self, keys: &KeyRing) -> ExecutionView {
        let Self { execution, started_at, ended } = self;
        let end = ended.as_ref().map(|(_, end)| end);
        let open =
            |note: &Option<Personal>| note.as_ref().and_then(|note| note.open(keys, NOTE_LABEL));
        let step = |step: &StepOutcome| StepView {
            app_id: step.app.clone(),
            tool: step.tool.clone(),
            status: if step.code.is_none() { "success" } else { "failed" },
            call_id: step.call,
            confirmation_id: step.confirmation,
            charged: step.charged,
            error_code: step.code.clone(),
            note: open(&step.note),
        };
        let error = end.and_then(|end| end.error.as_ref()).map(|error| match open(&error.note) {
            Some(note) => format!("{}: {note}", error.code),
            None => error.code.clone(),
        });
        ExecutionView {
            id: execution.id,
            rule_id: execution.rule,
            number: execution.number,
            source: execution.source.name(),
            status: end.map_or("running", |end| end.outcome.name()),
            event: open_event(keys, &execution.event),
            chain: execution.ancestors.clone(),
            steps: end.map(|end| end.steps.iter().map(step).collect()).unwrap_or_default(),
            charged: end.map_or(0, End::charged),
            error,
            started_at: rfc3339(*started_at),
            ended_at: ended.as_ref().map(|(at, _)| rfc3339(*at)),
        }
    }
}
