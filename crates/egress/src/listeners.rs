//! The services' sockets, on ports that the host picks. The address that they are
//! bound to is given to the host later, together with the rules that lead to it.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};

use hearth_network::services::{NODE_ADDRESS, ServicePorts, VOLUMES_PORT};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::net::{TcpListener, UdpSocket};

const BACKLOG: i32 = 1024;
/// How often a port is looked for that is free for datagrams and streams.
const ATTEMPTS: usize = 16;

#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) datagrams: UdpSocket,
    pub(crate) streams: TcpListener,
    pub(crate) events: TcpListener,
    pub(crate) proxy: TcpListener,
    pub(crate) edge: TcpListener,
    /// Until somebody takes it to serve it.
    pub(crate) volumes: Option<TcpListener>,
    volumes_port: u16,
}

impl Listeners {
    pub(crate) async fn bind() -> io::Result<Self> {
        let (datagrams, streams) = name_service()?;
        let volumes = volumes_listener()?;
        Ok(Self {
            datagrams,
            streams,
            events: stream_listener(0)?,
            proxy: stream_listener(0)?,
            edge: stream_listener(0)?,
            volumes_port: volumes.local_addr()?.port(),
            volumes: Some(volumes),
        })
    }

    pub(crate) fn ports(&self) -> io::Result<ServicePorts> {
        Ok(ServicePorts {
            dns: self.streams.local_addr()?.port(),
            events: self.events.local_addr()?.port(),
            proxy: self.proxy.local_addr()?.port(),
            edge: self.edge.local_addr()?.port(),
            volumes: self.volumes_port,
        })
    }
}

fn name_service() -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..ATTEMPTS {
        let streams = stream_listener(0)?;
        match datagram_socket(streams.local_addr()?.port()) {
            Ok(datagrams) => return Ok((datagrams, streams)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn stream_listener(port: u16) -> io::Result<TcpListener> {
    let socket = bound(SockType::Stream, port)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    let listener = std::net::TcpListener::from(socket);
    TcpListener::from_std(listener)
}

/// The same port for each daemon, where it is free: a guest's connection, which the kernel
/// remembers with the port behind it, then leads to the next daemon as well.
fn volumes_listener() -> io::Result<TcpListener> {
    stream_listener(VOLUMES_PORT).or_else(|_| stream_listener(0))
}

fn datagram_socket(port: u16) -> io::Result<UdpSocket> {
    let socket = bound(SockType::Datagram, port)?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

fn bound(kind: SockType, port: u16) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        // Connections of a former daemon may linger on the port.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    let address = SockaddrIn::from(SocketAddrV4::new(NODE_ADDRESS, port));
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[tokio::test]
    async fn every_service_has_a_port_of_its_own() {
        let listeners = Listeners::bind().await.unwrap();
        let ports = listeners.ports().unwrap();
        let datagrams = listeners.datagrams.local_addr().unwrap();
        assert_eq!(datagrams, SocketAddr::from((NODE_ADDRESS, ports.dns)));
        let mut all = vec![
            ports.dns,
            ports.events,
            ports.proxy,
            ports.edge,
            ports.volumes,
        ];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5);
    }
}
