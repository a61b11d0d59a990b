//! Access tokens: JWTs (RFC 7519, RFC 9068) signed by the installation's [`KeySet`].
//!
//! Invariants
//! - The algorithm is the key's, and the key is one of ours, named by `kid`. The header's `alg` is
//!   only compared with it. A header has exactly `alg`, `typ` and `kid`: with `crit`, `jwk`, `jku`,
//!   `x5c` or anything else a token is refused.
//! - Nothing of the payload is looked at before the signature is right.
//! - Every claim must be there in its one type: no number in a string, no float, no `null`, no
//!   array of audiences. A member that stands twice, at any depth, refuses the token.
//!
//! Deliberate limits
//! - A right signature is not yet a valid token: revocation epochs are checked where verified
//!   tokens are kept (see [`crate::token_cache`]).
//! - Claims that are not known here are ignored, as RFC 7519 section 4 wants it, so that servers of
//!   two versions can run side by side.
//! - No encryption, no detached or nested tokens, no token of another issuer.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::signing_keys::{CLOCK_SKEW_MS_MAX, KeyError, KeySet, TOKEN_LIFE_MS_MAX};

/// The longest token that is signed or looked at (bytes).
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The `typ` of every access token (RFC 9068 section 2.1).
pub const TOKEN_TYPE: &str = "at+jwt";
/// The longest time from `iat` to `exp` (s).
pub const TOKEN_LIFE_SECONDS_MAX: u64 = TOKEN_LIFE_MS_MAX / 1000;
/// The largest integer that every JSON reader holds exactly (RFC 8259 section 6): 2^53 - 1.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// The revocation epochs a token was issued under.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct CarriedEpochs {
    /// The tenant's.
    #[serde(rename = "t")]
    pub tenant: u64,
    /// The user's.
    #[serde(rename = "u")]
    pub user: u64,
    /// The session's.
    #[serde(rename = "s")]
    pub session: u64,
    /// The user's in this tenant; a token without it is one of a membership that never changed.
    #[serde(rename = "m", skip_serializing_if = "is_zero")]
    pub membership: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(epoch: &u64) -> bool {
    *epoch == 0
}

/// What an access token says. There is no `Deserialize`: [`verify`] is the only way in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Claims {
    /// The issuer: the installation.
    pub iss: String,
    /// The audience: the installation's APIs.
    pub aud: String,
    /// The user's id.
    pub sub: String,
    /// The session's id.
    pub sid: String,
    /// The user's e-mail address.
    pub email: String,
    /// The id of the tenant that the user logged in to.
    pub tenant_id: String,
    /// The user's role in that tenant.
    pub role: String,
    /// What the token may be used for.
    pub scopes: Vec<String>,
    /// Issued at (s since 1970).
    pub iat: u64,
    /// Expires at (s since 1970).
    pub exp: u64,
    /// The token's own id, where somebody needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The epochs the token was issued under.
    pub epochs: CarriedEpochs,
}

impl Claims {
    /// From when on the token is refused (ms since 1970).
    pub fn expires_at_ms(&self) -> u64 {
        self.exp.saturating_mul(1000)
    }
}

/// Why a token is refused, or could not be made. To clients all refusals are the one 401.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not three parts of base64url, or a part is no JSON object with unique members.
    #[error("the token is malformed")]
    Malformed,
    /// The header lacks a member, has one of a wrong type, or one too many.
    #[error("the token's header is not one of ours")]
    Header,
    /// `typ` is not [`TOKEN_TYPE`].
    #[error("the token is of another type")]
    Type,
    /// `kid` names no key that is still good.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// `alg` is not the algorithm of the key.
    #[error("the token's algorithm is not its key's")]
    Algorithm,
    /// The signature is not the key's.
    #[error("the token's signature is wrong")]
    Signature,
    /// A claim is missing, has a wrong type, or makes no sense.
    #[error("the token's claim `{0}` is missing or wrong")]
    Claim(&'static str),
    /// Another issuer's token.
    #[error("the token was issued by somebody else")]
    Issuer,
    /// A token for another audience.
    #[error("the token was issued for somebody else")]
    Audience,
    /// `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// `iat` or `nbf` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The signature could not be computed.
    #[error("the token could not be signed")]
    Sign(#[source] KeyError),
}

impl TokenError {
    /// The stable code for logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Header => "token_header",
            Self::Type => "token_type",
            Self::UnknownKey => "token_key_unknown",
            Self::Algorithm => "token_algorithm",
            Self::Signature => "token_signature",
            Self::Claim(_) => "token_claim",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Sign(_) => "token_signing_failed",
        }
    }
}

/// The token that says `claims`, signed by the current key.
pub fn sign(keys: &KeySet, claims: &Claims) -> Result<String, TokenError> {
    check_life(claims)?;
    let key = keys.current();
    let header = json!({ "alg": key.algorithm().name(), "typ": TOKEN_TYPE, "kid": key.kid() });
    let payload = serde_json::to_string(claims).map_err(|_| TokenError::Malformed)?;
    // Nothing is signed that would not be read: an empty claim, an epoch beyond 2^53.
    Members(read_object(payload.as_bytes())?).claims()?;
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = key.sign(token.as_bytes()).map_err(TokenError::Sign)?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    if token.len() > TOKEN_BYTES_MAX { Err(TokenError::TooLong) } else { Ok(token) }
}

