//! What a tenant keeps with the payment provider: who it is there, its methods as they were told
//! last, what invoices say of it, and how credits are bought when they run low.
//!
//! Invariants
//! - A tenant has one customer, for ever.
//! - One automatic purchase is under way at a time, and at most [`AUTO_PER_DAY_MAX`] are begun in
//!   24 hours. One that is declined, or that its payer would have to confirm, switches them off.
//!
//! Rows: family [`AUTO_FAMILY`] has the tenants whose credits are bought by themselves.
//!
//! Deliberate limits: the profile is one person's word, sealed under their key: it goes with them.

use persistence::codec;
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Backoff, Command, EffectContext, Entity, Handle, Refusal, Retried, Retry, Retrying,
    RowDraft, Timestamp, Turn,
};
use types::{PaymentId, Personal, TenantId, UserId, base32, home_of, owner_of_tenant, rfc3339};

use super::Payments;
use super::auto_top_up;
use super::provider::Method;

/// The family of the rows of who buys by itself: the key is the tenant.
pub const AUTO_FAMILY: &str = "auto_top_up";
/// How many purchases are begun by themselves in 24 hours, at most.
pub const AUTO_PER_DAY_MAX: usize = 5;
/// Characters of each part of a profile.
pub const PROFILE_CHARACTERS_MAX: usize = 200;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Under which label the profile is sealed.
const PROFILE_LABEL: &str = "billing_account.profile";

/// How credits are bought when they run low.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AutoTopUp {
    /// Whether they are.
    pub enabled: bool,
    /// Below this part of a full wallet, in percent: 1 to 50.
    pub threshold_pct: i64,
    /// How many are bought.
    pub recharge_tokens: i64,
    /// What that costs, in US cents.
    pub recharge_cents: i64,
    /// The method that is charged; empty for the default.
    pub payment_method_id: String,
}

impl Default for AutoTopUp {
    fn default() -> Self {
        Self {
            enabled: false,
            threshold_pct: 10,
            recharge_tokens: 20_000,
            recharge_cents: 2_000,
            payment_method_id: String::new(),
        }
    }
}

/// What invoices say of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Who receives them.
    pub name: String,
    /// The company.
    pub company: String,
    /// Its VAT number.
    pub vat: String,
    /// ISO 3166-1, two letters.
    pub country: String,
}

/// What a tenant keeps with the provider.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BillingAccount {
    tenant: Option<TenantId>,
    customer: Option<String>,
    methods: Vec<Method>,
    profile: Option<Personal>,
    auto: AutoTopUp,
    under_way: Option<PaymentId>,
    begun: Vec<Timestamp>,
    retry: Retry,
}

supervision::events! {
    /// What happens to what a tenant keeps with the provider.
    pub enum BillingAccountEvent {
        /// The provider knows the tenant.
        CustomerMade(CustomerMade) = "billing_customer_made", 1;
        /// The methods are these.
        MethodsTold(MethodsTold) = "billing_methods_told", 1;
        /// Invoices say this.
        ProfileSet(ProfileSet) = "billing_profile_set", 1;
        /// Credits are bought so.
        AutoSet(AutoSet) = "auto_top_up_set", 1;
        /// Credits ran low, and are bought.
        AutoBegun(AutoBegun) = "auto_top_up_begun", 1;
        /// That is over.
        AutoEnded(AutoEnded) = "auto_top_up_ended", 1;
        /// It is asked for again.
        AutoRetried(Retried) = "auto_top_up_retried", 1;
    }
}

/// The provider knows the tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CustomerMade {
    /// Whose account it is.
    pub tenant: TenantId,
    /// As which.
    pub customer: String,
}

/// The methods are these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodsTold {
    /// All of them.
    pub methods: Vec<Method>,
}

/// Invoices say this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileSet {
    /// A [`Profile`] as JSON.
    pub profile: Personal,
}

/// Credits are bought so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoSet {
    /// Whose account it is.
    pub tenant: TenantId,
    /// How.
    pub auto: AutoTopUp,
}

/// Credits ran low, and are bought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoBegun {
    /// By which payment.
    pub payment: PaymentId,
    /// How many there were to spend.
    pub available: i64,
}

