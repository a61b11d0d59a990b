//! A freeze: an operator has stopped a tenant, a user or an app, until an operator lets it go on.
//!
//! A process while it stops what runs; then it keeps its receipt, through restarts, until the next
//! freeze of the same target. One entity a target, in the platform's chain; what it did stands in
//! the chain of the target's tenant, too, as operators' acts.
//!
//! Invariants
//! - It is durable before anything is stopped, and what it stands for is refused from before the
//!   first thing is stopped.
//! - While a target is frozen, freezing it again changes nothing, and answers the first receipt.
//! - It is not lifted before it has its receipt: what is stopped is not let go halfway.
//! - What was stopped is durable before it is told in the chain of the target's tenant, and is told
//!   there once; a tenant that was erased meanwhile is told nothing, and the freeze ends all the
//!   same.
//!
//! Rows: family [`FROZEN_FAMILY`] in the platform's shard, one a target that is frozen, by its kind
//! and id, holding a [`FrozenRow`]: what a start reads before the first request.

use identity::frozen::{ReasonClass, Target};
use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Process, Refusal, RowDraft, Timestamp, Turn,
};
use types::{CallId, ConfirmationId, HoldId, TaskId, TenantId, home_of, platform, rfc3339};

use crate::freezer::Freezer;

/// The family of the rows of what is frozen.
pub const FROZEN_FAMILY: &str = "frozen";
/// How many things a receipt names; the rest it counts.
pub const ITEMS_MAX: usize = 200;
/// When what has not ended is tried again, in milliseconds: longer than stopping may take, so that
/// no second try, which finds nothing left, ends before the first.
const RETRY_MS: i64 = 15_000;

/// What was stopped. Stored: a kind keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// A call or batch.
    Call(CallId),
    /// Credits that were held.
    Hold(HoldId),
    /// What waited for a person.
    Card(ConfirmationId),
    /// A task.
    Task(TaskId),
}

/// What happened to it. Stored: an outcome keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The call ended, and nothing of it was recorded.
    Cancelled,
    /// The call was recorded before it could be stopped: it stands, and is paid for.
    Completed,
    /// It was too late to stop the call, and it was refused by itself.
    Refused,
    /// The call has not ended yet.
    StillRunning,
    /// What the hold held may be spent again.
    Released,
    /// Nobody confirms it any more.
    Voided,
}

impl Outcome {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::StillRunning => "still_running",
            Self::Released => "released",
            Self::Voided => "voided",
        }
    }
}

/// What stopping came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls that ended without a record.
    pub calls_cancelled: u64,
    /// Calls that were recorded before they could be stopped, or were refused by themselves.
    pub calls_completed: u64,
    /// Calls that had not ended yet.
    pub calls_running: u64,
    /// Holds that were released.
    pub holds_released: u64,
    /// What they held, in credits.
    pub credits_released: i64,
    /// Holds that calls have, which settle what they did.
    pub holds_left: u64,
    /// The code with which the wallet refused to release the rest; then its holds are not counted.
    pub wallet_refused: Option<String>,
    /// Requests in flight that had not ended yet.
    pub requests_left: u64,
    /// What was stopped, at most [`ITEMS_MAX`].
    pub items: Vec<(Item, Outcome)>,
    /// How many more there were.
    pub items_omitted: u64,
}

impl Tally {
    /// Counts one thing more.
    pub fn note(&mut self, item: Item, outcome: Outcome) {
        match outcome {
            Outcome::Cancelled => self.calls_cancelled += 1,
            Outcome::Completed | Outcome::Refused => self.calls_completed += 1,
            Outcome::StillRunning => self.calls_running += 1,
            Outcome::Released => self.holds_released += 1,
            // Counted beside: see [`CardsVoided`].
            Outcome::Voided => {}
        }
        match self.items.len() < ITEMS_MAX {
            true => self.items.push((item, outcome)),
            false => self.items_omitted += 1,
        }
    }
}

/// What was stopped, and when all of it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// What was.
    pub tally: Tally,
    /// How many cards that waited for a person are void.
    pub cards_voided: u64,
    /// When it was done.
    pub at: Timestamp,
    /// How long it took since the freeze was durable, in milliseconds.
    pub took_ms: i64,
}

