//! Payments: how real money becomes credits, and how plans are paid.
//!
//! A [`payment`] is durable before its [`provider`] is asked, and is worth what the provider says
//! that came in ([`standing`]). News only say which intent to look at: what counts is what is
//! fetched then, one look at a time for each intent, so that looks are taken in in their order.
//! [`account`] is what a tenant keeps with the provider, [`top_up`] what credits cost,
//! [`auto_top_up`] who buys them by itself, [`collect`] how plans are paid. [`sandbox`] is a
//! provider that moves no money and is part of the server; [`stripe`] is one that does.
//!
//! Without a provider ([`unconfigured`]) nothing can be bought. What subscriptions wait for is told
//! over [`ChargeVerdicts`].

pub mod account;
pub mod auto_top_up;
pub mod collect;
mod drive;
pub mod payment;
pub mod provider;
pub mod sandbox;
pub mod signature;
pub mod standing;
pub mod stripe;
pub mod tell;
pub mod top_up;
pub mod unconfigured;

#[cfg(test)]
mod golden;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use persistence::{RowRange, codec};
use serde::Serialize;
use supervision::system::SystemBuilder;
use supervision::{Class, Origin, Refusal, System};
use types::{Page, PaymentId, TenantId, home_of, rfc3339};

use crate::charging::Charged;
use crate::subscription::collecting::settle;
use account::BillingAccount;
use auto_top_up::AutoTopUps;
use payment::{Asked, Begin, PAYMENT_FAMILY, Payment, PaymentLine, PaymentView, Tell, row_prefix};
use provider::{About, Method, News, PaymentProvider, ProviderError, unreachable_now};
use sandbox::SandboxCustomer;
use standing::Status;
use top_up::Terms;

/// How long whoever asked waits for the provider's answer to an order.
pub const ORDER_WAIT: Duration = Duration::from_secs(30);
/// How many looks at intents may be under way at once.
const LOOKS_AT_ONCE: usize = 256;

/// Who is told what became of a charge that was not decided when it was asked for.
pub trait ChargeVerdicts: Send + Sync + 'static {
    /// Takes it in; a repetition changes nothing. A refusal has it told again later.
    fn settled(
        &self,
        system: Arc<System>,
        charge: (TenantId, u128),
        charged: Charged,
        origin: Origin,
    ) -> BoxFuture<'static, Result<(), Refusal>>;
}

/// Tells them to subscriptions.
pub struct ToSubscriptions;

impl ChargeVerdicts for ToSubscriptions {
    fn settled(
        &self,
        system: Arc<System>,
        (tenant, charge): (TenantId, u128),
        charged: Charged,
        origin: Origin,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let told = async move { settle(&system, tenant, charge, charged, origin).await };
        told.boxed()
    }
}

/// Payments as the system reaches them. A port.
pub struct Payments {
    provider: Arc<dyn PaymentProvider>,
    terms: Terms,
    public_url: String,
    verdicts: Arc<dyn ChargeVerdicts>,
    /// One look at an intent at a time: by the digest of its id.
    looks: Vec<tokio::sync::Mutex<()>>,
    pub(crate) auto: AutoTopUps,
    system: OnceLock<Weak<System>>,
}

/// What news have led to.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenIn {
    /// The payment, as it stands now.
    pub view: PaymentView,
}

/// Registers the kinds of payments.
pub(crate) fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<Payment>().kind::<BillingAccount>().kind::<SandboxCustomer>()
}

impl Payments {
    /// Payments by a provider; pages lead back to `public_url`, which has no slash at its end.
    pub fn new(provider: Arc<dyn PaymentProvider>, public_url: &str) -> Self {
        Self {
            provider,
            terms: Terms::default(),
            public_url: public_url.trim_end_matches('/').to_owned(),
            verdicts: Arc::new(ToSubscriptions),
            looks: (0..LOOKS_AT_ONCE).map(|_| tokio::sync::Mutex::default()).collect(),
            auto: AutoTopUps::default(),
            system: OnceLock::new(),
        }
    }

    /// With who waits for verdicts.
    #[must_use]
    pub fn with_verdicts(self, verdicts: Arc<dyn ChargeVerdicts>) -> Self {
        Self { verdicts, ..self }
    }

    /// Hands it the system that it is a port of, before anything is asked.
    pub fn attach(self: &Arc<Self>, system: &Arc<System>) {
        let _ = self.system.set(Arc::downgrade(system));
        self.provider.attach(system);
        self.auto.attach(system);
    }

    pub(crate) fn system(&self) -> Result<Arc<System>, Refusal> {
        self.system.get().and_then(Weak::upgrade).ok_or_else(Refusal::busy)
    }

