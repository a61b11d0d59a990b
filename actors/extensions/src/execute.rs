//! Running the calls of one batch, one after the other, over one view of the documents: the
//! declarative runner.
//!
//! Blocking and without I/O but for reading rows: meant for a thread that may block. Where a step
//! asks for something outside (another app's function, the app's own host, a completion) the run
//! is handed back as it stands, and goes on when it is answered: nothing blocks meanwhile. A call
//! that fails changes nothing, costs nothing and does not stop the others.
//!
//! Deliberate limits
//! - Calls run one after the other, so that each sees what those before it wrote. Those that the
//!   app's own host carries out have run before, side by side: they see no documents.
//! - Time counts while a call runs, not while it waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use supervision::Timestamp;

use crate::answer::CallAnswer;
use crate::catalogue::CompiledApp;
use crate::hosts::{HostAnswer, OUTCOME_UNKNOWN};
use crate::ir::{self, Callable, Input, Limits, Outcome, Reason, RunError};
use crate::runtime::Call;
use crate::session::{Action, DocumentWrite, FUNCTION_CHARACTERS_MAX, RanItem, ReadRow, Scope};
use crate::view::{Rows, View};

/// How long all calls of a batch may run together.
pub const BATCH_TIME_MAX: Duration = Duration::from_secs(20);

/// A batch that is to run.
pub struct Job<R> {
    /// The app.
    pub app: Arc<CompiledApp>,
    /// Its current version.
    pub ir: Arc<ir::App>,
    /// The calls.
    pub calls: Arc<Vec<Call>>,
    /// Whose documents.
    pub scope: Scope,
    /// The durable ones.
    pub rows: R,
    /// The caller's scopes.
    pub scopes: Arc<[String]>,
    /// The platform's fee for a call, in credits.
    pub fee: i64,
    /// How long one call may run.
    pub run_time_max: Duration,
    /// Whether it was stopped: what runs then ends at its next step.
    pub is_stopped: Box<dyn Fn() -> bool + Send>,
    /// The present.
    pub now: Timestamp,
    /// What hosts have answered to the calls that are theirs, and how long they took.
    pub answered: Answered,
    /// How many calls led here.
    pub call_depth: usize,
    /// The apps through which they led.
    pub apps_above: Arc<[String]>,
}

/// By the place of a call: what its host has answered.
pub type Answered = Arc<[Option<(CallAnswer, Duration)>]>;

/// The weight of all answers of one call or batch, in bytes: each result has a limit of its own,
/// and a batch many of them.
pub const ANSWERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What an answer weighs, in bytes.
pub(crate) fn weight(answer: &CallAnswer) -> usize {
    let of = |value| ir::weigh(value, usize::MAX).unwrap_or(usize::MAX);
    of(&answer.data).saturating_add(of(&answer.ui))
}

/// The answer in place of one that is too large beside the others.
pub(crate) fn answers_too_large() -> CallAnswer {
    CallAnswer::error("size_exceeded", "the answers of one batch are too large together")
}

/// What came of it.
pub struct Executed {
    /// What is recorded of each call, in their order.
    pub items: Vec<RanItem>,
    /// What each is answered, in their order.
    pub answers: Vec<CallAnswer>,
    /// What was read.
    pub reads: Vec<ReadRow>,
    /// What became of documents.
    pub writes: Vec<DocumentWrite>,
}

/// A batch that runs, or waits for an answer.
pub struct Execution<R> {
    app: Arc<CompiledApp>,
    ir: Arc<ir::App>,
    calls: Arc<Vec<Call>>,
    answered: Answered,
    fee: i64,
    run_time_max: Duration,
    is_stopped: Box<dyn Fn() -> bool + Send>,
    input: Input,
    view: View<R>,
    /// How long it has run.
    ran_for: Duration,
    asking: Option<Asking>,
    items: Vec<RanItem>,
    answers: Vec<CallAnswer>,
    answers_bytes: usize,
}

