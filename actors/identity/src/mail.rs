//! Mail that must go out: one entity a mail, pending until a mailer took it, or given up with a
//! record of why.
//!
//! Invariants
//! - What was answered by [`send`] is sent or given up, whatever crashes in between: at least once,
//!   each time with the same `Message-ID`, so that a repetition can be told from a second mail.
//! - The same id is the same mail: asking again sends nothing again.
//! - No secret is kept: a letter holds the id of a link, from which the link is made anew
//!   ([`crate::mail_link`]). The recipient's address is sealed under a user's key.
//! - One attempt at a time, each within [`ATTEMPT_MS_MAX`]; a mail is given up [`GIVE_UP_MS`] after
//!   it was asked for, or after [`REFUSED_ATTEMPTS_MAX`] attempts that the server refused for good.
//!
//! Deliberate limits
//! - What is for or from somebody who is frozen is not sent: it waits as if no mailer took it.
//! - That a mail was taken says nothing about its being read, or about a bounce that comes later.
//! - A reason holds no words of the mail server: they may name the recipient.

mod cancel;

pub use cancel::Recipients;
pub(crate) use cancel::cancel;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Command, EffectContext, Entity, Handle, Origin, Refusal, Retried, Retry,
    Retrying, System, Timestamp, Turn,
};
use types::{Personal, TenantId, UserId, base32, home_of, owner_of_user, rfc3339};
use zeroize::Zeroizing;

use crate::claim::EmailAddress;
use crate::frozen::Frozen;
use crate::mail_link::LinkKey;
use crate::{mail_text, notice_mail};

/// When a mail that was not taken is given up, in milliseconds after it was asked for: as long as
/// the links in most mails hold.
pub const GIVE_UP_MS: i64 = 24 * 60 * 60 * 1_000;
/// After how many attempts a mail is given up that the server refuses for good: 20 minutes, time
/// enough to put a wrong setting right.
pub const REFUSED_ATTEMPTS_MAX: u32 = 8;
/// The waits between two attempts.
pub const BACKOFF: Backoff = Backoff { first_ms: 5_000, max_ms: 60 * 60 * 1_000 };
/// How long one attempt may take, with its turn among the others, in milliseconds.
pub const ATTEMPT_MS_MAX: i64 = 90_000;
/// How long after that its outcome may still be noted before it is tried again, in milliseconds.
const NOTE_MS_MAX: i64 = 30_000;
/// When an attempt is taken for lost, however many there were.
const LOST: Backoff =
    Backoff { first_ms: ATTEMPT_MS_MAX + NOTE_MS_MAX, max_ms: ATTEMPT_MS_MAX + NOTE_MS_MAX };
/// The longest reason that is kept, in characters.
const REASON_CHARS_MAX: usize = 200;
const TO: &str = "mail.to";
/// The code of another mail under the same id.
pub(crate) const ID_REUSED: &str = "id_reused";

/// What a mail says. Stored: a kind of letter keeps its place and its fields for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Letter {
    /// Show that this address is yours.
    VerifyEmail {
        /// The link, a [`crate::mail_link::MailLink`].
        link: u128,
    },
    /// Choose another password.
    ResetPassword {
        /// The link, a [`crate::mail_link::MailLink`].
        link: u128,
    },
    /// Somebody signed up with an address that has an account.
    AlreadyRegistered {},
    /// The password was changed.
    PasswordChanged {},
    /// Join a tenant.
    Invitation {
        /// The invitation, which the link is made of.
        invitation: u128,
        /// What the tenant is called.
        tenant_name: String,
        /// As what one would join.
        role: String,
    },
    /// Somebody who knows the password asks for the end of the second factors.
    FactorRemovalAsked {},
    /// Somebody else removed all second factors.
    SecondFactorsRemoved {},
    /// A tenant's administrator made an account for this address: choose a password.
    AccountMade {
        /// The link, a [`crate::mail_link::MailLink`].
        link: u128,
        /// What the tenant is called.
        tenant_name: String,
        /// As what one belongs to it.
        role: String,
    },
    /// An app tells something.
    Notice {
        /// Which app; empty when none does.
        app: String,
        /// What it says.
        words: Personal,
    },
}

