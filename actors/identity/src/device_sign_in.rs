//! Logging a device in, as the gateway asks for it (RFC 8628): the codes, the decision of somebody
//! who is logged in, and the tokens.
//!
//! Invariants
//! - The short code has no letters that make words or look alike (RFC 8628, section 6.1), and who
//!   guesses is counted.
//! - A device that asks too often is told so, and has to wait longer each time.
//! - The device gets a session of its own, only while the one that approved it is open.
//!
//! Deliberate limit: how often a device asks is kept in memory, for the latest [`PACES_KEPT`].

use std::fmt;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use supervision::{Address, Class, Entity as _, Origin, Refusal, RequestRef, System, Timestamp};
use types::{Caller, CallerKind, SessionId, TenantId, UserId};
use zeroize::Zeroizing;

use crate::claim::{Claim, ClaimTarget, Confirm, Namespace, Reserve, claim_address};
use crate::device_login::{
    Approved, Begin, Decide, DeviceLogin, Digest, LIFE_MS, Redeem, access_denied, invalid_grant,
};
use crate::internal;
use crate::login::{TokenLife, Tokens, origin_of, too_many_attempts};
use crate::service::Identity;
use crate::session::Session;
use crate::throttle::Pair;

/// How long a device waits between two questions, in seconds, and how much longer each time it did
/// not.
pub const INTERVAL_S: u64 = 5;
/// How many devices' questions are remembered, at most twice over.
pub const PACES_KEPT: usize = 16_384;
/// What long codes begin with.
const PREFIX: &str = "bw_device_code_";
/// The short codes that can be used, unique over the installation.
const USER_CODE: Namespace = Namespace::new("device_user_code");
/// RFC 8628, section 6.1: no vowels, so no words.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// The letters of a short code: 34 bits.
const USER_CODE_CHARS: usize = 8;
/// How often a short code is made up anew when it is taken.
const CODES_TRIED_MAX: usize = 5;
/// The bytes of a long code: where it belongs, and the secret.
const CODE_BYTES: usize = 48;
/// RFC 7636, section 4.1.
const VERIFIER_CHARS: std::ops::RangeInclusive<usize> = 43..=128;

/// What a device gets to begin with. It prints nothing.
pub struct DeviceCodes {
    /// For the device alone.
    pub device_code: Zeroizing<String>,
    /// To be shown: `XXXX-XXXX`.
    pub user_code: String,
}

impl fmt::Debug for DeviceCodes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DeviceCodes([redacted])")
    }
}

/// What a device is answered that asks whether it is let in.
#[derive(Debug)]
pub enum DeviceAnswer {
    /// Nobody has decided.
    Pending,
    /// It asked too soon.
    SlowDown,
    /// It is.
    Tokens(Box<Tokens>),
}

/// When a device asked last, and how long it has to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    asked_at: Timestamp,
    interval_ms: i64,
}

/// A short code as it is claimed: its letters, in capitals.
fn normal(user_code: &str) -> Option<String> {
    let letters = user_code.bytes().filter(u8::is_ascii_alphanumeric).take(USER_CODE_CHARS + 1);
    let letters: String = letters.map(|it| char::from(it.to_ascii_uppercase())).collect();
    (letters.len() == USER_CODE_CHARS).then_some(letters)
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Refusal> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| internal("no random numbers"))?;
    Ok(bytes)
}

fn new_user_code() -> Result<String, Refusal> {
    let mut code = String::with_capacity(USER_CODE_CHARS);
    while code.len() < USER_CODE_CHARS {
        let [byte] = *random::<1>()?;
        // 240 is the largest multiple of 20 in a byte: each letter is as likely.
        if byte < 240 {
            code.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
        }
    }
    Ok(code)
}

