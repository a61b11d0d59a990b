//! The tasks of one user of a tenant: calls of functions that are declared as `background` or
//! `long_running`, which are answered at once and go on by themselves.
//!
//! ```text
//! queued ──> running ──> succeeded | failed | cancelled | lost
//!    └──────────────────────────────> failed | cancelled | lost
//! ```
//!
//! One entity holds all of a user's tasks that have not ended, so that one turn counts them
//! against what the user's role allows: two that are begun at once cannot both be the last. Who
//! carries a task out is [`crate::task_run`]; what has ended is rows.
//!
//! Invariants
//! - A task ends once. What was held for it was handed to its session or released before that.
//! - A task that has not ended is carried on after a restart: one that only ran here runs again,
//!   and its run is recorded once, since the session knows it by the task's number; one that may
//!   have acted outside is `lost` ([`crate::session::StartRun`]).
//! - The params and the answer are sealed under the user's own key, in events and rows alike.
//!
//! Rows, in the tenant's shard: family [`TASK_FAMILY`] by tenant, user and task (16 bytes each, by
//! age), holding [`Details`]; family [`ANSWER_FAMILY`] by tenant and task, holding an
//! [`AnswerRow`], which also finds the user of a task.
//!
//! Deliberate limits
//! - The last [`ENDED_KEPT_MAX`] tasks that have ended are shown; the actions keep all.
//! - A task has the rights that its caller had when it began.
//! - An answer beyond [`ANSWER_BYTES_MAX`] is not kept: the task says so, and what it did stands.

use std::collections::{BTreeMap, VecDeque};

use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Class, Command, EffectContext, Entity, Handle, Refusal, Retried, Retry,
    Retrying, RowDraft, Timestamp, Turn,
};
use types::{
    AppId, CallId, Caller, CallerKind, ConfirmationId, HoldId, Personal, Scopes, TaskId, TenantId,
    UserId, base32, home_of, owner_of_tenant,
};

use crate::session::{Action, NOBODY, Scope};
use crate::task_run;
use crate::watch::Done;

/// The family of the rows of tasks.
pub const TASK_FAMILY: &str = "task";
/// The family of the rows of their answers.
pub const ANSWER_FAMILY: &str = "task_answer";
/// How long a task may take from its beginning, in milliseconds.
pub const TASK_MS_MAX: i64 = 15 * 60 * 1_000;
/// Tasks of one user that have not ended, whatever the role allows.
pub const ACTIVE_MAX: usize = 1_024;
/// Tasks of one user that have ended and are shown.
pub const ENDED_KEPT_MAX: usize = 1_000;
/// The params of a task, in bytes of their JSON.
pub const PARAMS_BYTES_MAX: usize = 256 * 1024;
/// An answer that is kept, in bytes of its JSON.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// When a task that nobody carries on is taken up again after its time.
const OVERDUE_MS: i64 = 60_000;
/// The pauses between two such tries.
const OVERDUE_BACKOFF: Backoff = Backoff { first_ms: 60_000, max_ms: 600_000 };
/// When to try again to begin a task beyond the limit.
const FULL_RETRY_MS: u64 = 5_000;
/// Under which label params and answers are sealed.
pub(crate) const PARAMS_LABEL: &str = "task.params";
pub(crate) const ANSWER_LABEL: &str = "task.answer";

/// How far a task is. Stored: a state keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// It did what was asked.
    Succeeded,
    /// It did not, and changed nothing.
    Failed,
    /// It was stopped.
    Cancelled,
    /// It may have acted outside, and what came of that will not be known.
    Lost,
}

impl State {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// Whether nothing more will come.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// With whose rights a task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acting {
    /// What was shown.
    pub kind: CallerKind,
    /// The agent's or API key's own id.
    pub credential: Option<u128>,
    /// The role in the tenant.
    pub role: String,
    /// What was covered.
    pub scopes: Scopes,
    /// The app that a service acted as.
    pub app: Option<AppId>,
    /// As records show the caller.
    pub label: String,
    /// The request that began it.
    pub request: u128,
}

