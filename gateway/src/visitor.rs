//! Two further sorts of callers: whoever looks at the marketplace, with a credential or without,
//! and whoever keeps it: the service token, or an operator.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use market::marketplace::Viewer;
use supervision::{Origin, RequestRef};

use crate::app::App;
use crate::authenticate::{Anyone, Entered, Operator, Service, Someone};
use crate::problem::Problem;

/// What a credential stands in.
const CREDENTIALS: [&str; 4] = ["authorization", "x-service-token", "x-api-key", "x-agent-secret"];

/// Somebody who looks: a credential that is there must hold; without one they are counted by
/// address.
pub struct Visitor {
    /// Who, if they said so.
    pub entered: Option<Entered>,
    request: RequestRef,
}

impl Visitor {
    /// The user in their tenant, if it is one.
    pub fn viewer(&self) -> Viewer {
        let caller = &self.entered.as_ref()?.caller;
        caller.user.map(|user| (caller.tenant, user))
    }

    /// As records would show who asks.
    pub fn origin(&self, app: &App) -> Origin {
        match &self.entered {
            Some(entered) => app.origin(&entered.caller, entered.request),
            None => Origin { request: self.request, ..app.system.system_origin() },
        }
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if CREDENTIALS.iter().any(|name| parts.headers.contains_key(*name)) {
            // A service need not name a tenant to look.
            let Someone(entered) = Someone::from_request_parts(parts, app).await?;
            let request = entered.request;
            return Ok(Self { entered: Some(entered), request });
        }
        let anyone = Anyone::from_request_parts(parts, app).await?;
        Ok(Self { entered: None, request: anyone.request })
    }
}

/// Whoever keeps the marketplace: the service token, or an operator's credential.
pub struct Steward(pub Entered);

impl FromRequestParts<App> for Steward {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if parts.headers.contains_key("x-service-token") {
            let Service(entered) = Service::from_request_parts(parts, app).await?;
            return Ok(Self(entered));
        }
        let Operator(entered) = Operator::from_request_parts(parts, app).await?;
        Ok(Self(entered))
    }
}
