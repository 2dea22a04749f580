const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export const mib = (count: number) => bytes(count * 1024 * 1024);

// A span of time in its two largest units.
export function span(seconds: number): string {
  const total = Math.max(0, Math.round(seconds));
  const parts: [number, string][] = [
    [Math.floor(total / 86400), 'd'],
    [Math.floor((total % 86400) / 3600), 'h'],
    [Math.floor((total % 3600) / 60), 'min'],
    [total % 60, 's'],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return '0 s';
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}

export const ago = (time: string, now = Date.now()) => {
  const seconds = (now - Date.parse(time)) / 1000;
  return seconds < 5 ? 'just now' : `${span(seconds).split(' ').slice(0, 2).join(' ')} ago`;
};

export const left = (time: string, now = Date.now()) => {
  const seconds = (Date.parse(time) - now) / 1000;
  return seconds <= 0 ? 'now' : `in ${span(seconds)}`;
};

export const when = (time: string) => new Date(time).toLocaleString();

// Lines of `name=value`, as forms take them. The error names the line.
export function pairs(text: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const line of text.split('\n').map((line) => line.trim())) {
    if (!line) continue;
    const at = line.indexOf('=');
    if (at < 1) throw new Error(`“${line}” is not of the form name=value`);
    found[line.slice(0, at).trim()] = line.slice(at + 1).trim();
  }
  return found;
}

export const lines = (text: string) => text.split(/[\n,]/).map((line) => line.trim()).filter(Boolean);

export const count = (number: number, one: string, many: string) => `${number.toLocaleString('en')} ${number === 1 ? one : many}`;
