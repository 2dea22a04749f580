//! Certificates that the sandbox's programs shall trust beside the usual ones.

mod java;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Where Debian's tools look for local certificates.
const LOCAL_CERTIFICATE: &str = "/usr/local/share/ca-certificates/e2b-ca.crt";
/// The bundle that programs read, and that of Fedora and its like.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const FEDORA_BUNDLE: &str = "/etc/pki/tls/certs/ca-bundle.crt";
/// Where tools that make stores of their own look, under the name that Debian's would
/// give it.
const LINK: &str = "/etc/ssl/certs/e2b-ca.pem";
const JAVA_STORE: &str = "/etc/ssl/certs/java/cacerts";
/// Lets `sudo` pass on what points programs at certificates, and nothing else.
const SUDO_FILE: &str = "/etc/sudoers.d/hearth-certificates";
const SUDO_RULE: &str =
    "Defaults env_keep += \"SSL_CERT_FILE REQUESTS_CA_BUNDLE PIP_CERT NODE_EXTRA_CA_CERTS\"\n";
const BEGIN: &str = "# e2b-ca begin\n";
const END: &str = "# e2b-ca end\n";

/// Adds `pem` to the bundle, in the place of what was added before.
pub fn install(pem: &str) -> io::Result<()> {
    change(Path::new(LOCAL_CERTIFICATE), |_| pem.to_owned())?;
    change(Path::new(BUNDLE), |bundle| with_section(bundle, pem))?;
    if Path::new(FEDORA_BUNDLE).exists() {
        change(Path::new(FEDORA_BUNDLE), |bundle| with_section(bundle, pem))?;
    }
    match std::os::unix::fs::symlink(LOCAL_CERTIFICATE, LINK) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let sudo = Path::new(SUDO_FILE);
    if sudo.parent().is_some_and(Path::is_dir) && change(sudo, |_| SUDO_RULE.to_owned())? {
        std::fs::set_permissions(sudo, std::fs::Permissions::from_mode(0o440))?;
    }
    install_for_java(Path::new(JAVA_STORE), pem)
}

fn install_for_java(path: &Path, pem: &str) -> io::Result<()> {
    let old = match std::fs::read(path) {
        Ok(store) => store,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let new = java::with_certificates(&old, &certificates(pem))?;
    if new != old {
        std::fs::write(path, new)?;
    }
    Ok(())
}

/// The certificates of a text in PEM, as DER. What cannot be read is left out.
fn certificates(pem: &str) -> Vec<Vec<u8>> {
    pem.split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .filter_map(|rest| rest.split_once("-----END CERTIFICATE-----"))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .filter_map(|body| STANDARD.decode(body).ok())
        .collect()
}

/// Writes a file anew where that changes it: most sandboxes start from memory in which
/// everything is as it should be, and what is written is theirs alone. Returns whether
/// it was written.
fn change(path: &Path, edit: impl FnOnce(&str) -> String) -> io::Result<bool> {
    let old = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let new = edit(&old);
    if new == old {
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, new)?;
    Ok(true)
}

fn with_section(bundle: &str, pem: &str) -> String {
    let without = match (bundle.find(BEGIN), bundle.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{}", &bundle[..begin], &bundle[end + END.len()..])
        }
        _ => bundle.to_owned(),
    };
    let separator = if without.is_empty() || without.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{without}{separator}{BEGIN}{}\n{END}", pem.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_not_repeated() {
        let first = with_section("usual", "one\n");
        assert_eq!(first, "usual\n# e2b-ca begin\none\n# e2b-ca end\n");
        assert_eq!(with_section(&first, "two"), first.replace("one", "two"));
    }

    #[test]
    fn certificates_are_taken_out_of_pem() {
        let one = "-----BEGIN CERTIFICATE-----\nb25l\n-----END CERTIFICATE-----\n";
        let two = "-----BEGIN CERTIFICATE-----\nd\nHdv\n-----END CERTIFICATE-----";
        let broken = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
        let found = certificates(&format!("# a name\n{one}{broken}text\n{two}"));
        assert_eq!(found, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/bundle.crt");
        assert!(change(&path, |old| with_section(old, "one")).unwrap());
        assert!(!change(&path, |old| with_section(old, "one")).unwrap());
        assert!(change(&path, |old| with_section(old, "two")).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# e2b-ca begin\ntwo\n# e2b-ca end\n");
    }
}
