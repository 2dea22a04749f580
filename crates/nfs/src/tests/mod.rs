//! The server as a client sees it. Calls are written and answers read by another
//! implementation of the protocol's types than the server's own.

mod bounds;
mod client;
mod confinement;
mod files;
mod identity;
mod listing;
mod sockets;
