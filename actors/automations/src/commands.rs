//! What is asked of a tenant's automations, in the order of a rule's life.

use std::sync::Arc;

use serde_json::json;
use supervision::{Class, Command, Handle, Refusal, Timestamp, Turn};
use types::{ExecutionId, Personal, TenantId, UserId};

use crate::automations::{
    Automations, AutomationsEvent, CarryOut, ExecutionEnded, ExecutionStarted, Place, RULES_MAX,
    RUNNING_MAX, RuleChanged, RuleCreated, RuleDeleted, RuleResumed, RuleStopped, SlotPassed, Stop,
};
use crate::execution::{CHAIN_MAX, EXECUTION_MS_MAX, End, Execution, Outcome, Source, id_of};
use crate::rule::{FAILURES_IN_ROW_MAX, Limits, Maker, NotifyMode, Pass, Rule, Status};
use crate::trigger::Trigger;

/// Rules that one turn looks at because their time has come; the next turn goes on.
const DUE_PER_TURN_MAX: usize = 200;
/// The code of what took too long.
pub const TIME_EXCEEDED: &str = "time_exceeded";
/// The code in the object that clients of the older interface read.
const QUOTA_CODE: &str = "AUTOMATION_QUOTA_EXCEEDED";
/// See [`QUOTA_CODE`]: the code of the refusal itself.
pub const QUOTA: &str = "automation_quota_exceeded";

fn missing() -> Refusal {
    Refusal::not_found("automation")
}

/// A rule of a user's; of anybody's, for a service.
fn owned(
    turn: &Turn<'_, Automations>,
    id: u64,
    user: Option<UserId>,
) -> Result<Arc<Rule>, Refusal> {
    let rule = turn.state().rule(id).filter(|rule| user.is_none_or(|user| rule.user == user));
    rule.cloned().ok_or_else(missing)
}

/// The next slot of a trigger's schedule, from now on.
fn next_slot(trigger: &Trigger, now: Timestamp) -> Option<Timestamp> {
    trigger.schedule()?.next(now)
}

/// Makes a rule. One that the same request has made is answered again; 429
/// `automation_quota_exceeded` beyond what the plan allows.
#[derive(Clone, Debug)]
pub struct CreateRule {
    /// In which tenant.
    pub tenant: TenantId,
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub user: UserId,
    /// Its words.
    pub words: Personal,
    /// What sets it off.
    pub trigger: Trigger,
    /// How often at most.
    pub limits: Limits,
    /// What is told.
    pub notify: NotifyMode,
    /// With what it is made.
    pub maker: Maker,
    /// The request or call that makes it.
    pub made_by: u128,
    /// Events behind this record set it off.
    pub from_seq: u64,
    /// How many a tenant may have, on which plan.
    pub cap: (Option<i64>, &'static str),
}

impl Command for CreateRule {
    const NAME: &'static str = "create_automation";
}

/// 429: so many are there. The detail is the object that clients read.
pub(crate) fn over_quota(used: usize, (cap, plan): (Option<i64>, &'static str)) -> Refusal {
    let most = cap.unwrap_or(RULES_MAX as i64);
    let quota = json!({"cap": most, "used": used, "remaining": (most - used as i64).max(0),
        "unlimited": cap.is_none(), "plan": plan});
    let message = format!("this tenant has {used} automations, and its plan allows {most}");
    let facts = json!({"detail": {"error_code": QUOTA_CODE, "message": message, "quota": quota}});
    Refusal::new(Class::TooMany, QUOTA, message).with_facts(&facts)
}

impl Handle<CreateRule> for Automations {
    type Reply = Arc<Rule>;

    fn handle(turn: &mut Turn<'_, Self>, command: CreateRule) -> Result<Arc<Rule>, Refusal> {
        let made_by = command.made_by;
        if let Some(made) = turn.state().rules().find(|rule| rule.made_by == made_by) {
            return Ok(made.clone());
        }
        let used = turn.state().rules.len();
        let most = command.cap.0.unwrap_or(i64::MAX).min(RULES_MAX as i64);
        if used as i64 >= most {
            return Err(over_quota(used, command.cap));
        }
        let next_slot = next_slot(&command.trigger, turn.now());
        if command.trigger.schedule.is_some() && next_slot.is_none() {
            return Err(Refusal::invalid("trigger_filter.schedule", "never comes round"));
        }
        let id = command.id;
        turn.record(AutomationsEvent::RuleCreated(RuleCreated {
            tenant: command.tenant,
            id,
            user: command.user,
            words: command.words,
            trigger: command.trigger,
            limits: command.limits,
            notify: command.notify,
            maker: command.maker,
            made_by,
            from_seq: command.from_seq,
            next_slot,
        }));
        turn.state().rule(id).cloned().ok_or_else(missing)
    }
}

/// Changes a rule; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ChangeRule {
    /// The rule.
    pub id: u64,
    /// Whose it must be.
    pub user: Option<UserId>,
    /// The pause after each time, in seconds.
    pub cooldown_seconds: Option<i64>,
    /// The most times within an hour.
    pub max_per_hour: Option<i64>,
    /// After so many times it pauses.
    pub max_iterations: Option<i64>,
    /// What sets it off.
    pub trigger: Option<Trigger>,
    /// How it is to be.
    pub status: Option<Status>,
    /// Events behind this record set it off, if it is set off by others from now on.
    pub from_seq: u64,
}

impl Command for ChangeRule {
    const NAME: &'static str = "change_automation";
}

impl Handle<ChangeRule> for Automations {
    type Reply = Arc<Rule>;

