//! One client: the handshake, then its requests until it leaves or errs.
//!
//! The connection's thread is the only one that receives. Replies are sent by
//! it and by workers, each reply whole under the send lock. The thread ends
//! only after all of its requests in flight have landed, so a joined thread
//! means that nothing touches the device on its behalf any more.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::buffer::{Input, Output};
use super::errno;
use super::pool::Pool;
use crate::device::Device;
use crate::error::IoError;
use crate::layer::index::BLOCK_SIZE;
use crate::nbd::handshake::{Handshake, MAX_OPTION_BYTES, Progress};
use crate::nbd::reply::{self, ReadHeader};
use crate::nbd::request::{Command, Errno, REQUEST_BYTES, Request};
use crate::nbd::{ExportInfo, ProtocolError, Session};
use crate::throttle::Throttle;

/// A client has this long for its whole handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const INPUT_BYTES: usize = 512 * 1024;
/// A longer payload is written piece by piece while it arrives.
const WRITE_PIECE_BYTES: usize = 256 * 1024;
/// Replies are collected up to here while more requests wait to be answered.
const SEND_BYTES: usize = 64 * 1024;
/// The kernel's buffer toward the client: a whole large reply.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Requests of one connection that may be with the workers.
const MAX_FLIGHTS: usize = 64;
/// Bytes of buffers that those may hold; one request may exceed it alone.
const MAX_FLIGHT_BYTES: u64 = 32 << 20;
/// A write that took longer was held up by the host's disk; for a while others
/// go to the workers, so that reads need not wait behind them.
pub(super) const SLOW_WRITE: Duration = Duration::from_millis(5);
const SLOW_WHILE: Duration = Duration::from_secs(1);
const MAX_STATUS_EXTENTS: usize = 1024;
const ZERO_PIECE_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the socket failed")]
    Socket(#[from] io::Error),
    #[error("the client broke the protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the client took too long to shake hands")]
    Slow,
}

/// Serves one client to its end.
pub(super) fn run(
    stream: UnixStream,
    export: &ExportInfo,
    device: &Arc<Device>,
    throttle: &Throttle,
    pool: &Arc<Pool>,
) {
    let name = &export.name;
    match serve(stream, export, device, throttle, pool) {
        Ok(()) => tracing::debug!(export = name, "client left"),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::info!(export = name, %error, cause, "closing a connection");
        }
    }
}

fn serve(
    stream: UnixStream,
    export: &ExportInfo,
    device: &Arc<Device>,
    throttle: &Throttle,
    pool: &Arc<Pool>,
) -> Result<(), ConnectionError> {
    // Larger than the system's default only for a privileged process.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&stream, SOCKET_BUFFER_BYTES);
    let mut input = Input::new(INPUT_BYTES);
    let Some(session) = shake_hands(&stream, export, &mut input)? else {
        return Ok(());
    };
    let peer = Arc::new(Peer {
        stream,
        session,
        device: device.clone(),
        sending: Mutex::default(),
        flights: Mutex::default(),
        landed: Condvar::new(),
    });
    let mut connection = Connection {
        slow_until: None,
        wait: Duration::ZERO,
        peer,
        throttle,
        pool,
        export,
        input,
        output: Output::default(),
    };
    let result = connection.transmit();
    if result.is_err() {
        drop(connection.peer.stream.shutdown(Shutdown::Both));
    }
    drop(
        connection
            .peer
            .wait_for_landing(|flights| flights.requests == 0),
    );
    result
}

/// `None` if the client left before it chose the export.
fn shake_hands(
    mut stream: &UnixStream,
    export: &ExportInfo,
    input: &mut Input,
) -> Result<Option<Session>, ConnectionError> {
    const { assert!(INPUT_BYTES > 2 * MAX_OPTION_BYTES as usize) };
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut bytes = Vec::new();
    let mut handshake = Handshake::start(export.clone(), &mut bytes);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectionError::Slow);
        }
        stream.set_write_timeout(Some(left))?;
        stream.set_read_timeout(Some(left))?;
        io::Write::write_all(&mut stream, &bytes)?;
        bytes.clear();
        if input.fill(stream)? == 0 {
            return Ok(None);
        }
        let (consumed, progress) = handshake.advance(input.data(), &mut bytes)?;
        input.consume(consumed);
        if progress == Progress::Pending {
            continue;
        }
        io::Write::write_all(&mut stream, &bytes)?;
        let Progress::Ready(session) = progress else {
            return Ok(None);
        };
        stream.set_write_timeout(None)?;
        stream.set_read_timeout(None)?;
        return Ok(Some(session));
    }
}

/// What the connection's thread shares with the workers.
struct Peer {
    stream: UnixStream,
    session: Session,
    device: Arc<Device>,
    sending: Mutex<()>,
    flights: Mutex<Flights>,
    landed: Condvar,
}

#[derive(Default)]
struct Flights {
    requests: usize,
    bytes: u64,
}

/// A request that a worker carries out; it lands when this is dropped.
struct Flight {
    peer: Arc<Peer>,
    bytes: u64,
}

