//! MOUNT version 3 (RFC 1813, appendix I), which a client asks for the root of a volume.
//! It listens at the same port: there is no port mapper.

use crate::exports::Exports;
use crate::xdr::{Malformed, Reader, Writer};

pub(crate) const PROGRAM: u32 = 100_005;
pub(crate) const VERSION: u32 = 3;

const LONGEST_PATH: usize = 1024;
const NO_SUCH_EXPORT: u32 = 2;
const AUTH_SYS: u32 = 1;

const MOUNT: u32 = 1;
const DUMP: u32 = 2;
const UNMOUNT: u32 = 3;
const UNMOUNT_ALL: u32 = 4;
const EXPORTS: u32 = 5;

/// Whether there is a procedure of this number, beside `NULL`.
pub(crate) fn has(procedure: u32) -> bool {
    (MOUNT..=EXPORTS).contains(&procedure)
}

/// Appends the results of a procedure.
pub(crate) fn run(
    procedure: u32,
    exports: &Exports,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Result<(), Malformed> {
    match procedure {
        MOUNT => mount(exports, arguments, reply),
        EXPORTS => {
            for name in exports.names() {
                reply.bool(true);
                reply.opaque(format!("/{name}").as_bytes());
                // For no group in particular.
                reply.bool(false);
            }
            reply.bool(false);
            Ok(())
        }
        UNMOUNT => arguments.opaque(LONGEST_PATH).map(drop),
        // Who has what mounted is remembered nowhere.
        DUMP => {
            reply.bool(false);
            Ok(())
        }
        UNMOUNT_ALL => Ok(()),
        _ => Err(Malformed),
    }
}

fn mount(
    exports: &Exports,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Result<(), Malformed> {
    let path = arguments.opaque(LONGEST_PATH)?;
    let name = path.strip_prefix(b"/").unwrap_or(path);
    match exports.root(name) {
        Some(root) => {
            reply.u32(0);
            reply.opaque(&root);
            // The one way to say who asks.
            reply.u32(1);
            reply.u32(AUTH_SYS);
        }
        None => reply.u32(NO_SUCH_EXPORT),
    }
    Ok(())
}
