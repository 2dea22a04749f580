//! What the way out costs: the time of a connection's first request, and of one on a
//! connection that is open, without rules, with rules that the kernel carries out,
//! and with rules of names, which the proxy decides.

use super::{
    Distribution, configuration,
    guest::{ANSWER, Guest, NAME, NAME_SERVER, SERVER},
};
use hearth_egress::{Egress, EgressConfig, Identity, Rules};
use hearth_ids::SandboxId;
use hearth_network::{SlotPool, netns};
use serde::Serialize;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
pub struct Figures {
    pub ways: Vec<Way>,
    pub added_by_addresses_ms: f64,
    pub added_by_names_ms: f64,
    pub request_added_by_addresses_ms: f64,
    pub request_added_by_names_ms: f64,
}

#[derive(Serialize)]
pub struct Way {
    pub rules: &'static str,
    /// From connecting to the answer.
    pub connection: Distribution,
    /// From a request on an open connection to its answer.
    pub request: Distribution,
}

pub async fn measure(requests: u32) -> anyhow::Result<Figures> {
    let config = EgressConfig {
        domain: "localhost".to_owned(),
        name_servers: Some(vec![NAME_SERVER.into()]),
        ..EgressConfig::default()
    };
    let egress = Egress::bind(config).await?;
    let mut network = configuration(8, "latency");
    network.services = Some(egress.ports());
    let pool = SlotPool::start(network, &[]).await?;
    egress.start();
    let slot = pool.acquire().await?;
    let guest = Guest::attach(&slot)?;
    let identity = Identity {
        sandbox_id: SandboxId::random(),
        team_id: String::new(),
    };
    let everywhere = r#""denyOut":["0.0.0.0/0"]"#;
    let kinds = [
        ("no rules", String::new()),
        (
            "rules with addresses",
            format!(r#"{{"allowOut":["203.0.113.0/24","192.0.2.128/25"],{everywhere}}}"#),
        ),
        (
            "rules with names",
            format!(r#"{{"allowOut":["{NAME}","*.example.test"],{everywhere}}}"#),
        ),
    ];
    egress.enter(slot.host_address, identity, Rules::default());
    // In turns, so that the machine's moods hit all kinds.
    let mut times = [const { (Vec::new(), Vec::new()) }; 3];
    const TURNS: u32 = 5;
    for _ in 0..TURNS {
        for ((_, json), times) in kinds.iter().zip(&mut times) {
            let rules = Rules::parse(None, json)?;
            egress.change(slot.host_address, rules.clone());
            pool.set_policy(&slot, rules.policy()).await?;
            let count = requests.div_ceil(TURNS);
            let namespace = guest.namespace.clone();
            let asked = tokio::task::spawn_blocking(move || {
                netns::run_in(&namespace, move || ask_often(count))
            });
            let (connections, requests) = asked.await???;
            times.0.extend(connections);
            times.1.extend(requests);
        }
    }
    drop(guest);
    egress.stop(LIMIT).await;
    pool.shutdown(&[]).await?;
    let ways: Vec<Way> = kinds
        .iter()
        .zip(times)
        .map(|((rules, _), (connections, requests))| Way {
            rules,
            connection: Distribution::of(connections),
            request: Distribution::of(requests),
        })
        .collect();
    let connection = |way: usize| ways[way].connection.p50 - ways[0].connection.p50;
    let request = |way: usize| ways[way].request.p50 - ways[0].request.p50;
    Ok(Figures {
        added_by_addresses_ms: connection(1),
        added_by_names_ms: connection(2),
        request_added_by_addresses_ms: request(1),
        request_added_by_names_ms: request(2),
        ways,
    })
}

/// The times of as many first requests, each on a connection of its own, and of the
/// requests after them.
fn ask_often(count: u32) -> std::io::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut connections, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let begun = Instant::now();
        let mut stream = TcpStream::connect_timeout(&(SERVER, 80).into(), LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        ask(&mut stream)?;
        connections.push(begun.elapsed());
        let begun = Instant::now();
        ask(&mut stream)?;
        requests.push(begun.elapsed());
    }
    Ok((connections, requests))
}

fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer)?;
    if answer != ANSWER.as_bytes() {
        return Err(std::io::Error::other("another answer than the server's"));
    }
    Ok(())
}
