// The kernel's side of Jupyter's messaging protocol 5, in a thread of its own.

import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { Session } from 'node:inspector'
import process from 'node:process'
import { receiveMessageOnPort, workerData } from 'node:worker_threads'
import zmq from 'zeromq'
import { transform } from './transform.mjs'

const { connectionFile, output, cells, outstanding } = workerData
const connection = JSON.parse(readFileSync(connectionFile, 'utf8'))
const DELIMITER = '<IDS|MSG>'
const SESSION = randomUUID()
// How long the user's thread may take to show that it is not stuck.
const PULSE_MS = 300

// Sockets send one message at a time; whoever comes meanwhile waits in line.
class Line {
  constructor(socket) {
    this.socket = socket
    this.last = Promise.resolve()
  }

  send(frames) {
    this.last = this.last.then(() => this.socket.send(frames)).catch(() => {})
    return this.last
  }
}

const sign = (parts) => {
  const mac = createHmac('sha256', connection.key)
  for (const part of parts) mac.update(part)
  return mac.digest('hex')
}

function frames(kind, content, parent) {
  const header = {
    msg_id: randomUUID(),
    msg_type: kind,
    username: 'kernel',
    session: SESSION,
    date: new Date().toISOString(),
    version: '5.3',
  }
  const parts = [header, parent?.header ?? {}, {}, content].map((part) => JSON.stringify(part))
  return [DELIMITER, sign(parts), ...parts]
}

function read(message) {
  const start = message.findIndex((frame) => frame.toString() === DELIMITER)
  if (start < 0 || message.length < start + 6) return null
  const [signature, ...parts] = message.slice(start + 1, start + 6)
  const expected = Buffer.from(sign(parts))
  if (signature.length !== expected.length || !timingSafeEqual(signature, expected)) return null
  const [header, , , content] = parts.map((part) => JSON.parse(part.toString()))
  return { identities: message.slice(0, start), header, content }
}

const shell = new zmq.Router()
const control = new zmq.Router()
const stdin = new zmq.Router()
// Nothing is dropped for a slow reader: sending waits, and so does the user's code.
const iopub = new zmq.Publisher({ noDrop: true, sendHighWaterMark: 100 })
const heartbeat = new zmq.Reply()
const lines = new Map([shell, control, iopub].map((socket) => [socket, new Line(socket)]))

const publish = (kind, content, parent) => lines.get(iopub).send([kind, ...frames(kind, content, parent)])
const reply = (socket, request, kind, content) =>
  lines.get(socket).send([...request.identities, ...frames(kind, content, request)])

// The user's thread. Cells are evaluated there; terminating one goes past its event
// loop, through the inspector.

const session = new Session()
session.connectToMainThread()
const waiting = new Map()
let questions = 0

// Cancelled, it stays unanswered.
function ask(message) {
  const id = (questions += 1)
  let cancel
  const answer = new Promise((resolve) => {
    cancel = (instead) => waiting.delete(id) && resolve(instead)
    waiting.set(id, resolve)
  })
  cells.postMessage({ id, ...message })
  return { answer, cancel }
}

cells.on('message', ({ id, ...answer }) => {
  waiting.get(id)?.(answer)
  waiting.delete(id)
})

// Output of the user's thread.

let current = null
let executionCount = 0

function collect(first) {
  const messages = first ? [first] : []
  for (let next; (next = receiveMessageOnPort(output)); ) messages.push(next.message)
  return messages
}

async function forward(first) {
  const parent = current
  let streamed = null
  const flush = async () => {
    if (!streamed) return
    const { name, text, size } = streamed
    streamed = null
    if (!parent?.silent) await publish('stream', { name, text }, parent)
    Atomics.sub(outstanding, 0, size)
    Atomics.notify(outstanding, 0)
  }
  for (const message of collect(first)) {
    if (message.kind === 'stream') {
      if (streamed && (streamed.name !== message.name || streamed.size > 1 << 16)) await flush()
      streamed ??= { name: message.name, text: '', size: 0 }
      streamed.text += message.text
      streamed.size += message.size
    } else if (message.kind === 'display') {
      await flush()
      const kind = message.update ? 'update_display_data' : 'display_data'
      const transient = message.id === undefined ? {} : { display_id: message.id }
      await publish(kind, { data: message.data, metadata: {}, transient }, parent)
    }
  }
  await flush()
}

