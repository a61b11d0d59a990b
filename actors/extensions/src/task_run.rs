//! Carrying tasks out: who runs a task in this process, from its turn to its end.
//!
//! A task's run is a call like any other, with the task's number, and its outcome is recorded
//! under an idempotency key that the task alone has: so whoever takes a task up after a restart
//! finds what it came to, and does not do it again.
//!
//! Invariants
//! - One process carries a task out once at a time.
//! - A task's flight lasts until its end is durable, so that whoever stops it finds it ended.
//! - Before a task ends, what was held for it is its session's to settle, or released.
//! - A task that is let go of, by a stop of the server or a crash, keeps what is held for it.
//!
//! Deliberate limit: a task that cannot be ended (its wallet or session has no room for as long as
//! [`CARRY_ATTEMPTS_MAX`] tries) is left to its reminder, which takes it up after its time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use billing::wallet::{Wallet, wallet_address};
use parking_lot::Mutex;
use supervision::{
    Address, Class, EffectContext, IdempotencyKey, Origin, Refusal, RequestRef, System,
};
use tokio::sync::watch;
use types::{CallerKind, Personal, TaskId, home_of};

use crate::answer::{CallAnswer, Shape};
use crate::flights::{Flight, Flying, Sort, agent_of};
use crate::guard::{Intercepted, Leave};
use crate::hold::Hold;
use crate::hosts::OUTCOME_UNKNOWN;
use crate::outside::{Acts, Nesting};
use crate::runtime::{Begun, Call, Extensions, Plan, Request, begin};
use crate::session::{ExtensionSession, Fate, LoseRun, NOBODY, Scope};
use crate::task::{
    ANSWER_BYTES_MAX, ANSWER_LABEL, Active, BeginTask, End, EndTask, PARAMS_LABEL, State, Task,
    Tasks,
};
use crate::turns::{Turn, Turns, number_of};
use crate::watch::Watch;

/// How often a task is taken up in this process before it is left to its reminder.
pub(crate) const CARRY_ATTEMPTS_MAX: u32 = 8;
/// The pause before the second try, longer each time.
const CARRY_PAUSE: Duration = Duration::from_millis(250);
/// How often a run is tried again that found no room.
const RUN_ATTEMPTS_MAX: u32 = 5;
/// The code of a task whose time is over.
pub(crate) const TIME_EXCEEDED: &str = "time_exceeded";

/// The tasks that this process carries out.
pub(crate) struct TaskRuns {
    turns: Arc<Turns>,
    /// Places of tasks that are just being begun.
    reserved: Mutex<HashMap<TaskId, Turn>>,
    watches: Mutex<HashMap<TaskId, Arc<Watch>>>,
    /// Turns true when the server stops.
    closing: watch::Sender<bool>,
}

impl TaskRuns {
    pub(crate) fn new(at_once: usize) -> Self {
        let (reserved, watches) = (Mutex::default(), Mutex::default());
        Self { turns: Turns::new(at_once), reserved, watches, closing: watch::Sender::new(false) }
    }

    /// Takes a place for a task that is about to begin, if there is one.
    pub(crate) fn reserve(&self, scope: &Scope, id: TaskId) -> bool {
        let turn = self.turns.try_take(scope.tenant, number_of(scope));
        let Some(turn) = turn else { return false };
        self.reserved.lock().insert(id, turn);
        true
    }

    async fn take(&self, scope: &Scope) -> Turn {
        self.turns.take(scope.tenant, number_of(scope)).await
    }

    /// Gives the place of a task back that did not begin.
    pub(crate) fn give_back(&self, id: TaskId) {
        let turn = self.reserved.lock().remove(&id);
        drop(turn);
    }

    /// What is seen of a task that this process carries out.
    pub(crate) fn watch(&self, id: TaskId) -> Option<Arc<Watch>> {
        self.watches.lock().get(&id).cloned()
    }

