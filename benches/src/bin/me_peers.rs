//! Two bare servers that answer `GET /v1/auth/me`, to measure the product's own beside them.
//!
//! `cached` keeps the claims of every token that it has verified, by the SHA-256 of the token;
//! `verify` checks the RS256 signature each time. Both answer the same user object from the claims
//! of the token and do nothing else: no limits, no revocation, no log, no store. So `cached` is
//! about what the framework itself costs on this machine.
//!
//! One key pair, made at the start and never stored, signs for both, so one token (or one file of
//! tokens) serves to measure either. Runs until it is interrupted:
//!
//! ```text
//! me_peers --tokens 10000 --token-file tokens.txt
//! bailiwick load --scenario me --url URL --token TOKEN
//! bailiwick load --scenario me-cold --url URL --token-file tokens.txt
//! ```
//!
//! Deliberate limit: when the cache is full, it is emptied.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Parser;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

/// The tokens whose claims are kept.
const CACHED_TOKENS_MAX: usize = 100_000;

/// How long a token lives, in seconds: longer than any run.
const TOKEN_LIFE_SECONDS: u64 = 12 * 3_600;

/// The most tokens that a file is filled with; a signature costs about a millisecond.
const TOKENS_MAX: u64 = 200_000;

const ISSUER: &str = "me-peers";
const AUDIENCE: &str = "bailiwick";

#[derive(Parser)]
#[command(about = "Two bare servers that answer GET /v1/auth/me, to measure beside the product")]
struct Args {
    /// The loopback port of the peer that keeps verified claims; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    cached_port: u16,

    /// The loopback port of the peer that verifies each time; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    verify_port: u16,

    /// How many different tokens to write to the token file
    #[arg(long, default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(1..=TOKENS_MAX))]
    tokens: u64,

    /// Write tokens to this file, one a line
    #[arg(long)]
    token_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let signer = Signer::generate()?;
    if let Some(path) = &args.token_file {
        let mut file = BufWriter::new(fs::File::create(path)?);
        for number in 1..=args.tokens {
            writeln!(file, "{}", signer.token(number)?)?;
        }
        file.flush()?;
    }
    let check = Check::new(signer.public_key());
    let cached = Peer { check: check.clone(), cache: Some(RwLock::default()) };
    let verify = Peer { check, cache: None };
    let (cached_url, cached) = listen(args.cached_port, cached).await?;
    let (verify_url, verify) = listen(args.verify_port, verify).await?;
    writeln!(io::stdout(), "cached {cached_url}\nverify {verify_url}\ntoken {}", signer.token(0)?)?;
    tokio::select! {
        ended = cached => ended?,
        ended = verify => ended?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

/// Binds a loopback port; the answered future serves the peer on it.
async fn listen(
    port: u16,
    peer: Peer,
) -> io::Result<(String, impl Future<Output = io::Result<()>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = Router::new().route("/v1/auth/me", get(me)).with_state(Arc::new(peer));
    // A peer without it would only show what delayed acknowledgements cost.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    Ok((url, async move { axum::serve(listener, router).await }))
}

/// What a token says.
#[derive(Clone, Deserialize, Serialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    sid: String,
    email: String,
    tenant_id: String,
    role: String,
    scopes: Vec<String>,
    iat: u64,
    exp: u64,
}

/// The user object of `GET /v1/auth/me`.
#[derive(Serialize)]
struct User<'a> {
    imperal_id: &'a str,
    email: &'a str,
    tenant_id: &'a str,
    agency_id: Option<&'a str>,
    role: &'a str,
    org_id: Option<&'a str>,
    auth_method: &'a str,
    scopes: &'a [String],
    attributes: HashMap<&'a str, &'a str>,
    created_at: &'a str,
    last_login: Option<&'a str>,
    cases_user_id: Option<u64>,
}

