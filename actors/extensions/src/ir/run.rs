//! A run: one call of a declarative function or of a panel, from its params to its outcome.
//!
//! A run reads no clock and does no I/O. Documents are read and written through [`Documents`];
//! what leaves the app is asked for with a [`Waiting`] run, which goes on once it is answered, at
//! once or in a later turn. A run that fails has no outcome: whoever lent the documents drops its
//! writes.
//!
//! Steps run in order; a conditional jumps to the step it names, or ends the function on null. A
//! function's answer is its last step's result, `{}` if it ran none. A call of the same app's
//! declarative functions runs inside this run, over the same documents, and needs no scope unless
//! the callee may change more than its caller; every other call is asked for.
//!
//! Bounds: steps a function (max(64, 8 x its steps)) and a run, call depth, the weight of all
//! values built and of the answer, nesting of values, and a deadline that the caller tells.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::envelope::{
    ActionType, App, Callable, Function, Implementation, Render, require_object,
};
use super::issue::{Issue, join, shown};
use super::meter::{Excess, Meter, VALUE_DEPTH_MAX, weigh};
use super::perform::{Deadline, Documents, Effect, Fault, Performer, Reason, Request, object};
use super::step::Program;
use super::template::Scope;

/// Calls below the root, within an app and between apps.
pub const CALL_DEPTH_MAX: usize = 6;

/// Steps of a run with all calls inside it.
pub const RUN_STEPS_MAX: usize = 16 * 1024;

/// Least number of steps that a function may execute, and executions allowed for each of its steps.
const FUNCTION_STEPS_MIN: usize = 64;
const EXECUTIONS_PER_STEP: usize = 8;

/// Bounds that the caller may set.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Weight of all values that the run builds, in bytes.
    pub values_bytes_max: usize,
    /// Weight of the answer, in bytes.
    pub result_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { values_bytes_max: 32 * 1024 * 1024, result_bytes_max: 8 * 1024 * 1024 }
    }
}

/// What a run begins with.
#[derive(Debug, Clone)]
pub struct Input {
    /// The call's params: an object, or null for none.
    pub params: Value,
    /// What `{{user…}}` leads into.
    pub user: Arc<Value>,
    /// What `{{tenant…}}` leads into.
    pub tenant: Arc<Value>,
    /// The caller's scopes; asked only when an inner call may change more than its caller.
    pub scopes: Arc<[String]>,
    /// How many calls led here; 0 for a call from outside.
    pub call_depth: usize,
    /// The apps through which they led, without this one; none of them may be called again.
    pub apps_above: Arc<[String]>,
    /// Whether every step and its result are kept.
    pub traced: bool,
}

impl Input {
    /// A call from outside, of nobody in particular and without scopes.
    #[must_use]
    pub fn new(params: Value) -> Self {
        let nobody = Arc::new(Value::Object(Map::new()));
        Self {
            params,
            user: Arc::clone(&nobody),
            tenant: nobody,
            scopes: Arc::from([]),
            call_depth: 0,
            apps_above: Arc::from([]),
            traced: false,
        }
    }
}

/// What a run that ended well has made.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The function's answer, or the panel's tree.
    pub result: Value,
    /// Directives for the client (`send`, `navigate`, `open`), in order.
    pub directives: Vec<Value>,
    /// Steps executed, with those of inner calls.
    pub steps_run: usize,
    /// Requests that were answered; a run with any has acted outside its documents, so running it
    /// again would act twice.
    pub requests_answered: usize,
    /// Every step in order, if the run was traced.
    pub trace: Vec<TraceEntry>,
}

/// A step that was executed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceEntry {
    /// The function it belongs to.
    pub function: String,
    /// The step's id.
    pub step: String,
    /// Its op.
    pub op: &'static str,
    /// What it was bound to.
    pub result: Value,
}

