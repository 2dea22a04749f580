//! The task that owns one sandbox. `next_event` awaits; `apply` and the functions
//! that it calls make every change.

use super::{Command, EndAt, Handle, QUEUE, resources::Resources, setup};
use crate::{
    error::{Error, chain},
    journal::Record,
    node::Shared,
    spec::{SandboxState, Status},
};
use chrono::Utc;
use hearth_snapshot::Build;
use std::{ops::ControlFlow, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) struct Driver {
    shared: Arc<Shared>,
    build: Build,
    record: Record,
    resources: Resources,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    closed: CancellationToken,
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
    Asked(oneshot::Sender<()>),
    TimedOut,
    VmEnded(String),
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        build: Build,
        record: Record,
        resources: Resources,
    ) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let (status, status_reader) = watch::channel(status_of(&record, &resources, &build));
        let closed = CancellationToken::new();
        let handle = Handle {
            commands: sender,
            status: status_reader,
            closed: closed.clone(),
        };
        (
            Self {
                shared,
                build,
                record,
                resources,
                commands,
                status,
                closed,
            },
            handle,
        )
    }

    /// Takes a new sandbox from its first journal to its end.
    pub(crate) async fn start_and_run(mut self, started: oneshot::Sender<Result<Status, Error>>) {
        let begun = Instant::now();
        let result = setup::start(
            &self.shared,
            &self.build,
            &mut self.record,
            &mut self.resources,
        )
        .await;
        if let Err(error) = result {
            let capacity = matches!(error, Error::Capacity(_));
            if capacity {
                tracing::warn!(sandbox = %self.id(), error = %chain(&error), "refusing a sandbox");
            } else {
                tracing::error!(sandbox = %self.id(), error = %chain(&error), "starting a sandbox failed");
            }
            // The caller learns of it once nothing is left: a retry finds room.
            self.finish(None).await;
            let _ = started.send(Err(error));
            return;
        }
        self.publish();
        tracing::info!(sandbox = %self.id(), elapsed_ms = begun.elapsed().as_millis(), "sandbox started");
        let _ = started.send(Ok(self.status.borrow().clone()));
        self.run().await;
    }

    /// Serves a sandbox that runs, until its end or the daemon's.
    pub(crate) async fn run(mut self) {
        loop {
            let event = self.next_event().await;
            match self.apply(event) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(None) => return self.detach().await,
                ControlFlow::Break(Some(end)) => {
                    let reply = match end {
                        End::Asked(reply) => Some(reply),
                        End::TimedOut => {
                            tracing::info!(sandbox = %self.id(), "sandbox reached its end time");
                            None
                        }
                        End::VmEnded(why) => {
                            tracing::warn!(sandbox = %self.id(), why, "the VM ended by itself");
                            None
                        }
                    };
                    return self.finish(reply).await;
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let left = (self.record.end_at - Utc::now())
            .to_std()
            .unwrap_or(Duration::ZERO);
        tokio::select! {
            biased;
            () = self.shared.detach.cancelled() => Event::Detach,
            why = self.resources.vm_ended() => Event::VmEnded(why),
            () = tokio::time::sleep(left) => Event::Deadline,
            // The registry holds a sender for as long as this driver runs.
            Some(command) = self.commands.recv() => Event::Command(command),
        }
    }

    fn apply(&mut self, event: Event) -> ControlFlow<Option<End>> {
        match event {
            Event::Detach => ControlFlow::Break(None),
            Event::VmEnded(why) => ControlFlow::Break(Some(End::VmEnded(why))),
            Event::Deadline => {
                // The timer runs on the monotonic clock, the end time on the wall
                // clock: what a clock change left early is waited for again.
                if Utc::now() < self.record.end_at {
                    return ControlFlow::Continue(());
                }
                ControlFlow::Break(Some(End::TimedOut))
            }
            Event::Command(Command::Stop { reply }) => ControlFlow::Break(Some(End::Asked(reply))),
            Event::Command(Command::Update {
                end_at,
                network_json,
                reply,
            }) => {
                let _ = reply.send(self.update(end_at, network_json));
                ControlFlow::Continue(())
            }
        }
    }

    fn update(
        &mut self,
        end_at: Option<EndAt>,
        network_json: Option<String>,
    ) -> Result<Status, Error> {
        let mut changed = self.record.clone();
        match end_at {
            Some(EndAt::At(at)) => changed.end_at = at,
            Some(EndAt::NotBefore(at)) => changed.end_at = changed.end_at.max(at),
            None => {}
        }
        if let Some(json) = network_json {
            changed.spec.network_json = json;
        }
        self.shared
            .journals
            .write(&changed)
            .map_err(Error::step("write the sandbox's journal"))?;
        self.record = changed;
        self.publish();
        Ok(self.status.borrow().clone())
    }

    /// Ends the VM, tells those who wait, and gives back what was held.
    async fn finish(mut self, asked: Option<oneshot::Sender<()>>) {
        self.closed.cancel();
        self.record.state = SandboxState::Stopping;
        self.publish();
        self.resources.stop_machine().await;
        let id = self.id().clone();
        self.shared.registry.remove(&id);

        // Commands that were queued meanwhile: further stops are answered, and an
        // update's caller sees its reply dropped, which reads as "not found".
        self.commands.close();
        let mut waiting: Vec<_> = asked.into_iter().collect();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Stop { reply } = command {
                waiting.push(reply);
            }
        }
        for reply in waiting {
            let _ = reply.send(());
        }

        if let Err(error) = self.resources.release(&self.shared).await {
            tracing::error!(sandbox = %id, error = %chain(&error), "leaving what could not be cleaned to the next start");
            return;
        }
        if let Err(error) = self.shared.journals.remove(&id) {
            tracing::error!(sandbox = %id, %error, "removing the sandbox's files failed");
        }
    }

    /// Lets go of the VM without harm to it: the next daemon adopts it.
    async fn detach(self) {
        self.resources.detach().await;
    }

    fn publish(&self) {
        self.status
            .send_replace(status_of(&self.record, &self.resources, &self.build));
    }

    fn id(&self) -> &hearth_ids::SandboxId {
        &self.record.spec.sandbox_id
    }
}

fn status_of(record: &Record, resources: &Resources, build: &Build) -> Status {
    let shape = build.manifest.shape;
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
        address: resources.address(),
    }
}
