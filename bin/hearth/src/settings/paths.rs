//! Every file and folder of the daemon by its name, once; those that other programs
//! use, too, are in `hearth-layout`.

use super::Settings;
use std::path::PathBuf;

/// In the state directory: what survives a reboot.
impl Settings {
    /// Paused sandboxes, disks and journals of the node.
    pub fn sandboxes_dir(&self) -> PathBuf {
        self.state_dir.join("sandboxes")
    }

    /// Uploaded files, cached steps and images of template builds.
    pub fn templates_dir(&self) -> PathBuf {
        self.state_dir.join("templates")
    }

    /// Finished builds of templates and snapshots.
    pub fn builds_dir(&self) -> PathBuf {
        hearth_layout::builds_dir(&self.state_dir)
    }

    /// Kernel, root file systems and the like that built-in templates are made from.
    pub fn artefacts_dir(&self) -> PathBuf {
        self.state_dir.join("artefacts")
    }

    /// Logs and metrics of sandboxes.
    pub fn telemetry_dir(&self) -> PathBuf {
        self.state_dir.join("telemetry")
    }

    /// What guests boot from, as the last preparation left it.
    pub fn guest_file(&self) -> PathBuf {
        self.state_dir.join("guest.json")
    }

    /// The SQLite database of teams, keys, templates and snapshots, where no other is set.
    pub fn database_file(&self) -> PathBuf {
        self.state_dir.join("hearth.db")
    }

    /// Who this installation is to others that use the same database.
    pub fn owner_file(&self) -> PathBuf {
        self.keys_dir().join("owner")
    }

    /// What names this machine's node, for as long as its disk is there.
    pub fn node_id_file(&self) -> PathBuf {
        self.keys_dir().join("node")
    }

    /// What this machine got when it joined a cluster as a node.
    pub fn membership_file(&self) -> PathBuf {
        self.keys_dir().join("membership.json")
    }

    /// Log of a daemon that `hearth up` started in the background.
    pub fn log_file(&self) -> PathBuf {
        self.state_dir.join("hearth.log")
    }

    /// The local authority's certificate, once the daemon has made it.
    pub fn authority_file(&self) -> PathBuf {
        self.state_dir.join("ca.crt")
    }

    /// The same with the system's authorities.
    pub fn bundle_file(&self) -> PathBuf {
        self.state_dir.join("ca-bundle.crt")
    }

    /// The proof that `hearth dns` serves to an ACME authority.
    pub fn proof_file(&self) -> PathBuf {
        self.state_dir.join("acme-challenge")
    }

    /// The audit log; rotated files are beside it.
    pub fn audit_log(&self) -> PathBuf {
        self.state_dir.join("audit.log")
    }

    /// What only the daemon's owner may read.
    pub fn keys_dir(&self) -> PathBuf {
        hearth_layout::keys_dir(&self.state_dir)
    }

    /// The first team's API key.
    pub fn api_key_file(&self) -> PathBuf {
        hearth_layout::api_key_file(&self.state_dir)
    }

    /// The operators' token, which the first start makes where no file is set.
    pub fn admin_token_file(&self) -> PathBuf {
        let set = self.api.admin_token_file.clone();
        set.unwrap_or_else(|| self.keys_dir().join("admin-token"))
    }

    /// What the tokens of sandboxes are derived from.
    pub fn token_seed_file(&self) -> PathBuf {
        self.keys_dir().join("token-seed")
    }

    /// The values of secrets.
    pub fn secrets_dir(&self) -> PathBuf {
        self.keys_dir().join("secrets")
    }

    /// Account, key and certificate from an ACME authority.
    pub fn acme_dir(&self) -> PathBuf {
        self.keys_dir().join("acme")
    }
}

/// In the run directory, which a reboot empties.
impl Settings {
    /// The node's gRPC service.
    pub fn node_socket(&self) -> PathBuf {
        hearth_layout::node_socket(&self.run_dir)
    }

    /// Where this machine's owner asks the daemon for what the API does not offer.
    pub fn admin_socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }

    /// Locked by the running daemon.
    pub fn pid_file(&self) -> PathBuf {
        hearth_layout::pid_file(&self.run_dir)
    }

    /// There while the running daemon emulates its guests.
    pub fn emulation_file(&self) -> PathBuf {
        self.run_dir.join("emulation")
    }

    /// Sockets of the VMs of template builds.
    pub fn build_sockets_dir(&self) -> PathBuf {
        self.run_dir.join("tb")
    }

    /// Sockets of the VMs that built-in templates are prepared in.
    pub fn preparation_sockets_dir(&self) -> PathBuf {
        self.run_dir.join("template")
    }
}

/// In the cache directory: what can be made again, at a price.
impl Settings {
    /// Built-in templates as they were prepared, for other installations.
    pub fn cached_builds_dir(&self) -> PathBuf {
        self.cache_dir.join("builds")
    }
}
