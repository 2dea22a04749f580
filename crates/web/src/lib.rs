//! The web interface: pages in the binary, sessions for browsers, and a way from a page
//! to the agent of a sandbox.
//!
//! ```text
//!  request ─▶ Front ─┬─ /web/agent/{id}/… ─▶ edge ─▶ agent     (asks the API first)
//!                    └─ else ─▶ edge ─▶ Web ─┬─ /web/…          assets, session
//!                                            ├─ /, /dashboard/… the page, for browsers
//!                                            └─ else ─▶ API     (a session's key put in)
//! ```
//!
//! Nothing here decides what a caller may do. A session stands for an API key that this
//! process holds in memory; a request that shows the session is handed to the API with
//! that key, so that limits, rights and the audit log are the key's, and a key that was
//! revoked ends its sessions. A client that shows a key, or asks for anything but HTML,
//! gets the API's own answers.
//!
//! What a guest says never becomes a page of this origin: see [`Front`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod answer;
mod assets;
mod front;
mod proof;
mod session;
mod web;

pub use front::Front;
pub use web::Web;

/// The error type of bodies.
type BoxError = Box<dyn std::error::Error + Send + Sync>;
