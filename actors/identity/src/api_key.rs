//! A user's API keys in one tenant: what they are called, what they cover, how long they last.
//!
//! Invariants
//! - A key's secret is 256 random bits behind a prefix. It is shown once and never kept: what is
//!   kept is its SHA-256, and the claim that finds the key is named by an HMAC of that.
//! - A claim says whose a key is; that the key exists is said here alone. So a key is good from the
//!   commit of its creation to the commit of its deletion, whatever became of the claim.
//! - A key that was made with another key lives no longer than that one.
//! - A key counts under the standing that its owner had when it was made ([`MadeUnder`]): who left
//!   the tenant and came back makes new ones.
//! - The number of keys is counted in the turn that makes one: it is never exceeded.
//!
//! Deliberate limits
//! - What a key covers is cut down to what its owner may do when it is used
//!   ([`crate::key_check`]), so nothing changes here when a role does.
//! - The time of the last use is an observation: it is kept beside this, without a record.
//! - A process that ends between claim and creation leaves a claim that leads to no key, on a
//!   secret that nobody was told.
//! - A change of password ends no key.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Refusal, RowDraft, Timestamp, Turn,
};
use types::{KeyIdentifier, Scopes, TenantId, UserId, home_of, owner_of_user};
use zeroize::Zeroizing;

use crate::claim::{Claim, ClaimKey, Namespace, Retire, claim_address};
use crate::token_cache::{CredentialDigest, Epochs, OwnerClass, OwnerKey};
use crate::unix_ms;
use crate::user::MadeUnder;

mod past;

/// How many keys one user may have in one tenant.
pub const KEYS_MAX: usize = 100;
/// The longest name, in characters.
pub const NAME_CHARS_MAX: usize = 255;
/// How many scopes one key may list.
pub const SCOPES_MAX: usize = 64;
/// The longest scope, in bytes.
pub const SCOPE_BYTES_MAX: usize = 128;
/// The epoch of a key that is no more.
pub const ENDED_EPOCH: u64 = 1;
/// The family of the rows of last uses: user, tenant and key (16 bytes each), holding the time.
pub const USES_FAMILY: &str = "api_key_use";
/// The hashes of keys, unique over the installation.
const KEY_HASH: Namespace = Namespace::new("api_key");
/// The strength of a key.
const SECRET_BYTES: usize = 32;
/// Characters of a secret as base64url.
const SECRET_CHARS: usize = 43;
/// How many characters of the secret a list shows.
const SHOWN_CHARS: usize = 4;

/// Which API made a key. It decides what the key begins with and nothing else; by its order it is
/// stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Maker {
    /// The platform's.
    Platform,
    /// The agents'.
    Agents,
    /// The accounts'.
    Accounts,
}

impl Maker {
    const ALL: [Self; 3] = [Self::Platform, Self::Agents, Self::Accounts];

    /// What its keys begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Platform => "bw_live_",
            Self::Agents => "rai_pk_live_",
            Self::Accounts => "eng_live_sk_",
        }
    }
}

/// A key in plain, on its way to its owner.
pub struct KeySecret(Zeroizing<String>);

impl KeySecret {
    /// A fresh one, or `None` if the system has no random numbers.
    pub fn generate(maker: Maker) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        rand::fill(bytes.as_mut_slice()).ok()?;
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(maker.prefix());
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Some(Self(text))
    }

    /// The text to send; it goes nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash::from(CredentialDigest::of(&self.0))
    }

    /// Its beginning, by which its owner knows it again.
    pub fn shown(&self) -> String {
        self.0[..self.0.len() - SECRET_CHARS + SHOWN_CHARS].to_owned()
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeySecret([redacted])")
    }
}

/// Whether a credential begins as an API key does; whatever else begins so is no credential.
pub fn is_api_key(credential: &str) -> bool {
    Maker::ALL.iter().any(|maker| credential.starts_with(maker.prefix()))
}

/// The SHA-256 of a whole key, prefix included.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of what a client presented, or `None` if it cannot be a key.
    pub fn of(presented: &str) -> Option<Self> {
        let secret = Maker::ALL.iter().find_map(|maker| presented.strip_prefix(maker.prefix()))?;
        let is_key = secret.len() == SECRET_CHARS
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_key.then(|| CredentialDigest::of(presented).into())
    }

    /// Where the claim on it lives.
    pub fn claim(&self, key: &ClaimKey) -> Address<Claim> {
        claim_address(KEY_HASH, &HEXLOWER.encode(&self.0), key)
    }
}

