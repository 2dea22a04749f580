//! Compiles the node's `.proto` with protox, so that no `protoc` is needed.

use prost::Message as _;

const FILES: [&str; 4] = [
    "event.proto",
    "membership.proto",
    "node.proto",
    "template.proto",
];

fn main() {
    let out = std::path::PathBuf::from(
        std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"),
    );
    let set = protox::compile(FILES, ["proto"]).expect("the files in proto/ compile");
    let descriptors = out.join("node.binpb");
    std::fs::write(&descriptors, set.encode_to_vec()).expect("OUT_DIR is writable");
    // The generator has cargo watch this file. Were it newer than this run, every build
    // would run this anew and compile all that depends on it.
    std::fs::File::options()
        .write(true)
        .open(&descriptors)
        .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))
        .expect("OUT_DIR is writable");
    for file in FILES {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    connectrpc_build::Config::new()
        .files(&FILES)
        .includes(&["proto"])
        .descriptor_set(descriptors)
        .include_file("_connectrpc.rs")
        .compile()
        .expect("the descriptor set generates code");
}
