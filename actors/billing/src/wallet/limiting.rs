//! Setting, removing and showing spending limits, what counts for them, and what they refuse.

use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Refusal, Timestamp, Turn};
use types::{HoldId, Page, rfc3339};

use super::figures::Actions;
use super::limits::{Spender, Standing, Subject, Window};
use super::recent::Recent;
use super::{
    Account, BALANCE_MAX, Balance, Bucket, Done, Hold, LIMITS_MAX, LimitRemoved, LimitSet, Wallet,
    WalletEvent, earned, sum_of, total,
};

/// How many limits an operator sees with the wallet.
const LIMITS_OBSERVED_MAX: usize = 100;

/// What is done beyond a limit. It is the only thing so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitAction {
    /// It is refused.
    #[default]
    Refuse,
}

/// A limit as callers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LimitView {
    /// `tenant`, `user:ID`, `key:ID`, `agent:ID`, `app:ID` or `webhook:ID`.
    pub subject: String,
    /// The time that it is for, of the UTC calendar.
    pub window: Window,
    /// How much may be spent in it, in credits.
    pub amount: i64,
    /// What is done beyond it.
    pub action: LimitAction,
    /// What was spent in the present window, in credits.
    pub spent: i64,
    /// What open holds hold, in credits.
    pub held: i64,
    /// What may still be spent, in credits.
    pub remaining: i64,
    /// When the window ends, RFC 3339; null for one without end.
    pub resets_at: Option<String>,
}

impl From<Standing> for LimitView {
    fn from(standing: Standing) -> Self {
        Self {
            subject: standing.subject.to_string(),
            window: standing.window,
            amount: standing.amount,
            action: LimitAction::Refuse,
            spent: standing.spent,
            held: standing.held,
            remaining: standing.left(),
            resets_at: standing.ends.map(rfc3339),
        }
    }
}

impl Wallet {
    /// A page of the limits, by subject and window.
    pub fn limits(&self, page: Page, now: Timestamp) -> Vec<LimitView> {
        page.of(self.limits.all(Some(now)).map(LimitView::from))
    }

    /// The limits on all that the tenant spends: each with what is used of it, in credits.
    pub fn tenant_limits(&self, now: Timestamp) -> Vec<(Window, i64, i64)> {
        let of_tenant = self.limits.all(Some(now)).filter(|it| it.subject == Subject::Tenant);
        of_tenant.map(|it| (it.window, it.used(), it.amount)).collect()
    }

    /// Whether there is a limit, whatever its amount.
    pub fn has_limit(&self, subject: &Subject, window: Window, now: Timestamp) -> bool {
        self.limits.get(subject, window, now).is_some()
    }

    /// What an operator sees of them: as the last spending left them.
    pub(super) fn observed_limits(&self) -> Vec<LimitView> {
        self.limits.all(None).take(LIMITS_OBSERVED_MAX).map(LimitView::from).collect()
    }

    /// Which buckets somebody pays `price` from: refused with 402 when that is beyond a limit, or
    /// when the wallet does not cover it. Limits come first, the narrowest subject and the shortest
    /// window before others.
    pub(super) fn afford(
        &self,
        spender: &Spender,
        price: i64,
        now: Timestamp,
    ) -> Result<Vec<(Bucket, i64)>, Refusal> {
        match self.limits.hit(spender, price, now) {
            None => self.cover(price, now),
            Some(hit) => Err(self.beyond(hit, price, now)),
        }
    }

    fn beyond(&self, hit: Standing, price: i64, now: Timestamp) -> Refusal {
        let Balance { balance, available, .. } = self.balance(now);
        let (name, left) = (hit.name(), hit.left());
        let message = format!("this costs {price} credits, and the limit {name} leaves {left}");
        let facts = serde_json::json!({"balance": balance, "available": available,
            "price": price, "limit": name, "spending_limit": LimitView::from(hit)});
        Refusal::new(Class::Payment, "limit_reached", message).with_facts(&facts)
    }

    /// What somebody who wants to do so much for `price` would be refused with now.
    pub fn check(
        &self,
        spender: &Spender,
        (price, actions): (i64, Actions),
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.figures.check(spender.user, actions, now)?;
        if price > 0 {
            self.afford(spender, price, now)?;
        }
        Ok(())
    }

