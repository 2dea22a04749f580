//! Events, and the deliveries that come of them.

use crate::row::{Record, parse, records, time};
use crate::webhook::DELETED_AT_ONCE;
use crate::{Columns, Database, Session, SqlStore, Statement, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_store::{Event, EventQuery, EventStore, Result};
use std::str::FromStr;

/// Events that one round of deleting takes at most.
const PRUNED_AT_ONCE: u32 = 5000;
/// Events that one transaction deletes.
const EVENTS_AT_ONCE: usize = 100;

fn parse_option<T: FromStr>(
    row: &impl Columns,
    column: &'static str,
    what: &'static str,
) -> Result<Option<T>> {
    let text = row.text_option(column)?;
    text.map(|text| parse(what, text)).transpose()
}

impl Record for Event {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            id: parse("event id", row.text("id")?)?,
            team_id: parse("team id", row.text("team_id")?)?,
            event_type: row.text("type")?,
            category: row.text_option("category")?,
            label: row.text_option("label")?,
            data: row.text_option("data")?,
            occurred_at: time(row, "occurred_at")?,
            sandbox_id: parse_option(row, "sandbox_id", "sandbox id")?,
            execution_id: parse_option(row, "execution_id", "execution id")?,
            template_id: parse_option(row, "template_id", "template id")?,
            build_id: parse_option(row, "build_id", "build id")?,
        })
    }
}

/// Keeps an event that is not there yet, with its deliveries. Answers whether it was new.
pub(crate) async fn insert(
    session: &mut impl Session,
    event: &Event,
    now: DateTime<Utc>,
) -> Result<bool> {
    let keep = Statement::new(
        "INSERT INTO events (id, team_id, type, category, label, data, occurred_at, sandbox_id,
            execution_id, template_id, build_id)
         SELECT $1, teams.id, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM teams
         WHERE teams.id = $2
         ON CONFLICT (id) DO NOTHING",
    )
    .text(event.id)
    .text(event.team_id)
    .text(&event.event_type)
    .text_option(event.category.as_ref())
    .text_option(event.label.as_ref())
    .text_option(event.data.as_ref())
    .number(millis(event.occurred_at))
    .text_option(event.sandbox_id.as_ref())
    .text_option(event.execution_id)
    .text_option(event.template_id.as_ref())
    .text_option(event.build_id);
    if session.execute(keep).await? == 0 {
        return Ok(false);
    }
    let sandbox = event.sandbox_id.as_ref().map(ToString::to_string);
    let deliver = Statement::new(
        "INSERT INTO deliveries (webhook_id, event_id, sandbox_id, event_type, occurred_at,
            state, attempts, next_at)
         SELECT webhooks.id, $1, $2, $3, $4, 'pending', 0, $5 FROM webhooks
         WHERE webhooks.team_id = $6 AND webhooks.enabled = 1
            AND replace(',' || webhooks.events || ',', ',' || $3 || ',', '')
                <> ',' || webhooks.events || ','",
    )
    .text(event.id)
    .text(sandbox.unwrap_or_default())
    .text(&event.event_type)
    .number(millis(event.occurred_at))
    .number(millis(now))
    .text(event.team_id);
    session.execute(deliver).await?;
    Ok(true)
}

/// Places for so many texts, from a number on: `$3, $4`.
pub(crate) fn places(from: usize, count: usize) -> String {
    let places: Vec<String> = (from..from + count).map(|n| format!("${n}")).collect();
    places.join(", ")
}

#[async_trait]
impl<D: Database> EventStore for SqlStore<D> {
    async fn event_insert(&self, events: &[Event], now: DateTime<Utc>) -> Result<u64> {
        let mut session = self.database.begin().await?;
        let mut new = 0;
        for event in events {
            new += u64::from(insert(&mut session, event, now).await?);
        }
        session.commit().await?;
        Ok(new)
    }

    async fn event_list(&self, query: &EventQuery) -> Result<Vec<Event>> {
        let direction = if query.ascending { "ASC" } else { "DESC" };
        let mut text = "SELECT * FROM events WHERE team_id = $1".to_owned();
        let mut values = 1;
        let mut next = || {
            values += 1;
            format!("${values}")
        };
        if query.sandbox_id.is_some() {
            text += &format!(" AND sandbox_id = {}", next());
        }
        if !query.types.is_empty() {
            let places: Vec<String> = query.types.iter().map(|_| next()).collect();
            text += &format!(" AND type IN ({})", places.join(", "));
        }
        text += &format!(
            " ORDER BY occurred_at {direction}, id {direction} LIMIT {} OFFSET {}",
            next(),
            next()
        );
        let mut statement = Statement::new(text).text(query.team_id);
        if let Some(sandbox) = &query.sandbox_id {
            statement = statement.text(sandbox);
        }
        for event_type in &query.types {
            statement = statement.text(event_type);
        }
        let statement = statement.number(query.limit).number(query.offset);
        records(&self.database.rows(statement).await?)
    }

    async fn event_prune(&self, before: DateTime<Utc>, most_of_team: u32) -> Result<u64> {
        let old = Statement::new(
            "SELECT id FROM events WHERE occurred_at < $1 ORDER BY occurred_at, id LIMIT $2",
        )
        .number(millis(before))
        .number(PRUNED_AT_ONCE);
        let mut gone = self.events_delete(old).await?;
        let crowded = Statement::new(
            "SELECT team_id, count(*) AS found FROM events GROUP BY team_id HAVING count(*) > $1",
        )
        .number(most_of_team);
        for row in self.database.rows(crowded).await? {
            let beyond = row.number("found")? - i64::from(most_of_team);
            let oldest = Statement::new(
                "SELECT id FROM events WHERE team_id = $1 ORDER BY occurred_at, id LIMIT $2",
            )
            .text(row.text("team_id")?)
            .number(beyond.min(PRUNED_AT_ONCE.into()));
            gone += self.events_delete(oldest).await?;
        }
        Ok(gone)
    }
}

impl<D: Database> SqlStore<D> {
    /// Deletes the events that a query finds, with what was delivered of them: in
    /// transactions that are short, however often that was tried.
    async fn events_delete(&self, found: Statement) -> Result<u64> {
        let rows = self.database.rows(found).await?;
        let ids: Vec<String> = rows
            .iter()
            .map(|row| row.text("id"))
            .collect::<Result<_>>()?;
        let mut gone = 0;
        for ids in ids.chunks(EVENTS_AT_ONCE) {
            let places = places(2, ids.len());
            let attempts = format!(
                "DELETE FROM delivery_attempts WHERE id IN
                    (SELECT delivery_attempts.id FROM delivery_attempts JOIN deliveries
                        ON deliveries.webhook_id = delivery_attempts.webhook_id
                            AND deliveries.event_id = delivery_attempts.event_id
                     WHERE deliveries.event_id IN ({places}) LIMIT $1)"
            );
            loop {
                let batch = Statement::new(attempts.clone()).number(DELETED_AT_ONCE);
                let batch = ids.iter().fold(batch, Statement::text);
                if self.database.execute(batch).await? == 0 {
                    break;
                }
            }
            // Their deliveries go with them: each has one for each webhook at most.
            let places = self::places(1, ids.len());
            let delete = Statement::new(format!("DELETE FROM events WHERE id IN ({places})"));
            let delete = ids.iter().fold(delete, Statement::text);
            gone += self.database.execute(delete).await?;
        }
        Ok(gone)
    }
}
