//! The scenarios `verify` and `verify-cold`: checking an agent's token, as whoever is shown one
//! does.
//!
//! Warm, the same token is shown again and again. Cold, each request shows another: they are made
//! of one token by adding a block to it, as its holder may, so a check costs two signatures.
//!
//! Deliberate limit: the tokens of `verify-cold` are made before the run, and a run that needs more
//! of them shows them again.

use agents::token::{Narrowing, Seed, attenuate};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::json;

use super::LoadError;
use super::client::Prepared;
use super::scenario::{Accept, Workload};
use super::setup::Setup;

/// How many different tokens are shown.
pub(crate) const TOKENS: usize = 20_000;
/// How long the token lives, in seconds.
const TTL_SECONDS: u64 = 86_400;
const AGENTS: &str = "/v1/agents";
const ISSUE: &str = "/v1/tokens";
const VERIFY: &str = "/v1/tokens/verify";

/// A token of an agent of its own.
async fn issue(setup: &Setup) -> Result<String, LoadError> {
    let member = setup.register_member().await?;
    let missing = |path: &str, field| LoadError::Answer { path: path.to_owned(), field };
    let body = json!({"name": "load", "owner": "load", "scopes": ["ledger:*"]});
    let agent = setup.post(&member, AGENTS, &body).await?;
    let agent = agent["id"].as_str().ok_or_else(|| missing(AGENTS, "id"))?;
    let body = json!({"agent_id": agent, "scope": ["ledger:*"], "ttl": TTL_SECONDS});
    let issued = setup.post(&member, ISSUE, &body).await?;
    let token = issued["token"].as_str().ok_or_else(|| missing(ISSUE, "token"))?;
    Ok(token.to_owned())
}

fn request(setup: &Setup, token: &str) -> Result<Prepared, LoadError> {
    let body = json!({"token": token, "required_scope": ["ledger:post"]}).to_string();
    setup.public_request(Method::POST, VERIFY, Bytes::from(body))
}

/// The same token each time.
pub(crate) async fn warm(setup: &Setup) -> Result<Workload, LoadError> {
    let token = issue(setup).await?;
    Ok(Workload::new(vec![request(setup, &token)?], Accept::Valid))
}

/// Another token each time.
pub(crate) async fn cold(setup: &Setup) -> Result<Workload, LoadError> {
    let token = issue(setup).await?;
    let narrower = |_| {
        let next = Seed::generate().ok_or(LoadError::Random)?;
        let missing = |_| LoadError::Answer { path: ISSUE.to_owned(), field: "token" };
        let token = attenuate(&token, &Narrowing::default(), &next).map_err(missing)?;
        request(setup, &token)
    };
    let requests = (0..TOKENS).map(narrower).collect::<Result<_, _>>()?;
    Ok(Workload { once: true, ..Workload::new(requests, Accept::Valid) })
}
