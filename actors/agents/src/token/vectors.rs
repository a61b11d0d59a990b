//! The test vectors: keys, and tokens made with them, for readers of this format in other
//! languages. `testdata/token_vectors.json` is what a run of this test gives; `WRITE_FIXTURES=1`
//! writes it when it is missing. It holds the whole of each token, secrets too: these keys are for
//! nothing else.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::tests::{claims, issuer, minted, read, seed};
use super::*;

fn document() -> Value {
    let (issuing, key_id) = issuer();
    let (first, one, two) = (seed(2), seed(3), seed(4));
    let root = minted(&claims(), &first).unwrap();
    let by_one = Narrowing {
        scopes: Some(["ledger:*"].into_iter().collect()),
        actor: Some("agent/worker".to_owned()),
        ..Narrowing::default()
    };
    let middle = attenuate(&root, &by_one, &one).unwrap();
    let by_two = Narrowing {
        scopes: Some(["ledger:post"].into_iter().collect()),
        expires_at_s: Some(1_800_000_060),
        target: Some("ledger".to_owned()),
        allowance: Some(10),
        actor: None,
    };
    let narrow = attenuate(&middle, &by_two, &two).unwrap();
    let sealed = seal(&narrow).unwrap();
    let key = |seed: &Seed| {
        json!({"seed": HEXLOWER.encode(seed.expose()),
            "public": HEXLOWER.encode(&seed.public_key())})
    };
    json!({
        "about": "agent tokens of version 1; the issuing key's id here is the SHA-256 of its bytes",
        "issuing_key": key(&issuing),
        "key_id": HEXLOWER.encode(&key_id),
        "next_keys": [key(&first), key(&one), key(&two)],
        "tokens": [case("root", &root), case("two_blocks", &narrow), case("sealed", &sealed)],
    })
}

fn case(name: &str, text: &str) -> Value {
    let token = read(text).unwrap();
    let Claims { token: id, agent, tenant, epoch, issued_at_s, intent, grant } = &token.claims;
    let number = |number: u128| HEXLOWER.encode(&number.to_be_bytes());
    let ids: Vec<String> = token.revocation_ids.iter().map(|id| number(*id)).collect();
    json!({
        "name": name,
        "token": text,
        "bytes": HEXLOWER.encode(&bytes_of(text).unwrap()),
        "says": {
            "token_id": number(id.0), "agent_id": number(agent.0), "tenant_id": number(tenant.0),
            "epoch": epoch, "issued_at": issued_at_s, "expires_at": grant.expires_at_s,
            "scopes": grant.scopes, "target": grant.target, "allowance": grant.allowance,
            "intent": intent, "actors": grant.actors, "revocation_ids": ids,
        },
    })
}

#[test]
fn tokens_are_read_and_made_as_they_always_were() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/token_vectors.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("WRITE_FIXTURES").is_some() && !std::path::Path::new(path).exists() {
        std::fs::write(path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap();
    assert_eq!(stored, text, "tokens are made otherwise than they were");
}
