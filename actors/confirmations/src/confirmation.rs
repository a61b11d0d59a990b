//! A confirmation: something that somebody asked for and that waits until those who decide have
//! decided. One entity a card.
//!
//! What is confirmed is bound by a digest over named facts (whose, what exactly, at which price,
//! under which policy). Asked for again while it waits, the same is the same card: the card's id is
//! made from the digest and its round, see [`crate::desk`]. What was confirmed is carried out by an
//! effect, over the port [`Executors`], with bytes that nobody can change any more.
//!
//! ```text
//! pending -> confirmed -> executed | failed | voided
//!         -> cancelled | rejected | expired | voided
//! ```
//!
//! Invariants
//! - It is decided once, and ends in one state. What is not pending is never confirmed any more.
//! - It is carried out after it was confirmed and at most once: the executor drops repetitions by
//!   the card's id and the run's.
//! - What was held for it ends: whoever carried it out ends it, or the card does, by an effect that
//!   is asked for again until the wallet has answered.
//! - Its bytes and its answer are sealed under the key of the user who asked.
//!
//! Deliberate limits
//! - An answer of more than [`ANSWER_BYTES_MAX`] is not kept; whoever asks again hears so.
//! - What cannot be carried out for [`ATTEMPTS_MAX`] attempts fails with `outcome_unknown`.
//!
//! Rows, all in the shard of the tenant: [`OPEN_FAMILY`] what waits, by tenant, user and time;
//! [`ROUND_FAMILY`] the last round of each digest.

use persistence::codec;
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, EffectContext, Entity, Process, Retried, Retry, Retrying, RowDraft,
    Timestamp, Turn,
};
use types::{
    AppId, CallId, ConfirmationId, HoldId, JsonBytes, Personal, TenantId, UserId, home_of,
    owner_of_tenant, rfc3339,
};

use crate::deciding;
use crate::executor::{Changed, Order};
use crate::rules::{Decider, Rules};

/// The family of the rows of what waits.
pub const OPEN_FAMILY: &str = "confirmation_open";
/// The family of the rows of rounds.
pub const ROUND_FAMILY: &str = "confirmation_round";
/// The most bytes of what waits.
pub const CONTENT_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of an answer that is kept.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The shortest and the longest time that a card waits, in milliseconds.
pub const TTL_MS: (i64, i64) = (60_000, 14 * 24 * 60 * 60 * 1_000);
/// Attempts at carrying out what was confirmed, over about ten minutes.
pub const ATTEMPTS_MAX: u32 = 16;
/// The pauses between them. The first is longer than most calls take.
pub const BACKOFF: Backoff = Backoff { first_ms: 5_000, max_ms: 60_000 };
/// How much longer than its card money is held, in milliseconds: what is confirmed in the last
/// moment is still carried out under its hold.
pub const HOLD_MARGIN_MS: i64 = 10 * 60 * 1_000;
/// Labels of the sealed fields.
pub(crate) const CONTENT: &str = "confirmation.content";
pub(crate) const ANSWER: &str = "confirmation.answer";

/// What a card is bound to: SHA-256 over the canonical JSON of its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// One thing that a card is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What.
    pub name: String,
    /// Its value, or a digest of it.
    pub value: String,
}

impl Fact {
    /// A fact.
    pub fn new(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: value.into() }
    }
}

impl Digest {
    /// Over facts, in whatever order.
    pub fn of(kind: &str, facts: &[Fact]) -> Self {
        let facts = facts.iter().map(|fact| (fact.name.clone(), fact.value.clone().into()));
        let facts = serde_json::Value::Object(facts.collect());
        let text = crate::canonical::canonical(&json!({"kind": kind, "facts": facts}));
        Self(sha256(&[b"bailiwick confirmation", text.as_bytes()]))
    }
}

