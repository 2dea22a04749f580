//! What this machine's node is called, and how it names itself to the control plane.

use super::secrets;
use crate::settings::Settings;
use anyhow::Context as _;
use hearth_control::LocalNode;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The revision of the source that this was built from, where the build said so.
const REVISION: Option<&str> = option_env!("HEARTH_REVISION");

/// The machine's name.
pub fn name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// This machine's node, which keeps its id for as long as the keys are there.
pub fn local(settings: &Settings) -> anyhow::Result<LocalNode> {
    Ok(LocalNode {
        id: id(settings)?,
        name: name(),
        address: match settings.node.grpc_address {
            Some(address) => address.to_string(),
            None => format!("unix:{}", settings.node_socket().display()),
        },
        labels: BTreeMap::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: REVISION.unwrap_or_default().to_owned(),
        round: LocalNode::ROUND,
    })
}

/// What names this machine's node.
pub fn id(settings: &Settings) -> anyhow::Result<Uuid> {
    let file = settings.node_id_file();
    let text = secrets::random_once(&file)?;
    read(&text).with_context(|| format!("{} holds no id of a node", file.display()))
}

/// An id as an operator may write it, or the first half of 32 random bytes in hex.
fn read(text: &str) -> Option<Uuid> {
    if let Ok(id) = text.parse() {
        return Some(id);
    }
    let bytes = hex::decode(text).ok()?;
    let first: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    Some(uuid::Builder::from_random_bytes(first).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_id() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = Settings {
            state_dir: directory.path().to_owned(),
            ..Settings::default()
        };
        let first = local(&settings).expect("is made");
        assert_eq!(first.id.get_version_num(), 4);
        assert_eq!(local(&settings).expect("is read").id, first.id);
        assert_eq!(first.address, "unix:/run/hearth/node.sock");
        std::fs::write(settings.node_id_file(), "nonsense").expect("writable");
        let refused = local(&settings).expect_err("is no id").to_string();
        assert!(
            refused.contains("keys/node holds no id of a node"),
            "{refused}"
        );
    }

    #[test]
    fn ids_are_read_as_people_write_them() {
        let id = Uuid::new_v4();
        assert_eq!(read(&id.to_string()), Some(id));
        assert_eq!(read("abcd"), None);
    }
}
