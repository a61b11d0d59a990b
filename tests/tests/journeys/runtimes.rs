//! What an app's own runtime does with the service token beside its documents: sections, files,
//! notices, settings, reports, and prompts that a model completes.

use hyper::Method;
use journeys::{Answer, Api, Call, PASSWORD, SERVICE_TOKEN, Server, User, text};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::hosts::Got;
use crate::mail::{mail, token};

const BOUNDARY: &str = "the-end-of-a-part";
/// Longer than a piece, so that it is stored in several.
const LONG: usize = 700_000;

/// As the runtime of `shelf`, in a user's tenant.
fn shelf_of(call: Call, user: &User) -> Call {
    call.service().header("x-tenant-id", &user.id).header("x-extension-id", "shelf")
}

/// A form of fields and of files, in this order.
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        body.extend(
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"").bytes(),
        );
        if let Some(file) = file {
            body.extend(format!("; filename=\"{file}\"\r\ncontent-type: text/html").bytes());
        }
        body.extend(b"\r\n\r\n");
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

fn upload(api: &Api, user: &User, parts: &[(&str, Option<&str>, &[u8])]) -> Call {
    let (kind, body) = form(parts);
    let call = api.request(Method::POST, "/v1/internal/storage/upload").body(&kind, body);
    shelf_of(call, user)
}

async fn download(api: &Api, user: &User, path: &str) -> Answer {
    let path = format!("/v1/internal/storage/download?path={path}");
    shelf_of(api.get(&path), user).send().await
}

