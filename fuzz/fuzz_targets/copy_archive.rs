//! Whatever an uploaded archive holds, what is made of it for the guest is an archive whose
//! members stay below where it is unpacked.

#![no_main]

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    let source = [".", "a", "a/b", "*.txt", "../x", "a*"][usize::from(choice) % 6];
    let memory = || {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        File::from(rustix::fs::memfd_create("archive", flags).expect("a file"))
    };
    let (mut archive, mut out) = (memory(), memory());
    archive.write_all(bytes).expect("written");
    let path = format!("/proc/self/fd/{}", archive.as_raw_fd());
    let written = hearth_template_build::fuzzing::copy(Path::new(&path), source, 1 << 20, &mut out);
    let Ok(count) = written else { return };
    out.rewind().expect("rewound");
    let mut text = Vec::new();
    out.read_to_end(&mut text).expect("read");
    assert!(text.len() % 512 == 0 && text.len() >= 512 * count);
});
