//! Signing up: an e-mail address becomes a user with a tenant of their own, a wallet and the
//! welcome credits; all of it, or nothing that anybody can see.
//!
//! A process: it is durable before its first step, and every step may be repeated, so it ends
//! whatever happens in between. The address is reserved first and confirmed last; until then
//! nobody can log in.
//!
//! A sign-up by mail ends with a mail: with a link that verifies the address, or, when the address
//! has an account already, with one that says so. Whoever asks is answered the same before that is
//! known, and nobody gets in by the new password before the link was used.

use std::time::Duration;

use identity::Identity;
use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, EmailAddress, Release, Reserve};
use identity::mail::{self, Draft, Letter};
use identity::mail_link::Purpose;
use identity::password::PasswordHash;
use identity::tenant::{self, OWNER_ROLE, Tenant};
use identity::user::{self, AuthMethod, AwaitVerification, Membership, User};
use persistence::KeyRing;
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Backoff, Class, Command, EffectContext, Entity, Handle, Origin, Process, Refusal,
    Retried, Retry, Retrying, System, Timestamp, Turn, retry,
};
use types::{
    GrantId, JsonBytes, Personal, Scopes, TenantId, UserId, base32, home_of, owner_of_user,
};

use crate::wallet::{Grant, Wallet, wallet_address};

/// How long a caller waits for the end.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
const EMAIL: &str = "sign_up.email";
const NAME: &str = "sign_up.name";
const COMPANY: &str = "sign_up.company";

/// A sign-up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SignUp {
    started: Option<Started>,
    mail: Option<MailWanted>,
    retry: Retry,
    ended: Option<Ended>,
}

/// It began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    user: UserId,
    email: Personal,
    name: Option<Personal>,
    company: Option<Personal>,
    password: PasswordHash,
    role: String,
}

/// It ends with a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailWanted {
    /// Whether nobody gets in, nor is told anything else, before the address is verified.
    pub verify_first: bool,
}

/// It is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    refusal: Option<Refusal>,
}

supervision::events! {
    /// What happens to a sign-up.
    pub enum SignUpEvent {
        /// It began.
        Started(Started) = "started", 1;
        /// It is tried once more.
        Retried(Retried) = "retried", 1;
        /// It is over.
        Ended(Ended) = "ended", 1;
        /// It ends with a mail.
        MailWanted(MailWanted) = "mail_wanted", 1;
    }
}

/// What a sign-up asks for.
#[derive(Clone, Debug)]
pub enum SignUpEffect {
    /// All its steps, in order.
    Go(Box<Started>, Option<MailWanted>),
}

impl SignUp {
    /// The address of a user's sign-up.
    pub fn address(user: UserId) -> Address<Self> {
        let place = (owner_of_user(user), home_of(user.direct_tenant()));
        let address = Address::new(&base32(user.0), place.0, place.1);
        address.unwrap_or_else(|| panic!("an id's digits are always a stream name"))
    }

    /// Whose id and address it was about, if it ended without a user.
    pub(crate) fn refused(&self, keys: &KeyRing) -> Option<(UserId, EmailAddress)> {
        self.ended.as_ref()?.refusal.as_ref()?;
        let started = self.started.as_ref()?;
        let email = EmailAddress::new(&started.email.open(keys, EMAIL)?).ok()?;
        Some((started.user, email))
    }
}

impl Entity for SignUp {
    const KIND: &'static str = "sign_up";
    // Over in a moment, and asked again only when a client repeats.
    const IDLE: Duration = Duration::from_secs(3);
    const SNAPSHOT_VERSION: u16 = 3;
    type Event = SignUpEvent;
    type Effect = SignUpEffect;

    fn apply(&mut self, event: &SignUpEvent, at: Timestamp) {
        match event {
            SignUpEvent::Started(started) => {
                self.started = Some(started.clone());
                self.retry = Retry::begin(at, Backoff::USUAL);
            }
            SignUpEvent::Retried(_) => self.retry.again(at, Backoff::USUAL),
            SignUpEvent::Ended(ended) => self.ended = Some(ended.clone()),
            SignUpEvent::MailWanted(mail) => self.mail = Some(*mail),
        }
    }

