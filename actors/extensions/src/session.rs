//! An extension session: what one user of one tenant did with one app, and the documents that came
//! of it.
//!
//! A call or batch runs beside this actor, on a view of the durable documents, and hands back one
//! [`ApplyRun`]: what it did, what it read, what it wrote. One turn checks the versions of all that
//! was read and records everything as one event, with the documents as rows; then the money that
//! was held for it is settled.
//!
//! Invariants
//! - A run is applied as a whole or not at all, and once: a repeated id changes nothing.
//! - A run that read a document in another version than the present one is not applied.
//! - What was applied is settled, after a restart too: the settlement is the shadow of the pending
//!   run, and the wallet draws from a hold once.
//!
//! Deliberate limits
//! - Documents that came into being, or came to match, after they were listed do not count as
//!   changed: see the head of [`crate::view`].
//! - Ids of runs are remembered for 24 h, at most [`RUNS_REMEMBERED_MAX`] of them.
//! - A run whose hold expired before it could be settled (the server was down longer than the hold
//!   lives) is charged late: what the wallet cannot pay, it owes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Class, Command, EffectContext, Entity, Handle, Need, Refusal, Retried, Retry,
    Retrying, RowDraft, Timestamp, Turn,
};
use types::{
    AppId, CallId, ConfirmationId, HoldId, JsonBytes, SharePercent, TenantId, UserId, base32,
    home_of, owner_of_tenant,
};

use crate::ir::ActionType;

pub mod indexes;
mod past;
mod settling;
mod started;
pub use settling::MarkSettled;
pub use started::{
    Completed, Fate, LoseRun, Lost, STARTED_MAX, STARTED_MS_MAX, STARTED_TASK_MS_MAX, StartRun,
    Started, StartedCall, Usage,
};

/// The family of the documents' rows.
pub const DOCUMENT_FAMILY: &str = "document";
/// Items of one batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Runs whose money is not settled yet.
pub const UNSETTLED_MAX: usize = 4_096;
/// Ids of runs that are remembered.
pub const RUNS_REMEMBERED_MAX: usize = 4_096;
/// How long the id of a run is remembered, in milliseconds.
pub const RUNS_REMEMBERED_MS: i64 = 24 * 60 * 60 * 1_000;
/// Characters of a function's name in a record; what is longer is cut.
pub const FUNCTION_CHARACTERS_MAX: usize = 128;
/// The pauses between two tries of a settlement.
pub const SETTLE_BACKOFF: Backoff = Backoff { first_ms: 2_000, max_ms: 60_000 };
/// The code of a refused [`ApplyRun`] that read what has changed since.
pub const DOCUMENTS_CHANGED: &str = "documents_changed";

/// Whose documents: a tenant's, an app's, a user's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The tenant.
    pub tenant: TenantId,
    /// The user; [`NOBODY`] for calls that no user made.
    pub user: UserId,
    /// The app.
    pub app: AppId,
}

/// The user `~app`, to whom the documents of calls without a user belong.
pub const NOBODY: UserId = UserId(0);

impl Scope {
    /// Where the session lives.
    pub fn address(&self) -> Address<ExtensionSession> {
        let id = format!("{}.{}.{}", base32(self.tenant.0), base32(self.user.0), self.app);
        let address = Address::new(&id, owner_of_tenant(self.tenant), home_of(self.tenant));
        // 54 characters of base32 and dots and a slug are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// What the keys of a kind's documents begin with. The kind holds no zero byte.
    pub fn kind_prefix(&self, kind: &str) -> Vec<u8> {
        let (tenant, user) = (self.tenant.0.to_be_bytes(), self.user.0.to_be_bytes());
        let app = self.app.as_str().as_bytes();
        [&tenant[..], app, &[0], &user, kind.as_bytes(), &[0]].concat()
    }

    /// The key of a document's row.
    pub fn document_key(&self, kind: &str, id: u128) -> Vec<u8> {
        let mut key = self.kind_prefix(kind);
        key.extend(id.to_be_bytes());
        key
    }
}

/// A document's row. The version comes first: it is read without the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredDocument {
    /// From 1 up, one more with each change.
    pub version: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The app's own fields, a JSON object.
    pub data: JsonBytes,
}

/// The key of a row that was read, and the version of the document in it; `None` for what was not
/// there.
pub type ReadRow = (Vec<u8>, Option<u64>);

/// A change of one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentWrite {
    /// Its kind.
    pub kind: String,
    /// Its id.
    pub id: u128,
    /// What it is from now on; `None` when it is removed.
    pub document: Option<StoredDocument>,
}

