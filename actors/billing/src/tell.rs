//! What a wallet's records tell to the tenant's readers: holds, limits that come close, and the
//! balance after each change.
//!
//! Events say what changed, not what there is then. The balance follows from the postings: forward
//! from the record before, or, for the first record that is told, back from the present state. What
//! a reader sees of it needs the scope that reading the wallet needs.

use activity::feed::{Audience, Source, Telling};
use persistence::{Header, StreamName};
use serde_json::{Value, json};
use supervision::{Entity as _, Event as _, System};
use types::rfc3339;

use crate::wallet::{Account, End, Posting, Subject, Wallet, WalletEvent, Window};

/// Below so many credits to spend a wallet is said to be low, once each time it gets there.
pub const LOW_CREDITS: i64 = 100;
/// How many records are read at once on the way back.
const STEP_RECORDS: usize = 256;
/// What a reader of the wallet needs.
const READ: &str = "wallet:read";

/// What a wallet has, as far as its postings tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    seq: u64,
    available: i64,
    locked: i64,
    held: i64,
    owed: i64,
}

impl Figures {
    /// What was there after the record `seq` of a wallet: what there is now, less what the records
    /// since have changed.
    fn at(system: &System, stream: &StreamName, seq: u64) -> Result<Self, String> {
        if seq == 0 {
            return Ok(Self::default());
        }
        let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
        let place = system.locate(Wallet::KIND, id).ok_or("it is not there")?;
        let kind = system.kind(Wallet::KIND).ok_or("the kind is not there")?;
        let (seen, last) = kind.observe_last(&place).map_err(|refusal| refusal.message)?;
        let mut figures = Self::of(&seen, last);
        let mut after = seq;
        while after < last {
            let records = system.journal().read(stream, after, STEP_RECORDS);
            let records = records.map_err(|error| error.to_string())?;
            let newest = records.last().ok_or("its records end too early")?.header.seq;
            for record in records.iter().filter(|record| record.header.seq <= last) {
                let payload = system.open_record(record).unwrap_or_default();
                let Header { event, event_version, .. } = &record.header;
                let event = WalletEvent::decode(event, *event_version, &payload);
                let event = event.map_err(|error| error.to_string())?;
                event.postings().iter().for_each(|posting| figures.post(posting, -1));
            }
            after = newest;
        }
        Ok(Self { seq, ..figures })
    }

    /// What a wallet shows of itself.
    fn of(seen: &Value, seq: u64) -> Self {
        let number = |value: &Value| value.as_i64().unwrap_or_default();
        let sum = |value: &Value| {
            value.as_array().into_iter().flatten().map(|it| number(&it["credits"])).sum()
        };
        Self {
            seq,
            available: sum(&seen["available"]),
            locked: sum(&seen["locked"]),
            held: number(&seen["held"]),
            owed: number(&seen["owed"]),
        }
    }

    /// Takes a posting in, or out again: `sign` is 1 or -1.
    fn post(&mut self, posting: &Posting, sign: i64) {
        let amount = posting.amount * sign;
        match posting.account {
            Account::Available(_) => self.available += amount,
            Account::Locked(_) => self.locked += amount,
            Account::Held(_) => self.held += amount,
            Account::Arrears => self.owed -= amount,
            Account::Issued(_) | Account::Lapsed | Account::Payable(_) | Account::Platform => {}
        }
    }

    fn balance(&self) -> i64 {
        self.available + self.locked + self.held - self.owed
    }
}

fn telling(name: &'static str, data: Value) -> Telling {
    Telling::new(name, Audience::Tenant, data).needs(READ)
}

