//! What was done, looked at: counts, the audit log and who may read it, and whole files of both.

use journeys::{Api, Server, User, text};
use serde_json::{Value, json};

async fn get(api: &Api, user: &User, path: &str) -> Value {
    api.get(path).as_user(user).send().await.ok(200)
}

async fn shelved(api: &Api, user: &User) {
    api.shelf(user, "shelf").await;
    for title in ["Emma", "Ada"] {
        let call = json!({"function": "add_book", "params": {"title": title}});
        api.post("/v1/extensions/shelf/call", &call).as_user(user).send().await.ok(200);
    }
    let call = json!({"function": "no_such_function"});
    api.post("/v1/extensions/shelf/call", &call).as_user(user).send().await.ok(200);
    // Nothing follows any more.
    api.settled_balance(user).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_are_counted_and_found_by_each_filter() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    shelved(api, &user).await;

    let stats = get(api, &user, "/v1/actions/stats").await;
    assert_eq!(stats["complete"], true, "{stats}");
    let shelf = |stats: &Value| {
        let apps = stats["by_extension"].as_array().unwrap();
        apps.iter().find(|app| app["name"] == "shelf").cloned().unwrap()
    };
    assert_eq!((&shelf(&stats)["actions"], &shelf(&stats)["errors"]), (&json!(3), &json!(1)));
    assert_eq!(stats["by_day"].as_array().unwrap().len(), 1);
    let of_app = get(api, &user, "/v1/actions/stats/extension/shelf").await;
    assert_eq!((&of_app["actions"], &of_app["by_status"]["error"]), (&json!(3), &json!(1)));
    assert_eq!(of_app["credits"], shelf(&stats)["credits"]);
    assert_eq!(of_app["by_function"][0]["name"], "shelf.add_book");
    let none = get(api, &user, "/v1/actions/stats/extension/nothing").await;
    assert_eq!(none["actions"], 0);

    let found = async |query: &str| {
        let page = get(api, &user, &format!("/v1/actions?app_id=shelf&{query}")).await;
        page["items"].as_array().unwrap().len()
    };
    let day = text(&stats["by_day"][0]["name"]);
    for (query, count) in [
        ("function=add_book".to_owned(), 2),
        ("status=error".to_owned(), 1),
        ("action_type=destructive".to_owned(), 0),
        (format!("user_id={}", user.id), 3),
        (format!("from={day}&to={day}"), 3),
        ("to=2020-01-01".to_owned(), 0),
        ("from=2020-01-01T00:00:00Z".to_owned(), 3),
        ("search=ADD_b".to_owned(), 2),
    ] {
        assert_eq!(found(&query).await, count, "{query}");
    }
    for query in ["from=soon", "status=done", "user_id=x", "cursor=x", "per_page=0", "page=0"] {
        let refused = api.get(&format!("/v1/actions?{query}")).as_user(&user).send().await;
        refused.problem(422, "validation_error");
    }
    let listing = async || api.get("/v1/actions/stats/marketplace/shelf").service().send().await;
    listing().await.problem(404, "not_found");
    api.post("/v1/admin/apps/shelf/approve", &json!({})).service().send().await.ok(200);
    let listing = listing().await.ok(200);
    assert_eq!(listing["app_id"], "shelf");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_is_for_who_has_the_scope_and_never_another_tenants() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    shelved(api, &ada).await;
    let log = get(api, &ada, "/v1/audit?limit=200").await;
    let items = log["items"].as_array().unwrap();
    assert!(
        items.len() > 5 && items.iter().all(|entry| entry["tenant_id"] == items[0]["tenant_id"])
    );
    let newest = &items[0];
    assert_eq!(newest["leaf_index"].as_u64(), newest["chain_seq"].as_u64().map(|it| it - 1));
    let verified = get(api, &ada, "/v1/actions/verify").await;
    assert_eq!(newest["hash"], verified["head"]);
    assert!(!get(api, &bob, "/v1/audit").await.to_string().contains(&ada.id));

    let actions = async |query: &str| -> Vec<String> {
        let page = get(api, &ada, &format!("/v1/audit?{query}")).await;
        page["items"].as_array().unwrap().iter().map(|entry| text(&entry["action"])).collect()
    };
    let sessions = actions("action=extension_session.*").await;
    assert!(!sessions.is_empty() && sessions.iter().all(|it| it.starts_with("extension_session.")));
    assert!(!actions(&format!("actor_id={}", ada.id)).await.is_empty());
    assert!(actions(&format!("actor_id={}", bob.id)).await.is_empty());
    assert!(!actions("target_type=wallet").await.is_empty());
    assert!(!actions(&format!("target_type=wallet&target_id={}", ada.id)).await.is_empty());
    assert!(actions("until=2020-01-01").await.is_empty());
    let (first, second) = (actions("per_page=1").await, actions("per_page=1&page=2").await);
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(actions("limit=1&offset=1").await, second);

    let other = api.get(&format!("/v1/audit?tenant_id={}", ada.id)).as_user(&bob).send().await;
    other.problem(403, "forbidden");
    let key = json!({"name": "narrow", "scopes": "audit:write,wallet:read"});
    let key = api.post("/v1/keys", &key).as_user(&ada).send().await.ok(201);
    for path in ["/v1/audit", "/v1/audit/export"] {
        let refused = api.get(path).bearer(&text(&key["key"])).send().await;
        assert_eq!(refused.status, 403, "{}", refused.text());
    }
    let service = api.get("/v1/audit").service().header("x-tenant-id", &ada.id).send().await;
    assert_eq!(service.ok(200)["items"][0]["tenant_id"], newest["tenant_id"]);
    let operator = api.operator().await;
    let theirs = get(api, &operator, &format!("/v1/audit?tenant_id={}&per_page=1", ada.id)).await;
    assert_eq!(theirs["items"][0]["tenant_id"], newest["tenant_id"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_log_is_taken_as_a_file_that_names_its_head() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    shelved(api, &user).await;
    let head = get(api, &user, "/v1/actions/verify").await;
    let export = async |path: &str| api.get(path).as_user(&user).send().await;
    let kind =
        |answer: &journeys::Answer| answer.headers["content-type"].to_str().unwrap().to_owned();

    let json_file = export("/v1/audit/export").await;
    let whole = json_file.ok(200);
    assert_eq!(kind(&json_file), "application/json");
    let name = json_file.headers["content-disposition"].to_str().unwrap();
    assert!(
        name.starts_with("attachment; filename=\"audit-") && name.ends_with(".json\""),
        "{name}"
    );
    let items = whole["items"].as_array().unwrap();
    assert_eq!(json!(items.len()), head["records"], "every record is an entry");
    assert_eq!((&whole["head"]["root"], &whole["head"]["link"]), (&head["root"], &head["head"]));
    assert!(items.iter().zip(1..).all(|(entry, number)| entry["chain_seq"] == number));
    assert!(text(&items[0]["position"]).contains(':'));

    let table = export("/v1/audit/export?format=csv&target_type=wallet").await;
    assert_eq!(kind(&table), "text/csv; charset=utf-8; header=present");
    let table = table.text();
    let lines: Vec<_> = table.split_terminator("\r\n").collect();
    assert!(lines[0].starts_with("row,id,chain_seq,leaf_index,hash,"), "{}", lines[0]);
    let (last, rows) = lines[1..].split_last().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row.contains(",wallet,")), "{rows:?}");
    assert!(last.starts_with("head,") && last.ends_with(&text(&head["root"])), "{last}");

    let lines = export("/v1/actions/export?format=ndjson&app_id=shelf").await;
    assert_eq!(kind(&lines), "application/x-ndjson");
    assert_eq!(lines.text().lines().count(), 3 + 1);
    export("/v1/actions/export?format=xml").await.problem(422, "validation_error");
    server.stop().await;
}
