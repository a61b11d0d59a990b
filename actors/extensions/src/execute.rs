//! Running the calls of one batch, one after the other, over one view of the documents.
//!
//! Blocking and without I/O but for reading rows: meant for a thread that may block. A call that
//! fails changes nothing, costs nothing and does not stop the others.
//!
//! Deliberate limits
//! - A step that leaves the app (another app's function, its own host, a completion) fails with
//!   `not_available`.
//! - Calls run one after the other, so that each sees what those before it wrote.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use supervision::Timestamp;

use crate::answer::CallAnswer;
use crate::catalogue::CompiledApp;
use crate::ir::{self, Callable, Host, Input, Limits, Outcome, Reason, RunError};
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

impl<R: Rows> Job<R> {
    /// Runs it.
    pub fn execute(self) -> Executed {
        let Self { app, ir, calls, scope, rows, scopes, fee, run_time_max, is_stopped, now } = self;
        let user = json!({"id": scope.user, "imperal_id": scope.user, "tenant_id": scope.tenant});
        let tenant = json!({"id": scope.tenant, "tenant_id": scope.tenant});
        let input = Input {
            user: Arc::new(user),
            tenant: Arc::new(tenant),
            scopes,
            ..Input::new(Value::Null)
        };
        let mut view = View::new(rows, scope, now);
        let (mut items, mut answers) = (Vec::new(), Vec::new());
        let batch_started = Instant::now();
        for (index, call) in calls.iter().enumerate() {
            let started = Instant::now();
            let deadline = (started + run_time_max).min(batch_started + BATCH_TIME_MAX);
            let expired = || Instant::now() >= deadline || is_stopped();
            let input = Input { params: call.params.clone(), ..input.clone() };
            let parts: (&mut dyn ir::Documents, &mut dyn Host) = (&mut view, &mut Nobody);
            let outcome = ir::run(&ir, &call.function, input, Limits::default(), parts, &expired);
            let answer = answer(&ir, &call.function, outcome);
            if answer.is_success() {
                view.keep_item();
            } else {
                view.drop_item();
            }
            let (price, fee) = match answer.is_success() {
                true => (app.prices.of(&call.function), fee),
                false => (0, 0),
            };
            let action = action_of(&ir, &call.function);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            items.push(ran_item(index, call, action, &answer, [price, fee], started));
            answers.push(answer);
        }
        let (reads, writes) = view.finish();
        Executed { items, answers, reads, writes }
    }
}

/// What is recorded of a call.
pub(crate) fn ran_item(
    index: u32,
    call: &Call,
    action: Action,
    answer: &CallAnswer,
    [price, fee]: [i64; 2],
    started: Instant,
) -> RanItem {
    RanItem {
        index,
        function: call.function.chars().take(FUNCTION_CHARACTERS_MAX).collect(),
        action,
        succeeded: answer.is_success(),
        price,
        fee,
        error_code: answer.error_code.clone(),
        duration_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}

/// What a function may change; what is not known changes nothing.
fn action_of(ir: &ir::App, function: &str) -> Action {
    match ir.callable(function) {
        Some(Callable::Function(function)) => function.action_type.into(),
        Some(Callable::Panel(_)) | None => Action::Read,
    }
}

fn answer(ir: &ir::App, function: &str, outcome: Result<Outcome, RunError>) -> CallAnswer {
    let Outcome { result, directives, .. } = match outcome {
        Ok(outcome) => outcome,
        Err(RunError::NotDeclarative(_)) => {
            let message = format!("{function} is carried out by a host, which is not available");
            return CallAnswer::error("not_available", message);
        }
        Err(RunError::StepFailed { ref reason, .. }) if reason.code == "not_available" => {
            return CallAnswer::error("not_available", reason.message.clone());
        }
        Err(error) => return CallAnswer::error(error.code(), error.to_string()),
    };
    match ir.callable(function) {
        Some(Callable::Panel(_)) => CallAnswer::success(Value::Null).with_ui(result),
        _ if directives.is_empty() => CallAnswer::success(result),
        _ => CallAnswer::success(result).with_ui(json!({ "directives": directives })),
    }
}

/// Answers nothing that leaves the app.
struct Nobody;

impl Host for Nobody {
    fn answer(&mut self, request: &ir::Request) -> Result<Value, Reason> {
        let what = match request {
            ir::Request::Call { app_id, function, .. } => format!("{app_id}.{function}"),
            ir::Request::Complete { .. } => "ai.complete".to_owned(),
        };
        Err(Reason::new("not_available", format!("{what} is not available here")))
    }
}
