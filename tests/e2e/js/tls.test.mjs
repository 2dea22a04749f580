// The official JavaScript SDK over HTTPS by domain, and a page in a real browser:
// as after `eval "$(hearth env)"`.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import https from 'node:https'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'

// Only the domain is to say where Hearth is.
delete process.env.E2B_API_URL
delete process.env.E2B_SANDBOX_URL
const { Sandbox } = await import('e2b')
const { WebSocket } = await import('undici')

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/google-chrome'].find((file) => existsSync(file))
const LIMIT_MS = 60_000

let sandbox

async function until(condition, what) {
  const deadline = Date.now() + LIMIT_MS
  for (;;) {
    const value = await condition()
    if (value) return value
    assert.ok(Date.now() < deadline, `waited ${LIMIT_MS} ms in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

function get(url) {
  return new Promise((resolve, reject) => {
    const request = https.get(url, (answer) => {
      let body = ''
      answer.on('data', (piece) => (body += piece))
      answer.on('end', () => resolve({ status: answer.statusCode, body }))
      answer.on('error', reject)
    })
    request.on('error', reject)
  })
}

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 600_000 })
  const site = readFileSync(process.env.HEARTH_E2E_SITE, 'utf8')
  await sandbox.files.write('/home/user/site.py', site)
  await sandbox.commands.run('python3 site.py', { background: true, timeoutMs: 0 })
  const url = `https://${sandbox.getHost(8000)}/headers`
  const answer = await until(async () => {
    const answer = await get(url)
    return answer.status === 200 && answer
  }, 'the site to answer')
  assert.match(answer.body, /x-forwarded-proto: https/i)
})

after(async () => {
  await browser?.close()
  if (browserHome) rmSync(browserHome, { recursive: true, force: true })
  await sandbox?.kill()
})

test('the SDK by domain', async () => {
  assert.match(sandbox.getHost(8000), /^8000-i[a-z0-9]+\.localhost:\d+$/)
  await sandbox.files.write('/home/user/text', 'over TLS')
  assert.equal(await sandbox.files.read('/home/user/text'), 'over TLS')
  assert.equal((await sandbox.commands.run('echo hi')).stdout, 'hi\n')
  const signed = await get(await sandbox.downloadUrl('/home/user/text'))
  assert.deepEqual(signed, { status: 200, body: 'over TLS' })
  assert.equal(await sandbox.isRunning(), true)
})

test('WebSockets', async () => {
  const socket = new WebSocket(`wss://${sandbox.getHost(8000)}/socket`)
  const answer = await new Promise((resolve, reject) => {
    socket.addEventListener('open', () => socket.send('hello'))
    socket.addEventListener('message', (event) => resolve(event.data))
    socket.addEventListener('error', (event) => reject(event.error))
  })
  assert.equal(answer, 'HELLO')
  socket.close()
})

test('a client that goes away is noticed in the sandbox', async () => {
  const first = await new Promise((resolve, reject) => {
    const request = https.get(`https://${sandbox.getHost(8000)}/events`, (answer) => {
      answer.once('data', (piece) => {
        resolve(`${piece}`)
        answer.destroy()
      })
      answer.on('error', () => {})
    })
    request.on('error', reject)
  })
  assert.match(first, /data: 0/)
  await until(() => sandbox.files.exists('/tmp/left'), 'the site to notice')
})

/** A real browser that trusts Hearth's authority; started once. */
let browser
let browserHome

async function launch() {
  if (browser) return browser
  const { chromium } = await import('playwright-core')
  browserHome = mkdtempSync(path.join(tmpdir(), 'hearth-browser-'))
  // Trusted as a user would have it; no certificate check is switched off.
  const environment = { ...process.env, HOME: browserHome }
  delete environment.SUDO_USER
  const [program, ...rest] = JSON.parse(process.env.HEARTH_E2E_COMMAND)
  await promisify(execFile)(program, [...rest, 'trust', '--browsers'], { env: environment })
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
    env: environment,
    timeout: LIMIT_MS,
  })
  return browser
}

async function openPage() {
  const page = await (await launch()).newPage({ viewport: { width: 1000, height: 640 } })
  page.setDefaultTimeout(LIMIT_MS)
  const answer = await page.goto(`https://${sandbox.getHost(8000)}/`)
  assert.equal(answer.status(), 200)
  return page
}

const inBrowser = { skip: !CHROMIUM && 'there is no Chromium', timeout: 180_000 }

