//! Stripe as a provider: its REST interface, with form-encoded requests under idempotency keys,
//! over a port that leaves the server.
//!
//! Invariants
//! - What changes something is asked under a key of ours; an answer that does not come, or that
//!   says that the key is in use, is "unknown" and never "no".
//! - The secret keys are in no log, no error and no `Debug`.
//!
//! Deliberate limits: cards only; of a customer's methods one page, of an intent's disputes one.
//! What a payment is called stands in its metadata.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use serde_json::Value;
use types::{PaymentId, TenantId};
use zeroize::Zeroizing;

use super::provider::{
    About, Answer, ClientSecret, Intent, IntentStatus, METHODS_MAX, Method, News, NewsError, Order,
    PAYMENT_KEY, PaymentProvider, Placed, ProviderError, TENANT_KEY, Way,
};
use super::signature;

/// Where Stripe is.
pub const API_BASE: &str = "https://api.stripe.com";
/// The version of the interface that is spoken.
pub const API_VERSION: &str = "2024-06-20";
/// Bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long an exchange may take.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Characters of an id of Stripe's.
const ID_CHARACTERS_MAX: usize = 255;
/// Disputes that were not lost, and are not under way.
const DISPUTES_HARMLESS: [&str; 5] =
    ["won", "warning_needs_response", "warning_under_review", "warning_closed", "prevented"];

/// A request that leaves.
pub struct Outgoing {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// To where.
    pub url: String,
    /// Headers beside those of the connection. Their values are never logged.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How many bytes the answer's body may have.
    pub answer_bytes_max: usize,
    /// When the whole exchange is over.
    pub ends: Instant,
}

/// Sends a request and waits for the whole answer: its status and its body, or why there is none.
pub trait Wire: Send + Sync + 'static {
    /// Sends it.
    fn send(&self, request: Outgoing) -> BoxFuture<'static, Result<(u16, Vec<u8>), String>>;
}

/// How Stripe is reached.
pub struct StripeSettings {
    /// `sk_…`: for this server alone.
    pub secret_key: Zeroizing<String>,
    /// `pk_…`: for the payer's program.
    pub publishable_key: String,
    /// `whsec_…`: what news are signed with. Empty: none are taken.
    pub webhook_secret: Zeroizing<String>,
    /// Where it is, without a slash at its end: [`API_BASE`].
    pub api_base: String,
}

/// Stripe.
#[derive(Clone)]
pub struct Stripe(Arc<Reached>);

struct Reached {
    wire: Arc<dyn Wire>,
    settings: StripeSettings,
}

type Form = Vec<(String, String)>;

/// What Stripe answered instead.
struct Failure {
    error: ProviderError,
    /// The intent that it is about.
    intent: Option<Value>,
}

impl From<Failure> for ProviderError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Reached {
    async fn call(
        &self,
        method: &'static str,
        path: &str,
        form: Form,
        key: Option<String>,
    ) -> Result<Value, Failure> {
        let text = encoded(form);
        let mut url = format!("{}{path}", self.settings.api_base);
        let bearer = format!("Bearer {}", *self.settings.secret_key);
        let mut headers =
            vec![("authorization", bearer), ("stripe-version", API_VERSION.to_owned())];
        let mut body = Vec::new();
        if method == "GET" {
            url = if text.is_empty() { url } else { format!("{url}?{text}") };
        } else {
            headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
            body = text.into_bytes();
        }
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let ends = Instant::now() + ANSWER_LIMIT;
        let answer_bytes_max = ANSWER_BYTES_MAX;
        let request = Outgoing { method, url, headers, body, answer_bytes_max, ends };
        let unknown = |why| Failure { error: ProviderError::Unknown(why), intent: None };
        let (status, bytes) = self.wire.send(request).await.map_err(unknown)?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if (200..300).contains(&status) && value.is_object() {
            return Ok(value);
        }
        Err(failure(status, value))
    }

    async fn post(&self, path: &str, form: Form, key: String) -> Result<Value, Failure> {
        self.call("POST", path, form, Some(key)).await
    }

    async fn get(&self, path: &str, form: Form) -> Result<Value, ProviderError> {
        self.call("GET", path, form, None).await.map_err(Into::into)
    }

