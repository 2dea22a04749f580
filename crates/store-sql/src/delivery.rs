//! Deliveries and their attempts.

use crate::event::insert as event_insert;
use crate::row::{Record, number, parse, records, time};
use crate::webhook::end_pending;
use crate::{Columns, Database, Session, SqlStore, Statement, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use hearth_store::{
    Attempt, AttemptStats, Delivery, DeliveryPage, DeliveryQuery, DeliveryState, DeliveryStore,
    DueDelivery, Error, Event, Redelivery, Result, Verdict, Webhook,
};
use std::collections::HashMap;
use std::ops::Range;
use uuid::Uuid;

/// Attempts at one delivery that a list shows.
const SHOWN_ATTEMPTS: u32 = 30;
/// About so many bytes of attempts are in one page.
const PAGE_BYTES: u64 = 8 << 20;

impl Record for Attempt {
    fn read(row: &impl Columns) -> Result<Self> {
        let status = row.number_option("response_status")?;
        Ok(Self {
            id: parse("attempt id", row.text("id")?)?,
            webhook_id: parse("webhook id", row.text("webhook_id")?)?,
            event_id: parse("event id", row.text("event_id")?)?,
            success: row.number("success")? != 0,
            duration_ms: number(row, "duration_ms")?,
            request_url: row.text("request_url")?,
            request_body: row.text("request_body")?,
            request_headers: row.text("request_headers")?,
            response_body: row.text_option("response_body")?,
            response_headers: row.text_option("response_headers")?,
            response_status: status.and_then(|status| u16::try_from(status).ok()),
            error_class: row.text_option("error_class")?,
            error_message: row.text_option("error_message")?,
            at: time(row, "at")?,
        })
    }
}

fn state(text: String) -> Result<DeliveryState> {
    match text.as_str() {
        "pending" => Ok(DeliveryState::Pending),
        "success" => Ok(DeliveryState::Success),
        "failed" => Ok(DeliveryState::Failed),
        _ => Err(Error::Corrupt {
            what: "delivery state",
            text,
        }),
    }
}

impl Record for Delivery {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            event_id: parse("event id", row.text("event_id")?)?,
            event_type: row.text("event_type")?,
            sandbox_id: row.text("sandbox_id")?,
            occurred_at: time(row, "occurred_at")?,
            state: state(row.text("state")?)?,
            attempts: Vec::new(),
        })
    }
}

impl Record for DueDelivery {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            event: Event::read(row)?,
            attempts: number(row, "attempts")?,
        })
    }
}

impl Record for AttemptStats {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            from: time(row, "bucket")?,
            total: number(row, "total")?,
            failed: number(row, "failed")?,
            minimum_ms: number(row, "minimum")?,
            maximum_ms: number(row, "maximum")?,
            sum_ms: number(row, "sum")?,
        })
    }
}

