//! Calls and batches: who may call is checked, the most it can cost is held, the calls run, what
//! they did is recorded in one turn of their session, and then they are answered.
//!
//! Invariants
//! - An answer leaves once what it tells of is durable.
//! - A refused request has changed nothing, and what was held for it is released.
//! - A run whose documents changed under it is run again, alone with that session in this process,
//!   at most [`ATTEMPTS_MAX`] times in all, under the same hold.
//! - With an idempotency key the outcome is recorded together with what was done.
//! - What may act outside the server goes on when its caller goes away: see [`crate::outside`].
//! - A run that was stopped ([`crate::flights`]) is not recorded, and its hold is released.
//! - What waits for a person ([`crate::guard`]) is neither paid nor run before it is confirmed.
//!
//! Deliberate limits
//! - What a caller may not call refuses the whole batch: nothing of it runs.
//! - The hold lives [`HOLD_TTL_MS`](crate::hold::HOLD_TTL_MS), so that a process that dies between
//!   hold and record gives the money back by itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use identity::frozen::Frozen;
use serde::Serialize;
use serde_json::Value;
use supervision::idempotency::Ticketed;
use supervision::{Address, Begin, Class, IdempotencyKey, Origin, Refusal, System};
use tokio::sync::RwLock;
use types::{AppId, CallId, Caller, HoldId, SharePercent, TenantId, UserId, home_of};

use crate::allowance;
use crate::announce;
use crate::answer::{CallAnswer, Shape, Trace};
use crate::built_in::{BuiltIn, carry_out};
use crate::catalogue::{Apps, CompiledApp};
use crate::consent;
use crate::delivery_cap::DELIVERY_CREDITS_A_DAY;
use crate::execute::{Executed, Job, Progress};
use crate::flights::{Flight, Flights, Flying};
use crate::guard::{Called, Guard, HeldBack, Intercepted, of_built_in};
use crate::hold::Hold;
use crate::indexing::Indexer;
use crate::ir::{self, ActionType};
use crate::outside::{Acts, Nesting, Outside};
use crate::session::{
    ApplyRun, BATCH_ITEMS_MAX, DOCUMENTS_CHANGED, DocumentWrite, ExtensionSession, NOBODY, Ran,
    RanItem, Scope,
};
use crate::share::SessionLimits;
use crate::task_run::TaskRuns;
use crate::tasks;
use crate::turns::{Turns, number_of};
use crate::view::SystemRows;
use crate::watch::Watch;

/// How often a run is tried whose documents change under it.
pub const ATTEMPTS_MAX: u32 = 4;
/// How long a run waits for its turn before it is refused as busy.
pub const START_WAIT_MAX: Duration = Duration::from_secs(10);
/// Lanes of sessions: two sessions in one lane wait for each other only after a conflict.
const LANES: usize = 256;

/// What the operator may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The platform's fee for a call that succeeds, in credits.
    pub platform_price_per_call: i64,
    /// What the deliveries of an app's webhooks may cost in a day, in credits; 0 for any.
    pub delivery_credits_a_day: i64,
    /// How long one call may run.
    pub run_time_max: Duration,
    /// How many calls or batches run at once; up to twice as many for tenants that have none.
    pub runs_at_once: usize,
    /// How many tasks run at once; up to twice as many for tenants that have none.
    pub tasks_at_once: usize,
    /// What one session may have under way.
    pub session_limits: SessionLimits,
    /// Who is outside; without it no call leaves the server.
    pub outside: Option<Arc<Outside>>,
    /// What is frozen: shared with whoever freezes.
    pub frozen: Arc<Frozen>,
    /// Who knows what waits for a person; without, nothing does.
    pub guard: Option<Arc<dyn Guard>>,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            platform_price_per_call: 1,
            delivery_credits_a_day: DELIVERY_CREDITS_A_DAY,
            run_time_max: Duration::from_secs(2),
            runs_at_once: cores,
            tasks_at_once: 2_048,
            session_limits: SessionLimits::default(),
            outside: None,
            frozen: Arc::default(),
            guard: None,
        }
    }
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The function, or `__panel__` and a panel's id.
    pub function: String,
    /// An object, or null for none.
    pub params: Value,
}

