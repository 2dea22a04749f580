"""A registry on loopback and images for it, made out of this host's programs."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from typing import Iterator, Optional, Sequence

PROGRAMS = (
    "bash sh tar mkdir chown ls cat echo sleep touch id whoami rm cp mv sync true test stat env "
    "head grep readlink"
).split()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layer:
    """An archive under construction."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, content: bytes = b"", **fields) -> "Layer":
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o644
        for field, value in fields.items():
            setattr(info, field, value)
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def directory(self, name: str, mode: int = 0o755) -> "Layer":
        return self.add(name, type=tarfile.DIRTYPE, mode=mode)

    def link(self, name: str, target: str) -> "Layer":
        return self.add(name, type=tarfile.SYMTYPE, linkname=target)

    def done(self) -> bytes:
        self._tar.close()
        return gzip.compress(self._bytes.getvalue(), 1)


def bomb(gibibytes: int) -> bytes:
    """A layer with one file of zeros, in a few kilobytes for each of them."""
    info = tarfile.TarInfo("zeros")
    info.size = gibibytes << 30
    zeros = gzip.compress(bytes(64 << 20), 9)
    return gzip.compress(info.tobuf()) + zeros * (16 * gibibytes)


def many_files(count: int) -> bytes:
    """A layer of empty files, a thousand in a directory, whose headers differ in the
    name alone: `tarfile` would take its time."""
    place = b"srv/"
    width = 16
    info = tarfile.TarInfo(place.decode() + "0" * width)
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    start, end = len(place), len(place) + width
    header[148:156] = b" " * 8
    rest = sum(header) - sum(header[start:end])
    blocks = []
    for number in range(count):
        name = b"%06d/%09d" % (number // 1000, number)
        header[start:end] = name
        header[148:156] = b"%06o\0 " % (rest + sum(name))
        blocks.append(bytes(header))
    return gzip.compress(b"".join(blocks) + bytes(1024), 1)


def base_layer(os_release: str = "ID=debian\n", programs: Sequence[str] = ()) -> bytes:
    """A small system: a shell and a few programs with their libraries, and more where
    they are asked for."""
    layer = Layer()
    for name in ("usr", "usr/bin", "etc", "etc/skel", "etc/ssl", "etc/ssl/certs", "proc", "sys", "dev", "run"):
        layer.directory(name)
    layer.directory("tmp", 0o1777).directory("root", 0o700).directory("var")
    layer.link("bin", "usr/bin").link("sbin", "usr/bin")
    libraries: set[str] = set()
    for name in (*PROGRAMS, *programs):
        path = shutil.which(name, path="/usr/bin:/bin")
        assert path, f"this host has no {name}"
        with open(path, "rb") as file:
            layer.add(f"usr/bin/{name}", file.read(), mode=0o755)
        shown = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        libraries |= set(re.findall(r"(/\S+) \(0x", shown))
    for path in sorted(libraries):
        with open(path, "rb") as file:
            layer.add(path.lstrip("/"), file.read(), mode=0o755)
    layer.add("etc/os-release", os_release.encode())
    layer.add("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n")
    layer.add("etc/group", b"root:x:0:\n")
    layer.add("etc/skel/.bashrc", b"# skel\n")
    layer.add("etc/ssl/certs/ca-certificates.crt", b"")
    return layer.done()


class Registry:
    """Serves images by the distribution protocol, read only."""

    def __init__(self, login: Optional[tuple[str, str]] = None):
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.requests: list[str] = []
        # Digests of blobs that stop half-way and then say nothing, until the end.
        self.stalled: set[str] = set()
        self.stalls = 0
        self._over = threading.Event()
        self._login = login
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                status, headers, body = registry.answer(self.path, self.headers)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.path.rsplit("/", 1)[-1] in registry.stalled:
                    self.wfile.write(body[: len(body) // 2])
                    registry.stalls += 1
                    registry._over.wait()
                    self.close_connection = True
                else:
                    self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def answer(self, path: str, headers) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(path)
        if self._login:
            expected = "Basic " + base64.b64encode(":".join(self._login).encode()).decode()
            if headers.get("Authorization") != expected:
                return 401, {"WWW-Authenticate": 'Basic realm="test"'}, b"{}"
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if not found:
            return 404, {}, b"{}"
        name, kind, version = found.groups()
        body = self.blobs.get(version) if kind == "blobs" else self.manifests.get(f"{name}:{version}")
        return (200, {}, body) if body is not None else (404, {}, b"{}")

    def push(self, name: str, *layers: bytes, env: tuple[str, ...] = (), architecture: str = "amd64") -> str:
        """Adds an image; returns its reference."""
        config = json.dumps(
            {"os": "linux", "architecture": architecture, "config": {"Env": list(env)}}
        ).encode()
        for blob in (config, *layers):
            self.blobs[digest(blob)] = blob
        describe = lambda blob: {"digest": digest(blob), "size": len(blob)}  # noqa: E731
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "config": describe(config),
                "layers": [describe(layer) for layer in layers],
            }
        ).encode()
        self.manifests[f"{name}:latest"] = manifest
        self.manifests[f"{name}:{digest(manifest)}"] = manifest
        return f"{self.host}/{name}"

    @contextmanager
    def serving(self) -> Iterator["Registry"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._server.shutdown()
            self._server.server_close()
