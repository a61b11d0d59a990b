//! Functions and panels of the kind `code`, carried out by their app's own host: one signed POST
//! of JSON each. The second runner beside the interpreter.
//!
//! The request is `{call_id, trace_id, function, module, entry, params, user, tenant, app,
//! app_version, deadline_ms}`, and `secrets` when the app has any that are set, signed as
//! [`crate::signing`] says; a step of a task has `task_id` too, and its host may say how far it is
//! ([`crate::tasks`]). The answer is status 200, JSON,
//! `{"result": …, "directives": […]}` or `{"error": "…"}` (also `{"error": {"message": "…"}}`).
//!
//! Invariants
//! - An exchange is over by its deadline, however slowly the host sends.
//! - Only what reads is repeated, once, with the same call id. All else is sent once.
//! - What may have reached the host without a whole answer is `outcome_unknown`; every other
//!   failure is known to have changed nothing or is the host's own word.
//! - One app has [`PLACES_EACH`] requests under way, so a host that hangs costs its own app.
//!
//! Deliberate limits: one host an app; a schema of answers that cannot be read is not checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use supervision::{Class, Refusal};
use types::{AppId, TaskId};

use crate::catalogue::CompiledApp;
use crate::host_secrets::HostSecrets;
use crate::ir::{self, Reason};
use crate::outgoing::{Answered, Outgoing, Post, PostError};
use crate::places::{Bulkhead, Bulkheads};
use crate::signing::HostKeys;

/// How long a host has for its answer, from the look-up of its name to the last byte.
pub const HOST_TIME_MAX: Duration = Duration::from_secs(30);
/// How much longer a host has for its answer to a step of a task: so many times that.
pub const TASK_TIMES: u32 = 2;
/// Bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Requests of one app that are under way at once.
pub const PLACES_EACH: usize = 16;
/// Requests of one app that wait for a place.
pub const WAITING_EACH_MAX: usize = 4_096;
/// How often a call that reads is sent, at most.
pub const READ_ATTEMPTS_MAX: u32 = 2;
/// The pause before it is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Directives of one answer.
pub const DIRECTIVES_MAX: usize = 64;
/// Characters of an error's text that are passed on.
const ERROR_CHARACTERS_MAX: usize = 2_000;
/// What a directive may ask of the client.
const ACTIONS: [&str; 3] = ["send", "navigate", "open"];

/// The code of an outcome that nobody here knows.
pub const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// A function that a host carries out.
#[derive(Clone)]
pub struct CodeCall {
    /// The app.
    pub app: Arc<CompiledApp>,
    /// Its current version.
    pub ir: Arc<ir::App>,
    /// The function, or a panel's function name.
    pub function: String,
    /// Its params.
    pub params: Value,
    /// The call's id: the same when it is sent again.
    pub call_id: String,
    /// The request that it is part of.
    pub trace_id: String,
    /// For whom, as bindings see it.
    pub user: Value,
    /// In which tenant, as bindings see it.
    pub tenant: Value,
    /// The present, in milliseconds since 1970.
    pub now_ms: i64,
    /// When it must have begun, and when it is over.
    pub ends: Instant,
    /// What the app is given for it.
    pub secrets: Arc<HostSecrets>,
    /// The task that it is a step of: it may take longer, and say how far it is.
    pub task: Option<TaskId>,
}

/// What a host answers.
#[derive(Clone, Debug, PartialEq)]
pub struct HostAnswer {
    /// What the function answers.
    pub result: Value,
    /// What the client shall do.
    pub directives: Vec<Value>,
}

/// How calls have gone since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFigures {
    /// Answered, well or with the function's own error.
    pub answered: u64,
    /// Failed for certain: no connection, or an answer of no use.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Not sent: no place, an open circuit, a forbidden address.
    pub refused: u64,
    /// Under way.
    pub under_way: usize,
    /// Apps whose circuit is not closed.
    pub circuits_open: usize,
}

/// Where those are counted that were not sent.
const REFUSED: usize = 3;

fn keeps_failing(wait: Duration) -> String {
    let seconds = wait.as_secs() + 1;
    format!("the app's host keeps failing; tried again in {seconds} s")
}

/// The hosts of all apps.
pub struct Hosts {
    outgoing: Arc<dyn Outgoing>,
    keys: HostKeys,
    bulkheads: Bulkheads,
    time_max: Duration,
    counts: [AtomicU64; 4],
}

