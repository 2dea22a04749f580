"""The code interpreter's server without a sandbox: protocol, limits, faults."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Callable

import httpx
import pytest

from support.waiting import until


def test_the_lines_of_an_execution(server, context, of_type):
    code = "import sys; print('out'); print('err', file=sys.stderr); 6 * 7"
    lines = server.run(code, context_id=context)
    assert lines[0] == {"type": "number_of_executions", "execution_count": 1}
    assert lines[-1] == {"type": "end_of_execution"}
    assert [line["text"] for line in of_type(lines, "stdout")] == ["out\n"]
    assert [line["text"] for line in of_type(lines, "stderr")] == ["err\n"]
    assert of_type(lines, "result") == [{"type": "result", "text": "42", "is_main_result": True}]
    assert all(line["timestamp"] for line in lines if line["type"] in ("stdout", "stderr"))
    assert server.run("1", context_id=context)[0]["execution_count"] == 2


def test_errors_have_a_traceback(server, context, of_type):
    [error] = of_type(server.run("def f():\n    1/0\nf()", context_id=context), "error")
    assert error["name"] == "ZeroDivisionError"
    assert error["value"] == "division by zero"
    assert "f()" in error["traceback"]
    [error] = of_type(server.run("print('x", context_id=context), "error")
    assert error["name"] == "SyntaxError"
    assert server.text("'still here'", context_id=context) == "still here"


def test_results_come_in_every_form(server, context, of_type):
    code = """
from IPython.display import display, HTML, Markdown, SVG, JSON, Latex, Javascript, Image
display(HTML('<b>h</b>')); display(Markdown('*m*')); display(Latex('$x$'))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg"/>')); display(JSON({'a': [1]}))
display(Javascript('1')); display({'application/vnd.test': 'x', 'text/plain': 't'}, raw=True)
display({'image/jpeg': 'aGk=', 'application/pdf': 'aGk='}, raw=True)
"""
    results = of_type(server.run(code, context_id=context), "result")
    fields = {key for result in results for key in result}
    assert {"html", "markdown", "latex", "svg", "json", "javascript", "jpeg", "pdf"} <= fields
    assert {"application/vnd.test": "x"} in [result.get("extra") for result in results]
    assert not any(result["is_main_result"] for result in results)


def test_displays_can_be_changed(server, context, of_type):
    code = "h = display('one', display_id=True); h.update('two')"
    results = of_type(server.run(code, context_id=context), "result")
    assert [result["text"] for result in results] == ["one", "two"]


def test_frames_charts_and_images(server, context, of_type):
    code = """
import pandas as pd, matplotlib.pyplot as plt
from PIL import Image
plt.plot([1, 2, 3], [4, 5, 6], label='l'); plt.title('Title'); plt.show()
Image.new('RGB', (4, 4)).save('/dev/null', format='png')
pd.DataFrame({'n': [1, None], 't': pd.to_datetime(['2026-01-01', None])})
"""
    lines = server.run(code, context_id=context)
    chart, image, frame = of_type(lines, "result")
    assert chart["chart"]["type"] == "line" and chart["chart"]["title"] == "Title"
    assert chart["chart"]["elements"][0]["points"] == [[1, 4], [2, 5], [3, 6]]
    assert chart["png"] and image["png"]
    assert frame["is_main_result"] and "<table" in frame["html"]
    assert frame["data"] == {"n": [1.0, None], "t": ["2026-01-01T00:00:00", None]}


def test_javascript_and_typescript(server, of_type):
    run = lambda code, **body: server.run(code, language="javascript", **body)
    assert server.text("const a = 1; a + 1", language="js") == "2"
    assert server.text("const a = 2; await Promise.resolve(a * 21)", language="js") == "42"
    typed = "interface P { x: number }\nconst p: P = { x: 7 }\nenum E { A = 3 }\np.x * E.A"
    assert server.text(typed, language="typescript") == "21"
    imported = "import os, { EOL } from 'node:os'\nos.platform() + EOL.length"
    assert server.text(imported, language="ts") == "linux1"
    [result] = of_type(run("({a: [1]})"), "result")
    assert result["json"] == {"a": [1]}
    [error] = of_type(run("\nthrow new TypeError('bad')"), "error")
    assert (error["name"], error["value"]) == ("TypeError", "bad")
    assert ".js:2:" in error["traceback"]
    [result] = of_type(run("$$.html('<b>x</b>'); undefined"), "result")
    assert result["html"] == "<b>x</b>"
    assert of_type(run("console.log(1)"), "stdout")[0]["text"] == "1\n"


def test_bash(server, of_type):
    lines = server.run("export A=5; echo $((A + 1)); ls /nowhere", language="bash")
    assert "6" in "".join(line["text"] for line in of_type(lines, "stdout"))
    assert of_type(lines, "error")
    lines = server.run("echo $A", language="bash")
    assert "".join(line["text"] for line in of_type(lines, "stdout")).strip() == "5"


@pytest.mark.parametrize(
    "language, show",
    [
        ("python", "import os; print([os.environ.get(n) for n in ('OWN', 'OUTER', 'OF')])"),
        ("javascript", "console.log([process.env.OWN, process.env.OUTER, process.env.OF])"),
        ("bash", "echo \"[$OWN|$OUTER|$OF]\""),
    ],
)
def test_variables_do_not_outlive_their_call(server, of_type, language, show):
    server.agent.variables = {"first": {"OF": "sandbox"}, "second": {}}
    context = server.context(language=language)

    def shown(token, **variables):
        lines = server.run(show, token=token, context_id=context, env_vars=variables)
        return "".join(line["text"] for line in of_type(lines, "stdout"))

    hard = "it's \"hard\" \\ é"
    before = shown("first")
    assert "sandbox" in before and "outer" in before
    during = shown("first", OWN=hard, OUTER="changed")
    assert "hard" in during and "changed" in during and "outer" not in during
    assert shown("first") == before
    # Another token is another sandbox, made from this one's memory.
    after = shown("second")
    assert "sandbox" not in after and "outer" in after
    server.client.delete(f"/contexts/{context}")


def test_a_rehearsal_leaves_no_trace(server, of_type):
    """What sandboxes that are made ahead do before they are anybody's."""
    count = of_type(server.run("0"), "number_of_executions")[0]["execution_count"]
    server.agent.variables = {"": {"OF": "nobody"}, "token": {"OF": "somebody"}}
    for _ in range(2):
        assert server.client.post("/rehearse").status_code == 204
    lines = server.run("import os; os.environ['OF']", token="token")
    assert of_type(lines, "number_of_executions")[0]["execution_count"] == count + 1
    assert of_type(lines, "result")[0]["text"] == "somebody"
    server.agent.variables = {}