/// That is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoEnded {
    /// Which payment it was.
    pub payment: PaymentId,
    /// Why no more are bought by themselves, if that is so.
    pub disabled: Option<String>,
}

/// What is done for an account.
#[derive(Clone, Debug, PartialEq)]
pub enum BillingAccountEffect {
    /// Its wallet is watched so, from now on.
    Watch(TenantId, AutoTopUp),
    /// Credits are bought.
    TopUp(auto_top_up::Purchase),
}

impl BillingAccount {
    /// Where a tenant's account lives.
    pub fn address(tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant));
        address.unwrap_or_else(|| panic!("an id's digits are always a stream name"))
    }

    /// Who the tenant is at the provider.
    pub fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }

    /// The methods as they were told last.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// How credits are bought when they run low.
    pub fn auto(&self) -> &AutoTopUp {
        &self.auto
    }

    /// What invoices say; `None` for nothing, or once whoever said it was erased.
    pub fn profile(&self, keys: &persistence::KeyRing) -> Option<Profile> {
        let text = self.profile.as_ref()?.open(keys, PROFILE_LABEL)?;
        serde_json::from_str(&text).ok()
    }

    fn purchase(&self) -> Option<auto_top_up::Purchase> {
        let (tenant, payment) = self.tenant.zip(self.under_way)?;
        Some(auto_top_up::Purchase { tenant, payment, auto: self.auto.clone() })
    }

    fn row(&self, rows: &mut Vec<RowDraft>) {
        let Some(tenant) = self.tenant else { return };
        // Numbers and a short text always encode; if not, the turn crashes unrecorded.
        let value = codec::encode(&self.auto).unwrap_or_else(|error| panic!("a setting: {error}"));
        let value = self.auto.enabled.then_some(value);
        rows.push(RowDraft { family: AUTO_FAMILY, key: tenant.0.to_be_bytes().to_vec(), value });
    }
}

impl Entity for BillingAccount {
    const KIND: &'static str = "billing_account";
    type Event = BillingAccountEvent;
    type Effect = BillingAccountEffect;

    fn apply(&mut self, event: &BillingAccountEvent, at: Timestamp) {
        match event {
            BillingAccountEvent::CustomerMade(made) => {
                self.tenant = Some(made.tenant);
                self.customer = Some(made.customer.clone());
            }
            BillingAccountEvent::MethodsTold(told) => self.methods.clone_from(&told.methods),
            BillingAccountEvent::ProfileSet(set) => self.profile = Some(set.profile.clone()),
            BillingAccountEvent::AutoSet(set) => {
                self.tenant = Some(set.tenant);
                self.auto = set.auto.clone();
            }
            BillingAccountEvent::AutoBegun(begun) => {
                self.under_way = Some(begun.payment);
                self.begun.retain(|begun| begun.plus_ms(DAY_MS) > at);
                self.begun.push(at);
                self.retry = Retry::begin(at, Backoff::USUAL);
            }
            BillingAccountEvent::AutoEnded(ended) => {
                self.under_way = None;
                self.auto.enabled &= ended.disabled.is_none();
            }
            BillingAccountEvent::AutoRetried(_) => self.retry.again(at, Backoff::USUAL),
        }
    }

    fn rows(&self, event: &BillingAccountEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let is_shown =
            matches!(event, BillingAccountEvent::AutoSet(_) | BillingAccountEvent::AutoEnded(_));
        if is_shown {
            let mut after = self.clone();
            after.apply(event, at);
            after.row(rows);
        }
    }

    fn is_pending(&self) -> bool {
        self.under_way.is_some()
    }

