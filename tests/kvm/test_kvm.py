"""Hearth where KVM works: the whole life of a sandbox, and what only such a host has.

The tests run in the order in which they stand here, on one sandbox.
"""

import grp
import json
import os
import re
import signal
import stat
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from e2b import CommandExitException, Sandbox, Template
from e2b.sandbox.commands.command_handle import PtySize

from support import machine
from support.internet import FIRST, SECOND
from support.waiting import Background, Collector, until

MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup")
# A process whose memory alone knows its number; it answers each line with the next one.
COUNTER = "exec 3<>/tmp/asked; n=41; while read -r _ <&3; do echo $((n += 1)) >> /tmp/numbers; done"
ASK = (
    "rm -f /tmp/numbers; echo go > /tmp/asked; "
    "until [ -s /tmp/numbers ]; do sleep 0.05; done; tail -n 1 /tmp/numbers"
)


def run(sandbox, line: str, **options) -> str:
    return sandbox.commands.run(line, **{"timeout": 180, **options}).stdout


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(re.split(r":\s*", line, maxsplit=1) for line in lines if ":" in line)


def descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]


def clock_is_right(sandbox) -> None:
    before = time.time()
    guest = float(run(sandbox, "date +%s.%N"))
    assert before - 2 < guest < time.time() + 2


def boot_id(sandbox) -> str:
    return run(sandbox, "cat /proc/sys/kernel/random/boot_id")


# The host, before and while Hearth runs on it.


def test_the_device_is_what_distributions_make():
    found = os.stat("/dev/kvm")
    assert stat.S_IMODE(found.st_mode) == 0o660, "a wider mode would hide what this suite is for"
    assert (found.st_uid, found.st_gid) == (0, grp.getgrnam("kvm").gr_gid)
    assert "memory" in (CGROUPS / "cgroup.controllers").read_text().split()


def test_doctor_tries_what_a_jailed_vm_does(hearth):
    done = hearth.run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["accelerator"]["verdict"] == "ok", checks["accelerator"]
    assert checks["accelerator"]["detail"].startswith("kvm: a jailed VM runs")
    assert (checks["cgroups"]["verdict"], checks["cgroups"]["detail"]) == ("ok", "v2")


def test_up_has_started_a_sandbox_on_kvm(hearth):
    assert re.search(r"A sandbox was created in \d+ ms and had run Python", hearth.printed())
    base = json.loads(hearth.run("template", "show", "base").stdout)
    made = json.loads(hearth.run("snapshot", "show", base["buildID"]).stdout)
    assert '"kvm"' in json.dumps(made), made


def test_doctor_says_what_keeps_a_jailed_vm_from_kvm(hearth):
    """Where QEMU in the jail fails, the answer is emulation and the cause, not a start
    that fails later."""
    mount = "mount --bind /bin/false /usr/bin/qemu-system-x86_64 && exec "
    command = mount + " ".join(hearth.command("doctor", "--json"))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        env=hearth.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    accelerator = checks["accelerator"]
    assert accelerator["verdict"] == "warning"
    assert "KVM works for root, but not for a jailed QEMU" in accelerator["detail"]


# The sandbox and its process on the host.


def test_the_vm_has_kvm_and_no_right_to_it(hearth, sandbox):
    pid = hearth.vm_pid(sandbox.sandbox_id)
    command = machine.command_lines()[pid]
    assert "-accel kvm" in command and "-cpu host" in command
    status = status_of(pid)
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert status["Groups"].strip() == "", "not even the device's group"
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1"
    opened = descriptors(pid)
    assert "/dev/kvm" in opened and "anon_inode:kvm-vm" in opened, opened