/// Who calls what. The gateway has checked that the caller may act for the tenant and user.
pub struct Request {
    /// Who calls.
    pub caller: Caller,
    /// In which tenant: it pays.
    pub tenant: TenantId,
    /// For which user: the documents are theirs. Nobody's when a service calls for itself.
    pub user: Option<UserId>,
    /// The app's id, as it was given.
    pub app: String,
    /// The client's key, if it gave one.
    pub idempotency: Option<IdempotencyKey>,
    /// The request, for the records.
    pub origin: Origin,
}

/// What a call or batch costs at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// All calls together, in credits.
    pub total: i64,
    /// Each call, in their order.
    pub calls: Vec<QuotedCall>,
    /// The limit that they would hit now: `balance`, `arrears`, `email_unverified`, `open_holds`,
    /// a spending limit as `user:ID/month`, or `monthly_action_limit`.
    pub limit: Option<String>,
}

/// What one call costs if it succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotedCall {
    /// The function.
    pub function: String,
    /// The app's price, in credits.
    pub price: i64,
    /// The platform's fee, in credits.
    pub fee: i64,
}

/// The runtime. A port.
pub struct Extensions {
    me: Weak<Self>,
    settings: Settings,
    apps: Arc<Apps>,
    built_in: Vec<Arc<dyn BuiltIn>>,
    turns: Arc<Turns>,
    flights: Arc<Flights>,
    indexer: Arc<Indexer>,
    lanes: Vec<RwLock<()>>,
    /// The tasks that this process carries out.
    pub(crate) tasks: TaskRuns,
}

impl Extensions {
    /// A runtime for the apps of a catalogue and for those that are built in.
    pub fn new(settings: Settings, apps: Arc<Apps>, built_in: Vec<Arc<dyn BuiltIn>>) -> Arc<Self> {
        let turns = Turns::new(settings.runs_at_once);
        let flights = Arc::new(Flights::new(settings.session_limits));
        let indexer = Indexer::new();
        let lanes = std::iter::repeat_with(RwLock::default).take(LANES).collect();
        let tasks = TaskRuns::new(settings.tasks_at_once);
        Arc::new_cyclic(|me| {
            let me = me.clone();
            Self { me, settings, apps, built_in, turns, flights, indexer, lanes, tasks }
        })
    }

    /// The catalogue.
    pub fn apps(&self) -> &Arc<Apps> {
        &self.apps
    }

    /// Who is outside.
    pub fn outside(&self) -> Option<&Arc<Outside>> {
        self.settings.outside.as_ref()
    }

