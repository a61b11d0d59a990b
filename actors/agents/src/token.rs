//! Agent tokens: what an agent shows to a service, which anybody can check with the public keys
//! and which whoever holds one can narrow without asking.
//!
//! The idea is that of the Biscuit specification (version 3): the server signs a first block that
//! names the public key of the next one. A holder signs a further block with the secret to that key
//! and names another key in turn. A proof closes the chain: the last secret itself, with which
//! the next holder goes on, or a signature with it, after which nobody does. The bytes are our own.
//!
//! ```text
//! text   = "rai_live_" base64url(token), without padding (RFC 4648, section 5)
//! token  = version:1 (= 1)
//!          length:2 root signature:64
//!          count:1 (0 to 8) count × (length:2 block signature:64)
//!          proof
//! proof  = 0 secret:32  |  1 signature:64
//! root   = key id:32  token id:16  agent:16  tenant:16  epoch:8  issued:8  expires:8  next key:32
//!          scopes  target  allowance  intent(length:2)  count:1 (0 to 8) count × actor
//! block  = flags:1  next key:32  [1 scopes] [2 expires:8] [4 target] [8 allowance:8] [16 actor]
//! scopes = count:1 (1 to 32) count × (length:1 text), strictly ascending by their bytes
//! target, actor = length:1 text;  an empty target in the root is any service
//! allowance     = 0  |  1 credits:8
//! ```
//!
//! Numbers are big-endian and unsigned; times are seconds since 1970; texts are UTF-8. The key id
//! is the RFC 7638 thumbprint (SHA-256) of the issuing key, whose base64url is the `kid` in the
//! JWKS. Keys and signatures are Ed25519 (RFC 8032). What is signed is
//!
//! ```text
//! "agent-token-v1"  0  root                                by the issuing key
//! "agent-token-v1"  1  the signature before  block         by the secret of the key named before
//! "agent-token-v1"  2  the last signature                  by the last secret (a seal)
//! ```
//!
//! Invariants
//! - A token has one encoding: what is read was written so, to the last bit.
//! - A block that asks for more than what stands before it refuses the token: no descendant covers,
//!   lasts, reaches or may spend more than an ancestor, whoever wrote the blocks.
//! - Signatures are checked by `verify_strict`: no key of small order, one form of each signature.
//! - A token without added blocks that is not sealed costs one check of a signature.
//! - Nothing that is read panics, and no length is believed that the bytes do not bear out.
//!
//! Deliberate limits
//! - That a token is genuine does not say that it is good: revocation and the agent's own standing
//!   are looked at in [`crate::check`]. Who checks offline sees neither, and is bounded by the
//!   token's life of at most a day.
//! - Whoever holds a token that is not sealed has its secret, as a bearer has a bearer token.

mod narrowing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, SigningKey};
use persistence::record::sha256;
use types::{AgentId, Scopes, TenantId, TokenId};
use zeroize::Zeroizing;

pub use ed25519_dalek::VerifyingKey;
pub use narrowing::{Narrowing, attenuate, seal};

use crate::encoding::{Reader, put_long, put_short};

/// What every token begins with.
pub const PREFIX: &str = "rai_live_";
/// The longest token (bytes of text).
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// The most blocks that holders may add.
pub const BLOCKS_MAX: usize = 8;
/// The most scopes of a block.
pub const SCOPES_MAX: usize = 32;
/// The longest scope (bytes).
pub const SCOPE_BYTES_MAX: usize = 128;
/// The longest name of a service (bytes).
pub const TARGET_BYTES_MAX: usize = 255;
/// The longest intent (bytes).
pub const INTENT_BYTES_MAX: usize = 512;
/// The most actors, who act for one another.
pub const ACTORS_MAX: usize = 8;
/// The longest name of an actor (bytes).
pub const ACTOR_BYTES_MAX: usize = 128;
/// The longest life of a token (s).
pub const LIFE_SECONDS_MAX: u64 = 86_400;
/// How far the clocks of two servers may differ (s).
pub const CLOCK_SKEW_SECONDS_MAX: u64 = 60;
/// The version of the layout.
const VERSION: u8 = 1;
/// What every signed message begins with.
const CONTEXT: &[u8] = b"agent-token-v1";
const ROOT: u8 = 0;
const BLOCK: u8 = 1;
const SEAL: u8 = 2;

