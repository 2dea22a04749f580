"""The machines of the tests' internet. Run by `internet.py` inside its namespace:
a name server, and on each address HTTP, HTTPS, a server that speaks first, a SOCKS5
proxy (also over TLS), an HTTP proxy, and an echo of datagrams.
"""

import base64
import json
import socket
import socketserver
import ssl
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOME = Path(sys.argv[1])
SETTINGS = json.loads(sys.argv[2])


class Echo(BaseHTTPRequestHandler):
    """Says who it is and what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.answer(self.rfile.read(length))

    def answer(self, body: bytes) -> None:
        seen = {
            "address": self.connection.getsockname()[0],
            "client": self.client_address[0],
            "host": self.headers.get("Host"),
            "path": self.path,
            # As they were written.
            "names": list(self.headers.keys()),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode(errors="replace"),
        }
        content = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Greeter(socketserver.BaseRequestHandler):
    """Speaks first, as SSH and databases do, and then echoes."""

    def handle(self) -> None:
        self.request.sendall(b"hello from " + self.request.getsockname()[0].encode() + b"\n")
        while data := self.request.recv(4096):
            self.request.sendall(data)


class Socks(socketserver.BaseRequestHandler):
    """SOCKS5 with one user. Connects to itself by name and says so."""

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.request.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def handle(self) -> None:
        try:
            self.serve()
        except (ConnectionError, OSError):
            pass

    def serve(self) -> None:
        _, count = self.read(2)
        methods = self.read(count)
        if 2 not in methods:
            self.request.sendall(b"\x05\xff")
            return
        self.request.sendall(b"\x05\x02")
        _, length = self.read(2)
        user = self.read(length)
        password = self.read(self.read(1)[0])
        if (user, password) != (b"user", b"secret"):
            self.request.sendall(b"\x01\x01")
            return
        self.request.sendall(b"\x01\x00")
        _, _, _, kind = self.read(4)
        if kind == 3:
            host = SETTINGS["names"].get(self.read(self.read(1)[0]).decode(), "")
        else:
            host = socket.inet_ntoa(self.read(4))
        (port,) = struct.unpack(">H", self.read(2))
        target = from_here(self.request, host, port)
        self.request.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        relay(self.request, target)


class Connect(BaseHTTPRequestHandler):
    """An HTTP proxy with one user, for `CONNECT` alone."""

    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        user = base64.b64encode(b"user:secret").decode()
        if self.headers.get("Proxy-Authorization") != f"Basic {user}":
            self.send_error(407)
            return
        host, port = self.path.rsplit(":", 1)
        target = from_here(self.connection, SETTINGS["names"].get(host, host), int(port))
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        relay(self.connection, target)

    def log_message(self, *_: object) -> None:
        pass


def from_here(client: socket.socket, host: str, port: int) -> socket.socket:
    """A connection whose source is the address at which we were asked for it."""
    own = client.getsockname()[0]
    return socket.create_connection((host, port), timeout=5, source_address=(own, 0))


def relay(client: socket.socket, target: socket.socket) -> None:
    back = threading.Thread(target=pump, args=(target, client), daemon=True)
    back.start()
    pump(client, target)
    back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Threading(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def answer(query: bytes) -> bytes:
    """A response to a question for one address."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    question = query[12 : at + 5]
    address = SETTINGS["names"].get(".".join(labels))
    code = 0 if address else 3
    count = 1 if address and kind == 1 else 0
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, count, 0, 0)
    if not count:
        return head + question
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address)
    return head + question + record


def serve_names() -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((SETTINGS["name_server"], 53))

    def loop() -> None:
        while True:
            query, sender = server.recvfrom(4096)
            server.sendto(answer(query), sender)

    threading.Thread(target=loop, daemon=True).start()


def serve_datagrams(address: str) -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 5353))

    def loop() -> None:
        while True:
            data, sender = server.recvfrom(65536)
            server.sendto(address.encode() + b" " + data, sender)

    threading.Thread(target=loop, daemon=True).start()


def start(server: socketserver.BaseServer) -> None:
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    serve_names()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(HOME / "server.pem", HOME / "server.key")
    for address in [*SETTINGS["addresses"], "169.254.169.254"]:
        start(ThreadingHTTPServer((address, 80), Echo))
        secure = ThreadingHTTPServer((address, 443), Echo)
        secure.socket = context.wrap_socket(
            secure.socket, server_side=True, do_handshake_on_connect=False
        )
        start(secure)
        start(Threading((address, 2222), Greeter))
        start(Threading((address, 1080), Socks))
        secure = Threading((address, 1081), Socks)
        secure.socket = context.wrap_socket(
            secure.socket, server_side=True, do_handshake_on_connect=False
        )
        start(secure)
        start(ThreadingHTTPServer((address, 3128), Connect))
        serve_datagrams(address)
    (HOME / "ready").touch()
    threading.Event().wait()


if __name__ == "__main__":
    main()
