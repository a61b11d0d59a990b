//! The provider that is part of the server: it moves no money, and says so wherever it is seen.
//! What it keeps is durable, it is asked and tells its news like any other, and its pages let a
//! person choose how a payment goes.
//!
//! Its cards are known by the ids of their methods:
//!
//! | method | what becomes of a charge |
//! | --- | --- |
//! | `pm_sandbox_visa` | it is paid |
//! | `pm_sandbox_declined` | `card_declined` |
//! | `pm_sandbox_action` | the payer must confirm it first |
//!
//! Ids hold the tenant's and their own number, so that each is found from its id. What opens a page
//! ends in a secret.
//!
//! Deliberate limits: one card of each sort a customer; what it keeps of one customer is bounded,
//! the oldest ended intents go first.

mod customer;

#[cfg(test)]
pub(super) use customer::samples;

use std::sync::{Arc, OnceLock, Weak};

use futures::future::FutureExt as _;
use supervision::{Class, Origin, Refusal, System};
use types::{PaymentId, TenantId, base32};

use super::provider::{
    Answer, ClientSecret, Intent, Method, News, NewsError, Order, PaymentProvider, Placed,
    ProviderError, Way,
};

use customer::{
    Act, Attach, Detach, Dispute, MakeDefault, MakeIntent, MakePortal, MakeSetUp, Open, Refund,
};
pub use customer::{
    Card, CardsSet, Door, DoorMade, INTENTS_KEPT, IntentSet, NewsHeard, Opened, SandboxCustomer,
    SandboxEffect, SandboxEvent, SandboxIntent, SandboxNews,
};

/// The key that shows that no money moves.
pub const PUBLISHABLE_KEY: &str = "pk_sandbox_no_money_moves";
/// What the ids of customers, intents, setups and portals begin with.
const CUSTOMER: &str = "cus_sandbox_";
const INTENT: &str = "pi_sandbox_";
const SETUP: &str = "seti_sandbox_";
const PORTAL: &str = "bps_sandbox_";
/// What parts an id from its secret.
const SECRET: &str = "_secret_";
/// Characters of a number in an id.
const NUMBER_CHARACTERS: usize = 26;

/// The provider that is part of the server.
pub struct Sandbox {
    public_url: String,
    system: OnceLock<Weak<System>>,
}

/// What a page is for, by the id in its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageId {
    /// Whose page.
    pub tenant: TenantId,
    /// Of what.
    pub number: u128,
    /// What shows that one may open it.
    pub secret: String,
    /// For an intent, rather than for a card to be added.
    pub is_intent: bool,
}

impl PageId {
    /// Reads the id in a page's address.
    pub fn read(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once(SECRET)?;
        let is_intent = id.starts_with(INTENT);
        let (tenant, number) = numbers(id, if is_intent { INTENT } else { SETUP })?;
        Some(Self { tenant, number, secret: secret.to_owned(), is_intent })
    }

    /// Reads the id in the address of the page on which cards are kept.
    pub fn read_portal(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once(SECRET)?;
        let (tenant, number) = numbers(id, PORTAL)?;
        Some(Self { tenant, number, secret: secret.to_owned(), is_intent: false })
    }
}

fn number(text: &str) -> Option<u128> {
    let is_fit = text.len() == NUMBER_CHARACTERS;
    text.parse::<PaymentId>().ok().filter(|_| is_fit).map(|id| id.0)
}

fn numbers(id: &str, start: &str) -> Option<(TenantId, u128)> {
    let rest = id.strip_prefix(start).filter(|rest| rest.is_ascii())?;
    let (tenant, own) = rest.split_at_checked(NUMBER_CHARACTERS)?;
    Some((TenantId(number(tenant)?), number(own)?))
}

fn name(start: &str, tenant: TenantId, number: u128) -> String {
    format!("{start}{}{}", base32(tenant.0), base32(number))
}

/// The text that opens a page, and goes on with an intent.
fn with_secret(start: &str, tenant: TenantId, number: u128, secret: &str) -> String {
    format!("{}{SECRET}{secret}", name(start, tenant, number))
}

fn customer_of(text: &str) -> Result<TenantId, ProviderError> {
    let found = text.strip_prefix(CUSTOMER).and_then(number);
    found.map(TenantId).ok_or(ProviderError::NotFound)
}

fn card_of(method: &str) -> Result<Card, ProviderError> {
    Card::of_method(method).ok_or(ProviderError::NotFound)
}

