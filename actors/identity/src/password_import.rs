//! Password hashes that other systems made: read, bounded, and verified, so that users move here
//! with their passwords. Each is replaced by a hash of our own at its owner's first login.
//!
//! | written as | by |
//! | --- | --- |
//! | `$argon2id$…`, `$argon2i$…`, `$argon2d$…`, `argon2$argon2id$…` | PHC strings; Django |
//! | `$2a$`, `$2b$`, `$2y$`, `bcrypt$$2b$…` | bcrypt; Django |
//! | `$pbkdf2-sha256$i=…,l=…$salt$hash`, `$pbkdf2-sha512$…` | PHC strings |
//! | `$pbkdf2-sha256$iterations$salt$hash`, `$pbkdf2-sha512$…` | passlib |
//! | `pbkdf2_sha256$iterations$salt$hash` | Django |
//! | `pbkdf2:sha256:iterations$salt$hash`, `pbkdf2:sha512:…` | Werkzeug |
//! | `$scrypt$ln=…,r=…,p=…$salt$hash` | PHC strings |
//! | `scrypt:N:r:p$salt$hash`, `scrypt$N$salt$r$p$hash` | Werkzeug; Django |
//!
//! Algorithms: RFC 9106 (argon2), RFC 8018 (PBKDF2), RFC 7914 (scrypt); bcrypt as OpenBSD has it.
//!
//! Invariants
//! - A hash that is read costs no more than the limits below, which are about a second of one core
//!   and [`MEMORY_KIB_MAX`]; and no less than to be a hash at all. What costs more is refused when
//!   it is imported, and again when it is verified.
//! - Derived bytes are compared in constant time.
//!
//! Deliberate limits
//! - No formats without a salt or a cost: bare digests are no password hashes.
//! - bcrypt looks at 72 bytes of a password; the hash that replaces it at login looks at all.

use std::num::NonZeroU32;

use argon2::Params;
use argon2::password_hash::phc;
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA256, PBKDF2_HMAC_SHA512};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD, STANDARD_NO_PAD,
};
use data_encoding::HEXLOWER_PERMISSIVE;
use subtle::ConstantTimeEq as _;

use crate::password::PasswordHash;

/// The longest text of a hash, in bytes.
pub const HASH_BYTES_MAX: usize = 512;
/// The most memory a hash may ask for, in KiB.
pub const MEMORY_KIB_MAX: u32 = 256 * 1024;
/// The most memory times passes an argon2 hash may ask for, in KiB.
pub const ARGON2_WORK_KIB_MAX: u64 = 1024 * 1024;
/// The greatest bcrypt cost: 2^14 rounds.
pub const BCRYPT_COST_MAX: u32 = 14;
/// The most PBKDF2 iterations.
pub const PBKDF2_ITERATIONS_MAX: u32 = 2_000_000;
/// The most work of a scrypt hash: N times r times p. N = 2^17 with r = 8 is 2^20.
pub const SCRYPT_WORK_MAX: u64 = 1 << 21;
/// The fewest and the most bytes of a derived key.
const DERIVED_BYTES: std::ops::RangeInclusive<usize> = 16..=128;

/// Why a text is not taken as a password hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It is in no format that is known here.
    #[error("this is no password hash in a known format")]
    Unknown,
    /// It has the marks of a format but is damaged.
    #[error("this password hash is damaged")]
    Damaged,
    /// It asks for more memory or time than this server spends on one.
    #[error("this password hash costs more than this server spends on one")]
    TooCostly,
}

impl ImportError {
    /// The stable code for answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "password_hash_unknown",
            Self::Damaged => "password_hash_damaged",
            Self::TooCostly => "password_hash_too_costly",
        }
    }
}

/// The pseudo-random function of a PBKDF2 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digest {
    Sha256,
    Sha512,
}

/// A hash that was read and is affordable.
enum Foreign {
    Bcrypt(String),
    Pbkdf2 { digest: Digest, iterations: NonZeroU32, salt: Vec<u8>, derived: Vec<u8> },
    Scrypt { params: scrypt::Params, salt: Vec<u8>, derived: Vec<u8> },
}

