//! What waits for its user: cards, who decides them, and that what was confirmed is done once.

use futures::future::join_all;
use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, WELCOME, text};
use serde_json::{Value, json};

/// What `add_book` costs: the app's price and the platform's fee.
const BOOK: i64 = 3;

async fn set(api: &Api, user: &User, settings: &Value) {
    let patch = api.request(Method::PATCH, "/v1/me/settings").json(settings.to_string());
    patch.as_user(user).send().await.ok(200);
}

/// A user with the shelf, whose writing calls wait.
async fn careful(api: &Api, name: &str, app: &str) -> User {
    let user = api.user(name).await;
    api.shelf(&user, app).await;
    set(api, &user, &json!({"confirmation_enabled": true})).await;
    user
}

fn add(title: &str) -> Value {
    json!({"function": "add_book", "params": {"title": title}})
}

async fn ask(api: &Api, user: &User, title: &str) -> Value {
    api.post("/v1/extensions/shelf/call", &add(title)).as_user(user).send().await.ok(200)
}

/// The id of the card that a call became.
#[track_caller]
fn card_of(answer: &Value) -> String {
    assert_eq!(answer["data"]["RESULT"], "INTERCEPTED", "{answer}");
    text(&answer["data"]["confirmation_id"])
}

async fn decide(api: &Api, user: &User, id: &str, how: &str) -> Answer {
    let path = format!("/v1/confirmations/{id}/{how}");
    api.post(&path, &json!({})).as_user(user).send().await
}

async fn books(api: &Api, user: &User) -> Value {
    let list = json!({"function": "books"});
    let call = api.post("/v1/extensions/shelf/call", &list).as_user(user);
    call.send().await.ok(200)["data"]["count"].clone()
}

async fn holds(api: &Api, user: &User) -> usize {
    let holds = api.get("/v1/billing/holds?limit=200").as_user(user).send().await.ok(200);
    holds.as_array().unwrap().len()
}

/// Until nothing is held any more: cards give back what was held a moment after they end.
async fn nothing_held(api: &Api, user: &User) {
    while holds(api, user).await > 0 {
        tokio::task::yield_now().await;
    }
}

