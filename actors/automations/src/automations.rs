//! The automations of a tenant: its users' rules, and what they are just doing. One entity a
//! tenant, so that one turn counts rules against the plan, and one commit sets off all that an
//! event sets off together with how far the tenant's events were looked at.
//!
//! ```text
//! rule       active <──> paused           execution   running ──> success | failed
//!               └──> error ──> active                    └──────> cancelled | timed_out
//! ```
//!
//! Invariants
//! - An event sets a rule off at most once, and a slot of a schedule too: the place up to which
//!   events were looked at, and the next slot, are recorded with what they set off.
//! - An execution ends once. One that is carried out here and has not ended is taken up after a
//!   restart.
//! - A rule's words, and what sets it off, are sealed under its user's own key.
//! - Slots are computed when they are recorded: a replay asks no calendar.
//!
//! Rows, in the tenant's shard: [`RULE_FAMILY`] by tenant and rule, holding a [`RuleRow`]; those of
//! executions ([`crate::execution`]).
//!
//! Deliberate limits: [`RULES_MAX`] rules a tenant, whatever its plan says; [`RUNNING_MAX`]
//! executions that have not ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, EffectContext, Entity, Retried, Retry, Retrying, RowDraft, Timestamp, Turn,
};
use types::{ExecutionId, Personal, TenantId, UserId, base32, home_of, owner_of_tenant};

use crate::carry;
use crate::commands;
use crate::execution::{
    CAUSE_FAMILY, Cause, EXECUTION_FAMILY, End, Execution, Outcome, Shown, Source, cause_key,
    execution_key, put,
};
use crate::rule::{EXECUTIONS_KEPT_MAX, Limits, Maker, NotifyMode, Rule, Status};
use crate::trigger::Trigger;

/// The family of the rows of rules.
pub const RULE_FAMILY: &str = "automation_rule";
/// The family of the rows that say how far a tenant's events were looked at; no record says so.
pub const CURSOR_FAMILY: &str = "automation_cursor";
/// Rules of one tenant.
pub const RULES_MAX: usize = 1_000;
/// Executions of one tenant that have not ended.
pub const RUNNING_MAX: usize = 1_000;
/// When what nobody carries on is taken up again: later than most executions take.
const OVERDUE_BACKOFF: Backoff = Backoff { first_ms: 60_000, max_ms: 600_000 };
/// Failures that say nothing about a rule.
const NOT_ITS_OWN: [&str; 2] = [identity::frozen::FROZEN, "erased"];

/// A place among a tenant's events: the number of a record, and a place in what it tells.
pub type Place = (u64, u32);

/// A rule was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleCreated {
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
    /// With what it was made.
    pub maker: Maker,
    /// The request or call that made it.
    pub made_by: u128,
    /// Events behind this record set it off.
    pub from_seq: u64,
    /// When its schedule comes round.
    pub next_slot: Option<Timestamp>,
}

/// A rule was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleChanged {
    /// The rule.
    pub id: u64,
    /// Whose it is.
    pub user: UserId,
    /// What sets it off from now on.
    pub trigger: Trigger,
    /// How often at most.
    pub limits: Limits,
    /// Events behind this record set it off.
    pub from_seq: u64,
    /// When its schedule comes round.
    pub next_slot: Option<Timestamp>,
}

/// Why a rule is set off no more. Stored: a reason keeps its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Somebody wants it so.
    Asked,
    /// It was set off as often as it may be.
    WornOut,
    /// It failed too often.
    Failed,
}

/// A rule is set off no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleStopped {
    /// The rule.
    pub id: u64,
    /// Whose it is.
    pub user: UserId,
    /// Why.
    pub why: Stop,
}

/// A rule is set off again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleResumed {
    /// The rule.
    pub id: u64,
    /// Whose it is.
    pub user: UserId,
    /// Whether it is counted from 0 again.
    pub is_count_reset: bool,
    /// Events behind this record set it off.
    pub from_seq: u64,
    /// When its schedule comes round.
    pub next_slot: Option<Timestamp>,
}

/// A rule is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleDeleted {
    /// The rule.
    pub id: u64,
    /// Whose it was.
    pub user: UserId,
}

/// A rule was set off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecutionStarted {
    /// What is done.
    pub execution: Execution,
    /// How far events were looked at.
    pub looked_at: Option<Place>,
    /// Slots that were missed before it.
    pub missed: u64,
    /// When its schedule comes round again.
    pub next_slot: Option<Timestamp>,
}

