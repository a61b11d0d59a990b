//! Calls that wait for a person: which do, the cards they become, and how a confirmed one is run.
//!
//! The way of a call meets this twice. Before anything is paid, [`Extensions::hold_back`] takes out
//! what policy holds (`identity::confirmation_policy`): each such call becomes a card with its
//! price held, and is answered as intercepted; the rest of a batch runs. Once a card is confirmed,
//! it comes back here as the executor's order and goes the same way once more, with leave.
//!
//! | who calls | what happens |
//! | --- | --- |
//! | a user, an API key, an agent | what their policy holds waits |
//! | the same, claimed as confirmed | believed of a user's own token, unless the role enforces |
//! | a service, the server itself | nothing waits: automations run without confirmation |
//! | another app's function | what policy holds is refused: `confirmation_required` |
//! | another app's, within a confirmed call | nothing waits |
//! | a function that takes the panel | waits, whatever policy says, but for services |
//!
//! Invariants
//! - A confirmed call is run with the bytes that were confirmed, under the run's id that its card
//!   has had from the beginning, with the card's hold, and with a key made from the card's id: so
//!   it is recorded once, however often it is asked for.
//! - It is run only while everything that it was confirmed under is as it was; else it is void.
//! - What may have acted outside before a crash is not run again: its outcome is unknown.
//! - It runs with no more rights than whoever asked has at that time.
//!
//! Deliberate limits
//! - Panels and other synthetic entries (names that begin with `__`) never wait: they only draw.
//! - What functions in turn call on hosts of their own is not seen by this.

use std::sync::Arc;

use confirmations::confirmation::HOLD_MARGIN_MS;
use confirmations::deciding::{Collect, Draft, Open, ROUND_OVER};
use confirmations::desk::{self, OPEN_MAX, ROUNDS_TRIED_MAX};
use confirmations::executor::changed;
use confirmations::{Card, Confirmation, Digest, Fact, Held, State};
use futures::future::BoxFuture;
use identity::confirmation_policy::ConfirmationPolicy;
use serde_json::json;
use supervision::idempotency::Ticketed;
use supervision::{Address, Class, Entity as _, Origin, Refusal, System};
use types::{AppId, CallId, Caller, CallerKind, ConfirmationId, TenantId, UserId, home_of};

use crate::answer::{CallAnswer, Shape};
use crate::catalogue::CompiledApp;
use crate::flights::Flying;
use crate::hold::Hold;
use crate::ir::{self, ActionType};
use crate::outside::Nesting;
use crate::runtime::{Begun, Call, Extensions, Quote, QuotedCall, Request, begin, scope_of};
use crate::session::{ExtensionSession, Fate, LoseRun};

mod card;
mod executor;

use card::{draft, intercepted, waits_for};

pub use card::answer_of;

/// The kind of cards that are calls.
pub const CALL_KIND: &str = "call";
/// What begins the names of entries that only draw.
const SYNTHETIC: &str = "__";
/// The codes of calls that only the panel releases.
pub const RELEASE_DENIED: &str = "money_release_denied";
/// See [`RELEASE_DENIED`].
pub const RELEASE_OVER: &str = "money_release_already_consumed_or_expired";

/// Who knows what waits, and what somebody may do now. A part of the settings.
pub trait Guard: Send + Sync + 'static {
    /// What waits for a user with this role.
    fn policy<'a>(
        &'a self,
        tenant: TenantId,
        user: UserId,
        role: &'a str,
    ) -> BoxFuture<'a, Result<ConfirmationPolicy, Refusal>>;

    /// A caller from before, with the rights that are left of theirs. Refused when they may do
    /// nothing here any more.
    fn restore(&self, caller: Caller) -> BoxFuture<'_, Result<Caller, Refusal>>;
}

impl std::fmt::Debug for dyn Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

/// A call that a person has confirmed.
#[derive(Debug)]
pub(crate) struct Confirmed {
    pub(crate) id: ConfirmationId,
    run: CallId,
    held: Option<Held>,
    facts: Vec<Fact>,
    /// The text that was confirmed.
    content: String,
}

/// With whose leave a call runs.
#[derive(Clone, Debug, Default)]
pub(crate) enum Leave {
    /// Policy says.
    #[default]
    Policy,
    /// The client says that its user has confirmed it.
    Claimed,
    /// A person has confirmed this very call.
    Confirmed(Arc<Confirmed>),
    /// Policy says, and the run has this number.
    Numbered(CallId),
    /// An app's function calls; whether a person has confirmed what led here.
    Within { is_confirmed: bool },
}

