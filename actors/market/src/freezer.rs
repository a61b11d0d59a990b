//! Freezing and letting go: what the gateway calls, and what a [`Freeze`] has done. A port.
//!
//! The order in which a freeze stops things: first nothing new comes in (credentials, calls,
//! reminders, mails), then what is under way is stopped or ends, then what it held is released. A
//! tenant that floods cannot keep it from being done: nothing of it waits behind the tenant's own
//! requests but one essential command of its wallet, which has a reserve, and is asked again. With
//! a tenant its sandboxes stand still.
//!
//! Deliberate limits
//! - A user's or an app's requests that are no calls are not waited for: they end by themselves.
//! - Holds of calls that a crash cut off before they went outside stay open until the target goes
//!   on; then they expire.
//! - What is held in a sandbox stays held: it buys nothing outside.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use activity::operator_act::{self, Noted};
use agents::agent::Agent;
use billing::wallet::{ReleaseOpen, Wallet, wallet_address};
use confirmations::confirmation::OpenRow;
use confirmations::desk;
use extensions::flights::Sort;
use extensions::{Apps, Extensions, Flying, Stopped};
use identity::Identity;
use identity::frozen::{Frozen, ReasonClass, Target, refusal};
use identity::tenant::Tenant;
use persistence::{RowRange, codec};
use supervision::{Entity as _, Home, Origin, Refusal, System};
use tokio::time::{Instant, sleep};
use types::{CallId, TaskId, TenantId, UserId, base32, home_of, platform};

use crate::freeze::{
    Begin, FROZEN_FAMILY, Freeze, FrozenRow, Item, Outcome, Resume, Standing, Tally,
};

/// How long calls that were stopped may take to end: a run's own limit is 2 s.
const CALLS_LIMIT: Duration = Duration::from_secs(3);
/// How long a tenant's requests in flight may take to end after that.
const REQUESTS_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const REQUESTS_PERIOD: Duration = Duration::from_millis(2);
/// How often a wallet that is too busy is asked, and the pause between.
const WALLET_ATTEMPTS_MAX: u32 = 50;
const WALLET_PAUSE: Duration = Duration::from_millis(20);
/// How many rows one step of reading them takes.
const ROWS_STEP: usize = 200;

/// Who knows how many requests are in flight.
pub trait Traffic: Send + Sync + 'static {
    /// How many of a tenant's are.
    fn in_flight(&self, tenant: TenantId) -> u64;
}

/// See the module's head.
pub struct Freezer {
    extensions: Arc<Extensions>,
    frozen: Arc<Frozen>,
    traffic: OnceLock<Arc<dyn Traffic>>,
}

impl Freezer {
    /// Of what is to be frozen.
    pub fn new(extensions: Arc<Extensions>, frozen: Arc<Frozen>) -> Arc<Self> {
        Arc::new(Self { extensions, frozen, traffic: OnceLock::new() })
    }

    /// Says who counts requests; without, none are waited for.
    pub fn watch(&self, traffic: Arc<dyn Traffic>) {
        let _ = self.traffic.set(traffic);
    }

    /// Takes in what is frozen: before the first request, and before anything that was pending goes
    /// on. Says how much is.
    pub fn load(&self, system: &System) -> usize {
        let (mut after, mut count) = (None, 0);
        loop {
            let (rows, next) = self.list(system, after, ROWS_STEP);
            for row in &rows {
                self.shut(system, &row.target, row.number, row.class);
            }
            (after, count) = (next, count + rows.len());
            if after.is_none() {
                return count;
            }
        }
    }

    /// What is frozen, by kind and id: at most `limit` after one, and where to go on.
    pub fn list(
        &self,
        system: &System,
        after: Option<Vec<u8>>,
        limit: usize,
    ) -> (Vec<FrozenRow>, Option<Vec<u8>>) {
        let rows = system.rows(&RowRange {
            shard: platform().shard(),
            family: FROZEN_FAMILY,
            prefix: Vec::new(),
            after,
            newest_first: false,
            limit,
        });
        let next = rows.last().map(|(key, _)| key.clone()).filter(|_| rows.len() == limit);
        (rows.iter().filter_map(|(_, value)| codec::decode(value).ok()).collect(), next)
    }

