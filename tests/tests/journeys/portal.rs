//! The developers' portal beside the sales: for whom services ask, what each tier allows, and what
//! whoever keeps the marketplace sees.

use hyper::Method;
use journeys::{Api, Call, Server, User, text};
use serde_json::{Value, json};

/// What each tier allows: name, price, apps, days of figures, share, whether it has payouts.
const TIERS: [(&str, i64, usize, u32, i64, bool); 3] = [
    ("explorer", 0, 1, 7, 70, false),
    ("indie", 9_000, 3, 30, 80, true),
    ("studio", 29_000, 10, 90, 85, true),
];

fn register(api: &Api, user: &User, tier: &str, nickname: &str) -> Call {
    let body = json!({"tier": tier, "nickname": nickname});
    api.post("/v1/developer/register", &body).as_user(user)
}

fn create(api: &Api, user: &User, app: &str) -> Call {
    let body = json!({"app_id": app, "display_name": "Shelf", "description": "Keeps books",
        "icon": "book", "git_url": "https://example.com/shelf.git"});
    api.post("/v1/developer/apps", &body).as_user(user)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_acts_for_the_user_that_it_names_and_a_user_for_nobody_else() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let body = json!({"user_id": ada.id, "tier": "explorer", "nickname": "ada"});
    let registered = api.post("/v1/developer/register", &body).service().send().await.ok(200);
    assert_eq!(registered["imperal_id"], ada.id.as_str());
    let app = json!({"user_id": ada.id, "app_id": "shelf", "display_name": "Shelf",
        "git_url": "https://example.com/shelf.git"});
    api.post("/v1/developer/apps", &app).service().send().await.ok(200);

    let profile = |user: &str| api.get(&format!("/v1/developer/profile?user_id={user}"));
    assert_eq!(profile(&ada.id).service().send().await.ok(200)["apps_count"], 1);
    profile(&bob.id).service().send().await.problem(403, "not_a_developer");
    profile("nobody").service().send().await.problem(422, "validation_error");
    let both = profile(&bob.id).service().header("x-acting-user", &ada.id);
    both.send().await.problem(403, "forbidden");
    let neither = api.get("/v1/developer/profile").service();
    neither.send().await.problem(422, "validation_error");
    let stranger = profile(&ada.id).header("x-service-token", "not the token");
    stranger.send().await.problem(401, "unauthorized");

    profile(&ada.id).as_user(&ada).send().await.ok(200);
    profile(&ada.id).as_user(&bob).send().await.problem(403, "forbidden");
    let gone = json!({"user_id": ada.id, "confirm_name": "shelf"}).to_string();
    let gone = || api.request(Method::DELETE, "/v1/developer/apps/shelf").json(gone.clone());
    gone().as_user(&bob).send().await.problem(403, "not_a_developer");
    gone().service().send().await.ok(200);

    // To look, a service need be nobody; what it says is looked at is said of that user.
    let apps = api.get("/v1/marketplace/apps").service().send().await.ok(200);
    assert_eq!(apps["total"], 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tier_allows_what_it_says() {
    let server = Server::start_with(|settings| {
        (settings.explorer_apps, settings.payout_minimum) = (1, 1);
    })
    .await;
    let (api, operator) = (&server.api, server.api.operator().await);
    for (tier, price, apps, days, share, has_payouts) in TIERS {
        let user = api.user(tier).await;
        let name = |number: usize| format!("{tier}-{number}");
        if price > 0 {
            register(api, &user, tier, tier).send().await.problem(402, "insufficient_credits");
            create(api, &user, &name(0)).send().await.ok(200);
            api.grant(&operator, &user.id, price).await;
            let put = api.request(Method::PUT, "/v1/developer/tier");
            let put = put.json(json!({"tier": tier}).to_string()).as_user(&user);
            assert_eq!(put.send().await.ok(200)["price_credits"], price);
        } else {
            register(api, &user, tier, tier).send().await.ok(200);
            create(api, &user, &name(0)).send().await.ok(200);
        }
        for number in 1..apps {
            create(api, &user, &name(number)).send().await.ok(200);
        }
        // The share of an app that was there before follows right after the answer.
        let entity = format!("/v1/operator/actors/app/{}", name(0));
        let look = || api.get(&entity).as_user(&operator).send();
        while look().await.ok(200)["state"]["revenue_split_dev"] != share {
            tokio::task::yield_now().await;
        }
        let listed = api.get("/v1/developer/apps").as_user(&user).send().await.ok(200);
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), apps);
        assert!(listed.iter().all(|app| app["revenue_split_dev"] == share), "{listed:?}");
        let more = create(api, &user, &format!("{tier}-more")).send().await;
        more.problem(403, "app_limit");
        let app = format!("/v1/developer/apps/{tier}-0");
        let over = json!({"revenue_split_dev": share + 1}).to_string();
        let over = api.request(Method::PUT, &app).json(over).as_user(&user);
        over.send().await.problem(422, "validation_error");
        let figures = |query: String| api.get(&format!("{app}/analytics{query}")).as_user(&user);
        assert_eq!(figures(format!("?days={days}")).send().await.ok(200)["days"], days);
        figures(format!("?days={}", days + 1)).send().await.problem(400, "analytics_window");
        let usual = figures(String::new()).send().await.ok(200);
        assert_eq!(usual["days"], days.min(30), "without being told what the tier shows");
        let payout = api.post("/v1/developer/payouts", &json!({"amount": 1})).as_user(&user);
        match has_payouts {
            true => payout.send().await.problem(409, "insufficient_earnings"),
            false => payout.send().await.problem(403, "tier_has_no_payouts"),
        };
    }
    server.stop().await;
}

