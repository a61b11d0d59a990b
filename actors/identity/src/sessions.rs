//! A user's sessions as the user sees them: where from, when last, and the end of any of them.
//!
//! Invariants
//! - Of a network address only its greater part is ever kept, and that sealed under the user's own
//!   key, with what the client calls itself ([`Whence`]).
//! - A session whose user has ended all logins since, by a new password say, is not shown: nothing
//!   of it is good any more.
//!
//! Deliberate limits
//! - The last use is the login or the last refresh: access tokens are checked without asking their
//!   session.
//! - No list of places by address is kept here, so a place is the address without its last part.
//! - The name of a device is guessed from its `User-Agent`, which anybody may make up.

use std::net::IpAddr;

use futures::future::try_join_all;
use supervision::{Address, Command, Entity, Handle, Refusal, RequestRef, Timestamp, Turn};
use types::{Personal, SessionId, TenantId, UserId, owner_of_user};

use crate::login::{TokenLife, Tokens, origin_of, session_rows};
use crate::service::Identity;
use crate::session::{
    DEVICE_CHARS_MAX, DEVICE_LABEL, ENDED_EPOCH, Moved, Session, SessionEvent, SessionRow,
};
use crate::token_cache::OwnerClass;
use crate::user::User;

/// The longest `User-Agent` that is kept, in characters; the rest is cut off. The place behind it
/// still fits into [`DEVICE_CHARS_MAX`].
const AGENT_CHARS_MAX: usize = DEVICE_CHARS_MAX - 56;
/// Between the two in the text that is sealed. No header has one.
const BETWEEN: char = '\n';
/// Programs by the mark in their `User-Agent`, the particular before what they are built of.
const PROGRAMS: &[(&str, &str)] = &[
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];
/// Systems by the mark in a `User-Agent`, in the same order.
const SYSTEMS: &[(&str, &str)] = &[
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
];

/// Where a session is used from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whence {
    /// What the client calls itself.
    pub user_agent: Option<String>,
    /// The greater part of its network address.
    pub place: Option<String>,
}

impl Whence {
    /// Of a client that calls itself so and comes from there.
    pub fn new(user_agent: Option<&str>, address: Option<IpAddr>) -> Self {
        let user_agent = user_agent.map(str::trim).filter(|agent| !agent.is_empty());
        let cut = |agent: &str| {
            let seen = agent.chars().filter(|letter| !letter.is_control());
            seen.take(AGENT_CHARS_MAX).collect()
        };
        Self { user_agent: user_agent.map(cut), place: address.map(place) }
    }

    /// The text that is sealed; `None` when nothing is known.
    pub fn to_text(&self) -> Option<String> {
        let agent = self.user_agent.as_deref().unwrap_or_default();
        match &self.place {
            Some(place) => Some(format!("{agent}{BETWEEN}{place}")),
            None => self.user_agent.clone(),
        }
    }

    /// Reads the text that was sealed.
    pub fn of_text(text: &str) -> Self {
        let (agent, place) = text.split_once(BETWEEN).unwrap_or((text, ""));
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self { user_agent: known(agent), place: known(place) }
    }

    /// What people call it: `Firefox on Linux`, or the program that the client names first.
    pub fn device(&self) -> Option<String> {
        let agent = self.user_agent.as_deref()?;
        let named = |names: &[(&str, &'static str)]| {
            names.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, name)| *name)
        };
        Some(match (named(PROGRAMS), named(SYSTEMS)) {
            (Some(program), Some(system)) => format!("{program} on {system}"),
            (Some(one), None) | (None, Some(one)) => one.to_owned(),
            (None, None) => agent.split(['/', ' ']).next().unwrap_or(agent).to_owned(),
        })
    }
}

/// An address without what tells one household from the next: the last part of four of an IPv4
/// address, all but the first 48 bits of an IPv6 one.
fn place(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.x")
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}::x")
        }
    }
}

