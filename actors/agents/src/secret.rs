//! The secret that an agent asks for tokens with: `sk_live_` and 256 random bits.
//!
//! Invariant: it is shown once and never kept. What is kept is its SHA-256, and the claim that
//! finds the agent is named by an HMAC of that.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::claim::{Claim, ClaimKey, Namespace, claim_address};
use identity::token_cache::CredentialDigest;
use serde::{Deserialize, Serialize};
use supervision::Address;
use zeroize::Zeroizing;

/// What it begins with.
pub const PREFIX: &str = "sk_live_";
/// Characters of 32 bytes as base64url.
const SECRET_CHARS: usize = 43;
/// The hashes of secrets, unique over the installation.
const AGENT_SECRET: Namespace = Namespace::new("agent_secret");

/// A secret in plain, on its way to its agent.
pub struct AgentSecret(Zeroizing<String>);

impl AgentSecret {
    /// A fresh one, or `None` if the system has no random numbers.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).ok()?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + SECRET_CHARS));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Some(Self(text))
    }

    /// The text to send; it goes nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash(*CredentialDigest::of(&self.0).as_bytes())
    }
}

impl fmt::Debug for AgentSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AgentSecret([redacted])")
    }
}

/// Whether a credential begins as a secret does; whatever else begins so is none.
pub fn is_secret(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

/// The SHA-256 of a whole secret, prefix included.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of what a client presented, or `None` if it cannot be a secret.
    pub fn of(presented: &str) -> Option<Self> {
        let secret = presented.strip_prefix(PREFIX)?;
        let is_secret = secret.len() == SECRET_CHARS
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_secret.then(|| Self(*CredentialDigest::of(presented).as_bytes()))
    }

    /// Where the claim on it lives.
    pub fn claim(&self, key: &ClaimKey) -> Address<Claim> {
        claim_address(AGENT_SECRET, &URL_SAFE_NO_PAD.encode(self.0), key)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_form_and_does_not_print() {
        let secret = AgentSecret::generate().unwrap();
        let text = secret.expose();
        assert!(is_secret(text) && SecretHash::of(text) == Some(secret.hash()));
        let printed = format!("{secret:?} {:?}", secret.hash());
        assert!(!printed.contains(&text[PREFIX.len()..]));
        let short = &text[..text.len() - 1];
        for other in ["", PREFIX, short, &format!("{text}A"), &format!("{short}=")] {
            assert_eq!(SecretHash::of(other), None, "{other}");
        }
    }
}
