//! What a run does outside the server: functions on the app's own host, functions of other apps,
//! completions.
//!
//! Invariants
//! - Before anything leaves, the session has said durably that the run is started. A started run
//!   is applied or lost, and its hold ends either way, after a restart too.
//! - What was answered is remembered with the run: when it runs again because documents changed
//!   under it, it is given the same answers and asks nobody twice. Where it would ask for
//!   something else then, the step fails (`documents_changed`).
//! - All that one call waits for, and what is called in turn, ends by one deadline.
//!
//! A call of another app's function is a call like any other, made for the same caller: it needs
//! the callee's scope, holds its own price when it is made, is recorded in the callee's session
//! and paid if it succeeds, whatever becomes of the caller. A quote cannot know which steps will
//! run, so the price of such calls is not in it. Documents of two apps live in two sessions, which
//! change one after the other: what the callee wrote stays when the caller fails later, as it
//! would on a host.
//!
//! Deliberate limits: apps that are part of the server are not called by other apps; directives of
//! nested calls are dropped.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::declaration::Whose;
use broker::{Desk, Subject};
use futures::future::BoxFuture;
use serde_json::Value;
use supervision::{Class, Refusal, System, Timestamp};
use types::{AppId, CallId, TenantId, home_of};

use crate::completion::{Completion, Completions, Prompt};
use crate::execute::{
    ANSWERS_BYTES_MAX, Answered, action_of, answers_too_large, bindings, host_answer, shortened,
    weight,
};
use crate::guard::Leave;
use crate::hold::{HOLD_OUTSIDE_TTL_MS, Hold};
use crate::host_secrets::HostSecrets;
use crate::hosts::{CodeCall, HostFigures, Hosts, OUTCOME_UNKNOWN};
use crate::ir::{self, Reason};
use crate::runtime::{Call, Extensions, Plan, Request};
use crate::session::{
    DOCUMENTS_CHANGED, ExtensionSession, Fate, LoseRun, NOBODY, STARTED_MS_MAX, StartRun, Started,
    StartedCall, Usage,
};
use crate::watch::{Returned, Sort};

/// How long one request's calls wait for what is outside, together.
pub const OUTSIDE_TIME_MAX: Duration = Duration::from_secs(60);
/// Answers that one run remembers.
pub const ANSWERS_MAX: usize = 1_024;

/// Who is outside. A port.
pub struct Outside {
    /// The apps' own hosts.
    pub hosts: Hosts,
    /// Where prompts are completed, if anywhere.
    pub completions: Option<Completions>,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}

impl Outside {
    /// How calls of hosts have gone, and the tokens that completions read and wrote.
    pub fn figures(&self) -> (HostFigures, [u64; 2]) {
        let tokens = self.completions.as_ref().map(Completions::tokens);
        (self.hosts.figures(), tokens.unwrap_or_default())
    }
}

/// How a request came to be: from outside, or by the calls of other apps.
#[derive(Clone)]
pub(crate) struct Nesting {
    /// How many calls led here.
    pub(crate) depth: usize,
    /// The apps through which they led, without this one.
    pub(crate) apps_above: Arc<[String]>,
    /// When everything outside is over.
    pub(crate) ends: Instant,
    /// With whose leave it runs.
    pub(crate) leave: Leave,
    /// The call from outside, for those that it led to.
    pub(crate) root: Option<CallId>,
    /// Whether that was a delivery, which nobody with a credential has sent.
    pub(crate) is_delivery: bool,
}

impl Nesting {
    /// A request from outside.
    pub(crate) fn root() -> Self {
        Self::for_at_most(OUTSIDE_TIME_MAX)
    }

    /// A delivery of a webhook.
    pub(crate) fn of_delivery() -> Self {
        Self { is_delivery: true, ..Self::root() }
    }

    /// A request from outside that may take so long.
    pub(crate) fn for_at_most(time: Duration) -> Self {
        let (ends, leave) = (Instant::now() + time, Leave::default());
        let (apps_above, is_delivery) = (Arc::new([]), false);
        Self { depth: 0, apps_above, ends, leave, root: None, is_delivery }
    }

    /// How long a run that acts outside may take until it is lost, in milliseconds: while there is
    /// time for what is outside, and as long as every run has beside that.
    fn started_ms_max(&self) -> i64 {
        let left = self.ends.saturating_duration_since(Instant::now()).max(OUTSIDE_TIME_MAX);
        let more = left - OUTSIDE_TIME_MAX;
        STARTED_MS_MAX.saturating_add(i64::try_from(more.as_millis()).unwrap_or(i64::MAX))
    }

