//! The marketplace: an app goes live, is found, installed, reviewed, called on terms, and taken
//! back.

use hyper::Method;
use journeys::{Api, Call, Server, User, shelf_document, text};
use serde_json::{Value, json};

/// Puts a call of the service token's.
fn admin(api: &Api, path: &str, body: &Value) -> Call {
    api.post(path, body).service()
}

/// A developer with an app that is live.
async fn live(api: &Api, user: &User, app: &str) {
    api.shelf(user, app).await;
    let texts = json!({"description": format!("Keeps the books of {app} in order"), "icon": "book",
        "category": "books", "tags": ["reading", "library"]});
    let path = format!("/v1/developer/apps/{app}");
    let put = api.request(Method::PUT, &path).json(texts.to_string());
    put.as_user(user).send().await.ok(200);
    admin(api, &format!("/v1/admin/apps/{app}/approve"), &json!({})).send().await.ok(200);
}

async fn install(api: &Api, user: &User, app: &str) -> Value {
    let path = format!("/v1/marketplace/apps/{app}/install");
    api.post(&path, &json!({})).as_user(user).send().await.ok(200)
}

fn call(api: &Api, user: &User, app: &str) -> Call {
    let body = json!({"function": "books", "params": {}});
    api.post(&format!("/v1/extensions/{app}/call"), &body).as_user(user)
}

