//! Claims: who has what must be unique, or is looked up before its owner is known.
//!
//! A claim's stream is named by an HMAC of the value, so that neither names nor rows tell e-mail
//! addresses or keys. Reserve, create, confirm: a process reserves the value for the id it is about
//! to create, creates it, and confirms with where it lives. Each step may be repeated by the same
//! holder.
//!
//! Invariants
//! - A value has one holder at a time. A confirmed claim changes only by its holder's release.
//! - A reservation that is not confirmed within [`RESERVATION_MS`] is no reservation any more.
//! - A retired value is never given again; a vacated one is, and it stays known that it was held.
//!
//! Deliberate limits
//! - A claim does not know its value, and cannot be listed by it.
//! - The holder's number says whose claim it is; that it is not guessed is up to its ids.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use persistence::{MasterKey, SealError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, Entity, Handle, Home, NoEffect, OwnerKey, Refusal, Timestamp, Turn,
};
use types::{OwnerClass, TenantId, UserId};

/// How long a reservation stands without being confirmed, in milliseconds.
pub const RESERVATION_MS: i64 = 60_000;
/// The longest e-mail address, in bytes (RFC 5321, section 4.5.3.1.3, less its brackets).
pub const EMAIL_BYTES_MAX: usize = 254;
/// The longest name of a namespace, in bytes.
const NAMESPACE_BYTES_MAX: usize = 32;
/// What the installation's claim key is derived under. For ever.
const KEY_LABEL: &str = "claims";

/// The installation's key for the names of claims. A port.
pub struct ClaimKey(hmac::Key);

impl ClaimKey {
    /// The key that belongs to a master key.
    pub fn of(master: &MasterKey) -> Result<Self, SealError> {
        let bytes = master.derive(KEY_LABEL)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes.as_slice())))
    }

    /// A key of its own for another purpose. No namespace begins with the byte that this does.
    pub(crate) fn derive(&self, label: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[0xff]);
        context.update(label.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    fn tag(&self, namespace: Namespace, value: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(namespace.0.as_bytes());
        context.update(&[0]);
        context.update(value.as_bytes());
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

impl fmt::Debug for ClaimKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClaimKey([redacted])")
    }
}

/// What kind of value is claimed. The crate that claims it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace(&'static str);

impl Namespace {
    /// E-mail addresses of users, unique over the installation.
    pub const EMAIL: Self = Self::new("email");

    /// A namespace: 1 to 32 characters a-z and `_`. It is stored: for ever.
    pub const fn new(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= NAMESPACE_BYTES_MAX, "a name of 1 to 32 bytes");
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at].is_ascii_lowercase() || bytes[at] == b'_', "a name of a-z and _");
            at += 1;
        }
        Self(name)
    }
}

/// Where the claim on `value`, which the caller has normalised, lives.
pub fn claim_address(namespace: Namespace, value: &str, key: &ClaimKey) -> Address<Claim> {
    let tag = key.tag(namespace, value);
    let id = format!("{}/{}", namespace.0, HEXLOWER.encode(&tag));
    let mut number = [0; 16];
    number.copy_from_slice(&tag[..16]);
    let owner = OwnerKey { class: OwnerClass::Platform as u8, id: u128::from_be_bytes(number) };
    crate::address(&id, owner, Home(TenantId::SYSTEM.0))
}

/// An e-mail address in the one form that is claimed and kept. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress(String);

fn is_seen(letter: char) -> bool {
    letter.is_ascii_graphic() || !letter.is_ascii() && letter.is_alphanumeric()
}

impl EmailAddress {
    /// Trims and lowers `text`; refused (422) when it is no address.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let normal = text.trim().to_lowercase();
        let is_address = normal.len() <= EMAIL_BYTES_MAX
            // Beyond ASCII only letters and digits (RFC 6531): what cannot be seen is no address.
            && normal.chars().all(is_seen)
            && normal.split_once('@').is_some_and(|(local, domain)| {
                !local.is_empty() && !domain.is_empty() && !domain.contains('@')
            });
        if is_address {
            Ok(Self(normal))
        } else {
            Err(Refusal::invalid("email", "this is no e-mail address"))
        }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the claim on it lives.
    pub fn claim(&self, key: &ClaimKey) -> Address<Claim> {
        claim_address(Namespace::EMAIL, &self.0, key)
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EmailAddress([redacted])")
    }
}

