//! A session: one login of one user to one tenant, and its family of refresh tokens.
//!
//! What a client keeps is the family's token, a dot, and a locator: the base64url of the session's,
//! the user's and the tenant's ids. The locator saves an index; it proves nothing. Who changes it
//! finds no session, or one to which the token does not belong.
//!
//! Invariants
//! - Every use of a token is an event, so a restart forgets none; a token used twice ends the
//!   session in the turn that sees it.
//! - An ended session stays ended, and its epoch is 1: its access tokens are refused too.
//!
//! Deliberate limits
//! - A session does not look at its user: whether the user may still log in is asked where access
//!   tokens are made ([`crate::login`]).
//!
//! Rows: family [`SESSIONS_FAMILY`] in the user's shard, one a session that has not ended: user
//! (16 bytes) and session (16 bytes, by age), holding a [`SessionRow`].

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Refusal, RowDraft, Timestamp, Turn,
};
use types::{Personal, SessionId, TenantId, UserId, home_of, owner_of_user};
use zeroize::Zeroizing;

use crate::refresh::{self, Decision, EndReason, Family, FamilySecret, RefreshToken, TokenHash};
use crate::token_cache::{Epochs, OwnerClass, OwnerKey};
use crate::unix_ms;

/// The family of the rows of sessions that have not ended.
pub const SESSIONS_FAMILY: &str = "session";
/// The longest device label that is kept, in characters; the rest is cut off. See
/// [`crate::sessions::Whence`].
pub const DEVICE_CHARS_MAX: usize = 256;
/// What [`Opened::device`] is sealed as.
pub const DEVICE_LABEL: &str = "session.device";
/// The epoch of a session that has ended.
pub const ENDED_EPOCH: u64 = 1;
/// Three ids.
const LOCATOR_BYTES: usize = 48;

/// Where a presented refresh token says that it belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The hash of the family's token.
    pub token: TokenHash,
    /// The session.
    pub session: SessionId,
    /// Its user.
    pub user: UserId,
    /// Its tenant.
    pub tenant: TenantId,
}

impl Located {
    /// Takes apart what a client presented; `None` when it cannot be a refresh token of ours.
    pub fn parse(presented: &str) -> Option<Self> {
        let (token, locator) = presented.split_once('.')?;
        let token = TokenHash::of(token)?;
        let bytes = URL_SAFE_NO_PAD.decode(locator).ok()?;
        let bytes = <[u8; LOCATOR_BYTES]>::try_from(bytes).ok()?;
        let id = |at: usize| {
            let mut id = [0; 16];
            id.copy_from_slice(&bytes[at..at + 16]);
            u128::from_be_bytes(id)
        };
        let (session, user, tenant) = (SessionId(id(0)), UserId(id(16)), TenantId(id(32)));
        Some(Self { token, session, user, tenant })
    }
}

impl fmt::Debug for Located {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Located({:?})", self.session)
    }
}

/// The text that a client keeps: token and locator.
pub fn client_token(
    token: &RefreshToken,
    session: SessionId,
    user: UserId,
    tenant: TenantId,
) -> Zeroizing<String> {
    let ids = [session.0.to_be_bytes(), user.0.to_be_bytes(), tenant.0.to_be_bytes()].concat();
    let mut text = Zeroizing::new(String::with_capacity(refresh::TOKEN_CHARS + 65));
    text.push_str(token.expose());
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(ids, &mut text);
    text
}

/// What is known of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// The id.
    pub session: SessionId,
    /// Who logged in.
    pub user: UserId,
    /// To which tenant.
    pub tenant: TenantId,
    /// The user's epoch then.
    pub user_epoch: u64,
    /// From where, sealed as [`DEVICE_LABEL`].
    pub device: Option<Personal>,
    /// Since when.
    pub opened_at: Timestamp,
    family: Family,
}

/// A session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Session {
    /// What is known; `None` until opened.
    pub login: Option<Login>,
}

impl Session {
    /// Where a session lives.
    pub fn address(session: SessionId, user: UserId, tenant: TenantId) -> Address<Self> {
        crate::address(&session.to_string(), owner_of_user(user), home_of(tenant))
    }

    /// The epoch of the session's access tokens: 0, or [`ENDED_EPOCH`] once it has ended.
    pub fn epoch(&self) -> u64 {
        match self.login.as_ref().and_then(|login| login.family.ended()) {
            Some(_) => ENDED_EPOCH,
            None => 0,
        }
    }

