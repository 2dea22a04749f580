//! What the server tests share: a device in a scratch directory, and clients.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use hearth_block::server::{ServerConfig, ServerHandle, serve};
use hearth_block::{Device, DeviceConfig, WritableConfig};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) struct Scratch {
    pub(crate) directory: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a scratch directory"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A base image with a recognisable byte in each block, holes between.
    pub(crate) fn base(&self, bytes: u64) -> PathBuf {
        let path = self.path("base.img");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(bytes).unwrap();
        for block in (0..bytes / 4096).filter(|block| block / 64 % 2 == 0) {
            let content = [(block % 255) as u8 + 1; 4096];
            std::os::unix::fs::FileExt::write_all_at(&file, &content, block * 4096).unwrap();
        }
        path
    }

    pub(crate) fn config(&self, base: Option<PathBuf>, size_bytes: u64) -> DeviceConfig {
        DeviceConfig {
            base,
            layers: Vec::new(),
            writable: Some(WritableConfig {
                directory: self.path("layer"),
                limit_bytes: None,
                reserve_bytes: 0,
            }),
            size_bytes,
        }
    }

    pub(crate) fn serve(&self, device: Arc<Device>) -> ServerHandle {
        serve(&ServerConfig::new(self.path("nbd.sock"), "disk"), device).expect("a server")
    }

    pub(crate) fn uri(&self) -> String {
        format!(
            "nbd+unix:///disk?socket={}",
            self.path("nbd.sock").display()
        )
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("nbd.sock")).expect("a listening server");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }
}

/// Runs a program to its end; `None`, said out loud, if it is not installed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {program} is not installed");
            None
        }
        Err(error) => panic!("cannot run {program}: {error}"),
    }
}

/// Like [`run`], and the program must succeed.
pub(crate) fn succeed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = run(program, arguments)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    // qemu-io reports a pattern that differs on standard output only.
    let sound = output.status.success() && !out.contains("failed") && !err.contains("failed");
    assert!(sound, "{program} {arguments:?} failed: {out}{err}");
    Some(out)
}

/// `qemu-io` with one `-c` for each command.
pub(crate) fn qemu_io(uri: &str, commands: &[&str]) -> Option<String> {
    let mut arguments = vec!["-f", "raw", uri];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    succeed("qemu-io", &arguments)
}

/// A minimal client for tests that must send what no real client would.
pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    /// Shakes hands with `EXPORT_NAME`.
    pub(crate) fn attach(mut stream: UnixStream) -> Self {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream.write_all(b"IHAVEOPT").unwrap();
        stream.write_all(&1u32.to_be_bytes()).unwrap();
        stream.write_all(&4u32.to_be_bytes()).unwrap();
        stream.write_all(b"disk").unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        Self(stream)
    }

    pub(crate) fn request(&mut self, flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) {
        self.0
            .write_all(&request(flags, kind, cookie, offset, length))
            .unwrap();
    }

    /// The cookie and error of the next simple reply.
    pub(crate) fn reply(&mut self) -> (u64, u32) {
        let mut bytes = [0; 16];
        self.0.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..4], 0x6744_6698u32.to_be_bytes());
        let error = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        (u64::from_be_bytes(bytes[8..].try_into().unwrap()), error)
    }

    pub(crate) fn data(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}

pub(crate) fn request(flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("scratch paths are UTF-8")
}
