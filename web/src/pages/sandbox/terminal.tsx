// A shell in the sandbox: a pseudo-terminal of the agent's, shown by xterm.js.
import { FitAddon } from '@xterm/addon-fit';
import { WebLinksAddon } from '@xterm/addon-web-links';
import { Terminal as Xterm } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import { useEffect, useRef, useState } from 'react';
import { Button, Card, errorText } from '../../components/ui';
import { pty, start } from '../../lib/agent';
import { fromBase64 } from '../../lib/connect';
import { useDark } from '../../lib/theme';

const themes = {
  dark: { background: '#171413', foreground: '#f5f3f1', cursor: '#fb923c', selectionBackground: '#5b3a22' },
  light: { background: '#ffffff', foreground: '#1c1917', cursor: '#b3400f', selectionBackground: '#fbd0b0', yellow: '#854d0e', brightYellow: '#854d0e', green: '#166534', brightGreen: '#15803d', cyan: '#155e75', brightCyan: '#0e7490', white: '#57534e', brightWhite: '#1c1917' },
};

// What is typed goes out in order: what comes while a message is under way goes with the
// next one.
function sender(id: string, pid: number, failed: (error: unknown) => void) {
  let waiting: Uint8Array[] = [];
  let busy = false;
  return async (bytes: Uint8Array) => {
    waiting.push(bytes);
    if (busy) return;
    busy = true;
    try {
      while (waiting.length) {
        const some = new Uint8Array(waiting.reduce((sum, each) => sum + each.length, 0));
        waiting.reduce((at, each) => (some.set(each, at), at + each.length), 0);
        waiting = [];
        await pty.input(id, pid, some);
      }
    } catch (error) {
      waiting = [];
      failed(error);
    } finally {
      busy = false;
    }
  };
}

export default function Terminal({ id, shown }: { id: string; shown: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const screen = useRef<{ xterm: Xterm; fit: FitAddon } | null>(null);
  const [round, setRound] = useState(0);
  const [ended, setEnded] = useState<string | null>(null);
  const dark = useDark();

  useEffect(() => {
    const xterm = new Xterm({ cursorBlink: true, fontSize: 13, fontFamily: 'ui-monospace, Menlo, Consolas, monospace', scrollback: 10_000, screenReaderMode: true });
    const fit = new FitAddon();
    xterm.loadAddon(fit);
    xterm.loadAddon(new WebLinksAddon());
    xterm.open(box.current as HTMLElement);
    fit.fit();
    screen.current = { xterm, fit };
    const abort = new AbortController();
    let pid = 0;
    let send: ((bytes: Uint8Array) => void) | undefined;
    setEnded(null);
    const typed = [
      xterm.onData((text) => send?.(new TextEncoder().encode(text))),
      xterm.onBinary((text) => send?.(Uint8Array.from(text, (letter) => letter.charCodeAt(0)))),
      xterm.onResize(({ cols, rows }) => void (pid && pty.resize(id, pid, { cols, rows }).catch(() => undefined))),
    ];
    const leave = () => {
      if (pid) void pty.kill(id, pid);
    };
    window.addEventListener('pagehide', leave);
    const size = { cols: xterm.cols, rows: xterm.rows };
    start(id, { cmd: '/bin/sh', args: ['-c', 'command -v bash >/dev/null && exec bash -i -l; exec sh -i -l'], envs: { TERM: 'xterm-256color', LANG: 'C.UTF-8' }, size }, abort.signal, (event) => {
      if (event.start) {
        pid = event.start.pid;
        send = sender(id, pid, (error) => setEnded(errorText(error)));
        xterm.focus();
      }
      if (event.data?.pty) xterm.write(fromBase64(event.data.pty));
      if (event.end) {
        pid = 0;
        send = undefined;
        setEnded(`The shell has ended${event.end.exitCode ? ` (exit code ${event.end.exitCode})` : ''}.`);
      }
    })
      .then(() => pid && setEnded('The connection to the shell has ended.'))
      .catch((error) => !abort.signal.aborted && setEnded(errorText(error)));
    const observer = new ResizeObserver(() => box.current?.offsetParent && fit.fit());
    observer.observe(box.current as HTMLElement);
    return () => {
      window.removeEventListener('pagehide', leave);
      leave();
      abort.abort();
      observer.disconnect();
      typed.forEach((one) => one.dispose());
      xterm.dispose();
      screen.current = null;
    };
  }, [id, round]);

  useEffect(() => {
    if (screen.current) screen.current.xterm.options.theme = dark ? themes.dark : themes.light;
  }, [dark, round]);

  useEffect(() => {
    if (shown) screen.current?.xterm.focus();
  }, [shown]);

  return (
    <Card title="Terminal" actions={<Button onClick={() => setRound((before) => before + 1)}>New shell</Button>}>
      {ended && (
        <p role="alert" className="flex flex-wrap items-center justify-between gap-2 border-b border-line bg-warn-soft px-4 py-2 text-sm text-warn">
          {ended}
        </p>
      )}
      <div ref={box} className="h-[min(65dvh,40rem)]" style={{ background: (dark ? themes.dark : themes.light).background }} aria-label="Terminal" role="group" />
      <p className="border-t border-line px-4 py-2 text-xs text-muted">The shell runs on behind other tabs of this sandbox and ends when you leave it. Tab is the shell's; to leave the terminal by keyboard, use Ctrl Alt K.</p>
    </Card>
  );
}
