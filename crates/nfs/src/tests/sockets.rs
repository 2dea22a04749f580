//! Connections: who is served, and how much of it.

use super::client::{NULL, ROOM, Room, Volume, call, results};
use crate::{Error, Export, HandleKey, Limits, ServerConfig, VolumeServer, mountd, procedures};
use nfs3_types::mount::{dirpath, mountres3};
use nfs3_types::rpc::auth_unix;
use nfs3_types::xdr_codec::{Opaque, Void};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Addresses that stand for guests.
const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 21);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 22);
const LIMIT: Duration = Duration::from_secs(20);

struct Node {
    server: Arc<VolumeServer>,
    address: SocketAddr,
}

impl Node {
    async fn start(limits: Limits) -> Self {
        let server = VolumeServer::new(ServerConfig {
            key: HandleKey::random().unwrap(),
            space: Arc::new(Room::of(ROOM, u64::MAX)),
            limits,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        server.start(listener);
        Self { server, address }
    }

    async fn connect(&self, guest: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((guest, 0))).unwrap();
        socket.connect(self.address).await.unwrap()
    }
}

fn export(volume: &Volume, name: &str) -> Export {
    Export {
        volume: volume.id,
        name: name.to_owned(),
        tree: volume.path(),
    }
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    let head = (1 << 31) | u32::try_from(message.len()).unwrap();
    stream.write_all(&head.to_be_bytes()).await.unwrap();
    stream.write_all(message).await.unwrap();
}

/// `None` when the server has ended the connection.
async fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let receiving = async {
        let head = stream.read_u32().await.ok()?;
        let mut message = vec![0; (head & !(1 << 31)) as usize];
        stream.read_exact(&mut message).await.ok()?;
        Some(message)
    };
    tokio::time::timeout(LIMIT, receiving).await.unwrap()
}

fn null(xid: u32) -> Vec<u8> {
    let user = auth_unix::default();
    call(xid, (procedures::PROGRAM, 3, NULL), &user, &Void)
}

async fn mounts(node: &Node, guest: Ipv4Addr, path: &str) -> bool {
    let mut stream = node.connect(guest).await;
    let path = dirpath(Opaque::borrowed(path.as_bytes()));
    let message = call(1, (mountd::PROGRAM, 3, 1), &auth_unix::default(), &path);
    send(&mut stream, &message).await;
    match receive(&mut stream).await {
        Some(answer) => matches!(results::<mountres3<'_>>(&answer), mountres3::Ok(_)),
        None => false,
    }
}

#[tokio::test]
async fn a_sandbox_is_served_its_own_volumes_and_nobody_else_is() {
    let node = Node::start(Limits::default()).await;
    let (mine, theirs) = (Volume::new(), Volume::new());
    node.server.enter(ONE, &[export(&mine, "mine")]).unwrap();
    node.server
        .enter(OTHER, &[export(&theirs, "theirs")])
        .unwrap();
    assert!(mounts(&node, ONE, "/mine").await);
    assert!(!mounts(&node, ONE, "/theirs").await);
    assert!(!mounts(&node, ONE, &format!("/{}", theirs.id)).await);
    assert!(mounts(&node, OTHER, "/theirs").await);
    let mut stranger = node.connect(Ipv4Addr::LOCALHOST).await;
    send(&mut stranger, &null(1)).await;
    assert_eq!(receive(&mut stranger).await, None);
    node.server.stop(LIMIT).await;
}

#[tokio::test]
async fn connections_end_with_the_sandbox_and_begin_anew_with_the_next() {
    let node = Node::start(Limits::default()).await;
    let volume = Volume::new();
    node.server.enter(ONE, &[export(&volume, "data")]).unwrap();
    let mut stream = node.connect(ONE).await;
    send(&mut stream, &null(1)).await;
    assert!(receive(&mut stream).await.is_some());
    node.server.leave(ONE);
    assert_eq!(receive(&mut stream).await, None);
    assert!(!mounts(&node, ONE, "/data").await);
    node.server.enter(ONE, &[export(&volume, "again")]).unwrap();
    assert!(mounts(&node, ONE, "/again").await);
    node.server.stop(LIMIT).await;
}

#[tokio::test]
async fn many_requests_of_one_connection_are_all_answered() {
    let limits = Limits {
        requests_per_sandbox: 2,
        threads: 1,
    };
    let node = Node::start(limits).await;
    let volume = Volume::new();
    node.server.enter(ONE, &[export(&volume, "data")]).unwrap();
    let (mut read, mut write) = node.connect(ONE).await.into_split();
    let sending = tokio::spawn(async move {
        for xid in 0..500 {
            let message = null(xid);
            let head = (1 << 31) | u32::try_from(message.len()).unwrap();
            write.write_all(&head.to_be_bytes()).await.unwrap();
            write.write_all(&message).await.unwrap();
        }
        write
    });
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < 500 {
        let head = tokio::time::timeout(LIMIT, read.read_u32())
            .await
            .unwrap()
            .unwrap();
        let mut message = vec![0; (head & !(1 << 31)) as usize];
        read.read_exact(&mut message).await.unwrap();
        answered.insert(u32::from_be_bytes(message[..4].try_into().unwrap()));
    }
    drop(sending.await.unwrap());
    node.server.stop(LIMIT).await;
}

#[tokio::test]
async fn a_guest_that_holds_its_share_costs_others_nothing() {
    let limits = Limits {
        requests_per_sandbox: 1,
        threads: 1,
    };
    let node = Node::start(limits).await;
    let volume = Volume::new();
    for guest in [ONE, OTHER] {
        node.server
            .enter(guest, &[export(&volume, "data")])
            .unwrap();
    }
    // A message that never ends, and connections that say nothing.
    let mut slow = node.connect(ONE).await;
    slow.write_all(&((1_u32 << 31) | 1000).to_be_bytes())
        .await
        .unwrap();
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(node.connect(ONE).await);
    }
    assert!(mounts(&node, OTHER, "/data").await);
    drop((slow, idle));
    node.server.stop(LIMIT).await;
}

#[tokio::test]
async fn too_long_a_message_ends_the_connection() {
    let node = Node::start(Limits::default()).await;
    let volume = Volume::new();
    node.server.enter(ONE, &[export(&volume, "data")]).unwrap();
    let mut stream = node.connect(ONE).await;
    stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(receive(&mut stream).await, None);
    let mut nonsense = node.connect(ONE).await;
    send(&mut nonsense, b"no call").await;
    send(&mut nonsense, &null(1)).await;
    assert!(
        receive(&mut nonsense).await.is_some(),
        "what is no call has no answer"
    );
    node.server.stop(LIMIT).await;
}

#[tokio::test]
async fn a_volume_that_is_not_there_is_said_to_be() {
    let node = Node::start(Limits::default()).await;
    let volume = Volume::new();
    let missing = Export {
        tree: volume.path().join("missing"),
        ..export(&volume, "data")
    };
    let refused = node.server.enter(ONE, &[missing]).unwrap_err();
    assert!(matches!(refused, Error::Open { volume: named, .. } if named == volume.id));
    let many = vec![export(&volume, "data"); crate::MOST_EXPORTS + 1];
    let refused = node.server.enter(ONE, &many).unwrap_err();
    assert!(matches!(refused, Error::TooMany(_)));
    node.server.stop(LIMIT).await;
}
