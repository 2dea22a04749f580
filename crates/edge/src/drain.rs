//! Two remedies for one fact of TCP: who closes a socket while the other side still
//! sends destroys the answer that the other side has not read yet.
//!
//! Towards clients: an upload that nobody wants any more (refused, or its guest hung
//! up) is read on and thrown away for a while, so that the answer arrives
//! ([`Upload`]).
//!
//! Towards guests: a guest may answer and close while it is still being sent a
//! body. What is written after that goes nowhere, without an error ([`Deaf`]), so
//! that its answer is read and passed on instead of lost in a failed write.

use crate::record::RequestRecord;
use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is read of an unwanted upload, at most.
const MAX_BYTES: u64 = 256 << 20;
const MAX_TIME: Duration = Duration::from_secs(10);

/// Owns the tasks that read unwanted uploads.
#[derive(Clone)]
pub(crate) struct Drains {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// A request's body. Dropped before its end, it is read on in a task of its own.
pub(crate) struct Upload {
    incoming: Option<Incoming>,
    record: Arc<RequestRecord>,
    /// Absent where closing does no harm: HTTP/2 ends streams apart from the
    /// connection, and who waits to be told to continue sends nothing.
    drains: Option<Drains>,
}

impl Upload {
    /// Takes over the body of a request.
    pub(crate) fn of(
        request: Request<Incoming>,
        drains: &Drains,
        record: Arc<RequestRecord>,
    ) -> Request<Self> {
        let sends_on =
            request.version() < Version::HTTP_2 && !request.headers().contains_key(header::EXPECT);
        record.set_uploading(!request.body().is_end_stream());
        request.map(|incoming| Self {
            incoming: (!incoming.is_end_stream()).then_some(incoming),
            record,
            drains: sends_on.then(|| drains.clone()),
        })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *incoming).poll_frame(context);
        let over = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let count = frame.data_ref().map_or(0, Bytes::len);
                this.record.received(count);
                incoming.is_end_stream()
            }
            Poll::Ready(None | Some(Err(_))) => true,
            Poll::Pending => false,
        };
        if over {
            this.incoming = None;
            this.record.set_uploading(false);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.record.set_uploading(false);
        if let (Some(incoming), Some(drains)) = (self.incoming.take(), self.drains.take())
            && let Ok(runtime) = Handle::try_current()
        {
            let task = drain(incoming, drains.stop);
            drains.tasks.spawn_on(task, &runtime);
        }
    }
}

/// Reads a body until the client has sent all or has had its share. The answer
/// passes meanwhile; when this ends early, the connection does.
async fn drain(mut body: Incoming, stop: CancellationToken) {
    let reading = async {
        let mut left = MAX_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    tokio::select! {
        // Out of time or not: what counts is that it is over.
        _ = tokio::time::timeout(MAX_TIME, reading) => {}
        () = stop.cancelled() => {}
    }
}

/// A socket that takes all that is written to it once the far side has closed.
pub(crate) struct Deaf<I> {
    io: I,
    closed: bool,
}

impl<I> Deaf<I> {
    pub(crate) fn new(io: I) -> Self {
        Self { io, closed: false }
    }

    /// Turns the far side's close into success.
    fn heed<T>(&mut self, result: io::Result<T>, instead: T) -> io::Result<T> {
        match result {
            Err(error) if is_close(&error) => {
                self.closed = true;
                Ok(instead)
            }
            result => result,
        }
    }
}

fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl<I: AsyncRead + Unpin> AsyncRead for Deaf<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Deaf<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.io)
            .poll_write(context, bytes)
            .map(|result| self.heed(result, bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io)
            .poll_flush(context)
            .map(|result| self.heed(result, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        if self.closed {
            return Poll::Ready(Ok(total));
        }
        Pin::new(&mut self.io)
            .poll_write_vectored(context, slices)
            .map(|result| self.heed(result, total))
    }
}
