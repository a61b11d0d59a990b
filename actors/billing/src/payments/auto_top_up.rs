//! Credits that are bought by themselves when a wallet runs low.
//!
//! Which tenants want that is known from rows at the start, and shown each change since. A commit
//! only marks the shard that has grown; once a second the wallets of those tenants in the marked
//! shards are looked at. What "low" is: less than the threshold's part of what the plan brings each
//! period, or of what is bought at once, whichever is more.
//!
//! Deliberate limits: a wallet that ran low while the server was down is seen at its next change; a
//! frozen tenant buys nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use identity::Identity;
use parking_lot::Mutex;
use persistence::record::SHARDS;
use persistence::{RowRange, Shard, codec};
use supervision::{Address, Origin, Refusal, System};
use types::{PaymentId, TenantId, home_of};

use super::Payments;
use super::account::{AUTO_FAMILY, AutoTopUp, BeginAuto, BillingAccount, EndAuto};
use super::payment::{Payment, Purpose};
use super::provider::Way;
use super::standing::Status;
use super::top_up::{self, Tier};
use crate::plan_limits::Plans;
use crate::wallet::{Wallet, wallet_address};

/// How often wallets are looked at that have changed.
pub const PERIOD: Duration = Duration::from_secs(1);
/// How many rows of a shard are read at the start, at once.
const ROWS_STEP: usize = 1_024;

/// What is bought.
#[derive(Clone, Debug, PartialEq)]
pub struct Purchase {
    /// For whom.
    pub tenant: TenantId,
    /// By which payment.
    pub payment: PaymentId,
    /// How.
    pub auto: AutoTopUp,
}

/// Whose wallets are watched.
#[derive(Default)]
pub(crate) struct AutoTopUps(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Whether anybody is watched: most commits need to ask no more.
    is_any: AtomicBool,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    /// By shard; the threshold's part in percent and the credits bought at once.
    tenants: BTreeMap<u8, BTreeMap<TenantId, (i64, i64)>>,
    grown: BTreeSet<u8>,
}

fn shard_of(tenant: TenantId) -> Shard {
    wallet_address(tenant).place().shard()
}

impl AutoTopUps {
    /// Watches a tenant's wallet so, or no more.
    pub(super) fn watch(&self, tenant: TenantId, auto: &AutoTopUp) {
        let (shard, mut watched) = (shard_of(tenant).0, self.0.watched.lock());
        let tenants = watched.tenants.entry(shard).or_default();
        if auto.enabled {
            tenants.insert(tenant, (auto.threshold_pct, auto.recharge_tokens));
            self.0.is_any.store(true, Ordering::Release);
        } else {
            tenants.remove(&tenant);
        }
        watched.grown.insert(shard);
    }

    /// Hears from now on which shards grow.
    pub(super) fn attach(&self, system: &Arc<System>) {
        let watched: Weak<_> = Arc::downgrade(&self.0);
        system.journal().on_commit(Box::new(move |positions| {
            let Some(shared) = watched.upgrade() else { return };
            if !shared.is_any.load(Ordering::Acquire) {
                return;
            }
            let mut watched = shared.watched.lock();
            for position in positions {
                let shard = position.shard.0;
                if watched.tenants.get(&shard).is_some_and(|tenants| !tenants.is_empty()) {
                    watched.grown.insert(shard);
                }
            }
        }));
    }

    /// The tenants whose shard has grown.
    fn grown(&self) -> Vec<(TenantId, (i64, i64))> {
        let mut watched = self.0.watched.lock();
        let grown = std::mem::take(&mut watched.grown);
        let of_shard = |shard: &u8| watched.tenants.get(shard).cloned().unwrap_or_default();
        grown.iter().flat_map(of_shard).collect()
    }
}

