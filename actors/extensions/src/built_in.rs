//! Apps that are part of the server: called like any other, carried out by the crate that owns
//! them. They cost nothing; what they change is their own entities' business, and the call itself
//! is recorded like every call.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use supervision::{Origin, Refusal, System};
use types::{Caller, TenantId, UserId};

use crate::answer::CallAnswer;
use crate::ir::ActionType;

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
}

/// An app that is built in.
pub trait BuiltIn: Send + Sync + 'static {
    /// The app's id.
    fn id(&self) -> &'static str;

    /// What a function may change; `None` when there is no such function.
    fn action_type(&self, function: &str) -> Option<ActionType>;

    /// Carries a call out. Repeating it must do no harm. What is wrong with the call is an answer;
    /// a refusal is for what is wrong with the server (no room, outcome unknown).
    fn call<'a>(&'a self, call: BuiltInCall<'a>) -> BoxFuture<'a, Result<CallAnswer, Refusal>>;
}
