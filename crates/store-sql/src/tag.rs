//! The history of tags.

use crate::row::{number, parse, time, time_option};
use crate::{Columns, Database, SqlStore, Statement};
use async_trait::async_trait;
use hearth_ids::TemplateId;
use hearth_store::{Error, Result, TagEvent, TagLatest, TagOrder, TagQuery, TagStore};

/// Comes after every tag: tags are of small letters, digits, `-`, `_` and `.`.
const AFTER_ALL_TAGS: &str = "~";

/// A pattern for texts that contain `text`, with `!` before what would be a wildcard.
fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for character in text.chars() {
        if matches!(character, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

fn search(template: &TemplateId, query: &TagQuery) -> Result<Statement> {
    let (bound, order) = match query.order {
        TagOrder::LatestFirst => ("max(sequence) < $3", "latest DESC"),
        TagOrder::LatestLast => ("max(sequence) > $3", "latest"),
        TagOrder::NameAscending => ("tag > $3", "tag"),
        TagOrder::NameDescending => ("tag < $3", "tag DESC"),
    };
    let statement = Statement::new(format!(
        "SELECT tag, max(sequence) AS latest FROM build_assignments
         JOIN builds ON builds.id = build_assignments.build_id
         WHERE build_assignments.template_id = $1 AND builds.status = 'ready'
            AND tag LIKE $2 ESCAPE '!'
         GROUP BY tag HAVING {bound} ORDER BY {order} LIMIT $4"
    ))
    .text(template)
    .text(containing(&query.search));
    let after = query.after.as_ref();
    let sequence = after.map(|after| place(after.sequence)).transpose()?;
    let tag = after.map(|after| after.tag.as_str());
    let statement = match query.order {
        TagOrder::LatestFirst => statement.number(sequence.unwrap_or(i64::MAX)),
        TagOrder::LatestLast => statement.number(sequence.unwrap_or(-1)),
        TagOrder::NameAscending => statement.text(tag.unwrap_or_default()),
        TagOrder::NameDescending => statement.text(tag.unwrap_or(AFTER_ALL_TAGS)),
    };
    Ok(statement.number(query.limit))
}

fn place(sequence: u64) -> Result<i64> {
    i64::try_from(sequence).map_err(|_| Error::Backend("a place in the order is too large".into()))
}

#[async_trait]
impl<D: Database> TagStore for SqlStore<D> {
    async fn tag_events(
        &self,
        template: &TemplateId,
        tag: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<TagEvent>> {
        let before = before.map_or(Ok(i64::MAX), place)?;
        let query = Statement::new(
            "SELECT sequence, build_id, build_assignments.created_at AS assigned_at,
                builds.created_at AS build_created_at, builds.finished_at AS build_finished_at
             FROM build_assignments JOIN builds ON builds.id = build_assignments.build_id
             WHERE build_assignments.template_id = $1 AND tag = $2 AND sequence < $3
                AND builds.status = 'ready'
             ORDER BY sequence DESC LIMIT $4",
        )
        .text(template)
        .text(tag)
        .number(before)
        .number(limit);
        let rows = self.database.rows(query).await?;
        rows.iter()
            .map(|row| {
                Ok(TagEvent {
                    sequence: number(row, "sequence")?,
                    build_id: parse("build id", row.text("build_id")?)?,
                    assigned_at: time(row, "assigned_at")?,
                    build_created_at: time(row, "build_created_at")?,
                    build_finished_at: time_option(row, "build_finished_at")?,
                })
            })
            .collect()
    }

    async fn tag_search(&self, template: &TemplateId, query: &TagQuery) -> Result<Vec<TagLatest>> {
        let rows = self.database.rows(search(template, query)?).await?;
        rows.iter()
            .map(|row| {
                Ok(TagLatest {
                    tag: row.text("tag")?,
                    sequence: number(row, "latest")?,
                })
            })
            .collect()
    }

    async fn tag_count(&self, template: &TemplateId) -> Result<u32> {
        let query = Statement::new(
            "SELECT count(DISTINCT tag) AS tags FROM build_assignments
             JOIN builds ON builds.id = build_assignments.build_id
             WHERE build_assignments.template_id = $1 AND builds.status = 'ready'",
        )
        .text(template);
        let row = self.database.row(query).await?;
        let row = row.ok_or_else(|| Error::Backend("a count answered no row".into()))?;
        number(&row, "tags")
    }
}
