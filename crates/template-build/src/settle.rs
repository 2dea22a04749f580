//! What the end of a build sets up in the guest, as root: certificates that its
//! author put where distributions look for them are trusted, and shells that no agent
//! started have the template's variables.

use crate::{
    Failure, Part,
    log::Level,
    run::Run,
    shell::{self, quoted},
    steps::Stack,
    vm::Vm,
};
use std::{collections::BTreeMap, fmt::Write as _};

const PART: Part = Part::Finalize;

/// `$1` is the profile, `$2` says whether the disk is to be whole afterwards. Where
/// there is nothing to do no program is started: emulated, each costs.
const SCRIPT: &str = r#"
profile=/etc/profile.d/hearth-template.sh
if [ -n "$1" ]; then
    mkdir -p /etc/profile.d && printf '%s' "$1" >$profile || exit
fi
local=/usr/local/share/ca-certificates
set --  "$2"
for file in $local/*.crt $local/*/*.crt; do
    # Those of the site are in the bundle already.
    case ${file##*/} in hearth-builds.crt | e2b-ca.crt) continue ;; esac
    [ -f "$file" ] && set -- "$@" "$file"
done
finish=$1
shift
if [ $# -gt 0 ]; then
    if command -v update-ca-certificates >/dev/null; then
        update-ca-certificates >/dev/null || echo "update-ca-certificates failed" >&2
    elif command -v update-ca-trust >/dev/null; then
        for anchors in /etc/pki/ca-trust/source/anchors /etc/ca-certificates/trust-source/anchors; do
            [ -d $anchors ] && cp "$@" $anchors/
        done
        update-ca-trust || echo "update-ca-trust failed" >&2
    fi
    # A bundle that those do not make.
    for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        [ -f $bundle ] && [ ! -L $bundle ] || continue
        have=$(cat $bundle)
        for file; do
            case $have in *"$(cat "$file")"*) ;; *) { echo && cat "$file"; } >>$bundle ;; esac
        done
    done
fi
[ -z "$finish" ] || sync
"#;

/// Done before the start command, which is to find it so, and after it, since it may
/// have added to it; `last` also writes everything to the disk.
pub(crate) async fn settle(
    run: &Run<'_>,
    stack: &Stack,
    vm: &Vm,
    last: bool,
) -> Result<(), Failure> {
    let profile = profile(&stack.context.env);
    let finish = if last { "sync" } else { "" };
    let command = shell::script(SCRIPT, &[&profile, finish]);
    let (exit, why) = shell::run(run, vm, PART, command).await?;
    if exit.code == 0 {
        return Ok(());
    }
    let text = format!("cannot set the template up: {} {why}", exit.status);
    run.log.add(Some(PART), Level::Error, &text);
    Err(Failure::at(PART, text))
}

/// A script for login shells; empty where there is no variable. Commands of sandboxes
/// have the variables of the agent, with those of their caller over them: nothing
/// that is set already is changed. `PATH` is the exception: the system's own profile
/// overwrites it, and the one that the shell was started with comes back.
fn profile(env: &BTreeMap<String, String>) -> String {
    if env.is_empty() {
        return String::new();
    }
    let mut script = String::from(
        "# Variables of the template, for shells that are not started by its agent.\n",
    );
    let others = env
        .iter()
        .filter(|(name, _)| is_plain(name) && *name != "PATH");
    for (name, value) in others {
        let value = quoted(value);
        let _ = writeln!(script, "[ -n \"${{{name}+x}}\" ] || export {name}={value}");
    }
    if let Some(path) = env.get("PATH") {
        let _ = writeln!(script, "hearth_path={}", quoted(path));
        script.push_str(RESTORE_PATH);
    }
    script
}

/// Whether a shell can have a variable of this name; an image may bring others.
fn is_plain(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(fits)
}

const RESTORE_PATH: &str = r#"if [ -n "${BASH_VERSION-}" ] && [ -r /proc/self/environ ]; then
    while IFS= read -r -d '' hearth_pair; do
        case $hearth_pair in PATH=*) hearth_path=${hearth_pair#PATH=} ;; esac
    done </proc/self/environ
fi
export PATH="$hearth_path"
unset hearth_path hearth_pair
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What a shell sees that reads the profile after one that sets `PATH`.
    fn seen(shell: &str, env: &[(&str, &str)], given: &[(&str, &str)], line: &str) -> String {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let script = format!("PATH=/system\n{}{line}", profile(&env));
        let output = Command::new(shell)
            .args(["-euc", &script])
            .env_clear()
            .envs(given.iter().copied())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_profile_adds_what_is_not_set() {
        let env = [
            ("A", "it's $1"),
            ("B", "template"),
            ("C D", "x"),
            ("1", "y"),
        ];
        for shell in ["/bin/bash", "/bin/sh"] {
            let seen = seen(shell, &env, &[("B", "request")], "echo \"$A $B $PATH\"");
            assert_eq!(seen, "it's $1 request /system\n", "{shell}");
        }
    }

    #[test]
    fn the_path_that_the_shell_was_given_comes_back() {
        let env = [("PATH", "/opt/bin:/bin")];
        let given = [("PATH", "/mine:/bin")];
        assert_eq!(
            seen("/bin/bash", &env, &given, "echo $PATH"),
            "/mine:/bin\n"
        );
        // Another shell cannot tell what it was given.
        assert_eq!(
            seen("/bin/sh", &env, &given, "echo $PATH"),
            "/opt/bin:/bin\n"
        );
    }

    #[test]
    fn without_variables_there_is_no_profile() {
        assert_eq!(profile(&BTreeMap::new()), "");
    }
}
