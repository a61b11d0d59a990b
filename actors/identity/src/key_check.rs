//! Making, using, listing and deleting API keys: what [`crate::Identity`] does with them.
//!
//! Invariants
//! - A key is looked up once; after that, a digest and the revocation epochs, as for tokens. What
//!   ends it, or changes what its owner may do, raises an epoch before it is acknowledged: the next
//!   check looks again.
//! - A key covers what its owner may do in its tenant when it is used, cut down to what it was made
//!   for. It is good only while user, membership and tenant are, and for no later membership.
//! - A key is never made for more than the credential that asks for it covers.
//!
//! Deliberate limits
//! - Of the last use the minute is written, not each use; a process that is killed loses the last
//!   minute's.
//! - Why a key is refused is not told: all refusals are the one 401.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use persistence::{RowRange, codec};
use supervision::{Address, Class, Entity, Origin, Refusal, System, Timestamp};
use types::{Caller, CallerKind, KeyIdentifier, Page, Scopes, TenantId, UserId, owner_of_user};

use crate::api_key::{
    self, ApiKey, ApiKeys, CreateKey, DeleteKey, ENDED_EPOCH, EndOld, KEYS_MAX, KeyHash, KeySecret,
    Maker, USES_FAMILY,
};
use crate::claim::{Claim, ClaimTarget, Confirm, Reserve};
use crate::service::Identity;
use crate::session::Session;
use crate::tenant::Tenant;
use crate::token_cache::{
    CarriedEpoch, CredentialDigest, Epochs, OwnerClass, OwnerKey, TokenCache, Verified,
};
use crate::user::MadeUnder;
use crate::{internal, invalid_token, unix_ms, unless_erased};

/// How often a check begins again when what it looked at changed under it.
const CHECKS_MAX: u32 = 3;

/// 401: the one answer to every key that is not good.
pub(crate) fn invalid_key() -> Refusal {
    let message = "this API key is not valid, has expired or was deleted";
    Refusal::new(Class::Unauthenticated, "invalid_api_key", message)
}

/// A key that is good.
#[derive(Debug)]
pub struct VerifiedKey {
    /// Whom it stands for; the scopes are what it covers.
    pub caller: Caller,
    /// What it was made for, which its owner's rights may not cover.
    pub made_for: Scopes,
    /// The epochs that it was found good under.
    pub carried: Box<[CarriedEpoch]>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    last_use: Arc<LastUse>,
}

/// When a key was used.
#[derive(Debug)]
struct LastUse {
    user: UserId,
    tenant: TenantId,
    used_ms: AtomicI64,
    written_ms: AtomicI64,
}

/// The keys that were checked before, and when they were used.
pub(crate) struct KeyDesk {
    checked: TokenCache<VerifiedKey>,
    /// Of every key in `checked`, and of those that left it since the last writing.
    uses: Mutex<HashMap<KeyIdentifier, Arc<LastUse>>>,
}

impl KeyDesk {
    pub(crate) fn new(capacity: usize, epochs: Arc<Epochs>) -> Self {
        Self { checked: TokenCache::new(capacity, epochs), uses: Mutex::default() }
    }

    /// See [`TokenCache::forget_unused`].
    pub(crate) fn forget_unused(&self, now_ms: u64) {
        self.checked.forget_unused(now_ms);
    }

    /// Forgets what is known of an owner's keys, the latest uses of a user's as well.
    pub(crate) fn forget(&self, owner: &OwnerKey) {
        self.checked.forget(owner);
        let is_of = |it: &LastUse| match owner.class {
            OwnerClass::User => it.user.0 == owner.id,
            OwnerClass::Tenant => it.tenant.0 == owner.id,
            _ => false,
        };
        self.uses.lock().retain(|_, it| !is_of(it));
    }

    fn last_use(&self, key: KeyIdentifier, user: UserId, tenant: TenantId) -> Arc<LastUse> {
        let never = || Arc::new(LastUse { user, tenant, used_ms: never(), written_ms: never() });
        self.uses.lock().entry(key).or_insert_with(never).clone()
    }
}

fn never() -> AtomicI64 {
    AtomicI64::new(i64::MIN)
}

