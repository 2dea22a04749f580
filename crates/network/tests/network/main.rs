//! The slot pool on a real kernel. Each test runs in namespaces of its own.

mod lifecycle;
mod support;
mod traffic;
