//! Indexes beside calls: whatever is written while they come, go and come again, a `where` finds
//! what it would have found without them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use persistence::RowRange;

use super::*;
use crate::session::indexes::{INDEX_FAMILY, INDEX_SET_FAMILY, Indexes};

/// Documents at the beginning: several steps of building.
const DOCUMENTS: u64 = 700;
/// Values of the indexed field.
const TAGS: u64 = 7;

fn app(version: &str, indexes: &[&str]) -> Value {
    let step = |op: &str, args: Value| {
        let step = json!({"id": "only", "op": op, "args": args});
        json!({"kind": "declarative", "steps": [step]})
    };
    let data = json!({"n": "{{args.n}}", "meta": {"tag": "{{args.tag}}"}});
    let tagged = json!({"meta.tag": "{{args.tag}}"});
    let found = json!({"meta.tag": "{{args.tag}}", "n": {"gt": "{{args.above}}"}});
    let functions = json!([
        {"name": "add", "params_schema": {}, "impl": step("store.create",
            json!({"kind": "book", "data": data}))},
        {"name": "found", "params_schema": {}, "impl": step("store.list",
            json!({"kind": "book", "where": tagged, "limit": 10_000}))},
        {"name": "numbered", "params_schema": {}, "impl": step("store.list",
            json!({"kind": "book", "where": {"n": "{{args.n}}"}, "limit": 10}))},
        {"name": "above", "params_schema": {}, "impl": step("store.list",
            json!({"kind": "book", "where": found, "limit": 10_000}))},
        {"name": "retag", "params_schema": {}, "impl": step("store.update",
            json!({"kind": "book", "where": tagged, "set": {"meta": {"tag": "{{args.to}}"}}}))},
        {"name": "drop", "params_schema": {}, "action_type": "destructive",
            "impl": step("store.delete", json!({"kind": "book", "where": {"n": "{{args.n}}"}}))},
    ]);
    json!({"ir_version": "1.0", "app": {"id": "shelf", "version": version, "title": "Shelf",
        "data": {"kinds": {"book": {"indexes": indexes}}}, "functions": functions}})
}

impl World {
    async fn deploy(&self, version: &str, indexes: &[&str]) {
        let id = AppId::new("shelf").unwrap();
        let ir = JsonBytes::from(app(version, indexes));
        let mut digest = [0; 32];
        digest[..version.len()].copy_from_slice(version.as_bytes());
        let deploy = Deploy { version: version.to_owned(), ir, digest, dev_mode: true };
        let address = Apps::locate(&self.system, &id).unwrap();
        self.system.directory::<App>().ask(&address, deploy, origin()).await.unwrap();
        self.extensions.apps().forget(&id);
    }

    fn indexes(&self) -> Indexes {
        let shard = types::owner_of_tenant(HOME).shard();
        let row = self.system.row(shard, INDEX_SET_FAMILY, &scope().index_set_key());
        row.map(|row| Indexes::decode(&row)).unwrap_or_default()
    }

    fn index_rows(&self) -> usize {
        let shard = types::owner_of_tenant(HOME).shard();
        let prefix = scope().index_set_key();
        let range = RowRange {
            shard,
            family: INDEX_FAMILY,
            prefix,
            after: None,
            newest_first: false,
            limit: 1_000_000,
        };
        self.system.rows(&range).len()
    }

    /// Waits for what is done behind the calls.
    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes to be so");
    }

    async fn many(&self, calls: Vec<Call>) -> Vec<CallAnswer> {
        let answers = self.extensions.batch(&self.system, self.request(), calls).await.unwrap();
        for answer in &answers {
            assert!(answer.is_success(), "{answer:?}");
        }
        answers
    }

    async fn add(&self, from: u64, to: u64) {
        let add = |n| call("add", json!({"n": n, "tag": n % TAGS}));
        for start in (from..to).step_by(500) {
            self.many((start..to.min(start + 500)).map(add).collect()).await;
        }
    }
}

/// What each document's tag is, by its number.
type Oracle = BTreeMap<u64, u64>;

async fn compare(world: &World, oracle: &Oracle) {
    for tag in 0..TAGS {
        let found = world.call("found", json!({"tag": tag})).await.unwrap();
        let docs = found.data["docs"].as_array().unwrap().iter();
        let found: Vec<u64> = docs.map(|doc| doc["data"]["n"].as_u64().unwrap()).collect();
        let expected = oracle.iter().filter(|(_, it)| **it == tag).map(|(n, _)| *n);
        assert_eq!(found, expected.collect::<Vec<_>>(), "tag {tag}");
    }
    // A value of another type that counts as equal, and a second test beside the indexed one.
    let above = world.call("above", json!({"tag": 1.0, "above": 100})).await.unwrap();
    let expected = oracle.iter().filter(|(n, tag)| **tag == 1 && **n > 100).count();
    assert_eq!(above.data["count"], expected);
}

