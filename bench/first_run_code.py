"""Time from create to the first result: `run_code("1+1")` beside a plain command.

    eval "$(hearth env)"; pip install e2b-code-interpreter
    python bench/first_run_code.py [runs] [template]

Both are measured on the same template, in turns, so that they see the same host.
The first of each is thrown away.
"""

import statistics
import sys
import time

from e2b_code_interpreter import Sandbox


def measure(template: str, use) -> tuple[float, float]:
    """Seconds until the sandbox was there, and until it was used."""
    begun = time.perf_counter()
    sandbox = Sandbox.create(template, timeout=120)
    try:
        created = time.perf_counter()
        use(sandbox)
        return created - begun, time.perf_counter() - begun
    finally:
        sandbox.kill()


def run_code(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("1+1")
    assert execution.text == "2", execution


def command(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("echo 2").stdout == "2\n"


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    template = sys.argv[2] if len(sys.argv) > 2 else "code-interpreter-v1"
    times: dict[str, list[tuple[float, float]]] = {"command": [], "run_code": []}
    for _ in range(runs + 1):
        times["command"].append(measure(template, command))
        times["run_code"].append(measure(template, run_code))
    medians = {}
    for name, values in times.items():
        totals = sorted(total for _, total in values[1:])
        creates = [create for create, _ in values[1:]]
        medians[name] = statistics.median(totals)
        print(
            f"create → first {name:<9} p50 {medians[name] * 1000:7.0f} ms, "
            f"least {totals[0] * 1000:7.0f} ms, create alone p50 "
            f"{statistics.median(creates) * 1000:.0f} ms, n={len(totals)}"
        )
    print(f"run_code is {medians['run_code'] / medians['command']:.2f} × the command")
    return 0


if __name__ == "__main__":
    sys.exit(main())
