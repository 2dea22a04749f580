//! The task that owns one sandbox. `next_event` awaits; the functions that it is
//! handed to make every change. Those of the longer operations are in
//! [`super::lifecycle`].

use super::{
    Command, EndAt, Handle, QUEUE, View, egress,
    ground::Ground,
    resources::Resources,
    setup::{self, Identity},
};
use crate::{
    error::{Error, chain},
    events::{self, Details, Durability, EventKind, reason},
    journal::{Origin, Record},
    node::Shared,
    spec::{PausedStatus, SandboxState, Status, TimeoutAction},
};
use chrono::Utc;
use futures::FutureExt;
use hearth_snapshot::{BuildCache, Lease};
use std::{ops::ControlFlow, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// When a pause at the end time is tried again after a failure.
const PAUSE_RETRY: Duration = Duration::from_secs(30);

/// When a VM without a known slot that did not end is ended again.
const STRAY_RETRIES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];

pub(crate) struct Driver {
    pub(super) shared: Arc<Shared>,
    /// What the VM stands on; absent while paused.
    pub(super) ground: Option<Ground>,
    /// Keeps what a paused sandbox goes on from.
    pub(super) kept: Option<Lease>,
    pub(super) record: Record,
    pub(super) resources: Resources,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    pub(super) closed: CancellationToken,
    /// Not before this does the end time count again.
    retry_at: Option<Instant>,
}

enum Event {
    Command(Command),
    Deadline,
    VmEnded(String),
    /// The daemon goes down; the VM stays.
    Detach,
}

