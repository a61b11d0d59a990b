//! What a tenant, or an operator, wants of a subscription, in the order of its life.
//!
//! An order that has to be paid for answers with the charge, which whoever orders collects
//! ([`super::collecting`]); the same order again, while it is not decided, answers with the same
//! charge. An order carries its request: one that was fulfilled is answered alike.

use serde::Serialize;
use supervision::{Class, Command, Handle, Refusal, Timestamp, Turn};
use types::{TenantId, rfc3339};
use utoipa::ToSchema;

use super::charges::{self, Due, What};
use super::terms::{Choice, Mode, Status, Term, Turnover};
use super::{
    CHARGE_CENTS_MIN, CancellationSet, ChangeScheduled, GRANTS_WAITING_MAX, PeriodBegun,
    PlanChanged, Subscription, SubscriptionEnded, SubscriptionEvent, WalletTold, due, tell,
};
use crate::plans::{FREE, plan};

/// Characters of an operator's note.
pub const NOTE_CHARACTERS_MAX: usize = 500;
/// The most that may be agreed for a period, in cents: well below 2^53.
pub const CONTRACT_CENTS_MAX: i64 = 1_000_000_000_000;

/// How an order goes on.
pub struct Asked {
    /// What it is: `subscribe`, `upgrade`, `downgrade`, `keep` or `renew`.
    pub action: &'static str,
    /// The plan that is wanted.
    pub plan: String,
    /// What comes next.
    pub outcome: Outcome,
}

/// What comes next.
pub enum Outcome {
    /// Nothing: it is done.
    Done,
    /// It comes about then.
    From(Timestamp),
    /// This is to be collected.
    Charge(Box<Due>),
}

impl Asked {
    fn new(action: &'static str, plan: &str, outcome: Outcome) -> Self {
        Self { action, plan: plan.to_owned(), outcome }
    }

    fn charge(action: &'static str, due: Due) -> Self {
        let plan = due.what.choice().plan.clone();
        Self { action, plan, outcome: Outcome::Charge(Box::new(due)) }
    }
}

/// A plan that a tenant may choose by itself.
fn check_choice(choice: &Choice) -> Result<(), Refusal> {
    let known = plan(&choice.plan);
    let known = known.ok_or_else(|| Refusal::invalid("plan_id", "there is no such plan"))?;
    if known.self_service {
        return Ok(());
    }
    let message = match known.id == FREE.id {
        true => "cancel the subscription to be on the free plan".to_owned(),
        false => format!("{} is arranged with the platform; ask an operator for it", known.name),
    };
    Err(Refusal::new(Class::Forbidden, "plan_not_self_service", message))
}

fn no_subscription() -> Refusal {
    Refusal::conflict("no_subscription", "there is no subscription; subscribe to a plan")
}

fn managed() -> Refusal {
    let message = "this plan is arranged with the platform; ask an operator to change it";
    Refusal::conflict("plan_is_managed", message)
}

fn past_due() -> Refusal {
    Refusal::conflict("past_due", "the present plan is not paid for; renew it first")
}

/// What is open already: the charge itself when it is for the same, 409 otherwise.
fn open_charge(
    state: &Subscription,
    is_same: impl Fn(&What) -> bool,
) -> Result<Option<Due>, Refusal> {
    match &state.charge {
        None => Ok(None),
        Some(due) if is_same(&due.what) => Ok(Some(due.clone())),
        Some(due) => {
            let message = "a payment is under way; wait for it, or confirm it with your bank";
            let facts = serde_json::json!({"what": due.what.name(),
                "plan": due.what.choice().plan, "amount_cents": due.amount_cents});
            Err(Refusal::conflict("payment_pending", message).with_facts(&facts))
        }
    }
}

fn check_room(state: &Subscription) -> Result<(), Refusal> {
    let has_room = state.grants.len() < GRANTS_WAITING_MAX;
    has_room.then_some(()).ok_or_else(Refusal::busy)
}

/// Subscribes: see [`super::collecting::subscribe`].
pub struct Subscribe {
    /// Whose it is.
    pub tenant: TenantId,
    /// What is wanted.
    pub choice: Choice,
    /// The request.
    pub request: u128,
}

impl Command for Subscribe {
    const NAME: &'static str = "subscribe";
}

impl Handle<Subscribe> for Subscription {
    type Reply = Asked;

