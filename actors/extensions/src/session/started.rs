//! Runs that act outside the server: said durably before the first byte leaves, so that a process
//! that dies in between leaves behind what it was about to do, and a hold that still ends.
//!
//! A started run ends with the [`ApplyRun`](super::ApplyRun) that says so, or is lost: by
//! [`LoseRun`], when [`STARTED_MS_MAX`] are over, or with the process that carried it on, which the
//! next one says at its start ([`ExtensionSession::lose_left_behind`]). A lost run's outcome is
//! unknown, it costs nothing, and what was held for it is given back.

use persistence::record::SHARDS;
use persistence::{RowRange, Shard, codec};
use serde::{Deserialize, Serialize};
use supervision::address::Place;
use supervision::reminders::PENDING_FAMILY;
use supervision::{Address, Command, Entity as _, Handle, Refusal, System, Timestamp, Turn};
use types::{CallId, HoldId, SharePercent};

use super::{Action, ExtensionSession, RanItem, Scope, SessionEvent, SettleRun};
use crate::hosts::OUTCOME_UNKNOWN;

/// How long a started run may take until it is lost, in milliseconds: longer than it waits for its
/// turn, for what is outside, and for its own steps together.
pub const STARTED_MS_MAX: i64 = 180_000;
/// How long the longest of them may, one of a task: longer than the task itself may take.
pub const STARTED_TASK_MS_MAX: i64 = 20 * 60 * 1_000;
/// Started runs of one session.
pub const STARTED_MAX: usize = 256;
/// How many rows one step of looking for started runs reads.
const PENDING_STEP: usize = 256;

/// One call of a started run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartedCall {
    /// Its place in the batch, from 0.
    pub index: u32,
    /// The function, cut as in [`RanItem`].
    pub function: String,
    /// What it may change.
    pub action: Action,
}

/// A call or batch is about to act outside the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The call or batch.
    pub id: CallId,
    /// Whose session it is.
    pub scope: Scope,
    /// The app's version that runs.
    pub app_version: String,
    /// The calls, in their order.
    pub calls: Vec<StartedCall>,
    /// What is held for it.
    pub hold: Option<HoldId>,
    /// The developer's share of the price.
    pub share: SharePercent,
    /// When it is lost.
    pub until: Timestamp,
}

/// A started call or batch never came to an end that is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// The call or batch.
    pub id: CallId,
    /// Whose session it is.
    pub scope: Scope,
    /// The app's version.
    pub app_version: String,
    /// The calls, each with the outcome `outcome_unknown`.
    pub items: Vec<RanItem>,
}

/// Tokens that the completions of one call have used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The call's place in the batch, from 0.
    pub index: u32,
    /// The model.
    pub model: String,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
}

/// What the completions of a run have used; recorded with the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The call or batch.
    pub id: CallId,
    /// By call and model.
    pub usage: Vec<Usage>,
}

/// Says that a run is about to act outside. Nothing leaves before this is answered. Repeated it
/// changes nothing.
#[derive(Clone, Debug)]
pub struct StartRun {
    /// The call or batch; `until` is set by the session.
    pub started: Started,
    /// How long it may take, in milliseconds, up to [`STARTED_TASK_MS_MAX`].
    pub ms_max: i64,
}

impl Command for StartRun {
    const NAME: &'static str = "start_run";
}

impl Handle<StartRun> for ExtensionSession {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: StartRun) -> Result<(), Refusal> {
        let until = turn.now().plus_ms(command.ms_max.clamp(0, STARTED_TASK_MS_MAX));
        let started = Started { until, ..command.started };
        let session = turn.state();
        if session.started.contains_key(&started.id) {
            return Ok(());
        }
        if session.started.len() >= STARTED_MAX || session.is_full() {
            return Err(Refusal::busy());
        }
        turn.record(SessionEvent::Started(started));
        Ok(())
    }
}

/// Ends a started run whose outcome will not be known. One that has ended stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct LoseRun {
    /// The call or batch.
    pub id: CallId,
}

impl Command for LoseRun {
    const NAME: &'static str = "lose_run";
    const ESSENTIAL: bool = true;
}

impl Handle<LoseRun> for ExtensionSession {
    type Reply = Fate;

    fn handle(turn: &mut Turn<'_, Self>, command: LoseRun) -> Result<Fate, Refusal> {
        let fate = turn.state().fate(command.id);
        if fate == Fate::Started {
            lose(turn, command.id);
        }
        Ok(fate)
    }
}

/// What a session knows of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: it has not acted outside, and is not recorded.
    Unknown,
    /// It acts outside, or was cut off while it did.
    Started,
    /// It is recorded, or lost.
    Ended,
}

