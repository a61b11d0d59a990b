//! Logging in with a second factor, under attack, and across rotations of the signing key, on a
//! whole system in memory with a clock that the test sets.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::sync::Arc;

use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, EmailAddress, Reserve};
use identity::factor_login::{ENROLMENT_TOKEN_MS, FactorLogin, FreshProof, LOGIN_TOKEN_MS};
use identity::factor_login::{Shown, ShownFactor};
use identity::login::{LoginAttempt, TokenLife, Tokens};
use identity::password::{Hasher, PasswordPolicy};
use identity::second_factor::{
    BeginTotp, ConfirmTotp, FactorId, RecoveryCodes, Remove, SecondFactors,
};
use identity::service::KEY_PERIOD_MS;
use identity::sign_in_policy::{SetPolicy, SignInPolicy};
use identity::signing_keys::{NEXT_PUBLISHED_MS_MIN, SigningAlgorithm};
use identity::tenant::{self, OWNER_ROLE, Tenant};
use identity::throttle::{ACCOUNT_CODES_MAX, ADDRESS_ATTEMPTS_MAX, ATTEMPTS_MAX, WINDOW_MS};
use identity::totp::{STEP_SECONDS, Secret, step_at};
use identity::user::{self, AuthMethod, BumpEpoch, Membership, User};
use identity::{Identity, IdentitySettings};
use persistence::{EngineKind, Journal, MasterKey, Options};
use serde_json::{Value, json};
use supervision::{Class, Clock, Refusal, SimulatedClock, System, SystemOptions, Timestamp};
use types::{Scopes, TenantId, UserId};

const START: Timestamp = Timestamp(1_800_000_000_000);
const PASSWORD: &str = "correct horse";
const EMAIL: &str = "ada@example.test";
const HOME: &str = "192.0.2.1";
const STEP_MS: i64 = STEP_SECONDS as i64 * 1_000;

struct World {
    system: Arc<System>,
    identity: Arc<Identity>,
    clock: Arc<SimulatedClock>,
}

fn master() -> MasterKey {
    MasterKey::from_bytes([3; 32])
}

async fn start(journal: Arc<Journal>, clock: Arc<SimulatedClock>) -> World {
    let settings = IdentitySettings {
        algorithm: SigningAlgorithm::EdDsa,
        token_life_s: 24 * 3_600,
        ..IdentitySettings::default()
    };
    let policy = PasswordPolicy { memory_kib: 8, passes: 1, lanes: 1 };
    let hasher = Hasher::start_with(policy, 2, 256).unwrap();
    let identity = Identity::new(settings, hasher, ClaimKey::of(&master()).unwrap());
    let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
    let system = identity::register(System::builder(options), &identity).start();
    identity.start(&system).await.unwrap();
    World { system, identity, clock }
}

/// A world with one user, Ada.
async fn world() -> (World, UserId) {
    let options = Options { engine: EngineKind::Memory, ..Options::new("unused") };
    let journal = Journal::open(options, &master()).unwrap();
    let world = start(journal, SimulatedClock::at(START)).await;
    let ada = world.sign_up(EMAIL).await;
    (world, ada)
}

fn code<T>(outcome: Result<T, Refusal>) -> String {
    outcome.map_or_else(|refusal| refusal.code, |_| "accepted".to_owned())
}

