//! What every handler has at hand.

use std::sync::Arc;
use std::time::Instant;

use activity::Activity;
use agents::Agents;
use extensions::Extensions;
use identity::Identity;
use market::{Freezer, Market};
use portability::Portability;
use supervision::reminders::Recovered;
use supervision::supervisor::Board;
use supervision::{Origin, RequestRef, System};
use tokio::sync::watch;
use types::{Caller, UserId};

use crate::admission::Admission;
use crate::authenticate::{MetricsFor, ServiceToken};
use crate::metrics::Metrics;
use crate::webhook_limits::WebhookLimits;

/// The server's parts. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    /// The actors.
    pub system: Arc<System>,
    /// Who is who.
    pub identity: Arc<Identity>,
    /// Agents and their tokens.
    pub agents: Arc<Agents>,
    /// Extension calls.
    pub extensions: Arc<Extensions>,
    /// Developers and their apps.
    pub market: Arc<Market>,
    /// Tenants that move.
    pub portability: Arc<Portability>,
    /// Freezing tenants, users and apps.
    pub freezer: Arc<Freezer>,
    /// The action chain's views.
    pub activity: Arc<Activity>,
    /// The token that services show.
    pub service_token: ServiceToken,
    /// Who sees the figures without a credential.
    pub metrics_for: MetricsFor,
    /// Rates and places.
    pub admission: Admission,
    /// How often apps are called from outside.
    pub webhook_limits: WebhookLimits,
    /// The figures.
    pub metrics: Metrics,
    /// The system's own actors.
    pub board: Board,
    /// What the start found waiting.
    pub recovered: Recovered,
    /// When the server started.
    pub started: Instant,
    /// Turns true when the server stops taking work: whatever streams then ends.
    pub stopping: watch::Receiver<bool>,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// The application of these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// What records say of a command that this caller's request asks for.
    pub fn origin(&self, caller: &Caller, request: RequestRef) -> Origin {
        Origin { caller: caller.label(), request, cause: None }
    }

    /// A new user's id.
    pub fn new_user(&self) -> UserId {
        UserId(self.system.new_id())
    }
}
