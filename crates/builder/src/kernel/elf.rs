//! As much of ELF64 as is needed: a section or a note by its name, in files that
//! may be truncated or hostile.

use super::ImageError;

const HEADER_BYTES: usize = 64;
const SECTION_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

/// A little-endian ELF64 file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        // Magic, 64 bits, little-endian.
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err(ImageError::NotElf);
        }
        Ok(Self { bytes })
    }

    /// The content of the section called `name`.
    pub(super) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let table = usize::try_from(self.u64(0x28)?).ok()?;
        let count = usize::from(self.u16(0x3c)?);
        let names_index = usize::from(self.u16(0x3e)?);
        let header = |index: usize| table.checked_add(index * SECTION_HEADER_BYTES);
        let names = self.extent(header(names_index)?, 0x18, 0x20)?;
        (0..count).find_map(|index| {
            let at = header(index)?;
            let offset = usize::try_from(self.u32(at)?).ok()?;
            let text = names.get(offset..)?;
            let end = text.iter().position(|byte| *byte == 0)?;
            (&text[..end] == name.as_bytes()).then(|| self.extent(at, 0x18, 0x20))?
        })
    }

    /// Whether the program asks for a dynamic loader.
    pub(super) fn has_interpreter(&self) -> bool {
        self.program_headers()
            .any(|at| self.u32(at) == Some(PT_INTERP))
    }

    /// Whether a note of this owner and kind is among the program's notes.
    pub(super) fn has_note(&self, owner: &str, kind: u32) -> bool {
        self.program_headers()
            .filter(|at| self.u32(*at) == Some(PT_NOTE))
            .filter_map(|at| self.extent(at, 0x08, 0x20))
            .any(|notes| Notes { rest: notes }.any(|note| note == (owner.as_bytes(), kind)))
    }

    /// Where the program headers begin.
    fn program_headers(&self) -> impl Iterator<Item = usize> {
        let table = self.u64(0x20).and_then(|at| usize::try_from(at).ok());
        let count = self.u16(0x38).map_or(0, usize::from);
        (0..count).filter_map(move |index| table?.checked_add(index * PROGRAM_HEADER_BYTES))
    }

    /// The file range whose offset and length stand at these places of the
    /// header at `header`.
    fn extent(&self, header: usize, offset_at: usize, length_at: usize) -> Option<&'a [u8]> {
        let offset = usize::try_from(self.u64(header.checked_add(offset_at)?)?).ok()?;
        let length = usize::try_from(self.u64(header.checked_add(length_at)?)?).ok()?;
        self.bytes.get(offset..)?.get(..length)
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

/// Owner and kind of each note of a note segment.
struct Notes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Notes<'a> {
    type Item = (&'a [u8], u32);

    fn next(&mut self) -> Option<Self::Item> {
        let word = |index: usize| -> Option<u32> {
            self.rest
                .get(index * 4..)?
                .first_chunk()
                .map(|bytes| u32::from_le_bytes(*bytes))
        };
        let name_length = usize::try_from(word(0)?).ok()?;
        let content_length = usize::try_from(word(1)?).ok()?;
        let kind = word(2)?;
        let name = self.rest.get(12..)?.get(..name_length)?;
        let next = name_length
            .checked_next_multiple_of(4)?
            .checked_add(content_length.checked_next_multiple_of(4)?)?
            .checked_add(12)?;
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some((name.strip_suffix(b"\0").unwrap_or(name), kind))
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
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 64..600),
            small in proptest::collection::vec(0u8..4, 64),
        ) {
            // Small numbers in the header lead deeper into the parser.
            bytes[..64].copy_from_slice(&small);
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            let elf = Elf::parse(&bytes).unwrap();
            let _ = elf.section(".modinfo");
            let _ = elf.has_note("Xen", 18);
        }
    }
}