/// Takes a hash that another system made as a stored one, if it can be verified here.
pub fn import(text: &str) -> Result<PasswordHash, ImportError> {
    if text.len() > HASH_BYTES_MAX {
        return Err(ImportError::Damaged);
    }
    let text = text.trim();
    // Django's names in front of formats that name themselves.
    let bare = match text.split_once('$') {
        Some(("argon2", rest)) if rest.starts_with("argon2") => format!("${rest}"),
        Some(("bcrypt", rest)) => rest.to_owned(),
        _ => text.to_owned(),
    };
    if is_argon2(&bare) {
        check_argon2(&bare)?;
    } else {
        parse(&bare)?;
    }
    Ok(PasswordHash::from(bare))
}

/// Whether a stored hash is one of argon2's, which are verified as our own.
pub(crate) fn is_argon2(stored: &str) -> bool {
    stored.starts_with("$argon2")
}

fn check_argon2(text: &str) -> Result<(), ImportError> {
    let parsed = phc::PasswordHash::new(text).map_err(|_| ImportError::Damaged)?;
    let algorithm = argon2::Algorithm::try_from(parsed.algorithm.as_str());
    let params = Params::try_from(&parsed).map_err(|_| ImportError::Damaged)?;
    if algorithm.is_err() || parsed.salt.is_none() || parsed.hash.is_none() {
        return Err(ImportError::Damaged);
    }
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    let is_affordable = params.m_cost() <= MEMORY_KIB_MAX && work <= ARGON2_WORK_KIB_MAX;
    is_affordable.then_some(()).ok_or(ImportError::TooCostly)
}

/// Whether `password` is the one that a stored hash, not of argon2, was made from.
pub(crate) fn verify(password: &str, stored: &str) -> Result<bool, ImportError> {
    let password_bytes = password.as_bytes();
    match parse(stored)? {
        // Its text ends at a zero byte, so nobody's password has one.
        Foreign::Bcrypt(_) if password_bytes.contains(&0) => Ok(false),
        Foreign::Bcrypt(text) => bcrypt::verify(password, &text).map_err(|_| ImportError::Damaged),
        Foreign::Pbkdf2 { digest, iterations, salt, derived } => {
            let algorithm = match digest {
                Digest::Sha256 => PBKDF2_HMAC_SHA256,
                Digest::Sha512 => PBKDF2_HMAC_SHA512,
            };
            Ok(pbkdf2::verify(algorithm, iterations, &salt, password_bytes, &derived).is_ok())
        }
        Foreign::Scrypt { params, salt, derived } => {
            let mut computed = vec![0; derived.len()];
            scrypt::scrypt(password_bytes, &salt, &params, &mut computed)
                .map_err(|_| ImportError::Damaged)?;
            Ok(computed.ct_eq(&derived).into())
        }
    }
}

fn parse(text: &str) -> Result<Foreign, ImportError> {
    let fields: Vec<&str> = text.split('$').collect();
    match fields[..] {
        ["", "2a" | "2b" | "2y", cost, rest] => bcrypt_hash(text, cost, rest),
        ["", "pbkdf2-sha256", cost, salt, hash] => phc_pbkdf2(Digest::Sha256, cost, salt, hash),
        ["", "pbkdf2-sha512", cost, salt, hash] => phc_pbkdf2(Digest::Sha512, cost, salt, hash),
        ["pbkdf2_sha256", iterations, salt, hash] => {
            let derived = STANDARD.decode(hash).map_err(|_| ImportError::Damaged)?;
            pbkdf2_hash(Digest::Sha256, iterations, salt.as_bytes().to_vec(), derived)
        }
        ["", "scrypt", cost, salt, hash] => phc_scrypt(cost, salt, hash),
        ["scrypt", n, salt, r, p, hash] => {
            let derived = STANDARD.decode(hash).map_err(|_| ImportError::Damaged)?;
            scrypt_hash(log2(n)?, number(r)?, number(p)?, salt.as_bytes().to_vec(), derived)
        }
        [method, salt, hash] => werkzeug(method, salt, hash),
        _ => Err(ImportError::Unknown),
    }
}

fn bcrypt_hash(text: &str, cost: &str, rest: &str) -> Result<Foreign, ImportError> {
    let is_whole = cost.len() == 2 && rest.len() == 53 && rest.is_ascii();
    match number(cost)? {
        4..=BCRYPT_COST_MAX if is_whole => Ok(Foreign::Bcrypt(text.to_owned())),
        15..=31 => Err(ImportError::TooCostly),
        _ => Err(ImportError::Damaged),
    }
}

/// The PHC string's parameters, or the bare number that passlib writes.
fn phc_pbkdf2(digest: Digest, cost: &str, salt: &str, hash: &str) -> Result<Foreign, ImportError> {
    let mut iterations = cost;
    for parameter in cost.split(',') {
        if let Some(value) = parameter.strip_prefix("i=") {
            iterations = value;
        }
    }
    pbkdf2_hash(digest, iterations, phc_base64(salt)?, phc_base64(hash)?)
}

