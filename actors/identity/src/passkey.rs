//! Passkeys as a second factor: the relying party's part of Web Authentication (WebAuthn Level 2,
//! sections 7.1 and 7.2), without state: options to send out, answers to check.
//!
//! Invariants
//! - An answer counts only for the challenge, the origin and the relying party it was made for,
//!   with the user present. What does not check out is refused with the step that failed; nothing
//!   is repaired.
//! - A stored key has one algorithm for life; nothing in an assertion chooses one.
//!
//! Deliberate limits
//! - A second factor: presence is needed, verification of the user (a PIN, a finger) is asked for
//!   and not insisted on. Attestation is asked for as `none`, and none is evaluated: whoever is
//!   logged in may enrol what authenticator they like.
//! - ES256, EdDSA and RS256, which every authenticator has one of.
//! - One origin; no embedding in pages of another origin; no extensions.
//!
//! Formats: attestation object and authenticator data (WebAuthn, sections 6.1 and 6.5), keys as
//! COSE (RFC 9052, RFC 9053), JSON as WebAuthn Level 3 (section 5.1) lays it out, binary values in
//! base64url.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ciborium::Value as Cbor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

/// How long an authenticator may take, as the options tell it, in milliseconds: 5 min.
pub const TIMEOUT_MS: u64 = 5 * 60_000;
/// The longest credential id, in bytes (WebAuthn, section 7.1, step 24).
pub const CREDENTIAL_BYTES_MAX: usize = 1_023;
/// The longest of each part of an answer, in bytes.
const PART_BYTES_MAX: usize = 64 * 1_024;
/// Relying party's hash, flags and counter.
const HEAD_BYTES: usize = 32 + 1 + 4;
/// The AAGUID and the length of the credential's id.
const ATTESTED_HEAD_BYTES: usize = 16 + 2;

const USER_PRESENT: u8 = 0x01;
const BACKUP_ELIGIBLE: u8 = 0x08;
const BACKED_UP: u8 = 0x10;
const ATTESTED: u8 = 0x40;
const EXTENDED: u8 = 0x80;

const ES256: i64 = -7;
const EDDSA: i64 = -8;
const RS256: i64 = -257;

/// What an authenticator signs, so that no answer is used twice.
pub type Challenge = [u8; 32];

/// A fresh challenge, or `None` if the system has no random numbers.
pub fn new_challenge() -> Option<Challenge> {
    let mut challenge = [0; 32];
    rand::fill(&mut challenge).ok()?;
    Some(challenge)
}

/// Whom passkeys are for: the address that browsers reach this server by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The relying party's id: the host.
    pub rp_id: String,
    /// Scheme, host and port, as browsers write them.
    pub origin: String,
}

impl Site {
    /// The site at a public URL (`https://host[:port]`, a path is ignored); `None` when it is no
    /// such URL. Browsers offer passkeys on `https`, and on `http` for `localhost`.
    pub fn of(public_url: &str) -> Option<Self> {
        let (scheme, rest) = public_url.trim().split_once("://")?;
        let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "https" => ("https", ":443"),
            "http" => ("http", ":80"),
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
        let authority = authority.strip_suffix(default_port).unwrap_or(&authority);
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        let fits = !host.is_empty()
            && host.bytes().all(is_host)
            && port.is_none_or(|port| port.parse::<u16>().is_ok());
        let origin = format!("{scheme}://{authority}");
        fits.then(|| Self { rp_id: host.to_owned(), origin })
    }
}

impl Default for Site {
    fn default() -> Self {
        Self { rp_id: "localhost".to_owned(), origin: "http://localhost:8787".to_owned() }
    }
}

