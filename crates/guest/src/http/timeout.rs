//! The time that a client gives a call. For most calls the RPC layer enforces
//! it. For `Start` it is the life time of the process: it is taken out of the
//! headers, so that only the process' own timer acts on it. Zero means none
//! everywhere.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

const CONNECT_TIMEOUT: &str = "connect-timeout-ms";
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Found in the request's extensions when the client set a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTimeout(pub Duration);

impl CallTimeout {
    /// When the time is over, counted from now.
    pub fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.0)
    }
}

/// Removes the limit from the headers and returns it.
pub fn take(headers: &mut HeaderMap) -> Option<CallTimeout> {
    let timeout = read(headers);
    headers.remove(CONNECT_TIMEOUT);
    headers.remove(GRPC_TIMEOUT);
    timeout
}

/// Removes limits of zero.
pub fn drop_zero(headers: &mut HeaderMap) {
    if read(headers).is_none() {
        headers.remove(CONNECT_TIMEOUT);
        headers.remove(GRPC_TIMEOUT);
    }
}

fn read(headers: &HeaderMap) -> Option<CallTimeout> {
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let duration = match (value(CONNECT_TIMEOUT), value(GRPC_TIMEOUT)) {
        (Some(milliseconds), _) => Duration::from_millis(milliseconds.trim().parse().ok()?),
        (None, Some(text)) => grpc_duration(text.trim())?,
        (None, None) => return None,
    };
    (!duration.is_zero()).then_some(CallTimeout(duration))
}

/// Digits and one unit letter.
fn grpc_duration(text: &str) -> Option<Duration> {
    let split = text
        .len()
        .checked_sub(1)
        .filter(|at| text.is_char_boundary(*at))?;
    let (digits, unit) = text.split_at(split);
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount.checked_mul(3_600)?),
        "M" => Duration::from_secs(amount.checked_mul(60)?),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(name: &'static str, value: &str) -> Option<u128> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        let timeout = take(&mut headers).map(|timeout| timeout.0.as_millis());
        assert!(headers.is_empty());
        timeout
    }

    #[test]
    fn both_notations_are_read() {
        assert_eq!(timeout(CONNECT_TIMEOUT, "60000"), Some(60_000));
        assert_eq!(timeout(CONNECT_TIMEOUT, "0"), None);
        assert_eq!(timeout(CONNECT_TIMEOUT, "-1"), None);
        assert_eq!(timeout(CONNECT_TIMEOUT, "soon"), None);
        assert_eq!(timeout(GRPC_TIMEOUT, "2S"), Some(2_000));
        assert_eq!(timeout(GRPC_TIMEOUT, "1500m"), Some(1_500));
        assert_eq!(timeout(GRPC_TIMEOUT, "S"), None);
        assert_eq!(timeout(GRPC_TIMEOUT, ""), None);
        assert_eq!(timeout(GRPC_TIMEOUT, "99999999999999999999H"), None);
    }
}
