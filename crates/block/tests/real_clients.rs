//! QEMU's and libnbd's own tools against the server.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use common::{MIB, Scratch, qemu_io, succeed, text};
use hearth_block::{Device, DeviceConfig, WritableConfig};

#[tokio::test(flavor = "multi_thread")]
async fn qemu_io_reads_what_it_wrote() {
    let scratch = Scratch::new();
    let base = scratch.base(16 * MIB);
    let device = Arc::new(Device::create(&scratch.config(Some(base), 32 * MIB)).unwrap());
    let server = scratch.serve(device.clone());
    let commands = [
        "read -P 2 4096 4096",
        "write -P 7 0 64k",
        "write -P 9 1234 777",
        "read -P 7 0 1234",
        "read -P 9 1234 777",
        "read -P 7 2011 2000",
        "discard 8k 8k",
        "read -P 0 8k 8k",
        "write -z -u 1M 1M",
        "read -P 0 1M 1M",
        "write -z 2M 100k",
        "read -P 0 2M 100k",
        "write -f -P 3 3000000 3000000",
        "flush",
        "read -P 3 3000000 3000000",
        "write -P 5 31M 1M",
        "read -P 5 31M 1M",
        "aio_write -P 6 20M 128k",
        "aio_write -P 6 21M 128k",
        "aio_flush",
        "read -P 6 20M 128k",
    ];
    if qemu_io(&scratch.uri(), &commands).is_some() {
        assert!(device.stats().flushes > 0);
    }
    server.stop().await;
    assert!(!scratch.path("nbd.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_copied_in_and_out() {
    let scratch = Scratch::new();
    let base = scratch.base(24 * MIB);
    let device = Arc::new(Device::create(&scratch.config(None, 24 * MIB)).unwrap());
    let server = scratch.serve(device.clone());
    let uri = scratch.uri();
    let out = scratch.path("out.img");
    succeed(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", text(&base), &uri],
    );
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", text(&base), &uri],
    );
    assert!(
        device.stats().allocated_bytes <= 13 * MIB,
        "holes stay holes"
    );
    succeed(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &uri, text(&out)],
    );
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "qcow2", &uri, text(&out)],
    );
    let copy = scratch.path("copy.img");
    if succeed("nbdcopy", &[&uri, text(&copy)]).is_some() {
        succeed(
            "qemu-img",
            &[
                "compare",
                "-f",
                "raw",
                "-F",
                "raw",
                text(&base),
                text(&copy),
            ],
        );
        // And back again over four connections, onto other content.
        qemu_io(&uri, &["write -P 77 0 24M"]);
        succeed("nbdcopy", &["--flush", "--allocated", text(&base), &uri]);
        succeed(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", text(&base), &uri],
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_understands_the_export() {
    let scratch = Scratch::new();
    let base = scratch.base(8 * MIB);
    let device = Arc::new(Device::create(&scratch.config(Some(base), 8 * MIB)).unwrap());
    let server = scratch.serve(device);
    let uri = scratch.uri();
    if let Some(info) = succeed("nbdinfo", &["--json", &uri]) {
        for wanted in [
            "\"export-size\": 8388608",
            "\"can_multi_conn\": true",
            "\"can_fua\": true",
            "\"can_trim\": true",
            "\"block_size_preferred\": 4096",
            "\"base:allocation\"",
        ] {
            assert!(info.contains(wanted), "no {wanted} in {info}");
        }
        let list = succeed("nbdinfo", &["--list", &uri]).unwrap();
        assert!(list.contains("export=\"disk\""), "{list}");
        let map = succeed("nbdinfo", &["--map", &uri]).unwrap();
        assert!(map.contains("hole,zero") && map.contains("data"), "{map}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_layer_is_no_space_to_the_client() {
    let scratch = Scratch::new();
    let mut config = scratch.config(None, 16 * MIB);
    config.writable.as_mut().unwrap().limit_bytes = Some(MIB);
    let device = Arc::new(Device::create(&config).unwrap());
    let server = scratch.serve(device);
    let uri = scratch.uri();
    let arguments = ["-f", "raw", &uri, "-c", "write 0 1M", "-c", "write 4M 4k"];
    if let Some(output) = common::run("qemu-io", &arguments) {
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("No space left on device"), "{said}");
        // Room made by a discard is room for others.
        qemu_io(
            &uri,
            &["discard 0 64k", "write -P 4 4M 64k", "read -P 4 4M 64k"],
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_layer_is_read_by_forks() {
    let scratch = Scratch::new();
    let device = Arc::new(Device::create(&scratch.config(None, 16 * MIB)).unwrap());
    let server = scratch.serve(device.clone());
    let uri = scratch.uri();
    if qemu_io(&uri, &["write -P 1 0 1M", "write -P 2 1M 1M"]).is_none() {
        return;
    }
    let sealing = device.seal(&scratch.path("second")).unwrap();
    // Served on while the old layer is made durable.
    qemu_io(&uri, &["write -P 3 512k 1M", "discard 0 4k"]);
    sealing.finish().unwrap();
    qemu_io(
        &uri,
        &[
            "read -P 0 0 4k",
            "read -P 1 4k 508k",
            "read -P 3 512k 1M",
            "read -P 2 1536k 512k",
        ],
    );
    server.stop().await;
    let fork = DeviceConfig {
        base: None,
        layers: vec![scratch.path("layer")],
        writable: Some(WritableConfig {
            directory: scratch.path("fork"),
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes: 16 * MIB,
    };
    let fork = Arc::new(Device::create(&fork).unwrap());
    let server = scratch.serve(fork);
    qemu_io(
        &uri,
        &["read -P 1 0 1M", "read -P 2 1M 1M", "read -P 0 2M 1M"],
    );
    server.stop().await;
}

/// A client with `reconnect-delay` goes on where it was after the serving
/// process was killed, several times, and finds every answered write.
#[test]
fn a_client_survives_kills_of_the_server() {
    let scratch = Scratch::new();
    let base = scratch.base(16 * MIB);
    let mut server = start_process(&scratch, &base);
    let socket = scratch.path("nbd.sock");
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export=disk,reconnect-delay=30",
        socket.display()
    );
    let client = Command::new("qemu-io")
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut client = match client {
        Ok(client) => client,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: qemu-io is not installed");
            end(server);
            return;
        }
        Err(error) => panic!("cannot run qemu-io: {error}"),
    };
    let mut input = client.stdin.take().unwrap();
    let mut answers = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut ask = |command: &str| {
        writeln!(input, "{command}").unwrap();
        // Each command answers with two lines, or one that names an error.
        let first = answers.next().unwrap().unwrap();
        let second = answers.next().unwrap().unwrap();
        assert!(first.contains("bytes at offset"), "{command}: {first}");
        assert!(second.contains("ops"), "{command}: {second}");
    };
    for round in 1..=5 {
        ask(&format!("write -P {round} {round}M 300000"));
        server.kill().unwrap();
        server.wait().unwrap();
        server = start_process(&scratch, &base);
        ask(&format!("read -P {round} {round}M 300000"));
        ask(&format!("write -P {} 0 4k", round + 100));
    }
    for round in 1..=5 {
        ask(&format!("read -P {round} {round}M 300000"));
    }
    ask("read -P 105 0 4k");
    drop(input);
    assert!(client.wait().unwrap().success());
    end(server);
}

/// The example server as a process of its own, listening.
fn start_process(scratch: &Scratch, base: &PathBuf) -> Child {
    let mut program = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    program.push("examples/nbd_serve");
    let mut server = Command::new(&program)
        .arg(scratch.path("nbd.sock"))
        .arg((16 * MIB).to_string())
        .arg(scratch.path("layer"))
        .arg(base)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    server
}

fn end(mut server: Child) {
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}
