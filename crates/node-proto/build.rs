//! Compiles the node's `.proto` with protox, so that no `protoc` is needed.

use prost::Message as _;

fn main() {
    let out = std::path::PathBuf::from(
        std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"),
    );
    let set = protox::compile(["node.proto"], ["proto"]).expect("proto/node.proto compiles");
    let descriptors = out.join("node.binpb");
    std::fs::write(&descriptors, set.encode_to_vec()).expect("OUT_DIR is writable");
    println!("cargo:rerun-if-changed=proto/node.proto");
    connectrpc_build::Config::new()
        .files(&["node.proto"])
        .includes(&["proto"])
        .descriptor_set(descriptors)
        .include_file("_connectrpc.rs")
        .compile()
        .expect("the descriptor set generates code");
}
