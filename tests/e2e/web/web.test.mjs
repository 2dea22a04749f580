// The web interface in a real browser, on a real Hearth: signs in, and goes through each
// page as people do. No page may have a serious fault of accessibility, write an error to
// the console, or ask another host for anything.

import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { after, before, test } from 'node:test'

import { chromium } from 'playwright-core'

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/google-chrome'].find((file) => existsSync(file))
const API = process.env.E2B_API_URL
const KEY = process.env.E2B_API_KEY
const SHOTS = process.env.HEARTH_E2E_SHOTS
const LIMIT_MS = 90_000
// Of the first page, as it comes over the wire.
const FIRST_LOAD_BYTES = 300 * 1024
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

let browser
let context
let page
let devtools
let id
const complaints = []
// On Debian scripts/setup --tests installs it.
const browse = (name, body) => test(name, { skip: !CHROMIUM && 'there is no Chromium' }, body)
const strangers = []

async function api(method, path, body) {
  const response = await fetch(API + path, {
    method,
    headers: { 'X-API-Key': KEY, ...(body ? { 'Content-Type': 'application/json' } : {}) },
    body: body && JSON.stringify(body),
  })
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${await response.clone().text()}`)
  const text = await response.text()
  return text ? JSON.parse(text) : undefined
}

// Past the page's policy, as an extension is.
async function evaluate(expression) {
  const { result, exceptionDetails } = await devtools.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })
  assert.ok(!exceptionDetails, exceptionDetails?.text)
  return result.value
}

async function check(name) {
  if (SHOTS) {
    mkdirSync(SHOTS, { recursive: true })
    for (const [kind, scheme, width, height] of [['light', 'light', 1200, 760], ['dark', 'dark', 1200, 760], ['phone', 'light', 390, 760]]) {
      await page.emulateMedia({ colorScheme: scheme })
      await page.setViewportSize({ width, height })
      await page.waitForTimeout(300)
      await page.screenshot({ path: `${SHOTS}/${kind}-${name}.png` })
    }
    await page.setViewportSize({ width: 1200, height: 760 })
  }
  for (const colorScheme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme })
    await evaluate(AXE)
    const found = await evaluate(`axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
      violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
        .map(({ id, nodes }) => id + ': ' + nodes.map(({ target }) => target.join(' ')).join(', ')))`)
    assert.deepEqual(found, [], `${name}, ${colorScheme}`)
  }
}

const open = (path) => page.goto(`${API}${path}`)
const see = (text, options) => page.getByText(text, options).first().waitFor()
const tab = (name) => page.getByRole('tab', { name }).click()

before(async () => {
  if (!CHROMIUM) return
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] })
  context = await browser.newContext({ viewport: { width: 1200, height: 760 }, reducedMotion: 'reduce' })
  context.setDefaultTimeout(LIMIT_MS)
  page = await context.newPage()
  devtools = await context.newCDPSession(page)
  page.on('pageerror', (error) => complaints.push(error.message))
  page.on('console', (message) => {
    // A refused request is told of by the page itself.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) complaints.push(message.text())
  })
  page.on('request', (request) => {
    const url = request.url()
    if (/^https?:/.test(url) && !url.startsWith(`${API}/`)) strangers.push(url)
  })
})

after(async () => {
  await browser?.close()
})

test('programs see no page, pages no key', async () => {
  for (const Accept of ['application/json', '*/*']) {
    const response = await fetch(`${API}/`, { headers: { Accept } })
    assert.deepEqual([response.status, (await response.json()).message], [404, 'Not found'])
  }
  // Whoever shows a key gets what the API itself says there.
  const withKey = await fetch(`${API}/`, { headers: { Accept: 'text/html', 'X-API-Key': KEY } })
  assert.match(await withKey.text(), /This is a Hearth server/)
  for (const path of ['/sandboxes', '/v2/sandboxes', '/no/such/route']) {
    const response = await fetch(API + path, { headers: { Accept: 'text/html' } })
    assert.match(response.headers.get('content-type'), /^application\/json/)
  }
  // Without the mark that no other origin can send, the cookie is nothing.
  const signIn = (headers) => fetch(`${API}/web/session`, { method: 'POST', headers, body: JSON.stringify({ apiKey: KEY }) })
  assert.equal((await signIn({})).status, 403)
  assert.equal((await signIn({ 'X-Hearth-Web': '1', Origin: 'http://evil.example' })).status, 403)
  const signedIn = await signIn({ 'X-Hearth-Web': '1' })
  assert.equal(signedIn.status, 201)
  assert.ok(!(await signedIn.text()).includes(KEY))
  const cookie = signedIn.headers.get('set-cookie')
  assert.match(cookie, /HttpOnly; SameSite=Strict/)
  const Cookie = cookie.split(';')[0]
  const ask = (path, headers) => fetch(API + path, { headers: { Cookie, ...headers } })
  assert.equal((await ask('/v2/sandboxes', {})).status, 401)
  assert.equal((await ask('/v2/sandboxes', { 'X-Hearth-Web': '1' })).status, 200)
  assert.equal((await ask('/v2/sandboxes', { 'X-Hearth-Web': '1', 'Sec-Fetch-Site': 'same-site' })).status, 401)
  assert.equal((await ask('/teams', { 'X-Hearth-Web': '1' })).status, 403)
  // Over TLS no subdomain can put another cookie in the place of ours.
  const overTls = await fetch(`https://api.${process.env.E2B_DOMAIN}/web/session`, { method: 'POST', headers: { 'X-Hearth-Web': '1' }, body: JSON.stringify({ apiKey: KEY }) })
  assert.equal(overTls.status, 201)
  assert.match(overTls.headers.get('set-cookie'), /^__Host-hearth_session=.*; Path=\/; .*; Secure$/)
  const out = await fetch(`${API}/web/session`, { method: 'DELETE', headers: { Cookie, 'X-Hearth-Web': '1' } })
  assert.equal(out.status, 204)
  assert.equal((await ask('/v2/sandboxes', { 'X-Hearth-Web': '1' })).status, 401)
})