impl From<CredentialDigest> for KeyHash {
    fn from(digest: CredentialDigest) -> Self {
        Self(*digest.as_bytes())
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyHash(…)")
    }
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The id.
    pub id: KeyIdentifier,
    /// What its owner calls it.
    pub name: String,
    /// What it was made for.
    pub scopes: Scopes,
    /// The beginning of its text.
    pub shown: String,
    /// The SHA-256 of its text.
    pub hash: KeyHash,
    /// Which API made it.
    pub maker: Maker,
    /// The key that it was made with, if it was not by a login.
    pub made_with: Option<KeyIdentifier>,
    /// Since when.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Under which standing of its owner.
    pub made_under: MadeUnder,
}

impl ApiKey {
    /// Whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// The API keys of one user in one tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ApiKeys {
    /// `None` until the first key.
    owner: Option<(UserId, TenantId)>,
    keys: BTreeMap<KeyIdentifier, ApiKey>,
}

impl ApiKeys {
    /// Where they live.
    pub fn address(user: UserId, tenant: TenantId) -> Address<Self> {
        crate::address(&format!("{user}.{tenant}"), owner_of_user(user), home_of(tenant))
    }

    /// One of them.
    pub fn get(&self, key: KeyIdentifier) -> Option<&ApiKey> {
        self.keys.get(&key)
    }

    /// All of them, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &ApiKey> {
        self.keys.values().rev()
    }

    /// 409 when there is no room for one more.
    pub fn check_room(&self) -> Result<(), Refusal> {
        let message = format!("a user has at most {KEYS_MAX} keys in a tenant; delete one first");
        let has_room = self.keys.len() < KEYS_MAX;
        has_room.then_some(()).ok_or_else(|| Refusal::conflict("too_many_keys", message))
    }
}

/// What the rows of last uses of a user's keys in a tenant begin with.
pub(crate) fn uses_prefix(user: UserId, tenant: TenantId) -> Vec<u8> {
    [user.0.to_be_bytes(), tenant.0.to_be_bytes()].concat()
}

/// The row of one key's last use.
pub(crate) fn use_row(
    user: UserId,
    tenant: TenantId,
    key: KeyIdentifier,
    at: Option<Timestamp>,
) -> RowDraft {
    let mut row = uses_prefix(user, tenant);
    row.extend(key.0.to_be_bytes());
    RowDraft { family: USES_FAMILY, key: row, value: at.and_then(|at| codec::encode(&at).ok()) }
}

/// A key was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyCreated {
    /// Whose.
    pub user: UserId,
    /// In which tenant.
    pub tenant: TenantId,
    /// What is kept of it.
    pub key: ApiKey,
}

/// A key is good no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyEnded {
    /// Which.
    pub key: KeyIdentifier,
}

supervision::events! {
    /// What happens to a user's keys.
    pub enum ApiKeyEvent {
        /// One more.
        Created(KeyCreated) = "created", 2, was 1 as past::KeyCreatedV1;
        /// One was deleted.
        Deleted(KeyEnded) = "deleted", 1;
        /// The time of one is over.
        Expired(KeyEnded) = "expired", 1;
    }
}

/// What a user's keys ask of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiKeyEffect {
    /// The key is refused from now on, and its hash never given again.
    End {
        /// Which.
        key: KeyIdentifier,
        /// Its hash.
        hash: KeyHash,
    },
}