impl Hosts {
    /// Hosts that are reached through a port, each with `time_max` for an answer.
    pub fn new(outgoing: Arc<dyn Outgoing>, keys: HostKeys, time_max: Duration) -> Self {
        let bulkheads = Bulkheads::new(PLACES_EACH, WAITING_EACH_MAX);
        Self { outgoing, keys, bulkheads, time_max, counts: Default::default() }
    }

    /// The keys of their requests.
    pub fn keys(&self) -> &HostKeys {
        &self.keys
    }

    /// Whether a URL may be a host's.
    pub fn check(&self, url: &str) -> Result<(), String> {
        self.outgoing.check(url)
    }

    /// An app's place here, if its host was called of late.
    pub(crate) fn known(&self, app: &AppId) -> Option<Arc<Bulkhead>> {
        self.bulkheads.known(app)
    }

    /// The way out.
    pub(crate) fn outgoing(&self) -> &Arc<dyn Outgoing> {
        &self.outgoing
    }

    /// How calls have gone.
    pub fn figures(&self) -> HostFigures {
        let [answered, failed, unknown, refused] =
            [0, 1, 2, 3].map(|at| self.counts[at].load(Ordering::Relaxed));
        let (under_way, circuits_open) =
            (self.bulkheads.under_way(), self.bulkheads.broken(Instant::now()));
        HostFigures { answered, failed, unknown, refused, under_way, circuits_open }
    }