    /// Who moves the money.
    pub fn provider(&self) -> &Arc<dyn PaymentProvider> {
        &self.provider
    }

    /// What credits cost.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Where the provider's pages lead back to.
    pub fn return_url(&self) -> String {
        format!("{}/docs", self.public_url)
    }

    /// Refuses (409 `sandbox_tenant`) what would move real money for a copy of a tenant.
    pub fn check_real(&self, system: &System, tenant: TenantId) -> Result<(), Refusal> {
        if self.provider.is_real() && system.own_time(home_of(tenant)).is_some() {
            let message = "this tenant is a sandbox: it pays for nothing";
            return Err(Refusal::conflict("sandbox_tenant", message));
        }
        Ok(())
    }

    /// The customer that a tenant is at the provider; made the first time.
    pub async fn customer(
        &self,
        system: &System,
        tenant: TenantId,
        origin: &Origin,
    ) -> Result<String, Refusal> {
        let (accounts, address) =
            (system.directory::<BillingAccount>(), BillingAccount::address(tenant));
        let look = |account: &BillingAccount| account.customer().map(str::to_owned);
        if let Some(known) = accounts.look(&address, origin.clone(), look).await? {
            return Ok(known);
        }
        let customer = self.provider.customer(tenant).await?;
        let note = account::NoteCustomer { tenant, customer: customer.clone() };
        accounts.ask(&address, note, origin.clone()).await?;
        Ok(customer)
    }

    /// A tenant's payment methods, as the provider tells them now; as they were told last, while it
    /// does not answer.
    pub async fn methods(
        &self,
        system: &System,
        tenant: TenantId,
        origin: &Origin,
    ) -> Result<Vec<Method>, Refusal> {
        let (accounts, address) =
            (system.directory::<BillingAccount>(), BillingAccount::address(tenant));
        let look = |account: &BillingAccount| {
            (account.customer().map(str::to_owned), account.methods().to_vec())
        };
        let (customer, known) = accounts.look(&address, origin.clone(), look).await?;
        let Some(customer) = customer else { return Ok(known) };
        let told = match self.provider.methods(customer).await {
            Ok(told) => told,
            Err(ProviderError::Unknown(why)) => {
                tracing::warn!(why, "payment methods are told from memory");
                return Ok(known);
            }
            Err(error) => return Err(error.into()),
        };
        if told != known {
            let note = account::NoteMethods { methods: told.clone() };
            accounts.ask(&address, note, origin.clone()).await?;
        }
        Ok(told)
    }

    /// The method that is charged when none is named.
    pub async fn default_method(
        &self,
        system: &System,
        tenant: TenantId,
        origin: &Origin,
    ) -> Result<Option<String>, Refusal> {
        let methods = self.methods(system, tenant, origin).await?;
        let default = methods.iter().find(|method| method.is_default).or(methods.first());
        Ok(default.map(|method| method.id.clone()))
    }

    /// Begins a payment, or finds it begun, and waits for the provider's answer to the order.
    ///
    /// # Errors
    /// 503 when the provider does not answer in time: what was begun goes on, and the same id finds
    /// it again.
    pub async fn begin(
        &self,
        system: &System,
        asked: Asked,
        origin: &Origin,
    ) -> Result<PaymentView, Refusal> {
        self.provider.check()?;
        self.check_real(system, asked.tenant)?;
        let payments = system.directory::<Payment>();
        let address = Payment::address(asked.tenant, asked.id);
        payments.ask(&address, Begin(asked), origin.clone()).await?;
        let waiting = payments.wait(&address, origin.clone());
        match tokio::time::timeout(ORDER_WAIT, waiting).await {
            Ok(answered) => answered?,
            Err(_) => return Err(unreachable_now()),
        }
        let view = payments.look(&address, origin.clone(), Payment::view).await?;
        view.ok_or_else(|| Refusal::not_found("payment"))
    }

    /// A payment as it stands; `None` for one that was never begun.
    pub async fn look(
        &self,
        system: &System,
        tenant: TenantId,
        id: PaymentId,
        origin: &Origin,
    ) -> Result<Option<PaymentView>, Refusal> {
        let address = Payment::address(tenant, id);
        system.directory::<Payment>().look(&address, origin.clone(), Payment::view).await
    }

