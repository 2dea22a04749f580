"""Every program of examples/, as it stands there, with a model that follows a script."""

import re
from pathlib import Path

import httpx
import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

NAMES = sorted(found.parent.name for found in EXAMPLES.glob("*/agent.*"))
SUM = "338350"


# The first time a framework is installed.
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_an_agent_answers_with_what_its_sandbox_printed(hearth, example, name):
    output = example(name)
    found = re.search(rf"{SUM} (i[a-z0-9]{{20}})\b", output)
    assert found, output
    api = httpx.Client(
        base_url=hearth.exports["E2B_API_URL"],
        headers={"X-API-Key": hearth.exports["E2B_API_KEY"]},
        trust_env=False,
    )
    # The program ran in a sandbox of ours, which the example has ended.
    assert api.get("/v2/sandboxes").json() == []
    events = api.get(f"/events/sandboxes/{found[1]}").json()
    assert {event["type"] for event in events} >= {"sandbox.lifecycle.created", "sandbox.lifecycle.killed"}
    reasons = [event["eventData"].get("kill_reason") for event in events if event["type"].endswith("killed")]
    assert reasons == ["request"]


def test_each_has_pins_and_a_line_in_the_list():
    assert len(NAMES) >= 5
    listed = (EXAMPLES / "README.md").read_text()
    for name in NAMES:
        assert f"]({name}/agent." in listed, name
        pins = EXAMPLES / name / "requirements.txt"
        if pins.exists():
            lines = [line for line in pins.read_text().splitlines() if line and not line.startswith("#")]
            assert lines and all(re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z]+\])?==\S+", line) for line in lines), name
        else:
            assert (EXAMPLES / name / "package-lock.json").exists(), name
