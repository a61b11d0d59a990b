//! The commands of a card, in the order of its life, and what it asks of others.

use std::sync::Arc;

use billing::wallet::{Release, Wallet, wallet_address};
use supervision::{
    Class, Command, EffectContext, Handle, Origin, Refusal, Retrying as _, System, Turn, retry,
};
use types::{Amount, AppId, CallId, ConfirmationId, JsonBytes, Personal, TenantId, UserId};

use crate::confirmation::{
    ANSWER, ANSWER_BYTES_MAX, ATTEMPTS_MAX, Approved, CONTENT, CONTENT_BYTES_MAX, Card, Collected,
    Confirmation, ConfirmationEvent, Confirmed, Digest, Done, Expired, Fact, Held, HoldOver,
    Opened, Refused, State, Subject, TTL_MS, Voided,
};
use crate::executor::{Changed, Execution, Executors};
use crate::rules::{Decider, Rules};

/// The code of a card whose round is over; the next round is another card.
pub const ROUND_OVER: &str = "round_over";
/// The code of what could not be found out.
const OUTCOME_UNKNOWN: &str = "outcome_unknown";
/// The most facts, and the longest text of one card that is no content, in bytes.
const FACTS_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// What is asked for, before it has an id.
#[derive(Clone, Debug)]
pub struct Draft {
    /// In which tenant.
    pub tenant: TenantId,
    /// Who asks.
    pub user: UserId,
    /// By which credential, as records show it.
    pub principal: String,
    /// Which executor carries it out.
    pub kind: String,
    /// What it is bound to.
    pub facts: Vec<Fact>,
    /// For people: what will be done.
    pub title: String,
    /// The app, if one is asked for.
    pub app: Option<AppId>,
    /// What exactly.
    pub function: String,
    /// `read`, `write` or `destructive`.
    pub action: String,
    /// What it costs at most, in credits.
    pub price: i64,
    /// What the executor puts by. Nothing personal.
    pub data: JsonBytes,
    /// The bytes that are carried out.
    pub content: String,
    /// Who decides.
    pub rules: Rules,
    /// How long it waits, in milliseconds.
    pub ttl_ms: i64,
}

impl Draft {
    /// What it is bound to.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.kind, &self.facts)
    }

    /// 422 for what no card holds.
    fn check(&self) -> Result<(), Refusal> {
        self.rules.check()?;
        if self.content.len() > CONTENT_BYTES_MAX {
            let message = format!("what waits for a person has at most {CONTENT_BYTES_MAX} bytes");
            return Err(Refusal::invalid("params", message));
        }
        if !(TTL_MS.0..=TTL_MS.1).contains(&self.ttl_ms) {
            return Err(Refusal::invalid("confirmation_ttl", "from a minute to 14 days"));
        }
        let texts = [&self.title, &self.function, &self.action, &self.principal, &self.kind];
        let facts = self.facts.iter().flat_map(|fact| [&fact.name, &fact.value]);
        let is_long = |text: &String| text.len() > TEXT_BYTES_MAX;
        let too_long = texts.into_iter().chain(facts).any(is_long);
        if too_long || self.facts.len() > FACTS_MAX || Amount::new(self.price.max(1)).is_err() {
            let message = format!("a text of more than {TEXT_BYTES_MAX} bytes, or too many facts");
            return Err(Refusal::invalid("confirmation", message));
        }
        Ok(())
    }
}

/// Opens a card. One that waits already, or is being carried out, is answered as it stands; 409
/// [`ROUND_OVER`] for one that is over, 422 for a draft that does not fit.
#[derive(Clone, Debug)]
pub struct Open {
    /// The card's id: see [`crate::desk::id_of`].
    pub id: ConfirmationId,
    /// Which round of its digest it is.
    pub round: u64,
    /// What for.
    pub draft: Draft,
    /// Under which id it runs.
    pub run: CallId,
    /// What is held for it: from here on the card's to end.
    pub held: Option<Held>,
}

impl Command for Open {
    const NAME: &'static str = "open_confirmation";
}

impl Handle<Open> for Confirmation {
    type Reply = Card;