async fn active(api: &Api, user: &User) -> Vec<Value> {
    let active = api.get("/v1/confirmations/active").as_user(user).send().await.ok(200);
    active["confirmations"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_its_user_and_is_carried_out_once() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (careful(api, "ada", "shelf").await, api.user("bob").await);
    let mut events = api.get("/v1/events/stream").as_user(&ada).events().await;
    let answer = ask(api, &ada, "Emma").await;
    let id = card_of(&answer);
    let data = &answer["data"];
    assert_eq!((&data["function"], &data["action_type"]), (&json!("add_book"), &json!("write")));
    assert_eq!(
        (&data["params"], &answer["status"]),
        (&json!({"title": "Emma"}), &json!("success"))
    );
    assert_eq!(
        (&answer["ui"]["type"], &answer["ui"]["confirmation_id"]),
        (&json!("confirmation"), &json!(id))
    );
    let opened = events.named("confirmation_opened").await;
    assert_eq!(
        (&opened.data["confirmation_id"], &opened.data["price"]),
        (&json!(id), &json!(BOOK))
    );

    // It has not run, and what it costs is held. Asked for again it is the same card.
    assert_eq!((books(api, &ada).await, holds(api, &ada).await), (json!(0), 1));
    assert_eq!(card_of(&ask(api, &ada, "Emma").await), id);
    assert_ne!(card_of(&ask(api, &ada, "Persuasion").await), id);
    let cards = active(api, &ada).await;
    assert_eq!((cards.len(), &cards[0]["confirmation_id"]), (2, &json!(id)));
    assert_eq!((&cards[0]["state"], &cards[0]["price"]), (&json!("pending"), &json!(BOOK)));
    // Nobody else's.
    let path = format!("/v1/confirmations/{id}");
    api.get(&path).as_user(&bob).send().await.problem(404, "not_found");
    decide(api, &bob, &id, "confirm").await.problem(404, "not_found");
    decide(api, &bob, &id, "cancel").await.problem(404, "not_found");
    decide(api, &ada, "cnf_x", "confirm").await.problem(404, "not_found");

    let confirmed = decide(api, &ada, &id, "confirm").await.ok(200);
    assert_eq!(
        (&confirmed["state"], &confirmed["content"]["status"]),
        (&json!("executed"), &json!("success"))
    );
    assert_eq!(events.named("confirmation_decided").await.data["state"], "confirmed");
    let again = decide(api, &ada, &id, "accept").await.ok(200);
    assert_eq!(again, confirmed);
    decide(api, &ada, &id, "cancel").await.problem(409, "confirmation_decided");
    assert_eq!(books(api, &ada).await, 1);
    let card = api.get(&path).as_user(&ada).send().await.ok(200);
    assert_eq!((&card["state"], &card["content"]), (&json!("executed"), &confirmed["content"]));
    // Asked for once more it is another card.
    assert_ne!(card_of(&ask(api, &ada, "Emma").await), id);
    for card in active(api, &ada).await {
        decide(api, &ada, &text(&card["confirmation_id"]), "cancel").await.ok(200);
    }
    nothing_held(api, &ada).await;
    // Each reading call costs two.
    let reads = 2 * 2;
    assert_eq!(api.balance(&ada).await, WELCOME.0 - BOOK - reads);
    let actions = api.get("/v1/actions?per_page=100").as_user(&ada).send().await.ok(200);
    let accepted = actions["items"].as_array().unwrap().iter();
    let accepted: Vec<_> = accepted.filter(|it| it["confirmation"] == "user_accepted").collect();
    assert_eq!(accepted.len(), 1, "{actions}");
    assert_eq!(
        (&accepted[0]["tool_name"], &accepted[0]["price"]),
        (&json!("add_book"), &json!(BOOK))
    );
    let chain = api.get("/v1/actions/verify").as_user(&ada).send().await.ok(200);
    assert_eq!(chain["verified"], true, "{chain}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_meanwhile_is_void_and_what_was_cancelled_stays_so() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = careful(api, "ada", "shelf").await;
    let id = card_of(&ask(api, &ada, "Emma").await);
    let cancelled = decide(api, &ada, &id, "cancel").await.ok(200);
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(decide(api, &ada, &id, "cancel").await.ok(200)["state"], "cancelled");
    let problem = decide(api, &ada, &id, "confirm").await.problem(409, "confirmation_decided");
    assert_eq!(problem["state"], "cancelled");
    nothing_held(api, &ada).await;

    // Another policy.
    let id = card_of(&ask(api, &ada, "Emma").await);
    set(api, &ada, &json!({"confirmation_actions": {"all": true}})).await;
    let problem = decide(api, &ada, &id, "confirm").await.problem(409, "confirmation_void");
    assert_eq!(problem["changed"][0]["name"], "policy");
    set(api, &ada, &json!({"confirmation_actions": {}})).await;
    // Another version.
    let id = card_of(&ask(api, &ada, "Emma").await);
    let mut document = journeys::shelf_document("shelf");
    document["app"]["version"] = json!("1.0.1");
    set(api, &ada, &json!({"confirmation_overrides": {"developer": "never"}})).await;
    let params = json!({"app_id": "shelf", "ir_dict": document});
    assert_eq!(api.built_in(&ada, "deploy_ir", &params).await["status"], "success");
    let problem = decide(api, &ada, &id, "confirm").await.problem(409, "confirmation_void");
    assert_eq!(problem["changed"][0]["name"], "app_version");
    nothing_held(api, &ada).await;
    assert_eq!(books(api, &ada).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_batch_each_call_waits_by_itself_and_a_key_answers_alike() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = careful(api, "ada", "shelf").await;
    let calls = json!({"calls": [{"function": "books"}, add("Emma"), {"function": "nothing"},
        add("Persuasion"), {"function": "books"}]});
    let batch = || api.post("/v1/extensions/shelf/batch", &calls).as_user(&ada).key("b");
    let answers = batch().send().await.ok(200);
    assert_eq!(
        (&answers[0]["data"]["count"], &answers[4]["data"]["count"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(answers[2]["status"], "error");
    let ids = [card_of(&answers[1]), card_of(&answers[3])];
    assert_ne!(ids[0], ids[1]);
    for id in &ids {
        assert_eq!(decide(api, &ada, id, "confirm").await.ok(200)["state"], "executed");
    }
    assert_eq!(batch().send().await.ok(200), answers, "it was asked for once");
    assert_eq!(active(api, &ada).await.len(), 0);
    // All of them wait: the answer is recorded with the last card.
    let calls = json!({"calls": [add("Emma"), add("Sanditon")]});
    let batch = || api.post("/v1/extensions/shelf/batch", &calls).as_user(&ada).key("c");
    let answers = batch().send().await.ok(200);
    decide(api, &ada, &card_of(&answers[0]), "confirm").await.ok(200);
    assert_eq!(batch().send().await.ok(200), answers);
    assert_eq!(active(api, &ada).await.len(), 1);
    let call = || api.post("/v1/extensions/shelf/call", &add("Emma")).as_user(&ada).key("d");
    let answer = call().send().await.ok(200);
    let confirm = |key: &'static str| {
        let path = format!("/v1/confirmations/{}/confirm", card_of(&answer));
        api.post(&path, &json!({})).as_user(&ada).key(key)
    };
    let confirmed = confirm("e").send().await;
    assert_eq!(call().send().await.ok(200), answer);
    assert_eq!(confirm("e").send().await.bytes, confirmed.bytes);
    assert_eq!(confirm("f").send().await.bytes, confirmed.bytes);
    assert_eq!(books(api, &ada).await, 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guarded_way_says_what_waits_and_believes_a_person_alone() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = careful(api, "ada", "shelf").await;
    let key = json!({"name": "k", "scopes": "*"});
    let key = text(&api.post("/v1/keys", &key).as_user(&ada).send().await.ok(201)["key"]);
    let operate = |title: &str, is_claimed: bool| {
        let mut body = add(title);
        body["confirmation_bypassed"] = json!(is_claimed);
        api.post("/v1/extensions/shelf/operate", &body)
    };
    let waits = operate("Emma", false).as_user(&ada).key("k").send().await.ok(200);
    assert_eq!((&waits["kind"], &waits["state"]), (&json!("confirmation"), &json!("pending")));
    let id = text(&waits["confirmation_id"]);
    let again = operate("Emma", false).as_user(&ada).key("k").send().await.ok(200);
    assert_eq!(again, waits);
    let believed = operate("Sanditon", true).as_user(&ada).send().await.ok(200);
    assert_eq!(
        (&believed["kind"], &believed["content"]["status"]),
        (&json!("tool_result"), &json!("success"))
    );
    let by_key = operate("Lady Susan", true).bearer(&key).send().await.ok(200);
    assert_eq!(by_key["kind"], "confirmation", "{by_key}");
    // A machine does not confirm itself, nor switch off that it is asked for.
    let of_key = text(&by_key["confirmation_id"]);
    let path = format!("/v1/confirmations/{of_key}/confirm");
    let refused = api.post(&path, &json!({})).bearer(&key).send().await;
    refused.problem(403, "confirmation_needs_person");
    let off = json!({"confirmation_enabled": false}).to_string();
    let off = api.request(Method::PATCH, "/v1/me/settings").json(off).bearer(&key).send().await;
    off.problem(403, "forbidden");
    // A key that is no more has asked for nothing.
    let keys = api.get("/v1/keys").as_user(&ada).send().await.ok(200);
    let list = keys.as_array().unwrap_or_else(|| keys["keys"].as_array().unwrap());
    let path = format!("/v1/keys/{}", text(&list[0]["id"]));
    let deleted = api.request(Method::DELETE, &path).as_user(&ada).send().await;
    assert!(deleted.status < 300, "{}", deleted.text());
    let failed = decide(api, &ada, &of_key, "confirm").await.ok(200);
    assert_eq!(
        (&failed["state"], &failed["content"]["status"]),
        (&json!("failed"), &json!("error"))
    );
    // Nobody is asked where nothing waits, and a service's calls wait for nobody.
    let service = api.post("/v1/extensions/shelf/call", &add("Love")).service();
    let service = service.header("x-tenant-id", &ada.id).header("x-acting-user", &ada.id);
    assert_eq!(service.send().await.ok(200)["data"]["RESULT"], Value::Null);
    decide(api, &ada, &id, "cancel").await.ok(200);
    set(api, &ada, &json!({"confirmation_enabled": false})).await;
    let runs = operate("Emma", false).as_user(&ada).send().await.ok(200);
    assert_eq!(runs["kind"], "tool_result");
    assert_eq!(books(api, &ada).await, 3);
    nothing_held(api, &ada).await;
    let wrong = json!({"confirmation_ttl": 5}).to_string();
    let patch = api.request(Method::PATCH, "/v1/me/settings").json(wrong).as_user(&ada);
    let problem = patch.send().await.problem(422, "validation_error");
    assert_eq!(problem["details"][0]["field"], "confirmation_ttl");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_confirms_on_the_page_after_they_have_seen_what() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = careful(api, "ada", "shelf").await;
    let bob = api.user("bob").await;
    let path = format!("/confirmations/{}", card_of(&ask(api, &ada, "<b>Emma</b>").await));
    let page = api.get(&path).send().await;
    assert!(page.status == 200 && !page.text().contains("Emma"), "{}", page.text());
    let headers = ["cache-control", "referrer-policy"];
    let headers = headers.map(|name| page.headers[name].to_str().unwrap());
    assert_eq!(headers, ["no-store", "no-referrer"]);
    let form = async |body: String| {
        let post = api.request(Method::POST, &path);
        post.body("application/x-www-form-urlencoded", body).send().await
    };
    let login = |email: &str, password: &str| format!("email={email}&password={password}");
    assert_eq!(form(login(&ada.email, "not-the-password")).await.status, 401);
    let foreign = form(login(&bob.email, PASSWORD)).await;
    assert!(foreign.status >= 400 && !foreign.text().contains("Emma"), "{}", foreign.text());
    let shown = form(login(&ada.email, PASSWORD)).await;
    assert_eq!(shown.status, 200, "{}", shown.text());
    assert!(shown.text().contains("&lt;b&gt;Emma"), "{}", shown.text());
    let ticket = shown.text();
    let ticket = ticket.split_once("name=\"ticket\" value=\"").unwrap().1;
    let ticket = ticket.split_once('"').unwrap().0;
    assert_eq!(form("ticket=made-up&decision=confirm".to_owned()).await.status, 403);
    let done = form(format!("ticket={ticket}&decision=confirm")).await;
    assert!(done.status == 200 && done.text().contains("It is done"), "{}", done.text());
    assert_eq!(form(format!("ticket={ticket}&decision=confirm")).await.status, 403);
    assert_eq!(form(login(&ada.email, PASSWORD)).await.status, 409);
    assert_eq!(books(api, &ada).await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_and_an_operator_end_what_waits() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, operator) = (careful(api, "ada", "shelf").await, api.operator().await);
    let ids = [card_of(&ask(api, &ada, "Emma").await), card_of(&ask(api, &ada, "Love").await)];
    let list = || api.get("/v1/operator/confirmations?limit=1").as_user(&operator);
    let first = list().send().await.ok(200);
    let cursor = text(&first["next_cursor"]);
    let path = format!("/v1/operator/confirmations?cursor={cursor}");
    let second = api.get(&path).as_user(&operator).send().await.ok(200);
    let listed = [&first["items"][0], &second["items"][0]];
    assert_eq!(listed.map(|item| text(&item["confirmation_id"])), ids);
    assert!(!first.to_string().contains("Emma"), "what was asked with is the tenant's own");
    assert_eq!(first["items"][0]["function"], "add_book");
    api.get("/v1/operator/confirmations").as_user(&ada).send().await.problem(403, "forbidden");
    let cancel = format!("/v1/operator/confirmations/{}/cancel", ids[0]);
    let why = json!({"reason": "for the test"});
    let cancelled = api.post(&cancel, &why).as_user(&operator).send().await.ok(200);
    assert_eq!(cancelled["state"], "cancelled");
    decide(api, &ada, &ids[0], "confirm").await.problem(409, "confirmation_decided");

    let why = json!({"reason": "for the test", "reason_class": "abuse"});
    let freeze = format!("/v1/operator/users/{}/freeze", ada.id);
    let receipt = api.post(&freeze, &why).as_user(&operator).send().await.ok(200);
    let receipt = &receipt["receipt"];
    assert_eq!((&receipt["cards_voided"], &receipt["credits_released"]), (&json!(1), &json!(BOOK)));
    let card = json!({"kind": "confirmation", "id": ids[1], "outcome": "voided"});
    assert!(receipt["items"].as_array().unwrap().contains(&card), "{receipt}");
    let resume = format!("/v1/operator/users/{}/resume", ada.id);
    api.post(&resume, &json!({"reason": "r"})).as_user(&operator).send().await.ok(200);
    let void = decide(api, &ada, &ids[1], "confirm").await.problem(409, "confirmation_void");
    assert_eq!(void["reason"], "frozen");
    nothing_held(api, &ada).await;
    assert_eq!(api.balance(&ada).await, WELCOME.0);
    server.stop().await;
}

/// Fifty yeses and ten noes at once, all of them more than once: one execution or none, one charge
/// or none, and everybody hears the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_decisions_have_one_outcome() {
    let server = Server::start().await;
    let api = &server.api;
    let ada = careful(api, "ada", "shelf").await;
    let (mut executed, mut reads) = (0, 0);
    for round in 0..4 {
        let title = format!("Volume {round}");
        let asked = (0..8).map(|_| ask(api, &ada, &title));
        let ids: Vec<String> = join_all(asked).await.iter().map(card_of).collect();
        let id = &ids[0];
        assert!(ids.iter().all(|other| other == id), "the same call is one card");
        let ada = &ada;
        let decisions = (0..60).map(|number| async move {
            let how = if number % 6 == 5 { "cancel" } else { "confirm" };
            let first = decide(api, ada, id, how).await;
            let again = decide(api, ada, id, how).await;
            assert_eq!(first.status, again.status);
            (how, first)
        });
        let answers = join_all(decisions).await;
        let card = api.get(&format!("/v1/confirmations/{id}")).as_user(ada).send().await.ok(200);
        let is_done = card["state"] == "executed";
        assert!(is_done || card["state"] == "cancelled", "{card}");
        executed += i64::from(is_done);
        for (how, answer) in answers {
            match (how == "confirm", is_done) {
                (true, true) => assert_eq!(answer.ok(200)["content"], card["content"]),
                (false, false) => assert_eq!(answer.ok(200)["state"], "cancelled"),
                _ => drop(answer.problem(409, "confirmation_decided")),
            }
        }
        assert_eq!(books(api, ada).await, executed);
        reads += 1;
    }
    nothing_held(api, &ada).await;
    assert_eq!(api.balance(&ada).await, WELCOME.0 - executed * BOOK - reads * 2);
    server.stop().await;
}