/// Why there is no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The app has no function or panel of this name.
    #[error("the app has no function {0:?}")]
    FunctionNotFound(String),
    /// The function or panel is carried out by the app's own host.
    #[error("{0:?} is carried out by the app's own host")]
    NotDeclarative(String),
    /// The params break the function's schema.
    #[error("{}", join(.0))]
    ParamsInvalid(Vec<Issue>),
    /// More steps than allowed were executed.
    #[error("more than {limit} steps were executed in {function:?}")]
    StepsExceeded {
        /// The function that was running.
        function: String,
        /// What it, or the whole run, may execute.
        limit: usize,
    },
    /// The deadline passed.
    #[error("time ran out in {function:?}")]
    TimeExceeded {
        /// The function that was running.
        function: String,
    },
    /// The values were too heavy or nested too deep.
    #[error("{what} in {function:?}")]
    SizeExceeded {
        /// The function that was running.
        function: String,
        /// What was too much, in words.
        what: &'static str,
    },
    /// A step was refused.
    #[error("step {step:?} of {function:?}: {reason}")]
    StepFailed {
        /// The function that was running.
        function: String,
        /// The step's id.
        step: String,
        /// Why.
        reason: Reason,
    },
}

impl RunError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::FunctionNotFound(_) => "function_not_found",
            Self::NotDeclarative(_) => "not_declarative",
            Self::ParamsInvalid(_) => "params_invalid",
            Self::StepsExceeded { .. } => "steps_exceeded",
            Self::TimeExceeded { .. } => "time_exceeded",
            Self::SizeExceeded { .. } => "size_exceeded",
            Self::StepFailed { .. } => "step_failed",
        }
    }
}

/// A run that can go on.
#[derive(Debug)]
pub struct Run {
    app: Arc<App>,
    user: Arc<Value>,
    tenant: Arc<Value>,
    scopes: Arc<[String]>,
    call_depth: usize,
    apps_above: Arc<[String]>,
    limits: Limits,
    meter: Meter,
    begun: Begun,
    frames: Vec<Frame>,
    directives: Vec<Value>,
    steps_run: usize,
    requests_answered: usize,
    trace: Option<Vec<TraceEntry>>,
}

/// What was called from outside.
#[derive(Debug)]
enum Begun {
    Function,
    Panel { position: usize, params: Value },
}

/// A function that is running.
#[derive(Debug)]
struct Frame {
    function: usize,
    params: Value,
    results: Vec<Option<Value>>,
    previous: Option<usize>,
    next: usize,
    executed: usize,
}

/// How far a run came.
#[derive(Debug)]
pub enum Progress {
    /// It ended well.
    Done(Outcome),
    /// It needs an answer from outside.
    Asks(Box<Waiting>),
}

/// A run that waits for an answer.
#[derive(Debug)]
pub struct Waiting {
    /// What is asked.
    pub request: Request,
    run: Run,
}

impl Waiting {
    /// How many steps were executed, this one among them.
    #[must_use]
    pub fn steps_run(&self) -> usize {
        self.run.steps_run
    }

    /// Gives the answer: a function's answer, or a completion's text.
    ///
    /// # Errors
    /// A refusal fails the step, and an answer may be too large.
    pub fn answer(self, answer: Result<Value, Reason>) -> Result<Run, RunError> {
        let mut run = self.run;
        run.requests_answered += 1;
        let value = match (answer, self.request) {
            (Ok(value), Request::Call { .. }) => Ok(value),
            (Ok(text), Request::Complete { .. }) => Ok(object([("text", text)])),
            (Err(reason), _) => Err(Fault::Reason(reason)),
        };
        let value = value.and_then(|value| {
            run.meter.take_value(&value, 0)?;
            Ok(value)
        });
        match value.and_then(|value| run.bind(value)) {
            Ok(()) => Ok(run),
            Err(fault) => Err(run.fail(fault)),
        }
    }
}

