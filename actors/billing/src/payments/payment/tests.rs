//! What a payment promises: it is worth what came in, once, however often and in whatever order it
//! is told.

use proptest::prelude::*;
use supervision::testkit::Given;

use super::*;
use crate::payments::provider::{ClientSecret, IntentStatus};

const ID: PaymentId = PaymentId(77);
const TENANT: TenantId = TenantId(7);

pub(in crate::payments) fn asked(purpose: Purpose) -> Asked {
    Asked {
        id: ID,
        tenant: TENANT,
        user: Some(UserId(7)),
        tokens: 5_000,
        amount_cents: 500,
        currency: "usd".to_owned(),
        purpose,
        description: "5000 credits".to_owned(),
        way: Way::OffSession { method: "pm_1".to_owned() },
    }
}

fn intent(status: IntentStatus) -> Intent {
    Intent {
        id: "pi_1".to_owned(),
        payment: Some((TENANT, ID)),
        status,
        received_cents: if status == IntentStatus::Succeeded { 500 } else { 0 },
        currency: "usd".to_owned(),
        refunded_cents: 0,
        disputed_cents: 0,
        client_secret: Some(ClientSecret("pi_1_secret_canary".to_owned())),
        code: None,
        receipt_url: None,
    }
}

fn begun(purpose: Purpose) -> Given<Payment> {
    Given::nothing().when(Begin(asked(purpose))).then()
}

fn news(intent: Intent) -> Tell {
    Tell { intent: Some(intent), order: None, news: Some("evt_1".to_owned()) }
}

fn ordered(intent: Intent) -> Tell {
    Tell { intent: Some(intent), order: Some(None), news: None }
}

fn owed(given: &Given<Payment>) -> i64 {
    given.state().view().map_or(0, |view| view.owed.iter().map(|step| step.credits).sum())
}

#[test]
fn it_is_ordered_until_the_provider_has_it_and_shows_no_secret() {
    let then = Given::<Payment>::nothing().when(Begin(asked(Purpose::TopUp)));
    assert_eq!(then.effects, [PaymentEffect::Order]);
    let then = then.given.when(Begin(asked(Purpose::TopUp)));
    assert!(then.events.is_empty(), "the same again is no change");
    let other = Begin(Asked { amount_cents: 501, ..asked(Purpose::TopUp) });
    let (code, given) = then.given.when(other).refused();
    assert_eq!(code, "id_reused");
    let then = given.later_ms(60_000).when_due();
    assert_eq!(then.effects, [PaymentEffect::Order], "it is ordered again");
    assert!(then.given.state().outcome().is_none());
    let then = then.given.when(ordered(intent(IntentStatus::RequiresAction)));
    assert!(!format!("{:?}{:?}", then.events, then.outcome).contains("canary"));
    let view = then.given.state().view().unwrap();
    assert_eq!((view.status, then.given.state().is_pending()), (Status::RequiresAction, false));
    assert_eq!(view.client_secret(then.given.keys()).as_deref(), Some("pi_1_secret_canary"));
    assert_eq!(then.given.state().outcome(), Some(()));
    let then = then.given.later_ms(LOOKING.first_ms).when_due();
    assert_eq!(then.effects, [PaymentEffect::Look], "where no news come");
    let late = then.given.later_ms(LOOKED_AFTER_MS).when_due().given;
    assert_eq!(late.state().next_deadline(), None);
}

#[test]
fn what_cannot_be_ordered_for_long_fails_and_is_credited_all_the_same_if_it_was_paid() {
    let given = begun(Purpose::TopUp).later_ms(ORDERED_WITHIN_MS).when_due().then();
    let view = given.state().view().unwrap();
    assert_eq!((view.status, view.code.as_deref()), (Status::Failed, Some("provider_unreachable")));
    let given = given.when(news(intent(IntentStatus::Succeeded))).then();
    assert_eq!(owed(&given), 5_000);
}

#[test]
fn paid_twice_told_is_worth_it_once_and_the_wallet_is_owed_until_it_has_it() {
    let given = begun(Purpose::TopUp).when(ordered(intent(IntentStatus::Succeeded))).then();
    let then = given.when(news(intent(IntentStatus::Succeeded)));
    assert!(then.events.is_empty());
    let then = then.given.when(news(intent(IntentStatus::RequiresAction)));
    assert!(then.events.is_empty(), "what was paid is never unpaid");
    let step = Step { id: ID.0, credits: 5_000 };
    assert_eq!(then.given.state().view().unwrap().owed, [step]);
    let then = then.given.later_ms(OWING.first_ms).when_due();
    assert_eq!(then.effects, [PaymentEffect::Settle]);
    assert!(then.given.state().is_pending());
    let given = then.given.when(NoteSettled(step)).then();
    assert_eq!((owed(&given), given.state().is_pending()), (0, false));
    assert!(given.when(NoteSettled(step)).events.is_empty());
}