/// Why a sandbox ends, for the log.
enum End {
    Asked(oneshot::Sender<u64>),
    TimedOut,
    VmEnded(String),
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ground: Option<Ground>,
        record: Record,
        resources: Resources,
    ) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let closed = CancellationToken::new();
        let (view, reader) = watch::channel(View {
            status: status_of(&record, &resources),
            closed: closed.clone(),
        });
        let kept = record
            .paused
            .map(|paused| shared.builds.lease(paused.build));
        let handle = Handle {
            commands: sender,
            view: reader,
        };
        (
            Self {
                shared,
                ground,
                kept,
                record,
                resources,
                commands,
                view,
                closed,
                retry_at: None,
            },
            handle,
        )
    }

    /// Takes a new sandbox from its first journal to its end.
    pub(crate) async fn start_and_run(mut self, started: oneshot::Sender<Result<Status, Error>>) {
        let begun = Instant::now();
        if let Err(error) = self.start().await {
            let capacity = matches!(error, Error::Capacity(_));
            if capacity {
                tracing::warn!(sandbox = %self.id(), error = %chain(&error), "refusing a sandbox");
            } else {
                tracing::error!(sandbox = %self.id(), error = %chain(&error), "starting a sandbox failed");
            }
            // The caller learns of it once nothing is left: a retry finds room.
            self.finish(None, None).await;
            let _ = started.send(Err(error));
            return;
        }
        self.publish();
        tracing::info!(sandbox = %self.id(), elapsed_ms = begun.elapsed().as_millis(), "sandbox started");
        let _ = started.send(Ok(self.status()));
        Box::pin(self.run()).await;
    }

    /// Gives back what a sandbox holds that is not wanted after all.
    pub(crate) async fn give_up(self) {
        self.finish(None, None).await;
    }

    async fn start(&mut self) -> Result<(), Error> {
        let Some(ground) = &self.ground else {
            return Err(Error::ShuttingDown);
        };
        if ground.memory.is_none() {
            self.record.origin = Some(Origin::Booted);
        }
        if self.resources.vm().is_some() {
            let (shared, resources) = (&self.shared, &mut self.resources);
            let handed = setup::hand_over(shared, ground, &mut self.record, resources).await;
            let Err(error) = handed else {
                return Ok(());
            };
            // A warm VM may die at any moment; a sandbox can still be made from nothing.
            tracing::warn!(sandbox = %self.id(), error = %chain(&error), "claim warm sandbox failed");
            self.resources.release(&self.shared).await?;
            self.shared
                .journals
                .remove(self.id())
                .map_err(Error::step("remove the files of a warm sandbox"))?;
            self.record.forget_vm();
        }
        self.shared
            .journals
            .create(&self.record)
            .map_err(Error::step("write the sandbox's journal"))?;
        let (shared, resources) = (&self.shared, &mut self.resources);
        let begun = (Identity::New, setup::created(&self.record));
        setup::start(shared, ground, &mut self.record, resources, begun).await
    }

    /// Serves a VM that a former daemon started. Whatever that one was in the
    /// middle of is undone first.
    pub(crate) async fn run_adopted(mut self) {
        if self.record.state != SandboxState::Running {
            tracing::warn!(sandbox = %self.id(), state = ?self.record.state, "the former daemon did not finish this: the sandbox goes on");
            self.go_on().await;
        }
        Box::pin(self.run()).await;
    }

    /// Serves a sandbox, until its end or the daemon's.
    pub(crate) async fn run(mut self) {
        loop {
            let flow = match self.next_event().await {
                Event::Detach => ControlFlow::Break(None),
                Event::VmEnded(why) => ControlFlow::Break(Some(End::VmEnded(why))),
                Event::Deadline => self.time_is_over().await,
                Event::Command(command) => self.obey(command).await,
            };
            match flow {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(None) => return self.detach().await,
                ControlFlow::Break(Some(end)) => {
                    let (reply, why) = match end {
                        End::Asked(reply) => (Some(reply), reason::REQUEST),
                        End::TimedOut => {
                            tracing::info!(sandbox = %self.id(), "sandbox reached its end time");
                            (None, reason::TIMEOUT)
                        }
                        End::VmEnded(why) => {
                            tracing::warn!(sandbox = %self.id(), why, "the VM ended by itself");
                            (None, reason::VM_EXITED)
                        }
                    };
                    return self.finish(reply, Some(why)).await;
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let runs = self.record.state == SandboxState::Running;
        let end_at = self.record.end_at;
        let retry_at = self.retry_at;
        let deadline = async move {
            if !runs {
                return std::future::pending().await;
            }
            let left = (end_at - Utc::now()).to_std().unwrap_or(Duration::ZERO);
            tokio::time::sleep(left).await;
            if let Some(at) = retry_at {
                tokio::time::sleep_until(at).await;
            }
        };
        tokio::select! {
            biased;
            () = self.shared.detach.cancelled() => Event::Detach,
            why = self.resources.vm_ended() => Event::VmEnded(why),
            () = deadline => Event::Deadline,
            // The registry holds a sender for as long as this driver runs.
            Some(command) = self.commands.recv() => Event::Command(command),
        }
    }

    async fn time_is_over(&mut self) -> ControlFlow<Option<End>> {
        // The timer runs on the monotonic clock, the end time on the wall clock:
        // what a clock change left early is waited for again.
        if Utc::now() < self.record.end_at {
            return ControlFlow::Continue(());
        }
        let TimeoutAction::Pause { memory } = self.record.spec.timeout_action else {
            return ControlFlow::Break(Some(End::TimedOut));
        };
        tracing::info!(sandbox = %self.id(), memory, "sandbox reached its end time: pausing it");
        self.retry_at = None;
        if let Err(error) = self
            .pause(hearth_ids::BuildId::random(), memory, Some(reason::TIMEOUT))
            .await
        {
            tracing::error!(sandbox = %self.id(), error = %chain(&error), "pausing at the end time failed: the sandbox runs on");
            self.retry_at = Some(Instant::now() + PAUSE_RETRY);
        }
        self.settle().await;
        ControlFlow::Continue(())
    }

    async fn obey(&mut self, command: Command) -> ControlFlow<Option<End>> {
        match command {
            Command::Stop { reply } => return ControlFlow::Break(Some(End::Asked(reply))),
            Command::Update {
                end_at,
                network_json,
                reply,
            } => drop(reply.send(self.update(end_at, network_json).await)),
            Command::Pause { keeping, reply } => {
                let why = Some(reason::REQUEST);
                let result = self.pause(keeping.build, keeping.with_memory, why).await;
                let paused = result.is_ok();
                let result = result.map(|()| self.status());
                drop(reply.send(self.logged("pausing", result)));
                if paused {
                    self.settle().await;
                }
            }
            Command::Resume {
                end_at,
                discard_memory,
                reply,
            } => {
                let result = self.resume(end_at, discard_memory).await;
                drop(reply.send(self.logged("resuming", result)));
            }
            Command::Checkpoint { build, fork, reply } => {
                let result = self.checkpoint(build, fork).await.map(|()| self.status());
                drop(reply.send(self.logged("taking a snapshot of", result)));
            }
            Command::Rollback { build, reply } => {
                let result = self.roll_back(build).await;
                drop(reply.send(self.logged("rolling back", result)));
            }
        }
        ControlFlow::Continue(())
    }

    fn logged<T>(&self, doing: &str, result: Result<T, Error>) -> Result<T, Error> {
        match &result {
            Ok(_) => {}
            Err(Error::State { .. } | Error::Capacity(_) | Error::BuildNotFound { .. }) => {}
            Err(error) => {
                tracing::error!(sandbox = %self.id(), error = %chain(error), "{doing} a sandbox failed");
                // Its VM died under the operation: that is what its caller is to know.
                if self.resources.vm_ended().now_or_never().is_some() {
                    return Err(Error::NotFound(self.id().clone()));
                }
            }
        }
        result
    }

    async fn update(
        &mut self,
        end_at: Option<EndAt>,
        network_json: Option<String>,
    ) -> Result<Status, Error> {
        self.require(SandboxState::Running)?;
        let mut changed = self.record.clone();
        match end_at {
            Some(EndAt::At(at)) => changed.end_at = at,
            Some(EndAt::NotBefore(at)) => changed.end_at = changed.end_at.max(at),
            None => {}
        }
        let network = network_json.is_some();
        if let Some(json) = network_json {
            egress::replace(&mut changed.spec, json);
            crate::journal::check_spec(&changed.spec).map_err(Error::Invalid)?;
        }
        let end_at = (changed.end_at != self.record.end_at).then_some(changed.end_at);
        let details = Details {
            end_at,
            network_json: network.then(|| changed.spec.network_json.clone()),
            ..Details::default()
        };
        match end_at.is_some() || network {
            true => {
                let event = (EventKind::Updated, details);
                setup::write_event(&self.shared, &mut changed, event, Durability::Daemon)?;
            }
            false => setup::write_journal(&self.shared, &changed)?,
        }
        self.record = changed;
        self.retry_at = None;
        if let Some(slot) = self.resources.slot().filter(|_| network) {
            egress::change(&self.shared, &self.record.spec, slot).await?;
        }
        self.publish();
        Ok(self.status())
    }

    /// Refuses what can only be done in another state.
    pub(super) fn require(&self, state: SandboxState) -> Result<(), Error> {
        if self.record.state == state {
            return Ok(());
        }
        Err(Error::State {
            sandbox: self.id().clone(),
            why: match self.record.state {
                SandboxState::Paused => "is paused",
                SandboxState::Running => "is running",
                _ => "is in another transition",
            },
        })
    }

    /// Ends the VM, tells those who wait, and gives back what was held. The end of one
    /// that nobody was told of has no reason.
    async fn finish(mut self, asked: Option<oneshot::Sender<u64>>, why: Option<&str>) {
        self.closed.cancel();
        let noted = why.is_none_or(|why| self.tell_end(why));
        self.record.state = SandboxState::Stopping;
        self.publish();
        self.resources.stop_machine().await;
        let id = self.id().clone();
        let sequence = self.shared.registry.remove(&id);

        // Commands that were queued meanwhile: further stops are answered, and the
        // others' callers see their reply dropped, which reads as "not found".
        self.commands.close();
        let mut waiting: Vec<_> = asked.into_iter().collect();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Stop { reply } = command {
                waiting.push(reply);
            }
        }
        for reply in waiting {
            let _ = reply.send(sequence);
        }

        if let Err(error) = self.release().await {
            tracing::error!(sandbox = %id, error = %chain(&error), "leaving what could not be cleaned to the next start");
        } else if let Err(error) = self.remove_files(&id, noted) {
            tracing::error!(sandbox = %id, %error, "removing the sandbox's files failed");
        }
        (self.ground, self.kept) = (None, None);
        self.shared.collect.notify_one();
    }

    /// From here on the sandbox ends, whatever happens. Answers whether its journal says so.
    fn tell_end(&mut self, why: &str) -> bool {
        let durability = match self.record.state {
            SandboxState::Paused => Durability::Host,
            _ => Durability::Daemon,
        };
        let details = Details::reason(why);
        self.record.state = SandboxState::Stopping;
        let event = (EventKind::Killed, details.clone());
        let told = setup::write_event(&self.shared, &mut self.record, event, durability);
        if let Err(error) = told {
            // It ends all the same, as that is what frees disk space.
            tracing::error!(sandbox = %self.id(), error = %chain(&error), "write the journal failed");
            self.record.note(EventKind::Killed, details);
            events::post(&self.shared.outbox, &mut self.record);
            return false;
        }
        true
    }

    /// Removes the sandbox's files. The journal stays while it alone holds an event; one that
    /// does not say that the sandbox has ended would bring it back.
    fn remove_files(&mut self, id: &hearth_ids::SandboxId, noted: bool) -> std::io::Result<()> {
        let Shared {
            journals, outbox, ..
        } = &*self.shared;
        if events::post(outbox, &mut self.record) {
            return journals.remove(id);
        }
        journals.clear(id, &[])?;
        match events::post(outbox, &mut self.record) {
            false if noted => Ok(()),
            _ => journals.remove(id),
        }
    }

    /// Gives back what is held. A VM without a known slot that does not end is tried
    /// again: nothing else would end it before the next start of the daemon.
    async fn release(&mut self) -> Result<(), Error> {
        let mut retries = STRAY_RETRIES.iter();
        loop {
            let Err(error) = self.resources.release(&self.shared).await else {
                return Ok(());
            };
            let stray = matches!(self.resources, Resources::Stray(_));
            let Some(pause) = retries.next().filter(|_| stray) else {
                return Err(error);
            };
            tracing::error!(sandbox = %self.id(), error = %chain(&error), "end VM failed: it is tried again");
            tokio::select! {
                () = self.shared.detach.cancelled() => return Err(error),
                () = tokio::time::sleep(*pause) => {}
            }
        }
    }

    /// Lets go of the VM without harm to it: the next daemon adopts it.
    async fn detach(self) {
        self.resources.detach().await;
    }

    /// Shows others the present state.
    pub(super) fn publish(&self) {
        let status = status_of(&self.record, &self.resources);
        let closed = self.closed.clone();
        self.shared.registry.publish(self.id(), |sequence| {
            let status = Status { sequence, ..status };
            self.view.send_replace(View { status, closed });
        });
    }

    pub(super) fn status(&self) -> Status {
        self.view.borrow().status.clone()
    }

    pub(super) fn id(&self) -> &hearth_ids::SandboxId {
        &self.record.spec.sandbox_id
    }
}

fn status_of(record: &Record, resources: &Resources) -> Status {
    let shape = record.shape.unwrap_or(hearth_snapshot::Shape {
        vcpus: 0,
        memory_mib: 0,
        disk_mib: 0,
    });
    let up = !matches!(record.state, SandboxState::Paused | SandboxState::Stopping);
    Status {
        spec: Arc::new(record.spec.clone()),
        state: record.state,
        execution_id: record.execution_id,
        started_at: record.started_at,
        end_at: record.end_at,
        vcpus: shape.vcpus,
        memory_mib: u32::try_from(shape.memory_mib).unwrap_or(u32::MAX),
        disk_mib: u32::try_from(shape.disk_mib).unwrap_or(u32::MAX),
        envd_version: record.envd_version.clone(),
        address: resources.address().filter(|_| up),
        paused: record.paused.map(|paused| PausedStatus {
            at: paused.at,
            with_memory: paused.with_memory,
        }),
        // Known when it is published.
        sequence: 0,
    }
}