impl Run {
    /// Prepares a call of a declarative function, or of a panel by its function name.
    ///
    /// # Errors
    /// The name is unknown or carried out elsewhere, or the params break the schema.
    pub fn start(
        app: &Arc<App>,
        name: &str,
        input: Input,
        limits: Limits,
    ) -> Result<Self, RunError> {
        let mut params = input.params;
        let callable = app.callable(name);
        let not_found = || RunError::FunctionNotFound(name.to_owned());
        let (begun, frame) = match callable.ok_or_else(not_found)? {
            Callable::Function(function) => {
                let Implementation::Declarative(program) = &function.implementation else {
                    return Err(RunError::NotDeclarative(name.to_owned()));
                };
                function.admit_params(&mut params).map_err(RunError::ParamsInvalid)?;
                check_nesting(name, &params)?;
                let position = app.function_position(name).ok_or_else(not_found)?;
                (Begun::Function, Some(Frame::new(position, params, program)))
            }
            Callable::Panel(panel) => {
                if matches!(panel.render, Render::Code(_)) {
                    return Err(RunError::NotDeclarative(name.to_owned()));
                }
                require_object(&mut params).map_err(RunError::ParamsInvalid)?;
                check_nesting(name, &params)?;
                let position = app.panels.iter().position(|known| known.id == panel.id);
                let position = position.ok_or_else(not_found)?;
                (Begun::Panel { position, params }, None)
            }
        };
        Ok(Self {
            app: Arc::clone(app),
            user: input.user,
            tenant: input.tenant,
            scopes: input.scopes,
            call_depth: input.call_depth,
            apps_above: input.apps_above,
            limits,
            meter: Meter::new(limits.values_bytes_max),
            begun,
            frames: frame.into_iter().collect(),
            directives: Vec::new(),
            steps_run: 0,
            requests_answered: 0,
            trace: input.traced.then(Vec::new),
        })
    }

    /// Goes on until the run ends or asks for something. `expired` tells whether the deadline has
    /// passed; it is asked before each step, each changed document and each repeated node.
    ///
    /// # Errors
    /// A step was refused or a bound was reached.
    pub fn advance(
        mut self,
        documents: &mut dyn Documents,
        expired: &dyn Fn() -> bool,
    ) -> Result<Progress, RunError> {
        let app = Arc::clone(&self.app);
        let deadline = Deadline { expired };
        if let Begun::Panel { position, params } = &self.begun {
            let rendered = self.app.panels.get(*position).map_or(Ok(Value::Null), |panel| {
                render(
                    &panel.render,
                    params,
                    [&self.user, &self.tenant],
                    &mut self.meter,
                    &deadline,
                )
            });
            return match rendered {
                Ok(tree) => self.end(tree),
                Err(fault) => Err(self.fail(fault)),
            };
        }
        loop {
            match self.step(&app, documents, &deadline) {
                Ok(Next::Step) => {}
                Ok(Next::Ask(request)) => {
                    return Ok(Progress::Asks(Box::new(Waiting { request, run: self })));
                }
                Ok(Next::End(result)) => return self.end(result),
                Err(fault) => return Err(self.fail(fault)),
            }
        }
    }

    /// Executes the next step of the innermost function, or ends that function.
    fn step(
        &mut self,
        app: &App,
        documents: &mut dyn Documents,
        deadline: &Deadline<'_>,
    ) -> Result<Next, Fault> {
        deadline.check()?;
        let Some((function, program)) = self.running(app) else {
            return Ok(Next::End(Value::Object(Map::new())));
        };
        let depth = self.frames.len();
        let Some(frame) = self.frames.last_mut() else { return Ok(Next::Step) };
        let Some(step) = program.steps.get(frame.next) else {
            let result = frame.take_result();
            self.frames.pop();
            if self.frames.is_empty() {
                return Ok(Next::End(result));
            }
            self.bind(result)?;
            return Ok(Next::Step);
        };
        frame.executed += 1;
        self.steps_run += 1;
        if frame.executed > steps_max(program) {
            return Err(Fault::Steps(steps_max(program)));
        }
        if self.steps_run > RUN_STEPS_MAX {
            return Err(Fault::Steps(RUN_STEPS_MAX));
        }
        let scope = Scope {
            params: &frame.params,
            step_ids: &program.ids,
            results: &frame.results,
            previous: frame.previous,
            user: &self.user,
            tenant: &self.tenant,
            aliases: None,
        };
        let mut performer = Performer { scope, meter: &mut self.meter, documents, deadline };
        match performer.perform(step)? {
            Effect::Bound(value) => self.bind(value)?,
            Effect::Directive(directive) => {
                self.meter.take_value(&directive, 0)?;
                self.directives.push(directive.clone());
                self.bind(directive)?;
            }
            Effect::Jump(target) => {
                let next = target.unwrap_or(program.len());
                let id = target.and_then(|position| program.ids.get(position));
                let id = id.map_or(Value::Null, |id| Value::String(id.clone()));
                self.bind(object([("next", id)]))?;
                if let Some(frame) = self.frames.last_mut() {
                    frame.next = next;
                }
            }
            Effect::Complete(request) => return Ok(Next::Ask(request)),
            Effect::Call { app_id, function: name, params } => {
                let called = Called { app_id, name, params };
                return self.call(app, function, called, depth);
            }
        }
        Ok(Next::Step)
    }

