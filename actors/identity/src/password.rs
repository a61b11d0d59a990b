//! Passwords: a type that never prints, argon2id hashes, and a pool of threads that computes them.
//!
//! Invariants
//! - A password is erased from memory when it is dropped, and has no `Display` or readable `Debug`.
//! - A hash is computed on the pool's own threads only, so a login storm starves other logins and
//!   nothing else; a full queue refuses at once with [`HashError::Busy`].
//! - [`Hasher::verify`] without a stored hash does the work of a real one and never matches.
//!
//! Deliberate limits
//! - The characters of a password are taken as they come: no trimming, no Unicode normalisation.
//! - Equal time for known and unknown users holds for hashes made under the present policy; after
//!   the policy changed, an older hash costs what it used to until its owner logs in.
//! - No pepper. Which passwords may be chosen is in [`crate::password_rules`].
//!
//! Parameters: OWASP Password Storage Cheat Sheet; algorithm: RFC 9106; text form: the PHC string
//! format.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use std::{fmt, io, thread};

use argon2::password_hash::phc::{self, ParamsString};
use argon2::password_hash::{self, PasswordHasher};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::password_import;

/// The fewest characters a new password may have.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// The most characters a new password may have.
pub const PASSWORD_CHARS_MAX: usize = 128;
/// The most characters that a login attempt may carry: whatever was once accepted still logs in.
pub const LOGIN_CHARS_MAX: usize = 1024;
/// Waiting hash jobs beyond which the pool answers [`HashError::Busy`].
pub const HASH_QUEUE_MAX: usize = 256;
/// How long a thread keeps the memory of its last hash for the next one: to have it from the system
/// each time means a page fault for every four of its blocks.
const MEMORY_KEPT: Duration = Duration::from_secs(5);
/// How much less urgent than the rest of the server hashing is, as `nice(2)` counts: many logins
/// at once take the processor that nobody else wants.
const NICENESS: i32 = 10;
/// The most memory a stored hash may ask for (KiB), so that one damaged record cannot take all.
pub const STORED_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// The most passes a stored hash may ask for.
pub const STORED_PASSES_MAX: u32 = 64;

/// A password in plain text.
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password that somebody wants to have: 8 to 128 characters.
    pub fn new(text: String) -> Result<Self, PasswordError> {
        Self::of_length(text, PASSWORD_CHARS_MIN, PASSWORD_CHARS_MAX)
    }

    /// A password that somebody tries to log in with: 1 to 1,024 characters.
    pub fn for_login(text: String) -> Result<Self, PasswordError> {
        Self::of_length(text, 1, LOGIN_CHARS_MAX)
    }

    fn of_length(text: String, min: usize, max: usize) -> Result<Self, PasswordError> {
        let password = Self(Zeroizing::new(text));
        // Counting stops one past the limit, so a huge text costs no more than a long one.
        match password.0.chars().take(max + 1).count() {
            count if count < min => Err(PasswordError::TooShort { min }),
            count if count > max => Err(PasswordError::TooLong { max }),
            _ => Ok(password),
        }
    }

    /// The password in clear.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password([redacted])")
    }
}

/// Why a text is not accepted as a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordError {
    /// Fewer characters than allowed.
    #[error("the password must have at least {min} characters")]
    TooShort {
        /// The limit.
        min: usize,
    },
    /// More characters than allowed.
    #[error("the password must have at most {max} characters")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// Among the first that are tried.
    #[error("this password is too common, or too easy to guess; choose a longer or rarer one")]
    Common,
    /// Made of the user's own name, address or company.
    #[error("this password is made of words about you, which are tried first; choose another")]
    Personal,
}

impl PasswordError {
    /// The stable code for answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "password_too_short",
            Self::TooLong { .. } => "password_too_long",
            Self::Common => "password_too_common",
            Self::Personal => "password_too_personal",
        }
    }
}

/// A stored password: the text of its hash, a PHC string or, until its owner logs in, another that
/// [`password_import`] reads. It serialises as that string, and never prints.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for PasswordHash {
    fn from(phc: String) -> Self {
        Self(phc)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PasswordHash([redacted])")
    }
}

