//! Over which port a confirmed card is carried out: each kind of card has an executor, which knows
//! what its bytes mean. A port of the system, put in at the start.

use std::sync::Arc;

use futures::future::BoxFuture;
use supervision::{Origin, Refusal, System};
use types::{CallId, ConfirmationId, JsonBytes, TenantId, UserId};

use crate::confirmation::{Fact, Held};

/// What is to be carried out.
#[derive(Clone, Debug)]
pub struct Order {
    /// The card: the same each time it is asked for again.
    pub id: ConfirmationId,
    /// In which tenant.
    pub tenant: TenantId,
    /// For which user.
    pub user: UserId,
    /// Under which id it runs: once, however often it is asked for.
    pub run: CallId,
    /// The kind of the card.
    pub kind: String,
    /// What it was confirmed under.
    pub facts: Vec<Fact>,
    /// What the executor put by.
    pub data: JsonBytes,
    /// The bytes that were confirmed; `None` once the user was erased.
    pub content: Option<String>,
    /// The money that waits for it.
    pub held: Option<Held>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// It is over, whether it did what was asked or not.
    Done {
        /// Whether it did.
        succeeded: bool,
        /// Why not, a stable code.
        error_code: Option<String>,
        /// What is answered, JSON.
        answer: String,
        /// Whether somebody else ends what was held.
        settles: bool,
    },
    /// It was not begun, because it is no longer what was confirmed.
    Changed(Vec<Changed>),
}

/// A fact that is another now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Changed {
    /// Which.
    pub name: String,
    /// What it was when the card was opened.
    pub was: String,
    /// What it is now.
    pub is: String,
}

/// What differs between two lists of facts with the same names.
pub fn changed(was: &[Fact], is: &[Fact]) -> Vec<Changed> {
    let value = |facts: &[Fact], name: &str| {
        let fact = facts.iter().find(|fact| fact.name == name);
        fact.map(|fact| fact.value.clone()).unwrap_or_default()
    };
    let names = was.iter().chain(is.iter().filter(|it| was.iter().all(|was| was.name != it.name)));
    let names = names.map(|fact| fact.name.clone());
    let differs = names.filter(|name| value(was, name) != value(is, name));
    differs.map(|name| Changed { was: value(was, &name), is: value(is, &name), name }).collect()
}

/// Carries out the cards of one kind.
pub trait Executor: Send + Sync + 'static {
    /// The kind.
    fn kind(&self) -> &'static str;

    /// Carries an order out, once: asked for again with the same id it answers what came of it the
    /// first time. Refused with what may pass, it is asked for again later; any other refusal says
    /// that nothing was done and ends the card.
    fn execute<'a>(
        &'a self,
        system: &'a Arc<System>,
        order: Order,
        origin: Origin,
    ) -> BoxFuture<'a, Result<Execution, Refusal>>;
}

/// The executors of all kinds. A port.
pub struct Executors(Vec<Arc<dyn Executor>>);

impl Executors {
    /// These.
    pub fn new(executors: Vec<Arc<dyn Executor>>) -> Arc<Self> {
        Arc::new(Self(executors))
    }

    /// Has an order carried out by the executor of its kind.
    pub(crate) async fn execute(
        &self,
        system: &Arc<System>,
        order: Order,
        origin: Origin,
    ) -> Result<Execution, Refusal> {
        let executor = self.0.iter().find(|executor| executor.kind() == order.kind);
        match executor {
            Some(executor) => executor.execute(system, order, origin).await,
            None => {
                let message = format!("this server carries out nothing of the kind {}", order.kind);
                Err(Refusal::conflict("not_available", message))
            }
        }
    }
}