    /// Freezes a target, and answers once all was stopped. What is frozen already answers as it
    /// did then. 404 for what does not exist, 409 `own_tenant` for the installation's tenant, and
    /// `own_user` for the caller.
    pub async fn freeze(
        &self,
        system: &Arc<System>,
        target: Target,
        why: (ReasonClass, String),
        caller: Option<UserId>,
        origin: Origin,
    ) -> Result<Standing, Refusal> {
        let (home, (class, reason)) = (home(system, &target)?, why);
        check_foreign(&target, caller)?;
        let (freezes, address) = (system.directory::<Freeze>(), Freeze::address(&target));
        let is_frozen = |it: &Freeze| it.last().is_some_and(|last| last.resumed.is_none());
        if !freezes.look(&address, origin.clone(), is_frozen).await? {
            announce(system, home, act(&target, "freeze", &reason), &origin).await?;
            let begin = Begin { target, home, class, reason };
            freezes.ask(&address, begin, origin.clone()).await?;
        }
        freezes.wait(&address, origin).await
    }

    /// Lets a target go on, and answers how it was frozen. Refused as [`Resume`] and with 404.
    pub async fn resume(
        &self,
        system: &Arc<System>,
        target: &Target,
        reason: String,
        origin: Origin,
    ) -> Result<Standing, Refusal> {
        let home = home(system, target)?;
        let (freezes, address) = (system.directory::<Freeze>(), Freeze::address(target));
        let present = freezes.look(&address, origin.clone(), |it| it.last().cloned()).await?;
        if present.is_some_and(|last| last.resumed.is_none() && last.receipt.is_some()) {
            announce(system, home, act(target, "resume", &reason), &origin).await?;
        }
        let standing = freezes.ask(&address, Resume { reason }, origin).await?;
        // The entity's effect does the same a moment later.
        self.lift(system, &standing);
        Ok(standing)
    }

    /// The last freeze of a target; `None` if there was none.
    pub async fn standing(
        &self,
        system: &Arc<System>,
        target: &Target,
        origin: Origin,
    ) -> Result<Option<Standing>, Refusal> {
        let address = Freeze::address(target);
        if system.locate(Freeze::KIND, address.id()).is_none() {
            return Ok(None);
        }
        let freezes = system.directory::<Freeze>();
        freezes.look(&address, origin, |it| it.last().cloned()).await
    }

    /// From now on nothing new of a target comes in.
    fn shut(&self, system: &System, target: &Target, number: u64, class: ReasonClass) {
        self.frozen.freeze(target.clone(), number, class);
        let Target::Tenant(tenant) = target else { return };
        for tenant in self.frozen.with_copies(*tenant) {
            if self.frozen.class_of_tenant(tenant).is_some() {
                system.reminders().pause(home_of(tenant));
            }
        }
    }

    /// Lets a target in again.
    pub(crate) fn lift(&self, system: &System, standing: &Standing) {
        self.frozen.lift(standing.target.clone(), standing.number);
        let Target::Tenant(tenant) = &standing.target else { return };
        for tenant in self.frozen.with_copies(*tenant) {
            if self.frozen.class_of_tenant(tenant).is_none() {
                system.reminders().go_on(home_of(tenant));
            }
        }
    }

    /// Stops what runs. May be repeated.
    pub(crate) async fn stop(
        &self,
        system: &Arc<System>,
        standing: &Standing,
        origin: &Origin,
    ) -> Result<(Tally, u64), Refusal> {
        let Standing { target, number, class, .. } = standing;
        self.shut(system, target, *number, *class);
        let mut tally = Tally::default();
        let cancelled = self.stop_calls(target, *class, &mut tally).await;
        let cards = void_cards(system, target, &mut tally, origin).await?;
        if let Target::Tenant(tenant) = target {
            let tenants = self.frozen.with_copies(*tenant);
            tally.requests_left = self.wait_for_requests(&tenants).await;
            let released = release_holds(system, *tenant, cancelled, &mut tally, origin).await;
            // What does not come to itself is told, and keeps nothing else from being stopped.
            tally.wallet_refused = released.err().map(|refusal| refusal.code);
        }
        Ok((tally, cards))
    }

    /// Tells in the chain of the target's tenant what was stopped. May be repeated.
    pub(crate) async fn tell(
        &self,
        system: &System,
        standing: &Standing,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let Some(receipt) = &standing.receipt else { return Ok(()) };
        if standing.home == TenantId::SYSTEM || is_erased(system, standing.home).await? {
            return Ok(());
        }
        let done = act(&standing.target, "frozen", &summary(&receipt.tally, receipt.cards_voided));
        operator_act::note_as(system, standing.home, standing.note, done, origin.clone()).await
    }

