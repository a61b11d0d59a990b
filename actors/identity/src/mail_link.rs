//! Links in mails: what whoever reads an address's mail may do once, within a day.
//!
//! The token in a link is its id and an HMAC of purpose and id (RFC 2104, with SHA-256) under a key
//! of the installation. So nothing secret is kept, neither in the journal nor in the mail that
//! waits: a mail that is sent again has the same link, after a restart too. Who knows an id, or has
//! a link for one purpose, cannot make the token of another.
//!
//! Invariants
//! - A link is used once: the turn that takes it decides. The same user of it (an idempotency key)
//!   may repeat that and finds it taken by itself.
//! - What a link was taken for is carried out, whatever crashes in between.
//! - A link to choose another password is over as soon as every session was ended in another way.
//!
//! Deliberate limits
//! - Whoever reads the mail first can use it. A new master key makes every link that is out void.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Class, Command, EffectContext, Entity, Handle, Origin, Process, Refusal,
    Retried, Retry, Retrying, System, Timestamp, Turn, retry,
};
use types::{TenantId, UserId, base32, home_of, owner_of_user, rfc3339};
use zeroize::Zeroizing;

use crate::claim::{Claim, ClaimKey, EmailAddress};
use crate::mail::{self, Draft, Letter};
use crate::password::PasswordHash;
use crate::service::Identity;
use crate::user::{AuthMethod, EMAIL_LABEL, ResetPassword, User, VerifyEmail};

/// How long a link holds, in milliseconds.
pub const LINK_MS: i64 = 24 * 60 * 60 * 1_000;
/// The characters of a token: 16 bytes of id and 32 of proof.
pub const TOKEN_CHARS: usize = 64;
/// What the key is derived under. For ever.
const KEY_LABEL: &str = "mail links";

/// What a link is for. Stored, and part of what a token proves: each keeps its place and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To show that an address is one's own.
    VerifyEmail,
    /// To choose another password.
    ResetPassword,
    /// To join a tenant. Whose entity it is checks it; it is no [`MailLink`].
    Invitation,
}

impl Purpose {
    /// The name that the token proves.
    pub fn name(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify_email",
            Self::ResetPassword => "reset_password",
            Self::Invitation => "invitation",
        }
    }

    /// The path of the page that the link opens.
    pub fn page(self) -> &'static str {
        match self {
            Self::VerifyEmail => "/verify-email",
            Self::ResetPassword => "/reset-password",
            Self::Invitation => "/accept-invitation",
        }
    }
}

/// The installation's key for the tokens in links. A port.
pub struct LinkKey(hmac::Key);

impl LinkKey {
    /// The key that belongs to the installation's claim key.
    pub fn of(claims: &ClaimKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &claims.derive(KEY_LABEL)))
    }

    /// The token of a link.
    pub fn token(&self, purpose: Purpose, id: u128) -> Zeroizing<String> {
        let proof = hmac::sign(&self.0, &proven(purpose, id));
        Zeroizing::new(URL_SAFE_NO_PAD.encode([&id.to_be_bytes(), proof.as_ref()].concat()))
    }

    /// The id of the link that `presented` is the token of; `None` for what was not made here, or
    /// for another purpose.
    pub fn read(&self, purpose: Purpose, presented: &str) -> Option<u128> {
        if presented.len() != TOKEN_CHARS {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(presented).ok()?;
        let (id, proof) = bytes.split_first_chunk::<16>()?;
        let id = u128::from_be_bytes(*id);
        hmac::verify(&self.0, &proven(purpose, id), proof).ok()?;
        Some(id)
    }
}

fn proven(purpose: Purpose, id: u128) -> Vec<u8> {
    [purpose.name().as_bytes(), &[0], &id.to_be_bytes()].concat()
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LinkKey([redacted])")
    }
}

/// A link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MailLink {
    issued: Option<Issued>,
    taken: Option<Taken>,
    retry: Retry,
    done: Option<Done>,
}

/// It was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    /// What for.
    pub purpose: Purpose,
    /// Whose account it is about.
    pub user: UserId,
    /// That user's home.
    pub home: TenantId,
    /// The user's [`User::sessions_from`] then.
    pub sessions_from: u64,
    /// The user's [`User::password_changes`] then.
    pub password_changes: u64,
    /// Until when it holds.
    pub until: Timestamp,
}

