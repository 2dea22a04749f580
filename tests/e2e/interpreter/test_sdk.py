"""The official code-interpreter SDKs and our Python package against sandboxes of
`code-interpreter-v1`. One sandbox serves most of it: it runs on emulated
processors."""

import ast
import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_the_first_execution_finds_a_running_kernel(box):
    execution = box.run_code("1 + 1")
    assert execution.text == "2" and execution.execution_count == 1
    assert box.run_code("x = 20; x").text == "20"
    assert box.run_code("x + 1").text == "21"
    assert len(box.list_code_contexts()) == 2


def test_variables_of_the_sandbox_and_of_the_call(box):
    code = "import os; print(os.environ.get('OF_SANDBOX'), os.environ.get('OWN'))"
    assert box.run_code(code, envs={"OWN": "own"}).logs.stdout == ["sandbox own\n"]
    assert box.run_code(code).logs.stdout == ["sandbox None\n"]
    assert box.run_code("process.env.OF_SANDBOX", language="javascript").text == "sandbox"


def test_it_runs_as_root_in_the_users_home(box):
    code = "import os, getpass; (getpass.getuser(), os.getcwd(), os.environ['HOME'])"
    assert box.run_code(code).text == "('root', '/home/user', '/root')"
    # What needs root works, as `!apt-get install` does.
    said = box.run_code("!id -un; touch /usr/share/by-a-cell; echo $?").logs.stdout
    # IPython gives it a terminal, whose lines come when they come.
    assert "".join(said).split() == ["root", "0"]
    for language, show in [("bash", "id -un; pwd"), ("js", "os.userInfo().username + process.cwd()")]:
        before = "" if language == "bash" else "import os from 'node:os'\n"
        execution = box.run_code(before + show, language=language)
        said = "".join(execution.logs.stdout) + (execution.text or "")
        assert "root" in said and "/home/user" in said, execution
    context = box.create_code_context(cwd="/root")
    assert box.run_code("import os; os.getcwd()", context=context).text == "/root"
    box.remove_code_context(context)


def test_what_the_user_installs_is_found_by_kernels(box):
    """The user's pip needs no sudo, and the directory is one that kernels look in."""
    where = "python3 -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))'"
    directory = box.commands.run(where).stdout.strip()
    box.commands.run(f"echo 'answer = 42' > {directory}/made_by_the_user.py")
    assert box.run_code("import made_by_the_user; made_by_the_user.answer").text == "42"


# What models import without asking, and the first numbers of E2B's versions.
EXPECTED = {
    "numpy": "2.3", "pandas": "2.2", "matplotlib": "3.10", "ipykernel": "6.31", "scipy": "1.",
    "sklearn": "1.", "seaborn": "0.13", "plotly": "6.", "sympy": "1.", "bs4": "4.", "lxml": "",
    "openpyxl": "3.", "requests": "2.", "tqdm": "4.", "PIL": "12.",
}


def test_packages_and_fonts(box):
    code = f"""
import importlib.metadata as m
name = {{'sklearn': 'scikit-learn', 'bs4': 'beautifulsoup4', 'PIL': 'pillow'}}
import importlib.util
{{k: importlib.util.find_spec(k) and m.version(name.get(k, k)) for k in {list(EXPECTED)}}}
"""
    execution = box.run_code(code)
    assert execution.error is None, execution.error
    found = ast.literal_eval(execution.text)
    wrong = {k: v for k, v in found.items() if not (v and v.startswith(EXPECTED[k]))}
    assert not wrong, wrong
    # Drawing text in Chinese warns of no missing glyph.
    drawn = box.run_code(
        "import warnings, matplotlib.pyplot as plt\nwarnings.simplefilter('error')\n"
        "plt.figure(figsize=(1, 1)); plt.title('中文 日本語'); plt.gcf().canvas.draw(); plt.close()"
    )
    assert drawn.error is None, drawn.error
    # Compiled parts load on the processor that sandboxes have.
    loaded = box.run_code("import scipy.linalg, lxml.etree; scipy.linalg.det([[2, 0], [0, 3]])")
    assert loaded.error is None and "6.0" in loaded.text, loaded


SITE = "https://first.test/"


@pytest.mark.parametrize(
    "language, code",
    [
        ("python", f"import urllib.request as u; print(u.urlopen('{SITE}').status)"),
        ("python", f"import requests; print(requests.get('{SITE}').status_code)"),
        ("python", f"!curl -sS -o /dev/null -w '%{{http_code}}\\n' {SITE}"),
        ("javascript", f"console.log((await fetch('{SITE}')).status)"),
        ("bash", f"curl -sS -o /dev/null -w '%{{http_code}}\\n' {SITE}"),
    ],
)
def test_kernels_trust_the_sites_authority(box, language, code):
    """Also those that ran before the sandbox was made."""
    execution = box.run_code(code, language=language)
    assert execution.error is None, execution.error
    assert "".join(execution.logs.stdout).strip() == "200", execution