impl Leave {
    /// Of what a run in turn calls.
    pub(crate) fn within(&self) -> Self {
        let is_confirmed = match self {
            Self::Policy | Self::Numbered(_) => false,
            Self::Claimed | Self::Confirmed(_) => true,
            Self::Within { is_confirmed } => *is_confirmed,
        };
        Self::Within { is_confirmed }
    }

    /// Whether a person has confirmed what led here.
    pub(crate) fn is_confirmed(&self) -> bool {
        matches!(self.within(), Self::Within { is_confirmed: true })
    }

    pub(crate) fn confirmed(&self) -> Option<&Confirmed> {
        match self {
            Self::Confirmed(confirmed) => Some(confirmed),
            _ => None,
        }
    }

    /// The id of a run: that of a confirmed call's card, the one that was given, or a new one.
    pub(crate) fn run(&self, system: &System) -> CallId {
        match self {
            Self::Confirmed(confirmed) => confirmed.run,
            Self::Numbered(run) => *run,
            _ => CallId(system.new_id()),
        }
    }
}

/// What a call is to its app.
pub(crate) struct Weighed {
    /// What it may change; `None` for what the app does not have.
    pub(crate) action: Option<ActionType>,
    /// Whether only the panel releases it.
    pub(crate) in_panel: bool,
    /// The app's price and the platform's fee, in credits.
    pub(crate) price: [i64; 2],
}

/// What is called.
pub(crate) struct Called<'a> {
    pub(crate) app: &'a AppId,
    pub(crate) version: &'a str,
    pub(crate) weigh: &'a (dyn Fn(&Call) -> Weighed + Send + Sync),
}

/// The answers of calls that do not run now, by their places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intercepted {
    total: usize,
    held: Vec<(usize, CallAnswer)>,
}

impl Intercepted {
    /// All answers in the order of the calls. What is all of them already stays as it is.
    pub(crate) fn merged(&self, answers: Vec<CallAnswer>) -> Vec<CallAnswer> {
        if self.held.is_empty() || answers.len() == self.total {
            return answers;
        }
        let (mut all, mut others) = (Vec::with_capacity(self.total), answers.into_iter());
        for (place, held) in &self.held {
            all.extend(others.by_ref().take(place - all.len()));
            all.push(held.clone());
        }
        all.extend(others);
        all
    }

    /// The body of all answers.
    pub(crate) fn render(&self, shape: Shape, answers: &[CallAnswer]) -> Vec<u8> {
        match self.held.is_empty() {
            true => shape.render(answers),
            false => shape.render(&self.merged(answers.to_vec())),
        }
    }
}

/// What is left to run.
pub(crate) struct HeldBack {
    pub(crate) calls: Vec<Call>,
    pub(crate) ticket: Option<Ticketed>,
    pub(crate) intercepted: Intercepted,
}

/// What was called, or waits.
#[derive(Clone, Debug)]
pub enum Operated {
    /// It ran.
    Answer(Box<CallAnswer>),
    /// It waits for a person.
    Waits(Box<Card>),
}

/// A card, or what its key has led to meanwhile.
enum Opening {
    Card(Box<Card>),
    Answers(Vec<CallAnswer>),
}

/// How what was opened is recorded: with which key, behind which answers.
struct Recording {
    ticket: Option<Ticketed>,
    before: Intercepted,
    shape: Shape,
}

impl Recording {
    /// The body with the answer that is still missing at `place`.
    fn render(before: Intercepted, shape: Shape, last: (usize, CallAnswer)) -> Vec<u8> {
        let mut all = before;
        all.held.push(last);
        shape.render(&all.merged(Vec::new()))
    }
}

fn is_a_person_asked(caller: &Caller) -> bool {
    matches!(caller.kind, CallerKind::User | CallerKind::ApiKey | CallerKind::Agent)
}