impl Entity for ApiKeys {
    const KIND: &'static str = "api_keys";
    const OBSERVED_FAMILIES: &'static [&'static str] = &[USES_FAMILY];
    const PUBLISHED: bool = true;
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = ApiKeyEvent;
    type Effect = ApiKeyEffect;

    fn apply(&mut self, event: &ApiKeyEvent, _: Timestamp) {
        match event {
            ApiKeyEvent::Created(it) => {
                self.owner = Some((it.user, it.tenant));
                self.keys.insert(it.key.id, it.key.clone());
            }
            ApiKeyEvent::Deleted(it) | ApiKeyEvent::Expired(it) => {
                self.keys.remove(&it.key);
            }
        }
    }

    fn rows(&self, event: &ApiKeyEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        if let ApiKeyEvent::Deleted(it) | ApiKeyEvent::Expired(it) = event
            && let Some((user, tenant)) = self.owner
        {
            rows.push(use_row(user, tenant, it.key, None));
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.keys.values().filter_map(|key| key.expires_at).min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let now = turn.now();
        let is_over = |key: &&ApiKey| key.is_expired(now);
        let over: Vec<_> = turn.state().newest_first().filter(is_over).cloned().collect();
        for key in over {
            end(turn, &key, ApiKeyEvent::Expired);
        }
    }

    async fn perform(effect: ApiKeyEffect, context: EffectContext<Self>) {
        let ApiKeyEffect::End { key, hash } = effect;
        let (system, origin) = (context.system, context.origin);
        let owner = OwnerKey { class: OwnerClass::ApiKey, id: key.0 };
        let now = unix_ms(system.clock().now());
        system.port::<Epochs>().raise(owner, ENDED_EPOCH, now);
        let claim = hash.claim(&system.port::<ClaimKey>());
        let retire = Retire { holder: key.0 };
        // Should this fail, the claim leads to a key that is not there.
        if let Err(refusal) = system.directory::<Claim>().ask(&claim, retire, origin).await {
            tracing::debug!(%refusal, %key, "the claim of a deleted key stays");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let key = |key: &ApiKey| {
            json!({
                "id": key.id, "name": key.name, "scopes": key.scopes, "made_with": key.made_with,
                "created_at": types::rfc3339(key.created_at),
                "expires_at": key.expires_at.map(types::rfc3339),
            })
        };
        json!({"keys": self.newest_first().map(key).collect::<Vec<_>>()})
    }
}

fn end(turn: &mut Turn<'_, ApiKeys>, key: &ApiKey, event: fn(KeyEnded) -> ApiKeyEvent) {
    turn.record(event(KeyEnded { key: key.id }));
    turn.effect(ApiKeyEffect::End { key: key.id, hash: key.hash });
}

/// 404: there is no such key, or it is another user's or tenant's.
pub fn no_key() -> Refusal {
    Refusal::not_found("API key")
}

/// Makes a key. 422 for a name, a scope or an expiry that will not do, 409 `too_many_keys`, 401
/// when the key that it is made with is no more.
pub struct CreateKey {
    /// Whose.
    pub user: UserId,
    /// In which tenant.
    pub tenant: TenantId,
    /// The id.
    pub id: KeyIdentifier,
    /// What its owner calls it.
    pub name: String,
    /// What it is for. That the caller's rights cover it, the caller has checked.
    pub scopes: Scopes,
    /// The beginning of its text.
    pub shown: String,
    /// The SHA-256 of its text, claimed for `id`.
    pub hash: KeyHash,
    /// Which API makes it.
    pub maker: Maker,
    /// The key that it is made with.
    pub made_with: Option<KeyIdentifier>,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Under which standing of its owner. One that is made with another key stands as that does.
    pub made_under: MadeUnder,
}

impl CreateKey {
    /// What of it does not depend on other keys: 422 where something will not do.
    pub fn check(&self, now: Timestamp) -> Result<(), Refusal> {
        let length = self.name.chars().take(NAME_CHARS_MAX + 1).count();
        let is_name = length <= NAME_CHARS_MAX
            && !self.name.trim().is_empty()
            && !self.name.chars().any(char::is_control);
        if !is_name {
            let message = format!("a name has 1 to {NAME_CHARS_MAX} characters, none of control");
            return Err(Refusal::invalid("name", message));
        }
        let scopes = self.scopes.as_slice();
        if scopes.is_empty() || scopes.len() > SCOPES_MAX || !scopes.iter().all(|it| is_scope(it)) {
            let message = format!(
                "must be 1 to {SCOPES_MAX} scopes such as wallet:read, of letters, digits and :._-*"
            );
            return Err(Refusal::invalid("scopes", message));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Refusal::invalid("expires_at", "must be a time to come"));
        }
        Ok(())
    }
}

fn is_scope(scope: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":._-*".contains(&byte);
    (1..=SCOPE_BYTES_MAX).contains(&scope.len()) && scope.bytes().all(fits)
}

impl Command for CreateKey {
    const NAME: &'static str = "create_api_key";
}

impl Handle<CreateKey> for ApiKeys {
    type Reply = ApiKey;

    fn handle(turn: &mut Turn<'_, Self>, command: CreateKey) -> Result<ApiKey, Refusal> {
        let now = turn.now();
        command.check(now)?;
        turn.state().check_room()?;
        let CreateKey { user, tenant, id, name, scopes, shown, hash, maker, .. } = command;
        let (mut expires_at, mut made_under) = (command.expires_at, command.made_under);
        if let Some(with) = command.made_with {
            let with = turn.state().get(with).filter(|with| !with.is_expired(now));
            let with = with.ok_or_else(crate::key_check::invalid_key)?;
            expires_at = expires_at.into_iter().chain(with.expires_at).min();
            made_under = with.made_under;
        }
        if turn.state().get(id).is_some() {
            return Err(Refusal::conflict("already_exists", "there is such a key already"));
        }
        let made_with = command.made_with;
        let created_at = now;
        let key = ApiKey {
            id,
            name,
            scopes,
            shown,
            hash,
            maker,
            made_with,
            created_at,
            expires_at,
            made_under,
        };
        turn.record(ApiKeyEvent::Created(KeyCreated { user, tenant, key: key.clone() }));
        Ok(key)
    }
}

