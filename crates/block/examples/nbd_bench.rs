//! Measures this server and `qemu-nbd` in turns on the same image.
//!
//! `cargo run --release -p hearth-block --example nbd_bench [ROUNDS [MIB]]`
//!
//! Both serve from the page cache: `hearth` a raw base with a writable layer,
//! `qemu-nbd` a copy of the base as a raw image and, for copy-on-write, a qcow2
//! overlay. `qemu-img bench` drives the sequential cases through QEMU's own NBD
//! client, `fio` (if installed) the random ones through libnbd. Each figure is
//! the median of all rounds, each ratio the median of the rounds' ratios: in a
//! round the servers take turns, so that what else the machine does hits all.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hearth_block::server::{ServerConfig, ServerHandle, serve};
use hearth_block::{Device, DeviceConfig, WritableConfig};

/// One measurement. The unit of its figure is requests a second.
struct Case {
    name: &'static str,
    tool: Tool,
}

enum Tool {
    QemuImg {
        write: bool,
        block_kib: u64,
        depth: u32,
    },
    Fio {
        mode: &'static str,
        depth: u32,
    },
}

const CASES: [Case; 11] = [
    Case {
        name: "first write 64k, depth 16",
        tool: qemu_img(true, 64, 16),
    },
    Case {
        name: "seq. write 64k, depth 16",
        tool: qemu_img(true, 64, 16),
    },
    Case {
        name: "seq. write 1M, depth 4",
        tool: qemu_img(true, 1024, 4),
    },
    Case {
        name: "seq. read 64k, depth 1",
        tool: qemu_img(false, 64, 1),
    },
    Case {
        name: "seq. read 64k, depth 16",
        tool: qemu_img(false, 64, 16),
    },
    Case {
        name: "seq. read 1M, depth 4",
        tool: qemu_img(false, 1024, 4),
    },
    Case {
        name: "seq. read 4k, depth 1",
        tool: qemu_img(false, 4, 1),
    },
    Case {
        name: "random read 4k, depth 1",
        tool: Tool::Fio {
            mode: "randread",
            depth: 1,
        },
    },
    Case {
        name: "random read 4k, depth 32",
        tool: Tool::Fio {
            mode: "randread",
            depth: 32,
        },
    },
    Case {
        name: "random write 4k, depth 1",
        tool: Tool::Fio {
            mode: "randwrite",
            depth: 1,
        },
    },
    Case {
        name: "random write 4k, depth 32",
        tool: Tool::Fio {
            mode: "randwrite",
            depth: 32,
        },
    },
];

