// Which ports of a sandbox listen, from the kernel's tables, and where a browser finds them.

export interface Port {
  port: number;
  // Reachable from within alone.
  loopback: boolean;
}

// The agent's own.
const HIDDEN = new Set([49983]);
const LISTEN = '0A';

export function listening(tables: string): Port[] {
  const found = new Map<number, boolean>();
  for (const line of tables.split('\n')) {
    const [, local, , state] = line.trim().split(/\s+/);
    if (state !== LISTEN || !local) continue;
    const [address = '', hex = ''] = local.split(':');
    const port = Number.parseInt(hex, 16);
    if (!port || HIDDEN.has(port)) continue;
    const loopback = address === '0100007F' || /^0{24}01000000$/.test(address);
    found.set(port, (found.get(port) ?? true) && loopback);
  }
  return [...found].map(([port, loopback]) => ({ port, loopback })).sort((a, b) => a.port - b.port);
}

// The URL of a port: by this page's own port and scheme where the page has the domain, else
// as SDKs are told.
export function portUrl(port: number, id: string, domain: string, at: Pick<Location, 'protocol' | 'hostname' | 'port'>): string {
  const host = domain.split(':')[0] ?? domain;
  if (at.hostname === host) return `${at.protocol}//${port}-${id}.${host}${at.port ? `:${at.port}` : ''}`;
  return `https://${port}-${id}.${domain}`;
}