    /// How long the money for such a run is held, in milliseconds: longer than that.
    pub(crate) fn hold_ttl_ms(&self) -> i64 {
        self.started_ms_max().saturating_add(HOLD_OUTSIDE_TTL_MS - STARTED_MS_MAX)
    }
}

/// What a run has done outside so far.
pub(crate) struct Acts {
    pub(crate) is_started: bool,
    /// What hosts have answered to the calls that are theirs.
    pub(crate) answered: Answered,
    pub(crate) usage: Vec<Usage>,
    /// What was asked and answered, in order.
    told: Vec<(ir::Request, Result<Value, Reason>)>,
    told_bytes: usize,
    /// How much of that the present attempt has used, if it is not the first.
    repeated: Option<usize>,
}

impl Acts {
    pub(crate) fn new() -> Self {
        Self {
            is_started: false,
            answered: Arc::new([]),
            usage: Vec::new(),
            told: Vec::new(),
            told_bytes: 0,
            repeated: None,
        }
    }

    /// From here on answers are repeated.
    pub(crate) fn repeat(&mut self) {
        self.repeated = Some(0);
    }

    /// The answer that a repeated attempt is given.
    pub(crate) fn repeated(&mut self, asked: &ir::Request) -> Option<Result<Value, Reason>> {
        if self.told.is_empty() {
            // Nothing was done yet that could be done twice.
            self.repeated = None;
        }
        let at = self.repeated.as_mut()?;
        let known = self.told.get(*at);
        *at += 1;
        let known = known.filter(|(request, _)| request == asked).map(|(_, answer)| answer.clone());
        Some(known.unwrap_or_else(|| {
            let message = "documents changed while this acted outside, and it would act otherwise";
            Err(Reason::new(DOCUMENTS_CHANGED, message))
        }))
    }

    fn use_tokens(&mut self, index: u32, done: &Completion) {
        let is_it = |it: &&mut Usage| it.index == index && it.model == done.model;
        if let Some(usage) = self.usage.iter_mut().find(is_it) {
            usage.prompt_tokens = usage.prompt_tokens.saturating_add(done.prompt_tokens);
            usage.completion_tokens =
                usage.completion_tokens.saturating_add(done.completion_tokens);
            return;
        }
        self.usage.push(Usage {
            index,
            model: done.model.clone(),
            prompt_tokens: done.prompt_tokens,
            completion_tokens: done.completion_tokens,
        });
    }
}

impl Plan {
    fn is_code(&self, call: &Call) -> bool {
        self.ir.is_code(&call.function)
    }

    fn code_call(
        &self,
        request: &Request,
        call: Call,
        (id, secrets): (String, Arc<HostSecrets>),
        now: Timestamp,
    ) -> CodeCall {
        let (user, tenant) = bindings(&self.scope);
        CodeCall {
            app: Arc::clone(&self.app),
            ir: Arc::clone(&self.ir),
            function: call.function,
            params: call.params,
            call_id: id,
            trace_id: types::RequestId(request.origin.request.id).to_string(),
            user,
            tenant,
            now_ms: now.0,
            ends: self.nesting.ends,
            secrets,
            task: self.watch.as_ref().map(|watch| watch.id),
        }
    }

    /// Notes what a task sends while it is under way.
    async fn watched<T>(
        &self,
        (sort, app, function): (Sort, &str, &str),
        sending: impl Future<Output = Result<T, Reason>>,
    ) -> Result<T, Reason> {
        let Some(watch) = &self.watch else { return sending.await };
        let sent = watch.sent(sort, app, function);
        let answer = sending.await;
        let returned = match &answer {
            Ok(_) => Returned::Answered,
            Err(reason) if reason.code == OUTCOME_UNKNOWN => Returned::Unknown,
            Err(_) => Returned::Failed,
        };
        watch.returned(sent, returned);
        answer
    }

    fn started(&self, hold: &Hold) -> Started {
        let call = |(index, call): (usize, &Call)| StartedCall {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            function: shortened(&call.function),
            action: action_of(&self.ir, &call.function),
        };
        Started {
            id: self.flight.id(),
            scope: self.scope.clone(),
            app_version: self.app.version.clone(),
            calls: self.calls.iter().enumerate().map(call).collect(),
            hold: hold.id,
            share: self.app.share,
            until: Timestamp::default(),
        }
    }
}

/// The secrets that are set for a run of an app.
async fn secrets_of(
    system: &Arc<System>,
    request: &Request,
    plan: &Plan,
) -> Result<Arc<HostSecrets>, Refusal> {
    let mut declared = plan.ir.secrets.clone();
    if plan.scope.user == NOBODY {
        declared.retain(|secret| secret.scope == Whose::App);
    }
    if declared.is_empty() {
        return Ok(Arc::default());
    }
    let (tenant, user) = (plan.scope.tenant, plan.scope.user);
    let (app, home) = (plan.app.id.clone(), plan.app.tenant);
    let subject = Subject { tenant, user, app, home };
    let desk = system.port::<Desk>();
    let values = desk.for_host(system, &subject, &declared, &request.origin).await?;
    Ok(Arc::new(HostSecrets::new(values)))
}

