//! Records of builds' VMs: `vms/<build>-<slot>.json` in the state directory. A record is written
//! when the VM's network slot is held, before anything is made for it, and again when its
//! process runs; it goes after everything was given back. So whatever instant the daemon
//! dies at, the next one finds a record of every VM that may run on, with the control
//! group in which all its processes are, and ends it before its slot is cleaned and given
//! to others. A build itself does not go on: half of one is no use.
//!
//! Nothing is flushed: no VM outlives its host.

use crate::Error;
use hearth_confine::Cgroups;
use hearth_ids::BuildId;
use hearth_machine::MachineRecord;
use hearth_microvm::Owner;
use hearth_network::Slot;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const DIRECTORY: &str = "vms";
const VERSION: u32 = 1;

/// The directory of records.
#[derive(Debug, Clone)]
pub(crate) struct VmRecords {
    root: PathBuf,
}

/// One VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of this form. Newer ones keep the fields that end a VM.
    version: u32,
    build: BuildId,
    /// Index of the network slot.
    slot: u32,
    /// Control group of the VM's processes.
    cgroup: String,
    /// The VM process, once it runs.
    machine: Option<MachineRecord>,
}

impl Record {
    /// Of a VM whose slot is held.
    pub(crate) fn new(build: BuildId, slot: &Slot) -> Self {
        Self {
            version: VERSION,
            build,
            slot: slot.index,
            cgroup: Owner::Build.cgroup(slot),
            machine: None,
        }
    }

    /// The same, whose process runs.
    pub(crate) fn launched(self, machine: &MachineRecord) -> Self {
        Self {
            machine: Some(machine.clone()),
            ..self
        }
    }
}

/// What of a record is needed to end its VM, whatever version wrote it.
#[derive(Deserialize)]
struct Traces {
    slot: Option<u32>,
    cgroup: String,
}

impl VmRecords {
    pub(crate) fn at(state_dir: &Path) -> Self {
        Self {
            root: state_dir.join(DIRECTORY),
        }
    }

    /// Notes a VM, in place of what was noted of it.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)?;
        let path = self
            .root
            .join(format!("{}-{}.json", record.build, record.slot));
        let new = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        io::Write::write_all(&mut file, &serde_json::to_vec(record)?)?;
        fs::rename(new, path)
    }

    /// Forgets the VMs of a build that is over, but for one that has not ended: its
    /// control group is there. (So may be another build's that has got its slot since; then
    /// the next start finds nothing to end.)
    pub(crate) fn settle(&self, build: BuildId) {
        let groups = Cgroups::detect().list();
        let forget = || -> io::Result<()> {
            for path in self.list()? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if !name.starts_with(&build.to_string()) {
                    continue;
                }
                let traces: Traces = serde_json::from_slice(&fs::read(&path)?)?;
                if !groups.contains(&traces.cgroup) {
                    remove_file(&path)?;
                }
            }
            Ok(())
        };
        if let Err(error) = forget() {
            tracing::warn!(%build, %error, "remove the record of a build's VM failed");
        }
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(&self.root) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Ends what the records name, and forgets what has ended. A record that cannot be
    /// read names nothing, and the one of a VM that does not end stays for the next start.
    ///
    /// # Errors
    /// When the records cannot be listed.
    fn end_all(&self) -> Result<(), Error> {
        for path in self.list().map_err(Error::io("list", &self.root))? {
            let traces = fs::read(&path)
                .and_then(|text| serde_json::from_slice::<Traces>(&text).map_err(io::Error::from));
            match traces {
                Ok(Traces { slot, cgroup }) => {
                    tracing::info!(record = %path.display(), slot, cgroup, "end VM of a build that was cut off");
                    if let Err(error) = hearth_confine::remove_cgroup(&cgroup) {
                        let error = crate::error::chain(&error);
                        tracing::error!(slot, cgroup, error, "end VM of a build failed");
                        continue;
                    }
                    hearth_microvm::release_device(&cgroup);
                }
                Err(error) => {
                    tracing::warn!(record = %path.display(), %error, "read the record of a build's VM failed");
                }
            }
            remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }
}

/// Ends the VMs that a killed daemon's builds left: by their records, and then, for what
/// older versions started and where the host has no control groups, those whose command
/// lines name `run_dir`. To be called before the network is started, which cleans their
/// slots.
///
/// # Errors
/// When the records cannot be looked through.
pub fn end_leftovers(state_dir: &Path, run_dir: &Path) -> Result<(), Error> {
    let ended = VmRecords::at(state_dir).end_all();
    hearth_microvm::end_leftovers(run_dir);
    ended
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(build: BuildId, slot: u32, cgroup: &str) -> Record {
        Record {
            version: VERSION,
            build,
            slot,
            cgroup: cgroup.to_owned(),
            machine: None,
        }
    }

    #[test]
    fn a_build_that_is_over_has_no_record_and_others_keep_theirs() {
        let state = tempfile::tempdir().unwrap();
        let records = VmRecords::at(state.path());
        let (over, other) = (BuildId::random(), BuildId::random());
        records.settle(over);
        for (build, slot) in [(over, 1), (over, 2), (other, 3)] {
            let cgroup = format!("hearth-test-no-such-group-{slot}");
            records.write(&record(build, slot, &cgroup)).unwrap();
        }
        records.settle(over);
        let left = records.list().unwrap();
        assert_eq!(left, [state.path().join(format!("vms/{other}-3.json"))]);
    }

    #[test]
    fn records_of_any_version_and_of_none_are_settled_at_the_start() {
        let state = tempfile::tempdir().unwrap();
        let run = state.path().join("run");
        end_leftovers(state.path(), &run).unwrap();
        let records = VmRecords::at(state.path());
        let build = BuildId::random();
        let known = record(build, 1, "hearth-test-no-such-group-1");
        records.write(&known).unwrap();
        let newer = r#"{"version":7,"cgroup":"hearth-test-no-such-group-2","where":[]}"#;
        for (name, text) in [
            ("newer.json", newer),
            ("cut.json", "{\"vers"),
            ("x.new", ""),
        ] {
            fs::write(state.path().join("vms").join(name), text).unwrap();
        }
        end_leftovers(state.path(), &run).unwrap();
        assert_eq!(records.list().unwrap(), Vec::<PathBuf>::new());
    }
}