async function sessionOf(apiKey) {
  const mark = { 'X-Hearth-Web': '1' }
  const response = await fetch(`${API}/web/session`, { method: 'POST', headers: mark, body: JSON.stringify({ apiKey }) })
  const Cookie = response.headers.get('set-cookie')?.split(';')[0] ?? ''
  const ask = async (method, path, body) => (await fetch(API + path, { method, headers: { ...mark, Cookie, 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) })).status
  return { status: response.status, ask }
}

test('a session may do what its key may, for as long', async () => {
  const made = []
  const key = async (grant) => {
    made.push(await api('POST', '/api-keys', { name: 'of the test', ...grant }))
    return sessionOf(made.at(-1).key)
  }
  const { sandboxID } = await api('POST', '/sandboxes', { templateID: 'base', timeout: 120 })
  const expiresAt = new Date(Date.now() + 12_000).toISOString()
  const short = await key({ expiresAt })
  assert.equal(short.status, 201)
  const looks = await key({ readOnly: true })
  assert.equal(looks.status, 201)
  assert.equal(await looks.ask('GET', `/sandboxes/${sandboxID}`), 200)
  assert.equal(await looks.ask('POST', `/sandboxes/${sandboxID}/pause`), 403)
  assert.equal(await looks.ask('DELETE', `/sandboxes/${sandboxID}`), 403)
  // Nor by way of the agent.
  assert.equal(await looks.ask('POST', `/web/agent/${sandboxID}/filesystem.Filesystem/ListDir`, { path: '/', depth: 1 }), 403)
  assert.equal(await looks.ask('GET', `/web/agent/${sandboxID}/files?path=/etc/hostname`), 403)
  const ours = await sessionOf(KEY)
  assert.equal(await ours.ask('POST', `/web/agent/${sandboxID}/filesystem.Filesystem/ListDir`, { path: '/', depth: 1 }), 200)

  const templates = await key({ scopes: ['templates'] })
  assert.equal(await templates.ask('GET', '/v2/templates'), 200)
  assert.equal(await templates.ask('GET', '/v2/sandboxes'), 403)
  assert.equal(await templates.ask('GET', '/api-keys'), 403)
  assert.equal(await templates.ask('GET', `/web/agent/${sandboxID}/files?path=/etc/hostname`), 403)

  assert.equal((await key({ networks: ['203.0.113.0/24'] })).status, 403)

  await new Promise((resolve) => setTimeout(resolve, Date.parse(expiresAt) - Date.now() + 100))
  assert.equal(await short.ask('GET', '/v2/sandboxes'), 401)
  assert.equal(await short.ask('GET', '/web/session'), 401)

  for (const { id } of made) await api('DELETE', `/api-keys/${id}`)
  assert.equal(await looks.ask('GET', '/v2/sandboxes'), 401)
  assert.equal(await looks.ask('GET', `/web/agent/${sandboxID}/files?path=/etc/hostname`), 401)
  await api('DELETE', `/sandboxes/${sandboxID}`)
})

