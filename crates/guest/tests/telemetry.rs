//! What a real agent tells of its sandbox, as the host collects it.

mod common;

use bytes::Bytes;
use common::{Agent, block_on, shell};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

struct Collector {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
}

impl Collector {
    async fn connect(agent: &Agent, query: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let url = format!("http://{}/telemetry?{query}", agent.address);
        let answer = client.get(url.parse().expect("a URL")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        Self {
            body: answer.into_body(),
            buffer: Vec::new(),
        }
    }

    /// The next line; `None` at the stream's end.
    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            let frame = self.body.frame().await?.expect("no error");
            self.buffer
                .extend_from_slice(&frame.into_data().expect("data"));
        }
    }

    /// Log entries until one's message is as given.
    async fn entries_until(&mut self, message: &str) -> Vec<Value> {
        let mut entries = Vec::new();
        loop {
            let line = self.line().await.expect("the stream goes on");
            let Some(batch) = line.get("batch") else {
                continue;
            };
            assert!(batch.get("lost").is_none(), "{batch}");
            entries.extend(batch["entries"].as_array().expect("entries").clone());
            if entries.iter().any(|entry| entry["message"] == message) {
                return entries;
            }
        }
    }
}

#[test]
fn processes_and_their_lines_are_logged_in_order() {
    let agent = Agent::start();
    block_on(async {
        let processes = agent.processes();
        let command = shell("echo one; echo two >&2; sleep 0.1; echo three; exit 3");
        let told = told!(processes.start(command).await.expect("a stream")).expect("no error");
        assert_eq!(told.exit_code(), 3);

        let entries = Collector::connect(&agent, "after=0")
            .await
            .entries_until("process ended")
            .await;
        let (first, last) = (&entries[0], &entries[entries.len() - 1]);
        assert_eq!(first["message"], "process started");
        assert_eq!(first["fields"]["pid"], told.pid.to_string());
        let command = first["fields"]["command"].as_str().expect("text");
        assert!(command.starts_with("/bin/sh -c echo one;"), "{command}");
        assert_eq!(last["fields"]["status"], "exit status 3");
        let line = |text: &str| {
            let mut all = entries.iter();
            all.find(|entry| entry["message"] == text)
                .unwrap_or_else(|| panic!("{text} in {entries:?}"))
        };
        assert_eq!(line("one")["fields"]["stream"], "stdout");
        assert_eq!(line("two")["fields"]["stream"], "stderr");
        assert_eq!(line("three")["logger"], "process");
        let ids: Vec<u64> = entries
            .iter()
            .map(|entry| entry["id"].as_u64().expect("a number"))
            .collect();
        assert!(ids.is_sorted());

        // A collector that comes again names what it has.
        let command = shell("true");
        let _ = told!(processes.start(command).await.expect("a stream"));
        let after = ids.last().expect("an id");
        let again = Collector::connect(&agent, &format!("after={after}"))
            .await
            .entries_until("process ended")
            .await;
        assert_eq!(again.len(), 2, "{again:?}");
    });
}

#[test]
fn secrets_do_not_reach_the_log() {
    let agent = Agent::start();
    block_on(async {
        let processes = agent.processes();
        let run = async |request| {
            let told = told!(processes.start(request).await.expect("a stream"));
            assert_eq!(told.expect("no error").exit_code(), 0);
        };
        run(shell(
            "true mcp-gateway --config '{\"k\": \"S3CRET\"}'; true --token S3CRET",
        ))
        .await;
        let kept_out = |value: &str| {
            let mut request = shell("echo S3CRET");
            let process = request.process.as_option_mut().expect("a process");
            process
                .envs
                .insert("HEARTH_COMMAND_LOG".into(), value.into());
            request
        };
        run(kept_out("off")).await;
        let everything = serde_json::json!({"envVars": {"HEARTH_COMMAND_LOG": "off"}});
        assert_eq!(agent.init(everything).await.status(), 204);
        run(shell("echo S3CRET")).await;
        run(kept_out("on")).await;

        let mut collector = Collector::connect(&agent, "after=0").await;
        let mut entries = Vec::new();
        let of = |entries: &[Value], message: &str| {
            let all = entries.iter();
            all.filter(|entry| entry["message"] == message).count()
        };
        while of(&entries, "process ended") < 4 {
            entries.extend(collector.entries_until("process ended").await);
        }
        let commands: Vec<&Value> = entries
            .iter()
            .filter(|entry| entry["message"] == "process started")
            .map(|entry| &entry["fields"]["command"])
            .collect();
        assert_eq!(
            commands[0],
            "/bin/sh -c true mcp-gateway --config [hidden]; true --token [hidden]"
        );
        assert!(
            commands[1].is_null() && commands[2].is_null(),
            "{commands:?}"
        );
        assert_eq!(commands[3], "/bin/sh -c echo S3CRET");
        assert_eq!(of(&entries, "S3CRET"), 1, "{entries:?}");
    });
}

#[test]
fn samples_come_by_themselves_until_the_next_life() {
    let agent = Agent::start();
    block_on(async {
        let mut collector = Collector::connect(&agent, "sample=1").await;
        let line = collector.line().await.expect("a sample");
        let share = line["metrics"]["cpu_used_pct"].as_f64().expect("a number");
        assert!((0.0..=100.0).contains(&share), "{line}");
        assert!(line["metrics"]["mem_total"].as_u64() > Some(0));
        assert_eq!(agent.init(serde_json::json!({})).await.status(), 204);
        while collector.line().await.is_some() {}
    });
}

#[test]
fn the_token_guards_it() {
    let agent = Agent::start();
    block_on(async {
        agent.init(serde_json::json!({"accessToken": "t"})).await;
        let refused = agent.request("GET", "/telemetry", &[], "").await;
        assert_eq!(refused.status(), 401);
        let bad = [("x-access-token", "t")];
        let refused = agent.request("GET", "/telemetry?after=x", &bad, "").await;
        assert_eq!(refused.status(), 400);
    });
}
