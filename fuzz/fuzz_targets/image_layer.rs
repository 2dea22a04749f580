//! Whatever a layer holds, nothing outside of the tree is touched, and no more comes out
//! than was allowed.

#![no_main]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use hearth_oci::tree::Tree;
use hearth_oci::{UnpackLimits, Unpacked, unpack};
use libfuzzer_sys::fuzz_target;

const LIMITS: UnpackLimits = UnpackLimits { bytes: 1 << 20, entries: 200 };

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let base = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let (inside, outside) = (base.path().join("tree"), base.path().join("outside"));
    fs::create_dir(&inside).expect("made");
    fs::write(&outside, "untouched").expect("written");
    let mut tree = Tree::open(&inside).expect("opened");
    let mut so_far = Unpacked::default();
    let (lower, upper) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
    // A layer whole, and two layers: the second takes away from the first.
    for layer in [bytes, lower, upper] {
        let _ = add(layer, &mut tree, &mut so_far);
    }
    drop(tree);
    let mut names: Vec<_> = fs::read_dir(base.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["outside", "tree"]);
    assert_eq!(fs::read(&outside).expect("there"), b"untouched");
    assert!(so_far.bytes <= LIMITS.bytes && so_far.entries <= LIMITS.entries + 3);
});

fn add(layer: &[u8], tree: &mut Tree, so_far: &mut Unpacked) -> Option<()> {
    let name = rustix::fs::memfd_create("layer", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let mut file = File::from(name);
    file.write_all(layer).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    unpack(Path::new(&path), tree, LIMITS, so_far, &AtomicBool::new(false)).ok()
}