/// What a task is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id; its run has the same number.
    pub id: TaskId,
    /// Whose it is, and which app's.
    pub scope: Scope,
    /// The function, as it is called.
    pub function: String,
    /// What it may change.
    pub action: Action,
    /// Its params, a JSON text.
    pub params: Personal,
    /// With whose rights it runs.
    pub acting: Acting,
    /// What it may cost, in credits.
    pub held: i64,
    /// Where that is held.
    pub hold: Option<HoldId>,
    /// Whether a person has confirmed it, for what it calls in turn.
    pub is_confirmed: bool,
    /// The card by which it was confirmed.
    pub confirmation: Option<ConfirmationId>,
}

impl Task {
    /// Its run.
    pub fn run(&self) -> CallId {
        CallId(self.id.0)
    }

    /// The caller, as it was when the task began.
    pub fn caller(&self) -> Caller {
        let Acting { kind, credential, role, scopes, app, .. } = self.acting.clone();
        let user = Some(self.scope.user).filter(|user| *user != NOBODY);
        let system = Caller::system(self.scope.tenant);
        Caller { kind, credential, role, scopes, app, user, ..system }
    }
}

/// A task that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Active {
    /// What it is.
    pub task: Task,
    /// Queued or running.
    pub state: State,
    /// Since when it is there.
    pub created_at: Timestamp,
    /// When it began to run for the first time.
    pub started_at: Option<Timestamp>,
    /// When it is over.
    pub until: Timestamp,
    /// Who wants it stopped.
    pub cancelled_by: Option<String>,
    /// How often it began to run.
    pub attempts: u32,
}

/// A task as it is shown: all but its params and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Its id.
    pub id: TaskId,
    /// Whose it is, and which app's.
    pub scope: Scope,
    /// The function.
    pub function: String,
    /// How far it is.
    pub state: State,
    /// Since when it is there.
    pub created_at: Timestamp,
    /// When it began to run for the first time.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When it is over at the latest.
    pub until: Timestamp,
    /// Who wanted it stopped.
    pub cancelled_by: Option<String>,
    /// How often it began to run.
    pub attempts: u32,
    /// What was held for it, in credits.
    pub held: i64,
    /// What it cost; the rest was released.
    pub charged: i64,
    /// Why it did not succeed.
    pub error_code: Option<String>,
    /// What it had done when it ended.
    pub done: Option<Done>,
}

impl Active {
    /// As it is shown.
    pub fn details(&self) -> Details {
        let Self { task, state, created_at, started_at, until, cancelled_by, attempts } = self;
        Details {
            id: task.id,
            scope: task.scope.clone(),
            function: task.function.clone(),
            state: *state,
            created_at: *created_at,
            started_at: *started_at,
            ended_at: None,
            until: *until,
            cancelled_by: cancelled_by.clone(),
            attempts: *attempts,
            held: task.held,
            charged: 0,
            error_code: None,
            done: None,
        }
    }

    fn ended(&self, end: &End, at: Timestamp) -> Details {
        Details {
            state: end.state,
            ended_at: Some(at),
            charged: end.charged,
            error_code: end.error_code.clone(),
            done: Some(end.done.clone()),
            ..self.details()
        }
    }
}

/// What a task was answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Whose task it is.
    pub user: UserId,
    /// The answer, a JSON text; `None` until there is one.
    pub answer: Option<Personal>,
    /// Whether there was one that is too large to be kept.
    pub is_omitted: bool,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// An end.
    pub state: State,
    /// Why it did not succeed.
    pub error_code: Option<String>,
    /// What it was answered with, a JSON text.
    pub answer: Option<Personal>,
    /// Whether the answer is too large to be kept.
    pub is_omitted: bool,
    /// What it had done.
    pub done: Done,
    /// What it cost, in credits.
    pub charged: i64,
    /// Whether the session has a record of the call itself.
    pub is_recorded: bool,
}

