// The agent of a sandbox, through this origin: files and processes.
import { ApiError, MARK, enc, failure } from './api';
import { type ConnectFault, Unframer, envelope, toBase64 } from './connect';

const base = (id: string) => `/web/agent/${enc(id)}`;

export interface FileEntry {
  name: string;
  path: string;
  type?: string;
  size?: string | number;
  permissions?: string;
  owner?: string;
  modifiedTime?: string;
  symlinkTarget?: string;
}

export const isFolder = (entry: FileEntry) => entry.type === 'FILE_TYPE_DIRECTORY';

async function call<T>(id: string, method: string, body: unknown): Promise<T> {
  const response = await fetch(`${base(id)}/${method}`, {
    method: 'POST',
    headers: { ...MARK, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await explain(response);
  return (await response.json()) as T;
}

async function explain(response: Response): Promise<ApiError> {
  if (response.status === 502) return new ApiError(502, 'The sandbox does not run: resume it first');
  if (response.status === 507) return new ApiError(507, 'The disk of the sandbox is full: delete something first');
  return failure(response);
}

export const files = {
  list: async (id: string, path: string) =>
    (await call<{ entries?: FileEntry[] }>(id, 'filesystem.Filesystem/ListDir', { path, depth: 1 })).entries ?? [],
  stat: async (id: string, path: string) =>
    (await call<{ entry: FileEntry }>(id, 'filesystem.Filesystem/Stat', { path })).entry,
  makeFolder: (id: string, path: string) => call(id, 'filesystem.Filesystem/MakeDir', { path }),
  remove: (id: string, path: string) => call(id, 'filesystem.Filesystem/Remove', { path }),
  move: (id: string, source: string, destination: string) =>
    call(id, 'filesystem.Filesystem/Move', { source, destination }),
  url: (id: string, path: string) => `${base(id)}/files?path=${enc(path)}`,
  read: async (id: string, path: string) => {
    const response = await fetch(files.url(id, path), { headers: MARK });
    if (!response.ok) throw await explain(response);
    return response.blob();
  },
  write: async (id: string, path: string, body: Blob | string) => {
    const response = await fetch(files.url(id, path), {
      method: 'POST',
      headers: { ...MARK, 'Content-Type': 'application/octet-stream' },
      body,
    });
    if (!response.ok) throw await explain(response);
  },
};

interface ProcessEvent {
  event?: {
    start?: { pid: number };
    data?: { stdout?: string; stderr?: string; pty?: string };
    end?: { exitCode?: number; status?: string; error?: string };
  };
}

interface Start {
  cmd: string;
  args: string[];
  envs?: Record<string, string>;
  size?: { cols: number; rows: number };
}

// Starts a process and hands on its events until it ends or `signal` fires.
export async function start(id: string, what: Start, signal: AbortSignal, handle: (event: NonNullable<ProcessEvent['event']>) => void) {
  const message = {
    process: { cmd: what.cmd, args: what.args, envs: what.envs ?? {} },
    ...(what.size ? { pty: { size: what.size } } : { stdin: false }),
  };
  const response = await fetch(`${base(id)}/process.Process/Start`, {
    method: 'POST',
    headers: { ...MARK, 'Content-Type': 'application/connect+json', 'Connect-Protocol-Version': '1', 'Keepalive-Ping-Interval': '30' },
    body: envelope(message),
    signal,
  });
  if (!response.ok || !response.body) throw await explain(response);
  const reader = response.body.getReader();
  const unframer = new Unframer();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    for (const { end, message } of unframer.push(value)) {
      if (end) {
        const fault = (message as { error?: ConnectFault }).error;
        if (fault) throw new ApiError(502, fault.message ?? fault.code ?? 'The process could not be started');
        return;
      }
      const { event } = message as ProcessEvent;
      if (event) handle(event);
    }
  }
}

export const pty = {
  input: (id: string, pid: number, bytes: Uint8Array) =>
    call(id, 'process.Process/SendInput', { process: { pid }, input: { pty: toBase64(bytes) } }),
  resize: (id: string, pid: number, size: { cols: number; rows: number }) =>
    call(id, 'process.Process/Update', { process: { pid }, pty: { size } }),
  // Also while the page is being left.
  kill: (id: string, pid: number) =>
    fetch(`${base(id)}/process.Process/SendSignal`, {
      method: 'POST',
      headers: { ...MARK, 'Content-Type': 'application/json' },
      body: JSON.stringify({ process: { pid }, signal: 'SIGNAL_SIGKILL' }),
      keepalive: true,
    }).catch(() => undefined),
};
