//! Opens connections on behalf of a guest. They carry a mark that the kernel keeps
//! from private and local addresses, so that no name and no proxy of the user's
//! can lead there; the same is checked here first, for a clear error.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use hearth_network::address::is_never_reachable;
use hearth_network::services::ON_BEHALF_MARK;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a target, perhaps through others.
pub(crate) type Stream = Box<dyn AsyncReadWrite>;

/// What can be read and written.
pub(crate) trait AsyncReadWrite: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> AsyncReadWrite for T {}

/// Connects to the first of `addresses` that answers.
pub(crate) async fn first_of(addresses: &[Ipv4Addr], port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match one(*address, port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn one(address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    if is_never_reachable(address) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the address is private or local",
        ));
    }
    let socket = TcpSocket::new_v4()?;
    setsockopt(&socket, sockopt::Mark, &ON_BEHALF_MARK)?;
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    let target = SocketAddr::V4(SocketAddrV4::new(address, port));
    timeout(CONNECT_TIMEOUT, socket.connect(target)).await?
}
