//! What plans get by the port for charges, with the sandbox as the provider.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use persistence::{EngineKind, Journal, MasterKey, Options};
use supervision::{Origin, Refusal, SimulatedClock, System, SystemOptions, Timestamp};
use tokio::sync::Notify;
use types::{PaymentId, TenantId};

use crate::charging::{Charge, Charged, Charging as _};
use crate::payments::provider::PaymentProvider as _;
use crate::payments::sandbox::{Card, PageId, Sandbox};
use crate::payments::{ChargeVerdicts, Payments};

const TENANT: TenantId = TenantId(7);

#[derive(Default)]
struct Told {
    verdicts: Mutex<Vec<(u128, Charged)>>,
    arrived: Notify,
    /// The first is refused, as if whoever waits were busy.
    was_asked: Mutex<bool>,
}

impl ChargeVerdicts for Told {
    fn settled(
        &self,
        _: Arc<System>,
        (tenant, charge): (TenantId, u128),
        charged: Charged,
        _: Origin,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        assert_eq!(tenant, TENANT);
        self.verdicts.lock().push((charge, charged));
        self.arrived.notify_one();
        let was_asked = std::mem::replace(&mut *self.was_asked.lock(), true);
        let answer = if was_asked { Ok(()) } else { Err(Refusal::busy()) };
        futures::future::ready(answer).boxed()
    }
}

struct World {
    clock: Arc<SimulatedClock>,
    system: Arc<System>,
    payments: Arc<Payments>,
    sandbox: Arc<Sandbox>,
    told: Arc<Told>,
    customer: String,
}

async fn world() -> World {
    let options = Options { engine: EngineKind::Memory, ..Options::new("") };
    let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
    let (sandbox, told) = (Arc::new(Sandbox::new("http://here")), Arc::new(Told::default()));
    let payments = Payments::new(sandbox.clone(), "http://here").with_verdicts(told.clone());
    let payments = Arc::new(payments);
    let clock = SimulatedClock::at(Timestamp(1_767_225_600_000));
    let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
    let builder = System::builder(options).port(payments.clone());
    let system = crate::register(builder).start();
    payments.attach(&system);
    let customer = sandbox.customer(TENANT).await.unwrap();
    payments.customer(&system, TENANT, &system.system_origin()).await.unwrap();
    World { clock, system, payments, sandbox, told, customer }
}

impl World {
    async fn charge(&self, id: u128) -> Charged {
        let purpose = "subscription".to_owned();
        let description = "Pro, a month".to_owned();
        let charge = Charge { id, tenant: TENANT, amount_cents: 4_500, purpose, description };
        self.payments.charge(charge, self.system.system_origin()).await.unwrap()
    }

    async fn card(&self, card: Card) {
        self.sandbox.add_card(&self.customer, card).await.unwrap();
        let method = card.method().to_owned();
        self.sandbox.set_default(self.customer.clone(), method).await.unwrap();
    }
}

#[tokio::test]
async fn a_charge_is_collected_once_and_says_what_became_of_it() {
    let world = world().await;
    assert_eq!(world.charge(1).await, Charged::NoMethod);
    world.card(Card::Visa).await;
    let paid = world.charge(1).await;
    assert!(matches!(&paid, Charged::Succeeded { payment } if payment.starts_with("pi_sandbox_")));
    world.card(Card::Declined).await;
    assert_eq!(world.charge(1).await, paid, "the same charge, whatever the card is now");
    let declined = Charged::Declined { code: "card_declined".to_owned() };
    assert_eq!(world.charge(2).await, declined);
    assert!(world.told.verdicts.lock().is_empty(), "both were answered");
    let origin = world.system.system_origin();
    let view = world.payments.look(&world.system, TENANT, PaymentId(1), &origin).await.unwrap();
    assert!(view.unwrap().owed.is_empty(), "a plan's credits are the plan's to give");
    world.system.stop().await;
}

#[tokio::test]
async fn what_its_payer_confirms_later_is_told_until_it_was_heard() {
    let world = world().await;
    world.card(Card::Action).await;
    let Charged::RequiresAction { payment, client_secret } = world.charge(3).await else {
        panic!("this card asks its payer");
    };
    let page = PageId::read(&client_secret).unwrap();
    world.sandbox.act(&page, None).await.unwrap();
    world.told.arrived.notified().await;
    // It was refused: the reminder tells it again.
    while world.told.verdicts.lock().len() < 2 {
        world.clock.advance_ms(1_000);
        world.system.fire_reminders();
        tokio::task::yield_now().await;
    }
    let verdicts = world.told.verdicts.lock().clone();
    let succeeded = (3, Charged::Succeeded { payment });
    assert!(verdicts.iter().all(|verdict| *verdict == succeeded), "{verdicts:?}");
    world.system.stop().await;
}
