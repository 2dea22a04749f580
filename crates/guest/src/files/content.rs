//! Negotiation of a download, as text in and decisions out: which bytes, in
//! which encoding, under which name and type.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
}

/// Picks the encoding for an `Accept-Encoding`; `None` when nothing that we
/// have is acceptable.
///
/// A client that names gzip alone asked for compression. One that lists what
/// its library can decode (`gzip, deflate`) did not: the link is a virtual one,
/// and compressing would only make it wait.
pub fn negotiate(accept: Option<&str>) -> Option<Encoding> {
    let Some(accept) = accept else {
        return Some(Encoding::Identity);
    };
    let mut gzip = None;
    let mut identity = None;
    let mut any = None;
    let mut others = false;
    for item in accept
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let (coding, quality) = quality(item);
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "identity" => identity = Some(quality),
            "*" => any = Some(quality),
            _ => others |= quality > 0,
        }
    }
    let gzip_allowed = gzip.or(any).unwrap_or(0) > 0;
    // Identity is acceptable unless it is excluded, by name or by `*`.
    let identity_allowed = identity.or(any).unwrap_or(1) > 0;
    let gzip_asked = gzip.unwrap_or(0) > identity.unwrap_or(0) && !others;
    match (gzip_allowed, identity_allowed) {
        (true, _) if gzip_asked => Some(Encoding::Gzip),
        (_, true) => Some(Encoding::Identity),
        (true, false) => Some(Encoding::Gzip),
        (false, false) => None,
    }
}

/// A coding and its quality in thousandths. A quality that cannot be read is 1.
fn quality(item: &str) -> (&str, u32) {
    let mut parts = item.split(';').map(str::trim);
    let coding = parts.next().unwrap_or("");
    let quality = parts
        .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
        .and_then(|text| text.parse::<f32>().ok())
        .map_or(1000, |quality| (quality.clamp(0.0, 1.0) * 1000.0) as u32);
    (coding, quality)
}

/// What a `Range` header means for a file of a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

/// Reads a `Range`. Several ranges, other units and what cannot be read count
/// as no header, which the standard allows.
pub fn select(range: Option<&str>, size: u64) -> Selection {
    let Some(range) = range.and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Selection::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Selection::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Selection::Whole,
            Some(0) => Selection::Unsatisfiable,
            Some(_) if size == 0 => Selection::Unsatisfiable,
            Some(length) => Selection::Part(size.saturating_sub(length)..size),
        },
        (first, last) => {
            let Some(first) = number(first) else {
                return Selection::Whole;
            };
            let last = match last {
                "" => u64::MAX,
                last => match number(last) {
                    Some(last) if last >= first => last,
                    _ => return Selection::Whole,
                },
            };
            if first >= size {
                Selection::Unsatisfiable
            } else {
                Selection::Part(first..last.saturating_add(1).min(size))
            }
        }
    }
}

/// `Content-Disposition` for a file name.
pub fn disposition(name: &str) -> String {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_token) {
        return format!("inline; filename={name}");
    }
    if name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        return format!("inline; filename=\"{quoted}\"");
    }
    let mut encoded = String::from("inline; filename*=utf-8''");
    for byte in name.bytes() {
        if is_token(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `Content-Type` by the name's ending; what is unknown is just bytes.
pub fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "gif" => "image/gif",
        "htm" | "html" => "text/html; charset=utf-8",
        "jpeg" | "jpg" => "image/jpeg",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "md" | "txt" | "log" | "py" | "sh" => "text/plain; charset=utf-8",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "wasm" => "application/wasm",
        "webp" => "image/webp",
        "xml" => "text/xml; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// An HTTP date, `Mon, 23 Nov 2026 10:38:00 GMT`.
pub fn http_date(time: SystemTime) -> Option<String> {
    let seconds = i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let days = seconds.div_euclid(86_400);
    let (year, month, day) = civil_from_days(days);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let weekday = weekday.get(usize::try_from(days.rem_euclid(7)).ok()?)?;
    let month = months.get(month)?;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Some(format!(
        "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT"
    ))
}

/// Year, month (0 is January) and day of a day since 1970-01-01; years are
/// counted from March inside.
fn civil_from_days(days: i64) -> (i64, usize, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    (year, usize::try_from(month).unwrap_or(0), day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encodings_are_negotiated() {
        use Encoding::{Gzip, Identity};
        let cases = [
            (None, Some(Identity)),
            (Some(""), Some(Identity)),
            (Some("gzip"), Some(Gzip)),
            (Some("gzip;q=0"), Some(Identity)),
            (Some("gzip, deflate"), Some(Identity)),
            (Some("gzip, deflate, identity;q=0"), Some(Gzip)),
            (Some("identity"), Some(Identity)),
            (Some("identity, gzip;q=0.5"), Some(Identity)),
            (Some("gzip, identity;q=0.5"), Some(Gzip)),
            (Some("identity;q=0"), None),
            (Some("br, identity;q=0"), None),
            (Some("*;q=0"), None),
            (Some("*"), Some(Identity)),
            (Some("br"), Some(Identity)),
        ];
        for (accept, expected) in cases {
            assert_eq!(negotiate(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn ranges_are_read() {
        let cases = [
            (None, Selection::Whole),
            (Some("bytes=0-3"), Selection::Part(0..4)),
            (Some("bytes=8-"), Selection::Part(8..10)),
            (Some("bytes=-3"), Selection::Part(7..10)),
            (Some("bytes=-30"), Selection::Part(0..10)),
            (
                Some("bytes=5-99999999999999999999999"),
                Selection::Part(5..10),
            ),
            (Some("bytes=10-"), Selection::Unsatisfiable),
            (Some("bytes=-0"), Selection::Unsatisfiable),
            (Some("bytes=4-2"), Selection::Whole),
            (Some("bytes=0-1,4-5"), Selection::Whole),
            (Some("lines=0-1"), Selection::Whole),
            (Some("bytes=x"), Selection::Whole),
        ];
        for (range, expected) in cases {
            assert_eq!(select(range, 10), expected, "{range:?}");
        }
    }

    proptest! {
        #[test]
        fn a_selected_part_is_inside(range in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in 0_u64..100) {
            if let Selection::Part(part) = select(Some(&range), size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(disposition("a.txt"), "inline; filename=a.txt");
        assert_eq!(
            disposition("a \"b\".txt"),
            "inline; filename=\"a \\\"b\\\".txt\""
        );
        assert_eq!(disposition("é"), "inline; filename*=utf-8''%C3%A9");
        assert_eq!(disposition("a\nb"), "inline; filename*=utf-8''a%0Ab");
    }

    #[test]
    fn dates_are_written_as_http_wants() {
        let at = |seconds| http_date(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
