//! Subscriptions on a whole system, with a bank that a test scripts: what is ordered is collected
//! and answered, what time brings is done by reminders, and what a stopped process has left is
//! taken up at its start.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use billing::charging::{Charge, Charged, Charging};
use billing::plan_limits::{Meter, Plans};
use billing::subscription::Subscription;
use billing::subscription::collecting::{Collector, change_plan, renew, settle, subscribe};
use billing::subscription::orders::{Cancel, SubscriptionView};
use billing::subscription::terms::{Choice, Period};
use billing::wallet::{Wallet, wallet_address};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use persistence::{EngineKind, Journal, MasterKey, Options};
use supervision::{Origin, Refusal, SimulatedClock, System, SystemOptions, Timestamp};
use types::TenantId;

const TENANT: TenantId = TenantId(7);
const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Answers each new charge with what comes next in the script, and then pays; what it has answered
/// it answers again.
#[derive(Default)]
struct Bank {
    script: Mutex<Vec<Result<Charged, Refusal>>>,
    seen: Mutex<BTreeMap<u128, (Charge, Charged)>>,
}

impl Bank {
    fn will(&self, answer: Result<Charged, Refusal>) {
        self.script.lock().unwrap().push(answer);
    }

    fn paid(&self) -> Vec<i64> {
        let seen = self.seen.lock().unwrap();
        let is_paid = |outcome: &Charged| matches!(outcome, Charged::Succeeded { .. });
        let paid = seen.values().filter(|(_, outcome)| is_paid(outcome));
        let mut cents: Vec<_> = paid.map(|(charge, _)| charge.amount_cents).collect();
        cents.sort_unstable();
        cents
    }

    fn decide(&self, charge: u128) -> Charged {
        let outcome = Charged::Succeeded { payment: "pi_late".to_owned() };
        self.seen.lock().unwrap().get_mut(&charge).unwrap().1 = outcome.clone();
        outcome
    }

    fn answer(&self, charge: Charge) -> Result<Charged, Refusal> {
        let mut seen = self.seen.lock().unwrap();
        if let Some((known, outcome)) = seen.get(&charge.id) {
            assert_eq!(*known, charge, "one id, two charges");
            return Ok(outcome.clone());
        }
        let paid = Charged::Succeeded { payment: format!("pi_{}", seen.len()) };
        let mut script = self.script.lock().unwrap();
        let answer = if script.is_empty() { Ok(paid) } else { script.remove(0) };
        let outcome = answer?;
        seen.insert(charge.id, (charge, outcome.clone()));
        Ok(outcome)
    }
}

struct Shared(Arc<Bank>);

impl Charging for Shared {
    fn charge(&self, charge: Charge, _: Origin) -> BoxFuture<'static, Result<Charged, Refusal>> {
        std::future::ready(self.0.answer(charge)).boxed()
    }
}

struct World {
    system: Arc<System>,
    clock: Arc<SimulatedClock>,
    bank: Arc<Bank>,
}

impl World {
    fn start(folder: &Path, clock: Arc<SimulatedClock>, bank: Arc<Bank>) -> Self {
        let options = Options { engine: EngineKind::Redb, ..Options::new(folder) };
        let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
        let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
        let builder = System::builder(options).port(Collector::new(Arc::new(Shared(bank.clone()))));
        let system = billing::register(builder).start();
        system.recover().unwrap();
        Self { system, clock, bank }
    }

    /// Stops it and lets go of its folder.
    async fn stop(self) {
        self.system.stop().await;
    }

    fn origin(&self) -> Origin {
        self.system.system_origin()
    }

    fn wanted(&self, plan: &str) -> (Choice, u128) {
        (Choice { plan: plan.to_owned(), period: Period::Monthly }, self.system.new_id())
    }

    async fn view(&self) -> SubscriptionView {
        let subscriptions = self.system.directory::<Subscription>();
        let address = Subscription::address(TENANT);
        subscriptions.look(&address, self.origin(), Subscription::view).await.unwrap()
    }

    /// The plan that the wallet shows and what there is to spend, once the subscription has nothing
    /// left to tell.
    async fn shown(&self) -> (&'static str, i64) {
        let (subscriptions, address) =
            (self.system.directory::<Subscription>(), Subscription::address(TENANT));
        let is_pending = supervision::Entity::is_pending;
        while subscriptions.look(&address, self.origin(), is_pending).await.unwrap() {
            tokio::task::yield_now().await;
        }
        let (wallets, now) = (self.system.directory::<Wallet>(), self.system.clock().now());
        let look = move |wallet: &Wallet| (wallet.plan().id, wallet.balance(now).available);
        wallets.look(&wallet_address(TENANT), self.origin(), look).await.unwrap()
    }

