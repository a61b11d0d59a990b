//! API keys and the list of sessions, on a whole system in memory.

use std::sync::atomic::{AtomicBool, Ordering};

use identity::api_key::{ApiKeys, DeleteKey, KEYS_MAX, Maker};
use identity::key_check::{NewKey, VerifiedKey};
use identity::sessions::Whence;
use identity::tenant::SetActive;
use identity::token_cache::OwnerKey;
use identity::user::HearMembership;
use supervision::Origin;
use types::{CallerKind, KeyIdentifier, Page};

use super::*;

const ALL: Page = Page { limit: KEYS_MAX, offset: 0 };

fn new_key(scopes: &[&str]) -> NewKey {
    let scopes = Some(scopes.iter().copied().collect());
    NewKey { maker: Maker::Platform, name: "a key".to_owned(), scopes, expires_at: None }
}

impl World {
    fn origin(&self) -> Origin {
        self.system.system_origin()
    }

    /// Makes a key as the gateway does.
    async fn make_key(
        &self,
        caller: &Caller,
        new: NewKey,
    ) -> Result<(KeyIdentifier, String), Refusal> {
        let draft = self.identity.draft_key(caller, new)?;
        let claimed = self.identity.claim_api_key(caller, draft.create, self.origin());
        let create = claimed.await?;
        let keys = self.system.directory::<ApiKeys>();
        let made = keys.ask(&draft.address, create, self.origin()).await?;
        Ok((made.id, draft.secret.expose().to_owned()))
    }

    async fn check(&self, key: &str) -> Result<Arc<VerifiedKey>, Refusal> {
        self.identity.authenticate_key(key, self.now()).await
    }

    async fn check_code(&self, key: &str) -> String {
        code(self.check(key).await)
    }

    async fn owner(&self) -> Caller {
        self.sign_up(EMAIL).await;
        self.caller(&self.login().await).await
    }
}

#[tokio::test]
async fn a_key_stands_for_its_owner_and_covers_what_it_was_made_for() {
    let world = world().await;
    let owner = world.owner().await;
    let (id, key) = world.make_key(&owner, new_key(&["wallet:*", "keys:read"])).await.unwrap();
    let verified = world.check(&key).await.unwrap();
    let again = world.check(&key).await.unwrap();
    assert!(Arc::ptr_eq(&verified, &again), "the second time it is remembered");
    let caller = &verified.caller;
    assert_eq!((caller.kind, caller.credential), (CallerKind::ApiKey, Some(id.0)));
    assert_eq!((caller.user, caller.tenant), (owner.user, owner.tenant));
    assert_eq!((caller.session, caller.role.as_str()), (None, "owner"));
    assert!(caller.scopes.covers("wallet:spend") && !caller.scopes.covers("keys:write"));
    assert!(!caller.is_operator());
    assert_eq!(&*caller.label(), format!("api_key/{id}"));
    assert!(!format!("{verified:?}").contains(&key[8..]));

    let woken = world.system.directory::<Claim>().activations();
    let other = new_key(&["*"]);
    let stranger = world.identity.draft_key(&owner, other).unwrap().secret;
    for wrong in [stranger.expose(), &key[..key.len() - 1], &format!("{key}A"), "bw_live_", ""] {
        assert_eq!(world.check_code(wrong).await, "invalid_api_key", "{wrong}");
    }
    assert_eq!(world.system.directory::<Claim>().activations(), woken, "strangers wake nobody");
    let as_token = world.identity.authenticate(&key, world.now()).await;
    assert_eq!(code(as_token), "invalid_token");
}