impl Letter {
    /// The name in figures and in the console.
    pub fn name(&self) -> &'static str {
        match self {
            Self::VerifyEmail { .. } => "verify_email",
            Self::ResetPassword { .. } => "reset_password",
            Self::AlreadyRegistered {} => "already_registered",
            Self::PasswordChanged {} => "password_changed",
            Self::Invitation { .. } => "invitation",
            Self::FactorRemovalAsked {} => "factor_removal_asked",
            Self::SecondFactorsRemoved {} => "second_factors_removed",
            Self::AccountMade { .. } => "account_made",
            Self::Notice { .. } => "notice",
        }
    }
}

/// A mail to be sent.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The mail's id. The same id again is the same mail.
    pub id: u128,
    /// Under whose key the address is sealed, and in whose shard the mail stands: the recipient if
    /// they are a user, else who asks for it.
    pub user: UserId,
    /// In whose chain it stands.
    pub home: TenantId,
    /// To whom.
    pub to: EmailAddress,
    /// What it says.
    pub letter: Letter,
}

/// Asks for a mail. Once this is answered, the mail is sent or given up with a record.
pub async fn send(system: &System, draft: Draft, origin: Origin) -> Result<(), Refusal> {
    let address = Mail::address(draft.id, draft.user, draft.home);
    system.directory::<Mail>().ask(&address, Queue(draft), origin).await
}

/// A text on its way out. It holds links: no `Debug`.
pub struct Message {
    /// The mail's id, which its `Message-ID` is made of.
    pub id: u128,
    /// To whom.
    pub to: EmailAddress,
    /// One line.
    pub subject: String,
    /// Plain text.
    pub body: Zeroizing<String>,
    /// The link in it.
    pub link: Option<Zeroizing<String>>,
    /// When it was asked for.
    pub at: Timestamp,
}

/// Why a mailer did not take a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct MailFailure {
    /// What happened, for operators: without addresses, and without the server's own words.
    pub reason: String,
    /// The server took it and said that it never will.
    pub is_refusal: bool,
}

/// What takes messages to the outside.
pub trait Mailer: Send + Sync + 'static {
    /// Delivers one message, which may be a repetition. Bounded in time by itself; it is given up
    /// on after [`ATTEMPT_MS_MAX`].
    fn deliver(&self, message: Message) -> BoxFuture<'_, Result<(), MailFailure>>;

    /// What it is, for operators: without its password.
    fn name(&self) -> String;

    /// Deletes what it keeps of messages to these recipients, and answers how many there were. A
    /// mailer that hands over and keeps nothing has nothing to do.
    fn forget(&self, _recipients: Recipients) -> BoxFuture<'_, Result<usize, MailFailure>> {
        Box::pin(std::future::ready(Ok(0)))
    }
}

/// How sending goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostFigures {
    /// Mails that were taken, since the start.
    pub sent: u64,
    /// Attempts that failed, since the start.
    pub failed: u64,
    /// Mails that were given up, since the start.
    pub given_up: u64,
    /// Mails that wait to be taken.
    pub waiting: usize,
    /// Since when every attempt failed, and the latest reason; `None` while mails are taken.
    pub failing: Option<(Timestamp, String)>,
}

#[derive(Default)]
struct Post {
    figures: PostFigures,
    waiting: HashSet<u128>,
}

/// Where mails leave: the mailer, and what links begin with. A port.
pub struct PostOffice {
    mailer: Arc<dyn Mailer>,
    public_url: String,
    post: Mutex<Post>,
}

impl PostOffice {
    /// Sends by `mailer`; links begin with `public_url`, which has no slash at its end.
    pub fn new(mailer: Arc<dyn Mailer>, public_url: &str) -> Arc<Self> {
        let public_url = public_url.trim_end_matches('/').to_owned();
        Arc::new(Self { mailer, public_url, post: Mutex::default() })
    }

