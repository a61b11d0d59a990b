//! Automations over HTTP: rules made, set off, held for a person, bounded and forgotten, and what
//! services ask of them.

use std::time::Duration;

use hyper::Method;
use journeys::{Answer, Api, Server, User, text};
use serde_json::{Value, json};

/// How long anything may take to come about.
const LIMIT: Duration = Duration::from_secs(20);

/// A rule that puts a book on the shelf each time that a call of somebody else's is done.
fn on_calls() -> Value {
    json!({"prompt": "File it", "cooldown_seconds": 0, "max_per_hour": 100,
        "trigger_filter": {"event_type": "call.finished"},
        "actions": [step("add_book", json!({"title": "{{event.type}}"}))]})
}

fn step(tool: &str, args: Value) -> Value {
    json!({"app_id": "shelf", "tool": tool, "args": args})
}

async fn make(api: &Api, user: &User, rule: &Value) -> Answer {
    api.post("/v1/automations", rule).as_user(user).send().await
}

async fn made(api: &Api, user: &User, rule: &Value) -> u64 {
    make(api, user, rule).await.ok(200)["id"].as_u64().unwrap()
}

async fn rules(api: &Api, user: &User) -> Vec<Value> {
    let rules = api.get("/v1/automations").as_user(user).send().await.ok(200);
    rules.as_array().unwrap().clone()
}

async fn executions(api: &Api, user: &User, rule: u64) -> Vec<Value> {
    let path = format!("/v1/automations/{rule}/executions");
    let page = api.get(&path).as_user(user).send().await.ok(200);
    page["items"].as_array().unwrap().clone()
}