    fn handle(turn: &mut Turn<'_, Self>, command: Subscribe) -> Result<Asked, Refusal> {
        let Subscribe { tenant, choice, request } = command;
        let (action, state) = ("subscribe", turn.state());
        check_choice(&choice)?;
        if state.fulfilled == Some(request) {
            return Ok(Asked::new(action, &choice.plan, Outcome::Done));
        }
        if let Some(term) = state.running() {
            return Err(match (term.mode, term.status) {
                (Mode::Manual, _) => managed(),
                (_, Status::PastDue) => past_due(),
                _ => {
                    let message = format!("the plan is {}; change it", term.choice.plan);
                    Refusal::conflict("already_subscribed", message)
                }
            });
        }
        let wanted = What::Begin(choice.clone());
        if let Some(due) = open_charge(state, |what| *what == wanted)? {
            return Ok(Asked::charge(action, due));
        }
        check_room(state)?;
        let price = (choice.price_cents(), 0);
        Ok(Asked::charge(action, charges::begin(turn, tenant, wanted, price, Some(request))))
    }
}

/// Changes the plan: see [`super::collecting::change_plan`].
pub struct ChangePlan {
    /// Whose it is.
    pub tenant: TenantId,
    /// What is wanted.
    pub choice: Choice,
    /// The request.
    pub request: u128,
}

impl Command for ChangePlan {
    const NAME: &'static str = "change_plan";
}

impl Handle<ChangePlan> for Subscription {
    type Reply = Asked;

    fn handle(turn: &mut Turn<'_, Self>, command: ChangePlan) -> Result<Asked, Refusal> {
        let ChangePlan { tenant, choice, request } = command;
        let (state, now) = (turn.state(), turn.now());
        check_choice(&choice)?;
        if state.fulfilled == Some(request) {
            return Ok(Asked::new("upgrade", &choice.plan, Outcome::Done));
        }
        let term = state.running().ok_or_else(no_subscription)?.clone();
        check_changeable(&term, now)?;
        let is_same =
            |what: &What| matches!(what, What::Within(it) | What::Anew(it) if *it == choice);
        if let Some(due) = open_charge(state, is_same)? {
            return Ok(Asked::charge("upgrade", due));
        }
        check_room(state)?;
        let turnover = Turnover::of(&term, &choice, now);
        let (amount_cents, credits) = match charges::price_of(turnover) {
            Some(price) => price,
            None => return schedule(turn, &term, choice),
        };
        let what = match turnover {
            Turnover::Anew { .. } => What::Anew(choice.clone()),
            _ => What::Within(choice.clone()),
        };
        if amount_cents >= CHARGE_CENTS_MIN {
            let price = (amount_cents, credits);
            let due = charges::begin(turn, tenant, what, price, Some(request));
            return Ok(Asked::charge("upgrade", due));
        }
        let answer = Asked::new("upgrade", &choice.plan, Outcome::Done);
        charges::change_within(turn, choice, credits, Some(request));
        tell(turn);
        Ok(answer)
    }
}

fn check_changeable(term: &Term, now: Timestamp) -> Result<(), Refusal> {
    match (term.mode, term.status) {
        (Mode::Manual, _) => Err(managed()),
        (_, Status::PastDue) => Err(past_due()),
        _ if term.period_end() <= now => Err(past_due()),
        _ if term.cancel_at_period_end => {
            let message = "the subscription ends with this period; resume it first";
            Err(Refusal::conflict("ends_with_period", message))
        }
        _ => Ok(()),
    }
}

/// A change of the next period alone.
fn schedule(
    turn: &mut Turn<'_, Subscription>,
    term: &Term,
    choice: Choice,
) -> Result<Asked, Refusal> {
    if choice != term.choice {
        let answer = Asked::new("downgrade", &choice.plan, Outcome::From(term.period_end()));
        if term.scheduled.as_ref() != Some(&choice) {
            let next = Some(choice);
            turn.record(SubscriptionEvent::ChangeScheduled(ChangeScheduled { next }));
        }
        return Ok(answer);
    }
    if term.scheduled.is_none() {
        let message = format!("the plan is {} already", choice.plan);
        return Err(Refusal::conflict("already_on_plan", message));
    }
    turn.record(SubscriptionEvent::ChangeScheduled(ChangeScheduled { next: None }));
    Ok(Asked::new("keep", &choice.plan, Outcome::Done))
}

/// Collects one new period: see [`super::collecting::renew`].
pub struct Renew {
    /// Whose it is.
    pub tenant: TenantId,
    /// The request.
    pub request: u128,
}

impl Command for Renew {
    const NAME: &'static str = "renew";
}

impl Handle<Renew> for Subscription {
    type Reply = Asked;

