//! What only a disk under control can show.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Admission, ServerConfig, serve};
use crate::device::{Device, DeviceConfig, WritableConfig};
use crate::storage::sim::SimStorage;
use crate::throttle::IoLimits;

const READ: u16 = 0;
const WRITE: u16 = 1;

fn send(stream: &mut UnixStream, kind: u16, cookie: u64, payload: &[u8]) {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&0u16.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&0u64.to_be_bytes());
    bytes.extend_from_slice(&4096u32.to_be_bytes());
    bytes.extend_from_slice(payload);
    stream.write_all(&bytes).unwrap();
}

fn shake_hands(stream: &mut UnixStream) {
    stream
        .write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0")
        .unwrap();
    stream.read_exact(&mut [0; 28]).unwrap();
}

/// The cookie of the next reply, which is a success.
fn receive(stream: &mut UnixStream) -> u64 {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4]);
    let cookie = u64::from_be_bytes(reply[8..].try_into().unwrap());
    if cookie >= 100 {
        stream.read_exact(&mut [0; 4096]).unwrap();
    }
    cookie
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_pass_writes_that_the_disk_holds_up() {
    let storage = SimStorage::new(1);
    let config = DeviceConfig {
        base: None,
        layers: Vec::new(),
        writable: Some(WritableConfig {
            directory: "/layer".into(),
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes: 1 << 20,
    };
    let device = Arc::new(Device::create_on(Arc::new(storage.clone()), &config).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nbd.sock");
    let server = serve(&ServerConfig::new(&socket, "disk"), device).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    shake_hands(&mut stream);
    // One write in line is slow enough to be noticed.
    storage.hold_writes(true);
    send(&mut stream, WRITE, 1, &[1; 4096]);
    storage.await_held_write();
    // Counted from before this instant by who serves it.
    std::thread::sleep(super::connection::SLOW_WRITE * 2);
    storage.hold_writes(false);
    assert_eq!(receive(&mut stream), 1);
    storage.hold_writes(true);
    for cookie in 2..20 {
        send(&mut stream, WRITE, cookie, &[2; 4096]);
    }
    send(&mut stream, READ, 100, &[]);
    assert_eq!(
        receive(&mut stream),
        100,
        "the read is answered while writes wait"
    );
    storage.hold_writes(false);
    let mut answered: Vec<u64> = (2..20).map(|_| receive(&mut stream)).collect();
    answered.sort_unstable();
    assert_eq!(answered, (2..20).collect::<Vec<u64>>());
    server.stop().await;
}

/// Another process of the same user, as a taken-over VM process would be.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_the_disk_is_not_for_gets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let own = std::process::id();
    for (admitted, greeting) in [(own, 18), (own + 1, 0)] {
        let config = DeviceConfig {
            base: None,
            layers: Vec::new(),
            writable: None,
            size_bytes: 1 << 20,
        };
        let device = Device::create_on(Arc::new(SimStorage::new(1)), &config).unwrap();
        let socket = directory.path().join(format!("{admitted}.sock"));
        let config = ServerConfig {
            admission: Admission::by(move |pid| pid == admitted),
            ..ServerConfig::new(&socket, "disk")
        };
        let server = serve(&config, Arc::new(device)).unwrap();
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut got = [0; 18];
        assert_eq!(stream.read(&mut got).unwrap(), greeting);
        server.stop().await;
    }
}

/// A VM process joins its control group while it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_let_in_a_moment_later_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let config = DeviceConfig {
        base: None,
        layers: Vec::new(),
        writable: None,
        size_bytes: 1 << 20,
    };
    let device = Device::create_on(Arc::new(SimStorage::new(1)), &config).unwrap();
    let socket = directory.path().join("late.sock");
    let asked = AtomicU32::new(0);
    let config = ServerConfig {
        admission: Admission::by(move |_| asked.fetch_add(1, Ordering::Relaxed) > 20),
        ..ServerConfig::new(&socket, "disk")
    };
    let server = serve(&config, Arc::new(device)).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    server.stop().await;
}

/// A client that may do little waits between its requests, and nobody waits for it when
/// the server stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_beyond_its_limits_waits_and_one_that_is_cut_off_does_not() {
    let config = DeviceConfig {
        base: None,
        layers: Vec::new(),
        writable: Some(WritableConfig {
            directory: "/layer".into(),
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes: 1 << 20,
    };
    let device = Arc::new(Device::create_on(Arc::new(SimStorage::new(2)), &config).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nbd.sock");
    let limited = ServerConfig {
        // One at once, and the next in an hour and more.
        limits: IoLimits {
            operations_per_second: 0,
            bytes_per_second: 1,
            burst_seconds: 4096,
        },
        ..ServerConfig::new(&socket, "disk")
    };
    let server = serve(&limited, device).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    shake_hands(&mut stream);
    for cookie in [1, 2, 3] {
        send(&mut stream, WRITE, cookie, &[7; 4096]);
    }
    // The first was free, the second is answered and has to be paid for.
    assert_eq!((receive(&mut stream), receive(&mut stream)), (1, 2));
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let waiting = stream.read(&mut [0]).unwrap_err();
    assert_eq!(waiting.kind(), std::io::ErrorKind::WouldBlock);
    tokio::time::timeout(Duration::from_secs(20), server.stop())
        .await
        .expect("a stop does not wait for what is owed");
}
