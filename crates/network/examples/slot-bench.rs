//! How long slots take to be made, taken, given back, cleaned and removed.
//!
//! `unshare --net --mount cargo run --profile fast -p hearth-network --example
//! slot-bench -- 500` in namespaces of its own; it refuses to run where a node does.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hearth_network::{NetworkConfig, Policy, Slot, SlotPool};
use ipnet::Ipv4Net;

const BOUND: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count: u32 = match std::env::args().nth(1) {
        Some(text) => text.parse().context("the number of slots")?,
        None => 500,
    };
    let state = tempfile::tempdir()?;
    let config = NetworkConfig {
        state_dir: state.path().to_owned(),
        pool_size: count,
        max_slots: count,
        idle_limit: count,
        ..NetworkConfig::default()
    };

    let begin = Instant::now();
    let pool = SlotPool::start(config.clone(), &[]).await?;
    println!(
        "{:<34}{:>10.2} ms",
        "start, nothing left over",
        millis(begin.elapsed())
    );
    let begin = Instant::now();
    until_ready(&pool, count).await?;
    per_slot("create", begin.elapsed(), count);

    let mut slots: Vec<Slot> = Vec::new();
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        slots.push(pool.acquire().await?);
        times.push(begin.elapsed());
    }
    distribution("acquire, pool filled", &mut times);

    let listed = Policy {
        allow: (0..100)
            .map(|number| Ipv4Net::from(Ipv4Addr::new(203, 0, 113, number)))
            .collect(),
        ..Policy::offline()
    };
    for (name, policy) in [
        ("policy of 100 addresses", listed),
        ("policy offline", Policy::offline()),
        ("policy plain again", Policy::default()),
    ] {
        for slot in slots.iter().take(100) {
            let begin = Instant::now();
            pool.set_policy(slot, policy.clone()).await?;
            times.push(begin.elapsed());
        }
        distribution(name, &mut times);
    }

    let begin = Instant::now();
    for slot in slots {
        let begin = Instant::now();
        pool.release(slot).await?;
        times.push(begin.elapsed());
    }
    distribution("release", &mut times);
    until_ready(&pool, count).await?;
    per_slot("clean after release", begin.elapsed(), count);

    let begin = Instant::now();
    pool.shutdown(&[]).await?;
    per_slot("remove", begin.elapsed(), count);

    let lazy = NetworkConfig {
        pool_size: 0,
        idle_limit: 0,
        ..config
    };
    let pool = SlotPool::start(lazy, &[]).await?;
    for _ in 0..count.min(50) {
        let begin = Instant::now();
        let _held = pool.acquire().await?;
        times.push(begin.elapsed());
    }
    distribution("acquire, pool empty", &mut times);
    pool.shutdown(&[]).await?;
    Ok(())
}

async fn until_ready(pool: &SlotPool, count: u32) -> anyhow::Result<()> {
    let begin = Instant::now();
    while pool.status().await?.ready < count {
        ensure!(
            begin.elapsed() < BOUND,
            "the pool is not filled: {:?}",
            pool.status().await?
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

fn per_slot(what: &str, total: Duration, count: u32) {
    println!(
        "{what:<34}{:>10.2} ms each, {:.2} s for {count}",
        millis(total) / f64::from(count),
        total.as_secs_f64()
    );
}

fn distribution(what: &str, times: &mut Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| millis(times[(times.len() - 1) * percent / 100]);
    println!(
        "{what:<34}{:>10.3} ms p50, {:.3} p99, {:.3} max",
        at(50),
        at(99),
        at(100)
    );
    times.clear();
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
