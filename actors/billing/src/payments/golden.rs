//! What payments store, as it always was: see [`supervision::testkit::Golden`].

use persistence::codec;
use supervision::testkit::Golden;
use supervision::{Entity as _, Retried, Timestamp};
use types::{PaymentId, Personal, Sealed, TenantId};

use super::account::*;
use super::payment::*;
use super::provider::Method;
use super::sandbox::*;
use super::standing::Status;

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

fn stored<T: serde::de::DeserializeOwned>(value: &impl serde::Serialize) -> T {
    codec::decode(&codec::encode(value).unwrap()).unwrap()
}

fn of_payment() -> Vec<PaymentEvent> {
    let asked = super::payment::sample(Purpose::Charge("subscription".to_owned()));
    let step = Step { id: 77, credits: -5_000 };
    vec![
        PaymentEvent::Begun(PaymentBegun { asked }),
        PaymentEvent::Placed(PaymentPlaced {
            intent: Some("pi_1".to_owned()),
            page_url: Some("https://pay.example.com/1".to_owned()),
            secret: Some(Sealed::from_bytes(vec![3; 40])),
        }),
        PaymentEvent::Stood(PaymentStood {
            intent: Some("pi_1".to_owned()),
            status: Status::Mismatched,
            code: Some("card_declined".to_owned()),
            received: Some((499, "jpy".to_owned())),
            receipt_url: Some("https://pay.example.com/receipt".to_owned()),
            step: Some(step),
            news: Some("evt_1".to_owned()),
            is_answer: true,
        }),
        PaymentEvent::Settled(PaymentSettled { step }),
        PaymentEvent::VerdictTold(VerdictTold {}),
        PaymentEvent::Retried(Retried {}),
    ]
}

fn of_account() -> Vec<BillingAccountEvent> {
    let (tenant, payment) = (TenantId(7), PaymentId(77));
    let profile: Personal = stored(&vec![9_u8; 40]);
    vec![
        BillingAccountEvent::CustomerMade(CustomerMade { tenant, customer: "cus_1".to_owned() }),
        BillingAccountEvent::MethodsTold(MethodsTold {
            methods: vec![Method {
                id: "pm_1".to_owned(),
                r#type: "card".to_owned(),
                brand: "visa".to_owned(),
                last4: "4242".to_owned(),
                exp_month: 12,
                exp_year: 2_030,
                is_default: true,
            }],
        }),
        BillingAccountEvent::ProfileSet(ProfileSet { profile }),
        BillingAccountEvent::AutoSet(AutoSet {
            tenant,
            auto: AutoTopUp { enabled: true, ..AutoTopUp::default() },
        }),
        BillingAccountEvent::AutoBegun(AutoBegun { payment, available: 12 }),
        BillingAccountEvent::AutoEnded(AutoEnded {
            payment,
            disabled: Some("card_declined".to_owned()),
        }),
        BillingAccountEvent::AutoRetried(Retried {}),
    ]
}

fn of_sandbox() -> Vec<SandboxEvent> {
    super::sandbox::samples()
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&of_payment());
    golden().check_events(&of_account());
    golden().check_events(&of_sandbox());
}

#[test]
fn states_and_rows_are_stored_as_they_always_were() {
    let at = Timestamp(1_767_225_600_000);
    let (mut payment, mut rows) = (Payment::default(), Vec::new());
    for event in of_payment() {
        payment.rows(&event, at, &mut rows);
        payment.apply(&event, at);
    }
    golden().check_state(&payment);
    let last = rows.last().and_then(|row| row.value.clone()).unwrap();
    golden().check("rows/payment", &last);
    let mut account = BillingAccount::default();
    of_account().iter().take(5).for_each(|event| account.apply(event, at));
    golden().check_state(&account);
    let mut customer = SandboxCustomer::default();
    of_sandbox().iter().take(3).for_each(|event| customer.apply(event, at));
    golden().check_state(&customer);
}
