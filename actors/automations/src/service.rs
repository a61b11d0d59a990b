//! What the gateway and the built-in app ask: rules made, changed and listed, and what they did.

use std::sync::Arc;

use billing::numbers::{Numbers, TakeNumbers, numbers_address};
use billing::plan_limits::{Meter, Plans};
use persistence::{RowRange, codec};
use serde::Deserialize;
use serde_json::{Value, json};
use supervision::{Origin, Refusal, System};
use types::{ExecutionId, TenantId, UserId, home_of, owner_of_tenant};

use crate::automations::Automations;
use crate::automator::Automator;
use crate::commands::{ChangeRule, CreateRule, DeleteRule, PauseRule, ResumeRule, SetOff};
use crate::execution::{
    EXECUTION_FAMILY, ExecutionView, Shown, Source, executions_prefix, seal_event,
};
use crate::rule::{ActionStep, Limits, Maker, NotifyMode, Rule, RuleView, Status, Words};
use crate::schedule::DEFAULT_ZONE;
use crate::trigger::Trigger;
use crate::watch::chain_of;

/// The series of rules' numbers.
pub const RULE_SERIES: &str = "automations";
/// Executions that one page shows.
pub const EXECUTIONS_PAGE_MAX: usize = 50;

/// Whose rules they are, and who asks.
#[derive(Clone, Debug)]
pub struct Whose {
    /// In which tenant.
    pub tenant: TenantId,
    /// Whose; anybody's, for a service.
    pub user: Option<UserId>,
    /// Who asks.
    pub origin: Origin,
}

/// What sets a rule off, as it is given.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
pub struct TriggerFilter {
    /// An event's name; `NAME.*` for a family, `*` for all that one may see, `manual` for none
    pub event_type: String,
    /// Instead of events: minute, hour, day of month, month and day of week, as a crontab has them
    #[serde(default)]
    pub schedule: Option<String>,
    /// The time zone of the schedule; UTC if left out
    #[serde(default)]
    pub timezone: Option<String>,
}

impl From<TriggerFilter> for Trigger {
    fn from(filter: TriggerFilter) -> Self {
        let TriggerFilter { event_type, schedule, timezone } = filter;
        let named = |text: Option<String>| text.filter(|text| !text.is_empty());
        let timezone = named(timezone).unwrap_or_else(|| DEFAULT_ZONE.to_owned());
        Self { event_type, schedule: named(schedule), timezone }
    }
}

/// A rule that is to be made.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The words.
    pub words: Words,
    /// What sets it off.
    pub trigger: Trigger,
    /// How often at most.
    pub limits: Limits,
    /// What is told.
    pub notify: NotifyMode,
}

impl Draft {
    /// From what was asked for. Without steps the prompt is the message.
    pub fn new(
        (prompt, interpretation): (String, String),
        trigger: Option<Trigger>,
        actions: Vec<ActionStep>,
        limits: Limits,
        notify: NotifyMode,
    ) -> Result<Self, Refusal> {
        let trigger = trigger.unwrap_or_else(Trigger::manual);
        let actions = match actions.is_empty() {
            true => vec![ActionStep::message(prompt.clone())],
            false => actions,
        };
        let words = Words { prompt, actions, interpretation };
        words.check()?;
        trigger.check()?;
        limits.check()?;
        Ok(Self { words, trigger, limits, notify })
    }
}

/// The number of the last record of a tenant's chain: what follows it is new.
pub fn head(system: &System, tenant: TenantId) -> Result<u64, Refusal> {
    let head = system.journal().chain_head(home_of(tenant));
    head.map(|head| head.chain_seq).map_err(|error| {
        tracing::error!(%tenant, %error, "a chain could not be read");
        Refusal::crashed()
    })
}

impl Automator {
    /// The command that makes a rule. `made_by` is the request or call: the same makes it once.
    pub async fn creation(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        maker: Maker,
        draft: Draft,
        made_by: u128,
    ) -> Result<CreateRule, Refusal> {
        let Whose { tenant, user, origin } = whose;
        let user = user.ok_or_else(|| Refusal::forbidden("this needs a user"))?;
        let words = draft.words.seal(system.journal().keys(), user)?;
        let limit = Plans(system).limit(*tenant, Meter::Automations, origin.clone()).await?;
        let numbers = system.directory::<Numbers>();
        let series = numbers_address(RULE_SERIES);
        let id = numbers.ask(&series, TakeNumbers { count: 1 }, origin.clone()).await?;
        Ok(CreateRule {
            tenant: *tenant,
            id,
            user,
            words,
            trigger: draft.trigger,
            limits: draft.limits,
            notify: draft.notify,
            maker,
            made_by,
            from_seq: head(system, *tenant)?,
            cap: (limit.limit, limit.plan.id),
        })
    }

    /// Takes in that a rule was made, changed or resumed.
    pub fn took(&self, tenant: TenantId, rule: &Rule) {
        self.know(rule.id, (tenant, rule.user));
        if rule.status == Status::Active && rule.trigger.is_event() {
            self.follow(tenant);
        }
    }

    /// Takes in that a rule of a tenant's was resumed.
    pub fn resumed(&self, tenant: TenantId) {
        self.follow(tenant);
    }

