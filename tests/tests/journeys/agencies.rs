//! Agencies, who belongs to them, and the scopes that tenants name of their own.

use hyper::Method;
use journeys::{Server, text};
use serde_json::{Value, json};

use super::roles::{bearer, join};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agency_is_made_by_the_installation_and_seen_by_those_who_belong() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob, operator) = (api.user("ada").await, api.user("bob").await, api.operator().await);
    let body = json!({"agency_id": "north", "display_name": "North", "domain": "north.example"});
    let create = |body: &Value| api.post("/v1/agencies", body);
    create(&body).as_user(&ada).send().await.problem(403, "forbidden");
    let made = create(&body).as_user(&operator).key("a").send().await.ok(201);
    assert_eq!(create(&body).as_user(&operator).key("a").send().await.ok(201), made);
    assert_eq!((&made["agency_id"], &made["settings"]), (&json!("north"), &Value::Null));
    create(&body).service().send().await.problem(409, "agency_exists");
    let south = json!({"agency_id": "south", "display_name": "South", "settings": {"tone": 1}});
    create(&south).service().send().await.ok(201);
    for unfit in ["n", "North", "a b c"] {
        let body = json!({"agency_id": unfit, "display_name": "x"});
        create(&body).service().send().await.problem(422, "validation_error");
    }
    let list = async |user| api.get("/v1/agencies").as_user(user).send().await.ok(200);
    assert_eq!(list(&operator).await.as_array().unwrap().len(), 2);
    assert_eq!(list(&ada).await, json!([]));
    api.get("/v1/agencies/me").as_user(&ada).send().await.problem(404, "not_found");

    // Who belongs where, services say, in whichever tenant they meet the user.
    let path = format!("/v1/users/{}", ada.id);
    let belongs = |agency: &str| {
        let body = json!({"agency_id": agency}).to_string();
        api.request(Method::PATCH, &path).json(body)
    };
    belongs("north").as_user(&ada).send().await.problem(403, "forbidden");
    let as_service = |agency: &str| belongs(agency).service().header("x-tenant-id", &ada.id);
    as_service("west").send().await.problem(422, "validation_error");
    let user = as_service("north").send().await.ok(200);
    assert_eq!(user["agency_id"], "north");
    let me = api.get("/v1/auth/me").as_user(&ada).send().await.ok(200);
    assert_eq!(me["agency_id"], "north");
    assert_eq!(list(&ada).await, json!([made]));
    let mine = api.get("/v1/agencies/me").as_user(&ada).send().await.ok(200);
    assert_eq!(mine, api.get("/v1/agencies/north").as_user(&ada).send().await.ok(200));
    api.get("/v1/agencies/south").as_user(&ada).send().await.problem(404, "not_found");
    api.get("/v1/agencies/north").as_user(&bob).send().await.problem(404, "not_found");

    let settings = json!({"logo_url": "https://north.example/n.svg", "retention_days": 30});
    let change = |body: &Value| {
        api.request(Method::PUT, "/v1/agencies/north/settings").json(body.to_string())
    };
    change(&settings).as_user(&ada).send().await.problem(403, "forbidden");
    let wrong = json!({"retention_days": 4_000});
    change(&wrong).as_user(&operator).send().await.problem(422, "validation_error");
    change(&settings).as_user(&operator).send().await.ok(200);
    let changed = json!({"extra": {"tone": "warm"}, "retention_days": 60});
    let changed = change(&changed).service().send().await.ok(200);
    let whole = json!({"logo_url": settings["logo_url"], "retention_days": 60,
        "extra": {"tone": "warm"}});
    assert_eq!(changed["settings"], whole);

    let server = server.restart().await;
    let mine = server.api.get("/v1/agencies/me").as_user(&ada).send().await.ok(200);
    assert_eq!(mine, changed);
    // Who is erased belongs nowhere.
    let operator = server.api.operator().await;
    let erase = json!({"reason": "asked for"});
    let path = format!("/v1/users/{}/erase", ada.id);
    server.api.post(&path, &erase).as_user(&operator).send().await.ok(200);
    let user = ada.id.parse().unwrap();
    assert_eq!(identity::agency::agency_of(&server.running.app.system, user), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_names_scopes_and_gives_them_in_roles_and_grants() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob, eve) = (api.user("ada").await, api.user("bob").await, api.user("eve").await);
    let body = json!({"resource": "reports", "action": "export", "description": "Take out"});
    let create = |body: &Value| api.post("/v1/scopes", body).as_user(&ada);
    let made = create(&body).key("s").send().await.ok(201);
    assert_eq!(create(&body).key("s").send().await.ok(201), made);
    assert_eq!((&made["id"], &made["source"]), (&json!("reports:export"), &json!("tenant")));
    create(&body).send().await.problem(409, "scope_exists");
    for unfit in [
        json!({"resource": "wallet", "action": "export"}),
        json!({"resource": "reports", "action": "*"}),
        json!({"resource": "reports", "action": "see", "source": "platform"}),
        json!({"resource": "reports", "action": "see", "name": "reports:export"}),
    ] {
        create(&unfit).send().await.problem(422, "validation_error");
    }
    let own = async |user| {
        let list = api.get("/v1/scopes?source=tenant").as_user(user).send().await.ok(200);
        list.as_array().unwrap().clone()
    };
    assert_eq!((own(&ada).await, own(&eve).await), (vec![made.clone()], vec![]));

    let role = json!({"name": "clerk", "default_scopes": ["reports:export", "wallet:read"]});
    api.post("/v1/roles", &role).as_user(&eve).send().await.problem(422, "validation_error");
    api.post("/v1/roles", &role).as_user(&ada).send().await.ok(201);
    let tokens = join(&server, &ada, &bob, "clerk").await;
    let path = format!("/v1/scopes/effective/{}", bob.id);
    let effective = api.get(&path).bearer(&bearer(&tokens)).send().await.ok(200);
    let first = json!({"scope": "reports:export", "source": "role:clerk"});
    assert_eq!(effective["scopes"][0], first);

    let path = "/v1/scopes/reports:export";
    let told = json!({"display_name": "Export"}).to_string();
    let told = api.request(Method::PATCH, path).json(told);
    told.clone().bearer(&bearer(&tokens)).send().await.problem(403, "forbidden");
    told.clone().as_user(&eve).send().await.problem(404, "not_found");
    assert_eq!(told.as_user(&ada).send().await.ok(200)["display_name"], "Export");
    let remove = |path: &str| api.request(Method::DELETE, path).as_user(&ada);
    remove(path).send().await.problem(409, "scope_in_use");
    remove("/v1/scopes/wallet:read").send().await.problem(409, "system_scope");
    let other = json!({"resource": "reports", "action": "see"});
    create(&other).send().await.ok(201);
    remove("/v1/scopes/reports:see").send().await.ok(200);
    remove("/v1/scopes/reports:see").send().await.problem(404, "not_found");
    let server = server.restart().await;
    let list = server.api.get("/v1/scopes?resource=reports").as_user(&ada).send().await.ok(200);
    assert_eq!(text(&list[0]["display_name"]), "Export");
    server.stop().await;
}