/// What a hash costs. The default is the OWASP recommendation for argon2id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PasswordPolicy {
    /// Memory (KiB).
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes; all are computed on one thread here.
    pub lanes: u32,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

/// Memory (KiB) and passes of the settings that OWASP holds to be equally strong.
const OWASP_SETTINGS: [(u32, u32); 5] =
    [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];

impl PasswordPolicy {
    /// Whether this is one of OWASP's settings or more: what a server checks when it starts.
    pub fn is_owasp_or_stronger(&self) -> bool {
        let reaches = |&(memory, passes)| self.memory_kib >= memory && self.passes >= passes;
        self.lanes >= 1 && OWASP_SETTINGS.iter().any(reaches)
    }

    fn params(&self) -> Result<Params, HashError> {
        if self.memory_kib > STORED_MEMORY_KIB_MAX || self.passes > STORED_PASSES_MAX {
            return Err(HashError::Policy);
        }
        Params::new(self.memory_kib, self.passes, self.lanes, None).map_err(|_| HashError::Policy)
    }
}

/// What comparing a password with a stored hash showed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The password is right.
    Match,
    /// The password is right; its hash was made under another policy and should be made anew.
    MatchNeedsRehash,
    /// The password is wrong, or there is nobody it could belong to.
    NoMatch,
}

/// Why there is no hash or no verdict.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// [`HASH_QUEUE_MAX`] passwords are already waiting: try again later.
    #[error("too many passwords are waiting to be hashed")]
    Busy,
    /// The policy's numbers are outside of what argon2 or this server allows.
    #[error("the password policy is out of range")]
    Policy,
    /// The stored hash cannot be read, or asks for more than this server spends on one.
    #[error("the stored password hash is damaged")]
    Stored,
    /// The computation failed: no memory, no random numbers, or a crash of the worker.
    #[error("the password hash could not be computed")]
    Failed,
    /// The pool's threads could not be started.
    #[error("the password threads could not be started")]
    Threads(#[source] io::Error),
}

impl HashError {
    /// The stable code for answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Policy => "password_policy_invalid",
            Self::Stored => "password_hash_damaged",
            Self::Failed => "password_hash_failed",
            Self::Threads(_) => "password_threads_failed",
        }
    }
}

impl From<password_hash::Error> for HashError {
    fn from(_: password_hash::Error) -> Self {
        Self::Failed
    }
}

/// The pool. Clones share it; its threads end when the last clone is dropped.
#[derive(Clone)]
pub struct Hasher {
    jobs: SyncSender<Job>,
}

impl Hasher {
    /// Starts a thread for each core but one, which is left to everything else even while a storm
    /// of logins lasts, with a queue of [`HASH_QUEUE_MAX`].
    pub fn start(policy: PasswordPolicy) -> Result<Self, HashError> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::start_with(policy, cores - 1, HASH_QUEUE_MAX)
    }

    /// Starts `threads` threads (at least one) behind a queue of `queue_max` jobs.
    pub fn start_with(
        policy: PasswordPolicy,
        threads: usize,
        queue_max: usize,
    ) -> Result<Self, HashError> {
        let worker = Arc::new(Worker::new(policy)?);
        let (jobs, waiting) = sync_channel(queue_max);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..threads.max(1) {
            let (worker, waiting) = (Arc::clone(&worker), Arc::clone(&waiting));
            thread::Builder::new()
                .name(format!("password-{number}"))
                .spawn(move || {
                    // Refused where threads may not be told apart; then hashes are as urgent as
                    // everything else.
                    let _ = rustix::process::nice(NICENESS);
                    worker.run(&waiting);
                })
                .map_err(HashError::Threads)?;
        }
        Ok(Self { jobs })
    }

    /// The hash of a password, with a fresh salt.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, HashError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Hash { password, reply })?;
        answer.await.map_err(|_| HashError::Failed)?
    }

    /// Whether `password` is the one that `stored` was made from. `None` stands for a user that
    /// does not exist: it costs the same and is always [`Verdict::NoMatch`].
    pub async fn verify(
        &self,
        password: Password,
        stored: Option<PasswordHash>,
    ) -> Result<Verdict, HashError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Verify { password, stored, reply })?;
        answer.await.map_err(|_| HashError::Failed)?
    }

    fn submit(&self, job: Job) -> Result<(), HashError> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => HashError::Busy,
            TrySendError::Disconnected(_) => HashError::Failed,
        })
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hasher").finish_non_exhaustive()
    }
}