/// How it goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumption {
    /// Why.
    pub reason: String,
    /// Who decided it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// One freeze of a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// What is frozen.
    pub target: Target,
    /// Which of the target's freezes it is, from 1.
    pub number: u64,
    /// The tenant whose business it is: the target, the user's home, the app's developer's.
    pub home: TenantId,
    /// Why, for everybody.
    pub class: ReasonClass,
    /// Why, for operators.
    pub reason: String,
    /// Who decided it.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
    /// What was stopped; `None` while it is being stopped.
    pub receipt: Option<Receipt>,
    /// How it went on; `None` while it is frozen.
    pub resumed: Option<Resumption>,
    /// Under which id the act that tells of the receipt is noted.
    pub(crate) note: u128,
    /// Whether it is noted, or cannot be any more.
    is_noted: bool,
    retry_at: Timestamp,
}

impl Standing {
    /// Whether something is still to be done before it can be lifted.
    fn is_pending(&self) -> bool {
        self.receipt.is_none() || !self.is_noted
    }
}

/// The freezes of one target: the last one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Freeze {
    last: Option<Standing>,
}

/// A row of [`FROZEN_FAMILY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrozenRow {
    /// What is frozen.
    pub target: Target,
    /// By its freeze of this number.
    pub number: u64,
    /// Why, for everybody.
    pub class: ReasonClass,
    /// Since when.
    pub at: Timestamp,
}

fn row_key(target: &Target) -> Vec<u8> {
    format!("{}/{}", target.kind(), target.id()).into_bytes()
}

/// It began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// What is frozen.
    pub target: Target,
    /// Which of the target's freezes it is.
    pub number: u64,
    /// The tenant whose business it is.
    pub home: TenantId,
    /// Why, for everybody.
    pub class: ReasonClass,
    /// Why, for operators.
    pub reason: String,
    /// Who decided it.
    pub by: String,
    /// Under which id the act that tells of the receipt is noted.
    pub note: u128,
}

/// Stopping is tried once more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoppingRetried {}

/// All was stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllStopped {
    /// What was.
    pub tally: Tally,
}

/// What waited for a person waits no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardsVoided {
    /// How many cards.
    pub cards: u64,
}
/// The tenant's chain tells what was stopped, or cannot any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReceiptNoted {}

/// It goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    /// Why.
    pub reason: String,
    /// Who decided it.
    pub by: String,
}

supervision::events! {
    /// What happens to a freeze.
    pub enum FreezeEvent {
        /// It began.
        Begun(Begun) = "freeze_begun", 1;
        /// Tried once more.
        StoppingRetried(StoppingRetried) = "freeze_retried", 1;
        /// All was stopped.
        AllStopped(AllStopped) = "freeze_stopped", 1;
        /// What waited for a person waits no more.
        CardsVoided(CardsVoided) = "freeze_cards_voided", 1;
        /// The tenant's chain tells it.
        ReceiptNoted(ReceiptNoted) = "freeze_noted", 1;
        /// It goes on.
        Resumed(Resumed) = "freeze_resumed", 1;
    }
}

/// What a freeze asks for.
#[derive(Clone, Debug)]
pub enum FreezeEffect {
    /// Stop what runs.
    Stop(Box<Standing>),
    /// Tell in the tenant's chain what was stopped.
    Note(Box<Standing>),
    /// Let it go on.
    Lift(Box<Standing>),
}

impl Freeze {
    /// Where the freezes of a target live.
    pub fn address(target: &Target) -> Address<Self> {
        let id = format!("{}.{}", target.kind(), target.id());
        let address = Address::new(&id, platform(), home_of(TenantId::SYSTEM));
        // A kind, a dot and an id or a slug are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// The last freeze; `None` if there was none.
    pub fn last(&self) -> Option<&Standing> {
        self.last.as_ref()
    }

    /// The freeze that stands.
    fn present(&self) -> Option<&Standing> {
        self.last.as_ref().filter(|last| last.resumed.is_none())
    }
}

impl Entity for Freeze {
    const KIND: &'static str = "freeze";
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = FreezeEvent;
    type Effect = FreezeEffect;

