//! Logging in and out, refreshing, revoking and the first operator, on a whole system in memory.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, EmailAddress, Reserve};
use identity::login::{LoginAttempt, NewSession, TokenLife, Tokens};
use identity::mail::{BACKOFF, MailFailure, Mailer, Message, PostOffice};
use identity::mail_link::{LINK_MS, LinkKey, Purpose};
use identity::operator::Bootstrap;
use identity::password::{Hasher, PasswordPolicy};
use identity::refresh::SAME_SUCCESSOR_MS;
use identity::session::{Revoke, Session};
use identity::signing_keys::{NEXT_PUBLISHED_MS_MIN, SigningAlgorithm};
use identity::tenant::{self, AddMember, OWNER_ROLE, RemoveMember, Tenant};
use identity::throttle::{ATTEMPTS_MAX, WINDOW_MS};
use identity::token;
use identity::user::{self, AuthMethod, BumpEpoch, Membership, User};
use identity::{Identity, IdentitySettings};
use parking_lot::Mutex;
use persistence::{EngineKind, Journal, KeyId, MasterKey, Options};
use serde_json::json;
use supervision::address::USER_KEY_CLASS;
use supervision::{Class, Clock, Refusal, SimulatedClock, System, SystemOptions, Timestamp};
use types::{Caller, Scopes, TenantId, UserId};

#[path = "flows/erasure.rs"]
mod erasure;
#[path = "flows/keys.rs"]
mod keys;
#[path = "flows/mails.rs"]
mod mails;

const START: Timestamp = Timestamp(1_800_000_000_000);
const PASSWORD: &str = "correct horse";
const EMAIL: &str = "ada@example.test";
const POLICY: PasswordPolicy = PasswordPolicy { memory_kib: 8, passes: 1, lanes: 1 };

struct World {
    system: Arc<System>,
    identity: Arc<Identity>,
    clock: Arc<SimulatedClock>,
    outbox: Arc<Outbox>,
}

/// Takes every message, or none while it is `shut`.
#[derive(Default)]
struct Outbox {
    messages: Mutex<Vec<Message>>,
    shut: AtomicBool,
}

impl Mailer for Outbox {
    fn deliver(&self, message: Message) -> BoxFuture<'_, Result<(), MailFailure>> {
        let taken = match self.shut.load(Ordering::SeqCst) {
            true => Err(MailFailure { reason: "it is shut".to_owned(), is_refusal: false }),
            false => {
                self.messages.lock().push(message);
                Ok(())
            }
        };
        std::future::ready(taken).boxed()
    }

    fn name(&self) -> String {
        "the test's outbox".to_owned()
    }
}

fn master() -> MasterKey {
    MasterKey::from_bytes([3; 32])
}

async fn start(journal: Arc<Journal>, clock: Arc<SimulatedClock>, policy: PasswordPolicy) -> World {
    let settings =
        IdentitySettings { algorithm: SigningAlgorithm::EdDsa, ..IdentitySettings::default() };
    let hasher = Hasher::start_with(policy, 2, 256).unwrap();
    let identity = Identity::new(settings, hasher, ClaimKey::of(&master()).unwrap());
    let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
    let outbox = Arc::new(Outbox::default());
    let office = PostOffice::new(outbox.clone(), "https://example.test");
    let builder = identity::register(System::builder(options), &identity).port(office);
    let system = builder.start();
    identity.start(&system).await.unwrap();
    World { system, identity, clock, outbox }
}

async fn world() -> World {
    let options = Options { engine: EngineKind::Memory, ..Options::new("unused") };
    let journal = Journal::open(options, &master()).unwrap();
    start(journal, SimulatedClock::at(START), POLICY).await
}

