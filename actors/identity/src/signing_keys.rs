//! The keys that sign user tokens: the next, the current, and the previous ones.
//!
//! Invariants
//! - A key signs only after it has been public as `next` for [`NEXT_PUBLISHED_MS_MIN`].
//! - A key that no longer signs stays public until every token it signed has expired.
//! - A key has one algorithm for life. Nothing in a token chooses an algorithm.
//! - Private keys are erased when dropped and never print; [`KeySet::jwks`] has public parts only.
//!
//! Deliberate limits
//! - A set is a value: [`KeySet::rotate`] answers a new set, and who asked stores it sealed (see
//!   [`StoredKeySet`]) before using it. After a leak there is no rotation but a new set.
//! - The stored form has no version of its own; the event that seals it has.
//!
//! Formats: JWK and JWKS (RFC 7517), Ed25519 in them (RFC 8037), `kid` = the key's SHA-256
//! thumbprint (RFC 7638), private keys as PKCS#8 (RFC 5208, RFC 5958).

use std::sync::Arc;
use std::{fmt, iter};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm,
    OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse, RSAKeyParameters, RSAKeyType,
    ThumbprintHash,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The longest life any access token may be given, whatever the settings say: 24 h.
pub const TOKEN_LIFE_MS_MAX: u64 = 24 * 3_600_000;
/// How far the clocks of two servers may differ: 60 s.
pub const CLOCK_SKEW_MS_MAX: u64 = 60_000;
/// How long a next key is public before it may sign, so every reader of the JWKS has seen it: 1 h.
/// With the token's longest life it bounds the set to 26 previous keys.
pub const NEXT_PUBLISHED_MS_MIN: u64 = 3_600_000;

/// The signature algorithms of access tokens.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 and 2,048-bit keys (RFC 7518): every client reads it.
    #[default]
    #[serde(rename = "RS256")]
    Rs256,
    /// Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    /// The name in the headers of tokens and in the JWKS.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn verification(self) -> Algorithm {
        match self {
            Self::Rs256 => Algorithm::RS256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// Why there is no key set or no signature.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// The random source or the generation of a key failed.
    #[error("a signing key could not be generated")]
    Generate,
    /// A stored private key is not one, or not of its algorithm.
    #[error("a stored signing key is damaged")]
    Stored,
    /// The signature could not be computed.
    #[error("the token could not be signed")]
    Sign,
    /// The next key has not been public for long enough.
    #[error("the next signing key may be used from {from_ms} on")]
    TooSoon {
        /// When a rotation is possible (ms since 1970).
        from_ms: u64,
    },
}

impl KeyError {
    /// The stable code for answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Generate => "signing_key_generation_failed",
            Self::Stored => "signing_key_damaged",
            Self::Sign => "signing_failed",
            Self::TooSoon { .. } => "signing_key_rotation_too_soon",
        }
    }
}

/// A private key as PKCS#8 DER: erased when dropped, never printed. It serialises in plain, so it
/// goes only into what is sealed.
#[derive(Clone)]
pub struct PrivateKeyDer(Zeroizing<Vec<u8>>);

impl PartialEq for PrivateKeyDer {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for PrivateKeyDer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKeyDer([redacted])")
    }
}

impl Serialize for PrivateKeyDer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PrivateKeyDer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

/// One key as it is sealed at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredKey {
    /// What it signs with.
    pub algorithm: SigningAlgorithm,
    /// When it was made and became public (ms since 1970).
    pub created_at_ms: u64,
    /// The private key.
    pub private_key: PrivateKeyDer,
}

/// A key that no longer signs, as it is sealed at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredPreviousKey {
    /// The key.
    pub key: StoredKey,
    /// From when on no token of it can be valid (ms since 1970).
    pub kept_until_ms: u64,
}

/// A key set as it is sealed at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredKeySet {
    /// The key after the current one.
    pub next: StoredKey,
    /// The key that signs.
    pub current: StoredKey,
    /// The keys that signed before, the latest first.
    pub previous: Vec<StoredPreviousKey>,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// One key, ready to sign and to verify.
pub struct SigningKey {
    stored: StoredKey,
    pair: Pair,
    public: DecodingKey,
    jwk: Jwk,
    kid: String,
}

