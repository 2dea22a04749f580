//! All builds of a node: those that wait, run or have ended. One task per build;
//! the daemon's end gives up those that run, since half a build is no use to the
//! next daemon.

use crate::{
    BuildSpec, Error, Failure, FilesHash, Scope,
    cache::Cache,
    error::chain,
    files::{Files, Piece},
    log::{Entry, Level, Log},
    run::{Ready, Run},
    shared::{Config, Shared},
    vm_records::{self, VmRecords},
};
use hearth_ids::BuildId;
use hearth_machine::Engine;
use hearth_network::SlotPool;
use hearth_snapshot::{BuildCollection, LocalStore};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const STATUS_FILE: &str = "status.json";
const LOG_FILE: &str = "log.json";
/// Ended builds that are kept in memory; others are read from disk.
const REMEMBERED: usize = 32;
/// COPY archives that no build asked for since are removed.
const FILES_KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// Where a build is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Building,
    Ready(Ready),
    Failed(Failure),
}

/// A build as seen at one moment.
#[derive(Debug, Clone)]
pub struct View {
    pub status: Status,
    /// From the asked offset on.
    pub entries: Vec<Entry>,
}

/// The builds of one node.
pub struct Templates {
    shared: Arc<Shared>,
    /// Of the results.
    collection: Box<dyn BuildCollection>,
    builds: Mutex<HashMap<BuildId, Arc<Job>>>,
    turns: Arc<Semaphore>,
    jobs: TaskTracker,
    stop: CancellationToken,
    records: PathBuf,
    work: PathBuf,
}

struct Job {
    log: Arc<Log>,
    status: watch::Sender<Status>,
    /// Why it is to be given up.
    cancel: watch::Sender<Option<String>>,
    /// Order of the ends, for forgetting.
    sequence: std::sync::atomic::AtomicU64,
}

/// A status as it is kept on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    Ready(Ready),
    Failed {
        message: String,
        step: Option<String>,
    },
}

