//! `hearth env`: exports for the official SDKs and CLI.

use crate::settings::Settings;
use anyhow::Context;
use std::process::ExitCode;

pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    for (name, value) in exports(settings)? {
        println!("export {name}={}", quoted(&value));
    }
    Ok(ExitCode::SUCCESS)
}

/// The variables, in the order in which they are printed.
pub fn exports(settings: &Settings) -> anyhow::Result<Vec<(&'static str, String)>> {
    let url = settings.api_url();
    Ok(vec![
        ("E2B_API_KEY", api_key(settings)?),
        ("E2B_API_URL", url.clone()),
        ("E2B_SANDBOX_URL", url),
        ("E2B_DOMAIN", settings.domain()),
    ])
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
