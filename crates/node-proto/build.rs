//! Compiles the node's `.proto` with protox, so that no `protoc` is needed.

use prost::Message as _;

const FILES: [&str; 3] = ["event.proto", "node.proto", "template.proto"];

fn main() {
    let out = std::path::PathBuf::from(
        std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"),
    );
    let set = protox::compile(FILES, ["proto"]).expect("the files in proto/ compile");
    let descriptors = out.join("node.binpb");
    std::fs::write(&descriptors, set.encode_to_vec()).expect("OUT_DIR is writable");
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