/// What a confirmed claim leads to: the user, and the tenant that is the home of what was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimTarget {
    /// The user it belongs to.
    pub user: UserId,
    /// The home tenant.
    pub tenant: TenantId,
}

/// A claim on one value.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claim {
    standing: Standing,
    was_held: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Free,
    Reserved {
        holder: u128,
        until: Timestamp,
    },
    Confirmed {
        holder: u128,
        target: ClaimTarget,
    },
    Retired,
}

impl Claim {
    /// The holder of a confirmed claim, and where it leads.
    pub fn confirmed(&self) -> Option<(u128, ClaimTarget)> {
        match self.standing {
            Standing::Confirmed { holder, target } => Some((holder, target)),
            _ => None,
        }
    }

    /// Who has it now, confirmed or reserved.
    pub fn holder(&self, now: Timestamp) -> Option<u128> {
        match self.standing {
            Standing::Reserved { holder, until } => (now < until).then_some(holder),
            Standing::Confirmed { holder, .. } => Some(holder),
            Standing::Free | Standing::Retired => None,
        }
    }

    /// Whether somebody had it before who was erased: what is given once a value, such as welcome
    /// credits, was given then.
    pub fn was_held(&self) -> bool {
        self.was_held
    }
}

/// It was reserved, or its reservation renewed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reserved {
    /// For whom.
    pub holder: u128,
    /// Until when it stands unconfirmed.
    pub until: Timestamp,
}

/// What it was reserved for exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Whose it is.
    pub holder: u128,
    /// Where it leads.
    pub target: ClaimTarget,
}

/// Its holder gave it back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Released {
    /// Who had it.
    pub holder: u128,
}

/// It was not confirmed in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lapsed {
    /// For whom it was reserved.
    pub holder: u128,
}

/// Its holder gave it up, and nobody shall have it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retired {
    /// Who had it.
    pub holder: u128,
}

/// Its holder was erased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vacated {
    /// Who had it.
    pub holder: u128,
}

supervision::events! {
    /// What happens to a claim.
    pub enum ClaimEvent {
        /// Reserved.
        Reserved(Reserved) = "reserved", 1;
        /// Confirmed.
        Confirmed(Confirmed) = "confirmed", 1;
        /// Given back.
        Released(Released) = "released", 1;
        /// Not confirmed in time.
        Lapsed(Lapsed) = "lapsed", 1;
        /// Never to be given again.
        Retired(Retired) = "retired", 1;
        /// Its holder was erased.
        Vacated(Vacated) = "vacated", 1;
    }
}

impl Entity for Claim {
    const KIND: &'static str = "claim";
    // Most are looked at once in a while: they shall not pile up.
    const IDLE: Duration = Duration::from_secs(3);
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = ClaimEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &ClaimEvent, _: Timestamp) {
        self.was_held |= matches!(event, ClaimEvent::Vacated(_));
        self.standing = match event {
            ClaimEvent::Reserved(it) => Standing::Reserved { holder: it.holder, until: it.until },
            ClaimEvent::Confirmed(it) => {
                Standing::Confirmed { holder: it.holder, target: it.target }
            }
            ClaimEvent::Released(_) | ClaimEvent::Lapsed(_) | ClaimEvent::Vacated(_) => {
                Standing::Free
            }
            ClaimEvent::Retired(_) => Standing::Retired,
        };
    }

    fn is_over(&self) -> bool {
        !matches!(self.standing, Standing::Reserved { .. })
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        match self.standing {
            Standing::Reserved { until, .. } => Some(until),
            _ => None,
        }
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if let Standing::Reserved { holder, until } = turn.state().standing
            && until <= turn.now()
        {
            turn.record(ClaimEvent::Lapsed(Lapsed { holder }));
        }
    }

    fn observe(&self) -> serde_json::Value {
        match self.standing {
            Standing::Free => json!({"standing": "free"}),
            Standing::Reserved { until, .. } => {
                json!({"standing": "reserved", "until": types::rfc3339(until)})
            }
            Standing::Confirmed { target, .. } => {
                json!({"standing": "confirmed", "user": target.user, "tenant": target.tenant})
            }
            Standing::Retired => json!({"standing": "retired"}),
        }
    }
}

fn already_claimed() -> Refusal {
    Refusal::conflict("already_claimed", "somebody else has this already")
}

/// Takes the value for a while. Refused with `already_claimed` when another holder has it.
/// Repeated by the same holder it begins the time anew, or finds it confirmed.
pub struct Reserve {
    /// The id of what is to be created.
    pub holder: u128,
}