/// Money that waits with a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The hold.
    pub hold: HoldId,
    /// For whom it was placed: nobody else ends it.
    pub call: CallId,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Which executor carries it out.
    pub kind: String,
    /// Over the facts.
    pub digest: Digest,
    /// What it is bound to.
    pub facts: Vec<Fact>,
    /// For people: what will be done.
    pub title: String,
    /// The app, if one is asked for.
    pub app: Option<AppId>,
    /// What exactly: a function.
    pub function: String,
    /// `read`, `write` or `destructive`.
    pub action: String,
    /// What it costs at most, in credits.
    pub price: i64,
    /// What the executor puts by. Nothing personal.
    pub data: JsonBytes,
    /// The bytes that are carried out.
    pub content: Personal,
}

/// A card was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Its id.
    pub id: ConfirmationId,
    /// Which round of its digest it is, from 0.
    pub round: u64,
    /// In which tenant.
    pub tenant: TenantId,
    /// Whose it is: who asked.
    pub user: UserId,
    /// By which credential, as records show it.
    pub principal: String,
    /// What for.
    pub subject: Subject,
    /// Who decides.
    pub rules: Rules,
    /// Under which id it runs.
    pub run: CallId,
    /// What is held for it.
    pub held: Option<Held>,
    /// Until when it waits.
    pub expires_at: Timestamp,
}

/// Somebody agreed, and it takes more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approved {
    /// Who.
    pub by: Decider,
}

/// Enough have agreed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The card.
    pub id: ConfirmationId,
    /// Whose it is.
    pub user: UserId,
    /// Who was the last.
    pub by: Decider,
}

/// It came to nothing: somebody said so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The card.
    pub id: ConfirmationId,
    /// Whose it is.
    pub user: UserId,
    /// Who, as records show it.
    pub by: String,
    /// Why, if they said.
    pub reason: Option<String>,
}

/// Nobody decided in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expired {
    /// The card.
    pub id: ConfirmationId,
    /// Whose it is.
    pub user: UserId,
}

/// It is no longer what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Voided {
    /// The card.
    pub id: ConfirmationId,
    /// Whose it is.
    pub user: UserId,
    /// Why: a stable code.
    pub why: String,
    /// What changed, if that is why.
    pub changed: Vec<Changed>,
}

/// It was carried out, or could not be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The card.
    pub id: ConfirmationId,
    /// Whose it is.
    pub user: UserId,
    /// What is answered, JSON; `None` for what is too large.
    pub answer: Option<Personal>,
    /// Why it failed.
    pub error_code: Option<String>,
    /// Whether somebody else ends what was held.
    pub settles: bool,
}

/// What was held has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldOver {}

/// What came of it was told to whoever asked again, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collected {}

supervision::events! {
    /// What happens to a confirmation.
    pub enum ConfirmationEvent {
        /// Opened.
        Opened(Box<Opened>) = "opened", 1;
        /// Somebody agreed.
        Approved(Approved) = "approved", 1;
        /// Enough have.
        Confirmed(Confirmed) = "confirmed", 1;
        /// Whoever asked took it back, or an operator did.
        Cancelled(Refused) = "cancelled", 1;
        /// Somebody who decides said no.
        Rejected(Refused) = "rejected", 1;
        /// Nobody decided in time.
        Expired(Expired) = "expired", 1;
        /// It is no longer what it was.
        Voided(Voided) = "voided", 1;
        /// It was carried out.
        Executed(Done) = "executed", 1;
        /// It failed.
        Failed(Done) = "failed", 1;
        /// What was held has ended.
        HoldOver(HoldOver) = "hold_over", 1;
        /// Told.
        Collected(Collected) = "collected", 1;
        /// Tried once more.
        Retried(Retried) = "retried", 1;
    }
}

/// How a card stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It waits.
    Pending,
    /// It is being carried out.
    Confirmed,
    /// It was.
    Executed,
    /// It was tried and did not do what was asked.
    Failed,
    /// It was taken back.
    Cancelled,
    /// Somebody said no.
    Rejected,
    /// Nobody decided in time.
    Expired,
    /// It is no longer what it was.
    Voided,
}

