//! What gets through a slot and what does not, with real packets.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::support::*;
use hearth_network::address::GATEWAY_MAC;
use hearth_network::{Policy, SlotPool};

#[test]
fn the_host_reaches_the_guest_and_the_guest_the_internet() {
    isolated(|| async {
        let outside = make_internet();
        serve(Some(&outside), 80);
        let pool = SlotPool::start(config(2, 4), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let guest = Guest::attach(&slot);
        serve_http(&guest.namespace, 8080, "hello from the guest");
        serve(Some(&guest.namespace), 49983);

        let response = http_get(slot.host_address, 8080).unwrap();
        assert!(response.ends_with("hello from the guest"), "{response}");
        // The guest sees its gateway as the caller.
        let (mut stream, caller) = connect(None, slot.host_address, 49983, PATIENCE).unwrap();
        assert_eq!(caller, "169.254.0.22");
        assert!(echoes(&mut stream, "ping"));

        // The internet sees the host.
        let (_, caller) = connect(Some(&guest.namespace), INTERNET, 80, PATIENCE).unwrap();
        assert_eq!(caller, HOST.to_string());
        drop(guest);
        pool.release(slot).await.unwrap();
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn guests_reach_neither_each_other_nor_the_host_nor_private_networks() {
    isolated(|| async {
        let outside = make_internet();
        for port in [53, 80] {
            serve(Some(&outside), port);
        }
        serve_udp(&outside, 53);
        serve_udp(&outside, 5353);
        serve(None, 7000);
        let pool = SlotPool::start(config(2, 4), &[]).await.unwrap();
        let (first, second) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let (a, b) = (Guest::attach(&first), Guest::attach(&second));
        serve(Some(&b.namespace), 8080);
        let from_a = Some(a.namespace.as_path());

        // What must work, so that what follows does not fail for another reason.
        assert!(reaches(None, second.host_address, 8080));
        assert!(reaches(None, HOST, 7000));
        assert!(reaches(None, PRIVATE, 80) && reaches(None, INTERNET, 80));
        assert!(reaches(from_a, INTERNET, 80));

        let plan = *pool.plan();
        assert!(blocked(from_a, second.host_address, 8080), "guest to guest");
        for host in [
            HOST,
            plan.link_host(first.index),
            plan.link_host(second.index),
        ] {
            assert!(blocked(from_a, host, 7000), "guest to host at {host}");
        }
        assert!(
            blocked(from_a, plan.link_slot(second.index), 8080),
            "to another namespace"
        );
        assert!(blocked(from_a, METADATA, 80), "the metadata address");
        assert!(blocked(from_a, PRIVATE, 80), "a private network");
        assert!(
            blocked(Some(&outside), first.host_address, 8080),
            "the outside to a guest"
        );

        // The name server is private too: only its port 53 is open.
        assert!(reaches(from_a, PRIVATE, 53), "DNS over TCP");
        assert!(udp_echoes(&a.namespace, PRIVATE, 53), "DNS over UDP");
        assert!(udp_blocked(&a.namespace, PRIVATE, 5353), "another UDP port");
        assert!(
            udp_echoes(&a.namespace, ROUTER, 5353),
            "UDP to the internet"
        );
        pool.shutdown(&[]).await.unwrap();
    });
}

/// Takes datagrams to port 9999 in the namespace that stands for the internet.
fn receiver(outside: &std::path::Path) -> UdpSocket {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9999)).unwrap();
    let socket = hearth_network::netns::run_in(outside, bind).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn forged_frames_die_at_the_tap() {
    isolated(|| async {
        let outside = make_internet();
        let receiver = receiver(&outside);
        let pool = SlotPool::start(config(2, 4), &[]).await.unwrap();
        let (slot, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let guest = Guest::attach(&slot);

        let guest_address = Ipv4Addr::new(169, 254, 0, 21);
        let wrong_mac = [0x02, 0xfc, 0, 0, 0, 0x99];
        let forged_sources = [
            INTERNET,
            HOST,
            other.host_address,
            Ipv4Addr::new(169, 254, 0, 20),
            Ipv4Addr::new(169, 254, 0, 22),
        ];
        for source in forged_sources {
            guest.send_raw(&udp_frame(slot.mac, source, "forged address"));
        }
        guest.send_raw(&udp_frame(wrong_mac, guest_address, "forged MAC"));
        guest.send_raw(&tagged(&udp_frame(slot.mac, guest_address, "in a VLAN")));
        // One queue, so this is last; whatever else got through would come before.
        guest.send_raw(&udp_frame(slot.mac, guest_address, "honest"));

        let mut buffer = [0; 64];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]), Ok("honest"));
        assert_eq!(from.ip(), HOST);
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn a_forged_arp_answer_changes_no_neighbour() {
    isolated(|| async {
        make_internet();
        let pool = SlotPool::start(config(1, 1), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let guest = Guest::attach(&slot);
        serve(Some(&guest.namespace), 8080);
        let before = sh("ip -n hearth-0 neighbour show");
        assert!(before.contains("169.254.0.21 dev tap0 lladdr 02:fc:00:00:00:05 PERMANENT"));
        for claimed in [[169, 254, 0, 21], [10, 12, 0, 0], [169, 254, 0, 20]] {
            guest.send_raw(&arp_request([0x02, 0xfc, 0, 0, 0, 0x99], claimed));
            guest.send_raw(&arp_request(slot.mac, claimed));
        }
        // An exchange that comes after the forgeries in the same queue.
        assert!(reaches(None, slot.host_address, 8080));
        assert_eq!(sh("ip -n hearth-0 neighbour show"), before);
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn there_is_no_ipv6() {
    isolated(|| async {
        make_internet();
        let pool = SlotPool::start(config(1, 1), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let guest = Guest::attach(&slot);
        assert_eq!(sh("ip -n hearth-0 -6 addr show"), "");
        assert_eq!(sh("ip -6 addr show dev hveth0"), "");
        // The guest makes itself an address and tries the all-nodes group.
        let name = format!("guest{}", slot.index);
        let ping = format!(
            "ip -n {name} -6 addr add fd00::21/64 dev eth0 nodad
             ip -n {name} -6 route add default dev eth0"
        );
        sh(&ping);
        let sent = hearth_network::netns::run_in(&guest.namespace, || {
            let socket = UdpSocket::bind("[fd00::21]:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            socket.send_to(b"x", "[fd00::1]:53").is_ok() && socket.recv_from(&mut [0; 8]).is_ok()
        });
        assert!(!sent.unwrap());
        assert_eq!(sh("ip -n hearth-0 -6 neighbour show"), "");
        pool.shutdown(&[]).await.unwrap();
    });
}

/// What a guest could say to become somebody's router or neighbour.
#[test]
fn routers_and_neighbours_of_ipv6_are_not_heard() {
    isolated(|| async {
        make_internet();
        let pool = SlotPool::start(config(1, 1), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let guest = Guest::attach(&slot);
        serve(Some(&guest.namespace), 8080);
        let state = "ip -n hearth-0 -6 addr; ip -n hearth-0 -6 route; ip -n hearth-0 -6 neighbour
            ip -6 addr show dev hveth0; ip -6 route show dev hveth0
            ip -6 neighbour show dev hveth0";
        assert_eq!(sh(state), "");
        // A router for everybody with a prefix and a name server; a neighbour that
        // claims the gateway's address, asked and unasked; a redirect.
        let prefix = [
            [3, 4, 64, 0xc0].as_slice(),
            &[0xff; 8],
            &[0; 4],
            &[0xfd],
            &[0; 15],
        ]
        .concat();
        let router = [[64, 0, 0xff, 0xff].as_slice(), &[0; 8], &prefix].concat();
        let target = link_local(0x22);
        let claim = [[0xe0, 0, 0, 0].as_slice(), &target, &[2, 1], &slot.mac].concat();
        let question = [[0; 4].as_slice(), &target, &[1, 1], &slot.mac].concat();
        let redirect = [[0; 4].as_slice(), &link_local(0x21), &target].concat();
        for mac in [slot.mac, [0x02, 0xfc, 0, 0, 0, 0x99]] {
            for (kind, body) in [
                (134, &router),
                (136, &claim),
                (135, &question),
                (137, &redirect),
            ] {
                guest.send_raw(&icmp6_frame(mac, kind, body));
            }
        }
        // An exchange that comes after them in the same queue.
        assert!(reaches(None, slot.host_address, 8080));
        assert_eq!(sh(state), "");
        pool.shutdown(&[]).await.unwrap();
    });
}

/// A datagram in pieces is judged as the whole that it is: pieces reach what the
/// whole may reach, and nothing else, also when the first is too short for ports
/// or a later one claims to lie over it.
#[test]
fn fragments_reach_what_their_whole_may() {
    isolated(|| async {
        let outside = make_internet();
        let receiver = receiver(&outside);
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let guest = Guest::attach(&slot);
        let text = "a datagram that goes in pieces, of which each is whole eights";
        let send = |id: u8, target: Ipv4Addr, text: &str| {
            let whole = udp_frame(slot.mac, Ipv4Addr::new(169, 254, 0, 21), text);
            for piece in fragments(&whole, id, target, 8) {
                guest.send_raw(&piece);
            }
        };
        for (id, target) in (1..).zip([PRIVATE, METADATA, HOST, ROUTER_SIDE]) {
            send(id, target, "forbidden, in pieces");
        }
        // The second piece lies over the first, which held the ports.
        let forbidden = udp_frame(slot.mac, Ipv4Addr::new(169, 254, 0, 21), "over each other");
        let mut pieces = fragments(&forbidden, 9, PRIVATE, 16);
        pieces.extend(fragments(&forbidden, 9, PRIVATE, 8));
        for piece in pieces {
            guest.send_raw(&piece);
        }
        send(10, INTERNET, text);
        let mut buffer = [0; 128];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]), Ok(text));
        assert_eq!(from.ip(), HOST);
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn the_internet_can_be_taken_away_and_given_back() {
    isolated(|| async {
        let outside = make_internet();
        serve(Some(&outside), 80);
        serve_udp(&outside, 53);
        let pool = SlotPool::start(config(2, 4), &[]).await.unwrap();
        let (slot, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let (guest, bystander) = (Guest::attach(&slot), Guest::attach(&other));
        serve(Some(&guest.namespace), 8080);
        let from_guest = Some(guest.namespace.as_path());
        let (mut open, _) = connect(from_guest, INTERNET, 80, Duration::from_millis(800)).unwrap();
        let (mut inward, _) = connect(None, slot.host_address, 8080, PATIENCE).unwrap();
        assert!(echoes(&mut open, "before"));

        pool.set_policy(&slot, Policy::offline()).await.unwrap();
        assert!(!echoes(&mut open, "an open connection goes silent"));
        assert!(blocked(from_guest, INTERNET, 80));
        assert!(
            udp_blocked(&guest.namespace, PRIVATE, 53),
            "names cannot carry data out"
        );
        assert!(echoes(&mut inward, "the host still talks to the guest"));
        assert!(reaches(None, slot.host_address, 8080));
        assert!(
            reaches(Some(&bystander.namespace), INTERNET, 80),
            "only this guest is cut off"
        );

        pool.set_policy(&slot, Policy::default()).await.unwrap();
        assert!(reaches(from_guest, INTERNET, 80));
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn an_address_without_a_slot_leads_nowhere() {
    isolated(|| async {
        let outside = make_internet();
        // Would the packet leave by the default route, it would be answered.
        sh("ip -n outside addr add 10.11.0.200/32 dev lo");
        serve(Some(&outside), 80);
        let target = Ipv4Addr::new(10, 11, 0, 200);
        assert!(reaches(None, target, 80));
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        assert!(blocked(None, target, 80));
        pool.shutdown(&[]).await.unwrap();
        assert!(reaches(None, target, 80));
    });
}

/// A UDP datagram to the internet host's port 9999, as an Ethernet frame.
fn udp_frame(mac: [u8; 6], source: Ipv4Addr, text: &str) -> Vec<u8> {
    let length = |extra: usize| u16::try_from(extra + text.len()).unwrap().to_be_bytes();
    let mut ip = vec![0x45, 0];
    ip.extend(length(28));
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    ip.extend(source.octets());
    ip.extend(INTERNET.octets());
    let checksum = checksum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = ethernet(mac, GATEWAY_MAC, [0x08, 0x00]);
    frame.extend(ip);
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(9999_u16.to_be_bytes());
    frame.extend(length(8));
    // A zero checksum means "none" in UDP over IPv4.
    frame.extend([0, 0]);
    frame.extend(text.as_bytes());
    frame
}

/// The host's end of the first slot's link.
const ROUTER_SIDE: Ipv4Addr = Ipv4Addr::new(10, 12, 0, 0);

/// The packet of a frame, sent to `target` in pieces of so many bytes.
fn fragments(frame: &[u8], id: u8, target: Ipv4Addr, size: usize) -> Vec<Vec<u8>> {
    const HEADERS: usize = 14 + 20;
    let pieces: Vec<&[u8]> = frame[HEADERS..].chunks(size).collect();
    let last = pieces.len() - 1;
    pieces
        .iter()
        .enumerate()
        .map(|(number, piece)| {
            let mut ip = frame[14..HEADERS].to_vec();
            let length = u16::try_from(20 + piece.len()).unwrap();
            ip[2..4].copy_from_slice(&length.to_be_bytes());
            ip[5] = id;
            let more = if number < last { 0x2000 } else { 0 };
            let place = u16::try_from(number * size / 8).unwrap() | more;
            ip[6..8].copy_from_slice(&place.to_be_bytes());
            ip[10..12].fill(0);
            ip[16..20].copy_from_slice(&target.octets());
            let checksum = checksum(&ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            [&frame[..14], &ip, piece].concat()
        })
        .collect()
}

fn link_local(last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[1], address[15]) = (0xfe, 0x80, last);
    address
}

/// An ICMPv6 message to all nodes.
fn icmp6_frame(mac: [u8; 6], kind: u8, body: &[u8]) -> Vec<u8> {
    let (source, mut target) = (link_local(0x21), [0; 16]);
    (target[0], target[1], target[15]) = (0xff, 0x02, 1);
    let mut message = vec![kind, 0, 0, 0];
    message.extend(body);
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let mut summed = [source.as_slice(), &target, &[0, 0], &length, &[0, 0, 0, 58]].concat();
    summed.extend(&message);
    if summed.len() % 2 == 1 {
        summed.push(0);
    }
    let sum = checksum(&summed);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(mac, [0x33, 0x33, 0, 0, 0, 1], [0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length);
    // The hop limit of all that is believed of a neighbour.
    frame.extend([58, 255]);
    frame.extend(source);
    frame.extend(target);
    frame.extend(message);
    frame
}

fn arp_request(mac: [u8; 6], sender: [u8; 4]) -> Vec<u8> {
    let mut frame = ethernet(mac, [0xff; 6], [0x08, 0x06]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend([169, 254, 0, 22]);
    frame
}

/// The same frame with an 802.1Q tag.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0x00, 0x07], &frame[12..]].concat()
}

fn ethernet(from: [u8; 6], to: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [to.as_slice(), &from, &kind].concat()
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
