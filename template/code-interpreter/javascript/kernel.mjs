// A Jupyter kernel for JavaScript and TypeScript.
//
// The user's code runs on this thread, as if it were a program of its own, and is
// evaluated by the inspector: V8's own REPL mode gives top-level await,
// redeclaration of `let` and `const` and the value of the last expression. The
// protocol runs in a worker (protocol.mjs), so that the kernel answers, streams
// output and can be interrupted even while this thread is stuck in a loop.

import { Worker, MessageChannel } from 'node:worker_threads'
import { Session } from 'node:inspector'
import { createRequire } from 'node:module'
import process from 'node:process'
import { trustExtraAuthorities } from './certificates.mjs'
import { kernelSide, KERNEL } from './display.mjs'
import { importFrom } from './resolve.mjs'

// Characters of output that may be on their way to the worker.
const MAX_OUTSTANDING = 8 << 20

const connectionFile = process.argv[2]
if (!connectionFile) {
  console.error('usage: kernel.mjs CONNECTION_FILE')
  process.exit(2)
}

const output = new MessageChannel()
const cells = new MessageChannel()
const outstanding = new Int32Array(new SharedArrayBuffer(4))

// Waits while the worker lags behind: a flood of output costs time, not memory.
function emit(message, size) {
  Atomics.add(outstanding, 0, size)
  output.port1.postMessage({ ...message, size })
  for (;;) {
    const waiting = Atomics.load(outstanding, 0)
    if (waiting <= MAX_OUTSTANDING) return
    Atomics.wait(outstanding, 0, waiting, 1000)
  }
}

// Small writes travel together, unless there was none for a while: a loop that
// never lets the event loop turn is heard all the same.
const TOGETHER = 1 << 14
const PAUSE_MS = 20
let pending = null
let scheduled = false
let flushedAt = 0

function flush() {
  if (!pending) return
  const message = pending
  pending = null
  flushedAt = performance.now()
  emit(message, message.text.length)
}

function write(name, text) {
  if (pending && pending.name !== name) flush()
  pending ??= { kind: 'stream', name, text: '' }
  pending.text += text
  if (pending.text.length >= TOGETHER || performance.now() - flushedAt > PAUSE_MS) {
    flush()
  } else if (!scheduled) {
    scheduled = true
    setImmediate(() => {
      scheduled = false
      flush()
    })
  }
}

function redirect(stream, name) {
  stream.write = (chunk, encoding, callback) => {
    if (typeof encoding === 'function') callback = encoding
    const text = typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8')
    if (text.length > 0) write(name, text)
    if (callback) process.nextTick(callback)
    return true
  }
}

const worker = new Worker(new URL('./protocol.mjs', import.meta.url), {
  workerData: { connectionFile, output: output.port2, cells: cells.port2, outstanding },
  transferList: [output.port2, cells.port2],
  // What the worker itself says must not come back as the user's output.
  stdout: true,
  stderr: true,
})
worker.on('error', () => process.reallyExit(1))
worker.on('exit', () => process.reallyExit(0))

redirect(process.stdout, 'stdout')
redirect(process.stderr, 'stderr')

const report = (error) => {
  process.stderr.write(`Uncaught ${error?.stack ?? String(error)}\n`)
}
process.on('uncaughtException', report)
process.on('unhandledRejection', report)

// An orderly exit would wait for a worker that never ends.
process.exit = (code) => process.reallyExit(code ?? process.exitCode ?? 0)
process.argv.splice(1)
globalThis.require = createRequire(`${process.cwd()}/cell.js`)
const side = kernelSide((message) => {
  flush()
  emit(message, 0)
}, importFrom)
Object.defineProperty(globalThis, KERNEL, { value: side.kernel, enumerable: false })
Object.defineProperty(globalThis, '$$', { value: side.shorthand, enumerable: false, writable: true })

// Cells, and the question whether this thread turns at all.

const session = new Session()
session.connect()
const ask = (method, params) =>
  new Promise((resolve, reject) => {
    session.post(method, params, (error, result) => (error ? reject(error) : resolve(result)))
  })
const { result: self } = await ask('Runtime.evaluate', {
  expression: "globalThis[Symbol.for('hearth.kernel')]",
})

async function onKernel(name, { objectId, unserializableValue, value }) {
  const argument = objectId ? { objectId } : unserializableValue ? { unserializableValue } : { value }
  const { result, exceptionDetails } = await ask('Runtime.callFunctionOn', {
    objectId: self.objectId,
    functionDeclaration: `function(value) { return this.${name}(value) }`,
    arguments: [argument],
    awaitPromise: true,
    returnByValue: true,
  })
  if (objectId) session.post('Runtime.releaseObject', { objectId })
  if (exceptionDetails) {
    throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text)
  }
  return result.value
}

async function evaluate(expression) {
  const { result, exceptionDetails } = await ask('Runtime.evaluate', {
    expression,
    replMode: true,
    awaitPromise: true,
  })
  if (exceptionDetails) {
    const { exception, text } = exceptionDetails
    return { error: exception ? await onKernel('failure', exception) : side.kernel.failure(text) }
  }
  return result.type === 'undefined' ? {} : { data: await onKernel('bundle', result) }
}

cells.port1.on('message', ({ id, expression }) => {
  if (expression === undefined) {
    cells.port1.postMessage({ id })
    return
  }
  trustExtraAuthorities()
  evaluate(expression)
    .catch((error) => ({ error: side.kernel.failure(error) }))
    .then((outcome) => {
      flush()
      cells.port1.postMessage({ id, outcome })
    })
})
