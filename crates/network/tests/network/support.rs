//! A host of our own for each test: a process in fresh network and mount
//! namespaces, whose "internet" is one more namespace with TEST-NET addresses.
//! Nothing that a test sends can leave it, and tests do not see each other.
//!
//! Needs root, `unshare` (util-linux), `ip` (iproute2) and `nft`; without them the
//! tests fail, they are not skipped.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hearth_network::{Adoption, Error, NetworkConfig, Slot, SlotPool, netns, tap};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const INNER: &str = "HEARTH_TEST_ISOLATED";
const RAN: &str = "isolated test body ran";

/// The internet host's address.
pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The next hop towards it, with an address that is not private.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The host's own address towards the internet.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A machine in a private network next door; also the name server.
pub(crate) const PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 53);
/// Where clouds serve instance credentials.
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// How long a connection that must not come about is tried.
const REFUSAL: Duration = Duration::from_millis(600);
/// How long anything that must happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `body`, of which the caller is the test, in a process of its own with fresh
/// namespaces.
pub(crate) fn isolated<F: Future<Output = ()>>(body: impl FnOnce() -> F) {
    let path = std::any::type_name_of_val(&body);
    let test = path
        .split_once("::")
        .unwrap()
        .1
        .trim_end_matches("::{{closure}}")
        .to_owned();
    if std::env::var(INNER).as_ref() == Ok(&test) {
        // A new namespace takes the host's own setting over.
        sh("mount -t tmpfs none /run && ip link set lo up
            echo 0 > /proc/sys/net/ipv4/ip_forward");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
        println!("{RAN}");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(program)
        .args([&test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INNER, &test)
        .output()
        .expect("unshare (util-linux) runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains(RAN),
        "{test} (needs root):\n{text}"
    );
}

/// Runs a shell script that must succeed; returns what it printed.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{text}{complaint}");
    text
}

/// A configuration for tests; the state directory is the test's own.
pub(crate) fn config(pool_size: u32, max_slots: u32) -> NetworkConfig {
    NetworkConfig {
        state_dir: PathBuf::from("/run/hearth-state"),
        pool_size,
        max_slots,
        idle_limit: pool_size,
        nameservers: Some(vec![PRIVATE.into()]),
        ..NetworkConfig::default()
    }
}

/// Starts a pool as soon as the one before has let go.
pub(crate) async fn restart(config: NetworkConfig, adopt: &[Adoption]) -> SlotPool {
    let start = async {
        loop {
            match SlotPool::start(config.clone(), adopt).await {
                Err(Error::InUse) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => return other.unwrap(),
            }
        }
    };
    tokio::time::timeout(PATIENCE, start).await.unwrap()
}

/// Makes the internet: a namespace behind this host's default route, which has no
/// route back to sandboxes, so that only masqueraded packets get answers.
pub(crate) fn make_internet() -> PathBuf {
    sh("ip netns add outside
        ip link add wan0 type veth peer name eth0 netns outside
        ip addr add 198.51.100.1/24 dev wan0
        ip addr add 192.168.77.1/24 dev wan0
        ip link set wan0 up
        ip -n outside link set lo up
        ip -n outside addr add 198.51.100.2/24 dev eth0
        ip -n outside addr add 192.168.77.53/24 dev eth0
        ip -n outside addr add 203.0.113.10/32 dev lo
        ip -n outside addr add 169.254.169.254/32 dev lo
        ip -n outside link set eth0 up
        ip route add default via 198.51.100.2");
    netns::path_of("outside")
}

/// A server in a namespace (or here) that answers every connection with the
/// address it saw, and then echoes until the client closes.
pub(crate) fn serve(namespace: Option<&Path>, port: u16) {
    let bind = move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let listener = match namespace {
        Some(path) => netns::run_in(path, bind).unwrap(),
        None => bind(),
    };
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{peer}\n").as_bytes());
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A UDP server that answers each datagram with itself.
pub(crate) fn serve_udp(namespace: &Path, port: u16) {
    serve_udp_at(namespace, Ipv4Addr::UNSPECIFIED, port);
}

/// The same at one address, which its answers come from.
pub(crate) fn serve_udp_at(namespace: &Path, address: Ipv4Addr, port: u16) {
    let socket =
        netns::run_in(namespace, move || UdpSocket::bind((address, port)).unwrap()).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((read, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..read], from);
        }
    });
}

/// A plain HTTP server that answers every request with `body`.
pub(crate) fn serve_http(namespace: &Path, port: u16, body: &'static str) {
    let listener = netns::run_in(namespace, move || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    })
    .unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                request.extend(byte);
            }
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
}

