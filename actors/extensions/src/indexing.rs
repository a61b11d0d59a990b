//! Building the indexes that apps declare, behind the calls that use them.
//!
//! A session is looked after when the first run of a version of its app is applied in it: the
//! indexes that the version declares are begun, built over what is there, and those of older
//! versions swept. Until one is ready, all documents of the kind are looked at. Work that the
//! server's end cut off goes on from where it stood, with the session's next run.
//!
//! Limits: [`SESSIONS_AT_ONCE`] sessions are worked on, [`SESSIONS_WAITING_MAX`] wait; further ones
//! come back with their next run. One step is [`INDEX_STEP_MAX`] documents and one commit.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use persistence::Generations;
use supervision::{Refusal, System};
use tokio::sync::Semaphore;

use crate::ir;
use crate::session::indexes::{
    GrowIndex, INDEX_STEP_MAX, Index, IndexWork, PlanIndexes, Stage, SweepIndex,
};
use crate::session::{ExtensionSession, Scope};
use crate::view::{Rows as _, SystemRows, id_of};

/// Sessions whose indexes are worked on at once.
pub(crate) const SESSIONS_AT_ONCE: usize = 2;
/// Sessions that wait for it.
pub(crate) const SESSIONS_WAITING_MAX: usize = 4_096;
/// Sessions that are remembered as done, at most twice over.
const SESSIONS_REMEMBERED: usize = 65_536;

/// Looks after the indexes of sessions.
pub(crate) struct Indexer {
    /// By session: the version whose indexes it has.
    done: Mutex<Generations<Scope, String>>,
    under_way: Mutex<HashSet<Scope>>,
    places: Semaphore,
}

impl Indexer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            done: Mutex::new(Generations::new(SESSIONS_REMEMBERED)),
            under_way: Mutex::default(),
            places: Semaphore::new(SESSIONS_AT_ONCE),
        })
    }

    /// Sees to it that a session gets the indexes of a version, some time.
    pub(crate) fn tend(
        self: &Arc<Self>,
        system: &Arc<System>,
        scope: &Scope,
        (ir, version): (&Arc<ir::App>, &str),
    ) {
        if self.done.lock().get_mut(scope).is_some_and(|done| done == version) {
            return;
        }
        {
            let mut under_way = self.under_way.lock();
            if under_way.len() >= SESSIONS_WAITING_MAX || !under_way.insert(scope.clone()) {
                return;
            }
        }
        let (me, system, scope) = (Arc::clone(self), Arc::clone(system), scope.clone());
        let (declared, version) = (declared(ir), version.to_owned());
        tokio::spawn(async move {
            // Nobody closes it.
            let place = me.places.acquire().await;
            match build(&system, &scope, declared).await {
                Ok(()) => {
                    me.done.lock().insert(scope.clone(), version);
                }
                Err(refusal) => tracing::debug!(%refusal, "indexes are built on later"),
            }
            drop(place);
            me.under_way.lock().remove(&scope);
        });
    }
}

fn declared(ir: &ir::App) -> Vec<(String, String)> {
    let of_kind = |kind: &ir::DocumentKind| {
        let name = kind.name.clone();
        kind.indexes.clone().into_iter().map(move |field| (name.clone(), field))
    };
    ir.kinds.iter().flat_map(of_kind).collect()
}

async fn build(
    system: &Arc<System>,
    scope: &Scope,
    declared: Vec<(String, String)>,
) -> Result<(), Refusal> {
    let (sessions, address) = (system.directory::<ExtensionSession>(), scope.address());
    let origin = || system.system_origin();
    let plan = PlanIndexes { scope: scope.clone(), declared };
    let mut work = sessions.ask(&address, plan, origin()).await?;
    loop {
        work = match work {
            IndexWork::Done => return Ok(()),
            IndexWork::Sweep(number) => {
                let sweep = SweepIndex { scope: scope.clone(), number };
                sessions.ask(&address, sweep, origin()).await?
            }
            IndexWork::Grow(index) => {
                let grow = step(system, scope, index).await?;
                sessions.ask(&address, grow, origin()).await?
            }
        };
    }
}

/// The documents that come next into an index.
async fn step(system: &Arc<System>, scope: &Scope, index: Index) -> Result<GrowIndex, Refusal> {
    let (system, scope) = (Arc::clone(system), scope.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let after = match index.stage {
            Stage::Building(Some(last)) => Some(scope.document_key(&index.kind, last)),
            _ => None,
        };
        let rows = SystemRows::new(&system, &scope);
        let prefix = scope.kind_prefix(&index.kind);
        let rows = rows.rows(&prefix, after.as_deref(), INDEX_STEP_MAX);
        let ids: Vec<u128> = rows.iter().map(|(key, _)| id_of(key)).collect();
        let is_last = ids.len() < INDEX_STEP_MAX;
        GrowIndex { scope, index, ids, is_last }
    });
    reading.await.map_err(|_| Refusal::crashed())
}