fn phc_scrypt(cost: &str, salt: &str, hash: &str) -> Result<Foreign, ImportError> {
    let value = |name: &str| {
        let mut parameters = cost.split(',').filter_map(|parameter| parameter.split_once('='));
        let found = parameters.find(|(known, _)| *known == name);
        number(found.ok_or(ImportError::Damaged)?.1)
    };
    let log_n = u8::try_from(value("ln")?).map_err(|_| ImportError::TooCostly)?;
    scrypt_hash(log_n, value("r")?, value("p")?, phc_base64(salt)?, phc_base64(hash)?)
}

/// `method:parameters$salt$hash`, the hash in hexadecimal.
fn werkzeug(method: &str, salt: &str, hash: &str) -> Result<Foreign, ImportError> {
    let derived = || HEXLOWER_PERMISSIVE.decode(hash.as_bytes()).map_err(|_| ImportError::Damaged);
    let salt = salt.as_bytes().to_vec();
    let parts: Vec<&str> = method.split(':').collect();
    match parts[..] {
        ["pbkdf2", "sha256", iterations] => {
            pbkdf2_hash(Digest::Sha256, iterations, salt, derived()?)
        }
        ["pbkdf2", "sha512", iterations] => {
            pbkdf2_hash(Digest::Sha512, iterations, salt, derived()?)
        }
        ["scrypt", n, r, p] => scrypt_hash(log2(n)?, number(r)?, number(p)?, salt, derived()?),
        _ => Err(ImportError::Unknown),
    }
}

fn pbkdf2_hash(
    digest: Digest,
    iterations: &str,
    salt: Vec<u8>,
    derived: Vec<u8>,
) -> Result<Foreign, ImportError> {
    let iterations = NonZeroU32::new(number(iterations)?).ok_or(ImportError::Damaged)?;
    if salt.is_empty() || !DERIVED_BYTES.contains(&derived.len()) {
        return Err(ImportError::Damaged);
    }
    // Each block of output costs all iterations again.
    let block = if digest == Digest::Sha256 { 32 } else { 64 };
    let blocks = derived.len().div_ceil(block) as u64;
    if u64::from(iterations.get()) * blocks > u64::from(PBKDF2_ITERATIONS_MAX) {
        return Err(ImportError::TooCostly);
    }
    Ok(Foreign::Pbkdf2 { digest, iterations, salt, derived })
}

fn scrypt_hash(
    log_n: u8,
    r: u32,
    p: u32,
    salt: Vec<u8>,
    derived: Vec<u8>,
) -> Result<Foreign, ImportError> {
    if salt.is_empty() || !DERIVED_BYTES.contains(&derived.len()) || r == 0 || p == 0 {
        return Err(ImportError::Damaged);
    }
    // Beyond this the products below would not fit.
    if log_n > 24 || r > 1 << 16 || p > 1 << 16 {
        return Err(ImportError::TooCostly);
    }
    let blocks = (1 << log_n) * u64::from(r);
    // A block of r is 128 bytes.
    if blocks / 8 > u64::from(MEMORY_KIB_MAX) || blocks * u64::from(p) > SCRYPT_WORK_MAX {
        return Err(ImportError::TooCostly);
    }
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| ImportError::Damaged)?;
    Ok(Foreign::Scrypt { params, salt, derived })
}

/// Base64 as PHC strings have it, without padding, or as passlib does, with `.` for `+`.
fn phc_base64(text: &str) -> Result<Vec<u8>, ImportError> {
    const INDIFFERENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = text.replace('.', "+");
    STANDARD_NO_PAD
        .decode(&text)
        .or_else(|_| INDIFFERENT.decode(&text))
        .map_err(|_| ImportError::Damaged)
}

fn number(text: &str) -> Result<u32, ImportError> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_plain => Ok(number),
        _ if is_plain => Err(ImportError::TooCostly),
        _ => Err(ImportError::Damaged),
    }
}

/// The logarithm of a power of two.
fn log2(text: &str) -> Result<u8, ImportError> {
    let number = number(text)?;
    let is_power = number.is_power_of_two() && number > 1;
    is_power.then_some(number.trailing_zeros() as u8).ok_or(ImportError::Damaged)
}

#[cfg(test)]
mod tests;
