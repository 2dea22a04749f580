// Connect's streams (https://connectrpc.com/docs/protocol) in JSON: each message has a byte
// of flags and four of length before it; the last one, flagged 2, tells how it ended.

const END = 2;

export function envelope(message: unknown): Uint8Array<ArrayBuffer> {
  const body = new TextEncoder().encode(JSON.stringify(message));
  const framed = new Uint8Array(5 + body.length);
  new DataView(framed.buffer).setUint32(1, body.length);
  framed.set(body, 5);
  return framed;
}

export interface ConnectFault {
  code?: string;
  message?: string;
}

// Cuts a stream of bytes into messages, wherever its chunks end.
export class Unframer {
  private rest: Uint8Array = new Uint8Array();

  push(chunk: Uint8Array): { end: boolean; message: unknown }[] {
    const joined = new Uint8Array(this.rest.length + chunk.length);
    joined.set(this.rest);
    joined.set(chunk, this.rest.length);
    const found = [];
    let at = 0;
    while (joined.length - at >= 5) {
      const length = new DataView(joined.buffer, joined.byteOffset + at + 1).getUint32(0);
      if (joined.length - at - 5 < length) break;
      const text = new TextDecoder().decode(joined.subarray(at + 5, at + 5 + length));
      found.push({ end: ((joined[at] ?? 0) & END) !== 0, message: text ? JSON.parse(text) : {} });
      at += 5 + length;
    }
    this.rest = joined.slice(at);
    return found;
  }
}

export function toBase64(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
