//! When a developer's tier becomes another, their apps' shares follow.
//!
//! An app whose share was that of the tier that is left gets the new tier's, and none keeps more
//! than the new tier has; a share that its developer has lowered stays. What callers pay is the
//! same, so nobody has to agree.
//!
//! Invariant: while an app may still have the share of a tier that was left, the developer's state
//! names that tier, and the change is asked for again after a restart.
//!
//! Deliberate limit: calls that are under way are shared as they were begun.

use std::sync::Arc;

use control::app::{App, FitShare};
use extensions::{Apps, Extensions};
use serde::{Deserialize, Serialize};
use supervision::{Address, Class, Command, EffectContext, Handle, Origin, Refusal, System, Turn};
use types::{AppId, SharePercent};

use crate::developer::{Developer, DeveloperEvent, Tier};
use crate::storefront::Storefront;

/// The apps have the share of a tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharesFitted {
    /// The tier.
    pub tier: Tier,
}

/// Apps whose shares are to follow a tier.
#[derive(Clone, Debug, PartialEq)]
pub struct FitShares {
    apps: Vec<AppId>,
    left: Vec<SharePercent>,
    tier: Tier,
}

impl Developer {
    /// The shares that are to follow the tier.
    pub(crate) fn resume_fit(&self) -> Option<FitShares> {
        let profile = self.profile().filter(|_| !self.tiers_left.is_empty())?;
        let left = self.tiers_left.iter().map(|tier| tier.share()).collect();
        Some(FitShares { apps: profile.apps.clone(), left, tier: profile.tier })
    }
}

/// Lets the apps' shares follow, and says so. What is not answered is asked for again.
pub(crate) async fn fit(fit: FitShares, context: EffectContext<Developer>) {
    let EffectContext { system, address, origin, .. } = context;
    for app in &fit.apps {
        if let Err(refusal) = fit_one(&system, app, &fit, &origin).await {
            tracing::debug!(%refusal, %app, "a share follows its tier later");
            return;
        }
    }
    let settle = SettleShares { tier: fit.tier };
    let _ = system.directory::<Developer>().ask(&address, settle, origin).await;
}

async fn fit_one(
    system: &Arc<System>,
    app: &AppId,
    fit: &FitShares,
    origin: &Origin,
) -> Result<(), Refusal> {
    let place = Apps::locate(system, app);
    let Some(address): Option<Address<App>> = place else { return Ok(()) };
    let command = FitShare { from: fit.left.clone(), to: fit.tier.share() };
    match system.directory::<App>().ask(&address, command, origin.clone()).await {
        // What was given up or erased has no share.
        Err(refusal) if refusal.class == Class::NotFound || refusal.is_erased() => return Ok(()),
        fitted => drop(fitted?),
    }
    if let Some(extensions) = system.find_port::<Extensions>() {
        extensions.apps().forget(app);
    }
    Storefront::refresh(system, app, origin).await
}

/// Says that the apps have the share of a tier. One that was left meanwhile changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct SettleShares {
    /// The tier.
    pub tier: Tier,
}

impl Command for SettleShares {
    const NAME: &'static str = "settle_shares";
    const ESSENTIAL: bool = true;
}

impl Handle<SettleShares> for Developer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: SettleShares) -> Result<(), Refusal> {
        let SettleShares { tier } = command;
        let is_current = turn.state().existing()?.tier == tier;
        if is_current && !turn.state().tiers_left.is_empty() {
            turn.record(DeveloperEvent::SharesFitted(SharesFitted { tier }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;
    use types::{TenantId, TransactionId, UserId};

    use super::*;
    use crate::developer::{AddApp, DeveloperEffect, Register};
    use crate::tier::{OrderTier, Ordered, SettleTier, TIER_YEAR_MS};

    fn shares(effects: &[DeveloperEffect]) -> Vec<FitShares> {
        let fit = |effect: &DeveloperEffect| match effect {
            DeveloperEffect::Fit(fit) => Some(fit.clone()),
            _ => None,
        };
        effects.iter().filter_map(fit).collect()
    }

    fn order(given: Given<Developer>, tier: Tier) -> (TransactionId, Given<Developer>) {
        match given.when(OrderTier { tier }).reply() {
            (Ordered::ToPay(order), given) => (order.id, given),
            (Ordered::Stands(profile), _) => panic!("nothing to pay: {profile:?}"),
        }
    }

    #[test]
    fn shares_follow_a_tier_up_and_down_until_that_is_said() {
        let app = AppId::new("shelf").unwrap();
        let (user, tenant) = (UserId(7), TenantId(8));
        let nickname = "ada".to_owned();
        let given =
            Given::nothing().when(Register { user, tenant, tier: Tier::Explorer, nickname });
        let add = AddApp { app: app.clone(), explorer_apps_max: 1 };
        let (_, given) = given.then().when(add).reply();
        let (id, given) = order(given, Tier::Indie);
        let then = given.when(SettleTier { id, paid: true });
        let fit = shares(&then.effects).remove(0);
        let percents: Vec<u8> = fit.left.iter().map(|share| share.percent()).collect();
        assert_eq!((fit.apps, percents, fit.tier), (vec![app], vec![70], Tier::Indie));
        // Nobody has said so: it is asked for again, and another tier is left too.
        let then = then.then().later_ms(60_000).when_due();
        assert_eq!(shares(&then.effects).len(), 1);
        let (id, given) = order(then.then(), Tier::Partner);
        let then = given.when(SettleTier { id, paid: true });
        assert_eq!(shares(&then.effects)[0].left.len(), 2);
        let then = then.then().when(SettleShares { tier: Tier::Indie });
        assert!(then.events.is_empty(), "it is another by now");
        let (_, given) = then.then().when(SettleShares { tier: Tier::Partner }).reply();
        assert!(given.state().resume_fit().is_none());
        // Down again, when the year is over and not paid for again.
        let then = given.later_ms(TIER_YEAR_MS).when_due();
        let given = then.then();
        let id = given.state().order.as_ref().map(|order| order.id).unwrap();
        let then = given.when(SettleTier { id, paid: false });
        assert_eq!(shares(&then.effects)[0].tier, Tier::Explorer);
    }
}
