"""What Hearth leaves on the host: its processes, networks, rules and files.

Everything is read from the kernel and the file system, never asked from
Hearth itself, so that it can prove Hearth wrong.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


def command_lines() -> dict[int, str]:
    """Every process and its arguments; zombies and kernel threads have none."""
    lines = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            raw = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if raw:
            lines[int(entry.name)] = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return lines


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only awaits its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def vm_processes(run_dir: Path, sandbox_id: str = "") -> list[int]:
    """The VM processes whose sockets are in `run_dir`, of one sandbox or of all."""
    marker = f"{run_dir}/" if not sandbox_id else sandbox_id
    return sorted(
        pid
        for pid, line in command_lines().items()
        if is_vm(line.split(" ", 1)[0]) and marker in line and str(run_dir) in line
    )


def is_vm(program: str) -> bool:
    return "qemu-system" in program or Path(program).name.startswith("firecracker")


def block_devices() -> set[str]:
    """The kernel's network block devices of VMs, by number and whose they are."""
    found = set()
    for backend in Path("/sys/block").glob("nbd*/backend"):
        try:
            identifier = backend.read_text().strip()
        except OSError:
            continue  # it went meanwhile
        if identifier.startswith("hearth"):
            found.add(f"{backend.parent.name} {identifier}")
    return found


def network_namespaces() -> set[str]:
    try:
        return {name for name in os.listdir("/run/netns") if name.startswith("hearth")}
    except FileNotFoundError:
        return set()


def network_links() -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name.startswith(("hveth", "hearth"))}


def nft_tables() -> set[str]:
    listed = subprocess.run(
        ["nft", "-j", "list", "tables"], capture_output=True, text=True, check=True
    )
    items = json.loads(listed.stdout)["nftables"] if listed.stdout.strip() else []
    names = {
        f"{item['table']['family']} {item['table']['name']}" for item in items if "table" in item
    }
    return {name for name in names if "hearth" in name}


def control_groups() -> set[str]:
    """Directories of Hearth's VMs in any hierarchy, wherever it is mounted."""
    found = set()
    for root, directories, _ in os.walk("/sys/fs/cgroup"):
        for name in directories:
            if "hearth" in name:
                found.add(os.path.join(root, name))
    return found


def mounts_under(path: Path) -> set[str]:
    prefix = f"{path}/"
    points = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    return {point for point in points if point.startswith(prefix)}


@dataclass
class Traces:
    """What of Hearth is on this host."""

    vms: set[int] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)

    @classmethod
    def now(cls, state_dir: Path, run_dir: Path) -> "Traces":
        return cls(
            vms=set(vm_processes(run_dir)),
            namespaces=network_namespaces(),
            links=network_links(),
            tables=nft_tables(),
            groups=control_groups(),
            files=sandbox_files(state_dir, run_dir)
            | mounts_under(state_dir)
            | mounts_under(run_dir),
            devices=block_devices(),
        )

    def beyond(self, earlier: "Traces") -> dict[str, list]:
        """What is here and was not in `earlier`; empty when nothing is left."""
        left = {}
        for name in self.__dataclass_fields__:
            extra = getattr(self, name) - getattr(earlier, name)
            if extra:
                left[name] = sorted(extra)
        return left


def tree(root: Path) -> list[Path]:
    """A directory and all that is in it, which may change while this looks: unlike
    `rglob`, this does not fail at a directory that ended meanwhile."""
    found = [root]
    for above, directories, files in os.walk(root):
        found += [Path(above, name) for name in directories + files]
    return found


def sandbox_files(state_dir: Path, run_dir: Path) -> set[str]:
    """Files of single sandboxes, and sockets and the like of the daemon."""
    found = set()
    for directory in (state_dir / "sandboxes", run_dir):
        if directory.is_dir():
            found |= {str(path) for path in tree(directory) if not path.is_dir()}
            found |= {str(path) for path in (directory / "sb").glob("*")}
    # A log may stay to be read, and a lock's file has to: removing it would race
    # with the next holder. Which users were given out is remembered until the host boots.
    # None of them is a resource.
    kept = (".log", ".pid", "/uids.json")
    return {path for path in found if "/sb/" in path or not path.endswith(kept)}
