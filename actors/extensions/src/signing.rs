//! The signature on requests to an app's own host, after the Standard Webhooks specification 1.0,
//! for which verifying libraries exist in many languages.
//!
//! Byte by byte: the signed content is the value of `webhook-id`, a dot, the value of
//! `webhook-timestamp` (whole seconds since 1970, decimal), a dot, and the body exactly as it was
//! sent. The key is the 32 bytes that the secret holds as Base64 (RFC 4648, section 4, padded)
//! after `whsec_`. The signature is `v1,` and the Base64 of HMAC-SHA256 (RFC 2104, FIPS 180-4) of
//! the content under the key. `webhook-signature` has one signature for each valid key, the newest
//! first, between spaces; `bailiwick-key` has their numbers in the same order. A receiver takes the
//! request if one of them is right, the timestamp is within five minutes, and the id is new: it is
//! the call's id, and the same again only when a call that reads is repeated.
//!
//! A host that says something of its own (how far a task is) signs in the same way with the same
//! secret, under an id that it chooses; [`HostKeys::verify`] checks that.
//!
//! A secret follows from the server's master key, the app's id and the key's number, and is stored
//! nowhere.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use types::AppId;
use zeroize::Zeroizing;

/// What a secret begins with.
pub const SECRET_PREFIX: &str = "whsec_";

/// What secrets are derived from.
pub struct HostKeys(hmac::Key);

impl HostKeys {
    /// Derives from a key that the master key gave for this purpose.
    pub fn new(root: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, root))
    }

    fn key(&self, app: &AppId, number: u32) -> Zeroizing<[u8; 32]> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&number.to_be_bytes());
        context.update(app.as_str().as_bytes());
        let tag = context.sign();
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(tag.as_ref());
        key
    }

    /// The secret as its developer is shown it, once.
    pub fn secret(&self, app: &AppId, number: u32) -> Zeroizing<String> {
        let key = BASE64.encode(self.key(app, number).as_slice());
        Zeroizing::new(format!("{SECRET_PREFIX}{key}"))
    }

    /// The value of `webhook-signature`.
    pub fn signatures(
        &self,
        app: &AppId,
        numbers: &[u32],
        (id, seconds): (&str, i64),
        body: &[u8],
    ) -> String {
        let sign = |number: &u32| sign(self.key(app, *number).as_slice(), id, seconds, body);
        numbers.iter().map(sign).collect::<Vec<_>>().join(" ")
    }

    /// Whether one of the signatures in a value of `webhook-signature` is by one of these keys.
    pub fn verify(
        &self,
        app: &AppId,
        numbers: &[u32],
        (id, seconds): (&str, i64),
        (body, given): (&[u8], &str),
    ) -> bool {
        let given = given.split(' ').filter_map(|it| it.strip_prefix("v1,")).take(GIVEN_MAX);
        let tags: Vec<_> = given.filter_map(|it| BASE64.decode(it.as_bytes()).ok()).collect();
        let content = content(id, seconds, body);
        numbers.iter().any(|number| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, self.key(app, *number).as_slice());
            tags.iter().any(|tag| hmac::verify(&key, &content, tag).is_ok())
        })
    }
}

/// Signatures of one request that are looked at.
const GIVEN_MAX: usize = 8;

fn content(id: &str, seconds: i64, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{seconds}.").as_bytes(), body].concat()
}

fn sign(key: &[u8], id: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", BASE64.encode(context.sign().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn a_signature_is_the_one_that_other_libraries_make() {
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_key_of_every_app_is_its_own_and_signs_for_itself() {
        let keys = HostKeys::new(&[7; 32]);
        let (shelf, other) = (AppId::new("shelf").unwrap(), AppId::new("shelf2").unwrap());
        let secrets = [keys.secret(&shelf, 1), keys.secret(&shelf, 2), keys.secret(&other, 1)];
        assert!(secrets[0] != secrets[1] && secrets[0] != secrets[2]);
        assert_eq!(keys.secret(&shelf, 1), secrets[0]);
        let both = keys.signatures(&shelf, &[2, 1], ("call_1", 5), b"{}");
        let alone = keys.signatures(&shelf, &[1], ("call_1", 5), b"{}");
        assert!(both.starts_with("v1,") && both.ends_with(&format!(" {alone}")));
        for changed in [
            keys.signatures(&shelf, &[1], ("call_2", 5), b"{}"),
            keys.signatures(&shelf, &[1], ("call_1", 6), b"{}"),
            keys.signatures(&shelf, &[1], ("call_1", 5), b"[]"),
        ] {
            assert_ne!(changed, alone);
        }
        let raw = BASE64.decode(secrets[0].strip_prefix(SECRET_PREFIX).unwrap().as_bytes());
        assert_eq!(sign(&raw.unwrap(), "call_1", 5, b"{}"), alone);
        let is_by = |app, numbers: &[u32], id, body: &[u8], given: &str| {
            keys.verify(app, numbers, (id, 5), (body, given))
        };
        assert!(is_by(&shelf, &[1], "call_1", b"{}", &both), "one of them is enough");
        assert!(!is_by(&other, &[1, 2], "call_1", b"{}", &both));
        assert!(!is_by(&shelf, &[3], "call_1", b"{}", &both));
        assert!(!is_by(&shelf, &[1], "call_2", b"{}", &both));
        assert!(!is_by(&shelf, &[1], "call_1", b"[]", &both));
        assert!(!is_by(&shelf, &[1], "call_1", b"{}", "v1, v2,x"));
    }
}