browse('signing in', async () => {
  await devtools.send('Network.enable')
  let loaded = 0
  const count = ({ encodedDataLength }) => { loaded += encodedDataLength }
  devtools.on('Network.loadingFinished', count)
  await open('/')
  await page.getByLabel('API key').waitFor()
  await page.getByLabel('API key').fill(`e2b_${'0'.repeat(40)}`)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await see('Invalid API key')
  await check('sign-in')
  await page.getByLabel('API key').fill(KEY)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await see('No sandboxes now')
  await page.waitForLoadState('networkidle')
  devtools.off('Network.loadingFinished', count)
  console.log(`the first pages are ${Math.round(loaded / 1024)} KiB`)
  assert.ok(loaded > 50 * 1024 && loaded <= FIRST_LOAD_BYTES, `${loaded} bytes for the first pages`)
  await check('no-sandboxes')
})

browse('creating a sandbox and finding it', async () => {
  await page.getByRole('button', { name: 'Create a sandbox' }).click()
  await page.getByLabel('Ends after (minutes)').fill('30')
  await page.getByLabel('Metadata').fill('user=ada')
  await check('create')
  await page.getByRole('button', { name: 'Create', exact: true }).click()
  await page.waitForURL(/sandboxes\/i[a-z0-9]{20}/)
  id = /sandboxes\/(i[a-z0-9]{20})/.exec(page.url())[1]
  await see('then it is killed')
  await check('overview')
  await open('/dashboard/sandboxes')
  await page.getByLabel('Search sandboxes').fill('user=ada')
  await see(id)
  await page.getByLabel('Search sandboxes').fill('user=grace')
  await see('No sandbox fits')
  await page.getByRole('button', { name: 'Show all' }).click()
  await see(id)
  await check('sandboxes')
})

browse('the link of the command line', async () => {
  await open(`/dashboard/inspect/sandbox/${id}`)
  await page.waitForURL(new RegExp(`/dashboard/sandboxes/${id}`))
  await see(id)
})

browse('a terminal', async () => {
  await tab('Terminal')
  const screen = page.getByRole('group', { name: 'Terminal' })
  await screen.getByText('$').first().waitFor()
  await page.keyboard.type('echo made-$((6 * 7)) | tee /home/user/made.txt\n')
  await screen.getByText('made-42').first().waitFor()
  await page.keyboard.type('nohup python3 -m http.server 8000 >/dev/null 2>&1 &\n')
  await check('terminal')
})

browse('ports', async () => {
  await tab('Ports')
  await page.getByRole('link', { name: /port 8000/ }).waitFor()
  assert.match(await page.getByRole('link', { name: /port 8000/ }).getAttribute('href'), new RegExp(`^http://8000-${id}\\.localhost:`))
  await check('ports')
})

browse('files', async () => {
  await tab('Files')
  await page.getByRole('button', { name: /made\.txt/ }).first().click()
  const content = page.getByLabel('Content of made.txt')
  await content.getByText('made-42').waitFor()
  await content.click()
  await page.keyboard.press('ControlOrMeta+End')
  await page.keyboard.type('edited here')
  await page.getByRole('button', { name: 'Save' }).click()
  await see('Saved', { exact: true })
  await check('editor')
  await page.getByRole('button', { name: 'Back to the folder' }).click()
  await page.locator('input[type=file]').setInputFiles({ name: 'sent.txt', mimeType: 'text/plain', buffer: Buffer.from('from the browser') })
  await see('sent.txt is there')
  await page.getByRole('button', { name: 'Actions for made.txt' }).click()
  const downloading = page.waitForEvent('download')
  await page.getByRole('menuitem', { name: 'Download' }).click()
  const file = await (await downloading).path()
  assert.equal(readFileSync(file, 'utf8').trim(), 'made-42\nedited here')
  await check('files')
})