def test_the_vm_is_in_a_jail(hearth, sandbox):
    pid = hearth.vm_pid(sandbox.sandbox_id)
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    assert len(threads) > 2
    for thread in threads:
        status = dict(
            line.split(":", 1) for line in (thread / "status").read_text().splitlines()
        )
        assert int(status["CapBnd"], 16) == 0
        # Ours of the start-up, QEMU's, and our two of the run time.
        assert (status["Seccomp"].strip(), status["Seccomp_filters"].strip()) == ("2", "4")
        assert status["NSpid"].split()[0] != status["NSpid"].split()[1]
    root = Path(f"/proc/{pid}/root")
    command = machine.command_lines()[pid]
    own = Path(re.search(r'"path":"/([^"]+)/nbd\.sock"', command)[1])
    assert set(os.listdir(root)) == {"etc", "lib", "lib64", "proc", "usr", own.parts[0]}
    assert os.listdir(root / own.parent) == [own.name], "no other sandbox"
    assert os.listdir(root / "usr/bin") == ["qemu-system-x86_64"]
    for kind in ("mnt", "pid", "ipc", "uts", "cgroup", "net"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_limits_of_the_control_group_are_in_force(hearth, sandbox):
    pid = hearth.vm_pid(sandbox.sandbox_id)
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")
    group = CGROUPS / path
    assert path.startswith("hearth/"), path
    # Beside it is a kernel thread that KVM makes for each VM.
    assert str(pid) in (group / "cgroup.procs").read_text().split()
    guest = int(run(sandbox, "awk '/MemTotal/ { print $2 }' /proc/meminfo")) * 1024
    limit = int((group / "memory.max").read_text())
    assert guest < limit < guest + 1024 * MIB
    assert os.access("/sys/fs/cgroup/hearth/cgroup.subtree_control", os.R_OK)
    handed_on = (CGROUPS / "hearth/cgroup.subtree_control").read_text().split()
    assert {"memory", "cpu", "pids"} <= set(handed_on)
    cpus = int(run(sandbox, "nproc"))
    assert (group / "pids.max").read_text().strip() == str(cpus + 80)
    assert (group / "cpu.max").read_text().split() == [str((cpus + 1) * 100_000), "100000"]
    assert (group / "cpu.weight").read_text().strip() == str(cpus * 100)
    # All VMs together weigh what any other group of the host does.
    assert (CGROUPS / "hearth/cpu.weight").read_text().strip() == "100"

    # What the guest writes is charged to the group ...
    def charged() -> int:
        return int((group / "memory.current").read_text())

    before = charged()
    run(sandbox, "head -c 96M /dev/zero > /dev/shm/filled")
    assert charged() > before + 80 * MIB
    run(sandbox, "rm /dev/shm/filled")
    # ... and who goes over the group's limit is ended, alone.
    victim = Sandbox.create(timeout=600)
    try:
        victim_pid = hearth.vm_pid(victim.sandbox_id)
        place = Path(f"/proc/{victim_pid}/cgroup").read_text().strip().removeprefix("0::/")
        (CGROUPS / place / "memory.max").write_text(str(48 * MIB))
        with pytest.raises(Exception):
            victim.commands.run("head -c 256M /dev/zero > /dev/shm/filled", timeout=120)
        until(lambda: not machine.is_alive(victim_pid), "the VM over its limit to end")
    finally:
        victim.kill()
    assert machine.is_alive(pid) and run(sandbox, "echo alive") == "alive\n"


def test_the_guest_sees_the_processor_as_it_is(sandbox):
    def flags(text: str) -> set[str]:
        found = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
        assert found
        return set(found.group(1).split())

    host = flags(Path("/proc/cpuinfo").read_text())
    guest = flags(run(sandbox, "cat /proc/cpuinfo"))
    # Of what a program may use, nothing is held back. (AVX is no good measure here: the
    # guest's kernel leaves off what needs XSAVE, which emulated nesting gets wrong.)
    for flag in ("sse4_2", "popcnt", "aes", "movbe", "bmi1", "bmi2", "adx", "erms", "fsrm"):
        assert (flag in guest) == (flag in host), flag
    assert "hypervisor" in guest
    parameters = run(sandbox, "cat /proc/cmdline")
    for for_emulation in ("norandmaps", "mitigations=off", "tsc_early_khz"):
        assert for_emulation not in parameters, parameters
    assert run(sandbox, "cat /proc/sys/kernel/randomize_va_space") == "2\n"


def test_the_guests_clock_is_kvms(sandbox):
    clock = "/sys/devices/system/clocksource/clocksource0"
    assert "kvm-clock" in run(sandbox, f"cat {clock}/available_clocksource")
    assert run(sandbox, f"cat {clock}/current_clocksource").strip() in ("kvm-clock", "tsc")
    clock_is_right(sandbox)


# What people do with it.


def test_commands(sandbox):
    assert run(sandbox, "echo $KEPT; pwd; whoami") == "yes\n/home/user\nuser\n"
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("echo wrong >&2; exit 7")
    assert (failed.value.exit_code, failed.value.stderr) == (7, "wrong\n")
    lines: list[str] = []
    handle = sandbox.commands.run("read line; echo got $line", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "this\n")
    handle.wait(on_stdout=lines.append)
    assert "".join(lines) == "got this\n"


def test_files(sandbox):
    content = os.urandom(3 * MIB)
    sandbox.files.write("/home/user/folder/random", content)
    assert bytes(sandbox.files.read("/home/user/folder/random", format="bytes")) == content
    assert [entry.name for entry in sandbox.files.list("/home/user/folder")] == ["random"]
    sandbox.files.rename("/home/user/folder/random", "/home/user/moved")
    assert sandbox.files.exists("/home/user/moved")
    sandbox.files.remove("/home/user/moved")
    assert not sandbox.files.exists("/home/user/moved")


def test_a_terminal(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), envs={"PS1": "$ "}, timeout=0)
    screen = Collector()
    ending = Background(lambda: handle.wait(on_pty=screen))
    sandbox.pty.send_stdin(handle.pid, b"echo result-$((6*7)) size=$(stty size)=\n")
    assert "result-42 size=24 80=" in screen.wait_for("size=24 80=")
    sandbox.pty.send_stdin(handle.pid, b"exit\n")
    ending.result(60)