impl World {
    /// The same journal in a new process, as it were.
    async fn restarted(self, policy: PasswordPolicy) -> World {
        while self.system.kinds().iter().map(|kind| kind.drain_all()).sum::<usize>() > 0 {
            tokio::task::yield_now().await;
        }
        self.system.settle().await;
        start(self.system.journal().clone(), self.clock, policy).await
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What a sign-up does, every step twice.
    async fn sign_up(&self, email: &str) -> UserId {
        let (system, user) = (&self.system, UserId(self.system.new_id()));
        let (tenant, origin) = (user.direct_tenant(), || system.system_origin());
        let claim = EmailAddress::new(email).unwrap().claim(self.identity.claim_key());
        let password = self.identity.hash_password(PASSWORD.to_owned()).await.unwrap();
        for _ in 0..2 {
            let reserve = Reserve { holder: user.0 };
            system.directory::<Claim>().ask(&claim, reserve, origin()).await.unwrap();
            let create = user::Create {
                id: user,
                home: tenant,
                membership: Membership { role: OWNER_ROLE.to_owned(), scopes: Scopes::all() },
                email: email.to_owned(),
                name: Some("Ada".to_owned()),
                password: Some(password.clone()),
                auth_method: AuthMethod::Password,
                email_verified: false,
                attributes: json!({}).into(),
            };
            let users = system.directory::<User>();
            users.ask(&User::address(user, tenant), create, origin()).await.unwrap();
            self.create_tenant(tenant, user).await;
            let confirm = Confirm { holder: user.0, target: ClaimTarget { user, tenant } };
            system.directory::<Claim>().ask(&claim, confirm, origin()).await.unwrap();
        }
        user
    }

    async fn create_tenant(&self, id: TenantId, owner: UserId) {
        let (name, owner_role) = ("Acme".to_owned(), OWNER_ROLE.to_owned());
        let create = tenant::Create { id, name, owner, owner_role, direct: true };
        let tenants = self.system.directory::<Tenant>();
        let origin = self.system.system_origin();
        tenants.ask(&Tenant::address(id), create, origin).await.unwrap();
    }

    async fn try_login(&self, email: &str, password: &str) -> Result<Tokens, Refusal> {
        self.identity.login(attempt(email, password)).await
    }

    async fn login(&self) -> Tokens {
        self.try_login(EMAIL, PASSWORD).await.unwrap()
    }

    async fn refresh(&self, token: &str) -> Result<Tokens, Refusal> {
        self.identity.refresh(token, TokenLife::Standard, 1.into()).await
    }

    async fn caller(&self, tokens: &Tokens) -> Caller {
        let caller = self.identity.authenticate(&tokens.access_token, self.now()).await;
        caller.unwrap().caller.clone()
    }

    async fn is_good(&self, tokens: &Tokens) -> bool {
        match self.identity.authenticate(&tokens.access_token, self.now()).await {
            Ok(_) => true,
            Err(refusal) => {
                assert_eq!(refusal.code, "invalid_token");
                false
            }
        }
    }
}

fn attempt(email: &str, password: &str) -> LoginAttempt {
    LoginAttempt {
        email: email.to_owned(),
        password: password.to_owned(),
        tenant: None,
        address: "192.0.2.1".to_owned(),
        device: Some("a browser".to_owned()),
        life: TokenLife::Standard,
        request: 1.into(),
    }
}

/// Waits for an effect, which runs beside its entity.
async fn until(happened: impl Fn() -> bool) {
    while !happened() {
        tokio::task::yield_now().await;
    }
}

fn code<T>(outcome: Result<T, Refusal>) -> String {
    match outcome {
        Ok(_) => "accepted".to_owned(),
        Err(refusal) => refusal.code,
    }
}

#[tokio::test]
async fn a_login_gives_tokens_that_say_who_it_is() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let tokens = world.try_login(" Ada@Example.TEST ", PASSWORD).await.unwrap();
    assert_eq!((tokens.user, tokens.tenant), (user, user.direct_tenant()));
    assert_eq!(tokens.expires_in, 900);
    let caller = world.identity.authenticate(&tokens.access_token, world.now()).await.unwrap();
    let again = world.identity.authenticate(&tokens.access_token, world.now()).await.unwrap();
    assert!(Arc::ptr_eq(&caller, &again), "the second time it is remembered");
    let caller = &caller.caller;
    let keys = world.identity.signing_keys().get().unwrap().set;
    let now_ms = world.now().0 as u64;
    let claims = token::verify(&keys, &tokens.access_token, now_ms, "bailiwick", "bailiwick");
    let claims = claims.unwrap();
    assert_eq!((caller.user, caller.session), (Some(user), Some(tokens.session)));
    assert_eq!((caller.role.as_str(), caller.scopes.covers("any:thing")), ("owner", true));
    assert_eq!((claims.email.as_str(), claims.exp - claims.iat), (EMAIL, 900));
    let me = world.identity.me(caller).await.unwrap();
    assert_eq!((me.email.as_str(), me.name.as_deref()), (EMAIL, Some("Ada")));
    assert_eq!((me.role.as_str(), me.last_login), ("owner", Some(START)));
    let tenants = world.identity.tenants(user).await.unwrap();
    assert_eq!((tenants.len(), tenants[0].name.as_str()), (1, "Acme"));
    world.clock.advance_ms(900_000);
    assert!(!world.is_good(&tokens).await, "after its life it is over");
    let account = LoginAttempt { life: TokenLife::Account, ..attempt(EMAIL, PASSWORD) };
    assert_eq!(world.identity.login(account).await.unwrap().expires_in, 3_600);
    assert!(!format!("{tokens:?}").contains(&tokens.refresh_token));
}

