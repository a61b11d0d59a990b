//! A developer's tier: ordered, paid for by the developer's wallet once a year, and let go at the
//! end of what was paid for.
//!
//! A higher tier is paid for at once and holds for a year from then. A lower one comes at the end
//! of the year. At the end the tier that is to follow is paid for again; what the wallet does not
//! cover, and the tier of who has left the tenant, falls back to the one that costs nothing.
//!
//! Invariants
//! - An order is debited once: the order's id is the transaction's, and the order is the shadow of
//!   the debit until it is settled.
//! - There is one order at a time.
//!
//! Deliberate limits: what is left of a cheaper year is not given back when a higher tier is
//! ordered. Apps that are more than a lower tier allows stay; there are no new ones. Their shares
//! follow the tier ([`crate::shares`]).

use std::sync::Arc;

use billing::wallet::{Debit, Reason, Spender, Wallet, wallet_address};
use identity::tenant::is_member;
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Command, Handle, Origin, Refusal, Retried, System, Timestamp, Turn, retry,
};
use types::{Amount, TenantId, TransactionId};

use crate::developer::{Developer, DeveloperEffect, DeveloperEvent, Profile, Tier};

/// How long a tier is paid for, in milliseconds.
pub const TIER_YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1_000;

/// A tier that is being paid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierOrder {
    /// The transaction.
    pub id: TransactionId,
    /// The tier.
    pub tier: Tier,
    /// What it costs, in credits: 1 or more.
    pub price: i64,
    /// Whether it was paid for before: then it ends when it is not paid for again.
    pub renewal: bool,
}

/// A tier is to be paid for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierOrdered {
    /// The order.
    pub order: TierOrder,
}

/// An order was paid, or could not be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierSettled {
    /// The order.
    pub id: TransactionId,
    /// Which of the two.
    pub paid: bool,
}

/// The tier becomes another at the end, or is paid for again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierNextSet {
    /// What it becomes; `None` when it stays.
    pub next: Option<Tier>,
}

/// The tier's time was over, and nothing follows that costs something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierEnded {}

pub(crate) fn settle(profile: &mut Profile, order: Option<TierOrder>, paid: bool, at: Timestamp) {
    match order {
        Some(order) if paid => {
            profile.tier = order.tier;
            profile.tier_until = Some(at.plus_ms(TIER_YEAR_MS));
            profile.tier_next = None;
        }
        Some(order) if order.renewal => end(profile),
        _ => {}
    }
}

pub(crate) fn end(profile: &mut Profile) {
    (profile.tier, profile.tier_until, profile.tier_next) = (Tier::Explorer, None, None);
}

pub(crate) fn deadline(developer: &Developer) -> Option<Timestamp> {
    match developer.order.is_some() || !developer.tiers_left.is_empty() {
        true => Some(developer.retry.next_at()),
        false => developer.profile().and_then(|profile| profile.tier_until),
    }
}

pub(crate) fn due(turn: &mut Turn<'_, Developer>) {
    if deadline(turn.state()).is_none_or(|at| at > turn.now()) {
        return;
    }
    if turn.state().order.is_some() || !turn.state().tiers_left.is_empty() {
        turn.record(DeveloperEvent::TierRetried(Retried {}));
    } else {
        let Some(profile) = turn.state().profile() else { return };
        let tier = profile.tier_next.unwrap_or(profile.tier);
        if tier.price() == 0 {
            turn.record(DeveloperEvent::TierEnded(TierEnded {}));
        } else {
            let id = TransactionId(turn.new_id());
            let order = TierOrder { id, tier, price: tier.price(), renewal: true };
            turn.record(DeveloperEvent::TierOrdered(TierOrdered { order }));
        }
    }
    if let Some(effect) = turn.state().resume_order() {
        turn.effect(effect);
    }
    follow(turn);
}

/// Lets the apps' shares follow a tier that is another now.
fn follow(turn: &mut Turn<'_, Developer>) {
    if let Some(fit) = turn.state().resume_fit() {
        turn.effect(DeveloperEffect::Fit(fit));
    }
}

