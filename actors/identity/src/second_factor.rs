//! A user's second factors: authenticator apps, passkeys, and the codes for when both are lost.
//!
//! The entity exists once its user has begun to enrol one, so that a login of a user without any
//! finds nothing and costs nothing. Its state is published: a look at it needs no message.
//!
//! Invariants
//! - A factor counts once its user has shown that it works.
//! - A code of an authenticator app, a recovery code and the answer of a passkey are used once;
//!   the use is an event, so a restart forgets none.
//! - There are recovery codes if and only if there is a factor.
//! - Secrets and the ids of credentials are sealed under the user's own key; of recovery codes only
//!   hashes are kept.
//!
//! Deliberate limits
//! - At most [`FACTORS_MAX`] factors; one enrolment of each sort at a time, the latest.
//! - Wrong attempts are no events: how often somebody may try is up to [`crate::throttle`].
//! - Who may remove a factor, the caller has checked, where it is not by a [`Proof`]. Who has lost
//!   all of them is helped by somebody else: [`crate::factor_removal`].

mod clearing;
mod commands;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use data_encoding::BASE32_NOPAD;
use persistence::KeyRing;
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;
use supervision::{Address, Class, EffectContext, Entity, Refusal, Timestamp, Turn};
use types::{IdError, Personal, TenantId, UserId, base32, home_of, owner_of_user};
use zeroize::Zeroizing;

pub use clearing::{
    AskRemoval, Asked, Clear, Cleared, ClearingRetried, ClearingSettled, RemovalAsked, Why,
};
pub(crate) use clearing::{no_factor, not_asked};
pub use commands::{
    BeginPasskey, BeginTotp, ConfirmTotp, Confirmed, FinishPasskey, RegenerateCodes, Remove, Verify,
};

use crate::passkey::{Assertion, Challenge, PublicKey, Site, check_assertion};
use crate::totp::{self, Secret};

/// How many factors a user may have.
pub const FACTORS_MAX: usize = 10;
/// How many recovery codes there are.
pub const RECOVERY_CODES: usize = 10;
/// How long an enrolment may take, in milliseconds.
pub const ENROLMENT_MS: i64 = 10 * 60_000;
/// The longest label of a factor, in characters; the rest is cut off.
pub const LABEL_CHARS_MAX: usize = 64;
/// How many logins may be completed in the life of a login token.
pub const LOGINS_REMEMBERED_MAX: usize = 64;
/// What an authenticator's secret is sealed as.
pub const SECRET_LABEL: &str = "second_factor.secret";
/// What a credential's id is sealed as.
pub const CREDENTIAL_LABEL: &str = "second_factor.credential";
/// What a factor's label is sealed as.
pub const NAME_LABEL: &str = "second_factor.label";
/// 80 bits.
const RECOVERY_BYTES: usize = 10;
/// The characters of a recovery code between two dashes.
const RECOVERY_GROUP: usize = 4;

/// A factor's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FactorId(pub u128);

impl fmt::Display for FactorId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "fac_{}", base32(self.0))
    }
}

impl fmt::Debug for FactorId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for FactorId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        // Ids are read alike whatever their prefix.
        text.parse().map(|UserId(number)| Self(number))
    }
}

/// A sort of second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorKind {
    /// An authenticator app.
    Totp,
    /// A passkey.
    Passkey,
}

impl FactorKind {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::Passkey => "passkey",
        }
    }
}

/// What a factor is recognised by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Means {
    /// An authenticator app.
    Totp {
        /// The secret in base32, sealed as [`SECRET_LABEL`].
        secret: Personal,
        /// The last step whose code was used.
        last_step: u64,
    },
    /// A passkey.
    Passkey {
        /// The credential's id in base64url, sealed as [`CREDENTIAL_LABEL`].
        credential: Personal,
        /// Its key.
        key: PublicKey,
        /// How often it has signed.
        counter: u32,
    },
}

/// A factor that counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Factor {
    /// The id.
    pub id: FactorId,
    /// What the user calls it, sealed as [`NAME_LABEL`].
    pub label: Option<Personal>,
    /// What it is recognised by.
    pub means: Means,
    /// Since when.
    pub created_at: Timestamp,
    /// When it was last used to log in.
    pub last_used_at: Option<Timestamp>,
}

impl Factor {
    /// Its sort.
    pub fn kind(&self) -> FactorKind {
        match self.means {
            Means::Totp { .. } => FactorKind::Totp,
            Means::Passkey { .. } => FactorKind::Passkey,
        }
    }
}

/// An enrolment that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pending<T> {
    id: FactorId,
    label: Option<Personal>,
    until: Timestamp,
    what: T,
}