def test_contexts_are_listed_in_order_of_creation(box):
    before = [context.id for context in box.list_code_contexts()]
    made = [box.create_code_context(language="bash") for _ in range(4)]
    assert [context.id for context in box.list_code_contexts()] == before + [c.id for c in made]
    for context in made:
        box.remove_code_context(context)


def test_frames_and_charts(box):
    execution = box.run_code(
        """
import pandas as pd
import matplotlib.pyplot as plt
frame = pd.DataFrame({"name": ["a", "b"], "value": [3, 5]})
plt.bar(frame["name"], frame["value"])
plt.title("Values")
plt.show()
frame
"""
    )
    assert execution.error is None, execution.error
    picture, table = execution.results
    assert picture.png.startswith("iVBOR")
    assert picture.chart.type.value == "bar" and picture.chart.title == "Values"
    assert [bar.value for bar in picture.chart.elements] == [3, 5]
    assert table.is_main_result and "<table" in table.html
    assert table.data == {"name": ["a", "b"], "value": [3, 5]}


def test_javascript_and_typescript(box):
    assert box.run_code("await Promise.resolve([1, 2].length)", language="javascript").text == "2"
    assert box.run_code("const n: number = 20; n + 1", language="ts").text == "21"


def test_bash(box):
    assert box.run_code("export A=5; echo $((A + 1))", language="bash").logs.stdout == ["6\n"]
    assert box.run_code("echo $A", language="bash").logs.stdout == ["5\n"]
    assert box.run_code("ls /nowhere", language="bash").error is not None


def test_a_timeout_interrupts_and_the_context_lives(box):
    from e2b import TimeoutException

    context = box.create_code_context(cwd="/tmp")
    assert box.run_code("kept = 7", context=context).error is None
    with pytest.raises(TimeoutException):
        box.run_code("while True: pass", context=context, timeout=3)
    assert box.run_code("kept", context=context).text == "7"
    box.restart_code_context(context)
    assert box.run_code("kept", context=context).error.name == "NameError"
    box.remove_code_context(context)


def test_the_async_sdk(box):
    from e2b_code_interpreter import AsyncSandbox

    async def drive():
        sandbox = await AsyncSandbox.connect(box.sandbox_id)
        heard = []
        execution = await sandbox.run_code("print('hi'); 6 * 7", on_stdout=heard.append)
        assert execution.text == "42" and [message.line for message in heard] == ["hi\n"]
        failed = await sandbox.run_code("undefined_name")
        assert failed.error.name == "NameError" and "undefined_name" in failed.error.traceback

    asyncio.run(drive())


def test_the_javascript_sdk(box):
    script = Path(os.environ["HEARTH_E2E_JS"]) / "drive.mjs"
    command = [os.environ["HEARTH_E2E_NODE"], str(script), box.sandbox_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def run_with_package(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_the_python_package_runs_as_it_stands(hearth):
    readme = (ROOT / "sdk" / "python" / "README.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", readme, re.S)
    printed = run_with_package(example)
    assert re.search(r"^Python 3\.\d+\.\d+\nHello from E2B!\n", printed), printed
    assert "total " in printed and "Hello World\n" in printed
    assert "Serving HTTP on" in printed


def test_the_python_package_on_the_code_interpreter(box):
    code = f"""
from hearth import Sandbox
sandbox = Sandbox.connect({box.sandbox_id!r})
assert sandbox.run_code("    y = 5\\n    y").text == "5"
assert sandbox.run_code("print(y)").stdout == "5\\n"
failed = sandbox.run_code("1/0")
assert failed.exit_code == 1 and failed.error == "ZeroDivisionError: division by zero"
assert sandbox.process.start("exit 3").exit_code == 3
print(sandbox.commands.run("echo through").stdout)
"""
    assert run_with_package(code) == "through\n\n"


@pytest.mark.timeout(900)
def test_a_template_upon_it_runs_code(hearth):
    """The child has the parent's start and ready command, and what its own steps made."""
    from e2b import Template
    from e2b_code_interpreter import Sandbox

    # `/usr/local`, where kernels look, is everybody's to write to.
    made = "echo 'answer = 42' > $(python3 -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/of_the_child.py"
    template = Template().from_template("code-interpreter-v1").run_cmd(made).set_envs({"OF_CHILD": "child"})
    Template.build(template, alias="upon-the-interpreter", cpu_count=2, memory_mb=1024)
    with Sandbox.create("upon-the-interpreter", timeout=300) as sandbox:
        code = "import os, of_the_child; (of_the_child.answer, os.environ.get('OF_CHILD'))"
        assert sandbox.run_code(code).text == "(42, 'child')"
