//! Storage as an operator meets it: the engine is a choice for good, and on a disk that is nearly
//! full what was begun can be finished, and nothing new is begun.

use gateway::config::ServeArgs;
use gateway::start::start;
use journeys::{Api, Server, settings, text};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_sled_keeps_what_it_answered_and_its_folder_stays_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let sled = ServeArgs { engine: "sled".to_owned(), ..settings(folder.path()) };
    let running = start(&sled).await.unwrap();
    let api = Api::new(running.address);
    let user = api.user("ada").await;
    let body = json!({"amount": 40, "reason": "for the test"});
    api.post("/v1/billing/debits", &body).as_user(&user).send().await.ok(201);
    let balance = api.balance(&user).await;
    running.stop().await;
    let Err(refused) = start(&settings(folder.path())).await else { panic!("redb took it") };
    let refused = refused.to_string();
    assert!(refused.contains("belongs to the engine sled, not redb"), "{refused}");
    assert!(refused.contains("bailiwick journal copy"), "{refused}");
    let running = start(&sled).await.unwrap();
    assert_eq!(Api::new(running.address).balance(&user).await, balance);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_nearly_full_disk_what_was_begun_is_finished_and_nothing_new_begins() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let hold = |amount: i64| json!({"amount": amount, "ttl_seconds": 600, "reason": "a test"});
    let mut holds = Vec::new();
    for amount in [30, 20] {
        let placed = api.post("/v1/billing/holds", &hold(amount)).as_user(&user).send().await;
        holds.push(text(&placed.ok(201)["id"]));
    }
    let balance = api.balance(&user).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let from = server.folder().to_owned();
    server.running.stop().await;
    std::fs::rename(from, &data).unwrap();

    // More than any disk has: whatever is left is too little.
    let full = ServeArgs { low_space_mib: Some(u32::MAX), ..settings(&data) };
    let running = start(&full).await.unwrap();
    let api = Api::new(running.address);
    let ready = api.get("/readyz").send().await.ok(200);
    assert_eq!(ready["low_space"], true);
    let metrics = api.get("/metrics").send().await.text();
    assert!(metrics.contains("bailiwick_journal_low_space 1"), "{metrics}");
    assert_eq!(api.balance(&user).await, balance);
    let refused = api.post("/v1/billing/holds", &hold(1)).as_user(&user).send().await;
    refused.problem(507, "low_space");
    let debit = json!({"amount": 1, "reason": "for the test"});
    let refused = api.post("/v1/billing/debits", &debit).as_user(&user).send().await;
    refused.problem(507, "low_space");
    let release = format!("/v1/billing/holds/{}/release", holds[0]);
    api.post(&release, &json!({})).as_user(&user).send().await.ok(200);
    let capture = format!("/v1/billing/holds/{}/capture", holds[1]);
    api.post(&capture, &json!({})).as_user(&user).send().await.ok(200);
    let refresh = json!({"refresh_token": user.refresh});
    api.post("/v1/auth/refresh", &refresh).send().await.ok(200);
    running.stop().await;

    let running = start(&settings(&data)).await.unwrap();
    let api = Api::new(running.address);
    assert_eq!(api.get("/readyz").send().await.ok(200)["low_space"], false);
    api.post("/v1/billing/debits", &debit).as_user(&user).send().await.ok(201);
    running.stop().await;
}
