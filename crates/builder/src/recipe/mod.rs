//! What goes into the `base` template, as data.

/// Changes whenever the recipe's meaning changes without a change of its data.
pub(crate) const VERSION: u32 = 1;

/// Debian release of the guest, whatever the host's.
pub(crate) const SUITE: &str = "bookworm";

/// Beside what every Debian has.
pub(crate) const PACKAGES: &[&str] = &[
    "bash",
    "ca-certificates",
    "curl",
    "file",
    "git",
    "iproute2",
    "iputils-ping",
    "jq",
    "less",
    "login",
    "ncurses-base",
    "ncurses-term",
    "netbase",
    "nodejs",
    "openssh-client",
    "openssl",
    "passwd",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "sudo",
    "tzdata",
    "unzip",
    "xz-utils",
];

/// Paths that no package may install.
pub(crate) const EXCLUDED: &[&str] = &[
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
];

/// Run by the host in the new root, after the packages.
pub(crate) const CUSTOMIZE: &str = include_str!("base.sh");

/// Run in the guest before the snapshot: what the first commands of a sandbox
/// touch is then in its memory.
pub(crate) const WARM_UP: &[&str] = &[
    "true",
    "echo hi",
    "python3 -c 'import json, os, sys, subprocess, ssl, urllib.request'",
    "python3 -c 'print(6 * 7)'",
    "node -e 'console.log(1)'",
    "git --version",
    "curl --version > /dev/null",
    "sudo -n true",
    "ls -la /tmp ~ > /dev/null",
];
