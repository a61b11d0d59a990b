//! Refresh tokens: opaque, single use, in families; a pure state machine.
//!
//! A family begins with a login and is one line of tokens, each the successor of the one before.
//! [`Family::present`] decides, [`Family::apply`] changes: the caller makes the decision's event
//! durable in between, within one turn. Time is an argument, and nothing here draws random numbers
//! but [`FamilySecret::generate`].
//!
//! Invariants
//! - A token has one successor. The token used last answers the same successor again for
//!   [`SAME_SUCCESSOR_MS`] while that successor is unused (a lost answer, two tabs); any other use
//!   of a used token ends the family, for good.
//! - No token is stored, only its SHA-256. A restart forgets nothing that decides: the use of a
//!   token is in the state.
//!
//! How a successor can be answered twice although it is not stored: token number n of a family is
//! HMAC-SHA256(family secret, n), in big-endian. The secret is 32 random bytes, sealed at rest with
//! the event that starts the family. To whom lacks it, every token is as good as random, and a
//! stolen old token says nothing about the newer ones. It also lets the family recognise every
//! token it ever had without a list: reuse costs at most [`ROTATIONS_MAX`] HMACs, all else none.
//!
//! Deliberate limits
//! - The family does not know which session it belongs to, nor finds itself by a token: an index
//!   from [`TokenHash`] to its owner does.

use std::fmt;

use aws_lc_rs::{digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What every refresh token begins with.
pub const TOKEN_PREFIX: &str = "bw_rt_";
/// Characters of a token: the prefix and 32 bytes as base64url.
pub const TOKEN_CHARS: usize = TOKEN_PREFIX.len() + 43;
/// How long the token used last answers the same successor: 30 s.
pub const SAME_SUCCESSOR_MS: u64 = 30_000;
/// The life of an unused token: 30 days.
pub const TOKEN_LIFE_MS: u64 = 30 * 24 * 3_600_000;
/// The life of a family, however often it is used: 90 days.
pub const FAMILY_LIFE_MS: u64 = 90 * 24 * 3_600_000;
/// Uses of one family, one every eight minutes for 90 days. After that it counts as expired.
pub const ROTATIONS_MAX: u64 = 16_384;

/// A token in plain, on its way to its owner.
pub struct RefreshToken(Zeroizing<String>);

impl RefreshToken {
    /// The text to send; it goes nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RefreshToken([redacted])")
    }
}

/// The SHA-256 of a whole token, prefix included: what is stored and looked up.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of what a client presented, or `None` if it cannot be a refresh token.
    pub fn of(presented: &str) -> Option<Self> {
        let body = presented.strip_prefix(TOKEN_PREFIX)?;
        let is_token = presented.len() == TOKEN_CHARS
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_token.then(|| Self::of_text(presented))
    }

    fn of_text(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// The 32 bytes, for an index.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TokenHash({}…)", HEXLOWER.encode(&self.0[..4]))
    }
}

/// What a family's tokens are derived from: erased when dropped, never printed. It serialises in
/// plain, so it goes only into what is sealed.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct FamilySecret([u8; 32]);

impl FamilySecret {
    /// A fresh secret, or `None` if the system has no random numbers.
    pub fn generate() -> Option<Self> {
        let mut secret = Self([0; 32]);
        rand::fill(&mut secret.0).ok()?;
        Some(secret)
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl PartialEq for FamilySecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for FamilySecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FamilySecret([redacted])")
    }
}

fn derive(key: &hmac::Key, number: u64) -> RefreshToken {
    let tag = hmac::sign(key, &number.to_be_bytes());
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_CHARS));
    text.push_str(TOKEN_PREFIX);
    URL_SAFE_NO_PAD.encode_string(tag, &mut text);
    RefreshToken(text)
}

/// Why a family was ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum EndReason {
    /// A token was used that had been used before: it, or its successor, is in two hands.
    Reuse,
    /// Its owner logged out, or somebody with the right to do so ended the session.
    Revoked,
    /// Its last token was not used in time.
    Expired,
}