/// An open session, as its user may see it.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// The session.
    pub session: SessionId,
    /// The tenant.
    pub tenant: TenantId,
    /// From where it was used last.
    pub whence: Whence,
    /// Since when.
    pub opened_at: Timestamp,
    /// The login or the last refresh.
    pub last_used_at: Timestamp,
    /// When it ends if it is not used.
    pub expires_at: Timestamp,
}

/// Notes from where a session's token was used just now. No change when it is the same place.
pub struct Move {
    /// [`Whence::to_text`]; it is sealed here.
    pub device: String,
}

impl Command for Move {
    const NAME: &'static str = "move";
}

impl Handle<Move> for Session {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Move) -> Result<(), Refusal> {
        let Some(login) = &turn.state().login else { return Err(no_session()) };
        let known = login.device.as_ref().and_then(|it| it.open(turn.keys(), DEVICE_LABEL));
        let is_open = turn.state().epoch() < ENDED_EPOCH;
        if !is_open || known.as_ref() == Some(&command.device) {
            return Ok(());
        }
        let device = Personal::seal(turn.keys(), login.user, DEVICE_LABEL, &command.device)?;
        turn.record(SessionEvent::Moved(Moved { device }));
        Ok(())
    }
}

/// Has nothing to say but that a user's sessions were ended: an idempotency key's outcome is
/// recorded with it.
pub struct NoteSessionsEnded;

impl Command for NoteSessionsEnded {
    const NAME: &'static str = "note_sessions_ended";
}

impl Handle<NoteSessionsEnded> for User {
    type Reply = ();

    fn handle(_: &mut Turn<'_, Self>, _: NoteSessionsEnded) -> Result<(), Refusal> {
        Ok(())
    }
}

fn no_session() -> Refusal {
    Refusal::not_found("session")
}

impl Identity {
    /// The user's open sessions, in one tenant or in all, the latest login first, at most
    /// [`crate::login::SESSIONS_SHOWN_MAX`].
    pub async fn open_sessions(
        &self,
        user: UserId,
        tenant: Option<TenantId>,
    ) -> Result<Vec<OpenSession>, Refusal> {
        let system = self.system()?;
        let Some(account) = self.account(user, None).await? else { return Ok(Vec::new()) };
        let rows = session_rows(&system, user, None, true).into_iter().map(|(_, row)| row);
        let rows = rows.filter(|row| tenant.is_none_or(|tenant| row.tenant == tenant));
        let looks = rows.map(|SessionRow { session, tenant, .. }| {
            let sessions = system.directory::<Session>();
            let (address, origin) =
                (Session::address(session, user, tenant), system.system_origin());
            let sessions_from = account.sessions_from;
            let look = move |it: &Session| {
                let is_open = it.epoch() < ENDED_EPOCH;
                let login = it.login.clone().filter(|it| is_open && it.user_epoch >= sessions_from);
                login.zip(it.used_and_expires())
            };
            async move { sessions.look(&address, origin, look).await }
        });
        let found = try_join_all(looks).await?.into_iter().flatten();
        let keys = system.journal().keys();
        let view = |(login, (last_used_at, expires_at)): (crate::session::Login, _)| {
            let device = login.device.and_then(|device| device.open(keys, DEVICE_LABEL));
            let whence = device.map(|text| Whence::of_text(&text)).unwrap_or_default();
            let (session, tenant, opened_at) = (login.session, login.tenant, login.opened_at);
            OpenSession { session, tenant, whence, opened_at, last_used_at, expires_at }
        };
        Ok(found.map(view).collect())
    }

