//! Tasks as they are asked for: beginning one, looking at them, stopping one, and hearing from a
//! host how far one is.
//!
//! Progress comes from two sides. Of a function that is made of steps the server knows how many are
//! done. A host says it itself: `POST /v1/tasks/{id}/progress` with
//! `{"fraction": …, "message": …}`, signed with the app's own secret as the server signs its
//! requests ([`crate::signing`]). It is an observation, so a signature that is sent again within
//! [`SIGNED_MS_MAX`] does no harm.
//!
//! Deliberate limits
//! - A function is begun as a task by a call of its own: in a batch it is refused, and when another
//!   app's function calls it, it is carried out at once, as a step of the caller.
//! - What calls inside a task cost is not in what the task costs: they are paid by themselves.

use std::sync::Arc;
use std::time::Duration;

use identity::tenant::Tenant;
use persistence::{RowRange, codec};
use serde::Serialize;
use serde_json::{Value, json};
use supervision::idempotency::Ticketed;
use supervision::{Class, Origin, Refusal, System};
use tokio::time::Instant;
use types::{CallId, JsonBytes, Personal, TaskId, TenantId, UserId, owner_of_tenant, rfc3339};

use crate::answer::{CallAnswer, Shape};
use crate::execute::{BATCH_TIME_MAX, action_of};
use crate::flights::Flight;
use crate::guard::Leave;
use crate::hold::{HOLD_TTL_MS, Hold};
use crate::ir;
use crate::outside::Nesting;
use crate::runtime::{Call, Extensions, Plan, Request, Settings};
use crate::session::{NOBODY, Scope};
use crate::task::{
    ANSWER_FAMILY, ANSWER_LABEL, Acting, AnswerRow, AskCancel, CreateTask, Details,
    PARAMS_BYTES_MAX, PARAMS_LABEL, State, TASK_FAMILY, TASK_MS_MAX, Task, Tasks, allowed,
    answer_key, task_key,
};
use crate::task_run::CANCELLED;
use crate::watch::{Done, Progress};

/// How long a task may take.
pub const TASK_TIME_MAX: Duration = Duration::from_millis(TASK_MS_MAX as u64);
/// Tasks that may run of calls that no user made, for each tenant.
pub const NOBODY_TASKS_MAX: u64 = 64;
/// How long whoever stops a task waits for its end.
pub const CANCEL_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often it is looked for meanwhile.
const CANCEL_PERIOD: Duration = Duration::from_millis(10);
/// How old a signed report may be, or how early, in milliseconds.
pub const SIGNED_MS_MAX: i64 = 5 * 60 * 1_000;
/// The longest id of a signed report, in bytes.
const SIGNED_ID_BYTES_MAX: usize = 255;

/// What a task costs, in credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// What is held while it has not ended.
    pub held: i64,
    /// What was taken.
    pub charged: i64,
    /// What was given back.
    pub released: i64,
}

/// One thing that a task had sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SentView {
    /// `host`, `call` or `completion`.
    pub kind: &'static str,
    /// To which app.
    pub app_id: String,
    /// Which function, or which model.
    pub function: String,
    /// `answered`, `failed` or `unknown`.
    pub outcome: &'static str,
}

/// What a task had done when it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoneView {
    /// Documents that it wrote; null when a restart came between.
    pub documents_written: Option<u64>,
    /// What it had sent, in order.
    pub sent: Vec<SentView>,
    /// How many more there were.
    pub sent_omitted: u64,
}

impl From<Done> for DoneView {
    fn from(done: Done) -> Self {
        let sent = done.sent.into_iter().map(|sent| SentView {
            kind: sent.sort.name(),
            app_id: sent.app,
            function: sent.function,
            outcome: sent.returned.name(),
        });
        let (sent, sent_omitted) = (sent.collect(), done.sent_omitted);
        Self { documents_written: done.documents, sent, sent_omitted }
    }
}