/// Why a token is refused, or could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`TEXT_BYTES_MAX`].
    #[error("the token is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// No token, or not in the one encoding.
    #[error("the token is malformed")]
    Malformed,
    /// Of a layout that is not known here.
    #[error("the token is of another version")]
    Version,
    /// The key id names no key that is still good.
    #[error("the token's issuing key is unknown")]
    UnknownKey,
    /// The first signature is not the issuing key's.
    #[error("the token's signature is wrong")]
    Signature,
    /// The signature of an added block is not by the secret before it.
    #[error("the signature of an added block is wrong")]
    BlockSignature,
    /// The secret or the seal at the end is not the last key's.
    #[error("the token's proof is wrong")]
    Proof,
    /// An added block asks for more than what stands before it.
    #[error("an added block allows more than the one before")]
    Widens,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was issued in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is sealed, or has as many blocks as it may.
    #[error("no block can be added to this token")]
    Closed,
}

impl TokenError {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Version => "token_version",
            Self::UnknownKey => "token_key_unknown",
            Self::Signature => "token_signature",
            Self::BlockSignature => "token_block_signature",
            Self::Proof => "token_proof",
            Self::Widens => "token_block_widens",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Closed => "token_closed",
        }
    }
}

/// What a token allows: all that a block can narrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it covers.
    pub scopes: Scopes,
    /// From when on it is refused (s since 1970).
    pub expires_at_s: u64,
    /// The one service that it is for; `None` is any.
    pub target: Option<String>,
    /// How many credits may be spent with it; `None` is no limit of its own.
    pub allowance: Option<u64>,
    /// Who acts for the agent, each for the one before.
    pub actors: Vec<String>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The token that the server issued, which all that holders make of it share.
    pub token: TokenId,
    /// Whose it is.
    pub agent: AgentId,
    /// In which tenant.
    pub tenant: TenantId,
    /// The epoch of the agent that it was issued under.
    pub epoch: u64,
    /// Since when (s since 1970).
    pub issued_at_s: u64,
    /// What the agent wants with it, in words.
    pub intent: String,
    /// What it allows.
    pub grant: Grant,
}

/// A genuine token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it says, as narrow as its last block makes it.
    pub claims: Claims,
    /// When the longest-lived token of those that share its number expires (s since 1970).
    pub tree_expires_at_s: u64,
    /// What it is revoked by: the token's own number, then one for each added block. Who revokes
    /// one of them revokes whatever was made of it.
    pub revocation_ids: Box<[u128]>,
}

impl Token {
    /// Whether it is the time of the token.
    pub fn check_time(&self, now_s: u64) -> Result<(), TokenError> {
        if now_s >= self.claims.grant.expires_at_s {
            return Err(TokenError::Expired);
        }
        if self.claims.issued_at_s > now_s.saturating_add(CLOCK_SKEW_SECONDS_MAX) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

/// The secret of a block: an Ed25519 seed. It never prints.
#[derive(Clone)]
pub struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// A fresh one, or `None` if the system has no random numbers.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).ok()?;
        Some(Self(bytes))
    }

    /// From its bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The bytes, for whom they are meant; they go nowhere else.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.key().verifying_key().to_bytes()
    }

    pub(crate) fn key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.0)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Seed([redacted])")
    }
}

