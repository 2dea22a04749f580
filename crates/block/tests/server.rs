//! The server against clients that err, on purpose or not.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Client, MIB, Scratch};
use hearth_block::Device;
use hearth_block::server::{MAX_CONNECTIONS, ServerConfig, serve};

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FUA: u16 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

fn device(scratch: &Scratch) -> Arc<Device> {
    Arc::new(Device::create(&scratch.config(None, 64 * MIB)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_checked_and_the_connection_goes_on() {
    let scratch = Scratch::new();
    let server = scratch.serve(device(&scratch));
    let mut client = Client::attach(scratch.connect());
    let size = 64 * MIB;
    let cases: [(u16, u16, u64, u32, u32); 9] = [
        (0, READ, size, 1, EINVAL),
        (0, READ, u64::MAX, 8, EINVAL),
        (0, READ, 0, (32 << 20) + 1, EOVERFLOW),
        (0, WRITE_ZEROES, size - 1, 2, ENOSPC),
        (0, 77, 0, 0, EINVAL),
        (1 << 9, FLUSH, 0, 0, EINVAL),
        (0, 7, 0, 4096, EINVAL),
        (FUA, TRIM, 0, 4096, 0),
        (0, READ, 5, 0, 0),
    ];
    for (cookie, (flags, kind, offset, length, error)) in (9..).zip(cases) {
        client.request(flags, kind, cookie, offset, length);
        assert_eq!(client.reply(), (cookie, error), "{kind} {offset} {length}");
    }
    // The payload of a refused write is not taken for requests.
    client.request(0, WRITE, 1, size - 1, 300_000);
    client.0.write_all(&vec![0x25; 300_000]).unwrap();
    assert_eq!(client.reply(), (1, ENOSPC));
    client.request(FUA, WRITE, 2, 100, 9);
    client.0.write_all(b"in a word").unwrap();
    assert_eq!(client.reply(), (2, 0));
    client.request(0, READ, 3, 99, 11);
    assert_eq!(client.reply(), (3, 0));
    assert_eq!(client.data(11), b"\0in a word\0");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_are_all_answered() {
    let scratch = Scratch::new();
    let server = scratch.serve(device(&scratch));
    let client = Client::attach(scratch.connect());
    let mut writer = client.0.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for cookie in 0..2000u64 {
            let offset = cookie % 1000 * 8192 + 3;
            let kind = [WRITE, FLUSH, READ, TRIM][cookie as usize % 4];
            let length = if kind == FLUSH { 0 } else { 5000 };
            writer
                .write_all(&common::request(0, kind, cookie, offset, length))
                .unwrap();
            if kind == WRITE {
                writer.write_all(&[cookie as u8; 5000]).unwrap();
            }
        }
    });
    let mut client = client;
    let mut answered = std::collections::HashSet::new();
    for _ in 0..2000 {
        let (cookie, error) = client.reply();
        assert_eq!(error, 0);
        if cookie % 4 == 2 {
            client.data(5000);
        }
        assert!(answered.insert(cookie), "{cookie} is answered once");
    }
    sending.join().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_only_its_own_connection() {
    let scratch = Scratch::new();
    let server = scratch.serve(device(&scratch));
    let mut good = Client::attach(scratch.connect());
    let attached = |garbage: &[u8]| {
        let mut client = Client::attach(scratch.connect());
        client.0.write_all(garbage).unwrap();
        client.0
    };
    let raw = |garbage: &[u8]| {
        let mut stream = scratch.connect();
        stream.write_all(garbage).unwrap();
        stream
    };
    let mut too_long = b"\0\0\0\x03IHAVEOPT\0\0\0\x07".to_vec();
    too_long.extend_from_slice(&u32::MAX.to_be_bytes());
    let streams = [
        raw(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"),
        raw(&[0; 4]),
        raw(&[0xff; 4096]),
        raw(&too_long),
        raw(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x05other"),
        attached(&[0x5a; 28]),
        attached(&common::request(0, WRITE, 1, 0, u32::MAX)),
    ];
    for mut stream in streams {
        let mut rest = Vec::new();
        // The server closes: either an orderly end or a reset.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    // One that leaves in the middle of a payload.
    let mut quitter = Client::attach(scratch.connect());
    quitter.request(0, WRITE, 1, 0, 1 << 20);
    quitter.0.write_all(&[1; 70_000]).unwrap();
    drop(quitter);
    good.request(0, READ, 5, 2 * MIB, 4096);
    assert_eq!(good.reply(), (5, 0));
    assert_eq!(good.data(4096), [0; 4096]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.connections() > 1 {
        assert!(
            Instant::now() < deadline,
            "connections of clients that left stay"
        );
        tokio::task::yield_now().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_turned_away() {
    let scratch = Scratch::new();
    let server = scratch.serve(device(&scratch));
    let mut clients: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| Client::attach(scratch.connect()))
        .collect();
    let mut surplus = scratch.connect();
    assert_eq!(surplus.read_to_end(&mut Vec::new()).unwrap(), 0);
    clients[0].request(0, FLUSH, 1, 0, 0);
    assert_eq!(clients[0].reply(), (1, 0));
    // Stopping cuts them all and does not wait for them to leave.
    tokio::time::timeout(Duration::from_secs(20), server.stop())
        .await
        .unwrap();
    assert_eq!(clients[0].0.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_has_the_wanted_mode_and_owner() {
    let scratch = Scratch::new();
    let mut config = ServerConfig::new(scratch.path("nbd.sock"), "disk");
    config.mode = 0o620;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        config.owner = Some((12_345, 23_456));
    }
    // What a killed server leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(scratch.path("nbd.sock")).unwrap());
    let server = serve(&config, device(&scratch)).unwrap();
    let metadata = std::fs::metadata(scratch.path("nbd.sock")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o620);
    if is_root {
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 23_456));
    }
    server.stop().await;
}