    /// Stops the target's calls. Answers those of which nothing will be recorded.
    async fn stop_calls(
        &self,
        target: &Target,
        class: ReasonClass,
        tally: &mut Tally,
    ) -> Vec<CallId> {
        let tenants = match target {
            Target::Tenant(tenant) => self.frozen.with_copies(*tenant),
            _ => Vec::new(),
        };
        let meant = |flying: &Flying| match target {
            Target::Tenant(_) => tenants.contains(&flying.tenant),
            Target::User(user) => flying.user == Some(*user),
            Target::App(app) => flying.app == *app,
            Target::Agent(agent) => flying.agent == Some(*agent),
        };
        let why = refusal(target.kind(), class);
        let stopped = self.extensions.flights().stop(meant, &why, CALLS_LIMIT).await;
        let mut cancelled = Vec::new();
        for (flying, became) in stopped {
            let outcome = match became {
                Stopped::Cancelled => Outcome::Cancelled,
                Stopped::Completed => Outcome::Completed,
                Stopped::Refused => Outcome::Refused,
                Stopped::StillRunning => Outcome::StillRunning,
            };
            if outcome == Outcome::Cancelled {
                cancelled.push(flying.id);
            }
            let item = match flying.sort {
                Sort::Task => Item::Task(TaskId(flying.id.0)),
                Sort::Call | Sort::Batch => Item::Call(flying.id),
            };
            tally.note(item, outcome);
        }
        cancelled
    }

    /// Waits until what had been let in before has ended. Says how many requests have not.
    async fn wait_for_requests(&self, tenants: &[TenantId]) -> u64 {
        let Some(traffic) = self.traffic.get() else { return 0 };
        let deadline = Instant::now() + REQUESTS_LIMIT;
        loop {
            let left = tenants.iter().map(|tenant| traffic.in_flight(*tenant)).sum();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            sleep(REQUESTS_PERIOD).await;
        }
    }
}

/// The tenant whose business a target is; 404 when it does not exist.
fn home(system: &System, target: &Target) -> Result<TenantId, Refusal> {
    let found = match target {
        Target::Tenant(tenant) => {
            system.locate(Tenant::KIND, Tenant::address(*tenant).id()).map(|place| place.home)
        }
        Target::User(user) => {
            let address = system.port::<Identity>().user_address(*user)?;
            address.map(|address| address.place().home)
        }
        Target::App(app) => Apps::locate(system, app).map(|address| address.place().home),
        Target::Agent(agent) => {
            system.locate(Agent::KIND, &base32(agent.0)).map(|place| place.home)
        }
    };
    let missing = || Refusal::not_found(target.kind());
    found.map(|Home(tenant)| TenantId(tenant)).ok_or_else(missing)
}

/// Notes what an operator is about to do, in the chain of the tenant whose business it is, unless
/// that was erased, and in the platform's.
async fn announce(
    system: &System,
    home: TenantId,
    act: Noted,
    origin: &Origin,
) -> Result<(), Refusal> {
    let home = if is_erased(system, home).await? { TenantId::SYSTEM } else { home };
    operator_act::note(system, home_of(home), act, origin.clone()).await
}

/// Whether a tenant was erased: nothing may be written in its chain any more, under a new key.
async fn is_erased(system: &System, tenant: TenantId) -> Result<bool, Refusal> {
    let (tenants, origin) = (system.directory::<Tenant>(), system.system_origin());
    match tenants.look(&Tenant::address(tenant), origin, |_| ()).await {
        Err(refusal) if refusal.is_erased() => Ok(true),
        looked => looked.map(|()| false),
    }
}

/// Nobody locks everybody out, or themselves.
fn check_foreign(target: &Target, caller: Option<UserId>) -> Result<(), Refusal> {
    match target {
        Target::Tenant(TenantId::SYSTEM) => {
            let message = "the installation's own tenant is not frozen";
            Err(Refusal::conflict("own_tenant", message))
        }
        Target::User(user) if caller == Some(*user) => {
            Err(Refusal::conflict("own_user", "nobody freezes themselves"))
        }
        _ => Ok(()),
    }
}

fn act(target: &Target, action: &str, reason: &str) -> Noted {
    let (kind, id) = (target.kind().to_owned(), target.id());
    Noted { kind, id, action: action.to_owned(), reason: reason.to_owned() }
}

/// The receipt in a sentence, for the tenant's chain.
fn summary(tally: &Tally, cards: u64) -> String {
    format!(
        "{} calls cancelled, {} had ended, {} run on; {} holds with {} credits released, {} left \
         to their calls; {} requests left; {cards} confirmations void",
        tally.calls_cancelled,
        tally.calls_completed,
        tally.calls_running,
        tally.holds_released,
        tally.credits_released,
        tally.holds_left,
        tally.requests_left,
    )
}

