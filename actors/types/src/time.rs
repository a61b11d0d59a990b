//! Times as texts: RFC 3339 in UTC, with milliseconds.

use jiff::Span;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::TimeZone;
use supervision::Timestamp;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// The time as RFC 3339 writes it, `2026-01-31T09:05:00.000Z`. A time beyond the years that can be
/// written is the nearest that can.
pub fn rfc3339(at: Timestamp) -> String {
    let limits = jiff::Timestamp::MIN.as_millisecond()..=jiff::Timestamp::MAX.as_millisecond();
    let ms = at.0.clamp(*limits.start(), *limits.end());
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    PRINTER.timestamp_to_string(&time)
}

/// Reads an RFC 3339 time of any offset; what is finer than a millisecond is cut off.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp(time.as_millisecond()))
}

/// The first moment of the calendar month after the one that `at` lies in, in UTC. Beyond the years
/// that can be written there is none, and it is the last moment that there is.
pub fn next_month(at: Timestamp) -> Timestamp {
    let next = || {
        let time = jiff::Timestamp::from_millisecond(at.0).ok()?;
        let first = time.to_zoned(TimeZone::UTC).date().last_of_month().tomorrow().ok()?;
        let first = first.to_zoned(TimeZone::UTC).ok()?;
        Some(Timestamp(first.timestamp().as_millisecond()))
    };
    next().unwrap_or(Timestamp(i64::MAX))
}

/// So many calendar months later, in UTC: the same day and time, or the month's last day where it
/// has no such day. Beyond the years that can be written it is the last moment that there is.
pub fn plus_months(at: Timestamp, months: u32) -> Timestamp {
    let later = || {
        let time = jiff::Timestamp::from_millisecond(at.0).ok()?.to_zoned(TimeZone::UTC);
        let later = time.checked_add(Span::new().try_months(i64::from(months)).ok()?).ok()?;
        Some(Timestamp(later.timestamp().as_millisecond()))
    };
    later().unwrap_or(Timestamp(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_milliseconds_and_read_at_any_offset() {
        let at = Timestamp(1_769_850_300_120);
        assert_eq!(rfc3339(at), "2026-01-31T09:05:00.120Z");
        assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        assert_eq!(parse_rfc3339("2026-01-31T10:05:00.1204+01:00"), Some(at));
        assert_eq!(parse_rfc3339("2026-01-31"), None);
    }

    #[test]
    fn any_number_is_some_time() {
        for ms in [i64::MIN, -1, 0, i64::MAX] {
            assert!(rfc3339(Timestamp(ms)).ends_with('Z'));
        }
    }

    #[test]
    fn a_month_ends_where_the_next_begins() {
        let ends = |text: &str| rfc3339(next_month(parse_rfc3339(text).unwrap()));
        assert_eq!(ends("2026-01-01T00:00:00Z"), "2026-02-01T00:00:00.000Z");
        assert_eq!(ends("2028-02-28T23:59:59.999Z"), "2028-03-01T00:00:00.000Z");
        assert_eq!(ends("2026-12-31T23:59:59Z"), "2027-01-01T00:00:00.000Z");
        // It is another month already where it is later.
        assert_eq!(ends("2026-02-01T00:30:00+01:00"), "2026-02-01T00:00:00.000Z");
        assert_eq!(next_month(Timestamp(i64::MAX)), Timestamp(i64::MAX));
    }

    #[test]
    fn months_are_of_the_calendar_and_do_not_drift() {
        let later = |text: &str, months| rfc3339(plus_months(parse_rfc3339(text).unwrap(), months));
        assert_eq!(later("2026-01-31T08:30:00Z", 1), "2026-02-28T08:30:00.000Z");
        assert_eq!(later("2026-01-31T08:30:00Z", 2), "2026-03-31T08:30:00.000Z");
        assert_eq!(later("2027-02-28T00:00:00Z", 12), "2028-02-28T00:00:00.000Z");
        assert_eq!(later("2028-02-29T00:00:00Z", 12), "2029-02-28T00:00:00.000Z");
        assert_eq!(plus_months(Timestamp(i64::MAX), 1), Timestamp(i64::MAX));
        let at = parse_rfc3339("2026-01-31T08:30:00Z").unwrap();
        assert_eq!(plus_months(at, u32::MAX), Timestamp(i64::MAX));
    }
}
