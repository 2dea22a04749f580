//! Ports that a guest's programs open on its loopback only. The guest's agent
//! reaches them: `CONNECT localhost:PORT` on the agent's port becomes a raw tunnel,
//! which is then used like any connection to the guest. Nothing has to be discovered
//! or kept up to date: the port answers from the moment a program listens until it
//! stops.

use http::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer head that is read; the agent's is far shorter.
const MAX_HEAD_BYTES: usize = 4096;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A connection to `port` on the guest's loopback; `None` when nobody listens there
/// or the agent knows no tunnels.
pub(crate) async fn dial(
    agent: SocketAddr,
    port: u16,
    token: Option<&SecretString>,
    limit: Duration,
) -> io::Result<Option<TcpStream>> {
    tokio::time::timeout(limit, attempt(agent, port, token))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn attempt(
    agent: SocketAddr,
    port: u16,
    token: Option<&SecretString>,
) -> io::Result<Option<TcpStream>> {
    let mut stream = TcpStream::connect(agent).await?;
    stream.set_nodelay(true)?;
    let token = token.map_or_else(String::new, |token| {
        format!("X-Access-Token: {}\r\n", token.expose_secret())
    });
    let request =
        format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n{token}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    Ok((status(&head) == Some(StatusCode::OK)).then_some(stream))
}

/// Reads up to the end of the head and not a byte beyond: what follows belongs to
/// whoever uses the tunnel (HTTP/2 servers speak first).
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut ahead = [0_u8; 512];
    while !head.ends_with(END_OF_HEAD) {
        let length = stream.peek(&mut ahead).await?;
        if length == 0 || head.len() + length > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let known = head.len();
        head.extend_from_slice(&ahead[..length]);
        // The mark may have begun in what was read before.
        let from = known.saturating_sub(END_OF_HEAD.len() - 1);
        let mark = head[from..]
            .windows(END_OF_HEAD.len())
            .position(|window| window == END_OF_HEAD);
        if let Some(at) = mark {
            head.truncate(from + at + END_OF_HEAD.len());
        }
        let mine = head.len() - known;
        stream.read_exact(&mut ahead[..mine]).await?;
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<StatusCode> {
    let code = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    StatusCode::from_bytes(code).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// An agent that answers in the given pieces; returns what came and what is left
    /// in the tunnel.
    async fn answered(pieces: &'static [&'static str]) -> (io::Result<Option<TcpStream>>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a visitor");
            stream.set_nodelay(true).expect("set");
            let mut asked = Vec::new();
            while !asked.ends_with(END_OF_HEAD) {
                asked.push(stream.read_u8().await.expect("a whole head"));
            }
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.expect("written");
                stream.flush().await.expect("flushed");
                tokio::task::yield_now().await;
            }
            String::from_utf8(asked).expect("text")
        });
        let token = SecretString::from("secret");
        let limit = Duration::from_secs(10);
        let tunnel = dial(address, 8080, Some(&token), limit).await;
        (tunnel, agent.await.expect("the agent answered"))
    }

    #[tokio::test]
    async fn the_tunnel_begins_right_after_the_head() {
        let (tunnel, asked) =
            answered(&["HTTP/1.1 200 OK\r\nx: y\r", "\n\r", "\nfirst bytes"]).await;
        assert!(asked.starts_with("CONNECT localhost:8080 HTTP/1.1\r\n"));
        assert!(asked.contains("\r\nX-Access-Token: secret\r\n"), "{asked}");
        let mut rest = String::new();
        let mut tunnel = tunnel.expect("no error").expect("a tunnel");
        tunnel.read_to_string(&mut rest).await.expect("the rest");
        assert_eq!(rest, "first bytes");
    }

    #[tokio::test]
    async fn refusals_and_nonsense_are_no_tunnel() {
        let (refused, _) = answered(&["HTTP/1.1 502 Bad Gateway\r\n\r\n{}"]).await;
        assert!(refused.expect("an answer").is_none());
        let (nonsense, _) = answered(&["hello"]).await;
        assert!(nonsense.is_err());
        let (other, _) = answered(&["SSH-2.0-x\r\n\r\n"]).await;
        assert!(other.expect("an answer").is_none());
    }
}