    fn handle(turn: &mut Turn<'_, Self>, command: ChangeRule) -> Result<Arc<Rule>, Refusal> {
        let rule = owned(turn, command.id, command.user)?;
        let limits = Limits {
            cooldown_seconds: command.cooldown_seconds.unwrap_or(rule.limits.cooldown_seconds),
            max_per_hour: command.max_per_hour.unwrap_or(rule.limits.max_per_hour),
            max_iterations: command.max_iterations.unwrap_or(rule.limits.max_iterations),
        };
        limits.check()?;
        let trigger = command.trigger.unwrap_or_else(|| rule.trigger.clone());
        trigger.check()?;
        let is_other = trigger != rule.trigger;
        let slot = match is_other {
            true => next_slot(&trigger, turn.now()).filter(|_| rule.status == Status::Active),
            false => rule.next_slot,
        };
        if is_other && trigger.schedule.is_some() && next_slot(&trigger, turn.now()).is_none() {
            return Err(Refusal::invalid("trigger_filter.schedule", "never comes round"));
        }
        if is_other || limits != rule.limits {
            let from_seq = if is_other { command.from_seq } else { rule.from_seq };
            let (id, user, next_slot) = (rule.id, rule.user, slot);
            let changed = RuleChanged { id, user, trigger, limits, from_seq, next_slot };
            turn.record(AutomationsEvent::RuleChanged(changed));
        }
        match command.status.filter(|status| *status != rule.status) {
            None => {}
            Some(Status::Active) => drop(resume(turn, rule.id, command.from_seq)),
            Some(Status::Paused) => stop(turn, &rule, Stop::Asked),
            Some(Status::Error) => stop(turn, &rule, Stop::Failed),
        }
        turn.state().rule(rule.id).cloned().ok_or_else(missing)
    }
}

fn stop(turn: &mut Turn<'_, Automations>, rule: &Rule, why: Stop) {
    let stopped = RuleStopped { id: rule.id, user: rule.user, why };
    turn.record(AutomationsEvent::RuleStopped(stopped));
}

/// Says whether it is counted from 0 again.
fn resume(turn: &mut Turn<'_, Automations>, id: u64, from_seq: u64) -> bool {
    let now = turn.now();
    let Some(rule) = turn.state().rule(id) else { return false };
    let (is_count_reset, next_slot) = (rule.is_worn_out(), next_slot(&rule.trigger, now));
    let user = rule.user;
    let resumed = RuleResumed { id, user, is_count_reset, from_seq, next_slot };
    turn.record(AutomationsEvent::RuleResumed(resumed));
    is_count_reset
}

/// Sets a rule off no more, until it is resumed. Answers how it is.
#[derive(Clone, Copy, Debug)]
pub struct PauseRule {
    /// The rule.
    pub id: u64,
    /// Whose it must be.
    pub user: Option<UserId>,
}

impl Command for PauseRule {
    const NAME: &'static str = "pause_automation";
    const ESSENTIAL: bool = true;
}

impl Handle<PauseRule> for Automations {
    type Reply = Status;

