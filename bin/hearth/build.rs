//! Embeds the programs that run in guests, which `scripts/build` has built and
//! compressed before. `HEARTH_GUEST_PROGRAMS` names their folder; without it (a
//! check, a test, an editor) the binary carries none and says so when asked for one.

use std::{env, fmt::Write as _, fs, path::Path};

const VARIABLE: &str = "HEARTH_GUEST_PROGRAMS";
const PROGRAMS: [(&str, &str); 2] = [("ENVD", "envd"), ("CODE_INTERPRETER", "code-interpreter")];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let directory = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    let mut source = String::new();
    for (constant, name) in PROGRAMS {
        let content = match &directory {
            None => "None".to_owned(),
            Some(directory) => {
                let path = Path::new(directory).join(format!("{name}.zst"));
                println!("cargo::rerun-if-changed={}", path.display());
                assert!(
                    path.is_absolute() && path.is_file(),
                    "{VARIABLE} is to name a folder by its absolute path, and {} is no file",
                    path.display()
                );
                format!("Some(include_bytes!({:?}))", path.display().to_string())
            }
        };
        let _ = writeln!(source, "const {constant}: Option<&[u8]> = {content};");
    }
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("guest_programs.rs"), source).expect("OUT_DIR is writable");
}
