//! Sandboxes: copies of a tenant whose clock its owner moves.
//!
//! A sandbox is a tenant of its own: another id, chain, key and wallet, the same members. It is
//! copied by the way of a file that no one else reads ([`crate::export`], `carry`), without
//! apps, developers and addresses. [`Sandbox`] marks it and moves its clock; [`Sandboxes`] counts
//! those of one tenant.
//!
//! Invariants
//! - A sandbox has a time of its own from before its members know of it, and it never goes back.
//! - A tenant has at most [`SANDBOXES_MAX`] that are switched on; a sandbox has none.
//!
//! Deliberate limits
//! - Records in a sandbox carry its own time, because a replay applies events at the time of their
//!   headers. When a clock was moved really stands in the event that moved it.
//! - The credits in it are a copy and buy nothing outside: what its wallet owes to apps is nobody's
//!   earning. Tokens are measured by the real clock, sessions by the sandbox's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use identity::tenant::Tenant;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::own_time::own_time_row;
use supervision::{
    Address, Command, Entity, Handle, NoEffect, Origin, Refusal, RowDraft, System, Timestamp, Turn,
};
use types::{TenantId, base32, home_of, owner_of_tenant};

use crate::carry::blocking;
use crate::export::{Order, export};
use crate::service::{Portability, new_key, source};

/// How many sandboxes of one tenant may be switched on.
pub const SANDBOXES_MAX: usize = 3;
/// How many sandboxes a tenant may ever have had.
pub const SANDBOXES_EVER_MAX: usize = 10_000;
/// The most that a clock is moved at once, in seconds: ten years.
pub const ADVANCE_SECONDS_MAX: i64 = 10 * 366 * 24 * 60 * 60;
/// The most that a clock is ahead, in milliseconds: a hundred years.
const AHEAD_MS_MAX: i64 = 100 * 366 * 24 * 60 * 60 * 1_000;

fn address<E: Entity>(tenant: TenantId) -> Address<E> {
    let address = Address::new(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant));
    // 26 characters of base32 are neither empty, nor too long, nor unprintable.
    address.unwrap_or_else(|| panic!("{tenant} has no address"))
}

/// The mark of a sandbox, and its clock.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sandbox {
    opened: Option<Opened>,
    ahead_ms: i64,
}

/// The tenant is a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The sandbox.
    pub tenant: TenantId,
    /// Whose copy it is.
    pub of: TenantId,
    /// What it is called.
    pub name: String,
}

/// The clock was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockMoved {
    /// How far it is ahead from now on, in milliseconds.
    pub ahead_ms: i64,
    /// When that really was.
    pub really_at: Timestamp,
}

supervision::events! {
    /// What happens to a sandbox.
    pub enum SandboxEvent {
        /// The tenant is a sandbox.
        Opened(Opened) = "sandbox_opened", 1;
        /// The clock was moved.
        ClockMoved(ClockMoved) = "clock_moved", 1;
    }
}

impl Sandbox {
    /// Where the mark of a tenant lives, if it is a sandbox.
    pub fn address(tenant: TenantId) -> Address<Self> {
        address(tenant)
    }

    /// Which tenant it is, and whose copy; `None` for no sandbox.
    pub fn copy_of(&self) -> Option<(TenantId, TenantId)> {
        self.opened.as_ref().map(|opened| (opened.tenant, opened.of))
    }

    /// How far the clock is ahead, in milliseconds; `None` for no sandbox.
    pub fn ahead_ms(&self) -> Option<i64> {
        self.opened.as_ref().map(|_| self.ahead_ms)
    }
}