    /// Whether it is open, for a user whose older sessions than `sessions_from` are over.
    pub fn stands(&self, sessions_from: u64) -> bool {
        let is_open = self.epoch() < ENDED_EPOCH;
        is_open && self.login.as_ref().is_some_and(|login| login.user_epoch >= sessions_from)
    }

    /// When a token of it was used last, or it was opened; and until when the next one can be.
    pub fn used_and_expires(&self) -> Option<(Timestamp, Timestamp)> {
        let family = self.family()?;
        let at = |ms: u64| Timestamp(ms as i64);
        Some((at(family.issued_at_ms()), at(family.expires_at_ms())))
    }

    fn family(&self) -> Option<&Family> {
        self.login.as_ref().map(|login| &login.family)
    }

    fn current(&self, user_epoch: u64) -> Option<Successor> {
        let family = self.family()?;
        let expires_at = Timestamp(family.expires_at_ms() as i64);
        Some(Successor { token: family.current_token(), expires_at, user_epoch })
    }
}

/// A row of [`SESSIONS_FAMILY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The session.
    pub session: SessionId,
    /// The tenant.
    pub tenant: TenantId,
    /// From where, sealed as [`DEVICE_LABEL`].
    pub device: Option<Personal>,
    /// Since when.
    pub opened_at: Timestamp,
}

fn row_key(user: UserId, session: SessionId) -> Vec<u8> {
    [user.0.to_be_bytes(), session.0.to_be_bytes()].concat()
}

/// Somebody logged in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The session.
    pub session: SessionId,
    /// Who.
    pub user: UserId,
    /// To which tenant.
    pub tenant: TenantId,
    /// The user's epoch.
    pub user_epoch: u64,
    /// From where, sealed as [`DEVICE_LABEL`].
    pub device: Option<Personal>,
    /// What the refresh tokens are made from.
    pub secret: FamilySecret,
    /// When (ms since 1970).
    pub at_ms: u64,
}

/// The refresh token was used; another took its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refreshed {
    /// When (ms since 1970).
    pub at_ms: u64,
    /// The hash of the new token.
    pub successor: TokenHash,
}

/// The session is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// When (ms since 1970).
    pub at_ms: u64,
    /// Why.
    pub reason: EndReason,
}

/// A token was used from somewhere else than the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// From where, sealed as [`DEVICE_LABEL`].
    pub device: Personal,
}

supervision::events! {
    /// What happens to a session.
    pub enum SessionEvent {
        /// Somebody logged in.
        Opened(Opened) = "opened", 1;
        /// A token was used.
        Refreshed(Refreshed) = "refreshed", 1;
        /// A token was used from somewhere else.
        Moved(Moved) = "moved", 1;
        /// It is over.
        Ended(Ended) = "ended", 1;
    }
}

impl From<refresh::Event> for SessionEvent {
    fn from(event: refresh::Event) -> Self {
        match event {
            refresh::Event::Rotated { at_ms, successor } => {
                Self::Refreshed(Refreshed { at_ms, successor })
            }
            refresh::Event::Ended { at_ms, reason } => Self::Ended(Ended { at_ms, reason }),
        }
    }
}

/// What a session asks of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEffect {
    /// The access tokens of this session are refused from now on.
    RaiseEpoch {
        /// Whose.
        session: SessionId,
    },
}

impl Entity for Session {
    const KIND: &'static str = "session";
    const PUBLISHED: bool = true;
    type Event = SessionEvent;
    type Effect = SessionEffect;

    fn apply(&mut self, event: &SessionEvent, _: Timestamp) {
        match (event, &mut self.login) {
            (SessionEvent::Opened(it), login) => {
                *login = Some(Login {
                    session: it.session,
                    user: it.user,
                    tenant: it.tenant,
                    user_epoch: it.user_epoch,
                    device: it.device.clone(),
                    opened_at: Timestamp(it.at_ms as i64),
                    family: Family::start(it.secret.clone(), it.at_ms),
                });
            }
            (SessionEvent::Refreshed(it), Some(login)) => {
                let (at_ms, successor) = (it.at_ms, it.successor);
                login.family.apply(&refresh::Event::Rotated { at_ms, successor });
            }
            (SessionEvent::Moved(it), Some(login)) => login.device = Some(it.device.clone()),
            (SessionEvent::Ended(it), Some(login)) => {
                let (at_ms, reason) = (it.at_ms, it.reason);
                login.family.apply(&refresh::Event::Ended { at_ms, reason });
            }
            (_, None) => {}
        }
    }