impl Templates {
    /// Cleans up what an earlier daemon's builds left and gets ready for more.
    ///
    /// # Errors
    /// When the directories cannot be made or cleaned.
    pub fn start(
        config: Config,
        engine: Arc<dyn Engine>,
        slots: SlotPool,
        store: LocalStore,
    ) -> Result<Arc<Self>, Error> {
        vm_records::end_leftovers(&config.state_dir, &config.run_dir)?;
        let work = config.state_dir.join("work");
        for path in [&work, &config.run_dir] {
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
        let records = config.state_dir.join("records");
        for path in [&work, &records, &config.run_dir] {
            fs::create_dir_all(path).map_err(Error::io("make", path))?;
        }
        // Build logs and uploaded sources; machines get what they need as descriptors.
        fs::set_permissions(&config.state_dir, fs::Permissions::from_mode(0o700))
            .map_err(Error::io("close", &config.state_dir))?;
        // VM users look their sockets up in here.
        open_up(&config.run_dir)?;
        let limits = &config.limits;
        let files = Files::open(
            config.state_dir.join("files"),
            limits.upload_bytes,
            limits.disk_reserve_bytes,
        )?;
        files.expire(FILES_KEPT);
        let cache = Cache::open(config.state_dir.join("cache"))?;
        cache.trim(limits.cache_bytes);
        Ok(Arc::new(Self {
            turns: Arc::new(Semaphore::new(limits.concurrent)),
            shared: Arc::new(Shared {
                engine,
                slots,
                store: Arc::new(store.clone()),
                vm_records: VmRecords::at(&config.state_dir),
                files,
                cache,
                config,
            }),
            collection: Box::new(store),
            builds: Mutex::default(),
            jobs: TaskTracker::new(),
            stop: CancellationToken::new(),
            records,
            work,
        }))
    }

    #[must_use]
    pub fn has_files(&self, scope: &Scope, hash: &FilesHash) -> bool {
        self.shared.files.has(scope, hash)
    }

    /// Adds a piece of an archive; answers whether it is whole. Blocks while the
    /// disk works.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a piece that does not fit, [`Error::Busy`] without
    /// disk space, [`Error::Io`].
    pub fn add_files(
        &self,
        scope: &Scope,
        hash: &FilesHash,
        piece: &Piece<'_>,
    ) -> Result<bool, Error> {
        self.shared.files.add(scope, hash, piece)
    }

    /// Begins a build, or lets it wait for its turn.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::Busy`].
    pub fn begin(self: &Arc<Self>, spec: BuildSpec) -> Result<(), Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Busy("the node is shutting down".to_owned()));
        }
        let id = spec.build_id;
        let job = Arc::new(Job {
            log: Arc::new(Log::new(self.shared.config.limits.log)),
            status: watch::Sender::new(Status::Building),
            cancel: watch::Sender::new(None),
            sequence: 0.into(),
        });
        {
            let mut builds = self.lock();
            if builds.contains_key(&id) || self.records.join(id.to_string()).exists() {
                return Err(Error::AlreadyExists(id));
            }
            let active = builds.values().filter(|job| job.is_active()).count();
            let limits = &self.shared.config.limits;
            if active >= limits.concurrent + limits.waiting {
                return Err(Error::Busy(
                    "too many template builds wait already".to_owned(),
                ));
            }
            builds.insert(id, Arc::clone(&job));
        }
        let this = Arc::clone(self);
        self.jobs.spawn(async move { this.drive(spec, job).await });
        Ok(())
    }

    /// A build with its log from `offset` on. Waits at most `wait` for an entry
    /// or the end.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn view(
        &self,
        id: BuildId,
        offset: usize,
        limit: usize,
        wait: Duration,
    ) -> Result<View, Error> {
        const LOOK_EVERY: Duration = Duration::from_millis(100);
        let job = self.job(id)?;
        let deadline = tokio::time::Instant::now() + wait;
        let mut status = job.status.subscribe();
        while job.is_active() && job.log.len() <= offset {
            let next = tokio::time::Instant::now() + LOOK_EVERY;
            if next > deadline {
                break;
            }
            let _ = tokio::time::timeout_at(next, status.changed()).await;
        }
        // The status first: entries that come after it are not lost, only later.
        let status = job.status.borrow().clone();
        Ok(View {
            status,
            entries: job.log.slice(offset, limit),
        })
    }

    /// Gives a build up and waits until it holds nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn cancel(&self, id: BuildId, reason: &str) -> Result<(), Error> {
        let job = self.job(id)?;
        job.cancel.send_replace(Some(reason.to_owned()));
        let mut status = job.status.subscribe();
        // Fails only with the job itself, and that is held here.
        let _ = status.wait_for(|status| *status != Status::Building).await;
        Ok(())
    }

    /// Gives a build up or removes its result, and forgets its log.
    ///
    /// # Errors
    /// When the result cannot be removed.
    pub async fn remove(&self, id: BuildId) -> Result<(), Error> {
        match self.cancel(id, "the template was deleted").await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.lock().remove(&id);
        let record = self.records.join(id.to_string());
        match fs::remove_dir_all(&record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", record)(error));
            }
            _ => {}
        }
        match self.collection.retire(id).await {
            Ok(()) | Err(hearth_snapshot::Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // What others stand on stays until they go.
        self.collection.collect().await?;
        Ok(())
    }

    /// Gives up every build and waits, at most `limit`, until they hold nothing.
    pub async fn shutdown(&self, limit: Duration) {
        self.stop.cancel();
        self.jobs.close();
        if tokio::time::timeout(limit, self.jobs.wait()).await.is_err() {
            tracing::error!("template builds were still ending at the stop");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<BuildId, Arc<Job>>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, id: BuildId) -> Result<Arc<Job>, Error> {
        if let Some(job) = self.lock().get(&id) {
            return Ok(Arc::clone(job));
        }
        let job =
            Arc::new(read_record(&self.records.join(id.to_string()))?.ok_or(Error::NotFound(id))?);
        let mut builds = self.lock();
        forget(&mut builds);
        Ok(Arc::clone(builds.entry(id).or_insert(job)))
    }

    /// One build's task, from its turn to its record.
    async fn drive(self: Arc<Self>, spec: BuildSpec, job: Arc<Job>) {
        let id = spec.build_id;
        let work = self.work.join(id.to_string());
        let holdings = TaskTracker::new();
        let outcome = tokio::select! {
            outcome = self.in_turn(&spec, &job.log, &holdings, &work) => outcome,
            reason = cancelled(&job) => Err(Failure { message: reason, part: None }),
            () = self.stop.cancelled() => Err(Failure {
                message: "the build was given up: the node was stopped".to_owned(),
                part: None,
            }),
        };
        // Whatever was dropped half-way gives back what it held.
        holdings.close();
        holdings.wait().await;
        self.shared.vm_records.settle(id);
        if let Err(error) = fs::remove_dir_all(&work)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(build = %id, %error, "cannot remove a build's files");
        }
        let status = match outcome {
            Ok(ready) => {
                job.log.conclude(None, Level::Info, "Build finished");
                tracing::info!(build = %id, template = spec.template_id, "a template is built");
                Status::Ready(ready)
            }
            Err(failure) => {
                job.log
                    .conclude(failure.part, Level::Error, &failure.message);
                tracing::info!(build = %id, template = spec.template_id, why = failure.message, "a template build failed");
                Status::Failed(failure)
            }
        };
        self.shared
            .cache
            .trim(self.shared.config.limits.cache_bytes);
        if let Err(error) = write_record(&self.records.join(id.to_string()), &status, &job.log) {
            tracing::error!(build = %id, error = %chain(&error), "cannot keep a build's log");
        }
        job.end(status);
    }

    async fn in_turn(
        &self,
        spec: &BuildSpec,
        log: &Log,
        holdings: &TaskTracker,
        work: &Path,
    ) -> Result<Ready, Failure> {
        let internal = |message: String| Failure {
            message,
            part: None,
        };
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|error| internal(error.to_string()))?;
        fs::create_dir_all(work).map_err(|error| internal(error.to_string()))?;
        let run = Run {
            shared: &self.shared,
            spec,
            log,
            tasks: holdings,
            work: work.to_owned(),
        };
        let limit = self.shared.config.limits.build_time;
        // A trait object: the compiler cannot tell that the whole is `Send` when it
        // has to look into all of it.
        let running: Pin<Box<dyn Future<Output = Result<Ready, Failure>> + Send + '_>> =
            Box::pin(run.to_end());
        match tokio::time::timeout(limit, running).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure {
                message: format!(
                    "the build took longer than {} s and was given up",
                    limit.as_secs()
                ),
                part: log.part(),
            }),
        }
    }
}

