//! What is left of a request's body when its answer is known already.
//!
//! Over HTTP/1.1 a connection can only go on once the body was read. A server that
//! leaves it closes the connection behind its answer, and whoever keeps connections, as
//! the edge does, may send the next request into the one that is closing. So a small
//! rest is read before the answer goes out; a large one costs the connection, as
//! reading it would cost more.

use hearth_util::LockExt as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};

/// A larger rest is left.
const MAX_BYTES: usize = 64 * 1024;
/// A slower one, too.
const LIMIT: Duration = Duration::from_millis(500);

type Slot<B> = Arc<Mutex<Option<B>>>;

/// A body that is handed back when it is dropped before its end.
pub struct Lent<B> {
    body: Option<B>,
    back: Option<Slot<B>>,
}

/// The other end of a [`Lent`] body; absent where nothing can be left.
pub struct Leftover<B>(Option<Slot<B>>);

/// Lends a request's body to whoever answers it.
pub fn lend<B: Body>(request: Request<B>) -> (Request<Lent<B>>, Leftover<B>) {
    // A client that waits to be told to send its body is better told not to.
    let expects = request.headers().contains_key(header::EXPECT);
    let comes = !expects && !request.body().is_end_stream();
    let back = (comes && request.version() <= Version::HTTP_11).then(Slot::default);
    let leftover = Leftover(back.clone());
    let request = request.map(|body| Lent {
        body: Some(body),
        back,
    });
    (request, leftover)
}

impl<B> Leftover<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Reads what was handed back, if it is little and comes soon.
    pub async fn read(self) {
        let take = |slot: Slot<B>| slot.lock_unpoisoned().take();
        if let Some(body) = self.0.and_then(take) {
            // Whatever comes of it, the answer goes out.
            let _ = tokio::time::timeout(LIMIT, Limited::new(body, MAX_BYTES).collect()).await;
        }
    }
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ended = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(ended, Body::size_hint)
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), &self.back) {
            *back.lock_unpoisoned() = Some(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A body of pieces of a KiB that counts what was read of it.
    fn body(
        pieces: usize,
    ) -> (
        impl Body<Data = Bytes, Error = Infallible> + Unpin,
        Arc<AtomicUsize>,
    ) {
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let pieces = stream::iter(0..pieces).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Frame::data(Bytes::from_static(&[0; 1024])))
        });
        (StreamBody::new(pieces), read)
    }

    async fn left(request: Request<()>, pieces: usize) -> usize {
        let (body, read) = body(pieces);
        let (mut lent, leftover) = lend(request.map(|()| body));
        // The one who answers reads one piece and has seen enough.
        lent.body_mut()
            .frame()
            .await
            .expect("a piece")
            .expect("data");
        drop(lent);
        leftover.read().await;
        read.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_small_rest_is_read_before_the_answer() {
        assert_eq!(left(Request::new(()), 9).await, 9);
        let much = left(Request::new(()), 9_000).await;
        assert!((64..=66).contains(&much), "{much}");
        let expects = Request::builder().header("expect", "100-continue");
        assert_eq!(left(expects.body(()).unwrap(), 9).await, 1);
        let second = Request::builder().version(Version::HTTP_2);
        assert_eq!(left(second.body(()).unwrap(), 9).await, 1);
    }

    #[tokio::test]
    async fn a_body_that_is_still_read_or_does_not_come_holds_up_nothing() {
        let (body, _) = body(9);
        let (lent, leftover) = lend(Request::new(body));
        leftover.read().await;
        assert!(!lent.body().is_end_stream());
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let (lent, leftover) = lend(Request::new(never));
        drop(lent);
        let read = tokio::time::timeout(LIMIT * 20, leftover.read());
        read.await.expect("given up in time");
    }
}