impl Extensions {
    /// Who is outside, for a run: nobody for a sandbox, whose credits are a copy.
    fn outside_of(&self, system: &System, tenant: TenantId) -> Option<&Arc<Outside>> {
        let is_real = system.own_time(home_of(tenant)).is_none();
        self.outside().filter(|_| is_real)
    }

    /// Refuses calls that the app's host alone carries out while nothing is sent to it, so that
    /// nothing is held for them. What a person has confirmed goes its way: it is paid already.
    pub(crate) fn check_circuit(
        &self,
        system: &System,
        (request, nesting): (&Request, &Nesting),
        (app, ir): (&AppId, &ir::App),
        calls: &[Call],
    ) -> Result<(), Refusal> {
        let is_host = calls.iter().all(|call| ir.is_code(&call.function));
        let outside = self.outside_of(system, request.tenant);
        match outside.filter(|_| is_host && nesting.leave.confirmed().is_none()) {
            Some(outside) => outside.hosts.check_circuit(app),
            None => Ok(()),
        }
    }

    /// Says durably that the run acts outside. From here on its hold is the session's to end.
    pub(crate) async fn start(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        hold: &mut Hold,
        acts: &mut Acts,
    ) -> Result<(), Refusal> {
        if acts.is_started {
            return Ok(());
        }
        let sessions = system.directory::<ExtensionSession>();
        let ms_max = plan.nesting.started_ms_max();
        let command = StartRun { started: plan.started(hold), ms_max };
        // Both before it is asked: a stop that comes meanwhile drops this, and the session may have
        // it all the same.
        hold.give();
        acts.is_started = true;
        let started = sessions.ask(&plan.address, command, request.origin.clone()).await;
        if started.as_ref().is_err_and(|refusal| refusal.class != Class::InDoubt) {
            hold.take_back();
        }
        started.inspect_err(|_| acts.is_started = false)
    }

    /// Ends a started run that was not applied. One that its session has never heard of is not
    /// started any more, and its hold is whose it was before.
    pub(crate) async fn lose(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        (hold, acts): (&mut Hold, &mut Acts),
    ) {
        let sessions = system.directory::<ExtensionSession>();
        let lose = LoseRun { id: plan.flight.id() };
        // Should this be refused, the run's time ends it.
        let lost = sessions.ask(&plan.address, lose, request.origin.clone()).await;
        if lost == Ok(Fate::Unknown) {
            hold.take_back();
            acts.is_started = false;
        }
    }

    /// Has the calls that are the app's own host's carried out, side by side as far as its places
    /// reach.
    pub(crate) async fn call_hosts(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        hold: &mut Hold,
        acts: &mut Acts,
    ) -> Result<(), Refusal> {
        let outside = self.outside_of(system, plan.scope.tenant);
        let Some(outside) = outside else { return Ok(()) };
        if !plan.calls.iter().any(|call| plan.is_code(call)) {
            return Ok(());
        }
        let secrets = &secrets_of(system, request, plan).await?;
        if plan.app.host.url.is_some() {
            self.start(system, request, plan, hold, acts).await?;
        }
        let now = system.clock().now();
        let kept = &AtomicUsize::new(0);
        let answers = plan.calls.iter().enumerate().map(|(index, call)| async move {
            if !plan.is_code(call) {
                return None;
            }
            let begun = Instant::now();
            let id = format!("{}.{index}", plan.flight.id());
            let with = (id, Arc::clone(secrets));
            let called = outside.hosts.call(plan.code_call(request, call.clone(), with, now));
            let called = plan.watched((Sort::Host, &plan.ir.id, &call.function), called);
            let mut answer = host_answer(&plan.ir, &call.function, called.await);
            let bytes = weight(&answer);
            if kept.fetch_add(bytes, Ordering::Relaxed) + bytes > ANSWERS_BYTES_MAX {
                answer = answers_too_large();
            }
            Some((answer, begun.elapsed()))
        });
        acts.answered = futures::future::join_all(answers).await.into();
        Ok(())
    }

