//! Links in mails: a token is its id and an HMAC of purpose and id (RFC 2104, with SHA-256) under a
//! key of the installation, so nothing secret is kept. Who knows an id, or has a link for one
//! purpose, cannot make the token of another.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::claim::ClaimKey;

/// The characters of a token: 16 bytes of id and 32 of proof.
pub const TOKEN_CHARS: usize = 64;
/// What the key is derived under. For ever.
const KEY_LABEL: &str = "mail links";

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To join a tenant.
    Invitation,
}

impl Purpose {
    /// The name that the token proves.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invitation => "invitation",
        }
    }
}

/// The installation's key for the tokens in links. A port.
pub struct LinkKey(hmac::Key);

impl LinkKey {
    /// The key that belongs to the installation's claim key.
    pub fn of(claims: &ClaimKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &claims.derive(KEY_LABEL)))
    }

    /// The token of a link.
    pub fn token(&self, purpose: Purpose, id: u128) -> Zeroizing<String> {
        let proof = hmac::sign(&self.0, &proven(purpose, id));
        Zeroizing::new(URL_SAFE_NO_PAD.encode([&id.to_be_bytes(), proof.as_ref()].concat()))
    }

    /// The id of the link that `presented` is the token of; `None` for what was not made here, or
    /// for another purpose.
    pub fn read(&self, purpose: Purpose, presented: &str) -> Option<u128> {
        if presented.len() != TOKEN_CHARS {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(presented).ok()?;
        let (id, proof) = bytes.split_first_chunk::<16>()?;
        let id = u128::from_be_bytes(*id);
        hmac::verify(&self.0, &proven(purpose, id), proof).ok()?;
        Some(id)
    }
}

fn proven(purpose: Purpose, id: u128) -> Vec<u8> {
    [purpose.name().as_bytes(), &[0], &id.to_be_bytes()].concat()
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LinkKey([redacted])")
    }
}