impl Extensions {
    /// Takes out the calls that wait for a person. What is left runs; if nothing is, `intercepted`
    /// holds every answer.
    pub(crate) async fn hold_back(
        &self,
        system: &Arc<System>,
        request: &Request,
        leave: &Leave,
        called: Called<'_>,
        (calls, shape): (Vec<Call>, Shape),
        mut ticket: Option<Ticketed>,
    ) -> Result<HeldBack, Refusal> {
        let mut intercepted = Intercepted { total: calls.len(), held: Vec::new() };
        let guard = self.guard().filter(|_| is_a_person_asked(&request.caller));
        let (Some(guard), Some(user)) = (guard, request.user) else {
            return Ok(HeldBack { calls, ticket, intercepted });
        };
        let policy = guard.policy(request.tenant, user, &request.caller.role).await?;
        if let Leave::Confirmed(confirmed) = leave {
            self.check_confirmed(system, request, confirmed, &called, &calls, &policy).await?;
            return Ok(HeldBack { calls, ticket, intercepted });
        }
        let waits: Vec<bool> = calls
            .iter()
            .map(|call| waits(&policy, request, leave, (&called, call)))
            .collect::<Result<_, _>>()?;
        let all_wait = waits.iter().all(|waits| *waits);
        if !waits.contains(&true) {
            return Ok(HeldBack { calls, ticket, intercepted });
        }
        // Whoever freezes finds this while cards are opened, and what is frozen opens none.
        let (ids, kept) = ((CallId(system.new_id()), None), (shape, calls.as_slice()));
        let flying = Flying::new(system, request, ids, called.app, kept);
        let flight = self.flights().take_off(&self.settings().frozen, flying).await?;
        let (mut rest, last) = (Vec::new(), calls.len() - 1);
        for (place, (call, waits)) in calls.into_iter().zip(waits).enumerate() {
            if !waits {
                rest.push(call);
                continue;
            }
            flight.check()?;
            let weighed = (called.weigh)(&call);
            let (what, content) = ((&called, &call, &weighed), call.params.to_string());
            let draft = draft(request, user, what, content, &policy)?;
            // With nothing to run, the last card records what all are answered.
            let ticket = ticket.take_if(|_| all_wait && place == last);
            let recording = Recording { ticket, before: intercepted.clone(), shape };
            let what = (draft, &call, &weighed, place);
            match (self.ask_person(system, request, called.app, what, recording).await, shape) {
                (Ok(Waiting::Answer(answer)), _) => intercepted.held.push((place, *answer)),
                (Ok(Waiting::Answers(answers)), _) => {
                    let held = answers.into_iter().enumerate().collect();
                    intercepted = Intercepted { total: intercepted.total, held };
                    return Ok(HeldBack { calls: Vec::new(), ticket: None, intercepted });
                }
                (Err(refusal), Shape::Single | Shape::Delivery) => return Err(refusal),
                (Err(refusal), Shape::List) => {
                    let answer = CallAnswer::error(&refusal.code, refusal.message);
                    intercepted.held.push((place, answer));
                }
            }
        }
        Ok(HeldBack { calls: rest, ticket, intercepted })
    }

    /// Has one call wait, or answers what came of it when it had been released before.
    async fn ask_person(
        &self,
        system: &Arc<System>,
        request: &Request,
        app: &AppId,
        (draft, call, weighed, place): (Draft, &Call, &Weighed, usize),
        recording: Recording,
    ) -> Result<Waiting, Refusal> {
        let digest = draft.digest();
        let mut recording = recording;
        if weighed.in_panel
            && let Some((address, card)) = self.released(system, request, &digest).await?
        {
            let answer = answer_of(system, &card);
            let Recording { ticket, before, shape } = recording;
            let (cards, origin) = (system.directory::<Confirmation>(), request.origin.clone());
            let collected = match ticket {
                None => cards.ask(&address, Collect {}, origin).await,
                Some(ticket) => {
                    let body = Recording::render(before, shape, (place, answer.clone()));
                    let render = move |()| body;
                    cards.ask_once(&address, Collect {}, origin, ticket, render).await.map(drop)
                }
            };
            return match collected {
                Ok(()) => Ok(Waiting::Answer(Box::new(answer))),
                Err(refusal) if refusal.class == Class::Gone => Err(release_over()),
                Err(refusal) => Err(refusal),
            };
        }
        let [price, fee] = weighed.price;
        let function = call.function.clone();
        let calls = vec![QuotedCall { function, price, fee }];
        let quote = Quote { total: price + fee, calls, limit: None };
        match self.open(system, request, app, (draft, call, &quote, place), &mut recording).await? {
            Opening::Card(card) => Ok(Waiting::Answer(Box::new(intercepted(&card, call)))),
            Opening::Answers(answers) => Ok(Waiting::Answers(answers)),
        }
    }

