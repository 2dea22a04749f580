//! A kernel's connection file: the ports it shall listen on and the key it shall
//! sign with.

use rustix::rand::GetRandomFlags;
use serde_json::json;
use std::{
    fs::{DirBuilder, File},
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use uuid::Uuid;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) shell: u16,
    pub(crate) control: u16,
    pub(crate) iopub: u16,
    stdin: u16,
    heartbeat: u16,
}

/// The file exists as long as this does.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) path: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) key: String,
}

impl Ports {
    /// Ports that are free right now. Whoever takes one in between makes the
    /// kernel fail to start, which is tried again with others.
    fn free() -> io::Result<Self> {
        let listeners = (0..5)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<io::Result<Vec<_>>>()?;
        let port = |index: usize| Ok::<_, io::Error>(listeners[index].local_addr()?.port());
        Ok(Self {
            shell: port(0)?,
            control: port(1)?,
            iopub: port(2)?,
            stdin: port(3)?,
            heartbeat: port(4)?,
        })
    }
}

/// The address of a kernel's port.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Connection {
    pub(crate) fn create(run_dir: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)?;
        let ports = Ports::free()?;
        let key = key()?;
        let path = run_dir.join(format!("kernel-{}.json", Uuid::new_v4()));
        let content = json!({
            "transport": "tcp",
            "ip": "127.0.0.1",
            "shell_port": ports.shell,
            "control_port": ports.control,
            "iopub_port": ports.iopub,
            "stdin_port": ports.stdin,
            "hb_port": ports.heartbeat,
            "signature_scheme": "hmac-sha256",
            "key": key,
        });
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?
            .write_all(content.to_string().as_bytes())?;
        Ok(Self { path, ports, key })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn key() -> io::Result<String> {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes[..], GetRandomFlags::empty())?;
    if filled < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(hex::encode(bytes))
}