    fn is_pending(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    fn resume(&self) -> Vec<SignUpEffect> {
        let pending = self.started.iter().filter(|_| self.is_pending());
        pending.map(|started| SignUpEffect::Go(Box::new(started.clone()), self.mail)).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: SignUpEffect, context: EffectContext<Self>) {
        let SignUpEffect::Go(started, mail) = effect;
        let EffectContext { system, address, origin, .. } = context;
        let outcome = steps(&system, &started, mail, &origin).await;
        let Some(outcome) = retry::verdict(outcome) else { return };
        let end = End(Ended { refusal: outcome.err() });
        if let Err(refusal) = system.directory::<Self>().ask(&address, end, origin).await {
            tracing::debug!(%refusal, "the end of a sign-up is not noted yet; it is tried again");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let user = self.started.as_ref().map(|started| started.user.to_string());
        let refusal = self.ended.as_ref().and_then(|ended| ended.refusal.as_ref());
        let code = refusal.map(|refusal| refusal.code.as_str());
        serde_json::json!({ "user": user, "ended": self.ended.is_some(), "refusal": code })
    }
}

impl Retrying for SignUp {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> SignUpEvent {
        SignUpEvent::Retried(Retried {})
    }
}

async fn steps(
    system: &System,
    started: &Started,
    mail: Option<MailWanted>,
    origin: &Origin,
) -> Result<(), Refusal> {
    let Started { user, password, role, .. } = started.clone();
    let (tenant, keys) = (user.direct_tenant(), system.journal().keys());
    let erased = || Refusal::new(Class::Gone, "erased", "this person was erased meanwhile");
    let email = started.email.open(keys, EMAIL).ok_or_else(erased)?;
    let open = |field: &Option<Personal>, label| field.as_ref().and_then(|it| it.open(keys, label));
    let (name, company) = (open(&started.name, NAME), open(&started.company, COMPANY));
    let claims = system.directory::<Claim>();
    let to = EmailAddress::new(&email)?;
    let claim = to.claim(&system.port::<ClaimKey>());
    let verify_first = mail.is_some_and(|mail| mail.verify_first);
    match claims.ask(&claim, Reserve { holder: user.0 }, origin.clone()).await {
        Err(refusal) if verify_first && refusal.code == "already_claimed" => {
            say_already_registered(system, user, tenant, to, user.0, origin).await?;
            return Err(refusal);
        }
        reserved => reserved?,
    };
    let create = tenant::Create {
        id: tenant,
        name: company.or_else(|| name.clone()).unwrap_or_else(|| "Personal".to_owned()),
        owner: user,
        owner_role: OWNER_ROLE.to_owned(),
        direct: true,
    };
    let tenants = system.directory::<Tenant>();
    tenants.ask(&Tenant::address(tenant), create, origin.clone()).await?;
    let create = user::Create {
        id: user,
        home: tenant,
        membership: Membership { role, scopes: Scopes::all() },
        email,
        name,
        password: Some(password),
        auth_method: AuthMethod::Password,
        email_verified: false,
        attributes: JsonBytes::default(),
    };
    let users = system.directory::<User>();
    let address = User::address(user, tenant);
    users.ask(&address, create, origin.clone()).await?;
    if verify_first {
        users.ask(&address, AwaitVerification {}, origin.clone()).await?;
    }
    // Once an address: whoever was erased and comes back has had them.
    if !claims.look(&claim, origin.clone(), Claim::was_held).await? {
        let grant = Grant::welcome(GrantId(user.0), tenant);
        let wallets = system.directory::<Wallet>();
        wallets.ask(&wallet_address(tenant), grant, origin.clone()).await?;
    }
    let confirm = Confirm { holder: user.0, target: ClaimTarget { user, tenant } };
    claims.ask(&claim, confirm, origin.clone()).await?;
    if mail.is_some() {
        // The user's id is the link's and the mail's as well, so that each is made once.
        let (identity, purpose) = (system.port::<Identity>(), Purpose::VerifyEmail);
        identity.send_link(purpose, user, user.0, origin.clone()).await?;
    }
    Ok(())
}

async fn say_already_registered(
    system: &System,
    user: UserId,
    home: TenantId,
    to: EmailAddress,
    id: u128,
    origin: &Origin,
) -> Result<(), Refusal> {
    if !system.port::<Identity>().may_mail(&to)? {
        return Ok(());
    }
    let letter = Letter::AlreadyRegistered {};
    mail::send(system, Draft { id, user, home, to, letter }, origin.clone()).await
}

/// Begins a sign-up. A repetition is no change.
pub struct Start {
    /// The id the user will have; their tenant's too.
    pub user: UserId,
    /// The e-mail address, normalised, in clear; it is sealed here.
    pub email: String,
    /// The full name, in clear; it is sealed here.
    pub name: Option<String>,
    /// What the tenant is called, in clear; it is sealed here.
    pub company: Option<String>,
    /// The password's hash.
    pub password: PasswordHash,
    /// The role in the tenant.
    pub role: String,
}

impl Command for Start {
    const NAME: &'static str = "start";
}

impl Handle<Start> for SignUp {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Start) -> Result<(), Refusal> {
        begin(turn, command, None)
    }
}

/// As [`Start`], for a sign-up that ends with a mail.
pub struct StartByMail {
    /// Who signs up.
    pub start: Start,
    /// What becomes of it before the address is verified.
    pub mail: MailWanted,
}

impl Command for StartByMail {
    const NAME: &'static str = "start_by_mail";
}

impl Handle<StartByMail> for SignUp {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: StartByMail) -> Result<(), Refusal> {
        begin(turn, command.start, Some(command.mail))
    }
}