    fn rows(&self, event: &SessionEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        let family = SESSIONS_FAMILY;
        match (event, &self.login) {
            (SessionEvent::Moved(it), Some(login)) => {
                let row = SessionRow {
                    session: login.session,
                    tenant: login.tenant,
                    device: Some(it.device.clone()),
                    opened_at: login.opened_at,
                };
                let key = row_key(login.user, login.session);
                rows.push(RowDraft { family, key, value: codec::encode(&row).ok() });
            }
            (SessionEvent::Opened(it), _) => {
                let row = SessionRow {
                    session: it.session,
                    tenant: it.tenant,
                    device: it.device.clone(),
                    opened_at: Timestamp(it.at_ms as i64),
                };
                let key = row_key(it.user, it.session);
                rows.push(RowDraft { family, key, value: codec::encode(&row).ok() });
            }
            (SessionEvent::Ended(_), Some(login)) => {
                let key = row_key(login.user, login.session);
                rows.push(RowDraft { family, key, value: None });
            }
            _ => {}
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let family = self.family().filter(|family| family.ended().is_none())?;
        Some(Timestamp(family.expires_at_ms() as i64))
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let now_ms = unix_ms(turn.now());
        if let Some(event) = turn.state().family().and_then(|family| family.expire(now_ms)) {
            end(turn, event);
        }
    }

    async fn perform(effect: SessionEffect, context: EffectContext<Self>) {
        let SessionEffect::RaiseEpoch { session } = effect;
        let owner = OwnerKey { class: OwnerClass::Session, id: session.0 };
        let now = unix_ms(context.system.clock().now());
        context.system.port::<Epochs>().raise(owner, ENDED_EPOCH, now);
    }

    fn observe(&self) -> serde_json::Value {
        let Some(login) = &self.login else { return json!({"exists": false}) };
        let ended = login.family.ended().map(|reason| match reason {
            EndReason::Reuse => "reuse",
            EndReason::Revoked => "revoked",
            EndReason::Expired => "expired",
        });
        json!({
            "id": login.session, "user": login.user, "tenant": login.tenant,
            "opened_at": types::rfc3339(login.opened_at), "refreshes": login.family.rotations(),
            "expires_at": types::rfc3339(Timestamp(login.family.expires_at_ms() as i64)),
            "ended": ended,
        })
    }
}

/// Records an end that was decided, and asks for the access tokens to be refused.
fn end(turn: &mut Turn<'_, Session>, event: refresh::Event) {
    turn.record(event.into());
    if let Some(login) = &turn.state().login {
        let session = login.session;
        turn.effect(SessionEffect::RaiseEpoch { session });
    }
}

/// The token to use next.
#[derive(Debug)]
pub struct Successor {
    /// The family's token in clear; see [`client_token`].
    pub token: RefreshToken,
    /// Until when it can be used.
    pub expires_at: Timestamp,
    /// The user's epoch when the session was opened.
    pub user_epoch: u64,
}

/// Opens the session. Repeated with the same user and tenant it answers the same token while that
/// is unused; otherwise it is refused with `already_exists`.
pub struct Open {
    /// The id.
    pub session: SessionId,
    /// Who logs in.
    pub user: UserId,
    /// To which tenant.
    pub tenant: TenantId,
    /// The user's epoch.
    pub user_epoch: u64,
    /// From where, in clear; it is sealed here.
    pub device: Option<String>,
    /// A fresh secret.
    pub secret: FamilySecret,
}

impl Command for Open {
    const NAME: &'static str = "open";
}

impl Handle<Open> for Session {
    type Reply = Successor;

