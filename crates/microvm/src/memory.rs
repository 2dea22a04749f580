//! A memory in pieces, put together for an engine that maps nothing but a whole file.

use crate::Error;
use hearth_machine::{MachineRecord, MemoryOverlay, MemorySource};
use hearth_snapshot::sparse;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// What is copied at once, in bytes.
const PART: usize = 1 << 20;

/// Where the image of a memory in pieces is put together, by the place of the VM's scratch
/// file, see [`hearth_machine::RestoreSpec::scratch`].
#[must_use]
pub fn composed_image(scratch: &Path) -> PathBuf {
    scratch.with_added_extension("image")
}

/// The image that was put together for this VM, if one was.
pub(crate) fn composed_of(record: &MachineRecord) -> Option<PathBuf> {
    let composed = composed_image(record.memory_scratch.as_deref()?);
    (record.memory_file == composed).then_some(composed)
}

/// Puts the memory together in the file `to`, in place of what is there.
pub(crate) async fn compose(memory: &MemorySource, to: PathBuf) -> Result<MemorySource, Error> {
    let MemorySource::Pieces { image, overlay } = memory.clone() else {
        return Ok(memory.clone());
    };
    let put = tokio::task::spawn_blocking(move || {
        let put = put_together(&image, &overlay, &to);
        put.inspect_err(|_| drop(fs::remove_file(&to)))
            .map_err(Error::io("put the memory together in", &to))?;
        Ok(MemorySource::Image(to))
    });
    put.await.map_err(Error::Task)?
}

fn put_together(image: &Path, overlay: &MemoryOverlay, to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sparse::copy(image, to)?;
    let target = File::options().write(true).open(to)?;
    let files = overlay.files.iter().map(File::open);
    let files = files.collect::<io::Result<Vec<_>>>()?;
    let mut buffer = vec![0; PART];
    for piece in &overlay.pieces {
        let file = files.get(piece.file).ok_or(io::ErrorKind::InvalidInput)?;
        let mut done = 0;
        while done < piece.length {
            let part = usize::try_from(piece.length - done).map_or(PART, |rest| rest.min(PART));
            let part = &mut buffer[..part];
            file.read_exact_at(part, piece.file_offset + done)?;
            target.write_all_at(part, piece.memory_offset + done)?;
            done += part.len() as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_machine::MemoryPiece;

    #[tokio::test]
    async fn pieces_stand_over_the_image_in_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let image: Vec<u8> = (0..4 << 20).map(|at: u32| (at >> 12) as u8).collect();
        fs::write(path("image"), &image).unwrap();
        let long = vec![201; (2 << 20) + 4096];
        fs::write(path("long"), &long).unwrap();
        fs::write(path("short"), [vec![202; 4096], vec![203; 4096]].concat()).unwrap();
        let piece = |file, file_offset, memory_offset, length| MemoryPiece {
            file,
            file_offset,
            memory_offset,
            length,
        };
        let pieces = vec![
            piece(0, 0, 4096, (2 << 20) + 4096),
            piece(1, 4096, 0, 4096),
            piece(1, 0, (4 << 20) - 4096, 4096),
        ];
        let overlay = MemoryOverlay {
            files: vec![path("long"), path("short")],
            pieces,
        };
        let scratch = path("memory.scratch");
        let to = composed_image(&scratch);
        assert_eq!(to, path("memory.scratch.image"));
        fs::write(&to, "of an earlier attempt").unwrap();
        let memory = MemorySource::new(path("image"), overlay.clone());
        let composed = compose(&memory, to.clone()).await.unwrap();
        assert_eq!(composed, MemorySource::Image(to.clone()));
        let mut expected = image.clone();
        expected[4096..4096 + long.len()].copy_from_slice(&long);
        expected[..4096].fill(203);
        expected[(4 << 20) - 4096..].fill(202);
        assert!(fs::read(&to).unwrap() == expected);
        assert!(fs::read(path("image")).unwrap() == image, "untouched");

        let whole = MemorySource::Image(path("image"));
        assert_eq!(compose(&whole, path("unused")).await.unwrap(), whole);
        assert!(!path("unused").exists());

        fs::write(path("long"), "short").unwrap();
        compose(&memory, to.clone()).await.unwrap_err();
        assert!(!to.exists(), "nothing half is left");
    }
}