/// How much a function may change, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It reads.
    Read,
    /// It adds or changes.
    Write,
    /// It takes away.
    Destructive,
}

impl From<ActionType> for Action {
    fn from(action: ActionType) -> Self {
        match action {
            ActionType::Read => Self::Read,
            ActionType::Write => Self::Write,
            ActionType::Destructive => Self::Destructive,
        }
    }
}

/// One call of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RanItem {
    /// Its place in the batch, from 0.
    pub index: u32,
    /// The function, cut to [`FUNCTION_CHARACTERS_MAX`].
    pub function: String,
    /// What it may change.
    pub action: Action,
    /// Whether it did what was asked. A failed one costs nothing.
    pub succeeded: bool,
    /// The app's price, in credits.
    pub price: i64,
    /// The platform's fee, in credits.
    pub fee: i64,
    /// Why it failed.
    pub error_code: Option<String>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// A run that is not settled yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unsettled {
    tenant: TenantId,
    app: AppId,
    hold: HoldId,
    share: SharePercent,
    /// Index, price and fee of each item that is paid for.
    items: Vec<(u32, i64, i64)>,
}

/// An extension session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExtensionSession {
    /// Runs that act outside the server.
    started: BTreeMap<CallId, Started>,
    indexes: indexes::Indexes,
    unsettled: BTreeMap<CallId, Unsettled>,
    /// Of the oldest one of them.
    retry: Retry,
    remembered: BTreeMap<CallId, Timestamp>,
    /// The same by when they ended: the run of a card or a task has an older id.
    by_age: BTreeSet<(Timestamp, CallId)>,
    runs: u64,
    items: u64,
    failed: u64,
    charged: i64,
    /// Tokens that completions have read and written.
    tokens: [u64; 2],
}

/// A call or batch ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// The call or batch.
    pub id: CallId,
    /// Whose session it is.
    pub scope: Scope,
    /// The app's version that ran; empty for an app that is built in.
    pub app_version: String,
    /// The calls, in their order.
    pub items: Vec<RanItem>,
    /// What became of documents.
    pub writes: Vec<DocumentWrite>,
    /// What was held for it.
    pub hold: Option<HoldId>,
    /// The developer's share of the price.
    pub share: SharePercent,
    /// The card on which a person has confirmed it.
    pub confirmation: Option<ConfirmationId>,
}

/// The functions of a run told what they declare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Emitted {
    /// The call or batch.
    pub id: CallId,
    /// Whose session it is.
    pub scope: Scope,
    /// In the order of the calls.
    pub events: Vec<AppEvent>,
}

/// An event that an app declares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppEvent {
    /// The call's place in the batch, from 0.
    pub index: u32,
    /// The function, cut to [`FUNCTION_CHARACTERS_MAX`].
    pub function: String,
    /// The event: the app's id, a dot, and the name that the function declares.
    pub name: String,
    /// What the function answered; `None` if that is too large to be told.
    pub data: Option<JsonBytes>,
}

/// What was held for a run was drawn, or could not be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The call or batch.
    pub id: CallId,
    /// What it cost, in credits.
    pub charged: i64,
    /// The code with which the wallet refused; then nothing was charged.
    pub refused: Option<String>,
}

supervision::events! {
    /// What happens in an extension session.
    pub enum SessionEvent {
        /// A call or batch ran.
        Ran(Ran) = "ran", 2, was 1 as past::RanV1;
        /// Its functions told what they declare.
        Emitted(Emitted) = "emitted", 1;
        /// It was paid for.
        Settled(Settled) = "settled", 1;
        /// What is not paid for is tried once more.
        Retried(Retried) = "retried", 1;
        /// It is about to act outside the server.
        Started(Started) = "started", 1;
        /// What it did outside will not be known.
        Lost(Lost) = "lost", 1;
        /// What its completions have used.
        Completed(Completed) = "completed", 1;
        /// Its documents' indexes are others.
        Indexed(indexes::Indexed) = "indexed", 1;
    }
}

/// What a session asks of others.
#[derive(Clone, Debug)]
pub struct SettleRun {
    id: CallId,
    run: Unsettled,
}

impl Entity for ExtensionSession {
    const KIND: &'static str = "extension_session";
    const SNAPSHOT_VERSION: u16 = 5;
    type Event = SessionEvent;
    type Effect = SettleRun;

