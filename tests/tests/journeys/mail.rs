//! What goes by mail: signing up, verifying an address, replacing a password; with an outbox, with
//! a restart in between, and with a mail server that hangs.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use gateway::config::ServeArgs;
use gateway::mail::{OUTBOX, SmtpTls};
use gateway::start::start;
use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, WELCOME, settings, text};
use serde_json::{Value, json};

const NEW_PASSWORD: &str = "quite another long one";

/// Every mail to somebody, by its subject.
fn mails(folder: &Path, to: &str) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(folder.join(OUTBOX)) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let whole = paths.filter(|path| path.extension().is_some_and(|it| it == "eml"));
    let mails = whole.map(|path| std::fs::read_to_string(path).unwrap());
    let header = |mail: &str, name: &str| {
        mail.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).unwrap()
    };
    mails
        .filter(|mail| header(mail, "To: ") == to)
        .map(|mail| (header(&mail, "Subject: "), mail))
        .collect()
}

/// The mail with this subject, once it is there.
pub(super) async fn mail(folder: &Path, to: &str, subject: &str) -> String {
    loop {
        let found = mails(folder, to).into_iter().find(|(it, _)| it == subject);
        if let Some((_, mail)) = found {
            return mail;
        }
        tokio::task::yield_now().await;
    }
}

pub(super) fn token(mail: &str) -> String {
    let link = mail.lines().find(|line| line.starts_with("http")).unwrap();
    link.split_once("?token=").unwrap().1.to_owned()
}

async fn signup(api: &Api, email: &str, password: &str) -> Answer {
    let body = json!({"email": email, "password": password, "first_name": "Ada"});
    api.post("/v1/auth/signup", &body).send().await
}

async fn login(api: &Api, email: &str, password: &str) -> Answer {
    let body = json!({"email": email, "password": password});
    api.post("/v1/auth/login", &body).send().await
}

async fn verify(api: &Api, token: &str) -> Answer {
    api.post("/v1/auth/verify-email", &json!({"token": token})).send().await
}

async fn me(api: &Api, tokens: &Value) -> Answer {
    api.get("/v1/auth/me").bearer(&text(&tokens["access_token"])).send().await
}