/// How a [`Reserve`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// It stands until then.
    Until(Timestamp),
    /// The same holder has confirmed it before.
    Confirmed(ClaimTarget),
}

impl Command for Reserve {
    const NAME: &'static str = "reserve";
}

impl Handle<Reserve> for Claim {
    type Reply = Reservation;

    fn handle(turn: &mut Turn<'_, Self>, command: Reserve) -> Result<Reservation, Refusal> {
        let holder = command.holder;
        match turn.state().standing {
            Standing::Retired => return Err(already_claimed()),
            Standing::Confirmed { holder: other, target } => {
                let is_own = other == holder;
                return is_own
                    .then_some(Reservation::Confirmed(target))
                    .ok_or_else(already_claimed);
            }
            Standing::Reserved { holder: other, until } => {
                if other != holder && turn.now() < until {
                    return Err(already_claimed());
                }
            }
            Standing::Free => {}
        }
        let until = turn.now().plus_ms(RESERVATION_MS);
        turn.record(ClaimEvent::Reserved(Reserved { holder, until }));
        Ok(Reservation::Until(until))
    }
}

/// Says that what was reserved for exists. Refused with `reservation_lost` when it has lapsed or
/// is another's; a repetition is no change.
pub struct Confirm {
    /// The holder of the reservation.
    pub holder: u128,
    /// Where it leads.
    pub target: ClaimTarget,
}

impl Command for Confirm {
    const NAME: &'static str = "confirm";
    const ESSENTIAL: bool = true;
}

impl Handle<Confirm> for Claim {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Confirm) -> Result<(), Refusal> {
        let Confirm { holder, target } = command;
        let standing = turn.state().standing;
        if standing == (Standing::Confirmed { holder, target }) {
            return Ok(());
        }
        match standing {
            Standing::Reserved { holder: other, until }
                if other == holder && turn.now() < until =>
            {
                turn.record(ClaimEvent::Confirmed(Confirmed { holder, target }));
                Ok(())
            }
            _ => {
                let message = "the reservation has lapsed or is another's; reserve it again";
                Err(Refusal::conflict("reservation_lost", message))
            }
        }
    }
}

/// Gives the value back, reserved or confirmed. From anybody but the holder it changes nothing.
pub struct Release {
    /// Who has it.
    pub holder: u128,
}

impl Command for Release {
    const NAME: &'static str = "release";
    const ESSENTIAL: bool = true;
}

impl Handle<Release> for Claim {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Release) -> Result<(), Refusal> {
        if turn.state().holder(turn.now()) == Some(command.holder) {
            turn.record(ClaimEvent::Released(Released { holder: command.holder }));
        }
        Ok(())
    }
}

/// Gives the value up for good: for ids, and keys that were revoked. From anybody but the holder it
/// changes nothing.
pub struct Retire {
    /// Who has it.
    pub holder: u128,
}

impl Command for Retire {
    const NAME: &'static str = "retire";
    const ESSENTIAL: bool = true;
}

impl Handle<Retire> for Claim {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Retire) -> Result<(), Refusal> {
        if turn.state().holder(turn.now()) == Some(command.holder) {
            turn.record(ClaimEvent::Retired(Retired { holder: command.holder }));
        }
        Ok(())
    }
}

/// Gives the value back because its holder is erased: for e-mail addresses, whose owners may come
/// back as somebody new. From anybody but the holder it changes nothing.
pub struct Vacate {
    /// Who has it.
    pub holder: u128,
}

impl Command for Vacate {
    const NAME: &'static str = "vacate";
    const ESSENTIAL: bool = true;
}