// One after the other, so that output keeps its order.
let forwarding = Promise.resolve()
const forwardNext = (first) => (forwarding = forwarding.then(() => forward(first)))
output.on('message', (message) => forwardNext(message))

// Interrupts.

let running = null
const interrupted = {
  ename: 'Interrupted',
  evalue: 'the execution was interrupted',
  traceback: ['Interrupted: the execution was interrupted'],
}

async function turns() {
  const { answer, cancel } = ask({})
  const timer = setTimeout(() => cancel(null), PULSE_MS)
  const turned = (await answer) !== null
  clearTimeout(timer)
  return turned
}

// Programs that the code waits for hear of it as from a terminal.
function interruptChildren() {
  for (const task of readdirSync('/proc/self/task')) {
    try {
      const children = readFileSync(`/proc/self/task/${task}/children`, 'utf8')
      for (const child of children.split(' ').filter(Boolean)) process.kill(Number(child), 'SIGINT')
    } catch {
      // It is gone.
    }
  }
}

async function interrupt() {
  const cell = running
  interruptChildren()
  if (!cell) return
  // Code that waits is left waiting; code that runs is terminated.
  if (!(await turns()) && running === cell) session.post('Runtime.terminateExecution')
  cell.cancel({ outcome: { error: interrupted } })
}

// Requests.

async function evaluate({ content }) {
  const expression = `${transform(content.code)}\n//# sourceURL=cell-${executionCount}.js`
  running = ask({ expression })
  const { outcome } = await running.answer
  running = null
  return outcome
}

async function execute(request) {
  const { silent } = request.content
  const counted = !silent && request.content.store_history !== false
  if (counted) executionCount += 1
  current = { ...request, silent }
  if (!silent) {
    await publish('execute_input', { code: request.content.code, execution_count: executionCount }, request)
  }
  let outcome
  try {
    outcome = await evaluate(request)
  } catch (error) {
    outcome = { error: { ename: 'Error', evalue: error.message, traceback: [error.message] } }
  }
  // What it wrote has been posted by now.
  await forwardNext()
  if (outcome.error && !silent) await publish('error', outcome.error, request)
  if (outcome.data && !silent) {
    await publish('execute_result', { data: outcome.data, metadata: {}, execution_count: executionCount }, request)
  }
  const status = outcome.error ? { status: 'error', ...outcome.error } : { status: 'ok', payload: [], user_expressions: {} }
  await reply(shell, request, 'execute_reply', { ...status, execution_count: executionCount })
}

const info = {
  status: 'ok',
  protocol_version: '5.3',
  implementation: 'hearth',
  implementation_version: '1',
  language_info: {
    name: 'javascript',
    version: process.versions.node,
    mimetype: 'application/javascript',
    file_extension: '.js',
  },
  banner: 'JavaScript and TypeScript',
}

const handlers = {
  execute_request: execute,
  kernel_info_request: (request, socket) => reply(socket, request, 'kernel_info_reply', info),
  comm_info_request: (request, socket) => reply(socket, request, 'comm_info_reply', { status: 'ok', comms: {} }),
  interrupt_request: async (request, socket) => {
    await interrupt()
    await reply(socket, request, 'interrupt_reply', { status: 'ok' })
  },
  shutdown_request: async (request, socket) => {
    await reply(socket, request, 'shutdown_reply', { status: 'ok', restart: false })
    process.kill(process.pid, 'SIGKILL')
  },
}

async function serve(socket) {
  for await (const message of socket) {
    const request = read(message)
    const handler = request && handlers[request.header.msg_type]
    if (!handler) continue
    await publish('status', { execution_state: 'busy' }, request)
    try {
      await handler(request, socket)
    } catch (error) {
      await publish('stream', { name: 'stderr', text: `[kernel: ${error.message}]\n` }, request)
    }
    await publish('status', { execution_state: 'idle' }, request)
  }
}

async function echo() {
  for await (const frames of heartbeat) await heartbeat.send(frames)
}

const address = (port) => `${connection.transport}://${connection.ip}:${port}`
await iopub.bind(address(connection.iopub_port))
await heartbeat.bind(address(connection.hb_port))
await stdin.bind(address(connection.stdin_port))
await control.bind(address(connection.control_port))
await shell.bind(address(connection.shell_port))
serve(shell)
serve(control)
echo()