const fn qemu_img(write: bool, block_kib: u64, depth: u32) -> Tool {
    Tool::QemuImg {
        write,
        block_kib,
        depth,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let mib: u64 = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let scratch = tempfile::tempdir()?;
    let image = make_image(scratch.path(), mib)?;
    let mut seals = [Vec::new(), Vec::new()];
    let mut figures = vec![[const { Vec::new() }; 3]; CASES.len()];
    for round in 0..rounds {
        let targets = Targets::start(scratch.path(), &image, mib, round)?;
        for (case, figures) in CASES.iter().zip(&mut figures) {
            for (uri, figures) in targets.uris.iter().zip(figures) {
                figures.extend(measure(case, uri, mib)?);
            }
        }
        for (figures, figure) in seals.iter_mut().zip(targets.seal()?) {
            figures.push(figure);
        }
        targets.stop().await?;
        eprint!("\rround {} of {rounds}", round + 1);
    }
    eprintln!();
    println!(
        "{:26} {:>10} {:>10} {:>12} {:>8} {:>8}",
        "requests a second", "hearth", "qemu raw", "qemu qcow2", "/ raw", "/ qcow2"
    );
    for (case, figures) in CASES.iter().zip(&mut figures) {
        let ratio = |other: usize| {
            let pairs = figures[0].iter().zip(&figures[other]);
            median(pairs.map(|(ours, theirs)| ours / theirs).collect())
        };
        let (to_raw, to_qcow2) = (ratio(1), ratio(2));
        let [ours, raw, qcow2] = figures.each_mut().map(std::mem::take).map(median);
        println!(
            "{:26} {ours:>10.0} {raw:>10.0} {qcow2:>12.0} {to_raw:>8.2} {to_qcow2:>8.2}",
            case.name,
        );
    }
    let [sealed, finished] = seals.map(median);
    println!("seal after {mib} MiB written: {sealed:.2} ms, durable after {finished:.0} ms more");
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Bytes that no layer of the stack can take for zeros.
fn make_image(scratch: &Path, mib: u64) -> Result<PathBuf> {
    let path = scratch.join("base.img");
    let mut file = std::fs::File::create(&path)?;
    let mut chunk = vec![0; 1 << 20];
    getrandom::fill(&mut chunk).map_err(|error| anyhow::anyhow!("draw random bytes: {error}"))?;
    for _ in 0..mib {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(path)
}

/// The three servers of one round, each on fresh layers.
struct Targets {
    device: Arc<Device>,
    hearth: ServerHandle,
    others: Vec<Child>,
    directory: PathBuf,
    uris: [String; 3],
}

impl Targets {
    fn start(scratch: &Path, image: &Path, mib: u64, round: usize) -> Result<Self> {
        let directory = scratch.join(format!("round-{round}"));
        std::fs::create_dir(&directory)?;
        let path = |name: &str| directory.join(name);
        let device = Device::create(&DeviceConfig {
            base: Some(image.to_owned()),
            layers: Vec::new(),
            writable: Some(WritableConfig {
                directory: path("layer"),
                limit_bytes: None,
                reserve_bytes: 0,
            }),
            size_bytes: mib << 20,
        })?;
        let device = Arc::new(device);
        let hearth = serve(&ServerConfig::new(path("h.sock"), "disk"), device.clone())?;
        std::fs::copy(image, path("raw.img"))?;
        let overlay = path("overlay.qcow2");
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([image, &overlay]))?;
        let others = vec![
            start_qemu_nbd("raw", &path("raw.img"), &path("r.sock"))?,
            start_qemu_nbd("qcow2", &overlay, &path("q.sock"))?,
        ];
        let uris = ["h.sock", "r.sock", "q.sock"]
            .map(|name| format!("nbd+unix:///disk?socket={}", path(name).display()));
        Ok(Self {
            device,
            hearth,
            others,
            directory,
            uris,
        })
    }

    /// Milliseconds of sealing the layer, which is all that a guest may notice,
    /// and of making it durable afterwards.
    fn seal(&self) -> Result<[f64; 2]> {
        let milliseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        let begun = Instant::now();
        let sealing = self.device.seal(&self.directory.join("next"))?;
        let sealed = milliseconds(begun);
        let begun = Instant::now();
        sealing.finish()?;
        Ok([sealed, milliseconds(begun)])
    }

    async fn stop(self) -> Result<()> {
        self.hearth.stop().await;
        for mut child in self.others {
            child.kill()?;
            child.wait()?;
        }
        Ok(std::fs::remove_dir_all(self.directory)?)
    }
}

fn start_qemu_nbd(format: &str, image: &Path, socket: &Path) -> Result<Child> {
    let child = Command::new("qemu-nbd")
        .args(["-t", "-x", "disk", "-e", "8", "-f", format, "-k"])
        .args([socket, image])
        .spawn()
        .context("start qemu-nbd")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        if Instant::now() > deadline {
            bail!("qemu-nbd does not listen");
        }
        std::thread::yield_now();
    }
    Ok(child)
}

/// Requests a second; nothing if the tool is not installed.
fn measure(case: &Case, uri: &str, mib: u64) -> Result<Option<f64>> {
    match case.tool {
        Tool::QemuImg {
            write,
            block_kib,
            depth,
        } => {
            let count = (mib * 1024 / block_kib).min(30_000);
            let mut command = Command::new("qemu-img");
            command.args(["bench", "-f", "raw", "-c", &count.to_string()]);
            command.args(["-d", &depth.to_string(), "-s", &format!("{block_kib}k")]);
            command.args(write.then_some("-w")).arg(uri);
            let text = run(&mut command)?;
            let seconds = text
                .split_whitespace()
                .rev()
                .nth(1)
                .context("no time in its output")?;
            Ok(Some(count as f64 / seconds.parse::<f64>()?))
        }
        Tool::Fio { mode, depth } => {
            let mut command = Command::new("fio");
            command.args([
                "--name=nbd",
                "--ioengine=nbd",
                "--bs=4k",
                "--time_based",
                "--minimal",
            ]);
            command
                .arg(format!("--uri={uri}"))
                .arg(format!("--size={mib}M"));
            command
                .arg(format!("--rw={mode}"))
                .arg(format!("--iodepth={depth}"));
            command.args(["--runtime=2", "--randrepeat=0"]);
            if let Err(error) = Command::new("fio")
                .arg("--version")
                .stdout(Stdio::null())
                .status()
            {
                eprintln!("skipped {}: cannot run fio: {error}", case.name);
                return Ok(None);
            }
            let text = run(&mut command)?;
            // fio's terse format: requests a second are field 8 or 49.
            let field = if mode == "randread" { 7 } else { 48 };
            Ok(Some(
                text.split(';')
                    .nth(field)
                    .context("no figure in its output")?
                    .parse()?,
            ))
        }
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("start a tool")?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
