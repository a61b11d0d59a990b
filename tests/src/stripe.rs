//! A stand-in for Stripe: customers, methods, intents, checkout sessions and events, as far as
//! payments ask for them, over HTTP on a port of 127.0.0.1.
//!
//! It keeps what it was asked for by idempotency key and answers a repetition alike, as the
//! original does. What a payer does is done by the test ([`StripeStandIn::pay`] …); each change
//! leaves an event, which the test delivers: when, how often and in which order is up to it.
//! Answers can be lost: what was asked is done then, and nobody hears of it.

use std::collections::HashMap;
use std::sync::Arc;

use billing::payments::signature::sign;
use gateway::config::{Hidden, ServeArgs};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Answer, Api};

/// What events are signed with.
const WEBHOOK_SECRET: &str = "whsec_of_the_stand_in";
/// The secret key that is taken.
pub const SECRET_KEY: &str = "sk_test_of_the_stand_in";
/// The key for payers.
pub const PUBLISHABLE_KEY: &str = "pk_test_of_the_stand_in";

/// See the module's head.
pub struct StripeStandIn {
    /// Where it listens.
    pub url: String,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    count: u64,
    intents: HashMap<String, Value>,
    sessions: HashMap<String, Value>,
    customers: HashMap<String, Value>,
    /// By method: its customer.
    methods: HashMap<String, String>,
    answers: HashMap<String, (u16, Value)>,
    events: Vec<Value>,
    /// How many of the next answers to POSTs get lost.
    to_lose: usize,
}