/// The step of the check that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasskeyError {
    /// A part is not what it should be.
    #[error("the {0} of the passkey's answer cannot be read")]
    Malformed(&'static str),
    /// Made for something else.
    #[error("the passkey's answer was made for another {0}")]
    Foreign(&'static str),
    /// Nobody touched it.
    #[error("the passkey does not say that somebody was present")]
    Absent,
    /// Its key is of a sort that is not used here.
    #[error("the passkey's key is not ES256, EdDSA or RS256, or is no key")]
    Key,
    /// The signature is not the key's.
    #[error("the passkey's signature is wrong")]
    Signature,
    /// Its counter went back: there may be two of it.
    #[error("the passkey's counter went back: it may have been copied")]
    Counter,
}

/// A credential's public key, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PublicKey {
    /// A point on P-256, uncompressed (SEC 1, section 2.3.3).
    Es256(Vec<u8>),
    /// The 32 bytes of an Ed25519 key.
    EdDsa(Vec<u8>),
    /// An RSA key, big endian.
    Rs256 {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
}

impl PublicKey {
    fn parsed(&self) -> Option<ParsedPublicKey> {
        match self {
            Self::Es256(point) => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).ok(),
            Self::EdDsa(bytes) => ParsedPublicKey::new(&ED25519, bytes).ok(),
            Self::Rs256 { n, e } => {
                let parts = RsaPublicKeyComponents { n, e };
                parts.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()
            }
        }
    }

    /// The key in a COSE map (RFC 9052, section 7), if it is one that verifies.
    fn of_cose(key: &Cbor) -> Option<Self> {
        let entry = |label: i64| {
            let entries = key.as_map()?.iter();
            let is_it = |name: &Cbor| name.as_integer() == Some(label.into());
            entries.into_iter().find(|(name, _)| is_it(name)).map(|(_, value)| value)
        };
        let number = |label| entry(label)?.as_integer()?.try_into().ok();
        let bytes = |label| Some(entry(label)?.as_bytes()?.clone());
        let found = match (number(1)?, number(3)?, number(-1)) {
            (2, ES256, Some(1)) => Self::Es256([vec![4], bytes(-2)?, bytes(-3)?].concat()),
            (1, EDDSA, Some(6)) => Self::EdDsa(bytes(-2)?),
            (3, RS256, _) => Self::Rs256 { n: bytes(-1)?, e: bytes(-2)? },
            _ => return None,
        };
        found.parsed().map(|_| found)
    }
}

/// What an authenticator answered to [`creation_options`] (`RegistrationResponseJSON`).
#[derive(Clone, Deserialize)]
pub struct Registration {
    /// The credential's id.
    pub id: String,
    /// The answer proper.
    pub response: AttestationResponse,
}

/// See [`Registration`].
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttestationResponse {
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    attestation_object: String,
}

/// What an authenticator answered to [`request_options`] (`AuthenticationResponseJSON`).
#[derive(Clone, Deserialize)]
pub struct Assertion {
    /// The credential's id, base64url.
    pub id: String,
    /// The answer proper.
    pub response: AssertionResponse,
}

/// See [`Assertion`].
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssertionResponse {
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    authenticator_data: String,
    signature: String,
}

/// A credential that checked out.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// Its id, base64url.
    pub id: String,
    /// Its key.
    pub key: PublicKey,
    /// How often it has signed; 0 when it does not count.
    pub counter: u32,
}

/// Who enrols a passkey, as the authenticator shows it.
pub struct Enrolee<'a> {
    /// The user's number, which says nothing of the user.
    pub handle: u128,
    /// The e-mail address.
    pub name: &'a str,
    /// What to call the user.
    pub display_name: &'a str,
}

/// `PublicKeyCredentialCreationOptionsJSON`; `known` are the ids of the user's other credentials.
pub fn creation_options(
    site: &Site,
    challenge: &Challenge,
    enrolee: &Enrolee<'_>,
    known: &[String],
) -> Value {
    let parameter = |algorithm: i64| json!({"type": "public-key", "alg": algorithm});
    let parameters = [ES256, EDDSA, RS256].map(parameter);
    json!({
        "rp": {"id": site.rp_id, "name": "Bailiwick"},
        "user": {
            "id": URL_SAFE_NO_PAD.encode(enrolee.handle.to_be_bytes()),
            "name": enrolee.name, "displayName": enrolee.display_name,
        },
        "challenge": URL_SAFE_NO_PAD.encode(challenge),
        "pubKeyCredParams": parameters,
        "timeout": TIMEOUT_MS,
        "excludeCredentials": descriptors(known),
        "authenticatorSelection": {
            "residentKey": "discouraged", "requireResidentKey": false,
            "userVerification": "preferred",
        },
        "attestation": "none",
    })
}

/// `PublicKeyCredentialRequestOptionsJSON` for one of the credentials with these ids.
pub fn request_options(site: &Site, challenge: &Challenge, known: &[String]) -> Value {
    json!({
        "challenge": URL_SAFE_NO_PAD.encode(challenge),
        "timeout": TIMEOUT_MS,
        "rpId": site.rp_id,
        "allowCredentials": descriptors(known),
        "userVerification": "preferred",
    })
}