    fn apply(&mut self, event: &FreezeEvent, at: Timestamp) {
        match (event, &mut self.last) {
            (FreezeEvent::Begun(begun), last) => {
                let Begun { target, number, home, class, reason, by, note } = begun.clone();
                let (receipt, resumed, is_noted) = (None, None, false);
                let retry_at = at.plus_ms(RETRY_MS);
                *last = Some(Standing {
                    target,
                    number,
                    home,
                    class,
                    reason,
                    by,
                    at,
                    receipt,
                    resumed,
                    note,
                    is_noted,
                    retry_at,
                });
            }
            (FreezeEvent::StoppingRetried(_), Some(last)) => last.retry_at = at.plus_ms(RETRY_MS),
            (FreezeEvent::AllStopped(stopped), Some(last)) => {
                let took_ms = at.0.saturating_sub(last.at.0).max(0);
                let (tally, cards_voided) = (stopped.tally.clone(), 0);
                last.receipt = Some(Receipt { tally, cards_voided, at, took_ms });
                last.retry_at = at.plus_ms(RETRY_MS);
            }
            (FreezeEvent::CardsVoided(voided), Some(last)) => {
                let receipt = last.receipt.iter_mut();
                receipt.for_each(|receipt| receipt.cards_voided = voided.cards);
            }
            (FreezeEvent::ReceiptNoted(_), Some(last)) => last.is_noted = true,
            (FreezeEvent::Resumed(resumed), Some(last)) => {
                let Resumed { reason, by } = resumed.clone();
                last.resumed = Some(Resumption { reason, by, at });
            }
            (_, None) => {}
        }
    }

    fn rows(&self, event: &FreezeEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let family = FROZEN_FAMILY;
        match (event, &self.last) {
            (FreezeEvent::Begun(begun), _) => {
                let Begun { target, number, class, .. } = begun.clone();
                let key = row_key(&target);
                let value = codec::encode(&FrozenRow { target, number, class, at }).ok();
                rows.push(RowDraft { family, key, value });
            }
            (FreezeEvent::Resumed(_), Some(last)) => {
                rows.push(RowDraft { family, key: row_key(&last.target), value: None });
            }
            _ => {}
        }
    }

    fn is_pending(&self) -> bool {
        self.last.as_ref().is_some_and(Standing::is_pending)
    }

    fn resume(&self) -> Vec<FreezeEffect> {
        let pending = self.last.iter().filter(|last| last.is_pending());
        let next = |last: &Standing| match last.receipt {
            None => FreezeEffect::Stop(Box::new(last.clone())),
            Some(_) => FreezeEffect::Note(Box::new(last.clone())),
        };
        pending.map(next).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.last.as_ref().filter(|last| last.is_pending()).map(|last| last.retry_at)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().next_deadline().is_some_and(|at| at <= turn.now()) {
            let again = turn.state().resume();
            turn.record(FreezeEvent::StoppingRetried(StoppingRetried {}));
            again.into_iter().for_each(|effect| turn.effect(effect));
        }
    }

    async fn perform(effect: FreezeEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let (freezer, freezes) = (system.port::<Freezer>(), system.directory::<Self>());
        let done = match effect {
            FreezeEffect::Lift(standing) => return freezer.lift(&system, &standing),
            FreezeEffect::Stop(standing) => match freezer.stop(&system, &standing, &origin).await {
                Ok((tally, cards)) => {
                    let finish = Finish { number: standing.number, tally, cards };
                    freezes.ask(&address, finish, origin).await
                }
                Err(refusal) => Err(refusal),
            },
            FreezeEffect::Note(standing) => match freezer.tell(&system, &standing, &origin).await {
                Err(refusal) if refusal.class.may_pass() => Err(refusal),
                told => {
                    if let Err(refusal) = told {
                        let freeze = address.id();
                        tracing::warn!(freeze, %refusal, "a freeze is not told to its tenant");
                    }
                    let mark = MarkNoted { number: standing.number };
                    freezes.ask(&address, mark, origin).await
                }
            },
        };
        if let Err(refusal) = done {
            tracing::warn!(freeze = address.id(), %refusal, "a freeze is not done; it goes on");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(last) = &self.last else { return json!({"exists": false}) };
        json!({
            "kind": last.target.kind(), "id": last.target.id(), "number": last.number,
            "class": last.class.name(), "reason": last.reason, "by": last.by,
            "frozen_at": rfc3339(last.at), "stopped": last.receipt.is_some(),
            "took_ms": last.receipt.as_ref().map(|receipt| receipt.took_ms),
            "resumed_at": last.resumed.as_ref().map(|it| rfc3339(it.at)),
        })
    }
}

impl Process for Freeze {
    type Outcome = Standing;

