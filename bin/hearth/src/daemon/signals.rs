//! Waiting for the word to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Completes at the first SIGINT or SIGTERM. A second one while the daemon winds
/// down ends the process at once, as a user at a terminal expects.
pub async fn stop() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("hearth: stopped at once by a second signal");
        std::process::exit(130);
    });
    Ok(())
}
