//! A developer's app: tried, deployed, called, called in bulk, paid for, and on record.

use journeys::{Server, shelf_document, text};
use serde_json::{Value, json};

fn add(title: &str) -> Value {
    json!({"function": "add_book", "params": {"title": title}})
}

fn statuses(answers: &Value) -> Vec<&str> {
    answers.as_array().unwrap().iter().map(|answer| answer["status"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_deployed_called_and_paid_for() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let smoke = json!({"ir_dict": shelf_document("shelf"), "function": "add_book",
        "args": {"title": "Emma"}});
    let tried = api.built_in(&user, "smoke_ir", &smoke).await;
    assert_eq!((&tried["status"], &tried["data"]["ok"]), (&json!("success"), &json!(true)));
    api.shelf(&user, "shelf").await;
    let before = api.balance(&user).await;

    let path = "/v1/extensions/shelf/call";
    let added = api.post(path, &add("Emma")).as_user(&user).send().await.ok(200);
    assert_eq!(added["status"], "success", "{added}");
    assert_eq!(api.settled_balance(&user).await, before - 3);
    let list = json!({"function": "books", "params": {}});
    let listed = api.post(path, &list).as_user(&user).send().await.ok(200);
    assert_eq!(listed["data"]["docs"][0]["data"]["title"], "Emma", "{listed}");
    let wrong = json!({"function": "no_such_function"});
    let failed = api.post(path, &wrong).as_user(&user).send().await.ok(200);
    assert_eq!(failed["status"], "error", "{failed}");
    assert_eq!(api.settled_balance(&user).await, before - 5);

    let calls = json!({"calls": [add("Molloy"), wrong, list, add("Ada"), list]});
    let quote = api.post("/v1/extensions/shelf/quote", &calls).as_user(&user).send().await.ok(200);
    assert_eq!(quote["total"], 3 + 2 + 3 + 2);
    let batch = api.post("/v1/extensions/shelf/batch", &calls).as_user(&user).send().await.ok(200);
    assert_eq!(statuses(&batch), ["success", "error", "success", "success", "success"]);
    assert!(batch[1]["error"].is_string(), "{batch}");
    let counts = [&batch[2]["data"]["count"], &batch[4]["data"]["count"]];
    assert_eq!(counts, [&json!(2), &json!(3)], "each call sees what those before it wrote");
    assert_eq!(api.settled_balance(&user).await, before - 5 - 10);
    let sum: i64 =
        api.ledger(&user).await.iter().map(|line| line["amount"].as_i64().unwrap()).sum();
    assert_eq!(sum, before - 15);
    let holds = api.get("/v1/billing/holds").as_user(&user).send().await.ok(200);
    assert_eq!(holds, json!([]), "every call's hold has ended");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_is_on_record() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let call = api.post("/v1/extensions/shelf/call", &add("Emma")).as_user(&user).send().await;
    call.ok(200);
    let trace = call.headers["x-request-id"].to_str().unwrap();
    let path = "/v1/actions?app_id=shelf&per_page=5";
    let actions = api.get(path).as_user(&user).send().await.ok(200);
    let names: Vec<_> = actions["items"].as_array().unwrap().iter().collect();
    assert!(names.iter().any(|item| item["tool_name"] == "add_book"), "{actions}");
    let one = api.get(&format!("/v1/actions/{trace}")).as_user(&user).send().await.ok(200);
    let steps = one["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["tool_name"] == "add_book"), "{one}");
    let price = steps.iter().map(|step| step["price"].as_i64().unwrap()).max();
    assert_eq!(price, Some(3), "{one}");
    let verified = api.get("/v1/actions/verify").as_user(&user).send().await.ok(200);
    assert_eq!(verified["verified"], true, "{verified}");
    assert!(verified["records"].as_u64().unwrap() > 3 && text(&verified["root"]).len() == 64);
    let first = api.get("/v1/actions?per_page=1").as_user(&user).send().await.ok(200);
    let cursor = text(&first["next_cursor"]);
    let next = api.get(&format!("/v1/actions?per_page=1&cursor={cursor}"));
    let next = next.as_user(&user).send().await.ok(200);
    assert_ne!(first["items"], next["items"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_with_a_mistake_is_refused_with_its_place() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let mut unknown = shelf_document("shelf");
    unknown["app"]["functions"][1]["colour"] = json!("red");
    let mut wrong = shelf_document("shelf");
    wrong["app"]["functions"][0]["impl"]["steps"][0]["args"]["kind"] = json!(7);
    let mut op = shelf_document("shelf");
    op["app"]["functions"][0]["impl"]["steps"][0]["op"] = json!("store.burn");
    let places = [
        (unknown, "app.functions[1].colour"),
        (wrong, "app.functions[0].impl.steps[0].args.kind"),
        (op, "app.functions[0].impl.steps[0].op"),
    ];
    for (ir, place) in places {
        let params = json!({"app_id": "shelf", "ir_dict": ir});
        let answer = api.built_in(&user, "deploy_ir", &params).await;
        assert_eq!(answer["status"], "error", "{answer}");
        assert!(text(&answer["error"]).contains(place), "{answer}");
    }
    let foreign = json!({"app_id": "shelf", "ir_dict": shelf_document("other")});
    let answer = api.built_in(&user, "deploy_ir", &foreign).await;
    assert!(text(&answer["error"]).contains("app.id"), "{answer}");
    server.stop().await;
}
