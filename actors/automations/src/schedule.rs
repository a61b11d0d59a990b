//! When a schedule comes round: five fields of a crontab (minute, hour, day of month, month, day
//! of week) on the wall clock of a time zone of the IANA database.
//!
//! What clocks that are put forward or back mean for it, as cron has it:
//! - An hour that begins with `*` stands for an interval: it comes round by real time, so in both
//!   of two hours that look alike, and never in one that is left out.
//! - Any other hour is a time of day, which comes round once each day: at the first moment at which
//!   the clock shows it or more. So what would be in an hour that is left out comes when the clock
//!   jumps, and in an hour that comes twice it is the first.
//!
//! Deliberate limits
//! - The letters `L`, `W`, `H` and `#` of some crontabs are refused, and so are seconds and names
//!   such as `@daily`.
//! - A schedule must come round within four years, the longest time between two leap days in the
//!   next decades.

use std::fmt;

use cronexpr::{Crontab, MakeTimestamp};
use jiff::tz::{AmbiguousOffset, TimeZone};
use supervision::Timestamp;

/// Characters of a schedule.
pub const SCHEDULE_CHARACTERS_MAX: usize = 200;
/// Characters of a time zone's name.
pub const ZONE_CHARACTERS_MAX: usize = 64;
/// The zone of schedules that name none.
pub const DEFAULT_ZONE: &str = "UTC";
/// How late a slot may still be caught up with, in milliseconds: the server was down until then.
pub const CATCH_UP_MS_MAX: i64 = 60 * 60 * 1_000;
/// Slots that are counted one by one when they were missed.
pub const MISSED_COUNTED_MAX: u64 = 1_000;
/// Times of day that are passed over because they came earlier already.
const REPEATED_MAX: usize = 24 * 60;
/// Beyond the year 9000 no calendar is asked.
const LATEST: Timestamp = Timestamp(221_845_392_000_000);
const NAMES: [&str; 19] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "sun",
    "mon", "tue", "wed", "thu", "fri", "sat",
];

/// A text is no schedule: why, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleError {
    /// Whether it is the zone that is wrong.
    pub in_zone: bool,
    /// Why.
    pub why: String,
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.why)
    }
}

impl std::error::Error for ScheduleError {}

/// A schedule.
#[derive(Debug)]
pub struct Schedule {
    zone: TimeZone,
    /// By the zone's clock, or, for times of day, by a clock that is never put forward or back.
    crontab: Crontab,
    is_interval: bool,
}

/// What has come round since a slot was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The slot that is carried out: the latest, if it is late by no more than
    /// [`CATCH_UP_MS_MAX`].
    pub slot: Option<Timestamp>,
    /// The slots before it, or all if none is carried out; beyond [`MISSED_COUNTED_MAX`] they are
    /// not counted.
    pub missed: u64,
    /// The next one; `None` when there is none any more.
    pub next: Option<Timestamp>,
}

impl Schedule {
    /// Reads a schedule on the clock of a zone.
    pub fn new(text: &str, zone: &str) -> Result<Self, ScheduleError> {
        let unfit = |why: String| ScheduleError { in_zone: false, why };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [_, hour, ..] = fields[..] else {
            return Err(unfit("a schedule has five fields".to_owned()));
        };
        if fields.len() != 5 || text.len() > SCHEDULE_CHARACTERS_MAX {
            let most = SCHEDULE_CHARACTERS_MAX;
            return Err(unfit(format!("a schedule has five fields, in at most {most} characters")));
        }
        if let Some(word) = fields.iter().flat_map(|field| words(field)).find(|it| !is_word(it)) {
            return Err(unfit(format!("{word:?} is no number and no name of a month or day")));
        }
        let found = Some(zone).filter(|zone| zone.len() <= ZONE_CHARACTERS_MAX);
        let found = found.and_then(|zone| TimeZone::get(zone).ok());
        let unknown = || ScheduleError { in_zone: true, why: "is no time zone".to_owned() };
        let zone_found = found.ok_or_else(unknown)?;
        let is_interval = hour.starts_with('*');
        let by = if is_interval { zone } else { DEFAULT_ZONE };
        let crontab = cronexpr::parse_crontab(&format!("{} {by}", fields.join(" ")));
        // What the library says repeats the text over several lines.
        let crontab = crontab.map_err(|_| unfit("is no schedule of a crontab".to_owned()))?;
        Ok(Self { zone: zone_found, crontab, is_interval })
    }