    /// What the panel has released, or refused, before. `None` where it is to be asked.
    async fn released(
        &self,
        system: &Arc<System>,
        request: &Request,
        digest: &Digest,
    ) -> Result<Option<(Address<Confirmation>, Card)>, Refusal> {
        let Some(last) = desk::last_round(system, request.tenant, digest) else { return Ok(None) };
        let id = desk::id_of(request.tenant, digest, last.round);
        let origin = request.origin.clone();
        let (address, mut card) = desk::card(system, request.tenant, id, origin.clone()).await?;
        if card.state == State::Confirmed {
            card = system.directory::<Confirmation>().wait(&address, origin.clone()).await?;
        }
        let is_recent = system.now_in(home_of(request.tenant)) < card.opened.expires_at;
        match (card.state, card.collected) {
            (State::Executed | State::Failed, false) => Ok(Some((address, card))),
            (State::Executed | State::Failed, true) if is_recent => Err(release_over()),
            (State::Cancelled | State::Rejected, _) if is_recent => {
                let message = "its user has refused to release this";
                Err(Refusal::conflict(RELEASE_DENIED, message))
            }
            (State::Expired | State::Voided, false) => {
                let cards = system.directory::<Confirmation>();
                // Told once; asked for again it is another card.
                let _ = cards.ask(&address, Collect {}, origin).await;
                Err(release_over())
            }
            _ => Ok(None),
        }
    }

