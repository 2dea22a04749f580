"""Run code in microVMs. A thin layer over the official e2b SDKs."""

from hearth.filesystem import Filesystem
from hearth.process import Process, ProcessManager, ProcessOutput, ProcessResult
from hearth.sandbox import RunResult, Sandbox

__all__ = [
    "Filesystem",
    "Process",
    "ProcessManager",
    "ProcessOutput",
    "ProcessResult",
    "RunResult",
    "Sandbox",
]
