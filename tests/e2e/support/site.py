"""A small web site that runs in a sandbox: a page with a script that tries what
browsers do, and the server for it. Standard library only."""

import base64
import hashlib
import http.server
import os
import struct
import sys
import time

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>from a microVM</title>
</head><body><h1 id="title">Served from a microVM</h1><script>
const seen = {}
const done = (name, value) => {
  seen[name] = value
  if (Object.keys(seen).length === 4) document.body.dataset.seen = JSON.stringify(seen)
}
fetch('/echo', { method: 'POST', body: 'x'.repeat(200000) })
  .then((answer) => answer.text()).then((text) => done('posted', text), (error) => done('posted', `${error}`))
const socket = new WebSocket(`wss://${location.host}/socket`)
socket.onopen = () => socket.send('hello')
socket.onmessage = (event) => { done('socket', event.data); socket.close() }
socket.onerror = () => done('socket', 'failed')
const events = []
const source = new EventSource('/events')
source.onmessage = (event) => {
  events.push(event.data)
  if (events.length === 2) { source.close(); done('events', events.join()) }
}
// Another port of the same sandbox is another origin, and nothing listens there:
// the script may read why.
fetch(location.origin.replace('//8000-', '//8099-') + '/', { method: 'PUT', headers: { 'X-Own': '1' } })
  .then((answer) => answer.json()).then((error) => done('refused', error.message), (error) => done('refused', `${error}`))
</script></body></html>
"""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            self.socket()
        elif self.path == "/events":
            self.events()
        elif self.path == "/":
            self.answer("text/html; charset=utf-8", PAGE.encode())
        else:
            self.answer("text/plain", str(self.headers).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer("text/plain", f"{len(body)} bytes".encode())

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for number in range(600):
                self.wfile.write(f"data: {number}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            # The client went away, and we were told.
            open("/tmp/left", "w").close()

    def socket(self):
        """Echoes the messages of a WebSocket in capitals."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while len(head := self.rfile.read(2)) == 2:
            kind, length = head[0] & 15, head[1] & 127
            if length == 126:
                length = struct.unpack(">H", self.rfile.read(2))[0]
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
            if kind == 8:
                self.wfile.write(bytes([0x88, len(data)]) + data)
                return
            data = data.upper()
            self.wfile.write(bytes([0x80 | kind, len(data)]) + data)
            self.wfile.flush()


if __name__ == "__main__":
    if os.path.exists("/tmp/left"):
        os.remove("/tmp/left")
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
