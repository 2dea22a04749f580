//! When what failed is tried again.

use std::time::Duration;
use uuid::Uuid;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three quick ones as E2B has them, then ever later ones, a day in all.
pub const DEFAULT_RETRIES: [Duration; 12] = [
    seconds(10),
    seconds(10),
    seconds(10),
    seconds(60),
    seconds(5 * 60),
    seconds(15 * 60),
    seconds(30 * 60),
    seconds(3600),
    seconds(2 * 3600),
    seconds(4 * 3600),
    seconds(8 * 3600),
    seconds(8 * 3600),
];

/// How long after its `failures`th failure a delivery is tried again; `None` when it is
/// given up. Later ones are spread by up to a tenth, so that what failed together does not
/// come together for ever.
pub(crate) fn retry(retries: &[Duration], failures: u32, event: Uuid) -> Option<Duration> {
    let index = usize::try_from(failures).unwrap_or(usize::MAX);
    let wait = *retries.get(index.checked_sub(1)?)?;
    let spread = wait / 10 * u32::from(event.as_bytes()[15]) / 255;
    Some(match wait > seconds(10) {
        true => wait + spread,
        false => wait,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_later_and_later_and_end() {
        let event = Uuid::from_u128(0xff);
        let waits: Vec<Duration> = (1..)
            .map_while(|failures| retry(&DEFAULT_RETRIES, failures, event))
            .collect();
        assert_eq!(waits.len(), DEFAULT_RETRIES.len());
        assert_eq!(waits[..3], [seconds(10); 3]);
        assert_eq!(waits[3], seconds(66), "spread by a tenth");
        assert_eq!(retry(&DEFAULT_RETRIES, 4, Uuid::nil()), Some(seconds(60)));
        assert!(waits.is_sorted());
        let all: Duration = waits.iter().sum();
        assert!((20..30).contains(&(all.as_secs() / 3600)), "{all:?}");
        assert_eq!(retry(&[], 1, event), None);
    }
}
