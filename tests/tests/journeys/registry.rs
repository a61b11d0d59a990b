//! The registry: an app from its registration to its end, by `/v1/apps` and by the older routes,
//! with keys that are made there.

use hyper::Method;
use journeys::{Api, Server, User, text};
use serde_json::{Value, json};

async fn developer(api: &Api, name: &str) -> User {
    let user = api.user(name).await;
    let body = json!({"nickname": format!("n-{name}")});
    api.post("/v1/developer/register", &body).as_user(&user).send().await.ok(200);
    user
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_registered_described_changed_and_given_up() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (developer(api, "ada").await, developer(api, "bob").await);
    let body = json!({"app_id": "notes", "display_name": "Notes", "owner_id": ada.id,
        "config": {"region": "eu"}});
    let made = api.post("/v1/apps", &body).as_user(&ada).send().await.ok(201);
    assert_eq!(made["namespace"], "app-notes");
    assert_eq!((&made["status"], &made["owner_id"]), (&json!("provisioning"), &json!(ada.id)));
    assert_eq!(made["config"], json!({"region": "eu"}));
    let body = json!({"app_id": "notes", "display_name": "Mine", "owner_id": bob.id});
    api.post("/v1/apps", &body).as_user(&bob).send().await.problem(409, "app_id_taken");
    let body = json!({"app_id": "other", "display_name": "Mine", "owner_id": ada.id});
    api.post("/v1/apps", &body).as_user(&bob).send().await.problem(403, "forbidden");

    let get = async |path: &str| api.get(path).as_user(&ada).send().await.ok(200);
    assert_eq!(get("/v1/apps").await, json!({"apps": [], "total": 0}), "none is active");
    assert_eq!(get("/v1/apps?status=provisioning").await["apps"][0]["app_id"], "notes");
    let change = |method: Method, body: Value| {
        api.request(method, "/v1/apps/notes").json(body.to_string()).as_user(&ada).send()
    };
    let renamed = change(Method::PUT, json!({"display_name": "My notes"})).await.ok(200);
    assert_eq!(
        (&renamed["display_name"], &renamed["config"]["region"]),
        (&json!("My notes"), &json!("eu"))
    );
    let changed = change(Method::PATCH, json!({"config": {}})).await.ok(200);
    assert_eq!((&changed["display_name"], &changed["config"]), (&json!("My notes"), &json!({})));
    change(Method::PATCH, json!({"status": "active"})).await.problem(409, "needs_review");
    change(Method::PATCH, json!({"status": "gone"})).await.problem(422, "validation_error");

    let put = |path: &str, body: Value| {
        api.request(Method::PUT, path).json(body.to_string()).as_user(&ada).send()
    };
    let tools = json!({"tools": [{"name": "add", "domain": "notes"}],
        "skeleton_sections": [{"section_name": "recent"}], "version": "1.2.0"});
    let put_tools = put("/v1/apps/notes/tools", tools).await.ok(200);
    assert_eq!((&put_tools["tools_count"], &put_tools["domains"]), (&json!(1), &json!(["notes"])));
    let tools = get("/v1/apps/notes/tools").await;
    assert_eq!((&tools["tools"][0]["name"], &tools["version"]), (&json!("add"), &json!("1.2.0")));
    let merged =
        put("/v1/apps/notes/settings", json!({"general": {"name": "N", "icon": "i"}})).await;
    assert_eq!(merged.ok(200)["updated_sections"], json!(["general"]));
    put("/v1/apps/notes/settings", json!({"general": {"icon": null}})).await.ok(200);
    let settings = get("/v1/apps/notes/settings").await;
    assert_eq!((&settings["general"], &settings["models"]), (&json!({"name": "N"}), &json!({})));

    for path in
        ["/v1/apps/notes", "/v1/apps/notes/tools", "/v1/apps/notes/settings", "/extensions/notes"]
    {
        api.get(path).as_user(&bob).send().await.problem(404, "not_found");
    }
    let gone = api.request(Method::DELETE, "/v1/apps/notes").as_user(&ada).send().await.ok(200);
    assert_eq!(gone["status"], "deleted");
    api.get("/v1/apps/notes").as_user(&ada).send().await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_an_app_is_good_for_the_registry_alone_and_only_once_shown() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = developer(api, "ada").await;
    let body = json!({"app_id": "notes", "display_name": "Notes", "owner_id": ada.id});
    api.post("/v1/apps", &body).as_user(&ada).send().await.ok(201);
    let make = async |scope: Value| {
        api.post("/v1/apps/notes/keys", &scope).as_user(&ada).send().await.ok(201)
    };
    let (full, readonly) = (make(json!({})).await, make(json!({"scope": "readonly"})).await);
    assert_eq!((&full["scope"], &readonly["scope"]), (&json!("full"), &json!("readonly")));
    let as_key = |method: Method, path: &str, key: &Value| {
        api.request(method, path).header("x-api-key", &text(&key["api_key"]))
    };
    for key in [&full, &readonly] {
        as_key(Method::GET, "/v1/apps/notes", key).send().await.ok(200);
        as_key(Method::GET, "/v1/catalog", key).send().await.ok(200);
        let bearer = text(&key["api_key"]);
        api.get("/v1/billing/balance").bearer(&bearer).send().await.problem(403, "scope_missing");
    }
    let put = |key| as_key(Method::PUT, "/v1/apps/notes/tools", key).json("{\"tools\": []}").send();
    put(&full).await.ok(200);
    put(&readonly).await.problem(403, "scope_missing");
    let list = api.get("/v1/apps/notes/keys").as_user(&ada).send().await.ok(200);
    assert_eq!(list["total"], 2);
    assert!(!list.to_string().contains(&text(&full["api_key"])));
    let path = format!("/v1/apps/notes/keys/{}", text(&full["key_id"]));
    let revoked = api.request(Method::DELETE, &path).as_user(&ada).send().await.ok(200);
    assert_eq!(revoked["status"], "revoked");
    assert_eq!(put(&full).await.status, 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_routes_show_the_same_apps_and_installs() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = api.user("ada").await;
    api.shelf(&ada, "shelf").await;
    api.post("/v1/admin/apps/shelf/approve", &json!({})).service().send().await.ok(200);
    let get = async |path: &str| api.get(path).as_user(&ada).send().await.ok(200);
    let listed = get("/extensions").await;
    assert_eq!((&listed["total"], &listed["extensions"][0]["id"]), (&json!(1), &json!("shelf")));
    assert_eq!(get("/v1/apps").await["apps"][0]["app_id"], "shelf");
    assert_eq!(get("/v1/catalog").await["apps"][0]["tools"][0]["name"], "add_book");
    let manifest = json!({"manifest": {"app_id": "shelf"}, "version": "9.9.9"});
    let put = api.request(Method::PUT, "/extensions/shelf").json(manifest.to_string());
    let changed = put.as_user(&ada).send().await.ok(200);
    assert_eq!(changed["manifest"], json!({"app_id": "shelf", "version": "9.9.9"}));
    assert_eq!(changed["version"], "1.0.0", "what is deployed counts");

    let install = json!({"user_id": ada.id, "extension_id": "shelf"});
    let installed = api.post("/user-extensions", &install).as_user(&ada).send().await.ok(200);
    assert_eq!(installed["installed"], true);
    let path = format!("/user-extensions/{}", ada.id);
    assert_eq!(get(&path).await["extensions"][0]["app_id"], "shelf");
    assert_eq!(get("/v1/me/extensions").await["extensions"][0]["installed"], true);
    let remove = api.request(Method::DELETE, &format!("{path}/shelf")).as_user(&ada);
    assert_eq!(remove.send().await.ok(200)["installed"], false);
    let configured = json!({"user_id": ada.id, "extension_id": "shelf", "config": {"a": 1}});
    let refused = api.post("/user-extensions", &configured).as_user(&ada).send().await;
    refused.problem(422, "validation_error");

    let signaled = api.post(&format!("/v1/hub/{}/messages", ada.id), &json!({"text": "hello"}));
    assert_eq!(signaled.as_user(&ada).send().await.ok(202)["status"], "signaled");
    for name in ["registry", "auth-gateway", "agents", "accounts"] {
        let document = api.get(&format!("/openapi/{name}.json")).send().await.ok(200);
        assert!(!document["paths"].as_object().unwrap().is_empty(), "{name}");
    }
    let document = api.get("/openapi/registry.json").send().await.ok(200);
    for path in ["/v1/apps/{app_id}/tools", "/extensions/{ext_id}", "/user-extensions"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert!(document["paths"]["/v1/users"].is_null());
    server.stop().await;
}