    /// An intent as the port tells it, with what became of its charge.
    async fn intent(&self, value: &Value) -> Result<Intent, ProviderError> {
        let unreadable = || ProviderError::Unknown("an intent cannot be read".to_owned());
        let mut intent = intent_of(value).ok_or_else(unreadable)?;
        let charge = &value["latest_charge"];
        let charge = match charge.as_str() {
            Some(id) => &self.get(&format!("/v1/charges/{}", checked(id)?), Form::new()).await?,
            None => charge,
        };
        let number = |name: &str| charge[name].as_i64().unwrap_or_default();
        intent.refunded_cents = number("amount_refunded");
        intent.receipt_url = text(&charge["receipt_url"]);
        if value["amount_received"].is_null() && intent.status == IntentStatus::Succeeded {
            intent.received_cents = number("amount");
        }
        if charge["disputed"].as_bool() == Some(true) {
            let form = pairs(&[("payment_intent", &intent.id), ("limit", "100")]);
            let disputes = self.get("/v1/disputes", form).await?;
            let disputes = disputes["data"].as_array().cloned().unwrap_or_default();
            let counts = |it: &&Value| {
                !it["status"].as_str().is_some_and(|it| DISPUTES_HARMLESS.contains(&it))
            };
            let amounts = disputes.iter().filter(counts).filter_map(|it| it["amount"].as_i64());
            intent.disputed_cents = amounts.sum();
        }
        Ok(intent)
    }

    async fn place(&self, order: Order) -> Result<Placed, ProviderError> {
        if order.way == Way::Checkout {
            return self.place_page(order).await;
        }
        let mut form = pairs(&[
            ("amount", &order.amount_cents.to_string()),
            ("currency", &order.currency),
            ("customer", &order.customer),
            ("payment_method_types[]", "card"),
            ("expand[]", "latest_charge"),
        ]);
        form.extend(metadata("metadata", &order));
        match &order.way {
            Way::OffSession { method } => form.extend(pairs(&[
                ("payment_method", method),
                ("confirm", "true"),
                ("off_session", "true"),
            ])),
            Way::Client { save: true } => {
                form.extend(pairs(&[("setup_future_usage", "off_session")]));
            }
            Way::Client { save: false } | Way::Checkout => {}
        }
        let value = match self.post("/v1/payment_intents", form, order.payment.to_string()).await {
            Ok(value) => value,
            // The charge was declined: the intent is there, and says why.
            Err(Failure { intent: Some(intent), .. }) => intent,
            Err(failure) => return Err(failure.into()),
        };
        Ok(Placed { intent: Some(self.intent(&value).await?), page: None })
    }

    async fn place_page(&self, order: Order) -> Result<Placed, ProviderError> {
        let price = "line_items[0][price_data]";
        let mut form = pairs(&[
            ("mode", "payment"),
            ("customer", &order.customer),
            ("success_url", &order.return_url),
            ("cancel_url", &order.return_url),
            ("line_items[0][quantity]", "1"),
            (&format!("{price}[currency]"), &order.currency),
            (&format!("{price}[unit_amount]"), &order.amount_cents.to_string()),
            (&format!("{price}[product_data][name]"), &order.description),
        ]);
        form.extend(metadata("metadata", &order));
        form.extend(metadata("payment_intent_data[metadata]", &order));
        let key = order.payment.to_string();
        let value = self.post("/v1/checkout/sessions", form, key).await?;
        let page = text(&value["id"]).zip(text(&value["url"]));
        let unreadable = || ProviderError::Unknown("a page cannot be read".to_owned());
        Ok(Placed { intent: None, page: Some(page.ok_or_else(unreadable)?) })
    }

    async fn methods(&self, customer: String) -> Result<Vec<Method>, ProviderError> {
        let limit = METHODS_MAX.to_string();
        let form = pairs(&[("customer", &customer), ("type", "card"), ("limit", &limit)]);
        let listed = self.get("/v1/payment_methods", form).await?;
        let mut methods: Vec<Method> =
            listed["data"].as_array().into_iter().flatten().filter_map(method_of).collect();
        if methods.is_empty() {
            return Ok(methods);
        }
        let path = format!("/v1/customers/{}", checked(&customer)?);
        let customer = self.get(&path, Form::new()).await?;
        let default = &customer["invoice_settings"]["default_payment_method"];
        let named = text(default).or_else(|| text(&default["id"]));
        let place = methods.iter().position(|method| named.as_ref() == Some(&method.id));
        methods[place.unwrap_or(0)].is_default = true;
        Ok(methods)
    }
}

