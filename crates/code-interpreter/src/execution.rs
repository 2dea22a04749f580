//! One execution, followed from the kernel's messages. Synchronous: a message
//! goes in, lines for the client come out.
//!
//! ```text
//! busy ─▶ execute_input ─▶ output … ─▶ execute_reply ─▶ idle     (done)
//! ```
//!
//! A kernel that produces faster than it is read may lose published messages, the
//! final `idle` among them; its reply is never lost and ends the execution too,
//! after a pause in which nothing more was published.

use crate::{
    message::{Content, Incoming},
    output::Output,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{borrow::Cow, collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How long after the reply a lost `idle` is waited for.
const IDLE_GRACE: Duration = Duration::from_secs(2);
/// How long after `idle` a reply is waited for.
const REPLY_GRACE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Execution {
    id: String,
    counted: bool,
    failed: bool,
    replied: bool,
    idle: bool,
    deadline: Option<Instant>,
}

/// Environment variables that come with an execution, for kernels that take them: in
/// the request's metadata, under `hearth`. It saves what an execution of its own costs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Environment<'a> {
    /// Unset for good, before all else.
    pub(crate) unset: Vec<String>,
    /// Set for good.
    pub(crate) set: BTreeMap<String, String>,
    /// Set for this execution alone.
    pub(crate) call: Cow<'a, BTreeMap<String, String>>,
}

impl Environment<'_> {
    /// The request's metadata.
    pub(crate) fn metadata(&self) -> Value {
        match self.unset.is_empty() && self.set.is_empty() && self.call.is_empty() {
            true => json!({}),
            false => json!({ "hearth": self }),
        }
    }
}

/// The content of an `execute_request`.
pub(crate) fn request(code: &str, silent: bool) -> Value {
    json!({
        "code": code,
        "silent": silent,
        "store_history": !silent,
        "user_expressions": {},
        "allow_stdin": false,
        "stop_on_error": false,
    })
}

impl Execution {
    /// `id` is the request's.
    pub(crate) fn new(id: String) -> Self {
        Self {
            id,
            counted: false,
            failed: false,
            replied: false,
            idle: false,
            deadline: None,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.replied && self.idle
    }

    /// When to stop waiting for what does not come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn is_ours(&self, message: &Incoming) -> bool {
        message.parent.as_deref() == Some(self.id.as_str())
    }

    /// Something published. What belongs to other requests is nothing to us.
    pub(crate) fn published(&mut self, message: &Incoming) -> Vec<Output> {
        if !self.is_ours(message) {
            return Vec::new();
        }
        if self.replied {
            self.deadline = Some(Instant::now() + IDLE_GRACE);
        }
        if let Content::TooLarge { bytes } = message.content {
            return vec![Output::Stderr {
                text: format!("[an output of {bytes} bytes was dropped: it is too large]\n"),
                timestamp: message.date.clone(),
            }];
        }
        match message.kind.as_str() {
            "execute_input" => self.count(message).into_iter().collect(),
            "stream" => {
                let (text, timestamp) = (message.text("text").to_owned(), message.date.clone());
                vec![match message.text("name") {
                    "stderr" => Output::Stderr { text, timestamp },
                    _ => Output::Stdout { text, timestamp },
                }]
            }
            "execute_result" => bundle(message, true),
            "display_data" | "update_display_data" => bundle(message, false),
            "error" => self.fail(message).into_iter().collect(),
            "status" => {
                if message.text("execution_state") == "idle" {
                    self.idle = true;
                    if !self.replied {
                        self.deadline = Some(Instant::now() + REPLY_GRACE);
                    }
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The answer to the request.
    pub(crate) fn reply(&mut self, message: &Incoming) -> Vec<Output> {
        if !self.is_ours(message) {
            return Vec::new();
        }
        self.replied = true;
        self.deadline = Some(Instant::now() + IDLE_GRACE);
        let mut outputs: Vec<Output> = self.count(message).into_iter().collect();
        match message.text("status") {
            "ok" => {}
            // Usually published before; kernels that do not are heard here.
            "error" if self.failed || !self.idle => {}
            "error" => outputs.extend(self.fail(message)),
            status => outputs.push(Output::Error {
                name: "ExecutionAborted".to_owned(),
                value: format!("the kernel did not run the code: {status}"),
                traceback: String::new(),
            }),
        }
        outputs
    }

    fn count(&mut self, message: &Incoming) -> Option<Output> {
        if self.counted {
            return None;
        }
        let execution_count = message.field("execution_count").and_then(Value::as_u64)?;
        self.counted = true;
        Some(Output::NumberOfExecutions { execution_count })
    }

    fn fail(&mut self, message: &Incoming) -> Option<Output> {
        if std::mem::replace(&mut self.failed, true) {
            return None;
        }
        let lines = message.field("traceback").and_then(Value::as_array);
        let lines: Vec<&str> = lines
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        Some(Output::Error {
            name: message.text("ename").to_owned(),
            value: message.text("evalue").to_owned(),
            traceback: lines.join("\n"),
        })
    }
}

fn bundle(message: &Incoming, main: bool) -> Vec<Output> {
    let data = message.field("data").and_then(Value::as_object);
    data.cloned()
        .map(|data| Output::result(data, main))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, parent: &str, content: Value) -> Incoming {
        Incoming {
            kind: kind.to_owned(),
            date: Some("2026-01-01T00:00:00Z".to_owned()),
            parent: Some(parent.to_owned()),
            content: Content::Json(content),
        }
    }

    #[test]
    fn an_execution_is_followed_to_its_end() {
        let mut execution = Execution::new("a".to_owned());
        let busy = message("status", "a", json!({"execution_state": "busy"}));
        assert_eq!(execution.published(&busy), vec![]);
        let input = message("execute_input", "a", json!({"execution_count": 7}));
        assert_eq!(
            execution.published(&input),
            vec![Output::NumberOfExecutions { execution_count: 7 }]
        );
        let other = message("stream", "b", json!({"name": "stdout", "text": "not ours"}));
        assert_eq!(execution.published(&other), vec![]);
        let error = json!({"ename": "E", "evalue": "v", "traceback": ["one", "two"], "status": "error", "execution_count": 7});
        let outputs = execution.published(&message("error", "a", error.clone()));
        assert_eq!(
            outputs,
            vec![Output::Error {
                name: "E".to_owned(),
                value: "v".to_owned(),
                traceback: "one\ntwo".to_owned()
            }]
        );
        assert_eq!(
            execution.reply(&message("execute_reply", "a", error)),
            vec![]
        );
        assert!(!execution.is_done());
        let idle = message("status", "a", json!({"execution_state": "idle"}));
        assert_eq!(execution.published(&idle), vec![]);
        assert!(execution.is_done());
    }

    #[test]
    fn a_lost_idle_leaves_a_deadline() {
        let mut execution = Execution::new("a".to_owned());
        assert_eq!(execution.deadline(), None);
        let reply = message(
            "execute_reply",
            "a",
            json!({"status": "ok", "execution_count": 1}),
        );
        assert_eq!(
            execution.reply(&reply),
            vec![Output::NumberOfExecutions { execution_count: 1 }]
        );
        assert!(!execution.is_done());
        assert!(execution.deadline().is_some());
    }

    #[test]
    fn an_oversized_output_is_named() {
        let mut execution = Execution::new("a".to_owned());
        let mut huge = message("stream", "a", json!({}));
        huge.content = Content::TooLarge { bytes: 99 };
        let outputs = execution.published(&huge);
        assert!(
            matches!(&outputs[..], [Output::Stderr { text, .. }] if text.contains("99 bytes")),
            "{outputs:?}"
        );
    }
}