impl Handle<Vacate> for Claim {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Vacate) -> Result<(), Refusal> {
        if turn.state().holder(turn.now()) == Some(command.holder) {
            turn.record(ClaimEvent::Vacated(Vacated { holder: command.holder }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    const TARGET: ClaimTarget = ClaimTarget { user: UserId(1), tenant: TenantId(1) };

    fn reserved() -> Given<Claim> {
        Given::nothing().when(Reserve { holder: 1 }).then()
    }

    fn confirmed() -> Given<Claim> {
        reserved().when(Confirm { holder: 1, target: TARGET }).then()
    }

    #[test]
    fn one_holder_reserves_and_confirms_and_may_repeat_both() {
        let (code, given) = reserved().when(Reserve { holder: 2 }).refused();
        assert_eq!(code, "already_claimed");
        let (again, given) = given.later_ms(10).when(Reserve { holder: 1 }).reply();
        assert_eq!(again, Reservation::Until(given.now().plus_ms(RESERVATION_MS)));
        let (code, given) = given.when(Confirm { holder: 2, target: TARGET }).refused();
        assert_eq!(code, "reservation_lost");
        let given = given.when(Confirm { holder: 1, target: TARGET }).then();
        assert_eq!(given.state().confirmed(), Some((1, TARGET)));
        let then = given.when(Confirm { holder: 1, target: TARGET });
        assert_eq!((then.events.len(), then.outcome.is_ok()), (0, true));
        let (again, given) = then.given.when(Reserve { holder: 1 }).reply();
        assert_eq!(again, Reservation::Confirmed(TARGET));
        assert_eq!(given.when(Reserve { holder: 2 }).refused().0, "already_claimed");
    }

    #[test]
    fn what_was_vacated_is_given_again_and_known_to_have_been_held() {
        let given = confirmed().when(Vacate { holder: 2 }).then();
        assert!(given.state().confirmed().is_some() && !given.state().was_held());
        let given = given.when(Vacate { holder: 1 }).then();
        assert!(given.state().confirmed().is_none() && given.state().was_held());
        let given = given.when(Reserve { holder: 2 }).then();
        let given = given.when(Confirm { holder: 2, target: TARGET }).then();
        assert!(given.state().was_held(), "for ever");
        let then = given.when(Vacate { holder: 1 });
        assert!(then.events.is_empty(), "it is another's now");
    }

    #[test]
    fn an_unconfirmed_reservation_lapses() {
        let given = reserved();
        let deadline = given.state().next_deadline();
        assert_eq!(deadline, Some(given.now().plus_ms(RESERVATION_MS)));
        let then = given.later_ms(RESERVATION_MS - 1).when_due();
        assert!(then.events.is_empty());
        let given = then.given.later_ms(1);
        let (code, given) = given.when(Confirm { holder: 1, target: TARGET }).refused();
        assert_eq!(code, "reservation_lost", "whether or not the reminder has fired");
        let then = given.when_due();
        assert_eq!(then.events, [ClaimEvent::Lapsed(Lapsed { holder: 1 })]);
        let (_, given) = then.given.when(Reserve { holder: 2 }).reply();
        assert_eq!(given.state().holder(given.now()), Some(2));
    }

    #[test]
    fn only_the_holder_releases_and_the_retired_never_comes_back() {
        let then = confirmed().when(Release { holder: 2 });
        assert!(then.events.is_empty());
        let given = then.given.when(Release { holder: 1 }).then();
        assert_eq!(given.state().confirmed(), None);
        assert!(given.when(Reserve { holder: 2 }).outcome.is_ok());
        let given = confirmed().when(Retire { holder: 1 }).then();
        assert_eq!(given.when(Reserve { holder: 1 }).refused().0, "already_claimed");
    }

    #[test]
    fn an_address_tells_the_value_to_nobody_and_differs_by_namespace_and_installation() {
        let key = |byte| ClaimKey::of(&MasterKey::from_bytes([byte; 32])).unwrap();
        let ada = EmailAddress::new(" Ada@Example.TEST ").unwrap();
        let place = ada.claim(&key(1)).place().clone();
        assert_eq!(ada.as_str(), "ada@example.test");
        assert!(place.stream.as_str().starts_with("claim/email/"));
        assert_eq!((place.id().len(), place.home.0), ("email/".len() + 64, 0));
        assert_ne!(ada.claim(&key(2)).place(), &place);
        let other = claim_address(Namespace::new("nickname"), ada.as_str(), &key(1));
        assert_ne!(other.place().owner, place.owner);
        assert_eq!(claim_address(Namespace::EMAIL, ada.as_str(), &key(1)).place(), &place);
        let printed = format!("{ada:?} {:?} {}", key(1), place.stream);
        assert!(!printed.contains("ada@"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.test", "a".repeat(EMAIL_BYTES_MAX));
        for text in ["", "ada", "@b", "a@", "a@b@c", "a b@c", "a@b\n.c", "a\u{200b}@b.c", &long] {
            assert_eq!(EmailAddress::new(text).unwrap_err().code, "validation_error", "{text}");
        }
        assert!(EmailAddress::new("Ä@bücher.example").is_ok());
    }
}