    fn apply(&mut self, event: &SessionEvent, at: Timestamp) {
        match event {
            SessionEvent::Ran(ran) => {
                self.started.remove(&ran.id);
                self.count(&ran.items);
                self.remember(ran.id, at);
                if let Some(hold) = ran.hold {
                    let paid = ran.items.iter().filter(|item| item.succeeded);
                    let run = Unsettled {
                        tenant: ran.scope.tenant,
                        app: ran.scope.app.clone(),
                        hold,
                        share: ran.share,
                        items: paid.map(|item| (item.index, item.price, item.fee)).collect(),
                    };
                    self.owe(ran.id, run, at);
                }
            }
            SessionEvent::Emitted(_) => {}
            SessionEvent::Indexed(indexed) => self.indexes.apply(indexed),
            SessionEvent::Settled(settled) => {
                // Ids sort by age: as long as the oldest is another each time, nothing is stuck.
                if self.unsettled.first_key_value().is_some_and(|(id, _)| *id == settled.id) {
                    self.retry = Retry::begin(at, SETTLE_BACKOFF);
                }
                self.unsettled.remove(&settled.id);
                self.charged = self.charged.saturating_add(settled.charged);
            }
            SessionEvent::Retried(_) => self.retry.again(at, SETTLE_BACKOFF),
            SessionEvent::Started(started) => {
                self.started.insert(started.id, started.clone());
            }
            SessionEvent::Lost(lost) => {
                self.count(&lost.items);
                self.remember(lost.id, at);
                let started = self.started.remove(&lost.id);
                if let Some((hold, started)) = started.and_then(|it| Some((it.hold?, it))) {
                    let Scope { tenant, app, .. } = started.scope;
                    let (share, items) = (started.share, Vec::new());
                    let run = Unsettled { tenant, app, hold, share, items };
                    self.owe(lost.id, run, at);
                }
            }
            SessionEvent::Completed(completed) => {
                for usage in &completed.usage {
                    let [read, written] = &mut self.tokens;
                    *read = read.saturating_add(usage.prompt_tokens);
                    *written = written.saturating_add(usage.completion_tokens);
                }
            }
        }
    }

    fn rows(&self, event: &SessionEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        let SessionEvent::Ran(ran) = event else { return self.indexes.rows(event, rows) };
        rows.extend(ran.writes.iter().map(|write| {
            let key = ran.scope.document_key(&write.kind, write.id);
            // What cannot be encoded has no row; the codec writes every text.
            let value = write.document.as_ref().and_then(|it| codec::encode(it).ok());
            RowDraft { family: DOCUMENT_FAMILY, key, value }
        }));
    }

    fn is_pending(&self) -> bool {
        !self.unsettled.is_empty() || !self.started.is_empty()
    }

    fn resume(&self) -> Vec<SettleRun> {
        let settle = |(id, run): (&CallId, &Unsettled)| SettleRun { id: *id, run: run.clone() };
        self.unsettled.iter().map(settle).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let lost = self.started.values().map(|started| started.until).min();
        [self.retry_at(), lost].into_iter().flatten().min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
        started::lose_late(turn);
    }

    async fn perform(effect: SettleRun, context: EffectContext<Self>) {
        settling::settle(effect, context).await;
    }

    fn observe(&self) -> serde_json::Value {
        json!({
            "runs": self.runs,
            "items": self.items,
            "failed": self.failed,
            "charged": self.charged,
            "tokens_read": self.tokens[0],
            "tokens_written": self.tokens[1],
            "started": self.started.keys().collect::<Vec<_>>(),
            "unsettled": self.unsettled.keys().collect::<Vec<_>>(),
            "remembered": self.remembered.len(),
            "indexes": self.indexes.observe(),
        })
    }
}

impl ExtensionSession {
    /// Whether no further run can be settled for now.
    fn is_full(&self) -> bool {
        self.unsettled.len() >= UNSETTLED_MAX
    }

    fn count(&mut self, items: &[RanItem]) {
        self.runs += 1;
        self.items += items.len() as u64;
        self.failed += items.iter().filter(|item| !item.succeeded).count() as u64;
    }

    fn remember(&mut self, id: CallId, at: Timestamp) {
        if let Some(before) = self.remembered.insert(id, at) {
            self.by_age.remove(&(before, id));
        }
        self.by_age.insert((at, id));
        while let Some((since, oldest)) = self.by_age.first().copied() {
            let is_over = since.plus_ms(RUNS_REMEMBERED_MS) <= at;
            if self.remembered.len() <= RUNS_REMEMBERED_MAX && !is_over {
                break;
            }
            self.by_age.pop_first();
            self.remembered.remove(&oldest);
        }
    }

    /// A run is to be settled from now on.
    fn owe(&mut self, id: CallId, run: Unsettled, at: Timestamp) {
        if self.unsettled.is_empty() {
            self.retry = Retry::begin(at, SETTLE_BACKOFF);
        }
        self.unsettled.insert(id, run);
    }
}