#[tokio::test]
async fn unknown_and_wrong_are_one_answer() {
    let world = world().await;
    world.sign_up(EMAIL).await;
    let wrong = world.try_login(EMAIL, "correct horsf").await.unwrap_err();
    for (email, password) in [
        ("eve@example.test", PASSWORD),
        ("no address", PASSWORD),
        (EMAIL, ""),
        (EMAIL, &"x".repeat(2_000)),
    ] {
        assert_eq!(world.try_login(email, password).await.unwrap_err(), wrong, "{email}");
    }
    assert_eq!((wrong.class, wrong.code.as_str()), (Class::Unauthenticated, "invalid_credentials"));
    let woken = world.system.directory::<Claim>().activations();
    assert_eq!(woken, 2, "the user's own and one for all strangers");
    assert_eq!(code(world.identity.hash_password("short".to_owned()).await), "validation_error");
}

#[tokio::test]
async fn guessing_is_slowed_down_where_it_comes_from_only() {
    let world = world().await;
    world.sign_up(EMAIL).await;
    let guesses = (0..40).map(|_| world.try_login(EMAIL, "a wild guess"));
    let guesses = futures::future::join_all(guesses).await;
    let tried = guesses
        .into_iter()
        .filter(|guess| guess.as_ref().is_err_and(|refusal| refusal.code == "invalid_credentials"));
    assert_eq!(tried.count(), ATTEMPTS_MAX as usize, "a burst gets no more than a slow guesser");
    let refused = world.try_login(EMAIL, PASSWORD).await.unwrap_err();
    assert_eq!((refused.class, refused.retry_after_ms), (Class::TooMany, Some(WINDOW_MS as u64)));
    let elsewhere = LoginAttempt { address: "192.0.2.2".to_owned(), ..attempt(EMAIL, PASSWORD) };
    assert_eq!(
        code(world.identity.login(elsewhere).await),
        "accepted",
        "the owner is not shut out"
    );
    world.clock.advance_ms(WINDOW_MS);
    assert_eq!(code(world.try_login(EMAIL, PASSWORD).await), "accepted");
    assert_eq!(code(world.try_login(EMAIL, "a wild guess").await), "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_parallel_refreshes_of_one_token_get_one_successor() {
    let world = Arc::new(world().await);
    world.sign_up(EMAIL).await;
    let first = world.login().await;
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let (world, token) = (world.clone(), first.refresh_token.clone());
            tokio::spawn(async move { world.refresh(&token).await.unwrap() })
        })
        .collect();
    let answers = futures::future::join_all(tasks).await;
    let answers: Vec<Tokens> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    let successor = &answers[0].refresh_token;
    assert!(answers.iter().all(|answer| answer.refresh_token == *successor));
    assert_ne!(*successor, first.refresh_token);
    assert!(world.is_good(&answers[39]).await);
    let second = world.refresh(successor).await.unwrap();
    assert_ne!(second.refresh_token, *successor);
}

