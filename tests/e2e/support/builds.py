"""What builds of templates say."""

import re
from typing import Iterable

_OUTPUT = re.compile(r"\[(?:base|builder \d+/\d+|start|finalize)\] \[(?:stdout|stderr)\]: (.*)", re.DOTALL)


def output(messages: Iterable[str]) -> list[str]:
    """What commands wrote, without the label that tells which command it was."""
    found = (_OUTPUT.fullmatch(message) for message in messages)
    return [match[1] for match in found if match]
