// Types of events, in words (docs/events.md), and what their data says.
import type { SandboxEvent } from './types';

export const eventTypes: { type: string; label: string; tone: 'ok' | 'warn' | 'bad' | 'accent' | 'plain' }[] = [
  { type: 'sandbox.lifecycle.created', label: 'Sandbox created', tone: 'ok' },
  { type: 'sandbox.lifecycle.updated', label: 'Sandbox updated', tone: 'plain' },
  { type: 'sandbox.lifecycle.paused', label: 'Sandbox paused', tone: 'warn' },
  { type: 'sandbox.lifecycle.resumed', label: 'Sandbox resumed', tone: 'ok' },
  { type: 'sandbox.lifecycle.checkpointed', label: 'Snapshot taken', tone: 'accent' },
  { type: 'sandbox.lifecycle.forked', label: 'Sandbox forked', tone: 'accent' },
  { type: 'sandbox.lifecycle.rolled_back', label: 'Sandbox rolled back', tone: 'accent' },
  { type: 'sandbox.lifecycle.killed', label: 'Sandbox killed', tone: 'bad' },
  { type: 'template.build.ready', label: 'Template built', tone: 'ok' },
  { type: 'template.build.failed', label: 'Template build failed', tone: 'bad' },
  { type: 'webhook.disabled', label: 'Webhook disabled', tone: 'bad' },
];

export const eventType = (type: string) => eventTypes.find((one) => one.type === type) ?? { type, label: type, tone: 'plain' as const };

const text = (value: unknown): string => {
  if (Array.isArray(value)) return value.map(text).join(', ');
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value);
};

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

// The data as short facts: what an object holds stands by its own names, and what is empty is
// left out. Metadata is the sandbox's and not news.
export function eventFacts(event: Pick<SandboxEvent, 'eventData'>): [string, string][] {
  return Object.entries(event.eventData ?? {})
    .filter(([name]) => name !== 'sandbox_metadata')
    .flatMap(([name, value]): [string, unknown][] => (isObject(value) ? Object.entries(value) : [[name, value]]))
    .filter(([name, value]) => name !== 'started_at' && value !== null && !(Array.isArray(value) && value.length === 0))
    .map(([name, value]) => {
      if (name === 'execution_time') return ['ran for', `${(Number(value) / 1000).toFixed(1)} s`];
      if (name === 'set_timeout') return ['ends', new Date(String(value)).toLocaleString()];
      if (name === 'memory_mb') return ['memory', `${text(value)} MiB`];
      if (name === 'vcpu_count') return ['vCPU', text(value)];
      return [name.replaceAll('_', ' '), text(value)];
    });
}
