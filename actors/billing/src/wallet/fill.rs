//! What fills a wallet: grants, the unlocking of welcome credits, reversals, and lapse.

use supervision::{Command, Handle, Refusal, Timestamp, Turn};
use types::{Amount, GrantId, TenantId, TransactionId};

use super::account::Postings;
use super::{
    Account, BALANCE_MAX, BUCKETS_MAX, Bucket, Done, Granted, Kind, Lapsed, Reason, Receipt,
    Reversed, Unlocked, Wallet, WalletEvent, check_description, reused, take,
};

/// What every new direct tenant is given, in credits.
pub const WELCOME_CREDITS: i64 = 5_000;
/// How many of them may be spent before the e-mail address is verified.
pub const WELCOME_SPENDABLE: i64 = 500;

/// The priority of grants that say nothing about it.
const PRIORITY_DEFAULT: u8 = 100;

/// Puts credits into the wallet. What is owed is paid first. Answers a repetition alike.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The grant.
    pub id: GrantId,
    /// Whose wallet it is.
    pub tenant: TenantId,
    /// How many.
    pub credits: Amount,
    /// How many of them wait for [`UnlockWelcome`]: 0 to `credits`.
    pub locked: i64,
    /// Promotional or paid for.
    pub kind: Kind,
    /// Among grants of one kind: the lower, the sooner spent.
    pub priority: u8,
    /// How the ledger names it.
    pub reason: Reason,
    /// For people.
    pub description: Option<String>,
    /// When they lapse.
    pub expires_at: Option<Timestamp>,
}

impl Grant {
    /// A grant that may be spent at once and does not lapse.
    pub fn new(id: GrantId, tenant: TenantId, credits: Amount, kind: Kind, reason: Reason) -> Self {
        Self {
            id,
            tenant,
            credits,
            locked: 0,
            kind,
            priority: PRIORITY_DEFAULT,
            reason,
            description: None,
            expires_at: None,
        }
    }

    /// The welcome credits of a new tenant: promotional, the greater part locked.
    pub fn welcome(id: GrantId, tenant: TenantId) -> Self {
        // The constant is an amount.
        let credits = Amount::new(WELCOME_CREDITS);
        let credits = credits.unwrap_or_else(|error| panic!("the welcome credits: {error}"));
        Self {
            locked: WELCOME_CREDITS - WELCOME_SPENDABLE,
            description: Some("Welcome credits".to_owned()),
            ..Self::new(id, tenant, credits, Kind::Promotional, Reason::Bonus)
        }
    }
}

impl Command for Grant {
    const NAME: &'static str = "grant";
}

impl Handle<Grant> for Wallet {
    type Reply = Receipt;

    fn handle(turn: &mut Turn<'_, Self>, command: Grant) -> Result<Receipt, Refusal> {
        let (wallet, now) = (turn.state(), turn.now());
        let Grant { id, tenant, credits, kind, priority, reason, description, .. } = command;
        let (credits, locked) = (credits.credits(), command.locked);
        match wallet.filled.get(id.0) {
            Some(Done::Filled { amount, balance }) if *amount == credits => {
                return Ok(Receipt::of(TransactionId(id.0), credits, *balance));
            }
            Some(_) => return Err(reused(id)),
            None => {}
        }
        if wallet.tenant.is_some_and(|owner| owner != tenant) {
            return Err(Refusal::invalid("tenant_id", "the wallet is another tenant's"));
        }
        if !(0..=credits).contains(&locked) {
            return Err(Refusal::invalid("locked", "no more can be locked than is granted"));
        }
        let bucket = Bucket { kind, priority, expiry: command.expires_at.into() };
        if bucket.is_over(now) {
            return Err(Refusal::invalid("expires_at", "this time has passed"));
        }
        check_description("description", description.as_deref().unwrap_or_default())?;
        wallet.check_room(bucket, credits)?;
        let locked = if wallet.unlocked { 0 } else { locked };
        let (mut postings, mut owed) = (Postings::default(), wallet.owed);
        postings.post(Account::Issued(kind), -credits);
        postings.post(Account::Locked(bucket), locked);
        postings.give_back(bucket, credits - locked, now, &mut owed);
        let postings = postings.balanced();
        turn.record(WalletEvent::Granted(Granted { id, tenant, reason, description, postings }));
        Ok(Receipt::of(TransactionId(id.0), credits, turn.state().sum()))
    }
}

