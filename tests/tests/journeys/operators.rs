//! What operators see and do: entities by the ids that people see, acts with their outcome, and
//! the figures.

use gateway::authenticate::MetricsFor;
use journeys::{SERVICE_TOKEN, Server, text};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_is_found_by_any_of_its_ids() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    api.shelf(&user, "shelf").await;
    let bare = user.id.rsplit('_').next().unwrap();
    let login = json!({"email": user.email, "password": journeys::PASSWORD});
    let login = api.post("/api/v1/auth/login", &login).send().await.ok(200);
    let uuid = text(&login["user"]["id"]);
    let tenant = format!("imp_t_{bare}");
    let get = async |kind: &str, id: &str| {
        let path = format!("/v1/operator/actors/{kind}/{id}");
        api.get(&path).as_user(&operator).send().await
    };
    for kind in ["wallet", "tenant", "user", "sign_up", "developer"] {
        let mut pages = Vec::new();
        for id in [user.id.as_str(), bare, &uuid, &tenant] {
            let page = get(kind, id).await.ok(200);
            pages.push((page["kind"].clone(), page["id"].clone(), page["tenant_id"].clone()));
        }
        assert!(pages.iter().all(|page| *page == pages[0]), "{kind}: {pages:?}");
        assert_eq!((&pages[0].0, &pages[0].2), (&json!(kind), &json!(tenant)));
    }
    let call = json!({"function": "books"});
    api.post("/v1/extensions/shelf/call", &call).as_user(&user).send().await.ok(200);
    let session = format!("{tenant}.{uuid}.shelf");
    assert_eq!(get("extension_session", &session).await.ok(200)["kind"], "extension_session");
    assert_eq!(get("app", "shelf").await.ok(200)["id"], "shelf");
    let unknown = get("walet", &user.id).await.problem(404, "not_found");
    assert!(text(&unknown["detail"]).contains("wallet"), "{unknown}");
    assert!(unknown["kinds"].as_array().unwrap().contains(&json!("wallet")), "{unknown}");
    let nobody = get("wallet", &format!("imp_u_{}", "7".repeat(26))).await;
    assert_eq!(nobody.problem(404, "not_found")["detail"], "there is no such wallet");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_says_what_came_of_it_and_quarantine_hides_nothing() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let path = format!("/v1/operator/actors/wallet/{}", user.id);
    let act = async |action: &str| -> Value {
        let body = json!({"action": action, "reason": "for the test"});
        api.post(&path, &body).as_user(&operator).send().await.ok(200)
    };
    let debit = json!({"amount": 1, "reason": "r"});
    let debit = async || api.post("/v1/billing/debits", &debit).as_user(&user).send().await;
    debit().await.ok(201);
    let page = async || api.get(&path).as_user(&operator).send().await.ok(200);
    let before = page().await;
    assert_eq!((&before["quarantine"], &before["state_error"]), (&json!(null), &json!(null)));
    let verified = act("verify").await;
    assert_eq!(verified["done"], true, "{verified}");
    let put = act("quarantine").await;
    assert_eq!(put["message"], "It takes no command until it is released.");
    debit().await.problem(503, "quarantined");
    let hidden = page().await;
    assert_eq!(hidden["quarantine"], "for the test", "{hidden}");
    assert_eq!((&hidden["state"], &hidden["head"]), (&before["state"], &before["head"]));
    assert_eq!(hidden["history"], before["history"]);
    assert_eq!(act("release").await["done"], true);
    debit().await.ok(201);
    // To look at an entity does not bring it to memory.
    act("restart").await;
    while !page().await["view"].is_null() {
        tokio::task::yield_now().await;
    }
    let again = act("restart").await;
    assert_eq!(
        (&again["done"], &again["message"]),
        (&json!(false), &json!("It was not in memory."))
    );
    let short = api.get(&format!("{path}?limit=1")).as_user(&operator).send().await.ok(200);
    assert_eq!(short["history"], json!([short["history"][0]]), "{short}");
    assert_eq!(short["history"][0]["seq"], short["head"]);
    let older = api.get(&format!("{path}?before=2")).as_user(&operator).send().await.ok(200);
    assert_eq!(older["history"].as_array().unwrap().len(), 1, "{older}");
    let wrong = api.get(&format!("{path}?before=x")).as_user(&operator).send().await;
    assert_eq!(wrong.problem(422, "validation_error")["details"][0]["field"], "before");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_are_for_whom_the_setting_says() {
    let server = Server::start().await;
    let metrics = || server.api.get("/metrics");
    assert_eq!(metrics().send().await.status, 200);
    let passed_on = metrics().header("x-forwarded-for", "192.0.2.1");
    passed_on.clone().send().await.problem(401, "unauthorized");
    passed_on.clone().bearer("wrong").send().await.problem(401, "invalid_token");
    assert_eq!(passed_on.clone().bearer(SERVICE_TOKEN).send().await.status, 200);
    assert_eq!(passed_on.clone().service().send().await.status, 200);
    let (user, operator) = (server.api.user("ada").await, server.api.operator().await);
    passed_on.clone().as_user(&user).send().await.problem(403, "forbidden");
    assert_eq!(passed_on.as_user(&operator).send().await.status, 200);
    server.stop().await;
    let server = Server::start_with(|settings| settings.metrics_for = MetricsFor::Nobody).await;
    server.api.get("/metrics").send().await.problem(401, "unauthorized");
    server.stop().await;
}
