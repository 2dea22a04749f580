//! What a delivery says.

use chrono::SecondsFormat;
use hearth_store::Event;
use serde::Serialize;
use serde_json::Value;

/// Version of the form.
const VERSION: &str = "v2";

#[derive(Serialize)]
struct Body<'a> {
    id: String,
    version: &'static str,
    r#type: &'a str,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_category: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_data: Option<Value>,
    sandbox_id: String,
    sandbox_execution_id: String,
    sandbox_template_id: String,
    sandbox_build_id: String,
    sandbox_team_id: String,
}

fn text(id: Option<&impl ToString>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

/// The JSON of a delivery of this event, the same for each attempt.
pub(crate) fn body(event: &Event) -> serde_json::Result<String> {
    let data = event.data.as_deref();
    let body = Body {
        id: event.id.to_string(),
        version: VERSION,
        r#type: &event.event_type,
        timestamp: event
            .occurred_at
            .to_rfc3339_opts(SecondsFormat::Millis, true),
        event_category: event.category.as_deref(),
        event_label: event.label.as_deref(),
        event_data: data.map(serde_json::from_str).transpose()?,
        sandbox_id: text(event.sandbox_id.as_ref()),
        sandbox_execution_id: text(event.execution_id.as_ref()),
        sandbox_template_id: text(event.template_id.as_ref()),
        sandbox_build_id: text(event.build_id.as_ref()),
        sandbox_team_id: event.team_id.to_string(),
    };
    serde_json::to_string(&body)
}