/// Waits until so many of a rule's executions have ended, and answers them, the newest first.
async fn ended(api: &Api, user: &User, rule: u64, count: usize) -> Vec<Value> {
    let ended = async {
        loop {
            let all = executions(api, user, rule).await;
            if all.iter().filter(|it| !it["ended_at"].is_null()).count() >= count {
                return all;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.unwrap()
}

async fn act(api: &Api, user: &User, rule: u64, what: &str) -> Answer {
    api.post(&format!("/v1/automations/{rule}/{what}"), &json!({})).as_user(user).send().await
}

async fn call(api: &Api, user: &User, function: &str, params: Value) -> Value {
    let body = json!({"function": function, "params": params});
    let answer = api.post("/v1/extensions/shelf/call", &body).as_user(user).send().await.ok(200);
    assert_eq!(answer["status"], "success", "{answer}");
    answer
}

async fn books(api: &Api, user: &User) -> Value {
    call(api, user, "books", json!({})).await["data"]["count"].clone()
}

/// The id of the first card that waits for its user.
async fn waiting(api: &Api, user: &User) -> String {
    let waiting = async {
        loop {
            let active = api.get("/v1/confirmations/active").as_user(user).send().await.ok(200);
            if let Some(card) = active["confirmations"].as_array().unwrap().first() {
                return text(&card["confirmation_id"]);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_made_set_off_paused_and_gone() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    api.shelf(&user, "shelf").await;
    let answer = make(api, &user, &on_calls()).await;
    let rule = answer.ok(200);
    assert_eq!(answer.headers["deprecation"], "@1767225600");
    let keys: Vec<&str> = rule.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "id",
        "user_id",
        "prompt",
        "status",
        "trigger_filter",
        "actions",
        "interpretation",
        "trigger_count",
        "success_count",
        "fail_count",
        "last_error",
        "cooldown_seconds",
        "max_per_hour",
        "max_iterations",
        "last_triggered",
        "created_at",
        "notify_mode",
    ];
    assert_eq!(keys, expected);
    let id = rule["id"].as_u64().unwrap();
    // With a key it is made once.
    let keyed = || api.post("/v1/automations", &on_calls()).as_user(&user).key("k").send();
    assert_eq!(keyed().await.ok(200), keyed().await.ok(200));
    assert_eq!(rules(api, &user).await.len(), 2);
    let other = rules(api, &user).await[1]["id"].as_u64().unwrap();
    let path = format!("/v1/automations/{other}");
    api.request(Method::DELETE, &path).as_user(&user).send().await.ok(200);

    let before = call(api, &user, "add_book", json!({"title": "the first"})).await;
    let done = ended(api, &user, id, 1).await;
    assert_eq!(done[0]["status"], "success", "{done:?}");
    assert_eq!(
        (&done[0]["charged"], &done[0]["steps"][0]["tool"]),
        (&json!(3), &json!("add_book"))
    );
    assert_eq!(done[0]["event"]["data"]["function"], "add_book", "{before}");
    assert_eq!(executions(api, &user, id).await.len(), 1, "its own call has set it off");
    // What it did is among the actions, by the execution's number.
    let actions = api.get("/v1/actions?app_id=automations").as_user(&user).send().await.ok(200);
    assert_eq!(actions["items"][0]["tool_name"], "execute", "{actions}");

    assert_eq!(act(api, &user, id, "pause").await.ok(200)["status"], "paused");
    act(api, &user, id, "run").await.problem(409, "automation_not_active");
    call(api, &user, "add_book", json!({"title": "meanwhile"})).await;
    let resumed = act(api, &user, id, "resume").await.ok(200);
    let expected = json!({"rule_id": id, "status": "active", "trigger_count_reset": false});
    assert_eq!(resumed, expected);
    let run = act(api, &user, id, "run").await.ok(202);
    let done = ended(api, &user, id, 2).await;
    assert_eq!((&done[0]["id"], &done[0]["source"]), (&run["execution_id"], &json!("manual")));
    assert_eq!(done.len(), 2);

    let path = format!("/v1/automations/{id}");
    api.request(Method::DELETE, &path).as_user(&user).send().await.ok(200);
    api.request(Method::DELETE, &path).as_user(&user).send().await.problem(404, "not_found");
    act(api, &user, id, "resume").await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_a_plan_allows_so_many() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let with = |field: &str, value: Value| {
        let mut rule = on_calls();
        rule[field] = value;
        rule
    };
    let unfit = [
        with("prompt", json!("")),
        with("cooldown_seconds", json!(-1)),
        with("max_per_hour", json!(0)),
        with("trigger_filter", json!({"event_type": "a*"})),
        with("trigger_filter", json!({"event_type": "x", "schedule": "every day"})),
        with("trigger_filter", json!({"event_type": "x", "schedule": "0 0 31 2 *"})),
        with(
            "trigger_filter",
            json!({"event_type": "x", "schedule": "0 9 * * *",
            "timezone": "Mars"}),
        ),
        with("actions", json!([{"tool": "add_book"}])),
        with("actions", json!([{"message": "x", "tool": "y"}])),
        with("notify_mode", json!("sometimes")),
    ];
    for rule in unfit {
        make(api, &user, &rule).await.problem(422, "validation_error");
    }
    for _ in 0..5 {
        // A prompt alone is a message that its user sends.
        let rule = make(api, &user, &json!({"prompt": "Say hello"})).await.ok(200);
        assert_eq!(rule["trigger_filter"]["event_type"], "manual");
        assert_eq!(rule["actions"], json!([{"message": "Say hello"}]));
    }
    let over = make(api, &user, &json!({"prompt": "One too many"})).await.ok(429);
    assert_eq!(over["error"], "automation_quota_exceeded");
    let quota = json!({"cap": 5, "used": 5, "remaining": 0, "unlimited": false, "plan": "free"});
    assert_eq!(over["detail"]["error_code"], "AUTOMATION_QUOTA_EXCEEDED");
    assert_eq!(over["detail"]["quota"], quota);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_policy_holds_waits_for_its_user() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    api.shelf(&user, "shelf").await;
    let settings = json!({"confirmation_enabled": true}).to_string();
    let patch = api.request(Method::PATCH, "/v1/me/settings").json(settings);
    patch.as_user(&user).send().await.ok(200);
    let rule = json!({"prompt": "Add it", "cooldown_seconds": 0,
        "actions": [step("add_book", json!({"title": "held"})), {"message": "done"}]});
    let id = made(api, &user, &rule).await;
    act(api, &user, id, "run").await.ok(202);
    let card_id = waiting(api, &user).await;
    assert_eq!(executions(api, &user, id).await[0]["status"], "running");
    // It waits through a restart as well.
    let server = server.restart().await;
    let api = &server.api;
    let path = format!("/v1/confirmations/{card_id}/confirm");
    api.post(&path, &json!({})).as_user(&user).send().await.ok(200);
    let done = ended(api, &user, id, 1).await;
    assert_eq!(done[0]["status"], "success", "{done:?}");
    assert_eq!(done[0]["steps"][0]["confirmation_id"], card_id);
    assert_eq!(done[0]["steps"][1]["note"], "done");
    assert_eq!(books(api, &user).await, json!(1));
    // One that is refused ends its execution.
    act(api, &user, id, "run").await.ok(202);
    let card_id = waiting(api, &user).await;
    let path = format!("/v1/confirmations/{card_id}/cancel");
    api.post(&path, &json!({})).as_user(&user).send().await.ok(200);
    let done = ended(api, &user, id, 2).await;
    assert_eq!(done[0]["steps"][0]["error_code"], "confirmation_declined", "{done:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_make_rules_and_tell_of_what_they_carry_out() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let bob = api.user("bob").await;
    let internal = |path: &str| format!("/v1/automations/internal/{path}");
    let body = json!({"user_id": user.id, "prompt": "Report", "actions": [{"message": "x"}],
        "trigger_filter": {"event_type": "manual", "timezone": "Europe/Berlin"}});
    let rule = api.post(&internal("create"), &body).service().send().await.ok(200);
    let id = rule["id"].as_u64().unwrap();
    assert_eq!(rules(api, &user).await[0]["id"], id);
    let list = |path: &str| api.get(&internal(path)).service();
    let all = list("all").send().await.ok(200);
    assert_eq!((&all[0]["id"], all[0]["tenant_id"].is_string()), (&json!(id), true));
    let zoned = list("all?timezone=Asia/Tokyo").send().await.ok(200);
    assert_eq!(zoned, json!([]));
    let foreign = list("active").header("x-tenant-id", &bob.id).send().await.ok(200);
    assert_eq!(foreign, json!([]));
    let path = internal(&format!("{id}/count"));
    let count = api.get(&path).service().header("x-tenant-id", &bob.id).send().await;
    count.problem(404, "not_found");

    let triggered = |body: Value| api.post(&internal("triggered"), &body).service().send();
    let begun = triggered(json!({"rule_id": id, "execution_id": "run-1"})).await.ok(200);
    let again = triggered(json!({"rule_id": id, "execution_id": "run-1"})).await.ok(200);
    assert_eq!(begun, again);
    let parent = text(&begun["execution_id"]);
    let looped = json!({"rule_id": id, "execution_id": "run-2", "parent_execution_id": parent});
    triggered(looped).await.problem(409, "automation_loop");
    let failed = json!({"rule_id": id, "execution_id": "run-1", "status": "failed",
        "error_text": "no paper"});
    triggered(failed).await.ok(200);
    let over =
        json!({"rule_id": id, "execution_id": "run-3", "timeout_at": "2020-01-01T00:00:00Z"});
    triggered(over).await.ok(200);
    let checked = api.post(&internal("check-timeout"), &json!({})).service().send().await.ok(200);
    assert!(checked["timed_out"].as_u64().unwrap() <= 1);
    let result = internal(&format!("{id}/execution-result"));
    api.post(&result, &json!({"success": true})).service().send().await.ok(200);
    let count = api.get(&path).service().send().await.ok(200);
    let counts = [&count["count"], &count["success_count"], &count["fail_count"]];
    assert_eq!(counts, [&json!(3), &json!(1), &json!(2)]);
    let done = executions(api, &user, id).await;
    let states: Vec<_> = done.iter().map(|it| text(&it["status"])).collect();
    assert_eq!(states, ["success", "timed_out", "failed"]);
    assert_eq!(done[2]["error"], "reported_failure: no paper");

    let change = |body: Value| {
        let path = internal(&id.to_string());
        api.request(Method::PATCH, &path).json(body.to_string()).service().send()
    };
    let changed = change(json!({"max_per_hour": 7, "status": "paused",
        "trigger_filter": {"event_type": "x", "schedule": "0 9 * * *"}}));
    let changed = changed.await.ok(200);
    assert_eq!((&changed["max_per_hour"], &changed["status"]), (&json!(7), &json!("paused")));
    change(json!({"status": "gone"})).await.problem(422, "validation_error");
    assert_eq!(list("active").send().await.ok(200), json!([]));
    let path = internal(&id.to_string());
    api.request(Method::DELETE, &path).service().send().await.ok(200);
    assert!(rules(api, &user).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_tenants_rules_go_on_afterwards_and_after_a_restart() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let operator = api.operator().await;
    api.shelf(&user, "shelf").await;
    let id = made(api, &user, &on_calls()).await;
    let path = format!("/v1/operator/tenants/{}", user.id);
    let reason = json!({"reason": "a look", "reason_class": "security"});
    api.post(&format!("{path}/freeze"), &reason).as_user(&operator).send().await.ok(200);
    let internal = format!("/v1/automations/internal/{id}/count");
    assert_eq!(api.get(&internal).service().send().await.ok(200)["count"], 0);
    api.post(&format!("{path}/resume"), &reason).as_user(&operator).send().await.ok(200);
    call(api, &user, "add_book", json!({"title": "x"})).await;
    ended(api, &user, id, 1).await;
    // The rules are there after a restart, and hear of what happens.
    let server = server.restart().await;
    let api = &server.api;
    call(api, &user, "add_book", json!({"title": "y"})).await;
    let done = ended(api, &user, id, 2).await;
    assert_eq!(done.len(), 2);
    server.stop().await;
}
