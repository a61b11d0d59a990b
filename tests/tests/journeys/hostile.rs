//! A storm of calls to hosts that hang, drip, answer garbage and break off, beside an app whose
//! host is well. The invariants: every call is over in time, every hold ends, what failed costs
//! nothing, and the well app's calls all succeed and are paid, each once.
//!
//! How long the well app's calls take beside the others is told and held against a wide bound; the
//! narrow one is for the scenario `hostile-hosts` of the load generator, on a machine of its own.

use std::time::{Duration, Instant};

use futures::future::join_all;
use journeys::{Server, User};
use serde_json::{Value, json};

use super::hosts::{COST, HOST_TIME, app, call, host, server};

/// Calls of one hostile app at once: more than it has places.
const AT_ONCE: usize = 24;
/// Rounds of them.
const ROUNDS: usize = 2;
/// Calls of the well app in each part.
const WELL_CALLS: usize = 60;

/// For what is not the host's time: this machine may be busy.
const SLACK: Duration = Duration::from_secs(8);

async fn well_calls(server: &Server, user: &User) -> Vec<Duration> {
    let mut took = Vec::with_capacity(WELL_CALLS);
    for number in 0..WELL_CALLS {
        let begun = Instant::now();
        let answer = call(server, user, "well", "echo", json!({"say": number})).await;
        assert_eq!(answer["data"]["said"], number, "{answer}");
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took
}

async fn press(server: &Server, user: &User, app: &str, mood: &str) -> Vec<Value> {
    let mut answers = Vec::new();
    for _ in 0..ROUNDS {
        let calls = (0..AT_ONCE).map(|_| async {
            let begun = Instant::now();
            let body = json!({"function": "echo", "params": {"mood": mood}});
            let path = format!("/v1/extensions/{app}/call");
            let sent = server.api.post(&path, &body).as_user(user).send().await;
            // Once its circuit is open, its calls are refused before anything is held.
            let status = if sent.status == 503 { 503 } else { 200 };
            let answer = sent.ok(status);
            // It waits for a place at most as long as those before it are given.
            let most = HOST_TIME * 2 + SLACK;
            assert!(begun.elapsed() < most, "{mood} took {:?}", begun.elapsed());
            answer
        });
        answers.extend(join_all(calls).await);
    }
    answers
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_hosts_cost_nothing_and_leave_a_well_app_alone() {
    let server = server().await;
    let operator = server.api.operator().await;
    let (url, _gets) = host().await;
    let well = server.api.user("well").await;
    server.api.grant(&operator, &well.id, 10_000).await;
    app(&server, &well, "well", &url).await;
    let moods = ["hangs", "drips", "garbage", "resets"];
    let mut owners = Vec::new();
    for mood in moods {
        let owner = server.api.user(mood).await;
        server.api.grant(&operator, &owner.id, 10_000).await;
        app(&server, &owner, &format!("app-{mood}"), &url).await;
        let before = server.api.balance(&owner).await;
        owners.push((mood, owner, before));
    }
    let before = server.api.balance(&well).await;
    let quiet = well_calls(&server, &well).await;
    let pressing = join_all(owners.iter().map(|(mood, owner, _)| {
        let (server, app) = (&server, format!("app-{mood}"));
        async move { press(server, owner, &app, mood).await }
    }));
    let (answers, beside) = tokio::join!(pressing, well_calls(&server, &well));
    for answer in answers.iter().flatten() {
        let is_refused = answer["error"] == "app_unavailable";
        assert!(is_refused || answer["status"] == "error", "{answer}");
    }
    assert_eq!(answers.iter().flatten().count(), moods.len() * ROUNDS * AT_ONCE);
    // Waits until no hold of a call is open.
    for (mood, owner, before) in &owners {
        assert_eq!(server.api.settled_balance(owner).await, *before, "{mood} was charged");
    }
    let paid = COST * 2 * WELL_CALLS as i64;
    assert_eq!(server.api.settled_balance(&well).await, before - paid);
    let (quiet, beside) = (p99(&quiet), p99(&beside));
    eprintln!("the well app's p99: {quiet:?} alone, {beside:?} beside hostile ones");
    assert!(beside < HOST_TIME, "the well app waited for the others: {beside:?}");
    let verified = server.api.get("/v1/actions/verify").as_user(&well).send().await.ok(200);
    assert_eq!(verified["verified"], true, "{verified}");
    server.stop().await;
}
