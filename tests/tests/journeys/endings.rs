//! What ends with a membership, and with a tenant: access to the apps that were made in it, the
//! secrets that were given in it, the installs that were counted of it.

use hyper::Method;
use journeys::{Api, PASSWORD, Server, User, shelf_document, text};
use serde_json::{Value, json};

use super::roles::{bearer, join};

/// A version of the shelf that declares secrets: the app's own, and each user's.
fn document(version: &str) -> Value {
    let mut document = shelf_document("shelf");
    document["app"]["version"] = json!(version);
    document["app"]["secrets"] = json!([{"name": "client", "scope": "app"}, {"name": "token"}]);
    document
}

async fn deploy(api: &Api, user: &User, version: &str) -> Value {
    let params = json!({"app_id": "shelf", "ir_dict": document(version), "dev_mode": true});
    api.built_in(user, "deploy_ir", &params).await
}

/// Makes the app public, as whoever keeps the marketplace does.
async fn approve(api: &Api) {
    api.post("/v1/admin/apps/shelf/approve", &json!({})).service().send().await.ok(200);
}

async fn put_secret(api: &Api, user: &User, name: &str) -> journeys::Answer {
    let put = api.request(Method::PUT, &format!("/v1/secrets/shelf/{name}"));
    put.json(json!({"value": "a-value-of-theirs"}).to_string()).as_user(user).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_to_an_app_ends_with_membership_of_its_tenant() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let tokens = join(&server, &ada, &bob, "developer").await;
    let inside = User { token: bearer(&tokens), ..bob.clone() };
    api.shelf(&inside, "shelf").await;
    assert_eq!(deploy(api, &inside, "1.1.0").await["status"], "success");
    put_secret(api, &inside, "client").await.ok(200);
    // While they belong, they get at it from their own tenant, too.
    assert_eq!(deploy(api, &bob, "1.2.0").await["status"], "success");
    let apps = api.get("/v1/developer/apps").as_user(&bob).send().await.ok(200);
    assert_eq!(apps[0]["app_id"], "shelf");

    let remove = api.request(Method::DELETE, &format!("/v1/users/{}", bob.id));
    remove.as_user(&ada).send().await.ok(200);
    assert_eq!(api.get("/v1/developer/apps").as_user(&inside).send().await.status, 401);
    let apps = api.get("/v1/developer/apps").as_user(&bob).send().await.ok(200);
    assert_eq!(apps, json!([]));
    let gone = "/v1/developer/apps/shelf";
    api.get(gone).as_user(&bob).send().await.problem(404, "not_found");
    api.get(&format!("{gone}/host")).as_user(&bob).send().await.problem(404, "not_found");
    let suspend = api.post(&format!("{gone}/suspend"), &json!({})).as_user(&bob);
    suspend.send().await.problem(404, "not_found");
    let deployed = deploy(api, &bob, "1.3.0").await;
    assert!(text(&deployed["error"]).contains("not found among your apps"), "{deployed}");
    let call = json!({"function": "books"});
    let call = || api.post("/v1/extensions/shelf/call", &call);
    call().as_user(&bob).send().await.problem(404, "not_found");
    assert_eq!(put_secret(api, &bob, "client").await.status, 404);
    let new = json!({"app_id": "another", "display_name": "Another",
        "git_url": "https://example.com/another.git"});
    let new = api.post("/v1/developer/apps", &new).as_user(&bob).send().await;
    new.problem(403, "developer_left");
    // What everybody sees they see as everybody does.
    approve(api).await;
    call().as_user(&bob).send().await.ok(200);
    assert_eq!(put_secret(api, &bob, "client").await.ok(403)["error"], "secret_forbidden");
    put_secret(api, &bob, "token").await.ok(200);
    // Whoever comes back has it again.
    let tokens = join(&server, &ada, &bob, "developer").await;
    let inside = User { token: bearer(&tokens), ..bob };
    assert_eq!(deploy(api, &inside, "1.4.0").await["status"], "success");
    server.stop().await;
}

/// A tenant of somebody's, beside their own, and them in it.
async fn tenant(api: &Api, owner: &User, name: &str) -> (String, User) {
    let new = json!({"tenant_id": name, "name": name});
    let made = api.post("/v1/tenants", &new).as_user(owner).send().await.ok(201);
    let login = json!({"email": owner.email, "password": PASSWORD, "tenant_id": name});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    (text(&made["id"]), User { token: bearer(&tokens), ..owner.clone() })
}

async fn installs(api: &Api) -> Value {
    api.get("/v1/marketplace/apps/shelf").send().await.ok(200)["install_count"].clone()
}

async fn secrets_set(api: &Api, operator: &User, tenant: &str, user: &User) -> Value {
    let path = format!("/v1/operator/actors/app_secrets/{tenant}.{}.shelf", user.id);
    api.get(&path).as_user(operator).send().await.ok(200)["state"]["set"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_and_installs_of_its_members_end_with_a_tenant() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob, operator) = (api.user("ada").await, api.user("bob").await, api.operator().await);
    api.shelf(&ada, "shelf").await;
    assert_eq!(deploy(api, &ada, "1.1.0").await["status"], "success");
    approve(api).await;
    let (acme, inside) = tenant(api, &bob, "acme").await;
    let install = "/v1/marketplace/apps/shelf/install";
    for user in [&inside, &bob] {
        api.post(install, &json!({})).as_user(user).send().await.ok(200);
        put_secret(api, user, "token").await.ok(200);
    }
    assert_eq!(installs(api).await, 2);
    let own = bob.id.replace("imp_u_", "imp_t_");
    for tenant in [&acme, &own] {
        let set = secrets_set(api, &operator, tenant, &bob).await;
        assert_eq!(set[0]["name"], "token", "{set}");
    }

    let erase = api.post("/v1/tenants/acme/erase", &json!({"confirm": "acme"}));
    erase.as_user(&inside).send().await.ok(200);
    assert_eq!(installs(api).await, 1);
    assert_eq!(secrets_set(api, &operator, &acme, &bob).await, json!([]));
    let set = secrets_set(api, &operator, &own, &bob).await;
    assert_eq!(set[0]["name"], "token", "what is of another tenant stays");
    let read = api.get("/v1/secrets/shelf/token").service().header("x-acting-user", &bob.id);
    assert_eq!(read.send().await.ok(200)["value"], "a-value-of-theirs");
    let server = server.restart().await;
    assert_eq!(installs(&server.api).await, 1);
    server.stop().await;
}