impl State {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Voided => "voided",
        }
    }

    /// Whether nothing changes it any more.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Confirmed)
    }
}

/// A card as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// What it is.
    pub opened: Opened,
    /// Since when.
    pub opened_at: Timestamp,
    /// How it stands.
    pub state: State,
    /// Who has agreed.
    pub votes: Vec<Decider>,
    /// When it was decided, or ended without.
    pub decided_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// Who took it back or said no.
    pub refused_by: Option<String>,
    /// Why it was cancelled, rejected or voided.
    pub reason: Option<String>,
    /// What changed, of a card that is void.
    pub changed: Vec<Changed>,
    /// What came of it.
    pub done: Option<Done>,
    /// Whether that was told; see [`deciding::Collect`].
    pub collected: bool,
    /// Whether the card itself still has to end what was held.
    pub holds: bool,
}

/// A confirmation; empty until it is opened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Confirmation {
    card: Option<Box<Card>>,
    /// Of the effect that it waits for.
    retry: Retry,
}

/// A row of [`OPEN_FAMILY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenRow {
    /// The card.
    pub id: ConfirmationId,
    /// In which tenant.
    pub tenant: TenantId,
    /// Whose.
    pub user: UserId,
    /// What it is, for people.
    pub title: String,
    /// The app.
    pub app: Option<AppId>,
    /// What exactly.
    pub function: String,
    /// `read`, `write` or `destructive`.
    pub action: String,
    /// What it costs at most, in credits.
    pub price: i64,
    /// Since when.
    pub opened_at: Timestamp,
    /// Until when.
    pub expires_at: Timestamp,
}

/// A row of [`ROUND_FAMILY`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundRow {
    /// The last round, from 0.
    pub round: u64,
    /// Whether it is over.
    pub is_over: bool,
}

/// What a confirmation asks of others.
#[derive(Clone, Debug)]
pub enum ConfirmationEffect {
    /// Carry it out.
    Execute(Box<Card>),
    /// Give back what was held.
    EndHold(TenantId, Held),
}

/// What the keys of a user's rows in [`OPEN_FAMILY`] begin with; all of a tenant's without a user.
pub fn open_prefix(tenant: TenantId, user: Option<UserId>) -> Vec<u8> {
    let mut prefix = tenant.0.to_be_bytes().to_vec();
    prefix.extend(user.into_iter().flat_map(|user| user.0.to_be_bytes()));
    prefix
}

fn open_key(opened: &Opened, at: Timestamp) -> Vec<u8> {
    let mut key = open_prefix(opened.tenant, Some(opened.user));
    key.extend(at.0.to_be_bytes());
    key.extend(opened.id.0.to_be_bytes());
    key
}

/// The key of a digest's row in [`ROUND_FAMILY`].
pub fn round_key(tenant: TenantId, digest: &Digest) -> Vec<u8> {
    [&tenant.0.to_be_bytes()[..], &digest.0].concat()
}

impl Card {
    fn new(opened: Opened, opened_at: Timestamp) -> Self {
        Self {
            opened,
            opened_at,
            state: State::Pending,
            votes: Vec::new(),
            decided_at: None,
            ended_at: None,
            refused_by: None,
            reason: None,
            changed: Vec::new(),
            done: None,
            collected: false,
            holds: false,
        }
    }

    fn end(&mut self, state: State, at: Timestamp) {
        self.decided_at.get_or_insert(at);
        (self.state, self.ended_at) = (state, Some(at));
        self.holds = self.opened.held.is_some();
    }

