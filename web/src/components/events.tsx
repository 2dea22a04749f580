// Events, the newest first, page by page.
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { type ReactNode, useState } from 'react';
import { eventFacts, eventType, eventTypes } from '../lib/events';
import { ago, when } from '../lib/format';
import { EVENTS_PAGE, events } from '../lib/queries';
import type { SandboxEvent } from '../lib/types';
import { Badge, Button, Card, Empty, Loading, Problem, Select } from './ui';

const any = 'any';

export function Events({ sandbox, empty }: { sandbox?: string; empty: ReactNode }) {
  const [type, setType] = useState(any);
  const [offset, setOffset] = useState(0);
  const found = useQuery(events(sandbox, type === any ? '' : type, offset));
  const choices = eventTypes.filter((one) => !sandbox || one.type.startsWith('sandbox.'));
  const pick = (chosen: string) => { setType(chosen); setOffset(0); };
  const none = found.data?.length === 0;
  return (
    <Card title="Events" actions={<div className="w-52"><Select label="Type of event" value={type} onChange={pick} options={[{ value: any, label: 'All events' }, ...choices.map((one) => ({ value: one.type, label: one.label }))]} /></div>}>
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {none && offset === 0 && type === any && empty}
      {none && (offset > 0 || type !== any) && <Empty title="No such events"><Button onClick={() => pick(any)}>Show all</Button></Empty>}
      <ol className="divide-y divide-line">
        {found.data?.map((event) => <Event key={event.id} event={event} whole={!sandbox} />)}
      </ol>
      {(offset > 0 || found.data?.length === EVENTS_PAGE) && (
        <nav aria-label="Pages of events" className="flex items-center justify-between gap-2 border-t border-line px-4 py-2">
          <Button disabled={offset === 0} onClick={() => setOffset(Math.max(0, offset - EVENTS_PAGE))}>Newer</Button>
          <Button disabled={(found.data?.length ?? 0) < EVENTS_PAGE} onClick={() => setOffset(offset + EVENTS_PAGE)}>Older</Button>
        </nav>
      )}
    </Card>
  );
}

function Event({ event, whole }: { event: SandboxEvent; whole: boolean }) {
  const { label, tone } = eventType(event.type);
  const facts = eventFacts(event);
  return (
    <li className="grid grid-cols-[minmax(0,1fr)_auto] items-start gap-x-4 gap-y-1 px-4 py-2.5 md:grid-cols-[10rem_minmax(0,1fr)_9rem]">
      <span><span title={event.type}><Badge tone={tone}>{label}</Badge></span></span>
      <span className="col-span-2 min-w-0 text-sm max-md:order-3 md:col-span-1">
        {whole && event.sandboxId && <Link to="/dashboard/sandboxes/$id" params={{ id: event.sandboxId }} search={{ tab: 'events' }} className="mr-3 text-accent hover:underline"><code className="text-[13px]">{event.sandboxId}</code></Link>}
        {whole && !event.sandboxId && event.sandboxTemplateId && <Link to="/dashboard/templates/$id" params={{ id: event.sandboxTemplateId }} className="mr-3 text-accent hover:underline"><code className="text-[13px]">{event.sandboxTemplateId}</code></Link>}
        {facts.map(([name, value]) => (
          <span key={name} className="mr-3 inline-block max-w-full break-words"><span className="text-muted">{name}</span> {value}</span>
        ))}
      </span>
      <time dateTime={event.timestamp} title={when(event.timestamp)} className="text-right text-xs text-muted">{ago(event.timestamp)}</time>
    </li>
  );
}