    /// The last freeze once all is done: the outcome changes with the next freeze alone.
    fn outcome(&self) -> Option<Standing> {
        self.last.clone().filter(|last| !last.is_pending())
    }
}

/// Begins a freeze. While there is one, no change.
pub struct Begin {
    /// What to freeze.
    pub target: Target,
    /// The tenant whose business it is.
    pub home: TenantId,
    /// Why, for everybody.
    pub class: ReasonClass,
    /// Why, for operators.
    pub reason: String,
}

impl Command for Begin {
    const NAME: &'static str = "freeze";
    const ESSENTIAL: bool = true;
}

impl Handle<Begin> for Freeze {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Begin) -> Result<(), Refusal> {
        if turn.state().present().is_some() {
            return Ok(());
        }
        let Begin { target, home, class, reason } = command;
        let number = turn.state().last.as_ref().map_or(1, |last| last.number + 1);
        let (by, note) = (turn.origin().caller.to_string(), turn.new_id());
        let begun = Begun { target, number, home, class, reason, by, note };
        turn.record(FreezeEvent::Begun(begun));
        turn.state().resume().into_iter().for_each(|effect| turn.effect(effect));
        Ok(())
    }
}

/// Notes what stopping came to.
struct Finish {
    number: u64,
    tally: Tally,
    /// How many cards are void.
    cards: u64,
}

impl Command for Finish {
    const NAME: &'static str = "finish_freeze";
    const ESSENTIAL: bool = true;
}

impl Handle<Finish> for Freeze {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Finish) -> Result<(), Refusal> {
        let Finish { number, tally, cards } = command;
        let is_meant = |last: &Standing| last.number == number && last.receipt.is_none();
        if turn.state().last.as_ref().is_some_and(is_meant) {
            turn.record(FreezeEvent::AllStopped(AllStopped { tally }));
            if cards > 0 {
                turn.record(FreezeEvent::CardsVoided(CardsVoided { cards }));
            }
            turn.state().resume().into_iter().for_each(|effect| turn.effect(effect));
        }
        Ok(())
    }
}

/// Notes that nothing is left to be told.
struct MarkNoted {
    number: u64,
}

impl Command for MarkNoted {
    const NAME: &'static str = "mark_noted";
    const ESSENTIAL: bool = true;
}

impl Handle<MarkNoted> for Freeze {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, MarkNoted { number }: MarkNoted) -> Result<(), Refusal> {
        let is_meant =
            |last: &Standing| last.number == number && last.receipt.is_some() && !last.is_noted;
        if turn.state().last.as_ref().is_some_and(is_meant) {
            turn.record(FreezeEvent::ReceiptNoted(ReceiptNoted {}));
        }
        Ok(())
    }
}

/// Lets a target go on. Answers a repetition alike. 409 `not_frozen` when it never was frozen, and
/// `still_stopping` before it has its receipt, and the tenant's chain tells it.
pub struct Resume {
    /// Why.
    pub reason: String,
}

impl Command for Resume {
    const NAME: &'static str = "resume";
    const ESSENTIAL: bool = true;
}

impl Handle<Resume> for Freeze {
    type Reply = Standing;

    fn handle(turn: &mut Turn<'_, Self>, Resume { reason }: Resume) -> Result<Standing, Refusal> {
        let not_frozen = || Refusal::conflict("not_frozen", "this is not frozen");
        let last = turn.state().last.clone().ok_or_else(not_frozen)?;
        if last.resumed.is_some() {
            return Ok(last);
        }
        if last.is_pending() {
            let message = "what runs is still being stopped; try again";
            return Err(Refusal::conflict("still_stopping", message).retry_after(1_000));
        }
        let by = turn.origin().caller.to_string();
        turn.record(FreezeEvent::Resumed(Resumed { reason, by }));
        let resumed = turn.state().last.clone().ok_or_else(not_frozen)?;
        turn.effect(FreezeEffect::Lift(Box::new(resumed.clone())));
        Ok(resumed)
    }
}