/// A call that waits for an answer.
struct Asking {
    waiting: Box<ir::Waiting>,
    timing: Timing,
}

/// When a call began, and how long it has run.
#[derive(Clone, Copy)]
struct Timing {
    started: Instant,
    ran_for: Duration,
}

/// How far a batch came.
pub enum Progress<R> {
    /// To its end.
    Done(Executed),
    /// The call at this place asks for something.
    Asks(Box<Execution<R>>, u32, ir::Request),
}

impl<R: Rows> Job<R> {
    /// Ready to run.
    pub fn begin(self) -> Box<Execution<R>> {
        let Self { app, ir, calls, scope, rows, scopes, fee, run_time_max, now, .. } = self;
        let (user, tenant) = bindings(&scope);
        let input = Input {
            user: Arc::new(user),
            tenant: Arc::new(tenant),
            scopes,
            call_depth: self.call_depth,
            apps_above: self.apps_above,
            ..Input::new(Value::Null)
        };
        Box::new(Execution {
            app,
            ir,
            calls,
            answered: self.answered,
            fee,
            run_time_max,
            is_stopped: self.is_stopped,
            input,
            view: View::new(rows, scope, now),
            ran_for: Duration::ZERO,
            asking: None,
            items: Vec::new(),
            answers: Vec::new(),
            answers_bytes: 0,
        })
    }
}

/// The user and the tenant, as functions see them.
pub(crate) fn bindings(scope: &Scope) -> (Value, Value) {
    let user = json!({"id": scope.user, "imperal_id": scope.user, "tenant_id": scope.tenant});
    (user, json!({"id": scope.tenant, "tenant_id": scope.tenant}))
}

impl<R: Rows> Execution<R> {
    /// Runs on, with the answer to what it asked.
    pub fn go_on(mut self: Box<Self>, answer: Option<Result<Value, Reason>>) -> Progress<R> {
        let mut going_on = None;
        if let (Some(Asking { waiting, timing }), Some(answer)) = (self.asking.take(), answer) {
            going_on = Some((waiting.answer(answer), timing));
        }
        loop {
            let (run, timing) = match going_on.take() {
                Some(it) => it,
                None => match self.next() {
                    Some(it) => it,
                    None => return Progress::Done(self.finish()),
                },
            };
            let segment = Instant::now();
            let of_call = self.run_time_max.saturating_sub(timing.ran_for);
            let deadline = segment + of_call.min(BATCH_TIME_MAX.saturating_sub(self.ran_for));
            let expired = || Instant::now() >= deadline || (self.is_stopped)();
            let progress = run.and_then(|run| run.advance(&mut self.view, &expired));
            let took = segment.elapsed();
            self.ran_for += took;
            let outcome = match progress {
                Ok(ir::Progress::Asks(waiting)) => {
                    let (index, request) = (self.index(), waiting.request.clone());
                    let timing = Timing { ran_for: timing.ran_for + took, ..timing };
                    self.asking = Some(Asking { waiting, timing });
                    return Progress::Asks(self, index, request);
                }
                Ok(ir::Progress::Done(outcome)) => Ok(outcome),
                Err(error) => Err(error),
            };
            let function = &self.calls[self.items.len()].function;
            let answer = answer_of(&self.ir, function, outcome);
            self.end_call(answer, timing.started.elapsed());
        }
    }

    /// The next call that runs here; those that a host has answered are ended on the way.
    fn next(&mut self) -> Option<(Result<ir::Run, RunError>, Timing)> {
        loop {
            let position = self.items.len();
            let call = self.calls.get(position)?;
            if let Some((answer, took)) = self.answered.get(position).cloned().flatten() {
                self.end_call(answer, took);
                continue;
            }
            let input = Input { params: call.params.clone(), ..self.input.clone() };
            let run = ir::Run::start(&self.ir, &call.function, input, Limits::default());
            let timing = Timing { started: Instant::now(), ran_for: Duration::ZERO };
            return Some((run, timing));
        }
    }