    fn handle(turn: &mut Turn<'_, Self>, command: Open) -> Result<Successor, Refusal> {
        let Open { session, user, tenant, user_epoch, device, secret } = command;
        let exists = || Refusal::conflict("already_exists", "there is such a session already");
        if let Some(login) = &turn.state().login {
            let is_same = (login.user, login.tenant) == (user, tenant);
            let is_unused = login.family.rotations() == 0 && login.family.ended().is_none();
            let current = turn.state().current(login.user_epoch);
            return current.filter(|_| is_same && is_unused).ok_or_else(exists);
        }
        let seal = |device: String| {
            let label: String = device.chars().take(DEVICE_CHARS_MAX).collect();
            Personal::seal(turn.keys(), user, DEVICE_LABEL, &label)
        };
        let device = device.map(seal).transpose()?;
        let at_ms = unix_ms(turn.now());
        let opened = Opened { session, user, tenant, user_epoch, device, secret, at_ms };
        turn.record(SessionEvent::Opened(opened));
        turn.state().current(user_epoch).ok_or_else(exists)
    }
}

/// Uses a refresh token.
pub struct Present {
    /// Its hash.
    pub token: TokenHash,
}

/// What became of a presented token. The end of a session is an event, so it is no refusal.
#[derive(Debug)]
pub enum Presented {
    /// It was good: the next one.
    Successor(Successor),
    /// It is no token of this session, or too old, or the session is over.
    Refused,
    /// It had been used before: the session is over from now on.
    Killed,
}

impl Command for Present {
    const NAME: &'static str = "present";
    const ESSENTIAL: bool = true;
}

impl Handle<Present> for Session {
    type Reply = Presented;

    fn handle(turn: &mut Turn<'_, Self>, command: Present) -> Result<Presented, Refusal> {
        let Some(login) = &turn.state().login else { return Ok(Presented::Refused) };
        let user_epoch = login.user_epoch;
        match login.family.present(&command.token, unix_ms(turn.now())) {
            Decision::Rotate(event) => turn.record(event.into()),
            Decision::SameSuccessor => {}
            Decision::KillFamily(event) => {
                end(turn, event);
                return Ok(Presented::Killed);
            }
            Decision::Unknown | Decision::Expired | Decision::Ended(_) => {
                return Ok(Presented::Refused);
            }
        }
        let successor = turn.state().current(user_epoch);
        Ok(successor.map_or(Presented::Refused, Presented::Successor))
    }
}

/// Ends the session at the wish of one with the right to. Says whether it had not ended before.
pub struct Revoke {}

impl Command for Revoke {
    const NAME: &'static str = "revoke";
    const ESSENTIAL: bool = true;
}

impl Handle<Revoke> for Session {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, _: Revoke) -> Result<bool, Refusal> {
        let family = turn.state().family().ok_or_else(|| Refusal::not_found("session"))?;
        let Some(event) = family.revoke(unix_ms(turn.now())) else { return Ok(false) };
        end(turn, event);
        Ok(true)
    }
}

/// Ends the session at the wish of whoever has one of its tokens, whether used or not. Says
/// whether the token is one of this session's.
pub struct Logout {
    /// The token's hash.
    pub token: TokenHash,
}

impl Command for Logout {
    const NAME: &'static str = "logout";
    const ESSENTIAL: bool = true;
}

