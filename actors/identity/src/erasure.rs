//! Erasing a person or a tenant, for good: everything that gives access ends, then the key is
//! shredded that their records are sealed under.
//!
//! A process in the platform's chain, where who asked for it, why, what was found and which keys
//! went stay readable: it holds ids and numbers only. First the parting ([`person`],
//! [`organisation`]): logins, keys, memberships, invitations and waiting mails end, one repeatable
//! step after the other. Then the shredding, the last step, which no restart can take back: the
//! keys leave the key file, whoever is live and sealed under one of them leaves memory without a
//! snapshot, and what others remember of the subject is forgotten.
//!
//! Invariants
//! - Who is answered that something is erased, finds no token, session or key of it that is good,
//!   and nothing of it that can be read, in this process and in its folder.
//! - Until the parting is over the keys are there; once it is, nothing but the shredding is left.
//! - Records stay counted and linked: chains over them verify.
//!
//! Deliberate limits
//! - An e-mail address stays known as its keyed hash, as one that was held before: whoever comes
//!   back signs up anew, as somebody else and with another id. Credits to welcome them are given
//!   once an address, so an erasure is no way to get them again.
//! - What a person wrote into another tenant's apps, and a ledger that names them by id, are that
//!   tenant's. What was handed to a mail server, and copies of the key file, are out of reach.
//! - A refusal in the middle (somebody became a needed owner meanwhile) ends the erasure; what had
//!   ended by then stays ended.
//! - All invitations and sign-ups that there ever were are looked through once or twice.

mod farewell;
mod organisation;
mod person;
mod shredding;

pub use farewell::{Farewell, Farewells};

use activity::{ActionItem, ActionStatus, ActionType};
use persistence::KeyId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::address::{TENANT_KEY_CLASS, USER_KEY_CLASS};
use supervision::{
    Address, Command, EffectContext, Entity, Event as _, Handle, Home, Origin, Process, Refusal,
    Timestamp, Turn,
};
use types::{TenantId, UserId, platform, rfc3339};

use crate::service::Identity;
use crate::token_cache::{OwnerClass, OwnerKey};

/// When an erasure that has not ended is tried again, in milliseconds; each time twice as late.
const RETRY_MS: i64 = 5_000;
/// The longest pause between two attempts, in milliseconds.
const RETRY_MS_MAX: i64 = 10 * 60 * 1_000;
/// The longest reason, in characters.
pub const REASON_CHARS_MAX: usize = activity::operator_act::REASON_CHARS_MAX;

/// Who or what is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A person.
    User(UserId),
    /// A tenant.
    Tenant(TenantId),
}

impl Subject {
    /// The key that goes with it.
    pub fn key(self) -> KeyId {
        match self {
            Self::User(user) => KeyId { class: USER_KEY_CLASS, id: user.0 },
            Self::Tenant(tenant) => KeyId { class: TENANT_KEY_CLASS, id: tenant.0 },
        }
    }

    /// `user` or `tenant`.
    pub fn sort(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Tenant(_) => "tenant",
        }
    }

    fn owner(self) -> OwnerKey {
        match self {
            Self::User(user) => OwnerKey { class: OwnerClass::User, id: user.0 },
            Self::Tenant(tenant) => OwnerKey { class: OwnerClass::Tenant, id: tenant.0 },
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(user) => user.fmt(formatter),
            Self::Tenant(tenant) => tenant.fmt(formatter),
        }
    }
}

/// An erasure.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Erasure {
    begun: Option<Begun>,
    begun_at: Timestamp,
    found: Option<Found>,
    is_parted: bool,
    retry_at: Timestamp,
    retries: u32,
    ended: Option<Ended>,
    ended_at: Timestamp,
}

/// It began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Who or what is erased.
    pub subject: Subject,
    /// Who asked for it, as records name callers.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What there was to end, as it was counted before anything ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Open sessions.
    pub sessions: u64,
    /// API keys.
    pub api_keys: u64,
    /// Second factors.
    pub second_factors: u64,
    /// Memberships.
    pub memberships: u64,
    /// Open invitations, to the person or by the tenant.
    pub invitations: u64,
    /// Mails that waited to be taken.
    pub mails: u64,
    /// The numbers of the keys in the key file.
    pub key_numbers: Vec<u32>,
    /// The keyed hash of a person's address, as its claim is named.
    pub email_tag: Option<String>,
}

