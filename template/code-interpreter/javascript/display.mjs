// What the user's thread offers to the protocol: values as MIME bundles, errors as
// Jupyter knows them, and a way to display.

import { inspect } from 'node:util'

export const KERNEL = Symbol.for('hearth.kernel')
const JUPYTER = Symbol.for('Jupyter.display')

// Methods by which objects show themselves, as in other JavaScript kernels.
const METHODS = [
  ['_toHtml', 'text/html'],
  ['_toSvg', 'image/svg+xml'],
  ['_toPng', 'image/png'],
  ['_toJpeg', 'image/jpeg'],
]

const method = (value, name) => {
  try {
    return value != null && typeof value[name] === 'function' ? value[name].bind(value) : null
  } catch {
    return null
  }
}

const jsonOf = (value) => {
  const proto = Object.getPrototypeOf(value)
  const plain = proto === Object.prototype || proto === null || Array.isArray(value)
  if (!plain) return undefined
  try {
    return JSON.parse(JSON.stringify(value))
  } catch {
    return undefined
  }
}

async function bundle(value) {
  const own = method(value, JUPYTER)
  if (own) return await own()
  const custom = method(value, '_toMime')
  if (custom) return await custom()
  const data = { 'text/plain': inspect(value, { depth: 4, maxArrayLength: 200 }) }
  for (const [name, mime] of METHODS) {
    const show = method(value, name)
    if (show) data[mime] = String(await show())
  }
  if (value !== null && typeof value === 'object') {
    const json = jsonOf(value)
    if (json !== undefined) data['application/json'] = json
  }
  return data
}

// Below the user's first frame there is only this kernel.
function userFrames(lines) {
  const ours = lines.findIndex((line) => /^ +at .*(node:inspector|\/kernel\.mjs)/.test(line))
  return ours > 0 ? lines.slice(0, ours) : lines
}

function failure(error) {
  if (error instanceof Error || (error && typeof error.stack === 'string')) {
    const value = String(error.message ?? '')
    return {
      ename: String(error.name ?? 'Error'),
      evalue: value,
      traceback: userFrames(String(error.stack ?? value).split('\n')),
    }
  }
  const text = typeof error === 'string' ? error : inspect(error)
  return { ename: 'Error', evalue: text, traceback: [`Uncaught ${text}`] }
}

export function kernelSide(emit, importFrom) {
  const show = (data, id, update = false) => emit({ kind: 'display', data, id, update })
  const kernel = {
    bundle,
    failure,
    import: (specifier) => importFrom(process.cwd(), specifier),
  }
  const as = (mime) => (content) => show({ [mime]: content })
  const shorthand = {
    text: as('text/plain'),
    html: as('text/html'),
    markdown: as('text/markdown'),
    svg: as('image/svg+xml'),
    png: as('image/png'),
    jpeg: as('image/jpeg'),
    json: as('application/json'),
    mime: (data) => show(data),
    // A display that can be changed later: `$$.display('id').html(...)`.
    display(id) {
      let shown = false
      const put = (data) => {
        show(data, String(id), shown)
        shown = true
      }
      return {
        text: (text) => put({ 'text/plain': text }),
        html: (html) => put({ 'text/html': html }),
        mime: put,
      }
    },
  }
  return { kernel, shorthand }
}