impl SigningKey {
    fn generate(algorithm: SigningAlgorithm, now_ms: u64) -> Result<Self, KeyError> {
        let bytes = match algorithm {
            SigningAlgorithm::Rs256 => RsaKeyPair::generate(KeySize::Rsa2048)
                .and_then(|pair| pair.as_der())
                .map(|der| der.as_ref().to_vec()),
            SigningAlgorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map(|document| document.as_ref().to_vec()),
        };
        let bytes = bytes.map_err(|_| KeyError::Generate)?;
        let private_key = PrivateKeyDer(Zeroizing::new(bytes));
        Self::open(StoredKey { algorithm, created_at_ms: now_ms, private_key })
    }

    fn open(stored: StoredKey) -> Result<Self, KeyError> {
        let der = &stored.private_key.0;
        let (pair, public, parameters, algorithm) = match stored.algorithm {
            SigningAlgorithm::Rs256 => {
                let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| KeyError::Stored)?;
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                let parameters = AlgorithmParameters::RSA(RSAKeyParameters {
                    key_type: RSAKeyType::RSA,
                    n: URL_SAFE_NO_PAD.encode(&parts.n),
                    e: URL_SAFE_NO_PAD.encode(&parts.e),
                });
                let public = DecodingKey::from_rsa_raw_components(&parts.n, &parts.e);
                (Pair::Rsa(pair), public, parameters, KeyAlgorithm::RS256)
            }
            SigningAlgorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::Stored)?;
                let parameters = AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
                    key_type: OctetKeyPairType::OctetKeyPair,
                    curve: EllipticCurve::Ed25519,
                    x: URL_SAFE_NO_PAD.encode(pair.public_key()),
                });
                let public = DecodingKey::from_ed_der(pair.public_key().as_ref());
                (Pair::Ed25519(pair), public, parameters, KeyAlgorithm::EdDSA)
            }
        };
        let mut jwk = Jwk { common: CommonParameters::default(), algorithm: parameters };
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError::Stored)?;
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = Some(algorithm);
        jwk.common.key_id = Some(kid.clone());
        Ok(Self { stored, pair, public, jwk, kid })
    }

    /// The key's name: its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The only algorithm this key is used with.
    pub fn algorithm(&self) -> SigningAlgorithm {
        self.stored.algorithm
    }

    /// When the key became public (ms since 1970).
    pub fn created_at_ms(&self) -> u64 {
        self.stored.created_at_ms
    }

    /// The public key of an Ed25519 key (RFC 8032).
    pub fn ed25519_public_key(&self) -> Option<[u8; 32]> {
        match &self.pair {
            Pair::Rsa(_) => None,
            Pair::Ed25519(pair) => pair.public_key().as_ref().try_into().ok(),
        }
    }

    /// The signature over `message`. The key pair was parsed once, when the set was opened; an RSA
    /// signature costs about a millisecond of CPU or less.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| KeyError::Sign)?;
                Ok(signature)
            }
            Pair::Ed25519(pair) => {
                Ok(pair.try_sign(message).map_err(|_| KeyError::Sign)?.as_ref().to_vec())
            }
        }
    }

    /// Whether `signature` (base64url) over `message` is this key's, under this key's algorithm.
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let algorithm = self.algorithm().verification();
        jsonwebtoken::crypto::verify(signature, message, &self.public, algorithm).unwrap_or(false)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is public and will sign.
    Next,
    /// It signs.
    Current,
    /// It has signed.
    Previous {
        /// From when on no token of it can be valid (ms since 1970).
        kept_until_ms: u64,
    },
}

#[derive(Clone, Debug)]
struct PreviousKey {
    key: Arc<SigningKey>,
    kept_until_ms: u64,
}

/// The keys of an installation at one time. A clone is cheap: it shares the keys.
#[derive(Clone, Debug)]
pub struct KeySet {
    next: Arc<SigningKey>,
    current: Arc<SigningKey>,
    /// The latest first.
    previous: Vec<PreviousKey>,
}

impl KeySet {
    /// A fresh set. Generating RSA keys takes in the order of a tenth of a second.
    pub fn generate(algorithm: SigningAlgorithm, now_ms: u64) -> Result<Self, KeyError> {
        let key = || SigningKey::generate(algorithm, now_ms).map(Arc::new);
        Ok(Self { next: key()?, current: key()?, previous: Vec::new() })
    }