struct Connection<'a> {
    /// Writes are not done here until then.
    slow_until: Option<Instant>,
    /// How long the client's next request waits for what was done.
    wait: Duration,
    peer: Arc<Peer>,
    throttle: &'a Throttle,
    pool: &'a Arc<Pool>,
    export: &'a ExportInfo,
    input: Input,
    output: Output,
}

impl Connection<'_> {
    fn transmit(&mut self) -> Result<(), ConnectionError> {
        loop {
            let parsed = Request::parse(self.input.data(), self.export, self.peer.session)?;
            let Some(request) = parsed else {
                if !self.receive()? {
                    return Ok(());
                }
                continue;
            };
            let has_payload = Request::has_payload(self.input.data());
            self.input.consume(REQUEST_BYTES);
            match request.command {
                Command::Disconnect => return self.send(),
                Command::Read => self.read(&request)?,
                _ if has_payload => {
                    self.charge(request.length);
                    if !self.write(&request)? {
                        return Ok(());
                    }
                }
                Command::Refused(errno) => self.answer(&request, Err(errno)),
                _ => {
                    self.charge(request.written_bytes());
                    self.dispatch(request, 0, move |peer| peer.carry_out(&request));
                }
            }
            if !self.wait.is_zero() {
                self.pay()?;
            } else if self.output.len() >= SEND_BYTES {
                self.send()?;
            }
        }
    }

    /// Takes from what the client may do.
    fn charge(&mut self, bytes: u32) {
        self.wait = self.throttle.charge(bytes.into(), Instant::now());
    }

    /// Sends what is ready, and waits until what was done is paid for.
    fn pay(&mut self) -> Result<(), ConnectionError> {
        self.send()?;
        let wait = std::mem::take(&mut self.wait);
        Ok(self.throttle.pause(&self.peer.stream, wait)?)
    }

    /// Sends what is ready and waits for bytes; `false` if the client left.
    fn receive(&mut self) -> Result<bool, ConnectionError> {
        self.send()?;
        Ok(self.input.fill(&self.peer.stream)? > 0)
    }

    fn send(&mut self) -> Result<(), ConnectionError> {
        if self.output.len() > 0 {
            let _sending = self.peer.lock_sending();
            self.output.send(&self.peer.stream)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request, result: Result<(), Errno>) {
        let mut bytes = Vec::with_capacity(32);
        reply::result(self.peer.session, request.cookie, result, &mut bytes);
        self.output.push(&bytes);
    }

    /// Answers at once from the page cache, or has a worker read.
    fn read(&mut self, request: &Request) -> Result<(), ConnectionError> {
        let Request {
            cookie,
            offset,
            length,
            ..
        } = *request;
        if length == 0 {
            self.answer(request, Ok(()));
            return Ok(());
        }
        let used = self.output.len();
        self.output
            .push(ReadHeader::new(self.peer.session, cookie, offset, length).as_bytes());
        let space = self.output.space(length as usize);
        match self.peer.device.read_cached(offset, space) {
            Ok(true) => self.output.advance(length as usize),
            Ok(false) => {
                self.output.truncate(used);
                self.charge(length);
                // The answer may take long: those that are ready go first.
                self.send()?;
                let request = *request;
                self.dispatch(request, u64::from(length), move |peer| peer.read(&request));
            }
            Err(error) => {
                self.output.truncate(used);
                self.answer(request, Err(errno(&error)));
            }
        }
        Ok(())
    }

    /// Takes the payload in and writes it; `false` if the client left. A
    /// refused request's payload is thrown away.
    fn write(&mut self, request: &Request) -> Result<bool, ConnectionError> {
        let mut result = match request.command {
            Command::Refused(errno) => Err(errno),
            _ => Ok(()),
        };
        let mut offset = request.offset;
        let mut left = request.length as usize;
        while left > 0 {
            while self.input.data().len() < left.min(WRITE_PIECE_BYTES) {
                if !self.receive()? {
                    return Ok(false);
                }
            }
            let buffered = self.input.data();
            let mut count = buffered.len().min(left);
            if count < left && result.is_ok() {
                // Pieces end on block boundaries, or blocks would be filled
                // from below only to be overwritten by the next piece.
                count -= ((offset + count as u64) % BLOCK_SIZE) as usize;
            }
            if result.is_ok() {
                let begun = Instant::now();
                if count == request.length as usize && self.slow_until > Some(begun) {
                    self.write_elsewhere(request, count);
                    return Ok(true);
                }
                let written = self.peer.device.write(offset, &buffered[..count]);
                result = written.map_err(|error| errno(&error));
                let ended = Instant::now();
                if ended - begun > SLOW_WRITE {
                    self.slow_until = Some(ended + SLOW_WHILE);
                }
            }
            self.input.consume(count);
            offset = offset.wrapping_add(count as u64);
            left -= count;
        }
        if result.is_ok() && request.command == (Command::Write { fua: true }) {
            let request = *request;
            self.dispatch(request, 0, move |peer| peer.flush(&request));
        } else {
            self.answer(request, result);
        }
        Ok(true)
    }

    /// Has a worker write the payload, which is at the front of the input.
    fn write_elsewhere(&mut self, request: &Request, count: usize) {
        let payload = self.input.data()[..count].to_vec();
        self.input.consume(count);
        let request = *request;
        self.dispatch(request, count as u64, move |peer| {
            let fua = request.command == (Command::Write { fua: true });
            let result = peer.device.write(request.offset, &payload);
            let result = result.and_then(|()| if fua { peer.device.flush() } else { Ok(()) });
            peer.answer(&request, result.map_err(|error| errno(&error)))
        });
    }

    /// Hands a request to the workers, waiting while too many are in flight.
    fn dispatch(
        &mut self,
        request: Request,
        bytes: u64,
        work: impl FnOnce(&Peer) -> io::Result<()> + Send + 'static,
    ) {
        let peer = self.peer.clone();
        let mut flights = peer.wait_for_landing(|flights| {
            flights.requests < MAX_FLIGHTS
                && (flights.bytes == 0 || flights.bytes + bytes <= MAX_FLIGHT_BYTES)
        });
        flights.requests += 1;
        flights.bytes += bytes;
        drop(flights);
        let flight = Flight { peer, bytes };
        self.pool.run(move || {
            if let Err(error) = work(&flight.peer) {
                tracing::debug!(%error, cookie = request.cookie, "cannot send a reply");
                flight.peer.hang_up();
            }
        });
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The client would wait for ever for this reply.
            self.peer.hang_up();
        }
        let mut flights = self.peer.lock_flights();
        flights.requests -= 1;
        flights.bytes -= self.bytes;
        drop(flights);
        self.peer.landed.notify_all();
    }
}