impl Entity for Sandbox {
    const KIND: &'static str = "sandbox";
    type Event = SandboxEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &SandboxEvent, _: Timestamp) {
        match event {
            SandboxEvent::Opened(opened) => self.opened = Some(opened.clone()),
            SandboxEvent::ClockMoved(moved) => self.ahead_ms = moved.ahead_ms,
        }
    }

    fn rows(&self, event: &SandboxEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        let tenant = match (event, &self.opened) {
            (SandboxEvent::Opened(opened), _) => opened.tenant,
            (SandboxEvent::ClockMoved(_), Some(opened)) => opened.tenant,
            (SandboxEvent::ClockMoved(_), None) => return,
        };
        let ahead_ms = match event {
            SandboxEvent::Opened(_) => 0,
            SandboxEvent::ClockMoved(moved) => moved.ahead_ms,
        };
        rows.push(own_time_row(home_of(tenant), ahead_ms));
    }

    fn observe(&self) -> serde_json::Value {
        let Some(opened) = &self.opened else { return json!({"exists": false}) };
        json!({"tenant": opened.tenant, "of": opened.of, "ahead_ms": self.ahead_ms})
    }
}

/// Marks a tenant as a sandbox. A repetition is no change.
pub(crate) struct Open {
    pub(crate) tenant: TenantId,
    pub(crate) of: TenantId,
    pub(crate) name: String,
}

impl Command for Open {
    const NAME: &'static str = "open_sandbox";
}

impl Handle<Open> for Sandbox {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Open) -> Result<(), Refusal> {
        if turn.state().opened.is_none() {
            let Open { tenant, of, name } = command;
            turn.record(SandboxEvent::Opened(Opened { tenant, of, name }));
        }
        Ok(())
    }
}

/// Moves a sandbox's clock ahead; answers how far it is ahead then, in milliseconds. 404 for a
/// tenant that is none, 422 beyond the limits.
pub struct MoveClock {
    /// By how much, in seconds: 1 to [`ADVANCE_SECONDS_MAX`].
    pub advance_seconds: i64,
    /// The real time.
    pub really_at: Timestamp,
}

impl Command for MoveClock {
    const NAME: &'static str = "move_clock";
}

impl Handle<MoveClock> for Sandbox {
    type Reply = i64;

    fn handle(turn: &mut Turn<'_, Self>, command: MoveClock) -> Result<i64, Refusal> {
        let MoveClock { advance_seconds, really_at } = command;
        let Some(known) = turn.state().ahead_ms() else {
            return Err(Refusal::not_found("sandbox"));
        };
        if !(1..=ADVANCE_SECONDS_MAX).contains(&advance_seconds) {
            let message = format!("must be 1 to {ADVANCE_SECONDS_MAX}");
            return Err(Refusal::invalid("advance_seconds", message));
        }
        let ahead_ms = known + advance_seconds * 1_000;
        if ahead_ms > AHEAD_MS_MAX {
            let message = "the clock is too far ahead already; make another sandbox";
            return Err(Refusal::invalid("advance_seconds", message));
        }
        turn.record(SandboxEvent::ClockMoved(ClockMoved { ahead_ms, really_at }));
        Ok(ahead_ms)
    }
}

/// The sandboxes of a tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sandboxes {
    /// Those that were begun and are not known to be over.
    all: BTreeMap<TenantId, String>,
    ever: u64,
    /// Those that are over: what there is of them goes when the tenant is erased.
    past: BTreeSet<TenantId>,
}

/// A sandbox is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxBegun {
    /// Its id.
    pub sandbox: TenantId,
    /// What it is called.
    pub name: String,
}

/// A sandbox is switched off, or could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxOver {
    /// Its id.
    pub sandbox: TenantId,
}

supervision::events! {
    /// What happens to a tenant's sandboxes.
    pub enum SandboxesEvent {
        /// One more.
        SandboxBegun(SandboxBegun) = "sandbox_begun", 1;
        /// One less.
        SandboxOver(SandboxOver) = "sandbox_over", 1;
    }
}

impl Sandboxes {
    /// Where they live.
    pub fn address(tenant: TenantId) -> Address<Self> {
        address(tenant)
    }

    /// All that were ever begun.
    pub(crate) fn ever(&self) -> Vec<TenantId> {
        self.all.keys().chain(&self.past).copied().collect()
    }
}