/// Everything has ended but the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parted {}

/// It is tried once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {}

/// It is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Why it was not done.
    pub refusal: Option<Refusal>,
    /// The numbers of the keys that the last attempt shredded.
    pub key_numbers: Vec<u32>,
}

supervision::events! {
    /// What happens to an erasure.
    pub enum ErasureEvent {
        /// It began.
        Begun(Begun) = "begun", 1;
        /// What there is to end.
        Found(Found) = "found", 1;
        /// Only the keys are left.
        Parted(Parted) = "parted", 1;
        /// It is tried once more.
        Retried(Retried) = "retried", 1;
        /// It is over.
        Ended(Ended) = "ended", 1;
    }
}

/// What an erasure asks for.
#[derive(Clone, Debug)]
pub enum ErasureEffect {
    /// The end of everything but the keys.
    Part(Subject, Option<Box<Found>>),
    /// The end of the keys.
    Shred(Subject, Box<Found>),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who asked for what, and why.
    pub begun: Begun,
    /// What ended.
    pub found: Found,
    /// The numbers of the keys that were shredded, ascending.
    pub key_numbers: Vec<u32>,
    /// When it began.
    pub begun_at: Timestamp,
    /// From when on nothing of it can be read.
    pub erased_at: Timestamp,
}

impl Erasure {
    /// The address of the erasure of somebody or something.
    pub fn address(subject: Subject) -> Address<Self> {
        crate::address(&subject.to_string(), platform(), Home(TenantId::SYSTEM.0))
    }

    fn is_done(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.refusal.is_none())
    }

    /// What was done, once it is.
    pub fn receipt(&self) -> Option<Receipt> {
        let (begun, ended) = (self.begun.clone()?, self.ended.as_ref()?);
        if ended.refusal.is_some() {
            return None;
        }
        let found = self.found.clone().unwrap_or_default();
        let mut key_numbers: Vec<u32> =
            found.key_numbers.iter().chain(&ended.key_numbers).copied().collect();
        key_numbers.sort_unstable();
        key_numbers.dedup();
        let (begun_at, erased_at) = (self.begun_at, self.ended_at);
        Some(Receipt { begun, found, key_numbers, begun_at, erased_at })
    }
}

impl Entity for Erasure {
    const KIND: &'static str = "erasure";
    type Event = ErasureEvent;
    type Effect = ErasureEffect;

    fn apply(&mut self, event: &ErasureEvent, at: Timestamp) {
        match event {
            ErasureEvent::Begun(begun) => {
                let begun = Some(begun.clone());
                let retry_at = at.plus_ms(RETRY_MS);
                *self = Self { begun, begun_at: at, retry_at, ..Self::default() };
            }
            ErasureEvent::Found(found) => self.found = Some(found.clone()),
            ErasureEvent::Parted(_) => self.is_parted = true,
            ErasureEvent::Retried(_) => {
                self.retries = self.retries.saturating_add(1);
                let pause_ms = RETRY_MS << self.retries.min(10);
                self.retry_at = at.plus_ms(pause_ms.min(RETRY_MS_MAX));
            }
            ErasureEvent::Ended(ended) => {
                (self.ended, self.ended_at) = (Some(ended.clone()), at);
            }
        }
    }

    fn is_pending(&self) -> bool {
        self.begun.is_some() && self.ended.is_none()
    }

    fn resume(&self) -> Vec<ErasureEffect> {
        let Some(begun) = self.begun.as_ref().filter(|_| self.is_pending()) else {
            return Vec::new();
        };
        let found = self.found.clone().map(Box::new);
        vec![match self.is_parted {
            true => ErasureEffect::Shred(begun.subject, found.unwrap_or_default()),
            false => ErasureEffect::Part(begun.subject, found),
        }]
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.is_pending().then_some(self.retry_at)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().is_pending() && turn.state().retry_at <= turn.now() {
            let again = turn.state().resume();
            turn.record(ErasureEvent::Retried(Retried {}));
            again.into_iter().for_each(|effect| turn.effect(effect));
        }
    }