/// What a refusal of the customer's entity means to whoever asked the provider.
fn error_of(refusal: Refusal) -> ProviderError {
    match refusal.class {
        Class::NotFound | Class::Gone => ProviderError::NotFound,
        class if class.may_pass() => ProviderError::Unknown(refusal.message),
        _ => ProviderError::Refused(refusal.code),
    }
}

/// An intent as the port tells it.
fn told(tenant: TenantId, intent: &SandboxIntent) -> Intent {
    Intent {
        id: name(INTENT, tenant, intent.payment.0),
        payment: Some((tenant, intent.payment)),
        status: intent.status,
        received_cents: intent.received_cents,
        currency: intent.currency.clone(),
        refunded_cents: intent.refunded_cents,
        disputed_cents: intent.disputed_cents,
        client_secret: Some(ClientSecret(with_secret(
            INTENT,
            tenant,
            intent.payment.0,
            &intent.secret,
        ))),
        code: intent.code.clone(),
        receipt_url: None,
    }
}

impl Sandbox {
    /// One whose pages are under `public_url`, which has no slash at its end.
    pub fn new(public_url: &str) -> Self {
        let public_url = public_url.trim_end_matches('/').to_owned();
        Self { public_url, system: OnceLock::new() }
    }

    /// Asks a customer's entity, beside whoever asks.
    fn ask<C, T>(
        &self,
        tenant: Result<TenantId, ProviderError>,
        command: C,
        view: impl FnOnce(TenantId, <SandboxCustomer as supervision::Handle<C>>::Reply) -> T
        + Send
        + 'static,
    ) -> Answer<T>
    where
        C: supervision::Command,
        SandboxCustomer: supervision::Handle<C>,
        T: Send + 'static,
    {
        let system = self.system.get().and_then(Weak::upgrade);
        async move {
            let tenant = tenant?;
            let stopped = || ProviderError::Unknown("the server stops".to_owned());
            let system = system.ok_or_else(stopped)?;
            let (customers, address) =
                (system.directory::<SandboxCustomer>(), SandboxCustomer::address(tenant));
            let origin = Origin { caller: "sandbox provider".into(), ..system.system_origin() };
            let reply = customers.ask(&address, command, origin).await.map_err(error_of)?;
            Ok(view(tenant, reply))
        }
        .boxed()
    }

    fn page_url(&self, id: &str) -> String {
        format!("{}/sandbox/checkout/{id}", self.public_url)
    }

    /// What a page shows: an intent, or a card to be added. Refused when the secret is wrong.
    pub fn open(&self, page: &PageId) -> Answer<Opened> {
        let PageId { tenant, number, secret, is_intent } = page.clone();
        self.ask(Ok(tenant), Open { number, secret, is_intent }, |_, opened| opened)
    }

    /// Pays an intent with a card, or confirms it with none.
    pub fn act(&self, page: &PageId, card: Option<Card>) -> Answer<Intent> {
        let (payment, secret) = (PaymentId(page.number), Some(page.secret.clone()));
        self.ask(Ok(page.tenant), Act { payment, secret, card }, |tenant, it| told(tenant, &it))
    }

    /// Adds a card by a setup's page.
    pub fn attach_card(&self, page: &PageId, card: Card) -> Answer<()> {
        let set_up = Some((page.number, page.secret.clone()));
        self.ask(Ok(page.tenant), Attach { set_up, card }, |_, ()| ())
    }

    /// The customer whose page this is, once its secret was checked.
    pub fn open_portal(&self, page: &PageId) -> Answer<(String, Vec<Method>)> {
        let PageId { tenant, number, secret, .. } = page.clone();
        let view = |tenant: TenantId, methods| (format!("{CUSTOMER}{}", base32(tenant.0)), methods);
        self.ask(Ok(tenant), customer::OpenPortal { number, secret }, view)
    }

    /// Adds a card by the page on which cards are kept.
    pub fn add_card(&self, customer: &str, card: Card) -> Answer<()> {
        self.ask(customer_of(customer), Attach { set_up: None, card }, |_, ()| ())
    }

    /// A payment that came in is disputed, or is no more.
    pub fn dispute(&self, intent: &str, is_open: bool) -> Answer<()> {
        let found = numbers(intent, INTENT).ok_or(ProviderError::NotFound);
        let payment = PaymentId(found.as_ref().map_or(0, |(_, number)| *number));
        self.ask(found.map(|(tenant, _)| tenant), Dispute { payment, is_open }, |_, ()| ())
    }
}

