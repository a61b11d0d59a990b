//! What belongs to another tenant does not exist: the answer is the one for an id of nobody's.

use hyper::Method;
use journeys::{Api, Server, User, text};
use serde_json::{Value, json};

/// The refusal without what names the request itself.
async fn refusal(api: &Api, user: &User, method: &Method, path: &str, body: &Value) -> String {
    let call = api.request(method.clone(), path).as_user(user);
    let call = if *method == Method::GET { call } else { call.json(body.to_string()) };
    let mut problem = call.send().await.problem(404, "not_found");
    let object = problem.as_object_mut().unwrap();
    object.remove("instance");
    object.remove("trace_id");
    problem.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_things_are_not_there() {
    let server = Server::start().await;
    let api = &server.api;
    let (owner, stranger) = (api.user("ada").await, api.user("bob").await);
    api.shelf(&owner, "shelf").await;
    let body = json!({"amount": 5, "ttl_seconds": 60, "reason": "mine"});
    let placed = api.post("/v1/billing/holds", &body).as_user(&owner).send().await;
    let hold = text(&placed.ok(201)["id"]);
    let trace = placed.headers["x-request-id"].to_str().unwrap().to_owned();
    let developer = json!({"nickname": "bob-the-other"});
    api.post("/v1/developer/register", &developer).as_user(&stranger).send().await.ok(200);

    // The random ids are of the same form: the owner's with other digits.
    let other = |id: &str| {
        let (start, end) = id.split_at(id.len() - 6);
        format!("{start}{}", if end == "222222" { "333333" } else { "222222" })
    };
    let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
    let call = json!({"function": "books", "params": {}});
    let batch = json!({"calls": [call]});
    let cases = [
        (&post, "/v1/billing/holds/{}/capture", hold.as_str(), json!({})),
        (&post, "/v1/billing/holds/{}/release", &hold, json!({})),
        (&post, "/v1/extensions/{}/call", "shelf", call),
        (&post, "/v1/extensions/{}/batch", "shelf", batch.clone()),
        (&post, "/v1/extensions/{}/quote", "shelf", batch),
        (&get, "/v1/developer/apps/{}", "shelf", json!({})),
        (&put, "/v1/developer/apps/{}", "shelf", json!({"display_name": "Mine now"})),
        (&post, "/v1/developer/apps/{}/submit", "shelf", json!({})),
        (&get, "/v1/developer/apps/{}/deploys", "shelf", json!({})),
        (&get, "/v1/actions/{}", &trace, json!({})),
    ];
    for (method, path, id, body) in &cases {
        let nobodys = if *id == "shelf" { "shelv".to_owned() } else { other(id) };
        let at = |id: &str| path.replace("{}", id);
        let theirs = refusal(api, &stranger, method, &at(id), body).await;
        let nothing = refusal(api, &stranger, method, &at(&nobodys), body).await;
        assert_eq!(theirs, nothing, "{method} {path}");
    }
    // Another tenant's or user's name is not a way in either.
    let call = json!({"function": "books", "tenant_id": owner.id, "user_id": owner.id});
    let named = api.post("/v1/extensions/shelf/call", &call).as_user(&stranger).send().await;
    named.problem(403, "forbidden");
    let apps = api.get("/v1/developer/apps").as_user(&stranger).send().await.ok(200);
    assert_eq!(apps, json!([]));
    let actions = api.get("/v1/actions?per_page=200").as_user(&stranger).send().await.ok(200);
    assert!(!actions.to_string().contains(&hold) && !actions.to_string().contains(&owner.id));
    // And the owner still has everything.
    let holds = api.get("/v1/billing/holds").as_user(&owner).send().await.ok(200);
    assert_eq!(holds[0]["id"], hold);
    api.get(&format!("/v1/actions/{trace}")).as_user(&owner).send().await.ok(200);
    server.stop().await;
}