/// A task was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// What it is.
    pub task: Task,
    /// Whether it runs at once.
    pub is_running: bool,
    /// When it is over.
    pub until: Timestamp,
}

/// A task began to run, or to run again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Began {
    /// The task.
    pub id: TaskId,
}

/// Somebody wants a task stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CancelAsked {
    /// The task.
    pub id: TaskId,
    /// Who.
    pub by: String,
}

/// A task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The task.
    pub id: TaskId,
    /// Whose it is, and which app's.
    pub scope: Scope,
    /// The function.
    pub function: String,
    /// What it might have changed.
    pub action: Action,
    /// How.
    pub end: End,
}

supervision::events! {
    /// What happens to a user's tasks.
    pub enum TasksEvent {
        /// One was begun.
        Created(Created) = "task_created", 1;
        /// One began to run.
        Began(Began) = "task_began", 1;
        /// One is to be stopped.
        CancelAsked(CancelAsked) = "task_cancel_asked", 1;
        /// One ended.
        Ended(Ended) = "task_ended", 1;
        /// What nobody carries on is taken up again.
        Retried(Retried) = "task_retried", 1;
    }
}

/// The tasks of one user of a tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tasks {
    active: BTreeMap<TaskId, Active>,
    /// Those that are shown, the oldest first.
    ended: VecDeque<TaskId>,
    retry: Retry,
    /// How many there were.
    total: u64,
}

/// What a user's tasks ask of others: to carry one on.
#[derive(Clone, Copy, Debug)]
pub struct CarryOn(pub TaskId);

impl Tasks {
    /// Where a user's tasks in a tenant live; [`NOBODY`]'s for calls that no user made.
    pub fn address(tenant: TenantId, user: UserId) -> Address<Self> {
        let id = format!("{}.{}", base32(tenant.0), base32(user.0));
        let address = Address::new(&id, owner_of_tenant(tenant), home_of(tenant));
        // 53 characters of base32 and a dot are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// One that has not ended.
    pub fn active(&self, id: TaskId) -> Option<&Active> {
        self.active.get(&id)
    }

    /// All that have not ended, the oldest first.
    pub fn all_active(&self) -> impl ExactSizeIterator<Item = &Active> {
        self.active.values()
    }
}

/// The key of a task's row; without a task what those of a user begin with.
pub fn task_key(tenant: TenantId, user: UserId, id: Option<TaskId>) -> Vec<u8> {
    let mut key = [tenant.0.to_be_bytes(), user.0.to_be_bytes()].concat();
    key.extend(id.iter().flat_map(|id| id.0.to_be_bytes()));
    key
}

/// The key of the row of its answer.
pub fn answer_key(tenant: TenantId, id: TaskId) -> Vec<u8> {
    [tenant.0.to_be_bytes(), id.0.to_be_bytes()].concat()
}

fn put<T: Serialize>(family: &'static str, key: Vec<u8>, value: &T) -> RowDraft {
    // What cannot be encoded has no row; the codec writes all that there is here.
    RowDraft { family, key, value: codec::encode(value).ok() }
}

impl Entity for Tasks {
    const KIND: &'static str = "tasks";
    type Event = TasksEvent;
    type Effect = CarryOn;

    fn apply(&mut self, event: &TasksEvent, at: Timestamp) {
        match event {
            TasksEvent::Created(Created { task, is_running, until }) => {
                if self.active.is_empty() {
                    self.retry = Retry::begin(at, OVERDUE_BACKOFF);
                }
                let active = Active {
                    task: task.clone(),
                    state: if *is_running { State::Running } else { State::Queued },
                    created_at: at,
                    started_at: is_running.then_some(at),
                    until: *until,
                    cancelled_by: None,
                    attempts: u32::from(*is_running),
                };
                self.active.insert(task.id, active);
                self.total += 1;
            }
            TasksEvent::Began(Began { id }) => {
                if let Some(active) = self.active.get_mut(id) {
                    active.state = State::Running;
                    active.started_at.get_or_insert(at);
                    active.attempts += 1;
                }
            }
            TasksEvent::CancelAsked(CancelAsked { id, by }) => {
                if let Some(active) = self.active.get_mut(id) {
                    active.cancelled_by = Some(by.clone());
                }
            }
            TasksEvent::Ended(Ended { id, .. }) => {
                self.active.remove(id);
                self.ended.push_back(*id);
                while self.ended.len() > ENDED_KEPT_MAX {
                    self.ended.pop_front();
                }
            }
            TasksEvent::Retried(_) => self.retry.again(at, OVERDUE_BACKOFF),
        }
    }

