//! `hearth dns`: a name server for the domain, for where no other has its wildcard.

use crate::{daemon, settings::Settings};
use anyhow::{Context, bail};
use hearth_dns::Zone;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen, over UDP and TCP
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5354")]
    listen: SocketAddr,
    /// What the names stand for; may be repeated [default: where the TLS port listens]
    #[arg(long = "answer", value_name = "ADDRESS")]
    answers: Vec<IpAddr>,
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::to_stderr();
    let answers = match args.answers.is_empty() {
        false => args.answers,
        true => default_answers(settings.tls_address())?,
    };
    let domain = settings.domain_host();
    let proof = settings.proof_file();
    let zone = Zone::new(&domain, answers.clone())?
        .with_challenges(move || hearth_tls::challenges(&proof));
    let listen = args.listen;
    let tcp = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} (TCP)"))?;
    // Port 0 means the same free one for both.
    let listen = tcp.local_addr()?;
    let udp = UdpSocket::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} (UDP)"))?;
    let answers: Vec<String> = answers.iter().map(IpAddr::to_string).collect();
    let stopped = daemon::signals::Stop::listen()?;
    println!(
        "{domain} and *.{domain} are {} at {listen}.",
        answers.join(", ")
    );
    println!("To use it on a host with systemd-resolved (IFACE: any interface):");
    println!("  resolvectl dns IFACE {listen}; resolvectl domain IFACE '~{domain}'");
    println!("With dnsmasq:");
    println!("  server=/{domain}/{}#{}", listen.ip(), listen.port());
    let stop = CancellationToken::new();
    let server = tokio::spawn(hearth_dns::serve(zone, udp, tcp, stop.clone()));
    stopped.wait().await;
    stop.cancel();
    server.await?;
    Ok(ExitCode::SUCCESS)
}

fn default_answers(address: IpAddr) -> anyhow::Result<Vec<IpAddr>> {
    if address.is_loopback() {
        Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    } else if address.is_unspecified() {
        bail!("Hearth listens on every address: say which one names stand for with --answer")
    } else {
        Ok(vec![address])
    }
}
