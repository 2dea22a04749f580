"""A model that follows a script, behind OpenAI's chat completions: for trying the examples
without a provider, and for testing them.

    python3 scripted_model.py              serves, and prints what to export
    python3 scripted_model.py COMMAND…     runs a command with that exported

It has one program in mind. Asked with tools, it calls the first one that takes code or a
command with that program. When the output of a tool comes back, it repeats that as its answer.
"""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional

# The sum that the examples ask for, and what only a program in the sandbox can read: its id.
PROGRAM = """print(sum(n * n for n in range(1, 101)), open("/run/e2b/.E2B_SANDBOX_ID").read())"""
# Arguments of tools that take a program, or a command line that starts one.
PROGRAMS, COMMANDS = ("code", "program"), ("cmd", "command")


def tool_call(tools: list[dict[str, Any]]) -> Optional[dict[str, Any]]:
    """The first tool that can run the program, called with it."""
    for tool in tools:
        function = tool["function"]
        for name in function.get("parameters", {}).get("properties", {}):
            if name in PROGRAMS:
                arguments = {name: PROGRAM}
            elif name in COMMANDS:
                arguments = {name: f"python3 -c '{PROGRAM}'"}
            else:
                continue
            called = {"name": function["name"], "arguments": json.dumps(arguments)}
            return {"index": 0, "id": "call_1", "type": "function", "function": called}
    return None


def text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content or "")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The message that follows a conversation."""
    last = request["messages"][-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"The sandbox says: {text(last['content'])}"}
    call = tool_call(request.get("tools") or [])
    if call:
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": "I have no tool that runs a program."}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/chat/completions"):
            return self.send(404, "application/json", json.dumps({"error": {"message": f"no {self.path} here"}}))
        message = answer(request)
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        common = {"id": "chatcmpl-1", "created": 0, "model": request.get("model", "scripted")}
        if request.get("stream"):
            chunk = {"index": 0, "delta": message, "finish_reason": None}
            end = {"index": 0, "delta": {}, "finish_reason": reason}
            events = [
                {**common, "object": "chat.completion.chunk", "choices": [chunk]},
                {**common, "object": "chat.completion.chunk", "choices": [end], "usage": usage},
            ]
            body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
            return self.send(200, "text/event-stream", body)
        choice = {"index": 0, "message": message, "finish_reason": reason}
        whole = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
        self.send(200, "application/json", json.dumps(whole))

    def send(self, status: int, kind: str, body: str) -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the answers are what there is to see."""


def main(command: list[str]) -> int:
    # On this machine alone, where no proxy is asked.
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    exported = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
        "OPENAI_API_KEY": "scripted",
    }
    if not command:
        for name, value in exported.items():
            print(f"export {name}={value}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        return 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return subprocess.run(command, env={**os.environ, **exported}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
