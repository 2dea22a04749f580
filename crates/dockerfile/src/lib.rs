//! Dockerfiles as template builds: what the steps of a Dockerfile are, and which
//! files they copy.
//!
//! A template build knows five kinds of steps, and a Dockerfile is lowered to
//! these by the rules of the published SDKs' `from_dockerfile`: `ARG` becomes a
//! variable, `CMD` and `ENTRYPOINT` become the start command, the build begins as
//! root in `/` and ends as `user` in `/home/user` unless the file says otherwise.
//! Every step knows the line that it comes from.
//!
//! ```text
//!  text ─▶ parse ─▶ instructions ─▶ convert ─▶ Recipe ─▶ (a client of the API)
//!                                     └─ words: quotes, escapes, variables
//!  directory ─▶ Context (.dockerignore) ─▶ files of a COPY ─▶ hash, archive
//! ```

#![forbid(unsafe_code)]

mod context;
mod convert;
mod error;
mod glob;
mod ignore;
mod parse;
mod words;

pub use context::{Context, ContextError, Selected};
pub use convert::{Action, Recipe, Step, Warning, convert};
pub use error::Error;