impl Entity for Sandboxes {
    const KIND: &'static str = "sandboxes";
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = SandboxesEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &SandboxesEvent, _: Timestamp) {
        match event {
            SandboxesEvent::SandboxBegun(begun) => {
                self.all.insert(begun.sandbox, begun.name.clone());
                self.ever += 1;
            }
            SandboxesEvent::SandboxOver(over) => {
                self.all.remove(&over.sandbox);
                self.past.insert(over.sandbox);
            }
        }
    }

    fn observe(&self) -> serde_json::Value {
        json!({"sandboxes": self.all.keys().collect::<Vec<_>>(), "ever": self.ever})
    }
}

/// Counts a new sandbox, and those that are over no more. 409 `too_many_sandboxes`.
pub(crate) struct Count {
    pub(crate) sandbox: TenantId,
    pub(crate) name: String,
    pub(crate) over: Vec<TenantId>,
}

impl Command for Count {
    const NAME: &'static str = "count_sandbox";
}

impl Handle<Count> for Sandboxes {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Count) -> Result<(), Refusal> {
        let Count { sandbox, name, over } = command;
        let state = turn.state();
        let live = state.all.keys().filter(|known| !over.contains(known)).count();
        if live >= SANDBOXES_MAX || state.ever >= SANDBOXES_EVER_MAX as u64 {
            let message = format!("a tenant has at most {SANDBOXES_MAX} sandboxes; delete one");
            return Err(Refusal::conflict("too_many_sandboxes", message));
        }
        let over: Vec<_> = over.into_iter().filter(|it| state.all.contains_key(it)).collect();
        for sandbox in over {
            turn.record(SandboxesEvent::SandboxOver(SandboxOver { sandbox }));
        }
        turn.record(SandboxesEvent::SandboxBegun(SandboxBegun { sandbox, name }));
        Ok(())
    }
}

/// A sandbox that could not be made does not count.
struct Uncount {
    sandbox: TenantId,
}

impl Command for Uncount {
    const NAME: &'static str = "uncount_sandbox";
    const ESSENTIAL: bool = true;
}

impl Handle<Uncount> for Sandboxes {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Uncount { sandbox }: Uncount) -> Result<(), Refusal> {
        if turn.state().all.contains_key(&sandbox) {
            turn.record(SandboxesEvent::SandboxOver(SandboxOver { sandbox }));
        }
        Ok(())
    }
}

/// Answers that it is counted: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
    const ESSENTIAL: bool = true;
}

impl Handle<Conclude> for Sandboxes {
    type Reply = ();