    fn handle(turn: &mut Turn<'_, Self>, command: Open) -> Result<Card, Refusal> {
        let now = turn.now();
        match turn.state().card() {
            Some(card) if card.state.is_over() || card.is_late(now) => {
                return Err(Refusal::conflict(ROUND_OVER, "this was decided before"));
            }
            Some(card) => return Ok(card.clone()),
            None => {}
        }
        let Open { id, round, draft, run, held } = command;
        draft.check()?;
        let content = Personal::seal(turn.keys(), draft.user, CONTENT, &draft.content)?;
        let digest = draft.digest();
        let Draft { tenant, user, principal, kind, facts, title, .. } = draft;
        let Draft { app, function, action, price, data, rules, ttl_ms, .. } = draft;
        let subject =
            Subject { kind, digest, facts, title, app, function, action, price, data, content };
        let expires_at = now.plus_ms(ttl_ms);
        let opened =
            Opened { id, round, tenant, user, principal, subject, rules, run, held, expires_at };
        turn.record(ConfirmationEvent::Opened(Box::new(opened)));
        existing(turn).cloned()
    }
}

fn existing<'a>(turn: &'a Turn<'_, Confirmation>) -> Result<&'a Card, Refusal> {
    turn.state().card().ok_or_else(|| Refusal::not_found("confirmation"))
}

/// Why a card that is not pending is not decided any more: 409 `confirmation_decided`, naming its
/// state, 409 `confirmation_void`, saying what changed, 410 `confirmation_expired`.
pub fn over(card: &Card) -> Refusal {
    let facts = serde_json::json!({"state": card.state.name(), "confirmation_id": card.opened.id});
    match card.state {
        State::Voided => {
            let names: Vec<&str> = card.changed.iter().map(|it| it.name.as_str()).collect();
            let message = match names.as_slice() {
                [] => "this is void".to_owned(),
                names => format!("this is no longer what was asked for: {}", names.join(", ")),
            };
            let facts = serde_json::json!({"state": "voided", "confirmation_id": card.opened.id,
                "reason": card.reason, "changed": card.changed});
            Refusal::conflict("confirmation_void", message).with_facts(&facts)
        }
        State::Expired | State::Pending => {
            let message = "nobody decided this in time; ask for it again";
            let refusal = Refusal::new(Class::Gone, "confirmation_expired", message);
            refusal.with_facts(&facts)
        }
        state => {
            let message = format!("this was decided before: it is {}", state.name());
            Refusal::conflict("confirmation_decided", message).with_facts(&facts)
        }
    }
}

/// Says yes or no. Whoever has said yes before is answered the card as it stands. Refused as
/// [`Rules::admit`] and [`over`], with 403 `panel_required` where it takes this server's page, and
/// with 409 `already_voted`.
#[derive(Clone, Debug)]
pub struct Decide {
    /// Who.
    pub by: Decider,
    /// Yes or no.
    pub approves: bool,
    /// Why, for a no.
    pub reason: Option<String>,
    /// Whether they have logged in for this alone, on this server's page.
    pub in_panel: bool,
}

impl Command for Decide {
    const NAME: &'static str = "decide_confirmation";
}

impl Handle<Decide> for Confirmation {
    type Reply = Card;

    fn handle(turn: &mut Turn<'_, Self>, command: Decide) -> Result<Card, Refusal> {
        let Decide { by, approves, reason, in_panel } = command;
        let card = existing(turn)?;
        let (id, user) = (card.opened.id, card.opened.user);
        card.opened.rules.admit(&by, user)?;
        let has_voted = card.votes.iter().any(|vote| vote.user == by.user);
        let is_carried_out =
            matches!(card.state, State::Confirmed | State::Executed | State::Failed);
        if approves && has_voted && is_carried_out {
            return Ok(card.clone());
        }
        if card.state != State::Pending || card.is_late(turn.now()) {
            return Err(over(card));
        }
        if !approves {
            let by = format!("user/{}", by.user);
            let refused = Refused { id, user, by, reason };
            turn.record(ConfirmationEvent::Rejected(refused));
            ask_again(turn);
            return existing(turn).cloned();
        }
        if card.opened.rules.in_panel && !in_panel {
            let message = "this is confirmed on this server's own page alone";
            let facts = serde_json::json!({"panel_path": format!("/confirmations/{id}")});
            let refusal = Refusal::new(Class::Forbidden, "panel_required", message);
            return Err(refusal.with_facts(&facts));
        }
        if has_voted {
            return Err(Refusal::conflict("already_voted", "you have agreed to this before"));
        }
        let votes: Vec<Decider> = card.votes.iter().cloned().chain([by.clone()]).collect();
        if card.opened.rules.are_met(&votes) {
            turn.record(ConfirmationEvent::Confirmed(Confirmed { id, user, by }));
            ask_again(turn);
        } else {
            turn.record(ConfirmationEvent::Approved(Approved { by }));
        }
        existing(turn).cloned()
    }
}