/// What somebody wants of a key.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Which API makes it.
    pub maker: Maker,
    /// What its owner calls it.
    pub name: String,
    /// What it is for; `None` is all that the caller's credential covers.
    pub scopes: Option<Scopes>,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
}

/// A key that is about to be made: its secret, and the command that makes it.
pub struct KeyDraft {
    /// To be shown once.
    pub secret: KeySecret,
    /// Where to ask.
    pub address: Address<ApiKeys>,
    /// What to ask, once the key is claimed ([`Identity::claim_api_key`]).
    pub create: CreateKey,
}

impl fmt::Debug for KeyDraft {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyDraft({:?})", self.create.id)
    }
}

/// A key as its owner may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyView {
    /// What is kept of it.
    pub key: ApiKey,
    /// When it was used last, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// Whose keys a caller may look at. 403 for callers that are no user.
fn owner(caller: &Caller) -> Result<(UserId, TenantId), Refusal> {
    let nobody = || Refusal::forbidden("this credential belongs to no user");
    Ok((caller.user.ok_or_else(nobody)?, caller.tenant))
}

impl Identity {
    /// Makes up a key. Nothing is checked or kept yet: [`Identity::claim_api_key`] does both.
    pub fn draft_key(&self, caller: &Caller, new: NewKey) -> Result<KeyDraft, Refusal> {
        let (user, tenant) = owner(caller)?;
        let system = self.system()?;
        let NewKey { maker, name, scopes, expires_at } = new;
        let scopes = scopes.unwrap_or_else(|| caller.scopes.clone());
        let secret = KeySecret::generate(maker).ok_or_else(|| internal("no random numbers"))?;
        let is_key = caller.kind == CallerKind::ApiKey;
        let create = CreateKey {
            user,
            tenant,
            id: KeyIdentifier(system.new_id()),
            name,
            scopes,
            shown: secret.shown(),
            hash: secret.hash(),
            maker,
            made_with: caller.credential.filter(|_| is_key).map(KeyIdentifier),
            expires_at,
            made_under: MadeUnder::default(),
        };
        Ok(KeyDraft { secret, address: ApiKeys::address(user, tenant), create })
    }

    /// Checks what is wanted, claims the key's hash for its owner, and answers the command that
    /// makes the key. 422 as [`CreateKey::check`], 403 `scope_not_held` when the caller's own
    /// credential covers less, 409 `too_many_keys`.
    pub async fn claim_api_key(
        &self,
        caller: &Caller,
        mut create: CreateKey,
        origin: Origin,
    ) -> Result<CreateKey, Refusal> {
        let system = self.system()?;
        create.check(system.clock().now())?;
        let mut scopes = create.scopes.as_slice().iter();
        if let Some(wider) = scopes.find(|scope| !caller.scopes.covers(scope)) {
            let message = format!("your own credential does not cover the scope {wider}");
            return Err(Refusal::new(Class::Forbidden, "scope_not_held", message));
        }
        let CreateKey { user, tenant, hash, .. } = create;
        create.made_under = self.made_under(&system, caller, user, tenant).await?;
        let keys = system.directory::<ApiKeys>();
        let address = ApiKeys::address(user, tenant);
        keys.look(&address, origin.clone(), ApiKeys::check_room).await??;
        let (claims, claim) = (system.directory::<Claim>(), hash.claim(self.claim_key()));
        let (holder, target) = (create.id.0, ClaimTarget { user, tenant });
        claims.ask(&claim, Reserve { holder }, origin.clone()).await?;
        claims.ask(&claim, Confirm { holder, target }, origin).await?;
        Ok(create)
    }

    /// Under which standing a caller makes a key now. 401 when the login is over.
    async fn made_under(
        &self,
        system: &System,
        caller: &Caller,
        user: UserId,
        tenant: TenantId,
    ) -> Result<MadeUnder, Refusal> {
        let account = self.account(user, Some(tenant)).await?;
        let account = account.filter(|it| it.active && it.membership.is_some());
        let account = account.ok_or_else(invalid_token)?;
        // A body may arrive long after its credential was checked. What ended the login before the
        // account was looked at is seen here; what ends it later ends the key by its number.
        if let Some(session) = caller.session {
            let address = Session::address(session, user, tenant);
            let sessions_from = account.sessions_from;
            let stands = move |it: &Session| it.stands(sessions_from);
            let sessions = system.directory::<Session>();
            if !sessions.look(&address, system.system_origin(), stands).await? {
                return Err(invalid_token());
            }
        }
        Ok(account.made_under())
    }

