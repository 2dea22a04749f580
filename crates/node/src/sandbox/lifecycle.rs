//! Pausing, resuming, taking snapshots and rolling back. Each leaves the sandbox,
//! whatever fails, either as it was or in the state that it was to reach; the
//! journal says at every moment which of the two a later daemon is to find.

use super::{
    driver::Driver,
    ground::Ground,
    keep::{self, Purpose},
    resources::Resources,
    setup::{self, Identity, Told},
};
use crate::{
    error::{Error, chain},
    events::{self, Details, Durability, EventKind, reason},
    hooks::Step,
    journal::{Keeping, Origin, Paused},
    spec::{SandboxState, Status},
    warm_pool,
};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, ExecutionId};
use hearth_microvm::ServedDisk;
use hearth_snapshot::{Build, BuildCache};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Files of a kept state that are compared with their digests before it is used;
/// greater ones are checked for their presence and length.
const VERIFIED_BYTES: u64 = 64 << 20;

/// Layers of an open disk from which on it is opened anew after a snapshot.
const REOPENED_LAYERS: usize = hearth_block::MAX_LAYERS - 50;

impl Driver {
    /// From Running to Paused; on any error it runs on. What it held of the host is
    /// still to be given back, by [`Self::settle`], for which nobody has to wait.
    /// Told of where there is a reason.
    pub(super) async fn pause(
        &mut self,
        build: BuildId,
        with_memory: bool,
        why: Option<&str>,
    ) -> Result<(), Error> {
        self.require(SandboxState::Running)?;
        let begun = Instant::now();
        // Held before the build is there: nobody collects it in between.
        let lease = self.shared.builds.lease(build);
        let keeping = Keeping { build, with_memory };
        let kept = match self.keep(keeping, Purpose::Pause).await {
            Ok(_) => match self.commit_pause(keeping, why) {
                Ok(()) => Ok(()),
                Err(error) => Err(self.unmade(build, error).await),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            self.go_on().await;
            return Err(error.or_full());
        }
        self.kept = Some(lease);
        self.closed.cancel();
        self.publish();
        tracing::info!(sandbox = %self.id(), %build, with_memory, elapsed_ms = begun.elapsed().as_millis(), "sandbox paused");
        Ok(())
    }

    /// Gives back what a sandbox held that has just been paused.
    pub(super) async fn settle(&mut self) {
        if self.record.state == SandboxState::Paused {
            self.let_go().await;
            self.ground = None;
            self.shared.collect.notify_one();
        }
    }

    /// Makes a build of the running sandbox; with a pause as its purpose, the VM
    /// stands still afterwards.
    async fn keep(&mut self, keeping: Keeping, purpose: Purpose) -> Result<Build, Error> {
        let state = match purpose {
            Purpose::Pause => SandboxState::Pausing,
            Purpose::Snapshot => SandboxState::Snapshotting,
        };
        let mut record = self.record.clone();
        record.keeping = Some(keeping);
        record.state = state;
        setup::write_journal(&self.shared, &record)?;
        self.record = record;
        self.publish();
        self.shared.hooks.reached(Step::Journalled)?;
        let (shared, resources) = (&self.shared, &mut self.resources);
        let ground = self
            .ground
            .as_ref()
            .ok_or_else(|| Error::step("keep the sandbox")("it stands on nothing".to_owned()))?;
        let record = &mut self.record;
        let begun = Instant::now();
        let captured = keep::capture(shared, ground, record, resources, keeping, purpose).await?;
        if purpose == Purpose::Snapshot {
            wake(record, resources, keeping.with_memory).await?;
        }
        tracing::debug!(sandbox = %record.spec.sandbox_id, elapsed_ms = begun.elapsed().as_millis(), "state captured");
        let made = keep::publish(shared, ground, record, resources, captured).await?;
        match self.shared.hooks.reached(Step::Published) {
            Ok(()) => Ok(made),
            Err(error) => Err(self.unmade(keeping.build, error).await),
        }
    }

    /// Removes a build that was published for nothing; returns the error that made it
    /// so.
    async fn unmade(&self, build: BuildId, error: Error) -> Error {
        if let Err(error) = self.shared.builds.remove(build).await {
            tracing::error!(sandbox = %self.id(), %build, error = %chain(&error), "a build is left that nobody knows of");
        }
        error
    }

    /// The moment from which on a pause has happened for everybody.
    fn commit_pause(&mut self, keeping: Keeping, why: Option<&str>) -> Result<(), Error> {
        let mut paused = self.record.clone();
        paused.set_paused(Paused {
            build: keeping.build,
            with_memory: keeping.with_memory,
            at: Utc::now(),
        });
        match why {
            Some(why) => {
                let event = (EventKind::Paused, Details::reason(why));
                setup::write_event(&self.shared, &mut paused, event, Durability::Host)?;
            }
            None => self
                .shared
                .journals
                .write_durably(&paused)
                .map_err(Error::step("write the sandbox's journal"))?,
        }
        self.record = paused;
        // From here on an error would be a lie: it is paused.
        if let Err(error) = self.shared.hooks.reached(Step::PauseJournalled) {
            tracing::error!(sandbox = %self.id(), error = %chain(&error), "a pause was disturbed");
        }
        Ok(())
    }

    /// Gives back everything that a paused sandbox does not need.
    async fn let_go(&mut self) {
        let id = self.id().clone();
        self.resources.stop_machine().await;
        let stopped = self.shared.hooks.reached(Step::VmStopped);
        let released = self.resources.release(&self.shared).await;
        let cleared = self
            .shared
            .journals
            .clear(&id, &[])
            .map_err(Error::step("remove the sandbox's own files"));
        let done = self.shared.hooks.reached(Step::Released);
        for result in [stopped, released, cleared, done] {
            if let Err(error) = result {
                tracing::error!(sandbox = %id, error = %chain(&error), "leaving what could not be cleaned to the next start");
            }
        }
    }

    /// Back to Running after something that was not finished.
    pub(super) async fn go_on(&mut self) {
        let with_memory = self
            .record
            .keeping
            .is_none_or(|keeping| keeping.with_memory);
        // A VM that has ended is noticed by the driver's loop.
        if let Err(error) = wake(&self.record, &self.resources, with_memory).await {
            tracing::error!(sandbox = %self.id(), error = %chain(&error), "a sandbox does not go on");
        }
        self.record.state = SandboxState::Running;
        self.record.keeping = None;
        events::catch_up(&mut self.record);
        if let Err(error) = setup::write_journal(&self.shared, &self.record) {
            // The former one names an unfinished operation: read later, it is
            // undone then.
            tracing::error!(sandbox = %self.id(), error = %chain(&error), "a journal stays behind");
        }
        events::post(&self.shared.outbox, &mut self.record);
        self.publish();
    }

    /// Keeps the running sandbox's state as a build that others start from.
    pub(super) async fn checkpoint(&mut self, build: BuildId, fork: bool) -> Result<(), Error> {
        self.require(SandboxState::Running)?;
        let begun = Instant::now();
        let keeping = Keeping {
            build,
            with_memory: true,
        };
        let lease = self.shared.builds.lease(build);
        let made = match self.keep(keeping, Purpose::Snapshot).await {
            Ok(_) => match self.adopt_layers(build, fork).await {
                Ok(()) => Ok(()),
                Err(error) => Err(self.unmade(build, error).await),
            },
            Err(error) => Err(error),
        };
        drop(lease);
        match made {
            Ok(()) => {
                tracing::info!(sandbox = %self.id(), %build, elapsed_ms = begun.elapsed().as_millis(), "snapshot taken");
                Ok(())
            }
            Err(error) => {
                self.go_on().await;
                Err(error.or_full())
            }
        }
    }

    /// From here on the sandbox's disk stands on the snapshot's layers: what it had
    /// of them itself is given up.
    async fn adopt_layers(&mut self, build: BuildId, fork: bool) -> Result<(), Error> {
        let mut record = self.record.clone();
        record.origin = Some(record.origin());
        record.disk = record.disk.given_to(build);
        record.state = SandboxState::Running;
        record.keeping = None;
        let ground = Ground::of(&self.shared.builds, &record).await?;
        let event = match fork {
            true => (EventKind::Forked, Details::default()),
            false => (EventKind::Checkpointed, Details::build(build)),
        };
        setup::write_event(&self.shared, &mut record, event, Durability::Daemon)?;
        self.record = record;
        self.ground = Some(ground);
        self.publish();
        let mut keep = vec![self.record.disk.writable.as_str()];
        match self.record.origin() {
            Origin::Booted => keep.push(setup::MEMORY_FILE),
            Origin::Restored(_) => {
                keep.extend([setup::MEMORY_SCRATCH_FILE, setup::MEMORY_COMPOSED_FILE]);
            }
        }
        if let Err(error) = self.shared.journals.clear(self.id(), &keep) {
            tracing::error!(sandbox = %self.id(), %error, "removing former disk layers failed");
        }
        if let Err(error) = self.shorten_disk().await {
            tracing::error!(sandbox = %self.id(), error = %chain(&error), "a disk cannot be served again");
        }
        Ok(())
    }

    /// Opens a disk anew that has been sealed so often that it will soon have no
    /// room for further layers; builds have merged theirs long before. The guest's
    /// requests wait meanwhile, as they do while a daemon restarts.
    async fn shorten_disk(&mut self) -> Result<(), Error> {
        let many = |disk: &ServedDisk| disk.device.stats().layers > REOPENED_LAYERS;
        let (Some(ground), Some(vm)) = (&self.ground, self.resources.vm_mut()) else {
            return Ok(());
        };
        if !vm.disk().is_some_and(many) {
            return Ok(());
        }
        let disk = setup::disk(&self.shared, ground, &self.record);
        vm.serve_again(&disk)
            .await
            .map_err(Error::step("serve the disk again"))
    }

    /// From Paused to Running; on any error it stays paused.
    ///
    /// A disk alone is only worth booting from when the guest has written what was
    /// due. Where memory was kept it has not, so it wakes up once more to do it.
    pub(super) async fn resume(
        &mut self,
        end_at: DateTime<Utc>,
        discard_memory: bool,
    ) -> Result<Status, Error> {
        if discard_memory && self.record.paused.is_some_and(|paused| paused.with_memory) {
            match self.resume_as(end_at, false, None).await {
                Ok(_) => {
                    self.pause(BuildId::random(), false, None).await?;
                    self.settle().await;
                }
                // All that there is to boot from, then.
                Err(Error::Damaged { .. } | Error::Incompatible(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let told = Some((EventKind::Resumed, Details::default()));
        self.resume_as(end_at, discard_memory, told).await
    }

    async fn resume_as(
        &mut self,
        end_at: DateTime<Utc>,
        discard_memory: bool,
        told: Told,
    ) -> Result<Status, Error> {
        self.require(SandboxState::Paused)?;
        let now = Utc::now();
        if end_at <= now {
            return Err(Error::Invalid("the end time has passed".to_owned()));
        }
        let Some(paused) = self.record.paused else {
            return Err(Error::step("resume the sandbox")(
                "its journal says nothing".to_owned(),
            ));
        };
        let begun = Instant::now();
        let with_memory = paused.with_memory && !discard_memory;
        let ground = self.sound_ground(paused.build, with_memory).await?;
        // Visible before it is counted, so that racing starts see each other.
        self.record.state = SandboxState::Resuming;
        self.publish();
        if let Err(refusal) = self.admit().await {
            self.record.state = SandboxState::Paused;
            self.publish();
            return Err(refusal);
        }
        let before = (self.record.started_at, self.record.end_at);
        (self.record.started_at, self.record.end_at) = (now, end_at);
        if let Err(error) = self.bring_up(ground, (paused, with_memory), told).await {
            (self.record.started_at, self.record.end_at) = before;
            self.publish();
            return Err(error);
        }
        tracing::info!(sandbox = %self.id(), with_memory, elapsed_ms = begun.elapsed().as_millis(), "sandbox resumed");
        Ok(self.status())
    }

    /// Whether there is room for this sandbox; warm ones give way.
    async fn admit(&self) -> Result<(), Error> {
        let refusal = || {
            let others = self.shared.registry.count_others(self.id());
            self.shared.refuse(others)
        };
        match refusal() {
            None => Ok(()),
            Some(error) => match warm_pool::make_room(&self.shared).await {
                true => refusal().map_or(Ok(()), Err),
                false => Err(error),
            },
        }
    }

    /// Puts the running sandbox back to a build, under its id and address.
    pub(super) async fn roll_back(&mut self, build: BuildId) -> Result<Status, Error> {
        self.require(SandboxState::Running)?;
        let begun = Instant::now();
        let lease = self.shared.builds.lease(build);
        let ground = self.sound_ground(build, true).await?;
        if self.record.shape != Some(ground.disk.build.manifest.shape) {
            return Err(Error::Invalid(
                "the build is of a machine of another shape".to_owned(),
            ));
        }
        let paused = Paused {
            build,
            with_memory: ground.memory.is_some(),
            at: Utc::now(),
        };
        let mut record = self.record.clone();
        record.set_paused(paused);
        record.state = SandboxState::Resuming;
        record.slot = self.record.slot;
        self.shared
            .journals
            .write_durably(&record)
            .map_err(Error::step("write the sandbox's journal"))?;
        self.record = record;
        self.kept = Some(lease);
        self.closed.cancel();
        self.publish();
        match self.resources.take_slot().await {
            Ok(Some(held)) => self.resources = Resources::Slot(held),
            Ok(None) => {}
            // It stays, and the start fails by it.
            Err(error) => {
                tracing::error!(sandbox = %self.id(), error = %chain(&error), "end VM failed");
            }
        }
        let keep = [self.record.disk.writable.as_str()];
        if let Err(error) = self.shared.journals.clear(self.id(), &keep) {
            tracing::error!(sandbox = %self.id(), %error, "removing former files failed");
        }
        let told = Some((EventKind::RolledBack, Details::build(build)));
        self.bring_up(ground, (paused, paused.with_memory), told)
            .await?;
        tracing::info!(sandbox = %self.id(), %build, elapsed_ms = begun.elapsed().as_millis(), "sandbox rolled back");
        Ok(self.status())
    }

    /// Loads a kept state and looks whether it is sound.
    async fn sound_ground(&self, build: BuildId, with_memory: bool) -> Result<Ground, Error> {
        let builds = &self.shared.builds;
        let mut ground = Ground::load(builds, Origin::Restored(build), build).await?;
        builds
            .verify_small(&ground.disk.build, VERIFIED_BYTES)
            .await
            .map_err(Error::build(build))?;
        let keeps_memory = ground.disk.memory.is_some();
        ground.memory = ground.memory.filter(|_| with_memory && keeps_memory);
        Ok(ground)
    }

    /// Starts the VM again; when that fails, the sandbox is paused.
    async fn bring_up(
        &mut self,
        ground: Ground,
        (paused, with_memory): (Paused, bool),
        told: Told,
    ) -> Result<(), Error> {
        self.record.state = SandboxState::Resuming;
        self.record.execution_id = ExecutionId::random();
        self.record.origin = Some(if with_memory {
            Origin::Restored(paused.build)
        } else {
            Origin::Booted
        });
        self.closed = CancellationToken::new();
        self.publish();
        let (shared, resources) = (&self.shared, &mut self.resources);
        let record = &mut self.record;
        let begun = (Identity::Same, told);
        let started = setup::start(shared, &ground, record, resources, begun).await;
        if let Err(error) = started {
            self.closed.cancel();
            self.let_go().await;
            self.record.set_paused(paused);
            if !self.record.events.knows(true) {
                let details = Details::reason(reason::ROLLBACK_FAILED);
                self.record.note(EventKind::Paused, details);
            }
            if let Err(error) = self.shared.journals.write_durably(&self.record) {
                tracing::error!(sandbox = %self.id(), %error, "a journal stays behind");
            }
            events::post(&self.shared.outbox, &mut self.record);
            self.publish();
            return Err(error);
        }
        self.ground = Some(ground);
        self.kept = None;
        self.publish();
        self.shared.collect.notify_one();
        Ok(())
    }
}

/// Lets a VM that was paused for being kept go on, and its guest too.
async fn wake(
    record: &crate::journal::Record,
    resources: &Resources,
    with_memory: bool,
) -> Result<(), Error> {
    if let Some(machine) = resources.machine() {
        machine
            .resume()
            .await
            .map_err(Error::step("let the VM go on"))?;
    }
    keep::thaw(record, resources, with_memory).await;
    Ok(())
}
