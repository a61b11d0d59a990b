//! What a model was asked for by an app's runtime: that it was, and what it used. Not what was
//! asked and answered.
//!
//! Invariants
//! - That something is asked for is durable before it leaves.
//! - Every question ends: answered, failed, or unknown once [`LOST_MS`] have passed.
//!
//! Deliberate limits: what was used is recorded and not charged, as with the `ai.complete` of a
//! step.

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Class, Command, Entity, Handle, NoEffect, OwnerKey, Refusal, Timestamp, Turn,
};
use types::{AppId, TenantId, UserId, base32, home_of, owner_of_tenant, owner_of_user};

/// When a question is given up of which nothing was heard, in milliseconds.
pub const LOST_MS: i64 = 5 * 60 * 1_000;
/// Bytes of a model's name and of a failure's code; what is longer is cut.
pub const NAME_BYTES_MAX: usize = 128;
/// The code of what was lost.
const UNKNOWN: &str = "outcome_unknown";

/// One question to a model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AiCompletion {
    asked: Option<(ModelAsked, Timestamp)>,
    end: Option<End>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum End {
    Answered(ModelAnswered),
    Failed(ModelFailed),
}

/// A model is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelAsked {
    /// By which app.
    pub app: AppId,
    /// For whom.
    pub user: Option<UserId>,
}

/// It answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswered {
    /// By which app it was asked.
    pub app: AppId,
    /// Which model.
    pub model: String,
    /// Tokens that it read.
    pub prompt_tokens: u64,
    /// Tokens that it wrote.
    pub completion_tokens: u64,
}

/// It did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFailed {
    /// By which app it was asked.
    pub app: AppId,
    /// Why.
    pub code: String,
}

supervision::events! {
    /// What happens to a question.
    pub enum AiCompletionEvent {
        /// It is asked.
        Asked(ModelAsked) = "model_asked", 1;
        /// It was answered.
        Answered(ModelAnswered) = "model_answered", 1;
        /// It was not.
        Failed(ModelFailed) = "model_failed", 1;
    }
}

impl AiCompletion {
    /// Where a question lives.
    pub fn address(id: u128, tenant: TenantId, user: Option<UserId>) -> Address<Self> {
        let owner: OwnerKey = user.map_or_else(|| owner_of_tenant(tenant), owner_of_user);
        crate::address(&base32(id), owner, home_of(tenant))
    }

    fn app(&self) -> Result<AppId, Refusal> {
        let open = self.asked.as_ref().filter(|_| self.end.is_none());
        let over = || Refusal::conflict("completion_ended", "this question has ended");
        open.map(|(asked, _)| asked.app.clone()).ok_or_else(over)
    }
}

impl Entity for AiCompletion {
    const KIND: &'static str = "ai_completion";
    type Event = AiCompletionEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &AiCompletionEvent, at: Timestamp) {
        match event {
            AiCompletionEvent::Asked(asked) => {
                (self.asked, self.end) = (Some((asked.clone(), at)), None);
            }
            AiCompletionEvent::Answered(it) => self.end = Some(End::Answered(it.clone())),
            AiCompletionEvent::Failed(it) => self.end = Some(End::Failed(it.clone())),
        }
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let asked = self.asked.as_ref().filter(|_| self.end.is_none());
        asked.map(|(_, at)| at.plus_ms(LOST_MS))
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let is_late = turn.state().next_deadline().is_some_and(|at| at <= turn.now());
        if let (true, Ok(app)) = (is_late, turn.state().app()) {
            turn.record(AiCompletionEvent::Failed(ModelFailed { app, code: UNKNOWN.to_owned() }));
        }
    }

    fn observe(&self) -> serde_json::Value {
        let app = self.asked.as_ref().map(|(asked, _)| &asked.app);
        match &self.end {
            None => json!({"app": app, "is_over": false}),
            Some(End::Answered(it)) => json!({"app": app, "model": it.model,
                "prompt_tokens": it.prompt_tokens, "completion_tokens": it.completion_tokens}),
            Some(End::Failed(it)) => json!({"app": app, "failed": it.code}),
        }
    }
}

/// A model is about to be asked. One that was not answered may be asked again.
#[derive(Clone, Debug)]
pub struct AskModel(pub ModelAsked);

impl Command for AskModel {
    const NAME: &'static str = "ask_model";
}

impl Handle<AskModel> for AiCompletion {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, AskModel(asked): AskModel) -> Result<(), Refusal> {
        if matches!(turn.state().end, Some(End::Answered(_))) {
            let message = "this was asked with the same key and answered to another request";
            return Err(Refusal::new(Class::Conflict, "completion_ended", message));
        }
        turn.record(AiCompletionEvent::Asked(asked));
        Ok(())
    }
}

/// The model answered.
#[derive(Clone, Debug)]
pub struct NoteAnswer {
    /// Which model.
    pub model: String,
    /// Tokens that it read.
    pub prompt_tokens: u64,
    /// Tokens that it wrote.
    pub completion_tokens: u64,
}

impl Command for NoteAnswer {
    const NAME: &'static str = "complete";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteAnswer> for AiCompletion {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NoteAnswer) -> Result<(), Refusal> {
        let app = turn.state().app()?;
        let NoteAnswer { model, prompt_tokens, completion_tokens } = command;
        let model = shortened(model);
        let answered = ModelAnswered { app, model, prompt_tokens, completion_tokens };
        turn.record(AiCompletionEvent::Answered(answered));
        Ok(())
    }
}

/// The model did not answer.
#[derive(Clone, Debug)]
pub struct NoteFailure {
    /// Why, a code.
    pub code: String,
}

impl Command for NoteFailure {
    const NAME: &'static str = "note_failure";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteFailure> for AiCompletion {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NoteFailure) -> Result<(), Refusal> {
        let app = turn.state().app()?;
        let code = shortened(command.code);
        turn.record(AiCompletionEvent::Failed(ModelFailed { app, code }));
        Ok(())
    }
}

fn shortened(mut name: String) -> String {
    let end = (0..=NAME_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name.truncate(end.unwrap_or(0));
    name
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn asked() -> Given<AiCompletion> {
        let asked = ModelAsked { app: AppId::new("shelf").unwrap(), user: Some(UserId(8)) };
        Given::<AiCompletion>::nothing().when(AskModel(asked)).then()
    }

    fn answer() -> NoteAnswer {
        NoteAnswer { model: "é".repeat(100), prompt_tokens: 5, completion_tokens: 2 }
    }

    #[test]
    fn a_question_ends_once() {
        let then = asked().when(answer());
        let AiCompletionEvent::Answered(answered) = &then.events[0] else { panic!("no answer") };
        assert_eq!(answered.model, "é".repeat(64));
        let (code, given) = then.then().when(answer()).refused();
        assert_eq!(code, "completion_ended");
        assert!(given.later_ms(LOST_MS).when_due().events.is_empty());
    }

    #[test]
    fn what_nothing_is_heard_of_is_unknown_and_may_be_asked_again() {
        let then = asked().later_ms(LOST_MS).when_due();
        let AiCompletionEvent::Failed(failed) = &then.events[0] else { panic!("not lost") };
        assert_eq!(failed.code, UNKNOWN);
        let again = ModelAsked { app: AppId::new("shelf").unwrap(), user: None };
        let given = then.then().when(AskModel(again)).then();
        assert_eq!(given.when(answer()).events.len(), 1);
    }
}