/// Deletes a key for good. 404 when there is none such.
pub struct DeleteKey {
    /// Which.
    pub key: KeyIdentifier,
}

impl Command for DeleteKey {
    const NAME: &'static str = "delete_api_key";
    const ESSENTIAL: bool = true;
}

impl Handle<DeleteKey> for ApiKeys {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: DeleteKey) -> Result<(), Refusal> {
        let key = turn.state().get(command.key).cloned();
        end(turn, &key.ok_or_else(no_key)?, ApiKeyEvent::Deleted);
        Ok(())
    }
}

/// Ends the keys that count no more.
pub struct EndOld {
    /// Those that were made under less.
    pub from: MadeUnder,
}

impl Command for EndOld {
    const NAME: &'static str = "end_old_api_keys";
    const ESSENTIAL: bool = true;
}

impl Handle<EndOld> for ApiKeys {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, EndOld { from }: EndOld) -> Result<(), Refusal> {
        let is_old = |key: &&ApiKey| !key.made_under.counts(from);
        let old: Vec<_> = turn.state().newest_first().filter(is_old).cloned().collect();
        old.iter().for_each(|key| end(turn, key, ApiKeyEvent::Deleted));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    const ADA: UserId = UserId(1);
    const ACME: TenantId = TenantId(2);

    fn scopes(list: &[&str]) -> Scopes {
        list.iter().copied().collect()
    }

    fn create(id: u128) -> CreateKey {
        let secret = KeySecret::generate(Maker::Platform).unwrap();
        CreateKey {
            user: ADA,
            tenant: ACME,
            id: KeyIdentifier(id),
            name: "a key".to_owned(),
            scopes: scopes(&["wallet:read"]),
            shown: secret.shown(),
            hash: secret.hash(),
            maker: Maker::Platform,
            made_with: None,
            expires_at: None,
            made_under: MadeUnder { user_epoch: 2, membership: 5 },
        }
    }

    #[test]
    fn keys_from_an_earlier_standing_end_and_what_was_made_with_them_too() {
        let given = Given::<ApiKeys>::nothing().when(create(1)).then();
        let later = MadeUnder { user_epoch: 3, membership: 9 };
        let given = given.when(CreateKey { made_under: later, ..create(2) }).then();
        let with = CreateKey { made_under: later, made_with: Some(KeyIdentifier(1)), ..create(3) };
        let given = given.when(with).then();
        let then = given.when(EndOld { from: MadeUnder { user_epoch: 0, membership: 5 } });
        assert!(then.events.is_empty(), "these are as new");
        let then = then.given.when(EndOld { from: MadeUnder { user_epoch: 3, membership: 0 } });
        assert_eq!(then.effects.len(), 2);
        let left: Vec<_> = then.given.state().newest_first().map(|key| key.id.0).collect();
        assert_eq!(left, [2]);
        let rejoined = EndOld { from: MadeUnder { user_epoch: 0, membership: 10 } };
        assert_eq!(then.given.when(rejoined).effects.len(), 1);
    }

    #[test]
    fn a_secret_has_one_form_and_does_not_print() {
        for maker in Maker::ALL {
            let secret = KeySecret::generate(maker).unwrap();
            let text = secret.expose();
            assert!(is_api_key(text) && KeyHash::of(text) == Some(secret.hash()));
            assert_eq!(secret.shown().len(), maker.prefix().len() + SHOWN_CHARS);
            assert!(text.starts_with(&secret.shown()));
            let printed = format!("{secret:?} {:?}", secret.hash());
            assert!(!printed.contains(&text[maker.prefix().len()..]));
            let short = &text[..text.len() - 1];
            for other in ["", maker.prefix(), short, &format!("{text}A"), &format!("{short}=")] {
                assert_eq!(KeyHash::of(other), None, "{other}");
            }
            assert_eq!(KeyHash::of(&text.to_uppercase()), None);
        }
        assert!(!is_api_key("rai_live_of_an_agent") && !is_api_key("bw_rt_of_a_session"));
    }