async fn me(State(peer): State<Arc<Peer>>, headers: HeaderMap) -> Response {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer "));
    let Some(claims) = token.and_then(|token| peer.claims(token)) else {
        let problem = Json(json!({ "status": 401, "error": "unauthorized" }));
        return (StatusCode::UNAUTHORIZED, problem).into_response();
    };
    let user = User {
        imperal_id: &claims.sub,
        email: &claims.email,
        tenant_id: &claims.tenant_id,
        agency_id: None,
        role: &claims.role,
        org_id: None,
        auth_method: "password",
        scopes: &claims.scopes,
        attributes: HashMap::new(),
        created_at: "2025-01-01T00:00:00Z",
        last_login: None,
        cases_user_id: None,
    };
    Json(user).into_response()
}

/// One of the two servers: with a cache or without.
struct Peer {
    check: Check,
    cache: Option<RwLock<HashMap<[u8; 32], Arc<Claims>>>>,
}

impl Peer {
    /// The claims of a token that is genuine and has not expired.
    fn claims(&self, token: &str) -> Option<Arc<Claims>> {
        let Some(cache) = &self.cache else {
            return self.check.claims(token).map(Arc::new);
        };
        let key: [u8; 32] = digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()?;
        let known = cache.read().get(&key).map(Arc::clone);
        if let Some(claims) = known {
            return (claims.exp > now()).then_some(claims);
        }
        let claims = Arc::new(self.check.claims(token)?);
        let mut cache = cache.write();
        if cache.len() >= CACHED_TOKENS_MAX {
            cache.clear();
        }
        cache.insert(key, Arc::clone(&claims));
        Some(claims)
    }
}

/// Verifies a token: RS256 by our key, for us, not expired.
#[derive(Clone)]
struct Check {
    key: DecodingKey,
    validation: Validation,
}

impl Check {
    /// `public_key` is an `RSAPublicKey` in DER (RFC 8017, appendix A.1.1).
    fn new(public_key: &[u8]) -> Self {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        Self { key: DecodingKey::from_rsa_der(public_key), validation }
    }

    fn claims(&self, token: &str) -> Option<Claims> {
        decode(token, &self.key, &self.validation).ok().map(|token| token.claims)
    }
}

/// Signs tokens with a key pair of its own.
struct Signer {
    pair: RsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    fn generate() -> Result<Self, Unspecified> {
        Ok(Self { pair: RsaKeyPair::generate(KeySize::Rsa2048)?, random: SystemRandom::new() })
    }

    fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The token of user `number`, in the compact form of RFC 7515.
    fn token(&self, number: u64) -> Result<String, Unspecified> {
        let issued = now();
        let claims = json!(Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: format!("usr_{number:026}"),
            sid: format!("ses_{number:026}"),
            email: format!("user-{number}@example.com"),
            tenant_id: format!("tenant_{number:026}"),
            role: "user".to_owned(),
            scopes: vec!["*".to_owned()],
            iat: issued,
            exp: issued + TOKEN_LIFE_SECONDS,
        });
        let header = json!({ "alg": "RS256", "typ": "at+jwt", "kid": "only" });
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut token = encode(header.to_string().as_bytes());
        token.push('.');
        token += &encode(claims.to_string().as_bytes());
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &self.random, token.as_bytes(), &mut signature)?;
        token.push('.');
        token += &encode(&signature);
        Ok(token)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_peers_take_a_genuine_token_and_no_other() {
        let signer = Signer::generate().unwrap();
        let check = Check::new(signer.public_key());
        let verify = Peer { check: check.clone(), cache: None };
        let cached = Peer { check, cache: Some(RwLock::default()) };
        let token = signer.token(7).unwrap();
        let foreign = Signer::generate().unwrap().token(7).unwrap();
        for peer in [&verify, &cached, &cached] {
            assert_eq!(peer.claims(&token).unwrap().email, "user-7@example.com");
            assert!(peer.claims(&foreign).is_none());
            assert!(peer.claims("nonsense").is_none());
        }
        assert_eq!(cached.cache.unwrap().read().len(), 1);
    }
}
