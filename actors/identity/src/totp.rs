//! Time-based one-time passwords (RFC 6238): what an authenticator app shows.
//!
//! SHA-1, six digits, steps of 30 seconds: the parameters that every authenticator app knows. A
//! code of the step before or after is taken too, for clocks that differ.
//!
//! Invariants
//! - A secret is erased from memory when dropped and never prints.
//! - Codes are compared in constant time, all steps of the window each time.
//!
//! Deliberate limits
//! - That a code is used once is up to who keeps the step: see [`Secret::matching_step`].
//! - No other digest, length or period.

use std::fmt;

use aws_lc_rs::{hmac, rand};
use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;
use supervision::Timestamp;
use zeroize::Zeroizing;

/// How long a code stands, in seconds.
pub const STEP_SECONDS: u64 = 30;
/// How many steps a clock may be ahead or behind.
pub const SKEW_STEPS: u64 = 1;
/// The digits of a code.
pub const DIGITS: usize = 6;
/// The bytes of a secret: 160 bits, as RFC 4226 (section 4, R6) recommends.
const SECRET_BYTES: usize = 20;
const MODULUS: u32 = 1_000_000;

/// What the authenticator and the server share.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A fresh secret, or `None` if the system has no random numbers.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES]);
        rand::fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The secret that [`Secret::text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE32_NOPAD.decode(text.as_bytes()).ok()?;
        (!bytes.is_empty()).then(|| Self(Zeroizing::new(bytes)))
    }

    /// The secret in base32 (RFC 4648), as it is typed into an app.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&self.0))
    }

    /// The code of a step (RFC 4226, section 5.3).
    pub fn code(&self, step: u64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag[tag.len() - 1] & 0x0f);
        let mut word = [0; 4];
        word.copy_from_slice(&tag[offset..offset + 4]);
        let number = u32::from_be_bytes(word) & 0x7fff_ffff;
        format!("{:0DIGITS$}", number % MODULUS)
    }

    /// The step that `code` belongs to, if it is one of those around `now` and later than `after`,
    /// the last one that was used.
    pub fn matching_step(&self, code: &str, now: Timestamp, after: Option<u64>) -> Option<u64> {
        let present = step_at(now);
        let steps = present.saturating_sub(SKEW_STEPS)..=present + SKEW_STEPS;
        let mut found = None;
        for step in steps {
            let is_same = bool::from(self.code(step).as_bytes().ct_eq(code.as_bytes()));
            if is_same && after.is_none_or(|after| after < step) {
                found = Some(step);
            }
        }
        found
    }

    /// The address that authenticator apps read from a QR code (the `otpauth` scheme, as
    /// registered with IANA and described in Google Authenticator's key URI format).
    pub fn otpauth_uri(&self, issuer: &str, account: &str) -> Zeroizing<String> {
        let (issuer, account) = (percent_encoded(issuer), percent_encoded(account));
        let secret = self.text();
        let (secret, period) = (secret.as_str(), STEP_SECONDS);
        Zeroizing::new(format!(
            "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}\
             &algorithm=SHA1&digits={DIGITS}&period={period}"
        ))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret([redacted])")
    }
}

/// The step at a time.
pub fn step_at(now: Timestamp) -> u64 {
    crate::unix_ms(now) / 1_000 / STEP_SECONDS
}

/// A code as it was typed, without spaces; `None` when it cannot be one.
pub fn normal_code(text: &str) -> Option<String> {
    let code: String = text.chars().filter(|letter| !letter.is_whitespace()).take(32).collect();
    let is_code = code.len() == DIGITS && code.bytes().all(|byte| byte.is_ascii_digit());
    is_code.then_some(code)
}

/// Everything but the unreserved characters of RFC 3986 as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Secret {
        Secret(Zeroizing::new(b"12345678901234567890".to_vec()))
    }

    #[test]
    fn the_published_examples_give_the_published_codes() {
        // RFC 6238, appendix B, the last six of its eight digits.
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let now = Timestamp(seconds * 1_000);
            assert_eq!(published().code(step_at(now)), code);
            assert_eq!(published().matching_step(code, now, None), Some(step_at(now)));
        }
    }

    #[test]
    fn a_code_stands_one_step_around_its_own_and_only_after_the_last_one() {
        let (secret, start) = (Secret::generate().unwrap(), 1_800_000_000_000);
        let step = step_at(Timestamp(start));
        let code = secret.code(step);
        let at = |seconds: i64| Timestamp(start + seconds * 1_000);
        for (seconds, stands) in [(-31, false), (-30, true), (0, true), (59, true), (60, false)] {
            let found = secret.matching_step(&code, at(seconds), None);
            assert_eq!(found, stands.then_some(step), "{seconds}");
        }
        assert_eq!(secret.matching_step(&code, at(0), Some(step - 1)), Some(step));
        assert_eq!(secret.matching_step(&code, at(0), Some(step)), None);
        assert_eq!(secret.matching_step("", at(0), None), None);
    }

    #[test]
    fn a_secret_survives_its_text_and_prints_nothing() {
        let secret = Secret::generate().unwrap();
        let text = secret.text();
        assert_eq!(text.len(), 32);
        assert_eq!(Secret::parse(&text).unwrap().code(1), secret.code(1));
        assert!(Secret::parse("").is_none() && Secret::parse("not base32!").is_none());
        assert!(!format!("{secret:?}").contains(text.as_str()));
        let uri = secret.otpauth_uri("Bailiwick & Co", "a+b@example.test");
        let expected = format!(
            "otpauth://totp/Bailiwick%20%26%20Co:a%2Bb%40example.test?secret={}&issuer=\
             Bailiwick%20%26%20Co&algorithm=SHA1&digits=6&period=30",
            text.as_str()
        );
        assert_eq!(uri.as_str(), expected);
        assert_eq!(normal_code(" 123 456\n").as_deref(), Some("123456"));
        for text in ["", "12345", "1234567", "12345x", "١٢٣٤٥٦"] {
            assert_eq!(normal_code(text), None, "{text}");
        }
    }
}