    /// Answers what the call at `index` asks for. What is refused fails its step.
    pub(crate) async fn answer(
        &self,
        system: &Arc<System>,
        request: &Request,
        plan: &Plan,
        (hold, acts): (&mut Hold, &mut Acts),
        (index, asked): (u32, &ir::Request),
    ) -> Result<Result<Value, Reason>, Refusal> {
        if let Some(repeated) = acts.repeated(asked) {
            return Ok(repeated);
        }
        if acts.told.len() >= ANSWERS_MAX {
            let message = format!("one run asks for at most {ANSWERS_MAX} things outside");
            return Ok(Err(Reason::new("too_much_asked", message)));
        }
        let outside = self.outside_of(system, plan.scope.tenant);
        let answer = match asked {
            ir::Request::Complete { prompt, model, temperature, max_tokens } => {
                let completions = outside.and_then(|outside| outside.completions.as_ref());
                match completions {
                    None => {
                        let message = "this server has no model to complete prompts";
                        Err(Reason::new("ai_not_configured", message))
                    }
                    Some(completions) => {
                        self.start(system, request, plan, hold, acts).await?;
                        let prompt = Prompt {
                            before: Vec::new(),
                            prompt: prompt.clone(),
                            model: model.clone(),
                            temperature: *temperature,
                            tokens_max: *max_tokens,
                        };
                        let ends = plan.nesting.ends;
                        let of = (Sort::Completion, "", model.as_deref().unwrap_or_default());
                        let done = completions.complete(&plan.app.id, prompt, ends);
                        plan.watched(of, done).await.map(|done| {
                            acts.use_tokens(index, &done);
                            Value::String(done.text)
                        })
                    }
                }
            }
            ir::Request::Call { app_id, function, params, call_depth } => {
                let call = Call { function: function.clone(), params: params.clone() };
                if *app_id != plan.ir.id {
                    self.start(system, request, plan, hold, acts).await?;
                    let nested = self.nested(system, request, plan, (app_id, call, *call_depth));
                    plan.watched((Sort::Call, app_id, function), nested).await
                } else if let Some(outside) = outside {
                    let secrets = secrets_of(system, request, plan).await?;
                    self.start(system, request, plan, hold, acts).await?;
                    let id = format!("{}.{index}.{}", plan.flight.id(), acts.told.len());
                    let call = plan.code_call(request, call, (id, secrets), system.clock().now());
                    let called = outside.hosts.call(call);
                    let called = plan.watched((Sort::Host, app_id, function), called);
                    called.await.map(|answer| answer.result)
                } else {
                    let message = format!("{app_id}.{function} is not available here");
                    Err(Reason::new("not_available", message))
                }
            }
        };
        let told = answer.as_ref().map_or(0, |it| ir::weigh(it, usize::MAX).unwrap_or(usize::MAX));
        acts.told_bytes = acts.told_bytes.saturating_add(told);
        if answer.is_ok() && acts.told_bytes > ANSWERS_BYTES_MAX {
            let message = "what one run is answered from outside is too much together";
            return Ok(Err(Reason::new("too_much_asked", message)));
        }
        acts.told.push((asked.clone(), answer.clone()));
        Ok(answer)
    }

    /// Calls another app's function for the same caller.
    fn nested<'a>(
        &'a self,
        system: &'a Arc<System>,
        request: &'a Request,
        plan: &'a Plan,
        (app_id, call, depth): (&'a str, Call, usize),
    ) -> BoxFuture<'a, Result<Value, Reason>> {
        Box::pin(async move {
            if self.is_built_in(app_id) {
                let message = format!("{app_id} is part of the server and not called by apps");
                return Err(Reason::new("not_available", message));
            }
            let above = plan.nesting.apps_above.iter().cloned();
            let nesting = Nesting {
                depth,
                apps_above: above.chain([plan.ir.id.clone()]).collect(),
                ends: plan.nesting.ends,
                leave: plan.nesting.leave.within(),
                root: Some(plan.nesting.root.unwrap_or_else(|| plan.flight.id())),
                is_delivery: plan.nesting.is_delivery,
            };
            let inner = Request {
                caller: request.caller.clone(),
                tenant: request.tenant,
                user: request.user,
                app: app_id.to_owned(),
                idempotency: None,
                origin: request.origin.clone(),
            };
            let answer = self.call_nested(system, inner, call, nesting).await;
            let answer = answer.map_err(|refusal| refused(refusal.code, refusal.message))?;
            match answer.error {
                None => Ok(answer.data),
                Some(why) => {
                    let code = answer.error_code.unwrap_or_else(|| "call_failed".to_owned());
                    Err(refused(code, why))
                }
            }
        })
    }
}

fn refused(code: String, message: String) -> Reason {
    // What a nested run could not apply is none of its caller's documents.
    let code = if code == DOCUMENTS_CHANGED { "call_conflict".to_owned() } else { code };
    Reason { code: Cow::Owned(code), message }
}
