//! Response bodies of the edge. A guest's body is passed on chunk by chunk; when it
//! ends cleanly its connection goes back to the pool, in every other case the
//! connection is closed. A body that is cut off by the sandbox's end fails: a client
//! never takes a part for the whole.

use crate::BoxError;
use crate::guest::GuestConnection;
use crate::record::RequestRecord;
use crate::upstream::{GuestMultiplex, UpstreamPool};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// The body of what the edge itself answers.
pub struct EdgeBody(Kind);

enum Kind {
    Own(Full<Bytes>),
    Guest(Box<GuestBody>),
}

/// What carries a response from the guest.
pub(crate) enum Carrier {
    Single(GuestConnection),
    Shared(#[expect(dead_code, reason = "held so that the connection lives")] GuestMultiplex),
}

struct GuestBody {
    incoming: Incoming,
    /// Made when the body has to be waited for.
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Taken when the body is over.
    carrier: Option<Carrier>,
    pool: Arc<UpstreamPool>,
    port: u16,
    record: Arc<RequestRecord>,
    _open: OwnedSemaphorePermit,
}

#[derive(Debug, thiserror::Error)]
#[error("the sandbox ended before its response did")]
struct Ended;

impl EdgeBody {
    pub(crate) fn empty() -> Self {
        Self::full(Bytes::new())
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self(Kind::Own(Full::new(bytes)))
    }

    pub(crate) async fn guest(
        incoming: Incoming,
        carrier: Carrier,
        pool: Arc<UpstreamPool>,
        port: u16,
        open: OwnedSemaphorePermit,
        record: Arc<RequestRecord>,
    ) -> Self {
        let mut body = GuestBody {
            ended: None,
            incoming,
            carrier: Some(carrier),
            pool,
            port,
            record,
            _open: open,
        };
        if body.incoming.is_end_stream() {
            poll_fn(|context| {
                body.finish(context);
                Poll::Ready(())
            })
            .await;
            return Self::empty();
        }
        Self(Kind::Guest(Box::new(body)))
    }
}

impl GuestBody {
    /// The guest has said all: its connection may carry the next request.
    fn finish(&mut self, context: &mut Context<'_>) {
        if let Some(Carrier::Single(connection)) = self.carrier.take() {
            self.pool.return_idle(self.port, connection, context);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.carrier.is_none() {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = self.poll_incoming(context) else {
            let ended = self
                .ended
                .get_or_insert_with(|| Box::pin(self.pool.ended.clone().cancelled_owned()));
            if ended.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.carrier = None;
            return Poll::Ready(Some(Err(Ended.into())));
        };
        match next {
            Some(Ok(frame)) => {
                self.record.sent(frame.data_ref().map_or(0, Bytes::len));
                if self.incoming.is_end_stream() {
                    self.finish(context);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.carrier = None;
                Poll::Ready(Some(Err(error.into())))
            }
            // A guest that is taken away looks like one that is done.
            None if self.pool.ended.is_cancelled() => {
                self.carrier = None;
                Poll::Ready(Some(Err(Ended.into())))
            }
            None => {
                self.finish(context);
                Poll::Ready(None)
            }
        }
    }

    /// What has come, or else what comes when the connection is moved on.
    fn poll_incoming(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if let Some(Carrier::Single(connection)) = &mut self.carrier {
            connection.drive(context);
            return Pin::new(&mut self.incoming).poll_frame(context);
        }
        Poll::Pending
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Own(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Kind::Guest(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Own(body) => body.is_end_stream(),
            Kind::Guest(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Own(body) => body.size_hint(),
            Kind::Guest(body) => body.incoming.size_hint(),
        }
    }
}
