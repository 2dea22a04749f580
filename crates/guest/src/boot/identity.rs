//! What tells one guest from another: host name, machine id, marker files.

use std::io;
use std::net::IpAddr;
use std::path::Path;

const MARKER_DIRECTORY: &str = "/run/e2b";

const HOSTS: &str = "/etc/hosts";
/// By custom the address of the machine's own name.
const OWN_ADDRESS: &str = "127.0.1.1";
/// Where programs of the sandbox send events.
const EVENTS_HOST: &str = "events.e2b.local";

/// Sets the kernel's host name and lets it resolve through `/etc/hosts`.
pub fn set_hostname(name: &str) -> io::Result<()> {
    let valid = name.len() <= 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    if !valid {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a host name",
        ));
    }
    rustix::system::sethostname(name.as_bytes())?;
    std::fs::write("/etc/hostname", format!("{name}\n"))?;
    let is_old = |address: &str, _: &str| address == OWN_ADDRESS;
    rewrite_hosts(is_old, &format!("{OWN_ADDRESS} {name}"))
}

/// Lets the events' host name resolve to `address`.
pub fn set_events_host(address: IpAddr) -> io::Result<()> {
    let is_old = |_: &str, names: &str| names.split_whitespace().any(|name| name == EVENTS_HOST);
    rewrite_hosts(is_old, &format!("{address} {EVENTS_HOST}"))
}

fn rewrite_hosts(is_old: impl Fn(&str, &str) -> bool, line: &str) -> io::Result<()> {
    let hosts = std::fs::read_to_string(HOSTS).unwrap_or_default();
    let rewritten = hosts_with(&hosts, is_old, line);
    // Most starts change nothing here; then nothing is written to the disk.
    if rewritten == hosts {
        Ok(())
    } else {
        std::fs::write(HOSTS, rewritten)
    }
}

/// Old lines, of which `is_old` is asked with address and names, are replaced;
/// all others stay.
fn hosts_with(hosts: &str, is_old: impl Fn(&str, &str) -> bool, line: &str) -> String {
    fn split(line: &str) -> (&str, &str) {
        line.split_once([' ', '\t']).unwrap_or((line, ""))
    }
    let mut lines: Vec<&str> = hosts
        .lines()
        .filter(|line| {
            let (address, names) = split(line);
            !is_old(address, names)
        })
        .collect();
    if !lines.iter().any(|line| split(line).0 == "127.0.0.1") {
        lines.insert(0, "127.0.0.1 localhost");
    }
    lines.push(line);
    lines.push("");
    lines.join("\n")
}

/// Sets the id by which programs know this machine.
pub fn set_machine_id(id: &str) -> io::Result<()> {
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a machine id",
        ));
    }
    std::fs::write("/etc/machine-id", format!("{}\n", id.to_ascii_lowercase()))
}

/// Writes one of the files by which programs see that they are in a sandbox.
pub fn write_marker(name: &str, value: &str) -> io::Result<()> {
    std::fs::create_dir_all(MARKER_DIRECTORY)?;
    std::fs::write(Path::new(MARKER_DIRECTORY).join(name), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_line_replaces_the_old_one() {
        let with =
            |hosts: &str| hosts_with(hosts, |address, _| address == OWN_ADDRESS, "127.0.1.1 new");
        let hosts = "127.0.0.1 localhost\n127.0.1.1\told\n::1 ip6-localhost\n";
        let first = with(hosts);
        assert_eq!(
            first,
            "127.0.0.1 localhost\n::1 ip6-localhost\n127.0.1.1 new\n"
        );
        assert_eq!(with(&first), first);
        assert!(with("").starts_with("127.0.0.1 localhost\n"));
    }
}
