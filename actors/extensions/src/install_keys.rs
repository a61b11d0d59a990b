//! A tenant's install keys: each stands in the address of an app's webhook and says that what
//! comes there is this tenant's, to be run in it and paid by it.
//!
//! Invariants
//! - A key's secret is 256 random bits behind a prefix. It is shown once; what is kept is its
//!   SHA-256, and the claim that finds it is named by an HMAC of that.
//! - A claim says whose a key is; that the key exists is said here alone. So a key is good from the
//!   commit of its making to the commit of its revocation.
//! - A key is good for one app.
//!
//! Deliberate limits
//! - A process that ends between claim and making leaves a claim that leads to no key, on a secret
//!   that nobody was told.
//! - Keys stay behind when their tenant moves: they are secrets of this installation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use identity::claim::{
    Claim, ClaimKey, ClaimTarget, Confirm, Namespace, Reserve, Retire, claim_address,
};
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Origin, Refusal, System, Timestamp, Turn,
};
use types::{AppId, KeyIdentifier, TenantId, UserId, base32, home_of, owner_of_tenant};
use zeroize::Zeroizing;

use crate::ir::INSTALL_KEY_PREFIX;

/// How many keys a tenant may have.
pub const INSTALL_KEYS_MAX: usize = 100;
/// The longest name, in characters.
pub const INSTALL_KEY_NAME_CHARS_MAX: usize = 100;
/// The hashes of keys, unique over the installation.
const KEY_HASH: Namespace = Namespace::new("install_key");
/// The strength of a key.
const SECRET_BYTES: usize = 32;
/// Characters of a secret as base64url.
const SECRET_CHARS: usize = 43;
/// How many characters of the secret a list shows.
const SHOWN_CHARS: usize = 4;

/// A key in plain, on its way to its tenant.
pub struct InstallSecret(Zeroizing<String>);

impl InstallSecret {
    /// A fresh one, or `None` if the system has no random numbers.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        rand::fill(bytes.as_mut_slice()).ok()?;
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(INSTALL_KEY_PREFIX);
        BASE64URL_NOPAD.encode_append(bytes.as_slice(), &mut text);
        Some(Self(text))
    }

    /// The text to send; it goes nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> InstallHash {
        InstallHash(sha256(&[self.0.as_bytes()]))
    }

    fn shown(&self) -> String {
        self.0[..self.0.len() - SECRET_CHARS + SHOWN_CHARS].to_owned()
    }
}

impl fmt::Debug for InstallSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("InstallSecret([redacted])")
    }
}

/// The SHA-256 of a whole key, prefix included.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallHash([u8; 32]);

impl InstallHash {
    /// The hash of what somebody presented, or `None` if it cannot be a key.
    pub fn of(presented: &str) -> Option<Self> {
        let secret = presented.strip_prefix(INSTALL_KEY_PREFIX)?;
        let is_key = secret.len() == SECRET_CHARS
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_key.then(|| Self(sha256(&[presented.as_bytes()])))
    }

    fn claim(&self, key: &ClaimKey) -> Address<Claim> {
        claim_address(KEY_HASH, &HEXLOWER.encode(&self.0), key)
    }
}

impl fmt::Debug for InstallHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("InstallHash(…)")
    }
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstallKey {
    /// The id.
    pub id: KeyIdentifier,
    /// The app whose webhooks it is for.
    pub app: AppId,
    /// What it is called; may be empty.
    pub name: String,
    /// The beginning of its text.
    pub shown: String,
    /// The SHA-256 of its text.
    pub hash: InstallHash,
    /// Who made it.
    pub made_by: UserId,
    /// Since when.
    pub created_at: Timestamp,
}

/// The install keys of one tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InstallKeys {
    keys: BTreeMap<KeyIdentifier, InstallKey>,
}

impl InstallKeys {
    /// Where they live.
    pub fn address(tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant));
        // 26 characters of base32 are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{tenant} has no address"))
    }

    /// Those for an app, the newest first.
    pub fn of<'a>(&'a self, app: &'a AppId) -> impl Iterator<Item = &'a InstallKey> {
        self.keys.values().rev().filter(move |key| key.app == *app)
    }
}

/// A key was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstallKeyMade {
    /// What is kept of it.
    pub key: InstallKey,
}

/// A key is good no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstallKeyRevoked {
    /// Which.
    pub id: KeyIdentifier,
}

supervision::events! {
    /// What happens to a tenant's install keys.
    pub enum InstallKeyEvent {
        /// One more.
        Made(InstallKeyMade) = "install_key_made", 1;
        /// One was revoked.
        Revoked(InstallKeyRevoked) = "install_key_revoked", 1;
    }
}