/// What happened to a family, as it is stored.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The current token was used; `successor` is the hash of the token that took its place.
    Rotated {
        /// When (ms since 1970).
        at_ms: u64,
        /// The hash of the new current token.
        successor: TokenHash,
    },
    /// No token of the family is good any more.
    Ended {
        /// When (ms since 1970).
        at_ms: u64,
        /// Why.
        reason: EndReason,
    },
}

/// What to do with a presented token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Good: store and apply the event, then answer [`Family::current_token`].
    Rotate(Event),
    /// Used just now: answer [`Family::current_token`]; nothing changes.
    SameSuccessor,
    /// Used long ago: store and apply the event, then refuse.
    KillFamily(Event),
    /// Refuse: not a token of this family. Nothing changes.
    Unknown,
    /// Refuse: the token or the family is too old, or used up. Nothing changes.
    Expired,
    /// Refuse: the family was ended before. Nothing changes.
    Ended(EndReason),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct UsedToken {
    hash: TokenHash,
    at_ms: u64,
}

/// The state of one family.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Family {
    secret: FamilySecret,
    started_at_ms: u64,
    /// The number of the current token; it is also how often the family was used.
    number: u64,
    current: TokenHash,
    issued_at_ms: u64,
    /// The token before the current one.
    used: Option<UsedToken>,
    ended: Option<EndReason>,
}

impl Family {
    /// A new family with its first token.
    pub fn start(secret: FamilySecret, now_ms: u64) -> Self {
        let current = TokenHash::of_text(derive(&secret.key(), 0).expose());
        Self {
            secret,
            started_at_ms: now_ms,
            number: 0,
            current,
            issued_at_ms: now_ms,
            used: None,
            ended: None,
        }
    }

    /// The token that can be used next, in plain.
    pub fn current_token(&self) -> RefreshToken {
        derive(&self.secret.key(), self.number)
    }

    /// The hash of the token that can be used next.
    pub fn current_hash(&self) -> TokenHash {
        self.current
    }

    /// When the current token expires if it is not used (ms since 1970).
    pub fn expires_at_ms(&self) -> u64 {
        let token = self.issued_at_ms.saturating_add(TOKEN_LIFE_MS);
        token.min(self.started_at_ms.saturating_add(FAMILY_LIFE_MS))
    }

    /// When the current token was issued (ms since 1970): at the login, or at the last use.
    pub fn issued_at_ms(&self) -> u64 {
        self.issued_at_ms
    }

    /// Why the family was ended, if it was.
    pub fn ended(&self) -> Option<EndReason> {
        self.ended
    }

    /// What a presented token means now.
    pub fn present(&self, presented: &TokenHash, now_ms: u64) -> Decision {
        let is_current = *presented == self.current;
        let just_used = self.used.as_ref().filter(|used| used.hash == *presented);
        if !is_current && just_used.is_none() && !self.was_used_before(presented) {
            return Decision::Unknown;
        }
        if let Some(reason) = self.ended {
            return Decision::Ended(reason);
        }
        let family_expired = now_ms >= self.started_at_ms.saturating_add(FAMILY_LIFE_MS);
        let current_expired = is_current && now_ms >= self.expires_at_ms();
        if family_expired || current_expired || (is_current && self.number >= ROTATIONS_MAX) {
            return Decision::Expired;
        }
        if is_current {
            let successor = derive(&self.secret.key(), self.number + 1);
            let successor = TokenHash::of_text(successor.expose());
            return Decision::Rotate(Event::Rotated { at_ms: now_ms, successor });
        }
        // A clock that went back lengthens these 30 s, by what it went back at most.
        match just_used {
            Some(used) if now_ms.saturating_sub(used.at_ms) < SAME_SUCCESSOR_MS => {
                Decision::SameSuccessor
            }
            _ => Decision::KillFamily(Event::Ended { at_ms: now_ms, reason: EndReason::Reuse }),
        }
    }

    /// The event that ends the family at its owner's wish, or `None` if it has ended already.
    pub fn revoke(&self, now_ms: u64) -> Option<Event> {
        let revoked = Event::Ended { at_ms: now_ms, reason: EndReason::Revoked };
        self.ended.is_none().then_some(revoked)
    }

    /// The event that ends the family once its token can be used no more, or `None` until then and
    /// if it has ended already.
    pub fn expire(&self, now_ms: u64) -> Option<Event> {
        let expired = Event::Ended { at_ms: now_ms, reason: EndReason::Expired };
        (self.ended.is_none() && now_ms >= self.expires_at_ms()).then_some(expired)
    }