impl PaymentProvider for Sandbox {
    fn name(&self) -> &'static str {
        "sandbox"
    }

    fn publishable_key(&self) -> &str {
        PUBLISHABLE_KEY
    }

    fn is_real(&self) -> bool {
        false
    }

    fn attach(&self, system: &Arc<System>) {
        let _ = self.system.set(Arc::downgrade(system));
    }

    fn customer(&self, tenant: TenantId) -> Answer<String> {
        futures::future::ready(Ok(format!("{CUSTOMER}{}", base32(tenant.0)))).boxed()
    }

    fn set_up(&self, customer: String, key: u128) -> Answer<ClientSecret> {
        let view =
            move |tenant, secret: String| ClientSecret(with_secret(SETUP, tenant, key, &secret));
        self.ask(customer_of(&customer), MakeSetUp { number: key }, view)
    }

    fn methods(&self, customer: String) -> Answer<Vec<Method>> {
        self.ask(customer_of(&customer), customer::List, |_, methods| methods)
    }

    fn detach(&self, customer: String, method: String) -> Answer<()> {
        match card_of(&method) {
            Ok(card) => self.ask(customer_of(&customer), Detach { card }, |_, ()| ()),
            Err(error) => futures::future::ready(Err(error)).boxed(),
        }
    }

    fn set_default(&self, customer: String, method: String) -> Answer<()> {
        match card_of(&method) {
            Ok(card) => self.ask(customer_of(&customer), MakeDefault { card }, |_, ()| ()),
            Err(error) => futures::future::ready(Err(error)).boxed(),
        }
    }

    fn place(&self, order: Order) -> Answer<Placed> {
        let Order { payment, tenant, amount_cents, currency, description, way, .. } = order;
        let is_page = way == Way::Checkout;
        let base = self.public_url.clone();
        let make = MakeIntent { payment, tenant, amount_cents, currency, description, way };
        self.ask(Ok(tenant), make, move |tenant, intent| {
            let id = with_secret(INTENT, tenant, intent.payment.0, &intent.secret);
            let page = is_page.then(|| (id.clone(), format!("{base}/sandbox/checkout/{id}")));
            Placed { intent: Some(told(tenant, &intent)), page }
        })
    }

    fn fetch(&self, intent: String) -> Answer<Intent> {
        let found = numbers(&intent, INTENT).ok_or(ProviderError::NotFound);
        let payment = PaymentId(found.as_ref().map_or(0, |(_, number)| *number));
        let tenant = found.map(|(tenant, _)| tenant);
        self.ask(tenant, customer::Fetch { payment }, |tenant, it| told(tenant, &it))
    }

    fn refund(&self, intent: String, amount_cents: i64, key: u128) -> Answer<()> {
        let found = numbers(&intent, INTENT).ok_or(ProviderError::NotFound);
        let payment = PaymentId(found.as_ref().map_or(0, |(_, number)| *number));
        let refund = Refund { payment, amount_cents, key };
        self.ask(found.map(|(tenant, _)| tenant), refund, |_, ()| ())
    }

    fn portal(&self, customer: String, _return_url: String) -> Answer<String> {
        let base = self.public_url.clone();
        self.ask(customer_of(&customer), MakePortal, move |tenant, (number, secret)| {
            let id = with_secret(PORTAL, tenant, number, &secret);
            format!("{base}/sandbox/portal/{id}")
        })
    }

    fn read_news(&self, _: &[u8], _: &str, _: i64) -> Result<News, NewsError> {
        Err(NewsError::NotSetUp)
    }
}

/// Where the page is on which an intent of this client secret is paid, or a card added.
pub fn page_of(sandbox: &Sandbox, client_secret: &str) -> String {
    sandbox.page_url(client_secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_whose_and_which_it_is_and_nothing_else_is_one() {
        let (tenant, payment) = (TenantId(7), u128::MAX >> 3);
        let text = with_secret(INTENT, tenant, payment, "abc");
        let read = PageId::read(&text).unwrap();
        assert_eq!((read.tenant, read.number, read.is_intent), (tenant, payment, true));
        assert_eq!(read.secret, "abc");
        let portal = with_secret(PORTAL, tenant, 3, "s");
        assert!(PageId::read(&portal).is_none() && PageId::read_portal(&portal).is_some());
        for wrong in ["", "pi_sandbox_", "pi_sandbox__secret_x", "pi_1_secret_2", "pi_sandbox_é"] {
            assert!(PageId::read(wrong).is_none(), "{wrong}");
        }
        assert!(numbers(&"é".repeat(40), INTENT).is_none());
    }
}
