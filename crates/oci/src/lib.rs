//! Images of OCI registries: found, read, verified, and unpacked into a tree.
//!
//! ```text
//!  reference ─▶ mirror or registry ─▶ manifest ─▶ layers, each by its digest ─▶ tree
//! ```
//!
//! Registries and images are strangers: every answer is bounded in size and in
//! silence, nothing is used before its digest fits, and an image writes nothing
//! outside of its tree.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod assemble;
mod auth;
mod aws;
mod client;
mod credentials;
mod dial;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod login;
mod pull;
mod reference;
mod registries;
pub mod tree;
mod unpack;

pub use assemble::assemble;
pub use credentials::Credentials;
pub use error::Error;
pub use pull::{Client, Image, Layer};
pub use reference::Reference;
pub use registries::{Mirror, Registries};
pub use unpack::{UnpackLimits, Unpacked, unpack};