    /// Enters a function of the same app, or asks for the call.
    fn call(
        &mut self,
        app: &App,
        caller: &Function,
        called: Called,
        depth: usize,
    ) -> Result<Next, Fault> {
        let call_depth = self.call_depth.saturating_add(depth);
        if call_depth > CALL_DEPTH_MAX {
            let message = format!("calls are nested deeper than {CALL_DEPTH_MAX}");
            return Err(Reason::new("call_depth_exceeded", message).into());
        }
        let Called { app_id, name, mut params } = called;
        let app_id = app_id.unwrap_or_else(|| app.id.clone());
        if self.apps_above.contains(&app_id) {
            let message = format!("{:?} is already among the callers", shown(&app_id));
            return Err(Reason::new("circular_call", message).into());
        }
        if app_id != app.id {
            return Ok(Next::Ask(Request::Call { app_id, function: name, params, call_depth }));
        }
        let position = app.function_position(&name);
        let Some((position, callee)) = position.and_then(|i| Some((i, app.functions.get(i)?)))
        else {
            let message = format!("the app has no function {:?}", shown(&name));
            return Err(Reason::new("function_not_found", message).into());
        };
        let wanted = callee.action_type;
        if wanted > caller.action_type && !scopes_cover(&self.scopes, &app_id, wanted) {
            let message = format!("needs the scope {app_id}:{}", wanted.name());
            return Err(Reason::new("scope_missing", message).into());
        }
        let Implementation::Declarative(program) = &callee.implementation else {
            return Ok(Next::Ask(Request::Call { app_id, function: name, params, call_depth }));
        };
        let invalid = |issues: Vec<Issue>| Reason::new("params_invalid", join(&issues));
        callee.admit_params(&mut params).map_err(invalid)?;
        self.frames.push(Frame::new(position, params, program));
        Ok(Next::Step)
    }

    /// Binds the result of the step that the innermost function is at, and moves on.
    fn bind(&mut self, value: Value) -> Result<(), Fault> {
        let app = Arc::clone(&self.app);
        let running = self.running(&app);
        let (Some((function, program)), Some(frame)) = (running, self.frames.last_mut()) else {
            return Ok(());
        };
        if let Some(trace) = &mut self.trace {
            self.meter.take_value(&value, 0)?;
            trace.push(TraceEntry {
                function: function.name.clone(),
                step: program.ids.get(frame.next).cloned().unwrap_or_default(),
                op: program.steps.get(frame.next).map_or("", |step| step.op()),
                result: value.clone(),
            });
        }
        if let Some(slot) = frame.results.get_mut(frame.next) {
            *slot = Some(value);
        }
        frame.previous = Some(frame.next);
        frame.next += 1;
        Ok(())
    }

    /// The innermost function and its steps.
    fn running<'a>(&self, app: &'a App) -> Option<(&'a Function, &'a Program)> {
        let function = app.functions.get(self.frames.last()?.function)?;
        match &function.implementation {
            Implementation::Declarative(program) => Some((function, program)),
            Implementation::Code(_) => None,
        }
    }

    fn end(self, result: Value) -> Result<Progress, RunError> {
        let bytes = weigh(&result, usize::MAX).unwrap_or(usize::MAX);
        if bytes > self.limits.result_bytes_max {
            let what = "the answer is too large";
            return Err(RunError::SizeExceeded { function: self.function_name(), what });
        }
        Ok(Progress::Done(Outcome {
            result,
            directives: self.directives,
            steps_run: self.steps_run,
            requests_answered: self.requests_answered,
            trace: self.trace.unwrap_or_default(),
        }))
    }

    fn function_name(&self) -> String {
        match (&self.begun, self.running(&self.app)) {
            (_, Some((function, _))) => function.name.clone(),
            (Begun::Panel { position, .. }, None) => {
                let panel = self.app.panels.get(*position);
                panel.map(|panel| panel.id.clone()).unwrap_or_default()
            }
            (Begun::Function, None) => String::new(),
        }
    }

    fn fail(&self, fault: Fault) -> RunError {
        let function = self.function_name();
        match fault {
            Fault::Time => RunError::TimeExceeded { function },
            Fault::Steps(limit) => RunError::StepsExceeded { function, limit },
            Fault::Excess(Excess::Bytes) => {
                RunError::SizeExceeded { function, what: "the values are too large" }
            }
            Fault::Excess(Excess::Depth) => {
                RunError::SizeExceeded { function, what: "the values are nested too deep" }
            }
            Fault::Reason(reason) => {
                let step = self.running(&self.app).zip(self.frames.last());
                let step = step.and_then(|((_, program), frame)| program.ids.get(frame.next));
                RunError::StepFailed { function, step: step.cloned().unwrap_or_default(), reason }
            }
        }
    }
}

