//! Waiting for the word to stop.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, kept from ending the process from here on.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// To be called before anybody is told that the process is there: a signal that comes
    /// right after must find it listening.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Completes at the first signal. A second one while the daemon winds down ends the
    /// process at once, as a user at a terminal expects.
    pub async fn wait(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            eprintln!("hearth: stopped at once by a second signal");
            #[expect(
                clippy::disallowed_methods,
                reason = "the user asks for an end that waits for nothing"
            )]
            std::process::exit(130);
        });
    }
}

/// Both: listens, and waits for the first signal.
pub async fn stop() -> io::Result<()> {
    Stop::listen()?.wait().await;
    Ok(())
}
