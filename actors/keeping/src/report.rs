//! What was done outside and is to stand in the tenant's chain: a change that a service made, or
//! an action that a worker carried out.
//!
//! Invariants
//! - A report stands in the chain of the tenant it is about, under the name of the service that
//!   made it; it moves no credits, whatever it says of prices.
//! - What it says of somebody in particular is sealed under that user's own key.
//!
//! Deliberate limits: the server takes the service's word. It verifies that the report is as it was
//! made, not that what it tells has happened.

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Command, Entity, Handle, NoEffect, Refusal, Timestamp, Turn};
use types::{AppId, JsonBytes, Personal, TenantId, UserId, base32, home_of, owner_of_tenant};

/// Bytes of the JSON text of what a report says beyond its names.
pub const DETAILS_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a name in a report: of an action, a sort of target, a source.
pub const NAME_BYTES_MAX: usize = 128;
const DETAILS: &str = "report.details";

/// One report. Its only event is all there is to it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    reported: Option<Reported>,
}

/// How much an action may have changed, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sort {
    /// It read.
    Read,
    /// It wrote.
    Write,
    /// It took away.
    Destructive,
    /// It was somebody's own business.
    System,
}

/// Further facts: in clear under the tenant's key, or sealed under a user's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Details {
    /// A JSON object.
    Open(JsonBytes),
    /// A JSON object, sealed.
    OfUser(Personal),
}

/// It was reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// The id.
    pub id: u128,
    /// Of which app, if of one.
    pub app: Option<AppId>,
    /// What was done, such as `invoice.send`.
    pub action: String,
    /// How much it changed.
    pub sort: Sort,
    /// Whether it succeeded.
    pub is_success: bool,
    /// Who did it, as the service names them: `user`, `agent`, `system`, …
    pub actor_type: String,
    /// What sort of thing it was done to; empty for none.
    pub target_type: String,
    /// Where it was done.
    pub source: String,
    /// Everything else.
    pub details: Details,
}

supervision::events! {
    /// What happens to a report.
    pub enum ReportEvent {
        /// It was made.
        Reported(Reported) = "reported", 1;
    }
}

impl Report {
    /// Where a report lives.
    pub fn address(id: u128, tenant: TenantId) -> Address<Self> {
        crate::address(&base32(id), owner_of_tenant(tenant), home_of(tenant))
    }
}

impl Entity for Report {
    const KIND: &'static str = "report";
    type Event = ReportEvent;
    type Effect = NoEffect;

    fn apply(&mut self, ReportEvent::Reported(reported): &ReportEvent, _: Timestamp) {
        self.reported = Some(reported.clone());
    }

    fn is_over(&self) -> bool {
        self.reported.is_some()
    }

    fn observe(&self) -> serde_json::Value {
        let Some(it) = &self.reported else { return json!({"exists": false}) };
        json!({"app": it.app, "action": it.action, "is_success": it.is_success,
            "actor_type": it.actor_type, "target_type": it.target_type, "source": it.source})
    }
}

/// Makes a report. Answers its id; a repetition is no change. 422 for names or details that will
/// not do.
#[derive(Clone, Debug)]
pub struct MakeReport {
    /// The id.
    pub id: u128,
    /// See [`Reported::app`].
    pub app: Option<AppId>,
    /// See [`Reported::action`].
    pub action: String,
    /// See [`Reported::sort`].
    pub sort: Sort,
    /// See [`Reported::is_success`].
    pub is_success: bool,
    /// See [`Reported::actor_type`].
    pub actor_type: String,
    /// See [`Reported::target_type`].
    pub target_type: String,
    /// See [`Reported::source`].
    pub source: String,
    /// Further facts, a JSON object.
    pub details: JsonBytes,
    /// About whom they are: they are sealed under this user's key.
    pub about: Option<UserId>,
}

impl Command for MakeReport {
    const NAME: &'static str = "report";
}

impl Handle<MakeReport> for Report {
    type Reply = u128;

    fn handle(turn: &mut Turn<'_, Self>, command: MakeReport) -> Result<u128, Refusal> {
        if let Some(known) = &turn.state().reported {
            return Ok(known.id);
        }
        let MakeReport { id, app, action, sort, is_success, .. } = command;
        let MakeReport { actor_type, target_type, source, details, about, .. } = command;
        check_name("action", &action, false)?;
        check_name("actor_type", &actor_type, false)?;
        check_name("target_type", &target_type, true)?;
        check_name("source", &source, true)?;
        if details.as_str().len() > DETAILS_BYTES_MAX {
            let message = format!("all of it has at most {DETAILS_BYTES_MAX} bytes");
            return Err(Refusal::invalid("metadata", message));
        }
        let details = match about {
            None => Details::Open(details),
            Some(user) => {
                Details::OfUser(Personal::seal(turn.keys(), user, DETAILS, details.as_str())?)
            }
        };
        let reported = Reported {
            id,
            app,
            action,
            sort,
            is_success,
            actor_type,
            target_type,
            source,
            details,
        };
        turn.record(ReportEvent::Reported(reported));
        Ok(id)
    }
}

impl Details {
    /// The facts, a JSON text; `None` once the user's key is erased.
    pub fn open(&self, keys: &persistence::KeyRing) -> Option<String> {
        match self {
            Self::Open(details) => Some(details.as_str().to_owned()),
            Self::OfUser(sealed) => sealed.open(keys, DETAILS),
        }
    }
}

fn check_name(field: &str, name: &str, may_be_empty: bool) -> Result<(), Refusal> {
    let is_fit = name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_fit || name.len() > NAME_BYTES_MAX || name.is_empty() && !may_be_empty {
        let message = format!("1 to {NAME_BYTES_MAX} visible ASCII characters without spaces");
        return Err(Refusal::invalid(field, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn make() -> MakeReport {
        let text = str::to_owned;
        MakeReport {
            id: 5,
            app: AppId::new("shelf").ok(),
            action: text("invoice.send"),
            sort: Sort::Write,
            is_success: true,
            actor_type: text("user"),
            target_type: text("invoice"),
            source: text("api"),
            details: json!({"target_id": "inv-1", "note": "canary"}).into(),
            about: Some(UserId(8)),
        }
    }

    #[test]
    fn a_report_is_made_once_and_shows_nothing_of_whom_it_is_about() {
        let then = Given::<Report>::nothing().when(make());
        assert!(!format!("{:?}", then.events).contains("canary"));
        let ReportEvent::Reported(reported) = &then.events[0];
        let details = reported.details.clone();
        let given = then.then();
        assert!(details.open(given.keys()).unwrap().contains("canary"));
        let again = given.when(MakeReport { id: 6, ..make() });
        assert!(again.events.is_empty());
        assert_eq!(again.outcome, Ok(5));
    }

    #[test]
    fn names_and_facts_have_their_limits() {
        let refused = |make: MakeReport| Given::<Report>::nothing().when(make).refused().0;
        for action in ["", "a b", "é", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(refused(MakeReport { action: action.to_owned(), ..make() }), INVALID);
        }
        let details = json!({"x": "x".repeat(DETAILS_BYTES_MAX)}).into();
        assert_eq!(refused(MakeReport { details, ..make() }), INVALID);
        let nobody = MakeReport { about: None, target_type: String::new(), ..make() };
        let then = Given::<Report>::nothing().when(nobody);
        let ReportEvent::Reported(reported) = &then.events[0];
        assert!(matches!(reported.details, Details::Open(_)));
    }

    const INVALID: &str = "validation_error";
}
