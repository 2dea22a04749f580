//! What stands for the internet and for a guest: a namespace behind the default
//! route with a web server and a name server, and one behind a slot's TAP, whose
//! frames a thread carries as a VM's network device would.

use super::sh;
use anyhow::Context;
use hearth_network::{Slot, netns, tap};
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// The web server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The server's name; every name is answered with the server's address.
pub const NAME: &str = "echo.test";
pub const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub fn make_outside() -> anyhow::Result<()> {
    sh("ip netns add outside
        ip link add wan0 type veth peer name eth0 netns outside
        ip addr add 198.51.100.1/24 dev wan0
        ip link set wan0 up
        ip -n outside link set lo up
        ip -n outside addr add 198.51.100.2/24 dev eth0
        ip -n outside addr add 203.0.113.10/32 dev lo
        ip -n outside link set eth0 up
        ip route add default via 198.51.100.2")?;
    let (listener, names) = netns::run_in(&netns::path_of("outside"), || {
        let listener = TcpListener::bind((SERVER, 80))?;
        Ok::<_, std::io::Error>((listener, UdpSocket::bind((NAME_SERVER, 53))?))
    })??;
    thread::spawn(move || serve_names(&names));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_requests(stream));
        }
    });
    Ok(())
}

fn answer_requests(mut stream: std::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        request.extend_from_slice(&buffer[..length]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            if stream.write_all(ANSWER.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// Answers questions for IPv4 addresses with the server's, others with nothing.
fn serve_names(socket: &UdpSocket) {
    const TYPE_A: [u8; 2] = [0, 1];
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        // A header of 12 bytes, then one question: labels to an empty one, type, class.
        let question = buffer.get(12..length).unwrap_or_default();
        let Some(end) = question.iter().position(|byte| *byte == 0) else {
            continue;
        };
        let Some(question) = question.get(..end + 5) else {
            continue;
        };
        let is_a = question[end + 1..end + 3] == TYPE_A;
        let mut answer = buffer[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        answer.extend(question);
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(SERVER.octets());
        }
        let _ = socket.send_to(&answer, from);
    }
}

/// A guest on a slot's TAP.
pub struct Guest {
    pub namespace: PathBuf,
    stop: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
}

impl Guest {
    pub fn attach(slot: &Slot) -> anyhow::Result<Self> {
        sh("ip netns add guest && ip -n guest link set lo up")?;
        let namespace = netns::path_of("guest");
        let slot_queue = tap::open_queue(&slot.netns_path, &slot.tap, false)?;
        let guest_queue = tap::open_queue(&namespace, "eth0", false)?;
        let mac = slot.mac.map(|byte| format!("{byte:02x}")).join(":");
        sh(&format!(
            "ip -n guest link set eth0 address {mac} up
             ip -n guest addr add 169.254.0.21/30 dev eth0
             ip -n guest route add default via 169.254.0.22"
        ))
        .context("set the guest's interface up")?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let pump = thread::spawn(move || pump(&slot_queue, &guest_queue, &until));
        Ok(Self {
            namespace,
            stop,
            pump: Some(pump),
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

/// Carries frames both ways; what a full queue does not take is lost, as on a wire.
fn pump(slot: &OwnedFd, guest: &OwnedFd, stop: &AtomicBool) {
    let mut frame = vec![0; 65_536];
    let limit = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [slot, guest].map(|queue| PollFd::new(queue, PollFlags::IN));
        if poll(&mut ready, Some(&limit)).is_err() {
            continue;
        }
        let readable = ready.map(|queue| queue.revents().contains(PollFlags::IN));
        for (readable, from, to) in [(readable[0], slot, guest), (readable[1], guest, slot)] {
            if readable && let Ok(length) = rustix::io::read(from, &mut frame[..]) {
                let _ = rustix::io::write(to, &frame[..length]);
            }
        }
    }
}
