//! Agents and their tokens over HTTP: made, counted, paused and revoked; tokens issued within what
//! everybody holds, checked by strangers with and without the server, narrowed by their holders,
//! and over at once when somebody says so, through a restart as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agents::token::{self, Narrowing, Seed, VerifyingKey};
use data_encoding::BASE64URL_NOPAD;
use hyper::Method;
use journeys::{Answer, Api, Server, User, text};
use serde_json::{Value, json};
use types::{Scopes, TenantId, owner_of_tenant};

async fn agent(api: &Api, user: &User, scopes: &[&str]) -> Value {
    let body = json!({"name": "Reader", "owner": "the team", "scopes": scopes});
    api.post("/v1/agents", &body).as_user(user).send().await.ok(201)
}

async fn issue(api: &Api, user: &User, agent: &Value, scope: &[&str]) -> String {
    let body = json!({"agent_id": agent["id"], "scope": scope, "ttl": 600, "intent": "to read"});
    let issued = api.post("/v1/tokens", &body).as_user(user).send().await.ok(201);
    text(&issued["token"])
}

async fn verify(api: &Api, token: &str) -> Value {
    api.post("/v1/tokens/verify", &json!({"token": token})).send().await.ok(200)
}

#[track_caller]
fn is_over(verdict: &Value, reason: &str) {
    let verdict = (&verdict["valid"], &verdict["reason"], verdict.get("agent_id"));
    assert_eq!(verdict, (&json!(false), &json!(reason), None));
}

async fn act(api: &Api, user: &User, agent: &Value, what: &str) -> Answer {
    let path = format!("/v1/agents/{}/{what}", text(&agent["id"]));
    api.request(Method::POST, &path).as_user(user).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_made_listed_changed_and_counted() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, stranger) = (api.user("ada").await, api.user("bob").await);
    let body = json!({"name": "Reader", "owner": "the team", "model_name": "a-model"});
    let answer = api.post("/v1/agents", &body).as_user(&user).key("one").send().await;
    let made = answer.ok(201);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(text(&made["secret_key"]).starts_with("sk_live_"), "{made}");
    assert!(text(&made["id"]).starts_with("agt_") && made["status"] == "active", "{made}");
    assert_eq!((&made["scopes"], &made["user_id"]), (&json!(["*"]), &json!(user.id)));
    let seed = BASE64URL_NOPAD.decode(text(&made["private_key"]).as_bytes()).unwrap();
    let seed = Seed::from_bytes(&seed.try_into().unwrap());
    assert_eq!(made["public_key"], BASE64URL_NOPAD.encode(&seed.public_key()));
    let again = api.post("/v1/agents", &body).as_user(&user).key("one").send().await;
    assert_eq!(again.ok(201), made, "a repetition is answered alike");
    let own = json!({"name": "Own", "owner": "me", "public_key": made["public_key"]});
    let own = api.post("/v1/agents", &own).as_user(&user).send().await.ok(201);
    assert_eq!((&own["private_key"], &own["public_key"]), (&Value::Null, &made["public_key"]));

    let path = format!("/v1/agents/{}", text(&made["id"]));
    let shown = api.get(&path).as_user(&user).send().await.ok(200);
    assert!(shown.get("secret_key").is_none() && shown["model_name"] == "a-model", "{shown}");
    let patch = json!({"name": "Writer", "model_name": ""}).to_string();
    let patch = api.request(Method::PATCH, &path).json(patch).as_user(&user).send().await.ok(200);
    assert_eq!((&patch["name"], &patch["model_name"]), (&json!("Writer"), &Value::Null));
    for method in [Method::GET, Method::DELETE] {
        let foreign = api.request(method, &path).as_user(&stranger).send().await;
        foreign.problem(404, "not_found");
    }

    assert_eq!(act(api, &user, &own, "pause").await.ok(200)["status"], "paused");
    let list = async |query: &str| {
        let answer = api.get(&format!("/v1/agents{query}")).as_user(&user).send().await;
        answer.ok(200)
    };
    let all = list("").await;
    assert_eq!((&all["total"], &all["limit"], &all["offset"]), (&json!(2), &json!(20), &json!(0)));
    assert_eq!((&all["items"][0]["id"], &all["items"][1]["id"]), (&own["id"], &made["id"]));
    assert_eq!(list("?status=paused").await["items"][0]["id"], own["id"]);
    assert_eq!(list("?owner=the%20team").await["items"][0]["id"], made["id"]);
    assert_eq!(list("?limit=1&offset=1").await["items"][0]["id"], made["id"]);
    let unfit = api.get("/v1/agents?status=gone").as_user(&user).send().await;
    unfit.problem(422, "validation_error");

    a_plan_has_so_many(api, &user, &made, &body).await;
    for unfit in [
        json!({"name": "", "owner": "x"}),
        json!({"name": "x"}),
        json!({"name": "x", "owner": "x", "scopes": []}),
        json!({"name": "x", "owner": "x", "public_key": "AAAA"}),
        json!({"name": "x\u{202e}", "owner": "x"}),
    ] {
        let refused = api.post("/v1/agents", &unfit).as_user(&user).send().await;
        refused.problem(422, "validation_error");
    }
    server.stop().await;
}

