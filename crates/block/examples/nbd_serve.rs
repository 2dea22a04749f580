//! Serves a raw image with a writable layer over NBD until standard input ends.
//!
//! `nbd_serve SOCKET SIZE_BYTES LAYER_DIRECTORY [BASE_IMAGE [SEALED_LAYER...]]`

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use hearth_block::server::{ServerConfig, serve};
use hearth_block::{Device, DeviceConfig, WritableConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name: &str| arguments.next().ok_or(format!("{name} is missing"));
    let socket = next("SOCKET")?;
    let size_bytes = next("SIZE_BYTES")?.parse()?;
    let directory = PathBuf::from(next("LAYER_DIRECTORY")?);
    let base = arguments.next().map(PathBuf::from);
    let config = DeviceConfig {
        base,
        layers: arguments.map(PathBuf::from).collect(),
        writable: Some(WritableConfig {
            directory,
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes,
    };
    let device = Arc::new(Device::open_or_create(&config)?);
    let server = serve(&ServerConfig::new(socket, "disk"), device)?;
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    server.stop().await;
    Ok(())
}
