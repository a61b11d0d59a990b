//! Services act in a tenant, for one of its members or for nobody, and the records say so.

use journeys::{Api, Call, Server, User, text};
use serde_json::{Value, json};

fn debit(api: &Api, amount: i64) -> Call {
    let body = json!({"amount": amount, "reason": "by a service"});
    api.post("/v1/billing/debits", &body).service()
}

async fn actions(api: &Api, user: &User) -> Vec<Value> {
    let page = api.get("/v1/actions?per_page=200").as_user(user).send().await.ok(200);
    let items = page["items"].as_array().unwrap().clone();
    items.into_iter().filter(|item| item["command"] == "debit").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_names_a_tenant_and_a_member_of_it() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let as_member = debit(api, 1).header("x-tenant-id", &ada.id).header("x-acting-user", &ada.id);
    as_member.header("x-extension-id", "notes").send().await.ok(201);
    debit(api, 2).header("x-acting-user", &ada.id).send().await.ok(201);
    debit(api, 3).header("x-tenant-id", &ada.id).send().await.ok(201);

    let stranger = debit(api, 9).header("x-tenant-id", &ada.id).header("x-acting-user", &bob.id);
    let stranger = stranger.send().await.problem(404, "not_found");
    let nobody = format!("imp_u_{}", "7".repeat(26));
    let unknown = debit(api, 9).header("x-tenant-id", &ada.id).header("x-acting-user", &nobody);
    let unknown = unknown.send().await.problem(404, "not_found");
    assert_eq!(stranger["detail"], unknown["detail"]);
    let tenant = debit(api, 9).header("x-tenant-id", &nobody.replace("_u_", "_t_"));
    tenant.send().await.problem(404, "not_found");
    debit(api, 9).header("x-acting-user", &nobody).send().await.problem(404, "not_found");
    let call = json!({"function": "list_apps", "user_id": bob.id});
    let call = api.post("/v1/extensions/developer/call", &call).service();
    let call = call.header("x-tenant-id", &ada.id);
    call.clone().send().await.problem(404, "not_found");
    call.header("x-acting-user", &ada.id).send().await.problem(403, "forbidden");

    let balance = api.balance(&ada).await;
    assert_eq!(balance, journeys::WELCOME.0 - 6, "what was refused cost nothing");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_does_is_seen_by_whom_it_concerns() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let for_ada = debit(api, 1).header("x-acting-user", &ada.id).header("x-ext-id", "notes");
    let trace = for_ada.send().await.headers["x-request-id"].to_str().unwrap().to_owned();
    debit(api, 2).header("x-tenant-id", &ada.id).send().await.ok(201);
    let seen = actions(api, &ada).await;
    let callers: Vec<_> = seen.iter().map(|item| text(&item["caller"])).collect();
    assert_eq!(callers, ["service".to_owned(), format!("service/notes for user/{}", ada.id)]);
    assert_eq!(seen[1]["user_id"], ada.id);
    assert_eq!(seen[0]["user_id"], json!(null));
    assert_eq!(actions(api, &bob).await, Vec::<Value>::new());
    let path = format!("/v1/actions/{trace}");
    let detail = api.get(&path).as_user(&ada).send().await.ok(200);
    assert_eq!(detail["command"], "debit", "{detail}");
    api.get(&path).as_user(&bob).send().await.problem(404, "not_found");
    server.stop().await;
}
