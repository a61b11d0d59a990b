//! What extensions have to do when a person or a tenant is erased: what runs for them is stopped,
//! and their tasks have ended, while there is a key to say so under.
//!
//! The params and answers of a person's tasks go with the person's own key, wherever they ran; a
//! tenant's tasks go with the tenant's.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use identity::erasure::{Farewell, Subject};
use supervision::{Origin, Refusal, System};

use crate::flights::{Flying, Stopped};
use crate::runtime::Extensions;

/// How long what is stopped may take to end.
const STOP_WAIT_MAX: Duration = Duration::from_secs(3);

/// Extensions' part.
pub struct ExtensionsFarewell {
    extensions: Arc<Extensions>,
}

impl ExtensionsFarewell {
    /// With what is under way.
    pub fn new(extensions: Arc<Extensions>) -> Arc<Self> {
        Arc::new(Self { extensions })
    }
}

impl Farewell for ExtensionsFarewell {
    fn part<'a>(
        &'a self,
        _: &'a Arc<System>,
        subject: Subject,
        _: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            let meant = move |flying: &Flying| match subject {
                Subject::User(user) => flying.user == Some(user),
                Subject::Tenant(tenant) => flying.tenant == tenant,
            };
            let why = Refusal::erased();
            let stopped = self.extensions.flights().stop(meant, &why, STOP_WAIT_MAX).await;
            let is_left = stopped.iter().any(|(_, became)| *became == Stopped::StillRunning);
            if is_left { Err(Refusal::busy()) } else { Ok(()) }
        }
        .boxed()
    }
}