    /// Ends a user's keys in a tenant that count no more.
    pub(crate) async fn end_old_keys(
        &self,
        user: UserId,
        tenant: TenantId,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let (system, address) = (self.system()?, ApiKeys::address(user, tenant));
        if system.locate(ApiKeys::KIND, address.id()).is_none() {
            return Ok(());
        }
        let Some(account) = self.account(user, Some(tenant)).await? else { return Ok(()) };
        let end = EndOld { from: account.keys_from };
        system.directory::<ApiKeys>().ask(&address, end, origin).await
    }

    /// Whom an API key stands for. 401 `invalid_api_key` for whatever is no good key; 403 `frozen`
    /// for a good one whose tenant or user is frozen.
    pub async fn authenticate_key(
        &self,
        shown: &str,
        now: Timestamp,
    ) -> Result<Arc<VerifiedKey>, Refusal> {
        let hash = KeyHash::of(shown).ok_or_else(invalid_key)?;
        let digest = CredentialDigest::of(shown);
        let desk = &self.api_keys;
        let verified = match desk.checked.get(&digest, unix_ms(now)) {
            Some(verified) => verified,
            None => self.check_key(hash, digest, now).await?,
        };
        self.frozen().check(verified.caller.tenant, verified.caller.user)?;
        let used_ms = &verified.last_use.used_ms;
        // Reading first: within one millisecond all but one use leave the line shared.
        if used_ms.load(Ordering::Relaxed) < now.0 {
            used_ms.fetch_max(now.0, Ordering::Relaxed);
        }
        Ok(verified)
    }

    async fn check_key(
        &self,
        hash: KeyHash,
        digest: CredentialDigest,
        now: Timestamp,
    ) -> Result<Arc<VerifiedKey>, Refusal> {
        let system = self.system()?;
        for _ in 0..CHECKS_MAX {
            let found = unless_erased(self.find_key(&system, hash, now).await)?;
            let verified = found.ok_or_else(invalid_key)?;
            // What stood a moment ago may have changed: then its epoch has risen, and it is asked
            // again how it stands.
            if let Some(good) = self.api_keys.checked.admit(digest, verified, unix_ms(now)) {
                return Ok(good);
            }
        }
        Err(Refusal::busy())
    }

    /// What a key stands for now; `None` when it is not good.
    async fn find_key(
        &self,
        system: &Arc<System>,
        hash: KeyHash,
        now: Timestamp,
    ) -> Result<Option<Verified<VerifiedKey>>, Refusal> {
        let (claim, origin) = (hash.claim(self.claim_key()), system.system_origin());
        // What nobody has claimed wakes no actor.
        if system.locate(Claim::KIND, claim.id()).is_none() {
            return Ok(None);
        }
        let claims = system.directory::<Claim>();
        let Some((holder, target)) = claims.look(&claim, origin.clone(), Claim::confirmed).await?
        else {
            return Ok(None);
        };
        let (id, ClaimTarget { user, tenant }) = (KeyIdentifier(holder), target);
        let (keys, tenants) = (system.directory::<ApiKeys>(), system.directory::<Tenant>());
        let (key_address, tenant_address) =
            (ApiKeys::address(user, tenant), Tenant::address(tenant));
        let stands = |it: &Tenant| it.is_active().then_some(it.epoch);
        let (key, account, tenant_epoch) = tokio::try_join!(
            keys.look(&key_address, origin.clone(), move |keys| keys.get(id).cloned()),
            self.account(user, Some(tenant)),
            tenants.look(&tenant_address, origin.clone(), stands),
        )?;
        let key = key.filter(|key| key.hash == hash && !key.is_expired(now));
        let account = account.filter(|account| account.active);
        let (Some(key), Some(account), Some(tenant_epoch)) = (key, account, tenant_epoch) else {
            return Ok(None);
        };
        let made_under = key.made_under;
        let membership = account.membership.filter(|_| made_under.counts(account.keys_from));
        let Some((_, membership)) = membership else { return Ok(None) };
        let caller = Caller {
            kind: CallerKind::ApiKey,
            credential: Some(id.0),
            user: Some(user),
            tenant,
            session: None,
            role: membership.role,
            scopes: membership.scopes.cut_to(&key.scopes),
            app: None,
        };
        let of = |class, id, epoch| CarriedEpoch { owner: OwnerKey { class, id }, epoch };
        let carried: Box<[CarriedEpoch]> = Box::new([
            of(OwnerClass::Tenant, tenant.0, tenant_epoch),
            of(OwnerClass::User, user.0, account.epoch),
            CarriedEpoch {
                owner: OwnerKey::member(tenant.0, user.0),
                epoch: account.membership_epoch,
            },
            of(OwnerClass::ApiKey, id.0, 0),
        ]);
        let last_use = self.api_keys.last_use(id, user, tenant);
        let (made_for, expires_at) = (key.scopes, key.expires_at);
        let value =
            VerifiedKey { caller, made_for, carried: carried.clone(), expires_at, last_use };
        let value = Arc::new(value);
        let until_ms = expires_at.map_or(u64::MAX, unix_ms);
        Ok(Some(Verified { value, carried, until_ms }))
    }

