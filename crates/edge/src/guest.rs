//! One HTTP/1.1 connection to a guest.
//!
//! Whoever uses it also moves it on: the request's future until the answer begins,
//! then the answer's body. That spares a task per connection, and with it two
//! changes of task (often of thread) per request. Between requests nobody looks at
//! it; whoever takes it next asks first whether it still stands.
//!
//! One thing cannot wait for the visitor to read: a request's body that is still
//! being sent while the answer has begun. Such a connection gets a task of its own
//! ([`GuestConnection::detach`]).
//!
//! Dropping a connection closes its socket at once.

use crate::drain::{Deaf, Upload};
use crate::guest_tls::GuestStream;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How long a request waits for a kept connection that is still finishing its last.
const SETTLE: Duration = Duration::from_millis(5);

/// A request's body on its way to a guest.
pub(crate) type OutgoingBody = Either<Upload, Empty<Bytes>>;

type Connection = dyn Future<Output = hyper::Result<()>> + Send;

pub(crate) struct GuestConnection {
    sender: SendRequest<OutgoingBody>,
    driver: Driver,
}

/// Who moves the connection on.
enum Driver {
    User(Pin<Box<Connection>>),
    Task(#[expect(dead_code, reason = "held for its drop, which ends the task")] DropGuard),
    /// It is over.
    Nobody,
}

impl GuestConnection {
    pub(crate) async fn new(stream: GuestStream) -> hyper::Result<Self> {
        let io = TokioIo::new(Deaf::new(stream));
        // `Host`, not `host`: programs older than HTTP/2 may look for names as their
        // specifications write them.
        let (sender, connection) = http1::Builder::new()
            .title_case_headers(true)
            .handshake(io)
            .await?;
        Ok(Self {
            sender,
            driver: Driver::User(Box::pin(connection.with_upgrades())),
        })
    }

    /// Moves the connection on; does nothing when somebody else does that.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if let Driver::User(connection) = &mut self.driver
            && let Poll::Ready(ended) = connection.as_mut().poll(context)
        {
            if let Err(error) = ended {
                tracing::debug!(%error, "guest connection ended");
            }
            self.driver = Driver::Nobody;
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn request(
        &mut self,
        request: Request<OutgoingBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<OutgoingBody>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|context| {
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            self.drive(context);
            answer.as_mut().poll(context)
        })
        .await
    }

    /// Whether the next request can go out now. To be asked once the last answer
    /// was read to its end.
    pub(crate) fn is_free(&mut self, context: &mut Context<'_>) -> bool {
        self.drive(context);
        !matches!(self.driver, Driver::Nobody) && self.sender.is_ready()
    }

    /// The same, for a connection that may be finishing its last request.
    pub(crate) async fn settled(&mut self) -> bool {
        if poll_fn(|context| Poll::Ready(self.is_free(context))).await {
            return true;
        }
        matches!(self.driver, Driver::Task(_))
            && matches!(
                tokio::time::timeout(SETTLE, self.sender.ready()).await,
                Ok(Ok(()))
            )
    }

    /// Whether another task may still make it ready for a request.
    pub(crate) fn may_settle(&self) -> bool {
        matches!(self.driver, Driver::Task(_)) && !self.sender.is_closed()
    }

    /// From now on a task moves it on, until it ends, its owner drops it, or `end`
    /// fires.
    pub(crate) fn detach(&mut self, tasks: &TaskTracker, end: &CancellationToken) {
        let Driver::User(connection) = std::mem::replace(&mut self.driver, Driver::Nobody) else {
            return;
        };
        let alive = end.child_token();
        self.driver = Driver::Task(alive.clone().drop_guard());
        tasks.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "guest connection ended");
                },
                () = alive.cancelled() => {}
            }
        });
    }

    /// Moves it on to its end, which a switch of protocols is for it.
    pub(crate) async fn finish(&mut self) {
        poll_fn(|context| {
            self.drive(context);
            match self.driver {
                Driver::User(_) => Poll::Pending,
                Driver::Task(_) | Driver::Nobody => Poll::Ready(()),
            }
        })
        .await;
    }
}
