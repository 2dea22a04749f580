"""scripts/oci-image, upon a small archive in the place of Debian's packages: what it writes is
an OCI image, and the same one each time. The whole image is tests/e2e/image's."""

import hashlib
import importlib.machinery
import importlib.util
import io
import json
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EPOCH = 1700000000


@pytest.fixture
def script(monkeypatch):
    path = ROOT / "scripts/oci-image"
    loader = importlib.machinery.SourceFileLoader("oci_image", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    # Without a file beside the scripts that nobody wants.
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    return module


@pytest.fixture
def binary(tmp_path):
    file = tmp_path / "hearth"
    file.write_text("#!/bin/sh\necho hearth 0\n")
    file.chmod(0o755)
    return file


def base() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("etc/debian_version")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"12\n"))
    return archive.getvalue()


def make(script, binary: Path, file: Path) -> str:
    layers = [script.layer(base(), "packages"), script.layer(script.hearth(binary, EPOCH), "hearth")]
    return script.write(file, layers, script.config(layers, EPOCH, "1.2.3", "f" * 40), "1.2.3")


def read(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}


def test_the_archive_is_an_image(script, binary, tmp_path):
    digest = make(script, binary, tmp_path / "image.tar")
    content = read(tmp_path / "image.tar")
    blobs = {name.rpartition("/")[2]: data for name, data in content.items() if name.startswith("blobs/sha256/")}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())
    assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}

    def at(described: dict, kind: str) -> bytes:
        assert described["mediaType"] == f"application/vnd.oci.image.{kind}"
        data = blobs.pop(described["digest"].removeprefix("sha256:"))
        assert len(data) == described["size"]
        return data

    [entry] = json.loads(content["index.json"])["manifests"]
    assert entry["digest"] == digest
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    manifest = json.loads(at(entry, "manifest.v1+json"))
    config = json.loads(at(manifest["config"], "config.v1+json"))
    unpacked = [zlib.decompress(at(layer, "layer.v1.tar+gzip"), 31) for layer in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(data).hexdigest() for data in unpacked]
    assert blobs == {}, "blobs that nothing names"
    with tarfile.open(fileobj=io.BytesIO(unpacked[1])) as tar:
        told = {entry.name: (entry.mode, entry.uid, entry.mtime) for entry in tar}
        assert told["usr/bin/hearth"] == (0o755, 0, EPOCH)
        assert tar.extractfile("usr/bin/hearth").read() == binary.read_bytes()

    run = config["config"]
    assert run["Entrypoint"] + run["Cmd"] == ["/usr/bin/hearth", "up"]
    assert set(run["Volumes"]) == {"/var/lib/hearth", "/var/cache/hearth"}
    assert run["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    # What `docker load` reads names the same files.
    [docker] = json.loads(content["manifest.json"])
    assert docker["RepoTags"] == ["hearth:1.2.3"]
    assert all(name in content for name in [docker["Config"], *docker["Layers"]])


def test_the_same_content_gives_the_same_file(script, binary, tmp_path):
    digests = {make(script, binary, tmp_path / name) for name in ("one.tar", "two.tar")}
    assert len(digests) == 1
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    binary.write_text("#!/bin/sh\necho hearth 1\n")
    assert make(script, binary, tmp_path / "three.tar") not in digests


def test_the_packages_are_those_of_the_debian_package(script):
    names = script.packages()
    assert {"qemu-system-x86", "nftables", "mmdebstrap", "debian-archive-keyring", "libc6"} <= set(names)
    assert all(name.replace("-", "").replace(".", "").replace("+", "").isalnum() for name in names)


def test_a_binary_that_is_not_there_is_told(tmp_path):
    done = subprocess.run(
        [ROOT / "scripts/oci-image", tmp_path / "image.tar"],
        env={"HEARTH_BIN": str(tmp_path / "none"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and f"no program {tmp_path}/none" in done.stderr
    assert list(tmp_path.iterdir()) == []
