//! What the runtimes of apps tell a user: a line or two, on the user's event feed at once, in a
//! list of the last ones, and by mail if the user wants that.
//!
//! Invariants
//! - One app tells one user at most [`NOTICES_MAX`] things within [`PERIOD_MS`].
//! - The same id is the same notice: asking again tells nothing again.
//! - What goes by mail is asked for until the mail is queued or given up, after a restart too.
//! - It is the user's: sealed under their own key, and erased with it.
//!
//! Deliberate limits
//! - The last [`KEPT_MAX`] are kept; the records of all stay in the chain.
//! - An app that told nothing for a period is forgotten by the count, and so is the app that told
//!   something longest ago when more than [`APPS_COUNTED_MAX`] do.

use std::collections::{BTreeMap, VecDeque};

use identity::Identity;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Class, Command, EffectContext, Entity, Handle, Refusal, Timestamp, Turn,
};
use types::{AppId, TenantId, UserId, check_lines, home_of, owner_of_user, rfc3339};

use crate::words::Words;

/// Things that one app tells one user within a period.
pub const NOTICES_MAX: u32 = 60;
/// The period, in milliseconds: an hour.
pub const PERIOD_MS: i64 = 3_600_000;
/// Notices that are kept.
pub const KEPT_MAX: usize = 100;
/// Apps of one user that are counted.
pub const APPS_COUNTED_MAX: usize = 200;
/// Characters of a notice.
pub const MESSAGE_CHARS_MAX: usize = 2_000;
/// Bytes of a channel's name.
pub const CHANNEL_BYTES_MAX: usize = 64;
/// Tries to have a mail queued.
pub const MAIL_TRIES_MAX: u32 = 6;
/// The wait before the second try, in milliseconds; each further one is twice as long.
const MAIL_PAUSE_MS: i64 = 10_000;
/// Mails that wait to be queued; what comes beyond that goes without.
const MAILS_WAITING_MAX: usize = 16;
/// Under which name things are counted that no app told.
const NO_APP: &str = "";

/// A notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The id.
    pub id: u128,
    /// Which app tells it, if one does.
    pub app: Option<AppId>,
    /// Which of the app's sorts it is.
    pub channel: String,
    /// What it says.
    pub message: Words,
    /// When.
    pub at: Timestamp,
}

/// The notices of one user in one tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Notices {
    of: Option<(TenantId, UserId)>,
    kept: VecDeque<Notice>,
    counts: BTreeMap<String, Count>,
    mails: BTreeMap<u128, Waiting>,
}

/// How many an app has told since when.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Count {
    since: Timestamp,
    told: u32,
}

/// A mail that is not queued yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    notice: Notice,
    tries: u32,
    again_at: Timestamp,
}

impl Notices {
    /// Where they live.
    pub fn address(tenant: TenantId, user: UserId) -> Address<Self> {
        crate::address(&format!("{user}.{tenant}"), owner_of_user(user), home_of(tenant))
    }

    /// The last ones, the newest first.
    pub fn newest(&self, limit: usize) -> Vec<Notice> {
        self.kept.iter().rev().take(limit).cloned().collect()
    }

    /// How long an app has to wait before it may tell something, in milliseconds.
    fn wait_ms(&self, app: &str, now: Timestamp) -> Option<i64> {
        let count = self.counts.get(app).filter(|count| count.told >= NOTICES_MAX)?;
        Some(count.since.plus_ms(PERIOD_MS).0 - now.0).filter(|wait| *wait > 0)
    }

    fn count(&mut self, app: String, at: Timestamp) {
        self.counts.retain(|_, count| at < count.since.plus_ms(PERIOD_MS));
        if !self.counts.contains_key(&app) && self.counts.len() >= APPS_COUNTED_MAX {
            let oldest = self.counts.iter().min_by_key(|(_, count)| count.since);
            if let Some(oldest) = oldest.map(|(app, _)| app.clone()) {
                self.counts.remove(&oldest);
            }
        }
        self.counts.entry(app).or_insert(Count { since: at, told: 0 }).told += 1;
    }
}

fn counted_as(app: Option<&AppId>) -> String {
    app.map_or_else(|| NO_APP.to_owned(), AppId::to_string)
}

/// A user was told something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notified {
    /// In which tenant.
    pub tenant: TenantId,
    /// Who.
    pub user: UserId,
    /// What.
    pub notice: Notice,
    /// Whether it goes by mail, too.
    pub by_mail: bool,
}

/// A mail is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MailTried {
    /// Of which notice.
    pub notice: u128,
}

/// A mail is queued, or is not to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MailOver {
    /// Of which notice.
    pub notice: u128,
    /// Whether it was queued.
    pub is_queued: bool,
}

supervision::events! {
    /// What happens to a user's notices.
    pub enum NoticesEvent {
        /// One more.
        Notified(Notified) = "notified", 1;
        /// A mail is tried again.
        MailTried(MailTried) = "notice_mail_tried", 1;
        /// A mail is over.
        MailOver(MailOver) = "notice_mail_over", 1;
    }
}

