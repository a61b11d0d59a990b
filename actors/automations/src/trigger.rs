//! What sets a rule off: an event of the tenant's feed, a schedule, or its user.
//!
//! | `event_type` | `schedule` | set off by |
//! | --- | --- | --- |
//! | any | five fields of a crontab | the schedule, on the clock of `timezone` |
//! | `manual` | none | its user alone |
//! | `shelf.added` | none | events of that name |
//! | `shelf.*` | none | events whose names begin with `shelf.` |
//! | `*` | none | every event that its user may see |

use serde::{Deserialize, Serialize};
use supervision::Refusal;

use crate::schedule::{DEFAULT_ZONE, Schedule};

/// Characters of an event's name.
pub const EVENT_TYPE_CHARACTERS_MAX: usize = 200;
/// The event that never comes by itself.
pub const MANUAL: &str = "manual";

/// What sets a rule off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// The events, by name or pattern.
    pub event_type: String,
    /// Instead of events: a schedule.
    pub schedule: Option<String>,
    /// On whose clock the schedule is read.
    pub timezone: String,
}

impl Trigger {
    /// Its user alone.
    pub fn manual() -> Self {
        let timezone = DEFAULT_ZONE.to_owned();
        Self { event_type: MANUAL.to_owned(), schedule: None, timezone }
    }

    /// Whether it is set off by events.
    pub fn is_event(&self) -> bool {
        self.schedule.is_none() && self.event_type != MANUAL
    }

    /// Its schedule, if it has one that is any.
    pub fn schedule(&self) -> Option<Schedule> {
        Schedule::new(self.schedule.as_deref()?, &self.timezone).ok()
    }

    /// Whether an event of this name sets it off.
    pub fn takes(&self, name: &str) -> bool {
        if !self.is_event() {
            return false;
        }
        match self.event_type.strip_suffix('*') {
            Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
            None => self.event_type == name,
        }
    }

    /// 422 unless it is one.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(schedule) = &self.schedule {
            Schedule::new(schedule, &self.timezone).map_err(|error| {
                let field = if error.in_zone { "timezone" } else { "schedule" };
                Refusal::invalid(&format!("trigger_filter.{field}"), error.why)
            })?;
        }
        let name = &self.event_type;
        let unfit = |why: &str| Err(Refusal::invalid("trigger_filter.event_type", why));
        let characters = name.chars().count();
        if !(1..=EVENT_TYPE_CHARACTERS_MAX).contains(&characters) {
            return unfit(&format!("must be 1 to {EVENT_TYPE_CHARACTERS_MAX} characters"));
        }
        if name.chars().any(|it| it.is_control() || it.is_whitespace()) {
            return unfit("must not hold spaces");
        }
        let stars = name.matches('*').count();
        if stars > 0 && (stars > 1 || name != "*" && !name.ends_with(".*")) {
            return unfit("a pattern is * alone, or ends with .*");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(event_type: &str) -> Trigger {
        Trigger { event_type: event_type.to_owned(), ..Trigger::manual() }
    }

    #[test]
    fn a_name_a_family_or_everything() {
        assert!(trigger("shelf.added").takes("shelf.added"));
        assert!(!trigger("shelf.added").takes("shelf.added.twice"));
        assert!(trigger("shelf.*").takes("shelf.added") && !trigger("shelf.*").takes("shelf."));
        assert!(!trigger("shelf.*").takes("shelves.added") && trigger("*").takes("x"));
        assert!(!trigger(MANUAL).takes(MANUAL));
        let schedule = Some("0 9 * * *".to_owned());
        assert!(!Trigger { schedule, ..trigger("*") }.takes("x"));
    }

    #[test]
    fn what_is_no_trigger_is_refused() {
        for fits in ["shelf.added", "shelf.*", "*", MANUAL] {
            trigger(fits).check().unwrap();
        }
        for unfit in ["", "a b", "a*", "*.b", "a.*.*", "a.*b", &"x".repeat(201)] {
            assert!(trigger(unfit).check().is_err(), "{unfit}");
        }
        let schedule = |text: &str| Trigger { schedule: Some(text.to_owned()), ..trigger("cron") };
        schedule("0 9 * * mon-fri").check().unwrap();
        assert!(schedule("every day").check().is_err());
        let zone = Trigger { timezone: "Mars".to_owned(), ..schedule("0 9 * * *") };
        assert!(zone.check().unwrap_err().message.contains("timezone"));
    }
}
