//! Whether a user still agrees to what an app asks for: told by a port, because who has agreed to
//! what is known to a crate to the right.
//!
//! Deliberate limit: calls that no user makes are asked about by nobody.

use std::sync::Arc;

use futures::future::BoxFuture;
use supervision::{Origin, Refusal, System};
use types::{TenantId, UserId};

use crate::catalogue::CompiledApp;
use crate::runtime::Request;

/// Who knows what users have agreed to.
pub trait Consent: Send + Sync + 'static {
    /// Refuses the call of a user who has switched the app off, or who agreed to less than it asks
    /// for now.
    fn check<'a>(
        &'a self,
        system: &'a Arc<System>,
        who: (TenantId, UserId),
        app: &'a Arc<CompiledApp>,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>>;
}

/// The port. Without it everybody agrees.
pub struct Consenting(pub Arc<dyn Consent>);

/// Asks the port, if there is one.
pub(crate) async fn check(
    system: &Arc<System>,
    request: &Request,
    app: &Arc<CompiledApp>,
) -> Result<(), Refusal> {
    let (Some(port), Some(user)) = (system.find_port::<Consenting>(), request.user) else {
        return Ok(());
    };
    port.0.check(system, (request.tenant, user), app, &request.origin).await
}
