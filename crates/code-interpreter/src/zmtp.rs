//! The part of ZMTP 3.0 that a Jupyter client needs: connect over TCP, speak the
//! NULL mechanism, send and receive multipart messages as DEALER or SUB.
//!
//! [`Decoder`] is sans-IO and holds the limits: a frame that is larger than allowed
//! is swallowed as it arrives and handed on as [`Frame::TooLarge`], so that no
//! output of a kernel decides how much memory this process takes.
//!
//! Wire format: the ZeroMQ Message Transport Protocol, RFC 23.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The largest frame that is kept, in bytes.
pub(crate) const MAX_FRAME_BYTES: u64 = 32 << 20;
/// The most frames in one message; Jupyter uses seven and buffers.
const MAX_FRAMES: usize = 64;
const READ_BYTES: usize = 64 << 10;

const GREETING_BYTES: usize = 64;
const FLAG_MORE: u8 = 1;
const FLAG_LONG: u8 = 2;
const FLAG_COMMAND: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketType {
    Dealer,
    Subscriber,
}

impl SocketType {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Dealer => b"DEALER",
            Self::Subscriber => b"SUB",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Data(Bytes),
    /// It had this many bytes, more than [`MAX_FRAME_BYTES`].
    TooLarge(u64),
}

/// One multipart message.
pub(crate) type Message = Vec<Frame>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("the peer does not speak ZMTP 3")]
    Greeting,
    #[error("the peer sent a malformed frame: {0}")]
    Frame(&'static str),
}

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Bytes in, messages out. Commands of the peer are skipped: after the handshake
/// none of them asks a 3.0 client for anything.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    input: BytesMut,
    frames: Message,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    flags: u8,
    size: u64,
    /// Of a frame that is too large: what is still to come.
    left: u64,
}

impl Decoder {
    /// The next whole message out of what has been put in.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, ProtocolError> {
        loop {
            let Some(mut body) = self.header()? else {
                return Ok(None);
            };
            let frame = if body.size > MAX_FRAME_BYTES {
                let available = self
                    .input
                    .len()
                    .min(usize::try_from(body.left).unwrap_or(usize::MAX));
                self.input.advance(available);
                body.left -= available as u64;
                if body.left > 0 {
                    self.body = Some(body);
                    return Ok(None);
                }
                Frame::TooLarge(body.size)
            } else {
                let size = usize::try_from(body.size).map_err(|_| ProtocolError::Frame("size"))?;
                if self.input.len() < size {
                    self.input.reserve(size - self.input.len());
                    self.body = Some(body);
                    return Ok(None);
                }
                Frame::Data(self.input.split_to(size).freeze())
            };
            if body.flags & FLAG_COMMAND != 0 {
                continue;
            }
            if self.frames.len() == MAX_FRAMES {
                return Err(ProtocolError::Frame("too many parts"));
            }
            self.frames.push(frame);
            if body.flags & FLAG_MORE == 0 {
                return Ok(Some(std::mem::take(&mut self.frames)));
            }
        }
    }

    fn header(&mut self) -> Result<Option<Body>, ProtocolError> {
        if let Some(body) = self.body.take() {
            return Ok(Some(body));
        }
        let Some(&flags) = self.input.first() else {
            return Ok(None);
        };
        if flags & !(FLAG_MORE | FLAG_LONG | FLAG_COMMAND) != 0 {
            return Err(ProtocolError::Frame("unknown flags"));
        }
        if flags & FLAG_COMMAND != 0 && flags & FLAG_MORE != 0 {
            return Err(ProtocolError::Frame("a command in parts"));
        }
        let length = if flags & FLAG_LONG == 0 { 2 } else { 9 };
        if self.input.len() < length {
            return Ok(None);
        }
        self.input.advance(1);
        let size = if flags & FLAG_LONG == 0 {
            u64::from(self.input.get_u8())
        } else {
            self.input.get_u64()
        };
        Ok(Some(Body {
            flags,
            size,
            left: size,
        }))
    }
}

fn encode_frame(output: &mut BytesMut, flags: u8, body: &[u8]) {
    if let Ok(short) = u8::try_from(body.len()) {
        output.put_u8(flags);
        output.put_u8(short);
    } else {
        output.put_u8(flags | FLAG_LONG);
        output.put_u64(body.len() as u64);
    }
    output.put_slice(body);
}

/// A message in its wire form.
pub(crate) fn encode(parts: &[Bytes]) -> Bytes {
    let size: usize = parts.iter().map(|part| part.len() + 9).sum();
    let mut output = BytesMut::with_capacity(size);
    for (index, part) in parts.iter().enumerate() {
        let more = if index + 1 < parts.len() {
            FLAG_MORE
        } else {
            0
        };
        encode_frame(&mut output, more, part);
    }
    output.freeze()
}

fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[0] = 0xFF;
    bytes[8] = 1;
    bytes[9] = 0x7F;
    bytes[10] = 3;
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