/// Deploys a version that differs from the first by what `change` does to it.
async fn deploy(api: &Api, user: &User, app: &str, change: impl FnOnce(&mut Value)) {
    let mut ir = shelf_document(app);
    change(&mut ir);
    let params = json!({"app_id": app, "ir_dict": ir});
    let answer = api.built_in(user, "deploy_ir", &params).await;
    assert_eq!(answer["status"], "success", "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_goes_through_review_and_is_found_by_everybody() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, operator) = (api.user("ada").await, api.operator().await);
    api.shelf(&ada, "shelf").await;
    let found = api.get("/v1/marketplace/apps?search=shelf").send().await.ok(200);
    assert_eq!(found["total"], 0, "nothing is shown before it is approved");
    let pending = api.get("/v1/admin/apps/pending").service().send().await.ok(200);
    assert_eq!(pending["items"][0]["app_id"], "shelf", "deploying hands it in");
    let reject = json!({"reason": "there is no icon"});
    let path = "/v1/admin/apps/shelf/reject";
    let rejected = api.post(path, &reject).as_user(&operator).send().await.ok(200);
    assert_eq!(
        (&rejected["status"], &rejected["reject_reason"]),
        (&json!("draft"), &reject["reason"])
    );
    let submit = "/v1/developer/apps/shelf/submit";
    let failed = api.post(submit, &json!({})).as_user(&ada).send().await.ok(200);
    assert_eq!(failed["status"], "failed");
    let checks = failed["checks"].as_array().unwrap();
    let unmet: Vec<_> =
        checks.iter().filter(|it| it["ok"] == false).map(|it| text(&it["check"])).collect();
    assert_eq!(unmet, ["description_given", "icon_given"]);
    let texts = json!({"description": "Keeps your books in order", "icon": "book",
        "category": "books", "tags": ["library"]});
    let put = api.request(Method::PUT, "/v1/developer/apps/shelf").json(texts.to_string());
    put.as_user(&ada).send().await.ok(200);
    let passed = api.post(submit, &json!({})).as_user(&ada).send().await.ok(200);
    assert_eq!(passed["status"], "pending_review", "{passed}");
    admin(api, "/v1/admin/apps/shelf/approve", &json!({})).send().await.ok(200);

    for (query, expected) in [
        ("search=read", 1),
        ("search=library", 1),
        ("search=books%20order&sort=newest", 1),
        ("search=weather", 0),
        ("category=books&sort=name", 1),
        ("category=games", 0),
    ] {
        let path = format!("/v1/marketplace/apps?{query}");
        assert_eq!(api.get(&path).send().await.ok(200)["total"], expected, "{query}");
    }
    api.get("/v1/marketplace/apps?sort=price").send().await.problem(422, "validation_error");
    let categories = api.get("/v1/marketplace/categories").send().await.ok(200);
    assert_eq!(categories, json!([{"id": "books", "name": "books", "count": 1}]));
    let details = api.get("/v1/marketplace/apps/shelf").send().await.ok(200);
    assert_eq!((&details["is_installed"], &details["tags"]), (&Value::Null, &json!(["library"])));
    assert_eq!(details["tools"][0]["name"], "add_book");
    api.get("/v1/marketplace/apps/nothing").send().await.problem(404, "not_found");
    let page = format!("/v1/marketplace/developer/{}", ada.id);
    let page = api.get(&page).send().await.ok(200);
    assert_eq!(
        (&page["nickname"], &page["apps"][0]["app_id"]),
        (&json!("n-shelf"), &json!("shelf"))
    );
    let feature = admin(api, "/v1/admin/apps/shelf/feature", &json!({"featured": true}));
    assert_eq!(feature.send().await.status, 204);
    let featured = api.get("/v1/marketplace/featured").send().await.ok(200);
    assert_eq!(featured[0]["app_id"], "shelf");

    it_is_kept_and_taken_back(server, &ada).await;
}

/// What is known survives a restart, and ends as its developer says.
async fn it_is_kept_and_taken_back(server: Server, ada: &User) {
    let server = server.restart().await;
    let api = &server.api;
    let found = api.get("/v1/marketplace/apps?search=library").send().await.ok(200);
    assert_eq!((&found["total"], &found["apps"][0]["featured"]), (&json!(1), &json!(true)));
    let suspend = api.post("/v1/developer/apps/shelf/suspend", &json!({})).as_user(ada);
    assert_eq!(suspend.send().await.ok(200)["status"], "suspended");
    assert_eq!(api.get("/v1/marketplace/apps").send().await.ok(200)["total"], 0);
    let gone = api.request(Method::DELETE, "/v1/developer/apps/shelf");
    let wrong = gone.clone().json(json!({"confirm_name": "shell"}).to_string()).as_user(ada);
    wrong.send().await.problem(422, "validation_error");
    let right = gone.json(json!({"confirm_name": "shelf"}).to_string()).as_user(ada);
    right.send().await.ok(200);
    api.get("/v1/developer/apps/shelf").as_user(ada).send().await.problem(404, "not_found");
    let again = json!({"app_id": "shelf", "display_name": "Again",
        "git_url": "https://example.com/again.git"});
    let again = api.post("/v1/developer/apps", &again).as_user(ada).send().await;
    again.problem(409, "app_id_taken");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_agreed_to_is_asked_for_again_when_an_app_wants_more() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    live(api, &ada, "shelf").await;
    call(api, &bob, "shelf").send().await.ok(200);
    let nothing = api.post("/v1/marketplace/apps/nothing/install", &json!({})).as_user(&bob);
    nothing.send().await.problem(400, "app_not_active");
    let path = "/v1/marketplace/apps/shelf/install";
    let once = || api.post(path, &json!({})).as_user(&bob).key("install-1");
    assert_eq!(once().send().await.ok(200), once().send().await.ok(200));
    assert_eq!(install(api, &bob, "shelf").await["install_count"], 1, "installed once");
    let mine = api.get("/v1/me/extensions").as_user(&bob).send().await.ok(200);
    let entry = &mine["extensions"][0];
    assert_eq!((&entry["access"], &entry["version"]), (&json!("granted"), &json!("1.0.0")));
    let browse = api.get("/v1/marketplace/apps").as_user(&bob).send().await.ok(200);
    assert_eq!(browse["apps"][0]["is_installed"], true);
    let users = api.get("/v1/extensions/shelf/users").as_user(&bob).send().await.ok(200);
    assert_eq!(users["users"][0]["user_id"], bob.id.as_str());

    // The same terms in another version are agreed to; more are not.
    deploy(api, &ada, "shelf", |ir| ir["app"]["version"] = json!("1.0.1")).await;
    call(api, &bob, "shelf").send().await.ok(200);
    deploy(api, &ada, "shelf", |ir| {
        ir["app"]["version"] = json!("1.1.0");
        ir["app"]["functions"][1]["action_type"] = json!("destructive");
    })
    .await;
    let refused = call(api, &bob, "shelf").send().await.problem(409, "consent_needed");
    assert_eq!(refused["diff"]["scopes_added"], json!(["shelf:destructive"]), "{refused}");
    let mine = api.get("/v1/me/extensions").as_user(&bob).send().await.ok(200);
    assert_eq!(mine["extensions"][0]["consent_needed"], true);
    call(api, &ada, "shelf").send().await.ok(200);
    let other = json!({"terms": "00"});
    api.post(path, &other).as_user(&bob).send().await.problem(409, "terms_changed");
    let accept = json!({"terms": refused["terms"]});
    api.post(path, &accept).as_user(&bob).send().await.ok(200);
    call(api, &bob, "shelf").send().await.ok(200);

    // Switched off, by the user and by whoever answers for the tenant.
    let off = json!({"app_id": "shelf"});
    api.post("/v1/me/extensions/disable", &off).as_user(&bob).send().await.ok(200);
    call(api, &bob, "shelf").send().await.problem(403, "app_disabled");
    let on = || api.request(Method::DELETE, "/v1/me/extensions/disable/shelf").as_user(&bob);
    assert_eq!(on().send().await.ok(200)["disabled"], false);
    call(api, &bob, "shelf").send().await.ok(200);
    let admins = format!("/v1/users/{}/extensions/disable", bob.id);
    api.post(&admins, &off).as_user(&bob).send().await.ok(200);
    on().send().await.problem(403, "disabled_by_admin");
    let lift = api.request(Method::DELETE, &format!("{admins}/shelf")).as_user(&bob);
    assert_eq!(lift.send().await.ok(200)["disabled"], false);
    let gone = api.request(Method::DELETE, path).as_user(&bob).send().await.ok(200);
    assert_eq!((&gone["installed"], &gone["install_count"]), (&json!(false), &json!(0)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_are_of_those_who_have_it_and_counted_once() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = api.user("ada").await;
    let (bob, cy) = (api.user("bob").await, api.user("cy").await);
    live(api, &ada, "shelf").await;
    let path = "/v1/marketplace/apps/shelf/reviews";
    let words = |rating: i64| {
        json!({"rating": rating, "title": "My view",
        "body": format!("I have used this for a while and give it {rating}")})
    };
    let write = |user: &User, rating| api.post(path, &words(rating)).as_user(user);
    write(&bob, 5).send().await.problem(403, "not_installed");
    install(api, &bob, "shelf").await;
    install(api, &cy, "shelf").await;
    install(api, &ada, "shelf").await;
    write(&ada, 5).send().await.problem(403, "own_app");
    let short = json!({"rating": 5, "body": "Good"});
    api.post(path, &short).as_user(&bob).send().await.problem(422, "validation_error");
    let first = write(&bob, 5).key("r1").send().await.ok(200);
    assert_eq!(write(&bob, 5).key("r1").send().await.ok(200), first);
    write(&bob, 4).send().await.problem(409, "already_reviewed");
    let second = write(&cy, 2).send().await.ok(200);
    let details = api.get("/v1/marketplace/apps/shelf").send().await.ok(200);
    assert_eq!((&details["review_count"], &details["avg_rating"]), (&json!(2), &json!(3.5)));

    let vote = |user: &User, id: &Value, helpful: bool| {
        let path = format!("/v1/marketplace/reviews/{id}/vote");
        api.post(&path, &json!({"helpful": helpful})).as_user(user)
    };
    vote(&bob, &first["id"], true).send().await.problem(403, "own_review");
    vote(&bob, &second["id"], true).send().await.ok(200);
    let voted = vote(&bob, &second["id"], true).send().await.ok(200);
    assert_eq!(voted["helpful_count"], 1, "one vote each");
    let ratings = async |sort: &str| -> Vec<i64> {
        let answer = api.get(&format!("{path}?sort={sort}")).send().await.ok(200);
        let reviews = answer["reviews"].as_array().unwrap();
        reviews.iter().map(|review| review["rating"].as_i64().unwrap()).collect()
    };
    assert_eq!(ratings("helpful").await, [2, 5]);
    assert_eq!(ratings("highest").await, [5, 2]);
    assert_eq!(ratings("lowest").await, [2, 5]);
    assert_eq!(ratings("newest").await, [2, 5]);
    assert_eq!(ratings("oldest").await, [5, 2]);

    let one = format!("/v1/marketplace/reviews/{}", second["id"]);
    let change = |user: &User| {
        api.request(Method::PUT, &one).json(json!({"rating": 4}).to_string()).as_user(user)
    };
    change(&bob).send().await.problem(403, "not_your_review");
    assert_eq!(change(&cy).send().await.ok(200)["rating"], 4);
    let take = |user: &User| api.request(Method::DELETE, &one).as_user(user);
    take(&bob).send().await.problem(403, "not_your_review");
    assert_eq!(take(&cy).send().await.status, 204);
    take(&cy).send().await.problem(404, "not_found");
    // A review's words go with its author, the rating stays.
    api.request(Method::DELETE, &format!("/v1/marketplace/reviews/{}", first["id"]))
        .header("x-tenant-id", &ada.id)
        .service()
        .send()
        .await;
    let left = api.get(path).send().await.ok(200);
    assert_eq!(left["total"], 0, "{left}");
    server.stop().await;
}