/// A notice that is to be mailed.
#[derive(Clone, Debug, PartialEq)]
pub struct MailNotice(u128);

impl Entity for Notices {
    const KIND: &'static str = "notices";
    type Event = NoticesEvent;
    type Effect = MailNotice;

    fn apply(&mut self, event: &NoticesEvent, at: Timestamp) {
        match event {
            NoticesEvent::Notified(Notified { tenant, user, notice, by_mail }) => {
                self.of = Some((*tenant, *user));
                self.count(counted_as(notice.app.as_ref()), at);
                if *by_mail {
                    let again_at = at.plus_ms(MAIL_PAUSE_MS);
                    let waiting = Waiting { notice: notice.clone(), tries: 1, again_at };
                    self.mails.insert(notice.id, waiting);
                }
                self.kept.push_back(notice.clone());
                if self.kept.len() > KEPT_MAX {
                    self.kept.pop_front();
                }
            }
            NoticesEvent::MailTried(MailTried { notice }) => {
                if let Some(waiting) = self.mails.get_mut(notice) {
                    waiting.again_at = at.plus_ms(MAIL_PAUSE_MS << waiting.tries.min(8));
                    waiting.tries += 1;
                }
            }
            NoticesEvent::MailOver(MailOver { notice, .. }) => {
                self.mails.remove(notice);
            }
        }
    }

    fn is_pending(&self) -> bool {
        !self.mails.is_empty()
    }

    fn resume(&self) -> Vec<MailNotice> {
        self.mails.keys().map(|id| MailNotice(*id)).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.mails.values().map(|waiting| waiting.again_at).min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let now = turn.now();
        let late = turn.state().mails.iter().filter(|(_, waiting)| waiting.again_at <= now);
        let late: Vec<(u128, u32)> = late.map(|(id, waiting)| (*id, waiting.tries)).collect();
        for (notice, tries) in late {
            if tries >= MAIL_TRIES_MAX {
                turn.record(NoticesEvent::MailOver(MailOver { notice, is_queued: false }));
            } else {
                turn.record(NoticesEvent::MailTried(MailTried { notice }));
                turn.effect(MailNotice(notice));
            }
        }
    }

    async fn perform(MailNotice(id): MailNotice, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let notices = system.directory::<Self>();
        let look = move |notices: &Self| {
            let waiting = notices.mails.get(&id)?;
            Some((notices.of?, waiting.notice.clone()))
        };
        let found = notices.look(&address, origin.clone(), look).await;
        let Ok(Some(((tenant, user), notice))) = found else { return };
        let (app, words) = (counted_as(notice.app.as_ref()), notice.message.as_str());
        let identity = system.port::<Identity>();
        let asked = identity.mail_notice((tenant, user), id, (&app, words), origin.clone()).await;
        match asked {
            Ok(is_queued) => {
                let over = EndMail { notice: id, is_queued };
                if let Err(refusal) = notices.ask(&address, over, origin).await {
                    tracing::debug!(%refusal, "a notice's mail is looked at again later");
                }
            }
            Err(refusal) => tracing::debug!(%refusal, "a notice's mail is tried again"),
        }
    }

    fn observe(&self) -> serde_json::Value {
        let notice =
            |it: &Notice| json!({"app": it.app, "channel": it.channel, "at": rfc3339(it.at)});
        json!({"kept": self.kept.iter().rev().map(notice).collect::<Vec<_>>(),
            "mails_waiting": self.mails.len()})
    }
}

/// Tells a user something. 422 for what is no notice, 429 when the app has told too much.
#[derive(Clone, Debug)]
pub struct Notify {
    /// In which tenant.
    pub tenant: TenantId,
    /// Whom.
    pub user: UserId,
    /// The notice's id.
    pub id: u128,
    /// Which app tells it.
    pub app: Option<AppId>,
    /// Which of the app's sorts it is.
    pub channel: String,
    /// What it says: lines of plain text.
    pub message: String,
    /// Whether the user wants it by mail, too.
    pub by_mail: bool,
}

impl Command for Notify {
    const NAME: &'static str = "notify";
}

impl Handle<Notify> for Notices {
    type Reply = Notice;

    fn handle(turn: &mut Turn<'_, Self>, command: Notify) -> Result<Notice, Refusal> {
        let Notify { tenant, user, id, app, channel, message, by_mail } = command;
        if let Some(known) = turn.state().kept.iter().find(|notice| notice.id == id) {
            return Ok(known.clone());
        }
        check(&channel, &message)?;
        let (now, counted) = (turn.now(), counted_as(app.as_ref()));
        if let Some(wait_ms) = turn.state().wait_ms(&counted, now) {
            let message = format!("an app tells a user at most {NOTICES_MAX} things an hour");
            let refusal = Refusal::new(Class::TooMany, "too_many_notices", message);
            return Err(refusal.retry_after(u64::try_from(wait_ms).unwrap_or(0)));
        }
        let by_mail = by_mail && turn.state().mails.len() < MAILS_WAITING_MAX;
        let notice = Notice { id, app, channel, message: Words::from(message), at: now };
        let notified = Notified { tenant, user, notice: notice.clone(), by_mail };
        turn.record(NoticesEvent::Notified(notified));
        if by_mail {
            turn.effect(MailNotice(id));
        }
        Ok(notice)
    }
}