/// Ends what waits for a person. Says how many cards.
async fn void_cards(
    system: &Arc<System>,
    target: &Target,
    tally: &mut Tally,
    origin: &Origin,
) -> Result<u64, Refusal> {
    let tenant = match target {
        Target::Tenant(tenant) => Some(*tenant),
        Target::User(_) | Target::App(_) | Target::Agent(_) => None,
    };
    let meant = |row: &OpenRow| match target {
        Target::Tenant(tenant) => row.tenant == *tenant,
        Target::User(user) => row.user == *user,
        Target::App(app) => row.app.as_ref() == Some(app),
        // Who confirms what a frozen agent asked for is refused.
        Target::Agent(_) => false,
    };
    let voided = desk::void_open(system, tenant, meant, "frozen", origin).await?;
    for card in &voided {
        tally.note(Item::Card(card.id), Outcome::Voided);
        if let Some(ended) = card.released {
            tally.credits_released += ended.amount - ended.captured;
            tally.note(Item::Hold(ended.id), Outcome::Released);
        }
    }
    Ok(voided.len() as u64)
}

async fn release_holds(
    system: &System,
    tenant: TenantId,
    calls: Vec<CallId>,
    tally: &mut Tally,
    origin: &Origin,
) -> Result<(), Refusal> {
    let (wallets, address) = (system.directory::<Wallet>(), wallet_address(tenant));
    // A tenant that never had a wallet has nothing held.
    if system.locate(Wallet::KIND, address.id()).is_none() {
        return Ok(());
    }
    let mut attempts = 0;
    loop {
        let release = ReleaseOpen { calls: calls.clone() };
        match wallets.ask(&address, release, origin.clone()).await {
            Ok(answer) if answer.released.is_empty() => {
                tally.holds_left = answer.open as u64;
                return Ok(());
            }
            Ok(answer) => {
                for ended in answer.released {
                    tally.credits_released += ended.amount - ended.captured;
                    tally.note(Item::Hold(ended.id), Outcome::Released);
                }
            }
            Err(refusal) if refusal.class.may_pass() && attempts < WALLET_ATTEMPTS_MAX => {
                attempts += 1;
                sleep(WALLET_PAUSE).await;
            }
            Err(refusal) => return Err(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use extensions::Settings;
    use persistence::{EngineKind, Journal, KeyId, MasterKey, Options};
    use supervision::SystemOptions;
    use supervision::address::TENANT_KEY_CLASS;

    use super::*;

    const ACME: TenantId = TenantId(50);

    fn system() -> Arc<System> {
        let options = Options { engine: EngineKind::Memory, ..Options::new("") };
        let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
        let (extensions, frozen) =
            (Extensions::new(Settings::default(), Apps::new(), Vec::new()), Arc::default());
        let builder = System::builder(SystemOptions::new(journal)).kind::<Tenant>();
        let builder = billing::register(activity::register(builder));
        crate::register(builder).port(Freezer::new(extensions, frozen)).start()
    }

    /// How many records the tenant's chain has.
    fn records(system: &System) -> u64 {
        system.journal().chain_head(home_of(ACME)).unwrap().chain_seq
    }

    #[tokio::test]
    async fn a_freeze_ends_though_its_tenant_is_erased_before_it_was_told() {
        let system = system();
        let origin = system.system_origin();
        let (name, owner_role) = ("Acme".to_owned(), "owner".to_owned());
        let create = identity::tenant::Create {
            id: ACME,
            name,
            owner: UserId(5),
            owner_role,
            direct: false,
        };
        let tenants = system.directory::<Tenant>();
        tenants.ask(&Tenant::address(ACME), create, origin.clone()).await.unwrap();
        let key = KeyId { class: TENANT_KEY_CLASS, id: ACME.0 };
        system.journal().keys().erase_all(&[key]).unwrap();
        system.forget([key].into()).await;
        let before = records(&system);

        let target = Target::Tenant(ACME);
        let begin = Begin {
            target: target.clone(),
            home: ACME,
            class: ReasonClass::Legal,
            reason: "for the test".to_owned(),
        };
        let freezes = system.directory::<Freeze>();
        let address = Freeze::address(&target);
        freezes.ask(&address, begin, origin.clone()).await.unwrap();
        let standing = freezes.wait(&address, origin.clone()).await.unwrap();
        assert!(standing.receipt.is_some());
        let freezer = system.port::<Freezer>();
        let resumed = freezer.resume(&system, &target, "it is over".to_owned(), origin).await;
        assert!(resumed.unwrap().resumed.is_some());
        assert_eq!(records(&system), before, "nothing is written under a new key");
        assert_eq!(system.journal().keys().number_of(key), None);
    }
}
