//! The x86 boot image ("bzImage"): finds and unpacks the plain ELF kernel in it.
//!
//! Layout, from the kernel's Documentation/arch/x86/boot.rst: a setup header at
//! 0x1f1 whose magic `HdrS` stands at 0x202; the protected-mode part follows the
//! setup sectors; `payload_offset` (0x248) and `payload_length` (0x24c) locate
//! the compressed kernel within it. Except for gzip, which carries its length
//! itself, the build appends the unpacked length as four bytes, little-endian.

use super::ImageError;

const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// The first protocol version with a payload description.
const FIRST_VERSION: u16 = 0x0208;

/// How a payload is packed, known by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    Lz4Legacy,
    Zstd,
}

impl Compression {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\x00\x00", Compression::Lzma),
            (b"\xfd7zXZ\x00", Compression::Xz),
            (b"\x89LZO", Compression::Lzo),
            (b"\x02\x21\x4c\x18", Compression::Lz4Legacy),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        MAGICS
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, compression)| *compression)
    }
}

/// The packed kernel inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    pub compression: Compression,
    /// The compressed stream alone.
    pub stream: &'a [u8],
    /// The unpacked length that the image states, in bytes.
    pub unpacked_bytes: Option<u32>,
}

/// Locates the payload of a boot image.
pub fn payload(image: &[u8]) -> Result<Payload<'_>, ImageError> {
    if read_u16(image, BOOT_FLAG)? != 0xaa55 || read(image, MAGIC)? != *b"HdrS" {
        return Err(ImageError::NoSetupHeader);
    }
    let version = read_u16(image, VERSION)?;
    if version < FIRST_VERSION {
        return Err(ImageError::OldProtocol { version });
    }
    // A zero stands for four, for historic reasons.
    let sectors = match image[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let offset = u32::from_le_bytes(read(image, PAYLOAD_OFFSET)?) as usize;
    let length = u32::from_le_bytes(read(image, PAYLOAD_LENGTH)?) as usize;
    let start = (sectors + 1) * SECTOR + offset;
    let payload = image
        .get(start..)
        .and_then(|rest| rest.get(..length))
        .ok_or(ImageError::Truncated)?;
    let compression = Compression::of(payload).ok_or(ImageError::UnknownCompression)?;
    let (stream, unpacked_bytes) = match compression {
        Compression::None => (payload, None),
        Compression::Gzip => {
            let trailer = payload.last_chunk().ok_or(ImageError::Truncated)?;
            (payload, Some(u32::from_le_bytes(*trailer)))
        }
        _ => {
            let (stream, trailer) = payload.split_last_chunk().ok_or(ImageError::Truncated)?;
            (stream, Some(u32::from_le_bytes(*trailer)))
        }
    };
    Ok(Payload {
        compression,
        stream,
        unpacked_bytes,
    })
}

fn read<const N: usize>(image: &[u8], offset: usize) -> Result<[u8; N], ImageError> {
    image
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(ImageError::Truncated)
}

fn read_u16(image: &[u8], offset: usize) -> Result<u16, ImageError> {
    read(image, offset).map(u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A minimal image around `payload`.
    fn image(sectors: u8, offset: u32, payload: &[u8]) -> Vec<u8> {
        let setup = (if sectors == 0 {
            5
        } else {
            usize::from(sectors) + 1
        }) * SECTOR;
        let mut image = vec![0; setup.max(0x250) + offset as usize];
        image[SETUP_SECTORS] = sectors;
        image[BOOT_FLAG..][..2].copy_from_slice(&0xaa55u16.to_le_bytes());
        image[MAGIC..][..4].copy_from_slice(b"HdrS");
        image[VERSION..][..2].copy_from_slice(&0x020fu16.to_le_bytes());
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&offset.to_le_bytes());
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.truncate(setup + offset as usize);
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_payload_is_found() {
        let xz = b"\xfd7zXZ\x00stream\x10\x00\x00\x00";
        for (sectors, offset) in [(39, 0), (0, 715), (1, 3)] {
            let image = image(sectors, offset, xz);
            let found = payload(&image).unwrap();
            assert_eq!(found.compression, Compression::Xz);
            assert_eq!(found.stream, &xz[..xz.len() - 4]);
            assert_eq!(found.unpacked_bytes, Some(16));
        }
        let plain = image(1, 0, b"\x7fELF rest");
        assert_eq!(payload(&plain).unwrap().stream, b"\x7fELF rest");
    }

    #[test]
    fn malformed_images_are_named() {
        let good = image(1, 0, b"\x28\xb5\x2f\xfd1234");
        assert_eq!(payload(&[]), Err(ImageError::Truncated));
        assert_eq!(payload(&good[..good.len() - 1]), Err(ImageError::Truncated));
        let mut bad = good.clone();
        bad[MAGIC] = 0;
        assert_eq!(payload(&bad), Err(ImageError::NoSetupHeader));
        let mut bad = good.clone();
        bad[VERSION] = 7;
        assert_eq!(
            payload(&bad),
            Err(ImageError::OldProtocol { version: 0x0207 })
        );
        let mut bad = good.clone();
        bad[PAYLOAD_OFFSET..][..8].fill(0xff);
        assert_eq!(payload(&bad), Err(ImageError::Truncated));
        let mut bad = good;
        bad[1024] = 0;
        assert_eq!(payload(&bad), Err(ImageError::UnknownCompression));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..4096),
            plausible in any::<bool>(),
        ) {
            if plausible && bytes.len() > 0x250 {
                bytes[BOOT_FLAG..][..2].copy_from_slice(&0xaa55u16.to_le_bytes());
                bytes[MAGIC..][..4].copy_from_slice(b"HdrS");
            }
            if let Ok(found) = payload(&bytes) {
                prop_assert!(found.stream.len() <= bytes.len());
            }
        }
    }
}
