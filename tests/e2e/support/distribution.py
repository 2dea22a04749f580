"""Debian's `docker-registry` on loopback, and images pushed to it as clients do."""

import json
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import httpx

from support.daemon import free_port
from support.registry import digest
from support.waiting import until

USER, PASSWORD = "reader", "secret"
# bcrypt of the password; the registry takes no other kind.
HASHED = "$2b$04$eV3h3xSwfVbFzG.BCDPdMePjBGHc6JXZcIC5vxWnzFjtBqtCYBvii"

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
INDEX = "application/vnd.oci.image.index.v1+json"


class Distribution:
    """A running registry that wants a name and a password."""

    def __init__(self, home: Path):
        port = free_port()
        self.host = f"127.0.0.1:{port}"
        (home / "htpasswd").write_text(f"{USER}:{HASHED}\n")
        settings = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(home / "store")}},
            "http": {"addr": self.host},
            "auth": {"htpasswd": {"realm": "test", "path": str(home / "htpasswd")}},
        }
        # JSON is YAML, too.
        (home / "config.yml").write_text(json.dumps(settings))
        program = os.environ.get("HEARTH_E2E_REGISTRY", "")
        assert Path(program).is_file(), "run this with scripts/e2e"
        self.log = open(home / "log", "wb")
        self.process = subprocess.Popen(
            [program, "serve", str(home / "config.yml")], stdout=self.log, stderr=self.log
        )
        self.client = httpx.Client(
            base_url=f"http://{self.host}/v2", auth=(USER, PASSWORD), timeout=60
        )
        until(self._answers, "the registry to answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the registry ended"
        try:
            return self.client.get("/").is_success
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    def push(self, name: str, tag: str, *layers: bytes, architectures: tuple[str, ...] = ("amd64",)) -> str:
        """Pushes an image; one for several architectures as an index of them, in
        which only the first has the layers. Returns its reference."""
        found = []
        for number, architecture in enumerate(architectures):
            config = json.dumps({"os": "linux", "architecture": architecture, "config": {}}).encode()
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": self._blob(name, config, CONFIG),
                "layers": [self._blob(name, blob, LAYER) for blob in layers] if number == 0 else [],
            }
            single = len(architectures) == 1
            pushed = self._manifest(name, tag if single else f"{tag}-{architecture}", manifest)
            pushed["platform"] = {"os": "linux", "architecture": architecture}
            found.append(pushed)
        if len(found) > 1:
            # What is wanted comes last.
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found[::-1]}
            self._manifest(name, tag, index)
        return f"{self.host}/{name}:{tag}"

    def _blob(self, name: str, blob: bytes, kind: str) -> dict[str, Any]:
        found = {"mediaType": kind, "digest": digest(blob), "size": len(blob)}
        if not self.client.head(f"/{name}/blobs/{digest(blob)}").is_success:
            begun = self.client.post(f"/{name}/blobs/uploads/")
            assert begun.status_code == 202, begun.text
            url = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest(blob)})
            kind = {"Content-Type": "application/octet-stream"}
            done = self.client.put(url, content=blob, headers=kind)
            assert done.status_code == 201, done.text
        return found

    def _manifest(self, name: str, tag: str, manifest: dict[str, Any]) -> dict[str, Any]:
        body, kind = json.dumps(manifest).encode(), manifest["mediaType"]
        done = self.client.put(
            f"/{name}/manifests/{tag}", content=body, headers={"Content-Type": kind}
        )
        assert done.status_code == 201, done.text
        return {"mediaType": kind, "digest": digest(body), "size": len(body)}


@contextmanager
def distribution() -> Iterator[Distribution]:
    with tempfile.TemporaryDirectory(prefix="hearth-registry-", dir="/tmp") as home:
        registry = Distribution(Path(home))
        try:
            yield registry
        finally:
            registry.close()
