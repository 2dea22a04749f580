// The official JavaScript SDK against a sandbox that test_sdk.py made; any failed
// assertion ends it with an error.

import assert from 'node:assert/strict'

import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.connect(process.argv[2])

const heard = []
const execution = await sandbox.runCode("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7", {
  onStdout: (message) => heard.push(message.line),
})
assert.equal(execution.text, '42')
assert.deepEqual(execution.logs, { stdout: ['out\n'], stderr: ['err\n'] })
assert.deepEqual(heard, ['out\n'])
assert.equal(execution.error, undefined)

const failed = await sandbox.runCode('1/0')
assert.equal(failed.error.name, 'ZeroDivisionError')

const context = await sandbox.createCodeContext({ language: 'javascript', cwd: '/tmp' })
const typed = await sandbox.runCode('const n: number = 20\nprocess.cwd() + (n + 1)', { context })
assert.equal(typed.text, '/tmp21')
const variables = await sandbox.runCode('process.env.OWN', { context, envs: { OWN: 'own' } })
assert.equal(variables.text, 'own')
assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id))
await sandbox.removeCodeContext(context)
await assert.rejects(sandbox.runCode('1', { context }))