impl Retrying for ExtensionSession {
    /// Runs that are started wait for their own time, not for another try.
    fn retry_at(&self) -> Option<Timestamp> {
        (!self.unsettled.is_empty()).then(|| self.retry.next_at())
    }

    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> SessionEvent {
        SessionEvent::Retried(Retried {})
    }
}

/// Takes a run in. Refused with [`DOCUMENTS_CHANGED`] when something it read is another now.
#[derive(Clone, Debug)]
pub struct ApplyRun {
    /// What ran, and what it wrote.
    pub ran: Ran,
    /// What it read.
    pub reads: Vec<ReadRow>,
    /// What its completions have used.
    pub usage: Vec<Usage>,
    /// Whether it was started. One that was lost since is not applied (409, `run_lost`).
    pub is_started: bool,
    /// What its functions tell.
    pub events: Vec<AppEvent>,
}

/// How an [`ApplyRun`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was taken in.
    Now,
    /// It had been before.
    Before,
}

impl Command for ApplyRun {
    const NAME: &'static str = "apply_run";
}

impl Handle<ApplyRun> for ExtensionSession {
    type Reply = Applied;

    fn needs(command: &ApplyRun) -> Vec<Need> {
        let need = |(key, _): &ReadRow| Need::Row(DOCUMENT_FAMILY, key.clone());
        command.reads.iter().map(need).collect()
    }

    fn handle(turn: &mut Turn<'_, Self>, command: ApplyRun) -> Result<Applied, Refusal> {
        let ApplyRun { ran, reads, usage, is_started, events } = command;
        let session = turn.state();
        if is_started && !session.started.contains_key(&ran.id) {
            let message = "this took too long: what it did outside is recorded as unknown";
            return Err(Refusal::conflict("run_lost", message));
        }
        if session.remembered.contains_key(&ran.id) {
            return Ok(Applied::Before);
        }
        if ran.items.len() > BATCH_ITEMS_MAX {
            return Err(Refusal::invalid("calls", format!("at most {BATCH_ITEMS_MAX} calls")));
        }
        if ran.hold.is_some() && session.is_full() {
            return Err(Refusal::busy());
        }
        let found: HashMap<&[u8], u64> = turn
            .found()
            .iter()
            .filter_map(|row| Some((row.key.as_slice(), version_of(&row.value)?)))
            .collect();
        let changed = |(key, version): &ReadRow| found.get(key.as_slice()) != version.as_ref();
        if reads.iter().any(changed) {
            let message = "documents that were read have changed meanwhile; try again";
            let refusal = Refusal::new(Class::Busy, DOCUMENTS_CHANGED, message);
            return Err(refusal.retry_after(50));
        }
        let (id, scope) = (ran.id, ran.scope.clone());
        let indexed = session.indexes.written(&scope, &ran.writes, turn.found());
        turn.record(SessionEvent::Ran(ran));
        indexes::record(turn, indexed);
        if !usage.is_empty() {
            turn.record(SessionEvent::Completed(Completed { id, usage }));
        }
        if !events.is_empty() {
            turn.record(SessionEvent::Emitted(Emitted { id, scope, events }));
        }
        let run = turn.state().unsettled.get(&id).cloned();
        if let Some(run) = run {
            turn.effect(SettleRun { id, run });
        }
        Ok(Applied::Now)
    }
}

