//! Ports that only listen on the guest's loopback, for callers outside.
//!
//! `CONNECT localhost:PORT` on the agent's port opens a connection to that port
//! inside the guest and passes bytes both ways. So a program that listens on
//! loopback is reachable from the moment it listens until it stops, with
//! nothing to discover, poll or keep open in between, and no port of the guest
//! is taken by a forwarder. Like every other request it must carry the token,
//! when one is set.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::uri::Authority;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{HttpError, Response, empty};

/// Loopback answers at once, unless the program's queue is full.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// Opens a tunnel. The bytes flow in a task of the agent once the response is
/// out; it ends with either side.
pub async fn open(
    request: Request<Incoming>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Response, HttpError> {
    let port = request
        .uri()
        .authority()
        .and_then(loopback_port)
        .ok_or_else(|| {
            HttpError::bad_request("CONNECT needs localhost and a port, nothing else is reachable")
        })?;
    let mut inside = dial(port).await?;
    let stop = stop.clone();
    tasks.spawn(async move {
        let tunnel = async {
            let mut outside = TokioIo::new(hyper::upgrade::on(request).await.ok()?);
            tokio::io::copy_bidirectional(&mut outside, &mut inside)
                .await
                .ok()
        };
        tokio::select! {
            _ = tunnel => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(Response::new(empty()))
}

fn loopback_port(authority: &Authority) -> Option<u16> {
    let is_loopback = matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]");
    authority
        .port_u16()
        .filter(|port| is_loopback && *port != 0)
}

/// IPv4 first; many servers listen on the IPv6 loopback only.
async fn dial(port: u16) -> Result<TcpStream, HttpError> {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let mut refusal = String::new();
    for address in addresses {
        match tokio::time::timeout(DIAL_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => refusal = error.to_string(),
            Err(_) => refusal = "no answer".to_owned(),
        }
    }
    Err(HttpError::new(
        StatusCode::BAD_GATEWAY,
        format!("port {port} is not open: {refusal}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_reachable() {
        let port = |text: &str| loopback_port(&text.parse().unwrap());
        assert_eq!(port("localhost:8080"), Some(8080));
        assert_eq!(port("127.0.0.1:1"), Some(1));
        assert_eq!(port("[::1]:80"), Some(80));
        assert_eq!(port("localhost"), None);
        assert_eq!(port("localhost:0"), None);
        assert_eq!(port("10.0.0.1:80"), None);
        assert_eq!(port("localhost.example:80"), None);
    }
}
