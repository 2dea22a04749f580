//! Joins a client and a guest that switched protocols (WebSockets and the like).
//!
//! Bytes pass through one scratch buffer per thread; a tunnel owns memory only while
//! one side cannot take what the other sent, and then at most that one buffer's
//! content. An idle tunnel so costs its two sockets and a small task. The end of one
//! direction is passed on while the other continues.

use crate::guest::GuestConnection;
use crate::record::RequestRecord;
use crate::upstream::UpstreamPool;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

const SCRATCH: usize = 32 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Starts the tunnel's task. It ends with either side, or with the pool.
pub(crate) fn spawn(
    pool: Arc<UpstreamPool>,
    client: OnUpgrade,
    guest: OnUpgrade,
    mut connection: GuestConnection,
    open: OwnedSemaphorePermit,
    record: Arc<RequestRecord>,
) {
    let ended = pool.ended.clone();
    let tasks = pool.tasks.clone();
    tasks.spawn(async move {
        let _open = open;
        let joined = async {
            // Its end hands the guest's socket over.
            connection.finish().await;
            let (client, guest) = tokio::try_join!(client, guest).map_err(io::Error::other)?;
            drop(connection);
            let (mut client, mut guest) = (TokioIo::new(client), TokioIo::new(guest));
            join(&mut client, &mut guest, &record).await
        };
        tokio::select! {
            result = joined => if let Err(error) = result {
                tracing::debug!(sandbox = %pool.id, %error, "tunnel failed");
            },
            () = ended.cancelled() => {}
        }
    });
}

async fn join<A, B>(client: &mut A, guest: &mut B, record: &RequestRecord) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    poll_fn(|context| {
        let up_over = up.poll(context, client, guest)?;
        record.received(std::mem::take(&mut up.passed));
        let down_over = down.poll(context, guest, client)?;
        record.sent(std::mem::take(&mut down.passed));
        if up_over.is_ready() && down_over.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// One direction: read, write, and at the end shut down the far side.
#[derive(Default)]
struct Direction {
    /// Read but not yet written, from `written` on.
    pending: Vec<u8>,
    written: usize,
    /// Read since this was last taken.
    passed: usize,
    unflushed: bool,
    eof: bool,
    done: bool,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            while self.written < self.pending.len() {
                let rest = &self.pending[self.written..];
                let count = ready!(Pin::new(&mut *writer).poll_write(context, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += count;
            }
            self.pending = Vec::new();
            self.written = 0;
            if self.eof {
                ready!(Pin::new(&mut *writer).poll_shutdown(context))?;
                self.done = true;
                continue;
            }
            match self.poll_copy(context, reader, writer)? {
                Poll::Ready(()) => {}
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(context))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once into the thread's buffer and writes what the far side takes; the
    /// rest becomes `pending`.
    fn poll_copy<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(reader).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.eof = true;
                return Poll::Ready(Ok(()));
            }
            self.unflushed = true;
            self.passed += bytes.len();
            let count = match Pin::new(writer).poll_write(context, bytes)? {
                Poll::Ready(count) => count,
                Poll::Pending => 0,
            };
            self.pending = bytes[count..].to_vec();
            Poll::Ready(Ok(()))
        })
    }
}
