// Cells to scripts: TypeScript's types go, `import` becomes a call. Lines stay
// where they are, so that errors name the right ones.

import { parse } from 'acorn'
import { transform as strip } from 'sucrase'

const IMPORT = "globalThis[Symbol.for('hearth.kernel')].import"

const parsed = (code, sourceType) => {
  try {
    return parse(code, {
      ecmaVersion: 'latest',
      sourceType,
      allowAwaitOutsideFunction: true,
      allowHashBang: true,
    })
  } catch {
    return null
  }
}

const tree = (code) => parsed(code, 'module') ?? parsed(code, 'script')

function withoutTypes(code) {
  try {
    return strip(code, {
      transforms: ['typescript'],
      disableESTransforms: true,
      keepUnusedImports: true,
    }).code
  } catch {
    return null
  }
}

function* nodes(node) {
  yield node
  for (const child of Object.values(node)) {
    for (const item of Array.isArray(child) ? child : [child]) {
      if (item && typeof item.type === 'string') yield* nodes(item)
    }
  }
}

const nameOf = (node) => (node.type === 'Literal' ? node.raw : node.name)

function declaration(node) {
  const call = `await ${IMPORT}(${node.source.raw})`
  const names = []
  let whole = null
  for (const specifier of node.specifiers) {
    if (specifier.type === 'ImportNamespaceSpecifier') whole = specifier.local.name
    else if (specifier.type === 'ImportDefaultSpecifier') names.push(`default: ${specifier.local.name}`)
    else names.push(`${nameOf(specifier.imported)}: ${specifier.local.name}`)
  }
  const parts = []
  if (whole) parts.push(`const ${whole} = ${call};`)
  if (names.length > 0) parts.push(`const { ${names.join(', ')} } = ${whole ?? call};`)
  return parts.join(' ') || `${call};`
}

// Replacements for parts of the code, innermost last.
function edits(program) {
  const found = []
  for (const node of program.body) {
    if (node.type === 'ImportDeclaration') {
      found.push([node.start, node.end, declaration(node)])
    } else if (node.type === 'ExportNamedDeclaration') {
      found.push([node.start, node.declaration?.start ?? node.end, ''])
    } else if (node.type === 'ExportDefaultDeclaration') {
      found.push([node.start, node.declaration.start, ''])
    } else if (node.type === 'ExportAllDeclaration') {
      found.push([node.start, node.end, ''])
    }
  }
  for (const node of nodes(program)) {
    if (node.type === 'ImportExpression') {
      found.push([node.start, node.start + 'import'.length, IMPORT])
    }
  }
  return found.sort((a, b) => b[0] - a[0])
}

export function transform(code) {
  // An object, not a block, as in every REPL.
  if (/^\s*\{/.test(code) && !/;\s*$/.test(code) && parsed(`(${code}\n)`, 'script')) {
    code = `(${code}\n)`
  }
  let program = tree(code)
  if (!program) {
    const script = withoutTypes(code)
    program = script === null ? null : tree(script)
    // What neither reads is V8's to explain.
    if (!program) return code
    code = script
  }
  for (const [start, end, text] of edits(program)) {
    const lines = code.slice(start, end).split('\n').length - 1
    code = code.slice(0, start) + text + '\n'.repeat(lines) + code.slice(end)
  }
  return code
}
