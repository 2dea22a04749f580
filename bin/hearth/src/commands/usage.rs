//! `hearth usage`: what teams and sandboxes used, through the store, whether or not the
//! daemon runs.

use super::output::Format;
use super::team;
use crate::{daemon, settings::Settings};
use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};
use hearth_control::{Span, Usage, usage_of_sandboxes, usage_of_teams, usage_span};
use hearth_store::Store;
use std::collections::BTreeMap;
use std::process::ExitCode;

const PAGE: u32 = 1000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Slug or ID of the team whose sandboxes are listed; without it all teams are
    #[arg(long)]
    team: Option<String>,
    /// From this day or RFC 3339 time in UTC on [default: the first of this month]
    #[arg(long, value_name = "TIME", value_parser = time)]
    start: Option<DateTime<Utc>>,
    /// To before this day or RFC 3339 time in UTC [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    end: Option<DateTime<Utc>>,
    /// Print comma-separated values with a header line
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    format: Format,
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = text.parse::<NaiveDate>().ok();
    let midnight = day.and_then(|day| day.and_hms_opt(0, 0, 0));
    let day = midnight.map(|midnight| midnight.and_utc());
    let moment = || DateTime::parse_from_rfc3339(text).ok();
    day.or_else(|| moment().map(|time| time.to_utc()))
        .ok_or_else(|| "is no day such as 2026-01-31 and no RFC 3339 time".to_owned())
}

/// What was used under a name.
struct Row {
    id: String,
    slug: Option<String>,
    used: Usage,
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let store = daemon::open_store(settings).await?;
    let store = store.as_ref();
    let span = usage_span(args.start, args.end, Utc::now())?;
    let (name, rows) = match &args.team {
        Some(team) => ("sandbox", sandboxes(store, span, team).await?),
        None => ("team", teams(store, span).await?),
    };
    if args.csv {
        println!("{name}ID,executions,vcpuSeconds,memoryGiBSeconds");
        for Row { id, used, .. } in &rows {
            let (vcpu, memory) = (used.vcpu_seconds(), used.memory_gib_seconds());
            println!("{id},{},{vcpu},{memory}", used.executions);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let json: Vec<_> = rows.iter().map(|row| shown(name, row)).collect();
    let header = [
        &name.to_uppercase(),
        "SLUG",
        "EXECUTIONS",
        "VCPU SECONDS",
        "GIB SECONDS",
    ];
    let rows = rows.into_iter().map(|row| {
        [
            row.id,
            row.slug.unwrap_or_default(),
            row.used.executions.to_string(),
            format!("{:.1}", row.used.vcpu_seconds()),
            format!("{:.1}", row.used.memory_gib_seconds()),
        ]
    });
    args.format.print(&json, header, rows)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(name: &str, row: &Row) -> serde_json::Value {
    serde_json::json!({
        format!("{name}ID"): row.id,
        "slug": row.slug,
        "executions": row.used.executions,
        "vcpuSeconds": row.used.vcpu_seconds(),
        "memoryGiBSeconds": row.used.memory_gib_seconds(),
    })
}

async fn teams(store: &dyn Store, span: Span) -> anyhow::Result<Vec<Row>> {
    let teams = store.team_list().await.context("list the teams")?;
    let slugs: BTreeMap<_, _> = teams.into_iter().map(|team| (team.id, team.slug)).collect();
    let used = usage_of_teams(store, span, None).await?;
    let rows = used.into_iter().map(|(team, used)| Row {
        id: team.to_string(),
        slug: slugs.get(&team).cloned(),
        used,
    });
    Ok(rows.collect())
}

async fn sandboxes(store: &dyn Store, span: Span, team: &str) -> anyhow::Result<Vec<Row>> {
    let team = team::find(store, team).await?;
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = usage_of_sandboxes(store, span, team.id, after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(rows);
        };
        after = Some(last.clone());
        rows.extend(page.into_iter().map(|(id, used)| Row {
            id: id.to_string(),
            slug: Some(team.slug.clone()),
            used,
        }));
    }
}
