//! Embeds the web interface that `scripts/build` has built before, each file with its
//! compressed forms. `HEARTH_WEB_ASSETS` names the folder; without it (a check, a test,
//! an editor) the binary carries none and says so to whoever opens it.

use sha2::{Digest as _, Sha256};
use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

const VARIABLE: &str = "HEARTH_WEB_ASSETS";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let mut source = String::from("const FILES: &[Written] = &[\n");
    if let Some(folder) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let folder = PathBuf::from(folder);
        assert!(
            folder.is_absolute() && folder.join("index.html").is_file(),
            "{VARIABLE} is to name a folder by its absolute path, and {} has no index.html",
            folder.display()
        );
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut files = Vec::new();
        collect(&folder, &mut files);
        files.sort();
        for file in &files {
            add(&mut source, &folder, file);
        }
    }
    source.push_str("];\n");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("files.rs"), source).expect("OUT_DIR is writable");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if !compressed(&path) {
            files.push(path);
        }
    }
}

fn compressed(path: &Path) -> bool {
    path.extension()
        .is_some_and(|end| end == "br" || end == "gz")
}

fn add(source: &mut String, folder: &Path, file: &Path) {
    println!("cargo::rerun-if-changed={}", file.display());
    let name = file.strip_prefix(folder).expect("below the folder");
    let content = fs::read(file).expect("a file that can be read");
    let digest = Sha256::digest(&content);
    let mut tag = String::new();
    for byte in &digest[..12] {
        let _ = write!(tag, "{byte:02x}");
    }
    let other = |end: &str| {
        let path = PathBuf::from(format!("{}.{end}", file.display()));
        match path.is_file() {
            true => format!("Some(include_bytes!({:?}))", path.display().to_string()),
            false => "None".to_owned(),
        }
    };
    let _ = writeln!(
        source,
        "({:?}, {tag:?}, include_bytes!({:?}), {}, {}),",
        name.display().to_string(),
        file.display().to_string(),
        other("br"),
        other("gz"),
    );
}
