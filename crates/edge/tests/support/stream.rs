//! A guest whose answer the test feeds, and reading it chunk by chunk.

use super::{Guest, within};
use bytes::Bytes;
use hearth_edge::BoxError;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::io;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// A guest that answers with a stream that the test feeds.
pub(crate) async fn streaming_guest() -> (Guest, mpsc::Sender<Bytes>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let guest = Guest::start(move |_| {
        let receiver = receiver.clone();
        Box::pin(async move {
            let receiver = receiver
                .lock()
                .await
                .take()
                .ok_or(io::ErrorKind::NotFound)?;
            let chunks = futures::stream::unfold(receiver, |mut receiver| async {
                let chunk = receiver.recv().await?;
                Some((Ok::<_, BoxError>(Frame::data(chunk)), receiver))
            });
            Ok(Response::builder()
                .header("content-type", "text/event-stream")
                .body(BodyExt::boxed(SyncStream(Box::pin(StreamBody::new(
                    chunks,
                )))))
                .expect("valid"))
        })
    })
    .await;
    (guest, sender)
}

/// `BoxBody` asks for `Sync`, which a stream of a channel is not by itself.
pub(crate) struct SyncStream<B>(pub(crate) std::pin::Pin<Box<B>>);
impl<B: http_body::Body> http_body::Body for SyncStream<B> {
    type Data = B::Data;
    type Error = B::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.as_mut().poll_frame(context)
    }
}

pub(crate) async fn next_chunk(
    response: &mut Response<hyper::body::Incoming>,
) -> Option<Result<Bytes, hyper::Error>> {
    let frame = within("a chunk", response.body_mut().frame()).await?;
    Some(frame.map(|frame| frame.into_data().expect("data")))
}