/// `GET /` from here; the whole response.
pub(crate) fn http_get(address: Ipv4Addr, port: u16) -> std::io::Result<String> {
    let target = SocketAddr::V4(SocketAddrV4::new(address, port));
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// Connects from a namespace (or here); the stream and the greeting of [`serve`].
pub(crate) fn connect(
    namespace: Option<&Path>,
    address: Ipv4Addr,
    port: u16,
    timeout: Duration,
) -> std::io::Result<(TcpStream, String)> {
    let target = SocketAddr::V4(SocketAddrV4::new(address, port));
    let dial = move || TcpStream::connect_timeout(&target, timeout);
    let mut stream = match namespace {
        Some(path) => netns::run_in(path, dial).unwrap(),
        None => dial(),
    }?;
    stream.set_read_timeout(Some(timeout))?;
    let mut greeting = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        greeting.extend(byte);
    }
    Ok((
        stream,
        String::from_utf8(greeting).unwrap().trim().to_owned(),
    ))
}

/// Whether the server answers a connection that must come about.
pub(crate) fn reaches(namespace: Option<&Path>, address: Ipv4Addr, port: u16) -> bool {
    connect(namespace, address, port, PATIENCE).is_ok()
}

/// Whether a connection that must not come about does not within [`REFUSAL`]. Each
/// test also shows that the same server answers where it may.
pub(crate) fn blocked(namespace: Option<&Path>, address: Ipv4Addr, port: u16) -> bool {
    connect(namespace, address, port, REFUSAL).is_err()
}

/// Sends `text` and expects it back.
pub(crate) fn echoes(stream: &mut TcpStream, text: &str) -> bool {
    let mut back = vec![0; text.len()];
    stream.write_all(text.as_bytes()).is_ok()
        && stream.read_exact(&mut back).is_ok()
        && back == text.as_bytes()
}

/// Whether a datagram that must be answered is.
pub(crate) fn udp_echoes(namespace: &Path, address: Ipv4Addr, port: u16) -> bool {
    udp_answer(namespace, address, port, PATIENCE)
}

/// Whether a datagram that must not be answered is not within [`REFUSAL`].
pub(crate) fn udp_blocked(namespace: &Path, address: Ipv4Addr, port: u16) -> bool {
    !udp_answer(namespace, address, port, REFUSAL)
}

fn udp_answer(namespace: &Path, address: Ipv4Addr, port: u16, timeout: Duration) -> bool {
    netns::run_in(namespace, move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(timeout)).unwrap();
        let mut buffer = [0; 16];
        socket.send_to(b"query", (address, port)).is_ok()
            && socket
                .recv_from(&mut buffer)
                .is_ok_and(|(read, _)| &buffer[..read] == b"query")
    })
    .unwrap()
}

/// A stand-in for a VM: a namespace with the guest's interface, whose frames a
/// pump carries to and from the slot's TAP, as a VM's network device would.
pub(crate) struct Guest {
    pub(crate) namespace: PathBuf,
    name: String,
    slot_queue: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
}

impl Guest {
    pub(crate) fn attach(slot: &Slot) -> Self {
        let name = format!("guest{}", slot.index);
        sh(&format!(
            "ip netns add {name} && ip -n {name} link set lo up"
        ));
        let namespace = netns::path_of(&name);
        let slot_queue = tap::open_queue(&slot.netns_path, &slot.tap, false).unwrap();
        let guest_queue = tap::open_queue(&namespace, "eth0", false).unwrap();
        let mac = slot.mac.map(|byte| format!("{byte:02x}")).join(":");
        sh(&format!(
            "ip -n {name} link set eth0 address {mac} up
             ip -n {name} addr add 169.254.0.21/30 dev eth0
             ip -n {name} route add default via 169.254.0.22"
        ));
        let slot_queue = Arc::new(slot_queue);
        let stop = Arc::new(AtomicBool::new(false));
        let pump = thread::spawn({
            let (slot_queue, stop) = (Arc::clone(&slot_queue), Arc::clone(&stop));
            move || pump(&slot_queue, &guest_queue, &stop)
        });
        Self {
            namespace,
            name,
            slot_queue,
            stop,
            pump: Some(pump),
        }
    }

    /// Sends a frame that the guest's own network stack would not.
    pub(crate) fn send_raw(&self, frame: &[u8]) {
        assert_eq!(
            nix::unistd::write(self.slot_queue.as_fd(), frame),
            Ok(frame.len())
        );
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn pump(slot: &OwnedFd, guest: &OwnedFd, stop: &AtomicBool) {
    let mut frame = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [slot, guest].map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN));
        poll(&mut ready, PollTimeout::from(20_u8)).unwrap();
        let readable = ready.map(|queue| queue.any() == Some(true));
        for (readable, from, to) in [(readable[0], slot, guest), (readable[1], guest, slot)] {
            if readable && let Ok(length) = nix::unistd::read(from.as_fd(), &mut frame) {
                let _ = nix::unistd::write(to.as_fd(), &frame[..length]);
            }
        }
    }
}
