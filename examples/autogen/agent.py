"""AutoGen: an assistant with a tool that runs Python in a sandbox."""

import asyncio
import os
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from e2b import CommandExitException, Sandbox

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
    model = OpenAIChatCompletionClient(model=os.environ.get("MODEL", "gpt-4o-mini"))
    agent = AssistantAgent("analyst", model_client=model, tools=[run_python], reflect_on_tool_use=True)
    result = await agent.run(task=" ".join(sys.argv[1:]) or QUESTION)
    print(result.messages[-1].content)
    await model.close()


with Sandbox.create(timeout=300) as sandbox:
    asyncio.run(main())
