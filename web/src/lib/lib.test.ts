import { describe, expect, it } from 'vitest';
import { Unframer, envelope, fromBase64, toBase64 } from './connect';
import { bytes, lines, pairs, span } from './format';
import { listening, portUrl } from './ports';

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
