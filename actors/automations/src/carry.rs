//! Carrying an execution out: its steps, one after the other, each an ordinary call by the rule's
//! user with the rights that they have now, no more than the rule was made with.
//!
//! Whoever takes an execution up after a restart begins with its first step again: a step that was
//! recorded answers what it answered, one that may have acted outside and was not recorded fails
//! with `outcome_unknown` ([`extensions::numbered`]), and none acts twice.
//!
//! A step that policy holds for a person becomes a card; the execution goes on when it was
//! confirmed and done, and fails when it was not.
//!
//! A message is completed by the model if the server has one, and what comes of it is a notice to
//! the user; without a model the message itself is the notice. It is kept with the execution, and
//! told to whoever reads the stream at that moment.
//!
//! Deliberate limits
//! - What a message was completed to before a crash is asked for again.
//! - A call that goes on in the background is done for its execution when it was begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use activity::feed::{Audience, Telling};
use confirmations::{Card, Confirmation, State};
use extensions::completion::{COMPLETION_TIME_MAX, Prompt};
use extensions::guard::answer_of;
use extensions::ir::{Bound, fill};
use extensions::{Call, CallAnswer, Extensions, Operated, Request};
use serde_json::{Value, json};
use supervision::{Address, Class, EffectContext, IdempotencyKey, Origin, Refusal, System};
use types::{AppId, Caller, ExecutionId, TenantId, home_of};

use crate::app::APP;
use crate::automations::Automations;
use crate::automator::Automator;
use crate::commands::{EndExecution, TIME_EXCEEDED};
use crate::execution::{End, Execution, Outcome, StepOutcome, open_event, run_of, seal_note};
use crate::rule::{ActionStep, Failure, NotifyMode, Rule, Words};

/// How often an execution is taken up in this process before it is left to its reminder.
const ATTEMPTS_MAX: u32 = 6;
/// The pause before the second time, longer each time.
const PAUSE: Duration = Duration::from_millis(250);
/// The event by which a message reaches its user.
pub const NOTICE: &str = "automation.notice";
/// What a message is called among the steps.
const MESSAGE: &str = "message";

/// Carries an execution out, if this process has who can.
pub(crate) async fn perform(id: ExecutionId, context: EffectContext<Automations>) {
    let EffectContext { system, address, .. } = context;
    let Some(automator) = system.find_port::<Automator>() else { return };
    let Some(extensions) = system.find_port::<Extensions>() else { return };
    let mut closing = automator.closing.subscribe();
    let Some(_carrying) = automator.enter(id) else { return };
    tokio::select! {
        biased;
        _ = closing.wait_for(|closing| *closing) => {}
        () = to_end(&system, &address, (&automator, &extensions), id) => {}
    }
}

async fn to_end(
    system: &Arc<System>,
    address: &Address<Automations>,
    with: (&Automator, &Extensions),
    id: ExecutionId,
) {
    let all = system.directory::<Automations>();
    for attempt in 0..ATTEMPTS_MAX {
        tokio::time::sleep(PAUSE * attempt).await;
        let look = move |all: &Automations| {
            let execution = all.running(id)?.execution.clone();
            let rule = all.rule(execution.rule)?.clone();
            Some((execution, rule, all.tenant))
        };
        let (execution, rule, tenant) = match all.look(address, system.system_origin(), look).await
        {
            Ok(Some(found)) => found,
            Err(refusal) if refusal.class.may_pass() => continue,
            Ok(None) | Err(_) => return,
        };
        let carrier = Carrier { system, with, tenant, execution: &execution, rule: &rule };
        let end = match carrier.execute().await {
            Ok(end) => end,
            Err(refusal) => {
                tracing::debug!(%refusal, execution = %id, "an execution is carried on later");
                continue;
            }
        };
        let ended = all.ask(address, EndExecution { id, end }, carrier.origin()).await;
        if !ended.is_err_and(|refusal| refusal.class.may_pass()) {
            return;
        }
    }
    tracing::warn!(execution = %id, "an execution found no room; its reminder takes it up again");
}

/// What is carried out, and with whom.
struct Carrier<'a> {
    system: &'a Arc<System>,
    with: (&'a Automator, &'a Extensions),
    tenant: TenantId,
    execution: &'a Execution,
    rule: &'a Rule,
}

/// What a step has come to.
struct Done {
    outcome: StepOutcome,
    /// What further steps may name.
    result: Value,
}