/// Takes it back. A repetition is answered alike; refused as [`over`].
#[derive(Clone, Debug)]
pub struct Cancel {
    /// Why, if they say.
    pub reason: Option<String>,
}

impl Command for Cancel {
    const NAME: &'static str = "cancel_confirmation";
    const ESSENTIAL: bool = true;
}

impl Handle<Cancel> for Confirmation {
    type Reply = Card;

    fn handle(turn: &mut Turn<'_, Self>, command: Cancel) -> Result<Card, Refusal> {
        let card = existing(turn)?;
        if card.state == State::Cancelled {
            return Ok(card.clone());
        }
        if card.state != State::Pending || card.is_late(turn.now()) {
            return Err(over(card));
        }
        let (id, user) = (card.opened.id, card.opened.user);
        let by = turn.origin().caller.to_string();
        let refused = Refused { id, user, by, reason: command.reason };
        turn.record(ConfirmationEvent::Cancelled(refused));
        ask_again(turn);
        existing(turn).cloned()
    }
}

/// Ends what waits, because what it is for is stopped. What does not wait any more stays as it is.
/// Answers whether it ended by this.
#[derive(Clone, Debug)]
pub struct Void {
    /// Why: a stable code.
    pub why: String,
}

impl Command for Void {
    const NAME: &'static str = "void_confirmation";
    const ESSENTIAL: bool = true;
}

impl Handle<Void> for Confirmation {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: Void) -> Result<bool, Refusal> {
        let card = existing(turn)?;
        if card.state != State::Pending {
            return Ok(false);
        }
        record_void(turn, command.why, Vec::new());
        Ok(true)
    }
}

fn record_void(turn: &mut Turn<'_, Confirmation>, why: String, changed: Vec<Changed>) {
    let Some(card) = turn.state().card() else { return };
    let (id, user) = (card.opened.id, card.opened.user);
    turn.record(ConfirmationEvent::Voided(Voided { id, user, why, changed }));
    ask_again(turn);
}

/// Asks for what the state now waits for.
fn ask_again(turn: &mut Turn<'_, Confirmation>) {
    use supervision::Entity as _;
    let effects = turn.state().resume();
    effects.into_iter().for_each(|effect| turn.effect(effect));
}

/// Notes what came of it. Of a card that is over, nothing changes.
struct Finish {
    execution: Execution,
}

impl Command for Finish {
    const NAME: &'static str = "finish_confirmation";
    const ESSENTIAL: bool = true;
}

impl Handle<Finish> for Confirmation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Finish) -> Result<(), Refusal> {
        if existing(turn)?.state == State::Confirmed {
            finish(turn, command.execution);
        }
        Ok(())
    }
}

fn finish(turn: &mut Turn<'_, Confirmation>, execution: Execution) {
    let Some(card) = turn.state().card() else { return };
    let (id, user) = (card.opened.id, card.opened.user);
    match execution {
        Execution::Changed(changed) => record_void(turn, "changed".to_owned(), changed),
        Execution::Done { succeeded, error_code, answer, settles } => {
            let kept = Some(answer).filter(|answer| answer.len() <= ANSWER_BYTES_MAX);
            // What an erased user was answered is nobody's any more.
            let answer =
                kept.and_then(|answer| Personal::seal(turn.keys(), user, ANSWER, &answer).ok());
            let done = Done { id, user, answer, error_code, settles };
            turn.record(match succeeded {
                true => ConfirmationEvent::Executed(done),
                false => ConfirmationEvent::Failed(done),
            });
            ask_again(turn);
        }
    }
}

/// An answer of this server's own to what could not be carried out.
fn failure(refusal: &Refusal) -> Execution {
    let answer = serde_json::json!({"status": "error", "data": null, "summary": null,
        "error": refusal.message, "ui": null});
    let error_code = Some(refusal.code.clone());
    Execution::Done { succeeded: false, error_code, answer: answer.to_string(), settles: false }
}

