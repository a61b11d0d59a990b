//! Spending in two phases: credits are reserved, then drawn or captured, and what is left is
//! released. A hold ends once: by capture, release, its time, or the settlement that says so.
//!
//! What a hold reserves keeps its buckets: it is drawn promotional first, does not lapse while it
//! is held, and goes back where it came from.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Refusal, Timestamp, Turn};
use types::{AMOUNT_MAX, Amount, AppId, CallId, Credits, HoldId, Page, SharePercent};

use super::account::{Postings, Slices};
use super::figures::Actions;
use super::limiting::late_spender;
use super::{
    Account, AppDraw, Bucket, Done, DrawnItem, EXPIRED_PER_TURN, End, HOLDS_OPEN_MAX, Hold,
    HoldDrawn, HoldEnded, HoldPlaced, Kind, LateDrawn, Spender, Wallet, WalletEvent, account,
    check_description, limits, reused, take, total,
};

/// The shortest time to live of a hold, in milliseconds.
pub const HOLD_TTL_MS_MIN: i64 = 1_000;
/// The longest time to live of a hold, in milliseconds.
pub const HOLD_TTL_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1_000;
/// How many items one settlement has, at most: those of a batch.
pub const SETTLE_ITEMS_MAX: usize = 1_000;
/// How many items are drawn from one hold, at most.
pub const DRAWN_MAX: usize = 4_096;

/// Reserves credits. Answers a repetition alike while the hold is open. Refused with 402 as a
/// [`super::Debit`], and with 429 `monthly_action_limit`.
#[derive(Clone, Debug)]
pub struct PlaceHold {
    /// The hold.
    pub id: HoldId,
    /// How many.
    pub amount: Amount,
    /// When it expires by itself, in milliseconds from now: 1 s to 7 days.
    pub ttl_ms: i64,
    /// For people.
    pub reason: String,
    /// The call or batch it is for.
    pub call: Option<CallId>,
    /// Who is to spend them, and on which app.
    pub spender: Spender,
    /// The actions that it is for, and how many the spender's role allows.
    pub actions: Actions,
}

/// A hold that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The hold.
    pub hold: HoldId,
    /// What it reserves, in credits.
    pub amount: i64,
    /// When it expires by itself.
    pub expires_at: Timestamp,
    /// What may still be spent, in credits.
    pub available: i64,
}

/// An open hold, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct HoldView {
    /// The hold.
    pub id: HoldId,
    /// What it reserved, in credits.
    pub amount: i64,
    /// What of it was drawn, in credits.
    pub captured: i64,
    /// For people.
    pub reason: String,
    /// The call or batch it is for.
    pub call_id: Option<CallId>,
    /// RFC 3339.
    pub created_at: String,
    /// When it expires by itself, RFC 3339.
    pub expires_at: String,
}

/// A hold that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Ended {
    /// The hold.
    pub id: HoldId,
    /// How.
    pub status: End,
    /// What it reserved, in credits.
    pub amount: i64,
    /// What was drawn and captured of it, in credits; the rest was released.
    pub captured: i64,
}

impl Wallet {
    /// Whether a hold is open.
    pub fn is_open(&self, id: HoldId) -> bool {
        self.holds.contains_key(&id)
    }

    /// A page of the open holds, the oldest first.
    pub fn holds(&self, page: Page) -> Vec<HoldView> {
        let view = |(id, hold): (&HoldId, &Hold)| HoldView {
            id: *id,
            amount: hold.amount,
            captured: hold.captured,
            reason: hold.reason.clone(),
            call_id: hold.call,
            created_at: types::rfc3339(hold.placed_at),
            expires_at: types::rfc3339(hold.expires_at),
        };
        page.of(self.holds.iter().map(view))
    }

    /// How many holds are open.
    pub fn holds_open(&self) -> usize {
        self.holds.len()
    }

    pub(super) fn ended(&self, id: HoldId) -> Option<Ended> {
        match *self.spent.get(id.0)? {
            Done::Ended { end, amount, captured, .. } => {
                Some(Ended { id, status: end, amount, captured })
            }
            _ => None,
        }
    }

    /// The hold, if it is open. Otherwise: 404, 409 naming how it ended, or 410 once expired.
    fn open_hold(&self, id: HoldId, now: Timestamp) -> Result<&Hold, Refusal> {
        let expired = || {
            let message = "the hold has expired, and what it held was released";
            Refusal::new(Class::Gone, "hold_expired", message)
        };
        match (self.holds.get(&id), self.ended(id)) {
            (Some(hold), _) if hold.expires_at > now => Ok(hold),
            (Some(_), _) | (None, Some(Ended { status: End::Expired, .. })) => Err(expired()),
            (None, Some(ended)) => {
                let message = "the hold has ended already";
                Err(Refusal::conflict("hold_ended", message).with_facts(&ended))
            }
            (None, None) => Err(Refusal::not_found("hold")),
        }
    }

