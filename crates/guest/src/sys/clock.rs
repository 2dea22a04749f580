//! Setting the guest's clock after a restore: it stands at the moment of the
//! snapshot until somebody tells it the time.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

/// A clock that is behind by more is set.
pub const BEHIND: Duration = Duration::from_millis(50);
/// A clock that is ahead by more is set back. The greater allowance keeps time
/// from running backwards for a message that was merely slow.
pub const AHEAD: Duration = Duration::from_secs(5);

/// Whether a clock that shows `now` must be set to `reference`.
pub fn must_set(now: SystemTime, reference: SystemTime) -> bool {
    match reference.duration_since(now) {
        Ok(behind) => behind > BEHIND,
        Err(ahead) => ahead.duration() > AHEAD,
    }
}

/// Sets the wall clock.
pub fn set(time: SystemTime) -> io::Result<()> {
    let since = time
        .duration_since(UNIX_EPOCH)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "time before 1970"))?;
    let seconds = i64::try_from(since.as_secs())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "time too far ahead"))?;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(since.subsec_nanos()),
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// Parses an RFC 3339 time such as `2026-11-23T10:00:00.123456789Z` or with an
/// offset (`+02:00`). Leap seconds count as the second before.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators
        .iter()
        .any(|(at, expected)| bytes.get(*at) != Some(expected))
        || !matches!(bytes.get(10), Some(b'T' | b't' | b' '))
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos: u64 = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let digits = fraction
            .get(..length.min(9))
            .filter(|digits| !digits.is_empty())?;
        nanos = digits.parse::<u64>().ok()? * 10_u64.pow(9 - u32::try_from(digits.len()).ok()?);
        rest = fraction.get(length..)?;
    }
    let offset = parse_offset(rest)?;
    let days = days_from_civil(year, month, day);
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second.min(59) - offset;
    let seconds = u64::try_from(seconds).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

/// Seconds east of UTC.
fn parse_offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    Some(sign * (hours * 3_600 + minutes * 60))
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, by
/// counting years from March, so that the leap day is the year's last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(text: &str) -> Option<u128> {
        Some(
            parse_rfc3339(text)?
                .duration_since(UNIX_EPOCH)
                .ok()?
                .as_nanos(),
        )
    }

    #[test]
    fn parses_rfc3339() {
        assert_eq!(unix("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            unix("2000-02-29T12:00:00.5+02:00"),
            Some(951_818_400_500_000_000)
        );
        assert_eq!(
            unix("2026-11-23T10:38:00.123456789Z"),
            Some(1_795_430_280_123_456_789)
        );
        assert_eq!(
            unix("2026-11-23T10:38:00.1234567899Z"),
            Some(1_795_430_280_123_456_789)
        );
        for bad in [
            "",
            "now",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T0x:00:00Z",
            "2026-01-01T00:00:00+2:00",
            "1960-01-01T00:00:00Z",
            "é026-01-01T00:00:00Z",
        ] {
            assert_eq!(unix(bad), None, "{bad}");
        }
    }

    #[test]
    fn small_differences_are_left_alone() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert!(!must_set(now, now + Duration::from_millis(50)));
        assert!(must_set(now, now + Duration::from_millis(51)));
        assert!(!must_set(now, now - Duration::from_secs(5)));
        assert!(must_set(now, now - Duration::from_millis(5_001)));
    }
}