    /// Refuses what an app's host would not be sent now, before anything is held for it: 503
    /// `app_unavailable` while its circuit is open.
    pub(crate) fn check_circuit(&self, app: &AppId) -> Result<(), Refusal> {
        let known = self.known(app);
        let wait = known.and_then(|it| it.breaker.lock().wait(Instant::now()));
        let Some(wait) = wait else { return Ok(()) };
        self.counts[REFUSED].fetch_add(1, Ordering::Relaxed);
        let refusal = Refusal::new(Class::Busy, "app_unavailable", keeps_failing(wait));
        Err(refusal.retry_after(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Carries a call out. What comes back was checked against the function's `return_schema`.
    pub async fn call(&self, mut call: CodeCall) -> Result<HostAnswer, Reason> {
        let outcome = match admit(&mut call) {
            Ok(()) => self.carry_out(&call).await,
            Err(reason) => Err(reason),
        };
        let count = match &outcome {
            Ok(_) => 0,
            Err(reason) => match reason.code.as_ref() {
                "function_failed" => 0,
                "host_unreachable" | "host_answer_invalid" => 1,
                OUTCOME_UNKNOWN => 2,
                _ => REFUSED,
            },
        };
        self.counts[count].fetch_add(1, Ordering::Relaxed);
        outcome
    }

    async fn carry_out(&self, call: &CodeCall) -> Result<HostAnswer, Reason> {
        let Some(url) = call.app.host.url.clone() else {
            let message = format!("{} has no host that carries out {}", call.app.id, call.function);
            return Err(Reason::new("host_not_set", message));
        };
        let (entry, is_read) = entry_of(call)?;
        let busy = || Reason::new("host_busy", "too many calls of this app wait for its host");
        let bulkhead = self.bulkheads.of(&call.app.id, Instant::now()).ok_or_else(busy)?;
        let _place = bulkhead.enter(call.ends).await.ok_or_else(busy)?;
        let times = if call.task.is_some() { TASK_TIMES } else { 1 };
        let ends = call.ends.min(Instant::now() + self.time_max * times);
        let attempts = if is_read { READ_ATTEMPTS_MAX } else { 1 };
        let mut attempt = 1;
        loop {
            if let Err(wait) = bulkhead.breaker.lock().admit(Instant::now()) {
                return Err(Reason::new("host_circuit_open", keeps_failing(wait)));
            }
            let post = self.post(call, entry, url.clone(), ends);
            let outcome = self.outgoing.post(post).await;
            let outcome = outcome.map_err(failure).and_then(|it| {
                let told = read(it).map(|told| told.without(&call.secrets));
                told.map_err(Ended::Known)
            });
            let may_repeat = outcome.as_ref().is_err_and(Ended::may_repeat);
            if !matches!(outcome, Err(Ended::NotSent(_))) {
                let is_well = outcome.is_ok();
                bulkhead.breaker.lock().report(is_well, Instant::now());
            }
            if !may_repeat || attempt >= attempts || Instant::now() + RETRY_PAUSE >= ends {
                let answer = outcome.map_err(Ended::into_reason)?;
                return accept(call, answer);
            }
            attempt += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn post(&self, call: &CodeCall, entry: &ir::Entry, url: String, ends: Instant) -> Post {
        let left = ends.saturating_duration_since(Instant::now());
        let mut body = json!({
            "call_id": call.call_id,
            "trace_id": call.trace_id,
            "function": call.function,
            "module": entry.module,
            "entry": entry.entry,
            "params": call.params,
            "user": call.user,
            "tenant": call.tenant,
            "app": call.app.id,
            "app_version": call.app.version,
            "deadline_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        });
        if let (Value::Object(secrets), Some(members)) =
            (call.secrets.as_json(), body.as_object_mut())
            && !secrets.is_empty()
        {
            members.insert("secrets".to_owned(), Value::Object(secrets));
        }
        if let Some(task) = call.task {
            body["task_id"] = json!(task);
        }
        let body = body.to_string().into_bytes();
        let now = supervision::Timestamp(call.now_ms);
        let numbers: Vec<u32> = call.app.host.valid_keys(now).collect();
        let seconds = call.now_ms.div_euclid(1_000);
        let id = (call.call_id.as_str(), seconds);
        let signatures = self.keys.signatures(&call.app.id, &numbers, id, &body);
        let numbers = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let headers = vec![
            ("webhook-id", call.call_id.clone()),
            ("webhook-timestamp", seconds.to_string()),
            ("webhook-signature", signatures),
            ("bailiwick-key", numbers),
        ];
        Post { url, headers, body, answer_bytes_max: ANSWER_BYTES_MAX, ends }
    }
}

/// How an attempt ended without an answer that counts.
enum Ended {
    /// It was not sent, and never will be.
    NotSent(Reason),
    /// It failed for certain.
    Known(Reason),
    /// Nobody knows.
    Unknown(Reason),
}

impl Ended {
    fn may_repeat(&self) -> bool {
        !matches!(self, Self::NotSent(_))
    }

    fn into_reason(self) -> Reason {
        match self {
            Self::NotSent(reason) | Self::Known(reason) | Self::Unknown(reason) => reason,
        }
    }
}

fn failure(error: PostError) -> Ended {
    let message = format!("the app's host: {error}");
    match error {
        PostError::Forbidden(_) => Ended::NotSent(Reason::new("host_forbidden", message)),
        PostError::Unreachable(_) => Ended::Known(Reason::new("host_unreachable", message)),
        PostError::AnswerTooLong(_) => Ended::Known(Reason::new("host_answer_invalid", message)),
        PostError::Unanswered(_) => Ended::Unknown(Reason::new(OUTCOME_UNKNOWN, message)),
    }
}

/// Checks the params, and fills their defaults.
fn admit(call: &mut CodeCall) -> Result<(), Reason> {
    let admitted = match call.ir.callable(&call.function) {
        Some(ir::Callable::Function(function)) => function.admit_params(&mut call.params),
        _ => ir::require_object(&mut call.params),
    };
    admitted.map_err(|issues| Reason::new("params_invalid", ir::join(&issues)))
}

/// Where a function or panel is carried out, and whether it only reads.
fn entry_of(call: &CodeCall) -> Result<(&ir::Entry, bool), Reason> {
    let found = match call.ir.callable(&call.function) {
        Some(ir::Callable::Function(function)) => match &function.implementation {
            ir::Implementation::Code(entry) => {
                Some((entry, function.action_type == ir::ActionType::Read))
            }
            ir::Implementation::Declarative(_) => None,
        },
        Some(ir::Callable::Panel(panel)) => match &panel.render {
            ir::Render::Code(entry) => Some((entry, true)),
            _ => None,
        },
        None => None,
    };
    found.ok_or_else(|| Reason::new("function_not_found", "no host carries this function out"))
}

/// A whole answer of the host's: the function's result, or its own error.
enum Told {
    Answer(HostAnswer),
    Failed(String),
}

impl Told {
    fn without(self, secrets: &HostSecrets) -> Self {
        match self {
            Self::Failed(why) => Self::Failed(secrets.scrub_text(why)),
            Self::Answer(HostAnswer { result, directives }) => {
                let directives = directives.into_iter().map(|it| secrets.scrub(it)).collect();
                Self::Answer(HostAnswer { result: secrets.scrub(result), directives })
            }
        }
    }
}

fn read(answered: Answered) -> Result<Told, Reason> {
    let invalid = |what: String| {
        Reason::new("host_answer_invalid", format!("the app's host answered {what}"))
    };
    if answered.status != 200 {
        return Err(invalid(format!("with status {}", answered.status)));
    }
    let kind = answered.content_type.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(invalid("with something else than application/json".to_owned()));
    }
    let body: Value = serde_json::from_slice(&answered.body)
        .map_err(|error| invalid(format!("with what is no JSON: {error}")))?;
    let Value::Object(mut body) = body else {
        return Err(invalid("with JSON that is no object".to_owned()));
    };
    let (result, error) = (body.remove("result"), body.remove("error"));
    let error = error.filter(|error| !error.is_null());
    match (result, error) {
        (_, Some(error)) => Ok(Told::Failed(error_text(&error))),
        (Some(result), None) => {
            let directives = directives(&mut body).map_err(invalid)?;
            Ok(Told::Answer(HostAnswer { result, directives }))
        }
        (None, None) => Err(invalid("without a result or an error".to_owned())),
    }
}

fn error_text(error: &Value) -> String {
    let text = error.as_str().or_else(|| error.get("message").and_then(Value::as_str));
    let text = text.unwrap_or("the function failed and did not say why");
    text.chars().take(ERROR_CHARACTERS_MAX).collect()
}

fn directives(body: &mut Map<String, Value>) -> Result<Vec<Value>, String> {
    let directives = match body.remove("directives") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(directives)) => directives,
        Some(_) => return Err("with directives that are no list".to_owned()),
    };
    let is_known = |directive: &Value| {
        let action = directive.get("action").and_then(Value::as_str);
        action.is_some_and(|action| ACTIONS.contains(&action))
    };
    if directives.len() > DIRECTIVES_MAX || !directives.iter().all(is_known) {
        let actions = ACTIONS.join(", ");
        return Err(format!("with directives beyond {DIRECTIVES_MAX}, or not of {actions}"));
    }
    Ok(directives)
}

fn accept(call: &CodeCall, told: Told) -> Result<HostAnswer, Reason> {
    let answer = match told {
        Told::Failed(message) => return Err(Reason::new("function_failed", message)),
        Told::Answer(answer) => answer,
    };
    let invalid = |why: String| {
        let message = format!("the app's host answered against the return_schema: {why}");
        Reason::new("host_answer_invalid", message)
    };
    if ir::is_too_deep(&answer.result) {
        return Err(invalid("nested too deep".to_owned()));
    }
    if let Some(ir::Callable::Function(function)) = call.ir.callable(&call.function) {
        function.check_answer(&answer.result).map_err(|issues| invalid(ir::join(&issues)))?;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, content_type: &str, body: &str) -> Answered {
        let body = body.as_bytes().to_vec();
        Answered { status, content_type: content_type.to_owned(), body }
    }

    #[test]
    fn only_a_whole_json_answer_counts() {
        let json = "application/json; charset=utf-8";
        let answer = read(answered(200, json, r#"{"result": 1, "directives": null}"#));
        let expected = HostAnswer { result: json!(1), directives: Vec::new() };
        assert!(matches!(answer, Ok(Told::Answer(answer)) if answer == expected));
        for (body, text) in [
            (r#"{"error": "sold out"}"#, "sold out"),
            (r#"{"error": {"message": "sold out"}, "result": 1}"#, "sold out"),
        ] {
            let told = read(answered(200, json, body));
            assert!(matches!(told, Ok(Told::Failed(why)) if why == text), "{body}");
        }
        for (status, kind, body) in [
            (500, json, r#"{"result": 1}"#),
            (302, json, r#"{"result": 1}"#),
            (200, "text/html", r#"{"result": 1}"#),
            (200, "", r#"{"result": 1}"#),
            (200, json, r#"{"result": 1"#),
            (200, json, "[]"),
            (200, json, "{}"),
            (200, json, r#"{"result": 1, "directives": [{"action": "format_disk"}]}"#),
            (200, json, r#"{"result": 1, "directives": {}}"#),
        ] {
            let code = read(answered(status, kind, body)).map(|_| ()).unwrap_err().code;
            assert_eq!(code, "host_answer_invalid", "{status} {kind} {body}");
        }
    }
}