    /// The caller's keys in the caller's tenant, the newest first.
    pub async fn list_keys(&self, caller: &Caller, page: Page) -> Result<Vec<KeyView>, Refusal> {
        let (user, tenant) = owner(caller)?;
        let system = self.system()?;
        let look = move |keys: &ApiKeys| page.of(keys.newest_first().cloned());
        let (keys, origin) = (system.directory::<ApiKeys>(), system.system_origin());
        let keys = keys.look(&ApiKeys::address(user, tenant), origin, look).await?;
        let written: HashMap<KeyIdentifier, Timestamp> = written_uses(&system, user, tenant);
        let uses = self.api_keys.uses.lock();
        let view = |key: ApiKey| {
            let here = uses.get(&key.id).map(|it| it.used_ms.load(Ordering::Relaxed));
            let here = here.filter(|ms| *ms != i64::MIN).map(Timestamp);
            let last_used_at = here.max(written.get(&key.id).copied());
            KeyView { key, last_used_at }
        };
        Ok(keys.into_iter().map(view).collect())
    }

    /// Deletes one of the caller's keys: no check that starts after this accepts it. 404 when the
    /// caller has none such in this tenant.
    pub async fn delete_key(
        &self,
        caller: &Caller,
        key: KeyIdentifier,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let (user, tenant) = owner(caller)?;
        let system = self.system()?;
        let address = ApiKeys::address(user, tenant);
        system.directory::<ApiKeys>().ask(&address, DeleteKey { key }, origin).await?;
        self.raise(OwnerClass::ApiKey, key.0, ENDED_EPOCH, &system);
        self.api_keys.uses.lock().remove(&key);
        Ok(())
    }

    /// Writes down which keys were used since the last time. Once a minute, and at the end.
    pub fn write_key_uses(&self) -> Result<(), Refusal> {
        let system = self.system()?;
        let mut used = Vec::new();
        self.api_keys.uses.lock().retain(|key, it| {
            let at = it.used_ms.load(Ordering::Relaxed);
            if at > it.written_ms.swap(at, Ordering::Relaxed) {
                used.push((*key, it.user, it.tenant, Timestamp(at)));
            }
            // The cache has let go of it: what is written is all that is left to know.
            Arc::strong_count(it) > 1
        });
        for (key, user, tenant, at) in used {
            let row = api_key::use_row(user, tenant, key, Some(at));
            system.note_rows(ApiKeys::address(user, tenant).place(), &[row]);
        }
        Ok(())
    }
}

fn written_uses(
    system: &System,
    user: UserId,
    tenant: TenantId,
) -> HashMap<KeyIdentifier, Timestamp> {
    let rows = system.rows(&RowRange {
        shard: owner_of_user(user).shard(),
        family: USES_FAMILY,
        prefix: api_key::uses_prefix(user, tenant),
        after: None,
        newest_first: true,
        limit: KEYS_MAX,
    });
    let read = |(key, value): (Vec<u8>, Vec<u8>)| {
        let id = <[u8; 16]>::try_from(key.get(32..)?).ok()?;
        Some((KeyIdentifier(u128::from_be_bytes(id)), codec::decode(&value).ok()?))
    };
    rows.into_iter().filter_map(read).collect()
}