fn check(channel: &str, message: &str) -> Result<(), Refusal> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
    if channel.is_empty() || channel.len() > CHANNEL_BYTES_MAX || !channel.bytes().all(is_fit) {
        let message = format!("1 to {CHANNEL_BYTES_MAX} of letters, digits and _-.:");
        return Err(Refusal::invalid("channel", message));
    }
    if message.trim().is_empty() || message.chars().count() > MESSAGE_CHARS_MAX {
        let message = format!("must have 1 to {MESSAGE_CHARS_MAX} characters");
        return Err(Refusal::invalid("message", message));
    }
    check_lines(message).map_err(|error| Refusal::invalid("message", error.to_string()))
}

/// Notes that a notice's mail is queued, or is not to be.
struct EndMail {
    notice: u128,
    is_queued: bool,
}

impl Command for EndMail {
    const NAME: &'static str = "end_notice_mail";
    const ESSENTIAL: bool = true;
}

impl Handle<EndMail> for Notices {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: EndMail) -> Result<(), Refusal> {
        let EndMail { notice, is_queued } = command;
        if turn.state().mails.contains_key(&notice) {
            turn.record(NoticesEvent::MailOver(MailOver { notice, is_queued }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn notify(id: u128, app: &str) -> Notify {
        let (channel, message) = ("default".to_owned(), "Your report is ready".to_owned());
        let (tenant, user) = (TenantId(7), UserId(8));
        let app = AppId::new(app).ok();
        Notify { tenant, user, id, app, channel, message, by_mail: false }
    }

    #[test]
    fn an_app_tells_so_much_an_hour_and_others_still_may() {
        let given = (1..=u128::from(NOTICES_MAX))
            .fold(Given::<Notices>::nothing(), |given, id| given.when(notify(id, "shelf")).then());
        let (code, given) = given.when(notify(900, "shelf")).refused();
        assert_eq!(code, "too_many_notices");
        let (_, given) = given.when(notify(901, "press")).reply();
        let again = given.when(notify(60, "shelf"));
        assert!(again.outcome.is_ok() && again.events.is_empty(), "the same notice once");
        let given = again.then().later_ms(PERIOD_MS).when(notify(902, "shelf")).then();
        assert_eq!(given.state().newest(1)[0].id, 902);
        assert_eq!(given.state().counts.len(), 1, "what is over is forgotten");
    }

    #[test]
    fn the_last_ones_are_kept() {
        let mut given = Given::<Notices>::nothing();
        for id in 0..KEPT_MAX as u128 + 5 {
            given = given.later_ms(PERIOD_MS).when(notify(id, "shelf")).then();
        }
        let newest = given.state().newest(1_000);
        assert_eq!((newest.len(), newest[0].id), (KEPT_MAX, KEPT_MAX as u128 + 4));
    }

    #[test]
    fn a_mail_is_tried_until_it_is_queued_or_given_up() {
        let by_mail = Notify { by_mail: true, ..notify(1, "shelf") };
        let then = Given::<Notices>::nothing().when(by_mail);
        assert_eq!(then.effects, [MailNotice(1)]);
        let given = then.then();
        assert!(given.state().is_pending() && given.state().resume() == [MailNotice(1)]);
        let queued = given.when(EndMail { notice: 1, is_queued: true }).then();
        assert!(!queued.state().is_pending());
        let by_mail = Notify { by_mail: true, ..notify(2, "shelf") };
        let mut given = queued.when(by_mail).then();
        let mut tries = 1;
        while let Some(at) = given.state().next_deadline() {
            let then = given.at(at).when_due();
            tries += then.effects.len();
            given = then.then();
        }
        assert_eq!(tries, MAIL_TRIES_MAX as usize);
    }

    #[test]
    fn what_is_no_notice_is_refused_and_what_is_one_is_not_shown() {
        let mut given = Given::<Notices>::nothing();
        let long = "x".repeat(MESSAGE_CHARS_MAX + 1);
        for message in ["", "a\u{202e}b", "a\0b", &long] {
            let message = message.to_owned();
            let (code, after) = given.when(Notify { message, ..notify(1, "shelf") }).refused();
            assert_eq!(code, "validation_error");
            given = after;
        }
        let channel = "no such channel".to_owned();
        let (code, given) = given.when(Notify { channel, ..notify(1, "shelf") }).refused();
        assert_eq!(code, "validation_error");
        let then = given.when(notify(1, "shelf"));
        assert!(!format!("{:?}", then.events).contains("report"));
        assert!(!then.then().state().observe().to_string().contains("report"));
    }
}
