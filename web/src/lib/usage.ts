// Spans of time that usage is asked for, in the parts that its chart shows. Days and months
// are those of UTC, as the API counts them.
import { request } from './api';

// Seconds since 1970, the end not included.
export interface Span {
  start: number;
  end: number;
}

export const ranges = ['day', 'week', 'month', 'before'] as const;
export type Range = (typeof ranges)[number];

export const rangeNames: Record<Range, string> = { day: 'Last 24 hours', week: 'Last 7 days', month: 'This month (UTC)', before: 'Last month (UTC)' };

const HOUR = 3600;
const DAY = 24 * HOUR;

// The whole of a range. Its end may be ahead: the API counts up to now. So a question stays
// the same for as long as its last part runs.
export function spanOf(range: Range, now: number): Span {
  const date = new Date(now);
  const monthAt = (offset: number) => Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + offset) / 1000;
  if (range === 'month') return { start: monthAt(0), end: monthAt(1) };
  if (range === 'before') return { start: monthAt(-1), end: monthAt(0) };
  const [step, most] = range === 'day' ? [HOUR, 24] : [DAY, 7];
  const end = (Math.floor(now / 1000 / step) + 1) * step;
  return { start: end - most * step, end };
}

// The hours of a day, the days of what is longer; none that has not begun.
export function parts(range: Range, { start, end }: Span, now: number): Span[] {
  const step = range === 'day' ? HOUR : DAY;
  const found: Span[] = [];
  for (let at = start; at < Math.min(end, now / 1000); at += step) found.push({ start: at, end: at + step });
  return found;
}

// Sandboxes tell of their use within this time.
const SETTLED = 120;
export const isOver = ({ end }: Span, now: number) => end + SETTLED <= now / 1000;

export const partName = (range: Range, { start }: Span) =>
  new Date(start * 1000).toLocaleString('en-GB', { timeZone: 'UTC', ...(range === 'day' ? { hour: '2-digit', minute: '2-digit' } : { day: 'numeric', month: 'short' }) });

// Seconds of processors or memory as hours.
export const hours = (seconds: number) => {
  const value = seconds / HOUR;
  return `${value >= 100 ? Math.round(value).toLocaleString('en') : value >= 0.1 || value === 0 ? value.toFixed(1) : value.toPrecision(1)} h`;
};

const CSV_PAGES = 1000;

// What each sandbox used as one file of comma-separated values. The API gives it page by page,
// each with the line of names.
export async function usageCsv({ start, end }: Span): Promise<string> {
  let text = '';
  let next: string | null = null;
  for (let page = 0; page < CSV_PAGES; page += 1) {
    const query = new URLSearchParams({ start: String(start), end: String(end), format: 'csv', limit: '1000', ...(next ? { nextToken: next } : {}) });
    const response = await request('GET', `/usage/sandboxes?${query}`);
    const more = await response.text();
    text += page === 0 ? more : more.slice(more.indexOf('\n') + 1);
    next = response.headers.get('X-Next-Token');
    if (!next) return text;
  }
  throw new Error('There are too many sandboxes for one file: choose a shorter time, or use hearth usage --csv on the server');
}