impl Wallet {
    fn check_room(&self, bucket: Bucket, credits: i64) -> Result<(), Refusal> {
        if self.sum().saturating_add(credits) > BALANCE_MAX {
            let message = format!("a wallet has at most {BALANCE_MAX} credits");
            return Err(Refusal::conflict("wallet_full", message));
        }
        let known = self.available.contains_key(&bucket) || self.locked.contains_key(&bucket);
        if !known && self.available.len() + self.locked.len() >= BUCKETS_MAX {
            let message = format!("a wallet has at most {BUCKETS_MAX} grants that lapse apart");
            return Err(Refusal::conflict("too_many_grants", message));
        }
        Ok(())
    }
}

/// Lets locked credits be spent, those granted later as well: the e-mail address was verified.
#[derive(Clone, Copy, Debug)]
pub struct UnlockWelcome;

impl Command for UnlockWelcome {
    const NAME: &'static str = "unlock_welcome";
}

impl Handle<UnlockWelcome> for Wallet {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: UnlockWelcome) -> Result<(), Refusal> {
        let (wallet, now) = (turn.state(), turn.now());
        if wallet.unlocked {
            return Ok(());
        }
        let (mut postings, mut owed) = (Postings::default(), wallet.owed);
        for (bucket, amount) in &wallet.locked {
            postings.post(Account::Locked(*bucket), -amount);
            postings.give_back(*bucket, *amount, now, &mut owed);
        }
        turn.record(WalletEvent::Unlocked(Unlocked { postings: postings.balanced() }));
        Ok(())
    }
}

/// Takes a payment back: paid credits first, then promotional ones, and what is not there is owed.
/// Until that is paid nothing can be spent. Answers a repetition alike.
#[derive(Clone, Debug)]
pub struct Reverse {
    /// The transaction.
    pub id: TransactionId,
    /// How many.
    pub credits: Amount,
    /// How the ledger names it.
    pub reason: Reason,
    /// For people.
    pub description: Option<String>,
}

impl Command for Reverse {
    const NAME: &'static str = "reverse";
    const ESSENTIAL: bool = true;
}

impl Handle<Reverse> for Wallet {
    type Reply = Receipt;

    fn handle(turn: &mut Turn<'_, Self>, command: Reverse) -> Result<Receipt, Refusal> {
        let Reverse { id, credits, reason, description } = command;
        let (wallet, credits) = (turn.state(), credits.credits());
        match wallet.filled.get(id.0) {
            Some(Done::Reversed { amount, balance }) if *amount == credits => {
                return Ok(Receipt::of(id, -credits, *balance));
            }
            Some(_) => return Err(reused(id)),
            None => {}
        }
        if wallet.tenant.is_none() {
            return Err(Refusal::not_found("wallet"));
        }
        if wallet.owed.saturating_add(credits) > BALANCE_MAX {
            let message = format!("a wallet owes at most {BALANCE_MAX} credits");
            return Err(Refusal::conflict("wallet_full", message));
        }
        check_description("description", description.as_deref().unwrap_or_default())?;
        let (paid, missing) = take(&wallet.available, credits, |it| it.kind == Kind::Paid);
        let (given, missing) = take(&wallet.available, missing, |it| it.kind != Kind::Paid);
        let mut postings = Postings::default();
        for (bucket, amount) in paid.into_iter().chain(given) {
            postings.post(Account::Available(bucket), -amount);
        }
        postings.post(Account::Arrears, -missing);
        postings.post(Account::Issued(Kind::Paid), credits);
        let postings = postings.balanced();
        turn.record(WalletEvent::Reversed(Reversed { id, reason, description, postings }));
        Ok(Receipt::of(id, -credits, turn.state().sum()))
    }
}

/// Lets what is over lapse. What a hold holds does not lapse before it is given back.
pub(super) fn lapse(turn: &mut Turn<'_, Wallet>) {
    let (wallet, now) = (turn.state(), turn.now());
    let mut postings = Postings::default();
    for (bucket, amount) in wallet.available.iter().filter(|(bucket, _)| bucket.is_over(now)) {
        postings.post(Account::Available(*bucket), -amount);
        postings.post(Account::Lapsed, *amount);
    }
    for (bucket, amount) in wallet.locked.iter().filter(|(bucket, _)| bucket.is_over(now)) {
        postings.post(Account::Locked(*bucket), -amount);
        postings.post(Account::Lapsed, *amount);
    }
    let postings = postings.balanced();
    if !postings.is_empty() {
        turn.record(WalletEvent::Lapsed(Lapsed { postings }));
    }
}
