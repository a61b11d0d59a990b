//! Calls that the server makes for a user who is not there, under a number that was known before:
//! whoever begins one again after a crash finds what came of it, and never has it act twice.
//!
//! Such a call has the rights that its user has now, and goes the way of every call: price,
//! limits, what waits for a person, records.
//!
//! Deliberate limit: what is known of a run is forgotten after a day, like every outcome.

use std::sync::Arc;

use supervision::{Class, Entity as _, Refusal, System};
use types::{AppId, CallId, Caller};

use crate::answer::CallAnswer;
use crate::guard::{Leave, Operated, operated};
use crate::hosts::OUTCOME_UNKNOWN;
use crate::outside::Nesting;
use crate::runtime::{Begun, Call, Extensions, Request, begin, scope_of};
use crate::session::{ExtensionSession, Fate, LoseRun};

impl Extensions {
    /// A caller from before with the rights that are left of theirs; as they are where nobody
    /// guards. Refused when they may do nothing here any more.
    pub async fn restored(&self, caller: Caller) -> Result<Caller, Refusal> {
        match self.guard() {
            Some(guard) => guard.restore(caller).await,
            None => Ok(caller),
        }
    }

    /// Calls one function as the run `run`, which nobody else has; the request has a key that
    /// goes with the number. Begun again, it answers what came of it before. Refused as
    /// [`Extensions::call`], and with 409 `outcome_unknown` when it may have acted outside before
    /// the server ended.
    pub async fn call_numbered(
        &self,
        system: &Arc<System>,
        request: Request,
        call: Call,
        run: CallId,
    ) -> Result<Operated, Refusal> {
        let whose = (request.tenant, request.user, request.origin.clone());
        let function = call.function.clone();
        let answer = match self.known_outcome(system, &request, run).await? {
            Some(answer) => answer,
            None => {
                let nesting = Nesting { leave: Leave::Numbered(run), ..Nesting::root() };
                self.call_nested(system, request, call, nesting).await?
            }
        };
        Ok(operated(system, whose, answer, &function).await)
    }

    /// What came of a run that was begun before.
    async fn known_outcome(
        &self,
        system: &Arc<System>,
        request: &Request,
        run: CallId,
    ) -> Result<Option<CallAnswer>, Refusal> {
        let Ok(app) = AppId::new(&request.app) else { return Ok(None) };
        let address = scope_of(request, app).address();
        if system.locate(ExtensionSession::KIND, address.id()).is_none() {
            return Ok(None);
        }
        // The key first: a task that was begun has the same number, and runs on by itself.
        if let Begun::Recorded(answers) =
            begin(system, &address, request.idempotency.as_ref()).await?
        {
            return Ok(answers.into_iter().next());
        }
        let (sessions, origin) = (system.directory::<ExtensionSession>(), request.origin.clone());
        let fate = sessions.look(&address, origin.clone(), move |it| it.fate(run)).await?;
        if fate == Fate::Unknown {
            return Ok(None);
        }
        sessions.ask(&address, LoseRun { id: run }, origin).await?;
        let message = "the server ended while this acted outside: what came of it is not known";
        Err(Refusal::new(Class::Conflict, OUTCOME_UNKNOWN, message))
    }
}