    #[test]
    fn a_key_is_made_listed_and_deleted_for_good() {
        let (made, given) = Given::<ApiKeys>::nothing().when(create(1)).reply();
        assert_eq!(made.created_at, given.now());
        let given = given.later_ms(1).when(create(2)).then();
        let ids: Vec<_> = given.state().newest_first().map(|key| key.id.0).collect();
        assert_eq!(ids, [2, 1]);
        assert_eq!(given.state().observe()["keys"][1]["name"], "a key");
        let then = given.when(DeleteKey { key: made.id });
        assert_eq!(then.effects, [ApiKeyEffect::End { key: made.id, hash: made.hash }]);
        assert_eq!(then.rows, [use_row(ADA, ACME, made.id, None)]);
        let given = then.given;
        assert!(given.state().get(made.id).is_none());
        assert_eq!(given.when(DeleteKey { key: made.id }).refused().0, "not_found");
    }

    #[test]
    fn what_will_not_do_is_refused() {
        let now = Given::<ApiKeys>::nothing().now();
        let many: Vec<String> = (0..=SCOPES_MAX).map(|n| format!("a:{n}")).collect();
        let unfit = [
            CreateKey { name: " ".to_owned(), ..create(1) },
            CreateKey { name: "x".repeat(NAME_CHARS_MAX + 1), ..create(1) },
            CreateKey { name: "two\nlines".to_owned(), ..create(1) },
            CreateKey { scopes: Scopes::default(), ..create(1) },
            CreateKey { scopes: scopes(&["a b"]), ..create(1) },
            CreateKey { scopes: scopes(&[""]), ..create(1) },
            CreateKey { scopes: scopes(&["a".repeat(SCOPE_BYTES_MAX + 1).as_str()]), ..create(1) },
            CreateKey { scopes: many.into_iter().collect(), ..create(1) },
            CreateKey { expires_at: Some(now), ..create(1) },
        ];
        for command in unfit {
            assert_eq!(Given::<ApiKeys>::nothing().when(command).refused().0, "validation_error");
        }
    }

    #[test]
    fn there_is_room_for_so_many_and_again_after_a_deletion() {
        let mut given = Given::<ApiKeys>::nothing();
        for id in 1..=KEYS_MAX as u128 {
            given = given.when(create(id)).then();
        }
        let (code, given) = given.when(create(1_000)).refused();
        assert_eq!(code, "too_many_keys");
        let given = given.when(DeleteKey { key: KeyIdentifier(7) }).then();
        given.when(create(1_000)).reply();
    }

    #[test]
    fn an_expired_key_goes_by_itself() {
        let given = Given::<ApiKeys>::nothing();
        let until = given.now().plus_ms(1_000);
        let short = CreateKey { expires_at: Some(until), ..create(1) };
        let given = given.when(short).then().when(create(2)).then();
        assert_eq!(given.state().next_deadline(), Some(until));
        let then = given.later_ms(999).when_due();
        assert!(then.events.is_empty());
        let then = then.given.later_ms(1).when_due();
        assert_eq!(then.events, [ApiKeyEvent::Expired(KeyEnded { key: KeyIdentifier(1) })]);
        let given = then.given;
        assert_eq!(given.state().next_deadline(), None);
        assert_eq!(given.state().newest_first().count(), 1);
    }

    #[test]
    fn a_key_outlives_none_that_it_was_made_with() {
        let given = Given::<ApiKeys>::nothing();
        let until = given.now().plus_ms(1_000);
        let first = KeyIdentifier(1);
        let short = CreateKey { expires_at: Some(until), ..create(1) };
        let given = given.when(short).then();
        let with = |id, expires_at| CreateKey { made_with: Some(first), expires_at, ..create(id) };
        let (endless, given) = given.when(with(2, None)).reply();
        assert_eq!(endless.expires_at, Some(until));
        let (longer, given) = given.when(with(3, Some(until.plus_ms(1)))).reply();
        assert_eq!(longer.expires_at, Some(until));
        let sooner = given.now().plus_ms(1);
        let (shorter, given) = given.when(with(4, Some(sooner))).reply();
        assert_eq!(shorter.expires_at, Some(sooner));
        let (code, given) = given.later_ms(1_000).when(with(5, None)).refused();
        assert_eq!(code, "invalid_api_key", "its time is over");
        let given = given.when(DeleteKey { key: first }).then();
        assert_eq!(given.when(with(5, None)).refused().0, "invalid_api_key");
    }
}
