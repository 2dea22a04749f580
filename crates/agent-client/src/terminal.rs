//! Terminals of processes in a guest.

use hearth_guest_proto::process as proto;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtySize {
    /// Width.
    pub columns: u32,
    /// Height.
    pub rows: u32,
}

impl PtySize {
    pub(crate) fn message(self) -> proto::PTY {
        proto::PTY {
            size: proto::pty::Size {
                cols: self.columns,
                rows: self.rows,
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }
}
