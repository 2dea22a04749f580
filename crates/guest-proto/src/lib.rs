//! The guest agent's RPC services (`process.Process`, `filesystem.Filesystem`):
//! messages, server traits and clients, generated from `proto/`. Nothing is
//! written by hand here.

#![allow(
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated code follows its generator's style"
)]

connectrpc::include_generated!();
