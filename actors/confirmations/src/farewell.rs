//! What confirmations have to do when a person is erased: what waits for them ends, in every
//! tenant, and what was held for it is given back. What they asked with, and what they were
//! answered, is sealed under their own key and goes with it. A tenant's cards go with the tenant's
//! key, and its wallet with them.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use identity::erasure::{Farewell, Subject};
use supervision::{Origin, Refusal, System};

use crate::desk;

/// The part of confirmations.
pub struct ConfirmationsFarewell;

impl Farewell for ConfirmationsFarewell {
    fn part<'a>(
        &'a self,
        system: &'a Arc<System>,
        subject: Subject,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            let Subject::User(user) = subject else { return Ok(()) };
            desk::void_open(system, None, |row| row.user == user, "erased", origin).await?;
            Ok(())
        }
        .boxed()
    }
}