/// Whether a credential begins as a token does; whatever else begins so is none.
pub fn is_token(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

/// What is signed: see the module's head.
fn message(kind: u8, before: &[u8], payload: &[u8]) -> Vec<u8> {
    [CONTEXT, &[kind], before, payload].concat()
}

/// The number that a block is revoked by: the first 128 bits of the SHA-256 of its signature.
fn revocation_id(signature: &[u8; 64]) -> u128 {
    let digest = sha256(&[signature]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(id)
}

/// Makes a token: `sign` signs with the key that `key_id` is the thumbprint of. [`TokenError`] when
/// a claim is longer than it may be.
pub fn mint(
    claims: &Claims,
    key_id: &[u8; 32],
    next: &Seed,
    sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>,
) -> Result<String, TokenError> {
    let root = root_payload(claims, key_id, &next.public_key()).ok_or(TokenError::Malformed)?;
    // Nothing is signed that would not be read.
    read_root(&root).ok_or(TokenError::Malformed)?;
    let signature = sign(&message(ROOT, &[], &root)).ok_or(TokenError::Signature)?;
    let mut token = Zeroizing::new(vec![VERSION]);
    put_long(&mut token, &root).ok_or(TokenError::TooLong)?;
    token.extend_from_slice(&signature);
    token.push(0);
    token.push(PROOF_SECRET);
    token.extend_from_slice(next.expose());
    text_of(&token)
}

const PROOF_SECRET: u8 = 0;
const PROOF_SEAL: u8 = 1;

fn text_of(token: &[u8]) -> Result<String, TokenError> {
    let mut text = String::with_capacity(PREFIX.len() + token.len().div_ceil(3) * 4);
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(token, &mut text);
    if text.len() > TEXT_BYTES_MAX { Err(TokenError::TooLong) } else { Ok(text) }
}

fn bytes_of(text: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
    URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new).map_err(|_| TokenError::Malformed)
}

fn put_scopes(bytes: &mut Vec<u8>, scopes: &Scopes) -> Option<()> {
    let mut sorted: Vec<&str> = scopes.as_slice().iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    bytes.push(u8::try_from(sorted.len()).ok()?);
    sorted.into_iter().try_for_each(|scope| put_short(bytes, scope.as_bytes()))
}

fn root_payload(claims: &Claims, key_id: &[u8; 32], next: &[u8; 32]) -> Option<Vec<u8>> {
    let Claims { token, agent, tenant, epoch, issued_at_s, intent, grant } = claims;
    let mut bytes = key_id.to_vec();
    for id in [token.0, agent.0, tenant.0] {
        bytes.extend_from_slice(&id.to_be_bytes());
    }
    for number in [*epoch, *issued_at_s, grant.expires_at_s] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(next);
    put_scopes(&mut bytes, &grant.scopes)?;
    put_short(&mut bytes, grant.target.as_deref().unwrap_or_default().as_bytes())?;
    bytes.push(u8::from(grant.allowance.is_some()));
    grant.allowance.iter().for_each(|credits| bytes.extend_from_slice(&credits.to_be_bytes()));
    put_long(&mut bytes, intent.as_bytes())?;
    bytes.push(u8::try_from(grant.actors.len()).ok()?);
    grant.actors.iter().try_for_each(|actor| put_short(&mut bytes, actor.as_bytes()))?;
    Some(bytes)
}

fn is_graphic(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

fn read_scopes(reader: &mut Reader<'_>) -> Option<Scopes> {
    let count = usize::from(reader.u8()?);
    if !(1..=SCOPES_MAX).contains(&count) {
        return None;
    }
    let mut scopes: Vec<&str> = Vec::with_capacity(count);
    for _ in 0..count {
        let scope = reader.short().filter(|it| is_graphic(it))?;
        let is_fit = (1..=SCOPE_BYTES_MAX).contains(&scope.len());
        let scope = std::str::from_utf8(scope).ok().filter(|_| is_fit)?;
        if scopes.last().is_some_and(|before| *before >= scope) {
            return None;
        }
        scopes.push(scope);
    }
    Some(scopes.into_iter().collect())
}

fn read_text(bytes: &[u8], bytes_max: usize) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (text.len() <= bytes_max).then(|| text.to_owned())
}

fn read_actor(reader: &mut Reader<'_>) -> Option<String> {
    let actor = reader.short().filter(|it| !it.is_empty() && is_graphic(it))?;
    read_text(actor, ACTOR_BYTES_MAX)
}

fn read_target(reader: &mut Reader<'_>) -> Option<String> {
    read_text(reader.short().filter(|it| is_graphic(it))?, TARGET_BYTES_MAX)
}

/// The first block as it is read.
struct Root<'a> {
    key_id: &'a [u8; 32],
    next: &'a [u8; 32],
    claims: Claims,
}

fn read_root(bytes: &[u8]) -> Option<Root<'_>> {
    let mut reader = Reader::new(bytes);
    let key_id = reader.array()?;
    let (token, agent) = (TokenId(reader.u128()?), AgentId(reader.u128()?));
    let tenant = TenantId(reader.u128()?);
    let (epoch, issued_at_s, expires_at_s) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let is_sound = issued_at_s < expires_at_s && expires_at_s - issued_at_s <= LIFE_SECONDS_MAX;
    let next = reader.array().filter(|_| is_sound)?;
    let scopes = read_scopes(&mut reader)?;
    let target = Some(read_target(&mut reader)?).filter(|it| !it.is_empty());
    let allowance = match reader.u8()? {
        0 => None,
        1 => Some(reader.u64()?),
        _ => return None,
    };
    let intent = read_text(reader.long()?, INTENT_BYTES_MAX)?;
    let count = usize::from(reader.u8()?);
    if count > ACTORS_MAX {
        return None;
    }
    let actors = (0..count).map(|_| read_actor(&mut reader)).collect::<Option<_>>()?;
    reader.end()?;
    let grant = Grant { scopes, expires_at_s, target, allowance, actors };
    Some(Root {
        key_id,
        next,
        claims: Claims { token, agent, tenant, epoch, issued_at_s, intent, grant },
    })
}