/// Changes nothing: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
    const ESSENTIAL: bool = true;
}

impl Handle<Conclude> for Freeze {
    type Reply = ();

    fn handle(_: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn begin(reason: &str) -> Begin {
        let (target, home) = (Target::Tenant(TenantId(7)), TenantId(7));
        Begin { target, home, class: ReasonClass::Abuse, reason: reason.to_owned() }
    }

    fn finish(number: u64, cancelled: u64) -> Finish {
        let tally = Tally { calls_cancelled: cancelled, ..Tally::default() };
        Finish { number, tally, cards: 2 }
    }

    /// Frozen, tried again, stopped with three calls, and told.
    fn noted_once() -> Given<Freeze> {
        let given = Given::<Freeze>::nothing().when(begin("first")).then();
        let given = given.later_ms(RETRY_MS).when_due().then().when(finish(1, 3)).then();
        given.when(MarkNoted { number: 1 }).then()
    }

    fn resume() -> Resume {
        Resume { reason: "all well".to_owned() }
    }

    #[test]
    fn a_freeze_stops_once_keeps_its_first_receipt_and_is_lifted_after_it() {
        assert_eq!(Given::<Freeze>::nothing().when(resume()).refused().0, "not_frozen");
        let then = Given::<Freeze>::nothing().when(begin("first"));
        assert_eq!((then.events.len(), then.effects.len()), (1, 1));
        let row: FrozenRow = codec::decode(then.rows[0].value.as_ref().unwrap()).unwrap();
        assert_eq!((then.rows[0].key.as_slice(), row.number), (row_key(&row.target).as_slice(), 1));
        let given = then.then();
        assert!(given.state().is_pending() && given.state().outcome().is_none());
        assert_eq!(given.when(resume()).refused().0, "still_stopping");

        let given = Given::<Freeze>::nothing().when(begin("first")).then();
        let then = given.later_ms(RETRY_MS).when_due();
        assert_eq!((then.events.len(), then.effects.len()), (1, 1), "tried again");
        let then = then.given.when(finish(1, 3));
        assert!(matches!(then.effects[..], [FreezeEffect::Note(_)]));
        let then = then.then().when(finish(1, 9));
        assert!(then.events.is_empty() && then.given.state().is_pending());
        let (code, given) = then.given.when(resume()).refused();
        assert_eq!(code, "still_stopping");
        let then = given.later_ms(RETRY_MS).when_due();
        assert!(matches!(then.effects[..], [FreezeEffect::Note(_)]), "told again, not stopped");
        let given = then.then().when(MarkNoted { number: 1 }).then();
        assert!(given.when(MarkNoted { number: 1 }).events.is_empty());
        let given = noted_once();
        let receipt = given.state().outcome().unwrap().receipt.unwrap();
        assert_eq!((receipt.tally.calls_cancelled, receipt.took_ms), (3, RETRY_MS));
        assert_eq!(receipt.cards_voided, 2);
        let then = given.when(begin("second"));
        assert!(then.events.is_empty() && then.effects.is_empty());
        assert_eq!(then.given.state().outcome().unwrap().reason, "first");

        let then = then.given.when(resume());
        assert_eq!((then.rows[0].value.as_ref(), then.effects.len()), (None, 1));
        let then = then.given.when(resume());
        assert!(then.events.is_empty());
        let given = then.given.when(begin("again")).then();
        assert!(given.state().outcome().is_none(), "another freeze, another receipt");
        let given = given.when(finish(1, 1)).then().when(MarkNoted { number: 1 }).then();
        assert!(given.state().is_pending(), "news of the first one says nothing of the second");
    }

    #[test]
    fn a_receipt_names_so_many_and_counts_the_rest() {
        let mut tally = Tally::default();
        for number in 0..ITEMS_MAX as u128 + 5 {
            tally.note(Item::Hold(HoldId(number)), Outcome::Released);
        }
        assert_eq!((tally.items.len(), tally.items_omitted), (ITEMS_MAX, 5));
        assert_eq!(tally.holds_released, ITEMS_MAX as u64 + 5);
    }
}
