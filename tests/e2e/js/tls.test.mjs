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

test('a page in a browser', { skip: !CHROMIUM && 'there is no Chromium', timeout: 180_000 }, async () => {
  const { chromium } = await import('playwright-core')
  const home = mkdtempSync(path.join(tmpdir(), 'hearth-browser-'))
  let browser
  try {
    // Trusted as a user would have it; no certificate check is switched off.
    const environment = { ...process.env, HOME: home }
    delete environment.SUDO_USER
    const [program, ...rest] = JSON.parse(process.env.HEARTH_E2E_COMMAND)
    await promisify(execFile)(program, [...rest, 'trust', '--browsers'], { env: environment })
    browser = await chromium.launch({
      executablePath: CHROMIUM,
      args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
      env: environment,
      timeout: LIMIT_MS,
    })
    const page = await browser.newPage({ viewport: { width: 1000, height: 640 } })
    page.setDefaultTimeout(LIMIT_MS)
    const answer = await page.goto(`https://${sandbox.getHost(8000)}/`)
    assert.equal(answer.status(), 200)
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
    assert.match(await page.textContent('h1'), /port is not open/)
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
  } finally {
    await browser?.close()
    rmSync(home, { recursive: true, force: true })
  }
})
