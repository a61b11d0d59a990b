//! A device that asks to be logged in by somebody who is, in a browser elsewhere (RFC 8628).
//!
//! The device keeps a code with 256 random bits, of which the hash is stored, and shows a short
//! one, which is a claim for as long as it can be used. Where the long code belongs stands in it,
//! as in a refresh token. What the device asks for later must come from the same program: it proves
//! to know what its challenge was made from (RFC 7636, `S256`).
//!
//! Invariants
//! - A code is decided once and used once, within [`LIFE_MS`].
//! - It is approved by a session, and good only while that is open.
//!
//! Deliberate limits
//! - Its records stand in the platform's chain, as nobody knows whose it will be; the login itself
//!   is in its user's, as every other.
//! - How often a device asks is no record ([`crate::device_sign_in`]).

use std::fmt;

use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;
use supervision::{
    Address, Class, Command, EffectContext, Entity, Handle, Home, OwnerKey, Refusal, Timestamp,
    Turn,
};
use types::{OwnerClass, SessionId, TenantId, UserId, base32};

use crate::claim::{Claim, Release};
use crate::service::Identity;

/// How long a code can be used, in milliseconds: 10 minutes.
pub const LIFE_MS: i64 = 10 * 60_000;

/// The SHA-256 of something that only the device knows.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of a text.
    pub fn of(text: &str) -> Self {
        Self(sha256(&[text.as_bytes()]))
    }

    fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Digest")
    }
}

/// A device's login.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeviceLogin {
    begun: Option<Begun>,
    standing: Standing,
}

/// How it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Waiting,
    Approved(Approved),
    Denied,
    Redeemed,
    Expired,
}

/// A device asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// The id.
    pub id: u128,
    /// Of the long code.
    pub code: Digest,
    /// What the program will prove to know the origin of.
    pub challenge: Digest,
    /// The name of the claim on the short code.
    pub user_code_tag: String,
    /// Until when it can be used.
    pub until: Timestamp,
}

/// Somebody who is logged in lets it in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approved {
    /// As whom.
    pub user: UserId,
    /// In which tenant.
    pub tenant: TenantId,
    /// By which session.
    pub session: SessionId,
    /// Whether that session was opened for this alone, and ends with it.
    pub ends_session: bool,
}

/// Somebody who is logged in does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Denied {
    /// Who.
    pub user: UserId,
}

/// The device is logged in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Redeemed {}

/// Its time is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expired {}

supervision::events! {
    /// What happens to a device's login.
    pub enum DeviceLoginEvent {
        /// Asked for.
        Begun(Begun) = "begun", 1;
        /// Let in.
        Approved(Approved) = "approved", 1;
        /// Not let in.
        Denied(Denied) = "denied", 1;
        /// Used.
        Redeemed(Redeemed) = "redeemed", 1;
        /// Not used in time.
        Expired(Expired) = "expired", 1;
    }
}

/// What a device's login asks of others. All of it may be lost: what it ends leads nowhere anyway.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceLoginEffect {
    /// The short code is nobody's.
    Release {
        /// The login's id.
        id: u128,
        /// The claim's name.
        user_code_tag: String,
    },
    /// The session that was opened for it alone is over.
    EndSession(Approved),
}

impl DeviceLogin {
    /// Where it lives.
    pub fn address(id: u128) -> Address<Self> {
        let owner = OwnerKey { class: OwnerClass::Platform as u8, id };
        crate::address(&base32(id), owner, Home(TenantId::SYSTEM.0))
    }

    /// 400 `invalid_grant` unless both are the device's own.
    fn check(&self, code: &Digest, verifier: &Digest) -> Result<&Begun, Refusal> {
        let begun = self.begun.as_ref();
        let begun = begun.filter(|it| it.code.is(code) & it.challenge.is(verifier));
        begun.ok_or_else(invalid_grant)
    }

    /// Whether the device is to ask again: 400 `invalid_grant`, `access_denied`, `expired_token`.
    pub fn is_waiting(
        &self,
        code: &Digest,
        verifier: &Digest,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let begun = self.check(code, verifier)?;
        match self.standing {
            Standing::Denied => Err(access_denied()),
            Standing::Redeemed | Standing::Expired => Err(expired()),
            _ if begun.until <= now => Err(expired()),
            Standing::Waiting => Ok(true),
            Standing::Approved(_) => Ok(false),
        }
    }

