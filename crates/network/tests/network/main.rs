//! The slot pool on a real kernel. Each test runs in namespaces of its own.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod lifecycle;
mod policy;
mod support;
mod traffic;