/// How many requests are let in before one is refused. The minute may turn meanwhile: then they
/// are more than a minute's.
async fn let_in(api: &Api, user: &User) -> usize {
    let mut admitted = 0;
    loop {
        let answer = api.get("/v1/developer/earnings").as_user(user).send().await;
        if answer.status == 429 {
            answer.problem(429, "developer_rate");
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            return admitted;
        }
        answer.ok(200);
        admitted += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_has_so_many_requests_of_each_tier() {
    let server = Server::start().await;
    let (api, operator) = (&server.api, server.api.operator().await);
    for (tier, price, per_minute) in [("explorer", 0, 100), ("indie", 9_000, 500)] {
        let user = api.user(tier).await;
        if price > 0 {
            api.grant(&operator, &user.id, price).await;
        }
        register(api, &user, tier, tier).send().await.ok(200);
        // Registering with a tier asks for it, and for the profile.
        let before = if price > 0 { 2 } else { 0 };
        let admitted = let_in(api, &user).await;
        let allowed = per_minute - before..=2 * per_minute;
        assert!(allowed.contains(&admitted), "{tier}: {admitted}");
    }
    let other = api.user("other").await;
    register(api, &other, "explorer", "other").send().await.ok(200);
    api.get("/v1/developer/earnings").as_user(&other).send().await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_keeps_the_marketplace_sees_what_waits_and_who_develops() {
    let server = Server::start().await;
    let (api, operator) = (&server.api, server.api.operator().await);
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    // Deployed, and so handed in without a look at what submitting looks at.
    api.shelf(&ada, "shelf").await;
    register(api, &bob, "explorer", "bob").send().await.ok(200);
    create(api, &bob, "draft").send().await.ok(200);
    let pending = api.get("/v1/admin/apps/pending").as_user(&operator).send().await.ok(200);
    let waiting = &pending["items"][0];
    assert_eq!((&pending["total"], &waiting["app_id"]), (&json!(1), &json!("shelf")));
    assert_eq!((&waiting["developer"], &waiting["version"]), (&json!("n-shelf"), &json!("1.0.0")));
    assert_eq!(waiting["scopes"], json!(["shelf:read", "shelf:write", "store"]));
    let checks = waiting["checks"].as_array().unwrap().iter();
    let unmet: Vec<_> =
        checks.filter(|it| it["ok"] == false).map(|it| text(&it["check"])).collect();
    assert_eq!(unmet, ["description_given", "icon_given"]);

    let list = async |query: &str| -> Value {
        let path = format!("/v1/admin/developers{query}");
        api.get(&path).as_user(&operator).send().await.ok(200)
    };
    let all = list("").await;
    let names = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|it| text(&it["nickname"])).collect()
    };
    assert_eq!(names(&all), ["n-shelf", "bob"], "in the order of sign-up");
    assert_eq!((&all["items"][0]["apps_count"], &all["next_cursor"]), (&json!(1), &Value::Null));
    assert!(!all.to_string().contains("@example.com"), "no addresses: {all}");
    let first = list("?limit=1").await;
    let next = list(&format!("?limit=1&cursor={}", text(&first["next_cursor"]))).await;
    assert_eq!((names(&first), names(&next)), (vec!["n-shelf".into()], vec!["bob".into()]));
    api.get("/v1/admin/developers").as_user(&ada).send().await.problem(403, "forbidden");
    let erased = api.request(Method::DELETE, "/v1/auth/me");
    let erased = erased.json(json!({"password": journeys::PASSWORD}).to_string()).as_user(&ada);
    assert!(erased.send().await.status < 300);
    assert_eq!(names(&list("").await), ["bob"], "who was erased is no developer any more");
    server.stop().await;
}
