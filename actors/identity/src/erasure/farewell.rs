//! What the crates to the right have to do when somebody or something is erased.

use std::sync::Arc;

use futures::future::BoxFuture;
use persistence::KeyId;
use supervision::{Origin, Refusal, System};

use super::Subject;
use crate::mail::Recipients;

/// A part in every erasure.
pub trait Farewell: Send + Sync + 'static {
    /// Ends what the subject has, while its records can still be read. May be asked again.
    fn part<'a>(
        &'a self,
        _system: &'a Arc<System>,
        _subject: Subject,
        _origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Keys beside a person's own under which their address stands, as `is_theirs` tells it.
    /// Blocks.
    fn keys(&self, _system: &System, _is_theirs: &Recipients) -> Result<Vec<KeyId>, Refusal> {
        Ok(Vec::new())
    }

    /// Forgets what is remembered of it, now that its records cannot be read any more.
    fn forget(&self, _subject: Subject) {}
}

/// All who have a part. A port; nobody by default.
#[derive(Clone, Default)]
pub struct Farewells(Vec<Arc<dyn Farewell>>);

impl Farewells {
    /// These, in this order.
    pub fn new(all: Vec<Arc<dyn Farewell>>) -> Self {
        Self(all)
    }

    pub(super) async fn part(
        &self,
        system: &Arc<System>,
        subject: Subject,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        for farewell in &self.0 {
            farewell.part(system, subject, origin).await?;
        }
        Ok(())
    }

    pub(super) fn keys(
        &self,
        system: &System,
        is_theirs: &Recipients,
    ) -> Result<Vec<KeyId>, Refusal> {
        let mut keys = Vec::new();
        for farewell in &self.0 {
            keys.extend(farewell.keys(system, is_theirs)?);
        }
        Ok(keys)
    }

    pub(super) fn forget(&self, subject: Subject) {
        self.0.iter().for_each(|farewell| farewell.forget(subject));
    }
}
