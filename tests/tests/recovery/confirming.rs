//! A call that waits for its user and is confirmed: settings, the hold, the card, the decision, the
//! run, what came of it, the settlement.

use journeys::{Answer, Api};
use serde_json::{Value, json};

use super::{Calls, Flow, World, amounts, run};

struct Confirming;

/// What it costs: the app's price and the platform's fee.
const BOOK: i64 = 3;

impl Confirming {
    async fn payments(api: &Api, world: &World) -> usize {
        let ledger = api.ledger(&world.ada).await;
        amounts(&ledger).filter(|amount| *amount == -BOOK).count()
    }

    async fn books(api: &Api, world: &World) -> Value {
        let list = json!({"function": "books"});
        let call = api.post("/v1/extensions/shelf/call", &list).as_user(&world.ada);
        call.send().await.ok(200)["data"]["count"].clone()
    }
}

impl Flow for Confirming {
    const NAME: &'static str = "a confirmation";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let settings = json!({"confirmation_enabled": true}).to_string();
        let patch = api.request(hyper::Method::PATCH, "/v1/me/settings").json(settings);
        patch.as_user(&world.ada).try_send().await?;
        let body = json!({"function": "add_book", "params": {"title": "Emma"}});
        let call = api.post("/v1/extensions/shelf/call", &body).as_user(&world.ada).key("waits");
        let asked = call.try_send().await?.value();
        assert_eq!(asked["data"]["RESULT"], "INTERCEPTED", "{asked}");
        let id = asked["data"]["confirmation_id"].as_str().unwrap();
        let path = format!("/v1/confirmations/{id}/confirm");
        let confirm = api.post(&path, &json!({})).as_user(&world.ada).key("confirm");
        let answer = confirm.try_send().await?;
        assert_eq!(answer.value()["state"], "executed", "{}", answer.text());
        Ok(answer)
    }

    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String> {
        Ok(Calls::holds(api, world).await?.is_empty())
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        let payments = Self::payments(api, world).await;
        // What was held before its card was there lapses; else one hold, or none.
        let holds = Calls::holds(api, world).await.unwrap();
        assert!(payments + holds.len() <= 1, "{payments} payments, open holds: {holds:?}");
        payments == 1
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        let begun = std::time::Instant::now();
        while Self::payments(api, world).await == 0 && begun.elapsed() < super::RECOVERED_WITHIN {
            tokio::task::yield_now().await;
        }
        assert_eq!(Self::payments(api, world).await, 1, "it is paid for once");
        assert_eq!(Self::books(api, world).await, 1, "it is carried out once");
        let chain = api.get("/v1/actions/verify").as_user(&world.ada).send().await.ok(200);
        assert_eq!(chain["verified"], true, "{chain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_is_done_once_whatever_commit_it_is_killed_after() {
    run(Confirming).await;
}