impl Carrier<'_> {
    fn origin(&self) -> Origin {
        // As a service's that acts for a user: so it stands among that user's actions.
        let caller = format!("automation/{} for user/{}", self.rule.id, self.rule.user).into();
        Origin { caller, request: self.execution.id.0.into(), cause: None }
    }

    /// Carries the steps out. A refusal says that it is to be tried again.
    async fn execute(&self) -> Result<End, Refusal> {
        let restored = self.with.1.restored(self.rule.caller(self.tenant)).await;
        let caller = match restored {
            Ok(caller) => caller,
            Err(refusal) if refusal.class.may_pass() => return Err(refusal),
            Err(refusal) => {
                return Ok(End::because(Outcome::Failed, &refusal.code, Vec::new()));
            }
        };
        let keys = self.system.journal().keys();
        let words = Words::open(&self.rule.words, keys);
        if words.actions.is_empty() {
            return Ok(End::because(Outcome::Failed, "erased", Vec::new()));
        }
        let event = open_event(keys, &self.execution.event);
        let (mut steps, mut results) = (Vec::new(), Vec::new());
        for (place, step) in words.actions.iter().enumerate() {
            if self.left().is_zero() {
                return Ok(End::because(Outcome::TimedOut, TIME_EXCEEDED, steps));
            }
            let done = self.step((place, step), &caller, (&event, &results)).await?;
            let failed = done.outcome.code.clone();
            let note = done.outcome.note.clone();
            steps.push(done.outcome);
            results.push(Some(done.result));
            if let Some(code) = failed {
                let error = Some(Failure { code, note });
                return Ok(End { outcome: Outcome::Failed, steps, error });
            }
        }
        Ok(End { outcome: Outcome::Success, steps, error: None })
    }

    /// How much time is left, by the tenant's clock.
    fn left(&self) -> Duration {
        let now = self.system.now_in(home_of(self.tenant));
        Duration::from_millis(u64::try_from(self.execution.until.0 - now.0).unwrap_or(0))
    }

    async fn step(
        &self,
        (place, step): (usize, &ActionStep),
        caller: &Caller,
        (event, results): (&Value, &[Option<Value>]),
    ) -> Result<Done, Refusal> {
        let user = json!({"id": self.rule.user, "imperal_id": self.rule.user,
            "tenant_id": self.tenant});
        let tenant = json!({"id": self.tenant, "tenant_id": self.tenant});
        let bound = Bound { event, results, user: &user, tenant: &tenant };
        let ActionStep { message, app_id, tool, args } = step;
        if let Some(message) = message {
            return match fill(&Value::from(message.as_str()), bound) {
                Ok(text) => self.message(text).await,
                Err(why) => Ok(self.failed(None, MESSAGE, "message_invalid", &why)),
            };
        }
        let (app, tool) = (app_id.as_deref().unwrap_or_default(), tool.clone().unwrap_or_default());
        let Ok(id) = AppId::new(app) else {
            return Ok(self.failed(None, &tool, "not_found", "there is no such app"));
        };
        let given = args.clone().unwrap_or_else(|| json!({}));
        match fill(&given, bound) {
            Ok(params) => self.call(place, (id, tool, params), caller).await,
            Err(why) => Ok(self.failed(Some(id), &tool, "args_invalid", &why)),
        }
    }

    fn outcome(&self, app: Option<AppId>, tool: &str) -> StepOutcome {
        let tool = tool.to_owned();
        let (call, confirmation, charged, code, note) = (None, None, 0, None, None);
        StepOutcome { app, tool, call, confirmation, charged, code, note }
    }

    fn note(&self, note: &str) -> Option<types::Personal> {
        seal_note(self.system.journal().keys(), self.rule.user, note)
    }

    fn failed(&self, app: Option<AppId>, tool: &str, code: &str, why: &str) -> Done {
        let (code, note) = (Some(code.to_owned()), self.note(why));
        let outcome = StepOutcome { code, note, ..self.outcome(app, tool) };
        Done { outcome, result: Value::Null }
    }

    /// One call of a function.
    async fn call(
        &self,
        place: usize,
        (app, function, params): (AppId, String, Value),
        caller: &Caller,
    ) -> Result<Done, Refusal> {
        let run = run_of(self.execution.id, place);
        let key = format!("{}/{place}", self.execution.id);
        let request = || Request {
            caller: caller.clone(),
            tenant: self.tenant,
            user: Some(self.rule.user),
            app: app.to_string(),
            idempotency: Some(IdempotencyKey::new(self.tenant.0, "automations", "step", &key, b"")),
            origin: self.origin(),
        };
        let call = Call { function: function.clone(), params };
        let (automator, extensions) = self.with;
        let permit = automator.at_once.acquire().await.map_err(|_| Refusal::busy())?;
        let called = extensions.call_numbered(self.system, request(), call.clone(), run).await;
        drop(permit);
        let outcome = StepOutcome { call: Some(run), ..self.outcome(Some(app.clone()), &function) };
        match called {
            Ok(Operated::Answer(answer)) => {
                let known = answer.trace.as_ref().map(|it| it.item.price + it.item.fee);
                let charged = match known.filter(|_| answer.is_success()) {
                    Some(charged) => charged,
                    None if !answer.is_success() => 0,
                    // It was answered before, so what it cost is what such a call costs.
                    None => extensions.quote(self.system, &request(), &[call]).await?.total,
                };
                Ok(self.answered(outcome, *answer, charged))
            }
            Ok(Operated::Waits(card)) => self.wait(outcome, *card).await,
            Err(refusal) if refusal.class.may_pass() => Err(refusal),
            Err(refusal) => Ok(self.failed(Some(app), &function, &refusal.code, &refusal.message)),
        }
    }

    fn answered(&self, outcome: StepOutcome, answer: CallAnswer, charged: i64) -> Done {
        let code = (!answer.is_success())
            .then(|| answer.error_code.unwrap_or_else(|| "function_failed".to_owned()));
        let words = answer.error.or(answer.summary);
        let note = words.and_then(|words| self.note(&words));
        Done { outcome: StepOutcome { charged, code, note, ..outcome }, result: answer.data }
    }

    /// Waits until somebody has decided about a call, and it was carried out.
    async fn wait(&self, outcome: StepOutcome, card: Card) -> Result<Done, Refusal> {
        let id = card.opened.id;
        let (cards, address) =
            (self.system.directory::<Confirmation>(), Confirmation::address(id, self.tenant));
        let outcome = StepOutcome { call: None, confirmation: Some(id), ..outcome };
        let decided = cards.wait(&address, self.origin());
        let (code, why) = match tokio::time::timeout(self.left(), decided).await {
            Err(_) => ("confirmation_pending", "nobody has decided in time"),
            Ok(Err(refusal)) if refusal.class == Class::Gone => ("erased", "it was erased"),
            Ok(Err(refusal)) => return Err(refusal),
            Ok(Ok(card)) => match card.state {
                State::Executed | State::Failed => {
                    let answer = answer_of(self.system, &card);
                    let charged = if answer.is_success() { card.opened.subject.price } else { 0 };
                    let outcome = StepOutcome { call: Some(card.opened.run), ..outcome };
                    return Ok(self.answered(outcome, answer, charged));
                }
                State::Cancelled | State::Rejected => ("confirmation_declined", "it was refused"),
                State::Voided => ("confirmation_void", "it was no longer what was asked for"),
                _ => ("confirmation_expired", "nobody has confirmed it in time"),
            },
        };
        let (code, note) = (Some(code.to_owned()), self.note(why));
        Ok(Done { outcome: StepOutcome { code, note, ..outcome }, result: Value::Null })
    }

    /// A message: completed if there is a model, and told.
    async fn message(&self, text: Value) -> Result<Done, Refusal> {
        let (automator, extensions) = self.with;
        let prompt = match text {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let model = extensions.outside().and_then(|outside| outside.completions.as_ref());
        let text = match model {
            None => prompt,
            Some(model) => {
                let app = AppId::new(APP).map_err(|_| Refusal::crashed())?;
                let ends = Instant::now() + COMPLETION_TIME_MAX.min(self.left());
                let (model_named, temperature, tokens_max) = (None, None, None);
                let before = Vec::new();
                let prompt = Prompt { prompt, model: model_named, temperature, tokens_max, before };
                let permit = automator.at_once.acquire().await.map_err(|_| Refusal::busy())?;
                let completed = model.complete(&app, prompt, ends).await;
                drop(permit);
                match completed {
                    Ok(completion) => completion.text,
                    Err(reason) => {
                        return Ok(self.failed(None, MESSAGE, &reason.code, &reason.message));
                    }
                }
            }
        };
        if self.rule.notify != NotifyMode::Off {
            let data = json!({"rule_id": self.rule.id, "execution_id": self.execution.id,
                "text": text});
            let telling = Telling::new(NOTICE, Audience::User(self.rule.user), data);
            let now = self.system.clock().now();
            automator.feed.publish(self.tenant, telling.of_family("automations:read"), now);
        }
        let outcome = StepOutcome { note: self.note(&text), ..self.outcome(None, MESSAGE) };
        Ok(Done { outcome, result: json!({"text": text}) })
    }
}
