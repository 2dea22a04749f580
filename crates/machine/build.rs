//! Compiles `preload/open_fd.rs`, which QEMU is started with, and its modules into a small
//! shared library of its own; `src/qemu/preload.rs` embeds it.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let source = "preload/open_fd.rs";
    println!("cargo::rerun-if-changed=preload");
    let output = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
        .join("libhearth_open_fd.so");
    let status = Command::new(std::env::var_os("RUSTC").expect("cargo sets RUSTC"))
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "cdylib",
            "--crate-name",
            "hearth_open_fd",
        ])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "link-arg=-nostdlib", "-o"])
        .arg(&output)
        .arg(source)
        .status()
        .expect("rustc runs");
    assert!(status.success(), "compiling {source} failed");
}
