//! Unpacking of kernels and modules with the host's own tools, which the
//! distribution keeps patched. Lengths are bounded: a few megabytes of zeros can
//! pretend to be anything.

use super::{Compression, ImageError};
use crate::{Error, tool::Tool};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

const GZIP: Tool = Tool::new("gzip", "gzip", 120);
const BZIP2: Tool = Tool::new("bzip2", "bzip2", 120);
const XZ: Tool = Tool::new("xz", "xz-utils", 120);
const LZ4: Tool = Tool::new("lz4", "lz4", 120);
const ZSTD: Tool = Tool::new("zstd", "zstd", 120);
/// A module longer than this is refused, in bytes.
const MAX_MODULE_BYTES: u64 = 64 << 20;

/// Unpacks the file `packed` into the new file `target`.
pub(super) async fn unpack(
    compression: Compression,
    packed: &Path,
    target: &Path,
) -> Result<(), Error> {
    let tool = match compression {
        Compression::None => {
            fs::copy(packed, target).map_err(Error::io("copy", packed))?;
            return Ok(());
        }
        Compression::Gzip => GZIP,
        Compression::Bzip2 => BZIP2,
        Compression::Xz | Compression::Lzma => XZ,
        Compression::Lz4Legacy => LZ4,
        Compression::Zstd => ZSTD,
        Compression::Lzo => return Err(ImageError::UnsupportedCompression(compression).into()),
    };
    let input = File::open(packed).map_err(Error::io("open", packed))?;
    let output = File::create_new(target).map_err(Error::io("create", target))?;
    let mut command = tool.command();
    command.arg("-dc").stdin(input).stdout(Stdio::from(output));
    tool.run(command).await
}

/// A module's bytes, unpacked by its suffix.
pub(super) fn read_module(path: &Path) -> Result<Vec<u8>, Error> {
    let (tool, package) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => {
            let file = File::open(path).map_err(Error::io("open", path))?;
            return read_bounded(file, path);
        }
    };
    let mut child = Command::new(tool)
        .arg("-dc")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::ToolMissing { tool, package },
            _ => Error::io("run", tool)(error),
        })?;
    let content = match child.stdout.take() {
        Some(output) => read_bounded(output, path),
        None => Ok(Vec::new()),
    };
    // Closing the pipe ends a tool that still had more to say.
    let status = child.wait().map_err(Error::io("wait for", tool))?;
    let content = content?;
    if !status.success() {
        return Err(Error::Module {
            module: path.display().to_string(),
            why: format!("{tool} cannot unpack it"),
        });
    }
    Ok(content)
}

fn read_bounded(input: impl Read, path: &Path) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    input
        .take(MAX_MODULE_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(Error::io("read", path))?;
    if content.len() as u64 > MAX_MODULE_BYTES {
        return Err(Error::Module {
            module: path.display().to_string(),
            why: format!("longer than {MAX_MODULE_BYTES} bytes"),
        });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_unpacks_to_what_was_packed() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, vec![7u8; 100_000]).unwrap();
        for (tool, suffix, compression) in [
            ("gzip", "gz", Compression::Gzip),
            ("xz", "xz", Compression::Xz),
        ] {
            let packed = directory.path().join(format!("plain.{suffix}"));
            let status = Command::new(tool)
                .args(["-k"])
                .arg(&plain)
                .status()
                .unwrap();
            assert!(status.success());
            let bytes = fs::read(&packed).unwrap();
            assert_eq!(Compression::of(&bytes), Some(compression));
            let target = directory.path().join(tool);
            unpack(compression, &packed, &target).await.unwrap();
            assert_eq!(fs::read(&target).unwrap(), vec![7u8; 100_000]);
            assert_eq!(read_module(&packed).unwrap(), vec![7u8; 100_000]);

            fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
            let cut = directory.path().join(format!("{tool}-cut"));
            assert!(unpack(compression, &packed, &cut).await.is_err());
            assert!(read_module(&packed).is_err());
        }
    }
}