    /// Takes news of the provider's in. `None` for what is not about payments of this installation.
    ///
    /// # Errors
    /// 503 while the provider, or the payment, cannot be asked: the news are to be told again.
    pub async fn hear(
        &self,
        system: &System,
        news: News,
        origin: &Origin,
    ) -> Result<Option<TakenIn>, Refusal> {
        match news.about {
            About::Intent(intent) => {
                self.take_in(system, &intent, (Some(news.id), None), origin).await
            }
            About::PageExpired { payment: (tenant, id) } => {
                let fail = payment::Fail {
                    status: Status::Cancelled,
                    code: "page_expired".to_owned(),
                    news: Some(news.id),
                };
                let address = Payment::address(tenant, id);
                if self.look(system, tenant, id, origin).await?.is_some() {
                    system.directory::<Payment>().ask(&address, fail, origin.clone()).await?;
                }
                Ok(None)
            }
            About::Other => Ok(None),
        }
    }

    /// Fetches an intent, tells its payment, and has the wallet take what it is worth. With a
    /// tenant, only for that one.
    pub async fn take_in(
        &self,
        system: &System,
        intent: &str,
        (news, only): (Option<String>, Option<TenantId>),
        origin: &Origin,
    ) -> Result<Option<TakenIn>, Refusal> {
        let _look = self.look_at(intent).await;
        let fetched = match self.provider.fetch(intent.to_owned()).await {
            Ok(fetched) => fetched,
            Err(ProviderError::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some((tenant, id)) = fetched.payment else { return Ok(None) };
        if only.is_some_and(|only| only != tenant) {
            return Ok(None);
        }
        // What names a payment that was never begun here is another installation's.
        if self.look(system, tenant, id, origin).await?.is_none() {
            tracing::info!(intent, "an intent names no payment of this installation");
            return Ok(None);
        }
        let address = Payment::address(tenant, id);
        let tell = Tell { intent: Some(fetched), order: None, news };
        let view = system.directory::<Payment>().ask(&address, tell, origin.clone()).await?;
        let view = drive::settle(system, &address, view, origin).await?;
        Ok(Some(TakenIn { view }))
    }

    /// The right to look at an intent: one at a time.
    pub(crate) async fn look_at(&self, intent: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let digest = persistence::record::sha256(&[intent.as_bytes()]);
        self.looks[usize::from(digest[0]) % self.looks.len()].lock().await
    }

    /// Has the wallet take what it is owed for a payment; answers it as it is then.
    pub async fn settle(
        &self,
        system: &System,
        view: PaymentView,
        origin: &Origin,
    ) -> Result<PaymentView, Refusal> {
        let address = Payment::address(view.asked.tenant, view.asked.id);
        drive::settle(system, &address, view, origin).await
    }

    /// A page of a tenant's payments, the newest first.
    pub fn list(
        &self,
        system: &System,
        tenant: TenantId,
        page: Page,
    ) -> Result<Vec<PaymentItem>, Refusal> {
        let range = RowRange {
            shard: BillingAccount::address(tenant).place().shard(),
            family: PAYMENT_FAMILY,
            prefix: row_prefix(tenant),
            after: None,
            newest_first: true,
            limit: page.offset.saturating_add(page.limit),
        };
        let rows = system.rows(&range).into_iter().skip(page.offset);
        rows.map(|(_, value)| item(&value)).collect()
    }
}

/// A payment in a list. Exactly these keys, as readers take them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PaymentItem {
    /// The provider's intent, or the payment's own id while there is none
    pub payment_intent_id: String,
    /// In the currency's smallest unit
    pub amount_cents: i64,
    /// ISO 4217, in lower case
    pub currency: String,
    /// The credits that it buys
    pub tokens: i64,
    /// `pending`, `requires_action`, `succeeded`, `failed`, `cancelled`, `partially_refunded`,
    /// `refunded`, `disputed` or `mismatched`
    pub status: String,
    /// `topup`, `auto_topup`, `subscription` …
    pub r#type: String,
    /// RFC 3339
    pub created_at: String,
    /// RFC 3339
    pub completed_at: Option<String>,
    /// Where the receipt is
    pub receipt_url: Option<String>,
}

fn item(value: &[u8]) -> Result<PaymentItem, Refusal> {
    let damaged = |_| Refusal::new(Class::Crashed, "internal_error", "a payment's row is damaged");
    let line: PaymentLine = codec::decode(value).map_err(damaged)?;
    Ok(PaymentItem {
        payment_intent_id: line.name,
        amount_cents: line.amount_cents,
        currency: line.currency,
        tokens: line.tokens,
        status: line.status.name().to_owned(),
        r#type: line.purpose,
        created_at: rfc3339(line.begun_at),
        completed_at: line.completed_at.map(rfc3339),
        receipt_url: line.receipt_url,
    })
}
