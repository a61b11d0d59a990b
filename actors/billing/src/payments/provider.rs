//! Who really moves money: the port, and the words in which payments and providers speak.
//!
//! A provider is asked for things under keys of ours, so that asking again does nothing twice. What
//! it says of an intent is a snapshot of the present: whoever acts on news fetches one, so neither
//! the order nor the number of the news matters.
//!
//! Deliberate limits: cards only, one currency at a time, no capture apart from the charge.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal, System};
use types::{PaymentId, TenantId};

/// How many payment methods of one customer are read.
pub const METHODS_MAX: usize = 50;
/// Under which name an intent carries its payment's id at the provider.
pub const PAYMENT_KEY: &str = "bailiwick_payment";
/// Under which name it carries the tenant's.
pub const TENANT_KEY: &str = "bailiwick_tenant";

/// Why a provider did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// It will not: its stable code. Nothing was charged.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// It knows no such thing.
    #[error("the provider does not know it")]
    NotFound,
    /// There is none.
    #[error("no payment provider is set up")]
    Unconfigured,
    /// Whether it did it is not known; asking again with the same key settles it.
    #[error("the provider did not answer as it should: {0}")]
    Unknown(String),
}

impl From<ProviderError> for Refusal {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Refused(code) => {
                let message = format!("the payment provider refused it: {code}");
                let facts = serde_json::json!({"provider_code": code});
                Self::new(Class::Conflict, "provider_refused", message).with_facts(&facts)
            }
            ProviderError::NotFound => Self::not_found("payment"),
            ProviderError::Unconfigured => {
                let message = "this server takes no payments: it was told of no provider";
                Self::conflict("payments_not_configured", message)
            }
            ProviderError::Unknown(_) => unreachable_now(),
        }
    }
}

/// 503: the provider cannot be asked now.
pub(crate) fn unreachable_now() -> Refusal {
    let message = "the payment provider does not answer now; repeat it with the same key";
    Refusal::new(Class::Busy, "payment_provider_unavailable", message).retry_after(5_000)
}

/// What a provider answers, in time.
pub type Answer<T> = BoxFuture<'static, Result<T, ProviderError>>;

/// How the payer pays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// The payer's own program confirms it with a client secret.
    Client {
        /// Whether the method is kept for later payments.
        save: bool,
    },
    /// A method that is kept is charged at once, with nobody there.
    OffSession {
        /// The method.
        method: String,
    },
    /// On a page of the provider's.
    Checkout,
}

/// What is to be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The payment: the key under which it is ordered once.
    pub payment: PaymentId,
    /// Who pays.
    pub tenant: TenantId,
    /// In the currency's smallest unit.
    pub amount_cents: i64,
    /// ISO 4217, in lower case.
    pub currency: String,
    /// For the payer.
    pub description: String,
    /// How.
    pub way: Way,
    /// Whose methods it may use.
    pub customer: String,
    /// Where the provider's page leads back to.
    pub return_url: String,
}

/// Where an intent stands, as the provider says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntentStatus {
    /// It has no method yet, or the last one was declined.
    RequiresMethod,
    /// The payer must do something: their bank asks.
    RequiresAction,
    /// It takes its time.
    Processing,
    /// It is paid.
    Succeeded,
    /// It will not be paid.
    Cancelled,
}

/// With which the payer's program goes on with an intent. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecret(pub String);

impl std::fmt::Debug for ClientSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ClientSecret([redacted])")
    }
}

/// What a provider says of an intent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The provider's id.
    pub id: String,
    /// Which payment it is for, as it was ordered; none for what others have made.
    pub payment: Option<(TenantId, PaymentId)>,
    /// Where it stands.
    pub status: IntentStatus,
    /// What came in.
    pub received_cents: i64,
    /// ISO 4217, in lower case.
    pub currency: String,
    /// What went back of it.
    pub refunded_cents: i64,
    /// What of it is disputed, or was lost in a dispute.
    pub disputed_cents: i64,
    /// With which the payer's program goes on.
    pub client_secret: Option<ClientSecret>,
    /// Why the last attempt failed, the provider's stable code.
    pub code: Option<String>,
    /// Where the receipt is.
    pub receipt_url: Option<String>,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The intent, where it is known yet.
    pub intent: Option<Intent>,
    /// The provider's page: its id and where it is.
    pub page: Option<(String, String)>,
}

/// A card that is kept at the provider. Exactly these keys, as readers take them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Method {
    /// The provider's id.
    pub id: String,
    /// `card`
    pub r#type: String,
    /// `visa` …
    pub brand: String,
    /// The number's last four digits.
    pub last4: String,
    /// From 1.
    pub exp_month: i64,
    /// Four digits.
    pub exp_year: i64,
    /// Whether it is charged when none is named.
    pub is_default: bool,
}

/// What a provider tells of its own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The provider's id of it: a repetition has the same.
    pub id: String,
    /// What it is about.
    pub about: About,
}

/// What news are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Something became of this intent.
    Intent(String),
    /// Nobody paid on this page in time.
    PageExpired {
        /// The payment that it was for.
        payment: (TenantId, PaymentId),
    },
    /// Nothing that matters here.
    Other,
}

/// News do not come from the provider, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewsError {
    /// This provider sends none this way.
    #[error("no such provider is set up here")]
    NotSetUp,
    /// The signature is missing, wrong or too old.
    #[error("{0}")]
    Signature(&'static str),
    /// The body is not what the provider sends.
    #[error("the body cannot be read")]
    Malformed,
}

/// Moves money.
pub trait PaymentProvider: Send + Sync + 'static {
    /// `none`, `sandbox` or `stripe`.
    fn name(&self) -> &'static str;

    /// The key that the payer's program may know.
    fn publishable_key(&self) -> &str;

    /// Whether real money moves, outside this server.
    fn is_real(&self) -> bool;

    /// Whether it takes orders at all.
    ///
    /// # Errors
    /// [`ProviderError::Unconfigured`]: no order is begun.
    fn check(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Hands it the system that it lives in, before anything is asked.
    fn attach(&self, _system: &Arc<System>) {}

    /// The customer that a tenant is here: made the first time, the same ever after.
    fn customer(&self, tenant: TenantId) -> Answer<String>;

    /// Lets the payer's program add a method: the client secret.
    fn set_up(&self, customer: String, key: u128) -> Answer<ClientSecret>;

    /// The customer's methods, at most [`METHODS_MAX`]; one of them is the default.
    fn methods(&self, customer: String) -> Answer<Vec<Method>>;

    /// Takes a method away from its customer.
    fn detach(&self, customer: String, method: String) -> Answer<()>;

    /// Makes a method the default.
    fn set_default(&self, customer: String, method: String) -> Answer<()>;

    /// Orders a payment, and charges at once what needs nobody there.
    fn place(&self, order: Order) -> Answer<Placed>;

    /// What an intent is now.
    fn fetch(&self, intent: String) -> Answer<Intent>;

    /// Gives a part of what came in back; `key` is the refund's own.
    fn refund(&self, intent: String, amount_cents: i64, key: u128) -> Answer<()>;

    /// A page on which the customer keeps its methods.
    fn portal(&self, customer: String, return_url: String) -> Answer<String>;

    /// What signed news say. `now_s` is the time in seconds since 1970.
    fn read_news(&self, body: &[u8], signature: &str, now_s: i64) -> Result<News, NewsError>;
}