impl Job {
    fn is_active(&self) -> bool {
        *self.status.borrow() == Status::Building
    }

    fn end(&self, status: Status) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static ENDS: AtomicU64 = AtomicU64::new(1);
        self.sequence
            .store(ENDS.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.status.send_replace(status);
    }
}

async fn cancelled(job: &Job) -> String {
    let mut cancel = job.cancel.subscribe();
    let reason = match cancel.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone(),
        Err(_) => None,
    };
    reason.unwrap_or_else(|| "the build was cancelled".to_owned())
}

/// Drops those that ended longest ago from memory.
fn forget(builds: &mut HashMap<BuildId, Arc<Job>>) {
    use std::sync::atomic::Ordering;
    let mut ended: Vec<(u64, BuildId)> = builds
        .iter()
        .filter(|(_, job)| !job.is_active())
        .map(|(id, job)| (job.sequence.load(Ordering::Relaxed), *id))
        .collect();
    if ended.len() < REMEMBERED {
        return;
    }
    ended.sort_unstable();
    for (_, id) in &ended[..=ended.len() - REMEMBERED] {
        builds.remove(id);
    }
}

fn write_record(directory: &Path, status: &Status, log: &Log) -> Result<(), Error> {
    let kept = match status {
        Status::Building => return Ok(()),
        Status::Ready(ready) => Kept::Ready(ready.clone()),
        Status::Failed(failure) => Kept::Failed {
            message: failure.message.clone(),
            step: failure.part.map(|part| part.to_string()),
        },
    };
    fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    let write = |name: &str, text: serde_json::Result<Vec<u8>>| {
        let path = directory.join(name);
        let new = directory.join(format!("{name}.new"));
        text.map_err(io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(Error::io("write", path))
    };
    write(LOG_FILE, serde_json::to_vec(&log.slice(0, usize::MAX)))?;
    // Last: a record counts once it has a status.
    write(STATUS_FILE, serde_json::to_vec(&kept))
}

/// The record in a directory; `None` when there is none. One that cannot be read is
/// an error: the build is not as good as unknown.
fn read_record(directory: &Path) -> Result<Option<Job>, Error> {
    let read = |name: &str| {
        let path = directory.join(name);
        match fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    };
    let Some(text) = read(STATUS_FILE)? else {
        return Ok(None);
    };
    let kept = serde_json::from_slice(&text)
        .map_err(|error| Error::io("understand", directory.join(STATUS_FILE))(error.into()))?;
    let status = match kept {
        Kept::Ready(ready) => Status::Ready(ready),
        Kept::Failed { message, step } => Status::Failed(Failure {
            message,
            part: step.and_then(|step| crate::Part::parse(&step)),
        }),
    };
    // A log that a newer version wrote in another form is not shown.
    let log = read(LOG_FILE)?.unwrap_or_default();
    let entries: Vec<Entry> = serde_json::from_slice(&log).unwrap_or_default();
    let job = Job {
        log: Arc::new(Log::of(entries)),
        status: watch::Sender::new(Status::Building),
        cancel: watch::Sender::new(None),
        sequence: 0.into(),
    };
    job.end(status);
    Ok(Some(job))
}

fn open_up(path: &Path) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o711)).map_err(Error::io("open up", path))
}