    fn rows(&self, event: &TasksEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let (id, scope, details, answer) = match event {
            TasksEvent::Created(created) => {
                let mut after = Self::default();
                after.apply(event, at);
                let (id, scope) = (created.task.id, created.task.scope.clone());
                let Some(details) = after.active(id).map(Active::details) else { return };
                let answer = AnswerRow { user: scope.user, answer: None, is_omitted: false };
                (id, scope, details, answer)
            }
            TasksEvent::Ended(Ended { id, end, .. }) => {
                let Some(active) = self.active.get(id) else { return };
                let (scope, is_omitted) = (active.task.scope.clone(), end.is_omitted);
                if self.ended.len() >= ENDED_KEPT_MAX
                    && let Some(oldest) = self.ended.front()
                {
                    let key = task_key(scope.tenant, scope.user, Some(*oldest));
                    rows.push(RowDraft { family: TASK_FAMILY, key, value: None });
                    let key = answer_key(scope.tenant, *oldest);
                    rows.push(RowDraft { family: ANSWER_FAMILY, key, value: None });
                }
                let answer = AnswerRow { user: scope.user, answer: end.answer.clone(), is_omitted };
                (*id, scope, active.ended(end, at), answer)
            }
            TasksEvent::Began(Began { id }) | TasksEvent::CancelAsked(CancelAsked { id, .. }) => {
                let Some(active) = self.active.get(id) else { return };
                let mut after = Self::default();
                after.active.insert(*id, active.clone());
                after.apply(event, at);
                let details = after.active(*id).map(Active::details);
                let Scope { tenant, user, .. } = active.task.scope;
                let key = task_key(tenant, user, Some(*id));
                rows.extend(details.map(|details| put(TASK_FAMILY, key, &details)));
                return;
            }
            TasksEvent::Retried(_) => return,
        };
        rows.push(put(TASK_FAMILY, task_key(scope.tenant, scope.user, Some(id)), &details));
        rows.push(put(ANSWER_FAMILY, answer_key(scope.tenant, id), &answer));
    }

    fn is_pending(&self) -> bool {
        !self.active.is_empty()
    }

    fn resume(&self) -> Vec<CarryOn> {
        self.active.keys().copied().map(CarryOn).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: CarryOn, context: EffectContext<Self>) {
        task_run::perform(effect.0, context).await;
    }

    fn observe(&self) -> serde_json::Value {
        let active = |active: &Active| {
            json!({"id": active.task.id, "app": active.task.scope.app,
                "function": active.task.function, "state": active.state.name(),
                "attempts": active.attempts, "cancelled_by": active.cancelled_by})
        };
        json!({"active": self.active.values().map(active).collect::<Vec<_>>(),
            "ended_shown": self.ended.len(), "total": self.total})
    }
}

impl Retrying for Tasks {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> TasksEvent {
        TasksEvent::Retried(Retried {})
    }