fn descriptors(ids: &[String]) -> Vec<Value> {
    ids.iter().map(|id| json!({"type": "public-key", "id": id})).collect()
}

fn decoded(part: &'static str, text: &str) -> Result<Vec<u8>, PasskeyError> {
    let text = text.trim_end_matches('=');
    let fits = text.len() <= PART_BYTES_MAX * 4 / 3;
    let bytes = fits.then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
    bytes.ok_or(PasskeyError::Malformed(part))
}

/// What the browser says it was asked (WebAuthn, section 5.8.1).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientData {
    r#type: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: bool,
}

fn check_client_data(
    bytes: &[u8],
    kind: &str,
    challenge: &Challenge,
    site: &Site,
) -> Result<(), PasskeyError> {
    let malformed = || PasskeyError::Malformed("client data");
    let data: ClientData = serde_json::from_slice(bytes).map_err(|_| malformed())?;
    if data.r#type != kind {
        return Err(PasskeyError::Foreign("ceremony"));
    }
    let shown = decoded("challenge", &data.challenge)?;
    if !bool::from(shown.as_slice().ct_eq(challenge)) {
        return Err(PasskeyError::Foreign("challenge"));
    }
    if data.origin != site.origin || data.cross_origin {
        return Err(PasskeyError::Foreign("origin"));
    }
    Ok(())
}

/// What every authenticator says first: its flags, its counter, and what follows.
fn check_head<'a>(data: &'a [u8], site: &Site) -> Result<(u8, u32, &'a [u8]), PasskeyError> {
    let malformed = || PasskeyError::Malformed("authenticator data");
    let (head, rest) = data.split_at_checked(HEAD_BYTES).ok_or_else(malformed)?;
    if head[..32] != *digest(&SHA256, site.rp_id.as_bytes()).as_ref() {
        return Err(PasskeyError::Foreign("relying party"));
    }
    let flags = head[32];
    if flags & USER_PRESENT == 0 {
        return Err(PasskeyError::Absent);
    }
    if flags & BACKED_UP != 0 && flags & BACKUP_ELIGIBLE == 0 {
        return Err(malformed());
    }
    let counter = head.last_chunk().copied().map_or(0, u32::from_be_bytes);
    Ok((flags, counter, rest))
}

fn attested(flags: u8, counter: u32, rest: &[u8]) -> Result<Credential, PasskeyError> {
    let malformed = || PasskeyError::Malformed("attested credential");
    let (head, rest) = rest.split_at_checked(ATTESTED_HEAD_BYTES).ok_or_else(malformed)?;
    let length = head.last_chunk().copied().map_or(0, u16::from_be_bytes);
    let length = usize::from(length);
    if flags & ATTESTED == 0 || !(1..=CREDENTIAL_BYTES_MAX).contains(&length) {
        return Err(malformed());
    }
    let (id, mut rest) = rest.split_at_checked(length).ok_or_else(malformed)?;
    let key: Cbor = ciborium::from_reader(&mut rest).map_err(|_| malformed())?;
    if flags & EXTENDED != 0 {
        let _: Cbor = ciborium::from_reader(&mut rest).map_err(|_| malformed())?;
    }
    if !rest.is_empty() {
        return Err(malformed());
    }
    let key = PublicKey::of_cose(&key).ok_or(PasskeyError::Key)?;
    Ok(Credential { id: URL_SAFE_NO_PAD.encode(id), key, counter })
}

/// Checks an answer to [`creation_options`] with this challenge.
pub fn check_registration(
    answer: &Registration,
    challenge: &Challenge,
    site: &Site,
) -> Result<Credential, PasskeyError> {
    let client_data = decoded("client data", &answer.response.client_data)?;
    check_client_data(&client_data, "webauthn.create", challenge, site)?;
    let malformed = || PasskeyError::Malformed("attestation object");
    let object = decoded("attestation object", &answer.response.attestation_object)?;
    let object: Cbor = ciborium::from_reader(object.as_slice()).map_err(|_| malformed())?;
    let entries = object.as_map().ok_or_else(malformed)?;
    let data = entries.iter().find(|(name, _)| name.as_text() == Some("authData"));
    let data = data.and_then(|(_, data)| data.as_bytes()).ok_or_else(malformed)?;
    let (flags, counter, rest) = check_head(data, site)?;
    let credential = attested(flags, counter, rest)?;
    if answer.id.trim_end_matches('=') != credential.id {
        return Err(PasskeyError::Foreign("credential"));
    }
    Ok(credential)
}

