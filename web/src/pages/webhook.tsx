// One webhook: what it is sent, and what became of that.
import { useQuery } from '@tanstack/react-query';
import { Link, getRouteApi, useNavigate } from '@tanstack/react-router';
import { Pause, Pencil, Play, RotateCcw, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { Badge, Button, Card, Confirm, CopyText, Empty, Facts, Loading, PageHead, Problem, Select } from '../components/ui';
import { ApiError, api, enc } from '../lib/api';
import { eventType } from '../lib/events';
import { ago, count, when } from '../lib/format';
import { deliveries, useChange, webhook, webhookStats, webhooks } from '../lib/queries';
import type { Delivery, DeliveryAttempt, DeliveryStatus, Webhook as Told } from '../lib/types';
import { EditWebhook, webhookState } from './webhooks';

const route = getRouteApi('/dashboard/webhooks/$id');

export default function Webhook() {
  const { id } = route.useParams();
  const navigate = useNavigate();
  const found = useQuery(webhook(id));
  const [editing, edit] = useState(false);
  const [doomed, doom] = useState(false);
  const touched = [['webhook', id], ['deliveries', id], webhooks.queryKey];
  const turn = useChange((enabled: boolean) => api.patch(`/events/webhooks/${enc(id)}`, { enabled }), (_, enabled) => (enabled ? 'Events are sent from now on' : 'Nothing more is sent'), touched);
  const remove = useChange(() => api.delete(`/events/webhooks/${enc(id)}`), 'The webhook is deleted', [webhooks.queryKey], () => navigate({ to: '/dashboard/webhooks' }));
  if (found.isPending) return <Loading />;
  const missing = found.error instanceof ApiError && found.error.status === 404;
  if (missing && !remove.isSuccess) {
    return (
      <Empty page title="This webhook is gone">
        <p className="text-sm text-muted">It was deleted, or it belongs to another team.</p>
        <Link to="/dashboard/webhooks"><Button look="primary">To the webhooks</Button></Link>
      </Empty>
    );
  }
  if (!found.data) return <Problem error={found.error} retry={() => found.refetch()} />;
  const one = found.data;
  return (
    <>
      <p className="mb-1 text-sm"><Link to="/dashboard/webhooks" className="text-muted hover:text-text">Webhooks</Link></p>
      <PageHead title={<>{one.name} <Badge tone={webhookState(one).tone}>{webhookState(one).text}</Badge></>}>
        <Button busy={turn.isPending} look={one.enabled ? 'plain' : 'primary'} onClick={() => turn.mutate(!one.enabled)}>{one.enabled ? <Pause className="size-4" aria-hidden /> : <Play className="size-4" aria-hidden />}{one.enabled ? 'Disable' : 'Enable'}</Button>
        <Button onClick={() => edit(true)}><Pencil className="size-4" aria-hidden /> Change</Button>
        <Button look="danger" onClick={() => doom(true)}><Trash2 className="size-4" aria-hidden /> Delete</Button>
      </PageHead>
      <div className="space-y-4">
        {one.disabledReason && (
          <div role="alert" className="rounded-md bg-bad-soft px-4 py-3 text-sm break-words text-bad">
            Disabled: {one.disabledReason}. Mend the receiver, enable the webhook, and deliver again below what was missed.
          </div>
        )}
        <Card><Facts facts={[['URL', <CopyText text={one.url} whole />], ['ID', <CopyText text={one.id} />], ['Created', when(one.createdAt)]]} /><Types one={one} /></Card>
        <Stats id={id} />
        <Deliveries key={id} one={one} />
      </div>
      {editing && <EditWebhook of={one} close={() => edit(false)} />}
      <Confirm open={doomed} onOpenChange={doom} title={`Delete ${one.name}?`} text="What is known of its deliveries goes with it, and what waits is not sent. This cannot be undone." action="Delete" busy={remove.isPending} onConfirm={() => remove.mutate(undefined)} />
    </>
  );
}

const Types = ({ one }: { one: Told }) => (
  <div className="flex flex-wrap gap-1 border-t border-line px-4 py-3">
    {one.events.map((type) => <span key={type} title={type}><Badge>{eventType(type).label}</Badge></span>)}
  </div>
);

function Stats({ id }: { id: string }) {
  const found = useQuery(webhookStats(id));
  const told = found.data;
  return (
    <Card title="The last 24 hours">
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {told && <Facts facts={[['Attempts', String(told.total)], ['Failed', <span className={told.failed ? 'text-bad' : undefined}>{told.failed}</span>], ['Answers took', told.total ? `${Math.round(told.durationMs.average)} ms on average, ${told.durationMs.maximum} ms at most` : '–']]} />}
    </Card>
  );
}

const any = 'any';
const tone = (status: DeliveryStatus) => (({ success: 'ok', failed: 'bad', pending: 'warn' }) as const)[status];
const inWords = { success: 'delivered', failed: 'failed', pending: 'waiting' };

function Deliveries({ one }: { one: Told }) {
  const [status, setStatus] = useState(any);
  // The cursors of the pages so far: the last one is shown.
  const [pages, setPages] = useState<(string | undefined)[]>([undefined]);
  const found = useQuery(deliveries(one.id, status === any ? '' : status, pages.at(-1)));
  const pick = (chosen: string) => { setStatus(chosen); setPages([undefined]); };
  const next = found.data?.nextCursor ?? undefined;
  return (
    <Card title="Deliveries" actions={<div className="w-40"><Select label="Last attempt" value={status} onChange={pick} options={[{ value: any, label: 'All' }, { value: 'success', label: 'Delivered' }, { value: 'failed', label: 'Failed' }]} /></div>}>
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {found.data?.data.length === 0 && (status === any
        ? <Empty title="Nothing has been sent yet"><p className="text-sm text-muted">{one.enabled ? 'The next event of a chosen type is sent, and shows here with every attempt.' : 'The webhook is disabled: enable it to have events sent.'}</p></Empty>
        : <Empty title="No such deliveries"><Button onClick={() => pick(any)}>Show all</Button></Empty>)}
      <ol className="divide-y divide-line">
        {found.data?.data.map((each) => <Row key={each.eventId} one={one} delivery={each} />)}
      </ol>
      {(pages.length > 1 || next) && (
        <nav aria-label="Pages of deliveries" className="flex items-center justify-between gap-2 border-t border-line px-4 py-2">
          <Button disabled={pages.length === 1} onClick={() => setPages(pages.slice(0, -1))}>Newer</Button>
          <Button disabled={!next} onClick={() => setPages([...pages, next])}>Older</Button>
        </nav>
      )}
    </Card>
  );
}

function Row({ one, delivery }: { one: Told; delivery: Delivery }) {
  const again = useChange(() => api.post(`/events/webhooks/${enc(one.id)}/deliveries/${enc(delivery.eventId)}/redeliver`), 'It is sent again', [['deliveries', one.id], ['webhook-stats', one.id]]);
  const last = delivery.attempts.at(-1);
  return (
    <li className="flex flex-wrap items-start gap-x-3 gap-y-1 px-4 py-2.5">
      <details className="group min-w-0 flex-1 basis-72">
        <summary className="flex cursor-pointer flex-wrap items-center gap-x-3 gap-y-1 rounded">
          <Badge tone={tone(delivery.status)}>{inWords[delivery.status]}</Badge>
          <span className="text-sm font-medium">{eventType(delivery.eventType).label}</span>
          {delivery.sandboxId && <code className="min-w-0 truncate text-xs text-muted">{delivery.sandboxId}</code>}
          <span className="text-xs text-muted">{count(delivery.attempts.length, 'attempt', 'attempts')}{last && <span title={when(last.timestamp)}>, {ago(last.timestamp)}</span>}</span>
        </summary>
        <ol className="mt-2 space-y-3 border-l-2 border-line pl-3">
          {delivery.attempts.map((attempt) => <Attempt key={attempt.id} attempt={attempt} />)}
          {delivery.attempts.length === 0 && <li className="text-sm text-muted">It waits for its first attempt.</li>}
        </ol>
      </details>
      <Button disabled={!one.enabled} title={one.enabled ? undefined : 'Enable the webhook first'} busy={again.isPending} onClick={() => again.mutate(undefined)}><RotateCcw className="size-4" aria-hidden /> Deliver again<span className="sr-only"> the event {delivery.eventId}</span></Button>
    </li>
  );
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function Attempt({ attempt }: { attempt: DeliveryAttempt }) {
  const answer = attempt.responseHttpStatusCode;
  return (
    <li className="min-w-0 text-sm">
      <p className="flex flex-wrap gap-x-3">
        <span className={attempt.status === 'failed' ? 'text-bad' : undefined}>{answer ? `Answer ${answer}` : (attempt.errorClass ?? attempt.status)}</span>
        <span className="text-muted">{when(attempt.timestamp)}, {attempt.durationMs} ms</span>
      </p>
      {attempt.errorMessage && <p className="break-words text-bad">{attempt.errorMessage}</p>}
      <Body label="Sent" text={pretty(attempt.requestBody)} />
      {attempt.responseBody && <Body label="Answered" text={pretty(attempt.responseBody)} />}
    </li>
  );
}

const Body = ({ label, text }: { label: string; text: string }) => (
  <>
    <p className="mt-1 text-xs text-muted">{label}</p>
    <pre tabIndex={0} aria-label={label} className="max-h-60 overflow-auto rounded bg-raised p-2 text-xs whitespace-pre-wrap break-all">{text}</pre>
  </>
);
