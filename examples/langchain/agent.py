"""LangChain: an agent with a tool that runs Python in a sandbox."""

import os
import sys

from e2b import CommandExitException, Sandbox
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI

QUESTION = "What is the sum of the squares of 1 to 100? Compute it with Python."


@tool
def run_python(code: str) -> str:
    """Run a Python program in a sandbox, and get what it prints."""
    try:
        sandbox.files.write("/tmp/program.py", code)
        return sandbox.commands.run("python3 /tmp/program.py").stdout
    except CommandExitException as error:
        # For the model, which can mend its program.
        return f"exit code {error.exit_code}\n{error.stderr}"


model = ChatOpenAI(model=os.environ.get("MODEL", "gpt-4o-mini"))
agent = create_agent(model, tools=[run_python])
with Sandbox.create(timeout=300) as sandbox:
    question = " ".join(sys.argv[1:]) or QUESTION
    result = agent.invoke({"messages": [{"role": "user", "content": question}]})
print(result["messages"][-1].content)