    /// Makes a rule.
    pub async fn create(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        maker: Maker,
        draft: Draft,
        made_by: u128,
    ) -> Result<Arc<Rule>, Refusal> {
        let create = self.creation(system, whose, maker, draft, made_by).await?;
        let (all, address) =
            (system.directory::<Automations>(), Automations::address(whose.tenant));
        let rule = all.ask(&address, create, whose.origin.clone()).await?;
        self.took(whose.tenant, &rule);
        Ok(rule)
    }

    /// Changes a rule, for a service.
    pub async fn change(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        change: ChangeRule,
    ) -> Result<RuleView, Refusal> {
        let change = ChangeRule { from_seq: head(system, whose.tenant)?, ..change };
        let (all, address) =
            (system.directory::<Automations>(), Automations::address(whose.tenant));
        let rule = all.ask(&address, change, whose.origin.clone()).await?;
        self.took(whose.tenant, &rule);
        Ok(rule.view(system.journal().keys()))
    }

    /// Sets a rule off no more; answers how it is.
    pub async fn pause(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        id: u64,
    ) -> Result<Status, Refusal> {
        let (all, address) =
            (system.directory::<Automations>(), Automations::address(whose.tenant));
        let pause = PauseRule { id, user: whose.user };
        all.ask(&address, pause, whose.origin.clone()).await
    }

    /// Sets a rule off again; answers whether it is counted from 0.
    pub async fn resume(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        id: u64,
    ) -> Result<bool, Refusal> {
        let (all, address) =
            (system.directory::<Automations>(), Automations::address(whose.tenant));
        let resume = ResumeRule { id, user: whose.user, from_seq: head(system, whose.tenant)? };
        let is_reset = all.ask(&address, resume, whose.origin.clone()).await?;
        self.follow(whose.tenant);
        Ok(is_reset)
    }

    /// Ends a rule.
    pub async fn delete(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        id: u64,
    ) -> Result<(), Refusal> {
        let (all, address) =
            (system.directory::<Automations>(), Automations::address(whose.tenant));
        let delete = DeleteRule { id, user: whose.user };
        all.ask(&address, delete, whose.origin.clone()).await?;
        self.forget(id);
        Ok(())
    }

    /// All rules of a user's, or of a tenant's, the oldest first.
    pub async fn list(
        &self,
        system: &Arc<System>,
        whose: &Whose,
    ) -> Result<Vec<Arc<Rule>>, Refusal> {
        let (all, address) =
            (system.directory::<Automations>(), Automations::address(whose.tenant));
        let user = whose.user;
        let look = move |all: &Automations| -> Vec<Arc<Rule>> {
            let theirs = all.rules().filter(|rule| user.is_none_or(|user| rule.user == user));
            theirs.cloned().collect()
        };
        all.look(&address, whose.origin.clone(), look).await
    }

    /// One rule. 404 for what is not there, or another user's.
    pub async fn rule(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        id: u64,
    ) -> Result<Arc<Rule>, Refusal> {
        let (all, address) =
            (system.directory::<Automations>(), Automations::address(whose.tenant));
        let look = move |all: &Automations| all.rule(id).cloned();
        let rule = all.look(&address, whose.origin.clone(), look).await?;
        let rule = rule.filter(|rule| whose.user.is_none_or(|user| rule.user == user));
        rule.ok_or_else(|| Refusal::not_found("automation"))
    }

    /// The command by which its user sets a rule off; `asked` tells this request from others.
    pub async fn setting_off(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        (id, asked): (u64, String),
        data: Value,
    ) -> Result<SetOff, Refusal> {
        let rule = self.rule(system, whose, id).await?;
        let event = json!({"type": crate::trigger::MANUAL, "data": data});
        Ok(SetOff {
            rule: id,
            user: whose.user,
            source: Source::Manual,
            asked,
            event: seal_event(system.journal().keys(), rule.user, &event)?,
            ancestors: chain_of(system, whose.tenant, whose.origin.request.id),
            until: None,
        })
    }

    /// What a rule has done, the newest first: at most `limit` behind a key, and the key to go on
    /// from.
    pub async fn executions(
        &self,
        system: &Arc<System>,
        whose: &Whose,
        id: u64,
        (after, limit): (Option<Vec<u8>>, usize),
    ) -> Result<(Vec<ExecutionView>, Option<Vec<u8>>), Refusal> {
        self.rule(system, whose, id).await?;
        let rows = system.rows(&RowRange {
            shard: owner_of_tenant(whose.tenant).shard(),
            family: EXECUTION_FAMILY,
            prefix: executions_prefix(whose.tenant, id),
            after,
            newest_first: true,
            limit,
        });
        let next = rows.last().map(|(key, _)| key.clone()).filter(|_| rows.len() == limit);
        let shown = rows.iter().filter_map(|(_, value)| codec::decode::<Shown>(value).ok());
        Ok((shown.map(|shown| shown.view(system.journal().keys())).collect(), next))
    }
}

/// What somebody who asks for an execution is answered.
pub fn set_off_answer(rule: u64, id: ExecutionId) -> Value {
    json!({"rule_id": rule, "execution_id": id, "status": "running"})
}
