"""Runs a command against a Hearth of its own, with its exports set.

    python -m support.run -- node --test smoke.test.mjs

Ends with the command's status.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from support.daemon import Hearth


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    # Tests of webhooks listen on this machine.
    with Hearth(config={"events": {"private_receivers": ["127.0.0.1/32"]}}) as hearth:
        environment = {
            **hearth.environment,
            **hearth.exports,
            # For tests that call `hearth` themselves or run a site in a sandbox.
            "HEARTH_E2E_COMMAND": json.dumps(hearth.command()),
            "HEARTH_E2E_SITE": str(Path(__file__).with_name("site.py")),
        }
        status = subprocess.run(arguments, env=environment).returncode
        if status != 0:
            print(hearth.log_tail(), file=sys.stderr)
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
