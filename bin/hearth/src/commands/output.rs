//! What lists print: a table for people, or JSON for programs.
//!
//! On a terminal a table is as wide as that: what does not fit is cut at the end of
//! its cell, never in the first column, which names the row. Elsewhere nothing is
//! cut, so that `grep` and `awk` see all of it.

use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table, presets};
use serde::Serialize;

/// The option that every list has.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Format {
    /// Print JSON, with times in full
    #[arg(long)]
    json: bool,
}

impl Format {
    /// Prints a list: `json` whole, or a table of `rows` below `header`.
    pub fn print<const N: usize>(
        self,
        json: &impl Serialize,
        header: [impl Into<String>; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(json)?);
        } else {
            println!("{}", table(header, rows, terminal_width()));
        }
        Ok(())
    }

    pub fn is_json(self) -> bool {
        self.json
    }
}

fn table<const N: usize>(
    header: [impl Into<String>; N],
    rows: impl IntoIterator<Item = [String; N]>,
    width: Option<u16>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(one_line(header.map(Into::into)));
    for row in rows {
        table.add_row(one_line(row));
    }
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        // Two spaces between columns, none before the first.
        column.set_padding((0, if index + 1 < N { 2 } else { 0 }));
        if index == 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

fn one_line<const N: usize>(cells: [String; N]) -> Row {
    // A name that a stranger chose moves no cursor about.
    let cells = cells.map(|cell| cell.chars().filter(|c| !c.is_control()).collect::<String>());
    let mut row = Row::from(cells);
    row.max_height(1);
    row
}

/// Columns of the terminal that standard output is, if it is one.
fn terminal_width() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// A time as people say it: `12 minutes ago`, `in 3 hours`.
pub fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let distance = (now - at).abs();
    match amount(distance) {
        None => "now".to_owned(),
        Some(amount) if at <= now => format!("{amount} ago"),
        Some(amount) => format!("in {amount}"),
    }
}

/// The largest unit alone, as what is smaller would be noise.
fn amount(distance: TimeDelta) -> Option<String> {
    let seconds = distance.num_seconds();
    let (count, unit) = match seconds {
        ..1 => return None,
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..2_592_000 => (seconds / 86_400, "day"),
        2_592_000..31_536_000 => (seconds / 2_592_000, "month"),
        31_536_000.. => (seconds / 31_536_000, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    Some(format!("{count} {unit}{plural}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(width: Option<u16>) -> Vec<String> {
        let row = |name: &str| {
            [
                "iabcdefghij0123456789".to_owned(),
                name.to_owned(),
                "12 minutes ago".to_owned(),
            ]
        };
        let rows = [
            row("base"),
            row("a-template-with-quite-a-long-name\u{1b}[2J"),
        ];
        let table = table(["SANDBOX", "TEMPLATE", "STARTED"], rows, width);
        table.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_table_fits_its_terminal_and_is_whole_elsewhere() {
        let whole = lines(None);
        assert_eq!(whole.len(), 3);
        assert!(whole[0].starts_with("SANDBOX  "), "{whole:?}");
        assert!(
            whole[1].starts_with("iabcdefghij0123456789  base "),
            "{whole:?}"
        );
        assert!(whole[2].contains("a-template-with-quite-a-long-name[2J  12 minutes ago"));
        for width in [40, 50, 60, 80] {
            let cut = lines(Some(width));
            assert_eq!(cut.len(), 3, "a line for each row: {cut:?}");
            for line in &cut {
                assert!(
                    line.chars().count() <= usize::from(width),
                    "{width}: {line:?}"
                );
            }
            assert!(cut[2].starts_with("iabcdefghij0123456789"), "{cut:?}");
            assert!(width == 80 || cut[2].contains('…'), "{cut:?}");
        }
    }

    #[test]
    fn times_are_said_in_their_largest_unit() {
        let now = Utc::now();
        for (seconds, said) in [
            (0, "now"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (12 * 60 + 59, "12 minutes ago"),
            (2 * 3600, "2 hours ago"),
            (86_400, "1 day ago"),
            (29 * 86_400, "29 days ago"),
            (65 * 86_400, "2 months ago"),
            (800 * 86_400, "2 years ago"),
            (-5 * 60, "in 5 minutes"),
            (-1, "in 1 second"),
        ] {
            assert_eq!(relative(now - TimeDelta::seconds(seconds), now), said);
        }
    }
}
