import { afterEach, describe, expect, it, vi } from 'vitest';
import { client } from './client';
import { Unframer, envelope, fromBase64, toBase64 } from './connect';
import { eventFacts, eventType, eventTypes } from './events';
import { bytes, count, lines, pairs, span } from './format';
import { listening, portUrl } from './ports';
import { firstWebhook, mountVolume, readEvents } from './snippets';
import { isOver, hours, partName, parts, ranges, spanOf, usageCsv } from './usage';
import { content } from './volume';

describe('Connect streams', () => {
  it('are cut into messages wherever their chunks end', () => {
    const one = envelope({ event: { start: { pid: 7 } } });
    const two = envelope({});
    two[0] = 2;
    const stream = new Uint8Array([...one, ...two]);
    for (let size = 1; size <= stream.length; size += 1) {
      const unframer = new Unframer();
      const found = [];
      for (let at = 0; at < stream.length; at += size) found.push(...unframer.push(stream.subarray(at, at + size)));
      expect(found).toEqual([
        { end: false, message: { event: { start: { pid: 7 } } } },
        { end: true, message: {} },
      ]);
    }
  });
  it('carry any bytes', () => {
    const all = Uint8Array.from({ length: 20000 }, (_, at) => at % 256);
    expect(fromBase64(toBase64(all))).toEqual(all);
  });
});

describe('ports', () => {
  const tables = `  sl  local_address rem_address   st
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 00000000:0BB8 00000000:0000 0A 00000000:00000000
   2: 0100007F:0BB9 0100007F:C350 01 00000000:00000000
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A
   1: 00000000000000000000000000000000:C33F 00000000000000000000000000000000:0000 0A
   2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A`;
  it('are those that listen, without the agent’s', () => {
    expect(listening(tables)).toEqual([
      { port: 80, loopback: true },
      { port: 3000, loopback: false },
      { port: 8080, loopback: false },
    ]);
  });
  it('are reached as the page is, else as SDKs are told', () => {
    const at = { protocol: 'http:', hostname: 'localhost', port: '3000' };
    expect(portUrl(80, 'i1', 'localhost:3443', at)).toBe('http://80-i1.localhost:3000');
    expect(portUrl(80, 'i1', 'localhost:3443', { ...at, hostname: '10.0.0.1' })).toBe('https://80-i1.localhost:3443');
    expect(portUrl(80, 'i1', 'example.org', { protocol: 'https:', hostname: 'example.org', port: '' })).toBe('https://80-i1.example.org');
  });
});

describe('forms and figures', () => {
  it('reads lines of pairs and names the wrong one', () => {
    expect(pairs('a=1\n\n b = x=y ')).toEqual({ a: '1', b: 'x=y' });
    expect(() => pairs('a=1\nnonsense')).toThrow('nonsense');
    expect(lines(' a, b\nc\n')).toEqual(['a', 'b', 'c']);
  });
  it('writes sizes and spans', () => {
    expect([bytes(0), bytes(1536), bytes(512 * 1024 * 1024)]).toEqual(['0 B', '1.5 KiB', '512 MiB']);
    expect([span(0), span(65), span(3600), span(90061)]).toEqual(['0 s', '1 min 5 s', '1 h', '1 d 1 h']);
  });
});