    fn resume(&self) -> Vec<BillingAccountEffect> {
        self.purchase().map(BillingAccountEffect::TopUp).into_iter().collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: BillingAccountEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let Some(payments) = system.find_port::<Payments>() else { return };
        match effect {
            BillingAccountEffect::Watch(tenant, auto) => payments.auto.watch(tenant, &auto),
            BillingAccountEffect::TopUp(purchase) => {
                let bought = auto_top_up::buy(&payments, &system, &address, purchase, &origin);
                if let Err(refusal) = bought.await {
                    tracing::debug!(%refusal, "credits are bought by themselves later");
                }
            }
        }
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({
            "tenant": self.tenant,
            "customer": self.customer,
            "methods": self.methods.len(),
            "profile": self.profile.is_some(),
            "auto_top_up": self.auto.enabled,
            "under_way": self.under_way,
            "begun_lately": self.begun.len(),
            "retry_at": self.retry_at().map(rfc3339),
        })
    }
}

impl Retrying for BillingAccount {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> BillingAccountEvent {
        BillingAccountEvent::AutoRetried(Retried {})
    }
}

/// Notes who the tenant is at the provider. The first stays.
pub struct NoteCustomer {
    /// Whose account it is.
    pub tenant: TenantId,
    /// As which.
    pub customer: String,
}

impl Command for NoteCustomer {
    const NAME: &'static str = "note_billing_customer";
}

impl Handle<NoteCustomer> for BillingAccount {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NoteCustomer) -> Result<(), Refusal> {
        let NoteCustomer { tenant, customer } = command;
        if turn.state().customer.is_none() {
            let made = CustomerMade { tenant, customer };
            turn.record(BillingAccountEvent::CustomerMade(made));
        }
        Ok(())
    }
}

/// Notes the methods that the provider has told.
pub struct NoteMethods {
    /// All of them.
    pub methods: Vec<Method>,
}

impl Command for NoteMethods {
    const NAME: &'static str = "note_payment_methods";
}

impl Handle<NoteMethods> for BillingAccount {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NoteMethods) -> Result<(), Refusal> {
        if turn.state().methods != command.methods {
            let told = MethodsTold { methods: command.methods };
            turn.record(BillingAccountEvent::MethodsTold(told));
        }
        Ok(())
    }
}

/// Answers that it was done: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude_billing";
}

impl Handle<Conclude> for BillingAccount {
    type Reply = ();

    fn handle(_: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Sets what invoices say.
pub struct SetProfile {
    /// Who says so.
    pub user: UserId,
    /// What, in clear; it is sealed here.
    pub profile: Profile,
}

impl Command for SetProfile {
    const NAME: &'static str = "set_billing_profile";
}

impl Handle<SetProfile> for BillingAccount {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: SetProfile) -> Result<(), Refusal> {
        let SetProfile { user, profile } = command;
        if turn.state().profile(turn.keys()).as_ref() == Some(&profile) {
            return Ok(());
        }
        let text = serde_json::json!(profile).to_string();
        let profile = Personal::seal(turn.keys(), user, PROFILE_LABEL, &text)?;
        turn.record(BillingAccountEvent::ProfileSet(ProfileSet { profile }));
        Ok(())
    }
}

/// Sets how credits are bought. That the method is there and the price right, the caller has
/// checked.
pub struct SetAuto {
    /// Whose account it is.
    pub tenant: TenantId,
    /// How.
    pub auto: AutoTopUp,
}

impl Command for SetAuto {
    const NAME: &'static str = "set_auto_top_up";
}

impl Handle<SetAuto> for BillingAccount {
    type Reply = AutoTopUp;

    fn handle(turn: &mut Turn<'_, Self>, command: SetAuto) -> Result<AutoTopUp, Refusal> {
        let SetAuto { tenant, auto } = command;
        if !(1..=50).contains(&auto.threshold_pct) {
            return Err(Refusal::invalid("threshold_pct", "must be from 1 to 50"));
        }
        if turn.state().auto != auto {
            turn.effect(BillingAccountEffect::Watch(tenant, auto.clone()));
            turn.record(BillingAccountEvent::AutoSet(AutoSet { tenant, auto: auto.clone() }));
        }
        Ok(auto)
    }
}

/// Begins to buy credits, because they ran low. Answers whether it did: not while that is off, one
/// is under way, or enough were begun today.
pub struct BeginAuto {
    /// How many there are to spend.
    pub available: i64,
}

impl Command for BeginAuto {
    const NAME: &'static str = "begin_auto_top_up";
}

impl Handle<BeginAuto> for BillingAccount {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: BeginAuto) -> Result<bool, Refusal> {
        let (state, now) = (turn.state(), turn.now());
        let today = state.begun.iter().filter(|begun| begun.plus_ms(DAY_MS) > now).count();
        let may = state.auto.enabled && state.under_way.is_none() && today < AUTO_PER_DAY_MAX;
        if !may {
            return Ok(false);
        }
        let (payment, available) = (PaymentId(turn.new_id()), command.available);
        turn.record(BillingAccountEvent::AutoBegun(AutoBegun { payment, available }));
        let again = turn.state().resume();
        again.into_iter().for_each(|effect| turn.effect(effect));
        Ok(true)
    }
}

