"""What `scripts/setup` and `scripts/toolchain` decide, on hosts of all kinds.

The scripts run as they are; the programs that they call (apt-get, curl, rustup, …) are
stubs in a PATH that has nothing else but plain tools.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PLAIN = (
    "awk basename bash cat chmod cut dirname env find grep head id mkdir mktemp readlink rm sed "
    "sha256sum sort tail touch uname"
).split()
MAKES_RUST = """
for tool in cargo rustc; do
    printf '#!/bin/sh\\necho "%s 1.99.0 (abc 2026-01-01)"\\n' $tool > "{bin}/$tool"
    chmod 755 "{bin}/$tool"
done
"""


class Host:
    """A machine made of stubs, which note how they were called."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "calls"
        self.log.touch()
        self.bin = home / "bin"
        self.bin.mkdir()
        for name in PLAIN:
            path = shutil.which(name)
            assert path, f"this host has no {name}"
            (self.bin / name).symlink_to(path)

    def stub(self, name: str, body: str = "", where: "Path | None" = None) -> None:
        path = (where or self.bin) / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{self.log}"\n{body}\n')
        path.chmod(0o755)

    def rust(self, version: str) -> None:
        for name in ("cargo", "rustc"):
            self.stub(name, f'echo "{name} {version} (abc 2026-01-01)"')

    def rustup(self, default: bool = False, body: str = "") -> None:
        """Installs Rust on demand; may have a default toolchain already."""
        self.stub(
            "rustup",
            f"""case "$1" in
            default) [ -n "${{2:-}}" ] || exit {0 if default else 1} ;;
            toolchain) {body or MAKES_RUST.format(bin=self.bin)} ;;
            esac""",
        )

    def apt(self, *packages: str, lists: bool = True) -> None:
        """An apt that knows these packages, at once or after an update."""
        known = self.home / "lists"
        if lists:
            known.touch()
        offered = " ".join(packages)
        self.stub(
            "apt-cache",
            f"""[ -e {known} ] || exit 0
            for package in {offered}; do
                [ "$package" != "$2" ] || {{ printf '%s:\\n  Candidate: 1.2-3\\n' "$2"; exit 0; }}
            done
            printf '%s:\\n  Candidate: (none)\\n' "$2" """,
        )
        self.stub(
            "apt-get",
            f"""case "$*" in
            *" update") touch {known} ;;
            *rustup*) cp {self.home}/rustup.deb {self.bin}/rustup ;;
            esac""",
        )
        self.stub("dpkg-query", "exit 1")
        (self.bin / "cp").symlink_to(shutil.which("cp"))  # type: ignore[arg-type]

    def installer(self, genuine: bool = True) -> None:
        """A curl that brings an installer, whose checksum is taken for right or is not."""
        own = self.home / ".cargo" / "bin"
        script = f'#!/bin/bash\necho "rustup-init $*" >> "{self.log}"\nmkdir -p {own}\n'
        (self.home / "rustup-init").write_text(script + MAKES_RUST.format(bin=own))
        self.stub(
            "curl",
            f"""while [ "$1" != --output ]; do shift; done
            cat {self.home}/rustup-init > "$2" """,
        )
        if genuine:
            self.stub("sha256sum", "cat >> " + str(self.log))

    def run(self, script: str = "toolchain", *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(self.bin / "bash"), str(SCRIPTS / script), *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.home), "TMPDIR": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self, program: str = "") -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if line.startswith(program)]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def succeeds(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_compiler_that_is_new_enough_stays_as_it_is(host):
    host.rust("1.94.0")
    host.apt("rustup")
    host.rustup()
    succeeds(host.run())
    assert {call.split()[0] for call in host.calls()} == {"rustc"}


def test_the_distributions_rustup_comes_first(host):
    host.rustup()
    (host.bin / "rustup").rename(host.home / "rustup.deb")
    host.apt("rustup")
    host.installer()
    succeeds(host.run())
    [install] = [call for call in host.calls("apt-get") if " install " in call]
    assert install.endswith(" rustup") and " -y " in install
    [toolchain] = host.calls("rustup toolchain")
    assert "stable" in toolchain and not host.calls("curl")


def test_a_fresh_systems_lists_are_fetched_before_a_package_is_missed(host):
    host.rustup()
    (host.bin / "rustup").rename(host.home / "rustup.deb")
    host.apt("rustup", lists=False)
    succeeds(host.run())
    calls = host.calls("apt-get")
    assert "update" in calls[0] and "install" in calls[1]


@pytest.mark.parametrize("apt", [True, False])
def test_rustups_own_installer_where_the_distribution_has_none(host, apt):
    if apt:
        host.apt("something-else")
    host.installer()
    succeeds(host.run())
    [curl] = host.calls("curl")
    assert "--proto =https --tlsv1.2" in curl
    assert "https://static.rust-lang.org/rustup/archive/" in curl
    [init] = host.calls("rustup-init")
    assert " -y " in init and "--no-modify-path" in init
    assert host.calls("sha256sum --check")
    # The next script finds it without a changed profile.
    assert (host.home / ".cargo" / "bin" / "cargo").exists()
    succeeds(host.run())
    assert len(host.calls("curl")) == 1


def test_an_installer_with_another_checksum_is_not_run(host):
    host.installer(genuine=False)
    done = host.run()
    assert done.returncode != 0 and "checksum" in done.stderr
    assert not host.calls("rustup-init")
    assert not list(host.home.glob("tmp.*")), "nothing of it is left"


def test_curl_is_installed_where_it_is_missing(host):
    host.apt("something-else")
    host.run()
    assert any("install" in call and " curl" in call for call in host.calls("apt-get"))
    nothing = Host(make_directory(host.home / "other"))
    done = nothing.run()
    assert done.returncode != 0 and "curl is needed" in done.stderr


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_distributions_older_compiler_is_not_removed(host):
    host.rust("1.63.0")
    host.apt("rustup")
    host.stub("dpkg-query", "echo installed")
    host.installer()
    succeeds(host.run())
    assert not host.calls("apt-get") and host.calls("rustup-init")


def test_an_older_default_toolchain_stays_the_default(host):
    host.rust("1.70.0")
    # The toolchain is installed beside, and serves once this folder asks for it.
    host.rustup(default=True, body="true")
    host.stub(
        "rustup",
        f"""case "$1" in
        override) {MAKES_RUST.format(bin=host.bin)} ;;
        esac""",
    )
    succeeds(host.run())
    assert host.calls("rustup override set stable --path")
    assert not host.calls("rustup default stable")


def test_a_toolchain_that_cannot_be_had_is_an_error(host):
    host.rustup(body="exit 1")
    done = host.run()
    assert done.returncode != 0 and "could not install" in done.stderr


def test_packages_are_installed_with_their_reasons_said(host):
    host.rust("1.99.0")
    host.apt("rustup")
    said = succeeds(host.run("setup"))
    update, install = host.calls("apt-get")
    assert update.endswith("update") and " -y " in install
    assert "qemu-system-x86" in install and "zstd" in install
    assert "runs the microVMs" in said


def test_lists_that_cannot_be_fetched_are_no_end(host):
    host.rust("1.99.0")
    host.apt()
    host.stub("apt-get", '[[ "$*" != *update ]]')
    said = succeeds(host.run("setup"))
    assert "the lists that are there" in said


@pytest.mark.parametrize("sudo", [True, False])
def test_who_is_not_root_uses_sudo_or_is_told(host, sudo):
    host.rust("1.99.0")
    host.apt()
    host.stub("id", "echo 1000")
    if sudo:
        host.stub("sudo", '"$@"')
    done = host.run("setup")
    if sudo:
        succeeds(done)
        assert any("apt-get install" in call for call in host.calls("sudo"))
    else:
        assert done.returncode != 0 and "run it as root" in done.stderr
        assert not host.calls("apt-get")


def test_other_distributions_are_told_what_to_install(host):
    host.rust("1.99.0")
    done = host.run("setup")
    assert done.returncode == 1
    assert "no apt-get" in done.stderr and "qemu-system-x86: runs the microVMs" in done.stderr


@pytest.mark.parametrize("sudo", [True, False])
def test_up_starts_the_daemon_as_root(host, sudo, tmp_path):
    host.rust("1.99.0")
    root = tmp_path / "checkout"
    shutil.copytree(SCRIPTS, root / "scripts")
    for script in ("setup", "build"):
        host.stub(script, where=root / "scripts")
    hearth = make_directory(tmp_path / "built") / "hearth"
    host.stub("hearth", where=hearth.parent)
    host.stub("id", "echo 1000")
    if sudo:
        host.stub("sudo", 'while [[ "$1" == --* ]]; do shift; done; "$@"')
    done = subprocess.run(
        [str(host.bin / "bash"), str(root / "scripts" / "up"), "--detach"],
        env={"PATH": str(host.bin), "HOME": str(host.home), "HEARTH_BIN": str(hearth)},
        capture_output=True,
        text=True,
    )
    assert host.calls("setup") and host.calls("build")
    if sudo:
        succeeds(done)
        assert host.calls("hearth up --detach")
    else:
        assert done.returncode != 0 and "needs root" in done.stderr
        assert not host.calls("hearth")


def test_no_stub_is_a_program_of_this_host(host):
    # Else the tests above would ask, and maybe change, the real machine.
    done = subprocess.run(
        [str(host.bin / "bash"), "-c", "type -P apt-get cargo rustup curl sudo; true"],
        env={"PATH": f"{host.bin}{os.pathsep}/usr/local/sbin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