/// Writes beside whatever else goes on, the same to the documents and to the oracle.
async fn write(world: &World, oracle: &mut Oracle, rounds: u64) {
    for round in 0..rounds {
        let (from, to) = (round % TAGS, (round * 3 + 1) % TAGS);
        let n = DOCUMENTS + oracle.keys().next_back().copied().unwrap_or_default() % 90_000 + round;
        let gone = *oracle.keys().nth(round as usize * 5 % oracle.len()).unwrap();
        let calls = vec![
            call("add", json!({"n": n, "tag": from})),
            call("retag", json!({"tag": from, "to": to})),
            call("drop", json!({"n": gone})),
        ];
        world.many(calls).await;
        oracle.insert(n, from);
        oracle.values_mut().filter(|tag| **tag == from).for_each(|tag| *tag = to);
        oracle.remove(&gone);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_where_finds_the_same_with_an_index_and_without_while_it_comes_and_goes() {
    let world = world().await;
    world.fill(1_000_000).await;
    world.deploy("2.0.0", &[]).await;
    world.add(0, DOCUMENTS).await;
    let mut oracle: Oracle = (0..DOCUMENTS).map(|n| (n, n % TAGS)).collect();
    compare(&world, &oracle).await;
    assert_eq!(world.index_rows(), 0);

    // Written while it is built, and after.
    world.deploy("3.0.0", &["meta.tag", "n"]).await;
    write(&world, &mut oracle, 12).await;
    let is_ready = |world: &World| {
        ["meta.tag", "n"].iter().all(|field| world.indexes().ready("book", field).is_some())
    };
    world.until(is_ready).await;
    compare(&world, &oracle).await;
    write(&world, &mut oracle, 12).await;
    compare(&world, &oracle).await;
    assert_eq!(world.index_rows(), 2 * oracle.len(), "a row for each document and index");

    // Not declared any more: it goes, and writes do not keep it.
    world.deploy("4.0.0", &["n"]).await;
    write(&world, &mut oracle, 3).await;
    let is_gone = |world: &World| world.indexes().ready("book", "meta.tag").is_none();
    world.until(|world| is_gone(world) && world.index_rows() == oracle.len()).await;
    compare(&world, &oracle).await;

    // Declared again: built anew, of what there is now.
    world.deploy("5.0.0", &["n", "meta.tag"]).await;
    write(&world, &mut oracle, 3).await;
    world.until(is_ready).await;
    write(&world, &mut oracle, 3).await;
    compare(&world, &oracle).await;
    assert_eq!(world.index_rows(), 2 * oracle.len());
    world.system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_more_documents_than_may_be_looked_at_an_index_finds_its_own() {
    let world = world().await;
    world.fill(1_000_000).await;
    world.deploy("2.0.0", &[]).await;
    world.add(0, crate::view::EXAMINED_MAX as u64 + 500).await;
    let asked = json!({"n": 7});
    let drop = || world.call("drop", asked.clone());
    let refused = drop().await.unwrap();
    let why = refused.error.unwrap();
    assert!(why.contains("app.data.kinds.book.indexes") && why.contains("index n"), "{why}");
    world.deploy("3.0.0", &["n"]).await;
    assert!(world.call("found", json!({"tag": "none"})).await.is_ok());
    world.add(20_000, 20_001).await;
    world.until(|world| world.indexes().ready("book", "n").is_some()).await;
    assert_eq!(drop().await.unwrap().data["count"], 1);
    assert_eq!(drop().await.unwrap().data["count"], 0);
    world.system.stop().await;
}

/// Tells how long a `where` takes with an index and without, in one run. The documents are few
/// unless `INDEX_DOCUMENTS` says otherwise; without an index at most as many as may be looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_where_by_an_index_is_measured_beside_one_without() {
    let wanted = std::env::var("INDEX_DOCUMENTS").ok().and_then(|text| text.parse().ok());
    let all: u64 = wanted.unwrap_or(2_000);
    let scanned = all.min(crate::view::EXAMINED_MAX as u64);
    let world = world().await;
    world.fill(10_000_000).await;
    world.deploy("2.0.0", &[]).await;
    world.add(0, scanned).await;
    let took = async |among: u64, rounds: u32| {
        let begun = Instant::now();
        for round in 0..rounds {
            let n = u64::from(round) * 7_919 % among;
            let found = world.call("numbered", json!({"n": n})).await.unwrap();
            assert_eq!(found.data["count"], 1, "{found:?}");
        }
        begun.elapsed() / rounds
    };
    let without = took(scanned, 10).await;
    world.deploy("3.0.0", &["n"]).await;
    world.add(scanned, all + 1).await;
    world.until(|world| world.indexes().ready("book", "n").is_some()).await;
    let with = took(all, 100).await;
    let ratio = without.as_secs_f64() / with.as_secs_f64();
    eprintln!(
        "a where among {scanned} documents without an index: {without:?}; among {all} with one: \
         {with:?}; {ratio:.1} times as long"
    );
    world.system.stop().await;
}