#[test]
fn news_before_the_answer_do_not_stand_for_it_unless_they_say_how_it_ended() {
    let early = begun(Purpose::TopUp).when(news(intent(IntentStatus::RequiresMethod))).then();
    assert!(early.state().is_pending() && early.state().outcome().is_none());
    let given = early.when(ordered(intent(IntentStatus::RequiresMethod))).then();
    let view = given.state().view().unwrap();
    assert!(view.client_secret(given.keys()).is_some(), "only the answer has it");
    assert_eq!(given.state().outcome(), Some(()));
    let early = begun(Purpose::TopUp).when(news(intent(IntentStatus::Succeeded))).then();
    assert_eq!(early.state().outcome(), Some(()));
    let late = early.when(ordered(intent(IntentStatus::RequiresAction))).then();
    assert_eq!((late.state().view().unwrap().status, owed(&late)), (Status::Succeeded, 5_000));
}

#[test]
fn another_amount_or_currency_is_parked_and_never_credited() {
    let less = Intent { received_cents: 499, ..intent(IntentStatus::Succeeded) };
    let foreign = Intent { currency: "jpy".to_owned(), ..intent(IntentStatus::Succeeded) };
    for wrong in [less, foreign] {
        let given = begun(Purpose::TopUp).when(news(wrong)).then();
        assert_eq!(given.state().view().unwrap().status, Status::Mismatched);
        let given = given.when(news(intent(IntentStatus::Succeeded))).then();
        assert_eq!((owed(&given), given.state().steps.len()), (0, 0));
    }
    let given = begun(Purpose::TopUp).when(ordered(intent(IntentStatus::Succeeded))).then();
    let second = Intent { id: "pi_2".to_owned(), ..intent(IntentStatus::Succeeded) };
    let (code, given) = given.when(news(second)).refused();
    assert_eq!((code.as_str(), owed(&given)), ("another_intent", 5_000));
}

#[test]
fn refunds_and_disputes_take_their_share_and_what_comes_back_is_given_back() {
    let paid = || intent(IntentStatus::Succeeded);
    let mut given = begun(Purpose::TopUp).when(ordered(paid())).then();
    let told = [
        (Intent { refunded_cents: 100, ..paid() }, Status::PartiallyRefunded, 4_000),
        (Intent { refunded_cents: 100, disputed_cents: 400, ..paid() }, Status::Disputed, 0),
        (Intent { refunded_cents: 100, ..paid() }, Status::PartiallyRefunded, 4_000),
        (Intent { refunded_cents: 500, ..paid() }, Status::Refunded, 0),
    ];
    for (intent, status, worth) in told {
        given = given.when(news(intent)).then();
        assert_eq!((given.state().view().unwrap().status, owed(&given)), (status, worth));
    }
    let ids: std::collections::BTreeSet<_> = given.state().steps.iter().map(|it| it.id).collect();
    assert_eq!(ids.len(), 5, "each step is taken by an id of its own");
    assert!(given.state().knows("evt_1"));
}

#[test]
fn who_charged_it_is_told_what_was_not_known_at_once() {
    let charge = || Purpose::Charge("subscription".to_owned());
    let now = begun(charge()).when(ordered(intent(IntentStatus::Succeeded))).then();
    assert!(!now.state().verdict_due, "it was answered");
    let given = begun(charge()).when(ordered(intent(IntentStatus::RequiresAction))).then();
    let then = given.when(news(intent(IntentStatus::Succeeded)));
    assert!(then.effects.contains(&PaymentEffect::Verdict) && then.given.state().verdict_due);
    let given = then.given.when(NoteTold).then();
    assert!(!given.state().verdict_due && given.when(NoteTold).events.is_empty());
}

proptest! {
    /// Whatever is told, how often and in which order, and however far the wallet is: the steps sum
    /// to what the last word of the provider is worth, and nothing is owed twice.
    #[test]
    fn the_steps_follow_the_last_word(
        words in prop::collection::vec((0..4_u8, 0..=5_i64, any::<bool>(), any::<bool>()), 1..40)
    ) {
        let mut given = begun(Purpose::TopUp);
        let (mut expected, mut settled) = (0, 0);
        for (word, hundreds, is_order, settles) in words {
            let status = match word {
                0 => IntentStatus::RequiresAction,
                1 => IntentStatus::RequiresMethod,
                _ => IntentStatus::Succeeded,
            };
            let refunded_cents = if word == 3 { hundreds * 100 } else { 0 };
            let told = Intent { refunded_cents, ..intent(status) };
            let is_stale = is_order && given.state().is_ordered();
            let steps_left = given.state().steps.len() < STEPS_MAX;
            if status == IntentStatus::Succeeded && !is_stale && steps_left {
                expected = worth(5_000, 500, refunded_cents);
            }
            let tell = if is_order { ordered(told) } else { news(told) };
            given = given.when(tell).then();
            if settles && let Some(step) = given.state().view().unwrap().owed.first().copied() {
                settled += step.credits;
                given = given.when(NoteSettled(step)).then();
            }
            prop_assert_eq!(settled + owed(&given), expected);
        }
    }
}