fn attempt_insertion(attempt: &Attempt) -> Statement {
    Statement::new(
        "INSERT INTO delivery_attempts (id, webhook_id, event_id, success, duration_ms,
            request_url, request_body, request_headers, response_body, response_headers,
            response_status, error_class, error_message, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .text(attempt.id)
    .text(attempt.webhook_id)
    .text(attempt.event_id)
    .number(attempt.success)
    .number(attempt.duration_ms)
    .text(&attempt.request_url)
    .text(&attempt.request_body)
    .text(&attempt.request_headers)
    .text_option(attempt.response_body.as_ref())
    .text_option(attempt.response_headers.as_ref())
    .number_option(attempt.response_status.map(i64::from))
    .text_option(attempt.error_class.as_ref())
    .text_option(attempt.error_message.as_ref())
    .number(millis(attempt.at))
}

/// Those of the same sandbox that wait for this delivery: as long as it waits itself they are
/// not due, so that nobody looks at them, and when it is over they are.
fn followers(attempt: &Attempt, verdict: &Verdict, now: DateTime<Utc>) -> Statement {
    const WHICH: &str = "webhook_id = $2 AND state = 'pending' AND attempts = 0
        AND event_id <> $3 AND sandbox_id = (SELECT head.sandbox_id FROM deliveries AS head
            WHERE head.webhook_id = $2 AND head.event_id = $3)";
    let (compared, at) = match verdict {
        Verdict::Again(at) => ("next_at < $1", *at),
        Verdict::Success | Verdict::GiveUp { .. } => ("next_at > $1", now),
    };
    Statement::new(format!(
        "UPDATE deliveries SET next_at = $1 WHERE {compared} AND {WHICH}"
    ))
    .number(millis(at))
    .text(attempt.webhook_id)
    .text(attempt.event_id)
}

/// Disables a webhook all of whose attempts have failed for long.
async fn disable(
    session: &mut impl Session,
    webhook: Uuid,
    failing_before: DateTime<Utc>,
    (event, reason): (&Event, &str),
    now: DateTime<Utc>,
) -> Result<bool> {
    let disable = Statement::new(
        "UPDATE webhooks SET enabled = 0, disabled_reason = $1
         WHERE id = $2 AND enabled = 1 AND failing_since <= $3",
    )
    .text(reason)
    .text(webhook)
    .number(millis(failing_before));
    if session.execute(disable).await? == 0 {
        return Ok(false);
    }
    end_pending(session, webhook).await?;
    event_insert(session, event, now).await?;
    Ok(true)
}

#[async_trait]
impl<D: Database> DeliveryStore for SqlStore<D> {
    async fn delivery_webhooks_due(&self, now: DateTime<Utc>) -> Result<Vec<Webhook>> {
        let query = Statement::new(
            "SELECT * FROM webhooks WHERE enabled = 1 AND id IN
                (SELECT webhook_id FROM deliveries WHERE state = 'pending' AND next_at <= $1)
             ORDER BY id",
        )
        .number(millis(now));
        records(&self.database.rows(query).await?)
    }

    async fn delivery_due(
        &self,
        webhook: Uuid,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<DueDelivery>> {
        let query = Statement::new(
            "SELECT events.*, due.attempts FROM deliveries AS due
             JOIN events ON events.id = due.event_id
             WHERE due.webhook_id = $1 AND due.state = 'pending' AND due.next_at <= $2
                AND NOT EXISTS (SELECT 1 FROM deliveries AS earlier
                    WHERE earlier.webhook_id = due.webhook_id AND earlier.state = 'pending'
                        AND earlier.sandbox_id = due.sandbox_id
                        AND (earlier.occurred_at < due.occurred_at
                            OR (earlier.occurred_at = due.occurred_at
                                AND earlier.event_id < due.event_id)))
             ORDER BY due.next_at, due.occurred_at, due.event_id LIMIT $3",
        )
        .text(webhook)
        .number(millis(now))
        .number(limit);
        records(&self.database.rows(query).await?)
    }

    async fn delivery_next(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let query = Statement::new(
            "SELECT min(next_at) AS next FROM deliveries WHERE state = 'pending' AND next_at > $1",
        )
        .number(millis(now));
        let row = self.database.row(query).await?;
        let next = row.map_or(Ok(None), |row| row.number_option("next"))?;
        Ok(next.and_then(DateTime::from_timestamp_millis))
    }

    async fn delivery_attempted(
        &self,
        attempt: &Attempt,
        verdict: &Verdict,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let (webhook, event) = (attempt.webhook_id, attempt.event_id);
        let (state, next_at) = match verdict {
            Verdict::Success => ("success", now),
            Verdict::Again(at) => ("pending", *at),
            Verdict::GiveUp { .. } => ("failed", now),
        };
        let mut session = self.database.begin().await?;
        // The webhook first, as whoever disables it does: none waits for the other.
        let failing = match attempt.success {
            true => Statement::new("UPDATE webhooks SET failing_since = NULL WHERE id = $1"),
            false => Statement::new(
                "UPDATE webhooks SET failing_since = coalesce(failing_since, $2) WHERE id = $1",
            ),
        };
        let failing = failing.text(webhook);
        let failing = match attempt.success {
            true => failing,
            false => failing.number(millis(attempt.at)),
        };
        session.execute(failing).await?;
        // One that was ended meanwhile, with its webhook, stays ended.
        let update = Statement::new(
            "UPDATE deliveries SET attempts = attempts + 1, next_at = $1,
                state = CASE WHEN state = 'pending' THEN $2 ELSE state END
             WHERE webhook_id = $3 AND event_id = $4",
        )
        .number(millis(next_at))
        .text(state)
        .text(webhook)
        .text(event);
        if session.execute(update).await? == 0 {
            return Ok(false);
        }
        session.execute(attempt_insertion(attempt)).await?;
        session.execute(followers(attempt, verdict, now)).await?;
        let mut disabled = false;
        if let Verdict::GiveUp {
            failing_before,
            disabled: told,
            reason,
        } = verdict
        {
            let told = (&**told, reason.as_str());
            disabled = disable(&mut session, webhook, *failing_before, told, now).await?;
        }
        session.commit().await?;
        Ok(disabled)
    }

    async fn delivery_list(&self, query: &DeliveryQuery) -> Result<DeliveryPage> {
        let rows = self.database.rows(listing(query)).await?;
        let mut deliveries: Vec<Delivery> = records(&rows)?;
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let mut more = deliveries.len() > limit;
        deliveries.truncate(limit);
        if deliveries.is_empty() {
            return Ok(DeliveryPage { deliveries, more });
        }
        let sizes = self
            .database
            .rows(attempt_sizes(query.webhook_id, &deliveries));
        let (fitting, chosen) = choose(&deliveries, &sizes.await?)?;
        more |= fitting < deliveries.len();
        deliveries.truncate(fitting);
        if !chosen.is_empty() {
            let places = crate::event::places(1, chosen.len());
            let text =
                format!("SELECT * FROM delivery_attempts WHERE id IN ({places}) ORDER BY at, id");
            let attempts = chosen
                .into_iter()
                .fold(Statement::new(text), Statement::text);
            let mut by_event: HashMap<Uuid, Vec<Attempt>> = HashMap::new();
            for attempt in records::<Attempt>(&self.database.rows(attempts).await?)? {
                by_event.entry(attempt.event_id).or_default().push(attempt);
            }
            for delivery in &mut deliveries {
                delivery.attempts = by_event.remove(&delivery.event_id).unwrap_or_default();
            }
        }
        Ok(DeliveryPage { deliveries, more })
    }

    async fn delivery_stats(
        &self,
        webhook: Uuid,
        span: Range<DateTime<Utc>>,
        bucket_ms: u32,
    ) -> Result<Vec<AttemptStats>> {
        let query = Statement::new(
            "SELECT (at / $4) * $4 AS bucket, count(*) AS total,
                count(*) - CAST(sum(success) AS BIGINT) AS failed,
                min(duration_ms) AS minimum, max(duration_ms) AS maximum,
                CAST(sum(duration_ms) AS BIGINT) AS sum
             FROM delivery_attempts WHERE webhook_id = $1 AND at >= $2 AND at < $3
             GROUP BY (at / $4) * $4 ORDER BY 1",
        )
        .text(webhook)
        .number(millis(span.start))
        .number(millis(span.end))
        .number(bucket_ms.max(1));
        records(&self.database.rows(query).await?)
    }

    async fn delivery_redeliver(
        &self,
        team: TeamId,
        webhook: Uuid,
        event: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Redelivery> {
        let mut session = self.database.begin().await?;
        let find = Statement::new(
            "SELECT webhooks.enabled FROM deliveries
             JOIN webhooks ON webhooks.id = deliveries.webhook_id
             WHERE webhook_id = $1 AND event_id = $2 AND webhooks.team_id = $3",
        )
        .text(webhook)
        .text(event)
        .text(team);
        let Some(row) = session.row(find).await? else {
            return Ok(Redelivery::NotFound);
        };
        if row.number("enabled")? == 0 {
            return Ok(Redelivery::Disabled);
        }
        let again = Statement::new(
            "UPDATE deliveries SET state = 'pending', attempts = 0, next_at = $1
             WHERE webhook_id = $2 AND event_id = $3",
        )
        .number(millis(now))
        .text(webhook)
        .text(event);
        session.execute(again).await?;
        session.commit().await?;
        Ok(Redelivery::Begun)
    }
}

/// The newest attempts at each of these deliveries, by their sizes.
fn attempt_sizes(webhook: Uuid, deliveries: &[Delivery]) -> Statement {
    let places = crate::event::places(2, deliveries.len());
    let statement = Statement::new(format!(
        "SELECT id, event_id, bytes FROM (
            SELECT id, event_id, CAST(length(request_body) + length(request_headers)
                    + coalesce(length(response_body), 0) + coalesce(length(response_headers), 0)
                    AS BIGINT) AS bytes,
                row_number() OVER (PARTITION BY event_id ORDER BY at DESC, id DESC) AS place
            FROM delivery_attempts WHERE webhook_id = $1 AND event_id IN ({places})
         ) AS newest WHERE place <= {SHOWN_ATTEMPTS} ORDER BY event_id, place"
    ))
    .text(webhook);
    let events = deliveries.iter().map(|delivery| delivery.event_id);
    events.fold(statement, Statement::text)
}

/// How many of the deliveries fit a page, and the ids of their attempts. The first one always
/// does, with its newest attempt at least.
fn choose(deliveries: &[Delivery], sizes: &[impl Columns]) -> Result<(usize, Vec<String>)> {
    let mut by_event: HashMap<String, Vec<(String, u64)>> = HashMap::new();
    for row in sizes {
        let attempt = (row.text("id")?, number(row, "bytes")?);
        let attempts = by_event.entry(row.text("event_id")?).or_default();
        attempts.push(attempt);
    }
    let (mut chosen, mut bytes) = (Vec::new(), 0u64);
    for (index, delivery) in deliveries.iter().enumerate() {
        let attempts = by_event.remove(&delivery.event_id.to_string());
        let attempts = attempts.unwrap_or_default();
        let of_it: u64 = attempts.iter().map(|(_, bytes)| bytes).sum();
        if index > 0 && bytes + of_it > PAGE_BYTES {
            return Ok((index, chosen));
        }
        for (nth, (id, size)) in attempts.into_iter().enumerate() {
            if nth > 0 && bytes + size > PAGE_BYTES {
                break;
            }
            bytes += size;
            chosen.push(id);
        }
    }
    Ok((deliveries.len(), chosen))
}

/// The query of a page of deliveries. Its text is made of constants alone.
fn listing(query: &DeliveryQuery) -> Statement {
    let (direction, beyond) = match query.ascending {
        true => ("ASC", ">"),
        false => ("DESC", "<"),
    };
    let mut conditions = vec!["webhook_id = $1".to_owned()];
    let mut statement = Statement::new("").text(query.webhook_id);
    if let Some(after) = &query.after {
        let (time, id) = (statement.values.len() + 1, statement.values.len() + 2);
        conditions.push(format!(
            "(occurred_at {beyond} ${time} OR (occurred_at = ${time} AND event_id {beyond} ${id}))"
        ));
        statement = statement
            .number(millis(after.occurred_at))
            .text(after.event_id);
    }
    for (time, comparison) in [(query.start, ">="), (query.end, "<")] {
        if let Some(time) = time {
            conditions.push(format!(
                "occurred_at {comparison} ${}",
                statement.values.len() + 1
            ));
            statement = statement.number(millis(time));
        }
    }
    match query.success {
        Some(true) => conditions.push("state = 'success'".to_owned()),
        Some(false) => {
            conditions.push("(state = 'failed' OR (state = 'pending' AND attempts > 0))".to_owned())
        }
        None => {}
    }
    if !query.types.is_empty() {
        let places = crate::event::places(statement.values.len() + 1, query.types.len());
        conditions.push(format!("event_type IN ({places})"));
        for event_type in &query.types {
            statement = statement.text(event_type);
        }
    }
    let text = format!(
        "SELECT * FROM deliveries WHERE {} ORDER BY occurred_at {direction}, event_id {direction}
         LIMIT ${}",
        conditions.join(" AND "),
        statement.values.len() + 1
    );
    statement.text = text.into();
    // One more tells whether others follow.
    statement.number(query.limit.saturating_add(1))
}
