//! The start of a TLS connection, and a kind word for who speaks plain HTTP to it.

use std::io;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The first byte of every TLS connection: a record that carries a handshake.
const HANDSHAKE: u8 = 0x16;

const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
Content-Type: application/json; charset=utf-8\r\nContent-Length: 58\r\nConnection: close\r\n\r\n\
{\"message\":\"This port speaks HTTPS, not HTTP\",\"code\":400}\n";

/// Shakes hands; the caller bounds the time.
pub(crate) async fn handshake(
    mut stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    if count == 1 && first[0].is_ascii_uppercase() && first[0] != HANDSHAKE {
        stream.write_all(PLAIN).await?;
        stream.shutdown().await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP"));
    }
    acceptor.accept(stream).await
}

#[cfg(test)]
mod tests {
    use super::PLAIN;

    #[test]
    fn the_plain_answer_names_its_length() {
        let text = std::str::from_utf8(PLAIN).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
    }
}