    pub(crate) fn guard(&self) -> Option<&Arc<dyn Guard>> {
        self.settings.guard.as_ref()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    #[cfg(test)]
    pub(crate) fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    /// What is under way.
    pub fn flights(&self) -> &Arc<Flights> {
        &self.flights
    }

    /// Whether an app is part of the server.
    pub fn is_built_in(&self, app: &str) -> bool {
        self.built_in(app).is_some()
    }

    /// Calls one function. A function that failed is an answer; refused are 402 (balance, price and
    /// limit in its facts), 403, 404 for an app that is not there for this caller, 409
    /// `not_deployed`, and 503.
    pub async fn call(
        &self,
        system: &Arc<System>,
        request: Request,
        call: Call,
    ) -> Result<CallAnswer, Refusal> {
        self.call_nested(system, request, call, Nesting::root()).await
    }

    /// As [`Extensions::call`], for a call that another app may have made.
    pub(crate) async fn call_nested(
        &self,
        system: &Arc<System>,
        request: Request,
        call: Call,
        nesting: Nesting,
    ) -> Result<CallAnswer, Refusal> {
        let answers = self.run(system, request, vec![call], (Shape::Single, nesting)).await?;
        answers.into_iter().next().ok_or_else(Refusal::crashed)
    }

    /// Calls functions one after the other, each seeing what those before it wrote, and those that
    /// the app's own host carries out side by side; answers in their order. Refused as
    /// [`Extensions::call`], and with 422 beyond [`BATCH_ITEMS_MAX`].
    pub async fn batch(
        &self,
        system: &Arc<System>,
        request: Request,
        calls: Vec<Call>,
    ) -> Result<Vec<CallAnswer>, Refusal> {
        check_count(&calls)?;
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.run(system, request, calls, (Shape::List, Nesting::root())).await
    }

    /// What calls would cost. Nothing is held and nothing runs.
    pub async fn quote(
        &self,
        system: &Arc<System>,
        request: &Request,
        calls: &[Call],
    ) -> Result<Quote, Refusal> {
        check_count(calls)?;
        if let Some(app) = self.built_in(&request.app) {
            authorise(&request.caller, app.id(), calls, |name| app.action_type(name))?;
            let free =
                |call: &Call| QuotedCall { function: call.function.clone(), price: 0, fee: 0 };
            return Ok(Quote { total: 0, calls: calls.iter().map(free).collect(), limit: None });
        }
        let (app, ir) = self.admit(system, request, calls).await?;
        let quote = self.price(&app, &ir, calls);
        let limit = allowance::limit_hit(system, request, &app.id, &quote).await?;
        Ok(Quote { limit, ..quote })
    }

    pub(crate) async fn run(
        &self,
        system: &Arc<System>,
        request: Request,
        calls: Vec<Call>,
        (shape, nesting): (Shape, Nesting),
    ) -> Result<Vec<CallAnswer>, Refusal> {
        if let Some(app) = self.built_in(&request.app) {
            return self.run_built_in(system, app.as_ref(), request, calls, (shape, nesting)).await;
        }
        let (app, ir) = self.admit(system, &request, &calls).await?;
        let scope = scope_of(&request, app.id.clone());
        let address = scope.address();
        let ticket = match begin(system, &address, request.idempotency.as_ref()).await? {
            Begun::Recorded(answers) => return Ok(answers),
            Begun::New(ticket) => ticket,
        };
        let as_task = tasks::begins(&ir, &calls, shape, &nesting)?;
        self.check_circuit(system, (&request, &nesting), (&app.id, &ir), &calls)?;
        let weigh = |call: &Call| self.weigh(&app, &ir, call);
        let called = Called { app: &app.id, version: &app.version, weigh: &weigh };
        let (leave, calls) = (nesting.leave.clone(), (calls, shape));
        let back = self.hold_back(system, &request, &leave, called, calls, ticket).await?;
        let HeldBack { calls, ticket, intercepted } = back;
        if calls.is_empty() {
            return Ok(intercepted.merged(Vec::new()));
        }
        let quote = self.price(&app, &ir, &calls);
        if nesting.is_delivery {
            self.cap_delivery(system, &request, (&app.id, &quote)).await?;
        }
        let id = leave.run(system);
        let flying = Flying::new(system, &request, (id, nesting.root), &app.id, (shape, &calls));
        let flight = self.flights.take_off(&self.settings.frozen, flying).await?;
        let leads_outside = calls.iter().any(|call| ir.leads_outside(&call.function));
        let ttl_ms = tasks::hold_ttl_ms(as_task, leads_outside, &nesting);
        let paid = self.pay(system, &request, (id, &leave, as_task), &quote, (&app.id, ttl_ms));
        let hold = paid.await?;
        if as_task {
            let how = (&*ir, flight, &leave);
            return self.begin_task(system, request, how, calls, hold, ticket).await;
        }
        let (calls, merge, watch) = (Arc::new(calls), intercepted.clone(), None);
        let plan =
            Plan { flight, scope, address, app, ir, calls, shape, nesting, intercepted, watch };
        if !leads_outside {
            return Ok(merge.merged(self.fly(system, &request, &plan, hold, ticket).await?));
        }
        // Its caller may go away; what it does outside is still brought to its end.
        let (me, system) = (self.me.upgrade().ok_or_else(Refusal::crashed)?, Arc::clone(system));
        let flying =
            tokio::spawn(async move { me.fly(&system, &request, &plan, hold, ticket).await });
        Ok(merge.merged(flying.await.map_err(|_| Refusal::crashed())??))
    }

    async fn fly(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        mut hold: Hold,
        ticket: Option<Ticketed>,
    ) -> Result<Vec<CallAnswer>, Refusal> {
        let mut acts = Acts::new();
        let parts = (&mut hold, &mut acts);
        let outcome = self.attempt(system, request, plan, parts, ticket).await;
        if outcome.is_err() && acts.is_started {
            self.lose(system, request, plan, (&mut hold, &mut acts)).await;
        }
        outcome
    }

    /// Runs until it is recorded, or tried too often.
    pub(crate) async fn attempt(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        (hold, acts): (&mut Hold, &mut Acts),
        mut ticket: Option<Ticketed>,
    ) -> Result<Vec<CallAnswer>, Refusal> {
        tokio::select! {
            called = self.call_hosts(system, request, plan, hold, acts) => called?,
            refusal = plan.flight.stopped() => return Err(refusal),
        }
        let lane = &self.lanes[lane_of(&plan.scope)];
        let mut refused = Refusal::busy();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                // Who stops leaves alone what is landing, and this one did not.
                plan.flight.give_in()?;
                self.settings.frozen.check(request.tenant, request.user)?;
                self.settings.frozen.check_app(&plan.app.id)?;
                // The key was given back with the refusal: somebody may have been quicker.
                match begin(system, &plan.address, request.idempotency.as_ref()).await? {
                    Begun::Recorded(answers) => return Ok(answers),
                    Begun::New(again) => ticket = again,
                }
                acts.repeat();
            }
            // After a conflict it runs alone.
            let entered = tokio::time::timeout(START_WAIT_MAX, async {
                match attempt {
                    0 => (Some(lane.read().await), None),
                    _ => (None, Some(lane.write().await)),
                }
            });
            // What waits too long would outlive its hold, and run unpaid.
            let Ok(lane) = entered.await else { return Err(Refusal::busy()) };
            let mut lane = Some(lane);
            let parts = (&mut *hold, &mut *acts);
            let executed = self.execute(system, request, plan, parts, &mut lane).await?;
            let Executed { items, mut answers, reads, writes } = executed;
            let ticket = ticket.take().filter(|_| plan.shape.records(&answers));
            let render = |_: &Ticketed| plan.intercepted.render(plan.shape, &answers);
            let body = ticket.as_ref().map(render);
            let (written, ran) = (writes.len(), plan.ran(&items, writes, hold.id));
            let events = announce::events(&plan.app.id, &plan.ir, &plan.calls, &answers);
            let (usage, is_started) = (acts.usage.clone(), acts.is_started);
            let command = ApplyRun { ran, reads, usage, is_started, events };
            plan.flight.land()?;
            let recorded = ticket.zip(body);
            let outcome =
                apply(system, &plan.address, command, &request.origin, recorded, hold).await;
            plan.flight.landed(outcome.is_ok());
            match outcome {
                Ok(()) => {
                    plan.watch.iter().for_each(|watch| watch.wrote(written));
                    let panels = announce::panels(&plan.ir, &plan.calls, &answers);
                    announce::refresh(system, &plan.scope, panels);
                    self.indexer.tend(system, &plan.scope, (&plan.ir, &plan.app.version));
                    trace(&mut answers, plan.flight.id(), items);
                    return Ok(answers);
                }
                Err(refusal) if refusal.code == DOCUMENTS_CHANGED => refused = refusal,
                Err(refusal) => return Err(refusal),
            }
        }
        Err(refused)
    }

    /// Runs, and waits for what is outside without a thread, a place among the runs or the lane.
    async fn execute<L>(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        (hold, acts): (&mut Hold, &mut Acts),
        lane: &mut Option<L>,
    ) -> Result<Executed, Refusal> {
        let job = Job {
            app: Arc::clone(&plan.app),
            ir: Arc::clone(&plan.ir),
            calls: Arc::clone(&plan.calls),
            scope: plan.scope.clone(),
            rows: SystemRows::new(system, &plan.scope),
            scopes: request.caller.scopes.as_slice().into(),
            fee: self.settings.platform_price_per_call,
            run_time_max: plan.run_time_max(&self.settings),
            is_stopped: Box::new(plan.flight.watch()),
            now: system.now_in(home_of(plan.scope.tenant)),
            answered: Arc::clone(&acts.answered),
            call_depth: plan.nesting.depth,
            apps_above: Arc::clone(&plan.nesting.apps_above),
        };
        let (mut execution, mut answer) = (job.begin(), None);
        loop {
            let turn = self.turns.take(request.tenant, number_of(&plan.scope));
            let turn = tokio::time::timeout(START_WAIT_MAX, turn);
            let turn = tokio::select! {
                turn = turn => turn.map_err(|_| Refusal::busy())?,
                refusal = plan.flight.stopped() => return Err(refusal),
            };
            let run = tokio::task::spawn_blocking(move || {
                let progress = execution.go_on(answer);
                drop(turn);
                progress
            });
            let (asking, index, asked) = match run.await.map_err(|_| Refusal::crashed())? {
                Progress::Done(executed) => return Ok(executed),
                Progress::Asks(asking, index, asked) => (asking, index, asked),
            };
            *lane = None;
            plan.watch.iter().for_each(|it| it.steps(system, asking.steps_run(), plan.steps()));
            let parts = (&mut *hold, &mut *acts);
            let told = tokio::select! {
                told = self.answer(system, request, plan, parts, (index, &asked)) => told?,
                refusal = plan.flight.stopped() => return Err(refusal),
            };
            (execution, answer) = (asking, Some(told));
        }
    }

    /// The app, if it is there for this caller, deployed, and the scopes cover the calls.
    pub(crate) async fn admit(
        &self,
        system: &Arc<System>,
        request: &Request,
        calls: &[Call],
    ) -> Result<(Arc<CompiledApp>, Arc<ir::App>), Refusal> {
        let missing = || Refusal::not_found("app");
        let id = AppId::new(&request.app).map_err(|_| missing())?;
        let app = self.apps.find(system, &id, &request.origin).await?;
        let (tenant, user) = (request.tenant, request.user);
        if !app.is_visible_to(system, tenant, user, &request.origin).await? {
            return Err(missing());
        }
        self.settings.frozen.check_app(&id)?;
        let Some(ir) = app.ir.clone() else {
            let message = "no version of this app is deployed yet";
            return Err(Refusal::conflict("not_deployed", message));
        };
        authorise(&request.caller, id.as_str(), calls, |function| {
            ir.callable(function).map(|callable| match callable {
                ir::Callable::Function(function) => function.action_type,
                ir::Callable::Panel(_) => ActionType::Read,
            })
        })?;
        consent::check(system, request, &app).await?;
        Ok((app, ir))
    }

    pub(crate) fn price(&self, app: &CompiledApp, ir: &ir::App, calls: &[Call]) -> Quote {
        let quoted = |call: &Call| {
            // What is not there fails, and costs nothing.
            let known = ir.callable(&call.function).is_some();
            let price = if known { app.prices.of(&call.function) } else { 0 };
            let fee = if known { self.settings.platform_price_per_call } else { 0 };
            QuotedCall { function: call.function.clone(), price, fee }
        };
        let calls: Vec<_> = calls.iter().map(quoted).collect();
        let total = calls.iter().map(|call| call.price + call.fee).sum();
        Quote { total, calls, limit: None }
    }

    async fn run_built_in(
        &self,
        system: &Arc<System>,
        app: &dyn BuiltIn,
        request: Request,
        calls: Vec<Call>,
        (shape, nesting): (Shape, Nesting),
    ) -> Result<Vec<CallAnswer>, Refusal> {
        authorise(&request.caller, app.id(), &calls, |function| app.action_type(function))?;
        let id = AppId::new(app.id()).map_err(|_| Refusal::not_found("app"))?;
        let scope = scope_of(&request, id.clone());
        let address = scope.address();
        let ticket = match begin(system, &address, request.idempotency.as_ref()).await? {
            Begun::Recorded(answers) => return Ok(answers),
            Begun::New(ticket) => ticket,
        };
        let weigh = |call: &Call| of_built_in(app, call);
        let called = Called { app: &id, version: "", weigh: &weigh };
        let (leave, root, calls) = (nesting.leave, nesting.root, (calls, shape));
        let back = self.hold_back(system, &request, &leave, called, calls, ticket).await?;
        let HeldBack { calls, ticket, intercepted } = back;
        if calls.is_empty() {
            return Ok(intercepted.merged(Vec::new()));
        }
        let ids = (leave.run(system), root);
        let flying = Flying::new(system, &request, ids, &id, (shape, &calls));
        let flight = self.flights.take_off(&self.settings.frozen, flying).await?;
        let (items, mut answers) = carry_out(system, app, &request, &calls, shape, &flight).await?;
        let id = flight.id();
        let ran = Ran {
            id,
            scope: scope.clone(),
            app_version: String::new(),
            items: items.clone(),
            writes: Vec::new(),
            hold: None,
            share: SharePercent::new(0).map_err(|_| Refusal::crashed())?,
            confirmation: leave.confirmed().map(|confirmed| confirmed.id),
        };
        let body = ticket.as_ref().map(|_| intercepted.render(shape, &answers));
        let (tenant, origin) = (request.tenant, request.origin.clone());
        let mut hold = Hold::none(system, tenant, origin);
        let (reads, usage, events) = (Vec::new(), Vec::new(), Vec::new());
        let command = ApplyRun { ran, reads, usage, is_started: false, events };
        // What was done stands, and so it is recorded, stopped or not.
        let _ = flight.land();
        apply(system, &address, command, &request.origin, ticket.zip(body), &mut hold).await?;
        flight.landed(true);
        announce::refresh(system, &scope, announce::panels_named(&answers));
        trace(&mut answers, id, items);
        Ok(intercepted.merged(answers))
    }

    fn built_in(&self, app: &str) -> Option<&Arc<dyn BuiltIn>> {
        self.built_in.iter().find(|known| known.id() == app)
    }
}

