//! As much of ELF64 as is needed, over the `object` crate: a section or a note by its
//! name, in files that may be truncated or hostile.

use super::ImageError;
use object::LittleEndian;
use object::elf::{FileHeader64, NoteType, PT_INTERP, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

const ENDIAN: LittleEndian = LittleEndian;

/// A little-endian ELF64 file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elf<'a> {
    header: &'a FileHeader64<LittleEndian>,
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(|_| ImageError::NotElf)?;
        // Of the file's byte order, which must be the one that it is read in.
        header.endian().map_err(|_| ImageError::NotElf)?;
        Ok(Self { header, bytes })
    }

    /// The content of the section called `name`.
    pub(super) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let sections = self.header.sections(ENDIAN, self.bytes).ok()?;
        let (_, section) = sections.section_by_name(ENDIAN, name.as_bytes())?;
        section.data(ENDIAN, self.bytes).ok()
    }

    /// Whether the program asks for a dynamic loader.
    pub(super) fn has_interpreter(&self) -> bool {
        self.program_headers()
            .iter()
            .any(|header| header.p_type(ENDIAN) == PT_INTERP)
    }

    /// Whether a note of this owner and kind is among the program's notes.
    pub(super) fn has_note(&self, owner: &str, kind: u32) -> bool {
        let found = |header: &ProgramHeader64<LittleEndian>| {
            let mut notes = header.notes(ENDIAN, self.bytes).ok()??;
            while let Some(note) = notes.next().ok()? {
                if note.name() == owner.as_bytes() && note.n_type(ENDIAN) == NoteType(kind) {
                    return Some(());
                }
            }
            None
        };
        self.program_headers()
            .iter()
            .any(|header| found(header).is_some())
    }

    /// None where the table is not within the file.
    fn program_headers(&self) -> &'a [ProgramHeader64<LittleEndian>] {
        self.header
            .program_headers(ENDIAN, self.bytes)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_real_program_has_its_sections_and_notes() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert!(elf.section(".text").is_some_and(|text| text.len() > 1000));
        assert!(elf.section(".no-such-section").is_none());
        // The ABI note of every GNU/Linux program.
        assert!(elf.has_note("GNU", 1));
        assert!(!elf.has_note("Xen", 18));
        assert!(elf.has_interpreter());
    }

    #[test]
    fn other_classes_and_byte_orders_are_not_read() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        for (at, value) in [(0, 0), (4, 1), (5, 2)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert_eq!(Elf::parse(&other).err(), Some(ImageError::NotElf), "{at}");
        }
        assert_eq!(Elf::parse(&bytes[..63]).err(), Some(ImageError::NotElf));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 64..600),
            small in proptest::collection::vec(0u8..4, 64),
        ) {
            // Small numbers in the header lead deeper into the parser.
            bytes[..64].copy_from_slice(&small);
            bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            let elf = Elf::parse(&bytes).unwrap();
            let _ = elf.section(".modinfo");
            let _ = elf.has_note("Xen", 18);
        }
    }
}