browse('metrics and logs', async () => {
  await tab('Metrics')
  await page.getByRole('img', { name: /CPU.*now/ }).waitFor()
  await check('metrics')
  await tab('Logs')
  await page.getByRole('log').getByText(/\S/).first().waitFor()
  await check('logs')
})

browse('network rules', async () => {
  await tab('Network')
  await page.getByLabel('Denied').fill('192.0.2.0/24')
  await page.getByRole('button', { name: 'Apply' }).click()
  await see('The rules hold')
  assert.deepEqual((await api('GET', `/sandboxes/${id}`)).network.denyOut, ['192.0.2.0/24'])
  await check('network')
})

browse('snapshots', async () => {
  await tab('Snapshots')
  await page.getByRole('button', { name: 'Take a snapshot' }).first().click()
  await page.getByLabel('Name (optional)').fill('first')
  await page.getByRole('button', { name: 'Take it' }).click()
  await see('The snapshot is taken')
  await page.getByRole('button', { name: 'Roll back' }).click()
  await page.getByRole('alertdialog').getByRole('button', { name: 'Roll back' }).click()
  await see('The sandbox is as it was then')
  await check('snapshots')
})

browse('events of a sandbox', async () => {
  await tab('Events')
  const panel = page.getByRole('tabpanel')
  for (const name of ['Sandbox created', 'Sandbox updated', 'Snapshot taken', 'Sandbox rolled back']) await panel.getByText(name, { exact: true }).first().waitFor()
  await panel.getByText('192.0.2.0/24').first().waitFor()
  await check('sandbox-events')
  await page.getByRole('combobox', { name: 'Type of event' }).click()
  await page.getByRole('option', { name: 'Sandbox killed' }).click()
  await see('No such events')
  await page.getByRole('button', { name: 'Show all' }).click()
  await panel.getByText('Sandbox created', { exact: true }).waitFor()
})

browse('webhooks', async () => {
  let status = 500
  const taken = []
  const receiver = createServer((request, response) => {
    let body = ''
    request.on('data', (part) => { body += part })
    request.on('end', () => {
      taken.push(JSON.parse(body))
      response.writeHead(status, { 'Content-Type': 'text/plain' }).end(status === 500 ? 'out of order' : '')
    })
  })
  await new Promise((resolve) => receiver.listen(0, '127.0.0.1', resolve))
  try {
    await open('/dashboard/webhooks')
    await see('No webhooks yet')
    await check('no-webhooks')
    await page.getByRole('button', { name: 'New webhook' }).click()
    await page.getByLabel('Name', { exact: true }).fill('of the test')
    await page.getByLabel('URL', { exact: true }).fill('ftp://example.com/hook')
    await page.getByRole('button', { name: 'All', exact: true }).click()
    assert.match(await page.getByLabel('Signature secret').inputValue(), /^[0-9a-f]{64}$/)
    await page.getByRole('button', { name: 'Create', exact: true }).click()
    // The form stays, with what is wrong.
    await page.getByRole('dialog').getByRole('alert').waitFor()
    await check('new-webhook')
    await page.getByLabel('URL', { exact: true }).fill(`http://127.0.0.1:${receiver.address().port}/hook`)
    await page.getByRole('button', { name: 'Create', exact: true }).click()
    await see('Nothing has been sent yet')
    await check('webhook')
    const [made] = await api('GET', '/events/webhooks')
    assert.equal(made.events.length, 11)

    await api('POST', `/sandboxes/${id}/timeout`, { timeout: 1500 })
    await page.getByText(id).first().click()
    await see('Answer 500')
    await see('out of order')
    await check('failed-delivery')
    status = 204
    await page.getByRole('button', { name: /^Deliver again/ }).first().click()
    await page.getByText('delivered', { exact: true }).first().waitFor()
    await see('Answer 204')
    await check('delivery')
    assert.deepEqual([...new Set(taken.map(({ type, sandbox_id }) => `${type} ${sandbox_id}`))], [`sandbox.lifecycle.updated ${id}`])
    assert.equal(new Set(taken.map((event) => event.id)).size, 1)

    await page.getByRole('button', { name: 'Disable' }).click()
    await page.getByRole('button', { name: 'Enable' }).waitFor()
    assert.equal((await api('GET', `/events/webhooks/${made.id}`)).enabled, false)
    assert.ok(await page.getByRole('button', { name: /^Deliver again/ }).first().isDisabled())
    await page.getByRole('button', { name: 'Change' }).click()
    await page.getByLabel('Name', { exact: true }).fill('renamed')
    await page.getByLabel('Template built', { exact: true }).uncheck()
    await page.getByRole('button', { name: 'Save' }).click()
    await see('The webhook is changed')
    const changed = await api('GET', `/events/webhooks/${made.id}`)
    assert.deepEqual([changed.name, changed.events.length], ['renamed', 10])
    await page.getByRole('link', { name: 'Webhooks' }).first().click()
    await page.getByRole('link', { name: /renamed/ }).waitFor()
    await check('webhooks')
    await page.getByRole('link', { name: /renamed/ }).click()
    await page.getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
    await see('No webhooks yet')
    assert.deepEqual(await api('GET', '/events/webhooks'), [])
    await open(`/dashboard/webhooks/${made.id}`)
    await see('This webhook is gone')
    await open(`/dashboard/sandboxes/${id}`)
  } finally {
    receiver.closeAllConnections()
    receiver.close()
  }
})

