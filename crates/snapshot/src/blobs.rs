//! Blobs: immutable byte strings by their digest, the form in which builds leave the
//! machine. Where they are kept is behind [`BuildBlobs`]; [`FileBlobs`] keeps them in a
//! directory.

mod file;
#[cfg(test)]
mod tests;

pub use file::FileBlobs;

use crate::Digest;
use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt, ops::Range};

/// The longest blob, in bytes.
pub const MAX_BLOB_BYTES: usize = 4 << 20;

/// Where blobs are kept. Several tasks and processes may use one place at once: a blob
/// is there whole or not at all, and equal ones are one.
#[async_trait]
pub trait BuildBlobs: Send + Sync + fmt::Debug {
    /// Keeps content under its digest, durably. To put what is there is no error.
    ///
    /// # Errors
    /// [`BlobError::TooLong`], [`BlobError::Unavailable`].
    async fn put(&self, content: Bytes) -> Result<Digest, BlobError>;

    /// The whole content, compared with its digest.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`], [`BlobError::Unavailable`].
    async fn get(&self, digest: Digest) -> Result<Bytes, BlobError>;

    /// A part of the content, in bytes from its start. It is not compared with the
    /// digest: that needs the whole.
    ///
    /// # Errors
    /// [`BlobError::Range`] for a part that reaches behind the end or is empty, and as
    /// [`Self::get`].
    async fn range(&self, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError>;

    /// Every blob, in no order. One that is put or deleted meanwhile may or may not be
    /// among them.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    async fn list(&self) -> Result<Vec<BlobInfo>, BlobError>;

    /// Removes a blob. To remove what is not there is no error.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    async fn delete(&self, digest: Digest) -> Result<(), BlobError>;
}

/// One blob of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobInfo {
    /// BLAKE3 of the content, [`Digest::of`].
    pub digest: Digest,
    /// The content's length.
    pub size_bytes: u64,
}

/// Why a blob cannot be put or had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    #[error("blob {0} is not stored")]
    NotFound(Digest),
    #[error("blob {digest} is damaged: its content has the digest {found}")]
    Corrupt {
        digest: Digest,
        /// Of what was read.
        found: Digest,
    },
    #[error("bytes {} to {} of blob {digest} are not there", range.start, range.end)]
    Range { digest: Digest, range: Range<u64> },
    #[error("a blob of {0} bytes is too long: {MAX_BLOB_BYTES} are allowed")]
    TooLong(usize),
    /// The place where blobs are kept does not answer as it should.
    #[error("{doing} a blob")]
    Unavailable {
        /// A present-tense verb, such as "read".
        doing: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BlobError {
    fn unavailable<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Unavailable {
            doing,
            source: source.into(),
        }
    }
}

/// What every place checks before it puts.
fn digest_to_put(content: &[u8]) -> Result<Digest, BlobError> {
    match content.len() {
        length if length > MAX_BLOB_BYTES => Err(BlobError::TooLong(length)),
        _ => Ok(Digest::of(content)),
    }
}

/// What every place checks after it got.
fn verified(digest: Digest, content: Bytes) -> Result<Bytes, BlobError> {
    match Digest::of(&content) {
        found if found == digest => Ok(content),
        found => Err(BlobError::Corrupt { digest, found }),
    }
}