    fn handle(turn: &mut Turn<'_, Self>, command: PauseRule) -> Result<Status, Refusal> {
        let rule = owned(turn, command.id, command.user)?;
        if rule.status == Status::Active {
            stop(turn, &rule, Stop::Asked);
        }
        Ok(turn.state().rule(rule.id).map_or(rule.status, |rule| rule.status))
    }
}

/// Sets a rule off again; answers whether it is counted from 0. What happened while it was paused
/// does not set it off.
#[derive(Clone, Copy, Debug)]
pub struct ResumeRule {
    /// The rule.
    pub id: u64,
    /// Whose it must be.
    pub user: Option<UserId>,
    /// Events behind this record set it off.
    pub from_seq: u64,
}

impl Command for ResumeRule {
    const NAME: &'static str = "resume_automation";
}

impl Handle<ResumeRule> for Automations {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: ResumeRule) -> Result<bool, Refusal> {
        let rule = owned(turn, command.id, command.user)?;
        if rule.status == Status::Active {
            return Ok(false);
        }
        Ok(resume(turn, rule.id, command.from_seq))
    }
}

/// Ends a rule, its executions with it.
#[derive(Clone, Copy, Debug)]
pub struct DeleteRule {
    /// The rule.
    pub id: u64,
    /// Whose it must be.
    pub user: Option<UserId>,
}

impl Command for DeleteRule {
    const NAME: &'static str = "delete_automation";
    const ESSENTIAL: bool = true;
}

impl Handle<DeleteRule> for Automations {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: DeleteRule) -> Result<u64, Refusal> {
        let rule = owned(turn, command.id, command.user)?;
        delete(turn, rule.id, rule.user);
        Ok(rule.id)
    }
}

fn delete(turn: &mut Turn<'_, Automations>, id: u64, user: UserId) {
    let of_it = |execution: &Execution| execution.rule == id;
    end_those(turn, of_it, || End::because(Outcome::Cancelled, "automation_deleted", Vec::new()));
    turn.record(AutomationsEvent::RuleDeleted(RuleDeleted { id, user }));
}

/// Ends executions; says how many.
fn end_those(
    turn: &mut Turn<'_, Automations>,
    is_it: impl Fn(&Execution) -> bool,
    end: impl Fn() -> End,
) -> usize {
    let all = turn.state().running.values();
    let ended: Vec<_> =
        all.filter(|it| is_it(&it.execution)).map(|it| it.execution.clone()).collect();
    for execution in &ended {
        conclude(turn, execution, end());
    }
    ended.len()
}

/// Ends all rules of a user who is erased. Says how many there were.
#[derive(Clone, Copy, Debug)]
pub struct ForgetUser(pub UserId);

impl Command for ForgetUser {
    const NAME: &'static str = "forget_automations";
    const ESSENTIAL: bool = true;
}

impl Handle<ForgetUser> for Automations {
    type Reply = Vec<u64>;

    fn handle(turn: &mut Turn<'_, Self>, command: ForgetUser) -> Result<Vec<u64>, Refusal> {
        let theirs = turn.state().rules().filter(|rule| rule.user == command.0);
        let ids: Vec<u64> = theirs.map(|rule| rule.id).collect();
        for id in &ids {
            delete(turn, *id, command.0);
        }
        Ok(ids)
    }
}

/// An event that fits a rule which may see it.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The rule.
    pub rule: u64,
    /// Where the event stands.
    pub place: Place,
    /// When it happened.
    pub at: Timestamp,
    /// What bindings call `event`.
    pub event: Personal,
    /// The rules whose calls led to it.
    pub ancestors: Vec<u64>,
}

/// Sets rules off that events fit, and says how many. Those that were looked at before set nothing
/// off; 503 while too much is under way.
#[derive(Clone, Debug)]
pub struct Observe {
    /// Whole events, in their order.
    pub hits: Vec<Hit>,
}

impl Command for Observe {
    const NAME: &'static str = "observe_events";
}

impl Handle<Observe> for Automations {
    type Reply = usize;

    fn handle(turn: &mut Turn<'_, Self>, command: Observe) -> Result<usize, Refusal> {
        let looked_at = turn.state().looked_at;
        let hits: Vec<Hit> = command.hits.into_iter().filter(|hit| hit.place > looked_at).collect();
        if turn.state().running.len() + hits.len() > RUNNING_MAX.max(hits.len()) {
            return Err(Refusal::busy());
        }
        let mut count = 0;
        for hit in hits {
            let Some(rule) = turn.state().rule(hit.rule).cloned() else { continue };
            let is_new = hit.place.0 > rule.from_seq && rule.trigger.is_event();
            if !is_new || rule.takes_at(hit.at, false).is_err() {
                continue;
            }
            let source = Source::Event(hit.place.0, hit.place.1);
            let begun = begun(turn, &rule, source, (hit.at, ""), (hit.event, hit.ancestors));
            start(turn, &rule, begun, Some(hit.place), (0, None));
            count += 1;
        }
        Ok(count)
    }
}

