//! An event that sets a rule off: the event's own record, the execution, the hold, the step's
//! record, the end, the settlement. Nobody asks for anything after the event.

use journeys::{Answer, Api};
use serde_json::{Value, json};

use super::{Calls, Flow, RECOVERED_WITHIN, World, run};

struct Automating;

impl Automating {
    async fn executions(api: &Api, world: &World) -> Result<Vec<Value>, String> {
        let rules = api.get("/v1/automations").as_user(&world.ada).try_send().await?.ok(200);
        let Some(rule) = rules.as_array().unwrap().first() else { return Ok(Vec::new()) };
        let path = format!("/v1/automations/{}/executions", rule["id"]);
        let page = api.get(&path).as_user(&world.ada).try_send().await?.ok(200);
        Ok(page["items"].as_array().unwrap().clone())
    }

    /// How often a function was called and did what was asked.
    async fn calls(api: &Api, world: &World, function: &str) -> usize {
        let path = "/v1/actions?app_id=shelf&per_page=200";
        let actions = api.get(path).as_user(&world.ada).send().await.ok(200);
        let items = actions["items"].as_array().unwrap();
        items.iter().filter(|it| it["tool_name"] == function && it["status"] == "success").count()
    }

    /// The one execution there is, once it has ended.
    async fn ended(api: &Api, world: &World) -> Value {
        let begun = std::time::Instant::now();
        loop {
            let all = Self::executions(api, world).await.unwrap();
            assert!(all.len() <= 1, "{all:?}");
            match all.into_iter().next().filter(|it| !it["ended_at"].is_null()) {
                Some(execution) => return execution,
                None => assert!(begun.elapsed() < RECOVERED_WITHIN, "nothing was set off"),
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Flow for Automating {
    const NAME: &'static str = "an automation";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let step = json!({"app_id": "shelf", "tool": "add_book", "args": {"title": "Emma"}});
        let rule = json!({"prompt": "Add it", "cooldown_seconds": 0, "actions": [step],
            "trigger_filter": {"event_type": "call.finished"}});
        let make = api.post("/v1/automations", &rule).as_user(&world.ada).key("rule");
        make.try_send().await?.ok(200);
        let body = json!({"function": "books"});
        let call = api.post("/v1/extensions/shelf/call", &body);
        call.as_user(&world.ada).key("event").try_send().await
    }

    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String> {
        let all = Self::executions(api, world).await?;
        let is_over = all.first().is_some_and(|it| !it["ended_at"].is_null());
        Ok(is_over && Calls::holds(api, world).await?.is_empty())
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        let has_happened = Self::calls(api, world, "books").await == 1;
        if has_happened {
            let execution = Self::ended(api, world).await;
            assert_eq!(execution["status"], "success", "{execution}");
            assert_eq!(Self::calls(api, world, "add_book").await, 1);
        } else {
            assert!(Self::executions(api, world).await.unwrap().is_empty());
        }
        has_happened
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        let execution = Self::ended(api, world).await;
        assert_eq!(execution["status"], "success", "{execution}");
        assert_eq!(Self::calls(api, world, "add_book").await, 1, "it is carried out once");
        let chain = api.get("/v1/actions/verify").as_user(&world.ada).send().await.ok(200);
        assert_eq!(chain["verified"], true, "{chain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_sets_off_is_done_once_whatever_commit_it_is_killed_after() {
    run(Automating).await;
}
