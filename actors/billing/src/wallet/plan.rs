//! The plan that is in effect, as the wallet knows it: told by the tenant's subscription, so that
//! whoever looks at a wallet sees balance and plan at once and asks nobody else.
//!
//! What is told is numbered, and what is older than what is known changes nothing. A wallet that
//! was told nothing is on the free plan.

use serde::{Deserialize, Serialize};
use supervision::{Command, Handle, Refusal, Timestamp, Turn};

use super::{Wallet, WalletEvent};
use crate::plans::{FREE, Plan, WalletView, plan};

/// Another plan is in effect, or how it is paid for has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNoted {
    /// The number of this change.
    pub number: u64,
    /// The plan's id.
    pub plan: String,
    /// Whether it is not paid for at present.
    pub is_past_due: bool,
    /// Whether it is paid for by the tenant's payment method.
    pub needs_card: bool,
}

/// Tells a wallet which plan is in effect.
#[derive(Clone, Debug)]
pub struct NotePlan {
    /// The number of this change: what is not above the last one known is known.
    pub number: u64,
    /// The plan's id.
    pub plan: String,
    /// Whether it is not paid for at present.
    pub is_past_due: bool,
    /// Whether it is paid for by the tenant's payment method.
    pub needs_card: bool,
}

impl Command for NotePlan {
    const NAME: &'static str = "note_plan";
    const ESSENTIAL: bool = true;
}

impl Handle<NotePlan> for Wallet {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NotePlan) -> Result<(), Refusal> {
        let NotePlan { number, plan, is_past_due, needs_card } = command;
        if number > turn.state().noted.as_ref().map_or(0, |noted| noted.number) {
            let noted = PlanNoted { number, plan, is_past_due, needs_card };
            turn.record(WalletEvent::PlanNoted(noted));
        }
        Ok(())
    }
}

impl Wallet {
    /// The plan in effect. One that is gone from the catalogue gives what the free one gives.
    pub fn plan(&self) -> &'static Plan {
        self.noted.as_ref().and_then(|noted| plan(&noted.plan)).unwrap_or(&FREE)
    }

    /// Whether the plan in effect is paid for by the tenant's payment method.
    pub fn needs_card(&self) -> bool {
        self.noted.as_ref().is_some_and(|noted| noted.needs_card)
    }

    /// The wallet as callers see it.
    pub fn view(&self, now: Timestamp) -> WalletView {
        let view = WalletView::new(&self.balance(now), self.plan());
        match self.noted.as_ref().is_some_and(|noted| noted.is_past_due) {
            true => WalletView { status: "past_due", ..view },
            false => view,
        }
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn note(number: u64, plan: &str, is_past_due: bool) -> NotePlan {
        NotePlan { number, plan: plan.to_owned(), is_past_due, needs_card: true }
    }

    #[test]
    fn a_wallet_shows_the_plan_that_it_was_told_last() {
        let given = Given::<Wallet>::nothing();
        let view = given.state().view(given.now());
        assert_eq!((view.plan, view.cap, given.state().needs_card()), ("free", 0, false));
        let given = given.when(note(2, "pro", false)).then();
        let view = given.state().view(given.now());
        assert_eq!((view.plan, view.status, view.cap), ("pro", "active", 50_000));
        let late = given.when(note(1, "business", false));
        assert!(late.events.is_empty(), "older news");
        let given = late.then().when(note(3, "pro", true)).then();
        assert_eq!(given.state().view(given.now()).status, "past_due");
        let given = given.when(note(4, "a plan of the past", false)).then();
        assert_eq!(given.state().plan(), &FREE);
    }
}