/// An execution that begins now.
fn begun(
    turn: &Turn<'_, Automations>,
    rule: &Rule,
    source: Source,
    (at, asked): (Timestamp, &str),
    (event, ancestors): (Personal, Vec<u64>),
) -> Execution {
    Execution {
        id: id_of(turn.state().tenant, rule.id, source, asked),
        rule: rule.id,
        user: rule.user,
        number: rule.executions + 1,
        source,
        at,
        event,
        ancestors,
        until: turn.now().plus_ms(EXECUTION_MS_MAX),
    }
}

fn start(
    turn: &mut Turn<'_, Automations>,
    rule: &Rule,
    execution: Execution,
    looked_at: Option<Place>,
    (missed, next_slot): (u64, Option<Timestamp>),
) {
    let (id, is_ours) = (execution.id, execution.is_ours());
    let started = ExecutionStarted { execution, looked_at, missed, next_slot };
    turn.record(AutomationsEvent::ExecutionStarted(started));
    if is_ours {
        turn.effect(CarryOut(id));
    }
    if turn.state().rule(rule.id).is_some_and(|rule| rule.is_worn_out()) {
        stop(turn, rule, Stop::WornOut);
    }
}

/// Sets a rule off because somebody asks for it. The same request finds what it began. 409 unless
/// the rule is active, 429 beyond its limit for an hour.
#[derive(Clone, Debug)]
pub struct SetOff {
    /// The rule.
    pub rule: u64,
    /// Whose it must be.
    pub user: Option<UserId>,
    /// Who carries it out: [`Source::Manual`] or [`Source::Reported`].
    pub source: Source,
    /// What tells this request from others.
    pub asked: String,
    /// What bindings call `event`.
    pub event: Personal,
    /// The execution that led to it.
    pub ancestors: Vec<u64>,
    /// When it is over, if not after [`EXECUTION_MS_MAX`].
    pub until: Option<Timestamp>,
}

impl Command for SetOff {
    const NAME: &'static str = "set_off_automation";
}

impl Handle<SetOff> for Automations {
    type Reply = ExecutionId;

    fn handle(turn: &mut Turn<'_, Self>, command: SetOff) -> Result<ExecutionId, Refusal> {
        let rule = owned(turn, command.rule, command.user)?;
        let (source, now) = (command.source, turn.now());
        let id = id_of(turn.state().tenant, rule.id, source, &command.asked);
        if rule.kept.contains(&id) {
            return Ok(id);
        }
        rule.takes_at(now, true).map_err(Pass::refusal)?;
        if turn.state().running.len() >= RUNNING_MAX {
            return Err(Refusal::busy());
        }
        if command.ancestors.len() >= CHAIN_MAX || command.ancestors.contains(&rule.id) {
            let message = "this rule is what led to it";
            return Err(Refusal::conflict("automation_loop", message));
        }
        let what = (command.event, command.ancestors);
        let mut begun = begun(turn, &rule, source, (now, &command.asked), what);
        let latest = begun.until;
        begun.until = command.until.unwrap_or(latest).clamp(now, latest);
        start(turn, &rule, begun, None, (0, None));
        Ok(id)
    }
}

/// Says how an execution ended. One that has ended stays as it is.
#[derive(Clone, Debug)]
pub struct EndExecution {
    /// Which.
    pub id: ExecutionId,
    /// How.
    pub end: End,
}

impl Command for EndExecution {
    const NAME: &'static str = "end_execution";
    const ESSENTIAL: bool = true;
}

impl Handle<EndExecution> for Automations {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: EndExecution) -> Result<(), Refusal> {
        if let Some(running) = turn.state().running(command.id) {
            let execution = running.execution.clone();
            conclude(turn, &execution, command.end);
        }
        Ok(())
    }
}

fn conclude(turn: &mut Turn<'_, Automations>, execution: &Execution, end: End) {
    let (id, rule, user) = (execution.id, execution.rule, execution.user);
    let notify = turn.state().rule(rule).map_or(NotifyMode::Off, |rule| rule.notify);
    let is_cancelled = end.outcome == Outcome::Cancelled;
    let is_told = !is_cancelled && notify.tells(end.outcome == Outcome::Success);
    let ended = ExecutionEnded { id, rule, user, end, is_told };
    turn.record(AutomationsEvent::ExecutionEnded(ended));
    let rule = turn.state().rule(rule).cloned();
    let is_failing = |rule: &Arc<Rule>| {
        rule.status == Status::Active && rule.failures_in_row >= FAILURES_IN_ROW_MAX
    };
    if let Some(rule) = rule.filter(is_failing) {
        stop(turn, &rule, Stop::Failed);
    }
}