fn ready(kind: SocketType) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_slice(b"\x05READY\x0bSocket-Type");
    let name = kind.name();
    body.put_u32(u32::try_from(name.len()).expect("a short name"));
    body.put_slice(name);
    let mut frame = BytesMut::new();
    encode_frame(&mut frame, FLAG_COMMAND, &body);
    frame
}

#[derive(Debug)]
pub(crate) struct Sender(OwnedWriteHalf);

impl Sender {
    /// Not cancel-safe: a message that is written in part ends the connection.
    pub(crate) async fn send(&mut self, parts: &[Bytes]) -> io::Result<()> {
        self.0.write_all(&encode(parts)).await
    }
}

#[derive(Debug)]
pub(crate) struct Receiver {
    stream: OwnedReadHalf,
    decoder: Decoder,
}

impl Receiver {
    /// The next message; cancel-safe. An orderly end is an error too, since a
    /// kernel never hangs up while it lives.
    pub(crate) async fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(message);
            }
            self.decoder.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.decoder.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Connects and shakes hands. A subscriber gets every topic.
pub(crate) async fn connect(
    address: SocketAddr,
    kind: SocketType,
) -> io::Result<(Sender, Receiver)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&greeting()).await?;
    let mut peer = [0; GREETING_BYTES];
    stream.read_exact(&mut peer).await?;
    if peer[0] != 0xFF || peer[9] & 1 == 0 || peer[10] < 3 || !peer[12..].starts_with(b"NULL\0") {
        return Err(ProtocolError::Greeting.into());
    }
    stream.write_all(&ready(kind)).await?;
    read_ready(&mut stream).await?;
    if kind == SocketType::Subscriber {
        stream
            .write_all(&encode(&[Bytes::from_static(b"\x01")]))
            .await?;
    }
    let (read, write) = stream.into_split();
    let receiver = Receiver {
        stream: read,
        decoder: Decoder::default(),
    };
    Ok((Sender(write), receiver))
}

/// The peer's READY, or its refusal. Read exactly, so that nothing of what
/// follows is lost.
async fn read_ready(stream: &mut TcpStream) -> io::Result<()> {
    let flags = stream.read_u8().await?;
    let size = match flags {
        FLAG_COMMAND => u64::from(stream.read_u8().await?),
        flags if flags == FLAG_COMMAND | FLAG_LONG => stream.read_u64().await?,
        _ => return Err(ProtocolError::Greeting.into()),
    };
    if size > 4096 {
        return Err(ProtocolError::Greeting.into());
    }
    let mut body = vec![0; usize::try_from(size).expect("at most 4096")];
    stream.read_exact(&mut body).await?;
    if body.starts_with(b"\x05READY") {
        Ok(())
    } else {
        Err(ProtocolError::Greeting.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_in_pieces(wire: &[u8], piece: usize) -> Vec<Message> {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        for part in wire.chunks(piece.max(1)) {
            decoder.input.extend_from_slice(part);
            while let Some(message) = decoder.next().expect("well-formed") {
                messages.push(message);
            }
        }
        messages
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_however_it_is_cut(
            messages in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..6), 1..5),
            piece in 1usize..1000,
        ) {
            let mut wire = Vec::new();
            for message in &messages {
                let parts: Vec<Bytes> = message.iter().cloned().map(Bytes::from).collect();
                wire.extend_from_slice(&encode(&parts));
            }
            let expected: Vec<Message> = messages.into_iter()
                .map(|parts| parts.into_iter().map(|part| Frame::Data(part.into())).collect())
                .collect();
            prop_assert_eq!(decode_in_pieces(&wire, piece), expected);
        }

        #[test]
        fn garbage_is_refused_or_waits_for_more(wire in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.input.extend_from_slice(&wire);
            for _ in 0..=wire.len() {
                match decoder.next() {
                    Ok(Some(message)) => prop_assert!(message.len() <= MAX_FRAMES),
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_swallowed_and_reported() {
        let size = MAX_FRAME_BYTES + 5;
        let mut decoder = Decoder::default();
        decoder.input.put_u8(FLAG_LONG | FLAG_MORE);
        decoder.input.put_u64(size);
        let piece = vec![0; 1 << 20];
        let mut left = size;
        while left > 0 {
            let now = left.min(piece.len() as u64);
            decoder
                .input
                .extend_from_slice(&piece[..usize::try_from(now).unwrap()]);
            assert!(decoder.next().unwrap().is_none());
            assert!(decoder.input.is_empty(), "nothing of it is kept");
            left -= now;
        }
        encode_frame(&mut decoder.input, 0, b"after");
        let message = decoder.next().unwrap().expect("complete");
        assert_eq!(
            message,
            vec![
                Frame::TooLarge(size),
                Frame::Data(Bytes::from_static(b"after"))
            ]
        );
    }

    #[test]
    fn commands_of_the_peer_are_skipped() {
        let mut decoder = Decoder::default();
        encode_frame(&mut decoder.input, FLAG_COMMAND, b"\x04PING\0\0");
        encode_frame(&mut decoder.input, 0, b"x");
        let message = decoder.next().unwrap().expect("complete");
        assert_eq!(message, vec![Frame::Data(Bytes::from_static(b"x"))]);
    }
}