    /// Releases what is left of a hold.
    pub(super) fn release(&self, left: &Slices, now: Timestamp, postings: &mut Postings) {
        let mut owed = self.owed;
        for (bucket, amount) in left {
            postings.post(Account::Held(*bucket), -amount);
            postings.give_back(*bucket, *amount, now, &mut owed);
        }
    }
}

impl Command for PlaceHold {
    const NAME: &'static str = "place_hold";
}

impl Handle<PlaceHold> for Wallet {
    type Reply = Placed;

    fn handle(turn: &mut Turn<'_, Self>, command: PlaceHold) -> Result<Placed, Refusal> {
        let PlaceHold { id, amount, ttl_ms, reason, call, spender, actions } = command;
        let (wallet, now, amount) = (turn.state(), turn.now(), amount.credits());
        let placed = |wallet: &Wallet, expires_at| {
            let available = wallet.balance(now).available;
            Placed { hold: id, amount, expires_at, available }
        };
        if let Some(hold) = wallet.holds.get(&id) {
            let same = hold.amount == amount && hold.call == call;
            return if same { Ok(placed(wallet, hold.expires_at)) } else { Err(reused(id)) };
        }
        if wallet.spent.get(id.0).is_some() {
            wallet.open_hold(id, now)?;
            return Err(reused(id));
        }
        if !(HOLD_TTL_MS_MIN..=HOLD_TTL_MS_MAX).contains(&ttl_ms) {
            return Err(Refusal::invalid("ttl_seconds", "from 1 second to 7 days"));
        }
        check_description("reason", &reason)?;
        if wallet.holds.len() >= HOLDS_OPEN_MAX {
            let message = format!("a wallet has at most {HOLDS_OPEN_MAX} open holds");
            return Err(Refusal::new(Class::TooMany, "too_many_holds", message).retry_after(1_000));
        }
        wallet.figures.check(spender.user, actions, now)?;
        let mut postings = Postings::default();
        for (bucket, part) in wallet.afford(&spender, amount, now)? {
            postings.post(Account::Available(bucket), -part);
            postings.post(Account::Held(bucket), part);
        }
        let (expires_at, postings) = (now.plus_ms(ttl_ms), postings.balanced());
        let (actions, watched) = (actions.count, limits::watched(wallet, &spender));
        let event = HoldPlaced { id, expires_at, reason, call, spender, actions, postings };
        turn.record(WalletEvent::HoldPlaced(event));
        limits::warn(turn, watched);
        Ok(placed(turn.state(), expires_at))
    }
}

/// Draws what was done from a hold: each item once, however often it is sent. Answers a repetition
/// alike. What was done is paid for: when it ends a hold that has expired meanwhile (the server was
/// down), it is charged to what is available, and the rest is owed.
#[derive(Clone, Debug)]
pub struct Settle {
    /// The hold.
    pub hold: HoldId,
    /// What was done, in the order it is drawn.
    pub items: Vec<SettleItem>,
    /// Whether nothing more will come: what is left is released.
    pub end: bool,
}

/// Something that was done.
#[derive(Clone, Debug)]
pub struct SettleItem {
    /// The item: a call's id, or one that is unique within the hold.
    pub id: u128,
    /// The app that did it.
    pub app: AppId,
    /// The app's price, 0 to [`AMOUNT_MAX`]: what the developer has a share of.
    pub price: Credits,
    /// The platform's fee on top, 0 to [`AMOUNT_MAX`].
    pub fee: Credits,
    /// The developer's share of the price, of that part of it that is paid for. Promotional
    /// credits pay the fee first.
    pub share: SharePercent,
}

/// What a hold comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The hold.
    pub hold: HoldId,
    /// What was drawn from it so far, in credits.
    pub captured: i64,
    /// What is left in it, in credits; 0 once it has ended.
    pub remaining: i64,
    /// Whether it has ended.
    pub ended: bool,
}

impl Command for Settle {
    const NAME: &'static str = "settle";
    const ESSENTIAL: bool = true;
}

impl Handle<Settle> for Wallet {
    type Reply = Settlement;