    /// Where one of a user's sessions lives. 404 when it is not that user's.
    pub fn own_session(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<Address<Session>, Refusal> {
        // Neither user nor tenant is in the text that this looks for.
        let id = Session::address(session, user, TenantId::SYSTEM).id().to_owned();
        let place = self.system()?.locate(Session::KIND, &id);
        let own = place.filter(|place| place.owner == owner_of_user(user));
        own.and_then(Address::from_place).ok_or_else(no_session)
    }

    /// The access tokens of a session that has ended are refused from now on. To be called by who
    /// asked the session itself to end, before it says so.
    pub fn session_ended(&self, session: SessionId) -> Result<(), Refusal> {
        self.raise(OwnerClass::Session, session.0, ENDED_EPOCH, &*self.system()?);
        Ok(())
    }

    /// As [`Identity::refresh`], and notes from where.
    pub async fn refresh_from(
        &self,
        presented: &str,
        life: TokenLife,
        device: Option<String>,
        request: RequestRef,
    ) -> Result<Tokens, Refusal> {
        let tokens = self.refresh(presented, life, request).await?;
        let Some(device) = device else { return Ok(tokens) };
        let system = self.system()?;
        let address = Session::address(tokens.session, tokens.user, tokens.tenant);
        let origin = origin_of(tokens.user, request);
        // The pair is good whether or not this succeeds; the next refresh tries again.
        if let Err(refusal) =
            system.directory::<Session>().ask(&address, Move { device }, origin).await
        {
            tracing::debug!(%refusal, "the place of a session was not noted");
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;
    use crate::refresh::FamilySecret;
    use crate::session::{Open, Revoke};

    fn whence(agent: &str, address: &str) -> Whence {
        Whence::new(Some(agent), Some(address.parse().unwrap()))
    }

    #[test]
    fn an_address_loses_its_last_part_before_anything_is_kept() {
        let place = |address| whence("x", address).place.unwrap();
        assert_eq!(place("203.0.113.77"), "203.0.113.x");
        assert_eq!(place("::ffff:203.0.113.77"), "203.0.113.x");
        assert_eq!(place("2001:db8:1:2:3:4:5:6"), "2001:db8:1::x");
        let text = whence("curl/8.5.0", "203.0.113.77").to_text().unwrap();
        assert!(!text.contains("77"));
        assert_eq!(Whence::of_text(&text), whence("curl/8.5.0", "203.0.113.1"));
    }

    #[test]
    fn whatever_is_known_is_read_back_and_fits() {
        let agent = "é".repeat(DEVICE_CHARS_MAX * 2);
        let long = Whence::new(Some(&agent), Some("2001:db8:ffff:ffff::".parse().unwrap()));
        let text = long.to_text().unwrap();
        assert!(text.chars().count() <= DEVICE_CHARS_MAX);
        assert_eq!(Whence::of_text(&text), long);
        let nothing = Whence::new(Some(" "), None);
        assert_eq!((nothing.to_text(), nothing.device()), (None, None));
        let only_agent = Whence::of_text("a browser");
        assert_eq!((only_agent.user_agent.as_deref(), only_agent.place), (Some("a browser"), None));
    }

    #[test]
    fn devices_are_called_what_people_call_them() {
        let cases = [
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
                "Firefox on Linux",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/142.0 Safari/537.36 Edg/142.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1",
                "Safari on iPhone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/142.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            ("curl/8.5.0", "curl"),
            ("some client of mine", "some"),
        ];
        for (agent, device) in cases {
            assert_eq!(whence(agent, "::1").device().as_deref(), Some(device), "{agent}");
        }
    }

    #[test]
    fn a_session_moves_only_when_it_is_used_from_somewhere_else() {
        let open = Open {
            session: SessionId(1),
            user: UserId(2),
            tenant: TenantId(3),
            user_epoch: 0,
            device: Some("here".to_owned()),
            secret: FamilySecret::generate().unwrap(),
        };
        let move_to = |device: &str| Move { device: device.to_owned() };
        let given = Given::<Session>::nothing().when(open).then();
        let then = given.when(move_to("here"));
        assert!(then.events.is_empty());
        let then = then.given.when(move_to("there"));
        assert_eq!((then.events.len(), then.rows.len()), (1, 1));
        let given = then.given;
        let device = given.state().login.as_ref().unwrap().device.as_ref().unwrap();
        assert_eq!(device.open(given.keys(), DEVICE_LABEL).as_deref(), Some("there"));
        let then = given.when(Revoke {}).then().when(move_to("elsewhere"));
        assert!(then.events.is_empty(), "what is over stays where it was");
        assert_eq!(Given::<Session>::nothing().when(move_to("x")).refused().0, "not_found");
    }
}