    fn end(turn: &mut Turn<'_, Self>, event: DeviceLoginEvent) {
        turn.record(event);
        if let Some(begun) = turn.state().begun.clone() {
            let Begun { id, user_code_tag, .. } = begun;
            turn.effect(DeviceLoginEffect::Release { id, user_code_tag });
        }
    }
}

/// 400: what a device shows is not its own. Codes as RFC 6749, section 5.2, and RFC 8628, section
/// 3.5.
pub(crate) fn invalid_grant() -> Refusal {
    let message = "this code and verifier are not those of a device's login";
    Refusal::new(Class::BadRequest, "invalid_grant", message)
}

/// 400: whoever was asked said no, or is signed out since.
pub(crate) fn access_denied() -> Refusal {
    let message = "the login was denied, or whoever approved it has signed out";
    Refusal::new(Class::BadRequest, "access_denied", message)
}

fn expired() -> Refusal {
    let message = "this code was used or has expired; begin again";
    Refusal::new(Class::BadRequest, "expired_token", message)
}

impl Entity for DeviceLogin {
    const KIND: &'static str = "device_login";
    type Event = DeviceLoginEvent;
    type Effect = DeviceLoginEffect;

    fn apply(&mut self, event: &DeviceLoginEvent, _: Timestamp) {
        match event {
            DeviceLoginEvent::Begun(it) => self.begun = Some(it.clone()),
            DeviceLoginEvent::Approved(it) => self.standing = Standing::Approved(*it),
            DeviceLoginEvent::Denied(_) => self.standing = Standing::Denied,
            DeviceLoginEvent::Redeemed(_) => self.standing = Standing::Redeemed,
            DeviceLoginEvent::Expired(_) => self.standing = Standing::Expired,
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let is_open = matches!(self.standing, Standing::Waiting | Standing::Approved(_));
        self.begun.as_ref().filter(|_| is_open).map(|begun| begun.until)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().next_deadline().is_some_and(|until| until <= turn.now()) {
            let standing = turn.state().standing;
            Self::end(turn, DeviceLoginEvent::Expired(Expired {}));
            if let Standing::Approved(approved) = standing
                && approved.ends_session
            {
                turn.effect(DeviceLoginEffect::EndSession(approved));
            }
        }
    }

    async fn perform(effect: DeviceLoginEffect, context: EffectContext<Self>) {
        let EffectContext { system, origin, .. } = context;
        let done = match effect {
            DeviceLoginEffect::Release { id, user_code_tag } => {
                let place = system.locate(Claim::KIND, &user_code_tag);
                let Some(claim) = place.and_then(Address::from_place) else { return };
                let release = Release { holder: id };
                system.directory::<Claim>().ask(&claim, release, origin).await
            }
            DeviceLoginEffect::EndSession(Approved { user, session, .. }) => {
                system.port::<Identity>().revoke_session(user, session, origin).await.map(drop)
            }
        };
        if let Err(refusal) = done {
            tracing::debug!(%refusal, "what a device's login leaves behind stays");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(begun) = &self.begun else { return json!({"exists": false}) };
        let (standing, user) = match self.standing {
            Standing::Waiting => ("waiting", None),
            Standing::Approved(it) => ("approved", Some(it.user)),
            Standing::Denied => ("denied", None),
            Standing::Redeemed => ("redeemed", None),
            Standing::Expired => ("expired", None),
        };
        json!({"standing": standing, "user": user, "until": types::rfc3339(begun.until)})
    }
}

/// Begins it.
pub struct Begin {
    /// The id.
    pub id: u128,
    /// Of the long code.
    pub code: Digest,
    /// What the program will prove to know the origin of.
    pub challenge: Digest,
    /// The name of the claim on the short code.
    pub user_code_tag: String,
}

impl Command for Begin {
    const NAME: &'static str = "begin_device_login";
}

impl Handle<Begin> for DeviceLogin {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Begin) -> Result<(), Refusal> {
        if turn.state().begun.is_some() {
            return Err(Refusal::conflict("already_exists", "there is such a login already"));
        }
        let Begin { id, code, challenge, user_code_tag } = command;
        let until = turn.now().plus_ms(LIFE_MS);
        let begun = Begun { id, code, challenge, user_code_tag, until };
        turn.record(DeviceLoginEvent::Begun(begun));
        Ok(())
    }
}

/// Lets the device in, or does not. 404 without such a login, 410 `code_used` when it was decided
/// before, `code_expired`.
pub struct Decide {
    /// Who decides.
    pub user: UserId,
    /// How the device gets in; `None` for not at all.
    pub approved: Option<Approved>,
}

impl Command for Decide {
    const NAME: &'static str = "decide_device_login";
}

impl Handle<Decide> for DeviceLogin {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Decide) -> Result<(), Refusal> {
        let gone = |code, message| Err(Refusal::new(Class::Gone, code, message));
        let begun = turn.state().begun.as_ref();
        let begun = begun.ok_or_else(|| Refusal::not_found("code"))?;
        match turn.state().standing {
            Standing::Waiting if turn.now() < begun.until => {}
            Standing::Waiting | Standing::Expired => {
                return gone("code_expired", "this code has expired; begin again on the device");
            }
            _ => return gone("code_used", "this code was used before; begin again on the device"),
        }
        match command.approved {
            Some(approved) => turn.record(DeviceLoginEvent::Approved(approved)),
            None => Self::end(turn, DeviceLoginEvent::Denied(Denied { user: command.user })),
        }
        Ok(())
    }
}

