//! UDP and TCP in front of a zone.

use crate::Zone;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// TCP connections open at once; more wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 128;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Pause after a socket's failure that is not one client's.
const PAUSE: Duration = Duration::from_millis(50);
/// Larger queries than this are none.
const MAX_QUERY: usize = 4096;

/// Answers until `stop` fires.
pub async fn serve(zone: Zone, udp: UdpSocket, tcp: TcpListener, stop: CancellationToken) {
    let zone = Arc::new(zone);
    let streams = TaskTracker::new();
    tokio::join!(
        serve_udp(&zone, &udp, &stop),
        accept(&zone, &tcp, &streams, &stop)
    );
    streams.close();
    streams.wait().await;
}

async fn serve_udp(zone: &Zone, udp: &UdpSocket, stop: &CancellationToken) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let received = tokio::select! {
            received = udp.recv_from(&mut buffer) => received,
            () = stop.cancelled() => return,
        };
        match received {
            Ok((length, client)) => {
                if let Some(answer) = zone.answer(&buffer[..length], None)
                    && let Err(error) = udp.send_to(&answer, client).await
                {
                    tracing::debug!(%client, %error, "send answer over UDP failed");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "receive over UDP failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn accept(
    zone: &Arc<Zone>,
    tcp: &TcpListener,
    streams: &TaskTracker,
    stop: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            () = stop.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (zone, stop) = (Arc::clone(zone), stop.clone());
                streams.spawn(async move {
                    tokio::select! {
                        // Whatever ended it, there is nobody to tell.
                        _ = converse(&zone, stream) => {}
                        () = stop.cancelled() => {}
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept over TCP failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Queries and answers, each after its length, until the client ends.
async fn converse(zone: &Zone, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let query = tokio::time::timeout(IDLE, async {
            let length = usize::from(stream.read_u16().await?);
            if length > MAX_QUERY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut query = vec![0; length];
            stream.read_exact(&mut query).await?;
            Ok::<_, io::Error>(query)
        })
        .await??;
        let Some(answer) = zone.answer(&query, Some(usize::from(u16::MAX))) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut message = length.to_be_bytes().to_vec();
        message.extend(answer);
        tokio::time::timeout(IDLE, stream.write_all(&message)).await??;
    }
}