    async fn perform(effect: ErasureEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let erasures = system.directory::<Self>();
        let done = match effect {
            ErasureEffect::Part(subject, found) => {
                let parted = match subject {
                    Subject::User(user) => person::part(&system, user, found, &origin).await,
                    Subject::Tenant(tenant) => {
                        organisation::part(&system, tenant, found, &origin).await
                    }
                };
                parted.map(|()| None)
            }
            ErasureEffect::Shred(subject, found) => {
                shredding::shred(&system, subject, &found).await.map(Some)
            }
        };
        let noted = match done {
            Ok(None) => erasures.ask(&address, NoteParted {}, origin).await,
            Ok(Some(key_numbers)) => {
                erasures.ask(&address, End(Ended { refusal: None, key_numbers }), origin).await
            }
            // These say nothing about the subject: the reminder tries again.
            Err(refusal) if refusal.class.may_pass() => Err(refusal),
            Err(refusal) => {
                let ended = Ended { refusal: Some(refusal), key_numbers: Vec::new() };
                erasures.ask(&address, End(ended), origin).await
            }
        };
        if let Err(refusal) = noted {
            tracing::warn!(erasure = address.id(), %refusal, "an erasure is not over; it goes on");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(begun) = &self.begun else { return json!({"exists": false}) };
        let refusal = self.ended.as_ref().and_then(|ended| ended.refusal.as_ref());
        let receipt = self.receipt();
        json!({
            "subject": begun.subject.to_string(), "sort": begun.subject.sort(), "by": begun.by,
            "reason": begun.reason, "begun_at": rfc3339(self.begun_at),
            "found": self.found.as_ref().map(|found| json!({
                "sessions": found.sessions, "api_keys": found.api_keys,
                "second_factors": found.second_factors, "memberships": found.memberships,
                "invitations": found.invitations, "mails": found.mails,
            })),
            "is_parted": self.is_parted, "retries": self.retries,
            "refusal": refusal.map(|refusal| refusal.code.as_str()),
            "erased_at": receipt.as_ref().map(|receipt| rfc3339(receipt.erased_at)),
            "keys": receipt.map(|receipt| receipt.key_numbers),
        })
    }
}

/// Begins an erasure. Once it goes on or is done, a repetition is no change.
pub struct Begin(pub Begun);

impl Command for Begin {
    const NAME: &'static str = "erase";
    const ESSENTIAL: bool = true;
}

impl Handle<Begin> for Erasure {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Begin(begun): Begin) -> Result<(), Refusal> {
        if turn.state().is_pending() || turn.state().is_done() {
            return Ok(());
        }
        turn.effect(ErasureEffect::Part(begun.subject, None));
        turn.record(ErasureEvent::Begun(begun));
        Ok(())
    }
}

/// Notes what there is to end, once. Answers what was noted first.
struct NoteFound(Found);

impl Command for NoteFound {
    const NAME: &'static str = "note_found";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteFound> for Erasure {
    type Reply = Found;

    fn handle(turn: &mut Turn<'_, Self>, NoteFound(found): NoteFound) -> Result<Found, Refusal> {
        match &turn.state().found {
            Some(known) => Ok(known.clone()),
            None if turn.state().is_pending() => {
                turn.record(ErasureEvent::Found(found.clone()));
                Ok(found)
            }
            None => Err(Refusal::conflict("not_pending", "this erasure is not under way")),
        }
    }
}

/// Notes that only the keys are left.
struct NoteParted {}

impl Command for NoteParted {
    const NAME: &'static str = "note_parted";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteParted> for Erasure {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: NoteParted) -> Result<(), Refusal> {
        if turn.state().is_pending() && !turn.state().is_parted {
            turn.record(ErasureEvent::Parted(Parted {}));
            let next = turn.state().resume();
            next.into_iter().for_each(|effect| turn.effect(effect));
        }
        Ok(())
    }
}

/// Notes how it ended.
struct End(Ended);