impl Handle<Logout> for Session {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: Logout) -> Result<bool, Refusal> {
        let now_ms = unix_ms(turn.now());
        let Some(family) = turn.state().family() else { return Ok(false) };
        if family.present(&command.token, now_ms) == Decision::Unknown {
            return Ok(false);
        }
        if let Some(event) = family.revoke(now_ms) {
            end(turn, event);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;
    use crate::refresh::{SAME_SUCCESSOR_MS, TOKEN_LIFE_MS};

    const SESSION: SessionId = SessionId(1);
    const ADA: UserId = UserId(2);
    const ACME: TenantId = TenantId(3);

    fn open(tenant: TenantId) -> Open {
        Open {
            session: SESSION,
            user: ADA,
            tenant,
            user_epoch: 4,
            device: Some("a browser".to_owned()),
            secret: FamilySecret::generate().unwrap(),
        }
    }

    fn opened() -> (TokenHash, Given<Session>) {
        let (first, given) = Given::nothing().when(open(ACME)).reply();
        (hash(&first), given)
    }

    fn hash(successor: &Successor) -> TokenHash {
        TokenHash::of(successor.token.expose()).unwrap()
    }

    fn successor(presented: Presented) -> TokenHash {
        match presented {
            Presented::Successor(successor) => hash(&successor),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_token_says_where_it_belongs_and_prints_nothing() {
        let (first, _) = Given::<Session>::nothing().when(open(ACME)).reply();
        let text = client_token(&first.token, SESSION, ADA, ACME);
        let located = Located::parse(&text).unwrap();
        let token = hash(&first);
        assert_eq!(located, Located { token, session: SESSION, user: ADA, tenant: ACME });
        assert!(!format!("{first:?} {located:?}").contains(&first.token.expose()[6..]));
        let cut = &text[..text.len() - 1];
        let (token, locator) = text.split_once('.').unwrap();
        for other in ["", ".", token, cut, &format!("{}A", &*text), &format!("x{}", &*text)] {
            assert_eq!(Located::parse(other), None, "{other}");
        }
        assert_eq!(Located::parse(&format!("{token}.{}", &locator[..60])), None);
    }

    #[test]
    fn opening_may_be_repeated_until_the_token_is_used() {
        let (first, given) = opened();
        assert!(!format!("{:?}", given.state()).contains("browser"));
        let then = given.when(open(ACME));
        assert!(then.events.is_empty());
        let (again, given) = then.reply();
        assert_eq!((hash(&again), again.user_epoch), (first, 4));
        let (code, given) = given.when(open(TenantId(9))).refused();
        assert_eq!(code, "already_exists");
        let given = given.when(Present { token: first }).then();
        assert_eq!(given.when(open(ACME)).refused().0, "already_exists");
    }

    #[test]
    fn a_used_token_answers_the_same_successor_and_later_ends_the_session() {
        let (first, given) = opened();
        let (presented, given) = given.when(Present { token: first }).reply();
        let second = successor(presented);
        let then = given.when(Present { token: first });
        assert!(then.events.is_empty() && then.effects.is_empty());
        let (presented, given) = then.reply();
        assert_eq!(successor(presented), second);
        let given = given.later_ms(SAME_SUCCESSOR_MS as i64);
        assert_eq!(given.state().epoch(), 0);
        let then = given.when(Present { token: first });
        assert_eq!(then.effects, [SessionEffect::RaiseEpoch { session: SESSION }]);
        let row = RowDraft { family: SESSIONS_FAMILY, key: row_key(ADA, SESSION), value: None };
        assert_eq!(then.rows, [row]);
        let (presented, given) = then.reply();
        assert!(matches!(presented, Presented::Killed), "{presented:?}");
        assert_eq!(given.state().epoch(), ENDED_EPOCH);
        let (presented, _) = given.when(Present { token: second }).reply();
        assert!(matches!(presented, Presented::Refused), "{presented:?}");
    }

    #[test]
    fn only_one_of_its_tokens_logs_out_and_revoking_needs_none() {
        let (first, given) = opened();
        let stranger = hash(&Given::<Session>::nothing().when(open(ACME)).reply().0);
        let (known, given) = given.when(Logout { token: stranger }).reply();
        assert_eq!((known, given.state().epoch()), (false, 0));
        let given = given.when(Present { token: first }).then();
        let (known, given) = given.when(Logout { token: first }).reply();
        assert_eq!((known, given.state().epoch()), (true, ENDED_EPOCH));
        let then = given.when(Logout { token: first });
        assert!(then.events.is_empty());
        let (was_open, _) = then.given.when(Revoke {}).reply();
        assert!(!was_open);
        let (was_open, given) = opened().1.when(Revoke {}).reply();
        assert_eq!((was_open, given.state().epoch()), (true, ENDED_EPOCH));
        assert_eq!(Given::<Session>::nothing().when(Revoke {}).refused().0, "not_found");
    }

    #[test]
    fn an_unused_session_expires_by_itself() {
        let (_, given) = opened();
        assert_eq!(given.state().next_deadline(), Some(given.now().plus_ms(TOKEN_LIFE_MS as i64)));
        let then = given.later_ms(TOKEN_LIFE_MS as i64 - 1).when_due();
        assert!(then.events.is_empty());
        let then = then.given.later_ms(1).when_due();
        let [SessionEvent::Ended(ended)] = then.events.as_slice() else { panic!("not ended") };
        assert_eq!(ended.reason, EndReason::Expired);
        assert_eq!(then.given.state().next_deadline(), None);
        let observed = then.given.state().observe();
        assert_eq!(observed["ended"], "expired");
    }
}