/// A call or batch under way.
pub(crate) struct Plan {
    pub(crate) flight: Flight,
    pub(crate) scope: Scope,
    pub(crate) address: Address<ExtensionSession>,
    pub(crate) app: Arc<CompiledApp>,
    pub(crate) ir: Arc<ir::App>,
    pub(crate) calls: Arc<Vec<Call>>,
    pub(crate) shape: Shape,
    pub(crate) nesting: Nesting,
    pub(crate) intercepted: Intercepted,
    /// What is seen of it, if it is a task's.
    pub(crate) watch: Option<Arc<Watch>>,
}

impl Plan {
    fn ran(&self, items: &[RanItem], writes: Vec<DocumentWrite>, hold: Option<HoldId>) -> Ran {
        Ran {
            id: self.flight.id(),
            scope: self.scope.clone(),
            app_version: self.app.version.clone(),
            items: items.to_vec(),
            writes,
            hold,
            share: self.app.share,
            confirmation: self.nesting.leave.confirmed().map(|confirmed| confirmed.id),
        }
    }
}

/// What a key has led to so far.
pub(crate) enum Begun {
    Recorded(Vec<CallAnswer>),
    New(Option<Ticketed>),
}

pub(crate) async fn begin(
    system: &Arc<System>,
    address: &Address<ExtensionSession>,
    key: Option<&IdempotencyKey>,
) -> Result<Begun, Refusal> {
    let Some(key) = key else { return Ok(Begun::New(None)) };
    match system.begin(address.place(), key.clone()).await? {
        Begin::Fresh(ticket) => Ok(Begun::New(Some(ticket))),
        Begin::Recorded(body) => {
            let many = serde_json::from_slice(&body);
            let answers = many.or_else(|_| serde_json::from_slice(&body).map(|one| vec![one]));
            answers.map(Begun::Recorded).map_err(|_| Refusal::crashed())
        }
    }
}