/// An added block as it is read.
struct Block<'a> {
    payload: &'a [u8],
    signature: &'a [u8; 64],
    next: &'a [u8; 32],
    narrowing: Narrowing,
}

#[derive(Clone, Copy)]
enum Proof<'a> {
    Secret(&'a [u8; 32]),
    Seal(&'a [u8; 64]),
}

/// A whole token as it is read: nothing of it is believed yet.
struct Parsed<'a> {
    root: Root<'a>,
    payload: &'a [u8],
    signature: &'a [u8; 64],
    blocks: Vec<Block<'a>>,
    /// How many bytes stand before the proof.
    proof_at: usize,
    proof: Proof<'a>,
}

impl<'a> Parsed<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, TokenError> {
        match bytes.first() {
            Some(&VERSION) => Self::read(bytes).ok_or(TokenError::Malformed),
            Some(_) => Err(TokenError::Version),
            None => Err(TokenError::Malformed),
        }
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        reader.u8()?;
        let (payload, signature) = (reader.long()?, reader.array()?);
        let root = read_root(payload)?;
        let count = usize::from(reader.u8()?);
        if count > BLOCKS_MAX {
            return None;
        }
        let mut blocks = Vec::with_capacity(count);
        for _ in 0..count {
            let (payload, signature) = (reader.long()?, reader.array()?);
            let (next, narrowing) = narrowing::read(payload)?;
            blocks.push(Block { payload, signature, next, narrowing });
        }
        let (kind, proof) = (reader.u8()?, reader);
        let proof = match kind {
            PROOF_SECRET => read_last(proof).map(Proof::Secret)?,
            PROOF_SEAL => read_last(proof).map(Proof::Seal)?,
            _ => return None,
        };
        let proof_length = match proof {
            Proof::Secret(_) => 1 + 32,
            Proof::Seal(_) => 1 + 64,
        };
        Some(Self { root, payload, signature, blocks, proof_at: bytes.len() - proof_length, proof })
    }

    /// The last signature and the last key that was named.
    fn last(&self) -> (&'a [u8; 64], &'a [u8; 32]) {
        let last = self.blocks.last().map(|block| (block.signature, block.next));
        last.unwrap_or((self.signature, self.root.next))
    }

    fn check_signatures(&self, issuer: &VerifyingKey) -> Result<(), TokenError> {
        let root = message(ROOT, &[], self.payload);
        if !is_signed(issuer, &root, self.signature) {
            return Err(TokenError::Signature);
        }
        let (mut before, mut key) = (self.signature, self.root.next);
        for block in &self.blocks {
            let added = message(BLOCK, before, block.payload);
            let signer = VerifyingKey::from_bytes(key).ok();
            if !signer.is_some_and(|signer| is_signed(&signer, &added, block.signature)) {
                return Err(TokenError::BlockSignature);
            }
            (before, key) = (block.signature, block.next);
        }
        let is_proven = match self.proof {
            Proof::Secret(secret) => Seed::from_bytes(secret).public_key() == *key,
            Proof::Seal(seal) => VerifyingKey::from_bytes(key)
                .is_ok_and(|signer| is_signed(&signer, &message(SEAL, before, &[]), seal)),
        };
        is_proven.then_some(()).ok_or(TokenError::Proof)
    }
}

fn read_last<'a, const N: usize>(mut reader: Reader<'a>) -> Option<&'a [u8; N]> {
    let last = reader.array()?;
    reader.end().map(|()| last)
}

fn is_signed(key: &VerifyingKey, message: &[u8], signature: &[u8; 64]) -> bool {
    key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}

/// What a genuine token says, whatever the time is: see [`Token::check_time`]. `key_of` finds the
/// issuing key of a thumbprint.
pub fn verify(
    text: &str,
    key_of: impl FnOnce(&[u8; 32]) -> Option<VerifyingKey>,
) -> Result<Token, TokenError> {
    let bytes = bytes_of(text)?;
    let parsed = Parsed::of(&bytes)?;
    let issuer = key_of(parsed.root.key_id).ok_or(TokenError::UnknownKey)?;
    parsed.check_signatures(&issuer)?;
    let ids = std::iter::once(parsed.root.claims.token.0);
    let ids = ids.chain(parsed.blocks.iter().map(|block| revocation_id(block.signature)));
    let revocation_ids = ids.collect();
    let mut claims = parsed.root.claims;
    let tree_expires_at_s = claims.grant.expires_at_s;
    for block in &parsed.blocks {
        claims.grant.narrow(&block.narrowing)?;
    }
    Ok(Token { claims, tree_expires_at_s, revocation_ids })
}
