//! Devices of the host's kernel, and the handshake that they begin with.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Client, MIB, Scratch};
use hearth_block::Device;
use hearth_block::kernel::netlink::LastingDevice;
use hearth_block::kernel::{KernelDevice, KernelError};
use hearth_block::nbd::client::negotiate;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_of_the_export_and_goes_on_with_requests() {
    let scratch = Scratch::new();
    let device = Arc::new(Device::create(&scratch.config(None, 64 * MIB)).unwrap());
    let server = scratch.serve(device);
    for name in ["", "disk"] {
        let mut stream = scratch.connect();
        let export = negotiate(&mut stream, name).unwrap();
        assert_eq!(export.size_bytes, 64 * MIB);
        assert_eq!(export.flags & 0b111, 0b101, "has flags, writable, flushes");
        // Nothing of the handshake is left in the stream.
        let mut client = Client(stream);
        client.request(0, 0, 7, 0, 4096);
        assert_eq!(client.reply(), (7, 0));
        assert_eq!(client.data(4096), [0; 4096]);
    }
    let refused = negotiate(&mut scratch.connect(), "another").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    server.stop().await;
}

#[test]
fn servers_that_do_not_speak_the_protocol_are_left() {
    let greeting = b"NBDMAGICIHAVEOPT\0\x01";
    // The rest of a reply to the option `GO`: kind, length, data.
    let reply = |rest: &[u8]| {
        let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
        [greeting, &magic[..], &7_u32.to_be_bytes(), rest].concat()
    };
    let cases: [(Vec<u8>, io::ErrorKind); 6] = [
        (
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2".to_vec(),
            io::ErrorKind::InvalidData,
        ),
        (b"NBDMAGICIHAVEOPT\0\0".to_vec(), io::ErrorKind::InvalidData),
        (greeting[..7].to_vec(), io::ErrorKind::UnexpectedEof),
        // Acknowledged, but no size was told.
        (reply(&[0, 0, 0, 1, 0, 0, 0, 0]), io::ErrorKind::InvalidData),
        // Longer than any reply.
        (
            reply(&[0, 0, 0, 3, 0xff, 0, 0, 0]),
            io::ErrorKind::InvalidData,
        ),
        (
            reply(&[0x80, 0, 0, 1, 0, 0, 0, 2, b'n', b'o']),
            io::ErrorKind::NotFound,
        ),
    ];
    for (sent, kind) in cases {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&sent).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let error = negotiate(&mut ours, "").unwrap_err();
        assert_eq!(error.kind(), kind, "{sent:x?}: {error}");
    }
}

/// Where the kernel can, the device reads what is served; else it says so.
#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_reads_what_is_served() {
    let scratch = Scratch::new();
    let base = scratch.base(16 * MIB);
    let device = Device::create(&scratch.config(Some(base.clone()), 32 * MIB)).unwrap();
    let server = scratch.serve(Arc::new(device));
    let socket = scratch.path("nbd.sock");
    let attached = tokio::task::spawn_blocking(move || KernelDevice::attach(&socket, "", None));
    let attached = attached.await.unwrap();
    if Path::new("/sys/block/nbd0").exists() {
        let device = attached.unwrap();
        let mut read = vec![0; 16 << 20];
        let mut file = std::fs::File::open(device.path()).unwrap();
        file.read_exact(&mut read).unwrap();
        assert_eq!(read, std::fs::read(base).unwrap());
        drop(file);
        tokio::task::spawn_blocking(|| device.detach())
            .await
            .unwrap()
            .unwrap();
    } else {
        assert!(
            matches!(attached, Err(KernelError::Unsupported)),
            "{attached:?}"
        );
    }
    let socket = scratch.path("nbd.sock");
    let not_one = KernelDevice::attach(&socket, "", Some(Path::new("/dev/null")));
    assert!(
        matches!(not_one, Err(KernelError::NotNbd(_))),
        "{not_one:?}"
    );
    server.stop().await;
}

/// Where the kernel can, a device whose server went away waits for the next one; else it
/// says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_lasting_device_waits_for_the_next_server() {
    const PATIENCE: Duration = Duration::from_secs(120);
    let scratch = Scratch::new();
    let base = scratch.base(16 * MIB);
    let device = Arc::new(Device::create(&scratch.config(Some(base.clone()), 32 * MIB)).unwrap());
    let server = scratch.serve(Arc::clone(&device));
    let socket = scratch.path("nbd.sock");
    let identifier = format!("hearth-test-{}", std::process::id());
    let attach = {
        let (socket, identifier) = (socket.clone(), identifier.clone());
        move || LastingDevice::attach(&socket, "", &identifier, PATIENCE)
    };
    let attached = tokio::task::spawn_blocking(attach.clone()).await.unwrap();
    if !Path::new("/sys/block/nbd0").exists() {
        assert!(
            matches!(attached, Err(KernelError::Unsupported)),
            "{attached:?}"
        );
        server.stop().await;
        return;
    }
    let attached = attached.unwrap();
    let twice = tokio::task::spawn_blocking(attach).await.unwrap();
    assert!(matches!(twice, Err(KernelError::InUse(_))), "{twice:?}");
    let path = attached.path();
    let open = move || std::fs::File::options().read(true).write(true).open(&path);
    let written = {
        let open = open.clone();
        tokio::task::spawn_blocking(move || {
            let file = open()?;
            file.write_all_at(&[7; 4096], 8192)?;
            file.sync_all()
        })
    };
    written.await.unwrap().unwrap();

    // The value goes, as its process would, and the server with it.
    drop(attached);
    server.stop().await;
    let reading = tokio::task::spawn_blocking(move || {
        let mut read = vec![0; 16 << 20];
        open()?.read_exact_at(&mut read, 0)?;
        Ok::<_, io::Error>(read)
    });
    // Nobody is there to answer it: it waits or has failed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!reading.is_finished());
    let found = LastingDevice::find(&identifier).unwrap().unwrap();
    let server = scratch.serve(device);
    let reconnect = {
        let (found, socket) = (found.clone(), socket.clone());
        move || found.reconnect(&socket, "", PATIENCE)
    };
    let again = tokio::task::spawn_blocking(reconnect.clone()).await;
    again.unwrap().unwrap();
    let read = reading.await.unwrap().unwrap();
    let mut expected = std::fs::read(base).unwrap();
    expected[8192..8192 + 4096].fill(7);
    assert!(read == expected);

    // A whole connection is kept.
    let whole = tokio::task::spawn_blocking(reconnect).await;
    whole.unwrap().unwrap();
    let path = found.path();
    let still = tokio::task::spawn_blocking(move || {
        let mut read = [0; 4096];
        let file = std::fs::File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        file.read_exact_at(&mut read, 8192).map(|()| read)
    });
    assert_eq!(still.await.unwrap().unwrap(), [7; 4096]);
    let other = found.clone();
    let detached = tokio::task::spawn_blocking(move || found.detach()).await;
    detached.unwrap().unwrap();
    assert_eq!(LastingDevice::find(&identifier).unwrap(), None);
    let late = tokio::task::spawn_blocking(move || {
        let late = other.reconnect(&socket, "", PATIENCE);
        other.detach().map(|()| late)
    });
    let late = late.await.unwrap().unwrap();
    assert!(matches!(late, Err(KernelError::NotNbd(_))), "{late:?}");
    server.stop().await;
}