    fn handle(_: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Portability {
    /// Copies a tenant as it is, or as it was `at` a time, into a new sandbox of its own; answers
    /// the sandbox's id. 409 `sandbox` for a sandbox, `too_many_sandboxes`; 503 while too many are
    /// made.
    pub async fn open_sandbox(
        &self,
        system: &Arc<System>,
        of: TenantId,
        name: String,
        at: Option<Timestamp>,
        origin: Origin,
    ) -> Result<TenantId, Refusal> {
        if system.own_time(home_of(of)).is_some() || of == TenantId::SYSTEM {
            let message = "this tenant has no sandboxes: it is one, or the installation's";
            return Err(Refusal::conflict("sandbox", message));
        }
        if system.journal().is_low_on_space() {
            return Err(Refusal::low_space());
        }
        let incoming = self.copy_place(system)?;
        let (sandbox, sandboxes) = (TenantId(system.new_id()), system.directory::<Sandboxes>());
        // From before it counts, so that nobody takes it for one that was given up.
        let _making = self.run(sandbox.0);
        let counting = Sandboxes::address(of);
        let known = |it: &Sandboxes| it.all.keys().copied().collect();
        let known: Vec<TenantId> = sandboxes.look(&counting, origin.clone(), known).await?;
        let (me, reading) = (system.port::<Self>(), system.clone());
        let over = blocking(move || Ok(me.over(&reading, known))).await?;
        let count = Count { sandbox, name: name.clone(), over };
        sandboxes.ask(&counting, count, origin.clone()).await?;
        let copied = match self.check_on(of).await {
            Ok(()) => self.copy(system, (of, sandbox), name, at, incoming.path(), &origin).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = copied {
            let _ = sandboxes.ask(&counting, Uncount { sandbox }, origin).await;
            return Err(refusal);
        }
        Ok(sandbox)
    }

    /// 409 `tenant_inactive` once a tenant is switched off. Asked after a sandbox was counted: so
    /// an erasure, which switches its tenant off and then looks for sandboxes, misses none.
    async fn check_on(&self, of: TenantId) -> Result<(), Refusal> {
        let is_on = self.identity.look_tenant(of, Tenant::is_active).await?;
        let refusal = || Refusal::conflict("tenant_inactive", "the tenant is switched off");
        is_on.unwrap_or_default().then_some(()).ok_or_else(refusal)
    }

    async fn copy(
        &self,
        system: &Arc<System>,
        (of, sandbox): (TenantId, TenantId),
        name: String,
        at: Option<Timestamp>,
        path: &std::path::Path,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let key = new_key()?;
        let order = Order { tenant: of, at, leaves: false };
        let (reading, file, file_key) = (system.clone(), path.to_owned(), key.clone());
        let exported =
            blocking(move || export(&reading, order, &file, &file_key, &mut |_| {})).await?;
        let source = source(&exported.manifest);
        let begun = self.begun(system, &key, sandbox, source, Vec::new())?;
        let begun = crate::tenant_import::Begun { sandbox: Some(name), ..begun };
        self.begin(system, begun, path.to_owned(), origin.clone()).await.map(drop)
    }

    /// Lets a sandbox's time be what its clock says: after each [`MoveClock`]. What is due by it
    /// fires at once.
    pub async fn follow_clock(system: &System, sandbox: TenantId) -> Result<(), Refusal> {
        let (directory, origin) = (system.directory::<Sandbox>(), system.system_origin());
        let ahead = directory.look(&Sandbox::address(sandbox), origin, Sandbox::ahead_ms).await?;
        if let Some(ahead_ms) = ahead {
            system.set_own_time(home_of(sandbox), ahead_ms);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    const SANDBOX: TenantId = TenantId(6);

    fn opened() -> Given<Sandbox> {
        let open = Open { tenant: SANDBOX, of: TenantId(5), name: "copy".to_owned() };
        Given::nothing().when(open).then()
    }

    fn advance(advance_seconds: i64) -> MoveClock {
        MoveClock { advance_seconds, really_at: Timestamp(1) }
    }

    #[test]
    fn a_clock_goes_ahead_within_its_limits_and_its_row_says_how_far() {
        let then = opened().when(advance(60));
        assert_eq!(then.rows, [own_time_row(home_of(SANDBOX), 60_000)]);
        let (ahead, given) = then.then().when(advance(1)).reply();
        assert_eq!(ahead, 61_000);
        let mut given = given;
        for wrong in [0, -1, ADVANCE_SECONDS_MAX + 1, i64::MIN, i64::MAX] {
            let (code, next) = given.when(advance(wrong)).refused();
            assert_eq!(code, "validation_error");
            given = next;
        }
        for _ in 0..9 {
            given = given.when(advance(ADVANCE_SECONDS_MAX)).then();
        }
        assert_eq!(given.when(advance(ADVANCE_SECONDS_MAX)).refused().0, "validation_error");
        assert_eq!(Given::<Sandbox>::nothing().when(advance(1)).refused().0, "not_found");
    }

    fn count(sandbox: u128, over: &[u128]) -> Count {
        let over = over.iter().copied().map(TenantId).collect();
        Count { sandbox: TenantId(sandbox), name: "copy".to_owned(), over }
    }

    #[test]
    fn no_more_sandboxes_than_may_be_switched_on() {
        let mut given = Given::<Sandboxes>::nothing();
        for sandbox in 1..=SANDBOXES_MAX as u128 {
            given = given.when(count(sandbox, &[])).then();
        }
        let (code, given) = given.when(count(9, &[])).refused();
        assert_eq!(code, "too_many_sandboxes");
        let given = given.when(count(9, &[1])).then();
        assert_eq!(given.state().all.len(), SANDBOXES_MAX);
        let given = given.when(Uncount { sandbox: TenantId(9) }).then();
        assert_eq!(given.state().all.len(), SANDBOXES_MAX - 1);
        assert_eq!(given.state().ever(), [2, 3, 1, 9].map(TenantId), "none is forgotten");
    }
}
