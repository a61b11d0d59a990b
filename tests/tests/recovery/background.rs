//! A task: the call that begins it, its run, its end, the settlement, whichever of them the server
//! dies after.

use journeys::{Answer, Api};
use serde_json::{Value, json};

use super::{Calls, Flow, RECOVERED_WITHIN, World, amounts, run};

/// What it costs: the app's price and the platform's fee.
const TASK: i64 = 5;

/// The app whose function `stock` goes on in the background.
pub(super) fn document() -> Value {
    let step = |op: &str, args: Value| {
        let step = json!({"id": "only", "op": op, "args": args});
        json!({"kind": "declarative", "steps": [step]})
    };
    let put = json!({"kind": "book", "data": {"title": "{{args.title}}"}});
    json!({"ir_version": "1.0", "app": {"id": "press", "version": "1.0.0", "title": "Press",
        "functions": [
            {"name": "stock", "action_type": "write", "background": true, "params_schema": {},
                "impl": step("store.create", put)},
            {"name": "books", "action_type": "read", "params_schema": {},
                "impl": step("store.list", json!({"kind": "book", "limit": 20}))}]}})
}

struct Task;

impl Task {
    async fn all(api: &Api, world: &World) -> Result<Vec<Value>, String> {
        let list = api.get("/v1/tasks?limit=10").as_user(&world.ada).try_send().await?;
        Ok(list.ok(200)["items"].as_array().unwrap().clone())
    }

    async fn payments(api: &Api, world: &World) -> usize {
        let ledger = api.ledger(&world.ada).await;
        amounts(&ledger).filter(|amount| *amount == -TASK).count()
    }
}

impl Flow for Task {
    const NAME: &'static str = "a task";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let body = json!({"function": "stock", "params": {"title": "Emma"}});
        let call = api.post("/v1/extensions/press/call", &body).as_user(&world.ada);
        call.key("task").try_send().await
    }

    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String> {
        let tasks = Self::all(api, world).await?;
        let has_ended = tasks.iter().all(|task| !task["ended_at"].is_null());
        Ok(has_ended && Calls::holds(api, world).await?.is_empty())
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        let tasks = Self::all(api, world).await.unwrap();
        let holds = Calls::holds(api, world).await.unwrap();
        match tasks.as_slice() {
            // Killed before it was there: what was held for it lapses.
            [] => assert_eq!(Self::payments(api, world).await, 0),
            // What ran only here runs again, and ends well.
            [task] => {
                assert_eq!((&task["status"], holds.len()), (&json!("succeeded"), 0), "{task}");
                assert_eq!(task["cost"]["charged"], TASK);
                assert_eq!(Self::payments(api, world).await, 1);
            }
            tasks => panic!("one call began {tasks:?}"),
        }
        !tasks.is_empty()
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        let begun = std::time::Instant::now();
        while Self::payments(api, world).await == 0 && begun.elapsed() < RECOVERED_WITHIN {
            tokio::task::yield_now().await;
        }
        assert_eq!(Self::payments(api, world).await, 1, "it is paid for once");
        assert_eq!(Self::all(api, world).await.unwrap().len(), 1);
        let list = json!({"function": "books"});
        let call = api.post("/v1/extensions/press/call", &list).as_user(&world.ada);
        assert_eq!(call.send().await.ok(200)["data"]["count"], 1, "it is done once");
        let chain = api.get("/v1/actions/verify").as_user(&world.ada).send().await.ok(200);
        assert_eq!(chain["verified"], true, "{chain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_done_and_paid_for_once_whatever_commit_it_is_killed_after() {
    run(Task).await;
}
