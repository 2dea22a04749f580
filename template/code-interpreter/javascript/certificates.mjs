// Node.js reads NODE_EXTRA_CA_CERTS when it starts. This kernel starts before its sandbox
// is anybody's and learns the sandbox's variables later, so it takes them in by itself.

import { readFileSync } from 'node:fs'
import process from 'node:process'

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

let applied = process.env.NODE_EXTRA_CA_CERTS
let usual

// Trusts the authorities of the file that the variable names now, beside the usual ones,
// in connections made from here on. What cannot be read is a warning, as Node.js has it.
export function trustExtraAuthorities() {
  const file = process.env.NODE_EXTRA_CA_CERTS
  if (file === applied) return
  applied = file
  const tls = process.getBuiltinModule('node:tls')
  try {
    usual ??= tls.getCACertificates('default')
    const extra = file ? (readFileSync(file, 'utf8').match(CERTIFICATE) ?? []) : []
    tls.setDefaultCACertificates([...usual, ...extra])
  } catch (error) {
    process.emitWarning(`Ignoring extra certs from \`${file}\`: ${error.message}`)
  }
}
