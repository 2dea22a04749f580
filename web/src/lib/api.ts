// Requests to the API by the session: the browser sends the cookie, `X-Hearth-Web` says
// that a page of this origin asks.

export const MARK = { 'X-Hearth-Web': '1' };

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

// Called when the server no longer knows the session.
let onSignedOut = () => {};
export function whenSignedOut(callback: () => void) {
  onSignedOut = callback;
}

export async function failure(response: Response): Promise<ApiError> {
  let message = `The server answered ${response.status}`;
  try {
    const body = await response.json();
    if (typeof body.message === 'string' && body.message) message = body.message;
  } catch {
    // No JSON: the status has to do.
  }
  if (response.status === 429) message += ' – wait a moment and try again';
  return new ApiError(response.status, message);
}

export async function request(method: string, path: string, body?: unknown): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: { Accept: 'application/json', ...MARK, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'same-origin',
    });
  } catch {
    throw new ApiError(0, 'Hearth cannot be reached. Check that it runs and that you are connected; this page tries again by itself.');
  }
  if (response.status === 401 && !path.startsWith('/web/session')) onSignedOut();
  if (!response.ok) throw await failure(response);
  return response;
}

async function json<T>(response: Response): Promise<T> {
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

export const api = {
  get: async <T>(path: string) => json<T>(await request('GET', path)),
  post: async <T = void>(path: string, body?: unknown) => json<T>(await request('POST', path, body)),
  put: async <T = void>(path: string, body?: unknown) => json<T>(await request('PUT', path, body)),
  patch: async <T = void>(path: string, body?: unknown) => json<T>(await request('PATCH', path, body)),
  delete: async <T = void>(path: string, body?: unknown) => json<T>(await request('DELETE', path, body)),
};

// Follows X-Next-Token to the end, within a bound.
export async function all<T>(path: string, most = 2000): Promise<T[]> {
  const items: T[] = [];
  let next: string | null = null;
  do {
    const join = path.includes('?') ? '&' : '?';
    const response = await request('GET', next ? `${path}${join}nextToken=${encodeURIComponent(next)}` : path);
    items.push(...(await json<T[]>(response)));
    next = response.headers.get('X-Next-Token');
  } while (next && items.length < most);
  return items;
}

export const enc = encodeURIComponent;
