//! Jupyter's messages (messaging protocol 5): frames, signatures and the few
//! fields that this client reads.
//!
//! Frames: `[identities…] <IDS|MSG> signature header parent metadata content [buffers…]`;
//! the signature is HMAC-SHA256 over the four JSON frames.

use crate::zmtp;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

const DELIMITER: &[u8] = b"<IDS|MSG>";
const PROTOCOL: &str = "5.3";

/// The key that a kernel and its client share.
#[derive(Clone)]
pub(crate) struct Signer {
    mac: Hmac<Sha256>,
    session: String,
}

/// A message of a kernel, in answer to one of ours.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) kind: String,
    /// When the kernel sent it, as it wrote it (ISO 8601).
    pub(crate) date: Option<String>,
    /// The id of the request it belongs to.
    pub(crate) parent: Option<String>,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Json(Value),
    /// It was larger than a frame may be.
    TooLarge {
        bytes: u64,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a kernel's message is not to be believed: {0}")]
pub(crate) struct Malformed(&'static str);

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    msg_id: String,
    #[serde(default)]
    msg_type: String,
    date: Option<String>,
}

impl Signer {
    pub(crate) fn new(key: &str) -> Self {
        Self {
            mac: Hmac::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length"),
            session: Uuid::new_v4().to_string(),
        }
    }

    fn signature(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }

    /// A request and its id.
    pub(crate) fn request(&self, kind: &str, content: &Value) -> (String, Vec<Bytes>) {
        self.request_with(kind, &json!({}), content)
    }

    /// A request with metadata, and its id.
    pub(crate) fn request_with(
        &self,
        kind: &str,
        metadata: &Value,
        content: &Value,
    ) -> (String, Vec<Bytes>) {
        let id = Uuid::new_v4().to_string();
        let header = json!({
            "msg_id": id,
            "msg_type": kind,
            "username": "hearth",
            "session": self.session,
            "date": chrono::Utc::now().to_rfc3339(),
            "version": PROTOCOL,
        });
        let bodies = [
            header.to_string(),
            "{}".to_owned(),
            metadata.to_string(),
            content.to_string(),
        ];
        let parts: Vec<&[u8]> = bodies.iter().map(String::as_bytes).collect();
        let signature = hex::encode(self.signature(&parts).finalize().into_bytes());
        let mut frames = vec![Bytes::from_static(DELIMITER), Bytes::from(signature)];
        frames.extend(bodies.into_iter().map(Bytes::from));
        (id, frames)
    }

    pub(crate) fn parse(&self, message: &[zmtp::Frame]) -> Result<Incoming, Malformed> {
        let start = message
            .iter()
            .position(|frame| matches!(frame, zmtp::Frame::Data(data) if data == DELIMITER))
            .ok_or(Malformed("no delimiter"))?;
        let [signature, header, parent, metadata, content] = message
            .get(start + 1..start + 6)
            .and_then(|frames| <&[zmtp::Frame; 5]>::try_from(frames).ok())
            .ok_or(Malformed("too few parts"))?;
        let (signature, header, parent) = (data(signature)?, data(header)?, data(parent)?);
        let content = match (metadata, content) {
            (zmtp::Frame::Data(metadata), zmtp::Frame::Data(content)) => {
                let expected = hex::decode(signature).map_err(|_| Malformed("signature"))?;
                self.signature(&[header, parent, metadata, content])
                    .verify_slice(&expected)
                    .map_err(|_| Malformed("signature"))?;
                Content::Json(serde_json::from_slice(content).map_err(|_| Malformed("content"))?)
            }
            // What is not kept cannot be verified, and nothing of it is used but
            // its size.
            (_, zmtp::Frame::TooLarge(bytes)) | (zmtp::Frame::TooLarge(bytes), _) => {
                Content::TooLarge { bytes: *bytes }
            }
        };
        let header: Header = serde_json::from_slice(header).map_err(|_| Malformed("header"))?;
        let parent: Option<Header> = serde_json::from_slice(parent).ok();
        Ok(Incoming {
            kind: header.msg_type,
            date: header.date,
            parent: parent.map(|parent| parent.msg_id),
            content,
        })
    }
}

fn data(frame: &zmtp::Frame) -> Result<&[u8], Malformed> {
    match frame {
        zmtp::Frame::Data(data) => Ok(data),
        zmtp::Frame::TooLarge(_) => Err(Malformed("an oversized header")),
    }
}

impl Incoming {
    /// A string field of the content; empty when it is not there.
    pub(crate) fn text(&self, field: &str) -> &str {
        match &self.content {
            Content::Json(value) => value.get(field).and_then(Value::as_str).unwrap_or_default(),
            Content::TooLarge { .. } => "",
        }
    }

    pub(crate) fn field(&self, field: &str) -> Option<&Value> {
        match &self.content {
            Content::Json(value) => value.get(field),
            Content::TooLarge { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: Vec<Bytes>) -> Vec<zmtp::Frame> {
        parts.into_iter().map(zmtp::Frame::Data).collect()
    }

    #[test]
    fn a_signed_message_is_read_back() {
        let signer = Signer::new("key");
        let (_, parts) = signer.request("stream", &json!({"name": "stdout", "text": "hi"}));
        let mut message = frames(parts);
        // A kernel puts the topic or the identity before it.
        message.insert(0, zmtp::Frame::Data(Bytes::from_static(b"stream")));
        let incoming = signer.parse(&message).expect("valid");
        assert_eq!(incoming.kind, "stream");
        assert_eq!(incoming.text("text"), "hi");
        assert_eq!(incoming.parent, None.or(Some(String::new())));
    }

    #[test]
    fn another_key_or_a_changed_part_is_refused() {
        let signer = Signer::new("key");
        let (_, parts) = signer.request("status", &json!({}));
        let other = Signer::new("other key");
        assert_eq!(
            other.parse(&frames(parts.clone())).err(),
            Some(Malformed("signature"))
        );
        let mut changed = parts;
        changed[5] = Bytes::from_static(b"{\"execution_state\":\"idle\"}");
        assert_eq!(
            signer.parse(&frames(changed)).err(),
            Some(Malformed("signature"))
        );
        assert!(signer.parse(&[]).is_err());
        assert!(
            signer
                .parse(&frames(vec![Bytes::from_static(DELIMITER); 3]))
                .is_err()
        );
    }

    #[test]
    fn an_oversized_content_keeps_its_place() {
        let signer = Signer::new("key");
        let (_, parts) = signer.request("stream", &json!({}));
        let mut message = frames(parts);
        message[5] = zmtp::Frame::TooLarge(1 << 30);
        let incoming = signer.parse(&message).expect("its header is there");
        assert!(matches!(incoming.content, Content::TooLarge { bytes } if bytes == 1 << 30));
    }
}
