// The content of volumes. It is opened by a token of its own, good for one volume and one
// hour, which the API gives to the session.
import { ApiError, api, enc, failure } from './api';
import { client } from './client';
import type { VolumeEntry } from './types';

// Asked for anew well before the hour is over. It goes with everything else of the team when
// the session ends.
const KEPT_MS = 40 * 60_000;

const token = (id: string, fresh: boolean) =>
  client.fetchQuery({
    queryKey: ['volume-token', id],
    queryFn: async () => (await api.get<{ token: string }>(`/volumes/${enc(id)}`)).token,
    staleTime: fresh ? 0 : KEPT_MS,
    gcTime: KEPT_MS,
  });

async function explain(response: Response): Promise<ApiError> {
  if (response.status === 507) return new ApiError(507, 'There is no room: the volume has reached its limit, or the disk of the host is full. Delete something first');
  return failure(response);
}

async function ask(id: string, method: string, what: string, body?: Blob): Promise<Response> {
  const send = async (fresh: boolean) =>
    fetch(`/volumecontent/${enc(id)}/${what}`, {
      method,
      headers: { Authorization: `Bearer ${await token(id, fresh)}`, ...(body ? { 'Content-Type': 'application/octet-stream' } : {}) },
      body,
      credentials: 'omit',
    });
  let response = await send(false);
  // The token is of a key that is no more, or the daemon has begun anew.
  if (response.status === 401) response = await send(true);
  if (!response.ok) throw await explain(response);
  return response;
}

const at = (kind: string, path: string, more = '') => `${kind}?path=${enc(path)}${more}`;

export const content = {
  list: async (id: string, path: string) => (await ask(id, 'GET', at('dir', path))).json() as Promise<VolumeEntry[]>,
  makeFolder: (id: string, path: string) => ask(id, 'POST', at('dir', path)),
  remove: (id: string, path: string) => ask(id, 'DELETE', at('path', path)),
  // What is there is replaced only where that was asked for.
  write: (id: string, path: string, body: Blob, replace: boolean) => ask(id, 'PUT', at('file', path, replace ? '&force=true' : ''), body),
  read: async (id: string, path: string) => (await ask(id, 'GET', at('file', path))).blob(),
};