#[tokio::test]
async fn reuse_ends_the_session_after_a_restart_too() {
    let world = world().await;
    world.sign_up(EMAIL).await;
    let first = world.login().await;
    let second = world.refresh(&first.refresh_token).await.unwrap();
    let third = world.refresh(&second.refresh_token).await.unwrap();
    assert!(world.is_good(&third).await);
    let world = world.restarted(POLICY).await;
    assert!(world.is_good(&third).await);
    world.clock.advance_ms(SAME_SUCCESSOR_MS as i64);
    let refused = world.refresh(&second.refresh_token).await.unwrap_err();
    assert_eq!((refused.class, refused.code.as_str()), (Class::Unauthenticated, "invalid_token"));
    for tokens in [&first, &second, &third] {
        assert!(!world.is_good(tokens).await, "access tokens of the session are over as well");
    }
    let world = world.restarted(POLICY).await;
    assert_eq!(code(world.refresh(&third.refresh_token).await), "invalid_token");
    assert!(!world.is_good(&third).await, "the restart remembers");
    assert!(world.is_good(&world.login().await).await);
}

#[tokio::test]
async fn a_tampered_locator_finds_no_session_and_wakes_none() {
    let world = world().await;
    world.sign_up(EMAIL).await;
    let first = world.login().await;
    let world = world.restarted(POLICY).await;
    let (token, locator) = first.refresh_token.split_once('.').unwrap();
    let locator = URL_SAFE_NO_PAD.decode(locator).unwrap();
    for at in [0, 15, 16, 31, 32, 47] {
        let mut other = locator.clone();
        other[at] ^= 1;
        let other = format!("{token}.{}", URL_SAFE_NO_PAD.encode(other));
        assert_eq!(code(world.refresh(&other).await), "invalid_token");
        world.identity.logout(&other, 1.into()).await.unwrap();
    }
    for other in ["", "garbage", token] {
        assert_eq!(code(world.refresh(other).await), "invalid_token");
    }
    assert_eq!(world.system.directory::<Session>().activations(), 0);
    assert_eq!(code(world.refresh(&first.refresh_token).await), "accepted");
}

#[tokio::test]
async fn logging_out_ends_the_session_and_no_other() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let (here, there) = (world.login().await, world.login().await);
    assert!(world.is_good(&here).await && world.is_good(&there).await);
    let sessions = world.identity.open_sessions(user, None).await.unwrap();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0].whence.user_agent.as_deref(), Some("a browser"));
    world.identity.logout(&here.refresh_token, 1.into()).await.unwrap();
    world.identity.logout(&here.refresh_token, 1.into()).await.unwrap();
    assert!(!world.is_good(&here).await);
    assert_eq!(code(world.refresh(&here.refresh_token).await), "invalid_token");
    assert!(world.is_good(&there).await);
    let third = world.login().await;
    let (keep, origin) = (Some(third.session), world.system.system_origin());
    let ended =
        world.identity.revoke_other_sessions(user, None, keep, origin.clone()).await.unwrap();
    assert_eq!(ended, 1);
    assert!(!world.is_good(&there).await && world.is_good(&third).await);
    let sessions = world.identity.open_sessions(user, None).await.unwrap();
    assert_eq!(sessions.iter().map(|it| it.session).collect::<Vec<_>>(), [third.session]);
    let stranger = world.identity.revoke_session(UserId(1), third.session, origin).await;
    assert_eq!(code(stranger), "not_found");
}

