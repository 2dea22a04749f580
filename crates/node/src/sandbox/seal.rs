//! The seal on a sandbox's disk: what was written so far becomes a layer that nothing
//! changes any more.

use super::{blocking::blocking_with, resources::Resources, setup};
use crate::{error::Error, hooks::Step, journal::Record, node::Shared};
use std::fs;

/// Makes the disk's writable layer immutable; the guest would write to a new one.
pub(super) async fn seal(
    shared: &Shared,
    record: &mut Record,
    resources: &mut Resources,
) -> Result<(), Error> {
    if let Some(vm) = resources.vm() {
        let settled = vm.settle_disk().await;
        settled.map_err(Error::step("have the disk written"))?;
    }
    let disk = resources
        .disk_mut()
        .ok_or_else(|| Error::step("seal the disk")("it is not served".to_owned()))?;
    let former = record.disk.clone();
    record.disk = former.sealed();
    let sealed = async {
        setup::write_journal(shared, record)?;
        shared.hooks.reached(Step::LayersJournalled)?;
        let next = shared
            .journals
            .dir(&record.spec.sandbox_id)
            .join(&record.disk.writable);
        let device = std::sync::Arc::clone(&disk.device);
        blocking_with("seal the disk", move || device.seal(&next)).await
    };
    match sealed.await {
        Ok(layer) => {
            disk.sealing.push(layer);
            shared.hooks.reached(Step::DiskSealed)
        }
        Err(error) => {
            // The journal may say more than is true; opened that way, the disk is
            // the same.
            let unmade = shared
                .journals
                .dir(&record.spec.sandbox_id)
                .join(&record.disk.writable);
            record.disk = former;
            record.disk.next += 1;
            let _ = fs::remove_dir_all(unmade);
            Err(error)
        }
    }
}
