//! The node's gRPC service: messages, server traits and clients, generated from
//! `proto/node.proto`. Nothing is written by hand here.

#![allow(
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated code follows its generator's style"
)]

connectrpc::include_generated!();