async fn listed(api: &Api, user: &User, query: &str) -> Value {
    let path = format!("/v1/internal/storage/list?{query}");
    shelf_of(api.get(&path), user).send().await.ok(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_there_whole_or_not_at_all_and_after_a_restart() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    server.api.shelf(&user, "shelf").await;
    let api = &server.api;
    let long: Vec<u8> = (0..LONG).map(|at| (at % 251) as u8).collect();

    // Stored under one spelling of its path, and the same once more with the same key.
    let at = |path: &'static str| ("path", None, path.as_bytes());
    let parts = [at("/books//emma.html"), ("file", Some("x.html"), long.as_slice())];
    let stored = upload(api, &user, &parts).key("k1").send().await.ok(200);
    assert_eq!((&stored["path"], &stored["size"]), (&json!("books/emma.html"), &json!(LONG)));
    assert_eq!(upload(api, &user, &parts).key("k1").send().await.ok(200), stored);
    let other = [at("/books//emma.html"), ("file", Some("x.html"), b"other".as_slice())];
    upload(api, &user, &other).key("k1").send().await.problem(422, "idempotency_key_reused");

    // What comes back runs nowhere.
    let found = download(api, &user, "books/emma.html").await;
    assert!(found.status == 200 && found.bytes == long, "{} bytes", found.bytes.len());
    let header = |name: &str| found.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("etag"), text(&stored["etag"]));
    assert!(header("content-disposition").starts_with("attachment; filename=\"emma.html\""));
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-security-policy"), "sandbox; default-src 'none'");
    let again = api.get("/v1/internal/storage/download?path=books/emma.html");
    let again = shelf_of(again, &user).header("if-none-match", &header("etag")).send().await;
    assert_eq!((again.status, again.bytes.len()), (304, 0));
    let by_url = api.get(&text(&stored["url"])).service().send().await;
    assert_eq!(by_url.bytes, long, "the URL names all that it needs");
    let bearer = api.get(&text(&stored["url"])).bearer(SERVICE_TOKEN).send().await;
    assert_eq!(bearer.status, 200, "clients send the token so as well");

    // Another takes its place; an empty one is a file, too; a file without a path has its name.
    upload(api, &user, &other).send().await.ok(200);
    upload(api, &user, &[("file", Some("empty.txt"), b"")]).send().await.ok(200);
    let server = server.restart().await;
    let api = &server.api;
    assert_eq!(download(api, &user, "books/emma.html").await.text(), "other");
    let empty = download(api, &user, "empty.txt").await;
    assert_eq!((empty.status, empty.bytes.len()), (200, 0));
    let all = listed(api, &user, "").await;
    assert_eq!(all["files"], json!(["books/emma.html", "empty.txt"]));
    assert_eq!(listed(api, &user, "prefix=books/").await["files"], json!(["books/emma.html"]));
    let page = listed(api, &user, "limit=1").await;
    let next = format!("limit=1&cursor={}", text(&page["next_cursor"]));
    let next = listed(api, &user, &next).await;
    assert_eq!((&next["files"], &next["next_cursor"]), (&json!(["empty.txt"]), &Value::Null));

    // Removed once.
    let remove = || {
        let path = "/v1/internal/storage?path=books/emma.html";
        shelf_of(api.request(Method::DELETE, path), &user).send()
    };
    assert_eq!(remove().await.ok(200)["deleted"], true);
    remove().await.problem(404, "not_found");
    download(api, &user, "books/emma.html").await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_settings_go_along_with_their_tenant_and_end_with_it() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    api.shelf(&user, "shelf").await;
    let before = ("file", Some("a.txt"), b"before".as_slice());
    upload(api, &user, &[before]).send().await.ok(200);
    let after = ("file", Some("a.txt"), b"after".as_slice());
    upload(api, &user, &[after]).send().await.ok(200);
    let set = json!({"config": {"colour": "green"}}).to_string();
    let set = api.request(Method::PUT, "/v1/internal/config/app/shelf").json(set);
    shelf_of(set, &user).send().await.ok(200);

    // A copy has them, for who may know of the app, and what is changed in it is its own.
    let path = format!("/v1/tenants/{}/sandbox", user.id);
    let copy = api.post(&path, &json!({})).as_user(&user).send().await.ok(201);
    let copy = User { id: text(&copy["tenant_id"]), ..user.clone() };
    let acting = |call: Call| call.header("x-acting-user", &user.id).send();
    let path = "/v1/internal/storage/download?path=a.txt";
    let there = acting(shelf_of(api.get(path), &copy)).await;
    assert_eq!((there.status, there.text().as_str()), (200, "after"));
    let resolve = format!("/v1/internal/config/resolve?tenant_id={}&app_id=shelf", copy.id);
    let resolved = acting(shelf_of(api.get(&resolve), &copy)).await.ok(200);
    assert_eq!(resolved, json!({"colour": "green"}));
    acting(upload(api, &copy, &[before])).await.ok(200);
    assert_eq!(acting(shelf_of(api.get(path), &copy)).await.text(), "before");
    assert_eq!(download(api, &user, "a.txt").await.text(), "after");

    // Whoever is erased takes along what was kept about them, and their tenant its files.
    let operator = api.operator().await;
    let path = format!("/v1/users/{}/erase", user.id);
    let body = json!({"confirm": user.email, "reason": "asked for"});
    api.post(&path, &body).as_user(&operator).send().await.ok(200);
    for gone in [&user, &copy] {
        download(api, gone, "a.txt").await.problem(404, "not_found");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_upload_leaves_nothing_behind() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    api.shelf(&user, "shelf").await;
    let file = ("file", Some("a.txt"), b"abc".as_slice());
    let large = vec![0; 25 * 1024 * 1024 + 1];
    let path = |path: &'static str| ("path", None, path.as_bytes());
    for (parts, status, code) in [
        (vec![path("../a"), file], 422, "validation_error"),
        (vec![path("")], 422, "validation_error"),
        (vec![file, path("late")], 422, "validation_error"),
        (vec![file, file], 422, "validation_error"),
        (vec![("extension_id", None, b"press".as_slice()), file], 403, "forbidden"),
        (vec![("tenant_id", None, b"imp_t_x".as_slice()), file], 403, "forbidden"),
        (vec![("file", Some("a.txt"), large.as_slice())], 413, "file_too_large"),
    ] {
        upload(api, &user, &parts).send().await.problem(status, code);
    }
    let (kind, mut body) = form(&[file]);
    body.truncate(body.len() - 20);
    let cut = api.request(Method::POST, "/v1/internal/storage/upload").body(&kind, body);
    shelf_of(cut, &user).send().await.problem(400, "body_incomplete");
    let json = api.post("/v1/internal/storage/upload", &json!({}));
    shelf_of(json, &user).send().await.problem(415, "unsupported_media_type");
    assert_eq!(listed(api, &user, "").await["files"], json!([]));
    let operator = api.operator().await;
    let actor = format!("/v1/operator/actors/files/{}", user.id.trim_start_matches("imp_u_"));
    let files = api.get(&actor).as_user(&operator).send().await.ok(200).to_string();
    assert!(files.contains("\"bytes\":0") && files.contains("\"uploads\":[]"), "{files}");

    // Nobody else's, and no app that is not there.
    let bob = api.user("bob").await;
    upload(api, &user, &[file]).send().await.ok(200);
    let foreign = api.get("/v1/internal/storage/download?path=a.txt&extension_id=shelf");
    foreign.service().header("x-tenant-id", &bob.id).send().await.problem(404, "not_found");
    let named = format!("/v1/internal/storage/list?tenant_id={}", bob.id);
    shelf_of(api.get(&named), &user).send().await.problem(403, "forbidden");
    let nothing = api.get("/v1/internal/storage/list?extension_id=nothing").service();
    nothing.header("x-tenant-id", &user.id).send().await.problem(404, "not_found");
    let unnamed = api.get("/v1/internal/storage/list?extension_id=shelf").service();
    unnamed.send().await.problem(422, "validation_error");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_section_is_kept_and_a_setting_counts_where_it_is_narrowest() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    api.shelf(&user, "shelf").await;
    let path = format!("/v1/internal/skeleton/{}/inbox", user.id);
    let put = |body: Value| api.request(Method::PUT, &path).json(body.to_string()).service();
    let ask = || api.get(&format!("{path}?extension_id=shelf")).bearer(SERVICE_TOKEN).send();
    ask().await.problem(404, "not_found");
    let body = json!({"extension_id": "shelf", "data": {"unread": 1}, "ttl_seconds": 600});
    let set = put(body.clone()).key("k").send().await.ok(200);
    assert_eq!((&set["version"], &set["data"]["unread"]), (&json!(1), &json!(1)));
    assert_eq!(put(body).key("k").send().await.ok(200), set);
    let second = json!({"extension_id": "shelf", "data": {"unread": 2}});
    assert_eq!(put(second.clone()).header("if-match", "\"1\"").send().await.ok(200)["version"], 2);
    let stale = put(second.clone()).header("if-match", "\"1\"").send().await;
    assert_eq!(stale.problem(409, "version_conflict")["version"], 2);
    let found = ask().await;
    assert_eq!(found.headers["etag"], "\"2\"");
    let found = found.ok(200);
    assert_eq!((&found["data"], &found["expires_at"]), (&json!({"unread": 2}), &Value::Null));
    let nobody = "/v1/internal/skeleton/imp_u_00000000000000000000000009/inbox?extension_id=shelf";
    api.get(nobody).service().send().await.problem(404, "not_found");
    api.get(&path).service().send().await.problem(422, "validation_error");
    api.get(&path).as_user(&user).send().await.problem(403, "forbidden");

    // Platform, tenant with a default for its admins, user; what is enforced stays.
    let set = async |scope: &str, body: Value| {
        let path = format!("/v1/internal/config/{scope}");
        let call = api.request(Method::PUT, &path).json(body.to_string()).service();
        call.send().await.ok(200)
    };
    let small = json!({"config": {"models": {"primary": "small", "temperature": 0.7}},
        "enforced": {"limits": {"spend": 10}}});
    let of_platform = set("platform/platform", small).await;
    assert_eq!(
        (&of_platform["scope"], &of_platform["tenant_id"]),
        (&json!("platform"), &Value::Null)
    );
    let tenant = json!({"config": {"limits": {"spend": 99, "calls": 5}},
        "role_defaults": {"admin": {"panels": "all"}}, "updated_by": "ops"});
    set(&format!("tenant/{}", user.id), tenant).await;
    let own = json!({"config": {"models": {"primary": "mine"}}});
    set(&format!("user/{}?app_id=shelf", user.id), own).await;
    let resolve = async |more: &str| {
        let path = format!("/v1/internal/config/resolve?tenant_id={}&app_id=shelf", user.id);
        api.get(&format!("{path}{more}")).service().send().await.ok(200)
    };
    let for_all = json!({"models": {"primary": "small", "temperature": 0.7},
        "limits": {"spend": 10, "calls": 5}});
    assert_eq!(resolve("").await, for_all);
    let admin = resolve(&format!("&role=admin&user_id={}", user.id)).await;
    assert_eq!((&admin["panels"], &admin["models"]["primary"]), (&json!("all"), &json!("mine")));
    let part = json!({"enforced": {}});
    let kept = set(&format!("tenant/{}", user.id), part).await;
    assert_eq!(kept["config"]["limits"]["calls"], 5, "what is not named stays");

    // An app reaches itself alone, a tenant's service not the platform.
    let reach = |scope: &str| shelf_of(api.get(&format!("/v1/internal/config/{scope}")), &user);
    reach("app/shelf").send().await.ok(200);
    reach("role/user?app_id=shelf").send().await.ok(200);
    for wider in ["app/press", "role/user", "platform/platform"] {
        reach(wider).send().await.problem(403, "forbidden");
    }
    let call = api.get("/v1/internal/config/platform/platform").service();
    call.header("x-tenant-id", &user.id).send().await.problem(403, "forbidden");
    let unknown = api.get("/v1/internal/config/galaxy/x").service().send().await;
    unknown.problem(422, "validation_error");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_is_told_once_on_the_feed_in_a_list_and_by_mail() {
    let server = Server::start().await;
    let (api, email) = (&server.api, "ada@example.com");
    let body = json!({"email": email, "password": PASSWORD, "first_name": "Ada"});
    let id = text(&api.post("/v1/auth/signup", &body).send().await.ok(201)["user_id"]);
    let verified = mail(server.folder(), email, "Confirm your e-mail address").await;
    let tokens = api.post("/v1/auth/verify-email", &json!({"token": token(&verified)}));
    let tokens = tokens.send().await.ok(200);
    let user = User {
        email: email.to_owned(),
        id: id.clone(),
        token: text(&tokens["access_token"]),
        refresh: text(&tokens["refresh_token"]),
    };
    api.shelf(&user, "shelf").await;
    let mut events = api.get("/v1/events/stream").as_user(&user).events().await;
    let wish = json!({"notify_by_mail": true}).to_string();
    let wish = api.request(Method::PATCH, "/v1/me/settings").json(wish).as_user(&user);
    wish.send().await.ok(200);

    let body = json!({"user_id": id, "message": "Your report\nis ready", "extension_id": "shelf"});
    let notify = || api.post("/v1/internal/notify", &body).bearer(SERVICE_TOKEN).key("k");
    let told = notify().send().await.ok(200);
    assert_eq!(notify().send().await.ok(200), told, "once");
    let event = events.named("notification").await;
    assert_eq!(event.data["message"], "Your report\nis ready");
    assert_eq!(
        (&event.data["app_id"], &event.data["channel"]),
        (&json!("shelf"), &json!("default"))
    );
    let list = api.get("/v1/me/notices").as_user(&user).send().await.ok(200);
    assert_eq!(list["notices"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["notices"][0]["notice_id"], told["notice_id"]);
    let mail = mail(server.folder(), email, "A notice for you").await;
    assert!(mail.contains("The app shelf tells you") && mail.contains("  is ready"), "{mail}");

    let bob = api.user("bob").await;
    let list = api.get("/v1/me/notices").as_user(&bob).send().await.ok(200);
    assert_eq!(list["notices"], json!([]));
    let foreign = api.post("/v1/internal/notify", &body).service();
    foreign.header("x-tenant-id", &bob.id).send().await.problem(404, "not_found");
    for more in
        [json!({"message": ""}), json!({"message": "a\u{202e}b"}), json!({"channel": "a b"})]
    {
        let mut unfit = body.clone();
        unfit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let call = api.post("/v1/internal/notify", &unfit).service().send().await;
        call.problem(422, "validation_error");
    }
    for _ in 1..60 {
        api.post("/v1/internal/notify", &body).service().send().await.ok(200);
    }
    let much = api.post("/v1/internal/notify", &body).service().send().await;
    much.problem(429, "too_many_notices");
    assert!(much.headers.contains_key("retry-after"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reported_stands_in_the_chain_and_costs_nothing() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    api.shelf(&user, "shelf").await;
    let before = api.settled_balance(&user).await;
    let entry = json!({"actor_id": user.id, "action": "invoice.send", "target_type": "invoice",
        "target_id": "2026-114", "changes": {"status": ["draft", "sent"]}});
    let audit = || api.post("/v1/internal/audit", &entry).service().key("a").send();
    let audited = audit().await.ok(201);
    assert_eq!(audit().await.ok(201), audited);
    let action = json!({"trace_id": "t-1", "user_id": user.id, "app_id": "shelf",
        "tool_name": "add_book", "action_type": "write", "status": "failed", "action_price": 9.5});
    let acted = api.post("/v1/actions", &action).service().send().await.ok(200);

    let path = format!("/v1/actions/{}", text(&audited["trace_id"]));
    let found = api.get(&path).as_user(&user).send().await.ok(200);
    assert_eq!((&found["tool_name"], &found["price"]), (&json!("invoice.send"), &json!(0)));
    assert_eq!(found["user_id"], user.id);
    assert!(!found.to_string().contains("2026-114"), "no contents: {found}");
    let path = format!("/v1/internal/actions?user_id={}&app_id=shelf&status=error", user.id);
    let listed = api.get(&path).service().send().await.ok(200);
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{listed}");
    assert_eq!(
        (&items[0]["tool_name"], &items[0]["action_type"]),
        (&json!("add_book"), &json!("write"))
    );
    assert_eq!(items[0]["trace_id"], acted["trace_id"]);
    assert_eq!(api.settled_balance(&user).await, before);
    let running = api.get(&format!("/v1/internal/processes/{}", user.id)).service();
    let running = running.send().await.ok(200);
    assert_eq!((&running["count"], &running["tasks"]), (&json!(0), &json!([])));

    // Of a member, by a name that is one, and of nobody else.
    let bob = api.user("bob").await;
    let mut foreign = entry.clone();
    foreign["tenant_id"] = json!(bob.id);
    api.post("/v1/internal/audit", &foreign).service().send().await.problem(404, "not_found");
    let mut unnamed = entry.clone();
    unnamed["action"] = json!("two words");
    let unnamed = api.post("/v1/internal/audit", &unnamed).service().send().await;
    unnamed.problem(422, "validation_error");
    let verified = api.get("/v1/actions/verify").as_user(&user).send().await.ok(200);
    assert_eq!(verified["verified"], true);

    // An app's events are called by its id, and counted.
    let event = json!({"action": "added"});
    let published = shelf_of(api.post("/v1/internal/events/publish", &event), &user);
    published.send().await.ok(200);
    let stats = api.get("/v1/events/stats").service().header("x-tenant-id", &user.id);
    let stats = stats.send().await.ok(200);
    assert_eq!(
        (&stats["published"], &stats["published_by_app"]),
        (&json!(1), &json!({"shelf": 1}))
    );
    server.stop().await;
}

/// A model that answers what it was asked last, or fails for the prompt `fail`.
async fn model() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(got) = Got::read(&mut stream).await else { continue };
            let asked = got.value();
            let last = asked["messages"].as_array().unwrap().last().unwrap()["content"].clone();
            let said = asked["messages"].as_array().unwrap().len();
            let answer = json!({"usage": {"prompt_tokens": 7, "completion_tokens": 3}, "choices":
                [{"message": {"content": format!("{said}: {}", last.as_str().unwrap())}}]});
            let (status, body) = if last == "fail" { (500, json!({})) } else { (200, answer) };
            let body = body.to_string();
            let head = "content-type: application/json\r\nconnection: close";
            let whole = format!(
                "HTTP/1.1 {status} X\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(whole.as_bytes()).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_is_completed_once_and_what_it_used_is_recorded() {
    let url = model().await;
    let server = Server::start_with(|settings| {
        (settings.dev, settings.ai_url) = (true, Some(url));
    });
    let server = server.await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    api.shelf(&user, "shelf").await;
    let before = api.settled_balance(&user).await;
    let ask = |body: &Value| api.post("/v1/internal/ai/complete", body).bearer(SERVICE_TOKEN);
    let body = json!({"prompt": "hello", "system": "be brief", "extension_id": "shelf"});
    let completed = ask(&body).key("k").send().await.ok(200);
    assert_eq!((&completed["text"], &completed["tokens_used"]), (&json!("2: hello"), &json!(10)));
    assert_eq!(ask(&body).key("k").send().await.ok(200), completed);
    let fail = json!({"prompt": "fail", "extension_id": "shelf"});
    ask(&fail).key("f").send().await.problem(503, "ai_refused");
    ask(&fail).key("f").send().await.problem(503, "ai_refused");
    let mut hot = body.clone();
    hot["temperature"] = json!(9);
    ask(&hot).send().await.problem(422, "validation_error");
    ask(&json!({"prompt": "hello"})).send().await.problem(422, "validation_error");
    let actions = api.get("/v1/actions?search=ai.complete").as_user(&user).send().await.ok(200);
    let actions = actions["items"].as_array().unwrap();
    let ends: Vec<_> = actions.iter().map(|it| text(&it["status"])).collect();
    assert_eq!(ends, ["error", "error", "success"], "{actions:?}");
    assert_eq!(api.settled_balance(&user).await, before);
    server.stop().await;
}