#[tokio::test]
async fn another_password_ends_every_session_but_the_callers() {
    let world = world().await;
    world.sign_up(EMAIL).await;
    let (tokens, others) = (world.login().await, world.login().await);
    let caller = world.caller(&tokens).await;
    let change = |current: &str, new: &str| {
        let (identity, origin) = (world.identity.clone(), world.system.system_origin());
        let (caller, current, new) = (caller.clone(), current.to_owned(), new.to_owned());
        async move { identity.change_password(&caller, current, new, origin).await }
    };
    let refused = change("not it", "another horse").await.unwrap_err();
    assert_eq!((refused.class, refused.code.as_str()), (Class::Forbidden, "wrong_password"));
    assert_eq!(code(change(PASSWORD, "short").await), "validation_error");
    assert!(world.is_good(&tokens).await);
    assert_eq!(code(change(PASSWORD, "Ada@Example.test").await), "validation_error");
    change(PASSWORD, "another horse").await.unwrap();
    assert!(world.is_good(&tokens).await && !world.is_good(&others).await);
    assert_eq!(code(world.refresh(&others.refresh_token).await), "invalid_token");
    assert_eq!(code(world.refresh(&tokens.refresh_token).await), "accepted");
    assert_eq!(code(world.try_login(EMAIL, PASSWORD).await), "invalid_credentials");
    assert_eq!(code(world.try_login(EMAIL, "another horse").await), "accepted");
}

#[tokio::test]
async fn users_and_tenants_are_switched_off_and_on() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let tokens = world.login().await;
    let (identity, origin) = (&world.identity, || world.system.system_origin());
    let set = |active| tenant::SetActive { active };
    identity.change_tenant(tokens.tenant, set(false), origin()).await.unwrap();
    assert!(!world.is_good(&tokens).await);
    assert_eq!(code(world.try_login(EMAIL, PASSWORD).await), "tenant_inactive");
    let refused = world.refresh(&tokens.refresh_token).await.unwrap_err();
    assert_eq!((refused.class, refused.code.as_str()), (Class::Forbidden, "tenant_inactive"));
    identity.change_tenant(tokens.tenant, set(true), origin()).await.unwrap();
    let tokens = world.refresh(&tokens.refresh_token).await.unwrap();
    assert!(world.is_good(&tokens).await, "the session went on");
    identity.change_user(user, BumpEpoch {}, origin()).await.unwrap();
    assert!(!world.is_good(&tokens).await);
    assert_eq!(code(world.refresh(&tokens.refresh_token).await), "invalid_token");
    let set = |active| user::SetActive { active };
    identity.change_user(user, set(false), origin()).await.unwrap();
    assert_eq!(code(world.try_login(EMAIL, PASSWORD).await), "account_disabled");
    assert_eq!(code(world.try_login(EMAIL, "a wild guess").await), "invalid_credentials");
    identity.change_user(user, set(true), origin()).await.unwrap();
    assert!(world.is_good(&world.login().await).await);
}

#[tokio::test]
async fn an_entity_that_is_asked_by_itself_raises_its_epoch_too() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let origin = || world.system.system_origin();
    let tokens = [world.login().await, world.login().await, world.login().await];
    for tokens in &tokens {
        assert!(world.is_good(tokens).await);
    }
    let (session, tenant) = (tokens[0].session, tokens[0].tenant);
    let address = Session::address(session, user, tenant);
    world.system.directory::<Session>().ask(&address, Revoke {}, origin()).await.unwrap();
    until(|| world.identity.epochs().owner_count() == 1).await;
    assert!(!world.is_good(&tokens[0]).await && world.is_good(&tokens[1]).await);
    let tenants = world.system.directory::<Tenant>();
    tenants.ask(&Tenant::address(tenant), tenant::BumpEpoch {}, origin()).await.unwrap();
    until(|| world.identity.epochs().owner_count() == 2).await;
    assert!(!world.is_good(&tokens[1]).await);
    let again = world.refresh(&tokens[1].refresh_token).await.unwrap();
    assert!(world.is_good(&again).await);
    let (users, address) = (world.system.directory::<User>(), User::address(user, tenant));
    users.ask(&address, BumpEpoch {}, origin()).await.unwrap();
    until(|| world.identity.epochs().owner_count() == 3).await;
    assert!(!world.is_good(&again).await);
}

