//! Making a token narrower: what its holder does, without the server.
//!
//! Invariant: [`Grant::narrow`] is the one place that says what narrower is. Whoever adds a block
//! and whoever checks it ask the same.

use ed25519_dalek::Signer as _;
use types::Scopes;
use zeroize::Zeroizing;

use super::{
    ACTORS_MAX, BLOCK, BLOCKS_MAX, Grant, PROOF_SEAL, PROOF_SECRET, Parsed, Proof, Reader, SEAL,
    Seed, TokenError, bytes_of, message, put_long, put_scopes, put_short, read_actor, read_scopes,
    read_target, text_of,
};

const SCOPES: u8 = 1;
const EXPIRES: u8 = 2;
const TARGET: u8 = 4;
const ALLOWANCE: u8 = 8;
const ACTOR: u8 = 16;

/// What a block makes narrower; what it does not name stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// Fewer scopes: each must be covered by those before.
    pub scopes: Option<Scopes>,
    /// An earlier end (s since 1970).
    pub expires_at_s: Option<u64>,
    /// The one service, where it was any.
    pub target: Option<String>,
    /// Fewer credits.
    pub allowance: Option<u64>,
    /// Who holds the token from here on.
    pub actor: Option<String>,
}

impl Grant {
    /// Takes a block in; [`TokenError::Widens`] when it asks for more than there is.
    pub(super) fn narrow(&mut self, by: &Narrowing) -> Result<(), TokenError> {
        let Narrowing { scopes, expires_at_s, target, allowance, actor } = by;
        let mut wanted = scopes.iter().flat_map(|scopes| scopes.as_slice());
        let is_narrower = wanted.all(|scope| self.scopes.covers(scope))
            && expires_at_s.is_none_or(|at| at <= self.expires_at_s)
            && target.as_ref().is_none_or(|it| self.target.as_ref().is_none_or(|own| own == it))
            && allowance.is_none_or(|it| self.allowance.is_none_or(|own| it <= own))
            && (actor.is_none() || self.actors.len() < ACTORS_MAX);
        if !is_narrower {
            return Err(TokenError::Widens);
        }
        self.scopes = scopes.clone().unwrap_or_else(|| self.scopes.clone());
        self.expires_at_s = expires_at_s.unwrap_or(self.expires_at_s);
        self.target = target.clone().or_else(|| self.target.take());
        self.allowance = allowance.or(self.allowance);
        self.actors.extend(actor.clone());
        Ok(())
    }
}

/// A block's payload as it is read: the key that it names, and what it narrows.
pub(super) fn read(payload: &[u8]) -> Option<(&[u8; 32], Narrowing)> {
    let mut reader = Reader::new(payload);
    let flags = reader.u8().filter(|flags| *flags < 2 * ACTOR)?;
    let (next, mut narrowing) = (reader.array()?, Narrowing::default());
    if flags & SCOPES != 0 {
        narrowing.scopes = Some(read_scopes(&mut reader)?);
    }
    if flags & EXPIRES != 0 {
        narrowing.expires_at_s = Some(reader.u64()?);
    }
    if flags & TARGET != 0 {
        narrowing.target = Some(read_target(&mut reader).filter(|it| !it.is_empty())?);
    }
    if flags & ALLOWANCE != 0 {
        narrowing.allowance = Some(reader.u64()?);
    }
    if flags & ACTOR != 0 {
        narrowing.actor = Some(read_actor(&mut reader)?);
    }
    reader.end().map(|()| (next, narrowing))
}

fn payload(narrowing: &Narrowing, next: &[u8; 32]) -> Option<Vec<u8>> {
    let Narrowing { scopes, expires_at_s, target, allowance, actor } = narrowing;
    let flag = |is_there: bool, flag| if is_there { flag } else { 0 };
    let flags = flag(scopes.is_some(), SCOPES)
        | flag(expires_at_s.is_some(), EXPIRES)
        | flag(target.is_some(), TARGET)
        | flag(allowance.is_some(), ALLOWANCE)
        | flag(actor.is_some(), ACTOR);
    let mut bytes = vec![flags];
    bytes.extend_from_slice(next);
    scopes.iter().try_for_each(|scopes| put_scopes(&mut bytes, scopes))?;
    expires_at_s.iter().for_each(|at| bytes.extend_from_slice(&at.to_be_bytes()));
    target.iter().try_for_each(|target| put_short(&mut bytes, target.as_bytes()))?;
    allowance.iter().for_each(|credits| bytes.extend_from_slice(&credits.to_be_bytes()));
    actor.iter().try_for_each(|actor| put_short(&mut bytes, actor.as_bytes()))?;
    read(&bytes).is_some().then_some(bytes)
}

/// Adds a narrower block, whose secret is `next`, to a token that is not sealed. Refused with
/// [`TokenError::Widens`] when it would be wider, and [`TokenError::Closed`] when none can be
/// added. That the token is genuine is not checked: its holder need not have the issuing keys.
pub fn attenuate(text: &str, narrowing: &Narrowing, next: &Seed) -> Result<String, TokenError> {
    let bytes = bytes_of(text)?;
    let mut grant = {
        let parsed = Parsed::of(&bytes)?;
        let mut grant = parsed.root.claims.grant.clone();
        parsed.blocks.iter().try_for_each(|block| grant.narrow(&block.narrowing))?;
        grant
    };
    grant.narrow(narrowing)?;
    append(&bytes, narrowing, next)
}

/// Adds a block, whatever it asks for.
pub(super) fn append(
    bytes: &[u8],
    narrowing: &Narrowing,
    next: &Seed,
) -> Result<String, TokenError> {
    let parsed = Parsed::of(bytes)?;
    let Proof::Secret(secret) = parsed.proof else { return Err(TokenError::Closed) };
    if parsed.blocks.len() >= BLOCKS_MAX {
        return Err(TokenError::Closed);
    }
    let block = payload(narrowing, &next.public_key()).ok_or(TokenError::Malformed)?;
    let (before, _) = parsed.last();
    let signature = Seed::from_bytes(secret).key().sign(&message(BLOCK, before, &block));
    let mut token = Zeroizing::new(bytes[..parsed.proof_at].to_vec());
    put_long(&mut token, &block).ok_or(TokenError::TooLong)?;
    token.extend_from_slice(&signature.to_bytes());
    // The count stands behind the version, the first block with its length, and its signature.
    token[1 + 2 + parsed.payload.len() + 64] += 1;
    token.push(PROOF_SECRET);
    token.extend_from_slice(next.expose());
    text_of(&token)
}

/// Closes a token: nobody adds to it any more, and who holds it has no secret to lose but itself.
pub fn seal(text: &str) -> Result<String, TokenError> {
    let bytes = bytes_of(text)?;
    let parsed = Parsed::of(&bytes)?;
    let Proof::Secret(secret) = parsed.proof else { return Err(TokenError::Closed) };
    let (before, _) = parsed.last();
    let signature = Seed::from_bytes(secret).key().sign(&message(SEAL, before, &[]));
    let mut token = Zeroizing::new(bytes[..parsed.proof_at].to_vec());
    token.push(PROOF_SEAL);
    token.extend_from_slice(&signature.to_bytes());
    text_of(&token)
}