/// The hash of a recovery code.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryHash([u8; 32]);

impl RecoveryHash {
    /// Of a code as it was typed: case, spaces and dashes do not matter.
    pub fn of(typed: &str) -> Self {
        let normal = typed.chars().filter(|letter| letter.is_ascii_alphanumeric());
        let normal: Zeroizing<String> =
            Zeroizing::new(normal.take(64).map(|letter| letter.to_ascii_lowercase()).collect());
        Self(sha256(&[b"recovery code", normal.as_bytes()]))
    }
}

impl fmt::Debug for RecoveryHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RecoveryHash")
    }
}

/// Fresh recovery codes, as they are shown once.
#[derive(Clone)]
pub struct RecoveryCodes(Vec<Zeroizing<String>>);

impl RecoveryCodes {
    /// As many as there are to be, or `None` if the system has no random numbers.
    pub fn generate() -> Option<Self> {
        let code = || {
            let mut bytes = Zeroizing::new([0; RECOVERY_BYTES]);
            rand::fill(bytes.as_mut_slice()).ok()?;
            let text = Zeroizing::new(BASE32_NOPAD.encode(bytes.as_slice()).to_lowercase());
            let mut shown = Zeroizing::new(String::with_capacity(text.len() + RECOVERY_GROUP));
            for (place, letter) in text.chars().enumerate() {
                if place > 0 && place.is_multiple_of(RECOVERY_GROUP) {
                    shown.push('-');
                }
                shown.push(letter);
            }
            Some(shown)
        };
        (0..RECOVERY_CODES).map(|_| code()).collect::<Option<_>>().map(Self)
    }

    /// The codes.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|code| code.as_str())
    }

    fn hashes(&self) -> Vec<RecoveryHash> {
        self.texts().map(RecoveryHash::of).collect()
    }
}

impl fmt::Debug for RecoveryCodes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RecoveryCodes([redacted])")
    }
}

/// A login that used up its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedLogin {
    /// The token's number.
    pub nonce: u128,
    /// When the token would be over anyway.
    pub until: Timestamp,
}

/// What a user shows as the second factor.
pub enum Proof {
    /// A code of an authenticator app.
    Code(String),
    /// A recovery code.
    Recovery(String),
    /// A passkey's answer.
    Passkey {
        /// The answer.
        assertion: Box<Assertion>,
        /// What it was asked.
        challenge: Challenge,
        /// By whom.
        site: Site,
    },
}

impl Proof {
    /// A code as it was typed: six digits are an app's, all else a recovery code.
    pub fn typed(text: &str) -> Self {
        match totp::normal_code(text) {
            Some(code) => Self::Code(code),
            None => Self::Recovery(text.to_owned()),
        }
    }
}

/// A user's second factors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SecondFactors {
    factors: Vec<Factor>,
    pending_totp: Option<Pending<Personal>>,
    pending_passkey: Option<Pending<Challenge>>,
    recovery: Vec<RecoveryHash>,
    completed: Vec<CompletedLogin>,
    asked: Option<Asked>,
    clearing: Option<clearing::Clearing>,
}

impl SecondFactors {
    /// Where the factors of a user live whose first tenant is `home`.
    pub fn address(user: UserId, home: TenantId) -> Address<Self> {
        crate::address(&user.to_string(), owner_of_user(user), home_of(home))
    }

    /// The factors that count.
    pub fn factors(&self) -> &[Factor] {
        &self.factors
    }

    /// How many recovery codes are unused.
    pub fn recovery_codes_left(&self) -> usize {
        self.recovery.len()
    }

