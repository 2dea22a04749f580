// Vercel AI SDK: a tool that runs Python in a sandbox.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, stepCountIs, tool } from 'ai'
import { CommandExitError, Sandbox } from 'e2b'
import { z } from 'zod'

const question = process.argv.slice(2).join(' ') || 'What is the sum of the squares of 1 to 100? Compute it with Python.'

const provider = createOpenAICompatible({
  name: 'openai',
  baseURL: process.env.OPENAI_BASE_URL ?? 'https://api.openai.com/v1',
  apiKey: process.env.OPENAI_API_KEY,
})

const sandbox = await Sandbox.create({ timeoutMs: 300_000 })
try {
  const runPython = tool({
    description: 'Run a Python program in a sandbox, and get what it prints.',
    inputSchema: z.object({ code: z.string() }),
    execute: async ({ code }) => {
      try {
        await sandbox.files.write('/tmp/program.py', code)
        return (await sandbox.commands.run('python3 /tmp/program.py')).stdout
      } catch (error) {
        if (!(error instanceof CommandExitError)) throw error
        // For the model, which can mend its program.
        return `exit code ${error.exitCode}\n${error.stderr}`
      }
    },
  })
  const { text } = await generateText({
    model: provider(process.env.MODEL ?? 'gpt-4o-mini'),
    tools: { runPython },
    stopWhen: stepCountIs(10),
    prompt: question,
  })
  console.log(text)
} finally {
  await sandbox.kill()
}