/// A slot of a schedule set nothing off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotPassed {
    /// The rule.
    pub id: u64,
    /// Slots that were missed.
    pub missed: u64,
    /// When its schedule comes round again.
    pub next_slot: Option<Timestamp>,
}

/// An execution ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecutionEnded {
    /// Which.
    pub id: ExecutionId,
    /// The rule.
    pub rule: u64,
    /// Whose it is.
    pub user: UserId,
    /// How.
    pub end: End,
    /// Whether its user is told.
    pub is_told: bool,
}

supervision::events! {
    /// What happens to a tenant's automations.
    pub enum AutomationsEvent {
        /// A rule was made.
        RuleCreated(RuleCreated) = "rule_created", 1;
        /// A rule was changed.
        RuleChanged(RuleChanged) = "rule_changed", 1;
        /// A rule is set off no more.
        RuleStopped(RuleStopped) = "rule_stopped", 1;
        /// A rule is set off again.
        RuleResumed(RuleResumed) = "rule_resumed", 1;
        /// A rule is gone.
        RuleDeleted(RuleDeleted) = "rule_deleted", 1;
        /// A rule was set off.
        ExecutionStarted(ExecutionStarted) = "execution_started", 1;
        /// A slot set nothing off.
        SlotPassed(SlotPassed) = "slot_passed", 1;
        /// An execution ended.
        ExecutionEnded(ExecutionEnded) = "execution_ended", 1;
        /// What nobody carries on is taken up again.
        Retried(Retried) = "executions_retried", 1;
    }
}

/// An execution that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// As it was begun.
    pub execution: Arc<Execution>,
    /// When it was begun.
    pub started_at: Timestamp,
}

/// What is in the row of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Whose it is.
    pub user: UserId,
    /// Whether events are looked at for it, and from which record on.
    pub follows_from: Option<u64>,
}

/// The automations of a tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Automations {
    pub(crate) tenant: TenantId,
    pub(crate) rules: BTreeMap<u64, Arc<Rule>>,
    pub(crate) running: BTreeMap<ExecutionId, Running>,
    /// How far events were looked at when something was set off last.
    pub(crate) looked_at: Place,
    retry: Retry,
}

/// What automations ask of others: to carry an execution out.
#[derive(Clone, Copy, Debug)]
pub struct CarryOut(pub ExecutionId);

/// The key of a rule's row; without a rule what those of a tenant begin with.
pub fn rule_key(tenant: TenantId, rule: Option<u64>) -> Vec<u8> {
    let mut key = tenant.0.to_be_bytes().to_vec();
    key.extend(rule.iter().flat_map(|rule| rule.to_be_bytes()));
    key
}