/// The plan has ten; two are there. What is revoked takes no seat.
async fn a_plan_has_so_many(api: &Api, user: &User, made: &Value, body: &Value) {
    for number in 0..8 {
        let body = json!({"name": number.to_string(), "owner": "me"});
        api.post("/v1/agents", &body).as_user(user).send().await.ok(201);
    }
    let over = api.post("/v1/agents", body).as_user(user).send().await;
    let over = over.problem(402, "plan_limit_reached");
    assert_eq!((&over["limit"], &over["allowed"]), (&json!("agents"), &json!(10)));
    let path = format!("/v1/agents/{}", text(&made["id"]));
    let gone = api.request(Method::DELETE, &path).as_user(user).send().await.ok(200);
    assert_eq!(gone["status"], "revoked");
    act(api, user, made, "resume").await.problem(409, "agent_revoked");
    // The roster hears of it a moment later.
    loop {
        let answer = api.post("/v1/agents", body).as_user(user).send().await;
        if answer.status == 201 {
            break;
        }
        answer.problem(402, "plan_limit_reached");
    }
}

/// What the public keys alone say of a token.
async fn offline(api: &Api, text: &str) -> Result<token::Token, token::TokenError> {
    let jwks = api.get("/v1/agents/.well-known/jwks.json").send().await.ok(200);
    let keys = jwks["keys"].as_array().unwrap().clone();
    assert!(keys.len() >= 2 && keys.iter().all(|key| key["crv"] == "Ed25519"), "{jwks}");
    let bytes = |value: &Value| -> [u8; 32] {
        let text = value.as_str().unwrap();
        BASE64URL_NOPAD.decode(text.as_bytes()).unwrap().try_into().unwrap()
    };
    token::verify(text, |id| {
        let key = keys.iter().find(|key| bytes(&key["kid"]) == *id)?;
        VerifyingKey::from_bytes(&bytes(&key["x"])).ok()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_issued_within_what_everybody_holds_and_checked_by_strangers() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, stranger) = (api.user("ada").await, api.user("bob").await);
    let reader = agent(api, &user, &["wallet:read", "ledger:*"]).await;
    let body = json!({"agent_id": reader["id"], "scope": ["ledger:post"], "ttl": 300,
        "target_service": "ledger", "intent": "to post", "allowance": 10});
    let by_secret = |header: &'static str, before: &str| {
        let secret = format!("{before}{}", text(&reader["secret_key"]));
        api.post("/v1/tokens", &body).header(header, &secret)
    };
    let issued = by_secret("x-agent-secret", "").key("one").send().await;
    assert_eq!(issued.headers["cache-control"], "no-store");
    let issued = issued.ok(201);
    let again = by_secret("x-agent-secret", "").key("one").send().await.ok(201);
    assert_eq!(again, issued, "a repetition gets the same token");
    by_secret("authorization", "Bearer ").send().await.ok(201);
    let token = text(&issued["token"]);
    assert!(token.starts_with("rai_live_") && text(&issued["token_id"]).starts_with("tok_"));
    let said = offline(api, &token).await.unwrap().claims;
    assert_eq!(said.token.to_string(), text(&issued["token_id"]));
    assert_eq!(said.grant.scopes, Scopes::from_iter(["ledger:post"]));

    let good = verify(api, &token).await;
    assert_eq!((&good["valid"], &good["reason"]), (&json!(true), &Value::Null));
    for name in ["agent_id", "tenant_id", "token_id", "scope", "expires_at", "intent"] {
        assert_eq!(good[name], issued[name], "{name}");
    }
    assert_eq!((&good["allowance"], &good["target_service"]), (&json!(10), &json!("ledger")));
    assert!(good["remaining_seconds"].as_u64().unwrap() <= 300, "{good}");
    let ask = async |more: Value| {
        let mut body = json!({"token": token});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post("/v1/tokens/verify", &body).send().await.ok(200)
    };
    assert_eq!(ask(json!({"required_scope": ["ledger.post"]})).await["valid"], true);
    is_over(&ask(json!({"required_scope": ["wallet:read"]})).await, "scope_missing");
    assert_eq!(ask(json!({"target_service": "ledger"})).await["valid"], true);
    is_over(&ask(json!({"target_service": "billing"})).await, "target_mismatch");
    let batch = json!({"tokens": [token, "rai_live_AA", "nonsense"]});
    let batch = api.post("/v1/tokens/verify/batch", &batch).send().await.ok(200);
    assert_eq!(batch["results"][0]["valid"], true);
    is_over(&batch["results"][1], "token_version");
    is_over(&batch["results"][2], "token_malformed");
    let many = json!({"tokens": vec!["x"; 101]});
    let many = api.post("/v1/tokens/verify/batch", &many).send().await;
    many.problem(422, "validation_error");

    nobody_gets_more_than_they_hold(api, [&user, &stranger], &reader).await;
    let secret = text(&reader["secret_key"]);
    let feed = api.get("/v1/actions?limit=50").as_user(&user).send().await.ok(200);
    let shown = feed.to_string();
    assert!(shown.contains("issue_token") && shown.contains("scope_not_held"), "{shown}");
    assert!(!shown.contains(&token) && !shown.contains(&secret));
    server.stop().await;
}