impl ExtensionSession {
    /// What is known of a run of the last 24 h.
    pub fn fate(&self, id: CallId) -> Fate {
        match (self.started.contains_key(&id), self.remembered.contains_key(&id)) {
            (true, _) => Fate::Started,
            (false, true) => Fate::Ended,
            (false, false) => Fate::Unknown,
        }
    }
}

impl ExtensionSession {
    /// Loses the runs that a process has started which ended: at a start, before anything of this
    /// one runs. Says how many there were. What is refused here, the run's time ends.
    pub async fn lose_left_behind(system: &System) -> usize {
        let mut lost = 0;
        for shard in 0..SHARDS {
            for address in pending(system, Shard(shard as u8)) {
                let (sessions, origin) = (system.directory::<Self>(), system.system_origin());
                let started = |it: &Self| it.started.keys().copied().collect::<Vec<_>>();
                let started = sessions.look(&address, origin.clone(), started).await;
                for id in started.unwrap_or_default() {
                    match sessions.ask(&address, LoseRun { id }, origin.clone()).await {
                        Ok(_) => lost += 1,
                        Err(refusal) => tracing::debug!(%refusal, run = %id, "a run is lost later"),
                    }
                }
            }
        }
        lost
    }
}

/// The sessions of a shard that have something pending. Panics when rows cannot be read.
fn pending(system: &System, shard: Shard) -> Vec<Address<ExtensionSession>> {
    let prefix = format!("{}/", ExtensionSession::KIND).into_bytes();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (prefix, limit, newest_first) = (prefix.clone(), PENDING_STEP, false);
        let family = PENDING_FAMILY;
        let rows = system.rows(&RowRange { shard, family, prefix, after, newest_first, limit });
        after = rows.last().map(|(key, _)| key.clone());
        if after.is_none() {
            return found;
        }
        let places = rows.iter().filter_map(|(_, row)| codec::decode::<Place>(row).ok());
        found.extend(places.filter_map(Address::from_place));
    }
}

/// Loses the runs whose time is over.
pub(super) fn lose_late(turn: &mut Turn<'_, ExtensionSession>) {
    let now = turn.now();
    let late = turn.state().started.values().filter(|started| started.until <= now);
    let late: Vec<CallId> = late.map(|started| started.id).collect();
    for id in late {
        lose(turn, id);
    }
}