/// Takes what came of it, for whoever asked again: once. 410 `already_collected` after that, and
/// for what is not over.
#[derive(Clone, Copy, Debug)]
pub struct Collect {}

impl Command for Collect {
    const NAME: &'static str = "collect_confirmation";
}

impl Handle<Collect> for Confirmation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: Collect) -> Result<(), Refusal> {
        let card = existing(turn)?;
        if !card.state.is_over() || card.collected {
            let message = "what came of this was taken before";
            return Err(Refusal::new(Class::Gone, "already_collected", message));
        }
        turn.record(ConfirmationEvent::Collected(Collected {}));
        Ok(())
    }
}

/// Changes nothing: what an answer is recorded with that was made in several steps.
#[derive(Clone, Copy, Debug)]
pub struct Conclude {}

impl Command for Conclude {
    const NAME: &'static str = "conclude_confirmation";
}

impl Handle<Conclude> for Confirmation {
    type Reply = ();

    fn handle(_: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Notes that what was held has ended.
struct NoteHoldOver;

impl Command for NoteHoldOver {
    const NAME: &'static str = "note_hold_over";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteHoldOver> for Confirmation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: NoteHoldOver) -> Result<(), Refusal> {
        if existing(turn)?.holds {
            turn.record(ConfirmationEvent::HoldOver(HoldOver {}));
        }
        Ok(())
    }
}

/// What is due: a card that waits too long expires, what was not answered is asked for again, and
/// what was asked for too often is given up.
pub(crate) fn due(turn: &mut Turn<'_, Confirmation>) {
    let Some(card) = turn.state().card() else { return };
    if card.is_late(turn.now()) {
        let (id, user) = (card.opened.id, card.opened.user);
        turn.record(ConfirmationEvent::Expired(Expired { id, user }));
        ask_again(turn);
        return;
    }
    let is_over = turn.state().retry_at().is_some_and(|at| at <= turn.now());
    if card.state == State::Confirmed && is_over && turn.state().retry().attempts() >= ATTEMPTS_MAX
    {
        let message = "it is not known whether this was carried out; it is not tried any more";
        finish(turn, failure(&Refusal::conflict(OUTCOME_UNKNOWN, message)));
        return;
    }
    Confirmation::try_again(turn);
}

/// Has a card carried out, and notes what came of it.
pub(crate) async fn execute(card: Card, context: EffectContext<Confirmation>) {
    let EffectContext { system, address, origin, .. } = context;
    let id = card.opened.id;
    let order = card.order(card.content(system.journal().keys()));
    // The principal's act, as part of the decider's request.
    let acting = Origin { caller: card.opened.principal.as_str().into(), ..origin.clone() };
    let outcome = system.port::<Executors>().execute(&system, order, acting).await;
    let execution = match retry::verdict(outcome) {
        None => return,
        Some(Ok(execution)) => execution,
        Some(Err(refusal)) => failure(&refusal),
    };
    let confirmations = system.directory::<Confirmation>();
    if let Err(refusal) = confirmations.ask(&address, Finish { execution }, origin).await {
        tracing::debug!(%refusal, %id, "what came of a confirmation is not noted yet");
    }
}

/// Gives back what was held; what has ended already has ended.
pub(crate) async fn end_hold(tenant: TenantId, held: Held, context: EffectContext<Confirmation>) {
    let EffectContext { system, address, origin, .. } = context;
    let released = release(&system, tenant, held, origin.clone()).await;
    if retry::verdict(released).is_none() {
        return;
    }
    let confirmations = system.directory::<Confirmation>();
    if let Err(refusal) = confirmations.ask(&address, NoteHoldOver, origin).await {
        tracing::debug!(%refusal, hold = %held.hold, "that a hold is over is not noted yet");
    }
}

/// Releases a hold. Refused with what has become of it otherwise.
pub(crate) async fn release(
    system: &Arc<System>,
    tenant: TenantId,
    held: Held,
    origin: Origin,
) -> Result<billing::wallet::Ended, Refusal> {
    let release = Release { hold: held.hold, call: Some(held.call) };
    system.directory::<Wallet>().ask(&wallet_address(tenant), release, origin).await
}
