// A line of values over time, with the value under the pointer.
import { useId, useState } from 'react';

export interface Point {
  time: number; // Unix seconds
  value: number;
}

const WIDTH = 600;
const HEIGHT = 130;

export function Chart({ title, points, top, format }: { title: string; points: Point[]; top?: number; format: (value: number) => string }) {
  const gradient = useId();
  const [at, setAt] = useState<number | null>(null);
  const last = points.at(-1);
  const shown = at === null ? last : points[at];
  const highest = Math.max(top ?? 0, ...points.map((point) => point.value), 1e-9);
  const from = points[0]?.time ?? 0;
  const range = Math.max((last?.time ?? 1) - from, 1);
  const told = (time: number) => { const at = new Date(time * 1000); return range > 86_400 ? at.toLocaleString() : at.toLocaleTimeString(); };
  const x = (point: Point) => ((point.time - from) / range) * WIDTH;
  const y = (point: Point) => HEIGHT - (point.value / highest) * (HEIGHT - 6);
  const path = points.map((point, index) => `${index ? 'L' : 'M'}${x(point).toFixed(1)},${y(point).toFixed(1)}`).join('');
  const move = (event: React.PointerEvent<SVGSVGElement>) => {
    const box = event.currentTarget.getBoundingClientRect();
    const time = from + ((event.clientX - box.left) / box.width) * range;
    let nearest = 0;
    points.forEach((point, index) => {
      if (Math.abs(point.time - time) < Math.abs((points[nearest] as Point).time - time)) nearest = index;
    });
    setAt(points.length ? nearest : null);
  };
  return (
    <figure className="min-w-0 p-4">
      <figcaption className="mb-2 flex items-baseline justify-between gap-2">
        <span className="text-sm font-medium">{title}</span>
        <span className="text-sm text-muted tabular-nums">
          {shown ? `${format(shown.value)}${top ? ` of ${format(top)}` : ''} · ${told(shown.time)}` : 'no samples yet'}
        </span>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" className="h-32 w-full text-accent" role="img" aria-label={`${title}: ${last ? `now ${format(last.value)}` : 'no samples yet'}`} onPointerMove={move} onPointerLeave={() => setAt(null)}>
        <defs>
          <linearGradient id={gradient} x1="0" y1="0" x2="0" y2="1">
            <stop offset="0" stopColor="currentColor" stopOpacity="0.3" />
            <stop offset="1" stopColor="currentColor" stopOpacity="0.02" />
          </linearGradient>
        </defs>
        {[0.25, 0.5, 0.75, 1].map((part) => (
          <line key={part} x1="0" x2={WIDTH} y1={HEIGHT * part} y2={HEIGHT * part} stroke="var(--line)" vectorEffect="non-scaling-stroke" />
        ))}
        {points.length > 1 && (
          <>
            <path d={`${path}L${WIDTH},${HEIGHT}L0,${HEIGHT}Z`} fill={`url(#${gradient})`} />
            <path d={path} fill="none" stroke="currentColor" strokeWidth="1.75" vectorEffect="non-scaling-stroke" />
          </>
        )}
        {at !== null && shown && <line x1={x(shown)} x2={x(shown)} y1="0" y2={HEIGHT} stroke="var(--muted)" strokeDasharray="3 3" vectorEffect="non-scaling-stroke" />}
      </svg>
    </figure>
  );
}