type Form = HashMap<String, String>;

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = std::str::from_utf8(&rest[..2]).unwrap();
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &rest[2..];
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn form(text: &str) -> Form {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn refused(status: u16, code: &str) -> (u16, Value) {
    (status, json!({"error": {"code": code, "type": "invalid_request_error"}}))
}

fn metadata(form: &Form, place: &str) -> Value {
    let start = format!("{place}[");
    let own = form.iter().filter_map(|(name, value)| {
        Some((name.strip_prefix(&start)?.strip_suffix(']')?.to_owned(), json!(value)))
    });
    Value::Object(own.collect())
}

impl Kept {
    fn id(&mut self, start: &str) -> String {
        self.count += 1;
        format!("{start}_{:024}", self.count)
    }

    fn event(&mut self, kind: &str, object: Value) {
        let id = self.id("evt");
        self.events.push(json!({"id": id, "type": kind, "data": {"object": object}}));
    }

    /// Charges an intent's method, as the method's name says.
    fn charge(&mut self, id: &str, method: &str, is_confirmed: bool) -> (u16, Value) {
        let mut intent = self.intents[id].clone();
        intent["payment_method"] = json!(method);
        if method.contains("declined") {
            intent["status"] = json!("requires_payment_method");
            intent["last_payment_error"] =
                json!({"code": "card_declined", "decline_code": "insufficient_funds"});
        } else if method.contains("action") && !is_confirmed {
            intent["status"] = json!("requires_action");
        } else {
            let (charge, amount) = (self.id("ch"), intent["amount"].clone());
            intent["status"] = json!("succeeded");
            intent["amount_received"] = amount.clone();
            intent["last_payment_error"] = Value::Null;
            intent["latest_charge"] = json!({"id": charge, "amount": amount, "amount_refunded": 0,
                "disputed": false, "receipt_url": format!("https://stripe.example.com/{charge}")});
        }
        self.intents.insert(id.to_owned(), intent.clone());
        let kind = match intent["status"].as_str() {
            Some("succeeded") => "payment_intent.succeeded",
            Some("requires_action") => "payment_intent.requires_action",
            _ => "payment_intent.payment_failed",
        };
        self.event(kind, json!({"id": id}));
        if intent["status"] == "requires_payment_method" {
            let error = json!({"error": {"code": "card_declined", "payment_intent": intent,
                "decline_code": "insufficient_funds"}});
            return (402, error);
        }
        (200, intent)
    }

    fn make_intent(&mut self, form: &Form) -> (u16, Value) {
        let method = form.get("payment_method");
        let customer = form.get("customer").cloned().unwrap_or_default();
        if method.is_some_and(|method| self.methods.get(method) != Some(&customer)) {
            return refused(400, "resource_missing");
        }
        let id = self.id("pi");
        let intent = json!({"id": id, "object": "payment_intent",
            "amount": form["amount"].parse::<i64>().unwrap(), "amount_received": 0,
            "currency": form["currency"], "customer": customer,
            "metadata": metadata(form, "metadata"),
            "status": "requires_payment_method", "client_secret": format!("{id}_secret_{id}"),
            "latest_charge": null, "last_payment_error": null});
        self.intents.insert(id.clone(), intent.clone());
        match (method, form.get("confirm").map(String::as_str)) {
            (Some(method), Some("true")) => self.charge(&id, method, false),
            _ => (200, intent),
        }
    }

    fn make_session(&mut self, url: &str, form: &Form) -> (u16, Value) {
        let id = self.id("cs");
        let price = "line_items[0][price_data]";
        let session = json!({"id": id, "url": format!("{url}/pay/{id}"), "payment_intent": null,
            "amount": form[&format!("{price}[unit_amount]")],
            "currency": form[&format!("{price}[currency]")], "customer": form["customer"],
            "metadata": metadata(form, "metadata"),
            "intent_metadata": metadata(form, "payment_intent_data[metadata]")});
        self.sessions.insert(id, session.clone());
        (200, session)
    }

    fn refund(&mut self, form: &Form) -> (u16, Value) {
        let id = &form["payment_intent"];
        let Some(mut intent) = self.intents.get(id).cloned() else {
            return refused(404, "resource_missing");
        };
        let charge = &mut intent["latest_charge"];
        let back = charge["amount_refunded"].as_i64().unwrap();
        let back = back + form["amount"].parse::<i64>().unwrap();
        charge["amount_refunded"] = json!(back);
        self.intents.insert(id.clone(), intent);
        self.event("charge.refunded", json!({"id": "ch", "payment_intent": id}));
        (200, json!({"id": self.id("re")}))
    }

    fn changed(&mut self, url: &str, path: &[&str], form: &Form) -> (u16, Value) {
        match path {
            ["customers"] => {
                let id = self.id("cus");
                let customer = json!({"id": id, "metadata": metadata(form, "metadata"),
                    "invoice_settings": {"default_payment_method": null}});
                self.customers.insert(id, customer.clone());
                (200, customer)
            }
            ["customers", id] => {
                let Some(customer) = self.customers.get_mut(*id) else {
                    return refused(404, "resource_missing");
                };
                let default = &form["invoice_settings[default_payment_method]"];
                customer["invoice_settings"]["default_payment_method"] = json!(default);
                (200, customer.clone())
            }
            ["payment_intents"] => self.make_intent(form),
            ["checkout", "sessions"] => self.make_session(url, form),
            ["refunds"] => self.refund(form),
            ["setup_intents"] => {
                let id = self.id("seti");
                (200, json!({"id": id, "client_secret": format!("{id}_secret_x")}))
            }
            ["billing_portal", "sessions"] => (200, json!({"url": format!("{url}/portal")})),
            ["payment_methods", id, "detach"] => match self.methods.remove(*id) {
                Some(_) => (200, json!({"id": id})),
                None => refused(404, "resource_missing"),
            },
            _ => refused(404, "no_route"),
        }
    }

    fn read(&self, path: &[&str], form: &Form) -> (u16, Value) {
        let found = match path {
            ["payment_intents", id] => self.intents.get(*id).cloned(),
            ["customers", id] => self.customers.get(*id).cloned(),
            ["payment_methods"] => {
                let own = self.methods.iter().filter(|(_, of)| Some(*of) == form.get("customer"));
                let mut own: Vec<_> = own.map(|(id, _)| id).collect();
                own.sort();
                let card =
                    json!({"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 2040});
                let shown = |id: &&String| json!({"id": id, "type": "card", "card": card});
                Some(json!({"data": own.iter().map(shown).collect::<Vec<_>>()}))
            }
            ["disputes"] => {
                let intent = &self.intents[&form["payment_intent"]];
                let dispute = json!({"status": "needs_response", "amount": intent["amount"]});
                Some(json!({"data": [dispute]}))
            }
            _ => None,
        };
        found.map_or_else(|| refused(404, "resource_missing"), |found| (200, found))
    }
}

impl StripeStandIn {
    /// Listens.
    pub async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stripe = Arc::new(Self { url, kept: Mutex::default() });
        let serving = Arc::clone(&stripe);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stripe = Arc::clone(&serving);
                let answer = service_fn(move |request| {
                    let stripe = Arc::clone(&stripe);
                    async move { stripe.answer(request).await }
                });
                let builder = hyper::server::conn::http1::Builder::new();
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), answer));
            }
        });
        stripe
    }

    /// Makes a server's settings lead here.
    pub fn set_up(&self, settings: &mut ServeArgs) {
        settings.dev = true;
        settings.stripe_secret_key = Some(Hidden(SECRET_KEY.to_owned()));
        settings.stripe_publishable_key = Some(PUBLISHABLE_KEY.to_owned());
        settings.stripe_webhook_secret = Some(Hidden(WEBHOOK_SECRET.to_owned()));
        settings.stripe_api_base.clone_from(&self.url);
    }

    /// The same, for a server in a process of its own.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BAILIWICK_DEV", "true".to_owned()),
            ("BAILIWICK_STRIPE_SECRET_KEY", SECRET_KEY.to_owned()),
            ("BAILIWICK_STRIPE_PUBLISHABLE_KEY", PUBLISHABLE_KEY.to_owned()),
            ("BAILIWICK_STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
            ("BAILIWICK_STRIPE_API_BASE", self.url.clone()),
        ]
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, String> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| {
            parts.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned()
        };
        assert_eq!(header("authorization"), format!("Bearer {SECRET_KEY}"));
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        let is_change = parts.method == hyper::Method::POST;
        let text = if is_change {
            String::from_utf8(body.to_vec()).unwrap()
        } else {
            parts.uri.query().unwrap_or_default().to_owned()
        };
        let path: Vec<&str> = parts.uri.path().trim_start_matches("/v1/").split('/').collect();
        let (key, form) = (header("idempotency-key"), form(&text));
        let mut kept = self.kept.lock();
        let (status, value) = match kept.answers.get(&key).filter(|_| is_change) {
            Some(known) => known.clone(),
            None if is_change => {
                let answer = kept.changed(&self.url, &path, &form);
                if !key.is_empty() {
                    kept.answers.insert(key, answer.clone());
                }
                answer
            }
            None => kept.read(&path, &form),
        };
        if is_change && kept.to_lose > 0 {
            kept.to_lose -= 1;
            return Err("the answer is lost".to_owned());
        }
        let response =
            Response::builder().status(status).header("content-type", "application/json");
        Ok(response.body(Full::from(value.to_string())).unwrap())
    }

    /// The next answers to changes get lost, though what was asked is done.
    pub fn lose_answers(&self, count: usize) {
        self.kept.lock().to_lose = count;
    }

    /// How many intents there are.
    pub fn intents(&self) -> usize {
        self.kept.lock().intents.len()
    }

    /// How many of them are paid.
    pub fn paid(&self) -> usize {
        let kept = self.kept.lock();
        kept.intents.values().filter(|intent| intent["status"] == "succeeded").count()
    }

    /// The customer of a tenant, by its own id or that of its direct user.
    pub fn customer_of(&self, tenant: &str) -> Option<String> {
        let (kept, number) = (self.kept.lock(), tenant.rsplit('_').next().unwrap());
        let is_theirs = |customer: &&Value| {
            customer["metadata"]["bailiwick_tenant"].as_str().is_some_and(|it| it.ends_with(number))
        };
        let found = kept.customers.values().find(is_theirs);
        found.map(|customer| customer["id"].as_str().unwrap().to_owned())
    }

    /// Gives a customer a card; `declined` and `action` in its name say what its charges come to.
    pub fn attach(&self, customer: &str, method: &str) {
        self.kept.lock().methods.insert(method.to_owned(), customer.to_owned());
    }

    /// The payer pays an intent.
    pub fn pay(&self, intent: &str, method: &str) {
        self.kept.lock().charge(intent, method, true);
    }

    /// The payer pays on a session's page: only now there is an intent. Answers its id.
    pub fn pay_session(&self, url: &str) -> String {
        let mut kept = self.kept.lock();
        let session = kept.sessions[url.rsplit('/').next().unwrap()].clone();
        let own = session["intent_metadata"].as_object().unwrap();
        let named = own
            .iter()
            .map(|(name, value)| (format!("metadata[{name}]"), value.as_str().unwrap().to_owned()));
        let text = |name: &str| session[name].as_str().unwrap().to_owned();
        let amount = ["amount", "currency", "customer"].map(|name| (name.to_owned(), text(name)));
        let (_, intent) = kept.make_intent(&amount.into_iter().chain(named).collect());
        let id = intent["id"].as_str().unwrap().to_owned();
        kept.charge(&id, "pm_card", true);
        kept.event("checkout.session.completed", json!({"payment_intent": id}));
        id
    }

    /// Changes what Stripe says of an intent.
    pub fn change(&self, intent: &str, change: impl FnOnce(&mut Value)) {
        change(self.kept.lock().intents.get_mut(intent).unwrap());
    }

    /// Gives money back.
    pub fn refund(&self, intent: &str, cents: i64) {
        let form = [("payment_intent", intent.to_owned()), ("amount", cents.to_string())];
        let form = form.map(|(name, value)| (name.to_owned(), value)).into();
        self.kept.lock().refund(&form);
    }

    /// The payer disputes what was paid; leaves the event.
    pub fn dispute(&self, intent: &str) {
        self.change(intent, |it| it["latest_charge"]["disputed"] = json!(true));
        self.kept.lock().event("charge.dispute.created", json!({"payment_intent": intent}));
    }

    /// The events that nobody took out yet, the oldest first.
    pub fn events(&self) -> Vec<Value> {
        std::mem::take(&mut self.kept.lock().events)
    }

    /// Delivers an event, signed now.
    pub async fn deliver(&self, api: &Api, event: &Value) -> Result<Answer, String> {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        self.deliver_at(api, event, now).await
    }

    /// Delivers an event that was signed then.
    pub async fn deliver_at(&self, api: &Api, event: &Value, at_s: i64) -> Result<Answer, String> {
        let body = event.to_string();
        let header = sign(WEBHOOK_SECRET.as_bytes(), body.as_bytes(), at_s);
        let call = api.request(hyper::Method::POST, "/v1/webhooks/stripe").json(body);
        call.header("stripe-signature", &header).try_send().await
    }
}