impl Command for End {
    const NAME: &'static str = "end";
    const ESSENTIAL: bool = true;
}

impl Handle<End> for Erasure {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, End(ended): End) -> Result<(), Refusal> {
        // Whoever parted is not taken back: a late refusal says nothing any more.
        let counts = ended.refusal.is_none() == turn.state().is_parted;
        if turn.state().is_pending() && counts {
            turn.record(ErasureEvent::Ended(ended));
        }
        Ok(())
    }
}

/// Answers the receipt: what an answer that is to be recorded rides on. 409 `pending` before.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
    const ESSENTIAL: bool = true;
}

impl Handle<Conclude> for Erasure {
    type Reply = Receipt;

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<Receipt, Refusal> {
        let receipt = turn.state().receipt();
        receipt.ok_or_else(|| Refusal::conflict("pending", "it is not over yet"))
    }
}

impl Process for Erasure {
    type Outcome = Result<(), Refusal>;

    fn outcome(&self) -> Option<Self::Outcome> {
        self.ended.as_ref().map(|ended| ended.refusal.clone().map_or(Ok(()), Err))
    }
}

/// Reads an erasure's beginning as an action: `erase_user` or `erase_tenant`.
pub fn describe(event: &str, version: u16, bytes: &[u8]) -> Vec<ActionItem> {
    let Ok(ErasureEvent::Begun(begun)) = ErasureEvent::decode(event, version, bytes) else {
        return Vec::new();
    };
    vec![ActionItem {
        app_id: None,
        tool_name: format!("erase_{}", begun.subject.sort()),
        action_type: ActionType::Destructive,
        status: ActionStatus::Success,
        price: 0,
        error: None,
        index: 0,
        confirmation: None,
    }]
}

impl Identity {
    /// Erases a person, and waits until it is done; with them their own tenant, where nobody else
    /// is. 404 for nobody; 409 `last_owner` when tenants would be left without an owner, which the
    /// facts name. That whoever asks may, the caller has checked.
    pub async fn erase_user(
        &self,
        user: UserId,
        reason: String,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let subject = Subject::User(user);
        if self.user_address(user)?.is_none() {
            return Err(Refusal::not_found("user"));
        }
        if !self.is_begun(subject).await? {
            self.check_departure(user).await?;
        }
        self.erase(subject, reason, origin).await
    }

    /// Erases a tenant, and waits until it is done. 404 for none; 409 `own_tenant` for the
    /// installation's, and for a person's own, which goes with the person.
    pub async fn erase_tenant(
        &self,
        tenant: TenantId,
        reason: String,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let subject = Subject::Tenant(tenant);
        if !self.is_begun(subject).await? {
            let is_direct =
                |it: &crate::tenant::Tenant| it.details.as_ref().is_some_and(|it| it.direct);
            let is_direct = self.look_tenant(tenant, is_direct).await?;
            if is_direct.ok_or_else(|| Refusal::not_found("tenant"))? || tenant == TenantId::SYSTEM
            {
                let message = "a person's own tenant is erased with the person, and the \
                    installation's never";
                return Err(Refusal::conflict("own_tenant", message));
            }
        }
        self.erase(subject, reason, origin).await
    }

    /// Whether an erasure goes on or is done.
    async fn is_begun(&self, subject: Subject) -> Result<bool, Refusal> {
        let (system, address) = (self.system()?, Erasure::address(subject));
        if system.locate(Erasure::KIND, address.id()).is_none() {
            return Ok(false);
        }
        let is_begun = |it: &Erasure| it.is_pending() || it.is_done();
        system.directory::<Erasure>().look(&address, system.system_origin(), is_begun).await
    }

    /// Begins and waits, whatever would speak against it.
    async fn erase(&self, subject: Subject, reason: String, origin: Origin) -> Result<(), Refusal> {
        let (system, address) = (self.system()?, Erasure::address(subject));
        let erasures = system.directory::<Erasure>();
        let begun = Begun { subject, by: origin.caller.to_string(), reason };
        erasures.ask(&address, Begin(begun), origin.clone()).await?;
        erasures.wait(&address, origin).await?
    }
}

#[cfg(test)]
mod tests;