impl Payments {
    /// Takes in who buys by themselves. Blocks; says how many there are.
    pub fn load(&self, system: &System) -> usize {
        let mut count = 0;
        for shard in (0..SHARDS).filter_map(|shard| u8::try_from(shard).ok()) {
            let mut after = None;
            loop {
                let rows = system.rows(&RowRange {
                    shard: Shard(shard),
                    family: AUTO_FAMILY,
                    prefix: Vec::new(),
                    after,
                    newest_first: false,
                    limit: ROWS_STEP,
                });
                for (key, value) in &rows {
                    let tenant = key.first_chunk().map(|key| TenantId(u128::from_be_bytes(*key)));
                    let Some((tenant, Ok(auto))) = tenant.zip(Some(codec::decode(value))) else {
                        continue;
                    };
                    self.auto.watch(tenant, &auto);
                    count += 1;
                }
                after = rows.last().map(|(key, _)| key.clone());
                if rows.len() < ROWS_STEP {
                    break;
                }
            }
        }
        count
    }

    /// Looks at the wallets that have changed, and begins to buy for those that run low.
    pub async fn top_up_what_is_low(&self, system: &System) {
        for (tenant, (threshold_pct, recharge_tokens)) in self.auto.grown() {
            let looked = self.buy_if_low(system, tenant, threshold_pct, recharge_tokens).await;
            if let Err(refusal) = looked {
                tracing::debug!(%tenant, %refusal, "a low wallet is looked at later");
            }
        }
    }

    async fn buy_if_low(
        &self,
        system: &System,
        tenant: TenantId,
        threshold_pct: i64,
        recharge_tokens: i64,
    ) -> Result<(), Refusal> {
        let (origin, now) = (system.system_origin(), system.now_in(home_of(tenant)));
        let look = move |wallet: &Wallet| wallet.balance(now);
        let wallets = system.directory::<Wallet>();
        let balance = wallets.look(&wallet_address(tenant), origin.clone(), look).await?;
        let included = Plans(system).plan(tenant, origin.clone()).await?.included_tokens;
        let full = i128::from(included.max(recharge_tokens));
        let is_low = i128::from(balance.balance) * 100 < full * i128::from(threshold_pct);
        if !is_low || self.check_real(system, tenant).is_err() {
            return Ok(());
        }
        if let Some(identity) = system.find_port::<Identity>() {
            identity.frozen().check(tenant, None)?;
        }
        let begin = BeginAuto { available: balance.available };
        let address = BillingAccount::address(tenant);
        system.directory::<BillingAccount>().ask(&address, begin, origin).await.map(drop)
    }
}

/// Buys, and says how that ended. What is not decided yet is asked for again.
pub(super) async fn buy(
    payments: &Payments,
    system: &System,
    address: &Address<BillingAccount>,
    purchase: Purchase,
    origin: &Origin,
) -> Result<(), Refusal> {
    let Purchase { tenant, payment, auto } = purchase;
    let known = payments.look(system, tenant, payment, origin).await?;
    let method = match (known, auto.payment_method_id.as_str()) {
        (Some(known), _) => match known.asked.way {
            Way::OffSession { method } => Some(method),
            _ => None,
        },
        (None, "") => payments.default_method(system, tenant, origin).await?,
        (None, named) => Some(named.to_owned()),
    };
    let accounts = system.directory::<BillingAccount>();
    let Some(method) = method else {
        let disabled = Some("payment_method_required".to_owned());
        return accounts.ask(address, EndAuto { payment, disabled }, origin.clone()).await;
    };
    let tier = Tier { tokens: auto.recharge_tokens, price_cents: auto.recharge_cents };
    let way = Way::OffSession { method };
    let asked = top_up::order((payment.0, tenant, None), tier, Purpose::AutoTopUp, way);
    let view = payments.begin(system, asked, origin).await?;
    let disabled = match view.status {
        Status::Created | Status::Pending => return Ok(()),
        status if status.is_paid() => None,
        Status::RequiresAction => Some("authentication_required".to_owned()),
        status => Some(view.code.clone().unwrap_or_else(|| status.name().to_owned())),
    };
    // The wallet has it before the next look at it.
    super::drive::settle(system, &Payment::address(tenant, payment), view, origin).await?;
    accounts.ask(address, EndAuto { payment, disabled }, origin.clone()).await
}