/// Neither by whom the agent belongs to, nor by a stranger, nor by another agent.
async fn nobody_gets_more_than_they_hold(api: &Api, [user, stranger]: [&User; 2], reader: &Value) {
    let want = async |user: &User, more: Value| {
        let mut body = json!({"agent_id": reader["id"], "scope": ["wallet:read"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post("/v1/tokens", &body).as_user(user).send().await
    };
    want(user, json!({})).await.ok(201);
    want(user, json!({"scope": ["wallet:spend"]})).await.problem(403, "scope_not_held");
    want(stranger, json!({})).await.problem(404, "not_found");
    for unfit in [
        json!({"ttl": 299}),
        json!({"ttl": 86_401}),
        json!({"scope": []}),
        json!({"scope": ["a b"]}),
        json!({"target_service": ""}),
        json!({"intent": "x".repeat(513)}),
    ] {
        want(user, unfit).await.problem(422, "validation_error");
    }
    let other = agent(api, user, &["*"]).await;
    let foreign = json!({"agent_id": other["id"], "scope": ["ledger:post"]});
    let secret = text(&reader["secret_key"]);
    let foreign = api.post("/v1/tokens", &foreign).bearer(&secret).send().await;
    foreign.problem(403, "forbidden");
    let unknown = format!("sk_live_{}", "A".repeat(43));
    let body = json!({"agent_id": reader["id"], "scope": ["ledger:post"]});
    let unknown = api.post("/v1/tokens", &body).bearer(&unknown).send().await;
    unknown.problem(401, "invalid_agent_credential");
}

/// All at once, by pausing and by revoking the agent: answers a token from before the end.
async fn an_agent_ends_its_tokens(api: &Api, user: &User, one: &Value, kept: &str) -> String {
    let all = json!({"agent_id": one["id"]});
    api.post("/v1/tokens/revoke", &all).as_user(user).send().await.ok(200);
    is_over(&verify(api, kept).await, "token_superseded");
    let token = issue(api, user, one, &["a:b"]).await;
    act(api, user, one, "pause").await.ok(200);
    is_over(&verify(api, &token).await, "agent_paused");
    let body = json!({"agent_id": one["id"], "scope": ["a:b"]});
    let paused = api.post("/v1/tokens", &body).as_user(user).send().await;
    paused.problem(403, "agent_paused");
    act(api, user, one, "resume").await.ok(200);
    is_over(&verify(api, &token).await, "token_superseded");
    let token = issue(api, user, one, &["a:b"]).await;
    act(api, user, one, "revoke").await.ok(200);
    is_over(&verify(api, &token).await, "agent_revoked");
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_is_over_at_once_with_all_that_was_made_of_it_and_after_a_restart() {
    let mut server = Server::start().await;
    let api = server.api.clone();
    let (user, stranger) = (api.user("ada").await, api.user("bob").await);
    let one = agent(&api, &user, &["*"]).await;
    let kept = issue(&api, &user, &one, &["a:*"]).await;
    let root = issue(&api, &user, &one, &["a:*"]).await;
    let seed = || Seed::generate().unwrap();
    let narrower = Narrowing {
        scopes: Some(["a:b"].into_iter().collect()),
        actor: Some("worker".to_owned()),
        ..Narrowing::default()
    };
    let child = token::attenuate(&root, &narrower, &seed()).unwrap();
    let grandchild = token::attenuate(&child, &Narrowing::default(), &seed()).unwrap();
    let sealed = token::seal(&grandchild).unwrap();
    let good = verify(&api, &sealed).await;
    assert_eq!((&good["scope"], &good["act"]), (&json!(["a:b"]), &json!(["worker"])));
    assert_eq!(good["blocks"], 2);

    let revoke = async |user: &User, body: Value| {
        api.post("/v1/tokens/revoke", &body).as_user(user).send().await
    };
    revoke(&stranger, json!({"token": child})).await.problem(404, "not_found");
    revoke(&user, json!({"token": "rai_live_AA"})).await.problem(404, "not_found");
    revoke(&user, json!({})).await.problem(422, "validation_error");
    assert_eq!(revoke(&user, json!({"token": child})).await.ok(200)["what"], "token");
    for over in [&child, &grandchild, &sealed] {
        is_over(&verify(&api, over).await, "token_revoked");
    }
    assert_eq!(verify(&api, &root).await["valid"], true, "what it was made of goes on");
    let look = json!({"token": child});
    let look = async |user: &User| {
        api.post("/v1/tokens/introspect", &look).as_user(user).send().await.ok(200)
    };
    let seen = look(&user).await;
    assert_eq!((&seen["active"], &seen["reason"]), (&json!(false), &json!("token_revoked")));
    assert_eq!(seen["agent_id"], one["id"]);
    assert_eq!(look(&stranger).await, json!({"active": false, "reason": "unknown"}));
    assert_eq!(revoke(&user, json!({"token": sealed, "tree": true})).await.ok(200)["what"], "tree");
    is_over(&verify(&api, &root).await, "token_revoked");
    revoke(&user, json!({"token": sealed, "tree": true})).await.ok(200);

    server = server.restart().await;
    let api = server.api.clone();
    for over in [&root, &child, &sealed] {
        is_over(&verify(&api, over).await, "token_revoked");
    }
    assert_eq!(verify(&api, &kept).await["valid"], true);
    let token = an_agent_ends_its_tokens(&api, &user, &one, &kept).await;
    server = server.restart().await;
    is_over(&verify(&server.api, &token).await, "agent_revoked");
    let tenant: TenantId = user.id.parse().unwrap();
    let system = &server.running.app.system;
    system.settle().await;
    let report = system.reindex_shard(owner_of_tenant(tenant).shard(), false).unwrap();
    assert_eq!(report.wrong(), 0, "{report:?}");
    server.stop().await;
}

/// Of the same user.
async fn other_agent(api: &Api, user: &User) -> Value {
    agent(api, user, &["*"]).await
}

/// By each of its credentials, and whoever stands for it.
async fn it_says_that_it_is_there(api: &Api, user: &User, one: &Value, reader: &str) {
    let secret = text(&one["secret_key"]);
    let path = format!("/v1/agents/{}/heartbeat", text(&one["id"]));
    for credential in [reader, &secret, &user.token] {
        api.request(Method::POST, &path).bearer(credential).send().await.ok(200);
    }
    let other = agent(api, user, &["*"]).await;
    let path = format!("/v1/agents/{}/heartbeat", text(&other["id"]));
    let foreign = api.request(Method::POST, &path).bearer(reader).send().await;
    foreign.problem(404, "not_found");
    let path = format!("/v1/agents/{}", text(&one["id"]));
    let seen = api.get(&path).as_user(user).send().await.ok(200);
    assert!(seen["last_used_at"].is_string() && seen["last_heartbeat_at"].is_string(), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_a_credential_where_its_scopes_allow() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let one = agent(api, &user, &["*"]).await;
    let reader = issue(api, &user, &one, &["wallet:read", "shelf:read", "auth:read"]).await;
    let spender = issue(api, &user, &one, &["wallet:spend", "shelf:*"]).await;
    let balance = |token: &str| api.get("/v1/billing/balance").bearer(token);
    balance(&reader).send().await.ok(200);
    balance(&spender).send().await.problem(403, "scope_missing");
    let me = api.get("/v1/auth/me").bearer(&reader).send().await.ok(200);
    assert_eq!(me["imperal_id"], user.id.as_str());
    let debit = json!({"amount": 1, "reason": "by an agent"});
    let debited = api.post("/v1/billing/debits", &debit).bearer(&spender).send().await;
    debited.ok(201);
    let call = json!({"function": "add_book", "params": {"title": "Emma"}});
    let call = |token: &str| api.post("/v1/extensions/shelf/call", &call).bearer(token);
    assert_eq!(call(&spender).send().await.ok(200)["status"], "success");
    call(&reader).send().await.problem(403, "scope_missing");
    let own = issue(api, &user, &one, &["actions:read"]).await;
    let actions = api.get("/v1/actions").bearer(&own).send().await.ok(200).to_string();
    assert!(actions.contains("add_book") && actions.contains("debit"), "{actions}");
    assert!(actions.contains(&format!("agent/{}", text(&one["id"]))), "{actions}");

    let all = issue(api, &user, &one, &["*"]).await;
    for (method, path) in [
        (Method::GET, "/v1/keys"),
        (Method::POST, "/v1/agents"),
        (Method::POST, "/v1/tokens"),
        (Method::GET, "/v1/operator/tree"),
        (Method::DELETE, "/v1/auth/me"),
    ] {
        let refused = api.request(method, path).bearer(&all).send().await;
        refused.problem(403, "not_for_agents");
    }
    let secret = text(&one["secret_key"]);
    balance(&secret).send().await.problem(403, "not_for_agents");
    let bare = |more: &[(&str, Value)]| {
        let mut body = json!({"agent_id": one["id"], "scope": ["wallet:read"]});
        more.iter().for_each(|(name, value)| body[*name] = value.clone());
        api.post("/v1/tokens", &body).as_user(&user)
    };
    let elsewhere = bare(&[("target_service", json!("ledger"))]).send().await.ok(201);
    let elsewhere = balance(&text(&elsewhere["token"])).send().await;
    elsewhere.problem(403, "token_for_another_service");
    let here = bare(&[("target_service", json!("bailiwick"))]).send().await.ok(201);
    balance(&text(&here["token"])).send().await.ok(200);
    let limited = bare(&[("allowance", json!(5))]).send().await.ok(201);
    let limited = balance(&text(&limited["token"])).send().await;
    limited.problem(403, "allowance_not_supported");

    it_says_that_it_is_there(api, &user, &one, &reader).await;
    let others = json!({"agent_id": other_agent(api, &user).await["id"]});
    let others = api.post("/v1/tokens/revoke", &others).bearer(&reader).send().await;
    others.problem(403, "forbidden");
    let own = json!({"token": reader});
    api.post("/v1/tokens/revoke", &own).bearer(&reader).send().await.ok(200);
    balance(&reader).send().await.problem(401, "invalid_agent_credential");
    act(api, &user, &one, "revoke").await.ok(200);
    balance(&all).send().await.problem(401, "invalid_agent_credential");
    let heartbeat = format!("/v1/agents/{}/heartbeat", text(&one["id"]));
    let dead = api.request(Method::POST, &heartbeat).bearer(&secret).send().await;
    dead.problem(401, "invalid_agent_credential");
    server.stop().await;
}

/// Readers note how many revocations were acknowledged before they ask; none of those may be
/// found good, warm or cold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_check_that_starts_after_the_acknowledgement_accepts_a_revoked_token() {
    const TOKENS: usize = 60;
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let one = agent(api, &user, &["*"]).await;
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        tokens.push(issue(api, &user, &one, &["a:b"]).await);
    }
    let (tokens, acknowledged) = (Arc::new(tokens), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let (api, tokens, acknowledged) = (api.clone(), tokens.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut looked = 0;
                loop {
                    let known = acknowledged.load(Ordering::SeqCst);
                    let at = (looked * 7 + reader) % TOKENS;
                    let verdict = verify(&api, &tokens[at]).await;
                    assert!(at >= known || verdict["valid"] == false, "{at} of {known}");
                    if known == TOKENS {
                        return looked;
                    }
                    looked += 1;
                }
            })
        })
        .collect();
    for (number, token) in tokens.iter().enumerate() {
        let body = json!({"token": token});
        api.post("/v1/tokens/revoke", &body).as_user(&user).send().await.ok(200);
        acknowledged.store(number + 1, Ordering::SeqCst);
    }
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    for token in tokens.iter() {
        is_over(&verify(api, token).await, "token_revoked");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_does_nothing_until_it_goes_on_and_one_goes_with_its_user() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let one = agent(api, &user, &["*"]).await;
    let token = issue(api, &user, &one, &["wallet:read"]).await;
    let path = format!("/v1/operator/agents/{}", text(&one["id"]));
    let why = json!({"reason": "for the test", "reason_class": "security"});
    let freeze = async |what: &str| {
        api.post(&format!("{path}/{what}"), &why).as_user(&operator).send().await
    };
    let receipt = freeze("freeze").await.ok(200);
    assert_eq!((&receipt["kind"], &receipt["status"]), (&json!("agent"), &json!("frozen")));
    is_over(&verify(api, &token).await, "frozen");
    let secret = text(&one["secret_key"]);
    let body = json!({"agent_id": one["id"], "scope": ["wallet:read"]});
    api.post("/v1/tokens", &body).bearer(&secret).send().await.problem(403, "frozen");
    let balance = api.get("/v1/billing/balance").bearer(&token).send().await;
    balance.problem(403, "frozen");
    api.get("/v1/billing/balance").as_user(&user).send().await.ok(200);
    freeze("resume").await.ok(200);
    assert_eq!(verify(api, &token).await["valid"], true);
    let missing = format!("/v1/operator/agents/{}/freeze", user.id);
    let missing = api.post(&missing, &why).as_user(&operator).send().await;
    missing.problem(404, "not_found");

    let keys = api.get("/v1/operator/issuing-keys").as_user(&operator).send().await.ok(200);
    let standings: Vec<_> = keys["keys"].as_array().unwrap().iter().collect();
    assert_eq!((&standings[0]["standing"], standings.len()), (&json!("next"), 2), "{keys}");
    let rotate = json!({"reason": "for the test"});
    let rotate = api.post("/v1/operator/issuing-keys/rotate", &rotate).as_user(&operator);
    rotate.send().await.problem(409, "signing_key_rotation_too_soon");

    let erase = format!("/v1/users/{}/erase", user.id);
    let body = json!({"reason": "asked for"});
    let erased = api.post(&erase, &body).as_user(&operator).send().await;
    assert_eq!(erased.status, 200, "{}", erased.text());
    let verdict = verify(api, &token).await;
    assert_eq!(verdict["valid"], false, "{verdict}");
    server.stop().await;
}