/// Records a run. From the moment it is sent, the hold is the session's to end, unless the session
/// surely did not take it.
async fn apply(
    system: &Arc<System>,
    address: &Address<ExtensionSession>,
    command: ApplyRun,
    origin: &Origin,
    recorded: Option<(Ticketed, Vec<u8>)>,
    hold: &mut Hold,
) -> Result<(), Refusal> {
    hold.own = false;
    let sessions = system.directory::<ExtensionSession>();
    let outcome = match recorded {
        None => sessions.ask(address, command, origin.clone()).await.map(|_| ()),
        Some((ticket, body)) => {
            let render = move |_| body;
            let recorded = sessions.ask_once(address, command, origin.clone(), ticket, render);
            recorded.await.map(|_| ())
        }
    };
    hold.own = outcome.as_ref().is_err_and(|refusal| refusal.class != Class::InDoubt);
    outcome
}

fn trace(answers: &mut [CallAnswer], run: CallId, items: Vec<RanItem>) {
    for (answer, item) in answers.iter_mut().zip(items) {
        answer.trace = Some(Trace { run, item });
    }
}

fn check_count(calls: &[Call]) -> Result<(), Refusal> {
    if calls.len() <= BATCH_ITEMS_MAX {
        return Ok(());
    }
    let message = format!("{} calls; the limit is {BATCH_ITEMS_MAX}", calls.len());
    Err(Refusal::invalid("calls", message))
}