    /// The set after this one: next becomes current, current becomes previous, and a fresh next,
    /// of the present next key's algorithm, is published. Refused while the next key is young.
    pub fn rotate(&self, now_ms: u64) -> Result<Self, KeyError> {
        self.rotate_to(self.next.algorithm(), now_ms)
    }

    /// [`KeySet::rotate`] with another algorithm for the fresh key: it signs one rotation later.
    pub fn rotate_to(&self, algorithm: SigningAlgorithm, now_ms: u64) -> Result<Self, KeyError> {
        let from_ms = self.next.created_at_ms().saturating_add(NEXT_PUBLISHED_MS_MIN);
        if now_ms < from_ms {
            return Err(KeyError::TooSoon { from_ms });
        }
        // Another server may go on with the old key until it hears of this: hence the skew.
        let kept_until_ms =
            now_ms.saturating_add(TOKEN_LIFE_MS_MAX).saturating_add(CLOCK_SKEW_MS_MAX);
        let retired = PreviousKey { key: Arc::clone(&self.current), kept_until_ms };
        let kept = self.previous.iter().filter(|previous| previous.kept_until_ms > now_ms);
        Ok(Self {
            next: Arc::new(SigningKey::generate(algorithm, now_ms)?),
            current: Arc::clone(&self.next),
            previous: iter::once(retired).chain(kept.cloned()).collect(),
        })
    }

    /// The key that signs.
    pub fn current(&self) -> &SigningKey {
        &self.current
    }

    /// The key named `kid`, unless it has served its time. The next key is found too: another
    /// server may have rotated already.
    pub fn find(&self, kid: &str, now_ms: u64) -> Option<&SigningKey> {
        let previous = self.previous.iter().filter(|previous| now_ms < previous.kept_until_ms);
        [&self.current, &self.next]
            .into_iter()
            .chain(previous.map(|previous| &previous.key))
            .find(|key| key.kid == kid)
            .map(Arc::as_ref)
    }

    /// The public keys as a JWK set: next, current, then the previous ones.
    pub fn jwks(&self) -> Value {
        let keys: Vec<&Jwk> = [&self.next, &self.current]
            .into_iter()
            .chain(self.previous.iter().map(|previous| &previous.key))
            .map(|key| &key.jwk)
            .collect();
        json!({ "keys": keys })
    }

    /// Each key with what it does now, in the order of [`KeySet::jwks`].
    pub fn standings(&self) -> impl Iterator<Item = (&SigningKey, Standing)> {
        let previous = self.previous.iter().map(|previous| {
            let kept_until_ms = previous.kept_until_ms;
            (previous.key.as_ref(), Standing::Previous { kept_until_ms })
        });
        [(self.next.as_ref(), Standing::Next), (self.current.as_ref(), Standing::Current)]
            .into_iter()
            .chain(previous)
    }

    /// The form to seal. It holds the private keys.
    pub fn to_stored(&self) -> StoredKeySet {
        let previous = self.previous.iter().map(|previous| StoredPreviousKey {
            key: previous.key.stored.clone(),
            kept_until_ms: previous.kept_until_ms,
        });
        StoredKeySet {
            next: self.next.stored.clone(),
            current: self.current.stored.clone(),
            previous: previous.collect(),
        }
    }

