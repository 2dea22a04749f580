//! `GET /telemetry?after=ID&sample=SECONDS`: the log as it grows and a sample of
//! the metrics every so often, one JSON object per line, until the reader goes
//! away or the sandbox starts another life (`/init`).
//!
//! ```json
//! {"batch":{"entries":[{"id":1763898000000000,"level":"info","logger":"process","message":"…"}]}}
//! {"metrics":{"ts":1763898000,"cpu_count":2}}
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Batch, Position};
use crate::Agent;
use crate::http::metrics::{Meter, Metrics};
use crate::http::{HttpError, Response};

/// Entries of one line of the stream, in bytes as the log counts them.
const BATCH_BYTES: usize = 128 * 1024;
/// How long more entries are waited for once there is one.
const BATCH_DELAY: Duration = Duration::from_millis(100);
const DEFAULT_SAMPLE: Duration = Duration::from_secs(5);
const MAX_SAMPLE: u64 = 3600;
/// When the first sample comes, so that short lives have one too.
const FIRST_SAMPLE: Duration = Duration::from_secs(1);

#[derive(serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Batch(&'a Batch),
    Metrics(&'a Metrics),
}

struct Reader {
    agent: Arc<Agent>,
    position: Position,
    /// Of its own, because each question starts a new measurement.
    meter: Meter,
    ticks: tokio::time::Interval,
    ended: CancellationToken,
}

/// Answers with the stream.
pub fn answer<B>(agent: &Arc<Agent>, request: &Request<B>) -> Result<Response, HttpError> {
    let query = request.uri().query().unwrap_or("");
    let number = |name: &str| -> Result<Option<u64>, HttpError> {
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.parse())
            .transpose()
            .map_err(|_| HttpError::bad_request(format!("{name} is not a number")))
    };
    let after = number("after")?.unwrap_or(0);
    let sample = number("sample")?.map_or(DEFAULT_SAMPLE, |seconds| {
        Duration::from_secs(seconds.clamp(1, MAX_SAMPLE))
    });
    let first = Instant::now() + sample.min(FIRST_SAMPLE);
    let mut ticks = tokio::time::interval_at(first, sample);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let meter = Meter::default();
    // The measurement begins here.
    if let Err(error) = meter.read() {
        tracing::warn!(%error, "read metrics failed");
    }
    let reader = Reader {
        agent: Arc::clone(agent),
        position: Position { after },
        meter,
        ticks,
        ended: agent.life(),
    };
    let lines = futures::stream::unfold(reader, |mut reader| async move {
        let line = reader.next().await?;
        Some((Ok(Frame::data(line)), reader))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                biased;
                () = self.ended.cancelled() => return None,
                () = self.agent.stop.cancelled() => return None,
                () = self.agent.handover.begun().cancelled() => return None,
                _ = self.ticks.tick() => match self.meter.read() {
                    Ok(metrics) => return line(&Line::Metrics(&metrics)),
                    Err(error) => tracing::warn!(%error, "read metrics failed"),
                },
                () = self.agent.config.log.wait(&self.position) => {
                    tokio::time::sleep(BATCH_DELAY).await;
                    let batch = self.agent.config.log.take(&mut self.position, BATCH_BYTES);
                    return line(&Line::Batch(&batch));
                }
            }
        }
    }
}

fn line(line: &Line<'_>) -> Option<Bytes> {
    let mut text = serde_json::to_vec(line).ok()?;
    text.push(b'\n');
    Some(text.into())
}
