//! Tokens of the steps of logging in: for the second step, for enrolling where a tenant asks for a
//! second factor, and for telling a device that has logged in before.
//!
//! Text: a prefix that names the purpose, then the base64url of the content and an HMAC-SHA256 over
//! purpose and content, under a key of this installation. Nothing of them is stored; what is to
//! be used once is noted by who uses it.
//!
//! Invariants
//! - A token of one purpose is none of another. None of them is a session.
//! - A changed token, and one that is over, are the same as none.

use std::fmt;

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use persistence::codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use supervision::Timestamp;
use types::{TenantId, UserId};

use crate::claim::ClaimKey;
use crate::user::Account;

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 512;
const TAG_BYTES: usize = 32;

/// What a token is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// The second step of a login.
    Login,
    /// Enrolling a second factor, and nothing else.
    Enrolment,
    /// Telling a device.
    Device,
}

impl Purpose {
    fn prefix(self) -> &'static str {
        match self {
            Self::Login => "bw_login_",
            Self::Enrolment => "bw_enrol_",
            Self::Device => "bw_device_",
        }
    }
}

/// Who has shown the password, and where.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) user: UserId,
    pub(crate) tenant: TenantId,
    /// The user's epoch: what ends tokens ends this too.
    pub(crate) epoch: u64,
    /// The user's [`crate::user::User::password_changes`]: another password ends this too.
    pub(crate) password_changes: u64,
    /// Tells this token from all others.
    pub(crate) nonce: u128,
    /// Of the network address.
    pub(crate) address: [u8; 16],
    /// Whether the access token is to live as the account API's do.
    pub(crate) is_account: bool,
}

impl Stage {
    /// Whether the account is as it was when the password was right.
    pub(crate) fn stands_for(&self, account: &Account) -> bool {
        account.epoch == self.epoch && account.password_changes == self.password_changes
    }
}

/// A device that has logged in before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) id: u128,
    /// Of the account's name.
    pub(crate) account: [u8; 16],
    pub(crate) user: UserId,
}

#[derive(Serialize, Deserialize)]
struct Dated<T> {
    until: Timestamp,
    content: T,
}

/// The key of the tokens.
pub(crate) struct StageKey(hmac::Key);

impl fmt::Debug for StageKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StageKey([redacted])")
    }
}

impl StageKey {
    /// The key that belongs to an installation.
    pub(crate) fn of(claim_key: &ClaimKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &claim_key.derive("sign-in tokens")))
    }

    fn tag(&self, label: &str, content: &[u8]) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(label.as_bytes());
        context.update(&[0]);
        context.update(content);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// A token that is good before `until`. `None` only for what cannot be encoded.
    pub(crate) fn seal<T: Serialize>(
        &self,
        purpose: Purpose,
        content: T,
        until: Timestamp,
    ) -> Option<String> {
        let mut bytes = codec::encode(&Dated { until, content }).ok()?;
        bytes.extend(self.tag(purpose.prefix(), &bytes));
        Some(format!("{}{}", purpose.prefix(), URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// What a token says and until when, if it is one of this purpose and not over.
    pub(crate) fn open<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        token: &str,
        now: Timestamp,
    ) -> Option<(T, Timestamp)> {
        let body = token.strip_prefix(purpose.prefix())?;
        let bytes = URL_SAFE_NO_PAD.decode(body.get(..body.len().min(TOKEN_BYTES_MAX))?).ok()?;
        let (content, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
        let signed = [purpose.prefix().as_bytes(), &[0], content].concat();
        hmac::verify(&self.0, &signed, tag).ok()?;
        let Dated { until, content } = codec::decode(content).ok()?;
        (now < until).then_some((content, until))
    }

    /// Whether a text looks like a token of this purpose.
    pub(crate) fn is_of(purpose: Purpose, token: &str) -> bool {
        token.starts_with(purpose.prefix())
    }

    /// What stands for a text in a token: it does not tell it.
    pub(crate) fn digest(&self, label: &str, text: &str) -> [u8; 16] {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.tag(label, text.as_bytes())[..16]);
        digest
    }

    /// What a passkey has to sign to complete the login with this nonce.
    pub(crate) fn challenge(&self, nonce: u128) -> [u8; 32] {
        self.tag("challenge", &nonce.to_be_bytes())
    }
}

/// A fresh number, or `None` if the system has no random numbers.
pub(crate) fn random_number() -> Option<u128> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    Some(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use persistence::MasterKey;

    use super::*;

    fn key(byte: u8) -> StageKey {
        StageKey::of(&ClaimKey::of(&MasterKey::from_bytes([byte; 32])).unwrap())
    }

    #[test]
    fn a_token_is_good_for_its_purpose_until_its_time_and_unchanged() {
        let (key, until) = (key(1), Timestamp(1_000));
        let stage = Stage {
            user: UserId(1),
            tenant: TenantId(2),
            epoch: 3,
            password_changes: 1,
            nonce: random_number().unwrap(),
            address: key.digest("address", "192.0.2.1"),
            is_account: false,
        };
        let token = key.seal(Purpose::Login, stage, until).unwrap();
        let open = |key: &StageKey, purpose, token: &str, now| {
            key.open::<Stage>(purpose, token, Timestamp(now)).map(|(stage, _)| stage)
        };
        assert_eq!(open(&key, Purpose::Login, &token, 999), Some(stage));
        assert_eq!(open(&key, Purpose::Login, &token, 1_000), None);
        assert_eq!(open(&key, Purpose::Enrolment, &token, 0), None);
        let other = token.replace("bw_login_", "bw_enrol_");
        assert_eq!(open(&key, Purpose::Enrolment, &other, 0), None);
        assert_eq!(open(&super::tests::key(2), Purpose::Login, &token, 0), None);
        for at in 0..token.len() {
            let mut bent = token.clone().into_bytes();
            bent[at] = if bent[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(open(&key, Purpose::Login, &String::from_utf8(bent).unwrap(), 0), None);
            assert_eq!(open(&key, Purpose::Login, &token[..at], 0), None);
        }
        assert_eq!(open(&key, Purpose::Login, "bw_login_é", 0), None);
        assert_ne!(key.challenge(1), key.challenge(2));
    }
}