    /// The first slot later than `after`; `None` when there is none within four years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if after > LATEST {
            return None;
        }
        let after = jiff::Timestamp::from_millisecond(after.0).ok()?;
        if self.is_interval {
            let next = self.crontab.find_next(MakeTimestamp(after)).ok()?;
            return Some(Timestamp(next.timestamp().as_millisecond()));
        }
        // The zone's clock, read as if it were the one that is never changed.
        let shown = self.zone.to_datetime(after);
        let mut from = TimeZone::UTC.to_timestamp(shown).ok()?;
        for _ in 0..REPEATED_MAX {
            let next = self.crontab.find_next(MakeTimestamp(from)).ok()?;
            let comes = self.first_shown(next.datetime())?;
            if comes > after {
                return Some(Timestamp(comes.as_millisecond()));
            }
            from = next.timestamp();
        }
        None
    }

    /// The first moment at which the zone's clock shows this or more.
    fn first_shown(&self, shown: jiff::civil::DateTime) -> Option<jiff::Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(shown);
        let is_left_out = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
        let comes = ambiguous.compatible().ok()?;
        if !is_left_out {
            return Some(comes);
        }
        // As much behind the jump as it would be behind the time that the clock jumps from.
        let behind = comes.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
        let jump = self.zone.preceding(behind).next();
        Some(jump.map_or(comes, |jump| jump.timestamp()))
    }

    /// What is to be done about a slot that has come, at `now`, which is not earlier.
    pub fn due(&self, slot: Timestamp, now: Timestamp) -> Due {
        let earliest = now.plus_ms(-CATCH_UP_MS_MAX);
        let (mut latest, mut passed) = (slot, 1);
        let next = loop {
            match self.next(latest) {
                Some(next) if next <= now => {
                    // What is too late for every purpose is not counted for ever.
                    let is_many = passed >= MISSED_COUNTED_MAX && next < earliest;
                    latest = if is_many { earliest } else { next };
                    passed += u64::from(passed < MISSED_COUNTED_MAX);
                }
                next => break next,
            }
        };
        let is_slot = latest >= earliest && (latest != earliest || self.is_slot(latest));
        let missed = if is_slot { passed - 1 } else { passed };
        Due { slot: is_slot.then_some(latest), missed, next }
    }

    fn is_slot(&self, at: Timestamp) -> bool {
        self.next(at.plus_ms(-1)) == Some(at)
    }
}

/// The parts of a field between the signs that join them.
fn words(field: &str) -> impl Iterator<Item = &str> {
    field.split([',', '-', '/', '*']).filter(|word| !word.is_empty())
}

