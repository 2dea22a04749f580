//! Java's key store of trusted certificates, as Debian's packages make it: the JKS
//! format, which Java reads whatever its default is.
//!
//! ```text
//! magic, version, count │ tag, alias, time, type, certificate │ … │ SHA-1
//! ```
//!
//! All numbers are big-endian; text has its length before it. The digest is over the
//! password, a phrase, and everything before it.

use sha1::{Digest as _, Sha1};
use std::io;

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const TRUSTED: u32 = 2;
const KIND: &str = "X.509";
const DIGEST_BYTES: usize = 20;
/// What everybody uses for this store: it keeps nothing secret.
const PASSWORD: &str = "changeit";
const PHRASE: &[u8] = b"Mighty Aphrodite";
/// Names of entries that are ours, with a number behind.
const ALIAS: &str = "hearth-ca-";

/// The store with `certificates` (DER) in the place of those added before.
pub(super) fn with_certificates(store: &[u8], certificates: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let end = store
        .len()
        .checked_sub(DIGEST_BYTES)
        .ok_or_else(|| unreadable("it ends too early"))?;
    let (content, digest) = store.split_at(end);
    if digest_of(content) != digest {
        return Err(unreadable("it has another password or is damaged"));
    }
    let mut reader = Reader(content);
    if (reader.number()?, reader.number()?) != (MAGIC, VERSION) {
        return Err(unreadable("it is no JKS store"));
    }
    let mut entries: Vec<&[u8]> = Vec::new();
    for _ in 0..reader.number()? {
        let before = reader.0;
        let alias = reader.entry()?;
        if !alias.starts_with(ALIAS.as_bytes()) {
            entries.push(&before[..before.len() - reader.0.len()]);
        }
    }
    let count = u32::try_from(entries.len() + certificates.len())
        .map_err(|_| unreadable("it holds too many entries"))?;
    let mut new = Vec::with_capacity(store.len());
    for number in [MAGIC, VERSION, count] {
        new.extend(number.to_be_bytes());
    }
    for entry in entries {
        new.extend(entry);
    }
    for (index, certificate) in certificates.iter().enumerate() {
        put_entry(&mut new, &format!("{ALIAS}{index}"), certificate)?;
    }
    let digest = digest_of(&new);
    new.extend(digest);
    Ok(new)
}

fn put_entry(store: &mut Vec<u8>, alias: &str, certificate: &[u8]) -> io::Result<()> {
    let length =
        u32::try_from(certificate.len()).map_err(|_| unreadable("a certificate is too long"))?;
    store.extend(TRUSTED.to_be_bytes());
    put_text(store, alias);
    // The time of its making, which nothing depends on; the same bytes each time.
    store.extend(0u64.to_be_bytes());
    put_text(store, KIND);
    store.extend(length.to_be_bytes());
    store.extend(certificate);
    Ok(())
}

fn put_text(store: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("names here are short");
    store.extend(length.to_be_bytes());
    store.extend(text.as_bytes());
}

fn digest_of(content: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hasher = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        hasher.update(unit.to_be_bytes());
    }
    hasher.update(PHRASE);
    hasher.update(content);
    hasher.finalize().into()
}

fn unreadable(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("Java's key store cannot be changed: {why}"),
    )
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| unreadable("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_be_bytes(bytes))
    }

    fn text(&mut self) -> io::Result<&'a [u8]> {
        let mut bytes = [0; 2];
        bytes.copy_from_slice(self.take(2)?);
        self.take(u16::from_be_bytes(bytes).into())
    }

    /// Passes over one entry and returns its alias.
    fn entry(&mut self) -> io::Result<&'a [u8]> {
        if self.number()? != TRUSTED {
            return Err(unreadable("it holds more than certificates"));
        }
        let alias = self.text()?;
        self.take(8)?;
        self.text()?;
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        Ok(alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Vec<u8> {
        let mut store = Vec::new();
        for number in [MAGIC, VERSION, 0] {
            store.extend(number.to_be_bytes());
        }
        let digest = digest_of(&store);
        store.extend(digest);
        store
    }

    /// Reckoned apart from this code: SHA-1 of the password in UTF-16, the phrase and the
    /// twelve bytes of a store without entries.
    #[test]
    fn the_digest_is_that_of_an_empty_store() {
        let hex: String = empty()[12..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "e2686e45fb43dfa4d992dd41ceb6b21c6330d792");
    }

    #[test]
    fn our_entries_are_replaced_and_others_stay() {
        let mut other = empty();
        other.truncate(other.len() - DIGEST_BYTES);
        other[8..12].copy_from_slice(&1u32.to_be_bytes());
        put_entry(&mut other, "usual", b"of the system").unwrap();
        let digest = digest_of(&other);
        other.extend(digest);
        let first = with_certificates(&other, &[b"one".to_vec(), b"two".to_vec()]).unwrap();
        let mut reader = Reader(&first[12..first.len() - DIGEST_BYTES]);
        let aliases: Vec<&[u8]> = (0..3).map(|_| reader.entry().unwrap()).collect();
        assert_eq!(aliases, [&b"usual"[..], b"hearth-ca-0", b"hearth-ca-1"]);
        assert!(reader.0.is_empty());
        let second = with_certificates(&first, &[b"three".to_vec()]).unwrap();
        assert_eq!(
            with_certificates(&other, &[b"three".to_vec()]).unwrap(),
            second
        );
        assert_eq!(with_certificates(&second, &[]).unwrap(), other);
    }

    #[test]
    fn what_is_no_such_store_is_left_alone() {
        for store in [&b""[..], b"short", &[0x30; 64]] {
            assert!(with_certificates(store, &[]).is_err());
        }
        let mut cut = empty();
        cut[11] = 9;
        let content = cut.len() - DIGEST_BYTES;
        let digest = digest_of(&cut[..content]);
        cut[content..].copy_from_slice(&digest);
        assert!(with_certificates(&cut, &[]).is_err());
    }
}
