//! What a subscription stores, as it always was: see [`supervision::testkit::Golden`].

use supervision::testkit::Golden;

use super::terms::Period;
use super::*;

fn choice(plan: &str, period: Period) -> Choice {
    Choice { plan: plan.to_owned(), period }
}

fn of_charges() -> Vec<SubscriptionEvent> {
    let (pro, tenant, charge) = (choice("pro", Period::Monthly), TenantId(4), 77);
    let payment = "pi_1".to_owned();
    let due = Due {
        id: charge,
        tenant,
        what: What::Renew(pro.clone()),
        amount_cents: 4_500,
        credits: 3,
        run: 1,
        month: 1,
        request: Some(9),
        is_asked: true,
        undecided_since: Some(Timestamp(1_767_225_600_000)),
    };
    vec![
        SubscriptionEvent::ChargeBegun(ChargeBegun { due }),
        SubscriptionEvent::ChargeUndecided(ChargeUndecided { charge, payment: payment.clone() }),
        SubscriptionEvent::ChargeAskedAgain(ChargeAskedAgain { charge }),
        SubscriptionEvent::ChargeGivenUp(ChargeGivenUp { charge }),
        SubscriptionEvent::ChargeDeclined(ChargeDeclined {
            charge,
            what: What::Begin(pro.clone()),
            amount_cents: 4_500,
            code: "card_declined".to_owned(),
        }),
        SubscriptionEvent::ChargePaid(ChargePaid {
            charge,
            what: What::Anew(pro),
            amount_cents: 4_500,
            payment: payment.clone(),
            request: Some(9),
        }),
        SubscriptionEvent::PaymentUnplaced(PaymentUnplaced { charge, payment, amount_cents: 50 }),
    ]
}

fn samples() -> Vec<SubscriptionEvent> {
    let (tenant, anchor) = (TenantId(4), Timestamp(1_767_225_600_000));
    let grant = GrantId(5);
    let mut samples = vec![
        SubscriptionEvent::PeriodBegun(PeriodBegun {
            tenant,
            run: 1,
            anchor,
            from_month: 0,
            until_month: 12,
            choice: choice("enterprise", Period::Yearly),
            mode: Mode::Manual,
            contract_amount_cents: Some(1_200_000),
            note: Some("by contract".to_owned()),
        }),
        SubscriptionEvent::PlanCredits(PlanCredits {
            grant,
            plan: "pro".to_owned(),
            run: 1,
            month: 0,
            is_whole_month: true,
            credits: 50_000,
            expires_at: anchor.plus_ms(5),
        }),
        SubscriptionEvent::PlanChanged(PlanChanged {
            plan: "business".to_owned(),
            from: "pro".to_owned(),
            mode: Mode::Card,
            contract_amount_cents: None,
            note: None,
            request: Some(8),
        }),
        SubscriptionEvent::ChangeScheduled(ChangeScheduled {
            next: Some(choice("pro", Period::Monthly)),
        }),
        SubscriptionEvent::CancellationSet(CancellationSet { at_period_end: true }),
        SubscriptionEvent::FellDue(FellDue { retry_at: anchor.plus_ms(7) }),
        SubscriptionEvent::WalletTold(WalletTold { grants: vec![grant], said: 3 }),
        SubscriptionEvent::Retried(Retried {}),
    ];
    samples.extend(of_charges());
    samples.push(SubscriptionEvent::Ended(SubscriptionEnded { status: terms::Status::Expired }));
    samples
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    Golden::of(env!("CARGO_MANIFEST_DIR")).check_events(&samples());
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut subscription = Subscription::default();
    for event in samples().into_iter().take(9) {
        subscription.apply(&event, Timestamp(1_767_225_600_000));
    }
    Golden::of(env!("CARGO_MANIFEST_DIR")).check_state(&subscription);
}