fn is_word(word: &str) -> bool {
    let is_number = word.len() <= 2 && word.bytes().all(|byte| byte.is_ascii_digit());
    is_number || NAMES.iter().any(|name| word.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{parse_rfc3339, rfc3339};

    fn at(text: &str) -> Timestamp {
        parse_rfc3339(text).unwrap()
    }

    /// The next slots after a time.
    fn slots(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::new(text, zone).unwrap();
        let mut after = at(after);
        let next = |_| {
            after = schedule.next(after).unwrap();
            rfc3339(after).replace(":00.000Z", "Z")
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn a_time_of_day_comes_once_each_day_whatever_the_clocks_do() {
        // New York: at 02:00 of 8 March the clock shows 03:00; 02:30 is left out.
        let spring = slots("30 2 * * *", "America/New_York", "2026-03-07T00:00:00Z", 3);
        assert_eq!(spring, ["2026-03-07T07:30Z", "2026-03-08T07:00Z", "2026-03-09T06:30Z"]);
        // On 1 November 01:30 comes twice.
        let autumn = slots("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2);
        assert_eq!(autumn, ["2026-11-01T05:30Z", "2026-11-02T06:30Z"]);
        // Two times of day that the jump brings together are one.
        let both = slots("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        assert_eq!(both, ["2026-03-29T01:00Z", "2026-03-29T01:30Z", "2026-03-30T00:00Z"]);
        // Asked between the two, it does not come again.
        let between = slots("30 1 * * *", "America/New_York", "2026-11-01T05:45:00Z", 1);
        assert_eq!(between, ["2026-11-02T06:30Z"]);
    }

    #[test]
    fn an_interval_goes_by_real_time() {
        let hourly = slots("0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", 4);
        let expected =
            ["2026-11-01T05:00Z", "2026-11-01T06:00Z", "2026-11-01T07:00Z", "2026-11-01T08:00Z"];
        assert_eq!(hourly, expected);
        // 02:00 is not there on that day.
        let even = slots("0 */2 * * *", "America/New_York", "2026-03-08T04:30:00Z", 2);
        assert_eq!(even, ["2026-03-08T05:00Z", "2026-03-08T08:00Z"]);
        let quarters = slots("*/15 9 * * mon", "UTC", "2026-03-03T00:00:00Z", 2);
        assert_eq!(quarters, ["2026-03-09T09:00Z", "2026-03-09T09:15Z"]);
    }

    #[test]
    fn a_leap_day_comes_every_fourth_year_and_what_never_comes_has_no_next() {
        let leap = slots("0 12 29 2 *", "Europe/Berlin", "2026-01-01T00:00:00Z", 2);
        assert_eq!(leap, ["2028-02-29T11:00Z", "2032-02-29T11:00Z"]);
        let last = slots("0 0 31 * *", "UTC", "2026-01-31T12:00:00Z", 2);
        assert_eq!(last, ["2026-03-31T00:00Z", "2026-05-31T00:00Z"]);
        let never = Schedule::new("0 0 31 2 *", "UTC").unwrap();
        assert_eq!(never.next(at("2026-01-01T00:00:00Z")), None);
        assert_eq!(never.next(Timestamp(i64::MAX)), None);
    }

    #[test]
    fn of_what_was_missed_the_latest_is_caught_up_with_if_it_is_not_too_late() {
        let quarterly = Schedule::new("*/15 * * * *", "UTC").unwrap();
        let due = |slot: &str, now: &str| quarterly.due(at(slot), at(now));
        let slot = at("2026-01-01T00:00:00Z");
        let next = Some(at("2026-01-01T00:15:00Z"));
        let in_time = due("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        assert_eq!(in_time, Due { slot: Some(slot), missed: 0, next });
        let late = due("2026-01-01T00:00:00Z", "2026-01-01T03:10:00Z");
        let (slot, next) = (at("2026-01-01T03:00:00Z"), at("2026-01-01T03:15:00Z"));
        assert_eq!(late, Due { slot: Some(slot), missed: 12, next: Some(next) });
        // A month later: more than are counted, and the latest is still carried out.
        let away = due("2026-01-01T00:00:00Z", "2026-02-01T00:20:00Z");
        let slot = at("2026-02-01T00:15:00Z");
        assert_eq!((away.slot, away.missed), (Some(slot), MISSED_COUNTED_MAX - 1));
        let daily = Schedule::new("0 9 * * *", "UTC").unwrap();
        let missed = daily.due(at("2026-01-01T09:00:00Z"), at("2026-01-03T12:00:00Z"));
        let next = Some(at("2026-01-04T09:00:00Z"));
        assert_eq!(missed, Due { slot: None, missed: 3, next });
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let why = |text: &str, zone: &str| Schedule::new(text, zone).unwrap_err();
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "@daily",
            "60 * * * *",
            "0 0 L * *",
            "0 0 15W * *",
            "0 0 * * 5#3",
            "H * * * *",
            "0 0 1 1 1 UTC",
            "*/0 * * * *",
            "5-1 * * * *",
        ] {
            assert!(!why(text, "UTC").in_zone, "{text}");
        }
        for zone in ["", "Mars/Base", "../etc/passwd", "UTC x"] {
            assert!(why("0 0 * * *", zone).in_zone, "{zone}");
        }
    }
}