/// The version in a document's row.
fn version_of(row: &[u8]) -> Option<u64> {
    codec::decode_prefix::<u64>(row).ok().map(|(version, _)| version)
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn scope() -> Scope {
        Scope { tenant: TenantId(7), user: UserId(8), app: AppId::new("shelf").unwrap() }
    }

    fn item(index: u32, succeeded: bool) -> RanItem {
        RanItem {
            index,
            function: "add_book".to_owned(),
            action: Action::Write,
            succeeded,
            price: 2,
            fee: 1,
            error_code: (!succeeded).then(|| "step_failed".to_owned()),
            duration_us: 40,
        }
    }

    fn document(version: u64) -> StoredDocument {
        let at = Timestamp(5);
        let data = JsonBytes::from(json!({"title": "Emma"}));
        StoredDocument { version, created_at: at, updated_at: at, data }
    }

    fn run(id: u128, reads: &[ReadRow]) -> ApplyRun {
        let write = DocumentWrite { kind: "book".to_owned(), id: 1, document: Some(document(2)) };
        let ran = Ran {
            id: CallId(id),
            scope: scope(),
            app_version: "1.0.0".to_owned(),
            items: vec![item(0, true), item(1, false)],
            writes: vec![write],
            hold: Some(HoldId(id)),
            share: SharePercent::new(70).unwrap(),
            confirmation: None,
        };
        let reads = reads.to_vec();
        ApplyRun { ran, reads, usage: Vec::new(), is_started: false, events: Vec::new() }
    }

    #[test]
    fn a_run_is_applied_once_and_settled_for_what_succeeded() {
        let then = Given::<ExtensionSession>::nothing().when(run(1, &[]));
        assert_eq!(then.outcome, Ok(Applied::Now));
        let row = &then.rows[0];
        assert_eq!(row.key, scope().document_key("book", 1));
        assert_eq!(
            codec::decode::<StoredDocument>(row.value.as_ref().unwrap()).unwrap().version,
            2
        );
        assert_eq!(then.effects[0].run.items, [(0, 2, 1)]);
        let given = then.then();
        assert!(given.state().is_pending());
        assert_eq!(given.state().resume().len(), 1);
        let then = given.when(run(1, &[]));
        assert_eq!((then.outcome.clone(), then.events.len()), (Ok(Applied::Before), 0));
        let done = MarkSettled { id: CallId(1), charged: 3, refused: None };
        let given = then.then().when(done.clone()).then();
        assert!(!given.state().is_pending());
        assert!(given.when(done).events.is_empty());
    }

    #[test]
    fn what_is_not_settled_is_tried_again_and_what_goes_on_is_not() {
        let given = Given::<ExtensionSession>::nothing().when(run(1, &[])).then();
        let given = given.when(run(2, &[])).then().later_ms(SETTLE_BACKOFF.first_ms - 1);
        // The oldest is settled, so the next one's time begins.
        let settled = |id| MarkSettled { id: CallId(id), charged: 3, refused: None };
        let given = given.when(settled(1)).then().later_ms(SETTLE_BACKOFF.first_ms - 1);
        let then = given.when_due();
        assert!(then.events.is_empty());
        let then = then.given.later_ms(1).when_due();
        let tried: Vec<_> = then.effects.iter().map(|effect| effect.id).collect();
        assert_eq!(tried, [CallId(2)]);
        // A later one that is settled does not put it off.
        let given = then.given.when(run(3, &[])).then().when(settled(3)).then();
        let then = given.later_ms(2 * SETTLE_BACKOFF.first_ms).when_due();
        assert_eq!(then.effects.len(), 1);
        let given = then.given.when(settled(2)).then();
        assert_eq!(given.state().next_deadline(), None);
    }

    #[test]
    fn a_run_that_read_what_has_changed_is_refused_and_changes_nothing() {
        let key = scope().document_key("book", 1);
        let row = codec::encode(&document(2)).unwrap();
        let given = || Given::<ExtensionSession>::nothing().row(DOCUMENT_FAMILY, &key, &row);
        for stale in [Some(1), Some(3), None] {
            let then = given().when(run(1, &[(key.clone(), stale)]));
            assert!(then.rows.is_empty());
            assert_eq!(then.refused().0, DOCUMENTS_CHANGED, "{stale:?}");
        }
        let (applied, _) = given().when(run(1, &[(key.clone(), Some(2))])).reply();
        assert_eq!(applied, Applied::Now);
        let gone = Given::<ExtensionSession>::nothing().when(run(1, &[(key.clone(), Some(2))]));
        assert_eq!(gone.refused().0, DOCUMENTS_CHANGED);
        let absent = Given::<ExtensionSession>::nothing().when(run(1, &[(key.clone(), None)]));
        assert_eq!(absent.outcome, Ok(Applied::Now));
    }

    #[test]
    fn ids_of_runs_are_forgotten_after_a_day() {
        let given = Given::<ExtensionSession>::nothing().when(run(1, &[])).then();
        let given = given.later_ms(RUNS_REMEMBERED_MS).when(run(2, &[])).then();
        assert_eq!(given.state().remembered.len(), 1);
    }

    #[test]
    fn keys_of_documents_do_not_run_into_each_other() {
        let (scope, other) = (scope(), Scope { app: AppId::new("shelf2").unwrap(), ..scope() });
        assert!(scope.document_key("book", 1).starts_with(&scope.kind_prefix("book")));
        assert!(!scope.document_key("books", 1).starts_with(&scope.kind_prefix("book")));
        assert!(!other.document_key("book", 1).starts_with(&scope.kind_prefix("book")));
        assert!(scope.document_key("book", 1) < scope.document_key("book", 2));
    }
}
