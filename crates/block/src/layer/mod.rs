//! One layer on disk: a directory with a sparse file `data`, in which a block
//! lies at the same offset as in the device, and a file `index` that says which
//! blocks count (see [`index`] for its format).
//!
//! ```text
//! create ─▶ writable ──seal──▶ sealing ──finish──▶ immutable
//!              ▲ │                │
//!              └─┘ reopen         └─ reopened as immutable: finished then
//! ```
//!
//! Why a crash cannot corrupt: data is written before the mark that makes it
//! visible, and the mark before the request is answered. A process that dies
//! leaves both in the page cache, where the next one finds them; a torn last
//! record ends the log. After a power cut the boot id differs, and only marks
//! covered by a commit count; a commit is written after the data of its marks
//! was synced. What lies in the data file without a mark is never shown.

pub mod index;
mod open;
mod writable;

use std::path::Path;

pub(crate) use open::{create, open_immutable, open_or_create, open_writable};
pub(crate) use writable::{Limit, WritableLayer};

use crate::error::Error;
use index::IndexError;

const DATA_FILE: &str = "data";
const INDEX_FILE: &str = "index";
/// A whole index on its way to replace the old one.
const INDEX_NEW_FILE: &str = "index.new";

fn index_error(path: &Path, error: &IndexError) -> Error {
    match error {
        IndexError::Empty => Error::Uncommitted {
            path: path.to_owned(),
        },
        other => Error::corrupt(path, other.to_string()),
    }
}