    fn handle(turn: &mut Turn<'_, Self>, command: Settle) -> Result<Settlement, Refusal> {
        let Settle { hold: id, items, end: ended } = command;
        let (wallet, now) = (turn.state(), turn.now());
        if let Some(Ended { status: End::Settled, captured, .. }) = wallet.ended(id) {
            return Ok(Settlement { hold: id, captured, remaining: 0, ended: true });
        }
        // Which items were drawn is forgotten with the hold, so it must have been none.
        if let Some(Ended { status: End::Expired, amount, captured: 0, .. }) = wallet.ended(id)
            && ended
        {
            return settle_late(turn, id, items, amount);
        }
        // Past its time, what it holds is still there until the turn that lets it expire.
        let hold = match wallet.holds.get(&id) {
            Some(hold) => hold,
            None => wallet.open_hold(id, now)?,
        };
        if items.len() > SETTLE_ITEMS_MAX || hold.drawn.len() + items.len() > DRAWN_MAX {
            let message = format!("at most {SETTLE_ITEMS_MAX} items, and {DRAWN_MAX} in all");
            return Err(Refusal::invalid("items", message));
        }
        let mut drawing = Drawing::new(&hold.slices, total(&hold.slices));
        let mut seen = BTreeSet::new();
        for item in items {
            if !hold.drawn.contains(&item.id) && seen.insert(item.id) {
                drawing.draw(item)?;
            }
        }
        let (captured, remaining) = (hold.captured + drawing.charged, total(&drawing.left));
        if ended {
            wallet.release(&drawing.left, now, &mut drawing.postings);
        }
        let settlement =
            Settlement { hold: id, captured, remaining: if ended { 0 } else { remaining }, ended };
        if ended || !drawing.draws.is_empty() {
            let (draws, postings) = drawing.finish(Account::Held);
            turn.record(WalletEvent::HoldDrawn(HoldDrawn { hold: id, draws, ended, postings }));
        }
        Ok(settlement)
    }
}

/// Charges what was done for an expired hold, up to `limit`.
fn settle_late(
    turn: &mut Turn<'_, Wallet>,
    hold: HoldId,
    items: Vec<SettleItem>,
    limit: i64,
) -> Result<Settlement, Refusal> {
    let (wallet, now) = (turn.state(), turn.now());
    let live = wallet.available.iter().filter(|(bucket, _)| !bucket.is_over(now));
    let mut drawing =
        Drawing::new(&live.map(|(bucket, amount)| (*bucket, *amount)).collect(), limit);
    let mut seen = BTreeSet::new();
    let mut once = items.into_iter().filter(|item| seen.insert(item.id));
    once.try_for_each(|item| drawing.draw(item))?;
    let captured = drawing.charged;
    let (draws, postings) = drawing.finish(Account::Available);
    let watched = late_spender(&wallet.spent, hold).and_then(|it| limits::watched(wallet, it));
    turn.record(WalletEvent::LateDrawn(LateDrawn { hold, draws, postings }));
    limits::warn(turn, watched);
    Ok(Settlement { hold, captured, remaining: 0, ended: true })
}

/// A settlement while it is put together.
struct Drawing {
    left: Slices,
    /// What may still be charged, in credits; beyond `left` it is owed.
    limit: i64,
    owed: i64,
    charged: i64,
    draws: Vec<AppDraw>,
    platform: i64,
    drawn: Slices,
    postings: Postings,
}

impl Drawing {
    fn new(slices: &Slices, limit: i64) -> Self {
        Self {
            left: slices.clone(),
            limit,
            owed: 0,
            charged: 0,
            draws: Vec::new(),
            platform: 0,
            drawn: Slices::new(),
            postings: Postings::default(),
        }
    }

    fn draw(&mut self, item: SettleItem) -> Result<(), Refusal> {
        let SettleItem { id, app, price: Credits(price), fee: Credits(fee), share } = item;
        let in_range = |credits: i64| (0..=AMOUNT_MAX).contains(&credits);
        if !in_range(price) || !in_range(fee) {
            let message = format!("from 0 to {AMOUNT_MAX} credits");
            return Err(Refusal::invalid("price", message));
        }
        let charged = price + fee;
        if charged > self.limit {
            let missing = charged - self.limit;
            let message = format!("the hold falls {missing} credits short of what was done");
            return Err(Refusal::conflict("hold_exceeded", message));
        }
        self.limit -= charged;
        let (taken, missing) = take(&self.left, charged, |_| true);
        self.owed += missing;
        for (bucket, amount) in &taken {
            account::add(&mut self.left, *bucket, -amount);
            account::add(&mut self.drawn, *bucket, *amount);
        }
        let is_paid = |(bucket, _): &&(Bucket, i64)| bucket.kind == Kind::Paid;
        let paid: i64 = taken.iter().filter(is_paid).map(|(_, amount)| amount).sum();
        let earned = share.of(paid.min(price));
        self.charged += charged;
        self.platform += charged - earned;
        let item = DrawnItem { id, charged, earned };
        match self.draws.iter_mut().find(|draw| draw.app == app) {
            Some(draw) => draw.items.push(item),
            None => self.draws.push(AppDraw { app, items: vec![item] }),
        }
        Ok(())
    }

