//! What has become of copies: which count, and which are still there when what they are a copy of
//! is frozen or erased.
//!
//! Invariants
//! - A copy counts by what exists: one that no process makes any more, and that is not there, does
//!   not count, whatever was announced of it.
//! - While a tenant is frozen so are its copies, after a restart as well.
//! - A tenant that is erased takes its copies with it, those that are switched off or could not be
//!   made whole too. One that is being made is waited for.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use identity::erasure::{Farewell, Subject};
use identity::tenant::Tenant;
use persistence::KeyId;
use supervision::address::TENANT_KEY_CLASS;
use supervision::{Entity as _, Origin, Refusal, System};
use types::{TenantId, home_of};

use crate::carry::blocking;
use crate::export::tenant_state;
use crate::problems;
use crate::sandbox::{Sandbox, Sandboxes};
use crate::service::Portability;
use crate::tenant_import::TenantImport;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing of it is there, and nobody is making it.
    Absent,
    /// It is being made.
    Coming,
    /// It is there.
    Made {
        /// Whether it is switched on.
        is_active: bool,
    },
    /// It could not be made; records of it may be there.
    Failed,
    /// It was erased.
    Erased,
}

impl Stage {
    /// Whether it counts no more.
    pub(crate) fn is_over(self) -> bool {
        !matches!(self, Self::Coming | Self::Made { is_active: true })
    }
}

impl Portability {
    /// How far a copy has come. Blocks.
    pub(crate) fn stage(&self, system: &System, copy: TenantId) -> Result<Stage, Refusal> {
        if self.is_running(copy.0) {
            return Ok(Stage::Coming);
        }
        // The first record of a copy is the first of its import's.
        let first = system.journal().read_chain(home_of(copy), 1, false, 1);
        let first = first.map_err(|error| problems::failed("reading a chain", &error))?;
        let Some(first) = first.into_iter().next() else { return Ok(Stage::Absent) };
        let id = first.header.stream.as_str().split_once('/').map_or("", |(_, id)| id);
        let place = system.locate(TenantImport::KIND, id);
        let missing = || problems::failed("reading a copy", &"it has no import");
        let import = system.directory::<TenantImport>().replay(&place.ok_or_else(missing)?);
        match import.map(|import| (import.is_pending(), import.has_failed())) {
            Ok((true, _)) => Ok(Stage::Coming),
            Ok((false, true)) => Ok(Stage::Failed),
            Ok((false, false)) => {
                Ok(Stage::Made { is_active: Tenant::is_active(&tenant_state(system, copy)?) })
            }
            Err(refusal) if refusal.is_erased() => Ok(Stage::Erased),
            Err(refusal) => Err(refusal),
        }
    }

    /// Those of these that count no more. Blocks.
    pub(crate) fn over(&self, system: &System, known: Vec<TenantId>) -> Vec<TenantId> {
        // What cannot be read counts.
        let is_over = |copy: &TenantId| self.stage(system, *copy).is_ok_and(Stage::is_over);
        known.into_iter().filter(is_over).collect()
    }

    /// From now on a copy is frozen while what it is a copy of is: before anybody is told of it.
    pub(crate) fn bind(&self, system: &System, copy: TenantId, of: TenantId) {
        let frozen = self.identity.frozen();
        frozen.note_copy(copy, of);
        if frozen.class_of_tenant(copy).is_some() {
            system.reminders().pause(home_of(copy));
        }
    }

    /// Takes in what is a copy of what: before what is frozen is. Says how many copies there are.
    pub fn load(&self, system: &System) -> Result<usize, Refusal> {
        let (mut after, mut count) = (None, 0);
        loop {
            let next = system.journal().next_stream(Sandbox::KIND, after.as_ref());
            let next = next.map_err(|error| problems::failed("the list of sandboxes", &error))?;
            let Some(stream) = next else { return Ok(count) };
            let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
            let place = system.locate(Sandbox::KIND, id);
            // One that was erased is entered by nobody.
            let sandbox = place.and_then(|it| system.directory::<Sandbox>().replay(&it).ok());
            if let Some((copy, of)) = sandbox.and_then(|sandbox| sandbox.copy_of()) {
                self.bind(system, copy, of);
                count += 1;
            }
            after = Some(stream);
        }
    }
}

/// Portability's part in erasures: see the module's head.
pub struct PortabilityFarewell {
    portability: Arc<Portability>,
}

impl PortabilityFarewell {
    /// With what is being made here.
    pub fn new(portability: Arc<Portability>) -> Arc<Self> {
        Arc::new(Self { portability })
    }

    async fn erase_copies(
        &self,
        system: &Arc<System>,
        of: TenantId,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let (sandboxes, address) = (system.directory::<Sandboxes>(), Sandboxes::address(of));
        let known = sandboxes.look(&address, origin.clone(), Sandboxes::ever).await?;
        for copy in known {
            let (portability, reading) = (self.portability.clone(), system.clone());
            match blocking(move || portability.stage(&reading, copy)).await? {
                Stage::Absent | Stage::Erased => {}
                // Its end comes by itself, and then this is asked again.
                Stage::Coming => return Err(Refusal::busy()),
                Stage::Failed => shred(system, copy).await?,
                Stage::Made { .. } => {
                    let reason = format!("it is a sandbox of {of}, which is erased");
                    let identity = &self.portability.identity;
                    // A sandbox has none itself, so this waits for nothing that waits for it.
                    identity.erase_tenant(copy, reason, origin.clone()).await?;
                }
            }
        }
        Ok(())
    }
}

/// Ends what is left of a copy that never came to be a tenant.
async fn shred(system: &Arc<System>, copy: TenantId) -> Result<(), Refusal> {
    let key = KeyId { class: TENANT_KEY_CLASS, id: copy.0 };
    // Once more after what was live has ended: until then it may seal something.
    for _ in 0..2 {
        let ring = system.journal().keys().clone();
        let erased = move || {
            let erased = ring.erase_all(&[key]);
            erased.map_err(|error| problems::failed("erasing a sandbox's key", &error))
        };
        blocking(erased).await?;
        system.forget([key].into()).await;
        system.settle().await;
    }
    let cleaning = system.clone();
    let cleaned = move || {
        let cleaned = cleaning.clean_erased();
        cleaned.map_err(|error| problems::failed("cleaning rows", &error))
    };
    blocking(cleaned).await.map(drop)
}

impl Farewell for PortabilityFarewell {
    fn part<'a>(
        &'a self,
        system: &'a Arc<System>,
        subject: Subject,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        match subject {
            Subject::Tenant(tenant) => self.erase_copies(system, tenant, origin).boxed(),
            Subject::User(_) => std::future::ready(Ok(())).boxed(),
        }
    }
}
