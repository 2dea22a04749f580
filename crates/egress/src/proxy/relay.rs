//! Carries bytes between a guest and its target until both are done, the rules
//! change against it, or either fails. Half-closed connections stay half open.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::dial::Stream;
use crate::guests::Guest;
use crate::rules::Rules;

/// Relays after sending `sent`, which the guest has said already. `permitted` is
/// asked again each time the rules change.
pub(super) async fn relay(
    mut guest_side: TcpStream,
    mut target: Stream,
    sent: &[u8],
    guest: &Guest,
    permitted: impl Fn(&Rules) -> bool,
) -> io::Result<()> {
    let carrying = async {
        target.write_all(sent).await?;
        copy_bidirectional(&mut guest_side, &mut target)
            .await
            .map(drop)
    };
    while_permitted(carrying, guest, permitted).await
}

/// Does `work` for as long as the rules permit it.
pub(super) async fn while_permitted(
    work: impl Future<Output = io::Result<()>>,
    guest: &Guest,
    permitted: impl Fn(&Rules) -> bool,
) -> io::Result<()> {
    // The rules may have changed while the target was dialled.
    let mut rules = guest.watch();
    if !permitted(&Arc::clone(&rules.borrow_and_update())) {
        return Err(super::denied());
    }
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            changed = rules.changed() => {
                let now = Arc::clone(&rules.borrow_and_update());
                if changed.is_err() || !permitted(&now) {
                    return Err(super::denied());
                }
            }
        }
    }
}