    /// What a login may show, by name; empty when there is no factor.
    pub fn accepted(&self) -> Vec<&'static str> {
        let has = |kind| self.factors.iter().any(|factor| factor.kind() == kind);
        let kinds = [FactorKind::Totp, FactorKind::Passkey].into_iter().filter(|kind| has(*kind));
        let recovery = (!self.recovery.is_empty()).then_some("recovery_code");
        kinds.map(FactorKind::name).chain(recovery).collect()
    }

    /// The ids of the passkeys' credentials.
    pub fn credentials(&self, keys: &KeyRing) -> Vec<String> {
        let credential = |factor: &Factor| match &factor.means {
            Means::Passkey { credential, .. } => credential.open(keys, CREDENTIAL_LABEL),
            Means::Totp { .. } => None,
        };
        self.factors.iter().filter_map(credential).collect()
    }

    /// What using this proof now would record; refused with 401 `invalid_second_factor`.
    fn used(&self, proof: &Proof, keys: &KeyRing, now: Timestamp) -> Result<Used, Refusal> {
        let found = match proof {
            Proof::Code(code) => self.factors.iter().find_map(|factor| {
                let Means::Totp { secret, last_step } = &factor.means else { return None };
                let secret = Secret::parse(&secret.open(keys, SECRET_LABEL)?)?;
                let step = secret.matching_step(code, now, Some(*last_step))?;
                Some(Used::Code { id: factor.id, step })
            }),
            Proof::Recovery(code) => {
                let hash = RecoveryHash::of(code);
                let is_it = |known: &RecoveryHash| bool::from(known.0.ct_eq(&hash.0));
                let found = self.recovery.iter().filter(|known| is_it(known)).count() > 0;
                found.then_some(Used::Recovery { hash })
            }
            Proof::Passkey { assertion, challenge, site } => {
                let shown = assertion.id.trim_end_matches('=');
                self.factors.iter().find_map(|factor| {
                    let Means::Passkey { credential, key, counter } = &factor.means else {
                        return None;
                    };
                    credential.open(keys, CREDENTIAL_LABEL).filter(|id| id == shown)?;
                    let checked = check_assertion(assertion, challenge, site, key, *counter);
                    let noted = checked.inspect_err(|error| tracing::info!(%error, "refused"));
                    Some(Used::Passkey { id: factor.id, counter: noted.ok()? })
                })
            }
        };
        found.ok_or_else(invalid_second_factor)
    }

    fn factor_mut(&mut self, id: FactorId) -> Option<&mut Factor> {
        self.factors.iter_mut().find(|factor| factor.id == id)
    }
}

/// 401: the second factor is not right.
pub(crate) fn invalid_second_factor() -> Refusal {
    let message = "the code or the passkey's answer is wrong, or was used before";
    Refusal::new(Class::Unauthenticated, "invalid_second_factor", message)
}

/// How a factor was used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Used {
    /// A code of an authenticator app.
    Code {
        /// The factor.
        id: FactorId,
        /// The code's step.
        step: u64,
    },
    /// A recovery code.
    Recovery {
        /// Its hash.
        hash: RecoveryHash,
    },
    /// A passkey.
    Passkey {
        /// The factor.
        id: FactorId,
        /// How often it has signed.
        counter: u32,
    },
}

/// An authenticator app was shown its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TotpBegun {
    /// The factor to be.
    pub id: FactorId,
    /// The secret, sealed as [`SECRET_LABEL`].
    pub secret: Personal,
    /// What the user calls it.
    pub label: Option<Personal>,
    /// Until when it can be confirmed.
    pub until: Timestamp,
}

/// The app showed the right code: it counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TotpConfirmed {
    /// The factor.
    pub id: FactorId,
    /// The code's step.
    pub step: u64,
}

/// A passkey was asked to enrol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasskeyBegun {
    /// The factor to be.
    pub id: FactorId,
    /// What it has to answer to.
    pub challenge: Challenge,
    /// What the user calls it.
    pub label: Option<Personal>,
    /// Until when.
    pub until: Timestamp,
}

/// The passkey answered: it counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasskeyAdded {
    /// The factor.
    pub id: FactorId,
    /// The credential's id, sealed as [`CREDENTIAL_LABEL`].
    pub credential: Personal,
    /// Its key.
    pub key: PublicKey,
    /// How often it has signed.
    pub counter: u32,
}

/// There are other recovery codes: those before them are void.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryCodesSet {
    /// Their hashes.
    pub hashes: Vec<RecoveryHash>,
}

/// A factor was used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactorUsed {
    /// Which, and how.
    pub used: Used,
    /// The login that it completed, if it was for one.
    pub login: Option<CompletedLogin>,
}

/// A factor counts no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// The factor.
    pub id: FactorId,
}

supervision::events! {
    /// What happens to a user's second factors.
    pub enum SecondFactorEvent {
        /// An app was shown its secret.
        TotpBegun(TotpBegun) = "totp_begun", 1;
        /// The app counts.
        TotpConfirmed(TotpConfirmed) = "totp_confirmed", 1;
        /// A passkey was asked.
        PasskeyBegun(PasskeyBegun) = "passkey_begun", 1;
        /// The passkey counts.
        PasskeyAdded(PasskeyAdded) = "passkey_added", 1;
        /// Other recovery codes.
        RecoveryCodesSet(RecoveryCodesSet) = "recovery_codes_set", 1;
        /// Used.
        FactorUsed(FactorUsed) = "used", 1;
        /// A factor less.
        Removed(Removed) = "removed", 1;
        /// Their user has lost them and asks a tenant's owner.
        RemovalAsked(RemovalAsked) = "removal_asked", 1;
        /// All are gone.
        Cleared(Cleared) = "cleared", 1;
        /// What follows from that is tried again.
        ClearingRetried(ClearingRetried) = "clearing_retried", 1;
        /// What follows from that is done.
        ClearingSettled(ClearingSettled) = "clearing_settled", 1;
    }
}

