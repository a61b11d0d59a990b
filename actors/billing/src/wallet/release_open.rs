//! Giving up the open holds of a wallet that is to stand still.

use supervision::{Command, Handle, Refusal, Turn};
use types::{CallId, HoldId};

use super::account::Postings;
use super::{EXPIRED_PER_TURN, End, Ended, HoldEnded, Wallet, WalletEvent};

/// Releases open holds, the oldest first: those that no call has, and those of the calls that are
/// named. The others are left to their calls, which settle what they did. At most
/// [`EXPIRED_PER_TURN`] at a time: it is asked again until nothing is released any more.
#[derive(Clone, Debug, Default)]
pub struct ReleaseOpen {
    /// Calls that have ended without a record of what they did.
    pub calls: Vec<CallId>,
}

/// What a [`ReleaseOpen`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReleased {
    /// What was released.
    pub released: Vec<Ended>,
    /// How many holds are still open.
    pub open: usize,
}

impl Command for ReleaseOpen {
    const NAME: &'static str = "release_open";
    const ESSENTIAL: bool = true;
}

impl Handle<ReleaseOpen> for Wallet {
    type Reply = OpenReleased;

    fn handle(turn: &mut Turn<'_, Self>, command: ReleaseOpen) -> Result<OpenReleased, Refusal> {
        let now = turn.now();
        let holds = turn.state().holds.iter();
        let goes = holds.filter(|(_, hold)| hold.call.is_none_or(|it| command.calls.contains(&it)));
        let ids: Vec<HoldId> = goes.map(|(id, _)| *id).take(EXPIRED_PER_TURN).collect();
        let mut released = Vec::with_capacity(ids.len());
        for hold in ids {
            let wallet = turn.state();
            let Some(slices) = wallet.holds.get(&hold).map(|hold| &hold.slices) else { continue };
            let mut postings = Postings::default();
            wallet.release(slices, now, &mut postings);
            let (end, postings) = (End::Released, postings.balanced());
            turn.record(WalletEvent::HoldEnded(HoldEnded { hold, end, postings }));
            released.extend(turn.state().ended(hold));
        }
        Ok(OpenReleased { released, open: turn.state().holds.len() })
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;
    use types::{Amount, GrantId, TenantId};

    use super::*;
    use crate::wallet::{Actions, Grant, Kind, PlaceHold, Reason, Spender};

    fn place(id: u128, call: Option<CallId>) -> PlaceHold {
        let (amount, reason) = (Amount::new(10).unwrap(), "work".to_owned());
        let (spender, actions) = (Spender::default(), Actions::default());
        PlaceHold { id: HoldId(id), amount, ttl_ms: 60_000, reason, call, spender, actions }
    }

    #[test]
    fn all_goes_but_what_is_held_for_calls_that_settle() {
        let (cancelled, recorded) = (CallId(1), CallId(2));
        let amount = Amount::new(100).unwrap();
        let grant = Grant::new(GrantId(1), TenantId(7), amount, Kind::Paid, Reason::Topup);
        let given = Given::<Wallet>::nothing().when(grant).then();
        let given = given.when(place(1, None)).then().when(place(2, Some(cancelled))).then();
        let given = given.when(place(3, Some(recorded))).then();
        let release = ReleaseOpen { calls: vec![cancelled] };
        let (reply, given) = given.when(release.clone()).reply();
        let released: Vec<_> =
            reply.released.iter().map(|ended| (ended.id, ended.status)).collect();
        assert_eq!(released, [(HoldId(1), End::Released), (HoldId(2), End::Released)]);
        assert_eq!((reply.open, given.state().balance(given.now()).held), (1, 10));
        let again = given.when(release);
        assert_eq!(again.outcome, Ok(OpenReleased { released: vec![], open: 1 }));
        assert!(again.events.is_empty());
    }
}
