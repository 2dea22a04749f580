//! What a sandbox holds of the host, and how it gives it back.

use super::{egress, ground::Ground, setup, volumes};
use crate::{
    error::{Error, chain},
    journal::Record,
    node::Shared,
};
use hearth_machine::Machine;
use hearth_microvm::{Launched, NotReleased, Owner, ServedDisk, SlotHeld};
use hearth_network::Slot;
use std::net::Ipv4Addr;

#[derive(Default)]
pub(crate) enum Resources {
    /// Before a start, while paused, and at the end.
    #[default]
    Nothing,
    /// A start failed, or a rollback is under way.
    Slot(SlotHeld),
    Vm(Launched),
    /// An adopted VM whose network slot is not known: nothing reaches it, and it can
    /// only be ended.
    Stray(Box<dyn Machine>),
}

impl Resources {
    /// Takes up again what a running VM uses. A part that cannot be had is left
    /// out and logged: the VM then ends or stalls, which its driver sees.
    pub(crate) async fn adopt(
        shared: &Shared,
        ground: &Ground,
        record: &Record,
        machine: Box<dyn Machine>,
    ) -> Self {
        let id = &record.spec.sandbox_id;
        let Some(slot) = record.slot.and_then(|index| shared.slots.adopted(index)) else {
            tracing::error!(sandbox = %id, slot = ?record.slot, "an adopted sandbox lost its network slot");
            return Self::Stray(machine);
        };
        let rules = egress::rules(&record.spec);
        egress::announce(shared, &record.spec, &slot, rules);
        volumes::enter(shared, &record.spec, &slot);
        let (owner, run_dir) = (Owner::Sandbox(id.clone()), setup::run_dir(shared, id));
        let mut vm = Launched::adopt(machine, slot, &shared.slots, &owner, run_dir);
        let disk = setup::disk(shared, ground, record);
        if let Err(error) = vm.serve_again(&disk).await {
            tracing::error!(sandbox = %id, error = %chain(&error), "an adopted sandbox's disk cannot be served");
        }
        Self::Vm(vm)
    }

    pub(crate) fn vm(&self) -> Option<&Launched> {
        match self {
            Self::Vm(vm) => Some(vm),
            Self::Nothing | Self::Slot(_) | Self::Stray(_) => None,
        }
    }

    pub(crate) fn vm_mut(&mut self) -> Option<&mut Launched> {
        match self {
            Self::Vm(vm) => Some(vm),
            Self::Nothing | Self::Slot(_) | Self::Stray(_) => None,
        }
    }

    pub(crate) fn machine(&self) -> Option<&dyn Machine> {
        match self {
            Self::Vm(vm) => Some(vm.machine()),
            Self::Stray(machine) => Some(machine.as_ref()),
            Self::Nothing | Self::Slot(_) => None,
        }
    }

    pub(crate) fn disk(&self) -> Option<&ServedDisk> {
        match self {
            Self::Vm(vm) => vm.disk(),
            Self::Nothing | Self::Slot(_) | Self::Stray(_) => None,
        }
    }

    pub(crate) fn disk_mut(&mut self) -> Option<&mut ServedDisk> {
        self.vm_mut().and_then(Launched::disk_mut)
    }

    pub(crate) fn slot(&self) -> Option<&Slot> {
        match self {
            Self::Slot(held) => Some(held.slot()),
            Self::Vm(vm) => Some(vm.slot()),
            Self::Nothing | Self::Stray(_) => None,
        }
    }

    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.slot().map(|slot| slot.host_address)
    }

    /// Completes when the VM process has ended, with the reason; never while
    /// there is none.
    pub(crate) async fn vm_ended(&self) -> String {
        match self.machine() {
            Some(machine) => machine.exited().await.to_string(),
            None => std::future::pending().await,
        }
    }

    /// Ends the VM process, if there is one, and nothing else yet.
    pub(crate) async fn stop_machine(&self) {
        if let Some(machine) = self.machine()
            && let Err(error) = machine.stop().await
        {
            tracing::error!(pid = machine.pid(), error = %chain(&error), "ending a VM failed");
        }
    }

    /// Ends the VM and its disk's server, and takes the slot out that is left, if any.
    ///
    /// # Errors
    /// When a stray VM cannot be ended: it stays here, for another attempt.
    pub(crate) async fn take_slot(&mut self) -> Result<Option<SlotHeld>, Error> {
        match std::mem::take(self) {
            Self::Nothing => Ok(None),
            Self::Slot(held) => Ok(Some(held)),
            Self::Vm(vm) => Ok(Some(vm.power_off().await)),
            Self::Stray(machine) => match machine.stop().await {
                Ok(()) => Ok(None),
                Err(error) => {
                    *self = Self::Stray(machine);
                    Err(Error::step("end a VM without a known slot")(error))
                }
            },
        }
    }

    /// Gives everything back, the VM first. What may still be in use stays here, for
    /// another attempt.
    pub(crate) async fn release(&mut self, shared: &Shared) -> Result<(), Error> {
        let Some(held) = self.take_slot().await? else {
            return Ok(());
        };
        shared.egress.leave(held.slot().host_address);
        shared.volumes.leave(held.slot().host_address);
        match held.release().await {
            Ok(()) => Ok(()),
            Err(NotReleased::Occupied { held, source }) => {
                *self = Self::Slot(*held);
                Err(Error::step("remove the control group")(source))
            }
            Err(error) => Err(Error::step("release the VM")(error)),
        }
    }

    /// Stops serving and forgets the rest, which goes on without us.
    pub(crate) async fn detach(self) {
        if let Self::Vm(vm) = self {
            vm.detach().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use hearth_machine::{DirtyMemory, ExitReason, MachineRecord, SaveTarget};
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    /// A VM that ends at the third attempt.
    struct Stubborn(Arc<AtomicUsize>);

    fn refused<T>() -> Result<T, hearth_machine::Error> {
        Err(hearth_machine::Error::InvalidSpec(
            "it does not obey".to_owned(),
        ))
    }

    #[async_trait]
    impl Machine for Stubborn {
        fn pid(&self) -> u32 {
            1
        }
        fn engine_version(&self) -> String {
            String::new()
        }
        #[expect(clippy::unimplemented, reason = "ending a VM asks for no record")]
        fn record(&self) -> MachineRecord {
            unimplemented!("nobody journals it")
        }
        async fn pause(&self) -> Result<(), hearth_machine::Error> {
            refused()
        }
        async fn resume(&self) -> Result<(), hearth_machine::Error> {
            refused()
        }
        async fn save(&self, _: SaveTarget) -> Result<(), hearth_machine::Error> {
            refused()
        }
        async fn dirty_memory(&self) -> Result<Box<dyn DirtyMemory>, hearth_machine::Error> {
            refused()
        }
        async fn written_bytes(&self) -> Result<u64, hearth_machine::Error> {
            refused()
        }
        async fn stop(&self) -> Result<(), hearth_machine::Error> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => refused(),
                _ => Ok(()),
            }
        }
        async fn exited(&self) -> ExitReason {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_stray_vm_that_cannot_be_ended_is_not_forgotten() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let mut held = Resources::Stray(Box::new(Stubborn(Arc::clone(&attempts))));
        for _ in 0..2 {
            let error = held.take_slot().await.expect_err("it runs on");
            assert!(error.to_string().contains("without a known slot"));
            assert!(matches!(held, Resources::Stray(_)));
        }
        assert!(held.take_slot().await.expect("it ends").is_none());
        assert!(matches!(held, Resources::Nothing));
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
    }
}
