// Calls to the agent that smoke.test.mjs leaves out, through the JavaScript SDK.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { FileType, Sandbox } from 'e2b'

const LIMIT_MS = 60_000

async function until(condition, what) {
  const deadline = Date.now() + LIMIT_MS
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `waited ${LIMIT_MS} ms in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

let sandbox

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 600_000 })
})

after(async () => {
  await sandbox?.kill()
})

test('connect to a running command and close its input', async () => {
  const first = await sandbox.commands.run('echo early; cat', { background: true, stdin: true })
  await until(() => first.stdout === 'early\n', 'the first output')
  await first.disconnect()
  const again = await sandbox.commands.connect(first.pid)
  await sandbox.commands.sendStdin(first.pid, 'typed\n')
  await sandbox.commands.closeStdin(first.pid)
  const result = await again.wait()
  // What was written before is the first client's alone.
  assert.equal(result.stdout, 'typed\n')
})

test('a terminal has more than one client', async () => {
  const terminal = await sandbox.pty.create({ cols: 80, rows: 24, timeoutMs: 0, onData() {} })
  let shown = ''
  const again = await sandbox.pty.connect(terminal.pid, {
    onData: (data) => {
      shown += new TextDecoder().decode(data)
    },
  })
  await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('echo $((6 * 7))\n'))
  await until(() => shown.includes('42'), 'the answer')
  assert.equal(await sandbox.pty.kill(terminal.pid), true)
  await assert.rejects(again.wait())
})

test('entries are described', async () => {
  const dir = '/home/user/described'
  await sandbox.files.write(`${dir}/sub/file`, '12345', { metadata: { purpose: 'test' } })
  await sandbox.commands.run(`ln -s file ${dir}/sub/link && chmod 640 ${dir}/sub/file`)
  const info = await sandbox.files.getInfo(`${dir}/sub/file`)
  assert.deepEqual(
    [info.name, info.type, info.size, info.permissions, info.owner],
    ['file', FileType.FILE, 5, '-rw-r-----', 'user'],
  )
  assert.deepEqual(info.metadata, { purpose: 'test' })
  const link = await sandbox.files.getInfo(`${dir}/sub/link`)
  assert.equal(link.symlinkTarget, `${dir}/sub/file`)
  const deep = await sandbox.files.list(dir, { depth: 2 })
  assert.deepEqual(deep.map((entry) => entry.name).sort(), ['file', 'link', 'sub'])
})

test('a tree is watched, with what is made in it meanwhile', async () => {
  const events = []
  await sandbox.files.makeDir('/home/user/tree')
  const watcher = await sandbox.files.watchDir(
    '/home/user/tree',
    (event) => {
      events.push(event.name)
    },
    { recursive: true },
  )
  await sandbox.files.write('/home/user/tree/new/deep', '1')
  await until(() => events.includes('new/deep'), 'the event from below')
  await watcher.stop()
})

test('users', async () => {
  const who = await sandbox.commands.run('id -un', { user: 'root' })
  assert.equal(who.stdout, 'root\n')
  await assert.rejects(sandbox.commands.run('id', { user: 'nobody-of-this-name' }))
})