fn facts(refusal: &Refusal) -> Value {
    serde_json::from_str(refusal.facts.as_deref().unwrap_or("null")).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn attempt(address: &str, password: &str) -> LoginAttempt {
    LoginAttempt {
        email: EMAIL.to_owned(),
        password: password.to_owned(),
        tenant: None,
        address: address.to_owned(),
        device: None,
        life: TokenLife::Standard,
        request: 1.into(),
    }
}

impl World {
    /// The same journal in a new process, as it were.
    async fn restarted(self) -> World {
        while self.system.kinds().iter().map(|kind| kind.drain_all()).sum::<usize>() > 0 {
            tokio::task::yield_now().await;
        }
        self.system.settle().await;
        start(self.system.journal().clone(), self.clock).await
    }

    async fn sign_up(&self, email: &str) -> UserId {
        let (system, user) = (&self.system, UserId(self.system.new_id()));
        let (tenant, origin) = (user.direct_tenant(), || system.system_origin());
        let claim = EmailAddress::new(email).unwrap().claim(self.identity.claim_key());
        let password = self.identity.hash_password(PASSWORD.to_owned()).await.unwrap();
        let claims = system.directory::<Claim>();
        claims.ask(&claim, Reserve { holder: user.0 }, origin()).await.unwrap();
        let create = user::Create {
            id: user,
            home: tenant,
            membership: Membership { role: OWNER_ROLE.to_owned(), scopes: Scopes::all() },
            email: email.to_owned(),
            name: None,
            password: Some(password),
            auth_method: AuthMethod::Password,
            email_verified: true,
            attributes: json!({}).into(),
        };
        let users = system.directory::<User>();
        users.ask(&User::address(user, tenant), create, origin()).await.unwrap();
        let (name, owner_role) = ("Acme".to_owned(), OWNER_ROLE.to_owned());
        let create = tenant::Create { id: tenant, name, owner: user, owner_role, direct: true };
        let tenants = system.directory::<Tenant>();
        tenants.ask(&Tenant::address(tenant), create, origin()).await.unwrap();
        let confirm = Confirm { holder: user.0, target: ClaimTarget { user, tenant } };
        claims.ask(&claim, confirm, origin()).await.unwrap();
        user
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn code(&self, secret: &Secret) -> String {
        secret.code(step_at(self.now()))
    }

    /// Enrols an authenticator app; a step later it can be used.
    async fn enrol(&self, user: UserId) -> (FactorId, Secret, RecoveryCodes) {
        let id = FactorId(self.system.new_id());
        let secret = Secret::generate().unwrap();
        let shown = Secret::parse(&secret.text()).unwrap();
        let address = self.identity.factors_address(user).unwrap();
        let (factors, origin) = (self.system.directory(), || self.system.system_origin());
        let begin = BeginTotp { id, user, secret, label: Some("phone".to_owned()) };
        factors.ask(&address, begin, origin()).await.unwrap();
        let codes = RecoveryCodes::generate().unwrap();
        let confirm = ConfirmTotp { id, code: self.code(&shown), codes };
        let confirmed = factors.ask(&address, confirm, origin()).await.unwrap();
        self.clock.advance_ms(STEP_MS);
        (id, shown, confirmed.recovery_codes.unwrap())
    }

    async fn login(&self, address: &str, otp: Option<&str>) -> Result<Tokens, Refusal> {
        let shown = Shown { otp: otp.map(str::to_owned), device_token: None };
        self.identity.login_showing(attempt(address, PASSWORD), shown).await
    }

    async fn second(
        &self,
        token: &str,
        address: &str,
        factor: ShownFactor,
    ) -> Result<Tokens, Refusal> {
        let login = FactorLogin {
            login_token: token.to_owned(),
            factor,
            address: address.to_owned(),
            device: None,
            device_token: None,
            request: 2.into(),
        };
        self.identity.login_with_factor(login).await
    }

    async fn is_good(&self, tokens: &Tokens) -> bool {
        self.identity.authenticate(&tokens.access_token, self.now()).await.is_ok()
    }

    fn kids(&self) -> Vec<String> {
        let jwks = self.identity.jwks().unwrap();
        jwks["keys"].as_array().unwrap().iter().map(|key| text(&key["kid"])).collect()
    }
}

#[tokio::test]
async fn whoever_has_a_factor_needs_it_and_a_login_token_completes_one_login() {
    let (world, ada) = world().await;
    assert_eq!(code(world.login(HOME, None).await), "accepted");
    assert_eq!(world.system.directory::<SecondFactors>().activations(), 0, "none is woken");
    let (_, secret, _) = world.enrol(ada).await;
    let refused = world.login(HOME, None).await.unwrap_err();
    assert_eq!(refused.class, Class::Unauthenticated);
    assert_eq!(refused.code, "second_factor_required");
    assert_eq!(facts(&refused)["factors"], json!(["totp", "recovery_code"]));
    let token = text(&facts(&refused)["login_token"]);
    assert!(!format!("{refused}").contains(&token));
    let good = || ShownFactor::Code(world.code(&secret));
    let wrong = || ShownFactor::Code("000000".to_owned());
    assert_eq!(code(world.second(&token, "192.0.2.2", good()).await), "invalid_login_token");
    assert_eq!(code(world.second(&token, HOME, wrong()).await), "invalid_second_factor");
    assert_eq!(code(world.second("bw_login_x", HOME, good()).await), "invalid_login_token");
    let tokens = world.second(&token, HOME, good()).await.unwrap();
    assert!(world.is_good(&tokens).await && tokens.user == ada);
    world.clock.advance_ms(STEP_MS);
    assert_eq!(code(world.second(&token, HOME, good()).await), "login_token_used");
    let world = world.restarted().await;
    let again = ShownFactor::Code(world.code(&secret));
    assert_eq!(code(world.second(&token, HOME, again).await), "login_token_used");
    assert!(!world.is_good(&Tokens { access_token: token, ..tokens }).await, "it is no session");
}

#[tokio::test]
async fn a_login_token_is_over_after_five_minutes_and_with_the_users_tokens() {
    let (world, ada) = world().await;
    let (_, secret, _) = world.enrol(ada).await;
    let token =
        || async { text(&facts(&world.login(HOME, None).await.unwrap_err())["login_token"]) };
    let good = || ShownFactor::Code(world.code(&secret));
    let old = token().await;
    world.clock.advance_ms(LOGIN_TOKEN_MS);
    assert_eq!(code(world.second(&old, HOME, good()).await), "invalid_login_token");
    let revoked = token().await;
    let origin = world.system.system_origin();
    world.identity.change_user(ada, BumpEpoch {}, origin).await.unwrap();
    assert_eq!(code(world.second(&revoked, HOME, good()).await), "invalid_login_token");
    let fresh = token().await;
    assert_eq!(code(world.second(&fresh, HOME, good()).await), "accepted");
}

#[tokio::test]
async fn password_and_code_in_one_go_and_a_code_only_once_among_many() {
    let (world, ada) = world().await;
    let (_, secret, recovery) = world.enrol(ada).await;
    let otp = world.code(&secret);
    let at_once = (0..ATTEMPTS_MAX).map(|_| world.login(HOME, Some(&otp)));
    let outcomes = futures::future::join_all(at_once).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let recovery: Vec<_> = recovery.texts().map(str::to_owned).collect();
    world.clock.advance_ms(WINDOW_MS);
    assert_eq!(code(world.login(HOME, Some(&recovery[0])).await), "accepted");
    assert_eq!(code(world.login(HOME, Some(&recovery[0])).await), "invalid_second_factor");
    let wrong = Shown { otp: Some(world.code(&secret)), device_token: None };
    let refused = world.identity.login_showing(attempt(HOME, "a wild guess"), wrong).await;
    assert_eq!(code(refused), "invalid_credentials", "the code tells nothing of the password");
}

#[tokio::test]
async fn removing_the_factor_needs_a_proof_and_ends_the_second_step() {
    let (world, ada) = world().await;
    let (id, _, recovery) = world.enrol(ada).await;
    let password = |text: &str| FreshProof::Password(text.to_owned());
    let refused = world.identity.prove(ada, password("a wild guess")).await;
    assert_eq!(code(refused), "wrong_password");
    let address = world.identity.factors_address(ada).unwrap();
    let origin = || world.system.system_origin();
    let wrong = FreshProof::Code("123456".to_owned());
    let proof = world.identity.prove(ada, wrong).await.unwrap();
    let removed = world.system.directory().ask(&address, Remove { id, proof }, origin()).await;
    assert_eq!(removed.unwrap_err().class, Class::Forbidden);
    let right = FreshProof::Code(recovery.texts().next().unwrap().to_owned());
    let proof = world.identity.prove(ada, right).await.unwrap();
    world.system.directory().ask(&address, Remove { id, proof }, origin()).await.unwrap();
    assert_eq!(code(world.login(HOME, None).await), "accepted");
}

#[tokio::test]
async fn a_tenant_may_ask_for_a_factor_and_its_members_may_then_only_enrol() {
    let (world, ada) = world().await;
    let tenant: TenantId = ada.direct_tenant();
    let policy = SignInPolicy::address(tenant);
    let set = SetPolicy { require_second_factor: true };
    world.system.directory().ask(&policy, set, world.system.system_origin()).await.unwrap();
    let refused = world.login(HOME, Some("123456")).await.unwrap_err();
    assert_eq!(
        (refused.class, refused.code.as_str()),
        (Class::Forbidden, { "second_factor_enrolment_required" })
    );
    let token = text(&facts(&refused)["enrolment_token"]);
    let caller = world.identity.enroller(&token).await.unwrap();
    assert_eq!((caller.user, caller.tenant, caller.session), (Some(ada), tenant, None));
    assert!(caller.scopes.as_slice().is_empty());
    assert_eq!(code(world.identity.authenticate(&token, world.now()).await), "invalid_token");
    let as_login = world.second(&token, HOME, ShownFactor::Code("123456".to_owned())).await;
    assert_eq!(code(as_login), "invalid_login_token");
    let (_, secret, _) = world.enrol(ada).await;
    assert_eq!(code(world.identity.enroller(&token).await), "invalid_token", "there is one now");
    assert_eq!(code(world.login(HOME, None).await), "second_factor_required");
    assert_eq!(code(world.login(HOME, Some(&world.code(&secret))).await), "accepted");
    let bob = world.sign_up("bob@example.test").await;
    assert_ne!(bob.direct_tenant(), tenant);
    let bob = LoginAttempt { email: "bob@example.test".to_owned(), ..attempt(HOME, PASSWORD) };
    assert_eq!(code(world.identity.login(bob).await), "accepted", "another tenant asks for none");
}

#[tokio::test]
async fn an_enrolment_token_is_over_after_its_time() {
    let (world, ada) = world().await;
    let policy = SignInPolicy::address(ada.direct_tenant());
    let set = SetPolicy { require_second_factor: true };
    world.system.directory().ask(&policy, set, world.system.system_origin()).await.unwrap();
    let refused = world.login(HOME, None).await.unwrap_err();
    let token = text(&facts(&refused)["enrolment_token"]);
    world.clock.advance_ms(ENROLMENT_TOKEN_MS - 1);
    assert_eq!(code(world.identity.enroller(&token).await), "accepted");
    world.clock.advance_ms(1);
    assert_eq!(code(world.identity.enroller(&token).await), "invalid_token");
}

#[tokio::test]
async fn an_attack_from_a_hundred_addresses_shuts_the_owner_out_of_nothing() {
    let (world, ada) = world().await;
    let (_, secret, _) = world.enrol(ada).await;
    let first = world.login(HOME, Some(&world.code(&secret))).await.unwrap();
    world.clock.advance_ms(STEP_MS);
    let (mut guesses, mut codes) = (0, 0);
    for number in 0..100 {
        let address = format!("198.51.100.{number}");
        for _ in 0..10 {
            let guess = world.identity.login(attempt(&address, "a wild guess")).await;
            guesses += u32::from(code(guess) == "invalid_credentials");
        }
    }
    assert_eq!(guesses, 100 * ATTEMPTS_MAX, "as many as the addresses have");
    world.clock.advance_ms(WINDOW_MS);
    for number in 0..100 {
        // Whoever knows the password even.
        let address = format!("203.0.113.{number}");
        let guess = world.login(&address, Some("000000")).await;
        codes += u32::from(code(guess) == "invalid_second_factor");
    }
    assert_eq!(codes, ACCOUNT_CODES_MAX, "codes count for the account, wherever they come from");
    let otp = world.code(&secret);
    assert_eq!(code(world.login(HOME, Some(&otp)).await), "accepted", "the address is known");
    world.clock.advance_ms(STEP_MS);
    // The owner's device, at an address where attackers are, and where nobody may try any more.
    let elsewhere = "198.51.100.7";
    for number in 0..2 * ADDRESS_ATTEMPTS_MAX {
        let email = format!("{number}@example.test");
        let guess = LoginAttempt { email, ..attempt(elsewhere, "a wild guess") };
        let _ = world.identity.login(guess).await;
    }
    let without = world.login(elsewhere, Some(&world.code(&secret))).await;
    let refused = without.unwrap_err();
    assert_eq!((refused.class, refused.code.as_str()), (Class::TooMany, "too_many_attempts"));
    assert!(refused.retry_after_ms.is_some());
    let shown =
        || Shown { otp: Some(world.code(&secret)), device_token: first.device_token.clone() };
    let login = world.identity.login_showing(attempt(elsewhere, PASSWORD), shown()).await;
    assert_eq!(code(login), "accepted", "the device is known");
    let mallory = LoginAttempt { email: "x@example.test".to_owned(), ..attempt(elsewhere, "x") };
    let stolen = world.identity.login_showing(mallory, shown()).await;
    assert_eq!(code(stolen), "too_many_attempts", "a device is one account's");
}

#[tokio::test]
async fn all_ways_to_write_an_account_are_counted_as_one() {
    let (world, _) = world().await;
    let spellings =
        ["ada@example.test", "ADA@example.test", "  ada@EXAMPLE.test", "Ada@Example.Test\n"];
    let mut tried = 0;
    for spelling in spellings.iter().cycle().take(20) {
        let guess = LoginAttempt { email: (*spelling).to_owned(), ..attempt(HOME, "a wild guess") };
        tried += u32::from(code(world.identity.login(guess).await) == "invalid_credentials");
    }
    assert_eq!(tried, ATTEMPTS_MAX);
    // What looks like the account and is none never reaches it, and is counted together.
    let other = "198.51.100.1";
    let lookalikes =
        ["a\u{301}da@example.test", "ada\u{200b}@example.test", "ada @example.test", "ada"];
    tried = 0;
    for spelling in lookalikes.iter().cycle().take(20) {
        let guess = LoginAttempt { email: (*spelling).to_owned(), ..attempt(other, PASSWORD) };
        tried += u32::from(code(world.identity.login(guess).await) == "invalid_credentials");
    }
    assert_eq!(tried, ATTEMPTS_MAX);
}

#[tokio::test]
async fn a_key_is_next_then_current_then_previous_then_gone_across_restarts() {
    let (mut world, _) = world().await;
    let minute = 60_000;
    let life_ms = 24 * 3_600_000;
    let first = world.kids();
    let [next, current] = first.as_slice() else { panic!("{first:?}") };
    let early = world.login(HOME, None).await.unwrap();
    assert!(world.is_good(&early).await);
    // By schedule: not before the period is over, whoever looks how often.
    world.clock.advance_ms(KEY_PERIOD_MS as i64 - 1);
    world.identity.housekeep().await.unwrap();
    assert_eq!(world.kids(), first);
    world = world.restarted().await;
    let before = world.login(HOME, None).await.unwrap();
    world.clock.advance_ms(1);
    world.identity.housekeep().await.unwrap();
    let second = world.kids();
    assert_eq!(second[1..], [next.clone(), current.clone()], "published before its first use");
    world = world.restarted().await;
    assert_eq!(world.kids(), second);
    let after = world.login(HOME, None).await.unwrap();
    assert!(world.is_good(&before).await && world.is_good(&after).await);
    // The key that signs was public for longer than any answer of the JWKS is cached.
    let refused = world.identity.rotate_keys().await.unwrap_err();
    assert_eq!(refused.code, "signing_key_rotation_too_soon");
    world.clock.advance_ms(NEXT_PUBLISHED_MS_MIN as i64);
    world.identity.rotate_keys().await.unwrap();
    let third = world.kids();
    assert_eq!(third[1..], second, "by command: one step further");
    world = world.restarted().await;
    assert_eq!(world.kids(), third);
    world.clock.advance_ms(life_ms - NEXT_PUBLISHED_MS_MIN as i64 - minute);
    assert!(world.is_good(&before).await, "until it expires");
    assert!(world.is_good(&after).await);
    world.clock.advance_ms(2 * minute);
    assert!(!world.is_good(&before).await);
    world.clock.advance_ms(life_ms + minute);
    world.identity.rotate_keys().await.unwrap();
    let fourth = world.kids();
    assert!(!fourth.contains(current), "{current} can have no token any more");
}
