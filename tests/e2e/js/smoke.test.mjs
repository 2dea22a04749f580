// The official JavaScript SDK against a running Hearth, as its users drive it.
// The environment names the server: see support/run.py.

import assert from 'node:assert/strict'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import http from 'node:http'
import { after, before, test } from 'node:test'

import { CommandExitError, NotFoundError, Sandbox, TimeoutError } from 'e2b'

const LIMIT_MS = 60_000

/** Asks until the answer is true, with a bound. */
async function until(condition, what) {
  const deadline = Date.now() + LIMIT_MS
  for (;;) {
    const value = await condition()
    if (value) return value
    assert.ok(Date.now() < deadline, `waited ${LIMIT_MS} ms in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** All sandboxes that a query finds. */
async function listed(query) {
  const paginator = Sandbox.list({ query })
  const found = []
  while (paginator.hasNext) found.push(...(await paginator.nextItems()))
  return found
}

let sandbox
const tag = randomUUID()

before(async () => {
  sandbox = await Sandbox.create({
    timeoutMs: 600_000,
    metadata: { tag },
    envs: { SHARED: 'from the sandbox' },
  })
})

after(async () => {
  await sandbox?.kill()
})

test('create and info', async () => {
  assert.equal(await sandbox.isRunning(), true)
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.deepEqual(info.metadata, { tag })
  assert.equal(info.state, 'running')
})

test('commands: output, exit code, environment, directory, user', async () => {
  const result = await sandbox.commands.run('echo out; echo err >&2')
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  await assert.rejects(sandbox.commands.run('exit 7'), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.equal(error.exitCode, 7)
    return true
  })
  const show = await sandbox.commands.run('echo "$SHARED|$OWN|$PWD|$(id -un)"', {
    envs: { OWN: 'mine' },
    cwd: '/tmp',
    user: 'root',
  })
  assert.equal(show.stdout, 'from the sandbox|mine|/tmp|root\n')
})

test('commands: output arrives while the command runs', async () => {
  const seen = []
  const result = await sandbox.commands.run(
    'rm -f /tmp/go; echo first; until [ -e /tmp/go ]; do sleep 0.05; done; echo second',
    {
      onStdout: async (text) => {
        seen.push(text)
        if (text.includes('first')) await sandbox.files.write('/tmp/go', '')
      },
    },
  )
  assert.equal(result.stdout, 'first\nsecond\n')
  assert.equal(seen.join(''), 'first\nsecond\n')
})

test('commands: background, stdin, list, kill, time limit', async () => {
  const cat = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.sendStdin(cat.pid, 'typed\n')
  await sandbox.commands.closeStdin(cat.pid)
  assert.equal((await cat.wait()).stdout, 'typed\n')

  const sleeper = await sandbox.commands.run('sleep 600', { background: true })
  assert.ok((await sandbox.commands.list()).some((process) => process.pid === sleeper.pid))
  assert.equal(await sleeper.kill(), true)
  await assert.rejects(sleeper.wait(), CommandExitError)
  assert.equal(await sandbox.commands.kill(999_999), false)

  await assert.rejects(sandbox.commands.run('sleep 600', { timeoutMs: 2_000 }), TimeoutError)
})

test('terminal', async () => {
  let shown = ''
  const decoder = new TextDecoder()
  const terminal = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    timeoutMs: 0,
    onData: (data) => {
      shown += decoder.decode(data, { stream: true })
    },
  })
  const type = (line) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(`${line}\n`))
  await sandbox.pty.resize(terminal.pid, { cols: 132, rows: 50 })
  await type('echo size=$(stty size)=')
  await until(() => shown.includes('size=50 132='), 'the size of the terminal')
  await type('exit 4')
  await assert.rejects(terminal.wait(), (error) => {
    assert.equal(error.exitCode, 4)
    return true
  })
})

test('files: text, bytes, stream, several, list, rename, remove', async () => {
  const dir = '/home/user/js'
  assert.equal(await sandbox.files.makeDir(dir), true)
  assert.equal(await sandbox.files.makeDir(dir), false)

  await sandbox.files.write(`${dir}/text`, 'naïve ✓')
  assert.equal(await sandbox.files.read(`${dir}/text`), 'naïve ✓')
  await sandbox.files.write(`${dir}/empty`, '')
  assert.equal(await sandbox.files.read(`${dir}/empty`), '')

  const data = randomBytes(5 * 1024 * 1024)
  await sandbox.files.write(`${dir}/bytes`, new Blob([data]))
  const back = await sandbox.files.read(`${dir}/bytes`, { format: 'bytes' })
  assert.equal(Buffer.compare(Buffer.from(back), data), 0)
  const digest = createHash('sha256')
  for await (const piece of await sandbox.files.read(`${dir}/bytes`, { format: 'stream' })) {
    digest.update(piece)
  }
  assert.equal(digest.digest('hex'), createHash('sha256').update(data).digest('hex'))

  await sandbox.files.write([
    { path: `${dir}/a`, data: '1' },
    { path: `${dir}/b`, data: '2' },
  ])
  const names = (await sandbox.files.list(dir)).map((entry) => entry.name).sort()
  assert.deepEqual(names, ['a', 'b', 'bytes', 'empty', 'text'])
  await sandbox.files.rename(`${dir}/a`, `${dir}/c`)
  assert.equal(await sandbox.files.exists(`${dir}/a`), false)
  assert.equal((await sandbox.files.getInfo(`${dir}/c`)).size, 1)
  await sandbox.files.remove(dir)
  assert.equal(await sandbox.files.exists(dir), false)
  await assert.rejects(sandbox.files.read(`${dir}/text`), NotFoundError)
})

test('files: watching a directory', async () => {
  const events = []
  await sandbox.files.makeDir('/home/user/watched')
  const watcher = await sandbox.files.watchDir('/home/user/watched', (event) => {
    events.push(event.name)
  })
  await sandbox.files.write('/home/user/watched/new', '1')
  await until(() => events.includes('new'), 'the event of a new file')
  await watcher.stop()
})

test('a server in the sandbox is reached through the edge', async () => {
  await sandbox.files.write('/home/user/site/index.html', 'served from a microVM')
  const server = await sandbox.commands.run('python3 -m http.server 8001', {
    background: true,
    cwd: '/home/user/site',
    timeoutMs: 0,
  })
  const api = new URL(process.env.E2B_API_URL)
  const get = () =>
    new Promise((resolve, reject) => {
      const request = http.get(
        { host: api.hostname, port: api.port, path: '/', headers: { Host: sandbox.getHost(8001) } },
        (response) => {
          let body = ''
          response.on('data', (piece) => (body += piece))
          response.on('end', () => resolve({ status: response.statusCode, body }))
          response.on('error', reject)
        },
      )
      request.on('error', reject)
    })
  const answer = await until(async () => {
    const got = await get()
    return got.status === 502 ? undefined : got
  }, 'the server to listen')
  assert.deepEqual(answer, { status: 200, body: 'served from a microVM' })
  await server.kill()
})

test('list, connect, timeout', async () => {
  const found = await listed({ metadata: { tag } })
  assert.deepEqual(
    found.map((info) => info.sandboxId),
    [sandbox.sandboxId],
  )
  const other = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await other.commands.run('echo same')).stdout, 'same\n')

  const short = await Sandbox.create({ timeoutMs: 60_000 })
  await short.setTimeout(2_000)
  await until(async () => !(await short.isRunning()), 'the sandbox to end at its time')
})

test('pause, resume, snapshot, fork', async () => {
  const original = await Sandbox.create({
    timeoutMs: 300_000,
    lifecycle: { onTimeout: 'pause', autoResume: true },
  })
  await original.files.write('/home/user/file', 'kept')
  const sleeper = await original.commands.run('sleep infinity', { background: true, timeoutMs: 0 })
  assert.ok(await original.pause())
  const paused = await listed({ state: ['paused'] })
  assert.ok(paused.some((info) => info.sandboxId === original.sandboxId))
  const resumed = await Sandbox.connect(original.sandboxId, { timeoutMs: 300_000 })
  assert.equal(await resumed.files.read('/home/user/file'), 'kept')
  assert.ok((await resumed.commands.list()).some((process) => process.pid === sleeper.pid))

  await original.setTimeout(1_000)
  const info = () => original.getInfo()
  await until(async () => (await info()).state === 'paused', 'the sandbox to pause at its time')
  assert.equal(await original.files.read('/home/user/file'), 'kept')
  assert.equal((await info()).state, 'running')

  const snapshot = await original.createSnapshot()
  const copy = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 300_000 })
  assert.equal(await copy.files.read('/home/user/file'), 'kept')
  await copy.kill()
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)

  const [fork] = await original.fork({ timeoutMs: 300_000 })
  assert.ok(fork instanceof Sandbox, String(fork))
  const draw = 'head -c 16 /dev/urandom | base64'
  const drawn = await Promise.all([original, fork].map((one) => one.commands.run(draw)))
  assert.notEqual(drawn[0].stdout, drawn[1].stdout)
  await fork.kill()
  assert.equal(await original.kill(), true)
})

test('kill', async () => {
  const victim = await Sandbox.create({ timeoutMs: 60_000 })
  const running = await victim.commands.run('sleep 600', { background: true, timeoutMs: 0 })
  const ending = assert.rejects(running.wait(), TimeoutError)
  assert.equal(await victim.kill(), true)
  await ending
  assert.equal(await victim.isRunning(), false)
  assert.equal(await Sandbox.kill(victim.sandboxId), false)
  await assert.rejects(victim.getInfo(), NotFoundError)
  await assert.rejects(Sandbox.connect('i00000000000000000000'), NotFoundError)
})
