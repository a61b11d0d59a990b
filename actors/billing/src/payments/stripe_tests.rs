//! What is asked of Stripe, and how its answers are read.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde_json::json;

use super::*;

/// Answers in turn, and keeps what was asked.
#[derive(Default)]
struct Canned {
    answers: Mutex<VecDeque<Result<(u16, Value), String>>>,
    asked: Mutex<Vec<(String, String, Option<String>)>>,
}

impl Wire for Canned {
    fn send(&self, request: Outgoing) -> BoxFuture<'static, Result<(u16, Vec<u8>), String>> {
        let header = |name: &str| {
            request.headers.iter().find(|(it, _)| *it == name).map(|(_, value)| value.clone())
        };
        assert_eq!(header("authorization").as_deref(), Some("Bearer sk_test_canary"));
        assert_eq!(header("stripe-version").as_deref(), Some(API_VERSION));
        let url = request.url.strip_prefix("https://api.example.com").unwrap();
        let what = format!("{} {url}", request.method);
        let body = String::from_utf8(request.body.clone()).unwrap();
        self.asked.lock().push((what, body, header("idempotency-key")));
        let answer = self.answers.lock().pop_front().unwrap();
        let answer = answer.map(|(status, value)| (status, value.to_string().into_bytes()));
        futures::future::ready(answer).boxed()
    }
}

fn stripe(answers: &[(u16, Value)]) -> (Stripe, Arc<Canned>) {
    let canned = Arc::new(Canned::default());
    canned.answers.lock().extend(answers.iter().cloned().map(Ok));
    let settings = StripeSettings {
        secret_key: Zeroizing::new("sk_test_canary".to_owned()),
        publishable_key: "pk_test_1".to_owned(),
        webhook_secret: Zeroizing::new("whsec_1".to_owned()),
        api_base: "https://api.example.com/".to_owned(),
    };
    (Stripe::new(canned.clone(), settings), canned)
}

fn metadata() -> Value {
    json!({PAYMENT_KEY: PaymentId(9).to_string(), TENANT_KEY: TenantId(7).to_string()})
}

fn paid() -> Value {
    json!({"id": "pi_1", "status": "succeeded", "amount_received": 500, "currency": "USD",
        "client_secret": "pi_1_secret_2", "metadata": metadata(), "latest_charge":
        {"id": "ch_1", "amount": 500, "amount_refunded": 100, "disputed": false,
         "receipt_url": "https://pay.example.com/receipt"}})
}

fn order(way: Way) -> Order {
    Order {
        payment: PaymentId(9),
        tenant: TenantId(7),
        amount_cents: 500,
        currency: "usd".to_owned(),
        description: "5000 credits & more".to_owned(),
        way,
        customer: "cus_1".to_owned(),
        return_url: "https://example.com/docs".to_owned(),
    }
}

fn off_session() -> Order {
    order(Way::OffSession { method: "pm_1".to_owned() })
}

#[tokio::test]
async fn an_order_is_placed_under_the_payments_own_key_and_names_it() {
    let (stripe, canned) = stripe(&[(200, paid())]);
    let placed = stripe.place(off_session()).await.unwrap();
    let intent = placed.intent.unwrap();
    assert_eq!(intent.payment, Some((TenantId(7), PaymentId(9))));
    assert_eq!((intent.received_cents, intent.refunded_cents), (500, 100));
    assert_eq!((intent.currency.as_str(), intent.code.as_deref()), ("usd", None));
    assert!(!format!("{intent:?}").contains("_secret_2"));
    let (what, body, key) = canned.asked.lock().remove(0);
    assert_eq!(what, "POST /v1/payment_intents");
    assert_eq!(key, Some(PaymentId(9).to_string()));
    for part in ["amount=500", "off_session=true", "confirm=true", "payment_method=pm_1"] {
        assert!(body.split('&').any(|it| it == part), "{body}");
    }
    assert!(body.contains("5000+credits+%26+more"), "{body}");
}