    /// How many steps of the call that waits were executed.
    pub(crate) fn steps_run(&self) -> usize {
        self.asking.as_ref().map_or(0, |asking| asking.waiting.steps_run())
    }

    fn index(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(u32::MAX)
    }

    fn end_call(&mut self, mut answer: CallAnswer, took: Duration) {
        let bytes = self.answers_bytes.saturating_add(weight(&answer));
        if answer.is_success() && bytes > ANSWERS_BYTES_MAX {
            // What is not sent takes no room from those after it.
            answer = answers_too_large();
        } else {
            self.answers_bytes = bytes;
        }
        if answer.is_success() {
            self.view.keep_item();
        } else {
            self.view.drop_item();
        }
        let call = &self.calls[self.items.len()];
        let (price, fee) = match answer.is_success() {
            true => (self.app.prices.of(&call.function), self.fee),
            false => (0, 0),
        };
        let action = action_of(&self.ir, &call.function);
        self.items.push(ran_item(self.index(), call, action, &answer, [price, fee], took));
        self.answers.push(answer);
    }

    fn finish(self) -> Executed {
        let (reads, writes) = self.view.finish();
        Executed { items: self.items, answers: self.answers, reads, writes }
    }
}

/// What is recorded of a call.
pub(crate) fn ran_item(
    index: u32,
    call: &Call,
    action: Action,
    answer: &CallAnswer,
    [price, fee]: [i64; 2],
    took: Duration,
) -> RanItem {
    RanItem {
        index,
        function: shortened(&call.function),
        action,
        succeeded: answer.is_success(),
        price,
        fee,
        error_code: answer.error_code.clone(),
        duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
}

/// A function's name as records keep it.
pub(crate) fn shortened(function: &str) -> String {
    function.chars().take(FUNCTION_CHARACTERS_MAX).collect()
}

/// What a function may change; what is not known changes nothing.
pub(crate) fn action_of(ir: &ir::App, function: &str) -> Action {
    match ir.callable(function) {
        Some(Callable::Function(function)) => function.action_type.into(),
        Some(Callable::Panel(_)) | None => Action::Read,
    }
}

/// Codes of refused steps that are told as they are: clients act on them.
const CODES_TOLD: [&str; 4] =
    ["not_available", "ai_not_configured", "documents_changed", OUTCOME_UNKNOWN];

fn answer_of(ir: &ir::App, function: &str, outcome: Result<Outcome, RunError>) -> CallAnswer {
    let Outcome { result, directives, .. } = match outcome {
        Ok(outcome) => outcome,
        Err(RunError::NotDeclarative(_)) => {
            let message = format!("{function} is carried out by a host, which is not available");
            return CallAnswer::error("not_available", message);
        }
        Err(RunError::StepFailed { ref reason, .. })
            if CODES_TOLD.contains(&reason.code.as_ref()) =>
        {
            return CallAnswer::error(&reason.code, reason.message.clone());
        }
        Err(error) => return CallAnswer::error(error.code(), error.to_string()),
    };
    shown(ir, function, result, directives)
}

/// What a host's answer is to a caller.
pub(crate) fn host_answer(
    ir: &ir::App,
    function: &str,
    outcome: Result<HostAnswer, Reason>,
) -> CallAnswer {
    match outcome {
        Ok(HostAnswer { result, directives }) => shown(ir, function, result, directives),
        Err(reason) => CallAnswer::error(&reason.code, reason.message),
    }
}

fn shown(ir: &ir::App, function: &str, result: Value, directives: Vec<Value>) -> CallAnswer {
    match ir.callable(function) {
        Some(Callable::Panel(_)) => CallAnswer::success(Value::Null).with_ui(result),
        _ if directives.is_empty() => CallAnswer::success(result),
        _ => CallAnswer::success(result).with_ui(json!({ "directives": directives })),
    }
}