    fn handle(turn: &mut Turn<'_, Self>, command: Renew) -> Result<Asked, Refusal> {
        let Renew { tenant, request } = command;
        let (action, state) = ("renew", turn.state());
        let Some(term) = state.term.clone() else { return Err(no_subscription()) };
        if state.fulfilled == Some(request) {
            return Ok(Asked::new(action, &term.choice.plan, Outcome::Done));
        }
        let (status, again) = (term.status, What::Begin(term.choice.clone()));
        let is_same = |what: &What| match status {
            Status::PastDue => matches!(what, What::Renew(_)),
            _ => *what == again,
        };
        if !matches!(status, Status::PastDue | Status::Expired) {
            let message = format!("the subscription is {}, not past due or expired", status.name());
            return Err(Refusal::conflict("not_expired", message));
        }
        if term.mode == Mode::Manual {
            return Err(managed());
        }
        if let Some(due) = open_charge(state, is_same)? {
            return Ok(Asked::charge(action, due));
        }
        check_room(state)?;
        let due = match status {
            Status::PastDue => due::renew(turn, Some(request)),
            _ => {
                let price = (term.choice.price_cents(), 0);
                Some(charges::begin(turn, tenant, again, price, Some(request)))
            }
        };
        tell(turn);
        let plan = term.next().plan.clone();
        Ok(due.map_or(Asked::new(action, &plan, Outcome::Done), |due| Asked::charge(action, due)))
    }
}

/// Ends the subscription with its period; at once when the period is over and not paid for. A
/// repetition is no change. Refused: 409 `no_subscription`, `plan_is_managed`, `payment_pending`.
pub struct Cancel;

impl Command for Cancel {
    const NAME: &'static str = "cancel";
}

impl Handle<Cancel> for Subscription {
    type Reply = SubscriptionView;

    fn handle(turn: &mut Turn<'_, Self>, _: Cancel) -> Result<SubscriptionView, Refusal> {
        let state = turn.state();
        let term = state.running().ok_or_else(no_subscription)?;
        if term.mode == Mode::Manual {
            return Err(managed());
        }
        let is_renewing = |due: &Due| matches!(due.what, What::Renew(_));
        if state.asked().is_some_and(is_renewing) {
            open_charge(state, |_| false)?;
        }
        if term.status == Status::PastDue {
            charges::give_up(turn);
            end(turn, Status::Cancelled);
        } else if !term.cancel_at_period_end {
            let at_period_end = true;
            let set = CancellationSet { at_period_end };
            turn.record(SubscriptionEvent::CancellationSet(set));
        }
        tell(turn);
        Ok(turn.state().view())
    }
}

fn end(turn: &mut Turn<'_, Subscription>, status: Status) {
    turn.record(SubscriptionEvent::Ended(SubscriptionEnded { status }));
}

/// Takes a [`Cancel`] back while the period lasts. Refused: 409 `not_cancelled`,
/// `no_subscription`.
pub struct Resume;

impl Command for Resume {
    const NAME: &'static str = "resume";
}

impl Handle<Resume> for Subscription {
    type Reply = SubscriptionView;

    fn handle(turn: &mut Turn<'_, Self>, _: Resume) -> Result<SubscriptionView, Refusal> {
        let term = turn.state().running().ok_or_else(no_subscription)?;
        if !term.cancel_at_period_end || term.period_end() <= turn.now() {
            let message = "the subscription does not end with its period";
            return Err(Refusal::conflict("not_cancelled", message));
        }
        let at_period_end = false;
        turn.record(SubscriptionEvent::CancellationSet(CancellationSet { at_period_end }));
        Ok(turn.state().view())
    }
}

/// Puts a tenant on a plan, as an operator has agreed with it: at once, and collected by nobody
/// here. Within a running period of the same length the plan alone changes, with the share of the
/// credits that is left; otherwise a period begins now. The free plan ends what there is. A
/// repetition is no change. Refused: 422, and 409 `payment_pending` while it is unknown what became
/// of a charge.
pub struct Assign {
    /// Whose it is.
    pub tenant: TenantId,
    /// What was agreed.
    pub choice: Choice,
    /// What a period costs, in cents.
    pub contract_amount_cents: Option<i64>,
    /// What is to be noted of it.
    pub note: Option<String>,
}

impl Assign {
    fn check(&self) -> Result<(), Refusal> {
        if plan(&self.choice.plan).is_none() {
            return Err(Refusal::invalid("plan_id", "there is no such plan"));
        }
        if !(0..=CONTRACT_CENTS_MAX).contains(&self.contract_amount_cents.unwrap_or_default()) {
            let message = format!("must be 0 to {CONTRACT_CENTS_MAX}");
            return Err(Refusal::invalid("contract_amount_cents", message));
        }
        let note = self.note.as_deref().unwrap_or_default();
        if note.chars().count() > NOTE_CHARACTERS_MAX {
            let message = format!("at most {NOTE_CHARACTERS_MAX} characters");
            return Err(Refusal::invalid("note", message));
        }
        Ok(())
    }
}

impl Command for Assign {
    const NAME: &'static str = "assign_plan";
}