    /// How often the family was used.
    pub fn rotations(&self) -> u64 {
        self.number
    }

    /// The state after an event that [`Family::present`], [`Family::revoke`] or [`Family::expire`]
    /// decided.
    pub fn apply(&mut self, event: &Event) {
        match *event {
            Event::Rotated { at_ms, successor } => {
                self.used = Some(UsedToken { hash: self.current, at_ms });
                self.current = successor;
                self.issued_at_ms = at_ms;
                self.number += 1;
            }
            Event::Ended { reason, .. } => self.ended = Some(reason),
        }
    }

    fn was_used_before(&self, presented: &TokenHash) -> bool {
        let key = self.secret.key();
        (0..self.number).any(|n| TokenHash::of_text(derive(&key, n).expose()) == *presented)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;

    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const DAY_MS: u64 = 24 * 3_600_000;

    fn family() -> Family {
        Family::start(FamilySecret::generate().unwrap(), NOW_MS)
    }

    fn token(family: &Family, number: u64) -> TokenHash {
        TokenHash::of(derive(&family.secret.key(), number).expose()).unwrap()
    }

    fn restarted(family: &Family) -> Family {
        serde_json::from_slice(&serde_json::to_vec(family).unwrap()).unwrap()
    }

    /// One turn: decide, apply.
    fn turn(family: &mut Family, presented: &TokenHash, now_ms: u64) -> Decision {
        let decision = family.present(presented, now_ms);
        if let Decision::Rotate(event) | Decision::KillFamily(event) = &decision {
            family.apply(event);
        }
        decision
    }

    #[test]
    fn tokens_have_one_form_and_do_not_print() {
        let family = family();
        let token = family.current_token();
        assert_eq!(token.expose().len(), TOKEN_CHARS);
        assert_eq!(TokenHash::of(token.expose()), Some(family.current_hash()));
        let printed = format!("{token:?} {family:?}");
        assert!(!printed.contains(&token.expose()[TOKEN_PREFIX.len()..]));
        let text = token.expose();
        for other in [
            "",
            "bw_rt_",
            &text[..48],
            &text[1..],
            &format!("{text}A"),
            &text.replace(TOKEN_PREFIX, "BW_RT_"),
            &format!("{}=", &text[..48]),
            &format!("{}é", &text[..47]),
        ] {
            assert_eq!(TokenHash::of(other), None, "{other}");
        }
    }

    #[test]
    fn forty_parallel_presentations_of_one_token_get_one_successor() {
        let first = family();
        let presented = first.current_hash();
        let (shared, barrier) = (Arc::new(Mutex::new(first)), Arc::new(Barrier::new(40)));
        let threads: Vec<_> = (0..40)
            .map(|_| {
                let (shared, barrier) = (Arc::clone(&shared), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    let mut family = shared.lock();
                    let rotated = match turn(&mut family, &presented, NOW_MS + 5) {
                        Decision::Rotate(_) => true,
                        Decision::SameSuccessor => false,
                        other => panic!("{other:?}"),
                    };
                    *family = restarted(&family);
                    (rotated, family.current_token().expose().to_owned())
                })
            })
            .collect();
        let answers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(answers.iter().filter(|(rotated, _)| *rotated).count(), 1);
        assert!(answers.iter().all(|(_, successor)| *successor == answers[0].1));
        assert_ne!(TokenHash::of(&answers[0].1), Some(presented));
    }

    #[test]
    fn reuse_kills_the_family_after_a_restart_too() {
        let mut family = family();
        let (zero, one) = (token(&family, 0), token(&family, 1));
        assert!(matches!(turn(&mut family, &zero, NOW_MS), Decision::Rotate(_)));
        assert!(matches!(turn(&mut family, &one, NOW_MS), Decision::Rotate(_)));
        let mut family = restarted(&family);
        let killed = turn(&mut family, &zero, NOW_MS + 1);
        assert!(matches!(killed, Decision::KillFamily(_)), "{killed:?}");
        let mut family = restarted(&family);
        for number in 0..3 {
            let presented = token(&family, number);
            let ended = turn(&mut family, &presented, NOW_MS + 2);
            assert_eq!(ended, Decision::Ended(EndReason::Reuse));
        }
        assert_eq!(family.revoke(NOW_MS), None);
    }