    fn apply(&mut self, event: &ConfirmationEvent, at: Timestamp) {
        match event {
            ConfirmationEvent::Opened(_) | ConfirmationEvent::Retried(_) => {}
            ConfirmationEvent::Approved(it) => self.votes.push(it.by.clone()),
            ConfirmationEvent::Confirmed(it) => {
                self.votes.push(it.by.clone());
                (self.state, self.decided_at) = (State::Confirmed, Some(at));
            }
            ConfirmationEvent::Cancelled(it) => self.refuse(State::Cancelled, it, at),
            ConfirmationEvent::Rejected(it) => self.refuse(State::Rejected, it, at),
            ConfirmationEvent::Expired(_) => self.end(State::Expired, at),
            ConfirmationEvent::Voided(it) => {
                (self.reason, self.changed) = (Some(it.why.clone()), it.changed.clone());
                self.end(State::Voided, at);
            }
            ConfirmationEvent::Executed(it) => self.finish(State::Executed, it, at),
            ConfirmationEvent::Failed(it) => self.finish(State::Failed, it, at),
            ConfirmationEvent::HoldOver(_) => self.holds = false,
            ConfirmationEvent::Collected(_) => self.collected = true,
        }
    }

    fn refuse(&mut self, state: State, refused: &Refused, at: Timestamp) {
        (self.refused_by, self.reason) = (Some(refused.by.clone()), refused.reason.clone());
        self.end(state, at);
    }

    fn finish(&mut self, state: State, done: &Done, at: Timestamp) {
        self.end(state, at);
        self.holds &= !done.settles;
        self.done = Some(done.clone());
    }

    /// Whether this is a card of that tenant's user's.
    pub fn is_of(&self, tenant: TenantId, user: UserId) -> bool {
        self.opened.tenant == tenant && self.opened.user == user
    }

    /// Whether it has waited for too long at that time, whether that was noted or not.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.state == State::Pending && self.opened.expires_at <= now
    }

    /// What an executor is given. `content` is the opened one.
    pub(crate) fn order(&self, content: Option<String>) -> Order {
        let Opened { id, tenant, user, run, subject, held, .. } = &self.opened;
        Order {
            id: *id,
            tenant: *tenant,
            user: *user,
            run: *run,
            kind: subject.kind.clone(),
            facts: subject.facts.clone(),
            data: subject.data.clone(),
            content,
            held: *held,
        }
    }

    /// What waits, in clear; `None` once the user was erased.
    pub fn content(&self, keys: &persistence::KeyRing) -> Option<String> {
        self.opened.subject.content.open(keys, CONTENT)
    }

    /// What was answered, JSON; `None` while there is nothing, for what was too large to keep, and
    /// once the user was erased.
    pub fn answer(&self, keys: &persistence::KeyRing) -> Option<String> {
        self.done.as_ref()?.answer.as_ref()?.open(keys, ANSWER)
    }

    fn effect(&self) -> Option<ConfirmationEffect> {
        match (self.state, self.opened.held.filter(|_| self.holds)) {
            (State::Confirmed, _) => Some(ConfirmationEffect::Execute(Box::new(self.clone()))),
            (_, Some(held)) => Some(ConfirmationEffect::EndHold(self.opened.tenant, held)),
            _ => None,
        }
    }
}

impl Confirmation {
    /// Where a card of a tenant lives.
    pub fn address(id: ConfirmationId, tenant: TenantId) -> Address<Self> {
        let address = Address::new(&id.to_string(), owner_of_tenant(tenant), home_of(tenant));
        // A prefix and 26 characters are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// The card, once it is opened.
    pub fn card(&self) -> Option<&Card> {
        self.card.as_deref()
    }
}

/// Whether an event says how the card was decided, or that it ended.
fn ends(event: &ConfirmationEvent) -> (bool, bool) {
    match event {
        ConfirmationEvent::Confirmed(_) => (true, false),
        ConfirmationEvent::Cancelled(_)
        | ConfirmationEvent::Rejected(_)
        | ConfirmationEvent::Expired(_)
        | ConfirmationEvent::Voided(_)
        | ConfirmationEvent::Executed(_)
        | ConfirmationEvent::Failed(_) => (true, true),
        _ => (false, false),
    }
}

impl Entity for Confirmation {
    const KIND: &'static str = "confirmation";
    type Event = ConfirmationEvent;
    type Effect = ConfirmationEffect;

