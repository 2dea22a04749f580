//! What a policy lets through, with real packets.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use crate::support::*;
use hearth_network::services::{EDGE_ADDRESS, NODE_ADDRESS, SERVICE_ADDRESS, ServicePorts};
use hearth_network::{Adoption, Divert, EVERYWHERE, NetworkConfig, Policy, SlotPool};
use ipnet::Ipv4Net;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

/// A second machine on the internet, in another network than the first.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);

const PORTS: ServicePorts = ServicePorts {
    dns: 20_053,
    events: 20_080,
    proxy: 20_443,
    edge: 20_444,
    volumes: 22_049,
};

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn two_machines() -> std::path::PathBuf {
    let outside = make_internet();
    sh("ip -n outside addr add 203.0.113.200/32 dev lo");
    serve(Some(&outside), 80);
    serve(Some(&outside), 443);
    for address in [INTERNET, ELSEWHERE] {
        serve_udp_at(&outside, address, 5353);
    }
    outside
}

fn with_services(pool_size: u32, max_slots: u32) -> NetworkConfig {
    NetworkConfig {
        services: Some(PORTS),
        ..config(pool_size, max_slots)
    }
}

/// A TCP server on the service address that says who it is.
fn stand_in(port: u16, name: &'static str) {
    let listener = TcpListener::bind((NODE_ADDRESS, port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::Write;
            let _ = stream.unwrap().write_all(format!("{name}\n").as_bytes());
        }
    });
}

/// Whether an echo request is answered.
fn ping(namespace: &Path, target: Ipv4Addr) -> bool {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
        setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    // Type 8, code 0, checksum of that, id and sequence 0.
    const REQUEST: [u8; 8] = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    hearth_network::netns::run_in(namespace, move || {
        let icmp = SockProtocol::Icmp;
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), icmp).unwrap();
        let wait = nix::sys::time::TimeVal::new(1, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &wait).unwrap();
        let [a, b, c, d] = target.octets();
        let to = SockaddrIn::new(a, b, c, d, 0);
        sendto(socket.as_raw_fd(), &REQUEST, &to, MsgFlags::empty()).unwrap();
        let mut buffer = [0; 256];
        // The answer's IP header has no options: the type is its 21st byte.
        matches!(recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()), Ok(28..) if buffer[20] == 0)
    })
    .unwrap()
}