    /// What links begin with.
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// What the mailer is.
    pub fn mailer_name(&self) -> String {
        self.mailer.name()
    }

    /// How sending goes.
    pub fn figures(&self) -> PostFigures {
        let post = self.post.lock();
        PostFigures { waiting: post.waiting.len(), ..post.figures.clone() }
    }

    fn waits(&self, id: u128) {
        self.post.lock().waiting.insert(id);
    }

    fn sent(&self, id: u128) {
        let mut post = self.post.lock();
        post.waiting.remove(&id);
        post.figures.sent += 1;
        if post.figures.failing.take().is_some() {
            tracing::info!(mailer = %self.mailer.name(), "mail is taken again");
        }
    }

    fn failed(&self, reason: &str, now: Timestamp) {
        let mut post = self.post.lock();
        post.figures.failed += 1;
        let since = post.figures.failing.as_ref().map_or(now, |(since, _)| *since);
        post.figures.failing = Some((since, reason.to_owned()));
    }

    fn gave_up(&self, id: u128) {
        let mut post = self.post.lock();
        post.waiting.remove(&id);
        post.figures.given_up += 1;
    }
}

/// A mail.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mail {
    queued: Option<Queued>,
    retry: Retry,
    standing: Standing,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Unknown,
    /// An attempt is under way; tried again if nothing is heard of it.
    Trying,
    /// The next attempt comes later.
    Waiting {
        reason: String,
    },
    Sent,
    GivenUp {
        reason: String,
    },
}

/// It is to be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queued {
    /// The id.
    pub id: u128,
    /// To whom.
    pub to: Personal,
    /// What it says.
    pub letter: Letter,
}

/// It was not taken, and is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deferred {
    /// Why.
    pub reason: String,
    /// When it is tried again.
    pub until: Timestamp,
}

/// A mailer took it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {}

/// It is tried no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenUp {
    /// Why.
    pub reason: String,
}

supervision::events! {
    /// What happens to a mail.
    pub enum MailEvent {
        /// To be sent.
        Queued(Queued) = "queued", 1;
        /// Not taken.
        Deferred(Deferred) = "deferred", 1;
        /// Tried again.
        Retried(Retried) = "retried", 1;
        /// Taken.
        Sent(Sent) = "sent", 1;
        /// Not to be sent any more.
        GivenUp(GivenUp) = "given_up", 1;
    }
}

/// What a mail asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailEffect {
    /// An attempt to send it.
    Send {
        /// Which one, from 1.
        attempt: u32,
    },
    /// To be counted among those that wait.
    Count,
}

impl Mail {
    /// Where a mail lives.
    pub fn address(id: u128, user: UserId, home: TenantId) -> Address<Self> {
        crate::address(&base32(id), owner_of_user(user), home_of(home))
    }

    fn after_failure(&self, failure: &MailFailure, now: Timestamp) -> MailEvent {
        let reason: String = failure.reason.chars().take(REASON_CHARS_MAX).collect();
        let attempts = self.retry.attempts();
        let is_refused = failure.is_refusal && attempts >= REFUSED_ATTEMPTS_MAX;
        let until = now.plus_ms(BACKOFF.pause_ms(attempts));
        match is_refused || self.retry.since().plus_ms(GIVE_UP_MS) <= until {
            true => MailEvent::GivenUp(GivenUp { reason }),
            false => MailEvent::Deferred(Deferred { reason, until }),
        }
    }
}

impl Entity for Mail {
    const KIND: &'static str = "mail";
    const SNAPSHOT_VERSION: u16 = 2;
    const IDLE: Duration = Duration::from_secs(3);
    type Event = MailEvent;
    type Effect = MailEffect;