    fn finish(mut self, from: fn(Bucket) -> Account) -> (Vec<AppDraw>, Vec<super::Posting>) {
        for (bucket, amount) in &self.drawn {
            self.postings.post(from(*bucket), -amount);
        }
        self.postings.post(Account::Arrears, -self.owed);
        for draw in &self.draws {
            let earned = draw.items.iter().map(|item| item.earned).sum();
            self.postings.post(Account::Payable(draw.app.clone()), earned);
        }
        self.postings.post(Account::Platform, self.platform);
        (self.draws, self.postings.balanced())
    }
}

/// Spends a hold, or a part of it, and releases the rest. Answers a repetition alike.
#[derive(Clone, Copy, Debug)]
pub struct Capture {
    /// The hold.
    pub hold: HoldId,
    /// How much; all that is left when not given.
    pub amount: Option<Amount>,
}

impl Command for Capture {
    const NAME: &'static str = "capture";
    const ESSENTIAL: bool = true;
}

impl Handle<Capture> for Wallet {
    type Reply = Ended;

    fn handle(turn: &mut Turn<'_, Self>, command: Capture) -> Result<Ended, Refusal> {
        let (wallet, now, id) = (turn.state(), turn.now(), command.hold);
        let wanted = command.amount.map(Amount::credits);
        if let Some(&Done::Ended { end: End::Captured, amount, captured, last, .. }) =
            wallet.spent.get(id.0)
            && wanted.map_or(captured == amount, |wanted| wanted == last)
        {
            return Ok(Ended { id, status: End::Captured, amount, captured });
        }
        let hold = wallet.open_hold(id, now)?;
        if hold.call.is_some() {
            return Err(held_for_a_call());
        }
        let remaining = total(&hold.slices);
        let amount = wanted.unwrap_or(remaining);
        if amount > remaining {
            let message = format!("the hold has {remaining} credits left");
            let facts = serde_json::json!({"remaining": remaining, "price": amount});
            return Err(Refusal::conflict("hold_exceeded", message).with_facts(&facts));
        }
        let (taken, _) = take(&hold.slices, amount, |_| true);
        let (mut left, mut postings) = (hold.slices.clone(), Postings::default());
        for (bucket, part) in taken {
            account::add(&mut left, bucket, -part);
            postings.post(Account::Held(bucket), -part);
        }
        postings.post(Account::Platform, amount);
        wallet.release(&left, now, &mut postings);
        end(turn, id, End::Captured, postings)
    }
}

/// Gives a hold up: what is left of it may be spent again. Answers a repetition alike.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// The hold.
    pub hold: HoldId,
    /// The call that it was placed for: nobody but the call gives it up.
    pub call: Option<CallId>,
}

impl Command for Release {
    const NAME: &'static str = "release";
    const ESSENTIAL: bool = true;
}

impl Handle<Release> for Wallet {
    type Reply = Ended;

    fn handle(turn: &mut Turn<'_, Self>, command: Release) -> Result<Ended, Refusal> {
        let (wallet, now, id) = (turn.state(), turn.now(), command.hold);
        if let Some(ended) = wallet.ended(id)
            && ended.status == End::Released
        {
            return Ok(ended);
        }
        let hold = wallet.open_hold(id, now)?;
        if hold.call != command.call {
            return Err(held_for_a_call());
        }
        let mut postings = Postings::default();
        wallet.release(&hold.slices, now, &mut postings);
        end(turn, id, End::Released, postings)
    }
}

fn held_for_a_call() -> Refusal {
    let message = "this is held for a call that is running, which ends it itself";
    Refusal::conflict("held_for_a_call", message)
}

fn end(
    turn: &mut Turn<'_, Wallet>,
    hold: HoldId,
    end: End,
    postings: Postings,
) -> Result<Ended, Refusal> {
    let postings = postings.balanced();
    turn.record(WalletEvent::HoldEnded(HoldEnded { hold, end, postings }));
    // What has just ended is remembered.
    turn.state().ended(hold).ok_or_else(|| Refusal::not_found("hold"))
}

/// Lets holds expire whose time is over.
pub(super) fn expire(turn: &mut Turn<'_, Wallet>) {
    let now = turn.now();
    for _ in 0..EXPIRED_PER_TURN {
        let wallet = turn.state();
        let first = wallet.deadlines.first().filter(|(at, _)| *at <= now);
        let Some((id, hold)) = first.and_then(|(_, id)| wallet.holds.get_key_value(id)) else {
            return;
        };
        let (id, mut postings) = (*id, Postings::default());
        wallet.release(&hold.slices, now, &mut postings);
        let postings = postings.balanced();
        turn.record(WalletEvent::HoldEnded(HoldEnded { hold: id, end: End::Expired, postings }));
    }
}
