//! The benchmark's client: requests on kept connections, one download, WebSockets.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// One proxy.
#[derive(Clone)]
pub struct Target {
    port: u16,
    host: String,
    tls: Option<TlsConnector>,
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub struct Throughput {
    pub requests: usize,
    pub requests_per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
}

impl Target {
    pub fn new(port: u16, host: &str, authority_pem: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            port,
            host: host.to_owned(),
            tls: Some(TlsConnector::from(Arc::new(config))),
        })
    }

    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = self.tls.filter(|_| tls);
        self
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            // The certificate's one name; the request names the sandbox.
            Some(tls) => Box::new(
                tls.connect(ServerName::try_from("localhost")?, stream)
                    .await?,
            ),
        })
    }

    async fn http(&self) -> anyhow::Result<http1::SendRequest<Empty<Bytes>>> {
        let stream = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::Builder::new().handshake(stream).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn get(&self, path: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
        Ok(Request::get(path)
            .header("host", &self.host)
            .body(Empty::new())?)
    }
}

/// As many requests as `connections` get answered in `time`.
pub async fn requests(
    target: &Target,
    connections: u32,
    time: Duration,
) -> anyhow::Result<Throughput> {
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (target, mut sender) = (target.clone(), target.http().await?);
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            let end = Instant::now() + time;
            loop {
                let begun = Instant::now();
                if begun >= end {
                    return Ok::<_, anyhow::Error>(times);
                }
                sender.ready().await?;
                let answer = sender.send_request(target.get("/")?).await?;
                ensure!(answer.status().is_success(), "answered {}", answer.status());
                answer.into_body().collect().await?;
                times.push(begun.elapsed());
            }
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get((times.len() * part / 100).min(times.len() - 1))
            .copied()
    };
    ensure!(!times.is_empty(), "nothing was answered in time");
    Ok(Throughput {
        requests: times.len(),
        requests_per_second: times.len() as f64 / time.as_secs_f64(),
        p50: at(50).unwrap_or_default(),
        p99: at(99).unwrap_or_default(),
    })
}

pub async fn download(target: &Target, length: u64) -> anyhow::Result<()> {
    let mut sender = target.http().await?;
    let answer = sender
        .send_request(target.get(&format!("/bytes/{length}"))?)
        .await?;
    ensure!(answer.status().is_success(), "answered {}", answer.status());
    let mut body = answer.into_body();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        seen += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    ensure!(seen == length, "{seen} of {length} bytes came");
    Ok(())
}

/// Opens WebSockets that then say nothing.
pub async fn websockets(target: &Target, count: u32) -> anyhow::Result<Vec<Box<dyn Stream>>> {
    let mut open = Vec::new();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        target.host
    );
    for _ in 0..count {
        let mut stream = target.connect().await?;
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(
                stream
                    .read_u8()
                    .await
                    .context("read the switch of protocols")?,
            );
            if head.len() > 4096 {
                bail!("the switch of protocols has no end");
            }
        }
        ensure!(head.starts_with(b"HTTP/1.1 101 "), "no switch of protocols");
        open.push(stream);
    }
    Ok(open)
}