    fn apply(&mut self, event: &ConfirmationEvent, at: Timestamp) {
        match (event, &mut self.card) {
            (ConfirmationEvent::Opened(opened), card @ None) => {
                *card = Some(Box::new(Card::new((**opened).clone(), at)));
            }
            (event, Some(card)) => card.apply(event, at),
            (_, None) => {}
        }
        match event {
            ConfirmationEvent::Retried(_) => self.retry.again(at, BACKOFF),
            event if ends(event).0 => self.retry = Retry::begin(at, BACKOFF),
            _ => {}
        }
    }

    fn rows(&self, event: &ConfirmationEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let round = |opened: &Opened, is_over| RowDraft {
            family: ROUND_FAMILY,
            key: round_key(opened.tenant, &opened.subject.digest),
            value: codec::encode(&RoundRow { round: opened.round, is_over }).ok(),
        };
        if let ConfirmationEvent::Opened(opened) = event {
            let (key, value) = (open_key(opened, at), codec::encode(&open_row(opened, at)).ok());
            rows.push(RowDraft { family: OPEN_FAMILY, key, value });
            rows.push(round(opened, false));
        }
        let (Some(card), (is_decided, is_over)) = (&self.card, ends(event)) else { return };
        if is_decided && card.state == State::Pending {
            let key = open_key(&card.opened, card.opened_at);
            rows.push(RowDraft { family: OPEN_FAMILY, key, value: None });
        }
        if is_over {
            rows.push(round(&card.opened, true));
        }
    }

    fn is_pending(&self) -> bool {
        self.card().is_some_and(|card| card.effect().is_some())
    }

    fn is_over(&self) -> bool {
        !self.is_pending() && self.card().is_some_and(|card| card.state.is_over())
    }

    fn resume(&self) -> Vec<ConfirmationEffect> {
        self.card().and_then(Card::effect).into_iter().collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        match self.card() {
            Some(card) if card.state == State::Pending => Some(card.opened.expires_at),
            _ => self.retry_at(),
        }
    }

    fn due(turn: &mut Turn<'_, Self>) {
        deciding::due(turn);
    }

    async fn perform(effect: ConfirmationEffect, context: EffectContext<Self>) {
        match effect {
            ConfirmationEffect::Execute(card) => deciding::execute(*card, context).await,
            ConfirmationEffect::EndHold(tenant, held) => {
                deciding::end_hold(tenant, held, context).await;
            }
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(card) = self.card() else { return json!({"exists": false}) };
        let opened = &card.opened;
        json!({
            "state": card.state.name(), "tenant": opened.tenant, "user": opened.user,
            "principal": opened.principal, "kind": opened.subject.kind, "round": opened.round,
            "app": opened.subject.app, "function": opened.subject.function,
            "price": opened.subject.price, "hold": opened.held.map(|held| held.hold),
            "run": opened.run, "opened_at": rfc3339(card.opened_at),
            "expires_at": rfc3339(opened.expires_at), "votes": card.votes.len(),
            "reason": card.reason, "attempts": self.retry.attempts(),
            "error_code": card.done.as_ref().and_then(|done| done.error_code.clone()),
        })
    }
}

fn open_row(opened: &Opened, opened_at: Timestamp) -> OpenRow {
    let Opened { id, tenant, user, subject, expires_at, .. } = opened;
    OpenRow {
        id: *id,
        tenant: *tenant,
        user: *user,
        title: subject.title.clone(),
        app: subject.app.clone(),
        function: subject.function.clone(),
        action: subject.action.clone(),
        price: subject.price,
        opened_at,
        expires_at: *expires_at,
    }
}

impl Process for Confirmation {
    type Outcome = Card;

    /// The card, once nothing but what was held changes any more.
    fn outcome(&self) -> Option<Card> {
        self.card().filter(|card| card.state.is_over()).cloned()
    }
}

impl Retrying for Confirmation {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> ConfirmationEvent {
        ConfirmationEvent::Retried(Retried {})
    }
}