test('a page in a browser', inBrowser, async () => {
  const page = await openPage()
  assert.equal(await page.textContent('#title'), 'Served from a microVM')
  await page.waitForSelector('body[data-seen]')
  const seen = JSON.parse(await page.getAttribute('body', 'data-seen'))
  assert.deepEqual(seen, {
    posted: '200000 bytes',
    socket: 'HELLO',
    events: '0,1',
    refused: 'The sandbox is running but port is not open',
  })

  const closed = await page.goto(`https://${sandbox.getHost(8099)}/`)
  assert.equal(closed.status(), 502)
  assert.equal(await page.textContent('h1'), 'Closed Port')
  assert.match(await page.textContent('body'), /no service running on port/)
  const shots = process.env.HEARTH_E2E_SCREENSHOTS
  if (shots) {
    await page.screenshot({ path: path.join(shots, 'closed-port.png') })
    await page.emulateMedia({ colorScheme: 'dark' })
    await page.screenshot({ path: path.join(shots, 'closed-port-dark.png') })
    await page.goto(`https://8000-i00000000000000000000.localhost:${new URL(page.url()).port}/`)
    await page.screenshot({ path: path.join(shots, 'not-found-dark.png') })
    await page.emulateMedia({ colorScheme: 'light' })
    await page.setViewportSize({ width: 390, height: 700 })
    await page.screenshot({ path: path.join(shots, 'not-found-phone.png') })
  }
  await page.close()
})

test('a page of another origin uses the sandbox', inBrowser, async () => {
  const page = await openPage()
  const file = '/home/user/from a page.txt'
  const urls = {
    upload: await sandbox.uploadUrl(file),
    download: await sandbox.downloadUrl(file),
    unsigned: `https://${sandbox.getHost(49983)}/files?path=x`,
  }
  assert.notEqual(new URL(urls.upload).origin, new URL(page.url()).origin)
  const transfers = await page.evaluate(async ({ upload, download, unsigned }) => {
    const form = new FormData()
    form.append('file', new Blob(['from a page']), 'from a page.txt')
    const up = await fetch(upload, { method: 'POST', body: form })
    // A header of its own, so that the browser asks before.
    const down = await fetch(download, { headers: { 'X-Own': '1' } })
    const disposition = down.headers.get('content-disposition')
    const refused = await fetch(unsigned, { headers: { 'X-Access-Token': 'wrong' } })
    return {
      up: [up.status, (await up.json())[0].path],
      down: [down.status, await down.text(), disposition],
      refused: [refused.status, (await refused.json()).code],
    }
  }, urls)
  assert.deepEqual(transfers, {
    up: [200, file],
    down: [200, 'from a page', 'inline; filename="from a page.txt"'],
    refused: [401, 401],
  })

  await page.addScriptTag({ content: await bundledSdk() })
  const connection = {
    id: sandbox.sandboxId,
    options: { domain: process.env.E2B_DOMAIN, apiKey: process.env.E2B_API_KEY },
  }
  const used = await page.evaluate(async ({ id, options }) => {
    const sandbox = await e2b.Sandbox.connect(id, options)
    const seen = []
    const ran = await sandbox.commands.run('echo $((6 * 7)); echo wrong >&2', {
      user: 'root',
      onStdout: (text) => void seen.push(text),
    })
    const failed = await sandbox.commands.run('exit 3').catch((error) => error.exitCode)
    await sandbox.files.write('/opt/page/written', 'by the SDK')
    const missing = await sandbox.files.exists('/opt/page/missing')
    const read = await sandbox.files.read('/opt/page/written')
    return { ran: [ran.stdout, ran.stderr], seen: seen.join(''), failed, missing, read }
  }, connection)
  assert.deepEqual(used, {
    ran: ['42\n', 'wrong\n'],
    seen: '42\n',
    failed: 3,
    missing: false,
    read: 'by the SDK',
  })
  await page.close()
})

/** The SDK as one script for a page, as bundlers make it: without Node's own modules. */
async function bundledSdk() {
  const esbuild = await import('esbuild')
  const nodeModules = {
    name: 'no-node',
    setup(build) {
      build.onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: 'no-node' }))
      build.onLoad({ filter: /.*/, namespace: 'no-node' }, () => ({ contents: 'module.exports = {}' }))
    },
  }
  const built = await esbuild.build({
    stdin: { contents: "export { Sandbox } from 'e2b'", resolveDir: import.meta.dirname },
    bundle: true,
    write: false,
    format: 'iife',
    globalName: 'e2b',
    platform: 'browser',
    plugins: [nodeModules],
  })
  return built.outputFiles[0].text
}
