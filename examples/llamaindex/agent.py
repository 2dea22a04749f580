"""LlamaIndex: a function agent with a tool that runs Python in a sandbox."""

import asyncio
import os
import sys

from e2b import CommandExitException, Sandbox
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai import OpenAI

QUESTION = "What is the sum of the squares of 1 to 100? Compute it with Python."


def run_python(code: str) -> str:
    """Run a Python program in a sandbox, and get what it prints."""
    try:
        sandbox.files.write("/tmp/program.py", code)
        return sandbox.commands.run("python3 /tmp/program.py").stdout
    except CommandExitException as error:
        # For the model, which can mend its program.
        return f"exit code {error.exit_code}\n{error.stderr}"


async def main() -> None:
    # Of a model that OpenAI does not have, llama-index-llms-openai-like says how it is.
    model = OpenAI(model=os.environ.get("MODEL", "gpt-4o-mini"), api_base=os.environ.get("OPENAI_BASE_URL"))
    agent = FunctionAgent(tools=[run_python], llm=model)
    print(await agent.run(" ".join(sys.argv[1:]) or QUESTION))


with Sandbox.create(timeout=300) as sandbox:
    asyncio.run(main())