    /// `None` while somebody carries it out.
    fn enter(&self, id: TaskId, scope: Scope) -> Option<Carrying<'_>> {
        let mut watches = self.watches.lock();
        if watches.contains_key(&id) {
            return None;
        }
        let watch = Watch::new(id, scope);
        watches.insert(id, watch.clone());
        Some(Carrying { runs: self, watch })
    }
}

/// A task that is carried out, until it is dropped.
struct Carrying<'a> {
    runs: &'a TaskRuns,
    watch: Arc<Watch>,
}

impl Drop for Carrying<'_> {
    fn drop(&mut self) {
        self.runs.watches.lock().remove(&self.watch.id);
        self.runs.give_back(self.watch.id);
    }
}

/// The key that a task's run is recorded under.
pub(crate) fn key_of(task: &Task) -> IdempotencyKey {
    IdempotencyKey::new(task.scope.tenant.0, "tasks", "task", &task.id.to_string(), b"")
}

/// Carries a task on, if this process has who can.
pub(crate) async fn perform(id: TaskId, context: EffectContext<Tasks>) {
    let EffectContext { system, address, .. } = context;
    if let Some(extensions) = system.find_port::<Extensions>() {
        extensions.carry_on(&system, &address, id).await;
    }
}

/// How long letting go of tasks may take when the server stops.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often it is looked whether they are.
const CLOSE_PERIOD: Duration = Duration::from_millis(5);

/// How a task ended, and its flight, if it had one.
type Concluded = (End, Option<Flight>);