    /// Counts what an event spends and holds for those who do, before it ends their hold.
    pub(super) fn count(&mut self, event: &WalletEvent, at: Timestamp) {
        let of_hold = |hold| self.holds.get(hold).map(|hold| &hold.spender);
        let spender = match event {
            WalletEvent::Debited(debited) => Some(&debited.spender),
            WalletEvent::HoldPlaced(placed) => Some(&placed.spender),
            WalletEvent::HoldDrawn(drawn) => of_hold(&drawn.hold),
            WalletEvent::HoldEnded(ended) => of_hold(&ended.hold),
            WalletEvent::LateDrawn(late) => late_spender(&self.spent, late.hold),
            _ => return,
        };
        let Some(spender) = spender else { return };
        let postings = event.postings();
        let (spent, held) =
            (earned(postings), sum_of(postings, |it| matches!(it, Account::Held(_))));
        self.limits.count(spender, spent, held, at);
        if spent != 0 {
            self.figures.spend(spent, at);
        }
        match event {
            WalletEvent::HoldPlaced(placed) => {
                self.figures.act(placed.spender.user, placed.actions.into(), at);
            }
            WalletEvent::LateDrawn(late) => {
                let items: usize = late.draws.iter().map(|draw| draw.items.len()).sum();
                self.figures.act(spender.user, items as u64, at);
            }
            _ => {}
        }
    }

    /// What the open holds hold that count for a subject.
    pub(super) fn held_for(&self, subject: &Subject) -> i64 {
        let counts = |hold: &&Hold| hold.spender.subjects().any(|it| it == *subject);
        self.holds.values().filter(counts).map(|hold| total(&hold.slices)).sum()
    }
}

/// Who spends what comes late for an expired hold.
pub(super) fn late_spender(spent: &Recent<Done>, hold: HoldId) -> Option<&Spender> {
    match spent.get(hold.0)? {
        Done::Ended { spender, .. } => spender.as_deref(),
        _ => None,
    }
}

/// Limits what may be spent: sets a limit, or another amount for the one that there is. What was
/// counted goes on being counted. A repetition changes nothing.
#[derive(Clone, Debug)]
pub struct SetLimit {
    /// On what.
    pub subject: Subject,
    /// For which time.
    pub window: Window,
    /// How much, in credits: 0 to [`BALANCE_MAX`].
    pub amount: i64,
}

impl Command for SetLimit {
    const NAME: &'static str = "set_limit";
}

impl Handle<SetLimit> for Wallet {
    type Reply = LimitView;

    fn handle(turn: &mut Turn<'_, Self>, command: SetLimit) -> Result<LimitView, Refusal> {
        let SetLimit { subject, window, amount } = command;
        let (wallet, now) = (turn.state(), turn.now());
        if !(0..=BALANCE_MAX).contains(&amount) {
            let message = format!("from 0 to {BALANCE_MAX} credits");
            return Err(Refusal::invalid("amount", message));
        }
        let known = wallet.limits.get(&subject, window, now).map(|it| it.amount);
        if known.is_none() && wallet.limits.len() >= LIMITS_MAX {
            let message = format!("a wallet has at most {LIMITS_MAX} limits");
            return Err(Refusal::conflict("too_many_limits", message));
        }
        if known != Some(amount) {
            let set = LimitSet { subject: subject.clone(), window, amount };
            turn.record(WalletEvent::LimitSet(set));
        }
        let set = turn.state().limits.get(&subject, window, now);
        set.map(LimitView::from).ok_or_else(no_limit)
    }
}

/// Limits what nobody has limited yet: as [`SetLimit`], unless there is such a limit, whatever its
/// amount.
#[derive(Clone, Debug)]
pub struct EnsureLimit(pub SetLimit);

impl Command for EnsureLimit {
    const NAME: &'static str = "ensure_limit";
}

impl Handle<EnsureLimit> for Wallet {
    type Reply = LimitView;

    fn handle(turn: &mut Turn<'_, Self>, command: EnsureLimit) -> Result<LimitView, Refusal> {
        let EnsureLimit(set) = command;
        let known = turn.state().limits.get(&set.subject, set.window, turn.now());
        match known {
            Some(known) => Ok(known.into()),
            None => <Self as Handle<SetLimit>>::handle(turn, set),
        }
    }
}

/// Removes a limit, and what was counted for it.
#[derive(Clone, Debug)]
pub struct RemoveLimit {
    /// On what it is.
    pub subject: Subject,
    /// For which time.
    pub window: Window,
}

impl Command for RemoveLimit {
    const NAME: &'static str = "remove_limit";
    const ESSENTIAL: bool = true;
}

impl Handle<RemoveLimit> for Wallet {
    type Reply = LimitView;

    /// Answers the limit as it stood; 404 when there is none.
    fn handle(turn: &mut Turn<'_, Self>, command: RemoveLimit) -> Result<LimitView, Refusal> {
        let RemoveLimit { subject, window } = command;
        let stood = turn.state().limits.get(&subject, window, turn.now()).ok_or_else(no_limit)?;
        turn.record(WalletEvent::LimitRemoved(LimitRemoved { subject, window }));
        Ok(stood.into())
    }
}

/// 404: there is no such limit.
pub fn no_limit() -> Refusal {
    Refusal::not_found("limit")
}
