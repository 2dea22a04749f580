//! Certificates that the sandbox's programs shall trust beside the usual ones.

use std::io;
use std::path::Path;

/// Where Debian's tools look for local certificates.
const LOCAL_CERTIFICATE: &str = "/usr/local/share/ca-certificates/e2b-ca.crt";
/// The bundle that programs read.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const BEGIN: &str = "# e2b-ca begin\n";
const END: &str = "# e2b-ca end\n";

/// Adds `pem` to the bundle, in the place of what was added before.
pub fn install(pem: &str) -> io::Result<()> {
    for path in [LOCAL_CERTIFICATE, BUNDLE] {
        if let Some(parent) = Path::new(path).parent() {
            std::fs::create_dir_all(parent)?;
        }
    }
    std::fs::write(LOCAL_CERTIFICATE, pem)?;
    let bundle = std::fs::read_to_string(BUNDLE).unwrap_or_default();
    std::fs::write(BUNDLE, with_section(&bundle, pem))
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
}