/// What `token` says, if it is a token of ours, for `audience`, and good at `now_ms`.
pub fn verify(
    keys: &KeySet,
    token: &str,
    now_ms: u64,
    issuer: &str,
    audience: &str,
) -> Result<Claims, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
    let (algorithm, kid) = read_header(&decode(header)?)?;
    let key = keys.find(&kid, now_ms).ok_or(TokenError::UnknownKey)?;
    if algorithm != key.algorithm().name() {
        return Err(TokenError::Algorithm);
    }
    if !key.verifies(message.as_bytes(), signature) {
        return Err(TokenError::Signature);
    }
    let members = Members(decode(payload)?);
    let claims = members.claims()?;
    if claims.iss != issuer {
        return Err(TokenError::Issuer);
    }
    if claims.aud != audience {
        return Err(TokenError::Audience);
    }
    check_life(&claims)?;
    if now_ms >= claims.expires_at_ms() {
        return Err(TokenError::Expired);
    }
    let not_before = members.integer_if_present("nbf")?.unwrap_or(0).max(claims.iat);
    if not_before.saturating_mul(1000) > now_ms.saturating_add(CLOCK_SKEW_MS_MAX) {
        return Err(TokenError::NotYetValid);
    }
    Ok(claims)
}

fn check_life(claims: &Claims) -> Result<(), TokenError> {
    let is_sound = claims.iat < claims.exp && claims.exp - claims.iat <= TOKEN_LIFE_SECONDS_MAX;
    if is_sound { Ok(()) } else { Err(TokenError::Claim("exp")) }
}

/// The `alg` and the `kid` of a header that has nothing but these and the right `typ`.
fn read_header(header: &Map<String, Value>) -> Result<(String, String), TokenError> {
    let text = |name: &str| header.get(name).and_then(Value::as_str).ok_or(TokenError::Header);
    let (algorithm, kind, kid) = (text("alg")?, text("typ")?, text("kid")?);
    if header.len() != 3 {
        return Err(TokenError::Header);
    }
    if kind != TOKEN_TYPE {
        return Err(TokenError::Type);
    }
    Ok((algorithm.to_owned(), kid.to_owned()))
}

fn decode(part: &str) -> Result<Map<String, Value>, TokenError> {
    read_object(&URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?)
}

fn read_object(json: &[u8]) -> Result<Map<String, Value>, TokenError> {
    match serde_json::from_slice(json) {
        Ok(Unambiguous(Value::Object(members))) => Ok(members),
        _ => Err(TokenError::Malformed),
    }
}

/// The members of a payload, each read in the one type it may have.
struct Members(Map<String, Value>);

impl Members {
    fn claims(&self) -> Result<Claims, TokenError> {
        Ok(Claims {
            iss: self.text("iss")?,
            aud: self.text("aud")?,
            sub: self.text("sub")?,
            sid: self.text("sid")?,
            email: self.text("email")?,
            tenant_id: self.text("tenant_id")?,
            role: self.text("role")?,
            scopes: self.texts("scopes")?,
            iat: self.integer("iat")?,
            exp: self.integer("exp")?,
            jti: self.0.contains_key("jti").then(|| self.text("jti")).transpose()?,
            epochs: self.epochs()?,
        })
    }

    fn text(&self, name: &'static str) -> Result<String, TokenError> {
        text(self.0.get(name)).ok_or(TokenError::Claim(name))
    }

    fn texts(&self, name: &'static str) -> Result<Vec<String>, TokenError> {
        let items = self.0.get(name).and_then(Value::as_array);
        let texts = items.and_then(|items| items.iter().map(|item| text(Some(item))).collect());
        texts.ok_or(TokenError::Claim(name))
    }

    fn integer(&self, name: &'static str) -> Result<u64, TokenError> {
        integer(self.0.get(name)).ok_or(TokenError::Claim(name))
    }

    fn integer_if_present(&self, name: &'static str) -> Result<Option<u64>, TokenError> {
        self.0.contains_key(name).then(|| self.integer(name)).transpose()
    }

