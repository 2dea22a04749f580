//! The guest that counts.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The initial RAM file system with `tests/guest/init.rs` in it, made once. Where no
/// compiler is, `HEARTH_TEST_GUEST` names that program, compiled to need no library.
pub(crate) fn initramfs() -> &'static PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let (dir, init) = match std::env::var_os("HEARTH_TEST_GUEST") {
            Some(made) => (std::env::temp_dir(), fs::read(&made).unwrap()),
            None => {
                let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
                let init = dir.join(format!("init-{}", std::process::id()));
                compile(&init);
                let bytes = fs::read(&init).unwrap();
                fs::remove_file(init).unwrap();
                (dir, bytes)
            }
        };
        let archive = dir.join(format!("initramfs-{}", std::process::id()));
        let mut file = fs::File::create(&archive).unwrap();
        entry(&mut file, "init", 0o100_755, &init);
        entry(&mut file, "TRAILER!!!", 0, &[]);
        archive
    })
}

fn compile(to: &Path) {
    let status = Command::new("rustc")
        .args(["--edition", "2024", "-C", "target-feature=+crt-static"])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
            "-o",
        ])
        .arg(to)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.rs"))
        .status()
        .expect("rustc runs");
    assert!(status.success(), "the guest's init does not compile");
}

/// One entry of a cpio archive of the "newc" kind.
fn entry(file: &mut fs::File, name: &str, mode: u32, data: &[u8]) {
    let header = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        1,
        0,
        0,
        1,
        0,
        data.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0
    );
    let pad = |length: usize| vec![0_u8; length.next_multiple_of(4) - length];
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(name.as_bytes()).unwrap();
    file.write_all(&[0]).unwrap();
    file.write_all(&pad(header.len() + name.len() + 1)).unwrap();
    file.write_all(data).unwrap();
    file.write_all(&pad(data.len())).unwrap();
}