/// What a user's second factors ask of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactorEffect {
    /// The end of the user's sessions, and a mail that says why.
    Settle {
        /// The removal's id.
        id: u128,
        /// The user's [`crate::user::User::sessions_from`] before.
        sessions_from: u64,
    },
}

impl SecondFactors {
    fn add(&mut self, id: FactorId, label: Option<Personal>, means: Means, at: Timestamp) {
        self.factors.push(Factor { id, label, means, created_at: at, last_used_at: None });
    }

    fn note_use(&mut self, FactorUsed { used, login }: &FactorUsed, at: Timestamp) {
        self.completed.retain(|completed| at < completed.until);
        self.completed.extend(*login);
        let (id, used) = match *used {
            Used::Recovery { hash } => {
                return self.recovery.retain(|known| *known != hash);
            }
            Used::Code { id, .. } | Used::Passkey { id, .. } => (id, *used),
        };
        let Some(factor) = self.factor_mut(id) else { return };
        factor.last_used_at = Some(at);
        match (&mut factor.means, used) {
            (Means::Totp { last_step, .. }, Used::Code { step, .. }) => *last_step = step,
            (Means::Passkey { counter, .. }, Used::Passkey { counter: now, .. }) => *counter = now,
            _ => {}
        }
    }
}

impl Entity for SecondFactors {
    const KIND: &'static str = "second_factors";
    const PUBLISHED: bool = true;
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = SecondFactorEvent;
    type Effect = FactorEffect;

    fn apply(&mut self, event: &SecondFactorEvent, at: Timestamp) {
        match event {
            SecondFactorEvent::TotpBegun(it) => {
                let TotpBegun { id, secret: what, label, until } = it.clone();
                self.pending_totp = Some(Pending { id, label, until, what });
            }
            SecondFactorEvent::TotpConfirmed(it) => {
                if let Some(pending) = self.pending_totp.take_if(|pending| pending.id == it.id) {
                    let means = Means::Totp { secret: pending.what, last_step: it.step };
                    self.add(it.id, pending.label, means, at);
                }
            }
            SecondFactorEvent::PasskeyBegun(it) => {
                let PasskeyBegun { id, challenge: what, label, until } = it.clone();
                self.pending_passkey = Some(Pending { id, label, until, what });
            }
            SecondFactorEvent::PasskeyAdded(it) => {
                let pending = self.pending_passkey.take_if(|pending| pending.id == it.id);
                let PasskeyAdded { id, credential, key, counter } = it.clone();
                let means = Means::Passkey { credential, key, counter };
                self.add(id, pending.and_then(|pending| pending.label), means, at);
            }
            SecondFactorEvent::RecoveryCodesSet(it) => self.recovery.clone_from(&it.hashes),
            SecondFactorEvent::FactorUsed(it) => self.note_use(it, at),
            SecondFactorEvent::Removed(it) => {
                self.factors.retain(|factor| factor.id != it.id);
                if self.factors.is_empty() {
                    self.recovery.clear();
                }
            }
            SecondFactorEvent::RemovalAsked(it) => self.asked = Some(it.asked),
            SecondFactorEvent::Cleared(it) => self.clear(it, at),
            SecondFactorEvent::ClearingRetried(_) => self.retry_clearing(at),
            SecondFactorEvent::ClearingSettled(_) => self.settle_clearing(),
        }
    }

    fn is_pending(&self) -> bool {
        self.to_settle().is_some()
    }

    fn resume(&self) -> Vec<FactorEffect> {
        self.to_settle().into_iter().collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.clearing_retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        clearing::due(turn);
    }

    async fn perform(effect: FactorEffect, context: EffectContext<Self>) {
        clearing::perform(effect, context).await;
    }

    fn observe(&self) -> serde_json::Value {
        let factor = |factor: &Factor| {
            json!({
                "id": factor.id.to_string(), "kind": factor.kind().name(),
                "created_at": types::rfc3339(factor.created_at),
                "last_used_at": factor.last_used_at.map(types::rfc3339),
            })
        };
        json!({
            "factors": self.factors.iter().map(factor).collect::<Vec<_>>(),
            "recovery_codes_left": self.recovery.len(),
            "enrolling": self.pending_totp.is_some() || self.pending_passkey.is_some(),
        })
    }
}