/// The hash of a revoked key is never given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetireInstallKey {
    id: KeyIdentifier,
    hash: InstallHash,
}

impl Entity for InstallKeys {
    const KIND: &'static str = "install_keys";
    type Event = InstallKeyEvent;
    type Effect = RetireInstallKey;

    fn apply(&mut self, event: &InstallKeyEvent, _: Timestamp) {
        match event {
            InstallKeyEvent::Made(made) => {
                self.keys.insert(made.key.id, made.key.clone());
            }
            InstallKeyEvent::Revoked(revoked) => {
                self.keys.remove(&revoked.id);
            }
        }
    }

    async fn perform(effect: RetireInstallKey, context: EffectContext<Self>) {
        let (system, origin) = (context.system, context.origin);
        let claim = effect.hash.claim(&system.port::<ClaimKey>());
        let retire = Retire { holder: effect.id.0 };
        // Should this fail, the claim leads to a key that is not there.
        if let Err(refusal) = system.directory::<Claim>().ask(&claim, retire, origin).await {
            tracing::debug!(%refusal, key = %effect.id, "the claim of a revoked key stays");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let key = |key: &InstallKey| {
            json!({"id": key.id, "app": key.app, "name": key.name, "made_by": key.made_by,
                "created_at": types::rfc3339(key.created_at)})
        };
        json!({"keys": self.keys.values().rev().map(key).collect::<Vec<_>>()})
    }
}

/// Makes a key whose hash was claimed. 422 for a name that will not do, 409 `too_many_keys`.
#[derive(Clone, Debug)]
pub struct MakeInstallKey {
    id: KeyIdentifier,
    app: AppId,
    name: String,
    shown: String,
    hash: InstallHash,
    made_by: UserId,
}

impl Command for MakeInstallKey {
    const NAME: &'static str = "make_install_key";
}

impl Handle<MakeInstallKey> for InstallKeys {
    type Reply = InstallKey;

    fn handle(turn: &mut Turn<'_, Self>, command: MakeInstallKey) -> Result<InstallKey, Refusal> {
        let MakeInstallKey { id, app, name, shown, hash, made_by } = command;
        let keys = &turn.state().keys;
        if let Some(known) = keys.get(&id) {
            return Ok(known.clone());
        }
        check(&name, keys.len())?;
        let created_at = turn.now();
        let key = InstallKey { id, app, name, shown, hash, made_by, created_at };
        turn.record(InstallKeyEvent::Made(InstallKeyMade { key: key.clone() }));
        Ok(key)
    }
}

/// 422 and 409 for a key that is not made beside so many.
fn check(name: &str, keys: usize) -> Result<(), Refusal> {
    if name.chars().count() > INSTALL_KEY_NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let message = format!("at most {INSTALL_KEY_NAME_CHARS_MAX} characters, none of control");
        return Err(Refusal::invalid("name", message));
    }
    if keys >= INSTALL_KEYS_MAX {
        let message = format!("a tenant has at most {INSTALL_KEYS_MAX}; revoke one first");
        return Err(Refusal::conflict("too_many_keys", message));
    }
    Ok(())
}

/// Revokes a key of an app: nothing accepts it from the answer on. 404 where there is none.
#[derive(Clone, Debug)]
pub struct RevokeInstallKey {
    /// The app.
    pub app: AppId,
    /// The key.
    pub id: KeyIdentifier,
}

impl Command for RevokeInstallKey {
    const NAME: &'static str = "revoke_install_key";
    const ESSENTIAL: bool = true;
}

impl Handle<RevokeInstallKey> for InstallKeys {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: RevokeInstallKey) -> Result<(), Refusal> {
        let key = turn.state().keys.get(&command.id).filter(|key| key.app == command.app);
        let key = key.ok_or_else(|| Refusal::not_found("install key"))?;
        let effect = RetireInstallKey { id: key.id, hash: key.hash };
        turn.record(InstallKeyEvent::Revoked(InstallKeyRevoked { id: command.id }));
        turn.effect(effect);
        Ok(())
    }
}

/// Makes up a key, and the command that makes it. Nothing is kept yet: see [`claim`].
pub fn draft(
    system: &System,
    app: &AppId,
    name: &str,
    made_by: UserId,
) -> Option<(InstallSecret, MakeInstallKey)> {
    let secret = InstallSecret::generate()?;
    let make = MakeInstallKey {
        id: KeyIdentifier(system.new_id()),
        app: app.clone(),
        name: name.to_owned(),
        shown: secret.shown(),
        hash: secret.hash(),
        made_by,
    };
    Some((secret, make))
}