/// Tells what a wallet's event means.
pub fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = WalletEvent::decode(&header.event, header.event_version, source.payload);
    let Ok(event) = event else { return Vec::new() };
    let (id, seq, system) = (source.id().to_owned(), header.seq, source.system);
    let known = source.kept::<Figures>().get(&id).copied();
    let before = known.filter(|figures| figures.seq + 1 == seq).map(Ok);
    let before = before.unwrap_or_else(|| Figures::at(system, &header.stream, seq - 1));
    let before = match before {
        Ok(before) => before,
        Err(reason) => {
            tracing::warn!(id, seq, reason, "the balance of a wallet could not be told");
            return of_hold(&event).or_else(|| of_limit(&event)).into_iter().collect();
        }
    };
    let mut after = Figures { seq, ..before };
    event.postings().iter().for_each(|posting| after.post(posting, 1));
    source.kept::<Figures>().insert(id, after);
    let told = of_hold(&event).or_else(|| of_limit(&event));
    let mut tellings: Vec<_> = told.into_iter().collect();
    if event.postings().is_empty() {
        return tellings;
    }
    let balance = json!({"balance": after.balance(), "available": after.available,
        "held": after.held, "locked": after.locked, "owed": after.owed,
        "change": after.balance() - before.balance()});
    tellings.push(telling("wallet.changed", balance).latest_only());
    if before.available >= LOW_CREDITS && after.available < LOW_CREDITS {
        let low = json!({"available": after.available, "below": LOW_CREDITS});
        tellings.push(telling("wallet.low", low));
    }
    tellings
}

fn of_hold(event: &WalletEvent) -> Option<Telling> {
    let sum = |wanted: fn(&Account) -> bool| -> i64 {
        let wanted = event.postings().iter().filter(|posting| wanted(&posting.account));
        wanted.map(|posting| posting.amount).sum()
    };
    let held = sum(|account| matches!(account, Account::Held(_)));
    let earned = sum(|account| matches!(account, Account::Payable(_) | Account::Platform));
    let ended = |hold, end: End| {
        let name = match end {
            End::Captured | End::Settled => "hold.captured",
            End::Released => "hold.released",
            End::Expired => "hold.expired",
        };
        telling(name, json!({"hold_id": hold, "captured": earned, "ended_as": end}))
    };
    match event {
        WalletEvent::HoldPlaced(placed) => {
            let data = json!({"hold_id": placed.id, "amount": held, "call_id": placed.call,
                "expires_at": rfc3339(placed.expires_at)});
            Some(telling("hold.placed", data))
        }
        WalletEvent::HoldDrawn(drawn) if drawn.ended => Some(ended(drawn.hold, End::Settled)),
        WalletEvent::HoldEnded(it) => Some(ended(it.hold, it.end)),
        _ => None,
    }
}

