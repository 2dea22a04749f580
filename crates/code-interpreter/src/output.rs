//! What `/execute` answers, line by line, and the bounded way there.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// How much may wait for a client that reads slowly, in bytes and in lines. One
/// line may be larger than all of it.
const MAX_WAITING_BYTES: usize = 8 << 20;
const MAX_WAITING_LINES: usize = 4096;

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Output {
    /// How many executions the context has had, this one included.
    NumberOfExecutions {
        /// The count.
        execution_count: u64,
    },
    /// Standard output.
    Stdout {
        /// What was written.
        text: String,
        /// When, RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        timestamp: Option<String>,
    },
    /// Standard error.
    Stderr {
        /// What was written.
        text: String,
        /// When, RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        timestamp: Option<String>,
    },
    /// A value, in all the forms that the kernel gave it.
    Result(Map<String, Value>),
    /// An exception that ended the execution.
    Error {
        /// The exception's class.
        name: String,
        /// Its message.
        value: String,
        /// Where it was raised, in lines.
        traceback: String,
    },
    /// Nothing happens, and the connection stays open.
    Keepalive,
    /// Nothing follows.
    EndOfExecution,
}

/// The kernel's MIME types and the fields that clients know them by.
const FIELDS: &[(&str, &str)] = &[
    ("text/plain", "text"),
    ("text/html", "html"),
    ("text/markdown", "markdown"),
    ("image/svg+xml", "svg"),
    ("image/png", "png"),
    ("image/jpeg", "jpeg"),
    ("application/pdf", "pdf"),
    ("text/latex", "latex"),
    ("application/json", "json"),
    ("application/javascript", "javascript"),
    ("e2b/data", "data"),
    ("e2b/chart", "chart"),
];

impl Output {
    /// A MIME bundle as a result. `main` marks the value of the code's last
    /// expression, apart from what it displayed.
    #[must_use]
    pub fn result(mut bundle: Map<String, Value>, main: bool) -> Self {
        let mut fields = Map::new();
        for (mime, field) in FIELDS {
            if let Some(value) = bundle.remove(*mime) {
                fields.insert((*field).to_owned(), joined(mime, value));
            }
        }
        if let Some(Value::String(text)) = fields.get_mut("text") {
            // A string's value is meant, not its representation.
            let quoted = text.len() >= 2 && text.starts_with('\'') && text.ends_with('\'');
            if quoted {
                *text = text[1..text.len() - 1].to_owned();
            }
        }
        let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        if fields.get("chart").is_some_and(empty) {
            fields.remove("chart");
        }
        if !bundle.is_empty() {
            fields.insert("extra".to_owned(), Value::Object(bundle));
        }
        fields.insert("is_main_result".to_owned(), main.into());
        Self::Result(fields)
    }

    pub(crate) fn line(&self) -> Bytes {
        let mut writer = BytesMut::new().writer();
        serde_json::to_writer(&mut writer, self).expect("outputs are JSON and memory takes them");
        let mut line = writer.into_inner();
        line.put_u8(b'\n');
        line.freeze()
    }
}

/// Kernels may send text as a list of lines.
fn joined(mime: &str, value: Value) -> Value {
    let structured = matches!(mime, "application/json" | "e2b/data" | "e2b/chart");
    match value {
        Value::Array(lines) if !structured => lines
            .iter()
            .filter_map(Value::as_str)
            .collect::<String>()
            .into(),
        value => value,
    }
}

/// Where an execution puts its lines.
#[derive(Debug)]
pub(crate) struct Sink {
    lines: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// Where the client takes them from. Dropped, it tells the sink.
#[derive(Debug)]
pub(crate) struct Source(mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>);

pub(crate) fn channel() -> (Sink, Source) {
    let (lines, receiver) = mpsc::channel(MAX_WAITING_LINES);
    let sink = Sink {
        lines,
        room: Arc::new(Semaphore::new(MAX_WAITING_BYTES)),
    };
    (sink, Source(receiver))
}

impl Sink {
    /// Waits for room. A client that has left gets nothing, and that is no error
    /// here. Cancel-safe: the line is put whole or not at all.
    pub(crate) async fn put(&self, output: &Output) {
        let line = output.line();
        let size = u32::try_from(line.len().min(MAX_WAITING_BYTES)).expect("a few mebibytes");
        tokio::select! {
            permit = Arc::clone(&self.room).acquire_many_owned(size) => {
                if let Ok(permit) = permit {
                    let _ = self.lines.send((line, permit)).await;
                }
            }
            () = self.left() => {}
        }
    }

    /// Completes when the client is gone.
    pub(crate) async fn left(&self) {
        self.lines.closed().await;
    }

    pub(crate) fn has_left(&self) -> bool {
        self.lines.is_closed()
    }
}

impl Source {
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|(line, _room)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn a_bundle_becomes_the_fields_that_clients_know() {
        let bundle = object(json!({
            "text/plain": "'it'", "text/html": ["<b>", "x</b>"], "image/png": "aGk=",
            "application/json": [1, 2], "e2b/chart": {}, "application/vnd.x+json": {"a": 1},
        }));
        let Output::Result(fields) = Output::result(bundle, true) else {
            panic!("a result");
        };
        assert_eq!(
            Value::Object(fields),
            json!({
                "text": "it", "html": "<b>x</b>", "png": "aGk=", "json": [1, 2],
                "extra": {"application/vnd.x+json": {"a": 1}}, "is_main_result": true,
            })
        );
    }

    #[test]
    fn lines_are_tagged_json() {
        let line = Output::NumberOfExecutions { execution_count: 3 }.line();
        assert_eq!(
            line,
            "{\"type\":\"number_of_executions\",\"execution_count\":3}\n"
        );
        assert_eq!(
            Output::EndOfExecution.line(),
            "{\"type\":\"end_of_execution\"}\n"
        );
        let result = Output::result(object(json!({"text/plain": "2"})), false).line();
        let result: Value = serde_json::from_slice(&result).unwrap();
        assert_eq!(
            result,
            json!({"type": "result", "text": "2", "is_main_result": false})
        );
    }

    #[tokio::test]
    async fn a_slow_client_holds_the_kernel_back_and_a_gone_one_does_not() {
        let (sink, mut source) = channel();
        let big = Output::Stdout {
            text: "x".repeat(MAX_WAITING_BYTES / 2 + 1),
            timestamp: None,
        };
        sink.put(&big).await;
        let second = sink.put(&big);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending(), "there is no room");
        source.next().await.expect("the first");
        second.await;
        drop(source);
        sink.put(&big).await;
        sink.put(&big).await;
        assert!(sink.has_left());
    }
}
