//! Looking at what happens: reads the chains of tenants whose rules wait for events, and sets the
//! rules off that an event fits and whose user may see it.
//!
//! Invariants
//! - A rule hears of every event behind the record that it was made or resumed after, once: first
//!   the records are read, then the rules; and the place is moved on after what was set off is
//!   durable.
//! - What automations record of themselves sets nothing off. What their calls lead to may, but
//!   never a rule that led there, and no more than [`CHAIN_MAX`] rules in a row.
//! - Nobody's rule hears of what its user could not read in the event stream.
//!
//! Deliberate limits
//! - Events that follow from no record (what is shown while something runs) set nothing off.
//! - A loop that leads through somebody else's server, which calls back with a credential of its
//!   own, is not seen; the limits of the rules bound it.
//! - What happens while a tenant is frozen is looked at when it is so no more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use activity::feed::{Heard, Told, View};
use extensions::Extensions;
use persistence::codec;
use serde_json::{Value, json};
use supervision::{Entity as _, Refusal, RowDraft, System};
use types::{RequestId, TenantId, owner_of_tenant, rfc3339};

use crate::automations::{Automations, CURSOR_FAMILY, rule_key};
use crate::automator::{Automator, Reading, Watched};
use crate::commands::{Hit, Observe};
use crate::execution::{CAUSE_FAMILY, CHAIN_MAX, Cause, cause_key, seal_event};
use crate::rule::Rule;

/// Records that one look reads.
const RECORDS_STEP: usize = 256;
/// After so many hits they are handed over, at the end of their event.
const HITS_STEP: usize = 200;
/// How far it may have come without noting it, in records.
const UNNOTED_MAX: u64 = 1_024;

impl Automator {
    /// Looks at what has happened since the last time. Says whether there is more.
    pub async fn run(self: &Arc<Self>, system: &Arc<System>) -> bool {
        let mut is_more = false;
        for tenant in self.take_grown() {
            let Some(watched) = self.watched.read().get(&tenant).cloned() else { continue };
            if self.frozen.check(tenant, None).is_err() {
                self.mark(tenant);
                continue;
            }
            match self.look(system, tenant, &watched).await {
                Ok(false) => {}
                Ok(true) => {
                    self.mark(tenant);
                    is_more = true;
                }
                Err(refusal) if refusal.is_erased() => self.forget_tenant(tenant),
                Err(refusal) => {
                    tracing::warn!(%refusal, %tenant, "events are looked at later");
                    self.mark(tenant);
                }
            }
        }
        is_more
    }

    /// Looks at some records of a tenant. Says whether there may be more.
    async fn look(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        watched: &Watched,
    ) -> Result<bool, Refusal> {
        let wishes = watched.wishes.load(Ordering::Acquire);
        let mut reading = watched.reading.lock().await;
        let (rules, looked_at) = rules_of(system, tenant).await?;
        let Some(first) = rules.iter().map(|rule| rule.from_seq).min() else {
            self.unfollow(tenant, wishes);
            return Ok(false);
        };
        let from = match reading.next {
            Some(next) => next,
            None => {
                reading.noted = noted(system, tenant);
                (first + 1).max(looked_at.0).max(reading.noted + 1)
            }
        };
        let mut follower = std::mem::take(&mut reading.follower);
        let (feed, source) = (Arc::clone(&self.feed), Arc::clone(system));
        let read = tokio::task::spawn_blocking(move || {
            let heard = follower.read(&source, &feed, (tenant, from), RECORDS_STEP);
            (follower, heard)
        });
        let (follower, heard) = read.await.map_err(|_| Refusal::crashed())?;
        let heard = heard.map_err(|error| {
            tracing::error!(%tenant, %error, "a chain could not be read");
            Refusal::crashed()
        })?;
        self.set_off(system, tenant, &heard).await?;
        reading.follower = follower;
        reading.next = Some(heard.upto + 1);
        self.note(system, tenant, &mut reading);
        Ok(heard.records >= RECORDS_STEP)
    }