async fn debit(api: &Api, tokens: &Value, amount: i64) -> Answer {
    let body = json!({"amount": amount, "reason": "for the test"});
    let debit = api.post("/v1/billing/debits", &body).bearer(&text(&tokens["access_token"]));
    debit.send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_up_gets_in_and_spends_all_once_the_mail_was_read() {
    let (server, email) = (Server::start().await, "ada@example.com");
    for weak in ["short", "password123", "Ada@example.com"] {
        signup(&server.api, email, weak).await.problem(422, "validation_error");
    }
    let answer = signup(&server.api, email, PASSWORD).await.ok(201);
    assert!(text(&answer["user_id"]).starts_with("imp_u_"), "{answer}");
    assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    let mail = mail(server.folder(), email, "Confirm your e-mail address").await;
    login(&server.api, email, PASSWORD).await.problem(401, "invalid_credentials");
    let server = server.restart().await;
    let (api, token) = (&server.api, token(&mail));
    for wrong in ["", "nonsense", &token[1..], &token.replace(&token[..1], "-")] {
        verify(api, wrong).await.problem(404, "not_found");
    }
    let key = |by: &str| api.post("/v1/auth/verify-email", &json!({"token": token})).key(by);
    let tokens = key("one").send().await.ok(200);
    let again = key("one").send().await.ok(200);
    assert_eq!(again["refresh_token"], tokens["refresh_token"], "a repetition is the same");
    key("two").send().await.problem(410, "link_used");
    verify(api, &token).await.problem(410, "link_used");
    let user = me(api, &tokens).await.ok(200);
    assert_eq!((&user["imperal_id"], &user["email"]), (&answer["user_id"], &json!(email)));
    assert_eq!(user.as_object().unwrap().len(), 12, "the documented keys and no more: {user}");
    debit(api, &tokens, WELCOME.0).await.ok(201);
    login(api, email, PASSWORD).await.ok(200);
    assert_eq!(mails(server.folder(), email).len(), 1, "one mail, after a restart as well");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_has_an_account_is_told_so_and_nobody_else_is() {
    let server = Server::start().await;
    let (api, email) = (&server.api, "known@example.com");
    let first = signup(api, email, PASSWORD).await;
    verify(api, &token(&mail(server.folder(), email, "Confirm your e-mail address").await)).await;
    let second = signup(api, email, NEW_PASSWORD).await;
    let (first, second) = (first.ok(201), second.ok(201));
    assert_eq!(first["message"], second["message"]);
    assert_ne!(first["user_id"], second["user_id"]);
    let told = mail(server.folder(), email, "You already have an account").await;
    assert!(!told.contains("?token="), "{told}");
    login(api, email, NEW_PASSWORD).await.problem(401, "invalid_credentials");
    login(api, email, PASSWORD).await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_password_is_replaced_and_every_session_ends() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let forgot = async |email: &str| {
        api.post("/v1/auth/password/forgot", &json!({"email": email})).send().await.ok(202)
    };
    assert_eq!(forgot(&user.email).await, forgot("nobody@example.com").await);
    let token = token(&mail(server.folder(), &user.email, "Choose a new password").await);
    let reset = async |password: &str| {
        let body = json!({"token": token, "new_password": password});
        api.post("/v1/auth/password/reset", &body).send().await
    };
    verify(api, &token).await.problem(404, "not_found");
    let weak = reset("12345678").await.problem(422, "validation_error");
    assert_eq!(weak["details"][0]["field"], "new_password");
    reset(NEW_PASSWORD).await.ok(200);
    reset(NEW_PASSWORD).await.problem(410, "link_used");
    assert_eq!(api.get("/v1/auth/me").as_user(&user).send().await.status, 401);
    let refresh = json!({"refresh_token": user.refresh});
    assert_eq!(api.post("/v1/auth/refresh", &refresh).send().await.status, 401);
    login(api, &user.email, PASSWORD).await.problem(401, "invalid_credentials");
    let tokens = login(api, &user.email, NEW_PASSWORD).await.ok(200);
    // Whoever read the mail has the address.
    debit(api, &tokens, WELCOME.0).await.ok(201);
    mail(server.folder(), &user.email, "Your password was changed").await;
    assert!(mails(server.folder(), "nobody@example.com").is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_ends_every_session_but_ones_own() {
    let server = Server::start().await;
    let (api, user) = (&server.api, server.api.user("ada").await);
    let other = login(api, &user.email, PASSWORD).await.ok(200);
    let change = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        let post = api.post("/v1/auth/me/change-password", &body).as_user(&user);
        post.key(new).send().await
    };
    change("not the password", NEW_PASSWORD).await.problem(403, "wrong_password");
    change(PASSWORD, "qwertyuiop").await.problem(422, "validation_error");
    change(PASSWORD, NEW_PASSWORD).await.ok(200);
    change(PASSWORD, NEW_PASSWORD).await.ok(200);
    assert_eq!(me(api, &other).await.status, 401);
    let own = api.get("/v1/auth/me").as_user(&user).send().await;
    assert_eq!(own.status, 200, "{}", own.text());
    let refresh = json!({"refresh_token": user.refresh});
    api.post("/v1/auth/refresh", &refresh).send().await.ok(200);
    login(api, &user.email, PASSWORD).await.problem(401, "invalid_credentials");
    login(api, &user.email, NEW_PASSWORD).await.ok(200);
    mail(server.folder(), &user.email, "Your password was changed").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_clicks_through_the_pages() {
    let server = Server::start().await;
    let (api, email) = (&server.api, "ada@example.com");
    let new = json!({"email": email, "password": PASSWORD});
    api.post("/api/v1/auth/register", &new).send().await.ok(201);
    let tokens = login(api, email, PASSWORD).await.ok(200);
    debit(api, &tokens, WELCOME.1 + 1).await.problem(402, "insufficient_credits");
    let first = token(&mail(server.folder(), email, "Confirm your e-mail address").await);
    let resend = json!({"email": email});
    api.post("/v1/auth/verify-email/resend", &resend).send().await.ok(202);
    while mails(server.folder(), email).len() < 2 {
        tokio::task::yield_now().await;
    }
    let page = api.get(&format!("/verify-email?token={first}")).send().await;
    assert!(page.text().contains(&format!("value=\"{first}\"")), "{}", page.text());
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
    assert_eq!(page.headers["cache-control"], "no-store");
    debit(api, &tokens, WELCOME.1 + 1).await.problem(402, "insufficient_credits");
    let form = async |path: &str, fields: String| {
        let post = api.request(Method::POST, path);
        post.body("application/x-www-form-urlencoded", fields).send().await
    };
    let confirmed = form("/verify-email", format!("token={first}")).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    assert_eq!(form("/verify-email", format!("token={first}")).await.status, 410);
    debit(api, &tokens, WELCOME.1 + 1).await.ok(201);

    let asked = form("/reset-password", "email=ada%40example.com".to_owned()).await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let second = token(&mail(server.folder(), email, "Choose a new password").await);
    let weak = form("/reset-password", format!("token={second}&new_password=password1")).await;
    assert!(weak.status == 422 && weak.text().contains(&second), "{}", weak.text());
    let set = form("/reset-password", format!("token={second}&new_password={NEW_PASSWORD}")).await;
    assert_eq!(set.status, 200, "{}", set.text());
    login(api, email, NEW_PASSWORD).await.ok(200);
    assert_eq!(me(api, &tokens).await.status, 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_hangs_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Its backlog takes connections, and nobody ever answers them.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let hanging = ServeArgs {
        smtp_host: Some("127.0.0.1".to_owned()),
        smtp_port: Some(silent.local_addr().unwrap().port()),
        smtp_tls: SmtpTls::None,
        smtp_timeout_s: 1,
        mail_from: Some("Post <post@example.com>".to_owned()),
        public_url: Some("https://bailiwick.example.com".to_owned()),
        ..settings(folder.path())
    };
    let running = start(&hanging).await.unwrap();
    let (api, email) = (Api::new(running.address), "ada@example.com");
    signup(&api, email, PASSWORD).await.ok(201);
    let failing = loop {
        let ready = api.get("/readyz").send().await.ok(200);
        if ready["mail"]["status"] == "failing" {
            break ready["mail"].clone();
        }
    };
    assert_eq!(
        (&failing["waiting"], &failing["reason"]),
        (&json!(1), &json!("the mail server did not answer in time"),)
    );
    assert!(text(&failing["by"]).starts_with("smtp 127.0.0.1:"), "{failing}");
    let metrics = api.get("/metrics").send().await.text();
    assert!(metrics.contains("bailiwick_mail_waiting 1"), "{metrics}");
    api.user("bob").await;
    running.stop().await;

    let outbox = ServeArgs { public_url: hanging.public_url, ..settings(folder.path()) };
    let running = start(&outbox).await.unwrap();
    let api = Api::new(running.address);
    let mail = mail(folder.path(), email, "Confirm your e-mail address").await;
    assert!(mail.contains("https://bailiwick.example.com/verify-email?token="), "{mail}");
    verify(&api, &token(&mail)).await.ok(200);
    running.stop().await;
}

fn user(email: &str, hash: &str, is_verified: bool) -> Value {
    json!({"email": email, "password_hash": hash, "email_verified": is_verified})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_with_the_hashes_of_another_system() {
    let server = Server::start().await;
    let (api, operator) = (&server.api, server.api.operator().await);
    // bcrypt and Django's PBKDF2 of `correct horse`.
    let bcrypt = "$2b$04$MNyeV.dYLWJm/vsssc7H.OoYGBhs0cxzz2RXuDeAtn7Au4QnxlxqS";
    let django = "pbkdf2_sha256$1000$saltsaltsalt$F7o7+5VTVzFAO998X6s3AHrDsJVdMiIlgndIMe19NvY=";
    let bomb = format!("$2b$31${}", "a".repeat(53));
    let body = json!({"users": [
        user("bcrypt@example.com", bcrypt, true),
        user("md5@example.com", "5f4dcc3b5aa765d61d8327deb882cf99", true),
        user("django@example.com", django, false),
        user("bcrypt@example.com", bcrypt, true),
        user("bomb@example.com", &bomb, true),
    ]});
    let import = async |body: &Value| {
        let post = api.post("/v1/operator/users/import", body).as_user(&operator);
        post.key("one").send().await
    };
    let outcome = import(&body).await.ok(200);
    assert_eq!((&outcome["created"], &outcome["failed"]), (&json!(2), &json!(3)), "{outcome}");
    let errors: Vec<_> = (0..5).map(|index| outcome["items"][index]["error"].clone()).collect();
    let taken = errors.iter().filter(|error| **error == "email_taken").count();
    assert_eq!(
        (taken, &errors[1], &errors[4]),
        (1, &json!("password_hash_unknown"), &json!("password_hash_too_costly"),)
    );
    assert_eq!(import(&body).await.ok(200)["created"], 2, "a repetition finds them");
    let many = json!({"users": vec![user("a@example.com", "x", false); 1_001]});
    import(&many).await.problem(422, "validation_error");

    login(api, "bcrypt@example.com", "correct hors").await.problem(401, "invalid_credentials");
    let verified = login(api, "bcrypt@example.com", "correct horse").await.ok(200);
    debit(api, &verified, WELCOME.0).await.ok(201);
    let unverified = login(api, "django@example.com", "correct horse").await.ok(200);
    debit(api, &unverified, WELCOME.1 + 1).await.problem(402, "insufficient_credits");
    // Their hashes are our own by now.
    let server = server.restart().await;
    login(&server.api, "bcrypt@example.com", "correct horse").await.ok(200);
    login(&server.api, "django@example.com", "correct horse").await.ok(200);
    assert!(mails(server.folder(), "django@example.com").is_empty());
    server.stop().await;
}