impl Automations {
    /// Where a tenant's automations live.
    pub fn address(tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant));
        // 26 characters of base32 are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{tenant} has no address"))
    }

    /// A rule.
    pub fn rule(&self, id: u64) -> Option<&Arc<Rule>> {
        self.rules.get(&id)
    }

    /// All rules, the oldest first.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
    }

    /// An execution that has not ended.
    pub fn running(&self, id: ExecutionId) -> Option<&Running> {
        self.running.get(&id)
    }

    /// The rules that events may set off, and how far events were looked at.
    pub fn watching(&self) -> (Vec<Arc<Rule>>, Place) {
        let is_watching =
            |rule: &&Arc<Rule>| rule.status == Status::Active && rule.trigger.is_event();
        (self.rules.values().filter(is_watching).cloned().collect(), self.looked_at)
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Rule)) {
        if let Some(rule) = self.rules.get_mut(&id) {
            change(Arc::make_mut(rule));
        }
    }

    fn ends(&mut self, ended: &ExecutionEnded) {
        self.running.remove(&ended.id);
        self.change(ended.rule, |rule| match (&ended.end.outcome, &ended.end.error) {
            (Outcome::Success, _) => {
                rule.success_count += 1;
                rule.failures_in_row = 0;
            }
            (Outcome::Cancelled, _) => {}
            (Outcome::Failed | Outcome::TimedOut, error) => {
                rule.fail_count += 1;
                let is_its_own =
                    error.as_ref().is_none_or(|it| !NOT_ITS_OWN.contains(&it.code.as_str()));
                rule.failures_in_row += u32::from(is_its_own);
                rule.last_error.clone_from(error);
            }
        });
    }

    fn rows_of_start(&self, started: &ExecutionStarted, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let (tenant, execution) = (self.tenant, &started.execution);
        let (rule, number) = (execution.rule, execution.number);
        let shown = Shown { execution: execution.clone(), started_at: at, ended: None };
        rows.push(put(EXECUTION_FAMILY, execution_key(tenant, rule, number), &shown));
        let cause = Cause { rule, number, ancestors: execution.ancestors.clone() };
        rows.push(put(CAUSE_FAMILY, cause_key(tenant, execution.id.0), &cause));
        let Some(known) = self.rules.get(&rule) else { return };
        if known.kept.len() >= EXECUTIONS_KEPT_MAX
            && let Some(oldest) = known.kept.front()
        {
            let over = number.saturating_sub(EXECUTIONS_KEPT_MAX as u64);
            let key = execution_key(tenant, rule, over);
            rows.push(RowDraft { family: EXECUTION_FAMILY, key, value: None });
            let key = cause_key(tenant, oldest.0);
            rows.push(RowDraft { family: CAUSE_FAMILY, key, value: None });
        }
    }

    fn rows_of_end(&self, ended: &ExecutionEnded, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let Some(Running { execution, started_at }) = self.running.get(&ended.id) else { return };
        let is_kept = self.rules.get(&ended.rule).is_some_and(|it| it.kept.contains(&ended.id));
        if !is_kept {
            return;
        }
        let key = execution_key(self.tenant, ended.rule, execution.number);
        let (execution, started_at) = (Execution::clone(execution), *started_at);
        let shown = Shown { execution, started_at, ended: Some((at, ended.end.clone())) };
        rows.push(put(EXECUTION_FAMILY, key, &shown));
    }

    fn rows_of_deletion(&self, id: u64, rows: &mut Vec<RowDraft>) {
        let Some(rule) = self.rules.get(&id) else { return };
        let none = |family, key| RowDraft { family, key, value: None };
        rows.push(none(RULE_FAMILY, rule_key(self.tenant, Some(id))));
        let last = rule.executions;
        for (place, execution) in rule.kept.iter().rev().enumerate() {
            let number = last.saturating_sub(place as u64);
            rows.push(none(EXECUTION_FAMILY, execution_key(self.tenant, id, number)));
            rows.push(none(CAUSE_FAMILY, cause_key(self.tenant, execution.0)));
        }
    }
}

fn created(event: &RuleCreated, at: Timestamp) -> Rule {
    let event = event.clone();
    Rule {
        id: event.id,
        user: event.user,
        words: event.words,
        trigger: event.trigger,
        limits: event.limits,
        notify: event.notify,
        maker: event.maker,
        made_by: event.made_by,
        status: Status::Active,
        from_seq: event.from_seq,
        next_slot: event.next_slot,
        created_at: at,
        trigger_count: 0,
        success_count: 0,
        fail_count: 0,
        missed_count: 0,
        failures_in_row: 0,
        last_error: None,
        last_triggered: None,
        recent: Default::default(),
        executions: 0,
        kept: Default::default(),
    }
}