/// Somebody uses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Who, as a request is known by.
    pub by: u128,
    /// The new password's hash, where it is for that.
    pub password: Option<PasswordHash>,
}

/// What it was taken for is done, or was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Why not.
    pub refusal: Option<Refusal>,
}

supervision::events! {
    /// What happens to a link.
    pub enum MailLinkEvent {
        /// Made.
        Issued(Issued) = "issued", 1;
        /// Used.
        Taken(Taken) = "taken", 1;
        /// Tried again.
        Retried(Retried) = "retried", 1;
        /// Carried out.
        Done(Done) = "done", 1;
    }
}

/// What a link asks for.
#[derive(Clone, Debug)]
pub enum MailLinkEffect {
    /// What it was taken for.
    Carry(Issued, Taken),
}

impl MailLink {
    /// Where a link lives.
    pub fn address(id: u128, user: UserId, home: TenantId) -> Address<Self> {
        crate::address(&base32(id), owner_of_user(user), home_of(home))
    }

    /// What it is about, if `by` may use it now: 410 when it is over, or was used by another.
    fn open(&self, by: u128, now: Timestamp) -> Result<&Issued, Refusal> {
        let issued = self.issued.as_ref().ok_or_else(|| Refusal::not_found("link"))?;
        match &self.taken {
            Some(taken) if taken.by == by => Ok(issued),
            Some(_) => Err(link_used()),
            None if now < issued.until => Ok(issued),
            None => {
                let message = "this link has expired; ask for another one";
                Err(Refusal::new(Class::Gone, "link_expired", message))
            }
        }
    }
}

fn link_used() -> Refusal {
    Refusal::new(Class::Gone, "link_used", "this link was used already; ask for another one")
}

impl Entity for MailLink {
    const KIND: &'static str = "mail_link";
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = MailLinkEvent;
    type Effect = MailLinkEffect;

    fn apply(&mut self, event: &MailLinkEvent, at: Timestamp) {
        match event {
            MailLinkEvent::Issued(issued) => self.issued = Some(issued.clone()),
            MailLinkEvent::Taken(taken) => {
                self.taken = Some(taken.clone());
                self.retry = Retry::begin(at, Backoff::USUAL);
            }
            MailLinkEvent::Retried(_) => self.retry.again(at, Backoff::USUAL),
            MailLinkEvent::Done(done) => self.done = Some(done.clone()),
        }
    }

    fn is_pending(&self) -> bool {
        self.taken.is_some() && self.done.is_none()
    }

    fn is_over(&self) -> bool {
        self.done.is_some()
    }