fn begin(
    turn: &mut Turn<'_, SignUp>,
    command: Start,
    mail: Option<MailWanted>,
) -> Result<(), Refusal> {
    if let Some(started) = &turn.state().started {
        let known = started.email.open(turn.keys(), EMAIL);
        let message = "this Idempotency-Key was used with another body; use a new key";
        let reused = || Refusal::new(Class::Invalid, "idempotency_key_reused", message);
        return (known.as_ref() == Some(&command.email)).then_some(()).ok_or_else(reused);
    }
    let Start { user, email, name, company, password, role } = command;
    let seal = |label, plain: &str| Personal::seal(turn.keys(), user, label, plain);
    let started = Started {
        user,
        email: seal(EMAIL, &email)?,
        name: name.map(|name| seal(NAME, &name)).transpose()?,
        company: company.map(|company| seal(COMPANY, &company)).transpose()?,
        password,
        role,
    };
    turn.effect(SignUpEffect::Go(Box::new(started.clone()), mail));
    turn.record(SignUpEvent::Started(started));
    if let Some(mail) = mail {
        turn.record(SignUpEvent::MailWanted(mail));
    }
    Ok(())
}

/// Notes how the steps went.
struct End(Ended);

impl Command for End {
    const NAME: &'static str = "end";
    const ESSENTIAL: bool = true;
}

impl Handle<End> for SignUp {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, End(ended): End) -> Result<(), Refusal> {
        if turn.state().is_pending() {
            turn.record(SignUpEvent::Ended(ended));
        }
        Ok(())
    }
}

/// Answers that it is over: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
    const ESSENTIAL: bool = true;
}

impl Handle<Conclude> for SignUp {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        let over = turn.state().ended.is_some();
        over.then_some(()).ok_or_else(|| Refusal::conflict("pending", "it is not over yet"))
    }
}

/// Who has signed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedUp {
    /// The user.
    pub user: UserId,
    /// The user's own tenant.
    pub tenant: TenantId,
}

impl Process for SignUp {
    type Outcome = Result<SignedUp, Refusal>;

    fn outcome(&self) -> Option<Self::Outcome> {
        let (started, ended) = (self.started.as_ref()?, self.ended.as_ref()?);
        let user = started.user;
        Some(match &ended.refusal {
            None => Ok(SignedUp { user, tenant: user.direct_tenant() }),
            Some(refusal) => Err(refusal.clone()),
        })
    }
}

/// Signs somebody up and waits for the end. 409 `email_taken` for an address that has an account.
pub async fn sign_up(system: &System, start: Start, origin: Origin) -> Result<SignedUp, Refusal> {
    sign_up_with(system, start, false, origin).await
}

/// As [`sign_up`]; with `verify` the address is mailed a link, without which the user may log in
/// all the same.
pub async fn sign_up_with(
    system: &System,
    start: Start,
    verify: bool,
    origin: Origin,
) -> Result<SignedUp, Refusal> {
    let (address, user) = (SignUp::address(start.user), start.user);
    let claim = EmailAddress::new(&start.email)?.claim(&system.port::<ClaimKey>());
    let claims = system.directory::<Claim>();
    let now = system.clock().now();
    let taken = move |claim: &Claim| claim.holder(now).is_some_and(|holder| holder != user.0);
    // Asked before anything is begun: an address that is taken costs no process and no tenant.
    if claims.look(&claim, origin.clone(), taken).await? {
        return Err(email_taken());
    }
    let processes = system.directory::<SignUp>();
    if verify {
        let mail = MailWanted { verify_first: false };
        processes.ask(&address, StartByMail { start, mail }, origin.clone()).await?;
    } else {
        processes.ask(&address, start, origin.clone()).await?;
    }
    let ended = processes.wait(&address, origin.clone());
    let ended = tokio::time::timeout(WAIT_LIMIT, ended).await;
    let outcome = ended.unwrap_or_else(|_| Err(Refusal::in_doubt()))?;
    if let Err(refusal) = &outcome {
        let _ = claims.ask(&claim, Release { holder: user.0 }, origin).await;
        if refusal.code == "already_claimed" {
            return Err(email_taken());
        }
    }
    outcome
}

/// Begins a sign-up that only a mail tells the outcome of. Answered once it is durable that the
/// mail will go out; the answer is the same whether or not the address has an account.
pub async fn sign_up_by_mail(system: &System, start: Start, origin: Origin) -> Result<(), Refusal> {
    let (address, user) = (SignUp::address(start.user), start.user);
    let to = EmailAddress::new(&start.email)?;
    let claim = to.claim(&system.port::<ClaimKey>());
    let claims = system.directory::<Claim>();
    let confirmed = claims.look(&claim, origin.clone(), Claim::confirmed).await?;
    match confirmed.filter(|(holder, _)| *holder != user.0) {
        // It costs no process and no tenant, and stands where the owner of the address sees it.
        Some((_, target)) => {
            let ClaimTarget { user: owner, tenant } = target;
            say_already_registered(system, owner, tenant, to, user.0, &origin).await
        }
        None => {
            let mail = MailWanted { verify_first: true };
            let begin = StartByMail { start, mail };
            system.directory::<SignUp>().ask(&address, begin, origin).await
        }
    }
}

fn email_taken() -> Refusal {
    Refusal::conflict("email_taken", "there is an account with this e-mail address already")
}
