"""The RPC protocols beside the SDKs' own, spoken by clients that are not ours:
gRPC by grpcio, gRPC-Web and binary Connect by hand over httpx, in HTTP/1.1 and
cleartext HTTP/2."""

import base64
import importlib
import struct
import sys

import grpc
import httpx
import pytest
from grpc_tools import protoc

from conftest import ROOT

PROTOS = ROOT / "crates" / "guest-proto" / "proto"
END_STREAM = 0x02
TRAILERS = 0x80


@pytest.fixture(scope="session")
def proto(tmp_path_factory):
    """Modules generated from the service definitions by protoc."""
    out = tmp_path_factory.mktemp("generated")
    files = ["process/process.proto", "filesystem/filesystem.proto"]
    import grpc_tools

    include = f"{next(iter(grpc_tools.__path__))}/_proto"
    arguments = [f"-I{PROTOS}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main(["protoc", *arguments, *files]) == 0
    sys.path.insert(0, str(out))

    class Modules:
        process = importlib.import_module("process.process_pb2")
        process_grpc = importlib.import_module("process.process_pb2_grpc")
        filesystem = importlib.import_module("filesystem.filesystem_pb2")
        filesystem_grpc = importlib.import_module("filesystem.filesystem_pb2_grpc")

    yield Modules
    sys.path.remove(str(out))


@pytest.fixture(scope="session")
def channel(agent):
    with grpc.insecure_channel(agent.url.removeprefix("http://")) as channel:
        yield channel


@pytest.fixture
def processes(proto, channel):
    return proto.process_grpc.ProcessStub(channel)


@pytest.fixture
def files(proto, channel):
    return proto.filesystem_grpc.FilesystemStub(channel)


def shell(proto, script, **more):
    config = proto.process.ProcessConfig(cmd="/bin/sh", args=["-c", script])
    return proto.process.StartRequest(process=config, **more)


def read(stream):
    """pid, stdout, stderr and end of a process stream."""
    pid, out, err, end = None, b"", b"", None
    for response in stream:
        event = response.event
        assert end is None
        kind = event.WhichOneof("event")
        if kind == "start":
            pid = event.start.pid
        elif kind == "data":
            out += event.data.stdout
            err += event.data.stderr
        elif kind == "end":
            end = event.end
    return pid, out, err, end


# gRPC.


def test_grpc_runs_a_command(proto, processes):
    stream = processes.Start(shell(proto, "printf out; printf err >&2; exit 3"), timeout=60)
    pid, out, err, end = read(stream)
    assert pid > 0
    assert (out, err, end.exit_code, end.exited) == (b"out", b"err", 3, True)


def test_grpc_lists_signals_and_connects(proto, processes):
    stream = processes.Start(shell(proto, "echo ready; exec sleep 1000", tag="grpc"), timeout=60)
    first = next(stream)
    by_tag = proto.process.ProcessSelector(tag="grpc")
    listed = processes.List(proto.process.ListRequest(), timeout=30).processes
    assert [p.tag for p in listed if p.pid == first.event.start.pid] == ["grpc"]
    joined = processes.Connect(proto.process.ConnectRequest(process=by_tag), timeout=60)
    assert next(joined).event.start.pid == first.event.start.pid
    request = proto.process.SendSignalRequest(process=by_tag, signal="SIGNAL_SIGTERM")
    processes.SendSignal(request, timeout=30)
    *_, end = read(joined)
    assert (end.exit_code, end.exited, end.status) == (-1, False, "signal: terminated")
    assert read(stream)[-1].status == end.status


def test_grpc_streams_input(proto, processes):
    stream = processes.Start(shell(proto, "cat", stdin=True), timeout=60)
    pid = next(stream).event.start.pid
    by_pid = proto.process.ProcessSelector(pid=pid)
    Message = proto.process.StreamInputRequest

    def messages():
        yield Message(start=Message.StartEvent(process=by_pid))
        for number in range(100):
            line = proto.process.ProcessInput(stdin=f"{number}\n".encode())
            yield Message(data=Message.DataEvent(input=line))
        yield Message(keepalive=Message.KeepAlive())

    processes.StreamInput(messages(), timeout=60)
    processes.CloseStdin(proto.process.CloseStdinRequest(process=by_pid), timeout=30)
    _, out, _, end = read(stream)
    assert out == "".join(f"{n}\n" for n in range(100)).encode()
    assert end.exit_code == 0


def test_grpc_handles_files(proto, files, tmp_path):
    fs = proto.filesystem
    made = files.MakeDir(fs.MakeDirRequest(path=str(tmp_path / "a")), timeout=30)
    assert (made.entry.name, made.entry.type) == ("a", fs.FILE_TYPE_DIRECTORY)
    watch = files.WatchDir(fs.WatchDirRequest(path=str(tmp_path)), timeout=60)
    assert next(watch).WhichOneof("event") == "start"
    move = fs.MoveRequest(source=str(tmp_path / "a"), destination=str(tmp_path / "b"))
    files.Move(move, timeout=30)
    seen = {next(watch).filesystem.name, next(watch).filesystem.name}
    assert seen == {"a", "b"}
    watch.cancel()
    listed = files.ListDir(fs.ListDirRequest(path=str(tmp_path), depth=1), timeout=30)
    assert [entry.name for entry in listed.entries] == ["b"]


def test_grpc_errors_have_codes(proto, processes, files):
    def code(call, request):
        with pytest.raises(grpc.RpcError) as failure:
            answer = call(request, timeout=30)
            if not hasattr(answer, "DESCRIPTOR"):
                list(answer)
        return failure.value.code()

    nobody = proto.process.ProcessSelector(pid=4_000_000)
    assert code(processes.Connect, proto.process.ConnectRequest(process=nobody)) == (
        grpc.StatusCode.NOT_FOUND
    )
    assert code(processes.Start, proto.process.StartRequest()) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(files.Stat, proto.filesystem.StatRequest(path="/no/such")) == (
        grpc.StatusCode.NOT_FOUND
    )


def test_grpc_deadline_kills_the_process(proto, processes):
    with pytest.raises(grpc.RpcError) as failure:
        list(processes.Start(shell(proto, "exec sleep 4242"), timeout=1))
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_grpc_client_that_cancels_leaves_the_process(proto, processes):
    stream = processes.Start(shell(proto, "exec sleep 1000"), timeout=60)
    pid = next(stream).event.start.pid
    stream.cancel()
    by_pid = proto.process.ProcessSelector(pid=pid)
    joined = processes.Connect(proto.process.ConnectRequest(process=by_pid), timeout=60)
    assert next(joined).event.start.pid == pid
    kill = proto.process.SendSignalRequest(process=by_pid, signal="SIGNAL_SIGKILL")
    processes.SendSignal(kill, timeout=30)
    assert read(joined)[-1].status == "signal: killed"


# gRPC-Web and binary Connect.


def envelope(message, flags=0):
    data = message.SerializeToString() if hasattr(message, "SerializeToString") else message
    return struct.pack(">BI", flags, len(data)) + data


def frames(body):
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        yield flags, body[5 : 5 + length]
        body = body[5 + length :]


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def client(request, agent):
    two = request.param == "HTTP/2"
    with httpx.Client(base_url=agent.url, http1=not two, http2=two, timeout=60) as client:
        yield client


@pytest.mark.parametrize("encoding", ["grpc-web+proto", "grpc-web", "connect+proto"])
def test_binary_streams(proto, client, encoding):
    answer = client.post(
        "/process.Process/Start",
        content=envelope(shell(proto, "printf out; exit 4")),
        headers={"Content-Type": f"application/{encoding}", "Connect-Protocol-Version": "1"},
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/" + encoding.split("+")[0])
    all_frames = list(frames(answer.content))
    *messages, (flags, last) = all_frames
    if encoding.startswith("grpc"):
        assert flags == TRAILERS
        assert b"grpc-status:0" in last.lower().replace(b" ", b"")
    else:
        assert (flags, last) == (END_STREAM, b"{}")
    parsed = [proto.process.StartResponse.FromString(data) for flags, data in messages]
    _, out, _, end = read(iter(parsed))
    assert (out, end.exit_code) == (b"out", 4)


@pytest.mark.parametrize("encoding", ["grpc-web+proto", "proto"])
def test_binary_unary(proto, client, encoding):
    request = proto.filesystem.StatRequest(path="/etc/passwd")
    content = request.SerializeToString() if encoding == "proto" else envelope(request)
    answer = client.post(
        "/filesystem.Filesystem/Stat",
        content=content,
        headers={"Content-Type": f"application/{encoding}"},
    )
    assert answer.status_code == 200
    data = answer.content
    if encoding != "proto":
        (flags, data), (trailer_flags, _) = frames(data)
        assert (flags, trailer_flags) == (0, TRAILERS)
    entry = proto.filesystem.StatResponse.FromString(data).entry
    assert (entry.name, entry.path) == ("passwd", "/etc/passwd")


def test_grpc_web_errors(proto, client):
    answer = client.post(
        "/filesystem.Filesystem/Stat",
        content=envelope(proto.filesystem.StatRequest(path="/no/such")),
        headers={"Content-Type": "application/grpc-web+proto"},
    )
    assert answer.status_code == 200
    told = str(answer.headers) + answer.content.decode(errors="replace")
    assert "grpc-status" in told.lower()
    status = answer.headers.get("grpc-status") or told.lower().split("grpc-status:")[1].split()[0]
    assert int(status) == grpc.StatusCode.NOT_FOUND.value[0]


# What no client should send.


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/connect+json", b""),
        ("application/connect+json", b"\x00\x00\x00\x00\x00"),
        ("application/connect+json", b"\x00\x00\x00\x00\x05{}"),
        ("application/connect+json", b"\x00\xff\xff\xff\xff{}"),
        ("application/connect+json", b"\x40\x00\x00\x00\x02{}"),
        ("application/connect+proto", b"\x00\x00\x00\x00\x03\xff\xff\xff"),
        ("application/connect+proto", b"\x01\x00\x00\x00\x04\x1f\x8b\x08\x00"),
        ("application/grpc-web+proto", b"\x00\x00\x00"),
        ("application/grpc-web+proto", b"\x00\x00\x00\x00\x00" * 1000),
        ("application/json", b"{"),
        ("application/json", b"[" * 100_000),
        ("application/nonsense", b"{}"),
    ],
)
@pytest.mark.parametrize(
    "method", ["process.Process/Start", "process.Process/StreamInput", "filesystem.Filesystem/Stat"]
)
def test_malformed_requests_are_errors(agent, client, method, content_type, body):
    answer = client.post(
        f"/{method}", content=body, headers={"Content-Type": content_type}, timeout=30
    )
    assert answer.status_code < 500 or answer.headers["content-type"] == "application/json"
    started = any(
        flags == 0 and b"start" in data
        for flags, data in (frames(answer.content) if "connect+" in content_type else [])
    )
    assert not started
    assert client.get("/health").status_code == 204


def test_a_basic_user_is_read_from_any_protocol(proto, processes):
    user = base64.b64encode(b"no-such-user:").decode()
    with pytest.raises(grpc.RpcError) as failure:
        metadata = [("authorization", f"Basic {user}")]
        list(processes.Start(shell(proto, "true"), timeout=30, metadata=metadata))
    assert failure.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert failure.value.details() == "invalid username: 'no-such-user'"