enum Job {
    Hash {
        password: Password,
        reply: oneshot::Sender<Result<PasswordHash, HashError>>,
    },
    Verify {
        password: Password,
        stored: Option<PasswordHash>,
        reply: oneshot::Sender<Result<Verdict, HashError>>,
    },
}

struct Worker {
    params: Params,
    argon2: Argon2<'static>,
    /// The hash of a password nobody knows, for users that do not exist.
    dummy: PasswordHash,
}

impl Worker {
    fn new(policy: PasswordPolicy) -> Result<Self, HashError> {
        let params = policy.params()?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let mut unknown = Zeroizing::new([0_u8; 32]);
        rand::fill(&mut *unknown).map_err(|_| HashError::Failed)?;
        let unknown = Password(Zeroizing::new(HEXLOWER.encode(&*unknown)));
        let dummy = PasswordHash(argon2.hash_password(unknown.bytes())?.to_string());
        Ok(Self { params, argon2, dummy })
    }

    fn run(&self, waiting: &Mutex<Receiver<Job>>) {
        let mut memory = Vec::new();
        loop {
            // The lock is released before the job runs: only the waiting takes turns.
            let job = match waiting.lock().recv_timeout(MEMORY_KEPT) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    memory = Vec::new();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if catch_unwind(AssertUnwindSafe(|| self.work(job, &mut memory))).is_err() {
                tracing::error!("A password thread crashed in a job; it goes on with the next.");
            }
            if memory.len() > self.params.block_count() {
                memory = Vec::new();
            }
        }
    }

    /// A job whose asker has gone is dropped: nothing is computed for clients that gave up. An
    /// asker that goes while the job runs is no failure either, so the sends may fail.
    fn work(&self, job: Job, memory: &mut Vec<Block>) {
        match job {
            Job::Hash { password, reply } if !reply.is_closed() => {
                let _gone = reply.send(self.hash(&password, memory));
            }
            Job::Verify { password, stored, reply } if !reply.is_closed() => {
                let _gone = reply.send(self.verify(&password, stored.as_ref(), memory));
            }
            Job::Hash { .. } | Job::Verify { .. } => {}
        }
    }

    fn hash(
        &self,
        password: &Password,
        memory: &mut Vec<Block>,
    ) -> Result<PasswordHash, HashError> {
        let mut salt = [0; phc::Salt::RECOMMENDED_LENGTH];
        rand::fill(&mut salt).map_err(|_| HashError::Failed)?;
        let salt = phc::Salt::new(&salt).map_err(|_| HashError::Failed)?;
        let hash = compute(&self.argon2, password, &salt, memory)?;
        let params = ParamsString::try_from(&self.params).map_err(|_| HashError::Failed)?;
        let hash = phc::PasswordHash {
            algorithm: ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params,
            salt: Some(salt),
            hash: Some(hash),
        };
        Ok(PasswordHash(hash.to_string()))
    }

    fn verify(
        &self,
        password: &Password,
        stored: Option<&PasswordHash>,
        memory: &mut Vec<Block>,
    ) -> Result<Verdict, HashError> {
        if let Some(stored) = stored.filter(|stored| !password_import::is_argon2(stored.as_str())) {
            let is_right = password_import::verify(password.expose(), stored.as_str());
            return match is_right.map_err(|_| HashError::Stored)? {
                true => Ok(Verdict::MatchNeedsRehash),
                false => Ok(Verdict::NoMatch),
            };
        }
        let parsed = phc::PasswordHash::new(stored.unwrap_or(&self.dummy).as_str())
            .map_err(|_| HashError::Stored)?;
        let params = Params::try_from(&parsed).map_err(|_| HashError::Stored)?;
        let (Some(salt), Some(expected)) = (parsed.salt, parsed.hash) else {
            return Err(HashError::Stored);
        };
        if params.m_cost() > STORED_MEMORY_KIB_MAX || params.t_cost() > STORED_PASSES_MAX {
            return Err(HashError::Stored);
        }
        let algorithm = Algorithm::try_from(parsed.algorithm.as_str());
        let version = parsed.version.map_or(Ok(Version::default()), Version::try_from);
        let (Ok(algorithm), Ok(version)) = (algorithm, version) else {
            return Err(HashError::Stored);
        };
        let is_present = self.is_present(&parsed, &params);
        let argon2 = Argon2::new(algorithm, version, params);
        // Compared in constant time by the library's type.
        match compute(&argon2, password, &salt, memory)? == expected {
            true if stored.is_none() => Ok(Verdict::NoMatch),
            true if is_present => Ok(Verdict::Match),
            true => Ok(Verdict::MatchNeedsRehash),
            false => Ok(Verdict::NoMatch),
        }
    }