    fn resume(&self) -> Vec<MailLinkEffect> {
        match (&self.issued, &self.taken) {
            (Some(issued), Some(taken)) if self.is_pending() => {
                vec![MailLinkEffect::Carry(issued.clone(), taken.clone())]
            }
            _ => Vec::new(),
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: MailLinkEffect, context: EffectContext<Self>) {
        let MailLinkEffect::Carry(issued, taken) = effect;
        let EffectContext { system, address, origin, .. } = context;
        let outcome = carry(&system, issued, taken, &origin).await;
        let Some(outcome) = retry::verdict(outcome) else { return };
        let end = End(Done { refusal: outcome.err() });
        if let Err(refusal) = system.directory::<Self>().ask(&address, end, origin).await {
            tracing::debug!(%refusal, "the end of a link is not noted yet; it is tried again");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(issued) = &self.issued else { return json!({"exists": false}) };
        json!({
            "purpose": issued.purpose.name(), "user": issued.user, "home": issued.home,
            "until": rfc3339(issued.until), "used": self.taken.is_some(),
            "refusal": self.done.as_ref().and_then(|done| Some(&done.refusal.as_ref()?.code)),
        })
    }
}

impl Retrying for MailLink {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> MailLinkEvent {
        MailLinkEvent::Retried(Retried {})
    }
}

/// Carries out what a link was taken for. Each step may be repeated.
async fn carry(
    system: &System,
    issued: Issued,
    taken: Taken,
    origin: &Origin,
) -> Result<(), Refusal> {
    let (users, address) = (system.directory::<User>(), User::address(issued.user, issued.home));
    let identity = system.port::<Identity>();
    // Whoever reads the address's mail has shown that, whatever the mail was about.
    let Some(password) = taken.password else {
        return users.ask(&address, VerifyEmail {}, origin.clone()).await;
    };
    let Issued { user, sessions_from, .. } = issued;
    let reset = ResetPassword { password, sessions_from };
    identity.change_user(user, reset, origin.clone()).await?;
    // Only this link can have done that: every other from before is over with it.
    let reclaimed = move |user: &User| user.keys_from > sessions_from;
    if users.look(&address, origin.clone(), reclaimed).await? {
        identity.clear_reclaimed(user, taken.by, origin).await?;
    }
    Ok(())
}

impl Process for MailLink {
    type Outcome = Result<(), Refusal>;

    fn outcome(&self) -> Option<Self::Outcome> {
        let done = self.done.as_ref()?;
        Some(done.refusal.clone().map_or(Ok(()), Err))
    }
}

/// Makes the link. A repetition is no change.
struct Issue {
    purpose: Purpose,
    user: UserId,
    home: TenantId,
    sessions_from: u64,
    password_changes: u64,
}

impl Command for Issue {
    const NAME: &'static str = "issue";
}

impl Handle<Issue> for MailLink {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Issue) -> Result<(), Refusal> {
        let Issue { purpose, user, home, sessions_from, password_changes } = command;
        if let Some(issued) = &turn.state().issued {
            let is_same = issued.user == user && issued.purpose == purpose;
            let message = "this link is somebody else's; use a new key";
            return is_same.then_some(()).ok_or_else(|| Refusal::conflict("id_reused", message));
        }
        let until = turn.now().plus_ms(LINK_MS);
        let issued = Issued { purpose, user, home, sessions_from, password_changes, until };
        turn.record(MailLinkEvent::Issued(issued));
        Ok(())
    }
}

/// Uses the link. Repeated by the same it is no change.
struct Take {
    by: u128,
    password: Option<PasswordHash>,
}

impl Command for Take {
    const NAME: &'static str = "take";
}

impl Handle<Take> for MailLink {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Take) -> Result<(), Refusal> {
        let Take { by, password } = command;
        let issued = turn.state().open(by, turn.now())?.clone();
        if turn.state().taken.is_none() {
            let taken = Taken { by, password };
            turn.record(MailLinkEvent::Taken(taken.clone()));
            turn.effect(MailLinkEffect::Carry(issued, taken));
        }
        Ok(())
    }
}

/// Notes how it went.
struct End(Done);

impl Command for End {
    const NAME: &'static str = "end";
}

impl Handle<End> for MailLink {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, End(done): End) -> Result<(), Refusal> {
        if turn.state().is_pending() {
            turn.record(MailLinkEvent::Done(done));
        }
        Ok(())
    }
}

/// A link that a client presented and may use.
#[derive(Clone, Debug)]
pub struct OpenLink {
    /// What it is about.
    pub issued: Issued,
    /// The account's address, in clear: not for logs.
    pub email: EmailAddress,
    by: u128,
    address: Address<MailLink>,
}

/// What a link is made for, of a user's account.
struct Addressee {
    email: EmailAddress,
    home: TenantId,
    sessions_from: u64,
    password_changes: u64,
}

impl Identity {
    /// Mails a link to a user. `id` is the link's and the mail's: repeated with it, nothing more is
    /// sent. Answers whether there was somebody to send it to: for a link to verify an address
    /// nobody whose address is verified, for a password nobody who is vouched for elsewhere.
    pub async fn send_link(
        &self,
        purpose: Purpose,
        user: UserId,
        id: u128,
        origin: Origin,
    ) -> Result<bool, Refusal> {
        let letter = match purpose {
            Purpose::VerifyEmail => Letter::VerifyEmail { link: id },
            Purpose::ResetPassword => Letter::ResetPassword { link: id },
            Purpose::Invitation => return Err(crate::internal("an invitation is no mail link")),
        };
        self.send_link_in(letter, purpose, user, id, origin).await
    }

    /// As [`Identity::send_link`] to choose a password, to somebody whom an account was made for.
    pub async fn send_account_link(
        &self,
        user: UserId,
        tenant_name: String,
        role: String,
        origin: Origin,
    ) -> Result<bool, Refusal> {
        // One account, one such mail.
        let letter = Letter::AccountMade { link: user.0, tenant_name, role };
        self.send_link_in(letter, Purpose::ResetPassword, user, user.0, origin).await
    }