#[tokio::test]
async fn a_member_of_two_tenants_chooses_at_login_and_keeps_its_session_across_roles() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let other = TenantId(77);
    world.create_tenant(other, UserId(77)).await;
    let to_other = || LoginAttempt { tenant: Some(other), ..attempt(EMAIL, PASSWORD) };
    assert_eq!(code(world.identity.login(to_other()).await), "not_a_member");
    let origin = || world.system.system_origin();
    let set = |role: &str, is_new| {
        let (role, rights) = (role.to_owned(), Scopes::all());
        world.identity.change_members(other, AddMember { user, role, rights, is_new }, origin())
    };
    set("viewer", true).await.unwrap();
    let tokens = world.identity.login(to_other()).await.unwrap();
    let (own, caller) = (world.login().await, world.caller(&tokens).await);
    assert_eq!((caller.tenant, caller.role.as_str()), (other, "viewer"));
    assert!(caller.scopes.covers("extensions:read") && !caller.scopes.covers("wallet:spend"));
    set("developer", false).await.unwrap();
    assert!(!world.is_good(&tokens).await, "it says the old role");
    assert!(world.is_good(&own).await, "it is for another tenant");
    let tokens = world.refresh(&tokens.refresh_token).await.unwrap();
    assert!(world.caller(&tokens).await.scopes.covers("wallet:spend"));
    let remove = RemoveMember { user, rights: Scopes::all() };
    world.identity.change_members(other, remove, origin()).await.unwrap();
    assert!(!world.is_good(&tokens).await && world.is_good(&own).await);
    assert_eq!(code(world.refresh(&tokens.refresh_token).await), "invalid_token");
    assert_eq!(world.caller(&world.login().await).await.tenant, user.direct_tenant());
}

#[tokio::test]
async fn a_member_who_could_not_be_told_is_told_after_a_restart() {
    let world = world().await;
    let (user, other) = (world.sign_up(EMAIL).await, TenantId(77));
    world.create_tenant(other, UserId(77)).await;
    let (role, rights) = ("viewer".to_owned(), Scopes::all());
    let add = AddMember { user, role, rights, is_new: true };
    world.identity.change_members(other, add, world.system.system_origin()).await.unwrap();
    let to_other = LoginAttempt { tenant: Some(other), ..attempt(EMAIL, PASSWORD) };
    let tokens = world.identity.login(to_other).await.unwrap();

    let address = User::address(user, user.direct_tenant());
    world.system.kind("user").unwrap().quarantine(address.id(), "for the test");
    let remove = RemoveMember { user, rights: Scopes::all() };
    let origin = world.system.system_origin();
    let refused = world.identity.change_members(other, remove, origin).await.unwrap_err();
    assert_eq!(refused.class, Class::InDoubt, "the change stands; its effect is not known");
    let is_member = move |tenant: &Tenant| tenant.membership(user).is_some();
    assert_eq!(world.identity.look_tenant(other, is_member).await, Ok(Some(false)));

    let world = world.restarted(POLICY).await;
    world.system.recover().unwrap();
    while !world.identity.user(user, other).await.unwrap().role.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!world.is_good(&tokens).await);
    assert_eq!(code(world.refresh(&tokens.refresh_token).await), "invalid_token");
}

#[tokio::test]
async fn a_session_without_a_password_may_be_repeated_by_its_id() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let new = NewSession {
        user,
        tenant: None,
        session: Some(types::SessionId(world.system.new_id())),
        device: None,
        life: TokenLife::Account,
        request: 1.into(),
    };
    let first = world.identity.open_session(new.clone()).await.unwrap();
    let again = world.identity.open_session(new.clone()).await.unwrap();
    assert_eq!(first, again);
    assert!(world.is_good(&again).await);
    let nobody = NewSession { user: UserId(1), ..new };
    assert_eq!(code(world.identity.open_session(nobody).await), "not_found");
}

