//! Spending at once. This is the hottest turn of the server: it looks at the few buckets that it
//! takes from, and leaves one small event and one row.

use serde::{Deserialize, Serialize};
use supervision::{Command, Handle, Refusal, Turn};
use types::{Amount, TransactionId};

use super::account::Postings;
use super::{
    Account, Debited, Done, Reason, Spender, Wallet, WalletEvent, check_description, limits, reused,
};

/// What a change of the balance is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Receipt {
    /// The transaction, as the ledger has it.
    pub transaction_id: TransactionId,
    /// Signed, in credits.
    pub amount: i64,
    /// The balance after it.
    pub balance: i64,
}

impl Receipt {
    pub(super) fn of(transaction_id: TransactionId, amount: i64, balance: i64) -> Self {
        Self { transaction_id, amount, balance }
    }
}

/// Spends credits at once, promotional ones first. Answers a repetition alike; 402
/// `insufficient_credits` and `limit_reached` name balance, price and the limit that was hit.
#[derive(Clone, Debug)]
pub struct Debit {
    /// The transaction.
    pub id: TransactionId,
    /// How many.
    pub amount: Amount,
    /// How the ledger names it.
    pub reason: Reason,
    /// For people.
    pub description: Option<String>,
    /// Who spends, and on which app. Its developer earns only by [`super::Settle`].
    pub spender: Spender,
}

impl Command for Debit {
    const NAME: &'static str = "debit";
}

impl Wallet {
    /// Whether a debit was done, of late.
    pub fn has_debited(&self, id: TransactionId) -> bool {
        matches!(self.spent.get(id.0), Some(Done::Debited { .. }))
    }
}

impl Handle<Debit> for Wallet {
    type Reply = Receipt;

    fn handle(turn: &mut Turn<'_, Self>, command: Debit) -> Result<Receipt, Refusal> {
        let Debit { id, amount: price, reason, description, spender } = command;
        let (wallet, price) = (turn.state(), price.credits());
        match wallet.spent.get(id.0) {
            Some(Done::Debited { amount, balance }) if *amount == price => {
                return Ok(Receipt::of(id, -price, *balance));
            }
            Some(_) => return Err(reused(id)),
            None => {}
        }
        check_description("reason", description.as_deref().unwrap_or_default())?;
        let mut postings = Postings::default();
        for (bucket, amount) in wallet.afford(&spender, price, turn.now())? {
            postings.post(Account::Available(bucket), -amount);
        }
        postings.post(Account::Platform, price);
        let (postings, watched) = (postings.balanced(), limits::watched(wallet, &spender));
        turn.record(WalletEvent::Debited(Debited { id, reason, spender, description, postings }));
        limits::warn(turn, watched);
        Ok(Receipt::of(id, -price, turn.state().sum()))
    }
}