impl Extensions {
    /// Lets go of all tasks, because the server stops: none ends by that, and who starts next takes
    /// them up. What they have sent is cut off.
    pub async fn let_go_of_tasks(&self) {
        let ids: Vec<TaskId> = self.tasks.watches.lock().keys().copied().collect();
        self.tasks.closing.send_replace(true);
        let is_inner = |flying: &Flying| {
            flying.root != flying.id && ids.iter().any(|id| id.0 == flying.root.0)
        };
        self.flights().stop(is_inner, &Refusal::busy(), CLOSE_WAIT_MAX).await;
        let gone = async {
            while !self.tasks.watches.lock().is_empty() {
                tokio::time::sleep(CLOSE_PERIOD).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_WAIT_MAX, gone).await;
    }

    /// Carries a task on until it has ended, or the server stops.
    async fn carry_on(&self, system: &Arc<System>, address: &Address<Tasks>, id: TaskId) {
        let mut closing = self.tasks.closing.subscribe();
        tokio::select! {
            () = self.carry_to_end(system, address, id) => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }

    /// Carries a task on until it has ended. Returns at once when somebody does already.
    async fn carry_to_end(&self, system: &Arc<System>, address: &Address<Tasks>, id: TaskId) {
        let tasks = system.directory::<Tasks>();
        let mut carrying = None;
        for attempt in 0..CARRY_ATTEMPTS_MAX {
            tokio::time::sleep(CARRY_PAUSE * attempt).await;
            let look = move |tasks: &Tasks| tasks.active(id).cloned();
            let active = match tasks.look(address, system.system_origin(), look).await {
                Ok(Some(active)) => active,
                Err(refusal) if refusal.class.may_pass() => continue,
                Ok(None) | Err(_) => return,
            };
            if carrying.is_none() {
                let scope = active.task.scope.clone();
                let Some(entered) = self.tasks.enter(id, scope) else { return };
                carrying = Some(entered);
            }
            let Some(Carrying { watch, .. }) = &carrying else { return };
            let origin = origin_of(&active.task);
            let (end, flight) = match self.conclude(system, address, &active, watch).await {
                Ok(concluded) => concluded,
                Err(refusal) if refusal.class.may_pass() => continue,
                Err(refusal) => {
                    tracing::warn!(%refusal, task = %id, "a task could not be carried on");
                    return;
                }
            };
            let end = EndTask { id, end, cancelled_by: watch.cancelled_by() };
            let ended = tasks.ask(address, end, origin).await;
            if !ended.is_err_and(|refusal| refusal.class.may_pass()) {
                // In this order: who waits for the flight's end finds nothing of it left.
                drop(carrying);
                drop(flight);
                return;
            }
        }
        tracing::warn!(task = %id, "a task found no room to end; its reminder takes it up again");
    }

    /// Finds out what became of a task, or runs it. A refusal says that it is to be tried again.
    async fn conclude(
        &self,
        system: &Arc<System>,
        address: &Address<Tasks>,
        active: &Active,
        watch: &Arc<Watch>,
    ) -> Result<Concluded, Refusal> {
        let (task, run) = (&active.task, active.task.run());
        let (session, origin) = (task.scope.address(), origin_of(task));
        let sessions = system.directory::<ExtensionSession>();
        let fate = move |session: &ExtensionSession| session.fate(run);
        match sessions.look(&session, origin.clone(), fate).await? {
            Fate::Unknown => {}
            Fate::Started => {
                // Whoever started it is gone: nobody will say how it went.
                sessions.ask(&session, LoseRun { id: run }, origin).await?;
                return Ok((lost(watch), None));
            }
            Fate::Ended => {
                return match begin(system, &session, Some(&key_of(task))).await? {
                    Begun::Recorded(answers) => Ok((answered(system, task, answers, watch), None)),
                    Begun::New(_) => Ok((lost(watch), None)),
                };
            }
        }
        let mut hold = Hold::resumed(system, (task.scope.tenant, origin), run, task.hold);
        let concluded = self.conclude_unknown(system, address, active, (&mut hold, watch)).await;
        if concluded.is_ok() {
            hold.release().await;
        }
        // Otherwise it is tried again under the same hold.
        concluded
    }

    /// Looks again at what may have changed while a task waited, or since the server ended: whether
    /// its money is still held, and which rights are left of its caller's. The refusal is final.
    async fn as_it_is_now(
        &self,
        system: &Arc<System>,
        task: &Task,
        request: &mut Request,
    ) -> Result<Option<Refusal>, Refusal> {
        if let Some(held) = task.hold {
            let (wallets, of) = (system.directory::<Wallet>(), wallet_address(task.scope.tenant));
            let is_open = move |wallet: &Wallet| wallet.is_open(held);
            if !wallets.look(&of, request.origin.clone(), is_open).await? {
                // It had come to an end that was not noted: it is not run unpaid.
                return Ok(Some(Refusal::conflict("hold_ended", "its money is held no more")));
            }
        }
        let kind = request.caller.kind;
        let is_persons = matches!(kind, CallerKind::User | CallerKind::ApiKey | CallerKind::Agent);
        let Some(guard) = self.guard().filter(|_| is_persons) else { return Ok(None) };
        match guard.restore(request.caller.clone()).await {
            Ok(caller) => request.caller = caller,
            Err(refusal) if refusal.class.may_pass() => return Err(refusal),
            Err(refusal) => return Ok(Some(refusal)),
        }
        Ok(None)
    }

    /// Runs a task that the session knows nothing of.
    async fn conclude_unknown(
        &self,
        system: &Arc<System>,
        address: &Address<Tasks>,
        active: &Active,
        (hold, watch): (&mut Hold, &Arc<Watch>),
    ) -> Result<Concluded, Refusal> {
        let (task, id) = (&active.task, active.task.id);
        let left_ms = active.until.0 - system.now_in(home_of(task.scope.tenant)).0;
        let Ok(left) = u64::try_from(left_ms).map(Duration::from_millis) else {
            return Ok((unfinished(State::Failed, TIME_EXCEEDED, watch), None));
        };
        let mut request = request_of(task);
        let frozen = &self.settings().frozen;
        let flight = match self.flights().take_off(frozen, flying(task, active)).await {
            Ok(flight) => flight,
            Err(refusal) => {
                return Ok((unfinished(State::Cancelled, &refusal.code, watch), None));
            }
        };
        // Looked at only now that whoever asks for it finds this flight.
        let is_cancelled = move |tasks: &Tasks| {
            tasks.active(id).is_none_or(|active| active.cancelled_by.is_some())
        };
        let tasks = system.directory::<Tasks>();
        if tasks.look(address, request.origin.clone(), is_cancelled).await? {
            return Ok((unfinished(State::Cancelled, CANCELLED, watch), Some(flight)));
        }
        let reserved = self.tasks.reserved.lock().remove(&id);
        let is_new = reserved.is_some();
        let turn = async {
            match reserved {
                Some(turn) => turn,
                None => self.tasks.take(&task.scope).await,
            }
        };
        let _turn = tokio::select! {
            turn = turn => turn,
            refusal = flight.stopped() => {
                return Ok((unfinished(State::Cancelled, &refusal.code, watch), Some(flight)));
            }
            () = tokio::time::sleep(left) => {
                return Ok((unfinished(State::Failed, TIME_EXCEEDED, watch), Some(flight)));
            }
        };
        if !is_new {
            tasks.ask(address, BeginTask(id), request.origin.clone()).await?;
        }
        watch.run();
        if !is_new && let Some(refusal) = self.as_it_is_now(system, task, &mut request).await? {
            return Ok((refused(system, task, refusal, watch), Some(flight)));
        }
        let calls = Arc::new(vec![call_of(system, task)]);
        let (app, ir) = match self.admit(system, &request, &calls).await {
            Ok(admitted) => admitted,
            Err(refusal) if refusal.class.may_pass() => return Err(refusal),
            Err(refusal) => return Ok((refused(system, task, refusal, watch), Some(flight))),
        };
        let (scope, session) = (task.scope.clone(), task.scope.address());
        let leave = Leave::Within { is_confirmed: task.is_confirmed };
        let nesting = Nesting { leave, ..Nesting::for_at_most(left) };
        let (shape, watch) = (Shape::Single, Some(watch.clone()));
        let plan = Plan {
            flight,
            scope,
            address: session,
            app,
            ir,
            calls,
            shape,
            nesting,
            intercepted: Intercepted::default(),
            watch,
        };
        let end = self.run_task(system, (task, &request), &plan, hold, left).await?;
        Ok((end, Some(plan.flight)))
    }

    /// Runs it within its time, and says how it ended.
    async fn run_task(
        &self,
        system: &Arc<System>,
        (task, request): (&Task, &Request),
        plan: &Plan,
        hold: &mut Hold,
        left: Duration,
    ) -> Result<End, Refusal> {
        let mut acts = Acts::new();
        let outcome = {
            let running = self.try_often(system, request, plan, (hold, &mut acts));
            let over = async {
                tokio::time::sleep(left).await;
                let message = "the task took longer than tasks may";
                plan.flight.stop(&Refusal::conflict(TIME_EXCEEDED, message));
                std::future::pending::<()>().await;
            };
            tokio::select! {
                outcome = running => outcome,
                () = over => Err(Refusal::crashed()),
            }
        };
        let Some(watch) = &plan.watch else { return Err(Refusal::crashed()) };
        let refusal = match outcome {
            Ok(answers) => return Ok(answered(system, task, answers, watch)),
            // What came of it is found out by the next try.
            Err(refusal) if refusal.class == Class::InDoubt => return Err(refusal),
            Err(refusal) => refusal,
        };
        if acts.is_started {
            self.lose(system, request, plan, (hold, &mut acts)).await;
        }
        let is_recorded = acts.is_started;
        let end = match (plan.flight.check(), acts.is_started) {
            (Err(stopped), _) if stopped.code == TIME_EXCEEDED => {
                unfinished(State::Failed, TIME_EXCEEDED, watch)
            }
            (Err(stopped), _) => unfinished(State::Cancelled, &stopped.code, watch),
            (Ok(()), true) => lost(watch),
            (Ok(()), false) => refused(system, task, refusal, watch),
        };
        Ok(End { is_recorded, ..end })
    }

    /// Runs until there was room for it, as long as nothing was done outside.
    async fn try_often(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        (hold, acts): (&mut Hold, &mut Acts),
    ) -> Result<Vec<CallAnswer>, Refusal> {
        let mut attempts = 0;
        loop {
            let ticket = match begin(system, &plan.address, request.idempotency.as_ref()).await? {
                Begun::Recorded(answers) => return Ok(answers),
                Begun::New(ticket) => ticket,
            };
            let parts = (&mut *hold, &mut *acts);
            let outcome = self.attempt(system, request, plan, parts, ticket).await;
            let may_pass = outcome.as_ref().is_err_and(|it| it.class.may_pass());
            attempts += 1;
            let is_last = attempts >= RUN_ATTEMPTS_MAX || plan.flight.check().is_err();
            if !may_pass || acts.is_started || is_last {
                return outcome;
            }
            tokio::time::sleep(CARRY_PAUSE * attempts).await;
        }
    }
}

/// The code of a task that its user or an operator has stopped.
pub(crate) const CANCELLED: &str = "cancelled";

fn origin_of(task: &Task) -> Origin {
    let (caller, request) =
        (task.acting.label.as_str().into(), RequestRef::from(task.acting.request));
    Origin { caller, request, cause: None }
}

fn request_of(task: &Task) -> Request {
    let Scope { tenant, user, app } = &task.scope;
    Request {
        caller: task.caller(),
        tenant: *tenant,
        user: Some(*user).filter(|user| *user != NOBODY),
        app: app.to_string(),
        idempotency: Some(key_of(task)),
        origin: origin_of(task),
    }
}

fn flying(task: &Task, active: &Active) -> Flying {
    let Scope { tenant, user, app } = &task.scope;
    Flying {
        id: task.run(),
        sort: Sort::Task,
        root: task.run(),
        function: crate::execute::shortened(&task.function),
        since: active.created_at,
        tenant: *tenant,
        user: Some(*user).filter(|user| *user != NOBODY),
        agent: agent_of(&task.caller()),
        app: app.clone(),
    }
}

/// The call. Params whose key was erased are none.
fn call_of(system: &System, task: &Task) -> Call {
    let params = task.params.open(system.journal().keys(), PARAMS_LABEL);
    let params = params.and_then(|text| serde_json::from_str(&text).ok());
    Call { function: task.function.clone(), params: params.unwrap_or_default() }
}

/// It was answered, well or not.
fn answered(system: &System, task: &Task, answers: Vec<CallAnswer>, watch: &Watch) -> End {
    let Some(answer) = answers.into_iter().next() else { return lost(watch) };
    let price = answer.trace.as_ref().map(|it| it.item.price.saturating_add(it.item.fee));
    let is_success = answer.is_success();
    let failed = || answer.error_code.clone().unwrap_or_else(|| "function_failed".to_owned());
    let end = End {
        state: if is_success { State::Succeeded } else { State::Failed },
        error_code: (!is_success).then(failed),
        charged: if is_success { price.unwrap_or(task.held) } else { 0 },
        is_recorded: true,
        ..unfinished(State::Failed, "", watch)
    };
    with_answer(system, task, end, &answer)
}

fn with_answer(system: &System, task: &Task, end: End, answer: &CallAnswer) -> End {
    let text = serde_json::to_string(answer).unwrap_or_default();
    if text.len() > ANSWER_BYTES_MAX {
        return End { is_omitted: true, ..end };
    }
    let (keys, user) = (system.journal().keys(), task.scope.user);
    let answer = Personal::seal(keys, user, ANSWER_LABEL, &text).ok();
    End { is_omitted: answer.is_none(), answer, ..end }
}

/// It was refused: the refusal is what it is answered with.
fn refused(system: &System, task: &Task, refusal: Refusal, watch: &Watch) -> End {
    let end = unfinished(State::Failed, &refusal.code, watch);
    with_answer(system, task, end, &CallAnswer::error(&refusal.code, refusal.message))
}

fn lost(watch: &Watch) -> End {
    End { is_recorded: true, ..unfinished(State::Lost, OUTCOME_UNKNOWN, watch) }
}

fn unfinished(state: State, code: &str, watch: &Watch) -> End {
    End {
        state,
        error_code: Some(code.to_owned()),
        answer: None,
        is_omitted: false,
        done: watch.done(),
        charged: 0,
        is_recorded: false,
    }
}
