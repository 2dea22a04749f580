//! Carries bytes between a guest and its target until both are done, the rules
//! change against it, or either fails. Half-closed connections stay half open.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use crate::guests::Guest;
use crate::rules::Rules;

/// Relays after sending `sent`, which the guest has said already. `permitted` is
/// asked again each time the rules change.
pub(super) async fn relay(
    mut guest_side: TcpStream,
    mut target: TcpStream,
    sent: &[u8],
    guest: &Guest,
    permitted: impl Fn(&Rules) -> bool,
) -> io::Result<()> {
    // The rules may have changed while the target was dialled.
    let mut rules = guest.watch();
    if !permitted(&Arc::clone(&rules.borrow_and_update())) {
        return Err(super::denied());
    }
    target.write_all(sent).await?;
    let copying = copy_bidirectional(&mut guest_side, &mut target);
    tokio::pin!(copying);
    loop {
        tokio::select! {
            outcome = &mut copying => return outcome.map(drop),
            changed = rules.changed() => {
                let now = Arc::clone(&rules.borrow_and_update());
                if changed.is_err() || !permitted(&now) {
                    return Err(super::denied());
                }
            }
        }
    }
}