/// A task as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskView {
    /// Its id.
    pub task_id: TaskId,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled` or `lost`.
    pub status: &'static str,
    /// The app.
    pub app_id: String,
    /// The function.
    pub function: String,
    /// Whose it is; null for a call that no user made.
    pub user_id: Option<UserId>,
    /// Whose money it costs.
    pub tenant_id: TenantId,
    /// RFC 3339, as the others.
    pub created_at: String,
    /// When it began to run.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// When it ends at the latest.
    pub deadline: String,
    /// How far it is, while this process carries it out.
    pub progress: Option<Progress>,
    /// Whether somebody wants it stopped.
    pub cancel_requested: bool,
    /// How often it began to run: more than once after a restart.
    pub attempts: u32,
    /// What the call is answered with; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<JsonBytes>,
    /// Whether the answer is too large to be kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub answer_omitted: bool,
    /// Why it did not succeed.
    pub error_code: Option<String>,
    /// What it had done when it ended.
    pub done: Option<DoneView>,
    /// What it costs.
    pub cost: Cost,
    /// Whether it was stopped because somebody asked for it.
    #[serde(skip)]
    is_cancelled: bool,
    #[serde(skip)]
    state: Option<State>,
}

impl TaskView {
    fn new(details: Details, progress: Option<Progress>) -> Self {
        let Details { scope, state, held, charged, .. } = details;
        let released = if state.is_end() { held - charged.min(held) } else { 0 };
        let is_asked = details.cancelled_by.is_some();
        Self {
            task_id: details.id,
            status: state.name(),
            app_id: scope.app.to_string(),
            function: details.function,
            user_id: Some(scope.user).filter(|user| *user != NOBODY),
            tenant_id: scope.tenant,
            created_at: rfc3339(details.created_at),
            started_at: details.started_at.map(rfc3339),
            ended_at: details.ended_at.map(rfc3339),
            deadline: rfc3339(details.until),
            progress: progress.filter(|_| !state.is_end()),
            cancel_requested: is_asked,
            attempts: details.attempts,
            answer: None,
            answer_omitted: false,
            error_code: details.error_code,
            done: details.done.map(DoneView::from),
            cost: Cost { held, charged, released },
            is_cancelled: state == State::Cancelled && is_asked,
            state: Some(state),
        }
    }

    fn is_end(&self) -> bool {
        self.state.is_some_and(State::is_end)
    }
}

/// How many tasks somebody has, and may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TaskLimit {
    /// Whether another one may begin.
    pub allowed: bool,
    /// How many have not ended.
    pub active: usize,
    /// How many may be there.
    pub limit: usize,
}

/// A report of a host's: what it says, and how that is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The value of `webhook-id`.
    pub id: &'a str,
    /// The value of `webhook-timestamp`.
    pub timestamp: &'a str,
    /// The value of `webhook-signature`.
    pub signature: &'a str,
    /// The body as it was sent.
    pub body: &'a [u8],
}

/// Whether calls begin a task. 422 for a batch with a function that does.
pub(crate) fn begins(
    ir: &ir::App,
    calls: &[Call],
    shape: Shape,
    nesting: &Nesting,
) -> Result<bool, Refusal> {
    let found = calls.iter().find(|call| ir.is_background(&call.function));
    match (found, shape) {
        (None, _) | (Some(_), Shape::Delivery) => Ok(false),
        (Some(_), Shape::Single) => Ok(nesting.depth == 0),
        (Some(call), Shape::List) => {
            let message = format!("{} goes on in the background: call it by itself", call.function);
            Err(Refusal::invalid("calls", message))
        }
    }
}

/// How long the money for a run is held, in milliseconds.
pub(crate) fn hold_ttl_ms(as_task: bool, leads_outside: bool, nesting: &Nesting) -> i64 {
    match (as_task, leads_outside) {
        (true, _) => Nesting::for_at_most(TASK_TIME_MAX).hold_ttl_ms(),
        (false, true) => nesting.hold_ttl_ms(),
        (false, false) => HOLD_TTL_MS,
    }
}

impl Plan {
    /// How long one call of it may run: one of a task as long as a whole batch.
    pub(crate) fn run_time_max(&self, settings: &Settings) -> Duration {
        if self.watch.is_some() { BATCH_TIME_MAX } else { settings.run_time_max }
    }

    /// How many steps its function has.
    pub(crate) fn steps(&self) -> usize {
        let first = self.calls.first().and_then(|call| self.ir.callable(&call.function));
        match first {
            Some(ir::Callable::Function(function)) => match &function.implementation {
                ir::Implementation::Declarative(program) => program.len(),
                ir::Implementation::Code(_) => 1,
            },
            _ => 1,
        }
    }
}

/// The user whose tasks a request's are.
fn user_of(request: &Request) -> UserId {
    request.user.unwrap_or(NOBODY)
}

fn begun(id: TaskId, state: State) -> CallAnswer {
    let data = json!({"task_id": id, "status": state.name()});
    CallAnswer::success(data).with_summary(format!("This goes on in the background as {id}."))
}

impl Extensions {
    /// Begins a task in place of a run: under its hold, with its number. 429 `too_many_tasks`.
    pub(crate) async fn begin_task(
        &self,
        system: &Arc<System>,
        request: Request,
        (ir, flight, leave): (&ir::App, Flight, &Leave),
        calls: Vec<Call>,
        mut hold: Hold,
        ticket: Option<Ticketed>,
    ) -> Result<Vec<CallAnswer>, Refusal> {
        let Some(mut call) = calls.into_iter().next() else { return Ok(Vec::new()) };
        if let Some(ir::Callable::Function(function)) = ir.callable(&call.function)
            && let Err(issues) = function.admit_params(&mut call.params)
        {
            return Ok(vec![CallAnswer::error("params_invalid", ir::join(&issues))]);
        }
        let (tenant, user, id) = (request.tenant, user_of(&request), TaskId(flight.id().0));
        let limit = task_limit(system, tenant, user, &request.origin).await?;
        let mut task = task(system, &request, (ir, &flight), &call, &hold)?;
        task.is_confirmed = leave.is_confirmed();
        task.confirmation = leave.confirmed().map(|confirmed| confirmed.id);
        // Whoever freezes or stops from here on finds what is asked for, not this.
        flight.check()?;
        drop(flight);
        let is_running = self.tasks.reserve(&task.scope, id);
        let command = CreateTask { task, is_running, limit };
        let (tasks, address) = (system.directory::<Tasks>(), Tasks::address(tenant, user));
        hold.give();
        let created = match ticket {
            None => tasks.ask(&address, command, request.origin).await,
            Some(ticket) => {
                let render = move |state| serde_json::to_vec(&begun(id, state)).unwrap_or_default();
                let asked = tasks.ask_once(&address, command, request.origin, ticket, render);
                let state = if is_running { State::Running } else { State::Queued };
                asked.await.map(|_| state)
            }
        };
        match created {
            Ok(state) => Ok(vec![begun(id, state)]),
            Err(refusal) => {
                self.tasks.give_back(id);
                if refusal.class != Class::InDoubt {
                    hold.take_back();
                }
                Err(refusal)
            }
        }
    }

    /// Whether another task of a user may begin, and how many there are.
    pub async fn task_limit(
        &self,
        system: &Arc<System>,
        (tenant, user): (TenantId, Option<UserId>),
        origin: Origin,
    ) -> Result<TaskLimit, Refusal> {
        let user = user.unwrap_or(NOBODY);
        let limit = allowed(task_limit(system, tenant, user, &origin).await?);
        let count = |tasks: &Tasks| tasks.all_active().len();
        let tasks = system.directory::<Tasks>();
        let active = tasks.look(&Tasks::address(tenant, user), origin, count).await?;
        Ok(TaskLimit { allowed: active < limit, active, limit })
    }

    /// A user's tasks that have not ended, the oldest first.
    pub async fn active_tasks(
        &self,
        system: &Arc<System>,
        (tenant, user): (TenantId, Option<UserId>),
        origin: Origin,
    ) -> Result<Vec<TaskView>, Refusal> {
        let all = |tasks: &Tasks| -> Vec<Details> {
            tasks.all_active().map(crate::task::Active::details).collect()
        };
        let address = Tasks::address(tenant, user.unwrap_or(NOBODY));
        let active = system.directory::<Tasks>().look(&address, origin, all).await?;
        Ok(active.into_iter().map(|details| self.shown(details)).collect())
    }

    /// A user's tasks, the newest first: at most `limit` behind a key, and the key to go on from.
    pub fn recent_tasks(
        &self,
        system: &System,
        (tenant, user): (TenantId, Option<UserId>),
        after: Option<Vec<u8>>,
        limit: usize,
    ) -> (Vec<TaskView>, Option<Vec<u8>>) {
        let rows = system.rows(&RowRange {
            shard: owner_of_tenant(tenant).shard(),
            family: TASK_FAMILY,
            prefix: task_key(tenant, user.unwrap_or(NOBODY), None),
            after,
            newest_first: true,
            limit,
        });
        let next = rows.last().map(|(key, _)| key.clone()).filter(|_| rows.len() == limit);
        let details = rows.iter().filter_map(|(_, value)| codec::decode(value).ok());
        (details.map(|details| self.shown(details)).collect(), next)
    }

    /// One task, with its answer. 404 for what is not there, or another user's; `None` as the user
    /// is whoever may see every user's.
    pub fn task(
        &self,
        system: &System,
        (tenant, user): (TenantId, Option<UserId>),
        id: TaskId,
    ) -> Result<TaskView, Refusal> {
        let (shard, missing) = (owner_of_tenant(tenant).shard(), || Refusal::not_found("task"));
        let answer = || -> Option<AnswerRow> {
            let row = system.row(shard, ANSWER_FAMILY, &answer_key(tenant, id))?;
            codec::decode(&row).ok()
        };
        let found = answer().ok_or_else(missing)?;
        if user.is_some_and(|user| user != found.user) {
            return Err(missing());
        }
        let key = task_key(tenant, found.user, Some(id));
        let details = system.row(shard, TASK_FAMILY, &key).ok_or_else(missing)?;
        let mut view = self.shown(codec::decode(&details).map_err(|_| missing())?);
        if view.is_end() {
            // It may have ended between the two looks: its answer is there since then.
            let row = answer().ok_or_else(missing)?;
            let sealed = row.answer.and_then(|it| it.open(system.journal().keys(), ANSWER_LABEL));
            view.answer = sealed.and_then(|text| JsonBytes::new(&text).ok());
            view.answer_omitted = row.is_omitted;
        }
        Ok(view)
    }

    /// Stops a task, and answers how it ended. 404 as [`Extensions::task`]; 409 `task_ended` for
    /// one that had ended otherwise. One that somebody has stopped answers alike again.
    pub async fn cancel_task(
        &self,
        system: &Arc<System>,
        (tenant, user): (TenantId, Option<UserId>),
        id: TaskId,
        origin: Origin,
    ) -> Result<TaskView, Refusal> {
        let view = self.task(system, (tenant, user), id)?;
        if view.is_end() {
            return stopped(view);
        }
        let address = Tasks::address(tenant, view.user_id.unwrap_or(NOBODY));
        let (run, by) = (CallId(id.0), origin.caller.to_string());
        let why = Refusal::conflict(CANCELLED, "the task was stopped");
        // It need not run on until the disk has who stopped it: that goes into its end, too. Who
        // is answered waits for the record all the same.
        if let Some(watch) = self.tasks.watch(id) {
            watch.cancel(&by);
            drop(self.flights().stop_from(run, &why, Duration::ZERO));
        }
        let ask = AskCancel { id, by };
        system.directory::<Tasks>().ask(&address, ask, origin).await?;
        let deadline = Instant::now() + CANCEL_WAIT_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.flights().stop_from(run, &why, left).await;
            let view = self.task(system, (tenant, user), id)?;
            if view.is_end() || left.is_zero() {
                return stopped(view);
            }
            // Somebody takes it up at this moment, and looks whether it is to be stopped.
            tokio::time::sleep(CANCEL_PERIOD).await;
        }
    }

    /// Takes in how far a host says that a task is. 404 unless this process runs the task and the
    /// report is signed by its app, just now.
    pub async fn report_progress(
        &self,
        system: &Arc<System>,
        id: TaskId,
        signed: Signed<'_>,
        progress: Progress,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let missing = || Refusal::not_found("task that runs and is this host's");
        let (watch, outside) = (self.tasks.watch(id), self.outside());
        let (watch, outside) = watch.zip(outside).ok_or_else(missing)?;
        let app = self.apps().find(system, &watch.scope.app, &origin).await?;
        let now = system.clock().now();
        let seconds: i64 = signed.timestamp.parse().map_err(|_| missing())?;
        let age_ms = now.0.saturating_sub(seconds.saturating_mul(1_000)).saturating_abs();
        let numbers: Vec<u32> = app.host.valid_keys(now).collect();
        let fits = age_ms <= SIGNED_MS_MAX && signed.id.len() <= SIGNED_ID_BYTES_MAX;
        let (about, given) = ((signed.id, seconds), (signed.body, signed.signature));
        if !fits || !outside.hosts.keys().verify(&watch.scope.app, &numbers, about, given) {
            return Err(missing());
        }
        watch.report(system, progress);
        Ok(())
    }

    /// How far a task is that this process carries out, and whether it runs already.
    pub fn task_progress(&self, id: TaskId) -> Option<(Progress, bool)> {
        self.tasks.watch(id).map(|watch| (watch.progress(), watch.is_running()))
    }

    fn shown(&self, details: Details) -> TaskView {
        let progress = self.tasks.watch(details.id).map(|watch| watch.progress());
        TaskView::new(details, progress)
    }
}

/// How a task is answered that was to be stopped.
fn stopped(view: TaskView) -> Result<TaskView, Refusal> {
    if view.is_cancelled || !view.is_end() {
        return Ok(view);
    }
    let message = format!("this task has ended: it is {}", view.status);
    Err(Refusal::conflict("task_ended", message).with_facts(&json!({"state": view.status})))
}

fn task(
    system: &System,
    request: &Request,
    (ir, flight): (&ir::App, &Flight),
    call: &Call,
    hold: &Hold,
) -> Result<Task, Refusal> {
    let user = user_of(request);
    let params = match &call.params {
        Value::Null => "{}".to_owned(),
        params => params.to_string(),
    };
    if params.len() > PARAMS_BYTES_MAX {
        let message = format!("a task's are at most {PARAMS_BYTES_MAX} bytes");
        return Err(Refusal::invalid("params", message));
    }
    let caller = &request.caller;
    let acting = Acting {
        kind: caller.kind,
        credential: caller.credential,
        role: caller.role.clone(),
        scopes: caller.scopes.clone(),
        app: caller.app.clone(),
        label: request.origin.caller.to_string(),
        request: request.origin.request.id,
    };
    Ok(Task {
        id: TaskId(flight.id().0),
        scope: Scope { tenant: request.tenant, user, app: flight.app().clone() },
        function: call.function.clone(),
        action: action_of(ir, &call.function),
        params: Personal::seal(system.journal().keys(), user, PARAMS_LABEL, &params)?,
        acting,
        held: hold.amount,
        hold: hold.id,
        is_confirmed: false,
        confirmation: None,
    })
}

/// How many tasks the role of a user allows.
async fn task_limit(
    system: &Arc<System>,
    tenant: TenantId,
    user: UserId,
    origin: &Origin,
) -> Result<u64, Refusal> {
    if user == NOBODY {
        return Ok(NOBODY_TASKS_MAX);
    }
    let limit = move |tenant: &Tenant| tenant.concurrent_tasks_max(user);
    let tenants = system.directory::<Tenant>();
    tenants.look(&Tenant::address(tenant), origin.clone(), limit).await
}
