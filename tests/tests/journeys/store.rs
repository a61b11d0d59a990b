//! An app's documents through the service's own routes: the same ones that its functions see.

use hyper::Method;
use journeys::{Call, Server, User};
use serde_json::{Value, json};

fn named(user: &User, mut body: Value) -> Value {
    body["extension_id"] = json!("shelf");
    body["user_id"] = json!(user.id);
    body
}

fn acting(call: Call, user: &User) -> Call {
    let call = call.service().header("x-tenant-id", &user.id);
    call.header("x-acting-user", &user.id).header("x-extension-id", "shelf")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_reads_and_writes_the_documents_of_its_app() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let store = |path: &str| format!("/v1/internal/store{path}");
    let post = |path: &str, body: Value| acting(api.post(&store(path), &named(&user, body)), &user);

    // Made here, seen by the app's functions, and the other way round.
    let body = json!({"collection": "book", "data": {"title": "Emma", "pages": 474}});
    let made = post("", body.clone()).key("k1").send().await;
    assert_eq!(made.headers["etag"], "\"1\"");
    let emma = made.ok(201);
    assert_eq!((&emma["collection"], &emma["data"]["pages"]), (&json!("book"), &json!(474)));
    assert_eq!(
        post("", body).key("k1").send().await.ok(201),
        emma,
        "the same key, the same answer"
    );
    let call = json!({"function": "add_book", "params": {"title": "Sanditon", "pages": 80}});
    let call = api.post("/v1/extensions/shelf/call", &call).as_user(&user).send().await.ok(200);
    let sanditon = call["data"]["id"].as_str().unwrap().to_owned();
    let listed = json!({"function": "books", "params": {}});
    let listed = api.post("/v1/extensions/shelf/call", &listed).as_user(&user).send().await.ok(200);
    assert_eq!(listed["data"]["count"], 2, "{listed}");
    let paid = api.settled_balance(&user).await;

    // By its id, with a user and without.
    let emma = emma["id"].as_str().unwrap().to_owned();
    let at = |id: &str| store(&format!("/book/{id}?extension_id=shelf"));
    let found = acting(api.get(&at(&sanditon)), &user).send().await;
    assert_eq!(found.headers["etag"], "\"1\"");
    assert_eq!(found.ok(200)["data"]["title"], "Sanditon");
    let anyones = api.get(&at(&emma)).service().header("x-tenant-id", &user.id);
    assert_eq!(anyones.send().await.ok(200)["data"]["title"], "Emma");

    // A change depends on the version when it says so.
    let patch = |body: Value| {
        let body = named(&user, body).to_string();
        acting(api.request(Method::PATCH, &store(&format!("/book/{emma}"))).json(body), &user)
    };
    let set = json!({"data": {"pages": 480}, "if_match": "\"1\""});
    let changed = patch(set.clone()).send().await;
    assert_eq!(changed.headers["etag"], "\"2\"");
    assert_eq!(changed.ok(200)["data"], json!({"title": "Emma", "pages": 480}));
    let conflict = patch(set).send().await.problem(409, "version_conflict");
    assert_eq!(conflict["version"], 2);
    let header = patch(json!({"data": {"pages": 481}})).header("if-match", "\"1\"");
    header.send().await.problem(409, "version_conflict");

    // Asked for, counted, in order, page by page.
    let ask = |body: Value| post("/book/query", body);
    let big = ask(json!({"where": {"pages": {"gt": 100}}})).send().await.ok(200);
    assert_eq!(big["items"].as_array().unwrap().len(), 1, "{big}");
    let first = ask(json!({"order_by": "-pages", "limit": 1})).send().await.ok(200);
    assert_eq!(first["items"][0]["id"], emma.as_str());
    let next = json!({"order_by": "-pages", "limit": 1, "cursor": first["next_cursor"]});
    let second = ask(next).send().await.ok(200);
    assert_eq!(second["items"][0]["id"], sanditon.as_str());
    assert!(second["next_cursor"].is_null());
    let counted = post("/book/count", json!({"where": {"title": "Emma"}})).send().await.ok(200);
    assert_eq!(counted["count"], 1);
    let all = acting(api.get(&store("/book/all?extension_id=shelf")), &user).send().await.ok(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 2);

    // Removed, and what is wrong is said.
    let delete = |id: &str| acting(api.request(Method::DELETE, &at(id)), &user);
    delete(&emma).header("if-match", "\"1\"").send().await.problem(409, "version_conflict");
    assert_eq!(delete(&emma).send().await.ok(200)["deleted"], true);
    delete(&emma).send().await.problem(404, "not_found");
    acting(api.get(&at("doc_nonsense")), &user).send().await.problem(404, "not_found");
    ask(json!({"where": {"pages": {"near": 3}}})).send().await.problem(422, "validation_error");
    ask(json!({"limit": 0})).send().await.problem(422, "validation_error");
    ask(json!({"cursor": "x"})).send().await.problem(422, "validation_error");
    patch(json!({"data": {}, "if_match": "x"})).send().await.problem(422, "validation_error");
    api.get(&at(&sanditon)).as_user(&user).send().await.problem(403, "forbidden");

    // It stands in the chain, and costs nothing but the call of the function.
    let actions = api.get("/v1/actions?app_id=shelf&per_page=50").as_user(&user);
    let actions = actions.send().await.ok(200).to_string();
    assert!(actions.contains("store.update") && actions.contains("store.delete"), "{actions}");
    assert_eq!(api.settled_balance(&user).await, paid);
    server.stop().await;
}
