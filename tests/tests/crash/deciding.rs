//! Fifty yeses and ten noes to one card, and a kill among them: after the restart everybody asks
//! again, and there was one execution or none, one charge or none, and no hold is left.

use futures::future::join_all;
use hyper::Method;
use journeys::child::ServerProcess;
use journeys::{Answer, Api, User, WELCOME, text};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Random;

/// What the call costs: the app's price and the platform's fee.
const BOOK: i64 = 3;
/// Decisions of one round; each sixth is a no.
const DECISIONS: usize = 60;
/// After how many answers the kill comes.
const ANSWERS_BEFORE_KILL: (u64, u64) = (0, 30);
const ROUNDS: usize = 3;

async fn ask(api: &Api, user: &User, title: &str) -> String {
    let body = json!({"function": "add_book", "params": {"title": title}});
    let call = api.post("/v1/extensions/shelf/call", &body).as_user(user);
    text(&call.send().await.ok(200)["data"]["confirmation_id"])
}

fn how(number: usize) -> &'static str {
    if number % 6 == 5 { "cancel" } else { "confirm" }
}

async fn decide(api: &Api, user: &User, id: &str, number: usize) -> Result<Answer, String> {
    let path = format!("/v1/confirmations/{id}/{}", how(number));
    let key = format!("{id}-{number}");
    api.post(&path, &json!({})).as_user(user).key(&key).try_send().await
}

/// Logs in again, which a restart does not ask for but a token's life may.
async fn refreshed(api: &Api, user: User) -> User {
    let refresh = json!({"refresh_token": user.refresh});
    let tokens = api.post("/v1/auth/refresh", &refresh).send().await.ok(200);
    let (token, refresh) = (text(&tokens["access_token"]), text(&tokens["refresh_token"]));
    User { token, refresh, ..user }
}

/// All decisions at once, until the process is killed.
async fn storm(process: ServerProcess, api: &Api, user: &User, id: &str, answers: u64) {
    let (sender, mut answered) = mpsc::unbounded_channel();
    let decisions: Vec<_> = (0..DECISIONS)
        .map(|number| {
            let (api, user, id) = (api.clone(), user.clone(), id.to_owned());
            let sender = sender.clone();
            tokio::spawn(async move {
                let answer = decide(&api, &user, &id, number).await;
                let _ = sender.send(answer.is_ok());
            })
        })
        .collect();
    for _ in 0..answers {
        answered.recv().await.unwrap();
    }
    drop(process);
    for decision in decisions {
        decision.await.unwrap();
    }
}

async fn card(api: &Api, user: &User, id: &str) -> Value {
    api.get(&format!("/v1/confirmations/{id}")).as_user(user).send().await.ok(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_decisions_and_a_kill_have_one_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let (process, api) = ServerProcess::start(folder.path(), &[]).await;
    let mut user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let settings = json!({"confirmation_enabled": true}).to_string();
    let patch = api.request(Method::PATCH, "/v1/me/settings").json(settings);
    patch.as_user(&user).send().await.ok(200);
    assert!(process.stop(), "the server did not stop in order");
    let (mut random, mut executed) = (Random::from_environment(), 0);
    for round in 0..ROUNDS {
        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        user = refreshed(&api, user).await;
        let id = ask(&api, &user, &format!("Volume {round}")).await;
        let answers = random.between(ANSWERS_BEFORE_KILL);
        storm(process, &api, &user, &id, answers).await;

        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        user = refreshed(&api, user).await;
        let again = (0..DECISIONS).map(|number| decide(&api, &user, &id, number));
        let again = join_all(again).await;
        let card = card(&api, &user, &id).await;
        let is_done = card["state"] == "executed";
        assert!(is_done || card["state"] == "cancelled", "{card}");
        executed += i64::from(is_done);
        for (number, answer) in again.into_iter().enumerate() {
            let answer = answer.unwrap();
            match (how(number) == "confirm", is_done) {
                (true, true) => assert_eq!(answer.ok(200)["content"], card["content"]),
                (false, false) => assert_eq!(answer.ok(200)["state"], "cancelled"),
                _ => drop(answer.problem(409, "confirmation_decided")),
            }
        }
        assert_eq!(api.settled_balance(&user).await, WELCOME.0 - executed * BOOK);
        let ledger = api.ledger(&user).await;
        let paid = ledger.iter().filter(|line| line["amount"] == -BOOK).count();
        assert_eq!(i64::try_from(paid).unwrap(), executed, "{ledger:?}");
        assert!(process.stop(), "the server did not stop in order");
    }
}