    /// The set that was sealed.
    pub fn from_stored(stored: StoredKeySet) -> Result<Self, KeyError> {
        let open = |key| SigningKey::open(key).map(Arc::new);
        let previous = stored.previous.into_iter().map(|previous| {
            Ok(PreviousKey { key: open(previous.key)?, kept_until_ms: previous.kept_until_ms })
        });
        Ok(Self {
            next: open(stored.next)?,
            current: open(stored.current)?,
            previous: previous.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn kids(set: &KeySet) -> Vec<String> {
        let jwks = set.jwks();
        let kid = |key: &Value| key["kid"].as_str().unwrap().to_owned();
        jwks["keys"].as_array().unwrap().iter().map(kid).collect()
    }

    #[test]
    fn the_published_example_gives_the_published_thumbprint() {
        // RFC 8037, appendix A.1 to A.3.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let private_key = PrivateKeyDer(Zeroizing::new(pair.to_pkcs8().unwrap().as_ref().to_vec()));
        let algorithm = SigningAlgorithm::EdDsa;
        let key = SigningKey::open(StoredKey { algorithm, created_at_ms: 0, private_key }).unwrap();
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let jwk = serde_json::to_value(&key.jwk).unwrap();
        assert_eq!(
            jwk,
            json!({
                "use": "sig", "alg": "EdDSA", "kid": key.kid(), "kty": "OKP", "crv": "Ed25519",
                "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            })
        );
    }

    #[test]
    fn an_rsa_set_publishes_public_parts_only_and_survives_storage() {
        let set = KeySet::generate(SigningAlgorithm::default(), NOW_MS).unwrap();
        let jwks = set.jwks();
        let keys = jwks["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 2);
        for key in keys {
            let mut names: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["alg", "e", "kid", "kty", "n", "use"]);
            assert_eq!(key["alg"], "RS256");
            assert_eq!(key["use"], "sig");
            let modulus = URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap();
            assert_eq!((modulus.len(), modulus[0] >> 7), (256, 1), "2,048 bits, no leading zero");
        }
        let bytes = serde_json::to_vec(&set.to_stored()).unwrap();
        let reopened = KeySet::from_stored(serde_json::from_slice(&bytes).unwrap()).unwrap();
        assert_eq!(reopened.jwks(), jwks);
        let signature = URL_SAFE_NO_PAD.encode(reopened.current().sign(b"message").unwrap());
        assert!(set.current().verifies(b"message", &signature));
        assert!(!set.current().verifies(b"massage", &signature));
        assert!(!set.next.verifies(b"message", &signature));
        let printed = format!("{set:?} {:?}", set.to_stored());
        assert!(printed.contains("[redacted]") && !printed.contains("48, 130"), "{printed}");
    }

    #[test]
    fn rotation_publishes_before_use_and_keeps_until_the_last_token_expired() {
        let first = KeySet::generate(SigningAlgorithm::EdDsa, NOW_MS).unwrap();
        let from_ms = NOW_MS + NEXT_PUBLISHED_MS_MIN;
        let refused = first.rotate(from_ms - 1).unwrap_err();
        assert_eq!(refused, KeyError::TooSoon { from_ms });
        let second = first.rotate(from_ms).unwrap();
        let (before, after) = (kids(&first), kids(&second));
        assert_eq!(second.current().kid(), before[0]);
        assert_eq!(after[1..], [before[0].clone(), before[1].clone()]);
        assert!(!before.contains(&after[0]), "the next key is a fresh one");
        let until_ms = from_ms + TOKEN_LIFE_MS_MAX + CLOCK_SKEW_MS_MAX;
        assert!(second.find(&before[1], until_ms - 1).is_some());
        assert!(second.find(&before[1], until_ms).is_none());
        assert!(second.find(&after[0], until_ms).is_some());
        let third = second.rotate(until_ms).unwrap();
        assert!(!kids(&third).contains(&before[1]), "a key that served its time is dropped");
    }

    #[test]
    fn hourly_rotation_keeps_the_set_bounded() {
        let mut set = KeySet::generate(SigningAlgorithm::EdDsa, NOW_MS).unwrap();
        for hour in 1..100 {
            set = set.rotate(NOW_MS + hour * NEXT_PUBLISHED_MS_MIN).unwrap();
            assert!(set.previous.len() <= 26);
        }
        let set = set.rotate_to(SigningAlgorithm::Rs256, NOW_MS + 100 * NEXT_PUBLISHED_MS_MIN);
        let set = set.unwrap();
        assert_eq!(set.current().algorithm(), SigningAlgorithm::EdDsa);
        assert_eq!(set.next.algorithm(), SigningAlgorithm::Rs256);
    }

    #[test]
    fn damaged_keys_and_wrong_algorithms_are_refused() {
        let mut stored = KeySet::generate(SigningAlgorithm::EdDsa, NOW_MS).unwrap().to_stored();
        stored.current.algorithm = SigningAlgorithm::Rs256;
        assert_eq!(KeySet::from_stored(stored.clone()).unwrap_err(), KeyError::Stored);
        stored.current.algorithm = SigningAlgorithm::EdDsa;
        stored.current.private_key.0.truncate(20);
        assert_eq!(KeySet::from_stored(stored).unwrap_err(), KeyError::Stored);
    }
}