#[tokio::test]
async fn a_key_is_never_made_for_more_than_its_maker_has() {
    let world = world().await;
    let owner = world.owner().await;
    let (_, narrow) = world.make_key(&owner, new_key(&["wallet:read", "keys:*"])).await.unwrap();
    let narrow = world.check(&narrow).await.unwrap().caller.clone();
    for wider in ["*", "wallet:*", "wallet:spend", "keys"] {
        let refused = world.make_key(&narrow, new_key(&[wider])).await.unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Forbidden, "scope_not_held"));
    }
    let all = NewKey { scopes: None, ..new_key(&[]) };
    let (id, child) = world.make_key(&narrow, all).await.unwrap();
    let child = world.check(&child).await.unwrap();
    assert_eq!(child.made_for, narrow.scopes, "what is not named is what the maker has");
    // Without its maker there are no more of it.
    let maker = KeyIdentifier(narrow.credential.unwrap());
    world.identity.delete_key(&owner, maker, world.origin()).await.unwrap();
    let orphan = world.make_key(&narrow, new_key(&["wallet:read"])).await;
    assert_eq!(code(orphan), "invalid_api_key");
    let listed = world.identity.list_keys(&owner, ALL).await.unwrap();
    assert_eq!(listed.iter().map(|it| it.key.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn a_key_shrinks_and_dies_with_what_its_owner_may_do() {
    let world = world().await;
    let owner = world.owner().await;
    let (user, tenant) = (owner.user.unwrap(), owner.tenant);
    let (_, key) = world.make_key(&owner, new_key(&["wallet:*", "apps:read"])).await.unwrap();
    world.check(&key).await.unwrap();
    let member = |version, scopes: &[&str]| {
        let scopes = scopes.iter().copied().collect();
        let membership = Some(Membership { role: "clerk".to_owned(), scopes });
        HearMembership { tenant, membership, since: 0, version }
    };
    let (identity, users) = (&world.identity, world.system.directory::<User>());
    let (address, origin) = (User::address(user, tenant), world.origin());
    // As the tenant tells it: the user first, then the map.
    let hear = async |news: HearMembership| {
        let version = news.version;
        let heard = users.ask(&address, news, origin.clone()).await;
        let now_ms = u64::try_from(world.clock.now().0).unwrap();
        identity.epochs().raise(OwnerKey::member(tenant.0, user.0), version, now_ms);
        heard
    };
    hear(member(11, &["wallet:read", "users:*"])).await.unwrap();
    let shrunk = world.check(&key).await.unwrap();
    assert_eq!(shrunk.caller.scopes, Scopes::from_iter(["wallet:read"]));
    assert_eq!((shrunk.caller.role.as_str(), shrunk.made_for.covers("apps:read")), ("clerk", true));
    hear(member(12, &["*"])).await.unwrap();
    assert!(world.check(&key).await.unwrap().caller.scopes.covers("wallet:spend"));

    let off_and_on = [(false, "invalid_api_key"), (true, "accepted")];
    for (active, expected) in off_and_on {
        let set = user::SetActive { active };
        identity.change_user(user, set, world.origin()).await.unwrap();
        assert_eq!(world.check_code(&key).await, expected, "user {active}");
    }
    for (active, expected) in off_and_on {
        identity.change_tenant(tenant, SetActive { active }, world.origin()).await.unwrap();
        assert_eq!(world.check_code(&key).await, expected, "tenant {active}");
    }
    let remove = HearMembership { tenant, membership: None, since: 0, version: 13 };
    hear(remove).await.unwrap();
    assert_eq!(world.check_code(&key).await, "invalid_api_key");
}

#[tokio::test]
async fn a_deleted_key_is_dead_at_once_and_after_a_restart() {
    let world = world().await;
    let owner = world.owner().await;
    let (first, one) = world.make_key(&owner, new_key(&["*"])).await.unwrap();
    let (second, two) = world.make_key(&owner, new_key(&["*"])).await.unwrap();
    assert!(world.check(&one).await.is_ok() && world.check(&two).await.is_ok());
    world.identity.delete_key(&owner, first, world.origin()).await.unwrap();
    assert_eq!(world.check_code(&one).await, "invalid_api_key");
    let again = world.identity.delete_key(&owner, first, world.origin()).await;
    assert_eq!(code(again), "not_found");
    let world = world.restarted(POLICY).await;
    assert_eq!(world.check_code(&one).await, "invalid_api_key");
    assert_eq!(world.check_code(&two).await, "accepted");
    // Whoever asks the entity by itself revokes too, a moment later.
    let keys = world.system.directory::<ApiKeys>();
    let address = ApiKeys::address(owner.user.unwrap(), owner.tenant);
    keys.ask(&address, DeleteKey { key: second }, world.origin()).await.unwrap();
    while world.check(&two).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let elsewhere = Caller { tenant: TenantId(9), ..owner };
    let foreign = world.identity.delete_key(&elsewhere, second, world.origin()).await;
    assert_eq!(code(foreign), "not_found");
}

#[tokio::test]
async fn a_key_ends_when_its_time_is_over() {
    let world = world().await;
    let owner = world.owner().await;
    let expires_at = Some(START.plus_ms(60_000));
    let short = NewKey { expires_at, ..new_key(&["*"]) };
    let (_, key) = world.make_key(&owner, short).await.unwrap();
    assert_eq!(world.check_code(&key).await, "accepted");
    world.clock.advance_ms(59_999);
    assert_eq!(world.check_code(&key).await, "accepted");
    world.clock.advance_ms(1);
    assert_eq!(world.check_code(&key).await, "invalid_api_key", "from the cache");
    let world = world.restarted(POLICY).await;
    assert_eq!(world.check_code(&key).await, "invalid_api_key", "from the journal");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_check_that_starts_after_a_deletion_accepts_the_key() {
    let world = Arc::new(world().await);
    let owner = world.owner().await;
    for _ in 0..20 {
        let (id, key) = world.make_key(&owner, new_key(&["*"])).await.unwrap();
        let deleted = Arc::new(AtomicBool::new(false));
        let checks: Vec<_> = (0..8)
            .map(|_| {
                let (world, key, deleted) = (world.clone(), key.clone(), deleted.clone());
                tokio::spawn(async move {
                    loop {
                        let is_after = deleted.load(Ordering::SeqCst);
                        let is_good = world.check(&key).await.is_ok();
                        assert!(!(is_after && is_good), "a deleted key was accepted");
                        if is_after {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        world.identity.delete_key(&owner, id, world.origin()).await.unwrap();
        deleted.store(true, Ordering::SeqCst);
        for check in checks {
            check.await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_last_use_is_kept_without_a_record() {
    let world = world().await;
    let owner = world.owner().await;
    let (_, key) = world.make_key(&owner, new_key(&["*"])).await.unwrap();
    let used =
        async |world: &World| world.identity.list_keys(&owner, ALL).await.unwrap()[0].last_used_at;
    assert_eq!(used(&world).await, None);
    let address = ApiKeys::address(owner.user.unwrap(), owner.tenant);
    let records =
        |world: &World| world.system.journal().read(&address.place().stream, 0, 100).unwrap().len();
    for _ in 0..3 {
        world.clock.advance_ms(1_000);
        world.check(&key).await.unwrap();
        assert_eq!(used(&world).await, Some(world.now()));
        world.identity.write_key_uses().unwrap();
    }
    let last = world.now();
    let world = world.restarted(POLICY).await;
    assert_eq!(used(&world).await, Some(last));
    assert_eq!(records(&world), 1, "that it was made");
    world.clock.advance_ms(1_000);
    world.check(&key).await.unwrap();
    assert_eq!(used(&world).await, Some(world.now()));
}

#[tokio::test]
async fn there_is_room_for_so_many_keys_and_each_page_has_its_own() {
    let world = world().await;
    let owner = world.owner().await;
    let mut ids = Vec::new();
    for _ in 0..KEYS_MAX {
        ids.push(world.make_key(&owner, new_key(&["wallet:read"])).await.unwrap().0);
    }
    ids.reverse();
    let claims = world.system.directory::<Claim>().activations();
    assert_eq!(code(world.make_key(&owner, new_key(&["*"])).await), "too_many_keys");
    assert_eq!(world.system.directory::<Claim>().activations(), claims, "nothing was claimed");
    let mut listed = Vec::new();
    for offset in (0..KEYS_MAX + 30).step_by(30) {
        let page = world.identity.list_keys(&owner, Page { limit: 30, offset }).await.unwrap();
        listed.extend(page.into_iter().map(|it| it.key.id));
    }
    assert_eq!(listed, ids);
}

#[tokio::test]
async fn a_session_says_from_where_it_is_used() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let whence =
        |agent: &str, address: &str| Whence::new(Some(agent), Some(address.parse().unwrap()));
    let home = whence("Mozilla/5.0 (X11; Linux) Firefox/145.0", "203.0.113.77");
    let login = LoginAttempt { device: home.to_text(), ..attempt(EMAIL, PASSWORD) };
    let first = world.identity.login(login).await.unwrap();
    let shown = world.identity.open_sessions(user, None).await.unwrap().remove(0);
    assert_eq!((shown.session, &shown.whence), (first.session, &home));
    assert_eq!((shown.opened_at, shown.last_used_at), (START, START));
    world.clock.advance_ms(60_000);
    let travel = whence("Mozilla/5.0 (X11; Linux) Firefox/146.0", "198.51.100.7");
    let life = TokenLife::Standard;
    let refresh =
        world.identity.refresh_from(&first.refresh_token, life, travel.to_text(), 1.into());
    refresh.await.unwrap();
    let world = world.restarted(POLICY).await;
    let shown = world.identity.open_sessions(user, None).await.unwrap().remove(0);
    assert_eq!((shown.opened_at, shown.last_used_at), (START, world.now()));
    assert_eq!(shown.whence, travel);
    assert!(shown.expires_at > world.now());
    assert!(world.identity.open_sessions(user, Some(TenantId(9))).await.unwrap().is_empty());
    // What another password has ended is not shown, though nobody has told the session yet.
    let password = world.identity.hash_password("another horse".to_owned()).await.unwrap();
    let change = user::ChangePassword { password, replaces: None };
    world.identity.change_user(user, change, world.origin()).await.unwrap();
    assert!(world.identity.open_sessions(user, None).await.unwrap().is_empty());
}