browse('volumes', async () => {
  await open('/dashboard/volumes')
  await see('No volumes yet')
  await check('no-volumes')
  await page.getByRole('button', { name: 'New volume' }).click()
  await page.getByLabel('Name', { exact: true }).fill('data')
  await page.getByRole('button', { name: 'Create', exact: true }).click()
  await page.getByRole('link', { name: /^data/ }).click()
  await see('An empty folder')
  await check('empty-volume')
  await page.getByRole('button', { name: 'New folder' }).click()
  await page.getByLabel('Name', { exact: true }).fill('in')
  await page.getByRole('button', { name: 'Create', exact: true }).click()
  await page.getByRole('button', { name: 'Folder in' }).click()
  const send = (text) => page.locator('input[type=file]').setInputFiles({ name: 'sent.txt', mimeType: 'text/plain', buffer: Buffer.from(text) })
  await send('first')
  await page.getByRole('button', { name: /sent\.txt/ }).first().waitFor()
  // What is there is replaced only when somebody says so.
  await send('second')
  await page.getByRole('alertdialog').getByText('Replace sent.txt?').waitFor()
  await check('replace')
  await page.getByRole('button', { name: 'Replace' }).click()
  await page.getByRole('alertdialog').waitFor({ state: 'detached' })
  await page.getByText('6 B', { exact: true }).waitFor()
  await page.getByRole('button', { name: 'Actions for sent.txt' }).click()
  const downloading = page.waitForEvent('download')
  await page.getByRole('menuitem', { name: 'Download' }).click()
  assert.equal(readFileSync(await (await downloading).path(), 'utf8'), 'second')
  await see('on disk, 2 entries')
  await check('volume')
  // The same, by the API.
  const [volume] = await api('GET', '/volumes')
  const { token } = await api('GET', `/volumes/${volume.volumeID}`)
  const told = await fetch(`${API}/volumecontent/${volume.volumeID}/file?path=/in/sent.txt`, { headers: { Authorization: `Bearer ${token}` } })
  assert.equal(await told.text(), 'second')
  await page.getByRole('button', { name: 'Actions for sent.txt' }).click()
  await page.getByRole('menuitem', { name: 'Delete…' }).click()
  await page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
  await see('An empty folder')

  await page.getByRole('link', { name: 'Volumes' }).first().click()
  await page.getByRole('button', { name: 'Actions for data' }).click()
  await page.getByRole('menuitem', { name: 'Copy…' }).click()
  await page.getByRole('button', { name: 'Copy', exact: true }).click()
  await page.getByRole('link', { name: /^data-copy/ }).waitFor()
  await check('volumes')
  await page.getByRole('button', { name: 'Actions for data-copy' }).click()
  await page.getByRole('menuitem', { name: 'Delete…' }).click()
  await page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
  await see('The volume data-copy is deleted')
  assert.deepEqual((await api('GET', '/volumes')).map(({ name }) => name), ['data'])
  await open('/dashboard/volumes/00000000-0000-0000-0000-000000000000')
  await see('This volume is gone')
  await open(`/dashboard/sandboxes/${id}`)
})

