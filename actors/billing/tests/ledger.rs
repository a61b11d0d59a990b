//! The ledger as callers read it, on a whole system: newest first, every line with an id that no
//! other wallet's line has.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::sync::Arc;

use billing::wallet::{Debit, Grant, Kind, Reason, Spender, Wallet, history, wallet_address};
use persistence::{EngineKind, Journal, MasterKey, Options};
use supervision::{System, SystemOptions};
use types::{Amount, GrantId, Page, TenantId, TransactionId};

fn system(folder: &std::path::Path) -> Arc<System> {
    let options = Options { engine: EngineKind::Memory, ..Options::new(folder) };
    let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
    billing::register(System::builder(SystemOptions::new(journal))).start()
}

async fn fill(system: &System, tenant: TenantId, debits: u128) {
    let (wallets, address) = (system.directory::<Wallet>(), wallet_address(tenant));
    let credits = Amount::new(10_000).unwrap();
    let grant = Grant::new(GrantId(1), tenant, credits, Kind::Paid, Reason::Topup);
    wallets.ask(&address, grant, system.system_origin()).await.unwrap();
    for number in 0..debits {
        let (id, amount) = (TransactionId(number + 2), Amount::new(3).unwrap());
        let (reason, spender) = (Reason::Action, Spender::default());
        let debit = Debit { id, amount, reason, description: None, spender };
        wallets.ask(&address, debit, system.system_origin()).await.unwrap();
    }
}

async fn read(system: &System, tenant: TenantId, limit: usize, offset: usize) -> Vec<(u64, i64)> {
    let page = Page { limit, offset };
    let entries = history(system, tenant, page, system.system_origin()).await.unwrap();
    entries.iter().map(|entry| (entry.id, entry.amount)).collect()
}

#[tokio::test]
async fn the_ledger_pages_from_the_newest_line_and_ids_are_unique_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let system = system(folder.path());
    let (one, two) = (TenantId(1), TenantId(2));
    fill(&system, one, 4).await;
    fill(&system, two, 2).await;

    let all = read(&system, one, 50, 0).await;
    assert_eq!(all.iter().map(|line| line.1).collect::<Vec<_>>(), [-3, -3, -3, -3, 10_000]);
    let others = read(&system, two, 50, 0).await;
    assert_eq!(others.len(), 3);
    let mut ids: Vec<_> = all.iter().chain(&others).map(|line| line.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8);

    assert_eq!(read(&system, one, 2, 3).await, all[3..]);
    assert_eq!(read(&system, one, 2, 1).await, all[1..3]);
    assert!(read(&system, one, 2, 5).await.is_empty());
    assert!(read(&system, TenantId(3), 2, 0).await.is_empty());

    // More lines than the first range has numbers for: old ids stay, new ones follow.
    let wallets = system.directory::<Wallet>();
    for number in 100..400u128 {
        let (id, amount) = (TransactionId(number), Amount::new(1).unwrap());
        let (reason, spender) = (Reason::Action, Spender::default());
        let debit = Debit { id, amount, reason, description: None, spender };
        wallets.ask(&wallet_address(one), debit, system.system_origin()).await.unwrap();
    }
    let more = read(&system, one, 400, 0).await;
    assert_eq!(more.len(), 305);
    assert_eq!(more[300..], all);
    let newest_first = more.windows(2).all(|pair| pair[0].0 > pair[1].0);
    assert!(newest_first, "ids grow with time");
    let (low, high) = (more[304].0, more[0].0);
    assert!(others.iter().all(|other| other.0 > low && other.0 < high));
    system.stop().await;
}