    fn is_present(&self, parsed: &phc::PasswordHash, params: &Params) -> bool {
        parsed.algorithm == ARGON2ID_IDENT
            && parsed.version == Some(Version::V0x13.into())
            && params.m_cost() == self.params.m_cost()
            && params.t_cost() == self.params.t_cost()
            && params.p_cost() == self.params.p_cost()
    }
}

/// The hash itself. `memory` grows to what it takes.
fn compute(
    argon2: &Argon2<'_>,
    password: &Password,
    salt: &phc::Salt,
    memory: &mut Vec<Block>,
) -> Result<phc::Output, HashError> {
    let blocks = argon2.params().block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let mut output = [0; phc::Output::MAX_LENGTH];
    let length = argon2.params().output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let output = output.get_mut(..length).ok_or(HashError::Stored)?;
    let memory = &mut memory[..blocks];
    let filled = argon2.hash_password_into_with_memory(password.bytes(), salt, output, memory);
    filled.map_err(|_| HashError::Stored)?;
    phc::Output::new(output).map_err(|_| HashError::Stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: PasswordPolicy = PasswordPolicy { memory_kib: 8, passes: 1, lanes: 1 };

    fn password(text: &str) -> Password {
        Password::for_login(text.to_owned()).unwrap()
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        let of = |count| Password::new("ä".repeat(count)).map(|_| ());
        assert_eq!(of(7), Err(PasswordError::TooShort { min: 8 }));
        assert_eq!(of(8), Ok(()));
        assert_eq!(of(128), Ok(()));
        assert_eq!(of(129), Err(PasswordError::TooLong { max: 128 }));
        let login = |count| Password::for_login("ä".repeat(count)).map(|_| ());
        assert_eq!(login(0), Err(PasswordError::TooShort { min: 1 }));
        assert_eq!(login(1), Ok(()));
        assert_eq!(login(1024), Ok(()));
        assert_eq!(login(1025), Err(PasswordError::TooLong { max: 1024 }));
    }

    #[tokio::test]
    async fn a_hash_matches_its_password_only_and_nothing_prints() {
        let hasher = Hasher::start_with(CHEAP, 2, 8).unwrap();
        let stored = hasher.hash(password("correct horse")).await.unwrap();
        assert!(stored.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        let again = hasher.hash(password("correct horse")).await.unwrap();
        assert_ne!(stored, again, "each hash has its own salt");
        let right = hasher.verify(password("correct horse"), Some(stored.clone())).await;
        assert_eq!(right.unwrap(), Verdict::Match);
        let wrong = hasher.verify(password("correct horsf"), Some(stored.clone())).await;
        assert_eq!(wrong.unwrap(), Verdict::NoMatch);
        let printed = format!("{:?} {stored:?}", password("correct horse"));
        assert!(!printed.contains("horse") && !printed.contains("argon2id"));
    }

    #[tokio::test]
    async fn another_policy_asks_for_a_new_hash() {
        let stronger = PasswordPolicy { memory_kib: 16, ..CHEAP };
        let old = Hasher::start_with(CHEAP, 1, 8).unwrap();
        let new = Hasher::start_with(stronger, 1, 8).unwrap();
        let stored = old.hash(password("correct horse")).await.unwrap();
        let verdict = new.verify(password("correct horse"), Some(stored.clone())).await.unwrap();
        assert_eq!(verdict, Verdict::MatchNeedsRehash);
        let verdict = new.verify(password("wrong horse"), Some(stored)).await.unwrap();
        assert_eq!(verdict, Verdict::NoMatch);
        let argon2i = Argon2::new(Algorithm::Argon2i, Version::V0x13, stronger.params().unwrap());
        let other = argon2i.hash_password(b"correct horse").unwrap().to_string();
        let verdict = new.verify(password("correct horse"), Some(other.into())).await.unwrap();
        assert_eq!(verdict, Verdict::MatchNeedsRehash);
    }

    #[tokio::test]
    async fn damaged_or_ruinous_hashes_are_refused() {
        let hasher = Hasher::start_with(CHEAP, 1, 8).unwrap();
        for stored in [
            "",
            "plain text",
            "$argon2id$v=19$m=8,t=1,p=1",
            "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHRzYWx0$c29tZWhhc2hzb21laGFzaA",
            "$argon2id$v=19$m=8,t=4000000,p=1$c29tZXNhbHRzYWx0$c29tZWhhc2hzb21laGFzaA",
            "$scrypt$v=19$m=8,t=1,p=1$c29tZXNhbHRzYWx0$c29tZWhhc2hzb21laGFzaA",
        ] {
            let verdict = hasher.verify(password("x"), Some(stored.to_owned().into())).await;
            assert!(matches!(verdict, Err(HashError::Stored)), "{stored}: {verdict:?}");
        }
    }

    /// The published test vector of RFC 9106, section 5.3, has a secret and associated data, which
    /// are not used here; this one is the reference implementation's for the same parameters.
    #[tokio::test]
    async fn the_reference_implementation_agrees() {
        let hasher = Hasher::start_with(CHEAP, 1, 8).unwrap();
        let stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ\
                      $CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let verdict = hasher.verify(password("password"), Some(stored.to_owned().into())).await;
        assert_eq!(verdict.unwrap(), Verdict::MatchNeedsRehash);
    }

    #[tokio::test]
    async fn an_unknown_user_is_verified_against_a_hash_of_the_same_cost() {
        let worker = Worker::new(PasswordPolicy::default()).unwrap();
        let parsed = phc::PasswordHash::new(worker.dummy.as_str()).unwrap();
        assert!(worker.is_present(&parsed, &Params::try_from(&parsed).unwrap()));
        let hasher = Hasher::start_with(CHEAP, 1, 8).unwrap();
        assert_eq!(hasher.verify(password("x"), None).await.unwrap(), Verdict::NoMatch);
    }

    #[test]
    fn a_full_queue_refuses_and_abandoned_jobs_are_skipped() {
        let (jobs, waiting) = sync_channel(2);
        let hasher = Hasher { jobs };
        let worker = Arc::new(Worker::new(CHEAP).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut abandoned = Box::pin(hasher.hash(password("gives up")));
            assert!(futures::poll!(abandoned.as_mut()).is_pending());
            let mut kept = Box::pin(hasher.verify(password("waits"), None));
            assert!(futures::poll!(kept.as_mut()).is_pending());
            let refused = hasher.hash(password("one too many")).await;
            assert!(matches!(refused, Err(HashError::Busy)));
            drop(abandoned);
            let waiting = Arc::new(Mutex::new(waiting));
            let thread = thread::spawn(move || worker.run(&waiting));
            assert_eq!(kept.await.unwrap(), Verdict::NoMatch);
            drop(hasher);
            thread.join().unwrap();
        });
    }

    #[test]
    fn policies_are_compared_with_the_recommendation() {
        let policy = |memory_kib, passes| PasswordPolicy { memory_kib, passes, lanes: 1 };
        assert!(PasswordPolicy::default().is_owasp_or_stronger());
        assert!(policy(65_536, 3).is_owasp_or_stronger());
        assert!(policy(7_168, 5).is_owasp_or_stronger());
        assert!(!policy(19_456, 1).is_owasp_or_stronger());
        assert!(!CHEAP.is_owasp_or_stronger());
        assert!(matches!(Hasher::start(policy(1, 0)), Err(HashError::Policy)));
        assert!(matches!(Hasher::start(policy(u32::MAX, 1)), Err(HashError::Policy)));
    }
}