describe('events', () => {
  it('are told in short facts', () => {
    expect(eventFacts({ eventData: { sandbox_metadata: { user: '7' }, kill_reason: 'timeout', execution: { started_at: '2026-01-01T00:00:00Z', vcpu_count: 2, execution_time: 1500 } } })).toEqual([
      ['kill reason', 'timeout'],
      ['vCPU', '2'],
      ['ran for', '1.5 s'],
    ]);
    expect(eventFacts({ eventData: { network_egress: { allowed_cidrs: [], denied_cidrs: ['10.0.0.0/8', '192.0.2.0/24'] } } })).toEqual([['denied cidrs', '10.0.0.0/8, 192.0.2.0/24']]);
    expect(eventFacts({ eventData: null })).toEqual([]);
  });
  it('of a type that is not known here have its name', () => {
    expect(eventType('sandbox.lifecycle.moved').label).toBe('sandbox.lifecycle.moved');
    expect(new Set(eventTypes.map(({ type }) => type)).size).toBe(eventTypes.length);
  });
  it('are read by commands that a shell takes', () => {
    for (const { Shell } of [readEvents('i0'), firstWebhook]) expect(Shell).toMatch(/ \\\n {2}"\$E2B_API_URL/);
    expect(mountVolume('data').Python).toContain('volume_mounts={"/mnt/data": "data"}');
  });
});

describe('counts', () => {
  it('have the right number', () => {
    expect([count(0, 'entry', 'entries'), count(1, 'entry', 'entries'), count(1200, 'entry', 'entries')]).toEqual(['0 entries', '1 entry', '1,200 entries']);
  });
});

describe('the content of volumes', () => {
  afterEach(() => {
    vi.unstubAllGlobals();
    client.clear();
  });
  // What was asked, and the answers one after the other.
  function answers(...given: Response[]) {
    const asked: [string, string, string | undefined][] = [];
    vi.stubGlobal('fetch', (url: string, { method, headers }: { method: string; headers: Record<string, string> }) => {
      asked.push([method, url, headers.Authorization]);
      return Promise.resolve(given.shift() as Response);
    });
    return asked;
  }
  const token = (value: string) => Response.json({ volumeID: 'v', name: 'data', token: value });

  it('is opened by a token that is asked for once, and anew when it is refused', async () => {
    const asked = answers(token('one'), Response.json([]), Response.json([]), new Response(null, { status: 401 }), token('two'), Response.json([]));
    await content.list('v', '/');
    await content.list('v', '/a b');
    await content.list('v', '/');
    expect(asked).toEqual([
      ['GET', '/volumes/v', undefined],
      ['GET', '/volumecontent/v/dir?path=%2F', 'Bearer one'],
      ['GET', '/volumecontent/v/dir?path=%2Fa%20b', 'Bearer one'],
      ['GET', '/volumecontent/v/dir?path=%2F', 'Bearer one'],
      ['GET', '/volumes/v', undefined],
      ['GET', '/volumecontent/v/dir?path=%2F', 'Bearer two'],
    ]);
  });
  it('says what to do when there is no room', async () => {
    answers(token('one'), Response.json({ code: 'NOT_ENOUGH_SPACE', message: 'full' }, { status: 507 }));
    await expect(content.write('v', '/x', new Blob(['x']), false)).rejects.toThrow(/Delete something first/);
  });
  it('is replaced only where that was asked for', async () => {
    const asked = answers(token('one'), new Response(null, { status: 201 }), new Response(null, { status: 201 }));
    await content.write('v', '/x', new Blob(['x']), false);
    await content.write('v', '/x', new Blob(['x']), true);
    expect(asked.map(([, url]) => url)).toEqual(['/volumes/v', '/volumecontent/v/file?path=%2Fx', '/volumecontent/v/file?path=%2Fx&force=true']);
  });
});

describe('usage', () => {
  afterEach(() => vi.unstubAllGlobals());
  const at = (time: string) => Date.parse(time) / 1000;
  const now = Date.parse('2026-03-01T10:20:30Z');

  it('is asked for by hours and days of UTC', () => {
    expect(spanOf('day', now)).toEqual({ start: at('2026-02-28T11:00:00Z'), end: at('2026-03-01T11:00:00Z') });
    expect(spanOf('week', now)).toEqual({ start: at('2026-02-23T00:00:00Z'), end: at('2026-03-02T00:00:00Z') });
    expect(spanOf('month', now)).toEqual({ start: at('2026-03-01T00:00:00Z'), end: at('2026-04-01T00:00:00Z') });
    expect(spanOf('before', now)).toEqual({ start: at('2026-02-01T00:00:00Z'), end: at('2026-03-01T00:00:00Z') });
    expect(spanOf('before', Date.parse('2026-01-31T23:59:59Z'))).toEqual({ start: at('2025-12-01T00:00:00Z'), end: at('2026-01-01T00:00:00Z') });
  });
  it('comes in parts without a gap, up to the one that runs', () => {
    expect(ranges.map((range) => parts(range, spanOf(range, now), now).length)).toEqual([24, 7, 1, 28]);
    for (const range of ranges) {
      const span = spanOf(range, now);
      const all = parts(range, span, now);
      expect([all[0]?.start, all.slice(1).map(({ start }) => start)]).toEqual([span.start, all.slice(0, -1).map(({ end }) => end)]);
      expect(all.filter((part) => isOver(part, now)).length).toBe(range === 'before' ? 28 : all.length - 1);
    }
    expect([partName('day', { start: at('2026-02-28T11:00:00Z'), end: 0 }), partName('week', { start: at('2026-02-23T00:00:00Z'), end: 0 })]).toEqual(['11:00', '23 Feb']);
  });
  it('is written in hours', () => {
    expect([hours(0), hours(36), hours(360), hours(5400), hours(3_600_000)]).toEqual(['0.0 h', '0.01 h', '0.1 h', '1.5 h', '1,000 h']);
  });
  it('is one file, whatever its pages', async () => {
    const asked: string[] = [];
    const pages = [
      new Response('sandboxID,executions\r\ni1,1\r\n', { headers: { 'X-Next-Token': 'i1' } }),
      new Response('sandboxID,executions\r\ni2,3\r\n'),
    ];
    vi.stubGlobal('fetch', (url: string) => {
      asked.push(url);
      return Promise.resolve(pages.shift() as Response);
    });
    expect(await usageCsv({ start: 1, end: 2 })).toBe('sandboxID,executions\r\ni1,1\r\ni2,3\r\n');
    expect(asked).toEqual(['/usage/sandboxes?start=1&end=2&format=csv&limit=1000', '/usage/sandboxes?start=1&end=2&format=csv&limit=1000&nextToken=i1']);
  });
});