    fn apply(&mut self, event: &MailEvent, at: Timestamp) {
        self.standing = match event {
            MailEvent::Queued(queued) => {
                (self.queued, self.retry) = (Some(queued.clone()), Retry::begin(at, LOST));
                Standing::Trying
            }
            MailEvent::Retried(_) => {
                self.retry.again(at, LOST);
                Standing::Trying
            }
            MailEvent::Deferred(it) => {
                self.retry.wait_until(it.until);
                Standing::Waiting { reason: it.reason.clone() }
            }
            MailEvent::Sent(_) => Standing::Sent,
            MailEvent::GivenUp(it) => Standing::GivenUp { reason: it.reason.clone() },
        };
    }

    fn is_pending(&self) -> bool {
        matches!(self.standing, Standing::Trying | Standing::Waiting { .. })
    }

    fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Sent | Standing::GivenUp { .. })
    }

    fn resume(&self) -> Vec<MailEffect> {
        match self.standing {
            Standing::Trying => vec![MailEffect::Send { attempt: self.retry.attempts() }],
            Standing::Waiting { .. } => vec![MailEffect::Count],
            _ => Vec::new(),
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: MailEffect, context: EffectContext<Self>) {
        match effect {
            MailEffect::Send { attempt } => attempt_to_send(attempt, context).await,
            MailEffect::Count => count(&context).await,
        }
    }

    fn observe(&self) -> serde_json::Value {
        let (standing, reason) = match &self.standing {
            Standing::Unknown => return json!({"exists": false}),
            Standing::Trying => ("trying", None),
            Standing::Waiting { reason } => ("waiting", Some(reason)),
            Standing::Sent => ("sent", None),
            Standing::GivenUp { reason } => ("given_up", Some(reason)),
        };
        json!({
            "letter": self.queued.as_ref().map(|queued| queued.letter.name()),
            "queued_at": rfc3339(self.retry.since()), "attempts": self.retry.attempts(),
            "standing": standing, "until": self.retry_at().map(rfc3339), "reason": reason,
        })
    }
}

impl Retrying for Mail {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> MailEvent {
        MailEvent::Retried(Retried {})
    }
}

async fn count(context: &EffectContext<Mail>) {
    let EffectContext { system, address, origin, .. } = context;
    let id = |mail: &Mail| mail.queued.as_ref().map(|queued| queued.id);
    if let Ok(Some(id)) = system.directory::<Mail>().look(address, origin.clone(), id).await {
        system.port::<PostOffice>().waits(id);
    }
}

/// One attempt. What became of it is noted; if that fails, the reminder tries again.
async fn attempt_to_send(attempt: u32, context: EffectContext<Mail>) {
    let EffectContext { system, address, origin, .. } = context;
    let mails = system.directory::<Mail>();
    let look = move |mail: &Mail| {
        let is_this = mail.retry.attempts() == attempt && mail.is_pending();
        mail.queued.clone().filter(|_| is_this).map(|queued| (queued, mail.retry.since()))
    };
    let Ok(Some((queued, at))) = mails.look(&address, origin.clone(), look).await else { return };
    let (office, id, to) = (system.port::<PostOffice>(), queued.id, queued.to.clone());
    office.waits(id);
    // A home with a time of its own is a sandbox, and writes to nobody.
    let is_real = system.own_time(address.place().home).is_none();
    let message = is_real.then(|| message(&system, &office, queued, at)).flatten();
    let outcome = match message {
        _ if is_frozen(&system, &address) => {
            let reason = "its tenant or recipient is frozen".to_owned();
            Outcome::Failed(MailFailure { reason, is_refusal: false })
        }
        None => Outcome::Undeliverable,
        Some(message) => {
            let recipient = message.to.clone();
            let limit = Duration::from_millis(ATTEMPT_MS_MAX as u64);
            let delivered = tokio::time::timeout(limit, office.mailer.deliver(message)).await;
            let too_long = || MailFailure {
                reason: format!("nothing was heard within {} s", limit.as_secs()),
                is_refusal: false,
            };
            if to.open(system.journal().keys(), TO).is_none() {
                // Erased while this was under way: nothing of it is kept.
                let _ = office.forget(Arc::new(move |it| *it == recipient)).await;
            }
            match delivered.unwrap_or_else(|_| Err(too_long())) {
                Ok(()) => Outcome::Sent,
                Err(failure) => Outcome::Failed(failure),
            }
        }
    };
    let noted = mails.ask(&address, Note { attempt, outcome: outcome.clone() }, origin).await;
    let is_over = match noted {
        Ok(is_over) => is_over,
        Err(refusal) => {
            tracing::debug!(%refusal, "the outcome of a mail is not noted; it is tried again");
            return;
        }
    };
    let (mailer, mail) = (office.mailer.name(), base32(id));
    match outcome {
        Outcome::Sent => office.sent(id),
        Outcome::Undeliverable => office.gave_up(id),
        Outcome::Failed(_) if !is_over && is_frozen(&system, &address) => {}
        Outcome::Failed(failure) => {
            office.failed(&failure.reason, system.clock().now());
            if is_over {
                office.gave_up(id);
                tracing::error!(%mailer, %mail, attempt, reason = %failure, "a mail was given up");
            } else {
                let reason = &failure.reason;
                tracing::warn!(%mailer, %mail, attempt, %reason, "a mail waits to be taken");
            }
        }
    }
}

