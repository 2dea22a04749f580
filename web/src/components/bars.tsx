// Amounts of parts of a time, as bars, with the amount under the pointer.
import { useState } from 'react';

export interface Bar {
  name: string;
  value: number | undefined; // not known yet
}

const WIDTH = 600;
const HEIGHT = 130;
const GAP = 3;

export function Bars({ title, bars, format }: { title: string; bars: Bar[]; format: (value: number) => string }) {
  const [at, setAt] = useState<number | null>(null);
  const highest = Math.max(...bars.map(({ value }) => value ?? 0), 1e-9);
  const sum = bars.reduce((all, { value }) => all + (value ?? 0), 0);
  const shown = at === null ? undefined : bars[at];
  const step = WIDTH / Math.max(bars.length, 1);
  return (
    <figure className="min-w-0 p-4">
      <figcaption className="mb-2 flex items-baseline justify-between gap-2">
        <span className="text-sm font-medium">{title}</span>
        <span className="text-sm text-muted tabular-nums">{shown ? `${shown.name}: ${shown.value === undefined ? '…' : format(shown.value)}` : `${format(sum)} in all`}</span>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" className="h-32 w-full text-accent" role="img" aria-label={`${title}: ${format(sum)} in all, ${format(highest < 1e-6 ? 0 : highest)} at most in one part`} onPointerLeave={() => setAt(null)}>
        {[0.25, 0.5, 0.75, 1].map((part) => (
          <line key={part} x1="0" x2={WIDTH} y1={HEIGHT * part} y2={HEIGHT * part} stroke="var(--line)" vectorEffect="non-scaling-stroke" />
        ))}
        {bars.map(({ name, value = 0 }, index) => {
          const height = (value / highest) * (HEIGHT - 6);
          return (
            <g key={name} onPointerEnter={() => setAt(index)}>
              <rect x={index * step} y="0" width={step} height={HEIGHT} fill="transparent" />
              <rect x={index * step + GAP} y={HEIGHT - height} width={Math.max(step - 2 * GAP, 1)} height={height} fill="currentColor" opacity={at === null || at === index ? 0.85 : 0.4} />
            </g>
          );
        })}
      </svg>
      <ul className="sr-only">{bars.filter(({ value }) => value).map(({ name, value = 0 }) => <li key={name}>{name}: {format(value)}</li>)}</ul>
      <div aria-hidden className="mt-1 flex justify-between text-xs text-muted"><span>{bars[0]?.name}</span><span>{bars.at(-1)?.name}</span></div>
    </figure>
  );
}