    #[test]
    fn the_same_successor_is_answered_for_30_seconds_and_not_longer() {
        let mut family = family();
        let zero = token(&family, 0);
        turn(&mut family, &zero, NOW_MS);
        let mut family = restarted(&family);
        let last_ms = NOW_MS + SAME_SUCCESSOR_MS - 1;
        assert_eq!(turn(&mut family, &zero, last_ms), Decision::SameSuccessor);
        assert_eq!(turn(&mut family, &zero, NOW_MS - 5_000), Decision::SameSuccessor);
        let late = turn(&mut family, &zero, last_ms + 1);
        assert!(matches!(late, Decision::KillFamily(_)));
    }

    #[test]
    fn tokens_and_families_expire() {
        let mut family = family();
        let zero = token(&family, 0);
        assert_eq!(family.expires_at_ms(), NOW_MS + TOKEN_LIFE_MS);
        assert_eq!(family.present(&zero, NOW_MS + TOKEN_LIFE_MS), Decision::Expired);
        for (number, day) in [(0, 29), (1, 58), (2, 87)] {
            let presented = token(&family, number);
            let decision = turn(&mut family, &presented, NOW_MS + day * DAY_MS);
            assert!(matches!(decision, Decision::Rotate(_)), "day {day}");
        }
        let end_ms = NOW_MS + FAMILY_LIFE_MS;
        assert_eq!(family.expires_at_ms(), end_ms);
        let last = family.current_hash();
        assert!(matches!(family.present(&last, end_ms - 1), Decision::Rotate(_)));
        assert_eq!(family.present(&last, end_ms), Decision::Expired);
        assert_eq!(family.present(&zero, end_ms), Decision::Expired);
        family.number = ROTATIONS_MAX;
        assert_eq!(family.present(&last, NOW_MS + 88 * DAY_MS), Decision::Expired);
    }

    #[test]
    fn strangers_change_nothing_and_the_future_is_a_stranger() {
        let family = family();
        let stranger = super::tests::family().current_hash();
        assert_eq!(family.present(&stranger, NOW_MS), Decision::Unknown);
        assert_eq!(family.present(&token(&family, 1), NOW_MS), Decision::Unknown);
        let mut revoked = family.clone();
        revoked.apply(&family.revoke(NOW_MS).unwrap());
        let presented = family.current_hash();
        assert_eq!(revoked.present(&presented, NOW_MS), Decision::Ended(EndReason::Revoked));
        assert_eq!(revoked.present(&stranger, NOW_MS), Decision::Unknown);
    }

    proptest! {
        /// Any order of uses, with restarts: the machine answers what the rules say in words.
        #[test]
        fn any_history_follows_the_rules(
            steps in prop::collection::vec((0_u64..6, 0_u64..40_000, any::<bool>()), 1..40)
        ) {
            let mut family = family();
            let (mut now_ms, mut newest, mut used_at_ms, mut ended) = (NOW_MS, 0, 0, false);
            for (back, pause_ms, restart) in steps {
                now_ms += pause_ms;
                if restart {
                    family = restarted(&family);
                }
                // One step beyond the newest up to four steps behind it.
                let number = (newest + 1_u64).saturating_sub(back);
                let presented = token(&family, number);
                let decision = turn(&mut family, &presented, now_ms);
                let fresh = newest == number + 1 && now_ms - used_at_ms < SAME_SUCCESSOR_MS;
                let expected = if number > newest {
                    matches!(decision, Decision::Unknown)
                } else if ended {
                    decision == Decision::Ended(EndReason::Reuse)
                } else if number == newest {
                    (newest, used_at_ms) = (newest + 1, now_ms);
                    matches!(decision, Decision::Rotate(_))
                } else if fresh {
                    decision == Decision::SameSuccessor
                } else {
                    ended = true;
                    matches!(decision, Decision::KillFamily(_))
                };
                prop_assert!(expected, "token {number} of {newest}: {decision:?}");
                prop_assert_eq!(family.current_hash(), token(&family, newest));
            }
        }
    }
}