/// Whether the tenant in whose chain a mail stands, or the user in whose shard, is frozen.
fn is_frozen(system: &System, address: &Address<Mail>) -> bool {
    let (home, owner) = (address.place().home, address.place().owner);
    let frozen = system.port::<Frozen>();
    frozen.check(TenantId(home.0), Some(UserId(owner.id))).is_err()
}

/// The text of a mail; `None` when its recipient was erased.
fn message(system: &System, office: &PostOffice, queued: Queued, at: Timestamp) -> Option<Message> {
    let to = queued.to.open(system.journal().keys(), TO)?;
    let to = EmailAddress::new(&to).ok()?;
    let keys = system.port::<LinkKey>();
    let text = match &queued.letter {
        Letter::Notice { app, words } => notice_mail::read(system, office, app, words)?,
        letter => mail_text::text(letter, &office.public_url, &keys),
    };
    let mail_text::Text { subject, body, link } = text;
    Some(Message { id: queued.id, to, subject, body, link, at })
}

/// Asks for it to be sent. A repetition is no change.
struct Queue(Draft);

impl Command for Queue {
    const NAME: &'static str = "queue";
}

impl Handle<Queue> for Mail {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Queue(draft): Queue) -> Result<(), Refusal> {
        if let Some(queued) = &turn.state().queued {
            let known = queued.to.open(turn.keys(), TO);
            let is_same =
                queued.letter == draft.letter && known.as_deref() == Some(draft.to.as_str());
            let message = "this mail is another one; use a new key";
            return is_same.then_some(()).ok_or_else(|| Refusal::conflict(ID_REUSED, message));
        }
        let Draft { id, user, to, letter, .. } = draft;
        let to = Personal::seal(turn.keys(), user, TO, to.as_str())?;
        turn.record(MailEvent::Queued(Queued { id, to, letter }));
        turn.effect(MailEffect::Send { attempt: 1 });
        Ok(())
    }
}

#[derive(Clone)]
enum Outcome {
    Sent,
    Failed(MailFailure),
    /// There is nobody to send it to any more.
    Undeliverable,
}

/// Notes what became of an attempt. Answers whether the mail is over.
struct Note {
    attempt: u32,
    outcome: Outcome,
}

impl Command for Note {
    const NAME: &'static str = "note";
}