    /// Days pass, and reminders fire.
    async fn pass_days(&self, days: i64) {
        for _ in 0..days {
            self.clock.advance_ms(DAY_MS);
            self.system.fire_reminders();
            self.shown().await;
        }
    }
}

#[tokio::test]
async fn what_is_ordered_is_collected_and_what_time_brings_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path(), SimulatedClock::at(BEGIN), Arc::default());
    let (system, bank) = (&world.system, &world.bank);
    bank.will(Ok(Charged::NoMethod));
    let refused = subscribe(system, TENANT, world.wanted("pro"), world.origin()).await;
    assert_eq!(refused.unwrap_err().code, "payment_method_required");
    bank.will(Ok(Charged::Declined { code: "expired_card".to_owned() }));
    let refused = subscribe(system, TENANT, world.wanted("pro"), world.origin()).await.unwrap_err();
    assert_eq!(refused.code, "payment_declined");
    assert!(refused.facts.unwrap().contains("expired_card"));
    let done = subscribe(system, TENANT, world.wanted("pro"), world.origin()).await.unwrap();
    assert!(done.succeeded && !done.pending && done.payment.is_some(), "{done:?}");
    assert_eq!(world.shown().await, ("pro", 50_000));
    let limit = Plans(system).limit(TENANT, Meter::ApiKeys, world.origin()).await.unwrap();
    assert_eq!((limit.plan.id, limit.limit), ("pro", Some(100)));
    assert!(Plans(system).needs_card(TENANT, world.origin()).await.unwrap());

    let (payment, client_secret) = ("pi_a".to_owned(), "hush".to_owned());
    bank.will(Ok(Charged::RequiresAction { payment, client_secret }));
    let wanted = world.wanted("business");
    let asked = change_plan(system, TENANT, wanted.clone(), world.origin()).await.unwrap();
    assert!(asked.requires_action && asked.pending && !asked.succeeded);
    assert_eq!(asked.client_secret.as_deref(), Some("hush"));
    let charge =
        *bank.seen.lock().unwrap().iter().find(|(_, it)| it.0.amount_cents == 11_500).unwrap().0;
    settle(system, TENANT, charge, bank.decide(charge), world.origin()).await.unwrap();
    assert_eq!(world.shown().await, ("business", 200_000));
    let again = change_plan(system, TENANT, wanted, world.origin()).await.unwrap();
    assert!(again.succeeded && again.payment.is_none(), "the same request was fulfilled");

    world.pass_days(31).await;
    assert_eq!(world.shown().await, ("business", 200_000));
    assert_eq!(bank.paid(), [4_500, 11_500, 16_000]);
    let subscriptions = system.directory::<Subscription>();
    let address = Subscription::address(TENANT);
    subscriptions.ask(&address, Cancel, world.origin()).await.unwrap();
    world.pass_days(28).await;
    assert_eq!(
        (world.shown().await, world.view().await.status.as_str()),
        (("free", 0), "cancelled")
    );
    let refused = renew(system, TENANT, system.new_id(), world.origin()).await;
    assert_eq!(refused.unwrap_err().code, "not_expired");
    system.stop().await;
}

#[tokio::test]
async fn what_was_pending_is_taken_up_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, bank) = (SimulatedClock::at(BEGIN), Arc::<Bank>::default());
    let world = World::start(folder.path(), clock.clone(), bank.clone());
    bank.will(Err(Refusal::in_doubt()));
    let unknown = subscribe(&world.system, TENANT, world.wanted("pro"), world.origin()).await;
    assert_eq!(unknown.unwrap_err().code, "outcome_unknown");
    world.stop().await;

    let world = World::start(folder.path(), clock.clone(), bank.clone());
    assert_eq!(world.shown().await, ("pro", 50_000));
    clock.advance_ms(31 * DAY_MS);
    world.stop().await;

    let world = World::start(folder.path(), clock, bank);
    world.system.fire_reminders();
    while world.view().await.expires_at.unwrap() != "2026-03-01T00:00:00.000Z" {
        tokio::task::yield_now().await;
    }
    assert_eq!((world.shown().await, world.bank.paid()), (("pro", 50_000), vec![4_500, 4_500]));
    world.stop().await;
}