/// The challenge that a program sends: base64url of a SHA-256 (RFC 7636, section 4.2).
fn challenge(text: &str, method: &str) -> Result<Digest, Refusal> {
    if method != "S256" {
        return Err(Refusal::invalid("code_challenge_method", "must be S256"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let message = "must be the base64url of a SHA-256, without padding";
    bytes.map(Digest).ok_or_else(|| Refusal::invalid("code_challenge", message))
}

/// Where a long code belongs.
fn locate(system: &System, device_code: &str) -> Option<Address<DeviceLogin>> {
    let bytes = URL_SAFE_NO_PAD.decode(device_code.strip_prefix(PREFIX)?).ok()?;
    let (id, secret) = bytes.split_first_chunk::<16>()?;
    let address = DeviceLogin::address(u128::from_be_bytes(*id));
    let is_code = secret.len() == CODE_BYTES - 16;
    system.locate(DeviceLogin::KIND, address.id()).filter(|_| is_code).map(|_| address)
}

impl Identity {
    /// A device asks to be logged in. 422 for a challenge that is none, 429
    /// `too_many_device_logins` for too many from one address.
    pub async fn begin_device_login(
        &self,
        code_challenge: &str,
        method: &str,
        address: &str,
        request: RequestRef,
    ) -> Result<DeviceCodes, Refusal> {
        let (system, challenge) = (self.system()?, challenge(code_challenge, method)?);
        let pair = Pair::new(address, "device login");
        self.mails.begin(pair, system.clock().now()).map_err(|retry_after_ms| {
            let message = "too many devices ask for a login from here";
            let refusal = Refusal::new(Class::TooMany, "too_many_device_logins", message);
            refusal.retry_after(retry_after_ms)
        })?;
        let origin = Origin { caller: "anonymous".into(), request, cause: None };
        let (id, secret) = (system.new_id(), random::<32>()?);
        let bytes = Zeroizing::new([id.to_be_bytes().as_slice(), secret.as_slice()].concat());
        let mut device_code = Zeroizing::new(String::with_capacity(PREFIX.len() + 64));
        device_code.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut device_code);
        let (user_code, claim) = self.reserve_user_code(&system, id, &origin).await?;
        let (code, user_code_tag) = (Digest::of(&device_code), claim.id().to_owned());
        let begin = Begin { id, code, challenge, user_code_tag };
        let logins = system.directory::<DeviceLogin>();
        logins.ask(&DeviceLogin::address(id), begin, origin.clone()).await?;
        // It leads to the login: nobody's account is known yet.
        let target = ClaimTarget { user: UserId(id), tenant: TenantId::SYSTEM };
        let confirm = Confirm { holder: id, target };
        system.directory::<Claim>().ask(&claim, confirm, origin).await?;
        let (first, last) = user_code.split_at(USER_CODE_CHARS / 2);
        Ok(DeviceCodes { user_code: format!("{first}-{last}"), device_code })
    }

    async fn reserve_user_code(
        &self,
        system: &System,
        holder: u128,
        origin: &Origin,
    ) -> Result<(String, Address<Claim>), Refusal> {
        let claims = system.directory::<Claim>();
        for _ in 0..CODES_TRIED_MAX {
            let code = new_user_code()?;
            let claim = claim_address(USER_CODE, &code, self.claim_key());
            match claims.ask(&claim, Reserve { holder }, origin.clone()).await {
                Ok(_) => return Ok((code, claim)),
                Err(refusal) if refusal.code == "already_claimed" => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::busy())
    }

    /// The login that a short code stands for. 404 for none; who asks is counted, 429
    /// `too_many_attempts`.
    async fn device_login_of(
        &self,
        system: &System,
        user: UserId,
        user_code: &str,
    ) -> Result<Address<DeviceLogin>, Refusal> {
        let pair = Pair::new("device code", &user.to_string());
        self.throttle.begin(pair, system.clock().now()).map_err(too_many_attempts)?;
        let missing = || Refusal::not_found("code; it may have been used or have expired");
        let code = normal(user_code).ok_or_else(missing)?;
        let claim = claim_address(USER_CODE, &code, self.claim_key());
        system.locate(Claim::KIND, claim.id()).ok_or_else(missing)?;
        let claims = system.directory::<Claim>();
        let found = claims.look(&claim, system.system_origin(), Claim::confirmed).await?;
        let (id, _) = found.ok_or_else(missing)?;
        self.throttle.succeeded(pair);
        Ok(DeviceLogin::address(id))
    }

    /// Somebody who is logged in lets a device in as themselves, or does not. `ends_session` says
    /// that the caller's session was opened for this alone. 403 for whoever is not logged in, 404,
    /// 410 `code_used` or `code_expired`, 429 `too_many_attempts`.
    pub async fn decide_device_login(
        &self,
        caller: &Caller,
        user_code: &str,
        approves: bool,
        ends_session: bool,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let system = self.system()?;
        let who = caller.user.zip(caller.session).filter(|_| caller.kind == CallerKind::User);
        let nobody = || Refusal::forbidden("a device is let in by a user who is logged in");
        let (user, session) = who.ok_or_else(nobody)?;
        let address = self.device_login_of(&system, user, user_code).await?;
        let approved = Approved { user, tenant: caller.tenant, session, ends_session };
        let decide = Decide { user, approved: approves.then_some(approved) };
        system.directory::<DeviceLogin>().ask(&address, decide, origin).await
    }

    /// A device asks whether it is let in. 400 `invalid_grant`, `access_denied`, `expired_token`.
    pub async fn redeem_device_code(
        &self,
        device_code: &str,
        code_verifier: &str,
        device: Option<String>,
        request: RequestRef,
    ) -> Result<DeviceAnswer, Refusal> {
        let system = self.system()?;
        if !VERIFIER_CHARS.contains(&code_verifier.len()) {
            return Err(invalid_grant());
        }
        let address = locate(&system, device_code).ok_or_else(invalid_grant)?;
        let (code, verifier) = (Digest::of(device_code), Digest::of(code_verifier));
        let (logins, now) = (system.directory::<DeviceLogin>(), system.clock().now());
        let look = move |login: &DeviceLogin| login.is_waiting(&code, &verifier, now);
        let is_waiting = logins.look(&address, system.system_origin(), look).await??;
        if self.asks_too_soon(address.id(), now) {
            return Ok(DeviceAnswer::SlowDown);
        }
        if is_waiting {
            return Ok(DeviceAnswer::Pending);
        }
        let origin = Origin { caller: "anonymous".into(), request, cause: None };
        let approved = logins.ask(&address, Redeem { code, verifier }, origin).await?;
        let tokens = self.open_approved(&system, approved, device, request).await;
        if approved.ends_session {
            let origin = origin_of(approved.user, request);
            self.revoke_session(approved.user, approved.session, origin).await?;
        }
        tokens.map(|tokens| DeviceAnswer::Tokens(Box::new(tokens)))
    }

    fn asks_too_soon(&self, login: &str, now: Timestamp) -> bool {
        let mut paces = self.device_paces.lock();
        let first = Pace { asked_at: now, interval_ms: INTERVAL_S as i64 * 1_000 };
        let Some(pace) = paces.get_mut(login) else {
            paces.insert(login.to_owned(), first);
            return false;
        };
        let is_soon = now < pace.asked_at.plus_ms(pace.interval_ms);
        pace.asked_at = now;
        if is_soon {
            pace.interval_ms = (pace.interval_ms + first.interval_ms).min(LIFE_MS);
        }
        is_soon
    }

    /// A session for the device, while the one that approved it is open.
    async fn open_approved(
        &self,
        system: &std::sync::Arc<System>,
        approved: Approved,
        device: Option<String>,
        request: RequestRef,
    ) -> Result<Tokens, Refusal> {
        let Approved { user, tenant, .. } = approved;
        let account = self.account(user, Some(tenant)).await?.ok_or_else(access_denied)?;
        if !self.approver_stands(system, approved, account.sessions_from).await? {
            return Err(access_denied());
        }
        // Whoever approved it has shown what a login takes, a second factor too.
        let entry = self.admit(system, account).await.map_err(|refusal| {
            if refusal.class == Class::Forbidden { access_denied() } else { refusal }
        })?;
        let (session, life) = (SessionId(system.new_id()), TokenLife::Standard);
        let tokens = self.open(system, entry, session, device, life, request).await?;
        let account = self.account(user, Some(tenant)).await?;
        let sessions_from = account.map_or(u64::MAX, |account| account.sessions_from);
        if !self.approver_stands(system, approved, sessions_from).await? {
            self.revoke_session(user, session, origin_of(user, request)).await?;
            return Err(access_denied());
        }
        self.note_login(user, system.clock().now());
        Ok(tokens)
    }

    async fn approver_stands(
        &self,
        system: &System,
        approved: Approved,
        sessions_from: u64,
    ) -> Result<bool, Refusal> {
        let Approved { user, tenant, session, .. } = approved;
        let address = Session::address(session, user, tenant);
        let look = move |session: &Session| session.stands(sessions_from);
        system.directory::<Session>().look(&address, system.system_origin(), look).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_code_is_read_as_people_type_it() {
        let code = new_user_code().unwrap();
        assert!(code.bytes().all(|letter| LETTERS.contains(&letter)), "{code}");
        let (first, last) = code.split_at(4);
        for typed in [code.clone(), format!("{first}-{last}"), format!(" {first} {last} ")] {
            assert_eq!(normal(&typed.to_lowercase()).as_ref(), Some(&code), "{typed}");
        }
        assert!(normal(first).is_none() && normal(&format!("{code}B")).is_none());
    }

    #[test]
    fn a_challenge_is_a_hash_and_nothing_plain() {
        let text = URL_SAFE_NO_PAD.encode(Digest::of("verifier").0);
        assert_eq!(challenge(&text, "S256"), Ok(Digest::of("verifier")));
        assert!(challenge(&text, "plain").is_err());
        assert!(challenge("verifier", "S256").is_err() && challenge("", "S256").is_err());
    }
}
