// Lines of a log as they come. It follows its end until somebody scrolls up.
import { clsx } from 'clsx';
import { ArrowDown } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import type { Level } from '../lib/types';
import { Button } from './ui';

export interface Line {
  timestamp: string;
  level: Level;
  message: string;
  from?: string | null;
}

// eslint-disable-next-line no-control-regex
const ESCAPES = /\u001b\[[0-9;?]*[ -/]*[@-~]/g;

export function Logs({ lines, label, empty }: { lines: Line[]; label: string; empty: string }) {
  const box = useRef<HTMLDivElement>(null);
  const [follows, setFollows] = useState(true);
  useEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, follows]);
  const onScroll = () => {
    const at = box.current;
    if (at) setFollows(at.scrollHeight - at.scrollTop - at.clientHeight < 30);
  };
  return (
    <div className="relative">
      <div ref={box} onScroll={onScroll} tabIndex={0} role="log" aria-label={label} className="mono h-[min(60dvh,36rem)] overflow-auto p-3 text-[12.5px] leading-relaxed">
        {lines.length === 0 && <p className="font-sans text-muted">{empty}</p>}
        {lines.map((line, at) => (
          <div key={`${line.timestamp}-${at}`} className="flex gap-3">
            <time dateTime={line.timestamp} title={line.timestamp} className="shrink-0 text-muted">{new Date(line.timestamp).toLocaleTimeString()}</time>
            {line.from && <span className="hidden max-w-40 shrink-0 truncate text-muted sm:inline" title={line.from}>{line.from}</span>}
            <span className={clsx('min-w-0 break-words whitespace-pre-wrap', line.level === 'error' && 'text-bad', line.level === 'warn' && 'text-warn', line.level === 'debug' && 'text-muted')}>
              {line.message.replace(ESCAPES, '').replace(/\n$/, '')}
            </span>
          </div>
        ))}
      </div>
      {!follows && (
        <Button className="absolute right-4 bottom-4 shadow" onClick={() => setFollows(true)}>
          <ArrowDown className="size-4" aria-hidden /> Follow
        </Button>
      )}
    </div>
  );
}