    async fn send_link_in(
        &self,
        letter: Letter,
        purpose: Purpose,
        user: UserId,
        id: u128,
        origin: Origin,
    ) -> Result<bool, Refusal> {
        let system = self.system()?;
        let Some(found) = self.addressee(&system, purpose, user).await? else { return Ok(false) };
        let Addressee { email, home, sessions_from, password_changes } = found;
        let issue = Issue { purpose, user, home, sessions_from, password_changes };
        let links = system.directory::<MailLink>();
        links.ask(&MailLink::address(id, user, home), issue, origin.clone()).await?;
        mail::send(&system, Draft { id, user, home, to: email, letter }, origin).await?;
        Ok(true)
    }

    /// As [`Identity::send_link`], to whoever has an account with this address.
    pub async fn send_link_to(
        &self,
        purpose: Purpose,
        email: &EmailAddress,
        id: u128,
        origin: Origin,
    ) -> Result<bool, Refusal> {
        let system = self.system()?;
        let claims = system.directory::<Claim>();
        let claim = email.claim(self.claim_key());
        // No actor is woken for an address that nobody ever had.
        if system.locate(Claim::KIND, claim.id()).is_none() {
            return Ok(false);
        }
        match claims.look(&claim, origin.clone(), Claim::confirmed).await? {
            Some((_, target)) => self.send_link(purpose, target.user, id, origin).await,
            None => Ok(false),
        }
    }

    /// Tells a user that the password was changed. `id` as in [`Identity::send_link`].
    pub async fn tell_password_changed(
        &self,
        user: UserId,
        id: u128,
        origin: Origin,
    ) -> Result<(), Refusal> {
        self.tell_user(user, Letter::PasswordChanged {}, id, origin).await
    }

    /// Mails a user a letter about their own account. `id` as in [`Identity::send_link`].
    pub(crate) async fn tell_user(
        &self,
        user: UserId,
        letter: Letter,
        id: u128,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let system = self.system()?;
        let found = self.addressee(&system, Purpose::ResetPassword, user).await?;
        let Some(Addressee { email, home, .. }) = found else { return Ok(()) };
        mail::send(&system, Draft { id, user, home, to: email, letter }, origin).await
    }

    async fn addressee(
        &self,
        system: &Arc<System>,
        purpose: Purpose,
        user: UserId,
    ) -> Result<Option<Addressee>, Refusal> {
        let Some(address) = self.user_address(user)? else { return Ok(None) };
        let look = move |user: &User| {
            let profile = user.profile.as_ref()?;
            let is_meant = match purpose {
                Purpose::VerifyEmail => !profile.email_verified,
                _ => profile.auth_method == AuthMethod::Password,
            };
            let changes = (user.sessions_from, user.password_changes);
            let found = (profile.email.clone(), profile.home, changes);
            (profile.active && is_meant).then_some(found)
        };
        let users = system.directory::<User>();
        let found = users.look(&address, system.system_origin(), look).await?;
        let Some((email, home, (sessions_from, password_changes))) = found else {
            return Ok(None);
        };
        let email = email.open(system.journal().keys(), EMAIL_LABEL);
        let email = email.and_then(|email| EmailAddress::new(&email).ok());
        Ok(email.map(|email| Addressee { email, home, sessions_from, password_changes }))
    }

    /// The link that a token stands for, if `by` may use it. 404 for what is no such link, 410 once
    /// it was used by another or has expired.
    pub async fn open_link(
        &self,
        purpose: Purpose,
        token: &str,
        by: u128,
    ) -> Result<OpenLink, Refusal> {
        let system = self.system()?;
        let missing = || Refusal::not_found("link");
        let id = system.port::<LinkKey>().read(purpose, token).ok_or_else(missing)?;
        let place = system.locate(MailLink::KIND, &base32(id)).ok_or_else(missing)?;
        let address = Address::from_place(place).ok_or_else(missing)?;
        let (links, now) = (system.directory::<MailLink>(), system.clock().now());
        let look = move |link: &MailLink| {
            link.open(by, now).map(|issued| (issued.clone(), link.taken.is_some()))
        };
        let (issued, is_taken) = links.look(&address, system.system_origin(), look).await??;
        let gone =
            || Refusal::new(Class::Gone, "link_expired", "there is no such account any more");
        let user = self.user(issued.user, issued.home).await.map_err(|_| gone())?;
        let account = self.account(issued.user, None).await?.ok_or_else(gone)?;
        // Whoever lost the mail to somebody else ends its link by another password, or by using
        // another link for the same.
        let is_overtaken = account.sessions_from != issued.sessions_from
            || account.password_changes != issued.password_changes
            || purpose == Purpose::VerifyEmail && user.email_verified;
        if is_overtaken && !is_taken {
            return Err(link_used());
        }
        let email = EmailAddress::new(&user.email).map_err(|_| gone())?;
        Ok(OpenLink { issued, email, by, address })
    }

