"""OpenAI Agents SDK: an agent whose shell is a sandbox, by the SDK's own E2B client."""

import os
import sys

from agents import Runner, set_default_openai_api, set_tracing_disabled
from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions
from agents.run import RunConfig
from agents.sandbox import SandboxAgent, SandboxRunConfig
from agents.sandbox.capabilities import Shell

# What most servers of models speak. Without these two lines the SDK uses OpenAI's own.
set_default_openai_api("chat_completions")
set_tracing_disabled(True)

QUESTION = "What is the sum of the squares of 1 to 100? Compute it with Python."

agent = SandboxAgent(
    name="Analyst",
    model=os.environ.get("MODEL", "gpt-4o-mini"),
    instructions="Answer with what programs in your sandbox print.",
    capabilities=[Shell()],
)
sandbox = SandboxRunConfig(
    client=E2BSandboxClient(),
    options=E2BSandboxClientOptions(sandbox_type="e2b", timeout=300, on_timeout="kill"),
)
result = Runner.run_sync(agent, " ".join(sys.argv[1:]) or QUESTION, run_config=RunConfig(sandbox=sandbox))
print(result.final_output)