    fn epochs(&self) -> Result<CarriedEpochs, TokenError> {
        let epochs = self.0.get("epochs").and_then(Value::as_object);
        let epoch = |name| integer(epochs.and_then(|epochs| epochs.get(name)));
        let has_membership = epochs.is_some_and(|epochs| epochs.contains_key("m"));
        let epochs = epochs.filter(|epochs| epochs.len() == 3 + usize::from(has_membership));
        let membership = if has_membership { epoch("m") } else { epochs.map(|_| 0) };
        match (epoch("t"), epoch("u"), epoch("s"), membership) {
            (Some(tenant), Some(user), Some(session), Some(membership)) => {
                Ok(CarriedEpochs { tenant, user, session, membership })
            }
            _ => Err(TokenError::Claim("epochs")),
        }
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn integer(value: Option<&Value>) -> Option<u64> {
    // `as_u64` answers for integers only: serde_json keeps 1.0 and 1e3 as floats.
    value.and_then(Value::as_u64).filter(|integer| *integer <= INTEGER_MAX)
}

/// A JSON value no object of which has a member twice, so that no two readers can differ.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without duplicate members")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unambiguous(value))) = members.next_entry::<String, _>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
#[path = "../tests/corpus/mod.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};

    use super::corpus::{Corpus, Keys, Sign};
    use super::*;
    use crate::signing_keys::{NEXT_PUBLISHED_MS_MIN, SigningAlgorithm};

    struct World {
        corpus: Corpus,
        keys: KeySet,
        rotated: KeySet,
        foreign: KeySet,
    }

    impl World {
        fn of(algorithm: SigningAlgorithm) -> Self {
            let corpus = Corpus::new(include_str!("../testdata/token_corpus.json"));
            let now_ms = corpus.now_s * 1000;
            let set = || KeySet::generate(algorithm, now_ms).unwrap();
            let keys = set();
            let rotated = keys.rotate(now_ms + NEXT_PUBLISHED_MS_MIN).unwrap();
            Self { keys, rotated, foreign: set(), corpus }
        }

        fn verify(&self, token: &str) -> Result<Claims, TokenError> {
            let text = |name: &str| self.corpus.document[name].as_str().unwrap();
            let now_ms = self.corpus.now_s * 1000;
            verify(&self.keys, token, now_ms, text("issuer"), text("audience"))
        }

        fn token(&self, case: &Value) -> String {
            let sets = [&self.keys, &self.rotated, &self.foreign];
            let algorithms = match self.keys.current().algorithm() {
                SigningAlgorithm::Rs256 => ("RS256", "EdDSA"),
                SigningAlgorithm::EdDsa => ("EdDSA", "RS256"),
            };
            let sign = |set: &'_ KeySet, message: &[u8]| set.current().sign(message).unwrap();
            let keys = Keys {
                algorithms,
                kids: sets.map(|set| set.current().kid().to_owned()),
                jwks: [&self.keys, &self.foreign].map(|set| set.jwks()["keys"][1].clone()),
                sign: sets.map(|set| -> Sign<'_> { Box::new(move |message| sign(set, message)) }),
            };
            self.corpus.token(case, &keys)
        }
    }

    fn describe(result: &Result<Claims, TokenError>) -> Value {
        match result {
            Ok(_) => Value::Null,
            Err(TokenError::Claim(name)) => format!("token_claim:{name}").into(),
            Err(error) => error.code().into(),
        }
    }

    #[test]
    fn the_corpus_holds_for_both_algorithms() {
        for algorithm in [SigningAlgorithm::Rs256, SigningAlgorithm::EdDsa] {
            let world = World::of(algorithm);
            let cases = world.corpus.cases().iter();
            let failed: Vec<String> = cases
                .map(|case| (case, describe(&world.verify(&world.token(case)))))
                .filter(|(case, found)| case["error"] != *found)
                .map(|(case, found)| format!("{}: {} but {found}", case["name"], case["error"]))
                .collect();
            assert!(failed.is_empty(), "{algorithm:?}: {failed:#?}");
        }
    }

    #[test]
    fn what_is_signed_is_read_back_across_rotations_and_other_libraries() {
        let world = World::of(SigningAlgorithm::Rs256);
        let mut claims = world.verify(&world.token(&Value::Null)).unwrap();
        claims.jti = Some("tok_1".to_owned());
        let token = sign(&world.keys, &claims).unwrap();
        assert_eq!(world.verify(&token).as_ref(), Ok(&claims));
        let jwk = serde_json::from_value(world.keys.jwks()["keys"][1].clone()).unwrap();
        let key = DecodingKey::from_jwk(&jwk).unwrap();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[&claims.aud]);
        validation.validate_exp = false;
        let read = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
        assert_eq!(read.claims, serde_json::to_value(&claims).unwrap());
        assert_eq!(read.header.typ.as_deref(), Some(TOKEN_TYPE));
        let world = World { keys: world.rotated.clone(), ..world };
        assert_eq!(world.verify(&token), Ok(claims));
    }

    #[test]
    fn nothing_unsound_is_signed() {
        let world = World::of(SigningAlgorithm::EdDsa);
        let claims = world.verify(&world.token(&Value::Null)).unwrap();
        let long = Claims { exp: claims.iat + TOKEN_LIFE_SECONDS_MAX + 1, ..claims.clone() };
        assert_eq!(sign(&world.keys, &long), Err(TokenError::Claim("exp")));
        let nobody = Claims { email: String::new(), ..claims.clone() };
        assert_eq!(sign(&world.keys, &nobody), Err(TokenError::Claim("email")));
        let wide = Claims { scopes: vec!["a:b".to_owned(); 2_000], ..claims };
        assert_eq!(sign(&world.keys, &wide), Err(TokenError::TooLong));
    }
}
