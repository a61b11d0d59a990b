//! Signing up: an e-mail address becomes a user with a tenant of their own, a wallet and the
//! welcome credits; all of it, or nothing that anybody can see.
//!
//! A process: it is durable before its first step, and every step may be repeated, so it ends
//! whatever happens in between. The address is reserved first and confirmed last; until then
//! nobody can log in.

use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, EmailAddress, Release, Reserve};
use identity::password::PasswordHash;
use identity::tenant::{self, OWNER_ROLE, Tenant};
use identity::user::{self, AuthMethod, Membership, User};
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Class, Command, EffectContext, Entity, Handle, Origin, Process, Refusal, System,
    Timestamp, Turn,
};
use types::{
    GrantId, JsonBytes, Personal, Scopes, TenantId, UserId, base32, home_of, owner_of_user,
};

use crate::wallet::{Grant, Wallet, wallet_address};

/// When a sign-up that has not ended is tried again, in milliseconds.
const RETRY_MS: i64 = 5_000;
const EMAIL: &str = "sign_up.email";
const NAME: &str = "sign_up.name";
const COMPANY: &str = "sign_up.company";

/// A sign-up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SignUp {
    started: Option<Started>,
    retry_at: Timestamp,
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

/// It is tried once more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retried {}

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
    }
}

/// What a sign-up asks for.
#[derive(Clone, Debug)]
pub enum SignUpEffect {
    /// All its steps, in order.
    Go(Box<Started>),
}

impl SignUp {
    /// The address of a user's sign-up.
    pub fn address(user: UserId) -> Address<Self> {
        let place = (owner_of_user(user), home_of(user.direct_tenant()));
        let address = Address::new(&base32(user.0), place.0, place.1);
        address.unwrap_or_else(|| panic!("an id's digits are always a stream name"))
    }
}

impl Entity for SignUp {
    const KIND: &'static str = "sign_up";
    type Event = SignUpEvent;
    type Effect = SignUpEffect;

    fn apply(&mut self, event: &SignUpEvent, at: Timestamp) {
        match event {
            SignUpEvent::Started(started) => {
                self.started = Some(started.clone());
                self.retry_at = at.plus_ms(RETRY_MS);
            }
            SignUpEvent::Retried(_) => self.retry_at = at.plus_ms(RETRY_MS),
            SignUpEvent::Ended(ended) => self.ended = Some(ended.clone()),
        }
    }

    fn is_pending(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    fn resume(&self) -> Vec<SignUpEffect> {
        let pending = self.started.iter().filter(|_| self.is_pending());
        pending.map(|started| SignUpEffect::Go(Box::new(started.clone()))).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.is_pending().then_some(self.retry_at)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().is_pending() && turn.state().retry_at <= turn.now() {
            let again = turn.state().resume();
            turn.record(SignUpEvent::Retried(Retried {}));
            again.into_iter().for_each(|effect| turn.effect(effect));
        }
    }

    async fn perform(SignUpEffect::Go(started): SignUpEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let refusal = match steps(&system, &started, &origin).await {
            Ok(()) => None,
            // These say nothing about the sign-up: the reminder tries again.
            Err(refusal) if says_nothing(refusal.class) => return,
            Err(refusal) => Some(refusal),
        };
        let end = End(Ended { refusal });
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

fn says_nothing(class: Class) -> bool {
    matches!(class, Class::Busy | Class::InDoubt | Class::LowSpace)
}

async fn steps(system: &System, started: &Started, origin: &Origin) -> Result<(), Refusal> {
    let Started { user, password, role, .. } = started.clone();
    let (tenant, keys) = (user.direct_tenant(), system.journal().keys());
    let erased = || Refusal::new(Class::Gone, "erased", "this person was erased meanwhile");
    let email = started.email.open(keys, EMAIL).ok_or_else(erased)?;
    let open = |field: &Option<Personal>, label| field.as_ref().and_then(|it| it.open(keys, label));
    let (name, company) = (open(&started.name, NAME), open(&started.company, COMPANY));
    let claims = system.directory::<Claim>();
    let claim = EmailAddress::new(&email)?.claim(&system.port::<ClaimKey>());
    claims.ask(&claim, Reserve { holder: user.0 }, origin.clone()).await?;

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
    users.ask(&User::address(user, tenant), create, origin.clone()).await?;
    let grant = Grant::welcome(GrantId(user.0), tenant);
    let wallets = system.directory::<Wallet>();
    wallets.ask(&wallet_address(tenant), grant, origin.clone()).await?;
    let confirm = Confirm { holder: user.0, target: ClaimTarget { user, tenant } };
    claims.ask(&claim, confirm, origin.clone()).await?;
    Ok(())
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
        turn.effect(SignUpEffect::Go(Box::new(started.clone())));
        turn.record(SignUpEvent::Started(started));
        Ok(())
    }
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
    processes.ask(&address, start, origin.clone()).await?;
    let outcome = processes.wait(&address, origin.clone()).await?;
    if let Err(refusal) = &outcome {
        let _ = claims.ask(&claim, Release { holder: user.0 }, origin).await;
        if refusal.code == "already_claimed" {
            return Err(email_taken());
        }
    }
    outcome
}

fn email_taken() -> Refusal {
    Refusal::conflict("email_taken", "there is an account with this e-mail address already")
}
