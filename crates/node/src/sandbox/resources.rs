//! What a sandbox holds of the host, and how it gives it back.

use super::{egress, ground::Ground, setup};
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
    pub(crate) async fn take_slot(&mut self) -> Option<SlotHeld> {
        match std::mem::take(self) {
            Self::Nothing => None,
            Self::Slot(held) => Some(held),
            Self::Vm(vm) => Some(vm.power_off().await),
            stray @ Self::Stray(_) => {
                stray.stop_machine().await;
                None
            }
        }
    }

    /// Gives everything back, the VM first. What may still be in use stays here, for
    /// another attempt.
    pub(crate) async fn release(&mut self, shared: &Shared) -> Result<(), Error> {
        let Some(held) = self.take_slot().await else {
            return Ok(());
        };
        shared.egress.leave(held.slot().host_address);
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