impl Entity for Automations {
    const KIND: &'static str = "automations";
    const OBSERVED_FAMILIES: &'static [&'static str] = &[CURSOR_FAMILY];
    type Event = AutomationsEvent;
    type Effect = CarryOut;

    fn apply(&mut self, event: &AutomationsEvent, at: Timestamp) {
        match event {
            AutomationsEvent::RuleCreated(it) => {
                self.tenant = it.tenant;
                self.rules.insert(it.id, Arc::new(created(it, at)));
            }
            AutomationsEvent::RuleChanged(it) => self.change(it.id, |rule| {
                rule.trigger = it.trigger.clone();
                rule.limits = it.limits;
                (rule.from_seq, rule.next_slot) = (it.from_seq, it.next_slot);
            }),
            AutomationsEvent::RuleStopped(it) => self.change(it.id, |rule| {
                rule.status = match it.why {
                    Stop::Asked | Stop::WornOut => Status::Paused,
                    Stop::Failed => Status::Error,
                };
                rule.next_slot = None;
            }),
            AutomationsEvent::RuleResumed(it) => self.change(it.id, |rule| {
                (rule.status, rule.failures_in_row) = (Status::Active, 0);
                (rule.from_seq, rule.next_slot) = (it.from_seq, it.next_slot);
                if it.is_count_reset {
                    rule.trigger_count = 0;
                }
            }),
            AutomationsEvent::RuleDeleted(it) => {
                self.rules.remove(&it.id);
            }
            AutomationsEvent::ExecutionStarted(it) => {
                let execution = Arc::new(it.execution.clone());
                if !self.is_pending() {
                    self.retry = Retry::begin(at, OVERDUE_BACKOFF);
                }
                self.change(execution.rule, |rule| {
                    rule.set_off(execution.at, execution.id);
                    if matches!(execution.source, Source::Schedule(_)) {
                        rule.missed_count += it.missed;
                        rule.next_slot = it.next_slot;
                    }
                });
                self.looked_at = it.looked_at.unwrap_or(self.looked_at).max(self.looked_at);
                let running = Running { execution, started_at: at };
                self.running.insert(running.execution.id, running);
            }
            AutomationsEvent::SlotPassed(it) => self.change(it.id, |rule| {
                rule.missed_count += it.missed;
                rule.next_slot = it.next_slot;
            }),
            AutomationsEvent::ExecutionEnded(it) => self.ends(it),
            AutomationsEvent::Retried(_) => self.retry.again(at, OVERDUE_BACKOFF),
        }
    }

    fn rows(&self, event: &AutomationsEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let (tenant, id) = match event {
            AutomationsEvent::RuleCreated(it) => (it.tenant, it.id),
            AutomationsEvent::RuleChanged(it) => (self.tenant, it.id),
            AutomationsEvent::RuleStopped(it) => (self.tenant, it.id),
            AutomationsEvent::RuleResumed(it) => (self.tenant, it.id),
            AutomationsEvent::RuleDeleted(it) => return self.rows_of_deletion(it.id, rows),
            AutomationsEvent::ExecutionStarted(it) => return self.rows_of_start(it, at, rows),
            AutomationsEvent::ExecutionEnded(it) => return self.rows_of_end(it, at, rows),
            AutomationsEvent::SlotPassed(_) | AutomationsEvent::Retried(_) => return,
        };
        let mut after = Self::default();
        after.rules.extend(self.rules.get(&id).map(|rule| (id, rule.clone())));
        after.apply(event, at);
        let Some(rule) = after.rules.get(&id) else { return };
        let is_watched = rule.status == Status::Active && rule.trigger.is_event();
        let follows_from = is_watched.then_some(rule.from_seq);
        let row = RuleRow { user: rule.user, follows_from };
        rows.push(put(RULE_FAMILY, rule_key(tenant, Some(id)), &row));
    }

    fn is_pending(&self) -> bool {
        self.running.values().any(|running| running.execution.is_ours())
    }

    fn resume(&self) -> Vec<CarryOut> {
        let ours = self.running.values().filter(|running| running.execution.is_ours());
        ours.map(|running| CarryOut(running.execution.id)).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let slots = self.rules.values().filter_map(|rule| rule.next_slot);
        let ends = self.running.values().map(|running| running.execution.until);
        slots.chain(ends).chain(self.retry_at()).min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        commands::due(turn);
        Self::try_again(turn);
    }

    async fn perform(effect: CarryOut, context: EffectContext<Self>) {
        carry::perform(effect.0, context).await;
    }

    fn observe(&self) -> serde_json::Value {
        let rule = |rule: &Arc<Rule>| {
            json!({"id": rule.id, "user": rule.user, "status": rule.status.name(),
                "event_type": rule.trigger.event_type, "schedule": rule.trigger.schedule,
                "trigger_count": rule.trigger_count, "failures_in_row": rule.failures_in_row,
                "next_slot_ms": rule.next_slot.map(|slot| slot.0)})
        };
        let running = |running: &Running| {
            let execution = &running.execution;
            json!({"id": execution.id, "rule": execution.rule, "number": execution.number,
                "source": execution.source.name(), "since_ms": running.started_at.0})
        };
        json!({"rules": self.rules.values().map(rule).collect::<Vec<_>>(),
            "running": self.running.values().map(running).collect::<Vec<_>>(),
            "looked_at": self.looked_at})
    }
}

impl Retrying for Automations {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> AutomationsEvent {
        AutomationsEvent::Retried(Retried {})
    }
}
