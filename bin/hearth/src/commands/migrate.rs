//! `hearth migrate`: from the SQLite file to a PostgreSQL database, while no daemon runs.

use crate::daemon::audit::{self, Action};
use crate::{daemon, settings::Settings};
use anyhow::{Context, bail};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the database, as the setting `database` names it, which is taken where
    /// this is left out; it must be empty
    #[arg(long, value_name = "URL")]
    to: Option<String>,
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let address = args.to.as_ref().or(settings.database.as_ref());
    let address = address.context("name the database: --to postgres://user@host/database")?;
    let path = settings.database_file();
    if !path.exists() {
        bail!("there is nothing to copy: {} is not there", path.display());
    }
    // What a daemon wrote during the copy would be lost with the file.
    let _lock = hearth_layout::lock::Lock::take(&settings.pid_file())?;
    let source = hearth_store_sqlite::open(&path)
        .await
        .with_context(|| format!("open {}", path.display()))?;
    let target = hearth_store_postgres::open(address).await?;
    let copied = hearth_store_sql::copy(&source, &target).await;
    let action = Action::new("store.migrate", None, path.display().to_string());
    audit::operator(settings, action, copied.is_ok());
    match copied {
        Ok(tables) => {
            for table in &tables {
                println!("{:>10} {}", table.rows, table.table);
            }
        }
        Err(hearth_store::Error::Conflict(table)) => bail!(
            "the target is not empty: it has rows in {table}. Nothing was copied; name an empty \
             database"
        ),
        Err(error) => return Err(error).context("copy, of which nothing remains"),
    }
    eprintln!(
        "All is copied. Set `database` to that address and start Hearth; {} stays as it is, for \
         the way back.",
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}
