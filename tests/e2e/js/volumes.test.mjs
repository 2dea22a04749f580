// Volumes through the official JavaScript SDK: their content from outside, and in a
// sandbox. The environment names the server: see support/run.py.

import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'

import { Sandbox, Volume } from 'e2b'

let volume

before(async () => {
  volume = await Volume.create(`v-${randomUUID()}`)
})

after(async () => {
  if (volume) await Volume.destroy(volume.volumeId)
})

test('volumes are listed, found and destroyed', async () => {
  const name = `v-${randomUUID()}`
  const made = await Volume.create(name)
  await assert.rejects(Volume.create(name), /already exists/)
  assert.ok((await Volume.list()).some((found) => found.volumeId === made.volumeId))
  assert.equal((await Volume.connect(made.volumeId)).name, name)
  assert.equal(await Volume.destroy(made.volumeId), true)
  assert.equal(await Volume.destroy(made.volumeId), false)
  await assert.rejects(Volume.getInfo(made.volumeId))
})

test('files and directories', async () => {
  const written = await volume.writeFile('/dir/hello.txt', 'hello', { force: true, mode: 0o640 })
  assert.deepEqual([written.type, written.size, written.mode], ['file', 5, 0o640])
  assert.equal(await volume.readFile('/dir/hello.txt'), 'hello')
  await assert.rejects(volume.writeFile('/dir/hello.txt', 'again'))
  const large = randomBytes(3 << 20)
  await volume.writeFile('/dir/large', new Blob([large]))
  const back = await volume.readFile('/dir/large', { format: 'bytes' })
  assert.ok(large.equals(Buffer.from(back)))
  await volume.makeDir('/dir/sub')
  const paths = (await volume.list('/', { depth: 2 })).map((entry) => entry.path)
  assert.deepEqual(paths, ['/dir', '/dir/hello.txt', '/dir/large', '/dir/sub'])
  const changed = await volume.updateMetadata('/dir/hello.txt', { uid: 7 })
  assert.deepEqual([changed.uid, changed.mode], [7, 0o640])
  await volume.remove('/dir')
  assert.equal(await volume.exists('/dir'), false)
})

test('a sandbox has a volume mounted', async () => {
  await volume.writeFile('/outside', 'one', { mode: 0o666 })
  const sandbox = await Sandbox.create({
    timeoutMs: 600_000,
    volumeMounts: { '/mnt/data': volume },
  })
  try {
    const read = await sandbox.commands.run('cat /mnt/data/outside')
    assert.equal(read.stdout, 'one')
    await sandbox.commands.run('echo two >/mnt/data/inside && sync')
    assert.equal(await volume.readFile('/inside'), 'two\n')
  } finally {
    await sandbox.kill()
  }
})