impl Handle<Note> for Mail {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: Note) -> Result<bool, Refusal> {
        let Note { attempt, outcome } = command;
        if !turn.state().is_pending() {
            return Ok(true);
        }
        match outcome {
            Outcome::Sent => turn.record(MailEvent::Sent(Sent {})),
            Outcome::Undeliverable => {
                let reason = "its recipient was erased".to_owned();
                turn.record(MailEvent::GivenUp(GivenUp { reason }));
            }
            // An attempt that was given up on says nothing about the present one.
            Outcome::Failed(_) if attempt != turn.state().retry.attempts() => {}
            Outcome::Failed(failure) => {
                let event = turn.state().after_failure(&failure, turn.now());
                turn.record(event);
            }
        }
        Ok(!turn.state().is_pending())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn queued() -> Given<Mail> {
        let draft = Draft {
            id: 7,
            user: UserId(1),
            home: TenantId(1),
            to: EmailAddress::new("ada@example.test").unwrap(),
            letter: Letter::AlreadyRegistered {},
        };
        let then = Given::nothing().when(Queue(draft.clone()));
        assert_eq!(then.effects, [MailEffect::Send { attempt: 1 }]);
        let again = then.given.when(Queue(draft));
        assert!(again.events.is_empty() && again.effects.is_empty(), "the same mail once");
        again.given
    }

    fn failure(is_refusal: bool) -> Outcome {
        Outcome::Failed(MailFailure { reason: "connection refused".to_owned(), is_refusal })
    }

    fn waits_ms(given: &Given<Mail>) -> i64 {
        given.state().next_deadline().unwrap().0 - given.now().0
    }

    #[test]
    fn what_is_not_taken_waits_longer_each_time_and_is_given_up_with_its_reason() {
        let (mut given, mut waited) = (queued(), Vec::new());
        loop {
            let attempt = given.state().retry.attempts();
            let (is_over, after) = given.when(Note { attempt, outcome: failure(false) }).reply();
            if is_over {
                given = after;
                break;
            }
            assert_eq!(after.state().resume(), [MailEffect::Count]);
            waited.push(waits_ms(&after));
            let then = after.later_ms(*waited.last().unwrap()).when_due();
            assert_eq!(then.effects, [MailEffect::Send { attempt: attempt + 1 }]);
            given = then.given;
        }
        assert_eq!(waited[..3], [5_000, 10_000, 20_000]);
        assert_eq!(*waited.last().unwrap(), BACKOFF.max_ms);
        assert!(waited.iter().sum::<i64>() < GIVE_UP_MS && waited.len() < 40, "{waited:?}");
        let view = given.state().observe();
        assert_eq!(
            (&view["standing"], &view["reason"]),
            (&json!("given_up"), &json!("connection refused"),)
        );
        assert_eq!((given.state().next_deadline(), given.state().resume()), (None, vec![]));
    }

    #[test]
    fn what_the_server_refuses_for_good_is_given_up_soon() {
        let mut given = queued();
        for attempt in 1..REFUSED_ATTEMPTS_MAX {
            let (is_over, after) = given.when(Note { attempt, outcome: failure(true) }).reply();
            assert!(!is_over);
            let wait_ms = waits_ms(&after);
            given = after.later_ms(wait_ms).when_due().then();
        }
        let last = Note { attempt: REFUSED_ATTEMPTS_MAX, outcome: failure(true) };
        assert!(given.when(last).reply().0);
    }

    #[test]
    fn an_attempt_that_is_lost_is_made_again_and_its_late_failure_counts_for_nothing() {
        let given = queued();
        assert_eq!(given.state().resume(), [MailEffect::Send { attempt: 1 }]);
        let then = given.later_ms(ATTEMPT_MS_MAX + NOTE_MS_MAX).when_due();
        assert_eq!(then.effects, [MailEffect::Send { attempt: 2 }]);
        let late = then.given.when(Note { attempt: 1, outcome: failure(false) });
        assert!(late.events.is_empty());
        // But that it was taken after all counts.
        let (is_over, given) = late.given.when(Note { attempt: 1, outcome: Outcome::Sent }).reply();
        assert!(is_over && !given.state().is_pending());
        let late = given.when(Note { attempt: 2, outcome: failure(false) });
        assert!(late.events.is_empty());
    }
}
