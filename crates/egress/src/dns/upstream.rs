//! Asks the host's name servers. Each question has a socket of its own, so that its
//! port is as random as its id, and an answer counts only if it repeats both.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{self, Address, Query};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often all servers are tried.
const ROUNDS: usize = 2;
/// Servers that are used of a list.
const MOST_SERVERS: usize = 3;
/// How long the host's list is taken to be as it was.
const LIST_LIFETIME: Duration = Duration::from_secs(5);
/// Longest message: the length field of DNS over TCP.
const LONGEST: usize = 65_535;

/// No server gave an answer.
#[derive(Debug, thiserror::Error)]
#[error("no name server answered")]
pub(crate) struct NoAnswer;

/// The name servers of the host.
#[derive(Debug)]
pub(crate) struct Servers {
    fixed: Option<Vec<SocketAddr>>,
    read: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Servers {
    /// `fixed` where they are configured, else whatever the host uses at the time.
    #[must_use]
    pub(crate) fn new(fixed: Option<Vec<IpAddr>>) -> Self {
        let with_port = |servers: Vec<IpAddr>| {
            let servers = servers.into_iter().map(|server| (server, DNS_PORT).into());
            servers.collect()
        };
        Self {
            fixed: fixed.map(with_port),
            read: Mutex::new(None),
        }
    }

    #[cfg(test)]
    pub(crate) fn at(servers: Vec<SocketAddr>) -> Self {
        Self {
            fixed: Some(servers),
            read: Mutex::new(None),
        }
    }

    fn list(&self) -> Vec<SocketAddr> {
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((at, servers)) if at.elapsed() < LIST_LIFETIME => servers.clone(),
            _ => {
                // A handful of lines; a host that cannot be read has no servers.
                let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
                let servers = servers_in(&text);
                *read = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }

    /// Sends `query` (whose bytes are `bytes`, id and all) and returns the response
    /// under the same id. `stream` asks over TCP from the start.
    pub(crate) async fn ask(
        &self,
        query: &Query,
        bytes: &[u8],
        stream: bool,
    ) -> Result<Vec<u8>, NoAnswer> {
        let mut own = query.clone();
        own.id = random_id();
        let mut request = bytes.to_vec();
        message::set_id(&mut request, own.id);
        let servers = self.list();
        for server in std::iter::repeat_n(&servers, ROUNDS).flatten() {
            let attempt = async {
                if stream {
                    ask_stream(*server, &own, &request).await
                } else {
                    ask_datagram(*server, &own, &request).await
                }
            };
            match timeout(SERVER_TIMEOUT, attempt).await {
                Ok(Ok(mut response)) => {
                    message::set_id(&mut response, query.id);
                    return Ok(response);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server does not answer"),
            }
        }
        Err(NoAnswer)
    }

    /// The addresses of `name`, which is in its normal form.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<Address>, NoAnswer> {
        let query = Query::for_addresses(random_id(), name).ok_or(NoAnswer)?;
        let bytes = query.to_bytes();
        let mut response = self.ask(&query, &bytes, false).await?;
        if message::is_truncated(&response) {
            response = self.ask(&query, &bytes, true).await?;
        }
        Ok(query.addresses_in(&response))
    }
}

async fn ask_datagram(server: SocketAddr, query: &Query, request: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(any(server)).await?;
    // Connected: what another address sends is not received.
    socket.connect(server).await?;
    socket.send(request).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if query.is_answered_by(&buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_stream(server: SocketAddr, query: &Query, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, request).await?;
    let response = read_framed(&mut stream).await?;
    if query.is_answered_by(&response) {
        Ok(response)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is to another question",
        ))
    }
}

/// Writes one message of DNS over TCP.
pub(super) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length =
        u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// Reads one message of DNS over TCP.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn any(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn random_id() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot");
    u16::from_ne_bytes(bytes)
}

fn servers_in(resolv_conf: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver"))
                .then(|| words.next()?.parse::<IpAddr>().ok())
                .flatten()
        })
        .map(|server| (server, DNS_PORT).into())
        .collect();
    servers.truncate(MOST_SERVERS);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_on_loopback_is_a_server_like_others() {
        let text =
            "# x\nnameserver 127.0.0.53\noptions edns0\nnameserver ::1\nnameserver fe80::1%e\n";
        let expected: Vec<SocketAddr> = vec![
            "127.0.0.53:53".parse().unwrap(),
            "[::1]:53".parse().unwrap(),
        ];
        assert_eq!(servers_in(text), expected);
    }
}
