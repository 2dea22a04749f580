"""How `scripts/totals.py` reads what the test runners say."""

import subprocess
import sys
from pathlib import Path

TOTALS = Path(__file__).resolve().parents[2] / "scripts" / "totals.py"
SUMMARY = "     Summary [  12.3s] {run} tests run: {passed} passed, {failed} failed, {skipped} skipped\n"
JUNIT = """<testsuites><testsuite name="a" tests="3">
<testcase name="plain"><system-out>running 1 test
all is well</system-out></testcase>
<testcase name="early"><system-out>running 1 test
skipped: qemu-io is not installed
test early ... ok</system-out></testcase>
<testcase name="late"><system-err>test late ... skipped: no node</system-err></testcase>
{more}</testsuite></testsuites>"""
BROKEN = '<testcase name="broken"><failure/><system-out>skipped: no excuse</system-out></testcase>'


def totals(results: Path, *failed: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, str(TOTALS), str(results), *failed], capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_rust_tests_that_skip_themselves_are_skipped(tmp_path):
    (tmp_path / "rust.nextest.log").write_text(SUMMARY.format(run=3, passed=3, failed=0, skipped=2))
    (tmp_path / "rust.nextest.xml").write_text(JUNIT.format(more=""))
    (tmp_path / "rust.seconds").write_text("83\n")
    status, lines = totals(tmp_path)
    assert status == 0
    assert lines[-1] == "1 passed, 0 failed, 4 skipped"
    assert "1 x qemu-io is not installed" in lines[0] + lines[1]
    assert "83 s" in lines[2] and lines[2].split()[0] == "rust"


def test_a_failure_is_no_skip_whatever_it_prints(tmp_path):
    (tmp_path / "rust.nextest.log").write_text(SUMMARY.format(run=4, passed=3, failed=1, skipped=0))
    (tmp_path / "rust.nextest.xml").write_text(JUNIT.format(more=BROKEN))
    status, lines = totals(tmp_path)
    assert (status, lines[-1]) == (1, "1 passed, 1 failed, 2 skipped")


def test_failures_are_shown_again_with_the_end_of_what_they_said(tmp_path):
    long = "\n".join(f"line {number}" for number in range(500))
    (tmp_path / "kvm.pytest.xml").write_text(
        '<testsuites><testsuite tests="2" failures="1" errors="1" skipped="0">'
        f'<testcase classname="m" name="one"><failure message="why it fell">{long}</failure></testcase>'
        '<testcase classname="m" name="two"><error message="no daemon"/></testcase>'
        "</testsuite></testsuites>"
    )
    (tmp_path / "js.node.tap").write_text(
        "ok 1 - fine\nnot ok 2 - a terminal\n  ---\n  error: 'no prompt'\n  ...\nok 3 - more\n"
        "# tests 3\n# pass 2\n# fail 1\n"
    )
    status, lines = totals(tmp_path)
    assert (status, lines[-1]) == (1, "2 passed, 3 failed, 0 skipped")
    said = "\n".join(lines)
    assert "--- failed, kvm: m one" in said and "why it fell" in said and "line 499" in said
    assert "line 400" not in lines
    assert "--- failed, kvm: m two\nno daemon" in said
    assert "--- failed, js: a terminal" in said and "no prompt" in said
    assert "fine" not in said and "more" not in said


def test_all_runners_are_added_up(tmp_path):
    (tmp_path / "sdk.pytest.xml").write_text(
        '<testsuites><testsuite tests="6" failures="0" errors="0" skipped="1">'
        '<testcase name="t"><skipped message="needs 2.60"/></testcase></testsuite></testsuites>'
    )
    (tmp_path / "js.node.tap").write_text("ok 1 - a # SKIP no browser\n# tests 3\n# pass 2\n# fail 0\n# skipped 1\n")
    (tmp_path / "web.vitest.xml").write_text(
        '<testsuites><testsuite tests="3" failures="0" errors="0" skipped="0"/></testsuites>'
    )
    (tmp_path / "doc.cargo-test.log").write_text("test result: ok. 4 passed; 0 failed; 1 ignored\n")
    status, lines = totals(tmp_path)
    assert (status, lines[-1]) == (0, "14 passed, 0 failed, 3 skipped")
    assert any("needs 2.60" in line for line in lines)
    assert any("no browser" in line for line in lines)


def test_the_line_never_looks_better_than_the_run(tmp_path):
    assert totals(tmp_path)[0] == 1, "nothing ran"
    (tmp_path / "js.node.tap").write_text("the runner died\n")
    (tmp_path / "rust.nextest.log").write_text("error: could not compile\n")
    assert totals(tmp_path)[1][-1] == "0 passed, 2 failed, 0 skipped"
    (tmp_path / "rust.nextest.log").write_text(SUMMARY.format(run=3, passed=3, failed=0, skipped=0))
    (tmp_path / "js.node.tap").unlink()
    assert totals(tmp_path, "build")[1][-2:] == ["stage failed: build", "3 passed, 1 failed, 0 skipped"]


def test_what_passed_at_its_second_run_is_named_and_what_failed_twice_is_not(tmp_path):
    flaky = '<testcase name="net::slow"><flakyFailure type="test failure"/></testcase>'
    (tmp_path / "rust.nextest.log").write_text(SUMMARY.format(run=4, passed=4, failed=0, skipped=0))
    (tmp_path / "rust.nextest.xml").write_text(JUNIT.format(more=flaky))
    (tmp_path / "host.pytest.xml").write_text(
        '<testsuites><testsuite tests="2" failures="1" errors="0" skipped="0">'
        '<testcase classname="host.test_a" name="test_twice[a b]"><failure>no</failure></testcase>'
        '<testcase classname="host.test_a" name="test_once[a b]"/></testsuite></testsuites>'
    )
    (tmp_path / "host.pytest.again.txt").write_text(
        "host/test_a.py::test_twice[a b]\nhost/test_a.py::test_once[a b]\n"
    )
    status, lines = totals(tmp_path)
    assert (status, lines[-1]) == (1, "3 passed, 1 failed, 2 skipped")
    assert [line.strip() for line in lines if "flaky" in line] == [
        "flaky  rust: net::slow passed at its second run",
        "flaky  host: host/test_a.py::test_once[a b] passed at its second run",
    ]