/// Pays for an order, and says so. Answers how it stands then; an order that cannot be paid is
/// refused as the wallet refuses (402).
pub(crate) async fn pay(
    system: &Arc<System>,
    address: &Address<Developer>,
    tenant: TenantId,
    order: TierOrder,
    origin: Origin,
) -> Result<Profile, Refusal> {
    let amount = Amount::new(order.price).map_err(|_| Refusal::crashed())?;
    let debit = Debit {
        id: order.id,
        amount,
        reason: Reason::Action,
        description: Some(format!("Developer tier {} for a year", order.tier.name())),
        // A developer lives under their user's id.
        spender: Spender { user: address.id().parse().ok(), ..Spender::default() },
    };
    let (wallets, wallet) = (system.directory::<Wallet>(), wallet_address(tenant));
    let is_done = move |wallet: &Wallet| wallet.has_debited(order.id);
    let may_be_paid = match debit.spender.user {
        Some(user) if is_member(system, tenant, user, origin.clone()).await? => true,
        _ => wallets.look(&wallet, origin.clone(), is_done).await?,
    };
    let debited = match may_be_paid {
        true => wallets.ask(&wallet, debit, origin.clone()).await,
        // A tenant pays for nobody who has left it.
        false => Err(Refusal::forbidden("whoever this is for belongs to the tenant no longer")),
    };
    let refused = match retry::verdict(debited) {
        // The order stands; its reminder tries again.
        None => return Err(Refusal::in_doubt()),
        Some(outcome) => outcome.err(),
    };
    let developers = system.directory::<Developer>();
    let settle = SettleTier { id: order.id, paid: refused.is_none() };
    let profile = developers.ask(address, settle, origin).await?;
    refused.map_or(Ok(profile), Err)
}

/// What became of an order for a tier.
#[derive(Clone, Debug)]
pub enum Ordered {
    /// It is to be paid for.
    ToPay(TierOrder),
    /// There is nothing to pay.
    Stands(Profile),
}

/// Orders a tier: a higher one now, a lower one for the end of the year, the present one so that it
/// stays. Refused (409, `tier_being_paid`) while an order is being paid for.
#[derive(Clone, Copy, Debug)]
pub struct OrderTier {
    /// The tier.
    pub tier: Tier,
}

impl Command for OrderTier {
    const NAME: &'static str = "order_tier";
}

impl Handle<OrderTier> for Developer {
    type Reply = Ordered;

    fn handle(turn: &mut Turn<'_, Self>, command: OrderTier) -> Result<Ordered, Refusal> {
        let tier = command.tier;
        let profile = turn.state().existing()?;
        if let Some(order) = turn.state().order.as_ref() {
            if order.tier == tier {
                return Ok(Ordered::ToPay(order.clone()));
            }
            let message = "another tier is being paid for just now; try again";
            return Err(Refusal::conflict("tier_being_paid", message));
        }
        if tier > profile.tier {
            let id = TransactionId(turn.new_id());
            let order = TierOrder { id, tier, price: tier.price(), renewal: false };
            let ordered = TierOrdered { order: order.clone() };
            turn.record(DeveloperEvent::TierOrdered(ordered));
            return Ok(Ordered::ToPay(order));
        }
        let next = (tier < profile.tier).then_some(tier);
        if profile.tier_next != next {
            turn.record(DeveloperEvent::TierNextSet(TierNextSet { next }));
        }
        turn.state().existing().cloned().map(Ordered::Stands)
    }
}

/// Says what became of an order. A repetition changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct SettleTier {
    /// The order.
    pub id: TransactionId,
    /// Whether it was paid.
    pub paid: bool,
}

impl Command for SettleTier {
    const NAME: &'static str = "settle_tier";
    const ESSENTIAL: bool = true;
}

impl Handle<SettleTier> for Developer {
    type Reply = Profile;

    fn handle(turn: &mut Turn<'_, Self>, command: SettleTier) -> Result<Profile, Refusal> {
        let SettleTier { id, paid } = command;
        if turn.state().order.as_ref().is_some_and(|order| order.id == id) {
            turn.record(DeveloperEvent::TierSettled(TierSettled { id, paid }));
            follow(turn);
        }
        turn.state().existing().cloned()
    }
}

