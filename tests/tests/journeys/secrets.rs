//! Secrets that apps declare: given by users and developers, handed to the app's own host alone,
//! and found nowhere else.

use hyper::Method;
use journeys::{Answer, Server, User};
use serde_json::json;

use super::hosts::{app, call, document, host, server};

const CANARY: &str = "canary-5f1d9b2e-value";
const APPS_CANARY: &str = "canary-of-the-app-77aa";

/// Deploys the next version of an app, which declares secrets.
async fn declare(server: &Server, user: &User, app: &str, status: &str) {
    let mut document = document(app);
    document["app"]["version"] = json!("1.1.0");
    document["app"]["secrets"] = json!([
        {"name": "token", "description": "Of the user", "required": true,
         "rotation_hint_days": 90},
        {"name": "client", "scope": "app", "max_bytes": 40},
        {"name": "cursor", "write_mode": "extension"},
    ]);
    let params = json!({"app_id": app, "ir_dict": document, "dev_mode": true});
    let answer = server.api.built_in(user, "deploy_ir", &params).await;
    assert_eq!(answer["status"], status, "{answer}");
}

/// A refusal as the clients of these routes read it.
fn refused(answer: Answer, status: u16, code: &str) {
    let body = answer.ok(status);
    assert_eq!(
        (&body["error"], &body["detail"]["error_code"]),
        (&json!(code), &json!(code.to_uppercase()))
    );
    assert_eq!(body["detail"]["message"], body["message"]);
}

fn path(name: &str) -> String {
    format!("/v1/secrets/echo/{name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_the_apps_host_and_nobody_else() {
    let server = server().await;
    let (ada, bob) = (server.api.user("ada").await, server.api.user("bob").await);
    let (url, mut gets) = host().await;
    app(&server, &ada, "echo", &url).await;
    declare(&server, &ada, "echo", "success").await;
    let api = &server.api;
    let put = |name: &str, value: &str| {
        let body = json!({"value": value}).to_string();
        api.request(Method::PUT, &path(name)).json(body)
    };

    // Nothing is set, so nothing is sent.
    call(&server, &ada, "echo", "echo", json!({})).await;
    assert!(gets.recv().await.unwrap().value().get("secrets").is_none());

    let set = put("token", CANARY).as_user(&ada).send().await.ok(200);
    assert_eq!((&set["is_set"], &set["version"]), (&json!(true), &json!(1)));
    put("client", APPS_CANARY).as_user(&ada).send().await.ok(200);
    let listed = api.get("/v1/secrets/echo").as_user(&ada).send().await.ok(200);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["token", "client", "cursor"]);
    assert_eq!((&listed[0]["is_set"], &listed[2]["is_set"]), (&json!(true), &json!(false)));
    assert!(listed[0]["last_accessed_at"].is_null(), "{listed}");

    let answer = call(&server, &ada, "echo", "echo", json!({"mood": "tells"})).await;
    let told = gets.recv().await.unwrap().value();
    assert_eq!(told["secrets"], json!({"token": CANARY, "client": APPS_CANARY}));
    assert_eq!(answer["data"], json!({"token": "[secret token]", "client": "[secret client]"}));
    let listed = api.get("/v1/secrets/echo").as_user(&ada).send().await.ok(200);
    assert!(listed[0]["last_accessed_at"].is_string(), "{listed}");

    // The runtime reads it, users do not, and what is not declared is not there.
    let get = |name: &str| api.get(&path(name));
    refused(get("token").as_user(&ada).send().await, 403, "secret_forbidden");
    let runtime = |name: &str| {
        get(name).service().header("x-acting-user", &ada.id).header("x-ext-id", "echo")
    };
    assert_eq!(runtime("token").send().await.ok(200)["value"], CANARY);
    refused(runtime("cursor").send().await, 404, "secret_not_set");
    refused(runtime("other").send().await, 404, "secret_not_declared");
    let foreign = get("token").service().header("x-acting-user", &ada.id);
    refused(foreign.header("x-ext-id", "shelf").send().await, 403, "secret_forbidden");
    // The SDK's client shows the service token as a bearer token.

    let bearer = get("token").bearer(journeys::SERVICE_TOKEN).header("x-acting-user", &ada.id);
    assert_eq!(bearer.send().await.ok(200)["value"], CANARY);

    // Who writes what.
    refused(put("cursor", "by a person").as_user(&ada).send().await, 403, "secret_forbidden");
    let by_app = put("cursor", "c1").service().header("x-acting-user", &ada.id);
    by_app.header("x-ext-id", "echo").send().await.ok(200);
    refused(put("token", "").as_user(&ada).send().await, 422, "validation_error");
    refused(put("client", &"x".repeat(41)).as_user(&ada).send().await, 422, "validation_error");
    // A draft is nobody's business.
    refused(put("token", "mine").as_user(&bob).send().await, 404, "not_found");

    // Replaced, removed, and gone.
    let rotate = |name: &str, value: &str| {
        api.post(&format!("{}/rotate", path(name)), &json!({"value": value})).as_user(&ada)
    };
    assert_eq!(rotate("token", "another-value").send().await.ok(200)["version"], 2);
    let meta = || api.get(&format!("{}/meta", path("token"))).as_user(&ada);
    let known = meta().send().await.ok(200);
    assert!(known["is_set"] == true && known["rotation_due_at"].is_string(), "{known}");
    let delete = || api.request(Method::DELETE, &path("token")).as_user(&ada);
    assert_eq!(delete().send().await.ok(200)["was_set"], true);
    assert_eq!(delete().send().await.ok(200)["was_set"], false);
    refused(meta().send().await, 404, "secret_not_set");
    refused(rotate("token", "again").send().await, 404, "secret_not_set");

    let seen = seen_of(&server, &ada).await;
    assert!(!seen.contains("canary-"), "{seen}");
    let folder = server.halt().await;
    assert_eq!(files_with(folder.path(), b"canary-"), Vec::<String>::new());
}

/// What an operator and the tenant see of all that happened.
async fn seen_of(server: &Server, user: &User) -> String {
    let api = &server.api;
    let operator = api.operator().await;
    let mut seen = api.get("/v1/actions?per_page=200").as_user(user).send().await.text();
    let actor = |id: &str| api.get(&format!("/v1/operator/actors/app_secrets/{id}"));
    let (tenant, user) = (user.id.replace("imp_u_", "imp_t_"), &user.id);
    let own = format!("{tenant}.{user}.echo");
    for id in ["echo", own.as_str()] {
        let shown = actor(id).as_user(&operator).send().await.ok(200);
        assert!(shown.to_string().contains("\"set\""), "{shown}");
        seen.push_str(&shown.to_string());
    }
    seen + &api.get("/metrics").send().await.text()
}

fn files_with(folder: &std::path::Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path).unwrap().windows(needle.len()).any(|it| it == needle) {
            found.push(path.display().to_string());
        }
    }
    found
}
