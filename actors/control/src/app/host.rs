//! The app's own host: where functions and panels of the kind `code` are carried out, and the
//! numbers of the keys that requests to it are signed with.
//!
//! Invariants
//! - A number is given to one key for ever; the key itself follows from it and is stored nowhere.
//! - At most two keys are valid: the newest, and the one before it until its time is over.
//! - A host that is set names the version that was current then, by its digest.
//!
//! Deliberate limits
//! - Whether the URL may be called is for whoever asks, and checked again at each connection.
//! - One host an app: its functions are told apart by module and entry.

use serde::{Deserialize, Serialize};
use supervision::{Command, Handle, Refusal, Timestamp, Turn};

use super::{App, AppEvent};

/// Bytes of a host's URL.
pub const HOST_URL_BYTES_MAX: usize = 500;
/// How long the older key stays valid after a rotation, at most, in milliseconds.
pub const KEY_OVERLAP_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1_000;
/// How long it does unless told otherwise, in milliseconds.
pub const KEY_OVERLAP_MS: i64 = 24 * 60 * 60 * 1_000;
/// How many keys are valid at once.
pub const KEYS_MAX: usize = 2;

/// A key that requests are signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// From 1 up.
    pub number: u32,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it is over; `None` for the newest.
    pub ends_at: Option<Timestamp>,
}

/// An app's own host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Where it is; `None` when the app has none.
    pub url: Option<String>,
    /// The digest of the version that was current when it was set.
    pub digest: Option<[u8; 32]>,
    /// The keys, the newest first, at most [`KEYS_MAX`].
    pub keys: Vec<HostKey>,
}

impl Host {
    /// The numbers of the keys that are valid at `now`, the newest first.
    pub fn valid_keys(&self, now: Timestamp) -> impl Iterator<Item = u32> {
        let valid = move |key: &&HostKey| key.ends_at.is_none_or(|ends_at| now < ends_at);
        self.keys.iter().filter(valid).map(|key| key.number)
    }

    /// The newest key.
    pub fn newest_key(&self) -> Option<&HostKey> {
        self.keys.first()
    }

    pub(super) fn set(&mut self, set: &HostSet) {
        (self.url, self.digest) = (set.url.clone(), set.digest);
    }

    pub(super) fn add_key(&mut self, made: &HostKeyMade, at: Timestamp) {
        self.keys.truncate(KEYS_MAX - 1);
        if let Some(older) = self.keys.first_mut() {
            older.ends_at = Some(made.older_ends_at);
        }
        self.keys.insert(0, HostKey { number: made.number, made_at: at, ends_at: None });
    }
}

/// The app has another host, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostSet {
    /// Where it is.
    pub url: Option<String>,
    /// The digest of the version that is current; `None` when none is deployed.
    pub digest: Option<[u8; 32]>,
}

/// A key was made, and is the newest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostKeyMade {
    /// Its number.
    pub number: u32,
    /// When the one before it is over.
    pub older_ends_at: Timestamp,
}

/// Sets the app's host, or takes it away. The first one makes the first key. What is set already
/// changes nothing.
#[derive(Clone, Debug)]
pub struct SetHost {
    /// Where it is: a URL that may be called.
    pub url: Option<String>,
}

impl Command for SetHost {
    const NAME: &'static str = "set_host";
}

impl Handle<SetHost> for App {
    type Reply = HostReply;

    fn handle(turn: &mut Turn<'_, Self>, command: SetHost) -> Result<HostReply, Refusal> {
        let SetHost { url } = command;
        let now = turn.now();
        let app = turn.state().existing()?;
        if url.as_ref().is_some_and(|url| url.is_empty() || url.len() > HOST_URL_BYTES_MAX) {
            let message = format!("1 to {HOST_URL_BYTES_MAX} bytes");
            return Err(Refusal::invalid("host_url", message));
        }
        let is_first = app.host.keys.is_empty() && url.is_some();
        let digest = app.current().map(|current| current.digest);
        if (&app.host.url, app.host.digest) != (&url, digest) {
            turn.record(AppEvent::HostSet(HostSet { url, digest }));
        }
        if is_first {
            turn.record(AppEvent::HostKeyMade(HostKeyMade { number: 1, older_ends_at: now }));
        }
        reply(turn, is_first)
    }
}