/// The tier of a name; 422 for what is none.
pub(crate) fn named(name: &str) -> Result<Tier, Refusal> {
    let message = "explorer, indie, studio or partner";
    Tier::named(name).ok_or_else(|| Refusal::invalid("tier", message))
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;
    use types::UserId;

    use super::*;
    use crate::developer::Register;
    use crate::shares::SettleShares;

    fn registered() -> Given<Developer> {
        let (user, tenant) = (UserId(7), TenantId(8));
        let nickname = "ada".to_owned();
        Given::nothing().when(Register { user, tenant, tier: Tier::Explorer, nickname }).then()
    }

    fn ordered(given: Given<Developer>, tier: Tier) -> (TierOrder, Given<Developer>) {
        match given.when(OrderTier { tier }).reply() {
            (Ordered::ToPay(order), given) => (order, given),
            (Ordered::Stands(profile), _) => panic!("nothing to pay: {profile:?}"),
        }
    }

    fn settled(
        given: Given<Developer>,
        id: TransactionId,
        paid: bool,
    ) -> (Profile, Given<Developer>) {
        let (profile, given) = given.when(SettleTier { id, paid }).reply();
        let (_, given) = given.when(SettleShares { tier: profile.tier }).reply();
        (profile, given)
    }

    fn payments(effects: &[DeveloperEffect]) -> Vec<TierOrder> {
        let order = |effect: &DeveloperEffect| match effect {
            DeveloperEffect::Pay(order, _) => Some(order.clone()),
            DeveloperEffect::Confirm(_) | DeveloperEffect::Fit(_) => None,
        };
        effects.iter().filter_map(order).collect()
    }

    #[test]
    fn a_higher_tier_is_paid_for_at_once_and_a_lower_one_comes_at_the_end() {
        let (order, given) = ordered(registered(), Tier::Studio);
        assert_eq!((order.price, order.renewal), (29_000, false));
        assert_eq!(given.when(OrderTier { tier: Tier::Indie }).refused().0, "tier_being_paid");
        let (order, given) = ordered(registered(), Tier::Studio);
        let (profile, given) = settled(given, order.id, true);
        assert_eq!(profile.tier, Tier::Studio);
        let (_, given) = settled(given, order.id, false);
        assert_eq!(given.state().profile().unwrap().tier, Tier::Studio, "settled once");
        let (_, given) = given.when(OrderTier { tier: Tier::Indie }).reply();
        let profile = given.state().profile().unwrap();
        assert_eq!((profile.tier, profile.tier_next), (Tier::Studio, Some(Tier::Indie)));
        let then = given.later_ms(TIER_YEAR_MS).when_due();
        let order = payments(&then.effects).remove(0);
        assert_eq!((order.tier, order.renewal), (Tier::Indie, true));
        let (profile, _) = settled(then.then(), order.id, true);
        assert_eq!((profile.tier, profile.tier_next), (Tier::Indie, None));
    }

    #[test]
    fn what_is_not_paid_for_again_falls_back_and_what_never_was_stays() {
        let (order, given) = ordered(registered(), Tier::Indie);
        let (profile, given) = settled(given, order.id, false);
        assert_eq!((profile.tier, profile.tier_until), (Tier::Explorer, None));
        let (order, given) = ordered(given, Tier::Indie);
        let (_, given) = settled(given, order.id, true);
        let then = given.later_ms(TIER_YEAR_MS).when_due();
        let order = payments(&then.effects).remove(0);
        let (profile, _) = settled(then.then(), order.id, false);
        assert_eq!((profile.tier, profile.tier_until), (Tier::Explorer, None));
    }

    #[test]
    fn an_order_is_tried_until_it_is_settled() {
        let (order, given) = ordered(registered(), Tier::Indie);
        let then = given.later_ms(5_000).when_due();
        assert_eq!(payments(&then.effects), std::slice::from_ref(&order));
        let then = then.then().when_due();
        assert!(then.events.is_empty(), "not before its time");
        let (_, given) = settled(then.then(), order.id, true);
        let (_, given) = given.when(OrderTier { tier: Tier::Explorer }).reply();
        let then = given.later_ms(TIER_YEAR_MS).when_due();
        assert_eq!(then.then().state().profile().unwrap().tier, Tier::Explorer);
    }
}
