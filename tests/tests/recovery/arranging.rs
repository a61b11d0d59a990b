//! A plan that an operator arranges: the period with its credits, the wallet, what it was told.

use journeys::{Answer, Api};
use serde_json::{Value, json};

use super::{Flow, RECOVERED_WITHIN, World, run};

struct Arranging;

/// What the plan brings each month.
const STARTER: i64 = 15_000;

impl Arranging {
    async fn get(api: &Api, world: &World, path: &str) -> Result<Value, String> {
        Ok(api.get(path).as_user(&world.bob).try_send().await?.ok(200))
    }

    /// How often the plan's credits came.
    async fn grants(api: &Api, world: &World) -> usize {
        let ledger = api.ledger(&world.bob).await;
        let is_credit = |line: &&Value| line["reason"] == "plan_credit";
        let credits: Vec<_> = ledger.iter().filter(is_credit).collect();
        assert!(credits.iter().all(|line| line["amount"] == STARTER), "{credits:?}");
        credits.len()
    }
}

impl Flow for Arranging {
    const NAME: &'static str = "a plan that is arranged";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let path = format!("/v1/operator/tenants/{}/plan", world.bob.id);
        let body = json!({"plan_id": "starter"}).to_string();
        let put = api.request(hyper::Method::PUT, &path).json(body).as_user(&world.operator);
        put.key("plan").try_send().await
    }

    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String> {
        let wallet = Self::get(api, world, "/v1/billing/wallet").await?;
        let path = format!("/v1/operator/actors/subscription/{}", world.bob.id);
        let seen = api.get(&path).as_user(&world.operator).try_send().await?.ok(200);
        Ok(wallet["plan"] == "starter" && seen["state"]["grants_waiting"] == 0)
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        let stands = Self::get(api, world, "/v1/billing/subscription").await.unwrap();
        let wallet = Self::get(api, world, "/v1/billing/wallet").await.unwrap();
        assert_eq!(stands["plan"], wallet["plan"], "the wallet knows");
        let is_there = stands["plan"] == "starter";
        assert_eq!(Self::grants(api, world).await, usize::from(is_there));
        is_there
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        let begun = std::time::Instant::now();
        while self.is_over(api, world).await != Ok(true) && begun.elapsed() < RECOVERED_WITHIN {
            tokio::task::yield_now().await;
        }
        assert!(self.inspect(api, world).await);
        let chain = api.get("/v1/actions/verify").as_user(&world.bob).send().await.ok(200);
        assert_eq!(chain["verified"], true, "{chain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_brings_its_credits_once_whatever_commit_it_is_killed_after() {
    run(Arranging).await;
}