enum Next {
    Step,
    Ask(Request),
    End(Value),
}

struct Called {
    app_id: Option<String>,
    name: String,
    params: Value,
}

impl Frame {
    fn new(function: usize, params: Value, program: &Program) -> Self {
        let results = std::iter::repeat_with(|| None).take(program.len()).collect();
        Self { function, params, results, previous: None, next: 0, executed: 0 }
    }

    fn take_result(&mut self) -> Value {
        let last = self.previous.and_then(|position| self.results.get_mut(position));
        last.and_then(Option::take).unwrap_or_else(|| Value::Object(Map::new()))
    }
}

fn steps_max(program: &Program) -> usize {
    FUNCTION_STEPS_MIN.max(EXECUTIONS_PER_STEP * program.len())
}

fn check_nesting(function: &str, params: &Value) -> Result<(), RunError> {
    if weigh(params, VALUE_DEPTH_MAX).is_some() {
        return Ok(());
    }
    let what = "the params are nested too deep";
    Err(RunError::SizeExceeded { function: function.to_owned(), what })
}

fn render(
    render: &Render,
    params: &Value,
    [user, tenant]: [&Value; 2],
    meter: &mut Meter,
    deadline: &Deadline<'_>,
) -> Result<Value, Fault> {
    deadline.check()?;
    let tree = match render {
        Render::Static(tree) => return Ok(tree.clone()),
        Render::Template(template) => &template.0,
        Render::Code(_) => return Ok(Value::Null),
    };
    let (step_ids, results, previous, aliases) = (&[], &[], None, None);
    let scope = Scope { params, step_ids, results, previous, user, tenant, aliases };
    tree.render(&scope, meter, deadline)
}

/// Whether scopes allow a call of this app with this action type: `app:action`,
/// `extensions:action`, `app:*`, `extensions:*` (or with a dot), `*`.
#[must_use]
pub fn scopes_cover(scopes: &[String], app_id: &str, action_type: ActionType) -> bool {
    scopes.iter().any(|scope| {
        let Some((resource, action)) = scope.rsplit_once([':', '.']) else { return scope == "*" };
        let resource_fits = resource == app_id || resource == "extensions";
        resource_fits && (action == action_type.name() || action == "*")
    })
}

/// Who answers what a run asks, for callers that can answer at once.
pub trait Host {
    /// Answers a request: a function's answer, or a completion's text.
    ///
    /// # Errors
    /// A refusal, which fails the step.
    fn answer(&mut self, request: &Request) -> Result<Value, Reason>;
}

/// Runs a function or panel to its end.
///
/// # Errors
/// As [`Run::start`] and [`Run::advance`].
pub fn run(
    app: &Arc<App>,
    name: &str,
    input: Input,
    limits: Limits,
    (documents, host): (&mut dyn Documents, &mut dyn Host),
    expired: &dyn Fn() -> bool,
) -> Result<Outcome, RunError> {
    let mut run = Run::start(app, name, input, limits)?;
    loop {
        match run.advance(documents, expired)? {
            Progress::Done(outcome) => return Ok(outcome),
            Progress::Asks(waiting) => {
                let answer = host.answer(&waiting.request);
                run = waiting.answer(answer)?;
            }
        }
    }
}
