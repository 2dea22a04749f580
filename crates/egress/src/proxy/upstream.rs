//! Proxies of the users': SOCKS5 (RFC 1928, RFC 1929) and HTTP `CONNECT`.
//!
//! `socks5://`, `socks5h://` and `http://` may stand in front of the address;
//! without a scheme it is SOCKS5, as the contract says.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a proxy may take to connect.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest head of a proxy's answer to `CONNECT`.
const LONGEST_HEAD: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Socks5,
    HttpConnect,
}

/// Where the connection is to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Address(Ipv4Addr),
    /// The proxy resolves it.
    Name(String),
}

/// Splits an address of the settings into protocol, host and port.
pub(crate) fn parse_address(text: &str) -> Option<(Protocol, &str, u16)> {
    let (protocol, authority) = match text.split_once("://") {
        None | Some(("socks5" | "socks5h", _)) => (Protocol::Socks5, text),
        Some(("http", _)) => (Protocol::HttpConnect, text),
        Some(_) => return None,
    };
    let authority = authority
        .split_once("://")
        .map_or(authority, |(_, rest)| rest);
    let (host, port) = authority.trim_end_matches('/').rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((protocol, host, port))
}

/// Asks the proxy at the other end of `stream` for a connection. What it sends
/// after that is the target's.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    protocol: Protocol,
    credentials: Option<(&str, &str)>,
    target: &Target,
    port: u16,
) -> io::Result<()> {
    let exchange = async {
        match protocol {
            Protocol::Socks5 => socks5(stream, credentials, target, port).await,
            Protocol::HttpConnect => http_connect(stream, credentials, target, port).await,
        }
    };
    timeout(TIMEOUT, exchange).await?
}

async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: Option<(&str, &str)>,
    target: &Target,
    port: u16,
) -> io::Result<()> {
    const VERSION: u8 = 5;
    const NO_METHOD: u8 = 0xff;
    let methods: &[u8] = if credentials.is_some() {
        &[VERSION, 2, 0, 2]
    } else {
        &[VERSION, 1, 0]
    };
    stream.write_all(methods).await?;
    let mut reply = [0; 2];
    stream.read_exact(&mut reply).await?;
    match (reply, credentials) {
        ([VERSION, 0], _) => {}
        ([VERSION, 2], Some((user, password))) => {
            let mut request = vec![1];
            for text in [user, password] {
                let length = u8::try_from(text.len())
                    .map_err(|_| refused("credentials are at most 255 bytes long"))?;
                request.push(length);
                request.extend_from_slice(text.as_bytes());
            }
            stream.write_all(&request).await?;
            stream.read_exact(&mut reply).await?;
            if reply[1] != 0 {
                return Err(refused("the proxy refused the credentials"));
            }
        }
        ([VERSION, NO_METHOD], _) => return Err(refused("the proxy wants other credentials")),
        _ => return Err(refused("the proxy does not speak SOCKS5")),
    }
    let mut request = vec![VERSION, 1, 0];
    match target {
        Target::Address(address) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Target::Name(name) => {
            request.push(3);
            let length = u8::try_from(name.len()).map_err(|_| refused("the name is too long"))?;
            request.push(length);
            request.extend_from_slice(name.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    if head[0] != VERSION || head[1] != 0 {
        return Err(refused("the proxy did not connect"));
    }
    let bound = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(refused("the proxy does not speak SOCKS5")),
    };
    let mut rest = vec![0; bound + 2];
    stream.read_exact(&mut rest).await.map(drop)
}

async fn http_connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: Option<(&str, &str)>,
    target: &Target,
    port: u16,
) -> io::Result<()> {
    use base64::Engine as _;
    let host = match target {
        Target::Address(address) => format!("{address}:{port}"),
        Target::Name(name) => format!("{name}:{port}"),
    };
    let authorization = credentials.map_or(String::new(), |(user, password)| {
        let text = format!("{user}:{password}");
        let text = base64::engine::general_purpose::STANDARD.encode(text);
        format!("Proxy-Authorization: Basic {text}\r\n")
    });
    let request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await?;
    // Byte by byte: what follows the head is the target's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD {
            return Err(refused("the proxy's answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    let status = head.split(|byte| *byte == b' ').nth(1);
    if head.starts_with(b"HTTP/1.") && status.is_some_and(|status| status.starts_with(b"2")) {
        Ok(())
    } else {
        Err(refused("the proxy did not connect"))
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_scheme() {
        use Protocol::{HttpConnect, Socks5};
        assert_eq!(parse_address("p.test:1080"), Some((Socks5, "p.test", 1080)));
        assert_eq!(
            parse_address("socks5h://p.test:1080"),
            Some((Socks5, "p.test", 1080))
        );
        assert_eq!(
            parse_address("http://192.0.2.9:3128/"),
            Some((HttpConnect, "192.0.2.9", 3128))
        );
        for wrong in ["p.test", "p.test:0", ":80", "ftp://p.test:21", "p.test:x"] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn socks5_sends_credentials_and_the_name() {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let proxy = tokio::spawn(async move {
            let mut hello = [0; 4];
            theirs.read_exact(&mut hello).await.unwrap();
            theirs.write_all(&[5, 2]).await.unwrap();
            let mut login = [0; 7];
            theirs.read_exact(&mut login).await.unwrap();
            assert_eq!(&login, b"\x01\x01u\x03pwd");
            theirs.write_all(&[1, 0]).await.unwrap();
            let mut request = [0; 13];
            theirs.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"\x05\x01\x00\x03\x06x.test\x01\xbb");
            let reply = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            theirs.write_all(&reply).await.unwrap();
            theirs.write_all(b"hello").await.unwrap();
        });
        let target = Target::Name("x.test".to_owned());
        let credentials = Some(("u", "pwd"));
        open(&mut ours, Protocol::Socks5, credentials, &target, 443)
            .await
            .unwrap();
        let mut greeting = [0; 5];
        ours.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello");
        proxy.await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_of_connect_is_an_error() {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let proxy = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let length = theirs.read(&mut buffer).await.unwrap();
            assert!(buffer[..length].starts_with(b"CONNECT 203.0.113.1:443 HTTP/1.1\r\n"));
            theirs
                .write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                .await
                .unwrap();
        });
        let target = Target::Address([203, 0, 113, 1].into());
        let outcome = open(&mut ours, Protocol::HttpConnect, None, &target, 443).await;
        assert!(outcome.is_err());
        proxy.await.unwrap();
    }
}
