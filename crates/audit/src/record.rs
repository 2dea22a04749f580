//! What a record says.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

/// The longest text of a stranger's in a record, in bytes.
const MAX_TEXT_BYTES: usize = 256;
/// The longest list of IDs, in bytes.
const MAX_LIST_BYTES: usize = 4096;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A call of the API that changes something.
    Api,
    /// A request whose credentials were refused.
    Refused,
    /// Something that the host's owner did at its command line.
    Operator,
    /// Records that were not written; `count` says how many.
    Lost,
}

/// How an operator's action ended. Calls of the API have a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    Failed,
}

/// One line of the log. Whatever does not apply is left out.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// RFC 3339 with milliseconds, UTC.
    #[serde(serialize_with = "millis")]
    pub time: DateTime<Utc>,
    pub event: Event,
    /// The answer's `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// ID of the team that was acted for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// ID of the API key, as `hearth key list` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// What that key may be used for, such as `all` or `sandboxes,read-only`; `operator`
    /// where the operator's token was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Address of the client, or `sandbox:<id>` of a sandbox of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `session` where a session of the web interface stood for the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<&'static str>,
    /// `root`, or the user behind `sudo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The route's pattern, such as `/sandboxes/{sandboxID}/pause`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// What an operator did, such as `key.create`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'static str>,
    /// ID or name of what it was done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// IDs of what the call made, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// HTTP status of the answer; absent when the client left before there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Records that this one stands for, where it is more than itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Record {
    /// A record of this moment that says nothing yet.
    #[must_use]
    pub fn new(event: Event) -> Self {
        Self {
            time: Utc::now(),
            event,
            request_id: None,
            team: None,
            key_id: None,
            scope: None,
            source: None,
            via: None,
            user: None,
            method: None,
            route: None,
            action: None,
            object: None,
            created: None,
            status: None,
            outcome: None,
            count: None,
        }
    }

    pub(crate) fn lost(count: u64) -> Self {
        Self {
            count: Some(count),
            ..Self::new(Event::Lost)
        }
    }

    /// Cuts what strangers chose to a bound.
    pub(crate) fn cut(&mut self) {
        for (text, most) in [
            (&mut self.object, MAX_TEXT_BYTES),
            (&mut self.method, MAX_TEXT_BYTES),
            (&mut self.user, MAX_TEXT_BYTES),
            (&mut self.created, MAX_LIST_BYTES),
        ] {
            if let Some(text) = text {
                text.truncate(text.floor_char_boundary(most));
                text.shrink_to_fit();
            }
        }
    }

    /// The record as a line, cut.
    pub(crate) fn line(mut self) -> Vec<u8> {
        self.cut();
        let mut line =
            serde_json::to_vec(&self).expect("strings, numbers and times always serialize");
        line.push(b'\n');
        line
    }
}

fn millis<S: serde::Serializer>(time: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_of_bounded_length() {
        let record = Record {
            object: Some("é\n\"".repeat(1000)),
            method: Some("POST".to_owned()),
            status: Some(201),
            ..Record::new(Event::Api)
        };
        let line = record.line();
        assert!(line.len() < 1024, "{}", line.len());
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(read["event"], "api");
        assert_eq!(read["status"], 201);
        assert_eq!(read.get("team"), None);
        let time = read["time"].as_str().expect("text");
        assert!(time.ends_with('Z') && time.len() == 24, "{time}");
    }
}
