use std::net::Ipv4Addr;

use hearth_ids::SandboxId;

use super::*;
use crate::guests::Identity;
use crate::rules::Rules;

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 11, 0, 1);
const ANSWER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// A name server on loopback that knows every name, but gives a forged answer with
/// a wrong id first.
async fn server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Query::parse(&buffer[..length]).unwrap();
            let mut forged = query.answer([203, 0, 113, 66].into(), 60);
            message::set_id(&mut forged, query.id.wrapping_add(1));
            socket.send_to(&forged, from).await.unwrap();
            let answer = query.answer(ANSWER, 60);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

async fn forwarder(settings: &str) -> (Forwarder, Arc<Guests>) {
    let guests = Arc::new(Guests::default());
    let identity = Identity::new(SandboxId::random());
    guests.enter(GUEST, identity, Rules::parse(None, settings).unwrap());
    let servers = Arc::new(Servers::at(vec![server().await]));
    let forwarder = Forwarder::new(Arc::clone(&guests), servers, "sandboxes.test");
    (forwarder, guests)
}

async fn ask(forwarder: &Forwarder, name: &str) -> (u8, Option<Ipv4Addr>) {
    let query = Query::for_addresses(9, name).expect("a name");
    let from = SocketAddr::from((GUEST, 5353));
    let answer = forwarder
        .answer(from, &query.to_bytes(), false)
        .await
        .unwrap();
    assert!(query.is_answered_by(&answer));
    let address = query.addresses_in(&answer).first().map(|a| a.address);
    (answer[3] & 0xf, address)
}

#[tokio::test]
async fn questions_are_passed_on_and_answers_remembered() {
    let (forwarder, guests) = forwarder("").await;
    assert_eq!(ask(&forwarder, "example.com").await, (0, Some(ANSWER)));
    let guest = guests.find(GUEST).unwrap();
    assert!(guest.knows(ANSWER, "example.com"));
    assert_eq!(guest.names_of(ANSWER), ["example.com"]);
}

#[tokio::test]
async fn own_names_are_answered_here() {
    let (forwarder, _) = forwarder("").await;
    let edge = (0, Some(EDGE_ADDRESS));
    assert_eq!(ask(&forwarder, "8080-iabc.sandboxes.test").await, edge);
    assert_eq!(
        ask(&forwarder, EVENTS_NAME).await,
        (0, Some(SERVICE_ADDRESS))
    );
    assert_eq!(ask(&forwarder, "sandboxes.test").await, (0, Some(ANSWER)));
}

#[tokio::test]
async fn names_that_lead_nowhere_are_not_looked_up() {
    let (forwarder, _) =
        forwarder(r#"{"allowOut":["*.example.com"],"denyOut":["0.0.0.0/0"]}"#).await;
    assert_eq!(ask(&forwarder, "a.example.com").await, (0, Some(ANSWER)));
    let refused = (ResponseCode::Refused.low(), None);
    assert_eq!(ask(&forwarder, "secret.evil.test").await, refused);
    assert_eq!(ask(&forwarder, "8080-iabc.sandboxes.test").await, refused);
    assert_eq!(
        ask(&forwarder, EVENTS_NAME).await,
        (0, Some(SERVICE_ADDRESS))
    );
}

/// One guest opens connections and keeps them; another asks.
#[tokio::test]
async fn a_guest_that_holds_connections_takes_nothing_of_the_others() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
    let (forwarder, guests) = forwarder("").await;
    for address in [GREEDY, OTHER] {
        let identity = Identity::new(SandboxId::random());
        guests.enter(address, identity, Rules::parse(None, "").unwrap());
    }
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let forwarder = Arc::new(forwarder);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let datagrams = UdpSocket::bind(listener.local_addr().unwrap())
        .await
        .unwrap();
    let server = listener.local_addr().unwrap();
    let each = || (tasks.clone(), stop.clone());
    let (inner, end) = each();
    tasks.spawn(Arc::clone(&forwarder).serve_streams(listener, inner, end));
    let (inner, end) = each();
    tasks.spawn(Arc::clone(&forwarder).serve_datagrams(datagrams, inner, end));

    let connect = async |from: Ipv4Addr| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(server).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = connect(GREEDY).await;
        let _ = stream.write_all(&[0]).await;
        held.push(stream);
    }
    // All but its share were closed.
    let mut open = 0;
    for stream in &mut held {
        let closed = timeout(Duration::from_millis(300), stream.read_u8());
        open += usize::from(closed.await.is_err());
        if open == 8 {
            break;
        }
    }
    assert_eq!(open, 8);
    assert_eq!(forwarder.streams.available_permits(), MOST_STREAMS - 8);

    let question = Query::for_addresses(9, "example.com")
        .expect("a name")
        .to_bytes();
    let mut stream = connect(OTHER).await;
    upstream::write_framed(&mut stream, &question)
        .await
        .unwrap();
    let answer = timeout(Duration::from_secs(10), upstream::read_framed(&mut stream));
    assert!(answer.await.unwrap().is_ok(), "over TCP");
    let socket = UdpSocket::bind((OTHER, 0)).await.unwrap();
    socket.send_to(&question, server).await.unwrap();
    let mut buffer = [0; 512];
    let answer = timeout(Duration::from_secs(10), socket.recv_from(&mut buffer));
    assert!(answer.await.unwrap().is_ok(), "over UDP");
    stop.cancel();
}
