//! The "newc" cpio archive that the kernel unpacks as its initramfs; format in
//! the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! Written byte for byte the same for the same entries: inode numbers count up,
//! times are zero, everything belongs to root.

use std::io::{self, Write};

const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes one archive. Parents must be added before their children.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    inode: u32,
    written_bytes: u64,
}

#[derive(Default)]
struct Header<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    size_bytes: u32,
    device: (u32, u32),
}

impl<W: Write> Writer<W> {
    pub fn new(output: W) -> Self {
        Self {
            output,
            inode: 0,
            written_bytes: 0,
        }
    }

    /// An empty directory. `name` has no leading slash.
    pub fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.header(&Header {
            name,
            mode: DIRECTORY | permissions,
            links: 2,
            ..Header::default()
        })
    }

    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.header(&Header {
            name,
            mode: CHARACTER_DEVICE | permissions,
            links: 1,
            device: (major, minor),
            ..Header::default()
        })
    }

    /// A regular file.
    ///
    /// # Errors
    /// `InvalidInput` when the content needs more than the format's 32 bits of
    /// length.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let size_bytes = u32::try_from(content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a file of 4 GiB or more"))?;
        self.header(&Header {
            name,
            mode: REGULAR | permissions,
            links: 1,
            size_bytes,
            ..Header::default()
        })?;
        self.write(content)?;
        self.pad()
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(
            &Header {
                name: TRAILER,
                links: 1,
                ..Header::default()
            },
            0,
        )?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let name = header.name;
        if name.is_empty() || name.starts_with('/') || name.contains('\0') || name == TRAILER {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("invalid archive member name {name:?}"),
            ));
        }
        self.inode += 1;
        self.entry(header, self.inode)
    }

    fn entry(&mut self, header: &Header<'_>, inode: u32) -> io::Result<()> {
        let name_bytes = u32::try_from(header.name.len() + 1)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a name too long"))?;
        // After the magic, in this order: inode, mode, uid, gid, links, mtime,
        // size, device (major, minor) of the file system, device of a node, the
        // name's length with its terminator, and a check sum that newc leaves 0.
        let fields = [
            inode,
            header.mode,
            0,
            0,
            header.links,
            0,
            header.size_bytes,
            0,
            0,
            header.device.0,
            header.device.1,
            name_bytes,
            0,
        ];
        let mut text = String::from("070701");
        for field in fields {
            text.push_str(&format!("{field:08X}"));
        }
        self.write(text.as_bytes())?;
        self.write(header.name.as_bytes())?;
        self.write(b"\0")?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Names and contents end on a multiple of four.
    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written_bytes.next_multiple_of(4) - self.written_bytes;
        self.write(&[0; 3][..usize::try_from(missing).unwrap_or(0)])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An entry as read back: name, mode, device, content.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct Entry {
        pub(crate) name: String,
        pub(crate) mode: u32,
        pub(crate) device: (u32, u32),
        pub(crate) content: Vec<u8>,
    }

    /// Reads an archive by the format's definition, independently of the writer.
    pub(crate) fn read(mut rest: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let length = rest.len();
        loop {
            assert_eq!(&rest[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&rest[6 + index * 8..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_bytes) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let name = std::str::from_utf8(&rest[110..][..name_bytes - 1])
                .unwrap()
                .to_owned();
            assert_eq!(rest[110 + name_bytes - 1], 0);
            rest = &rest[(110 + name_bytes).next_multiple_of(4)..];
            assert_eq!((length - rest.len()) % 4, 0);
            if name == TRAILER {
                return entries;
            }
            let content = rest[..size].to_vec();
            rest = &rest[size.next_multiple_of(4)..];
            entries.push(Entry {
                name,
                mode,
                device,
                content,
            });
        }
    }

    #[test]
    fn members_read_back() {
        let mut writer = Writer::new(Vec::new());
        writer.directory("dev", 0o755).unwrap();
        writer.character_device("dev/console", 0o600, 5, 1).unwrap();
        writer.file("init", 0o755, b"#!").unwrap();
        let entries = read(&writer.finish().unwrap());
        let modes: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.as_str(), entry.mode, entry.device))
            .collect();
        assert_eq!(
            modes,
            [
                ("dev", 0o40755, (0, 0)),
                ("dev/console", 0o20600, (5, 1)),
                ("init", 0o100_755, (0, 0)),
            ]
        );
    }

    #[test]
    fn names_that_would_confuse_the_kernel_are_refused() {
        let mut writer = Writer::new(Vec::new());
        for name in ["", "/init", "a\0b", TRAILER] {
            assert!(writer.file(name, 0o644, b"").is_err(), "{name:?}");
        }
    }

    /// The system's own reader lists and unpacks what we write, where it exists.
    #[test]
    fn the_cpio_program_agrees() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(Vec::new());
        writer.directory("modules", 0o755).unwrap();
        writer.file("modules/a.ko", 0o644, b"module a").unwrap();
        let archive = directory.path().join("a.cpio");
        std::fs::write(&archive, writer.finish().unwrap()).unwrap();
        let result = std::process::Command::new("cpio")
            .args(["-i", "-d", "--quiet"])
            .current_dir(directory.path())
            .stdin(std::fs::File::open(&archive).unwrap())
            .status();
        match result {
            Ok(status) => {
                assert!(status.success());
                let content = std::fs::read(directory.path().join("modules/a.ko")).unwrap();
                assert_eq!(content, b"module a");
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    }

    proptest! {
        #[test]
        fn contents_read_back(
            files in proptest::collection::vec(
                ("[a-z./]{0,11}[a-z]", proptest::collection::vec(any::<u8>(), 0..70)),
                0..8,
            ),
        ) {
            let mut writer = Writer::new(Vec::new());
            let files: Vec<_> = files
                .into_iter()
                .filter(|(name, _)| !name.starts_with('/'))
                .collect();
            for (name, content) in &files {
                writer.file(name, 0o644, content).unwrap();
            }
            let read: Vec<_> = read(&writer.finish().unwrap())
                .into_iter()
                .map(|entry| (entry.name, entry.content))
                .collect();
            prop_assert_eq!(read, files);
        }
    }
}
