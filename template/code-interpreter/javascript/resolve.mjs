// `import` as a program in the working directory would see it, not as this kernel.

import { createRequire, isBuiltin } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const CONDITIONS = ['node', 'import', 'default']

const target = (entry) => {
  if (typeof entry === 'string') return entry
  if (Array.isArray(entry)) return entry.map(target).find(Boolean)
  if (entry && typeof entry === 'object') {
    for (const [condition, inner] of Object.entries(entry)) {
      const found = CONDITIONS.includes(condition) && target(inner)
      if (found) return found
    }
  }
  return undefined
}

// The file of a package that has an entry for modules, which `require` refuses.
function exported(directory, specifier) {
  const parts = specifier.split('/')
  const name = parts.splice(0, specifier.startsWith('@') ? 2 : 1).join('/')
  const path = parts.length > 0 ? `./${parts.join('/')}` : '.'
  for (let at = directory; ; at = dirname(at)) {
    const root = join(at, 'node_modules', name)
    const manifest = join(root, 'package.json')
    if (existsSync(manifest)) {
      const { exports } = JSON.parse(readFileSync(manifest, 'utf8'))
      const keyed = exports && typeof exports === 'object' && Object.keys(exports)[0]?.startsWith('.')
      const file = target(keyed ? exports[path] : path === '.' ? exports : undefined)
      return file && join(root, file)
    }
    if (at === dirname(at)) return undefined
  }
}

export function importFrom(directory, specifier) {
  specifier = String(specifier)
  if (isBuiltin(specifier) || /^(node|data|file):/.test(specifier)) return import(specifier)
  if (/^\.{0,2}\//.test(specifier)) {
    return import(new URL(specifier, pathToFileURL(`${directory}/`)))
  }
  const file = exported(directory, specifier)
  if (file) return import(pathToFileURL(file))
  return import(pathToFileURL(createRequire(`${directory}/cell.js`).resolve(specifier)))
}