    /// Opens a card, or finds the one that waits. What it costs is held first.
    async fn open(
        &self,
        system: &Arc<System>,
        request: &Request,
        app: &AppId,
        (draft, call, quote, place): (Draft, &Call, &Quote, usize),
        recording: &mut Recording,
    ) -> Result<Opening, Refusal> {
        let (tenant, digest) = (request.tenant, draft.digest());
        let last = desk::last_round(system, tenant, &digest);
        let mut waits = last.is_some_and(|last| !last.is_over);
        let first = last.map_or(0, |last| last.round + u64::from(last.is_over));
        let had_ticket = recording.ticket.is_some();
        let (mut hold, run) = (None, CallId(system.new_id()));
        for round in first..first + ROUNDS_TRIED_MAX {
            if !waits && hold.is_none() {
                let open = desk::open_cards(system, tenant, Some(draft.user), OPEN_MAX);
                if open.len() >= OPEN_MAX {
                    let message = format!("{OPEN_MAX} calls wait for their user already");
                    let code = "too_many_confirmations";
                    return Err(Refusal::new(Class::TooMany, code, message).retry_after(60_000));
                }
                let ttl_ms = draft.ttl_ms + HOLD_MARGIN_MS;
                hold = Some(Hold::place(system, request, run, quote, (app, ttl_ms)).await?);
            }
            waits = false;
            if had_ticket && recording.ticket.is_none() {
                let address = scope_of(request, app.clone()).address();
                match begin(system, &address, request.idempotency.as_ref()).await? {
                    Begun::Recorded(answers) => return Ok(Opening::Answers(answers)),
                    Begun::New(ticket) => recording.ticket = ticket,
                }
            }
            let held = hold.as_ref().and_then(|hold| hold.id).map(|hold| Held { hold, call: run });
            let id = desk::id_of(tenant, &digest, round);
            let open = Open { id, round, draft: draft.clone(), run, held };
            if let Some(hold) = &mut hold {
                hold.give();
            }
            let opened = self.send(system, request, open, (call, place), recording).await;
            let is_taken = match &opened {
                Ok(card) => card.opened.run == run,
                Err(refusal) => refusal.class == Class::InDoubt,
            };
            if let Some(hold) = hold.as_mut().filter(|_| !is_taken) {
                hold.take_back();
            }
            match opened {
                Ok(card) => return Ok(Opening::Card(Box::new(card))),
                Err(refusal) if refusal.code == ROUND_OVER => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::busy())
    }

    async fn send(
        &self,
        system: &Arc<System>,
        request: &Request,
        open: Open,
        (call, place): (&Call, usize),
        recording: &mut Recording,
    ) -> Result<Card, Refusal> {
        let (cards, origin) = (system.directory::<Confirmation>(), request.origin.clone());
        let address = Confirmation::address(open.id, open.draft.tenant);
        let Some(ticket) = recording.ticket.take() else {
            return cards.ask(&address, open, origin).await;
        };
        let (sender, opened) = std::sync::mpsc::sync_channel(1);
        let (before, shape, call) = (recording.before.clone(), recording.shape, call.clone());
        let render = move |card: Card| {
            let answer = intercepted(&card, &call);
            let _ = sender.send(card);
            Recording::render(before, shape, (place, answer))
        };
        cards.ask_once(&address, open, origin, ticket, render).await?;
        opened.try_recv().map_err(|_| Refusal::crashed())
    }

    /// 409 `confirmation_void`, saying what changed, unless a confirmed call is what it was; 409
    /// `outcome_unknown` when it may have acted outside before the server ended.
    async fn check_confirmed(
        &self,
        system: &Arc<System>,
        request: &Request,
        confirmed: &Confirmed,
        called: &Called<'_>,
        calls: &[Call],
        policy: &ConfirmationPolicy,
    ) -> Result<(), Refusal> {
        let ([call], Some(user)) = (calls, request.user) else { return Err(Refusal::crashed()) };
        // What has acted is never void.
        self.check_unbegun(system, request, confirmed, called).await?;
        let weighed = (called.weigh)(call);
        let (what, content) = ((called, call, &weighed), confirmed.content.clone());
        let now = draft(request, user, what, content, policy)?;
        let changed = changed(&confirmed.facts, &now.facts);
        if !changed.is_empty() {
            let facts = json!({"changed": changed});
            let refusal = Refusal::conflict(VOID, "this is no longer what was confirmed");
            return Err(refusal.with_facts(&facts));
        }
        Ok(())
    }

    async fn check_unbegun(
        &self,
        system: &Arc<System>,
        request: &Request,
        confirmed: &Confirmed,
        called: &Called<'_>,
    ) -> Result<(), Refusal> {
        let address = scope_of(request, called.app.clone()).address();
        if system.locate(ExtensionSession::KIND, address.id()).is_none() {
            return Ok(());
        }
        let (sessions, run) = (system.directory::<ExtensionSession>(), confirmed.run);
        let origin = request.origin.clone();
        if sessions.look(&address, origin.clone(), move |it| it.fate(run)).await? == Fate::Unknown {
            return Ok(());
        }
        sessions.ask(&address, LoseRun { id: run }, origin).await?;
        let message = "the server ended while this acted outside: what came of it is not known";
        Err(Refusal::conflict("outcome_unknown", message))
    }

    /// The money for a run: what was held for the card of a confirmed call, or a new hold. A task
    /// takes longer than a card's money is held, and so holds its own.
    pub(crate) async fn pay(
        &self,
        system: &Arc<System>,
        request: &Request,
        (id, leave, as_task): (CallId, &Leave, bool),
        quote: &Quote,
        place: (&AppId, i64),
    ) -> Result<Hold, Refusal> {
        match leave.confirmed() {
            None => Hold::place(system, request, id, quote, place).await,
            // What costs nothing was counted when its card was opened.
            Some(confirmed) if as_task && confirmed.held.is_some() => {
                Hold::end_of_card(system, request, confirmed.held).await;
                Hold::place(system, request, id, quote, place).await
            }
            Some(confirmed) => {
                let (tenant, origin) = (request.tenant, request.origin.clone());
                Ok(Hold::of_card(system, tenant, origin, confirmed.held))
            }
        }
    }

    /// Whether a claim of this caller's that their user has confirmed counts, here and in what the
    /// call leads to.
    async fn believes_claims_of(&self, request: &Request) -> Result<bool, Refusal> {
        let (Some(guard), Some(user)) = (self.guard(), request.user) else { return Ok(false) };
        if request.caller.kind != CallerKind::User {
            return Ok(false);
        }
        let policy = guard.policy(request.tenant, user, &request.caller.role).await?;
        Ok(!policy.is_enforced())
    }

    /// Calls one function, by the guarded way: what waits for a person is answered as its card.
    /// That the client says its user has confirmed it is believed where the module's head says.
    pub async fn operate(
        &self,
        system: &Arc<System>,
        request: Request,
        call: Call,
        is_claimed: bool,
    ) -> Result<Operated, Refusal> {
        let is_believed = is_claimed && self.believes_claims_of(&request).await?;
        let leave = if is_believed { Leave::Claimed } else { Leave::Policy };
        let whose = (request.tenant, request.user, request.origin.clone());
        let function = call.function.clone();
        let nesting = Nesting { leave, ..Nesting::root() };
        let answer = self.call_nested(system, request, call, nesting).await?;
        Ok(operated(system, whose, answer, &function).await)
    }
}

/// What an answer is: of a call that waits it is the card, if it is really one of theirs.
pub(crate) async fn operated(
    system: &Arc<System>,
    (tenant, user, origin): (TenantId, Option<UserId>, Origin),
    answer: CallAnswer,
    function: &str,
) -> Operated {
    if let (Some(id), Some(user)) = (waits_for(&answer), user)
        && let Ok((_, card)) = desk::card(system, tenant, id, origin).await
        && card.is_of(tenant, user)
        && card.opened.subject.function == function
    {
        return Operated::Waits(Box::new(card));
    }
    Operated::Answer(Box::new(answer))
}

/// The code of what is no longer what was confirmed.
const VOID: &str = "confirmation_void";

/// What was asked of a person.
enum Waiting {
    /// The answer to this call.
    Answer(Box<CallAnswer>),
    /// What the request's key has led to before.
    Answers(Vec<CallAnswer>),
}

/// Whether a call waits. 409 `confirmation_required` where it would have to, and cannot.
fn waits(
    policy: &ConfirmationPolicy,
    request: &Request,
    leave: &Leave,
    (called, call): (&Called<'_>, &Call),
) -> Result<bool, Refusal> {
    let Weighed { action: Some(action), in_panel, .. } = (called.weigh)(call) else {
        return Ok(false);
    };
    let is_held = policy.holds(called.app.as_str(), &call.function, action.into());
    let is_held = in_panel || is_held && !call.function.starts_with(SYNTHETIC);
    match leave {
        Leave::Within { is_confirmed: false } if is_held => {
            let message = format!("{}.{} waits for a person", called.app, call.function);
            Err(Refusal::conflict("confirmation_required", message))
        }
        Leave::Within { .. } => Ok(false),
        Leave::Claimed if !in_panel && request.caller.kind == CallerKind::User => {
            Ok(is_held && policy.is_enforced())
        }
        _ => Ok(is_held),
    }
}

fn release_over() -> Refusal {
    let message = "what was released here was used, or nobody released it in time";
    Refusal::new(Class::Gone, RELEASE_OVER, message)
}

/// What a function of a built-in app is.
pub(crate) fn of_built_in(app: &dyn crate::built_in::BuiltIn, call: &Call) -> Weighed {
    let action = app.action_type(&call.function);
    Weighed { action, in_panel: app.needs_panel(&call.function), price: [0, 0] }
}

impl Extensions {
    /// What a function of an app is.
    pub(crate) fn weigh(&self, app: &CompiledApp, ir: &ir::App, call: &Call) -> Weighed {
        let Quote { calls, .. } = self.price(app, ir, std::slice::from_ref(call));
        let price = calls.first().map_or([0, 0], |quoted| [quoted.price, quoted.fee]);
        let action = match ir.callable(&call.function) {
            Some(ir::Callable::Function(function)) => Some(function.action_type),
            Some(ir::Callable::Panel(_)) | None => None,
        };
        Weighed { action, in_panel: false, price }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn answers(names: &[&str]) -> Vec<CallAnswer> {
        names.iter().map(|name| CallAnswer::success(json!(name))).collect()
    }

    #[test]
    fn answers_stand_in_the_order_of_the_calls() {
        let [held, other] = [0, 1].map(|at| answers(&["held", "other"])[at].clone());
        let names = |intercepted: &Intercepted, ran: &[&str]| -> Vec<Value> {
            intercepted.merged(answers(ran)).into_iter().map(|answer| answer.data).collect()
        };
        let some = Intercepted { total: 4, held: vec![(0, held.clone()), (2, other.clone())] };
        assert_eq!(names(&some, &["a", "b"]), ["held", "a", "other", "b"].map(Value::from));
        assert_eq!(names(&some, &["1", "2", "3", "4"]), ["1", "2", "3", "4"].map(Value::from));
        let all = Intercepted { total: 2, held: vec![(0, held), (1, other)] };
        assert_eq!(names(&all, &[]), ["held", "other"].map(Value::from));
        assert_eq!(names(&Intercepted::default(), &["a"]), ["a"].map(Value::from));
    }

    #[test]
    fn what_an_app_calls_has_the_leave_of_what_led_there() {
        let is_confirmed = |leave: &Leave| match leave.within() {
            Leave::Within { is_confirmed } => is_confirmed,
            other => panic!("{other:?}"),
        };
        assert!(!is_confirmed(&Leave::Policy) && is_confirmed(&Leave::Claimed));
        let within = |is_confirmed| Leave::Within { is_confirmed };
        assert!(is_confirmed(&within(true)) && !is_confirmed(&within(false)));
    }
}