#[tokio::test]
async fn a_stronger_policy_renews_the_hash_at_the_next_login() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let tokens = world.login().await;
    let stronger = PasswordPolicy { memory_kib: 16, ..POLICY };
    let world = world.restarted(stronger).await;
    world.login().await;
    let users = world.system.directory::<User>();
    let address = world.identity.user_address(user).unwrap().unwrap();
    let hash = |user: &User| user.account(None).unwrap().password.unwrap();
    let hash = users.look(&address, world.system.system_origin(), hash).await.unwrap();
    assert!(hash.as_str().contains("m=16,"), "{}", hash.as_str());
    assert!(world.is_good(&tokens).await, "and ends nothing");
    world.login().await;
}

#[tokio::test]
async fn keys_rotate_and_old_tokens_stay_good() {
    let world = world().await;
    world.sign_up(EMAIL).await;
    assert_eq!(code(world.identity.rotate_keys().await), "signing_key_rotation_too_soon");
    world.clock.advance_ms(NEXT_PUBLISHED_MS_MIN as i64);
    let before = world.login().await;
    world.identity.housekeep().await.unwrap();
    let jwks = world.identity.jwks().unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2, "the period is not over");
    world.identity.rotate_keys().await.unwrap();
    let after = world.login().await;
    let kid = |tokens: &Tokens| tokens.access_token.split('.').next().unwrap().to_owned();
    assert_ne!(kid(&before), kid(&after));
    assert!(world.is_good(&before).await && world.is_good(&after).await);
    let jwks = world.identity.jwks().unwrap();
    let world = world.restarted(POLICY).await;
    assert_eq!(world.identity.jwks().unwrap(), jwks);
    assert!(world.is_good(&before).await && world.is_good(&after).await);
    world.clock.advance_ms(90 * 24 * 3_600_000);
    world.identity.housekeep().await.unwrap();
    assert_ne!(world.identity.jwks().unwrap(), jwks);
}

#[tokio::test]
async fn the_first_operator_is_created_once() {
    let world = world().await;
    let email = "root@example.test";
    let made = world.identity.ensure_operator(email, None).await.unwrap();
    let Bootstrap::Created { user, password: Some(password) } = made else { panic!("{made:?}") };
    assert_eq!(password.len(), 32);
    let tokens = world.try_login(email, &password).await.unwrap();
    assert_eq!((tokens.user, tokens.tenant), (user, TenantId::SYSTEM));
    let caller = world.caller(&tokens).await;
    assert!(caller.is_operator() && caller.role == "operator");
    let world = world.restarted(POLICY).await;
    let given = Some("another password".to_owned());
    let again = world.identity.ensure_operator("other@example.test", given).await.unwrap();
    assert!(matches!(again, Bootstrap::Present));
    assert_eq!(code(world.try_login(email, &password).await), "accepted");
}

#[tokio::test]
async fn a_bootstrap_that_was_cut_short_is_finished_and_takes_nobodys_address() {
    let world = world().await;
    world.sign_up(EMAIL).await;
    let given = || Some("given by its settings".to_owned());
    assert_eq!(code(world.identity.ensure_operator(EMAIL, given()).await), "already_claimed");
    let email = "root@example.test";
    let claim = EmailAddress::new(email).unwrap().claim(world.identity.claim_key());
    let claims = world.system.directory::<Claim>();
    let reserve = Reserve { holder: 99 };
    claims.ask(&claim, reserve, world.system.system_origin()).await.unwrap();
    let made = world.identity.ensure_operator(email, given()).await.unwrap();
    assert!(matches!(made, Bootstrap::Created { user: UserId(99), password: None }), "{made:?}");
    let tokens = world.try_login(email, "given by its settings").await.unwrap();
    assert!(world.caller(&tokens).await.is_operator());
}
