//! Messages in a stream (RFC 5531, section 11): fragments, each with its length.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most bytes of a message: the most data, and what is said about it.
pub(crate) const LONGEST: usize = crate::procedures::MOST_DATA as usize + 4096;
const MOST_FRAGMENTS: usize = 64;
const LAST: u32 = 1 << 31;

/// The head of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head(u32);

/// Waits for a message to begin. `None`: the other side has ended the stream.
pub(crate) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Head>> {
    match stream.read_u32().await {
        Ok(word) => Ok(Some(Head(word))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the message that begins with this head. Memory is taken as data arrives.
///
/// # Errors
/// `InvalidData` where it is longer than a message may be.
pub(crate) async fn body(
    stream: &mut (impl AsyncRead + Unpin),
    first: Head,
) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidData, "the message is too long");
    let (mut message, mut head) = (Vec::new(), first);
    for _ in 0..MOST_FRAGMENTS {
        let length = usize::try_from(head.0 & !LAST).map_err(|_| too_long())?;
        if length > LONGEST - message.len() {
            return Err(too_long());
        }
        let read = stream.take(length as u64).read_to_end(&mut message).await?;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head.0 & LAST != 0 {
            return Ok(message);
        }
        head = Head(stream.read_u32().await?);
    }
    Err(too_long())
}

/// Sends a message in one fragment.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&(length | LAST).to_be_bytes()).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut stream = bytes;
        match head(&mut stream).await? {
            Some(first) => body(&mut stream, first).await.map(Some),
            None => Ok(None),
        }
    }

    #[tokio::test]
    async fn fragments_are_one_message() {
        let bytes = [0, 0, 0, 2, 1, 2, 0x80, 0, 0, 1, 3];
        assert_eq!(read(&bytes).await.unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(read(&[]).await.unwrap(), None);
        for end in 4..bytes.len() {
            let error = read(&bytes[..end]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }

    #[tokio::test]
    async fn messages_have_an_end() {
        let error = read(&u32::MAX.to_be_bytes()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = read(&[0; 4 * 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "empty fragments");
    }
}
