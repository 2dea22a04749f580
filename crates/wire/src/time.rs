//! Times on the wire: RFC 3339 in UTC, with milliseconds and a `Z`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// `time` as the contract writes it, for example `2026-01-02T03:04:05.678Z`.
#[must_use]
pub fn rfc3339_millis(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads a time that a client wrote, with any offset.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.with_timezone(&Utc))
}

pub(crate) fn serialize<S: Serializer>(
    time: &DateTime<Utc>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339_millis(time))
}

pub(crate) mod option {
    use super::{DateTime, Serializer, Utc};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<DateTime<Utc>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_z() {
        let time = parse_rfc3339("2026-01-02T05:04:05.678901+02:00").expect("valid");
        assert_eq!(rfc3339_millis(&time), "2026-01-02T03:04:05.678Z");
        let whole = parse_rfc3339("2026-01-02T03:04:05Z").expect("valid");
        assert_eq!(rfc3339_millis(&whole), "2026-01-02T03:04:05.000Z");
        assert!(parse_rfc3339("yesterday").is_none());
    }
}