/// Claims a drafted key's hash for its tenant: to be done before the key is made.
pub async fn claim(
    system: &System,
    make: &MakeInstallKey,
    tenant: TenantId,
    origin: Origin,
) -> Result<(), Refusal> {
    // What would be refused leaves no claim behind.
    let (keys, at) = (system.directory::<InstallKeys>(), InstallKeys::address(tenant));
    let count = keys.look(&at, origin.clone(), |keys: &InstallKeys| keys.keys.len()).await?;
    check(&make.name, count)?;
    let (claims, claim) =
        (system.directory::<Claim>(), make.hash.claim(&system.port::<ClaimKey>()));
    let (holder, target) = (make.id.0, ClaimTarget { user: make.made_by, tenant });
    claims.ask(&claim, Reserve { holder }, origin.clone()).await?;
    claims.ask(&claim, Confirm { holder, target }, origin).await
}

/// The tenant that a key for an app names; `None` for whatever is no good key.
pub async fn tenant_of(
    system: &Arc<System>,
    app: &str,
    presented: &str,
) -> Result<Option<TenantId>, Refusal> {
    let Some(hash) = InstallHash::of(presented) else { return Ok(None) };
    let (claim, origin) = (hash.claim(&system.port::<ClaimKey>()), system.system_origin());
    // What nobody has claimed wakes no actor.
    if system.locate(Claim::KIND, claim.id()).is_none() {
        return Ok(None);
    }
    let claims = system.directory::<Claim>();
    let confirmed = claims.look(&claim, origin.clone(), Claim::confirmed).await?;
    let Some((holder, ClaimTarget { tenant, .. })) = confirmed else { return Ok(None) };
    let app = app.to_owned();
    let stands = move |keys: &InstallKeys| {
        let key = keys.keys.get(&KeyIdentifier(holder));
        key.is_some_and(|key| key.hash == hash && key.app.as_str() == app)
    };
    let keys = system.directory::<InstallKeys>();
    let stands = keys.look(&InstallKeys::address(tenant), origin, stands).await;
    let stands = stands.or_else(|it| if it.is_erased() { Ok(false) } else { Err(it) })?;
    Ok(stands.then_some(tenant))
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn make(id: u128) -> MakeInstallKey {
        let hash = InstallHash([id as u8; 32]);
        let (id, app) = (KeyIdentifier(id), AppId::new("shelf").unwrap());
        let (name, shown) = ("ci".to_owned(), "bw_hook_abcd".to_owned());
        MakeInstallKey { id, app, name, shown, hash, made_by: UserId(8) }
    }

    #[test]
    fn a_key_is_made_once_for_one_app_and_revoked_for_good() {
        let given = Given::<InstallKeys>::nothing().when(make(1)).then();
        assert!(given.when(make(1)).events.is_empty());
        let given = Given::<InstallKeys>::nothing().when(make(1)).then();
        let (shelf, other) = (AppId::new("shelf").unwrap(), AppId::new("other").unwrap());
        assert_eq!((given.state().of(&shelf).count(), given.state().of(&other).count()), (1, 0));
        let revoke = |app: &AppId| RevokeInstallKey { app: app.clone(), id: KeyIdentifier(1) };
        let (code, given) = given.when(revoke(&other)).refused();
        assert_eq!(code, "not_found");
        let then = given.when(revoke(&shelf));
        assert_eq!(then.effects[0].id, KeyIdentifier(1));
        assert_eq!(then.then().when(revoke(&shelf)).refused().0, "not_found");
    }

    #[test]
    fn a_tenant_has_only_so_many() {
        let given = (1..=INSTALL_KEYS_MAX as u128)
            .fold(Given::<InstallKeys>::nothing(), |given, id| given.when(make(id)).then());
        assert_eq!(given.when(make(0)).refused().0, "too_many_keys");
        let long = MakeInstallKey { name: "x".repeat(101), ..make(1) };
        assert_eq!(Given::<InstallKeys>::nothing().when(long).refused().0, "validation_error");
    }

    #[test]
    fn a_secret_shows_its_beginning_only() {
        let secret = InstallSecret::generate().unwrap();
        assert_eq!(format!("{secret:?}"), "InstallSecret([redacted])");
        assert_eq!(secret.shown().len(), INSTALL_KEY_PREFIX.len() + SHOWN_CHARS);
        assert_eq!(InstallHash::of(secret.expose()), Some(secret.hash()));
        assert_eq!(InstallHash::of(&secret.expose()[1..]), None);
        assert_eq!(InstallHash::of("bw_hook_short"), None);
    }
}