def test_variables_are_taken_back_after_an_error(server, context, of_type):
    server.run("1/0", context_id=context, env_vars={"OWN": "x"})
    assert server.text("import os; os.environ.get('OWN', 'none')", context_id=context) == "none"


def test_variables_come_with_nothing_too(server, context):
    server.agent.variables = {"token": {"OF": "sandbox"}}
    server.run("", token="token", context_id=context)
    shown = "import os; os.environ.get('OF')"
    assert server.text(shown, context_id=context, env_vars={"OWN": "x"}) == "sandbox"
    names = "[name for name in dir() if 'hearth' in name.lower()]"
    assert server.text(names, context_id=context) == "[]"
    server.agent.variables = {}


def test_contexts_are_listed_in_order_of_creation(server):
    listed = lambda: [context["id"] for context in server.client.get("/contexts").json()]
    before = listed()
    # More than by chance: their ids are random.
    made = [server.context(language="bash") for _ in range(5)]
    assert listed() == before + made
    server.client.delete(f"/contexts/{made.pop(1)}")
    assert listed() == before + made
    for context in made:
        server.client.delete(f"/contexts/{context}")


def test_contexts(server, tmp_path):
    made = server.client.post("/contexts", json={"cwd": str(tmp_path)}).json()
    assert made["language"] == "python" and made["cwd"] == str(tmp_path)
    assert made in server.client.get("/contexts").json()
    assert server.text("import os; os.getcwd()", context_id=made["id"]) == str(tmp_path)
    assert server.text("x = 1; x", context_id=made["id"]) == "1"
    assert server.client.post(f"/contexts/{made['id']}/restart").status_code == 200
    [error] = [line for line in server.run("x", context_id=made["id"]) if line["type"] == "error"]
    assert error["name"] == "NameError"
    assert server.client.delete(f"/contexts/{made['id']}").status_code == 200
    assert server.client.delete(f"/contexts/{made['id']}").status_code == 404
    assert server.client.post("/contexts/none/restart").status_code == 404


@pytest.mark.parametrize(
    "body, status, said",
    [
        ({"context_id": "none"}, 404, "none"),
        ({"context_id": "a", "language": "python"}, 400, "not both"),
        ({"language": "cobol"}, 400, "no kernel for cobol"),
        ({"env_vars": {"A B": "x"}}, 400, "A B"),
        ({"env_vars": {"A": "\0"}}, 400, "zero byte"),
        ({"env_vars": {"A": 1}}, 422, ""),
    ],
)
def test_bad_requests_are_told(server, body, status, said):
    response = server.client.post("/execute", json={"code": "1", **body})
    assert response.status_code == status and said in response.text
    assert server.client.post("/contexts", json={"cwd": "/nowhere"}).status_code == 400