    /// Sets off what these events fit.
    async fn set_off(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        heard: &Heard,
    ) -> Result<(), Refusal> {
        let of_others = |told: &&Told| told.kind != Automations::KIND;
        let told: Vec<&Told> = heard.told.iter().filter(of_others).collect();
        if told.is_empty() {
            return Ok(());
        }
        // Only now: a rule that was made before an event is durable is seen here.
        let (rules, _) = rules_of(system, tenant).await?;
        let (mut views, mut hits) = (HashMap::new(), Vec::new());
        for told in told {
            let fits = |rule: &&Arc<Rule>| {
                told.id.chain_seq > rule.from_seq && rule.trigger.takes(told.name())
            };
            let mut chain = None;
            for rule in rules.iter().filter(fits) {
                let view = match views.get(&rule.id) {
                    Some(view) => view,
                    None => {
                        let view = view_of(system, tenant, rule).await?;
                        views.entry(rule.id).or_insert(view)
                    }
                };
                if !view.as_ref().is_some_and(|view| told.is_seen_by(view)) {
                    continue;
                }
                let chain: &Vec<u64> =
                    chain.get_or_insert_with(|| chain_of(system, tenant, told.request));
                if chain.len() >= CHAIN_MAX || chain.contains(&rule.id) {
                    continue;
                }
                let event = seal_event(system.journal().keys(), rule.user, &event_of(told));
                // A user whose key is gone has no rules any more.
                let Ok(event) = event else { continue };
                let place = (told.id.chain_seq, told.id.place);
                let ancestors = chain.clone();
                hits.push(Hit { rule: rule.id, place, at: told.at, event, ancestors });
            }
            if hits.len() >= HITS_STEP {
                observe(system, tenant, std::mem::take(&mut hits)).await?;
            }
        }
        if hits.is_empty() { Ok(()) } else { observe(system, tenant, hits).await }
    }

    /// Notes how far it has come, now and then.
    fn note(&self, system: &System, tenant: TenantId, reading: &mut Reading) {
        let upto = reading.next.unwrap_or(1) - 1;
        if upto < reading.noted + UNNOTED_MAX {
            return;
        }
        reading.noted = upto;
        let (key, value) = (rule_key(tenant, None), codec::encode(&upto).ok());
        let row = RowDraft { family: CURSOR_FAMILY, key, value };
        system.note_rows(Automations::address(tenant).place(), &[row]);
    }
}

async fn rules_of(
    system: &Arc<System>,
    tenant: TenantId,
) -> Result<(Vec<Arc<Rule>>, crate::automations::Place), Refusal> {
    let all = system.directory::<Automations>();
    let origin = system.system_origin();
    all.look(&Automations::address(tenant), origin, Automations::watching).await
}

async fn observe(system: &Arc<System>, tenant: TenantId, hits: Vec<Hit>) -> Result<(), Refusal> {
    let (all, origin) = (system.directory::<Automations>(), system.system_origin());
    all.ask(&Automations::address(tenant), Observe { hits }, origin).await.map(drop)
}

/// How far events were looked at, as it was noted.
fn noted(system: &System, tenant: TenantId) -> u64 {
    let shard = owner_of_tenant(tenant).shard();
    let row = system.row(shard, CURSOR_FAMILY, &rule_key(tenant, None));
    row.and_then(|row| codec::decode(&row).ok()).unwrap_or(0)
}

/// What a rule's user sees now; `None` when that is nothing.
async fn view_of(
    system: &Arc<System>,
    tenant: TenantId,
    rule: &Rule,
) -> Result<Option<View>, Refusal> {
    let Some(extensions) = system.find_port::<Extensions>() else { return Ok(None) };
    match extensions.restored(rule.caller(tenant)).await {
        Ok(caller) => Ok(Some(View::of(&caller))),
        Err(refusal) if refusal.class.may_pass() => Err(refusal),
        Err(_) => Ok(None),
    }
}

/// The rules whose calls led to a request, the first first.
pub fn chain_of(system: &System, tenant: TenantId, request: u128) -> Vec<u64> {
    let shard = owner_of_tenant(tenant).shard();
    let row = system.row(shard, CAUSE_FAMILY, &cause_key(tenant, request));
    let cause = row.and_then(|row| codec::decode::<Cause>(&row).ok());
    cause.map_or_else(Vec::new, |cause| [cause.ancestors, vec![cause.rule]].concat())
}

/// What bindings call `event`.
fn event_of(told: &Told) -> Value {
    json!({"type": told.name(), "id": told.id.to_string(), "at": rfc3339(told.at),
        "trace_id": RequestId(told.request), "data": told.data()})
}