browse('pause, resume and kill', async () => {
  await page.getByRole('button', { name: 'Pause' }).click()
  await page.getByRole('button', { name: 'Resume' }).first().waitFor()
  await tab('Files')
  await page.getByRole('tabpanel').getByText('The sandbox is paused').waitFor()
  await check('paused')
  await page.getByRole('button', { name: 'Resume' }).first().click()
  await page.getByRole('button', { name: 'Pause' }).waitFor()
  await page.getByRole('button', { name: `Actions for ${id}` }).click()
  await page.getByRole('menuitem', { name: 'Kill…' }).click()
  await page.getByRole('button', { name: 'Kill', exact: true }).click()
  await see('The sandbox is gone')
  await open(`/dashboard/sandboxes/${id}`)
  await see('This sandbox is gone')
  // What happened to it is known for longer.
  await see('Sandbox killed', { exact: true })
  await check('gone')
})

browse('events of the team', async () => {
  await open('/dashboard/events')
  await page.getByRole('combobox', { name: 'Type of event' }).click()
  await page.getByRole('option', { name: 'Sandbox killed' }).click()
  await page.getByText('Sandbox created', { exact: true }).first().waitFor({ state: 'detached' })
  await page.getByRole('link', { name: id }).waitFor()
  await check('events')
  await page.getByRole('link', { name: id }).click()
  await see('This sandbox is gone')
  // On a phone the rest of the pages is in a menu.
  await page.setViewportSize({ width: 390, height: 760 })
  await page.getByRole('button', { name: 'More' }).click()
  await page.getByRole('menuitem', { name: 'Webhooks' }).click()
  await see('No webhooks yet')
  await page.setViewportSize({ width: 1200, height: 760 })
  await page.keyboard.press('Control+k')
  await page.getByPlaceholder(/A page, a sandbox/).fill('volumes')
  await page.keyboard.press('Enter')
  await page.getByRole('link', { name: /^data/ }).waitFor()
})