/// Says how buying ended.
pub(super) struct EndAuto {
    pub(super) payment: PaymentId,
    pub(super) disabled: Option<String>,
}

impl Command for EndAuto {
    const NAME: &'static str = "end_auto_top_up";
    const ESSENTIAL: bool = true;
}

impl Handle<EndAuto> for BillingAccount {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: EndAuto) -> Result<(), Refusal> {
        let EndAuto { payment, disabled } = command;
        if turn.state().under_way == Some(payment) {
            turn.record(BillingAccountEvent::AutoEnded(AutoEnded { payment, disabled }));
            let (tenant, auto) = (turn.state().tenant, turn.state().auto.clone());
            if let Some(tenant) = tenant {
                turn.effect(BillingAccountEffect::Watch(tenant, auto));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    const TENANT: TenantId = TenantId(7);

    fn on() -> Given<BillingAccount> {
        let auto = AutoTopUp { enabled: true, ..AutoTopUp::default() };
        Given::nothing().when(SetAuto { tenant: TENANT, auto }).then()
    }

    fn payment(given: &Given<BillingAccount>) -> PaymentId {
        given.state().under_way.unwrap_or_else(|| panic!("none is under way"))
    }

    #[test]
    fn one_purchase_is_under_way_and_a_few_are_begun_a_day() {
        let mut given = on();
        for _ in 0..AUTO_PER_DAY_MAX {
            let then = given.when(BeginAuto { available: 3 });
            assert!(matches!(then.effects[..], [BillingAccountEffect::TopUp(_)]));
            let (begun, again) = then.reply();
            let (second, again) = again.when(BeginAuto { available: 3 }).reply();
            assert_eq!((begun, second), (true, false), "one at a time");
            let payment = payment(&again);
            given = again.when(EndAuto { payment, disabled: None }).then().later_ms(1_000);
        }
        let (begun, given) = given.when(BeginAuto { available: 3 }).reply();
        assert!(!begun, "enough for today");
        let (begun, _) = given.later_ms(DAY_MS).when(BeginAuto { available: 3 }).reply();
        assert!(begun);
    }

    #[test]
    fn a_declined_card_switches_it_off_and_its_row_goes() {
        let given = on().when(BeginAuto { available: 3 }).then();
        let then = given.later_ms(60_000).when_due();
        assert_eq!((then.events.len(), then.effects.len()), (1, 1), "it is asked for again");
        let payment = payment(&then.given);
        let declined = || EndAuto { payment, disabled: Some("card_declined".to_owned()) };
        let then = then.given.when(declined());
        assert!(then.rows.iter().any(|row| row.family == AUTO_FAMILY && row.value.is_none()));
        let (begun, given) = then.given.when(BeginAuto { available: 3 }).reply();
        assert!(!begun && !given.state().auto().enabled);
        assert!(given.when(declined()).events.is_empty());
    }

    #[test]
    fn a_profile_is_sealed_under_its_users_key_and_shows_nothing() {
        let profile = Profile { name: "Ada Lovelace".to_owned(), ..Profile::default() };
        let set = || SetProfile { user: UserId(9), profile: profile.clone() };
        let then = Given::<BillingAccount>::nothing().when(set());
        assert!(!format!("{:?} {}", then.events, then.given.state().observe()).contains("Ada"));
        assert_eq!(then.given.state().profile(then.given.keys()).as_ref(), Some(&profile));
        assert!(then.given.when(set()).events.is_empty());
    }
}