def test_egress_rules(sandbox):
    def reaches(address: str, seconds: int = 30) -> bool:
        line = f"curl -sS -m {seconds} http://{address}/ || true"
        answer = run(sandbox, line)
        return bool(answer) and json.loads(answer)["address"] == address

    assert reaches(FIRST) and reaches(SECOND)
    sandbox.update_network({"deny_out": [SECOND]})
    assert reaches(FIRST) and not reaches(SECOND, 5)
    sandbox.update_network({"allow_out": ["first.test"], "deny_out": ["0.0.0.0/0"]})
    assert "203.0.113.10" in run(sandbox, "curl -sS -m 30 http://first.test/")
    assert not reaches(SECOND, 5)
    sandbox.update_network({})
    assert reaches(SECOND)


# Kept, copied, continued.


def test_pause_and_resume_with_memory(hearth, sandbox):
    run(sandbox, "mkfifo /tmp/asked")
    sandbox.commands.run(COUNTER, background=True, timeout=0)
    assert run(sandbox, ASK) == "42\n"
    boot, pid = boot_id(sandbox), hearth.vm_pid(sandbox.sandbox_id)
    for expected in ("43\n", "44\n"):
        sandbox.pause()
        until(lambda: not machine.is_alive(pid), "the paused VM's process to end")
        Sandbox.connect(sandbox.sandbox_id, timeout=3000)
        assert run(sandbox, ASK) == expected
        assert boot_id(sandbox) == boot
        clock_is_right(sandbox)
        pid = hearth.vm_pid(sandbox.sandbox_id)