impl Handle<Assign> for Subscription {
    type Reply = SubscriptionView;

    fn handle(turn: &mut Turn<'_, Self>, command: Assign) -> Result<SubscriptionView, Refusal> {
        command.check()?;
        let (state, now) = (turn.state(), turn.now());
        if state.asked().is_some() {
            open_charge(state, |_| false)?;
        }
        check_room(state)?;
        let running = state.running().cloned();
        let Assign { tenant, choice, contract_amount_cents, note } = command;
        let in_period = running.filter(|term| {
            let lasts = term.status == Status::Active && term.period_end() > now;
            lasts && term.choice.period == choice.period
        });
        let is_unchanged = in_period.as_ref().is_some_and(|term| {
            let agreed = (term.contract_amount_cents, &term.note);
            (term.mode, &term.choice, agreed)
                == (Mode::Manual, &choice, (contract_amount_cents, &note))
        });
        if is_unchanged {
            return Ok(state.view());
        }
        charges::give_up(turn);
        if choice.plan == FREE.id {
            if turn.state().running().is_some() {
                end(turn, Status::Cancelled);
            }
        } else if let Some(term) = in_period {
            let mode = Mode::Manual;
            let extra = match Turnover::of(&term, &choice, now) {
                Turnover::Within { credits, .. } => credits,
                _ => 0,
            };
            let (plan, from, request) = (choice.plan, term.choice.plan, None);
            let changed = PlanChanged { plan, from, mode, contract_amount_cents, note, request };
            turn.record(SubscriptionEvent::PlanChanged(changed));
            due::grant_extra(turn, extra);
        } else {
            let (run, anchor) = (due::next_run(turn.state()), now);
            turn.record(SubscriptionEvent::PeriodBegun(PeriodBegun {
                tenant,
                run,
                anchor,
                from_month: 0,
                until_month: choice.period.months(),
                choice,
                mode: Mode::Manual,
                contract_amount_cents,
                note,
            }));
            due::grant_month(turn, None);
        }
        tell(turn);
        Ok(turn.state().view())
    }
}

/// Answers how it stands: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
    const ESSENTIAL: bool = true;
}

impl Handle<Conclude> for Subscription {
    type Reply = SubscriptionView;

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<SubscriptionView, Refusal> {
        Ok(turn.state().view())
    }
}

impl Command for WalletTold {
    const NAME: &'static str = "wallet_told";
    const ESSENTIAL: bool = true;
}

impl Handle<WalletTold> for Subscription {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, told: WalletTold) -> Result<(), Refusal> {
        let state = turn.state();
        let is_news = told.said > state.heard
            || state.grants.iter().any(|credits| told.grants.contains(&credits.grant));
        if is_news {
            turn.record(SubscriptionEvent::WalletTold(told));
        }
        Ok(())
    }
}

/// A subscription as callers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SubscriptionView {
    /// The plan's id: the one subscribed to, or last subscribed to when it is over; `free` where
    /// there never was one
    pub plan: String,
    /// `active`, `past_due`, `cancelled` or `expired`; in the last two the free plan is in effect
    pub status: String,
    /// RFC 3339
    pub started_at: Option<String>,
    /// RFC 3339; when the present period ends, or it ended
    pub expires_at: Option<String>,
    /// Whether it ends with the present period
    pub cancel_at_period_end: bool,
    /// `card`, `manual` as arranged with an operator, or `free`
    pub billing_mode: String,
    /// Whether a payment method must be there for it to go on
    pub card_required: bool,
    /// What was agreed for a period
    pub contract_amount_cents: Option<i64>,
    /// What the operator has noted of it
    pub billing_note: Option<String>,
}

impl Subscription {
    /// As callers see it.
    pub fn view(&self) -> SubscriptionView {
        let Some(term) = &self.term else {
            return SubscriptionView {
                plan: FREE.id.to_owned(),
                status: Status::Active.name().to_owned(),
                started_at: None,
                expires_at: None,
                cancel_at_period_end: false,
                billing_mode: "free".to_owned(),
                card_required: false,
                contract_amount_cents: None,
                billing_note: None,
            };
        };
        let is_running = term.is_running();
        SubscriptionView {
            plan: term.choice.plan.clone(),
            status: term.status.name().to_owned(),
            started_at: Some(rfc3339(term.started_at)),
            expires_at: Some(rfc3339(term.ended_at.unwrap_or_else(|| term.period_end()))),
            cancel_at_period_end: term.cancel_at_period_end,
            billing_mode: if is_running { term.mode.name() } else { "free" }.to_owned(),
            card_required: is_running && term.mode == Mode::Card,
            contract_amount_cents: term.contract_amount_cents,
            billing_note: term.note.clone(),
        }
    }
}
