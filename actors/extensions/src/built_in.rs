//! Apps that are part of the server: called like any other, carried out by the crate that owns
//! them. They cost nothing; what they change is their own entities' business, and the call itself
//! is recorded like every call.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use serde_json::Value;
use supervision::{Origin, Refusal, System};
use types::{CallId, Caller, TenantId, UserId};

use crate::answer::{CallAnswer, Shape};
use crate::execute::ran_item;
use crate::flights::Flight;
use crate::ir::ActionType;
use crate::runtime::{Call, Request};
use crate::session::{Action, RanItem};

/// One call of a function that is built in.
pub struct BuiltInCall<'a> {
    /// The system.
    pub system: &'a Arc<System>,
    /// Who calls.
    pub caller: &'a Caller,
    /// In which tenant.
    pub tenant: TenantId,
    /// For which user.
    pub user: Option<UserId>,
    /// As part of what.
    pub origin: &'a Origin,
    /// The function.
    pub function: &'a str,
    /// Its params.
    pub params: &'a Value,
    /// The call: for what a person has confirmed the same each time it is carried out again.
    pub id: CallId,
}

/// An app that is built in.
pub trait BuiltIn: Send + Sync + 'static {
    /// The app's id.
    fn id(&self) -> &'static str;

    /// What a function may change; `None` when there is no such function.
    fn action_type(&self, function: &str) -> Option<ActionType>;

    /// Whether a function waits until its user has released it on this server's own page, whoever
    /// calls and whatever they have set: what moves real money.
    fn needs_panel(&self, _function: &str) -> bool {
        false
    }

    /// Carries a call out. Repeating it must do no harm. What is wrong with the call is an answer;
    /// a refusal is for what is wrong with the server (no room, outcome unknown).
    fn call<'a>(&'a self, call: BuiltInCall<'a>) -> BoxFuture<'a, Result<CallAnswer, Refusal>>;
}

/// Carries the calls out, one after the other. A refusal ends a single call; in a batch it is the
/// answer to the call it was met by.
pub(crate) async fn carry_out(
    system: &Arc<System>,
    app: &dyn BuiltIn,
    request: &Request,
    calls: &[Call],
    shape: Shape,
    flight: &Flight,
) -> Result<(Vec<RanItem>, Vec<CallAnswer>), Refusal> {
    let (mut items, mut answers) = (Vec::new(), Vec::new());
    for (index, call) in calls.iter().enumerate() {
        let started = Instant::now();
        let called = BuiltInCall {
            system,
            caller: &request.caller,
            tenant: request.tenant,
            user: request.user,
            origin: &request.origin,
            function: &call.function,
            params: &call.params,
            id: flight.id(),
        };
        let action = app.action_type(&call.function);
        let outcome = match action {
            Some(_) => match flight.check() {
                Ok(()) => app.call(called).await,
                Err(stopped) => Err(stopped),
            },
            None => {
                let message = format!("{} has no function {:?}", app.id(), call.function);
                Ok(CallAnswer::error("function_not_found", message))
            }
        };
        let answer = match (outcome, shape) {
            (Ok(answer), _) => answer,
            (Err(refusal), Shape::Single | Shape::Delivery) => return Err(refusal),
            (Err(refusal), Shape::List) => CallAnswer::error(&refusal.code, refusal.message),
        };
        let action = action.map_or(Action::Read, Into::into);
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        items.push(ran_item(index, call, action, &answer, [0, 0], started.elapsed()));
        answers.push(answer);
    }
    Ok((items, answers))
}
