//! The wire form of QMP: one JSON object a line (QEMU's `docs/interop/qmp-spec`).

use serde::Deserialize;
use serde_json::{Value, json};

/// What QEMU sends.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// The first line of a connection, with QEMU's version in numbers.
    Greeting { version: Option<String> },
    /// The answer to the command with this id.
    Answer {
        id: u64,
        result: Result<Value, String>,
    },
    /// Something happened.
    Event { name: String, data: Value },
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<WireError>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct WireError {
    #[serde(rename = "desc", default)]
    description: String,
}

pub(super) fn parse(line: &[u8]) -> Result<Message, String> {
    let wire: Wire = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match wire {
        Wire {
            greeting: Some(greeting),
            ..
        } => Ok(Message::Greeting {
            version: version(&greeting["version"]["qemu"]),
        }),
        Wire {
            event: Some(name),
            data,
            ..
        } => Ok(Message::Event { name, data }),
        Wire {
            id: Some(id),
            returned: Some(value),
            ..
        } => Ok(Message::Answer {
            id,
            result: Ok(value),
        }),
        Wire {
            id: Some(id),
            error: Some(error),
            ..
        } => Ok(Message::Answer {
            id,
            result: Err(error.description),
        }),
        Wire {
            error: Some(error), ..
        } => Err(error.description),
        _ => Err("a message of no known kind".to_owned()),
    }
}

fn version(numbers: &Value) -> Option<String> {
    let number = |name: &str| numbers[name].as_u64();
    let (major, minor, micro) = (number("major")?, number("minor")?, number("micro")?);
    Some(format!("{major}.{minor}.{micro}"))
}

pub(super) fn command(id: u64, name: &str, arguments: &Value) -> Vec<u8> {
    let mut message = json!({ "execute": name, "id": id });
    if !arguments.is_null() {
        message["arguments"] = arguments.clone();
    }
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_apart() {
        let greeting = |version: Option<&str>| {
            Ok(Message::Greeting {
                version: version.map(str::to_owned),
            })
        };
        assert_eq!(parse(br#"{"QMP": {"version": {}}}"#), greeting(None));
        assert_eq!(
            parse(br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}}}"#),
            greeting(Some("7.2.22"))
        );
        assert_eq!(
            parse(br#"{"return": {}, "id": 4}"#),
            Ok(Message::Answer {
                id: 4,
                result: Ok(json!({}))
            })
        );
        assert_eq!(
            parse(br#"{"id": 5, "error": {"class": "GenericError", "desc": "no"}}"#),
            Ok(Message::Answer {
                id: 5,
                result: Err("no".to_owned())
            })
        );
        assert_eq!(
            parse(br#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#),
            Ok(Message::Event {
                name: "STOP".to_owned(),
                data: Value::Null
            })
        );
        for bad in [
            &b"{}"[..],
            b"",
            b"[1]",
            b"{\"id\": -1, \"return\": {}}",
            b"\xff",
        ] {
            assert!(parse(bad).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line: Vec<u8>) {
            let _ = parse(&line);
        }
    }
}