fn of_limit(event: &WalletEvent) -> Option<Telling> {
    let of = |subject: &Subject, window: Window| {
        json!({"limit": format!("{subject}/{window}"), "subject": subject.to_string(),
            "window": window})
    };
    let (name, mut data) = match event {
        WalletEvent::LimitSet(it) => ("wallet.limit_set", of(&it.subject, it.window)),
        WalletEvent::LimitRemoved(it) => ("wallet.limit_removed", of(&it.subject, it.window)),
        WalletEvent::LimitWarned(it) => ("wallet.limit_warning", of(&it.subject, it.window)),
        _ => return None,
    };
    match event {
        WalletEvent::LimitSet(set) => data["amount"] = json!(set.amount),
        WalletEvent::LimitWarned(warned) => {
            data["amount"] = json!(warned.amount);
            data["used"] = json!(warned.used);
            data["percent"] = json!(warned.percent);
            data["resets_at"] = json!(warned.ends.map(rfc3339));
        }
        _ => {}
    }
    Some(telling(name, data))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use activity::feed::{Feed, Opening, Reader, Standing, Tellers, View};
    use persistence::{EngineKind, Journal, MasterKey, Options};
    use supervision::{SystemOptions, Timestamp};
    use types::{Amount, Caller, GrantId, HoldId, TenantId, TransactionId};

    use super::*;
    use crate::wallet::{
        Actions, Debit, Grant, Kind, PlaceHold, Reason, Release, Spender, wallet_address,
    };

    const TENANT: TenantId = TenantId(7);

    struct Always;

    impl Standing for Always {
        fn ended(&self, _: Timestamp) -> Option<&'static str> {
            None
        }

        fn until(&self) -> Option<Timestamp> {
            None
        }
    }

    fn read(feed: &Arc<Feed>, system: &Arc<System>, last_id: &str) -> Reader {
        let last_id = Some(last_id.to_owned());
        let view = View::of(&Caller::system(TENANT));
        let opening = Opening { view, last_id, standing: Box::new(Always) };
        feed.subscribe(system, TENANT, opening).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// The data of the events up to the one of a record, by name.
    async fn upto(reader: &mut Reader, id: u64) -> Vec<(String, Value)> {
        let mut seen = Vec::new();
        loop {
            let text = String::from_utf8(reader.next().await.unwrap().to_vec()).unwrap();
            for block in text.split_terminator("\n\n").filter(|block| block.contains("data:")) {
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned()
                };
                let data = serde_json::from_str(&field("data: ")).unwrap();
                seen.push((field("event: "), data));
                if field("id: ") == id.to_string() {
                    return seen;
                }
            }
        }
    }

    fn spend(system: &System, amount: i64) -> Debit {
        Debit {
            id: TransactionId(system.new_id()),
            amount: Amount::new(amount).unwrap(),
            reason: Reason::Action,
            spender: Spender::default(),
            description: None,
        }
    }

    #[tokio::test]
    async fn the_balance_is_the_same_wherever_one_begins_to_read() {
        let options = Options { engine: EngineKind::Memory, ..Options::new("") };
        let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
        let feed = Feed::new(Tellers::default().with(Wallet::KIND, tell));
        feed.attach(&journal, || 0);
        let builder = System::builder(SystemOptions::new(journal)).kind::<Wallet>();
        let system = builder.start();
        let (wallets, at, origin) =
            (system.directory::<Wallet>(), wallet_address(TENANT), system.system_origin());
        let (amount, id) = (Amount::new(500).unwrap(), GrantId(system.new_id()));
        let grant = Grant::new(id, TENANT, amount, Kind::Paid, Reason::Topup);
        wallets.ask(&at, grant, origin.clone()).await.unwrap();
        let hold = HoldId(system.new_id());
        let (amount, ttl_ms) = (Amount::new(40).unwrap(), 60_000);
        let place = PlaceHold {
            id: hold,
            amount,
            ttl_ms,
            reason: String::new(),
            call: None,
            spender: Spender::default(),
            actions: Actions::default(),
        };
        wallets.ask(&at, place, origin.clone()).await.unwrap();
        wallets.ask(&at, spend(&system, 390), origin.clone()).await.unwrap();
        wallets.ask(&at, Release { hold, call: None }, origin.clone()).await.unwrap();
        wallets.ask(&at, spend(&system, 15), origin.clone()).await.unwrap();
        let head = system.journal().chain_head(types::home_of(TENANT)).unwrap().chain_seq;

        let all = upto(&mut read(&feed, &system, "0"), head).await;
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "wallet.changed",
            "hold.placed",
            "wallet.changed",
            "wallet.changed",
            "wallet.low",
            "hold.released",
            "wallet.changed",
            "wallet.changed",
            "wallet.low",
        ];
        assert_eq!(names, expected);
        let figures = |(_, data): &(String, Value)| {
            ["balance", "available", "held", "change"].map(|name| data[name].as_i64().unwrap())
        };
        let changed = all.iter().filter(|(name, _)| name == "wallet.changed").map(figures);
        let expected = [
            [500, 500, 0, 500],
            [500, 460, 40, 0],
            [110, 70, 40, -390],
            [110, 110, 0, 0],
            [95, 95, 0, -15],
        ];
        assert_eq!(changed.collect::<Vec<_>>(), expected);
        for from in 1..head {
            let some = upto(&mut read(&feed, &system, &from.to_string()), head).await;
            assert_eq!(some[..], all[all.len() - some.len()..], "from {from}");
        }
        let now = wallets.look(&at, origin, |wallet| wallet.balance(Timestamp(0))).await.unwrap();
        assert_eq!((now.balance, now.available), (95, 95));
    }
}