impl Peer {
    fn read(&self, request: &Request) -> io::Result<()> {
        let Request {
            cookie,
            offset,
            length,
            ..
        } = *request;
        let mut output = Output::default();
        output.push(ReadHeader::new(self.session, cookie, offset, length).as_bytes());
        match self.device.read(offset, output.space(length as usize)) {
            Ok(()) => output.advance(length as usize),
            Err(error) => return self.answer(request, Err(errno(&error))),
        }
        let _sending = self.lock_sending();
        output.send(&self.stream)
    }

    fn flush(&self, request: &Request) -> io::Result<()> {
        self.answer(request, self.device.flush().map_err(|error| errno(&error)))
    }

    fn carry_out(&self, request: &Request) -> io::Result<()> {
        let (offset, length) = (request.offset, u64::from(request.length));
        let (result, fua) = match request.command {
            Command::Flush => return self.flush(request),
            Command::BlockStatus { one } => return self.block_status(request, one),
            Command::Trim { fua } => (self.device.discard(offset, length), fua),
            Command::WriteZeroes {
                fua,
                no_hole: false,
            } => (self.device.write_zeroes(offset, length), fua),
            Command::WriteZeroes { fua, no_hole: true } => (self.fill_zeroes(offset, length), fua),
            // The connection's own thread answers the others.
            _ => return self.answer(request, Err(Errno::Inval)),
        };
        let result = result.and_then(|()| if fua { self.device.flush() } else { Ok(()) });
        self.answer(request, result.map_err(|error| errno(&error)))
    }

    /// Zeros that keep their space.
    fn fill_zeroes(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let zeros = vec![0; length.min(ZERO_PIECE_BYTES) as usize];
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let stop = end.min((at / ZERO_PIECE_BYTES + 1) * ZERO_PIECE_BYTES);
            self.device.write(at, &zeros[..(stop - at) as usize])?;
            at = stop;
        }
        Ok(())
    }

    fn block_status(&self, request: &Request, one: bool) -> io::Result<()> {
        let limit = if one { 1 } else { MAX_STATUS_EXTENTS };
        match self
            .device
            .extents(request.offset, u64::from(request.length), limit)
        {
            Ok(extents) => {
                let mut bytes = Vec::new();
                let extents = extents.iter().map(|extent| {
                    // No longer than the request, whose length has 32 bits.
                    (
                        (extent.range.end - extent.range.start) as u32,
                        extent.is_zero,
                    )
                });
                reply::block_status(request.cookie, extents, &mut bytes);
                self.send(&bytes)
            }
            Err(error) => self.answer(request, Err(errno(&error))),
        }
    }

    fn answer(&self, request: &Request, result: Result<(), Errno>) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(32);
        reply::result(self.session, request.cookie, result, &mut bytes);
        self.send(&bytes)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _sending = self.lock_sending();
        io::Write::write_all(&mut &self.stream, bytes)
    }

    /// Ends the connection; its thread sees the end of the stream.
    fn hang_up(&self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }

    fn lock_sending(&self) -> MutexGuard<'_, ()> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_landing(&self, enough: impl Fn(&Flights) -> bool) -> MutexGuard<'_, Flights> {
        self.landed
            .wait_while(self.lock_flights(), |flights| !enough(flights))
            .unwrap_or_else(PoisonError::into_inner)
    }
}
