//! The parser of what guests report, for the fuzz targets.

use crate::collector;
use crate::stream::Line;

/// Reads a line and takes from it what may be believed.
///
/// # Panics
/// When log entries are out of order.
pub fn line(bytes: &[u8], after: u64) {
    match serde_json::from_slice(bytes) {
        Ok(Line::Metrics(sample)) => {
            let kept = sample.accept(chrono::Utc::now());
            assert!(kept.cpu_used_pct.is_finite());
        }
        Ok(Line::Batch(batch)) => {
            let mut after = after;
            let kept = collector::accept(batch, &mut after);
            assert!(kept.is_sorted_by_key(|entry| entry.timestamp));
        }
        Err(_) => {}
    }
}
