//! `hearth env`: what a shell sets for the official SDKs and CLI, curl and browsers
//! of the command line.
//!
//! With TLS a domain says it all: the SDKs then speak HTTPS to `api.<domain>` and
//! `<port>-<sandbox>.<domain>`. Where such names do not resolve, and on request,
//! base URLs over plain HTTP take their place.

use crate::settings::Settings;
use anyhow::Context;
use std::{net::ToSocketAddrs, process::ExitCode};

/// Base URLs; the SDKs prefer them to the domain.
const URLS: [&str; 3] = ["E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL"];
/// Where the CLI links to: the server says there what it has instead.
const PAGES: [(&str, &str); 2] = [
    ("E2B_DASHBOARD_BASE", "/dashboard"),
    ("E2B_DOCS_BASE", "/docs"),
];
/// One file of authorities in place of the system's.
const BUNDLES: [&str; 4] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];
/// A file of authorities beside the system's.
const EXTRAS: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Plain HTTP with base URLs, also where names below the domain resolve
    #[arg(long)]
    http: bool,
    /// HTTPS by domain, also where names below it do not resolve yet
    #[arg(long, conflicts_with = "http")]
    https: bool,
}

pub fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let way = match (args.http, args.https) {
        (true, _) => Way::Urls,
        (_, true) => Way::Domain,
        _ => Way::best(settings),
    };
    if way == Way::Domain {
        anyhow::ensure!(settings.tls.port != 0, "there is no HTTPS: tls.port is 0");
        let pages = PAGES.map(|(name, _)| name);
        println!("unset {} {}", URLS.join(" "), pages.join(" "));
    } else if !args.http && settings.tls.port != 0 {
        println!(
            "# api.{} does not resolve here, so this is plain HTTP. Install libnss-myhostname, \
             or see `hearth dns`.",
            settings.domain_host()
        );
    }
    if crate::daemon::emulation::is_in_use(settings) {
        println!("# Note: {}.", crate::daemon::emulation::NOTICE);
    }
    println!(
        "# Operators send what is in {} as X-Admin-Token.",
        settings.admin_token_file().display()
    );
    for (name, value) in exports(settings, way)? {
        println!("export {name}={}", quoted(&value));
    }
    Ok(ExitCode::SUCCESS)
}

/// How clients find Hearth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Domain,
    Urls,
}

impl Way {
    pub fn best(settings: &Settings) -> Self {
        let probe = (format!("api.{}", settings.domain_host()), settings.tls.port);
        let resolves = || {
            probe
                .to_socket_addrs()
                .is_ok_and(|mut found| found.next().is_some())
        };
        if settings.tls.port != 0 && resolves() {
            Self::Domain
        } else {
            Self::Urls
        }
    }
}

/// The variables, in the order in which they are printed.
pub fn exports(settings: &Settings, way: Way) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut exports = vec![("E2B_API_KEY", api_key(settings)?)];
    if way == Way::Urls {
        exports.extend(URLS.map(|name| (name, settings.api_url())));
        exports.extend(PAGES.map(|(name, path)| (name, settings.api_url() + path)));
    }
    exports.push(("E2B_DOMAIN", settings.domain()));
    // A given certificate is one that clients trust already.
    if settings.tls.port != 0 && !settings.tls.is_public() {
        for (names, file) in [
            (&BUNDLES[..], settings.bundle_file()),
            (&EXTRAS[..], settings.authority_file()),
        ] {
            anyhow::ensure!(
                file.is_file(),
                "there is no {} yet; `hearth up` makes it",
                file.display()
            );
            exports.extend(names.iter().map(|name| (*name, file.display().to_string())));
        }
    }
    Ok(exports)
}

/// The first team's key.
pub fn api_key(settings: &Settings) -> anyhow::Result<String> {
    let file = settings.api_key_file();
    let key = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "read the API key in {} (made by `hearth up`, readable by root)",
            file.display()
        )
    })?;
    Ok(key.trim().to_owned())
}

/// In single quotes, as every POSIX shell reads it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in ["plain", "", "a b", "it's", "$(reboot)", "`x`", "a\nb", "é"] {
            let script = format!("printf %s {}", quoted(text));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .expect("sh runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
    }
}