/// Says how an execution went that a service carries out: the first that has not ended, or one
/// that it has not told of. Answers its id.
#[derive(Clone, Debug)]
pub struct ReportResult {
    /// The rule.
    pub rule: u64,
    /// Whose it must be.
    pub user: Option<UserId>,
    /// The execution, if the service names it.
    pub id: Option<ExecutionId>,
    /// How it went.
    pub end: End,
    /// For one that it has not told of.
    pub event: Personal,
}

impl Command for ReportResult {
    const NAME: &'static str = "report_execution";
}

impl Handle<ReportResult> for Automations {
    type Reply = ExecutionId;

    fn handle(turn: &mut Turn<'_, Self>, command: ReportResult) -> Result<ExecutionId, Refusal> {
        let ReportResult { rule: id, user, end, event, id: named } = command;
        let rule = owned(turn, id, user)?;
        let reported = turn.state().running.values().filter(|running| {
            let is_named = named.is_none_or(|named| running.execution.id == named);
            running.execution.rule == id && !running.execution.is_ours() && is_named
        });
        let first = reported.min_by_key(|running| running.execution.number);
        let execution = match first.map(|running| running.execution.clone()) {
            Some(execution) => execution,
            None if named.is_some_and(|named| rule.kept.contains(&named)) => {
                return Err(Refusal::conflict("execution_ended", "this execution has ended"));
            }
            None => {
                let asked = format!("{:032x}", turn.new_id());
                let how = (turn.now(), asked.as_str());
                let begun = begun(turn, &rule, Source::Reported, how, (event, Vec::new()));
                start(turn, &rule, begun.clone(), None, (0, None));
                Arc::new(begun)
            }
        };
        conclude(turn, &execution, end);
        Ok(execution.id)
    }
}

/// Ends the executions whose time is over. Says how many.
#[derive(Clone, Copy, Debug)]
pub struct CheckTimeouts {}

impl Command for CheckTimeouts {
    const NAME: &'static str = "check_timeouts";
    const ESSENTIAL: bool = true;
}

impl Handle<CheckTimeouts> for Automations {
    type Reply = usize;

    fn handle(turn: &mut Turn<'_, Self>, _: CheckTimeouts) -> Result<usize, Refusal> {
        Ok(end_overdue(turn))
    }
}

fn end_overdue(turn: &mut Turn<'_, Automations>) -> usize {
    let now = turn.now();
    let end = || End::because(Outcome::TimedOut, TIME_EXCEEDED, Vec::new());
    end_those(turn, |execution| execution.until <= now, end)
}

/// Everything that is due: slots of schedules, and executions whose time is over.
pub(crate) fn due(turn: &mut Turn<'_, Automations>) {
    end_overdue(turn);
    let now = turn.now();
    let is_due = |rule: &&Arc<Rule>| rule.next_slot.is_some_and(|slot| slot <= now);
    let due: Vec<Arc<Rule>> =
        turn.state().rules().filter(is_due).take(DUE_PER_TURN_MAX).cloned().collect();
    for rule in due {
        let (Some(slot), Some(schedule)) = (rule.next_slot, rule.trigger.schedule()) else {
            let passed = SlotPassed { id: rule.id, missed: 0, next_slot: None };
            turn.record(AutomationsEvent::SlotPassed(passed));
            continue;
        };
        let due = schedule.due(slot, now);
        let is_room = turn.state().running.len() < RUNNING_MAX;
        let slot = due.slot.filter(|slot| is_room && rule.takes_at(*slot, false).is_ok());
        let event = slot.and_then(|slot| event_of_slot(turn, &rule, slot));
        match slot.zip(event) {
            Some((slot, event)) => {
                let source = Source::Schedule(slot);
                let begun = begun(turn, &rule, source, (slot, ""), (event, Vec::new()));
                start(turn, &rule, begun, None, (due.missed, due.next));
            }
            None => {
                let (id, next_slot) = (rule.id, due.next);
                // What its own limits have held back was not missed.
                let missed = due.missed + u64::from(due.slot.is_some() && !is_room);
                let passed = SlotPassed { id, missed, next_slot };
                turn.record(AutomationsEvent::SlotPassed(passed));
            }
        }
    }
}

/// What bindings call `event`; `None` when its user's key is gone.
fn event_of_slot(turn: &Turn<'_, Automations>, rule: &Rule, slot: Timestamp) -> Option<Personal> {
    let event = json!({"type": "schedule", "schedule": rule.trigger.schedule,
        "timezone": rule.trigger.timezone, "at": types::rfc3339(slot)});
    crate::execution::seal_event(turn.keys(), rule.user, &event).ok()
}
