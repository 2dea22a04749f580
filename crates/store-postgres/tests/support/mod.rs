//! A PostgreSQL of the test's own: Debian's, in a temporary directory, on a unix socket,
//! as a user without privileges.

use sqlx::{Connection as _, PgConnection};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The user `nobody`, as whom the server runs where the tests are root.
const NOBODY: u32 = 65_534;
const START_LIMIT: Duration = Duration::from_secs(120);

/// A running server. It and its data go with this value.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    programs: PathBuf,
    child: Option<Child>,
    databases: AtomicU32,
}

/// Where Debian's packages keep the server's programs, the newest version's.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed: scripts/setup --tests")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            let programs = entry.path().join("bin");
            programs
                .join("postgres")
                .exists()
                .then_some((version, programs))
        })
        .collect();
    found.sort();
    let (_, newest) = found.pop().expect("a server is installed");
    newest
}

fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
    command.arg(program);
    command
}

impl Server {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("changes the owner");
        }
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(directory.path(), mode).expect("sets the mode");
        let mut server = Self {
            programs: programs(),
            directory,
            child: None,
            databases: AtomicU32::new(0),
        };
        let made = unprivileged(&server.programs.join("initdb"))
            .args(["-U", "hearth", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(server.data())
            .current_dir("/")
            .output()
            .expect("initdb runs");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        // One user has to show a password.
        let access = "local all narrow scram-sha-256\nlocal all all trust\n";
        std::fs::write(server.data().join("pg_hba.conf"), access).expect("is written");
        server.run().await;
        server
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Starts the server on the data that are there.
    pub(crate) async fn run(&mut self) {
        let sockets = self.directory.path().display();
        let child = unprivileged(&self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .args(["-c", &format!("unix_socket_directories={sockets}")])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server runs");
        self.child = Some(child);
        let begun = Instant::now();
        while let Err(error) = PgConnection::connect(&self.url("hearth", "postgres")).await {
            assert!(
                begun.elapsed() < START_LIMIT,
                "the server does not answer: {error}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the server at once; its data stay.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = rustix::process::Pid::from_child(&child);
        // SIGINT is PostgreSQL's fast shutdown.
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("is there");
        child.wait().expect("ends");
    }

    /// The address of a database, for a user with or without a password.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        let sockets = self.directory.path().display();
        format!("postgres://{user}@localhost/{database}?host={sockets}")
    }

    /// Runs statements as the server's owner.
    pub(crate) async fn administer(&self, database: &str, statements: &str) {
        let url = self.url("hearth", database);
        let mut connection = PgConnection::connect(&url).await.expect("connects");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
            .execute(&mut connection)
            .await
            .expect("are run");
    }

    /// The name of a new, empty database.
    pub(crate) async fn database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("hearth{number}");
        self.administer("postgres", &format!("CREATE DATABASE {name}"))
            .await;
        name
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