/// What an answer that is no success means.
fn failure(status: u16, mut value: Value) -> Failure {
    let intent = Some(value["error"]["payment_intent"].take()).filter(Value::is_object);
    let error = &value["error"];
    let code = error["decline_code"].as_str().or(error["code"].as_str());
    let code = code.or(error["type"].as_str()).unwrap_or("refused").to_owned();
    let error = match status {
        404 => ProviderError::NotFound,
        401 | 403 => {
            tracing::error!(status, "the payment provider does not take this server's key");
            ProviderError::Unknown("its key is not accepted".to_owned())
        }
        400 | 402 => ProviderError::Refused(code),
        _ => ProviderError::Unknown(format!("status {status}")),
    };
    Failure { error, intent }
}

fn encoded(form: Form) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(form);
    text.finish()
}

fn pairs(pairs: &[(&str, &str)]) -> Form {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn metadata(place: &str, order: &Order) -> Form {
    pairs(&[
        (&format!("{place}[{PAYMENT_KEY}]"), &order.payment.to_string()),
        (&format!("{place}[{TENANT_KEY}]"), &order.tenant.to_string()),
        (&format!("{place}[description]"), &order.description),
    ])
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// An id that may stand in a path.
fn checked(id: &str) -> Result<&str, ProviderError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_id = !id.is_empty() && id.len() <= ID_CHARACTERS_MAX && id.bytes().all(fits);
    is_id.then_some(id).ok_or(ProviderError::NotFound)
}

/// Which payment something is for, by its metadata.
fn payment_of(value: &Value) -> Option<(TenantId, PaymentId)> {
    let metadata = &value["metadata"];
    let tenant = metadata[TENANT_KEY].as_str()?.parse().ok()?;
    Some((tenant, metadata[PAYMENT_KEY].as_str()?.parse().ok()?))
}

fn intent_of(value: &Value) -> Option<Intent> {
    let status = match value["status"].as_str()? {
        "succeeded" => IntentStatus::Succeeded,
        "requires_action" | "requires_confirmation" => IntentStatus::RequiresAction,
        "processing" | "requires_capture" => IntentStatus::Processing,
        "canceled" => IntentStatus::Cancelled,
        _ => IntentStatus::RequiresMethod,
    };
    let error = &value["last_payment_error"];
    let code = match error["code"].as_str() {
        // What the bank says is more than that it declined.
        Some("card_declined") => text(&error["decline_code"]).or(text(&error["code"])),
        _ => text(&error["code"]),
    };
    Some(Intent {
        id: text(&value["id"])?,
        payment: payment_of(value),
        status,
        received_cents: value["amount_received"].as_i64().unwrap_or_default(),
        currency: text(&value["currency"])?.to_ascii_lowercase(),
        refunded_cents: 0,
        disputed_cents: 0,
        client_secret: text(&value["client_secret"]).map(ClientSecret),
        code: code.filter(|_| status != IntentStatus::Succeeded),
        receipt_url: None,
    })
}

fn method_of(value: &Value) -> Option<Method> {
    let card = &value["card"];
    Some(Method {
        id: text(&value["id"])?,
        r#type: text(&value["type"]).unwrap_or_else(|| "card".to_owned()),
        brand: text(&card["brand"]).unwrap_or_default(),
        last4: text(&card["last4"]).unwrap_or_default(),
        exp_month: card["exp_month"].as_i64().unwrap_or_default(),
        exp_year: card["exp_year"].as_i64().unwrap_or_default(),
        is_default: false,
    })
}

impl Stripe {
    /// Stripe over this way out.
    pub fn new(wire: Arc<dyn Wire>, settings: StripeSettings) -> Self {
        let api_base = settings.api_base.trim_end_matches('/').to_owned();
        Self(Arc::new(Reached { wire, settings: StripeSettings { api_base, ..settings } }))
    }

    fn run<T, F>(&self, run: impl FnOnce(Arc<Reached>) -> F) -> Answer<T>
    where
        F: Future<Output = Result<T, ProviderError>> + Send + 'static,
        T: Send + 'static,
    {
        run(Arc::clone(&self.0)).boxed()
    }
}

impl PaymentProvider for Stripe {
    fn name(&self) -> &'static str {
        "stripe"
    }

    fn publishable_key(&self) -> &str {
        &self.0.settings.publishable_key
    }

    fn is_real(&self) -> bool {
        true
    }

    fn customer(&self, tenant: TenantId) -> Answer<String> {
        self.run(async move |stripe| {
            let tenant = tenant.to_string();
            let form = pairs(&[(&format!("metadata[{TENANT_KEY}]"), &tenant)]);
            let made = stripe.post("/v1/customers", form, format!("customer-{tenant}")).await?;
            let unreadable = || ProviderError::Unknown("a customer cannot be read".to_owned());
            text(&made["id"]).ok_or_else(unreadable)
        })
    }

    fn set_up(&self, customer: String, key: u128) -> Answer<ClientSecret> {
        self.run(async move |stripe| {
            let form = pairs(&[
                ("customer", &customer),
                ("usage", "off_session"),
                ("payment_method_types[]", "card"),
            ]);
            let key = format!("setup-{}", types::base32(key));
            let made = stripe.post("/v1/setup_intents", form, key).await?;
            let unreadable = || ProviderError::Unknown("a setup cannot be read".to_owned());
            text(&made["client_secret"]).map(ClientSecret).ok_or_else(unreadable)
        })
    }

    fn methods(&self, customer: String) -> Answer<Vec<Method>> {
        self.run(async move |stripe| stripe.methods(customer).await)
    }

    fn detach(&self, _customer: String, method: String) -> Answer<()> {
        self.run(async move |stripe| {
            let path = format!("/v1/payment_methods/{}/detach", checked(&method)?);
            stripe.call("POST", &path, Form::new(), None).await.map(drop).map_err(Into::into)
        })
    }

    fn set_default(&self, customer: String, method: String) -> Answer<()> {
        self.run(async move |stripe| {
            let path = format!("/v1/customers/{}", checked(&customer)?);
            let form = pairs(&[("invoice_settings[default_payment_method]", &method)]);
            stripe.call("POST", &path, form, None).await.map(drop).map_err(Into::into)
        })
    }

    fn place(&self, order: Order) -> Answer<Placed> {
        self.run(async move |stripe| stripe.place(order).await)
    }

    fn fetch(&self, intent: String) -> Answer<Intent> {
        self.run(async move |stripe| {
            let path = format!("/v1/payment_intents/{}", checked(&intent)?);
            let value = stripe.get(&path, pairs(&[("expand[]", "latest_charge")])).await?;
            stripe.intent(&value).await
        })
    }

    fn refund(&self, intent: String, amount_cents: i64, key: u128) -> Answer<()> {
        self.run(async move |stripe| {
            let amount = amount_cents.to_string();
            let form = pairs(&[("payment_intent", &intent), ("amount", &amount)]);
            let key = format!("refund-{}", types::base32(key));
            stripe.post("/v1/refunds", form, key).await.map(drop).map_err(Into::into)
        })
    }

    fn portal(&self, customer: String, return_url: String) -> Answer<String> {
        self.run(async move |stripe| {
            let form = pairs(&[("customer", &customer), ("return_url", &return_url)]);
            let made = stripe.call("POST", "/v1/billing_portal/sessions", form, None).await?;
            let unreadable = || ProviderError::Unknown("a portal cannot be read".to_owned());
            text(&made["url"]).ok_or_else(unreadable)
        })
    }

    fn read_news(&self, body: &[u8], header: &str, now_s: i64) -> Result<News, NewsError> {
        let secret = self.0.settings.webhook_secret.as_bytes();
        if secret.is_empty() {
            return Err(NewsError::NotSetUp);
        }
        signature::verify(secret, body, header, now_s)?;
        let event: Value = serde_json::from_slice(body).map_err(|_| NewsError::Malformed)?;
        let id = text(&event["id"]).filter(|id| id.len() <= ID_CHARACTERS_MAX);
        let id = id.ok_or(NewsError::Malformed)?;
        let (kind, object) = (event["type"].as_str().unwrap_or_default(), &event["data"]["object"]);
        let about = match kind.split('.').collect::<Vec<_>>().as_slice() {
            ["payment_intent", ..] => text(&object["id"]).map(About::Intent),
            ["checkout", "session", "expired"] => {
                payment_of(object).map(|payment| About::PageExpired { payment })
            }
            ["charge" | "refund" | "checkout", ..] => {
                text(&object["payment_intent"]).map(About::Intent)
            }
            _ => None,
        };
        Ok(News { id, about: about.unwrap_or(About::Other) })
    }
}

#[cfg(test)]
#[path = "stripe_tests.rs"]
mod tests;