pub(crate) fn scope_of(request: &Request, app: AppId) -> Scope {
    Scope { tenant: request.tenant, user: request.user.unwrap_or(NOBODY), app }
}

fn lane_of(scope: &Scope) -> usize {
    let mixed = scope.tenant.0 ^ scope.user.0.rotate_left(64) ^ scope.app.owner_number();
    (mixed % LANES as u128) as usize
}

/// Whether the caller's scopes cover all calls; 403 names the first that they do not. What the app
/// does not have needs what reading it needs: its name alone tells nothing.
fn authorise(
    caller: &Caller,
    app: &str,
    calls: &[Call],
    action_type: impl Fn(&str) -> Option<ActionType>,
) -> Result<(), Refusal> {
    let mut covered = [None; 3];
    for call in calls {
        let action = action_type(&call.function).unwrap_or(ActionType::Read);
        let known = &mut covered[action as usize];
        let scopes = || {
            let name = action.name();
            [app, "extensions"].iter().any(|it| caller.scopes.covers(&format!("{it}:{name}")))
        };
        if !*known.get_or_insert_with(scopes) {
            let wanted = format!("{app}:{}", action.name());
            let message = format!("this needs the scope {wanted} or extensions:{}", action.name());
            let facts = serde_json::json!({"scope": wanted});
            return Err(Refusal::new(Class::Forbidden, "scope_missing", message).with_facts(&facts));
        }
    }
    Ok(())
}