    /// Uses a link: the address is verified, and the password is this one if one is given, which
    /// ends every session. Answers once that is so; 410 when somebody else was faster.
    pub async fn use_link(
        &self,
        link: &OpenLink,
        password: Option<PasswordHash>,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let (system, by) = (self.system()?, link.by);
        let links = system.directory::<MailLink>();
        links.ask(&link.address, Take { by, password }, origin.clone()).await?;
        links.wait(&link.address, origin).await?
    }
}

#[cfg(test)]
mod tests {
    use persistence::MasterKey;
    use supervision::testkit::Given;

    use super::*;

    fn keys(byte: u8) -> LinkKey {
        LinkKey::of(&ClaimKey::of(&MasterKey::from_bytes([byte; 32])).unwrap())
    }

    #[test]
    fn a_token_is_good_for_its_purpose_and_its_id_alone() {
        let (keys, others) = (keys(1), keys(2));
        let token = keys.token(Purpose::VerifyEmail, 7);
        assert_eq!(token.len(), TOKEN_CHARS);
        assert_eq!(*token, *keys.token(Purpose::VerifyEmail, 7), "made again, it is the same");
        assert_eq!(keys.read(Purpose::VerifyEmail, &token), Some(7));
        assert_eq!(keys.read(Purpose::ResetPassword, &token), None);
        assert_eq!(others.read(Purpose::VerifyEmail, &token), None);
        for at in 0..TOKEN_CHARS {
            let mut wrong = token.to_string();
            let other = if &token[at..=at] == "A" { "B" } else { "A" };
            wrong.replace_range(at..=at, other);
            assert_eq!(keys.read(Purpose::VerifyEmail, &wrong), None, "{at}");
        }
        for wrong in ["", "x", &token[1..], &format!("{}=", &token[1..])] {
            assert_eq!(keys.read(Purpose::VerifyEmail, wrong), None);
        }
    }

    fn issued() -> Given<MailLink> {
        let (user, home) = (UserId(1), TenantId(1));
        let issue = || Issue {
            purpose: Purpose::ResetPassword,
            user,
            home,
            sessions_from: 0,
            password_changes: 0,
        };
        let given = Given::nothing().when(issue()).then();
        let again = given.later_ms(1_000).when(issue());
        assert!(again.events.is_empty(), "asked for again, it holds no longer");
        again.given
    }

    fn take(by: u128) -> Take {
        Take { by, password: Some("$argon2id$x".to_owned().into()) }
    }

    #[test]
    fn a_link_is_used_once_and_is_pending_until_that_is_done() {
        let then = issued().when(take(1));
        assert_eq!(then.effects.len(), 1);
        let again = then.given.when(take(1));
        assert!(again.outcome.is_ok() && again.events.is_empty());
        let (code, given) = again.given.when(take(2)).refused();
        assert_eq!(code, "link_used");
        assert_eq!((given.state().resume().len(), given.state().outcome()), (1, None));
        let given = given.later_ms(Backoff::USUAL.first_ms).when_due().then();
        let given = given.when(End(Done { refusal: None })).then();
        assert_eq!((given.state().is_pending(), given.state().outcome()), (false, Some(Ok(()))));
        // Long after its time its user still finds it used by themselves.
        let given = given.later_ms(2 * LINK_MS);
        assert!(given.state().open(1, given.now()).is_ok());
    }

    #[test]
    fn a_link_expires() {
        let (code, _) = issued().later_ms(LINK_MS).when(take(1)).refused();
        assert_eq!(code, "link_expired");
        assert_eq!(Given::<MailLink>::nothing().when(take(1)).refused().0, "not_found");
    }
}