fn lose(turn: &mut Turn<'_, ExtensionSession>, id: CallId) {
    let Some(started) = turn.state().started.get(&id).cloned() else { return };
    let item = |call: StartedCall| RanItem {
        index: call.index,
        function: call.function,
        action: call.action,
        succeeded: false,
        price: 0,
        fee: 0,
        error_code: Some(OUTCOME_UNKNOWN.to_owned()),
        duration_us: 0,
    };
    let Started { scope, app_version, calls, .. } = started;
    let items = calls.into_iter().map(item).collect();
    turn.record(SessionEvent::Lost(Lost { id, scope, app_version, items }));
    let run = turn.state().unsettled.get(&id).cloned();
    if let Some(run) = run {
        turn.effect(SettleRun { id, run });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use billing::wallet::{
        Actions, Grant, Kind, PlaceHold, Reason, Spender, Wallet, wallet_address,
    };
    use persistence::{Journal, MasterKey, Options};
    use supervision::SystemOptions;
    use supervision::testkit::Given;
    use types::{Amount, AppId, GrantId, TenantId, UserId};

    use super::*;
    use crate::session::{Applied, ApplyRun, Ran};

    fn begin(id: u128) -> StartRun {
        StartRun { started: started(id), ms_max: STARTED_MS_MAX }
    }

    fn started(id: u128) -> Started {
        let app = AppId::new("shelf").unwrap();
        let function = "print".to_owned();
        Started {
            id: CallId(id),
            scope: Scope { tenant: TenantId(7), user: UserId(8), app },
            app_version: "1.0.0".to_owned(),
            calls: vec![StartedCall { index: 0, function, action: Action::Write }],
            hold: Some(HoldId(id)),
            share: SharePercent::new(70).unwrap(),
            until: Timestamp(0),
        }
    }

    fn ended(id: u128) -> ApplyRun {
        let Started { id, scope, app_version, hold, share, .. } = started(id);
        let (items, writes) = (Vec::new(), Vec::new());
        let (confirmation, share) = (None, share);
        let ran = Ran { id, scope, app_version, items, writes, hold, share, confirmation };
        let usage = vec![Usage {
            index: 0,
            model: "small".to_owned(),
            prompt_tokens: 5,
            completion_tokens: 2,
        }];
        let (reads, events) = (Vec::new(), Vec::new());
        ApplyRun { ran, reads, usage, is_started: true, events }
    }

    fn given() -> Given<ExtensionSession> {
        Given::nothing().when(begin(1)).then()
    }

    #[test]
    fn a_started_run_is_pending_until_it_ends_or_its_time_does() {
        let given = given();
        assert!(given.state().is_pending() && given.state().resume().is_empty());
        let deadline = given.now().plus_ms(STARTED_MS_MAX);
        assert_eq!(given.state().next_deadline(), Some(deadline));
        let then = given.when(ended(1));
        assert_eq!((then.outcome.clone(), then.events.len()), (Ok(Applied::Now), 2));
        let given = then.then();
        assert!(given.state().next_deadline() < Some(deadline), "it is only to be settled");
        assert_eq!(given.state().tokens, [5, 2]);
        assert!(given.when(LoseRun { id: CallId(1) }).events.is_empty());
    }

    #[test]
    fn a_lost_run_costs_nothing_and_does_not_come_back() {
        let then = given().later_ms(STARTED_MS_MAX).when_due();
        let SessionEvent::Lost(lost) = &then.events[0] else { panic!("{:?}", then.events) };
        assert_eq!(lost.items[0].error_code.as_deref(), Some(OUTCOME_UNKNOWN));
        let effect = &then.effects[0];
        assert!(effect.run.items.is_empty() && effect.run.hold == HoldId(1));
        let given = then.then();
        assert!(given.state().is_pending(), "its hold is still to be released");
        assert_eq!(given.when(ended(1)).refused().0, "run_lost");
    }

    fn system(folder: &std::path::Path) -> Arc<System> {
        let journal = Journal::open(Options::new(folder), &MasterKey::from_bytes([7; 32]));
        let builder = System::builder(SystemOptions::new(journal.unwrap()));
        crate::register(billing::register(builder)).start()
    }

    /// Starts a run with a hold, and ends as a process that is cut off does.
    async fn cut_off(folder: &std::path::Path) {
        let system = system(folder);
        let (origin, started) = (system.system_origin(), started(1));
        let (wallets, tenant) = (system.directory::<Wallet>(), started.scope.tenant);
        let (id, credits) = (GrantId(1), Amount::new(100).unwrap());
        let grant = Grant::new(id, tenant, credits, Kind::Paid, Reason::Topup);
        wallets.ask(&wallet_address(tenant), grant, origin.clone()).await.unwrap();
        let (id, amount, reason) = (HoldId(1), Amount::new(6).unwrap(), "call".to_owned());
        let call = Some(CallId(1));
        let hold = PlaceHold {
            id,
            amount,
            ttl_ms: 3_600_000,
            reason,
            call,
            spender: Spender::default(),
            actions: Actions::default(),
        };
        wallets.ask(&wallet_address(tenant), hold, origin.clone()).await.unwrap();
        let sessions = system.directory::<ExtensionSession>();
        let address = started.scope.address();
        sessions.ask(&address, StartRun { started, ms_max: STARTED_MS_MAX }, origin).await.unwrap();
        system.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_process_that_ended_has_started_is_lost_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        cut_off(folder.path()).await;
        let system = system(folder.path());
        assert_eq!(ExtensionSession::lose_left_behind(&system).await, 1);
        assert_eq!(ExtensionSession::lose_left_behind(&system).await, 0);
        let (tenant, now) = (TenantId(7), system.clock().now());
        // The hold goes back by itself, long before the run's time is over.
        loop {
            let available = move |wallet: &Wallet| wallet.balance(now).available;
            let (wallets, origin) = (system.directory::<Wallet>(), system.system_origin());
            if wallets.look(&wallet_address(tenant), origin, available).await.unwrap() == 100 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let sessions = system.directory::<ExtensionSession>();
        let (address, origin) = (started(1).scope.address(), system.system_origin());
        let refused = sessions.ask(&address, ended(1), origin).await.unwrap_err();
        assert_eq!(refused.code, "run_lost");
        system.stop().await;
    }

    #[test]
    fn a_session_has_only_so_many_started_runs() {
        let given = (1..=STARTED_MAX as u128)
            .fold(Given::<ExtensionSession>::nothing(), |given, id| given.when(begin(id)).then());
        let then = given.when(begin(1));
        assert!(then.events.is_empty() && then.outcome.is_ok());
        assert_eq!(then.then().when(begin(0)).refused().0, "busy");
    }
}
