//! An index that is being built when the server dies: whatever it has by then, a `where` finds what
//! there is, and the next calls bring it to its end.

use std::time::Instant;

use journeys::{Answer, Api};
use serde_json::{Value, json};

use super::{Calls, Flow, RECOVERED_WITHIN, World, run_on, serve_template};

/// Documents that there are before: several steps of building.
const DOCUMENTS: u64 = 600;
/// Documents of one batch.
const BATCH: u64 = 200;
/// Numbers that are looked for, of both ends and around the ends of steps.
const LOOKED_FOR: [u64; 6] = [0, 255, 256, 511, 512, DOCUMENTS - 1];

fn document(version: &str, indexes: &[&str]) -> Value {
    let step = |op: &str, args: Value| {
        let step = json!({"id": "only", "op": op, "args": args});
        json!({"kind": "declarative", "steps": [step]})
    };
    let add = json!({"kind": "book", "data": {"n": "{{args.n}}"}});
    let found = json!({"kind": "book", "where": {"n": "{{args.n}}"}, "limit": 10});
    json!({"ir_version": "1.0", "app": {"id": "index", "version": version, "title": "Index",
        "data": {"kinds": {"book": {"indexes": indexes}}},
        "functions": [
            {"name": "add", "action_type": "write", "params_schema": {},
                "impl": step("store.create", add)},
            {"name": "found", "action_type": "read", "params_schema": {},
                "impl": step("store.list", found)}]}})
}

struct Building;

async fn call(api: &Api, world: &World, function: &str, n: u64) -> Result<Answer, String> {
    let body = json!({"function": function, "params": {"n": n}});
    let call = api.post("/v1/extensions/index/call", &body).as_user(&world.ada);
    call.key(&format!("{function}-{n}")).try_send().await
}

/// How many documents have a number.
async fn count(api: &Api, world: &World, n: u64) -> Result<Value, String> {
    let body = json!({"function": "found", "params": {"n": n}});
    let call = api.post("/v1/extensions/index/call", &body).as_user(&world.ada);
    Ok(call.try_send().await?.ok(200)["data"]["count"].clone())
}

/// How the indexes of the session stand: fields and stages.
async fn stages(api: &Api, world: &World) -> Result<Value, String> {
    let bare = world.ada.id.rsplit('_').next().unwrap();
    let path = format!("/v1/operator/actors/extension_session/{bare}.{bare}.index");
    let page = api.get(&path).as_user(&world.operator).try_send().await?;
    Ok(page.value()["state"]["indexes"].clone())
}

fn ready() -> Value {
    json!([{"kind": "book", "field": "n", "stage": "ready"}])
}

impl Building {
    /// The documents that are looked for before, and the one that was written beside the building.
    async fn compare(api: &Api, world: &World, last: u64) {
        for n in LOOKED_FOR {
            assert_eq!(count(api, world, n).await, Ok(json!(1)), "{n}");
        }
        assert_eq!(count(api, world, DOCUMENTS).await, Ok(json!(last)));
    }
}

impl Flow for Building {
    const NAME: &'static str = "the building of an index";

    async fn send(&self, api: &Api, world: &World) -> Result<Answer, String> {
        let params = json!({"app_id": "index", "ir_dict": document("2.0.0", &["n"])});
        let body = json!({"function": "deploy_ir", "params": params});
        let deploy = api.post("/v1/extensions/developer/call", &body).as_user(&world.ada);
        let deployed = deploy.key("deploy").try_send().await?;
        assert_eq!(deployed.value()["status"], "success", "{}", deployed.text());
        call(api, world, "add", DOCUMENTS).await
    }

    async fn is_over(&self, api: &Api, world: &World) -> Result<bool, String> {
        let is_ready = stages(api, world).await? == ready();
        Ok(is_ready && Calls::holds(api, world).await?.is_empty())
    }

    async fn inspect(&self, api: &Api, world: &World) -> bool {
        let is_there = count(api, world, DOCUMENTS).await == Ok(json!(1));
        Self::compare(api, world, u64::from(is_there)).await;
        is_there
    }

    async fn inspect_done(&self, api: &Api, world: &World) {
        let begun = Instant::now();
        while stages(api, world).await.unwrap() != ready() && begun.elapsed() < RECOVERED_WITHIN {
            tokio::task::yield_now().await;
        }
        assert_eq!(stages(api, world).await, Ok(ready()));
        Self::compare(api, world, 1).await;
        let chain = api.get("/v1/actions/verify").as_user(&world.ada).send().await.ok(200);
        assert_eq!(chain["verified"], true, "{chain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_built_to_its_end_whatever_commit_it_is_killed_after() {
    let world = World::new().await;
    serve_template(&world, async |api| {
        api.grant(&world.operator, &world.ada.id, 10_000).await;
        api.deploy(&world.ada, "index", &document("1.0.0", &[])).await;
        for from in (0..DOCUMENTS).step_by(BATCH as usize) {
            let add = |n| json!({"function": "add", "params": {"n": n}});
            let calls = json!({"calls": (from..from + BATCH).map(add).collect::<Vec<_>>()});
            let batch = api.post("/v1/extensions/index/batch", &calls).as_user(&world.ada);
            let answers = batch.send().await.ok(200);
            let answers = answers.as_array().unwrap();
            assert!(answers.iter().all(|answer| answer["status"] == "success"));
        }
        api.settled_balance(&world.ada).await;
    })
    .await;
    run_on(world, Building).await;
}
