//! The corpus of damaged and forged tokens, against a whole server: each is 401, and those that are
//! good for all their oddities are let in.

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use identity::signing_keys::{KeySet, NEXT_PUBLISHED_MS_MIN, SigningAlgorithm};
use journeys::Server;
use serde_json::{Map, Value};

use crate::corpus::{Corpus, Keys, Sign};

const CORPUS: &str = include_str!("../../../actors/identity/testdata/token_corpus.json");

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// What a good token of this server says.
fn claims(token: &str) -> Map<String, Value> {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_damaged_or_forged_token_is_let_in() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    let keys = server.running.app.identity.signing_keys().get().unwrap().set;
    let foreign = KeySet::generate(SigningAlgorithm::Rs256, now_ms()).unwrap();
    let rotated = keys.rotate(now_ms() + NEXT_PUBLISHED_MS_MIN).unwrap();
    let sets = [&*keys, &rotated, &foreign];
    let signers = Keys {
        algorithms: ("RS256", "EdDSA"),
        kids: sets.map(|set| set.current().kid().to_owned()),
        jwks: [&*keys, &foreign].map(|set| set.jwks()["keys"][1].clone()),
        sign: sets.map(|set| -> Sign<'_> {
            Box::new(move |message| set.current().sign(message).unwrap())
        }),
    };
    let mut corpus = Corpus::new(CORPUS);
    for (name, value) in claims(&user.token) {
        if !["iat", "exp"].contains(&name.as_str()) {
            corpus.document["payload"][name] = value.to_string().into();
        }
    }
    let (mut let_in, mut refused) = (0, 0);
    for case in corpus.cases().to_vec() {
        // Exact times, and bytes that a header does not carry, are tried on the verifier alone.
        if case["offline"] == true {
            continue;
        }
        corpus.now_s = now_ms() / 1_000;
        let token = corpus.token(&case, &signers);
        let answer = server.api.get("/v1/auth/me").bearer(&token).send().await;
        let what = format!("{}: {} {}", case["name"], answer.status, answer.text());
        if case["error"].is_null() {
            assert_eq!(answer.status, 200, "{what}");
            let_in += 1;
        } else {
            assert_eq!(answer.status, 401, "{what}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer", "{what}");
            let body = answer.value();
            // Why is nobody's business: all of them are one answer.
            let code = body["error"].as_str().unwrap();
            assert!(["invalid_token", "unauthorized"].contains(&code), "{what}");
            refused += 1;
        }
    }
    assert!(let_in > 5 && refused > 500, "{let_in} let in, {refused} refused");
    server.stop().await;
}
