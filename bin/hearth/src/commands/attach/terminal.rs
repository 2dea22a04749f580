//! The terminal that standard input is: its size, and its raw mode while a command of
//! the sandbox has it.

use anyhow::Context as _;
use hearth_client::{PtySize, SandboxClient};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::{convert::Infallible, io};
use tokio::signal::unix::{SignalKind, signal};

/// What a terminal without a size is taken for.
const USUAL_SIZE: PtySize = PtySize {
    columns: 80,
    rows: 24,
};

/// Standard input, which is a terminal.
pub struct Terminal {
    before: Termios,
}

/// While it lives the terminal hands every key on, unchanged and at once.
pub struct Raw<'a>(&'a Termios);

impl Terminal {
    /// # Errors
    /// When standard input is no terminal.
    pub fn open() -> anyhow::Result<Self> {
        anyhow::ensure!(
            isatty(io::stdin()),
            "standard input is not a terminal: leave out --tty, or use --interactive"
        );
        let before = tcgetattr(io::stdin()).context("read the terminal's settings")?;
        Ok(Self { before })
    }

    /// In characters.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn size(&self) -> anyhow::Result<PtySize> {
        let size = tcgetwinsize(io::stdin()).context("read the terminal's size")?;
        if size.ws_col == 0 || size.ws_row == 0 {
            return Ok(USUAL_SIZE);
        }
        Ok(PtySize {
            columns: size.ws_col.into(),
            rows: size.ws_row.into(),
        })
    }

    /// Hands the terminal over until the result is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn raw(&self) -> anyhow::Result<Raw<'_>> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).context("set the terminal raw")?;
        Ok(Raw(&self.before))
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, self.0);
    }
}

/// Tells the command's terminal whenever this one changes its size. Returns only with
/// an error.
pub async fn follow_size(
    agent: &SandboxClient,
    pid: u32,
    terminal: Option<&Terminal>,
) -> anyhow::Result<Infallible> {
    let Some(terminal) = terminal else {
        return std::future::pending().await;
    };
    let mut changes = signal(SignalKind::window_change())?;
    loop {
        changes.recv().await;
        agent.resize_pty(pid, terminal.size()?).await?;
    }
}