#[test]
fn an_allowed_address_wins_over_a_denied_network() {
    isolated(|| async {
        two_machines();
        let pool = SlotPool::start(config(2, 4), &[]).await.unwrap();
        let (slot, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let (guest, bystander) = (Guest::attach(&slot), Guest::attach(&other));
        let from = Some(guest.namespace.as_path());
        for deny in [vec![EVERYWHERE], vec![net("203.0.113.0/24")]] {
            let policy = Policy {
                allow: vec![net("203.0.113.10/32")],
                deny,
                ..Policy::default()
            };
            pool.set_policy(&slot, policy).await.unwrap();
            assert!(reaches(from, INTERNET, 80));
            assert!(udp_echoes(&guest.namespace, INTERNET, 5353), "UDP");
            assert!(blocked(from, ELSEWHERE, 80));
            assert!(udp_blocked(&guest.namespace, ELSEWHERE, 5353), "UDP");
            assert!(ping(&guest.namespace, INTERNET), "ICMP");
            assert!(!ping(&guest.namespace, ELSEWHERE), "ICMP");
            assert!(reaches(Some(&bystander.namespace), ELSEWHERE, 80));
        }

        // What is always denied cannot be allowed.
        let policy = Policy {
            allow: vec![EVERYWHERE, net("192.168.0.0/16"), net("169.254.169.254/32")],
            deny: vec![EVERYWHERE],
            ..Policy::default()
        };
        pool.set_policy(&slot, policy).await.unwrap();
        assert!(reaches(from, ELSEWHERE, 80));
        assert!(reaches(None, PRIVATE, 80) && blocked(from, PRIVATE, 80));
        assert!(blocked(from, METADATA, 80) && blocked(from, HOST, 80));
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn a_changed_policy_ends_only_what_it_denies() {
    isolated(|| async {
        two_machines();
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let guest = Guest::attach(&slot);
        let from = Some(guest.namespace.as_path());
        let wait = std::time::Duration::from_millis(800);
        let (mut stays, _) = connect(from, INTERNET, 80, wait).unwrap();
        let (mut ends, _) = connect(from, ELSEWHERE, 80, wait).unwrap();
        assert!(echoes(&mut stays, "before") && echoes(&mut ends, "before"));
        let policy = Policy {
            deny: vec![net("203.0.113.200/32")],
            ..Policy::default()
        };
        pool.set_policy(&slot, policy.clone()).await.unwrap();
        assert!(echoes(&mut stays, "after") && !echoes(&mut ends, "after"));

        // It is in force again from the first moment of a new pool.
        drop(guest);
        let adoption = Adoption {
            index: slot.index,
            policy,
        };
        drop(pool);
        let pool = restart(config(0, 2), &[adoption]).await;
        let slot = pool.adopted(slot.index).unwrap();
        let guest = Guest::attach(&slot);
        assert!(reaches(Some(&guest.namespace), INTERNET, 80));
        assert!(blocked(Some(&guest.namespace), ELSEWHERE, 80));

        // And the next holder of the slot has none of it.
        drop(guest);
        pool.release(slot).await.unwrap();
        let slot = loop {
            match pool.acquire().await {
                Ok(slot) => break slot,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let guest = Guest::attach(&slot);
        assert!(reaches(Some(&guest.namespace), ELSEWHERE, 80));
        pool.shutdown(&[]).await.unwrap();
        assert!(!sh("nft list tables").contains("hearth"));
    });
}

#[test]
fn services_are_reached_by_guests_alone_and_diversions_by_those_who_have_them() {
    isolated(|| async {
        let outside = two_machines();
        let pool = SlotPool::start(with_services(2, 4), &[]).await.unwrap();
        stand_in(PORTS.events, "events");
        stand_in(PORTS.proxy, "proxy");
        stand_in(PORTS.edge, "edge");
        stand_in(PORTS.dns, "dns");
        let socket = UdpSocket::bind((NODE_ADDRESS, PORTS.dns)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((read, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..read], from);
            }
        });
        let (slot, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let (guest, bystander) = (Guest::attach(&slot), Guest::attach(&other));
        let from = Some(guest.namespace.as_path());
        let who = |port: u16, address: Ipv4Addr| connect(from, address, port, PATIENCE).unwrap().1;

        // Reachable whatever the policy; nothing else of the host is.
        for policy in [Policy::default(), Policy::offline()] {
            pool.set_policy(&slot, policy).await.unwrap();
            assert_eq!(who(80, SERVICE_ADDRESS), "events");
            assert_eq!(who(53, SERVICE_ADDRESS), "dns");
            assert_eq!(who(3000, EDGE_ADDRESS), "edge");
            assert!(udp_echoes(&guest.namespace, SERVICE_ADDRESS, 53));
            for port in [PORTS.proxy, PORTS.events, 22] {
                assert!(blocked(from, SERVICE_ADDRESS, port), "{port}");
            }
        }
        sh("ip -n outside route add 169.254.72.1 via 198.51.100.1");
        assert!(blocked(Some(&outside), NODE_ADDRESS, PORTS.proxy));

        // Names are decided by the proxy; what addresses decide stays in the kernel.
        let names = Policy {
            allow: vec![net("203.0.113.10/32")],
            deny: vec![EVERYWHERE],
            divert: Divert::Undecided,
            divert_dns: true,
        };
        pool.set_policy(&slot, names).await.unwrap();
        assert_eq!(who(443, INTERNET), HOST.to_string());
        assert_eq!(who(443, ELSEWHERE), "proxy");
        assert_eq!(who(53, ELSEWHERE), "dns");
        assert!(
            udp_echoes(&guest.namespace, ELSEWHERE, 53),
            "by the forwarder"
        );
        assert!(udp_blocked(&guest.namespace, ELSEWHERE, 5353));
        assert!(blocked(from, HOST, 80) && blocked(from, PRIVATE, 80));
        let (_, direct) = connect(Some(&bystander.namespace), ELSEWHERE, 443, PATIENCE).unwrap();
        assert_eq!(direct, HOST.to_string());

        let ports = Policy {
            divert: Divert::Ports(vec![443]),
            ..Policy::default()
        };
        pool.set_policy(&slot, ports).await.unwrap();
        assert_eq!(who(443, INTERNET), "proxy");
        assert_eq!(who(80, INTERNET), HOST.to_string());
        pool.set_policy(&slot, Policy::default()).await.unwrap();
        assert_eq!(who(443, INTERNET), HOST.to_string());
        pool.shutdown(&[]).await.unwrap();
        assert!(!sh("ip addr show dev lo").contains("169.254.72."));
    });
}

#[test]
fn a_host_among_the_services_addresses_stays_connected() {
    isolated(|| async {
        let outside = two_machines();
        // The host is 192.0.2.2 and its gateway 192.0.2.1.
        sh("ip addr add 192.0.2.2/24 dev wan0
            ip -n outside addr add 192.0.2.1/24 dev eth0
            ip route replace default via 192.0.2.1
            ip neigh flush dev wan0");
        serve(None, 7000);
        let pool = SlotPool::start(with_services(1, 2), &[]).await.unwrap();
        stand_in(PORTS.events, "events");
        let slot = pool.acquire().await.unwrap();
        let guest = Guest::attach(&slot);
        let from = Some(guest.namespace.as_path());
        assert!(reaches(from, INTERNET, 80));
        let (_, who) = connect(from, SERVICE_ADDRESS, 80, PATIENCE).unwrap();
        assert_eq!(who, "events", "the guest's, not the gateway");
        assert!(blocked(from, EDGE_ADDRESS, 7000), "not the host either");
        assert!(reaches(None, INTERNET, 80) && reaches(None, SERVICE_ADDRESS, 80));
        assert!(reaches(Some(&outside), EDGE_ADDRESS, 7000), "to the host");
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn the_nodes_own_marked_traffic_keeps_to_the_outside() {
    isolated(|| async {
        two_machines();
        serve(None, 7000);
        let pool = SlotPool::start(with_services(0, 1), &[]).await.unwrap();
        let dial = |address: Ipv4Addr, port: u16| {
            use nix::sys::socket::{
                AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
            };
            use std::os::fd::AsRawFd;
            let socket = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::empty(),
                None,
            )
            .unwrap();
            let mark = hearth_network::services::ON_BEHALF_MARK;
            setsockopt(&socket, sockopt::Mark, &mark).unwrap();
            let [a, b, c, d] = address.octets();
            connect(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port)).is_ok()
        };
        assert!(dial(INTERNET, 80));
        assert!(reaches(None, PRIVATE, 80) && reaches(None, HOST, 7000));
        for (address, port) in [
            (PRIVATE, 80),
            (HOST, 7000),
            (Ipv4Addr::LOCALHOST, 7000),
            (METADATA, 80),
        ] {
            assert!(!dial(address, port), "{}", IpAddr::V4(address));
        }
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn a_guest_has_a_bounded_number_of_connections() {
    isolated(|| async {
        two_machines();
        let config = NetworkConfig {
            connections_max: Some(10),
            ..config(2, 4)
        };
        let pool = SlotPool::start(config, &[]).await.unwrap();
        let (slot, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let (guest, bystander) = (Guest::attach(&slot), Guest::attach(&other));
        let from = Some(guest.namespace.as_path());
        let open: Vec<_> = (0..10)
            .map(|_| connect(from, INTERNET, 80, PATIENCE).unwrap())
            .collect();
        assert!(blocked(from, INTERNET, 80));
        assert!(reaches(Some(&bystander.namespace), INTERNET, 80));
        drop(open);
        pool.shutdown(&[]).await.unwrap();
    });
}

fn open_at(namespace: &Path, port: u16) -> UdpSocket {
    let bind = move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    hearth_network::netns::run_in(namespace, bind).unwrap()
}

/// Sends a megabyte and a half at once; the bytes that `to` gets of it.
fn flood(from: &UdpSocket, target: std::net::SocketAddr, to: &UdpSocket) -> usize {
    to.set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    // Room for all of it: a receiver that gets no processor for a while loses nothing that
    // the limit let through.
    setsockopt(to, RcvBufForce, &(8 << 20)).unwrap();
    std::thread::scope(|scope| {
        let counted = scope.spawn(|| {
            let (mut buffer, mut seen) = ([0; 2048], 0);
            while let Ok(length) = to.recv(&mut buffer) {
                seen += length;
            }
            seen
        });
        for _ in 0..1500 {
            // A full queue drops as the limit would.
            let _ = from.send_to(&[7; 1000], target);
        }
        counted.join().unwrap()
    })
}

#[test]
fn a_guest_has_a_bounded_bandwidth_in_each_direction() {
    /// The least burst, and 8 kB/s, in whose place 20 stand for headers.
    const BURST: usize = 256 * 1024;
    const RATE: usize = 20_000;
    isolated(|| async {
        let outside = two_machines();
        let config = NetworkConfig {
            bandwidth_max: Some(64_000),
            ..config(2, 4)
        };
        let pool = SlotPool::start(config, &[]).await.unwrap();
        let (slot, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let (guest, bystander) = (Guest::attach(&slot), Guest::attach(&other));
        let open = |namespace: &Path, address: Ipv4Addr| {
            let bind = move || UdpSocket::bind((address, 6000)).unwrap();
            hearth_network::netns::run_in(namespace, bind).unwrap()
        };
        let inside = open(&guest.namespace, Ipv4Addr::UNSPECIFIED);
        let server = open(&outside, INTERNET);
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        inside.send_to(b"hello", (INTERNET, 6000)).unwrap();
        let (_, guest_address) = server.recv_from(&mut [0; 16]).unwrap();

        let begun = std::time::Instant::now();
        let sent = flood(&inside, (INTERNET, 6000).into(), &server);
        let allowed = |seconds: u64| BURST + RATE * usize::try_from(seconds + 1).unwrap();
        assert!(
            sent > 0 && sent <= allowed(begun.elapsed().as_secs()),
            "{sent}"
        );
        let received = flood(&server, guest_address, &inside);
        assert!(
            received > 0 && received <= allowed(begun.elapsed().as_secs()),
            "{received}"
        );
        // The other guest has its own, of the same size, while the first asks for more
        // than it may have.
        assert!(udp_echoes(&bystander.namespace, INTERNET, 5353));
        let inside = open(&bystander.namespace, Ipv4Addr::UNSPECIFIED);
        let begun = std::time::Instant::now();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let others = std::thread::scope(|scope| {
            let stop = &stop;
            let greedy = open_at(&guest.namespace, 6001);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = greedy.send_to(&[7; 1000], (INTERNET, 5999));
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            });
            let others = flood(&inside, (INTERNET, 6000).into(), &server);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            others
        });
        let most = allowed(begun.elapsed().as_secs());
        assert!(others > BURST / 2 && others <= most, "{others}");
        pool.shutdown(&[]).await.unwrap();
    });
}