#[tokio::test]
async fn what_was_declined_is_no_error_and_what_was_not_answered_is_not_known() {
    let declined = json!({"error": {"code": "card_declined", "decline_code": "stolen_card",
        "payment_intent": {"id": "pi_1", "status": "requires_payment_method", "currency": "usd",
            "metadata": metadata(), "last_payment_error":
                {"code": "card_declined", "decline_code": "stolen_card"}}}});
    let (stripe, canned) = stripe(&[(402, declined), (409, json!({})), (500, json!({}))]);
    let intent = stripe.place(off_session()).await.unwrap().intent.unwrap();
    assert_eq!(intent.status, IntentStatus::RequiresMethod);
    assert_eq!(intent.code.as_deref(), Some("stolen_card"));
    for _ in 0..2 {
        let error = stripe.place(off_session()).await.unwrap_err();
        assert!(matches!(error, ProviderError::Unknown(_)), "{error}");
    }
    canned.answers.lock().push_back(Err("the connection broke".to_owned()));
    let error = stripe.fetch("pi_1".to_owned()).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unknown(_)));
    let refused = json!({"error": {"type": "invalid_request_error"}});
    canned.answers.lock().extend([
        Ok((400, refused.clone())),
        Ok((401, refused)),
        Ok((404, json!({}))),
    ]);
    let errors = [
        ProviderError::Refused("invalid_request_error".to_owned()),
        ProviderError::Unknown("its key is not accepted".to_owned()),
        ProviderError::NotFound,
    ];
    for expected in errors {
        let error = stripe.fetch("pi_1".to_owned()).await.unwrap_err();
        assert_eq!(error, expected);
        assert!(!format!("{error:?} {error}").contains("sk_test"));
    }
}

#[tokio::test]
async fn only_disputes_that_are_open_or_lost_count() {
    let mut intent = paid();
    intent["latest_charge"]["disputed"] = json!(true);
    let disputes = json!({"data": [{"status": "won", "amount": 100},
        {"status": "needs_response", "amount": 200}, {"status": "lost", "amount": 50},
        {"status": "warning_closed", "amount": 7}]});
    let (stripe, canned) = stripe(&[(200, intent), (200, disputes)]);
    assert_eq!(stripe.fetch("pi_1".to_owned()).await.unwrap().disputed_cents, 250);
    assert_eq!(canned.asked.lock()[1].0, "GET /v1/disputes?payment_intent=pi_1&limit=100");
}

#[tokio::test]
async fn an_id_that_could_be_a_path_is_asked_nowhere() {
    let (stripe, canned) = stripe(&[]);
    for id in ["", "../v1/balance", "pi_1?x", "pi_1/confirm", &"a".repeat(300)] {
        let error = stripe.fetch(id.to_owned()).await.unwrap_err();
        assert_eq!(error, ProviderError::NotFound);
    }
    assert!(canned.asked.lock().is_empty());
}

#[tokio::test]
async fn one_method_is_the_default_whoever_says_so() {
    let listed = json!({"data": [
        {"id": "pm_1", "type": "card", "card": {"brand": "visa", "last4": "4242",
            "exp_month": 12, "exp_year": 2030}},
        {"id": "pm_2", "type": "card", "card": {}}]});
    let customer =
        |default: Value| json!({"invoice_settings": {"default_payment_method": default}});
    let answers = [
        (200, listed.clone()),
        (200, customer(json!("pm_2"))),
        (200, listed),
        (200, customer(Value::Null)),
        (200, json!({"data": []})),
    ];
    let (stripe, _) = stripe(&answers);
    let defaults = async || {
        let methods = stripe.methods("cus_1".to_owned()).await.unwrap();
        methods.iter().map(|method| method.is_default).collect::<Vec<_>>()
    };
    assert_eq!(defaults().await, [false, true]);
    assert_eq!(defaults().await, [true, false]);
    assert!(defaults().await.is_empty());
}

#[test]
fn news_are_read_for_the_intent_that_they_are_about_whatever_their_type() {
    let (stripe, _) = stripe(&[]);
    let read = |kind: &str, object: Value| {
        let body = json!({"id": "evt_1", "type": kind, "data": {"object": object}}).to_string();
        let header = signature::sign(b"whsec_1", body.as_bytes(), 1_000);
        stripe.read_news(body.as_bytes(), &header, 1_100).unwrap().about
    };
    let intent = || About::Intent("pi_1".to_owned());
    assert_eq!(read("payment_intent.succeeded", json!({"id": "pi_1"})), intent());
    for kind in ["charge.refunded", "charge.dispute.created", "checkout.session.completed"] {
        assert_eq!(read(kind, json!({"payment_intent": "pi_1"})), intent());
    }
    let expired = read("checkout.session.expired", json!({"metadata": metadata()}));
    assert_eq!(expired, About::PageExpired { payment: (TenantId(7), PaymentId(9)) });
    assert_eq!(read("charge.updated", json!({"payment_intent": null})), About::Other);
    assert_eq!(read("radar.early_fraud_warning.created", json!({})), About::Other);
    let header = signature::sign(b"whsec_1", b"nonsense", 1_000);
    assert_eq!(stripe.read_news(b"nonsense", &header, 1_000), Err(NewsError::Malformed));
    assert!(stripe.read_news(b"{}", "", 1_000).is_err());
}
