//! A file that grows by whole records and forgets its older half: when it reaches
//! its limit it takes the place of its predecessor, and a new one begins. So what is
//! kept is between one and two limits, and nothing is ever rewritten.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The two files of one kind of record.
#[derive(Debug, Clone)]
pub struct Segments {
    present: PathBuf,
    past: PathBuf,
    /// Bytes at which the present file becomes the past one.
    limit: u64,
}

/// How records are told apart, to find out whether the last one is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Each ends with a line feed and holds none.
    Lines,
    /// All have this many bytes.
    Fixed(u64),
}

/// Where records are added. One at a time per file.
#[derive(Debug)]
pub struct Appender {
    segments: Segments,
    file: File,
    size: u64,
}

impl Segments {
    /// The files `name` and `name.old` in `directory`, the present one of at most `limit` bytes.
    #[must_use]
    pub fn new(directory: &Path, name: &str, limit: u64) -> Self {
        Self {
            present: directory.join(name),
            past: directory.join(format!("{name}.old")),
            limit,
        }
    }

    /// Opens the present file and cuts off a record that a crash left unfinished.
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub fn appender(&self, framing: Framing) -> io::Result<Appender> {
        let mut file = open(&self.present)?;
        let length = file.metadata()?.len();
        let size = whole(&mut file, length, framing)?;
        if size < length {
            file.set_len(size)?;
        }
        Ok(Appender {
            segments: self.clone(),
            file,
            size,
        })
    }

    /// All that is kept, the oldest first. At most two limits long.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        for path in [&self.past, &self.present] {
            match File::open(path) {
                Ok(file) => {
                    // A writer may be at work: more than the limit is not ours.
                    file.take(self.limit * 2).read_to_end(&mut all)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

impl Appender {
    /// Adds whole records.
    ///
    /// # Errors
    /// When they cannot be written; part of them may then be there.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let length = records.len() as u64;
        if self.size > 0 && self.size + length > self.segments.limit {
            std::fs::rename(&self.segments.present, &self.segments.past)?;
            self.file = open(&self.segments.present)?;
            self.size = 0;
        }
        self.file.write_all(records)?;
        self.size += length;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(path)
}

fn whole(file: &mut File, length: u64, framing: Framing) -> io::Result<u64> {
    if let Framing::Fixed(size) = framing {
        return Ok(length - length % size);
    }
    const STEP: u64 = 64 * 1024;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        Read::by_ref(file)
            .take(end - start)
            .read_to_end(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_unfinished_record_is_cut_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let lines = Segments::new(directory.path(), "lines", 1000);
        std::fs::write(&lines.present, "one\ntw").expect("written");
        lines
            .appender(Framing::Lines)
            .and_then(|mut appender| appender.append(b"two\n"))
            .expect("appended");
        assert_eq!(lines.read().expect("read"), b"one\ntwo\n");
        let fixed = Segments::new(directory.path(), "fixed", 1000);
        std::fs::write(&fixed.present, "abcde").expect("written");
        fixed
            .appender(Framing::Fixed(2))
            .and_then(|mut appender| appender.append(b"ef"))
            .expect("appended");
        assert_eq!(fixed.read().expect("read"), b"abcdef");
    }

    proptest! {
        #[test]
        fn the_latest_is_kept_and_never_more_than_two_limits(
            sizes in prop::collection::vec(1_usize..40, 1..60),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let segments = Segments::new(directory.path(), "x", 100);
            let mut written = Vec::new();
            for (number, size) in (0_u8..).zip(sizes) {
                // Opened anew each time, as after a restart.
                let mut appender = segments.appender(Framing::Lines).expect("opened");
                let mut line = vec![b'a' + number % 26; size];
                line.push(b'\n');
                appender.append(&line).expect("appended");
                written.extend_from_slice(&line);
            }
            let kept = segments.read().expect("read");
            prop_assert!(written.ends_with(&kept));
            prop_assert!(kept.len() <= 200);
            prop_assert!(kept.len() >= written.len().min(60));
        }
    }
}