def test_the_clock_runs_evenly_after_a_restore(sandbox):
    """A restored VM's counter starts anew: time must neither stand nor jump."""
    program = (
        "import time\n"
        "last, start, wall = time.monotonic(), time.monotonic(), time.time()\n"
        "while last - start < 3:\n"
        "    now = time.monotonic()\n"
        "    assert 0 <= now - last < 2, (last, now)\n"
        "    last = now\n"
        "assert abs((time.time() - wall) - (last - start)) < 0.5\n"
        "print('even')\n"
    )
    sandbox.files.write("/tmp/clock.py", program)
    began = time.monotonic()
    assert run(sandbox, "python3 /tmp/clock.py") == "even\n"
    assert time.monotonic() - began > 2.9
    current = run(sandbox, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert current.strip() in ("kvm-clock", "tsc")


def test_snapshot_and_fork(hearth, sandbox):
    sandbox.files.write("/home/user/file", "at the snapshot")
    # So that it is on the disk as well, which is looked at below.
    run(sandbox, "sync")
    snapshot = sandbox.create_snapshot("kept")
    sandbox.files.write("/home/user/file", "later")
    copy = Sandbox.create(template=snapshot.snapshot_id, timeout=600)
    try:
        assert copy.files.read("/home/user/file") == "at the snapshot"
        assert boot_id(copy) == boot_id(sandbox), "memory is part of it"
        clock_is_right(copy)
    finally:
        copy.kill()
    (fork,) = sandbox.fork(timeout=600, count=1)
    try:
        assert fork.files.read("/home/user/file") == "later"
        assert run(fork, "cat /proc/sys/kernel/random/uuid") != run(
            sandbox, "cat /proc/sys/kernel/random/uuid"
        )
        clock_is_right(fork)
        fork.files.write("/home/user/file", "the fork's")
        assert sandbox.files.read("/home/user/file") == "later"
    finally:
        fork.kill()


def test_a_builds_disk_is_a_block_device(hearth, tmp_path):
    """The kernel's own client, as no host without `nbd` has it."""
    shown = json.loads(hearth.run("template", "show", "kept").stdout)
    command = hearth.command("snapshot", "serve", shown["buildID"], "--device")
    served = subprocess.Popen(command, env=hearth.environment, stdout=subprocess.PIPE)
    size = Path("/sys/block/nbd0/size")
    try:
        until(lambda: size.read_text().strip() != "0", "the device")
        subprocess.run(["mount", "-o", "ro,noload", "/dev/nbd0", tmp_path], check=True)
        assert (tmp_path / "home/user/file").read_text() == "at the snapshot"
    finally:
        # The server waits for whoever has its device mounted.
        subprocess.run(["umount", tmp_path])
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0
    assert size.read_text().strip() == "0"
    assert Sandbox.delete_snapshot("default/kept:default") is True


def test_a_sandbox_outlives_its_daemon(hearth, sandbox):
    pid, boot = hearth.vm_pid(sandbox.sandbox_id), boot_id(sandbox)
    hearth.kill()
    assert machine.is_alive(pid)
    hearth.start()
    assert hearth.vm_pid(sandbox.sandbox_id) == pid
    assert sandbox.get_info().metadata == {"of": "the suite"}
    assert (run(sandbox, ASK), boot_id(sandbox)) == ("45\n", boot)
    # Adopted, it can be all that it could before.
    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, timeout=3000)
    assert run(sandbox, ASK) == "46\n"


def test_pause_and_resume_of_the_disk_alone(hearth, sandbox):
    sandbox.files.write("/home/user/file", "on the disk")
    boot = boot_id(sandbox)
    sandbox.pause(keep_memory=False)
    Sandbox.connect(sandbox.sandbox_id, timeout=3000)
    assert sandbox.files.read("/home/user/file") == "on the disk"
    assert boot_id(sandbox) != boot
    assert run(sandbox, "echo $KEPT") == "yes\n"
    clock_is_right(sandbox)


def test_a_template_is_built(hearth):
    name = f"built-{uuid.uuid4().hex[:8]}"
    template = Template().from_base_image().run_cmd("echo made > made.txt").set_envs({"OF": "it"})
    lines: list[str] = []
    Template.build(
        template,
        alias=name,
        cpu_count=1,
        memory_mb=256,
        on_build_logs=lambda entry: lines.append(entry.message),
    )
    built = Sandbox.create(name, timeout=600)
    try:
        assert run(built, "cat /home/user/made.txt") == "made\n", lines
        pid = hearth.vm_pid(built.sandbox_id)
        assert "-accel kvm" in machine.command_lines()[pid]
    finally:
        built.kill()
