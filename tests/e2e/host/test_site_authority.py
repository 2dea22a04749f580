"""A site's own certificate authority (`node.ca_file`) is trusted by the tools of every
sandbox, new or resumed, and in builds."""

from typing import Iterator

import pytest
from e2b import Sandbox, Template

from support.daemon import Hearth, running
from support.internet import Internet, internet

SITE = "https://first.test"
# Each says what its client says of the certificate, or nothing.
TOOLS = {
    "curl": f"curl -sS -o /dev/null {SITE}/",
    "python": f"python3 -c 'import urllib.request as u; u.urlopen(\"{SITE}/\").read()'",
    "node": f"node -e 'fetch(\"{SITE}/\").then(a => a.text()).catch(e => {{ throw e.cause }})'",
    # These get no index and no repository there, but far enough to ask for them.
    "pip": f"pip download -q --retries 0 --no-deps -i {SITE}/simple no-such-package 2>&1 | grep 'No matching'",
    "npm": f"! npm view --fetch-retries 0 --registry {SITE}/ no-such-package 2>&1 | grep -i certificate",
    "git": f"! git ls-remote {SITE}/nothing.git 2>&1 | grep -i certificate",
    "sudo curl": f"sudo curl -sS -o /dev/null {SITE}/",
}


@pytest.fixture(scope="module")
def outside() -> Iterator[Internet]:
    with internet() as there:
        yield there


@pytest.fixture(scope="module")
def hearth(outside: Internet) -> Iterator[Hearth]:
    config = {
        "node": {"ca_file": str(outside.authority)},
        "network": {"name_servers": outside.config()["network"]["name_servers"]},
        "builds": {"disk_mib": 1024},
    }
    with running(config=config) as daemon:
        yield daemon


def trusted(box: Sandbox, tool: str) -> None:
    done = box.commands.run(TOOLS[tool], timeout=120)
    assert done.exit_code == 0


def test_every_tool_trusts_the_site(hearth: Hearth) -> None:
    with Sandbox.create(timeout=900) as box:
        for tool in TOOLS:
            trusted(box, tool)
        # The site's beside the usual authorities, and once.
        bundle = "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; grep -c 'e2b-ca begin' /etc/ssl/certs/ca-certificates.crt"
        count, sections = box.commands.run(bundle).stdout.split()
        assert int(count) > 50 and sections == "1"
        box.pause()
        resumed = Sandbox.connect(box.sandbox_id, timeout=900)
        trusted(resumed, "curl")
        trusted(resumed, "python")


def test_a_variable_of_the_users_counts(hearth: Hearth) -> None:
    with Sandbox.create(timeout=300, envs={"SSL_CERT_FILE": "/dev/null"}) as box:
        assert box.commands.run("echo $SSL_CERT_FILE").stdout.strip() == "/dev/null"
        python = box.commands.run(f"{TOOLS['python']} 2>&1 | tail -n 1", timeout=120).stdout
        assert "CERTIFICATE_VERIFY_FAILED" in python


def test_builds_trust_it(hearth: Hearth) -> None:
    template = Template().from_template("base").run_cmd([TOOLS["curl"], TOOLS["python"]])
    Template.build(template, alias="of-the-site", cpu_count=1, memory_mb=512)
    with Sandbox.create("of-the-site", timeout=300) as box:
        trusted(box, "curl")