def leave_after_first_output(server, code, **body):
    with server.stream(code, **body) as response:
        for line in response.iter_lines():
            if json.loads(line)["type"] == "stdout":
                return


@pytest.mark.parametrize(
    "language, code",
    [
        ("python", "import time\nprint('go', flush=True)\nwhile True: time.sleep(0.01)"),
        ("javascript", "console.log('go'); while (true) {}"),
        ("javascript", "console.log('go'); await new Promise(() => {})"),
    ],
)
def test_a_client_that_leaves_interrupts(server, language, code):
    context = server.context(language=language)
    server.text("var kept = 7" if language == "javascript" else "kept = 7", context_id=context)
    leave_after_first_output(server, code, context_id=context)
    assert server.text("kept", context_id=context) == "7"
    server.client.delete(f"/contexts/{context}")


def test_a_stubborn_loop_is_interrupted_again(server, context):
    code = """
import time
refusals = 0
while refusals < 1:
    try:
        print('go', flush=True)
        while True: time.sleep(0.01)
    except KeyboardInterrupt: refusals += 1
while True: time.sleep(0.01)
"""
    leave_after_first_output(server, code, context_id=context)
    assert server.text("refusals", context_id=context) == "1"


def test_executions_of_one_context_wait_for_each_other(server, context):
    done = []
    code = "import time; time.sleep(0.3); n = globals().get('n', 0) + 1; n"

    def one():
        done.append(server.text(code, context_id=context))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == ["1", "2", "3", "4"]


def test_a_kernel_that_dies_is_reported_and_replaced(server, context, of_type):
    lines = server.run("import os; os._exit(3)", context_id=context)
    [error] = of_type(lines, "error")
    assert error["name"] == "KernelDied" and "status 3" in error["value"]
    assert lines[-1]["type"] == "end_of_execution"
    lines = server.run("1 + 1", context_id=context)
    assert of_type(lines, "result")[0]["text"] == "2"
    pid = int(server.text("import os; os.getpid()", context_id=context))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the kernel to be gone", seconds=30)
    lines = server.run("1 + 1", context_id=context)
    assert "signal 9" in of_type(lines, "stderr")[0]["text"]
    assert of_type(lines, "result")[0]["text"] == "2"


def test_a_restart_ends_what_runs(server, context, of_type):
    code = "import time; print('go', flush=True); time.sleep(600)"
    with server.stream(code, context_id=context) as response:
        lines = []
        for line in response.iter_lines():
            lines.append(json.loads(line))
            if lines[-1]["type"] == "stdout":
                threading.Thread(
                    target=httpx.post,
                    args=[f"{server.client.base_url}/contexts/{context}/restart"],
                    kwargs={"timeout": 60},
                ).start()
    assert of_type(lines, "error")[0]["name"] == "ContextRestarted"
    assert lines[-1]["type"] == "end_of_execution"
    assert server.text("1", context_id=context) == "1"


def memory_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024


def stands_still(path: Path) -> Callable[[], bool]:
    """Whether a file is there and says the same as when it was last looked at."""
    seen = [""]

    def same() -> bool:
        before, seen[0] = seen[0], path.read_text() if path.exists() else ""
        return bool(before) and before == seen[0]

    return same


def test_floods_are_streamed_and_bounded(server, context, of_type, tmp_path):
    # 60 MB that nobody reads for a while, then all of it.
    progress = tmp_path / "progress"
    code = f"""
for i in range(600):
    print('x' * 100_000)
    open({str(progress)!r}, 'w').write(str(i))
'done'"""
    with server.stream(code, context_id=context) as response:
        lines = response.iter_lines()
        until(stands_still(progress), "the flood to be held up", every=0.5)
        received = ended = 0
        for line in lines:
            received += len(line)
            ended += '"end_of_execution"' in line[:30]
    assert ended == 1 and received > 55_000_000
    # One output beyond every measure is named, not kept.
    code = "display({'text/plain': 'y' * 50_000_000}, raw=True); 'after'"
    lines = server.run(code, context_id=context)
    assert "too large" in of_type(lines, "stderr")[0]["text"]
    assert of_type(lines, "result")[0]["text"] == "after"
    assert memory_mib(server.process.pid) < 300


def test_a_silent_execution_shows_signs_of_life(server, context):
    with server.stream("import time; time.sleep(6)", context_id=context) as response:
        lines = [json.loads(line)["type"] for line in response.iter_lines()]
    assert "keepalive" in lines and lines[-1] == "end_of_execution"
