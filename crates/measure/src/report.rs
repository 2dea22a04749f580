//! Measured times as a table and as JSON.

use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Times of one step, in the order of their runs.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds the time of one run.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The smallest sample that at least `percent` of all do not exceed (nearest
    /// rank); `None` without samples.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent.min(100) as usize).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// One measured step. All times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the step.
    pub name: String,
    /// Runs.
    pub count: usize,
    /// The shortest.
    pub min_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The steps of a measurement. `Display` is a table, serde makes the JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// In the order of their measurement.
    pub rows: Vec<Row>,
}

impl Report {
    /// Adds a step; one without samples is left out.
    pub fn push(&mut self, name: &str, samples: &Samples) {
        let at = |percent| samples.percentile(percent).map(milliseconds);
        if let (Some(min), Some(p50), Some(p95), Some(p99), Some(max)) =
            (at(0), at(50), at(95), at(99), at(100))
        {
            self.rows.push(Row {
                name: name.to_owned(),
                count: samples.0.len(),
                min_ms: min,
                p50_ms: p50,
                p95_ms: p95,
                p99_ms: p99,
                max_ms: max,
            });
        }
    }

    /// The row of a step, if it was measured.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

fn milliseconds(duration: Duration) -> f64 {
    // Microseconds are as fine as it is meant.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max();
        let width = width.unwrap_or(0).max("step".len());
        writeln!(
            formatter,
            "{:width$}  {:>5}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
            "step", "runs", "min ms", "p50 ms", "p95 ms", "p99 ms", "max ms"
        )?;
        for row in &self.rows {
            writeln!(
                formatter,
                "{:width$}  {:>5}  {:>9.1}  {:>9.1}  {:>9.1}  {:>9.1}  {:>9.1}",
                row.name, row.count, row.min_ms, row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(milliseconds: &[u64]) -> Samples {
        milliseconds
            .iter()
            .copied()
            .map(Duration::from_millis)
            .collect()
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred = samples(&(1..=100).rev().collect::<Vec<_>>());
        for (percent, expected) in [(0, 1), (50, 50), (95, 95), (99, 99), (100, 100)] {
            let expected = Duration::from_millis(expected);
            assert_eq!(hundred.percentile(percent), Some(expected));
        }
        let three = samples(&[30, 10, 20]);
        assert_eq!(three.percentile(50), Some(Duration::from_millis(20)));
        assert_eq!(three.percentile(99), Some(Duration::from_millis(30)));
        assert_eq!(Samples::default().percentile(50), None);
    }

    #[test]
    fn table_and_json() {
        let mut report = Report::default();
        report.push("create", &samples(&[10, 20, 30]));
        report.push("nothing", &Samples::default());
        assert_eq!(report.rows.len(), 1);
        let row = report.row("create").expect("measured");
        assert!((row.p50_ms - 20.0).abs() < f64::EPSILON);
        let table = report.to_string();
        assert_eq!(table.lines().count(), 2, "{table}");
        let json = serde_json::to_value(&report).expect("serializes");
        assert_eq!(json["rows"][0]["p99_ms"], 30.0);
    }
}