/// Makes another key; the one before it stays valid for a while, any older one ends now. Refused
/// (409, `no_host`) while the app never had a host.
#[derive(Clone, Copy, Debug)]
pub struct RotateHostKey {
    /// How long the present key stays valid, in milliseconds: 0 to [`KEY_OVERLAP_MS_MAX`].
    pub overlap_ms: i64,
}

impl Command for RotateHostKey {
    const NAME: &'static str = "rotate_host_key";
}

impl Handle<RotateHostKey> for App {
    type Reply = HostReply;

    fn handle(turn: &mut Turn<'_, Self>, command: RotateHostKey) -> Result<HostReply, Refusal> {
        let app = turn.state().existing()?;
        if !(0..=KEY_OVERLAP_MS_MAX).contains(&command.overlap_ms) {
            let message = format!("from 0 to {} seconds", KEY_OVERLAP_MS_MAX / 1_000);
            return Err(Refusal::invalid("overlap_seconds", message));
        }
        let Some(newest) = app.host.newest_key() else {
            let message = "this app has no host yet: set host_url first";
            return Err(Refusal::conflict("no_host", message));
        };
        let Some(number) = newest.number.checked_add(1) else {
            return Err(Refusal::conflict("keys_spent", "no further key can be made"));
        };
        let older_ends_at = turn.now().plus_ms(command.overlap_ms);
        turn.record(AppEvent::HostKeyMade(HostKeyMade { number, older_ends_at }));
        reply(turn, true)
    }
}

/// The host after a change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReply {
    /// The host.
    pub host: Host,
    /// The key that was made, if one was.
    pub made: Option<u32>,
}

fn reply(turn: &Turn<'_, App>, is_made: bool) -> Result<HostReply, Refusal> {
    let host = turn.state().existing()?.host.clone();
    let made = host.newest_key().map(|key| key.number).filter(|_| is_made);
    Ok(HostReply { host, made })
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;
    use types::{AppId, SharePercent, TenantId, UserId};

    use super::*;
    use crate::app::{Create, Listing};
    use crate::pricing::PricingModel;

    fn app() -> Given<App> {
        let listing = Listing {
            display_name: "Shelf".to_owned(),
            description: String::new(),
            category: "general".to_owned(),
            icon: String::new(),
            git_url: "https://example.test/shelf".to_owned(),
            pricing_model: PricingModel::Free,
            pricing_config: None,
            revenue_split_dev: SharePercent::new(70).unwrap(),
        };
        let (id, developer) = (AppId::new("shelf").unwrap(), UserId(1));
        Given::nothing().when(Create { id, developer, tenant: TenantId(1), listing }).then()
    }

    fn set(url: &str) -> SetHost {
        SetHost { url: Some(url.to_owned()) }
    }

    fn keys(given: &Given<App>) -> Vec<u32> {
        given.state().details().unwrap().host.valid_keys(given.now()).collect()
    }

    #[test]
    fn the_first_host_brings_a_key_and_later_ones_keep_it() {
        let (first, given) = app().when(set("https://a.example")).reply();
        assert_eq!(first.made, Some(1));
        let then = given.when(set("https://a.example"));
        assert!(then.events.is_empty());
        let (other, given) = then.then().when(set("https://b.example")).reply();
        assert_eq!((other.made, other.host.url.as_deref()), (None, Some("https://b.example")));
        let (gone, given) = given.when(SetHost { url: None }).reply();
        assert_eq!((gone.host.url, keys(&given)), (None, vec![1]));
        assert_eq!(given.when(set("")).refused().0, "validation_error");
    }

    #[test]
    fn two_keys_are_valid_while_one_follows_the_other() {
        let rotate = |overlap_ms| RotateHostKey { overlap_ms };
        let (code, given) = app().when(rotate(0)).refused();
        assert_eq!(code, "no_host");
        let given = given.when(set("https://a.example")).then();
        let (made, given) = given.when(rotate(1_000)).reply();
        assert_eq!((made.made, keys(&given)), (Some(2), vec![2, 1]));
        let given = given.later_ms(1_000);
        assert_eq!(keys(&given), [2]);
        let given = given.when(rotate(5_000)).then().when(rotate(5_000)).then();
        assert_eq!(keys(&given), [4, 3], "never more than two");
        assert_eq!(keys(&given.when(rotate(0)).then()), [5]);
    }
}
