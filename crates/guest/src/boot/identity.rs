//! What tells one guest from another: host name, machine id, marker files.

use std::io;
use std::path::Path;

const MARKER_DIRECTORY: &str = "/run/e2b";

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
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    std::fs::write("/etc/hosts", hosts_with_name(&hosts, name))
}

/// The line for 127.0.1.1, by custom the machine's own name, is replaced; all
/// others stay.
fn hosts_with_name(hosts: &str, name: &str) -> String {
    let mut lines: Vec<String> = hosts
        .lines()
        .filter(|line| line.split_whitespace().next() != Some("127.0.1.1"))
        .map(str::to_owned)
        .collect();
    if !lines
        .iter()
        .any(|line| line.split_whitespace().next() == Some("127.0.0.1"))
    {
        lines.insert(0, "127.0.0.1 localhost".to_owned());
    }
    lines.push(format!("127.0.1.1 {name}"));
    lines.push(String::new());
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
    fn the_own_name_replaces_the_old_one() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1 old\n::1 ip6-localhost\n";
        let first = hosts_with_name(hosts, "new");
        assert_eq!(
            first,
            "127.0.0.1 localhost\n::1 ip6-localhost\n127.0.1.1 new\n"
        );
        assert_eq!(hosts_with_name(&first, "new"), first);
        assert!(hosts_with_name("", "x").starts_with("127.0.0.1 localhost\n"));
    }
}
