//! How a run is paid for: what was done is drawn from its hold, and the session is told. A
//! repetition draws nothing again.

use billing::wallet::{Settle, SettleItem, Wallet, wallet_address};
use supervision::{Command, EffectContext, Handle, Refusal, Turn, retry};
use types::{CallId, Credits};

use super::{ExtensionSession, SessionEvent, SettleRun, Settled, Unsettled};

/// Draws from the hold what was done, and tells the session.
pub(super) async fn settle(effect: SettleRun, context: EffectContext<ExtensionSession>) {
    let SettleRun { id, run } = effect;
    let (system, origin) = (context.system, context.origin);
    let wallets = system.directory::<Wallet>();
    let command = Settle { hold: run.hold, items: items(&run), end: true };
    let outcome = wallets.ask(&wallet_address(run.tenant), command, origin.clone()).await;
    let settled = match retry::verdict(outcome) {
        None => return,
        Some(Ok(settlement)) => MarkSettled { id, charged: settlement.captured, refused: None },
        Some(Err(refusal)) => MarkSettled { id, charged: 0, refused: Some(refusal.code) },
    };
    let sessions = system.directory::<ExtensionSession>();
    if let Err(refusal) = sessions.ask(&context.address, settled, origin).await {
        tracing::debug!(%refusal, run = %id, "what a run cost is not noted yet; it is tried again");
    }
}

fn items(run: &Unsettled) -> Vec<SettleItem> {
    let item = |&(index, price, fee): &(u32, i64, i64)| SettleItem {
        id: u128::from(index),
        app: run.app.clone(),
        price: Credits(price),
        fee: Credits(fee),
        share: run.share,
    };
    run.items.iter().map(item).collect()
}

/// Says that a run was paid for, or why it could not be. A repetition changes nothing.
#[derive(Clone, Debug)]
pub struct MarkSettled {
    /// The call or batch.
    pub id: CallId,
    /// What it cost, in credits.
    pub charged: i64,
    /// The code with which the wallet refused.
    pub refused: Option<String>,
}

impl Command for MarkSettled {
    const NAME: &'static str = "mark_settled";
    const ESSENTIAL: bool = true;
}

impl Handle<MarkSettled> for ExtensionSession {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: MarkSettled) -> Result<(), Refusal> {
        let MarkSettled { id, charged, refused } = command;
        if turn.state().unsettled.contains_key(&id) {
            turn.record(SessionEvent::Settled(Settled { id, charged, refused }));
        }
        Ok(())
    }
}