/// Uses what was approved, once. Refused as [`DeviceLogin::is_waiting`], and with 400
/// `authorization_pending`.
pub struct Redeem {
    /// Of the long code.
    pub code: Digest,
    /// Of what the challenge was made from.
    pub verifier: Digest,
}

impl Command for Redeem {
    const NAME: &'static str = "redeem_device_login";
}

impl Handle<Redeem> for DeviceLogin {
    type Reply = Approved;

    fn handle(turn: &mut Turn<'_, Self>, command: Redeem) -> Result<Approved, Refusal> {
        let Redeem { code, verifier } = command;
        turn.state().is_waiting(&code, &verifier, turn.now())?;
        let Standing::Approved(approved) = turn.state().standing else {
            let message = "nobody has approved this login yet";
            return Err(Refusal::new(Class::BadRequest, "authorization_pending", message));
        };
        Self::end(turn, DeviceLoginEvent::Redeemed(Redeemed {}));
        Ok(approved)
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    const APPROVED: Approved = Approved {
        user: UserId(1),
        tenant: TenantId(2),
        session: SessionId(3),
        ends_session: true,
    };

    fn begun() -> Given<DeviceLogin> {
        let begin = Begin {
            id: 7,
            code: Digest::of("the code"),
            challenge: Digest::of("the verifier"),
            user_code_tag: "device_code/x".to_owned(),
        };
        Given::nothing().when(begin).then()
    }

    fn decide(approved: Option<Approved>) -> Decide {
        Decide { user: UserId(1), approved }
    }

    fn redeem(code: &str, verifier: &str) -> Redeem {
        Redeem { code: Digest::of(code), verifier: Digest::of(verifier) }
    }

    #[test]
    fn a_code_is_approved_once_and_used_once_by_its_own_program() {
        let right = || redeem("the code", "the verifier");
        let (code, given) = begun().when(right()).refused();
        assert_eq!(code, "authorization_pending");
        let given = given.when(decide(Some(APPROVED))).then();
        let (code, given) = given.when(decide(None)).refused();
        assert_eq!(code, "code_used");
        let (code, given) = given.when(redeem("the code", "another")).refused();
        assert_eq!(code, "invalid_grant");
        let (code, given) = given.when(redeem("another", "the verifier")).refused();
        assert_eq!(code, "invalid_grant");
        let then = given.when(right());
        assert!(matches!(then.effects[..], [DeviceLoginEffect::Release { id: 7, .. }]));
        let (approved, given) = then.reply();
        assert_eq!(approved, APPROVED);
        assert_eq!(given.when(right()).refused().0, "expired_token");
    }

    #[test]
    fn it_ends_by_a_no_and_by_time_and_takes_the_session_of_its_page_along() {
        let right = || redeem("the code", "the verifier");
        let given = begun().when(decide(None)).then();
        assert_eq!(given.when(right()).refused().0, "access_denied");
        let given = begun().when(decide(Some(APPROVED))).then().later_ms(LIFE_MS);
        let (code, given) = given.when(right()).refused();
        assert_eq!(code, "expired_token");
        let then = given.when_due();
        assert_eq!(then.effects[1], DeviceLoginEffect::EndSession(APPROVED));
        assert_eq!(then.given.state().next_deadline(), None);
        let (code, _) = begun().later_ms(LIFE_MS).when(decide(Some(APPROVED))).refused();
        assert_eq!(code, "code_expired");
    }
}
