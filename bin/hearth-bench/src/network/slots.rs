//! Taking slots out of the pool and giving them back, while others are held.

use super::{Distribution, configuration};
use anyhow::ensure;
use hearth_egress::Rules;
use hearth_network::SlotPool;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Until the pool has slots ready again.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize)]
pub struct Figures {
    pub held: u32,
    pub take: Distribution,
    pub release: Distribution,
    pub policy: Distribution,
}

pub async fn measure(held: u32, runs: u32) -> anyhow::Result<Figures> {
    let config = configuration(held + 32, &format!("slots-{held}"));
    let pool = SlotPool::start(config, &[]).await?;
    let mut kept = Vec::new();
    for _ in 0..held {
        kept.push(pool.acquire().await?);
    }
    let rules = Rules::parse(Some(false), "")?;
    let (mut take, mut release, mut policy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        until_idle(&pool).await?;
        let begun = Instant::now();
        let slot = pool.acquire().await?;
        take.push(begun.elapsed());
        let begun = Instant::now();
        pool.set_policy(&slot, rules.policy()).await?;
        policy.push(begun.elapsed());
        let begun = Instant::now();
        pool.release(slot).await?;
        release.push(begun.elapsed());
    }
    drop(kept);
    pool.shutdown(&[]).await?;
    Ok(Figures {
        held,
        take: Distribution::of(take),
        release: Distribution::of(release),
        policy: Distribution::of(policy),
    })
}

/// Waits until the pool is filled and does nothing in the background.
async fn until_idle(pool: &SlotPool) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let status = pool.status().await?;
        if status.busy == 0 && status.ready >= 8 {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the pool does not fill");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