/// Checks an answer to [`request_options`] with this challenge against the credential that it
/// names. Answers the credential's counter from now on.
pub fn check_assertion(
    answer: &Assertion,
    challenge: &Challenge,
    site: &Site,
    key: &PublicKey,
    counter_before: u32,
) -> Result<u32, PasskeyError> {
    let client_data = decoded("client data", &answer.response.client_data)?;
    check_client_data(&client_data, "webauthn.get", challenge, site)?;
    let data = decoded("authenticator data", &answer.response.authenticator_data)?;
    let (_, counter, _) = check_head(&data, site)?;
    let signature = decoded("signature", &answer.response.signature)?;
    let signed = [data.as_slice(), digest(&SHA256, &client_data).as_ref()].concat();
    let key = key.parsed().ok_or(PasskeyError::Key)?;
    key.verify_sig(&signed, &signature).map_err(|_| PasskeyError::Signature)?;
    let counts = counter > 0 || counter_before > 0;
    if counts && counter <= counter_before {
        return Err(PasskeyError::Counter);
    }
    Ok(counter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft_passkey::SoftPasskey;

    const CHALLENGE: Challenge = [7; 32];

    fn enrolled() -> (SoftPasskey, Credential) {
        let mut passkey = SoftPasskey::new();
        let answer = registration(&mut passkey, &Site::default());
        let credential = check_registration(&answer, &CHALLENGE, &Site::default()).unwrap();
        (passkey, credential)
    }

    fn registration(passkey: &mut SoftPasskey, site: &Site) -> Registration {
        let enrolee = Enrolee { handle: 1, name: "ada@example.test", display_name: "Ada" };
        let options = creation_options(site, &CHALLENGE, &enrolee, &[]);
        serde_json::from_value(passkey.create(&options, &site.origin).unwrap()).unwrap()
    }

    fn assertion(passkey: &mut SoftPasskey, site: &Site, challenge: &Challenge) -> Assertion {
        let known = [passkey.id()];
        let options = request_options(site, challenge, &known);
        serde_json::from_value(passkey.get(&options, &site.origin).unwrap()).unwrap()
    }

    #[test]
    fn a_passkey_is_enrolled_and_recognised() {
        let (mut passkey, credential) = enrolled();
        assert_eq!(credential.id, passkey.id());
        let site = Site::default();
        let mut counter = credential.counter;
        for number in 1..4u8 {
            let answer = assertion(&mut passkey, &site, &[number; 32]);
            let check =
                |counter| check_assertion(&answer, &[number; 32], &site, &credential.key, counter);
            let next = check(counter).unwrap();
            assert!(next > counter);
            assert_eq!(check(next), Err(PasskeyError::Counter), "there are two of it");
            counter = next;
        }
    }

    #[test]
    fn an_answer_made_for_something_else_is_refused() {
        let (mut passkey, credential) = enrolled();
        let (site, key) = (Site::default(), &credential.key);
        let check = |answer: &Assertion, challenge: &Challenge, site: &Site| {
            check_assertion(answer, challenge, site, key, 0).unwrap_err()
        };
        let answer = assertion(&mut passkey, &site, &CHALLENGE);
        assert_eq!(check(&answer, &[8; 32], &site), PasskeyError::Foreign("challenge"));
        let elsewhere = Site::of("https://evil.test").unwrap();
        assert_eq!(check(&answer, &CHALLENGE, &elsewhere), PasskeyError::Foreign("origin"));
        let phished = Site { origin: elsewhere.origin.clone(), ..site.clone() };
        let answer = assertion(&mut passkey, &phished, &CHALLENGE);
        assert_eq!(check(&answer, &CHALLENGE, &site), PasskeyError::Foreign("origin"));
        let other = Site { rp_id: "evil.test".to_owned(), ..site.clone() };
        let answer = assertion(&mut passkey, &other, &CHALLENGE);
        assert_eq!(check(&answer, &CHALLENGE, &site), PasskeyError::Foreign("relying party"));
        let created = registration(&mut passkey, &site);
        let answer = Assertion {
            id: created.id,
            response: AssertionResponse {
                client_data: created.response.client_data,
                ..answer.response
            },
        };
        assert_eq!(check(&answer, &CHALLENGE, &site), PasskeyError::Foreign("ceremony"));
        let (_, another) = enrolled();
        let answer = assertion(&mut passkey, &site, &CHALLENGE);
        let wrong = check_assertion(&answer, &CHALLENGE, &site, &another.key, 0);
        assert_eq!(wrong, Err(PasskeyError::Signature));
    }

    #[test]
    fn what_is_bent_or_cut_is_refused_at_every_byte() {
        let (mut passkey, credential) = enrolled();
        let site = Site::default();
        let answer = assertion(&mut passkey, &site, &CHALLENGE);
        let data = URL_SAFE_NO_PAD.decode(&answer.response.authenticator_data).unwrap();
        for at in 0..data.len() {
            let mut bent = data.clone();
            bent[at] ^= 0x10;
            for bytes in [&bent[..], &data[..at]] {
                let mut answer = answer.clone();
                answer.response.authenticator_data = URL_SAFE_NO_PAD.encode(bytes);
                let checked = check_assertion(&answer, &CHALLENGE, &site, &credential.key, 0);
                assert!(checked.is_err(), "byte {at}");
            }
        }
        let answer = registration(&mut passkey, &site);
        let object = URL_SAFE_NO_PAD.decode(&answer.response.attestation_object).unwrap();
        for at in 0..object.len() {
            let mut answer = answer.clone();
            answer.response.attestation_object = URL_SAFE_NO_PAD.encode(&object[..at]);
            assert!(check_registration(&answer, &CHALLENGE, &site).is_err(), "byte {at}");
        }
        let absent = SoftPasskey::new().without_presence();
        let (mut absent, site) = (absent, Site::default());
        let answer = registration(&mut absent, &site);
        let checked = check_registration(&answer, &CHALLENGE, &site);
        assert_eq!(checked.unwrap_err(), PasskeyError::Absent);
    }

    #[test]
    fn keys_of_each_algorithm_are_read_and_others_are_not() {
        let integer = |number: i64| Cbor::from(number);
        let cose = |entries: &[(i64, Cbor)]| {
            let entry = |(label, value): &(i64, Cbor)| (integer(*label), value.clone());
            PublicKey::of_cose(&Cbor::Map(entries.iter().map(entry).collect()))
        };
        // RFC 8037, appendix A.2.
        let public = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let okp = |algorithm, curve| {
            let parts = [(1, integer(1)), (3, integer(algorithm)), (-1, integer(curve))];
            cose(&[&parts[..], &[(-2, Cbor::Bytes(public.clone()))]].concat())
        };
        assert_eq!(okp(EDDSA, 6), Some(PublicKey::EdDsa(public.clone())));
        assert_eq!(okp(EDDSA, 4), None, "X25519 signs nothing");
        assert_eq!(okp(ES256, 6), None);
        let (n, e) = ([&[0xc1][..], &[5; 255]].concat(), vec![1, 0, 1]);
        let rsa = |n: &Vec<u8>| {
            let parts = [(1, integer(3)), (3, integer(RS256))];
            let numbers = [(-1, Cbor::Bytes(n.clone())), (-2, Cbor::Bytes(e.clone()))];
            cose(&[&parts[..], &numbers].concat())
        };
        assert_eq!(rsa(&n), Some(PublicKey::Rs256 { n: n.clone(), e: e.clone() }));
        let point = |y: u8| {
            let parts = [(1, integer(2)), (3, integer(ES256)), (-1, integer(1))];
            let numbers = [(-2, Cbor::Bytes(vec![1; 32])), (-3, Cbor::Bytes(vec![y; 32]))];
            cose(&[&parts[..], &numbers].concat())
        };
        assert_eq!(point(2), None, "this is no point of the curve");
        assert_eq!(PublicKey::of_cose(&Cbor::Null), None);
    }

    #[test]
    fn a_site_is_read_from_its_public_url() {
        for (url, rp_id, origin) in [
            ("http://localhost:8787", "localhost", "http://localhost:8787"),
            ("https://Example.test/path", "example.test", "https://example.test"),
            ("https://a.example.test:443/", "a.example.test", "https://a.example.test"),
            ("http://h:80", "h", "http://h"),
        ] {
            let site = Site { rp_id: rp_id.to_owned(), origin: origin.to_owned() };
            assert_eq!(Site::of(url), Some(site), "{url}");
        }
        for url in
            ["", "localhost", "ftp://x", "https://", "https://a b", "https://u@h", "http://h:x"]
        {
            assert_eq!(Site::of(url), None, "{url}");
        }
    }
}