    /// Whoever carries a task on ends it in time, so only what is overdue is taken up again.
    fn retry_at(&self) -> Option<Timestamp> {
        let first = self.active.values().map(|active| active.until).min()?;
        Some(first.plus_ms(OVERDUE_MS).max(self.retry.next_at()))
    }
}

/// Begins a task: 429 `too_many_tasks` when the user has as many as `limit` already.
#[derive(Clone, Debug)]
pub struct CreateTask {
    /// What it is.
    pub task: Task,
    /// Whether it has a place and runs at once.
    pub is_running: bool,
    /// How many the user may have.
    pub limit: u64,
}

impl Command for CreateTask {
    const NAME: &'static str = "create_task";
}

/// 429: so many tasks have not ended.
pub(crate) fn too_many(active: usize, limit: usize) -> Refusal {
    let message = format!("{active} tasks have not ended, and the limit of this role is {limit}");
    let facts = json!({"limit": "max_concurrent_tasks", "max_concurrent_tasks": limit,
        "active": active});
    Refusal::new(Class::TooMany, "too_many_tasks", message)
        .with_facts(&facts)
        .retry_after(FULL_RETRY_MS)
}

/// How many tasks a role's number allows.
pub(crate) fn allowed(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(ACTIVE_MAX).min(ACTIVE_MAX)
}

impl Handle<CreateTask> for Tasks {
    type Reply = State;

    fn handle(turn: &mut Turn<'_, Self>, command: CreateTask) -> Result<State, Refusal> {
        let CreateTask { task, is_running, limit } = command;
        let (limit, id) = (allowed(limit), task.id);
        if let Some(active) = turn.state().active(id) {
            return Ok(active.state);
        }
        let active = turn.state().active.len();
        if active >= limit {
            return Err(too_many(active, limit));
        }
        let until = turn.now().plus_ms(TASK_MS_MAX);
        turn.record(TasksEvent::Created(Created { task, is_running, until }));
        turn.effect(CarryOn(id));
        Ok(if is_running { State::Running } else { State::Queued })
    }
}

/// Says that a task begins to run, or to run again. 404 once it has ended.
#[derive(Clone, Copy, Debug)]
pub struct BeginTask(pub TaskId);

impl Command for BeginTask {
    const NAME: &'static str = "begin_task";
}

impl Handle<BeginTask> for Tasks {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, BeginTask(id): BeginTask) -> Result<(), Refusal> {
        if turn.state().active(id).is_none() {
            return Err(Refusal::not_found("task"));
        }
        turn.record(TasksEvent::Began(Began { id }));
        Ok(())
    }
}

/// Says that a task is to be stopped. Answers whether it had not ended.
#[derive(Clone, Debug)]
pub struct AskCancel {
    /// The task.
    pub id: TaskId,
    /// Who wants it.
    pub by: String,
}

impl Command for AskCancel {
    const NAME: &'static str = "ask_cancel";
    const ESSENTIAL: bool = true;
}

impl Handle<AskCancel> for Tasks {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: AskCancel) -> Result<bool, Refusal> {
        let AskCancel { id, by } = command;
        let Some(active) = turn.state().active(id) else { return Ok(false) };
        if active.cancelled_by.is_none() {
            turn.record(TasksEvent::CancelAsked(CancelAsked { id, by }));
        }
        Ok(true)
    }
}

/// Says how a task ended. One that has ended stays as it is.
#[derive(Clone, Debug)]
pub struct EndTask {
    /// The task.
    pub id: TaskId,
    /// How.
    pub end: End,
    /// Who has stopped it: whoever does need not wait until that is on record, and so it is
    /// recorded with a cancelled task's end, unless it is before.
    pub cancelled_by: Option<String>,
}

impl Command for EndTask {
    const NAME: &'static str = "end_task";
    const ESSENTIAL: bool = true;
}

impl Handle<EndTask> for Tasks {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: EndTask) -> Result<(), Refusal> {
        let EndTask { id, end, cancelled_by } = command;
        let Some(active) = turn.state().active(id) else { return Ok(()) };
        let Task { scope, function, action, .. } = active.task.clone();
        let is_asked = active.cancelled_by.is_some() || end.state != State::Cancelled;
        if let Some(by) = cancelled_by.filter(|_| !is_asked) {
            turn.record(TasksEvent::CancelAsked(CancelAsked { id, by }));
        }
        turn.record(TasksEvent::Ended(Ended { id, scope, function, action, end }));
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests/task.rs"]
mod tests;