browse('nodes', async () => {
  await open('/dashboard/nodes')
  const [node] = await api('GET', '/nodes')
  await page.getByRole('link', { name: new RegExp(node.name) }).waitFor()
  await see('takes sandboxes')
  await check('nodes')
  await page.getByRole('link', { name: new RegExp(node.name) }).click()
  await page.getByRole('heading', { name: 'The machine' }).waitFor()
  await check('node')
  const { sandboxID } = await api('POST', '/sandboxes', { templateID: 'base', timeout: 300 })
  await page.getByRole('button', { name: 'Drain…' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByText('1 sandbox runs there now').waitFor()
  await dialog.getByRole('button', { name: 'Drain', exact: true }).click()
  await dialog.getByText('Waiting for 1 sandbox to end').waitFor()
  await check('draining')
  const refused = await fetch(`${API}/sandboxes`, { method: 'POST', headers: { 'X-API-Key': KEY, 'Content-Type': 'application/json' }, body: JSON.stringify({ templateID: 'base' }) })
  assert.equal(refused.status, 503)
  await api('DELETE', `/sandboxes/${sandboxID}`)
  await dialog.getByText('The node is drained').waitFor()
  await dialog.getByRole('button', { name: 'Close' }).last().click()
  await page.getByRole('button', { name: 'Uncordon' }).click()
  await page.getByRole('button', { name: 'Cordon', exact: true }).click()
  await see('takes no new sandboxes, and none runs')
  assert.equal((await api('GET', `/nodes/${node.id}`)).status, 'draining')
  await page.getByRole('button', { name: 'Uncordon' }).click()
  await page.getByRole('button', { name: 'Cordon', exact: true }).waitFor()
  assert.equal((await api('GET', `/nodes/${node.id}`)).status, 'ready')
  await open('/dashboard/nodes/n00000000000000000000')
  await see('There is no such node')
})

browse('usage', async () => {
  await open('/dashboard/usage')
  await page.getByRole('img', { name: /^vCPU hours by day: 0\.\d* h in all/ }).waitFor()
  await page.getByRole('img', { name: /^Running: now 0/ }).waitFor()
  await see(/^1 sandbox, /)
  await page.getByRole('link', { name: id }).waitFor()
  await check('usage')
  const downloading = page.waitForEvent('download')
  await page.getByRole('button', { name: 'Download CSV' }).click()
  const text = readFileSync(await (await downloading).path(), 'utf8')
  assert.match(text, /^sandboxID,executions,vcpuSeconds,memoryGiBSeconds\r\n/)
  assert.match(text, new RegExp(`^${id},[1-9]`, 'm'))
  await page.getByRole('combobox', { name: 'Time' }).click()
  await page.getByRole('option', { name: 'Last month' }).click()
  await see('Nothing was used in this time')
  await check('no-usage')
  await page.getByRole('combobox', { name: 'Time' }).click()
  await page.getByRole('option', { name: 'Last 24 hours' }).click()
  await page.getByRole('img', { name: /^vCPU hours by the hour/ }).waitFor()
  await page.reload()
  await page.getByRole('img', { name: /^vCPU hours by the hour/ }).waitFor()
  await page.keyboard.press('Control+k')
  await page.getByPlaceholder(/A page, a sandbox/).fill('drain')
  await page.keyboard.press('Enter')
  await page.waitForURL(/dashboard\/nodes$/)
})

browse('API keys', async () => {
  await open('/dashboard/keys')
  await page.getByRole('button', { name: 'New key' }).click()
  await page.getByLabel('Name', { exact: true }).fill('for a program')
  await page.getByLabel('Secrets', { exact: true }).uncheck()
  await page.getByLabel(/^API keys and webhooks/).uncheck()
  await page.getByLabel('Read-only').check()
  await page.getByLabel('Ends after (days)').fill('30')
  await check('new-key')
  await page.getByRole('button', { name: 'Create', exact: true }).click()
  const key = await page.getByText(/^e2b_[0-9a-f]{40}$/).textContent()
  await check('made-key')
  await page.getByRole('button', { name: 'Done' }).click()
  const { status, ask } = await sessionOf(key)
  assert.deepEqual([status, await ask('GET', '/v2/sandboxes'), await ask('GET', '/secrets')], [201, 200, 403])
  const known = (await api('GET', '/api-keys')).find(({ name }) => name === 'for a program')
  assert.deepEqual([known.scopes, known.readOnly, known.networks], [['sandboxes', 'templates'], true, []])
  assert.ok(Date.parse(known.expiresAt) - Date.now() > 29 * 86_400_000)
  await page.getByRole('button', { name: 'Rename for a program' }).click()
  await page.getByLabel('Name', { exact: true }).fill('for a robot')
  await page.getByRole('button', { name: 'Rename', exact: true }).click()
  await see('for a robot', { exact: true })
  await check('keys')
  await page.getByRole('button', { name: 'Delete for a robot' }).click()
  await page.getByRole('button', { name: 'Delete', exact: true }).click()
  await see('The key for a robot is deleted')
  assert.equal(await ask('GET', '/v2/sandboxes'), 401)
})

browse('templates, secrets, settings and the palette', async () => {
  await open('/dashboard/templates')
  await page.getByRole('link', { name: /^base/ }).click()
  await see('Builds')
  await see('This template came with Hearth')
  assert.equal(await page.getByRole('alert').count(), 0)
  await check('template')
  await open('/dashboard/secrets')
  await see('No secrets yet')
  await page.getByRole('button', { name: 'New secret' }).click()
  await page.getByLabel('Name').fill('token')
  await page.getByLabel('Value').fill('s3cret')
  await page.getByRole('button', { name: 'Save' }).click()
  await see('The secret is kept')
  await check('secrets')
  await page.keyboard.press('Control+k')
  await page.getByPlaceholder(/A page, a sandbox/).fill('dark')
  await page.keyboard.press('Enter')
  await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark')
  await open('/dashboard/settings')
  await see('E2B_DOMAIN')
  await check('settings')
  await page.getByRole('button', { name: 'Sign out' }).first().click()
  await see('Sign in to Hearth')
  assert.deepEqual(await context.cookies(), [])
  // Whoever may not operate nodes learns what it takes.
  const { id: keyID, key } = await api('POST', '/api-keys', { name: 'without nodes', scopes: ['sandboxes'] })
  await open('/dashboard/nodes')
  await page.getByLabel('API key').fill(key)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await see('Nodes are the operator')
  await check('no-nodes')
  await api('DELETE', `/api-keys/${keyID}`)
})

browse('no page complained, and none asked another host', () => {
  assert.deepEqual(complaints, [])
  assert.deepEqual(strangers, [])
})
